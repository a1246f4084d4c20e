//! Ending a ring's wait from another thread.
//!
//! Knows: a flag and, for a ring of the kernel, an eventfd. Refuses to know: what the woken thread
//! should do; messages travel beside it (`shard::mailbox`).

use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Wakes one ring. Cheap to clone and to use: while a wake is on its way, further ones cost one
/// atomic exchange and no system call.
#[derive(Clone)]
pub struct Waker {
    inner: Arc<Inner>,
}

struct Inner {
    signalled: AtomicBool,
    eventfd: Option<OwnedFd>,
}

impl Waker {
    /// A waker that writes to `eventfd`, or only sets its flag when there is none.
    pub(crate) fn new(eventfd: Option<OwnedFd>) -> Self {
        Self {
            inner: Arc::new(Inner {
                signalled: AtomicBool::new(false),
                eventfd,
            }),
        }
    }

    /// Makes the ring's wake operation complete.
    pub fn wake(&self) {
        if self.inner.signalled.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(eventfd) = &self.inner.eventfd {
            // The counter saturates only after 2^64 - 2 unread wakes, and the flag allows one.
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
    }

    /// Whether a wake is on its way.
    pub(crate) fn is_signalled(&self) -> bool {
        self.inner.signalled.load(Ordering::Acquire)
    }

    /// Called when the wake has arrived and before the messages beside it are read, so that a
    /// message put there later wakes again. An exchange, not a store: a store could become visible
    /// only after those reads, and a message put there in between would wake nobody.
    pub(crate) fn clear(&self) {
        self.inner.signalled.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.eventfd.as_ref().map(AsFd::as_fd)
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker")
            .field("signalled", &self.is_signalled())
            .finish_non_exhaustive()
    }
}
