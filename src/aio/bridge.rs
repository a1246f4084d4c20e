//! Between services on shards, which must not wait, and async code, which may.
//!
//! Knows: a bounded queue, one thread with a runtime on it, the way back through a [`Handle`].
//! Refuses to know: frames, rings, what is asked and what is answered.
//!
//! ```text
//!   shards                     |  the bridge's thread: a current-thread tokio runtime
//!   Service::on_message        |
//!     Sender::try_send ------> a line for each connection, one request at work from each
//!       full: the service      |              |
//!       has it back            |              v
//!   Conn (the peer) <----------+-- Handle <-- async Fn(Request)
//! ```

use std::{
    collections::{HashMap, VecDeque},
    fmt, mem,
    rc::Rc,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::Notify,
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::OwnedMessage;
use crate::{
    CloseCode, ConfigError, ConnId, Handle, HandleError, Outgoing, StartError,
    server::crew::message_of,
};

/// How long [`Bridge::stop`] waits beyond its deadline for a handler that blocks the thread.
const GRACE: Duration = Duration::from_secs(1);

/// How many requests, and how much of them, may be in a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Requests handed over and not finished. 4,096.
    pub requests_max: usize,
    /// Requests of one connection among them, so that no peer can take the room of all. 64.
    pub conn_requests_max: usize,
    /// What they hold, by [`Payload::payload_bytes`]; a request of more is always refused. 64 MiB.
    pub payload_bytes_max: usize,
    /// Requests that are at work at the same time. With 1, what a handler does is not interrupted
    /// by itself where it awaits. 256.
    pub concurrent_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 4096,
            conn_requests_max: 64,
            payload_bytes_max: 64 << 20,
            concurrent_max: 256,
        }
    }
}

/// What can be handed over a bridge: anything, if it tells how much memory it takes.
pub trait Payload: Send + 'static {
    /// Bytes beside those of the type itself, which a peer may have chosen the number of.
    fn payload_bytes(&self) -> usize;
}

macro_rules! payloads {
    ($($type:ty)*) => {
        $(impl Payload for $type {
            fn payload_bytes(&self) -> usize {
                self.len()
            }
        })*
    };
}

payloads! { Bytes String Vec<u8> }

impl Payload for OwnedMessage {
    fn payload_bytes(&self) -> usize {
        self.payload().len()
    }
}

impl Payload for Outgoing<'static> {
    fn payload_bytes(&self) -> usize {
        self.payload_len()
    }
}

/// What happened on a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Requests that services handed over.
    pub handed_over: u64,
    /// Requests that services got back because of a limit or the bridge's end.
    pub refused: u64,
    /// Requests whose handler has returned.
    pub finished: u64,
    /// Requests whose handler panicked.
    pub panicked: u64,
    /// Requests that were handed over and not finished when the bridge's deadline came.
    pub abandoned: u64,
    /// Messages that reached their connection's shard by [`Request::answer`].
    pub answered: u64,
    /// Requests in the bridge now.
    pub pending: usize,
    /// What these hold.
    pub payload_bytes: usize,
}

/// A request that was not handed over: here it is again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// The connection has `conn_requests_max` requests in the bridge.
    ConnFull(T),
    /// The bridge is full, of requests or of bytes.
    Full(T),
    /// The bridge takes no more.
    Stopped(T),
}

impl<T> Refused<T> {
    /// The request.
    pub fn into_body(self) -> T {
        let (Self::ConnFull(body) | Self::Full(body) | Self::Stopped(body)) = self;
        body
    }
}

impl<T> fmt::Display for Refused<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnFull(_) => "the connection has as many requests waiting as it may",
            Self::Full(_) => "the bridge has as many requests waiting as it may",
            Self::Stopped(_) => "the bridge has stopped",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for Refused<T> {}

/// The services' end of a bridge. Cheap to clone: one for each shard.
///
/// Requests handed over before [`Bridge::start`] wait for it: services are made when the server
/// starts, and the bridge needs the started server's [`Handle`].
pub struct Sender<T> {
    desk: Arc<Desk<T>>,
}

impl<T: Payload> Sender<T> {
    /// Hands a request of a connection to the async code. Never waits, so that a service may call
    /// it.
    ///
    /// # Errors
    ///
    /// The request, when it is one too many. It is the service's to say what that means: try later,
    /// answer the peer without, or close the connection with
    /// [`TRY_AGAIN_LATER`](CloseCode::TRY_AGAIN_LATER).
    pub fn try_send(&self, id: ConnId, body: T) -> Result<(), Refused<T>> {
        let payload_bytes = body.payload_bytes();
        let handed_over = self.desk.books().hand_over(id, body, payload_bytes);
        if handed_over.is_ok() {
            self.desk.changed.notify_one();
        }
        handed_over
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.desk.books().counts
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.desk.books().senders += 1;
        Self {
            desk: self.desk.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.desk.books().senders -= 1;
        self.desk.changed.notify_one();
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.desk.books().counts;
        f.debug_struct("Sender").field("counts", &counts).finish()
    }
}

/// A request on its way through the async code.
#[derive(Debug)]
pub struct Request<T> {
    /// The connection that it came from, which may be gone by now.
    pub id: ConnId,
    /// What the service handed over.
    pub body: T,
    handle: Handle,
    desk: Arc<Desk<T>>,
}

impl<T> Request<T> {
    /// Sends a message to the connection that the request came from, after all that was sent there
    /// before; waits while its shard's mailbox is full. When the connection is gone, nothing
    /// happens.
    ///
    /// # Errors
    ///
    /// [`HandleError::Stopped`] when the server has.
    pub async fn answer<'m>(&self, message: impl Into<Outgoing<'m>>) -> Result<(), HandleError> {
        self.handle.send_when_room(self.id, message).await?;
        self.desk.books().counts.answered += 1;
        Ok(())
    }

    /// The way to every other connection, and to this one's end.
    pub const fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// A bridge that nobody walks on yet.
#[derive(Debug)]
pub struct Bridge<T> {
    desk: Arc<Desk<T>>,
    end: End<T>,
}

/// A bridge in use. Dropping it leaves it in use, until the last [`Sender`] is gone.
#[derive(Debug)]
pub struct Running<T> {
    desk: Arc<Desk<T>>,
    thread: JoinHandle<()>,
}

/// A bridge with these limits, and the end of it that services hold.
///
/// Requests of one connection are worked on one after the other, in their order; those of several
/// connections in turns, and up to `concurrent_max` of them at once.
///
/// ```no_run
/// use ringwire::{
///     CloseCode, Conn, Message, Server, Service,
///     aio::bridge::{self, Limits, Request, Sender},
/// };
///
/// struct Ask(Sender<String>);
///
/// impl Service for Ask {
///     type State = ();
///
///     fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
///         let Some(question) = message.text() else { return };
///         if self.0.try_send(conn.id(), question.to_owned()).is_err() {
///             let _ = conn.close(CloseCode::TRY_AGAIN_LATER, "too many questions");
///         }
///     }
/// }
///
/// async fn look_up(question: &str) -> String {
///     // A database, an HTTP client, a queue.
/// #   question.to_owned()
/// }
///
/// fn main() -> Result<(), ringwire::StartError> {
///     let (sender, bridge) = bridge::new(Limits::default())?;
///     let builder = Server::builder().listen("127.0.0.1:9001");
///     let server = builder.start(move |_shard| Ask(sender.clone()))?;
///     bridge.start(server.handle(), async |request: Request<String>| {
///         let answer = look_up(&request.body).await;
///         let _ = request.answer(answer).await;
///     })?;
///     server.join()
/// }
/// ```
///
/// # Errors
///
/// When a limit is 0: nothing would ever pass.
pub fn new<T: Payload>(limits: Limits) -> Result<(Sender<T>, Bridge<T>), ConfigError> {
    for (field, value) in [
        ("requests_max", limits.requests_max),
        ("conn_requests_max", limits.conn_requests_max),
        ("payload_bytes_max", limits.payload_bytes_max),
        ("concurrent_max", limits.concurrent_max),
    ] {
        if value == 0 {
            return Err(ConfigError::new(field, value, "at least 1"));
        }
    }
    let desk = Arc::new(Desk {
        books: Mutex::new(Books::new(limits)),
        changed: Notify::new(),
        ended: Condvar::new(),
    });
    let sender = Sender { desk: desk.clone() };
    let end = End(desk.clone());
    Ok((sender, Bridge { desk, end }))
}

impl<T: Payload> Bridge<T> {
    /// Calls `handler` for each request, on a thread of the bridge's with a current-thread tokio
    /// runtime: what the handler makes there need not be `Send`. Its timers, sockets and blocking
    /// threads are there as far as tokio was compiled with them. A handler that blocks the thread
    /// keeps all other requests waiting, and nothing else.
    ///
    /// A panic in it is counted and logged, closes the request's connection with 1011, and hurts no
    /// other request; what the handler itself keeps is as the panic left it.
    ///
    /// # Errors
    ///
    /// [`StartError::Thread`] when the host gives no thread, or no descriptors for the runtime.
    pub fn start<H>(self, handle: Handle, handler: H) -> Result<Running<T>, StartError>
    where
        H: AsyncFn(Request<T>) + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name(THREAD)
            .build()
            .map_err(StartError::Thread)?;
        let Self { desk, end } = self;
        let work = Work {
            desk: desk.clone(),
            handle,
        };
        let body = move || {
            let _end = end;
            let tasks = LocalSet::new();
            tasks.block_on(&runtime, work.run(Rc::new(handler)));
            // What is abandoned ends before the runtime under it.
            drop(tasks);
            // Calls that block cannot be ended; they are not waited for.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(body);
        let thread = thread.map_err(StartError::Thread)?;
        Ok(Running { desk, thread })
    }
}

const THREAD: &str = "ringwire-bridge";

impl<T> Running<T> {
    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.desk.books().counts
    }

    /// Takes no more requests, and ends when all that were handed over are finished, or after
    /// `drain_timeout_ms`: those that are not finished then are dropped where they await, and
    /// counted as abandoned. Waits for the end, but not for a handler that blocks its thread for
    /// longer.
    ///
    /// Stop the bridge before the server, so that the answers still arrive.
    pub fn stop(self, drain_timeout_ms: u64) -> Counts {
        let drain_timeout = Duration::from_millis(drain_timeout_ms);
        let mut books = self.desk.books();
        books.stop = Some(drain_timeout);
        self.desk.changed.notify_one();
        let patience = drain_timeout.saturating_add(GRACE);
        let waited = self
            .desk
            .ended
            .wait_timeout_while(books, patience, |books| !books.ended);
        let (books, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let (counts, ended) = (books.counts, books.ended);
        drop(books);
        if ended {
            see_off(self.thread);
        } else {
            let pending = counts.pending;
            tracing::error!(
                pending,
                "a handler blocks the bridge's thread; it is left alone"
            );
        }
        counts
    }

    /// Waits until every [`Sender`] is gone, as they are when the server has ended, and all that
    /// they have handed over is finished.
    pub fn join(self) -> Counts {
        see_off(self.thread);
        self.desk.books().counts
    }
}

/// Waits for the thread's end. Panics of handlers are not its own.
fn see_off(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        let message = message_of(panic);
        tracing::error!("the bridge's thread panicked: {message}; please report it");
    }
}

/// What both ends share.
#[derive(Debug)]
struct Desk<T> {
    books: Mutex<Books<T>>,
    /// There may be something to do for the bridge's thread.
    changed: Notify,
    /// The thread is at its end.
    ended: Condvar,
}

impl<T> Desk<T> {
    /// A panic cannot have left them half changed: nothing is done under the lock that could.
    fn books(&self) -> MutexGuard<'_, Books<T>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which request is where. Each connection with requests in the bridge has a line; a connection is
/// in `ready` once while it has some waiting and none at work.
#[derive(Debug)]
struct Books<T> {
    limits: Limits,
    lines: HashMap<ConnId, Line<T>>,
    ready: VecDeque<ConnId>,
    at_work: usize,
    counts: Counts,
    senders: usize,
    /// How long it may take to finish, once it is to stop.
    stop: Option<Duration>,
    ended: bool,
}

#[derive(Debug)]
struct Line<T> {
    /// With what each of them holds.
    waiting: VecDeque<(T, usize)>,
    /// What the request at work holds, if there is one.
    at_work: Option<usize>,
}

impl<T> Books<T> {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            lines: HashMap::new(),
            ready: VecDeque::new(),
            at_work: 0,
            counts: Counts::default(),
            senders: 1,
            stop: None,
            ended: false,
        }
    }

    fn hand_over(&mut self, id: ConnId, body: T, payload_bytes: usize) -> Result<(), Refused<T>> {
        let Self { limits, counts, .. } = self;
        let held_bytes = counts.payload_bytes.saturating_add(payload_bytes);
        let is_full =
            counts.pending >= limits.requests_max || held_bytes > limits.payload_bytes_max;
        let conn_pending = self.lines.get(&id).map_or(0, Line::len);
        counts.refused += 1;
        if self.stop.is_some() || self.ended {
            return Err(Refused::Stopped(body));
        } else if is_full {
            return Err(Refused::Full(body));
        } else if conn_pending >= limits.conn_requests_max {
            return Err(Refused::ConnFull(body));
        }
        counts.refused -= 1;
        counts.handed_over += 1;
        counts.pending += 1;
        counts.payload_bytes = held_bytes;
        let line = self.lines.entry(id).or_default();
        if line.len() == 0 {
            self.ready.push_back(id);
        }
        line.waiting.push_back((body, payload_bytes));
        Ok(())
    }

    /// The next request to work on, when one more may be at work.
    fn take(&mut self) -> Option<(ConnId, T)> {
        if self.at_work >= self.limits.concurrent_max {
            return None;
        }
        let id = self.ready.pop_front()?;
        let line = self.lines.get_mut(&id)?;
        let (body, payload_bytes) = line.waiting.pop_front()?;
        line.at_work = Some(payload_bytes);
        self.at_work += 1;
        Some((id, body))
    }

    /// A request is at its end: the next one of its connection may follow.
    fn finish(&mut self, id: ConnId) {
        let Some(line) = self.lines.get_mut(&id) else {
            return;
        };
        self.counts.payload_bytes -= line.at_work.take().unwrap_or(0);
        self.counts.pending -= 1;
        self.at_work -= 1;
        if line.len() == 0 {
            self.lines.remove(&id);
        } else {
            self.ready.push_back(id);
        }
    }

    /// Nothing waits, and nothing is at work.
    fn is_idle(&self) -> bool {
        self.counts.pending == 0
    }

    /// Whether the bridge is to end, at once or after a while.
    fn is_over(&self) -> bool {
        self.stop.is_some() || self.senders == 0 && self.is_idle()
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            at_work: None,
        }
    }
}

impl<T> Line<T> {
    fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.at_work.is_some())
    }
}

/// The bridge's thread.
struct Work<T> {
    desk: Arc<Desk<T>>,
    handle: Handle,
}

impl<T: Payload> Work<T> {
    async fn run<H>(&self, handler: Rc<H>)
    where
        H: AsyncFn(Request<T>) + 'static,
    {
        self.work_until(&handler, Books::is_over).await;
        let Some(drain_timeout) = self.desk.books().stop else {
            return;
        };
        let drained = timeout(drain_timeout, self.work_until(&handler, Books::is_idle)).await;
        if drained.is_err() {
            let requests = self.desk.books().counts.pending;
            tracing::warn!(requests, "the bridge's deadline came before their end");
        }
    }

    /// Starts requests as they come, until what is in the books is `enough`.
    async fn work_until<H>(&self, handler: &Rc<H>, enough: fn(&Books<T>) -> bool)
    where
        H: AsyncFn(Request<T>) + 'static,
    {
        loop {
            let taken = {
                let mut books = self.desk.books();
                if enough(&books) {
                    return;
                }
                books.take()
            };
            match taken {
                Some((id, body)) => self.begin(id, body, handler.clone()),
                None => self.desk.changed.notified().await,
            }
        }
    }

    fn begin<H>(&self, id: ConnId, body: T, handler: Rc<H>)
    where
        H: AsyncFn(Request<T>) + 'static,
    {
        let desk = self.desk.clone();
        let request = Request {
            id,
            body,
            handle: self.handle.clone(),
            desk: desk.clone(),
        };
        let handle = self.handle.clone();
        spawn_local(async move {
            // A task of its own, which may panic.
            let work = spawn_local(async move { handler(request).await });
            let is_finished = work.await.is_ok();
            if !is_finished {
                tracing::error!(
                    connection = %id,
                    "the bridge's handler panicked on a request; its connection is closed with 1011"
                );
                // A server that has stopped, or is that busy, needs no more trouble.
                let _ = handle.close(id, CloseCode::INTERNAL_ERROR, "");
            }
            let mut books = desk.books();
            let counts = &mut books.counts;
            counts.finished += u64::from(is_finished);
            counts.panicked += u64::from(!is_finished);
            books.finish(id);
            drop(books);
            desk.changed.notify_one();
        });
    }
}

/// Says that the bridge has ended, however it does.
#[derive(Debug)]
struct End<T>(Arc<Desk<T>>);

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let mut books = self.0.books();
        books.ended = true;
        let counts = &mut books.counts;
        counts.abandoned += mem::take(&mut counts.pending) as u64;
        counts.payload_bytes = 0;
        // They may hold a `Sender`, which wants the books when it goes.
        let lines = mem::take(&mut books.lines);
        drop(books);
        drop(lines);
        self.0.ended.notify_all();
    }
}
