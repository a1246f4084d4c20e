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

use super::{Shard, budget::cost, service::Service};
use crate::{
    conn::{CloseCause, Ending, Key, Stage, unread::End},
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

/// Records are decrypted in portions of so many bytes, to see whether the share is over.
const RECORDS_AT_ONCE_BYTES: usize = 64 << 10;

impl<R: Ring, S: Service> Shard<R, S> {
    /// Takes records, and hands on what was in them. Returns how many bytes at the end were not
    /// looked at, for want of time.
    pub(super) fn received_records(&mut self, key: Key, mut records: &mut [u8]) -> usize {
        while !records.is_empty() {
            let len = records.len().min(RECORDS_AT_ONCE_BYTES);
            let (now, later) = std::mem::take(&mut records).split_at_mut(len);
            records = later;
            if !self.received_some_records(key, now) {
                return 0;
            }
            self.look_at_budget();
            let is_put_off = self
                .slab
                .get_mut(key)
                .is_some_and(|it| it.link.rare.has_plain() || it.link.goes_on());
            if is_put_off || self.budget.is_share_over() {
                return records.len();
            }
        }
        0
    }

    /// Returns whether there may be more.
    fn received_some_records(&mut self, key: Key, records: &mut [u8]) -> bool {
        let Some(connection) = self.slab.get_mut(key) else {
            return false;
        };
        let link = &mut connection.link;
        let (Some(tls), Stage::Opening(_) | Stage::Challenged(_) | Stage::Open | Stage::Closing) =
            (link.rare.tls_mut(), &link.stage)
        else {
            self.received_in_vain(key);
            return false;
        };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let was_open = tls.session().is_open();
        let received = tls.receive(records, &mut plain, &mut self.shared.arena);
        if !was_open {
            self.budget.charge(cost::TLS_HANDSHAKE_NS);
            if tls.session().is_open() {
                self.shared.counts.tls_handshakes += 1;
                self.shared.counts.tls_resumptions += u64::from(tls.session().is_resumed());
            }
        }
        let is_peer_closed = tls.session().is_peer_closed();
        let left = match plain.len() {
            0 => 0,
            _ => self.received_plain(key, &mut plain),
        };
        let end = match received {
            Ok(()) if is_peer_closed => Some(End::TlsClosed),
            Ok(()) => None,
            Err(error) => Some(End::Tls(error)),
        };
        let is_put_off = left > 0 || self.goes_on(key);
        if is_put_off {
            self.put_plain_off(key, &plain[plain.len() - left..]);
        }
        self.plain = plain;
        match end {
            None => true,
            Some(end) => {
                self.end_behind_unread_plain(key, end, is_put_off);
                false
            }
        }
    }

    /// Keeps plaintext for the connection's next share.
    fn put_plain_off(&mut self, key: Key, plain: &[u8]) {
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.rare.unread_mut().push_plain(plain);
            self.grow_greedy(key);
            self.queue_up(key);
        }
    }

    /// TLS has ended, behind the plaintext that was put off, if some was.
    fn end_behind_unread_plain(&mut self, key: Key, end: End, is_put_off: bool) {
        if !is_put_off {
            return self.input_ended(key, end);
        }
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.rare.unread_mut().end(end);
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
            let source = match &connection.link.stage {
                Stage::Opening(opening) => opening.source(),
                _ => None,
            };
            let peer = source.unwrap_or_else(|| self.ring.peer_address(socket));
            tracing::info!(shard = self.id, %peer, "a connection was refused: {why}");
        }
    }
}
