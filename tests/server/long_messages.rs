//! Messages that lie in several receives, between others that lie in one: the connection is
//! received from in another way then, and nobody can tell.

use std::thread;

use ringwire::{CloseCause, ProtocolError, service::Echo};

use crate::{
    common::{BINARY, Frame, Peer, TEXT, masked},
    host::{Engine, config, host, on_each_engine},
    peer::{FIN, Prng, until},
};

on_each_engine! {
    a_long_message_that_stops_in_the_middle_is_late
    bad_text_is_found_in_the_middle_of_a_long_message
    long_and_short_messages_come_back_in_order
    long_messages_wait_for_memory_that_others_have
}

const KIB: usize = 1024;

/// Writes them while somebody else reads.
fn writes(peer: &Peer, frames: Vec<Vec<u8>>) -> thread::JoinHandle<()> {
    let mut writer = peer.writer();
    thread::spawn(move || {
        for frame in frames {
            writer.write(&frame);
        }
    })
}

fn long_and_short_messages_come_back_in_order(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let talks: Vec<_> = (0..4)
                .map(|seed| {
                    let mut prng = Prng::new(seed);
                    let mut peer = host.open();
                    let mut lengths = vec![20; 5];
                    for round in 0..6 {
                        // Around the receive buffers and the large ones, and far beyond them.
                        let long = [64, 70, 128, 300, 512, 3000][round] * KIB;
                        lengths.extend([long, long + prng.below(20), prng.below(200), long]);
                        // Enough of them that it is received from as before again.
                        lengths.extend((0..10 * (round % 3)).map(|_| prng.below(300)));
                    }
                    let payloads: Vec<_> = lengths.iter().map(|&len| prng.bytes(len)).collect();
                    let frames = payloads.iter().map(|it| masked(BINARY, it)).collect();
                    thread::spawn(move || {
                        let writing = writes(&peer, frames);
                        for payload in payloads {
                            let frame = peer.read_message();
                            assert_eq!((frame.first, frame.payload.len()), (BINARY, payload.len()));
                            assert!(frame.payload == payload, "{} bytes differ", payload.len());
                        }
                        writing.join().unwrap();
                        peer.close();
                    })
                })
                .collect();
            for talk in talks {
                talk.join().unwrap();
            }
            assert!(host.counts().recv_large > 4 * 20, "{:?}", host.counts());
        },
    );
}

fn long_messages_wait_for_memory_that_others_have(engine: Engine) {
    const MESSAGES: usize = 6;
    let small = config(|config| {
        config.recv_buffers = 1;
        config.recv_buffer_bytes = 16 << 10;
        config.recv_large_buffer_bytes = 20 << 10;
        config.busy_poll_us = 50;
    });
    host(
        engine,
        small,
        || Echo,
        |host| {
            let text = "\u{e9}".repeat(150 * KIB);
            let mut peers: Vec<_> = (0..12).map(|_| host.open()).collect();
            let frame = masked(TEXT, text.as_bytes());
            let writing: Vec<_> = peers
                .iter()
                .map(|peer| writes(peer, vec![frame.clone(); MESSAGES]))
                .collect();
            for _ in 0..MESSAGES {
                for peer in &mut peers {
                    peer.expect_text(&text);
                }
            }
            writing.into_iter().for_each(|it| it.join().unwrap());
            assert!(host.counts().recv_large > 12, "{:?}", host.counts());
            peers.into_iter().for_each(Peer::close);
        },
    );
}

fn bad_text_is_found_in_the_middle_of_a_long_message(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let mut peer = host.open();
            let mut text = vec![b'a'; 900 * KIB];
            text[800 * KIB] = 0xff;
            let frame = masked(TEXT, &text);
            // The rest is never sent: it is not waited for.
            let writing = writes(&peer, vec![frame[..850 * KIB].to_vec()]);
            peer.expect_close(1007);
            writing.join().unwrap();
            peer.expect_end();
            drop(peer);
            assert_eq!(
                host.close_cause(),
                CloseCause::Protocol(ProtocolError::TextNotUtf8)
            );
        },
    );
}

fn a_long_message_that_stops_in_the_middle_is_late(engine: Engine) {
    let hasty = config(|config| config.idle_timeout_ms = 400);
    host(
        engine,
        hasty,
        || Echo,
        |host| {
            let mut peer = host.open();
            let part = Frame {
                first: BINARY & !FIN,
                payload: vec![7; 400 * KIB],
            };
            peer.write(&masked(part.first, &part.payload));
            peer.write(&masked(0x80, &part.payload)[..200 * KIB]);
            until("it is dropped", || host.counts().timeouts > 0);
            peer.expect_gone();
        },
    );
}
