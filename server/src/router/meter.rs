//! How much one connection may say in a second.
//!
//! Knows: two buckets that fill with time. Refuses to know: what happens to who says more.
//!
//! The invariant: in any time, nobody is allowed more than a second's worth and what that time is
//! worth. Whoever was silent for a second has a second's worth at once.

use std::time::Duration;

/// What a route allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Messages in a second; 0: any number.
    pub messages: u64,
    /// Bytes of payload in a second; 0: any number.
    pub bytes: u64,
}

impl Rate {
    /// Whether it allows everything.
    pub const fn is_any(self) -> bool {
        self.messages == 0 && self.bytes == 0
    }
}

/// What one connection has said lately.
#[derive(Debug)]
pub struct Meter {
    rate: Rate,
    messages: Bucket,
    bytes: Bucket,
}

/// What was said, in billionths, so that a nanosecond's worth is a whole number.
#[derive(Debug, Default)]
struct Bucket {
    level: u128,
    as_of: Duration,
}

const WHOLE: u128 = 1_000_000_000;

impl Bucket {
    /// Whether there is room for so many, of so many in a second.
    fn takes(&mut self, count: u64, per_second: u64, now: Duration) -> bool {
        if per_second == 0 {
            return true;
        }
        let passed = now.saturating_sub(self.as_of).as_nanos();
        self.as_of = now;
        let worth = passed.saturating_mul(per_second.into());
        self.level = self.level.saturating_sub(worth) + u128::from(count) * WHOLE;
        self.level <= u128::from(per_second) * WHOLE
    }
}

impl Meter {
    /// Nothing was said yet.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            messages: Bucket::default(),
            bytes: Bucket::default(),
        }
    }

    /// Whether a message of so many bytes is allowed now, by a clock that never goes back.
    pub fn allows(&mut self, bytes: usize, now: Duration) -> bool {
        let message = self.messages.takes(1, self.rate.messages, now);
        self.bytes.takes(bytes as u64, self.rate.bytes, now) && message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_seconds_worth_comes_at_once_and_more_with_time() {
        let mut meter = Meter::new(Rate {
            messages: 10,
            bytes: 0,
        });
        let mut at = |now, count: usize| (0..count).filter(|_| meter.allows(5, now)).count();
        assert_eq!(at(ms(5_000), 10), 10);
        assert_eq!(at(ms(5_100), 1), 1);
        assert_eq!(at(ms(5_150), 1), 0, "half a message is none");
        assert_eq!(at(ms(7_000), 10), 10);
    }

    #[test]
    fn bytes_are_counted_beside_messages() {
        let rate = Rate {
            messages: 100,
            bytes: 1_000,
        };
        let mut meter = Meter::new(rate);
        assert!(meter.allows(1_000, ms(0)));
        assert!(!meter.allows(1, ms(0)));
        let mut meter = Meter::new(rate);
        assert!(
            !meter.allows(1_001, ms(0)),
            "it is more than a second's worth by itself"
        );
        assert!(Rate::default().is_any() && !rate.is_any());
    }

    #[test]
    fn who_keeps_to_the_rate_is_allowed_for_ever() {
        let mut meter = Meter::new(Rate {
            messages: 50,
            bytes: 5_000,
        });
        for number in 0..100_000 {
            assert!(meter.allows(100, ms(20 * number)), "{number}");
        }
    }
}
