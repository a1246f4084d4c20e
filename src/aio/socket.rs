//! A connected socket that is never waited on: its readiness is.
//!
//! Knows: `recv(2)` and `send(2)` that do not block, and the reactor that says when to try again.
//! Refuses to know: what the bytes are.
//!
//! Buffers are lent to the kernel for the length of one call, so that a future that is dropped can
//! leave nothing behind that the kernel still writes to.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    task::{Context, Poll, ready},
};

use rustix::{
    io::Errno as Sys,
    net::{
        RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, connect, recv, send, sendmsg,
        shutdown, sockopt,
    },
};
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

use crate::{
    conn::liveness::Kernel,
    ring::{
        Address, Errno, Outgoing, PeerAddress, SendQueue,
        readiness::register,
        send::PIECES_MAX,
        socket::{peer_address, stream, stream_from, to_any},
        standing,
    },
};

const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// What is known of the peer's bytes.
pub enum Received {
    /// So many are in the buffer.
    Bytes(usize),
    /// There will be no more.
    EndOfStream,
    /// The transport is broken.
    Failed(Errno),
}

/// Says that a socket was readable when it was last looked at.
pub type Readable<'a> = AsyncFdReadyGuard<'a, OwnedFd>;

/// A connected socket, registered with the reactor of its thread.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
}

impl Socket {
    /// Registers a connected socket.
    ///
    /// # Errors
    ///
    /// What `epoll_ctl(2)` said.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let fd = register(fd, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { fd })
    }

    /// Connects a new socket.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub async fn connect(address: &Address, from: Option<SocketAddr>) -> Result<Self, Errno> {
        let fd = match from {
            None => stream(address)?,
            Some(from) => stream_from(address, from)?,
        };
        rustix::io::ioctl_fionbio(&fd, true)?;
        match connect(&fd, &to_any(address)?) {
            Ok(()) => return Self::new(fd),
            Err(Sys::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let socket = Self::new(fd)?;
        let guard = socket.fd.writable().await.map_err(Errno::from)?;
        drop(guard);
        match sockopt::socket_error(socket.fd.get_ref())? {
            Ok(()) => Ok(socket),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether there is something to receive, or an end.
    #[inline]
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<Readable<'_>>> {
        self.fd.poll_read_ready(context)
    }

    /// Waits for the same, as one of several.
    ///
    /// # Errors
    ///
    /// When the runtime ends.
    pub async fn readable(&self) -> io::Result<Readable<'_>> {
        self.fd.readable().await
    }

    /// Looks at what is there without taking it. `None`: nothing, so that readiness has to be
    /// waited for.
    pub fn peek(&self, readable: &mut Readable<'_>, room: &mut [u8]) -> Option<Received> {
        loop {
            let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
            return Some(match recv(self.fd.get_ref(), &mut *room, flags) {
                Ok((0, _)) => Received::EndOfStream,
                Ok((count, _)) => Received::Bytes(count),
                Err(Sys::AGAIN) => {
                    readable.clear_ready();
                    return None;
                }
                Err(Sys::INTR) => continue,
                Err(errno) => Received::Failed(errno.into()),
            });
        }
    }

    /// Is no more registered.
    pub fn into_fd(self) -> OwnedFd {
        self.fd.into_inner()
    }

    /// Receives what is there. `None`: nothing, so that readiness has to be waited for.
    #[inline]
    pub fn recv(&self, readable: &mut Readable<'_>, room: &mut [u8]) -> Option<Received> {
        let len = room.len();
        loop {
            return Some(
                match recv(self.fd.get_ref(), &mut *room, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => Received::EndOfStream,
                    Ok((count, _)) => {
                        // All that was there has come. What comes later, and the end of the stream,
                        // is another event.
                        if count < len {
                            readable.clear_ready();
                        }
                        Received::Bytes(count)
                    }
                    Err(Sys::AGAIN) => {
                        readable.clear_ready();
                        return None;
                    }
                    Err(Sys::INTR) => continue,
                    Err(errno) => Received::Failed(errno.into()),
                },
            );
        }
    }

    /// Sends of the queue what the socket has room for.
    ///
    /// # Errors
    ///
    /// `EAGAIN` when it has none, and whatever else `sendmsg(2)` said.
    pub fn send(&self, queue: &SendQueue) -> Result<usize, Sys> {
        if let Some(piece) = queue.only_piece() {
            return self.send_piece(piece);
        }
        let mut slices = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(queue.pieces()) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        self.send_pieces(&slices[..count])
    }

    /// As [`send`](Self::send), of these bytes.
    ///
    /// # Errors
    ///
    /// As `send`.
    pub fn send_pieces(&self, pieces: &[IoSlice<'_>]) -> Result<usize, Sys> {
        loop {
            let mut control = SendAncillaryBuffer::default();
            let sent = sendmsg(self.fd.get_ref(), pieces, &mut control, SEND_FLAGS);
            if sent != Err(Sys::INTR) {
                return sent;
            }
        }
    }

    /// As [`send`](Self::send), of bytes in one piece.
    ///
    /// # Errors
    ///
    /// As `send`.
    #[inline]
    pub fn send_piece(&self, piece: &[u8]) -> Result<usize, Sys> {
        loop {
            let sent = send(self.fd.get_ref(), piece, SEND_FLAGS);
            if sent != Err(Sys::INTR) {
                return sent;
            }
        }
    }

    /// Waits until there may be room for more.
    ///
    /// # Errors
    ///
    /// When the runtime ends.
    pub async fn writable(&self) -> io::Result<Readable<'_>> {
        self.fd.writable().await
    }

    /// Turns the delay of Nagle off, if the socket has it: what is sent together is put together
    /// here.
    pub fn send_at_once(&self) {
        let _ = sockopt::set_tcp_nodelay(self.fd.get_ref(), true);
    }

    /// Shuts our side, or both. A connection that is gone already is no error.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = shutdown(self.fd.get_ref(), how);
    }

    /// Who is at the other end.
    pub fn peer_address(&self) -> PeerAddress {
        peer_address(self.fd.get_ref())
    }
}

impl Kernel for Socket {
    fn unread_bytes(&self) -> u64 {
        standing::unread_bytes(self.fd.get_ref())
    }

    fn outgoing(&self) -> Outgoing {
        standing::outgoing(self.fd.get_ref())
    }
}

/// A listener on this thread.
#[derive(Debug)]
pub struct Acceptor {
    fd: AsyncFd<OwnedFd>,
}

impl Acceptor {
    /// Registers a listener.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let fd = register(fd, Interest::READABLE)?;
        Ok(Self { fd })
    }

    /// The next connection.
    ///
    /// # Errors
    ///
    /// What `accept4(2)` said, but for `EAGAIN`.
    pub fn poll_accept(&self, context: &mut Context<'_>) -> Poll<Result<OwnedFd, Errno>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(context)).map_err(Errno::from)?;
            let flags = rustix::net::SocketFlags::CLOEXEC;
            match rustix::net::accept_with(self.fd.get_ref().as_fd(), flags) {
                Err(Sys::AGAIN) => guard.clear_ready(),
                accepted => return Poll::Ready(accepted.map_err(Errno::from)),
            }
        }
    }
}
