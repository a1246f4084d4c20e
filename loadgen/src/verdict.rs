//! Whether the numbers can be believed.
//!
//! Knows: what a generator that is the bottleneck looks like, and what a faulty run is. Refuses to
//! know: how the numbers came about.

use crate::{
    report::units,
    result::{Run, Scenario, TalkFigures, Verdict, VerdictKind},
};

/// A thread that used more of a processor than this could not have done much more.
const BUSY_SHARE: f64 = 0.9;

/// A thread that was kept from its processor for more than this sent late and saw replies late.
const WAITED_SHARE: f64 = 0.2;

/// Lateness up to here is a timer's, and no generator that sleeps is without it, in nanoseconds.
const LATENESS_ALLOWED_NS: u64 = 100_000;

/// A recording whose messages are sent later than this was not offered as it was, in nanoseconds.
const REPLAY_LATE_NS: u64 = 1_000_000;

/// The part of the measured latency that may be the generator's own lateness.
const LATENESS_SHARE: f64 = 0.5;

/// A schedule of which less than this was sent late was kept.
const LATE_SHARE: f64 = 0.01;

/// Where both are judged: what is meant to hold for nearly all messages has to be true of these.
const LATENESS_PERCENTILE: f64 = 99.0;

/// The exit status of a run that was interrupted, as a shell has it for those whom Ctrl-C ends.
pub const INTERRUPTED: u8 = 130;

/// The exit status: 0 sound, 1 faulty, 3 client bound, 4 not as asked, 5 a bound of `--fail-if` was
/// passed, 130 interrupted. What says more about the server comes first.
pub fn exit_status(run: &Run) -> u8 {
    if run.times.interrupted {
        return INTERRUPTED;
    }
    let verdict = match run.verdict.kind {
        VerdictKind::ClientBound if !run.verdict.client_bound_allowed => 3,
        VerdictKind::ClientBound if faults(run).is_empty() => 0,
        VerdictKind::ClientBound | VerdictKind::Faulty => 1,
        VerdictKind::Interrupted => INTERRUPTED,
        VerdictKind::NotAsAsked => 4,
        VerdictKind::Sound => 0,
    };
    match run.fail_if.iter().any(|bound| bound.failed) {
        true if verdict == 0 || verdict == 4 => 5,
        _ => verdict,
    }
}

/// The verdict on a run whose other fields are complete.
pub fn verdict(run: &Run, client_bound_allowed: bool) -> Verdict {
    let mut reasons = bounds(run);
    let is_client_bound = !reasons.is_empty();
    let (faults, shortfalls) = (faults(run), shortfalls(run));
    let kind = match (faults.is_empty(), shortfalls.is_empty()) {
        _ if is_client_bound => VerdictKind::ClientBound,
        (false, _) => VerdictKind::Faulty,
        _ if run.times.interrupted => VerdictKind::Interrupted,
        (_, false) => VerdictKind::NotAsAsked,
        (true, true) => VerdictKind::Sound,
    };
    if run.times.interrupted {
        reasons.insert(0, interruption(run));
    }
    reasons.extend(faults);
    reasons.extend(shortfalls);
    Verdict {
        kind,
        reasons,
        client_bound_allowed,
    }
}

/// How much there is of a run that was ended early.
fn interruption(run: &Run) -> String {
    let asked = units::milliseconds(run.plan.duration_ms as f64);
    if run.times.measured_ms <= 0.0 {
        return format!(
            "it was interrupted in its warm-up, so that nothing was measured of the {asked} that \
             were asked for"
        );
    }
    format!(
        "it was interrupted: {} were measured of the {asked} that were asked for, and the figures \
         are about those",
        units::milliseconds(run.times.measured_ms)
    )
}

/// Why the generator was the bottleneck, if it was.
fn bounds(run: &Run) -> Vec<String> {
    let mut reasons = Vec::new();
    // Nothing is asked of the generator that it could be too slow for.
    if run.scenario == Scenario::Idle {
        return reasons;
    }
    if run.scenario == Scenario::Replay {
        let late_ns = run
            .client
            .lateness_ns
            .value_at_percentile(LATENESS_PERCENTILE);
        if late_ns > REPLAY_LATE_NS {
            reasons.push(format!(
                "at p99 messages were sent {} after their time: the machine, or the server that \
                 did not read, did not let the generator keep to the recording",
                milliseconds(late_ns)
            ));
        }
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

/// What the server did wrong.
fn faults(run: &Run) -> Vec<String> {
    let (connections, messages) = (&run.connections, &run.messages);
    let noun = match run.scenario {
        Scenario::Fanout => "delivery",
        _ => "message",
    };
    let were = |count: u64, singular: &str, plural: &str| {
        format!(
            "{} {}",
            units::plural(count, noun),
            if count == 1 { singular } else { plural }
        )
    };
    let mut faults = Vec::new();
    let mut fault = |count: u64, sentence: &dyn Fn() -> String| {
        if count > 0 {
            faults.push(sentence());
        }
    };
    fault(connections.failed, &|| {
        format!(
            "{} of the connections did not open",
            units::count(connections.failed)
        )
    });
    fault(connections.lost, &|| {
        format!(
            "{} of the connections ended before the run did",
            units::count(connections.lost)
        )
    });
    // A handshake that is lost is a connection that did not open.
    if run.scenario != Scenario::Connect {
        fault(messages.lost, &|| lost(run, &were));
    }
    fault(messages.duplicated, &|| {
        were(messages.duplicated, "came twice", "came twice")
    });
    fault(messages.reordered, &|| {
        were(messages.reordered, "came out of order", "came out of order")
    });
    if let Some(talk) = &run.talk {
        faults.extend(mismatches(talk));
        return faults;
    }
    fault(messages.corrupted, &|| {
        were(
            messages.corrupted,
            "was not what had been sent",
            "were not what had been sent",
        )
    });
    faults
}

/// How many mismatches a verdict tells.
const MISMATCHES_TOLD: usize = 3;

/// What came that a script did not expect.
fn mismatches(talk: &TalkFigures) -> Vec<String> {
    let told = talk
        .mismatches
        .iter()
        .take(MISMATCHES_TOLD)
        .map(|mismatch| {
            format!(
                "{}, line {} of the script, expected {}, and {} came{}",
                mismatch.name,
                mismatch.line,
                mismatch.expected,
                mismatch.came,
                match mismatch.count {
                    1 => String::new(),
                    count => format!(" ({} times)", units::count(count)),
                }
            )
        });
    let mut told: Vec<String> = told.collect();
    let others = talk.mismatches.iter().skip(MISMATCHES_TOLD);
    let others = others.map(|it| it.count).sum::<u64>() + talk.more_mismatches;
    if others > 0 {
        told.push(format!(
            "{} more answers were others than expected",
            units::count(others)
        ));
    }
    told
}

/// Why messages are lost: whose time was over, or what else shows it.
fn lost(run: &Run, were: &dyn Fn(u64, &str, &str) -> String) -> String {
    let lost = run.messages.lost;
    let timeout = run.plan.reply_timeout_ms.map_or_else(String::new, |ms| {
        format!(" {}", units::milliseconds(ms as f64))
    });
    if let Some(fanout) = run.fanout.filter(|fanout| fanout.delivered == 0) {
        let instead = if fanout.publishers_hear_themselves {
            ", but sends it back, as an echo does"
        } else {
            ""
        };
        return format!(
            "nothing that was published came to any subscriber ({} expected): the server does not \
             send to all clients of a URL what one of them sends{instead}",
            units::count(fanout.expected)
        );
    }
    match run.scenario {
        Scenario::Ingest => were(
            lost,
            "is missing in the server's own count",
            "are missing in the server's own count",
        ),
        Scenario::Fanout => format!(
            "{} within --reply-timeout{timeout}",
            were(lost, "did not come", "did not come")
        ),
        _ => {
            let ended = if run.connections.lost + run.connections.closed > 0 {
                ", or its connection ended long after one was due"
            } else {
                ""
            };
            format!(
                "{}: no answer came within --reply-timeout{timeout}{ended}",
                were(lost, "was lost", "were lost")
            )
        }
    }
}

/// What did not go as it was asked for, without a fault of the server's that could be shown.
fn shortfalls(run: &Run) -> Vec<String> {
    let (connections, messages) = (&run.connections, &run.messages);
    let mut shortfalls = Vec::new();
    if connections.closed > 0 {
        let cut_off = match messages.cut_off {
            0 => String::new(),
            count => format!(
                "; {} {} on the way",
                units::plural(count, "message"),
                if count == 1 { "was" } else { "were" }
            ),
        };
        shortfalls.push(format!(
            "the server closed {} of {} in good order before the run had ended{cut_off}",
            units::count(connections.closed),
            units::plural(connections.opened, "connection"),
        ));
    }
    if messages.unasked_most > 0 {
        shortfalls.push(format!(
            "the server sends before it is asked: {} that answered nothing came before the first \
             answer; use --greeting {}",
            units::plural(messages.unasked, "message"),
            run.plan.greeting + messages.unasked_most
        ));
    }
    let greetings = run.plan.greeting * connections.opened;
    // To a topic a server announces more to those who came first.
    let is_exact = run.scenario != Scenario::Fanout;
    if is_exact && messages.greetings < greetings && messages.unasked_most == 0 {
        shortfalls.push(format!(
            "the server sent {} of the {} that --greeting {} expects on {}",
            units::count(messages.greetings),
            units::plural(greetings, "greeting"),
            run.plan.greeting,
            units::plural(connections.opened, "connection"),
        ));
    }
    // Whoever was interrupted knows why there is little.
    if messages.sent == 0 && run.scenario != Scenario::Idle && !run.times.interrupted {
        shortfalls.push(nothing_sent(run));
    } else if messages.unsent > 0 {
        shortfalls.push(format!(
            "{} {} due and not sent when the run ended{}",
            units::plural(messages.unsent, "message"),
            if messages.unsent == 1 { "was" } else { "were" },
            behind(run)
        ));
    }
    shortfalls
}

/// Why nothing was sent in the measured part.
fn nothing_sent(run: &Run) -> String {
    let noun = match run.scenario {
        Scenario::Connect => "opening handshake",
        _ => "message",
    };
    let due = run.messages.scheduled;
    if run.scenario == Scenario::Replay {
        return format!(
            "of the {} of the recording none was sent, as no connection was open when one was due",
            units::plural(due, noun)
        );
    }
    match run.plan.rate_per_s {
        Some(rate) if due == 0 => format!(
            "nothing was due in the measured part, which is shorter than the gap between two \
             {noun}s at {}: give --duration more time, or ask for more",
            units::rate(rate)
        ),
        Some(_) => format!(
            "of {} due in the measured part none was sent, as those of the warm-up were still in \
             the way{}",
            units::plural(due, noun),
            behind(run)
        ),
        None => "nothing was sent in the measured part, as every connection still waited for an \
                 answer to what was sent before: give --duration more time"
            .to_owned(),
    }
}

/// What the connections carried of the rate that was asked for, and what can be done.
fn behind(run: &Run) -> String {
    let Some(rate) = run.plan.rate_per_s else {
        return String::new();
    };
    // What was cut short holds what was sent while the run drained.
    let slices = run.slices.iter();
    let measured = slices.filter(|slice| !slice.is_warmup && !slice.is_partial);
    let (count, sent) = measured.fold((0_u64, 0), |(count, sent), slice| {
        (count + 1, sent + slice.sent)
    });
    let seconds = count as f64 * run.times.slice_ms as f64 / 1e3;
    let carried = units::rate(sent as f64 / seconds.max(f64::MIN_POSITIVE));
    // Those that were opened anew stand in the place of others.
    let places = run
        .connections
        .opened
        .saturating_sub(run.connections.renewed);
    let connections = units::plural(places, "connection");
    let asked = units::rate(rate);
    match run.plan.in_flight {
        Some(in_flight) => format!(
            ": {connections} with {} each carried {carried} of the {asked} that were asked for; \
             raise --in-flight or --connections, and if that changes nothing, the server does not \
             keep up",
            units::plural(in_flight as u64, "unanswered message"),
        ),
        None => format!(
            ": {carried} were sent of the {asked} that were asked for, as the server did not read \
             faster"
        ),
    }
}

fn milliseconds(ns: u64) -> String {
    format!("{:.3} ms", ns as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fail_if::FailIf, histogram, result::*};

    type Change = fn(&mut Run);

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
                reply_timeout_ms: Some(2000),
                duration_ms: 10_000,
                ..PlanFigures::default()
            },
            environment: Environment::default(),
            times: Times {
                measured_ms: 1000.0,
                ..Times::default()
            },
            connections: Connections {
                asked: 4,
                opened: 4,
                ..Connections::default()
            },
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
            talk: None,
            replay: None,
            search: None,
            compression: None,
            verdict: Verdict {
                kind: VerdictKind::Sound,
                reasons: Vec::new(),
                client_bound_allowed: false,
            },
            fail_if: Vec::new(),
            parts: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn reasons(change: impl FnOnce(&mut Run)) -> Vec<String> {
        let mut run = sound();
        change(&mut run);
        verdict(&run, false).reasons
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
        let changes: [(Change, &str); 7] = [
            (
                |run| run.messages.lost = 1,
                "1 message was lost: no answer came within --reply-timeout 2.00 s",
            ),
            (
                |run| run.messages.lost = 2,
                "2 messages were lost: no answer came within --reply-timeout 2.00 s",
            ),
            (|run| run.messages.duplicated = 1, "1 message came twice"),
            (
                |run| run.messages.reordered = 1,
                "1 message came out of order",
            ),
            (
                |run| run.messages.corrupted = 1,
                "1 message was not what had been sent",
            ),
            (
                |run| run.connections.failed = 1,
                "1 of the connections did not open",
            ),
            (
                |run| run.connections.lost = 1,
                "1 of the connections ended before the run did",
            ),
        ];
        for (change, sentence) in changes {
            assert_eq!(judged(change), (VerdictKind::Faulty, 1, 1));
            assert_eq!(reasons(change), [sentence]);
        }
    }

    #[test]
    fn what_is_nobody_s_fault_is_only_not_as_asked() {
        let changes: [(Change, &str); 6] = [
            (
                |run| run.messages.unsent = 1,
                "1 message was due and not sent when the run ended",
            ),
            (|run| run.messages.sent = 0, "nothing was due"),
            (
                |run| {
                    run.messages.sent = 0;
                    run.messages.scheduled = 750;
                },
                "of 750 messages due in the measured part none was sent",
            ),
            (
                |run| run.connections.closed = 1,
                "the server closed 1 of 4 connections in good order",
            ),
            (
                |run| {
                    run.messages.unasked = 8;
                    run.messages.unasked_most = 2;
                },
                "use --greeting 2",
            ),
            (
                |run| {
                    run.plan.greeting = 1;
                    run.messages.greetings = 3;
                },
                "the server sent 3 of the 4 greetings that --greeting 1 expects",
            ),
        ];
        for (change, sentence) in changes {
            assert_eq!(judged(change), (VerdictKind::NotAsAsked, 4, 1));
            let reasons = reasons(change);
            assert!(reasons[0].contains(sentence), "{reasons:?}");
            assert!(!reasons[0].contains("lost"), "{reasons:?}");
        }
    }

    #[test]
    fn whoever_was_interrupted_is_told_what_there_is() {
        let interrupted = |run: &mut Run| run.times.interrupted = true;
        assert_eq!(judged(interrupted), (VerdictKind::Interrupted, 130, 1));
        assert!(reasons(interrupted)[0].contains("1.00 s were measured of the 10.0 s"));
        let early = |run: &mut Run| {
            run.times.interrupted = true;
            run.times.measured_ms = 0.0;
            run.messages.sent = 0;
        };
        assert_eq!(judged(early), (VerdictKind::Interrupted, 130, 1));
        assert!(reasons(early)[0].contains("in its warm-up"));
        let faulty = |run: &mut Run| {
            run.times.interrupted = true;
            run.messages.lost = 1;
        };
        assert_eq!(judged(faulty), (VerdictKind::Faulty, 130, 2));
    }

    #[test]
    fn a_bound_that_was_passed_has_a_status_apart() {
        let passed = |run: &mut Run| {
            for text in ["p99>2ms", "p50>1us", "errors>0"] {
                let bound: FailIf = text.parse().unwrap();
                let judged = bound.judge(run);
                run.fail_if.push(judged);
            }
        };
        assert_eq!(judged(passed), (VerdictKind::Sound, 5, 0));
        let faulty = |run: &mut Run| {
            run.messages.lost = 1;
            passed(run);
        };
        assert_eq!(judged(faulty), (VerdictKind::Faulty, 1, 1));
        let mut run = sound();
        run.messages.lost = 3;
        passed(&mut run);
        let sentences: Vec<&str> = run
            .fail_if
            .iter()
            .map(|bound| bound.sentence.as_str())
            .collect();
        assert_eq!(
            sentences,
            [
                "p99 was 990 µs, as --fail-if 'p99>2ms' wants: at most 2.00 ms",
                "p50 was 500 µs, and --fail-if 'p50>1us' wants at most 1.00 µs",
                "errors was 3, and --fail-if 'errors>0' wants at most 0",
            ]
        );
        let kept: Vec<bool> = run.fail_if.iter().map(|bound| !bound.failed).collect();
        assert_eq!(kept, [true, false, false]);
        let unmeasured: FailIf = "cpu>1us".parse().unwrap();
        assert!(
            unmeasured.judge(&run).failed,
            "what was not measured keeps no bound"
        );
        let share: FailIf = "lost>1%".parse().unwrap();
        assert!(!share.judge(&run).failed, "3 of 1000");
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
