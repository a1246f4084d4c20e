//! Messages that another thread has sent to a connection of this shard.
//!
//! Knows: that whoever sent them has gone on, so that a failure has only the service to be told to.
//! Refuses to know: how they came here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Shard, service::Service};
use crate::{
    conn::{ConnId, Key},
    proto::{SendError, message::Outgoing},
    ring::Ring,
};

impl<R: Ring, S: Service> Shard<R, S> {
    /// Sends a message that was posted, or tells the service why not.
    pub(super) fn send_posted(&mut self, key: Key, message: Outgoing<'static>) {
        // A connection that is gone, or was never open, is as closed as any.
        let mut sent = Err(SendError::Closed);
        self.with_conn(key, |_, conn| sent = conn.send(message));
        if let Err(error) = sent {
            self.tell_of_dropped(self.id_of(key), error);
        }
    }

    /// Tells the service that a message for this connection was dropped.
    pub(super) fn tell_of_dropped(&mut self, id: ConnId, error: SendError) {
        self.shared.counts.handle_sends_dropped += 1;
        let service = &mut self.service;
        let told = catch_unwind(AssertUnwindSafe(|| service.on_send_failed(id, error)));
        if told.is_err() {
            self.shared.counts.service_panics += 1;
            tracing::error!(shard = self.id, connection = %id, "on_send_failed panicked");
        }
    }
}
