//! Compression of messages: permessage-deflate (RFC 7692), both roles.
//!
//! Knows: the negotiation, compressing, inflating, and what both may cost. Refuses to know: frames,
//! which [`Endpoint`](super::Endpoint) reads and writes, and descriptors, clocks, threads.
//!
//! ```text
//!  frames, unmasked --> [ pooled buffer until all is there ] --> Inflater --> pooled buffer
//!                                                                   |  step by step
//!                                                  Windows of the connection, if taken over
//!                                                                   |
//!  frames <---------- output of the shard, or shared Bytes <---- Deflater <--- payload
//! ```
//!
//! Who holds what:
//!
//! | bytes | owner | until | bounded by |
//! |---|---|---|---|
//! | a compressed message, part of it | its connection | it is whole | `message_bytes_max`, 2 % |
//! | an inflated message, part of it | its connection, with an inflater | it is whole | the same |
//! | an inflated message | the call that hands it out | that returns | `message_bytes_max` |
//! | inflaters, compressors, their output | the shard's [`Codec`] | the shard ends | their number |
//! | windows, with takeover | their connection | it ends | `windows_bytes_max` of the shard |
//!
//! So a compressed connection that is idle holds a box of 32 bytes, and a window each way if it
//! takes its context over.
//!
//! # Why long messages are sent as they are
//!
//! A peer that is echoed chooses what is compressed. 16 MiB take 0.2 s, in which nobody else on the
//! shard is served. To go on with one later would mean to keep its payload meanwhile, and all that
//! is sent behind it. So a message of more than `bytes_max` bytes is not compressed, which every
//! message may be or not (RFC 7692 section 6); what the default allows takes about 3 ms. Such a
//! message goes out from where it was inflated, without a copy.
//!
//! # Why zlib-rs, and no C
//!
//! Microseconds to compress, and the ratio, for JSON of 1 KiB and 64 KiB, each message for itself,
//! and to inflate it (Xeon, one core, best of 300 ms, level 6 unless named):
//!
//! | | compress 1 KiB | 64 KiB | inflate 1 KiB | 64 KiB |
//! |---|---|---|---|---|
//! | zlib-rs 0.6.8 | 14.3, 0.424 | 818, 0.227 | 2.8 | 60 |
//! | zlib-ng (C) | 16.7, 0.424 | 838, 0.227 | 3.4 | 73 |
//! | zlib 1.3 (C) | 16.3, 0.424 | 1253, 0.227 | 4.2 | 125 |
//! | libdeflate 1.26 (C) | 10.0, 0.422 | 569, 0.220 | 2.2 | 43 |
//! | libdeflate, level 1 | 6.9, 0.426 | 197, 0.265 | | |
//!
//! Against both zlibs in C it is ahead in everything. libdeflate takes a third less, but has no
//! streams: no context takeover, no flush without a final block, which not every peer reads, and no
//! limit that is judged while it inflates. Whoever wants CPU for bytes has the level: 2 takes 12.5
//! and 264 us at 0.432 and 0.268, 1 takes 5.5 and 156 us at 0.557 and 0.365. zlib-rs is used
//! directly and not through flate2, which has no `mem_level` and makes an inflater anew when its
//! window is not of 15 bits.
//!
//! # Why a window and no compressor for each connection
//!
//! A compressor of its own takes 300 KiB with 15 bits and 160 KiB with 12, whatever was sent.
//! Telling the shard's compressor of the window before each message costs time instead: 1 KiB of
//! JSON takes 43.6 us instead of 18.1 with 15 bits, 16.9 instead of 11.6 with 12, where its ratio
//! is 0.266 and not 0.240 (and 0.424 without takeover). Inflating takes 1 us more with a full
//! window. So 12 bits are what context takeover is good with: 4 KiB a connection, and the bytes of
//! a third.

mod deflater;
pub(super) mod inflater;
pub mod negotiation;
mod window;

#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;

use deflater::Deflater;
use inflater::{InflateLimits, Inflater, Progress, Stream};
pub use negotiation::{Agreed, ClientWindowBits, Offer};
use window::Window;

use super::{
    Limits, MessageKind, MessagePool, ProtocolError, Role,
    message::{MessageBuffer, NoRoom},
};

/// What a side agrees to, and what compressing may cost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Messages of fewer bytes are not compressed.
    pub bytes_min: usize,
    /// Nor are messages of more bytes: one is compressed in one go.
    pub bytes_max: usize,
    /// How hard to compress, from 1 to 9.
    pub level: u8,
    /// The window that a server compresses with, in bits from 8 to 15.
    pub window_bits: u8,
    /// Whether a server refers to earlier messages, where the client lets it.
    pub context_takeover: bool,
    /// The window that a server wants its clients to use, where they let it choose.
    pub inflate_window_bits: u8,
    /// Whether a server lets its clients refer to earlier messages.
    pub inflate_context_takeover: bool,
    /// The most bytes that a compressed byte of a long message may become. 0: any number.
    pub inflate_ratio_max: u32,
    /// What windows may hold. Connections are agreed on without context takeover when it is spent.
    pub windows_bytes_max: usize,
}

/// What compressing has done so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that agreed on it.
    pub connections: u64,
    /// Connections that would have taken their context over, had there been memory.
    pub windows_refused: u64,
    /// Messages compressed. A shared payload counts once for each connection it went to.
    pub deflated_messages: u64,
    /// Bytes of payload in them.
    pub deflated_payload_bytes: u64,
    /// Bytes that they became.
    pub deflated_bytes: u64,
    /// Compressed messages received.
    pub inflated_messages: u64,
    /// Bytes that they came as.
    pub inflated_bytes: u64,
    /// Bytes of payload that they became.
    pub inflated_payload_bytes: u64,
    /// Bytes that windows may take, of the connections there are now.
    pub windows_bytes: u64,
    /// Bytes that the compressors and the inflater take now.
    pub held_bytes: u64,
}

impl Tally {
    const fn add_deflated(&mut self, payload: &[u8], compressed: &[u8]) {
        self.deflated_messages += 1;
        self.deflated_payload_bytes += payload.len() as u64;
        self.deflated_bytes += compressed.len() as u64;
    }
}

/// Compresses and inflates for all connections of one shard.
pub struct Codec {
    terms: Terms,
    inflater: Inflater,
    deflater: Deflater,
    tally: Tally,
    cost_ns: u64,
}

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Codec")
            .field("terms", &self.terms)
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// A compressed message that has come whole.
pub(super) enum Compressed<'a> {
    /// Where it was received.
    Received(&'a [u8]),
    /// Put together.
    Gathered(Box<MessageBuffer>),
}

/// A message that has come whole, and is inflated in part.
struct Inflating {
    compressed: Box<MessageBuffer>,
    message: Box<MessageBuffer>,
    stream: Stream,
    /// Bytes that it came as: of those received in one piece, `compressed` has what is left.
    compressed_bytes: usize,
}

impl fmt::Debug for Inflating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflating")
            .field("compressed_bytes", &self.compressed_bytes)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// What one connection keeps of permessage-deflate.
#[derive(Debug)]
pub struct Session {
    /// Earlier messages of ours, if we refer to them.
    sent: Option<Box<Window>>,
    /// Earlier messages of the peer's, if it refers to them.
    received: Option<Box<Window>>,
    /// The window that we compress with.
    bits: u8,
    /// The message in progress is compressed.
    pub(super) is_compressed: bool,
    /// It is here, and was inflated in part.
    inflating: Option<Box<Inflating>>,
}

/// What a flush ends with and the sender leaves out (sections 7.2.1 and 7.2.2).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// A window of the peer's with 8 bits is kept as one of 9: compressors that agreed to 8 have been
/// seen to use 9 (zlib before 1.2.9).
const fn kept_bits(bits: u8) -> u8 {
    if bits < 9 { 9 } else { bits }
}

/// The most compressed bytes that a message may come as. What cannot be compressed gets longer by 5
/// bytes in each stored block, and the smallest blocks that zlib makes are of half a kilobyte.
pub(super) const fn compressed_bytes_max(message_bytes_max: u64) -> u64 {
    message_bytes_max
        .saturating_add(message_bytes_max / 64)
        .saturating_add(1024)
}

impl Codec {
    /// One that has done nothing and holds nothing.
    pub fn new(terms: Terms) -> Self {
        Self {
            inflater: Inflater::default(),
            deflater: Deflater::new(terms.level),
            tally: Tally::default(),
            cost_ns: 0,
            terms,
        }
    }

    /// What it has done and what it holds.
    pub fn tally(&self) -> Tally {
        let held = self.inflater.held_bytes() + self.deflater.held_bytes();
        Tally {
            held_bytes: held as u64,
            ..self.tally
        }
    }

    /// What a server agrees to, of what a client offers in these header lines. Context is taken
    /// over only while there is memory for it.
    pub fn agree<'a>(&mut self, lines: impl Iterator<Item = &'a [u8]>) -> Option<Agreed> {
        let agreed = negotiation::agree(lines, &self.terms)?;
        let windows_bytes = Session::new(Role::Server, &agreed).windows_bytes() as u64;
        if self.tally.windows_bytes + windows_bytes <= self.terms.windows_bytes_max as u64 {
            return Some(agreed);
        }
        self.tally.windows_refused += 1;
        Some(agreed.without_context_takeover())
    }

    /// A connection opens that agreed on it. A client keeps what its server may refer to, whatever
    /// it takes.
    pub fn join(&mut self, role: Role, agreed: &Agreed) -> Box<Session> {
        let session = Session::new(role, agreed);
        self.tally.connections += 1;
        self.tally.windows_bytes += session.windows_bytes() as u64;
        Box::new(session)
    }

    /// A connection ended.
    pub fn leave(&mut self, session: &Session) {
        self.tally.windows_bytes -= session.windows_bytes() as u64;
    }

    /// Whether a payload of this length is compressed at all.
    pub(super) fn wants(&self, payload_len: usize) -> bool {
        let lens = self.terms.bytes_min..=self.terms.bytes_max;
        lens.contains(&payload_len) && u32::try_from(payload_len).is_ok()
    }

    /// Compresses a message of a connection. `None` when it does not get shorter: it has to be sent
    /// as it is then, and no context remembers it.
    pub(super) fn deflate(&mut self, session: &mut Session, payload: &[u8]) -> Option<&[u8]> {
        let window = session.sent.as_deref_mut();
        self.cost_ns += deflater::cost_ns(payload.len());
        let compressed = self.deflater.deflate(payload, session.bits, window)?;
        self.tally.add_deflated(payload, compressed);
        Some(compressed)
    }

    /// The same for a payload that may go to several connections: those with the same window and
    /// without context get the same compressed bytes.
    pub(super) fn deflate_shared(&mut self, session: &Session, payload: &Bytes) -> Option<Bytes> {
        if !self.deflater.knows(payload, session.bits) {
            self.cost_ns += deflater::cost_ns(payload.len());
        }
        let compressed = self.deflater.deflate_shared(payload, session.bits)?;
        self.tally.add_deflated(payload, &compressed);
        Some(compressed)
    }

    /// Whether any connection ever agreed on it.
    #[inline]
    pub const fn is_used(&self) -> bool {
        self.tally.connections > 0
    }

    /// Whatever was shared by several connections has reached them: lets go of it.
    pub fn forget_shared(&mut self) {
        self.deflater.forget_shared();
    }

    /// What it has cost since this was asked before, in nanoseconds: an estimate that depends on
    /// what was done and not on the machine.
    #[inline]
    pub const fn take_cost_ns(&mut self) -> u64 {
        std::mem::replace(&mut self.cost_ns, 0)
    }

    /// Bytes that the shared compressors and the inflater take, and those that windows may take.
    pub fn held_bytes(&self) -> usize {
        let held = self.inflater.held_bytes() + self.deflater.held_bytes();
        held + self.tally.windows_bytes as usize
    }

    /// From here on, one step of inflating costs about so many nanoseconds, as far as can be told
    /// from what was done. Without it, a third of what a shard allows a connection in a turn.
    pub const fn set_inflate_step_ns(&mut self, ns: u64) {
        self.inflater.set_step_ns(ns);
    }

    /// From here on, inflated messages of up to so many bytes grow side by side, and of longer ones
    /// one at a time. Without it, 64 KiB.
    pub const fn set_inflate_freely_bytes(&mut self, bytes: usize) {
        self.inflater.set_grow_freely_bytes(bytes);
    }

    /// Steps of inflating messages that others may have waited for.
    pub const fn inflated_alone(&self) -> u64 {
        self.inflater.grown()
    }

    /// The most that one step of inflating has cost so far, likewise.
    pub const fn longest_inflate_step_ns(&self) -> u64 {
        self.inflater.longest_step_ns()
    }

    /// Inflates a whole message of a connection, or begins to: `None` when there is more of it than
    /// one step makes. [`go_on_inflating`](Self::go_on_inflating) goes on then.
    pub(super) fn inflate(
        &mut self,
        session: &mut Session,
        compressed: Compressed<'_>,
        kind: MessageKind,
        limits: &Limits,
        pool: &mut MessagePool,
    ) -> Result<Option<Box<MessageBuffer>>, ProtocolError> {
        let limits = InflateLimits {
            message_bytes_max: limits.message_bytes_max,
            ratio_max: self.terms.inflate_ratio_max,
        };
        let window = session.received.as_deref_mut();
        let bytes = match &compressed {
            Compressed::Received(bytes) => bytes,
            Compressed::Gathered(buffer) => buffer.written(),
        };
        let compressed_bytes = bytes.len();
        let begun = self.inflater.begin(bytes, kind, &limits, window, pool);
        self.cost_ns += self.inflater.take_cost_ns();
        let (message, mut stream) = match begun {
            Ok(Progress::Begun(message, stream)) => (message, stream),
            ended => {
                if let Compressed::Gathered(buffer) = compressed {
                    pool.give_back(buffer);
                }
                return match ended? {
                    Progress::Whole(message) => Ok(Some(self.inflated(compressed_bytes, message))),
                    Progress::Begun(..) => Ok(None),
                };
            }
        };
        let compressed = match compressed {
            Compressed::Gathered(buffer) => Ok(buffer),
            Compressed::Received(bytes) => {
                let rest = bytes.get(stream.at()..).unwrap_or_default();
                stream.rebase();
                kept(rest, pool)
            }
        };
        let compressed = match compressed {
            Ok(compressed) => compressed,
            Err(NoRoom) => {
                self.inflater.end(stream);
                pool.give_up(message);
                return Err(ProtocolError::NoMemory);
            }
        };
        session.inflating = Some(Box::new(Inflating {
            compressed,
            message,
            stream,
            compressed_bytes,
        }));
        Ok(None)
    }

    /// One more step of the message that a connection has begun to inflate. `None` when there is
    /// still more of it, or no such message.
    pub(super) fn go_on_inflating(
        &mut self,
        session: &mut Session,
        pool: &mut MessagePool,
    ) -> Result<Option<Box<MessageBuffer>>, ProtocolError> {
        let Some(mut inflating) = session.inflating.take() else {
            return Ok(None);
        };
        let Inflating {
            compressed,
            message,
            stream,
            compressed_bytes,
        } = *inflating;
        let window = session.received.as_deref_mut();
        let bytes = compressed.written();
        let gone_on = self.inflater.go_on(stream, message, bytes, window, pool);
        self.cost_ns += self.inflater.take_cost_ns();
        match gone_on {
            Ok(Progress::Begun(message, stream)) => {
                *inflating = Inflating {
                    compressed,
                    message,
                    stream,
                    compressed_bytes,
                };
                session.inflating = Some(inflating);
                Ok(None)
            }
            Ok(Progress::Whole(message)) => {
                pool.give_back(compressed);
                Ok(Some(self.inflated(compressed_bytes, message)))
            }
            Err(error) => {
                pool.give_back(compressed);
                Err(error)
            }
        }
    }

    const fn inflated(
        &mut self,
        compressed_bytes: usize,
        message: Box<MessageBuffer>,
    ) -> Box<MessageBuffer> {
        self.tally.inflated_messages += 1;
        self.tally.inflated_bytes += compressed_bytes as u64;
        self.tally.inflated_payload_bytes += message.len() as u64;
        message
    }

    /// The message that a connection has begun to inflate is not gone on with for now.
    pub(super) fn hold_up_inflating(&mut self, session: &Session) {
        if let Some(inflating) = &session.inflating {
            self.inflater.hold_up(&inflating.stream);
        }
    }

    /// Lets go of a message that was inflated in part.
    pub(super) fn forget_inflating(&mut self, session: &mut Session, pool: &mut MessagePool) {
        if let Some(inflating) = session.inflating.take() {
            self.inflater.end(inflating.stream);
            pool.give_back(inflating.compressed);
            pool.give_up(inflating.message);
        }
    }
}

/// Bytes in a buffer of the pool.
fn kept(bytes: &[u8], pool: &mut MessagePool) -> Result<Box<MessageBuffer>, NoRoom> {
    let mut buffer = pool.take();
    match pool.extend(&mut buffer, bytes.len(), bytes.len(), 0) {
        Ok(room) => {
            room.copy_from_slice(bytes);
            Ok(buffer)
        }
        Err(NoRoom) => {
            pool.give_back(buffer);
            Err(NoRoom)
        }
    }
}

impl Session {
    fn new(role: Role, agreed: &Agreed) -> Self {
        let server = (agreed.server_context_takeover, agreed.server_window_bits);
        let client = (agreed.client_context_takeover, agreed.client_window_bits);
        let (ours, theirs) = match role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        let window = |takeover: bool, bits| takeover.then(|| Box::new(Window::new(bits)));
        Self {
            sent: window(ours.0, ours.1),
            received: window(theirs.0, kept_bits(theirs.1)),
            bits: ours.1,
            is_compressed: false,
            inflating: None,
        }
    }

    /// Whether messages of ours refer to earlier ones.
    pub(super) fn has_context(&self) -> bool {
        self.sent.is_some()
    }

    /// Bytes of the pool that a message takes which was inflated in part.
    pub(super) fn inflating_bytes(&self) -> usize {
        self.inflating.as_ref().map_or(0, |inflating| {
            inflating.compressed.held_bytes() + inflating.message.held_bytes()
        })
    }

    /// Bytes of the inflater that such a message has for itself.
    pub(super) fn inflater_bytes(&self) -> usize {
        self.inflating.as_ref().map_or(0, |_| held::INFLATE_BYTES)
    }

    /// Whether such a message waits until another one has grown.
    pub(super) fn waits_to_inflate(&self) -> bool {
        let inflating = self.inflating.as_ref();
        inflating.is_some_and(|inflating| inflating.stream.waits())
    }

    /// How much was done of such a message: a number that differs from step to step.
    #[cfg(feature = "sim")]
    pub(super) fn inflated(&self) -> u64 {
        self.inflating.as_ref().map_or(0, |inflating| {
            1 + (inflating.message.len() + inflating.stream.at()) as u64
        })
    }

    /// Bytes that its windows may take.
    pub(super) fn windows_bytes(&self) -> usize {
        let bytes = |window: &Option<Box<Window>>| window.as_ref().map_or(0, |it| it.bytes_max());
        bytes(&self.sent) + bytes(&self.received)
    }
}

/// What zlib-rs allocates, which it does not tell. A test holds these against an allocator that
/// counts.
mod held {
    /// An inflater, whatever its window.
    pub const INFLATE_BYTES: usize = 48 << 10;

    /// A compressor: twice its window, two bytes for each place of it and for each of 65,536
    /// hashes, seven for each symbol that it buffers, and its trees.
    pub const fn deflate_bytes(bits: u8, mem_level: i32) -> usize {
        (4 << bits) + (128 << 10) + (7 << (mem_level + 6)) + (7 << 10)
    }
}
