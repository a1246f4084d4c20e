//! Opening handshakes, one after the other.
//!
//! Knows: when to dial, how long the reply 101 took. Refuses to know: messages; a connection that
//! opened is closed at once.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc::Sender},
};

use ringwire::{
    CloseCause, CloseCode, Config, Conn, ConnId, Service, Turn,
    client::{Client, Dial, Time, Wait},
};

use crate::{
    driver::{
        self, Finished, Gate, Report, SliceTally, Start, Tally, ask_for_exact_timers, sentence,
        transport,
    },
    environment::raise_open_files,
    histogram,
    plan::Plan,
    result::{Run, Scenario},
    run::{self, Context},
    schedule::{Schedule, Share},
};

/// Dials between two turns at most, so that replies are read meanwhile.
const DIALS_MAX: usize = 32;

/// The longest wait in the loop, in nanoseconds.
const WAIT_MAX_NS: u64 = 50_000_000;

/// How often a waiting thread looks whether the start is set, in nanoseconds.
const LOOK_NS: u64 = 500_000;

/// How long the last closing handshakes may take, in milliseconds.
const CLOSE_MAX_MS: u64 = 1000;

/// How long a look at a server that accepted nobody may take.
const DIAGNOSE_MAX: std::time::Duration = std::time::Duration::from_secs(2);

/// A dial that is under way.
#[derive(Clone, Copy, Debug)]
struct Under {
    due_ns: u64,
    dialled_ns: u64,
}

#[derive(Debug)]
struct Opener {
    tally: Tally,
    under_way: HashMap<ConnId, Under>,
    delay_ns: u64,
}

impl Opener {
    fn failed(&mut self, due_ns: u64, reason: String) {
        *self.tally.failed.entry(reason).or_default() += 1;
        self.tally.slice.errors += 1;
        self.tally.messages.lost += u64::from(self.tally.is_measured(due_ns));
    }
}

impl Service for Opener {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        if let Some(Under { due_ns, dialled_ns }) = self.under_way.remove(&conn.id()) {
            let now_ns = conn.now().as_ns();
            self.tally.opened(conn);
            self.tally.received(due_ns, dialled_ns, now_ns, 0);
            if self.tally.is_measured(due_ns) {
                let took_ns = now_ns.saturating_sub(dialled_ns);
                histogram::record(&mut self.tally.handshake_ns, took_ns);
            }
        }
        if self.delay_ns > 0 {
            driver::burn(self.delay_ns);
        }
        // It is open, so that nothing stands against it.
        let _ = conn.close(CloseCode::NORMAL_CLOSURE, "");
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, (): (), cause: &CloseCause) {
        if let Some(Under { due_ns, .. }) = self.under_way.remove(&id) {
            self.failed(due_ns, sentence(cause));
        }
    }
}

/// One thread.
struct Thread {
    client: Client<Opener>,
    plan: Arc<Plan>,
    gate: Arc<Gate>,
    reports: Sender<Report<()>>,
    shard: usize,
    dials: usize,
    reported: (u64, u64),
}

impl Thread {
    fn now_ns(&self) -> u64 {
        self.client.now().as_ns()
    }

    fn opener(&mut self) -> &mut Opener {
        self.client.service()
    }

    fn turn(&mut self, wait: Wait) -> Result<(), String> {
        self.client.turn(wait).map_err(|errno| {
            format!("the kernel refused the generator's io_uring while it ran: {errno}")
        })
    }

    fn report(&self, report: Report<()>) {
        // Nobody listens any more only when the run is over.
        let _ = self.reports.send(report);
    }

    fn wait_for_start(&mut self) -> Result<Option<Start>, String> {
        self.report(Report::Connected {
            shard: self.shard,
            tid: rustix::thread::gettid().as_raw_nonzero().get() as u32,
            open: 1,
            senders: 1,
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

    fn dial(&mut self, due_ns: u64, now_ns: u64) {
        let number = self.shard + self.dials * self.plan.shards;
        self.dials += 1;
        let dial = Dial {
            address: self.plan.place.address.clone(),
            from: self.plan.source(number).map(|ip| (ip, 0).into()),
            request: self.plan.request(number).clone(),
            tls: self.plan.place.tls.clone(),
        };
        let dialled = self.client.dial(dial);
        let opener = self.opener();
        opener.tally.sent(due_ns, now_ns, 0);
        match dialled {
            Ok(id) => {
                let under = Under {
                    due_ns,
                    dialled_ns: now_ns,
                };
                opener.under_way.insert(id, under);
            }
            Err(errno) => opener.failed(due_ns, transport(errno)),
        }
    }

    fn next_slice(&mut self, start: &Start, now_ns: u64) {
        let index = (now_ns - start.start_ns) / start.slice_ns;
        let tally = &mut self.opener().tally;
        let over = std::mem::replace(&mut tally.slice, Box::new(SliceTally::new(index)));
        let now = (tally.opened, tally.failed.values().sum::<u64>());
        let before = std::mem::replace(&mut self.reported, now);
        self.report(Report::Connecting {
            opened: now.0 - before.0,
            failed: now.1 - before.1,
        });
        self.report(Report::Slice(over));
    }

    fn load(&mut self, start: &Start) -> Result<(), String> {
        let share = Share {
            before: self.shard as u64,
            own: 1,
            all: self.plan.shards as u64,
        };
        let arrivals = self
            .plan
            .figures
            .arrivals
            .unwrap_or(crate::result::Arrivals::Constant);
        let mut schedule =
            self.plan.figures.rate_per_s.map(|rate| {
                Schedule::new(arrivals, rate, share, start.start_ns, fastrand::u64(..))
            });
        // At least one for each thread.
        let under_way_max = self.plan.connections.div_ceil(self.plan.shards);
        self.opener().tally.measure_from_ns = start.measure_from_ns;
        while self.now_ns() < start.start_ns {
            self.turn(Wait::Until(Time::from_ns(start.start_ns)))?;
        }
        let mut slice_end_ns = start.start_ns + start.slice_ns;
        let ended_ns = loop {
            let now_ns = self.now_ns();
            if now_ns >= slice_end_ns {
                self.next_slice(start, now_ns);
                let index = (now_ns - start.start_ns) / start.slice_ns;
                slice_end_ns = start.start_ns + (index + 1) * start.slice_ns;
            }
            if now_ns >= start.end_ns || self.gate.is_stopped() {
                break now_ns.min(start.end_ns);
            }
            let mut until_ns = slice_end_ns.min(start.end_ns).min(now_ns + WAIT_MAX_NS);
            let mut wait = None;
            match &mut schedule {
                Some(schedule) => {
                    if self.keep(schedule, start.end_ns) {
                        wait = Some(Wait::Poll);
                    }
                    until_ns = until_ns.min(schedule.next_ns());
                }
                None => {
                    let free = under_way_max.saturating_sub(self.opener().under_way.len());
                    for _ in 0..free.min(DIALS_MAX) {
                        let now_ns = self.now_ns();
                        self.dial(now_ns, now_ns);
                    }
                    // What failed at once is not dialled again at once.
                    if free > DIALS_MAX && !self.opener().under_way.is_empty() {
                        wait = Some(Wait::Poll);
                    }
                }
            }
            self.turn(wait.unwrap_or(Wait::Until(Time::from_ns(until_ns))))?;
        };
        self.end(start, ended_ns)
    }

    /// Dials what is due. Returns whether there is more.
    fn keep(&mut self, schedule: &mut Schedule, end_ns: u64) -> bool {
        for _ in 0..DIALS_MAX {
            let now_ns = self.now_ns();
            let due_ns = schedule.next_ns();
            if due_ns > now_ns || due_ns >= end_ns {
                return false;
            }
            schedule.advance();
            let tally = &mut self.opener().tally;
            if tally.is_measured(due_ns) {
                tally.messages.scheduled += 1;
                histogram::record(&mut tally.lateness_ns, now_ns - due_ns);
            }
            self.dial(due_ns, now_ns);
        }
        true
    }

    fn end(&mut self, start: &Start, ended_ns: u64) -> Result<(), String> {
        // The client itself gives up at the handshake's timeout.
        let until_ns = ended_ns + (self.plan.reply_timeout_ms + CLOSE_MAX_MS) * 1_000_000;
        while !self.opener().under_way.is_empty() && self.now_ns() < until_ns {
            let until = Time::from_ns(until_ns.min(self.now_ns() + WAIT_MAX_NS));
            self.turn(Wait::Until(until))?;
        }
        let drained_ns = self.now_ns();
        self.next_slice(start, ended_ns);
        self.report(Report::Drained);
        self.client.stop(CLOSE_MAX_MS);
        let until_ns = self.now_ns() + 2 * CLOSE_MAX_MS * 1_000_000;
        while !self.client.is_finished() && self.now_ns() < until_ns {
            self.turn(Wait::Until(Time::from_ns(until_ns)))?;
        }
        let has_schedule = self.plan.figures.rate_per_s.is_some();
        let mut tally = std::mem::replace(&mut self.opener().tally, Tally::new(false));
        if !has_schedule {
            tally.messages.scheduled = tally.messages.sent;
        }
        self.report(Report::Finished(Box::new(Finished {
            tally,
            output: (),
            ended_ns,
            drained_ns,
        })));
        Ok(())
    }
}

fn work(
    shard: usize,
    plan: &Arc<Plan>,
    config: Config,
    gate: Arc<Gate>,
    reports: Sender<Report<()>>,
) -> Result<(), String> {
    ask_for_exact_timers();
    let opener = Opener {
        tally: Tally::new(plan.figures.rate_per_s.is_some()),
        under_way: HashMap::new(),
        delay_ns: plan.test_delay_ns,
    };
    let client = Client::new(config, opener).map_err(|error| error.to_string())?;
    let mut thread = Thread {
        client,
        plan: plan.clone(),
        gate,
        reports,
        shard,
        dials: 0,
        reported: (0, 0),
    };
    let Some(start) = thread.wait_for_start()? else {
        return Ok(());
    };
    thread.load(&start)
}

/// Carries the plan out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(plan: &Arc<Plan>, context: &mut Context<'_>) -> Result<Run, String> {
    raise_open_files();
    let config = driver::config(plan);
    let executed =
        run::execute_threads(plan, Scenario::Connect, context, |shard, gate, reports| {
            let (plan, config) = (plan.clone(), config.clone());
            move || {
                if let Err(sentence) = work(shard, &plan, config, gate, reports.clone()) {
                    let _ = reports.send(Report::Broken(sentence));
                }
            }
        })?;
    let run = executed.run;
    if run.connections.opened == 0 {
        let diagnosis = plan.place.diagnose(DIAGNOSE_MAX);
        let reason = diagnosis
            .or_else(|| run.connections.failed_reasons.keys().next().cloned())
            .unwrap_or_else(|| "the run was too short for one".to_owned());
        return Err(plan.place.none_opened(run.connections.asked, &reason));
    }
    Ok(run)
}
