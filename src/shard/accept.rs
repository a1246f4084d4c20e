//! Accepting connections, and what becomes of those for whom there is no place.
//!
//! Knows: the shard's listeners, when to leave connections in their backlog, and who has a place.
//! Refuses to know: how a listener was bound.

use std::net::SocketAddr;

use super::{Shard, acceptor_index, acceptor_key, service::Service};
use crate::{
    conn::{
        CloseCause, Connection, Key, Link, Opening, Rare, Secure, Shared, Stage,
        door::{Ticket, Turned},
        mistake::Mistake,
        opening::Lack,
        places::DESCRIPTORS_RAN_OUT,
    },
    proto::Role,
    ring::{Completion, Errno, Operation, Outcome, PeerAddress, Ring, errno::AcceptError},
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

/// An accepted socket that is no connection yet.
#[derive(Debug)]
pub(super) struct Newcomer<K> {
    /// The number of its listener.
    listener: usize,
    socket: K,
    ticket: Option<Ticket>,
    /// It is a proxy's, which is to say whom it speaks for.
    is_proxied: bool,
}

impl<K> Newcomer<K> {
    /// Whether it is counted at the door.
    #[cfg(feature = "sim")]
    pub(super) const fn has_ticket(&self) -> bool {
        self.ticket.is_some()
    }
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
        let mut newcomer = Newcomer {
            listener: index,
            socket,
            ticket: None,
            is_proxied: false,
        };
        match self.look_at_door(&mut newcomer) {
            Ok(()) => {}
            Err(turned) => {
                self.shared.counts.door_refusals += 1;
                return self.admit_to_tell(newcomer, turned.lack());
            }
        }
        let is_full =
            self.places.are_taken(self.slab.len()) && !self.shared.errs(Mistake::LetsEverybodyIn);
        if !is_full && !self.ring.is_among_last(&newcomer.socket) {
            self.admit(newcomer);
            return;
        }
        self.shared.counts.places_waited += 1;
        if let Some(text) = self.places.to_be_said(is_full, self.now) {
            tracing::warn!(shard = self.id, connections = self.slab.len(), "{text}");
        }
        if let Some(first) = self.places.wait(newcomer, self.now) {
            self.admit_to_tell(first, Lack::Places);
        }
    }

    /// Gives a newcomer what it needs at the door, if anybody stands there. Whom a proxy speaks for
    /// is not known yet.
    fn look_at_door(&self, newcomer: &mut Newcomer<R::Socket>) -> Result<(), Turned> {
        let Shared { door, proxies, .. } = &self.shared;
        if !door.is_guarded() && proxies.is_empty() {
            return Ok(());
        }
        let address = self.ring.peer_address(&newcomer.socket);
        newcomer.is_proxied = proxies.has(address);
        let is_known = !newcomer.is_proxied && !proxies.forwards(address);
        if door.is_guarded() && is_known {
            newcomer.ticket = Some(door.enter(address.ip(), self.now)?);
        }
        Ok(())
    }

    /// A proxy has said whom a connection is for, who needs a ticket like others; for nobody, if
    /// the proxy only looks whether we are there.
    pub(super) fn know_source(&mut self, key: Key, source: Option<SocketAddr>) {
        let Shared { door, proxies, .. } = &self.shared;
        let speaks_for_others = source.is_some_and(|it| proxies.forwards(PeerAddress::Inet(it)));
        if !door.is_guarded() || speaks_for_others {
            return;
        }
        match door.enter(source.map(|source| source.ip()), self.now) {
            Ok(ticket) => {
                if let Some(connection) = self.slab.get_mut(key) {
                    connection.ticket = Some(ticket);
                }
            }
            Err(turned) => {
                self.shared.counts.door_refusals += 1;
                if self.places.lack_of(key).is_some() {
                    return;
                }
                if let Some(oldest) = self.places.goes_beyond(key, true, turned.lack()) {
                    self.let_go(oldest);
                }
                self.fill_place();
            }
        }
    }

    /// A newcomer goes without having been a connection. Dropping its socket tells the peer.
    fn dismiss(&self, newcomer: Newcomer<R::Socket>) {
        if let Some(ticket) = newcomer.ticket {
            self.shared.door.leave(ticket);
        }
    }

    /// Nobody is to wait any more.
    fn dismiss_waiting(&mut self) {
        while let Some(newcomer) = self.places.first() {
            self.dismiss(newcomer);
        }
    }

    /// A connection has left its place, for the newcomer who has waited for the longest.
    pub(super) fn fill_place(&mut self) {
        while !self.places.are_taken(self.slab.len())
            && let Some(newcomer) = self.places.first()
        {
            if self.admit(newcomer).is_some() {
                break;
            }
        }
    }

    /// Tells those that have waited for a place for as long as they may that there is none.
    pub(super) fn tell_late(&mut self) {
        while let Some(newcomer) = self.places.late(self.now) {
            self.admit_to_tell(newcomer, Lack::Places);
        }
    }

    /// Makes a newcomer a connection whose opening handshake will be answered with what it lacks.
    fn admit_to_tell(&mut self, newcomer: Newcomer<R::Socket>, lack: Lack) {
        let speaks = self.ring.unread_bytes(&newcomer.socket) > 0;
        if !self.places.can_be_told(speaks) {
            return self.dismiss(newcomer);
        }
        if let Some(key) = self.admit(newcomer)
            && let Some(oldest) = self.places.goes_beyond(key, speaks, lack)
        {
            self.let_go(oldest);
        }
    }

    /// Ends a connection that had no place.
    fn let_go(&mut self, key: Key) {
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.ends(CloseCause::Overloaded);
        }
        self.stop_connection(key);
    }

    /// Makes an accepted socket a connection.
    fn admit(&mut self, newcomer: Newcomer<R::Socket>) -> Option<Key> {
        let opening = match newcomer.is_proxied {
            true => Opening::of_proxied(),
            false => Opening::of_server(),
        };
        let mut link = Link::new(Role::Server, Stage::Opening(opening));
        if let Some(tls) = &self.acceptors[newcomer.listener].tls {
            match tls.session() {
                Ok(session) => link.rare = Rare::with_tls(Secure::new(session)),
                Err(error) => {
                    tracing::error!(shard = self.id, %error, "a connection was dropped");
                    self.dismiss(newcomer);
                    return None;
                }
            }
        }
        let Newcomer { socket, ticket, .. } = newcomer;
        self.shared.counts.connections += 1;
        link.born_ms = self.now.as_ms() as u32;
        link.heard_ms = link.born_ms;
        let connection = Connection {
            link,
            socket: Some(socket),
            ticket,
            state: None,
        };
        let key = match self.slab.insert(connection) {
            Ok(key) => key,
            Err(refused) => {
                if let Some(ticket) = refused.ticket {
                    self.shared.door.leave(ticket);
                }
                return None;
            }
        };
        let timeout_ms = self.shared.config.handshake_timeout_ms;
        self.wheel.set(key.slot, self.now.plus_ms(timeout_ms));
        self.touch(key);
        Some(key)
    }

    fn accept_failed(&mut self, errno: Errno) {
        match errno.of_accept() {
            AcceptError::Cancelled | AcceptError::Retry => {}
            AcceptError::Exhausted | AcceptError::Unexpected => {
                // Counted once, until a connection is accepted again.
                if !self.accept_exhausted {
                    self.accept_exhausted = true;
                    self.shared.counts.accept_pauses += 1;
                }
                if self.places.may_say(self.now) {
                    tracing::warn!(
                        shard = self.id,
                        connections = self.slab.len(),
                        %errno,
                        "{DESCRIPTORS_RAN_OUT}"
                    );
                }
                self.accept_paused = true;
                self.accept_retry_at = Some(self.now.plus_ms(RETRY_AFTER_MS));
                // Who was told, or had the time for it, has a descriptor for the next one. Who
                // waits is told now.
                if let Some(oldest) = self.places.make_room() {
                    self.let_go(oldest);
                }
                if let Some(newcomer) = self.places.first() {
                    self.admit_to_tell(newcomer, Lack::Places);
                }
            }
        }
    }

    /// Called when a connection has closed, and when it is time to try again.
    pub(super) fn resume_accepting(&mut self) {
        if !self.accept_paused {
            return;
        }
        self.accept_paused = false;
        self.accept_retry_at = None;
        for index in 0..self.acceptors.len() {
            self.settle_acceptor(index);
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
        self.dismiss_waiting();
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
