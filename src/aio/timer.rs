//! The one timer of a thread.
//!
//! Knows: a descriptor that is readable once a time has come. Refuses to know: what is due.
//!
//! It is a descriptor, and not a timer of the runtime: one that has none waits without asking the
//! clock before and after, which is a twentieth of a microsecond each time it waits.

use std::{
    os::fd::OwnedFd,
    task::{Context, Poll},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::ring::{Errno, Time, readiness::register};

/// A timer on the clock of [`Time`].
#[derive(Debug)]
pub struct Timer {
    fd: AsyncFd<OwnedFd>,
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    ///
    /// What `timerfd_create(2)` said.
    ///
    /// # Panics
    ///
    /// Outside of a runtime.
    pub fn new() -> Result<Self, Errno> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let fd = register(fd, Interest::READABLE)?;
        Ok(Self { fd })
    }

    /// Sets it to go off at this time, which may have come already; or not at all.
    pub fn set(&self, at: Option<Time>) {
        // Zero would mean never.
        let ns = at.map_or(0, |at| at.as_ns().max(1));
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let setting = Itimerspec {
            it_interval: zero,
            it_value: Timespec {
                tv_sec: (ns / 1_000_000_000) as i64,
                tv_nsec: (ns % 1_000_000_000) as _,
            },
        };
        let flags = TimerfdTimerFlags::ABSTIME;
        if let Err(errno) = timerfd_settime(self.fd.get_ref(), flags, &setting) {
            tracing::error!(%errno, "the timer of a thread cannot be set");
        }
    }

    /// Whether it has gone off since it was last asked.
    pub fn poll_due(&self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Poll::Ready(Ok(mut readable)) = self.fd.poll_read_ready(context) else {
                return Poll::Pending;
            };
            let mut count = [0; 8];
            let read = rustix::io::read(self.fd.get_ref(), &mut count);
            readable.clear_ready();
            if read.is_ok() {
                return Poll::Ready(());
            }
        }
    }
}
