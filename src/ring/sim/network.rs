//! Simulated sockets: listeners with a backlog, and connected pairs of byte streams.
//!
//! Knows: what is under way from one end to the other, how much of it an end holds for its reader,
//! and the ways in which a stream ends. Refuses to know: rings, operations, tokens.
//!
//! ```text
//!   write --> | incoming of the peer, at most its window | --> read, then the error or the end
//! ```

use std::collections::VecDeque;

use super::{
    faults::Faults,
    knobs::{Knob, PURPOSE_LISTENER, Prng},
    marks::OUTSIDE,
};
use crate::ring::{Address, Errno, Outcome, PeerAddress, Shutdown, Token};

/// Sockets are numbered, and no number is used again.
pub(super) type SocketId = usize;

/// Where the ports of those who connect begin.
const FIRST_PORT: u16 = 40_000;

pub(super) const PIPE: Errno = Errno::new(libc::EPIPE);
pub(super) const REFUSED: Errno = Errno::new(libc::ECONNREFUSED);

/// What a socket is used for.
#[derive(Debug)]
pub(super) enum Role {
    Fresh,
    Listener {
        address: Address,
        backlog: VecDeque<SocketId>,
    },
    Stream,
}

/// Who holds a socket: what is left open by whom is a mistake or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// It waits in a backlog.
    Nobody,
    /// The code under test.
    Ring,
    /// A raw peer.
    Outside,
}

/// One socket: one end of a connection, or a listener.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) role: Role,
    pub(super) holder: Holder,
    pub(super) open: bool,
    /// The last ring that something was submitted to on this socket.
    pub(super) used_by: Option<usize>,
    pub(super) in_flight: Vec<Token>,
    pub(super) peer: Option<SocketId>,
    pub(super) peer_address: PeerAddress,
    /// Bytes that arrived and were not read, at most `window`.
    pub(super) incoming: VecDeque<u8>,
    pub(super) window: usize,
    /// A ring that goes by readiness has sent less than it wanted, and expects no room.
    pub(super) full: bool,
    /// Nothing follows what is in `incoming`.
    pub(super) ended: bool,
    pub(super) read_shut: bool,
    pub(super) write_shut: bool,
    pub(super) reset: bool,
    /// What the next operation fails with, once.
    pub(super) error: Option<Errno>,
    /// An end of the stream was handed out.
    pub(super) end_seen: bool,
    /// Bytes and other outcomes of receives that were handed out.
    pub(super) handed_out: u64,
}

impl Socket {
    fn new(holder: Holder, role: Role) -> Self {
        Self {
            role,
            holder,
            open: true,
            used_by: None,
            in_flight: Vec::new(),
            peer: None,
            peer_address: PeerAddress::Unknown,
            incoming: VecDeque::new(),
            window: 0,
            full: false,
            ended: false,
            read_shut: false,
            write_shut: false,
            reset: false,
            error: None,
            end_seen: false,
            handed_out: 0,
        }
    }

    /// A receive has come to this. One without a buffer has brought nothing, nor has the news that
    /// there is something.
    pub(super) fn hand_out(&mut self, outcome: &Outcome<SocketId>) {
        self.handed_out += match outcome {
            Outcome::Received(lease) => lease.len() as u64,
            Outcome::Failed(Errno::NO_BUFFERS | Errno::CANCELLED) | Outcome::Readable => 0,
            _ => 1,
        };
    }

    pub(super) fn has_something_to_receive(&self) -> bool {
        !self.incoming.is_empty()
            || self.error.is_some()
            || self.ended
            || self.read_shut
            || self.reset
            || !matches!(self.role, Role::Stream)
    }
}

/// What becomes of bytes that are written to a socket.
pub(super) enum WayOut {
    Broken,
    PeerGone,
    Room(usize),
}

/// The sockets of one simulation.
#[derive(Debug)]
pub(super) struct Network {
    sockets: Vec<Socket>,
    listener_prng: Prng,
    next_port: u16,
}

impl Network {
    pub(super) fn new(seed: u64) -> Self {
        let listener_prng = Prng::new(seed, PURPOSE_LISTENER);
        Self {
            sockets: Vec::new(),
            listener_prng,
            next_port: FIRST_PORT,
        }
    }

    pub(super) fn socket(&self, id: SocketId) -> &Socket {
        &self.sockets[id]
    }

    pub(super) fn socket_mut(&mut self, id: SocketId) -> &mut Socket {
        &mut self.sockets[id]
    }

    /// The sockets that the code under test has left open.
    pub(super) fn left_open(&self) -> impl Iterator<Item = String> {
        let all = self.sockets.iter().enumerate();
        let open = all.filter(|(_, socket)| socket.open && socket.holder == Holder::Ring);
        open.map(|(id, socket)| format!("socket {id} ({:?}) is open", socket.role))
    }

    fn add_socket(&mut self, holder: Holder, role: Role) -> SocketId {
        self.sockets.push(Socket::new(holder, role));
        self.sockets.len() - 1
    }

    pub(super) fn open(&mut self, faults: &mut Faults, holder: Holder) -> Result<SocketId, Errno> {
        if holder == Holder::Ring && faults.roll(Knob::OpenFails) {
            return Err(Errno::TOO_MANY_FILES);
        }
        Ok(self.add_socket(holder, Role::Fresh))
    }

    pub(super) fn listen(&mut self, holder: Holder, address: &Address) -> SocketId {
        let role = Role::Listener {
            address: address.clone(),
            backlog: VecDeque::new(),
        };
        self.add_socket(holder, role)
    }

    /// Takes a connection out of a raw peer's backlog.
    pub(super) fn accept_outside(&mut self, listener: SocketId) -> Option<SocketId> {
        let Role::Listener { backlog, .. } = &mut self.sockets[listener].role else {
            return None;
        };
        let id = backlog.pop_front()?;
        self.sockets[id].holder = Holder::Outside;
        Some(id)
    }

    fn window(faults: &mut Faults) -> usize {
        let most = faults.knobs.small_window_bytes_max as u64;
        if faults.roll(Knob::SmallWindow) {
            return faults.prng(Knob::SmallWindow).up_to(most) as usize;
        }
        faults.knobs.window_bytes
    }

    /// Two new sockets, connected: the code under test's and a raw peer's.
    pub(super) fn pair(&mut self, faults: &mut Faults) -> (SocketId, SocketId) {
        let ours = self.add_socket(Holder::Ring, Role::Fresh);
        let theirs = self.add_socket(Holder::Outside, Role::Fresh);
        self.join(faults, ours, theirs, &Address::Unix("socketpair".into()));
        (ours, theirs)
    }

    /// Connects two sockets, each the other's peer.
    fn join(&mut self, faults: &mut Faults, id: SocketId, peer: SocketId, address: &Address) {
        let named = |inet| match address {
            Address::Inet(_) => PeerAddress::Inet(inet),
            Address::Unix(_) => PeerAddress::Unix,
        };
        let mut far = std::net::SocketAddr::from(([127, 0, 0, 1], self.next_port));
        self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
        for (end, other) in [(peer, id), (id, peer)] {
            let window = Self::window(faults);
            let socket = &mut self.sockets[end];
            socket.role = Role::Stream;
            socket.peer = Some(other);
            socket.window = window;
            socket.peer_address = named(far);
            if let Address::Inet(inet) = address {
                far = *inet;
            }
        }
    }

    /// Puts the other end of `id` into the backlog of a listener at `address`.
    pub(super) fn connect(
        &mut self,
        faults: &mut Faults,
        id: SocketId,
        address: &Address,
    ) -> Result<(), Errno> {
        if !matches!(self.sockets[id].role, Role::Fresh) {
            return Err(Errno::new(libc::EISCONN));
        }
        let listens = |socket: &Socket| {
            let Role::Listener { address: here, .. } = &socket.role else {
                return false;
            };
            socket.open && !socket.read_shut && here == address
        };
        let all = self
            .sockets
            .iter()
            .enumerate()
            .filter(|(_, socket)| listens(socket));
        let listeners: Vec<SocketId> = all.map(|(id, _)| id).collect();
        if listeners.is_empty() {
            return Err(REFUSED);
        }
        let chosen = listeners[self.listener_prng.below(listeners.len() as u64) as usize];
        let peer = self.add_socket(Holder::Nobody, Role::Stream);
        self.join(faults, id, peer, address);
        if let Role::Listener { backlog, .. } = &mut self.sockets[chosen].role {
            backlog.push_back(peer);
        }
        Ok(())
    }

    pub(super) fn peer_address(&self, id: SocketId) -> PeerAddress {
        let socket = &self.sockets[id];
        if socket.reset {
            PeerAddress::Unknown
        } else {
            socket.peer_address
        }
    }

    /// Bytes that have arrived for `id` and were not read.
    pub(super) fn unread_bytes(&self, id: SocketId) -> u64 {
        self.sockets[id].incoming.len() as u64
    }

    /// Bytes that `id` has sent and its peer has not read: as with a Unix socket, nobody takes them
    /// but the reader.
    pub(super) fn held_bytes(&self, id: SocketId) -> u64 {
        let peer = self.sockets[id].peer;
        peer.map_or(0, |peer| self.unread_bytes(peer))
    }

    pub(super) fn shutdown(&mut self, faults: &mut Faults, id: SocketId, how: Shutdown) {
        faults
            .trace
            .event(faults.now, OUTSIDE, "shutdown", id as u64, how as u64);
        let socket = &mut self.sockets[id];
        socket.write_shut = true;
        socket.read_shut |= how == Shutdown::Both;
        if let Some(peer) = socket.peer {
            self.sockets[peer].ended = true;
        }
    }

    pub(super) fn close(&mut self, faults: &mut Faults, id: SocketId) {
        let socket = &mut self.sockets[id];
        if !std::mem::replace(&mut socket.open, false) {
            return;
        }
        faults
            .trace
            .event(faults.now, OUTSIDE, "closed", id as u64, 0);
        if let Role::Listener { backlog, .. } = &mut socket.role {
            for waiting in std::mem::take(backlog) {
                self.reset(waiting, true);
                self.close(faults, waiting);
            }
        } else if let Some(peer) = socket.peer {
            // Closing with bytes unread tells the peer that they were lost (RFC 2525, 2.17).
            if socket.incoming.is_empty() || socket.reset {
                self.sockets[peer].ended = true;
            } else {
                self.reset(id, false);
            }
        }
        self.sockets[id].incoming.clear();
    }

    /// Resets the connection of `id`: each end learns of it once, at its next operation. `loses`
    /// says whether what it has not read yet is gone too.
    pub(super) fn reset(&mut self, id: SocketId, loses: bool) {
        for end in [Some(id), self.sockets[id].peer].into_iter().flatten() {
            let socket = &mut self.sockets[end];
            if !std::mem::replace(&mut socket.reset, true) {
                socket.error = Some(Errno::CONNECTION_RESET);
            }
            if loses {
                socket.incoming.clear();
            }
        }
    }

    /// Ends the stream that `id` receives, though its sender did not.
    pub(super) fn end_stream(&mut self, id: SocketId) {
        self.sockets[id].ended = true;
        if let Some(peer) = self.sockets[id].peer {
            self.sockets[peer].write_shut = true;
        }
    }

    pub(super) fn way_out(&self, id: SocketId) -> WayOut {
        let socket = &self.sockets[id];
        let Some(peer) = socket.peer else {
            return WayOut::Broken;
        };
        let peer = &self.sockets[peer];
        if socket.reset || socket.write_shut {
            WayOut::Broken
        } else if !peer.open || peer.read_shut {
            WayOut::PeerGone
        } else {
            WayOut::Room(peer.window.saturating_sub(peer.incoming.len()))
        }
    }

    /// Bytes that `id` could write now.
    pub(super) fn room(&self, id: SocketId) -> Result<usize, Errno> {
        match self.way_out(id) {
            WayOut::Room(room) => Ok(room),
            WayOut::Broken | WayOut::PeerGone => Err(PIPE),
        }
    }

    /// Moves bytes to the peer, which has room for them.
    pub(super) fn put(&mut self, id: SocketId, bytes: &[u8]) {
        if let Some(peer) = self.sockets[id].peer {
            self.sockets[peer].incoming.extend(bytes);
        }
    }

    /// For a raw peer: bytes that have arrived, at most `max`, or how the stream stands.
    pub(super) fn take(
        &mut self,
        faults: &mut Faults,
        id: SocketId,
        max: usize,
    ) -> Result<Option<Vec<u8>>, Errno> {
        let socket = &mut self.sockets[id];
        let count = max.min(socket.incoming.len());
        if count == 0 && socket.incoming.is_empty() {
            if let Some(error) = socket.error.take() {
                return Err(error);
            }
            return Ok((!socket.ended && !socket.reset).then(Vec::new));
        }
        let bytes: Vec<u8> = socket.incoming.drain(..count).collect();
        faults.trace.bytes(&bytes);
        Ok(Some(bytes))
    }

    pub(super) fn leave_backlog(&mut self, listener: SocketId) {
        if let Role::Listener { backlog, .. } = &mut self.sockets[listener].role {
            backlog.pop_front();
        }
    }
}
