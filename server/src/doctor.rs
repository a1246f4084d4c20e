//! `ringwire doctor`: whether this host can run the server, and what to change where it cannot.
//!
//! Knows: how findings are judged, put into words and laid out. Refuses to know: how they are found
//! (`ring::probe`).
//!
//! Only what stops the server makes a row *missing* and the exit code 1; without io_uring it runs
//! on epoll. A row that is *limited* says what the server will run into, and how to lift it.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use serde_json::json;

use ringwire::{
    RingKind,
    probe::{
        DESCRIPTORS, EPOLL_COST, Environment, FLOOR, Feature, Limit, MEMLOCK, PLAIN_FLOOR, Probe,
        TOKIO_COST, Unavailable, wrap,
    },
};

/// Fewer descriptors than this are worth a word: ten thousand connections, and some for ourselves.
const DESCRIPTORS_AIM: u64 = 10_240;

/// The kernel's own default since Linux 5.4 (`listen(2)`).
const SOMAXCONN_AIM: u64 = 4096;

/// What the kernel chooses on a machine with some memory (`tcp(7)`).
const SYN_BACKLOG_AIM: u64 = 1024;

/// The kernel's own default range has more.
const LOCAL_PORTS_AIM: u32 = 10_000;

/// Where a row's meaning begins, and where every line ends.
const MEANING_COLUMN: usize = 31;
const COLUMNS: usize = 80;

/// What is left for a remedy, which is indented by four.
const REMEDY_COLUMNS: usize = COLUMNS - 4;

/// Options of `ringwire doctor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    pub json: bool,
}

/// Tries the host out and writes the findings to `out`. The exit code is 0 when the server can run
/// and 1 when it cannot.
///
/// States are coloured when standard output is a terminal and `NO_COLOR` is not set.
///
/// # Errors
///
/// When writing fails.
pub fn run(args: &Args, out: &mut dyn Write) -> io::Result<ExitCode> {
    let report = Report::new(&Probe::run());
    if args.json {
        writeln!(out, "{:#}", report.to_json())?;
    } else {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
        report.write(out, io::stdout().is_terminal() && !no_color)?;
    }
    out.flush()?;
    Ok(if report.ring.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// The server runs, with less than it could have.
    Limited,
    /// The server cannot run.
    Missing,
    /// Could not be read.
    Unknown,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }

    /// Its colour, as an ANSI escape sequence.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Limited | Self::Unknown => "\x1b[33m",
            Self::Missing => "\x1b[31m",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    group: &'static str,
    name: &'static str,
    state: State,
    meaning: String,
    /// What to do, for a row that is not ok: lines of at most 76 columns.
    remedy: Option<String>,
}

struct Report {
    release: String,
    rows: Vec<Row>,
    /// What shards will run on, if they can run at all.
    ring: Option<RingKind>,
    /// Why that is not io_uring.
    unavailable: Option<Unavailable>,
    /// The async engine can run, whether shards can or not.
    runs_async: bool,
}

impl Report {
    fn new(probe: &Probe) -> Self {
        let unavailable = probe.verdict().err();
        let mut rows = Rows {
            group: "kernel",
            rows: Vec::new(),
        };
        kernel(&mut rows, probe);
        rows.group = "io_uring";
        io_uring(&mut rows, probe, unavailable.as_ref());
        rows.group = "engines";
        engines(&mut rows, probe, unavailable.as_ref());
        rows.group = "limits";
        limits(&mut rows, probe);
        rows.group = "network";
        network(&mut rows, &probe.environment);
        Self {
            release: probe.confinement.release.clone(),
            rows: rows.rows,
            ring: match &unavailable {
                None => Some(RingKind::Uring),
                Some(_) => probe.epoll_verdict().is_ok().then_some(RingKind::Epoll),
            },
            unavailable,
            runs_async: cfg!(feature = "aio") && probe.async_verdict().is_ok(),
        }
    }

    fn conclusion(&self) -> String {
        let Some(ring) = self.ring else {
            let other = if self.runs_async {
                " It can run ringwire serve --engine async."
            } else {
                ""
            };
            return format!("This host cannot run ringwire's shards.{other}");
        };
        let mut words = "This host can run ringwire".to_owned();
        if let (RingKind::Epoll, Some(unavailable)) = (ring, &self.unavailable) {
            words += &format!(" on epoll, but not on io_uring: {}", unavailable.what());
        }
        let limited = self
            .rows
            .iter()
            .filter(|row| row.state == State::Limited)
            .count();
        words += match limited {
            0 => ".",
            1 => ". One row above is limited.",
            _ => return format!("{words}. {limited} rows above are limited."),
        };
        words
    }

    fn write(&self, out: &mut dyn Write, colours: bool) -> io::Result<()> {
        let (bold, plain) = if colours {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        let mut group = "";
        for row in &self.rows {
            if row.group != group {
                let gap = if group.is_empty() { "" } else { "\n" };
                group = row.group;
                writeln!(out, "{gap}{bold}{group}{plain}")?;
            }
            let colour = if colours { row.state.colour() } else { "" };
            let meaning = wrap(&row.meaning, COLUMNS - MEANING_COLUMN);
            let meaning = meaning.replace('\n', &format!("\n{:MEANING_COLUMN$}", ""));
            writeln!(
                out,
                "  {:<20} {colour}{:<7}{plain} {meaning}",
                row.name,
                row.state.name()
            )?;
            for line in row.remedy.iter().flat_map(|remedy| remedy.lines()) {
                writeln!(out, "    {line}")?;
            }
        }
        writeln!(out, "\n{bold}{}{plain}", wrap(&self.conclusion(), COLUMNS))
    }

    fn to_json(&self) -> serde_json::Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "group": row.group,
                    "name": row.name,
                    "state": row.state.name(),
                    "meaning": row.meaning,
                    "remedy": row.remedy,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": self.release,
            "rows": rows,
            "can_run": self.ring.is_some(),
            "ring": self.ring.map(RingKind::name),
            "can_run_tokio_uring": self.runs_async,
            "unavailable": self.unavailable.as_ref().map(ToString::to_string),
            "conclusion": self.conclusion(),
        })
    }
}

/// Rows as they are found.
struct Rows {
    group: &'static str,
    rows: Vec<Row>,
}

impl Rows {
    fn add(&mut self, name: &'static str, state: State, meaning: impl Into<String>) {
        let row = Row {
            group: self.group,
            name,
            state,
            meaning: meaning.into(),
            remedy: None,
        };
        self.rows.push(row);
    }

    /// Adds a row that is not ok.
    fn add_with(
        &mut self,
        name: &'static str,
        state: State,
        meaning: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(name, state, meaning);
        if let Some(row) = self.rows.last_mut() {
            row.remedy = Some(remedy.into());
        }
    }

    /// Adds a setting of the kernel that should be at least `aim`.
    fn add_setting(&mut self, setting: &Setting, value: Option<u64>) {
        let Setting {
            name,
            key,
            aim,
            meaning,
        } = *setting;
        match value {
            None => self.add_with(
                name,
                State::Unknown,
                format!("{key} cannot be read here"),
                format!("Look at it on the host:\n  sysctl {key}"),
            ),
            Some(value) if value < aim => {
                let meaning = format!("{} {meaning}", count(value));
                self.add_with(name, State::Limited, meaning, set(key, &aim.to_string()));
            }
            Some(value) => self.add(name, State::Ok, format!("{} {meaning}", count(value))),
        }
    }
}

/// A setting of the kernel that can be too low.
#[derive(Clone, Copy)]
struct Setting {
    name: &'static str,
    key: &'static str,
    aim: u64,
    /// What the number counts.
    meaning: &'static str,
}

/// How a setting of the kernel is changed, now and after a restart.
fn set(key: &str, value: &str) -> String {
    let mut text = format!(
        "sudo sysctl -w {key}=\"{value}\"\n\
         To keep it over a restart, in /etc/sysctl.d/99-ringwire.conf:\n  {key} = {value}"
    );
    if key.starts_with("net.") {
        // The others belong to the host, and a container cannot have its own.
        text.push_str("\nFor a container of its own network:\n");
        text.push_str(&format!("  docker run --sysctl {key}=\"{value}\" ..."));
    }
    text
}

/// A number, or that it is too large to mean anything.
fn count(number: u64) -> String {
    if number >= 1 << 40 {
        "(no limit)".to_owned()
    } else {
        number.to_string()
    }
}

fn count_limit(limit: Option<u64>) -> String {
    limit.map_or_else(|| "(no limit)".to_owned(), count)
}

fn kernel(rows: &mut Rows, probe: &Probe) {
    let release = &probe.confinement.release;
    let upgrade = format!("Upgrade the kernel to Linux {FLOOR} or newer.");
    match probe.version() {
        Some(version) if version >= FLOOR => {
            rows.add(
                "Linux",
                State::Ok,
                format!("{release}; {FLOOR} or newer is needed for io_uring"),
            );
        }
        Some(_) if probe.verdict().is_ok() => {
            let meaning = format!("{release}: older than {FLOOR}, but all that is needed is there");
            rows.add_with("Linux", State::Limited, meaning, upgrade);
        }
        Some(_) => {
            let meaning = format!("{release}: {FLOOR} or newer is needed for io_uring");
            rows.add_with("Linux", without(probe), meaning, upgrade);
        }
        None => {
            let meaning = format!("'{release}' does not begin with a version");
            rows.add_with("Linux", State::Unknown, meaning, "The rows below decide.");
        }
    }
    let Environment {
        cpus,
        cpus_by_quota,
        ..
    } = probe.environment;
    if cpus_by_quota < cpus {
        rows.add_with(
            "CPUs",
            State::Limited,
            format!("{cpus}, of which a quota grants the time of {cpus_by_quota}"),
            "ringwire starts so many shards, and lets them move: more would stop together\n\
             when the quota is used up. To raise it:\n\
             \x20 docker run --cpus=N ...\n\
             \x20 Kubernetes: resources.limits.cpu\n\
             \x20 systemd: CPUQuota=",
        );
    } else {
        rows.add("CPUs", State::Ok, format!("{cpus} for this process"));
    }
}

fn io_uring(rows: &mut Rows, probe: &Probe, unavailable: Option<&Unavailable>) {
    if let Some(unavailable) = unavailable
        && probe.features.is_empty()
    {
        let why = wrap(&format!("Why: {}", unavailable.why()), REMEDY_COLUMNS);
        let remedy = format!("{why}\nWhat to do:\n{}", unavailable.remedy());
        rows.add_with("io_uring", without(probe), unavailable.what(), remedy);
        return;
    }
    rows.add("io_uring", State::Ok, "a ring was set up and used");
    rows.add(
        "io_uring_disabled",
        State::Ok,
        match (
            probe.confinement.io_uring_disabled,
            probe.confinement.io_uring_group,
        ) {
            (None, _) => "this kernel has no such setting".to_owned(),
            (Some(0), _) => "0: every process may use io_uring".to_owned(),
            (Some(value), None) => format!("{value}: privileged processes only, as this one is"),
            (Some(value), Some(group)) => {
                format!("{value}: open to group {group} and to privileged processes")
            }
        },
    );
    rows.add(
        "seccomp",
        State::Ok,
        if probe.confinement.seccomp_filter {
            "a filter is active and lets io_uring through"
        } else {
            "no filter"
        },
    );
    for feature in &probe.features {
        let Feature {
            name,
            since,
            required,
            purpose,
            available,
        } = *feature;
        if available {
            rows.add(name, State::Ok, purpose);
            continue;
        }
        let meaning = format!("{purpose}; in Linux {since} and newer");
        if required {
            let upgrade = format!("Upgrade the kernel to Linux {FLOOR} or newer.");
            rows.add_with(name, without(probe), meaning, upgrade);
        } else {
            let upgrade = format!("Not required. It comes with Linux {since}.");
            rows.add_with(name, State::Limited, meaning, upgrade);
        }
    }
}

/// How bad it is to be without io_uring.
fn without(probe: &Probe) -> State {
    match probe.epoll_verdict() {
        Ok(()) => State::Limited,
        Err(_) => State::Missing,
    }
}

/// Which engines can run.
/// What to do about io_uring stands in its own row.
const AS_SAID: &str = "Have io_uring allowed, as said above.";

fn engines(rows: &mut Rows, probe: &Probe, unavailable: Option<&Unavailable>) {
    match (unavailable, probe.epoll_verdict()) {
        (None, _) => rows.add(
            "shard",
            State::Ok,
            "on io_uring: all that it needs is there",
        ),
        (Some(_), Ok(())) => rows.add_with(
            "shard",
            State::Limited,
            format!("on epoll. {EPOLL_COST}"),
            "Have io_uring allowed, as said above. To run on epoll and not be told:\n\
             \x20 ringwire serve --ring epoll",
        ),
        (Some(unavailable), Err(errno)) => rows.add_with(
            "shard",
            State::Missing,
            format!(
                "{}; and a ring on epoll failed: {errno}",
                unavailable.what()
            ),
            AS_SAID,
        ),
    }
    if !cfg!(feature = "aio") {
        let meaning = "this was built without the feature aio";
        let remedy = "Not required: it is the engine of the async API.";
        rows.add_with("async", State::Limited, meaning, remedy.to_owned());
        return;
    }
    match (probe.async_verdict(), probe.epoll_verdict()) {
        (Ok(()), _) => {
            let meaning =
                format!("on tokio-uring: a ring without flags works, as {PLAIN_FLOOR} has it");
            rows.add("async", State::Ok, meaning);
        }
        (Err(_), Ok(())) => rows.add_with(
            "async",
            State::Limited,
            TOKIO_COST,
            "Have io_uring allowed, as said above. To run on it and not be told:\n\
             \x20 ringwire serve --engine async --ring epoll",
        ),
        (Err(refused), Err(_)) => {
            rows.add_with("async", State::Missing, refused.what(), AS_SAID);
        }
    }
}

fn limits(rows: &mut Rows, probe: &Probe) {
    let Limit { soft, hard } = probe.environment.descriptors;
    let meaning = format!(
        "{}, hard limit {}: one for each connection",
        count_limit(soft),
        count_limit(hard)
    );
    if soft.is_some_and(|it| it < DESCRIPTORS_AIM) {
        rows.add_with("descriptors", State::Limited, meaning, DESCRIPTORS);
    } else {
        rows.add("descriptors", State::Ok, meaning);
    }
    rows.add_setting(
        &Setting {
            name: "nr_open",
            key: "fs.nr_open",
            aim: DESCRIPTORS_AIM,
            meaning: "descriptors at most for any process",
        },
        probe.environment.nr_open,
    );
    rows.add_setting(
        &Setting {
            name: "file-max",
            key: "fs.file-max",
            aim: DESCRIPTORS_AIM,
            meaning: "open files on the whole host",
        },
        probe.environment.file_max,
    );

    let needed = probe.ring_bytes * probe.environment.cpus as u64;
    match probe.confinement.memlock_bytes.soft {
        _ if probe.confinement.memlock_exempt => {
            rows.add(
                "memlock",
                State::Ok,
                "this process is exempt from RLIMIT_MEMLOCK",
            );
        }
        None => rows.add("memlock", State::Ok, "RLIMIT_MEMLOCK (no limit)"),
        Some(_) if !probe.counts_memlock() => {
            rows.add(
                "memlock",
                State::Ok,
                "this kernel does not count rings against it",
            );
        }
        Some(bytes) => {
            let (rings, cpus) = (bytes / probe.ring_bytes, probe.environment.cpus);
            if bytes < needed {
                let meaning = format!("{bytes} bytes, enough for {rings} of {cpus} rings");
                rows.add_with("memlock", State::Limited, meaning, MEMLOCK);
            } else {
                let meaning = format!("{bytes} bytes, enough for a ring for each CPU");
                rows.add("memlock", State::Ok, meaning);
            }
        }
    }
}

fn network(rows: &mut Rows, environment: &Environment) {
    rows.add_setting(
        &Setting {
            name: "somaxconn",
            key: "net.core.somaxconn",
            aim: SOMAXCONN_AIM,
            meaning: "connections may wait for an accept",
        },
        environment.somaxconn,
    );
    rows.add_setting(
        &Setting {
            name: "tcp_max_syn_backlog",
            key: "net.ipv4.tcp_max_syn_backlog",
            aim: SYN_BACKLOG_AIM,
            meaning: "connections may be half open",
        },
        environment.tcp_max_syn_backlog,
    );
    const PORTS: &str = "net.ipv4.ip_local_port_range";
    match environment.local_ports {
        Some((low, high)) => {
            let ports = (u32::from(high) + 1).saturating_sub(u32::from(low));
            let meaning = format!("{ports} ports for outgoing connections");
            if ports < LOCAL_PORTS_AIM {
                rows.add_with(
                    "ip_local_port_range",
                    State::Limited,
                    meaning,
                    set(PORTS, "1024 65535"),
                );
            } else {
                rows.add("ip_local_port_range", State::Ok, meaning);
            }
        }
        None => rows.add_with(
            "ip_local_port_range",
            State::Unknown,
            format!("{PORTS} cannot be read here"),
            format!("Look at it on the host:\n  sysctl {PORTS}"),
        ),
    }
    rows.add(
        "kernel TLS",
        State::Ok,
        match environment.kernel_tls {
            Some(true) => "loaded; ringwire does not use it",
            Some(false) => "not loaded; ringwire does not need it",
            None => "cannot be read here; ringwire does not need it",
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(report: &Report) -> String {
        let mut out = Vec::new();
        report.write(&mut out, false).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn row<'a>(report: &'a Report, name: &str) -> &'a Row {
        report.rows.iter().find(|row| row.name == name).unwrap()
    }

    /// A host on which everything is too small, but nothing stops the server.
    fn poor_host() -> Probe {
        let mut probe = Probe::run();
        probe.confinement.release = "6.18.0".to_owned();
        probe.confinement.memlock_exempt = false;
        probe.confinement.memlock_bytes = Limit {
            soft: Some(65_536),
            hard: Some(65_536),
        };
        probe.environment = Environment {
            cpus: 8,
            cpus_by_quota: 2,
            descriptors: Limit {
                soft: Some(1024),
                hard: Some(4096),
            },
            nr_open: Some(4096),
            file_max: Some(4096),
            somaxconn: Some(128),
            tcp_max_syn_backlog: Some(128),
            local_ports: Some((60_000, 60_999)),
            kernel_tls: None,
        };
        probe
    }

    #[test]
    fn whatever_is_not_ok_says_what_to_do_within_80_columns() {
        let mut unreadable = poor_host();
        unreadable.environment.somaxconn = None;
        unreadable.environment.local_ports = None;
        unreadable.confinement.release = "unreadable".to_owned();
        for probe in [Probe::run(), poor_host(), unreadable] {
            let report = Report::new(&probe);
            for row in &report.rows {
                assert_eq!(row.remedy.is_some(), row.state != State::Ok, "{row:?}");
                assert!(row.name.len() <= 20, "{} does not fit its column", row.name);
            }
            for line in text(&report).lines() {
                assert!(
                    line.chars().count() <= COLUMNS,
                    "longer than 80 columns: {line}"
                );
            }
        }
    }

    #[test]
    fn low_limits_are_named_with_the_command_that_raises_them() {
        let report = Report::new(&poor_host());
        for (name, command) in [
            ("CPUs", "docker run --cpus=N"),
            ("descriptors", "LimitNOFILE=1048576"),
            ("nr_open", "sudo sysctl -w fs.nr_open=\"10240\""),
            ("file-max", "fs.file-max = 10240"),
            ("memlock", "LimitMEMLOCK=infinity"),
            (
                "somaxconn",
                "docker run --sysctl net.core.somaxconn=\"4096\"",
            ),
            ("tcp_max_syn_backlog", "net.ipv4.tcp_max_syn_backlog = 1024"),
            (
                "ip_local_port_range",
                "net.ipv4.ip_local_port_range=\"1024 65535\"",
            ),
        ] {
            let row = row(&report, name);
            assert_eq!(row.state, State::Limited, "{name}");
            assert!(row.remedy.as_ref().unwrap().contains(command), "{row:?}");
            assert!(text(&report).contains(command), "{name}");
        }
        assert_eq!(row(&report, "kernel TLS").state, State::Ok);
    }

    #[test]
    fn memlock_matters_only_where_rings_count() {
        let mut probe = poor_host();
        probe.confinement.release = "6.1.0".to_owned();
        assert_eq!(row(&Report::new(&probe), "memlock").state, State::Ok);
        probe.confinement.release = "6.14.0".to_owned();
        assert_eq!(row(&Report::new(&probe), "memlock").state, State::Limited);
        probe.confinement.memlock_exempt = true;
        assert_eq!(row(&Report::new(&probe), "memlock").state, State::Ok);
    }

    #[test]
    fn a_missing_requirement_moves_shards_to_epoll_and_a_missing_option_limits_them() {
        let mut probe = poor_host();
        let since = FLOOR;
        let feature = |name, required| Feature {
            name,
            since,
            required,
            purpose: "a purpose",
            available: false,
        };
        probe.features = vec![feature("OPTION", false)];
        if probe.verdict().is_err() {
            // A host without io_uring: the other tests cover it.
            return;
        }
        let report = Report::new(&probe);
        assert_eq!(row(&report, "OPTION").state, State::Limited);
        assert!(
            report
                .conclusion()
                .starts_with("This host can run ringwire.")
        );
        assert_eq!(report.to_json()["can_run"], true);
        assert_eq!(report.to_json()["ring"], "io_uring");
        probe.features.push(feature("NEEDED", true));
        let report = Report::new(&probe);
        assert_eq!(row(&report, "NEEDED").state, State::Limited);
        assert_eq!(row(&report, "shard").state, State::Limited);
        assert!(
            report
                .conclusion()
                .starts_with("This host can run ringwire on epoll, but not on io_uring:")
        );
        assert_eq!(report.to_json()["ring"], "epoll");
        assert!(
            report.to_json()["unavailable"]
                .as_str()
                .unwrap()
                .contains("without NEEDED")
        );
    }

    #[test]
    fn an_old_kernel_with_everything_carried_back_is_limited_not_missing() {
        let mut probe = poor_host();
        probe.confinement.release = "5.14.0-503.el9.x86_64".to_owned();
        assert_eq!(row(&Report::new(&probe), "Linux").state, State::Limited);
    }

    #[test]
    fn colours_change_nothing_but_colours() {
        let report = Report::new(&poor_host());
        let mut out = Vec::new();
        report.write(&mut out, true).unwrap();
        let mut coloured = String::from_utf8(out).unwrap();
        assert!(coloured.contains("\x1b[33mlimited"));
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            coloured = coloured.replace(code, "");
        }
        assert_eq!(coloured, text(&report));
    }
}
