//! The idle timeout. Those of the opening and the closing handshake are with their handshakes.

use std::time::{Duration, Instant};

use ringwire::{CloseCause, Config, Timeout};

use crate::{
    common::TEXT,
    host::{Engine, Obedient, config, host, on_each_engine},
    peer::{PING, PONG},
};

on_each_engine! {
    a_pong_keeps_a_connection_alive
    a_silent_peer_is_pinged_at_half_and_dropped_at_the_full_timeout
    data_keeps_a_connection_alive
    without_an_idle_timeout_nobody_is_pinged
}

fn idle(timeout_ms: u64) -> Config {
    config(|config| config.idle_timeout_ms = timeout_ms)
}

/// The server keeps the time of a sign of life in whole milliseconds, so that a deadline may come
/// less than one early.
#[track_caller]
fn at_least(begun: Instant, ms: u64) {
    let elapsed = begun.elapsed();
    assert!(elapsed > Duration::from_millis(ms - 1), "{elapsed:?}");
}

fn a_silent_peer_is_pinged_at_half_and_dropped_at_the_full_timeout(engine: Engine) {
    host(engine, idle(600), Obedient::default, |host| {
        let begun = Instant::now();
        let mut peer = host.open();
        let ping = peer.read_frame();
        assert_eq!((ping.first, ping.payload.len()), (PING, 8));
        at_least(begun, 300);
        assert_eq!(host.counts().timeouts, 0);
        // It is dropped: no close frame is owed to nobody.
        peer.expect_end();
        at_least(begun, 600);
        assert_eq!(host.close_cause(), CloseCause::Timeout(Timeout::Idle));
        host.expect_count(1, |counts| counts.timeouts);
        // A message in between puts both off.
        let mut peer = host.open();
        assert_eq!(peer.read_frame().first, PING);
        let begun = Instant::now();
        peer.echo("here");
        assert_eq!(peer.read_frame().first, PING);
        at_least(begun, 300);
        peer.expect_end();
        at_least(begun, 600);
    });
}

fn a_pong_keeps_a_connection_alive(engine: Engine) {
    host(engine, idle(1000), Obedient::default, |host| {
        let begun = Instant::now();
        let mut peer = host.open();
        for _ in 0..4 {
            let ping = peer.read_frame();
            assert_eq!(ping.first, PING);
            peer.send(PONG, &ping.payload);
        }
        at_least(begun, 2000);
        peer.echo("still here");
        peer.close();
    });
}

fn data_keeps_a_connection_alive(engine: Engine) {
    host(engine, idle(1000), Obedient::default, |host| {
        let begun = Instant::now();
        let mut peer = host.open();
        // A message, part of a message, a ping: whatever comes is a sign of life.
        assert_eq!(peer.read_frame().first, PING);
        peer.echo("here");
        assert_eq!(peer.read_frame().first, PING);
        peer.write(&[TEXT]);
        assert_eq!(peer.read_frame().first, PING);
        peer.write(&[0x80, 0, 0, 0, 0]);
        peer.expect_text("");
        assert_eq!(peer.read_frame().first, PING);
        peer.send(PING, b"you too");
        assert_eq!(peer.read_frame().first, PONG);
        at_least(begun, 2000);
        peer.close();
    });
}

fn without_an_idle_timeout_nobody_is_pinged(engine: Engine) {
    host(engine, idle(0), Obedient::default, |host| {
        let mut quiet = host.open();
        let window = Duration::from_millis(300);
        quiet.stream.set_read_timeout(Some(window)).unwrap();
        assert!(quiet.try_read_frame().is_err(), "a ping");
        quiet
            .stream
            .set_read_timeout(Some(crate::common::PATIENCE))
            .unwrap();
        quiet.echo("still here");
        quiet.close();
    });
}
