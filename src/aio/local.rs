//! What the connections of one thread share.
//!
//! Knows: limits, chunks, buffers and counts, as a shard has them; which connections have a
//! deadline, and which have something to send. Refuses to know: what a connection does about it.
//!
//! One task for each thread, the keeper, does what nobody waits for:
//!
//! ```text
//!   1  sends what connections were given and did not send themselves
//!   2  deadlines that are due
//!   3  wakes who has waited, and says what there is to say
//!   4  publishes the counts
//! ```
//!
//! It has one timer. A connection has none: its deadline is a place in a wheel.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context as TaskContext, Poll, Waker},
};

use tokio::{sync::Notify, task::JoinHandle};

use super::{
    buffers::Buffers, connection::Connection, newcomers::Waiting, opening::OpenError,
    relief::Relieving, rota::Rota, runtime::Home, timer::Timer,
};
use crate::{
    config::Config,
    conn::counts::Stats,
    conn::{
        CloseCause, Key, Shared, deadline::Wheel, door::Door, places::Places, proxied::Proxies,
        slab::Slab,
    },
    ring::{Errno, Time, socket::LastDescriptors},
    server::seed,
};

/// Counts are published this long after something was counted.
const PUBLISH_AFTER_MS: u64 = 20;

thread_local! {
    /// For each runtime that this thread has or had: the context of the server that runs there, or
    /// the first one that was made for connections without one.
    static CURRENT: RefCell<Vec<Weak<Local>>> = const { RefCell::new(Vec::new()) };
}

/// What the connections of one thread share: limits, buffers, counts and one timer.
///
/// A server has one for each of its threads. Whoever accepts or dials connections without a server
/// can make one to choose the limits; [`accept`](super::accept) and [`connect`](super::connect) use
/// that of the server whose handler they are called in, or one with the defaults.
#[derive(Clone)]
pub struct Context {
    pub(super) local: Rc<Local>,
}

impl Context {
    /// Connections under these limits.
    ///
    /// # Errors
    ///
    /// When a setting is out of its bounds, the process has no descriptor for the timer, or
    /// nothing on this thread can run what connections do beside their futures: outside of a tokio
    /// runtime, or in one of several threads without [`local`](super::local).
    ///
    /// # Panics
    ///
    /// In a tokio runtime whose builder was not told to `enable_io` and `enable_time`.
    pub fn new(config: Config) -> Result<Self, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let local = Local::new(config, Home::find()?, seed()?, Arc::default())?;
        Ok(Self { local })
    }

    /// The context of the server that runs on this thread, or one with the defaults.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    ///
    /// # Panics
    ///
    /// As `new`.
    pub fn current() -> Result<Self, OpenError> {
        let found = CURRENT.with_borrow(|known| {
            let mut known = known.iter().filter_map(Weak::upgrade);
            known.find(|local| !local.over.get() && local.home.is_current())
        });
        if let Some(local) = found {
            return Ok(Self { local });
        }
        let context = Self::new(Config::default())?;
        context.make_current();
        Ok(context)
    }

    pub(super) fn make_current(&self) {
        CURRENT.with_borrow_mut(|known| {
            known.retain(|local| local.strong_count() > 0);
            known.push(Rc::downgrade(&self.local));
        });
    }

    /// Connections there are, open or not.
    pub fn connections(&self) -> usize {
        self.local.state.borrow().slab.len()
    }

    /// What happened so far.
    pub fn stats(&self) -> crate::Snapshot {
        self.local.publish();
        self.local.state.borrow().shared.stats.snapshot()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

/// Something that is left to the keeper, who has borrowed nothing: code of the application's, such
/// as a waker of its own making or a subscriber of tracing's, which may use any connection; and a
/// task that cannot be spawned from where it begins.
pub enum Later {
    /// A task.
    Spawn(Pin<Box<dyn Future<Output = ()>>>),
    /// Somebody waited.
    Wake(Waker),
    /// A connection is over.
    SayClosed {
        /// Its place.
        slot: u32,
        /// Why.
        cause: CloseCause,
    },
    /// The kernel said something that is in no table.
    SayFailed(Errno),
}

impl fmt::Debug for Later {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spawn(_) => "Spawn",
            Self::Wake(_) => "Wake",
            Self::SayClosed { .. } => "SayClosed",
            Self::SayFailed(_) => "SayFailed",
        })
    }
}

/// Runs what may be the application's code, whose panic is not to end whoever runs it.
fn contain(run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        tracing::error!("a waker panicked; its task may wait for ever");
    }
}

/// Wakes somebody. Nothing may be borrowed.
pub fn wake(waker: Waker) {
    contain(|| waker.wake());
}

impl Later {
    fn run(self, home: &Home) {
        match self {
            Self::Spawn(task) => {
                // The keeper is where it can be; whoever is not has the end of everything to see.
                let _ = home.spawn(task);
            }
            Self::Wake(waker) => waker.wake(),
            Self::SayClosed { slot, cause } => tracing::debug!(slot, %cause, "connection closed"),
            Self::SayFailed(errno) => tracing::error!(%errno, "a transfer failed in a new way"),
        }
    }
}

/// The same, for those who are in it.
#[derive(Debug)]
pub struct Local {
    pub state: RefCell<State>,
    /// Connections with something to send that nobody else is about to send.
    dirty: RefCell<Vec<Rc<Connection>>>,
    /// Those who need more than their share.
    pub rota: Rota,
    /// What is done when nothing is borrowed.
    later: RefCell<Vec<Later>>,
    /// The connection whose handler is polled: what is sent meanwhile is sent when that is done.
    in_turn: Cell<Option<Key>>,
    /// The number of its thread in its server, as in the names of its connections.
    pub number: Cell<u16>,
    /// Where tasks are spawned.
    home: Home,
    keeper: RefCell<Option<Waker>>,
    /// When the keeper will look again.
    armed: Cell<Option<Time>>,
    /// What its timer is set to.
    set_to: Cell<Option<Time>>,
    publish_at: Cell<Option<Time>>,
    /// A connection is gone: there is room for another, or none is left.
    pub left: Notify,
    pub last_descriptors: LastDescriptors,
    /// The runtime ends: no more tasks.
    over: Cell<bool>,
    /// The keeper, until a server watches over it.
    keeping: RefCell<Option<JoinHandle<()>>>,
}

/// What is borrowed for each of a connection's steps.
#[derive(Debug)]
pub struct State {
    pub shared: Shared,
    pub slab: Slab<Weak<Connection>>,
    pub wheel: Wheel,
    pub buffers: Buffers,
    pub relieving: Relieving,
    pub places: Places<Waiting>,
    /// The thread is on its way to its end.
    pub is_stopping: bool,
    /// Places that newcomers are about to take.
    pub promised: usize,
}

impl Local {
    /// For the thread that this is called on, whose home that is.
    ///
    /// # Errors
    ///
    /// When there is no timer to be had.
    pub fn new(
        config: Config,
        home: Home,
        seed: [u8; 32],
        stats: Arc<Stats>,
    ) -> Result<Rc<Self>, Errno> {
        let timer = Timer::new()?;
        let places = Places::new(config.shard_connections_max, config.handshake_timeout_ms);
        let mut shared = Shared::new(config, seed);
        shared.stats = stats;
        let local = Rc::new(Self {
            state: RefCell::new(State {
                buffers: Buffers::new(shared.config.recv_large_buffer_bytes as usize),
                wheel: Wheel::new(Time::monotonic_coarse()),
                slab: Slab::default(),
                shared,
                relieving: Relieving::default(),
                places,
                is_stopping: false,
                promised: 0,
            }),
            dirty: RefCell::default(),
            rota: Rota::default(),
            later: RefCell::default(),
            in_turn: Cell::new(None),
            number: Cell::new(0),
            home,
            keeper: RefCell::default(),
            armed: Cell::new(None),
            set_to: Cell::new(None),
            publish_at: Cell::new(None),
            left: Notify::new(),
            last_descriptors: LastDescriptors::of_process(),
            over: Cell::new(false),
            keeping: RefCell::default(),
        });
        let keeping = local.home.spawn(keep(Rc::downgrade(&local), timer));
        local.keeping.replace(keeping.ok());
        Ok(local)
    }

    /// Spawns a task, unless the runtime is about to end.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if self.over.get() {
            return;
        }
        if let Err(task) = self.home.spawn(task) {
            self.later(Later::Spawn(Box::pin(task)));
        }
    }

    /// The keeper, for whoever is to notice when it ends: without it no deadline is kept.
    pub fn take_keeper(&self) -> Option<JoinHandle<()>> {
        self.keeping.take()
    }

    /// The runtime is about to end: no task is spawned any more. Those that were to be hold
    /// connections, which hold this.
    pub fn end(&self) {
        self.over.set(true);
        self.do_later();
    }

    /// Leaves it to the keeper, who has borrowed nothing.
    pub fn later(&self, later: Later) {
        self.later.borrow_mut().push(later);
        self.wake_keeper();
    }

    /// What this leads to is for the next time: the keeper was woken for it.
    fn do_later(&self) {
        for later in self.later.take() {
            contain(|| later.run(&self.home));
        }
    }

    /// Runs something that sends, on this connection most often, and sends then.
    pub fn turn<T>(&self, connection: &Rc<Connection>, run: impl FnOnce() -> T) -> T {
        /// Gives the turn back, to whoever had it before, even if `run` panics.
        struct Turn<'a> {
            local: &'a Local,
            outer: Option<Key>,
        }
        impl Drop for Turn<'_> {
            fn drop(&mut self) {
                self.local.in_turn.set(self.outer);
            }
        }
        let outer = self.in_turn.replace(Some(connection.key));
        let turn = Turn { local: self, outer };
        let result = run();
        drop(turn);
        connection.flush_if_dirty();
        if outer.is_none() {
            self.flush_dirty();
        }
        result
    }

    /// A connection has something to send, and nobody who is about to send it.
    #[inline]
    pub fn touch(&self, connection: &Rc<Connection>) {
        let turn = self.in_turn.get();
        if turn == Some(connection.key) {
            return;
        }
        if !connection.listed.replace(true) {
            self.dirty.borrow_mut().push(connection.clone());
        }
        if turn.is_none() {
            self.wake_keeper();
        }
    }

    fn flush_dirty(&self) {
        loop {
            let next = self.dirty.borrow_mut().pop();
            let Some(connection) = next else { break };
            connection.listed.set(false);
            connection.flush_if_dirty();
        }
    }

    pub fn wake_keeper(&self) {
        if let Some(keeper) = &*self.keeper.borrow() {
            keeper.wake_by_ref();
        }
    }

    /// Sets the deadline of a connection.
    pub fn set_deadline(&self, state: &mut State, key: Key, after_ms: u64) {
        let at = Time::monotonic_coarse().plus_ms(after_ms);
        state.wheel.set(key.slot, at);
        self.wake_by(at);
    }

    /// Sees to it that the keeper wakes up in time.
    pub fn wake_by(&self, at: Time) {
        if self.armed.get().is_none_or(|armed| at < armed) {
            self.armed.set(Some(at));
            self.wake_keeper();
        }
    }

    /// Something was counted.
    #[inline]
    pub fn counted(&self, now: Time) {
        if self.publish_at.get().is_none() {
            let at = now.plus_ms(PUBLISH_AFTER_MS);
            self.publish_at.set(Some(at));
            self.wake_by(at);
        }
    }

    /// Counts where connections come from at this door, which other threads have as well, and takes
    /// the word of these proxies for it.
    pub fn share_door(&self, door: Arc<Door>, proxies: Arc<Proxies>) {
        let shared = &mut self.state.borrow_mut().shared;
        shared.door = door;
        shared.proxies = proxies;
    }

    /// Makes the counts known to other threads.
    pub fn publish(&self) {
        self.publish_at.set(None);
        let state = &mut *self.state.borrow_mut();
        state.shared.settle_codec();
        state.shared.stats.publish(
            &state.shared.counts,
            state.slab.len(),
            state.shared.queued_bytes,
        );
    }

    /// Goes on under other settings, of those that can change.
    pub fn reconfigure(&self, config: &Config) {
        let state = &mut *self.state.borrow_mut();
        state.shared.reconfigure(config);
        let config = &state.shared.config;
        state
            .places
            .set(config.shard_connections_max, config.handshake_timeout_ms);
    }

    /// The connection in this place, unless it is gone.
    pub fn connection(&self, key: Key) -> Option<Rc<Connection>> {
        self.state.borrow_mut().slab.get_mut(key)?.upgrade()
    }

    /// Whoever is in this place.
    pub fn connection_at(&self, slot: u32) -> Option<Rc<Connection>> {
        let key = self.state.borrow().slab.key_at(slot)?;
        self.connection(key)
    }

    /// Every connection that there is.
    pub fn connections(&self) -> Vec<Rc<Connection>> {
        let places = self.state.borrow().slab.capacity() as u32;
        (0..places)
            .filter_map(|slot| self.connection_at(slot))
            .collect()
    }

    /// Takes a connection out of the table.
    pub fn leave(&self, state: &mut State, key: Key) {
        state.wheel.clear(key.slot);
        state.slab.remove(key);
        if state.places.leaves(key) {
            Self::promise_place(state);
        }
        self.left.notify_waiters();
    }

    /// Puts a connection into the table, whether there is a place for it or not.
    ///
    /// # Errors
    ///
    /// `EMFILE` when there are as many as a table can have.
    pub fn enter_table(&self) -> Result<Key, Errno> {
        let mut state = self.state.borrow_mut();
        let inserted = state.slab.insert(Weak::new());
        inserted.map_err(|_| Errno::TOO_MANY_FILES)
    }

    fn handle_deadlines(&self, now: Time) {
        loop {
            let due = {
                let state = &mut *self.state.borrow_mut();
                state.shared.now = now;
                let Some(slot) = state.wheel.next_due(now) else {
                    break;
                };
                let key = state.slab.key_at(slot);
                key.and_then(|key| state.slab.get_mut(key)?.upgrade())
            };
            if let Some(connection) = due {
                connection.deadline();
            }
        }
    }

    fn keep(&self, timer: &Timer, context: &mut TaskContext<'_>) {
        // Before the last look at what is due, so that nothing is missed.
        while timer.poll_due(context).is_ready() {}
        self.flush_dirty();
        let now = Time::monotonic();
        self.handle_deadlines(now);
        Self::tell_late(&mut self.state.borrow_mut(), now);
        self.flush_dirty();
        self.do_later();
        if self.publish_at.get().is_some_and(|at| at <= now) {
            self.publish();
        }
        self.relieve(now);
        self.flush_dirty();
        let (first, relieve_at, late_at) = {
            let state = self.state.borrow();
            let late_at = state.places.late_at();
            (state.wheel.first(), state.relieve_at(), late_at)
        };
        let next = [first, relieve_at, late_at, self.publish_at.get()];
        let next = next.into_iter().flatten().min();
        if self.set_to.replace(next) != next {
            timer.set(next);
        }
        self.armed.set(next);
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.do_later();
        self.wake_keeper();
    }
}

/// Notices when the keeper ends. Its runtime does, then, unless nobody is left to be kept.
struct Keeping(Weak<Local>);

impl Drop for Keeping {
    fn drop(&mut self) {
        if let Some(local) = self.0.upgrade() {
            local.end();
        }
    }
}

/// Keeps a thread's connections until nobody has the context any more.
async fn keep(local: Weak<Local>, timer: Timer) {
    let _keeping = Keeping(local.clone());
    poll_fn(move |context| {
        let Some(local) = local.upgrade() else {
            return Poll::Ready(());
        };
        local.keeper.replace(Some(context.waker().clone()));
        local.keep(&timer, context);
        Poll::Pending
    })
    .await;
}
