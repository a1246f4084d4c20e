//! Many short messages in one read. Those that go back as they came are written as runs, and nobody
//! can tell: whatever a service does in between keeps its place.

use ringwire::{CloseCode, Conn, Counts, Message, SendError, SendStatus, Service};

use crate::{
    common::{BINARY, Frame, Peer, TEXT, masked, request},
    guard::ON_PURPOSE,
    host::{Engine, Host, config, host, on_each_engine},
    peer::{FIN, PING, PONG, Prng, close_payload, until},
};

on_each_engine! {
    a_close_in_the_middle_ends_it_there
    a_panic_in_the_middle_keeps_what_was_sent_before
    a_queue_fills_up_in_the_middle
    whatever_is_sent_keeps_its_place
}

/// Messages in one read.
const MESSAGES: usize = 500;

const QUEUE_HIGH_BYTES: usize = 2_000;
const QUEUE_BYTES_MAX: usize = 3_000;

/// Does what the first byte of a message says.
struct Whims;

crate::host::boxed!(Whims);

impl Service for Whims {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let payload = message.payload();
        let queued = conn.queued_bytes();
        match payload.first() {
            Some(b'a') => {
                conn.send("another").unwrap();
            }
            Some(b'b') => {
                conn.send(message).unwrap();
                conn.send(payload).unwrap();
            }
            Some(b'c') => conn.close(CloseCode::NORMAL_CLOSURE, "enough").unwrap(),
            Some(b'f') => {
                conn.send_fragmented(message, 1).unwrap();
            }
            Some(b'n') => {}
            Some(b'p') => {
                conn.ping(b"?").unwrap();
            }
            Some(b'q') => match conn.send(message) {
                Ok(SendStatus::Flowing) => assert!(conn.queued_bytes() <= QUEUE_HIGH_BYTES + 2),
                Ok(SendStatus::Behind) => assert!(conn.queued_bytes() > QUEUE_HIGH_BYTES),
                Err(error) => {
                    assert_eq!(error, SendError::QueueFull);
                    assert_eq!(conn.queued_bytes(), queued);
                    assert!(queued + payload.len() > QUEUE_BYTES_MAX);
                }
            },
            Some(b't') => {
                conn.send(message).unwrap();
                conn.send(message).unwrap();
            }
            Some(b'!') => panic!("{ON_PURPOSE}: on_message"),
            _ => {
                conn.send(message).unwrap();
                let header_len = if payload.len() > 125 { 4 } else { 2 };
                assert_eq!(conn.queued_bytes(), queued + header_len + payload.len());
            }
        }
    }
}

/// What comes back for a message, but for the end of the connection.
fn answer(first: u8, payload: &[u8]) -> Vec<Frame> {
    let frame = |first: u8, payload: &[u8]| Frame {
        first,
        payload: payload.to_vec(),
    };
    let echo = frame(first, payload);
    match payload.first() {
        Some(b'a') => vec![frame(TEXT, b"another")],
        Some(b'b') => vec![echo, frame(BINARY, payload)],
        Some(b'f') => {
            let last = payload.len() - 1;
            let pieces = payload.chunks(1).enumerate().map(|(index, piece)| {
                let opcode = if index == 0 { first & 0x0f } else { 0 };
                frame(if index == last { FIN } else { 0 } | opcode, piece)
            });
            pieces.collect()
        }
        Some(b'n') => vec![],
        Some(b'p') => vec![frame(PING, b"?")],
        Some(b't') => vec![echo.clone(), echo],
        _ => vec![echo],
    }
}

/// Mostly echoes, of every length that is short and a few that are not.
fn message(prng: &mut Prng) -> (u8, Vec<u8>) {
    let len = match prng.below(20) {
        0 => prng.below(3),
        1 => 120 + prng.below(12),
        2 => 125 + prng.below(6_000),
        _ => prng.below(40),
    };
    let mut payload = vec![b'.'; len];
    for byte in &mut payload {
        *byte = b'0' + prng.below(40) as u8;
    }
    if let Some(first) = payload.first_mut() {
        *first = b"abfnpt............................."[prng.below(35)];
    }
    ([TEXT, BINARY][prng.below(2)], payload)
}

fn whatever_is_sent_keeps_its_place(engine: Engine) {
    whims(engine, |host| {
        let before = alone(host);
        let mut payload_bytes = 0;
        for seed in 0..20 {
            let mut peer = host.open();
            let mut prng = Prng::new(seed);
            let messages: Vec<_> = (0..MESSAGES).map(|_| message(&mut prng)).collect();
            let framed = messages
                .iter()
                .map(|(first, payload)| masked(*first, payload));
            let bytes = framed.collect::<Vec<_>>().concat();
            payload_bytes += messages
                .iter()
                .map(|(_, payload)| payload.len() as u64)
                .sum::<u64>();
            let mut writer = peer.writer();
            let cut = prng.below(bytes.len());
            let writing = std::thread::spawn(move || {
                writer.write(&bytes[..cut]);
                writer.write(&bytes[cut..]);
            });
            for (first, payload) in &messages {
                for expected in answer(*first, payload) {
                    assert_eq!(peer.read_frame(), expected, "seed {seed}");
                }
            }
            writing.join().unwrap();
            peer.close();
        }
        let messages = 20 * MESSAGES as u64;
        host.expect_count(before.messages_received + messages, |counts| {
            counts.messages_received
        });
        let after = host.counts();
        assert_eq!(
            after.payload_bytes_received - before.payload_bytes_received,
            payload_bytes
        );
        assert!(after.messages_sent_in_runs - before.messages_sent_in_runs > messages / 4);
    });
}

fn whims(engine: Engine, body: impl FnOnce(&Host)) {
    host(engine, config(|_| {}), || Whims, body);
}

/// What happens from here on is what the test does.
fn alone(host: &Host) -> Counts {
    host.dismiss_neighbour();
    // Its end is told to the service before it is counted.
    until("only the test is connected", || {
        host.stats().connections_open == 0
    });
    host.counts()
}

/// Writes a request and frames at once, and reads the answer to the request.
fn open_with(host: &Host, messages: &[&[u8]]) -> Peer {
    let mut peer = host.connect();
    let frames = messages.iter().map(|message| masked(TEXT, message));
    let bytes = [
        request("/").into_bytes(),
        frames.collect::<Vec<_>>().concat(),
    ]
    .concat();
    peer.write(&bytes);
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    peer
}

fn a_close_in_the_middle_ends_it_there(engine: Engine) {
    whims(engine, |host| {
        let before = alone(host);
        let mut peer = open_with(
            host,
            &[b".1", b".2", b".3", b".4", b".5", b"c", b".6", b".7"],
        );
        for text in [".1", ".2", ".3", ".4", ".5"] {
            peer.expect_text(text);
        }
        assert_eq!(peer.expect_close(1000), "enough");
        peer.send(FIN | 8, &close_payload(1000, b""));
        peer.expect_end();
        let after = host.counts();
        assert_eq!(after.messages_received - before.messages_received, 6);
        assert_eq!(after.messages_sent - before.messages_sent, 5);
        assert_eq!(after.payload_bytes_sent - before.payload_bytes_sent, 10);
        assert_eq!(
            after.messages_sent_in_runs - before.messages_sent_in_runs,
            5
        );
    });
}

fn a_panic_in_the_middle_keeps_what_was_sent_before(engine: Engine) {
    whims(engine, |host| {
        let before = alone(host);
        let mut peer = open_with(host, &[b".1", b".2", b".3", b".4", b"!", b".5"]);
        for text in [".1", ".2", ".3", ".4"] {
            peer.expect_text(text);
        }
        peer.expect_close(1011);
        let after = host.counts();
        assert_eq!(
            after.messages_sent_in_runs - before.messages_sent_in_runs,
            4
        );
    });
}

fn a_queue_fills_up_in_the_middle(engine: Engine) {
    let config = config(|config| {
        config.message_bytes_max = 500;
        config.queue_low_bytes = QUEUE_HIGH_BYTES / 2;
        config.queue_high_bytes = QUEUE_HIGH_BYTES;
        config.queue_bytes_max = QUEUE_BYTES_MAX;
    });
    host(
        engine,
        config,
        || Whims,
        |host| {
            let before = alone(host);
            let mut prng = Prng::new(7);
            let payloads: Vec<_> = (0..100)
                .map(|_| [b"q", &prng.bytes(99)[..]].concat())
                .collect();
            let frames = payloads.iter().map(|payload| masked(BINARY, payload));
            let request = request("/").into_bytes();
            let mut peer = host.connect();
            peer.write(&[request, frames.collect::<Vec<_>>().concat()].concat());
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            // What did not fit is missing, and nothing else is.
            host.expect_count(before.messages_received + 100, |counts| {
                counts.messages_received
            });
            peer.send(PING, b"last");
            let mut echoed = Vec::new();
            loop {
                let frame = peer.read_frame();
                if frame.first == PONG {
                    break;
                }
                echoed.push(frame.payload);
            }
            let counts = host.counts();
            assert_eq!(
                counts.messages_sent - before.messages_sent,
                echoed.len() as u64
            );
            assert_eq!(
                counts.payload_bytes_sent - before.payload_bytes_sent,
                100 * echoed.len() as u64
            );
            assert!(counts.messages_sent_in_runs > before.messages_sent_in_runs);
            assert!(
                (QUEUE_HIGH_BYTES / 102..100).contains(&echoed.len()),
                "{}",
                echoed.len()
            );
            let mut sent = payloads.iter();
            for payload in &echoed {
                assert!(
                    sent.any(|sent| sent == payload),
                    "out of order, or never sent"
                );
            }
        },
    );
}
