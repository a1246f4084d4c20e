//! The bytes that a later message may refer to, when a context is taken over.
//!
//! Knows: the end of what went one way on one connection. Refuses to know: how it is compressed.
//!
//! It is all that a connection keeps for itself. A compressor and an inflater are told of it before
//! each message, so that one of each serves every connection of a shard: what costs 300 KiB for a
//! compressor of its own costs the window alone, and no more of it than was ever used.

/// The last bytes of the messages that went one way.
#[derive(Debug)]
pub struct Window {
    bytes: Vec<u8>,
    bytes_max: usize,
}

/// What a window has room for at first.
const FIRST_BYTES: usize = 512;

impl Window {
    /// An empty window of 2 to the `bits` bytes.
    pub const fn new(bits: u8) -> Self {
        Self {
            bytes: Vec::new(),
            bytes_max: 1 << bits,
        }
    }

    /// The most bytes that it holds.
    pub const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// What is in it, oldest first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Moves on by a message.
    pub fn push(&mut self, message: &[u8]) {
        let message = &message[message.len().saturating_sub(self.bytes_max)..];
        let together = self.bytes.len() + message.len();
        let gone = together.saturating_sub(self.bytes_max);
        if gone > 0 {
            self.bytes.copy_within(gone.., 0);
            self.bytes.truncate(self.bytes.len() - gone);
        }
        if self.bytes.capacity() - self.bytes.len() < message.len() {
            let room = together.max(2 * self.bytes.capacity()).max(FIRST_BYTES);
            let room = room.min(self.bytes_max);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
        self.bytes.extend_from_slice(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_end_of_everything_and_no_more_memory() {
        for bits in [8, 9, 12, 15] {
            let mut window = Window::new(bits);
            let (mut all, mut next) = (Vec::new(), 0_u32);
            for round in 0..200 {
                let len = [0, 1, 7, 100, 255, 256, 257, 3000, 40_000][round * 5 % 9];
                let message: Vec<u8> = (0..len)
                    .map(|_| {
                        next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        (next >> 24) as u8
                    })
                    .collect();
                window.push(&message);
                all.extend_from_slice(&message);
                let expected = &all[all.len().saturating_sub(1 << bits)..];
                assert_eq!(window.bytes(), expected, "{bits} bits, round {round}");
                assert!(window.bytes.capacity() <= 1 << bits);
            }
        }
    }
}
