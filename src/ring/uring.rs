//! `io_uring(7)`: the ring that the product runs on.
//!
//! Knows: set-up flags, submission and completion queues, the provided-buffer ring, what the kernel
//! may still touch. Refuses to know: everything that [`Ring`] does not name.
//!
//! Ownership, and the event that ends it:
//!
//! | memory | the kernel may touch it until |
//! |---|---|
//! | a receive buffer | the completion that retires it, and again once it is provided |
//! | a large buffer | the end of `recv(2)`, which fills it |
//! | a send queue | the completion of its send; it sits in `sends` meanwhile |
//! | a queue sent quietly | the submission, unless a completion says otherwise |
//! | an address to connect to | the submission (`IORING_FEAT_SUBMIT_STABLE`, required) |
//! | the tick's time | the submission, likewise |
//! | the wake counter | the completion of the wake |
//!
//! Dropping the ring cancels everything, waits until nothing is in flight, and only then frees.
//! What does not come to an end within a bound is leaked: memory that the kernel may write to is
//! never freed on hope.

use std::{
    collections::VecDeque,
    mem::{ManuallyDrop, forget},
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
    time::{Duration, Instant},
};

use io_uring::{
    IoUring, cqueue, opcode, squeue,
    types::{CancelBuilder, Fd, SubmitArgs, TimeoutFlags, Timespec},
};
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{RecvFlags, SocketAddrAny},
};

use super::{
    Address, Arrival, Completion, Errno, Expected, Operation, Outcome, Outgoing, PeerAddress,
    RecvLease, RecvNow, RecvSizes, Ring, SendQueue, Shutdown, Time, Token, Urgency, Wait, Waker,
    provided::BufferGroup, quiet, recv_pool::RecvStack, send::PIECES_MAX, socket,
    socket::LastDescriptors, standing,
};

/// `user_data` of a send is this, and the index of its queue: the queue has to be found again.
const SEND_BITS: u64 = (Operation::Send as u64) << Token::TAG_BITS;

/// `user_data` of the cancellation that a drop submits.
const DROP_BITS: u64 = 0;

/// The longest send that the kernel is asked to finish by itself.
const FINISHED_BYTES_MAX: usize = 1 << 20;

/// The longest send that is tried quietly: as much as a socket of an attentive peer has room for.
const QUIET_BYTES_MAX: usize = 32 * 1024;

/// A kernel that cannot finish cancelled operations within this keeps their memory.
const DRAIN_MAX: Duration = Duration::from_secs(2);

const GETEVENTS: u32 = 1;

/// Calls in a row in which the kernel goes on with what it has put off.
const CATCH_UP_MAX: u32 = 8;

/// What ends a poll: bytes, or that there will be no more. Errors do in any case.
const POLL_EVENTS: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;

/// How a ring is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UringOptions {
    /// Entries of the submission queue. A turn that queues more submits in between.
    pub submission_entries: u32,
    /// Entries of the completion queue; more completions than that wait in the kernel.
    pub completion_entries: u32,
    /// Receive buffers, a power of two of at most 32,768.
    pub recv_buffers: u16,
    /// Bytes in each receive buffer.
    pub recv_buffer_bytes: u32,
    /// Let the kernel fill a buffer piece by piece where it can (Linux 6.12), instead of using up a
    /// whole one for each receive. Where it cannot, the memory is divided into buffers of at most
    /// [`WHOLE_BUFFER_BYTES_MAX`]: few large ones would run out at once.
    pub recv_incremental: bool,
    /// Large buffers for long messages. They take no memory before one comes.
    pub large_buffers: u16,
    /// Bytes in each of them.
    pub large_buffer_bytes: u32,
    /// Let the kernel keep quiet about sends that succeed, where it can.
    pub quiet_sends: bool,
    /// For how long a turn looks for something to do before it sleeps, in microseconds.
    pub busy_poll_us: u32,
}

/// The largest receive buffer in place of an incremental one, on a kernel without those.
pub const WHOLE_BUFFER_BYTES_MAX: u32 = 16 * 1024;

impl Default for UringOptions {
    fn default() -> Self {
        Self {
            submission_entries: 512,
            completion_entries: 4096,
            // Buffers are used in turn, so that all of this memory passes through the cache: half
            // a megabyte stays in L2. Few large ones, so that a large message lies in few pieces.
            recv_buffers: 4,
            recv_buffer_bytes: 128 * 1024,
            recv_incremental: true,
            large_buffers: 4,
            large_buffer_bytes: 512 * 1024,
            quiet_sends: true,
            busy_poll_us: 0,
        }
    }
}

/// A send in flight: the queue that the kernel reads, and the caller's name for it.
#[derive(Debug)]
enum SendSlot {
    Free {
        next: u32,
    },
    InFlight {
        tag: u64,
        queue: Box<SendQueue>,
        /// The kernel says nothing of it unless it fails.
        quiet: bool,
    },
}

/// A send that is over.
#[derive(Debug)]
struct SendEnd {
    slot: u32,
    result: i32,
}

const NO_SLOT: u32 = u32::MAX;

/// The kernel's ring. It belongs to the thread that made it.
pub struct Uring {
    // Dropped by hand, and in this order, once nothing is in flight.
    ring: ManuallyDrop<IoUring>,
    buffers: ManuallyDrop<BufferGroup>,
    large_buffers: RecvStack,
    sends: ManuallyDrop<Vec<SendSlot>>,
    wake_count: ManuallyDrop<Box<[u8; 8]>>,
    free_send: u32,
    /// The slots of quiet sends of which it is not known yet that they are over.
    quiet_sends: Vec<u32>,
    /// The end of one of them is waited for: no turn sleeps before it is known.
    is_hastened: bool,
    knows_quiet: bool,
    recv_ready_at: usize,
    recv_sizes: RecvSizes,
    busy_poll_us: u32,
    last_descriptors: LastDescriptors,
    /// Turns that found something while they looked for it.
    sleeps_saved: u64,
    in_flight: usize,
    /// Addresses whose connect is queued but not submitted. Boxed, so that they stay put.
    #[expect(
        clippy::vec_box,
        reason = "the kernel reads them where they are while the Vec grows"
    )]
    connecting: Vec<Box<SocketAddrAny>>,
    tick_at: Box<Timespec>,
    tick_in_flight: bool,
    wake_in_flight: bool,
    waker: Waker,
    /// Completions copied out of the queue, not looked at yet.
    reaped: VecDeque<cqueue::Entry>,
    /// Those of sends, which are handed out first: they give memory back, and the others may take
    /// some. Behind a long row of the others, each of which is answered, they would come too late.
    reaped_sends: VecDeque<SendEnd>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("in_flight", &self.in_flight)
            .field("buffers", &*self.buffers)
            .field("large_buffers", &self.large_buffers)
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// Sets up a ring for the calling thread.
    ///
    /// # Errors
    ///
    /// What the kernel said; `ring::probe` tells what to do about it.
    ///
    /// # Panics
    ///
    /// When the number of receive buffers is not a power of two, or a size is 0.
    pub fn new(options: &UringOptions) -> Result<Self, Errno> {
        let mut ring = set_up(options)?;
        if !ring.params().is_feature_submit_stable() || !ring.params().is_feature_ext_arg() {
            return Err(Errno::new(libc::ENOSYS));
        }
        let knows_quiet = options.quiet_sends && quiet::is_known(&mut ring)?;
        let buffers = buffers(&ring, options)?.ok_or(Errno::new(libc::EINVAL))?;
        let large_bytes = options.large_buffer_bytes;
        let large_buffers = RecvStack::new(options.large_buffers, large_bytes, large_bytes)?;
        let waker = Waker::new(Some(eventfd(0, EventfdFlags::CLOEXEC)?));
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            busy_poll_us: options.busy_poll_us,
            last_descriptors: LastDescriptors::of_process(),
            sleeps_saved: 0,
            recv_ready_at: usize::from(buffers.pool().buffers()).div_ceil(2),
            // Of the memory as it was asked for, however it was divided.
            recv_sizes: RecvSizes::new(options.recv_buffers, options.recv_buffer_bytes),
            buffers: ManuallyDrop::new(buffers),
            large_buffers,
            sends: ManuallyDrop::new(Vec::new()),
            wake_count: ManuallyDrop::new(Box::new([0; 8])),
            free_send: NO_SLOT,
            quiet_sends: Vec::new(),
            is_hastened: false,
            knows_quiet,
            in_flight: 0,
            connecting: Vec::new(),
            tick_at: Box::new(Timespec::new()),
            tick_in_flight: false,
            wake_in_flight: false,
            waker,
            reaped: VecDeque::with_capacity(options.completion_entries as usize),
            reaped_sends: VecDeque::new(),
        })
    }

    /// Whether receive buffers are filled piece by piece.
    pub fn is_incremental(&self) -> bool {
        self.buffers.is_incremental()
    }

    /// Whether the kernel keeps quiet about sends that succeed.
    pub fn is_quiet(&self) -> bool {
        self.knows_quiet
    }

    /// How often something came while a turn looked for it before sleeping.
    pub fn sleeps_saved(&self) -> u64 {
        self.sleeps_saved
    }

    /// Leases on received bytes that were not recycled.
    pub fn leases(&self) -> usize {
        self.buffers.pool().leases() + self.large_buffers.leases()
    }

    /// Queues an operation. `entry` refers only to memory that stays where it is as the table in
    /// the module's page says.
    fn push(&mut self, entry: squeue::Entry) {
        self.in_flight += 1;
        loop {
            // SAFETY: whatever the entry points to outlives the operation: every caller is in this
            // file and moved the memory into `self` before, as the table on top says.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return;
            }
            self.flush();
        }
    }

    /// Makes room in a full submission queue.
    fn flush(&mut self) {
        // An error here (EBUSY: completions have to be taken first; EINTR) is mended by reaping
        // and trying again; any other one will meet the next turn, which can report it.
        let _ = self.ring.submit();
        self.forget_submitted();
        self.reap();
    }

    /// Frees what the kernel reads only until an operation is submitted, once all of them are.
    #[inline]
    fn forget_submitted(&mut self) {
        if !self.connecting.is_empty() && self.ring.submission().is_empty() {
            self.connecting.clear();
        }
    }

    /// Copies completions out, so that the kernel has room and dispatch cannot recurse. Returns how
    /// many there were, without the ends of quiet sends.
    fn reap(&mut self) -> usize {
        if self.reaped.is_empty() {
            // Starts from the front again, where its memory is in the cache.
            self.reaped.clear();
        }
        let mut count = 0;
        for entry in self.ring.completion() {
            count += 1;
            if entry.user_data() >> Token::TAG_BITS == Operation::Send as u64 {
                let slot = (entry.user_data() & u64::from(u32::MAX)) as u32;
                if let Some(SendSlot::InFlight { quiet, .. }) = self.sends.get_mut(slot as usize) {
                    *quiet = false;
                }
                let result = entry.result();
                self.reaped_sends.push_back(SendEnd { slot, result });
            } else {
                self.reaped.push_back(entry);
            }
        }
        if !self.quiet_sends.is_empty() {
            self.end_quiet_sends();
        }
        count
    }

    /// What the kernel has not complained of was sent: it tries a quiet send while it is submitted,
    /// once and without waiting, and what fails then is in the completion queue when the call
    /// returns, or in the overflow of that queue.
    fn end_quiet_sends(&mut self) {
        let submission = self.ring.submission();
        if !submission.is_empty() || submission.cq_overflow() {
            return;
        }
        drop(submission);
        self.is_hastened = false;
        for slot in self.quiet_sends.drain(..) {
            if let Some(SendSlot::InFlight { queue, quiet, .. }) = self.sends.get_mut(slot as usize)
                && std::mem::take(quiet)
            {
                // Quiet sends are short ones.
                let result = queue.len() as i32;
                self.reaped_sends.push_back(SendEnd { slot, result });
            }
        }
    }

    /// Whether every completion that was copied out was handed out.
    #[inline]
    fn nothing_reaped(&self) -> bool {
        self.reaped.is_empty() && self.reaped_sends.is_empty()
    }

    /// One `io_uring_enter(2)` that submits everything and waits for `least` completions.
    fn enter(&mut self, least: u32, timeout: Option<&Timespec>) -> Result<(), Errno> {
        let submitted = match timeout {
            Some(timeout) => {
                let args = SubmitArgs::new().timespec(timeout);
                self.ring
                    .submitter()
                    .submit_with_args(least as usize, &args)
            }
            None if least > 0 => self.ring.submit_and_wait(least as usize),
            None => return self.enter_now(GETEVENTS),
        };
        self.entered(submitted)
    }

    /// Lets the kernel go on with what it has put off. It does no more than twenty things in one
    /// call, and whoever is behind a crowd of others would come later by one of our turns for each
    /// twenty of them.
    fn catch_up(&mut self) -> Result<(), Errno> {
        for _ in 0..CATCH_UP_MAX {
            if !self.ring.submission().taskrun() {
                break;
            }
            self.enter_now(GETEVENTS)?;
            self.reap();
        }
        Ok(())
    }

    /// One `io_uring_enter(2)` that submits everything and waits for nothing.
    fn enter_now(&mut self, flags: u32) -> Result<(), Errno> {
        let queued = self.ring.submission().len() as u32;
        let submitter = self.ring.submitter();
        // SAFETY: no argument is passed that the kernel would read, and the entries that it submits
        // were vouched for when they were pushed.
        let submitted = unsafe { submitter.enter::<libc::sigset_t>(queued, 0, flags, None) };
        self.entered(submitted)
    }

    fn entered(&mut self, submitted: std::io::Result<usize>) -> Result<(), Errno> {
        match submitted.map_err(Errno::from) {
            Ok(_) => {
                self.forget_submitted();
                Ok(())
            }
            // A signal, the timeout, or a kernel that wants its completions taken first: a short
            // turn. Nothing is lost, what was not submitted stays queued.
            Err(errno)
                if matches!(
                    errno.number(),
                    libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN
                ) =>
            {
                Ok(())
            }
            Err(errno) => Err(errno),
        }
    }

    /// Looks for completions for a while, so that the thread need not be woken for those that come
    /// soon. The kernel puts none into the queue by itself: it sets a flag, and is entered then.
    /// Returns whether some came; quiet sends do not count.
    fn busy_poll(&mut self, until: Option<Time>) -> Result<bool, Errno> {
        self.enter(0, None)?;
        if self.reap() > 0 {
            return Ok(true);
        }
        let end = Time::from_ns(self.now().as_ns() + u64::from(self.busy_poll_us) * 1000);
        let end = until.map_or(end, |until| end.min(until));
        while self.now() < end {
            let submission = self.ring.submission();
            let has_something = submission.taskrun() || submission.cq_overflow();
            drop(submission);
            if !has_something {
                std::hint::spin_loop();
                continue;
            }
            self.enter_now(GETEVENTS)?;
            if self.reap() > 0 {
                self.sleeps_saved += 1;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the kernel may keep quiet about the end of this send.
    #[inline]
    fn can_be_quiet(&self, queue: &SendQueue) -> bool {
        self.knows_quiet && queue.fits_one_send() && queue.len() <= QUIET_BYTES_MAX
    }

    #[inline]
    fn send_quietly(&mut self, socket: &OwnedFd, token: Token, mut queue: Box<SendQueue>) {
        let entry = send_entry(socket, &mut queue, quiet::MESSAGE_FLAGS).flags(quiet::ENTRY_FLAGS);
        let index = self.claim_send_slot(token.tag(), queue, true);
        self.push(entry.user_data(SEND_BITS | u64::from(index)));
        // Behind the push, which may have submitted what was there before.
        self.quiet_sends.push(index);
    }

    /// Not inlined, so that quiet sends are: they are those of short messages.
    #[inline(never)]
    fn send_loudly(&mut self, socket: &OwnedFd, token: Token, mut queue: Box<SendQueue>) {
        // NOSIGNAL: a broken pipe is a result. WAITALL: the kernel finishes the send by itself,
        // which takes less than half the CPU at 256 KiB. Not for long ones: they complete each
        // time that the socket's buffer has room, which tells a slow reader from a dead one.
        // DONTWAIT where receive memory is sent, which no slow peer may keep.
        let mut flags = libc::MSG_NOSIGNAL;
        if queue.holds_leases() {
            flags |= libc::MSG_DONTWAIT;
        } else if queue.len() <= FINISHED_BYTES_MAX {
            flags |= libc::MSG_WAITALL;
        }
        let entry = send_entry(socket, &mut queue, flags);
        let index = self.claim_send_slot(token.tag(), queue, false);
        self.push(entry.user_data(SEND_BITS | u64::from(index)));
    }

    fn claim_send_slot(&mut self, tag: u64, queue: Box<SendQueue>, quiet: bool) -> u32 {
        let slot = SendSlot::InFlight { tag, queue, quiet };
        let index = self.free_send;
        match self.sends.get_mut(index as usize) {
            Some(free) => {
                if let SendSlot::Free { next } = *free {
                    self.free_send = next;
                }
                *free = slot;
                index
            }
            None => {
                self.sends.push(slot);
                self.sends.len() as u32 - 1
            }
        }
    }

    fn release_send_slot(&mut self, index: u32) -> Option<(u64, Box<SendQueue>)> {
        let slot = self.sends.get_mut(index as usize)?;
        match std::mem::replace(
            slot,
            SendSlot::Free {
                next: self.free_send,
            },
        ) {
            SendSlot::InFlight { tag, queue, .. } => {
                self.free_send = index;
                Some((tag, queue))
            }
            free @ SendSlot::Free { .. } => {
                *slot = free;
                None
            }
        }
    }

    /// Hands out a send that is over.
    #[inline]
    fn sent(&mut self, SendEnd { slot, result }: SendEnd) -> Option<Completion<OwnedFd>> {
        self.in_flight -= 1;
        let (tag, queue) = self.release_send_slot(slot)?;
        let result = usize::try_from(result).map_err(|_| Errno::new(-result));
        Some(Completion {
            token: Token::new(Operation::Send, tag),
            outcome: Outcome::Sent { queue, result },
            more: false,
        })
    }

    /// What any other completion of the kernel means. `None` for one that nobody waits for.
    #[inline]
    fn interpret(&mut self, entry: &cqueue::Entry) -> Option<Completion<OwnedFd>> {
        let (bits, result, flags) = (entry.user_data(), entry.result(), entry.flags());
        let more = cqueue::more(flags);
        if !more {
            self.in_flight -= 1;
        }
        let token = Token::from_bits(bits)?;
        let outcome = match token.operation() {
            Operation::Recv => match self.buffers.received(result, flags) {
                Some(lease) => Outcome::Received(lease),
                None if result == 0 => Outcome::EndOfStream,
                None if result < 0 => Outcome::Failed(Errno::new(-result)),
                // It was a poll, which ends with events, one at least, and without a buffer. It has
                // no name of its own: whoever cancels a receive does not know which it is.
                None => Outcome::Readable,
            },
            Operation::Accept if result >= 0 => {
                // SAFETY: a non-negative result of an accept is a new descriptor that is ours.
                Outcome::Accepted(unsafe { OwnedFd::from_raw_fd(result) })
            }
            Operation::Tick => {
                self.tick_in_flight = false;
                match -result {
                    libc::ETIME => Outcome::Done,
                    errno => Outcome::Failed(Errno::new(errno)),
                }
            }
            Operation::Wake => {
                self.wake_in_flight = false;
                self.waker.clear();
                if result < 0 {
                    Outcome::Failed(Errno::new(-result))
                } else {
                    Outcome::Woken
                }
            }
            _ if result < 0 => Outcome::Failed(Errno::new(-result)),
            _ => Outcome::Done,
        };
        Some(Completion {
            token,
            outcome,
            more,
        })
    }
}

/// Sets up the ring itself: with everything, then without what is newer than Linux 6.1.
fn set_up(options: &UringOptions) -> Result<IoUring, Errno> {
    let build = |array: bool| {
        let mut builder = IoUring::builder();
        builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_clamp()
            .setup_cqsize(options.completion_entries);
        if !array {
            builder.setup_no_sqarray();
        }
        builder.build(options.submission_entries)
    };
    match build(false) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(true),
        other => other,
    }
    .map_err(Errno::from)
}

/// The buffers that multishot receives fill.
fn buffers(ring: &IoUring, options: &UringOptions) -> Result<Option<BufferGroup>, Errno> {
    let mut sizes = (options.recv_buffers, options.recv_buffer_bytes);
    if options.recv_incremental {
        let buffers = BufferGroup::provide(ring, sizes, true)?;
        if buffers.is_some() {
            return Ok(buffers);
        }
        sizes = divided(sizes.0, sizes.1);
    }
    BufferGroup::provide(ring, sizes, false)
}

/// The same memory in buffers of at most [`WHOLE_BUFFER_BYTES_MAX`].
fn divided(mut buffers: u16, mut bytes: u32) -> (u16, u32) {
    while bytes > WHOLE_BUFFER_BYTES_MAX && buffers < 1 << 15 {
        buffers *= 2;
        bytes /= 2;
    }
    (buffers, bytes)
}

/// A send of what one send can take. The queue has to stay in its box.
#[inline]
fn send_entry(socket: &OwnedFd, queue: &mut SendQueue, flags: i32) -> squeue::Entry {
    match queue.only_piece() {
        Some(piece) => {
            // No real piece comes near 4 GiB; if one does, this send is a short one.
            let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            opcode::Send::new(fd(socket), piece.as_ptr(), len)
                .flags(flags)
                .build()
        }
        None => {
            let header = queue.vectored(PIECES_MAX);
            opcode::SendMsg::new(fd(socket), header)
                .flags(flags as u32)
                .build()
        }
    }
}

fn fd(socket: &OwnedFd) -> Fd {
    Fd(socket.as_raw_fd())
}

impl Ring for Uring {
    type Socket = OwnedFd;
    type Detached = OwnedFd;

    #[inline]
    fn now(&self) -> Time {
        Time::monotonic()
    }

    fn open(&mut self, address: &Address) -> Result<OwnedFd, Errno> {
        socket::stream(address)
    }

    fn open_from(&mut self, address: &Address, from: SocketAddr) -> Result<OwnedFd, Errno> {
        socket::stream_from(address, from)
    }

    fn adopt(&mut self, socket: OwnedFd) -> OwnedFd {
        socket
    }

    fn release(&mut self, socket: OwnedFd) -> OwnedFd {
        socket
    }

    fn submit_accept(&mut self, listener: &OwnedFd, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Accept);
        let accept = opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC);
        self.push(accept.build().user_data(token.bits()));
    }

    fn submit_connect(&mut self, socket: &OwnedFd, address: &Address, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Connect);
        // An address that no socket can have was refused where it was parsed.
        let any = socket::to_any(address).expect("the address was parsed");
        let any = Box::new(any);
        let connect = opcode::Connect::new(fd(socket), any.as_ptr().cast(), any.addr_len());
        self.connecting.push(any);
        self.push(connect.build().user_data(token.bits()));
    }

    #[inline]
    fn submit_recv(&mut self, socket: &OwnedFd, token: Token, arrival: Arrival) {
        debug_assert_eq!(token.operation(), Operation::Recv);
        let entry = match arrival {
            Arrival::Delivered => opcode::RecvMulti::new(fd(socket), BufferGroup::ID).build(),
            Arrival::Announced => opcode::PollAdd::new(fd(socket), POLL_EVENTS).build(),
        };
        self.push(entry.user_data(token.bits()));
    }

    fn recv_now(&mut self, socket: &OwnedFd, expected: Expected) -> RecvNow<OwnedFd> {
        let bytes_max = self.recv_sizes.bytes_max(expected);
        let mut room = 0;
        let received = self.large_buffers.receive(|buffer| {
            room = bytes_max.min(buffer.len());
            let buffer = &mut buffer[..room];
            let (_, bytes) = rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?;
            Ok(bytes)
        });
        RecvNow::new(received, room)
    }

    fn recv_sizes(&self) -> RecvSizes {
        self.recv_sizes
    }

    #[inline]
    fn submit_send(
        &mut self,
        socket: &OwnedFd,
        token: Token,
        queue: Box<SendQueue>,
        urgency: Urgency,
    ) {
        debug_assert_eq!(token.operation(), Operation::Send);
        assert!(!queue.is_empty(), "an empty queue was submitted");
        if urgency == Urgency::Unawaited && self.can_be_quiet(&queue) {
            self.send_quietly(socket, token, queue);
        } else {
            self.send_loudly(socket, token, queue);
        }
    }

    #[inline]
    fn hasten(&mut self, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Send);
        // All others are told of in any case. Which one it is makes no difference: a turn that does
        // not sleep ends them all.
        self.is_hastened = !self.quiet_sends.is_empty();
    }

    fn submit_cancel(&mut self, target: Token, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Cancel);
        debug_assert_ne!(
            target.operation(),
            Operation::Send,
            "a send is ended by shutdown"
        );
        let cancel = opcode::AsyncCancel::new(target.bits());
        self.push(cancel.build().user_data(token.bits()));
    }

    fn submit_close(&mut self, socket: OwnedFd, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Close);
        let close = opcode::Close::new(Fd(socket.into_raw_fd()));
        self.push(close.build().user_data(token.bits()));
    }

    fn submit_tick(&mut self, at: Time, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Tick);
        assert!(!self.tick_in_flight, "a second tick was submitted");
        self.tick_in_flight = true;
        *self.tick_at = Timespec::new()
            .sec(at.as_ns() / 1_000_000_000)
            .nsec((at.as_ns() % 1_000_000_000) as u32);
        let timeout = opcode::Timeout::new(&*self.tick_at).flags(TimeoutFlags::ABS);
        self.push(timeout.build().user_data(token.bits()));
    }

    fn submit_wake(&mut self, token: Token) {
        debug_assert_eq!(token.operation(), Operation::Wake);
        assert!(!self.wake_in_flight, "a second wake was submitted");
        self.wake_in_flight = true;
        let eventfd = self.waker.eventfd().map_or(-1, |fd| fd.as_raw_fd());
        let read = opcode::Read::new(Fd(eventfd), self.wake_count.as_mut_ptr(), 8);
        self.push(read.build().user_data(token.bits()));
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn shutdown(&mut self, socket: &OwnedFd, how: Shutdown) {
        socket::shutdown(socket, how);
    }

    fn is_among_last(&self, socket: &OwnedFd) -> bool {
        self.last_descriptors.have(socket)
    }

    fn peer_address(&self, socket: &OwnedFd) -> PeerAddress {
        socket::peer_address(socket)
    }

    fn unread_bytes(&self, socket: &OwnedFd) -> u64 {
        standing::unread_bytes(socket)
    }

    fn outgoing(&self, socket: &OwnedFd) -> Outgoing {
        standing::outgoing(socket)
    }

    #[inline]
    fn turn(&mut self, wait: Wait) -> Result<(), Errno> {
        // What is reaped already must not wait for more, nor what somebody waits for and the kernel
        // keeps quiet about.
        let wait = if self.nothing_reaped() && !self.is_hastened {
            wait
        } else {
            Wait::Poll
        };
        if self.busy_poll_us > 0 && wait != Wait::Poll {
            let until = match wait {
                Wait::Until(at) => Some(at),
                Wait::Poll | Wait::Forever => None,
            };
            if self.busy_poll(until)? {
                return Ok(());
            }
        }
        let entered = match wait {
            Wait::Poll => self.enter(0, None),
            Wait::Forever => self.enter(1, None),
            Wait::Until(at) => {
                let ns = at.ns_since(self.now());
                let timeout = Timespec::new()
                    .sec(ns / 1_000_000_000)
                    .nsec((ns % 1_000_000_000) as u32);
                self.enter(1, Some(&timeout))
            }
        };
        self.reap();
        entered?;
        // Whoever waits for nothing has something to do, and others wait meanwhile.
        if wait == Wait::Poll {
            self.catch_up()?;
        }
        Ok(())
    }

    #[inline]
    fn next_completion(&mut self) -> Option<Completion<OwnedFd>> {
        while let Some(end) = self.reaped_sends.pop_front() {
            if let Some(completion) = self.sent(end) {
                return Some(completion);
            }
        }
        loop {
            let entry = self.reaped.pop_front()?;
            if let Some(completion) = self.interpret(&entry) {
                return Some(completion);
            }
        }
    }

    fn completions_left(&self) -> usize {
        self.reaped.len() + self.reaped_sends.len()
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
            Arrival::Delivered => self.buffers.pool().free() >= self.recv_ready_at,
            Arrival::Announced => self.large_buffers.is_ready(),
        }
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}

impl Uring {
    /// Cancels everything and waits until nothing is in flight, or the bound is reached.
    fn drain(&mut self) -> bool {
        if self.in_flight > 0 {
            let every = CancelBuilder::any();
            let cancel = opcode::AsyncCancel2::new(every)
                .build()
                .user_data(DROP_BITS);
            self.push(cancel);
        }
        let deadline = Instant::now() + DRAIN_MAX;
        let slice = Timespec::new().nsec(50_000_000);
        while self.in_flight > 0 && Instant::now() < deadline {
            if self.nothing_reaped() && self.enter(1, Some(&slice)).is_err() {
                return false;
            }
            self.reap();
            while let Some(completion) = self.next_completion() {
                match completion.outcome {
                    Outcome::Received(lease) => self.recycle(lease),
                    Outcome::Sent { queue, .. } => {
                        for lease in queue.into_leases() {
                            self.recycle(lease);
                        }
                    }
                    Outcome::Accepted(socket) => drop(socket),
                    _ => {}
                }
            }
        }
        self.in_flight == 0
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let drained = self.drain();
        if drained {
            self.buffers.withdraw(&self.ring);
        } else {
            forget(std::mem::take(&mut self.connecting));
        }
        // SAFETY: this is the drop of `self`, and nothing below uses the field again.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if !drained {
            return;
        }
        // SAFETY: nothing is in flight and the kernel has forgotten the buffers; dropped once.
        // Their memory stays mapped if somebody still holds a lease.
        unsafe { ManuallyDrop::drop(&mut self.buffers) };
        // SAFETY: nothing is in flight, so that no send reads from these; dropped once.
        unsafe { ManuallyDrop::drop(&mut self.sends) };
        // SAFETY: nothing is in flight, so that no wake writes here; dropped once.
        unsafe { ManuallyDrop::drop(&mut self.wake_count) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_it_is_looked_for_ends_no_sleep() {
        for busy_poll_us in [0, 10_000_000] {
            let options = UringOptions {
                busy_poll_us,
                ..UringOptions::default()
            };
            let mut ring = Uring::new(&options).unwrap();
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            let ours = OwnedFd::from(ours);
            ring.submit_recv(&ours, Token::new(Operation::Recv, 1), Arrival::Delivered);
            // Nothing is there: it is armed and left alone.
            ring.turn(Wait::Poll).unwrap();
            assert!(ring.next_completion().is_none());
            let (ask, asked) = std::sync::mpsc::channel();
            let writing = std::thread::spawn(move || {
                while asked.recv().is_ok() {
                    rustix::io::write(&theirs, b"soon").unwrap();
                }
            });
            let deadline = Instant::now() + Duration::from_secs(10);
            // The other thread may be so fast that there is nothing to look for.
            for round in 0.. {
                ask.send(()).unwrap();
                ring.turn(Wait::Forever).unwrap();
                let outcome = ring.next_completion().map(|it| it.outcome);
                let Some(Outcome::Received(lease)) = outcome else {
                    panic!("a turn without an end has brought {outcome:?}");
                };
                assert_eq!(&lease[..], b"soon");
                ring.recycle(lease);
                if ring.sleeps_saved() > 0 || busy_poll_us == 0 && round == 9 {
                    break;
                }
                assert!(Instant::now() < deadline, "it was always too late");
            }
            assert_eq!(ring.sleeps_saved() > 0, busy_poll_us > 0);
            drop(ask);
            writing.join().unwrap();
        }
    }

    #[test]
    fn whole_buffers_are_many_and_small() {
        assert_eq!(divided(4, 128 * 1024), (32, 16 * 1024));
        assert_eq!(divided(64, 4096), (64, 4096));
        assert_eq!(divided(1 << 15, 1 << 20), (1 << 15, 1 << 20));
    }
}
