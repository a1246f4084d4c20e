//! Text is judged at the earliest byte that cannot be UTF-8 any more, over fragments and reads.

use ringwire::{
    MessageKind, Outgoing, ProtocolError, SendError,
    proto::{Role, endpoint::Control},
};

use crate::{
    side::{Seen, Side},
    wire::*,
};

/// Bytes of a text message, and how many of them prove that it is none. `None` where it is text.
const TEXTS: [(&[u8], Option<usize>); 24] = [
    (b"\x80", Some(1)),
    (b"\xbf", Some(1)),
    (b"a\x80", Some(2)),
    (b"\xc0\x80", Some(1)),
    (b"\xc1\xbf", Some(1)),
    (b"\xc2\x41", Some(2)),
    (b"\xe0\x80\x80", Some(2)),
    (b"\xe0\x9f\xbf", Some(2)),
    (b"\xe1\x80\x41", Some(3)),
    (b"\xed\xa0\x80", Some(2)),
    (b"\xed\xbf\xbf", Some(2)),
    (b"\xf0\x80\x80\x80", Some(2)),
    (b"\xf0\x8f\xbf\xbf", Some(2)),
    (b"\xf1\x80\x80\x41", Some(4)),
    (b"\xf4\x90\x80\x80", Some(2)),
    (b"\xf5\x80\x80\x80", Some(1)),
    (b"\xff", Some(1)),
    (
        b"plain text of more than sixteen bytes, then \xfe",
        Some(45),
    ),
    ("é".as_bytes(), None),
    ("\u{800}\u{ffff}".as_bytes(), None),
    ("\u{d7ff}\u{e000}".as_bytes(), None),
    ("\u{10000}\u{10ffff}".as_bytes(), None),
    (b"\0\x7f", None),
    (b"", None),
];

/// The state after each byte of payload, given one by one in a frame or in a fragment each.
fn check(bytes: &[u8], proof: Option<usize>, fragments: bool, padding: usize) {
    let role = Role::Server;
    let mut all = vec![b'p'; padding];
    all.extend(bytes);
    let mut side = Side::in_batches(role);
    if fragments {
        side.feed(&frame(Role::Client, TEXT, b""));
    }
    let whole = frame(Role::Client, FIN | TEXT, &all);
    let at = whole.len() - all.len();
    if !fragments {
        side.feed(&whole[..at]);
    }
    for (index, byte) in all.iter().enumerate() {
        if fragments {
            side.feed(&frame(Role::Client, CONTINUATION, &[*byte]));
        } else {
            side.feed(&whole[at + index..][..1]);
        }
        let failed = side.seen == [Seen::Failed(ProtocolError::TextNotUtf8)];
        let expected = proof.is_some_and(|proof| index + 1 >= padding + proof);
        assert_eq!(
            failed, expected,
            "{bytes:x?} behind {padding} bytes, byte {index}, in fragments: {fragments}"
        );
    }
    if proof.is_none() {
        if fragments {
            side.feed(&frame(Role::Client, FIN | CONTINUATION, b""));
        }
        let text = String::from_utf8(all).expect("the table says that it is text");
        assert_eq!(side.seen, [Seen::Text(text)]);
    } else {
        let error = ProtocolError::TextNotUtf8;
        let payload = close_payload(1007, error.reason());
        assert_eq!(side.take_output(), frame(role, FIN | CLOSE, &payload));
    }
    side.end();
}

#[test]
fn text_fails_at_the_first_byte_that_proves_it() {
    for (bytes, proof) in TEXTS {
        for padding in [0, 1, 7, 15, 16, 31, 32, 63, 64, 100] {
            check(bytes, proof, false, padding);
            check(bytes, proof, true, padding);
        }
    }
}

#[test]
fn text_that_stops_inside_of_a_character_fails_at_its_end_and_not_before() {
    for cut in [&b"\xc3"[..], b"\xe6\x97", b"\xf0\x9f\xa6", b"ok\xf0"] {
        for mut side in Side::both(Role::Server) {
            side.feed(&frame(Role::Client, TEXT, cut));
            assert_eq!(side.seen, []);
            side.feed(&frame(Role::Client, FIN | CONTINUATION, b""));
            assert_eq!(side.seen, [Seen::Failed(ProtocolError::TextNotUtf8)]);
        }
        for mut side in Side::both(Role::Server) {
            side.feed(&frame(Role::Client, FIN | TEXT, cut));
            assert_eq!(side.seen, [Seen::Failed(ProtocolError::TextNotUtf8)]);
        }
    }
}

#[test]
fn binary_is_not_judged() {
    for (bytes, _) in TEXTS {
        for mut side in Side::both(Role::Client) {
            side.feed(&frame(Role::Server, FIN | BINARY, bytes));
            assert_eq!(side.seen, [Seen::Binary(bytes.to_vec())]);
        }
    }
}

#[test]
fn what_is_sent_as_text_is_text() {
    for (bytes, proof) in TEXTS {
        let made = Outgoing::text(bytes.into());
        assert_eq!(
            made.err(),
            proof.map(|_| SendError::TextNotUtf8),
            "{bytes:x?}"
        );
    }
}

#[test]
fn what_is_sent_has_the_kind_of_its_type() {
    let mut server = Side::new(Role::Server);
    server.send("text").unwrap();
    server.send(String::from("text")).unwrap();
    server.send(&b"bytes"[..]).unwrap();
    server.send(b"bytes".to_vec()).unwrap();
    server.control(Control::Ping, b"p").unwrap();
    let mut expected = frame(Role::Server, FIN | TEXT, b"text").repeat(2);
    expected.extend(frame(Role::Server, FIN | BINARY, b"bytes").repeat(2));
    expected.extend(frame(Role::Server, FIN | PING, b"p"));
    assert_eq!(server.take_output(), expected);
    assert_eq!(MessageKind::Text.opcode() as u8, TEXT);
    assert_eq!(MessageKind::Binary.opcode() as u8, BINARY);
}
