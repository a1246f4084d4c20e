//! `ringwire serve`: arguments into a server, signals into its end.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    process::{self, ExitCode},
    sync::mpsc,
    thread,
    time::Duration,
};

#[cfg(feature = "tls")]
use super::tls::{Reloader, TlsArgs};
use super::{
    engine::{Building, Engine, Ring, Serving},
    log::Log,
};
use ringwire::{
    Address, Config,
    service::{Echo, Gate, OriginError, Origins},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

/// How long the end of the process waits until somebody has taken the words at its start.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

const DEFAULT_ADDRESS: &str = "127.0.0.1:9001";

/// Where to listen and what to allow.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Listen here: IP:PORT, [IPV6]:PORT or unix:/path. Repeat it for several addresses; port 0
    /// lets the kernel choose [default: 127.0.0.1:9001, unless there is a --tls-listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Vec<String>,
    #[cfg(feature = "tls")]
    #[command(flatten)]
    tls: TlsArgs,
    /// What serves: shards on rings of their own, or the async API on tokio-uring (on epoll: on
    /// tokio), to compare and for kernels from 5.15 on
    #[arg(long, value_enum, value_name = "ENGINE", default_value = "shard")]
    engine: Engine,
    /// What it runs on. auto: io_uring where this host allows it, else epoll, with a warning
    /// that says why and what to do; uring: io_uring, or no start; epoll: epoll, on every kernel
    /// since 4.18
    #[arg(long, value_enum, value_name = "RING", default_value = "auto")]
    ring: Ring,
    /// Shards, one thread and one ring each [default: one for each processor]
    #[arg(long, value_name = "N")]
    shards: Option<usize>,
    /// Let shards move between processors
    #[arg(long)]
    no_pin: bool,
    /// The longest message; a longer one ends its connection with 1009
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().message_bytes_max)]
    message_bytes_max: u64,
    /// The most fragments in one message; more end its connection with 1008
    #[arg(long, value_name = "N", default_value_t = Config::default().message_fragments_max)]
    message_fragments_max: u32,
    /// The longest head of a request; a longer one is answered 431
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().head_bytes_max)]
    head_bytes_max: usize,
    /// How long the opening handshake may take; a slower one is answered 408
    #[arg(long, value_name = "MS", default_value_t = Config::default().handshake_timeout_ms)]
    handshake_timeout_ms: u64,
    /// Drop a connection that is silent for this long, at most 24 days, after a ping at half of it;
    /// 0: never
    #[arg(long, value_name = "MS", default_value_t = Config::default().idle_timeout_ms)]
    idle_timeout_ms: u64,
    /// End a connection with 1008 whose message does not get on for this long: it has to become
    /// whole, or to grow by 16 KiB; 0: never
    #[arg(long, value_name = "MS", default_value_t = Config::default().message_timeout_ms)]
    message_timeout_ms: u64,
    /// How long the closing handshake may take, and as long again whenever the peer has read 16 KiB
    /// of what is left for it
    #[arg(long, value_name = "MS", default_value_t = Config::default().close_timeout_ms)]
    close_timeout_ms: u64,
    /// How long to wait for connections to close when stopping
    #[arg(long, value_name = "MS", default_value_t = Config::default().drain_timeout_ms)]
    drain_timeout_ms: u64,
    /// Stop reading from a peer with this many bytes queued for it
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().queue_high_bytes)]
    queue_high_bytes: usize,
    /// Read from it again at this many
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().queue_low_bytes)]
    queue_low_bytes: usize,
    /// Refuse to queue more than this for one peer
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().queue_bytes_max)]
    queue_bytes_max: usize,
    /// Memory that the connections of one shard may hold. On the way there, new ones get a 503,
    /// those who hold most are not read from, and at last they are closed with 1013. 0: half of
    /// what the process may have, in equal parts for each shard
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().memory_bytes_max)]
    memory_bytes_max: usize,
    /// The most connections of one shard; more wait for a twentieth of the handshake timeout, and
    /// are answered 503 then
    #[arg(long, value_name = "N", default_value_t = Config::default().shard_connections_max)]
    shard_connections_max: u32,
    /// Connections that may wait to be accepted
    #[arg(long, value_name = "N", default_value_t = Config::default().backlog)]
    backlog: u32,
    /// Receive buffers of each shard, a power of two
    #[arg(long, value_name = "N", default_value_t = Config::default().recv_buffers)]
    recv_buffers: u16,
    /// Bytes in each receive buffer
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().recv_buffer_bytes)]
    recv_buffer_bytes: u32,
    /// Bytes in each of the four large receive buffers, for long messages
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().recv_large_buffer_bytes)]
    recv_large_buffer_bytes: u32,
    /// Fill receive buffers whole instead of piece by piece
    #[arg(long)]
    no_recv_incremental: bool,
    /// Look for work for so long before sleeping: answers sooner, and keeps the processor busy
    #[arg(long, value_name = "US", default_value_t = Config::default().busy_poll_us)]
    busy_poll_us: u32,
    /// Bytes in each chunk that outgoing frames are written into
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().send_chunk_bytes)]
    send_chunk_bytes: usize,
    /// From how many bytes on a message that goes back as it came is sent from where it lies
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().send_in_place_bytes_min)]
    send_in_place_bytes_min: usize,
    /// Let pages of this origin open connections, and no others but those of further
    /// --allow-origin; without any, all may. https://example.com, https://*.example.com for what
    /// is below it, http://localhost:* for every port, same-origin, null, or * for all;
    /// /sink=https://example.com for one path alone. Others get a 403. Programs that send no
    /// Origin are let in. The built-in page is same-origin
    #[arg(long, value_name = "[PATH=]ORIGIN", value_parser = Allowed::parse)]
    allow_origin: Vec<Allowed>,
    /// Answer opening handshakes as a server of old did, for clients that compare the reply with
    /// a recording. kaazing: the gateway behind echo.websocket.org in 2012, with its reason
    /// phrase, its order of headers and the origin in Access-Control headers; its name is up to
    /// --server-header
    #[arg(long, value_name = "SERVER")]
    compat: Option<Compat>,
    /// Let clients of hixie-76 (hybi-00), the protocol before RFC 6455, connect as well; without
    /// this they are answered 426. They cannot be pinged: one that only listens is closed after
    /// the idle timeout
    #[arg(long)]
    legacy_hixie76: bool,
    /// Compress messages with clients that offer it (permessage-deflate)
    #[arg(long)]
    compress: bool,
    /// How hard to compress, from 1 (fast) to 9 (small)
    #[arg(long, value_name = "N", default_value_t = Config::default().compress_level,
          requires = "compress")]
    compress_level: u8,
    /// Send messages of fewer bytes as they are, at least 126
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().compress_bytes_min,
          requires = "compress")]
    compress_bytes_min: usize,
    /// Send messages of more bytes as they are: one is compressed in one go, while all others wait
    #[arg(long, value_name = "BYTES", default_value_t = Config::default().compress_bytes_max,
          requires = "compress")]
    compress_bytes_max: usize,
    /// The window to compress with, from 8 to 15 bits
    #[arg(long, value_name = "BITS", default_value_t = Config::default().compress_window_bits,
          requires = "compress")]
    compress_window_bits: u8,
    /// Let messages refer to earlier ones: fewer bytes, for 2 to the window's bits bytes of memory
    /// a connection; 12 bits are good with it
    #[arg(long, requires = "compress")]
    compress_context_takeover: bool,
    /// The window that clients are told to use, from 8 to 15 bits
    #[arg(long, value_name = "BITS", default_value_t = Config::default().inflate_window_bits,
          requires = "compress")]
    inflate_window_bits: u8,
    /// Let clients refer to their earlier messages, for as much memory again
    #[arg(long, requires = "compress")]
    inflate_context_takeover: bool,
    /// The most bytes that a compressed byte of a long message may become; 0: any number
    #[arg(long, value_name = "N", default_value_t = Config::default().inflate_ratio_max,
          requires = "compress")]
    inflate_ratio_max: u32,
    /// Memory of each shard for referring to earlier messages; new connections do without when it
    /// is spent
    #[arg(long, value_name = "BYTES", requires = "compress",
          default_value_t = Config::default().compress_windows_bytes_max)]
    compress_windows_bytes_max: usize,
    /// The Server header of replies; empty: none
    #[arg(long, value_name = "TEXT", default_value = "ringwire")]
    server_header: String,
    /// Send no Date header
    #[arg(long)]
    no_date_header: bool,
    /// What to write to standard error: error, warn, info, debug or trace. Nothing waits for it:
    /// lines that are not read in time, or cannot be written, are dropped and counted
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: tracing::Level,
}

/// Whose 101 to imitate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Compat {
    Kaazing,
}

/// An origin that is welcome, at one path or at all.
#[derive(Clone, Debug)]
struct Allowed {
    path: Option<String>,
    origin: String,
}

impl Allowed {
    fn parse(text: &str) -> Result<Self, OriginError> {
        // An origin begins with a letter or an asterisk.
        let (path, origin) = match text.split_once('=') {
            Some((path, origin)) if path.starts_with('/') => (Some(path.to_owned()), origin),
            _ => (None, text),
        };
        Origins::default().allow(origin)?;
        let origin = origin.to_owned();
        Ok(Self { path, origin })
    }
}

impl Args {
    /// The service, with what stands before it.
    fn service(&self) -> Result<Gate<Echo>, OriginError> {
        let compat = self.compat == Some(Compat::Kaazing);
        let mut gate = Gate::new(Echo).like_kaazing(compat);
        let of = |path: Option<&str>| {
            let allowed = self.allow_origin.iter();
            let mut here = allowed.filter(|allowed| allowed.path.as_deref() == path);
            here.try_fold(Origins::default(), |origins, allowed| {
                origins.allow(&allowed.origin)
            })
        };
        if self
            .allow_origin
            .iter()
            .any(|allowed| allowed.path.is_none())
        {
            gate = gate.origins(of(None)?);
        }
        for allowed in &self.allow_origin {
            if let Some(path) = &allowed.path {
                gate = gate.route(path, of(Some(path))?);
            }
        }
        Ok(gate)
    }

    /// An address of TLS alone says that nothing is to be plain.
    fn plain_addresses(&self) -> Vec<&str> {
        #[cfg(feature = "tls")]
        if self.listen.is_empty() && self.tls.has_addresses() {
            return Vec::new();
        }
        if self.listen.is_empty() {
            return vec![DEFAULT_ADDRESS];
        }
        self.listen.iter().map(String::as_str).collect()
    }

    /// An option that was given and that the engine does not have.
    fn option_without_meaning(&self) -> Option<&'static str> {
        if self.engine == Engine::Shard {
            return None;
        }
        let default = Config::default();
        if self.recv_buffers != default.recv_buffers {
            return Some("--recv-buffers");
        }
        if self.recv_buffer_bytes != default.recv_buffer_bytes {
            return Some("--recv-buffer-bytes");
        }
        if self.no_recv_incremental {
            return Some("--no-recv-incremental");
        }
        if self.busy_poll_us != default.busy_poll_us {
            return Some("--busy-poll-us");
        }
        let min = self.send_in_place_bytes_min;
        (min != default.send_in_place_bytes_min).then_some("--send-in-place-bytes-min")
    }

    fn config(&self) -> Config {
        let mut config = Config::default();
        config.message_bytes_max = self.message_bytes_max;
        config.message_fragments_max = self.message_fragments_max;
        config.head_bytes_max = self.head_bytes_max;
        config.handshake_timeout_ms = self.handshake_timeout_ms;
        config.idle_timeout_ms = self.idle_timeout_ms;
        config.message_timeout_ms = self.message_timeout_ms;
        config.close_timeout_ms = self.close_timeout_ms;
        config.drain_timeout_ms = self.drain_timeout_ms;
        config.queue_high_bytes = self.queue_high_bytes;
        config.queue_low_bytes = self.queue_low_bytes;
        config.queue_bytes_max = self.queue_bytes_max;
        config.memory_bytes_max = self.memory_bytes_max;
        config.shard_connections_max = self.shard_connections_max;
        config.backlog = self.backlog;
        config.recv_buffers = self.recv_buffers;
        config.recv_buffer_bytes = self.recv_buffer_bytes;
        config.recv_large_buffer_bytes = self.recv_large_buffer_bytes;
        config.recv_incremental = !self.no_recv_incremental;
        config.busy_poll_us = self.busy_poll_us;
        config.send_chunk_bytes = self.send_chunk_bytes;
        config.send_in_place_bytes_min = self.send_in_place_bytes_min;
        config.legacy_hixie76 = self.legacy_hixie76;
        config.compress = self.compress;
        config.compress_level = self.compress_level;
        config.compress_bytes_min = self.compress_bytes_min;
        config.compress_bytes_max = self.compress_bytes_max;
        config.compress_window_bits = self.compress_window_bits;
        config.compress_context_takeover = self.compress_context_takeover;
        config.inflate_window_bits = self.inflate_window_bits;
        config.inflate_context_takeover = self.inflate_context_takeover;
        config.inflate_ratio_max = self.inflate_ratio_max;
        config.compress_windows_bytes_max = self.compress_windows_bytes_max;
        config.server_header = (!self.server_header.is_empty()).then(|| self.server_header.clone());
        config.date_header = !self.no_date_header;
        config
    }
}

/// Serves until SIGTERM or SIGINT, then drains.
pub fn run(args: &Args) -> ExitCode {
    let log = match Log::start(io::stderr()) {
        Ok(log) => log,
        Err(error) => {
            // Nothing runs yet that could be kept waiting.
            let _ = writeln!(io::stderr(), "ringwire: cannot start a thread: {error}");
            return ExitCode::FAILURE;
        }
    };
    log.take_panics();
    tracing_subscriber::fmt()
        .with_max_level(args.log)
        .with_writer(log.clone())
        .with_ansi(io::stderr().is_terminal())
        .init();
    let code = match serve(args, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            log.put(format!("ringwire: {sentence}\n").as_bytes());
            ExitCode::FAILURE
        }
    };
    log.flush();
    code
}

/// # Errors
///
/// A sentence about what went wrong.
fn serve(args: &Args, log: &Log) -> Result<(), String> {
    keep_memory_small();
    raise_open_file_limit();
    // Before anything listens: whoever can reach the server can also be told goodbye.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    if let Some(option) = args.option_without_meaning() {
        return Err(format!(
            "{option} has no meaning with --engine async, which receives and sends without a ring \
             of ours; leave it out"
        ));
    }
    let mut builder = Building::new(args.engine, args.ring, args.config(), !args.no_pin);
    #[cfg(feature = "tls")]
    let mut reloader = None;
    #[cfg(feature = "tls")]
    if let Some((addresses, tls)) = args.tls.listeners()? {
        for address in addresses {
            builder = builder.listen_tls(address, &tls);
        }
        reloader = Some(Reloader::start(tls).map_err(no_thread)?);
    }
    for address in args.plain_addresses() {
        builder = builder.listen(address);
    }
    if let Some(shards) = args.shards {
        builder = builder.threads(shards);
    }
    let service = args.service().map_err(|error| error.to_string())?;
    let server = builder.start(service).map_err(|error| error.to_string())?;
    let reload = move || {
        #[cfg(feature = "tls")]
        if let Some(reloader) = &reloader {
            return reloader.reload();
        }
        tracing::info!("SIGHUP: there are no certificates to read again");
    };
    obey(signals, server.stopper(), reload, log.clone()).map_err(no_thread)?;
    let greeted = greet(&server).map_err(no_thread)?;
    let ended = server.join().map_err(|error| error.to_string());
    // Who reads it may be slow, or not there.
    let _ = greeted.recv_timeout(GREETING_TIMEOUT);
    ended
}

fn no_thread(error: io::Error) -> String {
    format!("cannot start a thread: {error}")
}

/// Does what signals ask for, on a thread of its own.
fn obey(
    mut signals: Signals,
    stop: Box<dyn FnOnce() + Send>,
    reload: impl Fn() + Send + 'static,
    log: Log,
) -> io::Result<()> {
    let body = move || {
        let mut stop = Some(stop);
        for signal in signals.forever() {
            if signal == SIGHUP {
                reload();
            } else if let Some(stop) = stop.take() {
                tracing::info!(signal, "stopping: closing connections with 1001");
                stop();
            } else {
                // Whoever asks again does not want to wait.
                tracing::warn!("asked again: dropping what is left");
                log.flush();
                process::exit(130);
            }
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(body)?;
    Ok(())
}

/// Says where the server is and what to try next, on a thread of its own: whoever is to read it may
/// not do so, and the server goes on. The thread drops its end of the channel when it is done.
fn greet(server: &Serving) -> io::Result<mpsc::Receiver<()>> {
    let words = greeting(server);
    let (done, greeted) = mpsc::channel();
    let body = move || {
        let mut out = io::stdout().lock();
        // Whoever reads this may have gone away; the server has not.
        let _ = out.write_all(words.as_bytes()).and_then(|()| out.flush());
        drop(done);
    };
    thread::Builder::new()
        .name("greeting".to_owned())
        .spawn(body)?;
    Ok(greeted)
}

fn greeting(server: &Serving) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let threads = server.threads();
    let mut words = format!("ringwire {version} echoes at, on {threads}:\n");
    let mut page = None;
    let plain = server.addresses().iter().map(|address| (address, ""));
    let secure = server.tls_addresses().iter().map(|address| (address, "s"));
    for (address, s) in plain.chain(secure) {
        // Writing to a text does not fail.
        let _ = match address {
            Address::Inet(inet) => {
                page.get_or_insert(format!("http{s}://{inet}/"));
                writeln!(words, "  ws{s}://{inet}/")
            }
            Address::Unix(path) if s.is_empty() => {
                writeln!(words, "  ws+unix:{}:/", path.display())
            }
            Address::Unix(path) => writeln!(words, "  TLS at unix:{}", path.display()),
        };
    }
    if let Some(page) = page {
        words += &format!("Open {page} in a browser to talk to it. Ctrl-C stops it.\n");
    }
    words + "ringwire doctor looks at this host; ringwire serve --help has the limits.\n"
}

/// With huge pages, ten thousand idle connections cost more than twice the memory that they need
/// (scripts/idle-memory.sh); messages gain by them from megabytes on (benches/README.md).
fn keep_memory_small() {
    if let Err(errno) = ringwire::defer_huge_pages() {
        tracing::debug!(%errno, "transparent huge pages stay on");
    }
}

/// Each connection is a descriptor, so the soft limit is of no use to us.
fn raise_open_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(errno) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%errno, "the limit on open files could not be raised to its hard limit");
    }
}
