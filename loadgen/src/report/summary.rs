//! A run as the Markdown that GitHub shows below a job.
//!
//! Knows: which figures fit a glance, and Markdown's special characters. Refuses to know: where it
//! is put.

use std::fmt::Write as _;

use super::{sheet::Sheet, units};
use crate::result::{Run, Scenario};

/// The variable that names the file of a step's summary.
pub const VARIABLE: &str = "GITHUB_STEP_SUMMARY";

/// The summary of a run.
#[must_use]
pub fn render(run: &Run) -> String {
    let sheet = Sheet::new(run);
    let (word, reasons) = &sheet.verdict;
    let mut text = format!("### loadgen: {}\n\n**{word}**", plain(&sheet.title));
    for (index, reason) in reasons.iter().enumerate() {
        let before = if index == 0 { ": " } else { "  \n" };
        let _ = write!(text, "{before}{}", plain(reason));
    }
    text.push_str("\n\n");
    let figures = figures(run);
    if !figures.is_empty() {
        let (names, values): (Vec<String>, Vec<String>) = figures.into_iter().unzip();
        let _ = writeln!(text, "| {} |", names.join(" | "));
        let _ = writeln!(text, "|{}", " ---: |".repeat(names.len()));
        let _ = writeln!(text, "| {} |\n", values.join(" | "));
    }
    for bound in &run.fail_if {
        let word = if bound.failed { "**failed**" } else { "kept" };
        let _ = writeln!(text, "- {word}: {}", plain(&bound.sentence));
    }
    if !run.fail_if.is_empty() {
        text.push('\n');
    }
    for (name, fact) in &sheet.facts {
        let _ = writeln!(text, "- {name}: {}", plain(fact));
    }
    text.push('\n');
    text
}

/// A name and a value each.
fn figures(run: &Run) -> Vec<(String, String)> {
    let seconds = run.times.measured_ms / 1e3;
    let counted = match run.scenario {
        Scenario::Ingest | Scenario::Replay => run.messages.sent,
        _ => run.messages.received,
    };
    let mut figures = Vec::new();
    let mut figure = |name: &str, value: String| figures.push((name.to_owned(), value));
    if let Some(rate) = run.search.as_ref().and_then(|search| search.rate_per_s) {
        figure("best rate", units::rate(rate));
    }
    if run.scenario != Scenario::Idle {
        figure("rate", units::rate(counted as f64 / seconds));
    }
    let latency = &run.latency.corrected_ns;
    if !latency.is_empty() {
        for percentile in [50.0, 99.0, 99.9] {
            let value = latency.value_at_percentile(percentile);
            figure(&format!("p{percentile}"), units::latency(value));
        }
        figure("max", units::latency(latency.max()));
    }
    if let Some(server) = run.server.filter(|server| server.cpu_ns_per_message > 0.0) {
        let cpu_ns = server.cpu_ns_per_message as u64;
        figure("server's CPU a message", units::latency(cpu_ns));
    }
    let each = run
        .memory
        .and_then(|memory| memory.server_resident_per_connection_bytes);
    if let Some(bytes) = each {
        figure("server's memory a connection", units::bytes(bytes));
    }
    figures
}

/// Text that Markdown leaves as it is.
fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' | '\r' => shown.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' => {
                shown.push('\\');
                shown.push(letter);
            }
            '&' => shown.push_str("&amp;"),
            _ if letter.is_control() => {}
            _ => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let shown = plain("a|b <img src=x> `c` [d](e)\n# f & g_h_");
        assert_eq!(
            shown,
            "a\\|b \\<img src=x\\> \\`c\\` \\[d\\](e) \\# f &amp; g\\_h\\_"
        );
    }
}
