//! What an attacker does on one connection, as data.
//!
//! Knows: the order of a connection's life, and the bytes of it. Refuses to know: sockets, time,
//! which attack it is.
//!
//! ```text
//!   connect --> TLS? --> request --> reply? --> all are here? --> segments --> hold, or once more
//! ```

use std::{sync::Arc, time::Duration};

/// Bytes that are sent a number of times. Frames in it are all of the same length, or there is one.
#[derive(Clone, Debug)]
pub struct Segment {
    pub bytes: Arc<[u8]>,
    /// How often; `u64::MAX` for as long as the attack lasts.
    pub times: u64,
    /// Whole frames in `bytes`; 0 for the part of a frame.
    pub frames: u64,
}

/// What is awaited before a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing.
    None,
    /// Any byte at all.
    Byte,
    /// The head of an HTTP reply.
    Head,
    /// The peer's end of the connection.
    End,
}

/// TLS below a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    None,
    /// Records as large as they can be.
    Tls,
    /// Records of one byte each.
    TlsByByte,
    /// As `Tls`, with new traffic keys before each write.
    TlsRekeyed,
}

/// When a connection has done everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It stays as it is.
    Hold,
    /// It is closed, and another one takes its place.
    Again,
    /// As `Again`, with a reset instead of an orderly end.
    AgainAfterReset,
}

/// The life of one connection.
#[derive(Clone, Debug)]
pub struct Plan {
    pub security: Security,
    pub request: Arc<[u8]>,
    pub reply: Reply,
    /// Whether connections wait for each other before the segments.
    pub together: bool,
    pub segments: Vec<Segment>,
    /// Whether what the server sends is read once the segments have begun.
    pub reads: bool,
    /// Bytes for each length of time, instead of as fast as it goes.
    pub pace: Option<(usize, Duration)>,
    pub then: Then,
    /// Whether another connection takes the place of one that the server has ended.
    pub reopens: bool,
    /// Bytes of the kernel's buffers on the attacker's side, if not the kernel's choice: what is
    /// in flight is in the server's then.
    pub socket_bytes: Option<usize>,
}

impl Plan {
    /// A connection that sends this and reads nothing.
    pub fn request(request: impl Into<Arc<[u8]>>, reply: Reply) -> Self {
        Self {
            security: Security::None,
            request: request.into(),
            reply,
            together: false,
            segments: Vec::new(),
            reads: true,
            pace: None,
            then: Then::Hold,
            reopens: false,
            socket_bytes: None,
        }
    }
}
