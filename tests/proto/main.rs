//! The protocol core from outside, through what it makes public: bytes in, events and bytes out.
//!
//! `wire` builds frames and `reference` reads them, both without the code under test. `side` drives
//! an endpoint in each of the two ways in which a shard does: event by event, and in batches.

mod chunks;
mod close;
mod compress;
mod endpoint;
mod frame;
mod hixie;
mod hixie_reference;
mod inflate;
mod limits;
mod message;
mod prng;
mod reference;
mod side;
mod splits;
mod wire;

pub use prng::Prng;

impl Prng {
    /// `len` bytes of any kind.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.draw() as u8).collect()
    }

    /// Text of exactly `len` bytes, with characters of one to four bytes.
    pub fn text(&mut self, len: usize) -> String {
        let mut text = String::with_capacity(len);
        while text.len() < len {
            let left = len - text.len();
            let all = [
                'a',
                '\0',
                'ß',
                '\u{7ff}',
                '日',
                '\u{ffff}',
                '🦀',
                '\u{10ffff}',
            ];
            let next = all[self.below(all.len())];
            text.push(if next.len_utf8() <= left { next } else { 'z' });
        }
        text
    }
}
