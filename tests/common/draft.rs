//! A client of 2010 (hixie-76), which nobody ships any more.
//!
//! Knows the draft as its author read it. Refuses to know any code of ringwire but the form of an
//! address.

use ringwire::Address;

use crate::common::Peer;

/// The example of section 1.2, with the fields in the order of the draft.
pub const HEAD: &str = "GET /?demo HTTP/1.1\r\n\
    Host: example.com\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n\
    Upgrade: WebSocket\r\n\
    Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\
    Origin: http://example.com\r\n\r\n";
pub const BODY: &[u8; 8] = b"^n:ds[4U";
pub const ANSWER: &[u8; 16] = b"8jKS'y:G*Co,Wxa-";

pub const CLOSE: [u8; 2] = [0xFF, 0x00];

pub fn text(payload: &str) -> Vec<u8> {
    [&[0x00], payload.as_bytes(), &[0xFF]].concat()
}

/// What the draft's framing has.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Text(String),
    Binary(Vec<u8>),
    Close,
}

impl Peer {
    pub fn byte(&mut self) -> u8 {
        self.bytes(1)[0]
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.pending.len() - self.start < count {
            assert!(self.fill().expect("reading"), "the stream ended");
        }
        self.start += count;
        self.pending[self.start - count..self.start].to_vec()
    }

    pub fn read_draft(&mut self) -> Frame {
        match self.byte() {
            0x00 => {
                let mut scanned = 0;
                let end = loop {
                    let rest = &self.pending[self.start + scanned..];
                    match rest.iter().position(|&byte| byte == 0xFF) {
                        Some(at) => break scanned + at,
                        None => scanned += rest.len(),
                    }
                    assert!(self.fill().expect("reading"), "the stream ended");
                };
                let text = self.bytes(end);
                assert_eq!(self.byte(), 0xFF);
                Frame::Text(String::from_utf8(text).expect("text of UTF-8"))
            }
            0x80 => {
                let mut len = 0;
                loop {
                    let byte = self.byte();
                    len = len * 128 + usize::from(byte & 0x7F);
                    if byte < 0x80 {
                        break;
                    }
                }
                Frame::Binary(self.bytes(len))
            }
            0xFF => {
                assert_eq!(self.byte(), 0x00);
                Frame::Close
            }
            other => panic!("a frame of type {other:#04x}"),
        }
    }

    #[track_caller]
    pub fn draft_echo(&mut self, payload: &str) {
        self.write(&text(payload));
        assert_eq!(self.read_draft(), Frame::Text(payload.into()));
    }

    #[track_caller]
    pub fn expect_answer(&mut self) {
        let head = self.read_head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(self.bytes(16), ANSWER);
    }

    #[track_caller]
    pub fn draft_close(mut self) {
        self.write(&CLOSE);
        assert_eq!(self.read_draft(), Frame::Close);
        self.expect_end();
    }
}

/// For a page of this origin.
pub fn open_at(address: &Address, origin: &str) -> Peer {
    let mut peer = Peer::connect(address);
    let head = HEAD.replacen("http://example.com", origin, 1);
    peer.write(&[head.as_bytes(), BODY].concat());
    peer.expect_answer();
    peer
}
