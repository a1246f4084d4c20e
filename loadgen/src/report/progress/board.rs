//! How a run is going, in a few lines with what the last half minute was like.
//!
//! Knows: what stands where, and how a row of bars is drawn. Refuses to know: terminals.
//!
//! ```text
//! measuring   7 s left            ████████████████████████░░░░░░░░░░░░
//! rate        183 k/s of 200 k/s  ▁▃▆▇▇▇▇█▇▇▇▇▇▇▇▇▇▇▇▇
//! p50         118 µs              ▂▂▂▂▃▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂
//! p99         240 µs              ▂▂▂▂█▂▂▂▂▂▂▂▂▂▂▂▂▂▂▂
//! errors      none
//! open        64 of 64
//! generator   34 % of a processor, in its busiest thread
//! ```

use std::collections::VecDeque;

use super::{phase, rate, time, units};
use crate::result::Progress;

/// Snapshots that are kept: half a minute of four a second.
const KEPT: usize = 120;

/// Where values and bars begin.
const VALUE_AT: usize = 12;
const BARS_AT: usize = 34;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// What was shown lately.
#[derive(Debug, Default)]
pub struct Board {
    rates: VecDeque<f64>,
    p50s: VecDeque<f64>,
    p99s: VecDeque<f64>,
}

impl Board {
    /// The lines after one more snapshot, of at most `columns` characters.
    pub fn lines(&mut self, progress: &Progress, columns: usize) -> Vec<String> {
        keep(&mut self.rates, Some(progress.rate_per_s));
        keep(&mut self.p50s, progress.p50_ns.map(|ns| ns as f64));
        keep(&mut self.p99s, progress.p99_ns.map(|ns| ns as f64));
        let room = columns.saturating_sub(BARS_AT);
        let latency = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), units::latency);
        let errors = match progress.errors {
            0 if progress.nothing_came => "nothing comes back".to_owned(),
            0 => "none".to_owned(),
            count => units::count(count),
        };
        let open = format!(
            "{} of {}",
            units::count(progress.connections_open),
            units::count(progress.connections_asked)
        );
        let busy = match progress.client_busy_share {
            Some(share) => format!(
                "{} of a processor, in its busiest thread",
                units::share(share)
            ),
            None => "-".to_owned(),
        };
        let mut lines = Vec::new();
        let mut line = |name: &str, value: &str, bars: String| {
            let wide = BARS_AT - VALUE_AT;
            let text = match bars.is_empty() {
                true => format!("{name:<VALUE_AT$}{value}"),
                false => format!("{name:<VALUE_AT$}{value:<wide$}{bars}"),
            };
            lines.push(text.chars().take(columns).collect::<String>());
        };
        let what = match &progress.note {
            Some(note) => format!("{} ({note})", phase(progress.phase)),
            None => phase(progress.phase).to_owned(),
        };
        let name = if what.chars().count() < VALUE_AT {
            &*what
        } else {
            ""
        };
        let value = match name.is_empty() {
            true => format!("{what}, {}", time(progress)),
            false => time(progress),
        };
        line(name, &value, done(progress, room));
        line("rate", &rate(progress), bars(&self.rates, room));
        line("p50", &latency(progress.p50_ns), bars(&self.p50s, room));
        line("p99", &latency(progress.p99_ns), bars(&self.p99s, room));
        line("errors", &errors, String::new());
        line("open", &open, String::new());
        line("generator", &busy, String::new());
        lines
    }
}

fn keep(values: &mut VecDeque<f64>, value: Option<f64>) {
    values.extend(value);
    while values.len() > KEPT {
        values.pop_front();
    }
}

/// A bar for each of the latest values, as high as they are beside the highest of those shown.
fn bars(values: &VecDeque<f64>, room: usize) -> String {
    let shown = || values.iter().skip(values.len().saturating_sub(room));
    let top = shown().copied().fold(0.0, f64::max);
    let bar = |value: &f64| match top > 0.0 {
        true => BARS[((value / top * 7.0).round() as usize).min(7)],
        false => BARS[0],
    };
    shown().map(bar).collect()
}

/// How much of the phase is over.
fn done(progress: &Progress, room: usize) -> String {
    let Some(remaining_ms) = progress.remaining_ms else {
        return String::new();
    };
    let whole = (progress.elapsed_ms + remaining_ms).max(1) as f64;
    let room = room.min(40);
    let full = (progress.elapsed_ms as f64 / whole * room as f64) as usize;
    "█".repeat(full) + &"░".repeat(room - full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Phase;

    fn progress(rate_per_s: f64) -> Progress {
        Progress {
            phase: Phase::Measuring,
            note: None,
            elapsed_ms: 5000,
            remaining_ms: Some(5000),
            connections_open: 64,
            connections_asked: 64,
            rate_per_s,
            rate_asked_per_s: None,
            payload_bytes_per_s: 0.0,
            p50_ns: Some(118_000),
            p99_ns: Some(240_000),
            errors: 0,
            nothing_came: false,
            client_busy_share: Some(0.34),
        }
    }

    #[test]
    fn a_board_has_what_is_and_what_was() {
        let mut board = Board::default();
        board.lines(&progress(0.0), 60);
        board.lines(&progress(50.0), 60);
        let lines = board.lines(&progress(100.0), 60);
        assert_eq!(
            lines,
            [
                "measuring   5 s left              █████████████░░░░░░░░░░░░░",
                "rate        100/s                 ▁▅█",
                "p50         118 µs                ███",
                "p99         240 µs                ███",
                "errors      none",
                "open        64 of 64",
                "generator   34 % of a processor, in its busiest thread",
            ]
        );
    }

    #[test]
    fn a_board_is_no_wider_than_its_window() {
        let mut board = Board::default();
        for columns in [0, 1, 20, 35, 200] {
            for _ in 0..KEPT + 5 {
                for line in board.lines(&progress(1e6), columns) {
                    assert!(line.chars().count() <= columns, "{line}");
                }
            }
        }
        assert_eq!(board.rates.len(), KEPT);
    }
}
