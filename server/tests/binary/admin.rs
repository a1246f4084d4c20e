//! The admin side, as a person on call and the programs that watch have it.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use ringwire::Address;
use rustix::process::Signal;

use crate::{
    common::{PATIENCE, Peer, TEXT},
    guard::{guarded, in_a_folder},
    peer::{CLOSE, close_payload, pause, until},
    serve::{ENGINES, LISTEN, Ringwire, command, output},
};

const ADMIN: &[&str] = &[
    "--admin-listen",
    "127.0.0.1:0",
    "--shards",
    "2",
    "--close-timeout-ms",
    "100",
];

/// An answer of the admin side.
pub struct Reply {
    pub status: u16,
    head: String,
    pub body: String,
}

/// Asks with more lines in the head, each with its end, and a body.
pub fn ask_with(admin: &Address, method_and_path: &str, lines: &str, body: &str) -> Reply {
    let mut peer = Peer::connect(admin);
    let length = match body.len() {
        0 => String::new(),
        len => format!("Content-Length: {len}\r\n"),
    };
    let head = format!(
        "{method_and_path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}{length}\r\n"
    );
    peer.write(head.as_bytes());
    peer.write(body.as_bytes());
    let head = peer.read_head();
    let mut body = peer.pending[peer.start..].to_vec();
    peer.stream.read_to_end(&mut body).unwrap();
    Reply {
        status: head[9..12].parse().unwrap(),
        head,
        body: String::from_utf8(body).unwrap(),
    }
}

fn ask(admin: &Address, method_and_path: &str) -> Reply {
    ask_with(admin, method_and_path, "", "")
}

/// Every series, by its name with its labels.
pub fn metrics(admin: &Address) -> BTreeMap<String, f64> {
    let reply = ask(admin, "GET /metrics");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let lines = reply.body.lines().filter(|line| !line.starts_with('#'));
    let series = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    series.collect()
}

/// The sum over all shards.
pub fn sum(metrics: &BTreeMap<String, f64>, name: &str) -> f64 {
    let of = |series: &str| series.split_once('{').map_or(series, |(name, _)| name) == name;
    assert!(metrics.keys().any(|series| of(series)), "no {name}");
    let found = metrics.iter().filter(|(series, _)| of(series));
    found.map(|(_, value)| value).sum()
}

fn start(engine: &str, more: &[&str]) -> (Ringwire, Address) {
    let mut command = command(&LISTEN);
    command.args(ADMIN).args(["--engine", engine]).args(more);
    let ringwire = Ringwire::start(&mut command);
    let admin = ringwire.admin[0].clone();
    (ringwire, admin)
}

pub fn stop(ringwire: Ringwire) -> String {
    ringwire.signal(Signal::TERM);
    let (status, log) = ringwire.wait();
    assert!(status.success(), "{log}");
    log
}

#[test]
fn the_counts_are_what_was_sent_and_received() {
    for engine in ENGINES {
        guarded(|| {
            let traced: &[&str] = match *engine {
                "shard" => &["--trace-stages"],
                _ => &[],
            };
            let (ringwire, admin) = start(engine, traced);
            let payloads = [1, 125, 126, 1_000, 70_000].map(|len| vec![b'x'; len]);
            let mut peers: Vec<_> = (0..4)
                .map(|_| Peer::open(&ringwire.addresses[0], "/"))
                .collect();
            for peer in &mut peers {
                for payload in &payloads {
                    peer.send(TEXT, payload);
                    assert_eq!(peer.read_frame().payload, *payload);
                }
                // Several short ones in one piece are counted together.
                let piece: Vec<u8> = (0..50)
                    .flat_map(|_| crate::common::masked(TEXT, b"twenty bytes of text"))
                    .collect();
                peer.write(&piece);
                for _ in 0..50 {
                    assert_eq!(peer.read_frame().payload.len(), 20);
                }
            }
            let bytes: usize = payloads.iter().map(Vec::len).sum::<usize>() + 50 * 20;
            let (messages, bytes) = (4.0 * 55.0, 4.0 * bytes as f64);
            until("all is counted", || {
                sum(&metrics(&admin), "ringwire_messages_sent_total") == messages
            });
            let all = metrics(&admin);
            let of = |name: &str| sum(&all, name);
            assert_eq!(of("ringwire_messages_received_total"), messages);
            assert_eq!(of("ringwire_payload_received_bytes_total"), bytes);
            assert_eq!(of("ringwire_payload_sent_bytes_total"), bytes);
            assert_eq!(of("ringwire_connections_open"), 4.0);
            assert_eq!(of("ringwire_handshakes_total"), 4.0);
            assert_eq!(of("ringwire_handshake_seconds_count"), 4.0);
            assert_eq!(of("ringwire_message_received_bytes_count"), messages);
            assert_eq!(of("ringwire_message_received_bytes_sum"), bytes);
            let up_to = |bound: &str| {
                let has = |series: &&String| {
                    series.starts_with("ringwire_message_received_bytes_bucket")
                        && series.contains(&format!("le=\"{bound}\""))
                };
                let found = all.keys().filter(has);
                found.map(|series| all[series]).sum::<f64>()
            };
            assert_eq!(up_to("125"), 4.0 * 52.0, "{:#?}", all.keys());
            assert_eq!(up_to("1024"), 4.0 * 54.0);
            assert_eq!(up_to("+Inf"), messages);
            assert_eq!(of("ringwire_ready"), 1.0);
            assert_eq!(of("ringwire_shard_stalled"), 0.0);
            assert!(of("ringwire_memory_limit_bytes") > of("ringwire_memory_held_bytes"));
            assert!(of("process_open_fds") > 4.0 && of("process_cpu_seconds_total") >= 0.0);
            if *engine == "shard" {
                assert!(of("ringwire_turn_seconds_count") > 0.0);
                until("a message was followed", || {
                    for peer in &mut peers {
                        peer.send(TEXT, b"x");
                        peer.read_frame();
                    }
                    sum(&metrics(&admin), "ringwire_stage_taken_seconds_count") > 0.0
                });
            }
            stop(ringwire);
        });
    }
}

#[test]
fn metrics_come_in_both_of_prometheus_formats() {
    guarded(|| {
        let (ringwire, admin) = start("shard", &[]);
        let text = ask(&admin, "GET /metrics");
        assert!(
            text.head.contains("text/plain; version=0.0.4"),
            "{}",
            text.head
        );
        assert!(!text.body.contains("# EOF"));
        let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
        let open = ask_with(&admin, "GET /metrics", accept, "");
        assert!(
            open.head.contains("application/openmetrics-text"),
            "{}",
            open.head
        );
        assert!(open.body.ends_with("# EOF\n") && open.body.matches("# EOF").count() == 1);
        for reply in [text, open] {
            let types = reply
                .body
                .lines()
                .filter(|line| line.starts_with("# TYPE "));
            let mut names: Vec<&str> = types.collect();
            let count = names.len();
            assert!(count > 50, "{count}");
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "a name twice");
        }
        stop(ringwire);
    });
}

#[test]
fn a_drain_is_even_and_nobody_is_cut_off() {
    for engine in ENGINES {
        guarded(|| {
            let spread = ["--drain-spread-ms", "2s", "--set", "drain_code=1012"];
            let (ringwire, admin) = start(engine, &spread);
            assert_eq!(ask(&admin, "GET /readyz").status, 200);
            let mut peers: Vec<_> = (0..200)
                .map(|_| Peer::open(&ringwire.addresses[0], "/"))
                .collect();
            let open = || sum(&metrics(&admin), "ringwire_connections_open") == 200.0;
            until("all are counted", open);
            ringwire.signal(Signal::TERM);
            until("it is not ready", || {
                ask(&admin, "GET /readyz").status == 503
            });
            assert_eq!(ask(&admin, "GET /healthz").status, 200);
            let began = Instant::now();
            let reading: Vec<_> = peers
                .drain(..)
                .map(|mut peer| {
                    thread::spawn(move || {
                        // What is sent before the close is answered.
                        let mut echoes = 0;
                        loop {
                            peer.send(TEXT, b"still there?");
                            let frame = peer.read_frame();
                            if frame.first == CLOSE {
                                assert_eq!(frame.payload, close_payload(1012, b""));
                                peer.send(CLOSE, &frame.payload);
                                return (began.elapsed(), echoes);
                            }
                            assert_eq!(frame.payload, b"still there?");
                            echoes += 1;
                            pause(20);
                        }
                    })
                })
                .collect();
            let mut closed: Vec<(Duration, u32)> =
                reading.into_iter().map(|it| it.join().unwrap()).collect();
            closed.sort();
            let (status, log) = ringwire.wait();
            assert!(status.success(), "{log}");
            assert!(
                log.contains("closing 200 connections with 1012 over 2 s"),
                "{log}"
            );
            // Each quarter of the time has its quarter of the closes, about.
            let quarter = Duration::from_millis(500);
            for part in 1..4_u32 {
                let count = closed.iter().filter(|(at, _)| *at < quarter * part).count();
                let ideal = 50 * part as usize;
                assert!(
                    count.abs_diff(ideal) <= 35,
                    "{count} after {part} quarters, not {ideal}"
                );
            }
            assert!(closed.iter().map(|(_, echoes)| echoes).sum::<u32>() > 200);
        });
    }
}

#[test]
fn those_who_stand_out_are_shown_and_one_can_be_closed() {
    for engine in ENGINES {
        guarded(|| {
            let (ringwire, admin) = start(engine, &[]);
            let mut peers: Vec<_> = (0..30)
                .map(|_| Peer::open(&ringwire.addresses[0], "/"))
                .collect();
            let open = || sum(&metrics(&admin), "ringwire_connections_open") == 30.0;
            until("all are counted", open);
            // A message that has not come whole is held.
            let whole = crate::common::masked(TEXT, &vec![b'x'; 200_000]);
            peers[7].write(&whole[..150_000]);
            let shown = |query: &str| -> serde_json::Value {
                let reply = ask(&admin, &format!("GET /connections{query}"));
                assert_eq!(reply.status, 200, "{}", reply.body);
                serde_json::from_str(&reply.body).unwrap()
            };
            until("it is held", || {
                let shown = shown("?by=held&limit=1");
                shown["connections"][0]["held_bytes"].as_u64() >= Some(100_000)
            });
            let by_age = shown("?by=age");
            assert_eq!(by_age["connections_open"], 30);
            assert_eq!(by_age["connections"].as_array().unwrap().len(), 20);
            let held = shown("?by=held&limit=3");
            let first = &held["connections"][0];
            let local = peers[7].stream.local_addr().unwrap().to_string();
            assert_eq!(first["peer"].as_str(), Some(local.as_str()));
            assert_eq!(first["stage"], "open");
            let id = first["id"].as_str().unwrap();
            assert_eq!(
                ask(&admin, &format!("DELETE /connections/{id}")).status,
                202
            );
            let frame = peers[7].read_frame();
            assert_eq!(frame.first, CLOSE);
            let reason = b"closed by an administrator";
            assert_eq!(frame.payload, close_payload(1008, reason));
            for (path, says) in [
                ("GET /connections?by=name", "by is 'name'"),
                ("GET /connections?limit=0", "limit has to be"),
                ("DELETE /connections/7", "'7' is no connection's name"),
                ("DELETE /connections/0.1.1?code=1005", "code is '1005'"),
            ] {
                let reply = ask(&admin, path);
                assert_eq!(reply.status, 400, "{path}: {}", reply.body);
                assert!(reply.body.contains(says), "{path}: {}", reply.body);
            }
            drop(peers);
            stop(ringwire);
        });
    }
}

fn reload_by_hand(file: &Path) -> (Option<i32>, String) {
    let mut reload = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    reload.args(["reload", "--config", file.to_str().unwrap()]);
    let output = reload.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), said)
}

#[test]
fn a_reload_says_what_came_of_it_to_whoever_asks() {
    in_a_folder(|folder| {
        let file = folder.join("ringwire.toml");
        let admin_path = folder.join("admin.sock");
        let write = |more: &str| {
            let listen = "listen = '127.0.0.1:0'\nshards = 1\n";
            let admin = format!("admin_listen = 'unix:{}'\n", admin_path.display());
            fs::write(&file, format!("{listen}{admin}{more}")).unwrap();
        };
        write("");
        assert_eq!(reload_by_hand(&file).0, Some(2), "nobody is there");
        let mut command = command(&["--config", file.to_str().unwrap()]);
        let ringwire = Ringwire::start(&mut command);
        let admin = ringwire.admin[0].clone();
        let reloads = |result: &str| {
            let series = format!("ringwire_reloads_total{{result=\"{result}\"}}");
            metrics(&admin)[&series]
        };
        let succeeded = || sum(&metrics(&admin), "ringwire_last_reload_success");
        assert_eq!(
            (reloads("applied"), reloads("refused"), succeeded()),
            (0.0, 0.0, 1.0)
        );

        write("idle_timeout_ms = '40s'\nbacklog = 77\n");
        let (code, said) = reload_by_hand(&file);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("idle_timeout_ms is 40s now"), "{said}");
        assert!(
            said.contains("backlog is 77, which it cannot become"),
            "{said}"
        );
        assert_eq!((reloads("applied"), reloads("refused")), (1.0, 0.0));

        write("idle_timeout_ms = 'soon'\n");
        let (code, said) = reload_by_hand(&file);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("idle_timeout_ms is 'soon'"), "{said}");
        assert!(said.contains("the settings stay as they were"), "{said}");
        assert_eq!((reloads("refused"), succeeded()), (1.0, 0.0));

        let config = ask(&admin, "GET /config").body;
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["settings"]["idle_timeout_ms"]["value"], 40_000);
        let from = config["settings"]["idle_timeout_ms"]["from"].as_str();
        assert!(from.unwrap().contains("ringwire.toml"), "{from:?}");
        assert_eq!(config["settings"]["shards"]["value"], 1);

        write("");
        assert_eq!(reload_by_hand(&file).0, Some(0));
        assert_eq!(succeeded(), 1.0);
        let log = stop(ringwire);
        assert!(
            log.contains("POST /reload: idle_timeout_ms is 40s now"),
            "{log}"
        );
        assert!(!admin_path.exists(), "the path is left behind");
    });
}

#[test]
fn who_reaches_the_admin_side_shows_a_token_where_there_are_some() {
    in_a_folder(|folder| {
        let tokens = folder.join("tokens");
        fs::write(&tokens, "# of the team\nfirst-secret\nsecond-secret\n").unwrap();
        let file = tokens.to_str().unwrap();
        let (ringwire, admin) = start("shard", &["--admin-token-file", file]);
        for path in ["GET /healthz", "GET /readyz"] {
            assert_eq!(ask(&admin, path).status, 200, "{path}");
        }
        let with = |token: &str, path: &str| {
            ask_with(&admin, path, &format!("Authorization: {token}\r\n"), "").status
        };
        for path in [
            "GET /metrics",
            "GET /config",
            "POST /drain",
            "GET /connections",
            "GET /",
        ] {
            let reply = ask(&admin, path);
            assert_eq!(reply.status, 401, "{path}");
            assert!(
                reply
                    .head
                    .to_lowercase()
                    .contains("www-authenticate: bearer")
            );
            assert_eq!(with("Bearer third-secret", path), 401, "{path}");
            assert_eq!(with("Basic first-secret", path), 401, "{path}");
        }
        assert_eq!(with("Bearer second-secret", "GET /metrics"), 200);
        assert_eq!(with("bearer first-secret", "GET /config"), 200);
        // A token that is taken out of the file is none any more.
        fs::write(&tokens, "new-secret\nfirst-secret\n").unwrap();
        assert_eq!(with("Bearer second-secret", "POST /reload"), 200);
        assert_eq!(with("Bearer new-secret", "GET /metrics"), 200);
        assert_eq!(with("Bearer second-secret", "GET /metrics"), 401);
        fs::write(&tokens, "").unwrap();
        assert_eq!(with("Bearer first-secret", "POST /reload"), 422);
        assert_eq!(with("Bearer first-secret", "GET /metrics"), 200);
        let log = stop(ringwire);
        assert!(!log.contains("secret"), "{log}");
    });
}

#[test]
fn an_admin_side_that_others_reach_is_refused_without_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "unix:@ringwire-admin-of-a-test"] {
        let [listen, anywhere] = LISTEN;
        let (refused, _, said) = output(&[listen, anywhere, "--admin-listen", address]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(
            said.contains("--admin-listen") && said.contains("admin_token_file"),
            "{said}"
        );
    }
}

#[test]
fn what_is_no_wish_is_said_to_be_none() {
    guarded(|| {
        let (ringwire, admin) = start("shard", &[]);
        assert!(ask(&admin, "GET /").body.contains("/metrics"));
        assert_eq!(ask(&admin, "GET /nowhere").status, 404);
        let wrong = ask(&admin, "GET /drain");
        assert_eq!(wrong.status, 405);
        assert!(
            wrong.head.to_lowercase().contains("allow: post"),
            "{}",
            wrong.head
        );
        let page = "Origin: https://example.com\r\n";
        for path in [
            "POST /drain",
            "POST /reload",
            "DELETE /connections/0.0.0",
            "PUT /log-level",
        ] {
            assert_eq!(ask_with(&admin, path, page, "").status, 403, "{path}");
        }
        assert_eq!(ask(&admin, "POST /drain?spread=soon").status, 400);
        assert_eq!(ask(&admin, "POST /drain?code=1006").status, 400);
        assert_eq!(ask(&admin, "GET /readyz").status, 200);

        assert_eq!(ask(&admin, "GET /log-level").body, "info\n");
        assert_eq!(ask_with(&admin, "PUT /log-level", "", "loud").status, 400);
        assert_eq!(
            ask_with(&admin, "PUT /log-level", "", "debug\n").status,
            200
        );
        assert_eq!(ask(&admin, "GET /log-level").body, "debug\n");
        drop(Peer::open(&ringwire.addresses[0], "/"));
        until("it says more", || {
            ringwire.log().contains("connection closed")
        });
        // More than a level does not come in.
        let long = "x".repeat(10_000);
        assert_eq!(ask_with(&admin, "PUT /log-level", "", &long).status, 400);

        assert_eq!(ask(&admin, "POST /drain").status, 202);
        let (status, log) = ringwire.wait();
        assert!(status.success(), "{log}");
        assert!(log.contains("POST /drain: stopping"), "{log}");
    });
}

#[test]
fn a_client_that_stops_in_its_head_is_not_waited_for() {
    guarded(|| {
        let (ringwire, admin) = start("shard", &[]);
        // As many as are served at once.
        let mut slow: Vec<_> = (0..64).map(|_| Peer::connect(&admin)).collect();
        for peer in &mut slow {
            peer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n");
        }
        let began = Instant::now();
        assert_eq!(ask(&admin, "GET /healthz").status, 200);
        assert!(began.elapsed() < PATIENCE);
        drop(slow);
        stop(ringwire);
    });
}

/// A shard that has come to its end has no more to say, and does not stand still for that.
#[test]
fn a_shard_that_has_ended_in_a_drain_is_not_said_to_stand_still() {
    for engine in ENGINES {
        guarded(|| {
            let mut command = command(&LISTEN);
            command.args(["--admin-listen", "127.0.0.1:0", "--shards", "2"]);
            command.args(["--engine", engine, "--close-timeout-ms", "4s"]);
            let ringwire = Ringwire::start(&mut command);
            let admin = ringwire.admin[0].clone();
            // It does not answer its close: one shard waits for it, and the other ends.
            let peer = Peer::open(&ringwire.addresses[0], "/");
            until("it is looked after", || {
                sum(&metrics(&admin), "ringwire_ready") == 1.0
            });
            ringwire.signal(Signal::TERM);
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(3) {
                let reply = ask(&admin, "GET /healthz");
                assert_eq!(reply.status, 200, "{}", reply.body);
                pause(200);
            }
            let (status, log) = ringwire.wait();
            assert!(status.success(), "{log}");
            assert!(!log.contains("stands still"), "{log}");
            drop(peer);
        });
    }
}

/// A drain that is to be over sooner has everybody's turn come sooner.
#[test]
fn a_second_drain_that_is_sooner_closes_all_in_its_time() {
    for engine in ENGINES {
        guarded(|| {
            let spread = ["--drain-spread-ms", "1s"];
            let (ringwire, admin) = start(engine, &spread);
            let mut peers: Vec<_> = (0..50)
                .map(|_| Peer::open(&ringwire.addresses[0], "/"))
                .collect();
            assert_eq!(ask(&admin, "POST /drain?spread=10m").status, 202);
            ringwire.signal(Signal::TERM);
            for peer in &mut peers {
                let frame = peer.read_frame();
                assert_eq!(
                    (frame.first, frame.payload),
                    (CLOSE, close_payload(1001, b""))
                );
                peer.send(CLOSE, &close_payload(1001, b""));
            }
            let (status, log) = ringwire.wait();
            assert!(status.success(), "{log}");
        });
    }
}

#[test]
fn an_admin_side_that_others_reach_keeps_its_tokens() {
    in_a_folder(|folder| {
        let (file, tokens) = (folder.join("it.toml"), folder.join("tokens"));
        fs::write(&tokens, "secret\n").unwrap();
        let write = |admin: &str, more: &str| {
            let text = format!("listen = '127.0.0.1:0'\nadmin_listen = '{admin}'\n{more}");
            fs::write(&file, text).unwrap();
        };
        write(
            "0.0.0.0:0",
            &format!("admin_token_file = '{}'\n", tokens.display()),
        );
        let mut command = command(&["--config", file.to_str().unwrap()]);
        let ringwire = Ringwire::start(&mut command);
        let Address::Inet(anywhere) = ringwire.admin[0] else {
            panic!("{:?}", ringwire.admin);
        };
        let admin = Address::Inet((std::net::Ipv4Addr::LOCALHOST, anywhere.port()).into());
        assert_eq!(ask(&admin, "GET /metrics").status, 401);
        // The file is right for a server that starts with it, and this one has started.
        write("127.0.0.1:0", "");
        ringwire.signal(Signal::HUP);
        until("it is refused", || {
            ringwire
                .log()
                .contains("without admin_token_file they could stop")
        });
        assert_eq!(ask(&admin, "GET /metrics").status, 401);
        stop(ringwire);
    });
}

#[test]
fn names_that_a_page_could_have_are_not_answered_without_a_token() {
    guarded(|| {
        let (ringwire, admin) = start("shard", &[]);
        for (host, status) in [
            ("127.0.0.1:9002", 200),
            ("localhost:9002", 200),
            ("[::1]:9002", 200),
            ("::1", 200),
            ("rebound.example:9002", 421),
        ] {
            let mut peer = Peer::connect(&admin);
            peer.write(format!("GET /config HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
            let head = peer.read_head();
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{host}: {head}"
            );
        }
        stop(ringwire);
    });
}
