//! Whether the numbers can be believed.
//!
//! Knows: what a generator that is the bottleneck looks like, and what a faulty run is. Refuses to
//! know: how the numbers came about.

use crate::result::{Run, Scenario, Verdict, VerdictKind};

/// A thread that used more of a processor than this could not have done much more.
const BUSY_SHARE: f64 = 0.9;

/// A thread that was kept from its processor for more than this sent late and saw replies late.
const WAITED_SHARE: f64 = 0.2;

/// Lateness up to here is a timer's, and no generator that sleeps is without it, in nanoseconds.
const LATENESS_ALLOWED_NS: u64 = 100_000;

/// The part of the measured latency that may be the generator's own lateness.
const LATENESS_SHARE: f64 = 0.5;

/// A schedule of which less than this was sent late was kept.
const LATE_SHARE: f64 = 0.01;

/// Where both are judged: what is meant to hold for nearly all messages has to be true of these.
const LATENESS_PERCENTILE: f64 = 99.0;

/// The exit status: 0 sound, 1 faulty, 3 client bound.
pub fn exit_status(run: &Run) -> u8 {
    match run.verdict.kind {
        VerdictKind::ClientBound if !run.verdict.client_bound_allowed => 3,
        VerdictKind::ClientBound => u8::from(!faults(run).is_empty()),
        VerdictKind::Faulty => 1,
        VerdictKind::Sound => 0,
    }
}

/// The verdict on a run whose other fields are complete.
pub fn verdict(run: &Run, client_bound_allowed: bool) -> Verdict {
    let mut reasons = bounds(run);
    let is_client_bound = !reasons.is_empty();
    let faults = faults(run);
    let kind = match (is_client_bound, faults.is_empty()) {
        (true, _) => VerdictKind::ClientBound,
        (false, false) => VerdictKind::Faulty,
        (false, true) => VerdictKind::Sound,
    };
    reasons.extend(faults);
    Verdict {
        kind,
        reasons,
        client_bound_allowed,
    }
}

/// Why the generator was the bottleneck, if it was.
fn bounds(run: &Run) -> Vec<String> {
    let mut reasons = Vec::new();
    // Nothing is asked of the generator that it could be too slow for.
    if run.scenario == Scenario::Idle {
        return reasons;
    }
    let client = &run.client;
    let measured_ns = run.times.measured_ms * 1e6;
    let threads = run.plan.shards.max(1) as f64;
    let waited = client.run_queue_wait_ns as f64 / measured_ns.max(1.0) / threads;
    if waited > WAITED_SHARE {
        reasons.push(format!(
            "the generator's threads waited for a processor {:.0} % of the time: other programs, \
             perhaps the server, want the same ones",
            waited * 100.0
        ));
    }
    // A closed loop makes both sides as busy as they can be. The server is the slower one when its
    // busiest thread is busier than ours.
    let is_server_busier = run
        .server
        .is_some_and(|server| server.busiest_share >= client.busiest_share);
    // A thread that finds a little to do in each of many turns uses much of a processor, and could
    // do more in as many turns. Where the schedule was kept it was not too slow.
    let kept = run.latency.has_schedule
        && run.messages.unsent == 0
        && (run.messages.late as f64) < run.messages.sent as f64 * LATE_SHARE;
    // What it was kept from counts as well: it would have used that.
    if !kept
        && client.busiest_share + waited > BUSY_SHARE
        && !is_server_busier
        && reasons.is_empty()
    {
        reasons.push(format!(
            "a thread of the generator was busy {:.0} % of the time and waited for a processor \
             {:.0} %; give it more with --shards, or ask for less",
            client.busiest_share * 100.0,
            waited * 100.0
        ));
    }
    let late_ns = client.lateness_ns.value_at_percentile(LATENESS_PERCENTILE);
    let latency = &run.latency.corrected_ns;
    let latency_ns = latency.value_at_percentile(LATENESS_PERCENTILE);
    if run.latency.has_schedule
        && late_ns > LATENESS_ALLOWED_NS
        && late_ns as f64 > latency_ns as f64 * LATENESS_SHARE
    {
        reasons.push(format!(
            "the generator sent late by its own fault: at p99 {} of a measured latency of {}; it \
             needs processors of its own",
            milliseconds(late_ns),
            milliseconds(latency_ns)
        ));
    }
    reasons
}

/// What went wrong beside that.
fn faults(run: &Run) -> Vec<String> {
    let (connections, messages) = (&run.connections, &run.messages);
    let noun = match run.scenario {
        Scenario::Fanout => "deliveries",
        _ => "messages",
    };
    let lost = match run.scenario {
        Scenario::Connect => 0,
        _ => messages.lost,
    };
    let counted = [
        (
            connections.failed,
            "of the connections did not open".to_owned(),
        ),
        (
            connections.lost,
            "of the connections ended before the run did".to_owned(),
        ),
        (
            messages.unsent,
            "messages were due and not sent when the run ended: the server did not keep up with \
             the rate, or --in-flight and --connections are too few for it"
                .to_owned(),
        ),
        // A handshake that is lost is a connection that did not open.
        (lost, format!("{noun} were lost")),
        (messages.duplicated, format!("{noun} came twice")),
        (messages.reordered, format!("{noun} came out of order")),
        (
            messages.corrupted,
            format!("{noun} were not what had been sent"),
        ),
    ];
    let counted = counted.into_iter().filter(|(count, _)| *count > 0);
    let mut faults: Vec<String> = counted
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if messages.sent == 0 && run.scenario != Scenario::Idle {
        faults.push("nothing was sent in the measured part: it is shorter than one gap".to_owned());
    }
    faults
}

fn milliseconds(ns: u64) -> String {
    format!("{:.3} ms", ns as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{histogram, result::*};

    fn sound() -> Run {
        let mut latency = histogram::of_run();
        let mut lateness = histogram::of_run();
        for step in 1..=1000 {
            histogram::record(&mut latency, step * 1000);
            histogram::record(&mut lateness, step * 50);
        }
        Run {
            schema: SCHEMA.to_owned(),
            scenario: Scenario::Echo,
            target: Target {
                url: "ws://127.0.0.1:9001/".to_owned(),
                address: "127.0.0.1:9001".to_owned(),
                server_header: None,
            },
            plan: PlanFigures {
                shards: 2,
                rate_per_s: Some(1000.0),
                ..PlanFigures::default()
            },
            environment: Environment::default(),
            times: Times {
                measured_ms: 1000.0,
                ..Times::default()
            },
            connections: Connections::default(),
            messages: Messages {
                sent: 1000,
                received: 1000,
                ..Messages::default()
            },
            bytes: Bytes::default(),
            latency: Latency {
                corrected_ns: latency.clone(),
                uncorrected_ns: latency,
                handshake_ns: histogram::of_run(),
                has_schedule: true,
            },
            slices: Vec::new(),
            client: ClientFigures {
                cpu_ns: 100_000_000,
                cpu_ns_per_message: 100_000.0,
                busiest_share: 0.1,
                run_queue_wait_ns: 0,
                context_switches_voluntary: 0,
                context_switches_involuntary: 0,
                lateness_ns: lateness,
                backlog_max: 0,
            },
            server: None,
            memory: None,
            fanout: None,
            ingest: None,
            search: None,
            compression: None,
            verdict: Verdict {
                kind: VerdictKind::Sound,
                reasons: Vec::new(),
                client_bound_allowed: false,
            },
            notes: Vec::new(),
        }
    }

    fn judged(change: impl FnOnce(&mut Run)) -> (VerdictKind, u8, usize) {
        let mut run = sound();
        change(&mut run);
        run.verdict = verdict(&run, run.verdict.client_bound_allowed);
        (
            run.verdict.kind,
            exit_status(&run),
            run.verdict.reasons.len(),
        )
    }

    #[test]
    fn a_run_without_a_flaw_is_sound() {
        assert_eq!(judged(|_| {}), (VerdictKind::Sound, 0, 0));
    }

    #[test]
    fn each_sign_of_a_generator_at_its_end_refuses_the_verdict() {
        use VerdictKind::ClientBound;
        let busy = |run: &mut Run| {
            run.client.busiest_share = 0.91;
            run.messages.late = 10;
        };
        assert_eq!(judged(busy), (ClientBound, 3, 1));
        assert_eq!(
            judged(|run| run.client.run_queue_wait_ns = 500_000_000),
            (ClientBound, 3, 1)
        );
        let late = |run: &mut Run| {
            for _ in 0..100 {
                histogram::record(&mut run.client.lateness_ns, 900_000);
            }
        };
        assert_eq!(judged(late), (ClientBound, 3, 1));
    }

    #[test]
    fn what_is_a_server_s_fault_is_not_the_generator_s() {
        let busier = |run: &mut Run| {
            run.client.busiest_share = 0.93;
            run.messages.late = 1000;
            run.server = Some(ServerFigures {
                busiest_share: 0.97,
                ..ServerFigures::default()
            });
        };
        assert_eq!(judged(busier).0, VerdictKind::Sound);
        let busy_and_on_time = |run: &mut Run| run.client.busiest_share = 0.97;
        assert_eq!(judged(busy_and_on_time).0, VerdictKind::Sound);
        let small = |run: &mut Run| {
            for _ in 0..100 {
                histogram::record(&mut run.client.lateness_ns, 90_000);
            }
        };
        assert_eq!(judged(small).0, VerdictKind::Sound);
    }

    #[test]
    fn whatever_was_lost_or_wrong_is_faulty() {
        let changes: [fn(&mut Run); 8] = [
            |run| run.messages.lost = 1,
            |run| run.messages.unsent = 1,
            |run| run.messages.duplicated = 1,
            |run| run.messages.reordered = 1,
            |run| run.messages.corrupted = 1,
            |run| run.connections.failed = 1,
            |run| run.connections.lost = 1,
            |run| run.messages.sent = 0,
        ];
        for change in changes {
            assert_eq!(judged(change), (VerdictKind::Faulty, 1, 1));
        }
    }

    #[test]
    fn allowing_it_changes_the_exit_status_alone() {
        let allowed = |run: &mut Run| {
            run.client.busiest_share = 1.0;
            run.latency.has_schedule = false;
            run.verdict.client_bound_allowed = true;
        };
        assert_eq!(judged(allowed), (VerdictKind::ClientBound, 0, 1));
        let faulty_as_well = |run: &mut Run| {
            allowed(run);
            run.messages.lost = 3;
        };
        assert_eq!(judged(faulty_as_well), (VerdictKind::ClientBound, 1, 2));
    }
}
