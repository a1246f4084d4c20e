//! Reading compressed messages (RFC 7692 section 7.2.2).
//!
//! Knows: one whole message at a time, its limits, and that text has to be UTF-8. Refuses to know:
//! frames, and on which connection a message came.
//!
//! A message is inflated when all of it is there. Until then a connection holds what its peer has
//! sent and not what that would become, so that a thousand connections with a bomb each that never
//! ends cost what they sent. While it is inflated, every limit is judged piece by piece: what is
//! too long stops at the piece that shows it.

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

/// Inflates messages of any number of connections, one after the other.
#[derive(Default)]
pub struct Inflater {
    inflate: Option<Box<Inflate>>,
    cost_ns: u64,
}

impl Inflater {
    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        self.inflate.as_ref().map_or(0, |_| held::INFLATE_BYTES)
    }

    /// What it has cost since this was asked before, in nanoseconds: an estimate.
    pub fn take_cost_ns(&mut self) -> u64 {
        std::mem::take(&mut self.cost_ns)
    }

    /// Inflates a message into a buffer of the pool. It may refer to what is in `window`, which is
    /// told of it.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::DeflateInvalid`], [`ProtocolError::InflateRatio`],
    /// [`ProtocolError::MessageTooBig`], [`ProtocolError::NoMemory`],
    /// [`ProtocolError::TextNotUtf8`].
    pub fn inflate(
        &mut self,
        compressed: &[u8],
        kind: MessageKind,
        limits: &InflateLimits,
        window: Option<&mut Window>,
        pool: &mut MessagePool,
    ) -> Result<Box<MessageBuffer>, ProtocolError> {
        let mut message = pool.take_roomy();
        let before = window.as_deref().map_or(&[][..], Window::bytes);
        let inflated = self.inflate_into(&mut message, compressed, kind, limits, before, pool);
        self.cost_ns += MESSAGE_NS + message.written().len() as u64 / 2;
        match inflated {
            Ok(()) => {
                if let Some(window) = window {
                    window.push(message.written());
                }
                Ok(message)
            }
            Err(error) => {
                // What a message that failed has grown to is not worth keeping.
                pool.give_up(message);
                Err(error)
            }
        }
    }

    fn inflate_into(
        &mut self,
        message: &mut MessageBuffer,
        compressed: &[u8],
        kind: MessageKind,
        limits: &InflateLimits,
        before: &[u8],
        pool: &mut MessagePool,
    ) -> Result<(), ProtocolError> {
        // Some senders leave out the one byte that an empty message has (section 7.2.3.6).
        if compressed.is_empty() {
            return Ok(());
        }
        let (longest, too_long) = limits.longest(compressed.len());
        // A window that is smaller than agreed costs nothing to allow for, and this one inflates
        // everything. Some compressors use 9 bits where they agreed to 8.
        let Self { inflate, cost_ns } = self;
        let inflate = inflate.get_or_insert_with(|| Box::new(Inflate::new(false, 15)));
        begin(inflate, before, &[])?;
        let mut validator = Validator::new();
        let mut room = (compressed.len() * USUAL_RATIO).clamp(FIRST_BYTES, PIECE_BYTES);
        let mut input = compressed;
        // What follows the payload: the tail, then the end.
        let mut behind = [&TAIL[..], &END[..]].into_iter();
        let (mut final_blocks, blocks_max) = (0, final_blocks_max(compressed.len()));
        loop {
            let start = message.written().len();
            let left = usize::try_from(longest).unwrap_or(usize::MAX) - start;
            // One byte more than is allowed, to see whether there is one.
            let piece = room.min(left.saturating_add(1));
            // How long it gets is not known: memory follows what is really there.
            let place = pool.extend(message, piece, left.max(piece), 0);
            let place = place.map_err(|NoRoom| ProtocolError::NoMemory)?;
            let (read, written) = (inflate.total_in(), inflate.total_out());
            let status = inflate.decompress(input, place, InflateFlush::NoFlush);
            let read = (inflate.total_in() - read) as usize;
            let written = (inflate.total_out() - written) as usize;
            let is_full = written == place.len();
            message.truncate(start + written);
            input = &input[read..];
            if written > left {
                return Err(too_long);
            }
            let (in_payload, in_end) = (behind.len() == 2, behind.len() == 0);
            if in_end && written > 0 {
                return Err(ProtocolError::DeflateInvalid);
            }
            if kind == MessageKind::Text {
                validator
                    .push(&message.written()[start..])
                    .map_err(|_| ProtocolError::TextNotUtf8)?;
            }
            match status {
                // The stream ended with the block of ours, or with a final block of the sender's
                // behind which it has nothing to say.
                Ok(Status::StreamEnd) if input.is_empty() && (in_payload || in_end) => break,
                Ok(Status::StreamEnd) => {
                    final_blocks += 1;
                    if !in_payload || final_blocks > blocks_max {
                        return Err(ProtocolError::DeflateInvalid);
                    }
                    *cost_ns += FINAL_BLOCK_NS;
                    begin(inflate, before, message.written())?;
                }
                Ok(Status::Ok | Status::BufError) if is_full => room = PIECE_BYTES,
                Ok(Status::Ok | Status::BufError) if input.is_empty() && !in_end => {
                    input = behind.next().unwrap_or_default();
                }
                // It wants more than there is, or makes nothing of what it has.
                Ok(_) | Err(_) => return Err(ProtocolError::DeflateInvalid),
            }
        }
        if kind == MessageKind::Text && validator.finish().is_err() {
            return Err(ProtocolError::TextNotUtf8);
        }
        Ok(())
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
