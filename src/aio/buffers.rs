//! Receive buffers of one thread.
//!
//! Knows: two sizes, and those that nobody uses. Refuses to know: who uses the others.
//!
//! A connection takes one when bytes are there for it, and gives it back before it waits for more.
//! The one that came back last is handed out first: while no handler keeps messages across a wait,
//! all connections of a thread receive into the same memory, which is in cache.

/// Bytes of a buffer for a connection that was not seen to fill it: what many of them keep at once,
/// while their handlers wait for something else, is bounded by this.
pub const SMALL_BYTES: usize = 16 << 10;

/// Unused buffers of each size that are kept.
const KEPT_MAX: usize = 8;

/// Unused buffers.
#[derive(Debug)]
pub struct Buffers {
    large_bytes: usize,
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    plain: Vec<Vec<u8>>,
    out_bytes: usize,
}

impl Buffers {
    /// None yet; large ones have `large_bytes` bytes.
    pub fn new(large_bytes: usize) -> Self {
        Self {
            large_bytes: large_bytes.max(SMALL_BYTES),
            small: Vec::new(),
            large: Vec::new(),
            plain: Vec::new(),
            out_bytes: 0,
        }
    }

    /// A buffer that is initialised throughout.
    pub fn take(&mut self, large: bool) -> Vec<u8> {
        let (unused, bytes) = match large && self.large_bytes > SMALL_BYTES {
            true => (&mut self.large, self.large_bytes),
            false => (&mut self.small, SMALL_BYTES),
        };
        self.out_bytes += bytes;
        unused.pop().unwrap_or_else(|| vec![0; bytes])
    }

    /// Bytes of the buffers that are in use, but for those of plaintext.
    pub const fn out_bytes(&self) -> usize {
        self.out_bytes
    }

    /// Lets go of those that nobody uses.
    pub fn forget_kept(&mut self) {
        self.small = Vec::new();
        self.large = Vec::new();
        self.plain = Vec::new();
    }

    /// An empty buffer for plaintext, which grows with it.
    pub fn take_plain(&mut self) -> Vec<u8> {
        self.plain.pop().unwrap_or_default()
    }

    /// Ends the use of a buffer that was taken.
    pub fn give_back(&mut self, buffer: Vec<u8>) {
        let unused = match buffer.len() {
            SMALL_BYTES => &mut self.small,
            len if len == self.large_bytes => &mut self.large,
            _ => return,
        };
        self.out_bytes = self.out_bytes.saturating_sub(buffer.len());
        if unused.len() < KEPT_MAX {
            unused.push(buffer);
        }
    }

    /// Ends the use of a buffer for plaintext.
    pub fn give_back_plain(&mut self, mut buffer: Vec<u8>) {
        if self.plain.len() < KEPT_MAX && buffer.capacity() <= 4 * self.large_bytes {
            buffer.clear();
            self.plain.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_comes_back_is_handed_out_next_and_few_are_kept() {
        let mut buffers = Buffers::new(128 << 10);
        let first = buffers.take(false);
        let address = first.as_ptr();
        let more: Vec<_> = (0..20).map(|_| buffers.take(false)).collect();
        assert_eq!(first.len(), SMALL_BYTES);
        more.into_iter()
            .for_each(|buffer| buffers.give_back(buffer));
        buffers.give_back(buffers_large(&mut Buffers::new(128 << 10)));
        assert_eq!((buffers.small.len(), buffers.large.len()), (KEPT_MAX, 1));
        buffers.small.pop();
        buffers.give_back(first);
        let next = buffers.take(false);
        assert_eq!(next.as_ptr(), address);
    }

    fn buffers_large(buffers: &mut Buffers) -> Vec<u8> {
        buffers.take(true)
    }
}
