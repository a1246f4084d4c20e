//! What a server has recorded, offered again.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use loadgen::result::{Run, VerdictKind};
use ringwire::{CloseCause, Conn, ConnId, Message, MessageKind, Service, Turn};
use tempfile::TempDir;

use crate::{
    run,
    servers::{Running, Scripted},
    try_run,
    verdicts::{assert_verdict, unfolded},
    words,
};

const OPENED: u64 = 0;
const CLOSED: u64 = 1;
const TEXT: u64 = 2;
const BINARY: u64 = 3;

fn number(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// A file of events: milliseconds, a connection, a kind, a size. As loadgen/recording.md has it.
fn recording(events: &[(u64, u64, u64, u64)], is_whole: bool) -> (TempDir, PathBuf) {
    let mut bytes = b"ringwire recording 1\n".to_vec();
    number(&mut bytes, 1_798_761_600_000);
    let mut before_us = 0_i64;
    for &(at_ms, connection, kind, size) in events {
        let step = at_ms as i64 * 1000 - before_us;
        before_us = at_ms as i64 * 1000;
        number(&mut bytes, ((step << 1) ^ (step >> 63)) as u64);
        number(&mut bytes, connection << 3 | kind);
        if kind >= TEXT {
            number(&mut bytes, size);
        }
    }
    if is_whole {
        bytes.extend([0, 7, 2, 3]);
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("an-hour.rec");
    std::fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// What came when, on which connection.
#[derive(Default)]
struct Seen {
    open: Vec<ConnId>,
    messages: Vec<(Instant, usize, MessageKind, usize)>,
    closed: Vec<(Instant, usize)>,
}

struct Watching(Arc<Mutex<Seen>>);

impl Service for Watching {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        self.0.lock().unwrap().open.push(conn.id());
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let mut seen = self.0.lock().unwrap();
        let number = seen.open.iter().position(|id| *id == conn.id()).unwrap();
        let len = message.payload().len();
        seen.messages
            .push((Instant::now(), number, message.kind(), len));
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, (): (), _: &CloseCause) {
        let mut seen = self.0.lock().unwrap();
        let number = seen.open.iter().position(|open| *open == id).unwrap();
        seen.closed.push((Instant::now(), number));
    }
}

fn replay(url: &str, events: &[(u64, u64, u64, u64)], more: &str) -> Run {
    let (_folder, path) = recording(events, true);
    let file = path.display();
    run(&words(&format!("replay {file} {url} {more}")))
}

#[test]
fn connections_and_messages_come_as_they_were_recorded() {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let kept = seen.clone();
    let server = Running::start(move |_| Watching(kept.clone()));
    let events = [
        (5000, 0, OPENED, 0),
        (5010, 0, TEXT, 5),
        (5100, 0, BINARY, 70_000),
        (5300, 1, OPENED, 0),
        (5400, 0, TEXT, 0),
        (5400, 1, TEXT, 33),
        (5500, 0, CLOSED, 0),
        (5700, 1, BINARY, 1),
    ];
    let run = replay(&server.url, &events, "--speed 2 --shards 2");
    assert_verdict(&run, VerdictKind::Sound);
    let seen = seen.lock().unwrap();
    let what: Vec<(usize, MessageKind, usize)> = seen
        .messages
        .iter()
        .filter(|message| message.1 == 0)
        .map(|&(_, number, kind, len)| (number, kind, len))
        .collect();
    assert_eq!(
        what,
        [
            (0, MessageKind::Text, 5),
            (0, MessageKind::Binary, 70_000),
            (0, MessageKind::Text, 0),
        ]
    );
    // Twice as fast: 690 milliseconds take 345, and the first connection ends before the last one
    // has said its last.
    let (first, last) = (seen.messages[0].0, seen.messages.last().unwrap().0);
    let took = last - first;
    let is_true = Duration::from_millis(300)..Duration::from_millis(700);
    assert!(is_true.contains(&took), "{took:?}");
    assert_eq!(seen.closed[0].1, 0, "{:?}", seen.closed);
    assert!(seen.closed[0].0 < last);
    let replay = run.replay.unwrap();
    assert_eq!(
        (replay.recorded_connections, replay.recorded_messages),
        (2, 5)
    );
    assert_eq!((replay.unrecorded, replay.unsent), (Some(5), 0));
    assert_eq!((run.messages.scheduled, run.messages.sent), (5, 5));
    assert_eq!(run.connections.opened, 2);
    assert_eq!(run.client.lateness_ns.len(), 5);
    let said = unfolded(&run);
    for part in [
        "late at p99",
        "an-hour.rec at 2 times its speed",
        "not recorded 5",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn what_cannot_be_sent_is_counted() {
    // It ends each connection with its first message.
    let server = Scripted::start(|asked, _| {
        let mut socket = asked.open();
        let _ = socket.receive();
        socket.close(1001);
    });
    let events = [(0, 0, TEXT, 5), (200, 0, TEXT, 5), (250, 0, TEXT, 5)];
    let run = replay(&server.url, &events, "");
    assert_verdict(&run, VerdictKind::NotAsAsked);
    assert_eq!((run.messages.sent, run.messages.unsent), (1, 2));
    assert_eq!(run.replay.unwrap().unsent, 2);
    assert_eq!(run.connections.closed, 1);
}

#[test]
fn a_server_that_does_not_read_is_told_of() {
    let server = Scripted::start(|asked, _| asked.open().read_after(Duration::from_millis(700)));
    let events: Vec<_> = (0..40).map(|at| (at * 5, 0, BINARY, 400_000)).collect();
    let run = replay(&server.url, &events, "--reply-timeout 200ms");
    assert!(run.messages.unsent > 0, "{:?}", run.messages);
    assert_eq!(run.messages.sent + run.messages.unsent, 40);
}

#[test]
fn a_recording_that_is_cut_short_or_none_is_told_of() {
    let server = Running::echo();
    let (_folder, path) = recording(&[(0, 0, OPENED, 0), (50, 0, TEXT, 3)], false);
    let (file, url) = (path.display(), &server.url);
    let run = run(&words(&format!("replay {file} {url} --shards 1")));
    assert_eq!(run.replay.unwrap().unrecorded, None);
    // Whatever an echo answers, and whether that comes before the end.
    assert_eq!((run.messages.sent, run.messages.lost), (1, 0));
    assert!(unfolded(&run).contains("The recording is cut short"));
    let said = try_run(&words(&format!("replay {file} ws://127.0.0.1:1/"))).unwrap_err();
    assert!(said.contains("Connection refused"), "{said}");
    let (_folder, empty) = recording(&[], true);
    let file = empty.display();
    let said = try_run(&words(&format!("replay {file} {url}"))).unwrap_err();
    assert!(said.contains("holds no connection"), "{said}");
    let said = try_run(&words(&format!("replay /dev/null {url}"))).unwrap_err();
    assert!(
        said.contains("/dev/null is no recording of version 1"),
        "{said}"
    );
    let said = try_run(&words(&format!("replay {file} {url} --speed 0"))).unwrap_err();
    assert!(said.contains("'0' is not a speed"), "{said}");
}
