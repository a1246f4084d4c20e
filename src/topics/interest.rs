//! What the subscribers of a shard want, for the other shards to look at.
//!
//! Knows: patterns that somebody subscribes to. Refuses to know: who.
//!
//! A shard enters a pattern before it says that somebody has subscribed, and whoever publishes
//! looks here for each message: so nobody who was told that it has subscribed misses one.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use super::{name::Reach, tree::Tree};

/// The patterns of one shard.
#[derive(Debug, Default)]
pub struct Interest {
    /// With how many subscribe to each.
    patterns: RwLock<Tree<Arc<AtomicUsize>>>,
    /// How many there are, for those who look without the lock whether there are any.
    count: AtomicUsize,
}

impl Interest {
    /// Somebody has subscribed to this pattern, who is the first one. `members` tells from now on
    /// how many do.
    pub fn begin(&self, pattern: &[u8], reach: Reach, members: Arc<AtomicUsize>) {
        let mut patterns = self
            .patterns
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        patterns.insert(Bytes::copy_from_slice(pattern), reach, members);
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

    /// How many subscribe to exactly this name or pattern.
    pub fn members(&self, pattern: &[u8], reach: Reach) -> usize {
        let patterns = self.patterns.read().unwrap_or_else(PoisonError::into_inner);
        let members = patterns.get(pattern, reach);
        members.map_or(0, |members| members.load(Ordering::Relaxed))
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
        let two = || Arc::new(AtomicUsize::new(2));
        interest.begin(b"a.*", Reach::Several, two());
        interest.begin(b"a.b", Reach::One, two());
        assert!(interest.wants(b"a.b") && interest.wants(b"a.c") && !interest.wants(b"b"));
        assert_eq!(interest.members(b"a.*", Reach::Several), 2);
        interest.end(b"a.*", Reach::Several);
        interest.end(b"a.*", Reach::Several);
        assert_eq!(interest.members(b"a.*", Reach::Several), 0);
        assert!(interest.wants(b"a.b") && !interest.wants(b"a.c"));
        interest.end(b"a.b", Reach::One);
        assert!(!interest.wants(b"a.b"));
    }
}
