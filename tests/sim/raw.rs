//! Peers that are no shards: bytes in whatever order they like, and the ways to be gone.

use ringwire::{
    Address, ProtocolError,
    proto::{Opcode, Role, frame::FrameHeader, handshake::accept_key},
    ring::{
        Time,
        sim::{Prng, SimKernel, SimPeer, SimPeerListener, SimRead},
    },
};

use crate::{
    marks::{Journal, Mark},
    plan::{PURPOSE_RAW, Plan, RawKind, draw_bytes, draw_text},
};

/// Turns for which a raw peer waits after its last byte. Those that a server has to get rid of wait
/// until it does.
const PATIENCE_TURNS: usize = 400;

/// How a raw peer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Closes,
    EndsStream,
    Resets,
}

/// A peer of the server, or of a client, that follows a script of bytes.
pub struct Raw {
    pub kind: Option<RawKind>,
    pub index: usize,
    prng: Prng,
    connect_turn: usize,
    connected_at: Time,
    peer: Option<SimPeer>,
    script: Vec<u8>,
    written: usize,
    pub received: Vec<u8>,
    /// It writes and reads as much at once as it can.
    hurries: bool,
    reads: bool,
    /// Only the server ends it.
    waits: bool,
    exit: Exit,
    patience: usize,
    /// The server ended the stream; nothing failed before that.
    pub ended_by_server_at: Option<Time>,
    /// What the server has to say about the script.
    pub violation: Option<ProtocolError>,
    /// It wrote or read in its last step, and has more to do.
    busy: bool,
    done: bool,
}

/// A masked frame, or the start of one.
fn frame(prng: &mut Prng, first: u8, payload: &[u8]) -> Vec<u8> {
    let key = (prng.draw() as u32).to_be_bytes();
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend(key);
    bytes.extend(
        payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    bytes
}

fn handshake(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// The opening handshake of hixie-76, with the example's keys, and what answers it.
fn legacy_handshake(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: sim\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\
         Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n\r\n^n:ds[4U"
    )
    .into_bytes()
}

const LEGACY_ANSWER: &[u8] = b"8jKS'y:G*Co,Wxa-";
const LEGACY_CLOSE: &[u8] = &[0xFF, 0x00];

/// A frame of hixie-76, text or binary.
fn legacy_frame(prng: &mut Prng, longest: u64) -> Vec<u8> {
    let len = prng.below(longest + 1) as usize;
    if prng.coin() {
        return [&[0x00], &draw_text(prng, len)[..], &[0xFF]].concat();
    }
    let payload = draw_bytes(prng, len);
    let mut frame = vec![0x80];
    if len >= 128 {
        frame.push(0x80 | (len / 128) as u8);
    }
    frame.push((len % 128) as u8);
    frame.extend(payload);
    frame
}

/// Reads frames of hixie-76. Returns how many bytes are a close frame and what follows it.
fn check_legacy_frames(mut rest: &[u8]) -> Result<usize, String> {
    loop {
        match rest {
            [0xFF, 0x00, ..] => return Ok(rest.len()),
            [] | [0xFF] => return Ok(0),
            [0x00, after @ ..] => {
                let end = after.iter().position(|&byte| byte == 0xFF);
                let text = &after[..end.unwrap_or(after.len())];
                let broken = std::str::from_utf8(text).err();
                if broken.is_some_and(|error| end.is_some() || error.error_len().is_some()) {
                    return Err("text that is not UTF-8".into());
                }
                let Some(end) = end else { return Ok(0) };
                rest = &after[end + 1..];
            }
            [0x80, after @ ..] => {
                let Some(at) = after.iter().position(|&byte| byte < 0x80) else {
                    return Ok(0);
                };
                let groups = after[..=at].iter();
                let len = groups.fold(0, |len, byte| len * 128 + usize::from(byte % 128));
                let Some(later) = after.get(at + 1 + len..) else {
                    return Ok(0);
                };
                rest = later;
            }
            [other, ..] => return Err(format!("a frame of type {other:#04x}")),
        }
    }
}

fn mutate(prng: &mut Prng, bytes: &mut Vec<u8>, from: usize) {
    for _ in 0..1 + prng.below(3) {
        if bytes.len() <= from {
            return;
        }
        let at = from + prng.below((bytes.len() - from) as u64) as usize;
        match prng.below(4) {
            0 => bytes[at] ^= 1 << prng.below(8),
            1 => bytes.insert(at, prng.draw() as u8),
            2 => {
                bytes.remove(at);
            }
            _ => bytes.truncate(at),
        }
    }
}

/// A violation, as its bytes and what they break.
fn violation(prng: &mut Prng, message_bytes_max: u64) -> (Vec<u8>, ProtocolError) {
    use ProtocolError::*;
    match prng.below(15) {
        0 => (frame(prng, 0xc1, b""), ReservedBit),
        1 => (frame(prng, 0x83, b""), OpcodeReserved(3)),
        2 => (frame(prng, 0x09, b""), ControlFragmented),
        3 => (vec![0x89, 0x80 | 126, 0, 126], ControlTooLong),
        4 => (vec![0x81, 0], MaskMissing),
        5 => (frame(prng, 0x80, b"a"), ContinuationWithoutMessage),
        6 => {
            let mut bytes = frame(prng, 0x01, b"a");
            bytes.extend(frame(prng, 0x81, b"b"));
            (bytes, MessageInterleaved)
        }
        7 => (frame(prng, 0x81, &[0xff]), TextNotUtf8),
        8 => (frame(prng, 0x88, &[3]), CloseBodyTooShort),
        9 => (
            frame(prng, 0x88, &1005u16.to_be_bytes()),
            CloseCodeNotAllowed(1005),
        ),
        10 => (
            frame(prng, 0x88, &[3, 0xe8, 0xc0, 0x80]),
            CloseReasonNotUtf8,
        ),
        11 => (vec![0x82, 0x80 | 126, 0, 125, 0, 0, 0, 0], LengthNotMinimal),
        12 => (vec![0x82, 0x80 | 127, 0x80], LengthTopBit),
        13 => (frame(prng, 0x81, &[0xed]), TextNotUtf8),
        _ => {
            let mut bytes = vec![0x82, 0x80 | 127];
            bytes.extend((message_bytes_max + (1 << 20)).to_be_bytes());
            bytes.extend([0; 4]);
            (bytes, MessageTooBig)
        }
    }
}

/// Bytes of a flood.
const FLOOD_BYTES_MAX: u64 = 40_000;

/// A handshake, and more than the server has time for.
fn flood(prng: &mut Prng, kind: RawKind, index: usize, plan: &Plan) -> Vec<u8> {
    let server = &plan.server;
    let path = format!("/raw/{index}");
    let mut script = match (kind, server.compress) {
        (RawKind::FloodLegacy, _) => legacy_handshake(&path),
        (RawKind::FloodBombs | RawKind::FloodFinalBlocks, true) => {
            let mut head = handshake(&path);
            head.truncate(head.len() - 2);
            head.extend(b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
            head
        }
        _ => handshake(&path),
    };
    let longest = server.message_bytes_max as usize;
    let len = script.len() + (FLOOD_BYTES_MAX / 4 + prng.below(FLOOD_BYTES_MAX)) as usize;
    let bomb = compressed(&vec![0; longest.min(200_000)]);
    while script.len() < len {
        match kind {
            RawKind::FloodPings => script.extend(frame(prng, 0x89, b"p")),
            RawKind::FloodFragments => {
                let most = longest.min(server.message_fragments_max as usize);
                let count = prng.up_to(most.clamp(1, 300) as u64);
                for at in 1..=count {
                    let first = if at == 1 { 0x02 } else { 0x00 };
                    let last = if at == count { 0x80 } else { 0x00 };
                    script.extend(frame(prng, first | last, b"f"));
                }
            }
            RawKind::FloodEmpty => {
                let fragments = server.message_fragments_max.saturating_sub(1);
                let most = fragments.min(server.message_empty_fragments_max).min(300);
                if most == 0 {
                    script.extend(frame(prng, 0x82, b""));
                    continue;
                }
                script.extend(frame(prng, 0x02, b""));
                for _ in 1..most {
                    script.extend(frame(prng, 0x00, b""));
                }
                script.extend(frame(prng, 0x80, b"e"));
            }
            RawKind::FloodLong => {
                let payload = vec![8; longest.min(20_000)];
                script.extend(frame(prng, 0x82, &payload));
            }
            RawKind::FloodBombs if server.compress => script.extend(frame(prng, 0xc2, &bomb)),
            RawKind::FloodFinalBlocks if server.compress => {
                let blocks = [3, 0].repeat(longest.clamp(1, 500));
                script.extend(frame(prng, 0xc2, &[&blocks[..], &[0]].concat()));
            }
            RawKind::FloodLegacy => script.extend(legacy_frame(prng, longest.min(20) as u64)),
            _ => {
                let payload = vec![7; prng.below(longest.min(20) as u64 + 1) as usize];
                script.extend(frame(prng, 0x82, &payload));
            }
        }
    }
    script
}

/// A payload as permessage-deflate has it.
fn compressed(payload: &[u8]) -> Vec<u8> {
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
    let mut bytes = Vec::with_capacity(payload.len() + 1_000);
    deflate
        .compress_vec(payload, &mut bytes, flate2::FlushCompress::Sync)
        .expect("room for it");
    let end = bytes.len() - 4;
    bytes.truncate(end);
    bytes
}

impl Raw {
    /// A peer of the server.
    pub fn against_server(seed: u64, index: usize, plan: &Plan) -> Self {
        let mut prng = Prng::new(seed, PURPOSE_RAW + index as u64);
        let kind = plan.raw[index];
        let longest = plan.server.message_bytes_max.min(300);
        let mut script = handshake(&format!("/raw/{index}"));
        let head = script.len();
        let mut violation_made = None;
        let message = |prng: &mut Prng| {
            let len = prng.below(longest + 1) as usize;
            let payload = draw_bytes(prng, len);
            frame(prng, 0x82, &payload)
        };
        match kind {
            RawKind::Deaf => {
                // More than the buffers of any seed hold.
                let most = plan.server.message_bytes_max.min(4_000);
                for _ in 0..600 {
                    let payload = vec![5; prng.below(most + 1) as usize];
                    script.extend(frame(&mut prng, 0x82, &payload));
                }
            }
            RawKind::FloodBombs
            | RawKind::FloodEmpty
            | RawKind::FloodFinalBlocks
            | RawKind::FloodFragments
            | RawKind::FloodLegacy
            | RawKind::FloodLong
            | RawKind::FloodPings
            | RawKind::FloodShort => script = flood(&mut prng, kind, index, plan),
            RawKind::Drips => {
                for _ in 0..300 {
                    script.extend(frame(&mut prng, 0x82, &[6; 4][..longest.min(4) as usize]));
                }
            }
            RawKind::Hoards => {
                let len = plan.server.message_bytes_max.min(200_000) as usize;
                let whole = frame(&mut prng, 0x82, &vec![9; len]);
                let part = prng.up_to(whole.len() as u64 - 1) as usize;
                script.extend(&whole[..part]);
            }
            RawKind::Garbage => {
                let len = 1 + prng.below(3_000) as usize;
                script = draw_bytes(&mut prng, len);
            }
            RawKind::HalfMessage => {
                script.extend(message(&mut prng));
                script.extend(frame(&mut prng, 0x01, b"h"));
                let whole = message(&mut prng);
                let half = prng.below(whole.len() as u64) as usize;
                script.extend(&whole[..half]);
            }
            RawKind::Http => script = b"GET /page HTTP/1.1\r\nHost: sim\r\n\r\n".to_vec(),
            RawKind::Legacy | RawKind::MutatedLegacy => {
                script = legacy_handshake(&format!("/raw/{index}"));
                let head = script.len() - 8;
                for _ in 0..prng.below(6) {
                    script.extend(legacy_frame(&mut prng, longest));
                }
                if kind == RawKind::Legacy {
                    script.extend(LEGACY_CLOSE);
                } else {
                    mutate(&mut prng, &mut script, head);
                }
            }
            RawKind::LegacySlow => {
                script = legacy_handshake(&format!("/raw/{index}"));
                script.truncate(script.len() - 1 - prng.below(8) as usize);
            }
            RawKind::MutatedFrames => {
                for _ in 0..5 {
                    script.extend(message(&mut prng));
                    script.extend(frame(&mut prng, 0x89, b"ping"));
                }
                mutate(&mut prng, &mut script, head);
            }
            RawKind::MutatedHandshake => {
                script.extend(message(&mut prng));
                mutate(&mut prng, &mut script, 0);
            }
            RawKind::Slow => script.truncate(prng.below(head as u64 - 1) as usize),
            RawKind::Violation => {
                for _ in 0..prng.below(3) {
                    script.extend(message(&mut prng));
                }
                let (bytes, error) = violation(&mut prng, plan.server.message_bytes_max);
                script.extend(bytes);
                violation_made = Some(error);
            }
        }
        let waits = matches!(
            kind,
            RawKind::Http
                | RawKind::Legacy
                | RawKind::LegacySlow
                | RawKind::Slow
                | RawKind::Violation
        );
        let reads = kind != RawKind::Deaf;
        Self::new(
            prng,
            Some(kind),
            index,
            script,
            waits,
            reads,
            violation_made,
        )
    }

    fn new(
        mut prng: Prng,
        kind: Option<RawKind>,
        index: usize,
        script: Vec<u8>,
        waits: bool,
        reads: bool,
        violation: Option<ProtocolError>,
    ) -> Self {
        let exits = [Exit::Closes, Exit::EndsStream, Exit::Resets];
        Self {
            kind,
            index,
            connect_turn: prng.below(200) as usize,
            connected_at: Time::default(),
            peer: None,
            script,
            written: 0,
            received: Vec::new(),
            hurries: kind.is_some_and(RawKind::floods),
            reads,
            waits,
            exit: exits[prng.below(3) as usize],
            patience: PATIENCE_TURNS,
            ended_by_server_at: None,
            violation,
            busy: false,
            done: false,
            prng,
        }
    }

    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Whether time must not pass before its next step: the kernel does not know that it has one.
    pub fn is_busy(&self) -> bool {
        self.busy && !self.done
    }

    pub fn waited_ms(&self) -> Option<u64> {
        let ended_at = self.ended_by_server_at?;
        Some(ended_at.ns_since(self.connected_at) / 1_000_000)
    }

    /// One step of a peer of the server.
    pub fn act(&mut self, turn: usize, kernel: &SimKernel, server: &Address, journal: &Journal) {
        if self.done || turn < self.connect_turn {
            return;
        }
        if self.peer.is_none() {
            match kernel.connect(server) {
                Ok(peer) => self.peer = Some(peer),
                // The server does not listen any more.
                Err(_) => self.done = true,
            }
            self.connected_at = kernel.now();
            if let Some(kind) = self.kind {
                journal.reach(mark_of(kind));
            }
            return;
        }
        self.step(kernel, journal);
    }

    fn step(&mut self, kernel: &SimKernel, journal: &Journal) {
        let Some(peer) = &mut self.peer else { return };
        self.busy = false;
        if self.written < self.script.len() {
            let most = match self.kind {
                _ if self.hurries => usize::MAX - self.written,
                // A message or two at a time.
                Some(RawKind::Drips) => 20,
                _ => [1, 7, 64, 10_000][self.prng.below(4) as usize],
            };
            let end = self.script.len().min(self.written + most);
            match peer.write(&self.script[self.written..end]) {
                Ok(0) if self.waits => {}
                Ok(0) => self.patience = self.patience.saturating_sub(1),
                Ok(count) => {
                    self.written += count;
                    self.busy = true;
                }
                // Nobody listens: what was said meanwhile can still be read.
                Err(_) => self.written = self.script.len(),
            }
        } else if !self.waits {
            self.patience = self.patience.saturating_sub(1);
        }
        if self.reads {
            let most = match self.hurries {
                true => usize::MAX,
                false => 1 + self.prng.below(500) as usize,
            };
            match peer.read(most) {
                SimRead::Bytes(bytes) => {
                    self.received.extend(bytes);
                    self.busy = true;
                }
                SimRead::Nothing => {}
                SimRead::End => {
                    self.ended_by_server_at = Some(kernel.now());
                    self.go(Exit::Closes, journal);
                    return;
                }
                SimRead::Failed(_) => {
                    self.go(Exit::Closes, journal);
                    return;
                }
            }
        }
        if self.patience == 0 {
            self.go(self.exit, journal);
        }
    }

    fn go(&mut self, exit: Exit, journal: &Journal) {
        match (exit, self.peer.take()) {
            (Exit::Resets, Some(peer)) => {
                journal.reach(Mark::RawReset);
                peer.reset();
            }
            (Exit::EndsStream, Some(mut peer)) => {
                journal.reach(Mark::RawEndOfStream);
                peer.shutdown_write();
                // It reads on until the server is done, or the simulation is.
                self.exit = Exit::Closes;
                self.patience = PATIENCE_TURNS;
                self.waits = false;
                self.reads = true;
                self.peer = Some(peer);
                return;
            }
            _ => {}
        }
        self.done = true;
    }

    fn is_legacy(&self) -> bool {
        use RawKind::{FloodLegacy, Legacy, LegacySlow, MutatedLegacy};
        let legacy = [FloodLegacy, Legacy, LegacySlow, MutatedLegacy];
        self.kind.is_some_and(|kind| legacy.contains(&kind))
    }

    /// Whether the server has answered the handshake of hixie-76 and everything behind it with the
    /// same bytes.
    pub fn got_all_echoes(&self) -> bool {
        let after_head = |bytes: &[u8]| {
            let at = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            at.map(|at| bytes[at + 4..].to_vec())
        };
        let (Some(sent), Some(received)) = (after_head(&self.script), after_head(&self.received))
        else {
            return false;
        };
        received == [LEGACY_ANSWER, &sent[8..]].concat()
    }

    /// Checks everything that the server wrote: a reply, and frames up to a close frame. A broken
    /// transport may cut it anywhere, but nothing else. Returns the status code of the reply, and
    /// of the close frame.
    pub fn check_received(&self, journal: &Journal) -> (Option<u16>, Option<u16>) {
        let mut closed_with = None;
        let mut fail = None;
        let head_len = self
            .received
            .windows(4)
            .position(|four| four == b"\r\n\r\n");
        let status: Option<u16> = self
            .received
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok());
        let mut rest = match (status, head_len) {
            (Some(101), Some(len)) => &self.received[len + 4..],
            _ => &[][..],
        };
        if self.is_legacy() {
            // The answer to a challenge, and frames of another kind.
            let frames = rest.get(LEGACY_ANSWER.len()..).unwrap_or_default();
            match check_legacy_frames(frames) {
                Ok(0 | 2) => {}
                Ok(len) => fail = Some(format!("{} bytes after a close frame", len - 2)),
                Err(error) => fail = Some(error),
            }
            rest = &[];
        }
        while !rest.is_empty() && fail.is_none() {
            if closed_with.is_some() {
                fail = Some(format!("{} bytes after a close frame", rest.len()));
                break;
            }
            let mut head = rest[..rest.len().min(14)].to_vec();
            if matches!(
                self.kind,
                Some(RawKind::FloodBombs | RawKind::FloodFinalBlocks)
            ) {
                // What was compressed is answered compressed.
                head[0] &= !0x40;
            }
            match FrameHeader::decode(&head, Role::Client) {
                Err(error) => fail = Some(error.to_string()),
                Ok(None) => break,
                Ok(Some((header, at))) => {
                    let Some(end) = at.checked_add(header.payload_len as usize) else {
                        fail = Some("a frame without end".into());
                        break;
                    };
                    let Some(payload) = rest.get(at..end) else {
                        break;
                    };
                    if header.opcode == Opcode::Close {
                        let code = payload
                            .get(..2)
                            .map(|two| u16::from_be_bytes([two[0], two[1]]));
                        closed_with = Some(code.unwrap_or(0));
                    }
                    rest = &rest[end..];
                }
            }
        }
        if status.is_none() && self.received.len() >= 12 {
            fail = Some("the reply is not HTTP".into());
        }
        journal.check(Mark::CheckServerWritesOnlyFrames, fail.is_none(), || {
            format!("raw peer {} read {}", self.index, fail.unwrap_or_default())
        });
        (status, closed_with)
    }
}

fn mark_of(kind: RawKind) -> Mark {
    match kind {
        RawKind::Deaf => Mark::RawDeaf,
        RawKind::Drips => Mark::RawDrips,
        RawKind::FloodBombs => Mark::RawFloodBombs,
        RawKind::FloodEmpty => Mark::RawFloodEmpty,
        RawKind::FloodFinalBlocks => Mark::RawFloodFinalBlocks,
        RawKind::FloodFragments => Mark::RawFloodFragments,
        RawKind::FloodLegacy => Mark::RawFloodLegacy,
        RawKind::FloodLong => Mark::RawFloodLong,
        RawKind::FloodPings => Mark::RawFloodPings,
        RawKind::FloodShort => Mark::RawFloodShort,
        RawKind::Hoards => Mark::RawHoards,
        RawKind::Garbage => Mark::RawGarbage,
        RawKind::HalfMessage => Mark::RawHalfMessage,
        RawKind::Http => Mark::RawHttp,
        RawKind::Legacy => Mark::RawLegacy,
        RawKind::LegacySlow => Mark::RawLegacySlow,
        RawKind::MutatedLegacy => Mark::RawMutatedLegacy,
        RawKind::MutatedFrames => Mark::RawMutatedFrames,
        RawKind::MutatedHandshake => Mark::RawMutatedHandshake,
        RawKind::Slow => Mark::RawSlow,
        RawKind::Violation => Mark::RawViolation,
    }
}

/// A server that keeps to no rule, for a client to meet.
pub struct HostileServer {
    listener: SimPeerListener,
    answered: Option<Raw>,
    behaviour: u64,
    prng: Prng,
}

impl HostileServer {
    pub fn new(seed: u64, kernel: &SimKernel, address: &Address) -> Self {
        let mut prng = Prng::new(seed, PURPOSE_RAW - 1);
        Self {
            listener: kernel.listen_outside(address),
            answered: None,
            behaviour: prng.below(7),
            prng,
        }
    }

    pub fn is_busy(&self) -> bool {
        self.answered.as_ref().is_some_and(Raw::is_busy)
    }

    pub fn act(&mut self, kernel: &SimKernel, journal: &Journal) {
        if let Some(raw) = &mut self.answered {
            // The script is an answer, and that needs the question.
            if raw.script.is_empty() && raw.received.ends_with(b"\r\n\r\n") {
                raw.script = answer(&mut self.prng, self.behaviour, &raw.received);
            }
            if !raw.done {
                raw.step(kernel, journal);
            }
            return;
        }
        let Some(peer) = self.listener.accept() else {
            return;
        };
        journal.reach(Mark::RawHostileServer);
        let prng = Prng::new(self.prng.draw(), PURPOSE_RAW);
        let mut raw = Raw::new(prng, None, 0, Vec::new(), false, true, None);
        raw.peer = Some(peer);
        self.answered = Some(raw);
    }
}

/// What a hostile server says to an opening handshake.
fn answer(prng: &mut Prng, behaviour: u64, question: &[u8]) -> Vec<u8> {
    let question = String::from_utf8_lossy(question);
    let key = question
        .lines()
        .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
        .unwrap_or("");
    let accept = accept_key(key.as_bytes());
    let mut bytes = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        String::from_utf8_lossy(&accept)
    )
    .into_bytes();
    let head = bytes.len();
    match behaviour {
        0 => draw_bytes(prng, 400),
        1 => {
            mutate(prng, &mut bytes, 0);
            bytes
        }
        // A masked frame.
        2 => {
            bytes.extend(frame(prng, 0x81, b"masked"));
            bytes
        }
        // A whole message, half of one, and then nothing.
        3 => {
            bytes.extend([0x81, 2, b'h', b'i', 0x82, 100, 1, 2, 3]);
            bytes
        }
        4 => {
            bytes.extend(draw_bytes(prng, 300));
            bytes
        }
        5 => {
            bytes.extend([0x89, 4, 1, 2, 3, 4, 0x88, 2, 3, 0xe8]);
            mutate(prng, &mut bytes, head);
            bytes
        }
        _ => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".to_vec(),
    }
}

/// Peers that connect all at once, say nothing, and are told that it took too long.
#[derive(Default)]
pub struct Crowd {
    peers: Vec<SimPeer>,
    came: bool,
}

impl Crowd {
    pub fn is_done(&self, plan: &Plan) -> bool {
        plan.crowd == 0 || self.came && self.peers.is_empty()
    }

    pub fn act(&mut self, plan: &Plan, kernel: &SimKernel, server: &Address, journal: &Journal) {
        if !std::mem::replace(&mut self.came, true) {
            let connects = (0..plan.crowd).map(|_| kernel.connect(server));
            self.peers.extend(connects.flatten());
        }
        self.peers.retain_mut(|peer| match peer.read(1_000) {
            SimRead::Bytes(bytes) => {
                if bytes.starts_with(b"HTTP/1.1 408") {
                    journal.reach(Mark::CrowdTimedOut);
                }
                true
            }
            SimRead::Nothing => true,
            SimRead::End | SimRead::Failed(_) => false,
        });
    }
}
