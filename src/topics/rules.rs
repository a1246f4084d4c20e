//! What is done with those who read a topic too slowly, by topic.
//!
//! Knows: patterns, and a rule for each. Refuses to know: who reads, and what.

use bytes::Bytes;

use super::{
    name::{Reach, TopicError, check_pattern},
    tree::Tree,
};

/// What is done when more messages of topics wait for a subscriber than may. Control frames and
/// what a service sends by itself are never left out.
///
/// For subscribers that have agreed on compression, speak hixie-76 or are servers that were
/// dialled, every policy but [`Disconnect`](Self::Disconnect) leaves out the new one: what waits
/// for them is encoded already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlowPolicy {
    /// A message takes the place of the one that waits with the same key, however few wait: a
    /// subscriber that is behind gets the newest of each. A message without a key has its topic for
    /// one; among those of different keys the order may change. Where no such message waits and as
    /// many wait as may, the oldest one is left out.
    Conflate,
    /// The subscriber is closed with 1013, and can come again.
    #[default]
    Disconnect,
    /// Those that have waited longest are left out.
    DropOldest,
    /// The new one is left out.
    DropNewest,
}

/// How a topic is treated.
///
/// ```
/// use ringwire::{Server, topics::{SlowPolicy, TopicOptions}};
///
/// # fn main() -> Result<(), ringwire::topics::TopicError> {
/// let mut prices = TopicOptions::default();
/// prices.slow = SlowPolicy::Conflate;
/// let server = Server::builder().topic("prices.>", prices)?;
/// # let _ = server;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicOptions {
    /// What is done with a subscriber that is behind.
    pub slow: SlowPolicy,
    /// Messages of topics that may wait for one subscriber. They are counted over all of its
    /// topics.
    pub backlog_messages_max: usize,
    /// Bytes of them, likewise. They share the memory of the messages with all who wait for the
    /// same ones.
    pub backlog_bytes_max: usize,
    /// Messages that are kept for who was away, the last ones: with them each message has a number
    /// ([`Position`](super::Position)), and [`subscribe_since`](crate::Conn::subscribe_since) goes
    /// on behind any of them. 0: none, and no numbers.
    pub history_messages_max: usize,
    /// Bytes that these may take. What all topics keep is limited by
    /// [`topic_history_bytes_max`](crate::Config::topic_history_bytes_max) as well.
    pub history_bytes_max: usize,
    /// Milliseconds for which one is kept; 0: as long as there is room.
    pub history_ms_max: u64,
}

impl TopicOptions {
    /// Whether messages are kept, and have numbers.
    pub const fn has_history(&self) -> bool {
        self.history_messages_max > 0
    }
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self {
            slow: SlowPolicy::default(),
            backlog_messages_max: 4096,
            backlog_bytes_max: 4 << 20,
            history_messages_max: 0,
            history_bytes_max: 1 << 20,
            history_ms_max: 0,
        }
    }
}

/// The options of every topic.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    others: TopicOptions,
    /// With the order in which they were given.
    by_pattern: Tree<(usize, TopicOptions)>,
    patterns: usize,
    /// Some topic keeps messages.
    has_history: bool,
}

impl Rules {
    /// Topics that match this pattern are treated so. Of several patterns the one that was given
    /// last counts.
    ///
    /// # Errors
    ///
    /// When it is no pattern.
    pub fn add(&mut self, pattern: &[u8], options: TopicOptions) -> Result<(), TopicError> {
        let reach: Reach = check_pattern(pattern)?;
        self.patterns += 1;
        self.has_history |= options.has_history();
        let rule = (self.patterns, options);
        let pattern = Bytes::copy_from_slice(pattern);
        self.by_pattern.insert(pattern, reach, rule);
        Ok(())
    }

    /// Whether messages of this topic are kept.
    #[inline]
    pub fn keeps(&self, name: &[u8]) -> bool {
        self.has_history && self.of(name).has_history()
    }

    /// How this topic is treated.
    pub fn of(&self, name: &[u8]) -> TopicOptions {
        let mut last = (0, self.others);
        if !self.by_pattern.is_empty() {
            self.by_pattern.matches(name, |&rule| {
                if rule.0 > last.0 {
                    last = rule;
                }
            });
        }
        last.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_that_was_given_last_counts() {
        let options = |backlog_messages_max| TopicOptions {
            backlog_messages_max,
            ..TopicOptions::default()
        };
        let mut rules = Rules::default();
        rules.add(b"a.>", options(1)).unwrap();
        rules.add(b"a.b", options(2)).unwrap();
        rules.add(b"*.c", options(3)).unwrap();
        let of = |name: &str| rules.of(name.as_bytes()).backlog_messages_max;
        assert_eq!([of("a.x"), of("a.b"), of("a.c"), of("b.c")], [1, 2, 3, 3]);
        assert_eq!(rules.of(b"b"), TopicOptions::default());
        assert!(rules.add(b"a..b", options(4)).is_err());
    }
}
