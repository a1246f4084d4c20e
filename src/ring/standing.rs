//! How the bytes of a connection stand with the kernel.
//!
//! Knows: what was received and not looked at, and what was sent and not taken. Refuses to know:
//! what follows from it.
//!
//! It is asked before a peer is dropped, and not for each message: each question is a system call.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// What was sent on a connection, as its kernel sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outgoing {
    /// Bytes that this kernel holds for the peer: not sent yet, or not acknowledged. On a Unix
    /// socket it is the memory that they take, which is somewhat more, until the peer reads them.
    pub held_bytes: u64,
    /// What the peer's kernel has acknowledged. None where nobody counts that: on a Unix socket.
    pub taken: Option<Taken>,
}

/// What the peer's kernel has taken of what was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes acknowledged since the connection began.
    pub bytes: u64,
    /// How long ago the last acknowledgment came, in milliseconds. It may have been one of nothing
    /// new.
    pub ago_ms: u64,
}

/// Bytes that were received on `socket` and that nobody has looked at (`FIONREAD`, `tcp(7)`). An
/// end of the stream is none. 0 for a connection that is gone.
pub(crate) fn unread_bytes(socket: &impl AsFd) -> u64 {
    rustix::io::ioctl_fionread(socket).unwrap_or(0)
}

/// What was sent on `socket`, as the kernel sees it. Nothing of a connection that is gone.
pub(crate) fn outgoing(socket: &OwnedFd) -> Outgoing {
    Outgoing {
        held_bytes: held_bytes(socket),
        taken: taken(socket),
    }
}

/// Asks `SIOCOUTQ` (`tcp(7)`, `unix(7)`), which has no safe wrapper.
fn held_bytes(socket: &OwnedFd) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open, and this request writes one integer to where the pointer
    // says, which lives until the call is over.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 {
        u64::try_from(bytes).unwrap_or(0)
    } else {
        0
    }
}

/// Asks `TCP_INFO` (`tcp(7)`), which has no safe wrapper.
fn taken(socket: &OwnedFd) -> Option<Taken> {
    // SAFETY: the struct is made of integers, of which all bits zero is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `len` bytes to the struct,
    // which is as long, and to `len`; both live until the call is over.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(Taken {
        bytes: info.tcpi_bytes_acked,
        ago_ms: info.tcpi_last_ack_recv.into(),
    })
}
