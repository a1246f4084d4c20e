//! What the server's tests do with their client beyond sending and reading frames.

use std::{
    io::ErrorKind,
    net::Shutdown,
    time::{Duration, Instant},
};

use rustix::net::sockopt::set_socket_linger;

use crate::common::{Frame, PATIENCE, Peer, TEXT, masked};

pub const FIN: u8 = 0x80;
pub const CLOSE: u8 = 0x88;
pub const PING: u8 = 0x89;
pub const PONG: u8 = 0x8a;

/// Waits until `condition` holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Lets time pass as a peer does that is slow.
pub fn pause(ms: u64) {
    let until = Instant::now() + Duration::from_millis(ms);
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// The payload of a close frame.
pub fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// xorshift64*, so that what a seed gives stays the same.
pub struct Prng(u64);

impl Prng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to `bound` - 1.
    pub fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 32) as usize) % bound
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// An HTTP reply, whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Reply {
    /// The value of a header that comes at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().filter_map(|line| {
            let (sent, value) = line.split_once(": ")?;
            sent.eq_ignore_ascii_case(name).then_some(value)
        });
        let value = values.next();
        assert_eq!(values.next(), None, "{name} comes twice in {}", self.head);
        value
    }
}

impl Peer {
    /// Writes byte by byte, each in a segment of its own.
    pub fn drip(&mut self, bytes: &[u8]) {
        for byte in bytes.chunks(1) {
            self.write(byte);
        }
    }

    /// Sends `text` and reads it back.
    #[track_caller]
    pub fn echo(&mut self, text: &str) {
        self.send(TEXT, text.as_bytes());
        self.expect_text(text);
    }

    #[track_caller]
    pub fn expect_text(&mut self, text: &str) {
        let frame = Frame {
            first: TEXT,
            payload: text.into(),
        };
        assert_eq!(self.read_message(), frame);
    }

    /// The next frame that is no ping; pings are answered.
    pub fn read_message(&mut self) -> Frame {
        loop {
            let frame = self.read_frame();
            if frame.first != PING {
                return frame;
            }
            self.send(PONG, &frame.payload);
        }
    }

    /// The next frame is a close frame with this code. Returns its reason.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> String {
        let frame = self.read_frame();
        assert_eq!(frame.first, CLOSE, "{frame:?}");
        let [high, low, reason @ ..] = &frame.payload[..] else {
            panic!("no status code: {frame:?}");
        };
        assert_eq!(u16::from_be_bytes([*high, *low]), code, "{frame:?}");
        String::from_utf8(reason.to_vec()).expect("a reason of UTF-8")
    }

    /// Nothing follows but the end of the stream, which is no reset.
    #[track_caller]
    pub fn expect_end(&mut self) {
        match self.fill() {
            Ok(false) => {}
            Ok(true) => panic!("more came: {}", self.pending.escape_ascii()),
            Err(error) => panic!("the stream did not end: {error}"),
        }
        assert!(self.pending.is_empty(), "{}", self.pending.escape_ascii());
    }

    /// The connection is gone, with or without a reset, and whatever came before.
    #[track_caller]
    pub fn expect_gone(&mut self) {
        loop {
            match self.fill() {
                Ok(true) => self.start = self.pending.len(),
                Ok(false) => return,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the connection is still there: {error}"),
            }
        }
    }

    /// A whole HTTP reply with the end of the stream after it. `bodiless`: it answers a HEAD.
    #[track_caller]
    pub fn read_reply(&mut self, bodiless: bool) -> Reply {
        let head = self.read_head();
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        while self.fill().expect("reading a body") {}
        let body = String::from_utf8(self.pending.split_off(self.start)).expect("a body of text");
        self.pending.clear();
        self.start = 0;
        let reply = Reply {
            status: status.unwrap_or_else(|| panic!("no status: {head}")),
            head,
            body,
        };
        let len: usize = match reply.header("Content-Length") {
            // RFC 9110 section 8.6: it must not say how long it is.
            None if reply.status == 204 => 0,
            len => len.unwrap().parse().unwrap(),
        };
        assert_eq!(reply.body.len(), if bodiless { 0 } else { len });
        reply
    }

    /// The closing handshake from this side, to its end.
    #[track_caller]
    pub fn close(mut self) {
        self.send(CLOSE, &close_payload(1000, b""));
        assert_eq!(self.expect_close(1000), "");
        self.expect_end();
    }

    /// Answers the server's close frame and waits for the end.
    #[track_caller]
    pub fn answer_close(mut self, code: u16) {
        self.expect_close(code);
        self.send(CLOSE, &close_payload(code, b""));
        self.expect_end();
    }

    pub fn shutdown_write(&self) {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("shutting down");
    }

    /// Another way to the same socket, for writing while this one reads.
    pub fn writer(&self) -> Self {
        Self {
            stream: self.stream.try_clone().unwrap(),
            pending: Vec::new(),
            start: 0,
        }
    }

    /// Is gone at once, with a reset.
    pub fn reset(self) {
        set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    /// Sends one message in fragments of these payloads.
    pub fn send_fragments(&mut self, opcode: u8, fragments: &[&[u8]]) {
        let last = fragments.len() - 1;
        for (index, fragment) in fragments.iter().enumerate() {
            let fin = if index == last { FIN } else { 0 };
            let opcode = if index == 0 { opcode } else { 0 };
            self.write(&masked(fin | opcode, fragment));
        }
    }
}
