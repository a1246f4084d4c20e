//! The simulated kernel itself: rings, operations in flight, the clock.
//!
//! Knows: what the real kernel promises, which it keeps strictly; what it leaves open, which it
//! varies; what it expects of us, which it checks. Refuses to know: who drives it.
//!
//! ```text
//!   submit --> queued --> armed --(something to do)--> pending --(due)--> ready --> handed out
//!                 execute         pump                          deliver
//! ```
//!
//! One operation walks this path once, or, if it is a multishot one, its completions do. It is in
//! flight until its last completion has been handed out. All state is in vectors and ordered maps,
//! and all numbers are integers, so that a seed always gives the same run.
//!
//! A ring that goes by [readiness](Knob::Readiness) has no queue but that of its sends, and what is
//! on its way is not what came of an operation, but the news that it can be tried:
//!
//! ```text
//!   submit --> armed --(something to do)--> pending --(due)--> ready --> tried, and handed out
//!      |                   pump                      deliver      |        attend
//!      |                                                          +----> tried in vain: armed
//!      +--> queued, a send: tried when the next turn begins
//! ```

use std::collections::{BTreeMap, VecDeque};

use super::{
    SimOptions,
    faults::Faults,
    knobs::{Knob, Knobs},
    marks::Mark,
    network::{Network, SocketId},
};
use crate::ring::{
    Address, Arrival, Completion, Errno, Operation, Outcome, RecvLease, RecvSizes, SendQueue, Time,
    Token, Wait, Waker,
    recv_pool::{RecvPool, RecvStack},
    watched::{Arrived, Overdue},
};

/// Each turn takes a little time, as it does everywhere.
const TURN_NS: u64 = 1_000;

/// Sizes follow from buffers of so many bytes at least: no real ring has smaller ones.
const SIZED_BYTES_MIN: u32 = 256;

/// Connections that one turn of a ring accepts that goes by readiness: few, so that there are more.
const ACCEPTS_MAX: u32 = 2;

const NOT_FOUND: Errno = Errno::new(libc::ENOENT);
const ALREADY: Errno = Errno::new(libc::EALREADY);

/// What an operation does, and what the kernel remembers of it meanwhile.
#[derive(Debug)]
pub(super) enum Work {
    Accept,
    Cancel {
        target: Token,
    },
    Close,
    Connect {
        address: Address,
        hangs: bool,
    },
    Recv(Arrival),
    Send {
        queue: Box<SendQueue>,
        /// Bytes that the peer has already.
        taken: usize,
        /// It ends when all is taken, not with the first part.
        insists: bool,
        /// The peer's window is full.
        waits: bool,
        /// It is tried once, and ends no wait when all of it was taken.
        quiet: bool,
        /// It ends one by now.
        hastened: bool,
    },
    Tick {
        at: u64,
    },
    Wake,
    /// The operation ended; what it owned left with its last completion.
    Over,
}

impl Work {
    pub(super) fn send(queue: Box<SendQueue>, quiet: bool) -> Self {
        Self::Send {
            queue,
            taken: 0,
            insists: false,
            waits: false,
            quiet,
            hastened: false,
        }
    }

    fn operation(&self) -> Option<Operation> {
        Some(match self {
            Self::Accept => Operation::Accept,
            Self::Cancel { .. } => Operation::Cancel,
            Self::Close => Operation::Close,
            Self::Connect { .. } => Operation::Connect,
            Self::Recv(_) => Operation::Recv,
            Self::Send { .. } => Operation::Send,
            Self::Tick { .. } => Operation::Tick,
            Self::Wake => Operation::Wake,
            Self::Over => return None,
        })
    }
}

/// An operation from its submission until its last completion was handed out.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) work: Work,
    pub(super) socket: Option<SocketId>,
    /// Submitted, but not executed yet.
    pub(super) queued: bool,
    /// The ring was told that it can be tried, and has not tried it.
    pub(super) told: bool,
    /// Bytes that were there to be received when it was told.
    pub(super) told_bytes: usize,
    /// The next completion is to be the last: a cancel came too late.
    pub(super) last: bool,
    /// Completions made and handed out so far.
    pub(super) made: u32,
    pub(super) handed: u32,
    /// When its latest completion is due: the next one is not due earlier.
    pub(super) due: u64,
    pub(super) due_turn: u64,
}

/// A completion on its way, or the news that its operation can be tried.
#[derive(Debug)]
pub(super) struct Event {
    token: Token,
    /// None: it comes of trying, when it is handed out.
    completion: Option<Completion<SocketId>>,
    number: u32,
    due: u64,
    due_turn: u64,
    /// It is handed out with others, and ends no wait.
    quiet: bool,
    /// In which turn it was ready, and how many were before it.
    ready: (u64, usize),
}

impl Event {
    fn outcome(&self) -> Option<&Outcome<SocketId>> {
        self.completion.as_ref().map(|made| &made.outcome)
    }
}

/// One ring, as the kernel sees it.
#[derive(Debug)]
pub(super) struct RingState {
    /// By the bits of the token.
    pub(super) live: BTreeMap<u64, InFlight>,
    pub(super) queued: VecDeque<Token>,
    pub(super) submission_entries: usize,
    pub(super) pending: Vec<Event>,
    pub(super) ready: VecDeque<Event>,
    pub(super) pool: RecvPool,
    /// Buffers that the kernel may fill, in the order in which it will.
    pub(super) free: VecDeque<u16>,
    pub(super) large_buffers: RecvStack,
    pub(super) recv_sizes: RecvSizes,
    pub(super) incremental: bool,
    /// It is told what can be tried, and not what was done.
    pub(super) readiness: bool,
    /// It tries something: what comes of it is handed out now.
    pub(super) attending: bool,
    /// Connections that its turn may still accept, if it goes by readiness.
    accepts_left: u32,
    /// Its last wait ended for nothing.
    woken_in_vain: bool,
    pub(super) waker: Waker,
    pub(super) turn: u64,
    /// Its last turn gave way to another ring, and none was turned since.
    pub(super) yielded: bool,
    /// It was dropped.
    pub(super) gone: bool,
}

/// Everything that the rings, sockets and peers of one simulation share.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) faults: Faults,
    pub(super) network: Network,
    pub(super) rings: Vec<RingState>,
    left_behind: Vec<String>,
}

impl Kernel {
    pub(super) fn new(seed: u64, knobs: Knobs) -> Self {
        Self {
            faults: Faults::new(seed, knobs),
            network: Network::new(seed),
            rings: Vec::new(),
            left_behind: Vec::new(),
        }
    }

    // Rings.

    pub(super) fn add_ring(&mut self, options: &SimOptions) -> Result<usize, Errno> {
        let pool = RecvPool::new(options.recv_buffers, options.recv_buffer_bytes, false)?;
        let large_bytes = options.large_buffer_bytes;
        let large_buffers = RecvStack::new(options.large_buffers, large_bytes, large_bytes)?;
        // With less, every message would be a long one.
        let bytes = options.recv_buffer_bytes.max(SIZED_BYTES_MIN);
        let readiness = self.faults.roll(Knob::Readiness);
        // Who says how much is received into a buffer knows where its room begins.
        let incremental = readiness || self.faults.roll(Knob::IncrementalBuffers);
        if !incremental {
            self.faults.marks.reach(Mark::WholeBuffers);
        }
        self.rings.push(RingState {
            live: BTreeMap::new(),
            queued: VecDeque::new(),
            submission_entries: options.submission_entries,
            pending: Vec::new(),
            ready: VecDeque::new(),
            free: (0..pool.buffers()).collect(),
            pool,
            large_buffers,
            recv_sizes: RecvSizes::new(options.recv_buffers, bytes),
            incremental,
            readiness,
            attending: false,
            accepts_left: ACCEPTS_MAX,
            woken_in_vain: false,
            waker: Waker::new(None),
            turn: 0,
            yielded: false,
            gone: false,
        });
        Ok(self.rings.len() - 1)
    }

    pub(super) fn now(&self) -> Time {
        Time::from_ns(self.faults.now)
    }

    pub(super) fn advance_us(&mut self, us: u64) {
        self.faults.now += us * 1_000;
    }

    pub(super) fn waker(&self, ring: usize) -> Waker {
        self.rings[ring].waker.clone()
    }

    pub(super) fn in_flight(&self, ring: usize) -> usize {
        self.rings[ring].live.len()
    }

    /// Leases that were handed out and are not back.
    pub(super) fn leases(&self, ring: usize) -> usize {
        let state = &self.rings[ring];
        let events = state.pending.iter().chain(&state.ready);
        let received = |event: &&Event| matches!(event.outcome(), Some(Outcome::Received(_)));
        let all = state.pool.leases() + state.large_buffers.leases();
        all - events.filter(received).count()
    }

    pub(super) fn recv_ready(&self, ring: usize, arrival: Arrival) -> bool {
        let state = &self.rings[ring];
        match arrival {
            Arrival::Delivered => {
                state.pool.free() >= usize::from(state.pool.buffers()).div_ceil(2)
            }
            Arrival::Announced => state.large_buffers.is_ready(),
        }
    }

    pub(super) fn recv_sizes(&self, ring: usize) -> RecvSizes {
        self.rings[ring].recv_sizes
    }

    pub(super) fn completions_left(&self, ring: usize) -> usize {
        self.rings[ring].ready.len()
    }

    pub(super) fn has(&self, ring: usize, token: Token) -> bool {
        self.rings[ring].live.contains_key(&token.bits())
    }

    pub(super) fn is_armed(&self, ring: usize, token: Token) -> bool {
        let flight = self.rings[ring].live.get(&token.bits());
        flight.is_some_and(|flight| !matches!(flight.work, Work::Over))
    }

    pub(super) fn tells_late(&self, ring: usize, send: Token) -> bool {
        let state = &self.rings[ring];
        let flight = state.live.get(&send.bits());
        if let Some(Work::Send {
            quiet, hastened, ..
        }) = flight.map(|flight| &flight.work)
        {
            return *quiet && !hastened;
        }
        let mut events = state.pending.iter().chain(&state.ready);
        events.any(|event| event.token == send && event.quiet)
    }

    pub(super) fn each_queue(&self, ring: usize, look: &mut dyn FnMut(&SendQueue)) {
        let state = &self.rings[ring];
        for flight in state.live.values() {
            if let Work::Send { queue, .. } = &flight.work {
                look(queue);
            }
        }
        for event in state.pending.iter().chain(&state.ready) {
            if let Some(Outcome::Sent { queue, .. }) = event.outcome() {
                look(queue);
            }
        }
    }

    pub(super) fn arrived(&self, ring: usize, id: SocketId) -> Arrived {
        let socket = self.network.socket(id);
        let is_its = |event: &Event| {
            let token = event.token;
            let is_receive = token.operation() == Operation::Recv;
            // What will be tried in vain is nothing that anybody waits for.
            let brings = event.completion.is_some() || socket.has_something_to_receive();
            is_receive && brings && socket.in_flight.contains(&token)
        };
        Arrived {
            is_in_socket: socket.has_something_to_receive(),
            is_ready: self.rings[ring].ready.iter().any(is_its),
            handed_out: socket.handed_out,
        }
    }

    pub(super) fn is_late(&self, ring: usize) -> bool {
        !self.rings[ring].pending.is_empty()
    }

    pub(super) fn overdue(&self, ring: usize) -> Option<Overdue> {
        let state = &self.rings[ring];
        let event = state.ready.front()?;
        let (since, ahead) = event.ready;
        let turns = state.turn - since;
        (turns > ahead as u64).then_some(Overdue {
            token: event.token,
            turns,
            ahead,
        })
    }

    pub(super) fn split(
        &mut self,
        ring: usize,
        lease: RecvLease,
        at: usize,
    ) -> (RecvLease, RecvLease) {
        let ring = &mut self.rings[ring];
        if ring.large_buffers.owns(&lease) {
            ring.large_buffers.split(lease, at)
        } else {
            ring.pool.split(lease, at)
        }
    }

    pub(super) fn recycle(&mut self, ring: usize, lease: RecvLease) {
        let ring = &mut self.rings[ring];
        if ring.large_buffers.owns(&lease) {
            ring.large_buffers.recycle(lease);
        } else {
            ring.free.extend(ring.pool.release(lease));
        }
    }

    fn recycle_all(&mut self, ring: usize, queue: SendQueue) {
        for lease in queue.into_leases() {
            self.recycle(ring, lease);
        }
    }

    /// The ring is dropped: what is in flight ends unseen, and what it brought is given up.
    pub(super) fn leave(&mut self, ring: usize) {
        let state = &mut self.rings[ring];
        state.gone = true;
        state.queued.clear();
        let live = std::mem::take(&mut state.live);
        let mut events = std::mem::take(&mut state.pending);
        events.extend(state.ready.drain(..));
        for event in events {
            let Some(made) = event.completion else {
                continue;
            };
            match made.outcome {
                Outcome::Accepted(id) => self.network.close(&mut self.faults, id),
                Outcome::Received(lease) => self.recycle(ring, lease),
                Outcome::Sent { queue, .. } => self.recycle_all(ring, *queue),
                _ => {}
            }
        }
        for (bits, mut flight) in live {
            if let Work::Send { queue, .. } = &mut flight.work {
                self.recycle_all(ring, std::mem::take(&mut **queue));
            }
            if let Some(id) = flight.socket {
                self.network
                    .socket_mut(id)
                    .in_flight
                    .retain(|token| token.bits() != bits);
                if matches!(flight.work, Work::Close) {
                    self.network.close(&mut self.faults, id);
                }
                self.left_behind
                    .push(format!("{:?} when ring {ring} was dropped", flight.work));
            }
        }
        let leases = self.leases(ring);
        if leases > 0 {
            self.left_behind
                .push(format!("{leases} leases when ring {ring} was dropped"));
        }
    }

    /// What is left that should not be, at the end of a simulation.
    pub(super) fn remains(&mut self) -> Vec<String> {
        self.faults.marks.reach(Mark::OracleClean);
        let mut remains = self.left_behind.clone();
        for (index, ring) in self.rings.iter().enumerate().filter(|(_, ring)| !ring.gone) {
            // A tick and a wake may wait forever: they hold nothing.
            let tokens = ring.live.keys().filter_map(|&bits| Token::from_bits(bits));
            let held = tokens
                .filter(|token| !matches!(token.operation(), Operation::Tick | Operation::Wake));
            remains.extend(held.map(|token| format!("{token:?} in flight in ring {index}")));
            let leases = self.leases(index);
            if leases > 0 {
                remains.push(format!("{leases} leases of ring {index}"));
            }
        }
        remains.extend(self.network.left_open());
        remains
    }

    /// A handle of the code under test is dropped.
    pub(super) fn drop_socket(&mut self, id: SocketId) {
        let socket = self.network.socket(id);
        let unused = socket.used_by.is_none_or(|ring| self.rings[ring].gone);
        let in_flight = socket.in_flight.clone();
        self.faults.marks.reach(Mark::RuleSocketNotDropped);
        self.network.close(&mut self.faults, id);
        assert!(
            unused || std::thread::panicking(),
            "socket {id} was dropped after use instead of submitted for closing; in flight on it: \
             {in_flight:?}"
        );
    }

    /// A ring lets go of a socket.
    pub(super) fn release(&mut self, id: SocketId) {
        let socket = self.network.socket_mut(id);
        assert!(
            socket.open && socket.in_flight.is_empty(),
            "socket {id} breaks a rule of the ring: it was released with {:?} in flight",
            socket.in_flight
        );
        socket.used_by = None;
    }

    // Submission.

    pub(super) fn submit(&mut self, ring: usize, token: Token, id: Option<SocketId>, work: Work) {
        let same_kind = work.operation() == Some(token.operation());
        self.faults.rule(
            Mark::RuleTokenKind,
            same_kind,
            token,
            "the token names another operation",
        );
        let unique = !self.rings[ring].live.contains_key(&token.bits());
        self.faults.rule(
            Mark::RuleTokenUnique,
            unique,
            token,
            "the token is in flight already",
        );
        match &work {
            Work::Cancel { target } => {
                let fine = target.operation() != Operation::Send;
                self.faults
                    .rule(Mark::RuleSendNotCancelled, fine, token, "it cancels a send");
            }
            Work::Send { queue, .. } => {
                let fine = !queue.is_empty();
                self.faults
                    .rule(Mark::RuleSendNotEmpty, fine, token, "the queue is empty");
            }
            Work::Tick { .. } | Work::Wake => {
                let first = Token::new(token.operation(), 0).bits();
                let last = first | ((1 << Token::TAG_BITS) - 1);
                let first = self.rings[ring].live.range(first..=last).next().is_none();
                self.faults.rule(
                    Mark::RuleOneTickAndWake,
                    first,
                    token,
                    "one is in flight already",
                );
            }
            _ => {}
        }
        if let Some(id) = id {
            self.claim(ring, token, id, matches!(work, Work::Close));
        }
        self.faults.trace.event(
            self.faults.now,
            ring,
            "submit",
            token.bits(),
            id.map_or(0, |id| id as u64),
        );
        let state = &self.rings[ring];
        let at_once = state.readiness && !matches!(work, Work::Send { .. });
        if !state.readiness && state.queued.len() >= state.submission_entries {
            self.faults.marks.reach(Mark::SubmissionQueueFilled);
            self.execute(ring);
        }
        let flight = InFlight {
            work,
            socket: id,
            queued: true,
            told: false,
            told_bytes: 0,
            last: false,
            made: 0,
            handed: 0,
            due: 0,
            due_turn: 0,
        };
        let state = &mut self.rings[ring];
        let is_queued = !state.readiness;
        state.live.insert(token.bits(), flight);
        if at_once {
            self.execute_one(ring, token);
            self.deliver(ring);
            return;
        }
        state.queued.push_back(token);
        if is_queued && self.faults.roll(Knob::QueueFull) {
            self.execute(ring);
        }
    }

    /// Puts an operation on a socket, if the rules allow.
    fn claim(&mut self, ring: usize, token: Token, id: SocketId, closes: bool) {
        let socket = self.network.socket(id);
        let (open, in_flight) = (socket.open, socket.in_flight.clone());
        self.faults
            .rule(Mark::RuleOpenSocket, open, token, "the socket is closed");
        if closes {
            let rule = format!("closing a socket with {in_flight:?} in flight");
            self.faults
                .rule(Mark::RuleCloseJoined, in_flight.is_empty(), token, &rule);
        } else {
            let first = in_flight
                .iter()
                .all(|other| other.operation() != token.operation());
            let rule = "a second operation of its kind on one socket";
            self.faults.rule(Mark::RuleOneOfAKind, first, token, rule);
        }
        let socket = self.network.socket_mut(id);
        socket.used_by = Some(ring);
        socket.in_flight.push(token);
    }

    // Execution.

    fn execute(&mut self, ring: usize) {
        while let Some(token) = self.rings[ring].queued.pop_front() {
            self.execute_one(ring, token);
        }
    }

    fn execute_one(&mut self, ring: usize, token: Token) {
        let Some(mut flight) = self.rings[ring].live.remove(&token.bits()) else {
            return;
        };
        flight.queued = false;
        match &mut flight.work {
            Work::Cancel { target } => {
                let target = *target;
                let outcome = self.cancel(ring, target);
                self.complete(ring, token, &mut flight, outcome, false);
                if let Some(mut target_flight) = self.take_marked(ring, target) {
                    let outcome = Outcome::Failed(Errno::CANCELLED);
                    self.complete(ring, target, &mut target_flight, outcome, false);
                    self.rings[ring].live.insert(target.bits(), target_flight);
                }
            }
            Work::Close => {
                if let Some(id) = flight.socket {
                    self.network.close(&mut self.faults, id);
                }
                self.complete(ring, token, &mut flight, Outcome::Done, false);
            }
            Work::Connect { hangs, .. } => *hangs = self.faults.roll(Knob::ConnectHangs),
            // The real kernel looks for a buffer before it looks for data, unless it is asked to
            // poll first.
            Work::Recv(Arrival::Delivered)
                if !self.rings[ring].readiness
                    && self.rings[ring].free.is_empty()
                    && self.faults.prng(Knob::NoBuffers).coin() =>
            {
                self.faults.marks.reach(Mark::PoolExhausted);
                let outcome = Outcome::Failed(Errno::NO_BUFFERS);
                self.complete(ring, token, &mut flight, outcome, false);
            }
            _ => {}
        }
        self.rings[ring].live.insert(token.bits(), flight);
        self.step(ring, token);
    }

    /// Decides about a cancellation. A target that is hit is left marked as its last.
    fn cancel(&mut self, ring: usize, target: Token) -> Outcome<SocketId> {
        let found = self.rings[ring].live.get(&target.bits());
        let armed =
            found.is_some_and(|flight| !flight.queued && !matches!(flight.work, Work::Over));
        if !armed {
            self.faults.marks.reach(Mark::CancelNotFound);
            return Outcome::Failed(NOT_FOUND);
        }
        let ready = found.is_some_and(|flight| self.can_step(ring, flight));
        // What was not tried is not too late to be left alone.
        let readiness = self.rings[ring].readiness;
        let too_late = ready && !readiness && self.faults.roll(Knob::CancelTooLate);
        // The news of it would be taken for news of the next operation of its token.
        let is_news = |event: &Event| event.token == target && event.completion.is_none();
        let state = &mut self.rings[ring];
        state.pending.retain(|event| !is_news(event));
        state.ready.retain(|event| !is_news(event));
        if let Some(flight) = self.rings[ring].live.get_mut(&target.bits()) {
            flight.last = true;
        }
        if too_late {
            self.step(ring, target);
            let already = self.faults.prng(Knob::CancelTooLate).coin();
            return Outcome::Failed(if already { ALREADY } else { NOT_FOUND });
        }
        self.faults.marks.reach(Mark::CancelHit);
        Outcome::Done
    }

    /// Takes out the target of a cancel that hit, to be put back.
    fn take_marked(&mut self, ring: usize, target: Token) -> Option<InFlight> {
        let live = &mut self.rings[ring].live;
        let hit = live.get(&target.bits())?;
        let hit = hit.last && !matches!(hit.work, Work::Over);
        if hit {
            live.remove(&target.bits())
        } else {
            None
        }
    }

    // Completion.

    pub(super) fn complete(
        &mut self,
        ring: usize,
        token: Token,
        flight: &mut InFlight,
        outcome: Outcome<SocketId>,
        more: bool,
    ) {
        // By readiness, news is late, and nothing that is over.
        if !self.rings[ring].readiness {
            self.delay(ring, flight);
        }
        if !more {
            flight.work = Work::Over;
        }
        let completion = Completion {
            token,
            outcome,
            more,
        };
        let (number, due, due_turn) = (flight.made, flight.due, flight.due_turn);
        flight.made += 1;
        self.rings[ring].pending.push(Event {
            token,
            completion: Some(completion),
            number,
            due,
            due_turn,
            quiet: false,
            ready: (0, 0),
        });
    }

    /// What is on its way from now on may take its time.
    fn delay(&mut self, ring: usize, flight: &mut InFlight) {
        if self.faults.roll(Knob::CompletionDelayed) {
            let most = self.faults.knobs.completion_delay_ms_max * 1_000_000;
            flight.due = flight
                .due
                .max(self.faults.now + self.faults.prng(Knob::CompletionDelayed).up_to(most));
        }
        if self.faults.roll(Knob::CompletionHeld) {
            let most = self.faults.knobs.completion_held_turns_max;
            let turns = self.faults.prng(Knob::CompletionHeld).up_to(most);
            flight.due_turn = flight.due_turn.max(self.rings[ring].turn + turns);
        }
    }

    /// Tells a ring that goes by readiness that an operation can be tried.
    pub(super) fn tell(&mut self, ring: usize, token: Token, flight: &mut InFlight) {
        self.delay(ring, flight);
        self.put_news(ring, token, flight);
    }

    fn put_news(&mut self, ring: usize, token: Token, flight: &mut InFlight) {
        flight.told = true;
        let socket = flight.socket.map(|id| self.network.socket(id));
        flight.told_bytes = socket.map_or(0, |socket| socket.incoming.len());
        self.rings[ring].pending.push(Event {
            token,
            completion: None,
            number: flight.made,
            due: flight.due,
            due_turn: flight.due_turn,
            quiet: false,
            ready: (0, 0),
        });
    }

    /// Ends a wait for nothing: somebody else was faster, or what came was worth nothing.
    fn wake_in_vain(&mut self, ring: usize) {
        let live = &self.rings[ring].live;
        let can_be_tried = |flight: &InFlight| match flight.work {
            Work::Accept | Work::Recv(Arrival::Delivered) => true,
            Work::Send { waits, .. } => waits,
            _ => false,
        };
        let all = live
            .iter()
            .filter(|(_, flight)| !flight.queued && !flight.told && can_be_tried(flight));
        let all: Vec<u64> = all.map(|(&bits, _)| bits).collect();
        if all.is_empty() {
            return;
        }
        let any = self.faults.prng(Knob::WokenInVain).below(all.len() as u64) as usize;
        if let Some(token) = Token::from_bits(all[any])
            && let Some(mut flight) = self.rings[ring].live.remove(&all[any])
        {
            self.put_news(ring, token, &mut flight);
            self.rings[ring].live.insert(all[any], flight);
            self.deliver(ring);
        }
    }

    /// Tries an operation that the ring was told of. `None` when nothing came of it.
    fn attend(&mut self, ring: usize, token: Token) -> Option<Event> {
        let flight = self.rings[ring].live.get_mut(&token.bits())?;
        flight.told = false;
        let in_time = token.operation() != Operation::Accept || self.rings[ring].accepts_left > 0;
        if !in_time {
            self.faults.marks.reach(Mark::AcceptsPutOff);
            return None;
        }
        let before = self.rings[ring].pending.len();
        self.rings[ring].attending = true;
        self.step(ring, token);
        let state = &mut self.rings[ring];
        state.attending = false;
        if state.pending.len() == before {
            let mark = match token.operation() {
                Operation::Accept => Mark::AcceptInVain,
                Operation::Send => Mark::SendInVain,
                _ => Mark::ReceiveInVain,
            };
            self.faults.marks.reach(mark);
            return None;
        }
        let made = state.pending.pop();
        if token.operation() == Operation::Accept {
            state.accepts_left -= 1;
            // It is tried again behind all others who have something.
            if let Some(mut flight) = self.rings[ring].live.remove(&token.bits()) {
                if self.can_step(ring, &flight) {
                    self.put_news(ring, token, &mut flight);
                }
                self.rings[ring].live.insert(token.bits(), flight);
                self.deliver(ring);
            }
        }
        made
    }

    /// All of a quiet send was taken: nobody is woken for it, unless it was `hastened`.
    pub(super) fn complete_quietly(
        &mut self,
        ring: usize,
        token: Token,
        flight: &mut InFlight,
        outcome: Outcome<SocketId>,
        hastened: bool,
    ) {
        self.faults.marks.reach(Mark::QuietSend);
        flight.work = Work::Over;
        flight.made = 1;
        self.rings[ring].pending.push(Event {
            token,
            completion: Some(Completion {
                token,
                outcome,
                more: false,
            }),
            number: 0,
            due: 0,
            due_turn: 0,
            quiet: !hastened,
            ready: (0, 0),
        });
    }

    /// The end of a send is waited for from now on.
    pub(super) fn hasten(&mut self, ring: usize, token: Token) {
        let state = &mut self.rings[ring];
        let flight = state.live.get_mut(&token.bits());
        let fine = flight.is_some() && token.operation() == Operation::Send;
        let rule = "it hastens what is no send in flight";
        self.faults.rule(Mark::RuleSendHastened, fine, token, rule);
        if let Some(InFlight { work, .. }) = flight
            && let Work::Send {
                quiet, hastened, ..
            } = work
        {
            *hastened = true;
            self.faults.marks.reach_if(Mark::QuietSendHastened, *quiet);
        }
        let events = state.pending.iter_mut().chain(&mut state.ready);
        for event in events.filter(|event| event.token == token && event.quiet) {
            event.quiet = false;
            self.faults.marks.reach(Mark::QuietSendHastened);
        }
    }

    fn pump(&mut self, ring: usize) {
        let live = &self.rings[ring].live;
        let can: Vec<u64> = live
            .iter()
            .filter(|(_, flight)| !flight.told && self.can_step(ring, flight))
            .map(|(&bits, _)| bits)
            .collect();
        for bits in can {
            if let Some(token) = Token::from_bits(bits) {
                self.step(ring, token);
            }
        }
    }

    /// Makes what is due available. Returns whether anything is that ends a wait.
    fn deliver(&mut self, ring: usize) -> bool {
        let (now, state) = (self.faults.now, &mut self.rings[ring]);
        let is_due = |event: &Event| event.due <= now && event.due_turn <= state.turn;
        let (mut due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut state.pending)
            .into_iter()
            .partition(is_due);
        state.pending = rest;
        let mixed = due.windows(2).any(|two| two[0].token != two[1].token);
        if mixed && self.faults.draws(Knob::CompletionsReordered) {
            self.reorder(&mut due);
        }
        let state = &mut self.rings[ring];
        for mut event in due {
            event.ready = (state.turn, state.ready.len());
            state.ready.push_back(event);
        }
        state.ready.iter().any(|event| !event.quiet)
    }

    /// Shuffles, but keeps the order within each token.
    fn reorder(&mut self, events: &mut Vec<Event>) {
        let mut rest = std::mem::take(events);
        let mut moved = false;
        while !rest.is_empty() {
            let prng = self.faults.prng(Knob::CompletionsReordered);
            let any = prng.below(rest.len() as u64) as usize;
            let token = rest[any].token;
            let first = rest.iter().position(|event| event.token == token);
            let first = first.unwrap_or(any);
            moved |= first > 0;
            events.push(rest.remove(first));
        }
        if moved {
            self.faults.acts(Knob::CompletionsReordered);
        }
    }

    pub(super) fn turn(&mut self, ring: usize, wait: Wait) {
        for (index, other) in self.rings.iter_mut().enumerate() {
            other.yielded &= index == ring;
        }
        self.rings[ring].turn += 1;
        self.rings[ring].accepts_left = ACCEPTS_MAX;
        self.faults.now += TURN_NS;
        self.faults.trace.event(self.faults.now, ring, "turn", 0, 0);
        if self.faults.roll(Knob::ClockJump) {
            let most = self.faults.knobs.clock_jump_ms_max;
            let ms = self.faults.prng(Knob::ClockJump).up_to(most);
            self.advance_us(ms * 1_000);
        }
        self.execute(ring);
        self.pump(ring);
        if self.deliver(ring) {
            return;
        }
        let until = match wait {
            Wait::Poll => return,
            Wait::Forever => u64::MAX,
            Wait::Until(at) => at.as_ns(),
        };
        if !self.rings[ring].ready.is_empty() {
            self.faults.marks.reach(Mark::QuietSendWaited);
        }
        // Not twice on end: a ring that is always woken in vain never sees the clock move.
        let may_be_vain = !std::mem::take(&mut self.rings[ring].woken_in_vain);
        if self.rings[ring].readiness && may_be_vain && self.faults.roll(Knob::WokenInVain) {
            self.rings[ring].woken_in_vain = true;
            return self.wake_in_vain(ring);
        }
        // Nothing is due here. Whoever has something to do now goes first; but a ring that is asked
        // again before any other was turned is the only one that anybody drives.
        let other_busy =
            (0..self.rings.len()).any(|other| other != ring && self.has_something_now(other));
        if other_busy && !std::mem::replace(&mut self.rings[ring].yielded, true) {
            self.faults.marks.reach(Mark::TurnYielded);
            return;
        }
        if self.rings[ring]
            .pending
            .iter()
            .any(|event| event.due <= self.faults.now)
        {
            // Held for some turns: a short turn, as after a signal.
            return;
        }
        let next = self.next_event().unwrap_or(until).min(until);
        if next == u64::MAX || next <= self.faults.now {
            return;
        }
        self.faults.now = next;
        self.faults.marks.reach(Mark::ClockAdvanced);
        self.faults
            .trace
            .event(self.faults.now, ring, "clock", 0, 0);
        self.pump(ring);
        self.deliver(ring);
    }

    fn has_something_now(&self, ring: usize) -> bool {
        let state = &self.rings[ring];
        !state.queued.is_empty()
            || state.ready.iter().any(|event| !event.quiet)
            || state
                .pending
                .iter()
                .any(|event| event.due <= self.faults.now && !event.quiet)
            || state
                .live
                .values()
                .any(|flight| !flight.told && self.can_step(ring, flight))
    }

    /// When the next completion or tick of any ring is due, of those that are still to come.
    fn next_event(&self) -> Option<u64> {
        let times = self.rings.iter().flat_map(|state| {
            let ticks = state.live.values().filter_map(|flight| match flight.work {
                Work::Tick { at } if !flight.queued => Some(at),
                _ => None,
            });
            state.pending.iter().map(|event| event.due).chain(ticks)
        });
        times.filter(|&time| time > self.faults.now).min()
    }

    pub(super) fn next_completion(&mut self, ring: usize) -> Option<Completion<SocketId>> {
        let (completion, number) = loop {
            let event = self.rings[ring].ready.pop_front()?;
            let event = match event.completion {
                Some(_) => Some(event),
                None => self.attend(ring, event.token),
            };
            let Some(event) = event else {
                continue;
            };
            if let Some(completion) = event.completion {
                break (completion, event.number);
            }
        };
        let Completion {
            token,
            ref outcome,
            more,
        } = completion;
        let flight = self.rings[ring].live.get_mut(&token.bits());
        let in_order = flight
            .as_ref()
            .is_some_and(|flight| flight.handed == number && (more || flight.made == number + 1));
        let id = flight.and_then(|flight| {
            flight.handed += 1;
            flight.socket
        });
        self.faults.rule(
            Mark::OracleOrder,
            in_order,
            token,
            "its completions are out of order",
        );
        if matches!(outcome, Outcome::Received(_) | Outcome::EndOfStream)
            && let Some(id) = id
        {
            let ends = matches!(outcome, Outcome::EndOfStream);
            let over = std::mem::replace(&mut self.network.socket_mut(id).end_seen, ends);
            self.faults.rule(
                Mark::OracleEndIsLast,
                ends || !over,
                token,
                "bytes after the end",
            );
        }
        if matches!(outcome, Outcome::Woken) {
            self.rings[ring].waker.clear();
        }
        if let (Some(id), Operation::Recv) = (id, token.operation()) {
            self.network.socket_mut(id).hand_out(outcome);
        }
        if !more {
            self.rings[ring].live.remove(&token.bits());
            if let Some(id) = id {
                self.network
                    .socket_mut(id)
                    .in_flight
                    .retain(|&other| other != token);
            }
        }
        let (kind, number) = describe(outcome);
        self.faults.trace.event(
            self.faults.now,
            ring,
            kind,
            token.bits(),
            number << 1 | u64::from(more),
        );
        Some(completion)
    }
}

/// An outcome as the trace has it.
fn describe(outcome: &Outcome<SocketId>) -> (&'static str, u64) {
    match outcome {
        Outcome::Accepted(id) => ("accepted", *id as u64),
        Outcome::Done => ("done", 0),
        Outcome::EndOfStream => ("end of stream", 0),
        Outcome::Failed(errno) => ("failed", errno.number() as u64),
        Outcome::Readable => ("readable", 0),
        Outcome::Received(lease) => ("received", lease.len() as u64),
        Outcome::Sent {
            result: Ok(bytes), ..
        } => ("sent", *bytes as u64),
        Outcome::Sent {
            result: Err(errno), ..
        } => ("not sent", errno.number() as u64),
        Outcome::Woken => ("woken", 0),
    }
}
