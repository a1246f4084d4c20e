//! RFC 6455, both roles, without I/O.
//!
//! Knows: bytes, frames, messages, the opening and the closing handshake. Refuses to know:
//! descriptors, clocks, threads; nothing here allocates per frame.
//!
//! ```text
//!   received bytes (&mut [u8]) ---> Endpoint ---> Event<'_> borrowed from them
//!                                       |
//!                                       +-------> Sink: pongs, close frames, messages to send
//! ```
//!
//! [`hixie`] is what came before it, on the same endpoint, for servers that ask for it.
//!
//! One core serves the server, the client, the load generator and the tests: whoever has bytes and
//! somewhere to put bytes can drive it.

pub mod close_code;
pub mod deflate;
pub mod endpoint;
pub mod error;
pub mod frame;
pub mod handshake;
pub mod hixie;
pub mod message;
#[cfg(test)]
mod random;

pub use close_code::CloseCode;
pub use endpoint::{CloseFrame, Endpoint, Event, Limits};
pub use error::{ProtocolError, SendError};
pub use frame::Opcode;
pub use message::{Message, MessageKind, MessagePool, Payload};

use bytes::Bytes;

/// Which side of a connection an endpoint is (RFC 6455 section 1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It opened the connection and masks what it sends.
    Client,
    /// It was connected to and does not mask.
    Server,
}

/// Which WebSocket protocol a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Version {
    /// draft-hixie-thewebsocketprotocol-76, as [`hixie`] has it.
    Hixie76,
    /// RFC 6455: `Sec-WebSocket-Version: 13`.
    Rfc6455,
}

/// Where an endpoint writes what goes to its peer.
pub trait Sink {
    /// Room for the next bytes: at least `min(wanted, 256)` and at most `wanted` bytes. They count
    /// as written once [`commit`](Self::commit) says so.
    fn space(&mut self, wanted: usize) -> &mut [u8];

    /// Counts bytes of the last space as written.
    fn commit(&mut self, bytes: usize);

    /// Writes `bytes`.
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space(bytes.len());
            let count = space.len();
            let (now, later) = bytes.split_at(count);
            space.copy_from_slice(now);
            self.commit(count);
            bytes = later;
        }
    }

    /// Writes `bytes`, keeping them instead of copying where the sink can.
    fn adopt(&mut self, bytes: Bytes) {
        self.write(&bytes);
    }

    /// Writes a frame's header of at most 14 bytes and the payload behind it, as
    /// [`adopt`](Self::adopt) does. A sink that keeps both together needs no other memory for the
    /// header.
    fn adopt_framed(&mut self, header: &[u8], payload: Bytes) {
        self.write(header);
        self.adopt(payload);
    }
}

/// A sink for whoever has one contiguous buffer: bytes beyond `len` are space.
#[derive(Clone, Debug, Default)]
pub struct VecSink {
    bytes: Vec<u8>,
    len: usize,
}

impl VecSink {
    /// What was written so far.
    pub fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Sink for VecSink {
    #[inline]
    fn space(&mut self, wanted: usize) -> &mut [u8] {
        let end = self.len + wanted;
        if self.bytes.len() < end {
            self.bytes.resize(end.max(2 * self.bytes.len()), 0);
        }
        &mut self.bytes[self.len..end]
    }

    #[inline]
    fn commit(&mut self, bytes: usize) {
        self.len += bytes;
        assert!(
            self.len <= self.bytes.len(),
            "more bytes were committed than there was space for"
        );
    }
}
