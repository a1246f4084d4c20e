//! The threads of a server: they begin together, and end together.
//!
//! Knows: how each of them ended. Refuses to know: what they do, and which engine they run.
//!
//! A server that lost one of its threads would go on with what is left: the kernel still hands
//! connections to those, and nobody hears of the others. So the first thread that ends with an
//! error, be it a panic or what the kernel said, says so in the log and stops the others, whether
//! somebody waits for the server's end or not.

use std::{
    any::Any,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::StartError;
use crate::ring::Time;

/// How long the others are waited for beyond the time that their connections have to close, when a
/// thread ended with an error: one that is stuck in a service is not to hide that.
const GRACE_MS: u64 = 1000;

/// How a thread ended.
type Outcome = Result<(), StartError>;

/// Threads of one server.
pub(crate) struct Crew {
    threads: Vec<Option<JoinHandle<()>>>,
    ends: Sender<(usize, Outcome)>,
    /// Locked by nobody but its owner, so that a server can be shared.
    ended: Mutex<Receiver<(usize, Outcome)>>,
    watch: Arc<Watch>,
    drain_timeout_ms: u64,
}

/// What the first thread that fails looks at.
#[derive(Default)]
struct Watch {
    failed: AtomicBool,
    /// Stops the server, once all of it has started.
    stop: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Watch {
    /// A thread has failed, or there is a way to stop now: whichever comes second stops the others.
    fn stop_if_failed(&self) {
        if self.failed.load(Ordering::SeqCst)
            && let Some(stop) = self.stop.get()
        {
            stop();
        }
    }
}

impl Crew {
    /// Nobody yet. When one of them fails, the others have so long to close their connections.
    pub fn new(drain_timeout_ms: u64) -> Self {
        let (ends, ended) = mpsc::channel();
        Self {
            threads: Vec::new(),
            ends,
            ended: Mutex::new(ended),
            watch: Arc::default(),
            drain_timeout_ms,
        }
    }

    /// Starts the next thread.
    ///
    /// # Errors
    ///
    /// [`StartError::Thread`].
    pub fn spawn(
        &mut self,
        body: impl FnOnce() -> Outcome + Send + 'static,
    ) -> Result<(), StartError> {
        let id = self.threads.len();
        let (ends, watch) = (self.ends.clone(), self.watch.clone());
        let watched = move || {
            let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
                Err(StartError::ShardPanicked {
                    shard: id as u16,
                    message: message_of(panic),
                })
            });
            match &outcome {
                // Who starts the server is told, and there is nothing else to it yet.
                Ok(()) | Err(StartError::Unavailable(_)) => {}
                Err(error) => {
                    tracing::error!("{error}");
                    watch.failed.store(true, Ordering::SeqCst);
                    watch.stop_if_failed();
                }
            }
            // Nobody may wait for it.
            let _ = ends.send((id, outcome));
        };
        let thread = thread::Builder::new()
            .name(format!("ringwire-{id}"))
            .spawn(watched);
        self.threads.push(Some(thread.map_err(StartError::Thread)?));
        Ok(())
    }

    /// All have started, and this stops them.
    pub fn stop_by(&self, stop: impl Fn() + Send + Sync + 'static) {
        // It is called once.
        let _ = self.watch.stop.set(Box::new(stop));
        self.watch.stop_if_failed();
    }

    /// Waits until all have ended.
    ///
    /// # Errors
    ///
    /// The first error that one of them ended with. Those that are stuck in a service then are left
    /// alone.
    pub fn join(self) -> Outcome {
        let Self {
            mut threads, ended, ..
        } = self;
        let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut result = Ok(());
        let mut until: Option<Time> = None;
        for left in (1..=threads.len()).rev() {
            let end = match until {
                None => ended.recv().ok(),
                Some(until) => {
                    let patience = until.ns_since(Time::monotonic());
                    ended.recv_timeout(Duration::from_nanos(patience)).ok()
                }
            };
            let Some((id, outcome)) = end else {
                tracing::error!(
                    threads = left,
                    "a service blocks its thread: it is left alone"
                );
                break;
            };
            if let Some(thread) = threads[id].take() {
                // How it ended is known.
                let _ = thread.join();
            }
            if result.is_ok() && outcome.is_err() {
                let patience_ms = self.drain_timeout_ms.saturating_add(GRACE_MS);
                until = Some(Time::monotonic().plus_ms(patience_ms));
                result = outcome;
            }
        }
        result
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew")
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}

/// What a panic said.
pub(crate) fn message_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let message = text.unwrap_or("something that is no text").to_owned();
    // It may be something whose end panics again.
    mem::forget(panic);
    message
}
