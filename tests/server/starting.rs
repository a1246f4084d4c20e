//! Starts that the host lets fail half way: nothing is left of them.
//!
//! Limits are a process's own, and root has none on threads: so each of these tests runs once more,
//! as another process of somebody else.

use std::{env, fs, net::TcpListener, os::unix::process::CommandExt, process::Command, thread};

use ringwire::{RingKind, StartError, service::Echo};
use rustix::process::{Resource, Rlimit, getrlimit, getuid, setrlimit};

use crate::guard::{guarded, server_threads};
use crate::host::ring;

const SHARDS: usize = 4;

/// Set for the process that the limits are for.
const INSIDE: &str = "RINGWIRE_TEST_LIMITED";

/// Nobody has this number, and so no threads either: for each ring another, whose tests run at the
/// same time.
fn somebody_else() -> u32 {
    match ring() {
        RingKind::Epoll => 54_322,
        _ => 54_321,
    }
}

/// Runs `body` in a process of its own, which runs the test `name` for that.
fn limited(name: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    guarded(|| {
        let mut again = Command::new(env::current_exe().unwrap());
        again.args(["--exact", name, "--nocapture", "--test-threads=1"]);
        again.env(INSIDE, "1");
        if getuid().is_root() {
            again.uid(somebody_else()).gid(somebody_else());
        }
        let output = again.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{stdout}\n{stderr}");
        assert!(stdout.contains("1 passed"), "{stdout}");
    });
}

fn limit(resource: Resource, count: u64) {
    let maximum = getrlimit(resource).maximum;
    let current = Some(count);
    setrlimit(resource, Rlimit { current, maximum }).unwrap();
}

fn descriptors() -> usize {
    // The one that lists them is not counted.
    fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// What a start came to: an engine's server, stopped and joined, or the error.
type Start = fn(&str) -> Result<(), StartError>;

fn shards(address: &str) -> Result<(), StartError> {
    let builder = crate::host::builder().listen(address).shards(SHARDS);
    let server = builder.pinned(false).start(|_| Echo)?;
    server.handle().stop();
    server.join()
}

#[cfg(feature = "aio")]
fn runtimes(address: &str) -> Result<(), StartError> {
    let builder = ringwire::aio::Server::builder().listen(address);
    let server = builder.threads(SHARDS).pinned(false).start(Echo)?;
    server.handle().stop();
    server.join()
}

const STARTS: &[Start] = &[
    shards,
    #[cfg(feature = "aio")]
    runtimes,
];

/// Those that the ring that was chosen makes a difference to: an async runtime has its own.
fn starts() -> &'static [Start] {
    match ring() {
        RingKind::Epoll => &STARTS[..1],
        _ => STARTS,
    }
}

/// Tries with a limit that is larger each time, from `least` on, until it is enough. Returns the
/// errors before that.
fn until_enough(resource: Resource, least: u64, start: Start) -> Vec<StartError> {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let before = descriptors();
    let unlimited = getrlimit(resource).current;
    let mut errors = Vec::new();
    loop {
        limit(resource, least + errors.len() as u64);
        let started = start(&address);
        setrlimit(
            resource,
            Rlimit {
                current: unlimited,
                ..getrlimit(resource)
            },
        )
        .unwrap();
        // A thread that was joined is listed for a moment more.
        crate::peer::until("its threads are gone", || server_threads() == 0);
        assert_eq!(descriptors(), before, "{started:?}");
        drop(TcpListener::bind(&address).expect("nobody listens"));
        match started {
            Ok(()) => return errors,
            Err(error) => errors.push(error),
        }
        assert!(errors.len() < 1000, "{errors:?}");
    }
}

/// The least limit with which one thread more can be started.
fn room_for_a_thread() -> u64 {
    (1..)
        .find(|&count| {
            limit(Resource::Nproc, count);
            let thread = thread::Builder::new().spawn(|| {});
            thread.map(|thread| thread.join().unwrap()).is_ok()
        })
        .unwrap()
}

#[test]
fn a_start_that_gets_too_few_threads_leaves_none() {
    limited(
        "starting::a_start_that_gets_too_few_threads_leaves_none",
        || {
            for &start in starts() {
                let unlimited = getrlimit(Resource::Nproc);
                let one_more = room_for_a_thread();
                setrlimit(Resource::Nproc, unlimited).unwrap();
                let errors = until_enough(Resource::Nproc, one_more - 1, start);
                assert!(errors.len() >= SHARDS, "{errors:?}");
                for error in errors {
                    assert!(matches!(error, StartError::Thread(_)), "{error}");
                    assert!(error.to_string().contains("ulimit -u"), "{error}");
                }
            }
        },
    );
}

#[test]
fn a_start_that_gets_too_few_descriptors_leaves_none() {
    limited(
        "starting::a_start_that_gets_too_few_descriptors_leaves_none",
        || {
            for &start in starts() {
                let least = descriptors() as u64;
                let errors = until_enough(Resource::Nofile, least, start);
                let refused = |error: &StartError| match error {
                    StartError::Unavailable(_) => true,
                    StartError::Ring { .. } => ring() == RingKind::Epoll,
                    _ => false,
                };
                let count = errors.iter().filter(|error| refused(error)).count();
                let says_what_to_do = |error: &&StartError| error.to_string().contains("ulimit -n");
                assert_eq!(errors.iter().filter(says_what_to_do).count(), errors.len());
                assert!(count > 0, "{errors:?}");
            }
        },
    );
}

#[cfg(feature = "aio")]
#[test]
fn a_bridge_that_gets_no_thread_takes_no_requests() {
    use ringwire::{
        ConnId,
        aio::bridge::{self, Limits, Refused, Request},
        conn::Key,
    };

    limited(
        "starting::a_bridge_that_gets_no_thread_takes_no_requests",
        || {
            let builder = crate::host::builder().listen("127.0.0.1:0").shards(1);
            let server = builder.start(|_| Echo).unwrap();
            let before = descriptors();
            let (sender, bridge) = bridge::new::<String>(Limits::default()).unwrap();
            let id = ConnId::new(
                0,
                Key {
                    slot: 0,
                    generation: 0,
                },
            );
            sender.try_send(id, "before".to_owned()).unwrap();
            let unlimited = getrlimit(Resource::Nproc);
            limit(Resource::Nproc, room_for_a_thread() - 1);
            let started = bridge.start(server.handle(), async |_: Request<String>| {});
            setrlimit(Resource::Nproc, unlimited).unwrap();
            assert!(matches!(started, Err(StartError::Thread(_))), "{started:?}");
            let refused = sender.try_send(id, "after".to_owned());
            assert_eq!(refused, Err(Refused::Stopped("after".to_owned())));
            assert_eq!(sender.counts().abandoned, 1);
            assert_eq!(descriptors(), before);
            server.handle().stop();
            server.join().unwrap();
            crate::peer::until("its threads are gone", || server_threads() == 0);
        },
    );
}
