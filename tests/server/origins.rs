//! Which pages may connect, what they are told, and the exchange of 2012 to the letter.

use ringwire::{
    HandshakeError,
    service::{Echo, Gate, Origins},
};

use crate::{
    article::{ARTICLES_REQUEST, expect_articles_response},
    common::{BINARY, request},
    host::{Engine, Host, config, host, on_each_engine},
    peer::Reply,
};

on_each_engine! {
    a_page_may_read_replies_if_it_is_welcome
    an_allow_list_for_each_route
    preflights_are_answered_by_the_same_list
    the_articles_exchange_to_the_letter
    without_a_list_everybody_is_welcome
}

fn gate() -> Gate<Echo> {
    let listed = Origins::default().allow("https://*.example.com").unwrap();
    let listed = listed.allow("same-origin").unwrap();
    let sink = Origins::default().allow("http://localhost:*").unwrap();
    Gate::new(Echo).origins(listed).route("/sink", sink)
}

fn guarded(engine: Engine, body: impl FnOnce(&Host)) {
    host(engine, config(|_| {}), gate, body);
}

/// A handshake of a page of this origin.
fn handshake(target: &str, origin: &str) -> String {
    let line = format!("Version: 13\r\nOrigin: {origin}");
    request(target).replacen("Version: 13", &line, 1)
}

#[track_caller]
fn is_let_in(host: &Host, head: &str) -> bool {
    let mut peer = host.connect();
    peer.write(head.as_bytes());
    let answer = peer.read_head();
    if answer.starts_with("HTTP/1.1 101 ") {
        // Nothing is said of origins where no browser looks for it.
        assert!(!answer.contains("Access-Control"), "{answer}");
        peer.close();
        return true;
    }
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    false
}

fn an_allow_list_for_each_route(engine: Engine) {
    guarded(engine, |host| {
        for (target, origin, welcome) in [
            ("/", "https://www.example.com", true),
            ("/?encoding=text", "https://a.b.example.com", true),
            ("/", "http://server.example.com", true),
            ("/", "https://example.com", false),
            ("/", "https://evil.net", false),
            ("/?https://www.example.com", "https://evil.net", false),
            ("/", "null", false),
            ("/", "http://localhost:3000", false),
            ("/sink", "http://localhost:3000", true),
            ("/sink?/", "http://localhost:3000", true),
            ("/sink", "https://www.example.com", false),
            ("/sink", "http://server.example.com", false),
        ] {
            let head = handshake(target, origin);
            assert_eq!(is_let_in(host, &head), welcome, "{target} {origin}");
        }
        // A program, and not a page.
        assert!(is_let_in(host, &request("/")) && is_let_in(host, &request("/sink")));
        let mut peer = host.connect();
        peer.write(handshake("/", "https://evil.net").as_bytes());
        let reply = peer.read_reply(false);
        assert_eq!(reply.body, HandshakeError::Forbidden.body());
    });
}

fn without_a_list_everybody_is_welcome(engine: Engine) {
    let gate = || Gate::new(Echo);
    host(engine, config(|_| {}), gate, |host| {
        for origin in ["https://evil.net", "null"] {
            assert!(is_let_in(host, &handshake("/", origin)));
        }
        let reply = ask(host, "OPTIONS", "/", Some("https://evil.net"));
        assert_eq!(reply.status, 204);
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"));
        assert_eq!(reply.header("Access-Control-Allow-Credentials"), None);
    });
}

/// A page's request, or its browser's preflight of it.
fn ask(host: &Host, method: &str, target: &str, origin: Option<&str>) -> Reply {
    let origin = origin.map_or(String::new(), |origin| format!("Origin: {origin}\r\n"));
    let asks = if method == "OPTIONS" {
        "Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: content-type\r\n"
    } else {
        ""
    };
    let mut peer = host.connect();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{origin}{asks}\r\n");
    peer.write(head.as_bytes());
    peer.read_reply(method == "HEAD")
}

fn preflights_are_answered_by_the_same_list(engine: Engine) {
    guarded(engine, |host| {
        let welcome = Some("https://www.example.com");
        let reply = ask(host, "OPTIONS", "/", welcome);
        assert_eq!(reply.status, 204);
        for (name, value) in [
            ("Access-Control-Allow-Origin", welcome),
            ("Access-Control-Allow-Credentials", Some("true")),
            ("Access-Control-Allow-Methods", Some("GET, HEAD")),
            ("Access-Control-Allow-Headers", Some("content-type")),
            ("Vary", Some("Origin")),
        ] {
            assert_eq!(reply.header(name), value, "{name}");
        }
        for (target, origin) in [
            ("/", "https://evil.net"),
            ("/sink", "https://www.example.com"),
        ] {
            let reply = ask(host, "OPTIONS", target, Some(origin));
            assert_eq!(reply.status, 403, "{target} {origin}");
            assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
        }
        let reply = ask(host, "OPTIONS", "/sink", Some("http://localhost:1"));
        assert_eq!(reply.status, 204);
        // Without an origin it is no preflight, and the echo has nothing else for it.
        assert_eq!(ask(host, "OPTIONS", "/", None).status, 405);
        let mut peer = host.connect();
        peer.write(
            b"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: https://www.example.com\r\n\
              Access-Control-Request-Method: GET\r\nContent-Length: 5\r\n\r\nhello",
        );
        assert_eq!(peer.read_reply(false).status, 413);
    });
}

fn a_page_may_read_replies_if_it_is_welcome(engine: Engine) {
    guarded(engine, |host| {
        for method in ["GET", "HEAD"] {
            let welcome = Some("https://www.example.com");
            let reply = ask(host, method, "/", welcome);
            assert_eq!(reply.status, 200);
            assert_eq!(reply.header("Access-Control-Allow-Origin"), welcome);
            // It is shown to those who only look at it, and nobody else's scripts.
            let reply = ask(host, method, "/", Some("https://evil.net"));
            assert_eq!(reply.status, 200);
            assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
            assert_eq!(reply.header("Vary"), Some("Origin"));
            let reply = ask(host, method, "/", None);
            assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
        }
    });
}

fn the_articles_exchange_to_the_letter(engine: Engine) {
    let config = config(|config| config.server_header = Some("Kaazing Gateway".into()));
    let gate = || {
        let origins = Origins::default().allow("http://websocket.org").unwrap();
        Gate::new(Echo).origins(origins).like_kaazing(true)
    };
    host(engine, config, gate, |host| {
        let mut peer = host.connect();
        peer.write(ARTICLES_REQUEST.as_bytes());
        expect_articles_response(&peer.read_head());
        peer.send(BINARY, b"Rock it with HTML5 WebSocket");
        peer.expect_text("Rock it with HTML5 WebSocket");
        peer.close();
        // Another page is refused as ever.
        let mut peer = host.connect();
        let head = ARTICLES_REQUEST.replacen("//websocket.org", "//evil.net", 1);
        peer.write(head.as_bytes());
        assert_eq!(peer.read_reply(false).status, 403);
    });
}
