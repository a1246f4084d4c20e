//! All tests of a crate once more, on epoll.
//!
//! They get what they run on from `host`, which asks the environment. Most of their time they wait,
//! so that those on epoll run beside the others, in a process of their own.

use std::{
    env,
    fs::{self, File},
    process::{self, Command},
};

use crate::host::{AGAIN_WITHOUT, RING, guarded};

#[test]
fn all_of_them_run_on_epoll_as_well() {
    if env::var_os(RING).is_some() {
        // Then all of them do.
        return;
    }
    // Other tests compare their descriptors while this one waits: a pipe of its would be in the
    // way.
    let name = env!("CARGO_CRATE_NAME");
    let path = env::temp_dir().join(format!("ringwire-{name}-on-epoll-{}", process::id()));
    let mut again = guarded(|| {
        let output = File::create(&path).unwrap();
        let mut again = Command::new(env::current_exe().unwrap());
        again.env(RING, "epoll");
        for skipped in AGAIN_WITHOUT {
            again.args(["--skip", skipped]);
        }
        again.stdout(output.try_clone().unwrap());
        again.stderr(output);
        again.spawn().unwrap()
    });
    let status = again.wait().unwrap();
    let output = guarded(|| fs::read(&path).unwrap());
    let output = String::from_utf8_lossy(&output);
    let _ = fs::remove_file(&path);
    assert!(status.success(), "{output}");
    assert!(!output.contains("\nrunning 0 tests"), "{output}");
}
