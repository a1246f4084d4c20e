//! Whatever here names no ring, once more on epoll.
//!
//! Tests on each engine have one on epoll among them. The others get their server from `host`,
//! which asks the environment: they run again in a process for which that says epoll.

use std::{env, process::Command};

use crate::host::{RING, guarded};

/// Tests that have one of their own on epoll, and those of what knows no ring: the binary, which
/// `tests/doctor.rs` has on epoll, the examples, and the log.
const SKIPPED: [&str; 8] = [
    "on_a_server",
    "on_a_shard",
    "on_epoll",
    "over_tls",
    "again::",
    "binary::",
    "examples::",
    "logging::",
];

#[test]
fn whatever_names_no_ring_runs_on_epoll_as_well() {
    if env::var_os(RING).is_some() {
        // Then all of them do.
        return;
    }
    guarded(|| {
        let mut again = Command::new(env::current_exe().unwrap());
        again.env(RING, "epoll");
        for skipped in SKIPPED {
            again.args(["--skip", skipped]);
        }
        let output = again.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{stdout}\n{stderr}");
        assert!(!stdout.contains("\nrunning 0 tests"), "{stdout}");
    });
}
