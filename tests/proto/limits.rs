//! What a peer may ask for, judged before it costs anything.

use ringwire::{
    Config,
    ProtocolError::{self, *},
    proto::{Limits, Role},
};

use crate::{
    side::{LIMITS, Seen, Side},
    wire::*,
};

fn limits(bytes: u64, fragments: u32, empty_fragments: u32) -> Limits {
    Limits {
        message_bytes_max: bytes,
        message_fragments_max: fragments,
        message_empty_fragments_max: empty_fragments,
    }
}

/// Checks that the last of these pieces fails a server with this error, and none before.
fn fails_at_last(limits: Limits, pieces: &[Vec<u8>], error: ProtocolError, code: u16) {
    for mut side in Side::both(Role::Server) {
        side.limits = limits;
        let (last, before) = pieces.split_last().expect("at least one piece");
        for piece in before {
            side.feed(piece);
            assert_eq!(side.seen, [], "{error:?} came early");
            assert_eq!(side.take_output(), b"");
        }
        side.feed(last);
        assert_eq!(side.seen, [Seen::Failed(error)]);
        let payload = close_payload(code, error.reason());
        assert_eq!(
            side.take_output(),
            frame(Role::Server, FIN | CLOSE, &payload)
        );
        side.end();
    }
}

#[test]
fn a_message_that_is_too_big_is_refused_by_its_header_alone() {
    let header = |first, len| header(Role::Client, first, len);
    for (max, len) in [
        (1, 2),
        (125, 126),
        (65_535, 65_536),
        (1 << 20, 1 << 40),
        (5, u64::MAX >> 1),
    ] {
        for first in [FIN | TEXT, FIN | BINARY, TEXT, BINARY] {
            let pieces = [header(first, len)];
            fails_at_last(limits(max, 9, 9), &pieces, MessageTooBig, 1009);
        }
    }
    // The sum over fragments counts, and control frames do not.
    let pieces = [
        frame(Role::Client, TEXT, b"0123456789"),
        header(FIN | CONTINUATION, 6),
    ];
    fails_at_last(limits(15, 9, 9), &pieces, MessageTooBig, 1009);
    let mut side = Side::new(Role::Server);
    side.limits = limits(10, 9, 9);
    side.feed(&frame(Role::Client, TEXT, b"01234"));
    side.feed(&frame(Role::Client, FIN | PING, &[1; 125]));
    side.feed(&frame(Role::Client, FIN | CONTINUATION, b"56789"));
    assert_eq!(side.seen[1], Seen::Text("0123456789".into()));
}

#[test]
fn a_message_at_the_limit_passes() {
    for len in [1usize, 125, 126, 4_000, 65_535, 65_536] {
        for mut side in Side::both(Role::Server) {
            side.limits = limits(len as u64, 1, 0);
            side.feed(&frame(Role::Client, FIN | BINARY, &vec![5; len]));
            assert_eq!(side.seen, [Seen::Binary(vec![5; len])]);
        }
    }
}

#[test]
fn one_fragment_too_many_fails_with_1008() {
    let piece = |first| frame(Role::Client, first, b"x");
    let mut pieces = vec![piece(BINARY)];
    pieces.extend((1..5).map(|_| piece(CONTINUATION)));
    pieces.push(header(Role::Client, FIN | CONTINUATION, 1));
    fails_at_last(limits(100, 5, 0), &pieces, FragmentFlood, 1008);

    let empty = |first| frame(Role::Client, first, b"");
    let mut pieces = vec![empty(BINARY)];
    pieces.extend((1..4).map(|_| empty(CONTINUATION)));
    fails_at_last(limits(100, 50, 3), &pieces, EmptyFragmentFlood, 1008);
}

#[test]
fn the_counts_begin_anew_with_each_message() {
    let mut side = Side::new(Role::Server);
    side.limits = limits(4, 2, 1);
    for _ in 0..10 {
        side.feed(&frame(Role::Client, BINARY, b""));
        side.feed(&frame(Role::Client, FIN | CONTINUATION, b"1234"));
    }
    assert_eq!(side.seen, vec![Seen::Binary(b"1234".into()); 10]);
}

#[test]
fn a_long_message_in_small_fragments_passes_with_the_defaults_in_one_buffer() {
    let defaults = Config::default();
    let mut side = Side::in_batches(Role::Server);
    side.limits = limits(
        defaults.message_bytes_max,
        defaults.message_fragments_max,
        defaults.message_empty_fragments_max,
    );
    let mut expected = Vec::new();
    for number in 0..65_536u32 {
        let payload = [number as u8; 64];
        let opcode = if number == 0 { BINARY } else { CONTINUATION };
        let fin = if number == 65_535 { FIN } else { 0 };
        side.feed(&frame(Role::Client, fin | opcode, &payload));
        expected.extend(payload);
        if fin == 0 {
            assert_eq!(
                side.pool.out(),
                1,
                "one buffer holds what there is of a message"
            );
        }
    }
    assert!(side.seen == [Seen::Binary(expected)], "the message differs");
    side.end();
}

#[test]
fn nothing_is_held_for_a_message_that_was_only_announced() {
    let mut side = Side::new(Role::Server);
    side.feed(&header(
        Role::Client,
        FIN | BINARY,
        LIMITS.message_bytes_max,
    ));
    assert_eq!(side.pool.out(), 0);
    assert_eq!(side.seen, []);
}
