//! Loads that behave as people do: who think, come and go, show who they are, and begin together.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use loadgen::{moment, report::table, result::VerdictKind};
use ringwire::{
    CloseCause, CloseCode, Conn, ConnId, Message, Refusal, Remote, Service, Turn, Upgrade,
    proto::handshake::Answer,
};

use crate::{
    run_line,
    servers::{CLOSE, Running, Scripted},
    try_run,
    verdicts::{assert_verdict, unfolded},
    words,
};

#[test]
fn who_thinks_sends_less() {
    let server = Running::echo();
    let url = &server.url;
    let run = run_line(&format!(
        "echo {url} -c 8 --think 20ms-60ms -d 400ms --warmup 0s --shards 1"
    ));
    assert_verdict(&run, VerdictKind::Sound);
    // Forty milliseconds each, on average: 80 of all, and more only at the beginning.
    let sent = run.messages.sent;
    assert!((40..=110).contains(&sent), "{sent}");
    assert_eq!(run.messages.received, sent);
    let said = unfolded(&run);
    assert!(
        said.contains("thinking 20 ms to 60 ms before each message"),
        "{said}"
    );
    let pair = run_line(&format!(
        "echo {url} -c 2 --in-flight 5 --think 50ms -d 400ms --warmup 0s --shards 1"
    ));
    assert!(
        (40..=100).contains(&pair.messages.sent),
        "{:?}",
        pair.messages
    );
}

/// Greets, echoes, and keeps how each connection ended.
struct Guests {
    ended: Arc<Mutex<Vec<CloseCause>>>,
}

impl Service for Guests {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.send("welcome").unwrap();
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message).unwrap();
    }

    fn on_close(&mut self, _: &mut Turn<'_>, _: ConnId, (): (), cause: &CloseCause) {
        self.ended.lock().unwrap().push(cause.clone());
    }
}

#[test]
fn connections_that_come_and_go_lose_nothing() {
    for load in [
        "--rate 400 --in-flight 20",
        "--in-flight 3",
        "--think 1ms-5ms",
    ] {
        let ended = Arc::new(Mutex::new(Vec::new()));
        let kept = ended.clone();
        let server = Running::start(move |_| Guests {
            ended: kept.clone(),
        });
        let url = &server.url;
        let run = run_line(&format!(
            "echo {url} -c 6 {load} --churn 60ms --greeting 1 --verify all -d 400ms --warmup 0s \
             --shards 2 --allow-client-bound"
        ));
        let renewed = run.connections.renewed;
        // About seven lives each.
        assert!((12..=90).contains(&renewed), "{renewed} with {load}");
        assert_eq!(run.messages.received, run.messages.sent, "{load}");
        assert_eq!(
            (run.connections.lost, run.connections.closed),
            (0, 0),
            "{load}"
        );
        assert_eq!(
            (run.messages.unsent, run.messages.unasked),
            (0, 0),
            "{load}"
        );
        let opened = run.connections.opened;
        assert!((renewed..=renewed + 6).contains(&opened), "{opened}");
        assert_eq!(run.messages.greetings, run.connections.opened, "{load}");
        assert_eq!(run.latency.handshake_ns.len(), run.connections.opened);
        let ended = ended.lock().unwrap();
        let properly = ended.iter().filter(|cause| {
            matches!(
                cause,
                CloseCause::Peer {
                    code: Some(CloseCode::NORMAL_CLOSURE),
                    ..
                }
            )
        });
        assert_eq!(properly.count() as u64, renewed, "{ended:?}");
        let said = unfolded(&run);
        assert!(said.contains("opened anew (--churn)"), "{said}");
    }
}

#[test]
fn greetings_of_those_who_come_anew_are_no_damage() {
    let server = Running::start(|_| Guests {
        ended: Arc::default(),
    });
    let url = &server.url;
    let run = run_line(&format!(
        "echo {url} -c 4 --rate 200 --churn 100ms -d 500ms --warmup 0s --shards 1"
    ));
    assert_verdict(&run, VerdictKind::NotAsAsked);
    assert_eq!((run.messages.corrupted, run.messages.lost), (0, 0));
    assert_eq!(run.messages.unasked, run.connections.opened);
    let said = unfolded(&run);
    assert!(said.contains("use --greeting 1"), "{said}");
}

#[test]
fn held_connections_come_and_go_as_well() {
    let server = Running::echo();
    let url = &server.url;
    let run = run_line(&format!(
        "idle {url} -c 20 --churn 100ms -d 400ms --shards 1"
    ));
    assert!(run.connections.renewed >= 20, "{:?}", run.connections);
    assert_eq!((run.connections.lost, run.connections.failed), (0, 0));
    // One or another may be on its way at the end.
    let held = run.memory.unwrap().connections_held;
    assert!((15..=20).contains(&held), "{held}");
}

#[test]
fn who_does_not_answer_a_close_frame_is_told_of() {
    let server = Scripted::start(|asked, _| {
        let mut socket = asked.open();
        while let Some((opcode, payload)) = socket.receive() {
            if opcode != CLOSE {
                socket.send(opcode, &payload);
            }
        }
    });
    let url = &server.url;
    let run = run_line(&format!(
        "echo {url} -c 1 --rate 50 --churn 50ms -d 1300ms --warmup 0s --shards 1"
    ));
    assert_verdict(&run, VerdictKind::Faulty);
    let said = unfolded(&run);
    assert!(
        said.contains("the server did not answer a close frame within a second"),
        "{said}"
    );
}

/// Lets in whoever shows a token, and counts them.
struct Doorman {
    seen: Arc<Mutex<Vec<String>>>,
}

impl Service for Doorman {
    type State = ();

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _: Remote<'_>,
        _: &mut Answer,
    ) -> Result<(), Refusal> {
        let request = upgrade.request();
        let header = |name| {
            let value = request.headers().first(name)?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        let Some(token) = header("authorization") else {
            return Err(Refusal::new(401, "who are you?").unwrap());
        };
        let cookie = header("cookie").unwrap_or_default();
        self.seen.lock().unwrap().push(format!("{token} {cookie}"));
        Ok(())
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message).unwrap();
    }
}

#[test]
fn each_connection_shows_headers_of_its_own_and_no_report_has_them() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = seen.clone();
    let server = Running::start(move |_| Doorman { seen: kept.clone() });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    std::fs::write(
        &path,
        "# three\nAuthorization: Bearer s3cret1\nAuthorization: Bearer s3cret2\tCookie: a=s3cret\n\
         \nAuthorization: Bearer s3cret3\n",
    )
    .unwrap();
    let (url, file) = (&server.url, path.display());
    let run = run_line(&format!(
        "echo {url} -c 6 --rate 60 --headers-from {file} -d 200ms --warmup 0s --shards 1"
    ));
    assert_verdict(&run, VerdictKind::Sound);
    let mut seen = seen.lock().unwrap().clone();
    // One more asked for the server's name.
    assert_eq!(seen.len(), 7, "{seen:?}");
    seen.sort();
    seen.dedup();
    assert_eq!(
        seen,
        [
            "Bearer s3cret1 ",
            "Bearer s3cret2 a=s3cret",
            "Bearer s3cret3 "
        ]
    );
    let json = serde_json::to_string(&run).unwrap();
    let table = table::render(&run);
    assert!(
        !json.contains("s3cret") && !table.contains("s3cret"),
        "{table}"
    );
    assert!(
        unfolded(&run).contains("headers from 3 lines of a file"),
        "{table}"
    );
    std::fs::write(&path, "Authorization Bearer s3cret\n").unwrap();
    let said = try_run(&words(&format!("echo {url} --headers-from {file}"))).unwrap_err();
    assert!(said.contains("users:1: a header has no colon"), "{said}");
    assert!(!said.contains("s3cret"), "{said}");
}

#[test]
fn several_begin_at_one_moment() {
    let server = Running::echo();
    let url = &server.url;
    let line = format!("echo {url} -c 2 --rate 100 -d 200ms --warmup 0s --shards 1 --start-at");
    let asked_ms = moment::unix_ms();
    let run = run_line(&format!("{line} +400ms"));
    let times = &run.times;
    let moment_ms = times.start_at_unix_ms.unwrap();
    assert!(
        (asked_ms + 400..asked_ms + 900).contains(&moment_ms),
        "{times:?}"
    );
    let late_ms = times.start_late_ms.unwrap();
    assert_eq!(times.started_unix_ms.max(moment_ms) - moment_ms, late_ms);
    assert!(late_ms < 200, "{times:?}");
    assert!(times.started_unix_ms + 20 >= moment_ms, "{times:?}");
    // What is over is begun with at once, and how late that is is told.
    let over = "2026-01-01T00:00:00Z";
    let said = try_run(&words(&format!("{line} {over}"))).unwrap_err();
    assert!(said.contains("is over for more than an hour"), "{said}");
    let run = run_line(&format!("{line} {}", ago(Duration::from_secs(30))));
    let late_ms = run.times.start_late_ms.unwrap();
    assert!((29_000..40_000).contains(&late_ms), "{late_ms}");
    let said = unfolded(&run);
    assert!(said.contains("after the moment of --start-at"), "{said}");
}

/// A moment that is over, as RFC 3339 has it.
fn ago(time: Duration) -> String {
    let ms = moment::unix_ms() - time.as_millis() as u64;
    let utc = loadgen::report::sheet::utc(ms);
    utc.trim_end_matches(" UTC").replace(' ', "T") + "Z"
}
