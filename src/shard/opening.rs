//! Answering the opening handshake, and checking the answer to ours.
//!
//! Knows: heads that come whole or in pieces, and what a service says to them. Refuses to know: how
//! a head is parsed or written.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Shard, service::Service};
use crate::{
    conn::{
        CloseCause, Ending, Key, Remote, Stage,
        door::Visit,
        opening::{Judged, Opened, judge},
    },
    proto::{
        deflate::Agreed,
        handshake::{ClientHandshakeError, Content, HandshakeError, Refusal, Request},
    },
    ring::Ring,
};

impl<R: Ring, S: Service> Shard<R, S> {
    /// Takes bytes of a head. Returns how many of them belong to it once the connection is open;
    /// what follows are frames.
    pub(super) fn receive_head(&mut self, key: Key, bytes: &[u8]) -> Option<usize> {
        let connection = self.slab.get_mut(key)?;
        let Stage::Opening(opening) = &mut connection.link.stage else {
            return None;
        };
        let is_client = opening.client().is_some();
        let head_bytes_max = self.shared.config.head_bytes_max;
        let (head, rest_at) = match opening.push(bytes, head_bytes_max) {
            Ok(Some(found)) => found,
            Ok(None) => return None,
            Err(error) if is_client => {
                self.client_failed(key, error.into());
                return None;
            }
            Err(error) => {
                if error == HandshakeError::TlsOnPlainPort {
                    self.say_refused(key, &error);
                }
                self.refuse(key, error.into(), Content::Sent);
                return None;
            }
        };
        let opened = if is_client {
            self.check_answer(key, &head)
        } else {
            self.answer_head(key, &head)
        };
        if !opened {
            // What follows the head may belong to the handshake all the same.
            let used = self.receive_challenge(key, &bytes[rest_at..])?;
            return Some(rest_at + used);
        }
        Some(rest_at)
    }

    /// Takes bytes of a proxy's header, and what comes behind it. Returns how many of the last ones
    /// were not looked at.
    #[cold]
    pub(super) fn received_proxied(&mut self, key: Key, bytes: &mut [u8]) -> usize {
        let Some(connection) = self.slab.get_mut(key) else {
            return 0;
        };
        let link = &mut connection.link;
        let Stage::Opening(opening) = &mut link.stage else {
            return 0;
        };
        let said = match opening.push_proxied(bytes) {
            Ok(Some(said)) => said,
            Ok(None) => return 0,
            Err(error) => {
                // In words that whoever looks for the mistake can read.
                link.rare.drop_tls();
                self.say_refused(key, &error);
                self.refuse(
                    key,
                    HandshakeError::ProxyHeaderMissing.into(),
                    Content::Sent,
                );
                return 0;
            }
        };
        self.know_source(key, said.source);
        match &mut bytes[said.used..] {
            [] => 0,
            behind => self.received_wrapped(key, behind),
        }
    }

    /// Takes bytes that follow the head of a hixie-76 handshake. Returns how many of them belong to
    /// it once the connection is open.
    pub(super) fn receive_challenge(&mut self, key: Key, bytes: &[u8]) -> Option<usize> {
        let connection = self.slab.get_mut(key)?;
        let used = connection.link.receive_challenge(bytes, &mut self.shared)?;
        self.open(key);
        Some(used)
    }

    /// Answers a whole request head. Returns whether the connection is open now.
    fn answer_head(&mut self, key: Key, head: &[u8]) -> bool {
        let request = match Request::parse(head) {
            Ok(request) => request,
            Err(error) => {
                self.refuse(key, error.into(), Content::Sent);
                return false;
            }
        };
        let Some(connection) = self.slab.get_mut(key) else {
            return false;
        };
        let Some(socket) = &connection.socket else {
            return false;
        };
        let tls = connection.link.rare.tls().map(|tls| tls.session());
        let address = match &connection.link.stage {
            Stage::Opening(opening) => opening.source(),
            _ => None,
        };
        let address = address.unwrap_or_else(|| self.ring.peer_address(socket));
        let Self {
            service, shared, ..
        } = self;
        let admission = shared.admission(self.places.lack_of(key));
        let visit = Visit::new(&shared.door, shared.now);
        let peer = Remote::new(address, tls).at_door(&visit);
        let called = catch_unwind(AssertUnwindSafe(|| {
            judge(&request, peer, service, admission)
        }));
        let is_accepted = matches!(called, Ok(Judged::Accepted { .. }));
        if let Some(ticket) = visit.into_ticket(is_accepted)
            && let Some(before) = connection.ticket.replace(ticket)
        {
            shared.door.leave(before);
        }
        let Ok(judged) = called else {
            self.shared.counts.service_panics += 1;
            let refusal = HandshakeError::ServicePanicked.into();
            let link = &mut connection.link;
            link.refuse_request(&request, &refusal, &mut self.shared);
            self.finish(key, Ending::Linger);
            return false;
        };
        let reply = self.shared.reply_to(judged);
        let opened = connection.link.answer(&request, reply, &mut self.shared);
        match opened {
            Opened::Open(state) => {
                connection.state = Some(state);
                self.open(key);
                true
            }
            Opened::Challenged(state) => {
                connection.state = Some(state);
                false
            }
            Opened::Ends => {
                self.finish(key, Ending::Linger);
                false
            }
        }
    }

    /// Compresses what follows the opening handshake.
    fn compress(&mut self, key: Key, agreed: &Agreed) {
        if let Some(connection) = self.slab.get_mut(key) {
            let codec = &mut self.shared.codec;
            connection.link.endpoint.compress(codec, agreed);
        }
    }

    /// The opening handshake is done, on either side.
    fn open(&mut self, key: Key) {
        self.shared.counts.handshakes += 1;
        if let Some(connection) = self.slab.get_mut(key) {
            let role = connection.link.endpoint.role();
            self.shared.handshake_done(role, connection.link.born_ms);
            connection.link.stage = Stage::Open;
        }
        self.set_idle_deadline(key);
        self.with_conn(key, |service, conn| service.on_open(conn));
    }

    /// Refuses an opening handshake or a request; the connection ends after the reply.
    pub(super) fn refuse(&mut self, key: Key, refusal: Refusal, content: Content) {
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.refuse(&refusal, content, &mut self.shared);
        }
        self.finish(key, Ending::Linger);
    }

    /// Checks the server's answer to our opening handshake. Returns whether the connection is open
    /// now.
    fn check_answer(&mut self, key: Key, head: &[u8]) -> bool {
        let Some(connection) = self.slab.get_mut(key) else {
            return false;
        };
        let Stage::Opening(opening) = &connection.link.stage else {
            return false;
        };
        let Some(client) = opening.client() else {
            return false;
        };
        match client
            .request
            .check_response(head, &client.accept_key)
            .map(|accepted| accepted.deflate())
        {
            Ok(agreed) => {
                if let Some(agreed) = agreed {
                    self.compress(key, &agreed);
                }
                self.open(key);
                true
            }
            Err(error) => {
                self.client_failed(key, error);
                false
            }
        }
    }

    fn client_failed(&mut self, key: Key, error: ClientHandshakeError) {
        self.shared.counts.handshakes_refused += 1;
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.ends(CloseCause::HandshakeFailed(error));
        }
        self.stop_connection(key);
    }
}
