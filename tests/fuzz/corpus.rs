//! Each body over its part of `tests/corpus`, and over what is made of that from a fixed seed.

use std::{fs, path::Path, thread};

use crate::{Tally, prng::Prng};

/// Names the input that fails: it belongs into the corpus then.
struct Shown<'a> {
    name: &'a str,
    bytes: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let escaped = self.bytes.escape_ascii();
            eprintln!("the input of {} that failed: b\"{escaped}\"", self.name);
        }
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    let entries = fs::read_dir(&folder).expect("a corpus for each body");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    paths.sort();
    let read = |path: &_| fs::read(path).expect("a readable file");
    paths.iter().map(read).collect()
}

/// An input that is like one of the corpus.
fn made(prng: &mut Prng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[prng.below(corpus.len())].clone();
    for _ in 0..1 + prng.below(4) {
        let at = prng.below(bytes.len() + 1);
        let end = at + prng.below((bytes.len() - at).min(20) + 1);
        match prng.below(6) {
            0 => bytes.insert(at, prng.draw() as u8),
            1 if at < bytes.len() => bytes[at] ^= 1 << prng.below(8),
            2 if at < bytes.len() => bytes[at] = prng.draw() as u8,
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                // The rest of another one.
                let other = &corpus[prng.below(corpus.len())];
                bytes.truncate(at);
                bytes.extend(&other[at.min(other.len())..]);
            }
        }
    }
    bytes
}

/// Runs a body over its corpus and as many more inputs. It has to have accepted and refused as much
/// as is said.
fn check(name: &str, body: fn(&[u8]) -> Tally, made_max: usize, accepted: u64, refused: u64) {
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    let prng = &mut Prng(13);
    let made = (0..made_max).map(|_| made(prng, &corpus));
    let mut sum = Tally::default();
    for bytes in corpus.iter().cloned().chain(made) {
        let shown = Shown {
            name,
            bytes: &bytes,
        };
        let tally = body(shown.bytes);
        sum.accepted += tally.accepted;
        sum.refused += tally.refused;
    }
    println!("{name}: {} accepted, {} refused", sum.accepted, sum.refused);
    assert!(
        sum.accepted >= accepted && sum.refused >= refused,
        "{name} does too little: {sum:?}"
    );
}

/// Of each body, how many inputs are made, and how much it has to accept and to refuse at least:
/// about half of what it does.
macro_rules! bodies {
    ($($body:ident: $made:literal, $accepted:literal, $refused:literal;)*) => {
        $(
            #[test]
            fn $body() {
                check(stringify!($body), crate::$body::run, $made, $accepted, $refused);
            }
        )*
    };
}

bodies! {
    differential: 6_000, 20_000, 2_500;
    endpoints: 500, 5_000, 500;
    frames: 6_000, 16_000, 2_500;
    hixie: 6_000, 16_000, 2_000;
    inflate: 2_000, 2_000, 800;
    negotiation: 6_000, 1_400, 4_000;
    request_head: 10_000, 300, 4_600;
    response_head: 10_000, 1_500, 3_500;
    send_queue: 3_000, 120_000, 0;
}
