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
mod reference;
mod side;
mod splits;
mod wire;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Prng(pub u64);

impl Prng {
    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

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
