//! When messages are due: pure arithmetic.
//!
//! Knows: rates, shares of a rate, instants in nanoseconds. Refuses to know: clocks, connections,
//! and whether anybody keeps to it.
//!
//! ```text
//!   whole run   | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |     one message every 1/rate
//!   shard 0     | 0 |   | 2 |   | 4 |   | 6 |   |     its share, at a phase of its own
//!   shard 1     |   | 1 |   | 3 |   | 5 |   | 7 |
//! ```
//!
//! In stages the rate grows or falls evenly: a message is due where as many as it were due before
//! it fit under the rate.

use fastrand::Rng;

use crate::result::{Arrivals, Stage};

/// Rates are kept in millionths of a message a second, so that instants are exact.
const MICRO: f64 = 1e6;

/// The highest rate that can be asked for, in messages a second.
pub const RATE_MAX_PER_S: f64 = 1e9;

/// The lowest rate, in messages a second: one in a quarter of an hour.
pub const RATE_MIN_PER_S: f64 = 0.001;

/// A shard's part of a run: it has `own` of `all` connections, and the shards before it have
/// `before`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Connections of the shards before.
    pub before: u64,
    /// Connections of this shard, at least 1.
    pub own: u64,
    /// Connections of all shards.
    pub all: u64,
}

/// Instants, one after the other, without end.
#[derive(Clone, Debug)]
pub struct Schedule {
    next_ns: u64,
    gaps: Gaps,
}

#[derive(Clone, Debug)]
enum Gaps {
    /// `whole + rest / unit` nanoseconds, where `carried / unit` is what `next_ns` lacks.
    Constant {
        whole: u64,
        rest: u128,
        unit: u128,
        carried: u128,
    },
    /// Exponential gaps; `exact_ns` is the next instant since `start_ns` with its fraction.
    Poisson {
        start_ns: u64,
        exact_ns: f64,
        mean_ns: f64,
        random: Box<Rng>,
    },
    /// Rates that change.
    Staged(Box<StagedFrom>),
}

#[derive(Clone, Debug)]
struct StagedFrom {
    start_ns: u64,
    staged: Staged,
}

/// Parts of a message that rounding may leave at a stage's end: they make no message of their own.
const ROUNDING: f64 = 1e-6;

/// Where a schedule in stages is.
#[derive(Clone, Debug)]
struct Staged {
    /// Messages a nanosecond of this shard at both ends of each stage, and its length in
    /// nanoseconds.
    stages: Vec<(f64, f64, f64)>,
    /// The stage that the next instant is in.
    index: usize,
    /// When it began, in nanoseconds, and how many messages were due by then.
    began_ns: f64,
    due_before: f64,
    /// Messages due by the next instant, which may be a fraction of one more than those before it.
    due: f64,
    /// Poisson arrivals.
    random: Option<Rng>,
}

impl Staged {
    /// The next instant; `None` behind the last stage.
    fn instant_ns(&mut self) -> Option<f64> {
        loop {
            let &(from, to, length_ns) = self.stages.get(self.index)?;
            let due_in = f64::midpoint(from, to) * length_ns;
            let wanted = self.due - self.due_before;
            if wanted + ROUNDING < due_in {
                // The area below the rate is the count: a quadratic equation, in the form that
                // loses no digits where the rate hardly changes.
                let slope = (to - from) / length_ns;
                let root = (from * from + 2.0 * slope * wanted).max(0.0).sqrt();
                let after_ns = if wanted > 0.0 {
                    2.0 * wanted / (from + root)
                } else {
                    0.0
                };
                return Some(self.began_ns + after_ns.min(length_ns));
            }
            self.due_before += due_in;
            self.began_ns += length_ns;
            self.index += 1;
        }
    }

    fn advance(&mut self) {
        self.due += match &mut self.random {
            None => 1.0,
            Some(random) => exponential(random, 1.0),
        };
    }
}

impl Schedule {
    /// The instants of a shard's share of `rate_per_s`, from `start_ns` on. `seed` matters for
    /// Poisson arrivals only.
    ///
    /// # Panics
    ///
    /// When the rate is outside of [`RATE_MIN_PER_S`] to [`RATE_MAX_PER_S`], or the share is empty.
    pub fn new(
        arrivals: Arrivals,
        rate_per_s: f64,
        share: Share,
        start_ns: u64,
        seed: u64,
    ) -> Self {
        assert!(
            (RATE_MIN_PER_S..=RATE_MAX_PER_S).contains(&rate_per_s),
            "the plan checked the rate"
        );
        assert!(share.own > 0, "a shard without connections has no schedule");
        let rate_micro = (rate_per_s * MICRO).round() as u128;
        let unit = rate_micro * u128::from(share.own);
        let per_connection = 1_000_000_000 * MICRO as u128;
        let gap = per_connection * u128::from(share.all);
        match arrivals {
            Arrivals::Constant => {
                // With shares of one size, shard k begins k messages of the whole run later.
                let phase = per_connection * u128::from(share.before);
                Self {
                    next_ns: start_ns + (phase / unit) as u64,
                    gaps: Gaps::Constant {
                        whole: (gap / unit) as u64,
                        rest: gap % unit,
                        unit,
                        carried: phase % unit,
                    },
                }
            }
            Arrivals::Poisson => {
                let mut random = Box::new(Rng::with_seed(seed));
                let mean_ns = gap as f64 / unit as f64;
                let exact_ns = exponential(&mut random, mean_ns);
                Self {
                    next_ns: start_ns + exact_ns as u64,
                    gaps: Gaps::Poisson {
                        start_ns,
                        exact_ns,
                        mean_ns,
                        random,
                    },
                }
            }
        }
    }

    /// The instants of a shard's share of rates that change, from `start_ns` on. Behind the last
    /// stage there are none.
    pub fn staged(
        arrivals: Arrivals,
        stages: &[Stage],
        share: Share,
        start_ns: u64,
        seed: u64,
    ) -> Self {
        let part = share.own as f64 / share.all.max(1) as f64 / 1e9;
        let mut random = match arrivals {
            Arrivals::Constant => None,
            Arrivals::Poisson => Some(Rng::with_seed(seed)),
        };
        let due = match &mut random {
            // With shares of one size, shard k begins k messages of the whole run later.
            None => share.before as f64 / share.all.max(1) as f64,
            Some(random) => exponential(random, 1.0),
        };
        let mut staged = Staged {
            stages: stages
                .iter()
                .map(|stage| {
                    let length_ns = stage.length_ms as f64 * 1e6;
                    (stage.from_per_s * part, stage.to_per_s * part, length_ns)
                })
                .collect(),
            index: 0,
            began_ns: 0.0,
            due_before: 0.0,
            due,
            random,
        };
        let next_ns = next_of(&mut staged, start_ns);
        Self {
            next_ns,
            gaps: Gaps::Staged(Box::new(StagedFrom { start_ns, staged })),
        }
    }

    /// The next instant.
    #[inline]
    pub const fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Goes on to the one after it.
    #[inline]
    pub fn advance(&mut self) {
        match &mut self.gaps {
            Gaps::Constant {
                whole,
                rest,
                unit,
                carried,
            } => {
                self.next_ns += *whole;
                *carried += *rest;
                if *carried >= *unit {
                    *carried -= *unit;
                    self.next_ns += 1;
                }
            }
            Gaps::Poisson {
                start_ns,
                exact_ns,
                mean_ns,
                random,
            } => {
                *exact_ns += exponential(random, *mean_ns);
                self.next_ns = *start_ns + *exact_ns as u64;
            }
            Gaps::Staged(from) => {
                from.staged.advance();
                self.next_ns = next_of(&mut from.staged, from.start_ns);
            }
        }
    }

    /// How many instants come before `until_ns`, going over them.
    pub fn skip_to(&mut self, until_ns: u64) -> u64 {
        let mut skipped = 0;
        while self.next_ns < until_ns {
            self.advance();
            skipped += 1;
        }
        skipped
    }
}

/// On the ring's clock. Behind the last stage nothing is due any more.
fn next_of(staged: &mut Staged, start_ns: u64) -> u64 {
    staged
        .instant_ns()
        .map_or(u64::MAX, |after_ns| start_ns + after_ns as u64)
}

/// A gap of a Poisson process. `1 - f64()` is in (0, 1], so that the logarithm is finite.
fn exponential(random: &mut Rng, mean_ns: f64) -> f64 {
    -(1.0 - random.f64()).ln() * mean_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Share = Share {
        before: 0,
        own: 1,
        all: 1,
    };

    fn instants(mut schedule: Schedule, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| {
                let next = schedule.next_ns();
                schedule.advance();
                next
            })
            .collect()
    }

    #[test]
    fn a_constant_rate_is_exact_to_the_nanosecond() {
        for rate in [
            0.001, 0.3, 1.0, 3.0, 7.0, 999.0, 1000.0, 12_345.678, 1e6, 3e8, 1e9,
        ] {
            let rate_micro = (rate * 1e6_f64).round() as u128;
            let schedule = Schedule::new(Arrivals::Constant, rate, WHOLE, 5, 0);
            for (k, at) in instants(schedule, 100_000).into_iter().enumerate() {
                let expected = 5 + k as u128 * 1_000_000_000_000_000 / rate_micro;
                assert_eq!(u128::from(at), expected, "message {k} at {rate}/s");
            }
        }
    }

    #[test]
    fn shards_of_one_size_interleave_to_the_whole() {
        for shards in [2_u64, 3, 8] {
            let rate = 77_777.0;
            let mut merged = Vec::new();
            for shard in 0..shards {
                let share = Share {
                    before: shard * 10,
                    own: 10,
                    all: shards * 10,
                };
                let schedule = Schedule::new(Arrivals::Constant, rate, share, 0, 0);
                merged.extend(instants(schedule, 1000));
            }
            merged.sort_unstable();
            let whole = instants(
                Schedule::new(Arrivals::Constant, rate, WHOLE, 0, 0),
                merged.len(),
            );
            assert_eq!(merged, whole);
        }
    }

    #[test]
    fn uneven_shards_have_the_rate_together() {
        let second = 1_000_000_000;
        let sizes = [1_u64, 7, 92];
        let mut before = 0;
        let mut total = 0;
        for own in sizes {
            let share = Share {
                before,
                own,
                all: 100,
            };
            before += own;
            let mut schedule = Schedule::new(Arrivals::Constant, 50_000.0, share, 0, 0);
            let count = schedule.skip_to(second);
            assert_eq!(count, 500 * own);
            total += count;
        }
        assert_eq!(total, 50_000);
    }

    fn stage(from_per_s: f64, to_per_s: f64, length_ms: u64) -> Stage {
        Stage {
            from_per_s,
            to_per_s,
            length_ms,
        }
    }

    /// The instants of all shards, in milliseconds.
    fn staged(stages: &[Stage], shards: u64, arrivals: Arrivals) -> Vec<u64> {
        let mut all = Vec::new();
        for before in 0..shards {
            let share = Share {
                before,
                own: 1,
                all: shards,
            };
            let mut schedule = Schedule::staged(arrivals, stages, share, 7, before);
            while schedule.next_ns() < u64::MAX {
                all.push(schedule.next_ns() - 7);
                schedule.advance();
            }
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn stages_have_as_many_messages_as_fit_under_their_rates() {
        let stages = [
            stage(0.0, 1000.0, 2000),
            stage(1000.0, 1000.0, 1000),
            stage(0.0, 0.0, 500),
            stage(3000.0, 1000.0, 1000),
        ];
        for shards in [1, 2, 3] {
            let at = staged(&stages, shards, Arrivals::Constant);
            let within = |from_ms: u64, to_ms: u64| {
                let inside = at
                    .iter()
                    .filter(|&&ns| (from_ms * 1_000_000..to_ms * 1_000_000).contains(&ns));
                inside.count() as i64
            };
            for (from_ms, to_ms, count) in [
                (0, 1000, 250),
                (1000, 2000, 750),
                (2000, 3000, 1000),
                (3000, 3500, 0),
                (3500, 4000, 1250),
                (4000, 4500, 750),
            ] {
                let found = within(from_ms, to_ms);
                assert!(
                    (found - count).abs() <= shards as i64,
                    "{found} from {from_ms} to {to_ms} ms on {shards} shards"
                );
            }
            assert_eq!(at.len(), 4000, "{shards} shards");
        }
    }

    #[test]
    fn a_stage_of_one_rate_is_that_rate() {
        let at = staged(&[stage(500.0, 500.0, 4000)], 1, Arrivals::Constant);
        let same = instants(Schedule::new(Arrivals::Constant, 500.0, WHOLE, 0, 0), 2000);
        assert_eq!(at.len(), 2000);
        for (one, other) in at.iter().zip(same) {
            assert!(one.abs_diff(other) <= 1, "{one} and {other}");
        }
    }

    #[test]
    fn poisson_arrivals_keep_to_the_stages_on_average() {
        let stages = [stage(0.0, 20_000.0, 5000), stage(20_000.0, 0.0, 5000)];
        let at = staged(&stages, 2, Arrivals::Poisson);
        let early = at.iter().filter(|&&ns| ns < 2_500_000_000).count();
        assert!(
            (at.len() as f64 / 100_000.0 - 1.0).abs() < 0.02,
            "{}",
            at.len()
        );
        assert!((early as f64 / 12_500.0 - 1.0).abs() < 0.05, "{early}");
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let count = 200_000;
        let schedule = Schedule::new(Arrivals::Poisson, 10_000.0, WHOLE, 0, 42);
        let at = instants(schedule, count);
        assert!(at.is_sorted());
        let gaps: Vec<f64> = at.windows(2).map(|two| (two[1] - two[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean / 100_000.0 - 1.0).abs() < 0.01, "mean gap {mean} ns");
        // Of an exponential, the standard deviation is the mean.
        assert!(
            (variance.sqrt() / mean - 1.0).abs() < 0.02,
            "deviation {}",
            variance.sqrt()
        );
        let again = Schedule::new(Arrivals::Poisson, 10_000.0, WHOLE, 0, 42);
        assert_eq!(
            at,
            instants(again, count),
            "the same seed gives the same instants"
        );
    }
}
