//! A server for the length of one test, and a look at what it leaves behind.
//!
//! Knows both ways to have one: through the public API, and as a bare shard whose insides can be
//! seen when it has come to its end. Every test ends here: the server is stopped and joined, and
//! then nothing of it may be left. Meanwhile a neighbour, a connection that does nothing wrong,
//! keeps echoing, and must not notice what the test does.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    panic,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ringwire::{
    Address, Answer, Builder, CloseCause, Config, Conn, ConnId, Counts, Handle, HttpReply, Message,
    Outgoing, Refusal, Remote, Request, RingKind, SendError, Server, Service, Snapshot, Turn,
    Upgrade,
    conn::{counts::Stats, farewell::Drain},
    ring::{Epoll, Ring, RingOptions, Uring, socket::Listener},
    service::{Echo, Gate},
    shard::{
        Shard,
        mailbox::{Command, Postbox},
    },
    topics::{Published, Resumed},
};

#[cfg(feature = "tls")]
use crate::{authority::Authority, bridge::Bridge};
use crate::{
    common::{BINARY, PATIENCE, Peer},
    peer::{Prng, until},
};
#[cfg(feature = "tls")]
use ringwire::tls::{ClientTls, ServerTls};

pub use crate::guard::guarded;

/// How a server is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Through the public API, with two shards.
    Server,
    /// Through the public API, with one shard.
    ServerOfOneShard,
    /// A shard on a thread of the test's.
    Shard,
    /// A shard likewise, which the plain client reaches over a bridge of TLS.
    #[cfg(feature = "tls")]
    Tls,
}

impl Engine {
    /// The scheme of the URLs at which it is reached.
    pub fn scheme(self) -> &'static str {
        #[cfg(feature = "tls")]
        if self == Self::Tls {
            return "wss";
        }
        "ws"
    }
}

/// Makes each function a test on a server, on a bare shard, and over TLS.
macro_rules! on_each_engine {
    ($($name:ident)*) => {
        mod on_a_server {
            $(#[test] fn $name() { super::$name($crate::host::Engine::Server) })*
        }
        mod on_a_shard {
            $(#[test] fn $name() { super::$name($crate::host::Engine::Shard) })*
        }
        #[cfg(feature = "tls")]
        mod over_tls {
            $(#[test] fn $name() { super::$name($crate::host::Engine::Tls) })*
        }
    };
}

/// Makes each function a test on a server and tests on bare shards: it looks at addresses, and
/// over TLS those are of the bridge.
macro_rules! on_each_plain_engine {
    ($($name:ident)*) => {
        mod plain_on_a_server {
            $(#[test] fn $name() { super::$name($crate::host::Engine::Server) })*
        }
        mod plain_on_a_shard {
            $(#[test] fn $name() { super::$name($crate::host::Engine::Shard) })*
        }
    };
}
pub(crate) use {on_each_engine, on_each_plain_engine};

/// Names the ring of whatever does not choose one: `epoll`, or `uring`, which it is without.
pub const RING: &str = "RINGWIRE_TEST_RING";

/// What knows no ring: the tests that run the others again, and the bridge from shards to async
/// code.
pub const AGAIN_WITHOUT: [&str; 2] = ["again::", "async_bridge::"];

/// The ring of whatever does not choose one.
pub fn ring() -> RingKind {
    match std::env::var(RING).as_deref() {
        Ok("epoll") => RingKind::Epoll,
        Ok("uring") | Err(_) => RingKind::Uring,
        Ok(other) => panic!("{RING} is {other}, which is no ring"),
    }
}

/// A server to be, on the ring that was chosen, whose shards share the machine with other tests.
pub fn builder() -> Builder {
    Server::builder().ring(ring()).pinned(false)
}

/// The defaults with some changes.
pub fn config(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

/// What happened to the service.
#[derive(Debug, Default)]
pub struct Events {
    opens: usize,
    open: HashSet<ConnId>,
    pub closes: Vec<CloseCause>,
    pub drains: usize,
    messages: u64,
    /// Ends of connections that never came to be open, and how many are yet to come.
    unopened: usize,
    unopened_expected: usize,
    neighbours: usize,
    mistakes: Vec<String>,
}

#[derive(Debug, Default)]
struct Log {
    events: Mutex<Events>,
    changed: Condvar,
}

impl Log {
    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap()
    }

    fn note(&self, change: impl FnOnce(&mut Events)) {
        change(&mut self.events());
        self.changed.notify_all();
    }
}

/// The path of the neighbour.
const NEIGHBOUR: &str = "/neighbour";

/// A service as a host has it.
pub trait Hosted {
    /// All but the echo are of one type: each type more would have shards of its own, on every
    /// ring, and their code takes seconds to build.
    type As: Service + 'static;

    fn hosted(self) -> Self::As;
}

impl Hosted for Echo {
    type As = Self;

    fn hosted(self) -> Self {
        self
    }
}

impl Hosted for Gate<Echo> {
    type As = Self;

    fn hosted(self) -> Self {
        self
    }
}

/// Any service that keeps nothing for its connections.
pub struct Boxed(pub Box<dyn Service<State = ()>>);

/// Has a host keep a service in a box.
macro_rules! boxed {
    ($service:ty) => {
        impl $crate::host::Hosted for $service {
            type As = $crate::host::Boxed;

            fn hosted(self) -> Self::As {
                $crate::host::Boxed(Box::new(self))
            }
        }
    };
}
pub(crate) use boxed;

impl Service for Boxed {
    type State = ();

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<(), Refusal> {
        self.0.on_handshake(upgrade, peer, answer)
    }

    fn on_http(&mut self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        self.0.on_http(request, peer)
    }

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        self.0.on_open(conn);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        self.0.on_message(conn, message);
    }

    fn on_ping(&mut self, conn: &mut Conn<'_, ()>, payload: &[u8]) {
        self.0.on_ping(conn, payload);
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, ()>, payload: &[u8]) {
        self.0.on_pong(conn, payload);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, ()>) {
        self.0.on_drain(conn);
    }

    fn on_subscribed(&mut self, conn: &mut Conn<'_, ()>, topic: &[u8], resumed: &Resumed) {
        self.0.on_subscribed(conn, topic, resumed);
    }

    fn envelope<'p>(&mut self, published: &Published<'p>) -> Outgoing<'p> {
        self.0.envelope(published)
    }

    fn on_send_failed(&mut self, id: ConnId, error: SendError) {
        self.0.on_send_failed(id, error);
    }

    fn on_stop(&mut self) {
        self.0.on_stop();
    }

    fn on_close(&mut self, turn: &mut Turn<'_>, id: ConnId, (): (), cause: &CloseCause) {
        self.0.on_close(turn, id, (), cause);
    }
}

/// A service under watch: what it is told is written down, and the neighbour is kept from it.
struct Watched<S> {
    inner: S,
    log: Arc<Log>,
    neighbours: HashSet<ConnId>,
    neighbour_comes: bool,
}

impl<S: Service> Service for Watched<S> {
    type State = S::State;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<S::State, Refusal> {
        self.neighbour_comes = upgrade.request().path() == NEIGHBOUR;
        if self.neighbour_comes {
            return Ok(S::State::default());
        }
        self.inner.on_handshake(upgrade, peer, answer)
    }

    fn on_http(&mut self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        self.inner.on_http(request, peer)
    }

    fn on_open(&mut self, conn: &mut Conn<'_, S::State>) {
        if self.neighbour_comes {
            self.neighbours.insert(conn.id());
            self.log.note(|events| events.neighbours += 1);
            return;
        }
        self.log.note(|events| {
            events.opens += 1;
            if !events.open.insert(conn.id()) {
                let mistake = format!("{} was opened twice", conn.id());
                events.mistakes.push(mistake);
            }
        });
        self.inner.on_open(conn);
    }

    fn on_message(&mut self, conn: &mut Conn<'_, S::State>, message: Message<'_>) {
        self.log.note(|events| events.messages += 1);
        if self.neighbours.contains(&conn.id()) {
            conn.send(message).unwrap();
            return;
        }
        self.inner.on_message(conn, message);
    }

    fn on_ping(&mut self, conn: &mut Conn<'_, S::State>, payload: &[u8]) {
        self.inner.on_ping(conn, payload);
    }

    fn on_pong(&mut self, conn: &mut Conn<'_, S::State>, payload: &[u8]) {
        self.inner.on_pong(conn, payload);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_, S::State>) {
        self.log.note(|events| events.drains += 1);
        self.inner.on_drain(conn);
    }

    fn on_subscribed(&mut self, conn: &mut Conn<'_, S::State>, topic: &[u8], resumed: &Resumed) {
        self.inner.on_subscribed(conn, topic, resumed);
    }

    fn envelope<'p>(&mut self, published: &Published<'p>) -> Outgoing<'p> {
        self.inner.envelope(published)
    }

    fn on_send_failed(&mut self, id: ConnId, error: SendError) {
        self.inner.on_send_failed(id, error);
    }

    fn on_close(&mut self, turn: &mut Turn<'_>, id: ConnId, state: S::State, cause: &CloseCause) {
        if self.neighbours.remove(&id) {
            return;
        }
        self.log.note(|events| {
            events.closes.push(cause.clone());
            if !events.open.remove(&id) {
                if events.unopened_expected > 0 {
                    events.unopened_expected -= 1;
                    events.unopened += 1;
                    return;
                }
                let mistake = format!("{id} was closed and is not open: {cause}");
                events.mistakes.push(mistake);
            }
        });
        self.inner.on_close(turn, id, state, cause);
    }
}

/// What is left of a shard that has come to its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Remains {
    connections: usize,
    leases: usize,
    chunks_out: usize,
    queues_out: usize,
    message_buffers_out: usize,
    windows_bytes: u64,
}

enum Running {
    Server(Server),
    Shard {
        postbox: Postbox,
        stats: Arc<Stats>,
        thread: JoinHandle<Remains>,
        /// Unix paths are removed with them.
        _listeners: Vec<Listener>,
    },
}

/// Makes the service of a shard: boxed, so that there is one kind of it for each service's type.
type Make<S> = Box<dyn Fn() -> S + Send + Sync>;

/// A running server with a neighbour on it.
pub struct Host {
    running: Running,
    addresses: Vec<Address>,
    log: Arc<Log>,
    drain_timeout_ms: u64,
    neighbour: Mutex<Option<Neighbour>>,
    #[cfg(feature = "tls")]
    bridges: Vec<Bridge>,
}

/// Runs `body` with a server, and sees to the server's end.
pub fn host<S, F>(engine: Engine, config: Config, service: F, body: impl FnOnce(&Host))
where
    S: Hosted,
    F: Fn() -> S + Send + Sync + 'static,
{
    host_at(engine, &["127.0.0.1:0"], config, service, body);
}

/// As [`host`], on these addresses.
pub fn host_at<S, F>(
    engine: Engine,
    listen: &[&str],
    config: Config,
    service: F,
    body: impl FnOnce(&Host),
) where
    S: Hosted,
    F: Fn() -> S + Send + Sync + 'static,
{
    guarded(|| {
        let make: Make<S::As> = Box::new(move || service().hosted());
        let host = Host::start(engine, listen, config, make);
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            body(&host);
            host.dismiss_neighbour();
        }));
        // It ends by itself when the test has failed.
        drop(host.neighbour.lock().unwrap().take());
        let end = panic::catch_unwind(AssertUnwindSafe(|| host.end()));
        // What failed first is what matters.
        if let Err(panicked) = outcome.and(end) {
            panic::resume_unwind(panicked);
        }
    });
}

impl Host {
    fn start<S: Service + 'static>(
        engine: Engine,
        listen: &[&str],
        config: Config,
        service: Make<S>,
    ) -> Self {
        let log = Arc::new(Log::default());
        let watched = {
            let log = log.clone();
            move || Watched {
                inner: service(),
                log: log.clone(),
                neighbours: HashSet::new(),
                neighbour_comes: false,
            }
        };
        let drain_timeout_ms = config.drain_timeout_ms;
        let longest = usize::try_from(config.message_bytes_max).unwrap_or(usize::MAX);
        #[cfg(feature = "tls")]
        let mut bridges = Vec::new();
        let (running, addresses) = match engine {
            Engine::Shard if ring() == RingKind::Uring => {
                start_shard::<Uring, _>(listen, config, watched, |shard, socket| {
                    shard.listen(socket);
                })
            }
            Engine::Shard => start_shard::<Epoll, _>(listen, config, watched, |shard, socket| {
                shard.listen(socket);
            }),
            #[cfg(feature = "tls")]
            Engine::Tls => {
                let authority = Authority::new();
                let pair = authority.issue(&["localhost"]);
                let tls = ServerTls::builder().certificate(pair.certificate, pair.key);
                let tls = tls.load().unwrap();
                let (running, secured) = if ring() == RingKind::Uring {
                    start_shard::<Uring, _>(listen, config, watched, move |shard, socket| {
                        shard.listen_tls(socket, tls.clone());
                    })
                } else {
                    start_shard::<Epoll, _>(listen, config, watched, move |shard, socket| {
                        shard.listen_tls(socket, tls.clone());
                    })
                };
                let client = ClientTls::builder().authorities(&authority.file);
                let client = client.load().unwrap();
                bridges.extend(secured.iter().map(|at| Bridge::start(at, client.clone())));
                let addresses = bridges.iter().map(|bridge| bridge.address.clone());
                (running, addresses.collect())
            }
            Engine::Server | Engine::ServerOfOneShard => {
                let shards = if engine == Engine::Server { 2 } else { 1 };
                let mut builder = builder().shards(shards).config(config);
                for address in listen {
                    builder = builder.listen(*address);
                }
                let server = builder.start(move |_shard| watched()).unwrap();
                let addresses = server.addresses().to_vec();
                (Running::Server(server), addresses)
            }
        };
        let neighbour = Neighbour::start(&addresses[0], longest.min(2000));
        Self {
            running,
            addresses,
            log,
            drain_timeout_ms,
            neighbour: Mutex::new(Some(neighbour)),
            #[cfg(feature = "tls")]
            bridges,
        }
    }

    pub fn address(&self) -> &Address {
        &self.addresses[0]
    }

    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// A new connection on which nothing was said yet.
    pub fn connect(&self) -> Peer {
        Peer::connect(self.address())
    }

    /// A new open connection.
    pub fn open(&self) -> Peer {
        Peer::open(self.address(), "/")
    }

    pub fn stats(&self) -> Snapshot {
        match &self.running {
            Running::Server(server) => server.handle().stats(),
            Running::Shard { stats, .. } => stats.snapshot(),
        }
    }

    pub fn counts(&self) -> Counts {
        self.stats().counts
    }

    /// Waits until a count is `expected`. What a service or a client has seen is published at the
    /// end of the turn, which may be a moment later.
    #[track_caller]
    pub fn expect_count(&self, expected: u64, count: impl Fn(&Counts) -> u64) {
        let deadline = Instant::now() + PATIENCE;
        while count(&self.counts()) != expected {
            let counts = self.counts();
            assert!(Instant::now() < deadline, "not {expected} in {counts:?}");
            thread::yield_now();
        }
    }

    /// The handle of a server that was made through the public API.
    pub fn handle(&self) -> Handle {
        match &self.running {
            Running::Server(server) => server.handle(),
            Running::Shard { .. } => panic!("a bare shard has no handle"),
        }
    }

    pub fn stop(&self) {
        match &self.running {
            Running::Server(server) => server.handle().stop(),
            Running::Shard { postbox, .. } => {
                let drain_timeout_ms = self.drain_timeout_ms;
                // It may have come to its end by itself.
                let _ = postbox.post(Command::Stop(Drain::at_once(drain_timeout_ms)));
            }
        }
    }

    /// Waits until the service was told of `count` ends, and returns why they ended.
    #[track_caller]
    pub fn closes(&self, count: usize) -> Vec<CloseCause> {
        let events = self.log.events();
        let (events, timeout) = self
            .log
            .changed
            .wait_timeout_while(events, PATIENCE, |events| events.closes.len() < count)
            .unwrap();
        assert!(!timeout.timed_out(), "{:?} and no more", events.closes);
        assert_eq!(events.closes.len(), count, "{:?}", events.closes);
        events.closes.clone()
    }

    /// Waits for the end of the only connection and returns why it ended.
    #[track_caller]
    pub fn close_cause(&self) -> CloseCause {
        self.closes(1).remove(0)
    }

    /// So many connections that the service accepts will end before they are open.
    pub fn expect_unopened(&self, count: usize) {
        self.log.note(|events| events.unopened_expected = count);
    }

    /// How often the service was told that a queue is short again.
    pub fn drains(&self) -> usize {
        self.log.events().drains
    }

    /// Waits until the neighbour has echoed `count` more messages.
    #[track_caller]
    pub fn neighbour_echoes(&self, count: u64) {
        let rounds = {
            let neighbour = self.neighbour.lock().unwrap();
            neighbour.as_ref().expect("a neighbour").rounds.clone()
        };
        let goal = *rounds.lock().unwrap() + count;
        until("the neighbour echoes", || *rounds.lock().unwrap() >= goal);
    }

    /// Ends the neighbour, which must have had nothing to complain of.
    #[track_caller]
    pub fn dismiss_neighbour(&self) {
        if let Some(neighbour) = self.neighbour.lock().unwrap().take() {
            neighbour.finish();
        }
    }

    fn end(self) {
        self.stop();
        let last = match self.running {
            Running::Server(server) => {
                let handle = server.handle();
                server.join().expect("joining the server");
                handle.stats()
            }
            Running::Shard { stats, thread, .. } => {
                let remains = thread.join().expect("joining the shard");
                assert_eq!(remains, Remains::default(), "what the shard left behind");
                stats.snapshot()
            }
        };
        let events = self.log.events();
        assert_eq!(events.mistakes, [""; 0]);
        assert!(events.open.is_empty(), "never closed: {:?}", events.open);
        assert_eq!(events.unopened_expected, 0, "more of them came to be open");
        assert_eq!(events.opens + events.unopened, events.closes.len());
        let counts = last.counts;
        assert_eq!((last.connections_open, last.queued_bytes), (0, 0));
        let opens = (events.opens + events.neighbours) as u64;
        assert_eq!(counts.handshakes, opens, "{counts:?}");
        // What came together with a message that ended the connection was received for nothing.
        let cut_short = events.closes.iter().any(|cause| {
            matches!(
                cause,
                CloseCause::Application(_) | CloseCause::ServicePanicked
            )
        });
        let (received, delivered) = (counts.messages_received, events.messages);
        assert!(received >= delivered, "{delivered} delivered of {counts:?}");
        assert!(
            received == delivered || cut_short,
            "{delivered} delivered of {counts:?}"
        );
        let answered = counts.handshakes + counts.handshakes_refused + counts.http_requests;
        assert!(answered <= counts.connections, "{counts:?}");
        let protocol = |cause: &&CloseCause| matches!(cause, CloseCause::Protocol(_));
        let failed = events.closes.iter().filter(protocol).count();
        assert!(failed as u64 <= counts.protocol_errors, "{counts:?}");
        #[cfg(feature = "tls")]
        for bridge in self.bridges {
            let truncated = bridge.truncated.load(std::sync::atomic::Ordering::Relaxed) as u64;
            drop(bridge);
            assert!(
                truncated <= counts.timeouts,
                "{truncated} streams without a close_notify, {counts:?}"
            );
        }
    }
}

/// A ring of the kernel, and what it knows of itself.
trait RealRing: Ring<Detached = OwnedFd> {
    fn make(options: &RingOptions) -> Self;

    fn leases(&self) -> usize;
}

impl RealRing for Uring {
    fn make(options: &RingOptions) -> Self {
        Self::new(&options.into()).unwrap()
    }

    fn leases(&self) -> usize {
        Uring::leases(self)
    }
}

impl RealRing for Epoll {
    fn make(options: &RingOptions) -> Self {
        Self::new(&options.into()).unwrap()
    }

    fn leases(&self) -> usize {
        Epoll::leases(self)
    }
}

fn start_shard<R: RealRing, S: Service>(
    listen: &[&str],
    config: Config,
    service: impl FnOnce() -> S + Send + 'static,
    listen_on: impl Fn(&mut Shard<R, S>, R::Socket) + Send + 'static,
) -> (Running, Vec<Address>) {
    config.validate().unwrap();
    let mut listeners: Vec<Listener> = listen
        .iter()
        .map(|text| Listener::bind(&text.parse().unwrap(), 1, config.backlog, None).unwrap())
        .collect();
    let addresses = listeners.iter().map(|it| it.address().clone()).collect();
    let sockets: Vec<_> = listeners.iter_mut().map(|it| it.take_socket()).collect();
    let (report, reported) = mpsc::channel();
    let body = move || {
        let options = RingOptions {
            recv_buffers: config.recv_buffers,
            recv_buffer_bytes: config.recv_buffer_bytes,
            recv_incremental: config.recv_incremental,
            large_buffer_bytes: config.recv_large_buffer_bytes,
            busy_poll_us: config.busy_poll_us,
        };
        let mut ring = R::make(&options);
        let sockets = sockets.into_iter().flatten();
        let sockets: Vec<_> = sockets.map(|socket| ring.adopt(socket)).collect();
        let mut shard = Shard::new(0, ring, service(), config, [7; 32]);
        for socket in sockets {
            listen_on(&mut shard, socket);
        }
        report.send((shard.postbox(), shard.stats())).unwrap();
        drop(report);
        shard.run().unwrap();
        let shared = shard.shared();
        Remains {
            connections: shard.connections(),
            leases: shard.ring().leases(),
            chunks_out: shared.arena.chunks_out(),
            queues_out: shared.arena.queues_out(),
            message_buffers_out: shared.pool.out(),
            windows_bytes: shared.codec.tally().windows_bytes,
        }
    };
    let thread = thread::Builder::new().name("ringwire-0".to_owned());
    let thread = thread.spawn(body).unwrap();
    let (postbox, stats) = reported.recv().unwrap();
    let running = Running::Shard {
        postbox,
        stats,
        thread,
        _listeners: listeners,
    };
    (running, addresses)
}

/// A connection that does nothing wrong.
struct Neighbour {
    stop: mpsc::Sender<()>,
    rounds: Arc<Mutex<u64>>,
    thread: JoinHandle<()>,
}

impl Neighbour {
    fn start(address: &Address, longest: usize) -> Self {
        let (stop, stopped) = mpsc::channel();
        let rounds = Arc::new(Mutex::new(0));
        let mut peer = Peer::open(address, NEIGHBOUR);
        let counted = rounds.clone();
        let body = move || {
            let mut prng = Prng::new(1);
            loop {
                let len = prng.below(longest + 1);
                let message = prng.bytes(len);
                peer.send(BINARY, &message);
                let frame = peer.read_message();
                assert_eq!(frame.first, BINARY, "the neighbour got {frame:?}");
                assert!(frame.payload == message, "the neighbour's echo differs");
                *counted.lock().unwrap() += 1;
                match stopped.recv_timeout(Duration::from_millis(1)) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) => return peer.close(),
                    // The test has failed already.
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = thread::Builder::new().name("neighbour".to_owned());
        let thread = thread.spawn(body).unwrap();
        Self {
            stop,
            rounds,
            thread,
        }
    }

    #[track_caller]
    fn finish(self) {
        // What the test did is over: this echo comes after it.
        let _ = self.stop.send(());
        assert!(self.thread.join().is_ok(), "the neighbour suffered");
        assert!(*self.rounds.lock().unwrap() > 0);
    }
}

/// The service of most tests: an echo that does what it is told by a text.
#[derive(Default)]
pub struct Obedient {
    commands: HashMap<&'static str, Action>,
}

type Action = fn(&mut Conn<'_, ()>);

impl Obedient {
    /// Calls `action` instead of echoing the text `command`.
    pub fn on(mut self, command: &'static str, action: Action) -> Self {
        self.commands.insert(command, action);
        self
    }
}

boxed!(Obedient);

impl Service for Obedient {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let action = message.text().and_then(|text| self.commands.get(text));
        match action {
            Some(action) => action(conn),
            None => {
                conn.send(message).unwrap();
            }
        }
    }
}
