//! An endpoint with everything it borrows, and what it reported so far.

use std::collections::BTreeMap;

use ringwire::{
    CloseCode, MessageKind, ProtocolError, SendError,
    proto::{
        Endpoint, Event, Limits, MessagePool, Role, VecSink,
        deflate::{Codec, Terms, negotiation::agree},
        endpoint::{Batch, Context, Control, MaskingKeys},
        message::Outgoing,
    },
};

use crate::Prng;

/// An event that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Failed(ProtocolError),
}

pub const LIMITS: Limits = Limits {
    message_bytes_max: 1 << 20,
    message_fragments_max: 1000,
    message_empty_fragments_max: 100,
};

pub const TERMS: Terms = Terms {
    bytes_min: 126,
    bytes_max: usize::MAX,
    level: 6,
    window_bits: 15,
    context_takeover: true,
    inflate_window_bits: 15,
    inflate_context_takeover: true,
    inflate_ratio_max: 0,
    windows_bytes_max: 1 << 30,
};

pub struct Side {
    pub endpoint: Endpoint,
    pub limits: Limits,
    pub pool: MessagePool,
    keys: MaskingKeys,
    pub codec: Codec,
    sink: VecSink,
    pub seen: Vec<Seen>,
    batches: bool,
    /// Calls that it took so far, if it receives step by step.
    pub calls: Option<u32>,
}

impl Side {
    pub fn new(role: Role) -> Self {
        Self {
            endpoint: Endpoint::new(role),
            limits: LIMITS,
            pool: MessagePool::new(1 << 20),
            keys: MaskingKeys::new([9; 32]),
            codec: Codec::new(TERMS),
            sink: VecSink::default(),
            seen: Vec::new(),
            batches: false,
            calls: None,
        }
    }

    /// One that takes whole messages in batches first, as a shard does.
    pub fn in_batches(role: Role) -> Self {
        Self {
            batches: true,
            ..Self::new(role)
        }
    }

    /// One that agreed on compression with a client that offered this.
    pub fn compressing(role: Role, offer: &str) -> Self {
        let mut side = Self::in_batches(role);
        side.compress(offer);
        side
    }

    /// From here on it compresses as was agreed on with a client that offered this.
    pub fn compress(&mut self, offer: &str) {
        let agreed = agree([offer.as_bytes()].into_iter(), &TERMS).expect("a valid offer");
        self.endpoint.compress(&mut self.codec, &agreed);
    }

    /// From here on it receives step by step, as a shard does, and a step of inflating costs so
    /// many nanoseconds.
    pub const fn in_steps(&mut self, step_ns: u64) {
        self.calls = Some(0);
        self.codec.set_inflate_step_ns(step_ns);
    }

    /// Both ways of receiving.
    pub fn both(role: Role) -> [Self; 2] {
        [Self::new(role), Self::in_batches(role)]
    }

    fn call<T>(&mut self, call: impl FnOnce(&mut Endpoint, &mut Context<'_, VecSink>) -> T) -> T {
        let mut context = Context {
            limits: &self.limits,
            pool: &mut self.pool,
            keys: &mut self.keys,
            codec: &mut self.codec,
            sink: std::mem::take(&mut self.sink),
        };
        let result = call(&mut self.endpoint, &mut context);
        self.sink = context.sink;
        result
    }

    /// Receives these bytes in pieces of random lengths.
    pub fn feed_in_pieces(&mut self, bytes: &[u8], prng: &mut Prng) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let most = [1, 2, 9, 200, 10_000][prng.below(5)];
            let (piece, later) = rest.split_at(1 + prng.below(rest.len().min(most)));
            self.feed(piece);
            rest = later;
        }
    }

    /// Receives these bytes, cut at these places. Returns the events and the output.
    pub fn run(mut self, bytes: &[u8], cuts: &[usize]) -> (Vec<Seen>, Vec<u8>) {
        let mut start = 0;
        for &cut in cuts.iter().chain([&bytes.len()]) {
            self.feed(&bytes[start..cut]);
            start = cut;
        }
        let output = self.take_output();
        let seen = std::mem::take(&mut self.seen);
        self.end();
        (seen, output)
    }

    /// Receives these bytes, as one piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let (batches, mut seen) = (self.batches, Vec::new());
        let mut calls = self.calls;
        let left = self.call(|endpoint, context| {
            let mut input = &mut bytes[..];
            let mut batch = Batch::new();
            loop {
                if batches {
                    let full = endpoint.receive_batch(&mut input, &mut batch, context);
                    for message in batch.messages() {
                        seen.push(message_seen(message.kind(), message.payload()));
                    }
                    if full {
                        continue;
                    }
                    if batch.is_failed() {
                        seen.push(Seen::Failed(endpoint.fail_text(context)));
                        break 0;
                    }
                }
                let event = match &mut calls {
                    None => endpoint.receive(&mut input, context),
                    Some(calls) => {
                        *calls += 1;
                        endpoint.receive_some(&mut input, &mut u32::MAX.clone(), context)
                    }
                };
                match event {
                    None if endpoint.is_inflating() => {}
                    None => break input.len(),
                    Some(event) => seen.push(event_seen(event, context.pool)),
                }
            }
        });
        assert_eq!(left, 0, "input was left over");
        self.calls = calls;
        self.seen.append(&mut seen);
    }

    /// Looks at these bytes once, without an event. Returns how many were looked at.
    pub fn begin(&mut self, bytes: &mut [u8]) -> usize {
        let len = bytes.len();
        self.call(|endpoint, context| {
            let mut input = bytes;
            let event = endpoint.receive_some(&mut input, &mut 256, context);
            assert!(event.is_none(), "{event:?}");
            len - input.len()
        })
    }

    pub fn send<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Result<(), SendError> {
        self.call(|endpoint, context| endpoint.send(message.into(), context))
    }

    pub fn send_fragmented<'m>(
        &mut self,
        message: impl Into<Outgoing<'m>>,
        bytes: usize,
    ) -> Result<(), SendError> {
        self.call(|endpoint, context| endpoint.send_fragmented(&message.into(), bytes, context))
    }

    pub fn control(&mut self, control: Control, payload: &[u8]) -> Result<(), SendError> {
        self.call(|endpoint, context| endpoint.send_control(control, payload, context))
    }

    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.call(|endpoint, context| endpoint.close(code, reason, context))
    }

    /// What was written since this was last asked.
    pub fn take_output(&mut self) -> Vec<u8> {
        let output = self.sink.written().to_vec();
        self.sink.clear();
        output
    }

    /// Ends the connection: no buffer of the pool may be left out then.
    pub fn end(&mut self) {
        self.endpoint.release(&mut self.pool, &mut self.codec);
        self.endpoint.leave(&mut self.codec);
        assert_eq!(self.codec.tally().windows_bytes, 0, "windows are left");
        assert_eq!(
            self.pool.out(),
            0,
            "message buffers are not back in the pool"
        );
    }
}

fn message_seen(kind: MessageKind, payload: &[u8]) -> Seen {
    match kind {
        MessageKind::Binary => Seen::Binary(payload.to_vec()),
        // Whoever hands out text that is not UTF-8 fails here.
        MessageKind::Text => Seen::Text(String::from_utf8(payload.to_vec()).expect("UTF-8")),
    }
}

fn event_seen(event: Event<'_>, pool: &mut MessagePool) -> Seen {
    match event {
        Event::Message { kind, payload } => {
            let seen = message_seen(kind, &payload);
            pool.reclaim(payload);
            seen
        }
        Event::Ping(payload) => {
            let seen = Seen::Ping(payload.to_vec());
            pool.reclaim(payload);
            seen
        }
        Event::Pong(payload) => {
            let seen = Seen::Pong(payload.to_vec());
            pool.reclaim(payload);
            seen
        }
        Event::Close(frame) => {
            let seen = Seen::Close(frame.code.map(CloseCode::number), frame.reason().to_owned());
            pool.reclaim(frame.payload);
            seen
        }
        Event::Failed(error) => Seen::Failed(error),
    }
}

/// How the streams of a test ended, so that it can tell that every way occurred.
#[derive(Default)]
pub struct Ends {
    whole: u32,
    closed: u32,
    /// How often each violation was the end, by its name.
    pub failed: BTreeMap<String, u32>,
}

impl Ends {
    /// Adds the stream with these events.
    pub fn add(&mut self, seen: &[Seen]) {
        match seen.last() {
            Some(Seen::Failed(error)) => {
                let name = format!("{error:?}");
                let name = name.split('(').next().unwrap_or_default().to_owned();
                *self.failed.entry(name).or_insert(0) += 1;
            }
            Some(Seen::Close(..)) => self.closed += 1,
            _ => self.whole += 1,
        }
    }

    /// Many streams ended by themselves, and many with a close frame.
    #[track_caller]
    pub fn expect_many(&self) {
        let Self { whole, closed, .. } = self;
        assert!(
            *whole > 500 && *closed > 500,
            "{whole} whole, {closed} closed"
        );
    }
}
