//! How a server that stops takes its leave of its connections.
//!
//! Knows: whose turn it is at what time. Refuses to know: how a connection is closed.
//!
//! Clients connect again when they are closed, to whoever serves then. Closed all at once, they
//! would come all at once; so each has a moment of its own, in an order that nobody has chosen, at
//! an even rate:
//!
//! ```text
//!   began            spread_ms                     timeout_ms
//!   |--x--x--x--x--x--x--x--x--x--x--x--|------------------------------| dropped
//!      one close each                     for those who do not answer
//! ```

use super::Key;
use crate::{
    proto::{CloseCode, endpoint::MaskingKeys},
    ring::Time,
};

/// How a server is to stop: [`Handle::drain`](crate::Handle::drain).
///
/// ```
/// use ringwire::{CloseCode, Drain};
///
/// // A new version is about to start here: half a minute for all to go over to it.
/// let drain = Drain {
///     code: CloseCode::SERVICE_RESTART,
///     spread_ms: 30_000,
///     ..Drain::default()
/// };
/// assert_eq!(drain.timeout_ms, 10_000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// With which code connections are closed: [`CloseCode::GOING_AWAY`], unless set.
    pub code: CloseCode,
    /// Over how many milliseconds the closes are spread. 0: all at once.
    pub spread_ms: u64,
    /// How many milliseconds the last of them has to close.
    pub timeout_ms: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            code: CloseCode::GOING_AWAY,
            spread_ms: 0,
            timeout_ms: 10_000,
        }
    }
}

impl Drain {
    /// All at once, with so many milliseconds to close.
    pub const fn at_once(timeout_ms: u64) -> Self {
        Self {
            code: CloseCode::GOING_AWAY,
            spread_ms: 0,
            timeout_ms,
        }
    }

    /// When everything that is left is dropped.
    pub const fn until(&self, began: Time) -> Time {
        began.plus_ms(self.spread_ms.saturating_add(self.timeout_ms))
    }
}

/// Who is still to be closed, and when.
#[derive(Debug)]
pub struct Farewell {
    keys: Vec<Key>,
    said: usize,
    began: Time,
    drain: Drain,
}

impl Farewell {
    /// These connections, from now on.
    pub fn new(mut keys: Vec<Key>, random: &mut MaskingKeys, now: Time, drain: Drain) -> Self {
        for last in (1..keys.len()).rev() {
            keys.swap(last, random.below(last + 1));
        }
        Self {
            keys,
            said: 0,
            began: now,
            drain,
        }
    }

    /// How it is done.
    pub const fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Those who have not had their turn.
    pub fn rest(&self) -> Vec<Key> {
        self.keys.get(self.said..).unwrap_or_default().to_vec()
    }

    /// When the next one's turn comes, or all have had theirs.
    pub fn due_at(&self) -> Time {
        let (said, all) = (self.said as u64, self.keys.len().max(1) as u64);
        let spread_ns = self.drain.spread_ms.saturating_mul(1_000_000);
        // All in 128 bits: a day in nanoseconds, times a million connections.
        let after_ns = u128::from(spread_ns) * u128::from(said) / u128::from(all);
        self.began.plus_ns(after_ns as u64)
    }

    /// Whether all have had their turn.
    pub fn is_over(&self) -> bool {
        self.said == self.keys.len()
    }

    /// Whose turn it is, if it is anybody's by now. It may be gone.
    pub fn next(&mut self, now: Time) -> Option<Key> {
        if self.due_at() > now {
            return None;
        }
        let key = self.keys.get(self.said).copied()?;
        self.said += 1;
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u32) -> Vec<Key> {
        let key = |slot| Key {
            slot,
            generation: 1,
        };
        (0..count).map(key).collect()
    }

    #[test]
    fn everybody_has_a_turn_at_an_even_rate_in_an_order_of_nobodys() {
        let drain = Drain {
            spread_ms: 1_000,
            ..Drain::default()
        };
        let began = Time::from_ns(5_000_000_000);
        let mut random = MaskingKeys::new([7; 32]);
        let mut farewell = Farewell::new(keys(100), &mut random, began, drain);
        let mut slots = Vec::new();
        for ms in 0..1_000 {
            while let Some(key) = farewell.next(began.plus_ms(ms)) {
                slots.push(key.slot);
            }
            assert_eq!(slots.len() as u64, ms / 10 + 1, "after {ms} ms");
        }
        assert!(farewell.is_over());
        assert!(!slots.is_sorted());
        slots.sort_unstable();
        assert_eq!(slots, (0..100).collect::<Vec<_>>());
        assert_eq!(drain.until(began), began.plus_ms(11_000));
    }

    #[test]
    fn without_a_spread_all_are_due_at_once() {
        let mut random = MaskingKeys::new([7; 32]);
        let now = Time::from_ns(1);
        let mut farewell = Farewell::new(keys(10), &mut random, now, Drain::at_once(5));
        let mut count = 0;
        while farewell.next(now).is_some() {
            count += 1;
        }
        assert!(count == 10 && farewell.is_over());
    }
}
