//! Whoever gets on is not dropped, and whoever does not is: judged by what a peer really did.

use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringwire::{CloseCause, CloseCode, Config, Timeout};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::{
    common::{BINARY, PATIENCE, Peer, TEXT, masked},
    guard::in_a_folder,
    host::{Engine, Host, Obedient, config, host, host_at, on_each_engine, on_each_plain_engine},
    peer::{CLOSE, PING, PONG, close_payload, pause, until},
};

on_each_engine! {
    a_message_that_comes_slowly_and_steadily_passes
    a_message_that_drips_ends_however_it_drips
    a_message_that_stands_still_ends_with_1008
    short_messages_that_are_cut_are_never_late
    without_a_message_timeout_a_message_may_stand_still
}

on_each_plain_engine! {
    a_message_is_not_late_while_nothing_is_received_from_its_peer
    a_peer_that_takes_nothing_is_dropped_in_time
    a_slow_reader_is_not_idle
    what_is_read_after_a_close_has_its_time
    what_is_read_after_a_close_of_the_peer_has_its_time
    who_reads_too_little_after_a_close_is_dropped
}

const MIB: usize = 1 << 20;

/// Messages have so many milliseconds, and nothing else has a deadline.
fn message_timeout(timeout_ms: u64) -> Config {
    config(|config| {
        config.message_timeout_ms = timeout_ms;
        config.idle_timeout_ms = 0;
    })
}

/// An echo that sends much when it is asked to.
fn generous() -> Obedient {
    Obedient::default()
        .on("flood", |conn| {
            conn.send(Bytes::from(vec![7; 3 * MIB])).unwrap();
        })
        .on("flood and close", |conn| {
            conn.send(Bytes::from(vec![7; 6 * MIB])).unwrap();
            conn.close(CloseCode::new(4000).unwrap(), "").unwrap();
        })
}

/// A peer whose kernel takes little that it does not read.
fn small_peer(host: &Host) -> Peer {
    let peer = host.connect();
    set_socket_recv_buffer_size(&peer.stream, 64 << 10).unwrap();
    open(peer)
}

fn open(mut peer: Peer) -> Peer {
    peer.write(crate::common::request("/").as_bytes());
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    peer
}

/// Reads until `total` bytes have come, so many at a time, and with a pause in between.
fn read_slowly(peer: &mut Peer, total: usize, at_once: usize, pause_ms: u64) {
    let mut bytes = vec![0; at_once];
    while peer.pending.len() - peer.start < total {
        let read = peer.stream.read(&mut bytes);
        let count = read.expect("the connection is there");
        assert!(count > 0, "ended after {} bytes", peer.pending.len());
        peer.pending.extend_from_slice(&bytes[..count]);
        pause(pause_ms);
    }
}

fn late() -> CloseCause {
    CloseCause::Timeout(Timeout::Message)
}

#[track_caller]
fn expect_late(peer: &mut Peer) {
    assert_eq!(peer.expect_close(1008), "a message took too long");
}

fn a_message_that_stands_still_ends_with_1008(engine: Engine) {
    let whole = masked(BINARY, &[1; 100_000]);
    let begun = masked(0x01, b"begun");
    let empty = masked(0x01, b"");
    let ping = masked(PING, b"ping");
    let mut cases = [1, 3, 9, 10, 13, 14, 15, 50_000]
        .map(|cut| whole[..cut].to_vec())
        .to_vec();
    cases.extend([
        begun.clone(),
        empty.clone(),
        ping[..3].to_vec(),
        ping[..8].to_vec(),
    ]);
    cases.push([&begun[..], &ping].concat());
    cases.push([&empty[..], &masked(0x80, b"more")[..7]].concat());
    host(engine, message_timeout(300), Obedient::default, |host| {
        let mut peers: Vec<_> = cases.iter().map(|_| host.open()).collect();
        let written = Instant::now();
        for (peer, case) in peers.iter_mut().zip(&cases) {
            peer.write(case);
        }
        for (mut peer, case) in peers.into_iter().zip(&cases) {
            let first = peer.read_frame();
            if first.first == PONG {
                expect_late(&mut peer);
            } else {
                let expected = close_payload(1008, b"a message took too long");
                let start = &case[..case.len().min(20)];
                assert_eq!((first.first, first.payload), (CLOSE, expected), "{start:?}");
            }
            peer.expect_end();
        }
        let elapsed = written.elapsed();
        assert!(elapsed >= Duration::from_millis(299), "{elapsed:?}");
        let causes = host.closes(cases.len());
        assert!(causes.iter().all(|cause| *cause == late()), "{causes:?}");
        host.expect_count(cases.len() as u64, |counts| counts.timeouts);
        assert_eq!(host.counts().protocol_errors, 0);
        let said = "failed with 1008: a message did not get on within message_timeout_ms";
        assert_eq!(late().to_string(), said);
    });
}

/// Drips until the server has enough of it.
fn drip_until_late(peer: &mut Peer, mut drip: impl FnMut(&mut Peer)) {
    let mut reader = peer.writer();
    let patience = Some(Duration::from_millis(20));
    reader.stream.set_read_timeout(patience).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        drip(peer);
        loop {
            match reader.try_read_frame() {
                Ok(frame) if frame.first == PONG => {}
                Ok(frame) => {
                    let expected = close_payload(1008, b"a message took too long");
                    return assert_eq!((frame.first, frame.payload), (CLOSE, expected));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("it ended otherwise: {error}"),
            }
        }
        assert!(Instant::now() < deadline, "it is there still");
    }
}

fn a_message_that_drips_ends_however_it_drips(engine: Engine) {
    host(engine, message_timeout(300), Obedient::default, |host| {
        // A byte at a time of much.
        let mut peer = host.open();
        peer.write(&masked(BINARY, &[1; 16 * MIB])[..14]);
        drip_until_late(&mut peer, |peer| peer.write(b"x"));
        drop(peer);
        // In fragments of one byte, and in empty ones.
        for payload in [&b"x"[..], b""] {
            let mut peer = host.open();
            peer.write(&masked(0x01, payload));
            drip_until_late(&mut peer, |peer| peer.write(&masked(0x00, payload)));
        }
        // Much comes, but not of the message.
        let mut peer = host.open();
        peer.write(&masked(0x01, b"begun"));
        let pings = masked(PING, &[b'p'; 125]).repeat(50);
        drip_until_late(&mut peer, |peer| peer.write(&pings));
        drop(peer);
        let causes = host.closes(4);
        assert!(causes.iter().all(|cause| *cause == late()), "{causes:?}");
    });
}

fn a_message_that_comes_slowly_and_steadily_passes(engine: Engine) {
    host(engine, message_timeout(800), Obedient::default, |host| {
        let payload = vec![b'x'; 320_000];
        let whole = masked(BINARY, &payload);
        let fragments: Vec<Vec<u8>> = (0..20)
            .map(|index| {
                let first = match index {
                    0 => 0x02,
                    19 => 0x80,
                    _ => 0x00,
                };
                masked(first, &payload[..16_000])
            })
            .collect();
        let pieces: Vec<Vec<u8>> = whole.chunks(16_000).map(<[u8]>::to_vec).collect();
        for pieces in [pieces, fragments] {
            let mut peer = host.open();
            for piece in pieces {
                peer.write(&piece);
                pause(100);
            }
            let frame = peer.read_message();
            assert!(frame.first == BINARY && frame.payload == payload);
            peer.close();
        }
        assert_eq!(host.counts().timeouts, 0);
    });
}

fn short_messages_that_are_cut_are_never_late(engine: Engine) {
    host(engine, message_timeout(150), Obedient::default, |host| {
        let mut peer = host.open();
        let begun = Instant::now();
        let payload = vec![b'x'; 3000];
        // There is nearly always one in progress, and never the same one for long.
        for cut in (1..3000).cycle().step_by(97) {
            let message = masked(BINARY, &payload);
            peer.write(&message[..cut]);
            pause(15);
            peer.write(&message[cut..]);
            assert!(peer.read_message().payload == payload);
            if begun.elapsed() > Duration::from_millis(1500) {
                break;
            }
        }
        peer.close();
        assert_eq!(host.counts().timeouts, 0);
    });
}

fn without_a_message_timeout_a_message_may_stand_still(engine: Engine) {
    host(engine, message_timeout(0), Obedient::default, |host| {
        let mut peer = host.open();
        let message = masked(TEXT, b"in its own time");
        peer.write(&message[..9]);
        pause(700);
        peer.write(&message[9..]);
        peer.expect_text("in its own time");
        peer.close();
    });
}

fn a_message_is_not_late_while_nothing_is_received_from_its_peer(engine: Engine) {
    let config = config(|config| {
        config.message_timeout_ms = 300;
        config.idle_timeout_ms = 0;
        config.queue_high_bytes = 64 << 10;
        config.queue_low_bytes = 16 << 10;
    });
    host(engine, config, Obedient::default, |host| {
        let mut peer = small_peer(host);
        peer.write(&masked(0x01, b"half of it, "));
        // It asks for pongs and does not read them, until nothing is received from it any more.
        let mut writer = peer.writer();
        let pings = masked(PING, &[b'p'; 125]).repeat(100);
        let mut written = 0;
        writer.stream.set_nonblocking(true).unwrap();
        until("reading from it has paused", || {
            if let Ok(count) = writer.stream.write(&pings[written % pings.len()..]) {
                written += count;
            }
            host.counts().reads_paused > 0
        });
        writer.stream.set_nonblocking(false).unwrap();
        pause(1500);
        assert_eq!(host.counts().timeouts, 0);
        // It reads on, and ends what it has begun.
        let rest = pings[written % pings.len()..].to_vec();
        let writing = std::thread::spawn(move || {
            writer.write(&rest);
            writer.write(&masked(0x80, b"and the other half"));
        });
        let message = loop {
            let frame = peer.read_frame();
            if frame.first != PONG {
                break frame;
            }
        };
        writing.join().unwrap();
        assert_eq!(message.first, TEXT, "{message:?}");
        assert_eq!(message.payload, b"half of it, and the other half");
        peer.close();
        assert_eq!(host.counts().timeouts, 0);
    });
}

fn idle(timeout_ms: u64) -> Config {
    config(|config| config.idle_timeout_ms = timeout_ms)
}

fn read_a_flood_slowly(host: &Host) {
    let mut peer = small_peer(host);
    peer.send(TEXT, b"flood");
    read_slowly(&mut peer, 3 * MIB, 32 << 10, 50);
    let frame = peer.read_message();
    assert_eq!(frame.payload.len(), 3 * MIB);
    // It is pinged behind all that, at the latest now.
    peer.send(TEXT, b"still here");
    assert_eq!(peer.read_message().payload, b"still here");
    peer.close();
    assert_eq!(host.counts().timeouts, 0);
}

fn a_slow_reader_is_not_idle(engine: Engine) {
    host(engine, idle(1500), generous, read_a_flood_slowly);
}

#[test]
fn a_slow_reader_of_a_unix_socket_is_not_idle() {
    in_a_folder(|folder| {
        let path = format!("unix:{}", folder.join("socket").display());
        host_at(Engine::Shard, &[&path], idle(1000), generous, |host| {
            let mut peer = host.open();
            peer.send(TEXT, b"flood");
            read_slowly(&mut peer, 3 * MIB, 32 << 10, 50);
            assert_eq!(peer.read_message().payload.len(), 3 * MIB);
            peer.send(TEXT, b"still here");
            assert_eq!(peer.read_message().payload, b"still here");
            peer.close();
            assert_eq!(host.counts().timeouts, 0);
        });
    });
}

fn a_peer_that_takes_nothing_is_dropped_in_time(engine: Engine) {
    host(engine, idle(800), generous, |host| {
        let mut peer = small_peer(host);
        let begun = Instant::now();
        peer.send(TEXT, b"flood");
        assert_eq!(host.close_cause(), CloseCause::Timeout(Timeout::Idle));
        let elapsed = begun.elapsed();
        assert!(elapsed >= Duration::from_millis(799), "{elapsed:?}");
        assert!(elapsed < Duration::from_millis(2000), "{elapsed:?}");
    });
}

fn close_timeout(timeout_ms: u64) -> Config {
    config(|config| config.close_timeout_ms = timeout_ms)
}

fn what_is_read_after_a_close_has_its_time(engine: Engine) {
    host(engine, close_timeout(700), generous, |host| {
        let mut peer = small_peer(host);
        let begun = Instant::now();
        peer.send(TEXT, b"flood and close");
        read_slowly(&mut peer, 6 * MIB, 32 << 10, 15);
        assert!(begun.elapsed() > Duration::from_millis(2000), "too fast");
        assert_eq!(peer.read_message().payload.len(), 6 * MIB);
        peer.answer_close(4000);
        let cause = CloseCause::Application(CloseCode::new(4000).unwrap());
        assert_eq!(host.close_cause(), cause);
        assert_eq!(host.counts().timeouts, 0);
    });
}

fn what_is_read_after_a_close_of_the_peer_has_its_time(engine: Engine) {
    host(engine, close_timeout(500), generous, |host| {
        let mut peer = small_peer(host);
        let flood = masked(TEXT, b"flood");
        let close = masked(CLOSE, &close_payload(1000, b""));
        peer.write(&[&flood[..], &flood, &close].concat());
        read_slowly(&mut peer, 6 * MIB, 32 << 10, 15);
        for _ in 0..2 {
            assert_eq!(peer.read_message().payload.len(), 3 * MIB);
        }
        peer.expect_close(1000);
        peer.expect_end();
        assert!(matches!(host.close_cause(), CloseCause::Peer { .. }));
        assert_eq!(host.counts().timeouts, 0);
    });
}

fn who_reads_too_little_after_a_close_is_dropped(engine: Engine) {
    host(engine, close_timeout(400), generous, |host| {
        let mut peer = small_peer(host);
        let begun = Instant::now();
        peer.send(TEXT, b"flood and close");
        let mut bytes = [0; 100];
        while host.counts().timeouts == 0 {
            assert!(begun.elapsed() < PATIENCE, "it is there still");
            let _ = peer.stream.read(&mut bytes).expect("what has come");
            pause(20);
        }
        let elapsed = begun.elapsed();
        assert!(elapsed >= Duration::from_millis(399), "{elapsed:?}");
        assert!(elapsed < Duration::from_millis(3000), "{elapsed:?}");
        let cause = CloseCause::Application(CloseCode::new(4000).unwrap());
        assert_eq!(host.close_cause(), cause);
    });
}
