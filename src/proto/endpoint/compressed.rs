//! The endpoint's frames of compressed messages (RFC 7692 section 6).
//!
//! Knows: RSV1, and how a compressed message is put together and taken apart. What is not
//! compressed does not come here.
//!
//! While a message is inflated, step by step, it counts as being in progress: nothing behind it is
//! looked at before it was handed out.

use bytes::Bytes;

use super::{
    ADOPT_BYTES_MIN, Context, Endpoint, Event, FrameHeader, HEADER_BYTES_MAX, Limits, Marks,
    MaskingKey, MaskingKeys, MessageBuffer, MessageKind, MessagePool, Opcode, Outgoing,
    OutgoingPayload, Payload, Piece, ProtocolError, Role, Sink, deflate_of, mask, room_for,
    write_rest,
};
use crate::proto::deflate::{Agreed, Codec, Compressed, Session, compressed_bytes_max};

/// In a frame's first byte: the message is compressed.
const RSV1: u8 = 0x40;

impl Session {
    /// Takes RSV1 off the first byte of a frame, where it may be on: what follows is read like any
    /// other frame.
    pub(super) fn take_bit(&mut self, first: &mut u8) -> Result<(), ProtocolError> {
        let on = *first & RSV1 != 0;
        match Opcode::from_bits(*first & 0xf) {
            Some(Opcode::Text | Opcode::Binary) => self.is_compressed = on,
            Some(_) if on => return Err(ProtocolError::CompressedBitMisplaced),
            _ => {}
        }
        *first &= !RSV1;
        Ok(())
    }
}

impl Endpoint {
    /// Compresses from here on, as was agreed in the opening handshake.
    pub fn compress(&mut self, codec: &mut Codec, agreed: &Agreed) {
        self.leave(codec);
        self.rare.get_or_insert_default().deflate = Some(codec.join(self.role, agreed));
    }

    /// Ends what [`compress`](Self::compress) began. Called when the connection is over.
    pub fn leave(&mut self, codec: &mut Codec) {
        if let Some(session) = self.rare.as_mut().and_then(|rare| rare.deflate.take()) {
            codec.leave(&session);
        }
    }

    /// Whether messages are compressed in both directions.
    #[inline]
    pub const fn is_compressing(&self) -> bool {
        match &self.rare {
            Some(rare) => rare.deflate.is_some(),
            None => false,
        }
    }

    /// What the connection keeps of permessage-deflate, if that was agreed on.
    #[inline]
    pub(super) fn session(&self) -> Option<&Session> {
        self.rare.as_ref()?.deflate.as_deref()
    }

    /// Whether the message in progress is compressed.
    #[inline]
    pub(super) fn is_compressed(&self) -> bool {
        self.session().is_some_and(|session| session.is_compressed)
    }

    /// The most bytes of payload that the frames of the message in progress may have.
    pub(super) fn frames_bytes_max(&self, limits: &Limits) -> u64 {
        if self.is_compressed() {
            return compressed_bytes_max(limits.message_bytes_max);
        }
        limits.message_bytes_max
    }

    /// A piece of a frame of a compressed message.
    pub(super) fn compressed_piece<'a, S>(
        &mut self,
        piece: Piece<'a>,
        context: &mut Context<'_, S>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let Piece {
            bytes,
            key,
            remaining,
            is_last,
        } = piece;
        if is_last && self.message.is_none() {
            if self.role == Role::Server {
                mask::apply(bytes, key);
            }
            return self.inflate(Compressed::Received(bytes), context);
        }
        if !bytes.is_empty() {
            let trusted = self.trusted_bytes();
            let len = bytes.len();
            let room = room_for(&mut self.message, len, remaining, trusted, context.pool)?;
            mask::copy(room, bytes, key);
        }
        if !is_last {
            return Ok(None);
        }
        let Some(compressed) = self.message.take() else {
            return self.inflate(Compressed::Received(&[]), context);
        };
        self.trust(compressed.len());
        self.inflate(Compressed::Gathered(compressed), context)
    }

    /// Whether nobody will see the message in progress, nor anything that refers to it.
    const fn is_unwanted(&self) -> bool {
        self.close_sent || self.marks.has(Marks::UNWANTED)
    }

    /// Begins to inflate the message in progress, which has come whole.
    fn inflate<'a, S>(
        &mut self,
        compressed: Compressed<'_>,
        context: &mut Context<'_, S>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let unwanted = self.is_unwanted();
        let (limits, pool) = (context.limits, &mut *context.pool);
        let (Some(kind), Some(session), false) = (self.kind, deflate_of(&mut self.rare), unwanted)
        else {
            if let Compressed::Gathered(compressed) = compressed {
                pool.give_back(compressed);
            }
            self.kind = None;
            return Ok(None);
        };
        let inflated = context
            .codec
            .inflate(session, compressed, kind, limits, pool)?;
        Ok(self.inflated(kind, inflated))
    }

    /// One more step of inflating the message in progress.
    pub(super) fn go_on_inflating<'a, S>(
        &mut self,
        context: &mut Context<'_, S>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let unwanted = self.is_unwanted();
        let (Some(kind), Some(session), false) = (self.kind, deflate_of(&mut self.rare), unwanted)
        else {
            self.forget_inflating(context.pool, context.codec);
            return Ok(None);
        };
        let inflated = context.codec.go_on_inflating(session, context.pool)?;
        Ok(self.inflated(kind, inflated))
    }

    fn inflated<'a>(
        &mut self,
        kind: MessageKind,
        message: Option<Box<MessageBuffer>>,
    ) -> Option<Event<'a>> {
        self.marks.set(Marks::INFLATING, message.is_none());
        let mut message = message?;
        if self.role == Role::Server {
            // It may go back as it is.
            message.put_header(kind.opcode());
        }
        let payload = Payload::Owned(message);
        self.kind = None;
        Some(Event::Message { kind, payload })
    }

    /// Lets go of a message that was inflated in part.
    pub(super) fn forget_inflating(&mut self, pool: &mut MessagePool, codec: &mut Codec) {
        if self.marks.set(Marks::INFLATING, false) {
            self.kind = None;
            if let Some(session) = deflate_of(&mut self.rare) {
                codec.forget_inflating(session, pool);
            }
        }
    }

    /// Whether a message that was [inflated in part](Self::is_inflating) has to wait for another
    /// one, which gets long on another connection: for now there is nothing to go on with.
    #[cold]
    pub fn waits_to_inflate(&self) -> bool {
        self.session()
            .is_some_and(|session| session.waits_to_inflate())
    }

    /// A message that was [inflated in part](Self::is_inflating) is not gone on with for now: those
    /// that wait for it need not.
    #[cold]
    pub fn hold_up_inflating(&self, codec: &mut Codec) {
        if let Some(session) = self.session() {
            codec.hold_up_inflating(session);
        }
    }

    /// Bytes of the [`Codec`]'s that a message which is being inflated has for itself.
    pub fn inflater_bytes(&self) -> usize {
        self.session().map_or(0, |session| session.inflater_bytes())
    }

    /// How much was done of such a message: a number that differs from step to step.
    #[cfg(feature = "sim")]
    pub fn inflated_so_far(&self) -> u64 {
        self.session().map_or(0, |session| session.inflated())
    }

    /// Writes a message compressed, if it is long enough and gets shorter. Returns whether it was.
    pub(super) fn send_compressed<S: Sink>(
        &mut self,
        outgoing: &Outgoing<'_>,
        fragment_bytes: usize,
        context: &mut Context<'_, S>,
    ) -> bool {
        let Some(session) = deflate_of(&mut self.rare) else {
            return false;
        };
        let payload = outgoing.payload();
        if !context.codec.wants(payload.len()) {
            return false;
        }
        let opcode = outgoing.kind.opcode();
        let is_whole = fragment_bytes == usize::MAX;
        if let OutgoingPayload::Shared(shared) = &outgoing.payload
            && !session.has_context()
        {
            let Some(compressed) = context.codec.deflate_shared(session, shared) else {
                return false;
            };
            // A client's payload is masked, so that it has to be written anew.
            if is_whole && self.role == Role::Server && compressed.len() >= ADOPT_BYTES_MIN {
                adopt_frame(&mut context.sink, opcode, compressed);
                return true;
            }
            let (sink, keys) = (&mut context.sink, &mut *context.keys);
            write_frames(sink, keys, self.role, opcode, &compressed, fragment_bytes);
            return true;
        }
        let Some(compressed) = context.codec.deflate(session, payload) else {
            return false;
        };
        let (sink, keys) = (&mut context.sink, &mut *context.keys);
        write_frames(sink, keys, self.role, opcode, compressed, fragment_bytes);
        true
    }
}

/// Writes the frames of a compressed message. Only the first one says that it is (section 6.1).
fn write_frames<S: Sink>(
    sink: &mut S,
    keys: &mut MaskingKeys,
    role: Role,
    mut opcode: Opcode,
    compressed: &[u8],
    fragment_bytes: usize,
) {
    let mut rest = compressed;
    loop {
        let (fragment, later) = rest.split_at(fragment_bytes.min(rest.len()));
        rest = later;
        let key = match role {
            Role::Client => Some(keys.next_key()),
            Role::Server => None,
        };
        write_header(sink, opcode, rest.is_empty(), fragment.len(), key);
        write_rest(sink, fragment, key.unwrap_or(MaskingKey::new([0; 4])));
        opcode = Opcode::Continuation;
        if rest.is_empty() {
            return;
        }
    }
}

fn adopt_frame<S: Sink>(sink: &mut S, opcode: Opcode, compressed: Bytes) {
    let header = FrameHeader::of_server(opcode, compressed.len() as u64);
    let mut bytes = [0; HEADER_BYTES_MAX];
    let len = header.encode(&mut bytes);
    bytes[0] |= RSV1;
    sink.adopt_framed(&bytes[..len], compressed);
}

fn write_header<S: Sink>(
    sink: &mut S,
    opcode: Opcode,
    fin: bool,
    payload_len: usize,
    key: Option<MaskingKey>,
) {
    let header = FrameHeader {
        fin,
        opcode,
        payload_len: payload_len as u64,
        key,
    };
    let space = sink.space(HEADER_BYTES_MAX);
    let len = header.encode(space);
    if opcode != Opcode::Continuation {
        space[0] |= RSV1;
    }
    sink.commit(len);
}
