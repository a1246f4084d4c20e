//! Accepting connections, and not accepting them for a while.
//!
//! Knows: the shard's listeners and when to leave connections in their backlog. Refuses to know:
//! how a listener was bound.

use super::{Shard, acceptor_index, acceptor_key, service::Service};
use crate::{
    conn::{Connection, Link, Opening, Rare, Secure, Stage},
    proto::Role,
    ring::{Completion, Errno, Operation, Outcome, Ring, Time, errno::AcceptError},
    tls::ServerTls,
};

/// After running out of descriptors, accepting is tried again when a connection of ours has closed,
/// or after this long: others may have given some back.
const RETRY_AFTER_MS: u64 = 250;

/// One listener of the shard.
#[derive(Debug)]
pub(super) struct Acceptor<K> {
    /// None once it was closed.
    socket: Option<K>,
    /// What its connections begin with, unless they are plain.
    tls: Option<ServerTls>,
    accepting: bool,
    cancelling: bool,
    closing: bool,
}

impl<K> Acceptor<K> {
    pub(super) fn is_idle(&self) -> bool {
        self.socket.is_none() && !self.accepting && !self.cancelling && !self.closing
    }
}

impl<R: Ring, S: Service> Shard<R, S> {
    /// Accepts on a listening socket from now on.
    pub fn listen(&mut self, socket: R::Socket) {
        self.accept_on(socket, None);
    }

    /// As [`listen`](Self::listen), with TLS on every connection.
    pub fn listen_tls(&mut self, socket: R::Socket, tls: ServerTls) {
        self.accept_on(socket, Some(tls));
    }

    fn accept_on(&mut self, socket: R::Socket, tls: Option<ServerTls>) {
        let index = self.acceptors.len();
        self.ring
            .submit_accept(&socket, acceptor_key(index).token(Operation::Accept));
        self.acceptors.push(Acceptor {
            socket: Some(socket),
            tls,
            accepting: true,
            cancelling: false,
            closing: false,
        });
    }

    pub(super) fn accept_completed(&mut self, completion: Completion<R::Socket>) {
        let index = acceptor_index(completion.token);
        if !completion.more {
            self.acceptors[index].accepting = false;
        }
        match completion.outcome {
            Outcome::Accepted(socket) => self.accepted(index, socket),
            Outcome::Failed(errno) => self.accept_failed(errno),
            _ => {}
        }
        self.settle_acceptor(index);
    }

    fn accepted(&mut self, index: usize, socket: R::Socket) {
        self.accept_exhausted = false;
        if self.drain_until.is_some() {
            // It was on its way when we stopped accepting; dropping it tells the peer.
            return;
        }
        if self.is_full() {
            // The kernel goes on until it hears of our pause. These wait as they would have in the
            // backlog: nothing is received from them. But they have descriptors.
            let timeout_ms = self.shared.config.handshake_timeout_ms;
            let until = self.now.plus_ms(timeout_ms);
            self.waiting.push_back((index, socket, until));
            self.pause_accepting();
            return;
        }
        self.admit(index, socket);
        if self.is_full() {
            tracing::warn!(
                shard = self.id,
                connections = self.slab.len(),
                "shard_connections_max is reached: accepting pauses until connections close"
            );
            self.pause_accepting();
        }
    }

    fn is_full(&self) -> bool {
        self.slab.len() >= self.shared.config.shard_connections_max as usize
    }

    /// Makes an accepted socket a connection.
    fn admit(&mut self, index: usize, socket: R::Socket) {
        let mut link = Link::new(Role::Server, Stage::Opening(Opening::of_server()));
        if let Some(tls) = &self.acceptors[index].tls {
            match tls.session() {
                Ok(session) => link.rare = Rare::with_tls(Secure::new(session)),
                Err(error) => {
                    tracing::error!(shard = self.id, %error, "a connection was dropped");
                    return;
                }
            }
        }
        self.shared.counts.connections += 1;
        link.heard_ms = self.now_ms() as u32;
        let connection = Connection {
            link,
            socket: Some(socket),
            state: None,
        };
        let Ok(key) = self.slab.insert(connection) else {
            return;
        };
        let timeout_ms = self.shared.config.handshake_timeout_ms;
        self.wheel.set(key.slot, self.now.plus_ms(timeout_ms));
        self.touch(key);
    }

    fn accept_failed(&mut self, errno: Errno) {
        match errno.of_accept() {
            AcceptError::Cancelled | AcceptError::Retry => {}
            AcceptError::Exhausted | AcceptError::Unexpected => {
                // Said once, until a connection is accepted again.
                if !self.accept_exhausted {
                    self.accept_exhausted = true;
                    self.shared.counts.accept_pauses += 1;
                    tracing::warn!(
                        shard = self.id,
                        connections = self.slab.len(),
                        %errno,
                        "accepting pauses until connections close; raise the limit on open files \
                         (ulimit -n, LimitNOFILE=) if this happens often"
                    );
                }
                self.accept_paused = true;
                self.accept_retry_at = Some(self.now.plus_ms(RETRY_AFTER_MS));
            }
        }
    }

    fn pause_accepting(&mut self) {
        if !self.accept_paused {
            self.accept_paused = true;
            self.shared.counts.accept_pauses += 1;
        }
        for index in 0..self.acceptors.len() {
            self.settle_acceptor(index);
        }
    }

    /// Called when a connection has closed, and when it is time to try again.
    pub(super) fn resume_accepting(&mut self) {
        while !self.is_full() {
            let Some((index, socket, _)) = self.waiting.pop_front() else {
                break;
            };
            self.admit(index, socket);
        }
        if !self.accept_paused || self.is_full() {
            return;
        }
        self.accept_paused = false;
        self.accept_retry_at = None;
        for index in 0..self.acceptors.len() {
            self.settle_acceptor(index);
        }
    }

    /// Until when the one may wait that was accepted first and has no place yet.
    pub(super) fn accepted_until(&self) -> Option<Time> {
        self.waiting.front().map(|&(.., until)| until)
    }

    /// Lets go of those that have waited for a place for as long as they may.
    pub(super) fn drop_late_accepted(&mut self) {
        while self.accepted_until().is_some_and(|until| until <= self.now) {
            // Dropping it tells the peer.
            self.waiting.pop_front();
            self.shared.counts.timeouts += 1;
        }
    }

    pub(super) fn accept_cancelled(&mut self, index: usize) {
        self.acceptors[index].cancelling = false;
        self.settle_acceptor(index);
    }

    pub(super) fn acceptor_closed(&mut self, index: usize) {
        self.acceptors[index].closing = false;
    }

    /// Closes every listener, once nothing is in flight on it.
    pub(super) fn close_acceptors(&mut self) {
        self.waiting.clear();
        for index in 0..self.acceptors.len() {
            self.settle_acceptor(index);
        }
    }

    /// Brings a listener to where it should be: accepting, paused or closed.
    fn settle_acceptor(&mut self, index: usize) {
        let key = acceptor_key(index);
        let acceptor = &mut self.acceptors[index];
        let Some(socket) = &acceptor.socket else {
            return;
        };
        let stop = self.drain_until.is_some();
        let wanted = !self.accept_paused && !stop;
        if wanted && !acceptor.accepting {
            acceptor.accepting = true;
            self.ring
                .submit_accept(socket, key.token(Operation::Accept));
        } else if !wanted && acceptor.accepting && !acceptor.cancelling {
            acceptor.cancelling = true;
            self.ring
                .submit_cancel(key.token(Operation::Accept), key.token(Operation::Cancel));
        } else if stop
            && !acceptor.accepting
            && !acceptor.cancelling
            && let Some(socket) = acceptor.socket.take()
        {
            acceptor.closing = true;
            self.ring.submit_close(socket, key.token(Operation::Close));
        }
    }
}
