//! A server's figures on a screen.
//!
//! Knows: what stands where. Refuses to know: where figures come from, and which terminal it is.

use std::cmp::Ordering;

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row as TableRow, Table},
};

use super::figures::{Connection, Reading, Row};

/// What connections are looked at by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Held,
    Queued,
    Age,
}

impl By {
    const ALL: [Self; 3] = [Self::Held, Self::Queued, Self::Age];

    /// As the admin side calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Queued => "queued",
            Self::Age => "age",
        }
    }

    /// The one to the right, or to the left.
    pub fn next(self, steps: usize) -> Self {
        let at = Self::ALL.iter().position(|it| *it == self).unwrap_or(0);
        Self::ALL[(at + steps) % Self::ALL.len()]
    }

    fn of(self, connection: &Connection) -> f64 {
        match self {
            Self::Held => connection.held_bytes,
            Self::Queued => connection.queued_bytes,
            Self::Age => connection.age_seconds,
        }
    }
}

/// What is shown.
pub struct View<'v> {
    /// Whose figures these are.
    pub address: &'v str,
    /// The last of them.
    pub reading: &'v Reading,
    /// What they say since those before.
    pub rows: &'v [Row],
    /// The time of day, in seconds since 1970.
    pub now_seconds: f64,
    /// What the process has used of a processor.
    pub cpu: f64,
    /// Since when there is no answer, and why.
    pub trouble: Option<&'v str>,
    /// What connections are sorted by.
    pub by: By,
    /// The least come first.
    pub is_upward: bool,
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

impl View<'_> {
    /// Draws all of it.
    pub fn draw(&self, frame: &mut Frame<'_>) {
        let area = frame.area();
        // Half of the screen for shards at most; a heading stands above them, and all together.
        let shards = (self.rows.len() as u16 + 1).min((area.height / 2).max(3));
        let [head, shards, title, connections, keys] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(shards + 1),
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(self.head(), head);
        self.draw_shards(frame, shards);
        let open = self.reading.count("ringwire_connections_open", None);
        let shown = self.reading.connections.len();
        let of_all = format!(
            "Connections by {}, {shown} of {}",
            self.by.name(),
            number(open)
        );
        frame.render_widget(Paragraph::new(Span::styled(of_all, BOLD)), title);
        self.draw_connections(frame, connections);
        let words = "q ends   left, right: sort by another column   up, down: turn the order round";
        frame.render_widget(Paragraph::new(Span::styled(words, DIM)), keys);
    }

    fn head(&self) -> Paragraph<'_> {
        let reading = self.reading;
        let count = |name: &str| reading.count(name, None);
        let [version, engine, ring] = &reading.build;
        let uptime = self.now_seconds - count("process_start_time_seconds");
        let state = match (self.trouble, count("ringwire_ready") > 0.0) {
            (Some(why), _) => Span::styled(format!("no answer: {why}"), ALARM),
            (None, true) => Span::raw("ready"),
            (None, false) => Span::styled("stopping", ALARM),
        };
        let (held, limit) = (
            count("ringwire_memory_held_bytes"),
            count("ringwire_memory_limit_bytes"),
        );
        let first = Line::from(vec![
            Span::styled(format!("ringwire {version}"), BOLD),
            Span::raw(format!(
                " on {engine}, {ring}, at {}   up {}   ",
                self.address,
                time(uptime)
            )),
            state,
        ]);
        let second = format!(
            "processor {:.0} %   resident {}   held {} of {} ({:.0} %)   descriptors {} of {}",
            self.cpu * 100.0,
            bytes(count("process_resident_memory_bytes")),
            bytes(held),
            bytes(limit),
            100.0 * held / limit.max(1.0),
            number(count("process_open_fds")),
            number(count("process_max_fds")),
        );
        Paragraph::new(vec![first, Line::raw(second)])
    }

    fn draw_shards(&self, frame: &mut Frame<'_>, area: Rect) {
        let headings = [
            "shard",
            "open",
            "came/s",
            "opened/s",
            "refused/s",
            "in/s",
            "out/s",
            "in B/s",
            "out B/s",
            "busy",
            "turn p50",
            "p99",
            "held",
        ];
        let fits = usize::from(area.height.saturating_sub(2)).max(1);
        let hidden = self.rows.len().saturating_sub(fits);
        // Where not all fit, the last line says how many do not.
        let shown = if hidden > 0 { fits - 1 } else { fits };
        let mut lines: Vec<_> = self
            .rows
            .iter()
            .take(shown.max(1))
            .map(shard_line)
            .collect();
        if hidden > 0 && fits > 1 {
            let more = format!("+{}", self.rows.len() - shown);
            lines.push(TableRow::new([Cell::from(more)]).style(DIM));
        }
        let widths = [5, 7, 7, 8, 9, 7, 7, 9, 9, 5, 8, 8, 9].map(Constraint::Length);
        let table = Table::new(lines, widths)
            .column_spacing(1)
            .header(TableRow::new(headings.map(right)).style(BOLD));
        frame.render_widget(table, area);
    }

    fn draw_connections(&self, frame: &mut Frame<'_>, area: Rect) {
        let heading = |name: &str, by: By| {
            let sorted = match (self.by == by, self.is_upward) {
                (true, false) => format!("{name} v"),
                (true, true) => format!("{name} ^"),
                (false, _) => name.to_owned(),
            };
            right(sorted)
        };
        let headings = [
            Cell::from("id"),
            Cell::from("peer"),
            Cell::from("stage"),
            heading("held", By::Held),
            heading("queued", By::Queued),
            heading("age", By::Age),
            right("silent"),
        ];
        let mut connections: Vec<&Connection> = self.reading.connections.iter().collect();
        connections.sort_by(|a, b| {
            let order = self.by.of(b).partial_cmp(&self.by.of(a));
            let order = order.unwrap_or(Ordering::Equal);
            if self.is_upward {
                order.reverse()
            } else {
                order
            }
        });
        let lines = connections.into_iter().map(|it| {
            TableRow::new([
                Cell::from(it.id.clone()),
                Cell::from(it.peer.clone()),
                Cell::from(it.stage.clone()),
                right(bytes(it.held_bytes)),
                right(bytes(it.queued_bytes)),
                right(time(it.age_seconds)),
                right(time(it.silent_seconds)),
            ])
        });
        let widths = [
            Constraint::Length(14),
            Constraint::Min(16),
            Constraint::Length(14),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(10),
            Constraint::Length(10),
        ];
        let table = Table::new(lines, widths)
            .column_spacing(1)
            .header(TableRow::new(headings).style(BOLD));
        frame.render_widget(table, area);
    }
}

fn shard_line(row: &Row) -> TableRow<'static> {
    let name = match row.shard {
        None => "all".to_owned(),
        Some(shard) => shard.to_string(),
    };
    let [p50, p99] = match row.turn {
        None => ["-".to_owned(), "-".to_owned()],
        Some(turn) => turn.map(span),
    };
    let cells = [
        name,
        number(row.open),
        number(row.came),
        number(row.handshakes),
        number(row.refused),
        number(row.received),
        number(row.sent),
        bytes(row.received_bytes),
        bytes(row.sent_bytes),
        match (row.is_stalled, row.shard) {
            (true, Some(_)) => "STILL".to_owned(),
            _ => format!("{:.0} %", row.busy * 100.0),
        },
        p50,
        p99,
        bytes(row.held_bytes),
    ];
    let line = TableRow::new(cells.map(right));
    match row.is_stalled {
        true => line.style(ALARM),
        false => line,
    }
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Line::from(text.into()).alignment(Alignment::Right))
}

/// With as many digits as it takes to tell it from others, and a unit of a thousand.
fn scaled(value: f64, step: f64, units: &[&str]) -> String {
    let (mut value, mut at) = (value, 0);
    while value >= step * 0.9995 && at + 1 < units.len() {
        (value, at) = (value / step, at + 1);
    }
    let unit = units[at];
    match value {
        _ if at == 0 => format!("{value:.0}{unit}"),
        few if few < 9.995 => format!("{value:.2}{unit}"),
        some if some < 99.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

fn number(value: f64) -> String {
    scaled(value, 1000.0, &["", "k", "M", "G", "T"])
}

fn bytes(value: f64) -> String {
    scaled(value, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

/// A turn's length: the bound of a class.
fn span(seconds: f64) -> String {
    match seconds {
        long if long.is_infinite() => ">10 s".to_owned(),
        short if short < 1e-3 => format!("{} us", (short * 1e7).round() / 10.0),
        some if some < 1.0 => format!("{} ms", (some * 1e4).round() / 10.0),
        _ => format!("{seconds} s"),
    }
}

fn time(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{:.1} s", seconds.max(0.0)),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use std::{fmt::Write as _, fs, path::Path, time::Duration};

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    /// What a server of this many shards answers.
    fn reading(shards: usize, times: u64) -> Reading {
        let mut text = "ringwire_build_info{version=\"0.1.0\",engine=\"shard\",ring=\"uring\"} 1\n\
                        ringwire_ready 1\nprocess_start_time_seconds 1000\n\
                        process_resident_memory_bytes 73400320\nprocess_open_fds 20033\n\
                        process_max_fds 1048576\n"
            .to_owned();
        for shard in 0..shards as u64 {
            let mut put = |name: &str, value: u64| {
                writeln!(text, "ringwire_{name}{{shard=\"{shard}\"}} {value}").unwrap();
            };
            put("connections_open", 10_000 + shard);
            put("connections_total", 20_000 + times * 40 * (shard + 1));
            put("handshakes_total", 20_000 + times * 39);
            put("handshakes_refused_total", 7 + times);
            put("messages_received_total", times * 61_234 * (shard + 1));
            put("messages_sent_total", times * 1_512_345);
            put("payload_received_bytes_total", times * 7_654_321);
            put("payload_sent_bytes_total", times * 189_043_125);
            put("memory_held_bytes", 3_145_728 * (shard + 1));
            put("memory_limit_bytes", 1 << 30);
            put("shard_stalled", shard / 3);
            let sum = times as f64 * 0.21;
            writeln!(text, "ringwire_turn_seconds_sum{{shard=\"{shard}\"}} {sum}").unwrap();
            for (le, count) in [
                ("2.5e-05", 60),
                ("0.0005", 95),
                ("0.0025", 100),
                ("+Inf", 100),
            ] {
                let count = count * times;
                let line = format!("ringwire_turn_seconds_bucket{{shard=\"{shard}\",le=\"{le}\"}}");
                writeln!(text, "{line} {count}").unwrap();
            }
        }
        let connections = r#"{"connections_open": 2, "connections": [
            {"id": "0.17.3", "peer": "203.0.113.7:51234", "stage": "open", "age_seconds": 4000.5,
             "silent_seconds": 0.25, "held_bytes": 1048576, "queued_bytes": 1000},
            {"id": "1.4.1", "peer": "[2001:db8::17]:443", "stage": "closing", "age_seconds": 12.5,
             "silent_seconds": 61, "held_bytes": 300, "queued_bytes": 262144}]}"#;
        Reading::of(&text, connections).unwrap()
    }

    fn drawn(width: u16, height: u16, shards: usize, by: By, trouble: Option<&str>) -> String {
        let (before, after) = (reading(shards, 1), reading(shards, 2));
        let rows = after.rows_since(&before, Duration::from_millis(500));
        let view = View {
            address: "127.0.0.1:9002",
            reading: &after,
            rows: &rows,
            now_seconds: 12_345.0,
            cpu: 0.43,
            trouble,
            by,
            is_upward: false,
        };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines = buffer.content().chunks(usize::from(width)).map(|cells| {
            let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
            line.trim_end().to_owned()
        });
        lines.collect::<Vec<_>>().join("\n") + "\n"
    }

    /// Word for word as in the files beside the tests; `RINGWIRE_GOLDEN=write` writes them anew.
    #[test]
    fn it_looks_as_it_did() {
        for (name, picture) in [
            ("wide", drawn(114, 18, 4, By::Held, None)),
            (
                "many-shards",
                drawn(114, 14, 64, By::Queued, Some("refused")),
            ),
        ] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/top/{name}.txt"));
            if std::env::var_os("RINGWIRE_GOLDEN").is_some_and(|it| it == "write") {
                fs::write(&path, &picture).unwrap();
            }
            let expected = fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(picture, expected, "\n{picture}");
        }
    }

    #[test]
    fn no_screen_is_too_small() {
        for (width, height) in [(1, 1), (5, 3), (40, 8), (80, 24), (300, 100)] {
            for shards in [0, 1, 1000] {
                drawn(width, height, shards, By::Age, None);
            }
        }
    }

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(999.0), "999");
        assert_eq!(number(1234.0), "1.23k");
        assert_eq!(number(999_990.0), "1.00M");
        assert_eq!(bytes(1536.0), "1.50 KiB");
        assert_eq!(
            [span(2.5e-5), span(0.0025), span(f64::INFINITY)],
            ["25 us", "2.5 ms", ">10 s"]
        );
        assert_eq!(
            [time(59.9), time(61.0), time(90_000.0)],
            ["59.9 s", "1m01s", "1d01h"]
        );
    }
}
