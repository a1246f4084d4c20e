//! The report as a text table, for a terminal of 80 columns.
//!
//! Knows: widths, alignment, where a sentence is folded. Refuses to know: where it is printed.
//!
//! comfy-table and tabled draw borders and fold cells; numbers below each other without either, in
//! a width that short tables share, take the thirty lines of `render_grid` here and as many to tell
//! one of those.

use super::sheet::{Grid, Sheet};
use crate::result::Run;

/// No line is longer, unless a single word is.
pub const COLUMNS: usize = 80;

/// The report, with a line feed at the end of every line.
#[must_use]
pub fn render(run: &Run) -> String {
    let sheet = Sheet::new(run);
    let mut text = String::new();
    fold(&mut text, "", &sheet.title);
    for (name, value) in &sheet.facts {
        fold(&mut text, &format!("  {name:<10}"), value);
    }
    if !sheet.alarms.is_empty() {
        text.push('\n');
        for (index, alarm) in sheet.alarms.iter().enumerate() {
            let head = if index == 0 { "!! " } else { "   " };
            fold(&mut text, head, alarm);
        }
    }
    for grid in &sheet.grids {
        text.push('\n');
        render_grid(&mut text, grid);
    }
    if !sheet.notes.is_empty() {
        text.push('\n');
        for note in &sheet.notes {
            fold(&mut text, "  ", note);
        }
    }
    text.push('\n');
    let (word, reasons) = &sheet.verdict;
    let word = if *word == "Sound" {
        (*word).to_owned()
    } else {
        word.to_uppercase()
    };
    for (index, reason) in reasons.iter().enumerate() {
        let head = if index == 0 {
            format!("{word}: ")
        } else {
            "  ".to_owned()
        };
        fold(&mut text, &head, reason);
    }
    if reasons.is_empty() {
        fold(&mut text, "", &word);
    }
    for (is_kept, sentence) in &sheet.bounds {
        fold(
            &mut text,
            if *is_kept { "kept: " } else { "FAILED: " },
            sentence,
        );
    }
    text
}

/// Names to the left, numbers to the right, and as much room between as there is.
fn render_grid(text: &mut String, grid: &Grid) {
    let columns = grid.heads.len();
    let width = |column: usize| {
        let cells = grid.rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([grid.heads[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let used: usize = widths.iter().sum();
    let gap = (COLUMNS.saturating_sub(2 + used) / columns.saturating_sub(1).max(1)).clamp(2, 4);
    // Short tables share the left edge of their first numbers.
    let first = widths[0].max(if used + gap * columns < 60 { 20 } else { 0 });
    let mut line = |cells: &[String]| {
        let mut line = format!("  {:<first$}", cells[0]);
        for (cell, width) in cells[1..].iter().zip(&widths[1..]) {
            line.push_str(&format!("{:gap$}{cell:>width$}", ""));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&grid.heads);
    grid.rows.iter().for_each(|row| line(row));
}

/// Words that stay on the line of the number before them.
const UNITS: [&str; 10] = ["%", "B", "GiB", "KiB", "MiB", "ms", "ns", "s", "min", "µs"];

/// Appends `head` and `sentence`, folded between words; lines after the first begin below the first
/// word.
pub(crate) fn fold(text: &mut String, head: &str, sentence: &str) {
    let mut words: Vec<String> = Vec::new();
    for word in sentence.split_whitespace() {
        let bare = word.trim_end_matches([',', ';', '.', ':', ')']);
        match words.last_mut() {
            Some(last) if UNITS.contains(&bare) && last.ends_with(|c: char| c.is_ascii_digit()) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => words.push(word.to_owned()),
        }
    }
    let indent = head.chars().count();
    let mut line = head.to_owned();
    let mut used = indent;
    for word in &words {
        let width = word.chars().count();
        if used > indent && used + 1 + width > COLUMNS {
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(indent);
            used = indent;
        }
        if used > indent {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += width;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_its_unit() {
        let mut text = String::new();
        let sentence = format!("{} max 7.75 ms, then", "x".repeat(COLUMNS - 8));
        fold(&mut text, "", &sentence);
        assert_eq!(text.lines().last(), Some("7.75 ms, then"), "{text}");
    }
}
