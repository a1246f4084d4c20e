//! What the process as a whole asks of the kernel.
//!
//! Knows: settings that belong to no ring. Refuses to know: when they are worth it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Errno;

/// From this length on, messages gain by huge pages: one of 4 MiB takes 13 % less time.
const HUGE_MESSAGE_BYTES_MIN: usize = 2 << 20;

/// Huge pages were turned off until somebody needs them.
static DEFERRED: AtomicBool = AtomicBool::new(false);

/// Turns transparent huge pages off for this process (`PR_SET_THP_DISABLE`, `prctl(2)`) until the
/// first 2 MiB of a message have come.
///
/// An allocator that asks for them makes resident memory grow in steps of 2 MiB, whatever a
/// connection needs; copying long messages is faster with them. To be called before much memory is
/// in use.
///
/// # Errors
///
/// What the kernel said; nothing has changed then.
pub fn defer_huge_pages() -> Result<(), Errno> {
    disable_huge_pages(true)?;
    DEFERRED.store(true, Ordering::Relaxed);
    Ok(())
}

/// So many bytes of one message have come: turns huge pages on again, if they were deferred and it
/// gains by them. What a message is only announced with costs nobody anything.
#[inline]
pub fn message_grew(bytes: usize) {
    if bytes >= HUGE_MESSAGE_BYTES_MIN {
        need_huge_pages();
    }
}

#[cold]
fn need_huge_pages() {
    if DEFERRED.swap(false, Ordering::Relaxed) {
        // Were it to fail, messages would take a little longer.
        let _ = disable_huge_pages(false);
    }
}

fn disable_huge_pages(disable: bool) -> Result<(), Errno> {
    // SAFETY: this option takes four integers and touches no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, i32::from(disable), 0, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn are_disabled() -> bool {
        // SAFETY: this option takes four zeros and touches no memory of ours.
        unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1 }
    }

    #[test]
    fn huge_pages_wait_for_who_needs_them() {
        message_grew(HUGE_MESSAGE_BYTES_MIN);
        assert!(!are_disabled(), "what was not deferred is not touched");
        defer_huge_pages().unwrap();
        message_grew(HUGE_MESSAGE_BYTES_MIN - 1);
        assert!(are_disabled());
        message_grew(HUGE_MESSAGE_BYTES_MIN);
        assert!(!are_disabled());
    }
}
