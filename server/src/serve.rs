//! `ringwire serve`: settings into a server, signals into its end.
//!
//! Knows: the order in which a server comes and goes. Refuses to know: what a setting means.

use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, IsTerminal, Write},
    os::{fd::OwnedFd, unix::fs::FileTypeExt as _},
    path::Path,
    process::{self, ExitCode},
    sync::{Arc, RwLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use clap::ArgMatches;
use listenfd::ListenFd;
use ringwire::{Address, Listener, StartError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::signal_name,
};

use tracing_subscriber::{
    Layer as _, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

#[cfg(feature = "tls")]
use crate::tls;
use crate::{
    control::{self, Admin, Operations, SetLevel},
    engine::{Building, Serving},
    log::{self, Log},
    recording::Recording,
    reload::{Reloader, Reloading, admin_tokens},
    router::{Router, Routes},
    sandbox::Sandbox,
    settings::{self, Finding, RouteSettings, Settings},
};

/// How long the end of the process waits until somebody has taken the words at its start.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

/// Signals within so much time are one: timeout(1) sends it to the process and to its group.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

const DEFAULT_ADDRESS: &str = "127.0.0.1:9001";

/// Settings that cannot be served with, as arguments that there are not.
pub const WRONG_USAGE: u8 = 2;

/// Serves until SIGTERM or SIGINT, then drains.
pub fn run(matches: &ArgMatches) -> ExitCode {
    let log = Log::on(io::stderr());
    let (settings, warnings) = match settings::load(matches) {
        Ok(loaded) => loaded,
        Err(findings) => {
            for finding in findings {
                log.put(format!("ringwire: {finding}\n").as_bytes());
            }
            log.flush();
            return ExitCode::from(WRONG_USAGE);
        }
    };
    // The same status as for other settings that cannot be served with.
    let routes = match Routes::new(&settings) {
        Ok(routes) => routes,
        Err(findings) => {
            log.put(format!("ringwire: {}\n", in_words(&findings)).as_bytes());
            log.flush();
            return ExitCode::from(WRONG_USAGE);
        }
    };
    log.take_panics();
    let filter = match log::filter(&settings.log) {
        Ok(filter) => filter,
        Err(sentence) => {
            log.put(format!("ringwire: {sentence}\n").as_bytes());
            log.flush();
            return ExitCode::from(WRONG_USAGE);
        }
    };
    let (filter, level) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(log.clone())
        .with_ansi(io::stderr().is_terminal());
    let lines = match settings.log_format.as_str() {
        "json" => lines.json().flatten_event(true).boxed(),
        _ => lines.boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let set_level = move |targets| {
        // It is there for as long as the process is.
        let _ = level.reload(targets);
    };
    let code = match serve(matches, settings, routes, &log, Arc::new(set_level)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { sentence, status }) => {
            log.put(format!("ringwire: {sentence}\n").as_bytes());
            ExitCode::from(status)
        }
    };
    log.flush();
    code
}

/// Why nothing is served.
struct Failure {
    sentence: String,
    status: u8,
}

impl From<String> for Failure {
    /// This host cannot do it, now.
    fn from(sentence: String) -> Self {
        Self {
            sentence,
            status: 1,
        }
    }
}

impl Failure {
    /// It cannot be done anywhere with these settings, or with the files that they name.
    const fn of_settings(sentence: String) -> Self {
        Self {
            sentence,
            status: WRONG_USAGE,
        }
    }
}

/// # Errors
///
/// What went wrong.
fn serve(
    matches: &ArgMatches,
    settings: Settings,
    routes: Routes,
    log: &Log,
    set_level: Arc<SetLevel>,
) -> Result<(), Failure> {
    keep_memory_small();
    raise_open_file_limit();
    // Before anything listens: whoever can reach the server can also be told goodbye.
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|error| format!("cannot wait for signals: {error}"))?;
    let proxies = settings.proxies();
    let proxies = proxies.map_err(|(key, error)| format!("{}: {error}", settings.name(key)))?;
    let mut builder = Building::new(&settings).proxies(proxies.clone());
    #[cfg(feature = "tls")]
    let mut certificates = None;
    #[cfg(feature = "tls")]
    if !settings.tls.listen.is_empty() {
        let tls = tls::load(&settings);
        let tls = tls.map_err(|finding| Failure::of_settings(finding.to_string()))?;
        for text in &settings.tls.listen {
            for address in settings::addresses(text)? {
                builder = builder.listen_tls(address.to_string(), &tls);
            }
        }
        certificates = Some(tls);
    }
    let handed = Handed::take()?;
    let plain = plain_addresses(&settings, &handed);
    let sandbox = Sandbox::new(&settings, settings::file_of(matches).as_deref(), &plain);
    for text in plain {
        for address in settings::addresses(text)? {
            builder = builder.listen(address.to_string());
        }
    }
    for socket in handed.plain {
        builder = builder.listen_on(socket);
    }
    let topics = builder.topics(routes.topics());
    builder = topics.map_err(|error| error.to_string())?;
    let mut router = Router::new(routes, proxies);
    let mut recording = None;
    if !settings.record.is_empty() {
        let path = Path::new(&settings.record);
        let (recorder, opened) = Recording::open(path, settings.record_bytes_max)?;
        router.record_with(recorder);
        recording = Some(opened);
    }
    router.access().set(settings.access_log);
    // Before anything is served: whoever runs the server is to reach it.
    let mut admin = Admin::bind(&settings.admin_listen)?;
    let admin_addresses = admin.addresses();
    let tokens = admin_tokens(&settings).map_err(Failure::of_settings)?;
    let mut admin_places = admin_addresses.iter().chain(&handed.admin_addresses);
    let is_open = admin_places.any(settings::is_open);
    if is_open && tokens.is_none() {
        // Those of settings were looked at already.
        return Err(Failure::of_settings(
            "others reach the socket of the service manager's that is named admin, and can stop \
             the server: have it on loopback or a Unix path, or set admin_token_file"
                .to_owned(),
        ));
    }
    let sandbox = Arc::new(sandbox.map_err(Failure::of_settings)?);
    let warnings = sandbox.restrict_files()?;
    let server = builder.start(router.clone(), sandbox.clone());
    let server = server.map_err(|error| match &error {
        StartError::Bind { address, .. } => in_the_way(address).unwrap_or(error.to_string()),
        _ => error.to_string(),
    })?;
    let addresses = server.addresses().iter().chain(server.tls_addresses());
    sandbox.give_paths(addresses.chain(&admin_addresses));
    sandbox.confine_this_thread()?;
    log.begin().map_err(no_thread)?;
    if let Some(recording) = &mut recording {
        recording.begin().map_err(no_thread)?;
    }
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let operations = Arc::new(Operations::new(
        server.operator(),
        server.names(),
        Arc::new(RwLock::new(settings)),
        log.clone(),
        set_level.clone(),
        is_open,
    ));
    operations.set_tokens(tokens);
    let reloader = Reloader::start(Reloading {
        matches: matches.clone(),
        operations: operations.clone(),
        router,
        set_level,
        sandbox,
        #[cfg(feature = "tls")]
        tls: certificates,
    });
    operations.reload_by(reloader.map_err(no_thread)?);
    obey(signals, operations.clone()).map_err(no_thread)?;
    let sockets = admin.take_sockets().into_iter().chain(handed.admin);
    control::start(operations.clone(), sockets.collect()).map_err(no_thread)?;
    let served = operations.with_settings(|settings| served(&settings.routes));
    let greeted = greet(greeting(&server, &admin_addresses, &served)).map_err(no_thread)?;
    operations.supervisor.ready("serving");
    let ended = server.join().map_err(|error| error.to_string());
    // Nobody is there any more who could say something.
    if let Some(recording) = recording {
        recording.finish();
    }
    // Who reads it may be slow, or not there.
    let _ = greeted.recv_timeout(GREETING_TIMEOUT);
    // Until here it says that the server is stopping.
    drop(admin);
    Ok(ended?)
}

/// An address of TLS alone says that nothing is to be plain.
fn plain_addresses<'a>(settings: &'a Settings, handed: &Handed) -> Vec<&'a str> {
    #[cfg(feature = "tls")]
    if settings.listen.is_empty() && !settings.tls.listen.is_empty() {
        return Vec::new();
    }
    if settings.listen.is_empty() && !handed.plain.is_empty() {
        // A service manager listens for us.
        return Vec::new();
    }
    if settings.listen.is_empty() {
        return vec![DEFAULT_ADDRESS];
    }
    settings.listen.iter().map(String::as_str).collect()
}

/// Sockets that a service manager has opened (`sd_listen_fds(3)`): those of the name `admin` are
/// the admin side's.
struct Handed {
    plain: Vec<OwnedFd>,
    admin: Vec<OwnedFd>,
    /// Where those listen.
    admin_addresses: Vec<Address>,
}

impl Handed {
    /// # Errors
    ///
    /// A sentence about a socket that is of no use.
    fn take() -> Result<Self, String> {
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        let mut handed = ListenFd::from_env();
        let (mut plain, mut admin, mut admin_addresses) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..handed.len() {
            let socket = handed
                .take_tcp_listener(at)
                .map(|it| it.map(OwnedFd::from))
                .or_else(|_| Ok(handed.take_unix_listener(at)?.map(OwnedFd::from)))
                .map_err(|error: io::Error| {
                    format!(
                        "socket {at} of the service manager is none to listen on: {error}; it has \
                         to be a ListenStream= of TCP or a Unix path"
                    )
                })?;
            match (names.get(at), socket) {
                (Some(&"admin"), Some(socket)) => {
                    let taken = Listener::of_open(&socket, 0);
                    let taken = taken.map_err(|errno| format!("socket {at}: {errno}"))?;
                    admin_addresses.push(taken.address().clone());
                    admin.push(socket);
                }
                (_, socket) => plain.extend(socket),
            }
        }
        Ok(Self {
            plain,
            admin,
            admin_addresses,
        })
    }
}

/// What to do about a path where nobody can listen because something else than a socket is there.
pub fn in_the_way(address: &Address) -> Option<String> {
    let Address::Unix(path) = address else {
        return None;
    };
    let there = fs::symlink_metadata(path).ok()?.file_type();
    (!there.is_socket()).then(|| {
        format!(
            "cannot listen on {address}: there is something else than a socket at that path; \
             remove it, or choose another path"
        )
    })
}

/// All findings as one sentence each.
fn in_words(findings: &[Finding]) -> String {
    let said = findings.iter().map(Finding::to_string);
    said.collect::<Vec<_>>().join("\nringwire: ")
}

fn no_thread(error: io::Error) -> String {
    format!("cannot start a thread: {error}")
}

/// Does what signals ask for, on a thread of its own.
fn obey(mut signals: Signals, operations: Arc<Operations>) -> io::Result<()> {
    let body = move || {
        let mut asked_at: Option<Instant> = None;
        for signal in signals.forever() {
            let name = signal_name(signal).unwrap_or("a signal");
            if signal == SIGHUP {
                // The log has what comes of it.
                operations.reload("SIGHUP", drop);
            } else if asked_at.is_none() {
                asked_at = Some(Instant::now());
                operations.drain(name, operations.drain_of_settings());
            } else if asked_at.is_some_and(|at| at.elapsed() < SAME_SIGNAL) {
                tracing::debug!("{name}: that was asked already");
            } else {
                // Whoever asks again does not want to wait.
                tracing::warn!("{name}: asked again, dropping what is left");
                operations.log.flush();
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
fn greet(words: String) -> io::Result<mpsc::Receiver<()>> {
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

/// What is served, in a word, and the path of a page that a browser can open there.
type Served = (String, Option<String>);

fn served(routes: &[RouteSettings]) -> Served {
    let words = match routes.len() {
        0 => return ("echoes".to_owned(), Some("/".to_owned())),
        1 => "serves 1 route".to_owned(),
        count => format!("serves {count} routes"),
    };
    // A path with holes, and one of some hosts alone, is nothing to open.
    let is_open = |it: &&RouteSettings| it.host.is_empty() && !it.path.contains('{');
    let mut pages = routes.iter().filter(|it| it.application == "page");
    let page = pages.find(is_open).map(|it| it.path.clone());
    (words, page)
}

fn greeting(server: &Serving, admin: &[Address], (served, path): &Served) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let threads = server.threads();
    let mut words = format!("ringwire {version} {served} at, on {threads}:\n");
    let mut page = None;
    let plain = server.addresses().iter().map(|address| (address, ""));
    let secure = server.tls_addresses().iter().map(|address| (address, "s"));
    for (address, s) in plain.chain(secure) {
        // Writing to a text does not fail.
        let _ = match address {
            Address::Inet(inet) => {
                if let Some(path) = path {
                    page.get_or_insert(format!("http{s}://{inet}{path}"));
                }
                writeln!(words, "  ws{s}://{inet}/")
            }
            Address::Unix(path) if s.is_empty() => {
                writeln!(words, "  ws+unix:{}:/", path.display())
            }
            Address::Unix(path) => writeln!(words, "  TLS at unix:{}", path.display()),
        };
    }
    for address in admin {
        let _ = match address {
            Address::Inet(inet) => writeln!(words, "Admin side at http://{inet}/"),
            Address::Unix(path) => writeln!(words, "Admin side at unix:{}", path.display()),
        };
    }
    if let Some(page) = page {
        words += &format!("Open {page} in a browser to talk to it. ");
    }
    words += "Ctrl-C stops it.\n";
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
