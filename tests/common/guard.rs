//! That a test leaves nothing behind in its process: no descriptor, no thread of a server's.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs, panic,
    path::Path,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use crate::{common::PATIENCE, peer::until};

/// A panic whose message begins with this is part of a test and not shown.
pub const ON_PURPOSE: &str = "on purpose";

/// Runs `body` alone in this process and checks that it leaves no descriptor and no thread behind.
/// Whatever opens something, a temporary folder as well, belongs into it: what another test opens
/// or closes meanwhile would be taken for this one's. It may be called within itself.
pub fn guarded<T>(body: impl FnOnce() -> T) -> T {
    static ALONE: Mutex<()> = Mutex::new(());
    thread_local! {
        static IS_ALONE: Cell<bool> = const { Cell::new(false) };
    }
    /// Ends being alone, in a test that fails too.
    struct Alone {
        _lock: MutexGuard<'static, ()>,
    }
    impl Drop for Alone {
        fn drop(&mut self) {
            IS_ALONE.set(false);
        }
    }
    let _alone = (!IS_ALONE.get()).then(|| {
        let lock = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        IS_ALONE.set(true);
        Alone { _lock: lock }
    });
    hide_panics_on_purpose();
    static FAILED: AtomicBool = AtomicBool::new(false);
    let failed_before = FAILED.swap(true, Ordering::Relaxed);
    let before = descriptors();
    let result = body();
    until("the server's threads are gone", || server_threads() == 0);
    let is_clean = || {
        let mut after = descriptors();
        if failed_before {
            // A test that failed left some to its threads, which close them when they like.
            after.retain(|number, target| before.get(number) != Some(target));
            return after.is_empty();
        }
        after == before
    };
    let deadline = Instant::now() + PATIENCE;
    while !is_clean() && Instant::now() < deadline {
        thread::yield_now();
    }
    let after = descriptors();
    assert!(
        is_clean(),
        "descriptors before: {before:?}, after: {after:?}"
    );
    FAILED.store(failed_before, Ordering::Relaxed);
    result
}

/// [`guarded`], with a folder that is gone afterwards.
pub fn in_a_folder(body: impl FnOnce(&Path)) {
    guarded(|| {
        let folder = tempfile::tempdir().unwrap();
        body(folder.path());
    });
}

fn hide_panics_on_purpose() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let shown = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // Formatted messages come as a String, others as they were written.
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or(payload.downcast_ref::<&str>().copied());
            let hidden = text.is_some_and(|text| text.starts_with(ON_PURPOSE));
            if !hidden {
                shown(info);
            }
        }));
    });
}

/// Every open descriptor and what it refers to.
fn descriptors() -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        // The one that lists the others is gone by now.
        if let Ok(target) = fs::read_link(entry.path()) {
            found.insert(number, target.to_string_lossy().into_owned());
        }
    }
    found.retain(|_, target| !target.ends_with("/fd"));
    // A test's folder is removed when the test is over, and the next one has begun by then.
    let folders = std::env::temp_dir().join(".tmp");
    let folders = folders.to_string_lossy();
    found.retain(|_, target| !target.starts_with(&*folders));
    found
}

/// Threads of servers that there are in this process.
pub fn server_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.starts_with("ringwire-"))
        .count()
}
