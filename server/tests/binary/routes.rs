//! Routes: what is served where, to whom, and what changes while the server runs.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use ringwire::Address;
use rustix::process::Signal;

use crate::{
    common::{Peer, TEXT, request},
    guard::in_a_folder,
    peer::{Reply, pause, until},
    serve::{ENGINES, Ringwire, command},
};

/// A server of these routes, and the file of them.
pub struct Served {
    path: std::path::PathBuf,
    head: String,
    pub ringwire: Ringwire,
}

impl Served {
    pub fn start(folder: &Path, engine: &str, routes: &str) -> Self {
        Self::start_at(folder, engine, &["127.0.0.1:0"], routes)
    }

    pub fn start_at(folder: &Path, engine: &str, listen: &[&str], routes: &str) -> Self {
        let path = folder.join(format!("{engine}.toml"));
        let head = format!(
            "listen = {listen:?}\nshards = 2\nengine = '{engine}'\nlog = 'debug'\n\
             drain_timeout_ms = 100\n"
        );
        fs::write(&path, format!("{head}{routes}")).unwrap();
        let mut command = command(&["--config", path.to_str().unwrap()]);
        let ringwire = Ringwire::start(&mut command);
        Self {
            path,
            head,
            ringwire,
        }
    }

    pub fn address(&self) -> &Address {
        &self.ringwire.addresses[0]
    }

    /// Has it read these routes, and waits until it says so much.
    pub fn reload(&self, routes: &str, says: &str) {
        fs::write(&self.path, format!("{}{routes}", self.head)).unwrap();
        let before = self.ringwire.log().len();
        self.ringwire.signal(Signal::HUP);
        until(says, || self.ringwire.log()[before..].contains(says));
    }

    /// Ends it. Returns all that it wrote.
    pub fn stop(self) -> String {
        self.ringwire.signal(Signal::TERM);
        let (status, log) = self.ringwire.wait();
        assert!(status.success(), "{log}");
        log
    }
}

/// An opening handshake with more lines.
fn asking(target: &str, lines: &[&str]) -> String {
    let mut more = String::new();
    for line in lines {
        write!(more, "{line}\r\n").unwrap();
    }
    let head = request(target);
    let (first, rest) = head.split_at(head.find("\r\n").unwrap() + 2);
    let hosts = lines.iter().any(|line| line.starts_with("Host: "));
    let rest = rest
        .lines()
        .filter(|line| !(hosts && line.starts_with("Host: ")));
    let rest: Vec<_> = rest.collect();
    format!("{first}{more}{}\r\n", rest.join("\r\n"))
}

/// The head of the answer to an opening handshake with more lines, and who got it.
pub fn asked(address: &Address, target: &str, lines: &[&str]) -> (String, Peer) {
    let mut peer = Peer::connect(address);
    peer.write(asking(target, lines).as_bytes());
    (peer.read_head(), peer)
}

fn status(address: &Address, target: &str, lines: &[&str]) -> u16 {
    let (head, _) = asked(address, target, lines);
    head[9..12].parse().unwrap()
}

fn fetched(address: &Address, method: &str, target: &str) -> Reply {
    let mut peer = Peer::connect(address);
    peer.write(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
    peer.read_reply(method == "HEAD")
}

#[test]
fn requests_take_the_route_of_their_host_and_path() {
    let routes = "
        [[route]]
        path = '/'
        application = 'page'

        [[route]]
        path = '/rooms/{room}'

        [[route]]
        path = '/rooms/count'
        application = 'sink'

        [[route]]
        path = '/healthz'
        application = 'health'

        [[route]]
        host = ['chat.example.com', '*.chat.example.com']
        path = '/{*rest}'
        subprotocols = ['v2', 'v1']
    ";
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, routes);
            let address = served.address();
            for (target, expected) in [
                ("/", 101),
                ("/rooms/7", 101),
                ("/rooms/count", 101),
                ("/rooms", 404),
                ("/rooms/7/8", 404),
                ("/sink", 404),
                ("/healthz", 404),
            ] {
                assert_eq!(status(address, target, &[]), expected, "{target}");
            }
            for (host, expected) in [
                ("chat.example.com", 101),
                ("CHAT.example.com:8080", 101),
                ("eu.chat.example.com", 101),
                ("example.com", 404),
            ] {
                let line = format!("Host: {host}");
                assert_eq!(status(address, "/any/thing", &[&line]), expected, "{host}");
            }
            // What is not there for a host alone is there for every one.
            let host = "Host: chat.example.com";
            assert_eq!(status(address, "/", &[host]), 101);
            Peer::open(address, "/rooms/7").echo("echoed");
            let mut sink = Peer::open(address, "/rooms/count");
            sink.send(TEXT, b"counted");
            sink.send(TEXT, b"stats");
            sink.expect_text("{\"messages\":1,\"payload_bytes\":7}");
            // Of what is offered, the first that is known; or the first of all.
            let offer = "Sec-WebSocket-Protocol: v0, v1, v2";
            let chosen = |head: String| {
                let line = head
                    .lines()
                    .find(|it| it.starts_with("Sec-WebSocket-Protocol"));
                line.map(|line| line.split_once(": ").unwrap().1.to_owned())
            };
            let of = |lines: &[&str]| chosen(asked(address, "/x", lines).0);
            assert_eq!(of(&[host, offer]).as_deref(), Some("v1"));
            assert_eq!(of(&[host]), None);
            assert_eq!(of(&[host, "Sec-WebSocket-Protocol: v9"]), None);
            let of_all = chosen(asked(address, "/rooms/7", &[offer]).0);
            assert_eq!(of_all.as_deref(), Some("v0"));
            for method in ["GET", "HEAD", "OPTIONS"] {
                let reply = fetched(address, method, "/healthz");
                assert_eq!(reply.status, 200, "{method}");
                assert_eq!(reply.header("Cache-Control"), Some("no-store"));
            }
            assert_eq!(fetched(address, "POST", "/healthz").status, 405);
            assert_eq!(fetched(address, "GET", "/rooms/7").status, 426);
            assert_eq!(fetched(address, "GET", "/nowhere").status, 404);
            let page = fetched(address, "GET", "/");
            let content_type = page.header("Content-Type");
            assert_eq!(content_type, Some("text/html; charset=utf-8"));
            served.stop();
        });
    }
}

#[test]
fn a_route_has_limits_of_its_own() {
    let routes = "
        compress = true
        [[route]]
        path = '/small'
        message_bytes_max = 10
        connections_max = 2
        compress = false

        [[route]]
        path = '/'
    ";
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, routes);
            let address = served.address();
            let mut small = Peer::open(address, "/small");
            small.echo("ten bytes.");
            let mut other = Peer::open(address, "/small");
            other.echo("second");
            // There are no more seats, until somebody leaves.
            assert_eq!(status(address, "/small", &[]), 503);
            assert_eq!(status(address, "/", &[]), 101);
            small.send(TEXT, b"eleven byte");
            small.expect_close(1009);
            drop(small);
            until("a seat is free", || status(address, "/small", &[]) == 101);
            other.echo("still here");
            let mut large = Peer::open(address, "/");
            large.echo(&"x".repeat(100_000));
            let offer = "Sec-WebSocket-Extensions: permessage-deflate";
            let agrees = |target| {
                let (head, _) = asked(address, target, &[offer]);
                assert!(head.starts_with("HTTP/1.1 101"), "{head}");
                head.contains("Sec-WebSocket-Extensions: permessage-deflate")
            };
            until("the seat is free again", || {
                drop(Peer::connect(address));
                status(address, "/small", &[]) == 101
            });
            until("it agrees to none", || {
                let (head, _) = asked(address, "/small", &[offer]);
                head.starts_with("HTTP/1.1 101") && !head.contains("permessage-deflate")
            });
            assert!(agrees("/"));
            served.stop();
        });
    }
}

#[test]
fn who_says_more_in_a_second_than_is_allowed_is_closed() {
    let routes = "
        [[route]]
        path = '/slow'
        messages_per_second_max = 5
        bytes_per_second_max = 1000

        [[route]]
        path = '/sink'
        application = 'sink'
        messages_per_second_max = 5

        [[route]]
        path = '/'
    ";
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, routes);
            let address = served.address();
            let mut talks = Peer::open(address, "/slow");
            for _ in 0..5 {
                talks.echo("one of five");
            }
            talks.send(TEXT, b"one too many");
            assert!(
                talks
                    .expect_close(1008)
                    .starts_with("more messages or bytes")
            );
            let mut long = Peer::open(address, "/slow");
            long.echo(&"x".repeat(900));
            long.send(TEXT, &[b'x'; 200]);
            long.expect_close(1008);
            let mut counted = Peer::open(address, "/sink");
            for _ in 0..6 {
                counted.send(TEXT, b"counted");
            }
            counted.expect_close(1008);
            // Slow and steady passes, and others are not limited.
            let mut steady = Peer::open(address, "/slow?encoding=binary");
            let mut free = Peer::open(address, "/");
            for _ in 0..8 {
                pause(220);
                steady.send(TEXT, b"steady");
                assert_eq!(steady.read_message().payload, b"steady");
                for _ in 0..20 {
                    free.echo("as often as it likes");
                }
            }
            served.stop();
        });
    }
}

#[test]
fn routes_change_and_nobody_is_dropped_for_it() {
    let first = "[[route]]\npath = '/old'\nconnections_max = 1\n";
    let second = "allow_origin = 'https://a.example'\nlog = 'info'\n\
                  [[route]]\npath = '/old'\nconnections_max = 1\n[[route]]\npath = '/new'\n";
    for engine in ENGINES {
        in_a_folder(|folder| {
            let served = Served::start(folder, engine, first);
            let address = served.address();
            let mut lasting = Peer::open(address, "/old");
            assert_eq!(status(address, "/new", &[]), 404);
            served.reload(
                "[[route]]\npath = '/new'\n[[route]]\npath = 'x'\n",
                "the settings stay as they were",
            );
            assert!(
                served
                    .ringwire
                    .log()
                    .contains("path is 'x', but it has to begin with /")
            );
            assert_eq!(status(address, "/new", &[]), 404);
            lasting.echo("nothing has changed");
            served.reload(
                &second.replace("log = 'info'\n", ""),
                "route is 2 routes now",
            );
            assert_eq!(status(address, "/new", &[]), 101);
            // Who was there before has the seat.
            assert_eq!(status(address, "/old", &[]), 503);
            let other = "Origin: https://b.example";
            assert_eq!(status(address, "/new", &[other]), 403);
            served.reload("", "route is what is built in now");
            assert_eq!(status(address, "/", &[other]), 101);
            lasting.echo("its route is gone, and it is not");
            lasting.close();
            served.stop();
        });
    }
}

#[test]
fn the_level_of_the_log_changes_while_it_runs() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let path = folder.join("it.toml");
            let write = |level: &str| {
                let text = format!(
                    "listen = '127.0.0.1:0'\nengine = '{engine}'\nlog = '{level}'\n\
                     [[route]]\npath = '/'\nauth = 'token'\nauth_tokens_file = '{}'\n",
                    folder.join("tokens").display()
                );
                fs::write(&path, text).unwrap();
            };
            fs::write(
                folder.join("tokens"),
                "# two of them\nfirst-secret\nsecond-secret\n",
            )
            .unwrap();
            write("info");
            let ringwire = Ringwire::start(&mut command(&["--config", path.to_str().unwrap()]));
            let address = &ringwire.addresses[0];
            let refuse = || assert_eq!(status(address, "/", &[]), 401);
            refuse();
            assert!(!ringwire.log().contains("401: "));
            write("debug");
            ringwire.signal(Signal::HUP);
            until("it says more", || {
                ringwire.log().contains("log is debug now")
            });
            refuse();
            until("it says why", || {
                ringwire.log().contains("401: there is no token")
            });
            write("error");
            ringwire.signal(Signal::HUP);
            until("it says less", || {
                refuse();
                let before = ringwire.log().len();
                refuse();
                ringwire.log().len() == before
            });
            ringwire.signal(Signal::TERM);
            let (status, log) = ringwire.wait();
            assert!(status.success(), "{log}");
        });
    }
}

/// How often settings are read again while clients come, talk and go.
const RELOADS: usize = 1000;

#[test]
fn a_thousand_reloads_drop_nobody() {
    in_a_folder(|folder| {
        let tokens = folder.join("tokens");
        fs::write(&tokens, "token\n").unwrap();
        let variant = |number: usize| {
            let odd = number % 2;
            format!(
                "idle_timeout_ms = {}\naddress_connections_max = {}\n\
                 [[route]]\npath = '/'\nmessage_bytes_max = {}\norigins = 'https://{odd}.example'\n\
                 [[route]]\npath = '/new-{odd}'\napplication = 'sink'\n\
                 [[route]]\npath = '/closed'\nauth = 'token'\nauth_tokens_file = '{}'\n",
                100_000 + number,
                odd * 1000,
                1000 + number,
                tokens.display()
            )
        };
        let served = Served::start(folder, "shard", &variant(0));
        let address = served.address();
        let is_over = AtomicBool::new(false);
        let (comings, echoes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let mut peer = Peer::open(address, "/");
                        peer.echo("came in");
                        peer.close();
                        assert_eq!(status(address, "/closed", &[]), 401);
                        comings.fetch_add(1, Ordering::Relaxed);
                    }
                });
                scope.spawn(|| {
                    let mut peer = Peer::open(address, "/");
                    while !is_over.load(Ordering::Relaxed) {
                        peer.echo("has been here for long");
                        echoes.fetch_add(1, Ordering::Relaxed);
                    }
                    peer.close();
                });
            }
            for number in 1..=RELOADS {
                let idle = in_words(100_000 + number);
                served.reload(&variant(number), &format!("idle_timeout_ms is {idle} now"));
            }
            is_over.store(true, Ordering::Relaxed);
        });
        let (comings, echoes) = (comings.into_inner(), echoes.into_inner());
        assert!(
            comings > RELOADS / 10 && echoes > RELOADS / 10,
            "{comings} {echoes}"
        );
        served.stop();
    });
}

/// A time in milliseconds, as the server says it.
fn in_words(ms: usize) -> String {
    match ms.is_multiple_of(1000) {
        true => format!("{}s", ms / 1000),
        false => format!("{ms}ms"),
    }
}
