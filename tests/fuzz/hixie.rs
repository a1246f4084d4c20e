//! hixie-76: any bytes as frames, and any as what a client is challenged with.
//!
//! The first byte chooses between the two and the limits, the second where the stream is cut.

use md5::{Digest, Md5};
use ringwire::{
    HandshakeError, Request, SendError,
    proto::{Endpoint, handshake::Proof, hixie},
};

use crate::{
    Tally,
    hixie_reference::decode,
    input::{Input, pieces},
    side::{NARROW, Seen, Side, WIDE},
};

/// Receives frames, or is challenged.
pub fn run(bytes: &[u8]) -> Tally {
    let mut input = Input::new(bytes);
    let (how, seed) = (input.byte(), input.byte());
    match how & 1 {
        0 => frames(input.rest(), how & 2 != 0, seed),
        _ => challenge(input.rest(), seed),
    }
}

/// Every way to receive them gives what the reference reads, and what is sent back as well.
fn frames(stream: &[u8], is_narrow: bool, seed: u8) -> Tally {
    let limits = if is_narrow { NARROW } else { WIDE };
    let expected = decode(&limits, stream);
    for batches in [false, true] {
        let mut side = Side::new(Endpoint::hixie76(), limits);
        side.batches = batches;
        let (mut seen, mut sent) = (Vec::new(), Vec::new());
        for piece in pieces(stream, seed) {
            // The answer of the endpoint itself comes before what is sent behind it.
            let events = side.feed(piece);
            for event in &events {
                match side.echo(event) {
                    None => {}
                    Some(Ok(())) => sent.push(event.clone()),
                    Some(Err(error)) => {
                        assert_eq!(error, SendError::Closed);
                        assert!(side.endpoint.is_close_sent());
                    }
                }
            }
            seen.extend(events);
        }
        assert_eq!(seen, expected, "batches: {batches}");
        if side.endpoint.is_close_sent() {
            sent.push(Seen::Close(None, String::new()));
        }
        // A message behind the close frame would not be read here.
        assert_eq!(decode(&WIDE, &side.take_output()), sent);
        side.end();
    }
    let failed = matches!(expected.last(), Some(Seen::Failed(_)));
    Tally {
        accepted: expected.len() as u64 - u64::from(failed),
        refused: failed.into(),
    }
}

/// Two lines as keys and what is behind them as the eight bytes: accepted if the keys are what
/// section 5.2 of hybi-00 says, and answered with the MD5 of all three.
fn challenge(bytes: &[u8], seed: u8) -> Tally {
    let mut lines = bytes.splitn(3, |&byte| byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (key_1, key_2, behind) = (line(), line(), line());
    let head = [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n",
        &b"Sec-WebSocket-Key1: "[..],
        key_1,
        b"\r\nSec-WebSocket-Key2: ",
        key_2,
        b"\r\n\r\n",
    ]
    .concat();
    let refused = Tally {
        accepted: 0,
        refused: 1,
    };
    // A line may hold what ends the head.
    let has_control = |key: &[u8]| key.iter().any(|&byte| byte < b' ' || byte == 0x7f);
    if has_control(key_1) || has_control(key_2) {
        return refused;
    }
    let request = Request::parse(&head).expect("a whole head");
    assert!(hixie::is_opening(&request));
    let numbers = (number(key_1), number(key_2));
    let upgrade = hixie::check_opening(&request);
    let (Some(one), Some(other)) = numbers else {
        assert_eq!(upgrade.err(), Some(HandshakeError::ChallengeInvalid));
        return refused;
    };
    let Proof::Challenge(mut challenge) = upgrade.expect("both keys are valid").proof() else {
        panic!("hixie-76 has no accept key");
    };
    let block = [&one.to_be_bytes(), &other.to_be_bytes(), behind].concat();
    let mut used = 0;
    let mut answer = None;
    for piece in pieces(behind, seed) {
        let found = challenge.push(piece);
        if let Some((count, bytes)) = found {
            assert!(count <= piece.len());
            used += count;
            answer = Some(bytes);
            break;
        }
        used += piece.len();
    }
    assert_eq!(answer.is_some(), behind.len() >= 8);
    if let Some(answer) = answer {
        assert_eq!(used, 8);
        assert_eq!(answer, <[u8; 16]>::from(Md5::digest(&block[..16])));
    }
    Tally {
        accepted: 1,
        refused: 0,
    }
}

/// The digits of a key as a number, divided by its spaces, without the white space around it: that
/// is no part of a header's value.
fn number(key: &[u8]) -> Option<u32> {
    let key = key.trim_ascii();
    let digits = key.iter().filter(|byte| byte.is_ascii_digit());
    let spaces = key.iter().filter(|&&byte| byte == b' ').count() as u128;
    if digits.clone().next().is_none() || spaces == 0 {
        return None;
    }
    // What is too much for it is too much for 32 bits, however many spaces there are.
    let number = digits.fold(0u128, |number, &digit| {
        number
            .saturating_mul(10)
            .saturating_add((digit - b'0').into())
    });
    if !number.is_multiple_of(spaces) {
        return None;
    }
    u32::try_from(number / spaces).ok()
}
