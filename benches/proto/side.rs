//! One endpoint with all that it borrows, driven as a shard drives it.

use ringwire::{
    Config, Message,
    proto::{
        Endpoint, Event, Limits, MessagePool, Role, Sink,
        deflate::Codec,
        endpoint::{Batch, Context, MaskingKeys},
        message::Outgoing,
    },
    ring::{SendArena, SendQueue},
};

/// One side of a connection after the opening handshake.
pub struct Side {
    endpoint: Endpoint,
    limits: Limits,
    pool: MessagePool,
    keys: MaskingKeys,
    codec: Codec,
    arena: SendArena,
    queue: Box<SendQueue>,
    /// Where it receives.
    pub buffer: Vec<u8>,
}

/// What [`Side::received`] may send with.
pub type Replies<'a> = Context<'a, Outbox<'a>>;

/// A connection's queue of what is to be sent, as a shard has it.
pub struct Outbox<'a> {
    queue: &'a mut SendQueue,
    arena: &'a mut SendArena,
}

impl Sink for Outbox<'_> {
    #[inline(always)]
    fn space(&mut self, wanted: usize) -> &mut [u8] {
        self.queue.space(self.arena, wanted)
    }

    #[inline(always)]
    fn commit(&mut self, bytes: usize) {
        self.queue.commit(bytes);
    }

    fn adopt(&mut self, bytes: bytes::Bytes) {
        self.queue.adopt(self.arena, bytes);
    }
}

impl Side {
    pub fn new(role: Role) -> Self {
        let config = Config::default();
        let mut arena = SendArena::new(config.send_chunk_bytes, config.send_kept_bytes_max);
        Self {
            endpoint: Endpoint::new(role),
            limits: config.limits(),
            pool: MessagePool::new(config.message_kept_bytes_max),
            keys: MaskingKeys::new([1; 32]),
            codec: Codec::new(config.deflate_terms()),
            queue: arena.queue(),
            arena,
            buffer: vec![0; config.recv_buffer_bytes as usize],
        }
    }

    /// The endpoint, where it receives, and what it borrows.
    #[inline]
    fn parts(&mut self) -> (&mut Endpoint, &mut [u8], Replies<'_>) {
        let context = Context {
            limits: &self.limits,
            pool: &mut self.pool,
            keys: &mut self.keys,
            codec: &mut self.codec,
            sink: Outbox {
                queue: &mut self.queue,
                arena: &mut self.arena,
            },
        };
        (&mut self.endpoint, &mut self.buffer, context)
    }

    /// Sends a message.
    #[inline]
    pub fn send<'a>(&mut self, message: impl Into<Outgoing<'a>>) {
        let (endpoint, _, mut context) = self.parts();
        reply(endpoint, &mut context, message);
    }

    /// Gives what it has to send to the network, piece by piece, once there are `at_least` bytes.
    pub fn flush(&mut self, at_least: usize, mut take: impl FnMut(&[u8])) {
        let len = self.queue.len();
        if len >= at_least {
            self.queue.pieces().for_each(&mut take);
            self.queue.advance(&mut self.arena, len);
        }
    }

    /// Takes what lies in the first `len` bytes of the buffer, and shows each message to `see`,
    /// which may reply.
    #[inline]
    pub fn received(
        &mut self,
        len: usize,
        mut see: impl FnMut(&mut Endpoint, &mut Replies<'_>, Message<'_>),
    ) {
        let (endpoint, buffer, mut context) = self.parts();
        let mut input = &mut buffer[..len];
        let mut batch = Batch::new();
        loop {
            let full = endpoint.receive_batch(&mut input, &mut batch, &mut context);
            for message in batch.messages() {
                see(endpoint, &mut context, message);
            }
            if full {
                continue;
            }
            match endpoint.receive(&mut input, &mut context) {
                None => break,
                Some(Event::Message { kind, payload }) => {
                    see(endpoint, &mut context, Message::new(kind, &payload));
                    context.pool.reclaim(payload);
                }
                Some(event) => panic!("no {event:?} was sent"),
            }
        }
    }
}

/// Sends a message from within [`Side::received`].
#[inline]
pub fn reply<'a>(
    endpoint: &mut Endpoint,
    replies: &mut Replies<'_>,
    message: impl Into<Outgoing<'a>>,
) {
    let message = message.into();
    if !endpoint.send_short(&message, &mut replies.sink) {
        endpoint.send(message, replies).expect("it is open");
    }
}
