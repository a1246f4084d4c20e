//! Several runs as one: what many machines did at the same time against one server.
//!
//! Knows: which runs belong together, how their figures add up, whose clock is how far off. Refuses
//! to know: how a run is made.
//!
//! ```text
//!   A   | warm-up | measured ............ |          slices are laid side by side by the clock
//!   B        | warm-up | measured ............ |     to the nearest; counts and histograms are
//!   sum      | warm-up | measured ....... |          those of each run's own measured part
//! ```

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use hdrhistogram::Histogram;

use crate::{
    environment::environment,
    fail_if::FailIf,
    histogram,
    report::{Outputs, json, sheet::scenario_name, units},
    result::{Part, Run, Scenario, Slice, TalkFigures, TalkMismatch, VerdictKind},
    verdict,
};

/// Runs that start further apart than this part of what they measure are not of one time.
const SKEW_SHARE_MAX: f64 = 0.1;

/// The options of `loadgen merge`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Runs, as --json wrote them: two at least
    #[arg(required = true, num_args = 2.., value_name = "RUN.json")]
    pub runs: Vec<PathBuf>,
    /// Fails with status 5 when a figure of all together is so: 'p99>5ms', 'errors>0'; repeatable
    #[arg(long, value_name = "BOUND")]
    pub fail_if: Vec<FailIf>,
    /// Where the report goes.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// Reads, adds and reports. Returns the exit status, which is a run's; 2 when the runs are none or
/// do not belong together.
#[must_use]
pub fn run(arguments: &Arguments, command: Vec<String>) -> u8 {
    let fail = |sentence: &str| {
        // Standard error may be closed; the status says it as well.
        let _ = writeln!(io::stderr(), "loadgen merge: {sentence}");
        2
    };
    if let Err(error) = arguments.outputs.check() {
        return fail(&error.to_string());
    }
    let read = |path: &PathBuf| Ok((path.display().to_string(), json::read(Path::new(path))?));
    let runs: Result<Vec<(String, Run)>, String> = arguments.runs.iter().map(read).collect();
    let merged = match runs.and_then(|runs| merge(&runs)) {
        Ok(merged) => merged,
        Err(sentence) => return fail(&sentence),
    };
    let mut run = merged;
    run.environment.command = environment(command).command;
    run.fail_if = arguments
        .fail_if
        .iter()
        .map(|bound| bound.judge(&run))
        .collect();
    match arguments.outputs.write(&run) {
        Ok(()) => verdict::exit_status(&run),
        Err(error) => fail(&error.to_string()),
    }
}

/// Adds runs, each with the name that it is called by when something is wrong with it.
///
/// # Errors
///
/// A sentence about the first that does not belong to the others.
pub fn merge(runs: &[(String, Run)]) -> Result<Run, String> {
    let [(first_name, first), others @ ..] = runs else {
        return Err("there is nothing to merge".to_owned());
    };
    if matches!(
        first.scenario,
        Scenario::Fanout | Scenario::Saturate | Scenario::Replay
    ) {
        return Err(format!(
            "runs of {} cannot be added: {}",
            scenario_name(first.scenario),
            match first.scenario {
                Scenario::Fanout => "each knows of its own publishers alone",
                Scenario::Replay => "each offers all of a recording",
                _ => "each searched for a rate of its own",
            }
        ));
    }
    for (index, (name, run)) in others.iter().enumerate() {
        belongs(first_name, first, name, run)?;
        for (other_name, other) in &runs[..=index] {
            let is_same = |one: &Run, other: &Run| {
                one.times.started_unix_ms == other.times.started_unix_ms
                    && one.environment.host == other.environment.host
                    && one.latency.corrected_ns == other.latency.corrected_ns
                    && one.messages == other.messages
            };
            if is_same(run, other) {
                return Err(format!("{other_name} and {name} are the same run"));
            }
        }
    }
    let parts: Vec<&Run> = runs.iter().map(|(_, run)| run).collect();
    let began_ms = parts.iter().map(|run| run.times.started_unix_ms).min();
    let began_ms = began_ms.unwrap_or(0);
    let skew_ms = parts
        .iter()
        .map(|run| run.times.started_unix_ms - began_ms)
        .max();
    let skew_ms = skew_ms.unwrap_or(0);
    if skew_ms as f64 > first.times.measured_ms * SKEW_SHARE_MAX {
        return Err(format!(
            "the runs started {} apart by the clocks of their machines, and {} of the {} that they \
             measured is the most that still is one time: start them together, and let the \
             machines keep the time (chronyc tracking)",
            units::milliseconds(skew_ms as f64),
            units::share(SKEW_SHARE_MAX),
            units::milliseconds(first.times.measured_ms),
        ));
    }
    Ok(add(&parts, began_ms, skew_ms))
}

/// Whether a run can be added to the first one.
fn belongs(first_name: &str, first: &Run, name: &str, run: &Run) -> Result<(), String> {
    let differs = |what: &str, one: String, other: String| {
        Err(format!(
            "{first_name} and {name} do not belong together: {what} {one} and {other}"
        ))
    };
    if run.scenario != first.scenario {
        let (one, other) = (scenario_name(first.scenario), scenario_name(run.scenario));
        return differs("they are runs of", one.to_owned(), other.to_owned());
    }
    if run.target.url != first.target.url {
        return differs(
            "they ran against",
            first.target.url.clone(),
            run.target.url.clone(),
        );
    }
    let pid = |run: &Run| run.server.map(|server| server.pid);
    if let (Some(one), Some(other)) = (pid(first), pid(run))
        && one != other
    {
        return differs("--pid named", one.to_string(), other.to_string());
    }
    // Where and from how many threads may differ; what was sent may not.
    let plan = |run: &Run| {
        let mut plan = serde_json::to_value(&run.plan).unwrap_or_default();
        if let Some(plan) = plan.as_object_mut() {
            for name in ["shards", "source_addresses"] {
                plan.remove(name);
            }
        }
        plan
    };
    let (one, other) = (plan(first), plan(run));
    let fields = one.as_object().into_iter().flatten();
    for (field, value) in fields {
        let another = other.get(field).cloned().unwrap_or_default();
        if another != *value {
            return differs(
                &format!("their plans have as {field}"),
                value.to_string(),
                another.to_string(),
            );
        }
    }
    if run.times.slice_ms != first.times.slice_ms {
        return differs(
            "their slices have",
            units::milliseconds(first.times.slice_ms as f64),
            units::milliseconds(run.times.slice_ms as f64),
        );
    }
    Ok(())
}

fn add(parts: &[&Run], began_ms: u64, skew_ms: u64) -> Run {
    let mut sum = parts[0].clone();
    sum.parts = parts.iter().map(|run| part(run, began_ms)).collect();
    sum.slices = slices(parts, began_ms);
    sum.notes = Vec::new();
    sum.verdict.client_bound_allowed = parts.iter().all(|run| run.verdict.client_bound_allowed);
    for run in &parts[1..] {
        add_plan(&mut sum, run);
        add_counts(&mut sum, run);
        add_client(&mut sum, run);
        for (sum, more) in [
            (&mut sum.latency.corrected_ns, &run.latency.corrected_ns),
            (&mut sum.latency.uncorrected_ns, &run.latency.uncorrected_ns),
            (&mut sum.latency.handshake_ns, &run.latency.handshake_ns),
            (&mut sum.client.lateness_ns, &run.client.lateness_ns),
        ] {
            add_histogram(sum, more);
        }
        sum.server = sum.server.or(run.server);
        sum.times.interrupted |= run.times.interrupted;
        sum.times.connecting_ms = sum.times.connecting_ms.max(run.times.connecting_ms);
        sum.times.drain_ms = sum.times.drain_ms.max(run.times.drain_ms);
        sum.times.measured_ms = sum.times.measured_ms.max(run.times.measured_ms);
    }
    sum.times.started_unix_ms = began_ms;
    let measured = sum.slices.iter().find(|slice| !slice.is_warmup);
    sum.times.warmup_ms = measured.map_or(sum.times.warmup_ms, |slice| slice.start_ms);
    let counted = sum.messages.received.max(sum.messages.sent).max(1) as f64;
    sum.client.cpu_ns_per_message = sum.client.cpu_ns as f64 / counted;
    add_servers(&mut sum, parts, counted);
    let hosts: Vec<&str> = parts
        .iter()
        .map(|run| run.environment.host.as_str())
        .collect();
    sum.environment.host = hosts.join(", ");
    sum.notes.push(format!(
        "Merged from {} that started within {} of each other by the clocks of their machines; over \
         time they are laid side by side to the nearest {}.",
        units::plural(parts.len() as u64, "run"),
        units::milliseconds(skew_ms as f64),
        units::milliseconds(sum.times.slice_ms as f64),
    ));
    if sum.talk.is_some() {
        sum.notes
            .push("Of each step the percentiles are those of the slowest run.".to_owned());
    }
    if let Some(late_ms) = parts.iter().filter_map(|run| run.times.start_late_ms).max() {
        sum.notes.push(format!(
            "They were to start at one moment (--start-at): the latest was {} late.",
            units::milliseconds(late_ms as f64)
        ));
        sum.times.start_late_ms = Some(late_ms);
    }
    for (run, host) in parts.iter().zip(&hosts) {
        for note in run.notes.iter().map(|note| format!("{host}: {note}")) {
            // Two runs of one machine say the same.
            if !sum.notes.contains(&note) {
                sum.notes.push(note);
            }
        }
    }
    judge(&mut sum, parts);
    sum
}

fn part(run: &Run, began_ms: u64) -> Part {
    Part {
        host: run.environment.host.clone(),
        started_after_ms: run.times.started_unix_ms - began_ms,
        start_late_ms: run.times.start_late_ms,
        shards: run.plan.shards,
        received: run.messages.received,
        cpu_ns_per_message: run.client.cpu_ns_per_message,
        busiest_share: run.client.busiest_share,
        p99_ns: run.latency.corrected_ns.value_at_percentile(99.0),
        verdict: run.verdict.kind,
    }
}

/// Those of one version have the same bounds, and others grow.
fn add_histogram(sum: &mut Histogram<u64>, more: &Histogram<u64>) {
    if sum.add(more).is_err() {
        for step in more.iter_recorded() {
            sum.saturating_record_n(step.value_iterated_to(), step.count_since_last_iteration());
        }
    }
}

fn add_plan(sum: &mut Run, run: &Run) {
    let (sum, more) = (&mut sum.plan, &run.plan);
    sum.shards += more.shards;
    sum.connections += more.connections;
    sum.source_addresses += more.source_addresses;
    for (stage, more) in sum.stages.iter_mut().zip(&more.stages) {
        stage.from_per_s += more.from_per_s;
        stage.to_per_s += more.to_per_s;
    }
    sum.rate_per_s = sum
        .rate_per_s
        .zip(more.rate_per_s)
        .map(|(one, other)| one + other);
}

fn add_counts(sum: &mut Run, run: &Run) {
    let (messages, more) = (&mut sum.messages, &run.messages);
    for (sum, more) in [
        (&mut messages.scheduled, more.scheduled),
        (&mut messages.sent, more.sent),
        (&mut messages.unsent, more.unsent),
        (&mut messages.received, more.received),
        (&mut messages.lost, more.lost),
        (&mut messages.cut_off, more.cut_off),
        (&mut messages.greetings, more.greetings),
        (&mut messages.unasked, more.unasked),
        (&mut messages.duplicated, more.duplicated),
        (&mut messages.reordered, more.reordered),
        (&mut messages.corrupted, more.corrupted),
        (&mut messages.late, more.late),
        (&mut messages.compared, more.compared),
        (&mut sum.bytes.payload_sent, run.bytes.payload_sent),
        (&mut sum.bytes.payload_received, run.bytes.payload_received),
        (&mut sum.connections.asked, run.connections.asked),
        (&mut sum.connections.opened, run.connections.opened),
        (&mut sum.connections.renewed, run.connections.renewed),
        (&mut sum.connections.resumed, run.connections.resumed),
        (&mut sum.connections.failed, run.connections.failed),
        (&mut sum.connections.lost, run.connections.lost),
        (&mut sum.connections.closed, run.connections.closed),
    ] {
        *sum += more;
    }
    messages.unasked_most = messages.unasked_most.max(more.unasked_most);
    let (connections, more) = (&mut sum.connections, &run.connections);
    add_reasons(&mut connections.failed_reasons, &more.failed_reasons);
    add_reasons(&mut connections.lost_reasons, &more.lost_reasons);
    add_reasons(&mut connections.closed_reasons, &more.closed_reasons);
    if let (Some(sum), Some(more)) = (&mut sum.ingest, &run.ingest) {
        sum.connections_confirmed += more.connections_confirmed;
        sum.frames_sent += more.frames_sent;
        sum.frames_measured += more.frames_measured;
        sum.confirmed_messages += more.confirmed_messages;
        let both = |one: Option<u64>, other: Option<u64>| Some(one? + other?);
        sum.server_messages = both(sum.server_messages, more.server_messages);
        sum.server_payload_bytes = both(sum.server_payload_bytes, more.server_payload_bytes);
    }
    if let (Some(sum), Some(more)) = (&mut sum.talk, &run.talk) {
        add_talk(sum, more);
    }
    if let (Some(sum), Some(more)) = (&mut sum.compression, &run.compression) {
        sum.connections += more.connections;
        sum.messages_sent += more.messages_sent;
        sum.payload_sent += more.payload_sent;
        sum.compressed_sent += more.compressed_sent;
        sum.messages_received += more.messages_received;
        sum.payload_received += more.payload_received;
        sum.compressed_received += more.compressed_received;
    }
}

/// Percentiles of two do not add up: of each step the worst is told, which is in the notes.
fn add_talk(sum: &mut TalkFigures, more: &TalkFigures) {
    sum.conversations += more.conversations;
    sum.broken_off += more.broken_off;
    sum.unexpected += more.unexpected;
    sum.more_mismatches += more.more_mismatches;
    for (step, more) in sum.steps.iter_mut().zip(&more.steps) {
        step.answered += more.answered;
        step.failed += more.failed;
        step.p50_ns = step.p50_ns.max(more.p50_ns);
        step.p99_ns = step.p99_ns.max(more.p99_ns);
        step.max_ns = step.max_ns.max(more.max_ns);
    }
    for mismatch in &more.mismatches {
        let is_same =
            |it: &&mut TalkMismatch| (it.line, &it.came) == (mismatch.line, &mismatch.came);
        match sum.mismatches.iter_mut().find(is_same) {
            Some(same) => same.count += mismatch.count,
            None => sum.mismatches.push(mismatch.clone()),
        }
    }
}

fn add_reasons(sum: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (reason, count) in more {
        *sum.entry(reason.clone()).or_default() += count;
    }
}

fn add_client(sum: &mut Run, run: &Run) {
    let (sum, more) = (&mut sum.client, &run.client);
    sum.cpu_ns += more.cpu_ns;
    sum.busiest_share = sum.busiest_share.max(more.busiest_share);
    sum.run_queue_wait_ns += more.run_queue_wait_ns;
    sum.context_switches_voluntary += more.context_switches_voluntary;
    sum.context_switches_involuntary += more.context_switches_involuntary;
    sum.backlog_max += more.backlog_max;
}

/// The server is one process, whoever looked at it: what it used is for the messages of all.
fn add_servers(sum: &mut Run, parts: &[&Run], counted: f64) {
    let looks = || parts.iter().filter_map(|run| run.server);
    if let Some(server) = &mut sum.server {
        server.cpu_ns_per_message = server.cpu_ns as f64 / counted;
        let before = looks().map(|look| look.resident_before_bytes).min();
        let after = looks().map(|look| look.resident_after_bytes).max();
        server.resident_before_bytes = before.unwrap_or(0);
        server.resident_after_bytes = after.unwrap_or(0);
    }
    let server = sum.server;
    if let Some(memory) = &mut sum.memory {
        let each = parts.iter().filter_map(|run| run.memory);
        memory.connections_held = each.clone().map(|memory| memory.connections_held).sum();
        let held = memory.connections_held.max(1) as f64;
        let own = each.map(|memory| {
            memory.client_resident_per_connection_bytes * memory.connections_held as f64
        });
        memory.client_resident_per_connection_bytes = own.sum::<f64>() / held;
        memory.server_resident_per_connection_bytes = server.and_then(|server| {
            let grown = server
                .resident_after_bytes
                .checked_sub(server.resident_before_bytes)?;
            Some(grown as f64 / held)
        });
        // A kernel is each machine's own, and what two of them say is not of one thing.
        memory.kernel_per_connection_bytes = None;
        memory.kernel_slab_growth_bytes = None;
        memory.kernel_tcp_growth_bytes = None;
    }
}

/// Slices of all, by the clock. One in which somebody was not measuring counts as warm-up, and one
/// that somebody has not whole is partial.
fn slices(parts: &[&Run], began_ms: u64) -> Vec<Slice> {
    let slice_ms = parts[0].times.slice_ms.max(1);
    let offset = |run: &Run| {
        let after_ms = run.times.started_unix_ms - began_ms;
        ((after_ms + slice_ms / 2) / slice_ms) as usize
    };
    let offsets: Vec<usize> = parts.iter().map(|run| offset(run)).collect();
    // Up to where the first of them ended.
    let ends = parts.iter().zip(&offsets);
    let count = ends.map(|(run, offset)| run.slices.len() + offset).min();
    (0..count.unwrap_or(0))
        .map(|index| {
            let mut sum = Slice {
                start_ms: index as u64 * slice_ms,
                is_warmup: false,
                is_partial: false,
                sent: 0,
                received: 0,
                payload_bytes_sent: 0,
                payload_bytes_received: 0,
                errors: 0,
                server_cpu_ns: None,
                latency_ns: histogram::of_slice(),
            };
            for (run, offset) in parts.iter().zip(&offsets) {
                let slice = index
                    .checked_sub(*offset)
                    .and_then(|own| run.slices.get(own));
                let Some(slice) = slice else {
                    sum.is_warmup = true;
                    continue;
                };
                sum.is_warmup |= slice.is_warmup;
                sum.is_partial |= slice.is_partial;
                sum.sent += slice.sent;
                sum.received += slice.received;
                sum.payload_bytes_sent += slice.payload_bytes_sent;
                sum.payload_bytes_received += slice.payload_bytes_received;
                sum.errors += slice.errors;
                sum.server_cpu_ns = sum.server_cpu_ns.or(slice.server_cpu_ns);
                add_histogram(&mut sum.latency_ns, &slice.latency_ns);
            }
            sum
        })
        .collect()
}

/// A generator that was the bottleneck makes the sum say little, however the others did.
fn judge(sum: &mut Run, parts: &[&Run]) {
    let allowed = sum.verdict.client_bound_allowed;
    sum.verdict = verdict::verdict(sum, allowed);
    for run in parts {
        if run.verdict.kind != VerdictKind::ClientBound {
            continue;
        }
        sum.verdict.kind = VerdictKind::ClientBound;
        let host = &run.environment.host;
        let reasons = run.verdict.reasons.iter();
        let reasons = reasons.map(|reason| format!("{host}: {reason}"));
        sum.verdict.reasons.splice(0..0, reasons);
    }
}
