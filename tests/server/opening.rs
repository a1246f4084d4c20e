//! The opening handshake (RFC 6455 section 4.2), accepted and refused.

use std::{
    io::Read,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Instant,
};

use ringwire::{
    Answer, CloseCause, Conn, HandshakeError, HttpReply, Message, Refusal, Remote, Request,
    Service, Upgrade, service::Echo,
};

use crate::{
    article::ARTICLES_REQUEST,
    common::{ACCEPT, KEY, PATIENCE, Peer, TEXT, masked, request},
    guard::ON_PURPOSE,
    host::{Engine, Host, Obedient, config, host, on_each_engine, on_each_plain_engine},
    peer::Reply,
};

on_each_engine! {
    a_client_that_goes_away_in_its_head_is_no_connection
    a_head_of_exactly_the_limit_is_read
    a_panic_in_on_handshake_is_a_500
    a_plain_request_that_is_refused_is_no_refused_handshake
    a_refusal_is_read_by_a_client_that_is_still_sending
    a_service_chooses_a_subprotocol_adds_a_header_and_refuses
    a_slow_head_is_a_408
    an_http_request_gets_the_page_and_head_no_body
    date_and_server_can_be_switched_off
    every_malformed_request_gets_its_status
    forms_that_are_allowed_are_accepted
    frames_in_the_segment_of_the_head_are_read
    heads_arrive_byte_by_byte
    heads_that_are_too_long_are_a_431_and_a_414
    requests_for_something_else_get_the_status_that_says_so
    the_articles_request_is_answered_as_in_the_article
}

on_each_plain_engine! {
    the_application_sees_the_request
}

/// The reply to `bytes`, which ends the connection.
#[track_caller]
fn refusal(host: &Host, bytes: &[u8]) -> Reply {
    let mut peer = host.connect();
    peer.write(bytes);
    let reply = peer.read_reply(false);
    let connection = reply.header("Connection").unwrap();
    assert!(connection.ends_with("close"), "{connection}");
    reply
}

/// The head of a good request with one piece replaced.
fn altered(from: &str, to: &str) -> String {
    let head = request("/");
    assert!(head.contains(from), "{from:?}");
    head.replacen(from, to, 1)
}

/// Sends a head, reads the 101, and sees that the connection works.
#[track_caller]
fn accepted(host: &Host, head: &str) -> String {
    let mut peer = host.connect();
    peer.write(head.as_bytes());
    let answer = peer.read_head();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{head}\n{answer}");
    peer.echo("open");
    peer.close();
    answer
}

fn the_articles_request_is_answered_as_in_the_article(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let answer = accepted(host, ARTICLES_REQUEST);
            for line in [
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Accept: rLHCkw/SKsO9GAH/ZSFhBATDKrU=",
                "Server: ringwire",
            ] {
                assert!(answer.contains(&format!("\r\n{line}\r\n")), "{answer}");
            }
            let date = answer.lines().find_map(|line| line.strip_prefix("Date: "));
            let date = httpdate::parse_http_date(date.expect("a date")).expect("a good date");
            let age = std::time::SystemTime::now().duration_since(date).unwrap();
            assert!(age < PATIENCE, "{age:?}");
        },
    );
}

fn date_and_server_can_be_switched_off(engine: Engine) {
    let config = config(|config| {
        config.date_header = false;
        config.server_header = None;
    });
    host(
        engine,
        config,
        || Echo,
        |host| {
            let answer = accepted(host, &request("/"));
            let reply = refusal(host, request("/nowhere").as_bytes());
            for name in ["Date", "Server"] {
                assert!(!answer.contains(name), "{answer}");
                assert_eq!(reply.header(name), None);
            }
        },
    );
}

fn heads_arrive_byte_by_byte(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let mut peer = host.connect();
            peer.drip(request("/").as_bytes());
            assert!(peer.read_head().contains(ACCEPT));
            peer.drip(&masked(TEXT, b"drop by drop"));
            peer.expect_text("drop by drop");
            peer.close();
        },
    );
}

fn frames_in_the_segment_of_the_head_are_read(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let two = [masked(TEXT, b"one"), masked(TEXT, b"two")].concat();
            // Whole frames, and one whose end follows later.
            for cut in [two.len(), two.len() - 4, 5] {
                let mut peer = host.connect();
                peer.write(&[request("/").as_bytes(), &two[..cut]].concat());
                assert!(peer.read_head().contains(ACCEPT));
                peer.write(&two[cut..]);
                peer.expect_text("one");
                peer.expect_text("two");
                peer.close();
            }
            // The head comes in two pieces, the frames with the second.
            let mut peer = host.connect();
            let bytes = [request("/").as_bytes(), &two].concat();
            peer.drip(&bytes[..40]);
            peer.write(&bytes[40..]);
            assert!(peer.read_head().contains(ACCEPT));
            peer.expect_text("one");
            peer.expect_text("two");
            peer.close();
        },
    );
}

fn forms_that_are_allowed_are_accepted(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            for (from, to) in [
                ("Upgrade: websocket", "uPGRADE: WebSocket"),
                ("Connection: Upgrade", "connection: keep-alive, Upgrade"),
                ("Connection: Upgrade", "CONNECTION:close , \t upgrade"),
                (
                    "Connection: Upgrade",
                    "Connection: keep-alive\r\nConnection: Upgrade",
                ),
                ("Upgrade: websocket", "Upgrade: h2c, websocket"),
                ("Sec-WebSocket-Key", "SEC-websocket-KEY"),
                ("Sec-WebSocket-Version", "sec-websocket-version"),
                ("Host: server.example.com", "hOST:server.example.com:80"),
                ("GET / ", "GET /?a=b&c "),
                ("GET / ", "GET http://SERVER.example.com:80/ "),
                ("GET / ", "\r\nGET / "),
                (
                    "Version: 13",
                    "Version: 13\r\nSec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Protocol: c",
                ),
                (
                    "Version: 13",
                    "Version: 13\r\nSec-WebSocket-Extensions: permessage-deflate",
                ),
                ("Version: 13", "Version: 13\r\nContent-Length: 0"),
            ] {
                let answer = accepted(host, &altered(from, to));
                assert!(answer.contains(ACCEPT));
                // Nothing that was only offered is agreed to.
                assert!(!answer.contains("Sec-WebSocket-Protocol"), "{answer}");
                assert!(!answer.contains("Sec-WebSocket-Extensions"), "{answer}");
            }
        },
    );
}

fn every_malformed_request_gets_its_status(engine: Engine) {
    use HandshakeError as E;
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
            let twice = key.repeat(2);
            let host_line = "Host: server.example.com\r\n";
            let host_twice = host_line.repeat(2);
            let cases: &[(&str, &str, HandshakeError)] = &[
                ("GET / HTTP/1.1", "GET /", E::RequestLineInvalid),
                ("GET / HTTP/1.1", "GET  / HTTP/1.1", E::RequestLineInvalid),
                ("GET / HTTP/1.1", "GET / HTTP/1.1 ", E::RequestLineInvalid),
                ("GET / ", "GET nowhere ", E::TargetInvalid),
                ("GET / ", "GET /#here ", E::FragmentInTarget),
                ("GET / ", "\u{1}GET / ", E::StartLineInvalid),
                (&key, "", E::KeyMissing),
                (&key, &twice, E::KeyRepeated),
                (KEY, "dGhlIHNhbXBsZQ==", E::KeyInvalid),
                (KEY, "dGhlIHNhbXBsZSBub25jZQ=!", E::KeyInvalid),
                (KEY, "", E::KeyInvalid),
                (host_line, "", E::HostMissing),
                (host_line, &host_twice, E::HostRepeated),
                ("Host: server", "Host: ser/ver", E::HostInvalid),
                ("HTTP/1.1\r\n", "HTTP/1.1\n", E::BareLineFeed),
                ("websocket\r\n", "websocket\n", E::BareLineFeed),
                (
                    "websocket\r\n",
                    "websocket\rX: y\r\n",
                    E::BareCarriageReturn,
                ),
                (
                    "websocket\r\n",
                    "websocket\r\n folded\r\n",
                    E::ObsoleteFolding,
                ),
                ("server.example", "server\0example", E::ControlCharacter),
                (
                    "websocket\r\n",
                    "websocket\r\nX: \u{7f}\r\n",
                    E::ControlCharacter,
                ),
                ("Upgrade: web", "Upgrade : web", E::HeaderNameInvalid),
                ("Upgrade: web", "Up(grade: web", E::HeaderNameInvalid),
                (
                    "Version: 13",
                    "Version: 13\r\nContent-Length: 5",
                    E::BodyNotAllowed,
                ),
                (
                    "Version: 13",
                    "Version: 13\r\nTransfer-Encoding: chunked",
                    E::BodyNotAllowed,
                ),
                (
                    "Version: 13",
                    "Version: 13\r\nContent-Length: 0\r\nContent-Length: 0",
                    E::ContentLengthInvalid,
                ),
                ("Connection: Upgrade\r\n", "", E::ConnectionWithoutUpgrade),
                (
                    "Version: 13",
                    "Version: 13\r\nSec-WebSocket-Protocol: a b",
                    E::SubprotocolInvalid,
                ),
                (
                    "Version: 13",
                    "Version: 13\r\nOrigin: a b",
                    E::OriginInvalid,
                ),
                ("Version: 13", "Version: 13, 8", E::VersionRepeated),
                ("GET / HTTP/1.1", "GET / HTTP/1.0", E::UpgradeOverHttp10),
            ];
            for (from, to, error) in cases {
                let reply = refusal(host, altered(from, to).as_bytes());
                let expected = (400, error.body());
                assert_eq!((reply.status, &*reply.body), expected, "{from:?} -> {to:?}");
            }
            // The first records of a TLS client, whole and in pieces.
            let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
            let reply = refusal(host, hello);
            assert_eq!(
                (reply.status, &*reply.body),
                (400, E::TlsOnPlainPort.body())
            );
            let mut peer = host.connect();
            peer.drip(&hello[..2]);
            assert_eq!(peer.read_reply(false).status, 400);
            let refused = cases.len() as u64 + 2;
            host.expect_count(refused, |counts| counts.handshakes_refused);
        },
    );
}

fn requests_for_something_else_get_the_status_that_says_so(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            for (head, status) in [
                (request("/nowhere"), 404),
                ("GET /no HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 404),
                // As nginx sends it that was not told to do otherwise.
                (altered("Upgrade: websocket\r\n", ""), 426),
                (
                    altered("Upgrade: websocket\r\n", "").replace("HTTP/1.1", "HTTP/1.0"),
                    426,
                ),
                (altered("GET", "POST"), 405),
                (
                    altered("Upgrade: websocket\r\n", "").replace("GET", "DELETE"),
                    405,
                ),
                (altered("Version: 13", "Version: 8"), 426),
                (altered("Sec-WebSocket-Version: 13\r\n", ""), 426),
                (altered("HTTP/1.1", "HTTP/2.0"), 505),
                ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
            ] {
                let reply = refusal(host, head.as_bytes());
                assert_eq!(reply.status, status, "{head}");
                let allow = (status == 405).then_some("GET, HEAD");
                assert_eq!(reply.header("Allow"), allow);
                let (upgrade, version) = match status {
                    426 => (Some("websocket"), Some("13")),
                    _ => (None, None),
                };
                assert_eq!(reply.header("Upgrade"), upgrade);
                assert_eq!(reply.header("Sec-WebSocket-Version"), version);
                assert!(reply.header("Date").is_some() && reply.header("Server").is_some());
            }
        },
    );
    // A service that has no pages.
    host(engine, config(|_| {}), Obedient::default, |host| {
        let reply = refusal(host, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(reply.status, 426);
        assert_eq!(reply.header("Upgrade"), Some("websocket"));
        assert_eq!(reply.header("Connection"), Some("Upgrade, close"));
        assert_eq!(reply.header("Sec-WebSocket-Version"), Some("13"));
    });
}

fn an_http_request_gets_the_page_and_head_no_body(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let page = refusal(host, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(page.status, 200);
            assert_eq!(
                page.header("Content-Type"),
                Some("text/html; charset=utf-8")
            );
            let mut peer = host.connect();
            peer.write(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
            let head = peer.read_reply(true);
            assert_eq!(head.status, 200);
            assert_eq!(head.header("Content-Length"), page.header("Content-Length"));
            host.expect_count(2, |counts| counts.http_requests);
            // An error has no body either.
            let mut peer = host.connect();
            peer.write(b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(peer.read_reply(true).status, 404);
        },
    );
}

/// A service whose pages are a panic.
struct NoPages;

crate::host::boxed!(NoPages);

impl Service for NoPages {
    type State = ();

    fn on_http(&mut self, _: &Request<'_>, _: Remote<'_>) -> Result<HttpReply, Refusal> {
        panic!("{ON_PURPOSE}: on_http");
    }

    fn on_message(&mut self, _: &mut Conn<'_, ()>, _: Message<'_>) {}
}

fn a_plain_request_that_is_refused_is_no_refused_handshake(engine: Engine) {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let expect = |host: &Host, http_requests, handshakes_refused| {
        host.expect_count(http_requests, |counts| counts.http_requests);
        host.expect_count(handshakes_refused, |counts| counts.handshakes_refused);
    };
    let none = || config(|_| {});
    host(
        engine,
        none(),
        || Echo,
        |host| {
            assert_eq!(refusal(host, get("/nowhere").as_bytes()).status, 404);
            let post = get("/").replace("GET", "POST");
            assert_eq!(refusal(host, post.as_bytes()).status, 405);
            assert_eq!(refusal(host, get("/").as_bytes()).status, 200);
            expect(host, 3, 0);
            assert_eq!(refusal(host, request("/nowhere").as_bytes()).status, 404);
            assert_eq!(refusal(host, b"nonsense\r\n\r\n").status, 400);
            expect(host, 3, 2);
        },
    );
    host(engine, none(), Obedient::default, |host| {
        assert_eq!(refusal(host, get("/").as_bytes()).status, 426);
        expect(host, 1, 0);
    });
    host(
        engine,
        none(),
        || NoPages,
        |host| {
            assert_eq!(refusal(host, get("/").as_bytes()).status, 500);
            expect(host, 1, 0);
            host.expect_count(1, |counts| counts.service_panics);
        },
    );
}

fn heads_that_are_too_long_are_a_431_and_a_414(engine: Engine) {
    let config = config(|config| config.head_bytes_max = 1024);
    host(
        engine,
        config,
        || Echo,
        |host| {
            let filler = "x".repeat(2000);
            let line = format!("Version: 13\r\nX-Filler: {filler}");
            let reply = refusal(host, altered("Version: 13", &line).as_bytes());
            assert_eq!(reply.status, 431);
            // The end never comes: the limit is noticed where it is passed.
            let reply = refusal(host, &altered("Version: 13", &line).as_bytes()[..1024]);
            assert_eq!(reply.status, 431);
            let many = "X: y\r\n".repeat(101);
            let reply = refusal(host, altered("Upgrade: websocket\r\n", &many).as_bytes());
            assert_eq!(reply.status, 431);
            let reply = refusal(host, format!("GET /{filler}").as_bytes());
            assert_eq!(reply.status, 414);
        },
    );
}

fn a_head_of_exactly_the_limit_is_read(engine: Engine) {
    let limit = 1024;
    let config = config(|config| config.head_bytes_max = limit);
    host(
        engine,
        config,
        || Echo,
        |host| {
            let head = |len: usize| {
                let bare = altered("Version: 13", "Version: 13\r\nX: ").len();
                altered(
                    "Version: 13",
                    &format!("Version: 13\r\nX: {}", "x".repeat(len - bare)),
                )
            };
            assert_eq!(head(limit).len(), limit);
            accepted(host, &head(limit));
            assert_eq!(refusal(host, head(limit + 1).as_bytes()).status, 431);
        },
    );
}

fn a_slow_head_is_a_408(engine: Engine) {
    let timeout_ms = 500;
    let config = config(|config| config.handshake_timeout_ms = timeout_ms);
    host(
        engine,
        config,
        || Echo,
        |host| {
            let begun = Instant::now();
            let mut silent = host.connect();
            let mut slow = host.connect();
            let pace = std::time::Duration::from_millis(20);
            slow.stream.set_read_timeout(Some(pace)).unwrap();
            let mut head = request("/?a-head-that-takes-far-too-long")
                .into_bytes()
                .into_iter();
            let mut first = [0; 1];
            // One byte at a time, until something comes back.
            while slow.stream.read(&mut first).is_err() {
                slow.write(&[head.next().expect("a reply before the head is over")]);
            }
            let elapsed = begun.elapsed();
            assert!(elapsed.as_millis() >= timeout_ms.into(), "{elapsed:?}");
            slow.stream.set_read_timeout(Some(PATIENCE)).unwrap();
            slow.pending.extend_from_slice(&first);
            assert_eq!(slow.read_reply(false).status, 408);
            assert_eq!(silent.read_reply(false).status, 408);
            // The same client, in time.
            accepted(host, &request("/"));
            host.expect_count(2, |counts| counts.timeouts);
        },
    );
}

fn a_refusal_is_read_by_a_client_that_is_still_sending(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let mut peer = host.connect();
            let mut writer = peer.writer();
            let body = vec![b'x'; 1 << 20];
            let writing = std::thread::spawn(move || {
                writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n");
                writer.write(&body);
                writer.shutdown_write();
            });
            assert_eq!(peer.read_reply(false).status, 405);
            writing.join().expect("all of it was taken");
        },
    );
}

fn a_client_that_goes_away_in_its_head_is_no_connection(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            for end in ["close", "half", "reset"] {
                for bytes in ["", "GET / HT", "\r", "\x16"] {
                    let mut peer = host.connect();
                    peer.write(bytes.as_bytes());
                    match end {
                        "close" => drop(peer),
                        "reset" => peer.reset(),
                        _ => {
                            peer.shutdown_write();
                            peer.expect_end();
                        }
                    }
                }
            }
            // What the service is told of is this one alone.
            host.open().close();
            assert!(matches!(host.close_cause(), CloseCause::Peer { .. }));
        },
    );
}

/// Says yes or no as the path asks, and writes down what it saw.
struct Doorman {
    seen: Arc<Mutex<Vec<String>>>,
}

crate::host::boxed!(Doorman);

impl Service for Doorman {
    type State = ();

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<(), Refusal> {
        let request = upgrade.request();
        match request.path() {
            "/panic" => panic!("{}: a handshake", crate::guard::ON_PURPOSE),
            "/forbidden" => return Err(HandshakeError::Forbidden.into()),
            "/closed" => {
                let mut refusal = Refusal::new(401, "Say who you are.\n").unwrap();
                refusal.add_header("WWW-Authenticate", "Basic").unwrap();
                return Err(refusal);
            }
            _ => {}
        }
        if upgrade.subprotocols().any(|name| name == "chat.v2") {
            answer.choose_subprotocol(upgrade, "chat.v2").unwrap();
        }
        answer.add_header("X-Served-By", "the doorman").unwrap();
        let cookies: Vec<_> = request.cookies().collect();
        let offered: Vec<_> = upgrade.subprotocols().collect();
        let encoding = request.query_value("encoding");
        self.seen.lock().unwrap().push(format!(
            "{} {} {:?} {encoding:?} {:?} {cookies:?} {:?} {:?} {offered:?} {peer}",
            request.target(),
            request.path(),
            request.query(),
            request
                .header("x-tRaCe")
                .map(<[u8]>::escape_ascii)
                .map(|it| it.to_string()),
            request.origin(),
            request.host(),
        ));
        Ok(())
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message).unwrap();
    }
}

fn doorman(engine: Engine, body: impl FnOnce(&Host, &Mutex<Vec<String>>)) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let seen = seen.clone();
        move || Doorman { seen: seen.clone() }
    };
    host(engine, config(|_| {}), service, |host| body(host, &seen));
}

fn the_application_sees_the_request(engine: Engine) {
    doorman(engine, |host, seen| {
        let target = "ws://server.example.com/room/1?encoding=a%20b&n=1";
        let more = "Version: 13\r\nX-Trace: 7 8\r\nOrigin: https://a.example\r\n\
                    Cookie: id=42; theme=dark\r\nSec-WebSocket-Protocol: a, b";
        let head = request(target).replacen("Version: 13", more, 1);
        let mut peer = host.connect();
        peer.write(head.as_bytes());
        assert!(
            peer.read_head()
                .contains("\r\nX-Served-By: the doorman\r\n")
        );
        let local: SocketAddr = peer.stream.local_addr().unwrap();
        peer.close();
        let expected = format!(
            "{target} /room/1 Some(\"encoding=a%20b&n=1\") Some(\"a b\") Some(\"7 8\") \
             [(\"id\", \"42\"), (\"theme\", \"dark\")] Some(\"https://a.example\") \
             Some(\"server.example.com\") [\"a\", \"b\"] {local}"
        );
        assert_eq!(*seen.lock().unwrap(), [expected]);
    });
}

fn a_service_chooses_a_subprotocol_adds_a_header_and_refuses(engine: Engine) {
    doorman(engine, |host, _| {
        let offers = "Version: 13\r\nSec-WebSocket-Protocol: chat.v1\r\n\
                      sec-websocket-protocol: chat.v3, chat.v2";
        let answer = accepted(host, &altered("Version: 13", offers));
        assert!(
            answer.contains("\r\nSec-WebSocket-Protocol: chat.v2\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("\r\nX-Served-By: the doorman\r\n"),
            "{answer}"
        );
        let answer = accepted(host, &request("/"));
        assert!(!answer.contains("Sec-WebSocket-Protocol"), "{answer}");
        let reply = refusal(host, request("/closed").as_bytes());
        assert_eq!((reply.status, &*reply.body), (401, "Say who you are.\n"));
        assert_eq!(reply.header("WWW-Authenticate"), Some("Basic"));
        assert_eq!(refusal(host, request("/forbidden").as_bytes()).status, 403);
    });
}

fn a_panic_in_on_handshake_is_a_500(engine: Engine) {
    doorman(engine, |host, _| {
        for _ in 0..3 {
            assert_eq!(refusal(host, request("/panic").as_bytes()).status, 500);
        }
        host.expect_count(3, |counts| counts.service_panics);
        Peer::open(host.address(), "/").close();
    });
}
