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
use crate::kernels::{
    memory::{MAPPED_BYTES_MIN, Memory},
    utf8,
};

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

/// A message as a server sends it to whoever has agreed on nothing: the header and the payload in
/// one piece, made once for all who get it.
///
/// ```
/// use ringwire::proto::message::Frame;
///
/// let frame = Frame::new(&"to all".into());
/// assert_eq!(&frame.bytes()[..], b"\x81\x06to all");
/// assert_eq!(frame.message().text(), Some("to all"));
/// ```
#[derive(Clone, Debug)]
pub struct Frame {
    kind: MessageKind,
    header_len: u8,
    bytes: Bytes,
}

impl Frame {
    /// The frame of a message. Its payload is copied: once, and not for each who gets it.
    pub fn new(message: &Outgoing<'_>) -> Self {
        let payload = message.payload();
        let header = FrameHeader::of_server(message.kind.opcode(), payload.len() as u64);
        let header_len = header.encoded_len();
        let mut bytes = Vec::with_capacity(header_len + payload.len());
        bytes.resize(header_len, 0);
        header.encode(&mut bytes);
        bytes.extend_from_slice(payload);
        Self {
            kind: message.kind,
            header_len: header_len as u8,
            bytes: bytes.into(),
        }
    }

    /// The header and the payload.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Bytes of payload.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.bytes.len() - usize::from(self.header_len)
    }

    /// The message that it is.
    pub fn message(&self) -> Message<'_> {
        Message::framed(self.kind, self.header_len, &self.bytes)
    }

    /// The message for those who need another frame: they share the payload.
    pub fn outgoing(&self) -> Outgoing<'static> {
        let payload = self.bytes.slice(usize::from(self.header_len)..);
        Outgoing {
            kind: self.kind,
            payload: OutgoingPayload::Shared(payload),
        }
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

/// Bytes of payload that the smallest buffer has room for.
const FIRST_BYTES: usize = 1024 - HEADROOM_BYTES;

/// A buffer in which a message that spans several receives or frames is put together.
#[derive(Debug, Default)]
pub struct MessageBuffer {
    /// Initialised throughout, so that bytes can be unmasked straight into it. The payload follows
    /// [`HEADROOM_BYTES`] of room.
    bytes: Memory,
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

    /// Bytes of payload that are there so far.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that it takes.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.bytes.len()
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

    /// Takes back what [`MessagePool::extend`] counted as written beyond the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

/// There is no memory for a message to grow into: see [`MessagePool::set_room`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// The memory of messages that span receives: what they take, and what is kept for the next ones,
/// so that these do not go to the allocator.
///
/// What a frame header announces costs its sender nothing, so that memory follows what has come: a
/// buffer is at most twice as long as what is in it, or as the longest message that its sender has
/// paid for before.
///
/// ```
/// use ringwire::proto::MessagePool;
///
/// let mut pool = MessagePool::new(1 << 20);
/// let mut buffer = pool.take();
/// // 100 bytes have come of a message that is announced with 16 MiB.
/// pool.extend(&mut buffer, 100, 16 << 20, 0).unwrap().fill(1);
/// assert!(pool.held_bytes() <= 1024);
/// pool.give_back(buffer);
/// ```
#[derive(Debug)]
pub struct MessagePool {
    /// Boxes without memory.
    #[expect(
        clippy::vec_box,
        reason = "buffers move between connections and events as boxes"
    )]
    boxes: Vec<Box<MessageBuffer>>,
    /// Memory not in use. What came back last is at the end.
    kept: Vec<Memory>,
    kept_bytes: usize,
    kept_bytes_max: usize,
    /// The least that was kept since [`trim`](Self::trim): so much was not needed meanwhile.
    idle_bytes: usize,
    out: usize,
    out_bytes: usize,
    room: usize,
    /// What long messages leave of that.
    reserve: usize,
}

/// So much of a message finds memory in the reserve.
const LITTLE_BYTES: usize = 8 << 10;

/// Pieces of memory that are kept: one is looked for among all of them.
const KEPT_MAX: usize = 128;

/// Boxes that are kept.
const BOXES_MAX: usize = 1024;

impl MessagePool {
    /// A pool that keeps at most `kept_bytes_max` bytes that are not in use.
    pub fn new(kept_bytes_max: usize) -> Self {
        Self {
            boxes: Vec::new(),
            kept: Vec::new(),
            kept_bytes: 0,
            kept_bytes_max,
            idle_bytes: 0,
            out: 0,
            out_bytes: 0,
            room: usize::MAX,
            reserve: 0,
        }
    }

    /// The same, with so much of the [room](Self::set_room) left to messages of at most 8 KiB.
    #[must_use]
    pub const fn with_reserve(mut self, bytes: usize) -> Self {
        self.reserve = bytes;
        self
    }

    /// From here on so much is left to them.
    pub const fn set_reserve(&mut self, bytes: usize) {
        self.reserve = bytes;
    }

    /// An empty buffer, which takes no memory yet.
    pub fn take(&mut self) -> Box<MessageBuffer> {
        self.out += 1;
        self.boxes.pop().unwrap_or_default()
    }

    /// Gives a buffer the largest memory that is kept, if that is larger than its own: for a
    /// message whose length nobody knows, and that is done before another one is given so much.
    pub fn give_largest(&mut self, buffer: &mut MessageBuffer) {
        let sizes = self.kept.iter().map(|bytes| bytes.len()).enumerate();
        let Some((largest, len)) = sizes.max_by_key(|&(_, len)| len) else {
            return;
        };
        if len <= buffer.bytes.len() {
            return;
        }
        let bytes = self.kept.swap_remove(largest);
        self.kept_bytes -= len;
        self.room = self.room.saturating_add(len);
        self.idle_bytes = self.idle_bytes.min(self.kept_bytes);
        self.move_to(buffer, bytes);
    }

    /// Takes most of a buffer's memory back, if little of it is needed.
    pub fn fit(&mut self, buffer: &mut MessageBuffer) {
        let wanted = HEADROOM_BYTES + buffer.len;
        if buffer.bytes.len() > 2 * wanted.max(FIRST_BYTES) {
            let kept = self.take_kept(wanted, 2 * wanted);
            let bytes = kept.unwrap_or_else(|| Memory::new(wanted));
            self.move_to(buffer, bytes);
        }
    }

    /// Has a buffer lie in other memory; its own is kept.
    fn move_to(&mut self, buffer: &mut MessageBuffer, mut bytes: Memory) {
        let written = HEADROOM_BYTES + buffer.len;
        if let (Some(room), Some(written)) = (bytes.get_mut(..written), buffer.bytes.get(..written))
        {
            room.copy_from_slice(written);
        }
        let left = mem::replace(&mut buffer.bytes, bytes);
        self.gives_back(left.len());
        self.takes(buffer.bytes.len());
        self.keep(left);
    }

    /// From here on, messages and what is kept for them may take so many bytes more than they do
    /// now; what goes back to the allocator makes room again. There is no limit unless one is set.
    pub const fn set_room(&mut self, bytes: usize) {
        self.room = bytes;
    }

    /// How many bytes more they may take now.
    pub const fn room(&self) -> usize {
        self.room
    }

    /// Room for `count` more bytes in a buffer, which count as written at once. `announced` is how
    /// many more bytes the message will have at least, `count` included. `trusted` is how long a
    /// message its sender has sent whole before: it may have as much memory at once.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] when that takes more memory than there is; nothing has changed then.
    #[inline]
    pub fn extend<'b>(
        &mut self,
        buffer: &'b mut MessageBuffer,
        count: usize,
        announced: usize,
        trusted: usize,
    ) -> Result<&'b mut [u8], NoRoom> {
        let start = HEADROOM_BYTES + buffer.len;
        let end = start + count;
        if buffer.bytes.len() < end {
            self.grow(buffer, count, announced, trusted)?;
        }
        buffer.len += count;
        Ok(&mut buffer.bytes[start..end])
    }

    #[inline(never)]
    fn grow(
        &mut self,
        buffer: &mut MessageBuffer,
        count: usize,
        announced: usize,
        trusted: usize,
    ) -> Result<(), NoRoom> {
        let come = buffer.len + count;
        let whole = buffer.len.saturating_add(announced);
        let most = FIRST_BYTES.max(come.saturating_mul(2)).max(trusted);
        let wanted = HEADROOM_BYTES + come.max(whole.min(most));
        let before = buffer.bytes.len();
        // Of little memory that is kept, anybody may have some: there is not much of it in all, and
        // messages in pieces of any length find what fits.
        let reused = Memory::rounded(HEADROOM_BYTES + most).max(MAPPED_BYTES_MIN);
        let kept = self.take_kept(wanted, reused);
        let needed = Memory::rounded(wanted) - before;
        let reserve = if come <= LITTLE_BYTES {
            0
        } else {
            self.reserve
        };
        if kept.is_none() && needed > self.room.saturating_sub(reserve) {
            // What is kept for others goes first.
            self.forget_kept();
            if needed > self.room.saturating_sub(reserve) {
                return Err(NoRoom);
            }
        }
        if kept.is_none() && buffer.bytes.grow(wanted) {
            self.gives_back(before);
            self.takes(buffer.bytes.len());
            return Ok(());
        }
        let bytes = kept.unwrap_or_else(|| Memory::new(wanted));
        self.move_to(buffer, bytes);
        Ok(())
    }

    /// Memory of so many bytes, and not much more, that is not in use.
    fn take_kept(&mut self, least: usize, most: usize) -> Option<Memory> {
        let fits = |bytes: &Memory| (least..=most).contains(&bytes.len());
        let found = self.kept.iter().rposition(fits)?;
        let bytes = self.kept.remove(found);
        self.kept_bytes -= bytes.len();
        self.room = self.room.saturating_add(bytes.len());
        self.idle_bytes = self.idle_bytes.min(self.kept_bytes);
        Some(bytes)
    }

    const fn takes(&mut self, bytes: usize) {
        self.out_bytes += bytes;
        self.room = self.room.saturating_sub(bytes);
    }

    const fn gives_back(&mut self, bytes: usize) {
        self.out_bytes -= bytes;
        self.room = self.room.saturating_add(bytes);
    }

    /// Keeps memory for the next message, as far as it may.
    fn keep(&mut self, bytes: Memory) {
        let fits = self.kept_bytes + bytes.len() <= self.kept_bytes_max;
        let fits = fits && bytes.len() <= self.room;
        if !bytes.is_empty() && fits && self.kept.len() < KEPT_MAX {
            self.kept_bytes += bytes.len();
            self.room -= bytes.len();
            self.kept.push(bytes);
        }
    }

    /// Lets go of all memory that is not in use.
    pub fn forget_kept(&mut self) {
        self.kept.clear();
        self.room = self.room.saturating_add(self.kept_bytes);
        self.kept_bytes = 0;
        self.idle_bytes = 0;
    }

    /// Lets go of memory that was not needed since this was called before.
    pub fn trim(&mut self) {
        let mut idle_bytes = mem::replace(&mut self.idle_bytes, usize::MAX);
        // What came back first was not needed for longest.
        self.kept.retain(|bytes| {
            let goes = bytes.len() <= idle_bytes;
            if goes {
                idle_bytes -= bytes.len();
                self.kept_bytes -= bytes.len();
                self.room = self.room.saturating_add(bytes.len());
            }
            !goes
        });
        self.idle_bytes = self.kept_bytes;
    }

    /// Ends the use of a buffer.
    pub fn give_back(&mut self, mut buffer: Box<MessageBuffer>) {
        let bytes = mem::take(&mut buffer.bytes);
        self.gives_back(bytes.len());
        self.keep(bytes);
        self.give_back_empty(buffer);
    }

    /// Ends the use of a buffer whose memory is not worth keeping.
    pub fn give_up(&mut self, mut buffer: Box<MessageBuffer>) {
        self.gives_back(buffer.bytes.len());
        buffer.bytes = Memory::default();
        self.give_back_empty(buffer);
    }

    fn give_back_empty(&mut self, mut buffer: Box<MessageBuffer>) {
        self.out -= 1;
        buffer.len = 0;
        buffer.header_len = 0;
        if self.boxes.len() < BOXES_MAX {
            self.boxes.push(buffer);
        }
    }

    /// Ends the use of a buffer whose memory is the caller's from here on: the payload, without a
    /// copy.
    pub fn give_away(&mut self, mut buffer: Box<MessageBuffer>) -> Bytes {
        let payload = HEADROOM_BYTES..HEADROOM_BYTES + buffer.len;
        if buffer.bytes.len() > 2 * payload.end.max(FIRST_BYTES) {
            // Nobody is to keep memory alive that is mostly empty.
            let bytes = Bytes::copy_from_slice(buffer.written());
            self.give_back(buffer);
            return bytes;
        }
        let bytes = mem::take(&mut buffer.bytes);
        self.gives_back(bytes.len());
        self.give_back_empty(buffer);
        match payload.is_empty() {
            true => Bytes::new(),
            false => Bytes::from_owner(bytes).slice(payload),
        }
    }

    /// Takes a buffer whose memory goes its own way: returns that, and where in it the frame lies
    /// that [`Payload::message`] lends out. It counts as in use until
    /// [`take_back`](Self::take_back) ends its use.
    pub fn detach(&mut self, mut buffer: Box<MessageBuffer>) -> (Memory, Range<usize>) {
        let frame = buffer.frame_range();
        let bytes = mem::take(&mut buffer.bytes);
        self.give_back_empty(buffer);
        self.out += 1;
        (bytes, frame)
    }

    /// Ends the use of a buffer that was detached.
    pub fn take_back(&mut self, bytes: Memory) {
        self.out -= 1;
        self.gives_back(bytes.len());
        self.keep(bytes);
    }

    /// Ends the use of a payload, wherever it lies.
    #[inline]
    pub fn reclaim(&mut self, payload: Payload<'_>) {
        if let Payload::Owned(buffer) = payload {
            self.give_back(buffer);
        }
    }

    /// Buffers in use.
    pub const fn out(&self) -> usize {
        self.out
    }

    /// Bytes of memory in use.
    #[inline]
    pub const fn out_bytes(&self) -> usize {
        self.out_bytes
    }

    /// Bytes of memory, in use or kept.
    #[inline]
    pub const fn held_bytes(&self) -> usize {
        self.out_bytes + self.kept_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_follows_what_arrived_and_not_what_was_announced() {
        let mut pool = MessagePool::new(0);
        let mut buffer = pool.take();
        let announced = 1 << 40;
        pool.extend(&mut buffer, 1, announced, 0).unwrap().fill(1);
        assert_eq!(pool.held_bytes(), 1024);
        for _ in 0..100 {
            pool.extend(&mut buffer, 10_000, announced, 0)
                .unwrap()
                .fill(1);
            assert!(pool.held_bytes() <= Memory::rounded(2 * buffer.len + HEADROOM_BYTES));
        }
        assert_eq!(buffer.written(), vec![1; 1_000_001]);
        pool.give_back(buffer);
        assert_eq!(pool.held_bytes(), 0);
    }

    #[test]
    fn a_sender_that_has_paid_for_a_long_message_has_its_memory_at_once() {
        let mut pool = MessagePool::new(1 << 20);
        for trusted in [0, 1 << 17] {
            let mut buffer = pool.take();
            pool.extend(&mut buffer, 10, 100_000, trusted).unwrap();
            let expected = if trusted > 0 {
                Memory::rounded(HEADROOM_BYTES + 100_000)
            } else {
                1024
            };
            assert_eq!(buffer.bytes.len(), expected);
            pool.give_back(buffer);
        }
    }

    #[test]
    fn what_is_kept_takes_room_until_somebody_needs_it() {
        let mut pool = MessagePool::new(1 << 20);
        let room = 40_000;
        pool.set_room(room);
        for len in [9_000, 3_000, 17_000, 1_000, 30_000, 9_000] {
            let mut first = pool.take();
            pool.extend(&mut first, len, len, 0).unwrap();
            pool.give_back(first);
            assert!(pool.held_bytes() <= room, "{} bytes", pool.held_bytes());
        }
        let mut long = pool.take();
        pool.extend(&mut long, 30_000, 30_000, 0).unwrap();
        let mut longer = pool.take();
        assert!(pool.extend(&mut longer, 20_000, 20_000, 0).is_err());
        assert!(pool.held_bytes() <= room);
        pool.give_up(longer);
        pool.give_back(long);
    }

    /// A long message leaves its memory to others that are as long, and to no others.
    #[test]
    fn kept_memory_is_not_for_messages_that_are_much_shorter() {
        let mut pool = MessagePool::new(64 << 20);
        let mut long = pool.take();
        pool.extend(&mut long, 16 << 20, 16 << 20, 0).unwrap();
        let address = long.bytes.as_ptr();
        pool.give_back(long);
        let mut short = pool.take();
        pool.extend(&mut short, 7, 16 << 20, 0).unwrap();
        assert_eq!(pool.out_bytes(), 1024);
        let mut next = pool.take();
        pool.extend(&mut next, 9 << 20, 16 << 20, 0).unwrap();
        assert_eq!(next.bytes.as_ptr(), address);
        pool.give_back(next);
        pool.give_back(short);
        assert_eq!((pool.out(), pool.out_bytes()), (0, 0));
    }

    #[test]
    fn a_buffer_for_a_message_of_known_length_has_that_length() {
        let mut pool = MessagePool::new(0);
        let mut buffer = pool.take();
        pool.extend(&mut buffer, 60_000, 100_000, 0)
            .unwrap()
            .fill(1);
        assert_eq!(
            buffer.bytes.len(),
            Memory::rounded(HEADROOM_BYTES + 100_000)
        );
    }

    #[test]
    fn messages_grow_no_further_than_there_is_room() {
        let mut pool = MessagePool::new(0);
        pool.set_room(10_000);
        let mut first = pool.take();
        pool.extend(&mut first, 4000, 4000, 0).unwrap();
        let mut second = pool.take();
        let refused = pool.extend(&mut second, 6000, 6000, 0).map(|_| ());
        assert_eq!((refused, second.len), (Err(NoRoom), 0));
        pool.give_back(first);
        pool.extend(&mut second, 6000, 6000, 0).unwrap();
        pool.give_back(second);
    }

    #[test]
    fn the_reserve_is_for_short_messages() {
        let mut pool = MessagePool::new(0).with_reserve(30_000);
        pool.set_room(40_000);
        let mut long = pool.take();
        assert!(pool.extend(&mut long, 20_000, 20_000, 0).is_err());
        pool.extend(&mut long, 9_000, 9_000, 0).unwrap();
        assert!(pool.extend(&mut long, 1, 1_000, 0).is_err());
        let mut short = pool.take();
        pool.extend(&mut short, 8_000, 8_000, 0).unwrap();
        pool.give_up(long);
        pool.give_back(short);
    }

    #[test]
    fn the_pool_keeps_no_more_than_allowed_and_lets_go_of_what_is_not_needed() {
        let mut pool = MessagePool::new(3000);
        let mut buffers: Vec<_> = (0..5).map(|_| pool.take()).collect();
        for buffer in &mut buffers {
            pool.extend(buffer, 400, 400, 0).unwrap();
        }
        assert_eq!((pool.out(), pool.out_bytes()), (5, 5 * 410));
        for buffer in buffers {
            pool.give_back(buffer);
        }
        assert_eq!((pool.out(), pool.kept_bytes), (0, 5 * 410));
        pool.trim();
        assert_eq!(pool.kept.len(), 5, "all of it was in use since the start");
        let mut buffer = pool.take();
        pool.extend(&mut buffer, 400, 400, 0).unwrap();
        pool.give_back(buffer);
        pool.trim();
        assert_eq!(pool.kept.len(), 1, "four were not needed");
        pool.trim();
        assert_eq!(pool.held_bytes(), 0);
    }
}
