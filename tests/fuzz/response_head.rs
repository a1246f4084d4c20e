//! Any bytes as the reply to a client's opening handshake, and any as what a client is asked to
//! dial: what a client sends, a server accepts.
//!
//! The first byte chooses between the two and what is offered, the second where the reply is cut.

use ringwire::{
    Answer, Request,
    proto::{
        deflate::Offer,
        handshake::{
            ClientHandshakeError, ClientRequest, Proof, ReplyHeaders, Response, WsUrl,
            check_upgrade, encode_switching_protocols,
        },
    },
};

use crate::{
    Tally,
    input::Input,
    request_head::{lines, same_headers, scan},
};

/// Of the example of section 1.3: its key is answered with `s3pPLMBiTxaQ9kYGzzhZRbK+xOo=`.
const NONCE: [u8; 16] = *b"the sample nonce";

const ACCEPTED: Tally = Tally {
    accepted: 1,
    refused: 0,
};
const REFUSED: Tally = Tally {
    accepted: 0,
    refused: 1,
};

/// Reads the bytes as a reply, or dials what they say.
pub fn run(bytes: &[u8]) -> Tally {
    let mut input = Input::new(bytes);
    let (how, seed) = (input.byte(), input.byte());
    match how & 1 {
        0 => response(input.rest(), how, seed),
        _ => opening(input.rest()),
    }
}

fn response(bytes: &[u8], how: u8, seed: u8) -> Tally {
    let mut request = ClientRequest::new("ws://a/".parse().expect("a valid URL"));
    let (offers_chat, offers_deflate) = (how & 2 != 0, how & 4 != 0);
    if offers_chat {
        request.offer_subprotocol("chat").expect("a token");
        request.offer_subprotocol("superchat").expect("a token");
    }
    if offers_deflate {
        request
            .offer_compression(Offer::default())
            .expect("a valid offer");
    }
    let accept = request.encode(NONCE, &mut Vec::new());
    let end = scan(bytes, seed, usize::MAX);
    let checked = request.check_response(bytes, &accept);
    let parsed = Response::parse(bytes);
    let (Ok(Some(end)), Ok(parsed)) = (end, parsed) else {
        let error = checked.expect_err("it is not even well formed");
        assert!(!matches!(error, ClientHandshakeError::Status(_)), "{error}");
        return REFUSED;
    };
    let head = &bytes[..end];
    let lines = lines(head);
    same_headers(parsed.headers().iter(), &lines[1..]);
    let status = format!(" {:03}", parsed.status());
    assert_eq!(&lines[0][8..12], status.as_bytes());
    let accepted = match checked {
        Ok(accepted) => accepted,
        Err(error) => {
            assert_eq!(request.check_response(head, &accept).err(), Some(error));
            if parsed.status() != 101 {
                assert_eq!(error, ClientHandshakeError::Status(parsed.status()));
            }
            assert!(!error.to_string().is_empty());
            return REFUSED;
        }
    };
    assert!(lines[0].starts_with(b"HTTP/1.1 101"));
    let header = |name| accepted.response().headers().all(name);
    assert!(header("sec-websocket-accept").eq([&accept[..]]));
    assert_eq!(header("upgrade").count(), 1);
    let subprotocol = accepted.subprotocol();
    assert!(subprotocol.is_none_or(|name| offers_chat && ["chat", "superchat"].contains(&name)));
    assert_eq!(
        header("sec-websocket-protocol").count(),
        subprotocol.iter().count()
    );
    match accepted.deflate() {
        None => assert!(!header("sec-websocket-extensions").any(|value| !value.is_empty())),
        Some(agreed) => {
            assert!(offers_deflate);
            assert!((8..=15).contains(&agreed.server_window_bits));
            assert!((8..=15).contains(&agreed.client_window_bits));
        }
    }
    ACCEPTED
}

/// The lines are a URL, an origin, a subprotocol to offer and headers to add.
fn opening(bytes: &[u8]) -> Tally {
    let Ok(text) = str::from_utf8(bytes) else {
        return REFUSED;
    };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    let (url, origin, subprotocols) = (line(), line(), line());
    let url = match WsUrl::parse(url) {
        Ok(url) => url,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return REFUSED;
        }
    };
    assert_eq!(url.to_string().parse(), Ok(url.clone()), "{url}");
    assert_eq!(url.host().is_none(), url.socket_path().is_some());
    let mut request = ClientRequest::new(url.clone());
    let has_origin = request.set_origin(origin).is_ok();
    let offered: Vec<&str> = subprotocols
        .split(',')
        .filter(|name| request.offer_subprotocol(name).is_ok())
        .collect();
    let mut answer = Answer::new();
    let mut added = Vec::new();
    for header in lines.take(80) {
        let (name, value) = header.split_once(':').unwrap_or((header, ""));
        let _ = answer.add_header(name, value);
        if request.add_header(name, value).is_ok() {
            added.push((name, value));
        }
    }
    let mut sent = Vec::new();
    let accept = request.encode(NONCE, &mut sent);
    let read = Request::parse(&sent).expect("a request that a server reads");
    assert_eq!((read.method(), read.target()), ("GET", url.resource_name()));
    assert_eq!(read.origin(), has_origin.then_some(origin));
    let trimmed = |value: &str| value.trim_matches([' ', '\t']).as_bytes().to_vec();
    for (name, value) in added {
        let value = trimmed(value);
        assert!(
            read.header_values(name).any(|found| found == value),
            "{name}"
        );
    }
    let upgrade = check_upgrade(&read).expect("an opening handshake");
    assert!(upgrade.subprotocols().eq(offered.iter().copied()));
    if let Some(name) = offered.last() {
        answer
            .choose_subprotocol(&upgrade, name)
            .expect("it is offered");
    }
    let Proof::AcceptKey(key) = upgrade.proof() else {
        panic!("this is RFC 6455");
    };
    let mut reply = Vec::new();
    encode_switching_protocols(&mut reply, &key, &answer, &ReplyHeaders::default());
    let accepted = request.check_response(&reply, &accept);
    let accepted = accepted.expect("the reply to this request");
    assert_eq!(accepted.subprotocol(), offered.last().copied());
    ACCEPTED
}
