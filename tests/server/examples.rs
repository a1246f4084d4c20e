//! The examples do what they say, as processes of their own.
//!
//! Knows where Cargo puts them: `cargo test` builds them, and with `--test` alone it takes
//! `cargo build --examples` before.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use ringwire::Address;
use rustix::process::Signal;

use crate::{
    binary::Ringwire,
    common::{BINARY, Peer, TEXT, masked},
    host::guarded,
    peer::{CLOSE, close_payload},
};

const ANYWHERE: &str = "127.0.0.1:0";

fn example(name: &str, arguments: &[&str]) -> Command {
    let folder = Path::new(env!("CARGO_BIN_EXE_ringwire")).with_file_name("examples");
    let path: PathBuf = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --examples makes it",
        path.display()
    );
    let mut command = Command::new(path);
    command.args(arguments);
    command
}

/// A server among the examples.
fn serving(name: &str, arguments: &[&str]) -> (Ringwire, Address) {
    let command = &mut example(name, arguments);
    let server = Ringwire::start_until(command, |line| line.starts_with("ws://"));
    let address = server.addresses[0].clone();
    (server, address)
}

/// What an example that cannot go on says, and that it ends as one that failed.
#[track_caller]
fn complaint(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The peer says something and hears it.
#[track_caller]
fn say(peer: &mut Peer, line: &str) {
    peer.send(TEXT, line.as_bytes());
    peer.expect_text(line);
}

#[test]
fn chat_history_keeps_what_was_said() {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.sqlite");
        let arguments = [file.to_str().unwrap(), ANYWHERE];
        let (chat, address) = serving("chat_history", &arguments);
        let mut ann = Peer::open(&address, "/");
        say(&mut ann, "0");
        let mut bob = Peer::open(&address, "/");
        bob.expect_text("0");
        // From here on both hear everything, once.
        for number in 1..60 {
            let number = number.to_string();
            say(&mut ann, &number);
            bob.expect_text(&number);
        }
        bob.send(BINARY, b"noise");
        bob.answer_close(1003);
        chat.signal(Signal::TERM);
        ann.answer_close(1001);
        let (status, log) = chat.wait();
        assert!(status.success() && log.is_empty(), "{status} {log}");

        // The last 50 of 60.
        let (mut chat, address) = serving("chat_history", &arguments);
        let mut ann = Peer::open(&address, "/");
        for number in 10..60 {
            ann.expect_text(&number.to_string());
        }
        say(&mut ann, "60");
        // What was heard is kept, whatever the end.
        chat.kill();
        ann.expect_gone();
        chat.wait();

        let (chat, address) = serving("chat_history", &arguments);
        let mut ann = Peer::open(&address, "/");
        for number in 11..61 {
            ann.expect_text(&number.to_string());
        }
        ann.close();
        chat.signal(Signal::INT);
        assert!(chat.wait().0.success());
    });
}

#[test]
fn chat_history_sends_away_who_says_too_much() {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.sqlite");
        let (chat, address) = serving("chat_history", &[file.to_str().unwrap(), ANYWHERE]);
        let mut ann = Peer::open(&address, "/");
        ann.send(TEXT, &[b'x'; 4097]);
        ann.answer_close(1009);
        // More than the bridge takes of one, in one piece.
        let mut bob = Peer::open(&address, "/");
        let line = masked(TEXT, b"again");
        bob.write(&line.repeat(5000));
        loop {
            let frame = bob.read_frame();
            if frame.first == CLOSE {
                assert_eq!(frame.payload, close_payload(1008, b"too fast"));
                bob.send(CLOSE, &close_payload(1008, b""));
                bob.expect_end();
                break;
            }
            assert_eq!(frame.payload, b"again");
        }
        chat.signal(Signal::TERM);
        assert!(chat.wait().0.success());
    });
}

#[test]
fn chat_history_says_what_is_wrong_with_its_file() {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chat.sqlite");
        let nowhere = file.join("chat.sqlite");
        std::fs::write(
            &file,
            "this is not a database, and longer than its header".repeat(20),
        )
        .unwrap();
        for (path, expected) in [
            (&file, "file is not a database"),
            (&nowhere, "unable to open"),
        ] {
            let path = path.to_str().unwrap();
            let complaint = complaint(&mut example("chat_history", &[path, ANYWHERE]));
            assert!(complaint.starts_with("chat_history: "), "{complaint}");
            assert!(complaint.contains(path), "{complaint}");
            assert!(complaint.contains(expected), "{complaint}");
        }
    });
}
