//! Stands in for TLS where the feature `tls` is off.
//!
//! Knows: that there is none. Refuses to know: the rest: its types have no values, so that what
//! others do with them compiles to nothing.

use std::fmt;

use crate::proto::{Sink, endpoint::Unfinished};

pub const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

/// It has a value, so that a `Result` with it is a type like any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError;

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ringwire was built without the feature tls")
    }
}

impl TlsError {
    pub fn is_plain_http(&self) -> bool {
        false
    }
}

#[derive(Debug)]
pub enum Session {}

impl Session {
    pub fn start(&mut self, _: &mut impl Sink) -> Result<(), TlsError> {
        match *self {}
    }

    pub fn receive(
        &mut self,
        _: &mut [u8],
        _: &mut Vec<u8>,
        _: &mut impl Sink,
    ) -> Result<(), TlsError> {
        match *self {}
    }

    pub fn encrypt(&mut self, _: &[u8], _: &mut impl Sink) -> Result<(), TlsError> {
        match *self {}
    }

    pub fn close(&mut self, _: &mut impl Sink) {
        match *self {}
    }

    pub fn held_bytes(&self) -> usize {
        match *self {}
    }

    pub fn unfinished(&mut self) -> Option<Unfinished> {
        match *self {}
    }

    pub fn is_open(&self) -> bool {
        match *self {}
    }

    pub fn is_closed(&self) -> bool {
        match *self {}
    }

    pub fn is_peer_closed(&self) -> bool {
        match *self {}
    }

    pub fn is_resumed(&self) -> bool {
        match *self {}
    }
}

#[derive(Clone, Debug)]
pub enum ServerTls {}

impl ServerTls {
    pub fn session(&self) -> Result<Session, TlsError> {
        match *self {}
    }
}

#[derive(Clone, Debug)]
pub enum ClientTls {}

impl ClientTls {
    pub fn session(&self, _: &str) -> Result<Session, TlsError> {
        match *self {}
    }
}
