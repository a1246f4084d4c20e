//! Payloads as they lie in a receive buffer: one after the other, each behind its header.

use std::hint::black_box;

/// Short payloads fill this many bytes, so that no payload is met again while its last stores are
/// under way, and twice as many, for a copy, fit into a first level cache of 32 KiB.
const RUN_BYTES: usize = 12 * 1024;

/// The header in front of each.
const HEADER_BYTES: usize = 8;

/// The same payload again and again.
#[derive(Clone)]
pub struct Run {
    frames: Vec<u8>,
    frame_bytes: usize,
}

impl Run {
    /// At least one `payload`.
    pub fn of(payload: &[u8]) -> Self {
        let frame = [&[0xee; HEADER_BYTES], payload].concat();
        let count = (RUN_BYTES / frame.len()).max(1);
        Self {
            frames: frame.repeat(count),
            frame_bytes: frame.len(),
        }
    }

    /// Bytes of payload in all.
    pub fn payload_bytes(&self) -> u64 {
        self.payloads().map(|payload| payload.len() as u64).sum()
    }

    /// The payloads. The compiler does not know where each lies or how long it is.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        let frames = self.frames.chunks_exact(self.frame_bytes);
        frames.map(|frame| black_box(&frame[HEADER_BYTES..]))
    }

    /// The payloads, to be changed.
    pub fn payloads_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let frames = self.frames.chunks_exact_mut(self.frame_bytes);
        frames.map(|frame| black_box(&mut frame[HEADER_BYTES..]))
    }
}
