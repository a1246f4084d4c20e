//! What a report says, before it has a shape: the text table and the page are made from it.
//!
//! Knows: which figures matter to a reader, in which order, and their words. Refuses to know:
//! columns, tags, colours.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::units;
use crate::{
    histogram,
    result::{
        Arrivals, PlanFigures, Run, Scenario, SearchStep, Stage, TextScript, Verdict, VerdictKind,
        Verify,
    },
};

/// The percentiles of every report.
pub const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];

/// How many sizes of the messages of a file are named.
const SIZES_MAX: usize = 5;

/// How many different reasons are named, the most frequent first.
const REASONS_MAX: usize = 5;

/// A report in words and numbers.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// What was run against what.
    pub title: String,
    /// How it was run: a name and a sentence each.
    pub facts: Vec<(&'static str, String)>,
    /// What went wrong, the worst first. Empty in a good run.
    pub alarms: Vec<String>,
    /// The figures.
    pub grids: Vec<Grid>,
    /// Whether the figures can be believed: one word, then the sentences.
    pub verdict: (&'static str, Vec<String>),
    /// Whether each bound was kept, and what was measured.
    pub bounds: Vec<(bool, String)>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
    /// Where it ran: a name and a value each.
    pub environment: Vec<(&'static str, String)>,
}

/// A table: the first column names the row, all others hold numbers.
#[derive(Clone, Debug)]
pub struct Grid {
    /// The heads of the columns; the first is the table's name.
    pub heads: Vec<String>,
    /// Rows as wide as `heads`.
    pub rows: Vec<Vec<String>>,
}

impl Grid {
    fn new(heads: &[&str]) -> Self {
        Self {
            heads: heads.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
        }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.heads.len(), String::new());
        self.rows.push(cells);
    }
}

impl Sheet {
    /// The report of a run.
    #[must_use]
    pub fn new(run: &Run) -> Self {
        let mut notes = run.notes.clone();
        let mut grids = Vec::new();
        grids.extend(search(run));
        grids.extend(messages(run));
        grids.extend(stages(run));
        grids.extend(fanout(run));
        grids.extend(ingest(run));
        grids.extend(talk(run));
        grids.extend(replay(run));
        grids.extend(latency(run, &mut notes));
        grids.extend(memory(run));
        grids.extend(processes(run));
        grids.extend(parts(run));
        if !run.environment.release_build {
            notes.push("This loadgen is a debug build: its figures mean nothing.".to_owned());
        }
        Self {
            title: title(run),
            facts: facts(run),
            alarms: alarms(run),
            grids,
            verdict: verdict(&run.verdict),
            bounds: run
                .fail_if
                .iter()
                .map(|bound| (!bound.failed, bound.sentence.clone()))
                .collect(),
            notes,
            environment: environment(run),
        }
    }
}

/// The scenario's name, as on the command line.
#[must_use]
pub fn scenario_name(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Connect => "connect",
        Scenario::Echo => "echo",
        Scenario::Fanout => "fanout",
        Scenario::Idle => "idle",
        Scenario::Ingest => "ingest",
        Scenario::Replay => "replay",
        Scenario::Saturate => "saturate",
        Scenario::Talk => "talk",
    }
}

fn title(run: &Run) -> String {
    let server = match &run.target.server_header {
        Some(header) => format!(" ({})", shortened(header)),
        None => String::new(),
    };
    format!(
        "{} against {}{server}",
        scenario_name(run.scenario),
        shortened(&run.target.url)
    )
}

/// The longest part of a title that stands there whole, in characters.
const PART_CHARS: usize = 56;

/// A text without its middle if it is longer than a title's part may be.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= PART_CHARS {
        return text.to_owned();
    }
    // The host stands at the beginning, and what it is about at the end.
    let (front, back) = (PART_CHARS - 20, 19);
    let front: String = text.chars().take(front).collect();
    let back: String = text.chars().skip(count - back).collect();
    format!("{front}…{back}")
}

fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let plan = &run.plan;
    let mut facts = vec![("load", load(run.scenario, plan))];
    if plan.text.is_some() {
        facts.push(("messages", payloads(plan)));
    }
    if plan.given_messages.is_some() && plan.verify.is_some() {
        facts.push(("verified", "every byte of every reply".to_owned()));
    } else if let Some(verify) = plan.verify {
        let content = match verify {
            Verify::All => "and content of every reply",
            Verify::None => "of every reply, content of none",
            Verify::Sampled => "of every reply, content of 1 in 64",
        };
        let compared = units::count(run.messages.compared);
        facts.push((
            "verified",
            format!("length and stamp {content} ({compared} compared byte by byte)"),
        ));
    }
    let times = &run.times;
    let mut measured = units::milliseconds(times.measured_ms);
    if times.warmup_ms > 0 {
        let warmup = units::milliseconds(times.warmup_ms as f64);
        measured.push_str(&format!(
            ", after a warm-up of {warmup} that is in no figure here"
        ));
    }
    if times.interrupted {
        measured.push_str("; ended early by Ctrl-C");
    }
    facts.push(("measured", measured));
    let connections = &run.connections;
    if run.scenario != Scenario::Connect && !run.latency.handshake_ns.is_empty() {
        let handshakes = &run.latency.handshake_ns;
        facts.push((
            "opening",
            format!(
                "{} of {}{} in {}: p50 {}, p99 {}, max {}",
                units::count(connections.opened),
                units::plural(connections.asked, "connection"),
                if connections.renewed > 0 {
                    ", the first"
                } else {
                    ""
                },
                units::milliseconds(times.connecting_ms),
                units::latency(handshakes.value_at_quantile(0.5)),
                units::latency(handshakes.value_at_quantile(0.99)),
                units::latency(handshakes.max()),
            ),
        ));
    }
    facts
}

fn load(scenario: Scenario, plan: &PlanFigures) -> String {
    let shards = units::plural(plan.shards as u64, "shard");
    let mut load = match (scenario, plan.rate_per_s) {
        // What connects is not there all the time.
        (Scenario::Connect, Some(_)) => format!("opening handshakes on {shards}"),
        (Scenario::Connect, None) => format!(
            "{} at one time on {shards}",
            units::plural(plan.connections as u64, "opening handshake"),
        ),
        _ => format!(
            "{} on {shards}",
            units::plural(plan.connections as u64, "connection")
        ),
    };
    if let Some(publishers) = plan.publishers {
        load.push_str(&format!(" ({} publish)", units::count(publishers as u64)));
    }
    if plan.source_addresses > 1 {
        load.push_str(&format!(
            " from {} addresses",
            units::count(plan.source_addresses as u64)
        ));
    }
    if !plan.stages.is_empty() {
        let stages: Vec<String> = plan.stages.iter().map(stage_text).collect();
        load.push_str(&format!(", open loop in stages: {}", stages.join(", ")));
        if plan.arrivals == Some(Arrivals::Poisson) {
            load.push_str(" (Poisson)");
        }
    } else if let Some(rate) = plan.rate_per_s {
        load.push_str(&format!(", open loop at {}", units::rate(rate)));
        if plan.arrivals == Some(Arrivals::Poisson) {
            load.push_str(" (Poisson)");
        }
    } else if let Some(in_flight) = plan.in_flight.filter(|_| scenario != Scenario::Connect) {
        load.push_str(&format!(
            ", closed loop, {} in flight each",
            units::count(in_flight as u64)
        ));
    } else if scenario == Scenario::Ingest || scenario == Scenario::Connect {
        load.push_str(", as fast as it goes");
    }
    if let (Some(from), Some(to)) = (plan.think_from_ms, plan.think_to_ms) {
        let (from, to) = (
            units::milliseconds(from as f64),
            units::milliseconds(to as f64),
        );
        load.push_str(&match from == to {
            true => format!(", thinking {to} before each message"),
            false => format!(", thinking {from} to {to} before each message"),
        });
    }
    if let Some(churn_ms) = plan.churn_ms {
        let life = units::milliseconds(churn_ms as f64);
        load.push_str(&format!(", each connection for about {life}"));
    }
    if let Some(lines) = plan.header_lines {
        let lines = units::plural(lines as u64, "line");
        load.push_str(&format!(", headers from {lines} of a file"));
    }
    match (scenario, &plan.file, plan.speed) {
        (Scenario::Talk, Some(file), _) => load.push_str(&format!(", script {file}")),
        (_, Some(file), Some(speed)) => {
            load.push_str(&format!(", {file} at {speed} times its speed"));
        }
        _ => {}
    }
    if let Some(objective) = &plan.objective {
        load.push_str(&format!(", objective {objective}"));
    }
    load
}

/// `0 to 1,000/s in 30.0 s`, `5,000/s for 2 min 00 s`.
fn stage_text(stage: &Stage) -> String {
    let length = units::milliseconds(stage.length_ms as f64);
    if stage.from_per_s == stage.to_per_s {
        return format!("{} for {length}", units::rate(stage.to_per_s));
    }
    let from = units::rate(stage.from_per_s);
    let from = from.trim_end_matches("/s");
    format!("{from} to {} in {length}", units::rate(stage.to_per_s))
}

/// What came of each stage, from its slices.
fn stages(run: &Run) -> Option<Grid> {
    if run.plan.stages.is_empty() {
        return None;
    }
    let mut grid = Grid::new(&["stage", "received", "p50", "p99", "max"]);
    let mut began_ms = run.plan.warmup_ms;
    for stage in &run.plan.stages {
        let ends_ms = began_ms + stage.length_ms;
        let slices = run.slices.iter().filter(|slice| {
            slice.start_ms >= began_ms && slice.start_ms < ends_ms && !slice.is_partial
        });
        let (mut received, mut count) = (0, 0_u64);
        let mut latency = histogram::of_slice();
        for slice in slices {
            received += slice.received;
            count += 1;
            // They all have the same bounds, and one of other bounds would only be left out.
            let _ = latency.add(&slice.latency_ns);
        }
        let seconds = (count * run.times.slice_ms) as f64 / 1e3;
        let told = |value: u64| match latency.is_empty() {
            true => "-".to_owned(),
            false => units::latency(value),
        };
        grid.row([
            stage_text(stage),
            units::rate(received as f64 / seconds),
            told(latency.value_at_quantile(0.5)),
            told(latency.value_at_quantile(0.99)),
            told(latency.max()),
        ]);
        began_ms = ends_ms;
    }
    Some(grid)
}

fn payloads(plan: &PlanFigures) -> String {
    let kind = match (plan.text, plan.text_script) {
        (Some(true), Some(TextScript::Cjk)) => "text, 3 bytes a character",
        (Some(true), Some(TextScript::Json)) => "JSON text",
        (Some(true), _) => "text",
        _ => "binary",
    };
    let sizes: Vec<String> = plan
        .sizes
        .iter()
        .map(|size| {
            let bytes = units::bytes(size.size_bytes as f64);
            if plan.sizes.len() == 1 {
                bytes
            } else {
                format!("{bytes} ({})", units::share(size.share))
            }
        })
        .collect();
    let mut payloads = match (plan.given_messages, plan.sizes.as_slice()) {
        (Some(count), [least, .., most]) if sizes.len() > SIZES_MAX => format!(
            "{kind}, {} of a file, {} to {}",
            units::plural(count as u64, "message"),
            units::bytes(least.size_bytes as f64),
            units::bytes(most.size_bytes as f64)
        ),
        (Some(count), _) => format!(
            "{kind}, {} of a file, {}",
            units::plural(count as u64, "message"),
            sizes.join(", ")
        ),
        (None, _) => format!("{kind}, {}", sizes.join(", ")),
    };
    if let Some(fragment) = plan.fragment_bytes {
        let fragment = units::bytes(fragment as f64);
        payloads.push_str(&format!(", in frames of at most {fragment}"));
    }
    if plan.greeting > 0 {
        let greetings = units::plural(plan.greeting, "greeting");
        payloads.push_str(&format!(
            "; {greetings} of the server on each connection skipped"
        ));
    }
    payloads
}

fn alarms(run: &Run) -> Vec<String> {
    let (messages, connections) = (&run.messages, &run.connections);
    let fanout = run.fanout.unwrap_or_default();
    // What is not delivered is told as that.
    let lost = match run.scenario {
        Scenario::Fanout | Scenario::Connect => 0,
        _ => messages.lost,
    };
    let counts = [
        match run.scenario {
            Scenario::Talk => (messages.corrupted, "answer", "not as the script expects"),
            _ => (messages.corrupted, "message", "corrupted"),
        },
        (lost, "message", "lost"),
        (messages.duplicated, "message", "duplicated"),
        (messages.reordered, "message", "reordered"),
        (messages.unsent, "message", "scheduled and never sent"),
        (fanout.missing, "delivery", "missing"),
        (fanout.gaps, "gap", "in the publishers' sequences"),
        (connections.failed, "connection", "failed to open"),
        (connections.lost, "connection", "lost"),
        (connections.closed, "connection", "closed by the server"),
    ];
    let mut alarms: Vec<String> = counts
        .into_iter()
        .filter(|&(count, ..)| count > 0)
        .map(|(count, noun, what)| format!("{} {what}", units::plural(count, noun)))
        .collect();
    let mut reasons = |what: &str, of: &BTreeMap<String, u64>| {
        let mut reasons: Vec<(&String, &u64)> = of.iter().collect();
        reasons.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
        for (reason, &count) in reasons.into_iter().take(REASONS_MAX) {
            alarms.push(format!("{what} ({}): {reason}", units::count(count)));
        }
    };
    reasons("failed", &connections.failed_reasons);
    reasons("lost", &connections.lost_reasons);
    reasons("closed", &connections.closed_reasons);
    alarms
}

fn verdict(verdict: &Verdict) -> (&'static str, Vec<String>) {
    let mut reasons = verdict.reasons.clone();
    let word = match verdict.kind {
        VerdictKind::Sound => {
            if reasons.is_empty() {
                reasons.push(
                    "nothing was lost or wrong, and the generator was not the bottleneck."
                        .to_owned(),
                );
            }
            "Sound"
        }
        VerdictKind::Faulty => "Faulty",
        VerdictKind::Interrupted => "Interrupted",
        VerdictKind::NotAsAsked => "Not as asked",
        VerdictKind::ClientBound => {
            reasons.insert(
                0,
                "the generator was the bottleneck, so the figures are its own and not the \
                 server's."
                    .to_owned(),
            );
            if verdict.client_bound_allowed {
                reasons.push("--allow-client-bound: the exit status does not show it.".to_owned());
            }
            "Client-bound"
        }
    };
    (word, reasons)
}

fn messages(run: &Run) -> Option<Grid> {
    let noun = match run.scenario {
        Scenario::Connect => "handshakes",
        Scenario::Idle => return None,
        _ => "messages",
    };
    let seconds = run.times.measured_ms / 1e3;
    let (messages, bytes) = (&run.messages, &run.bytes);
    let mut grid = Grid::new(&[noun, "count", "rate", "payload", "payload/s"]);
    let mut row = |name: &str, count: u64, payload: Option<u64>| {
        let mut cells = vec![
            name.to_owned(),
            units::count(count),
            units::rate(count as f64 / seconds),
        ];
        if let Some(payload) = payload.filter(|&payload| payload > 0) {
            cells.push(units::bytes(payload as f64));
            cells.push(format!("{}/s", units::bytes(payload as f64 / seconds)));
        }
        grid.row(cells);
    };
    if run.plan.rate_per_s.is_some() && messages.scheduled != messages.sent {
        row("scheduled", messages.scheduled, None);
    }
    if run.scenario == Scenario::Connect {
        row("dialled", messages.sent, None);
        row("opened", messages.received, None);
    } else {
        row("sent", messages.sent, Some(bytes.payload_sent));
        if run.scenario != Scenario::Ingest {
            row("received", messages.received, Some(bytes.payload_received));
        }
    }
    if messages.late > 0 {
        row("sent over 1 ms late", messages.late, None);
    }
    if grid.rows.iter().all(|row| row[3].is_empty()) {
        grid.heads.truncate(3);
        grid.rows.iter_mut().for_each(|row| row.truncate(3));
    }
    Some(grid)
}

fn latency(run: &Run, notes: &mut Vec<String>) -> Option<Grid> {
    let latency = &run.latency;
    let columns: Vec<(&str, &Histogram<u64>)> = if latency.has_schedule {
        vec![
            ("corrected", &latency.corrected_ns),
            ("uncorrected", &latency.uncorrected_ns),
        ]
    } else {
        vec![(closed_loop_head(run.scenario), &latency.corrected_ns)]
    };
    if columns.iter().all(|(_, histogram)| histogram.is_empty()) {
        return None;
    }
    let mut grid = Grid::new(&["latency"]);
    grid.heads
        .extend(columns.iter().map(|(head, _)| (*head).to_owned()));
    let mut row = |name: String, value: &dyn Fn(&Histogram<u64>) -> String| {
        let cells = columns.iter().map(|(_, histogram)| value(histogram));
        grid.row(std::iter::once(name).chain(cells));
    };
    row("min".to_owned(), &|histogram| {
        units::latency(histogram.min())
    });
    let mut untold = false;
    for percentile in PERCENTILES {
        // Less than one message above the percentile: it would be the longest by another name.
        let told = |histogram: &Histogram<u64>| {
            histogram.len() as f64 * (1.0 - percentile / 100.0) >= 1.0 - 1e-9
        };
        untold |= columns.iter().any(|(_, histogram)| !told(histogram));
        row(format!("p{percentile}"), &|histogram| {
            if told(histogram) {
                units::latency(histogram.value_at_percentile(percentile))
            } else {
                "-".to_owned()
            }
        });
    }
    row("max".to_owned(), &|histogram| {
        units::latency(histogram.max())
    });
    row("mean".to_owned(), &|histogram| {
        units::latency(histogram.mean() as u64)
    });
    row("standard deviation".to_owned(), &|histogram| {
        units::latency(histogram.stdev() as u64)
    });
    let noun = noun(run.scenario);
    if latency.has_schedule {
        let began = match run.scenario {
            Scenario::Connect => "dial",
            _ => "send",
        };
        notes.push(format!(
            "Corrected is from the instant at which {} was due, uncorrected from its {began}: what \
             a generator would report that waits for the server.",
            match run.scenario {
                Scenario::Connect => "an opening handshake",
                _ => "a message",
            }
        ));
    }
    if run.plan.in_flight.is_some() && !latency.has_schedule {
        let (sent, each) = match run.scenario {
            Scenario::Connect => ("dialled", "for each of those at one time"),
            _ => ("sent", "a connection"),
        };
        notes.push(format!(
            "A closed loop has no schedule: while the server stands still nothing new is {sent}, \
             so that a stall shows once {each} and not in all that should have come."
        ));
    }
    let after = after_the_slices(run);
    if after > 0 {
        notes.push(format!(
            "Answered after the measured time, and so in the figures but not in what is shown over \
             time: {}.",
            units::plural(after, noun),
        ));
    }
    if untold {
        notes.push(format!(
            "A percentile is shown as - when less than one {noun} lies above it."
        ));
    }
    Some(grid)
}

/// How many of the measured latencies are in no slice, because their replies came while the run was
/// draining.
#[must_use]
pub fn after_the_slices(run: &Run) -> u64 {
    // Of runs that were merged, some had begun to measure before others had.
    if !run.parts.is_empty() {
        return 0;
    }
    let measured = run.slices.iter().filter(|slice| !slice.is_warmup);
    let shown: u64 = measured.map(|slice| slice.latency_ns.len()).sum();
    run.latency.corrected_ns.len().saturating_sub(shown)
}

/// What is counted.
fn noun(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Connect => "opening handshake",
        Scenario::Fanout => "delivery",
        _ => "message",
    }
}

fn closed_loop_head(scenario: Scenario) -> &'static str {
    match scenario {
        Scenario::Connect => "dial to 101",
        Scenario::Fanout => "to a delivery",
        _ => "from send",
    }
}

fn processes(run: &Run) -> Option<Grid> {
    let per = match run.scenario {
        Scenario::Idle => return None,
        Scenario::Connect => "CPU/handshake",
        Scenario::Fanout => "CPU/delivery",
        _ => "CPU/message",
    };
    let mut grid = Grid::new(&[
        "process",
        per,
        "busiest thread",
        "context switches",
        "forced",
    ]);
    let client = &run.client;
    let messages = if matches!(run.scenario, Scenario::Ingest | Scenario::Replay) {
        run.messages.sent
    } else {
        run.messages.received
    };
    let mut row = |name: &str, cpu: f64, busiest: f64, voluntary: u64, involuntary: u64| {
        let cpu = if messages == 0 {
            "-".to_owned()
        } else {
            microseconds(cpu)
        };
        grid.row([
            name.to_owned(),
            cpu,
            units::share(busiest),
            units::count(voluntary + involuntary),
            units::count(involuntary),
        ]);
    };
    row(
        "client",
        client.cpu_ns_per_message,
        client.busiest_share,
        client.context_switches_voluntary,
        client.context_switches_involuntary,
    );
    if let Some(server) = &run.server {
        row(
            &format!("server ({})", server.pid),
            server.cpu_ns_per_message,
            server.busiest_share,
            server.context_switches_voluntary,
            server.context_switches_involuntary,
        );
    }
    Some(grid)
}

/// The runs that were merged, side by side.
fn parts(run: &Run) -> Option<Grid> {
    if run.parts.is_empty() {
        return None;
    }
    let mut grid = Grid::new(&[
        "generator",
        "started",
        "received",
        "p99",
        "CPU/message",
        "busiest",
    ]);
    // How late by its own clock a machine was that was to start at one moment.
    let late = |late_ms: Option<u64>| match late_ms {
        Some(ms) if ms > 0 => format!(" ({} late)", units::milliseconds(ms as f64)),
        _ => String::new(),
    };
    for part in &run.parts {
        let of_messages = |value: String| match part.received {
            0 => "-".to_owned(),
            _ => value,
        };
        grid.row([
            part.host.clone(),
            format!(
                "+{} ms{}",
                units::count(part.started_after_ms),
                late(part.start_late_ms)
            ),
            units::count(part.received),
            of_messages(units::latency(part.p99_ns)),
            of_messages(microseconds(part.cpu_ns_per_message)),
            units::share(part.busiest_share),
        ]);
    }
    Some(grid)
}

/// CPU time per message: nanoseconds have to keep their fraction where messages are many.
fn microseconds(ns: f64) -> String {
    if ns < 999.5 {
        format!("{} ns", units::three_digits(ns))
    } else {
        units::latency(ns as u64)
    }
}

fn memory(run: &Run) -> Option<Grid> {
    let memory = run.memory.as_ref()?;
    let mut grid = Grid::new(&["memory", "each connection", "all together"]);
    let held = memory.connections_held as f64;
    let mut row = |name: &str, each: Option<f64>, whole: Option<f64>| {
        if each.is_some() || whole.is_some() {
            let cell = |bytes: Option<f64>| bytes.map_or_else(|| "-".to_owned(), units::bytes);
            grid.row([name.to_owned(), cell(each), cell(whole)]);
        }
    };
    let each = memory.server_resident_per_connection_bytes;
    row("server, resident", each, each.map(|each| each * held));
    let each = memory.client_resident_per_connection_bytes;
    row("loadgen, resident", Some(each), Some(each * held));
    let each = memory.kernel_per_connection_bytes;
    row("kernel, both ends", each, each.map(|each| each * held));
    let whole = memory.kernel_slab_growth_bytes.map(|bytes| bytes as f64);
    row("  of that slabs", whole.map(|whole| whole / held), whole);
    let whole = memory.kernel_tcp_growth_bytes.map(|bytes| bytes as f64);
    row(
        "  of that TCP queues",
        whole.map(|whole| whole / held),
        whole,
    );
    Some(grid)
}

fn fanout(run: &Run) -> Option<Grid> {
    let fanout = run.fanout.as_ref()?;
    let seconds = run.times.measured_ms / 1e3;
    let mut grid = Grid::new(&["deliveries", "count", "rate"]);
    for (name, count) in [
        ("published", fanout.published),
        ("expected", fanout.expected),
        ("delivered", fanout.delivered),
    ] {
        grid.row([
            name.to_owned(),
            units::count(count),
            units::rate(count as f64 / seconds),
        ]);
    }
    Some(grid)
}

fn ingest(run: &Run) -> Option<Grid> {
    let ingest = run.ingest.as_ref()?;
    let mut grid = Grid::new(&["read by the server", "count"]);
    let mut row = |name: &str, value: String| grid.row([name.to_owned(), value]);
    row(
        "connections read to their end",
        units::count(ingest.connections_confirmed),
    );
    row(
        "frames sent, warm-up included",
        units::count(ingest.frames_sent),
    );
    row("frames measured", units::count(ingest.frames_measured));
    if let Some(messages) = ingest.server_messages {
        row("messages, by its own count", units::count(messages));
        row(
            "messages to compare with",
            units::count(ingest.confirmed_messages),
        );
    }
    if let Some(payload) = ingest.server_payload_bytes {
        row("payload, by its own count", units::bytes(payload as f64));
    }
    Some(grid)
}

/// What became of each step of a script.
fn talk(run: &Run) -> Option<Grid> {
    let talk = run.talk.as_ref()?;
    let mut grid = Grid::new(&["step", "answered", "failed", "p50", "p99", "max"]);
    for step in &talk.steps {
        if step.answered + step.failed == 0 {
            continue;
        }
        let latency = |ns: u64| match step.answered {
            0 => "-".to_owned(),
            _ => units::latency(ns),
        };
        grid.row([
            shortened(&step.name),
            units::count(step.answered),
            units::count(step.failed),
            latency(step.p50_ns),
            latency(step.p99_ns),
            latency(step.max_ns),
        ]);
    }
    let mut row = |name: &str, count: u64| {
        if count > 0 {
            grid.row([name.to_owned(), units::count(count)]);
        }
    };
    row("conversations", talk.conversations);
    row("broken off", talk.broken_off);
    row("unexpected messages", talk.unexpected);
    Some(grid)
}

/// How true to its schedule a recording was offered again.
fn replay(run: &Run) -> Option<Grid> {
    let replay = run.replay.as_ref()?;
    let lateness = &run.client.lateness_ns;
    let mut grid = Grid::new(&["recording", "figure"]);
    grid.row([
        "connections".to_owned(),
        units::count(replay.recorded_connections),
    ]);
    grid.row([
        "messages".to_owned(),
        units::count(replay.recorded_messages),
    ]);
    grid.row(["length".to_owned(), units::milliseconds(replay.recorded_ms)]);
    if let Some(count) = replay.unrecorded.filter(|&count| count > 0) {
        grid.row(["not recorded".to_owned(), units::count(count)]);
    }
    if replay.unsent > 0 {
        grid.row(["not sent".to_owned(), units::count(replay.unsent)]);
    }
    if !lateness.is_empty() {
        for (name, quantile) in [("late at p50", 0.5), ("late at p99", 0.99)] {
            grid.row([
                name.to_owned(),
                units::latency(lateness.value_at_quantile(quantile)),
            ]);
        }
        grid.row(["late at worst".to_owned(), units::latency(lateness.max())]);
    }
    Some(grid)
}

fn search(run: &Run) -> Option<Grid> {
    let search = run.search.as_ref()?;
    let objective = format!("p{}", search.objective.percentile);
    let mut grid = Grid::new(&[
        "rate",
        "received",
        "p50",
        "p99",
        &objective,
        "step",
        "objective",
    ]);
    if search.objective.percentile == 99.0 {
        grid.heads[3] = "max".to_owned();
    }
    for point in &search.points {
        let step = match point.step {
            SearchStep::Bisect => "bisect",
            SearchStep::Confirm => "confirm",
            SearchStep::Double => "double",
        };
        let outcome = match (point.met, point.client_bound) {
            (_, true) => "client-bound",
            (true, false) => "met",
            (false, false) => "missed",
        };
        let third = if search.objective.percentile == 99.0 {
            point.max_ns
        } else {
            point.p99_ns
        };
        let latency = |ns: u64| match point.received_per_s {
            0.0 => "-".to_owned(),
            _ => units::latency(ns),
        };
        grid.row([
            units::rate(point.rate_per_s),
            units::rate(point.received_per_s),
            latency(point.p50_ns),
            latency(third),
            latency(point.objective_ns),
            step.to_owned(),
            outcome.to_owned(),
        ]);
    }
    grid.row([match search.rate_per_s {
        Some(rate) => format!("best {}", units::rate(rate)),
        None => "best: none".to_owned(),
    }]);
    Some(grid)
}

fn environment(run: &Run) -> Vec<(&'static str, String)> {
    let environment = &run.environment;
    let cpus: Vec<String> = environment
        .cpus_allowed
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut build = format!("loadgen {}", environment.loadgen_version);
    if let Some(commit) = &environment.loadgen_commit {
        build.push_str(&format!(" ({commit})"));
    }
    if let Some(rustc) = &environment.rustc_version {
        build.push_str(&format!(", {rustc}"));
    }
    let url = match shortened(&run.target.url) == run.target.url {
        true => String::new(),
        false => run.target.url.clone(),
    };
    let mut lines = vec![
        ("url", url),
        ("target", run.target.address.clone()),
        (
            "processor",
            format!(
                "{}, {} online, loadgen on {}",
                environment.cpu_model,
                environment.cpus_online,
                cpus.join(","),
            ),
        ),
        ("memory", units::bytes(environment.memory_bytes as f64)),
        (
            "system",
            format!("{}, Linux {}", environment.os, environment.kernel),
        ),
        ("host", environment.host.clone()),
        ("build", build),
        ("started", utc(run.times.started_unix_ms)),
        ("command", environment.command.join(" ")),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    lines
}

/// A moment as `2026-03-01 12:30:05 UTC`.
#[must_use]
pub fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // The proleptic Gregorian calendar, with years that begin in March so that the leap day is the
    // last of its year (Hinnant, "chrono-compatible low-level date algorithms").
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, (month + 2) % 12 + 1);
    let year = era * 400 + year + u64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_calendar_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399_000), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_798_761_600_000), "2027-01-01 00:00:00 UTC");
    }
}
