//! Descriptors on the reactor of a tokio runtime.
//!
//! Knows: what registering one takes, and what a runtime is made of. Refuses to know: what is done
//! when it is ready.

use std::os::fd::OwnedFd;

use tokio::io::{Interest, unix::AsyncFd};

use super::Errno;

/// Registers a descriptor with the reactor of the runtime that this thread is in.
///
/// # Errors
///
/// What `epoll_ctl(2)` said; the descriptor is closed then.
///
/// # Panics
///
/// Outside of a runtime.
pub fn register(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, Errno> {
    // SAFETY: an `OwnedFd` names the same descriptor for as long as it lives and closes it in its
    // drop only; it moves into the `AsyncFd`, which deregisters it before it drops it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1.into())
}

/// Makes all that a runtime of tokio-uring is made of, a reactor and a ring, submits nothing in
/// particular to it, and gives it back. tokio-uring itself keeps the reactor when the kernel
/// refuses it the ring, and does not notice when it refuses what is submitted.
///
/// # Errors
///
/// What the kernel said.
pub fn try_runtime() -> Result<(), Errno> {
    let reactor = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Errno::from)?;
    let mut ring = io_uring::IoUring::new(RUNTIME_ENTRIES).map_err(Errno::from)?;
    // Nothing can be refused to an entry that has none of our memory but to be submitted.
    let nothing = io_uring::opcode::Nop::new().build();
    // SAFETY: the entry refers to no memory.
    let pushed = unsafe { ring.submission().push(&nothing) };
    debug_assert!(pushed.is_ok(), "a new queue has room");
    ring.submit_and_wait(1).map_err(Errno::from)?;
    drop((reactor, ring));
    Ok(())
}

/// The length of the submission queue that tokio-uring asks for.
const RUNTIME_ENTRIES: u32 = 256;
