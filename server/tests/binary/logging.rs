//! Standard error and standard output as they may be: full, closed, or read by nobody. None of that
//! is a reason for the command to stand still, to end, or to hear no signals.

use std::{
    fs::{self, File, OpenOptions},
    io::{PipeReader, Read, Write},
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread,
};

use rustix::{
    io::ioctl_fionbio,
    pipe::fcntl_setpipe_size,
    process::{Pid, Signal},
};

use crate::{
    common::Peer,
    guard::{guarded, in_a_folder},
    peer::{CLOSE, close_payload, until},
    serve::{ENGINES, LISTEN, Ringwire, command},
};

/// How a TLS client begins.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

fn full() -> OwnedFd {
    let full = OpenOptions::new().write(true).open("/dev/full");
    full.unwrap().into()
}

/// A pipe for 4 KiB, of which the writing end may be filled already.
fn narrow_pipe(is_filled: bool) -> (PipeReader, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    fcntl_setpipe_size(&writer, 4096).unwrap();
    let writer = OwnedFd::from(writer);
    if is_filled {
        let mut file = File::from(writer.try_clone().unwrap());
        ioctl_fionbio(&file, true).unwrap();
        while file.write(&[b'.'; 512]).is_ok() {}
        ioctl_fionbio(&file, false).unwrap();
    }
    (reader, writer)
}

fn serve(engine: &str) -> Command {
    let mut serve = command(&LISTEN);
    serve.args([
        "--engine",
        engine,
        "--log",
        "debug",
        "--drain-timeout-ms",
        "2000",
    ]);
    serve
}

fn is_greeted(line: &str) -> bool {
    line.starts_with("ringwire doctor")
}

/// A connection whose end is a long line of the log.
fn end_with_many_words(ringwire: &Ringwire) {
    let mut peer = Peer::open(&ringwire.addresses[0], "/");
    peer.send(CLOSE, &close_payload(4000, &[1; 123]));
    peer.expect_close(4000);
    peer.expect_end();
}

/// Gives it something to say, and sees that it serves and obeys all the while.
fn provoke(ringwire: Ringwire, engine: &str) {
    let address = ringwire.addresses[0].clone();
    let mut neighbour = Peer::open(&address, "/");
    for _ in 0..3 {
        let mut peer = Peer::connect(&address);
        peer.write(HELLO);
        assert_eq!(peer.read_reply(false).status, 400);
        for _ in 0..20 {
            end_with_many_words(&ringwire);
        }
        ringwire.signal(Signal::HUP);
        neighbour.echo("all is well");
    }
    ringwire.signal(Signal::TERM);
    neighbour.answer_close(1001);
    let (status, _) = ringwire.wait();
    assert_eq!(status.code(), Some(0), "{engine}");
}

#[test]
fn a_full_disk_for_a_log_ends_nothing() {
    guarded(|| {
        for engine in ENGINES {
            let stderr = full().into();
            let ringwire = Ringwire::start_logging_to(&mut serve(engine), stderr, is_greeted);
            provoke(ringwire, engine);
        }
    });
}

#[test]
fn a_log_whose_reader_has_gone_ends_nothing() {
    guarded(|| {
        for engine in ENGINES {
            let (reader, writer) = narrow_pipe(false);
            let ringwire =
                Ringwire::start_logging_to(&mut serve(engine), writer.into(), is_greeted);
            drop(reader);
            provoke(ringwire, engine);
        }
    });
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    guarded(|| {
        for engine in ENGINES {
            let (_reader, writer) = narrow_pipe(false);
            let ringwire =
                Ringwire::start_logging_to(&mut serve(engine), writer.into(), is_greeted);
            provoke(ringwire, engine);
        }
    });
}

#[test]
fn a_log_that_is_closed_is_none_of_the_sockets() {
    in_a_folder(|folder| {
        let path = folder.join("socket");
        let unix = format!("unix:{}", path.display());
        for engine in ENGINES {
            // All three are closed, so that the first sockets would have their numbers.
            let mut closed = Command::new("sh");
            let script = r#"exec "$@" <&- >&- 2>&-"#;
            closed.args(["-c", script, "sh", env!("CARGO_BIN_EXE_ringwire")]);
            closed.args(["--engine", engine, "--listen", &unix, "--log", "debug"]);
            let mut child = closed.spawn().unwrap();
            let is_reached = || std::os::unix::net::UnixStream::connect(&path).is_ok();
            until("it listens", is_reached);
            for number in 0..3 {
                let open = fs::read_link(format!("/proc/{}/fd/{number}", child.id()));
                assert_eq!(open.unwrap().to_str(), Some("/dev/null"));
            }
            let address = unix.parse().unwrap();
            let mut neighbour = Peer::open(&address, "/");
            let mut peer = Peer::connect(&address);
            peer.write(HELLO);
            assert_eq!(peer.read_reply(false).status, 400);
            neighbour.echo("all is well");
            neighbour.close();
            let pid = Pid::from_child(&child);
            rustix::process::kill_process(pid, Signal::TERM).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(0), "{engine}");
        }
    });
}

#[test]
fn lines_that_were_dropped_are_counted_and_said_when_somebody_reads_again() {
    guarded(|| {
        for engine in ENGINES {
            let (mut reader, writer) = narrow_pipe(false);
            let ringwire =
                Ringwire::start_logging_to(&mut serve(engine), writer.into(), is_greeted);
            const COUNT: u64 = 2500;
            for _ in 0..COUNT {
                end_with_many_words(&ringwire);
            }
            let reading = thread::spawn(move || {
                let mut text = String::new();
                reader.read_to_string(&mut text).unwrap();
                text
            });
            // What is said now finds room when the reader has caught up.
            let pid = ringwire.pid();
            until("the queue is short again", || {
                let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
                let name = |path: &std::path::Path| fs::read_to_string(path.join("comm"));
                let log = tasks.map(|task| task.path());
                let log = log.filter(|task| name(task).is_ok_and(|name| name.trim() == "log"));
                let mut waits = log.map(|task| fs::read_to_string(task.join("wchan")));
                waits.any(|wait| wait.is_ok_and(|wait| wait.contains("futex")))
            });
            ringwire.signal(Signal::TERM);
            assert_eq!(ringwire.wait().0.code(), Some(0), "{engine}");
            let text = reading.join().unwrap();
            let written = text.matches("connection closed").count() as u64;
            let said = text
                .lines()
                .filter_map(|line| line.strip_prefix("ringwire: "));
            let numbers = said.filter_map(|line| line.split(' ').next()?.parse::<u64>().ok());
            let dropped: u64 = numbers.sum();
            assert!(dropped > 0, "all of {written} lines were written");
            assert_eq!(written + dropped, COUNT, "{engine}");
            assert!(text.contains("stopping"), "the last lines are written");
        }
    });
}

#[test]
fn a_greeting_that_nobody_takes_keeps_nobody_waiting() {
    in_a_folder(|folder| {
        let path = folder.join("socket");
        let unix = format!("unix:{}", path.display());
        for engine in ENGINES {
            let (_reader, writer) = narrow_pipe(true);
            let stderr = File::create(folder.join("log")).unwrap();
            let mut serve = command(&["--engine", engine, "--listen", &unix]);
            let mut child = serve.stdout(writer).stderr(stderr).spawn().unwrap();
            drop(serve);
            let is_reached = || std::os::unix::net::UnixStream::connect(&path).is_ok();
            until("it listens", is_reached);
            let mut peer = Peer::open(&unix.parse().unwrap(), "/");
            peer.echo("hello");
            let pid = Pid::from_child(&child);
            rustix::process::kill_process(pid, Signal::TERM).unwrap();
            peer.answer_close(1001);
            assert_eq!(child.wait().unwrap().code(), Some(0), "{engine}");
        }
    });
}

#[test]
fn what_it_complains_of_in_vain_ends_it_with_the_status_that_says_so() {
    let cases: [(&[&str], i32); 5] = [
        (&["--listen", "localhost"], 2),
        (&["--listen", "unix:/nowhere/at/all"], 1),
        (&["--no-such-option"], 2),
        (&["--listen"], 2),
        (&["dance"], 2),
    ];
    guarded(|| {
        for (arguments, expected) in cases {
            let end = |stderr: Stdio| {
                let mut command = command(arguments);
                let child = command.stdout(Stdio::null()).stderr(stderr).spawn();
                child.unwrap().wait().unwrap().code()
            };
            assert_eq!(end(full().into()), Some(expected), "{arguments:?}");
            let (reader, writer) = narrow_pipe(false);
            drop(reader);
            assert_eq!(end(writer.into()), Some(expected), "{arguments:?}");
            let mut closed = Command::new("sh");
            closed.args([
                "-c",
                r#"exec "$@" 2>&-"#,
                "sh",
                env!("CARGO_BIN_EXE_ringwire"),
            ]);
            let status = closed.args(arguments).status().unwrap();
            assert_eq!(status.code(), Some(expected), "{arguments:?}");
        }
        // A pipe that nobody reads: the server's own complaint does not wait for ever.
        let (_reader, writer) = narrow_pipe(true);
        let mut complaining = command(cases[0].0);
        let status = complaining.stderr(writer).status().unwrap();
        assert_eq!(status.code(), Some(2));
    });
}

#[test]
fn what_it_prints_in_vain_is_no_panic() {
    guarded(|| {
        for arguments in [
            &["--help"][..],
            &["--version"],
            &["doctor"],
            &["doctor", "--json"],
        ] {
            let output = command(arguments).stdout(full()).output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(!stderr.contains("panicked"), "{arguments:?} {stderr}");
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 1)), "{arguments:?} {code:?}");
        }
    });
}
