//! What a client says and what it wants to hear, from a file in TOML.
//!
//! Knows: steps, their keys, and whether a message is the one that is expected. Refuses to know:
//! connections, clocks.
//!
//! ```text
//!   [[step]]                 send  --> Op::Send
//!   send = "login"           expect -> Op::Expect
//!   expect = "welcome"
//!   [[step]]                           Op::Begin(10) <-+
//!   repeat = 10                                        |
//!   [[step.step]]                                      |
//!   wait = "1s"                        Op::Wait        |
//!   [[step.step]]                                      |
//!   send = "ping"                      Op::Send        |
//!                                      Op::Back -------+
//! ```
//!
//! It is no language: there is nothing to compute, to name or to decide.

mod read;

use std::path::Path;

use regex_lite::Regex;
use ringwire::{Message, MessageKind};
use serde_json::Value;

/// The most steps of a script.
pub const STEPS_MAX: usize = 200;

/// Characters of what came that are told where it was not what was expected.
const CAME_CHARS: usize = 60;

/// A script, ready to be gone through.
#[derive(Clone, Debug)]
pub struct Script {
    /// The steps in the order of the file.
    pub steps: Vec<Step>,
    /// What is done, in order. The index of a step stands beside what belongs to it.
    pub ops: Vec<(usize, Op)>,
    /// How often all of it is gone through; `None`: until the run ends.
    pub repeat: Option<u64>,
}

/// A step, as reports name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name, or its number.
    pub name: String,
    /// Where it begins in the file.
    pub line: usize,
    /// What it expects, in words; `None`: nothing.
    pub expects: Option<String>,
}

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Op {
    /// Say this.
    Send(Said),
    /// Wait for the message that is expected.
    Expect(Expected),
    /// Say nothing for so long, in nanoseconds.
    Wait(u64),
    /// What follows, up to its [`Op::Back`], is done so often.
    Begin(u64),
    /// The end of what is done several times: back behind the [`Op::Begin`] at this index.
    Back(usize),
}

/// What is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

/// What is expected.
#[derive(Clone, Debug)]
pub struct Expected {
    what: Pattern,
    /// Whether other messages are passed over until the one comes that is expected.
    pub skips_others: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Any,
    Text(String),
    Binary(Vec<u8>),
    Regex(Regex),
    /// Pointers (RFC 6901) with what has to stand there.
    Json(Vec<(String, Value)>),
}

impl Expected {
    /// Whether a message is the one.
    pub fn is_met_by(&self, message: &Message<'_>) -> bool {
        match &self.what {
            Pattern::Any => true,
            Pattern::Text(text) => message.text() == Some(text.as_str()),
            Pattern::Binary(bytes) => {
                message.kind() == MessageKind::Binary && message.payload() == bytes.as_slice()
            }
            Pattern::Regex(regex) => {
                str::from_utf8(message.payload()).is_ok_and(|text| regex.is_match(text))
            }
            Pattern::Json(wanted) => {
                serde_json::from_slice(message.payload()).is_ok_and(|document: Value| {
                    let is_so = |(pointer, value): &(String, Value)| {
                        let found = document.pointer(pointer);
                        found.is_some_and(|found| is_equal(found, value))
                    };
                    wanted.iter().all(is_so)
                })
            }
        }
    }
}

/// Whether two values are one: numbers are, however they are written.
fn is_equal(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one_number), Some(other_number)) => one == other || one_number == other_number,
        _ => one == other,
    }
}

/// A message that came, in few words.
#[must_use]
pub fn quoted(message: &Message<'_>) -> String {
    let payload = message.payload();
    let Some(text) = message.text() else {
        let bytes: Vec<String> = payload
            .iter()
            .take(20)
            .map(|it| format!("{it:02x}"))
            .collect();
        let more = if payload.len() > 20 { "…" } else { "" };
        return format!("{} bytes {}{more}", payload.len(), bytes.concat());
    };
    let shown: String = text.chars().take(CAME_CHARS).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("'{}{more}'", crate::redact::text(&shown).escape_debug())
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    ///
    /// A sentence with the file, the line and the key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("--script {} cannot be read: {error}", path.display()))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// As [`read`](Self::read), of a text that is called `file` where something is wrong with it.
    ///
    /// # Errors
    ///
    /// A sentence with the file, the line and the key.
    pub fn parse(file: &str, text: &str) -> Result<Self, String> {
        read::script(file, text)
    }
}
