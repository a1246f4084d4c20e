//! Charts as SVG: static, readable without scripts, light and dark as the reader's system is.
//!
//! Knows: axes, lines, labels that stay clear of each other. Refuses to know: the page around them.
//!
//! ```text
//!   title
//!   latency              .--- corrected      lines carry their names at their ends:
//!   200 ms |            /     214 ms         there is no legend to look up
//!   100 ms |     ______/----- uncorrected
//!        0 |____/             8.47 ms
//!          0    90   99   99.9  percentile
//! ```
//!
//! Libraries were tried on the chart above. plotters 0.3 (its SVG backend alone, 5 crates) writes
//! colours into each element, so that one picture cannot be light and dark, knows whole pixels,
//! which shows as steps in a curve, cuts the last label of an axis off, and has a legend instead of
//! names at the lines' ends. poloto 19 (2 crates) has classes and themes, but no logarithmic axis,
//! and a legend. charming draws in the browser by a script, or with V8 in the program. What is
//! missing in each is what takes the lines here: labels that stay clear of each other, shaded
//! warm-ups, rates that were asked for, two widths.

use std::{fmt::Write as _, path::Path};

use hdrhistogram::Histogram;

use super::{
    OutputError,
    sheet::{Sheet, scenario_name},
    units,
};
use crate::result::{Run, Scenario, Slice};

/// The width and height of a chart, in CSS pixels.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Its width.
    pub width: f64,
    /// Its height.
    pub height: f64,
}

/// For a page on a desk.
pub const WIDE: Size = Size {
    width: 760.0,
    height: 320.0,
};

/// For a page on a telephone: letters stay as large as on the wide one.
pub const NARROW: Size = Size {
    width: 360.0,
    height: 270.0,
};

/// Groups of slices that a chart over time has at most.
const GROUPS_MAX: usize = 120;

/// A latency axis is logarithmic when the largest is so many times the smallest.
const LOG_RATIO: f64 = 25.0;

/// What every chart's elements look like. The colours are the page's, or [`COLOURS`].
pub const STYLE: &str = "\
.chart { font: 12px \"Segoe UI\", -apple-system, Roboto, \"Helvetica Neue\", Arial, sans-serif; \
font-variant-numeric: tabular-nums; }
.chart text { fill: var(--soft); }
.chart .title { fill: var(--ink); font-size: 14px; font-weight: 600; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart .base { stroke: var(--edge); stroke-width: 1; }
.chart .band { fill: var(--line); opacity: .6; }
.chart .asked { stroke: var(--edge); stroke-dasharray: 4 4; fill: none; }
.chart .line { fill: none; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
.chart .line.c2 { stroke-width: 1.1; }
.chart .lead { stroke-width: .75; opacity: .6; }
.chart .name { font-weight: 600; }
.chart .c0 { stroke: var(--c0); } .chart text.c0, .chart .dot.c0 { fill: var(--c0); stroke: none; }
.chart .c1 { stroke: var(--c1); } .chart text.c1, .chart .dot.c1 { fill: var(--c1); stroke: none; }
.chart .c2 { stroke: var(--c2); } .chart text.c2, .chart .dot.c2 { fill: var(--c2); stroke: none; }
.chart .open { fill: var(--card); stroke: var(--c1); stroke-width: 1.5; }
.chart .bound { fill: none; stroke: var(--edge); stroke-width: 1.5; }
.chart .bad, .chart text.bad { fill: var(--bad); }
.chart .tip { fill: transparent; }
.chart .tip:hover { fill: var(--line); opacity: .6; }
";

/// The colours, in light and in dark.
pub const COLOURS: [&str; 2] = [
    "--paper: #f7f6f3; --card: #fff; --ink: #1d2126; --soft: #5c646c; --line: #e4e2dc; \
     --edge: #8b8f91; --c0: #0b6b66; --c1: #b4540a; --c2: #6b5b95; --bad: #b3261e;",
    "--paper: #121516; --card: #191d1f; --ink: #e4e6e4; --soft: #9aa3a6; --line: #2b3134; \
     --edge: #687276; --c0: #63c7bc; --c1: #f0a860; --c2: #b3a4e0; --bad: #ff9a8f;",
];

/// Writes the percentile chart of a run as a file of its own.
///
/// # Errors
///
/// When the run has no latencies, or the file cannot be written.
pub fn write(run: &Run, path: &Path) -> Result<(), OutputError> {
    let Some(chart) = percentiles(run, WIDE) else {
        return Err(OutputError {
            path: path.to_owned(),
            what: format!("a run of {} has no latencies", scenario_name(run.scenario)),
        });
    };
    super::write_file(path, stand_alone(&chart, &Sheet::new(run)).as_bytes())
}

/// A chart with its own colours and ground, so that it can be seen on any page, and with what a
/// reader has to know of the run.
fn stand_alone(chart: &str, sheet: &Sheet) -> String {
    let [light, dark] = COLOURS;
    let Size { width, height } = WIDE;
    let load: Vec<&str> = sheet
        .facts
        .iter()
        .filter(|(name, _)| ["load", "messages"].contains(name))
        .map(|(_, fact)| fact.as_str())
        .collect();
    let head_end = chart.find('>').map_or(0, |at| at + 1);
    let (head, body) = chart.split_at(head_end);
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- {} -->\n{head}\n<style>\n\
         .chart {{ {light} }}\n\
         @media (prefers-color-scheme: dark) {{ .chart {{ {dark} }} }}\n{STYLE}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"var(--card)\"/>\n\
         <text x=\"{}\" y=\"22\" text-anchor=\"end\">{}</text>{body}",
        escape(&sheet.title).replace("--", "- -"),
        width - 16.0,
        escape(&load.join("; ")),
    )
}

/// Text for the inside of an element or attribute.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // No other control character may stand in XML, not even by number.
            '\n' | '\t' => escaped.push(character),
            _ if character.is_control() => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// Latency by percentile, corrected and uncorrected: both axes as HdrHistogram's plotter has them,
/// the horizontal one logarithmic in 1 / (1 - p).
#[must_use]
pub fn percentiles(run: &Run, size: Size) -> Option<String> {
    let latency = &run.latency;
    let mut histograms: Vec<(&str, &Histogram<u64>)> = vec![("corrected", &latency.corrected_ns)];
    if latency.has_schedule {
        histograms.push(("uncorrected", &latency.uncorrected_ns));
    } else {
        histograms[0].0 = "latency";
    }
    histograms.retain(|(_, histogram)| !histogram.is_empty());
    let count = histograms
        .iter()
        .map(|(_, histogram)| histogram.len())
        .max()?;
    let decades = (count as f64).log10().clamp(1.0, 9.0);
    let lines: Vec<Line> = histograms
        .iter()
        .enumerate()
        .map(|(index, (name, histogram))| Line {
            name: (*name).to_owned(),
            detail: format!("max {}", units::latency(histogram.max())),
            colour: index,
            points: percentile_points(histogram, decades),
        })
        .collect();
    let ticks = (0..=decades as usize)
        .map(|decade| {
            let label = match decade {
                0 => "0".to_owned(),
                _ => format!("{}", round(100.0 - 10_f64.powi(2 - decade as i32), 7)),
            };
            (decade as f64, label)
        })
        .collect();
    let x = Axis {
        scale: Scale::Linear(0.0, decades),
        ticks,
        name: "percentile".to_owned(),
    };
    let mut chart = Chart::new("Latency by percentile", size, x, latency_axis(&lines));
    chart.lines = lines;
    Some(chart.render())
}

fn percentile_points(histogram: &Histogram<u64>, decades: f64) -> Vec<(f64, f64)> {
    let steps = histogram.iter_quantiles(8).map(|step| {
        let above = 1.0 - step.quantile_iterated_to();
        // The last point lies at infinity; it is drawn where the run's messages end.
        let x = if above > 0.0 { -above.log10() } else { decades };
        (
            x.min(decades),
            step.value_iterated_to().min(histogram.max()) as f64,
        )
    });
    steps.collect()
}

/// Latency over time: median, 99th percentile and maximum of every slice.
#[must_use]
pub fn latency_over_time(run: &Run, size: Size) -> Option<String> {
    let groups = groups(run);
    let named = ["p50", "p99", "max"];
    let lines: Vec<Line> = named
        .iter()
        .enumerate()
        .map(|(colour, name)| {
            let points = groups.iter().map(|group| {
                let value = (!group.latency.is_empty()).then(|| match colour {
                    0 => group.latency.value_at_quantile(0.5),
                    1 => group.latency.value_at_quantile(0.99),
                    _ => group.latency.max(),
                });
                // No replies, no point: the line has a gap there.
                (
                    group.middle_s(),
                    value.map_or(f64::NAN, |value| value as f64),
                )
            });
            Line {
                name: (*name).to_owned(),
                detail: String::new(),
                colour,
                points: points.collect(),
            }
        })
        .collect();
    if lines[0].points.iter().all(|(_, value)| value.is_nan()) {
        return None;
    }
    let mut chart = Chart::new(
        "Latency over time",
        size,
        time_axis(run),
        latency_axis(&lines),
    );
    chart.lines = lines;
    chart.over_time(run, &groups, |group| {
        if group.latency.is_empty() {
            return "no replies".to_owned();
        }
        format!(
            "p50 {}, p99 {}, max {}",
            units::latency(group.latency.value_at_quantile(0.5)),
            units::latency(group.latency.value_at_quantile(0.99)),
            units::latency(group.latency.max()),
        )
    });
    Some(chart.render())
}

/// Rate over time, with the rate that was asked for, and where errors came.
#[must_use]
pub fn rate_over_time(run: &Run, size: Size) -> Option<String> {
    let groups = groups(run);
    // Connections that are held open do nothing, and opened before the first slice.
    if groups.len() < 2 || run.scenario == Scenario::Idle {
        return None;
    }
    // Nothing that comes back is counted.
    let is_ingest = matches!(run.scenario, Scenario::Ingest | Scenario::Replay);
    let rate = move |group: &Group| {
        let count = if is_ingest {
            group.sent
        } else {
            group.received
        };
        count as f64 / group.seconds()
    };
    // The one that the table has, whatever came between the ends of the slices.
    let counted = match is_ingest {
        true => run.messages.sent,
        false => run.messages.received,
    };
    let mean = counted as f64 / (run.times.measured_ms / 1e3);
    let name = match run.scenario {
        Scenario::Connect => "opened",
        Scenario::Ingest | Scenario::Replay => "sent",
        _ => "received",
    };
    let lines = vec![Line {
        name: name.to_owned(),
        detail: format!("mean {}", units::rate_short(mean)),
        colour: 0,
        points: groups
            .iter()
            .map(|group| (group.middle_s(), rate(group)))
            .collect(),
    }];
    let stages = stage_points(run);
    let asked = match stages.last() {
        Some((_, last)) => Some(*last),
        None => run.plan.rate_per_s,
    };
    let top = lines[0]
        .points
        .iter()
        .chain(&stages)
        .map(|point| point.1)
        .chain(asked)
        .fold(1.0, f64::max);
    let step = nice_step(top * 1.05, 5.0);
    let ticks = (0..=(top * 1.05 / step) as usize + 1)
        .map(|index| (index as f64 * step, tick_rate(index as f64 * step)))
        .collect();
    let y = Axis {
        scale: Scale::Linear(0.0, top * 1.08),
        ticks,
        name: "messages a second".to_owned(),
    };
    let mut chart = Chart::new("Rate over time", size, time_axis(run), y);
    if run.scenario == Scenario::Connect {
        chart.y.name = "handshakes a second".to_owned();
    }
    chart.lines = lines;
    chart.asked = asked.map(|rate| (rate, "asked".to_owned()));
    chart.asked_points = stages;
    chart.over_time(run, &groups, move |group| units::rate(rate(group)));
    Some(chart.render())
}

/// The corners of the rates that were asked for in stages, over time.
fn stage_points(run: &Run) -> Vec<(f64, f64)> {
    let mut at_ms = run.plan.warmup_ms;
    let mut points = Vec::new();
    for stage in &run.plan.stages {
        if points.is_empty() {
            points.push((0.0, stage.from_per_s));
        }
        points.push((at_ms as f64 / 1e3, stage.from_per_s));
        at_ms += stage.length_ms;
        points.push((at_ms as f64 / 1e3, stage.to_per_s));
    }
    points
}

/// What a search tried: latency at the objective's percentile against the rate.
#[must_use]
pub fn search(run: &Run, size: Size) -> Option<String> {
    let search = run.search.as_ref()?;
    // Where nothing came back there is no latency.
    let answered = search.points.iter();
    let mut points: Vec<_> = answered
        .filter(|point| point.received_per_s > 0.0)
        .collect();
    points.sort_by(|a, b| a.rate_per_s.total_cmp(&b.rate_per_s));
    let last = points.last()?;
    // One point for a rate, whatever was tried there once more: the median of its tries. Where the
    // generator was the bottleneck there is nothing of the server's to draw a line through.
    let of_server: Vec<_> = points.iter().filter(|point| !point.client_bound).collect();
    let medians = of_server
        .chunk_by(|one, other| one.rate_per_s == other.rate_per_s)
        .map(|tries| {
            let mut tried: Vec<u64> = tries.iter().map(|point| point.objective_ns).collect();
            tried.sort_unstable();
            (tries[0].rate_per_s, tried[tried.len() / 2] as f64)
        });
    let percentile = format!("p{}", search.objective.percentile);
    let line = Line {
        name: percentile.clone(),
        detail: String::new(),
        colour: 0,
        points: medians.collect(),
    };
    let top = last.rate_per_s * 1.05;
    let step = nice_step(top, if size.width < 500.0 { 3.0 } else { 6.0 });
    let ticks = (0..=(top / step) as usize)
        .map(|index| (index as f64 * step, tick_rate(index as f64 * step)))
        .collect();
    let x = Axis {
        scale: Scale::Linear(0.0, top),
        ticks,
        name: "messages a second".to_owned(),
    };
    let objective = search.objective.latency_max_ns as f64;
    let mut with_objective = vec![line];
    let on_line = with_objective[0].points.clone();
    let all = points.iter().map(|point| point.objective_ns as f64);
    let shown = all.chain([objective]).map(|latency| (top, latency));
    with_objective[0].points.extend(shown);
    let y = latency_axis(&with_objective);
    with_objective[0].points = on_line;
    let mut chart = Chart::new("Latency by rate", size, x, y);
    chart.lines = with_objective;
    chart.asked = Some((objective, "objective".to_owned()));
    chart.dots = points
        .iter()
        .map(|point| {
            let (kind, outcome) = match (point.client_bound, point.met) {
                (true, _) => (Dot::ClientBound, "the generator was the bottleneck"),
                (false, true) => (Dot::Met, "met"),
                (false, false) => (Dot::Missed, "missed"),
            };
            let tip = format!(
                "{}: {percentile} {}, {outcome}",
                units::rate(point.rate_per_s),
                units::latency(point.objective_ns)
            );
            (point.rate_per_s, point.objective_ns as f64, kind, tip)
        })
        .collect();
    chart.has_key = true;
    Some(chart.render())
}

/// Neighbouring slices that share a point of a chart.
struct Group {
    start_ms: f64,
    end_ms: f64,
    sent: u64,
    received: u64,
    errors: u64,
    latency: Histogram<u64>,
}

impl Group {
    fn middle_s(&self) -> f64 {
        f64::midpoint(self.start_ms, self.end_ms) / 1e3
    }

    fn seconds(&self) -> f64 {
        (self.end_ms - self.start_ms) / 1e3
    }
}

/// Partial slices are left out: what their length was is not known.
fn groups(run: &Run) -> Vec<Group> {
    let whole: Vec<&Slice> = run
        .slices
        .iter()
        .filter(|slice| !slice.is_partial)
        .collect();
    let size = whole.len().div_ceil(GROUPS_MAX).max(1);
    // A group never spans the end of the warm-up.
    whole
        .chunk_by(|a, b| a.is_warmup == b.is_warmup)
        .flat_map(|part| part.chunks(size))
        .map(|slices| {
            let mut latency = slices[0].latency_ns.clone();
            for slice in &slices[1..] {
                // They all have the same bounds, and one of other bounds would only be left out.
                let _ = latency.add(&slice.latency_ns);
            }
            let start_ms = slices[0].start_ms as f64;
            Group {
                start_ms,
                end_ms: start_ms + (run.times.slice_ms * slices.len() as u64) as f64,
                sent: slices.iter().map(|slice| slice.sent).sum(),
                received: slices.iter().map(|slice| slice.received).sum(),
                errors: slices.iter().map(|slice| slice.errors).sum(),
                latency,
            }
        })
        .collect()
}

fn time_axis(run: &Run) -> Axis {
    let end_ms = run
        .slices
        .iter()
        .filter(|slice| !slice.is_partial)
        .map(|slice| slice.start_ms);
    let end = (end_ms.max().unwrap_or(0) + run.times.slice_ms) as f64 / 1e3;
    let step = nice_step(end, 6.0);
    let ticks = (0..=(end / step + 1e-9) as usize)
        .map(|index| {
            let second = index as f64 * step;
            (second, format!("{}", round(second, 3)))
        })
        .collect();
    Axis {
        scale: Scale::Linear(0.0, end),
        ticks,
        name: "seconds".to_owned(),
    }
}

fn latency_axis(lines: &[Line]) -> Axis {
    let values = || {
        let points = lines.iter().flat_map(|line| &line.points);
        points.map(|point| point.1).filter(|value| !value.is_nan())
    };
    let top = values().fold(1.0, f64::max);
    let bottom = values().fold(top, f64::min).max(top / 1e9).max(1.0);
    let name = "latency".to_owned();
    if top / bottom < LOG_RATIO {
        let step = nice_step(top * 1.05, 5.0);
        let ticks = (0..=(top * 1.05 / step) as usize)
            .map(|index| {
                let value = index as f64 * step;
                (
                    value,
                    if index == 0 {
                        "0".to_owned()
                    } else {
                        tick_latency(value)
                    },
                )
            })
            .collect();
        return Axis {
            scale: Scale::Linear(0.0, top * 1.08),
            ticks,
            name,
        };
    }
    let decades = (top / bottom).log10();
    let marks: &[f64] = if decades > 2.5 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    let low = bottom / 1.25;
    let mut ticks = Vec::new();
    for decade in low.log10().floor() as i32..=top.log10().ceil() as i32 {
        for mark in marks {
            let value = mark * 10_f64.powi(decade);
            if value >= low && value <= top * 1.25 {
                ticks.push((value, tick_latency(value)));
            }
        }
    }
    Axis {
        scale: Scale::Log(low, top * 1.25),
        ticks,
        name: format!("{name}, log scale"),
    }
}

/// A round latency without digits that say nothing: `1 ms`, `2.5 ms`, `500 µs`.
fn tick_latency(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", round(value, 3))
}

/// A round rate, on an axis whose name says that it is one: `0`, `500`, `12.5 k`, `2 M`.
fn tick_rate(per_second: f64) -> String {
    match per_second {
        rate if rate < 1e3 => format!("{}", round(rate, 3)),
        rate if rate < 1e6 => format!("{} k", round(rate / 1e3, 3)),
        rate => format!("{} M", round(rate / 1e6, 3)),
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (value * factor).round() / factor
}

/// 1, 2 or 5 times a power of ten, so that about `wanted` steps reach `top`.
fn nice_step(top: f64, wanted: f64) -> f64 {
    let raw = (top / wanted).max(1e-9);
    let decade = 10_f64.powf(raw.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| raw <= factor * decade * 1.0001);
    factor.unwrap_or(10.0) * decade
}

enum Scale {
    Linear(f64, f64),
    Log(f64, f64),
}

impl Scale {
    /// Where a value lies, from 0 to 1 inside of the scale.
    fn at(&self, value: f64) -> f64 {
        match *self {
            Self::Linear(low, high) => (value - low) / (high - low).max(f64::MIN_POSITIVE),
            Self::Log(low, high) => (value.max(low) / low).ln() / (high / low).ln(),
        }
    }
}

struct Axis {
    scale: Scale,
    ticks: Vec<(f64, String)>,
    name: String,
}

struct Line {
    name: String,
    /// What stands below the name.
    detail: String,
    colour: usize,
    /// A value that is no number is a gap.
    points: Vec<(f64, f64)>,
}

struct Chart {
    title: &'static str,
    size: Size,
    x: Axis,
    y: Axis,
    lines: Vec<Line>,
    /// A level that was asked for, and its name.
    asked: Option<(f64, String)>,
    /// Its corners, where it is no level all the time.
    asked_points: Vec<(f64, f64)>,
    /// Shaded from 0 to here, and its name.
    band: Option<(f64, &'static str)>,
    /// Where errors came, and how many.
    errors: Vec<(f64, u64)>,
    /// Measured points: where, what they are, and what to say of them.
    dots: Vec<(f64, f64, Dot, String)>,
    /// Whether to say what the dots are.
    has_key: bool,
    /// Columns of the plot and what to say of them.
    tips: Vec<(f64, f64, String)>,
}

/// What a measured point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dot {
    ClientBound,
    Met,
    Missed,
}

impl Dot {
    /// The element, at this place of the picture.
    fn draw(self, x: f64, y: f64, inside: &str) -> String {
        match self {
            Self::ClientBound => format!(
                "<path class=\"bound\" d=\"M{:.1} {:.1}h7v7h-7z\">{inside}</path>",
                x - 3.5,
                y - 3.5
            ),
            Self::Met => circle("dot c0", x, y, inside),
            Self::Missed => circle("open", x, y, inside),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ClientBound => "client-bound",
            Self::Met => "met",
            Self::Missed => "missed",
        }
    }
}

fn circle(class: &str, x: f64, y: f64, inside: &str) -> String {
    format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\">{inside}</circle>")
}

/// Room around the plot.
const TOP: f64 = 52.0;
const RIGHT: f64 = 98.0;
const BOTTOM: f64 = 40.0;
const LEFT: f64 = 62.0;

/// The height of a line of text.
const TEXT: f64 = 14.0;

impl Chart {
    fn new(title: &'static str, size: Size, x: Axis, y: Axis) -> Self {
        Self {
            title,
            size,
            x,
            y,
            lines: Vec::new(),
            asked: None,
            asked_points: Vec::new(),
            band: None,
            errors: Vec::new(),
            dots: Vec::new(),
            has_key: false,
            tips: Vec::new(),
        }
    }

    fn over_time(&mut self, run: &Run, groups: &[Group], say: impl Fn(&Group) -> String) {
        if run.times.warmup_ms > 0 {
            self.band = Some((run.times.warmup_ms as f64 / 1e3, "warm-up"));
        }
        for group in groups {
            if group.errors > 0 {
                self.errors.push((group.middle_s(), group.errors));
            }
            // A finger has no use for columns that are two pixels wide.
            if self.size.width >= WIDE.width {
                let mut tip = format!("{} s: {}", round(group.start_ms / 1e3, 3), say(group));
                if group.errors > 0 {
                    tip.push_str(&format!(", {}", units::plural(group.errors, "error")));
                }
                self.tips
                    .push((group.start_ms / 1e3, group.end_ms / 1e3, tip));
            }
        }
    }

    fn x_at(&self, value: f64) -> f64 {
        let width = self.size.width - LEFT - RIGHT;
        LEFT + width * self.x.scale.at(value).clamp(0.0, 1.0)
    }

    fn y_at(&self, value: f64) -> f64 {
        let height = self.size.height - TOP - BOTTOM;
        TOP + height * (1.0 - self.y.scale.at(value).clamp(0.0, 1.0))
    }

    fn render(&self) -> String {
        let Size { width, height } = self.size;
        let mut svg = format!(
            "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" \
             viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
             aria-label=\"{}\">\n",
            self.description(),
        );
        self.frame(&mut svg);
        self.plot(&mut svg);
        self.names(&mut svg);
        // On top, so that the pointer finds them.
        for (start, end, tip) in &self.tips {
            let (left, right) = (self.x_at(*start), self.x_at(*end));
            let _ = writeln!(
                svg,
                "<rect class=\"tip\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{:.1}\" \
                 height=\"{}\"><title>{}</title></rect>",
                right - left,
                height - TOP - BOTTOM,
                escape(tip),
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// What somebody hears who cannot see the chart.
    fn description(&self) -> String {
        let lines = self.lines.iter().map(|line| {
            let detail = if line.detail.is_empty() {
                let last = line.points.iter().rev().find(|(_, value)| !value.is_nan());
                last.map_or_else(String::new, |(_, value)| {
                    format!("{} at the end", units::latency(*value as u64))
                })
            } else {
                line.detail.clone()
            };
            format!("{} {detail}", line.name)
        });
        let lines: Vec<String> = lines.collect();
        escape(&format!("{}: {}", self.title, lines.join("; ")))
    }

    fn frame(&self, svg: &mut String) {
        let Size { width, height } = self.size;
        let (right, bottom) = (width - RIGHT, height - BOTTOM);
        let _ = writeln!(
            svg,
            "<text class=\"title\" x=\"16\" y=\"22\">{}</text>",
            self.title
        );
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"start\">{}</text>",
            16,
            TOP - 12.0,
            escape(&self.y.name)
        );
        if let Some((end, name)) = self.band {
            let end = self.x_at(end);
            let _ = writeln!(
                svg,
                "<rect class=\"band\" x=\"{LEFT}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{}\"/>",
                end - LEFT,
                bottom - TOP,
            );
            // Below the plot, where no line crosses it.
            let _ = writeln!(
                svg,
                "<rect class=\"band\" x=\"{LEFT}\" y=\"{:.1}\" width=\"10\" height=\"10\"/>\
                 <text x=\"{}\" y=\"{:.1}\">{name}</text>",
                bottom + 24.0,
                LEFT + 15.0,
                bottom + 33.0,
            );
        }
        for (value, label) in &self.y.ticks {
            if !(0.0..=1.0).contains(&self.y.scale.at(*value)) {
                continue;
            }
            let y = self.y_at(*value);
            let class = if (y - bottom).abs() < 0.5 {
                "base"
            } else {
                "grid"
            };
            let _ = writeln!(
                svg,
                "<path class=\"{class}\" d=\"M{LEFT} {y:.1}H{right}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 8.0,
                y + 4.0,
                escape(label),
            );
        }
        let _ = writeln!(svg, "<path class=\"base\" d=\"M{LEFT} {bottom}H{right}\"/>");
        let mut free_from = f64::MIN;
        for (value, label) in &self.x.ticks {
            let x = self.x_at(*value);
            let half = label.chars().count() as f64 * 3.4;
            // A label that would touch the one before is left out; its tick stays.
            let _ = write!(svg, "<path class=\"base\" d=\"M{x:.1} {bottom}v4\"/>");
            if x - half > free_from {
                let _ = write!(
                    svg,
                    "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    bottom + 17.0,
                    escape(label)
                );
                free_from = x + half + 4.0;
            }
            svg.push('\n');
        }
        let _ = writeln!(
            svg,
            "<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            bottom + 33.0,
            escape(&self.x.name)
        );
    }

    fn plot(&self, svg: &mut String) {
        let (right, bottom) = (self.size.width - RIGHT, self.size.height - BOTTOM);
        if !self.asked_points.is_empty() {
            let corners = self.asked_points.iter();
            let path: Vec<String> = corners
                .map(|(x, y)| format!("{:.1} {:.1}", self.x_at(*x), self.y_at(*y)))
                .collect();
            let _ = writeln!(svg, "<path class=\"asked\" d=\"M{}\"/>", path.join("L"));
        } else if let Some((level, _)) = &self.asked {
            let y = self.y_at(*level);
            let _ = writeln!(svg, "<path class=\"asked\" d=\"M{LEFT} {y:.1}H{right}\"/>");
        }
        // The first line is the one that matters most, so it is drawn last.
        for line in self.lines.iter().rev() {
            let mut path = String::new();
            let mut is_down = false;
            for &(x, y) in &line.points {
                if y.is_nan() {
                    is_down = false;
                    continue;
                }
                let (x, y) = (self.x_at(x), self.y_at(y));
                // A point between two gaps is a line of no length, which its round ends make a dot.
                let _ = if is_down {
                    write!(path, "L{x:.1} {y:.1}")
                } else {
                    write!(path, "M{x:.1} {y:.1}h0")
                };
                is_down = true;
            }
            let _ = writeln!(svg, "<path class=\"line c{}\" d=\"{path}\"/>", line.colour);
        }
        for (x, y, kind, tip) in &self.dots {
            let tip = format!("<title>{}</title>", escape(tip));
            let _ = writeln!(svg, "{}", kind.draw(self.x_at(*x), self.y_at(*y), &tip));
        }
        if self.has_key {
            // Behind the name of the axis, above the plot.
            let mut x = 150.0;
            for kind in [Dot::Met, Dot::Missed, Dot::ClientBound] {
                if self.dots.iter().all(|(_, _, dot, _)| *dot != kind) {
                    continue;
                }
                let (name, y) = (kind.name(), TOP - 16.0);
                let dot = kind.draw(x, y, "");
                let _ = writeln!(
                    svg,
                    "{dot}<text x=\"{:.1}\" y=\"{:.1}\">{name}</text>",
                    x + 8.0,
                    y + 4.0
                );
                x += 22.0 + name.len() as f64 * 6.5;
            }
        }
        for (x, _) in &self.errors {
            let x = self.x_at(*x);
            let _ = writeln!(
                svg,
                "<path class=\"bad\" d=\"M{:.1} {bottom}h6l-3 -7z\"/>",
                x - 3.0
            );
        }
        if !self.errors.is_empty() {
            let count: u64 = self.errors.iter().map(|(_, count)| count).sum();
            // Behind the name of the band.
            let x = LEFT + if self.band.is_some() { 72.0 } else { 0.0 };
            let _ = writeln!(
                svg,
                "<text class=\"bad name\" x=\"{x}\" y=\"{:.1}\">{}</text>",
                bottom + 33.0,
                units::plural(count, "error"),
            );
        }
    }

    /// The names at the ends of the lines, pushed apart where they would overlap.
    fn names(&self, svg: &mut String) {
        struct Label {
            line_y: f64,
            y: f64,
            height: f64,
            class: String,
            name: String,
            detail: String,
        }
        let (right, bottom) = (self.size.width - RIGHT, self.size.height - BOTTOM);
        let mut labels: Vec<Label> = self
            .lines
            .iter()
            .filter_map(|line| {
                let (_, last) = line
                    .points
                    .iter()
                    .rev()
                    .find(|(_, value)| !value.is_nan())?;
                Some((line, self.y_at(*last)))
            })
            .map(|(line, y)| Label {
                line_y: y,
                y,
                height: if line.detail.is_empty() {
                    TEXT
                } else {
                    2.0 * TEXT
                },
                class: format!("c{}", line.colour),
                name: line.name.clone(),
                detail: line.detail.clone(),
            })
            .collect();
        if let Some((level, name)) = &self.asked {
            let y = self.y_at(*level);
            labels.push(Label {
                line_y: y,
                y,
                height: TEXT,
                class: "plain".to_owned(),
                name: name.clone(),
                detail: String::new(),
            });
        }
        labels.sort_by(|a, b| a.y.total_cmp(&b.y));
        // Downwards, then back up from the bottom edge.
        let mut free_from = TOP - TEXT;
        for label in &mut labels {
            label.y = label.y.max(free_from + TEXT / 2.0);
            free_from = label.y + label.height - TEXT / 2.0 + 1.0;
        }
        let mut free_to = bottom + TEXT / 2.0;
        for label in labels.iter_mut().rev() {
            label.y = label.y.min(free_to - label.height + TEXT / 2.0);
            free_to = label.y - TEXT / 2.0 - 1.0;
        }
        for label in &labels {
            let _ = writeln!(
                svg,
                "<path class=\"lead {}\" fill=\"none\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>\
                 <text class=\"name {}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                label.class,
                right + 2.0,
                label.line_y,
                right + 9.0,
                label.y,
                label.class,
                right + 12.0,
                label.y + 4.0,
                escape(&label.name),
            );
            if !label.detail.is_empty() {
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    right + 12.0,
                    label.y + 4.0 + TEXT,
                    escape(&label.detail)
                );
            }
        }
    }
}
