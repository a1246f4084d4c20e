//! Any bytes as compressed messages, and any bytes compressed. What is read is what a decoder that
//! shares no code reads, and what is written keeps to its window.
//!
//! The first byte chooses windows and contexts, the second where the stream is cut.

#![no_main]

#[path = "../../tests/proto/inflate.rs"]
mod inflate;

use inflate::inflate_tolerantly;
use libfuzzer_sys::fuzz_target;
use ringwire::proto::{
    Endpoint, Event, Limits, MessagePool, Role, VecSink,
    deflate::{Codec, Terms, negotiation::agree},
    endpoint::{Context, MaskingKeys},
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

/// An endpoint with what it borrows.
struct Side {
    endpoint: Endpoint,
    codec: Codec,
    pool: MessagePool,
    keys: MaskingKeys,
    sink: VecSink,
}

impl Side {
    fn new(role: Role, offer: &str, level: u8) -> Self {
        let terms = Terms {
            bytes_min: 126,
            level,
            window_bits: 15,
            context_takeover: true,
            inflate_window_bits: 15,
            inflate_context_takeover: true,
            inflate_ratio_max: 0,
            windows_bytes_max: usize::MAX,
        };
        let mut codec = Codec::new(terms);
        let agreed = agree([offer.as_bytes()].into_iter(), &terms).expect("a valid offer");
        let mut endpoint = Endpoint::new(role);
        endpoint.compress(&mut codec, &agreed);
        Self {
            endpoint,
            codec,
            pool: MessagePool::new(0),
            keys: MaskingKeys::new([0; 32]),
            sink: VecSink::default(),
        }
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Endpoint, &mut Context<'_, VecSink>) -> T) -> T {
        let mut context = Context {
            limits: &LIMITS,
            pool: &mut self.pool,
            keys: &mut self.keys,
            codec: &mut self.codec,
            sink: std::mem::take(&mut self.sink),
        };
        let result = call(&mut self.endpoint, &mut context);
        self.sink = context.sink;
        result
    }

    /// The messages in these bytes.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        self.call(|endpoint, context| {
            let (mut input, mut messages) = (&mut bytes[..], Vec::new());
            while let Some(event) = endpoint.receive(&mut input, context) {
                if let Event::Message { payload, .. } = event {
                    messages.push(payload.to_vec());
                    context.pool.reclaim(payload);
                }
            }
            messages
        })
    }
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

fuzz_target!(|bytes: &[u8]| {
    let [how, cut, payload @ ..] = bytes else {
        return;
    };
    let offer = OFFERS[usize::from(how & 3)];
    let level = 1 + (how >> 2) % 9;

    // What comes.
    let mut client = Side::new(Role::Client, offer, level);
    let stream = frame(0xc2, payload);
    let (one, other) = stream.split_at(usize::from(*cut).min(stream.len()));
    let mut messages = client.feed(one);
    messages.extend(client.feed(other));
    if let Some(message) = messages.first()
        && !payload.is_empty()
    {
        assert_eq!(inflate_tolerantly(payload).as_ref(), Some(message));
    }

    // What goes, twice, so that the second one may refer to the first.
    if payload.len() > 1 << 15 {
        return;
    }
    let mut server = Side::new(Role::Server, offer, level);
    let mut client = Side::new(Role::Client, offer, level);
    for _ in 0..2 {
        server
            .call(|endpoint, context| endpoint.send(payload.into(), context))
            .expect("an open connection");
        let sent = server.sink.written().to_vec();
        server.sink.clear();
        assert_eq!(client.feed(&sent), [payload]);
    }
});
