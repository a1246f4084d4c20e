//! A WebSocket client of the tests' own, over blocking sockets.
//!
//! Knows RFC 6455 as its author read it. Refuses to know any code of ringwire but the form of an
//! address: a mistake that both sides share would not be seen.

use std::{
    fmt,
    io::{self, Read, Write},
    net::TcpStream,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use ringwire::Address;

/// Whatever has not happened after this will not happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The key of RFC 6455 section 1.3 and what answers it.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// First bytes of frames (section 5.2), FIN on.
pub const TEXT: u8 = 0x81;
pub const BINARY: u8 = 0x82;

/// A frame as it came from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// FIN, the reserved bits and the opcode.
    pub first: u8,
    pub payload: Vec<u8>,
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.payload[..self.payload.len().min(130)];
        let len = self.payload.len();
        write!(
            f,
            "frame {:#04x} of {len} B: {}",
            self.first,
            shown.escape_ascii()
        )
    }
}

/// A masked frame, its length in the shortest form, its key another one each time.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    static KEYS: AtomicU32 = AtomicU32::new(0x37fa_213d);
    let key = KEYS.fetch_add(0x9e37_79b9, Ordering::Relaxed).to_be_bytes();
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..0x1_0000 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&key);
    let start = frame.len();
    frame.extend_from_slice(payload);
    for (byte, key) in frame[start..].iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    frame
}

/// An opening handshake for `target`.
pub fn request(target: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// The client's end of a connection.
#[derive(Debug)]
pub struct Peer {
    pub stream: TcpStream,
    /// Bytes read, of which those before `start` were looked at.
    pub pending: Vec<u8>,
    pub start: usize,
}

impl Peer {
    /// Connects, and says nothing yet.
    pub fn connect(address: &Address) -> Self {
        let stream = match address {
            Address::Inet(inet) => TcpStream::connect(inet).expect("connecting"),
            // The calls that are made here are the same for both families.
            Address::Unix(path) => {
                OwnedFd::from(UnixStream::connect(path).expect("connecting")).into()
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        if matches!(address, Address::Inet(_)) {
            stream.set_nodelay(true).unwrap();
        }
        Self {
            stream,
            pending: Vec::new(),
            start: 0,
        }
    }

    /// Connects and opens a WebSocket at `target`.
    pub fn open(address: &Address, target: &str) -> Self {
        let mut peer = Self::connect(address);
        peer.write(request(target).as_bytes());
        let head = peer.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let is_accepted =
            head.lines()
                .filter_map(|line| line.split_once(": "))
                .any(|(name, value)| {
                    name.eq_ignore_ascii_case("Sec-WebSocket-Accept") && value == ACCEPT
                });
        assert!(is_accepted, "{head}");
        peer
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("writing");
    }

    /// Sends a masked frame.
    pub fn send(&mut self, first: u8, payload: &[u8]) {
        self.write(&masked(first, payload));
    }

    /// Everything up to the empty line that ends a head.
    pub fn read_head(&mut self) -> String {
        loop {
            let pending = &self.pending[self.start..];
            if let Some(at) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = pending[..at + 4].to_vec();
                self.start += at + 4;
                return String::from_utf8(head).expect("a head of ASCII");
            }
            assert!(self.fill().expect("reading a head"), "no head");
        }
    }

    /// The next frame, which a server must not mask and must write in its shortest form.
    pub fn read_frame(&mut self) -> Frame {
        self.try_read_frame()
            .unwrap_or_else(|error| panic!("reading a frame: {error}"))
    }

    /// As [`read_frame`](Self::read_frame), for those who expect to fail.
    pub fn try_read_frame(&mut self) -> io::Result<Frame> {
        let [first, second] = *self.take(2)? else {
            unreachable!("two bytes were asked for")
        };
        // RSV1 is a compressed message's; whoever agreed on none compares the whole byte.
        assert_eq!(first & 0x30, 0, "reserved bits");
        let len = match second {
            0..126 => u64::from(second),
            126 => {
                let len = u16::from_be_bytes(self.take(2)?.try_into().unwrap());
                assert!(len >= 126, "a length of {len} in 16 bits");
                u64::from(len)
            }
            127 => {
                let len = u64::from_be_bytes(self.take(8)?.try_into().unwrap());
                assert!(
                    (0x1_0000..1 << 32).contains(&len),
                    "a length of {len} in 64 bits"
                );
                len
            }
            _ => panic!("the server masked a frame"),
        };
        let payload = self.take(len as usize)?.to_vec();
        Ok(Frame { first, payload })
    }

    /// The next `count` bytes.
    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.pending.len() - self.start < count {
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.start += count;
        Ok(&self.pending[self.start - count..self.start])
    }

    /// Reads what there is. Returns whether there was anything before the end of the stream.
    pub fn fill(&mut self) -> io::Result<bool> {
        if self.start == self.pending.len() {
            self.pending.clear();
        } else {
            self.pending.drain(..self.start);
        }
        self.start = 0;
        let before = self.pending.len();
        self.pending.resize(before + (64 << 10), 0);
        let read = self.stream.read(&mut self.pending[before..]);
        self.pending
            .truncate(before + read.as_ref().map_or(0, |&count| count));
        read.map(|count| count > 0)
    }
}
