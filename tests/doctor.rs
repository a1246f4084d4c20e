//! `ringwire doctor` and `ringwire serve` on a host that takes io_uring away.
//!
//! A filter like that of a container engine is installed by a few lines of Python, which then
//! becomes the real binary: nothing of ours knows that it is a test.

use std::{
    io::Read,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Numbers of system calls since they became the same on all architectures, and of errors.
const IO_URING_SETUP: u32 = 425;
const IO_URING_ENTER: u32 = 426;
const IO_URING_REGISTER: u32 = 427;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// A command that fails or prints something takes less than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments: the call to refuse, the error to refuse it with, the program, its arguments.
/// `seccomp(2)` wants four instructions: load the call's number, compare, refuse, allow.
const UNDER_A_FILTER: &str = r#"
import ctypes, os, struct, sys
call, errno = int(sys.argv[1]), int(sys.argv[2])
instructions = b"".join(struct.pack("HBBI", *it) for it in (
    (0x20, 0, 0, 0),
    (0x15, 0, 1, call),
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

/// Kills a process that a failed test would leave behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs ringwire with `call` refused, until it ends.
fn ringwire_without(call: u32, errno: u32, arguments: &[&str]) -> Output {
    let mut child = Running(
        Command::new("python3")
            .args(["-c", UNDER_A_FILTER, &call.to_string(), &errno.to_string()])
            .arg(env!("CARGO_BIN_EXE_ringwire"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Python 3 is needed to install the filter"),
    );
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

/// What it comes to where nothing can run, and where the async engine can, which registers nothing.
const NO_ENGINE: &str = "This host cannot run ringwire:";
const ASYNC_ENGINE: &str = "It can run ringwire serve --engine tokio-uring.";

#[test]
fn doctor_names_the_filter_and_how_to_open_it() {
    let registers = if cfg!(feature = "aio") {
        ASYNC_ENGINE
    } else {
        NO_ENGINE
    };
    for (call, errno, name, conclusion) in [
        (
            IO_URING_SETUP,
            EPERM,
            "setting up a ring failed with EPERM",
            NO_ENGINE,
        ),
        (
            IO_URING_SETUP,
            ENOSYS,
            "setting up a ring failed with ENOSYS",
            NO_ENGINE,
        ),
        (
            IO_URING_REGISTER,
            EPERM,
            "asking for the kernel's operations failed with EPERM",
            registers,
        ),
        (
            IO_URING_ENTER,
            EPERM,
            "submitting to a ring failed with EPERM",
            NO_ENGINE,
        ),
    ] {
        let output = ringwire_without(call, errno, &["doctor"]);
        let report = text(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{report}{}",
            text(&output.stderr)
        );
        for expected in SECCOMP_TEXTS.iter().chain([&name, &conclusion]) {
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

#[test]
fn serve_fails_with_the_text_that_doctor_gives() {
    let doctor = ringwire_without(IO_URING_SETUP, EPERM, &["doctor", "--json"]);
    assert_eq!(doctor.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert_eq!(report["can_run"], false);
    let unavailable = words(report["unavailable"].as_str().unwrap());
    assert!(unavailable.contains("seccomp"), "{unavailable}");

    let serve = ringwire_without(IO_URING_SETUP, EPERM, &["serve", "--listen", "127.0.0.1:0"]);
    let error = text(&serve.stderr);
    assert_eq!(serve.status.code(), Some(1), "{error}");
    assert!(
        words(error).contains(&unavailable),
        "'{unavailable}' is not in:\n{error}"
    );
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
    assert_eq!(report["unavailable"], serde_json::Value::Null);
    assert_eq!(row("io_uring").unwrap(), "ok");
    assert_eq!(row("seccomp").unwrap(), "ok");
}
