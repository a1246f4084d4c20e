//! What holds across the files of the handshake: the table of errors, and what every input, however
//! mangled, must satisfy.

use std::collections::BTreeSet;

use super::super::{Version, hixie, random::Random};
use super::*;

const REQUESTS: &[&str] = &[
    "GET ws://echo.websocket.org/?encoding=text HTTP/1.1\r\n\
     Origin: http://websocket.org\r\n\
     Cookie: __utma=99as\r\n\
     Connection: Upgrade\r\n\
     Host: echo.websocket.org\r\n\
     Sec-WebSocket-Key: uRovscZjNol/umbTt5uKmw==\r\n\
     Upgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\n\r\n",
    "GET /chat?a=%41+b&c HTTP/1.1\r\n\
     Host: [::1]:9001\r\n\
     Connection: keep-alive, Upgrade\r\n\
     Upgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Protocol: chat, superchat\r\n\
     Content-Length: 0\r\n\r\n",
    "\r\nGET / HTTP/1.0\r\nAccept: */*\r\n\r\n",
    "GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "GET /demo?x HTTP/1.1\r\n\
     Host: example.com\r\n\
     Connection: Upgrade\r\n\
     Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n\
     Sec-WebSocket-Protocol: sample\r\n\
     Upgrade: WebSocket\r\n\
     Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\
     Origin: http://example.com\r\n\r\n",
];

const RESPONSE: &str = "HTTP/1.1 101 Switching Protocols\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
    Sec-WebSocket-Protocol: chat\r\n\r\n";

/// What a mutation may write: the bytes and lines on which readers of HTTP disagree.
const PIECES: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b"=",
    b"\0",
    b"\x7F",
    b"\xFF",
    b"%",
    b"#",
    b"?",
    b"/",
    b"*",
    b"[",
    b"]",
    b"@",
    b"://",
    b"\x16\x03",
    b"\r\n ",
    b"\r\nHost: a",
    b"\r\nHost: ",
    b"\r\nOrigin: null",
    b"\r\nContent-Length: 1",
    b"\r\nContent-Length: x",
    b"\r\nSec-WebSocket-Version: 13",
    b"\r\nSec-WebSocket-Key: a",
    b"\r\nUpgrade: h2c",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"POST",
    b"CONNECT",
];

impl Random {
    /// `bytes` after one to three small accidents.
    fn mutated(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(12)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
                2 => drop(bytes.drain(at..end)),
                3 => bytes.truncate(at.max(8)),
                4 => {
                    let doubled = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, doubled));
                }
                _ => {
                    let piece = PIECES[self.below(PIECES.len())];
                    drop(bytes.splice(at..at, piece.iter().copied()));
                }
            }
        }
        bytes
    }
}

fn scan_in_pieces(bytes: &[u8], random: &mut Random) -> Result<Option<usize>, HandshakeError> {
    let mut scanner = HeadScanner::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = (at + 1 + random.below(40)).min(bytes.len());
        if let Some(n) = scanner.push(&bytes[at..end], usize::MAX)? {
            return Ok(Some(at + n));
        }
        at = end;
    }
    Ok(None)
}

#[test]
fn mutated_requests_never_panic_and_keep_what_parse_promises() {
    let mut random = Random(6455);
    let mut seen = BTreeSet::new();
    let (mut parsed, mut upgraded, mut legacy) = (0, 0, 0);
    for round in 0..36_000 {
        let bytes = random.mutated(REQUESTS[round % REQUESTS.len()].as_bytes());
        let shown = bytes.escape_ascii();
        let scanned = HeadScanner::new().push(&bytes, usize::MAX);
        assert_eq!(scan_in_pieces(&bytes, &mut random), scanned, "{shown}");
        let request = match (Request::parse(&bytes), scanned) {
            (Ok(request), Ok(Some(_))) => request,
            (Ok(_), _) => panic!("parsed what the scanner refuses: {shown}"),
            (Err(error), Err(scan_error)) => {
                assert_eq!(error, scan_error, "{shown}");
                seen.insert(error.name());
                continue;
            }
            (Err(error), Ok(end)) => {
                assert_eq!(
                    error == HandshakeError::HeadIncomplete,
                    end.is_none(),
                    "{shown}"
                );
                seen.insert(error.name());
                continue;
            }
        };
        parsed += 1;
        assert!(request.host().is_some() || request.version() == HttpVersion::Http10);
        assert!(
            request.path().starts_with('/') || request.path() == "*",
            "{shown}"
        );
        assert!(
            request.target().is_ascii() && !request.target().contains('#'),
            "{shown}"
        );
        let mut origin = request.origin().unwrap_or_default().bytes();
        assert!(origin.all(|byte| byte.is_ascii_graphic()), "{shown}");
        for (name, value) in request.headers().iter() {
            assert!(head::is_token(name.as_bytes()), "{shown}");
            assert!(head::is_field_value(value), "{shown}");
            assert_eq!(value.trim_ascii().len(), value.len(), "{shown}");
        }
        assert!(request.query_pairs().count() <= bytes.len());
        assert!(request.cookies().all(|(name, _)| !name.is_empty()));
        let checked = if hixie::is_opening(&request) {
            hixie::check_opening(&request)
        } else {
            check_upgrade(&request)
        };
        match checked {
            Ok(upgrade) => {
                if upgrade.version() == Version::Hixie76 {
                    legacy += 1;
                    check_hixie_reply(&request);
                } else {
                    upgraded += 1;
                }
                assert!(request.is_upgrade() && !request.announces_body(), "{shown}");
                assert_eq!(request.method(), "GET");
                assert!(
                    upgrade
                        .subprotocols()
                        .all(|name| head::is_token(name.as_bytes()))
                );
            }
            Err(error) => drop(seen.insert(error.name())),
        }
    }
    // A test of this kind passes for the wrong reason when its inputs never get anywhere.
    assert!(parsed > 1000, "only {parsed} inputs were well formed");
    assert!(
        upgraded > 300,
        "only {upgraded} inputs were opening handshakes"
    );
    assert!(legacy > 300, "only {legacy} inputs were those of hixie-76");
    let outer = [
        HandshakeError::ContentTooLarge,
        HandshakeError::Forbidden,
        HandshakeError::HeadTooLarge,
        HandshakeError::HeadersTooMany,
        HandshakeError::NotFound,
        HandshakeError::Overloaded,
        HandshakeError::PlainOnTlsPort,
        HandshakeError::ProxyHeaderMissing,
        HandshakeError::RequestLineTooLong,
        HandshakeError::ServicePanicked,
        HandshakeError::Timeout,
        HandshakeError::TooManyFromAddress,
    ];
    for error in HandshakeError::ALL {
        let expected = !outer.contains(error);
        assert_eq!(
            seen.contains(error.name()),
            expected,
            "{error:?} among {seen:?}"
        );
    }
}

/// What the reply repeats of the request is in its place, whatever it is.
fn check_hixie_reply(request: &Request<'_>) {
    let mut out = Vec::new();
    let reply = ReplyHeaders::default();
    hixie::encode_head(&mut out, request, false, &Answer::new(), &reply);
    let shown = out.escape_ascii();
    let scanned = HeadScanner::new().push(&out, usize::MAX);
    assert_eq!(scanned, Ok(Some(out.len())), "{shown}");
    let lines = out.split(|&byte| byte == b'\n').count();
    let expected = 4 + usize::from(request.origin().is_some());
    assert_eq!(lines, expected + 2, "{shown}");
}

#[test]
fn mutated_responses_never_panic() {
    let mut random = Random(9112);
    let mut request = ClientRequest::new(WsUrl::parse("ws://a/").unwrap());
    request.offer_subprotocol("chat").unwrap();
    let (mut accepted, mut refused) = (0, BTreeSet::new());
    for _ in 0..6_000 {
        let bytes = random.mutated(RESPONSE.as_bytes());
        match request.check_response(&bytes, b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            Ok(response) => {
                accepted += 1;
                assert_eq!(response.response().status(), 101);
                assert!(response.subprotocol().is_none_or(|name| name == "chat"));
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                let debug = format!("{error:?}");
                refused.insert(debug.split('(').next().unwrap_or_default().to_owned());
            }
        }
    }
    assert!(accepted > 300, "only {accepted} responses were accepted");
    assert!(refused.len() >= 8, "only these refusals: {refused:?}");
}

#[test]
fn mutated_urls_never_panic_and_make_requests_our_server_reads() {
    let urls = [
        "ws://a:81/b?c",
        "wss://[::1]:9001/",
        "ws+unix:/run/a.sock:/b?c",
    ];
    let mut random = Random(3986);
    let mut valid = 0;
    for round in 0..6_000 {
        let bytes = random.mutated(urls[round % urls.len()].as_bytes());
        let Ok(url) = WsUrl::parse(&String::from_utf8_lossy(&bytes)) else {
            continue;
        };
        valid += 1;
        assert_eq!(url.to_string().parse(), Ok(url.clone()), "{url}");
        let mut head = Vec::new();
        ClientRequest::new(url.clone()).encode([7; 16], &mut head);
        let request = Request::parse(&head)
            .map_err(|error| format!("{url}: {error}"))
            .unwrap();
        assert!(check_upgrade(&request).is_ok(), "{url}");
        assert_eq!(request.target(), url.resource_name());
    }
    assert!(valid > 1000, "only {valid} URLs were valid");
}

#[test]
fn the_table_of_errors() {
    let names: Vec<&str> = HandshakeError::ALL
        .iter()
        .map(|error| error.name())
        .collect();
    assert!(names.is_sorted(), "{names:?}");
    let statuses: BTreeSet<u16> = HandshakeError::ALL
        .iter()
        .map(|error| error.http_status())
        .collect();
    let expected = BTreeSet::from([
        400, 403, 404, 405, 408, 413, 414, 426, 429, 431, 500, 503, 505,
    ]);
    assert_eq!(statuses, expected);
    let sentences: BTreeSet<&str> = HandshakeError::ALL
        .iter()
        .map(|error| error.sentence())
        .collect();
    assert_eq!(
        sentences.len(),
        HandshakeError::ALL.len(),
        "every error has its own sentence"
    );
    for error in HandshakeError::ALL {
        let sentence = error.to_string();
        assert!(
            sentence.starts_with(|first: char| first.is_ascii_uppercase()),
            "{sentence}"
        );
        assert!(
            sentence.ends_with('.') || sentence.ends_with(')'),
            "{sentence}"
        );
        assert!(sentence.is_ascii() && sentence.len() <= 180, "{sentence}");
        assert_eq!(error.body(), format!("{sentence}\n"));
    }
}

#[test]
fn head_limits_reach_the_statuses_of_rfc_6585_and_rfc_9110() {
    let mut scanner = HeadScanner::new();
    let long_target = format!("GET /{}", "a".repeat(100));
    let error = scanner.push(long_target.as_bytes(), 100).unwrap_err();
    assert_eq!(error.http_status(), 414);
    let mut scanner = HeadScanner::new();
    let long_cookie = format!("GET / HTTP/1.1\r\nCookie: {}", "a".repeat(100));
    let error = scanner.push(long_cookie.as_bytes(), 100).unwrap_err();
    assert_eq!(error.http_status(), 431);
}
