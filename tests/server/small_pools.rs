//! Receive memory so small that it runs out all the time: slower, and not a byte is lost.

use std::{
    io::{ErrorKind, Write},
    sync::{Arc, Barrier},
    thread,
    time::Instant,
};

use ringwire::{Config, RingKind};

use crate::{
    common::{BINARY, PATIENCE, Peer, TEXT, masked},
    host::{Engine, Obedient, config, host, ring},
    peer::{FIN, Prng},
};

const CONNECTIONS: u64 = 50;
const ROUNDS: usize = 20;
const MESSAGES: usize = 8;
const MESSAGE_BYTES_MAX: usize = 200_000;

fn pool(buffers: u16, incremental: bool) -> Config {
    config(|config| {
        config.recv_buffers = buffers;
        config.recv_buffer_bytes = 256;
        config.recv_incremental = incremental;
        config.send_in_place_bytes_min = 100;
    })
}

/// Mostly short, now and then as long as they get.
fn length(prng: &mut Prng) -> usize {
    let scale = [10, 300, 3_000, 20_000, MESSAGE_BYTES_MAX][prng.below(5).min(prng.below(6))];
    1 + prng.below(scale)
}

/// Short messages, which all connections send in the same instant: more than the pool has room for.
fn converse_together(peer: &mut Peer, together: &Barrier) {
    for round in 0..ROUNDS {
        let text = [b'a' + round as u8; 100];
        together.wait();
        peer.send(TEXT, &text);
        peer.expect_text(str::from_utf8(&text).unwrap());
    }
}

/// Sends messages, cut into frames and segments as the seed says, and reads them back.
fn converse(mut peer: Peer, seed: u64) {
    let mut prng = Prng::new(seed);
    for index in 0..MESSAGES {
        // Every connection has one message that is as long as they get.
        let len = if index == 3 {
            MESSAGE_BYTES_MAX
        } else {
            length(&mut prng)
        };
        let payload = prng.bytes(len);
        let cut = prng.below(len + 1);
        let bytes = match prng.below(3) {
            0 => {
                let (begin, end) = payload.split_at(cut);
                [masked(0x02, begin), masked(FIN, end)].concat()
            }
            _ => masked(BINARY, &payload),
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = [3, 100, 1_000, 100_000][prng.below(4)];
            let (segment, later) = rest.split_at(rest.len().min(1 + prng.below(most)));
            peer.write(segment);
            rest = later;
        }
        let frame = peer.read_message();
        assert!(
            frame.first == BINARY && frame.payload == payload,
            "message {index} of {len} bytes of connection {seed} differs"
        );
    }
    peer.send(TEXT, b"done");
    peer.expect_text("done");
    peer.close();
}

fn everything_comes_back(engine: Engine, buffers: u16, incremental: bool) {
    host(
        engine,
        pool(buffers, incremental),
        Obedient::default,
        |host| {
            let together = Arc::new(Barrier::new(CONNECTIONS as usize));
            let threads: Vec<_> = (0..CONNECTIONS)
                .map(|seed| {
                    let mut peer = host.open();
                    let together = Arc::clone(&together);
                    thread::spawn(move || {
                        converse_together(&mut peer, &together);
                        converse(peer, seed + 100 * u64::from(buffers));
                    })
                })
                .collect();
            for thread in threads {
                assert!(thread.join().is_ok());
            }
            let counts = host.counts();
            // On epoll a receive follows when the one before was looked at: what runs out there is
            // up to `tests/ring`.
            let runs_out = ring() == RingKind::Uring;
            assert!(
                counts.recv_starved > 0 || !runs_out,
                "the pool never ran out"
            );
            assert!(counts.messages_sent_in_place > 0, "everything was copied");
        },
    );
}

#[test]
fn one_buffer_used_up_whole() {
    everything_comes_back(Engine::Shard, 1, false);
}

#[test]
fn one_buffer_filled_piece_by_piece() {
    everything_comes_back(Engine::Shard, 1, true);
}

#[test]
fn two_buffers_used_up_whole() {
    everything_comes_back(Engine::Shard, 2, false);
}

#[test]
fn two_buffers_filled_piece_by_piece() {
    everything_comes_back(Engine::Shard, 2, true);
}

#[test]
fn two_buffers_on_each_of_two_shards() {
    everything_comes_back(Engine::Server, 2, true);
}

/// Sends a frame over and over, and reads nothing, until the server reads no more.
fn fill(peer: &Peer, frame: &[u8], paused: impl Fn() -> bool) {
    let mut writer = peer.stream.try_clone().unwrap();
    writer.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    let mut at = 0;
    while !paused() {
        assert!(Instant::now() < deadline, "the server goes on reading");
        match writer.write(&frame[at..]) {
            Ok(count) => at = (at + count) % frame.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    writer.set_nonblocking(false).unwrap();
}

#[test]
fn who_does_not_read_keeps_no_receive_memory_from_others() {
    let config = config(|config| {
        config.recv_buffers = 4;
        config.recv_buffer_bytes = 16 * 1024;
        config.send_in_place_bytes_min = 1024;
        config.queue_high_bytes = 100_000;
        config.queue_low_bytes = 10_000;
    });
    host(Engine::Shard, config, Obedient::default, |host| {
        let frame = masked(BINARY, &[7; 8 * 1024]);
        let deaf: Vec<_> = (0..8)
            .map(|_| {
                let peer = host.open();
                let before = host.counts().reads_paused;
                fill(&peer, &frame, || host.counts().reads_paused > before);
                peer
            })
            .collect();
        assert!(host.counts().messages_sent_in_place > 0);
        // All of the pool is there for those who read.
        converse(host.open(), 1);
        drop(deaf);
    });
}
