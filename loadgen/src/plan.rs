//! What was asked for: arguments in, a plan that can be carried out.
//!
//! Knows: every option, its default and its bounds, and which of them a scenario has. Refuses to
//! know: how a plan is carried out.

use std::{
    fmt, io,
    net::{IpAddr, UdpSocket},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::{ArgGroup, Args, Parser, Subcommand};
use ipnet::IpNet;
use ringwire::{
    Address, MessageKind,
    client::{ClientRequest, CompressionOffer, Scheme, WsUrl, resolve},
    tls::ClientTls,
};

use crate::{
    compare,
    environment::{cpus_allowed, cpus_online, is_there, local_ports},
    fail_if::FailIf,
    headers, merge,
    moment::{self, Moment},
    raw::{self, Raw, Reply},
    redact,
    report::Outputs,
    result::{Arrivals, Objective, PlanFigures, Scenario, SizeShare, Stage, TextScript, Verify},
    schedule::{RATE_MAX_PER_S, RATE_MIN_PER_S},
    script::Script,
    verify::{PayloadPlan, SizeWeight, TIMED_BYTES},
};

/// The most connections of one run: what a stamp can tell apart.
pub const CONNECTIONS_MAX: usize = (1 << 24) - 1;

/// The longest payload that can be asked for.
pub(crate) const SIZE_MAX_BYTES: usize = 1 << 30;

/// How full the range of local ports may get before another source address is used: the kernel
/// searches long when it is nearly full.
const PORTS_USED_SHARE: f64 = 0.8;

/// Ports that a closed connection keeps from being used again, in seconds (`TIME_WAIT`).
const TIME_WAIT_S: f64 = 60.0;

/// Load for WebSocket servers, and numbers that can be believed.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    /// The scenario.
    #[command(subcommand)]
    pub command: Command,
}

/// The scenarios.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sends messages that the server sends back, and verifies every one
    ///
    /// With --rate at scheduled instants, whatever the server does (open loop); without, each
    /// connection sends when it is answered (closed loop).
    Echo(EchoArgs),
    /// Opens connections, as fast as it goes or at a fixed rate, and measures the handshakes
    Connect(ConnectArgs),
    /// Opens connections and holds them: memory for each, with --pid
    Idle(IdleArgs),
    /// Some connections publish, the others hear it: latency of each delivery
    ///
    /// For servers that send to all clients of a URL what one of them sends.
    Fanout(FanoutArgs),
    /// Sends as fast as the server reads: messages and bytes a second
    ///
    /// For servers that read and answer nothing, as ringwire does at /sink.
    Ingest(IngestArgs),
    /// Searches for the highest rate that meets an objective
    Saturate(SaturateArgs),
    /// Says on each connection what a script says, and measures how long the answers take that it
    /// expects
    Talk(TalkArgs),
    /// Offers again what 'ringwire serve --record FILE' has recorded, with filler of the same sizes
    Replay(ReplayArgs),
    /// Probes whether a server keeps to RFC 6455, and what its limits are
    Check(CheckArgs),
    /// Puts two runs side by side; exits with 1 when the second is worse
    Compare(compare::Arguments),
    /// Adds runs that several machines made at the same time against one server
    Merge(merge::Arguments),
    /// Prints what a shell completes: loadgen completions bash >
    /// /usr/share/bash-completion/completions/loadgen
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints a page of the manual: loadgen man echo > loadgen-echo.1
    Man {
        /// Of this command; without one, of loadgen itself.
        command: Option<String>,
    },
}

/// Where to connect, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct TargetArgs {
    /// ws://HOST:PORT/PATH, wss://HOST:PORT/PATH or ws+unix:/SOCKET:/PATH
    pub url: String,
    /// Sends a header with each opening handshake; repeatable
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Headers of each connection: a line of this file for each, in turn, with tabs between several
    /// headers. No report has their values
    #[arg(long, value_name = "FILE")]
    pub headers_from: Option<PathBuf>,
    /// Sends this Host header instead of the URL's; TLS still asks for the URL's
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Offers a subprotocol; repeatable, the most wanted first
    #[arg(long = "subprotocol", value_name = "NAME")]
    pub subprotocols: Vec<String>,
    /// Sends an Origin header, as browsers do
    #[arg(long, value_name = "ORIGIN")]
    pub origin: Option<String>,
    /// Asks for compression (permessage-deflate), as browsers do; the server decides on its side.
    /// Messages that are sent do not refer to earlier ones
    #[arg(long)]
    pub compress: bool,
    /// How hard to compress what is sent, from 1 to 9. The reply's size is the server's choice
    #[arg(long, value_name = "N", default_value_t = 1, requires = "compress",
          value_parser = clap::value_parser!(u8).range(1..=9))]
    pub compress_level: u8,
    /// How long an opening handshake may take, with TLS if there is any
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration_ms)]
    pub handshake_timeout: u64,
    /// What wss:// needs.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// Whom to trust, and what to show.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Trusts the authorities in this PEM file, instead of this machine's; repeatable
    #[arg(long = "ca", value_name = "FILE", conflicts_with = "insecure")]
    pub authorities: Vec<PathBuf>,
    /// Trusts every certificate
    #[arg(long)]
    pub insecure: bool,
    /// Shows this certificate to a server that asks for one: a PEM file
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// The key of --cert
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
    /// Makes every TLS handshake a full one, without the tickets of earlier connections
    #[arg(long)]
    pub no_resumption: bool,
}

impl TlsArgs {
    fn load(&self) -> Result<ClientTls, PlanError> {
        let mut builder = ClientTls::builder();
        for path in &self.authorities {
            builder = builder.authorities(path);
        }
        if self.insecure {
            builder = builder.insecure();
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            builder = builder.identity(cert, key);
        }
        if self.no_resumption {
            builder = builder.without_resumption();
        }
        builder.load().map_err(|error| PlanError(error.to_string()))
    }
}

/// How much of everything, and where results go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct RunArgs {
    /// Threads that generate load [default: one for each processor; half of them when the server is
    /// on this machine]
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Connects from this address of this machine; repeatable [default: the kernel's choice, and
    /// 127.1.0.x when the ports to a loopback server run out]
    #[arg(long = "source", value_name = "IP")]
    pub sources: Vec<IpAddr>,
    /// Connects from every address of this network that is this machine's, in turn, for more
    /// connections than one address has ports: 127.0.0.0/24; repeatable
    #[arg(long = "from", value_name = "NETWORK", value_parser = parse_network)]
    pub networks: Vec<IpNet>,
    /// Opens the connections, and starts at this moment: 2026-03-01T12:30:00Z, or +10s from now; so
    /// that several machines begin together
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    pub start_at: Option<Moment>,
    /// The server's process on this machine: reports its CPU time and memory
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Lets the exit status be 0 although the generator was the bottleneck
    #[arg(long)]
    pub allow_client_bound: bool,
    /// Fails with status 5 when a figure of the run is so: 'p99>5ms', 'errors>0', 'rate<20k',
    /// 'cpu>20us', 'late>0.1%'; repeatable
    #[arg(long, value_name = "BOUND")]
    pub fail_if: Vec<FailIf>,
    /// Keeps each generating thread busy for this long with every message: for tests of the verdict
    #[arg(long, value_name = "NS", default_value_t = 0, hide = true)]
    pub test_delay_ns: u64,
    /// Where the report goes.
    #[command(flatten)]
    pub outputs: Outputs,
}

/// What messages are.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Messages")]
#[command(group = ArgGroup::new("kind").args(["text", "binary"]))]
pub struct MessageArgs {
    /// Bytes of payload: one size, or several with optional shares: 20,125,16k:10%
    #[arg(
        long,
        short = 's',
        value_name = "SIZES",
        default_value = "64",
        value_parser = parse_sizes
    )]
    pub size: Sizes,
    /// Text messages
    #[arg(long)]
    pub text: bool,
    /// Binary messages (the default)
    #[arg(long)]
    pub binary: bool,
    /// What text is made of
    #[arg(
        long,
        value_enum,
        value_name = "SCRIPT",
        default_value = "ascii",
        requires = "text"
    )]
    pub script: ScriptArg,
    /// Sends what is in this file, as it is, instead of made messages
    #[arg(long, value_name = "FILE", conflicts_with_all = ["size", "script"])]
    pub message: Option<PathBuf>,
    /// What of --message is one message; several are sent in turn
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        default_value = "whole",
        requires = "message"
    )]
    pub message_format: MessageFormat,
    /// Sends each message in frames of at most this many bytes of payload
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub fragment: Option<usize>,
}

/// `echo`.
#[derive(Clone, Debug, Args)]
pub struct EchoArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What.
    #[command(flatten)]
    pub message: MessageArgs,
    /// How long, how many.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Messages a second of the whole run, at scheduled instants (open loop): 500, 20k, 1.5M
    #[arg(long, short, value_name = "RATE", value_parser = parse_rate, help_heading = "Load")]
    pub rate: Option<f64>,
    /// How long a connection thinks before it sends the next message, in a closed loop: 500ms, or a
    /// range as 200ms-1s
    #[arg(long, value_name = "TIME", value_parser = parse_think, help_heading = "Load",
          conflicts_with_all = ["rate", "stages"])]
    pub think: Option<RangeInclusive<u64>>,
    /// How long a connection lives about: it is closed properly then, and opened anew
    #[arg(long, value_name = "TIME", value_parser = parse_life, help_heading = "Load")]
    pub churn: Option<u64>,
    /// Rates in turn, for so long each: 5000@2m, or 0:1000@30s that grows evenly. Before them, the
    /// warm-up has the first one
    #[arg(long, value_name = "STAGES", value_parser = parse_stages, help_heading = "Load",
          conflicts_with_all = ["rate", "duration"])]
    pub stages: Option<Stages>,
    /// The rest.
    #[command(flatten)]
    pub run: RunArgs,
}

/// How long, how many, how strictly.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Connections
    #[arg(long, short, value_name = "N", default_value_t = 64)]
    pub connections: usize,
    /// How long to measure [default: 10s; each step of saturate: 3s]
    #[arg(long, short, value_name = "TIME", value_parser = parse_duration_ms)]
    pub duration: Option<u64>,
    /// How long to run before, unmeasured [default: 1s; none with --stages; each step of saturate:
    /// 500ms]
    #[arg(long, value_name = "TIME", value_parser = parse_duration_ms)]
    pub warmup: Option<u64>,
    /// The most unanswered messages of a connection. One that is due while there are as many waits,
    /// and its waiting counts
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub in_flight: usize,
    /// How scheduled instants are spread
    #[arg(long, value_enum, value_name = "HOW", default_value = "constant")]
    pub arrivals: ArrivalsArg,
    /// How many replies to compare byte by byte, 1 in 64 when sampled. Length and stamp always are
    #[arg(long, value_enum, value_name = "HOW", default_value = "sampled")]
    pub verify: VerifyArg,
    /// How long to wait for a reply before it is lost and a closed loop goes on without it. At the
    /// end, what was due is still sent for as long, and what was sent has all of its time
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration_ms)]
    pub reply_timeout: u64,
    /// Messages that the server sends of itself at first on each connection: skipped and counted
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub greeting: u64,
    /// Sleeps while there is nothing to do, and measures the time that waking up takes as well.
    /// Without this a thread polls, unless there is no other processor or somebody else wants this
    /// one
    #[arg(long)]
    pub no_spin: bool,
}

/// `connect`.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Connections a second [default: as fast as it goes]
    #[arg(long, short, value_name = "RATE", value_parser = parse_rate, help_heading = "Load")]
    pub rate: Option<f64>,
    /// Opening handshakes under way at one time, without --rate
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Load")]
    pub in_flight: usize,
    /// How long to measure
    #[arg(long, short, value_name = "TIME", default_value = "5s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub duration: u64,
    /// How long to run before, unmeasured
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub warmup: u64,
    /// How scheduled instants are spread
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "constant",
        help_heading = "Load"
    )]
    pub arrivals: ArrivalsArg,
    /// The rest.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `idle`.
#[derive(Clone, Debug, Args)]
pub struct IdleArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Connections
    #[arg(
        long,
        short,
        value_name = "N",
        default_value_t = 1000,
        help_heading = "Load"
    )]
    pub connections: usize,
    /// How long to hold them
    #[arg(long, short, value_name = "TIME", default_value = "5s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub duration: u64,
    /// How long a connection lives about: it is closed properly then, and opened anew
    #[arg(long, value_name = "TIME", value_parser = parse_life, help_heading = "Load")]
    pub churn: Option<u64>,
    /// The rest.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `fanout`.
#[derive(Clone, Debug, Args)]
pub struct FanoutArgs {
    /// Where. {} in the URL is replaced with the number of the topic.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What.
    #[command(flatten)]
    pub message: MessageArgs,
    /// Connections that publish
    #[arg(
        long,
        short,
        value_name = "N",
        default_value_t = 1,
        help_heading = "Load"
    )]
    pub publishers: usize,
    /// Connections that hear it
    #[arg(
        long,
        short = 'n',
        value_name = "N",
        default_value_t = 100,
        help_heading = "Load"
    )]
    pub subscribers: usize,
    /// Topics: connections take the numbers from 0 on in turn, where the URL has {}
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load")]
    pub topics: usize,
    /// Messages a second that all publishers publish together
    #[arg(long, short, value_name = "RATE", default_value = "100", value_parser = parse_rate,
          help_heading = "Load")]
    pub rate: f64,
    /// How long to measure
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub duration: u64,
    /// How long to run before, unmeasured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub warmup: u64,
    /// How scheduled instants are spread
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "constant",
        help_heading = "Load"
    )]
    pub arrivals: ArrivalsArg,
    /// How many deliveries to compare byte by byte
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value = "sampled",
        help_heading = "Load"
    )]
    pub verify: VerifyArg,
    /// How long to wait for the last deliveries
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub reply_timeout: u64,
    /// Messages that the server sends of itself on each connection, as to say who came: so many are
    /// skipped and counted
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Load")]
    pub greeting: u64,
    /// Sleeps while there is nothing to do, and measures the time that waking up takes as well.
    /// Without this a thread polls, unless there is no other processor or somebody else wants this
    /// one
    #[arg(long, help_heading = "Load")]
    pub no_spin: bool,
    /// The rest.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `ingest`.
#[derive(Clone, Debug, Args)]
pub struct IngestArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What.
    #[command(flatten)]
    pub message: MessageArgs,
    /// Connections
    #[arg(
        long,
        short,
        value_name = "N",
        default_value_t = 8,
        help_heading = "Load"
    )]
    pub connections: usize,
    /// How long to measure
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub duration: u64,
    /// How long to run before, unmeasured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub warmup: u64,
    /// How long to wait at the end until the server has read everything
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub reply_timeout: u64,
    /// The rest.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `saturate`.
#[derive(Clone, Debug, Args)]
pub struct SaturateArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What.
    #[command(flatten)]
    pub message: MessageArgs,
    /// How long, how many. The duration is that of one step.
    #[command(flatten)]
    pub load: LoadArgs,
    /// A percentile and the most it may be
    #[arg(long, value_name = "pPERCENTILE=TIME", default_value = "p99.9=1ms",
          value_parser = parse_objective, help_heading = "Search")]
    pub slo: Objective,
    /// The rate to begin with, in messages a second [default: 1000, or what the percentile needs to
    /// mean something]
    #[arg(long, value_name = "RATE", value_parser = parse_rate, help_heading = "Search")]
    pub rate_from: Option<f64>,
    /// The highest rate to try
    #[arg(long, value_name = "RATE", default_value = "20M", value_parser = parse_rate,
          help_heading = "Search")]
    pub rate_to: f64,
    /// How close the search comes
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_percent,
          help_heading = "Search")]
    pub precision: f64,
    /// Runs that have to meet the objective once more at the rate that is reported
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Search")]
    pub confirm: usize,
    /// The rest.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `talk`.
#[derive(Clone, Debug, Args)]
pub struct TalkArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// What is said and expected, in TOML; loadgen/README.md has its keys
    #[arg(long, value_name = "FILE", help_heading = "Messages")]
    pub script: PathBuf,
    /// Connections
    #[arg(
        long,
        short,
        value_name = "N",
        default_value_t = 16,
        help_heading = "Load"
    )]
    pub connections: usize,
    /// How long to measure
    #[arg(long, short, value_name = "TIME", default_value = "10s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub duration: u64,
    /// How long to run before, unmeasured
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub warmup: u64,
    /// How long to wait for what is expected
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub reply_timeout: u64,
    /// How long a connection lives about: it goes through the script to its end, is closed
    /// properly, and opened anew
    #[arg(long, value_name = "TIME", value_parser = parse_life, help_heading = "Load")]
    pub churn: Option<u64>,
    /// The rest.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// What 'ringwire serve --record' has written
    pub file: PathBuf,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// How much faster than it was recorded
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = parse_speed,
          help_heading = "Load")]
    pub speed: f64,
    /// How long to wait at the end for messages that could not be sent in time
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration_ms,
          help_heading = "Load")]
    pub reply_timeout: u64,
    /// The rest.
    #[command(flatten)]
    pub run: RunArgs,
}

/// `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
    /// How long a probe waits for the server
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = parse_duration_ms)]
    pub timeout: u64,
    /// Writes what was found as JSON (- is standard output, and the table goes to standard error)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes each probe as a test case in JUnit's XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
}

/// `--arrivals`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum ArrivalsArg {
    /// At a constant rate.
    Constant,
    /// With exponential gaps.
    Poisson,
}

/// `--message-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MessageFormat {
    /// The whole file.
    Whole,
    /// Each line, without its end.
    Lines,
    /// Each run of bytes behind its length, which is four bytes, the most significant first.
    LengthPrefixed,
}

/// `--script`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum ScriptArg {
    /// One byte a character.
    Ascii,
    /// Three bytes a character.
    Cjk,
    /// Records as services exchange them, which compress as those do.
    Json,
}

/// `--verify`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum VerifyArg {
    /// Every reply.
    All,
    /// No reply.
    None,
    /// One in 64.
    Sampled,
}

impl From<ArrivalsArg> for Arrivals {
    fn from(arg: ArrivalsArg) -> Self {
        match arg {
            ArrivalsArg::Constant => Self::Constant,
            ArrivalsArg::Poisson => Self::Poisson,
        }
    }
}

impl From<VerifyArg> for Verify {
    fn from(arg: VerifyArg) -> Self {
        match arg {
            VerifyArg::All => Self::All,
            VerifyArg::None => Self::None,
            VerifyArg::Sampled => Self::Sampled,
        }
    }
}

/// What `--size` means. A type of its own, because clap takes a bare `Vec` for a repeated option.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes(pub Vec<SizeWeight>);

/// What `--stages` means.
#[derive(Clone, Debug, PartialEq)]
pub struct Stages(pub Vec<Stage>);

impl Stages {
    fn length_ms(&self) -> u64 {
        self.0.iter().map(|stage| stage.length_ms).sum()
    }

    /// Messages a second, on average.
    fn mean_per_s(&self) -> f64 {
        let count = self
            .0
            .iter()
            .map(|stage| f64::midpoint(stage.from_per_s, stage.to_per_s) * stage.length_ms as f64);
        count.sum::<f64>() / self.length_ms() as f64
    }
}

/// Why there is nothing to run: one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError(pub String);

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PlanError {}

fn refuse<T>(sentence: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError(sentence.into()))
}

/// Where to connect: resolved, and the opening handshake of each topic.
#[derive(Clone, Debug)]
pub struct Place {
    /// As it was given, without what lets somebody in.
    pub url: String,
    /// The first address of its host.
    pub address: Address,
    /// Opening handshakes; connections take them in turn.
    pub requests: Vec<ClientRequest>,
    /// How many topics they are for.
    pub topics: usize,
    /// Lines of `--headers-from`.
    pub header_lines: Option<usize>,
    /// What comes before them, for `wss://`.
    pub tls: Option<ClientTls>,
    /// How long an opening handshake may take, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// How hard messages are compressed, where the server agrees.
    pub compress_level: Option<u8>,
}

impl Place {
    /// Whether the server is on this machine, so that it needs processors as well.
    pub fn is_local(&self) -> bool {
        match &self.address {
            Address::Unix(_) => true,
            Address::Inet(inet) => inet.ip().is_loopback(),
        }
    }

    /// A connection that nothing was sent on.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn connect(&self, timeout: Duration) -> io::Result<Raw> {
        let url = self.requests[0].url();
        Raw::connect_to(&self.address, url, self.tls.as_ref(), timeout)
    }

    /// As [`raw::open`], with the first of its opening handshakes.
    ///
    /// # Errors
    ///
    /// A sentence.
    pub fn open(&self, timeout: Duration) -> Result<(Raw, Reply, [u8; 28]), String> {
        raw::open(&self.address, &self.requests[0], self.tls.as_ref(), timeout)
    }

    /// That nothing opened, and why.
    pub fn none_opened(&self, asked: u64, reason: &str) -> String {
        match asked {
            1 => format!("the connection to {} did not open: {reason}", self.url),
            _ => format!(
                "none of {asked} connections to {} opened: {reason}",
                self.url
            ),
        }
    }

    /// As [`raw::diagnose`], with the first of its opening handshakes.
    pub fn diagnose(&self, timeout: Duration) -> Option<String> {
        raw::diagnose(&self.address, &self.requests[0], self.tls.as_ref(), timeout)
    }
}

impl TargetArgs {
    /// The place, with `topics` requests where the URL has `{}`.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn place(&self, topics: usize) -> Result<Place, PlanError> {
        if topics > 1 && !self.url.contains("{}") {
            return refuse(format!(
                "--topics {topics} needs a URL with {{}} where the topic's number goes, as in \
                 ws://127.0.0.1:9001/topic/{{}}"
            ));
        }
        let topics = topics.max(1);
        let mut requests = (0..topics)
            .map(|topic| self.request(&self.url.replace("{}", &topic.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        let mut header_lines = None;
        if let Some(path) = &self.headers_from {
            let lines = headers::read(path)?;
            header_lines = Some(lines.len());
            requests = with_headers(&requests, &lines, path)?;
        }
        let addresses = resolve(requests[0].url()).map_err(|error| {
            let url = redact::url(&self.url);
            PlanError(format!("'{url}' cannot be connected to: {error}"))
        })?;
        let tls = match requests[0].url().scheme() {
            Scheme::Wss => Some(self.tls.load()?),
            Scheme::Ws | Scheme::WsUnix => None,
        };
        Ok(Place {
            url: redact::url(&self.url),
            address: raw::first_reachable(addresses),
            requests,
            topics,
            header_lines,
            tls,
            handshake_timeout_ms: self.handshake_timeout.max(1),
            compress_level: self.compress.then_some(self.compress_level),
        })
    }

    fn request(&self, url: &str) -> Result<ClientRequest, PlanError> {
        let parsed = WsUrl::parse(url).map_err(|error| {
            let url = redact::url(url);
            PlanError(format!("'{url}' is not a URL to connect to: {error}"))
        })?;
        let mut request = ClientRequest::new(parsed);
        if let Some(host) = &self.host {
            request.set_host(host).map_err(|_| {
                PlanError(format!(
                    "--host '{host}' cannot be sent: write a name or an address, with or without a \
                     port, as in chat.example.com:8080"
                ))
            })?;
        }
        for header in &self.headers {
            let Some((name, value)) = header.split_once(':') else {
                return refuse(format!(
                    "--header '{}' has no colon; write it as 'Name: value'",
                    redact::header(header)
                ));
            };
            request
                .add_header(name.trim(), value.trim())
                .map_err(|error| {
                    let option = match name.trim().to_ascii_lowercase().as_str() {
                        "host" => format!("; use --host {}", value.trim()),
                        "origin" => format!("; use --origin {}", value.trim()),
                        "sec-websocket-protocol" => "; use --subprotocol".to_owned(),
                        "sec-websocket-extensions" => "; use --compress".to_owned(),
                        _ => String::new(),
                    };
                    let header = redact::header(header);
                    PlanError(format!(
                        "--header '{header}' cannot be sent: {error}{option}"
                    ))
                })?;
        }
        for name in &self.subprotocols {
            request.offer_subprotocol(name).map_err(|error| {
                PlanError(format!("--subprotocol '{name}' cannot be offered: {error}"))
            })?;
        }
        if self.compress {
            let offer = CompressionOffer {
                client_no_context_takeover: true,
                ..CompressionOffer::default()
            };
            request
                .offer_compression(offer)
                .map_err(|error| PlanError(format!("--compress cannot be offered: {error}")))?;
        }
        if let Some(origin) = &self.origin {
            request.set_origin(origin).map_err(|error| {
                PlanError(format!("--origin '{origin}' cannot be sent: {error}"))
            })?;
        }
        Ok(request)
    }
}

/// What every scenario needs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to connect.
    pub place: Place,
    /// Threads.
    pub shards: usize,
    /// Connections.
    pub connections: usize,
    /// Addresses to connect from, in turn; empty: the kernel's choice.
    pub sources: Vec<IpAddr>,
    /// What is thrown away, in milliseconds.
    pub warmup_ms: u64,
    /// What is measured, in milliseconds.
    pub duration_ms: u64,
    /// How long to wait for replies, in milliseconds.
    pub reply_timeout_ms: u64,
    /// Whether threads poll instead of sleeping.
    pub spins: bool,
    /// The server's process.
    pub pid: Option<u32>,
    /// Whether the exit status hides that the generator was the bottleneck.
    pub allow_client_bound: bool,
    /// For tests: how long each message keeps the generator busy, in nanoseconds.
    pub test_delay_ns: u64,
    /// When to start.
    pub start_at: Option<Moment>,
    /// How long a connection lives about, in milliseconds.
    pub churn_ms: Option<u64>,
    /// What is said and expected, for `talk`.
    pub script: Option<Arc<Script>>,
    /// What is sent, if anything.
    pub traffic: Option<Traffic>,
    /// What the result says about all this.
    pub figures: PlanFigures,
}

/// What is sent and when.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// What messages are.
    pub payload: PayloadPlan,
    /// Bytes of payload in each frame at most.
    pub fragment_bytes: Option<usize>,
    /// Messages a second of the whole run. `None`: closed loop.
    pub rate_per_s: Option<f64>,
    /// Rates that change, warm-up included; empty: one rate.
    pub stages: Vec<Stage>,
    /// How instants are spread.
    pub arrivals: Arrivals,
    /// The most unanswered messages of a connection.
    pub in_flight: usize,
    /// How long a connection thinks before it sends the next message, in nanoseconds.
    pub think: Option<RangeInclusive<u64>>,
    /// How many replies are compared byte by byte.
    pub verify: Verify,
    /// Messages that the server sends of itself at first on each connection.
    pub greeting: u64,
}

/// The numbers of a plan before they are checked against each other and the machine.
struct Numbers {
    connections: usize,
    /// Connections, open and lately closed, that hold a port at one time.
    ports: f64,
    warmup_ms: u64,
    duration_ms: u64,
    reply_timeout_ms: u64,
}

impl Numbers {
    /// A closed connection keeps its port for a minute.
    fn churn(&mut self, churn_ms: Option<u64>) {
        if let Some(churn_ms) = churn_ms {
            let whole_ms = (self.warmup_ms + self.duration_ms) as f64;
            let lives = whole_ms.min(TIME_WAIT_S * 1e3) / churn_ms as f64;
            self.ports *= 1.0 + lives;
        }
    }
}

/// The most opening handshakes that are kept ready.
const REQUESTS_MAX: usize = 1_000_000;

/// Each of these requests with each of these lines, so that connections that take them in turn take
/// both in turn.
fn with_headers(
    requests: &[ClientRequest],
    lines: &[headers::Line],
    path: &Path,
) -> Result<Vec<ClientRequest>, PlanError> {
    let gcd = |mut one: usize, mut other: usize| {
        while other > 0 {
            (one, other) = (other, one % other);
        }
        one
    };
    let count = requests.len() / gcd(requests.len(), lines.len()) * lines.len();
    if count > REQUESTS_MAX {
        return refuse(format!(
            "{} topics with {} lines of --headers-from are {count} opening handshakes, and \
             {REQUESTS_MAX} can be kept ready",
            requests.len(),
            lines.len()
        ));
    }
    (0..count)
        .map(|index| {
            let mut request = requests[index % requests.len()].clone();
            lines[index % lines.len()].add_to(&mut request, path)?;
            Ok(request)
        })
        .collect()
}

fn plan(
    place: Place,
    numbers: &Numbers,
    run: &RunArgs,
    traffic: Option<Traffic>,
) -> Result<Plan, PlanError> {
    if numbers.connections == 0 || numbers.connections > CONNECTIONS_MAX {
        return refuse(format!(
            "{} connections cannot be opened: from 1 to {CONNECTIONS_MAX} can",
            numbers.connections
        ));
    }
    if numbers.duration_ms == 0 {
        return refuse("a run of no length measures nothing: give --duration some time");
    }
    if run.shards == Some(0) {
        return refuse("--shards 0 generates nothing: one thread at least is needed");
    }
    let cpus = cpus_allowed().len().max(1);
    let default = if place.is_local() {
        (cpus / 2).max(1)
    } else {
        cpus
    };
    let shards = run.shards.unwrap_or(default).min(numbers.connections);
    if shards > 1024 {
        return refuse(format!(
            "--shards {shards} is more than the 1024 threads that are allowed"
        ));
    }
    if let Some(pid) = run.pid
        && !is_there(pid)
    {
        return refuse(format!(
            "--pid {pid} is no process of this machine; pgrep -x NAME finds the server's"
        ));
    }
    let mut given = run.sources.clone();
    for network in &run.networks {
        given.extend(own_addresses(*network)?);
    }
    let sources = sources(&place, numbers, &given)?;
    let mut figures = PlanFigures {
        shards,
        connections: numbers.connections,
        duration_ms: numbers.duration_ms,
        warmup_ms: numbers.warmup_ms,
        source_addresses: sources.len().max(1),
        header_lines: place.header_lines,
        ..PlanFigures::default()
    };
    if let Some(traffic) = &traffic {
        let sizes = traffic.payload.sizes.iter();
        figures.sizes = sizes
            .map(|size| SizeShare {
                size_bytes: size.size_bytes,
                share: size.weight,
            })
            .collect();
        let text = traffic.payload.kind == MessageKind::Text;
        figures.text = Some(text);
        figures.text_script = text.then_some(traffic.payload.script);
        let given = &traffic.payload.given;
        if !given.is_empty() {
            figures.given_messages = Some(given.len());
            figures.sizes = shares_of(given);
            figures.text_script = None;
        }
        figures.fragment_bytes = traffic.fragment_bytes;
        figures.reply_timeout_ms = Some(numbers.reply_timeout_ms);
        figures.greeting = traffic.greeting;
    }
    Ok(Plan {
        place,
        shards,
        connections: numbers.connections,
        sources,
        warmup_ms: numbers.warmup_ms,
        duration_ms: numbers.duration_ms,
        reply_timeout_ms: numbers.reply_timeout_ms,
        spins: false,
        pid: run.pid,
        allow_client_bound: run.allow_client_bound,
        test_delay_ns: run.test_delay_ns,
        start_at: run.start_at,
        churn_ms: None,
        script: None,
        traffic,
        figures,
    })
}

/// Whether a processor is left for others when each of so many threads keeps one busy.
fn may_spin(shards: usize) -> bool {
    shards < cpus_online() || cpus_online() == 0
}

/// The most addresses of a network that are connected from.
const ADDRESSES_MAX: usize = 1 << 16;

/// The addresses of a network that a socket of this machine can have.
fn own_addresses(network: IpNet) -> Result<Vec<IpAddr>, PlanError> {
    let hosts = network.hosts().take(ADDRESSES_MAX);
    let own: Vec<IpAddr> = hosts
        .filter(|&ip| UdpSocket::bind((ip, 0)).is_ok())
        .collect();
    if own.is_empty() {
        return refuse(format!(
            "--from {network} holds no address of this machine; add some (ip addr add ADDRESS/32 \
             dev lo), or all of them at once (ip route add local {network} dev lo)"
        ));
    }
    Ok(own)
}

/// Which addresses to connect from, so that there are ports for everybody.
fn sources(place: &Place, numbers: &Numbers, given: &[IpAddr]) -> Result<Vec<IpAddr>, PlanError> {
    let Address::Inet(server) = &place.address else {
        return Ok(Vec::new());
    };
    if let Some(wrong) = given.iter().find(|ip| ip.is_ipv4() != server.is_ipv4()) {
        return refuse(format!(
            "{wrong}, of --source or --from, cannot connect to {server}: one is IPv4 and the other \
             IPv6"
        ));
    }
    let ports = local_ports();
    let usable = ports as f64 * PORTS_USED_SHARE;
    let needed = (numbers.ports / usable).ceil().max(1.0);
    if !given.is_empty() {
        if numbers.ports > (ports * given.len()) as f64 {
            return refuse(format!(
                "{} connections need more ports than {} has, {ports} each; add addresses with \
                 --source or --from, or widen net.ipv4.ip_local_port_range",
                numbers.connections,
                match given.len() {
                    1 => "1 source address".to_owned(),
                    count => format!("each of {count} source addresses"),
                }
            ));
        }
        return Ok(given.to_vec());
    }
    if needed <= 1.0 {
        return Ok(Vec::new());
    }
    if let IpAddr::V4(ip) = server.ip()
        && ip.is_loopback()
    {
        // All of 127.0.0.0/8 is this machine's.
        let count = (needed as u32).min(60_000);
        return Ok((0..count)
            .map(|index| std::net::Ipv4Addr::from(0x7f01_0001 + index).into())
            .collect());
    }
    if numbers.ports > ports as f64 {
        return refuse(format!(
            "{} connections need more local ports than the {ports} that one source address has; \
             name more addresses of this machine with --source, or widen \
             net.ipv4.ip_local_port_range",
            numbers.connections
        ));
    }
    Ok(Vec::new())
}

/// The messages of a file.
fn given_messages(
    path: &Path,
    format: MessageFormat,
    kind: MessageKind,
) -> Result<Arc<[Vec<u8>]>, PlanError> {
    let file = path.display();
    let bytes = std::fs::read(path)
        .map_err(|error| PlanError(format!("--message {file} cannot be read: {error}")))?;
    let messages = match format {
        MessageFormat::Whole => vec![bytes],
        MessageFormat::Lines => {
            let lines = bytes
                .strip_suffix(b"\n")
                .unwrap_or(&bytes)
                .split(|&byte| byte == b'\n');
            lines
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line).to_vec())
                .collect()
        }
        MessageFormat::LengthPrefixed => length_prefixed(&bytes).ok_or_else(|| {
            PlanError(format!(
                "--message {file} is cut short: each message has to follow its length, four bytes \
                 with the most significant first"
            ))
        })?,
    };
    if messages.is_empty() || bytes_of(&messages) == 0 {
        return refuse(format!("--message {file} holds no message"));
    }
    if let Some(long) = messages
        .iter()
        .find(|message| message.len() > SIZE_MAX_BYTES)
    {
        return refuse(format!(
            "--message {file} holds one of {} bytes, which is more than the 1024M that are allowed",
            long.len()
        ));
    }
    let is_text = |message: &Vec<u8>| str::from_utf8(message).is_ok();
    if kind == MessageKind::Text
        && let Some(index) = messages.iter().position(|message| !is_text(message))
    {
        return refuse(format!(
            "--message {file} is no text: message {} is not UTF-8; leave --text out to send it as \
             binary",
            index + 1
        ));
    }
    Ok(messages.into())
}

fn bytes_of(messages: &[Vec<u8>]) -> usize {
    messages.iter().map(Vec::len).sum()
}

/// `None` when a length or what it announces is cut short.
fn length_prefixed(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (message, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        messages.push(message.to_vec());
        bytes = rest;
    }
    Some(messages)
}

/// How many of the messages of a file have which length.
fn shares_of(messages: &[Vec<u8>]) -> Vec<SizeShare> {
    let mut counts = std::collections::BTreeMap::<usize, usize>::new();
    for message in messages {
        *counts.entry(message.len()).or_default() += 1;
    }
    let shares = counts.into_iter().map(|(size_bytes, count)| SizeShare {
        size_bytes,
        share: count as f64 / messages.len() as f64,
    });
    shares.collect()
}

fn traffic(message: &MessageArgs, size_min: usize) -> Result<Traffic, PlanError> {
    if let Some(small) = message
        .size
        .0
        .iter()
        .find(|size| size.size_bytes < size_min)
    {
        return refuse(format!(
            "--size {} is too small: a message says when it was sent, which takes {size_min} bytes",
            small.size_bytes
        ));
    }
    if message.fragment == Some(0) {
        return refuse("--fragment 0 cannot be sent: a frame of it carries nothing");
    }
    let kind = if message.text {
        MessageKind::Text
    } else {
        MessageKind::Binary
    };
    let given = match &message.message {
        None => Arc::default(),
        Some(_) if size_min > 0 => {
            return refuse(
                "--message cannot be published: a message of fanout says when it was sent, which \
                 is written into it",
            );
        }
        Some(path) => given_messages(path, message.message_format, kind)?,
    };
    Ok(Traffic {
        payload: PayloadPlan {
            sizes: message.size.0.clone(),
            kind,
            script: match message.script {
                ScriptArg::Ascii => TextScript::Ascii,
                ScriptArg::Cjk => TextScript::Cjk,
                ScriptArg::Json => TextScript::Json,
            },
            nonce: fastrand::u64(..),
            given,
        },
        fragment_bytes: message.fragment,
        rate_per_s: None,
        stages: Vec::new(),
        arrivals: Arrivals::Constant,
        in_flight: 1,
        think: None,
        verify: Verify::Sampled,
        greeting: 0,
    })
}

impl LoadArgs {
    /// The plan of an echo with these arguments, and with these lengths of warm-up and measured
    /// part in milliseconds unless they say other ones.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    fn echo_plan(
        &self,
        target: &TargetArgs,
        message: &MessageArgs,
        rate_per_s: Option<f64>,
        run: &RunArgs,
        (warmup_ms, duration_ms): (u64, u64),
        churn_ms: Option<u64>,
    ) -> Result<Plan, PlanError> {
        let mut numbers = Numbers {
            connections: self.connections,
            ports: self.connections as f64,
            warmup_ms: self.warmup.unwrap_or(warmup_ms),
            duration_ms: self.duration.unwrap_or(duration_ms),
            reply_timeout_ms: self.reply_timeout,
        };
        numbers.churn(churn_ms);
        if self.in_flight == 0 {
            return refuse("--in-flight 0 sends nothing: one message at least has to be allowed");
        }
        let mut traffic = traffic(message, 0)?;
        traffic.rate_per_s = rate_per_s;
        traffic.arrivals = self.arrivals.into();
        traffic.in_flight = self.in_flight;
        traffic.verify = self.verify.into();
        traffic.greeting = self.greeting;
        let mut plan = plan(target.place(1)?, &numbers, run, Some(traffic))?;
        plan.figures.rate_per_s = rate_per_s;
        plan.figures.arrivals = rate_per_s.is_some().then_some(self.arrivals.into());
        plan.figures.in_flight = Some(self.in_flight);
        plan.figures.verify = Some(self.verify.into());
        plan.churn(churn_ms);
        // A closed loop that sleeps finds more to do at once when it wakes, and has no instants.
        plan.spins = rate_per_s.is_some() && !self.no_spin && may_spin(plan.shards);
        Ok(plan)
    }
}

impl EchoArgs {
    /// The plan.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let (rate, lengths) = match &self.stages {
            None => (self.rate, (1000, 10_000)),
            Some(stages) => (Some(stages.mean_per_s()), (0, stages.length_ms())),
        };
        let mut plan = self.load.echo_plan(
            &self.target,
            &self.message,
            rate,
            &self.run,
            lengths,
            self.churn,
        )?;
        if let (Some(think), Some(traffic)) = (&self.think, &mut plan.traffic) {
            traffic.think = Some(think.start() * 1_000_000..=think.end() * 1_000_000);
            plan.figures.think_from_ms = Some(*think.start());
            plan.figures.think_to_ms = Some(*think.end());
        }
        if let (Some(stages), Some(traffic)) = (&self.stages, &mut plan.traffic) {
            plan.figures.stages.clone_from(&stages.0);
            let first_per_s = stages.0.first().map_or(0.0, |stage| stage.from_per_s);
            let warmup = Stage {
                from_per_s: first_per_s,
                to_per_s: first_per_s,
                length_ms: plan.warmup_ms,
            };
            traffic.stages = vec![warmup];
            traffic.stages.extend(&stages.0);
        }
        Ok(plan)
    }
}

impl SaturateArgs {
    /// The plan of the first step.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        if self.run.start_at.is_some() {
            return refuse(
                "--start-at is for machines that begin together, and each search finds rates of \
                 its own",
            );
        }
        let rate_from = self.rate_from.unwrap_or(1.0);
        if self.rate_to < rate_from {
            return refuse(format!(
                "--rate-to {} is below --rate-from {rate_from}",
                self.rate_to
            ));
        }
        self.step(rate_from)
    }

    /// The plan of a step at this rate.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn step(&self, rate_per_s: f64) -> Result<Plan, PlanError> {
        let lengths = (500, 3000);
        let rate = Some(rate_per_s);
        self.load
            .echo_plan(&self.target, &self.message, rate, &self.run, lengths, None)
    }
}

impl ConnectArgs {
    /// The plan. Connections are those under way at one time.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        if self.in_flight == 0 {
            return refuse("--in-flight 0 opens nothing: one handshake at least has to be allowed");
        }
        let place = self.target.place(1)?;
        // A closed connection keeps its port for a minute. How many a storm makes is not known
        // before; this many a second and shard have been seen.
        let per_s = self.rate.unwrap_or(40_000.0);
        let seconds = ((self.duration + self.warmup) as f64 / 1000.0).min(TIME_WAIT_S);
        let numbers = Numbers {
            connections: self.in_flight,
            ports: per_s * seconds,
            warmup_ms: self.warmup,
            duration_ms: self.duration,
            reply_timeout_ms: self.target.handshake_timeout,
        };
        let mut plan = plan(place, &numbers, &self.run, None)?;
        plan.figures.rate_per_s = self.rate;
        plan.figures.arrivals = self.rate.is_some().then_some(self.arrivals.into());
        plan.figures.in_flight = self.rate.is_none().then_some(self.in_flight);
        Ok(plan)
    }
}

impl IdleArgs {
    /// The plan.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let mut numbers = Numbers {
            connections: self.connections,
            ports: self.connections as f64,
            warmup_ms: 0,
            duration_ms: self.duration,
            reply_timeout_ms: 0,
        };
        numbers.churn(self.churn);
        let mut plan = plan(self.target.place(1)?, &numbers, &self.run, None)?;
        plan.churn(self.churn);
        Ok(plan)
    }
}

impl TalkArgs {
    /// The plan.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong, or about the script.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let script = Script::read(&self.script).map_err(PlanError)?;
        let mut numbers = Numbers {
            connections: self.connections,
            ports: self.connections as f64,
            warmup_ms: self.warmup,
            duration_ms: self.duration,
            reply_timeout_ms: self.reply_timeout,
        };
        numbers.churn(self.churn);
        let mut plan = plan(self.target.place(1)?, &numbers, &self.run, None)?;
        plan.churn(self.churn);
        plan.script = Some(Arc::new(script));
        plan.figures.file = Some(file_name(&self.script));
        plan.figures.reply_timeout_ms = Some(self.reply_timeout);
        Ok(plan)
    }
}

impl ReplayArgs {
    /// The plan for a recording of so many connections that lasts for so long.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn plan(&self, connections: usize, length_ms: u64) -> Result<Plan, PlanError> {
        let numbers = Numbers {
            connections,
            ports: connections as f64,
            warmup_ms: 0,
            duration_ms: length_ms.max(1),
            reply_timeout_ms: self.reply_timeout,
        };
        let mut plan = plan(self.target.place(1)?, &numbers, &self.run, None)?;
        plan.figures.file = Some(file_name(&self.file));
        plan.figures.speed = Some(self.speed);
        plan.figures.reply_timeout_ms = Some(self.reply_timeout);
        Ok(plan)
    }
}

/// The last part of a path, by which a report names it.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

impl FanoutArgs {
    /// The plan. Publishers come first among the connections.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        for (value, name) in [
            (self.publishers, "--publishers"),
            (self.subscribers, "--subscribers"),
            (self.topics, "--topics"),
        ] {
            if value == 0 {
                return refuse(format!("{name} 0 delivers nothing: one at least is needed"));
            }
        }
        if self.topics > self.publishers.min(self.subscribers) {
            return refuse(format!(
                "--topics {} needs at least as many publishers and subscribers",
                self.topics
            ));
        }
        let connections = self.publishers.saturating_add(self.subscribers);
        let mut traffic = traffic(&self.message, TIMED_BYTES)?;
        traffic.rate_per_s = Some(self.rate);
        traffic.arrivals = self.arrivals.into();
        traffic.verify = self.verify.into();
        traffic.greeting = self.greeting;
        let numbers = Numbers {
            connections,
            ports: connections as f64,
            warmup_ms: self.warmup,
            duration_ms: self.duration,
            reply_timeout_ms: self.reply_timeout,
        };
        let place = self.target.place(self.topics)?;
        let mut plan = plan(place, &numbers, &self.run, Some(traffic))?;
        plan.figures.rate_per_s = Some(self.rate);
        plan.figures.arrivals = Some(self.arrivals.into());
        plan.figures.publishers = Some(self.publishers);
        plan.spins = !self.no_spin && may_spin(plan.shards);
        plan.figures.verify = Some(self.verify.into());
        Ok(plan)
    }
}

impl IngestArgs {
    /// The plan.
    ///
    /// # Errors
    ///
    /// A sentence about the first argument that is wrong.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let numbers = Numbers {
            connections: self.connections,
            ports: self.connections as f64,
            warmup_ms: self.warmup,
            duration_ms: self.duration,
            reply_timeout_ms: self.reply_timeout,
        };
        let traffic = traffic(&self.message, 0)?;
        plan(self.target.place(1)?, &numbers, &self.run, Some(traffic))
    }
}

impl Plan {
    fn churn(&mut self, churn_ms: Option<u64>) {
        self.churn_ms = churn_ms;
        self.figures.churn_ms = churn_ms;
    }

    /// The handshake of connection `index` of the run.
    pub fn request(&self, index: usize) -> &ClientRequest {
        let requests = &self.place.requests;
        &requests[index % requests.len()]
    }

    /// Where connection `index` comes from.
    pub fn source(&self, index: usize) -> Option<IpAddr> {
        (!self.sources.is_empty()).then(|| self.sources[index % self.sources.len()])
    }

    /// The name of a scenario's plan, shared by its threads.
    pub fn shared(self) -> Arc<Self> {
        Arc::new(self)
    }
}

impl Command {
    /// The scenario, when it ends in a run.
    pub const fn scenario(&self) -> Option<Scenario> {
        match self {
            Self::Echo(_) => Some(Scenario::Echo),
            Self::Connect(_) => Some(Scenario::Connect),
            Self::Idle(_) => Some(Scenario::Idle),
            Self::Fanout(_) => Some(Scenario::Fanout),
            Self::Ingest(_) => Some(Scenario::Ingest),
            Self::Saturate(_) => Some(Scenario::Saturate),
            Self::Talk(_) => Some(Scenario::Talk),
            Self::Replay(_) => Some(Scenario::Replay),
            Self::Check(_)
            | Self::Compare(_)
            | Self::Merge(_)
            | Self::Completions { .. }
            | Self::Man { .. } => None,
        }
    }
}

/// A number and its suffix: `1.5M` is 1.5 and `M`.
pub(crate) fn number(text: &str) -> Option<(f64, &str)> {
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    Some((number, suffix))
}

pub(crate) fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a time: write 500ms, 10s, 2m or 1h");
    let (number, unit) = number(text).ok_or_else(wrong)?;
    let unit_ms = match unit {
        "ms" => 1.0,
        "s" | "" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3600e3,
        _ => return Err(wrong()),
    };
    let ms = number * unit_ms;
    if ms > 7.0 * 24.0 * 3600e3 {
        return Err(format!("'{text}' is longer than the week that is allowed"));
    }
    Ok(ms.round() as u64)
}

/// One time, or two with a hyphen between.
fn parse_think(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (parse_duration_ms(from)?, parse_duration_ms(to)?);
    if from > to {
        return Err(format!("'{text}' ends before it begins"));
    }
    match to {
        0 => Err("thinking for no time is not thinking: leave it out".to_owned()),
        _ => Ok(from..=to),
    }
}

/// The shortest life of a connection, in milliseconds: `connect` is for less.
const LIFE_MIN_MS: u64 = 50;

fn parse_life(text: &str) -> Result<u64, String> {
    match parse_duration_ms(text)? {
        ms if ms < LIFE_MIN_MS => Err(format!(
            "'{text}' is shorter than the {LIFE_MIN_MS}ms that a connection lives at least; for \
             handshakes alone there is 'loadgen connect'"
        )),
        ms => Ok(ms),
    }
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed: Option<f64> = text.trim_end_matches('x').parse().ok();
    speed
        .filter(|speed| (0.001..=100_000.0).contains(speed))
        .ok_or_else(|| format!("'{text}' is not a speed from 0.001 to 100000: 2 is twice as fast"))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("'{text}' is not a rate: write messages a second as 500, 20k or 1.5M");
    let (number, unit) = number(text.strip_suffix("/s").unwrap_or(text)).ok_or_else(wrong)?;
    let rate = number
        * match unit {
            "" => 1.0,
            "k" | "K" => 1e3,
            "m" | "M" => 1e6,
            _ => return Err(wrong()),
        };
    if !(RATE_MIN_PER_S..=RATE_MAX_PER_S).contains(&rate) {
        return Err(format!(
            "{text} messages a second are impossible: from {RATE_MIN_PER_S} to 1000M can be asked \
             for"
        ));
    }
    Ok(rate)
}

pub(crate) fn parse_bytes(text: &str) -> Result<usize, String> {
    let wrong = || format!("'{text}' is not a size: write bytes as 20, 16k or 1M");
    let (number, unit) = number(text).ok_or_else(wrong)?;
    let bytes = number
        * match unit {
            "" | "B" => 1.0,
            "k" | "K" | "KiB" => 1024.0,
            "m" | "M" | "MiB" => 1024.0 * 1024.0,
            _ => return Err(wrong()),
        };
    if bytes.fract() != 0.0 {
        return Err(wrong());
    }
    if bytes > SIZE_MAX_BYTES as f64 {
        return Err(format!("'{text}' is more than the 1024M that are allowed"));
    }
    Ok(bytes as usize)
}

fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text
        .parse()
        .or_else(|_| text.parse().map(|ip: IpAddr| ip.into()));
    network.map_err(|_| format!("'{text}' is not a network: write it as 127.0.0.0/24"))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    let wrong = || format!("'{text}' is not a share: write it as 5%");
    let number: f64 = text
        .strip_suffix('%')
        .unwrap_or(text)
        .parse()
        .map_err(|_| wrong())?;
    if !(0.1..=100.0).contains(&number) {
        return Err(format!("'{text}' is not from 0.1% to 100%"));
    }
    Ok(number / 100.0)
}

fn parse_sizes(text: &str) -> Result<Sizes, String> {
    let mut sizes = Vec::new();
    for part in text.split(',') {
        let (size, share) = match part.split_once(':') {
            None => (part, None),
            Some((size, share)) => (size, Some(parse_percent(share)?)),
        };
        sizes.push((parse_bytes(size)?, share));
    }
    let given: f64 = sizes.iter().filter_map(|(_, share)| *share).sum();
    let open = sizes.iter().filter(|(_, share)| share.is_none()).count();
    let tolerance = 1e-9;
    if given > 1.0 + tolerance || (open > 0 && given > 1.0 - tolerance) {
        return Err(format!(
            "the shares in '{text}' leave nothing for the other sizes: together they have to be \
             less than 100%"
        ));
    }
    if open == 0 && given < 1.0 - tolerance {
        return Err(format!("the shares in '{text}' have to add up to 100%"));
    }
    let rest = (1.0 - given) / open.max(1) as f64;
    let sizes = sizes
        .into_iter()
        .map(|(size_bytes, share)| SizeWeight {
            size_bytes,
            weight: share.unwrap_or(rest),
        })
        .collect();
    Ok(Sizes(sizes))
}

/// The most stages of a run.
const STAGES_MAX: usize = 1000;

fn parse_stages(text: &str) -> Result<Stages, String> {
    let wrong = |part: &str| {
        format!("'{part}' is not a stage: write it as 5000@2m, or as 0:1000@30s to grow evenly")
    };
    let rate = |text: &str, part: &str| match text {
        "0" => Ok(0.0),
        _ => parse_rate(text).map_err(|_| wrong(part)),
    };
    let mut stages = Vec::new();
    for part in text.split(',') {
        let (rates, length) = part.split_once('@').ok_or_else(|| wrong(part))?;
        let length_ms = parse_duration_ms(length).map_err(|_| wrong(part))?;
        let (from, to) = rates.split_once(':').unwrap_or((rates, rates));
        if length_ms == 0 {
            return Err(format!("the stage '{part}' has no length"));
        }
        stages.push(Stage {
            from_per_s: rate(from, part)?,
            to_per_s: rate(to, part)?,
            length_ms,
        });
    }
    if stages.len() > STAGES_MAX {
        return Err(format!(
            "{} stages are more than the {STAGES_MAX} that are allowed",
            stages.len()
        ));
    }
    let stages = Stages(stages);
    if stages.mean_per_s() < RATE_MIN_PER_S {
        return Err(format!("the stages '{text}' send nothing"));
    }
    Ok(stages)
}

fn parse_objective(text: &str) -> Result<Objective, String> {
    let wrong = || format!("'{text}' is not an objective: write it as p99.9=1ms");
    let (percentile, latency) = text
        .strip_prefix('p')
        .and_then(|rest| rest.split_once('='))
        .ok_or_else(wrong)?;
    let percentile: f64 = percentile.parse().map_err(|_| wrong())?;
    if !(percentile > 0.0 && percentile <= 100.0) {
        return Err(format!("'{text}' has no percentile above 0 and up to 100"));
    }
    let (number, unit) = number(latency).ok_or_else(wrong)?;
    let ns = number
        * match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            _ => return Err(wrong()),
        };
    if !(1.0..=60e9).contains(&ns) {
        return Err(format!("'{text}' is not from 1ns to 60s"));
    }
    Ok(Objective {
        percentile,
        latency_max_ns: ns as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_rates_and_sizes_are_read() {
        for (text, ms) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("1.5s", 1500),
            ("7", 7000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for (text, rate) in [
            ("1", 1.0),
            ("20k", 20_000.0),
            ("1.5M", 1.5e6),
            ("0.5/s", 0.5),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for (text, bytes) in [
            ("0", 0),
            ("20", 20),
            ("16k", 16_384),
            ("1.5k", 1536),
            ("1M", 1 << 20),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1s", "1d", "1e3", "99999h"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
        for text in ["", "0", "-5", "1e9", "1G", "0.0001"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
        for text in ["", "1.5", "16kb", "-1", "2000M"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_without_a_share_have_what_is_left() {
        let sizes = parse_sizes("20,125,16k:10%").unwrap().0;
        let found: Vec<(usize, f64)> = sizes
            .iter()
            .map(|size| (size.size_bytes, size.weight))
            .collect();
        assert_eq!(found, [(20, 0.45), (125, 0.45), (16_384, 0.1)]);
        assert_eq!(parse_sizes("1:30%,2:70%").unwrap().0.len(), 2);
        for text in [
            "",
            ",",
            "20:0%",
            "20:50%",
            "20:100%,30",
            "20:x",
            "20:60%,30:50%",
        ] {
            assert!(parse_sizes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn files_are_taken_apart_as_they_are_said_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages");
        let read = |bytes: &[u8], format, kind| {
            std::fs::write(&path, bytes).unwrap();
            given_messages(&path, format, kind).map(|messages| messages.to_vec())
        };
        use MessageFormat::{LengthPrefixed, Lines, Whole};
        use MessageKind::{Binary, Text};
        assert_eq!(read(b"a\nb\n", Whole, Text), Ok(vec![b"a\nb\n".to_vec()]));
        let lines = read(b"a\r\n\nb\n", Lines, Text);
        assert_eq!(lines, Ok(vec![b"a".to_vec(), Vec::new(), b"b".to_vec()]));
        let prefixed = read(
            b"\0\0\0\x01a\0\0\0\0\0\0\0\x02\xff\n",
            LengthPrefixed,
            Binary,
        );
        assert_eq!(
            prefixed,
            Ok(vec![b"a".to_vec(), Vec::new(), b"\xff\n".to_vec()])
        );
        for (bytes, format, kind, part) in [
            (&b""[..], Whole, Text, "holds no message"),
            (b"", LengthPrefixed, Binary, "holds no message"),
            (b"a\n\xff\n", Lines, Text, "message 2 is not UTF-8"),
            (b"\0\0\0\x02a", LengthPrefixed, Binary, "cut short"),
            (b"\0\0\0", LengthPrefixed, Binary, "cut short"),
        ] {
            let said = read(bytes, format, kind).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
        let shares = shares_of(&[b"ab".to_vec(), b"c".to_vec(), b"de".to_vec()]);
        assert_eq!(shares.len(), 2);
        assert_eq!(shares[1].size_bytes, 2);
    }

    #[test]
    fn stages_are_read() {
        let stages = parse_stages("0:1000@30s,5k@2m").unwrap();
        let rates: Vec<(f64, f64, u64)> = stages
            .0
            .iter()
            .map(|stage| (stage.from_per_s, stage.to_per_s, stage.length_ms))
            .collect();
        assert_eq!(rates, [(0.0, 1000.0, 30_000), (5000.0, 5000.0, 120_000)]);
        assert_eq!(stages.length_ms(), 150_000);
        assert!((stages.mean_per_s() - 4100.0).abs() < 1e-9);
        for text in [
            "", ",", "1000", "@1s", "1000@", "1000@0s", "a:b@1s", "1:2:3@1s", "0@1s", "-1@1s",
        ] {
            assert!(parse_stages(text).is_err(), "{text}");
        }
    }

    #[test]
    fn objectives_are_read() {
        let found = parse_objective("p99.9=1ms").unwrap();
        assert_eq!((found.percentile, found.latency_max_ns), (99.9, 1_000_000));
        assert_eq!(
            parse_objective("p50=250us").unwrap().latency_max_ns,
            250_000
        );
        for text in [
            "", "p99", "99=1ms", "p0=1ms", "p101=1ms", "p99=1", "p99=2h", "p99=0ms",
        ] {
            assert!(parse_objective(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_the_addresses_that_are_this_machine_s() {
        let own = |text: &str| own_addresses(parse_network(text).unwrap());
        let some = own("127.9.0.0/29").unwrap();
        assert_eq!(some.len(), 6, "{some:?}");
        assert_eq!(some[0], IpAddr::from([127, 9, 0, 1]));
        assert_eq!(own("127.9.0.7"), Ok(vec![IpAddr::from([127, 9, 0, 7])]));
        // For documentation: nobody has it.
        let said = own("198.51.100.0/30").unwrap_err().to_string();
        assert!(
            said.contains("ip route add local 198.51.100.0/30 dev lo"),
            "{said}"
        );
        for text in ["", "127.0.0.0/33", "127.0.0/24", "localhost"] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn loopback_has_a_source_address_for_every_range_of_ports() {
        let place = |url: &str| {
            Cli::try_parse_from(["loadgen", "idle", url])
                .map(|cli| match cli.command {
                    Command::Idle(args) => args.target.place(1).unwrap(),
                    _ => unreachable!("idle was asked for"),
                })
                .unwrap()
        };
        let numbers = |connections| Numbers {
            connections,
            ports: connections as f64,
            warmup_ms: 0,
            duration_ms: 1,
            reply_timeout_ms: 0,
        };
        let local = place("ws://127.0.0.1:9");
        let ports = local_ports();
        assert_eq!(sources(&local, &numbers(ports / 2), &[]), Ok(vec![]));
        let many = sources(&local, &numbers(ports * 3), &[]).unwrap();
        assert_eq!(many.len(), 4);
        assert_eq!(many[0], IpAddr::from([127, 1, 0, 1]));
        let far = place("ws://192.0.2.1:9");
        assert!(sources(&far, &numbers(ports * 3), &[]).is_err());
        let given = [IpAddr::from([192, 0, 2, 7])];
        assert_eq!(sources(&far, &numbers(10), &given), Ok(given.to_vec()));
        let other = [IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])];
        assert!(sources(&far, &numbers(10), &other).is_err());
    }
}
