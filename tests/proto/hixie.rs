//! hixie-76: its framing at every split, mutated, at its limits, and what it has no words for.

use bytes::Bytes;
use ringwire::{
    CloseCode,
    ProtocolError::*,
    SendError,
    proto::{Endpoint, Limits, Role, Version, endpoint::Control, message::Outgoing},
};

use crate::{
    Prng,
    hixie_reference::decode,
    side::{Ends, LIMITS, Seen, Side},
};

const CLOSE: [u8; 2] = [0xFF, 0x00];

fn text(payload: &str) -> Vec<u8> {
    [&[0x00], payload.as_bytes(), &[0xFF]].concat()
}

/// A length in groups of seven bits, as section 4.2 of hybi-00 reads it.
fn length(mut len: usize) -> Vec<u8> {
    let mut bytes = vec![(len % 128) as u8];
    while len >= 128 {
        len /= 128;
        bytes.insert(0, 0x80 | (len % 128) as u8);
    }
    bytes
}

fn binary(payload: &[u8]) -> Vec<u8> {
    [&[0x80], &length(payload.len())[..], payload].concat()
}

/// Event by event, and in batches, as a shard does.
fn both() -> [Side; 2] {
    Side::both(Role::Server).map(|mut side| {
        side.endpoint = Endpoint::hixie76();
        side
    })
}

fn hixie() -> Side {
    let [side, _] = both();
    side
}

#[test]
fn every_split_point_gives_the_same_events_and_the_same_output() {
    let wide = "a\0\u{7f}é\u{7ff}\u{800}日\u{ffff}\u{10000}🦀\u{10ffff}z";
    let failed = |error| vec![Seen::Text("before".into()), Seen::Failed(error)];
    let after = |bytes: &[u8]| [&text("before")[..], bytes, &text("after")].concat();
    let traces: Vec<(&str, Vec<u8>, Vec<Seen>)> = vec![
        ("an empty text", text(""), vec![Seen::Text(String::new())]),
        ("text", text(wide), vec![Seen::Text(wide.into())]),
        (
            "messages of both kinds",
            [
                text("one"),
                binary(b""),
                binary(&[0xFF, 0x00, 0x80]),
                text("two"),
                binary(&[7; 200]),
            ]
            .concat(),
            vec![
                Seen::Text("one".into()),
                Seen::Binary(Vec::new()),
                Seen::Binary(vec![0xFF, 0x00, 0x80]),
                Seen::Text("two".into()),
                Seen::Binary(vec![7; 200]),
            ],
        ),
        (
            "a close, and what nobody looks at",
            after(&CLOSE),
            vec![
                Seen::Text("before".into()),
                Seen::Close(None, String::new()),
            ],
        ),
        (
            "a close inside of a text",
            [&[0x00], b"half" as &[u8], &CLOSE].concat(),
            // It is the end of the text, and the beginning of another one.
            vec![Seen::Text("half".into())],
        ),
        (
            "not UTF-8",
            after(b"\0\xED\xA0\x80\xFF"),
            failed(TextNotUtf8),
        ),
        (
            "half a character",
            after(b"\0\xF0\x9F\xA6\xFF"),
            failed(TextNotUtf8),
        ),
        (
            "another text type",
            after(b"\x01a\xFF"),
            failed(OpcodeReserved(1)),
        ),
        (
            "another binary type",
            after(b"\x81\x00"),
            failed(OpcodeReserved(0x81)),
        ),
        (
            "a close with a length",
            after(b"\xFF\x01a"),
            failed(OpcodeReserved(0xFF)),
        ),
        (
            "a length of leading zeros",
            after(b"\x80\x80\x01a"),
            failed(LengthNotMinimal),
        ),
        (
            "a length beyond all bounds",
            after(&[&[0x80][..], &[0xFF; 30]].concat()),
            failed(MessageTooBig),
        ),
    ];
    for (name, bytes, expected) in traces {
        let whole = hixie().run(&bytes, &[]);
        assert_eq!(whole.0, expected, "{name}");
        assert_eq!(
            decode(&LIMITS, &bytes),
            expected,
            "{name}, by the reference"
        );
        let ends = matches!(expected.last(), Some(Seen::Close(..) | Seen::Failed(_)));
        assert_eq!(whole.1, if ends { &CLOSE[..] } else { &[] }, "{name}");
        for cut in 0..=bytes.len() {
            for side in both() {
                assert_eq!(side.run(&bytes, &[cut]), whole, "{name}, cut at {cut}");
            }
            for second in cut..bytes.len().min(60) {
                let [_, side] = both();
                let split = side.run(&bytes, &[cut, second]);
                assert_eq!(split, whole, "{name}, cut at {cut} and {second}");
            }
        }
        let every: Vec<usize> = (1..bytes.len()).collect();
        for side in both() {
            assert_eq!(side.run(&bytes, &every), whole, "{name}, byte by byte");
        }
    }
}

/// A stream that mostly keeps to the draft, if not to the limits.
fn stream(prng: &mut Prng) -> Vec<u8> {
    let mut stream = Vec::new();
    for _ in 0..1 + prng.below(6) {
        let len = [0, 1, 3, 127, 128, 300, 1_000][prng.below(7)];
        if prng.below(3) > 0 {
            stream.extend(text(&prng.text(len)));
        } else {
            stream.extend(binary(&prng.bytes(len)));
        }
    }
    if prng.below(40) == 0 {
        // Accidents hardly ever make this one.
        stream.extend([0x80, 0x80, 0x01, 7]);
    }
    if prng.below(2) == 0 {
        stream.extend(CLOSE);
    }
    stream
}

#[test]
fn random_pieces_give_what_the_reference_reads() {
    let limits = Limits {
        message_bytes_max: 700,
        ..LIMITS
    };
    let mut ends = Ends::default();
    for seed in 0..6_000 {
        let prng = &mut Prng(seed);
        let mut bytes = stream(prng);
        for _ in 0..[0, 0, 1, 3][prng.below(4)] {
            let at = prng.below(bytes.len());
            match prng.below(4) {
                0 => bytes[at] ^= 1 << prng.below(8),
                1 => bytes.insert(at, prng.draw() as u8),
                2 => {
                    let twice = bytes[at];
                    bytes.insert(at, [0x00, 0x80, 0xFF, twice][prng.below(4)]);
                }
                _ => bytes.truncate(at + 1),
            }
        }
        let expected = decode(&limits, &bytes);
        for mut side in both() {
            side.limits = limits;
            side.feed_in_pieces(&bytes, prng);
            assert_eq!(side.seen, expected, "seed {seed}");
            side.end();
        }
        ends.add(&expected);
    }
    ends.expect_many();
    let failed = ends.failed;
    assert_eq!(failed.len(), 4, "{failed:?}");
    assert!(failed.values().all(|&count| count > 10), "{failed:?}");
}

#[test]
fn a_message_of_exactly_the_limit_is_read_and_a_longer_one_fails_where_it_passes_it() {
    let limit = 300;
    let full = "x".repeat(limit);
    for make in [text as fn(&str) -> Vec<u8>, |text| binary(text.as_bytes())] {
        for mut side in both() {
            side.limits.message_bytes_max = limit as u64;
            side.feed(&make(&full));
            assert!(matches!(&side.seen[..], [Seen::Text(_) | Seen::Binary(_)]));
            side.feed(&make(&format!("{full}x")));
            assert_eq!(side.seen[1..], [Seen::Failed(MessageTooBig)]);
            assert_eq!(side.take_output(), CLOSE);
            side.end();
        }
    }
    // The end never comes: the limit is noticed where it is passed, and never before.
    let mut side = hixie();
    side.limits.message_bytes_max = limit as u64;
    side.feed(&[0x00]);
    for _ in 0..limit {
        side.feed(b"x");
    }
    assert_eq!(side.seen, []);
    side.feed(b"x");
    assert_eq!(side.seen, [Seen::Failed(MessageTooBig)]);
    side.end();
    // A length is judged before a byte of the payload has come, and cannot wrap around.
    let mut side = hixie();
    side.limits.message_bytes_max = u64::MAX;
    side.feed(&[&[0x80, 0x81][..], &[0x80; 8], &[0x00]].concat());
    assert_eq!(side.seen, []);
    side.end();
    let mut side = hixie();
    side.limits.message_bytes_max = u64::MAX;
    side.feed(&[&[0x80, 0x82][..], &[0x80; 8]].concat());
    assert_eq!(side.seen, []);
    side.feed(&[0x80]);
    assert_eq!(side.seen, [Seen::Failed(MessageTooBig)]);
    side.end();
}

#[test]
fn what_is_sent_is_framed_as_the_draft_says() {
    let mut side = hixie();
    assert_eq!(side.endpoint.version(), Version::Hixie76);
    assert_eq!(side.endpoint.role(), Role::Server);
    assert!(!side.endpoint.is_close_sent() && !side.endpoint.is_input_ended());
    side.send("größer").unwrap();
    side.send("").unwrap();
    assert_eq!(side.take_output(), [text("größer"), text("")].concat());
    // Short enough to be copied, and long enough to be adopted.
    for len in [1, 200, 4095, 4096, 100_000] {
        let payload = "y".repeat(len);
        let shared = Outgoing::text(Bytes::from(payload.clone())).unwrap();
        side.send(shared).unwrap();
        assert_eq!(side.take_output(), text(&payload));
    }
    side.send_fragmented("in one piece", 3).unwrap();
    assert_eq!(side.take_output(), text("in one piece"));
    side.end();
}

#[test]
fn binary_goes_to_those_who_have_sent_some() {
    let mut side = hixie();
    let payload = [0xFFu8; 130];
    // A browser would throw it away.
    assert_eq!(side.send(&payload[..]), Err(SendError::Unsupported));
    let fragmented = side.send_fragmented(&payload[..], 10);
    assert_eq!(fragmented, Err(SendError::Unsupported));
    side.feed(&text("I am one"));
    assert_eq!(side.send(&payload[..]), Err(SendError::Unsupported));
    assert_eq!(side.take_output(), []);
    side.feed(&binary(b"I am none"));
    side.send(&payload[..]).unwrap();
    side.send(&b""[..]).unwrap();
    side.send(Bytes::from(vec![1; 20_000])).unwrap();
    let expected = [binary(&payload), binary(b""), binary(&[1; 20_000])];
    assert_eq!(side.take_output(), expected.concat());
    side.end();
}

#[test]
fn there_are_no_pings_and_pongs() {
    let mut side = hixie();
    for control in [Control::Ping, Control::Pong] {
        assert_eq!(side.control(control, b""), Err(SendError::Unsupported));
        let long = side.control(control, &[0; 126]);
        assert_eq!(long, Err(SendError::ControlTooLong));
    }
    side.close(CloseCode::NORMAL_CLOSURE, "").unwrap();
    let closed = side.control(Control::Ping, b"");
    assert_eq!(closed, Err(SendError::Closed));
    assert_eq!(side.take_output(), CLOSE);
}

#[test]
fn the_closing_handshake_in_every_order() {
    let code = CloseCode::new(4000).unwrap();
    let closed = [Seen::Close(None, String::new())];
    // The peer first: it is answered, once.
    for mut side in both() {
        side.feed(&CLOSE);
        assert_eq!(side.seen, closed);
        assert_eq!(side.take_output(), CLOSE);
        assert!(side.endpoint.is_close_sent() && side.endpoint.is_input_ended());
        side.feed(&text("too late"));
        assert_eq!(side.seen, closed);
        assert_eq!(side.send("too late"), Err(SendError::Closed));
        assert_eq!(side.close(code, ""), Err(SendError::Closed));
        assert_eq!(side.take_output(), []);
        side.end();
    }
    // This side first: neither code nor reason is sent, and what comes meanwhile is not told.
    for mut side in both() {
        side.feed(b"\0half a ");
        assert_eq!(
            side.close(code, &"x".repeat(124)),
            Err(SendError::ControlTooLong)
        );
        side.close(code, "enough").unwrap();
        assert!(side.endpoint.is_close_sent() && !side.endpoint.is_input_ended());
        assert_eq!(side.close(code, "enough"), Err(SendError::Closed));
        side.feed(&[b"message\xFF", &binary(b"x")[..], &text("y")].concat());
        assert_eq!(side.seen, []);
        assert_eq!(side.send("too late"), Err(SendError::Closed));
        side.feed(&CLOSE);
        assert_eq!(side.seen, closed);
        assert_eq!(side.take_output(), CLOSE);
        side.end();
    }
    // A violation after our close frame is not answered by a second one.
    let mut side = hixie();
    side.close(code, "").unwrap();
    side.feed(&[0x42]);
    assert_eq!(side.seen, [Seen::Failed(OpcodeReserved(0x42))]);
    assert_eq!(side.take_output(), CLOSE);
    side.end();
}
