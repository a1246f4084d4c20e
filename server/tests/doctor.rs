//! `ringwire doctor` and `ringwire serve` on a host that takes io_uring away.
//!
//! A filter like that of a container engine is installed by a few lines of Python, which then
//! becomes the real binary: nothing of ours knows that it is a test.

#[expect(dead_code, reason = "nothing here looks closely")]
#[path = "../../tests/common/mod.rs"]
mod common;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use common::{BINARY, Peer};
use ringwire::probe::EPOLL_COST;
use rustix::process::{Pid, Signal, kill_process};

/// Numbers of system calls since they became the same on all architectures, and of errors.
const IO_URING_SETUP: u32 = 425;
const IO_URING_ENTER: u32 = 426;
const IO_URING_REGISTER: u32 = 427;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// A command that fails or prints something takes less than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments: the call to refuse, with a plus all calls from there on, the error to refuse it with,
/// the program, its arguments. `seccomp(2)` wants four instructions: load the call's number,
/// compare, refuse, allow.
const UNDER_A_FILTER: &str = r#"
import ctypes, os, struct, sys
call, errno = int(sys.argv[1].rstrip("+")), int(sys.argv[2])
equal, from_there_on = 0x15, 0x35
instructions = b"".join(struct.pack("HBBI", *it) for it in (
    (0x20, 0, 0, 0),
    (from_there_on if sys.argv[1].endswith("+") else equal, 0, 1, call),
    (0x06, 0, 0, 0x00050000 | errno),
    (0x06, 0, 0, 0x7fff0000)))
code = ctypes.create_string_buffer(instructions)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
ulong = ctypes.c_ulong
for what in ((38, ulong(1), ulong(0), ulong(0), ulong(0)), (22, ulong(2), program)):
    if libc.prctl(*what) != 0:
        sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[3], sys.argv[3:])
"#;

/// Arguments: a file that is to be seen in place of `kernel.io_uring_disabled`, the program, its
/// arguments. What the kernel does about such a setting is to refuse `io_uring_setup(2)`. Exits
/// with 77 where nobody may have a mount of his own.
const WITH_A_SETTING: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWUSER, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 4096, 16384, 1 << 18
namespaces = CLONE_NEWNS if os.geteuid() == 0 else CLONE_NEWNS | CLONE_NEWUSER
setting = b"/proc/sys/kernel/io_uring_disabled"
if libc.unshare(namespaces) != 0:
    sys.exit(77)
for what in ((None, b"/", None, MS_REC | MS_PRIVATE, None),
             (sys.argv[1].encode(), setting, None, MS_BIND, None)):
    if libc.mount(*what) != 0:
        sys.exit(77)
os.execv(sys.argv[2], sys.argv[2:])
"#;

/// Arguments: the program, its arguments. It may lock no memory, and has no capability to do so
/// nevertheless.
const WITHOUT_LOCKED_MEMORY: &str = r#"
import ctypes, os, resource, sys
PR_CAPBSET_DROP, CAP_IPC_LOCK = 24, 14
ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// Kills a process that a failed test would leave behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ringwire with `call` refused.
fn without(call: impl ToString, errno: u32, arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-c", UNDER_A_FILTER, &call.to_string(), &errno.to_string()])
        .arg(env!("CARGO_BIN_EXE_ringwire"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs ringwire with `call` refused, until it ends.
fn ringwire_without(call: u32, errno: u32, arguments: &[&str]) -> Output {
    let child = without(call, errno, arguments).spawn();
    let mut child = Running(child.expect("Python 3 is needed to install the filter"));
    let (mut stdout, mut stderr) = (
        child.0.stdout.take().unwrap(),
        child.0.stderr.take().unwrap(),
    );
    let (sender, receiver) = mpsc::channel();
    // Errors are few lines, which a pipe holds: one stream can wait for the other.
    thread::spawn(move || {
        let (mut printed, mut complained) = (Vec::new(), Vec::new());
        let read = stdout
            .read_to_end(&mut printed)
            .and_then(|_| stderr.read_to_end(&mut complained));
        // Nobody listens any more when patience has run out.
        let _ = sender.send(read.map(|_| (printed, complained)));
    });
    let Ok(read) = receiver.recv_timeout(PATIENCE) else {
        panic!("ringwire {arguments:?} goes on without io_uring");
    };
    let (stdout, stderr) = read.unwrap();
    Output {
        status: child.0.wait().unwrap(),
        stdout,
        stderr,
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// One space for each gap, so that lines may be broken and indented as they please.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What stands in the report of a host whose seccomp filter blocks io_uring.
const SECCOMP_TEXTS: [&str; 6] = [
    "a seccomp filter blocks io_uring for this process",
    concat!(
        r#"{"names": ["io_uring_setup", "io_uring_enter", "io_uring_register"], "#,
        r#""action": "SCMP_ACT_ALLOW"}"#
    ),
    "docker run --security-opt seccomp=ringwire-seccomp.json",
    "/var/lib/kubelet/seccomp/ringwire-seccomp.json",
    "seccompProfile: type: Localhost",
    "SystemCallFilter=@aio",
];

/// What it comes to under such a filter.
const CONCLUSION: &str = "This host can run ringwire on epoll, but not on io_uring:";

/// The calls that a filter refuses, with what, and what comes of it.
const REFUSALS: [(u32, u32, &str); 6] = [
    (IO_URING_SETUP, EPERM, "setting up a ring failed with EPERM"),
    (
        IO_URING_SETUP,
        ENOSYS,
        "setting up a ring failed with ENOSYS",
    ),
    (
        IO_URING_REGISTER,
        EPERM,
        "asking for the kernel's operations failed with EPERM",
    ),
    (
        IO_URING_REGISTER,
        ENOSYS,
        "asking for the kernel's operations failed with ENOSYS",
    ),
    (
        IO_URING_ENTER,
        EPERM,
        "submitting to a ring failed with EPERM",
    ),
    (
        IO_URING_ENTER,
        ENOSYS,
        "submitting to a ring failed with ENOSYS",
    ),
];

#[test]
fn doctor_names_the_filter_and_how_to_open_it() {
    for (call, errno, name) in REFUSALS {
        let output = ringwire_without(call, errno, &["doctor"]);
        let report = text(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{report}{}",
            text(&output.stderr)
        );
        let cost = words(EPOLL_COST);
        for expected in SECCOMP_TEXTS.iter().chain([&name, &CONCLUSION, &&*cost]) {
            assert!(
                words(report).contains(expected),
                "'{expected}' is not in:\n{report}"
            );
        }
        assert!(!report.contains('\x1b'), "colours without a terminal");
        for line in report.lines() {
            assert!(line.chars().count() <= 80, "longer than 80 columns: {line}");
        }
    }
}

/// What `doctor` says of a host that refuses this call.
fn unavailable(call: u32, errno: u32) -> String {
    let doctor = ringwire_without(call, errno, &["doctor", "--json"]);
    assert_eq!(doctor.status.code(), Some(0));
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(
        (&report["can_run"], &report["ring"]),
        (&true.into(), &"epoll".into())
    );
    let unavailable = words(report["unavailable"].as_str().unwrap());
    assert!(unavailable.contains("seccomp"), "{unavailable}");
    unavailable
}

#[test]
fn serve_that_insists_on_io_uring_fails_with_the_text_that_doctor_gives() {
    let unavailable = unavailable(IO_URING_SETUP, EPERM);
    let arguments = ["serve", "--ring", "uring", "--listen", "127.0.0.1:0"];
    let serve = ringwire_without(IO_URING_SETUP, EPERM, &arguments);
    let error = text(&serve.stderr);
    assert_eq!(serve.status.code(), Some(1), "{error}");
    assert!(
        words(error).contains(&unavailable),
        "'{unavailable}' is not in:\n{error}"
    );
}

/// Each engine, what it says it serves on, and what it says of that.
const ENGINES: &[(&str, &str, &str, &str)] = &[
    (
        "shard",
        "on 2 shards on epoll:",
        "running on epoll",
        EPOLL_COST,
    ),
    #[cfg(feature = "aio")]
    (
        "async",
        "on 2 async threads on tokio:",
        "running on tokio's own runtime",
        "handlers have no files of tokio-uring's",
    ),
];

#[test]
fn serve_runs_on_epoll_and_says_why_in_the_words_of_doctor() {
    let cases = REFUSALS.iter().flat_map(|refusal| {
        let engines = ENGINES.iter();
        engines.map(move |engine| (refusal, engine))
    });
    for (&(call, errno, _), &(engine, greets, runs, costs)) in cases {
        if engine == "async" && call == IO_URING_REGISTER {
            // tokio-uring does without.
            continue;
        }
        let serve = serving_on_two(engine);
        let (said, log) = served(without(call, errno, &serve)).unwrap();
        assert!(said.contains(greets), "{said}");
        let warnings = log.matches("WARN").count();
        assert_eq!(warnings, 1, "{log}");
        for expected in SECCOMP_TEXTS.iter().chain([&runs, &&*words(costs)]) {
            assert!(log.contains(expected), "'{expected}' is not in:\n{log}");
        }
        if call == IO_URING_SETUP && engine == "shard" {
            let unavailable = unavailable(call, errno);
            assert!(
                log.contains(&unavailable),
                "'{unavailable}' is not in:\n{log}"
            );
        }
    }
}

/// The arguments for a server of two threads.
const fn serving_on_two(engine: &str) -> [&str; 7] {
    [
        "serve",
        "--engine",
        engine,
        "--shards",
        "2",
        "--listen",
        "127.0.0.1:0",
    ]
}

/// Runs `serve` until it has greeted and echoed, stops it, and returns what it said and its log.
/// `None` if it ends with 77 first.
fn served(mut command: Command) -> Option<(String, String)> {
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut serve = Running(command.spawn().expect("Python 3 is needed"));
    let mut greeting = BufReader::new(serve.0.stdout.take().unwrap());
    let (mut said, mut address) = (String::new(), None);
    while !said.contains("ringwire doctor") {
        let mut line = String::new();
        if greeting.read_line(&mut line).unwrap() == 0 {
            let status = serve.0.wait().unwrap();
            assert_eq!(status.code(), Some(77), "{said}");
            return None;
        }
        let url = line.trim().strip_prefix("ws://");
        address = address.or(url.map(|url| url.trim_end_matches('/').to_owned()));
        said += &line;
    }
    let mut peer = Peer::open(&address.unwrap().parse().unwrap(), "/");
    let message = vec![7; 200_000];
    for len in [1, 1000, message.len()] {
        peer.send(BINARY, &message[..len]);
        assert!(peer.read_frame().payload == message[..len]);
    }
    drop(peer);
    kill_process(Pid::from_child(&serve.0), Signal::TERM).unwrap();
    let mut log = String::new();
    let mut stderr = serve.0.stderr.take().unwrap();
    stderr.read_to_string(&mut log).unwrap();
    assert!(serve.0.wait().unwrap().success(), "{log}");
    Some((said, words(&log)))
}

#[test]
fn serve_names_the_setting_that_forbids_io_uring() {
    let folder = tempfile::tempdir().unwrap();
    let setting = folder.path().join("io_uring_disabled");
    std::fs::write(&setting, "2\n").unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", WITH_A_SETTING]).arg(&setting);
    command.args(["/usr/bin/env", "python3", "-c", UNDER_A_FILTER]);
    command.args([IO_URING_SETUP.to_string(), EPERM.to_string()]);
    command.arg(env!("CARGO_BIN_EXE_ringwire"));
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let Some((said, log)) = served(command) else {
        eprintln!("left out: there are no mounts of one's own here");
        return;
    };
    assert!(said.contains(" on epoll:"), "{said}");
    for expected in [
        "running on epoll",
        "the setting kernel.io_uring_disabled is 2",
        "sudo sysctl -w kernel.io_uring_disabled=0",
    ] {
        assert!(log.contains(expected), "'{expected}' is not in:\n{log}");
    }
}

/// Linux 5.1 gave all calls that it added the same numbers on all architectures, from 424 on; what
/// Linux 4.18 has lies below.
#[test]
fn serve_does_without_the_calls_that_linux_4_18_does_not_have() {
    for &(engine, greets, ..) in ENGINES {
        let serve = serving_on_two(engine);
        let (said, log) = served(without("424+", ENOSYS, &serve)).unwrap();
        assert!(said.contains(greets), "{said}");
        assert_eq!(log.matches("WARN").count(), 1, "{log}");
    }
}

#[test]
fn serve_names_the_limit_on_locked_memory() {
    let mut command = Command::new("python3");
    command.args(["-c", WITHOUT_LOCKED_MEMORY]);
    command.arg(env!("CARGO_BIN_EXE_ringwire"));
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let (said, log) = served(command).unwrap();
    if said.contains(" on io_uring:") {
        // From Linux 5.12 to 6.13 rings are not counted.
        assert!(!log.contains("WARN"), "{log}");
        return;
    }
    assert!(said.contains(" on epoll:"), "{said}");
    for expected in ["running on epoll", "memlock"] {
        assert!(log.contains(expected), "'{expected}' is not in:\n{log}");
    }
}

#[test]
fn a_filter_for_other_calls_is_no_obstacle() {
    // fanotify_init, which nothing here calls.
    let call = if cfg!(target_arch = "x86_64") {
        300
    } else {
        262
    };
    let output = ringwire_without(call, EPERM, &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |name: &str| {
        let rows = report["rows"].as_array().unwrap();
        rows.iter()
            .find(|row| row["name"] == name)
            .map(|row| row["state"].clone())
    };
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["can_run"], true);
    assert_eq!(report["ring"], "io_uring");
    assert_eq!(report["unavailable"], serde_json::Value::Null);
    assert_eq!(row("io_uring").unwrap(), "ok");
    assert_eq!(row("seccomp").unwrap(), "ok");
}
