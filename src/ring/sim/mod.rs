//! A simulated kernel: the ring for tests.
//!
//! Knows: how to look like a real ring to a shard, several of them in one thread, with every fault
//! that a seed asks for. Refuses to know: what the shard is for.
//!
//! ```text
//!   server shard --> SimRing --+                       +--> SimPeer (plain or hostile bytes)
//!                              +--> SimKernel (seed) --+
//!   client shard --> SimRing --+    clock, sockets     +--> trace, marks
//! ```
//!
//! Nothing blocks. A turn in which nothing is due moves the virtual clock to the next event, or,
//! when another ring has something to do now, returns with nothing so that its driver can turn the
//! other one. All of it is a function of the seed, the knobs and the calls: run twice, a seed gives
//! the same [`SimKernel::trace_hash`].
//!
//! A ring is one of two kinds, drawn when it is made. One completes operations, as
//! [`Uring`](super::Uring) does. The other goes by [readiness](Knob::Readiness), as
//! [`Epoll`](super::Epoll) does:
//!
//! * What is submitted is over at once where it can be. Sends leave when the next turn begins.
//! * A receive happens when its completion is handed out, once for each socket and turn, and brings
//!   what has come until then. So does an accept, a batch in each turn.
//! * A send that was short is followed by one that waits for the news of room.
//! * Nothing comes too late to be cancelled, and no send insists on all of its bytes:
//!   [`Knob::CancelTooLate`], [`Knob::QueueFull`] and [`Knob::SendWaits`] do not act there.
//! * A wait ends for nothing, and something is tried in vain: [`Knob::WokenInVain`].
//! * What was ready is not there when it is tried: [`Knob::ReadyInVain`], which acts on what is
//!   announced by rings of both kinds as well. News that is late is [`Knob::CompletionDelayed`],
//!   [`Knob::CompletionHeld`] and [`Knob::CompletionsReordered`], and a send that takes less than
//!   there is room for is [`Knob::ShortSend`], as ever.
//!
//! It checks the code under test as it goes and panics with the token and the rule that was broken;
//! [`SimKernel::assert_clean`] checks what is left in the end. What was reached is counted in
//! [`Marks`], because a simulation in which a fault never acts passes for the wrong reason.

mod faults;
mod kernel;
mod knobs;
mod marks;
mod network;
mod operations;
mod peer;

use std::{cell::RefCell, fmt, rc::Rc};

use faults::Faults;
use kernel::{Kernel, Work};
use network::{Holder, Network, SocketId};

pub use knobs::{Knob, Knobs, Prng};
pub use marks::{Mark, Marks};
pub use peer::{SimPeer, SimPeerListener, SimRead};

use super::{
    Address, Arrival, Completion, Errno, Expected, Outcome, Outgoing, PeerAddress, RecvLease,
    RecvNow, RecvSizes, Ring, SendQueue, Shutdown, Time, Token, Urgency, Wait, Waker,
    watched::{Arrived, Overdue, Watched},
};

type Shared = Rc<RefCell<Kernel>>;

fn with_network<T>(shared: &Shared, act: impl FnOnce(&mut Network, &mut Faults) -> T) -> T {
    let Kernel {
        network, faults, ..
    } = &mut *shared.borrow_mut();
    act(network, faults)
}

/// What the rings, sockets and peers of one simulation have in common. Clones are the same kernel.
#[derive(Clone)]
pub struct SimKernel {
    shared: Shared,
}

impl SimKernel {
    /// A kernel in which `knobs` act as `seed` says.
    pub fn new(seed: u64, knobs: Knobs) -> Self {
        Self {
            shared: Rc::new(RefCell::new(Kernel::new(seed, knobs))),
        }
    }

    /// Another ring of this kernel.
    ///
    /// # Errors
    ///
    /// When there is no memory for its receive buffers.
    ///
    /// # Panics
    ///
    /// When a size of the options is 0.
    pub fn ring(&self, options: &SimOptions) -> Result<SimRing, Errno> {
        assert!(
            options.submission_entries > 0,
            "a submission queue has entries"
        );
        let id = self.shared.borrow_mut().add_ring(options)?;
        Ok(SimRing {
            shared: Rc::clone(&self.shared),
            id,
        })
    }

    /// A listener at exactly `address`. Several at one address share its connections, as with
    /// `SO_REUSEPORT`.
    pub fn listen(&self, address: &Address) -> SimSocket {
        let listen = |network: &mut Network, _: &mut Faults| network.listen(Holder::Ring, address);
        self.socket(with_network(&self.shared, listen))
    }

    /// A listener whose connections become raw peers, for clients to be tested against.
    pub fn listen_outside(&self, address: &Address) -> SimPeerListener {
        let listen =
            |network: &mut Network, _: &mut Faults| network.listen(Holder::Outside, address);
        let id = with_network(&self.shared, listen);
        SimPeerListener::new(Rc::clone(&self.shared), id)
    }

    /// A raw peer that is connected to the listener at `address`, in whose backlog it waits.
    ///
    /// # Errors
    ///
    /// ECONNREFUSED when nobody listens there.
    pub fn connect(&self, address: &Address) -> Result<SimPeer, Errno> {
        let id = with_network(&self.shared, |network, faults| {
            let id = network.open(faults, Holder::Outside)?;
            network.connect(faults, id, address).map(|()| id)
        })?;
        Ok(SimPeer::new(Rc::clone(&self.shared), id))
    }

    /// A socket and the raw peer that it is connected to, as by `socketpair(2)`.
    pub fn pair(&self) -> (SimSocket, SimPeer) {
        let (ours, theirs) = with_network(&self.shared, Network::pair);
        (
            self.socket(ours),
            SimPeer::new(Rc::clone(&self.shared), theirs),
        )
    }

    /// The virtual clock.
    pub fn now(&self) -> Time {
        self.shared.borrow().now()
    }

    /// Moves the virtual clock ahead.
    pub fn advance(&self, ms: u64) {
        self.advance_us(1_000 * ms);
    }

    /// As [`advance`](Self::advance), by microseconds: what a call of a service takes.
    pub fn advance_us(&self, us: u64) {
        self.shared.borrow_mut().advance_us(us);
    }

    /// What was reached so far.
    pub fn marks(&self) -> Marks {
        self.shared.borrow().faults.marks.clone()
    }

    /// A hash of everything that happened so far.
    pub fn trace_hash(&self) -> u64 {
        self.shared.borrow().faults.trace.hash()
    }

    /// From now on, everything that happens is written down for [`trace`](Self::trace).
    pub fn keep_trace(&self) {
        self.shared.borrow_mut().faults.trace.keep_text();
    }

    /// What happened since [`keep_trace`](Self::keep_trace), a line each.
    pub fn trace(&self) -> String {
        self.shared.borrow().faults.trace.text().to_owned()
    }

    /// Checks that the code under test has cleaned up: nothing is in flight but ticks and wakes,
    /// all leases were recycled, all its sockets are closed, and no ring was dropped before that.
    ///
    /// # Panics
    ///
    /// When it has not, with a list of what is left.
    pub fn assert_clean(&self) {
        let remains = self.shared.borrow_mut().remains();
        assert!(
            remains.is_empty(),
            "left at the end of the simulation: {remains:#?}"
        );
    }

    /// Whether [`assert_clean`](Self::assert_clean) would find nothing.
    pub fn is_clean(&self) -> bool {
        self.shared.borrow_mut().remains().is_empty()
    }

    fn socket(&self, id: SocketId) -> SimSocket {
        SimSocket {
            shared: Rc::clone(&self.shared),
            id,
            closing: false,
        }
    }
}

impl fmt::Debug for SimKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimKernel")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

/// How a simulated ring is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// Entries of the submission queue. A turn that queues more submits in between.
    pub submission_entries: usize,
    /// Receive buffers.
    pub recv_buffers: u16,
    /// Bytes in each receive buffer.
    pub recv_buffer_bytes: u32,
    /// Large receive buffers.
    pub large_buffers: u16,
    /// Bytes in each of them.
    pub large_buffer_bytes: u32,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            submission_entries: 512,
            recv_buffers: 16,
            recv_buffer_bytes: 4096,
            large_buffers: 2,
            large_buffer_bytes: 16 * 1024,
        }
    }
}

/// A socket of a [`SimKernel`], as the code under test holds it.
///
/// # Panics
///
/// Dropping one that was used panics, unless the ring that used it is gone or has let it go: it has
/// to be closed with [`Ring::submit_close`].
pub struct SimSocket {
    shared: Shared,
    id: SocketId,
    /// The ring has it now.
    closing: bool,
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimSocket({})", self.id)
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        // Unwinding may come from within the kernel, which then cannot be asked.
        if !self.closing
            && let Ok(mut kernel) = self.shared.try_borrow_mut()
        {
            kernel.drop_socket(self.id);
        }
    }
}

/// A ring of a [`SimKernel`].
pub struct SimRing {
    shared: Shared,
    id: usize,
}

impl SimRing {
    /// Leases on received bytes that were not recycled.
    pub fn leases(&self) -> usize {
        self.shared.borrow().leases(self.id)
    }

    /// The outcome, with a socket for its number.
    fn named(&self, outcome: Outcome<SocketId>) -> Outcome<SimSocket> {
        match outcome {
            Outcome::Accepted(id) => Outcome::Accepted(SimSocket {
                shared: Rc::clone(&self.shared),
                id,
                closing: false,
            }),
            Outcome::Done => Outcome::Done,
            Outcome::EndOfStream => Outcome::EndOfStream,
            Outcome::Failed(errno) => Outcome::Failed(errno),
            Outcome::Readable => Outcome::Readable,
            Outcome::Received(lease) => Outcome::Received(lease),
            Outcome::Sent { queue, result } => Outcome::Sent { queue, result },
            Outcome::Woken => Outcome::Woken,
        }
    }

    fn submit(&self, token: Token, socket: Option<&SimSocket>, work: Work) {
        let same = socket.is_none_or(|socket| Rc::ptr_eq(&socket.shared, &self.shared));
        assert!(
            same,
            "{token:?} breaks a rule of the ring: a socket of another kernel"
        );
        let id = socket.map(|socket| socket.id);
        self.shared.borrow_mut().submit(self.id, token, id, work);
    }
}

impl fmt::Debug for SimRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRing")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl Drop for SimRing {
    fn drop(&mut self) {
        if let Ok(mut kernel) = self.shared.try_borrow_mut() {
            kernel.leave(self.id);
        }
    }
}

impl Ring for SimRing {
    type Socket = SimSocket;
    type Detached = SimSocket;

    fn now(&self) -> Time {
        self.shared.borrow().now()
    }

    fn open(&mut self, _address: &Address) -> Result<SimSocket, Errno> {
        let id = with_network(&self.shared, |network, faults| {
            network.open(faults, Holder::Ring)
        })?;
        Ok(SimSocket {
            shared: Rc::clone(&self.shared),
            id,
            closing: false,
        })
    }

    fn adopt(&mut self, socket: SimSocket) -> SimSocket {
        socket
    }

    fn release(&mut self, socket: SimSocket) -> SimSocket {
        self.shared.borrow_mut().release(socket.id);
        socket
    }

    fn submit_accept(&mut self, listener: &SimSocket, token: Token) {
        self.submit(token, Some(listener), Work::Accept);
    }

    fn submit_connect(&mut self, socket: &SimSocket, address: &Address, token: Token) {
        let work = Work::Connect {
            address: address.clone(),
            hangs: false,
        };
        self.submit(token, Some(socket), work);
    }

    fn submit_recv(&mut self, socket: &SimSocket, token: Token, arrival: Arrival) {
        self.submit(token, Some(socket), Work::Recv(arrival));
    }

    fn recv_now(&mut self, socket: &SimSocket, expected: Expected) -> RecvNow<SimSocket> {
        let mut kernel = self.shared.borrow_mut();
        let RecvNow {
            outcome,
            is_drained,
        } = kernel.recv_now(self.id, socket.id, expected);
        drop(kernel);
        RecvNow {
            outcome: self.named(outcome),
            is_drained,
        }
    }

    fn recv_sizes(&self) -> RecvSizes {
        self.shared.borrow().recv_sizes(self.id)
    }

    fn submit_send(
        &mut self,
        socket: &SimSocket,
        token: Token,
        queue: Box<SendQueue>,
        urgency: Urgency,
    ) {
        let quiet = urgency == Urgency::Unawaited && queue.fits_one_send();
        self.submit(token, Some(socket), Work::send(queue, quiet));
    }

    fn hasten(&mut self, token: Token) {
        self.shared.borrow_mut().hasten(self.id, token);
    }

    fn submit_cancel(&mut self, target: Token, token: Token) {
        self.submit(token, None, Work::Cancel { target });
    }

    fn submit_close(&mut self, mut socket: SimSocket, token: Token) {
        self.submit(token, Some(&socket), Work::Close);
        socket.closing = true;
    }

    fn submit_tick(&mut self, at: Time, token: Token) {
        self.submit(token, None, Work::Tick { at: at.as_ns() });
    }

    fn submit_wake(&mut self, token: Token) {
        self.submit(token, None, Work::Wake);
    }

    fn waker(&self) -> Waker {
        self.shared.borrow().waker(self.id)
    }

    fn shutdown(&mut self, socket: &SimSocket, how: Shutdown) {
        with_network(&self.shared, |network, faults| {
            network.shutdown(faults, socket.id, how)
        });
    }

    fn is_among_last(&self, _: &SimSocket) -> bool {
        with_network(&self.shared, |_, faults| faults.roll(Knob::FewDescriptors))
    }

    fn peer_address(&self, socket: &SimSocket) -> PeerAddress {
        self.shared.borrow().network.peer_address(socket.id)
    }

    fn unread_bytes(&self, socket: &SimSocket) -> u64 {
        self.shared.borrow().network.unread_bytes(socket.id)
    }

    fn outgoing(&self, socket: &SimSocket) -> Outgoing {
        let held_bytes = self.shared.borrow().network.held_bytes(socket.id);
        Outgoing {
            held_bytes,
            taken: None,
        }
    }

    fn turn(&mut self, wait: Wait) -> Result<(), Errno> {
        self.shared.borrow_mut().turn(self.id, wait);
        Ok(())
    }

    fn next_completion(&mut self) -> Option<Completion<SimSocket>> {
        let completion = self.shared.borrow_mut().next_completion(self.id)?;
        let Completion {
            token,
            outcome,
            more,
        } = completion;
        Some(Completion {
            token,
            outcome: self.named(outcome),
            more,
        })
    }

    fn completions_left(&self) -> usize {
        self.shared.borrow().completions_left(self.id)
    }

    fn split(&mut self, lease: RecvLease, at: usize) -> (RecvLease, RecvLease) {
        self.shared.borrow_mut().split(self.id, lease, at)
    }

    fn recycle(&mut self, lease: RecvLease) {
        self.shared.borrow_mut().recycle(self.id, lease);
    }

    fn recv_ready(&self, arrival: Arrival) -> bool {
        self.shared.borrow().recv_ready(self.id, arrival)
    }

    fn in_flight(&self) -> usize {
        self.shared.borrow().in_flight(self.id)
    }
}

impl Watched for SimRing {
    fn has(&self, token: Token) -> bool {
        self.shared.borrow().has(self.id, token)
    }

    fn is_armed(&self, token: Token) -> bool {
        self.shared.borrow().is_armed(self.id, token)
    }

    fn tells_late(&self, send: Token) -> bool {
        self.shared.borrow().tells_late(self.id, send)
    }

    fn each_queue(&self, look: &mut dyn FnMut(&SendQueue)) {
        self.shared.borrow().each_queue(self.id, look);
    }

    fn arrived(&self, socket: &SimSocket) -> Arrived {
        self.shared.borrow().arrived(self.id, socket.id)
    }

    fn is_late(&self) -> bool {
        self.shared.borrow().is_late(self.id)
    }

    fn overdue(&self) -> Option<Overdue> {
        self.shared.borrow().overdue(self.id)
    }
}
