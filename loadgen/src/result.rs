//! What a finished run is, as plain data.
//!
//! Knows: names, units and meanings. Refuses to know: how a run is made, and how it is shown.
//!
//! ```text
//!   scenario --> Run ------> report::{table, json, hgrm, hlog, html}
//!      |                     compare (two of them, read back from JSON)
//!      +--> Progress ------> report::live, about four times a second
//! ```
//!
//! Every number has its unit in its name; times are nanoseconds or milliseconds, rates are a
//! second's. This is what `--json` writes, so that a field that is renamed here is a new version of
//! the [`SCHEMA`].

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The version of the JSON's schema.
pub const SCHEMA: &str = "loadgen/2";

/// The one before, which is read as well: in `connections.lost` it has those that the server closed
/// in good order, and in `messages.lost` those that were cut off.
pub const SCHEMA_BEFORE: &str = "loadgen/1";

/// A finished run, whatever its scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// Which scenario ran.
    pub scenario: Scenario,
    /// What it ran against.
    pub target: Target,
    /// What was asked for, as it took effect.
    pub plan: PlanFigures,
    /// Where it ran.
    pub environment: Environment,
    /// When it started and what was measured of it.
    pub times: Times,
    /// Connections asked for, opened, failed and lost.
    pub connections: Connections,
    /// Messages of the measured part.
    pub messages: Messages,
    /// Bytes of the measured part.
    pub bytes: Bytes,
    /// Latencies of the measured part.
    pub latency: Latency,
    /// The run in pieces of `times.slice_ms`, warm-up included, in order and without gaps.
    pub slices: Vec<Slice>,
    /// The generator itself, over the measured part.
    pub client: ClientFigures,
    /// The server's process over the measured part, when `--pid` named it.
    pub server: Option<ServerFigures>,
    /// Memory for each connection. Scenario `idle`.
    pub memory: Option<MemoryFigures>,
    /// Deliveries. Scenario `fanout`.
    pub fanout: Option<FanoutFigures>,
    /// What the server says it read. Scenario `ingest`.
    pub ingest: Option<IngestFigures>,
    /// What became of a script. Scenario `talk`.
    #[serde(default)]
    pub talk: Option<TalkFigures>,
    /// What was offered again. Scenario `replay`.
    #[serde(default)]
    pub replay: Option<ReplayFigures>,
    /// The search. Scenario `saturate`; the rest of the run is then its best point's.
    pub search: Option<Search>,
    /// What compression did, warm-up included, when it was asked for.
    #[serde(default)]
    pub compression: Option<CompressionFigures>,
    /// Whether the numbers can be believed.
    pub verdict: Verdict,
    /// The bounds that were given with `--fail-if`, and whether the run kept them.
    #[serde(default)]
    pub fail_if: Vec<FailIfFigures>,
    /// The runs that this one was merged from, in the order in which they were given.
    #[serde(default)]
    pub parts: Vec<Part>,
    /// Sentences that a reader should see beside the numbers, such as a limit that was raised or a
    /// figure that could not be read.
    pub notes: Vec<String>,
}

/// The scenarios that end in a [`Run`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Opens connections and measures the opening handshakes.
    Connect,
    /// Sends messages that come back, stamped and verified.
    Echo,
    /// Some connections send, all others receive.
    Fanout,
    /// Opens connections and holds them.
    Idle,
    /// Sends as fast as the server reads.
    Ingest,
    /// Offers again what a server has recorded.
    Replay,
    /// Searches for the highest rate that meets an objective.
    Saturate,
    /// Goes through a script on each connection.
    Talk,
}

/// What a run ran against.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// The URL, as given.
    pub url: String,
    /// The address that it was resolved to, as `127.0.0.1:9001` or `unix:/path`.
    pub address: String,
    /// The `Server` header of its reply to the opening handshake, when a look was taken.
    pub server_header: Option<String>,
}

/// What was asked for, as it took effect. Fields that a scenario does not have are `None`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PlanFigures {
    /// Threads that generated load.
    pub shards: usize,
    /// Connections asked for.
    pub connections: usize,
    /// How long was to be measured, in milliseconds.
    pub duration_ms: u64,
    /// How long was to be thrown away before, in milliseconds.
    pub warmup_ms: u64,
    /// Open loop: messages (`connect`: connections) a second of the whole run. `None`: closed loop,
    /// or as fast as it goes.
    pub rate_per_s: Option<f64>,
    /// Open loop in stages (`--stages`): the rates, one stage after the other. `rate_per_s` is
    /// their mean then. Empty: one rate.
    #[serde(default)]
    pub stages: Vec<Stage>,
    /// Open loop: how the instants are spread.
    pub arrivals: Option<Arrivals>,
    /// The most unanswered messages on each connection; in a closed loop there are always as many.
    pub in_flight: Option<usize>,
    /// Sizes of payloads with their shares, which add up to 1.
    pub sizes: Vec<SizeShare>,
    /// Messages of a file (`--message`), which are sent in turn; `sizes` are theirs then.
    #[serde(default)]
    pub given_messages: Option<usize>,
    /// Whether messages are text. `None`: none are sent.
    pub text: Option<bool>,
    /// What text is made of.
    pub text_script: Option<TextScript>,
    /// Messages are sent in frames of at most this many bytes of payload.
    pub fragment_bytes: Option<usize>,
    /// How many replies are compared byte by byte; length and stamp always are.
    pub verify: Option<Verify>,
    /// How long a reply may take before it is lost, in milliseconds.
    #[serde(default)]
    pub reply_timeout_ms: Option<u64>,
    /// Messages that the server sends of itself at first on each connection (`--greeting`).
    #[serde(default)]
    pub greeting: u64,
    /// Closed loop: how long a connection thinks before the next message, at least, in milliseconds
    /// (`--think`).
    #[serde(default)]
    pub think_from_ms: Option<u64>,
    /// At most.
    #[serde(default)]
    pub think_to_ms: Option<u64>,
    /// How long a connection lives about, in milliseconds (`--churn`).
    #[serde(default)]
    pub churn_ms: Option<u64>,
    /// Lines of a file that connections take their headers from in turn (`--headers-from`).
    #[serde(default)]
    pub header_lines: Option<usize>,
    /// The file of a script (`talk --script`), or of what was recorded (`replay`).
    #[serde(default)]
    pub file: Option<String>,
    /// How much faster than it was recorded it is offered again (`replay --speed`).
    #[serde(default)]
    pub speed: Option<f64>,
    /// Publishers of `fanout`; all other connections subscribe.
    pub publishers: Option<usize>,
    /// The objective of `saturate`, as given: `p99.9=1ms`.
    pub objective: Option<String>,
    /// Addresses that connections came from, when it was more than the kernel's choice.
    pub source_addresses: usize,
}

/// A time in which the rate stays, or grows or falls evenly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Messages a second of the whole run at its beginning.
    pub from_per_s: f64,
    /// At its end.
    pub to_per_s: f64,
    /// How long it lasts, in milliseconds.
    pub length_ms: u64,
}

/// How scheduled instants are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// At a constant rate, each connection with a phase of its own.
    Constant,
    /// As a Poisson process: exponential gaps.
    Poisson,
}

/// What text payloads are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextScript {
    /// One byte a character.
    Ascii,
    /// Three bytes a character.
    Cjk,
    /// Records in JSON: numbers, names, times and words.
    Json,
}

/// How many replies are compared byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Every one.
    All,
    /// None: length and stamp only.
    None,
    /// One in 64.
    Sampled,
}

/// A size of payloads and how much of the messages have it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizeShare {
    /// Bytes of payload.
    pub size_bytes: usize,
    /// From 0 to 1.
    pub share: f64,
}

/// Where a run was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Environment {
    /// `model name` of `/proc/cpuinfo`.
    pub cpu_model: String,
    /// Processors that are online.
    pub cpus_online: usize,
    /// Processors that the generator may use, as in `taskset`.
    pub cpus_allowed: Vec<usize>,
    /// `MemTotal`, in bytes.
    pub memory_bytes: u64,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub os: String,
    /// The machine's name.
    pub host: String,
    /// The version of loadgen.
    pub loadgen_version: String,
    /// The commit that loadgen was built from, when the build knew it.
    pub loadgen_commit: Option<String>,
    /// `rustc --version` of the build, when the build knew it.
    pub rustc_version: Option<String>,
    /// Whether it is a release build. Figures of a debug build mean nothing.
    pub release_build: bool,
    /// The command line, word by word.
    pub command: Vec<String>,
}

/// When a run started, and what of it was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Times {
    /// When the first message was due (`connect`, `idle`: when the first connection was dialled),
    /// in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// When it was to start (`--start-at`), in milliseconds since 1970.
    #[serde(default)]
    pub start_at_unix_ms: Option<u64>,
    /// How long after that it started, in milliseconds.
    #[serde(default)]
    pub start_late_ms: Option<u64>,
    /// How long it took to open the connections, in milliseconds. Before `started`.
    pub connecting_ms: f64,
    /// What was thrown away at the start, in milliseconds: nothing in the run's figures but
    /// `slices` has it.
    pub warmup_ms: u64,
    /// What was measured, in milliseconds.
    pub measured_ms: f64,
    /// The wait for the last replies after the last message, in milliseconds.
    pub drain_ms: f64,
    /// The length of one slice, in milliseconds: 100, or more for long runs.
    pub slice_ms: u64,
    /// Ctrl-C ended the run before its time.
    pub interrupted: bool,
}

/// What became of the connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Connections {
    /// Asked for.
    pub asked: u64,
    /// Opened.
    pub opened: u64,
    /// Closed by the generator in good order to be opened anew: with `--churn`, and where the
    /// conversation of a `talk` broke off.
    #[serde(default)]
    pub renewed: u64,
    /// Those whose TLS handshake was short, by a ticket of an earlier one.
    #[serde(default)]
    pub resumed: u64,
    /// Never opened.
    pub failed: u64,
    /// Opened, and ended before the run did: broken off, or closed for an error.
    pub lost: u64,
    /// Opened, and closed by the server in good order before the run had ended (1000, 1001, 1012,
    /// 1013, an application's own code, or none).
    #[serde(default)]
    pub closed: u64,
    /// Why those failed: a sentence, and how many.
    pub failed_reasons: BTreeMap<String, u64>,
    /// Why those were lost: a sentence, and how many.
    pub lost_reasons: BTreeMap<String, u64>,
    /// How those were closed: a sentence, and how many.
    #[serde(default)]
    pub closed_reasons: BTreeMap<String, u64>,
}

/// What became of the messages of the measured part. For `connect`, messages are opening
/// handshakes.
///
/// Echo: `sent = received + lost + cut_off` where nothing was duplicated, and a corrupted or
/// reordered reply is also received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// Open loop: instants that came. Closed loop: as `sent`.
    pub scheduled: u64,
    /// Sent.
    pub sent: u64,
    /// Scheduled, and not sent when the run ended: the backlog of a server (or generator) that did
    /// not keep up. Each counts in no histogram.
    pub unsent: u64,
    /// Replies to messages of the measured part, each message counted once.
    pub received: u64,
    /// Sent, and not answered although the time for it was over (`plan.reply_timeout_ms`), or
    /// although the connection ended long after an answer was due.
    pub lost: u64,
    /// Sent, and not answered because the connection ended while an answer could still come: nobody
    /// can tell whether the server had read them.
    #[serde(default)]
    pub cut_off: u64,
    /// Messages that the server sent of itself at first, as `--greeting` says: skipped.
    #[serde(default)]
    pub greetings: u64,
    /// Messages that the server sent of itself and that `--greeting` does not say, over the whole
    /// run. They answer nothing and are in no other figure.
    #[serde(default)]
    pub unasked: u64,
    /// The most of them on one connection before its first answer.
    #[serde(default)]
    pub unasked_most: u64,
    /// Replies to messages that were answered already.
    pub duplicated: u64,
    /// Replies that came after the reply to a later message of their connection.
    pub reordered: u64,
    /// Replies of the wrong length, stamp, kind or content, or to no message of ours.
    pub corrupted: u64,
    /// Open loop: sent more than 1 ms after their instant, by the generator's own fault or because
    /// the connection had as many unanswered messages as it may have.
    pub late: u64,
    /// Replies that were compared byte by byte.
    pub compared: u64,
}

/// Bytes of payload of the measured part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// In messages sent.
    pub payload_sent: u64,
    /// In messages received.
    pub payload_received: u64,
}

/// What compression (permessage-deflate) did from the first message to the last, warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompressionFigures {
    /// Connections on which the server agreed to it.
    pub connections: u64,
    /// Messages sent compressed.
    pub messages_sent: u64,
    /// Bytes of payload in them.
    pub payload_sent: u64,
    /// Bytes that they became.
    pub compressed_sent: u64,
    /// Messages received compressed.
    pub messages_received: u64,
    /// Bytes of payload in them.
    pub payload_received: u64,
    /// Bytes that they came as.
    pub compressed_received: u64,
}

/// Latencies of the measured part, in nanoseconds, each to three significant digits and up to 60
/// seconds; a longer one counts as 60.
///
/// `echo`, `saturate`: from a message to its reply. `connect`: from a dial to the reply 101.
/// `fanout`: from a message to each delivery. `idle`, `ingest`: empty.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// From the scheduled instant: what somebody waits who does not care why. In a closed loop
    /// there are no instants, and this is the same as `uncorrected_ns`.
    #[serde(with = "crate::histogram::base64")]
    pub corrected_ns: Histogram<u64>,
    /// From the actual send: what a generator reports that waits for the server (coordinated
    /// omission).
    #[serde(with = "crate::histogram::base64")]
    pub uncorrected_ns: Histogram<u64>,
    /// From a dial to the reply 101, of every connection that opened.
    #[serde(with = "crate::histogram::base64")]
    pub handshake_ns: Histogram<u64>,
    /// Whether the two differ in meaning: an open loop.
    pub has_schedule: bool,
}

/// A piece of a run. Messages belong to the slice in which their reply came, those that were sent
/// to the one in which they were sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// Where it starts, in milliseconds from the start of the run (warm-up begins at 0).
    pub start_ms: u64,
    /// It lies in the warm-up, and its messages are in no other figure.
    pub is_warmup: bool,
    /// It was cut short by the run's end: its rate means nothing.
    pub is_partial: bool,
    /// Messages sent (`connect`, `idle`: connections dialled).
    pub sent: u64,
    /// Messages received (`connect`, `idle`: connections opened).
    pub received: u64,
    /// Bytes of payload sent.
    pub payload_bytes_sent: u64,
    /// Bytes of payload received.
    pub payload_bytes_received: u64,
    /// Lost connections, and duplicated, reordered and corrupted messages.
    pub errors: u64,
    /// CPU time that the server's process took while the slice ran, in nanoseconds, when `--pid`
    /// named it. `compare` draws its intervals for the server's CPU from here.
    pub server_cpu_ns: Option<u64>,
    /// Latency from the scheduled instant of what was received, in nanoseconds, to two significant
    /// digits; the same as [`Latency::corrected_ns`] otherwise. Percentiles of the slice and the
    /// bootstrap's samples come from here.
    #[serde(with = "crate::histogram::base64")]
    pub latency_ns: Histogram<u64>,
}

/// The generator over the measured part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientFigures {
    /// CPU time of its threads, in nanoseconds.
    pub cpu_ns: u64,
    /// Of that, per message that it sent or received, a round trip counted once; 0 without
    /// messages.
    pub cpu_ns_per_message: f64,
    /// CPU time of the busiest thread over the measured time, from 0 to 1.
    pub busiest_share: f64,
    /// Time that the threads were ready to run and had no processor, in nanoseconds.
    pub run_queue_wait_ns: u64,
    /// `voluntary_ctxt_switches` of its threads.
    pub context_switches_voluntary: u64,
    /// `nonvoluntary_ctxt_switches` of its threads.
    pub context_switches_involuntary: u64,
    /// Open loop: how long after its instant each message was sent by the generator's own fault, in
    /// nanoseconds. Empty in a closed loop.
    #[serde(with = "crate::histogram::base64")]
    pub lateness_ns: Histogram<u64>,
    /// The most messages that were due and unsent at one time because their connections had as many
    /// unanswered messages as they may have.
    pub backlog_max: u64,
}

/// The server's process, all threads, over the measured part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerFigures {
    /// `--pid`.
    pub pid: u32,
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// Of that, per message, a round trip counted once (`fanout`: a delivery); 0 without messages.
    pub cpu_ns_per_message: f64,
    /// CPU time of its busiest thread over the measured time, from 0 to 1.
    pub busiest_share: f64,
    /// Time that its threads were ready to run and had no processor, in nanoseconds.
    pub run_queue_wait_ns: u64,
    /// `voluntary_ctxt_switches` of its threads.
    pub context_switches_voluntary: u64,
    /// `nonvoluntary_ctxt_switches` of its threads.
    pub context_switches_involuntary: u64,
    /// Resident memory before the first connection, in bytes.
    pub resident_before_bytes: u64,
    /// Resident memory at the end, with the connections open, in bytes.
    pub resident_after_bytes: u64,
}

/// What connections cost while nothing happens on them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryFigures {
    /// How many connections were held.
    pub connections_held: u64,
    /// Growth of the server's resident memory for each, in bytes. With `--pid`, unless it shrank.
    pub server_resident_per_connection_bytes: Option<f64>,
    /// Growth of the generator's own resident memory for each, in bytes.
    pub client_resident_per_connection_bytes: f64,
    /// Growth of the kernel's memory for each, in bytes, both ends of the connection when both are
    /// on this machine. From `/proc/net/sockstat` and, where it may be read, `/proc/slabinfo` or
    /// `Slab` of `/proc/meminfo`. `None`, as the next two, when it shrank or grew too little for
    /// what earlier connections gave back meanwhile.
    pub kernel_per_connection_bytes: Option<f64>,
    /// Growth of the kernel's slab memory, in bytes: sockets, descriptors, queues' heads.
    pub kernel_slab_growth_bytes: Option<i64>,
    /// Growth of `TCP: mem` of `/proc/net/sockstat`, in bytes: queues.
    pub kernel_tcp_growth_bytes: Option<i64>,
}

/// What was published and what was delivered in the measured part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanoutFigures {
    /// Connections that published.
    pub publishers: u64,
    /// Connections that subscribed.
    pub subscribers: u64,
    /// Messages published.
    pub published: u64,
    /// Deliveries that should have come: each message once to each subscriber of its stream that
    /// was open for all of the run.
    pub expected: u64,
    /// Deliveries that came, each message once for each subscriber.
    pub delivered: u64,
    /// Deliveries that did not come.
    pub missing: u64,
    /// Times that the sequence of a publisher jumped at a subscriber.
    pub gaps: u64,
    /// Deliveries of what had been delivered already.
    pub duplicates: u64,
    /// Whether publishers hear their own messages as well; those are in no figure.
    pub publishers_hear_themselves: bool,
}

/// What the server of an `ingest` run says it read, over the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngestFigures {
    /// Connections on which the server answered a ping that was sent after the last message, so
    /// that everything sent on them was read.
    pub connections_confirmed: u64,
    /// Frames sent, warm-up included.
    pub frames_sent: u64,
    /// Frames of the measured part.
    pub frames_measured: u64,
    /// Messages that the server counted, if it answers `stats`.
    pub server_messages: Option<u64>,
    /// Bytes of payload that the server counted, if it answers `stats`.
    pub server_payload_bytes: Option<u64>,
    /// Messages sent before `stats` was asked on the connections that answered, to compare with.
    pub confirmed_messages: u64,
}

/// What became of a script, in the measured part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TalkFigures {
    /// How often the script was gone through to its end, warm-up included.
    pub conversations: u64,
    /// Conversations that were broken off because what was expected did not come, warm-up included.
    pub broken_off: u64,
    /// Messages that came and that no step expected, warm-up included.
    pub unexpected: u64,
    /// The steps, in the order of the script.
    pub steps: Vec<TalkStep>,
    /// What came instead of what was expected, the most frequent first, warm-up included.
    pub mismatches: Vec<TalkMismatch>,
    /// Mismatches that differ from all of those.
    pub more_mismatches: u64,
}

/// One step of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TalkStep {
    /// Its name, or its number.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// Answers that it expected and that came.
    pub answered: u64,
    /// Answers that did not come, or were others.
    pub failed: u64,
    /// Median from what was sent last to the answer, in nanoseconds; 0 without answers.
    pub p50_ns: u64,
    /// 99th percentile of that, in nanoseconds.
    pub p99_ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
}

/// What came instead of what a step expected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TalkMismatch {
    /// The step's name, or its number.
    pub name: String,
    /// Its line in the file.
    pub line: usize,
    /// What it expects, in words.
    pub expected: String,
    /// What came, in few words.
    pub came: String,
    /// How often.
    pub count: u64,
}

/// What a server had recorded, and how true to its schedule it was offered again. How late messages
/// were sent is in `client.lateness_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplayFigures {
    /// Connections in the file.
    pub recorded_connections: u64,
    /// Messages in the file.
    pub recorded_messages: u64,
    /// How long the recording is, in milliseconds.
    pub recorded_ms: f64,
    /// What the server could not record, because its thread was behind or the file was full.
    /// `None`: the file is cut short, and nobody knows.
    pub unrecorded: Option<u64>,
    /// Messages that were not sent, because their connection did not open or had ended.
    pub unsent: u64,
}

/// The search of `saturate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Search {
    /// The objective.
    pub objective: Objective,
    /// The highest rate that met the objective and was confirmed, in messages a second.
    pub rate_per_s: Option<f64>,
    /// Why the search ended where it did, as a sentence.
    pub ended: String,
    /// Every rate that was tried, in the order in which it was.
    pub points: Vec<SearchPoint>,
}

/// A percentile that has to stay below a latency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// Such as 99.9.
    pub percentile: f64,
    /// The most that it may be, in nanoseconds.
    pub latency_max_ns: u64,
}

/// One rate of a search, as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchPoint {
    /// What was asked for, in messages a second.
    pub rate_per_s: f64,
    /// What came back, in messages a second.
    pub received_per_s: f64,
    /// Corrected median, in nanoseconds.
    pub p50_ns: u64,
    /// Corrected 99th percentile, in nanoseconds.
    pub p99_ns: u64,
    /// Corrected 99.9th percentile, in nanoseconds.
    pub p99_9_ns: u64,
    /// Corrected latency at the objective's percentile, in nanoseconds.
    pub objective_ns: u64,
    /// The longest corrected latency, in nanoseconds.
    pub max_ns: u64,
    /// What the run was for.
    pub step: SearchStep,
    /// Whether the objective was met, every message was answered, and the rate was kept.
    pub met: bool,
    /// Whether the generator was the bottleneck.
    pub client_bound: bool,
}

/// What a run of a search was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchStep {
    /// Half way between a rate that met the objective and one that did not.
    Bisect,
    /// Once more at a rate that met the objective.
    Confirm,
    /// Twice the rate before.
    Double,
}

/// One of several runs that were merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The machine that it was made on.
    pub host: String,
    /// How long after the first of them it started, by the machines' clocks, in milliseconds.
    pub started_after_ms: u64,
    /// How long after the moment of `--start-at` it started, in milliseconds; `None` without one.
    #[serde(default)]
    pub start_late_ms: Option<u64>,
    /// Threads that generated load.
    pub shards: usize,
    /// Replies to messages of its measured part.
    pub received: u64,
    /// CPU time of its threads per message, in nanoseconds.
    pub cpu_ns_per_message: f64,
    /// CPU time of its busiest thread over the measured time, from 0 to 1.
    pub busiest_share: f64,
    /// Corrected 99th percentile of its own, in nanoseconds; 0 without messages.
    pub p99_ns: u64,
    /// Its own verdict.
    pub verdict: VerdictKind,
}

/// A bound that a run had to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FailIfFigures {
    /// As it was given: `p99>5ms`.
    pub bound: String,
    /// The figure, in nanoseconds, a second, bytes, or as a count; as a share from 0 to 1 where the
    /// bound is one. `None` when it was not measured.
    pub measured: Option<f64>,
    /// It is beyond the bound, or was not measured. Exit status 5, unless the verdict has one.
    pub failed: bool,
    /// What was measured and what the bound is, as a sentence.
    pub sentence: String,
}

/// Whether the numbers can be believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// In one word.
    pub kind: VerdictKind,
    /// Why, a sentence each. Empty when it is `Sound`.
    pub reasons: Vec<String>,
    /// `--allow-client-bound` was given: the exit status does not show it.
    pub client_bound_allowed: bool,
}

/// A verdict in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictKind {
    /// The generator was the bottleneck: this says nothing about the server. Exit status 3.
    ClientBound,
    /// Messages or connections were lost, or replies were wrong. Exit status 1.
    Faulty,
    /// It was interrupted, and its figures are about the time until then. Exit status 130.
    Interrupted,
    /// It did not go as it was asked to, and nothing shows that this is anybody's fault: the rate
    /// was not reached, or the server closed connections. Exit status 4.
    NotAsAsked,
    /// The numbers are the server's. Exit status 0.
    Sound,
}

/// How a run is going, about four times a second.
#[derive(Clone, Debug)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// What it is doing in words, where the phase does not say it: a step of a search.
    pub note: Option<String>,
    /// Since the phase began, in milliseconds.
    pub elapsed_ms: u64,
    /// Until the phase ends, in milliseconds, when that is known.
    pub remaining_ms: Option<u64>,
    /// Connections open now.
    pub connections_open: u64,
    /// Connections asked for.
    pub connections_asked: u64,
    /// Messages received (`connect`, `idle`: connections opened) a second, since the last snapshot.
    pub rate_per_s: f64,
    /// The rate that was asked for, in an open loop.
    pub rate_asked_per_s: Option<f64>,
    /// Bytes of payload received a second (`ingest`: sent), since the last snapshot.
    pub payload_bytes_per_s: f64,
    /// Corrected median since the last snapshot, in nanoseconds; `None` when nothing was measured.
    pub p50_ns: Option<u64>,
    /// Corrected 99th percentile since the last snapshot, in nanoseconds.
    pub p99_ns: Option<u64>,
    /// Failed and lost connections, and wrong replies, since the start.
    pub errors: u64,
    /// Messages were sent for a while, and none has come.
    pub nothing_came: bool,
    /// CPU time of the generator's busiest thread since the last snapshot, from 0 to 1; `None`
    /// before its threads are known.
    pub client_busy_share: Option<f64>,
}

/// The phases of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Connections are being opened.
    Connecting,
    /// Connections are open, and the moment to start has not come.
    Waiting,
    /// Load runs, nothing counts yet.
    WarmUp,
    /// Load runs and counts.
    Measuring,
    /// Waiting for the last replies, or for the closing handshakes.
    Draining,
}

/// What `loadgen check` found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was probed.
    pub target: Target,
    /// Where from.
    pub environment: Environment,
    /// The probes, in order.
    pub probes: Vec<CheckProbe>,
    /// The expectation of the probe since which the server accepts no connection: none after it was
    /// made. `None` when it was there until the end.
    #[serde(default)]
    pub gone_since: Option<String>,
}

/// One probe of `loadgen check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProbe {
    /// What it is about: `handshake`, `frames`, `close`, `limits`.
    pub group: String,
    /// What a server has to do, as a sentence.
    pub expectation: String,
    /// Where that stands, such as `RFC 6455 4.2.2`; empty for limits, which are the server's
    /// choice.
    pub source: String,
    /// Whether it did.
    pub outcome: CheckOutcome,
    /// What was seen.
    pub seen: String,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CheckOutcome {
    /// As the RFC demands.
    Pass,
    /// Not as the RFC demands.
    Fail,
    /// Neither right nor wrong, but good to know.
    Info,
}
