//! Which of the kernel's rings to run on.
//!
//! Knows: how each is made from the same settings, and that threads of one server run on the same
//! one. Refuses to know: what runs on it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{
    Epoll, EpollOptions, Errno, Uring, UringOptions,
    probe::{Cause, Unavailable},
};

/// Which ring to run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingKind {
    /// io_uring where this host allows it, and epoll where it does not. A process that has no
    /// descriptors left is told so, and does not run on epoll for it.
    #[default]
    Auto,
    /// epoll: on every kernel since Linux 4.18, and where io_uring is forbidden.
    Epoll,
    /// io_uring, and nothing else.
    Uring,
}

impl RingKind {
    /// What the kernel's people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "io_uring or epoll",
            Self::Epoll => "epoll",
            Self::Uring => "io_uring",
        }
    }
}

/// What running on epoll costs. Measured on loopback, where the kernel's TCP is nearly all of it.
pub const EPOLL_COST: &str = "epoll takes one system call for each receive and one for each \
                              send, where io_uring has one for all of a turn: up to a tenth more \
                              processor time for small messages.";

/// What an async server runs on without io_uring, and what that costs.
pub const TOKIO_COST: &str = "on tokio's own runtime, as fast; handlers have no files of \
                              tokio-uring's";

/// What a ring is asked for, whichever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingOptions {
    /// Receive buffers, a power of two of at most 32,768.
    pub recv_buffers: u16,
    /// Bytes in each receive buffer.
    pub recv_buffer_bytes: u32,
    /// Fill a receive buffer piece by piece where the kernel has to be asked for that.
    pub recv_incremental: bool,
    /// Bytes in each large buffer, for long messages.
    pub large_buffer_bytes: u32,
    /// For how long a turn looks for something to do before it sleeps, in microseconds.
    pub busy_poll_us: u32,
}

impl Default for RingOptions {
    fn default() -> Self {
        let uring = UringOptions::default();
        Self {
            recv_buffers: uring.recv_buffers,
            recv_buffer_bytes: uring.recv_buffer_bytes,
            recv_incremental: uring.recv_incremental,
            large_buffer_bytes: uring.large_buffer_bytes,
            busy_poll_us: uring.busy_poll_us,
        }
    }
}

impl From<&RingOptions> for UringOptions {
    fn from(options: &RingOptions) -> Self {
        Self {
            recv_buffers: options.recv_buffers,
            recv_buffer_bytes: options.recv_buffer_bytes,
            recv_incremental: options.recv_incremental,
            large_buffer_bytes: options.large_buffer_bytes,
            busy_poll_us: options.busy_poll_us,
            ..Self::default()
        }
    }
}

impl From<&RingOptions> for EpollOptions {
    fn from(options: &RingOptions) -> Self {
        Self {
            recv_buffers: options.recv_buffers,
            recv_buffer_bytes: options.recv_buffer_bytes,
            large_buffer_bytes: options.large_buffer_bytes,
            busy_poll_us: options.busy_poll_us,
            ..Self::default()
        }
    }
}

/// A ring of the kernel, for whoever runs on either.
#[derive(Debug)]
pub enum AnyRing {
    /// One on epoll.
    Epoll(Epoll),
    /// One of io_uring.
    Uring(Uring),
}

/// Why there is no ring.
#[derive(Debug)]
pub enum NoRing {
    /// The kernel has nothing left for a ring on epoll.
    Epoll(Errno),
    /// io_uring cannot be used, and nothing else would do.
    Uring(Box<Unavailable>),
}

fn uring(options: &RingOptions) -> Result<Uring, Unavailable> {
    Uring::new(&options.into()).map_err(Unavailable::from_setup_errno)
}

/// Makes rings for threads that are all to run on the same kind.
///
/// They share sockets, and what one kind of ring asks of a listener the other could not bear: the
/// non-blocking mode belongs to the listener, whoever has it. So where one thread gets no io_uring,
/// none uses one, be it that locked memory was enough for some of them.
#[derive(Debug)]
pub struct Ballot {
    kind: RingKind,
    votes: Mutex<Votes>,
    all_voted: Condvar,
}

#[derive(Debug)]
struct Votes {
    /// Threads that have not tried yet.
    awaited: usize,
    /// Why the first one of them failed that did.
    refused: Option<Unavailable>,
}

/// One thread's vote, which is cast whatever becomes of the thread.
struct Vote<'a> {
    ballot: &'a Ballot,
    refused: Option<Unavailable>,
}

impl Drop for Vote<'_> {
    fn drop(&mut self) {
        let mut votes = self.ballot.votes();
        votes.awaited -= 1;
        if votes.refused.is_none() {
            votes.refused = self.refused.take();
        }
        self.ballot.all_voted.notify_all();
    }
}

impl Ballot {
    /// For so many threads.
    pub fn new(kind: RingKind, threads: usize) -> Self {
        Self {
            kind,
            votes: Mutex::new(Votes {
                awaited: threads,
                refused: None,
            }),
            all_voted: Condvar::new(),
        }
    }

    fn votes(&self) -> MutexGuard<'_, Votes> {
        self.votes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the ring of the calling thread, once all have tried. To be called once by each.
    ///
    /// # Errors
    ///
    /// When only io_uring would do and cannot be used, or the kernel has nothing left for epoll.
    pub fn ring(&self, options: &RingOptions) -> Result<AnyRing, NoRing> {
        self.decide(
            || uring(options).map(AnyRing::Uring),
            || Epoll::new(&options.into()).map(AnyRing::Epoll),
        )
    }

    /// As [`ring`](Self::ring), of whatever the thread runs on.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn decide<T>(
        &self,
        uring: impl FnOnce() -> Result<T, Unavailable>,
        epoll: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, NoRing> {
        let mut vote = Vote {
            ballot: self,
            refused: None,
        };
        let tried = match self.kind {
            RingKind::Epoll => None,
            RingKind::Uring | RingKind::Auto => Some(uring()),
        };
        match tried {
            Some(Ok(made)) => {
                drop(vote);
                if self.kind == RingKind::Uring || self.refused().is_none() {
                    return Ok(made);
                }
            }
            // Whoever has no descriptor for a ring has none for connections.
            Some(Err(unavailable))
                if self.kind == RingKind::Uring || *unavailable.cause() == Cause::TooManyFiles =>
            {
                return Err(NoRing::Uring(Box::new(unavailable)));
            }
            Some(Err(unavailable)) => {
                vote.refused = Some(unavailable);
                drop(vote);
                // Nobody runs before it is known on what.
                self.refused();
            }
            None => {}
        }
        epoll().map_err(NoRing::Epoll)
    }

    /// So many of the threads will never be there to try.
    pub fn withdraw(&self, threads: usize) {
        self.votes().awaited -= threads;
        self.all_voted.notify_all();
    }

    /// Waits until all have tried. Why they do without io_uring, if they would have used it.
    pub fn refused(&self) -> Option<Unavailable> {
        let votes = self
            .all_voted
            .wait_while(self.votes(), |votes| votes.awaited > 0);
        let votes = votes.unwrap_or_else(PoisonError::into_inner);
        votes.refused.clone()
    }

    /// Waits until all have tried. What they run on.
    pub fn kind(&self) -> RingKind {
        match self.kind {
            RingKind::Auto if self.refused().is_none() => RingKind::Uring,
            RingKind::Auto => RingKind::Epoll,
            kind => kind,
        }
    }
}

/// What is said once where io_uring would have been used and cannot be.
pub fn fallback(unavailable: &Unavailable) -> String {
    format!("running on epoll. {EPOLL_COST}\n{unavailable}")
}

/// The same for an async server, which loses nothing but what is tokio-uring's.
pub fn async_fallback(unavailable: &Unavailable) -> String {
    format!("running {TOKIO_COST}.\n{unavailable}")
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn refusal() -> Unavailable {
        Unavailable::from_setup_errno(Errno::new(libc::ENOMEM))
    }

    fn kinds(ballot: &Ballot, threads: usize) -> Vec<RingKind> {
        thread::scope(|scope| {
            let ring = || match ballot.ring(&RingOptions::default()).unwrap() {
                AnyRing::Epoll(_) => RingKind::Epoll,
                AnyRing::Uring(_) => RingKind::Uring,
            };
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(ring)).collect();
            let kinds = threads.into_iter().map(|thread| thread.join().unwrap());
            kinds.collect()
        })
    }

    #[test]
    fn all_run_on_what_each_of_them_can_have() {
        // One cannot have it: none does.
        let ballot = Ballot::new(RingKind::Auto, 3);
        drop(Vote {
            ballot: &ballot,
            refused: Some(refusal()),
        });
        assert_eq!(kinds(&ballot, 2), [RingKind::Epoll; 2]);
        assert_eq!(ballot.kind(), RingKind::Epoll);
        assert_eq!(ballot.refused(), Some(refusal()));
        // One never comes to try: the others do not wait for it.
        let ballot = Ballot::new(RingKind::Auto, 3);
        ballot.withdraw(1);
        let kind = kinds(&ballot, 2)[0];
        assert_eq!(ballot.kind(), kind);
        assert_eq!(ballot.refused().is_some(), kind == RingKind::Epoll);
    }

    #[test]
    fn whoever_asks_for_epoll_gets_it_and_nobody_wonders_why() {
        let ballot = Ballot::new(RingKind::Epoll, 2);
        assert_eq!(kinds(&ballot, 2), [RingKind::Epoll; 2]);
        assert_eq!((ballot.kind(), ballot.refused()), (RingKind::Epoll, None));
    }
}
