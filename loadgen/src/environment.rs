//! The machine and the processes on it, as the kernel tells.
//!
//! Knows: `/proc`. Refuses to know: what the numbers are for.

use std::{collections::HashMap, fs, process};

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity},
    time::{ClockId, clock_gettime},
};

use crate::{redact, result::Environment};

/// What is known of the machine and of this program.
pub fn environment(command: Vec<String>) -> Environment {
    let line_of = |path: &str, key: &str| {
        let text = fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| {
            let (name, value) = line.split_once([':', '='])?;
            (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
        })
    };
    let uname = rustix::system::uname();
    Environment {
        cpu_model: line_of("/proc/cpuinfo", "model name")
            .unwrap_or_else(|| uname.machine().to_string_lossy().into_owned()),
        cpus_online: std::thread::available_parallelism()
            .map_or(1, usize::from)
            .max(cpus_online()),
        cpus_allowed: cpus_allowed(),
        memory_bytes: line_of("/proc/meminfo", "MemTotal").map_or(0, |text| kilobytes(&text)),
        kernel: uname.release().to_string_lossy().into_owned(),
        os: line_of("/etc/os-release", "PRETTY_NAME").unwrap_or_default(),
        host: uname.nodename().to_string_lossy().into_owned(),
        loadgen_version: env!("CARGO_PKG_VERSION").to_owned(),
        loadgen_commit: option_env!("LOADGEN_COMMIT").map(str::to_owned),
        rustc_version: option_env!("LOADGEN_RUSTC").map(str::to_owned),
        release_build: !cfg!(debug_assertions),
        command: redact::command(command),
    }
}

/// The clock that the rings have, in nanoseconds.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Processors that are online; 0 when that cannot be read.
pub fn cpus_online() -> usize {
    let listed = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    listed
        .trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            Some(last - first + 1)
        })
        .sum()
}

/// The processors that this process may use.
pub fn cpus_allowed() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else {
        return Vec::new();
    };
    (0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect()
}

/// How many local ports one address has for connections that do not choose (`ip(7)`,
/// `ip_local_port_range`).
pub fn local_ports() -> usize {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let words = text.split_whitespace();
    let mut bounds = words.filter_map(|word| word.parse::<usize>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(first), Some(last)) if last >= first => last - first + 1,
        // The kernel's default.
        _ => 60_999_usize - 32_768 + 1,
    }
}

/// Raises the soft limit on open files so far that `needed` can be opened.
///
/// # Errors
///
/// A sentence, when the hard limit does not allow as many.
pub fn allow_open_files(needed: u64) -> Result<(), String> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    if let Some(maximum) = limit.maximum
        && maximum < needed
    {
        return Err(format!(
            "this needs {needed} open files and the hard limit is {maximum}: raise it (ulimit -Hn, \
             LimitNOFILE=), or ask for fewer connections"
        ));
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).map_err(|errno| {
        format!("this needs {needed} open files, and the limit cannot be raised: {errno}")
    })
}

/// Raises the soft limit on open files to the hard one, for those who cannot say how many they will
/// need.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Whoever runs out all the same is told then.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    );
}

/// What one thread has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Task {
    cpu_ns: u64,
    run_queue_wait_ns: u64,
    voluntary: u64,
    involuntary: u64,
}

/// What threads of a process have used so far.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    tasks: HashMap<u32, Task>,
}

/// Time in which these threads of this process were ready and had no processor, in nanoseconds.
pub fn own_run_queue_wait_ns(threads: &[u32]) -> u64 {
    let pid = process::id();
    let looks = threads.iter().filter_map(|&tid| schedstat(pid, tid));
    looks.map(|(_, wait_ns)| wait_ns).sum()
}

/// What threads used between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// CPU time of the busiest thread.
    pub busiest_cpu_ns: u64,
    /// CPU time of the busiest thread, and its wait for a processor.
    pub busiest_wanted_ns: u64,
    /// Time in which threads were ready and had no processor.
    pub run_queue_wait_ns: u64,
    /// Context switches that threads asked for by waiting.
    pub voluntary: u64,
    /// Context switches that were forced upon them.
    pub involuntary: u64,
}

impl Usage {
    /// A look at a process: at the threads given, or at all.
    pub fn of(pid: u32, threads: Option<&[u32]>) -> Self {
        let threads = threads.map_or_else(|| threads_of(pid), <[u32]>::to_vec);
        let tasks = threads
            .into_iter()
            .filter_map(|tid| Some((tid, task(pid, tid)?)))
            .collect();
        Self { tasks }
    }

    /// What was used since an earlier look. A thread that ended meanwhile is not in it.
    pub fn since(&self, earlier: &Self) -> Used {
        let mut used = Used::default();
        for (tid, now) in &self.tasks {
            let before = earlier.tasks.get(tid).copied().unwrap_or_default();
            let cpu_ns = now.cpu_ns.saturating_sub(before.cpu_ns);
            let wait_ns = now
                .run_queue_wait_ns
                .saturating_sub(before.run_queue_wait_ns);
            used.cpu_ns += cpu_ns;
            used.run_queue_wait_ns += wait_ns;
            used.busiest_cpu_ns = used.busiest_cpu_ns.max(cpu_ns);
            used.busiest_wanted_ns = used.busiest_wanted_ns.max(cpu_ns + wait_ns);
            used.voluntary += now.voluntary.saturating_sub(before.voluntary);
            used.involuntary += now.involuntary.saturating_sub(before.involuntary);
        }
        used
    }
}

/// CPU time and time without a processor of one thread, in nanoseconds
/// (`Documentation/scheduler/sched-stats.rst` of the kernel).
fn schedstat(pid: u32, tid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

fn threads_of(pid: u32) -> Vec<u32> {
    let Ok(folder) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// CPU time of a process that is looked at again and again. What ended threads used before the last
/// look stays counted.
#[derive(Debug, Default)]
pub struct CpuClock {
    seen: HashMap<u32, u64>,
    total_ns: u64,
}

impl CpuClock {
    /// CPU time since the first look, in nanoseconds.
    pub fn look(&mut self, pid: u32) -> u64 {
        let is_first = self.seen.is_empty();
        for tid in threads_of(pid) {
            if let Some((cpu_ns, _)) = schedstat(pid, tid) {
                let before = self.seen.insert(tid, cpu_ns);
                let before = before.unwrap_or(if is_first { cpu_ns } else { 0 });
                self.total_ns += cpu_ns.saturating_sub(before);
            }
        }
        self.total_ns
    }
}

fn task(pid: u32, tid: u32) -> Option<Task> {
    let folder = format!("/proc/{pid}/task/{tid}");
    let (cpu_ns, run_queue_wait_ns) = schedstat(pid, tid)?;
    let status = fs::read_to_string(format!("{folder}/status")).ok()?;
    let count = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or(0)
    };
    Some(Task {
        cpu_ns,
        run_queue_wait_ns,
        voluntary: count("voluntary_ctxt_switches:"),
        involuntary: count("nonvoluntary_ctxt_switches:"),
    })
}

/// Whether there is a process of this number.
pub fn is_there(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}/task")).unwrap_or(false)
}

/// Resident memory of a process, in bytes. Exact where `smaps_rollup` may be read; `status` is off
/// by what each processor has not added up yet.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let from = |path: String, key: &str| {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(kilobytes(line))
    };
    from(format!("/proc/{pid}/smaps_rollup"), "Rss:")
        .or_else(|| from(format!("/proc/{pid}/status"), "VmRSS:"))
}

/// Resident memory of this process, in bytes.
pub fn own_resident_bytes() -> u64 {
    resident_bytes(process::id()).unwrap_or(0)
}

/// What the kernel holds for sockets, as far as it tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelMemory {
    /// `Slab` of `/proc/meminfo`, in bytes.
    pub slab_bytes: Option<u64>,
    /// `TCP: mem` of `/proc/net/sockstat`, in bytes.
    pub tcp_bytes: Option<u64>,
    /// `TCP: tw` of `/proc/net/sockstat`: connections that ended within the last minute.
    pub time_wait: Option<u64>,
}

impl KernelMemory {
    /// A look.
    pub fn look() -> Self {
        let slab_bytes = slab_active_bytes().or_else(|| {
            let text = fs::read_to_string("/proc/meminfo").ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Slab:"))?;
            Some(kilobytes(line))
        });
        let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
        let tcp = |name: &str| {
            let line = sockstat
                .lines()
                .find_map(|line| line.strip_prefix("TCP:"))?;
            let (_, value) = line.split_once(name)?;
            value.split_whitespace().next()?.parse::<u64>().ok()
        };
        Self {
            slab_bytes,
            tcp_bytes: tcp(" mem ").map(|pages| pages * rustix::param::page_size() as u64),
            time_wait: tcp(" tw "),
        }
    }
}

/// Objects in use times their size, over all of `/proc/slabinfo`: what is kept for later use is not
/// in it.
fn slab_active_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/slabinfo").ok()?;
    let bytes = text.lines().skip(2).filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let active: u64 = words.next()?.parse().ok()?;
        let object_bytes: u64 = words.nth(1)?.parse().ok()?;
        Some(active * object_bytes)
    });
    Some(bytes.sum())
}

/// `   1234 kB` in bytes.
fn kilobytes(text: &str) -> u64 {
    let number = text.trim().split(' ').next().unwrap_or("");
    number.parse::<u64>().unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_uses_cpu_time() {
        let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let before = Usage::of(process::id(), Some(&[tid]));
        let mut x = 1_u64;
        while Usage::of(process::id(), Some(&[tid])).since(&before).cpu_ns < 1_000_000 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let used = Usage::of(process::id(), None).since(&before);
        assert!(used.cpu_ns >= 1_000_000);
        assert!(used.busiest_wanted_ns >= used.busiest_cpu_ns);
    }

    #[test]
    fn the_machine_is_described() {
        let found = environment(vec!["loadgen".into()]);
        assert!(!found.cpu_model.is_empty());
        assert!(found.cpus_online >= found.cpus_allowed.len().min(1));
        assert!(found.memory_bytes > 1 << 20);
        assert!(local_ports() > 0);
        assert!(own_resident_bytes() > 1 << 20);
    }

    #[test]
    fn more_files_than_the_hard_limit_are_refused_with_both_numbers() {
        if getrlimit(Resource::Nofile).maximum.is_some() {
            let sentence = allow_open_files(1 << 40).unwrap_err();
            assert!(sentence.contains("1099511627776"), "{sentence}");
        }
    }
}
