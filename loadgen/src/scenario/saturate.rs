//! The highest rate that meets an objective.
//!
//! Knows: which rate to try next, and when to believe it. Refuses to know: how a rate is tried,
//! which is `echo`'s.
//!
//! ```text
//!   met      o     o     o     o                  o   o  <- confirmed, and reported
//!   not met                          x    x  x
//!            |-- twice as many each --|-- half way --|
//! ```

use crate::{
    plan::SaturateArgs,
    result::{Objective, Run, Scenario, Search, SearchPoint, SearchStep, VerdictKind},
    run::Context,
    scenario::echo,
};

/// The part of a rate that has to come back for the rate to count as kept.
const KEPT_SHARE: f64 = 0.99;

/// A latency of this many times the objective is no hiccup.
const MISSED_BY_FAR: u64 = 20;

/// The rate to begin with, unless the percentile needs a higher one.
const RATE_FROM_MIN_PER_S: f64 = 1000.0;

/// Steps of a search at most, whatever the precision.
const STEPS_MAX: usize = 60;

/// What to try next.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Try {
    rate_per_s: f64,
    step: SearchStep,
}

/// What a try showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// The objective was met.
    Met,
    /// It was missed by so little that it may have been chance.
    Missed,
    /// It was missed by far, or the rate was not kept.
    MissedByFar,
}

/// Where a search stands: pure, so that it can be tested without a server.
///
/// A machine has hiccups that are no server's fault, so that one that was missed by little is tried
/// once more, and so is one that was met and is to be reported.
#[derive(Clone, Debug)]
struct Hunt {
    /// The highest rate that met the objective.
    met: Option<f64>,
    /// The lowest that did not.
    missed: Option<f64>,
    /// The rate that was missed by little and is to be tried again.
    doubted: Option<Try>,
    /// How often `met` was met once more, and how often it was missed then.
    confirmed: usize,
    denied: usize,
    confirm: usize,
    precision: f64,
    rate_from: f64,
    rate_min: f64,
    rate_to: f64,
}

impl Hunt {
    fn new(args: &SaturateArgs, rate_from: f64, rate_min: f64) -> Self {
        Self {
            met: None,
            missed: None,
            doubted: None,
            confirmed: 0,
            denied: 0,
            confirm: args.confirm,
            precision: args.precision,
            rate_from,
            rate_min: rate_min.min(rate_from),
            rate_to: args.rate_to.max(rate_from),
        }
    }

    /// `None` when there is nothing more to try.
    fn next(&self) -> Option<Try> {
        if self.doubted.is_some() {
            return self.doubted;
        }
        let up = |rate_per_s| Try {
            rate_per_s,
            step: SearchStep::Double,
        };
        let between = |rate_per_s| Try {
            rate_per_s,
            step: SearchStep::Bisect,
        };
        match (self.met, self.missed) {
            (None, None) => Some(up(self.rate_from)),
            // Even the first was too much: down, as long as there are enough messages.
            (None, Some(missed)) if missed > self.rate_min => {
                Some(between((missed / 2.0).max(self.rate_min)))
            }
            (None, Some(_)) => None,
            (Some(met), None) if met < self.rate_to => Some(up((met * 2.0).min(self.rate_to))),
            (Some(met), Some(missed)) if missed > met * (1.0 + self.precision) => {
                Some(between((met + missed) / 2.0))
            }
            (Some(met), _) => (self.confirmed < self.confirm).then_some(Try {
                rate_per_s: met,
                step: SearchStep::Confirm,
            }),
        }
    }

    fn found(&mut self, tried: Try, shown: Shown) {
        let again = self.doubted.take().is_some();
        match (tried.step, shown) {
            (SearchStep::Confirm, Shown::Met) => self.confirmed += 1,
            (SearchStep::Confirm, Shown::Missed) if self.denied == 0 => self.denied = 1,
            (SearchStep::Confirm, _) => {
                // It was luck. What is a little less has to be shown from the beginning.
                let less = tried.rate_per_s / (1.0 + self.precision);
                self.missed = (less < self.rate_min).then_some(less);
                self.met = None;
                (self.confirmed, self.denied) = (0, 0);
                self.rate_from = less;
                self.rate_to = less;
            }
            (_, Shown::Met) => {
                self.met = Some(tried.rate_per_s);
                (self.confirmed, self.denied) = (0, 0);
            }
            (_, Shown::Missed) if !again => self.doubted = Some(tried),
            (_, Shown::Missed | Shown::MissedByFar) => self.missed = Some(tried.rate_per_s),
        }
    }
}

/// Messages that have to lie above the objective's percentile for it to mean something, in the
/// first step and in any.
const ABOVE_FIRST: f64 = 10.0;
const ABOVE_LEAST: f64 = 2.0;

/// The rates below which a step has too few messages for its percentile: to begin with, and at all.
fn least_rates(args: &SaturateArgs, duration_ms: u64) -> (f64, f64) {
    let above_share = (1.0 - args.slo.percentile / 100.0).max(1e-6);
    let per_s = |above: f64| above / above_share / (duration_ms as f64 / 1000.0);
    (per_s(ABOVE_FIRST), per_s(ABOVE_LEAST))
}

/// Carries the search out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(args: &SaturateArgs, context: &mut Context<'_>) -> Result<Run, String> {
    let first = args.plan().map_err(|error| error.to_string())?;
    let (enough, least) = least_rates(args, first.duration_ms);
    let rate_from = args
        .rate_from
        .unwrap_or_else(|| enough.max(RATE_FROM_MIN_PER_S));
    let mut hunt = Hunt::new(args, rate_from, least);
    let mut points = Vec::new();
    let mut best: Option<Run> = None;
    let mut last = None;
    while points.len() < STEPS_MAX {
        let Some(tried) = hunt.next() else { break };
        context.note = Some(format!(
            "{} {:.0}/s",
            match tried.step {
                SearchStep::Bisect => "between:",
                SearchStep::Confirm => "once more:",
                SearchStep::Double => "up:",
            },
            tried.rate_per_s
        ));
        let plan = args
            .step(tried.rate_per_s)
            .map_err(|error| error.to_string())?
            .shared();
        let run = echo::run(&plan, context)?;
        let interrupted = run.times.interrupted;
        let point = point(&run, tried, args.slo);
        points.push(point);
        if interrupted {
            last = Some(run);
            break;
        }
        hunt.found(tried, shown(&run, &point, args.slo));
        if point.met
            && best
                .as_ref()
                .is_none_or(|best| best.plan.rate_per_s <= run.plan.rate_per_s)
        {
            best = Some(run);
        } else {
            last = Some(run);
        }
        if hunt.met.is_none() {
            best = None;
        }
    }
    context.note = None;
    let interrupted = last.as_ref().is_some_and(|run| run.times.interrupted);
    let confirmed = hunt
        .met
        .filter(|_| hunt.confirmed >= hunt.confirm && !interrupted);
    // The rate that ended the search, and whose fault it was.
    let above =
        |point: &&SearchPoint| !point.met && confirmed.is_none_or(|rate| point.rate_per_s > rate);
    let ended_by = points
        .iter()
        .filter(above)
        .min_by(|one, other| one.rate_per_s.total_cmp(&other.rate_per_s));
    let bound_by_client = ended_by.is_some_and(|point| point.client_bound);
    let ended = match (confirmed, ended_by) {
        _ if interrupted => "it was stopped before it was over".to_owned(),
        (Some(rate), Some(point)) if bound_by_client => format!(
            "at {:.0}/s the generator was the bottleneck: the server may be able to do more than \
             {rate:.0}/s",
            point.rate_per_s
        ),
        (Some(_), Some(point)) => {
            format!("at {:.0}/s the objective was missed", point.rate_per_s)
        }
        (Some(_), None) => "the highest rate that was to be tried met the objective".to_owned(),
        (None, Some(point)) => format!(
            "down to {:.0}/s no rate met the objective and did so again; below {:.0}/s a step of \
             {} ms has too few messages for p{}",
            point.rate_per_s, hunt.rate_min, first.duration_ms, args.slo.percentile
        ),
        (None, None) => "no rate was tried".to_owned(),
    };
    let bound_rate_per_s = ended_by.map_or(0.0, |point| point.rate_per_s);
    let Some(mut run) = best.filter(|_| confirmed.is_some()).or(last) else {
        return Err("nothing was tried; check --rate-from and --rate-to".to_owned());
    };
    run.scenario = Scenario::Saturate;
    run.plan.objective = Some(objective_text(args.slo));
    run.search = Some(Search {
        objective: args.slo,
        rate_per_s: confirmed,
        ended,
        points,
    });
    if bound_by_client {
        run.verdict.kind = VerdictKind::ClientBound;
        run.verdict.reasons.insert(
            0,
            format!(
                "the generator was the bottleneck at {bound_rate_per_s:.0}/s and ended the search"
            ),
        );
    }
    Ok(run)
}

/// How much a try says.
fn shown(run: &Run, point: &SearchPoint, objective: Objective) -> Shown {
    let by_far = objective.latency_max_ns.saturating_mul(MISSED_BY_FAR);
    let seconds = run.times.measured_ms / 1e3;
    match point.met {
        true => Shown::Met,
        false if point.objective_ns > by_far || !keeps(point, seconds) => Shown::MissedByFar,
        false => Shown::Missed,
    }
}

/// Whether what was asked for came back. Of a slow rate one message may be short at the edges.
fn keeps(point: &SearchPoint, seconds: f64) -> bool {
    point.received_per_s + 1.0 / seconds.max(1e-9) >= point.rate_per_s * KEPT_SHARE
}

/// As it is given: `p99.9=1ms`.
fn objective_text(objective: Objective) -> String {
    let ns = objective.latency_max_ns;
    let latency = match ns {
        ns if ns % 1_000_000_000 == 0 => format!("{}s", ns / 1_000_000_000),
        ns if ns % 1_000_000 == 0 => format!("{}ms", ns / 1_000_000),
        ns if ns % 1000 == 0 => format!("{}us", ns / 1000),
        ns => format!("{ns}ns"),
    };
    format!("p{}={latency}", objective.percentile)
}

fn point(run: &Run, tried: Try, objective: Objective) -> SearchPoint {
    let latency = &run.latency.corrected_ns;
    let objective_ns = latency.value_at_percentile(objective.percentile);
    let seconds = run.times.measured_ms / 1e3;
    let received_per_s = run.messages.received as f64 / seconds.max(1e-9);
    let messages = &run.messages;
    let client_bound = run.verdict.kind == VerdictKind::ClientBound;
    let mut point = SearchPoint {
        rate_per_s: tried.rate_per_s,
        received_per_s,
        p50_ns: latency.value_at_percentile(50.0),
        p99_ns: latency.value_at_percentile(99.0),
        p99_9_ns: latency.value_at_percentile(99.9),
        objective_ns,
        max_ns: latency.max(),
        step: tried.step,
        met: false,
        client_bound,
    };
    point.met = objective_ns <= objective.latency_max_ns
        && keeps(&point, seconds)
        && messages.lost == 0
        && messages.unsent == 0;
    point
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::plan::{Cli, Command};

    fn args(words: &[&str]) -> SaturateArgs {
        let words = ["loadgen", "saturate", "ws://127.0.0.1:9"]
            .iter()
            .chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::Saturate(args) => args,
            _ => unreachable!("saturate was asked for"),
        }
    }

    /// Searches for a limit; the tries of these numbers are missed by little all the same, or met.
    fn hunt(limit: f64, hiccups: &[usize], lucky: &[usize]) -> (Option<f64>, usize) {
        let mut hunt = Hunt::new(&args(&["--rate-to", "1M"]), 1000.0, 10.0);
        let mut steps = 0;
        while let Some(tried) = hunt.next() {
            let shown = match tried.rate_per_s <= limit {
                _ if hiccups.contains(&steps) => Shown::Missed,
                _ if lucky.contains(&steps) => Shown::Met,
                true => Shown::Met,
                false if tried.rate_per_s > 2.0 * limit => Shown::MissedByFar,
                false => Shown::Missed,
            };
            hunt.found(tried, shown);
            steps += 1;
            assert!(steps < STEPS_MAX, "the search does not end");
        }
        (hunt.met, steps)
    }

    #[test]
    fn the_limit_is_found_to_the_precision() {
        for limit in [10.0, 99.0, 1000.0, 1001.0, 7777.0, 123_456.0, 999_999.0] {
            let (met, steps) = hunt(limit, &[], &[]);
            let met = met.unwrap();
            assert!(met <= limit && limit <= met * 1.051, "{met} for {limit}");
            assert!(steps < 40, "{steps} steps for {limit}");
        }
    }

    #[test]
    fn a_hiccup_now_and_then_changes_nothing() {
        for first in 0..12 {
            let (met, _) = hunt(100_000.0, &[first, first + 3, first + 6], &[]);
            let met = met.unwrap();
            assert!(
                (90_000.0..=100_000.0).contains(&met),
                "{met} with hiccups from {first} on"
            );
        }
    }

    #[test]
    fn the_highest_rate_to_try_is_the_end() {
        assert_eq!(hunt(f64::INFINITY, &[], &[]).0, Some(1e6));
    }

    #[test]
    fn a_server_that_never_meets_it_ends_the_search() {
        let (met, steps) = hunt(0.0, &[], &[]);
        assert_eq!(met, None);
        assert!(steps < 20, "{steps}");
    }

    #[test]
    fn luck_is_not_confirmed() {
        // 1000, 2000, 4000, 8000 by luck, then up and between: above 7000 nothing is met.
        let (met, _) = hunt(7000.0, &[], &[3]);
        let met = met.unwrap();
        assert!(met <= 7000.0 && met > 6000.0, "{met}");
    }

    #[test]
    fn a_step_has_messages_enough_for_its_percentile() {
        let (enough, least) = least_rates(&args(&["--slo", "p99.9=1ms"]), 3000);
        assert!(
            (enough - 3333.3).abs() < 1.0 && (least - 666.7).abs() < 1.0,
            "{enough} {least}"
        );
    }

    #[test]
    fn objectives_are_written_as_they_are_given() {
        for (percentile, ns, text) in [
            (99.9, 1_000_000, "p99.9=1ms"),
            (50.0, 250_000, "p50=250us"),
            (99.0, 2_000_000_000, "p99=2s"),
            (90.0, 1234, "p90=1234ns"),
        ] {
            let objective = Objective {
                percentile,
                latency_max_ns: ns,
            };
            assert_eq!(objective_text(objective), text);
        }
    }
}
