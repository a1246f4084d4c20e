//! What the subscribers of a shard want, for the other shards to look at.
//!
//! Knows: patterns that somebody subscribes to. Refuses to know: who.
//!
//! A shard enters a pattern before it says that somebody has subscribed, and whoever publishes
//! looks here for each message: so nobody who was told that it has subscribed misses one.

use std::sync::{
    PoisonError, RwLock,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use super::{name::Reach, tree::Tree};

/// The patterns of one shard.
#[derive(Debug, Default)]
pub struct Interest {
    patterns: RwLock<Tree<()>>,
    /// How many there are, for those who look without the lock whether there are any.
    count: AtomicUsize,
}

impl Interest {
    /// Somebody has subscribed to this pattern, who is the first one.
    pub fn begin(&self, pattern: &[u8], reach: Reach) {
        let mut patterns = self
            .patterns
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        patterns.insert(Bytes::copy_from_slice(pattern), reach, ());
        // Whoever is told of the subscription was told under a lock, or by a message.
        self.count.fetch_add(1, Ordering::Release);
    }

    /// Nobody subscribes to it any more.
    pub fn end(&self, pattern: &[u8], reach: Reach) {
        let mut patterns = self
            .patterns
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if patterns.remove(pattern, reach).is_some() {
            self.count.fetch_sub(1, Ordering::Release);
        }
    }

    /// Whether somebody wants messages of this topic.
    #[inline]
    pub fn wants(&self, name: &[u8]) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let patterns = self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        patterns.has_match(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_what_was_begun_and_not_ended() {
        let interest = Interest::default();
        assert!(!interest.wants(b"a.b"));
        interest.begin(b"a.*", Reach::Several);
        interest.begin(b"a.b", Reach::One);
        assert!(interest.wants(b"a.b") && interest.wants(b"a.c") && !interest.wants(b"b"));
        interest.end(b"a.*", Reach::Several);
        interest.end(b"a.*", Reach::Several);
        assert!(interest.wants(b"a.b") && !interest.wants(b"a.c"));
        interest.end(b"a.b", Reach::One);
        assert!(!interest.wants(b"a.b"));
    }
}
