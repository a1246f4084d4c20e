//! One thread's loop: connections to open, instants to keep, replies to hand on.
//!
//! Knows: a [`Client`], the places of its connections, phases and slices. Refuses to know: what is
//! sent and what replies mean, which is a [`Workload`]'s.
//!
//! ```text
//!   connect all --> wait for the start --> [ due messages --> turn ]* --> drain --> close
//!                                               |               |
//!                                               v               v
//!                                         Workload::due   Workload::message
//! ```
//!
//! Nothing is shared between threads while load runs. What a thread has counted goes out a slice at
//! a time, by value, to whoever adds it up.

mod lives;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    num::NonZeroU64,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
};

use hdrhistogram::Histogram;
use lives::{Alarms, Life};
use ringwire::{
    CloseCause, Config, Conn, ConnId, Counts, Errno, Message, Service, Timeout, Turn,
    client::{Client, Dial, Time, Wait},
};

use crate::{
    environment::now_ns,
    histogram,
    plan::Plan,
    result::{Bytes, CompressionFigures, Messages},
    schedule::{Schedule, Share},
};

/// Opening handshakes that one thread has under way at one time.
const DIALS_MAX: usize = 128;

/// Messages that are sent between two turns at most, so that replies are read meanwhile.
const DUE_MAX: usize = 256;

/// Due messages that wait for their connections, of one thread. More are counted and let go.
const BACKLOG_MAX: usize = 4 << 20;

/// A message that is sent later than this is counted as late, in nanoseconds.
const LATE_NS: u64 = 1_000_000;

/// How long closing the connections may take at the end, in milliseconds.
const CLOSE_MAX_MS: u64 = 1000;

/// How often a waiting thread looks whether the start is set, in nanoseconds.
const LOOK_NS: u64 = 500_000;

/// How often a thread looks at the end whether all replies have come, in nanoseconds.
const QUIET_NS: u64 = 1_000_000;

/// A look around that finds nothing takes less than this, in nanoseconds; one that took longer was
/// interrupted, and did not use the processor for all of it.
const SPIN_MAX_NS: u64 = 5_000;

/// The longest wait in the loop, so that Ctrl-C is heard, in nanoseconds.
const WAIT_MAX_NS: u64 = 50_000_000;

/// When a run starts and how it is cut, in nanoseconds on the ring's clock.
#[derive(Clone, Debug)]
pub struct Start {
    /// The first instant.
    pub start_ns: u64,
    /// Where the measured part begins.
    pub measure_from_ns: u64,
    /// Where it ends.
    pub end_ns: u64,
    /// The length of a slice.
    pub slice_ns: u64,
    /// Each shard's share of the connections; `None` for those that have none.
    pub shares: Vec<Option<Share>>,
}

/// What the threads of a run have in common.
#[derive(Debug, Default)]
pub struct Gate {
    start: OnceLock<Start>,
    abandoned: AtomicBool,
    released: AtomicBool,
    sleeps: AtomicBool,
    stopped: Arc<AtomicBool>,
}

impl Gate {
    /// A gate that `stopped` ends early.
    pub fn new(stopped: Arc<AtomicBool>) -> Self {
        Self {
            start: OnceLock::new(),
            abandoned: AtomicBool::new(false),
            released: AtomicBool::new(false),
            sleeps: AtomicBool::new(false),
            stopped,
        }
    }

    /// Opens it. Only the first start counts.
    pub fn open(&self, start: Start) {
        let _ = self.start.set(start);
    }

    /// Whether somebody asked for an early end.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// There will be no start: the threads end.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// The machine was looked at while all connections were open: they may be closed now.
    pub fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }

    /// Somebody else wants the processors: threads sleep from now on instead of polling.
    pub fn sleep(&self) {
        self.sleeps.store(true, Ordering::Relaxed);
    }

    /// Whether threads were asked to sleep.
    #[inline]
    pub fn is_sleeping(&self) -> bool {
        self.sleeps.load(Ordering::Relaxed)
    }

    /// Whether connections may be closed at the end.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Relaxed)
    }

    /// The start, once it is set.
    pub fn start(&self) -> Option<&Start> {
        self.start.get()
    }

    /// Whether there will be no start.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// What a thread tells while it works.
#[derive(Debug)]
pub enum Report<T> {
    /// A connection opened or failed, or several did.
    Connecting {
        /// Opened since the last report.
        opened: u64,
        /// Failed since the last report.
        failed: u64,
    },
    /// All of its connections have opened or failed.
    Connected {
        /// Which thread.
        shard: usize,
        /// Its id, for the kernel's accounting.
        tid: u32,
        /// Connections that are open.
        open: u64,
        /// Those of them that instants are for.
        senders: u64,
    },
    /// A slice is over.
    Slice(Box<SliceTally>),
    /// The last message is sent and the last reply was waited for.
    Drained,
    /// It is done.
    Finished(Box<Finished<T>>),
    /// It could not go on; a sentence.
    Broken(String),
}

/// What one thread counted in one slice.
#[derive(Clone, Debug)]
pub struct SliceTally {
    /// The slice's number from the start.
    pub index: u64,
    /// Messages sent.
    pub sent: u64,
    /// Messages received.
    pub received: u64,
    /// Bytes of payload sent.
    pub payload_bytes_sent: u64,
    /// Bytes of payload received.
    pub payload_bytes_received: u64,
    /// Lost connections and wrong replies.
    pub errors: u64,
    /// Connections that were open at its end; `None` where none stay open.
    pub open: Option<u64>,
    /// Corrected latency.
    pub latency_ns: Histogram<u64>,
}

impl SliceTally {
    /// An empty one.
    pub fn new(index: u64) -> Self {
        Self {
            index,
            sent: 0,
            received: 0,
            payload_bytes_sent: 0,
            payload_bytes_received: 0,
            errors: 0,
            open: None,
            latency_ns: histogram::of_slice(),
        }
    }
}

/// What one thread counted in the measured part, and what became of its connections.
#[derive(Debug)]
pub struct Tally {
    /// From here on it counts, in nanoseconds.
    pub measure_from_ns: u64,
    /// Messages.
    pub messages: Messages,
    /// Bytes.
    pub bytes: Bytes,
    /// Latency from the scheduled instant.
    pub corrected_ns: Histogram<u64>,
    /// Latency from the actual send.
    pub uncorrected_ns: Histogram<u64>,
    /// From a dial to the reply 101.
    pub handshake_ns: Histogram<u64>,
    /// How late messages were sent.
    pub lateness_ns: Histogram<u64>,
    /// The most messages that waited for their connections at one time.
    pub backlog_max: u64,
    /// Time in which the thread looked for something to do and found nothing, instead of sleeping.
    pub spun_ns: u64,
    /// Connections that opened.
    pub opened: u64,
    /// Connections that were closed by this side, to be opened anew.
    pub renewed: u64,
    /// Those whose TLS handshake was short, by a ticket of an earlier one.
    pub resumed: u64,
    /// Connections that did not, by reason.
    pub failed: BTreeMap<String, u64>,
    /// Connections that ended early without the server having closed them in good order, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Connections that the server closed early, in good order, by reason.
    pub closed: BTreeMap<String, u64>,
    /// What compression did.
    pub compression: CompressionFigures,
    /// The slice that is under way.
    pub slice: Box<SliceTally>,
    has_schedule: bool,
}

impl Tally {
    /// Nothing is counted yet.
    pub fn new(has_schedule: bool) -> Self {
        Self {
            measure_from_ns: 0,
            messages: Messages::default(),
            bytes: Bytes::default(),
            corrected_ns: histogram::of_run(),
            uncorrected_ns: histogram::of_run(),
            handshake_ns: histogram::of_run(),
            lateness_ns: histogram::of_run(),
            backlog_max: 0,
            spun_ns: 0,
            opened: 0,
            renewed: 0,
            resumed: 0,
            failed: BTreeMap::new(),
            lost: BTreeMap::new(),
            closed: BTreeMap::new(),
            compression: CompressionFigures::default(),
            slice: Box::new(SliceTally::new(0)),
            has_schedule,
        }
    }

    /// Whether a message that was due then belongs to the measured part.
    #[inline]
    pub const fn is_measured(&self, due_ns: u64) -> bool {
        due_ns >= self.measure_from_ns
    }

    /// A connection opened.
    pub fn opened<T>(&mut self, conn: &Conn<'_, T>) {
        self.opened += 1;
        self.resumed += u64::from(conn.tls().is_some_and(|tls| tls.is_resumed()));
    }

    /// A message was sent. In a closed loop it was due when it was sent.
    #[inline]
    pub fn sent(&mut self, due_ns: u64, now_ns: u64, payload_bytes: usize) {
        self.slice.sent += 1;
        self.slice.payload_bytes_sent += payload_bytes as u64;
        if self.is_measured(due_ns) {
            self.messages.sent += 1;
            self.bytes.payload_sent += payload_bytes as u64;
            if self.has_schedule && now_ns > due_ns + LATE_NS {
                self.messages.late += 1;
            }
        }
    }

    /// A message was answered or delivered.
    #[inline]
    pub fn received(&mut self, due_ns: u64, sent_ns: u64, now_ns: u64, payload_bytes: usize) {
        let corrected_ns = now_ns.saturating_sub(due_ns);
        self.slice.received += 1;
        self.slice.payload_bytes_received += payload_bytes as u64;
        histogram::record(&mut self.slice.latency_ns, corrected_ns);
        if self.is_measured(due_ns) {
            self.messages.received += 1;
            self.bytes.payload_received += payload_bytes as u64;
            histogram::record(&mut self.corrected_ns, corrected_ns);
            // In a closed loop they are the same, and the second is copied at the end.
            if self.has_schedule {
                let uncorrected_ns = now_ns.saturating_sub(sent_ns);
                histogram::record(&mut self.uncorrected_ns, uncorrected_ns);
            }
        }
    }
}

/// What a thread found, at its end.
#[derive(Debug)]
pub struct Finished<T> {
    /// Its counts.
    pub tally: Tally,
    /// Whatever else its scenario wants to know.
    pub output: T,
    /// When the load ended, in nanoseconds on the ring's clock.
    pub ended_ns: u64,
    /// When the last reply was no longer waited for.
    pub drained_ns: u64,
}

/// The number of a connection's place in [`Hub::places`]: what the client keeps for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index(u32);

impl Default for Index {
    fn default() -> Self {
        Self(u32::MAX)
    }
}

impl Index {
    /// Of this place.
    pub const fn of(place: u32) -> Self {
        Self(place)
    }

    /// The place; of none, one that there is not.
    pub const fn place(self) -> usize {
        self.0 as usize
    }
}

/// One connection of a thread.
#[derive(Debug)]
pub struct Place {
    /// Its number in the whole run.
    pub stream: u32,
    id: Option<ConnId>,
    dialled_ns: u64,
    /// When this side sent a close frame.
    closed_ns: u64,
    /// Due messages that wait for it.
    pub backlog: VecDeque<u64>,
    life: Life,
    /// Counts its connections, so that an alarm of an earlier one is not taken for a later one's.
    epoch: u32,
    /// How long the next connection is waited with when this one has been closed, in nanoseconds.
    pause_ns: u64,
    /// Where it is in [`Hub::open`], while it is open.
    open_at: u32,
    is_blocked: bool,
}

impl Place {
    /// Whether it opened and did not end before the run did.
    pub const fn stayed_open(&self) -> bool {
        matches!(self.life, Life::Open)
    }
}

/// What a thread keeps beside the workload.
#[derive(Debug)]
pub struct Hub {
    /// The plan.
    pub plan: Arc<Plan>,
    /// Counts.
    pub tally: Tally,
    /// The thread's connections.
    pub places: Vec<Place>,
    /// Places of open connections. Instants are theirs in turn.
    pub open: Vec<u32>,
    dialling: HashMap<ConnId, u32>,
    resolved: usize,
    reported: (u64, u64),
    blocked: Vec<u32>,
    backlog: usize,
    /// Connections that messages wait for.
    waiting: usize,
    turn_index: usize,
    /// Nothing new is sent from here on, in nanoseconds.
    pub end_ns: u64,
    /// Connections may end from here on.
    ending: bool,
    /// Instants of single connections.
    alarms: Alarms,
    /// Connections that send nothing new and are closed when they are answered.
    retiring: Vec<u32>,
}

impl Hub {
    /// Takes the next message that waits for this connection, if it was due.
    #[inline]
    pub fn next_waiting(&mut self, index: usize) -> Option<u64> {
        let backlog = &mut self.places[index].backlog;
        let due_ns = backlog.pop_front()?;
        self.waiting -= usize::from(backlog.is_empty());
        self.backlog -= 1;
        Some(due_ns)
    }

    /// A reply was wrong.
    pub fn error(&mut self) {
        self.tally.slice.errors += 1;
    }

    /// Whether this place's connection is open.
    pub fn is_open(&self, index: usize) -> bool {
        self.places[index].life == Life::Open
    }

    /// Places of connections that answers can come on: open ones, and those that are to end.
    pub fn live(&self) -> impl Iterator<Item = u32> {
        self.open.iter().chain(&self.retiring).copied()
    }

    /// Something that changes when a message is sent or comes.
    #[inline]
    fn seen(&self) -> u64 {
        let slice = &self.tally.slice;
        slice.sent + slice.received + slice.errors
    }

    fn wait(&mut self, index: usize, due_ns: u64) {
        if self.backlog >= BACKLOG_MAX {
            self.tally.messages.unsent += u64::from(self.tally.is_measured(due_ns));
            return;
        }
        let backlog = &mut self.places[index].backlog;
        self.waiting += usize::from(backlog.is_empty());
        backlog.push_back(due_ns);
        self.backlog += 1;
        self.tally.backlog_max = self.tally.backlog_max.max(self.backlog as u64);
    }

    fn opened(&mut self, index: u32, now_ns: u64) {
        let place = &mut self.places[index as usize];
        place.life = Life::Open;
        place.epoch += 1;
        place.open_at = self.open.len() as u32;
        let took_ns = now_ns.saturating_sub(place.dialled_ns);
        histogram::record(&mut self.tally.handshake_ns, took_ns);
        self.open.push(index);
        self.resolved += 1;
    }

    fn failed(&mut self, reason: String) {
        *self.tally.failed.entry(reason).or_default() += 1;
        self.resolved += 1;
    }

    /// Puts the open connections in the order of the run: they opened in any.
    fn sort_open(&mut self) {
        self.open.sort_unstable();
        for (at, &index) in self.open.iter().enumerate() {
            self.places[index as usize].open_at = at as u32;
        }
    }

    fn lost(&mut self, index: u32, cause: &CloseCause) {
        let place = &mut self.places[index as usize];
        let life = std::mem::replace(&mut place.life, Life::Gone);
        self.backlog -= place.backlog.len();
        self.waiting -= usize::from(!place.backlog.is_empty());
        let from_ns = self.tally.measure_from_ns;
        let unsent = place.backlog.iter().filter(|&&due| due >= from_ns).count();
        self.tally.messages.unsent += unsent as u64;
        place.backlog.clear();
        match life {
            Life::Open => self.leave_open(index),
            _ => self.retiring.retain(|&other| other != index),
        }
        self.tally.slice.errors += 1;
        let ended = match is_orderly(cause) {
            true => &mut self.tally.closed,
            false => &mut self.tally.lost,
        };
        *ended.entry(lives::ended(life, cause)).or_default() += 1;
    }
}

/// Whether a server closed a connection by the book and for no error of its own or of ours: it may
/// do so whenever it likes.
pub(crate) fn is_orderly(cause: &CloseCause) -> bool {
    match cause {
        CloseCause::Peer { code: None, .. } => true,
        // Done, going away, restarting, try again later, and what applications mean by theirs
        // (RFC 6455 section 7.4 and the registry that it founded).
        CloseCause::Peer {
            code: Some(code), ..
        } => matches!(code.number(), 1000 | 1001 | 1012 | 1013 | 3000..=4999),
        _ => false,
    }
}

/// Why a connection failed or was lost, without what differs from one to the next.
pub fn sentence(cause: &CloseCause) -> String {
    match cause {
        CloseCause::HandshakeFailed(error) => error.to_string(),
        CloseCause::Transport(errno) => transport(*errno),
        CloseCause::Vanished => "the server ended the stream without a close frame".to_owned(),
        CloseCause::Peer { code, reason } => {
            let code = match code {
                Some(code) => format!("with {}", code.number()),
                None => "without a status".to_owned(),
            };
            let said = match &**reason {
                "" => String::new(),
                reason => format!(": {reason:?}"),
            };
            format!("the server closed it {code}{said}")
        }
        CloseCause::Timeout(Timeout::Handshake) => {
            "the server did not answer the opening handshake in the time that --handshake-timeout \
             gives it"
                .to_owned()
        }
        other => other.to_string(),
    }
}

/// What the kernel said of a connection, and what to do about it.
pub fn transport(errno: Errno) -> String {
    let remedy = match rustix::io::Errno::from_raw_os_error(errno.number()) {
        rustix::io::Errno::CONNREFUSED => "; nobody listens there",
        rustix::io::Errno::ADDRNOTAVAIL => {
            "; the source address has no port left, or is not this machine's: name others with \
             --source"
        }
        rustix::io::Errno::NOENT => "; there is no such socket",
        rustix::io::Errno::MFILE | rustix::io::Errno::NFILE => {
            "; raise the limit on open files (ulimit -n)"
        }
        rustix::io::Errno::TIMEDOUT | rustix::io::Errno::HOSTUNREACH => {
            "; check address, route and firewall"
        }
        _ => "",
    };
    format!("{errno}{remedy}")
}

/// What became of a message that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It was sent.
    Sent,
    /// It waits until the workload sends it, when a reply has come.
    WaitsForReply,
    /// It waits until the connection's queue is shorter.
    WaitsForRoom,
}

/// What a scenario does with connections that are open.
pub trait Workload {
    /// What it wants to be known at the end.
    type Output: Send + 'static;

    /// How many of the open connections instants are for.
    fn senders(&self, hub: &Hub) -> u64 {
        hub.open.len() as u64
    }

    /// The run starts: instants that the thread is to keep, if there are any. `share` is `None`
    /// when none of its connections sends.
    fn start(&mut self, hub: &mut Hub, start: &Start, share: Option<Share>) -> Option<Schedule>;

    /// The run starts, for one open connection.
    fn begin(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, now_ns: u64) {
        let _ = (hub, conn, index, now_ns);
    }

    /// Which of the open connections the next instant is for; `turn` counts instants.
    fn choose(&self, hub: &Hub, turn: usize) -> Option<usize> {
        let open = &hub.open;
        open.get(turn % open.len().max(1))
            .map(|&index| index as usize)
    }

    /// A message is due.
    fn due(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        due_ns: u64,
        now_ns: u64,
    ) -> Due {
        let _ = (hub, conn, index, due_ns, now_ns);
        Due::Sent
    }

    /// A message came.
    fn message(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        message: Message<'_>,
    );

    /// A pong came.
    fn pong(&mut self, hub: &mut Hub, index: usize) {
        let _ = (hub, index);
    }

    /// An instant came that was asked for with [`Hub::wake_at`].
    fn alarm(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, now_ns: u64) {
        let _ = (hub, conn, index, now_ns);
    }

    /// Whether nothing is waited for on a connection that is to be closed.
    fn is_answered(&self, index: usize, now_ns: u64) -> bool {
        let _ = (index, now_ns);
        true
    }

    /// A place has another connection, on which nothing was sent yet; [`begin`](Self::begin) is
    /// next.
    fn reopened(&mut self, index: usize) {
        let _ = index;
    }

    /// Whether [`begin`](Self::begin) is to be called after each turn, for those who keep queues
    /// filled.
    fn fills(&self) -> bool {
        false
    }

    /// A connection ended before the run did.
    fn lost(&mut self, hub: &mut Hub, index: usize, now_ns: u64) {
        let _ = (hub, index, now_ns);
    }

    /// A slice is over: time to look for replies that do not come. Whether connections should be
    /// visited by [`begin`](Self::begin) once more.
    fn tick(&mut self, hub: &mut Hub, now_ns: u64) -> bool {
        let _ = (hub, now_ns);
        false
    }

    /// The load has ended.
    fn ended(&mut self, hub: &mut Hub) {
        let _ = hub;
    }

    /// The load has ended, for one open connection.
    fn end(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize) {
        let _ = (hub, conn, index);
    }

    /// Whether nothing is waited for any more.
    fn is_quiet(&self, hub: &Hub, now_ns: u64) -> bool;

    /// The last counts. From `drained_ns` on nothing was waited for.
    fn finish(&mut self, hub: &mut Hub, drained_ns: u64) -> Self::Output;
}

/// The service that the client calls.
#[derive(Debug)]
struct Driver<W> {
    hub: Hub,
    work: W,
    delay_ns: u64,
}

impl<W: Workload> Service for Driver<W> {
    type State = Index;

    fn on_open(&mut self, conn: &mut Conn<'_, Index>) {
        if let Some(index) = self.hub.dialling.remove(&conn.id()) {
            *conn.state() = Index(index);
            let now_ns = conn.now().as_ns();
            self.hub.opened(index, now_ns);
            self.hub.tally.opened(conn);
            if self.hub.has_begun() {
                self.hub.begin_life(index, now_ns);
                self.work.reopened(index as usize);
                self.work.begin(&mut self.hub, conn, index as usize, now_ns);
            }
        }
    }

    #[inline]
    fn on_message(&mut self, conn: &mut Conn<'_, Index>, message: Message<'_>) {
        let index = conn.state().0 as usize;
        if self.delay_ns > 0 {
            burn(self.delay_ns);
        }
        self.work.message(&mut self.hub, conn, index, message);
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, Index>, _payload: &[u8]) {
        self.work.pong(&mut self.hub, conn.state().0 as usize);
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, state: Index, cause: &CloseCause) {
        match self.hub.dialling.remove(&id) {
            // What is under way at the end is nobody's failure.
            Some(_) if self.hub.ending => {}
            Some(index) => self.hub.not_opened(index, sentence(cause), now_ns()),
            // At the end it is this side that closes them.
            None if state != Index::default() && !self.hub.ending => {
                let now_ns = now_ns();
                if self.hub.is_closed(state, now_ns) {
                    return self.hub.renew(state.0, now_ns);
                }
                self.hub.lost(state.0, cause);
                self.work.lost(&mut self.hub, state.0 as usize, now_ns);
            }
            None => {}
        }
    }
}

/// Keeps the processor busy, for tests of what a slow generator is told.
pub fn burn(ns: u64) {
    let from = std::time::Instant::now();
    while from.elapsed().as_nanos() < u128::from(ns) {
        std::hint::spin_loop();
    }
}

/// What a thread is to do.
#[derive(Debug)]
pub struct Job<W: Workload> {
    /// Its number.
    pub shard: usize,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The start and the end.
    pub gate: Arc<Gate>,
    /// Where its reports go.
    pub reports: Sender<Report<W::Output>>,
    /// The limits of its client.
    pub config: Config,
    /// The scenario.
    pub work: W,
}

/// The limits of a generating client: nothing that a server sends is refused, and reading never
/// pauses, since a generator that stops reading stops the server it measures.
pub fn config(plan: &Plan) -> Config {
    let mut config = Config::default();
    config.message_bytes_max = 2 << 30;
    config.idle_timeout_ms = 0;
    config.ping_interval_ms = 0;
    config.handshake_timeout_ms = plan.place.handshake_timeout_ms;
    config.close_timeout_ms = CLOSE_MAX_MS;
    config.queue_high_bytes = 1 << 40;
    config.queue_low_bytes = 1 << 39;
    config.queue_bytes_max = 1 << 42;
    config.shard_queue_high_bytes = 1 << 42;
    if let Some(level) = plan.place.compress_level {
        config.compress_level = level;
        config.compress_bytes_min = 126;
    }
    config
}

/// What a client's counts say about compression.
fn compression(counts: &Counts) -> CompressionFigures {
    CompressionFigures {
        connections: counts.compress_connections,
        messages_sent: counts.compress_messages,
        payload_sent: counts.compress_payload_bytes,
        compressed_sent: counts.compress_bytes,
        messages_received: counts.inflate_messages,
        payload_received: counts.inflate_payload_bytes,
        compressed_received: counts.inflate_bytes,
    }
}

/// The clock's slack is 50 us unless a thread asks for less (`PR_SET_TIMERSLACK`).
pub fn ask_for_exact_timers() {
    // Without it instants are kept less well, and the lateness says so.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// A thread's whole work.
pub fn run<W: Workload>(job: Job<W>) {
    let reports = job.reports.clone();
    if let Err(sentence) = work(job) {
        let _ = reports.send(Report::Broken(sentence));
    }
}

fn work<W: Workload>(job: Job<W>) -> Result<(), String> {
    ask_for_exact_timers();
    let Job {
        shard,
        plan,
        gate,
        reports,
        config,
        work,
    } = job;
    let has_schedule = plan
        .traffic
        .as_ref()
        .is_some_and(|traffic| traffic.rate_per_s.is_some());
    let hub = Hub {
        tally: Tally::new(has_schedule),
        places: Vec::new(),
        open: Vec::new(),
        dialling: HashMap::new(),
        resolved: 0,
        reported: (0, 0),
        blocked: Vec::new(),
        backlog: 0,
        waiting: 0,
        turn_index: 0,
        end_ns: u64::MAX,
        ending: false,
        alarms: Alarms::default(),
        retiring: Vec::new(),
        plan: plan.clone(),
    };
    let driver = Driver {
        hub,
        work,
        delay_ns: plan.test_delay_ns,
    };
    let client = Client::new(config, driver).map_err(|error| error.to_string())?;
    let mut thread = Thread {
        client,
        gate,
        reports,
        schedule: None,
    };
    thread.connect(shard, &plan)?;
    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    let driver = thread.client.service();
    let open = driver.hub.open.len() as u64;
    let senders = driver.work.senders(&driver.hub);
    thread.report(Report::Connected {
        shard,
        tid,
        open,
        senders,
    });
    let Some(start) = thread.wait_for_start()? else {
        return Ok(());
    };
    thread.load(&start, shard)
}

struct Thread<W: Workload> {
    client: Client<Driver<W>>,
    gate: Arc<Gate>,
    reports: Sender<Report<W::Output>>,
    schedule: Option<Schedule>,
}

/// A call of the workload for one connection.
type Visit<W> = fn(&mut W, &mut Hub, &mut Conn<'_, Index>, usize, u64);

impl<W: Workload> Thread<W> {
    fn hub(&mut self) -> &mut Hub {
        &mut self.client.service().hub
    }

    fn report(&self, report: Report<W::Output>) {
        // Nobody listens any more only when the run is over.
        let _ = self.reports.send(report);
    }

    fn turn(&mut self, wait: Wait) -> Result<(), String> {
        self.client.turn(wait).map_err(|errno| {
            format!("the kernel refused the generator's io_uring while it ran: {errno}")
        })
    }

    fn now_ns(&self) -> u64 {
        self.client.now().as_ns()
    }

    /// Opens this shard's connections, a few at a time.
    fn connect(&mut self, shard: usize, plan: &Plan) -> Result<(), String> {
        let streams: Vec<usize> = (shard..plan.connections).step_by(plan.shards).collect();
        let mut next = 0;
        while self.hub().resolved < streams.len() && !self.gate.is_stopped() {
            while next < streams.len() && self.hub().dialling.len() < DIALS_MAX {
                self.dial(plan, streams[next]);
                next += 1;
            }
            if self.hub().resolved == streams.len() {
                break;
            }
            let until = self.client.now().plus_ms(50);
            self.turn(Wait::Until(until))?;
            self.report_connecting();
        }
        self.report_connecting();
        self.hub().sort_open();
        Ok(())
    }

    fn dial(&mut self, plan: &Plan, stream: usize) {
        let index = self.hub().places.len() as u32;
        self.hub().places.push(Place {
            stream: stream as u32,
            id: None,
            dialled_ns: 0,
            closed_ns: 0,
            backlog: VecDeque::new(),
            life: Life::Dialled,
            epoch: 0,
            pause_ns: 0,
            open_at: 0,
            is_blocked: false,
        });
        self.dial_for(plan, index);
    }

    /// Opens a connection for a place.
    fn dial_for(&mut self, plan: &Plan, index: u32) {
        let dialled_ns = self.now_ns();
        let place = &mut self.hub().places[index as usize];
        let stream = place.stream as usize;
        (place.life, place.dialled_ns) = (Life::Dialled, dialled_ns);
        let dial = Dial {
            address: plan.place.address.clone(),
            from: plan.source(stream).map(|ip| (ip, 0).into()),
            request: plan.request(stream).clone(),
            tls: plan.place.tls.clone(),
        };
        let dialled = self.client.dial(dial);
        let hub = self.hub();
        hub.places[index as usize].id = dialled.ok();
        match dialled {
            Ok(id) => {
                hub.dialling.insert(id, index);
            }
            Err(errno) => hub.not_opened(index, transport(errno), dialled_ns),
        }
    }

    fn report_connecting(&mut self) {
        let hub = self.hub();
        let now = (hub.tally.opened, hub.tally.failed.values().sum());
        let before = std::mem::replace(&mut hub.reported, now);
        if now != before {
            self.report(Report::Connecting {
                opened: now.0 - before.0,
                failed: now.1 - before.1,
            });
        }
    }

    /// `None` when the run ends before it starts.
    fn wait_for_start(&mut self) -> Result<Option<Start>, String> {
        loop {
            if let Some(start) = self.gate.start() {
                return Ok(Some(start.clone()));
            }
            if self.gate.is_abandoned() {
                return Ok(None);
            }
            let until = Time::from_ns(self.now_ns() + LOOK_NS);
            self.turn(Wait::Until(until))?;
        }
    }

    /// From the start to the last report.
    fn load(&mut self, start: &Start, shard: usize) -> Result<(), String> {
        let driver = self.client.service();
        driver.hub.tally.measure_from_ns = start.measure_from_ns;
        driver.hub.end_ns = start.end_ns;
        let share = start.shares.get(shard).copied().flatten();
        self.schedule = driver.work.start(&mut driver.hub, start, share);
        while self.now_ns() < start.start_ns {
            self.turn(Wait::Until(Time::from_ns(start.start_ns)))?;
        }
        self.begin_lives(start.start_ns);
        self.visit(W::begin)?;
        let may_spin = self.hub().plan.spins;
        let mut slice_end_ns = start.start_ns + start.slice_ns;
        let ended_ns = loop {
            let now_ns = self.now_ns();
            if now_ns >= slice_end_ns {
                self.next_slice(start, now_ns);
                slice_end_ns = start.start_ns
                    + (now_ns - start.start_ns) / start.slice_ns * start.slice_ns
                    + start.slice_ns;
                let driver = self.client.service();
                if driver.work.tick(&mut driver.hub, now_ns) {
                    self.visit(W::begin)?;
                }
            }
            if now_ns >= start.end_ns || self.gate.is_stopped() {
                break now_ns.min(start.end_ns);
            }
            let more = self.send_due(start.end_ns) | self.ring_alarms();
            self.send_waiting();
            let mut until_ns = slice_end_ns.min(start.end_ns).min(now_ns + WAIT_MAX_NS);
            let hub = &self.client.service().hub;
            let all_wait = hub.waiting == hub.open.len() + hub.retiring.len();
            until_ns = until_ns.min(hub.next_alarm_ns(now_ns));
            // Where every connection has messages waiting, the next instant adds one more and
            // nothing else: it is for a reply that the thread has to wake.
            if let Some(schedule) = &self.schedule
                && !all_wait
            {
                until_ns = until_ns.min(schedule.next_ns());
            }
            let spins = may_spin && !self.gate.is_sleeping();
            let wait = if more || spins {
                Wait::Poll
            } else {
                Wait::Until(Time::from_ns(until_ns))
            };
            let seen = self.hub().seen();
            self.turn(wait)?;
            if self.client.service().work.fills() {
                self.visit(W::begin)?;
            }
            if spins && !more && self.hub().seen() == seen {
                let spun_ns = (self.now_ns() - now_ns).min(SPIN_MAX_NS);
                let tally = &mut self.hub().tally;
                tally.spun_ns += if tally.is_measured(now_ns) {
                    spun_ns
                } else {
                    0
                };
            }
        };
        self.end(start, ended_ns)
    }

    /// Sends what is due. Returns whether there is more.
    #[inline]
    fn send_due(&mut self, end_ns: u64) -> bool {
        if self.schedule.is_none() {
            return false;
        }
        for _ in 0..DUE_MAX {
            let now_ns = self.now_ns();
            let Some(schedule) = &mut self.schedule else {
                return false;
            };
            let due_ns = schedule.next_ns();
            if due_ns > now_ns || due_ns >= end_ns {
                return false;
            }
            schedule.advance();
            self.send(due_ns, now_ns);
        }
        true
    }

    #[inline]
    fn send(&mut self, due_ns: u64, now_ns: u64) {
        let driver = self.client.service();
        let hub = &mut driver.hub;
        let measured = hub.tally.is_measured(due_ns);
        hub.tally.messages.scheduled += u64::from(measured);
        let turn = hub.turn_index;
        hub.turn_index += 1;
        let Some(index) = driver.work.choose(hub, turn) else {
            hub.tally.messages.unsent += u64::from(measured);
            return;
        };
        let place = &hub.places[index];
        let (Some(id), true) = (place.id, place.backlog.is_empty()) else {
            hub.wait(index, due_ns);
            return;
        };
        let mut became = Due::WaitsForReply;
        self.client.with_conn(id, |driver, conn| {
            if driver.delay_ns > 0 {
                burn(driver.delay_ns);
            }
            became = driver
                .work
                .due(&mut driver.hub, conn, index, due_ns, now_ns);
        });
        let hub = self.hub();
        if became == Due::Sent {
            if measured {
                let late_ns = now_ns - due_ns;
                histogram::record(&mut hub.tally.lateness_ns, late_ns);
            }
            return;
        }
        hub.wait(index, due_ns);
        if became == Due::WaitsForRoom && !hub.places[index].is_blocked {
            hub.places[index].is_blocked = true;
            hub.blocked.push(index as u32);
        }
    }

    /// Tries again where messages wait for room in a queue. Those that wait for a reply are sent by
    /// the workload when it comes.
    fn send_waiting(&mut self) {
        if self.hub().blocked.is_empty() {
            return;
        }
        let now_ns = self.now_ns();
        let blocked = std::mem::take(&mut self.hub().blocked);
        for index in blocked {
            let place = &mut self.hub().places[index as usize];
            let is_there = matches!(place.life, Life::Open | Life::Retiring);
            let (Some(id), true, false) = (place.id, is_there, place.backlog.is_empty()) else {
                place.is_blocked = false;
                continue;
            };
            self.client.with_conn(id, |driver, conn| {
                let index = index as usize;
                while let Some(&due_ns) = driver.hub.places[index].backlog.front() {
                    let hub = &mut driver.hub;
                    if driver.work.due(hub, conn, index, due_ns, now_ns) != Due::Sent {
                        break;
                    }
                    hub.next_waiting(index);
                }
            });
            let hub = self.hub();
            if hub.places[index as usize].backlog.is_empty() {
                hub.places[index as usize].is_blocked = false;
            } else {
                hub.blocked.push(index);
            }
        }
    }

    /// Calls the workload for every open connection.
    fn visit(&mut self, call: Visit<W>) -> Result<(), String> {
        let open = self.hub().open.clone();
        let now_ns = self.now_ns();
        for (count, index) in open.into_iter().enumerate() {
            let index = index as usize;
            if let Some(id) = self.hub().places[index].id {
                self.client.with_conn(id, |driver, conn| {
                    call(&mut driver.work, &mut driver.hub, conn, index, now_ns);
                });
            }
            if count % DUE_MAX == DUE_MAX - 1 {
                self.turn(Wait::Poll)?;
            }
        }
        Ok(())
    }

    /// Counts the instants for which there was no time any more, and ends the schedule.
    fn let_go(&mut self, measure_from_ns: u64, ended_ns: u64) {
        if let Some(mut schedule) = self.schedule.take() {
            schedule.skip_to(measure_from_ns);
            let left = schedule.skip_to(ended_ns);
            let messages = &mut self.hub().tally.messages;
            messages.scheduled += left;
            messages.unsent += left;
        }
    }

    fn next_slice(&mut self, start: &Start, now_ns: u64) {
        let index = (now_ns - start.start_ns) / start.slice_ns;
        let hub = self.hub();
        let open = (hub.open.len() + hub.retiring.len()) as u64;
        let next = Box::new(SliceTally::new(index));
        let mut over = std::mem::replace(&mut hub.tally.slice, next);
        over.open = Some(open);
        self.report(Report::Slice(over));
    }

    /// The load has ended: waits for what is still to come, closes, and reports.
    fn end(&mut self, start: &Start, ended_ns: u64) -> Result<(), String> {
        let timeout_ms = self.hub().plan.reply_timeout_ms;
        // A closed loop sends nothing more.
        self.hub().end_ns = ended_ns;
        let timeout_ns = timeout_ms * 1_000_000;
        let until_ns = ended_ns + timeout_ns;
        // Instants that came while the loop was busy elsewhere are part of the run.
        while self.send_due(ended_ns) && self.now_ns() < until_ns {
            self.turn(Wait::Poll)?;
        }
        self.let_go(start.measure_from_ns, ended_ns);
        // Whoever asks for an early end does not ask for what was not sent yet.
        let is_early = self.gate.is_stopped();
        while self.hub().backlog > 0 && self.now_ns() < until_ns && !is_early {
            self.send_waiting();
            let until = Time::from_ns((self.now_ns() + LOOK_NS).min(until_ns));
            self.turn(Wait::Until(until))?;
        }
        let from_ns = start.measure_from_ns;
        let hub = self.hub();
        let waiting = hub.places.iter().flat_map(|place| &place.backlog);
        hub.tally.messages.unsent += waiting.filter(|&&due| due >= from_ns).count() as u64;
        for place in &mut hub.places {
            place.backlog.clear();
        }
        hub.backlog = 0;
        hub.waiting = 0;
        let driver = self.client.service();
        driver.work.ended(&mut driver.hub);
        self.visit(|work, hub, conn, index, _| work.end(hub, conn, index))?;
        // What was sent last has all of its time as well.
        let until_ns = self.now_ns() + timeout_ns;
        let drained_ns = loop {
            let now_ns = self.now_ns();
            let driver = self.client.service();
            if driver.work.is_quiet(&driver.hub, now_ns) || now_ns >= until_ns {
                break now_ns;
            }
            // Whether all is quiet takes a look at every connection, and not at every reply.
            let look_ns = until_ns.min(now_ns + QUIET_NS);
            while self.now_ns() < look_ns {
                self.turn(Wait::Until(Time::from_ns(look_ns)))?;
            }
        };
        let index = (ended_ns - start.start_ns) / start.slice_ns;
        let slice = &mut self.hub().tally.slice;
        let last = std::mem::replace(slice, Box::new(SliceTally::new(index)));
        self.report(Report::Slice(last));
        self.report(Report::Drained);
        while !self.gate.is_released() {
            let until = Time::from_ns(self.now_ns() + LOOK_NS);
            self.turn(Wait::Until(until))?;
        }
        self.close()?;
        self.finish(ended_ns, drained_ns)
    }

    /// Closes every connection with 1001, within a bound.
    fn close(&mut self) -> Result<(), String> {
        self.hub().ending = true;
        self.client.stop(CLOSE_MAX_MS);
        let until_ns = self.now_ns() + 2 * CLOSE_MAX_MS * 1_000_000;
        while !self.client.is_finished() && self.now_ns() < until_ns {
            self.turn(Wait::Until(Time::from_ns(until_ns)))?;
        }
        Ok(())
    }

    fn finish(&mut self, ended_ns: u64, drained_ns: u64) -> Result<(), String> {
        let driver = self.client.service();
        let output = driver.work.finish(&mut driver.hub, drained_ns);
        let mut tally = std::mem::replace(&mut driver.hub.tally, Tally::new(false));
        tally.compression = compression(&self.client.stats().counts);
        self.report(Report::Finished(Box::new(Finished {
            tally,
            output,
            ended_ns,
            drained_ns,
        })));
        Ok(())
    }
}
