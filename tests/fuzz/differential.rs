//! Any bytes as frames, to an endpoint and to tungstenite: what the one accepts the other accepts,
//! with the same messages, the same pongs and the same close; and what the endpoint writes,
//! tungstenite reads.
//!
//! The first byte chooses the role and the limit, the second where the endpoint's stream is cut.
//!
//! [`same`] lists all that may differ.

use std::io::{self, Read, Write};

use ringwire::{
    ProtocolError,
    proto::{self, Endpoint, Limits},
};
use tungstenite::{
    Error, Message, WebSocket,
    error::ProtocolError as TheirError,
    protocol::{Role, WebSocketConfig},
};

use crate::{
    Tally,
    input::{Input, pieces},
    reference::decode,
    side::{Seen, Side, WIDE, other},
};

/// How tungstenite's stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a close frame.
    Closed,
    /// With the last byte: it waits for more.
    Waiting,
    /// With a violation.
    Failed,
}

/// Gives the same frames to both.
pub fn run(bytes: &[u8]) -> Tally {
    let mut input = Input::new(bytes);
    let (how, seed) = (input.byte(), input.byte());
    let role = [proto::Role::Server, proto::Role::Client][usize::from(how & 1)];
    // Not shorter than a control frame, which tungstenite counts as well.
    let bytes_max = [1 << 20, 125, 300, 70_000][usize::from(how >> 1 & 3)];
    let limits = Limits {
        message_bytes_max: bytes_max as u64,
        ..WIDE
    };
    let stream = input.rest();

    let mut side = Side::new(Endpoint::new(role), limits);
    side.batches = how & 8 != 0;
    let (mut ours, mut echoed) = (Vec::new(), 0);
    for piece in pieces(stream, seed) {
        for event in side.feed(piece) {
            if side.echo(&event) == Some(Ok(())) {
                echoed += 1;
            }
            ours.push(event);
        }
    }
    let our_output = side.take_output();
    side.end();

    let (theirs, end, their_output) = tungstenite_reads(role, bytes_max, stream);
    same(stream, &ours, &theirs, end);
    answers(role, &our_output, &their_output, &ours, end);

    // The other way: tungstenite is the peer, and reads all of it.
    let (read, end, _) = tungstenite_reads(other(role), 1 << 20, &our_output);
    let mut written = decode(other(role), &WIDE, &our_output);
    if let Some(close @ Seen::Close(Some(1014), _)) = written.last_mut() {
        *close = replaced();
    }
    assert_eq!(read, written);
    let is_closed = read.iter().any(|seen| matches!(seen, Seen::Close(..)));
    assert_eq!(end, if is_closed { End::Closed } else { End::Waiting });
    let messages = read
        .iter()
        .filter(|seen| matches!(seen, Seen::Text(_) | Seen::Binary(_)));
    assert_eq!(messages.count(), echoed);

    let failed = matches!(ours.last(), Some(Seen::Failed(_)));
    Tally {
        accepted: ours.len() as u64 - u64::from(failed),
        refused: failed.into(),
    }
}

/// Compares what both have seen. The known differences are here and nowhere else:
///
/// 1. tungstenite looks at a frame once all of it is there; an endpoint refuses it at the byte that
///    shows what is wrong. So where an endpoint fails, tungstenite may still wait for more.
/// 2. tungstenite takes a length that is not in its shortest form, which section 5.2 forbids; to an
///    endpoint a control frame with one is too long already.
/// 3. tungstenite takes a close frame with a status code that must not be sent, and hands out and
///    answers 1002 in its place. 1014 is such a code to it; the registry has it since 2015.
fn same(stream: &[u8], ours: &[Seen], theirs: &[Seen], end: End) {
    let Some(Seen::Failed(error)) = ours.last() else {
        let is_closed = matches!(ours.last(), Some(Seen::Close(..)));
        if let Some((Seen::Close(Some(1014), _), before)) = ours.split_last() {
            assert_eq!(theirs, [before, &[replaced()]].concat());
        } else {
            assert_eq!(ours, theirs);
        }
        let expected = if is_closed { End::Closed } else { End::Waiting };
        assert_eq!(end, expected);
        return;
    };
    let before = &ours[..ours.len() - 1];
    match error {
        ProtocolError::LengthNotMinimal | ProtocolError::ControlTooLong
            if end == End::Closed || theirs != before =>
        {
            assert_eq!(theirs.get(..before.len()), Some(before));
            assert!(has_long_length(stream), "{error}");
        }
        ProtocolError::CloseCodeNotAllowed(_) if end == End::Closed => {
            assert_eq!(theirs, [before, &[replaced()]].concat());
        }
        _ => {
            assert_eq!(theirs, before);
            assert_ne!(end, End::Closed, "{error}");
        }
    }
}

/// Whether one of these frames says its length in more bytes than it needs.
fn has_long_length(stream: &[u8]) -> bool {
    let mut rest = stream;
    loop {
        let wide = match rest {
            [_, second, ..] if second & 0x7f == 126 => 2,
            [_, second, ..] if second & 0x7f == 127 => 8,
            [_, _, ..] => 0,
            _ => return false,
        };
        let Some(bytes) = rest.get(2..2 + wide) else {
            return false;
        };
        let long = |len, &byte: &u8| len << 8 | u64::from(byte);
        let len = match wide {
            0 => u64::from(rest[1] & 0x7f),
            _ => bytes.iter().fold(0, long),
        };
        if wide == 2 && len < 126 || wide == 8 && len < 65_536 {
            return true;
        }
        let key = if rest[1] & 0x80 == 0 { 0 } else { 4 };
        let end = len.saturating_add(2 + wide as u64 + key);
        let Some(later) = usize::try_from(end).ok().and_then(|end| rest.get(end..)) else {
            return false;
        };
        rest = later;
    }
}

/// What tungstenite makes of a close frame with a status code that it does not know.
fn replaced() -> Seen {
    Seen::Close(Some(1002), "Protocol violation".to_owned())
}

/// Compares what both have answered by themselves. An endpoint says why it fails the connection,
/// which tungstenite leaves to its user, and gives a close frame's code back without the reason.
fn answers(role: proto::Role, ours: &[u8], theirs: &[u8], seen: &[Seen], end: End) {
    let read = |bytes: &[u8]| {
        let mut read = decode(other(role), &WIDE, bytes);
        let close = read.pop_if(|seen| matches!(seen, Seen::Close(..)));
        read.retain(|seen| matches!(seen, Seen::Pong(_)));
        (read, close)
    };
    let ((ours, our_close), (theirs, their_close)) = (read(ours), read(theirs));
    match seen.last() {
        Some(Seen::Failed(ProtocolError::LengthNotMinimal | ProtocolError::ControlTooLong)) => {
            assert_eq!(theirs.get(..ours.len()), Some(&ours[..]));
        }
        _ => assert_eq!(ours, theirs),
    }
    match (seen.last(), our_close, their_close) {
        (Some(Seen::Close(Some(1014), _)), Some(Seen::Close(code, _)), _) => {
            assert_eq!(code, Some(1014));
        }
        (Some(Seen::Close(..)), Some(Seen::Close(code, _)), Some(Seen::Close(their, _))) => {
            assert_eq!((end, code), (End::Closed, their));
        }
        (Some(Seen::Failed(error)), Some(Seen::Close(code, reason)), _) => {
            assert_eq!(code, Some(error.close_code().number()));
            assert_eq!(reason, error.reason());
        }
        (last, None, None) => {
            assert!(!matches!(last, Some(Seen::Close(..) | Seen::Failed(_))));
        }
        (last, ours, theirs) => panic!("after {last:?}: {ours:?} and {theirs:?}"),
    }
}

/// A stream that ends, and what was written to it.
struct Memory<'a> {
    input: &'a [u8],
    output: Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.input.read(space)
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite in this role reads, and what it answers by itself.
fn tungstenite_reads(
    role: proto::Role,
    bytes_max: usize,
    stream: &[u8],
) -> (Vec<Seen>, End, Vec<u8>) {
    let role = match role {
        proto::Role::Client => Role::Client,
        proto::Role::Server => Role::Server,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .max_message_size(Some(bytes_max))
        .max_frame_size(Some(bytes_max));
    let memory = Memory {
        input: stream,
        output: Vec::new(),
    };
    let mut socket = WebSocket::from_raw_socket(memory, role, Some(config));
    let mut seen = Vec::new();
    let end = loop {
        let message = match socket.read() {
            Ok(message) => message,
            Err(Error::Protocol(TheirError::ResetWithoutClosingHandshake)) => break End::Waiting,
            Err(Error::Protocol(_) | Error::Capacity(_) | Error::Utf8(_)) => break End::Failed,
            Err(error) => panic!("there is no other reason to fail: {error}"),
        };
        seen.push(match message {
            Message::Text(text) => Seen::Text(text.to_string()),
            Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Message::Close(frame) => {
                let (code, reason) = match frame {
                    None => (None, String::new()),
                    Some(frame) => (Some(frame.code.into()), frame.reason.to_string()),
                };
                seen.push(Seen::Close(code, reason));
                break End::Closed;
            }
            Message::Frame(_) => panic!("a frame is never read"),
        });
    };
    // The answer to a close frame is written by now, or here.
    let _ = socket.flush();
    let memory = socket.into_inner();
    (seen, end, memory.output)
}
