//! What the kernel may answer, operation by operation.
//!
//! Knows: which error numbers each operation is expected to bring and what they ask of us. Refuses
//! to know: what a connection or a listener does about them.

use std::{fmt, io};

/// An error number of the kernel (`errno(3)`), always positive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(i32);

impl Errno {
    /// The operation was cancelled.
    pub const CANCELLED: Self = Self(libc::ECANCELED);
    /// The peer reset the connection.
    pub const CONNECTION_RESET: Self = Self(libc::ECONNRESET);
    /// An argument is wrong.
    pub const INVALID: Self = Self(libc::EINVAL);
    /// No provided buffer was free for a receive.
    pub const NO_BUFFERS: Self = Self(libc::ENOBUFS);
    /// What was asked for cannot be done with this protocol.
    pub const NO_PROTOCOL: Self = Self(libc::EPROTONOSUPPORT);
    /// The process has no descriptor left.
    pub const TOO_MANY_FILES: Self = Self(libc::EMFILE);

    /// From a positive error number.
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// What this error of an accept asks for (`accept(2)`).
    pub fn of_accept(self) -> AcceptError {
        match self.0 {
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM => AcceptError::Exhausted,
            libc::ECANCELED => AcceptError::Cancelled,
            // The connection died in the backlog, or its network had a moment: the man page asks
            // to treat these like EAGAIN.
            libc::EINTR
            | libc::EAGAIN
            | libc::ECONNABORTED
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::EPERM
            | libc::ETIMEDOUT => AcceptError::Retry,
            _ => AcceptError::Unexpected,
        }
    }

    /// What this error of a receive or a send asks for (`recv(2)`, `send(2)`, `tcp(7)`).
    pub fn of_transfer(self) -> TransferError {
        match self.0 {
            libc::ENOBUFS => TransferError::NoBuffers,
            libc::ECANCELED => TransferError::Cancelled,
            libc::EINTR | libc::EAGAIN => TransferError::Retry,
            libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::EPIPE
            | libc::ENOTCONN
            | libc::ESHUTDOWN
            | libc::ETIMEDOUT
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::ENETDOWN
            | libc::ENETRESET
            | libc::EPROTO => TransferError::PeerGone,
            _ => TransferError::Unexpected,
        }
    }
}

/// What an error of an accept asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// We cancelled it.
    Cancelled,
    /// Descriptors or memory ran out: pause, and try again when some are back.
    Exhausted,
    /// One connection was lost before it was accepted: go on.
    Retry,
    /// Not in the man page: log it, pause, try again.
    Unexpected,
}

/// What an error of a receive or a send asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// We cancelled it.
    Cancelled,
    /// No receive buffer was free: wait for some.
    NoBuffers,
    /// The connection is gone.
    PeerGone,
    /// Submit it again.
    Retry,
    /// Not in the man pages: log it and treat the connection as gone.
    Unexpected,
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Errno({}: {})",
            self.0,
            io::Error::from_raw_os_error(self.0)
        )
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<io::Error> for Errno {
    /// An error that did not come from the kernel becomes EIO.
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_exhaustion_pauses_accepting_and_a_lost_connection_does_not() {
        assert_eq!(Errno::TOO_MANY_FILES.of_accept(), AcceptError::Exhausted);
        assert_eq!(
            Errno::new(libc::ECONNABORTED).of_accept(),
            AcceptError::Retry
        );
        assert_eq!(Errno::new(libc::EBADF).of_accept(), AcceptError::Unexpected);
    }

    #[test]
    fn running_out_of_buffers_is_not_the_peers_doing() {
        assert_eq!(Errno::NO_BUFFERS.of_transfer(), TransferError::NoBuffers);
        assert_eq!(
            Errno::CONNECTION_RESET.of_transfer(),
            TransferError::PeerGone
        );
        assert_eq!(
            Errno::new(libc::EFAULT).of_transfer(),
            TransferError::Unexpected
        );
    }
}
