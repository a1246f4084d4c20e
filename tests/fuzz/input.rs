//! The fuzzer's bytes, read as choices.

use crate::prng::Prng;

/// What is left of an input. Where it has ended every choice is 0, so that any bytes are an input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    /// One of these.
    pub fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// A length: every one up to 199, and some up to 17,000.
    pub fn len(&mut self) -> usize {
        match usize::from(self.byte()) {
            len @ 0..200 => len,
            more => (more - 199) * 307,
        }
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// The bytes in pieces, none of them empty. The seed 0 leaves them whole, and 1 makes each of them
/// one byte.
pub fn pieces(bytes: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut prng = Prng(seed.into());
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let most = match seed {
            0 => rest.len(),
            1 => 1,
            _ => {
                let most = [1, 2, 9, 200][prng.below(4)];
                1 + prng.below(most)
            }
        };
        let (piece, later) = rest.split_at(most.min(rest.len()));
        rest = later;
        Some(piece)
    })
}

/// `len` bytes that differ from their neighbours.
pub fn binary(len: usize, seed: u8) -> Vec<u8> {
    let period: Vec<u8> = (0..251).map(|index| seed.wrapping_add(index)).collect();
    // Copied and not computed: the fuzzer counts every comparison.
    let mut bytes = period.repeat(len / period.len() + 1);
    bytes.truncate(len);
    bytes
}

/// Text of exactly `len` bytes, with characters of one to four bytes.
pub fn text(len: usize, seed: u8) -> String {
    const ALL: [char; 8] = ['a', '\0', 'ß', '\u{7ff}', '日', '\u{ffff}', '🦀', 'z'];
    let (later, first) = ALL.split_at(usize::from(seed) % ALL.len());
    let period: String = first.iter().chain(later).collect();
    let mut text = period.repeat(len / period.len() + 1);
    let end = (0..=len).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    let missing = len - text.len();
    text.push_str(&"zzz"[..missing]);
    text
}
