//! Reading compressed messages (RFC 7692 section 7.2.2).
//!
//! Knows: whole messages, step by step, their limits, and that text has to be UTF-8. Refuses to
//! know: frames, and on which connection a message came.
//!
//! A message is inflated when all of it is there. Until then a connection holds what its peer has
//! sent and not what that would become, so that a thousand connections with a bomb each that never
//! ends cost what they sent. While it is inflated, every limit is judged piece by piece: what is
//! too long stops at the piece that shows it.
//!
//! One step costs no more than a stated time, whatever was sent. Most messages need no other, and
//! share one inflater. What is left after the first step takes the inflater with it, and is gone on
//! with when somebody asks for it.
//!
//! Of messages that get long, one grows at a time, and the others wait as they are: side by side, a
//! hundred of 16 MiB would take all of their memory at once, and not be done any sooner.
//!
//! Invariant: what a message comes to does not depend on where its steps end.

use std::mem;

use zlib_rs::{Inflate, InflateFlush, Status};

use super::{TAIL, Window, held};
use crate::{
    kernels::utf8::Validator,
    proto::{
        MessageKind, MessagePool, ProtocolError,
        message::{MessageBuffer, NoRoom},
    },
};

/// An empty final block of our own behind the [`TAIL`]: the stream ends with it, and with nothing
/// more, when the message ended where a block does.
const END: [u8; 2] = [0x03, 0x00];

/// What is inflated before its limits and its text are judged: it is in the cache still.
const PIECE_BYTES: usize = 32 << 10;

/// Room for an inflated message at first, if its compressed bytes do not suggest more.
const FIRST_BYTES: usize = 1 << 10;

/// How many times their own length compressed bytes become in ordinary text.
const USUAL_RATIO: usize = 4;

/// Messages that inflate to no more than this are not judged by their ratio: they cost little, and
/// a few repeated bytes are no attack.
pub const RATIO_FREE_BYTES: u64 = 64 << 10;

/// The most final blocks inside of one message (section 7.2.3.5). Each ends a stream, and the next
/// one begins with a copy of the window, which takes 2 us. A sender that flushes that way needs one
/// for each fragment.
const FINAL_BLOCKS_MAX: u32 = 4096;

/// So many final blocks a message may have whatever its length.
const FINAL_BLOCKS_FREE: u32 = 1024;

/// Beyond those, one for so many compressed bytes: two of them cost nothing to send.
const FINAL_BLOCK_BYTES: usize = 32;

/// The most final blocks inside of a message of so many compressed bytes.
fn final_blocks_max(compressed_bytes: usize) -> u32 {
    let earned = u32::try_from(compressed_bytes / FINAL_BLOCK_BYTES).unwrap_or(u32::MAX);
    earned
        .saturating_add(FINAL_BLOCKS_FREE)
        .min(FINAL_BLOCKS_MAX)
}

/// What a message and a final block cost about, beside the bytes.
const MESSAGE_NS: u64 = 2_000;
const FINAL_BLOCK_NS: u64 = 2_000;

/// Compressed bytes that are looked at before it is asked what they have cost: a block that becomes
/// nothing may take a microsecond, and needs 12 of them.
const INPUT_BYTES: usize = 4 << 10;

/// What a compressed byte costs about that becomes nothing.
const BARREN_BYTE_NS: u64 = 32;

/// What one step may cost, about: a third of a connection's share of a turn.
pub const STEP_NS: u64 = 64_000;

/// Up to this length messages grow side by side.
pub const GROW_FREELY_BYTES: usize = 64 << 10;

/// What it costs about to see that a message has to wait.
const WAIT_NS: u64 = 500;

/// Whoever grows is gone on with as often as each of the others, unless nobody asks for the
/// message. When it was not, for this many times as often as there are messages in progress, it is
/// held up, and another one grows.
const HELD_UP_ROUNDS: usize = 4;

/// So many times it may be in any case.
const HELD_UP_MIN: usize = 64;

/// Inflaters that are kept for the next messages.
const SPARE_MAX: usize = 4;

/// What it costs about to make so many bytes of so many.
fn bytes_ns(read: usize, written: usize) -> u64 {
    let (read, written) = (read as u64, written as u64);
    let usual = written / 2 + 2 * read;
    usual.max(BARREN_BYTE_NS * read.saturating_sub(written))
}

/// What an inflated message may be.
#[derive(Clone, Copy, Debug)]
pub struct InflateLimits {
    /// The longest message, in bytes.
    pub message_bytes_max: u64,
    /// The most bytes that a compressed byte may become, on the average of a message that is longer
    /// than [`RATIO_FREE_BYTES`]. 0: any number.
    pub ratio_max: u32,
}

impl InflateLimits {
    /// The longest message of these compressed bytes, and what a longer one is.
    fn longest(&self, compressed_bytes: usize) -> (u64, ProtocolError) {
        let by_ratio = (compressed_bytes as u64)
            .saturating_mul(u64::from(self.ratio_max))
            .max(RATIO_FREE_BYTES);
        if self.ratio_max > 0 && by_ratio < self.message_bytes_max {
            return (by_ratio, ProtocolError::InflateRatio);
        }
        (self.message_bytes_max, ProtocolError::MessageTooBig)
    }
}

/// Inflates messages of any number of connections, a step of one after a step of another.
pub struct Inflater {
    #[expect(
        clippy::vec_box,
        reason = "inflaters move between messages and the spare ones as a box"
    )]
    spare: Vec<Box<Inflate>>,
    /// Inflaters that messages in progress have taken with them.
    out: usize,
    /// Which message gets long, if one does.
    growing: Option<Ticket>,
    /// How often others were told to wait since that one was gone on with.
    told_to_wait: usize,
    tickets: u64,
    grow_freely_bytes: usize,
    /// Steps in which a message grew beyond that.
    grown: u64,
    cost_ns: u64,
    step_ns: u64,
    /// The most that one step has cost.
    longest_step_ns: u64,
}

/// Names a message in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticket(u64);

impl Default for Inflater {
    fn default() -> Self {
        Self {
            spare: Vec::new(),
            out: 0,
            growing: None,
            told_to_wait: 0,
            tickets: 0,
            grow_freely_bytes: GROW_FREELY_BYTES,
            grown: 0,
            cost_ns: 0,
            step_ns: STEP_NS,
            longest_step_ns: 0,
        }
    }
}

/// How far a message has come.
pub enum Progress {
    /// It is whole.
    Whole(Box<MessageBuffer>),
    /// There is more of it.
    Begun(Box<MessageBuffer>, Stream),
}

/// A message between two steps: what it takes to go on, beside its bytes.
pub struct Stream {
    /// Nobody else's until the message is whole.
    inflate: Box<Inflate>,
    ticket: Ticket,
    /// Another message grows, which this one has to wait for.
    waits: bool,
    kind: MessageKind,
    /// Compressed bytes that were looked at.
    at: usize,
    /// What is looked at now: the payload, the tail, the end.
    part: Part,
    validator: Validator,
    /// Bytes that are inflated before they are judged.
    room: usize,
    final_blocks: u32,
    final_blocks_max: u32,
    /// The longest that the message may be, and what it is if it is longer.
    longest: u64,
    too_long: ProtocolError,
}

impl Stream {
    /// Compressed bytes that were looked at.
    pub const fn at(&self) -> usize {
        self.at
    }

    /// Whether it waits until another message has grown.
    pub const fn waits(&self) -> bool {
        self.waits
    }

    /// The compressed bytes begin somewhere else from here on: with those not looked at.
    pub const fn rebase(&mut self) {
        self.at = 0;
    }
}

/// What is inflated: what the sender sent, and what it left out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Payload,
    Tail(usize),
    End(usize),
}

impl Inflater {
    /// Bytes that it holds, those of messages in progress included.
    pub fn held_bytes(&self) -> usize {
        (self.spare.len() + self.out) * held::INFLATE_BYTES
    }

    /// What it has cost since this was asked before, in nanoseconds: an estimate.
    pub fn take_cost_ns(&mut self) -> u64 {
        mem::take(&mut self.cost_ns)
    }

    /// From here on, one step costs so much, about.
    pub const fn set_step_ns(&mut self, ns: u64) {
        self.step_ns = ns;
    }

    /// From here on, messages of up to so many bytes grow side by side.
    pub const fn set_grow_freely_bytes(&mut self, bytes: usize) {
        self.grow_freely_bytes = bytes;
    }

    /// Steps in which a message grew that others may have waited for.
    pub const fn grown(&self) -> u64 {
        self.grown
    }

    /// The most that one step has cost so far.
    pub const fn longest_step_ns(&self) -> u64 {
        self.longest_step_ns
    }

    /// Begins to inflate a message, into a buffer of the pool. It may refer to what is in `window`,
    /// which is told of it when it is whole.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::DeflateInvalid`], [`ProtocolError::InflateRatio`],
    /// [`ProtocolError::MessageTooBig`], [`ProtocolError::NoMemory`],
    /// [`ProtocolError::TextNotUtf8`].
    pub fn begin(
        &mut self,
        compressed: &[u8],
        kind: MessageKind,
        limits: &InflateLimits,
        window: Option<&mut Window>,
        pool: &mut MessagePool,
    ) -> Result<Progress, ProtocolError> {
        self.cost_ns += MESSAGE_NS;
        // Some senders leave out the one byte that an empty message has (section 7.2.3.6).
        if compressed.is_empty() {
            return Ok(Progress::Whole(pool.take()));
        }
        let inflate = match self.spare.pop() {
            Some(inflate) => inflate,
            None if self.out > 0 && pool.room() < held::INFLATE_BYTES => {
                return Err(ProtocolError::NoMemory);
            }
            // A window that is smaller than agreed costs nothing to allow for, and this one
            // inflates everything. Some compressors use 9 bits where they agreed to 8.
            None => Box::new(Inflate::new(false, 15)),
        };
        self.out += 1;
        self.tickets += 1;
        let (longest, too_long) = limits.longest(compressed.len());
        let mut stream = Stream {
            inflate,
            ticket: Ticket(self.tickets),
            waits: false,
            kind,
            at: 0,
            part: Part::Payload,
            validator: Validator::new(),
            room: (compressed.len() * USUAL_RATIO).clamp(FIRST_BYTES, PIECE_BYTES),
            final_blocks: 0,
            final_blocks_max: final_blocks_max(compressed.len()),
            longest,
            too_long,
        };
        let before = window.as_deref().map_or(&[][..], Window::bytes);
        if let Err(error) = begin(&mut stream.inflate, before, &[]) {
            self.end(stream);
            return Err(error);
        }
        // Most messages are whole after this step, so that the next one has the same memory.
        let mut message = pool.take();
        pool.give_largest(&mut message);
        let begun = self.go_on(stream, message, compressed, window, pool);
        match begun {
            Ok(Progress::Begun(mut message, stream)) if self.growing != Some(stream.ticket) => {
                pool.fit(&mut message);
                Ok(Progress::Begun(message, stream))
            }
            begun => begun,
        }
    }

    /// One step of a message that has begun, with the same compressed bytes and the same window.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub fn go_on(
        &mut self,
        mut stream: Stream,
        mut message: Box<MessageBuffer>,
        compressed: &[u8],
        window: Option<&mut Window>,
        pool: &mut MessagePool,
    ) -> Result<Progress, ProtocolError> {
        let before = window.as_deref().map_or(&[][..], Window::bytes);
        let mut spent_ns = 0;
        let mut has_grown = self.growing == Some(stream.ticket);
        let is_whole = loop {
            stream.waits = !self.may_grow(message.written().len(), stream.ticket);
            if stream.waits {
                spent_ns += WAIT_NS;
                break Ok(false);
            }
            if self.growing == Some(stream.ticket) && !mem::replace(&mut has_grown, true) {
                pool.give_largest(&mut message);
            }
            match stream.piece(&mut message, compressed, before, pool, &mut spent_ns) {
                Ok(false) if spent_ns < self.step_ns => {}
                ended => break ended,
            }
        };
        self.cost_ns += spent_ns;
        self.longest_step_ns = self.longest_step_ns.max(spent_ns);
        match is_whole {
            Ok(false) => Ok(Progress::Begun(message, stream)),
            Ok(true) => {
                self.end(stream);
                if let Some(window) = window {
                    window.push(message.written());
                }
                Ok(Progress::Whole(message))
            }
            Err(error) => {
                self.end(stream);
                // What a message that failed has grown to is not worth keeping.
                pool.give_up(message);
                Err(error)
            }
        }
    }

    /// Whether a message of this length may get longer now.
    #[inline]
    fn may_grow(&mut self, len: usize, ticket: Ticket) -> bool {
        if len < self.grow_freely_bytes {
            return true;
        }
        let is_held_up = self.told_to_wait > HELD_UP_MIN + HELD_UP_ROUNDS * self.out;
        match self.growing {
            Some(growing) if growing != ticket && !is_held_up => {
                self.told_to_wait += 1;
                false
            }
            _ => {
                self.growing = Some(ticket);
                self.told_to_wait = 0;
                self.grown += 1;
                true
            }
        }
    }

    /// A message is not gone on with for now: another one may grow.
    pub fn hold_up(&mut self, stream: &Stream) {
        if self.growing == Some(stream.ticket) {
            self.growing = None;
        }
    }

    /// The inflater of a message is free again.
    pub fn end(&mut self, stream: Stream) {
        self.out -= 1;
        self.hold_up(&stream);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(stream.inflate);
        }
    }
}

impl Stream {
    /// Inflates as much as is judged at once. Returns whether the message is whole.
    fn piece(
        &mut self,
        message: &mut MessageBuffer,
        compressed: &[u8],
        before: &[u8],
        pool: &mut MessagePool,
        spent_ns: &mut u64,
    ) -> Result<bool, ProtocolError> {
        let rest = match self.part {
            Part::Payload => compressed.get(self.at..).unwrap_or_default(),
            Part::Tail(at) => &TAIL[at..],
            Part::End(at) => &END[at..],
        };
        let input = &rest[..rest.len().min(INPUT_BYTES)];
        let start = message.written().len();
        let longest = usize::try_from(self.longest).unwrap_or(usize::MAX);
        let left = longest - start;
        // One byte more than is allowed, to see whether there is one.
        let piece = self.room.min(left.saturating_add(1));
        // How long it gets is not known: memory follows what is really there.
        let place = pool.extend(message, piece, left.max(piece), 0);
        let place = place.map_err(|NoRoom| ProtocolError::NoMemory)?;
        let inflate = &mut self.inflate;
        let (read, written) = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(input, place, InflateFlush::NoFlush);
        let read = (inflate.total_in() - read) as usize;
        let written = (inflate.total_out() - written) as usize;
        let is_full = written == place.len();
        message.truncate(start + written);
        *spent_ns += bytes_ns(read, written);
        if written > left {
            return Err(self.too_long);
        }
        if matches!(self.part, Part::End(_)) && written > 0 {
            return Err(ProtocolError::DeflateInvalid);
        }
        if self.kind == MessageKind::Text {
            self.validator
                .push(&message.written()[start..])
                .map_err(|_| ProtocolError::TextNotUtf8)?;
        }
        match &mut self.part {
            Part::Payload => self.at += read,
            Part::Tail(at) | Part::End(at) => *at += read,
        }
        let is_read = read == rest.len();
        match status {
            // The stream ended with the block of ours, or with a final block of the sender's behind
            // which it has nothing to say.
            Ok(Status::StreamEnd) if is_read && !matches!(self.part, Part::Tail(_)) => {
                if self.kind == MessageKind::Text && self.validator.finish().is_err() {
                    return Err(ProtocolError::TextNotUtf8);
                }
                return Ok(true);
            }
            Ok(Status::StreamEnd) => {
                self.final_blocks += 1;
                if self.part != Part::Payload || self.final_blocks > self.final_blocks_max {
                    return Err(ProtocolError::DeflateInvalid);
                }
                *spent_ns += FINAL_BLOCK_NS;
                begin(&mut self.inflate, before, message.written())?;
            }
            Ok(Status::Ok | Status::BufError) if is_full => self.room = PIECE_BYTES,
            Ok(Status::Ok | Status::BufError) if is_read => {
                self.part = match self.part {
                    Part::Payload => Part::Tail(0),
                    Part::Tail(_) => Part::End(0),
                    // It wants more than there is.
                    Part::End(_) => return Err(ProtocolError::DeflateInvalid),
                };
            }
            // There is more than was looked at, and it got on.
            Ok(Status::Ok | Status::BufError) if read == input.len() => {}
            // It makes nothing of what it has.
            Ok(_) | Err(_) => return Err(ProtocolError::DeflateInvalid),
        }
        Ok(false)
    }
}

/// Begins a stream that may refer to these bytes, as many of the last ones as a window holds.
fn begin(inflate: &mut Inflate, before: &[u8], message: &[u8]) -> Result<(), ProtocolError> {
    const WINDOW_BYTES: usize = 1 << 15;
    let message = &message[message.len().saturating_sub(WINDOW_BYTES)..];
    let rest = WINDOW_BYTES - message.len();
    let before = &before[before.len().saturating_sub(rest)..];
    inflate.reset(false);
    for dictionary in [before, message] {
        if !dictionary.is_empty() && inflate.set_dictionary(dictionary).is_err() {
            return Err(ProtocolError::DeflateInvalid);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::deflate::deflater::Deflater;

    const LIMITS: InflateLimits = InflateLimits {
        message_bytes_max: 16 << 20,
        ratio_max: 0,
    };

    struct Message {
        progress: Option<(Box<MessageBuffer>, Stream)>,
        whole: usize,
    }

    impl Message {
        fn begin(inflater: &mut Inflater, compressed: &[u8], pool: &mut MessagePool) -> Self {
            let kind = MessageKind::Binary;
            let begun = inflater.begin(compressed, kind, &LIMITS, None, pool);
            let mut message = Self {
                progress: None,
                whole: 0,
            };
            message.see(begun.unwrap(), pool);
            message
        }

        fn step(&mut self, inflater: &mut Inflater, compressed: &[u8], pool: &mut MessagePool) {
            if let Some((buffer, stream)) = self.progress.take() {
                let gone_on = inflater.go_on(stream, buffer, compressed, None, pool);
                self.see(gone_on.unwrap(), pool);
            }
        }

        fn see(&mut self, progress: Progress, pool: &mut MessagePool) {
            match progress {
                Progress::Begun(buffer, stream) => self.progress = Some((buffer, stream)),
                Progress::Whole(buffer) => {
                    self.whole = buffer.len();
                    pool.give_back(buffer);
                }
            }
        }

        fn waits(&self) -> bool {
            self.progress.as_ref().is_some_and(|(_, it)| it.waits())
        }
    }

    fn zeros(len: usize) -> Vec<u8> {
        let mut deflater = Deflater::new(6);
        deflater.deflate(&vec![0; len], 15, None).unwrap().to_vec()
    }

    #[test]
    fn of_long_messages_one_grows_at_a_time() {
        const LEN: usize = 4 << 20;
        let (mut inflater, mut pool) = (Inflater::default(), MessagePool::new(LEN));
        let compressed = zeros(LEN);
        let begin = |_| Message::begin(&mut inflater, &compressed, &mut pool);
        let mut messages: Vec<_> = (0..50).map(begin).collect();
        let mut most_held = 0;
        let mut waited = 0;
        while messages.iter().any(|message| message.whole == 0) {
            for message in &mut messages {
                message.step(&mut inflater, &compressed, &mut pool);
                waited += usize::from(message.waits());
                most_held = most_held.max(pool.held_bytes());
            }
        }
        assert!(messages.iter().all(|message| message.whole == LEN));
        assert!(waited > 100, "{waited} waits");
        // One, twice as long while it grows, and the beginnings of all others.
        let most = 2 * LEN + 50 * 4 * GROW_FREELY_BYTES;
        assert!(most_held <= most, "{most_held} bytes of at most {most}");
        assert_eq!((inflater.out, inflater.growing), (0, None));
        // A short one waits for nobody.
        let mut long = Message::begin(&mut inflater, &compressed, &mut pool);
        long.step(&mut inflater, &compressed, &mut pool);
        let short = Message::begin(&mut inflater, &zeros(1000), &mut pool);
        assert_eq!((long.whole, short.whole), (0, 1000));
    }

    #[test]
    fn whoever_is_held_up_does_not_hold_up_others() {
        let (mut inflater, mut pool) = (Inflater::default(), MessagePool::new(0));
        let compressed = zeros(4 << 20);
        let mut first = Message::begin(&mut inflater, &compressed, &mut pool);
        first.step(&mut inflater, &compressed, &mut pool);
        let mut second = Message::begin(&mut inflater, &compressed, &mut pool);
        let mut waited = 0;
        while second.whole == 0 {
            second.step(&mut inflater, &compressed, &mut pool);
            waited += usize::from(second.waits());
        }
        assert!((64..200).contains(&waited), "{waited} waits");
        while first.whole == 0 {
            first.step(&mut inflater, &compressed, &mut pool);
        }
    }
}
