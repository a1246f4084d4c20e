//! Where the time goes between a receive and a send, of one message at a time.
//!
//! Knows: at which stage the message is that is followed. Refuses to know: all others.
//!
//! ```text
//!   turn begins ----> service is called ----> it has returned ----> the kernel has taken it
//!            handed over            queued                    taken
//! ```
//!
//! To look at the clock for each message would cost more than some messages do. One connection's
//! share is followed, and the next one when that has come to its end, in one turn of sixteen at
//! most: a sample that says the same.

use super::{Shard, service::Service};
use crate::{
    conn::Key,
    ring::{Operation, Ring, Time, Urgency},
};

/// Of so many turns, one has a message that is followed.
const TURNS: u64 = 16;

/// What is followed.
#[derive(Debug, Default)]
pub struct Trace {
    /// The next message of this turn is.
    is_due: bool,
    /// The answer to one, from when it was queued.
    followed: Option<(Key, Time)>,
}

impl Trace {
    /// Whether this connection's answer is followed.
    #[inline]
    fn follows(&self, key: Key) -> bool {
        self.followed.is_some_and(|(followed, _)| followed == key)
    }
}

impl<R: Ring, S: Service> Shard<R, S> {
    /// A turn begins.
    #[inline]
    pub(super) fn begin_trace(&mut self) {
        let shared = &self.shared;
        self.trace.is_due = shared.config.trace_stages
            && shared.counts.turns.is_multiple_of(TURNS)
            && self.trace.followed.is_none();
    }

    /// Messages are about to be handed over. Returns when, if they are followed.
    #[inline]
    pub(super) fn trace_handed_over(&mut self) -> Option<Time> {
        std::mem::take(&mut self.trace.is_due).then(|| self.ring.now())
    }

    /// They were, and the service has returned.
    #[cold]
    pub(super) fn trace_queued(&mut self, key: Key, handed_over: Time) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        if connection.link.sending || connection.link.queued_bytes() == 0 {
            // There is no answer, or it waits for another one.
            return;
        }
        let now = self.ring.now();
        let spread = &self.shared.stats.spread;
        spread.stage_handed_over.add(handed_over.ns_since(self.now));
        spread.stage_queued.add(now.ns_since(handed_over));
        self.trace.followed = Some((key, now));
    }

    /// What a connection had queued is on its way to the kernel.
    #[inline]
    pub(super) fn trace_sent(&mut self, key: Key) {
        if self.trace.follows(key)
            && let Some(connection) = self.slab.get_mut(key)
            && connection.link.sending
            && connection.link.send_urgency == Urgency::Unawaited
        {
            // Its end is told late otherwise.
            self.ring.hasten(key.token(Operation::Send));
        }
    }

    /// The kernel has taken what a connection sent, or refused it.
    #[inline]
    pub(super) fn trace_taken(&mut self, key: Key) {
        if let Some((followed, queued_at)) = self.trace.followed
            && followed == key
        {
            self.trace.followed = None;
            let took_ns = self.now.ns_since(queued_at);
            self.shared.stats.spread.stage_taken.add(took_ns);
        }
    }

    /// A connection is gone, and its answer with it.
    #[inline]
    pub(super) fn trace_lost(&mut self, key: Key) {
        if self.trace.follows(key) {
            self.trace.followed = None;
        }
    }
}
