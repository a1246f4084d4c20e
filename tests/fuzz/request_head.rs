//! Any bytes as a request: where its head ends, what it says, and whether it opens a WebSocket. The
//! reply to it is read by the client's half.
//!
//! The first byte chooses where the head is cut, the second how long it may be.

use std::borrow::Cow;

use ringwire::{
    Answer, HandshakeError, Refusal, Request,
    proto::{
        handshake::{
            HeadScanner, HttpVersion, Origin, Proof, ReplyHeaders, Response, check_upgrade,
            encode_refusal, encode_switching_protocols, head, response::Content,
        },
        hixie,
    },
};

use crate::{
    Tally,
    input::{Input, pieces},
};

const REPLY: ReplyHeaders<'static> = ReplyHeaders {
    date: Some("Sun, 06 Nov 1994 08:49:37 GMT"),
    server: Some("ringwire"),
};

/// Reads the bytes as a request.
pub fn run(bytes: &[u8]) -> Tally {
    let mut input = Input::new(bytes);
    let (seed, limit) = (input.byte(), input.byte());
    let bytes = input.rest();
    let head_bytes_max = match limit {
        0 => usize::MAX,
        some => 8 * usize::from(some),
    };
    let end = scan(bytes, seed, head_bytes_max);
    if head_bytes_max != usize::MAX && end != scan(bytes, seed, usize::MAX) {
        // The limit made the difference.
        let too_long = [
            HandshakeError::HeadTooLarge,
            HandshakeError::RequestLineTooLong,
        ];
        assert!(end.is_err_and(|error| too_long.contains(&error)), "{end:?}");
    }
    let parsed = Request::parse(bytes);
    let request = match (scan(bytes, 0, usize::MAX), parsed) {
        (Ok(Some(end)), Ok(request)) => {
            let head = &bytes[..end];
            as_sent(&request, head);
            assert!(Request::parse(head).is_ok(), "it depends on what follows");
            request
        }
        (Ok(Some(_)), Err(error)) => return refused(error),
        (Ok(None), parsed) => {
            assert_eq!(parsed.err(), Some(HandshakeError::HeadIncomplete));
            return refused(HandshakeError::HeadIncomplete);
        }
        (Err(error), parsed) => {
            assert_eq!(parsed.err(), Some(error));
            return refused(error);
        }
    };
    texts(&request);
    let upgrade = if hixie::is_opening(&request) {
        hixie::check_opening(&request)
    } else {
        check_upgrade(&request)
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(error) => return refused(error),
    };
    let mut answer = Answer::new();
    if let Some(name) = upgrade.subprotocols().last() {
        assert_eq!(answer.choose_subprotocol(&upgrade, name), Ok(()));
    }
    if seed & 1 != 0 {
        answer.imitate_kaazing(&request);
    }
    let mut reply = Vec::new();
    match upgrade.proof() {
        Proof::AcceptKey(key) => {
            encode_switching_protocols(&mut reply, &key, &answer, &REPLY);
            let found = read_reply(&reply, 101);
            assert_eq!(
                found.headers().first("sec-websocket-accept"),
                Some(&key[..])
            );
        }
        Proof::Challenge(_) => {
            hixie::encode_head(&mut reply, &request, false, &answer, &REPLY);
            read_reply(&reply, 101);
        }
    }
    Tally {
        accepted: 1,
        refused: 0,
    }
}

/// Where the head ends. It does not depend on the pieces.
pub fn scan(
    bytes: &[u8],
    seed: u8,
    head_bytes_max: usize,
) -> Result<Option<usize>, HandshakeError> {
    let mut whole = HeadScanner::new();
    let expected = whole.push(bytes, head_bytes_max);
    let mut scanner = HeadScanner::new();
    let mut before = 0;
    let mut found = Ok(None);
    for piece in pieces(bytes, seed) {
        found = scanner.push(piece, head_bytes_max);
        if !matches!(found, Ok(None)) {
            break;
        }
        before += piece.len();
    }
    let found = found.map(|end| end.map(|end| before + end));
    assert_eq!(found, expected);
    match expected {
        Ok(Some(end)) => assert_eq!(scanner.seen_bytes(), end),
        Ok(None) => assert_eq!(scanner.seen_bytes(), bytes.len()),
        // Once wrong it stays wrong.
        Err(_) => assert_eq!(scanner.push(b"GET", usize::MAX), expected),
    }
    expected
}

/// The lines of a whole head, without the empty one that may stand before them and the one that
/// ends them.
pub fn lines(head: &[u8]) -> Vec<&[u8]> {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let head = head.strip_suffix(b"\r\n\r\n").expect("a whole head");
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    lines
}

/// The headers are those of the head, each name up to the colon and each value without the white
/// space around it.
pub fn same_headers<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    lines: &[&[u8]],
) -> usize {
    let split = |line: &&[u8]| {
        let colon = line.iter().position(|&byte| byte == b':').expect("a colon");
        let value = &line[colon + 1..];
        let is_white = |byte: &u8| matches!(byte, b' ' | b'\t');
        let start = value.iter().position(|byte| !is_white(byte));
        let end = value.iter().rposition(|byte| !is_white(byte));
        let value = match (start, end) {
            (Some(start), Some(end)) => &value[start..=end],
            _ => &[],
        };
        (line[..colon].to_vec(), value.to_vec())
    };
    let expected: Vec<_> = lines.iter().map(split).collect();
    let found: Vec<_> = headers
        .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()))
        .collect();
    assert_eq!(found, expected);
    found.len()
}

/// The request is what was sent, line by line.
fn as_sent(request: &Request<'_>, head: &[u8]) {
    let lines = lines(head);
    let version = match request.version() {
        HttpVersion::Http10 => "1.0",
        HttpVersion::Http11 => "1.1",
    };
    let line = format!("{} {} HTTP/{version}", request.method(), request.target());
    assert_eq!(line.as_bytes(), lines[0]);
    let count = same_headers(request.headers().iter(), &lines[1..]);
    assert_eq!(request.headers().len(), count);
    assert_eq!(request.headers().is_empty(), count == 0);
    assert!(head::is_token(request.method().as_bytes()));
    let path = request.path();
    assert!(path.starts_with('/') || path == "*", "{path}");
    assert!(!path.contains(['?', '#', ' ']), "{path}");
    assert!(
        request
            .target()
            .ends_with(request.query().unwrap_or_default())
    );
    let is_absolute = !request.target().starts_with('/');
    let absolute = request.target().split_once("://").filter(|_| is_absolute);
    if let Some((_, rest)) = absolute {
        // Whatever Host says.
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        assert_eq!(request.host(), Some(authority));
    }
    let once = |name| request.header_values(name).count() <= 1;
    assert!(once("host") && once("origin") && once("content-length"));
    assert_eq!(
        request.host().is_none(),
        request.version() == HttpVersion::Http10
            && request.header("host").is_none()
            && absolute.is_none()
    );
}

/// What is read out of a request's texts.
fn texts(request: &Request<'_>) {
    for (name, value) in request.query_pairs() {
        let first = request.query_value(&name);
        assert!(first.is_some(), "{name} is {value}, and then is not there");
    }
    let decoded: Vec<_> = request
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form_decoded(name), form_decoded(value))
        })
        .collect();
    let own = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into_owned(), value.into_owned());
    assert_eq!(request.query_pairs().map(own).collect::<Vec<_>>(), decoded);
    for (name, _) in request.cookies() {
        assert!(!name.contains([';', '=']) && request.cookie(name).is_some());
    }
    for name in request.subprotocols() {
        assert!(head::is_token(name.as_bytes()), "{name}");
    }
    if let Some(origin) = request.origin().and_then(Origin::parse) {
        assert!(!origin.scheme().is_empty() && !origin.host().is_empty());
        let _ = origin.is_of_host(request.host().unwrap_or_default());
    }
}

/// As the URL Standard says, byte by byte.
fn form_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let digit = |at: usize| (*bytes.get(at)? as char).to_digit(16);
    let mut decoded = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((16 * high + low) as u8);
                at += 2;
            }
            (b'+', ..) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// A refusal is a reply that can be read.
fn refused(error: HandshakeError) -> Tally {
    for content in [Content::Sent, Content::Withheld] {
        let mut reply = Vec::new();
        encode_refusal(&mut reply, &Refusal::from(error), &REPLY, content);
        let found = read_reply(&reply, error.http_status());
        let length = error.body().len().to_string();
        assert_eq!(
            found.headers().first("content-length"),
            Some(length.as_bytes())
        );
        assert_eq!(
            reply.ends_with(error.body().as_bytes()),
            content == Content::Sent
        );
    }
    Tally {
        accepted: 0,
        refused: 1,
    }
}

fn read_reply(reply: &[u8], status: u16) -> Response<'_> {
    let response = Response::parse(reply).expect("a well-formed reply");
    assert_eq!(response.status(), status);
    let date = response.headers().all("date").collect::<Vec<_>>();
    assert_eq!(date, [REPLY.date.unwrap_or_default().as_bytes()]);
    response
}
