//! The report as one page: no file beside it, no script, readable from a disk without a network.
//!
//! Knows: the page's parts and how text becomes HTML. Refuses to know: which figures there are.
//!
//! The page forbids itself everything but its own styles by a Content-Security-Policy, so that it
//! can also be served under one. What comes from outside (URL, server's name, command line) is
//! escaped where it is put in.

use std::{fmt::Write as _, path::Path};

use super::{
    OutputError,
    sheet::{Grid, Sheet},
    svg::{self, COLOURS, NARROW, STYLE, Size, WIDE, escape},
};
use crate::result::Run;

const PAGE: &str = include_str!("page.html");

/// Writes the page.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(run: &Run, path: &Path) -> Result<(), OutputError> {
    super::write_file(path, render(run).as_bytes())
}

/// The page.
#[must_use]
pub fn render(run: &Run) -> String {
    let sheet = Sheet::new(run);
    let parts = [
        ("title", escape(&sheet.title)),
        ("light", COLOURS[0].to_owned()),
        ("dark", COLOURS[1].to_owned()),
        ("chart_style", STYLE.to_owned()),
        ("verdict", verdict(&sheet)),
        ("alarms", alarms(&sheet)),
        ("charts", charts(run)),
        ("grids", sheet.grids.iter().map(grid).collect()),
        ("notes", notes(&sheet)),
        ("facts", list(&sheet.facts)),
        ("environment", list(&sheet.environment)),
        ("version", escape(&run.environment.loadgen_version)),
    ];
    fill(PAGE, &parts)
}

/// Puts the parts where the page names them, in one pass: a part that holds a name in braces stays
/// as it is.
fn fill(page: &str, parts: &[(&str, String)]) -> String {
    let mut filled = String::with_capacity(page.len() * 4);
    let mut rest = page;
    while let Some(open) = rest.find('{') {
        let (before, from) = rest.split_at(open);
        filled.push_str(before);
        let named = parts.iter().find(|(name, _)| {
            from[1..].starts_with(name) && from[1 + name.len()..].starts_with('}')
        });
        match named {
            Some((name, value)) => {
                filled.push_str(value);
                rest = &from[name.len() + 2..];
            }
            None => {
                filled.push('{');
                rest = &from[1..];
            }
        }
    }
    filled.push_str(rest);
    filled
}

fn verdict(sheet: &Sheet) -> String {
    let (word, reasons) = &sheet.verdict;
    let class = if *word == "Sound" {
        "verdict"
    } else {
        "verdict bad"
    };
    let lines = reasons.iter().enumerate().map(|(index, reason)| {
        let head = match index {
            0 => format!("<b>{word}:</b> "),
            _ => String::new(),
        };
        format!("<p>{head}{}</p>\n", escape(reason))
    });
    let mut html = format!(
        "<div class=\"{class}\">\n{}</div>\n",
        lines.collect::<String>()
    );
    for (is_kept, sentence) in &sheet.bounds {
        let (class, word) = match is_kept {
            true => ("verdict", "Kept"),
            false => ("verdict bad", "Failed"),
        };
        let _ = writeln!(
            html,
            "<div class=\"{class}\"><p><b>{word}:</b> {}</p></div>",
            escape(sentence)
        );
    }
    html
}

fn alarms(sheet: &Sheet) -> String {
    if sheet.alarms.is_empty() {
        return String::new();
    }
    let lines: String = sheet
        .alarms
        .iter()
        .map(|alarm| format!("<p>{}</p>\n", escape(alarm)))
        .collect();
    format!("<div class=\"alarms\">\n{lines}</div>\n")
}

fn charts(run: &Run) -> String {
    let kinds: [fn(&Run, Size) -> Option<String>; 4] = [
        svg::search,
        svg::percentiles,
        svg::latency_over_time,
        svg::rate_over_time,
    ];
    let mut charts = String::new();
    for chart in kinds {
        if let (Some(wide), Some(narrow)) = (chart(run, WIDE), chart(run, NARROW)) {
            let wide = wide.replacen("class=\"chart\"", "class=\"chart wide\"", 1);
            let narrow = narrow.replacen("class=\"chart\"", "class=\"chart narrow\"", 1);
            let _ = write!(charts, "<figure>\n{wide}{narrow}</figure>\n");
        }
    }
    charts
}

/// A figure that keeps its unit on its line where a column is narrow.
fn unbroken(cell: &str) -> String {
    match cell.split_once(' ') {
        Some((number, unit)) if number.ends_with(|last: char| last.is_ascii_digit()) => {
            format!("{number}\u{a0}{unit}")
        }
        _ => cell.to_owned(),
    }
}

fn grid(grid: &Grid) -> String {
    let cells = |cells: &[String], tag: &str| -> String {
        cells
            .iter()
            .map(|cell| format!("<{tag}>{}</{tag}>", escape(&unbroken(cell))))
            .collect()
    };
    let mut html = format!(
        "<div class=\"scroll\"><table{}>\n<thead><tr>{}</tr></thead>\n<tbody>\n",
        if grid.heads.len() > 6 {
            " class=\"many\""
        } else {
            ""
        },
        cells(&grid.heads, "th")
    );
    for row in &grid.rows {
        let _ = writeln!(
            html,
            "<tr><th>{}</th>{}</tr>",
            escape(&unbroken(&row[0])),
            cells(&row[1..], "td")
        );
    }
    html.push_str("</tbody>\n</table></div>\n");
    html
}

fn notes(sheet: &Sheet) -> String {
    if sheet.notes.is_empty() {
        return String::new();
    }
    let notes: String = sheet
        .notes
        .iter()
        .map(|note| format!("<p>{}</p>\n", escape(note)))
        .collect();
    format!("<div class=\"notes\">\n{notes}</div>\n")
}

fn list(pairs: &[(&str, String)]) -> String {
    let items = pairs.iter().map(|(name, value)| {
        let value = escape(value);
        let value = if *name == "command" {
            format!("<code>{value}</code>")
        } else {
            value
        };
        format!("<dt>{name}</dt><dd>{value}</dd>\n")
    });
    items.collect()
}
