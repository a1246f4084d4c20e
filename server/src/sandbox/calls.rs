//! System calls that are left to the server: `seccomp(2)`.
//!
//! Knows: what a server that serves calls, on every ring and engine. Refuses to know: when it
//! begins to serve.
//!
//! What is not on the list fails with `EPERM`, and nothing is killed. A list can be too short: a
//! new C library calls something else, and the server would lose all of its connections for it. So
//! it goes on, what needed the call says in the log that it was not permitted, and whoever has
//! broken in cannot make the call either way. `clone3` alone fails as on a kernel that has none:
//! what it starts, a thread or a process, stands in memory that a filter cannot read, and the C
//! library asks with `clone` then.
//!
//! A ring takes orders past every filter; files, ports and users are out of their reach as well by
//! what [`files`](super::files) and [`user`](super::user) do. No further ring can be set up.

use std::{collections::BTreeMap, env::consts::ARCH, process};

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is,
    SeccompCondition as Condition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Calls with whatever they are given, by what they are for.
const PLAIN: &[c_long] = &[
    // Rings, and what waits without them.
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Connections. None is begun by TCP: it has no socket for it.
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    // Descriptors.
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_pipe2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    // Files that are read again, and sockets' paths that are removed.
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mremap,
    libc::SYS_munlock,
    libc::SYS_munmap,
    // Threads, and what they wait for.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_gettid,
    libc::SYS_getcpu,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    // Time and chance.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    // Who and where it is.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_uname,
];

/// The same in the words that older processors have for them.
#[cfg(target_arch = "x86_64")]
const OF_OLD: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_epoll_wait,
    libc::SYS_getdents,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OF_OLD: &[c_long] = &[];

/// What a descriptor is asked by `ioctl`: not to block (`FIONBIO`), and how much waits in it both
/// ways (`FIONREAD`, `TIOCOUTQ`). C libraries have them in different types.
const ASKED: &[u64] = &[0x5421, 0x541b, 0x5411];

/// What a thread says of itself by `prctl`, its name and those of its memory, and asks for: what
/// the kernel has told the process at its start (`PR_GET_AUXV`).
const SAID: &[u64] = &[
    libc::PR_SET_NAME as u64,
    libc::PR_SET_VMA as u64,
    0x4155_5856,
];

/// Opening a file in this way would change it.
const CHANGING: u64 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC) as u64;

/// The part of a socket's type that is no flag (`SOCK_TYPE_MASK`).
const TYPE_MASK: u64 = 0xf;

/// A filter, ready to be put before a thread.
pub struct Filter {
    without_clone3: BpfProgram,
    allowed: BpfProgram,
}

impl Filter {
    /// The filter for this process.
    ///
    /// # Errors
    ///
    /// A processor of which the library does not know the calls.
    pub fn new() -> Result<Self, BackendError> {
        let arch: TargetArch = ARCH.try_into()?;
        let of_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let missing = SeccompAction::Errno(libc::ENOSYS as u32);
        let without_clone3 = SeccompFilter::new(of_clone3, SeccompAction::Allow, missing, arch)?;
        let forbidden = SeccompAction::Errno(libc::EPERM as u32);
        let allowed = SeccompFilter::new(allowed()?, forbidden, SeccompAction::Allow, arch)?;
        Ok(Self {
            without_clone3: without_clone3.try_into()?,
            allowed: allowed.try_into()?,
        })
    }

    /// Puts it before this thread, and before those that it starts. There is no way back.
    ///
    /// # Errors
    ///
    /// What the kernel said, such as `EINVAL` of one without `CONFIG_SECCOMP_FILTER`.
    pub fn restrict_this_thread(&self) -> Result<(), Error> {
        // The second one forbids a third.
        apply_filter(&self.without_clone3)?;
        apply_filter(&self.allowed)
    }
}

/// Calls that are allowed, each with the cases in which it is; without any it always is.
fn allowed() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, BackendError> {
    let plain = PLAIN.iter().chain(OF_OLD);
    let mut allowed: BTreeMap<_, _> = plain.map(|&call| (call, Vec::new())).collect();
    // Above, it is forbidden in another way.
    allowed.insert(libc::SYS_clone3, Vec::new());
    let is = |argument, value| Condition::new(argument, Width::Dword, Is::Eq, value);
    let has =
        |argument, mask, value| Condition::new(argument, Width::Dword, Is::MaskedEq(mask), value);
    let one_of = |argument, values: &[u64]| -> Result<Vec<SeccompRule>, BackendError> {
        let rules = values
            .iter()
            .map(|&it| SeccompRule::new(vec![is(argument, it)?]));
        rules.collect()
    };
    allowed.insert(libc::SYS_ioctl, one_of(1, ASKED)?);
    allowed.insert(libc::SYS_prctl, one_of(0, SAID)?);
    // Threads, and no processes.
    let thread = libc::CLONE_THREAD as u64;
    allowed.insert(
        libc::SYS_clone,
        vec![SeccompRule::new(vec![has(0, thread, thread)?])?],
    );
    // Nothing makes code at run time.
    let code = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        allowed.insert(call, vec![SeccompRule::new(vec![has(2, code, 0)?])?]);
    }
    // Files are read.
    allowed.insert(
        libc::SYS_openat,
        vec![SeccompRule::new(vec![has(2, CHANGING, 0)?])?],
    );
    #[cfg(target_arch = "x86_64")]
    allowed.insert(
        libc::SYS_open,
        vec![SeccompRule::new(vec![has(1, CHANGING, 0)?])?],
    );
    // Limits are asked for.
    let nothing = Condition::new(2, Width::Qword, Is::Eq, 0)?;
    allowed.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![nothing])?]);
    // It may end itself, as by a panic in a panic.
    let ours = u64::from(process::id());
    allowed.insert(libc::SYS_tgkill, one_of(0, &[ours])?);
    // The service manager is told by a Unix socket, and names are asked for in datagrams.
    let mut sockets = one_of(0, &[libc::AF_UNIX as u64])?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let datagrams = has(1, TYPE_MASK, libc::SOCK_DGRAM as u64)?;
        sockets.push(SeccompRule::new(vec![is(0, family as u64)?, datagrams])?);
    }
    allowed.insert(libc::SYS_socket, sockets);
    Ok(allowed)
}
