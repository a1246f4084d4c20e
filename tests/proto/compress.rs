//! Compressed messages (RFC 7692): what is written is read back by a decoder that shares no code,
//! and whatever comes is read as that decoder reads it, or refused.

use bytes::Bytes;
use ringwire::{
    CloseCode, Outgoing,
    ProtocolError::{self, *},
    proto::{
        Role,
        deflate::{Codec, Terms},
        endpoint::Control,
    },
};

use crate::{
    Prng,
    inflate::{inflate_message, inflate_tolerantly},
    side::{Seen, Side, TERMS},
    wire::*,
};

const RSV1: u8 = 0x40;
const OFFER: &str = "permessage-deflate; client_max_window_bits";
const NO_CONTEXT: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What a server sees of these payloads, each a whole compressed text message.
fn server_sees(offer: &str, payloads: &[&[u8]]) -> Vec<Seen> {
    let mut side = Side::compressing(Role::Server, offer);
    for payload in payloads {
        side.feed(&frame(Role::Client, FIN | RSV1 | TEXT, payload));
    }
    side.end();
    side.seen
}

/// The frames of a stream, unmasked: first byte and payload.
fn frames(sender: Role, mut stream: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [first, second, rest @ ..] = stream {
        let (len, rest) = match second & 0x7f {
            126 => (u16::from_be_bytes([rest[0], rest[1]]) as usize, &rest[2..]),
            127 => (
                u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize,
                &rest[8..],
            ),
            len => (usize::from(len), rest),
        };
        let (key, rest) = match sender {
            Role::Client => rest.split_at(4),
            Role::Server => (&[0; 4][..], rest),
        };
        let payload = rest[..len].iter().zip(key.iter().cycle());
        found.push((*first, payload.map(|(byte, key)| byte ^ key).collect()));
        stream = &rest[len..];
    }
    found
}

/// Something that gets shorter: lines of a log.
fn log(prng: &mut Prng, len: usize) -> String {
    let mut text = String::new();
    while text.len() < len {
        let (level, id) = (
            ["info", "warn", "größer"][prng.below(3)],
            prng.below(100_000),
        );
        text.push_str(&format!(
            "{level} connection {id} sent {} bytes\n",
            prng.below(4096)
        ));
    }
    while text.len() > len {
        text.pop();
    }
    text
}

#[test]
fn section_7_2_3_the_examples() {
    let hello = || Seen::Text("Hello".into());
    let one_block: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let cases: &[(&str, &[u8])] = &[
        ("7.2.3.1: one block", one_block),
        (
            "7.2.3.3: a stored block",
            b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
        ),
        (
            "7.2.3.4: a final block",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        ),
        (
            "7.2.3.5: two blocks",
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        ),
        (
            "an empty block behind it",
            b"\xf2\x48\xcd\xc9\xc9\x07\x00\x00\x00\xff\xff\x00",
        ),
        (
            "a final block and nothing behind it",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00",
        ),
        (
            "two final blocks, the second referring to the first",
            b"\xf3\x48\xcd\x01\x00\xf3\x00\x00\x00",
        ),
    ];
    for (name, payload) in &cases[..6] {
        assert_eq!(server_sees(OFFER, &[payload]), [hello()], "{name}");
    }
    // 7.2.3.2: the second message refers to the first one.
    let again: &[u8] = &[0xf2, 0x00, 0x11, 0x00, 0x00];
    assert_eq!(server_sees(OFFER, &[one_block, again]), [hello(), hello()]);
    let without = server_sees(NO_CONTEXT, &[one_block, again]);
    assert_eq!(without, [hello(), Seen::Failed(DeflateInvalid)]);
    // 7.2.3.6: an empty message, and one whose sender left out all of it.
    let empty = || Seen::Text(String::new());
    assert_eq!(
        server_sees(OFFER, &[b"\x00", b"", b"\x02\x00"]),
        [empty(), empty(), empty()]
    );
    // 7.2.3.1 in two fragments, with control frames between them.
    let mut side = Side::compressing(Role::Server, OFFER);
    side.feed(&frame(Role::Client, RSV1 | TEXT, &one_block[..3]));
    side.feed(&frame(Role::Client, FIN | PING, b"between"));
    side.feed(&frame(Role::Client, FIN | CONTINUATION, &one_block[3..]));
    assert_eq!(side.seen, [Seen::Ping(b"between".into()), hello()]);
    side.end();
}

#[test]
fn section_6_1_rsv1_stands_on_the_first_frame_of_a_message_only() {
    let cases: &[(&[u8], ProtocolError)] = &[
        (&[FIN | RSV1 | PING], CompressedBitMisplaced),
        (&[FIN | RSV1 | PONG], CompressedBitMisplaced),
        (&[FIN | RSV1 | CLOSE], CompressedBitMisplaced),
        (
            &[RSV1 | TEXT, FIN | RSV1 | CONTINUATION],
            CompressedBitMisplaced,
        ),
        (&[TEXT, FIN | RSV1 | CONTINUATION], CompressedBitMisplaced),
        (&[TEXT, FIN | RSV1 | PING], CompressedBitMisplaced),
        (&[FIN | RSV1 | CONTINUATION], CompressedBitMisplaced),
        (&[RSV1 | TEXT, FIN | RSV1 | TEXT], MessageInterleaved),
        (&[FIN | 0x20 | TEXT], ReservedBit),
        (&[FIN | 0x50 | TEXT], ReservedBit),
        (&[FIN | RSV1 | 0x3], OpcodeReserved(3)),
    ];
    for (firsts, error) in cases {
        assert_eq!(error.close_code().number(), 1002);
        for step in [1, 2, usize::MAX] {
            let mut side = Side::compressing(Role::Server, OFFER);
            let stream: Vec<u8> = firsts
                .iter()
                .flat_map(|first| frame(Role::Client, *first, b""))
                .collect();
            for piece in stream.chunks(step.min(stream.len())) {
                side.feed(piece);
            }
            assert_eq!(side.seen, [Seen::Failed(*error)], "{firsts:x?}");
            side.end();
        }
    }
    // Nobody agreed on anything.
    for first in [FIN | RSV1 | TEXT, RSV1 | BINARY, FIN | RSV1 | PING] {
        for mut side in Side::both(Role::Server) {
            side.feed(&frame(Role::Client, first, b""));
            assert_eq!(side.seen, [Seen::Failed(ReservedBit)]);
        }
    }
}

#[test]
fn every_window_and_context_goes_round_and_keeps_to_its_window() {
    for bits in 8..=15 {
        for contexts in [
            "",
            "; server_no_context_takeover",
            "; client_no_context_takeover",
        ] {
            let offer = format!(
                "permessage-deflate; server_max_window_bits={bits}; client_max_window_bits={bits}\
                 {contexts}"
            );
            for sender in [Role::Client, Role::Server] {
                let name = match sender {
                    Role::Client => "client_no",
                    Role::Server => "server_no",
                };
                go_round(&offer, sender, bits, !contexts.contains(name));
            }
        }
    }
}

fn go_round(offer: &str, sender: Role, bits: u32, has_context: bool) {
    let prng = &mut Prng(u64::from(bits) + 1);
    let mut from = Side::compressing(sender, offer);
    let mut to = Side::compressing(other(sender), offer);
    let (mut before, mut reach, mut referred) = (Vec::new(), 0, 0);
    for round in 0..40 {
        let len = [0, 1, 125, 126, 300, 1000, 5000, 70_000][round % 8];
        let fragment = [usize::MAX, 1, 100][round % 3];
        let expected = if round % 5 == 4 {
            let bytes = prng.bytes(len);
            match round % 3 {
                0 => from.send(&bytes[..]).unwrap(),
                _ => from
                    .send_fragmented(&bytes[..], fragment.max(len / 50 + 1))
                    .unwrap(),
            }
            Seen::Binary(bytes)
        } else {
            let text = log(prng, len);
            match round % 4 {
                0 if fragment == usize::MAX => from.send(&*text).unwrap(),
                1 => from
                    .send(Outgoing::text(Bytes::from(text.clone())).unwrap())
                    .unwrap(),
                _ => from
                    .send_fragmented(&*text, fragment.max(len / 50 + 1))
                    .unwrap(),
            }
            Seen::Text(text)
        };
        let stream = from.take_output();
        let sent = frames(sender, &stream);
        let payload: Vec<u8> = sent
            .iter()
            .flat_map(|(_, payload)| payload.clone())
            .collect();
        assert!(
            sent[1..]
                .iter()
                .all(|(first, _)| first & 0x7f == CONTINUATION)
        );
        let plain = match &expected {
            Seen::Text(text) => text.as_bytes(),
            Seen::Binary(bytes) => bytes,
            _ => unreachable!("only messages are sent"),
        };
        if sent[0].0 & RSV1 == 0 {
            assert_eq!(payload, plain, "round {round} of {offer}");
            let hopeless = len < 300 || matches!(expected, Seen::Binary(_));
            assert!(hopeless, "{len} bytes of text were not compressed, {offer}");
        } else {
            assert!(payload.len() < plain.len() && len >= 126);
            let earlier = if has_context { &before[..] } else { &[] };
            let inflated = inflate_message(&payload, earlier).expect("a valid stream");
            assert!(inflated.bytes == plain, "round {round} of {offer}");
            reach = reach.max(inflated.reach);
            referred += usize::from(inflate_message(&payload, b"").is_none());
            before.extend_from_slice(plain);
        }
        let cut = prng.below(stream.len());
        to.feed(&stream[..cut]);
        to.feed(&stream[cut..]);
        assert_eq!(to.seen.pop(), Some(expected), "round {round} of {offer}");
        assert_eq!(to.seen, []);
    }
    assert!(reach <= 1 << bits, "{offer} reaches {reach} bytes back");
    assert!(
        reach > (1 << bits) / 3,
        "{offer} reaches only {reach} bytes back"
    );
    assert_eq!(
        referred > 0,
        has_context,
        "{referred} referred to earlier messages, {offer}"
    );
    from.end();
    to.end();
}

/// Compressing one is done in one go, so that its length has a limit (RFC 7692 section 6).
#[test]
fn what_is_too_long_is_sent_as_it_is_and_no_context_remembers_it() {
    for offer in [OFFER, NO_CONTEXT] {
        for sender in [Role::Client, Role::Server] {
            let terms = Terms {
                bytes_max: 10_000,
                ..TERMS
            };
            let mut from = Side::in_batches(sender);
            from.codec = Codec::new(terms);
            from.compress(offer);
            let mut to = Side::compressing(other(sender), offer);
            let mut sent = |message: Outgoing<'_>, seen: &[u8]| {
                from.send(message).unwrap();
                let stream = from.take_output();
                to.feed(&stream);
                assert_eq!(to.seen.pop(), Some(Seen::Binary(seen.into())));
                (stream[0], stream.len())
            };
            for len in [10_000, 10_001, 9_999, 300_000, 10_000] {
                let bytes = b"0123456789".repeat(len / 10 + 1)[..len].to_vec();
                for shared in [false, true] {
                    let outgoing = match shared {
                        true => Outgoing::from(bytes.clone()),
                        false => Outgoing::from(&bytes[..]),
                    };
                    let (first, stream_len) = sent(outgoing, &bytes);
                    assert_eq!(first & RSV1 != 0, len <= 10_000, "{len} bytes, {offer}");
                    assert_eq!(stream_len < len, len <= 10_000, "{stream_len} of {len}");
                }
            }
        }
    }
}

/// zlib-rs 0.6.8 loses its place when it is cut short by what does not get shorter.
#[test]
fn what_cannot_be_compressed_is_sent_as_it_is_however_often() {
    for offer in [OFFER, NO_CONTEXT] {
        let prng = &mut Prng(11);
        let mut from = Side::compressing(Role::Server, offer);
        let mut to = Side::compressing(Role::Client, offer);
        for len in [126, 127, 1024, 4096, 4097, 60_000].repeat(60) {
            let bytes = prng.bytes(len);
            from.send(&bytes[..]).unwrap();
            let stream = from.take_output();
            assert_eq!(stream[0], FIN | BINARY);
            to.feed(&stream);
            assert_eq!(to.seen.pop(), Some(Seen::Binary(bytes)));
        }
        let text = log(prng, 3000);
        from.send(&*text).unwrap();
        to.feed(&from.take_output());
        assert_eq!(to.seen, [Seen::Text(text)]);
    }
}

#[test]
fn limits_are_judged_while_inflating() {
    let mut from = Side::compressing(Role::Client, NO_CONTEXT);
    let mut bomb = |len: usize| {
        from.send(vec![b'0'; len]).unwrap();
        from.take_output()
    };
    for max in [200, 65_536, 100_000, 1 << 20] {
        for len in [max, max + 1, 3 * max, 50 * max] {
            let stream = bomb(len);
            assert!(stream.len() < len / 20 + 60);
            for cut in [0, 9, stream.len() / 2] {
                let mut to = Side::compressing(Role::Server, NO_CONTEXT);
                to.limits.message_bytes_max = max as u64;
                to.feed(&stream[..cut]);
                to.feed(&stream[cut..]);
                if len == max {
                    assert_eq!(to.seen, [Seen::Binary(vec![b'0'; len])]);
                } else {
                    assert_eq!(to.seen, [Seen::Failed(MessageTooBig)]);
                }
                to.end();
            }
        }
    }
    assert_eq!(MessageTooBig.close_code().number(), 1009);
    // What is stored is longer than the message, and allowed all the same.
    let mut stored = Vec::new();
    for part in vec![7; 20_000].chunks(507) {
        stored.push(0);
        stored.extend((part.len() as u16).to_le_bytes());
        stored.extend((!(part.len() as u16)).to_le_bytes());
        stored.extend(part);
    }
    stored.push(0);
    let mut to = Side::compressing(Role::Server, OFFER);
    to.limits.message_bytes_max = 20_000;
    to.feed(&frame(Role::Client, FIN | RSV1 | BINARY, &stored));
    assert_eq!(to.seen, [Seen::Binary(vec![7; 20_000])]);
    // But not by any number of bytes: this is refused by its header.
    let mut to = Side::compressing(Role::Server, OFFER);
    to.limits.message_bytes_max = 20_000;
    to.feed(&header(Role::Client, FIN | RSV1 | BINARY, 22_000));
    assert_eq!(to.seen, [Seen::Failed(MessageTooBig)]);
}

#[test]
fn inflated_text_is_checked_like_any_other() {
    let stored = |bytes: &[u8]| {
        let len = bytes.len() as u16;
        let mut block = vec![0];
        block.extend(len.to_le_bytes());
        block.extend((!len).to_le_bytes());
        block.extend(bytes);
        block
    };
    for (bytes, valid) in [
        (&b"caf\xc3\xa9"[..], true),
        (b"caf\xc3", false),
        (b"\xed\xa0\x80", false),
        (b"abc\xff", false),
    ] {
        let mut payload = stored(bytes);
        payload.push(0);
        let seen = server_sees(OFFER, &[&payload]);
        match valid {
            true => assert_eq!(seen, [Seen::Text("café".into())]),
            false => assert_eq!(seen, [Seen::Failed(TextNotUtf8)]),
        }
    }
    // A character that begins at the end of one piece and ends in the next one.
    for before in (32_700..32_800).chain([1023, 1024, 65_535]) {
        let text = format!("{}🦀{}", "x".repeat(before), "y".repeat(50_000));
        let mut from = Side::compressing(Role::Client, OFFER);
        from.send(&*text).unwrap();
        let mut to = Side::compressing(Role::Server, OFFER);
        to.feed(&from.take_output());
        assert!(to.seen == [Seen::Text(text)], "after {before} bytes");
        to.end();
    }
}

/// Messages of blocks that become nothing: stored ones, fixed ones, and dynamic ones, whose tables
/// cost most.
fn barren_blocks(count: usize) -> [Vec<u8>; 3] {
    // Type 2, 257 codes for literals, 1 for distances, 18 for lengths of codes, of which 18 and 1
    // take a bit each: 256 codes of no bits, one of one bit for the end of the block, and one of
    // one bit for a distance. Then the end of the block. Each number is a value and its bits.
    let mut block = vec![(0, 1), (2, 2), (0, 5), (0, 5), (14, 4)];
    block.extend((0..18).map(|place| (usize::from(place == 2 || place == 17), 3)));
    block.extend([(1, 1), (127, 7), (1, 1), (107, 7), (0, 1), (0, 1), (0, 1)]);
    let bits = block
        .iter()
        .flat_map(|&(value, len)| (0..len).map(move |bit| value >> bit & 1 == 1));
    let bits: Vec<bool> = bits.collect();
    // A stored block follows, whose length is left out.
    let all: Vec<bool> = bits.repeat(count).into_iter().chain([false; 3]).collect();
    let byte = |bits: &[bool]| {
        bits.iter()
            .rev()
            .fold(0, |byte, bit| byte << 1 | u8::from(*bit))
    };
    let dynamic = all.chunks(8).map(byte).collect();
    let [stored, fixed] = [&b"\x00\x00\x00\xff\xff"[..], b"\x02\x00\x00\x00\xff\xff"]
        .map(|block| [&block.repeat(count)[..], b"\x00"].concat());
    [stored, fixed, dynamic]
}

/// Whole streams of a client, each with what a server is to see of it.
fn long_streams(offer: &str) -> Vec<(Vec<u8>, Vec<Seen>)> {
    let prng = &mut Prng(16);
    let mut from = Side::compressing(Role::Client, offer);
    let text = format!("{}\u{1f980}{}", log(prng, 130_000), log(prng, 90_000));
    let noise = prng.bytes(50_000).repeat(3);
    let zeros = vec![0; 1 << 20];
    let mut seen = Vec::new();
    let mut stream = Vec::new();
    // Several messages, long and short, whole and in fragments, with control frames in between.
    for round in 0..3 {
        from.send(&*text).unwrap();
        seen.push(Seen::Text(text.clone()));
        from.send(&b"short, and not compressed"[..]).unwrap();
        seen.push(Seen::Binary(b"short, and not compressed".into()));
        from.control(Control::Ping, b"between").unwrap();
        seen.push(Seen::Ping(b"between".into()));
        from.send_fragmented(&zeros[..], 300 + round).unwrap();
        seen.push(Seen::Binary(zeros.clone()));
        from.send(&noise[..]).unwrap();
        seen.push(Seen::Binary(noise.clone()));
        stream.extend(from.take_output());
        let finals = [b"\x03\x00".repeat(900), b"\x00".to_vec()].concat();
        stream.extend(frame(Role::Client, FIN | RSV1 | TEXT, &finals));
        seen.push(Seen::Text(String::new()));
        stream.extend(frame(Role::Client, FIN | RSV1 | BINARY, b""));
        seen.push(Seen::Binary(Vec::new()));
    }
    for payload in barren_blocks(4_000) {
        stream.extend(frame(Role::Client, FIN | RSV1 | BINARY, &payload));
        seen.push(Seen::Binary(Vec::new()));
    }
    let whole = (stream, seen.clone());

    // What is wrong shows at the end of a long message.
    let mut wrong = Vec::new();
    let mut fails = |stream: Vec<u8>, error| wrong.push((stream, vec![Seen::Failed(error)]));
    let mut from = Side::compressing(Role::Client, offer);
    from.send(vec![b'0'; (1 << 20) + 1]).unwrap();
    fails(from.take_output(), MessageTooBig);
    let mut from = Side::compressing(Role::Client, offer);
    let late = [text.as_bytes(), b"\xff"].concat();
    from.send(&late[..]).unwrap();
    let mut stream = from.take_output();
    stream[0] = FIN | RSV1 | TEXT;
    fails(stream, TextNotUtf8);
    let mut from = Side::compressing(Role::Client, offer);
    from.send(&*text).unwrap();
    let mut sent = frames(Role::Client, &from.take_output()).swap_remove(0).1;
    sent.truncate(sent.len() - 9);
    fails(
        frame(Role::Client, FIN | RSV1 | TEXT, &sent),
        DeflateInvalid,
    );
    let finals = [b"\x03\x00".repeat(5_000), b"\x00".to_vec()].concat();
    fails(
        frame(Role::Client, FIN | RSV1 | TEXT, &finals),
        DeflateInvalid,
    );
    wrong.push(whole);
    wrong
}

#[test]
fn messages_come_to_the_same_however_long_a_step_is() {
    for offer in [OFFER, NO_CONTEXT] {
        for (stream, seen) in long_streams(offer) {
            for step_ns in [1, 3_000, 64_000, u64::MAX] {
                for cut in [0, 2_000, stream.len() / 2] {
                    let mut to = Side::compressing(Role::Server, offer);
                    to.in_steps(step_ns);
                    let cut = cut.min(stream.len());
                    to.feed(&stream[..cut]);
                    to.feed(&stream[cut..]);
                    assert!(
                        to.seen == seen,
                        "steps of {step_ns} ns, cut at {cut}, {offer}"
                    );
                    to.end();
                }
            }
        }
    }
}

/// What a step may cost beyond its limit: a piece of output, or of input that becomes nothing.
const PIECE_NS: u64 = 140_000;

#[test]
fn no_step_costs_more_than_it_may_whatever_was_sent() {
    let mut from = Side::compressing(Role::Client, NO_CONTEXT);
    from.send(vec![0; 16 << 20]).unwrap();
    let zeros = frames(Role::Client, &from.take_output()).swap_remove(0).1;
    let finals = [b"\x03\x00".repeat(4_090), b"\x00".repeat(100_000)].concat();
    let mut payloads = Vec::from(barren_blocks(50_000));
    payloads.extend([zeros, finals]);
    for payload in payloads {
        let stream = frame(Role::Client, FIN | RSV1 | BINARY, &payload);
        let mut to = Side::compressing(Role::Server, NO_CONTEXT);
        to.limits.message_bytes_max = 16 << 20;
        to.in_steps(64_000);
        to.feed(&stream);
        let longest_ns = to.codec.longest_inflate_step_ns();
        assert!(longest_ns < 64_000 + PIECE_NS, "{longest_ns} ns");
        assert!(to.calls > Some(40), "{:?} calls", to.calls);
        to.end();
        // In one go, to see that the limit is what makes the difference.
        let mut to = Side::compressing(Role::Server, NO_CONTEXT);
        to.limits.message_bytes_max = 16 << 20;
        to.in_steps(u64::MAX);
        to.feed(&stream);
        assert!(to.codec.longest_inflate_step_ns() > 2_000_000);
        to.end();
    }
}

#[test]
fn whoever_closes_lets_go_of_what_was_inflated_in_part() {
    let mut from = Side::compressing(Role::Client, OFFER);
    from.send(vec![0; 1 << 20]).unwrap();
    from.close(CloseCode::NORMAL_CLOSURE, "").unwrap();
    let stream = from.take_output();
    for close in [true, false] {
        let mut to = Side::compressing(Role::Server, OFFER);
        to.in_steps(1);
        let mut bytes = stream.clone();
        let left = to.begin(&mut bytes);
        assert!(to.endpoint.is_inflating() && to.endpoint.is_in_message());
        assert_eq!(
            to.endpoint.unfinished(),
            None,
            "its peer has done what it could"
        );
        assert!(to.pool.out() > 0 && to.endpoint.inflater_bytes() > 0);
        if close {
            to.close(CloseCode::GOING_AWAY, "").unwrap();
            to.feed(&bytes[left..]);
            let code = Some(CloseCode::NORMAL_CLOSURE.number());
            assert_eq!(to.seen, [Seen::Close(code, String::new())]);
        }
        let held = to.codec.tally().held_bytes;
        to.end();
        assert_eq!(
            to.codec.tally().held_bytes,
            held,
            "the inflater is kept, once"
        );
    }
}

#[test]
fn broken_streams_fail_with_1007_and_end_the_connection() {
    let broken: &[&[u8]] = &[
        // A block of the fourth type; lengths that do not agree; a reference to before the start.
        b"\x06",
        b"\x00\x05\x00\x00\x00Hello\x00",
        b"\x02\x01\x00",
        // Ends inside of a stored block, and inside of a fixed one.
        b"\x00\x64\x00\x9b\xffHello",
        b"\xf2\x48\xcd\xc9",
        b"\x05",
        b"\xff\xff\xff\xff",
        // Ends inside of a final block, which what follows would end with a byte more.
        b"\xfb\xe8\xca\xfb\x68",
    ];
    for payload in broken {
        let mut side = Side::compressing(Role::Server, OFFER);
        side.feed(&frame(Role::Client, FIN | RSV1 | BINARY, payload));
        assert_eq!(
            side.seen,
            [Seen::Failed(DeflateInvalid)],
            "{}",
            payload.escape_ascii()
        );
        side.end();
    }
    assert_eq!(DeflateInvalid.close_code().number(), 1007);
    // The one inflater of a shard serves the next message as if nothing had been.
    let mut side = Side::compressing(Role::Server, OFFER);
    side.feed(&frame(Role::Client, FIN | RSV1 | TEXT, b"\xff\xff\xff\xff"));
    assert_eq!(side.seen, [Seen::Failed(DeflateInvalid)]);
    side.feed(&frame(Role::Client, FIN | RSV1 | TEXT, b"\x00"));
    assert_eq!(side.seen.len(), 1, "it is deaf from there on");
    side.end();
    // Final blocks without number cost a copy of the window each.
    let flood = [b"\x03\x00".repeat(5000), b"\x00".to_vec()].concat();
    assert_eq!(
        server_sees(OFFER, &[&flood]),
        [Seen::Failed(DeflateInvalid)]
    );
    let many = [b"\x03\x00".repeat(1000), b"\x00".to_vec()].concat();
    assert_eq!(server_sees(OFFER, &[&many]), [Seen::Text(String::new())]);
}

#[test]
fn compressed_streams_give_the_same_however_they_are_cut() {
    let prng = &mut Prng(3);
    for sender in [Role::Client, Role::Server] {
        let mut from = Side::compressing(sender, OFFER);
        let mut expected = Vec::new();
        for len in [130, 0, 200, 400] {
            let text = log(prng, len);
            from.send_fragmented(&*text, 40).unwrap();
            expected.push(Seen::Text(text));
        }
        let mut stream = from.take_output();
        stream.extend(frame(sender, FIN | PING, b"end"));
        expected.push(Seen::Ping(b"end".into()));
        for first in 0..stream.len() {
            let second = first + prng.below(stream.len() - first);
            let mut to = Side::compressing(other(sender), OFFER);
            for piece in [&stream[..first], &stream[first..second], &stream[second..]] {
                to.feed(piece);
            }
            assert_eq!(to.seen, expected, "cut at {first} and {second}");
            to.end();
        }
    }
}

/// Runs with every seed: a fuzzer without a corpus.
#[test]
fn mutated_streams_are_read_as_the_reference_reads_them_or_refused() {
    let prng = &mut Prng(1951);
    let (mut read, mut refused, mut same) = (0, 0, 0);
    let mut from = Side::compressing(Role::Server, NO_CONTEXT);
    for round in 0..6000 {
        let len = 126 + prng.below([200, 2000][round % 2]);
        let plain = match round % 3 {
            0 => prng.bytes(len / 8).repeat(9),
            _ => log(prng, len).into_bytes(),
        };
        from.send(&plain[..]).unwrap();
        let mut sent = frames(Role::Server, &from.take_output());
        let mut payload = sent.swap_remove(0).1;
        for _ in 0..prng.below(4) {
            let at = prng.below(payload.len() + 1);
            match prng.below(4) {
                0 if at < payload.len() => payload[at] ^= 1 << prng.below(8),
                1 => payload.truncate(at),
                2 => payload.insert(at, [0, 3, 0xff, prng.draw() as u8][prng.below(4)]),
                _ => drop(payload.splice(at..at, *b"\x00\x00\x00\xff\xff")),
            }
        }
        let mut to = Side::compressing(Role::Server, OFFER);
        to.feed(&frame(Role::Client, FIN | RSV1 | BINARY, &payload));
        match &to.seen[..] {
            [Seen::Binary(bytes)] => {
                read += 1;
                same += usize::from(*bytes == plain);
                let reference = inflate_tolerantly(&payload);
                assert!(
                    payload.is_empty() || reference.as_deref() == Some(bytes),
                    "round {round}: {}",
                    payload.escape_ascii()
                );
            }
            [Seen::Failed(error)] => {
                refused += 1;
                assert!(matches!(error, DeflateInvalid | MessageTooBig), "{error:?}");
            }
            other => panic!("round {round}: {other:?}"),
        }
        to.end();
    }
    assert!(
        read > 1500 && refused > 1500 && same > 1000 && read > same + 100,
        "{read} read, {same} of them unchanged, {refused} refused"
    );
}
