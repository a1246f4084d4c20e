//! What clients send is recorded for a load generator, and never what is in it.

use std::{fs, path::Path};

use rustix::process::Signal;

use crate::{
    common::{BINARY, Peer, TEXT},
    guard::guarded,
    peer::{CLOSE, close_payload},
    serve::{LISTEN, Ringwire, command},
};

fn record(path: &Path, more: &[&str]) -> Ringwire {
    let mut command = command(&LISTEN);
    command.args(["--shards", "1", "--record", path.to_str().unwrap()]);
    command.args(more);
    Ringwire::start(&mut command)
}

fn stop(ringwire: Ringwire) -> String {
    ringwire.signal(Signal::TERM);
    let (status, log) = ringwire.wait();
    assert!(status.success(), "{log}");
    log
}

/// A number of the file (LEB128).
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
        shift += 7;
    }
}

/// Connection, kind and size.
type Entry = (u64, u64, u64);

/// Each entry, and what the last one counts.
fn entries(file: &[u8]) -> (Vec<Entry>, Option<(u64, u64)>) {
    let mut rest = file.strip_prefix(b"ringwire recording 1\n").unwrap();
    let mut entries = Vec::new();
    number(&mut rest);
    while let (Some(_), Some(tag)) = (number(&mut rest), number(&mut rest)) {
        let (connection, kind) = (tag >> 3, tag & 7);
        match kind {
            7 => {
                let counts = (number(&mut rest).unwrap(), number(&mut rest).unwrap());
                assert!(rest.is_empty(), "{rest:?}");
                return (entries, Some(counts));
            }
            2 | 3 => entries.push((connection, kind, number(&mut rest).unwrap())),
            _ => entries.push((connection, kind, 0)),
        }
    }
    (entries, None)
}

#[test]
fn kinds_and_sizes_are_recorded_and_no_payload() {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it.rec");
        let ringwire = record(&path, &[]);
        let address = &ringwire.addresses[0];
        let mut one = Peer::open(address, "/?token=s3cret");
        let mut other = Peer::open(address, "/sink");
        for payload in [&b"s3cret"[..], &[b'x'; 300]] {
            one.send(TEXT, payload);
            assert_eq!(one.read_frame().payload, payload);
        }
        other.send(BINARY, &[1; 70_000]);
        other.send(CLOSE, &close_payload(1000, b""));
        assert_eq!(other.read_frame().first, CLOSE);
        other.expect_end();
        one.send(CLOSE, &close_payload(1000, b""));
        assert_eq!(one.read_frame().first, CLOSE);
        one.expect_end();
        let log = stop(ringwire);
        assert!(log.contains("is complete"), "{log}");
        let file = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&file);
        assert!(!text.contains("s3cret") && file.len() < 100, "{text}");
        let (entries, counts) = entries(&file);
        assert_eq!(counts, Some((0, 0)));
        assert_eq!(
            entries,
            [
                (0, 0, 0),
                (1, 0, 0),
                (0, 2, 6),
                (0, 2, 300),
                (1, 3, 70_000),
                (1, 1, 0),
                (0, 1, 0),
            ]
        );
    });
}

#[test]
fn a_recording_has_an_end_and_what_follows_is_counted() {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("it.rec");
        let ringwire = record(&path, &["--record-bytes-max", "1024"]);
        let mut peer = Peer::open(&ringwire.addresses[0], "/");
        for _ in 0..500 {
            peer.send(TEXT, b"more");
            peer.read_frame();
        }
        drop(peer);
        let log = stop(ringwire);
        assert!(log.contains("is full"), "{log}");
        let file = fs::read(&path).unwrap();
        assert!(file.len() <= 1024, "{}", file.len());
        let (entries, counts) = entries(&file);
        let (behind, beyond) = counts.unwrap();
        // It opened, 500 messages came, and it ended.
        assert_eq!(entries.len() as u64 + behind + beyond, 502);
        assert!(
            entries.len() > 200 && beyond > 100,
            "{} {beyond}",
            entries.len()
        );
    });
}

#[test]
fn a_recording_that_cannot_be_written_is_said_at_once() {
    let mut command = command(&LISTEN);
    command.args(["--record", "/nowhere/at/all.rec"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the recording /nowhere/at/all.rec cannot be written: No such file"),
        "{said}"
    );
}
