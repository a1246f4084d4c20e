//! Messages that come back, or do not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use loadgen::{
    report::{svg, table},
    result::{CompressionFigures, Phase, Run, VerdictKind},
};
use ringwire::Config;

use crate::{
    run,
    servers::{Choosy, Fault, Faulty, Running, Stalling},
    watched_run, words,
};

fn assert_clean(run: &Run) {
    let messages = run.messages;
    assert!(messages.sent > 0, "{messages:?}");
    assert_eq!(messages.received, messages.sent, "{messages:?}");
    assert_eq!(
        (messages.lost, messages.duplicated, messages.reordered),
        (0, 0, 0),
        "{messages:?}"
    );
    assert_eq!(
        (messages.corrupted, messages.unsent),
        (0, 0),
        "{messages:?}"
    );
    assert_eq!(run.latency.corrected_ns.len(), messages.received);
    assert_eq!(run.latency.uncorrected_ns.len(), messages.received);
    assert_eq!((run.connections.failed, run.connections.lost), (0, 0));
}

#[test]
fn every_kind_of_message_comes_back_verified() {
    let server = Running::echo();
    let cases: [&[&str]; 9] = [
        &["--size", "64"],
        &["--size", "0,1,2,3,6,7,8,11,15,16,17", "--in-flight", "9"],
        &["--text", "--size", "0,1,5,15,16,31,33,125,126,127"],
        &[
            "--text",
            "--script",
            "cjk",
            "--size",
            "0,3,16,17,18,19,40,1000",
        ],
        &[
            "--size",
            "20,125,16k:10%,65535:1%,65536:1%,200k:1%",
            "--in-flight",
            "4",
        ],
        &["--size", "5000", "--fragment", "999"],
        &["--text", "--size", "300", "--fragment", "1"],
        &[
            "--rate",
            "2000",
            "--size",
            "7,100",
            "--arrivals",
            "poisson",
            "--in-flight",
            "100",
        ],
        &["--rate", "1500", "--text", "--shards", "2"],
    ];
    for case in cases {
        let mut words = vec![
            "echo",
            &server.url,
            "-c",
            "6",
            "-d",
            "300ms",
            "--warmup",
            "100ms",
        ];
        words.extend(["--verify", "all", "--reply-timeout", "20s"]);
        words.extend(case);
        let run = run(&words);
        assert_clean(&run);
        assert_eq!(run.messages.compared, run.messages.received, "{case:?}");
    }
}

#[test]
fn compression_is_asked_for_and_what_it_did_is_told() {
    for takeover in [false, true] {
        let mut config = Config::default();
        config.compress = true;
        config.compress_context_takeover = takeover;
        let server = Running::start_with(config, |_| ringwire::service::Echo);
        let line = format!(
            "echo {} -c 6 -d 300ms --warmup 100ms --text --script json --size 1k,20k:10% \
             --verify all --reply-timeout 20s",
            server.url
        );
        let words = words(&line);
        let run = run(&[&words[..], &["--compress"]].concat());
        assert_clean(&run);
        assert_eq!(run.messages.compared, run.messages.received);
        let figures = run.compression.expect("it was asked for");
        assert_eq!(figures.connections, 6);
        assert!(figures.messages_sent >= run.messages.sent, "{figures:?}");
        assert_eq!(figures.messages_received, figures.messages_sent);
        assert_eq!(figures.payload_received, figures.payload_sent);
        assert!(
            figures.compressed_sent < figures.payload_sent,
            "{figures:?}"
        );
        assert!(
            figures.compressed_received < figures.compressed_sent,
            "level 6 makes less of it than level 1: {figures:?}"
        );
        // The server compresses only for those who ask.
        let run = crate::run(&words);
        assert_clean(&run);
        assert_eq!(run.compression, None);
    }
    let server = Running::echo();
    let run = run(&[
        "echo",
        &server.url,
        "-c",
        "2",
        "-d",
        "100ms",
        "--warmup",
        "0s",
        "--compress",
    ]);
    assert_clean(&run);
    assert_eq!(run.compression, Some(CompressionFigures::default()));
}

#[test]
fn an_open_loop_sends_all_of_its_schedule() {
    let server = Running::echo();
    let line = format!("echo {} -c 10 -d 1s --warmup 200ms", server.url);
    let words = words(&line);
    let run = run(&[&words[..], &["--rate", "3000", "--reply-timeout", "20s"]].concat());
    assert_clean(&run);
    assert_eq!(run.messages.scheduled, 3000);
    assert_eq!(run.messages.sent, 3000);
    assert_eq!(run.client.lateness_ns.len() + late_by_reply(&run), 3000);
    let slices: u64 = run.slices.iter().map(|slice| slice.sent).sum();
    assert!(
        (3500..=3600).contains(&slices),
        "{slices} in slices, warm-up included"
    );
    assert_eq!(run.slices.len(), 12);
    assert_eq!(run.slices.iter().filter(|slice| slice.is_warmup).count(), 2);
}

#[test]
fn messages_of_a_file_come_back_or_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("messages");
    std::fs::write(&file, "{\"op\":\"subscribe\"}\n{\"op\":\"ping\"}\nshort\n").unwrap();
    let words = [
        "--message",
        file.to_str().unwrap(),
        "--message-format",
        "lines",
        "--text",
    ];
    let server = Running::echo();
    let times = ["-c", "2", "-d", "200ms", "--warmup", "0s"];
    let run = run(&[
        &["echo", &server.url],
        &words[..],
        &times,
        &["--in-flight", "3"],
    ]
    .concat());
    assert_clean(&run);
    assert_eq!(run.plan.given_messages, Some(3));
    let table = table::render(&run);
    assert!(table.contains("text, 3 messages of a file"), "{table}");
    let words = [
        "--message",
        file.to_str().unwrap(),
        "--message-format",
        "lines",
    ];
    // Each fault is seen without a stamp in the message as well.
    let (run, done, _) = against(Fault::Lose, &words);
    assert_eq!((run.messages.lost, run.messages.corrupted), (done, 0));
    let (run, done, _) = against(Fault::Cut, &words);
    assert_eq!((run.messages.corrupted, run.messages.lost), (done, 0));
    let (run, done, _) = against(Fault::CorruptEnd, &words);
    assert_eq!((run.messages.corrupted, run.messages.lost), (done, 0));
}

#[test]
fn stages_are_sent_one_after_the_other() {
    let server = Running::echo();
    let line = format!("echo {} -c 10 --warmup 200ms --shards 2", server.url);
    let words = words(&line);
    let stages = [
        "--stages",
        "0:400@400ms,400@500ms",
        "--reply-timeout",
        "20s",
    ];
    let run = run(&[&words[..], &stages].concat());
    assert_clean(&run);
    // 80 while it grows, and 200.
    assert!(
        (279..=281).contains(&run.messages.scheduled),
        "{:?}",
        run.messages
    );
    assert_eq!(run.messages.sent, run.messages.scheduled);
    assert_eq!(run.plan.stages.len(), 2);
    let sent = |from: usize, to: usize| -> u64 {
        run.slices[from..to].iter().map(|slice| slice.sent).sum()
    };
    // The first stage begins at nothing, and so does the warm-up.
    assert!(sent(0, 2) <= 1, "{} in the warm-up", sent(0, 2));
    assert!(sent(2, 4) < sent(4, 6), "{} and {}", sent(2, 4), sent(4, 6));
    let table = table::render(&run);
    assert!(
        table.contains("0 to 400/s in 400 ms") && table.contains("400/s for 500 ms"),
        "{table}"
    );
    assert!(
        svg::rate_over_time(&run, svg::WIDE)
            .unwrap()
            .contains(">asked<")
    );
}

#[test]
fn progress_tells_the_rate_that_there_is() {
    let server = Running::echo();
    let url = &server.url;
    for shards in ["1", "2"] {
        let mut rates = Vec::new();
        let line = format!(
            "echo {} --rate 1000 --connections 4 --shards {}",
            url, shards
        );
        let words = words(&line);
        let times = [
            "--warmup",
            "500ms",
            "--duration",
            "4s",
            "--allow-client-bound",
        ];
        let run = watched_run(&[&words[..], &times[..]].concat(), &mut |progress| {
            if progress.phase == Phase::Measuring {
                rates.push(progress.rate_per_s);
            }
        });
        assert_clean(&run.unwrap());
        // However many slices came since the last time; the machine may have been slow at a few.
        let right = rates
            .iter()
            .filter(|rate| (900.0..1100.0).contains(*rate))
            .count();
        assert!(right * 4 >= rates.len() * 3 && right >= 8, "{rates:?}");
    }
}

/// Messages that waited for a reply: how late they were is not the generator's doing.
fn late_by_reply(run: &Run) -> u64 {
    run.messages.sent - run.client.lateness_ns.len()
}

#[test]
fn the_server_named_by_its_pid_is_accounted_for() {
    let server = Running::echo();
    let pid = std::process::id().to_string();
    let line = format!("echo {} -c 2 -d 500ms --warmup 100ms", server.url);
    let words = words(&line);
    let run = run(&[&words[..], &["--pid", &pid]].concat());
    let found = run.server.unwrap();
    assert!(
        found.cpu_ns > 0 && found.resident_after_bytes > 1 << 20,
        "{found:?}"
    );
    assert!(run.client.cpu_ns > 0 && found.cpu_ns >= run.client.cpu_ns);
    assert!(run.slices.iter().all(|slice| slice.server_cpu_ns.is_some()));
    let in_slices: u64 = run
        .slices
        .iter()
        .filter_map(|slice| slice.server_cpu_ns)
        .sum();
    assert!(
        in_slices > found.cpu_ns / 2,
        "{in_slices} of {}",
        found.cpu_ns
    );
}

/// Runs against an echo with a fault, and returns how often it did it and how many replies it still
/// holds back.
fn against(fault: Fault, words: &[&str]) -> (Run, u64, u64) {
    let (done, held) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (its_done, its_held) = (done.clone(), held.clone());
    let server = Running::start(move |_| Faulty {
        fault,
        every: 10,
        done: its_done.clone(),
        held: its_held.clone(),
    });
    let mut all = vec!["echo", &server.url, "-c", "3", "--warmup", "0s"];
    all.extend(words);
    for (name, value) in [
        ("-d", "300ms"),
        ("--reply-timeout", "200ms"),
        ("--verify", "all"),
    ] {
        if !words.contains(&name) {
            all.extend([name, value]);
        }
    }
    let run = run(&all);
    (
        run,
        done.load(Ordering::SeqCst),
        held.load(Ordering::SeqCst),
    )
}

#[test]
fn lost_replies_are_counted_exactly() {
    for words in [
        &["--in-flight", "4"][..],
        &["--rate", "2000"],
        &["--in-flight", "4", "-s", "3"],
    ] {
        let (run, done, _) = against(Fault::Lose, words);
        assert!(done > 0);
        assert_eq!(run.messages.lost, done, "{words:?} {:?}", run.messages);
        assert_eq!(run.messages.received + done, run.messages.sent);
        assert_eq!(
            run.messages.duplicated + run.messages.corrupted,
            0,
            "{words:?}"
        );
        assert_ne!(run.verdict.kind, VerdictKind::Sound);
    }
}

#[test]
fn a_closed_loop_goes_on_without_a_reply_that_never_comes() {
    let (run, done, _) = against(Fault::Lose, &["-d", "1500ms", "--reply-timeout", "100ms"]);
    // One in flight: without going on, each connection would have sent ten messages.
    assert!(run.messages.sent > 60, "{:?}", run.messages);
    assert_eq!(run.messages.lost, done);
}

#[test]
fn duplicated_replies_are_counted_exactly() {
    for words in [
        &["--in-flight", "4"][..],
        &["--rate", "2000"],
        &["-s", "9"],
        &["-s", "2"],
    ] {
        let (run, done, _) = against(Fault::Duplicate, words);
        assert!(done > 0);
        assert_eq!(
            run.messages.duplicated, done,
            "{words:?} {:?}",
            run.messages
        );
        assert_eq!(run.messages.received, run.messages.sent);
        assert_eq!(run.messages.lost + run.messages.corrupted, 0, "{words:?}");
    }
}

#[test]
fn reordered_replies_are_counted_exactly() {
    for words in [&["--in-flight", "4"][..], &["--in-flight", "4", "-s", "7"]] {
        let (run, done, held) = against(Fault::Reorder, words);
        assert!(done > 0);
        assert_eq!(run.messages.reordered, done, "{words:?} {:?}", run.messages);
        assert_eq!(run.messages.lost, held);
        assert_eq!(run.messages.received + held, run.messages.sent);
        assert_eq!(
            run.messages.duplicated + run.messages.corrupted,
            0,
            "{words:?}"
        );
    }
}

#[test]
fn corrupted_replies_are_counted_exactly() {
    for fault in [
        Fault::CorruptStamp,
        Fault::CorruptEnd,
        Fault::Cut,
        Fault::Kind,
    ] {
        for words in [&["--in-flight", "4"][..], &["--rate", "2000"]] {
            let (run, done, _) = against(fault, words);
            assert!(done > 0);
            assert_eq!(
                run.messages.corrupted, done,
                "{fault:?} {words:?} {:?}",
                run.messages
            );
            assert_eq!(
                run.messages.received, run.messages.sent,
                "{fault:?} {words:?}"
            );
            assert_eq!(
                run.messages.lost + run.messages.duplicated,
                0,
                "{fault:?} {words:?}"
            );
        }
    }
}

#[test]
fn without_comparing_only_the_stamp_is_looked_at() {
    let (run, done, _) = against(Fault::CorruptEnd, &["--verify", "none"]);
    assert!(done > 0);
    assert_eq!((run.messages.corrupted, run.messages.compared), (0, 0));
    let (run, done, _) = against(Fault::CorruptStamp, &["--verify", "none"]);
    assert_eq!(run.messages.corrupted, done);
}

#[test]
fn answers_to_nothing_are_noticed() {
    let (run, done, _) = against(Fault::Invent, &[]);
    assert!(done > 0);
    // One that comes while a message is unanswered is taken for its reply, and the reply for
    // another one: either way something is wrong, once or twice.
    let wrong = run.messages.corrupted + run.messages.duplicated;
    assert!(
        (done..=2 * done).contains(&wrong),
        "{done} {:?}",
        run.messages
    );
}

#[test]
fn a_stall_shows_in_the_corrected_latency_alone() {
    let stall = Duration::from_millis(200);
    let began = Instant::now();
    let server = Running::start(move |_| Stalling {
        at: began + Duration::from_millis(1200),
        lasts: stall,
        done: false,
    });
    let fixed = [
        "echo",
        &server.url,
        "-c",
        "2",
        "-d",
        "2s",
        "--warmup",
        "200ms",
    ];
    let run = run(&[&fixed[..], &["--rate", "2000", "--reply-timeout", "20s"]].concat());
    let ms = |ns: u64| ns as f64 / 1e6;
    let corrected = ms(run.latency.corrected_ns.value_at_percentile(99.0));
    let uncorrected = ms(run.latency.uncorrected_ns.value_at_percentile(99.0));
    // A tenth of all messages was due in the stall; two were under way.
    assert!(corrected > 150.0, "corrected p99 {corrected} ms");
    assert!(uncorrected < 100.0, "uncorrected p99 {uncorrected} ms");
    assert!(ms(run.latency.uncorrected_ns.max()) > 190.0);
    assert_eq!(run.messages.received, 4000);
    assert!(run.messages.late > 300, "{:?}", run.messages);
    assert!(run.client.backlog_max > 300, "{}", run.client.backlog_max);
}

#[test]
fn half_of_the_connections_refused_leaves_the_other_half() {
    let server = Running::start(|_| Choosy::default());
    let run = run(&[
        "echo",
        &server.url,
        "-c",
        "20",
        "-d",
        "300ms",
        "--warmup",
        "0s",
    ]);
    let connections = &run.connections;
    assert_eq!(
        (connections.asked, connections.opened, connections.failed),
        (20, 10, 10)
    );
    assert_eq!(connections.failed_reasons.values().sum::<u64>(), 10);
    assert!(
        connections
            .failed_reasons
            .keys()
            .all(|reason| reason.contains("503"))
    );
    assert_eq!(run.messages.received, run.messages.sent);
    assert!(run.messages.sent > 0);
    assert!(
        run.verdict
            .reasons
            .iter()
            .any(|reason| reason.contains("10 of the connections"))
    );
}

#[test]
fn a_server_that_ends_early_leaves_what_was_measured() {
    let server = Running::echo();
    let handle = server.handle();
    let stopping = std::thread::spawn(move || {
        let until = Instant::now() + Duration::from_secs(10);
        while handle.stats().counts.messages_received < 500 && Instant::now() < until {
            std::thread::yield_now();
        }
        handle.stop_within(1000);
    });
    let run = run(&["echo", &server.url, "-c", "5", "-d", "1s", "--warmup", "0s"]);
    stopping.join().unwrap();
    assert_eq!((run.connections.opened, run.connections.closed), (5, 5));
    let messages = run.messages;
    assert!(messages.received >= 490, "{messages:?}");
    assert_eq!(messages.received + messages.cut_off, messages.sent);
    assert_eq!((run.connections.lost, messages.lost), (0, 0));
    assert_ne!(run.verdict.kind, VerdictKind::Sound);
}
