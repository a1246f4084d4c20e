//! One run: threads, phases, and the sum of what they counted.
//!
//! Knows: when everybody is connected, when the measured part begins and ends, whose CPU time is
//! looked at then. Refuses to know: what is sent.
//!
//! ```text
//!   threads      connect ....... | warm-up | measured ........... | drain | close
//!   coordinator  looks at memory |         | looks at CPU time    | again: CPU, memory
//! ```

use std::{
    collections::BTreeMap,
    process,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use hdrhistogram::Histogram;
use ringwire::Config;

use crate::{
    driver::{self, Finished, Gate, Job, Report, SliceTally, Start, Tally, Workload},
    environment::{
        CpuClock, KernelMemory, Usage, allow_open_files, environment, is_there, now_ns,
        own_resident_bytes, own_run_queue_wait_ns, resident_bytes,
    },
    histogram, moment,
    plan::Plan,
    result::{
        Bytes, ClientFigures, CompressionFigures, Connections, Latency, Messages, Phase, Progress,
        Run, SCHEMA, Scenario, ServerFigures, Slice, Target, Times, Verdict, VerdictKind,
    },
    schedule::Share,
    verdict,
};

/// Descriptors beside those of connections: rings, standard streams, files of the report.
const FILES_BESIDE: u64 = 64;

/// Between the word to start and the start, in nanoseconds: every thread has heard it by then.
const LEAD_NS: u64 = 5_000_000;

/// A slice is no shorter than this, in milliseconds.
const SLICE_MIN_MS: u64 = 100;

/// A run has about this many slices at most.
const SLICES_MAX: u64 = 600;

/// How often progress is shown.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// A server that has said nothing for so long while it was sent to is told of, in nanoseconds.
const SILENCE_NS: u64 = 1_000_000_000;

/// A server that waits for a processor more than this is said to.
const STARVED_SHARE: f64 = 0.1;

/// Threads that poll sleep instead once they wait for a processor more than this.
const CROWDED_SHARE: f64 = 0.1;

/// How long a look at a server beside the run may take.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// How late a start is that only the threads' own time made late, in milliseconds.
const START_LATE_MS: f64 = 20.0;

/// How long threads may take to close their connections and end.
const FINISH_MAX: Duration = Duration::from_secs(10);

/// What a run is given beside its plan.
pub struct Context<'a> {
    /// Set when the run is to end early.
    pub stopped: Arc<AtomicBool>,
    /// Called about four times a second.
    pub progress: &'a mut dyn FnMut(&Progress),
    /// The command line, for the report.
    pub command: Vec<String>,
    /// What is going on, for the progress: a step of a search.
    pub note: Option<String>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// What the machine looked like when the load had ended and all connections were open.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtEnd {
    /// Resident memory of the generator, in bytes.
    pub own_resident_bytes: u64,
    /// The kernel's.
    pub kernel: KernelMemory,
}

/// A run that was carried out.
#[derive(Debug)]
pub struct Executed<T> {
    /// Its result.
    pub run: Run,
    /// What each thread knows besides.
    pub outputs: Vec<T>,
    /// What was looked at when the load had ended.
    pub at_end: AtEnd,
}

/// The length of a run's slices.
pub fn slice_ms(whole_ms: u64) -> u64 {
    whole_ms
        .div_ceil(SLICES_MAX)
        .next_multiple_of(SLICE_MIN_MS)
        .max(SLICE_MIN_MS)
}

/// Carries out a plan with one workload for each thread.
///
/// # Errors
///
/// A sentence, when nothing could be measured: no connection opened, too few descriptors, no ring.
pub fn execute<W, F>(
    plan: &Arc<Plan>,
    scenario: Scenario,
    config: &Config,
    make: F,
    context: &mut Context<'_>,
) -> Result<Executed<W::Output>, String>
where
    W: Workload + Send + 'static,
    F: Fn(usize) -> W,
{
    allow_open_files(plan.connections as u64 + FILES_BESIDE)?;
    execute_threads(plan, scenario, context, |shard, gate, reports| {
        let job = Job {
            shard,
            plan: plan.clone(),
            gate,
            reports,
            config: config.clone(),
            work: make(shard),
        };
        move || driver::run(job)
    })
}

/// The same with threads that are not a [`Workload`]'s, but report as one's would.
///
/// # Errors
///
/// As [`execute`].
pub fn execute_threads<T, F, B>(
    plan: &Arc<Plan>,
    scenario: Scenario,
    context: &mut Context<'_>,
    make: F,
) -> Result<Executed<T>, String>
where
    T: Send + 'static,
    F: Fn(usize, Arc<Gate>, Sender<Report<T>>) -> B,
    B: FnOnce() + Send + 'static,
{
    let gate = Arc::new(Gate::new(context.stopped.clone()));
    let (reports, reported) = channel();
    let resident_before = plan.pid.and_then(resident_bytes).unwrap_or(0);
    let mut threads = Vec::new();
    for shard in 0..plan.shards {
        let body = make(shard, gate.clone(), reports.clone());
        let thread = thread::Builder::new()
            .name(format!("loadgen-{shard}"))
            .spawn(body);
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                gate.abandon();
                return Err(format!(
                    "cannot start a thread: {error}; check the limits on processes (ulimit -u)"
                ));
            }
        }
    }
    drop(reports);
    let mut coordinator = Coordinator::new(plan, scenario, context, gate.clone(), reported);
    coordinator.resident_before = resident_before;
    let result = coordinator.coordinate();
    // Whoever still waits for a start, or to close, is let go.
    gate.abandon();
    gate.release();
    for thread in threads {
        if thread.join().is_err() && result.is_ok() {
            return Err("a thread of the generator panicked; the message above says where".into());
        }
    }
    result
}

/// Judges a run once more, after its figures were completed.
pub fn judge(run: &mut Run, plan: &Plan) {
    run.verdict = verdict::verdict(run, plan.allow_client_bound);
}

/// Progress since the last snapshot.
#[derive(Debug)]
struct Since {
    at_ns: u64,
    /// Reports of slices that came.
    slices: u64,
    received: u64,
    sent: u64,
    payload_bytes: u64,
    latency_ns: Histogram<u64>,
}

impl Since {
    fn new(at_ns: u64) -> Self {
        Self {
            at_ns,
            slices: 0,
            received: 0,
            sent: 0,
            payload_bytes: 0,
            latency_ns: histogram::of_slice(),
        }
    }
}

struct Coordinator<'a, 'c, T> {
    plan: &'a Plan,
    scenario: Scenario,
    context: &'a mut Context<'c>,
    gate: Arc<Gate>,
    reported: Receiver<Report<T>>,
    resident_before: u64,
    began_ns: u64,
    opened: u64,
    failed: u64,
    errors: u64,
    /// The slice whose reports come in, how many have, and how many connections they say are open.
    open_of: (u64, usize, u64),
    /// How many were open at the end of the last slice that all have reported.
    open: Option<u64>,
    /// When the threads' CPU time was looked at for the progress, and what it was.
    looked: Option<(u64, Usage)>,
    /// Messages sent and received since the start.
    sent: u64,
    received: u64,
    /// Thread id, open connections and senders of each shard, once it is connected.
    connected: Vec<Option<(u32, u64, u64)>>,
    slices: BTreeMap<u64, SliceTally>,
    finished: Vec<Finished<T>>,
    drained: usize,
    broken: Option<String>,
    since: Since,
    /// When the server's CPU time was looked at, and what it was, in nanoseconds.
    server_cpu: Vec<(u64, u64)>,
    server_clock: CpuClock,
    /// When the threads' wait for a processor was looked at last, and what it was.
    waited: Option<(u64, u64)>,
}

/// What was looked at on both ends of the measured part.
#[derive(Debug)]
struct Look {
    at_ns: u64,
    client: Usage,
    server: Option<Usage>,
}

impl<'a, 'c, T> Coordinator<'a, 'c, T> {
    fn new(
        plan: &'a Plan,
        scenario: Scenario,
        context: &'a mut Context<'c>,
        gate: Arc<Gate>,
        reported: Receiver<Report<T>>,
    ) -> Self {
        let now_ns = now_ns();
        Self {
            scenario,
            context,
            gate,
            reported,
            resident_before: 0,
            began_ns: now_ns,
            opened: 0,
            failed: 0,
            errors: 0,
            open_of: (0, 0, 0),
            open: None,
            looked: None,
            sent: 0,
            received: 0,
            connected: vec![None; plan.shards],
            slices: BTreeMap::new(),
            finished: Vec::new(),
            drained: 0,
            broken: None,
            since: Since::new(now_ns),
            server_cpu: Vec::new(),
            server_clock: CpuClock::default(),
            waited: None,
            plan,
        }
    }

    fn coordinate(mut self) -> Result<Executed<T>, String> {
        while self.connected.iter().any(Option::is_none) {
            self.listen(now_ns() + PROGRESS_EVERY.as_nanos() as u64)?;
            self.show(Phase::Connecting, self.began_ns, None);
        }
        let connecting_ns = now_ns() - self.began_ns;
        let open: u64 = self.each(|&(_, open, _)| open).sum();
        let senders: u64 = self.each(|&(_, _, senders)| senders).sum();
        if open == 0 || senders == 0 {
            return Err(self.nothing_opened(open));
        }
        if self.gate.is_stopped() {
            return Err(
                "it was stopped while connections were opened; nothing was measured".into(),
            );
        }
        self.wait_for_the_moment()?;
        let start = self.start();
        let started_unix_ms =
            moment::unix_ms() + start.start_ns.saturating_sub(now_ns()) / 1_000_000;
        self.gate.open(start.clone());
        self.look_at_server();
        self.since = Since::new(start.start_ns);
        self.wait(Phase::WarmUp, start.start_ns, start.measure_from_ns)?;
        let first = self.look();
        self.wait(Phase::Measuring, start.measure_from_ns, start.end_ns)?;
        let last = self.look();
        let at_end = AtEnd {
            own_resident_bytes: own_resident_bytes(),
            kernel: KernelMemory::look(),
        };
        let resident_after = self.plan.pid.and_then(resident_bytes).unwrap_or(0);
        self.gate.release();
        self.drain(last.at_ns)?;
        let run = self.sum_up(&start, &first, &last, connecting_ns, started_unix_ms);
        let mut run = run;
        if let Some(server) = &mut run.server {
            server.resident_before_bytes = self.resident_before;
            server.resident_after_bytes = resident_after;
        }
        judge(&mut run, self.plan);
        let outputs = self.finished.into_iter().map(|finished| finished.output);
        Ok(Executed {
            run,
            outputs: outputs.collect(),
            at_end,
        })
    }

    fn each<U>(&self, of: fn(&(u32, u64, u64)) -> U) -> impl Iterator<Item = U> {
        self.connected.iter().flatten().map(of)
    }

    /// Why no connection can be used.
    fn nothing_opened(&mut self, open: u64) -> String {
        if self.gate.is_stopped() {
            return "it was stopped before a connection was open; nothing was measured".to_owned();
        }
        if open > 0 {
            return "none of the connections that are to send opened; nothing was measured".into();
        }
        // The engine knows the status only; the server's own words are in the body.
        let place = &self.plan.place;
        let diagnosis = place.diagnose(LOOK_MAX);
        let reason = diagnosis.unwrap_or_else(|| {
            "though one opens now: the server may allow only a few, or was not ready".to_owned()
        });
        place.none_opened(self.plan.connections as u64, &reason)
    }

    /// Waits until shortly before the moment of `--start-at`, if that is to come.
    fn wait_for_the_moment(&mut self) -> Result<(), String> {
        let Some(moment) = self.plan.start_at else {
            return Ok(());
        };
        let (from_ns, every_ns) = (now_ns(), PROGRESS_EVERY.as_nanos() as u64);
        loop {
            // The clock of the day may be set meanwhile.
            let left_ms = moment.unix_ms.saturating_sub(moment::unix_ms());
            let wait_ns = (left_ms * 1_000_000).saturating_sub(LEAD_NS);
            if wait_ns == 0 {
                return Ok(());
            }
            if self.gate.is_stopped() {
                return Err(
                    "it was stopped before the moment to start; nothing was measured".into(),
                );
            }
            thread::sleep(Duration::from_nanos(wait_ns.min(every_ns)));
            self.listen(0)?;
            self.show(Phase::Waiting, from_ns, Some(now_ns() + wait_ns));
        }
    }

    fn start(&self) -> Start {
        let ms = 1_000_000;
        // What is still to come is shorter than the lead, and what is over is over.
        let start_ns = now_ns() + LEAD_NS;
        let measure_from_ns = start_ns + self.plan.warmup_ms * ms;
        let senders: Vec<u64> = self.each(|&(_, _, senders)| senders).collect();
        let all = senders.iter().sum();
        let mut before = 0;
        let shares = senders
            .into_iter()
            .map(|own| {
                let share = Share { before, own, all };
                before += own;
                (own > 0).then_some(share)
            })
            .collect();
        Start {
            start_ns,
            measure_from_ns,
            end_ns: measure_from_ns + self.plan.duration_ms * ms,
            slice_ns: slice_ms(self.plan.warmup_ms + self.plan.duration_ms) * ms,
            shares,
        }
    }

    /// Takes reports until a moment.
    fn listen(&mut self, until_ns: u64) -> Result<(), String> {
        loop {
            let wait = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
            match self.reported.recv_timeout(wait) {
                Ok(report) => self.take(report),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    let shards = self.plan.shards;
                    if self.finished.len() == shards {
                        return Ok(());
                    }
                    let broken = self.broken.take();
                    return Err(broken.unwrap_or_else(|| {
                        "a thread of the generator ended early; the message above says why".into()
                    }));
                }
            }
            if let Some(sentence) = self.broken.take() {
                return Err(sentence);
            }
            if self.connected.iter().all(Option::is_some) && self.gate.start().is_none() {
                return Ok(());
            }
        }
    }

    fn take(&mut self, report: Report<T>) {
        match report {
            Report::Connecting { opened, failed } => {
                self.opened += opened;
                self.failed += failed;
            }
            Report::Connected {
                shard,
                tid,
                open,
                senders,
            } => self.connected[shard] = Some((tid, open, senders)),
            Report::Slice(slice) => {
                self.since.slices += 1;
                self.since.received += slice.received;
                self.since.sent += slice.sent;
                self.since.payload_bytes += match self.scenario {
                    Scenario::Ingest | Scenario::Replay => slice.payload_bytes_sent,
                    _ => slice.payload_bytes_received,
                };
                self.count_open(slice.index, slice.open);
                self.errors += slice.errors;
                self.sent += slice.sent;
                self.received += slice.received;
                // Both have the bounds of a slice.
                let _ = self.since.latency_ns.add(&slice.latency_ns);
                match self.slices.get_mut(&slice.index) {
                    None => {
                        self.slices.insert(slice.index, *slice);
                    }
                    Some(sum) => add_slice(sum, &slice),
                }
            }
            Report::Drained => self.drained += 1,
            Report::Finished(finished) => self.finished.push(*finished),
            Report::Broken(sentence) => self.broken = Some(sentence),
        }
    }

    fn count_open(&mut self, index: u64, open: Option<u64>) {
        let Some(open) = open else { return };
        if index > self.open_of.0 {
            self.open_of = (index, 0, 0);
        }
        if index == self.open_of.0 {
            self.open_of.1 += 1;
            self.open_of.2 += open;
        }
        if self.open_of.1 == self.plan.shards {
            self.open = Some(self.open_of.2);
        }
    }

    /// How busy the busiest thread was since the last look.
    fn busy_share(&mut self, now_ns: u64) -> Option<f64> {
        if self.connected.iter().any(Option::is_none) {
            return None;
        }
        let tids: Vec<u32> = self.each(|&(tid, ..)| tid).collect();
        let usage = Usage::of(process::id(), Some(&tids));
        let before = self.looked.replace((now_ns, usage));
        let (_, usage) = self.looked.as_ref()?;
        let (looked_ns, before) = before?;
        let passed_ns = now_ns.saturating_sub(looked_ns).max(1);
        Some(usage.since(&before).busiest_cpu_ns as f64 / passed_ns as f64)
    }

    /// The time in which that happened. Slices are reported when they are over, so that two came
    /// between snapshots or three: what counts is how long those were.
    fn seconds_of(&self, since: &Since, now_ns: u64) -> f64 {
        let passed_ns = now_ns.saturating_sub(since.at_ns) as f64;
        let ns = match self.gate.start() {
            Some(start) if since.slices > 0 => {
                since.slices as f64 * start.slice_ns as f64 / self.plan.shards as f64
            }
            _ => passed_ns,
        };
        ns / 1e9
    }

    fn show(&mut self, phase: Phase, from_ns: u64, until_ns: Option<u64>) {
        let now_ns = now_ns();
        let since = std::mem::replace(&mut self.since, Since::new(now_ns));
        let seconds = self.seconds_of(&since, now_ns);
        let per_s = |count: u64| {
            if seconds > 0.0 {
                count as f64 / seconds
            } else {
                0.0
            }
        };
        let counted = match self.scenario {
            Scenario::Ingest | Scenario::Replay => since.sent,
            _ => since.received,
        };
        let percentile = |percent| {
            (!since.latency_ns.is_empty()).then(|| since.latency_ns.value_at_percentile(percent))
        };
        let client_busy_share = self.busy_share(now_ns);
        (self.context.progress)(&Progress {
            phase,
            note: self.context.note.clone(),
            elapsed_ms: now_ns.saturating_sub(from_ns) / 1_000_000,
            remaining_ms: until_ns.map(|until| until.saturating_sub(now_ns) / 1_000_000),
            connections_open: self.open.unwrap_or(self.opened),
            connections_asked: self.plan.connections as u64,
            rate_per_s: per_s(counted),
            rate_asked_per_s: self.plan.figures.rate_per_s,
            payload_bytes_per_s: per_s(since.payload_bytes),
            p50_ns: percentile(50.0),
            p99_ns: percentile(99.0),
            errors: self.errors + self.failed,
            nothing_came: self.sent > 0
                && self.received == 0
                && !matches!(self.scenario, Scenario::Ingest | Scenario::Replay)
                && now_ns.saturating_sub(from_ns) > SILENCE_NS,
            client_busy_share,
        });
    }

    /// Waits for a moment, or for an early end, and shows progress meanwhile.
    fn wait(&mut self, phase: Phase, from_ns: u64, until_ns: u64) -> Result<(), String> {
        let every_ns = PROGRESS_EVERY.as_nanos() as u64;
        let slice_ns = self.gate.start().map_or(every_ns, |start| start.slice_ns);
        let mut slice_at = from_ns + slice_ns;
        let mut show_at = now_ns() + every_ns;
        while now_ns() < until_ns && !self.gate.is_stopped() && self.drained < self.plan.shards {
            // The reports of slices do not wake anybody: that would cost those who send them.
            let wake_at = slice_at.min(show_at).min(until_ns);
            thread::sleep(Duration::from_nanos(wake_at.saturating_sub(now_ns())));
            let now_ns = now_ns();
            if now_ns >= slice_at {
                self.look_at_server();
                self.look_at_threads(now_ns);
                slice_at += slice_ns;
            }
            if now_ns >= show_at {
                self.listen(0)?;
                self.show(phase, from_ns, Some(until_ns));
                show_at += every_ns;
            }
        }
        self.look_at_server();
        self.listen(0)
    }

    /// Lets the threads sleep when somebody else wants their processors: it may well be the server,
    /// which is to be measured and not to be hindered.
    fn look_at_threads(&mut self, now_ns: u64) {
        if !self.plan.spins || self.gate.is_sleeping() {
            return;
        }
        let tids: Vec<u32> = self.each(|&(tid, ..)| tid).collect();
        let wait_ns = own_run_queue_wait_ns(&tids);
        if let Some((looked_ns, waited_ns)) = self.waited.replace((now_ns, wait_ns)) {
            let span_ns = (now_ns - looked_ns) as f64 * tids.len() as f64;
            if wait_ns.saturating_sub(waited_ns) as f64 > span_ns * CROWDED_SHARE {
                self.gate.sleep();
            }
        }
    }

    fn look_at_server(&mut self) {
        if let Some(pid) = self.plan.pid {
            let cpu_ns = self.server_clock.look(pid);
            self.server_cpu.push((now_ns(), cpu_ns));
        }
    }

    fn look(&self) -> Look {
        let tids: Vec<u32> = self.each(|&(tid, ..)| tid).collect();
        Look {
            server: self.plan.pid.map(|pid| Usage::of(pid, None)),
            client: Usage::of(process::id(), Some(&tids)),
            at_ns: now_ns(),
        }
    }

    /// Waits for the last replies, and for the threads to end.
    fn drain(&mut self, from_ns: u64) -> Result<(), String> {
        let every_ns = PROGRESS_EVERY.as_nanos() as u64;
        let timeout_ns = self.plan.reply_timeout_ms * 1_000_000;
        // Two waits: messages that wait to be sent, and replies.
        let until_ns = from_ns + 2 * timeout_ns + FINISH_MAX.as_nanos() as u64;
        while self.finished.len() < self.plan.shards {
            let now_ns = now_ns();
            if now_ns >= until_ns {
                return Err("a thread of the generator does not end; please report it".to_owned());
            }
            self.listen(now_ns + every_ns)?;
            if self.finished.len() < self.plan.shards {
                let first_ns = from_ns + timeout_ns;
                let is_second = now_ns > first_ns;
                let wait_ns = first_ns + if is_second { timeout_ns } else { 0 };
                self.show(Phase::Draining, from_ns, Some(wait_ns));
            }
        }
        Ok(())
    }

    fn sum_up(
        &mut self,
        start: &Start,
        first: &Look,
        last: &Look,
        connecting_ns: u64,
        started_unix_ms: u64,
    ) -> Run {
        let plan = self.plan;
        let tallies: Vec<&Tally> = self.finished.iter().map(|done| &done.tally).collect();
        let total = Total::of(&tallies);
        let ended_ns = self.finished.iter().map(|done| done.ended_ns).max();
        let ended_ns = ended_ns.unwrap_or(start.end_ns);
        let drained_ns = self.finished.iter().map(|done| done.drained_ns).max();
        let measured_ns = ended_ns.saturating_sub(start.measure_from_ns);
        let looked_ns = last.at_ns.saturating_sub(first.at_ns).max(1);
        let counted = match self.scenario {
            Scenario::Fanout => total.messages.received,
            _ => total.messages.received.max(total.messages.sent),
        };
        let each = |ns: u64| {
            if counted == 0 {
                return 0.0;
            }
            // The looks are a little further apart than the messages.
            ns as f64 * (measured_ns as f64 / looked_ns as f64) / counted as f64
        };
        let used = last.client.since(&first.client);
        let spun_ns = total.spun_ns;
        let cpu_ns = used.cpu_ns.saturating_sub(spun_ns);
        let busiest_ns = used
            .busiest_cpu_ns
            .saturating_sub(spun_ns / plan.shards as u64);
        let client = ClientFigures {
            cpu_ns,
            cpu_ns_per_message: each(cpu_ns),
            busiest_share: busiest_ns as f64 / looked_ns as f64,
            run_queue_wait_ns: used.run_queue_wait_ns,
            context_switches_voluntary: used.voluntary,
            context_switches_involuntary: used.involuntary,
            lateness_ns: total.lateness_ns,
            backlog_max: total.backlog_max,
        };
        let server = plan.pid.map(|pid| {
            let (before, after) = (first.server.as_ref(), last.server.as_ref());
            let used = before.zip(after).map(|(before, after)| after.since(before));
            let used = used.unwrap_or_default();
            ServerFigures {
                pid,
                cpu_ns: used.cpu_ns,
                cpu_ns_per_message: each(used.cpu_ns),
                busiest_share: used.busiest_cpu_ns as f64 / looked_ns as f64,
                run_queue_wait_ns: used.run_queue_wait_ns,
                context_switches_voluntary: used.voluntary,
                context_switches_involuntary: used.involuntary,
                ..ServerFigures::default()
            }
        });
        let has_schedule = plan.figures.rate_per_s.is_some();
        let uncorrected_ns = if has_schedule {
            total.uncorrected_ns
        } else {
            total.corrected_ns.clone()
        };
        let mut notes = Vec::new();
        let start_late_ms = plan
            .start_at
            .map(|moment| started_unix_ms.saturating_sub(moment.unix_ms));
        if let Some(late_ms) = start_late_ms.filter(|&late_ms| late_ms > 0) {
            notes.push(format!(
                "it started {} after the moment of --start-at, as {}",
                crate::report::units::milliseconds(late_ms as f64),
                match late_ms as f64 <= START_LATE_MS {
                    true => "the threads take their time",
                    false => "the connections were not open before, or it was over already",
                }
            ));
        }
        if plan.churn_ms.is_some() {
            notes.push(format!(
                "{} closed by the generator and opened anew (--churn)",
                match total.renewed {
                    1 => "1 connection was".to_owned(),
                    count => format!("{} connections were", crate::report::units::count(count)),
                }
            ));
        }
        if plan.sources.len() > 1 {
            notes.push(format!(
                "connections came from {} addresses, {} to {}, so that there were ports for all",
                plan.sources.len(),
                plan.sources[0],
                plan.sources[plan.sources.len() - 1]
            ));
        }
        if plan.place.compress_level.is_some() {
            notes.push(compression_note(&total.compression, total.opened));
        }
        if plan.spins {
            let share = spun_ns as f64 / looked_ns as f64 / plan.shards as f64;
            let ended = if self.gate.is_sleeping() {
                "; others wanted its processors, so that it slept from then on"
            } else {
                ""
            };
            notes.push(format!(
                "the generator polled instead of sleeping for {:.0} % of the time, which is not in \
                 its CPU figures{ended}",
                share * 100.0
            ));
        }
        let starved = server.map_or(0.0, |server| {
            server.run_queue_wait_ns as f64 / looked_ns as f64
        });
        if starved > STARVED_SHARE {
            notes.push(format!(
                "the server's threads waited for a processor {:.0} % of the time: other programs \
                 ran on theirs",
                starved * 100.0
            ));
        }
        if let Some(pid) = plan.pid
            && !is_there(pid)
        {
            notes.push(format!("process {pid}, which --pid named, has ended"));
        } else if self.scenario != Scenario::Idle
            && let Some(ServerFigures { cpu_ns: 0, pid, .. }) = server
        {
            notes.push(format!(
                "process {pid} used no CPU time that could be read: is it the server?"
            ));
        }
        Run {
            schema: SCHEMA.to_owned(),
            scenario: self.scenario,
            target: Target {
                url: plan.place.url.clone(),
                address: plan.place.address.to_string(),
                server_header: self.server_header(),
            },
            plan: plan.figures.clone(),
            environment: environment(self.context.command.clone()),
            times: Times {
                started_unix_ms,
                start_at_unix_ms: plan.start_at.map(|moment| moment.unix_ms),
                start_late_ms,
                connecting_ms: connecting_ns as f64 / 1e6,
                warmup_ms: plan.warmup_ms,
                measured_ms: measured_ns as f64 / 1e6,
                drain_ms: drained_ns.unwrap_or(ended_ns).saturating_sub(ended_ns) as f64 / 1e6,
                slice_ms: start.slice_ns / 1_000_000,
                interrupted: self.gate.is_stopped() && ended_ns < start.end_ns,
            },
            connections: Connections {
                asked: total.opened + total.failed.values().sum::<u64>(),
                opened: total.opened,
                renewed: total.renewed,
                resumed: total.resumed,
                failed: total.failed.values().sum(),
                lost: total.lost.values().sum(),
                closed: total.closed.values().sum(),
                failed_reasons: total.failed,
                lost_reasons: total.lost,
                closed_reasons: total.closed,
            },
            messages: total.messages,
            bytes: total.bytes,
            latency: Latency {
                corrected_ns: total.corrected_ns,
                uncorrected_ns,
                handshake_ns: total.handshake_ns,
                has_schedule,
            },
            slices: slices(&self.slices, &self.server_cpu, start, ended_ns),
            client,
            server,
            memory: None,
            fanout: None,
            ingest: None,
            talk: None,
            replay: None,
            search: None,
            compression: plan.place.compress_level.map(|_| total.compression),
            verdict: Verdict {
                kind: VerdictKind::Sound,
                reasons: Vec::new(),
                client_bound_allowed: plan.allow_client_bound,
            },
            fail_if: Vec::new(),
            parts: Vec::new(),
            notes,
        }
    }

    /// What the server calls itself. Asked after the run, which it is no part of.
    fn server_header(&self) -> Option<String> {
        let (_, reply, _) = self.plan.place.open(LOOK_MAX).ok()?;
        reply.header("server")
    }
}

fn add_slice(sum: &mut SliceTally, slice: &SliceTally) {
    sum.sent += slice.sent;
    sum.received += slice.received;
    sum.payload_bytes_sent += slice.payload_bytes_sent;
    sum.payload_bytes_received += slice.payload_bytes_received;
    sum.errors += slice.errors;
    // Both have the bounds of a slice.
    let _ = sum.latency_ns.add(&slice.latency_ns);
}

/// Every slice of the run in order, empty ones for those in which nothing happened.
fn slices(
    tallies: &BTreeMap<u64, SliceTally>,
    server_cpu: &[(u64, u64)],
    start: &Start,
    ended_ns: u64,
) -> Vec<Slice> {
    let length_ns = ended_ns.saturating_sub(start.start_ns);
    let count = length_ns.div_ceil(start.slice_ns);
    let warmup_ns = start.measure_from_ns - start.start_ns;
    (0..count)
        .map(|index| {
            let empty;
            let tally = match tallies.get(&index) {
                Some(tally) => tally,
                None => {
                    empty = SliceTally::new(index);
                    &empty
                }
            };
            let from_ns = index * start.slice_ns;
            let to_ns = (from_ns + start.slice_ns).min(length_ns);
            let used = |at_ns| cpu_at(server_cpu, start.start_ns + at_ns);
            Slice {
                start_ms: from_ns / 1_000_000,
                is_warmup: from_ns < warmup_ns,
                is_partial: from_ns + start.slice_ns > length_ns,
                sent: tally.sent,
                received: tally.received,
                payload_bytes_sent: tally.payload_bytes_sent,
                payload_bytes_received: tally.payload_bytes_received,
                errors: tally.errors,
                server_cpu_ns: used(to_ns)
                    .zip(used(from_ns))
                    .map(|(to, from)| to.saturating_sub(from)),
                latency_ns: tally.latency_ns.clone(),
            }
        })
        .collect()
}

/// What a count that grows was at a moment, between the looks at it.
fn cpu_at(looks: &[(u64, u64)], at_ns: u64) -> Option<u64> {
    let (first, last) = (looks.first()?, looks.last()?);
    let after = looks.partition_point(|&(looked_ns, _)| looked_ns < at_ns);
    let (from, to) = match after {
        0 => (first, first),
        after if after == looks.len() => (last, last),
        after => (&looks[after - 1], &looks[after]),
    };
    let span_ns = to.0 - from.0;
    let part_ns = at_ns.saturating_sub(from.0).min(span_ns);
    let grown = u128::from(to.1.saturating_sub(from.1)) * u128::from(part_ns);
    Some(from.1 + (grown / u128::from(span_ns.max(1))) as u64)
}

/// What was agreed on, and what it came to.
fn compression_note(figures: &CompressionFigures, opened: u64) -> String {
    let each = |bytes: u64, messages: u64| bytes as f64 / messages.max(1) as f64;
    format!(
        "the server agreed to compress on {} of {opened} connections; a compressed message was \
         {:.0} bytes instead of {:.0} when sent, and {:.0} instead of {:.0} when received, headers \
         apart",
        figures.connections,
        each(figures.compressed_sent, figures.messages_sent),
        each(figures.payload_sent, figures.messages_sent),
        each(figures.compressed_received, figures.messages_received),
        each(figures.payload_received, figures.messages_received),
    )
}

/// The tallies of all threads, added up.
#[derive(Debug)]
struct Total {
    messages: Messages,
    bytes: Bytes,
    corrected_ns: Histogram<u64>,
    uncorrected_ns: Histogram<u64>,
    handshake_ns: Histogram<u64>,
    lateness_ns: Histogram<u64>,
    backlog_max: u64,
    spun_ns: u64,
    opened: u64,
    renewed: u64,
    resumed: u64,
    failed: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
    closed: BTreeMap<String, u64>,
    compression: CompressionFigures,
}

impl Total {
    fn of(tallies: &[&Tally]) -> Self {
        let mut total = Self {
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
        };
        for tally in tallies {
            let (sum, more) = (&mut total.messages, &tally.messages);
            sum.scheduled += more.scheduled;
            sum.sent += more.sent;
            sum.unsent += more.unsent;
            sum.received += more.received;
            sum.lost += more.lost;
            sum.cut_off += more.cut_off;
            sum.greetings += more.greetings;
            sum.unasked += more.unasked;
            sum.unasked_most = sum.unasked_most.max(more.unasked_most);
            sum.duplicated += more.duplicated;
            sum.reordered += more.reordered;
            sum.corrupted += more.corrupted;
            sum.late += more.late;
            sum.compared += more.compared;
            total.bytes.payload_sent += tally.bytes.payload_sent;
            total.bytes.payload_received += tally.bytes.payload_received;
            for (sum, more) in [
                (&mut total.corrected_ns, &tally.corrected_ns),
                (&mut total.uncorrected_ns, &tally.uncorrected_ns),
                (&mut total.handshake_ns, &tally.handshake_ns),
                (&mut total.lateness_ns, &tally.lateness_ns),
            ] {
                // Both have the bounds of a run.
                let _ = sum.add(more);
            }
            let (sum, more) = (&mut total.compression, &tally.compression);
            sum.connections += more.connections;
            sum.messages_sent += more.messages_sent;
            sum.payload_sent += more.payload_sent;
            sum.compressed_sent += more.compressed_sent;
            sum.messages_received += more.messages_received;
            sum.payload_received += more.payload_received;
            sum.compressed_received += more.compressed_received;
            total.backlog_max += tally.backlog_max;
            total.spun_ns += tally.spun_ns;
            total.opened += tally.opened;
            total.renewed += tally.renewed;
            total.resumed += tally.resumed;
            for (sum, more) in [
                (&mut total.failed, &tally.failed),
                (&mut total.lost, &tally.lost),
                (&mut total.closed, &tally.closed),
            ] {
                for (reason, count) in more {
                    *sum.entry(reason.clone()).or_default() += count;
                }
            }
        }
        total
    }
}
