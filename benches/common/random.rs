//! Bytes to work on.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// The same bytes each time, without a pattern.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::from_seed([7; 32]).fill_bytes(&mut bytes);
    bytes
}
