//! Any bytes as compressed messages, and any bytes compressed. What is read is what a decoder that
//! shares no code reads, and what is written keeps to its window.
//!
//! The first byte chooses windows and contexts, the second where the stream is cut.

use ringwire::proto::{
    Endpoint, Limits, Role,
    deflate::{Terms, negotiation::agree},
    frame::FrameHeader,
};

use crate::{
    Tally,
    inflate_reference::{inflate_message, inflate_tolerantly},
    side::{Seen, Side, TERMS},
};

const LIMITS: Limits = Limits {
    message_bytes_max: 1 << 16,
    message_fragments_max: 4,
    message_empty_fragments_max: 1,
};

const OFFERS: [&str; 4] = [
    "permessage-deflate",
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=8; server_no_context_takeover",
];

/// The compressed bit of a frame's first byte.
const RSV1: u8 = 0x40;

fn side(role: Role, offer: &str, terms: Terms) -> Side {
    let mut side = Side::with_terms(Endpoint::new(role), LIMITS, terms);
    side.compress(offer, &terms);
    side
}

/// A server's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 127];
    match payload.len() {
        len @ 0..126 => frame[1] = len as u8,
        len @ 126..0x1_0000 => {
            frame[1] = 126;
            frame.extend((len as u16).to_be_bytes());
        }
        len => frame.extend((len as u64).to_be_bytes()),
    }
    frame.extend(payload);
    frame
}

/// Inflates the bytes, and deflates them.
pub fn run(bytes: &[u8]) -> Tally {
    let mut tally = Tally::default();
    let [how, cut, payload @ ..] = bytes else {
        return tally;
    };
    let offer = OFFERS[usize::from(how & 3)];
    let terms = Terms {
        level: 1 + (how >> 2) % 9,
        ..TERMS
    };

    // What comes.
    let mut client = side(Role::Client, offer, terms);
    let stream = frame(0xc2, payload);
    let (one, other) = stream.split_at(usize::from(*cut).min(stream.len()));
    let mut seen = client.feed(one);
    seen.extend(client.feed(other));
    client.end();
    match &seen[..] {
        [Seen::Binary(message)] => {
            if !payload.is_empty() {
                assert_eq!(inflate_tolerantly(payload).as_ref(), Some(message));
            }
            tally.accepted += 1;
        }
        [Seen::Failed(_)] => tally.refused += 1,
        _ => panic!("one message, or what is wrong with it: {seen:?}"),
    }

    // What goes, twice, so that the second one may refer to the first.
    if payload.len() > 1 << 15 {
        return tally;
    }
    let agreed = agree([offer.as_bytes()].into_iter(), &terms).expect("a valid offer");
    let mut server = side(Role::Server, offer, terms);
    let mut client = side(Role::Client, offer, terms);
    let mut before = Vec::new();
    for _ in 0..2 {
        server.send(payload.into()).expect("an open connection");
        let mut sent = server.take_output();
        assert_eq!(client.feed(&sent), [Seen::Binary(payload.to_vec())]);
        if sent[0] & RSV1 != 0 {
            sent[0] &= !RSV1;
            let header = FrameHeader::decode(&sent, Role::Client);
            let (_, header_len) = header.expect("a valid header").expect("all of it");
            let found = inflate_message(&sent[header_len..], &before).expect("deflate");
            assert_eq!(found.bytes, payload);
            assert!(found.reach <= 1 << agreed.server_window_bits);
            assert!(found.blocks.iter().sum::<usize>() > 0);
        }
        if agreed.server_context_takeover {
            before = payload.to_vec();
        }
        tally.accepted += 1;
    }
    server.end();
    client.end();
    tally
}
