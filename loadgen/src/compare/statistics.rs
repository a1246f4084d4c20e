//! How sure one can be of a difference between two sets of runs.
//!
//! Knows: slices of time with counts and latencies, and a seeded source of chance. Refuses to know:
//! files, tolerances, what a reader should do about a difference.
//!
//! A run is a series of slices whose neighbours resemble each other (a noisy second is noisy in ten
//! slices), so single slices must not be drawn as if they were independent. Blocks of neighbours
//! are drawn instead, with replacement, until a series as long as the run is there; the statistic
//! of that series is one replicate, and the spread of many replicates is the uncertainty:
//!
//! ```text
//! slices     |0|1|2|3|4|5|6|7|8|9|            10 slices, blocks of 3
//! replicate  |4|5|6| |8|9|0| |1|2|3| |4|      a block wraps around the end; the last one is cut
//! ```
//!
//! Sources: Künsch, "The jackknife and the bootstrap for general stationary observations" (1989);
//! Politis and Romano, "A circular block resampling procedure" (1992); the length of a block from
//! Politis and White, "Automatic block-length selection for the dependent bootstrap" (2004), with
//! the correction of 2009.

use std::{fmt, str::FromStr};

use fastrand::Rng;

/// Replicates of a bootstrap. With five metrics the ends of an interval are then its 40th values
/// from each side.
const REPLICATES: usize = 4000;

/// Slices that a run keeps: more are joined with their neighbours, which changes no estimate and
/// bounds the memory and the time that a run of an hour takes.
const SLICES_MAX: usize = 240;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// A quantile of the latency, from 0 to 1.
    Latency(f64),
    /// Messages a second.
    Rate,
    /// The server's CPU time per message.
    Cpu,
}

impl Metric {
    /// Whether more of it is worse.
    #[must_use]
    pub fn more_is_worse(self) -> bool {
        self != Self::Rate
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // 99.9 and not 99.90000000000001.
            Self::Latency(quantile) => write!(f, "p{}", (quantile * 1e8).round() / 1e6),
            Self::Rate => f.write_str("rate"),
            Self::Cpu => f.write_str("cpu"),
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "rate" => return Ok(Self::Rate),
            "cpu" => return Ok(Self::Cpu),
            _ => {}
        }
        let percentile: Option<f64> = name
            .strip_prefix('p')
            .and_then(|digits| digits.parse().ok());
        match percentile {
            Some(percentile) if percentile > 0.0 && percentile < 100.0 => {
                Ok(Self::Latency(percentile / 100.0))
            }
            _ => Err(format!(
                "'{name}' is no metric: rate, cpu, or a percentile above p0 and below p100, such \
                 as p99.9"
            )),
        }
    }
}

/// One slice of a run.
#[derive(Clone, Debug, Default)]
pub struct Slice {
    /// Its length in seconds.
    pub seconds: f64,
    /// Messages completed in it.
    pub messages: u64,
    /// CPU seconds that the server took in it, where they were read.
    pub server_cpu_seconds: Option<f64>,
    /// Latencies, each as the lowest and the highest value that its histogram does not tell apart
    /// from it, and how often it occurred. In any order.
    pub latencies: Vec<(u64, u64, u64)>,
}

impl Slice {
    fn join(&mut self, other: &Self) {
        self.seconds += other.seconds;
        self.messages += other.messages;
        self.server_cpu_seconds = self
            .server_cpu_seconds
            .zip(other.server_cpu_seconds)
            .map(|(a, b)| a + b);
        self.latencies.extend_from_slice(&other.latencies);
    }
}

/// A run, laid out so that the statistic of any drawn series is a few look-ups.
#[derive(Clone, Debug)]
pub struct Run {
    slices: usize,
    /// Sums over the slices before each index, `slices + 1` long.
    seconds: Vec<f64>,
    messages: Vec<f64>,
    cpu_seconds: Option<Vec<f64>>,
    /// The distinct latencies, lowest and highest value, ascending.
    values: Vec<(u64, u64)>,
    /// For each of them, how many latencies up to it the slices before each index hold:
    /// `counts[value * (slices + 1) + slice]`.
    counts: Vec<u64>,
}

/// Slices that lie side by side, from the first to before the second index.
type Range = (usize, usize);

impl Run {
    /// Lays out a run's slices.
    #[must_use]
    pub fn new(slices: &[Slice]) -> Self {
        let joined = slices.len().div_ceil(SLICES_MAX).max(1);
        let slices: Vec<Slice> = slices
            .chunks(joined)
            .map(|chunk| {
                let mut whole = chunk[0].clone();
                chunk[1..].iter().for_each(|slice| whole.join(slice));
                whole
            })
            .collect();
        let mut values: Vec<(u64, u64)> = slices
            .iter()
            .flat_map(|slice| slice.latencies.iter().map(|&(low, high, _)| (low, high)))
            .collect();
        values.sort_unstable();
        values.dedup();
        let width = slices.len() + 1;
        let mut counts = vec![0; values.len() * width];
        for (index, slice) in slices.iter().enumerate() {
            for &(low, high, count) in &slice.latencies {
                if let Ok(row) = values.binary_search(&(low, high)) {
                    counts[row * width + index + 1] += count;
                }
            }
        }
        // First along the time, then along the values.
        for row in 0..values.len() {
            for index in 1..width {
                counts[row * width + index] += counts[row * width + index - 1];
            }
        }
        for at in width..counts.len() {
            counts[at] += counts[at - width];
        }
        let cpu: Option<Vec<f64>> = slices
            .iter()
            .map(|slice| slice.server_cpu_seconds)
            .collect();
        Self {
            slices: slices.len(),
            seconds: sums(slices.iter().map(|slice| slice.seconds)),
            messages: sums(slices.iter().map(|slice| slice.messages as f64)),
            cpu_seconds: cpu.map(|cpu| sums(cpu.into_iter())),
            values,
            counts,
        }
    }

    /// How many slices it is compared by.
    #[must_use]
    pub fn slices(&self) -> usize {
        self.slices
    }

    /// The metric over the whole run, if the run has what it takes.
    #[must_use]
    pub fn whole(&self, metric: Metric) -> Option<f64> {
        self.over(metric, &[(0, self.slices)])
    }

    fn over(&self, metric: Metric, ranges: &[Range]) -> Option<f64> {
        let sum = |sums: &[f64]| -> f64 { ranges.iter().map(|&(a, b)| sums[b] - sums[a]).sum() };
        let value = match metric {
            Metric::Latency(quantile) => self.quantile(quantile, ranges)?,
            Metric::Rate => sum(&self.messages) / sum(&self.seconds),
            Metric::Cpu => sum(self.cpu_seconds.as_deref()?) / sum(&self.messages),
        };
        (value.is_finite() && value > 0.0).then_some(value)
    }

    fn up_to(&self, row: usize, ranges: &[Range]) -> u64 {
        let row = &self.counts[row * (self.slices + 1)..(row + 1) * (self.slices + 1)];
        ranges.iter().map(|&(a, b)| row[b] - row[a]).sum()
    }

    fn quantile(&self, quantile: f64, ranges: &[Range]) -> Option<f64> {
        let last = self.values.len().checked_sub(1)?;
        let total = self.up_to(last, ranges);
        if total == 0 {
            return None;
        }
        let wanted = (quantile * total as f64).clamp(1.0, total as f64);
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.up_to(middle, ranges) as f64 >= wanted {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        // Inside of the bucket as if its latencies lay evenly: steps as wide as a bucket would hide
        // small changes, and make large ones of them at a bucket's edge.
        let before = low.checked_sub(1).map_or(0, |row| self.up_to(row, ranges)) as f64;
        let inside = self.up_to(low, ranges) as f64 - before;
        let (first, last) = self.values[low];
        Some(first as f64 + (last - first + 1) as f64 * (wanted - before) / inside)
    }

    /// How much each slice pushes the metric up or down: the series whose memory decides how long a
    /// block has to be. For a quantile that is the share of latencies above it, not the slice's own
    /// quantile, which a slice with few latencies does not have.
    fn influence(&self, metric: Metric) -> Option<Vec<f64>> {
        let whole = self.whole(metric)?;
        let of = |sums: &[f64], index: usize| sums[index + 1] - sums[index];
        let series = (0..self.slices).map(|index| match metric {
            Metric::Latency(_) => {
                let row = self
                    .values
                    .partition_point(|&(_, high)| (high as f64) < whole);
                let last = self.values.len() - 1;
                let total = self.up_to(last, &[(index, index + 1)]);
                let up_to = self.up_to(row.min(last), &[(index, index + 1)]);
                (total - up_to) as f64
            }
            Metric::Rate => of(&self.messages, index) / of(&self.seconds, index),
            Metric::Cpu => self.cpu_seconds.as_deref().map_or(0.0, |cpu| {
                of(cpu, index) - whole * of(&self.messages, index)
            }),
        });
        Some(series.collect())
    }
}

fn sums(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sum = 0.0;
    let mut sums = vec![0.0];
    sums.extend(values.map(|value| {
        sum += value;
        sum
    }));
    sums
}

/// The change of one metric from A to B.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    /// What is compared.
    pub metric: Metric,
    /// A's value: the geometric mean over its runs, weighted as their pairs are.
    pub a: f64,
    /// B's value.
    pub b: f64,
    /// `b / a - 1`.
    pub change: f64,
    /// The lower end of the interval for `change`.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// How the intervals are made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The probability with which the true change of *any* metric may lie below its interval, and
    /// the same again for above. Each of `m` metrics gets an equal part of it.
    pub false_alarm: f64,
    /// Where the chance comes from: the same seed and files give the same intervals.
    pub seed: u64,
}

/// Compares the runs of A with those of B, the first with the first and so on. Metrics that a run
/// does not have are left out.
///
/// The interval of one pair of runs holds what varies *within* a run. What varies from run to run
/// (where memory came to lie, who else used the machine) is seen only with several pairs, and is
/// then added to the interval.
///
/// A pair weighs the less the more it varies within itself, because a run that somebody else's work
/// disturbed must not hide what all the others agree on: the model and the variance between runs
/// are those of DerSimonian and Laird, "Meta-analysis in clinical trials" (1986), the interval that
/// of Hartung and Knapp (2001).
///
/// # Panics
///
/// When the sides have different numbers of runs, or none.
#[must_use]
pub fn compare(a: &[Run], b: &[Run], metrics: &[Metric], settings: Settings) -> Vec<Change> {
    assert!(
        a.len() == b.len() && !a.is_empty(),
        "runs are compared in pairs"
    );
    let metrics: Vec<Metric> = metrics
        .iter()
        .copied()
        .filter(|&metric| a.iter().chain(b).all(|run| run.whole(metric).is_some()))
        .collect();
    let mut chance = Chance(Rng::with_seed(settings.seed));
    // replicates[metric][pair] holds the logarithms of b / a.
    let mut replicates = vec![vec![Vec::with_capacity(REPLICATES); a.len()]; metrics.len()];
    let mut freedom = 0.0;
    for (pair, (run_a, run_b)) in a.iter().zip(b).enumerate() {
        let blocks = [run_a, run_b].map(|run| block_slices(run, &metrics));
        for (run, block) in [run_a, run_b].into_iter().zip(blocks) {
            freedom += (run.slices as f64 / block as f64 - 1.0).max(0.5);
        }
        let (mut drawn_a, mut drawn_b) = (Vec::new(), Vec::new());
        for _ in 0..REPLICATES {
            chance.blocks(run_a.slices, blocks[0], &mut drawn_a);
            chance.blocks(run_b.slices, blocks[1], &mut drawn_b);
            for (metric, of_metric) in metrics.iter().zip(&mut replicates) {
                let value = run_b
                    .over(*metric, &drawn_b)
                    .zip(run_a.over(*metric, &drawn_a))
                    .map(|(b, a)| (b / a).ln());
                of_metric[pair].extend(value);
            }
        }
    }
    metrics
        .iter()
        .zip(&replicates)
        .map(|(&metric, of_pairs)| {
            let logs: Vec<(f64, f64)> = a
                .iter()
                .zip(b)
                .filter_map(|(a, b)| Some((a.whole(metric)?.ln(), b.whole(metric)?.ln())))
                .collect();
            let changes: Vec<f64> = logs.iter().map(|(a, b)| b - a).collect();
            let within: Vec<f64> = of_pairs.iter().map(|of_pair| variance(of_pair)).collect();
            let pooled = Pooled::new(&changes, &within);
            let level = settings.false_alarm / metrics.len() as f64;
            let (low, high) = interval(&pooled, of_pairs, freedom, level, &mut chance);
            let side = |log: fn(&(f64, f64)) -> f64| {
                let weighted = logs.iter().zip(&pooled.weights);
                weighted
                    .map(|(logs, weight)| log(logs) * weight)
                    .sum::<f64>()
                    .exp()
            };
            Change {
                metric,
                a: side(|(a, _)| *a),
                b: side(|(_, b)| *b),
                change: pooled.mean.exp_m1(),
                low: low.exp_m1(),
                high: high.exp_m1(),
            }
        })
        .collect()
}

/// A mean over pairs of runs, each with its weight.
struct Pooled {
    /// They add up to 1.
    weights: Vec<f64>,
    mean: f64,
    /// Variance of the mean that the variance within the pairs does not explain.
    between: f64,
}

impl Pooled {
    fn new(changes: &[f64], within: &[f64]) -> Self {
        // A metric that does not vary at all still has only three digits.
        let within: Vec<f64> = within.iter().map(|variance| variance.max(1e-10)).collect();
        let degrees = changes.len() as f64 - 1.0;
        let weigh = |between: f64| {
            let raw: Vec<f64> = within
                .iter()
                .map(|variance| 1.0 / (variance + between))
                .collect();
            let sum: f64 = raw.iter().sum();
            let weights: Vec<f64> = raw.iter().map(|weight| weight / sum).collect();
            let mean: f64 = weights
                .iter()
                .zip(changes)
                .map(|(weight, x)| weight * x)
                .sum();
            let scatter = weights
                .iter()
                .zip(changes)
                .map(|(weight, x)| weight * (x - mean).powi(2));
            let scatter: f64 = scatter.sum();
            (weights, mean, scatter, sum)
        };
        let (weights, _, scatter, sum) = weigh(0.0);
        let squares: f64 = weights.iter().map(|weight| weight * weight).sum();
        let from_run_to_run = (scatter - degrees / sum).max(0.0) / (1.0 - squares).max(1e-10);
        let (weights, mean, scatter, _) = weigh(from_run_to_run);
        let explained = weights
            .iter()
            .zip(&within)
            .map(|(weight, v)| weight * weight * v);
        let explained: f64 = explained.sum();
        Self {
            between: (scatter / degrees.max(1.0) - explained).max(0.0),
            weights,
            mean,
        }
    }
}

/// The interval of a mean over pairs; the true value lies beyond each of its ends with the
/// probability `level`.
///
/// Every replicate's distance from the estimate is stretched by a draw of sqrt(freedom / chi²),
/// which makes of a normal distribution Student's, because a few blocks tell their own spread only
/// roughly. What the pairs vary more than their replicates do is variance between runs, and enters
/// as a draw of Student's distribution with one degree of freedom less than there are pairs.
fn interval(
    pooled: &Pooled,
    replicates: &[Vec<f64>],
    freedom: f64,
    level: f64,
    chance: &mut Chance,
) -> (f64, f64) {
    let drawn = replicates.iter().map(Vec::len).min().unwrap_or(0);
    let mut means: Vec<f64> = (0..drawn)
        .map(|index| {
            let of_pairs = replicates.iter().zip(&pooled.weights);
            let drawn: f64 = of_pairs
                .map(|(of_pair, weight)| of_pair[index] * weight)
                .sum();
            let mut value = pooled.mean + (drawn - pooled.mean) * chance.stretch(freedom);
            if replicates.len() > 1 {
                let degrees = replicates.len() as f64 - 1.0;
                value += chance.normal() * chance.stretch(degrees) * pooled.between.sqrt();
            }
            value
        })
        .collect();
    if means.is_empty() {
        return (pooled.mean, pooled.mean);
    }
    means.sort_unstable_by(f64::total_cmp);
    let rank = ((level * means.len() as f64) as usize).min(means.len() / 2);
    (
        means[rank].min(pooled.mean),
        means[means.len() - 1 - rank].max(pooled.mean),
    )
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / (values.len().max(1) as f64)
}

fn variance(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    squares / (values.len().max(2) - 1) as f64
}

/// How many slices a block of this run has: as many as the metric with the longest memory asks for.
fn block_slices(run: &Run, metrics: &[Metric]) -> usize {
    let wanted = metrics
        .iter()
        .filter_map(|&metric| Some(block_length(&run.influence(metric)?)));
    let longest = wanted.fold(1.0, f64::max);
    // Three blocks are the least that still tell a spread.
    (longest.ceil() as usize).clamp(1, (run.slices / 3).max(1))
}

/// The block length of Politis and White for the circular bootstrap: the smallest lag after which
/// the autocorrelation stays within what chance alone gives decides how far the sums below look.
fn block_length(series: &[f64]) -> f64 {
    let n = series.len();
    let center = mean(series);
    let covariance = |lag: usize| {
        let pairs = series.iter().zip(&series[lag..]);
        pairs.map(|(x, y)| (x - center) * (y - center)).sum::<f64>() / n as f64
    };
    let own = covariance(0);
    if n < 8 || own <= 0.0 {
        return 1.0;
    }
    let digits = (n as f64).log10();
    let quiet = 2.0 * (digits / n as f64).sqrt();
    let quiet_lags = (digits.sqrt().ceil() as usize).max(5);
    let lag_max = (n as f64).sqrt().ceil() as usize + quiet_lags;
    let loud: Vec<bool> = (1..=lag_max.min(n - 1))
        .map(|lag| (covariance(lag) / own).abs() >= quiet)
        .collect();
    let after = (0..loud.len())
        .find(|&lag| loud[lag..].iter().take(quiet_lags).all(|loud| !loud))
        .unwrap_or(loud.len());
    let reach = (2 * after.max(1)).min(lag_max).min(n - 1);
    let (mut spectrum, mut slope) = (own, 0.0);
    for lag in 1..=reach {
        let part = lag as f64 / reach as f64;
        let weight = if part <= 0.5 { 1.0 } else { 2.0 * (1.0 - part) };
        spectrum += 2.0 * weight * covariance(lag);
        slope += 2.0 * weight * lag as f64 * covariance(lag);
    }
    if spectrum <= 0.0 {
        return 1.0;
    }
    let length = (1.5 * (slope / spectrum).powi(2)).cbrt() * (n as f64).cbrt();
    length.clamp(1.0, (3.0 * (n as f64).sqrt()).min(n as f64 / 3.0))
}

/// Seeded chance.
struct Chance(Rng);

impl Chance {
    /// Standard normal (Box and Muller).
    fn normal(&mut self) -> f64 {
        // In (0, 1], because 0 has no logarithm.
        let radius = (-2.0 * (1.0 - self.0.f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.0.f64()).cos()
    }

    /// A draw of sqrt(freedom / chi²), with chi² of the nearest whole degrees of freedom.
    fn stretch(&mut self, freedom: f64) -> f64 {
        let degrees = freedom.round().max(1.0);
        if degrees > 200.0 {
            return 1.0;
        }
        let chi: f64 = (0..degrees as usize).map(|_| self.normal().powi(2)).sum();
        (degrees / chi).sqrt()
    }

    /// Draws blocks until they hold as many slices as the run.
    fn blocks(&mut self, slices: usize, block: usize, ranges: &mut Vec<Range>) {
        ranges.clear();
        let mut left = slices;
        while left > 0 {
            let start = self.0.usize(..slices);
            let length = block.min(left);
            let end = start + length;
            ranges.push((start, end.min(slices)));
            if end > slices {
                ranges.push((0, end - slices));
            }
            left -= length;
        }
    }
}
