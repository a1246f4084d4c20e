//! `epoll(7)`: the ring for hosts that refuse io_uring.
//!
//! Knows: which operation waits for which socket, what the kernel has said of the socket since, and
//! in whose turn it is to be tried. Refuses to know: everything that [`Ring`] does not name.
//!
//! ```text
//!   turn ---- send, once for each socket that has something to send
//!        ---- epoll_wait(2) ----> ready: [ socket, socket, what is over, socket ... ]
//!                                   |  next_completion
//!                                   +--> one recv or accept, now: its completion
//! ```
//!
//! Sockets are watched by edges: each is made known to the kernel once, and told apart from then on
//! are only the times in which a send waits for room. What an edge has said is kept until a call
//! has found nothing or less than it asked for, which for a stream is the same (`epoll(7)`). So a
//! receive that is stopped and started again costs no system call, and one that is stopped is no
//! reason to wake up again and again.
//!
//! A receive happens when its completion is handed out and not before: whoever looks at the bytes
//! does so next, and the receive after it finds the same memory free and in the cache. Each socket
//! receives once in a turn, and whoever has more waits behind all others who had something to say.
//!
//! Invariant: a socket is in the row of those that are ready at most once, and is there whenever
//! an operation of its could get on.
//!
//! Nothing here is newer than Linux 4.18. No descriptor is in non-blocking mode but listeners and
//! those that were connected from here: all others are asked not to wait call by call.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    io::IoSlice,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use hashbrown::HashTable;
use rustix::{
    buffer::spare_capacity,
    event::{
        EventfdFlags, Timespec,
        epoll::{self, EventData, EventFlags},
        eventfd,
    },
    io::ioctl_fionbio,
    net::{
        RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, accept_with, connect, recv, send,
        sendmsg, sockopt::socket_error,
    },
};

use super::{
    Address, Arrival, Completion, Errno, Expected, Operation, Outcome, Outgoing, PeerAddress,
    RecvLease, RecvNow, RecvSizes, Ring, SendQueue, Shutdown, Time, Token, Urgency, Wait, Waker,
    recv_pool::RecvStack, send::PIECES_MAX, socket, socket::LastDescriptors, standing,
};

/// What the kernel says of the waker, in place of a socket's slot.
const WAKER: u64 = u64::MAX;

/// A socket that was never used on a ring has none.
const NO_SLOT: u32 = u32::MAX;

/// Events that one wait brings; more come with the next turn.
const EVENTS_MAX: usize = 256;

/// Connections that one turn accepts; more wait in the backlog for the next one.
const ACCEPTS_MAX: u32 = 64;

/// A Unix listener without room in its backlog tells nobody when it has some: it is asked again so
/// often (`connect(2)`, EAGAIN).
const KNOCK_AGAIN_MS: u64 = 5;

/// Less room than this in a receive buffer is not worth a receive.
const ROOM_BYTES_MIN: u32 = 16 * 1024;

/// How a ring is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpollOptions {
    /// Receive buffers. They take memory as they are used.
    pub recv_buffers: u16,
    /// Bytes in each of them. It is filled piece by piece.
    pub recv_buffer_bytes: u32,
    /// Large buffers for long messages.
    pub large_buffers: u16,
    /// Bytes in each of them.
    pub large_buffer_bytes: u32,
    /// For how long a turn looks for something to do before it sleeps, in microseconds.
    pub busy_poll_us: u32,
}

impl Default for EpollOptions {
    fn default() -> Self {
        Self {
            recv_buffers: 4,
            recv_buffer_bytes: 128 * 1024,
            large_buffers: 4,
            large_buffer_bytes: 512 * 1024,
            busy_poll_us: 0,
        }
    }
}

/// A socket, and what the ring that it is used on calls it.
pub struct EpollSocket {
    fd: OwnedFd,
    slot: Cell<u32>,
}

impl From<OwnedFd> for EpollSocket {
    fn from(fd: OwnedFd) -> Self {
        let slot = Cell::new(NO_SLOT);
        Self { fd, slot }
    }
}

impl AsFd for EpollSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl fmt::Debug for EpollSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpollSocket({})", self.fd.as_raw_fd())
    }
}

/// What is known of a socket: there is one for each connection, so it is small.
#[derive(Debug)]
struct Slot {
    /// Negative while nobody has the slot.
    fd: RawFd,
    /// Counts who had the slot, so that what is said of one of them is not taken for another.
    generation: u16,
    flags: u16,
    /// The accept, connect or receive in flight; 0 for none.
    incoming: u64,
    /// The send that waits for room.
    blocked: Option<Box<Blocked>>,
}

/// A send that waits for room.
#[derive(Debug)]
struct Blocked {
    token: Token,
    queue: Box<SendQueue>,
}

/// The kernel watches the socket.
const WATCHED: u16 = 1;
/// It tells when there is room to send.
const WATCHED_FOR_ROOM: u16 = 1 << 1;
/// There may be something to receive or to accept.
const READABLE: u16 = 1 << 2;
/// There will be no more than that: an end or an error is behind it.
const HUNG_UP: u16 = 1 << 3;
/// There was no room to send when it was last tried, or it is not connected yet.
const FULL: u16 = 1 << 4;
/// It is in the row of those that are ready.
const QUEUED: u16 = 1 << 5;
/// It was put into non-blocking mode.
const NON_BLOCKING: u16 = 1 << 6;
/// Its receive only tells that there is something.
const ANNOUNCED: u16 = 1 << 7;

impl Slot {
    #[inline]
    const fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    const fn set(&mut self, flag: u16, on: bool) {
        if on {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
    }

    /// The operation in flight that is no send.
    #[inline]
    const fn incoming(&self) -> Option<Token> {
        Token::from_bits(self.incoming)
    }

    #[inline]
    fn can_send(&self) -> bool {
        self.blocked.is_some() && !self.has(FULL)
    }

    #[inline]
    fn can_come(&self) -> bool {
        match self.incoming() {
            None => false,
            Some(token) if token.operation() == Operation::Connect => !self.has(FULL),
            Some(_) => self.has(READABLE),
        }
    }

    fn fd(&self) -> BorrowedFd<'static> {
        // SAFETY: a slot has the number of a socket from the first operation on it until the socket
        // is handed over to be closed or released, and whoever has the socket keeps it open until
        // then: dropping it instead is right only before its first operation (`Ring::Socket`). No
        // borrow made here outlives the call that it is made for.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

/// Something to hand out.
#[derive(Debug)]
enum Ready {
    /// An operation that is over.
    Over {
        token: Token,
        outcome: Outcome<EpollSocket>,
    },
    /// A socket on which something can be tried.
    Socket(u32),
}

/// A send that was not tried yet.
#[derive(Debug)]
struct Unsent {
    slot: u32,
    urgency: Urgency,
    token: Token,
    queue: Box<SendQueue>,
}

/// A send that is over.
#[derive(Debug)]
struct SendEnd {
    token: Token,
    queue: Box<SendQueue>,
    result: Result<usize, Errno>,
}

/// A connect to a Unix listener that had no room.
#[derive(Debug)]
struct Knock {
    slot: u32,
    address: Address,
}

/// A ring on epoll. It belongs to the thread that made it.
pub struct Epoll {
    epoll: OwnedFd,
    slots: Vec<Slot>,
    free_slots: Vec<u32>,
    /// Slots by the token of what is in flight on them, sends excepted: a cancel names no socket.
    by_token: HashTable<u32>,
    buffers: RecvStack,
    large_buffers: RecvStack,
    recv_ready_at: usize,
    recv_sizes: RecvSizes,
    /// Sends that were submitted since the last turn. They leave with the next one, when whoever
    /// submitted them has done all that belongs to them.
    unsent: Vec<Unsent>,
    /// Sends that are over, which are handed out first: they give memory back.
    sends: VecDeque<SendEnd>,
    /// Those that went well and that nobody waits for: they end no wait.
    unawaited_sends: Vec<SendEnd>,
    /// Somebody waits for one of those by now: the next turn does not sleep.
    is_hastened: bool,
    ready: VecDeque<Ready>,
    /// Those that had their turn and have more.
    later: Vec<u32>,
    knocks: Vec<Knock>,
    accepts_left: u32,
    tick: Option<(Time, Token)>,
    tick_in_flight: bool,
    wake: Option<Token>,
    wake_in_flight: bool,
    /// The waker was used and nobody was told.
    is_woken: bool,
    waker: Waker,
    events: Vec<epoll::Event>,
    in_flight: usize,
    busy_poll_us: u32,
    last_descriptors: LastDescriptors,
}

impl fmt::Debug for Epoll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Epoll")
            .field("in_flight", &self.in_flight)
            .field("buffers", &self.buffers)
            .field("large_buffers", &self.large_buffers)
            .finish_non_exhaustive()
    }
}

impl Epoll {
    /// Sets up a ring for the calling thread.
    ///
    /// # Errors
    ///
    /// What the kernel said: no descriptors or no memory are left (`epoll_create1(2)`,
    /// `eventfd(2)`, `mmap(2)`).
    ///
    /// # Panics
    ///
    /// When a size is 0.
    pub fn new(options: &EpollOptions) -> Result<Self, Errno> {
        let bytes = options.recv_buffer_bytes;
        let room_bytes_min = ROOM_BYTES_MIN.min(bytes.div_ceil(4));
        let buffers = RecvStack::new(options.recv_buffers, bytes, room_bytes_min)?;
        let large_bytes = options.large_buffer_bytes;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Its counter is never read: each use of the waker is an edge of its own, and 2^64 of them
        // do not happen.
        let counter = eventfd(0, EventfdFlags::CLOEXEC)?;
        let edges = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, &counter, EventData::new_u64(WAKER), edges)?;
        Ok(Self {
            epoll,
            slots: Vec::new(),
            free_slots: Vec::new(),
            by_token: HashTable::new(),
            buffers,
            large_buffers: RecvStack::new(options.large_buffers, large_bytes, large_bytes)?,
            recv_ready_at: usize::from(options.recv_buffers).div_ceil(2),
            recv_sizes: RecvSizes::new(options.recv_buffers, bytes),
            unsent: Vec::new(),
            sends: VecDeque::new(),
            unawaited_sends: Vec::new(),
            is_hastened: false,
            ready: VecDeque::new(),
            later: Vec::new(),
            knocks: Vec::new(),
            accepts_left: ACCEPTS_MAX,
            tick: None,
            tick_in_flight: false,
            wake: None,
            wake_in_flight: false,
            is_woken: false,
            waker: Waker::new(Some(counter)),
            events: Vec::with_capacity(EVENTS_MAX),
            in_flight: 0,
            busy_poll_us: options.busy_poll_us,
            last_descriptors: LastDescriptors::of_process(),
        })
    }

    /// Leases on received bytes that were not recycled.
    pub fn leases(&self) -> usize {
        self.buffers.leases() + self.large_buffers.leases()
    }

    /// The slot of a socket, which gets one with its first operation.
    #[inline]
    fn slot_of(&mut self, socket: &EpollSocket) -> u32 {
        if socket.slot.get() == NO_SLOT {
            let fd = socket.fd.as_raw_fd();
            let index = match self.free_slots.pop() {
                Some(index) => index,
                None => {
                    self.slots.push(Slot {
                        fd: -1,
                        generation: 0,
                        flags: 0,
                        incoming: 0,
                        blocked: None,
                    });
                    self.slots.len() as u32 - 1
                }
            };
            self.slots[index as usize].fd = fd;
            socket.slot.set(index);
        }
        socket.slot.get()
    }

    /// The slot that a socket has, if it was ever used.
    #[inline]
    fn known(&mut self, socket: &EpollSocket) -> Option<&mut Slot> {
        self.slots.get_mut(socket.slot.get() as usize)
    }

    /// Nothing is said of a socket any more, and its slot is free once it is in no row.
    fn vacate(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        debug_assert!(
            slot.incoming == 0 && slot.blocked.is_none(),
            "a socket was given away with something in flight on it"
        );
        let is_queued = slot.has(QUEUED);
        slot.fd = -1;
        slot.generation = slot.generation.wrapping_add(1);
        slot.flags = 0;
        slot.set(QUEUED, is_queued);
        if !is_queued {
            self.free_slots.push(index);
        }
    }

    /// Has the kernel watch a connection, for room to send as well when somebody waits for it.
    #[inline]
    fn watch(&mut self, index: u32, for_room: bool) -> Result<(), Errno> {
        let slot = &mut self.slots[index as usize];
        if slot.has(WATCHED) && slot.has(WATCHED_FOR_ROOM) == for_room {
            return Ok(());
        }
        let mut edges = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        edges.set(EventFlags::OUT, for_room);
        let data = data_of(index, slot.generation);
        if slot.has(WATCHED) {
            epoll::modify(&self.epoll, slot.fd(), data, edges)?;
        } else {
            epoll::add(&self.epoll, slot.fd(), data, edges)?;
        }
        slot.set(WATCHED, true);
        slot.set(WATCHED_FOR_ROOM, for_room);
        Ok(())
    }

    /// Has the kernel watch a listener. Other shards may watch the same one: it wakes one of them
    /// for each connection, of those that wait.
    fn watch_listener(&mut self, index: u32) -> Result<(), Errno> {
        let slot = &mut self.slots[index as usize];
        if !slot.has(NON_BLOCKING) {
            // Another shard may be faster.
            ioctl_fionbio(slot.fd(), true)?;
            slot.set(NON_BLOCKING, true);
        }
        let edges = EventFlags::IN | EventFlags::ET | EventFlags::EXCLUSIVE;
        let data = data_of(index, slot.generation);
        epoll::add(&self.epoll, slot.fd(), data, edges)?;
        slot.set(WATCHED, true);
        Ok(())
    }

    fn unwatch(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.has(WATCHED) {
            let removed = epoll::delete(&self.epoll, slot.fd());
            debug_assert!(removed.is_ok(), "what is watched can be left alone");
            slot.set(WATCHED | WATCHED_FOR_ROOM, false);
        }
    }

    /// Puts a socket into the row, if something can be tried on it and it is in none.
    #[inline]
    fn queue_up(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if !slot.has(QUEUED) && (slot.can_send() || slot.can_come()) {
            slot.set(QUEUED, true);
            self.ready.push_back(Ready::Socket(index));
        }
    }

    /// Puts a socket that had its turn, and has more, behind all others.
    #[inline]
    fn queue_up_later(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        debug_assert!(!slot.has(QUEUED), "it was taken out of the row");
        slot.set(QUEUED, true);
        self.later.push(index);
    }

    fn over(&mut self, token: Token, outcome: Outcome<EpollSocket>) {
        self.ready.push_back(Ready::Over { token, outcome });
    }

    /// An operation is in flight from now on that is no send.
    #[inline]
    fn begin(&mut self, index: u32, token: Token, watched: Result<(), Errno>) {
        self.in_flight += 1;
        if let Err(errno) = watched {
            return self.over(token, Outcome::Failed(errno));
        }
        let slot = &mut self.slots[index as usize];
        assert!(
            slot.incoming == 0,
            "{token:?} is a second operation of its kind on one socket"
        );
        slot.incoming = token.bits();
        let slots = &self.slots;
        let hash = |&index: &u32| hash_of(slots[index as usize].incoming);
        self.by_token.insert_unique(hash(&index), index, hash);
        self.queue_up(index);
    }

    /// The operation in flight that is no send is over.
    #[inline]
    fn end_incoming(&mut self, index: u32) {
        let bits = self.slots[index as usize].incoming;
        let found = self
            .by_token
            .find_entry(hash_of(bits), |&other| other == index);
        if let Ok(entry) = found {
            entry.remove();
        }
        self.slots[index as usize].incoming = 0;
        if bits >> Token::TAG_BITS == Operation::Accept as u64 {
            // Others are to be woken in its place.
            self.unwatch(index);
        }
    }

    /// Ends an operation early. Returns whether it was there.
    fn cancel(&mut self, target: Token) -> bool {
        match target.operation() {
            Operation::Tick => self.tick.take_if(|(_, token)| *token == target).is_some(),
            Operation::Wake => self.wake.take_if(|token| *token == target).is_some(),
            _ => {
                let is_it = |&index: &u32| self.slots[index as usize].incoming == target.bits();
                let found = self.by_token.find(hash_of(target.bits()), is_it);
                let Some(&index) = found else {
                    return false;
                };
                self.knocks.retain(|knock| knock.slot != index);
                self.end_incoming(index);
                true
            }
        }
    }

    /// Tries what can be tried on a socket. `None` when nothing came of it.
    #[inline]
    fn attend(&mut self, index: u32) -> Option<Completion<EpollSocket>> {
        let slot = &mut self.slots[index as usize];
        slot.set(QUEUED, false);
        if slot.fd < 0 {
            self.free_slots.push(index);
            return None;
        }
        if slot.can_send() {
            if slot.can_come() {
                slot.set(QUEUED, true);
                self.ready.push_front(Ready::Socket(index));
            }
            return self.send_blocked(index);
        }
        if !slot.can_come() {
            return None;
        }
        let token = slot.incoming()?;
        let (outcome, more) = match token.operation() {
            Operation::Recv if slot.has(ANNOUNCED) => (Outcome::Readable, false),
            Operation::Recv => self.receive(index)?,
            Operation::Accept => self.accept(index)?,
            _ => match socket_error(slot.fd()) {
                Ok(Ok(())) => {
                    let watched = self.watch(index, false);
                    let failed = |errno| Outcome::Failed(errno);
                    (watched.map_or_else(failed, |()| Outcome::Done), false)
                }
                Ok(Err(errno)) | Err(errno) => (Outcome::Failed(errno.into()), false),
            },
        };
        if !more {
            self.end_incoming(index);
        }
        Some(Completion {
            token,
            outcome,
            more,
        })
    }

    /// Receives once.
    #[inline]
    fn receive(&mut self, index: u32) -> Option<(Outcome<EpollSocket>, bool)> {
        let slot = &mut self.slots[index as usize];
        let mut room = 0;
        let received = self.buffers.receive(|buffer| {
            room = buffer.len();
            let (_, bytes) = recv(slot.fd(), buffer, RecvFlags::DONTWAIT)?;
            Ok(bytes)
        });
        match received {
            Ok(Some(lease)) => {
                if lease.len() < room && !slot.has(HUNG_UP) {
                    slot.set(READABLE, false);
                } else {
                    self.queue_up_later(index);
                }
                Some((Outcome::Received(lease), true))
            }
            // The end is not forgotten: whoever asks again is told again.
            Ok(None) => Some((Outcome::EndOfStream, false)),
            Err(errno) => match errno.number() {
                libc::EAGAIN => {
                    slot.set(READABLE, false);
                    None
                }
                libc::EINTR => {
                    self.queue_up_later(index);
                    None
                }
                _ => Some((Outcome::Failed(errno), false)),
            },
        }
    }

    /// Accepts one connection.
    fn accept(&mut self, index: u32) -> Option<(Outcome<EpollSocket>, bool)> {
        if self.accepts_left == 0 {
            self.queue_up_later(index);
            return None;
        }
        let slot = &mut self.slots[index as usize];
        match accept_with(slot.fd(), SocketFlags::CLOEXEC) {
            Ok(socket) => {
                self.accepts_left -= 1;
                self.queue_up(index);
                Some((Outcome::Accepted(socket.into()), true))
            }
            Err(rustix::io::Errno::AGAIN) => {
                slot.set(READABLE, false);
                None
            }
            Err(errno) => Some((Outcome::Failed(errno.into()), false)),
        }
    }

    /// Sends what has waited for room.
    fn send_blocked(&mut self, index: u32) -> Option<Completion<EpollSocket>> {
        let slot = &mut self.slots[index as usize];
        let blocked = slot.blocked.take()?;
        let (result, is_full) = try_send(slot.fd(), &blocked.queue);
        slot.set(FULL, is_full);
        if result == Err(Errno::new(libc::EAGAIN)) {
            slot.blocked = Some(blocked);
            return None;
        }
        if !is_full {
            // Nobody waits for room any more. Were it to fail, it would be told of some room.
            let _ = self.watch(index, false);
        }
        let Blocked { token, queue } = *blocked;
        Some(Completion {
            token,
            outcome: Outcome::Sent { queue, result },
            more: false,
        })
    }

    /// Tries all sends that were submitted.
    #[inline]
    fn send_unsent(&mut self) {
        let mut unsent = std::mem::take(&mut self.unsent);
        for send in unsent.drain(..) {
            self.try_unsent(send);
        }
        self.unsent = unsent;
    }

    #[inline]
    fn try_unsent(&mut self, send: Unsent) {
        let Unsent {
            slot: index,
            urgency,
            token,
            queue,
        } = send;
        let slot = &mut self.slots[index as usize];
        // Receive memory waits for nobody.
        let waits = urgency == Urgency::Awaited && !queue.holds_leases();
        let mut result = Err(Errno::new(libc::EAGAIN));
        if !(waits && slot.has(FULL)) {
            let is_full;
            (result, is_full) = try_send(slot.fd(), &queue);
            slot.set(FULL, is_full);
        }
        if waits && result == Err(Errno::new(libc::EAGAIN)) {
            match self.watch(index, true) {
                Ok(()) => {
                    let slot = &mut self.slots[index as usize];
                    debug_assert!(slot.blocked.is_none(), "a second send on one socket");
                    slot.blocked = Some(Box::new(Blocked { token, queue }));
                    // It may have been told of room in between, and that is told once.
                    return self.queue_up(index);
                }
                Err(errno) => result = Err(errno),
            }
        }
        let is_sent = result == Ok(queue.len());
        let end = SendEnd {
            token,
            queue,
            result,
        };
        if urgency == Urgency::Unawaited && is_sent {
            self.unawaited_sends.push(end);
        } else {
            self.sends.push_back(end);
        }
    }

    /// Asks Unix listeners again that had no room.
    fn knock(&mut self) {
        for knock in std::mem::take(&mut self.knocks) {
            self.connect(knock.slot, knock.address);
        }
    }

    /// Starts to connect, and sees to it that the end is heard of.
    fn connect(&mut self, index: u32, address: Address) {
        let slot = &mut self.slots[index as usize];
        let Some(token) = slot.incoming() else {
            return;
        };
        // An address that no socket can have was refused where it was parsed.
        let any = socket::to_any(&address).expect("the address was parsed");
        let connected = connect(slot.fd(), &any).map_err(Errno::from);
        let connected = match connected {
            Err(errno) if errno.number() == libc::EINPROGRESS => {
                slot.set(FULL, true);
                match self.watch(index, true) {
                    Ok(()) => return,
                    failed => failed,
                }
            }
            Err(errno) if errno.number() == libc::EAGAIN => {
                return self.knocks.push(Knock {
                    slot: index,
                    address,
                });
            }
            connected => connected,
        };
        self.slots[index as usize].set(FULL, false);
        self.end_incoming(index);
        let outcome = connected.map_or_else(Outcome::Failed, |()| Outcome::Done);
        self.over(token, outcome);
    }

    /// One `epoll_wait(2)`. `None` waits for as long as it takes. Returns whether something was
    /// said.
    fn collect(&mut self, wait_ms: Option<u64>) -> Result<bool, Errno> {
        let timeout = wait_ms.map(|ms| {
            // More would take a system call that is newer.
            let ms = ms.min(i32::MAX as u64) as i64;
            Timespec {
                tv_sec: ms / 1000,
                tv_nsec: ms % 1000 * 1_000_000,
            }
        });
        self.events.clear();
        let events = spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, events, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for at in 0..self.events.len() {
            let event = self.events[at];
            self.said(event.data.u64(), event.flags);
        }
        Ok(!self.events.is_empty())
    }

    /// The kernel has said something of a socket, or of the waker.
    #[inline]
    fn said(&mut self, data: u64, flags: EventFlags) {
        if data == WAKER {
            self.is_woken = true;
            return self.tell_woken();
        }
        let index = data as u32;
        let slot = &mut self.slots[index as usize];
        // A descriptor that another process inherited is watched even when ours is closed.
        if slot.fd < 0 || u64::from(slot.generation) != data >> 32 {
            return;
        }
        let ends = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if flags.intersects(EventFlags::IN | ends) {
            slot.set(READABLE, true);
        }
        if flags.intersects(ends) {
            slot.set(HUNG_UP, true);
        }
        if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            slot.set(FULL, false);
        }
        self.queue_up(index);
    }

    fn tell_woken(&mut self) {
        if self.is_woken
            && let Some(token) = self.wake.take()
        {
            self.is_woken = false;
            self.over(token, Outcome::Woken);
        }
    }

    /// When a turn that was told to wait has to look again, if ever.
    fn wait_until(&self, wait: Wait) -> Option<Time> {
        let told = match wait {
            Wait::Poll => Some(Time::default()),
            Wait::Until(at) => Some(at),
            Wait::Forever => None,
        };
        let tick = self.tick.map(|(at, _)| at);
        let knock = (!self.knocks.is_empty()).then(|| self.now().plus_ms(KNOCK_AGAIN_MS));
        [told, tick, knock].into_iter().flatten().min()
    }

    /// Looks for something to do for a while, so that the thread need not be woken for what comes
    /// soon. Returns whether something did.
    fn busy_poll(&mut self, until: Option<Time>) -> Result<bool, Errno> {
        let end = Time::from_ns(self.now().as_ns() + u64::from(self.busy_poll_us) * 1000);
        let end = until.map_or(end, |until| end.min(until));
        loop {
            if self.collect(Some(0))? {
                return Ok(true);
            }
            if self.now() >= end {
                return Ok(false);
            }
        }
    }

    fn wait(&mut self, until: Option<Time>) -> Result<(), Errno> {
        if self.busy_poll_us > 0 && self.busy_poll(until)? {
            return Ok(());
        }
        // Rounded up: a turn that ended early would have nothing to do.
        let ms = until.map(|until| until.ns_since(self.now()).div_ceil(1_000_000));
        self.collect(ms)?;
        Ok(())
    }
}

/// What the kernel is to say of a socket.
#[inline]
fn data_of(index: u32, generation: u16) -> EventData {
    EventData::new_u64(u64::from(generation) << 32 | u64::from(index))
}

/// Spreads tokens over a table, which takes its place from the low bits and its tag from the high
/// ones.
#[inline]
const fn hash_of(bits: u64) -> u64 {
    let product = (bits as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    (product >> 64) as u64 ^ product as u64
}

/// Sends what one call takes and there is room for. Returns how much that was, and whether the
/// socket has no more room.
#[inline]
fn try_send(fd: BorrowedFd<'_>, queue: &SendQueue) -> (Result<usize, Errno>, bool) {
    // NOSIGNAL: a broken pipe is a result.
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let (sent, offered) = match queue.only_piece() {
        Some(piece) => {
            let sent = rustix::io::retry_on_intr(|| send(fd, piece, flags));
            (sent, piece.len())
        }
        None => {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let (mut count, mut offered) = (0, 0);
            for (slice, piece) in slices.iter_mut().zip(queue.pieces()) {
                *slice = IoSlice::new(piece);
                count += 1;
                offered += piece.len();
            }
            let nothing = &mut SendAncillaryBuffer::default();
            let slices = &slices[..count];
            let sent = rustix::io::retry_on_intr(|| sendmsg(fd, slices, nothing, flags));
            (sent, offered)
        }
    };
    let is_full = match sent {
        Ok(bytes) => bytes < offered,
        Err(errno) => errno == rustix::io::Errno::AGAIN,
    };
    (sent.map_err(Errno::from), is_full)
}

impl Ring for Epoll {
    type Socket = EpollSocket;
    type Detached = OwnedFd;

    #[inline]
    fn now(&self) -> Time {
        Time::monotonic()
    }

    fn open(&mut self, address: &Address) -> Result<EpollSocket, Errno> {
        socket::stream(address).map(EpollSocket::from)
    }

    fn open_from(&mut self, address: &Address, from: SocketAddr) -> Result<EpollSocket, Errno> {
        socket::stream_from(address, from).map(EpollSocket::from)
    }

    fn adopt(&mut self, socket: OwnedFd) -> EpollSocket {
        socket.into()
    }

    fn release(&mut self, socket: EpollSocket) -> OwnedFd {
        let index = socket.slot.get();
        if let Some(slot) = self.known(&socket) {
            if slot.has(NON_BLOCKING) {
                // A ring that waits in the kernel would not wait for it.
                let _ = ioctl_fionbio(slot.fd(), false);
            }
            self.unwatch(index);
            self.vacate(index);
        }
        socket.fd
    }

    fn submit_accept(&mut self, listener: &EpollSocket, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Accept);
        let index = self.slot_of(listener);
        let watched = self.watch_listener(index);
        self.begin(index, token, watched);
    }

    fn submit_connect(&mut self, socket: &EpollSocket, address: &Address, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Connect);
        let index = self.slot_of(socket);
        let slot = &mut self.slots[index as usize];
        let asked = ioctl_fionbio(slot.fd(), true).map_err(Errno::from);
        slot.set(NON_BLOCKING, asked.is_ok());
        // It is over when there is room for its first byte, and not before.
        slot.set(FULL, true);
        let is_asked = asked.is_ok();
        self.begin(index, token, asked);
        if is_asked {
            self.connect(index, address.clone());
        }
    }

    #[inline]
    fn submit_recv(&mut self, socket: &EpollSocket, token: Token, arrival: Arrival) {
        debug_assert_eq!(token.operation(), Operation::Recv);
        let index = self.slot_of(socket);
        let slot = &mut self.slots[index as usize];
        slot.set(ANNOUNCED, arrival == Arrival::Announced);
        let for_room = slot.has(WATCHED_FOR_ROOM);
        let watched = self.watch(index, for_room);
        self.begin(index, token, watched);
    }

    fn recv_now(&mut self, socket: &EpollSocket, expected: Expected) -> RecvNow<EpollSocket> {
        let bytes_max = self.recv_sizes.bytes_max(expected);
        let mut room = 0;
        let received = self.large_buffers.receive(|buffer| {
            room = bytes_max.min(buffer.len());
            let (_, bytes) = recv(socket, &mut buffer[..room], RecvFlags::DONTWAIT)?;
            Ok(bytes)
        });
        if let Some(slot) = self.known(socket) {
            let is_empty = match &received {
                Ok(Some(lease)) => lease.len() < room && !slot.has(HUNG_UP),
                Ok(None) => false,
                Err(errno) => errno.number() == libc::EAGAIN,
            };
            if is_empty {
                slot.set(READABLE, false);
            }
        }
        RecvNow::new(received, room)
    }

    fn recv_sizes(&self) -> RecvSizes {
        self.recv_sizes
    }

    #[inline]
    fn submit_send(
        &mut self,
        socket: &EpollSocket,
        token: Token,
        queue: Box<SendQueue>,
        urgency: Urgency,
    ) {
        debug_assert_eq!(token.operation(), Operation::Send);
        assert!(!queue.is_empty(), "an empty queue was submitted");
        self.in_flight += 1;
        let slot = self.slot_of(socket);
        self.unsent.push(Unsent {
            slot,
            urgency,
            token,
            queue,
        });
    }

    #[inline]
    fn hasten(&mut self, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Send);
        // It leaves with the next turn, and that is when its end is known.
        self.is_hastened = !self.unsent.is_empty();
    }

    fn submit_cancel(&mut self, target: Token, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Cancel);
        debug_assert_ne!(
            target.operation(),
            Operation::Send,
            "a send is ended by shutdown"
        );
        self.in_flight += 1;
        let outcome = if self.cancel(target) {
            self.over(target, Outcome::Failed(Errno::CANCELLED));
            Outcome::Done
        } else {
            Outcome::Failed(Errno::new(libc::ENOENT))
        };
        self.over(token, outcome);
    }

    fn submit_close(&mut self, socket: EpollSocket, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Close);
        self.in_flight += 1;
        // The kernel forgets what it watched with its last descriptor.
        if self.known(&socket).is_some() {
            self.vacate(socket.slot.get());
        }
        drop(socket);
        self.over(token, Outcome::Done);
    }

    fn submit_tick(&mut self, at: Time, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Tick);
        assert!(!self.tick_in_flight, "a second tick was submitted");
        self.in_flight += 1;
        self.tick_in_flight = true;
        self.tick = Some((at, token));
    }

    fn submit_wake(&mut self, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Wake);
        assert!(!self.wake_in_flight, "a second wake was submitted");
        self.in_flight += 1;
        self.wake_in_flight = true;
        self.wake = Some(token);
        self.tell_woken();
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn shutdown(&mut self, socket: &EpollSocket, how: Shutdown) {
        socket::shutdown(socket, how);
    }

    fn is_among_last(&self, socket: &EpollSocket) -> bool {
        self.last_descriptors.have(&socket.fd)
    }

    fn peer_address(&self, socket: &EpollSocket) -> PeerAddress {
        socket::peer_address(socket)
    }

    fn unread_bytes(&self, socket: &EpollSocket) -> u64 {
        standing::unread_bytes(socket)
    }

    fn outgoing(&self, socket: &EpollSocket) -> Outgoing {
        standing::outgoing(&socket.fd)
    }

    #[inline]
    fn turn(&mut self, wait: Wait) -> Result<(), Errno> {
        self.accepts_left = ACCEPTS_MAX;
        self.send_unsent();
        // What is there already must not wait for more.
        let is_idle = self.sends.is_empty() && self.ready.is_empty() && self.later.is_empty();
        let is_hastened = std::mem::take(&mut self.is_hastened);
        let collected = if is_idle && !is_hastened && wait != Wait::Poll {
            let until = self.wait_until(wait);
            self.wait(until)
        } else {
            self.collect(Some(0)).map(|_| ())
        };
        if !self.knocks.is_empty() {
            self.knock();
        }
        if let Some((at, token)) = self.tick
            && self.now() >= at
        {
            self.tick = None;
            self.over(token, Outcome::Done);
        }
        self.ready.extend(self.later.drain(..).map(Ready::Socket));
        self.sends.extend(self.unawaited_sends.drain(..));
        collected
    }

    #[inline]
    fn next_completion(&mut self) -> Option<Completion<EpollSocket>> {
        if let Some(end) = self.sends.pop_front() {
            self.in_flight -= 1;
            let SendEnd {
                token,
                queue,
                result,
            } = end;
            return Some(Completion {
                token,
                outcome: Outcome::Sent { queue, result },
                more: false,
            });
        }
        loop {
            let completion = match self.ready.pop_front()? {
                Ready::Socket(index) => match self.attend(index) {
                    Some(completion) => completion,
                    None => continue,
                },
                Ready::Over { token, outcome } => {
                    match token.operation() {
                        Operation::Tick => self.tick_in_flight = false,
                        Operation::Wake => {
                            self.wake_in_flight = false;
                            if matches!(outcome, Outcome::Woken) {
                                self.waker.clear();
                            }
                        }
                        _ => {}
                    }
                    Completion {
                        token,
                        outcome,
                        more: false,
                    }
                }
            };
            self.in_flight -= usize::from(!completion.more);
            return Some(completion);
        }
    }

    fn completions_left(&self) -> usize {
        self.sends.len() + self.ready.len()
    }

    fn split(&mut self, lease: RecvLease, at: usize) -> (RecvLease, RecvLease) {
        if self.large_buffers.owns(&lease) {
            self.large_buffers.split(lease, at)
        } else {
            self.buffers.split(lease, at)
        }
    }

    #[inline]
    fn recycle(&mut self, lease: RecvLease) {
        if self.large_buffers.owns(&lease) {
            self.large_buffers.recycle(lease);
        } else {
            self.buffers.recycle(lease);
        }
    }

    fn recv_ready(&self, arrival: Arrival) -> bool {
        match arrival {
            Arrival::Delivered => self.buffers.free() >= self.recv_ready_at,
            Arrival::Announced => self.large_buffers.is_ready(),
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // Leases that nobody can give back any more; a send that waits for room has none.
        let ended = std::mem::take(&mut self.sends).into_iter();
        let ended = ended.chain(std::mem::take(&mut self.unawaited_sends));
        let unsent = std::mem::take(&mut self.unsent).into_iter();
        let queues = ended.map(|end| end.queue).chain(unsent.map(|it| it.queue));
        for lease in queues.flat_map(|queue| queue.into_leases()) {
            self.recycle(lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    const ACCEPT: Token = Token::new(Operation::Accept, 0);
    const CONNECT: Token = Token::new(Operation::Connect, 0);

    fn ring() -> Epoll {
        Epoll::new(&EpollOptions::default()).unwrap()
    }

    fn soon(ring: &Epoll) -> Wait {
        Wait::Until(ring.now().plus_ms(10_000))
    }

    /// What a turn hands out, with everything recycled: whose it is, and how many bytes it brought.
    fn handed_out(ring: &mut Epoll) -> Vec<(u64, usize)> {
        let mut all = Vec::new();
        while let Some(completion) = ring.next_completion() {
            let bytes = match completion.outcome {
                Outcome::Received(lease) => {
                    let len = lease.len();
                    ring.recycle(lease);
                    len
                }
                outcome => panic!("{outcome:?}"),
            };
            all.push((completion.token.tag(), bytes));
        }
        all
    }

    #[test]
    fn whoever_has_more_waits_behind_the_others() {
        let options = EpollOptions {
            recv_buffers: 1,
            recv_buffer_bytes: 4096,
            ..EpollOptions::default()
        };
        let mut ring = Epoll::new(&options).unwrap();
        let pairs: Vec<_> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
        let mut sockets = Vec::new();
        for (tag, (ours, _)) in pairs.iter().enumerate() {
            let socket = EpollSocket::from(OwnedFd::from(ours.try_clone().unwrap()));
            ring.submit_recv(
                &socket,
                Token::new(Operation::Recv, tag as u64),
                Arrival::Delivered,
            );
            sockets.push(socket);
        }
        rustix::io::write(&pairs[0].1, &[1; 4 * 4096]).unwrap();
        ring.turn(Wait::Poll).unwrap();
        // Once, although there is more.
        assert_eq!(handed_out(&mut ring), [(0, 4096)]);
        for tag in [1, 2] {
            rustix::io::write(&pairs[tag].1, &[1; 10]).unwrap();
        }
        ring.turn(Wait::Poll).unwrap();
        assert_eq!(handed_out(&mut ring), [(1, 10), (2, 10), (0, 4096)]);
        ring.turn(soon(&ring)).unwrap();
        assert_eq!(handed_out(&mut ring), [(0, 4096)]);
        ring.turn(soon(&ring)).unwrap();
        assert_eq!(handed_out(&mut ring), [(0, 4096)]);
        // That it was all is found out at last, by asking for more.
        ring.turn(soon(&ring)).unwrap();
        assert_eq!(handed_out(&mut ring), []);
        assert_eq!(ring.completions_left(), 0);
    }

    #[test]
    fn a_turn_accepts_no_more_than_a_batch() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let crowd = ACCEPTS_MAX as usize + 10;
        let peers: Vec<_> = (0..crowd)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        let mut ring = ring();
        let listener = EpollSocket::from(OwnedFd::from(listener));
        ring.submit_accept(&listener, ACCEPT);
        for expected in [ACCEPTS_MAX as usize, 10] {
            ring.turn(soon(&ring)).unwrap();
            let accepted = std::iter::from_fn(|| ring.next_completion());
            assert_eq!(accepted.map(|it| assert!(it.more)).count(), expected);
        }
        drop(peers);
    }

    #[test]
    fn a_full_backlog_is_asked_again_until_it_has_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = Address::Unix(path.clone());
        let mut listening = socket::Listener::bind(&address, 1, 1, None).unwrap();
        let listener = listening.take_socket().unwrap();
        let any = socket::to_any(&address).unwrap();
        // Until no more fit.
        let mut peers = Vec::new();
        loop {
            let peer = socket::stream(&address).unwrap();
            ioctl_fionbio(&peer, true).unwrap();
            match connect(&peer, &any) {
                Ok(()) => peers.push(peer),
                Err(errno) => break assert_eq!(errno, rustix::io::Errno::AGAIN),
            }
        }
        let mut ring = ring();
        let client = ring.open(&address).unwrap();
        ring.submit_connect(&client, &address, CONNECT);
        for _ in 0..3 {
            ring.turn(Wait::Until(ring.now().plus_ms(20))).unwrap();
            assert!(ring.next_completion().is_none(), "there is no room");
        }
        // It can be given up meanwhile, and is tried no more then.
        ring.submit_cancel(CONNECT, Token::new(Operation::Cancel, 0));
        ring.turn(Wait::Poll).unwrap();
        let ended = std::iter::from_fn(|| ring.next_completion()).count();
        assert_eq!((ended, ring.in_flight(), ring.knocks.len()), (2, 0, 0));
        ring.submit_connect(&client, &address, CONNECT);
        ring.turn(Wait::Poll).unwrap();
        drop(accept_with(&listener, SocketFlags::CLOEXEC).unwrap());
        let deadline = ring.now().plus_ms(10_000);
        let completion = loop {
            ring.turn(Wait::Until(deadline)).unwrap();
            if let Some(completion) = ring.next_completion() {
                break completion;
            }
            assert!(ring.now() < deadline, "nobody knocks");
        };
        assert!(matches!(completion.outcome, Outcome::Done));
        assert!(!completion.more && ring.in_flight() == 0);
    }

    #[test]
    fn a_socket_takes_little_memory() {
        // The kernel has an entry of its own, which is not counted here.
        assert_eq!(size_of::<Slot>(), 24);
        assert_eq!(size_of::<Option<EpollSocket>>(), 8);
    }
}
