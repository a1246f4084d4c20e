//! Percentile distributions as HdrHistogram writes them, for its plotter and for `hdr-plot`.
//!
//! Knows: the columns of `AbstractHistogram.outputPercentileDistribution`. Refuses to know: where
//! the latencies come from.
//!
//! ```text
//!        Value     Percentile TotalCount 1/(1-Percentile)
//!
//!     0.112127 0.000000000000          1           1.00
//!     0.118015 0.500000000000     917011           2.00
//!     8.470527 1.000000000000    1834022
//! #[Mean    =     0.121004, StdDeviation   =     0.034117]
//! #[Max     =     8.470527, Total count    =      1834022]
//! #[Buckets =           26, SubBuckets     =         2048]
//! ```

use std::{fmt::Write as _, path::Path};

use hdrhistogram::Histogram;

use super::OutputError;
use crate::result::Run;

/// Lines for each halving of the distance to 100 %, as everyone has them.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Values are milliseconds, the unit that the plotter has chosen when it opens, with all digits
/// down to nanoseconds: the three that others write would leave two of a latency of 20 µs.
const UNIT_NS: f64 = 1e6;

/// Writes the corrected distribution of a run.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(run: &Run, path: &Path) -> Result<(), OutputError> {
    super::write_file(path, render(&run.latency.corrected_ns).as_bytes())
}

/// The distribution as text.
#[must_use]
pub fn render(histogram: &Histogram<u64>) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut total = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let value = step.value_iterated_to() as f64 / UNIT_NS;
        let quantile = step.quantile_iterated_to();
        let _ = write!(text, "{value:12.6} {quantile:.12} {total:10}");
        let _ = if quantile < 1.0 {
            writeln!(text, " {:14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text)
        };
    }
    let _ = writeln!(
        text,
        "#[Mean    = {:12.6}, StdDeviation   = {:12.6}]",
        histogram.mean() / UNIT_NS,
        histogram.stdev() / UNIT_NS,
    );
    let _ = writeln!(
        text,
        "#[Max     = {:12.6}, Total count    = {:12}]",
        histogram.max() as f64 / UNIT_NS,
        histogram.len(),
    );
    let _ = writeln!(
        text,
        "#[Buckets = {:12}, SubBuckets     = {:12}]",
        histogram.buckets(),
        sub_buckets(histogram.sigfig()),
    );
    text
}

/// The power of two that tells so many digits apart.
fn sub_buckets(digits: u8) -> u32 {
    (2 * 10_u32.pow(u32::from(digits))).next_power_of_two()
}
