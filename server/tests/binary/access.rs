//! The access log: who was there, what passed, why it ended; and who was turned away.

use std::fs;

use ringwire::Address;
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    admin::metrics,
    common::{Peer, TEXT, request},
    guard::{guarded, in_a_folder},
    peer::{CLOSE, close_payload, until},
    serve::{ENGINES, LISTEN, Ringwire, command},
};

fn start(engine: &str, more: &[&str]) -> Ringwire {
    let mut command = command(&LISTEN);
    command.args(["--engine", engine, "--shards", "1", "--log-format", "json"]);
    command.args(["--close-timeout-ms", "100"]);
    command.args(more);
    Ringwire::start(&mut command)
}

/// Every line of the log that says this, each an object.
fn lines(log: &str, message: &str) -> Vec<Value> {
    let lines = log.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    lines.filter(|line| line["message"] == message).collect()
}

fn stop(ringwire: Ringwire) -> String {
    ringwire.signal(Signal::TERM);
    let (status, log) = ringwire.wait();
    assert!(status.success(), "{log}");
    log
}

/// Opens with these lines more in the head.
fn open_with(address: &Address, target: &str, lines: &str) -> (Peer, String) {
    let mut peer = Peer::connect(address);
    let head = request(target).replacen("\r\n\r\n", &format!("\r\n{lines}\r\n"), 1);
    peer.write(head.as_bytes());
    let head = peer.read_head();
    (peer, head)
}

#[test]
fn a_connection_leaves_a_line_that_has_all_of_it() {
    for engine in ENGINES {
        guarded(|| {
            let ringwire = start(engine, &["--access-log"]);
            let address = &ringwire.addresses[0];
            let offer = "Sec-WebSocket-Protocol: chat.v2, other\r\n";
            let (mut peer, _) = open_with(address, "/?token=tell-nobody", offer);
            let local = peer.stream.local_addr().unwrap().to_string();
            for payload in [&b"one"[..], &[b'x'; 1000], b""] {
                peer.send(TEXT, payload);
                assert_eq!(peer.read_frame().payload, payload);
            }
            let piece = crate::common::masked(TEXT, b"short").repeat(20);
            peer.write(&piece);
            for _ in 0..20 {
                peer.read_frame();
            }
            peer.send(CLOSE, &close_payload(1000, b"thanks\n\"you\""));
            assert_eq!(peer.read_frame().first, CLOSE);
            peer.expect_end();
            // One that vanishes, and one that sends to the sink.
            drop(Peer::open(address, "/"));
            let mut sink = Peer::open(address, "/sink");
            sink.send(TEXT, b"into it");
            until("two have left", || {
                lines(&ringwire.log(), "connection ended").len() == 2
            });
            let log = stop(ringwire);
            let ended = lines(&log, "connection ended");
            assert_eq!(ended.len(), 3, "{log}");
            let of = |path: &str| {
                let found = ended.iter().find(|line| line["path"] == path);
                found.unwrap_or_else(|| panic!("nothing of {path}: {log}"))
            };
            let first = of("/?...");
            assert_eq!(first["peer"], local);
            assert_eq!(first["host"], "server.example.com");
            assert_eq!(first["status"], 101);
            assert_eq!(first["subprotocol"], "chat.v2");
            let bytes = 3 + 1000 + 20 * 5;
            for key in ["messages_received", "messages_sent"] {
                assert_eq!(first[key], 23, "{key}");
            }
            for key in ["bytes_received", "bytes_sent"] {
                assert_eq!(first[key], bytes, "{key}");
            }
            assert!(first["seconds"].as_f64().unwrap() < 60.0);
            let cause = first["cause"].as_str().unwrap();
            assert!(cause.contains("closed by the peer with 1000"), "{cause}");
            // It has a line's end in it, which is escaped.
            assert!(cause.contains("thanks\\n"), "{cause}");
            let sink = of("/sink");
            assert_eq!(
                (&sink["messages_received"], &sink["messages_sent"]),
                (&1.into(), &0.into())
            );
            assert!(sink["cause"].as_str().unwrap().contains("stopping"));
            assert!(!log.contains("tell-nobody"), "{log}");
        });
    }
}

#[test]
fn who_is_turned_away_is_told_of_in_part() {
    for engine in ENGINES {
        guarded(|| {
            let ringwire = start(engine, &["--allow-origin", "https://example.com"]);
            let address = &ringwire.addresses[0];
            let other = "Origin: https://elsewhere.example\r\n";
            for _ in 0..50 {
                let (_, head) = open_with(address, "/", other);
                assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
            }
            let refused = || lines(&ringwire.log(), "request refused");
            until("some are told of", || refused().len() >= 10);
            // It goes on in another second, with how many were left out.
            until("the rest is counted", || {
                open_with(address, "/", other);
                refused()
                    .iter()
                    .any(|line| line["untold"].as_u64() > Some(0))
            });
            let first = &refused()[0];
            assert_eq!(first["status"], 403);
            assert_eq!(first["method"], "GET");
            assert!(!first["reason"].as_str().unwrap().is_empty());
            // Nobody's end is told of: that is to be asked for.
            drop(Peer::open(address, "/"));
            let log = stop(ringwire);
            assert_eq!(lines(&log, "connection ended").len(), 0, "{log}");
        });
    }
}

#[test]
fn it_is_switched_on_while_the_server_runs() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let file = folder.join("ringwire.toml");
            let write = |more: &str| {
                let head = "listen = '127.0.0.1:0'\nshards = 1\nlog_format = 'json'\n";
                fs::write(&file, format!("{head}engine = '{engine}'\n{more}")).unwrap();
            };
            write("");
            let mut command = command(&["--config", file.to_str().unwrap()]);
            let ringwire = Ringwire::start(&mut command);
            let before = Peer::open(&ringwire.addresses[0], "/");
            write("access_log = true\n");
            ringwire.signal(Signal::HUP);
            until("it is on", || {
                ringwire.log().contains("access_log is true now")
            });
            let after = Peer::open(&ringwire.addresses[0], "/");
            let mut page = Peer::connect(&ringwire.addresses[0]);
            page.write(b"GET /?a=b HTTP/1.1\r\nHost: x\r\n\r\n");
            page.read_head();
            drop((before, after));
            until("it has left", || {
                lines(&ringwire.log(), "connection ended").len() == 1
            });
            let log = stop(ringwire);
            let answered = lines(&log, "request answered");
            assert_eq!(answered.len(), 1, "{log}");
            assert_eq!(answered[0]["path"], "/?...");
            assert_eq!(answered[0]["status"], 200);
        });
    }
}

#[test]
fn rust_log_wins_over_the_settings() {
    guarded(|| {
        let mut command = command(&LISTEN);
        command.args(["--log-format", "json", "--log", "debug", "--access-log"]);
        command.args(["--admin-listen", "127.0.0.1:0"]);
        command.env("RUST_LOG", "ringwire::access=info,error");
        let ringwire = Ringwire::start(&mut command);
        drop(Peer::open(&ringwire.addresses[0], "/"));
        until("it has left", || {
            ringwire.log().contains("connection ended")
        });
        // Reading the settings again does not change that.
        ringwire.signal(Signal::HUP);
        until("they were read", || {
            let all = metrics(&ringwire.admin[0]);
            all["ringwire_reloads_total{result=\"applied\"}"] == 1.0
        });
        drop(Peer::open(&ringwire.addresses[0], "/"));
        until("another one has", || {
            ringwire.log().matches("connection ended").count() == 2
        });
        let log = stop(ringwire);
        assert_eq!(
            log.lines().count(),
            lines(&log, "connection ended").len(),
            "{log}"
        );
    });
    guarded(|| {
        let mut command = command(&LISTEN);
        command.env("RUST_LOG", "ringwire=loud");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("RUST_LOG is 'ringwire=loud'"), "{said}");
    });
}
