//! Any bytes as frames: every way to receive them gives what the reference reads.
//!
//! The first byte chooses the role, the limits and how it is received, the second where the stream
//! is cut.

use ringwire::proto::{
    Endpoint, Limits, Role,
    frame::{FrameHeader, HEADER_BYTES_MAX},
};

use crate::{
    Tally,
    input::{Input, pieces},
    reference::decode,
    side::{NARROW, Seen, Side, WIDE, other},
};

/// Receives the frames in every way.
pub fn run(bytes: &[u8]) -> Tally {
    let mut input = Input::new(bytes);
    let (how, seed) = (input.byte(), input.byte());
    let role = [Role::Server, Role::Client][usize::from(how & 1)];
    let in_pieces = how & 2 != 0;
    let limits = if how & 4 == 0 { WIDE } else { NARROW };
    let stream = input.rest();
    header(stream, role);
    let message_bytes_max = if in_pieces {
        // Whoever takes pieces puts nothing together, so that no length is too much.
        u64::MAX
    } else {
        limits.message_bytes_max
    };
    let judged = Limits {
        message_bytes_max,
        ..limits
    };
    let expected = decode(role, &judged, stream);
    for batches in [false, true] {
        let mut side = Side::new(Endpoint::new(role), limits);
        side.batches = batches;
        side.hand_out_pieces(in_pieces);
        let seen: Vec<Seen> = pieces(stream, seed)
            .flat_map(|piece| side.feed(piece))
            .collect();
        assert_eq!(seen, expected, "batches: {batches}");
        let answers = decode(other(role), &WIDE, &side.take_output());
        assert_eq!(answers, answers_to(&expected));
        side.end();
    }
    let failed = matches!(expected.last(), Some(Seen::Failed(_)));
    Tally {
        accepted: expected.len() as u64 - u64::from(failed),
        refused: failed.into(),
    }
}

/// A header is read once its last byte is there, or refused at the byte that shows what is wrong;
/// and it is written as it was read.
fn header(stream: &[u8], role: Role) {
    let most = stream.len().min(HEADER_BYTES_MAX);
    let mut steps = (0..=most).map(|len| FrameHeader::decode(&stream[..len], role));
    let Some(first) = steps.find(|step| *step != Ok(None)) else {
        return;
    };
    assert!(steps.all(|step| step == first), "it changed its mind");
    if let Ok(Some((header, len))) = first {
        let mut space = [0; HEADER_BYTES_MAX];
        assert_eq!(header.encode(&mut space), len);
        assert_eq!(header.encoded_len(), len);
        assert_eq!(space[..len], stream[..len]);
    }
}

/// What an endpoint that has seen this has to answer (sections 5.5.1, 5.5.2 and 7.1.7).
pub fn answers_to(seen: &[Seen]) -> Vec<Seen> {
    let answer = |seen: &Seen| match seen {
        Seen::Ping(payload) => Some(Seen::Pong(payload.clone())),
        Seen::Close(code, _) => Some(Seen::Close(*code, String::new())),
        Seen::Failed(error) => {
            let code = error.close_code().number();
            Some(Seen::Close(Some(code), error.reason().to_owned()))
        }
        _ => None,
    };
    seen.iter().filter_map(answer).collect()
}
