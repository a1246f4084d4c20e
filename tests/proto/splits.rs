//! However the bytes are cut, the events and the answers are the same.

use ringwire::proto::Role;

use crate::{
    side::{Seen, Side},
    wire::*,
};

/// A conversation's one direction, as (first byte, payload) of each frame.
type Trace = Vec<(u8, Vec<u8>)>;

/// Text with characters of one, two, three and four bytes.
const TEXT_OF_ALL_WIDTHS: &str = "a\u{7f}é\u{7ff}\u{800}日\u{ffff}\u{10000}🦀\u{10ffff}z";

fn traces() -> Vec<(&'static str, Trace)> {
    let text = TEXT_OF_ALL_WIDTHS.as_bytes();
    let frame = |first: u8, payload: &[u8]| (first, payload.to_vec());
    let mut traces = vec![
        ("an empty text", vec![frame(FIN | TEXT, b"")]),
        ("an empty binary", vec![frame(FIN | BINARY, b"")]),
        ("text", vec![frame(FIN | TEXT, text)]),
        (
            "three messages",
            vec![
                frame(FIN | TEXT, text),
                frame(FIN | BINARY, &[0, 255, 128]),
                frame(FIN | TEXT, b"end"),
            ],
        ),
        (
            "control frames between fragments",
            vec![
                frame(TEXT, &text[..5]),
                frame(FIN | PING, b"one"),
                frame(CONTINUATION, &text[5..7]),
                frame(FIN | PONG, b""),
                frame(CONTINUATION, b""),
                frame(FIN | PING, &[7; 125]),
                frame(FIN | CONTINUATION, &text[7..]),
                frame(FIN | BINARY, b"next"),
            ],
        ),
        (
            "empty first and last fragments",
            vec![
                frame(BINARY, b""),
                frame(CONTINUATION, b"middle"),
                frame(FIN | CONTINUATION, b""),
            ],
        ),
        (
            "a close with a reason, and what nobody looks at",
            vec![
                frame(FIN | TEXT, b"before"),
                frame(FIN | CLOSE, &close_payload(3999, "größer")),
                frame(FIN | TEXT, b"after"),
            ],
        ),
        ("a close without a code", vec![frame(FIN | CLOSE, b"")]),
        (
            "a close inside of a message",
            vec![
                frame(TEXT, b"half"),
                frame(FIN | CLOSE, &close_payload(1001, "")),
            ],
        ),
        (
            "text that is not UTF-8",
            vec![
                frame(FIN | TEXT, b"fine"),
                frame(FIN | TEXT, b"not \xed\xa0\x80 fine"),
                frame(FIN | TEXT, b"never seen"),
            ],
        ),
        (
            "text that stops inside of a character",
            vec![frame(TEXT, b"\xf0\x9f"), frame(FIN | CONTINUATION, b"\xa6")],
        ),
        (
            "a continuation of nothing",
            vec![frame(FIN | BINARY, b"x"), frame(FIN | CONTINUATION, b"y")],
        ),
        (
            "a message inside of a message",
            vec![
                frame(BINARY, b"x"),
                frame(FIN | PING, b"p"),
                frame(FIN | BINARY, b"y"),
            ],
        ),
        (
            "a reserved opcode",
            vec![frame(FIN | TEXT, b"x"), frame(FIN | 0xb, b"")],
        ),
        (
            "a bad close code",
            vec![frame(FIN | CLOSE, &close_payload(1005, ""))],
        ),
        (
            "a bad close reason",
            vec![frame(FIN | CLOSE, &[3, 0xe8, 0xff])],
        ),
        ("a close of one byte", vec![frame(FIN | CLOSE, &[3])]),
        ("a fragmented ping", vec![frame(PING, b"x")]),
    ];
    for len in [124, 125, 126, 127, 128, 255, 256] {
        traces.push((
            "a length around the 16 bit form",
            vec![frame(FIN | BINARY, &vec![3; len]), frame(FIN | PING, b"p")],
        ));
    }
    traces
}

fn bytes_of(sender: Role, trace: &Trace) -> Vec<u8> {
    let frames = trace
        .iter()
        .map(|(first, payload)| frame(sender, *first, payload));
    frames.flatten().collect()
}

fn check_every_split(name: &str, role: Role, bytes: &[u8], expected: &(Vec<Seen>, Vec<u8>)) {
    for cut in 0..=bytes.len() {
        for side in Side::both(role) {
            let split = side.run(bytes, &[cut]);
            assert_eq!(split, *expected, "{name}, {role:?}, cut at {cut}");
        }
    }
    let every: Vec<usize> = (1..bytes.len()).collect();
    for side in Side::both(role) {
        let split = side.run(bytes, &every);
        assert_eq!(split, *expected, "{name}, {role:?}, byte by byte");
    }
    // Three pieces, where that is not too many.
    for cut in 0..bytes.len().min(60) {
        for second in cut..bytes.len().min(60) {
            let split = Side::in_batches(role).run(bytes, &[cut, second]);
            assert_eq!(
                split, *expected,
                "{name}, {role:?}, cut at {cut} and {second}"
            );
        }
    }
}

#[test]
fn every_split_point_gives_the_same_events_and_the_same_output() {
    for (name, trace) in traces() {
        for role in [Role::Client, Role::Server] {
            let bytes = bytes_of(other(role), &trace);
            let [one, batched] = Side::both(role);
            let expected = one.run(&bytes, &[]);
            assert_eq!(
                batched.run(&bytes, &[]),
                expected,
                "{name}, {role:?}, in a batch"
            );
            assert!(!expected.0.is_empty(), "{name}: nothing happened");
            check_every_split(name, role, &bytes, &expected);
        }
    }
}

/// The traces above hold what their names say: otherwise they would be equal and wrong.
#[test]
fn whole_traces_give_the_events_that_their_names_promise() {
    use ringwire::ProtocolError::*;
    let text = || Seen::Text(TEXT_OF_ALL_WIDTHS.into());
    let last = |name: &str| {
        let found = traces().into_iter().find(|(this, _)| *this == name);
        let bytes = bytes_of(Role::Client, &found.expect("a trace of this name").1);
        Side::new(Role::Server).run(&bytes, &[]).0
    };
    assert_eq!(last("text"), [text()]);
    assert_eq!(
        last("control frames between fragments"),
        [
            Seen::Ping(b"one".into()),
            Seen::Pong(Vec::new()),
            Seen::Ping(vec![7; 125]),
            text(),
            Seen::Binary(b"next".into()),
        ]
    );
    assert_eq!(
        last("empty first and last fragments"),
        [Seen::Binary(b"middle".into())]
    );
    assert_eq!(
        last("a close with a reason, and what nobody looks at"),
        [
            Seen::Text("before".into()),
            Seen::Close(Some(3999), "größer".into()),
        ]
    );
    assert_eq!(
        last("a close inside of a message"),
        [Seen::Close(Some(1001), String::new())]
    );
    for (name, error) in [
        ("text that is not UTF-8", TextNotUtf8),
        ("text that stops inside of a character", TextNotUtf8),
        ("a continuation of nothing", ContinuationWithoutMessage),
        ("a message inside of a message", MessageInterleaved),
        ("a reserved opcode", OpcodeReserved(0xb)),
        ("a bad close code", CloseCodeNotAllowed(1005)),
        ("a bad close reason", CloseReasonNotUtf8),
        ("a close of one byte", CloseBodyTooShort),
        ("a fragmented ping", ControlFragmented),
    ] {
        assert_eq!(last(name).last(), Some(&Seen::Failed(error)), "{name}");
    }
}

#[test]
fn the_64_bit_length_is_read_wherever_it_is_cut() {
    let payload = vec![0xab; 65_536];
    for role in [Role::Client, Role::Server] {
        let bytes = frame(other(role), FIN | BINARY, &payload);
        let expected = vec![Seen::Binary(payload.clone())];
        for cut in (0..20).chain([1000, 65_535, bytes.len() - 1]) {
            for side in Side::both(role) {
                assert_eq!(
                    side.run(&bytes, &[cut]).0,
                    expected,
                    "{role:?}, cut at {cut}"
                );
            }
        }
    }
}

#[test]
fn more_messages_than_fit_into_a_batch_come_in_order() {
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for number in 0..50usize {
        let payload = vec![number as u8; number * 7 % 130];
        bytes.extend(frame(Role::Client, FIN | BINARY, &payload));
        expected.push(Seen::Binary(payload));
        if number % 9 == 8 {
            bytes.extend(frame(Role::Client, FIN | PING, &[number as u8]));
            expected.push(Seen::Ping(vec![number as u8]));
        }
    }
    for cut in 0..=bytes.len() {
        assert_eq!(
            Side::in_batches(Role::Server).run(&bytes, &[cut]).0,
            expected
        );
    }
}
