//! Bounds that a run has to keep, for those who let a machine decide: `--fail-if 'p99>5ms'`.
//!
//! Knows: which figures can be bounded, in which units, and how a bound that was passed is said.
//! Refuses to know: how figures come about, and what becomes of who passes a bound.
//!
//! ```text
//!   p99  >  5ms        fails when the figure on the left is so
//!   |    |   '-- in the figure's own unit
//!   |    '------ > >= < <=
//!   '----------- pNN min max mean, handshake-pNN, rate, cpu, errors, ...
//! ```

use std::{fmt, str::FromStr};

use hdrhistogram::Histogram;

use crate::{
    plan::{number, parse_bytes},
    report::{sheet::scenario_name, units},
    result::{FailIfFigures, Run, Scenario},
};

/// One bound.
#[derive(Clone, Debug, PartialEq)]
pub struct FailIf {
    /// As it was given.
    text: String,
    figure: Figure,
    compares: Compares,
    bound: f64,
    /// The bound of a count is a share of all messages.
    is_share: bool,
}

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    Count(Count),
    Cpu,
    Handshake(Statistic),
    Latency(Statistic),
    Memory,
    Rate,
}

/// Of a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Statistic {
    Max,
    Mean,
    Min,
    Percentile(f64),
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Count {
    Closed,
    Corrupted,
    Duplicated,
    Errors,
    Failed,
    Late,
    Lost,
    Reordered,
    Unsent,
}

const COUNTS: [(&str, Count); 9] = [
    ("closed", Count::Closed),
    ("corrupted", Count::Corrupted),
    ("duplicated", Count::Duplicated),
    ("errors", Count::Errors),
    ("failed", Count::Failed),
    ("late", Count::Late),
    ("lost", Count::Lost),
    ("reordered", Count::Reordered),
    ("unsent", Count::Unsent),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compares {
    Above,
    AtLeast,
    AtMost,
    Below,
}

impl Compares {
    fn holds(self, figure: f64, bound: f64) -> bool {
        match self {
            Self::Above => figure > bound,
            Self::AtLeast => figure >= bound,
            Self::AtMost => figure <= bound,
            Self::Below => figure < bound,
        }
    }

    /// What a figure has to be, so that it is not so.
    const fn wanted(self) -> &'static str {
        match self {
            Self::Above => "at most",
            Self::AtLeast => "less than",
            Self::AtMost => "more than",
            Self::Below => "at least",
        }
    }
}

impl fmt::Display for FailIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for FailIf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(at) = text.find(['<', '>']) else {
            return Err(format!(
                "'{text}' has no bound: write it in quotes, as in 'p99>5ms', since a > without \
                 them is the shell's"
            ));
        };
        let (name, rest) = text.split_at(at);
        let (compares, value) = match (&rest[..1], rest[1..].strip_prefix('=')) {
            (">", None) => (Compares::Above, &rest[1..]),
            (">", Some(value)) => (Compares::AtLeast, value),
            (_, None) => (Compares::Below, &rest[1..]),
            (_, Some(value)) => (Compares::AtMost, value),
        };
        let (name, value) = (name.trim(), value.trim());
        let figure = figure(name)?;
        let (bound, is_share) = figure.bound(name, value)?;
        Ok(Self {
            text: text.to_owned(),
            figure,
            compares,
            bound,
            is_share,
        })
    }
}

fn figure(name: &str) -> Result<Figure, String> {
    if let Some((_, count)) = COUNTS.iter().find(|(known, _)| *known == name) {
        return Ok(Figure::Count(*count));
    }
    let figure = match name {
        "cpu" => Some(Figure::Cpu),
        "memory" => Some(Figure::Memory),
        "rate" => Some(Figure::Rate),
        _ => match name.strip_prefix("handshake-") {
            Some(of_handshakes) => statistic(of_handshakes).map(Figure::Handshake),
            None => statistic(name).map(Figure::Latency),
        },
    };
    figure.ok_or_else(|| {
        let counts = COUNTS.map(|(name, _)| name).join(", ");
        format!(
            "'{name}' is no figure that can be bounded: there are pNN as in p99.9, min, max and \
             mean, all of them with handshake- before them as well, rate, cpu, memory, {counts}"
        )
    })
}

fn statistic(name: &str) -> Option<Statistic> {
    match name {
        "max" => Some(Statistic::Max),
        "mean" => Some(Statistic::Mean),
        "min" => Some(Statistic::Min),
        _ => {
            let percentile: f64 = name.strip_prefix('p')?.parse().ok()?;
            let is_one = percentile > 0.0 && percentile <= 100.0;
            is_one.then_some(Statistic::Percentile(percentile))
        }
    }
}

impl Statistic {
    fn of(self, histogram: &Histogram<u64>) -> Option<f64> {
        if histogram.is_empty() {
            return None;
        }
        Some(match self {
            Self::Max => histogram.max() as f64,
            Self::Mean => histogram.mean(),
            Self::Min => histogram.min() as f64,
            Self::Percentile(percentile) => histogram.value_at_percentile(percentile) as f64,
        })
    }
}

impl Count {
    fn of(self, run: &Run) -> u64 {
        let (messages, connections) = (&run.messages, &run.connections);
        let wrong = messages.duplicated + messages.reordered + messages.corrupted;
        match self {
            Self::Closed => connections.closed,
            Self::Corrupted => messages.corrupted,
            Self::Duplicated => messages.duplicated,
            // A handshake that is lost is a connection that failed.
            Self::Errors if run.scenario == Scenario::Connect => connections.failed,
            Self::Errors => messages.lost + wrong + connections.failed + connections.lost,
            Self::Failed => connections.failed,
            Self::Late => messages.late,
            Self::Lost => messages.lost,
            Self::Reordered => messages.reordered,
            Self::Unsent => messages.unsent,
        }
    }
}

impl Figure {
    /// A bound in this figure's unit, and whether it is a share.
    fn bound(self, name: &str, value: &str) -> Result<(f64, bool), String> {
        let wrong =
            |example: &str| format!("'{value}' is no bound for {name}: write it as {example}");
        let (number, unit) = number(value).ok_or_else(|| wrong(self.example()))?;
        let scale = |units: &[(&str, f64)]| {
            let found = units.iter().find(|(name, _)| *name == unit.trim());
            let (_, factor) = found.ok_or_else(|| wrong(self.example()))?;
            Ok((number * factor, false))
        };
        match self {
            Self::Cpu | Self::Handshake(_) | Self::Latency(_) => scale(&[
                ("ns", 1.0),
                ("us", 1e3),
                ("µs", 1e3),
                ("ms", 1e6),
                ("s", 1e9),
            ]),
            Self::Memory => {
                let bytes = parse_bytes(value).map_err(|_| wrong(self.example()))?;
                Ok((bytes as f64, false))
            }
            Self::Rate => scale(&[
                ("", 1.0),
                ("/s", 1.0),
                ("k", 1e3),
                ("k/s", 1e3),
                ("M", 1e6),
                ("M/s", 1e6),
            ]),
            Self::Count(_) if unit.trim() == "%" => Ok((number / 100.0, true)),
            Self::Count(_) => scale(&[("", 1.0), ("k", 1e3), ("M", 1e6)]),
        }
    }

    const fn example(self) -> &'static str {
        match self {
            Self::Cpu => "20us",
            Self::Handshake(_) | Self::Latency(_) => "5ms or 250us",
            Self::Memory => "4k",
            Self::Rate => "20k",
            Self::Count(_) => "0 or 0.1%",
        }
    }

    /// What it is in a run; `None` when it was not measured.
    fn of(self, run: &Run) -> Option<f64> {
        let seconds = run.times.measured_ms / 1e3;
        match self {
            Self::Count(count) => Some(count.of(run) as f64),
            Self::Cpu => {
                let cpu_ns = run.server?.cpu_ns_per_message;
                (cpu_ns > 0.0).then_some(cpu_ns)
            }
            Self::Handshake(statistic) => statistic.of(&run.latency.handshake_ns),
            Self::Latency(statistic) => statistic.of(&run.latency.corrected_ns),
            Self::Memory => run.memory?.server_resident_per_connection_bytes,
            Self::Rate => match (&run.search, run.scenario) {
                (Some(search), _) => Some(search.rate_per_s.unwrap_or(0.0)),
                _ if seconds <= 0.0 => None,
                (_, Scenario::Ingest | Scenario::Replay) => {
                    Some(run.messages.sent as f64 / seconds)
                }
                _ => Some(run.messages.received as f64 / seconds),
            },
        }
    }

    /// A value of it in words.
    fn words(self, value: f64) -> String {
        match self {
            Self::Count(_) => units::count(value as u64),
            Self::Cpu | Self::Handshake(_) | Self::Latency(_) => units::latency(value as u64),
            Self::Memory => units::bytes(value),
            Self::Rate => units::rate(value),
        }
    }
}

impl FailIf {
    /// Why a run of this scenario cannot have the figure, if it cannot.
    pub fn refuses(&self, scenario: Scenario, has_pid: bool) -> Option<String> {
        let has_latency = !matches!(
            scenario,
            Scenario::Idle | Scenario::Ingest | Scenario::Replay
        );
        let option = format!("--fail-if '{}'", self.text);
        match self.figure {
            Figure::Cpu | Figure::Memory if !has_pid => Some(format!(
                "{option} is about the server's process: name it with --pid"
            )),
            Figure::Memory if scenario != Scenario::Idle => {
                Some(format!("{option} is measured by the scenario idle alone"))
            }
            Figure::Latency(_) if !has_latency => Some(format!(
                "{option} is about latencies, and {} measures none",
                scenario_name(scenario)
            )),
            Figure::Rate | Figure::Cpu if scenario == Scenario::Idle => {
                Some(format!("{option} is about messages, and idle sends none"))
            }
            _ => None,
        }
    }

    /// What a run has to do with it. What was not measured keeps no bound.
    pub fn judge(&self, run: &Run) -> FailIfFigures {
        let name = self
            .text
            .split(['<', '>'])
            .next()
            .unwrap_or_default()
            .trim();
        let option = format!("--fail-if '{}'", self.text);
        let Some(measured) = self.figure.of(run) else {
            return FailIfFigures {
                bound: self.text.clone(),
                measured: None,
                failed: true,
                sentence: format!("{name} was not measured, so that {option} cannot be kept"),
            };
        };
        // Of what there was to go wrong.
        let all = run.messages.sent.max(run.connections.asked).max(1) as f64;
        let compared = if self.is_share {
            measured / all
        } else {
            measured
        };
        let failed = self.compares.holds(compared, self.bound);
        let (was, bound) = if self.is_share {
            (units::share(compared), units::share(self.bound))
        } else {
            (self.figure.words(measured), self.figure.words(self.bound))
        };
        let sentence = if failed {
            format!(
                "{name} was {was}, and {option} wants {} {bound}",
                self.compares.wanted()
            )
        } else {
            format!(
                "{name} was {was}, as {option} wants: {} {bound}",
                self.compares.wanted()
            )
        };
        FailIfFigures {
            bound: self.text.clone(),
            measured: Some(compared),
            failed,
            sentence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<FailIf, String> {
        text.parse()
    }

    #[test]
    fn bounds_are_read_in_their_units() {
        for (text, bound, is_share) in [
            ("p99>5ms", 5e6, false),
            ("p99.99 >= 250us", 250e3, false),
            ("max<1s", 1e9, false),
            ("mean>1.5ms", 1.5e6, false),
            ("handshake-p50>20ms", 20e6, false),
            ("rate<20k", 20e3, false),
            ("rate<1.5M/s", 1.5e6, false),
            ("cpu>20us", 20e3, false),
            ("memory>4k", 4096.0, false),
            ("errors>0", 0.0, false),
            ("lost>=10", 10.0, false),
            ("late>0.1%", 0.001, true),
        ] {
            let found = read(text).unwrap();
            assert!((found.bound - bound).abs() < 1e-6, "{text}: {found:?}");
            assert_eq!(found.is_share, is_share, "{text}");
            assert_eq!(found.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_bound_is_told_why() {
        for (text, part) in [
            ("p99", "in quotes"),
            ("", "in quotes"),
            ("p99>", "5ms or 250us"),
            ("p99>5", "5ms or 250us"),
            ("p0>5ms", "is no figure"),
            ("p101>5ms", "is no figure"),
            ("speed>5", "is no figure"),
            ("handshake->5ms", "is no figure"),
            ("rate<5ms", "20k"),
            ("errors>many", "0 or 0.1%"),
            ("errors=>1", "is no figure"),
            ("memory>4ms", "4k"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    #[test]
    fn comparisons_fail_where_they_say() {
        for (compares, below, same, above) in [
            (Compares::Above, false, false, true),
            (Compares::AtLeast, false, true, true),
            (Compares::AtMost, true, true, false),
            (Compares::Below, true, false, false),
        ] {
            let holds = [1.0, 2.0, 3.0].map(|figure| compares.holds(figure, 2.0));
            assert_eq!(holds, [below, same, above], "{compares:?}");
        }
    }

    #[test]
    fn figures_that_a_scenario_lacks_are_refused_before_it_runs() {
        let refused = |text: &str, scenario, has_pid| {
            read(text).unwrap().refuses(scenario, has_pid).is_some()
        };
        assert!(refused("cpu>1us", Scenario::Echo, false));
        assert!(!refused("cpu>1us", Scenario::Echo, true));
        assert!(refused("p99>1us", Scenario::Idle, true));
        assert!(refused("p99>1us", Scenario::Ingest, true));
        assert!(!refused("handshake-p99>1us", Scenario::Idle, false));
        assert!(refused("memory>1k", Scenario::Echo, true));
        assert!(!refused("memory>1k", Scenario::Idle, true));
        assert!(refused("rate<1", Scenario::Idle, true));
        assert!(!refused("errors>0", Scenario::Idle, false));
    }
}
