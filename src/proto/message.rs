//! Messages, whole: borrowed from where they were received, or put together in a pooled buffer.
//!
//! Knows: what a message is and where its bytes lie. Refuses to know: frames, and how the bytes got
//! there.

use std::{
    fmt, mem,
    ops::{Deref, DerefMut, Range},
};

use bytes::Bytes;

use super::{Opcode, SendError, frame::FrameHeader};
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
///
/// A server's endpoint leaves the header with which it would send the same message in front of the
/// payload: it is shorter than the client's, by the masking key, so that there is always room. A
/// message that goes back as it came is then one range of bytes that need not be put together.
#[derive(Clone, Copy)]
pub struct Message<'a> {
    kind: MessageKind,
    /// Bytes of header at the start of `frame`; none where there was no room for one.
    header_len: u8,
    frame: &'a [u8],
}

impl<'a> Message<'a> {
    #[doc(hidden)]
    #[inline(always)]
    pub const fn new(kind: MessageKind, payload: &'a [u8]) -> Self {
        Self {
            kind,
            header_len: 0,
            frame: payload,
        }
    }

    /// A message with an unmasked frame's header of `header_len` bytes in front of its payload.
    #[inline(always)]
    pub(crate) const fn framed(kind: MessageKind, header_len: u8, frame: &'a [u8]) -> Self {
        Self {
            kind,
            header_len,
            frame,
        }
    }

    /// Text or binary.
    #[inline]
    pub const fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The application's bytes, unmasked and in one piece.
    #[inline(always)]
    pub fn payload(&self) -> &'a [u8] {
        self.frame
            .get(usize::from(self.header_len)..)
            .unwrap_or(&[])
    }

    /// The payload with what lies in front of it.
    pub(crate) const fn frame(&self) -> &'a [u8] {
        self.frame
    }

    /// The text, when it is a text message.
    pub fn text(&self) -> Option<&'a str> {
        match self.kind {
            MessageKind::Text => utf8::validate(self.payload()).ok(),
            MessageKind::Binary => None,
        }
    }
}

impl PartialEq for Message<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.kind, self.payload()) == (other.kind, other.payload())
    }
}

impl Eq for Message<'_> {}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} message of {} bytes",
            self.kind,
            self.payload().len()
        )
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
    /// An unmasked frame, of which the first bytes are the header: at least two.
    Framed {
        header_len: u8,
        frame: &'a [u8],
    },
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
            OutgoingPayload::Framed { header_len, frame } => {
                frame.get(usize::from(*header_len)..).unwrap_or(&[])
            }
            OutgoingPayload::Shared(payload) => payload,
        }
    }

    /// Bytes of payload.
    #[inline(always)]
    pub fn payload_len(&self) -> usize {
        match &self.payload {
            OutgoingPayload::Framed { header_len, frame } => frame.len() - usize::from(*header_len),
            _ => self.payload().len(),
        }
    }

    /// The same message with a payload of its own, for another thread.
    pub fn into_owned(self) -> Outgoing<'static> {
        let payload = match self.payload {
            OutgoingPayload::Shared(payload) => payload,
            _ => Bytes::copy_from_slice(self.payload()),
        };
        Outgoing {
            kind: self.kind,
            payload: OutgoingPayload::Shared(payload),
        }
    }
}

impl<'a> From<Message<'a>> for Outgoing<'a> {
    #[inline(always)]
    fn from(message: Message<'a>) -> Self {
        let Message {
            kind,
            header_len,
            frame,
        } = message;
        let payload = match header_len {
            0 => OutgoingPayload::Borrowed(frame),
            _ => OutgoingPayload::Framed { header_len, frame },
        };
        Self { kind, payload }
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

/// A payload, and in front of it a server's header for the same message.
#[derive(Debug)]
pub struct Framed<'a> {
    /// Bytes of header; 0 where there was no room for one.
    pub(crate) header_len: u8,
    /// The header and the payload.
    pub(crate) frame: &'a mut [u8],
}

impl<'a> Framed<'a> {
    /// A payload alone.
    #[inline(always)]
    pub(crate) const fn without_header(payload: &'a mut [u8]) -> Self {
        Self {
            header_len: 0,
            frame: payload,
        }
    }
}

/// The bytes of a message or control frame: where they were received, or put together.
#[derive(Debug)]
pub enum Payload<'a> {
    /// In the receive buffer, unmasked in place.
    Borrowed(Framed<'a>),
    /// In a buffer of the pool, to be given back with [`MessagePool::give_back`].
    Owned(Box<MessageBuffer>),
}

impl Payload<'_> {
    /// The message that these bytes are.
    #[inline]
    pub fn message(&self, kind: MessageKind) -> Message<'_> {
        match self {
            Self::Borrowed(Framed { header_len, frame }) => {
                Message::framed(kind, *header_len, frame)
            }
            Self::Owned(buffer) => buffer.message(kind),
        }
    }
}

impl Deref for Payload<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(framed) => &framed.frame[usize::from(framed.header_len)..],
            Self::Owned(buffer) => buffer.written(),
        }
    }
}

impl DerefMut for Payload<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Borrowed(framed) => &mut framed.frame[usize::from(framed.header_len)..],
            Self::Owned(buffer) => &mut buffer.bytes[HEADROOM_BYTES..HEADROOM_BYTES + buffer.len],
        }
    }
}

/// Bytes kept free in front of a message that is put together: the longest header of a server.
const HEADROOM_BYTES: usize = 10;

/// The first growth of a buffer whose message is announced as longer. What a header announces costs
/// the sender nothing, so memory follows what has really arrived.
const FIRST_GROWTH_BYTES: usize = 256 * 1024;

/// A buffer in which a message that spans several receives or frames is put together.
#[derive(Debug, Default)]
pub struct MessageBuffer {
    /// Initialised throughout, so that bytes can be unmasked straight into it. The payload follows
    /// [`HEADROOM_BYTES`] of room.
    bytes: Vec<u8>,
    /// Bytes of payload.
    len: usize,
    /// Bytes of header right in front of the payload, once it is known.
    header_len: u8,
}

impl MessageBuffer {
    /// What is there so far.
    #[inline]
    pub fn written(&self) -> &[u8] {
        self.bytes
            .get(HEADROOM_BYTES..HEADROOM_BYTES + self.len)
            .unwrap_or(&[])
    }

    /// The message that it holds.
    pub fn message(&self, kind: MessageKind) -> Message<'_> {
        Message::framed(kind, self.header_len, &self.bytes[self.frame_range()])
    }

    /// Writes a server's header in front of the whole payload.
    pub(super) fn put_header(&mut self, opcode: Opcode) {
        let header = FrameHeader::of_server(opcode, self.len as u64);
        let len = header.encoded_len();
        if let Some(room) = self.bytes.get_mut(HEADROOM_BYTES - len..HEADROOM_BYTES) {
            header.encode(room);
            self.header_len = len as u8;
        }
    }

    /// Where in its memory the frame lies that [`Payload::message`] lends out.
    fn frame_range(&self) -> Range<usize> {
        HEADROOM_BYTES - usize::from(self.header_len)..HEADROOM_BYTES + self.len
    }

    /// Room for `count` more bytes, which count as written at once. `announced` is how many more
    /// bytes the message will have at least, `count` included.
    pub fn extend(&mut self, count: usize, announced: usize) -> &mut [u8] {
        let start = HEADROOM_BYTES + self.len;
        let end = start + count;
        if self.bytes.len() < end {
            let ahead = FIRST_GROWTH_BYTES.max(self.bytes.len().saturating_mul(4));
            let whole = start.saturating_add(announced);
            let target = end.max(whole.min(ahead));
            // An amortised `resize` would round up to twice the size.
            self.bytes.reserve_exact(target - self.bytes.len());
            self.bytes.resize(target, 0);
        }
        self.len += count;
        &mut self.bytes[start..end]
    }

    /// Takes back what [`extend`](Self::extend) counted as written beyond the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
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
    /// What is left of buffers that were detached.
    #[expect(clippy::vec_box, reason = "as above")]
    shells: Vec<Box<MessageBuffer>>,
    kept_bytes: usize,
    kept_bytes_max: usize,
    out: usize,
}

impl MessagePool {
    /// A pool that keeps at most `kept_bytes_max` bytes of unused buffers.
    pub fn new(kept_bytes_max: usize) -> Self {
        Self {
            free: Vec::new(),
            shells: Vec::new(),
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
        buffer.header_len = 0;
        if self.kept_bytes + buffer.bytes.len() <= self.kept_bytes_max && self.free.len() < 1024 {
            self.kept_bytes += buffer.bytes.len();
            self.free.push(buffer);
        }
    }

    /// Ends the use of a buffer whose memory is the caller's from here on: the payload, without a
    /// copy.
    pub fn give_away(&mut self, mut buffer: Box<MessageBuffer>) -> Bytes {
        let end = HEADROOM_BYTES + buffer.len;
        let mut bytes = mem::take(&mut buffer.bytes);
        self.give_back(buffer);
        bytes.truncate(end);
        let mut bytes = Bytes::from(bytes);
        match bytes.len() {
            len if len < HEADROOM_BYTES => Bytes::new(),
            _ => bytes.split_off(HEADROOM_BYTES),
        }
    }

    /// Takes a buffer whose memory goes its own way: returns that, and where in it the frame lies
    /// that [`Payload::message`] lends out. [`take_back`](Self::take_back) ends its use.
    pub fn detach(&mut self, mut buffer: Box<MessageBuffer>) -> (Vec<u8>, Range<usize>) {
        let frame = buffer.frame_range();
        let bytes = mem::take(&mut buffer.bytes);
        self.shells.push(buffer);
        (bytes, frame)
    }

    /// Ends the use of a buffer that was detached.
    pub fn take_back(&mut self, bytes: Vec<u8>) {
        let mut buffer = self.shells.pop().unwrap_or_default();
        buffer.bytes = bytes;
        self.give_back(buffer);
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
            (HEADROOM_BYTES + 100_000, HEADROOM_BYTES + 100_000)
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
        assert_eq!(
            (pool.out(), pool.free.len(), pool.kept_bytes),
            (0, 2, 2 * (HEADROOM_BYTES + 400))
        );
        assert!(pool.take().written().is_empty());
    }
}
