//! hixie-76 on real sockets: a client of 2010, which nobody ships any more.

use std::time::{Duration, Instant};

use ringwire::{
    CloseCause, CloseCode, Config, HandshakeError, ProtocolError, SendError, Timeout, Version,
    service::Echo,
};

use crate::{
    common::Peer,
    draft::{ANSWER, BODY, CLOSE, Frame, HEAD, open_at, text},
    host::{Engine, Host, Obedient, config, host, on_each_engine},
    peer::until,
};

on_each_engine! {
    a_body_that_never_comes_is_given_up
    a_client_that_goes_away_before_its_body_was_never_open
    a_long_text_comes_back_whole
    a_panic_closes
    a_message_that_stands_still_is_given_up
    a_silent_peer_is_not_pinged_and_dropped_at_the_full_timeout
    a_stopping_server_closes
    binary_goes_to_those_who_have_sent_some
    compression_is_never_agreed_on
    messages_over_the_limit_fail_the_connection
    off_it_is_a_426_that_names_version_13
    pings_are_refused
    the_101_comes_before_the_body
    the_client_closes_first
    the_drafts_example_is_answered_and_echoes
    the_head_and_the_body_arrive_in_any_pieces
    the_peer_never_answers_a_close_frame
    the_server_closes_first
    text_that_is_not_utf_8_fails_the_connection
    what_no_client_of_the_draft_sends_is_refused
}

fn legacy(change: impl FnOnce(&mut Config)) -> Config {
    config(|config| {
        config.legacy_hixie76 = true;
        change(config);
    })
}

fn open(host: &Host) -> Peer {
    open_at(host.address(), "http://example.com")
}

fn the_drafts_example_is_answered_and_echoes(engine: Engine) {
    let config = legacy(|config| config.date_header = false);
    host(
        engine,
        config,
        || Echo,
        |host| {
            let mut peer = host.connect();
            let scheme = engine.scheme();
            peer.write(&[HEAD.as_bytes(), BODY, &text("pipelined")].concat());
            assert_eq!(
                peer.read_head(),
                format!(
                    "HTTP/1.1 101 WebSocket Protocol Handshake\r\n\
                     Upgrade: WebSocket\r\n\
                     Connection: Upgrade\r\n\
                     Sec-WebSocket-Origin: http://example.com\r\n\
                     Sec-WebSocket-Location: {scheme}://example.com/?demo\r\n\
                     Server: ringwire\r\n\r\n"
                )
            );
            assert_eq!(peer.bytes(16), ANSWER);
            assert_eq!(peer.read_draft(), Frame::Text("pipelined".into()));
            peer.draft_echo("größer, 日本語, 🦀, \0");
            peer.draft_echo("");
            peer.write(&["a", "b", "c"].map(text).concat());
            for letter in ["a", "b", "c"] {
                assert_eq!(peer.read_draft(), Frame::Text(letter.into()));
            }
            peer.draft_close();
            // Beside it, RFC 6455 is what it was.
            let mut modern = host.open();
            modern.echo("13");
            modern.close();
            host.closes(2);
        },
    );
    host(
        engine,
        legacy(|_| {}),
        || {
            Obedient::default().on("who?", |conn| {
                assert_eq!(conn.version(), Version::Hixie76);
                conn.send("an elder").unwrap();
            })
        },
        |host| {
            let mut peer = open(host);
            peer.write(&text("who?"));
            assert_eq!(peer.read_draft(), Frame::Text("an elder".into()));
            peer.draft_close();
        },
    );
}

fn compression_is_never_agreed_on(engine: Engine) {
    let config = legacy(|config| config.compress = true);
    host(
        engine,
        config,
        || Echo,
        |host| {
            let mut peer = host.connect();
            let offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n";
            let head = [HEAD.strip_suffix("\r\n").unwrap(), offer].concat();
            peer.write(&[head.as_bytes(), BODY].concat());
            let head = peer.read_head();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            assert!(!head.contains("Extensions"), "{head}");
            assert_eq!(peer.bytes(16), ANSWER);
            peer.draft_echo(&"long enough, ".repeat(1000));
            peer.draft_close();
            host.expect_count(0, |counts| counts.compress_connections);
        },
    );
}

fn off_it_is_a_426_that_names_version_13(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            for body in [&BODY[..], b""] {
                let mut peer = host.connect();
                peer.write(&[HEAD.as_bytes(), body].concat());
                let reply = peer.read_reply(false);
                assert_eq!(reply.status, 426);
                assert_eq!(reply.header("Upgrade"), Some("websocket"));
                assert_eq!(reply.header("Sec-WebSocket-Version"), Some("13"));
            }
            host.expect_count(2, |counts| counts.handshakes_refused);
        },
    );
}

fn what_no_client_of_the_draft_sends_is_refused(engine: Engine) {
    host(
        engine,
        legacy(|_| {}),
        || Echo,
        |host| {
            for (from, to, error) in [
                ("/?demo", "/nowhere", HandshakeError::NotFound),
                ("4 @1  46", "4@146", HandshakeError::ChallengeInvalid),
                ("Key2", "Key3", HandshakeError::ChallengeInvalid),
                (
                    "Connection: Upgrade\r\n",
                    "",
                    HandshakeError::ConnectionWithoutUpgrade,
                ),
                (
                    "Host",
                    "Sec-WebSocket-Version: 0\r\nHost",
                    HandshakeError::VersionUnsupported,
                ),
            ] {
                let head = HEAD.replacen(from, to, 1);
                assert_ne!(head, HEAD);
                let mut peer = host.connect();
                peer.write(&[head.as_bytes(), BODY].concat());
                let reply = peer.read_reply(false);
                let expected = (error.http_status(), error.body());
                assert_eq!((reply.status, &*reply.body), expected);
            }
            for (bytes, frame_type) in [(&b"\x01a\xFF"[..], 0x01), (b"\xFF\x01a", 0xFF)] {
                let mut peer = open(host);
                peer.write(bytes);
                assert_eq!(peer.read_draft(), Frame::Close);
                peer.expect_end_after_close();
                let error = ProtocolError::OpcodeReserved(frame_type);
                let closes = host.closes(if frame_type == 0x01 { 1 } else { 2 });
                assert_eq!(closes.last(), Some(&CloseCause::Protocol(error)));
            }
        },
    );
}

impl Peer {
    /// The server lingers until this side has ended its own.
    #[track_caller]
    fn expect_end_after_close(mut self) {
        self.expect_end();
        self.shutdown_write();
    }
}

fn the_101_comes_before_the_body(engine: Engine) {
    host(
        engine,
        legacy(|_| {}),
        || Echo,
        |host| {
            // A proxy that sends the body only once it has seen the head of the answer.
            let mut peer = host.connect();
            peer.write(HEAD.as_bytes());
            assert!(peer.read_head().contains("\r\nSec-WebSocket-Location: "));
            assert_eq!(peer.pending.len(), peer.start, "an answer to nothing");
            peer.write(BODY);
            assert_eq!(peer.bytes(16), ANSWER);
            peer.draft_echo("through the proxy");
            peer.draft_close();
        },
    );
}

fn the_head_and_the_body_arrive_in_any_pieces(engine: Engine) {
    host(
        engine,
        legacy(|_| {}),
        || Echo,
        |host| {
            let bytes = [HEAD.as_bytes(), BODY, &text("one"), &text("two")].concat();
            let mut peer = host.connect();
            peer.drip(&bytes);
            peer.expect_answer();
            assert_eq!(peer.read_draft(), Frame::Text("one".into()));
            assert_eq!(peer.read_draft(), Frame::Text("two".into()));
            peer.draft_close();
            let end = HEAD.len();
            for cut in [
                1,
                40,
                end - 1,
                end,
                end + 1,
                end + 7,
                end + 8,
                end + 9,
                end + 12,
            ] {
                let mut peer = host.connect();
                peer.write(&bytes[..cut]);
                // The first piece has been read before the second one is sent.
                host.neighbour_echoes(2);
                peer.write(&bytes[cut..]);
                peer.expect_answer();
                assert_eq!(peer.read_draft(), Frame::Text("one".into()));
                assert_eq!(peer.read_draft(), Frame::Text("two".into()));
                peer.draft_close();
            }
        },
    );
}

fn a_body_that_never_comes_is_given_up(engine: Engine) {
    let timeout_ms = 400;
    let config = legacy(|config| config.handshake_timeout_ms = timeout_ms);
    host(
        engine,
        config,
        || Echo,
        |host| {
            host.expect_unopened(1);
            let begun = Instant::now();
            let mut peer = host.connect();
            peer.write(HEAD.as_bytes());
            peer.write(&BODY[..7]);
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            // Not a 408: a 101 is out already.
            peer.expect_end();
            let elapsed = begun.elapsed();
            assert!(elapsed.as_millis() >= timeout_ms.into(), "{elapsed:?}");
            let cause = CloseCause::Timeout(Timeout::Handshake);
            assert_eq!(host.close_cause(), cause);
            host.expect_count(1, |counts| counts.timeouts);
        },
    );
}

fn a_client_that_goes_away_before_its_body_was_never_open(engine: Engine) {
    host(
        engine,
        legacy(|_| {}),
        || Echo,
        |host| {
            host.expect_unopened(2);
            let mut peer = host.connect();
            peer.write(&[HEAD.as_bytes(), &BODY[..3]].concat());
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            peer.shutdown_write();
            peer.expect_end();
            assert_eq!(host.close_cause(), CloseCause::Vanished);
            let mut peer = host.connect();
            peer.write(HEAD.as_bytes());
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            peer.reset();
            let cause = host.closes(2).remove(1);
            assert!(matches!(cause, CloseCause::Transport(_)), "{cause:?}");
        },
    );
}

fn a_long_text_comes_back_whole(engine: Engine) {
    host(engine, legacy(|_| {}), Obedient::default, |host| {
        let mut peer = open(host);
        let long = "größer 🦀 ".repeat(300_000);
        for _ in 0..3 {
            let mut writer = peer.writer();
            let bytes = text(&long);
            let writing = std::thread::spawn(move || writer.write(&bytes));
            assert!(peer.read_draft() == Frame::Text(long.clone()), "it differs");
            writing.join().unwrap();
        }
        peer.draft_echo("short");
        peer.draft_close();
    });
}

fn messages_over_the_limit_fail_the_connection(engine: Engine) {
    let limit = 1000;
    let config = legacy(|config| config.message_bytes_max = limit as u64);
    host(
        engine,
        config,
        || Echo,
        |host| {
            let full = "x".repeat(limit);
            let too_long = |end: &[u8]| [&[0x00], full.as_bytes(), b"x", end].concat();
            // Whole, without an end, and a length that promises too much.
            let lengths = [&[0x80, 0x87, 0x69][..], &[0x80, 0xFF, 0xFF, 0xFF]];
            let cases = [
                too_long(&[0xFF]),
                too_long(&[]),
                lengths[0].to_vec(),
                lengths[1].to_vec(),
            ];
            for (index, bytes) in cases.iter().enumerate() {
                let mut peer = open(host);
                peer.draft_echo(&full);
                peer.write(bytes);
                assert_eq!(peer.read_draft(), Frame::Close);
                peer.expect_end_after_close();
                let cause = host.closes(index + 1).remove(index);
                assert_eq!(cause, CloseCause::Protocol(ProtocolError::MessageTooBig));
            }
            host.expect_count(4, |counts| counts.protocol_errors);
        },
    );
}

fn text_that_is_not_utf_8_fails_the_connection(engine: Engine) {
    host(
        engine,
        legacy(|_| {}),
        || Echo,
        |host| {
            // At the byte that shows it, before the text has come to its end.
            let mut peer = open(host);
            peer.write(b"\0fine\xFF\0not \xC0");
            assert_eq!(peer.read_draft(), Frame::Text("fine".into()));
            assert_eq!(peer.read_draft(), Frame::Close);
            peer.expect_end_after_close();
            let cause = CloseCause::Protocol(ProtocolError::TextNotUtf8);
            assert_eq!(host.close_cause(), cause);
        },
    );
}

fn binary_goes_to_those_who_have_sent_some(engine: Engine) {
    let service = || {
        Obedient::default().on("binary", |conn| match conn.send(&[0u8, 0xFF][..]) {
            Ok(_) => {}
            Err(SendError::Unsupported) => drop(conn.send("no").unwrap()),
            Err(error) => panic!("{error}"),
        })
    };
    host(engine, legacy(|_| {}), service, |host| {
        let mut peer = open(host);
        peer.write(&text("binary"));
        assert_eq!(peer.read_draft(), Frame::Text("no".into()));
        let payload = vec![0xFF; 300];
        peer.write(&[&[0x80, 0x82, 0x2C], &payload[..]].concat());
        assert_eq!(peer.read_draft(), Frame::Binary(payload));
        peer.write(&text("binary"));
        assert_eq!(peer.read_draft(), Frame::Binary(vec![0, 0xFF]));
        peer.draft_close();
    });
    // The echo of a binary message needs no proof: it is one. One that is asked for nothing but
    // binary does, and closes rather than say nothing.
    host(
        engine,
        legacy(|_| {}),
        || Echo,
        |host| {
            let mut peer = open(host);
            peer.write(&[0x80, 0x00]);
            assert_eq!(peer.read_draft(), Frame::Binary(Vec::new()));
            peer.draft_close();
            // The other one may be another shard's, which would not wait for it.
            host.closes(1);
            let mut peer = host.connect();
            let head = HEAD.replacen("?demo", "?encoding=binary", 1);
            peer.write(&[head.as_bytes(), BODY, &text("a browser")].concat());
            peer.expect_answer();
            assert_eq!(peer.read_draft(), Frame::Close);
            peer.write(&CLOSE);
            peer.expect_end();
            let cause = CloseCause::Application(CloseCode::UNSUPPORTED_DATA);
            assert_eq!(host.closes(2)[1], cause);
        },
    );
}

fn pings_are_refused(engine: Engine) {
    let service = || {
        Obedient::default().on("ping", |conn| {
            assert_eq!(conn.ping(b"?"), Err(SendError::Unsupported));
            assert_eq!(conn.pong(b"!"), Err(SendError::Unsupported));
            conn.send("neither").unwrap();
        })
    };
    host(engine, legacy(|_| {}), service, |host| {
        let mut peer = open(host);
        peer.write(&text("ping"));
        assert_eq!(peer.read_draft(), Frame::Text("neither".into()));
        peer.draft_close();
    });
}

fn the_client_closes_first(engine: Engine) {
    host(engine, legacy(|_| {}), Obedient::default, |host| {
        let mut peer = open(host);
        peer.write(&[&text("one")[..], &CLOSE, &text("never read")].concat());
        assert_eq!(peer.read_draft(), Frame::Text("one".into()));
        assert_eq!(peer.read_draft(), Frame::Close);
        peer.expect_end();
        let cause = CloseCause::Peer {
            code: None,
            reason: "".into(),
        };
        assert_eq!(host.close_cause(), cause);
    });
}

fn polite() -> Obedient {
    Obedient::default().on("close", |conn| {
        conn.send("last words").unwrap();
        let code = CloseCode::new(4000).unwrap();
        conn.close(code, "nobody will learn this").unwrap();
        assert!(conn.is_closing());
        assert_eq!(conn.send("too late"), Err(SendError::Closed));
        assert_eq!(conn.close(code, ""), Err(SendError::Closed));
    })
}

fn application() -> CloseCause {
    CloseCause::Application(CloseCode::new(4000).unwrap())
}

fn the_server_closes_first(engine: Engine) {
    host(engine, legacy(|_| {}), polite, |host| {
        let mut peer = open(host);
        peer.write(&[text("close"), text("nobody listens")].concat());
        assert_eq!(peer.read_draft(), Frame::Text("last words".into()));
        assert_eq!(peer.read_draft(), Frame::Close);
        peer.write(&[&text("nor now")[..], &CLOSE].concat());
        peer.expect_end();
        assert_eq!(host.close_cause(), application());
    });
}

fn the_peer_never_answers_a_close_frame(engine: Engine) {
    let timeout_ms = 300;
    let config = legacy(|config| config.close_timeout_ms = timeout_ms);
    host(engine, config, polite, |host| {
        let mut peer = open(host);
        let begun = Instant::now();
        peer.write(&text("close"));
        assert_eq!(peer.read_draft(), Frame::Text("last words".into()));
        assert_eq!(peer.read_draft(), Frame::Close);
        peer.expect_end();
        let elapsed = begun.elapsed();
        assert!(elapsed.as_millis() >= timeout_ms.into(), "{elapsed:?}");
        assert_eq!(host.close_cause(), application());
        host.expect_count(1, |counts| counts.timeouts);
    });
}

fn a_message_that_stands_still_is_given_up(engine: Engine) {
    let config = legacy(|config| {
        config.message_timeout_ms = 300;
        config.idle_timeout_ms = 0;
    });
    host(engine, config, Obedient::default, |host| {
        let cases = [
            &b"\0"[..],
            b"\0begun",
            b"\x80",
            b"\x80\x81",
            b"\x80\x05abc",
            b"\xFF",
        ];
        for (index, case) in cases.into_iter().enumerate() {
            let mut peer = open(host);
            let begun = Instant::now();
            peer.write(case);
            assert_eq!(peer.read_draft(), Frame::Close, "{}", case.escape_ascii());
            peer.expect_end();
            let elapsed = begun.elapsed();
            assert!(elapsed < Duration::from_millis(3000), "{elapsed:?}");
            drop(peer);
            let cause = CloseCause::Timeout(Timeout::Message);
            assert_eq!(host.closes(index + 1)[index], cause);
        }
        // Whole ones are never late, however often they are cut.
        let mut peer = open(host);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(900) {
            peer.write(b"\0some ");
            host.neighbour_echoes(5);
            peer.write(b"text\xFF");
            assert_eq!(peer.read_draft(), Frame::Text("some text".into()));
        }
        peer.draft_close();
    });
}

fn a_silent_peer_is_not_pinged_and_dropped_at_the_full_timeout(engine: Engine) {
    let config = legacy(|config| config.idle_timeout_ms = 600);
    host(engine, config, Obedient::default, |host| {
        let begun = Instant::now();
        let mut peer = open(host);
        peer.expect_end();
        let elapsed = begun.elapsed();
        assert!(elapsed > Duration::from_millis(599), "{elapsed:?}");
        let cause = CloseCause::Timeout(Timeout::Idle);
        assert_eq!(host.close_cause(), cause);
        // Half a text is a sign of life.
        let mut peer = open(host);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(900) {
            peer.write(b"\0some ");
            host.neighbour_echoes(20);
            peer.write(b"text\xFF");
            assert_eq!(peer.read_draft(), Frame::Text("some text".into()));
        }
        peer.draft_close();
    });
}

fn a_stopping_server_closes(engine: Engine) {
    host(engine, legacy(|_| {}), Obedient::default, |host| {
        host.expect_unopened(1);
        let mut peer = open(host);
        peer.draft_echo("here");
        let mut challenged = host.connect();
        challenged.write(HEAD.as_bytes());
        challenged.read_head();
        host.dismiss_neighbour();
        host.stop();
        assert_eq!(peer.read_draft(), Frame::Close);
        peer.write(&CLOSE);
        peer.expect_end();
        challenged.expect_end();
        let closes = host.closes(2);
        assert_eq!(closes, [CloseCause::Stopping, CloseCause::Stopping]);
    });
}

fn a_panic_closes(engine: Engine) {
    let service = || {
        Obedient::default().on("panic", |_| {
            panic!("{}: a message", crate::guard::ON_PURPOSE)
        })
    };
    host(engine, legacy(|_| {}), service, |host| {
        let mut peer = open(host);
        peer.write(&text("panic"));
        assert_eq!(peer.read_draft(), Frame::Close);
        peer.expect_end_after_close();
        assert_eq!(host.close_cause(), CloseCause::ServicePanicked);
        until("it is counted", || host.counts().service_panics == 1);
    });
}
