//! A server: one thread for each shard, their listeners, and a way to reach them from outside.
//!
//! Knows: threads, processors, addresses. Refuses to know: frames, buffers, what a service does.

pub(crate) mod crew;

use std::{
    fmt, future,
    hash::{BuildHasher, RandomState},
    io, mem,
    num::NonZero,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use bytes::Bytes;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(crate) use crew::Crew;

use crate::{
    config::{Config, ConfigError},
    conn::{
        ConnId,
        counts::{Snapshot, Stats},
        distribution::Spread,
        door::Door,
        farewell::Drain,
        proxied::Proxies,
        survey::{Seen, Survey, SurveyOrder, keep_best},
        turn::PublishError,
        wanted::{Asker, Publication, Request, Wanted},
    },
    proto::{CloseCode, SendError, endpoint::CLOSE_REASON_BYTES_MAX, message::Outgoing},
    ring::{
        Address, AnyRing, Ballot, Errno, NoRing, Ring, RingKind, Time, choice, probe::Unavailable,
        socket::Listener,
    },
    shard::{
        Shard,
        exchange::Exchange,
        mailbox::{Command, PostError, Postbox},
        service::Service,
    },
    tls::ServerTls,
    topics::{
        Recalled, Since, TopicError, TopicOptions,
        name::{check_name, check_pattern},
        rules::Rules,
    },
};

/// Serves WebSocket on `address` with one shard for each processor until the process ends.
///
/// `service` makes one service for each shard; it is called on the shard's thread with the shard's
/// number. Use [`Server`] to choose limits, several addresses, or to stop.
///
/// # Errors
///
/// As [`Builder::start`] and [`Server::join`].
pub fn serve<S, F>(address: &str, service: F) -> Result<(), StartError>
where
    S: Service,
    F: Fn(u16) -> S + Send + Sync + 'static,
{
    Server::builder().listen(address).start(service)?.join()
}

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
    shards: Option<usize>,
    pinned: bool,
    ring: RingKind,
    proxies: Proxies,
    unix_mode: Option<u32>,
    topics: Box<Rules>,
    config: Config,
}

impl Server {
    /// A server with the defaults: no address yet, one shard for each processor that the
    /// process has the time of, pinned unless a quota limits that.
    pub fn builder() -> Builder {
        Builder {
            listen: Vec::new(),
            shards: None,
            pinned: true,
            ring: RingKind::Auto,
            proxies: Proxies::default(),
            unix_mode: None,
            topics: Box::default(),
            config: Config::default(),
        }
    }

    /// What its shards run on: not [`RingKind::Auto`], but what came of it.
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
    /// As soon as a shard's thread has panicked, or the kernel has refused its ring: the others are
    /// stopped then, and have `drain_timeout_ms` and a second to end.
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
    /// opened it, or another process has handed it on. All shards share it, so that they do not
    /// have equal parts as with an address of their own.
    #[must_use]
    pub fn listen_on(mut self, socket: impl Into<OwnedFd>) -> Self {
        let socket = Arc::new(socket.into());
        self.listen.push((Place::Open(socket), None));
        self
    }

    /// As [`listen`](Self::listen), with TLS on every connection: `wss://`. Several addresses may
    /// share it. To take new certificates without dropping anyone, keep a clone and
    /// [`reload`](ServerTls::reload) it.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn listen_tls(mut self, address: impl Into<String>, tls: &ServerTls) -> Self {
        let place = Place::Named(address.into());
        self.listen.push((place, Some(tls.clone())));
        self
    }

    /// How many shards, at least 1. One for each processor that the process may use, unless set.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Whether each shard keeps to one processor. On unless set.
    #[must_use]
    pub fn pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// Which ring the shards run on. [`RingKind::Auto`] unless set: where io_uring cannot be used
    /// they run on epoll, and one warning says why and what to do about it. With
    /// [`RingKind::Uring`] the server does not start then.
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

    /// Proxies that say with the PROXY protocol, version 1 or 2, whom they speak for: a service is
    /// told that address, and limits by address look at it. All of their connections have to begin
    /// with a header; nobody else's may. None unless set.
    #[must_use]
    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// How a topic is treated, or all topics that match a pattern. Of several patterns that match
    /// one, that which was given last counts.
    ///
    /// # Errors
    ///
    /// When it is no pattern.
    pub fn topic(
        mut self,
        pattern: impl AsRef<[u8]>,
        options: TopicOptions,
    ) -> Result<Self, TopicError> {
        self.topics.add(pattern.as_ref(), options)?;
        Ok(self)
    }

    /// The limits.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Binds every address and starts every shard. `service` makes one service for each shard; it
    /// is called on the shard's thread with the shard's number.
    ///
    /// # Errors
    ///
    /// When a setting is out of bounds, an address cannot be bound, the host gives no thread or the
    /// kernel not the ring that was asked for, or `service` panics; nothing is left running then.
    pub fn start<S, F>(self, service: F) -> Result<Server, StartError>
    where
        S: Service,
        F: Fn(u16) -> S + Send + Sync + 'static,
    {
        let mut ground = Ground::new(
            &self.listen,
            self.shards,
            "shards",
            &self.config,
            self.unix_mode,
        )?;
        let shards = ground.threads;
        let shard_config = self.config.with_memory_for(shards);
        let door = Arc::new(Door::new(&shard_config));
        let proxies = Arc::new(self.proxies);
        let exchange = Exchange::new(shards, *self.topics, shard_config.clone(), epoch());
        let exchange = Arc::new(exchange);
        let service = Arc::new(service);
        let ballot = Arc::new(Ballot::new(self.ring, shards));
        let (reports, reported) = mpsc::channel();
        let mut crew = Crew::new(self.config.drain_ms());
        let mut started = Ok(());
        for id in 0..shards {
            let sockets = ground.sockets();
            let cpu = ground.processor(id, self.pinned);
            let shard = id as u16;
            let starting = Starting {
                shard,
                sockets,
                config: shard_config.clone(),
                door: door.clone(),
                proxies: proxies.clone(),
                exchange: exchange.clone(),
                service: service.clone(),
                reports: reports.clone(),
            };
            let ballot_of_shard = ballot.clone();
            started = crew.spawn(move || {
                pin(cpu);
                let ring = ballot_of_shard.ring(&starting.config.ring());
                match ring.map_err(|no_ring| no_ring_of(shard, no_ring))? {
                    AnyRing::Epoll(ring) => starting.run(ring),
                    AnyRing::Uring(ring) => starting.run(ring),
                }
            });
            if started.is_err() {
                ballot.withdraw(shards - id);
                break;
            }
        }
        drop(reports);
        // Until each of them has reported or ended.
        let mut reports: Vec<_> = reported.into_iter().collect();
        reports.sort_by_key(|&(id, ..)| id);
        let are_all_there = reports.len() == shards;
        let [addresses, tls_addresses] = [false, true].map(|with_tls| ground.addresses(with_tls));
        let (postboxes, stats) = reports
            .into_iter()
            .map(|(_, it, stats)| (it, stats))
            .unzip();
        let inner = Inner {
            postboxes,
            stats,
            current: Current::new(self.config, door),
            listeners: ground.into_listeners(),
            exchange,
        };
        let handle = Handle {
            inner: Arc::new(inner),
        };
        if !are_all_there {
            handle.stop_within(0);
            return Err(not_started(started, crew));
        }
        if let Some(unavailable) = ballot.refused() {
            tracing::warn!("{}", choice::fallback(&unavailable));
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

/// A number that no server before this one has had: at random, of 64 bits.
fn epoch() -> u64 {
    RandomState::new().hash_one(())
}

/// What a shard's thread tells whoever started it.
type Report = (usize, Postbox, Arc<Stats>);

/// What a shard starts from.
struct Starting<F> {
    shard: u16,
    sockets: Vec<(OwnedFd, Option<ServerTls>)>,
    config: Config,
    door: Arc<Door>,
    proxies: Arc<Proxies>,
    exchange: Arc<Exchange>,
    service: Arc<F>,
    reports: mpsc::Sender<Report>,
}

impl<S: Service, F: Fn(u16) -> S> Starting<F> {
    /// Runs a shard on this ring until it is stopped.
    fn run<R: Ring<Detached = OwnedFd>>(self, mut ring: R) -> Result<(), StartError> {
        let Self {
            shard,
            sockets,
            config,
            door,
            proxies,
            exchange,
            service,
            reports,
        } = self;
        let refused = |errno| StartError::Ring { shard, errno };
        let sockets: Vec<_> = sockets
            .into_iter()
            .map(|(socket, tls)| (ring.adopt(socket), tls))
            .collect();
        let seed = seed().map_err(refused)?;
        let mut running = Shard::new(shard, ring, service(shard), config, seed);
        running.share_door(door);
        running.trust(proxies);
        running.share_exchange(exchange);
        for (socket, tls) in sockets {
            match tls {
                None => running.listen(socket),
                Some(tls) => running.listen_tls(socket, tls),
            }
        }
        let _says_end = SaysEnd(running.stats());
        let _ = reports.send((shard.into(), running.postbox(), running.stats()));
        drop(reports);
        running.run().map_err(refused)
    }
}

/// What is said of a shard that got no ring.
pub(crate) fn no_ring_of(shard: u16, no_ring: NoRing) -> StartError {
    match no_ring {
        NoRing::Epoll(errno) => StartError::Ring { shard, errno },
        NoRing::Uring(unavailable) => StartError::Unavailable(unavailable),
    }
}

/// Why a server did not start, once those of its threads that did are at their end.
pub(crate) fn not_started(started: Result<(), StartError>, crew: Crew) -> StartError {
    let ended = crew.join();
    let why = started.and(ended).err();
    why.unwrap_or_else(|| StartError::Thread(io::Error::other("it ended before it had started")))
}

/// Addresses to listen on, with the TLS of those that have some.
pub(crate) type Listen = Vec<(Place, Option<ServerTls>)>;

/// Where to listen.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// There, as it was written.
    Named(String),
    /// Somebody listens there already, for us.
    Open(Arc<OwnedFd>),
}

/// What a server's threads start from: bound addresses, and the processors that they may use.
pub(crate) struct Ground {
    /// How many threads there are to be.
    pub threads: usize,
    listeners: Vec<(Listener, Option<ServerTls>)>,
    processors: Vec<usize>,
    /// As many of them as a quota grants the time of.
    by_quota: usize,
}

impl Ground {
    /// Binds every address, for as many threads as were asked for, by the name of `field`, or one
    /// for each processor that the process has the time of.
    pub fn new(
        listen: &Listen,
        threads: Option<usize>,
        field: &'static str,
        config: &Config,
        unix_mode: Option<u32>,
    ) -> Result<Self, StartError> {
        config.validate()?;
        let processors = processors();
        let by_quota = std::thread::available_parallelism().map_or(1, NonZero::get);
        let by_quota = by_quota.min(processors.len()).max(1);
        let threads = threads.unwrap_or(by_quota);
        if threads == 0 || threads > usize::from(u16::MAX) {
            return Err(ConfigError::new(field, threads, "from 1 to 65535").into());
        }
        if listen.is_empty() {
            return Err(StartError::NoAddress);
        }
        let mut listeners = Vec::new();
        for (place, tls) in listen {
            let text = match place {
                Place::Named(text) => text,
                Place::Open(socket) => {
                    let taken = Listener::of_open(socket, threads);
                    let listener = taken.map_err(|errno| StartError::Socket { errno })?;
                    listeners.push((listener, tls.clone()));
                    continue;
                }
            };
            let address: Address = text
                .parse()
                .map_err(|_| StartError::Address { text: text.clone() })?;
            let bound = Listener::bind(&address, threads, config.backlog, unix_mode);
            let listener = bound.map_err(|errno| StartError::Bind { address, errno })?;
            listeners.push((listener, tls.clone()));
        }
        Ok(Self {
            threads,
            listeners,
            processors,
            by_quota,
        })
    }

    /// The sockets of the next thread.
    pub fn sockets(&mut self) -> Vec<(OwnedFd, Option<ServerTls>)> {
        let listeners = self.listeners.iter_mut();
        listeners
            .filter_map(|(listener, tls)| Some((listener.take_socket()?, tls.clone())))
            .collect()
    }

    /// The processor that a thread is to keep to, unless there are more threads than processors, or
    /// a quota: containers of one host would all keep to the first of its processors.
    pub fn processor(&self, thread: usize, pinned: bool) -> Option<usize> {
        let is_ours = self.by_quota == self.processors.len();
        (pinned && is_ours && self.threads <= self.processors.len())
            .then(|| self.processors[thread])
    }

    /// Where it listens, with TLS or plain.
    pub fn addresses(&self, with_tls: bool) -> Vec<Address> {
        let listeners = self.listeners.iter();
        listeners
            .filter(|(_, tls)| tls.is_some() == with_tls)
            .map(|(listener, _)| listener.address().clone())
            .collect()
    }

    /// What has to be kept for as long as it listens.
    pub fn into_listeners(self) -> Listeners {
        let listeners = self.listeners.into_iter();
        Listeners(Mutex::new(
            listeners.map(|(listener, _)| listener).collect(),
        ))
    }
}

/// What a server runs under now, for handles on any thread.
#[derive(Debug)]
pub(crate) struct Current {
    config: Mutex<Config>,
    /// What all threads share of it.
    door: Arc<Door>,
}

impl Current {
    /// At its start.
    pub const fn new(config: Config, door: Arc<Door>) -> Self {
        Self {
            config: Mutex::new(config),
            door,
        }
    }

    fn config(&self) -> MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How to stop.
    pub fn drain(&self) -> Drain {
        self.config().drain()
    }

    /// Takes over what can change, and tells so many threads what they run under then. Returns the
    /// names of other settings that are not the same.
    pub fn change(
        &self,
        config: &Config,
        threads: usize,
        tell: impl FnOnce(Arc<Config>),
    ) -> Result<Vec<&'static str>, ConfigError> {
        config.validate()?;
        // Held until all are told, so that two who do this do not mix.
        let mut current = self.config();
        let stay = current.adopt(config);
        self.door.set(&current);
        tell(Arc::new(current.with_memory_for(threads)));
        Ok(stay)
    }
}

/// Whether a shard, or a thread of an async server, is well: [`Handle::pulse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// It has given so many signs of life so far.
    Beats(u64),
    /// It has come to its end.
    Stopped,
}

/// What is known of a thread, which is asked for another sign.
pub(crate) fn pulse_of(stats: &Stats, wake: impl FnOnce()) -> Pulse {
    if stats.has_ended() {
        return Pulse::Stopped;
    }
    let (beats, is_asked) = stats.ask_for_beat();
    if is_asked {
        wake();
    }
    Pulse::Beats(beats)
}

/// Says that a thread has ended, however it does.
pub(crate) struct SaysEnd(pub Arc<Stats>);

impl Drop for SaysEnd {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Has every thread walk over its connections, and waits for what they have seen.
pub(crate) fn gather(
    order: SurveyOrder,
    most: usize,
    patience: Duration,
    ask: impl FnOnce(&dyn Fn() -> Survey),
) -> Vec<Seen> {
    let (tell, told) = mpsc::channel();
    ask(&|| {
        let tell = tell.clone();
        // Whoever has asked may have lost his patience.
        Survey::new(order, most, Box::new(move |seen| drop(tell.send(seen))))
    });
    // Who has refused to walk is not waited for.
    drop(tell);
    let until = Time::monotonic().plus_ms(patience.as_millis() as u64);
    let left = || Duration::from_nanos(until.ns_since(Time::monotonic()));
    let mut all = Vec::new();
    while let Ok(seen) = told.recv_timeout(left()) {
        all.extend(seen);
    }
    keep_best(&mut all, order, most);
    all
}

/// Where a server listens, until it is told to stop. Unix paths are removed with it.
#[derive(Debug)]
pub(crate) struct Listeners(Mutex<Vec<Listener>>);

impl Listeners {
    /// Nobody is to find the server any more.
    pub fn remove(&self) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock, so that it is done when this returns to whoever asked second.
        drop(mem::take(&mut *listeners));
    }
}

/// The processors that the process may use.
fn processors() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return vec![0];
    };
    (0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect()
}

pub(crate) fn pin(cpu: Option<usize>) {
    let Some(cpu) = cpu else { return };
    let mut set = CpuSet::new();
    set.set(cpu);
    if let Err(errno) = sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %errno, "a shard could not be pinned to its processor");
    }
}

/// Entropy for masking keys.
pub(crate) fn seed() -> Result<[u8; 32], Errno> {
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(seed)
}

/// Reaches a running server from any thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    postboxes: Vec<Postbox>,
    stats: Vec<Arc<Stats>>,
    current: Current,
    listeners: Listeners,
    exchange: Arc<Exchange>,
}

impl Handle {
    /// Sends a message on a connection. Whether it is still there, and has room in its queue, shows
    /// only on its shard: a message that cannot be queued there is dropped, counted in
    /// [`handle_sends_dropped`](crate::Counts::handle_sends_dropped), and told to the service by
    /// [`on_send_failed`](crate::Service::on_send_failed).
    ///
    /// # Errors
    ///
    /// [`HandleError::MailboxFull`] when the shard has `mailbox_messages_max` messages waiting,
    /// [`HandleError::Stopped`].
    pub fn send<'m>(
        &self,
        id: ConnId,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), HandleError> {
        self.post(id, Command::Send(id.key(), message.into().into_owned()))
    }

    /// Sends a message to all who subscribe to a topic. What one thread publishes to one topic
    /// arrives in that order.
    ///
    /// # Errors
    ///
    /// [`PublishError::Topic`], [`PublishError::Full`], [`PublishError::Stopped`]; nobody gets it
    /// then.
    pub fn publish<'m>(
        &self,
        topic: impl AsRef<[u8]>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), PublishError> {
        let publication = Publication::new(topic.as_ref(), &message.into())?;
        self.inner.exchange.ask(Wanted::Publish(publication))
    }

    /// Asks for messages of a topic that are kept
    /// ([`history_messages_max`](TopicOptions::history_messages_max)). `tell` is called with them
    /// on a shard's thread, where it must not wait; it is dropped uncalled if the server stops
    /// before.
    ///
    /// # Errors
    ///
    /// [`PublishError::Topic`], [`PublishError::Full`], [`PublishError::Stopped`].
    ///
    /// ```no_run
    /// use std::sync::mpsc;
    /// use ringwire::{Handle, topics::Since};
    ///
    /// fn last_words(handle: &Handle) -> Option<String> {
    ///     let (tell, told) = mpsc::channel();
    ///     let sent = handle.recall("chat", Since::Last(1), move |recalled| {
    ///         let _ = tell.send(recalled);
    ///     });
    ///     sent.ok()?;
    ///     let recalled = told.recv().ok()?;
    ///     let (_number, message) = recalled.messages().next()?;
    ///     message.text().map(str::to_owned)
    /// }
    /// ```
    pub fn recall(
        &self,
        topic: impl AsRef<[u8]>,
        since: Since,
        tell: impl FnOnce(Recalled) + Send + 'static,
    ) -> Result<(), PublishError> {
        let topic = topic.as_ref();
        check_name(topic)?;
        self.inner.exchange.ask(Wanted::Recall(Request {
            topic: Bytes::copy_from_slice(topic),
            since,
            asker: Asker::Outside(Box::new(tell)),
        }))
    }

    /// How many connections subscribe to exactly this topic or pattern, on all shards.
    pub fn subscribers(&self, pattern: impl AsRef<[u8]>) -> usize {
        let pattern = pattern.as_ref();
        check_pattern(pattern).map_or(0, |reach| self.inner.exchange.members(pattern, reach))
    }

    /// Starts the closing handshake of a connection, with a reason of at most 123 bytes.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), and [`HandleError::ReasonTooLong`].
    pub fn close(&self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), HandleError> {
        if reason.len() > CLOSE_REASON_BYTES_MAX {
            return Err(HandleError::ReasonTooLong);
        }
        self.post(id, Command::Close(id.key(), code, reason.into()))
    }

    /// As [`send`](Self::send), but waits while the shard's mailbox is full. Dropped before it is
    /// done, it has sent nothing.
    ///
    /// # Errors
    ///
    /// [`HandleError::Stopped`].
    pub async fn send_when_room<'m>(
        &self,
        id: ConnId,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), HandleError> {
        let message = message.into().into_owned();
        loop {
            match self.post(id, Command::Send(id.key(), message.clone())) {
                Err(HandleError::MailboxFull) => {}
                posted => return posted,
            }
            let postbox = self.postbox(id)?;
            future::poll_fn(|context| postbox.poll_room(context)).await;
        }
    }

    fn postbox(&self, id: ConnId) -> Result<&Postbox, HandleError> {
        let postbox = self.inner.postboxes.get(usize::from(id.shard()));
        postbox.ok_or(HandleError::Stopped)
    }

    fn post(&self, id: ConnId, command: Command) -> Result<(), HandleError> {
        self.postbox(id)?
            .post(command)
            .map_err(|error| match error {
                PostError::Full => HandleError::MailboxFull,
                PostError::Stopped => HandleError::Stopped,
            })
    }

    /// Stops the server: it accepts no more, removes its Unix paths, closes every connection with
    /// 1001, over `drain_spread_ms`, and ends when all are gone or `drain_timeout_ms` is over after
    /// that. Does not wait for that, as [`Server::join`] does.
    pub fn stop(&self) {
        self.drain(self.inner.current.drain());
    }

    /// Goes on under other settings, for connections that are there as well as for those that come.
    /// Returns the names of settings that are other ones than before and cannot change while a
    /// server runs, as [`Field::is_live`](crate::config::Field::is_live) says: they stay as they
    /// are. Deadlines that were set stay too.
    ///
    /// ```
    /// use ringwire::{Config, Server, service::Echo};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder().listen("127.0.0.1:0").start(|_shard| Echo)?;
    /// let mut config = Config::default();
    /// config.message_bytes_max = 1 << 20;
    /// config.backlog = 64;
    /// assert_eq!(server.handle().reconfigure(&config)?, ["backlog"]);
    /// # server.handle().stop();
    /// # Ok(server.join()?)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When a setting is out of its bounds; nothing changes then.
    pub fn reconfigure(&self, config: &Config) -> Result<Vec<&'static str>, ConfigError> {
        let postboxes = &self.inner.postboxes;
        self.inner
            .current
            .change(config, postboxes.len(), |config| {
                for postbox in postboxes {
                    // A shard that has stopped needs none.
                    let _ = postbox.post(Command::Reconfigure(config.clone()));
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
        for postbox in &self.inner.postboxes {
            // A shard that has stopped already is what was wanted.
            let _ = postbox.post(Command::Stop(drain));
        }
    }

    /// Asks every shard for a sign of life, and tells how many came of the times before: a shard
    /// that serves gives one at the end of its turn.
    pub fn pulse(&self) -> Vec<Pulse> {
        let shards = self.inner.postboxes.iter().zip(&self.inner.stats);
        let pulse = shards.map(|(postbox, stats)| pulse_of(stats, || postbox.wake()));
        pulse.collect()
    }

    /// The connections that stand out: the first `most` by this order, over all shards. Waits for
    /// the shards, for `patience` at most; those of a shard that has not answered by then are
    /// missing. Not on a shard's own thread.
    pub fn survey(&self, order: SurveyOrder, most: usize, patience: Duration) -> Vec<Seen> {
        gather(order, most, patience, |survey| {
            for postbox in &self.inner.postboxes {
                let _ = postbox.post(Command::Survey(Box::new(survey())));
            }
        })
    }

    /// How what each shard has measured is spread.
    pub fn shard_spreads(&self) -> Vec<Vec<Spread>> {
        self.inner
            .stats
            .iter()
            .map(|stats| stats.spread())
            .collect()
    }

    /// The counts of all shards, added up.
    pub fn stats(&self) -> Snapshot {
        let mut sum = Snapshot::default();
        for stats in &self.inner.stats {
            sum += stats.snapshot();
        }
        sum
    }

    /// The counts of each shard.
    pub fn shard_stats(&self) -> Vec<Snapshot> {
        self.inner
            .stats
            .iter()
            .map(|stats| stats.snapshot())
            .collect()
    }
}

/// A message that did not reach its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandleError {
    /// Too many messages wait for the shard.
    MailboxFull,
    /// A close reason has at most 123 bytes.
    ReasonTooLong,
    /// The server has stopped.
    Stopped,
}

impl fmt::Display for HandleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MailboxFull => f.write_str(
                "the shard has mailbox_messages_max messages waiting; slow down and try again",
            ),
            Self::ReasonTooLong => SendError::ControlTooLong.fmt(f),
            Self::Stopped => f.write_str("the server has stopped"),
        }
    }
}

impl std::error::Error for HandleError {}

/// Why a server did not start, or ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// An address that could not be understood.
    Address {
        /// As it was given.
        text: String,
    },
    /// An address that could not be bound.
    Bind {
        /// The address.
        address: Address,
        /// What the kernel said.
        errno: Errno,
    },
    /// A setting out of its bounds.
    Config(ConfigError),
    /// No address to listen on.
    NoAddress,
    /// A socket that was handed over is none that can be listened on.
    Socket {
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel refused a shard what it needs to run.
    Ring {
        /// The shard's number.
        shard: u16,
        /// What the kernel said.
        errno: Errno,
    },
    /// The thread of a shard, or one of an async server, panicked outside of what a connection is
    /// the reason for: in ringwire, in the closure that makes services, or in what an application
    /// has dropped or woken there.
    ShardPanicked {
        /// The number of the shard or thread.
        shard: u16,
        /// What the panic said.
        message: String,
    },
    /// No thread could be started.
    Thread(io::Error),
    /// The kernel does not give the ring that was asked for; the text says why and what to do.
    Unavailable(Box<Unavailable>),
}

impl From<ConfigError> for StartError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { text } => write!(
                f,
                "'{text}' is not an address to listen on; write IP:PORT (127.0.0.1:9001), \
                 [IPV6]:PORT ([::1]:9001) or unix:/path of at most 107 bytes"
            ),
            Self::Bind { address, errno } => {
                write!(
                    f,
                    "cannot listen on {address}: {errno}; {}",
                    bind_remedy(*errno)
                )
            }
            Self::Config(error) => error.fmt(f),
            Self::NoAddress => f.write_str("there is no address to listen on; name at least one"),
            Self::Socket { errno } => write!(
                f,
                "a socket that was handed over cannot be listened on: {errno}; it has to be a \
                 stream socket that listens (ListenStream= of systemd)"
            ),
            Self::Ring { shard, errno } => {
                write!(
                    f,
                    "the kernel refused shard {shard} what it needs to run: {errno}"
                )?;
                match errno.number() {
                    libc::EMFILE | libc::ENFILE => write!(f, "; {MORE_FILES}"),
                    _ => Ok(()),
                }
            }
            Self::ShardPanicked { shard, message } => write!(
                f,
                "shard {shard} panicked: {message}; if that is not the service's, please report it"
            ),
            Self::Thread(error) => write!(
                f,
                "cannot start a thread: {error}; check the limits on processes (ulimit -u, \
                 TasksMax=)"
            ),
            Self::Unavailable(unavailable) => unavailable.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// What to do for want of descriptors.
const MORE_FILES: &str = "raise the limit on open files (ulimit -n, LimitNOFILE=)";

fn bind_remedy(errno: Errno) -> &'static str {
    match errno.number() {
        libc::EADDRINUSE => "another process listens there: stop it, or choose another address",
        libc::EACCES => {
            "ports below 1024 need CAP_NET_BIND_SERVICE (setcap, AmbientCapabilities=), and a Unix \
             path a folder that may be written to"
        }
        libc::EADDRNOTAVAIL => "this machine does not have that address",
        libc::EMFILE | libc::ENFILE => MORE_FILES,
        libc::ENOENT => "the folder of the Unix path does not exist: make it first",
        _ => "see bind(2)",
    }
}
