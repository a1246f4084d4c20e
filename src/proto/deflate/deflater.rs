//! Writing compressed messages (RFC 7692 section 7.2.1).
//!
//! Knows: one message at a time, the window that was agreed on, and payloads that go to many.
//! Refuses to know: frames, and on which connection a message goes.

use bytes::Bytes;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

use super::{TAIL, Window, held};

/// The smallest window that zlib compresses with. Asked for 8 bits, it uses 9, which its stream
/// does not say when it is raw; but then it never refers to more than 250 bytes back (512 less the
/// 262 that it looks ahead), so that 8 bits are kept to. A test decodes with a decoder of its own
/// that measures how far back references reach.
const BITS_MIN: u8 = 9;
const BITS_MAX: u8 = 15;

/// What needs no larger window is compressed with this one: it has less to clear for each message,
/// 1.1 of 14 us for 1 KiB.
const SMALL_BITS: u8 = 12;

/// Output beyond this is not kept.
const KEPT_BYTES: usize = 256 << 10;

/// Compresses messages of any number of connections, one after the other.
pub struct Deflater {
    level: u8,
    /// One for each size of window that was used, from [`BITS_MIN`] on.
    by_bits: [Option<Box<Deflate>>; (BITS_MAX - BITS_MIN + 1) as usize],
    /// Initialised throughout.
    output: Vec<u8>,
    shared: Vec<SharedFrame>,
}

/// A payload of many connections, compressed once for those with the same window and no context.
struct SharedFrame {
    /// It is kept, so that nothing else can lie at its address.
    payload: Bytes,
    bits: u8,
    /// `None`: it does not get shorter.
    compressed: Option<Bytes>,
}

impl Deflater {
    /// One that compresses with this level, from 1 to 9.
    pub fn new(level: u8) -> Self {
        Self {
            level,
            by_bits: Default::default(),
            output: Vec::new(),
            shared: Vec::new(),
        }
    }

    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        let compressors = (BITS_MIN..).zip(&self.by_bits);
        let compressors: usize = compressors
            .filter(|(_, deflate)| deflate.is_some())
            .map(|(bits, _)| held::deflate_bytes(bits, mem_level(bits)))
            .sum();
        compressors + self.output.capacity()
    }

    /// Compresses a message of at most 4 GiB for a window of `bits` bits. It refers to what is in
    /// `window`, which is told of it. `None` when it does not get shorter: nothing happened then.
    pub fn deflate(
        &mut self,
        payload: &[u8],
        bits: u8,
        window: Option<&mut Window>,
    ) -> Option<&[u8]> {
        let before = window.as_deref().map_or(&[][..], Window::bytes);
        let mut bits = bits.clamp(BITS_MIN, BITS_MAX);
        if before.len() + payload.len() <= 1 << SMALL_BITS {
            bits = bits.min(SMALL_BITS);
        }
        let place = &mut self.by_bits[usize::from(bits - BITS_MIN)];
        let deflate = place.get_or_insert_with(|| {
            Box::new(Deflate::new_with_config(DeflateConfig {
                level: i32::from(self.level),
                window_bits: -i32::from(bits),
                mem_level: mem_level(bits),
                ..DeflateConfig::default()
            }))
        });
        // The worst that zlib does (`deflateBound`): nine bits a byte, where a small window has
        // lost what it would store.
        let room = payload.len() + payload.len() / 8 + payload.len() / 64 + 64;
        if self.output.len() < room {
            self.output.resize(room, 0);
        }
        deflate.reset();
        if !before.is_empty() {
            deflate.set_dictionary(before).ok()?;
        }
        let flushed = deflate.compress(payload, &mut self.output[..room], DeflateFlush::SyncFlush);
        let written = deflate.total_out() as usize;
        if flushed.is_err() || written == room {
            // It was cut short, which the room above does not let happen. zlib-rs 0.6.8 does not
            // find its place again when it is reset with bytes left to write (Pending::reset_keep).
            debug_assert!(false, "{} bytes did not fit into {room}", payload.len());
            *place = None;
            return None;
        }
        let compressed = self.output[..written].strip_suffix(&TAIL)?;
        if compressed.len() >= payload.len() {
            return None;
        }
        if let Some(window) = window {
            window.push(payload);
        }
        Some(compressed)
    }

    /// As [`deflate`](Self::deflate) without context, for a payload that may go to other
    /// connections as well: it is compressed once for each size of window, until
    /// [`forget_shared`](Self::forget_shared).
    pub fn deflate_shared(&mut self, payload: &Bytes, bits: u8) -> Option<Bytes> {
        if let Some(frame) = self.shared_frame(payload, bits) {
            return frame.compressed.clone();
        }
        // Another payload: those who get it follow one another.
        self.shared
            .retain(|frame| frame.payload.as_ptr() == payload.as_ptr());
        let compressed = self
            .deflate(payload, bits, None)
            .map(Bytes::copy_from_slice);
        self.shared.push(SharedFrame {
            payload: payload.clone(),
            bits,
            compressed: compressed.clone(),
        });
        compressed
    }

    fn shared_frame(&self, payload: &Bytes, bits: u8) -> Option<&SharedFrame> {
        self.shared.iter().find(|frame| {
            frame.bits == bits
                && frame.payload.as_ptr() == payload.as_ptr()
                && frame.payload.len() == payload.len()
        })
    }

    /// Whether this payload was compressed for this window already.
    pub fn knows(&self, payload: &Bytes, bits: u8) -> bool {
        self.shared_frame(payload, bits).is_some()
    }

    /// Lets go of payloads that went to several connections, and of what one long message needed.
    pub fn forget_shared(&mut self) {
        self.shared.clear();
        if self.output.capacity() > KEPT_BYTES {
            self.output = Vec::new();
        }
    }
}

/// What it costs about to compress so many bytes, in nanoseconds, by the table on the page of
/// [`deflate`](super).
pub(super) const fn cost_ns(payload_len: usize) -> u64 {
    2_000 + 12 * payload_len as u64
}

/// How much is buffered of a block (`deflateInit2`): enough for a message that is as long as the
/// window, and for long ones what zlib does by itself.
const fn mem_level(bits: u8) -> i32 {
    if bits <= SMALL_BITS { 5 } else { 8 }
}
