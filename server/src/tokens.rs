//! Tokens that are kept in a file, one a line.
//!
//! Knows: how they are read and compared. Refuses to know: who shows one, and what for. None of
//! them is in a log or a reply.

use std::{fmt, fs, path::Path};

use subtle::ConstantTimeEq;

/// The tokens of a file.
pub struct Tokens(Vec<String>);

impl Tokens {
    /// Reads them. Empty lines and those that begin with `#` are none.
    ///
    /// # Errors
    ///
    /// Why there are none, as a sentence.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("cannot read the tokens in '{}': {error}", path.display()))?;
        let lines = text.lines().map(str::trim);
        let tokens = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let tokens: Vec<_> = tokens.map(str::to_owned).collect();
        match tokens.is_empty() {
            true => Err(format!(
                "there is no token in '{}': write one a line",
                path.display()
            )),
            false => Ok(Self(tokens)),
        }
    }

    /// Each of them, for whoever shows them.
    pub fn into_each(self) -> impl Iterator<Item = String> {
        self.0.into_iter()
    }

    /// Whether this is one of them. All are compared, and each to its end: the time tells nothing
    /// of them but how long they are.
    pub fn has(&self, token: &str) -> bool {
        self.0.iter().fold(false, |is_known, known| {
            is_known | bool::from(known.as_bytes().ct_eq(token.as_bytes()))
        })
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}
