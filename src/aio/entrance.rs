//! From an accepted socket to a connection: what a proxy says of it, the door, a place.
//!
//! Knows: in which order these are asked for, and that each may take its time. Refuses to know: who
//! is trusted, what the limits are, and what a connection does.
//!
//! The invariant: a ticket is with the newcomer, then with its connection, and given back when
//! either is gone.
//!
//! ```text
//!   accepted --> a trusted proxy's? --> whom does it speak for? --> the door --> a place
//! ```

use std::{net::SocketAddr, os::fd::OwnedFd, rc::Rc, time::Duration};

use tokio::{sync::oneshot, task::spawn_local, time::timeout};

use super::{
    connection::Connection,
    handler::Handler,
    local::Local,
    newcomers::Told,
    opening::server_link,
    socket::{Received, Socket},
    threads::{Listening, run},
};
use crate::{
    HandshakeError,
    conn::{
        Link, Opening, Stage,
        door::Ticket,
        opening::Lack,
        proxied::{Header, NoHeader},
    },
    proto::Role,
    ring::{Errno, PeerAddress, socket::peer_address, standing},
};

/// A proxy's header is looked at in pieces of so much: most have a hundred bytes.
const HEADER_AT_ONCE_BYTES: usize = 512;

/// An accepted socket that is no connection yet.
pub struct Newcomer<H> {
    local: Rc<Local>,
    fd: OwnedFd,
    listening: Rc<Listening>,
    handler: Rc<H>,
    ticket: Option<Ticket>,
    /// Where it is, if a trusted proxy has said so.
    source: Option<SocketAddr>,
}

/// Lets a newcomer in, or has it wait. Returns whether it waits.
pub fn come_in<H: Handler>(newcomer: Newcomer<H>) -> bool {
    if !newcomer.local.has_door() {
        return newcomer.take_place();
    }
    let peer = peer_address(&newcomer.fd);
    if newcomer.local.is_proxied(peer) {
        spawn_local(hear_proxy(newcomer));
        return true;
    }
    look_at_door(newcomer, peer)
}

/// Hears from a proxy whom it speaks for. Nothing limits how many wait here but descriptors and the
/// time for a handshake: whoever comes here is trusted.
async fn hear_proxy<H: Handler>(mut newcomer: Newcomer<H>) {
    let timeout_ms = newcomer.local.handshake_timeout_ms();
    let Newcomer { fd, local, .. } = newcomer;
    let peer = peer_address(&fd);
    let Ok(socket) = Socket::new(fd) else { return };
    let heard = timeout(Duration::from_millis(timeout_ms), header(&socket)).await;
    newcomer = Newcomer {
        fd: socket.into_fd(),
        local,
        ..newcomer
    };
    match heard {
        Ok(Ok(Heard::For(source))) => {
            newcomer.source = source;
            // Of one that only looks whether we are there no address is counted.
            look_at_door(
                newcomer,
                source.map_or(PeerAddress::Unknown, PeerAddress::Inet),
            );
        }
        // Closing the socket tells the peer.
        Ok(Ok(Heard::Gone)) => {}
        Ok(Err(error)) => {
            if newcomer.local.may_say() {
                tracing::info!(%peer, "a connection was refused: {error}");
            }
            newcomer.refuse(HandshakeError::ProxyHeaderMissing);
        }
        // Closing the socket tells the peer.
        Err(_) => newcomer.local.count_timeout(),
    }
}

/// What came of waiting for a proxy's header.
enum Heard {
    /// It speaks for whoever is there; `None`: it only looks whether we are.
    For(Option<SocketAddr>),
    /// It has gone without a word.
    Gone,
}

/// Reads a proxy's header, and nothing of what comes behind it.
async fn header(socket: &Socket) -> Result<Heard, NoHeader> {
    let mut header = Header::default();
    let mut room = vec![0; HEADER_AT_ONCE_BYTES];
    loop {
        let Ok(mut readable) = socket.readable().await else {
            return Ok(Heard::Gone);
        };
        let count = match socket.peek(&mut readable, &mut room) {
            None => continue,
            Some(Received::Bytes(count)) => count,
            Some(Received::EndOfStream | Received::Failed(_)) => return Ok(Heard::Gone),
        };
        let said = header.push(&room[..count])?;
        let used = said.map_or(count, |said| said.used);
        // Peeked a moment ago, so this does not fail.
        let _ = socket.recv(&mut readable, &mut room[..used]);
        if let Some(said) = said {
            return Ok(Heard::For(said.source));
        }
    }
}

/// Gives a newcomer what it needs at the door, and then a place. Returns whether it waits.
fn look_at_door<H: Handler>(mut newcomer: Newcomer<H>, peer: PeerAddress) -> bool {
    match newcomer.local.ticket_from(peer) {
        Ok(ticket) => newcomer.ticket = ticket,
        Err(turned) => {
            newcomer.tell(turned.lack());
            return false;
        }
    }
    newcomer.take_place()
}

/// Waits, unread, until there is a place or it is to be told that there is none.
async fn wait_for_place<H: Handler>(newcomer: Newcomer<H>, told: oneshot::Receiver<Told>) {
    match told.await {
        Ok(Told::Promised) => {
            let local = newcomer.local.clone();
            local.redeem();
            if local.is_stopping() {
                return local.dismiss(newcomer.ticket);
            }
            if !newcomer.admit(Connection::new) {
                Local::promise_place(&mut local.state.borrow_mut());
            }
        }
        Ok(Told::NoPlace) => newcomer.tell(Lack::Places),
        // The thread ends; closing the socket tells the peer.
        Err(_) => newcomer.local.dismiss(newcomer.ticket),
    }
}

impl<H: Handler> Newcomer<H> {
    /// Somebody of whom nothing is known.
    pub fn new(local: &Rc<Local>, fd: OwnedFd, listening: &Rc<Listening>, handler: &Rc<H>) -> Self {
        Self {
            local: local.clone(),
            fd,
            listening: listening.clone(),
            handler: handler.clone(),
            ticket: None,
            source: None,
        }
    }

    /// Comes in, or waits for a place. Returns whether it waits.
    fn take_place(self) -> bool {
        if self.local.is_stopping() {
            // Closing the socket tells the peer.
            self.local.dismiss(self.ticket);
            return false;
        }
        match self.local.has_to_wait(&self.fd) {
            None => {
                self.admit(Connection::new);
                false
            }
            Some(told) => {
                spawn_local(wait_for_place(self, told));
                true
            }
        }
    }

    /// Is told why it cannot come in, in words that need no TLS.
    fn refuse(self, error: HandshakeError) {
        let Self {
            local, fd, handler, ..
        } = self;
        let link = Link::new(Role::Server, Stage::Opening(Opening::of_server()));
        let made = Socket::new(fd).and_then(|socket| Connection::new(&local, socket, link));
        if let Ok(connection) = made {
            {
                let link = &mut *connection.link.borrow_mut();
                let state = &mut *local.state.borrow_mut();
                connection.refuse(link, state, error.into());
            }
            spawn_local(run(connection, handler));
        }
    }

    /// It is only there to be told what it lacks.
    fn tell(self, lack: Lack) {
        let speaks = standing::unread_bytes(&self.fd) > 0;
        if !self.local.state.borrow().places.can_be_told(speaks) {
            // Closing the socket tells the peer.
            return self.local.dismiss(self.ticket);
        }
        self.admit(|local, socket, link| Connection::beyond(local, socket, link, speaks, lack));
    }

    /// Becomes a connection, with a place or without. Returns whether it does.
    fn admit(
        self,
        enter: impl FnOnce(&Rc<Local>, Socket, Link) -> Result<Rc<Connection>, Errno>,
    ) -> bool {
        let Self {
            local,
            fd,
            listening,
            handler,
            ticket,
            source,
        } = self;
        let made = server_link(listening.tls.as_ref()).and_then(|mut link| {
            if let Some(source) = source {
                link.stage = Stage::Opening(Opening::on_behalf_of(source));
            }
            let socket = Socket::new(fd)?;
            Ok(enter(&local, socket, link)?)
        });
        match made {
            Ok(connection) => {
                connection.ticket.replace(ticket);
                spawn_local(run(connection, handler));
                true
            }
            Err(error) => {
                local.dismiss(ticket);
                tracing::error!(%error, "a connection was dropped");
                false
            }
        }
    }
}
