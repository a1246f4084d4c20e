//! An endpoint with everything it borrows, and what it reported so far.

use ringwire::{
    CloseCode, MessageKind, ProtocolError, SendError,
    proto::{
        Endpoint, Event, Limits, MessagePool, Role, VecSink,
        deflate::{Codec, Terms, negotiation::agree},
        endpoint::{Batch, Context, Control, MaskingKeys},
        message::Outgoing,
    },
};

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

/// No limits but those of an input's length.
pub const WIDE: Limits = Limits {
    message_bytes_max: 1 << 20,
    message_fragments_max: u32::MAX,
    message_empty_fragments_max: u32::MAX,
};

/// Limits that an input can reach.
pub const NARROW: Limits = Limits {
    message_bytes_max: 300,
    message_fragments_max: 8,
    message_empty_fragments_max: 2,
};

/// What an endpoint says about compression.
pub const TERMS: Terms = Terms {
    bytes_min: 126,
    bytes_max: usize::MAX,
    level: 6,
    window_bits: 15,
    context_takeover: true,
    inflate_window_bits: 15,
    inflate_context_takeover: true,
    inflate_ratio_max: 0,
    windows_bytes_max: usize::MAX,
};

pub struct Side {
    pub endpoint: Endpoint,
    pub limits: Limits,
    /// Whole messages are taken in batches first, as a shard does.
    pub batches: bool,
    pool: MessagePool,
    keys: MaskingKeys,
    codec: Codec,
    sink: VecSink,
    /// What was handed out of a message in pieces.
    begun: Vec<u8>,
}

impl Side {
    pub fn new(endpoint: Endpoint, limits: Limits) -> Self {
        Self::with_terms(endpoint, limits, TERMS)
    }

    pub fn with_terms(endpoint: Endpoint, limits: Limits, terms: Terms) -> Self {
        Self {
            endpoint,
            limits,
            batches: false,
            pool: MessagePool::new(1 << 16),
            keys: MaskingKeys::new([9; 32]),
            codec: Codec::new(terms),
            sink: VecSink::default(),
            begun: Vec::new(),
        }
    }

    /// Compresses, as was agreed with a client that offered this.
    pub fn compress(&mut self, offer: &str, terms: &Terms) {
        let agreed = agree([offer.as_bytes()].into_iter(), terms).expect("a valid offer");
        self.endpoint.compress(&mut self.codec, &agreed);
    }

    /// The only place that knows what an endpoint borrows.
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

    /// Has messages handed out in pieces, or not. They are put together again here.
    pub fn hand_out_pieces(&mut self, on: bool) {
        if let Some((_, begun)) = self.endpoint.hand_out_pieces(on) {
            self.begun.extend_from_slice(begun.written());
            self.pool.give_back(begun);
        }
    }

    /// Receives these bytes, as one piece.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Seen> {
        let mut bytes = bytes.to_vec();
        let mut begun = std::mem::take(&mut self.begun);
        let (batches, mut seen) = (self.batches, Vec::new());
        let left = self.call(|endpoint, context| {
            let mut input = &mut bytes[..];
            let mut batch = Batch::new();
            loop {
                if batches {
                    let full = endpoint.receive_batch(&mut input, &mut batch, context);
                    assert_eq!(batch.messages().count(), batch.count());
                    for message in batch.messages() {
                        seen.push(message_seen(message.kind(), message.payload().to_vec()));
                    }
                    if full {
                        continue;
                    }
                    if batch.is_failed() {
                        seen.push(Seen::Failed(endpoint.fail_text(context)));
                        break 0;
                    }
                }
                let Some(event) = endpoint.receive(&mut input, context) else {
                    break input.len();
                };
                let (event, payload) = match event {
                    Event::Message { kind, payload } => {
                        begun.extend_from_slice(&payload);
                        let is_whole = !endpoint.is_in_message();
                        let whole = is_whole.then(|| std::mem::take(&mut begun));
                        (whole.map(|whole| message_seen(kind, whole)), payload)
                    }
                    Event::Ping(payload) => (Some(Seen::Ping(payload.to_vec())), payload),
                    Event::Pong(payload) => (Some(Seen::Pong(payload.to_vec())), payload),
                    Event::Close(frame) => {
                        let code = frame.code.map(CloseCode::number);
                        let close = Seen::Close(code, frame.reason().to_owned());
                        (Some(close), frame.payload)
                    }
                    Event::Failed(error) => {
                        seen.push(Seen::Failed(error));
                        continue;
                    }
                };
                context.pool.reclaim(payload);
                seen.extend(event);
            }
        });
        self.begun = begun;
        assert_eq!(left, 0, "input was left over");
        seen
    }

    pub fn send(&mut self, message: Outgoing<'_>) -> Result<(), SendError> {
        self.call(|endpoint, context| endpoint.send(message, context))
    }

    pub fn send_fragmented(
        &mut self,
        message: &Outgoing<'_>,
        bytes: usize,
    ) -> Result<(), SendError> {
        self.call(|endpoint, context| endpoint.send_fragmented(message, bytes, context))
    }

    pub fn control(&mut self, control: Control, payload: &[u8]) -> Result<(), SendError> {
        self.call(|endpoint, context| endpoint.send_control(control, payload, context))
    }

    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.call(|endpoint, context| endpoint.close(code, reason, context))
    }

    /// Sends a message that was seen back, and nothing for anything else.
    pub fn echo(&mut self, seen: &Seen) -> Option<Result<(), SendError>> {
        match seen {
            Seen::Text(text) => Some(self.send(text.as_str().into())),
            Seen::Binary(bytes) => Some(self.send(bytes.as_slice().into())),
            _ => None,
        }
    }

    /// What was written since this was last asked.
    pub fn take_output(&mut self) -> Vec<u8> {
        let output = self.sink.written().to_vec();
        self.sink.clear();
        output
    }

    /// Ends the connection: nothing that it borrowed may be left out then.
    pub fn end(mut self) {
        self.endpoint.release(&mut self.pool, &mut self.codec);
        self.endpoint.leave(&mut self.codec);
        assert_eq!(self.codec.tally().windows_bytes, 0, "windows are left");
        assert_eq!(self.pool.out(), 0, "buffers are not back in the pool");
    }
}

fn message_seen(kind: MessageKind, payload: Vec<u8>) -> Seen {
    match kind {
        MessageKind::Binary => Seen::Binary(payload),
        // Whoever hands out text that is not UTF-8 fails here.
        MessageKind::Text => Seen::Text(String::from_utf8(payload).expect("UTF-8")),
    }
}

/// The other side of a connection.
pub const fn other(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}
