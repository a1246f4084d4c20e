//! The `ringwire` command as a person or a service manager has it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use ringwire::Address;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    article::{ARTICLES_REQUEST, expect_articles_response},
    common::{Peer, request},
    draft::open_at,
    guard::{guarded, in_a_folder},
    peer::{CLOSE, close_payload, pause, until},
    ports::{free_port, has_ipv6, reachable},
};

/// A running `ringwire`.
pub struct Ringwire {
    child: Child,
    pub addresses: Vec<Address>,
    pub tls_addresses: Vec<Address>,
    pub admin: Vec<Address>,
    log: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Ringwire {
    /// Starts `command`, which becomes ringwire, and waits until it says where it is.
    pub fn start(command: &mut Command) -> Self {
        Self::start_until(command, |line| line.starts_with("ringwire doctor"))
    }

    /// As [`start`](Self::start), for a command that says something else after its addresses.
    pub fn start_until(command: &mut Command, is_last: impl Fn(&str) -> bool) -> Self {
        Self::start_logging_to(command, Stdio::piped(), is_last)
    }

    /// As [`start_until`](Self::start_until), with another standard error, whose log is not read.
    pub fn start_logging_to(
        command: &mut Command,
        stderr: Stdio,
        is_last: impl Fn(&str) -> bool,
    ) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        // The command has its own by now; what it keeps for others would keep a pipe open.
        command.stderr(Stdio::null());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let reading = child.stderr.take().map(|stderr| {
            let written = log.clone();
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    *written.lock().unwrap() += &(line + "\n");
                }
            })
        });
        let mut ringwire = Self {
            child,
            addresses: Vec::new(),
            tls_addresses: Vec::new(),
            admin: Vec::new(),
            log,
            readers: reading.into_iter().collect(),
        };
        let mut line = String::new();
        while stdout.read_line(&mut line).unwrap() > 0 {
            let address = match line.trim().strip_suffix('/') {
                Some(url) if url.starts_with("wss://") => {
                    ringwire.tls_addresses.extend(url[6..].parse::<Address>());
                    String::new()
                }
                Some(url) if url.starts_with("ws://") => url[5..].to_owned(),
                Some(url) if url.starts_with("ws+unix:") => {
                    format!("unix:{}", url[8..].trim_end_matches(':'))
                }
                _ => String::new(),
            };
            if let Some(admin) = line.trim().strip_prefix("Admin side at ") {
                let address = admin.trim_start_matches("http://").trim_end_matches('/');
                ringwire.admin.extend(address.parse::<Address>());
            }
            ringwire.addresses.extend(address.parse::<Address>());
            if is_last(&line) {
                break;
            }
            line.clear();
        }
        let nowhere = ringwire.addresses.is_empty() && ringwire.tls_addresses.is_empty();
        assert!(!nowhere, "{}", ringwire.log());
        ringwire.readers.push(thread::spawn(move || {
            let _ = stdout.read_to_end(&mut Vec::new());
        }));
        ringwire
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Ends it as nothing that it could prepare for.
    pub fn kill(&mut self) {
        // Does nothing to one that has ended.
        let _ = self.child.kill();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, String) {
        let mut status = None;
        until("ringwire ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        (status.unwrap(), self.log())
    }
}

impl Drop for Ringwire {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// The engines that the command has.
pub const ENGINES: &[&str] = &[
    "shard",
    #[cfg(feature = "aio")]
    "async",
];

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(arguments);
    command
}

pub const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

#[test]
fn it_says_where_it_is_and_serves() {
    in_a_folder(|folder| {
        let path = folder.join("socket");
        let unix = format!("unix:{}", path.display());
        for first in [&["serve"][..], &[]] {
            let mut arguments = first.to_vec();
            arguments.extend(LISTEN);
            arguments.extend(["--listen", &unix, "--shards", "2"]);
            let ringwire = Ringwire::start(&mut command(&arguments));
            assert_eq!(ringwire.addresses.len(), 2, "{:?}", ringwire.addresses);
            for address in &ringwire.addresses {
                let mut peer = Peer::open(address, "/");
                peer.echo("hello");
                peer.close();
            }
            ringwire.signal(Signal::TERM);
            let (status, log) = ringwire.wait();
            assert!(
                status.success() && log.contains("stopping"),
                "{status} {log}"
            );
            assert!(!path.exists(), "the path is removed");
        }
    });
}

#[test]
fn options_let_in_legacy_clients_and_welcome_pages_alone() {
    guarded(|| {
        let options = [
            ("--server-header", "Kaazing Gateway"),
            ("--compat", "kaazing"),
            ("--allow-origin", "http://websocket.org"),
            ("--allow-origin", "/sink=same-origin"),
        ];
        let mut arguments = LISTEN.to_vec();
        arguments.extend(options.iter().flat_map(|(name, value)| [name, value]));
        arguments.push("--legacy-hixie76");
        let ringwire = Ringwire::start(&mut command(&arguments));
        let address = &ringwire.addresses[0];
        let mut peer = Peer::connect(address);
        peer.write(ARTICLES_REQUEST.as_bytes());
        expect_articles_response(&peer.read_head());
        peer.echo("as in 2012");
        peer.close();
        // The list of a path stands in place of that of all.
        for (target, origin, status) in [
            ("/", "http://evil.net", 403),
            ("/", "http://server.example.com", 403),
            ("/sink", "http://websocket.org", 403),
            ("/sink", "http://server.example.com", 101),
        ] {
            let mut peer = Peer::connect(address);
            let line = format!("Version: 13\r\nOrigin: {origin}");
            let head = request(target).replacen("Version: 13", &line, 1);
            peer.write(head.as_bytes());
            let answer = peer.read_head();
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{target} {origin} {answer}");
        }
        let mut peer = open_at(address, "http://websocket.org");
        peer.draft_echo("as in 2010");
        peer.draft_close();
        ringwire.signal(Signal::TERM);
        assert_eq!(ringwire.wait().0.code(), Some(0));
    });
}

#[test]
fn signals_drain_and_end_it_well() {
    guarded(|| {
        for signal in [Signal::TERM, Signal::INT] {
            let ringwire = Ringwire::start(&mut command(&LISTEN));
            let peers: Vec<_> = (0..20)
                .map(|_| Peer::open(&ringwire.addresses[0], "/"))
                .collect();
            ringwire.signal(signal);
            for peer in peers {
                peer.answer_close(1001);
            }
            let (status, log) = ringwire.wait();
            assert_eq!(status.code(), Some(0), "{log}");
        }
    });
}

#[test]
fn a_hangup_without_certificates_is_said_and_ends_nothing() {
    guarded(|| {
        for engine in ENGINES {
            let mut arguments = LISTEN.to_vec();
            arguments.extend(["--engine", engine]);
            let ringwire = Ringwire::start(&mut command(&arguments));
            let mut peer = Peer::open(&ringwire.addresses[0], "/");
            for times in 1..=2 {
                ringwire.signal(Signal::HUP);
                let said = || {
                    ringwire
                        .log()
                        .matches("the settings are what they were")
                        .count()
                };
                until("the signal is heard", || said() == times);
                peer.echo("still here");
            }
            ringwire.signal(Signal::TERM);
            peer.answer_close(1001);
            let (status, log) = ringwire.wait();
            assert_eq!(status.code(), Some(0), "{log}");
        }
    });
}

#[test]
fn a_unix_path_is_the_new_servers_while_the_old_one_drains() {
    in_a_folder(|folder| {
        let path = folder.join("socket");
        let unix = format!("unix:{}", path.display());
        for engine in ENGINES {
            let start = || {
                let arguments = ["--listen", &unix, "--engine", engine];
                Ringwire::start(&mut command(&arguments))
            };
            let old = start();
            let mut stays = Peer::open(&old.addresses[0], "/");
            old.signal(Signal::TERM);
            stays.expect_close(1001);
            until("the old one has left the path", || !path.exists());
            let new = start();
            Peer::open(&new.addresses[0], "/").close();
            stays.send(CLOSE, &close_payload(1001, b""));
            stays.expect_end();
            assert_eq!(old.wait().0.code(), Some(0));
            Peer::open(&new.addresses[0], "/").close();
            new.signal(Signal::TERM);
            assert_eq!(new.wait().0.code(), Some(0));
            assert!(!path.exists(), "the path is removed");
        }
    });
}

#[test]
fn a_server_that_was_killed_leaves_its_addresses_to_the_next() {
    in_a_folder(|folder| {
        let unix = format!("unix:{}", folder.join("socket").display());
        for engine in ENGINES {
            let mut tcp = "127.0.0.1:0".to_owned();
            for _ in 0..5 {
                let start = |tcp: &str| {
                    let arguments = ["--listen", tcp, "--listen", &unix, "--engine", engine];
                    Ringwire::start(&mut command(&arguments))
                };
                let mut server = start(&tcp);
                // At the port that the first one was given.
                tcp = server.addresses[0].to_string();
                let mut peers: Vec<_> = server
                    .addresses
                    .iter()
                    .flat_map(|address| (0..5).map(move |_| Peer::open(address, "/")))
                    .collect();
                for peer in &mut peers {
                    peer.echo("served");
                }
                // Nobody waits for its end: the next one starts at once.
                server.kill();
                let next = start(&tcp);
                for address in &next.addresses {
                    Peer::open(address, "/").echo("served again");
                }
                next.signal(Signal::TERM);
                let (status, log) = next.wait();
                assert!(status.success(), "{log}");
                server.wait();
            }
        }
    });
}

#[test]
fn both_families_are_listened_on_at_one_port_in_any_order() {
    if !has_ipv6() {
        return;
    }
    guarded(|| {
        let families = [
            ("0.0.0.0", "[::]"),
            ("127.0.0.1", "[::1]"),
            ("0.0.0.0", "[::1]"),
            ("127.0.0.1", "[::]"),
        ];
        for engine in ENGINES {
            for (four, six) in families {
                for order in [[four, six], [six, four]] {
                    let port = free_port();
                    let listen = order.map(|host| format!("{host}:{port}"));
                    let mut arguments = vec!["--engine", engine];
                    arguments.extend(listen.iter().flat_map(|it| ["--listen", it]));
                    let ringwire = Ringwire::start(&mut command(&arguments));
                    for address in listen {
                        Peer::open(&reachable(&address), "/").close();
                    }
                    ringwire.signal(Signal::TERM);
                    assert_eq!(ringwire.wait().0.code(), Some(0));
                }
            }
        }
    });
}

#[test]
fn a_second_signal_ends_it_at_once() {
    guarded(|| {
        let ringwire = Ringwire::start(&mut command(&LISTEN));
        let mut peer = Peer::open(&ringwire.addresses[0], "/");
        ringwire.signal(Signal::TERM);
        // It does not answer: draining would take until the closing handshake times out.
        peer.expect_close(1001);
        // Soon after, it is the same one.
        ringwire.signal(Signal::TERM);
        pause(700);
        let asked = Instant::now();
        ringwire.signal(Signal::INT);
        let (status, log) = ringwire.wait();
        assert_eq!(status.code(), Some(130), "{log}");
        assert!(
            asked.elapsed() < Duration::from_secs(4),
            "{:?}",
            asked.elapsed()
        );
        peer.expect_gone();
    });
}

#[test]
fn a_drain_timeout_is_kept() {
    guarded(|| {
        let mut arguments = LISTEN.to_vec();
        arguments.extend(["--drain-timeout-ms", "300"]);
        let ringwire = Ringwire::start(&mut command(&arguments));
        let mut peer = Peer::open(&ringwire.addresses[0], "/");
        let asked = Instant::now();
        ringwire.signal(Signal::TERM);
        let (status, log) = ringwire.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        let elapsed = asked.elapsed();
        let bounds = Duration::from_millis(300)..Duration::from_secs(4);
        assert!(bounds.contains(&elapsed), "{elapsed:?}");
        peer.expect_close(1001);
        peer.expect_end();
    });
}

/// The output of a ringwire that ends by itself.
pub fn output(arguments: &[&str]) -> (Output, String, String) {
    let output = command(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    (output, stdout, stderr)
}

#[test]
fn help_names_the_limits_and_ends_well() {
    guarded(|| {
        let (output, stdout, _) = output(&["--help"]);
        assert!(output.status.success());
        assert!(
            stdout.contains("serve") && stdout.contains("doctor"),
            "{stdout}"
        );
        let (output, stdout, _) = self::output(&["serve", "--help"]);
        assert!(output.status.success());
        for option in [
            "--allow-origin",
            "--compat",
            "--legacy-hixie76",
            "--listen",
            "--idle-timeout-ms",
            "--message-bytes-max",
            "--shards",
        ] {
            assert!(stdout.contains(option), "{option} is missing in {stdout}");
        }
        let (output, stdout, _) = self::output(&["--version"]);
        let version = format!("ringwire {}\n", env!("CARGO_PKG_VERSION"));
        assert!(output.status.success() && stdout == version, "{stdout}");
    });
}

#[test]
fn what_it_cannot_do_it_says_in_one_sentence() {
    guarded(|| {
        let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let busy_address = busy.local_addr().unwrap().to_string();
        for (arguments, code, expected) in [
            (
                &["--listen", "localhost"][..],
                2,
                "'localhost' is not an address",
            ),
            (
                &["--listen", &busy_address],
                1,
                "another process listens there",
            ),
            (
                &["--listen", "127.0.0.1:0", "--recv-buffers", "3"],
                2,
                "--recv-buffers is 3, but it has to be a power of two",
            ),
            (
                &["--listen", "127.0.0.1:0", "--queue-low-bytes", "99999999"],
                2,
                "--queue-low-bytes is 99999999, but it has to be from 0 to 1MiB, which is \
                 queue_high_bytes",
            ),
            (
                &["--listen", "127.0.0.1:0", "--shards", "many"],
                2,
                "--shards is 'many', but it has to be a number from 0 to 1024",
            ),
            (
                &["--listen", "127.0.0.1:0", "--idle-timeout-ms", "2073600001"],
                2,
                "--idle-timeout-ms is '2073600001', but it has to be a number of milliseconds or a \
                 time such as 30s, from 0 to 24d",
            ),
        ] {
            let (output, stdout, stderr) = output(arguments);
            assert_eq!(output.status.code(), Some(code), "{stderr}");
            assert_eq!(stdout, "");
            let sentence = stderr
                .strip_prefix("ringwire: ")
                .unwrap_or_else(|| panic!("{stderr}"));
            assert!(sentence.contains(expected), "{stderr}");
            assert_eq!(sentence.lines().count(), 1, "{stderr}");
        }
        for (arguments, expected) in [
            (
                &["--no-such-option"][..],
                "unexpected argument '--no-such-option'",
            ),
            (
                &["--shards", "many"],
                "--shards is 'many', but it has to be a number",
            ),
            (
                &["--allow-origin", "example.com"],
                "'example.com' is not an origin; write scheme://host",
            ),
            (
                &["--compat", "netscape"],
                "--compat is 'netscape', but it has to be kaazing",
            ),
            (&["dance"], "unrecognized subcommand 'dance'"),
        ] {
            let (output, _, stderr) = output(arguments);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(expected), "{stderr}");
        }
    });
}

#[test]
fn a_reader_of_its_output_that_goes_away_does_not_end_it() {
    guarded(|| {
        let mut ringwire = Ringwire::start(&mut command(&LISTEN));
        // The threads that read end with the pipes; the server is asked to write meanwhile.
        let mut peer = Peer::open(&ringwire.addresses[0], "/");
        peer.echo("hello");
        ringwire.signal(Signal::TERM);
        peer.expect_close(1001);
        peer.send(CLOSE, &close_payload(1001, b""));
        peer.expect_end();
        until("it has ended", || {
            ringwire.child.try_wait().unwrap().is_some()
        });
        assert_eq!(ringwire.wait().0.code(), Some(0));
    });
}
