//! What a server has recorded, offered again: the same connections, and messages of the same kinds
//! and sizes at the same times, or faster.
//!
//! Knows: what is due when, and how late it was sent. Refuses to know: what was in the messages,
//! which nobody recorded, and what comes back.
//!
//! ```text
//!   recorded      o---x------x----------c        o: opened, x: message, c: closed
//!   offered   d...o---x------x----------c        d: dialled a little before
//! ```
//!
//! The invariant: messages of a connection are sent in their order, each once or counted as unsent.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, mpsc::Sender},
};

use ringwire::{
    CloseCause, CloseCode, Config, Conn, ConnId, Message, Service, Turn,
    client::{Client, Dial, Time, Wait},
};

use crate::{
    driver::{
        self, Finished, Gate, Index, Report, SliceTally, Start, Tally, ask_for_exact_timers,
        is_orderly, sentence, transport,
    },
    environment::allow_open_files,
    histogram,
    plan::{Plan, ReplayArgs},
    recording::{Event, Recording, What},
    result::{ReplayFigures, Run, Scenario},
    run::{self, Context},
};

/// How long before it opened a connection is dialled, in nanoseconds of the replay.
const DIAL_AHEAD_NS: u64 = 100_000_000;

/// Opening handshakes that one thread has under way before the start.
const DIALS_MAX: usize = 128;

/// What is done between two turns at most, so that what comes is read meanwhile.
const DUE_MAX: usize = 256;

/// Bytes that wait on a connection beyond which nothing is put behind them.
const QUEUE_MAX_BYTES: usize = 256 << 10;

/// How often a full queue is looked at, in nanoseconds.
const ROOM_NS: u64 = 1_000_000;

/// The longest wait in the loop, in nanoseconds.
const WAIT_MAX_NS: u64 = 50_000_000;

/// How often a waiting thread looks whether the start is set, in nanoseconds.
const LOOK_NS: u64 = 500_000;

/// How long closing the connections may take at the end, in milliseconds.
const CLOSE_MAX_MS: u64 = 1000;

/// The longest replay, in milliseconds: a week, as of any run.
const LENGTH_MAX_MS: u64 = 7 * 24 * 3600 * 1000;

/// Descriptors beside those of connections.
const FILES_BESIDE: u64 = 64;

/// What a thread is to do.
#[derive(Clone, Copy, Debug)]
enum Act {
    Dial,
    Send(What),
    Close,
}

/// When, in nanoseconds from the start; which of the thread's connections; what.
type Due = (u64, u32, Act);

/// What became of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    ToCome,
    Dialled,
    Open,
    Ended,
}

/// One connection of the recording.
#[derive(Debug, Default)]
struct Line {
    id: Option<ConnId>,
    state: State,
    dialled_ns: u64,
    /// Messages that wait for it to open, or for room in its queue.
    waiting: VecDeque<(u64, What)>,
    closes: bool,
    is_blocked: bool,
}

#[derive(Debug)]
struct Replayer {
    tally: Tally,
    lines: Vec<Line>,
    dialling: HashMap<ConnId, u32>,
    blocked: Vec<u32>,
    waiting: usize,
    unsent: u64,
    is_ending: bool,
    filler: Arc<str>,
    delay_ns: u64,
}

impl Replayer {
    /// Sends what waits for a connection, as far as its queue has room, and closes it when its time
    /// has come.
    fn send_waiting(&mut self, conn: &mut Conn<'_, Index>, index: u32) {
        let line = &mut self.lines[index as usize];
        while let Some(&(due_ns, what)) = line.waiting.front() {
            if conn.queued_bytes() > QUEUE_MAX_BYTES {
                if !line.is_blocked {
                    line.is_blocked = true;
                    self.blocked.push(index);
                }
                return;
            }
            line.waiting.pop_front();
            self.waiting -= 1;
            if self.delay_ns > 0 {
                driver::burn(self.delay_ns);
            }
            let now_ns = conn.now().as_ns();
            let (sent, size) = match what {
                What::Text(size) => (conn.send(&self.filler[..size as usize]), size),
                What::Binary(size) => (conn.send(&self.filler.as_bytes()[..size as usize]), size),
                What::Opened | What::Closed => continue,
            };
            if sent.is_err() {
                // It is closing; what became of it is told when it has ended.
                self.unsent += 1;
                continue;
            }
            self.tally.sent(due_ns, now_ns, size as usize);
            let late_ns = now_ns.saturating_sub(due_ns);
            histogram::record(&mut self.tally.lateness_ns, late_ns);
        }
        if line.closes && line.state == State::Open {
            line.state = State::Ended;
            // It is open, so that nothing stands against it.
            let _ = conn.close(CloseCode::NORMAL_CLOSURE, "");
        }
    }

    fn ended(&mut self, index: u32) {
        let line = &mut self.lines[index as usize];
        line.state = State::Ended;
        self.waiting -= line.waiting.len();
        self.unsent += line.waiting.len() as u64;
        line.waiting.clear();
        self.tally.slice.errors += 1;
    }
}

impl Service for Replayer {
    type State = Index;

    fn on_open(&mut self, conn: &mut Conn<'_, Index>) {
        let Some(index) = self.dialling.remove(&conn.id()) else {
            return;
        };
        *conn.state() = Index::of(index);
        let line = &mut self.lines[index as usize];
        line.state = State::Open;
        let took_ns = conn.now().as_ns().saturating_sub(line.dialled_ns);
        histogram::record(&mut self.tally.handshake_ns, took_ns);
        self.tally.opened(conn);
        self.send_waiting(conn, index);
    }

    fn on_message(&mut self, _: &mut Conn<'_, Index>, message: Message<'_>) {
        let bytes = message.payload().len() as u64;
        self.tally.slice.received += 1;
        self.tally.slice.payload_bytes_received += bytes;
        self.tally.messages.received += 1;
        self.tally.bytes.payload_received += bytes;
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, state: Index, cause: &CloseCause) {
        if self.is_ending {
            return;
        }
        if let Some(index) = self.dialling.remove(&id) {
            *self.tally.failed.entry(sentence(cause)).or_default() += 1;
            return self.ended(index);
        }
        let Some(line) = self.lines.get(state.place()) else {
            return;
        };
        // Others are closed by this side.
        if line.state == State::Open {
            let ended = match is_orderly(cause) {
                true => &mut self.tally.closed,
                false => &mut self.tally.lost,
            };
            *ended.entry(sentence(cause)).or_default() += 1;
            self.ended(state.place() as u32);
        }
    }
}

/// One thread.
struct Thread {
    client: Client<Replayer>,
    plan: Arc<Plan>,
    gate: Arc<Gate>,
    reports: Sender<Report<u64>>,
    shard: usize,
    due: Vec<Due>,
}

/// What a shard has to do, in the order of time.
fn acts(events: &[Event], shard: usize, shards: usize, speed: f64) -> Vec<Due> {
    let own = events
        .iter()
        .filter(|event| event.connection as usize % shards == shard);
    let mut acts: Vec<Due> = own
        .map(|event| {
            let at_ns = (event.at_us as f64 * 1e3 / speed) as u64;
            let index = event.connection / shards as u32;
            match event.what {
                What::Opened => (at_ns.saturating_sub(DIAL_AHEAD_NS), index, Act::Dial),
                What::Closed => (at_ns, index, Act::Close),
                what => (at_ns, index, Act::Send(what)),
            }
        })
        .collect();
    acts.sort_by_key(|&(at_ns, ..)| at_ns);
    acts
}

impl Thread {
    fn now_ns(&self) -> u64 {
        self.client.now().as_ns()
    }

    fn replayer(&mut self) -> &mut Replayer {
        self.client.service()
    }

    fn turn(&mut self, wait: Wait) -> Result<(), String> {
        self.client.turn(wait).map_err(|errno| {
            format!("the kernel refused the generator's io_uring while it ran: {errno}")
        })
    }

    fn report(&self, report: Report<u64>) {
        // Nobody listens any more only when the run is over.
        let _ = self.reports.send(report);
    }

    fn dial(&mut self, index: u32) {
        let number = self.shard + index as usize * self.plan.shards;
        let now_ns = self.now_ns();
        let dial = Dial {
            address: self.plan.place.address.clone(),
            from: self.plan.source(number).map(|ip| (ip, 0).into()),
            request: self.plan.request(number).clone(),
            tls: self.plan.place.tls.clone(),
        };
        let dialled = self.client.dial(dial);
        let replayer = self.replayer();
        let line = &mut replayer.lines[index as usize];
        line.dialled_ns = now_ns;
        match dialled {
            Ok(id) => {
                (line.id, line.state) = (Some(id), State::Dialled);
                replayer.dialling.insert(id, index);
            }
            Err(errno) => {
                *replayer.tally.failed.entry(transport(errno)).or_default() += 1;
                replayer.ended(index);
            }
        }
    }

    /// Opens those that were open from the beginning, a few at a time.
    fn connect(&mut self) -> Result<(), String> {
        let first = self.due.partition_point(|&(at_ns, ..)| at_ns == 0);
        let early: Vec<Due> = self.due.drain(..first).collect();
        let is_dial = |due: &&Due| matches!(due.2, Act::Dial);
        let dials: Vec<u32> = early.iter().filter(is_dial).map(|due| due.1).collect();
        // What else is due at once is done at the start.
        self.due
            .splice(..0, early.into_iter().filter(|due| !is_dial(&due)));
        let mut dials = dials.into_iter();
        let mut told = (0, 0);
        while !self.gate.is_stopped() {
            while self.replayer().dialling.len() < DIALS_MAX {
                let Some(index) = dials.next() else { break };
                self.dial(index);
            }
            let tally = &self.client.service().tally;
            let now = (tally.opened, tally.failed.values().sum::<u64>());
            if now != told {
                self.report(Report::Connecting {
                    opened: now.0 - told.0,
                    failed: now.1 - told.1,
                });
                told = now;
            }
            if self.replayer().dialling.is_empty() {
                break;
            }
            let until = Time::from_ns(self.now_ns() + WAIT_MAX_NS);
            self.turn(Wait::Until(until))?;
        }
        Ok(())
    }

    fn wait_for_start(&mut self) -> Result<Option<Start>, String> {
        let tally = &self.client.service().tally;
        // One whose connections all open later has something to do as well.
        let is_to_come = tally.failed.is_empty() && !self.due.is_empty();
        let open = tally.opened.max(u64::from(is_to_come));
        self.report(Report::Connected {
            shard: self.shard,
            tid: rustix::thread::gettid().as_raw_nonzero().get() as u32,
            open,
            senders: open,
        });
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

    /// Does what is due, beginning at `next`. Returns where it goes on, and whether there is more.
    fn act(&mut self, start_ns: u64, mut next: usize) -> (usize, bool) {
        for _ in 0..DUE_MAX {
            let Some(&(at_ns, index, act)) = self.due.get(next) else {
                return (next, false);
            };
            let due_ns = start_ns + at_ns;
            if due_ns > self.now_ns() {
                return (next, false);
            }
            next += 1;
            let replayer = self.replayer();
            let line = &mut replayer.lines[index as usize];
            match act {
                Act::Dial => {
                    self.dial(index);
                    continue;
                }
                Act::Send(what) => {
                    replayer.tally.messages.scheduled += 1;
                    if line.state == State::Ended {
                        replayer.unsent += 1;
                        continue;
                    }
                    line.waiting.push_back((due_ns, what));
                    replayer.waiting += 1;
                }
                Act::Close => line.closes = true,
            }
            if let (Some(id), State::Open) = (line.id, line.state) {
                self.client
                    .with_conn(id, |replayer, conn| replayer.send_waiting(conn, index));
            }
        }
        (next, true)
    }

    /// Tries again where queues were full.
    fn unblock(&mut self) {
        for index in std::mem::take(&mut self.replayer().blocked) {
            let line = &mut self.replayer().lines[index as usize];
            line.is_blocked = false;
            if let (Some(id), State::Open) = (line.id, line.state) {
                self.client
                    .with_conn(id, |replayer, conn| replayer.send_waiting(conn, index));
            }
        }
    }

    fn next_slice(&mut self, start: &Start, now_ns: u64) {
        let index = (now_ns - start.start_ns) / start.slice_ns;
        let open = self.client.connections() as u64;
        let next = Box::new(SliceTally::new(index));
        let mut over = std::mem::replace(&mut self.replayer().tally.slice, next);
        over.open = Some(open);
        self.report(Report::Slice(over));
    }

    fn load(&mut self, start: &Start) -> Result<(), String> {
        while self.now_ns() < start.start_ns {
            self.turn(Wait::Until(Time::from_ns(start.start_ns)))?;
        }
        let mut next = 0;
        let mut slice_end_ns = start.start_ns + start.slice_ns;
        let ended_ns = loop {
            let now_ns = self.now_ns();
            if now_ns >= slice_end_ns {
                self.next_slice(start, now_ns);
                let index = (now_ns - start.start_ns) / start.slice_ns;
                slice_end_ns = start.start_ns + (index + 1) * start.slice_ns;
            }
            let (at, more) = self.act(start.start_ns, next);
            next = at;
            self.unblock();
            let is_over = next == self.due.len() && now_ns >= start.end_ns;
            if is_over || self.gate.is_stopped() {
                break now_ns.min(start.end_ns);
            }
            let mut until_ns = slice_end_ns.min(now_ns + WAIT_MAX_NS);
            if let Some(&(at_ns, ..)) = self.due.get(next) {
                until_ns = until_ns.min(start.start_ns + at_ns);
            }
            if !self.replayer().blocked.is_empty() {
                until_ns = until_ns.min(now_ns + ROOM_NS);
            }
            self.turn(match more {
                true => Wait::Poll,
                false => Wait::Until(Time::from_ns(until_ns)),
            })?;
        };
        self.end(start, ended_ns, next)
    }

    fn end(&mut self, start: &Start, ended_ns: u64, next: usize) -> Result<(), String> {
        let until_ns = ended_ns + self.plan.reply_timeout_ms * 1_000_000;
        while self.replayer().waiting > 0 && self.now_ns() < until_ns && !self.gate.is_stopped() {
            self.unblock();
            let until = Time::from_ns((self.now_ns() + ROOM_NS).min(until_ns));
            self.turn(Wait::Until(until))?;
        }
        let drained_ns = self.now_ns();
        self.next_slice(start, ended_ns);
        self.report(Report::Drained);
        while !self.gate.is_released() {
            let until = Time::from_ns(self.now_ns() + LOOK_NS);
            self.turn(Wait::Until(until))?;
        }
        self.replayer().is_ending = true;
        self.client.stop(CLOSE_MAX_MS);
        let until_ns = self.now_ns() + 2 * CLOSE_MAX_MS * 1_000_000;
        while !self.client.is_finished() && self.now_ns() < until_ns {
            self.turn(Wait::Until(Time::from_ns(until_ns)))?;
        }
        let left = self.due[next..].iter();
        let left = left.filter(|due| matches!(due.2, Act::Send(_))).count() as u64;
        let replayer = self.replayer();
        let unsent = replayer.unsent + replayer.waiting as u64;
        let mut tally = std::mem::replace(&mut replayer.tally, Tally::new(false));
        tally.messages.scheduled += left;
        tally.messages.unsent = unsent + left;
        self.report(Report::Finished(Box::new(Finished {
            tally,
            output: unsent + left,
            ended_ns,
            drained_ns,
        })));
        Ok(())
    }
}

/// What all threads have in common.
#[derive(Clone)]
struct Job {
    plan: Arc<Plan>,
    config: Config,
    recording: Arc<Recording>,
    filler: Arc<str>,
    speed: f64,
}

fn work(
    shard: usize,
    job: Job,
    gate: Arc<Gate>,
    reports: Sender<Report<u64>>,
) -> Result<(), String> {
    ask_for_exact_timers();
    let shards = job.plan.shards;
    let own = job
        .recording
        .connections
        .saturating_sub(shard)
        .div_ceil(shards);
    let mut lines = Vec::new();
    lines.resize_with(own, Line::default);
    let replayer = Replayer {
        tally: Tally::new(true),
        lines,
        dialling: HashMap::new(),
        blocked: Vec::new(),
        waiting: 0,
        unsent: 0,
        is_ending: false,
        filler: job.filler,
        delay_ns: job.plan.test_delay_ns,
    };
    let client = Client::new(job.config, replayer).map_err(|error| error.to_string())?;
    let mut thread = Thread {
        client,
        plan: job.plan,
        gate,
        reports,
        shard,
        due: acts(&job.recording.events, shard, shards, job.speed),
    };
    thread.connect()?;
    let Some(start) = thread.wait_for_start()? else {
        return Ok(());
    };
    thread.load(&start)
}

/// Reads a recording, and plans to offer it again.
///
/// # Errors
///
/// A sentence about the file, or about the first argument that is wrong.
pub fn plan(args: &ReplayArgs) -> Result<(Plan, Recording), String> {
    let recording = Recording::read(&args.file)?;
    if recording.connections == 0 {
        return Err(format!(
            "{} holds no connection: nobody came while it was recorded",
            args.file.display()
        ));
    }
    let length_ms = (recording.length_us() as f64 / 1e3 / args.speed).ceil() as u64;
    if length_ms > LENGTH_MAX_MS {
        return Err(format!(
            "at --speed {} this would take {} days, and a week is the most: raise it",
            args.speed,
            length_ms / (24 * 3600 * 1000)
        ));
    }
    let plan = args.plan(recording.connections, length_ms);
    Ok((plan.map_err(|error| error.to_string())?, recording))
}

/// Carries the plan out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(
    plan: &Arc<Plan>,
    recording: Recording,
    context: &mut Context<'_>,
) -> Result<Run, String> {
    allow_open_files(plan.connections as u64 + FILES_BESIDE)?;
    let mut figures = ReplayFigures {
        recorded_connections: recording.connections as u64,
        recorded_messages: recording.messages(),
        recorded_ms: recording.length_us() as f64 / 1e3,
        unrecorded: recording.unrecorded,
        unsent: 0,
    };
    let job = Job {
        plan: plan.clone(),
        config: driver::config(plan),
        filler: "0123456789abcdef"
            .chars()
            .cycle()
            .take(recording.longest())
            .collect::<String>()
            .into(),
        recording: Arc::new(recording),
        speed: plan.figures.speed.unwrap_or(1.0),
    };
    let executed =
        run::execute_threads(plan, Scenario::Replay, context, |shard, gate, reports| {
            let job = job.clone();
            move || {
                if let Err(sentence) = work(shard, job, gate, reports.clone()) {
                    let _ = reports.send(Report::Broken(sentence));
                }
            }
        })?;
    let mut run = executed.run;
    figures.unsent = executed.outputs.iter().sum();
    if figures.unrecorded.is_none() {
        run.notes.push(
            "The recording is cut short, as of a server that was killed: nobody knows what is \
             missing."
                .to_owned(),
        );
    }
    run.replay = Some(figures);
    run::judge(&mut run, plan);
    Ok(run)
}
