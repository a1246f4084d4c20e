//! Where a thread's tasks run: a runtime of ours, or one of the application's.
//!
//! Knows: the two kinds of runtime, how each is made, and how a task that stays on its thread is
//! spawned on whichever the thread is in. Refuses to know: what tasks do.
//!
//! | this thread is in | a task of ours is spawned by |
//! |---|---|
//! | a [`Runtime`], or [`local`] | `spawn_local` |
//! | a current-thread runtime of the application's | `tokio::spawn`, in a [`Kept`] |
//! | a runtime of several threads | nothing: [`NoHome::SeveralThreads`] |
//! | no runtime | nothing: [`NoHome::NoRuntime`] |
//!
//! Nobody can ask tokio whether `spawn_local` would panic, so that what is known is remembered: a
//! [`Place`] is entered for as long as tasks of a set of local tasks may be polled.

use std::{
    cell::Cell,
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use send_wrapper::SendWrapper;
use tokio::{
    runtime::{Builder, Handle, LocalOptions, LocalRuntime, RuntimeFlavor},
    task::{JoinHandle, LocalSet},
};

use crate::ring::{Ballot, Errno, NoRing, RingKind, probe::Unavailable, readiness::try_runtime};

thread_local! {
    /// The set of local tasks that this thread is in, if we know of it.
    static PLACE: Cell<Option<Place>> = const { Cell::new(None) };
    /// Sets that this thread has been in.
    static PLACES: Cell<u64> = const { Cell::new(0) };
}

/// One set of local tasks of this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u64);

/// Is in a place until it is dropped.
struct Visit {
    outer: Option<Place>,
}

impl Place {
    fn new() -> Self {
        let number = PLACES.get();
        PLACES.set(number + 1);
        Self(number)
    }

    fn visit(self) -> Visit {
        let outer = PLACE.replace(Some(self));
        Visit { outer }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        PLACE.set(self.outer);
    }
}

/// What a thread of a server runs on.
pub enum Runtime {
    /// tokio's own, on epoll.
    Epoll(LocalRuntime),
    /// tokio-uring's, which has a ring for those of its handlers that use it.
    Uring(tokio_uring::Runtime),
}

impl Runtime {
    /// tokio's own runtime.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn epoll() -> Result<Self, Errno> {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().build_local(LocalOptions::default());
        runtime.map(Self::Epoll).map_err(Errno::from)
    }

    /// tokio-uring's runtime.
    ///
    /// # Errors
    ///
    /// Why there is none, and what to do about it.
    pub fn uring() -> Result<Self, Unavailable> {
        let made = try_runtime().and_then(|()| {
            let runtime = tokio_uring::Runtime::new(&tokio_uring::builder());
            runtime.map_err(|error: io::Error| error.into())
        });
        made.map(Self::Uring)
            .map_err(Unavailable::from_runtime_errno)
    }

    /// Runs a future on this thread until it is done.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        let _visit = Place::new().visit();
        match self {
            Self::Epoll(runtime) => runtime.block_on(future),
            Self::Uring(runtime) => runtime.block_on(future),
        }
    }
}

/// Runs a future on a runtime of this thread's own until it is done: for clients, and whoever else
/// has no runtime yet. It is the one that the threads of a [`Server`](super::Server) have:
/// tokio-uring's where this host allows io_uring, so that the future may use its files, and tokio's
/// own current-thread runtime elsewhere.
///
/// ```no_run
/// use ringwire::aio;
///
/// fn main() -> std::io::Result<()> {
///     aio::block_on(async {
///         let mut socket = aio::connect("ws://127.0.0.1:9001/").await.expect("a server");
///         socket.send("hello").await.expect("an open connection");
///     })
/// }
/// ```
///
/// # Errors
///
/// When the kernel refuses both: there are no descriptors left.
///
/// # Panics
///
/// When the future does, and inside of a runtime.
pub fn block_on<F: Future>(future: F) -> io::Result<F::Output> {
    let ballot = Ballot::new(RingKind::Auto, 1);
    let made = ballot.decide(Runtime::uring, Runtime::epoll);
    let runtime = made.map_err(|no_ring| match no_ring {
        NoRing::Epoll(errno) => io::Error::from_raw_os_error(errno.number()),
        NoRing::Uring(unavailable) => io::Error::other(unavailable.to_string()),
    })?;
    if let Some(unavailable) = ballot.refused() {
        tracing::debug!("running on tokio's own runtime. {unavailable}");
    }
    Ok(runtime.block_on(future))
}

/// Lets a future use connections in a runtime of the application's, whichever that is. A connection
/// stays on the thread on which it was made, and so does everything in here:
/// `tokio::task::spawn_local` works inside.
///
/// A current-thread runtime (`#[tokio::main(flavor = "current_thread")]`) does without. In one of
/// several threads it is the body of `main`, or whatever else is not spawned, that can be this:
///
/// ```no_run
/// use ringwire::aio;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// #   let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// // The same as #[tokio::main].
/// runtime.block_on(aio::local(async {
///     let mut socket = aio::connect("ws://127.0.0.1:9001/").await?;
///     socket.send("hello").await?;
///     Ok(())
/// }))
/// # }
/// ```
///
/// What was spawned inside and has not ended is dropped with the future.
pub async fn local<F: Future>(future: F) -> F::Output {
    let tasks = LocalSet::new();
    Placed {
        place: Place::new(),
        future: Box::pin(tasks.run_until(future)),
    }
    .await
}

/// Polls a set of local tasks in its place.
struct Placed<F> {
    place: Place,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Placed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _visit = self.place.visit();
        self.future.as_mut().poll(context)
    }
}

/// Why there is nothing here to run a connection's tasks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoHome {
    /// There is no tokio runtime on this thread.
    NoRuntime,
    /// Tasks of this runtime move between threads, and connections do not.
    SeveralThreads,
}

impl fmt::Display for NoHome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRuntime => {
                "there is no tokio runtime on this thread: run the future with \
                 ringwire::aio::block_on, or in a runtime of your own (#[tokio::main])"
            }
            Self::SeveralThreads => {
                "this tokio runtime has several threads, and a connection stays on one: wrap what \
                 uses connections in ringwire::aio::local(async { .. }).await, or use a \
                 current-thread runtime (#[tokio::main(flavor = \"current_thread\")])"
            }
        })
    }
}

impl std::error::Error for NoHome {}

/// Where tasks of connections are spawned.
#[derive(Clone, Debug)]
pub struct Home {
    runtime: Handle,
    /// The set of local tasks that they are in. In a current-thread runtime there may be none.
    place: Option<Place>,
}

impl Home {
    /// For the thread that this is called on.
    ///
    /// # Errors
    ///
    /// When nothing can be spawned here.
    pub fn find() -> Result<Self, NoHome> {
        let runtime = Handle::try_current().map_err(|_| NoHome::NoRuntime)?;
        let place = PLACE.get();
        if place.is_none() && runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return Err(NoHome::SeveralThreads);
        }
        Ok(Self { runtime, place })
    }

    /// Whether this thread is in the same runtime now.
    pub fn is_current(&self) -> bool {
        Handle::try_current().is_ok_and(|current| current.id() == self.runtime.id())
            && (self.place.is_none() || self.place == PLACE.get())
    }

    /// Spawns a task.
    ///
    /// # Errors
    ///
    /// The task, where it cannot be spawned from here: its set of local tasks is not the one that
    /// this thread is in.
    pub fn spawn<F: Future<Output = ()> + 'static>(&self, task: F) -> Result<JoinHandle<()>, F> {
        match self.place {
            None => Ok(self.runtime.spawn(Kept::new(task))),
            place if place == PLACE.get() => Ok(tokio::task::spawn_local(task)),
            _ => Err(task),
        }
    }
}

/// A task that is nowhere but on its thread, for a scheduler that could take it to another: one of
/// a single thread does not, as long as nobody runs it on a second one. There the task ends without
/// having been touched.
struct Kept<F> {
    task: Option<SendWrapper<Pin<Box<F>>>>,
}

impl<F: Future<Output = ()>> Kept<F> {
    fn new(task: F) -> Self {
        let task = Some(SendWrapper::new(Box::pin(task)));
        Self { task }
    }
}

impl<F: Future<Output = ()>> Future for Kept<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.task {
            Some(task) if task.valid() => task.as_mut().poll(context),
            _ => {
                tracing::error!(
                    "a runtime is run on another thread than before; connections of the first one \
                     stand still"
                );
                Poll::Ready(())
            }
        }
    }
}

impl<F> Drop for Kept<F> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take_if(|task| !task.valid()) {
            // It may be dropped on its own thread only, which this is not.
            std::mem::forget(task);
        }
    }
}
