//! Answering the opening handshake, and checking the answer to ours.
//!
//! Knows: heads that come whole or in pieces, and what a service says to them. Refuses to know: how
//! a head is parsed or written.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Shard, service::Service};
use crate::{
    conn::{CloseCause, Ending, Key, Remote, Stage},
    proto::{
        Endpoint, Sink, Version,
        deflate::Agreed,
        handshake::{
            Answer, ClientHandshakeError, Content, HandshakeError, HttpReply, Proof, Refusal,
            ReplyHeaders, Request, check_upgrade, encode_http_reply, encode_refusal,
            encode_switching_protocols,
        },
        hixie,
    },
    ring::Ring,
};

/// What is written in answer to a request.
enum Reply<T> {
    Accepted {
        proof: Proof,
        answer: Answer,
        agreed: Option<Agreed>,
        state: T,
    },
    Http(HttpReply),
    Refused(Refusal),
}

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
        let found = match opening.scanner.push(bytes, head_bytes_max) {
            Ok(Some(len)) => len,
            Ok(None) => {
                let rest = opening.rest.get_or_insert_default();
                rest.head.extend_from_slice(bytes);
                return None;
            }
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
        let mut gathered = opening.take_head();
        let head = if gathered.is_empty() {
            &bytes[..found]
        } else {
            gathered.extend_from_slice(&bytes[..found]);
            &gathered
        };
        let opened = if is_client {
            self.check_answer(key, head)
        } else {
            self.answer_head(key, head)
        };
        if !opened {
            // What follows the head may belong to the handshake all the same.
            let used = self.receive_challenge(key, &bytes[found..])?;
            return Some(found + used);
        }
        Some(found)
    }

    /// Takes bytes that follow the head of a hixie-76 handshake. Returns how many of them belong to
    /// it once the connection is open.
    pub(super) fn receive_challenge(&mut self, key: Key, bytes: &[u8]) -> Option<usize> {
        let connection = self.slab.get_mut(key)?;
        let link = &mut connection.link;
        let Stage::Challenged(challenge) = &mut link.stage else {
            return None;
        };
        let (used, answer) = challenge.push(bytes)?;
        link.outbox(&mut self.shared.arena).write(&answer);
        link.endpoint = Endpoint::hixie76();
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
        let content = Content::for_method(request.method());
        let Some(connection) = self.slab.get_mut(key) else {
            return false;
        };
        let Some(socket) = &connection.socket else {
            return false;
        };
        let tls = connection.link.rare.tls().map(|tls| tls.session());
        let peer = Remote::new(self.ring.peer_address(socket), tls);
        let is_secure = peer.is_secure();
        let legacy_hixie76 = self.shared.config.legacy_hixie76;
        let Self {
            service, shared, ..
        } = self;
        let called = catch_unwind(AssertUnwindSafe(|| {
            if !request.is_upgrade() {
                return match service.on_http(&request, peer) {
                    Ok(reply) => Reply::Http(reply),
                    Err(refusal) => Reply::Refused(refusal),
                };
            }
            let checked = if legacy_hixie76 && hixie::is_opening(&request) {
                hixie::check_opening(&request)
            } else {
                check_upgrade(&request)
            };
            let upgrade = match checked {
                Ok(upgrade) => upgrade,
                Err(error) => return Reply::Refused(error.into()),
            };
            let mut answer = Answer::new();
            match service.on_handshake(&upgrade, peer, &mut answer) {
                Ok(state) => {
                    // Hixie-76 has no extensions.
                    let compresses = shared.config.compress
                        && upgrade.version() == Version::Rfc6455
                        && !answer.refuses_compression();
                    let agreed = compresses.then(|| shared.codec.agree(upgrade.extensions()));
                    Reply::Accepted {
                        proof: upgrade.proof(),
                        answer,
                        agreed: agreed.flatten(),
                        state,
                    }
                }
                Err(refusal) => Reply::Refused(refusal),
            }
        }));
        match called {
            Ok(Reply::Accepted {
                proof: Proof::AcceptKey(accept_key),
                mut answer,
                agreed,
                state,
            }) => {
                if let Some(agreed) = agreed {
                    answer.agree_on(agreed);
                    self.compress(key, &agreed);
                }
                self.accept_handshake(key, &accept_key, &answer, state)
            }
            Ok(Reply::Accepted {
                proof: Proof::Challenge(challenge),
                answer,
                state,
                ..
            }) => {
                self.reply(key, |scratch, headers| {
                    hixie::encode_head(scratch, &request, is_secure, &answer, headers);
                });
                if let Some(connection) = self.slab.get_mut(key) {
                    connection.state = Some(state);
                    connection.link.stage = Stage::Challenged(Box::new(challenge));
                }
                false
            }
            Ok(Reply::Http(reply)) => {
                self.shared.counts.http_requests += 1;
                self.reply(key, |scratch, headers| {
                    encode_http_reply(scratch, &reply, headers, content);
                });
                self.finish(key, Ending::Linger);
                false
            }
            Ok(Reply::Refused(refusal)) => {
                self.refuse(key, refusal, content);
                false
            }
            Err(_) => {
                self.shared.counts.service_panics += 1;
                self.refuse(key, HandshakeError::ServicePanicked.into(), content);
                false
            }
        }
    }

    fn accept_handshake(
        &mut self,
        key: Key,
        accept_key: &[u8; 28],
        answer: &Answer,
        state: S::State,
    ) -> bool {
        self.reply(key, |scratch, headers| {
            encode_switching_protocols(scratch, accept_key, answer, headers);
        });
        if let Some(connection) = self.slab.get_mut(key) {
            connection.state = Some(state);
        }
        self.open(key);
        true
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
            connection.link.stage = Stage::Open;
        }
        self.set_idle_deadline(key);
        self.with_conn(key, |service, conn| service.on_open(conn));
    }

    /// Refuses an opening handshake or a request; the connection ends after the reply.
    pub(super) fn refuse(&mut self, key: Key, refusal: Refusal, content: Content) {
        self.shared.counts.handshakes_refused += 1;
        self.reply(key, |scratch, headers| {
            encode_refusal(scratch, &refusal, headers, content)
        });
        self.finish(key, Ending::Linger);
    }

    fn reply(&mut self, key: Key, encode: impl FnOnce(&mut Vec<u8>, &ReplyHeaders<'_>)) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let config = &self.shared.config;
        let headers = ReplyHeaders {
            date: config.date_header.then(|| self.date.at(self.now)),
            server: config.server_header.as_deref(),
        };
        self.shared.scratch.clear();
        encode(&mut self.shared.scratch, &headers);
        connection
            .link
            .outbox(&mut self.shared.arena)
            .write(&self.shared.scratch);
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
