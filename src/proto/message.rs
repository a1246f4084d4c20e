//! Messages, whole: borrowed from where they were received, or put together in a pooled buffer.
//!
//! Knows: what a message is and where its bytes lie. Refuses to know: frames, and how the bytes got
//! there.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use bytes::Bytes;

use super::{Opcode, SendError};
use crate::kernels::utf8;

/// Text or binary (RFC 6455 section 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// Arbitrary bytes.
    Binary,
    /// UTF-8, checked before it is handed out.
    Text,
}

impl MessageKind {
    /// The opcode of the first frame of such a message.
    #[inline]
    pub const fn opcode(self) -> Opcode {
        match self {
            Self::Binary => Opcode::Binary,
            Self::Text => Opcode::Text,
        }
    }
}

/// A message as a service sees it. Text has been checked to be UTF-8.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    kind: MessageKind,
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    #[doc(hidden)]
    pub const fn new(kind: MessageKind, payload: &'a [u8]) -> Self {
        Self { kind, payload }
    }

    /// Text or binary.
    #[inline]
    pub const fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The application's bytes, unmasked and in one piece.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The text, when it is a text message.
    pub fn text(&self) -> Option<&'a str> {
        match self.kind {
            MessageKind::Text => utf8::validate(self.payload).ok(),
            MessageKind::Binary => None,
        }
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} message of {} bytes", self.kind, self.payload.len())
    }
}

/// What can be sent: anything that is known to be text, or bytes.
///
/// `&str` and `String` become text, `&[u8]`, `Vec<u8>` and [`Bytes`] binary, and a received
/// [`Message`] what it was.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    pub(crate) kind: MessageKind,
    pub(crate) payload: OutgoingPayload<'a>,
}

#[derive(Clone, Debug)]
pub(crate) enum OutgoingPayload<'a> {
    Borrowed(&'a [u8]),
    Shared(Bytes),
}

impl Outgoing<'_> {
    /// A text message of shared bytes, for payloads that go to many connections.
    ///
    /// # Errors
    ///
    /// [`SendError::TextNotUtf8`].
    pub fn text(payload: Bytes) -> Result<Self, SendError> {
        if utf8::validate(&payload).is_err() {
            return Err(SendError::TextNotUtf8);
        }
        Ok(Self {
            kind: MessageKind::Text,
            payload: OutgoingPayload::Shared(payload),
        })
    }

    /// The application's bytes.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        match &self.payload {
            OutgoingPayload::Borrowed(payload) => payload,
            OutgoingPayload::Shared(payload) => payload,
        }
    }

    /// Bytes of payload.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.payload().len()
    }

    /// The same message with a payload of its own, for another thread.
    pub fn into_owned(self) -> Outgoing<'static> {
        let payload = match self.payload {
            OutgoingPayload::Borrowed(payload) => Bytes::copy_from_slice(payload),
            OutgoingPayload::Shared(payload) => payload,
        };
        Outgoing {
            kind: self.kind,
            payload: OutgoingPayload::Shared(payload),
        }
    }
}

impl<'a> From<Message<'a>> for Outgoing<'a> {
    #[inline]
    fn from(message: Message<'a>) -> Self {
        Self {
            kind: message.kind,
            payload: OutgoingPayload::Borrowed(message.payload),
        }
    }
}

impl<'a> From<&'a str> for Outgoing<'a> {
    fn from(text: &'a str) -> Self {
        Self {
            kind: MessageKind::Text,
            payload: OutgoingPayload::Borrowed(text.as_bytes()),
        }
    }
}

impl<'a> From<&'a [u8]> for Outgoing<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self {
            kind: MessageKind::Binary,
            payload: OutgoingPayload::Borrowed(bytes),
        }
    }
}

impl From<String> for Outgoing<'_> {
    fn from(text: String) -> Self {
        Self {
            kind: MessageKind::Text,
            payload: OutgoingPayload::Shared(text.into()),
        }
    }
}

impl From<Bytes> for Outgoing<'_> {
    fn from(bytes: Bytes) -> Self {
        Self {
            kind: MessageKind::Binary,
            payload: OutgoingPayload::Shared(bytes),
        }
    }
}

impl From<Vec<u8>> for Outgoing<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

/// The bytes of a message or control frame: where they were received, or put together.
#[derive(Debug)]
pub enum Payload<'a> {
    /// In the receive buffer, unmasked in place.
    Borrowed(&'a mut [u8]),
    /// In a buffer of the pool, to be given back with [`MessagePool::give_back`].
    Owned(Box<MessageBuffer>),
}

impl Deref for Payload<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(buffer) => buffer.written(),
        }
    }
}

impl DerefMut for Payload<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(buffer) => &mut buffer.bytes[..buffer.len],
        }
    }
}

/// The first growth of a buffer whose message is announced as longer. What a header announces costs
/// the sender nothing, so memory follows what has really arrived.
const FIRST_GROWTH_BYTES: usize = 256 * 1024;

/// A buffer in which a message that spans several receives or frames is put together.
#[derive(Debug, Default)]
pub struct MessageBuffer {
    /// Initialised throughout, so that bytes can be unmasked straight into it.
    bytes: Vec<u8>,
    len: usize,
}

impl MessageBuffer {
    /// What is there so far.
    #[inline]
    pub fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Room for `count` more bytes, which count as written at once. `announced` is how many bytes
    /// the message will have at least, `count` included.
    pub fn extend(&mut self, count: usize, announced: usize) -> &mut [u8] {
        let start = self.len;
        let end = start + count;
        if self.bytes.len() < end {
            let ahead = FIRST_GROWTH_BYTES.max(self.bytes.len().saturating_mul(4));
            let target = end.max(announced.min(ahead));
            // An amortised `resize` would round up to twice the size.
            self.bytes.reserve_exact(target - self.bytes.len());
            self.bytes.resize(target, 0);
        }
        self.len = end;
        &mut self.bytes[start..end]
    }
}

/// Message buffers not in use, so that messages that span receives do not go to the allocator.
#[derive(Debug)]
pub struct MessagePool {
    #[expect(
        clippy::vec_box,
        reason = "buffers move between connections and events as boxes"
    )]
    free: Vec<Box<MessageBuffer>>,
    kept_bytes: usize,
    kept_bytes_max: usize,
    out: usize,
}

impl MessagePool {
    /// A pool that keeps at most `kept_bytes_max` bytes of unused buffers.
    pub fn new(kept_bytes_max: usize) -> Self {
        Self {
            free: Vec::new(),
            kept_bytes: 0,
            kept_bytes_max,
            out: 0,
        }
    }

    /// An empty buffer.
    pub fn take(&mut self) -> Box<MessageBuffer> {
        self.out += 1;
        let buffer = self.free.pop().unwrap_or_default();
        self.kept_bytes -= buffer.bytes.len();
        buffer
    }

    /// Ends the use of a buffer.
    pub fn give_back(&mut self, mut buffer: Box<MessageBuffer>) {
        self.out -= 1;
        buffer.len = 0;
        if self.kept_bytes + buffer.bytes.len() <= self.kept_bytes_max && self.free.len() < 1024 {
            self.kept_bytes += buffer.bytes.len();
            self.free.push(buffer);
        }
    }

    /// Ends the use of a payload, wherever it lies.
    #[inline]
    pub fn reclaim(&mut self, payload: Payload<'_>) {
        if let Payload::Owned(buffer) = payload {
            self.give_back(buffer);
        }
    }

    /// Buffers in use.
    pub fn out(&self) -> usize {
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_arrived_and_not_what_was_announced() {
        let mut buffer = MessageBuffer::default();
        let announced = 1 << 40;
        for _ in 0..100 {
            buffer.extend(10_000, announced).fill(1);
            assert!(buffer.bytes.len() <= 5 * buffer.len.max(FIRST_GROWTH_BYTES));
        }
        assert_eq!(buffer.written(), vec![1; 1_000_000]);
    }

    #[test]
    fn a_buffer_for_a_message_of_known_length_has_that_length() {
        let mut buffer = MessageBuffer::default();
        buffer.extend(10, 100_000).fill(1);
        assert_eq!(
            (buffer.bytes.len(), buffer.bytes.capacity()),
            (100_000, 100_000)
        );
    }

    #[test]
    fn the_pool_keeps_no_more_than_allowed() {
        let mut pool = MessagePool::new(1000);
        let mut buffers: Vec<_> = (0..5).map(|_| pool.take()).collect();
        for buffer in &mut buffers {
            buffer.extend(400, 400);
        }
        assert_eq!(pool.out(), 5);
        for buffer in buffers {
            pool.give_back(buffer);
        }
        assert_eq!((pool.out(), pool.free.len(), pool.kept_bytes), (0, 2, 800));
        assert!(pool.take().written().is_empty());
    }
}
