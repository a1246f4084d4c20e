//! A run as an interval log of HdrHistogram, version 1.3: one histogram a slice.
//!
//! Knows: the log's head and its tags. Refuses to know: how a histogram is packed, which is
//! HdrHistogram's own serializer's business.
//!
//! Intervals without a tag are the corrected latencies, slice by slice, warm-up left out, so that a
//! reader that knows no tags sees what the report headlines. Tagged, one interval each over all
//! that was measured: `whole`, the corrected latencies together with those of the replies that came
//! after the last slice; `uncorrected` in an open loop; and `handshake`. Values are nanoseconds;
//! the column for the maximum is in milliseconds, as is the custom.

use std::{path::Path, time::Duration};

use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};

use super::{OutputError, sheet::utc};
use crate::result::Run;

/// Writes the log of a run.
///
/// # Errors
///
/// When a histogram cannot be packed or the file not be written.
pub fn write(run: &Run, path: &Path) -> Result<(), OutputError> {
    let log = render(run).map_err(|what| OutputError {
        path: path.to_owned(),
        what,
    })?;
    super::write_file(path, &log)
}

/// The log.
///
/// # Errors
///
/// What the serializer says.
pub fn render(run: &Run) -> Result<Vec<u8>, String> {
    let started = run.times.started_unix_ms as f64 / 1e3;
    // The crate's writer writes neither the date nor the legend, and the version is a comment like
    // any other to it.
    let mut log = format!(
        "#[loadgen {}: {} against {}]\n\
         #[Histogram log format version 1.3]\n\
         #[StartTime: {started:.3} (seconds since epoch), {}]\n\
         #[BaseTime: {started:.3} (seconds since epoch)]\n\
         \"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
         \"Interval_Compressed_Histogram\"\n",
        run.environment.loadgen_version,
        super::sheet::scenario_name(run.scenario),
        run.target.url.replace(['\r', '\n'], " "),
        utc(run.times.started_unix_ms),
    )
    .into_bytes();
    let mut serializer = V2DeflateSerializer::new();
    // A divisor other than 1 adds a line to the head that no other writer has; readers skip it.
    let mut writer = IntervalLogWriterBuilder::new()
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut log, &mut serializer)
        .map_err(|error| error.to_string())?;
    let mut interval =
        |histogram: &Histogram<u64>, start_ms: u64, length_ms: f64, tag: Option<Tag>| {
            writer
                .write_histogram(
                    histogram,
                    Duration::from_millis(start_ms),
                    Duration::from_secs_f64(length_ms / 1e3),
                    tag,
                )
                .map_err(|error| error.to_string())
        };
    for slice in run.slices.iter().filter(|slice| !slice.is_warmup) {
        interval(
            &slice.latency_ns,
            slice.start_ms,
            run.times.slice_ms as f64,
            None,
        )?;
    }
    let whole = [
        ("whole", &run.latency.corrected_ns, true),
        (
            "uncorrected",
            &run.latency.uncorrected_ns,
            run.latency.has_schedule,
        ),
        (
            "handshake",
            &run.latency.handshake_ns,
            !run.latency.handshake_ns.is_empty(),
        ),
    ];
    for (name, histogram, is_there) in whole {
        if is_there {
            interval(
                histogram,
                run.times.warmup_ms,
                run.times.measured_ms,
                Tag::new(name),
            )?;
        }
    }
    Ok(log)
}
