//! Frames of the draft in, events out, and what is to be sent (hybi-00 section 5.3).
//!
//! Knows one connection after its opening handshake. It consumes everything that it is given. A
//! message that lies in one piece is lent out where it lies; of one that does not, a pooled buffer
//! is kept.

use std::mem;

use super::super::{
    MessageKind, MessagePool, Payload, ProtocolError, SendError, Sink,
    endpoint::{ADOPT_BYTES_MIN, CloseFrame, Context, Event, Unfinished},
    message::{Framed, MessageBuffer, NoRoom, Outgoing, OutgoingPayload},
};
use crate::kernels::utf8::Validator;

/// Frame types, and the byte that ends a text. It cannot occur in UTF-8.
const TEXT: u8 = 0x00;
const BINARY: u8 = 0x80;
const CLOSE: u8 = 0xFF;
const TEXT_END: u8 = 0xFF;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    FrameType,
    Text,
    /// The length of a close frame, which is 0.
    CloseLength,
    BinaryLength,
    Binary,
}

/// The framing of one connection.
#[derive(Debug)]
pub(in crate::proto) struct Hixie {
    /// Of a binary frame: its length as far as it was read, then the bytes that have not come yet.
    remaining: u64,
    /// The message in progress, if it does not lie in one piece.
    message: Option<Box<MessageBuffer>>,
    /// Carried between the pieces of a text.
    validator: Validator,
    state: State,
    close_sent: bool,
    /// The peer sent a binary frame, so that it is no browser and will read one.
    knows_binary: bool,
    /// What is in progress was so when somebody looked.
    is_known: bool,
}

impl Hixie {
    /// The framing right after the opening handshake.
    pub(in crate::proto) const fn new() -> Self {
        Self {
            remaining: 0,
            message: None,
            validator: Validator::new(),
            state: State::FrameType,
            close_sent: false,
            knows_binary: false,
            is_known: false,
        }
    }

    /// Bytes of memory that a message in progress takes.
    pub(in crate::proto) fn held_bytes(&self) -> usize {
        self.message
            .as_ref()
            .map_or(0, |message| message.held_bytes())
    }

    /// As of an [`Endpoint`](super::super::Endpoint).
    pub(in crate::proto) fn unfinished(&mut self) -> Option<Unfinished> {
        let begun = self.state != State::FrameType;
        begun.then(|| Unfinished {
            payload_bytes: self.written_bytes(),
            is_new: !mem::replace(&mut self.is_known, true),
        })
    }

    /// Whether our close frame was written: nothing can be sent any more.
    pub(in crate::proto) const fn is_close_sent(&self) -> bool {
        self.close_sent
    }

    /// Takes what was received and returns the next event, until the input is used up.
    ///
    /// # Errors
    ///
    /// The violation that ends the connection. Of two in one piece it is the one whose byte comes
    /// first, so that it does not matter how the bytes were cut.
    pub(in crate::proto) fn receive<'a, S: Sink>(
        &mut self,
        input: &mut &'a mut [u8],
        context: &mut Context<'_, S>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let bytes_max = context.limits.message_bytes_max;
        while !input.is_empty() {
            let event = match self.state {
                State::FrameType => {
                    self.begin_frame(take_byte(input))?;
                    None
                }
                State::Text => self.text_piece(input, bytes_max, context.pool)?,
                State::CloseLength => match take_byte(input) {
                    0 => Some(self.peer_closes(&mut context.sink)),
                    _ => return Err(ProtocolError::OpcodeReserved(CLOSE)),
                },
                State::BinaryLength => {
                    let byte = take_byte(input);
                    self.length_byte(byte, bytes_max, context.pool)?
                }
                State::Binary => self.binary_piece(input, context.pool)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    fn begin_frame(&mut self, frame_type: u8) -> Result<(), ProtocolError> {
        self.is_known = false;
        self.state = match frame_type {
            TEXT => {
                self.validator = Validator::new();
                State::Text
            }
            BINARY => {
                self.remaining = 0;
                State::BinaryLength
            }
            CLOSE => State::CloseLength,
            // Section 5.3 lets a server skip or refuse frames of other types. Nobody sends them.
            other => return Err(ProtocolError::OpcodeReserved(other)),
        };
        Ok(())
    }

    /// A piece of a text: up to its end, or to the limit, or all that is there.
    fn text_piece<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        bytes_max: u64,
        pool: &mut MessagePool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let before = self.written_bytes();
        let room = usize::try_from(bytes_max.saturating_sub(before)).unwrap_or(usize::MAX);
        // One byte beyond the limit may be the end; any other there is one too many.
        let within = input.len().min(room.saturating_add(1));
        let end = input[..within].iter().position(|&byte| byte == TEXT_END);
        let (piece, rest) = mem::take(input).split_at_mut(end.unwrap_or(within.min(room)));
        self.validator
            .push(piece)
            .map_err(|_| ProtocolError::TextNotUtf8)?;
        if end.is_none() {
            if within > room {
                return Err(ProtocolError::MessageTooBig);
            }
            let written = before.saturating_add(piece.len() as u64);
            // How long it will be is not known: room for as much again keeps copies few.
            self.keep(piece, written.saturating_mul(2).min(bytes_max), pool)?;
            return Ok(None);
        }
        *input = &mut rest[1..];
        self.validator
            .finish()
            .map_err(|_| ProtocolError::TextNotUtf8)?;
        let written = before.saturating_add(piece.len() as u64);
        self.last_piece(MessageKind::Text, piece, written, pool)
    }

    /// A byte of a binary frame's length. It is judged at once, so that none is too long to read.
    fn length_byte<'a>(
        &mut self,
        byte: u8,
        bytes_max: u64,
        pool: &mut MessagePool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if self.remaining == 0 && byte == 0x80 {
            return Err(ProtocolError::LengthNotMinimal);
        }
        let length = self
            .remaining
            .checked_mul(128)
            .map(|length| length + u64::from(byte & 0x7F))
            .filter(|&length| length <= bytes_max);
        self.remaining = length.ok_or(ProtocolError::MessageTooBig)?;
        if byte & 0x80 != 0 {
            return Ok(None);
        }
        self.knows_binary = true;
        self.state = State::Binary;
        if self.remaining > 0 {
            return Ok(None);
        }
        self.last_piece(MessageKind::Binary, &mut [], 0, pool)
    }

    fn binary_piece<'a>(
        &mut self,
        input: &mut &'a mut [u8],
        pool: &mut MessagePool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let len = usize::try_from(self.remaining).map_or(input.len(), |len| len.min(input.len()));
        let (piece, rest) = mem::take(input).split_at_mut(len);
        *input = rest;
        let whole = self.written_bytes().saturating_add(self.remaining);
        self.remaining -= len as u64;
        if self.remaining > 0 {
            self.keep(piece, whole, pool)?;
            return Ok(None);
        }
        self.last_piece(MessageKind::Binary, piece, whole, pool)
    }

    fn written_bytes(&self) -> u64 {
        let written = self.message.as_ref().map(|message| message.written().len());
        written.unwrap_or(0) as u64
    }

    /// Keeps a piece of a message that will have `whole` bytes.
    fn keep(
        &mut self,
        piece: &[u8],
        whole: u64,
        pool: &mut MessagePool,
    ) -> Result<(), ProtocolError> {
        if piece.is_empty() {
            return Ok(());
        }
        let to_come = whole.saturating_sub(self.written_bytes());
        let message = self.message.get_or_insert_with(|| pool.take());
        let announced = usize::try_from(to_come).unwrap_or(usize::MAX);
        let room = pool.extend(message, piece.len(), announced, 0);
        room.map_err(|NoRoom| ProtocolError::NoMemory)?
            .copy_from_slice(piece);
        Ok(())
    }

    /// The message is complete with this piece and has `whole` bytes.
    fn last_piece<'a>(
        &mut self,
        kind: MessageKind,
        piece: &'a mut [u8],
        whole: u64,
        pool: &mut MessagePool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        self.state = State::FrameType;
        if self.message.is_some() {
            self.keep(piece, whole, pool)?;
        }
        let payload = match self.message.take() {
            Some(message) => Payload::Owned(message),
            None => Payload::Borrowed(Framed::without_header(piece)),
        };
        if self.close_sent {
            pool.reclaim(payload);
            return Ok(None);
        }
        Ok(Some(Event::Message { kind, payload }))
    }

    /// The peer's close frame: an answer is owed, unless ours was first (section 1.4).
    fn peer_closes<'a>(&mut self, sink: &mut impl Sink) -> Event<'a> {
        self.state = State::FrameType;
        if !self.close_sent {
            self.write_close(sink);
        }
        Event::Close(CloseFrame {
            code: None,
            payload: Payload::Borrowed(Framed::without_header(&mut [])),
        })
    }

    /// Gives the pooled buffer back.
    pub(in crate::proto) fn release(&mut self, pool: &mut MessagePool) {
        if let Some(message) = self.message.take() {
            pool.give_back(message);
        }
    }

    /// Writes a message.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] once our close frame was written, [`SendError::Unsupported`] for
    /// binary to a peer that has not sent any.
    pub(in crate::proto) fn send<S: Sink>(
        &mut self,
        outgoing: Outgoing<'_>,
        sink: &mut S,
    ) -> Result<(), SendError> {
        if self.close_sent {
            return Err(SendError::Closed);
        }
        match outgoing.kind {
            MessageKind::Text => {
                sink.write(&[TEXT]);
                write_payload(outgoing.payload, sink);
                sink.write(&[TEXT_END]);
            }
            MessageKind::Binary if !self.knows_binary => return Err(SendError::Unsupported),
            MessageKind::Binary => {
                sink.write(&[BINARY]);
                write_length(outgoing.payload_len() as u64, sink);
                write_payload(outgoing.payload, sink);
            }
        }
        Ok(())
    }

    /// Writes a close frame.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] when one was written before.
    pub(in crate::proto) fn close(&mut self, sink: &mut impl Sink) -> Result<(), SendError> {
        if self.close_sent {
            return Err(SendError::Closed);
        }
        self.write_close(sink);
        Ok(())
    }

    fn write_close(&mut self, sink: &mut impl Sink) {
        self.close_sent = true;
        sink.write(&[CLOSE, 0]);
    }
}

/// The first byte. The input is not empty.
fn take_byte(input: &mut &mut [u8]) -> u8 {
    match mem::take(input).split_first_mut() {
        Some((&mut byte, rest)) => {
            *input = rest;
            byte
        }
        None => 0,
    }
}

/// A length, the most significant seven bits first.
fn write_length(length: u64, sink: &mut impl Sink) {
    let groups = (64 - length.leading_zeros()).div_ceil(7).max(1);
    for group in (0..groups).rev() {
        let more = if group > 0 { 0x80 } else { 0 };
        sink.write(&[(length >> (7 * group)) as u8 & 0x7F | more]);
    }
}

fn write_payload(payload: OutgoingPayload<'_>, sink: &mut impl Sink) {
    match payload {
        OutgoingPayload::Shared(payload) if payload.len() >= ADOPT_BYTES_MIN => {
            sink.adopt(payload);
        }
        OutgoingPayload::Shared(payload) => sink.write(&payload),
        OutgoingPayload::Borrowed(payload) => sink.write(payload),
        // The header is one of RFC 6455.
        OutgoingPayload::Framed { header_len, frame } => {
            sink.write(frame.get(usize::from(header_len)..).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::VecSink;
    use super::*;

    #[test]
    fn lengths_in_groups_of_seven_bits() {
        for (length, bytes) in [
            (0, &[0][..]),
            (1, &[1]),
            (127, &[0x7F]),
            (128, &[0x81, 0x00]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x81, 0x80, 0x00]),
            (1 << 28, &[0x81, 0x80, 0x80, 0x80, 0x00]),
        ] {
            let mut sink = VecSink::default();
            write_length(length, &mut sink);
            assert_eq!(sink.written(), bytes, "{length}");
        }
        let mut sink = VecSink::default();
        write_length(u64::MAX, &mut sink);
        assert_eq!(sink.written().len(), 10);
        assert_eq!(sink.written()[0], 0x81);
    }
}
