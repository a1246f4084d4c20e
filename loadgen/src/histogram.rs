//! Histograms of latencies: how long, how precise, and how they are written.
//!
//! Knows: nanoseconds, 60 seconds at most. Refuses to know: what is measured.

use hdrhistogram::Histogram;

/// The longest latency that is told apart; a longer one counts as this.
pub const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// Slices are told apart to this many nanoseconds. What they need memory for is the ratio of the
/// longest to the shortest latency, and no round trip takes less than a microsecond.
const SLICE_UNIT_NS: u64 = 64;

/// An empty histogram of a whole run: 1 ns to 60 s, three significant digits.
pub fn of_run() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)
        .expect("the bounds are constants that are right")
}

/// An empty histogram of a slice: 64 ns to 60 s, two significant digits, about 25 kB.
pub fn of_slice() -> Histogram<u64> {
    Histogram::new_with_bounds(SLICE_UNIT_NS, LATENCY_MAX_NS, 2)
        .expect("the bounds are constants that are right")
}

/// Counts a latency; one that is longer than can be told apart counts as the longest.
#[inline]
pub fn record(histogram: &mut Histogram<u64>, ns: u64) {
    // It saturates by itself, but where its last bucket ends.
    histogram.saturating_record(ns.min(LATENCY_MAX_NS));
}

/// Histograms in JSON: HdrHistogram's own V2 format, deflated, in base64, which its libraries in
/// other languages read.
pub mod base64 {
    use ::base64::{Engine, engine::general_purpose::STANDARD};
    use hdrhistogram::{
        Histogram,
        serialization::{
            Deserializer as HistogramDeserializer, Serializer as _, V2DeflateSerializer,
        },
    };
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    /// Writes one.
    ///
    /// # Errors
    ///
    /// The serializer's.
    pub fn serialize<S: Serializer>(
        histogram: &Histogram<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut bytes = Vec::new();
        V2DeflateSerializer::new()
            .serialize(histogram, &mut bytes)
            .map_err(ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads one.
    ///
    /// # Errors
    ///
    /// The deserializer's, and when it is not a histogram.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Histogram<u64>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
        HistogramDeserializer::new()
            .deserialize(&mut bytes.as_slice())
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What percentiles are without a histogram: of `count` values in order, the one below which,
    /// or at which, that many percent are.
    fn exact(sorted: &[u64], percentile: f64) -> u64 {
        let rank = (percentile / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted[rank.clamp(1, sorted.len()) - 1]
    }

    #[test]
    fn percentiles_agree_with_an_exact_sort() {
        let mut random = fastrand::Rng::with_seed(11);
        // From a microsecond to minutes, most of them short, as latencies are.
        let mut values: Vec<u64> = (0..200_000)
            .map(|_| 2_f64.powf(10.0 + 26.5 * random.f64() * random.f64()) as u64)
            .collect();
        let (mut of_run, mut of_slice) = (of_run(), of_slice());
        for &value in &values {
            record(&mut of_run, value);
            record(&mut of_slice, value);
        }
        values.sort_unstable();
        for percentile in [0.1, 1.0, 10.0, 50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0] {
            let expected = exact(&values, percentile).min(LATENCY_MAX_NS) as f64;
            for (histogram, precision, unit) in [(&of_run, 1e-3, 1.0), (&of_slice, 1e-2, 64.0)] {
                let found = histogram.value_at_percentile(percentile) as f64;
                let allowed = (expected * precision).max(unit);
                let error = (found - expected).abs();
                assert!(error <= allowed, "p{percentile}: {found} for {expected}");
            }
        }
        assert_eq!(of_run.len(), values.len() as u64);
    }

    #[test]
    fn what_is_longer_than_can_be_told_counts_as_the_longest() {
        for mut histogram in [of_run(), of_slice()] {
            record(&mut histogram, u64::MAX);
            let found = histogram.value_at_percentile(100.0) as f64;
            assert!(
                (found / LATENCY_MAX_NS as f64 - 1.0).abs() < 0.02,
                "{found}"
            );
        }
    }

    #[test]
    fn histograms_survive_json() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Holder(#[serde(with = "base64")] Histogram<u64>);

        for mut histogram in [of_run(), of_slice()] {
            for value in (0..1000).map(|step| step * step * 977) {
                record(&mut histogram, value);
            }
            let text = serde_json::to_string(&Holder(histogram.clone())).unwrap();
            let back: Holder = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0, histogram);
        }
        assert!(serde_json::from_str::<Holder>("\"bm90IG9uZQ==\"").is_err());
    }
}
