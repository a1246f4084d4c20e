//! The closing handshake (RFC 6455 section 7) in every order, and connections that end without.

use std::time::Instant;

use ringwire::{CloseCause, CloseCode, Config, Errno, Timeout};

use crate::{
    common::{Peer, TEXT, masked},
    host::{Engine, Obedient, config, host, on_each_engine},
    peer::{CLOSE, close_payload},
};

on_each_engine! {
    a_close_frame_with_data_behind_it_ends_with_the_close_frame
    a_reset_is_a_broken_transport
    a_reset_while_closing_keeps_the_first_cause
    both_close_at_once
    half_a_close_frame_is_none
    replies_arrive_after_the_peer_has_shut_down_its_side
    the_client_closes_first
    the_peer_never_answers_a_close_frame
    the_server_closes_first
    vanishing_in_a_message_is_vanishing
    vanishing_is_noticed
}

/// An echo that says farewell to whoever asks for it.
fn polite() -> Obedient {
    Obedient::default().on("close", |conn| {
        conn.send("last words").unwrap();
        conn.close(CloseCode::new(4000).unwrap(), "as you wish")
            .unwrap();
        assert!(conn.is_closing());
        // It is over: neither of these is sent.
        assert!(conn.send("too late").is_err());
        assert!(conn.close(CloseCode::NORMAL_CLOSURE, "").is_err());
    })
}

fn application() -> CloseCause {
    CloseCause::Application(CloseCode::new(4000).unwrap())
}

fn ask_for_the_end(peer: &mut Peer) {
    peer.send(TEXT, b"close");
    peer.expect_text("last words");
    assert_eq!(peer.expect_close(4000), "as you wish");
}

/// Over TLS, a server waits for the end of a client that waits for the end of the server.
fn closing_soon() -> Config {
    config(|config| config.close_timeout_ms = 500)
}

fn the_client_closes_first(engine: Engine) {
    host(engine, closing_soon(), polite, |host| {
        let mut peer = host.open();
        peer.send(TEXT, b"one");
        peer.send(CLOSE, &close_payload(4001, b"enough"));
        peer.expect_text("one");
        assert_eq!(peer.expect_close(4001), "");
        peer.expect_end();
        let cause = CloseCause::Peer {
            code: CloseCode::new(4001),
            reason: "enough".into(),
        };
        // The server's side is closed while the client's is still open.
        assert_eq!(host.close_cause(), cause);
    });
}

fn the_server_closes_first(engine: Engine) {
    host(engine, config(|_| {}), polite, |host| {
        let mut peer = host.open();
        ask_for_the_end(&mut peer);
        // What is sent after that is not handed to the service, nor answered.
        peer.send(TEXT, b"nobody listens");
        peer.send(CLOSE, &close_payload(4000, b""));
        peer.expect_end();
        assert_eq!(host.close_cause(), application());
    });
}

fn both_close_at_once(engine: Engine) {
    host(engine, closing_soon(), polite, |host| {
        let mut peer = host.open();
        // Both frames are on their way before either side has seen the other's.
        peer.write(
            &[
                masked(TEXT, b"close"),
                masked(CLOSE, &close_payload(1000, b"")),
            ]
            .concat(),
        );
        peer.expect_text("last words");
        assert_eq!(peer.expect_close(4000), "as you wish");
        peer.expect_end();
        assert_eq!(host.close_cause(), application());
    });
}

fn a_close_frame_with_data_behind_it_ends_with_the_close_frame(engine: Engine) {
    host(engine, closing_soon(), polite, |host| {
        let mut peer = host.open();
        let bytes = [
            masked(CLOSE, &close_payload(1000, b"")),
            masked(TEXT, b"never read"),
            masked(CLOSE, &close_payload(1001, b"")),
        ];
        peer.write(&bytes.concat());
        peer.expect_close(1000);
        peer.expect_end();
        assert!(matches!(host.close_cause(), CloseCause::Peer { .. }));
    });
}

fn the_peer_never_answers_a_close_frame(engine: Engine) {
    let timeout_ms = 300;
    let config = config(|config| config.close_timeout_ms = timeout_ms);
    host(engine, config, polite, |host| {
        let begun = Instant::now();
        let mut peer = host.open();
        ask_for_the_end(&mut peer);
        peer.expect_end();
        let elapsed = begun.elapsed();
        assert!(elapsed.as_millis() >= timeout_ms.into(), "{elapsed:?}");
        assert_eq!(host.close_cause(), application());
        host.expect_count(1, |counts| counts.timeouts);
        // Nor does one that keeps talking and pinging.
        let mut peer = host.open();
        ask_for_the_end(&mut peer);
        peer.send(TEXT, b"still here");
        peer.expect_end();
        host.closes(2);
        // A violation is answered with a close frame and an end, but this client stays.
        let mut peer = host.open();
        peer.write(b"\x81\x00");
        peer.expect_close(1002);
        peer.expect_end();
        let cause = host.closes(3).remove(2);
        assert!(matches!(cause, CloseCause::Protocol(_)), "{cause:?}");
        host.expect_count(3, |counts| counts.timeouts);
        assert!(!matches!(cause, CloseCause::Timeout(Timeout::Close)));
    });
}

fn replies_arrive_after_the_peer_has_shut_down_its_side(engine: Engine) {
    host(engine, config(|_| {}), polite, |host| {
        let mut peer = host.open();
        let big = "x".repeat(100_000);
        for _ in 0..20 {
            peer.send(TEXT, big.as_bytes());
        }
        peer.send(TEXT, b"the last one");
        peer.shutdown_write();
        for _ in 0..20 {
            peer.expect_text(&big);
        }
        peer.expect_text("the last one");
        peer.expect_end();
        assert_eq!(host.close_cause(), CloseCause::Vanished);
    });
}

fn vanishing_is_noticed(engine: Engine) {
    host(engine, config(|_| {}), polite, |host| {
        let mut peer = host.open();
        peer.echo("here");
        drop(peer);
        assert_eq!(host.close_cause(), CloseCause::Vanished);
        // In the closing handshake it is the answer that is missing.
        let mut peer = host.open();
        ask_for_the_end(&mut peer);
        drop(peer);
        assert_eq!(host.closes(2)[1], application());
    });
}

fn vanishing_in_a_message_is_vanishing(engine: Engine) {
    host(engine, config(|_| {}), polite, |host| {
        let whole = masked(TEXT, "x".repeat(300).as_bytes());
        let fragment = masked(0x01, b"begun");
        let mut parts = vec![&fragment[..]];
        parts.extend([1, 2, 3, 7, 8, 9, 200].map(|cut| &whole[..cut]));
        for (index, part) in parts.into_iter().enumerate() {
            let mut peer = host.open();
            peer.write(part);
            peer.shutdown_write();
            peer.expect_end();
            assert_eq!(host.closes(index + 1)[index], CloseCause::Vanished);
        }
    });
}

fn half_a_close_frame_is_none(engine: Engine) {
    host(engine, config(|_| {}), polite, |host| {
        let mut peer = host.open();
        let close = masked(CLOSE, &close_payload(1000, b"bye"));
        peer.write(&close[..close.len() - 1]);
        peer.shutdown_write();
        peer.expect_end();
        assert_eq!(host.close_cause(), CloseCause::Vanished);
    });
}

fn a_reset_is_a_broken_transport(engine: Engine) {
    host(engine, config(|_| {}), polite, |host| {
        let mut peer = host.open();
        peer.echo("here");
        peer.reset();
        let cause = CloseCause::Transport(Errno::CONNECTION_RESET);
        assert_eq!(host.close_cause(), cause);
        // With a reply on its way, sending or receiving may be the first to be told: the kernel
        // tells one of them, and the other finds an end.
        for index in 1..20 {
            let mut peer = host.open();
            peer.write(&masked(TEXT, "x".repeat(50_000).as_bytes()).repeat(index % 4 + 1));
            peer.reset();
            let cause = host.closes(index + 1).remove(index);
            let is_told = matches!(cause, CloseCause::Transport(_) | CloseCause::Vanished);
            assert!(is_told, "{cause:?}");
        }
    });
}

fn a_reset_while_closing_keeps_the_first_cause(engine: Engine) {
    host(engine, config(|_| {}), polite, |host| {
        let mut peer = host.open();
        ask_for_the_end(&mut peer);
        peer.reset();
        assert_eq!(host.close_cause(), application());
    });
}
