//! Two endpoints of opposite roles: what one writes, the other reads, and a strict reader finds
//! nothing wrong with it.

use ringwire::{
    CloseCode, SendError,
    proto::{Limits, Role, endpoint::Control, message::Outgoing},
};

use crate::{
    Prng,
    reference::decode,
    side::{LIMITS, Seen, Side},
};

const SEEDS: u64 = 1_500;

/// Does something at random and notes what the peer is to see of it.
fn act(prng: &mut Prng, side: &mut Side, expected: &mut Vec<Seen>) {
    let closed = side.endpoint.is_close_sent();
    let len = [0, 1, 125, 126, 4_095, 4_096, 65_535, 65_536][prng.below(8)] * prng.below(2)
        + prng.below(300);
    let fragment = 1 + len / 50 + prng.below(500);
    let control_len = prng.below(130);
    let (result, seen) = match prng.below(8) {
        0 => {
            let text = prng.text(len);
            (side.send(text.as_str()), Seen::Text(text))
        }
        1 => {
            let text = prng.text(len);
            (
                side.send_fragmented(text.as_str(), fragment),
                Seen::Text(text),
            )
        }
        2 => {
            let bytes = prng.bytes(len);
            (side.send(&bytes[..]), Seen::Binary(bytes))
        }
        // Owned payloads may be adopted by the sink.
        3 => {
            let bytes = prng.bytes(len);
            (side.send(bytes.clone()), Seen::Binary(bytes))
        }
        4 => {
            let text = prng.text(len);
            let outgoing = Outgoing::text(text.clone().into()).expect("it is text");
            (side.send_fragmented(outgoing, fragment), Seen::Text(text))
        }
        5 => {
            let bytes = prng.bytes(control_len);
            (side.control(Control::Ping, &bytes), Seen::Ping(bytes))
        }
        6 => {
            let bytes = prng.bytes(control_len);
            (side.control(Control::Pong, &bytes), Seen::Pong(bytes))
        }
        _ if prng.below(12) == 0 => {
            let reason = prng.text(control_len);
            let code = CloseCode::new(3000 + prng.below(2000) as u16).expect("an allowed code");
            let seen = Seen::Close(Some(code.number()), reason.clone());
            (side.close(code, &reason), seen)
        }
        _ => return,
    };
    let too_long = match &seen {
        Seen::Ping(payload) | Seen::Pong(payload) => payload.len() > 125,
        Seen::Close(_, reason) => reason.len() > 123,
        _ => false,
    };
    match result {
        Ok(()) => {
            assert!(!closed && !too_long, "this must not be sent: {seen:?}");
            expected.push(seen);
        }
        Err(SendError::ControlTooLong) => assert!(too_long),
        Err(error) => assert!(closed && error == SendError::Closed, "{error}"),
    }
}

#[test]
fn everything_that_one_side_writes_the_other_reads_strictly() {
    let (mut messages, mut closes) = (0, 0);
    for seed in 0..SEEDS {
        let prng = &mut Prng(seed);
        let mut client = Side::new(Role::Client);
        let mut server = Side::in_batches(Role::Server);
        let mut expected = [Vec::new(), Vec::new()];
        let limits = Limits {
            message_empty_fragments_max: 0,
            ..LIMITS
        };
        (client.limits, server.limits) = (limits, limits);
        for _ in 0..20 {
            let to_server = prng.below(2) == 0;
            let (writer, reader, expected, other) = if to_server {
                let [at_client, at_server] = &mut expected;
                (&mut client, &mut server, at_server, at_client)
            } else {
                let [at_client, at_server] = &mut expected;
                (&mut server, &mut client, at_client, at_server)
            };
            let reader_closed = reader.endpoint.is_close_sent();
            let before = expected.len();
            for _ in 0..prng.below(4) {
                act(prng, writer, expected);
            }
            let output = writer.take_output();
            let reference = decode(reader.endpoint.role(), &limits, &output);
            let broken = reference
                .iter()
                .find(|seen| matches!(seen, Seen::Failed(_)));
            assert_eq!(broken, None, "seed {seed}: the writer broke the protocol");
            if reader.endpoint.is_input_ended() {
                assert!(output.is_empty(), "seed {seed}: bytes after a close frame");
            }
            let mut rest = &output[..];
            while !rest.is_empty() {
                let (piece, later) = rest.split_at(1 + prng.below(rest.len()));
                reader.feed(piece);
                rest = later;
            }
            // What the reader answers by itself is seen by the writer next time.
            for seen in &expected[before..] {
                match seen {
                    Seen::Ping(payload) if !reader_closed => {
                        other.push(Seen::Pong(payload.clone()))
                    }
                    Seen::Close(code, _) if !reader_closed => {
                        other.push(Seen::Close(*code, String::new()));
                    }
                    _ => {}
                }
            }
            if reader_closed {
                // Messages that come after our close frame are not handed out.
                let late = expected.split_off(before);
                let kept = |seen: &Seen| !matches!(seen, Seen::Text(_) | Seen::Binary(_));
                expected.extend(late.into_iter().filter(kept));
            }
            let answer = reader.take_output();
            writer.feed(&answer);
            assert!(writer.take_output().is_empty(), "an answer was answered");
        }
        assert_eq!(client.seen, expected[0], "seed {seed}, what the client saw");
        assert_eq!(server.seen, expected[1], "seed {seed}, what the server saw");
        messages += client.seen.len() + server.seen.len();
        closes += usize::from(client.endpoint.is_input_ended());
        client.end();
        server.end();
    }
    assert!(
        messages > 10_000 && closes > 200,
        "{messages} events, {closes} closed"
    );
}
