//! How long criterion measures.

use std::time::Duration;

use criterion::Criterion;

/// Half a second for each: hundreds of them make minutes, and medians settle before.
pub fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500))
        .sample_size(30)
        .nresamples(5_000)
}
