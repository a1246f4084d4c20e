//! Conversations that a script describes: on each connection what is said, what is expected, and
//! how long that takes.
//!
//! Knows: where each connection is in the script, and what became of what it expected. Refuses to
//! know: how a script is written, and when a message is the one that is expected, which is
//! `script`'s.
//!
//! The invariant: a connection on which something else came than was expected, or nothing in time,
//! is closed and opened anew, so that no answer is taken for the answer to something else.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use hdrhistogram::Histogram;
use ringwire::{Conn, Message, MessageKind};

use crate::{
    driver::{self, Hub, Index, Start, Workload},
    histogram,
    plan::Plan,
    result::{Run, Scenario, TalkFigures, TalkMismatch, TalkStep},
    run::{self, Context},
    schedule::{Schedule, Share},
    script::{Op, Said, Script, quoted},
};

/// What is done on one connection before others have their turn.
const OPS_MAX: usize = 1000;

/// Bytes that wait on a connection beyond which nothing is put behind them.
const QUEUE_MAX_BYTES: usize = 256 << 10;

/// How long a connection whose queue is full, or that has had its turn, waits, in nanoseconds.
const ROOM_NS: u64 = 1_000_000;

/// Messages that came before they were expected, of one connection, and their bytes. What comes
/// beyond that is dropped.
const EARLY_MAX: usize = 256;
const EARLY_BYTES_MAX: usize = 1 << 20;

/// How many different mismatches are told.
const MISMATCHES_MAX: usize = 50;

/// Where a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It has not begun, or waits for a moment of its own.
    #[default]
    Resting,
    /// It waits for a message.
    Expecting { since_ns: u64 },
    /// It has said everything, or broken off.
    Done,
}

/// One connection.
#[derive(Debug, Default)]
struct Talker {
    at: usize,
    state: State,
    rounds: u64,
    /// How often what is repeated is still to be done, innermost last.
    left: Vec<u64>,
    /// When it said what is not answered yet.
    said_ns: Option<u64>,
    /// What came before it was expected, with when it came.
    early: VecDeque<(u64, MessageKind, Vec<u8>)>,
    early_bytes: usize,
}

/// What became of one step on a thread.
#[derive(Debug)]
struct StepTally {
    answered: u64,
    failed: u64,
    latency_ns: Histogram<u64>,
}

/// What one thread found.
#[derive(Debug)]
pub struct Found {
    conversations: u64,
    broken_off: u64,
    unexpected: u64,
    steps: Vec<StepTally>,
    mismatches: BTreeMap<(usize, String), u64>,
    more_mismatches: u64,
}

/// One thread's conversations.
#[derive(Debug)]
struct Talk {
    script: Arc<Script>,
    talkers: Vec<Talker>,
    timeout_ns: u64,
    timeout: String,
    found: Found,
}

impl Talk {
    fn new(plan: &Plan, script: Arc<Script>) -> Self {
        let tally = |_: &_| StepTally {
            answered: 0,
            failed: 0,
            latency_ns: histogram::of_slice(),
        };
        let timeout_ms = plan.reply_timeout_ms.max(1);
        Self {
            found: Found {
                conversations: 0,
                broken_off: 0,
                unexpected: 0,
                steps: script.steps.iter().map(tally).collect(),
                mismatches: BTreeMap::new(),
                more_mismatches: 0,
            },
            script,
            talkers: Vec::new(),
            timeout_ns: timeout_ms * 1_000_000,
            timeout: crate::report::units::milliseconds(timeout_ms as f64),
        }
    }

    fn keep_talkers(&mut self, count: usize) {
        if self.talkers.len() < count {
            self.talkers.resize_with(count, Talker::default);
        }
    }

    /// Goes on until something has to be waited for.
    fn go_on(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, now_ns: u64) {
        let script = self.script.clone();
        for _ in 0..OPS_MAX {
            let talker = &mut self.talkers[index];
            if now_ns >= hub.end_ns {
                talker.state = State::Resting;
                return;
            }
            let Some((_, op)) = script.ops.get(talker.at) else {
                self.found.conversations += 1;
                talker.rounds += 1;
                talker.at = 0;
                self.forget_early(index);
                let talker = &mut self.talkers[index];
                // Whoever is to end does not begin anew.
                let is_last = script.repeat.is_some_and(|times| talker.rounds >= times);
                if is_last || !hub.is_open(index) {
                    talker.state = State::Done;
                    return;
                }
                continue;
            };
            match op {
                Op::Send(said) => {
                    if conn.queued_bytes() > QUEUE_MAX_BYTES {
                        break;
                    }
                    self.say(hub, conn, index, said, now_ns);
                }
                Op::Expect(_) => {
                    talker.state = State::Expecting { since_ns: now_ns };
                    if !self.hear_early(hub, index, now_ns) {
                        return;
                    }
                }
                Op::Wait(ns) => {
                    talker.at += 1;
                    talker.state = State::Resting;
                    hub.wake_at(index, now_ns + ns);
                    return;
                }
                Op::Begin(times) => {
                    talker.left.push(*times);
                    talker.at += 1;
                }
                Op::Back(begin) => {
                    let left = talker.left.last_mut();
                    match left {
                        Some(left) if *left > 1 => {
                            *left -= 1;
                            talker.at = begin + 1;
                        }
                        _ => {
                            talker.left.pop();
                            talker.at += 1;
                        }
                    }
                }
            }
        }
        self.talkers[index].state = State::Resting;
        hub.wake_at(index, now_ns + ROOM_NS);
    }

    fn say(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        said: &Said,
        now_ns: u64,
    ) {
        let (sent, len) = match said {
            Said::Text(text) => (conn.send(text.as_str()), text.len()),
            Said::Binary(bytes) => (conn.send(bytes.as_slice()), bytes.len()),
        };
        let talker = &mut self.talkers[index];
        talker.at += 1;
        // Refused only on a connection that is closing: its end is counted when it comes.
        if sent.is_ok() {
            talker.said_ns = Some(now_ns);
            hub.tally.sent(now_ns, now_ns, len);
        }
    }

    /// Looks for what is expected among what came before. Returns whether it was there.
    fn hear_early(&mut self, hub: &mut Hub, index: usize, now_ns: u64) -> bool {
        while let Some((came_ns, kind, payload)) = self.talkers[index].early.pop_front() {
            self.talkers[index].early_bytes -= payload.len();
            let message = Message::new(kind, &payload);
            if self.hear(hub, index, &message, came_ns, now_ns) {
                return true;
            }
            if self.talkers[index].state == State::Done {
                return false;
            }
        }
        false
    }

    /// Judges a message that came while one is expected. Returns whether it is the one.
    fn hear(
        &mut self,
        hub: &mut Hub,
        index: usize,
        message: &Message<'_>,
        came_ns: u64,
        now_ns: u64,
    ) -> bool {
        let talker = &mut self.talkers[index];
        let Some((step, Op::Expect(expected))) = self.script.ops.get(talker.at) else {
            return false;
        };
        if !expected.is_met_by(message) {
            if expected.skips_others {
                self.found.unexpected += 1;
            } else {
                let came = quoted(message);
                let step = *step;
                self.fail(hub, index, step, came, now_ns, |messages| {
                    &mut messages.corrupted
                });
            }
            return false;
        }
        talker.at += 1;
        talker.state = State::Resting;
        // What the server says of itself answers nothing, and has no latency.
        if let Some(said_ns) = talker.said_ns.take() {
            let len = message.payload().len();
            hub.tally.received(said_ns, said_ns, came_ns, len);
            if hub.tally.is_measured(said_ns) {
                let tally = &mut self.found.steps[*step];
                tally.answered += 1;
                let took_ns = came_ns.saturating_sub(said_ns);
                histogram::record(&mut tally.latency_ns, took_ns);
            }
        }
        true
    }

    /// What was expected did not come: the conversation is broken off.
    fn fail(
        &mut self,
        hub: &mut Hub,
        index: usize,
        step: usize,
        came: String,
        now_ns: u64,
        count: fn(&mut crate::result::Messages) -> &mut u64,
    ) {
        let talker = &mut self.talkers[index];
        talker.state = State::Done;
        let said_ns = talker.said_ns.take().unwrap_or(now_ns);
        if hub.tally.is_measured(said_ns) {
            *count(&mut hub.tally.messages) += 1;
            self.found.steps[step].failed += 1;
        }
        self.found.broken_off += 1;
        let is_full = self.found.mismatches.len() >= MISMATCHES_MAX;
        match self.found.mismatches.get_mut(&(step, came.clone())) {
            Some(count) => *count += 1,
            None if is_full => self.found.more_mismatches += 1,
            None => drop(self.found.mismatches.insert((step, came), 1)),
        }
        hub.error();
        hub.break_off(index, now_ns);
    }

    fn forget_early(&mut self, index: usize) {
        let talker = &mut self.talkers[index];
        self.found.unexpected += talker.early.len() as u64;
        talker.early.clear();
        talker.early_bytes = 0;
    }
}

impl Workload for Talk {
    type Output = Found;

    fn start(&mut self, hub: &mut Hub, _: &Start, _: Option<Share>) -> Option<Schedule> {
        self.keep_talkers(hub.places.len());
        None
    }

    fn begin(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, now_ns: u64) {
        self.keep_talkers(index + 1);
        if self.talkers[index].state == State::Resting {
            self.go_on(hub, conn, index, now_ns);
        }
    }

    fn alarm(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, now_ns: u64) {
        if self.talkers[index].state == State::Resting {
            self.go_on(hub, conn, index, now_ns);
        }
    }

    fn message(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        message: Message<'_>,
    ) {
        self.keep_talkers(index + 1);
        let now_ns = conn.now().as_ns();
        let talker = &mut self.talkers[index];
        match talker.state {
            State::Expecting { .. } => {
                if self.hear(hub, index, &message, now_ns, now_ns) {
                    self.go_on(hub, conn, index, now_ns);
                }
            }
            State::Done => self.found.unexpected += 1,
            State::Resting => {
                let payload = message.payload();
                let bytes = talker.early_bytes + payload.len();
                if talker.early.len() < EARLY_MAX && bytes <= EARLY_BYTES_MAX {
                    talker.early_bytes = bytes;
                    let kept = (now_ns, message.kind(), payload.to_vec());
                    talker.early.push_back(kept);
                } else {
                    self.found.unexpected += 1;
                }
            }
        }
    }

    fn tick(&mut self, hub: &mut Hub, now_ns: u64) -> bool {
        let late: Vec<usize> = hub
            .live()
            .map(|index| index as usize)
            .filter(|&index| match self.talkers[index].state {
                State::Expecting { since_ns } => now_ns >= since_ns + self.timeout_ns,
                _ => false,
            })
            .collect();
        for index in late {
            self.give_up(hub, index, now_ns);
        }
        false
    }

    fn lost(&mut self, hub: &mut Hub, index: usize, _: u64) {
        self.keep_talkers(index + 1);
        let talker = &mut self.talkers[index];
        if let (State::Expecting { .. }, Some(said_ns)) = (talker.state, talker.said_ns.take())
            && hub.tally.is_measured(said_ns)
        {
            hub.tally.messages.cut_off += 1;
        }
        self.talkers[index].state = State::Done;
        self.forget_early(index);
    }

    fn is_answered(&self, index: usize, _: u64) -> bool {
        let talker = self.talkers.get(index);
        talker.is_none_or(|talker| talker.state == State::Done || talker.at == 0)
    }

    fn reopened(&mut self, index: usize) {
        self.keep_talkers(index + 1);
        self.forget_early(index);
        // What is to be said so often is said so often by whoever has the place.
        let rounds = self.talkers[index].rounds;
        self.talkers[index] = Talker {
            rounds,
            ..Talker::default()
        };
        if self.script.repeat.is_some_and(|times| rounds >= times) {
            self.talkers[index].state = State::Done;
        }
    }

    fn is_quiet(&self, hub: &Hub, now_ns: u64) -> bool {
        hub.live().all(|index| match self.talkers[index as usize] {
            Talker {
                state: State::Expecting { since_ns },
                said_ns: Some(_),
                ..
            } => now_ns >= since_ns + self.timeout_ns,
            _ => true,
        })
    }

    fn finish(&mut self, hub: &mut Hub, drained_ns: u64) -> Found {
        for index in hub.live().collect::<Vec<_>>() {
            let talker = &self.talkers[index as usize];
            let State::Expecting { since_ns } = talker.state else {
                continue;
            };
            if drained_ns >= since_ns + self.timeout_ns {
                self.give_up(hub, index as usize, drained_ns);
            } else if talker.said_ns.is_some_and(|it| hub.tally.is_measured(it)) {
                hub.tally.messages.cut_off += 1;
            }
        }
        hub.tally.messages.scheduled = hub.tally.messages.sent;
        Found {
            steps: std::mem::take(&mut self.found.steps),
            mismatches: std::mem::take(&mut self.found.mismatches),
            ..self.found
        }
    }
}

impl Talk {
    /// Nothing came in time.
    fn give_up(&mut self, hub: &mut Hub, index: usize, now_ns: u64) {
        let talker = &self.talkers[index];
        if let Some(&(step, _)) = self.script.ops.get(talker.at) {
            let came = format!("nothing within --reply-timeout {}", self.timeout);
            self.fail(hub, index, step, came, now_ns, |messages| {
                &mut messages.lost
            });
        }
    }
}

/// The figures of all threads.
fn figures(script: &Script, outputs: Vec<Found>) -> TalkFigures {
    let mut figures = TalkFigures::default();
    let mut mismatches = BTreeMap::<(usize, String), u64>::new();
    let mut latencies: Vec<Histogram<u64>> =
        script.steps.iter().map(|_| histogram::of_slice()).collect();
    figures.steps = script
        .steps
        .iter()
        .map(|step| TalkStep {
            name: step.name.clone(),
            line: step.line,
            ..TalkStep::default()
        })
        .collect();
    for found in outputs {
        figures.conversations += found.conversations;
        figures.broken_off += found.broken_off;
        figures.unexpected += found.unexpected;
        figures.more_mismatches += found.more_mismatches;
        for (key, count) in found.mismatches {
            *mismatches.entry(key).or_default() += count;
        }
        for (index, tally) in found.steps.iter().enumerate() {
            figures.steps[index].answered += tally.answered;
            figures.steps[index].failed += tally.failed;
            // Both have the bounds of a slice.
            let _ = latencies[index].add(&tally.latency_ns);
        }
    }
    for (step, latency) in figures.steps.iter_mut().zip(&latencies) {
        step.p50_ns = latency.value_at_quantile(0.5);
        step.p99_ns = latency.value_at_quantile(0.99);
        step.max_ns = latency.max();
    }
    let mut told: Vec<TalkMismatch> = mismatches
        .into_iter()
        .map(|((step, came), count)| TalkMismatch {
            name: script.steps[step].name.clone(),
            line: script.steps[step].line,
            expected: script.steps[step].expects.clone().unwrap_or_default(),
            came,
            count,
        })
        .collect();
    told.sort_by_key(|mismatch| std::cmp::Reverse(mismatch.count));
    figures.mismatches = told;
    figures
}

/// Carries the plan out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(plan: &Arc<Plan>, context: &mut Context<'_>) -> Result<Run, String> {
    let Some(script) = plan.script.clone() else {
        return Err("a conversation needs a script".to_owned());
    };
    let make = |_| Talk::new(plan, script.clone());
    let config = driver::config(plan);
    let executed = run::execute(plan, Scenario::Talk, &config, make, context)?;
    let mut run = executed.run;
    run.talk = Some(figures(&script, executed.outputs));
    run::judge(&mut run, plan);
    Ok(run)
}
