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
    /// The topics whose earlier messages are on their way, and for which wish they are.
    awaited: Vec<(Bytes, u32)>,
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
        self.awaited.push((topic, ticket));
    }

    /// Whether earlier messages of this topic are on their way.
    pub fn awaits(&self, topic: &[u8]) -> bool {
        self.awaited.iter().any(|(awaited, _)| awaited == topic)
    }

    /// Nobody waits for them any more.
    pub fn forget(&mut self, topic: &[u8]) {
        self.awaited.retain(|(awaited, _)| awaited != topic);
    }

    /// An answer is here. Returns whether it is to the newest wish.
    pub fn take(&mut self, topic: &[u8], ticket: u32) -> bool {
        let before = self.awaited.len();
        self.awaited
            .retain(|(awaited, its)| awaited != topic || *its != ticket);
        self.awaited.len() < before
    }

    /// Bytes of memory that it takes beside itself.
    pub fn held_bytes(&self) -> usize {
        let names: usize = self.awaited.iter().map(|(topic, _)| topic.len()).sum();
        self.awaited.capacity() * size_of::<(Bytes, u32)>() + names
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
        assert!(!listening.take(b"a", 1) && listening.awaits(b"a"));
        assert!(listening.take(b"a", 3) && !listening.awaits(b"a"));
        assert!(!listening.take(b"a", 3));
        listening.forget(b"b");
        assert!(listening.is_empty());
    }
}
