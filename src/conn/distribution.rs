//! How durations and sizes are spread: histograms that one thread writes and any other reads.
//!
//! Knows: bounds, and how many were below each. Refuses to know: what is measured, and when.
//!
//! One thread writes, so that a number is raised by a load and a store: no locked instruction, and
//! nothing that is owed at the end of a turn. Whoever reads may find a value in its bucket and not
//! yet in the sum; the buckets themselves never go back.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

/// In which unit the values of a distribution are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpreadUnit {
    /// Nanoseconds.
    Nanoseconds,
    /// Bytes.
    Bytes,
    /// None: a number of something.
    Number,
}

/// What most values are below, up to ten seconds, in nanoseconds.
const TIMES: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// The first of them is the longest payload behind a header of two bytes (RFC 6455 section 5.2).
const SIZES: &[u64] = &[
    125, 512, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216,
];

const NUMBERS: &[u64] = &[0, 1, 2, 4, 8, 16, 32, 64, 128];

/// So many buckets has the longest of the rows above, with the one for all that is beyond.
const BUCKETS_MAX: usize = TIMES.len() + 1;

/// Values of one kind.
pub struct Distribution {
    bounds: &'static [u64],
    buckets: [AtomicU64; BUCKETS_MAX],
    sum: AtomicU64,
}

/// Raises a number that nobody else writes.
fn raise(number: &AtomicU64, by: u64) {
    number.store(
        number.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}

impl Distribution {
    const fn new(bounds: &'static [u64]) -> Self {
        Self {
            bounds,
            buckets: [const { AtomicU64::new(0) }; BUCKETS_MAX],
            sum: AtomicU64::new(0),
        }
    }

    /// Adds a value. On the one thread that does so.
    pub fn add(&self, value: u64) {
        let bucket = self.bounds.iter().take_while(|&&most| value > most).count();
        raise(&self.buckets[bucket], 1);
        raise(&self.sum, value);
    }

    /// Adds a number of [`NUMBERS`], whose bounds are powers of two.
    #[inline]
    pub fn add_number(&self, number: u64) {
        let bits = u64::BITS - number.saturating_sub(1).leading_zeros();
        let bucket = bits as usize + usize::from(number > 0);
        raise(&self.buckets[bucket.min(NUMBERS.len())], 1);
        raise(&self.sum, number);
    }

    /// Adds so many values that are all in the first bucket, and what they add up to.
    #[inline]
    pub fn add_small(&self, count: u64, sum: u64) {
        raise(&self.buckets[0], count);
        raise(&self.sum, sum);
    }

    fn read(&self) -> (Vec<u64>, u64) {
        let buckets = self.buckets.iter().take(self.bounds.len() + 1);
        let buckets = buckets.map(|bucket| bucket.load(Ordering::Relaxed));
        (buckets.collect(), self.sum.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (buckets, sum) = self.read();
        f.debug_struct("Distribution")
            .field("buckets", &buckets)
            .field("sum", &sum)
            .finish()
    }
}

/// A distribution at one moment, of one shard or of several added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// Its name.
    pub name: &'static str,
    /// What its values are: a sentence or two.
    pub help: &'static str,
    /// Their unit.
    pub unit: SpreadUnit,
    /// What the values of each bucket but the last are at most.
    pub bounds: &'static [u64],
    /// How many values are in each bucket, and in no earlier one. The last is for all beyond.
    pub buckets: Vec<u64>,
    /// All values added up.
    pub sum: u64,
}

impl Spread {
    /// Adds those of another shard, of the same distribution.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += more;
        }
        self.sum += other.sum;
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

macro_rules! distributions {
    ($($(#[doc = $help:literal])+ $field:ident: $unit:ident in $bounds:ident,)*) => {
        /// What a shard measures.
        #[derive(Debug)]
        pub struct Distributions {
            $($(#[doc = $help])+ pub $field: Distribution,)*
        }

        impl Default for Distributions {
            fn default() -> Self {
                Self { $($field: Distribution::new($bounds),)* }
            }
        }

        impl Distributions {
            /// All of them, as they are now.
            pub fn read(&self) -> Vec<Spread> {
                vec![$({
                    let (buckets, sum) = self.$field.read();
                    Spread {
                        name: stringify!($field),
                        help: concat!($($help),+).trim_start(),
                        unit: SpreadUnit::$unit,
                        bounds: $bounds,
                        buckets,
                        sum,
                    }
                },)*]
            }
        }
    };
}

distributions! {
    /// How long turns took: from when the kernel had handed out what there was to when it was asked
    /// for more.
    turn: Nanoseconds in TIMES,
    /// Completions that a turn looked at.
    turn_completions: Number in NUMBERS,
    /// How long opening handshakes took: from when a connection was accepted to its answer, by a
    /// clock of milliseconds.
    handshake: Nanoseconds in TIMES,
    /// How long it took from a ping that asked a silent peer to its pong.
    ping: Nanoseconds in TIMES,
    /// Bytes of payload of messages that were received.
    message_received: Bytes in SIZES,
    /// Of messages that were followed, one at a time: from when their turn began to when the
    /// service was called.
    stage_handed_over: Nanoseconds in TIMES,
    /// Of the same messages: from when the service was called to when it had returned, and what it
    /// sent was queued.
    stage_queued: Nanoseconds in TIMES,
    /// Of the same messages: from when something was queued to when the kernel had taken it.
    stage_taken: Nanoseconds in TIMES,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_that_it_fits_into() {
        let spread = Distributions::default();
        for value in [0, 1, 2, 3, 128, 129, u64::from(u32::MAX)] {
            spread.turn_completions.add_number(value);
        }
        let all = spread.read();
        let read = all.iter().find(|it| it.name == "turn_completions").unwrap();
        assert_eq!(read.buckets, [1, 1, 1, 1, 0, 0, 0, 0, 1, 2]);
        assert_eq!(read.count(), 7);
        assert_eq!(read.sum, 1 + 2 + 3 + 128 + 129 + u64::from(u32::MAX));
        assert_eq!(read.buckets.len(), read.bounds.len() + 1);
    }

    #[test]
    fn bits_find_the_bucket_that_bounds_do() {
        for number in (0..300).chain([u64::MAX]) {
            let spread = Distributions::default();
            spread.turn_completions.add_number(number);
            let (by_bits, _) = spread.turn_completions.read();
            let other = Distributions::default();
            other.turn_completions.add(number);
            assert_eq!(by_bits, other.turn_completions.read().0, "{number}");
        }
    }

    #[test]
    fn bounds_rise() {
        for bounds in [TIMES, SIZES, NUMBERS] {
            assert!(bounds.is_sorted_by(|a, b| a < b) && bounds.len() < BUCKETS_MAX);
        }
    }

    #[test]
    fn those_of_shards_add_up() {
        let (one, other) = (Distributions::default(), Distributions::default());
        one.ping.add(5_000);
        other.ping.add(7_000_000_000_000);
        let of_ping = |spread: &Distributions| {
            let all = spread.read();
            all.into_iter().find(|it| it.name == "ping").unwrap()
        };
        let mut sum = of_ping(&one);
        sum.merge(&of_ping(&other));
        assert_eq!((sum.count(), sum.sum), (2, 7_000_000_005_000));
        assert_eq!((sum.buckets[2], *sum.buckets.last().unwrap()), (1, 1));
    }
}
