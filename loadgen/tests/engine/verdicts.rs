//! What is said of servers that deserve it, and of others that look like them: cut off is not lost,
//! slow is not wrong, and whoever speaks first is not corrupt.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use loadgen::{
    report::table,
    result::{Run, VerdictKind},
};
use ringwire::Config;

use crate::{
    run,
    scenarios::repeater,
    servers::{Asked, BINARY, Fault, Faulty, Running, Scripted, Sink, Socket, Stalling, TEXT},
    try_run, words,
};

/// The report in one line, to look for sentences that a table folds.
pub fn unfolded(run: &Run) -> String {
    let table = table::render(run);
    let words: Vec<&str> = table.split_whitespace().collect();
    words.join(" ")
}

/// The verdict is this one, unless the machine was too busy for one.
pub fn assert_verdict(run: &Run, kind: VerdictKind) {
    let found = run.verdict.kind;
    assert!(
        found == kind || found == VerdictKind::ClientBound,
        "{:?}",
        run.verdict
    );
}

/// Nothing is said to be lost, wrong or late to come.
fn assert_not_accused(run: &Run) {
    let said = unfolded(run).replace("nothing was lost or wrong", "");
    for word in ["lost", "FAULTY", "corrupted", "not what had been sent"] {
        assert!(!said.contains(word), "'{word}' in {said}");
    }
    assert_eq!(
        run.messages.received + run.messages.cut_off,
        run.messages.sent,
        "{:?}",
        run.messages
    );
}

#[test]
fn what_is_still_under_way_at_the_end_is_not_lost() {
    let server = Scripted::slow_echo(Duration::from_millis(300));
    let words = ["echo", &server.url, "-c", "4", "--rate", "40"];
    let times = ["-d", "2s", "--warmup", "300ms", "--reply-timeout", "1s"];
    let run = run(&[&words[..], &times].concat());
    assert_not_accused(&run);
    assert_eq!(
        run.messages.received, run.messages.sent,
        "{:?}",
        run.messages
    );
    assert!(run.messages.sent > 20, "{:?}", run.messages);
    // One at a time on four connections: 13 a second, so that the rest had to wait for too long.
    assert!(run.messages.unsent > 10, "{:?}", run.messages);
    assert_verdict(&run, VerdictKind::NotAsAsked);
    let said = unfolded(&run);
    assert!(
        said.contains("due and not sent when the run ended: 4 connections"),
        "{said}"
    );
    assert!(
        said.contains("of the 40/s that were asked for; raise --in-flight"),
        "{said}"
    );
}

#[test]
fn a_slow_server_with_room_for_the_rate_is_sound() {
    let server = Scripted::slow_echo(Duration::from_millis(300));
    let line = format!("echo {} -c 4 --rate 40 --in-flight 8", server.url);
    let words = words(&line);
    let times = ["-d", "1s", "--warmup", "300ms", "--allow-client-bound"];
    let run = run(&[&words[..], &times].concat());
    assert_not_accused(&run);
    assert_eq!((run.messages.received, run.messages.unsent), (40, 0));
    assert!(run.latency.corrected_ns.min() >= 299_000_000);
}

#[test]
fn a_rate_far_above_what_connections_carry_is_not_called_a_gap() {
    let server = Scripted::slow_echo(Duration::from_millis(300));
    let words = ["echo", &server.url, "-c", "4", "--rate", "500"];
    let times = [
        "-d",
        "1500ms",
        "--warmup",
        "300ms",
        "--reply-timeout",
        "500ms",
    ];
    let run = run(&[&words[..], &times].concat());
    let said = unfolded(&run);
    assert_eq!(
        (run.messages.sent, run.messages.scheduled),
        (0, 750),
        "{said}"
    );
    assert!(!said.contains("gap"), "{said}");
    assert!(
        said.contains("of 750 messages due in the measured part none was sent"),
        "{said}"
    );
    assert!(said.contains("of the 500/s that were asked for"), "{said}");
    assert_verdict(&run, VerdictKind::NotAsAsked);
}

#[test]
fn a_measured_part_that_is_shorter_than_a_gap_is_called_that() {
    let server = Scripted::slow_echo(Duration::ZERO);
    let words = ["echo", &server.url, "-c", "1", "--rate", "2"];
    let times = ["-d", "200ms", "--warmup", "100ms"];
    let run = run(&[&words[..], &times].concat());
    let said = unfolded(&run);
    assert!(
        said.contains("shorter than the gap between two messages at 2/s"),
        "{said}"
    );
}

#[test]
fn a_reply_later_than_its_time_is_lost_and_one_in_time_is_not() {
    let server = Scripted::slow_echo(Duration::from_millis(600));
    let line = format!("echo {} -c 2 -d 300ms --warmup 0s", server.url);
    let words = words(&line);
    let run = |timeout: &str| run(&[&words[..], &["--reply-timeout", timeout]].concat());
    let late = run("200ms");
    assert!(late.messages.lost > 0, "{:?}", late.messages);
    assert_verdict(&late, VerdictKind::Faulty);
    let said = unfolded(&late);
    assert!(
        said.contains("no answer came within --reply-timeout 200 ms"),
        "{said}"
    );
    let in_time = run("10s");
    assert_not_accused(&in_time);
    assert_eq!(in_time.messages.received, 2);
}

#[test]
fn a_reply_that_was_overtaken_has_its_own_time() {
    // The first of two comes half a second after the second.
    let server = Scripted::start(|asked: Asked, _| {
        let mut socket = asked.open();
        let (Some((opcode, first)), Some((_, second))) = (socket.receive(), socket.receive())
        else {
            return;
        };
        socket.send(opcode, &second);
        socket.echo_later(Duration::from_millis(500), vec![(opcode, first)]);
    });
    let line = format!("echo {} -c 1 -d 100ms --warmup 0s", server.url);
    let words = words(&line);
    let run = run(&[&words[..], &["--rate", "20", "--in-flight", "2"]].concat());
    assert_eq!(run.messages.lost, 0, "{:?}", run.messages);
    assert_eq!(run.messages.reordered, 1, "{:?}", run.messages);
}

#[test]
fn who_greets_is_not_corrupt() {
    let greeter = |greetings: usize| {
        Scripted::start(move |asked: Asked, _| {
            let mut socket = asked.open();
            for _ in 0..greetings {
                socket.send(TEXT, b"welcome to the server of welcomes");
            }
            socket.echo_after(Duration::ZERO, u64::MAX);
        })
    };
    let server = greeter(2);
    for text in [&["--text"][..], &["-s", "3"], &[]] {
        let line = format!("echo {} -c 4 -d 200ms --warmup 0s", server.url);
        let words = words(&line);
        let words = [
            &words[..],
            text,
            &["--verify", "all", "--allow-client-bound"],
        ]
        .concat();
        let unexpected = run(&words);
        assert_not_accused(&unexpected);
        let said = unfolded(&unexpected);
        assert!(
            said.contains("the server sends before it is asked: 8 messages"),
            "{said}"
        );
        assert!(said.contains("use --greeting 2"), "{said}");
        let expected = run(&[&words[..], &["--greeting", "2"]].concat());
        assert_not_accused(&expected);
        assert_eq!(expected.messages.greetings, 8);
        let said = unfolded(&expected);
        assert!(!said.contains("before it is asked"), "{said}");
        assert!(expected.messages.received > 4, "{said}");
    }
    let shy = greeter(0);
    let words = ["echo", &shy.url, "-c", "4", "-d", "200ms", "--warmup", "0s"];
    let missing = run(&[&words[..], &["--greeting", "1"]].concat());
    assert_not_accused(&missing);
    assert!(
        unfolded(&missing).contains("0 of the 4 greetings that --greeting 1 expects"),
        "{}",
        unfolded(&missing)
    );
}

#[test]
fn who_announces_to_a_topic_has_damaged_nothing() {
    let (server, _) = repeater(0, false, true);
    let line = format!("fanout {} -n 3 --rate 50 -d 400ms", server.url);
    let words = words(&line);
    let words = [&words[..], &["--warmup", "0s"]].concat();
    let unexpected = run(&words);
    let fanout = unexpected.fanout.unwrap();
    assert_eq!((fanout.missing, unexpected.messages.corrupted), (0, 0));
    // The first of four connections hears of itself and of three others.
    assert_eq!(unexpected.messages.unasked, 4 + 3 + 2 + 1);
    assert_verdict(&unexpected, VerdictKind::NotAsAsked);
    let said = unfolded(&unexpected);
    assert!(said.contains("use --greeting 4"), "{said}");
    let expected = run(&[&words[..], &["--greeting", "4"]].concat());
    assert_eq!(expected.messages.unasked, 0, "{:?}", expected.messages);
    assert_verdict(&expected, VerdictKind::Sound);
}

#[test]
fn who_answers_something_else_is_corrupt_from_the_first_message_on() {
    let server = Scripted::start(|asked: Asked, _| {
        let mut socket = asked.open();
        while let Some((opcode, payload)) = socket.receive() {
            if opcode == BINARY {
                socket.send(BINARY, &[&payload[..], b"!"].concat());
            } else {
                return socket.send(opcode, &payload);
            }
        }
    });
    let line = format!("echo {} -c 2 -d 300ms --warmup 0s", server.url);
    let words = words(&line);
    let run = run(&[&words[..], &["--reply-timeout", "100ms"]].concat());
    assert!(run.messages.corrupted >= 2, "{:?}", run.messages);
    assert_eq!(run.messages.unasked, 0, "{:?}", run.messages);
    assert_verdict(&run, VerdictKind::Faulty);
}

#[test]
fn who_closes_in_good_order_has_lost_nothing() {
    let server = Scripted::start(|asked: Asked, _| {
        asked.open().echo_after(Duration::from_millis(20), 10);
    });
    for load in [
        &["--in-flight", "1"][..],
        &["--in-flight", "4"],
        &["--rate", "100"],
    ] {
        let line = format!("echo {} -c 3 -d 800ms --warmup 0s", server.url);
        let words = words(&line);
        let run = run(&[&words[..], load].concat());
        assert_not_accused(&run);
        assert_eq!((run.connections.closed, run.connections.lost), (3, 0));
        assert_verdict(&run, VerdictKind::NotAsAsked);
        let said = unfolded(&run);
        assert!(
            said.contains("the server closed 3 of 3 connections in good order"),
            "{said}"
        );
        assert!(said.contains("closed it with 1001"), "{said}");
    }
}

#[test]
fn connections_that_end_leave_the_others_their_turns() {
    let server = Scripted::start(|asked: Asked, number| {
        let count = if number % 3 == 1 { 3 } else { u64::MAX };
        asked.open().echo_after(Duration::ZERO, count);
    });
    let line = format!("echo {} -c 9 --rate 300 -d 500ms", server.url);
    let words = words(&line);
    let run = run(&[&words[..], &["--warmup", "0s", "--in-flight", "50"]].concat());
    assert_not_accused(&run);
    assert_eq!(run.connections.closed, 3, "{:?}", run.connections);
    // Nobody's turn goes to one that is not there any more.
    assert_eq!(run.messages.sent, 150, "{:?}", run.messages);
    assert!(run.messages.received >= 147, "{:?}", run.messages);
}

#[test]
fn who_closes_over_a_message_that_waited_has_lost_it() {
    let server = Scripted::start(|asked: Asked, _| {
        let mut socket = asked.open();
        for _ in 0..5 {
            let Some((opcode, payload)) = socket.receive() else {
                return;
            };
            socket.send(opcode, &payload);
        }
        let _ = socket.receive();
        socket.close_after(Duration::from_millis(200), 1000);
    });
    let line = format!("echo {} -c 2 -d 600ms --warmup 0s", server.url);
    let words = words(&line);
    let run = run(&words);
    assert_eq!(run.messages.lost, 2, "{:?}", run.messages);
    assert_eq!(run.connections.closed, 2);
    assert_verdict(&run, VerdictKind::Faulty);
    assert!(unfolded(&run).contains("its connection ended long after one was due"));
}

#[test]
fn who_breaks_connections_off_is_named_for_that() {
    let server = Scripted::start(|asked: Asked, _| {
        let mut socket = asked.open();
        for _ in 0..5 {
            let Some((opcode, payload)) = socket.receive() else {
                return;
            };
            socket.send(opcode, &payload);
        }
        socket.drop_it();
    });
    let line = format!("echo {} -c 2 -d 300ms --warmup 0s", server.url);
    let words = words(&line);
    let run = run(&words);
    assert_eq!((run.connections.lost, run.connections.closed), (2, 0));
    assert_eq!(run.messages.lost, 0, "{:?}", run.messages);
    assert_verdict(&run, VerdictKind::Faulty);
    let said = unfolded(&run);
    assert!(
        said.contains("2 of the connections ended before the run did"),
        "{said}"
    );
}

#[test]
fn nobody_who_hears_nothing_is_told_that_all_is_well() {
    let server = Scripted::slow_echo(Duration::ZERO);
    let line = format!("fanout {} -n 3 --rate 50 -d 400ms", server.url);
    let words = words(&line);
    let run = run(&[&words[..], &["--warmup", "0s", "--reply-timeout", "200ms"]].concat());
    assert_verdict(&run, VerdictKind::Faulty);
    let said = unfolded(&run);
    assert!(
        said.contains("nothing that was published came to any subscriber (60 expected)"),
        "{said}"
    );
    assert!(said.contains("as an echo does"), "{said}");
}

#[test]
fn who_fragments_compresses_or_stalls_is_sound() {
    let fragmenting = Scripted::start(|asked: Asked, _| {
        let mut socket = asked.open();
        while let Some((opcode, payload)) = socket.receive() {
            if opcode != BINARY {
                return socket.send(opcode, &payload);
            }
            socket.send_fragmented(opcode, &payload, 7);
        }
    });
    let mut config = Config::default();
    config.compress = true;
    let compressing = Running::start_with(config, |_| ringwire::service::Echo);
    let at = Instant::now() + Duration::from_millis(150);
    let stalling = Running::start(move |_| Stalling {
        at,
        lasts: Duration::from_millis(300),
        done: false,
    });
    for url in [&fragmenting.url, &compressing.url, &stalling.url] {
        let words = ["echo", url, "-c", "3", "-d", "300ms", "--warmup", "0s"];
        let more = ["-s", "3,64,400", "--in-flight", "2", "--verify", "all"];
        let run = run(&[&words[..], &more, &["--compress"]].concat());
        assert_not_accused(&run);
        assert!(run.messages.received > 5, "{:?}", run.messages);
        assert_verdict(&run, VerdictKind::Sound);
    }
}

#[test]
fn interim_answers_are_not_taken_for_the_final_one() {
    const HINTS: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\
                           Link: </style.css>; rel=preload\r\n\r\n";
    let server = Scripted::start(|asked: Asked, _| {
        let socket = asked.open_after(HINTS);
        socket.echo_after(Duration::ZERO, u64::MAX);
    });
    let line = format!("echo {} -c 2 -d 100ms --warmup 0s", server.url);
    let words = words(&line);
    let run = run(&words);
    assert_not_accused(&run);
    assert_eq!((run.connections.opened, run.connections.failed), (2, 0));
    // What looks at a server byte by byte passes over them as well.
    let endless = Scripted::start(|asked: Asked, _| {
        drop(asked.open_after(&HINTS.repeat(100)));
    });
    let sentence = try_run(&["echo", &endless.url, "-c", "1"]).unwrap_err();
    assert!(
        sentence.contains("103 Early Hints") || sentence.contains("100 Continue"),
        "{sentence}"
    );
}

#[test]
fn a_closed_loop_that_still_waits_is_told_so() {
    let server = Scripted::slow_echo(Duration::from_millis(600));
    let line = format!("echo {} -c 2 -d 100ms --warmup 200ms", server.url);
    let words = words(&line);
    let run = run(&words);
    assert_not_accused(&run);
    assert_verdict(&run, VerdictKind::NotAsAsked);
    let said = unfolded(&run);
    assert!(
        said.contains("every connection still waited for an answer"),
        "{said}"
    );
    assert!(!said.contains("gap"), "{said}");
}

#[test]
fn who_counts_less_than_was_sent_has_lost_it() {
    for (forgets_every, is_faulty) in [(0, false), (10, true)] {
        let server = Running::start(move |_| Sink { forgets_every });
        let line = format!("ingest {} -c 2 -d 200ms --warmup 0s", server.url);
        let words = words(&line);
        let run = run(&words);
        let reasons = run.verdict.reasons.join("; ");
        let said = reasons.contains("missing in the server's own count");
        assert_eq!(said, is_faulty, "{reasons}");
        assert_eq!(run.messages.lost > 0, is_faulty, "{:?}", run.messages);
    }
}

#[test]
fn deliveries_that_are_missing_are_told_and_others_are_not() {
    for (leave_out_every, is_faulty) in [(0, false), (7, true)] {
        let (server, _) = repeater(leave_out_every, false, false);
        let line = format!("fanout {} -n 3 --rate 100 -d 300ms", server.url);
        let words = words(&line);
        let timeout = if is_faulty { "300ms" } else { "20s" };
        let run = run(&[&words[..], &["--warmup", "0s", "--reply-timeout", timeout]].concat());
        let reasons = run.verdict.reasons.join("; ");
        let said = reasons.contains("did not come within --reply-timeout 300 ms");
        assert_eq!(said, is_faulty, "{reasons}");
    }
}

#[test]
fn who_does_not_read_what_is_published_is_told_of() {
    for (delay, is_behind) in [(Duration::from_secs(4), true), (Duration::ZERO, false)] {
        let server = Scripted::start(move |asked: Asked, _| asked.open().read_after(delay));
        let line = format!("fanout {} -n 1 --rate 100 -d 500ms", server.url);
        let words = words(&line);
        // More than the queues of the kernel hold.
        let more = ["-s", "400k", "--warmup", "0s", "--reply-timeout", "500ms"];
        let run = run(&[&words[..], &more].concat());
        let reasons = run.verdict.reasons.join("; ");
        let said = reasons.contains("asked for, as the server did not read faster");
        assert_eq!(said, is_behind, "{reasons}");
        assert_eq!(run.messages.unsent > 0, is_behind, "{:?}", run.messages);
    }
}

/// A server that does this with every tenth message of a connection.
fn faulty(fault: Fault) -> Running {
    Running::start(move |_| Faulty {
        fault,
        every: 10,
        done: Arc::default(),
        held: Arc::default(),
    })
}

#[test]
fn each_fault_is_named_for_what_it_is() {
    let table = [
        (Fault::Lose, "lost: no answer came within --reply-timeout"),
        (Fault::Duplicate, "came twice"),
        (Fault::Reorder, "came out of order"),
        (Fault::CorruptStamp, "not what had been sent"),
        (Fault::CorruptEnd, "not what had been sent"),
        (Fault::Cut, "not what had been sent"),
        (Fault::Kind, "not what had been sent"),
    ];
    let words = words("-c 3 -d 200ms --warmup 0s --in-flight 4");
    for (fault, sentence) in table {
        let server = faulty(fault);
        // Only what is never sent has to be waited for in vain.
        let timeout = match fault {
            Fault::Lose => "200ms",
            Fault::Reorder => "1s",
            _ => "20s",
        };
        let more = ["--verify", "all", "--reply-timeout", timeout];
        let run = run(&[&["echo", &server.url], &words[..], &more].concat());
        assert_verdict(&run, VerdictKind::Faulty);
        let reasons = run.verdict.reasons.join("; ");
        assert!(reasons.contains(sentence), "{fault:?}: {reasons}");
        // And for nothing else. Of those that are held back the last are never sent.
        for (_, other) in table {
            let is_held = fault == Fault::Reorder && other.starts_with("lost");
            assert!(
                other == sentence || is_held || !reasons.contains(other),
                "{fault:?} is no '{other}': {reasons}"
            );
        }
    }
}

/// Answers one message, so that the run has begun, and does this then.
pub fn after_one(asked: Asked, then: impl FnOnce(Socket)) {
    let mut socket = asked.open();
    if let Some((opcode, payload)) = socket.receive() {
        socket.send(opcode, &payload);
        then(socket);
    }
}

#[test]
fn each_way_to_end_is_named_for_what_it_is() {
    type Script = fn(Asked, usize);
    let table: [(Script, &str, &str); 5] = [
        (
            |asked, _| after_one(asked, |socket| socket.drop_it()),
            "2 of the connections ended before the run did",
            "ended the stream without a close frame",
        ),
        (
            |asked, _| after_one(asked, |mut socket| socket.close(1011)),
            "2 of the connections ended before the run did",
            "the server closed it with 1011",
        ),
        (
            |asked, _| after_one(asked, |mut socket| socket.close(1001)),
            "the server closed 2 of 2 connections in good order",
            "the server closed it with 1001",
        ),
        (
            |asked, _| after_one(asked, |mut socket| socket.close(4000)),
            "the server closed 2 of 2 connections in good order",
            "the server closed it with 4000",
        ),
        (
            |asked, number| match number {
                0 => asked.listen(),
                _ => asked.open().echo_after(Duration::ZERO, u64::MAX),
            },
            "1 of the connections did not open",
            "the server did not answer the opening handshake in the time that --handshake-timeout",
        ),
    ];
    for (script, reason, why) in table {
        let server = Scripted::start(script);
        let line = format!("echo {} -c 2 -d 200ms --warmup 0s", server.url);
        let words = words(&line);
        let more = ["--handshake-timeout", "300ms", "--rate", "50"];
        let run = run(&[&words[..], &more].concat());
        let said = unfolded(&run);
        assert!(said.contains(reason), "'{reason}' in {said}");
        assert!(said.contains(why), "'{why}' in {said}");
        assert_eq!(run.messages.lost, 0, "{said}");
    }
}
