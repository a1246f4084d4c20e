//! An asynchronous server: one runtime for each thread, their listeners, and a way to stop them.
//!
//! Knows: threads, runtimes, addresses. Refuses to know: frames, buffers, what a handler does.

use std::{
    io,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::{
    handler::Handler,
    local::{Context, Local},
    runtime::{Home, Runtime},
    threads::{self, Order},
};
use crate::{
    Address, CloseCode, Config, ConfigError, ConnId, HandleError, RingKind, Snapshot, StartError,
    conn::{
        counts::Stats,
        distribution::Spread,
        door::Door,
        farewell::Drain,
        proxied::Proxies,
        survey::{Seen, SurveyOrder},
    },
    proto::endpoint::CLOSE_REASON_BYTES_MAX,
    ring::{Ballot, choice},
    server::{
        Crew, Current, Ground, Listen, Listeners, Place, Pulse, SaysEnd, gather, no_ring_of,
        not_started, pin, pulse_of, seed,
    },
    tls::ServerTls,
};

/// A running server. Dropping it without [`join`](Self::join) leaves it running.
#[derive(Debug)]
pub struct Server {
    handle: Handle,
    addresses: Vec<Address>,
    tls_addresses: Vec<Address>,
    ring: RingKind,
    crew: Crew,
}

/// How a server is to be.
#[derive(Clone, Debug)]
pub struct Builder {
    listen: Listen,
    threads: Option<usize>,
    pinned: bool,
    ring: RingKind,
    proxies: Proxies,
    unix_mode: Option<u32>,
    config: Config,
}

/// Reaches a running server from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// What each thread is told.
    orders: Vec<UnboundedSender<Order>>,
    stats: Vec<Arc<Stats>>,
    current: Current,
    listeners: Listeners,
}

/// A handler that every thread has.
struct Everywhere<H>(Arc<H>);

impl<H: Handler> Handler for Everywhere<H> {
    type State = H::State;

    fn on_handshake(
        &self,
        upgrade: &crate::Upgrade<'_>,
        peer: crate::Remote<'_>,
        answer: &mut crate::Answer,
    ) -> Result<H::State, crate::Refusal> {
        self.0.on_handshake(upgrade, peer, answer)
    }

    fn on_http(
        &self,
        request: &crate::Request<'_>,
        peer: crate::Remote<'_>,
    ) -> Result<crate::HttpReply, crate::Refusal> {
        self.0.on_http(request, peer)
    }

    fn serve(&self, socket: super::WebSocket, state: H::State) -> impl Future<Output = ()> {
        self.0.serve(socket, state)
    }
}

impl Server {
    /// A server with the defaults: no address yet, one thread for each processor that the
    /// process has the time of, pinned unless a quota limits that.
    pub fn builder() -> Builder {
        Builder {
            listen: Vec::new(),
            threads: None,
            pinned: true,
            ring: RingKind::Auto,
            proxies: Proxies::default(),
            unix_mode: None,
            config: Config::default(),
        }
    }

    /// What its threads run on: not [`RingKind::Auto`], but what came of it.
    pub fn ring(&self) -> RingKind {
        self.ring
    }

    /// Where it listens for plain connections, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where it listens for TLS, likewise.
    pub fn tls_addresses(&self) -> &[Address] {
        &self.tls_addresses
    }

    /// A handle for other threads.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until it has stopped: after [`Handle::stop`], and when all connections are gone.
    ///
    /// # Errors
    ///
    /// As soon as a thread has panicked: the others are stopped then, and have `drain_timeout_ms`
    /// and a second to end.
    pub fn join(self) -> Result<(), StartError> {
        self.crew.join()
    }
}

impl Builder {
    /// Listens on `address` as well: `127.0.0.1:9001`, `[::1]:9001`, `unix:/run/ringwire.sock`.
    /// Port 0 lets the kernel choose.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push((Place::Named(address.into()), None));
        self
    }

    /// Accepts connections of this socket as well, which listens already: a service manager has
    /// opened it, or another process has handed it on.
    #[must_use]
    pub fn listen_on(mut self, socket: impl Into<OwnedFd>) -> Self {
        let socket = Arc::new(socket.into());
        self.listen.push((Place::Open(socket), None));
        self
    }

    /// As [`listen`](Self::listen), with TLS on every connection: `wss://`. To take new
    /// certificates without dropping anyone, keep a clone and [`reload`](ServerTls::reload) it.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn listen_tls(mut self, address: impl Into<String>, tls: &ServerTls) -> Self {
        let place = Place::Named(address.into());
        self.listen.push((place, Some(tls.clone())));
        self
    }

    /// How many threads, at least 1. One for each processor that the process may use, unless set.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Whether each thread keeps to one processor. On unless set.
    #[must_use]
    pub fn pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// What the threads run on. [`RingKind::Auto`] unless set: tokio-uring's runtime, whose
    /// handlers have its files, and where io_uring cannot be used tokio's own current-thread
    /// runtime; one warning says why then, and what to do about it. With [`RingKind::Uring`] the
    /// server does not start there, and with [`RingKind::Epoll`] it has tokio's own everywhere.
    ///
    /// Connections are served in the same way by both, and equally fast: a handler that uses
    /// nothing of tokio-uring's loses nothing.
    #[must_use]
    pub fn ring(mut self, ring: RingKind) -> Self {
        self.ring = ring;
        self
    }

    /// The mode of Unix paths: who may connect there, such as `0o660` (`unix(7)`). As the process's
    /// `umask(2)` says, unless set.
    #[must_use]
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.unix_mode = Some(mode);
        self
    }

    /// Proxies that say with the PROXY protocol, version 1 or 2, whom they speak for: a handler is
    /// told that address, and limits by address look at it. All of their connections have to begin
    /// with a header; nobody else's may. None unless set.
    #[must_use]
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// The limits. Those of the ring's receive buffers have no meaning here, but for
    /// `recv_large_buffer_bytes`: the most that one receive takes.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Binds every address and starts every thread. All of them share the handler.
    ///
    /// # Errors
    ///
    /// When a setting is out of bounds, an address cannot be bound, the host gives no thread or the
    /// kernel not the ring that was asked for, or a handler cannot be made; nothing is left running
    /// then.
    pub fn start<H: Handler + Send + Sync>(self, handler: H) -> Result<Server, StartError> {
        let handler = Arc::new(handler);
        self.start_each(move |_| Everywhere(handler.clone()))
    }

    /// As [`start`](Self::start), with a handler for each thread, which need not be `Send`.
    /// `handler` is called on the thread, in its runtime, with the thread's number.
    ///
    /// # Errors
    ///
    /// As `start`.
    pub fn start_each<H, F>(self, handler: F) -> Result<Server, StartError>
    where
        H: Handler,
        F: Fn(u16) -> H + Send + Sync + 'static,
    {
        let mut ground = Ground::new(
            &self.listen,
            self.threads,
            "threads",
            &self.config,
            self.unix_mode,
        )?;
        let count = ground.threads;
        let thread_config = self.config.with_memory_for(count);
        let stats: Vec<Arc<Stats>> = (0..count).map(|_| Arc::default()).collect();
        let mut orders = Vec::new();
        let (reports, reported) = mpsc::channel();
        let handler = Arc::new(handler);
        let door = Arc::new(Door::new(&thread_config));
        let proxies = Arc::new(self.proxies);
        let ballot = Arc::new(Ballot::new(self.ring, count));
        let mut crew = Crew::new(self.config.drain_ms());
        let mut started = Ok(());
        for (id, stats) in stats.iter().enumerate() {
            let sockets = ground.sockets();
            let cpu = ground.processor(id, self.pinned);
            let (order, ordered) = unbounded_channel();
            orders.push(order);
            let (config, door, proxies, handler, stats, reports) = (
                thread_config.clone(),
                door.clone(),
                proxies.clone(),
                handler.clone(),
                stats.clone(),
                reports.clone(),
            );
            let ballot_of_thread = ballot.clone();
            started = crew.spawn(move || {
                pin(cpu);
                let shard = id as u16;
                let refused = |errno| StartError::Ring { shard, errno };
                // The others wait for their turn, and this one for their votes: not both at once.
                let uring = || in_turn(Runtime::uring);
                let made = ballot_of_thread.decide(uring, || in_turn(Runtime::epoll));
                let runtime = made.map_err(|no_ring| no_ring_of(shard, no_ring))?;
                let _says_end = SaysEnd(stats.clone());
                let seed = seed().map_err(refused)?;
                runtime.block_on(async move {
                    let (local, listening) = in_turn(|| {
                        let home = Home::find().map_err(io::Error::other);
                        let home = home.map_err(StartError::Thread)?;
                        let local = Local::new(config, home, seed, stats).map_err(refused)?;
                        local.number.set(shard);
                        local.share_door(door, proxies);
                        let listening = threads::listen(sockets).map_err(refused)?;
                        Ok::<_, StartError>((local, listening))
                    })?;
                    Context {
                        local: local.clone(),
                    }
                    .make_current();
                    let handler = Rc::new(handler(id as u16));
                    let _ = reports.send(());
                    drop(reports);
                    threads::serve(local, listening, handler, ordered).await;
                    Ok(())
                })
            });
            if started.is_err() {
                ballot.withdraw(count - id);
                break;
            }
        }
        drop(reports);
        // Until each of them has reported or ended.
        let are_all_there = reported.into_iter().count() == count;
        let [addresses, tls_addresses] = [false, true].map(|with_tls| ground.addresses(with_tls));
        let handle = Handle {
            inner: Arc::new(Inner {
                orders,
                stats,
                current: Current::new(self.config, door),
                listeners: ground.into_listeners(),
            }),
        };
        if !are_all_there {
            handle.stop_within(0);
            return Err(not_started(started, crew));
        }
        if let Some(unavailable) = ballot.refused() {
            tracing::warn!("{}", choice::async_fallback(&unavailable));
        }
        let stopping = handle.clone();
        crew.stop_by(move || stopping.stop());
        Ok(Server {
            handle,
            addresses,
            tls_addresses,
            ring: ballot.kind(),
            crew,
        })
    }
}

/// Opens what a thread needs while no other does: what is given back after the trial of a runtime
/// is not to be taken by another thread.
fn in_turn<T>(open: impl FnOnce() -> T) -> T {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    open()
}

impl Handle {
    /// Stops the server: it accepts no more, removes its Unix paths, closes every connection with
    /// 1001, over `drain_spread_ms`, and ends when all are gone or `drain_timeout_ms` is over after
    /// that; handlers that are left then are dropped. Does not wait for that, as [`Server::join`]
    /// does.
    pub fn stop(&self) {
        self.drain(self.inner.current.drain());
    }

    /// Goes on under other settings, as [`Handle::reconfigure`](crate::Handle::reconfigure) of a
    /// server of shards. Returns the names of settings that are other ones than before and stay as
    /// they are.
    ///
    /// # Errors
    ///
    /// When a setting is out of its bounds; nothing changes then.
    pub fn reconfigure(&self, config: &Config) -> Result<Vec<&'static str>, ConfigError> {
        let Inner {
            current,
            orders,
            stats,
            ..
        } = &*self.inner;
        current.change(config, stats.len(), |config| {
            for order in orders {
                // A thread that has stopped needs none.
                let _ = order.send(Order::Reconfigure(config.clone()));
            }
        })
    }

    /// As [`stop`](Self::stop), all at once, with another time for the connections to close.
    pub fn stop_within(&self, drain_timeout_ms: u64) {
        self.drain(Drain::at_once(drain_timeout_ms));
    }

    /// As [`stop`](Self::stop), in another way. A server that is stopping already does so sooner,
    /// if this is sooner.
    pub fn drain(&self, drain: Drain) {
        // Before anyone is told: when the server has ended they are gone.
        self.inner.listeners.remove();
        self.order(|| Order::Stop(drain));
    }

    /// Tells every thread. One that has stopped is not there to hear it.
    fn order(&self, order: impl Fn() -> Order) {
        for thread in &self.inner.orders {
            let _ = thread.send(order());
        }
    }

    /// Starts the closing handshake of a connection, with a reason of at most 123 bytes; one that
    /// is gone stays so.
    ///
    /// # Errors
    ///
    /// [`HandleError::ReasonTooLong`], [`HandleError::Stopped`].
    pub fn close(&self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), HandleError> {
        if reason.len() > CLOSE_REASON_BYTES_MAX {
            return Err(HandleError::ReasonTooLong);
        }
        let thread = self.inner.orders.get(usize::from(id.shard()));
        let order = Order::Close(id.key(), code, reason.into());
        let told = thread.and_then(|thread| thread.send(order).ok());
        told.ok_or(HandleError::Stopped)
    }

    /// Asks every thread for a sign of life, as
    /// [`Handle::pulse`](crate::Handle::pulse) of a server of shards.
    pub fn pulse(&self) -> Vec<Pulse> {
        let threads = self.inner.orders.iter().zip(&self.inner.stats);
        let pulse = threads.map(|(thread, stats)| {
            pulse_of(stats, || {
                // One that has stopped says so.
                let _ = thread.send(Order::Beat);
            })
        });
        pulse.collect()
    }

    /// The connections that stand out: the first `most` by this order, over all threads. Waits for
    /// the threads, for `patience` at most; those of a thread that has not answered by then are
    /// missing. Not on one of these threads.
    pub fn survey(&self, order: SurveyOrder, most: usize, patience: Duration) -> Vec<Seen> {
        gather(order, most, patience, |survey| {
            self.order(|| Order::Survey(Box::new(survey())));
        })
    }

    /// How what each thread has measured is spread.
    pub fn thread_spreads(&self) -> Vec<Vec<Spread>> {
        self.inner
            .stats
            .iter()
            .map(|stats| stats.spread())
            .collect()
    }

    /// The counts of all threads, added up. They are at most some 40 ms old.
    pub fn stats(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for stats in &self.inner.stats {
            sum += stats.snapshot();
        }
        sum
    }

    /// The counts of each thread.
    pub fn thread_stats(&self) -> Vec<Snapshot> {
        let stats = self.inner.stats.iter();
        stats.map(|stats| stats.snapshot()).collect()
    }
}
