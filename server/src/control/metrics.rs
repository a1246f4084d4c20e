//! Every count as Prometheus reads it.
//!
//! Knows: names, units and types, by Prometheus' rules. Refuses to know: what is counted. The
//! library's tables say that, so that a count that is added there is here as well.
//!
//! | in the table | here |
//! |---|---|
//! | a counter `messages_received` | `ringwire_messages_received_total` |
//! | a counter `payload_bytes_received` | `ringwire_payload_received_bytes_total` |
//! | a gauge `memory_held_bytes` | `ringwire_memory_held_bytes` |
//! | a distribution `turn`, in nanoseconds | `ringwire_turn_seconds` |

use std::{fmt, fs, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, prometheus_text, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use ringwire::{Count, CountKind, Snapshot, Spread, SpreadUnit};
use rustix::process::{Resource, getrlimit};

use super::operations::Operations;

/// In which of its two formats Prometheus wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    /// The older one, which has no end and no units.
    Text,
}

impl Format {
    /// What a client has asked for, which lists what it takes with the best first.
    pub fn wanted(accept: Option<&str>) -> Self {
        match accept {
            Some(accept) if accept.contains("application/openmetrics-text") => Self::OpenMetrics,
            _ => Self::Text,
        }
    }

    /// The type of what is sent.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All that there is to be known, as of now.
pub fn exposition(operations: &Arc<Operations>, format: Format) -> String {
    let mut registry = Registry::with_prefix("ringwire");
    registry.register_collector(Box::new(OfServer(operations.clone())));
    let mut process = Registry::default();
    process.register_collector(Box::new(OfProcess));
    let mut all = String::new();
    // Writing to a text does not fail.
    let _ = match format {
        Format::OpenMetrics => text::encode_registry(&mut all, &registry)
            .and_then(|()| text::encode_registry(&mut all, &process))
            .and_then(|()| text::encode_eof(&mut all)),
        Format::Text => prometheus_text::encode(&mut all, &registry)
            .and_then(|()| prometheus_text::encode(&mut all, &process)),
    };
    all
}

/// The name without its unit in the middle: the unit is its end.
fn name_of(count: &Count) -> String {
    match count.name.split_once("_bytes_") {
        Some((before, behind)) => format!("{before}_{behind}_bytes"),
        None => count.name.to_owned(),
    }
}

type ByShard = [(&'static str, String); 1];

fn by_shard(shard: usize) -> ByShard {
    [("shard", shard.to_string())]
}

/// What the server says of itself.
struct OfServer(Arc<Operations>);

impl fmt::Debug for OfServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfServer")
    }
}

impl Collector for OfServer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let operations = &*self.0;
        let shards = operations.operator.snapshots();
        encode_counts(&mut encoder, &shards)?;
        encode_spreads(&mut encoder, &operations.operator.spreads())?;
        let life = &operations.life;
        let help = "Whether new connections are welcome: 0 from the start of a drain.";
        gauge(&mut encoder, "ready", help, u64::from(life.is_ready()))?;
        let help = "Whether a shard stands still: it has given no sign of life for seconds.";
        let stalled = life.stalled();
        let name = "shard_stalled";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (shard, is_stalled) in stalled.into_iter().enumerate() {
            let labels = by_shard(shard);
            let metric = family.encode_family(&labels)?;
            ConstGauge::new(i64::from(is_stalled)).encode(metric)?;
        }
        let reloads = operations.reloads();
        let help = "Times that the settings were read again, and what came of it.";
        let mut family = encoder.encode_descriptor("reloads", help, None, MetricType::Counter)?;
        for (result, count) in [("applied", reloads.applied), ("refused", reloads.refused)] {
            let labels = [("result", result)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        let help = "Whether the last of them was applied; 1 before the first.";
        let was_applied = u64::from(!reloads.was_last_refused);
        gauge(&mut encoder, "last_reload_success", help, was_applied)?;
        let help = "Lines of the log that were not read in time, or could not be written.";
        let dropped = ConstCounter::new(operations.log.dropped());
        let name = "log_lines_dropped";
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        dropped.encode(metric)?;
        let help = "What runs: 1.";
        let labels = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("engine", operations.engine),
            ("ring", operations.ring),
        ];
        let mut info = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        ConstGauge::new(1_i64).encode(info.encode_family(&labels)?)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value as i64).encode(metric)
}

fn encode_counts(encoder: &mut DescriptorEncoder<'_>, shards: &[Snapshot]) -> fmt::Result {
    let Some(first) = shards.first() else {
        return Ok(());
    };
    let of_shards: Vec<Vec<Count>> = shards.iter().map(|it| it.counts().collect()).collect();
    for (at, count) in first.counts().enumerate() {
        let kind = match count.kind {
            CountKind::Counter => MetricType::Counter,
            CountKind::Gauge => MetricType::Gauge,
        };
        let name = name_of(&count);
        let mut family = encoder.encode_descriptor(&name, count.help, None, kind)?;
        for (shard, counts) in of_shards.iter().enumerate() {
            let value = counts[at].value;
            let labels = by_shard(shard);
            let metric = family.encode_family(&labels)?;
            match count.kind {
                CountKind::Counter => ConstCounter::new(value).encode(metric)?,
                CountKind::Gauge => ConstGauge::new(value as i64).encode(metric)?,
            }
        }
    }
    Ok(())
}

fn encode_spreads(encoder: &mut DescriptorEncoder<'_>, shards: &[Vec<Spread>]) -> fmt::Result {
    let Some(first) = shards.first() else {
        return Ok(());
    };
    for (at, spread) in first.iter().enumerate() {
        let (unit, scale) = match spread.unit {
            SpreadUnit::Nanoseconds => ("_seconds", 1e9),
            SpreadUnit::Bytes => ("_bytes", 1.0),
            SpreadUnit::Number => ("", 1.0),
        };
        let name = format!("{}{unit}", spread.name);
        let kind = MetricType::Histogram;
        let mut family = encoder.encode_descriptor(&name, spread.help, None, kind)?;
        for (shard, spreads) in shards.iter().enumerate() {
            let spread = &spreads[at];
            let bounds = spread.bounds.iter().map(|&bound| bound as f64 / scale);
            let bounds = bounds.chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(spread.buckets.iter().copied()).collect();
            let labels = by_shard(shard);
            let mut metric = family.encode_family(&labels)?;
            let sum = spread.sum as f64 / scale;
            metric.encode_histogram::<NoLabelSet>(sum, spread.count(), &buckets, None)?;
        }
    }
    Ok(())
}

/// What the kernel says of the process (`proc_pid_stat(5)`), by the names that every exporter uses.
#[derive(Debug)]
struct OfProcess;

/// Ticks of the kernel's clock in a second, as it tells them to programs, on every machine there
/// is (`times(2)`).
const TICKS_A_SECOND: f64 = 100.0;

struct Process {
    cpu_seconds: f64,
    start_seconds: f64,
    resident_bytes: u64,
}

impl Process {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The name, in brackets, may have spaces.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks = number(14)? + number(15)?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
        let boot: f64 = boot.trim().parse().ok()?;
        Some(Self {
            cpu_seconds: ticks as f64 / TICKS_A_SECOND,
            start_seconds: boot + number(22)? as f64 / TICKS_A_SECOND,
            resident_bytes: number(24)? * rustix::param::page_size() as u64,
        })
    }
}

impl Collector for OfProcess {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(process) = Process::read() {
            let help = "Processor time that the process has used, in user and in kernel mode.";
            let name = "process_cpu_seconds";
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(process.cpu_seconds).encode(metric)?;
            let help = "When it began, in seconds since 1970.";
            let name = "process_start_time_seconds";
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(process.start_seconds).encode(metric)?;
            let help = "Memory of the process that is in memory.";
            let name = "process_resident_memory_bytes";
            gauge(&mut encoder, name, help, process.resident_bytes)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            let help = "Descriptors that are open.";
            gauge(&mut encoder, "process_open_fds", help, open.count() as u64)?;
        }
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX >> 1);
        let help = "The most descriptors that may be open.";
        gauge(&mut encoder, "process_max_fds", help, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_at_the_end_of_names() {
        let stats = Snapshot::default();
        let names: Vec<String> = stats.counts().map(|count| name_of(&count)).collect();
        let has = |name: &str| names.iter().any(|it| it == name);
        assert!(has("payload_received_bytes") && has("memory_held_bytes") && has("turns"));
        for name in &names {
            assert!(!name.contains("_bytes_"), "{name}");
        }
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), names.len());
    }

    #[test]
    fn the_process_is_known() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 1 << 20);
        assert!(process.start_seconds > 1e9);
    }

    #[test]
    fn the_newer_format_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5";
        assert_eq!(Format::wanted(Some(prometheus)), Format::OpenMetrics);
        assert_eq!(Format::wanted(Some("*/*")), Format::Text);
        assert_eq!(Format::wanted(None), Format::Text);
    }
}
