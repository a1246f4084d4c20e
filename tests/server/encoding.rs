//! The echo's `?encoding=`: in which kind of message it answers.

use ringwire::{CloseCause, CloseCode, service::Echo};

use crate::{
    common::{BINARY, Peer, TEXT, request},
    host::{Engine, Host, config, host, on_each_engine},
};

on_each_engine! {
    absent_it_is_what_was_sent
    as_binary
    as_text
    binary_that_is_not_utf_8_cannot_be_text
    it_is_text_or_binary
}

fn echo(engine: Engine, body: impl FnOnce(&Host)) {
    host(engine, config(|_| {}), || Echo, body);
}

#[track_caller]
fn expect(peer: &mut Peer, sent: u8, payload: &[u8], received: u8) {
    peer.send(sent, payload);
    let frame = peer.read_message();
    assert_eq!((frame.first, &frame.payload[..]), (received, payload));
}

/// Empty, short, in an array of any width, and longer than a receive buffer.
fn payloads() -> [Vec<u8>; 4] {
    let text = "größer, 日本語, 🦀 ";
    ["", "a", text, &text.repeat(10_000)].map(|text| text.as_bytes().to_vec())
}

fn as_text(engine: Engine) {
    echo(engine, |host| {
        for query in ["encoding=text", "a=b&encoding=t%65xt&encoding=binary"] {
            let mut peer = Peer::open(host.address(), &format!("/?{query}"));
            for payload in payloads() {
                expect(&mut peer, TEXT, &payload, TEXT);
                expect(&mut peer, BINARY, &payload, TEXT);
            }
            peer.close();
        }
    });
}

fn as_binary(engine: Engine) {
    echo(engine, |host| {
        let mut peer = Peer::open(host.address(), "/?encoding=binary");
        for payload in payloads() {
            expect(&mut peer, TEXT, &payload, BINARY);
            expect(&mut peer, BINARY, &payload, BINARY);
        }
        expect(&mut peer, BINARY, b"\xFF\0\xC0", BINARY);
        peer.close();
    });
}

fn absent_it_is_what_was_sent(engine: Engine) {
    echo(engine, |host| {
        for target in ["/", "/?", "/?Encoding=text", "/?encodings=text"] {
            let mut peer = Peer::open(host.address(), target);
            expect(&mut peer, TEXT, b"as it was", TEXT);
            expect(&mut peer, BINARY, b"as it was", BINARY);
            peer.close();
        }
    });
}

fn binary_that_is_not_utf_8_cannot_be_text(engine: Engine) {
    echo(engine, |host| {
        let mut peer = Peer::open(host.address(), "/?encoding=text");
        expect(&mut peer, BINARY, b"fine", TEXT);
        peer.send(BINARY, b"not \xC0 fine");
        peer.answer_close(1007);
        let cause = CloseCause::Application(CloseCode::INVALID_PAYLOAD_DATA);
        assert_eq!(host.close_cause(), cause);
    });
}

fn it_is_text_or_binary(engine: Engine) {
    echo(engine, |host| {
        for query in ["encoding=", "encoding", "encoding=Text", "encoding=json"] {
            let mut peer = host.connect();
            peer.write(request(&format!("/?{query}")).as_bytes());
            let reply = peer.read_reply(false);
            assert_eq!(reply.status, 400, "{query}");
            assert!(
                reply.body.contains("neither text nor binary"),
                "{}",
                reply.body
            );
        }
        // The sink has nothing to encode.
        Peer::open(host.address(), "/sink?encoding=json").close();
    });
}
