//! One side of an open connection: frames in, events out, and what is to be sent.
//!
//! Knows: RFC 6455 from the first frame to the last, for either role. Refuses to know: the opening
//! handshake, sockets, clocks, and what the application wants.
//!
//! It consumes everything that it is given, unless it is asked for [some of
//! it](Endpoint::receive_some). What it keeps between two calls is at most an incomplete header (13
//! bytes), and a pooled buffer while a message or a control frame is incomplete, or inflated in
//! part. A message that lies in one piece is unmasked there and lent out.
//!
//! Pings are answered and close frames are echoed here, so that no service can forget them. The
//! first violation wins: [`fail_connection`](Endpoint) is the only way to fail.
//!
//! An endpoint of [hixie-76](super::hixie) is one whose RFC 6455 half counts as closed from the
//! start: every path below tests that anyway, and asks the other framing then.

mod compressed;

use std::mem;

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::{
    CloseCode, Message, MessageKind, MessagePool, Opcode, Payload, ProtocolError, Role, SendError,
    Sink, Version,
    deflate::{Codec, Session},
    frame::{CONTROL_BYTES_MAX, FrameHeader, HEADER_BYTES_MAX},
    hixie::Hixie,
    message::{Framed, MessageBuffer, NoRoom, Outgoing, OutgoingPayload},
};
use crate::kernels::{
    mask::{self, MaskingKey},
    utf8::{self, Validator},
};

/// The longest reason of a close frame: 125 bytes less the status code.
pub const CLOSE_REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;

/// A payload of at least this many bytes is adopted by the sink instead of copied, when it is
/// shared. Below it, the copy costs less than another piece in the send.
pub(super) const ADOPT_BYTES_MIN: usize = 4096;

/// What a peer may ask of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest message, in bytes. Judged from the frame header, before the payload arrives.
    pub message_bytes_max: u64,
    /// The most fragments in one message.
    pub message_fragments_max: u32,
    /// The most empty fragments in one message. They carry nothing, so that a well-meaning sender
    /// has little use for them.
    pub message_empty_fragments_max: u32,
}

/// Masking keys that a peer cannot predict (RFC 6455 section 10.3).
#[derive(Clone, Debug)]
pub struct MaskingKeys(ChaCha8Rng);

impl MaskingKeys {
    /// Keys from 32 bytes of entropy.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// A fresh key.
    #[inline]
    pub fn next_key(&mut self) -> MaskingKey {
        MaskingKey::new(self.0.next_u32().to_ne_bytes())
    }

    /// Four bytes by which something is known again that peers send back.
    pub fn mark(&mut self) -> [u8; 4] {
        self.0.next_u32().to_ne_bytes()
    }

    /// A number below this one, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    /// Fresh bytes for the nonce of an opening handshake (section 4.1).
    pub fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        self.0.fill_bytes(&mut nonce);
        nonce
    }
}

/// What an endpoint borrows from its owner for one call.
#[derive(Debug)]
pub struct Context<'a, S> {
    /// The limits.
    pub limits: &'a Limits,
    /// Where message buffers come from.
    pub pool: &'a mut MessagePool,
    /// Where masking keys come from; only a client uses them.
    pub keys: &'a mut MaskingKeys,
    /// What compresses and inflates, for connections that agreed on it.
    pub codec: &'a mut Codec,
    /// Where bytes for the peer go.
    pub sink: S,
}

/// Something that happened on the connection.
#[derive(Debug)]
pub enum Event<'a> {
    /// The peer's close frame. An answer was written if we had not sent ours.
    Close(CloseFrame<'a>),
    /// The peer broke the protocol. A close frame was written if we had not sent ours.
    Failed(ProtocolError),
    /// A whole message. Its payload goes back to the pool.
    Message {
        /// Text or binary.
        kind: MessageKind,
        /// The bytes; UTF-8 if it is text.
        payload: Payload<'a>,
    },
    /// A ping; its pong was written.
    Ping(Payload<'a>),
    /// A pong.
    Pong(Payload<'a>),
}

/// Short messages that [`Endpoint::receive_batch`] found, in order.
///
/// They lie where they were received, one right after the other, each behind the header with which
/// a server would send it. A run of them that goes back is one range of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    frames: &'a [u8],
    count: usize,
    /// The most messages that it takes.
    most: usize,
    failed: bool,
}

/// Few enough that their frames are in the first level cache when they are looked at, and sent.
const BATCH_MESSAGES: usize = 160;

impl Default for Batch<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Batch<'a> {
    /// An empty batch.
    #[inline]
    pub const fn new() -> Self {
        Self::of_at_most(BATCH_MESSAGES)
    }

    /// An empty batch of at most so many messages, each time that it is filled; there is a limit
    /// beyond which more are not worth it.
    #[inline]
    pub const fn of_at_most(messages: usize) -> Self {
        Self {
            frames: &[],
            count: 0,
            most: if messages < BATCH_MESSAGES {
                messages
            } else {
                BATCH_MESSAGES
            },
            failed: false,
        }
    }

    /// The messages.
    #[inline]
    pub const fn messages(&self) -> Messages<'a> {
        let frames = self.frames;
        Messages { frames }
    }

    /// The messages, as a server would send them.
    #[inline]
    pub const fn frames(&self) -> &'a [u8] {
        self.frames
    }

    /// How many there are.
    #[inline]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Whether text that is not UTF-8 followed them: [`Endpoint::fail_text`] is to be called.
    #[inline]
    pub const fn is_failed(&self) -> bool {
        self.failed
    }
}

/// The messages of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    frames: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Message<'a>> {
        let &[first, len] = self.frames.first_chunk()?;
        let (frame, rest) = self.frames.split_at_checked(2 + usize::from(len))?;
        self.frames = rest;
        let kind = if first == TEXT_FRAME {
            MessageKind::Text
        } else {
            MessageKind::Binary
        };
        Some(Message::framed(kind, 2, frame))
    }
}

/// The first byte of a text frame with FIN and nothing else, and of a binary one.
const TEXT_FRAME: u8 = 0x80 | Opcode::Text as u8;
const BINARY_FRAME: u8 = 0x80 | Opcode::Binary as u8;

/// The masking key at this place of a header, in one load.
#[inline(always)]
fn key_at(header: &[u8], at: usize) -> MaskingKey {
    header
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map_or_else(MaskingKey::default, |key| MaskingKey::new(*key))
}

/// What [`take_whole`] found.
enum Whole<'a> {
    /// A whole message, unmasked where it was received, and UTF-8 if it is text.
    Message(MessageKind, Framed<'a>),
    /// A whole text message that is not UTF-8.
    NotText,
    /// Something else, untouched.
    Other,
}

/// Fills a batch with frames of at most 125 bytes of payload. Returns whether it is full.
///
/// Each is moved down to the end of the one before it, over the masking keys that have been read:
/// what is unmasked has to be written anyway, and does not care where.
#[inline(never)]
fn fill<'a, const MASKED: bool>(
    input: &mut &'a mut [u8],
    batch: &mut Batch<'a>,
    bytes_max: u64,
) -> bool {
    let header_len = if MASKED { 2 + KEY_BYTES } else { 2 };
    let len_max = bytes_max.min(SHORT_BYTES_MAX as u64) as usize;
    let bytes = mem::take(input);
    let (mut count, mut from, mut to) = (0, 0, 0);
    let most = batch.most;
    while count < most {
        let rest = &bytes[from..];
        let Some(&[first, second]) = rest.first_chunk() else {
            break;
        };
        let len = usize::from(second & 0x7f);
        if first != TEXT_FRAME && first != BINARY_FRAME
            || (second & 0x80 != 0) != MASKED
            || len > len_max
            || header_len + len > rest.len()
        {
            break;
        }
        let stop = from + header_len + len;
        let is_text = first == TEXT_FRAME;
        if MASKED {
            let key = key_at(rest, 2);
            let gap = from - to;
            let place = &mut bytes[to..stop];
            let source = gap + header_len..place.len();
            if !is_text {
                mask::copy_within(place, source, 2, key);
            } else if !utf8::unmask_text_within(place, source, 2, key) {
                batch.failed = true;
                break;
            }
            if let Some(header) = place.first_chunk_mut() {
                *header = [first, len as u8];
            }
        } else if is_text && utf8::validate(&rest[2..2 + len]).is_err() {
            batch.failed = true;
            break;
        }
        from = stop;
        to += 2 + len;
        count += 1;
    }
    let (taken, rest) = bytes.split_at_mut(from);
    *input = rest;
    batch.frames = &taken[..to];
    batch.count = count;
    count == most
}

/// Takes the frame that matters most off the input: a whole, final data frame, all of it here. The
/// endpoint is between messages, and its peer masks or not.
#[inline(always)]
fn take_whole<'a, const MASKED: bool>(input: &mut &'a mut [u8], bytes_max: u64) -> Whole<'a> {
    let mut at = if MASKED { 6 } else { 2 };
    let Some(header) = input.get(..at) else {
        return Whole::Other;
    };
    let (first, second) = (header[0], header[1]);
    // Text or binary with FIN and nothing else.
    if first != TEXT_FRAME && first != BINARY_FRAME || (second & 0x80 != 0) != MASKED {
        return Whole::Other;
    }
    let mut key = MaskingKey::new([0; 4]);
    if MASKED {
        key = key_at(header, 2);
    }
    let mut len = usize::from(second & 0x7f);
    if len > SHORT_BYTES_MAX {
        let Some((long, wide)) = wide_length(input) else {
            return Whole::Other;
        };
        len = long;
        at += wide;
        let Some(header) = input.get(..at) else {
            return Whole::Other;
        };
        if MASKED {
            key = key_at(header, 2 + wide);
        }
    }
    if input.len() - at < len || len as u64 > bytes_max {
        return Whole::Other;
    }
    let (frame, rest) = mem::take(input).split_at_mut(at + len);
    *input = rest;
    let kind = if first == BINARY_FRAME {
        if MASKED {
            mask::apply(&mut frame[at..], key);
        }
        MessageKind::Binary
    } else {
        let payload = &mut frame[at..];
        let mut validator = Validator::new();
        let checked = if MASKED {
            utf8::unmask_and_validate(payload, key, &mut validator)
        } else {
            validator.push(payload)
        };
        if checked.is_err() || !validator.is_boundary() {
            return Whole::NotText;
        }
        MessageKind::Text
    };
    if !MASKED {
        let payload = Framed::without_header(&mut frame[at..]);
        return Whole::Message(kind, payload);
    }
    // Where the key was, now that it is read, is room for the header that a server sends: the same
    // but for the mask bit.
    let frame = &mut frame[KEY_BYTES..];
    if len > SHORT_BYTES_MAX {
        FrameHeader::of_server(kind.opcode(), len as u64).encode(frame);
    } else if let Some(start) = frame.first_chunk_mut() {
        *start = [first, second & 0x7f];
    }
    Whole::Message(
        kind,
        Framed {
            header_len: (at - KEY_BYTES) as u8,
            frame,
        },
    )
}

/// Bytes of a masking key.
const KEY_BYTES: usize = 4;

/// A payload length of 16 or 64 bits, if it is here and minimal, and how many bytes it takes.
#[inline]
fn wide_length(header: &[u8]) -> Option<(usize, usize)> {
    if header[1] & 0x7f == 126 {
        let len = usize::from(u16::from_be_bytes([*header.get(2)?, *header.get(3)?]));
        return (len > SHORT_BYTES_MAX).then_some((len, 2));
    }
    let len = u64::from_be_bytes(*header.get(2..)?.first_chunk()?);
    let len = usize::try_from(len).ok()?;
    (len > usize::from(u16::MAX)).then_some((len, 8))
}

/// What an endpoint compresses with, if it does.
#[inline]
fn deflate_of(rare: &mut Option<Box<Rare>>) -> Option<&mut Session> {
    rare.as_mut()?.deflate.as_deref_mut()
}

/// Room for a piece of the message in progress, whose frame goes on for `remaining` bytes.
fn room_for<'m>(
    message: &'m mut Option<Box<MessageBuffer>>,
    piece_len: usize,
    remaining: u64,
    trusted: usize,
    pool: &mut MessagePool,
) -> Result<&'m mut [u8], ProtocolError> {
    let announced = usize::try_from(remaining).unwrap_or(usize::MAX);
    let buffer = message.get_or_insert_with(|| pool.take());
    let announced = announced.saturating_add(piece_len);
    let room = pool.extend(buffer, piece_len, announced, trusted);
    room.map_err(|NoRoom| ProtocolError::NoMemory)
}

/// What has begun and is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Bytes of its payload that have come, as they came: compressed, if it is.
    pub payload_bytes: u64,
    /// It has begun since [`Endpoint::unfinished`] was asked last.
    pub is_new: bool,
}

/// A close frame's payload.
#[derive(Debug)]
pub struct CloseFrame<'a> {
    /// The status code, if there is one.
    pub code: Option<CloseCode>,
    /// The whole payload; the reason follows the code.
    pub payload: Payload<'a>,
}

impl CloseFrame<'_> {
    /// The reason, often empty.
    pub fn reason(&self) -> &str {
        self.payload
            .get(2..)
            .and_then(|reason| utf8::validate(reason).ok())
            .unwrap_or("")
    }
}

/// The start of a header whose end has not come yet.
#[derive(Clone, Copy, Debug)]
struct Spill {
    bytes: [u8; HEADER_BYTES_MAX - 1],
    len: u8,
}

/// Where the input stands. What it takes to go on is in one place: no endpoint is in a header and
/// in a payload at once.
#[derive(Clone, Copy, Debug)]
enum Progress {
    /// Before a header, or in it.
    Header(Spill),
    /// In the payload of a frame.
    Frame {
        opcode: Opcode,
        /// It is the last of its message.
        fin: bool,
        /// The key for the next payload byte.
        key: MaskingKey,
        /// Payload bytes that have not come yet.
        remaining: u64,
    },
}

impl Progress {
    /// Between two frames.
    const START: Self = Self::Header(Spill {
        bytes: [0; HEADER_BYTES_MAX - 1],
        len: 0,
    });
}

/// A piece of a frame's payload.
struct Piece<'a> {
    bytes: &'a mut [u8],
    /// For its first byte.
    key: MaskingKey,
    /// Payload bytes of the frame that come after it.
    remaining: u64,
    /// It completes its message.
    is_last: bool,
}

/// What most endpoints do without, in memory of its own, so that each of those takes less.
#[derive(Debug, Default)]
struct Rare {
    /// The control frame in progress, if it does not lie in one piece.
    control: Option<Box<MessageBuffer>>,
    /// permessage-deflate, if both sides agreed on it.
    deflate: Option<Box<Session>>,
    /// The framing in place of RFC 6455's, if the opening handshake agreed on that.
    hixie: Option<Box<Hixie>>,
    /// The length of the longest message that the peer has sent whole, if it was a long one.
    trusted_bytes: usize,
}

/// What a message that was put together has at least to be remembered for its length.
const TRUSTED_BYTES_MIN: usize = 64 << 10;

/// One side of an open connection.
#[derive(Debug)]
pub struct Endpoint {
    progress: Progress,
    /// The data message in progress, if it does not lie in one piece.
    message: Option<Box<MessageBuffer>>,
    rare: Option<Box<Rare>>,
    fragments: u32,
    empty_fragments: u32,
    /// Carried between the pieces of a text message.
    validator: Validator,
    role: Role,
    /// The message in progress.
    kind: Option<MessageKind>,
    /// Our close frame was written, or would never be: with `hixie` it is on from the start.
    close_sent: bool,
    /// A close frame or a violation came: whatever follows is not looked at.
    input_ended: bool,
    marks: Marks,
}

/// What is seldom asked, in one byte.
#[derive(Clone, Copy, Debug)]
struct Marks(u8);

impl Marks {
    const NONE: Self = Self(0);
    /// Messages are handed out piece by piece.
    const PIECEWISE: Self = Self(1);
    /// What is in progress was so when somebody looked.
    const KNOWN: Self = Self(2);
    /// The message in progress has come whole, and was inflated in part.
    const INFLATING: Self = Self(4);
    /// Nobody wants messages any more.
    const UNWANTED: Self = Self(8);

    const fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    /// Returns whether it was on.
    const fn set(&mut self, mark: Self, on: bool) -> bool {
        let was_on = self.has(mark);
        self.0 = if on {
            self.0 | mark.0
        } else {
            self.0 & !mark.0
        };
        was_on
    }
}

// A server holds one for each idle connection.
const _: () = assert!(size_of::<Endpoint>() <= 48);

impl Endpoint {
    /// An endpoint right after the opening handshake.
    pub const fn new(role: Role) -> Self {
        Self {
            progress: Progress::START,
            message: None,
            rare: None,
            fragments: 0,
            empty_fragments: 0,
            validator: Validator::new(),
            role,
            kind: None,
            close_sent: false,
            input_ended: false,
            marks: Marks::NONE,
        }
    }

    /// Bytes that a message of the peer's may take at once: as many as it has sent in one before.
    #[inline]
    fn trusted_bytes(&self) -> usize {
        self.rare.as_ref().map_or(0, |rare| rare.trusted_bytes)
    }

    /// A message of so many bytes came whole. Short ones are not worth remembering: what they take
    /// is soon copied.
    fn trust(&mut self, bytes: usize) {
        if bytes >= TRUSTED_BYTES_MIN && bytes > self.trusted_bytes() {
            self.rare.get_or_insert_default().trusted_bytes = bytes;
        }
    }

    /// Bytes of memory that it holds: messages and control frames that have not come whole. The
    /// windows of compression are counted by its [`Codec`].
    pub fn held_bytes(&self) -> usize {
        let held = |buffer: &Option<Box<MessageBuffer>>| {
            buffer.as_ref().map_or(0, |buffer| buffer.held_bytes())
        };
        let rare = self.rare.as_ref().map_or(0, |rare| {
            let hixie = rare.hixie.as_ref().map_or(0, |hixie| hixie.held_bytes());
            let deflate = rare.deflate.as_ref();
            let inflating = deflate.map_or(0, |session| session.inflating_bytes());
            held(&rare.control) + hixie + inflating
        });
        held(&self.message) + rare
    }

    /// What has begun and is not whole: a message, a control frame between two messages, or the
    /// header of either. For whoever looks now and then whether it gets on; what was looked at
    /// before is told from what is new.
    ///
    /// A message that is handed out in pieces is not held, and its length has no limit: it is none.
    /// Nor is one that has come whole and is being inflated: its peer has done what it could.
    pub fn unfinished(&mut self) -> Option<Unfinished> {
        if self.is_inflating() {
            return None;
        }
        if let Some(hixie) = self.hixie_mut() {
            return hixie.unfinished();
        }
        let written = |buffer: &Option<Box<MessageBuffer>>| {
            buffer.as_ref().map_or(0, |it| it.written().len() as u64)
        };
        let is_held = match (self.kind, self.progress) {
            (Some(_), _) => !self.is_piecewise(),
            (None, Progress::Header(spill)) => spill.len > 0,
            (None, Progress::Frame { .. }) => true,
        };
        is_held.then(|| Unfinished {
            // Control frames among the fragments are no part of the message.
            payload_bytes: match self.kind {
                Some(_) => written(&self.message),
                None => self.rare.as_ref().map_or(0, |rare| written(&rare.control)),
            },
            is_new: !self.marks.set(Marks::KNOWN, true),
        })
    }

    /// Bytes of windows that its [`Codec`] counts for it.
    #[cfg(feature = "sim")]
    pub fn windows_bytes(&self) -> usize {
        self.session().map_or(0, |session| session.windows_bytes())
    }

    /// How long the message in progress will be at least, as far as its frames have said: payload
    /// bytes that have come and those of its frame that have not. 0 between two messages.
    #[inline]
    pub fn announced_bytes(&self) -> u64 {
        match (&self.message, self.progress) {
            (Some(message), Progress::Frame { remaining, .. }) => {
                (message.written().len() as u64).saturating_add(remaining)
            }
            _ => 0,
        }
    }

    /// Bytes of payload of the message in progress that have come and are put together.
    #[inline]
    pub fn gathered_bytes(&self) -> usize {
        self.message
            .as_ref()
            .map_or(0, |message| message.written().len())
    }

    /// A server's endpoint right after the opening handshake of [hixie-76](super::hixie). It gives
    /// the same events, except that there are no pings and pongs, and that close frames carry
    /// nothing.
    pub fn hixie76() -> Self {
        let rare = Rare {
            hixie: Some(Box::new(Hixie::new())),
            ..Rare::default()
        };
        Self {
            close_sent: true,
            rare: Some(Box::new(rare)),
            ..Self::new(Role::Server)
        }
    }

    const fn hixie(&self) -> Option<&Hixie> {
        match &self.rare {
            Some(rare) => match &rare.hixie {
                Some(hixie) => Some(hixie),
                None => None,
            },
            None => None,
        }
    }

    fn hixie_mut(&mut self) -> Option<&mut Hixie> {
        self.rare.as_mut()?.hixie.as_deref_mut()
    }

    /// Which framing it speaks.
    pub const fn version(&self) -> Version {
        match self.hixie() {
            None => Version::Rfc6455,
            Some(_) => Version::Hixie76,
        }
    }

    /// Which side this is.
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Whether our close frame was written: nothing can be sent any more.
    pub const fn is_close_sent(&self) -> bool {
        self.close_sent
            && match self.hixie() {
                None => true,
                Some(hixie) => hixie.is_close_sent(),
            }
    }

    /// Whether the peer's close frame came, or a violation: nothing is received any more.
    pub const fn is_input_ended(&self) -> bool {
        self.input_ended
    }

    /// Has messages handed out piece by piece, as they come, from here on or not: each
    /// [`Event::Message`] is a piece then, whose message goes on if
    /// [`is_in_message`](Self::is_in_message) says so. Their length has no limit. Text is checked
    /// as a whole, so that a piece may end in the middle of a character. Compressed messages, and
    /// those of hixie-76, come whole all the same.
    ///
    /// Returns what was put together of the message in progress, which is its first piece.
    pub fn hand_out_pieces(&mut self, on: bool) -> Option<(MessageKind, Box<MessageBuffer>)> {
        self.marks.set(Marks::PIECEWISE, on);
        if !on || self.is_compressed() {
            return None;
        }
        Some((self.kind?, self.message.take()?))
    }

    /// Whether a message has begun that has not come whole.
    pub const fn is_in_message(&self) -> bool {
        self.kind.is_some()
    }

    /// Takes what was received and returns the next event, until the input is used up.
    ///
    /// Call it until it returns `None`; the input is empty then. Once
    /// [`is_input_ended`](Self::is_input_ended), input is thrown away.
    #[inline]
    pub fn receive<'a, S: Sink>(
        &mut self,
        input: &mut &'a mut [u8],
        context: &mut Context<'_, S>,
    ) -> Option<Event<'a>> {
        loop {
            let mut frames = u32::MAX;
            let event = self.receive_some(input, &mut frames, context);
            if event.is_some() || !self.is_inflating() {
                return event;
            }
        }
    }

    /// As [`receive`](Self::receive), but it also returns `None` when it has looked at `frames`
    /// frames, which are counted down: there is input left then, unless nothing was left to do. And
    /// it does so after each step of [inflating](Self::is_inflating) a message, be there input left
    /// or not. Fragments bring no events, and a long compressed message only one in the end, so
    /// that without it one call may take long.
    #[inline]
    pub fn receive_some<'a, S: Sink>(
        &mut self,
        input: &mut &'a mut [u8],
        frames: &mut u32,
        context: &mut Context<'_, S>,
    ) -> Option<Event<'a>> {
        if self.is_between_messages() {
            let bytes_max = context.limits.message_bytes_max;
            let whole = match self.role {
                Role::Client => take_whole::<false>(input, bytes_max),
                Role::Server => take_whole::<true>(input, bytes_max),
            };
            match whole {
                Whole::Message(kind, framed) => {
                    let payload = Payload::Borrowed(framed);
                    return Some(Event::Message { kind, payload });
                }
                Whole::NotText => {
                    let error = ProtocolError::TextNotUtf8;
                    return Some(self.fail_connection(error, context));
                }
                Whole::Other => {}
            }
        }
        self.receive_any(input, frames, context)
    }

    /// Takes as many whole messages as come next and fit into the batch, each of them a single
    /// frame with at most 125 bytes of payload that lies in the input. Returns whether the batch is
    /// full, so that more may follow; if not, [`receive`](Self::receive) is to be called for what
    /// comes next.
    ///
    /// Many small messages in one read cost most when each is handed out before the next one is
    /// looked at: the loop leaves its registers, and the first thing done with a payload is to read
    /// what was written a moment ago in pieces of another size.
    #[inline]
    pub fn receive_batch<'a, S: Sink>(
        &mut self,
        input: &mut &'a mut [u8],
        batch: &mut Batch<'a>,
        context: &mut Context<'_, S>,
    ) -> bool {
        *batch = Batch::of_at_most(batch.most);
        if !self.is_between_messages() {
            return false;
        }
        let bytes_max = context.limits.message_bytes_max;
        match self.role {
            Role::Client => fill::<false>(input, batch, bytes_max),
            Role::Server => fill::<true>(input, batch, bytes_max),
        }
    }

    /// Nothing is in progress, and messages are looked at.
    #[inline(always)]
    fn is_between_messages(&self) -> bool {
        matches!(self.progress, Progress::Header(Spill { len: 0, .. }))
            && self.kind.is_none()
            && !self.close_sent
            && !self.input_ended
    }

    /// Whether a message has come whole and was inflated in part: the next call of
    /// [`receive_some`](Self::receive_some) goes on with it, with or without more input.
    #[inline]
    pub const fn is_inflating(&self) -> bool {
        self.marks.has(Marks::INFLATING) && !self.input_ended
    }

    /// From here on nobody wants messages: what is compressed stays so, as after a close frame of
    /// ours.
    pub const fn discard_messages(&mut self) {
        self.marks.set(Marks::UNWANTED, true);
    }

    #[inline(never)]
    fn receive_any<'a, S: Sink>(
        &mut self,
        input: &mut &'a mut [u8],
        frames: &mut u32,
        context: &mut Context<'_, S>,
    ) -> Option<Event<'a>> {
        if self.hixie().is_some() {
            return self.receive_hixie(input, context);
        }
        loop {
            if self.input_ended {
                *input = &mut [];
                return None;
            }
            if self.is_inflating() {
                match self.go_on_inflating(context) {
                    Ok(None) if self.is_inflating() => return None,
                    Ok(None) => {}
                    Ok(event) => return event,
                    Err(error) => return Some(self.fail_connection(error, context)),
                }
            }
            let Progress::Frame {
                opcode,
                fin,
                key,
                remaining,
            } = self.progress
            else {
                if *frames == 0 {
                    return None;
                }
                *frames -= 1;
                match self.receive_header(input, context) {
                    Ok(true) => continue,
                    Ok(false) => return None,
                    Err(error) => return Some(self.fail_connection(error, context)),
                }
            };
            if remaining > 0 && input.is_empty() {
                return None;
            }
            let len = usize::try_from(remaining).map_or(input.len(), |n| n.min(input.len()));
            let (bytes, rest) = mem::take(input).split_at_mut(len);
            *input = rest;
            let remaining = remaining - len as u64;
            let is_complete = remaining == 0;
            self.progress = if is_complete {
                Progress::START
            } else {
                Progress::Frame {
                    opcode,
                    fin,
                    key: key.rotated(len),
                    remaining,
                }
            };
            let piece = Piece {
                bytes,
                key,
                remaining,
                is_last: is_complete && fin,
            };
            let event = if opcode.is_control() {
                self.control_piece(opcode, piece, context)
            } else {
                self.data_piece(piece, context)
            };
            match event {
                Ok(None) if self.is_inflating() => return None,
                Ok(None) => {}
                Ok(Some(event)) => return Some(event),
                Err(error) => return Some(self.fail_connection(error, context)),
            }
        }
    }

    #[cold]
    fn receive_hixie<'a, S: Sink>(
        &mut self,
        input: &mut &'a mut [u8],
        context: &mut Context<'_, S>,
    ) -> Option<Event<'a>> {
        let ended = self.input_ended;
        let Some(hixie) = self.hixie_mut().filter(|_| !ended) else {
            *input = &mut [];
            return None;
        };
        match hixie.receive(input, context) {
            Ok(event) => {
                if matches!(event, Some(Event::Close(_))) {
                    self.input_ended = true;
                    self.release(context.pool, context.codec);
                }
                event
            }
            Err(error) => Some(self.fail_connection(error, context)),
        }
    }

    /// Reads a header, from the spill and the input together if it is split. Returns whether there
    /// is a whole one.
    fn receive_header<S>(
        &mut self,
        input: &mut &mut [u8],
        context: &mut Context<'_, S>,
    ) -> Result<bool, ProtocolError> {
        if input.is_empty() {
            return Ok(false);
        }
        let Progress::Header(spill) = &mut self.progress else {
            return Ok(true);
        };
        let (header, used) = if spill.len == 0 {
            if let (Some(session), Some(first)) = (deflate_of(&mut self.rare), input.first_mut()) {
                session.take_bit(first)?;
            }
            match FrameHeader::decode(input, self.role)? {
                Some(found) => found,
                None => {
                    // A whole header is 14 bytes at most, so what is incomplete fits.
                    spill.bytes[..input.len()].copy_from_slice(input);
                    spill.len = input.len() as u8;
                    self.forget_known();
                    *input = &mut [];
                    return Ok(false);
                }
            }
        } else {
            let before = usize::from(spill.len);
            let mut bytes = [0; HEADER_BYTES_MAX];
            let more = input.len().min(HEADER_BYTES_MAX - before);
            bytes[..before].copy_from_slice(&spill.bytes[..before]);
            bytes[before..before + more].copy_from_slice(&input[..more]);
            match FrameHeader::decode(&bytes[..before + more], self.role)? {
                // The spill alone was no header, so this one ends in the input.
                Some((header, len)) => (header, len - before),
                None => {
                    spill.bytes[before..before + more].copy_from_slice(&input[..more]);
                    spill.len += more as u8;
                    *input = &mut [];
                    return Ok(false);
                }
            }
        };
        *input = &mut mem::take(input)[used..];
        self.begin_frame(&header, context.limits)?;
        Ok(true)
    }

    /// A header begins, or ends: outside of a message, nobody has looked at what it brings.
    const fn forget_known(&mut self) {
        if self.kind.is_none() {
            self.marks.set(Marks::KNOWN, false);
        }
    }

    /// Checks a header against what came before it (section 5.4) and against the limits.
    fn begin_frame(&mut self, header: &FrameHeader, limits: &Limits) -> Result<(), ProtocolError> {
        let kind = match (header.opcode, self.kind) {
            (Opcode::Continuation, None) => {
                return Err(ProtocolError::ContinuationWithoutMessage);
            }
            (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(ProtocolError::MessageInterleaved);
            }
            (Opcode::Text, None) => Some(MessageKind::Text),
            (Opcode::Binary, None) => Some(MessageKind::Binary),
            (_, kind) => kind,
        };
        self.forget_known();
        if !header.opcode.is_control() {
            if self.kind.is_none() {
                self.fragments = 0;
                self.empty_fragments = 0;
                self.validator = Validator::new();
            }
            let before = self
                .message
                .as_ref()
                .map_or(0, |message| message.written().len() as u64);
            let bytes_max = self.frames_bytes_max(limits).saturating_sub(before);
            if header.payload_len > bytes_max && !self.is_piecewise() {
                return Err(ProtocolError::MessageTooBig);
            }
            self.fragments += 1;
            if self.fragments > limits.message_fragments_max {
                return Err(ProtocolError::FragmentFlood);
            }
            if header.payload_len == 0 && !header.fin {
                self.empty_fragments += 1;
                if self.empty_fragments > limits.message_empty_fragments_max {
                    return Err(ProtocolError::EmptyFragmentFlood);
                }
            }
        }
        self.kind = kind;
        self.progress = Progress::Frame {
            opcode: header.opcode,
            fin: header.fin,
            key: header.key.unwrap_or(MaskingKey::new([0; 4])),
            remaining: header.payload_len,
        };
        Ok(())
    }

    /// A piece of a data frame.
    fn data_piece<'a, S>(
        &mut self,
        piece: Piece<'a>,
        context: &mut Context<'_, S>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if self.is_compressed() {
            return self.compressed_piece(piece, context);
        }
        let Piece {
            bytes,
            key,
            remaining,
            is_last,
        } = piece;
        // `begin_frame` let no data frame through without a message.
        let kind = self.kind.unwrap_or(MessageKind::Binary);
        let masked = self.role == Role::Server;
        if self.is_piecewise() {
            return self.whole_piece(kind, bytes, key, is_last);
        }
        if is_last && self.message.is_none() {
            match (kind, masked) {
                (MessageKind::Binary, true) => mask::apply(bytes, key),
                (MessageKind::Binary, false) => {}
                (MessageKind::Text, true) => {
                    utf8::unmask_and_validate(bytes, key, &mut self.validator)
                        .map_err(|_| ProtocolError::TextNotUtf8)?;
                }
                (MessageKind::Text, false) => {
                    self.validator
                        .push(bytes)
                        .map_err(|_| ProtocolError::TextNotUtf8)?;
                }
            }
            let payload = Payload::Borrowed(Framed::without_header(bytes));
            return self.message_complete(kind, payload, context.pool);
        }
        if !bytes.is_empty() {
            // Judged from the header as a rule; not while messages were handed out in pieces.
            let before = self
                .message
                .as_ref()
                .map_or(0, |message| message.written().len());
            if (before + bytes.len()) as u64 > self.frames_bytes_max(context.limits) {
                return Err(ProtocolError::MessageTooBig);
            }
            let trusted = self.trusted_bytes();
            let len = bytes.len();
            let room = room_for(&mut self.message, len, remaining, trusted, context.pool)?;
            match kind {
                MessageKind::Binary => mask::copy(room, bytes, key),
                MessageKind::Text => {
                    utf8::copy_unmask_and_validate(room, bytes, key, &mut self.validator)
                        .map_err(|_| ProtocolError::TextNotUtf8)?;
                }
            }
        }
        if !is_last {
            return Ok(None);
        }
        let payload = match self.message.take() {
            Some(mut message) => {
                self.trust(message.written().len());
                if self.role == Role::Server {
                    message.put_header(kind.opcode());
                }
                Payload::Owned(message)
            }
            None => Payload::Borrowed(Framed::without_header(bytes)),
        };
        self.message_complete(kind, payload, context.pool)
    }

    fn is_piecewise(&self) -> bool {
        self.marks.has(Marks::PIECEWISE) && !self.is_compressed()
    }

    /// Hands out a piece of a message where it was received.
    fn whole_piece<'a>(
        &mut self,
        kind: MessageKind,
        piece: &'a mut [u8],
        key: MaskingKey,
        is_last: bool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        if self.role == Role::Server {
            mask::apply(piece, key);
        }
        if kind == MessageKind::Text {
            self.validator
                .push(piece)
                .map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        if is_last {
            self.kind = None;
            if kind == MessageKind::Text && self.validator.finish().is_err() {
                return Err(ProtocolError::TextNotUtf8);
            }
        }
        if self.close_sent || piece.is_empty() && !is_last {
            return Ok(None);
        }
        let payload = Payload::Borrowed(Framed::without_header(piece));
        Ok(Some(Event::Message { kind, payload }))
    }

    fn message_complete<'a>(
        &mut self,
        kind: MessageKind,
        payload: Payload<'a>,
        pool: &mut MessagePool,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        self.kind = None;
        let is_text = kind == MessageKind::Text;
        if is_text && self.validator.finish().is_err() {
            pool.reclaim(payload);
            return Err(ProtocolError::TextNotUtf8);
        }
        if self.close_sent {
            pool.reclaim(payload);
            return Ok(None);
        }
        Ok(Some(Event::Message { kind, payload }))
    }

    fn forget_message(&mut self, pool: &mut MessagePool) {
        if let Some(message) = self.message.take() {
            pool.give_back(message);
        }
    }

    /// A piece of a control frame, whose messages are never in several.
    fn control_piece<'a, S: Sink>(
        &mut self,
        opcode: Opcode,
        piece: Piece<'a>,
        context: &mut Context<'_, S>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        let begun = self.rare.as_mut().and_then(|rare| rare.control.take());
        let payload = if piece.is_last && begun.is_none() {
            mask::apply(piece.bytes, piece.key);
            Payload::Borrowed(Framed::without_header(piece.bytes))
        } else {
            let mut control = begun.unwrap_or_else(|| context.pool.take());
            let (len, pool) = (piece.bytes.len(), &mut *context.pool);
            match pool.extend(&mut control, len, CONTROL_BYTES_MAX, 0) {
                Ok(room) => mask::copy(room, piece.bytes, piece.key),
                Err(NoRoom) => {
                    pool.give_back(control);
                    return Err(ProtocolError::NoMemory);
                }
            }
            if !piece.is_last {
                self.rare.get_or_insert_default().control = Some(control);
                return Ok(None);
            }
            Payload::Owned(control)
        };
        match opcode {
            Opcode::Ping => {
                if !self.close_sent {
                    write_frame(context, self.role, Opcode::Pong, true, &payload);
                }
                Ok(Some(Event::Ping(payload)))
            }
            Opcode::Pong => Ok(Some(Event::Pong(payload))),
            _ => match check_close(&payload) {
                Ok(code) => {
                    self.input_ended = true;
                    self.release(context.pool, context.codec);
                    if !self.close_sent {
                        // Section 5.5.1: the answer typically echoes the status code.
                        self.close_sent = true;
                        let end = payload.len().min(2);
                        write_frame(context, self.role, Opcode::Close, true, &payload[..end]);
                    }
                    Ok(Some(Event::Close(CloseFrame { code, payload })))
                }
                Err(error) => {
                    context.pool.reclaim(payload);
                    Err(error)
                }
            },
        }
    }

    /// Fails the connection for text that is not UTF-8, which a batch found.
    #[cold]
    pub fn fail_text<S: Sink>(&mut self, context: &mut Context<'_, S>) -> ProtocolError {
        let error = ProtocolError::TextNotUtf8;
        self.fail_connection(error, context);
        error
    }

    /// Ends the connection because what has begun does not get on (`message_timeout_ms`).
    #[cold]
    pub fn give_up<S: Sink>(&mut self, context: &mut Context<'_, S>) {
        self.input_ended = true;
        self.release(context.pool, context.codec);
        let reason = "a message took too long";
        let _ = self.close(CloseCode::POLICY_VIOLATION, reason, context);
    }

    /// Fails the connection (section 7.1.7): says why, if nothing was said yet, and is deaf from
    /// here on.
    #[cold]
    fn fail_connection<'a, S: Sink>(
        &mut self,
        error: ProtocolError,
        context: &mut Context<'_, S>,
    ) -> Event<'a> {
        self.input_ended = true;
        self.release(context.pool, context.codec);
        let _ = self.close(error.close_code(), error.reason(), context);
        Event::Failed(error)
    }

    /// From here on, input is thrown away, as after a violation.
    pub const fn end_input(&mut self) {
        self.input_ended = true;
    }

    /// Gives pooled buffers back. Called when the connection is over, however it ended.
    pub fn release(&mut self, pool: &mut MessagePool, codec: &mut Codec) {
        self.forget_message(pool);
        self.forget_inflating(pool, codec);
        let Some(rare) = &mut self.rare else {
            return;
        };
        if let Some(control) = rare.control.take() {
            pool.give_back(control);
        }
        if let Some(hixie) = &mut rare.hixie {
            hixie.release(pool);
        }
    }

    /// What sending comes to where `close_sent` is on.
    #[cold]
    fn send_otherwise<S: Sink>(
        &mut self,
        outgoing: Outgoing<'_>,
        context: &mut Context<'_, S>,
    ) -> Result<(), SendError> {
        match self.hixie_mut() {
            None => Err(SendError::Closed),
            Some(hixie) => hixie.send(outgoing, &mut context.sink),
        }
    }

    /// Writes a message.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] once our close frame was written. [`SendError::Unsupported`] for
    /// binary to a hixie-76 peer that has not sent any itself: it may be a browser, which would
    /// throw it away.
    #[inline(always)]
    pub fn send<S: Sink>(
        &mut self,
        outgoing: Outgoing<'_>,
        context: &mut Context<'_, S>,
    ) -> Result<(), SendError> {
        if self.close_sent {
            return self.send_otherwise(outgoing, context);
        }
        if self.is_compressing() && self.send_compressed(&outgoing, usize::MAX, context) {
            return Ok(());
        }
        let opcode = outgoing.kind.opcode();
        match outgoing.payload {
            OutgoingPayload::Framed { frame, .. } if self.role == Role::Server => {
                context.sink.write(frame);
            }
            OutgoingPayload::Shared(payload) => self.send_shared(opcode, payload, context),
            _ => write_frame(context, self.role, opcode, true, outgoing.payload()),
        }
        Ok(())
    }

    /// Writes a message, if it is one that matters most: from a server, of at most 125 bytes, that
    /// is to be copied. Returns whether it was; if not, [`send`](Self::send) is to be called.
    ///
    /// It is apart because two bytes of header and a short copy need nothing of a [`Context`].
    #[inline(always)]
    pub fn send_short<S: Sink>(&mut self, outgoing: &Outgoing<'_>, sink: &mut S) -> bool {
        if self.role == Role::Client || self.close_sent {
            return false;
        }
        match outgoing.payload {
            OutgoingPayload::Framed { frame, .. } => {
                if frame.len() > SHORT_FRAME_BYTES_MAX {
                    return false;
                }
                copy_short(sink.space(frame.len()), frame);
                sink.commit(frame.len());
            }
            OutgoingPayload::Borrowed(payload) => {
                let total = 2 + payload.len();
                if total > SHORT_FRAME_BYTES_MAX {
                    return false;
                }
                let Some((start, room)) = sink.space(total).split_first_chunk_mut() else {
                    return false;
                };
                *start = [0x80 | outgoing.kind.opcode() as u8, payload.len() as u8];
                copy_short(room, payload);
                sink.commit(total);
            }
            OutgoingPayload::Shared(_) => return false,
        }
        true
    }

    /// Whether a short message with a server's header in front of it is sent as it lies there.
    pub const fn sends_as_received(&self) -> bool {
        matches!(self.role, Role::Server) && !self.close_sent
    }

    /// The frame as which the message would be sent, if it lies there already. Whether one that may
    /// be compressed gets shorter is for [`send`](Self::send) to find out.
    pub fn as_sent<'m>(&self, outgoing: &Outgoing<'m>, codec: &Codec) -> Option<&'m [u8]> {
        match outgoing.payload {
            OutgoingPayload::Framed { frame, .. }
                if self.sends_as_received() && !self.may_compress(outgoing, codec) =>
            {
                Some(frame)
            }
            _ => None,
        }
    }

    /// Whether the message would be compressed, if it gets shorter.
    #[inline]
    pub fn may_compress(&self, outgoing: &Outgoing<'_>, codec: &Codec) -> bool {
        self.is_compressing() && codec.wants(outgoing.payload_len())
    }

    fn send_shared<S: Sink>(
        &mut self,
        opcode: Opcode,
        payload: Bytes,
        context: &mut Context<'_, S>,
    ) {
        // A client's payload is masked, so that it has to be written anew.
        if self.role == Role::Client || payload.len() < ADOPT_BYTES_MIN {
            write_frame(context, self.role, opcode, true, &payload);
            return;
        }
        let header = FrameHeader::of_server(opcode, payload.len() as u64);
        let mut bytes = [0; HEADER_BYTES_MAX];
        let len = header.encode(&mut bytes);
        context.sink.adopt_framed(&bytes[..len], payload);
    }

    /// Writes a message as several frames with at most `fragment_bytes` bytes of payload each
    /// (section 5.4), at least one. Hixie-76 has no fragments: there it is [`send`](Self::send).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Panics
    ///
    /// When `fragment_bytes` is 0.
    pub fn send_fragmented<S: Sink>(
        &mut self,
        outgoing: &Outgoing<'_>,
        fragment_bytes: usize,
        context: &mut Context<'_, S>,
    ) -> Result<(), SendError> {
        assert!(
            fragment_bytes > 0,
            "a fragment of no bytes never comes to the end of a message"
        );
        if self.close_sent {
            return self.send_otherwise(outgoing.clone(), context);
        }
        if self.send_compressed(outgoing, fragment_bytes, context) {
            return Ok(());
        }
        let payload = outgoing.payload();
        let mut opcode = outgoing.kind.opcode();
        let mut rest = payload;
        loop {
            let (fragment, later) = rest.split_at(fragment_bytes.min(rest.len()));
            rest = later;
            write_frame(context, self.role, opcode, rest.is_empty(), fragment);
            opcode = Opcode::Continuation;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Writes a ping or pong.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] for more than 125 bytes, [`SendError::Closed`];
    /// [`SendError::Unsupported`] to a hixie-76 peer.
    pub fn send_control<S: Sink>(
        &mut self,
        control: Control,
        payload: &[u8],
        context: &mut Context<'_, S>,
    ) -> Result<(), SendError> {
        if payload.len() > CONTROL_BYTES_MAX {
            return Err(SendError::ControlTooLong);
        }
        if self.close_sent {
            return Err(if self.is_close_sent() {
                SendError::Closed
            } else {
                SendError::Unsupported
            });
        }
        let opcode = match control {
            Control::Ping => Opcode::Ping,
            Control::Pong => Opcode::Pong,
        };
        write_frame(context, self.role, opcode, true, payload);
        Ok(())
    }

    /// Starts the closing handshake (section 7.1.2): writes a close frame, after which nothing else
    /// can be sent. Messages that arrive until the peer's answer are not handed out.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] for a reason of more than 123 bytes, [`SendError::Closed`]
    /// when a close frame was written before.
    pub fn close<S: Sink>(
        &mut self,
        code: CloseCode,
        reason: &str,
        context: &mut Context<'_, S>,
    ) -> Result<(), SendError> {
        if reason.len() > CLOSE_REASON_BYTES_MAX {
            return Err(SendError::ControlTooLong);
        }
        if self.close_sent {
            return match self.hixie_mut() {
                None => Err(SendError::Closed),
                // Its close frame has room for neither.
                Some(hixie) => hixie.close(&mut context.sink),
            };
        }
        let mut payload = [0; CONTROL_BYTES_MAX];
        let len = 2 + reason.len();
        payload[..2].copy_from_slice(&code.number().to_be_bytes());
        payload[2..len].copy_from_slice(reason.as_bytes());
        self.close_sent = true;
        write_frame(context, self.role, Opcode::Close, true, &payload[..len]);
        Ok(())
    }
}

/// The control frames that an application may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Asks for a pong.
    Ping,
    /// Unasked, a sign of life (section 5.5.3).
    Pong,
}

/// The status code of a close frame's payload (section 5.5.1).
fn check_close(payload: &[u8]) -> Result<Option<CloseCode>, ProtocolError> {
    let (number, reason) = match payload {
        [] => return Ok(None),
        [_] => return Err(ProtocolError::CloseBodyTooShort),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    let code = CloseCode::new(number).ok_or(ProtocolError::CloseCodeNotAllowed(number))?;
    utf8::validate(reason).map_err(|_| ProtocolError::CloseReasonNotUtf8)?;
    Ok(Some(code))
}

/// Payloads with a 7 bit length.
const SHORT_BYTES_MAX: usize = 125;

/// A server's frames with such a payload.
const SHORT_FRAME_BYTES_MAX: usize = 2 + SHORT_BYTES_MAX;

/// Copies a few bytes without a call of memcpy, which costs as much again: two pieces that overlap
/// in the middle, both read before either is written.
#[inline(always)]
fn copy_short(destination: &mut [u8], source: &[u8]) {
    macro_rules! ends {
        ($word:ty, $bytes:literal) => {
            if let (Some(first), Some(last)) = (
                source.first_chunk::<$bytes>(),
                source.last_chunk::<$bytes>(),
            ) {
                let (first, last) = (
                    <$word>::from_ne_bytes(*first),
                    <$word>::from_ne_bytes(*last),
                );
                if let Some(start) = destination.first_chunk_mut() {
                    *start = first.to_ne_bytes();
                }
                if let Some(end) = destination.last_chunk_mut() {
                    *end = last.to_ne_bytes();
                }
            }
        };
    }
    match source.len() {
        16..=32 => ends!(u128, 16),
        8..=15 => ends!(u64, 8),
        4..=7 => ends!(u32, 4),
        _ => destination.copy_from_slice(source),
    }
}

/// Writes one frame, masked if a client sends it.
fn write_frame<S: Sink>(
    context: &mut Context<'_, S>,
    role: Role,
    opcode: Opcode,
    fin: bool,
    payload: &[u8],
) {
    let key = match role {
        Role::Client => Some(context.keys.next_key()),
        Role::Server => None,
    };
    let header = FrameHeader {
        fin,
        opcode,
        payload_len: payload.len() as u64,
        key,
    };
    let header_len = header.encoded_len();
    let total = header_len + payload.len();
    // A copy with key zero: for the short payloads that matter it is cheaper than a call of memcpy.
    let key = key.unwrap_or(MaskingKey::new([0; 4]));
    let space = context.sink.space(total);
    header.encode(space);
    let room = &mut space[header_len..];
    if let Some(room) = room.get_mut(..payload.len()) {
        mask::copy(room, payload, key);
        context.sink.commit(total);
        return;
    }
    // It does not fit into one space.
    let first = room.len();
    mask::copy(room, &payload[..first], key);
    context.sink.commit(header_len + first);
    write_rest(&mut context.sink, &payload[first..], key.rotated(first));
}

/// Writes what is left of a payload, space by space.
fn write_rest<S: Sink>(sink: &mut S, mut payload: &[u8], mut key: MaskingKey) {
    while !payload.is_empty() {
        let room = sink.space(payload.len());
        let len = room.len();
        mask::copy(room, &payload[..len], key);
        sink.commit(len);
        key = key.rotated(len);
        payload = &payload[len..];
    }
}
