//! Random streams, whole and broken, in random pieces, against the reference.

use ringwire::proto::{Limits, Role};

use crate::{
    Prng,
    reference::decode,
    side::{Ends, Side},
    wire::*,
};

const SEEDS: u64 = 6_000;

const LIMITS: Limits = Limits {
    message_bytes_max: 2_000,
    message_fragments_max: 12,
    message_empty_fragments_max: 3,
};

fn payload(prng: &mut Prng, text: bool) -> Vec<u8> {
    let len = [0, 1, 3, 125, 126, 127, 300, 1_000][prng.below(8)];
    if text {
        prng.text(len).into_bytes()
    } else {
        prng.bytes(len)
    }
}

fn control(prng: &mut Prng, sender: Role, stream: &mut Vec<u8>) {
    let len = [0, 1, 124, 125][prng.below(4)];
    let payload = prng.bytes(len);
    let first = FIN | if prng.below(2) == 0 { PING } else { PONG };
    stream.extend(frame(sender, first, &payload));
}

/// A stream that keeps to the RFC, if not to the limits.
fn stream(prng: &mut Prng, sender: Role) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..1 + prng.below(6) {
        let text = prng.below(2) == 0;
        let opcode = if text { TEXT } else { BINARY };
        let payload = payload(prng, text);
        if prng.below(3) > 0 {
            stream.extend(frame(sender, FIN | opcode, &payload));
            continue;
        }
        let mut rest = &payload[..];
        let mut first = opcode;
        loop {
            // Fragments may cut characters, and may be empty.
            let (part, later) = rest.split_at(prng.below(rest.len() + 1));
            rest = later;
            let last = rest.is_empty() && prng.below(2) == 0;
            stream.extend(frame(sender, first | if last { FIN } else { 0 }, part));
            first = CONTINUATION;
            if last {
                break;
            }
            if prng.below(4) == 0 {
                control(prng, sender, &mut stream);
            }
        }
        if prng.below(4) == 0 {
            control(prng, sender, &mut stream);
        }
    }
    if prng.below(2) == 0 {
        let payload = close_payload(1000 + prng.below(20) as u16, &prng.text(9));
        stream.extend(frame(sender, FIN | CLOSE, &payload));
    }
    stream
}

#[test]
fn random_pieces_give_what_the_reference_reads() {
    let mut ends = Ends::default();
    for seed in 0..SEEDS {
        let prng = &mut Prng(seed);
        let role = if prng.below(2) == 0 {
            Role::Client
        } else {
            Role::Server
        };
        let mut bytes = stream(prng, other(role));
        for _ in 0..[0, 0, 1, 3][prng.below(4)] {
            let at = prng.below(bytes.len());
            match prng.below(3) {
                0 => bytes[at] ^= 1 << prng.below(8),
                1 => bytes.insert(at, prng.draw() as u8),
                _ => bytes.truncate(at + 1),
            }
        }
        let expected = decode(role, &LIMITS, &bytes);
        for mut side in Side::both(role) {
            side.limits = LIMITS;
            side.feed_in_pieces(&bytes, prng);
            assert_eq!(side.seen, expected, "seed {seed}");
            side.end();
        }
        ends.add(&expected);
    }
    ends.expect_many();
    // Every violation but the one of a length that random bytes do not reach has to occur.
    assert!(
        ends.failed.len() >= 15,
        "only these violations occurred: {:?}",
        ends.failed
    );
}
