//! What this host lets a ring do, and what to change when it does not.
//!
//! Knows: which parts of io_uring the ring uses, how to try them out, which settings of a host or a
//! container take them away, and how each is undone. Refuses to know: who asks, and how the answer
//! is printed.
//!
//! The answer comes from trying, not from the kernel's version: distributions carry features back
//! to old kernels and take io_uring away from new ones. The version only explains a refusal.

use std::{fmt, fs, mem::ManuallyDrop, num::NonZero, os::fd::AsRawFd, ptr::NonNull, thread};

use io_uring::{
    Builder, IoUring, Parameters, opcode, squeue,
    types::{Fd, SubmitArgs, Timespec},
};
use rustix::{
    event::{EventfdFlags, eventfd},
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair},
    process::{Resource, Rlimit, getrlimit},
    thread::sched_getaffinity,
};

pub use super::choice::{EPOLL_COST, TOKIO_COST};
use super::{Epoll, EpollOptions, Errno, UringOptions, quiet};

/// The oldest kernel that has everything the ring requires.
pub const FLOOR: Version = Version { major: 6, minor: 1 };

/// The oldest kernel for the async engine: its runtime's ring has no flags, and what it submits is
/// older than that.
pub const PLAIN_FLOOR: Version = Version {
    major: 5,
    minor: 15,
};

/// Entries of a tokio-uring runtime's ring, unless it is told otherwise.
const PLAIN_ENTRIES: u32 = 256;

/// Rings of unprivileged processes count against `RLIMIT_MEMLOCK` since this kernel (and did before
/// Linux 5.12).
const MEMLOCK_SINCE: Version = Version {
    major: 6,
    minor: 14,
};

/// The first kernel with io_uring.
const IO_URING_SINCE: Version = Version { major: 5, minor: 1 };

/// Linux's `CAP_IPC_LOCK` (`capabilities(7)`): exempt from `RLIMIT_MEMLOCK`.
const CAP_IPC_LOCK: u32 = 14;

/// Linux's `CAP_SYS_ADMIN` (`capabilities(7)`): may use io_uring while it is kept for a group.
const CAP_SYS_ADMIN: u32 = 21;

/// The buffer group that the probe registers and takes back.
const GROUP: u16 = 0;

/// `IOU_PBUF_RING_INC`: the kernel fills a buffer piece by piece.
const INCREMENTAL: u16 = 2;

/// A kernel's version, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The 6 of 6.1.
    pub major: u32,
    /// The 1 of 6.1.
    pub minor: u32,
}

impl Version {
    /// Reads the release that `uname(2)` gives, such as `6.1.0-18-amd64`. `None` when it does not
    /// begin with two numbers.
    pub fn parse(release: &str) -> Option<Self> {
        let (major, rest) = release.split_once('.')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        Some(Self {
            major: major.parse().ok()?,
            minor: rest[..digits].parse().ok()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// One part of io_uring, and whether this host has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The kernel's own name where it has one.
    pub name: &'static str,
    /// The first Linux that has it.
    pub since: Version,
    /// Without it the ring cannot run.
    pub required: bool,
    /// What the ring uses it for.
    pub purpose: &'static str,
    /// Whether it worked here.
    pub available: bool,
}

/// What ties this process's hands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// The kernel's release, as `uname(2)` gives it.
    pub release: String,
    /// `kernel.io_uring_disabled`: 0 for nobody, 1 for all outside `kernel.io_uring_group`, 2 for
    /// everybody. `None` where the kernel has no such setting (before Linux 6.6).
    pub io_uring_disabled: Option<u32>,
    /// `kernel.io_uring_group`, when it names a group.
    pub io_uring_group: Option<u32>,
    /// Whether this process may use io_uring while it is kept for that group.
    pub in_io_uring_group: bool,
    /// Whether a seccomp filter watches this process's system calls.
    pub seccomp_filter: bool,
    /// Whether `RLIMIT_MEMLOCK` does not apply to this process.
    pub memlock_exempt: bool,
    /// `RLIMIT_MEMLOCK`.
    pub memlock_bytes: Limit,
}

/// A resource limit (`getrlimit(2)`). `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// The limit in force.
    pub soft: Option<u64>,
    /// How far the process may raise it.
    pub hard: Option<u64>,
}

impl From<Rlimit> for Limit {
    fn from(limit: Rlimit) -> Self {
        Self {
            soft: limit.current,
            hard: limit.maximum,
        }
    }
}

/// The rest of the host, as far as a server or a load generator runs into it. `None` is a setting
/// that cannot be read here, as in some containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// CPUs that the scheduler may put this process on.
    pub cpus: usize,
    /// CPUs' worth of time that it gets: fewer than `cpus` under a control group's quota.
    pub cpus_by_quota: usize,
    /// `RLIMIT_NOFILE`: descriptors of this process.
    pub descriptors: Limit,
    /// `fs.nr_open`: how far any process's hard limit may be raised.
    pub nr_open: Option<u64>,
    /// `fs.file-max`: open files of the whole host.
    pub file_max: Option<u64>,
    /// `net.core.somaxconn`: connections that wait to be accepted, per listener.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_max_syn_backlog`: connections in the middle of TCP's handshake, per listener.
    pub tcp_max_syn_backlog: Option<u64>,
    /// `net.ipv4.ip_local_port_range`: ports for outgoing connections, both ends included.
    pub local_ports: Option<(u16, u16)>,
    /// Whether the kernel's TLS is loaded.
    pub kernel_tls: Option<bool>,
}

/// What this host lets a ring do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What ties this process's hands.
    pub confinement: Confinement,
    /// The parts of io_uring that the ring uses or could use. Empty when there is no io_uring.
    pub features: Vec<Feature>,
    /// The rest of the host.
    pub environment: Environment,
    /// Bytes of one ring of the default size that count against `RLIMIT_MEMLOCK`, where rings do.
    pub ring_bytes: u64,
    blocked: Option<Unavailable>,
    /// Why a ring without flags cannot be used.
    plain_blocked: Option<Unavailable>,
    /// What became of a ring on epoll.
    epoll_blocked: Option<Errno>,
}

impl Probe {
    /// Tries everything out: sets up rings of the default size, registers buffers, submits, and
    /// reads the host's settings. Takes some milliseconds and leaves nothing behind.
    pub fn run() -> Self {
        let confinement = Confinement::read();
        let options = UringOptions::default();
        let (features, blocked) = match try_out(&options) {
            Ok(features) => (features, None),
            Err((call, errno)) => (
                Vec::new(),
                Some(Unavailable::new(call, errno, confinement.clone(), FLOOR)),
            ),
        };
        let plain_blocked = try_plain().err().map(|errno| {
            Unavailable::new(
                "setting up a ring without flags",
                errno,
                confinement.clone(),
                PLAIN_FLOOR,
            )
        });
        Self {
            features,
            blocked,
            plain_blocked,
            epoll_blocked: Epoll::new(&EpollOptions::default()).err(),
            environment: Environment::read(),
            ring_bytes: ring_bytes(&options, rustix::param::page_size() as u64),
            confinement,
        }
    }

    /// The kernel's version, when its release has one.
    pub fn version(&self) -> Option<Version> {
        Version::parse(&self.confinement.release)
    }

    /// Whether rings count against `RLIMIT_MEMLOCK` for this process. An unknown kernel is taken
    /// for a new one.
    pub fn counts_memlock(&self) -> bool {
        !self.confinement.memlock_exempt && self.version().is_none_or(|it| it >= MEMLOCK_SINCE)
    }

    /// Whether the async engine can run here: tokio-uring's runtime, which needs a ring and nothing
    /// of what is newer than Linux 5.15. No receive of several completions, no buffers that the
    /// kernel chooses from, no flag of set-up.
    ///
    /// # Errors
    ///
    /// Why not, and what to do about it.
    pub fn async_verdict(&self) -> Result<(), Unavailable> {
        self.plain_blocked.clone().map_or(Ok(()), Err)
    }

    /// Whether a shard can run on epoll here.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub fn epoll_verdict(&self) -> Result<(), Errno> {
        self.epoll_blocked.map_or(Ok(()), Err)
    }

    /// Whether a shard can run on io_uring here.
    ///
    /// # Errors
    ///
    /// Why not, and what to do about it.
    pub fn verdict(&self) -> Result<(), Unavailable> {
        if let Some(blocked) = &self.blocked {
            return Err(blocked.clone());
        }
        let missing: Vec<_> = self
            .features
            .iter()
            .filter(|it| it.required && !it.available)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Unavailable {
            call: "trying out what the ring needs",
            errno: None,
            cause: Cause::KernelTooOld {
                missing: missing.iter().map(|it| it.name).collect(),
            },
            confinement: Box::new(self.confinement.clone()),
            floor: FLOOR,
        })
    }
}

/// Why io_uring cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// `kernel.io_uring_disabled` is 2.
    DisabledForAll,
    /// `kernel.io_uring_disabled` is 1, and this process is not in the group.
    DisabledOutsideGroup,
    /// The kernel is older than the ring needs.
    KernelTooOld {
        /// The features that were tried and are not there; empty when it did not come to that.
        missing: Vec<&'static str>,
    },
    /// The kernel is new enough and was built without io_uring.
    KernelWithout,
    /// Memory ran out, and not because of a limit of this process.
    Memory,
    /// `RLIMIT_MEMLOCK` is too low for the rings.
    Memlock,
    /// A seccomp filter blocks the call.
    Seccomp,
    /// A security module, most likely: nothing else that refuses is in sight.
    SecurityModule,
    /// The process or the host has no descriptor left.
    TooManyFiles,
    /// None of the above.
    Unknown,
}

/// io_uring cannot be used here. Its text says what happened, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    call: &'static str,
    errno: Option<Errno>,
    cause: Cause,
    // Boxed, so that a result with this error stays small.
    confinement: Box<Confinement>,
    /// The oldest kernel that would do.
    floor: Version,
}

impl Unavailable {
    /// Explains why setting up a ring failed, from the error and from what confines this process.
    pub fn from_setup_errno(errno: Errno) -> Self {
        Self::new("setting up a ring", errno, Confinement::read(), FLOOR)
    }

    /// As [`from_setup_errno`](Self::from_setup_errno), for the ring of an async runtime.
    pub fn from_runtime_errno(errno: Errno) -> Self {
        let call = "setting up a runtime's ring";
        Self::new(call, errno, Confinement::read(), PLAIN_FLOOR)
    }

    fn new(call: &'static str, errno: Errno, confinement: Confinement, floor: Version) -> Self {
        let cause = classify(errno, &confinement, floor);
        Self {
            call,
            floor,
            errno: Some(errno),
            cause,
            confinement: Box::new(confinement),
        }
    }

    /// The cause, for a program.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// What happened, in one line.
    pub fn what(&self) -> String {
        match self.errno {
            Some(errno) => format!("{} failed with {}", self.call, name_of(errno)),
            None => "the kernel lacks what the ring needs".to_owned(),
        }
    }

    /// Why, in one paragraph.
    pub fn why(&self) -> String {
        let (release, floor) = (&self.confinement.release, self.floor);
        match &self.cause {
            Cause::DisabledForAll => {
                "the setting kernel.io_uring_disabled is 2: no process on this host may use \
                 io_uring."
                    .to_owned()
            }
            Cause::DisabledOutsideGroup => {
                let group = match self.confinement.io_uring_group {
                    Some(group) => format!("is {group}, and this process is not in it"),
                    None => "names no group".to_owned(),
                };
                format!(
                    "the setting kernel.io_uring_disabled is 1: only members of the group in \
                     kernel.io_uring_group may use io_uring. That {group}."
                )
            }
            Cause::KernelTooOld { missing } if missing.is_empty() => {
                format!("this is Linux {release}; ringwire needs {floor} or newer.")
            }
            Cause::KernelTooOld { missing } => format!(
                "this is Linux {release}, without {}. Linux {floor} and newer have them.",
                missing.join(", ")
            ),
            Cause::KernelWithout => format!(
                "Linux {release} is new enough but was built without io_uring, or this process \
                 runs in a sandbox with a kernel of its own, such as gVisor."
            ),
            Cause::Memlock => format!(
                "the memory of a ring counts against RLIMIT_MEMLOCK, which is {} bytes here for \
                 all rings of this user together. A server with one ring for each CPU needs \
                 some 128 KiB for each.",
                self.confinement.memlock_bytes.soft.unwrap_or(u64::MAX)
            ),
            Cause::Memory => "the host or this process's control group has no memory left for a \
                              ring."
                .to_owned(),
            Cause::Seccomp => {
                "a seccomp filter blocks io_uring for this process (\"Seccomp: 2\" in \
                 /proc/self/status, and no setting of the kernel that would refuse it). The \
                 default profiles of Docker, Podman, containerd and Kubernetes do this."
                    .to_owned()
            }
            Cause::SecurityModule => {
                "no setting of the kernel and no seccomp filter explains it. What is left is a \
                 security module such as SELinux or AppArmor, or a BPF program."
                    .to_owned()
            }
            Cause::TooManyFiles => {
                "a ring is a file descriptor, and this process or this host has none left."
                    .to_owned()
            }
            Cause::Unknown => {
                format!("no cause is known for this error on Linux {release}.")
            }
        }
    }

    /// What to do: lines of at most 76 columns, commands unbroken.
    pub fn remedy(&self) -> String {
        let mut text = match &self.cause {
            Cause::DisabledForAll => DISABLED.to_owned(),
            Cause::DisabledOutsideGroup => match self.confinement.io_uring_group {
                Some(group) => format!(
                    "Let the server's user into that group. In the systemd unit:\n\
                     \x20 SupplementaryGroups={group}\n\
                     With Docker or Podman: --group-add {group}\n\
                     Or allow io_uring to everybody:\n{ALLOW_ALL}"
                ),
                None => DISABLED.to_owned(),
            },
            Cause::KernelTooOld { .. } => {
                format!("Upgrade the kernel to Linux {} or newer.", self.floor)
            }
            Cause::KernelWithout => KERNEL_WITHOUT.to_owned(),
            Cause::Memlock => MEMLOCK.to_owned(),
            Cause::Memory => "Free memory, or raise the control group's limit (systemd: \
                              MemoryMax=,\nDocker: --memory, Kubernetes: resources.limits.memory)."
                .to_owned(),
            Cause::Seccomp => SECCOMP.to_owned(),
            Cause::SecurityModule => SECURITY_MODULE.to_owned(),
            Cause::TooManyFiles => DESCRIPTORS.to_owned(),
            Cause::Unknown => "Report it with the output of: ringwire doctor --json".to_owned(),
        };
        let disabled = matches!(
            self.cause,
            Cause::DisabledForAll | Cause::DisabledOutsideGroup
        );
        if disabled && self.confinement.seccomp_filter {
            text.push_str(
                "\nIn a container these are settings of the host. A seccomp filter is active,\n\
                 too: when the settings are changed, run ringwire doctor again.",
            );
        }
        text
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&wrap(
            &format!("io_uring cannot be used: {}.", self.what()),
            70,
        ))?;
        f.write_str("\n")?;
        f.write_str(&wrap(&format!("Why: {}", self.why()), 80))?;
        f.write_str("\nWhat to do:\n")?;
        for (index, line) in self.remedy().lines().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "  {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Unavailable {}

/// Breaks `text` at spaces into lines of at most `columns`, where its words allow that.
pub fn wrap(text: &str, columns: usize) -> String {
    let mut wrapped = String::with_capacity(text.len() + text.len() / columns.max(1));
    let mut width = 0;
    for word in text.split_whitespace() {
        let word_width = word.chars().count();
        if width > 0 {
            let fits = width + 1 + word_width <= columns;
            wrapped.push(if fits { ' ' } else { '\n' });
            width = if fits { width + 1 } else { 0 };
        }
        wrapped.push_str(word);
        width += word_width;
    }
    wrapped
}

/// How to allow io_uring to everybody, now and after a restart.
const ALLOW_ALL: &str = "  sudo sysctl -w kernel.io_uring_disabled=0
To keep it over a restart, in /etc/sysctl.d/99-ringwire.conf:
  kernel.io_uring_disabled = 0";

const DISABLED: &str = "Allow io_uring to everybody on this host:
  sudo sysctl -w kernel.io_uring_disabled=0
or to one group only, the server's (1000 stands for its number):
  sudo sysctl -w kernel.io_uring_group=1000 kernel.io_uring_disabled=1
To keep it over a restart, in /etc/sysctl.d/99-ringwire.conf:
  kernel.io_uring_disabled = 0";

const KERNEL_WITHOUT: &str =
    "Install a kernel built with CONFIG_IO_URING=y, which distributions' own
kernels are. To see how this one was built:
  grep CONFIG_IO_URING= /boot/config-$(uname -r)
In a sandbox with a kernel of its own, choose a runtime that uses the host's
kernel (runc, crun).";

/// How to raise `RLIMIT_MEMLOCK`.
pub const MEMLOCK: &str = "systemd, in the unit:
  LimitMEMLOCK=infinity
Docker, Podman:
  docker run --ulimit memlock=-1:-1 ...
Kubernetes has no such field: raise the limit of the container runtime's own
service (LimitMEMLOCK=infinity), which its containers inherit.
A login shell: in /etc/security/limits.d/ringwire.conf, then log in again:
  * - memlock unlimited";

const SECCOMP: &str = r#"Allow three system calls in the profile. What has to be added to it:
  {"names": ["io_uring_setup", "io_uring_enter", "io_uring_register"],
   "action": "SCMP_ACT_ALLOW"}
Docker, Podman: take the engine's default profile (Docker's is
  profiles/seccomp/default.json in github.com/moby/moby), add the lines
  above to its "syscalls", save it as ringwire-seccomp.json, and start with
    docker run --security-opt seccomp=ringwire-seccomp.json ...
  To see at once whether it is the profile, never to stay that way:
    docker run --security-opt seccomp=unconfined ...
  Docker Desktop 4.42 and newer block io_uring whatever the profile says.
Kubernetes: put that file on each node as
    /var/lib/kubelet/seccomp/ringwire-seccomp.json
  and name it in the pod's or the container's securityContext:
    seccompProfile:
      type: Localhost
      localhostProfile: ringwire-seccomp.json
systemd: if the unit has a SystemCallFilter=, add another line to it:
    SystemCallFilter=@aio"#;

const SECURITY_MODULE: &str = "Look for the refusal in the kernel's log and in the audit log:
  sudo dmesg | tail
  sudo ausearch -m avc -ts recent
and allow io_uring in the policy that it names.";

/// How to raise `RLIMIT_NOFILE`.
pub const DESCRIPTORS: &str = "systemd, in the unit:
  LimitNOFILE=1048576
Docker, Podman:
  docker run --ulimit nofile=1048576:1048576 ...
A shell, as far as the hard limit:
  ulimit -n $(ulimit -Hn)";

/// Why a call of io_uring failed with `errno` in this confinement.
fn classify(errno: Errno, confinement: &Confinement, floor: Version) -> Cause {
    let version = Version::parse(&confinement.release);
    let too_old = Cause::KernelTooOld {
        missing: Vec::new(),
    };
    match errno.number() {
        // The filter is asked before the kernel looks at its settings, but a setting that refuses
        // is a fact and a filter only a suspect.
        libc::EPERM => match confinement.io_uring_disabled {
            Some(2..) => Cause::DisabledForAll,
            Some(1) if !confinement.in_io_uring_group => Cause::DisabledOutsideGroup,
            _ if confinement.seccomp_filter => Cause::Seccomp,
            _ => Cause::SecurityModule,
        },
        libc::EACCES => Cause::SecurityModule,
        // Podman's profile answers so in the name of a kernel that has it.
        libc::ENOSYS if confinement.seccomp_filter && version >= Some(IO_URING_SINCE) => {
            Cause::Seccomp
        }
        libc::ENOSYS | libc::EINVAL if version.is_some_and(|it| it < floor) => too_old,
        libc::ENOSYS => Cause::KernelWithout,
        libc::ENOMEM if confinement.memlock_exempt => Cause::Memory,
        libc::ENOMEM if confinement.memlock_bytes.soft.is_none() => Cause::Memory,
        libc::ENOMEM => Cause::Memlock,
        libc::EMFILE | libc::ENFILE => Cause::TooManyFiles,
        _ => Cause::Unknown,
    }
}

/// The error's name and text.
fn name_of(errno: Errno) -> String {
    let name = match errno.number() {
        libc::EACCES => "EACCES",
        libc::EINVAL => "EINVAL",
        libc::EMFILE => "EMFILE",
        libc::ENFILE => "ENFILE",
        libc::ENOMEM => "ENOMEM",
        libc::ENOSYS => "ENOSYS",
        libc::EPERM => "EPERM",
        _ => return errno.to_string(),
    };
    format!("{name}: {errno}")
}

impl Confinement {
    /// Reads it from `uname(2)`, `getrlimit(2)` and `/proc`.
    fn read() -> Self {
        let group = text("/proc/sys/kernel/io_uring_group").and_then(|it| it.parse().ok());
        let status = Status::parse(&text("/proc/self/status").unwrap_or_default());
        // A capability counts here only in the first user namespace, which maps all numbers.
        let first_namespace = text("/proc/self/uid_map").is_none_or(|it| maps_everybody(&it));
        let capable = |capability| first_namespace && status.has(capability);
        Self {
            release: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            io_uring_group: group,
            in_io_uring_group: capable(CAP_SYS_ADMIN)
                || group.is_some_and(|it| status.groups.contains(&it)),
            seccomp_filter: status.seccomp_filter,
            memlock_exempt: capable(CAP_IPC_LOCK),
            memlock_bytes: getrlimit(Resource::Memlock).into(),
        }
    }
}

/// What `/proc/self/status` says (`proc_pid_status(5)`).
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    seccomp_filter: bool,
    capabilities: u64,
    groups: Vec<u32>,
}

impl Status {
    fn parse(status: &str) -> Self {
        let mut parsed = Self::default();
        for line in status.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            match name {
                "Seccomp" => parsed.seccomp_filter = value.trim() == "2",
                "CapEff" => {
                    parsed.capabilities = u64::from_str_radix(value.trim(), 16).unwrap_or(0);
                }
                // Real, effective, saved and file system group; the last one is what the kernel
                // compares, and the others do not differ in a server.
                "Gid" | "Groups" => {
                    parsed.groups.extend(
                        value
                            .split_whitespace()
                            .filter_map(|it| it.parse::<u32>().ok()),
                    );
                }
                _ => {}
            }
        }
        parsed
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

/// Whether a `uid_map` is that of the first user namespace (`user_namespaces(7)`).
fn maps_everybody(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

impl Environment {
    fn read() -> Self {
        let by_quota = thread::available_parallelism().map_or(1, NonZero::get);
        Self {
            cpus: sched_getaffinity(None).map_or(by_quota, |set| set.count() as usize),
            cpus_by_quota: by_quota,
            descriptors: getrlimit(Resource::Nofile).into(),
            nr_open: number("/proc/sys/fs/nr_open"),
            file_max: number("/proc/sys/fs/file-max"),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            tcp_max_syn_backlog: number("/proc/sys/net/ipv4/tcp_max_syn_backlog"),
            local_ports: text("/proc/sys/net/ipv4/ip_local_port_range")
                .and_then(|it| parse_ports(&it)),
            kernel_tls: text("/proc/sys/net/ipv4/tcp_available_ulp")
                .map(|it| it.split_whitespace().any(|name| name == "tls")),
        }
    }
}

fn parse_ports(range: &str) -> Option<(u16, u16)> {
    let (low, high) = range.split_once(char::is_whitespace)?;
    Some((low.parse().ok()?, high.trim().parse().ok()?))
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|it| it.trim().to_owned())
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    text(path)?.parse().ok()
}

/// Bytes that the kernel counts for a ring: the completion queue with the submission queue's
/// indices, the submission entries, and the ring of receive buffers, each in whole pages.
fn ring_bytes(options: &UringOptions, page_bytes: u64) -> u64 {
    const HEADER: u64 = 128;
    let submissions = u64::from(options.submission_entries).next_power_of_two();
    let completions = u64::from(options.completion_entries).next_power_of_two();
    [
        HEADER + completions * 16 + submissions * 4,
        submissions * 64,
        u64::from(options.recv_buffers) * 16,
    ]
    .iter()
    .map(|bytes| bytes.next_multiple_of(page_bytes))
    .sum()
}

/// A call of io_uring that failed, by what it was for.
type Refusal = (&'static str, Errno);

/// A flag of `io_uring_setup(2)`.
struct SetUpFlag {
    name: &'static str,
    since: (u32, u32),
    purpose: &'static str,
    set: fn(&mut Builder, &UringOptions),
}

/// The flags that the ring sets and needs, in the order in which they can be tried.
const SET_UP_FLAGS: [SetUpFlag; 6] = [
    SetUpFlag {
        name: "CQSIZE",
        since: (5, 5),
        purpose: "room for more completions than submissions",
        set: |builder, options| {
            builder.setup_cqsize(options.completion_entries);
        },
    },
    SetUpFlag {
        name: "CLAMP",
        since: (5, 6),
        purpose: "queues too large are cut, not refused",
        set: |builder, _| {
            builder.setup_clamp();
        },
    },
    SetUpFlag {
        name: "SUBMIT_ALL",
        since: (5, 18),
        purpose: "one bad submission does not stop the rest",
        set: |builder, _| {
            builder.setup_submit_all();
        },
    },
    SetUpFlag {
        name: "COOP_TASKRUN",
        since: (5, 19),
        purpose: "completions do not interrupt the shard",
        set: |builder, _| {
            builder.setup_coop_taskrun();
        },
    },
    SetUpFlag {
        name: "SINGLE_ISSUER",
        since: (6, 0),
        purpose: "one thread owns a ring: fewer locks",
        set: |builder, _| {
            builder.setup_single_issuer();
        },
    },
    SetUpFlag {
        name: "DEFER_TASKRUN",
        since: (6, 1),
        purpose: "completions wait until the shard asks",
        // The kernel takes it only together with the other one.
        set: |builder, _| {
            builder.setup_single_issuer().setup_defer_taskrun();
        },
    },
];

/// A part of the kernel's answer to a set-up.
struct Reported {
    name: &'static str,
    since: (u32, u32),
    purpose: &'static str,
    available: fn(&Parameters) -> bool,
}

const REPORTED: [Reported; 2] = [
    Reported {
        name: "SUBMIT_STABLE",
        since: (5, 5),
        purpose: "arguments may go once they are submitted",
        available: Parameters::is_feature_submit_stable,
    },
    Reported {
        name: "EXT_ARG",
        since: (5, 11),
        purpose: "one call submits and waits with a timeout",
        available: Parameters::is_feature_ext_arg,
    },
];

/// An operation of `io_uring_enter(2)`.
struct KernelOperation {
    name: &'static str,
    code: u8,
    since: (u32, u32),
    required: bool,
    purpose: &'static str,
}

const fn operation(
    name: &'static str,
    code: u8,
    since: (u32, u32),
    required: bool,
    purpose: &'static str,
) -> KernelOperation {
    KernelOperation {
        name,
        code,
        since,
        required,
        purpose,
    }
}

const OPERATIONS: [KernelOperation; 11] = [
    operation(
        "SENDMSG",
        opcode::SendMsg::CODE,
        (5, 3),
        true,
        "sends in several pieces",
    ),
    operation("TIMEOUT", opcode::Timeout::CODE, (5, 4), true, "deadlines"),
    operation(
        "ACCEPT",
        opcode::Accept::CODE,
        (5, 5),
        true,
        "incoming connections",
    ),
    operation(
        "CONNECT",
        opcode::Connect::CODE,
        (5, 5),
        true,
        "outgoing connections",
    ),
    operation(
        "ASYNC_CANCEL",
        opcode::AsyncCancel::CODE,
        (5, 5),
        true,
        "ends operations early",
    ),
    operation(
        "READ",
        opcode::Read::CODE,
        (5, 6),
        true,
        "wakes a shard from another thread",
    ),
    operation("RECV", opcode::Recv::CODE, (5, 6), true, "receives"),
    operation("SEND", opcode::Send::CODE, (5, 6), true, "sends"),
    operation("CLOSE", opcode::Close::CODE, (5, 6), true, "closes sockets"),
    operation(
        "MSG_RING",
        opcode::MsgRingData::CODE,
        (5, 18),
        false,
        "ring to ring messages, not in use",
    ),
    operation(
        "SEND_ZC",
        opcode::SendZc::CODE,
        (6, 0),
        false,
        "sends without a copy, not in use",
    ),
];

/// Sets up a ring as the server does, and uses it.
/// Sets up a ring as tokio-uring does, and lets an operation go through it.
fn try_plain() -> Result<(), Errno> {
    let mut ring = IoUring::new(PLAIN_ENTRIES)?;
    let nop = opcode::Nop::new().build();
    // SAFETY: the operation refers to no memory.
    unsafe { ring.submission().push(&nop) }.map_err(|_| Errno::INVALID)?;
    ring.submit_and_wait(1)?;
    match ring.completion().next() {
        Some(entry) if entry.result() == 0 => Ok(()),
        _ => Err(Errno::INVALID),
    }
}

fn try_out(options: &UringOptions) -> Result<Vec<Feature>, Refusal> {
    let mut features = Vec::new();
    let mut add = |name, since: (u32, u32), required, purpose, available| {
        let since = Version {
            major: since.0,
            minor: since.1,
        };
        features.push(Feature {
            name,
            since,
            required,
            purpose,
            available,
        });
    };
    let SetUp {
        ring,
        flags,
        no_sqarray,
    } = set_up(options)?;
    for (flag, available) in SET_UP_FLAGS.iter().zip(flags) {
        add(flag.name, flag.since, true, flag.purpose, available);
    }
    add(
        "NO_SQARRAY",
        (6, 6),
        false,
        "one indirection less to submit",
        no_sqarray,
    );
    for feature in &REPORTED {
        let available = (feature.available)(ring.params());
        add(
            feature.name,
            feature.since,
            true,
            feature.purpose,
            available,
        );
    }

    let mut operations = io_uring::Probe::new();
    let asked = ring.submitter().register_probe(&mut operations);
    asked.map_err(|error| ("asking for the kernel's operations", error.into()))?;
    for it in &OPERATIONS {
        add(
            it.name,
            it.since,
            it.required,
            it.purpose,
            operations.is_supported(it.code),
        );
    }

    let used = use_it(ring)?;
    add(
        "buffer rings",
        (5, 19),
        true,
        "idle connections hold no buffer",
        used.buffer_rings,
    );
    add(
        "multishot accept",
        (5, 19),
        true,
        "one submission, many connections",
        used.accept,
    );
    add(
        "multishot recv",
        (6, 0),
        true,
        "one submission, many receives",
        used.recv,
    );
    add(
        "incremental buffers",
        (6, 12),
        false,
        "a receive takes part of a buffer",
        used.incremental,
    );
    add(
        "quiet sends",
        (6, 1),
        false,
        "a reply that is sent at once wakes nobody",
        used.quiet_sends,
    );
    Ok(features)
}

struct SetUp {
    ring: IoUring,
    flags: [bool; SET_UP_FLAGS.len()],
    no_sqarray: bool,
}

/// Sets up a ring with all flags, or finds out which of them the kernel refuses.
///
/// The memory of a ring goes back to `RLIMIT_MEMLOCK` some time after it is closed, so that many
/// rings after each other could fail where one works: single flags are tried only when needed.
fn set_up(options: &UringOptions) -> Result<SetUp, Refusal> {
    let build = |builder: &Builder, entries| builder.build(entries).map_err(Errno::from);
    let refused = |errno| ("setting up a ring", errno);
    let mut builder = IoUring::builder();
    for flag in &SET_UP_FLAGS {
        (flag.set)(&mut builder, options);
    }
    let without = builder.clone();
    builder.setup_no_sqarray();
    for (builder, no_sqarray) in [(&builder, true), (&without, false)] {
        match build(builder, options.submission_entries) {
            Ok(ring) => {
                return Ok(SetUp {
                    ring,
                    flags: [true; SET_UP_FLAGS.len()],
                    no_sqarray,
                });
            }
            Err(errno) if errno.number() == libc::EINVAL => {}
            Err(errno) => return Err(refused(errno)),
        }
    }
    let mut flags = [false; SET_UP_FLAGS.len()];
    for (flag, available) in SET_UP_FLAGS.iter().zip(&mut flags) {
        let mut builder = IoUring::builder();
        (flag.set)(&mut builder, options);
        *available = build(&builder, 1).is_ok();
    }
    let ring = build(&IoUring::builder(), 1).map_err(refused)?;
    Ok(SetUp {
        ring,
        flags,
        no_sqarray: false,
    })
}

/// What was found by using a ring.
#[derive(Default)]
struct Used {
    buffer_rings: bool,
    incremental: bool,
    quiet_sends: bool,
    accept: bool,
    recv: bool,
}

/// Registers buffer rings, and submits a multishot accept and a multishot receive.
///
/// Both multishot operations are made to fail in a way that tells whether the kernel knew them: an
/// accept on what is not a socket (ENOTSOCK), and a receive of a waiting byte into a group without
/// buffers (ENOBUFS). A kernel that does not know them says EINVAL before it looks that far. So
/// nothing is ever received, and no memory is handed to the kernel to write to.
fn use_it(mut ring: IoUring) -> Result<Used, Refusal> {
    const SUBMITTING: &str = "submitting to a ring";
    let mut used = Used::default();
    if !ring.params().is_feature_ext_arg() {
        // Waiting below needs it, and without it the verdict is clear.
        return Ok(used);
    }
    used.quiet_sends = quiet::is_known(&mut ring).map_err(|errno| (SUBMITTING, errno))?;
    let mut trial = Trial::new(ring).map_err(|errno| ("mapping a page", errno))?;
    used.incremental = trial.register(INCREMENTAL)?;
    trial.unregister();
    used.buffer_rings = trial.register(0)?;

    let file = eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| (SUBMITTING, errno.into()))?;
    let (near, far) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|errno| (SUBMITTING, errno.into()))?;
    send(&far, &[0], SendFlags::NOSIGNAL).map_err(|errno| (SUBMITTING, errno.into()))?;
    let accept = opcode::AcceptMulti::new(Fd(file.as_raw_fd())).build();
    let recv = opcode::RecvMulti::new(Fd(near.as_raw_fd()), GROUP).build();
    for (entry, expected, found) in [
        (accept, libc::ENOTSOCK, &mut used.accept),
        (recv, libc::ENOBUFS, &mut used.recv),
    ] {
        let result = trial.submit(&entry).map_err(|errno| (SUBMITTING, errno))?;
        *found = result == Some(-expected);
    }
    Ok(used)
}

/// A ring, and the page in which it is given a ring of no buffers.
struct Trial {
    // Dropped by hand: the ring before the page that it knows.
    ring: ManuallyDrop<IoUring>,
    page: NonNull<u8>,
    page_bytes: usize,
    registered: bool,
}

impl Trial {
    /// Entries of the buffer ring, 16 bytes each: they fit into any page.
    const ENTRIES: u16 = 8;

    fn new(ring: IoUring) -> Result<Self, Errno> {
        let page_bytes = rustix::param::page_size();
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // existing memory.
        let memory = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                page_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let page = NonNull::new(memory.cast()).ok_or(Errno::new(libc::ENOMEM))?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            page,
            page_bytes,
            registered: false,
        })
    }

    /// Registers a ring of no buffers. False when the kernel does not know what is asked of it.
    ///
    /// At most one is registered at a time, as in the server: it counts against `RLIMIT_MEMLOCK`.
    fn register(&mut self, flags: u16) -> Result<bool, Refusal> {
        // SAFETY: `new` mapped the page, the entries fit into it, and `drop` unmaps it only after
        // the kernel has given the group up.
        let registered = unsafe {
            self.ring.submitter().register_buf_ring_with_flags(
                self.page.as_ptr() as u64,
                Self::ENTRIES,
                GROUP,
                flags,
            )
        };
        match registered.map_err(Errno::from) {
            Ok(()) => {
                self.registered = true;
                Ok(true)
            }
            Err(errno) if errno.number() == libc::EINVAL => Ok(false),
            Err(errno) => Err(("registering a ring of buffers", errno)),
        }
    }

    fn unregister(&mut self) {
        if self.registered && self.ring.submitter().unregister_buf_ring(GROUP).is_ok() {
            self.registered = false;
        }
    }

    /// Submits one operation and waits a second for it. `None` when it has not ended by then.
    fn submit(&mut self, entry: &squeue::Entry) -> Result<Option<i32>, Errno> {
        // SAFETY: the entry names descriptors, which the kernel checks, and a group without
        // buffers; it points to no memory.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| Errno::new(libc::EBUSY))?;
        let second = Timespec::new().sec(1);
        match self
            .ring
            .submitter()
            .submit_with_args(1, &SubmitArgs::new().timespec(&second))
        {
            Ok(_) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.ring.completion().next().map(|it| it.result()))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.unregister();
        // SAFETY: this is the only drop of it, and nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if self.registered {
            // The kernel may still read the page: it stays.
            return;
        }
        // SAFETY: the mapping is ours and this long, and the kernel has given it up.
        let unmapped = unsafe { munmap(self.page.as_ptr().cast(), self.page_bytes) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confinement(release: &str) -> Confinement {
        Confinement {
            release: release.to_owned(),
            io_uring_disabled: Some(0),
            memlock_bytes: Limit {
                soft: Some(65_536),
                hard: Some(65_536),
            },
            ..Confinement::default()
        }
    }

    fn unavailable(errno: i32, confinement: Confinement) -> Unavailable {
        Unavailable::new("setting up a ring", Errno::new(errno), confinement, FLOOR)
    }

    #[test]
    fn releases_of_distributions_have_a_version() {
        for (release, major, minor) in [
            ("6.1.0-18-amd64", 6, 1),
            ("6.18.44-fc-v657", 6, 18),
            ("5.14.0-427.el9.x86_64", 5, 14),
            ("6.12-rc3", 6, 12),
            ("6.12", 6, 12),
            ("5.15.167.4-microsoft-standard-WSL2", 5, 15),
        ] {
            assert_eq!(
                Version::parse(release),
                Some(Version { major, minor }),
                "{release}"
            );
        }
        for release in ["", "6", "6.", "six.one", ".1", "6.x", "99999999999.1"] {
            assert_eq!(Version::parse(release), None, "{release}");
        }
        let version = |release| Version::parse(release).unwrap();
        assert!(version("6.1") < version("6.10") && version("5.19") < version("6.0"));
    }

    #[test]
    fn a_refusal_is_blamed_on_what_refused() {
        let new = || confinement("6.8.0-31-generic");
        let old = || confinement("5.4.0-1-generic");
        let too_old = Cause::KernelTooOld {
            missing: Vec::new(),
        };
        let disabled = |value| Confinement {
            io_uring_disabled: Some(value),
            ..new()
        };
        let filtered = |it| Confinement {
            seccomp_filter: true,
            ..it
        };
        let member = Confinement {
            in_io_uring_group: true,
            ..disabled(1)
        };
        let before_setting = Confinement {
            io_uring_disabled: None,
            ..confinement("6.1.0")
        };
        let exempt = Confinement {
            memlock_exempt: true,
            ..new()
        };
        let unlimited = Confinement {
            memlock_bytes: Limit::default(),
            ..new()
        };
        for (number, errno, confinement, cause) in [
            (1, libc::EPERM, disabled(2), Cause::DisabledForAll),
            (2, libc::EPERM, filtered(disabled(2)), Cause::DisabledForAll),
            (3, libc::EPERM, disabled(1), Cause::DisabledOutsideGroup),
            (4, libc::EPERM, member.clone(), Cause::SecurityModule),
            (5, libc::EPERM, filtered(member), Cause::Seccomp),
            (6, libc::EPERM, filtered(new()), Cause::Seccomp),
            (7, libc::EPERM, filtered(before_setting), Cause::Seccomp),
            (8, libc::EPERM, new(), Cause::SecurityModule),
            (9, libc::EACCES, new(), Cause::SecurityModule),
            (10, libc::ENOSYS, new(), Cause::KernelWithout),
            (11, libc::ENOSYS, filtered(new()), Cause::Seccomp),
            (12, libc::ENOSYS, old(), too_old.clone()),
            (
                13,
                libc::ENOSYS,
                filtered(confinement("4.19.0")),
                too_old.clone(),
            ),
            (14, libc::EINVAL, old(), too_old),
            (15, libc::EINVAL, new(), Cause::Unknown),
            (16, libc::ENOMEM, new(), Cause::Memlock),
            (17, libc::ENOMEM, exempt, Cause::Memory),
            (18, libc::ENOMEM, unlimited, Cause::Memory),
            (19, libc::EMFILE, new(), Cause::TooManyFiles),
            (20, libc::ENFILE, new(), Cause::TooManyFiles),
            (21, libc::EIO, new(), Cause::Unknown),
        ] {
            assert_eq!(
                classify(Errno::new(errno), &confinement, FLOOR),
                cause,
                "case {number}"
            );
        }
    }

    #[test]
    fn the_text_names_the_error_the_reason_and_the_exact_remedy() {
        let new = || confinement("6.8.0-31-generic");
        let disabled = |value| Confinement {
            io_uring_disabled: Some(value),
            ..new()
        };
        let group = Confinement {
            io_uring_group: Some(987),
            ..disabled(1)
        };
        let filtered = || Confinement {
            seccomp_filter: true,
            ..new()
        };
        let both = Confinement {
            seccomp_filter: true,
            ..disabled(2)
        };
        let cases: [(i32, Confinement, &[&str]); 11] = [
            (
                libc::EPERM,
                disabled(2),
                &[
                    "EPERM",
                    "kernel.io_uring_disabled is 2",
                    "sudo sysctl -w kernel.io_uring_disabled=0",
                    "/etc/sysctl.d/99-ringwire.conf",
                ],
            ),
            (
                libc::EPERM,
                both,
                &["kernel.io_uring_disabled is 2", "seccomp filter is active"],
            ),
            (
                libc::EPERM,
                disabled(1),
                &["names no group", "kernel.io_uring_group=1000"],
            ),
            (
                libc::EPERM,
                group,
                &[
                    "kernel.io_uring_disabled is 1",
                    "is 987, and this process is not in it",
                    "SupplementaryGroups=987",
                    "--group-add 987",
                    "sudo sysctl -w kernel.io_uring_disabled=0",
                ],
            ),
            (
                libc::EPERM,
                filtered(),
                &[
                    "EPERM",
                    "seccomp filter blocks io_uring",
                    "--security-opt seccomp=ringwire-seccomp.json",
                    r#"{"names": ["io_uring_setup", "io_uring_enter", "io_uring_register"],"#,
                    r#""action": "SCMP_ACT_ALLOW"}"#,
                    "seccompProfile:",
                    "localhostProfile: ringwire-seccomp.json",
                    "SystemCallFilter=@aio",
                ],
            ),
            (
                libc::ENOSYS,
                filtered(),
                &["ENOSYS", "seccomp filter blocks io_uring"],
            ),
            (libc::ENOSYS, new(), &["ENOSYS", "CONFIG_IO_URING=y"]),
            (
                libc::EINVAL,
                confinement("5.10.0"),
                &[
                    "EINVAL",
                    "this is Linux 5.10.0",
                    "Upgrade the kernel to Linux 6.1 or newer.",
                ],
            ),
            (
                libc::ENOMEM,
                new(),
                &[
                    "ENOMEM",
                    "RLIMIT_MEMLOCK, which is 65536 bytes",
                    "LimitMEMLOCK=infinity",
                    "--ulimit memlock=-1:-1",
                ],
            ),
            (libc::EMFILE, new(), &["EMFILE", "LimitNOFILE=1048576"]),
            (
                libc::EIO,
                new(),
                &["Input/output error", "ringwire doctor --json"],
            ),
        ];
        for (errno, confinement, parts) in cases {
            let unavailable = unavailable(errno, confinement);
            for line in unavailable.remedy().lines() {
                assert!(line.chars().count() <= 76, "longer than 76 columns: {line}");
            }
            let text = unavailable.to_string();
            for part in parts {
                let unbroken = text.contains(part) || text.replace('\n', " ").contains(part);
                assert!(unbroken, "'{part}' is not in:\n{text}");
            }
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "longer than 80 columns: {line}");
            }
        }
    }

    #[test]
    fn what_linux_5_15_has_is_enough_for_the_async_engine() {
        let mut probe = Probe::run();
        if probe.async_verdict().is_err() {
            // A host without io_uring: the other tests cover it.
            return;
        }
        probe.confinement.release = "5.15.0-91-generic".to_owned();
        let has = Version {
            major: 5,
            minor: 15,
        };
        for feature in &mut probe.features {
            feature.available = feature.since <= has;
        }
        assert!(probe.verdict().is_err(), "a shard needs what came later");
        assert_eq!(probe.async_verdict(), Ok(()));
        let confinement = probe.confinement.clone();
        let errno = Errno::new(libc::ENOSYS);
        let refused = Unavailable::new("a call", errno, confinement.clone(), PLAIN_FLOOR);
        assert_eq!(*refused.cause(), Cause::KernelWithout);
        let mut older = confinement;
        older.release = "5.10.0".to_owned();
        let refused = Unavailable::new("a call", Errno::INVALID, older, PLAIN_FLOOR);
        let text = refused.to_string();
        assert!(text.contains("needs 5.15 or newer"), "{text}");
    }

    #[test]
    fn a_missing_requirement_is_named_and_a_missing_option_is_not() {
        let mut probe = Probe::run();
        let feature = |name, required, available| Feature {
            name,
            since: Version { major: 6, minor: 0 },
            required,
            purpose: "",
            available,
        };
        probe.blocked = None;
        probe.features = vec![feature("ONE", true, true), feature("TWO", false, false)];
        assert_eq!(probe.verdict(), Ok(()));
        probe.features.push(feature("THREE", true, false));
        let refused = probe.verdict().unwrap_err();
        assert_eq!(
            *refused.cause(),
            Cause::KernelTooOld {
                missing: vec!["THREE"]
            }
        );
        assert!(
            refused
                .to_string()
                .contains("without THREE. Linux 6.1 and newer"),
            "{refused}"
        );
    }

    #[test]
    fn a_ring_that_can_be_set_up_finds_its_features_and_one_that_cannot_says_why() {
        let probe = Probe::run();
        let plain = IoUring::new(1);
        assert_eq!(plain.is_err(), probe.features.is_empty());
        if plain.is_ok() && probe.version() >= Some(FLOOR) {
            assert_eq!(probe.verdict(), Ok(()));
        }
        for feature in &probe.features {
            if probe.version() >= Some(feature.since) {
                assert!(feature.available, "{feature:?}");
            }
        }
    }

    #[test]
    fn a_status_file_gives_filter_capabilities_and_groups() {
        let status = Status::parse(
            "Name:\tringwire\nGid:\t100\t100\t100\t100\nGroups:\t27 987 \n\
             CapEff:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n",
        );
        assert!(status.seccomp_filter);
        assert!(status.groups.contains(&987) && status.groups.contains(&100));
        assert!(!status.has(CAP_IPC_LOCK) && !status.has(CAP_SYS_ADMIN));
        assert!(Status::parse("CapEff:\t0000000000204000").has(CAP_IPC_LOCK));
        assert!(Status::parse("CapEff:\t0000000000204000").has(CAP_SYS_ADMIN));
        assert_eq!(
            Status::parse("Seccomp:\t0\nCapEff:\tnonsense"),
            Status::default()
        );
    }

    #[test]
    fn only_the_first_user_namespace_maps_everybody() {
        assert!(maps_everybody("         0          0 4294967295"));
        assert!(!maps_everybody("         0       1000          1"));
        assert!(!maps_everybody("0 0 65536\n65536 65536 4294901759"));
    }

    #[test]
    fn a_port_range_has_two_ends() {
        assert_eq!(parse_ports("32768\t60999"), Some((32_768, 60_999)));
        assert_eq!(parse_ports("32768"), None);
        assert_eq!(parse_ports("1 99999"), None);
    }

    #[test]
    fn a_ring_is_counted_in_whole_pages() {
        let options = UringOptions {
            submission_entries: 512,
            completion_entries: 4096,
            recv_buffers: 16,
            ..UringOptions::default()
        };
        // 17 pages of queues, as Linux 6.18 counts them, 8 of entries, and 1 of buffers.
        assert_eq!(ring_bytes(&options, 4096), 26 * 4096);
    }

    #[test]
    fn wrapping_breaks_at_spaces_and_never_inside_a_word() {
        assert_eq!(wrap("one two three", 7), "one two\nthree");
        assert_eq!(
            wrap("incomprehensibilities are", 5),
            "incomprehensibilities\nare"
        );
        assert_eq!(wrap("", 10), "");
    }
}
