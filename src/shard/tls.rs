//! TLS on the way in and on the way out.
//!
//! Knows: when records are decrypted and when plaintext is encrypted: with each receive, and with
//! each flush. Refuses to know: how.
//!
//! ```text
//!   lease ---> records ---> plaintext of all of them ---> heads, frames, services
//!                                                              |
//!   send <---- records <---- as much as one send takes <---- queue
//! ```

use std::fmt;

use super::{Shard, service::Service};
use crate::{
    conn::{CloseCause, Ending, Key, Stage},
    proto::{
        Role,
        handshake::{Content, HandshakeError},
    },
    ring::{Operation, Ring},
    tls::TlsError,
};

/// One sentence in this time is said of peers that no service hears of: they may be many, and the
/// counts have them all.
const SILENCE_MS: u64 = 1000;

impl<R: Ring, S: Service> Shard<R, S> {
    /// Takes records, and hands on what was in them.
    pub(super) fn received_records(&mut self, key: Key, records: &mut [u8]) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        let (Some(tls), Stage::Opening(_) | Stage::Challenged(_) | Stage::Open | Stage::Closing) =
            (link.rare.tls_mut(), &link.stage)
        else {
            return;
        };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let was_open = tls.session().is_open();
        let received = tls.receive(records, &mut plain, &mut self.shared.arena);
        if !was_open && tls.session().is_open() {
            self.shared.counts.tls_handshakes += 1;
            self.shared.counts.tls_resumptions += u64::from(tls.session().is_resumed());
        }
        let is_peer_closed = tls.session().is_peer_closed();
        if !plain.is_empty() {
            self.received_plain(key, &mut plain);
        }
        self.plain = plain;
        match received {
            Ok(()) if is_peer_closed => self.peer_ended(key),
            Ok(()) => {}
            Err(error) => self.tls_failed(key, error),
        }
    }

    /// Sends what waits, encrypted, unless a send is in flight.
    pub(super) fn flush_records(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        let arena = &mut self.shared.arena;
        if matches!(link.stage, Stage::Stopping | Stage::Closed) {
            link.release_queues(arena);
            return;
        }
        let (Some(tls), Some(socket)) = (link.rare.tls_mut(), &connection.socket) else {
            return;
        };
        let is_last = matches!(link.stage, Stage::Finishing(_));
        match tls.seal(&mut link.outgoing, is_last, &mut self.plain, arena) {
            Ok(None) => {}
            Ok(Some(queue)) => {
                let token = key.token(Operation::Send);
                let config = &self.shared.config;
                link.send(queue, config, self.now, token, socket, &mut self.ring);
            }
            Err(error) => self.tls_failed(key, error),
        }
    }

    /// TLS failed: the peer gets the alert that was written, and an end.
    pub(super) fn tls_failed(&mut self, key: Key, error: TlsError) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        let is_server = link.endpoint.role() == Role::Server;
        self.shared.counts.tls_failures += 1;
        if is_server && error.is_plain_http() {
            // In words that it understands.
            link.rare.drop_tls();
            self.say_refused(key, &HandshakeError::PlainOnTlsPort);
            self.refuse(key, HandshakeError::PlainOnTlsPort.into(), Content::Sent);
            return;
        }
        if connection.state.is_none() {
            self.say_refused(key, &error);
        }
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.ends(CloseCause::Tls(error));
        }
        self.finish(key, Ending::Linger);
    }

    /// Says why a peer was turned away that no service hears of.
    pub(super) fn say_refused(&mut self, key: Key, why: &dyn fmt::Display) {
        if self.now < self.silent_until {
            return;
        }
        self.silent_until = self.now.plus_ms(SILENCE_MS);
        if let Some(connection) = self.slab.get_mut(key)
            && let Some(socket) = &connection.socket
        {
            let peer = self.ring.peer_address(socket);
            tracing::info!(shard = self.id, %peer, "a connection was refused: {why}");
        }
    }
}
