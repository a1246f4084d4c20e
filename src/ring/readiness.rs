//! Descriptors on the reactor of a tokio runtime.
//!
//! Knows: what registering one takes. Refuses to know: what is done when it is ready.

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
