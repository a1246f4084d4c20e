//! The other scenarios, each from one end to the other.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use clap::Parser;
use loadgen::{
    plan::{Cli, Command},
    report::{svg, table, units},
    result::{CheckOutcome, SearchStep},
    scenario::check,
};

use crate::{
    run,
    servers::{Repeater, Running, Sink},
    words,
};

#[test]
fn a_storm_of_connections_is_counted() {
    let server = Running::echo();
    let line = format!(
        "connect {} -d 500ms --warmup 100ms --in-flight 8",
        server.url
    );
    let words = words(&line);
    let run = run(&words);
    let messages = run.messages;
    assert!(messages.received > 20, "{messages:?}");
    assert_eq!(messages.received, messages.sent);
    assert_eq!(run.latency.corrected_ns.len(), messages.received);
    assert_eq!(run.connections.asked, run.connections.opened);
    assert!(run.connections.opened >= messages.received);
    assert_eq!(
        server.handle().stats().counts.handshakes - 1,
        run.connections.opened
    );
    // In its own words, and with one rate wherever it is told.
    let table = table::render(&run);
    assert!(
        table.contains("8 opening handshakes at one time"),
        "{table}"
    );
    assert!(
        !table.contains("in flight") && !table.contains("message"),
        "{table}"
    );
    let chart = svg::rate_over_time(&run, svg::WIDE).unwrap();
    let seconds = run.times.measured_ms / 1e3;
    let rate = units::rate_short(messages.received as f64 / seconds);
    assert!(
        chart.contains(&format!(">mean {rate}<")),
        "{rate} in {chart}"
    );
}

#[test]
fn connections_at_a_fixed_rate_keep_to_it() {
    let server = Running::echo();
    let line = format!("connect {} -d 1s --warmup 200ms --rate 300", server.url);
    let words = words(&line);
    let run = run(&[&words[..], &["--shards", "2"]].concat());
    assert_eq!((run.messages.scheduled, run.messages.received), (300, 300));
    assert_eq!(run.latency.handshake_ns.len(), 300);
    assert!(run.latency.corrected_ns.max() >= run.latency.uncorrected_ns.max());
}

#[test]
fn idle_connections_are_held_and_weighed() {
    let server = Running::echo();
    let pid = std::process::id().to_string();
    let line = format!("idle {} -c 200 -d 300ms --pid {}", server.url, pid);
    let words = words(&line);
    let run = run(&[
        &words[..],
        &["--source", "127.0.0.2", "--source", "127.0.0.3"],
    ]
    .concat());
    let memory = run.memory.unwrap();
    assert_eq!(memory.connections_held, 200);
    assert!(memory.server_resident_per_connection_bytes.is_some());
    // The kernel's memory is the whole machine's: other tests shrink it at the same time.
    let is_told = memory.kernel_per_connection_bytes.is_some();
    let why_not = run
        .notes
        .iter()
        .any(|note| note.contains("kernel's memory is not told"));
    assert_ne!(is_told, why_not, "{:?}", run.notes);
    let growths = [
        memory.kernel_slab_growth_bytes,
        memory.kernel_tcp_growth_bytes,
    ];
    assert!(growths.iter().all(|growth| growth.is_some() == is_told));
    // It was asked to do nothing, and a chart of that shows nothing.
    assert!(!run.notes.iter().any(|note| note.contains("CPU time")));
    assert!(svg::rate_over_time(&run, svg::WIDE).is_none());
    assert_eq!(run.latency.handshake_ns.len(), 200);
    assert_eq!(run.connections.lost, 0);
}

#[test]
fn a_network_has_more_ports_than_an_address() {
    let server = Running::echo();
    let words = ["idle", &server.url, "-c", "30", "-d", "100ms"];
    let run = run(&[&words[..], &["--from", "127.9.1.0/29"]].concat());
    assert_eq!(run.connections.opened, 30);
    assert_eq!(run.plan.source_addresses, 6);
    let table = table::render(&run);
    assert!(table.contains("127.9.1.1 to 127.9.1.6"), "{table}");
}

pub fn repeater(
    leave_out_every: u64,
    hears_itself: bool,
    announces: bool,
) -> (Running, Arc<AtomicU64>) {
    let (handle, left_out) = (Arc::new(OnceLock::new()), Arc::new(AtomicU64::new(0)));
    let (its_handle, its_left_out) = (handle.clone(), left_out.clone());
    let server = Running::start(move |_| Repeater {
        handle: its_handle.clone(),
        open: Vec::new(),
        leave_out_every,
        deliveries: 0,
        left_out: its_left_out.clone(),
        hears_itself,
        announces,
    });
    assert!(handle.set(server.handle()).is_ok());
    (server, left_out)
}

#[test]
fn every_subscriber_hears_every_publisher_of_its_topic() {
    for hears_itself in [false, true] {
        let (server, _) = repeater(0, hears_itself, false);
        let url = format!("{}topic/{{}}", server.url);
        let run = run(&[
            "fanout",
            &url,
            "--publishers",
            "4",
            "--subscribers",
            "10",
            "--topics",
            "2",
            "--rate",
            "200",
            "-d",
            "500ms",
            "--warmup",
            "100ms",
            "--shards",
            "2",
            "--verify",
            "all",
        ]);
        let fanout = run.fanout.unwrap();
        assert_eq!(fanout.published, 100);
        assert_eq!(
            (fanout.expected, fanout.delivered, fanout.missing),
            (500, 500, 0)
        );
        assert_eq!((fanout.gaps, fanout.duplicates), (0, 0));
        // With one publisher heard by the others of its topic, only its own words tell.
        assert_eq!(fanout.publishers_hear_themselves, hears_itself);
        assert_eq!(run.latency.corrected_ns.len(), 500);
        assert_eq!((run.messages.compared, run.messages.corrupted), (500, 0));
    }
}

#[test]
fn deliveries_that_are_left_out_are_gaps() {
    let (server, left_out) = repeater(17, false, false);
    let run = run(&[
        "fanout",
        &server.url,
        "--publishers",
        "1",
        "--subscribers",
        "5",
        "--rate",
        "300",
        "-d",
        "500ms",
        "--warmup",
        "0s",
        "--reply-timeout",
        "300ms",
    ]);
    let fanout = run.fanout.unwrap();
    let left_out = left_out.load(Ordering::SeqCst);
    assert!(left_out > 10);
    assert_eq!(fanout.missing, left_out);
    assert_eq!(fanout.delivered + left_out, fanout.expected);
    // One that is followed by another one left out, or by nothing, is no gap of its own.
    assert!(
        fanout.gaps > left_out / 2 && fanout.gaps <= left_out,
        "{fanout:?}"
    );
}

#[test]
fn what_is_ingested_is_what_the_server_counts() {
    let server = Running::start(|_| Sink::default());
    for words in [
        &["-s", "64"][..],
        &["-s", "100k,7", "--text"],
        &["-s", "4000", "--fragment", "999"],
    ] {
        let fixed = [
            "ingest",
            &server.url,
            "-c",
            "3",
            "-d",
            "300ms",
            "--warmup",
            "100ms",
        ];
        let run = run(&[&fixed[..], words].concat());
        let ingest = run.ingest.unwrap();
        assert!(ingest.frames_measured > 10, "{ingest:?}");
        assert_eq!(ingest.connections_confirmed, 3);
        assert_eq!(ingest.confirmed_messages, ingest.frames_sent);
        assert_eq!(ingest.server_messages, Some(ingest.frames_sent));
        assert_eq!(run.messages.lost, 0);
    }
}

#[test]
fn a_server_that_answers_is_ingested_as_well() {
    let server = Running::echo();
    let run = run(&[
        "ingest",
        &server.url,
        "-c",
        "2",
        "-d",
        "200ms",
        "--warmup",
        "0s",
        "-s",
        "1k",
    ]);
    assert_eq!(run.ingest.unwrap().connections_confirmed, 2);
}

#[test]
fn a_rate_that_meets_the_objective_is_found() {
    let server = Running::echo();
    let run = run(&[
        "saturate",
        &server.url,
        "-c",
        "4",
        "-d",
        "200ms",
        "--warmup",
        "50ms",
        "--rate-from",
        "100",
        "--rate-to",
        "400",
        "--slo",
        "p50=500ms",
        "--confirm",
        "1",
        "--precision",
        "50%",
    ]);
    let search = run.search.unwrap();
    assert_eq!(search.rate_per_s, Some(400.0), "{}", search.ended);
    let steps: Vec<SearchStep> = search.points.iter().map(|point| point.step).collect();
    assert_eq!(steps.last(), Some(&SearchStep::Confirm));
    assert!(
        search
            .points
            .iter()
            .any(|point| point.step == SearchStep::Double)
    );
    assert_eq!(run.plan.objective.as_deref(), Some("p50=500ms"));
}

#[test]
fn an_objective_that_nobody_meets_is_said_to_be_missed() {
    let server = Running::echo();
    let run = run(&[
        "saturate",
        &server.url,
        "-c",
        "2",
        "-d",
        "100ms",
        "--warmup",
        "0s",
        "--rate-from",
        "100",
        "--rate-to",
        "400",
        "--slo",
        "p50=1ns",
    ]);
    let search = run.search.unwrap();
    assert_eq!(search.rate_per_s, None);
    assert!(search.points.iter().all(|point| !point.met));
}

#[test]
fn our_own_server_passes_the_check() {
    let server = Running::echo();
    passes_the_check(&server.url, &[]);
}

/// Every probe passes but those that only inform.
pub fn passes_the_check(url: &str, more: &[&str]) {
    let words = ["loadgen", "check", url, "--timeout", "1s"];
    let words = words.iter().chain(more);
    let Command::Check(args) = Cli::parse_from(words).command else {
        unreachable!("check was asked for");
    };
    let found = check::run(&args, Vec::new()).unwrap();
    let wrong: Vec<_> = found
        .probes
        .iter()
        .filter(|probe| probe.outcome != CheckOutcome::Pass && !probe.source.is_empty())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(found.probes.len() > 30);
    assert_eq!(found.target.server_header.as_deref(), Some("ringwire"));
    let limit = found
        .probes
        .iter()
        .find(|probe| probe.expectation.contains("longest message"));
    assert!(limit.unwrap().seen.contains("1009"), "{limit:?}");
    let mut table = Vec::new();
    check::write_table(&mut table, &found).unwrap();
    assert!(String::from_utf8(table).unwrap().contains("PASS"));
}
