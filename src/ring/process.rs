//! What the process as a whole asks of the kernel.
//!
//! Knows: settings that belong to no ring. Refuses to know: when they are worth it.

use super::Errno;

/// Turns transparent huge pages off for this process (`PR_SET_THP_DISABLE`, `prctl(2)`).
///
/// An allocator that asks for them makes resident memory grow in steps of 2 MiB, whatever a
/// connection needs. To be called before much memory is in use.
///
/// # Errors
///
/// What the kernel said; nothing has changed then.
pub fn disable_huge_pages() -> Result<(), Errno> {
    // SAFETY: this option takes four integers and touches no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error().into())
    }
}
