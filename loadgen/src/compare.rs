//! Two runs side by side, and whether the second is worse.
//!
//! Knows: which runs may be compared, what a tolerance means, what to say and how to exit. Refuses
//! to know: how an interval is made, which is [`statistics`]' business.
//!
//! ```text
//!   change of B against A, with its interval      said                       exit status
//!      -5 %        0        +5 %
//!        |         |    [--o--|--]               no difference shown              0
//!        |         | [-o-]    |                  within the tolerance             0
//!        |         |          | [--o--]          B is worse                       1
//!     [--o--]      |          |                  no difference shown              0
//! ```

pub mod statistics;

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
};

use serde_json::Value;

use self::statistics::{Change, Metric, Settings};
use crate::{
    report::{
        self, json,
        sheet::{after_the_slices, scenario_name},
        table, units,
    },
    result::{Run, Scenario, VerdictKind},
};

/// How often "B is worse" may be said at most of a B that just keeps the tolerance; and so of
/// "better".
const FALSE_ALARM: f64 = 0.05;

/// The options of `loadgen compare`.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// What is compared with: one file of --json, or several with commas between
    #[arg(
        value_name = "A.json[,A2.json...]",
        value_delimiter = ',',
        num_args = 1,
        required = true
    )]
    pub a: Vec<PathBuf>,
    /// What is compared: as many files, each run right after (or before) its partner in A
    #[arg(
        value_name = "B.json[,B2.json...]",
        value_delimiter = ',',
        num_args = 1,
        required = true
    )]
    pub b: Vec<PathBuf>,
    /// The change for the worse that is still accepted
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_tolerance)]
    pub tolerance: f64,
    /// What to compare: any of pNN, rate, cpu (the server's, per message). Default: p50, p99,
    /// p99.9, rate and cpu, as far as both sides have them
    #[arg(long, value_name = "METRIC,...", value_delimiter = ',')]
    pub metric: Vec<Metric>,
    /// Where the chance of the bootstrap comes from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// Compare runs of different plans, and runs that cannot be believed
    #[arg(long)]
    pub force: bool,
}

/// What came out of a comparison.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The text for standard output.
    pub text: String,
    /// B is worse than A by more than the tolerance.
    pub is_worse: bool,
    /// B is better than A by more than the tolerance.
    pub is_better: bool,
}

/// Compares and prints. Returns the exit status: 0, 1 when B is worse, 2 when there was nothing to
/// compare, which is then said on standard error.
#[must_use]
pub fn run(arguments: &Arguments) -> u8 {
    match compare(arguments) {
        Ok(comparison) => match report::print(comparison.text.as_bytes()) {
            Ok(()) => u8::from(comparison.is_worse),
            Err(error) => fail(&error.to_string()),
        },
        Err(sentence) => fail(&sentence),
    }
}

fn fail(sentence: &str) -> u8 {
    // Standard error may be closed; the status says it as well.
    let _ = writeln!(io::stderr(), "loadgen compare: {sentence}");
    2
}

/// Reads the files and compares them.
///
/// # Errors
///
/// Sentences for the person who asked: files that cannot be read, runs that cannot be compared.
pub fn compare(arguments: &Arguments) -> Result<Comparison, String> {
    let read = |paths: &[PathBuf]| -> Result<Vec<Run>, String> {
        paths.iter().map(|path| json::read(path)).collect()
    };
    let (a, b) = (read(&arguments.a)?, read(&arguments.b)?);
    compare_runs(&a, &b, arguments)
}

/// Compares runs that have been read; of the arguments the files are not looked at.
///
/// # Errors
///
/// As [`compare`].
pub fn compare_runs(a: &[Run], b: &[Run], arguments: &Arguments) -> Result<Comparison, String> {
    if a.len() != b.len() || a.is_empty() {
        return Err(format!(
            "A has {} and B has {}: runs are compared in pairs, so give as many of each",
            units::plural(a.len() as u64, "run"),
            units::plural(b.len() as u64, "run"),
        ));
    }
    let warnings = objections(a, b);
    if !warnings.is_empty() && !arguments.force {
        let mut sentence = "these runs do not compare:".to_owned();
        warnings.iter().for_each(|warning| {
            let _ = write!(sentence, "\n  {warning}");
        });
        sentence.push_str("\nUse --force to compare them all the same.");
        return Err(sentence);
    }
    let asked = if arguments.metric.is_empty() {
        vec![
            Metric::Latency(0.5),
            Metric::Latency(0.99),
            Metric::Latency(0.999),
            Metric::Rate,
            Metric::Cpu,
        ]
    } else {
        arguments.metric.clone()
    };
    let laid_out = |runs: &[Run]| -> Vec<statistics::Run> { runs.iter().map(lay_out).collect() };
    let (laid_a, laid_b) = (laid_out(a), laid_out(b));
    let settings = Settings {
        false_alarm: FALSE_ALARM,
        seed: arguments.seed,
    };
    let changes = statistics::compare(&laid_a, &laid_b, &asked, settings);
    if changes.is_empty() {
        return Err(format!(
            "the runs of {} have nothing over time to compare",
            scenario_name(a[0].scenario)
        ));
    }
    let missing: Vec<String> = asked
        .iter()
        .filter(|metric| changes.iter().all(|change| change.metric != **metric))
        .map(ToString::to_string)
        .collect();
    if !arguments.metric.is_empty() && !missing.is_empty() {
        return Err(format!(
            "not all runs have {} (cpu needs --pid when they are made)",
            missing.join(", ")
        ));
    }
    let faults = [faults(a), faults(b)];
    let mut report = Report {
        text: String::new(),
        tolerance: arguments.tolerance,
    };
    report.heads(a, b, &laid_a);
    let findings = report.rows(&changes);
    report.lines("", &warnings);
    if !missing.is_empty() {
        let missing = missing.join(", ");
        report.lines(
            "",
            &[format!(
                "Not compared, because a side does not have it: {missing}."
            )],
        );
    }
    if a.len() == 1 {
        let sentence = "One run a side: what varies from run to run is not in the intervals. Give \
                        several of each, made in turns.";
        report.lines("", &[sentence.to_owned()]);
    }
    let is_faulty = faults[1] > faults[0];
    let is_worse = is_faulty || findings.contains(&Finding::Worse);
    let is_better = !is_worse && findings.contains(&Finding::Better);
    report.verdict(&changes, &findings, faults);
    Ok(Comparison {
        text: report.text,
        is_worse,
        is_better,
    })
}

/// `5%`, `5` or `2.5 %` as 0.05 and so on.
fn parse_tolerance(text: &str) -> Result<f64, String> {
    let percent: Option<f64> = text.trim_end_matches('%').trim().parse().ok();
    match percent {
        Some(percent) if (0.0..100.0).contains(&percent) => Ok(percent / 100.0),
        _ => Err(format!(
            "'{text}' is not a percentage from 0% to below 100%, such as 5%"
        )),
    }
}

/// The measured and whole slices, without the histograms' machinery.
fn lay_out(run: &Run) -> statistics::Run {
    let seconds = run.times.slice_ms as f64 / 1e3;
    let slices: Vec<statistics::Slice> = run
        .slices
        .iter()
        .filter(|slice| !slice.is_warmup && !slice.is_partial)
        .map(|slice| statistics::Slice {
            seconds,
            messages: if matches!(run.scenario, Scenario::Ingest | Scenario::Replay) {
                slice.sent
            } else {
                slice.received
            },
            server_cpu_seconds: slice.server_cpu_ns.map(|ns| ns as f64 / 1e9),
            latencies: slice
                .latency_ns
                .iter_recorded()
                .map(|step| {
                    let high = step.value_iterated_to();
                    let low = slice.latency_ns.lowest_equivalent(high);
                    (low, high, step.count_since_last_iteration())
                })
                .collect(),
        })
        .collect();
    statistics::Run::new(&slices)
}

/// Why these runs should not be compared, a sentence each.
fn objections(a: &[Run], b: &[Run]) -> Vec<String> {
    let mut objections = Vec::new();
    let first = &a[0];
    let named = a
        .iter()
        .map(|run| ("A", run))
        .chain(b.iter().map(|run| ("B", run)));
    for (side, run) in named.clone() {
        if run.scenario != first.scenario {
            objections.push(format!(
                "A is a run of {}, a run of {side} is one of {}",
                scenario_name(first.scenario),
                scenario_name(run.scenario)
            ));
        } else {
            objections.extend(
                differences(first, run).into_iter().map(|difference| {
                    format!("the plan of a run of {side} differs in {difference}")
                }),
            );
        }
    }
    for (index, (side, run)) in named.enumerate() {
        // Runs of a side are numbered as they were given.
        let number = if a.len() == 1 {
            String::new()
        } else {
            format!(" {}", index % a.len() + 1)
        };
        if run.verdict.kind == VerdictKind::ClientBound {
            objections.push(format!(
                "in run {side}{number} the generator was the bottleneck, so its rate and latency \
                 are the generator's"
            ));
        }
        if run.times.interrupted {
            objections.push(format!(
                "run {side}{number} was interrupted after {} of the {} that were asked for",
                units::milliseconds(run.times.measured_ms),
                units::milliseconds(run.plan.duration_ms as f64),
            ));
        }
        let whole = run
            .slices
            .iter()
            .filter(|slice| !slice.is_warmup && !slice.is_partial)
            .count();
        if whole < SLICES_MIN {
            objections.push(format!(
                "run {side}{number} has {} of measured time, and {SLICES_MIN} are the least that \
                 say how much it varies",
                units::plural(whole as u64, "slice"),
            ));
        }
        let (after, all) = (after_the_slices(run), run.latency.corrected_ns.len());
        if after as f64 > AFTER_MAX * all as f64 {
            objections.push(format!(
                "in run {side}{number} the server did not keep up: {} of {} measured latencies \
                 came after the slices that are compared",
                units::count(after),
                units::count(all),
            ));
        }
        if !run.environment.release_build {
            objections.push(format!(
                "run {side}{number} was made by a debug build of loadgen"
            ));
        }
        let machine = |run: &Run| {
            let environment = &run.environment;
            [environment.cpu_model.clone(), environment.kernel.clone()]
        };
        if machine(run) != machine(first) {
            objections.push(format!(
                "run {side}{number} was made on another processor or kernel: {}",
                machine(run).join(", Linux ")
            ));
        }
    }
    objections.dedup();
    objections
}

/// The share of a run's latencies that may have come when its slices were over.
const AFTER_MAX: f64 = 0.01;

/// Fewer slices than this are no sample.
const SLICES_MIN: usize = 10;

/// Which fields of the plan differ, and how. The plan is compared as JSON, so that a field that
/// comes to it is compared as well.
fn differences(a: &Run, b: &Run) -> Vec<String> {
    let plan = |run: &Run| serde_json::to_value(&run.plan).unwrap_or(Value::Null);
    let (plan_a, plan_b) = (plan(a), plan(b));
    let (Some(plan_a), Some(plan_b)) = (plan_a.as_object(), plan_b.as_object()) else {
        return Vec::new();
    };
    plan_a
        .iter()
        .filter(|(name, value)| plan_b.get(*name) != Some(*value))
        // Runs of before it was written down do not say it.
        .filter(|(name, value)| {
            let other = plan_b.get(*name).unwrap_or(&Value::Null);
            *name != "reply_timeout_ms" || !(value.is_null() || other.is_null())
        })
        .map(|(name, value)| {
            let other = plan_b.get(name).unwrap_or(&Value::Null);
            format!("{name}: {value} and {other}")
        })
        .collect()
}

/// Messages and connections that were lost or wrong.
fn faults(runs: &[Run]) -> u64 {
    let of_run = |run: &Run| {
        let (messages, connections) = (&run.messages, &run.connections);
        messages.lost
            + messages.corrupted
            + messages.duplicated
            + messages.reordered
            + connections.failed
            + connections.lost
            + run
                .fanout
                .map_or(0, |fanout| fanout.missing + fanout.duplicates)
    };
    runs.iter().map(of_run).sum()
}

/// What an interval says in the light of the tolerance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Better than by the tolerance.
    Better,
    /// Different, and not by more than the tolerance.
    Tolerable,
    /// No difference, and the interval is too wide to rule one out that matters.
    Unclear,
    /// No difference.
    Same,
    /// Worse than by the tolerance.
    Worse,
}

impl Finding {
    fn new(change: &Change, tolerance: f64) -> Self {
        // From here on a positive change is one for the worse.
        let (low, high) = if change.metric.more_is_worse() {
            (change.low, change.high)
        } else {
            (-change.high, -change.low)
        };
        if low > tolerance {
            Self::Worse
        } else if high < -tolerance {
            Self::Better
        } else if high > tolerance || low < -tolerance {
            Self::Unclear
        } else if low > 0.0 || high < 0.0 {
            Self::Tolerable
        } else {
            Self::Same
        }
    }
}

struct Report {
    text: String,
    tolerance: f64,
}

impl Report {
    fn heads(&mut self, a: &[Run], b: &[Run], laid_out: &[statistics::Run]) {
        for (side, runs) in [("A", a), ("B", b)] {
            let run = &runs[0];
            let server = run.target.server_header.as_deref().unwrap_or("");
            let measured: f64 = runs.iter().map(|run| run.times.measured_ms).sum();
            let line = format!(
                "{side}  {} against {} {server}: {}, {} measured",
                scenario_name(run.scenario),
                run.target.url,
                units::plural(runs.len() as u64, "run"),
                units::milliseconds(measured),
            );
            self.lines("", &[line.replace(" :", ":")]);
        }
        let slices: usize = laid_out.iter().map(statistics::Run::slices).sum();
        self.lines(
            "",
            &[format!(
                "Intervals by block bootstrap over {slices} slices of time a side: the true \
                 changes of all metrics lie above their lower ends with {} % certainty, and below \
                 their upper ends with as much.",
                (1.0 - FALSE_ALARM) * 100.0
            )],
        );
    }

    fn rows(&mut self, changes: &[Change]) -> Vec<Finding> {
        let _ = writeln!(
            self.text,
            "\n  {:<8}{:>14}{:>14}{:>10}{:>21}  ",
            "metric", "A", "B", "change", "interval"
        );
        changes
            .iter()
            .map(|change| {
                let finding = Finding::new(change, self.tolerance);
                let value = |value: f64| match change.metric {
                    Metric::Latency(_) => units::latency(value as u64),
                    Metric::Rate => units::rate(value),
                    Metric::Cpu => format!("{} µs", units::three_digits(value * 1e6)),
                };
                let remark = match finding {
                    Finding::Better => "better",
                    Finding::Tolerable => "tolerable",
                    Finding::Unclear => "unclear",
                    Finding::Same => "same",
                    Finding::Worse => "WORSE",
                };
                let _ = writeln!(
                    self.text,
                    "  {:<8}{:>14}{:>14}{:>10}{:>21}  {remark}",
                    change.metric.to_string(),
                    value(change.a),
                    value(change.b),
                    percent(change.change),
                    format!("{} to {}", percent(change.low), percent(change.high)),
                );
                finding
            })
            .collect()
    }

    /// Sentences, folded as the table's are.
    fn lines(&mut self, head: &str, sentences: &[String]) {
        for sentence in sentences {
            table::fold(&mut self.text, head, sentence);
        }
    }

    fn verdict(&mut self, changes: &[Change], findings: &[Finding], faults: [u64; 2]) {
        self.text.push('\n');
        if faults[1] > faults[0] {
            let sentence = format!(
                "B is worse: {} (what was lost or wrong), against {} of A.",
                units::plural(faults[1], "fault"),
                units::count(faults[0]),
            );
            self.lines("", &[sentence]);
        }
        let of = |wanted: Finding| -> Vec<String> {
            let pairs = changes
                .iter()
                .zip(findings)
                .filter(|(_, finding)| **finding == wanted);
            pairs.map(|(change, _)| sentence(change)).collect()
        };
        self.lines("", &of(Finding::Worse));
        self.lines("", &of(Finding::Better));
        let others: Vec<String> = changes
            .iter()
            .zip(findings)
            .filter(|(_, finding)| !matches!(finding, Finding::Better | Finding::Worse))
            .map(|(change, _)| change.metric.to_string())
            .collect();
        if !others.is_empty() {
            let tolerance = units::three_digits(self.tolerance * 100.0);
            let tolerance = tolerance.trim_end_matches('0').trim_end_matches('.');
            self.lines(
                "",
                &[format!(
                    "no difference beyond {tolerance} % is shown in {}.",
                    others.join(", ")
                )],
            );
        }
        let unclear: Vec<String> = changes
            .iter()
            .zip(findings)
            .filter(|(_, finding)| **finding == Finding::Unclear)
            .map(|(change, _)| change.metric.to_string())
            .collect();
        if !unclear.is_empty() {
            self.lines(
                "",
                &[format!(
                    "The interval of {} is too wide to rule such a difference out: longer or more \
                     runs narrow it.",
                    unclear.join(", ")
                )],
            );
        }
    }
}

/// `B is slower by 9.8 % in p50 (8.1 % to 11.6 %).`
fn sentence(change: &Change) -> String {
    let worse = (change.change > 0.0) == change.metric.more_is_worse();
    let how = match (change.metric, worse) {
        (Metric::Cpu, true) => "takes more CPU",
        (Metric::Cpu, false) => "takes less CPU",
        (_, true) => "is slower",
        (_, false) => "is faster",
    };
    let (near, far) = if change.change > 0.0 {
        (change.low, change.high)
    } else {
        (change.high, change.low)
    };
    let size = |change: f64| units::three_digits(change.abs() * 100.0);
    format!(
        "B {how} by {} % in {} ({} % to {} %).",
        size(change.change),
        change.metric,
        size(near),
        size(far),
    )
}

/// A change with its sign: `+9.8 %`.
fn percent(change: f64) -> String {
    let percent = change * 100.0;
    let digits = usize::from(percent.abs() < 99.95);
    // Not -0.0.
    let percent = if percent.abs() < 0.05 { 0.0 } else { percent };
    format!("{percent:+.digits$} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerances_are_percentages() {
        assert_eq!(parse_tolerance("5%"), Ok(0.05));
        assert_eq!(parse_tolerance("2.5 %"), Ok(0.025));
        assert!(parse_tolerance("100%").is_err());
        assert!(parse_tolerance("fast").is_err());
    }

    #[test]
    fn a_lower_rate_is_worse_and_a_lower_latency_better() {
        let change = |metric| Change {
            metric,
            a: 1.0,
            b: 0.9,
            change: -0.1,
            low: -0.12,
            high: -0.08,
        };
        assert_eq!(Finding::new(&change(Metric::Rate), 0.05), Finding::Worse);
        assert_eq!(
            Finding::new(&change(Metric::Latency(0.5)), 0.05),
            Finding::Better
        );
        assert_eq!(Finding::new(&change(Metric::Rate), 0.1), Finding::Unclear);
        assert_eq!(Finding::new(&change(Metric::Rate), 0.2), Finding::Tolerable);
    }
}
