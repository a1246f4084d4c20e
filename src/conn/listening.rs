//! What a connection has asked of its topics beside the messages.
//!
//! Knows: whether they come in envelopes, and of which topics it waits for earlier messages.
//! Refuses to know: messages, and who has subscribed to what.

use bytes::Bytes;

/// What was asked for.
#[derive(Debug, Default)]
pub struct Listening {
    /// Messages come as the service puts them.
    pub has_envelopes: bool,
    /// The topics whose earlier messages are on their way.
    awaited: Vec<Awaited>,
}

#[derive(Debug)]
struct Awaited {
    topic: Bytes,
    /// For which wish they are.
    ticket: u32,
    /// The first of them are here.
    has_begun: bool,
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first one to the newest wish.
    First,
    /// Another one.
    Next,
    /// None to a wish that still counts.
    Stale,
}

impl Listening {
    /// Whether nothing was.
    pub const fn is_empty(&self) -> bool {
        !self.has_envelopes && self.awaited.is_empty()
    }

    /// Earlier messages of a topic are on their way: until they are here, later ones are not for
    /// this connection. A newer wish takes the place of an older one.
    pub fn await_topic(&mut self, topic: Bytes, ticket: u32) {
        self.forget(&topic);
        self.awaited.push(Awaited {
            topic,
            ticket,
            has_begun: false,
        });
    }

    /// Whether earlier messages of this topic are on their way.
    pub fn awaits(&self, topic: &[u8]) -> bool {
        self.awaited.iter().any(|it| it.topic == topic)
    }

    /// Nobody waits for them any more.
    pub fn forget(&mut self, topic: &[u8]) {
        self.awaited.retain(|it| it.topic != topic);
    }

    /// An answer is here, the last one to its wish or not.
    pub fn take(&mut self, topic: &[u8], ticket: u32, is_last: bool) -> Part {
        let is_it = |it: &Awaited| it.topic == topic && it.ticket == ticket;
        let Some(index) = self.awaited.iter().position(is_it) else {
            return Part::Stale;
        };
        let has_begun = std::mem::replace(&mut self.awaited[index].has_begun, true);
        if is_last {
            self.awaited.swap_remove(index);
        }
        match has_begun {
            false => Part::First,
            true => Part::Next,
        }
    }

    /// Bytes of memory that it takes beside itself.
    pub fn held_bytes(&self) -> usize {
        let names: usize = self.awaited.iter().map(|it| it.topic.len()).sum();
        self.awaited.capacity() * size_of::<Awaited>() + names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_wish_is_answered() {
        let mut listening = Listening::default();
        listening.await_topic(Bytes::from("a"), 1);
        listening.await_topic(Bytes::from("b"), 2);
        listening.await_topic(Bytes::from("a"), 3);
        assert_eq!(listening.take(b"a", 1, true), Part::Stale);
        assert_eq!(listening.take(b"a", 3, false), Part::First);
        assert!(listening.awaits(b"a"));
        assert_eq!(listening.take(b"a", 3, true), Part::Next);
        assert!(!listening.awaits(b"a"));
        assert_eq!(listening.take(b"a", 3, true), Part::Stale);
        listening.forget(b"b");
        assert!(listening.is_empty());
    }
}
