//! What the fuzzer runs, as ordinary tests over a small corpus and what is made of it from a fixed
//! seed.
//!
//! Each body takes any bytes and asserts what must hold whatever they are. `scripts/fuzz.sh` gives
//! them to libFuzzer, for which `fuzz/` compiles this file as its library; `corpus` gives them what
//! libFuzzer found worth keeping, in `tests/corpus`. `reference`, `hixie_reference` and
//! `inflate_reference` read what is fuzzed without the code under test. They and `prng` are those
//! of `tests/proto`.

pub mod differential;
pub mod endpoints;
pub mod frames;
pub mod hixie;
pub mod inflate;
mod input;
pub mod negotiation;
pub mod request_head;
pub mod response_head;
pub mod send_queue;
mod side;

#[cfg(test)]
mod corpus;

#[path = "../proto/hixie_reference.rs"]
mod hixie_reference;
#[path = "../proto/inflate.rs"]
mod inflate_reference;
#[path = "../proto/prng.rs"]
mod prng;
#[path = "../proto/reference.rs"]
mod reference;

/// What a body did with its input: one that does nothing finds nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Heads, headers, messages and operations that were accepted, and compared.
    pub accepted: u64,
    /// Those that were refused, as they had to be.
    pub refused: u64,
}
