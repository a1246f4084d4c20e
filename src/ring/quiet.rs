//! Sends of which the kernel tells only when they fail.
//!
//! Knows: with which flags to send so, and how to find out whether the kernel keeps to it. Refuses
//! to know: what is sent, and when it counts as sent.
//!
//! A reply that the socket has room for is sent within the `io_uring_enter(2)` that submits it. Its
//! completion says nothing new, and yet ends the wait of the same call, so that each lone message
//! costs a second one.

use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types::Fd};
use rustix::{
    io::{ioctl_fionread, read},
    net::{
        AddressFamily, SocketFlags, SocketType, socketpair, sockopt::set_socket_send_buffer_size,
    },
};

use super::Errno;

/// WAITALL: a send that ends before all is sent has failed, and is told. DONTWAIT: it is tried
/// once, while it is submitted.
pub(super) const MESSAGE_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT;

/// No completion for what succeeds.
pub(super) const ENTRY_FLAGS: squeue::Flags = squeue::Flags::SKIP_SUCCESS;

/// Whether the kernel keeps quiet about a send that succeeds, and says how much of one was sent
/// that does not: asked by sending, on a ring on which nothing is in flight.
///
/// # Errors
///
/// What the kernel said, for example that no descriptors are left.
pub(super) fn is_known(ring: &mut IoUring) -> Result<bool, Errno> {
    static BYTES: [u8; 64 * 1024] = [0; 64 * 1024];
    let kind = SocketType::STREAM;
    let (near, far) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    // As little as the kernel allows, which is less than all of the bytes.
    set_socket_send_buffer_size(&near, 1)?;
    let mut told_of_send = |bytes: &'static [u8]| -> Result<Option<i32>, Errno> {
        let send = opcode::Send::new(Fd(near.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
            .flags(MESSAGE_FLAGS)
            .build()
            .flags(ENTRY_FLAGS);
        // SAFETY: the bytes are there for ever, and the descriptor is open until after the call
        // below, in which the send begins and ends.
        let pushed = unsafe { ring.submission().push(&send) };
        pushed.map_err(|_| Errno::new(libc::EBUSY))?;
        ring.submit()?;
        Ok(ring.completion().next().map(|entry| entry.result()))
    };
    let told = told_of_send(&BYTES)?;
    let arrived = ioctl_fionread(&far)? as usize;
    let is_exact = told.is_some_and(|sent| usize::try_from(sent) == Ok(arrived));
    if !is_exact || !(1..BYTES.len()).contains(&arrived) {
        return Ok(false);
    }
    let mut buffer = vec![0; arrived];
    let mut left = arrived;
    while left > 0 {
        left -= read(&far, &mut buffer)?;
    }
    Ok(told_of_send(&BYTES[..1])?.is_none() && ioctl_fionread(&far)? == 1)
}
