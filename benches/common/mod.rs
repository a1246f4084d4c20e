//! What all benches have in common: whether they measure, and the line that says what was computed.

use std::{collections::BTreeMap, env, fmt};

use sha1::{Digest, Sha1};

/// Whether this is `cargo bench`. Otherwise it is a test: everything runs once, on the sizes that
/// are quick, to see that it still works.
pub fn is_measured() -> bool {
    env::args().any(|argument| argument == "--bench")
}

/// What each contender of a bench computed, as hashes.
///
/// It is printed so that nobody makes a bench faster by making it compute something else, and it
/// has to be the same for all of them so that they did the same work.
#[derive(Default)]
pub struct Answers(BTreeMap<String, Sha1>);

impl Answers {
    /// Adds a piece of what `contender` computed.
    pub fn add(&mut self, contender: &str, piece: &[u8]) {
        let hash = self.0.entry(contender.to_owned()).or_default();
        hash.update((piece.len() as u64).to_le_bytes());
        hash.update(piece);
    }

    /// Prints the line of a bench.
    ///
    /// # Panics
    ///
    /// When the contenders do not agree, or when there are none.
    pub fn print(self, bench: &str) {
        let mut answers = self.0.into_iter().map(|(contender, hash)| {
            let digest = hash.finalize();
            (contender, Hex(digest[..8].to_vec()))
        });
        let (first, answer) = answers.next().expect("a contender");
        for (other, differs) in answers {
            assert_eq!(answer, differs, "{bench}: {first} and {other} differ");
        }
        println!("answer of {bench}: {answer:?}");
    }
}

#[derive(PartialEq, Eq)]
struct Hex(Vec<u8>);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
