//! What was published to a topic last, with a number for each message, so that who was away can go
//! on where it stopped.
//!
//! Knows: messages by topic and number, and how many of them may be kept. Refuses to know: who
//! published them, and who asks.
//!
//! Numbers of a topic begin with 1 and have no gaps. They belong to an epoch: when a history is
//! forgotten, for want of room or because the server ends, the next one has another epoch, so that
//! nobody takes its numbers for those of the one before. All that is kept has the numbers that end
//! with the newest one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt, mem,
    num::ParseIntError,
    str::FromStr,
};

use bytes::Bytes;

use super::rules::TopicOptions;
use crate::{
    proto::message::{Frame, Message},
    ring::Time,
};

/// Where a message stands among those of its topic. Written as `EPOCH-NUMBER`, the epoch in
/// hexadecimal digits.
///
/// ```
/// use ringwire::topics::Position;
///
/// # fn main() -> Result<(), ringwire::topics::PositionError> {
/// let position: Position = "5f3759df-42".parse()?;
/// assert_eq!(position.number, 42);
/// assert_eq!(position.to_string(), "5f3759df-42");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Which history of the topic it is: another one after this one was forgotten.
    pub epoch: u64,
    /// The number of the message, from 1 on; 0 stands before the first one.
    pub number: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{}", self.epoch, self.number)
    }
}

/// Why a text is no [`Position`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionError(());

impl fmt::Display for PositionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a position in a topic is an epoch and a number, as in 5f3759df-42")
    }
}

impl std::error::Error for PositionError {}

impl From<ParseIntError> for PositionError {
    fn from(_: ParseIntError) -> Self {
        Self(())
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let (epoch, number) = text.split_once('-').ok_or(PositionError(()))?;
        Ok(Self {
            epoch: u64::from_str_radix(epoch, 16)?,
            number: number.parse()?,
        })
    }
}

/// From where on a subscriber wants the messages of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Since {
    /// Behind this message: the last one that it has.
    After(Position),
    /// So many of the last ones, or as many as are kept.
    Last(u64),
    /// Only those that are still to come.
    Now,
}

/// What came of a wish for earlier messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The newest message of the topic: what comes live has the numbers behind it.
    pub newest: Position,
    /// How many earlier messages follow.
    pub messages: u64,
    /// Whether nothing is missing between what was asked for and what follows. It is when more was
    /// published meanwhile than is kept, or the history was forgotten.
    pub is_whole: bool,
}

/// Messages of a topic that are kept, as they were asked for.
///
/// See [`Handle::recall`](crate::Handle::recall).
#[derive(Clone, Debug)]
pub struct Recalled {
    resumed: Resumed,
    /// The number of the first one of these.
    first: u64,
    frames: Vec<Frame>,
}

/// How much of a history is told at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// So many messages at most.
    pub messages_max: usize,
    /// So many bytes of them, or one message.
    pub bytes_max: usize,
}

impl Page {
    /// All of it.
    pub const WHOLE: Self = Self {
        messages_max: usize::MAX,
        bytes_max: usize::MAX,
    };
}

impl Recalled {
    /// How many there are, and whether some are missing.
    pub const fn resumed(&self) -> Resumed {
        self.resumed
    }

    /// The messages with their numbers, the oldest one first.
    pub fn messages(&self) -> impl Iterator<Item = (u64, Message<'_>)> {
        let first = self.first;
        let messages = self.frames.iter().map(Frame::message);
        messages
            .enumerate()
            .map(move |(index, message)| (first + index as u64, message))
    }

    /// Behind the last one of these, where more follow that are kept.
    pub(crate) fn rest(&self) -> Option<Since> {
        let epoch = self.resumed.newest.epoch;
        let number = self.first + self.frames.len() as u64 - 1;
        let is_rest = number < self.resumed.newest.number && !self.frames.is_empty();
        is_rest.then_some(Since::After(Position { epoch, number }))
    }

    /// The messages with their positions.
    pub(crate) fn into_frames(self) -> impl Iterator<Item = (Position, Frame)> {
        let (first, epoch) = (self.first, self.resumed.newest.epoch);
        self.frames
            .into_iter()
            .enumerate()
            .map(move |(index, frame)| {
                let number = first + index as u64;
                (Position { epoch, number }, frame)
            })
    }

    /// Nothing, because nobody is there who would have kept it.
    pub(crate) const fn nothing() -> Self {
        Self {
            resumed: Resumed {
                newest: Position {
                    epoch: 0,
                    number: 0,
                },
                messages: 0,
                is_whole: false,
            },
            first: 1,
            frames: Vec::new(),
        }
    }

    /// Bytes of memory that it takes, those of the messages included.
    pub(crate) fn held_bytes(&self) -> usize {
        let bytes = self.frames.iter().map(|frame| frame.bytes().len());
        size_of::<Self>() + self.frames.len() * size_of::<Frame>() + bytes.sum::<usize>()
    }
}

/// What a topic takes beside its name and its messages, about.
const HISTORY_BYTES: usize = 384;

/// The histories of one shard: of the topics that have it for a home.
#[derive(Debug, Default)]
pub struct Histories {
    topics: HashMap<Bytes, History>,
    /// The topics in the order in which they were used, for who has to go.
    by_use: BTreeMap<u64, Bytes>,
    uses: u64,
    bytes: usize,
    /// Of the next history that begins.
    next_epoch: u64,
}

#[derive(Debug)]
struct History {
    newest: Position,
    kept: VecDeque<Kept>,
    /// Bytes of all that is kept.
    bytes: usize,
    used: u64,
}

#[derive(Debug)]
struct Kept {
    frame: Frame,
    at: Time,
}

impl Kept {
    fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.frame.bytes().len()
    }
}

impl History {
    fn drop_oldest(&mut self) -> bool {
        let oldest = self.kept.pop_front();
        self.bytes -= oldest.as_ref().map_or(0, Kept::held_bytes);
        oldest.is_some()
    }

    /// Leaves out what is too much or too old.
    fn trim(&mut self, options: &TopicOptions, now: Time) {
        let is_old = |kept: &Kept| {
            let age_ms = now.ns_since(kept.at) / 1_000_000;
            options.history_ms_max > 0 && age_ms >= options.history_ms_max
        };
        while self.kept.len() > options.history_messages_max
            || self.bytes > options.history_bytes_max
            || self.kept.front().is_some_and(is_old)
        {
            self.drop_oldest();
        }
        if self.kept.capacity() / 4 > self.kept.len() {
            self.kept.shrink_to(self.kept.len() * 2);
        }
    }

    fn recall(&self, since: Since, page: Page) -> Recalled {
        let kept = self.kept.len() as u64;
        let newest = self.newest;
        // How many there would have to be.
        let wanted = match since {
            Since::Now => Some(0),
            Since::Last(count) => Some(count.min(kept)),
            Since::After(position) if position.epoch == newest.epoch => {
                newest.number.checked_sub(position.number)
            }
            Since::After(_) => None,
        };
        let messages = wanted.unwrap_or(kept).min(kept);
        let mut bytes = 0;
        let those = self.kept.iter().skip((kept - messages) as usize);
        let those = those.take(page.messages_max.max(1)).take_while(|kept| {
            let is_first = bytes == 0;
            bytes += kept.held_bytes();
            is_first || bytes <= page.bytes_max
        });
        let frames = those.map(|kept| kept.frame.clone());
        Recalled {
            first: newest.number + 1 - messages,
            resumed: Resumed {
                newest,
                messages,
                is_whole: wanted.is_some_and(|wanted| wanted <= kept),
            },
            frames: frames.collect(),
        }
    }
}

impl Histories {
    /// Has the epochs of histories count from here on.
    pub const fn begin_at(&mut self, epoch: u64) {
        self.next_epoch = epoch;
    }

    /// Bytes of memory that they take.
    pub const fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Topics of which something is remembered.
    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Whether nothing is remembered of any topic.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// The same as [`held_bytes`](Self::held_bytes), from walking over everything.
    #[cfg(any(feature = "sim", test))]
    pub fn sum_bytes(&self) -> usize {
        let of = |(topic, history): (&Bytes, &History)| {
            let kept: usize = history.kept.iter().map(Kept::held_bytes).sum();
            topic_bytes(topic) + kept
        };
        self.topics.iter().map(of).sum()
    }

    /// Gives a message the next number of its topic and keeps it.
    pub fn record(
        &mut self,
        topic: &Bytes,
        frame: Frame,
        options: &TopicOptions,
        now: Time,
    ) -> Position {
        self.change(topic, |history| {
            history.newest.number += 1;
            let kept = Kept { frame, at: now };
            history.bytes += kept.held_bytes();
            history.kept.push_back(kept);
            history.trim(options, now);
            history.newest
        })
    }

    /// What was asked for, or as much of it as is told at once. A topic that has no history yet
    /// begins one: its position is worth something to whoever comes back with it.
    pub fn recall(
        &mut self,
        topic: &Bytes,
        (since, page): (Since, Page),
        options: &TopicOptions,
        now: Time,
    ) -> Recalled {
        self.change(topic, |history| {
            history.trim(options, now);
            history.recall(since, page)
        })
    }

    fn change<T>(&mut self, topic: &Bytes, change: impl FnOnce(&mut History) -> T) -> T {
        self.uses += 1;
        let uses = self.uses;
        let history = self.topics.entry(topic.clone()).or_insert_with(|| {
            self.bytes += topic_bytes(topic);
            self.next_epoch = self.next_epoch.wrapping_add(1);
            History {
                newest: Position {
                    epoch: self.next_epoch.wrapping_sub(1),
                    number: 0,
                },
                kept: VecDeque::new(),
                bytes: 0,
                used: 0,
            }
        });
        self.by_use.remove(&mem::replace(&mut history.used, uses));
        self.by_use.insert(uses, topic.clone());
        let before = history.bytes;
        let outcome = change(history);
        self.bytes = self.bytes - before + history.bytes;
        outcome
    }

    /// Forgets histories, those that were not used for longest, until they take no more than this.
    pub fn shrink_to(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some((_, topic)) = self.by_use.pop_first()
        {
            if let Some(history) = self.topics.remove(&topic) {
                self.bytes -= topic_bytes(&topic) + history.bytes;
            }
        }
        if self.topics.is_empty() {
            *self = Self {
                uses: self.uses,
                next_epoch: self.next_epoch,
                ..Self::default()
            };
        }
    }
}

fn topic_bytes(topic: &Bytes) -> usize {
    HISTORY_BYTES + topic.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(messages: usize) -> TopicOptions {
        TopicOptions {
            history_messages_max: messages,
            ..TopicOptions::default()
        }
    }

    fn histories() -> Histories {
        let mut histories = Histories::default();
        histories.begin_at(7);
        histories
    }

    fn record(histories: &mut Histories, topic: &'static str, text: &str) -> Position {
        let frame = Frame::new(&text.into());
        let now = Time::from_ns(0);
        histories.record(&topic.into(), frame, &options(3), now)
    }

    fn recall(histories: &mut Histories, since: Since) -> (Vec<String>, Resumed) {
        let now = Time::from_ns(0);
        let asked = (since, Page::WHOLE);
        let recalled = histories.recall(&"a".into(), asked, &options(3), now);
        let text =
            |(number, message): (u64, Message<'_>)| format!("{number} {}", message.text().unwrap());
        (recalled.messages().map(text).collect(), recalled.resumed())
    }

    fn at(number: u64) -> Position {
        Position { epoch: 7, number }
    }

    #[test]
    fn who_was_away_gets_what_it_missed_or_is_told_of_a_gap() {
        let mut histories = histories();
        let (nothing, resumed) = recall(&mut histories, Since::After(at(0)));
        assert!(nothing.is_empty() && resumed.is_whole);
        for text in ["one", "two", "three", "four"] {
            record(&mut histories, "a", text);
        }
        let of = |since, histories: &mut _| {
            let (texts, resumed) = recall(histories, since);
            assert_eq!(resumed.newest, at(4));
            assert_eq!(resumed.messages, texts.len() as u64);
            (texts, resumed.is_whole)
        };
        let all = ["2 two", "3 three", "4 four"].map(str::to_owned);
        let mut ask = |since| of(since, &mut histories);
        assert_eq!(ask(Since::After(at(4))), (vec![], true));
        assert_eq!(ask(Since::After(at(3))), (all[2..].to_vec(), true));
        assert_eq!(ask(Since::After(at(1))), (all.to_vec(), true));
        // The first one is not kept any more.
        assert_eq!(ask(Since::After(at(0))), (all.to_vec(), false));
        // Nobody can have this one.
        assert_eq!(ask(Since::After(at(5))), (all.to_vec(), false));
        let another = Position {
            epoch: 6,
            number: 3,
        };
        assert_eq!(ask(Since::After(another)), (all.to_vec(), false));
        assert_eq!(ask(Since::Last(2)), (all[1..].to_vec(), true));
        assert_eq!(ask(Since::Last(u64::MAX)), (all.to_vec(), true));
        assert_eq!(ask(Since::Now), (vec![], true));
    }

    #[test]
    fn what_is_old_or_too_much_is_left_out() {
        let mut histories = histories();
        let mut options = options(100);
        options.history_ms_max = 1000;
        options.history_bytes_max = 3 * (size_of::<Kept>() + 102);
        let frame = || Frame::new(&vec![0; 100].into());
        let topic = Bytes::from("a");
        let mut kept_at = |ms: u64| {
            let now = Time::from_ns(ms * 1_000_000);
            histories.record(&topic, frame(), &options, now);
            let asked = (Since::Last(100), Page::WHOLE);
            let recalled = histories.recall(&topic, asked, &options, now);
            recalled.resumed().messages
        };
        assert_eq!([0, 400, 800, 900].map(&mut kept_at), [1, 2, 3, 3]);
        // Those of 800 and 900 are left.
        assert_eq!(kept_at(1500), 3);
        assert_eq!(kept_at(5000), 1);
        assert_eq!(histories.held_bytes(), histories.sum_bytes());
    }

    #[test]
    fn much_is_told_page_by_page() {
        let mut histories = histories();
        let options = options(100);
        let now = Time::from_ns(0);
        let topic = Bytes::from("a");
        for number in 1..=10 {
            let frame = Frame::new(&format!("{number}").into());
            histories.record(&topic, frame, &options, now);
        }
        let each = size_of::<Kept>() + 3;
        for page in [
            Page {
                messages_max: 3,
                ..Page::WHOLE
            },
            Page {
                // The last of them has two digits.
                bytes_max: 3 * each + 1,
                ..Page::WHOLE
            },
        ] {
            let mut since = Some(Since::After(at(1)));
            let mut numbers = Vec::new();
            let mut pages = Vec::new();
            while let Some(asked) = since {
                let recalled = histories.recall(&topic, (asked, page), &options, now);
                assert!(recalled.resumed().is_whole);
                let before = numbers.len();
                numbers.extend(recalled.messages().map(|(number, _)| number));
                pages.push(numbers.len() - before);
                since = recalled.rest();
            }
            assert_eq!(numbers, [2, 3, 4, 5, 6, 7, 8, 9, 10]);
            assert_eq!(pages, [3, 3, 3]);
        }
        // One message is told however long it is.
        let page = Page {
            messages_max: 0,
            bytes_max: 0,
        };
        let asked = (Since::Last(5), page);
        let recalled = histories.recall(&topic, asked, &options, now);
        assert_eq!(recalled.messages().count(), 1);
        assert_eq!(recalled.resumed().messages, 5);
    }

    #[test]
    fn the_topic_that_was_not_used_for_longest_goes_first() {
        let mut histories = histories();
        for topic in ["a", "b", "c"] {
            record(&mut histories, topic, "text");
        }
        let each = histories.held_bytes() / 3;
        recall(&mut histories, Since::Now);
        histories.shrink_to(2 * each);
        assert_eq!(histories.len(), 2);
        assert_eq!(histories.held_bytes(), 2 * each);
        // It begins anew: nobody takes its numbers for the old ones.
        let now = Time::from_ns(0);
        let frame = Frame::new(&"text".into());
        let options = options(3);
        histories.begin_at(9);
        let position = histories.record(&"b".into(), frame, &options, now);
        assert_eq!(
            position,
            Position {
                epoch: 9,
                number: 1
            }
        );
        assert_eq!(record(&mut histories, "a", "text"), at(2));
        histories.shrink_to(0);
        assert!(histories.is_empty() && histories.held_bytes() == 0);
    }

    #[test]
    fn a_position_is_read_as_it_is_written() {
        let position = Position {
            epoch: u64::MAX,
            number: 12,
        };
        assert_eq!(position.to_string().parse(), Ok(position));
        for text in [
            "",
            "1",
            "-",
            "x-1",
            "1-",
            "1-x",
            "1-1-1",
            "1ffffffffffffffff-1",
        ] {
            let parsed: Result<Position, _> = text.parse();
            assert!(parsed.is_err(), "{text}");
        }
    }
}
