//! Bytes to attack with: requests, frames, what is compressed and grows.
//!
//! Knows: RFC 6455, RFC 7692 and hixie-76 as far as a sender needs them. Refuses to know: sockets,
//! when anything is sent.

use std::{io::Write, sync::Arc};

use flate2::{Compress, Compression, FlushCompress};

use crate::plan::Segment;

/// Bytes that a segment of small frames is filled up to: a write of it is worth its system call.
const SEGMENT_BYTES: usize = 128 << 10;

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;
pub const FIN: u8 = 0x80;
/// The bit that says that a message is compressed.
pub const RSV1: u8 = 0x40;

const MASKING_KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Who sends a frame: a client masks what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// The header of a frame whose payload may never come.
pub fn header(first: u8, payload_len: usize, side: Side) -> Vec<u8> {
    let mask = if side == Side::Client { 0x80 } else { 0 };
    let mut header = vec![first];
    match payload_len {
        0..=125 => header.push(mask | payload_len as u8),
        126..=0xffff => {
            header.push(mask | 126);
            header.extend((payload_len as u16).to_be_bytes());
        }
        _ => {
            header.push(mask | 127);
            header.extend((payload_len as u64).to_be_bytes());
        }
    }
    if side == Side::Client {
        header.extend(MASKING_KEY);
    }
    header
}

/// A whole frame.
pub fn frame(first: u8, payload: &[u8], side: Side) -> Vec<u8> {
    let mut frame = header(first, payload.len(), side);
    let at = frame.len();
    frame.extend_from_slice(payload);
    if side == Side::Client {
        for (index, byte) in frame[at..].iter_mut().enumerate() {
            *byte ^= MASKING_KEY[index % 4];
        }
    }
    frame
}

/// Frames one behind the other, as often as they make a write worth it, again and again.
pub fn endless(frames: &[Vec<u8>]) -> Segment {
    let once: Vec<u8> = frames.concat();
    let copies = (SEGMENT_BYTES / once.len()).max(1);
    Segment {
        bytes: once.repeat(copies).into(),
        times: u64::MAX,
        frames: (frames.len() * copies) as u64,
    }
}

/// Frames, once.
pub fn once(frames: &[Vec<u8>]) -> Segment {
    Segment {
        bytes: frames.concat().into(),
        times: 1,
        frames: frames.len() as u64,
    }
}

/// The first `sent` bytes of the payload of a frame that announces `announced`.
pub fn begun(announced: usize, sent: usize) -> Vec<Segment> {
    const PIECE_BYTES: usize = 64 << 10;
    let part = |bytes: Vec<u8>, times| Segment {
        bytes: bytes.into(),
        times,
        frames: 0,
    };
    let payload = |len| MASKING_KEY.iter().copied().cycle().take(len).collect();
    let mut segments = vec![part(header(FIN | BINARY, announced, Side::Client), 1)];
    if sent >= PIECE_BYTES {
        segments.push(part(payload(PIECE_BYTES), (sent / PIECE_BYTES) as u64));
    }
    if !sent.is_multiple_of(PIECE_BYTES) {
        segments.push(part(payload(sent % PIECE_BYTES), 1));
    }
    segments
}

/// A message in as many frames as it has bytes, each of `fragment_bytes`.
pub fn fragmented(fragments: usize, fragment_bytes: usize, side: Side) -> Vec<Vec<u8>> {
    let payload = vec![b'x'; fragment_bytes];
    let first = |index| match index {
        0 => TEXT,
        _ if index + 1 == fragments => FIN | CONTINUATION,
        _ => CONTINUATION,
    };
    (0..fragments)
        .map(|index| frame(first(index), &payload, side))
        .collect()
}

/// What a client of RFC 6455 asks for.
pub fn upgrade(path: &str, compressed: bool) -> Arc<[u8]> {
    let mut request = format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n"
    );
    if compressed {
        request.push_str("Sec-WebSocket-Extensions: permessage-deflate\r\n");
    }
    request.push_str("\r\n");
    request.into_bytes().into()
}

/// What a client of hixie-76 asks for, with the numbers of the specification's own example.
pub fn upgrade_hixie76(path: &str) -> Arc<[u8]> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\nOrigin: http://127.0.0.1\r\n\
         Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\r\n^n:ds[4U"
    )
    .into_bytes()
    .into()
}

/// A frame of hixie-76.
pub fn frame_hixie76(payload_len: usize) -> Vec<u8> {
    let mut frame = vec![0];
    frame.resize(1 + payload_len, b'x');
    frame.push(0xff);
    frame
}

/// A message that becomes this many zeros.
pub fn compressed_zeros(len: usize) -> Vec<u8> {
    frame(FIN | BINARY | RSV1, &deflate(&vec![0; len]), Side::Client)
}

/// A message of bytes that look random, and that have to be decoded one by one: of half of all
/// values, so that a code for them is shorter than they are.
pub fn compressed_noise(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..len).map(|_| random.u8(..128)).collect();
    frame(FIN | BINARY | RSV1, &deflate(&noise), Side::Client)
}

/// A message of final blocks that hold nothing: each ends a stream, and another one begins.
pub fn compressed_final_blocks(blocks: usize) -> Vec<u8> {
    // BFINAL, the fixed code, its end of a block, and bits up to a whole byte.
    let payload = [3, 0].repeat(blocks);
    frame(FIN | BINARY | RSV1, &payload, Side::Client)
}

/// A message as section 7.2.1 of RFC 7692 wants it.
fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(payload.len() + 1024);
    let done = compress.compress_vec(payload, &mut out, FlushCompress::Sync);
    assert!(
        done.is_ok() && compress.total_in() == payload.len() as u64,
        "there is room for all of it"
    );
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]), "a sync flush ends so");
    out.truncate(out.len() - 4);
    out
}

/// A request for a page.
pub fn get(path: &str) -> Arc<[u8]> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    request.into_bytes().into()
}

/// A request whose head has this many bytes, and no end.
pub fn endless_head(len: usize) -> Arc<[u8]> {
    let mut request = Vec::new();
    let _ = write!(request, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Filler: ");
    request.resize(len, b'x');
    request.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_grows() {
        let zeros = compressed_zeros(16 << 20);
        assert!(zeros.len() < 17 << 10, "{} bytes", zeros.len());
        let noise = compressed_noise(64 << 10);
        assert!(
            (50 << 10..64 << 10).contains(&noise.len()),
            "{}",
            noise.len()
        );
        assert_eq!(compressed_final_blocks(4090).len(), 8180 + 8);
    }

    #[test]
    fn a_begun_message_has_as_many_bytes_as_it_says() {
        for (announced, sent) in [(16 << 20, 1), (16 << 20, 15 << 20), (1 << 20, 70_000)] {
            let segments = begun(announced, sent);
            let len = |segment: &Segment| segment.bytes.len() * segment.times as usize;
            let all: usize = segments.iter().map(len).sum();
            assert_eq!(all, sent + 14);
        }
    }
}
