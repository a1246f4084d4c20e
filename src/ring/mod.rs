//! The kernel, as one trait.
//!
//! Knows: descriptors, operations in flight, completions, the memory that the kernel may touch and
//! when it is safe to touch it again. Refuses to know: WebSocket, connections, services, policy.
//!
//! ```text
//!   shard --- submit_recv / submit_send / ... --->  Ring  ---> kernel
//!   shard <-- Completion { token, outcome, more } -- Ring  <--- kernel
//!                          |
//!                          +-- RecvLease: received bytes, until `recycle`
//!                          +-- SendQueue: comes back when the kernel is done with it
//! ```
//!
//! Rules that every implementation keeps and the contract suite (`tests/ring`) checks:
//!
//! * An operation is *in flight* from its submission until the completion whose `more` is false.
//!   Exactly one such completion arrives for each submission.
//! * Completions of one token arrive in order.
//! * Bytes given to `submit_send` are owned by the ring until their completion hands them back.
//! * Received bytes belong to whoever holds the lease; the kernel writes there again only after
//!   [`Ring::recycle`]. A lease may be sent: it moves into a [`SendQueue`] and comes back with it.
//! * A socket is handed over to [`Ring::submit_close`] or [`Ring::release`] only when nothing else
//!   is in flight on it.
//!
//! This is one of the two places where `unsafe` is allowed: memory is shared with the kernel here,
//! and nowhere else.
#![allow(unsafe_code)]

pub mod choice;
pub mod epoll;
pub mod errno;
pub mod probe;
pub mod process;
mod provided;
mod quiet;
#[cfg(feature = "aio")]
pub mod readiness;
pub mod recv_pool;
pub mod send;
#[cfg(feature = "sim")]
pub mod sim;
pub mod socket;
pub mod standing;
mod unix_path;
pub mod uring;
pub mod waker;
#[cfg(feature = "sim")]
pub mod watched;

use rustix::time::ClockId;

pub use choice::{AnyRing, Ballot, NoRing, RingKind, RingOptions};
pub use epoll::{Epoll, EpollOptions, EpollSocket};
pub use errno::Errno;
pub use recv_pool::{RecvLease, RecvSizes};
pub use send::{Common, Lent, SendArena, SendQueue};
pub use socket::{Address, PeerAddress};
pub use standing::{Outgoing, Taken};
pub use uring::{Uring, UringOptions};
pub use waker::Waker;

/// A point on the ring's monotonic clock, in nanoseconds.
///
/// Time enters the layers above as a value taken once per turn; none of them asks a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(u64);

impl Time {
    /// The time on the clock of real rings (`CLOCK_MONOTONIC`).
    #[inline]
    pub fn monotonic() -> Self {
        Self::on(ClockId::Monotonic)
    }

    /// The same clock as of the kernel's last tick, a few milliseconds ago at most: cheap enough to
    /// be asked for each message.
    #[inline]
    pub fn monotonic_coarse() -> Self {
        Self::on(ClockId::MonotonicCoarse)
    }

    #[inline]
    fn on(clock: ClockId) -> Self {
        let now = rustix::time::clock_gettime(clock);
        Self(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
    }

    /// A time from nanoseconds on the ring's clock.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds on the ring's clock.
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// Whole milliseconds on the ring's clock.
    pub const fn as_ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time `ms` milliseconds later.
    #[must_use]
    pub const fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// The time so many milliseconds later.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Nanoseconds from `earlier` to here, or 0 when `earlier` is later.
    pub const fn ns_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The kinds of operation, as the top byte of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Operation {
    /// [`Ring::submit_accept`].
    Accept = 1,
    /// [`Ring::submit_cancel`].
    Cancel,
    /// [`Ring::submit_close`].
    Close,
    /// [`Ring::submit_connect`].
    Connect,
    /// [`Ring::submit_recv`].
    Recv,
    /// [`Ring::submit_send`].
    Send,
    /// [`Ring::submit_tick`].
    Tick,
    /// [`Ring::submit_wake`].
    Wake,
}

impl Operation {
    const ALL: [Self; 8] = [
        Self::Accept,
        Self::Cancel,
        Self::Close,
        Self::Connect,
        Self::Recv,
        Self::Send,
        Self::Tick,
        Self::Wake,
    ];
}

/// Names one operation in flight: what kind it is (8 bits, never 0, so that a zeroed word is
/// recognised), and 56 bits that are the caller's own. At most one operation of a token is in
/// flight.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// The bits that belong to the caller.
    pub const TAG_BITS: u32 = 56;

    /// A token of an operation of this kind.
    ///
    /// # Panics
    ///
    /// When `tag` has more than [`TAG_BITS`](Self::TAG_BITS) bits.
    #[inline]
    pub const fn new(operation: Operation, tag: u64) -> Self {
        assert!(tag >> Self::TAG_BITS == 0, "the tag of a token has 56 bits");
        Self(((operation as u64) << Self::TAG_BITS) | tag)
    }

    /// The caller's bits.
    #[inline]
    pub const fn tag(self) -> u64 {
        self.0 & ((1 << Self::TAG_BITS) - 1)
    }

    /// The kind of operation.
    #[inline]
    pub const fn operation(self) -> Operation {
        Operation::ALL[(self.0 >> Self::TAG_BITS) as usize - 1]
    }

    /// All 64 bits, as the kernel sees them.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The token that these bits are, if they are one.
    #[inline]
    const fn from_bits(bits: u64) -> Option<Self> {
        let operation = bits >> Self::TAG_BITS;
        if operation == 0 || operation > Operation::ALL.len() as u64 {
            return None;
        }
        Some(Self(bits))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}:{:#x}", self.operation(), self.tag())
    }
}

/// What one completion says.
#[derive(Debug)]
pub struct Completion<S> {
    /// The token of the operation.
    pub token: Token,
    /// What happened.
    pub outcome: Outcome<S>,
    /// False when this is the operation's last completion, so that it is no longer in flight.
    pub more: bool,
}

/// The result of an operation, with whatever it hands over.
#[derive(Debug)]
pub enum Outcome<S> {
    /// A connection was accepted.
    Accepted(S),
    /// Connect, close, cancel or tick came to its end.
    Done,
    /// The peer will send no more.
    EndOfStream,
    /// The operation failed.
    Failed(Errno),
    /// There is something to receive, as an [announced](Arrival::Announced) receive tells.
    Readable,
    /// Bytes were received. Give the lease back with [`Ring::recycle`].
    Received(RecvLease),
    /// A send ended. The queue comes back with how many of its bytes the kernel took, which may be
    /// fewer than it holds.
    Sent {
        /// The queue as it was submitted.
        queue: Box<SendQueue>,
        /// Bytes taken by the kernel, or why none were.
        result: Result<usize, Errno>,
    },
    /// A [`Waker`] was used.
    Woken,
}

/// Which directions of a connection to shut, as in `shutdown(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Both: whatever is in flight on the socket completes soon.
    Both,
    /// Ours: the peer reads an end of stream after what was sent.
    Write,
}

/// What a receive does with what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is handed out as it comes ([`Outcome::Received`]), until the receive is cancelled, has
    /// failed, the stream has ended, or no receive memory is left ([`Errno::NO_BUFFERS`], which is
    /// a state and not an error).
    Delivered,
    /// It stays where it is: the receive ends with [`Outcome::Readable`] once there is something to
    /// be [received at once](Ring::recv_now), the end of the stream and a broken transport among
    /// it. There may be nothing by then. It takes no receive memory.
    Announced,
}

/// What a [receive at once](Ring::recv_now) is to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A [long](RecvSizes::long_bytes_min) message: as much of it as a buffer holds.
    LongMessage,
    /// Anything: no more than one connection may take at once while others wait.
    Share,
}

/// What a [receive at once](Ring::recv_now) has brought.
#[derive(Debug)]
pub struct RecvNow<S> {
    /// One that [`Ring::submit_recv`] has. EAGAIN says that there was nothing.
    pub outcome: Outcome<S>,
    /// Nothing is left in the socket, as far as the receive could see: there was room for more than
    /// it has brought.
    pub is_drained: bool,
}

impl<S> RecvNow<S> {
    /// What was received into a buffer that had so much room for it.
    fn new(received: Result<Option<RecvLease>, Errno>, room: usize) -> Self {
        let is_drained = match &received {
            Ok(Some(lease)) => lease.len() < room,
            Ok(None) => true,
            Err(errno) => *errno != Errno::NO_BUFFERS,
        };
        let outcome = match received {
            Ok(Some(lease)) => Outcome::Received(lease),
            Ok(None) => Outcome::EndOfStream,
            Err(errno) => Outcome::Failed(errno),
        };
        Self {
            outcome,
            is_drained,
        }
    }
}

/// Whether somebody waits for the end of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody does: its end ends a wait like that of any other operation.
    Awaited,
    /// Nobody does. As long as all of it is taken, its end may be told late: with the next turn
    /// that ends for another reason, or waits for nothing. And it never waits for the peer: it ends
    /// with what the socket had room for, or an error that says that it had none. A ring that can
    /// do no better takes it as awaited.
    Unawaited,
}

/// How long a turn may wait for the first completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    Poll,
    /// Until something completes.
    Forever,
    /// Until something completes or this time has come.
    Until(Time),
}

/// One thread's way to the kernel.
///
/// Submitting never fails and never blocks on the peer: an operation that the kernel refuses
/// completes with [`Outcome::Failed`] like any other.
pub trait Ring {
    /// An open socket. Dropping one without [`submit_close`](Self::submit_close) closes it, and is
    /// right only when nothing was ever submitted on it, or when its ring is gone.
    type Socket: std::fmt::Debug;

    /// An open socket that no ring knows, on its way from one to another.
    type Detached: std::fmt::Debug;

    /// The clock.
    fn now(&self) -> Time;

    /// Makes a stream socket that can be connected to `address`.
    ///
    /// # Errors
    ///
    /// What `socket(2)` said, for example that no descriptors are left.
    fn open(&mut self, address: &Address) -> Result<Self::Socket, Errno>;

    /// As [`open`](Self::open), bound to one of this machine's addresses. A ring whose sockets have
    /// no addresses opens one like any other.
    ///
    /// # Errors
    ///
    /// As `open`, and what `bind(2)` said.
    fn open_from(
        &mut self,
        address: &Address,
        from: std::net::SocketAddr,
    ) -> Result<Self::Socket, Errno> {
        let _ = from;
        self.open(address)
    }

    /// Takes a socket that comes from elsewhere: a listener that was bound, or one that another
    /// ring has [let go](Self::release).
    fn adopt(&mut self, socket: Self::Detached) -> Self::Socket;

    /// Lets a socket go on which nothing is in flight, without closing it. The peer notices
    /// nothing, what it has sent is still there to be received, and no ring's doing sticks to the
    /// socket: whoever takes it may use it on another kind of ring, in another thread or process.
    /// It is over when this returns, and has no completion.
    fn release(&mut self, socket: Self::Socket) -> Self::Detached;

    /// Accepts connections until cancelled or failed: each one completes with
    /// [`Outcome::Accepted`] and `more`.
    fn submit_accept(&mut self, listener: &Self::Socket, token: Token);

    /// Connects.
    fn submit_connect(&mut self, socket: &Self::Socket, address: &Address, token: Token);

    /// Receives what arrives, or hears of it. At most one receive is in flight on a socket. One
    /// that has found no receive memory is to be submitted again once there
    /// [is some](Self::recv_ready).
    fn submit_recv(&mut self, socket: &Self::Socket, token: Token, arrival: Arrival);

    /// Receives at once, into memory that no other receive needs: that which was in use last, which
    /// is in the cache. What comes of a long message then lies in few pieces, and is looked at and
    /// answered before more comes. [`Errno::NO_BUFFERS`] says to try again once there
    /// [is some](Self::recv_ready) of it.
    fn recv_now(&mut self, socket: &Self::Socket, expected: Expected) -> RecvNow<Self::Socket>;

    /// What follows from the sizes of its receive buffers, which never change.
    fn recv_sizes(&self) -> RecvSizes;

    /// Sends what the queue holds. At most one send is in flight on a socket. A queue that
    /// [holds leases](SendQueue::holds_leases) does not wait for the peer: it completes at once,
    /// with what the socket had room for, or an error that says that it had none.
    ///
    /// # Panics
    ///
    /// When the queue is empty.
    fn submit_send(
        &mut self,
        socket: &Self::Socket,
        token: Token,
        queue: Box<SendQueue>,
        urgency: Urgency,
    );

    /// Somebody waits for the end of the send `token` from now on, which is in flight: no turn
    /// waits any longer for something else to bring it along. Of a send that was awaited already
    /// this says nothing new.
    fn hasten(&mut self, token: Token);

    /// Asks the operation `target` (not a send) to end early. Both complete: `target` with its own
    /// outcome or [`Errno::CANCELLED`], and `token` with `Done`, or `Failed` when there was nothing
    /// to cancel.
    fn submit_cancel(&mut self, target: Token, token: Token);

    /// Closes a socket on which nothing is in flight.
    fn submit_close(&mut self, socket: Self::Socket, token: Token);

    /// Completes once `at` has come. At most one tick is in flight.
    ///
    /// # Panics
    ///
    /// When a tick is in flight already.
    fn submit_tick(&mut self, at: Time, token: Token);

    /// Completes with [`Outcome::Woken`] after a [`Waker`] of this ring was used. At most one is in
    /// flight.
    fn submit_wake(&mut self, token: Token);

    /// Something that ends a wait of this ring from any thread.
    fn waker(&self) -> Waker;

    /// Shuts directions of a connection at once. A connection that is already gone is no error.
    fn shutdown(&mut self, socket: &Self::Socket, how: Shutdown);

    /// Whether a socket's descriptor is among the last that the process may have: an eighth of
    /// `RLIMIT_NOFILE` (`getrlimit(2)`), 8 at least and 1,024 at most.
    fn is_among_last(&self, socket: &Self::Socket) -> bool;

    /// Who is at the other end.
    fn peer_address(&self, socket: &Self::Socket) -> PeerAddress;

    /// Bytes that were received and that nobody has looked at: in the kernel, not in completions.
    /// An end of the stream is none. It is a system call, for those who are about to drop somebody.
    fn unread_bytes(&self, socket: &Self::Socket) -> u64;

    /// What was sent, as the kernel sees it: how much it holds, and how much the peer's kernel has
    /// taken. Two system calls, likewise.
    fn outgoing(&self, socket: &Self::Socket) -> Outgoing;

    /// Submits everything that is queued, waits as told, and makes completions available.
    ///
    /// # Errors
    ///
    /// Only when the kernel refuses the ring itself; an interrupted wait is a short turn.
    fn turn(&mut self, wait: Wait) -> Result<(), Errno>;

    /// The next completion that turns have brought.
    fn next_completion(&mut self) -> Option<Completion<Self::Socket>>;

    /// Completions that turns have brought and [`next_completion`](Self::next_completion) has not
    /// handed out: what comes later is handed out behind them.
    fn completions_left(&self) -> usize;

    /// Makes two leases of one, on the first `at` bytes and on the rest.
    ///
    /// # Panics
    ///
    /// When the lease has fewer bytes.
    fn split(&mut self, lease: RecvLease, at: usize) -> (RecvLease, RecvLease);

    /// Gives received memory back to the kernel.
    fn recycle(&mut self, lease: RecvLease);

    /// Whether there is receive memory for those who found none: enough for what is delivered to
    /// start again, or some for what was announced.
    fn recv_ready(&self, arrival: Arrival) -> bool;

    /// Operations in flight.
    fn in_flight(&self) -> usize;
}
