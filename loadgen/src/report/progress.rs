//! How a run is going, while it goes: one line that rewrites itself, a line a second, or with
//! `--live` a board.
//!
//! Knows: what matters most where there is little room. Refuses to know: how a run is made.
//!
//! ```text
//! measuring  7 s left  183 k/s  p50 118 µs  p99 240 µs  no errors  64 of 64 open
//! measuring  7 s left  183 k/s  3 errors                    40 columns
//! ```

use std::io::{self, IsTerminal, Write};

use super::units;
use crate::result::{Phase, Progress};

mod board;

use board::Board;

/// Where progress goes, and in which shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Several lines, rewritten in place.
    Board,
    /// Nowhere.
    Quiet,
    /// A line when a phase begins, and one each second.
    Lines,
    /// One line, rewritten in place.
    Rewritten,
}

/// Shows progress on a stream.
#[derive(Debug)]
pub struct Live<W: Write> {
    stream: W,
    style: Style,
    columns: fn() -> Option<usize>,
    /// The phase and its second of the last plain line.
    last: Option<(Phase, u64)>,
    board: Board,
    /// Lines that are to be rewritten.
    dirty: usize,
}

impl Live<io::Stderr> {
    /// On standard error: standard output is for results.
    #[must_use]
    pub fn on_stderr(is_quiet: bool, is_live: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        let style = match io::stderr().is_terminal() && !is_dumb {
            _ if is_quiet => Style::Quiet,
            true if is_live => Style::Board,
            true => Style::Rewritten,
            false => Style::Lines,
        };
        Self::new(io::stderr(), style, || {
            let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
            Some(usize::from(size.ws_col)).filter(|&columns| columns > 0)
        })
    }
}

impl<W: Write> Live<W> {
    /// On any stream; `columns` is asked before every line, because a window can be resized.
    pub fn new(stream: W, style: Style, columns: fn() -> Option<usize>) -> Self {
        Self {
            stream,
            style,
            columns,
            last: None,
            board: Board::default(),
            dirty: 0,
        }
    }

    /// Shows a snapshot. That the stream cannot be written is no reason to end a run.
    pub fn show(&mut self, progress: &Progress) {
        match self.style {
            Style::Quiet => {}
            Style::Lines => {
                let now = (progress.phase, progress.elapsed_ms / 1000);
                if self.last != Some(now) {
                    self.last = Some(now);
                    let _ = writeln!(self.stream, "{}", line(progress, usize::MAX));
                }
            }
            Style::Rewritten => {
                // A full last column makes some terminals wrap.
                let columns = (self.columns)().unwrap_or(80).saturating_sub(1);
                let _ = write!(self.stream, "\r\x1b[K{}", line(progress, columns));
                let _ = self.stream.flush();
                self.dirty = 1;
            }
            Style::Board => {
                let columns = (self.columns)().unwrap_or(80).saturating_sub(1);
                let lines = self.board.lines(progress, columns);
                // In one write, so that nobody sees half of it.
                let mut text = self.back();
                text.push_str(&lines.join("\n"));
                self.dirty = lines.len();
                let _ = self.stream.write_all(text.as_bytes());
                let _ = self.stream.flush();
            }
        }
    }

    /// Clears the rewritten line, so that what is printed next begins on a clean one.
    pub fn clear(&mut self) {
        if self.dirty > 0 {
            let back = self.back();
            let _ = self.stream.write_all(back.as_bytes());
            let _ = self.stream.flush();
            self.dirty = 0;
        }
    }

    /// Back to the beginning of what was written, which is gone then.
    fn back(&self) -> String {
        match self.dirty {
            0 | 1 => "\r\x1b[K".to_owned(),
            lines => format!("\r\x1b[{}A\x1b[J", lines - 1),
        }
    }
}

impl<W: Write> Drop for Live<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// One line of at most `columns` characters. Of what there is to say, the most important comes
/// first and whole fields are left out, never half of one.
#[must_use]
pub fn line(progress: &Progress, columns: usize) -> String {
    let (phase, time) = (phase(progress.phase), time(progress));
    let errors = match progress.errors {
        0 if progress.nothing_came => "nothing comes back".to_owned(),
        0 => "no errors".to_owned(),
        count => units::plural(count, "error"),
    };
    let opened = format!(
        "{} of {} open",
        units::count(progress.connections_open),
        units::count(progress.connections_asked)
    );
    let rate = rate(progress);
    let latency =
        |name: &str, ns: Option<u64>| ns.map(|ns| format!("{name} {}", units::latency(ns)));
    let payload = (progress.payload_bytes_per_s > 0.0)
        .then(|| format!("{}/s", units::bytes(progress.payload_bytes_per_s)));
    let is_alarming = progress.errors > 0 || progress.nothing_came;
    let is_connecting = progress.phase == Phase::Connecting;
    // In the order of the line, with how important each is.
    let fields = [
        (Some(phase.to_owned()), 0),
        (progress.note.clone(), 5),
        (Some(time), 1),
        (is_connecting.then(|| opened.clone()), 2),
        (Some(rate), 3),
        (latency("p50", progress.p50_ns), 5),
        (latency("p99", progress.p99_ns), 4),
        (Some(errors), if is_alarming { 0 } else { 6 }),
        (payload, 8),
        ((!is_connecting).then_some(opened), 7),
    ];
    let mut shown: Vec<(String, u8)> = fields
        .into_iter()
        .filter_map(|(field, importance)| Some((field?, importance)))
        .collect();
    loop {
        let line: Vec<&str> = shown.iter().map(|(field, _)| field.as_str()).collect();
        let line = line.join("  ");
        if line.chars().count() <= columns {
            return line;
        }
        let least = (1..shown.len()).max_by_key(|&index| shown[index].1);
        match least {
            Some(index) => drop(shown.remove(index)),
            None => return line.chars().take(columns).collect(),
        }
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Connecting => "connecting",
        Phase::Waiting => "waiting for the start",
        Phase::WarmUp => "warming up",
        Phase::Measuring => "measuring",
        Phase::Draining => "draining",
    }
}

fn time(progress: &Progress) -> String {
    match progress.remaining_ms {
        Some(remaining) => format!("{} left", seconds(remaining.div_ceil(1000))),
        None => seconds(progress.elapsed_ms / 1000),
    }
}

fn rate(progress: &Progress) -> String {
    match progress.rate_asked_per_s {
        Some(asked) => format!(
            "{} of {}",
            units::rate_short(progress.rate_per_s)
                .trim_end_matches("/s")
                .trim_end(),
            units::rate_short(asked)
        ),
        None => units::rate_short(progress.rate_per_s),
    }
}

fn seconds(seconds: u64) -> String {
    if seconds < 100 {
        format!("{seconds} s")
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}
