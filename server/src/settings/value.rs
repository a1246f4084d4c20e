//! What a person writes for a number, a size, a time or a choice, and how it is said back.
//!
//! Knows: units. Refuses to know: which setting it is for, and where it was written.

use std::fmt;

use ringwire::config;

/// What the values of a setting are, numbers with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number of something.
    Count(u64, u64),
    /// A number of bytes.
    Bytes(u64, u64),
    /// A time in milliseconds.
    Milliseconds(u64, u64),
    /// A time in microseconds.
    Microseconds(u64, u64),
    /// On or off.
    Switch,
    /// Text; empty is none.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any number of texts.
    List,
}

impl From<config::Kind> for Kind {
    fn from(kind: config::Kind) -> Self {
        match kind {
            config::Kind::Count(least, most) => Self::Count(least, most),
            config::Kind::Bytes(least, most) => Self::Bytes(least, most),
            config::Kind::Milliseconds(least, most) => Self::Milliseconds(least, most),
            config::Kind::Microseconds(least, most) => Self::Microseconds(least, most),
            config::Kind::Switch => Self::Switch,
            _ => Self::Text,
        }
    }
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of every kind that counts.
    Number(u64),
    /// Of a switch.
    Switch(bool),
    /// Of a text or a choice; empty is none.
    Text(String),
    /// Of a list.
    List(Vec<String>),
}

/// What was written: a file knows numbers and lists, everything else is text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// In quotes, or where there are none.
    Text(String),
    /// A number without quotes.
    Number(String),
    /// true or false without quotes.
    Switch(bool),
    /// Several.
    List(Vec<String>),
    /// What no setting can be, by its name.
    Other(&'static str),
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Number(text) => f.write_str(text),
            Self::Switch(on) => write!(f, "{on}"),
            Self::List(items) => write!(f, "{items:?}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// A unit, and how many of the setting's own it is.
type Unit = (&'static str, u64);

const BYTES: &[Unit] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const MILLISECONDS: &[Unit] = &[
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

const MICROSECONDS: &[Unit] = &[("s", 1_000_000), ("ms", 1_000), ("us", 1)];

impl Kind {
    /// The value that is meant.
    ///
    /// # Errors
    ///
    /// What it has to be, as the end of a sentence that begins with what was written.
    pub fn read(self, written: &Written) -> Result<Value, String> {
        let wrong = || Err(format!("has to be {}", self.allowed()));
        match (self, written) {
            (Self::Switch, Written::Switch(on)) => Ok(Value::Switch(*on)),
            (Self::Switch, Written::Text(text)) => match text.as_str() {
                "true" | "on" | "yes" | "1" => Ok(Value::Switch(true)),
                "false" | "off" | "no" | "0" => Ok(Value::Switch(false)),
                _ => wrong(),
            },
            (Self::Text, Written::Text(text)) => Ok(Value::Text(text.clone())),
            (Self::Choice(words), Written::Text(text)) => match words.contains(&text.as_str()) {
                true => Ok(Value::Text(text.clone())),
                false => Err(format!(
                    "has to be {}{}",
                    self.allowed(),
                    meant(text, words.iter().copied())
                )),
            },
            (Self::List, Written::Text(text)) => Ok(Value::List(vec![text.clone()])),
            (Self::List, Written::List(items)) => Ok(Value::List(items.clone())),
            (_, Written::Text(text) | Written::Number(text)) => match self.units() {
                Some(units) => self.read_number(text, units).map(Value::Number),
                None => wrong(),
            },
            _ => wrong(),
        }
    }

    /// The value that is meant, within its bounds, for a setting of this name.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn value_of(self, name: &str, written: &Written) -> Result<Value, String> {
        let value = self.read(written).and_then(|value| match &value {
            Value::Number(number) if !self.has(*number) => {
                Err(format!("has to be {}", self.allowed()))
            }
            _ => Ok(value),
        });
        value.map_err(|what| format!("{name} is {written}, but it {what}"))
    }

    /// Whether a number is within its bounds.
    fn has(self, number: u64) -> bool {
        let bounds = self.bounds();
        bounds.is_none_or(|(least, most)| (least..=most).contains(&number))
    }

    const fn units(self) -> Option<&'static [Unit]> {
        match self {
            Self::Count(..) => Some(&[]),
            Self::Bytes(..) => Some(BYTES),
            Self::Milliseconds(..) => Some(MILLISECONDS),
            Self::Microseconds(..) => Some(MICROSECONDS),
            Self::Switch | Self::Text | Self::Choice(_) | Self::List => None,
        }
    }

    /// The least and the most of a number.
    pub const fn bounds(self) -> Option<(u64, u64)> {
        match self {
            Self::Count(least, most)
            | Self::Bytes(least, most)
            | Self::Milliseconds(least, most)
            | Self::Microseconds(least, most) => Some((least, most)),
            Self::Switch | Self::Text | Self::Choice(_) | Self::List => None,
        }
    }

    fn read_number(self, text: &str, units: &[Unit]) -> Result<u64, String> {
        let text = text.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let suffix = &text[digits.len()..];
        let no_number = || format!("has to be {}", self.allowed());
        let factor = match units.iter().find(|(unit, _)| *unit == suffix) {
            _ if suffix.is_empty() => 1,
            Some((_, factor)) => *factor,
            None if digits.trim().is_empty() => return Err(no_number()),
            None => {
                let known = units.iter().map(|(unit, _)| *unit);
                let same = known.clone().find(|unit| unit.eq_ignore_ascii_case(suffix));
                let begun = |unit: &&str| unit.to_lowercase().starts_with(&suffix.to_lowercase());
                let guess = same.or_else(|| known.clone().find(begun));
                let guess = guess.map_or_else(String::new, |unit| {
                    format!("; is {}{unit} meant?", digits.trim())
                });
                return Err(format!(
                    "has a unit that is not known: it has to be {}{guess}",
                    self.allowed()
                ));
            }
        };
        let plain = digits.trim().replace('_', "");
        let is_number = !plain.is_empty() && plain.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            return Err(no_number());
        }
        let number = plain.parse::<u64>().ok();
        let number = number.and_then(|number| number.checked_mul(factor));
        number.ok_or_else(|| "is more than 64 bits have room for".to_owned())
    }

    /// What it may be, in words.
    pub fn allowed(self) -> String {
        let range = match self.bounds() {
            Some((least, u64::MAX)) => format!("of at least {}", self.say_number(least)),
            Some((least, most)) => {
                format!(
                    "from {} to {}",
                    self.say_number(least),
                    self.say_number(most)
                )
            }
            None => String::new(),
        };
        match self {
            Self::Count(..) => format!("a number {range}"),
            Self::Bytes(..) => format!("a number of bytes or a size such as 64KiB, {range}"),
            Self::Milliseconds(..) => {
                format!("a number of milliseconds or a time such as 30s, {range}")
            }
            Self::Microseconds(..) => {
                format!("a number of microseconds or a time such as 50us, {range}")
            }
            Self::Switch => "true or false".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Choice(_) => one_of(&self.words()),
            Self::List => "a list of texts".to_owned(),
        }
    }

    /// What a choice is between, without the one that is none.
    pub fn words(self) -> Vec<&'static str> {
        match self {
            Self::Choice(words) => words.iter().copied().filter(|it| !it.is_empty()).collect(),
            _ => Vec::new(),
        }
    }

    /// A number of it, in the largest unit that says it whole.
    pub fn say_number(self, number: u64) -> String {
        let binary = |(unit, _): &&Unit| !matches!(*unit, "TB" | "GB" | "MB" | "kB" | "B");
        let whole = |(_, factor): &&Unit| number > 0 && number.is_multiple_of(*factor);
        let units = self.units().unwrap_or_default().iter();
        match units.filter(binary).find(whole) {
            Some((unit, factor)) => format!("{}{unit}", number / factor),
            None => number.to_string(),
        }
    }

    /// A value of it, as it can be written.
    pub fn say(self, value: &Value) -> String {
        match value {
            Value::Number(number) => self.say_number(*number),
            Value::Switch(on) => on.to_string(),
            Value::Text(text) => text.clone(),
            Value::List(items) => items.join(", "),
        }
    }
}

/// `a, b or c`.
fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The end of a sentence that guesses what was meant, if something is like it.
pub fn meant<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|word| (strsim::damerau_levenshtein(text, word), word));
    match near.min() {
        Some((distance, word)) if distance <= 1 + word.len() / 4 => {
            format!("; is {word} meant?")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Kind = Kind::Bytes(256, 1 << 20);
    const TIME: Kind = Kind::Milliseconds(0, 86_400_000);

    fn read(kind: Kind, text: &str) -> Result<Value, String> {
        kind.read(&Written::Text(text.to_owned()))
    }

    #[test]
    fn numbers_have_units_or_the_keys_own() {
        let number = |number| Ok(Value::Number(number));
        assert_eq!(read(SIZE, "4096"), number(4096));
        assert_eq!(read(SIZE, "4_096"), number(4096));
        assert_eq!(read(SIZE, "16MiB"), number(16 << 20));
        assert_eq!(read(SIZE, "16 MiB"), number(16 << 20));
        assert_eq!(read(SIZE, "2kB"), number(2000));
        assert_eq!(read(TIME, "30s"), number(30_000));
        assert_eq!(read(TIME, "250ms"), number(250));
        assert_eq!(read(TIME, "2h"), number(7_200_000));
        assert_eq!(read(Kind::Microseconds(0, 9), "1ms"), number(1000));
        assert_eq!(read(Kind::Count(0, 9), "7"), number(7));
    }

    #[test]
    fn what_is_no_number_is_told_what_it_has_to_be() {
        let text = |kind, written| read(kind, written).unwrap_err();
        assert_eq!(
            text(SIZE, "plenty"),
            "has to be a number of bytes or a size such as 64KiB, from 256 to 1MiB"
        );
        assert!(text(SIZE, "16mib").ends_with("is 16MiB meant?"));
        assert!(text(SIZE, "16K").ends_with("is 16KiB meant?"));
        assert!(text(SIZE, "1.5MiB").starts_with("has to be a number of bytes"));
        assert!(text(SIZE, "-1").starts_with("has to be a number of bytes"));
        assert!(text(SIZE, "99999999999999TiB").contains("64 bits"));
        assert!(text(TIME, "30MiB").contains("a unit that is not known"));
        assert!(text(Kind::Switch, "maybe").ends_with("true or false"));
        let choice = Kind::Choice(&["auto", "uring", "epoll"]);
        assert_eq!(
            text(choice, "urimg"),
            "has to be auto, uring or epoll; is uring meant?"
        );
        assert_eq!(text(choice, "kqueue"), "has to be auto, uring or epoll");
    }

    #[test]
    fn a_number_is_said_in_the_largest_unit_that_fits() {
        for (number, said) in [
            (0, "0"),
            (1000, "1000"),
            (1 << 20, "1MiB"),
            (3 << 10, "3KiB"),
        ] {
            assert_eq!(SIZE.say_number(number), said);
        }
        for (number, said) in [(250, "250ms"), (90_000, "90s"), (120_000, "2m"), (0, "0")] {
            assert_eq!(TIME.say_number(number), said);
        }
        for number in [1, 1000, 12_345, 1 << 30, u64::MAX] {
            let said = SIZE.say_number(number);
            assert_eq!(read(SIZE, &said), Ok(Value::Number(number)));
        }
    }
}
