//! What the process as a whole asks of the kernel.
//!
//! Knows: settings that belong to no ring. Refuses to know: when they are worth it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Errno;

/// From this length on, messages gain by huge pages: one of 4 MiB takes 13 % less time.
const HUGE_MESSAGE_BYTES_MIN: usize = 2 << 20;

/// Huge pages were turned off until somebody needs them.
static DEFERRED: AtomicBool = AtomicBool::new(false);

/// They were turned on again, for somebody who needed them.
static NEEDED: AtomicBool = AtomicBool::new(false);

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
        NEEDED.store(true, Ordering::Relaxed);
    }
}

/// Bytes of memory that this process may have: the least of the machine's, its control group's and
/// the groups' above it (`memory.max`, or `memory.limit_in_bytes` where groups are of the first
/// version), and its address space (`RLIMIT_AS`, `getrlimit(2)`). `None` where the kernel tells
/// nothing of them.
pub fn memory_bytes() -> Option<u64> {
    let machine = rustix::system::sysinfo();
    let machine = machine.totalram.checked_mul(machine.mem_unit.into());
    let space = rustix::process::getrlimit(rustix::process::Resource::As).current;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = least_of_groups(&groups, |path| std::fs::read_to_string(path).ok());
    [machine, space, group].into_iter().flatten().min()
}

/// The least limit of the control groups in the text of `/proc/self/cgroup` (`cgroups(7)`), of
/// whose files `read` gives what is in them.
fn least_of_groups(groups: &str, read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next().unwrap_or(""), fields.next().unwrap_or("/"));
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            ("", "")
        };
        // In a container, the group's name may be one of the host, of which only the root is seen.
        let above = std::path::Path::new(group).ancestors();
        let above = above
            .filter_map(|path| path.to_str())
            .map(|path| path.trim_matches('/'));
        above
            .filter(move |_| !file.is_empty())
            .map(move |path| format!("{root}/{path}/{file}"))
            .collect::<Vec<_>>()
    });
    limits
        .filter_map(|path| read(&path)?.trim().parse().ok())
        .min()
}

/// Has the allocator of this thread give memory back to the kernel that nobody uses. mimalloc does
/// so by itself only while it is asked for more, and a server that was flooded and is idle now asks
/// for nothing. Without the feature `mimalloc` that is left to the application's allocator.
///
/// Huge pages that were [deferred](defer_huge_pages) and needed are deferred again: what is in use
/// for small things would keep them whole.
pub fn release_memory() {
    if NEEDED.swap(false, Ordering::Relaxed) && disable_huge_pages(true).is_ok() {
        DEFERRED.store(true, Ordering::Relaxed);
    }
    #[cfg(feature = "mimalloc")]
    // SAFETY: it takes one flag, and may be called from any thread at any time.
    unsafe {
        libmimalloc_sys::mi_collect(true);
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
    fn the_least_limit_of_all_groups_counts() {
        let files = |path: &str| match path {
            "/sys/fs/cgroup/a/b/memory.max" => Some("max\n".to_owned()),
            "/sys/fs/cgroup/a/memory.max" => Some("3000000\n".to_owned()),
            "/sys/fs/cgroup/memory/c/memory.limit_in_bytes" => Some("2000000\n".to_owned()),
            "/sys/fs/cgroup/memory//memory.limit_in_bytes" => Some("9000000\n".to_owned()),
            _ => None,
        };
        assert_eq!(least_of_groups("0::/a/b\n", files), Some(3_000_000));
        let both = "5:cpu,memory:/c\n4:pids:/a\n0::/a/b\n";
        assert_eq!(least_of_groups(both, files), Some(2_000_000));
        assert_eq!(least_of_groups("0::/elsewhere\n", files), None);
        assert_eq!(least_of_groups("", files), None);
    }

    #[test]
    fn the_machine_has_memory() {
        let bytes = memory_bytes().unwrap();
        assert!((64 << 20..1 << 60).contains(&bytes), "{bytes}");
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
        release_memory();
        assert!(are_disabled(), "until they are needed again");
        message_grew(HUGE_MESSAGE_BYTES_MIN);
        assert!(!are_disabled());
    }
}
