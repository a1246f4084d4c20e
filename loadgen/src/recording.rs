//! What `ringwire serve --record` has written: when connections opened and closed, and when what
//! kind of message of which size came, but not what was in it.
//!
//! Knows: the file's format, which `loadgen/recording.md` describes. Refuses to know: what is done
//! with it.
//!
//! Only the reading half is here. The server has the writing half, since neither is to depend on
//! the other, and a half each is less than a crate of their own; `recording.golden` holds the two
//! together, which both sides' tests look at.

use std::{collections::HashSet, path::Path};

use crate::plan::{CONNECTIONS_MAX, SIZE_MAX_BYTES};

/// How a file begins.
const MAGIC: &[u8] = b"ringwire recording 1\n";

/// A recording that is longer is damaged, in microseconds.
const LENGTH_MAX_US: i64 = 366 * 24 * 3600 * 1_000_000;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A connection opened.
    Opened,
    /// A connection ended.
    Closed,
    /// A text message of so many bytes came.
    Text(u32),
    /// A binary message of so many bytes came.
    Binary(u32),
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in microseconds from the first one.
    pub at_us: u64,
    /// The connection's number in the file, counted from 0 in the order in which they are first
    /// named.
    pub connection: u32,
    /// What.
    pub what: What,
}

/// A file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// What happened, in the order of time.
    pub events: Vec<Event>,
    /// Connections in it.
    pub connections: usize,
    /// What could not be recorded. `None`: the server did not come to write that.
    pub unrecorded: Option<u64>,
}

/// Bytes that are taken from the front.
struct Bytes<'a> {
    file: &'a str,
    whole: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    /// A number of up to 64 bits, seven in each byte, the least significant first (LEB128). `None`
    /// at the end of the file, also in the middle of a number: a server was stopped there.
    fn number(&mut self) -> Result<Option<u64>, String> {
        let (mut number, mut shift) = (0_u64, 0);
        loop {
            let Some(&byte) = self.whole.get(self.at) else {
                return Ok(None);
            };
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift > 63 || (shift == 63 && bits > 1) {
                return self.wrong("a number is longer than 64 bits");
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(number));
            }
            shift += 7;
        }
    }

    fn wrong<T>(&self, what: &str) -> Result<T, String> {
        Err(format!(
            "{}, byte {}: {what}; is it damaged?",
            self.file, self.at
        ))
    }
}

impl Recording {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// A sentence with the file and, where something is wrong in it, the byte.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = path.display().to_string();
        let bytes =
            std::fs::read(path).map_err(|error| format!("{file} cannot be read: {error}"))?;
        Self::parse(&file, &bytes)
    }

    /// As [`read`](Self::read), of bytes that are called `file` where something is wrong with them.
    ///
    /// # Errors
    ///
    /// A sentence with the byte.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, String> {
        if !bytes.starts_with(MAGIC) {
            return Err(format!(
                "{file} is no recording of version 1: 'ringwire serve --record FILE' makes them"
            ));
        }
        let mut bytes = Bytes {
            file,
            whole: bytes,
            at: MAGIC.len(),
        };
        let mut recording = Self {
            started_unix_ms: bytes.number()?.unwrap_or(0),
            events: Vec::new(),
            connections: 0,
            unrecorded: None,
        };
        let mut numbers = std::collections::HashMap::new();
        let mut at_us = 0_i64;
        while let (Some(step), Some(tag)) = (bytes.number()?, bytes.number()?) {
            // Several shards write into one file, so that time goes back a little now and then.
            at_us = at_us.wrapping_add((step >> 1) as i64 ^ -((step & 1) as i64));
            let kind = tag & 7;
            if kind == 7 {
                let (Some(behind), Some(beyond)) = (bytes.number()?, bytes.number()?) else {
                    break;
                };
                recording.unrecorded = Some(behind.saturating_add(beyond));
                break;
            }
            let what = match kind {
                0 => What::Opened,
                1 => What::Closed,
                2 | 3 => {
                    let Some(size) = bytes.number()? else { break };
                    if size > SIZE_MAX_BYTES as u64 {
                        return bytes.wrong("a message is longer than the 1024M that can be sent");
                    }
                    match kind {
                        2 => What::Text(size as u32),
                        _ => What::Binary(size as u32),
                    }
                }
                _ => return bytes.wrong("there is no such kind of event"),
            };
            let next = numbers.len() as u32;
            let connection = *numbers.entry(tag >> 3).or_insert(next);
            if at_us > LENGTH_MAX_US {
                return bytes.wrong("it goes on for more than a year");
            }
            if numbers.len() > CONNECTIONS_MAX {
                return bytes.wrong("there are more connections than can be opened");
            }
            recording.events.push(Event {
                at_us: at_us.max(0) as u64,
                connection,
                what,
            });
        }
        recording.connections = numbers.len();
        recording.order();
        Ok(recording)
    }

    /// Puts events in the order of time, from 0 on, and has each connection opened before anything
    /// else happens on it: of what could not be recorded, that may be a part.
    fn order(&mut self) {
        self.events.sort_by_key(|event| event.at_us);
        let first_us = self.events.first().map_or(0, |event| event.at_us);
        let mut opened = HashSet::new();
        let mut events = Vec::with_capacity(self.events.len());
        for event in &self.events {
            let at_us = event.at_us - first_us;
            let is_first = opened.insert(event.connection);
            if is_first && event.what != What::Opened {
                events.push(Event {
                    at_us,
                    what: What::Opened,
                    ..*event
                });
            }
            if is_first || event.what != What::Opened {
                events.push(Event { at_us, ..*event });
            }
        }
        self.events = events;
    }

    /// Messages in it.
    #[must_use]
    pub fn messages(&self) -> u64 {
        let sizes = self.events.iter().filter(|event| event.size().is_some());
        sizes.count() as u64
    }

    /// How long it is, in microseconds.
    #[must_use]
    pub fn length_us(&self) -> u64 {
        self.events.last().map_or(0, |event| event.at_us)
    }

    /// The longest message in it, in bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        let sizes = self.events.iter().filter_map(Event::size);
        sizes.max().unwrap_or(0) as usize
    }
}

impl Event {
    /// The size of a message.
    #[must_use]
    pub const fn size(&self) -> Option<u32> {
        match self.what {
            What::Text(size) | What::Binary(size) => Some(size),
            What::Opened | What::Closed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_us: u64, connection: u32, what: What) -> Event {
        Event {
            at_us,
            connection,
            what,
        }
    }

    /// The file that the server's test writes.
    const GOLDEN: &[u8] = include_bytes!("recording.golden");

    #[test]
    fn what_the_server_writes_is_read() {
        let recording = Recording::parse("golden", GOLDEN).unwrap();
        assert_eq!(
            recording,
            Recording {
                started_unix_ms: 1_798_761_600_250,
                events: vec![
                    event(0, 1, What::Opened),
                    event(150, 0, What::Opened),
                    event(1_150, 1, What::Text(5)),
                    event(1_149_050, 0, What::Binary(70_000)),
                    event(1_150_150, 1, What::Closed),
                ],
                connections: 2,
                unrecorded: Some(7),
            }
        );
        assert_eq!((recording.messages(), recording.longest()), (2, 70_000));
        assert_eq!(recording.length_us(), 1_150_150);
    }

    #[test]
    fn a_file_that_is_cut_short_is_read_as_far_as_it_goes() {
        let whole = Recording::parse("golden", GOLDEN).unwrap();
        for end in MAGIC.len()..GOLDEN.len() {
            let part = Recording::parse("part", &GOLDEN[..end]).unwrap();
            assert!(part.events.len() <= whole.events.len());
            assert_eq!(part.unrecorded, None, "{end}");
        }
    }

    #[test]
    fn what_is_no_recording_is_refused_with_its_place() {
        for (tail, said) in [
            (&[0, 0, 5][..], "byte 24: there is no such kind of event"),
            (
                &[0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0x0f],
                "longer than the 1024M",
            ),
            (&[0xff; 11], "longer than 64 bits"),
            (
                &[0, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0],
                "more than a year",
            ),
        ] {
            let error = Recording::parse("it", &[MAGIC, tail].concat()).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let error = Recording::parse("it", b"{\"schema\": 1}").unwrap_err();
        assert!(error.contains("is no recording of version 1"), "{error}");
    }

    #[test]
    fn who_was_not_seen_to_open_opens_all_the_same() {
        let bytes = [MAGIC, &[0, 20, 2, 9, 20, 0, 20, 1][..]].concat();
        let recording = Recording::parse("it", &bytes).unwrap();
        let whats: Vec<What> = recording.events.iter().map(|event| event.what).collect();
        assert_eq!(whats, [What::Opened, What::Text(9), What::Closed]);
    }
}
