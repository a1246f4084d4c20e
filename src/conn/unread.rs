//! Received bytes that nobody has looked at: the connection's share of a turn was over.
//!
//! Knows: their order, and what came behind them. Refuses to know: what they mean, and whose turn
//! it is.
//!
//! They are a copy, so that no receive memory waits for the connection's next turn. While some are
//! here, nothing more is received for the connection: it holds no more than its peer has sent.
//! There may be none of them, while the connection goes on with what it has looked at.
//!
//! ```text
//!   records decrypted | not decrypted (or plain bytes)      | how the stream ended
//!   plain ----------> | bytes --------------------------->  | end
//! ```

use crate::{ring::Errno, tls::TlsError};

/// Memory that is kept for whoever is put off next.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// Bytes that are taken from the front.
#[derive(Debug, Default)]
struct Rest {
    bytes: Vec<u8>,
    at: usize,
}

/// What a connection has received and nobody has looked at.
#[derive(Debug, Default)]
pub struct Unread {
    plain: Rest,
    bytes: Rest,
    end: Option<End>,
}

/// What follows the bytes: there will be no more.
#[derive(Debug)]
pub enum End {
    /// The peer has ended the stream.
    Stream,
    /// The transport broke.
    Failed(Errno),
    /// The peer has ended its side of TLS.
    TlsClosed,
    /// TLS failed.
    Tls(TlsError),
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.is_empty() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.reserve_exact(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }
}

/// Bytes that were taken out to be looked at.
#[derive(Debug)]
pub struct Taken {
    bytes: Vec<u8>,
    at: usize,
}

impl Taken {
    /// The bytes.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.at..]
    }
}

impl Unread {
    /// Puts received bytes behind those that are here.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.push(bytes);
    }

    /// Puts plaintext of TLS behind that which is here: it comes before [`push`](Self::push)ed
    /// records.
    pub fn push_plain(&mut self, plain: &[u8]) {
        self.plain.push(plain);
    }

    /// What follows all bytes. The first word on that stays.
    pub fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Takes the plaintext out.
    pub fn take_plain(&mut self) -> Option<Taken> {
        Self::take(&mut self.plain)
    }

    /// Takes the received bytes out.
    pub fn take_bytes(&mut self) -> Option<Taken> {
        Self::take(&mut self.bytes)
    }

    fn take(rest: &mut Rest) -> Option<Taken> {
        if rest.is_empty() {
            return None;
        }
        let Rest { bytes, at } = std::mem::take(rest);
        Some(Taken { bytes, at })
    }

    /// Puts plaintext back of which the last `left` bytes were not looked at.
    pub fn put_back_plain(&mut self, taken: Taken, left: usize) {
        Self::put_back(&mut self.plain, taken, left);
    }

    /// As [`put_back_plain`](Self::put_back_plain), of received bytes.
    pub fn put_back_bytes(&mut self, taken: Taken, left: usize) {
        Self::put_back(&mut self.bytes, taken, left);
    }

    fn put_back(rest: &mut Rest, taken: Taken, left: usize) {
        let Taken { bytes, .. } = taken;
        let at = bytes.len() - left;
        *rest = Rest { bytes, at };
    }

    /// How the stream ended, once there is nothing in front of that any more.
    pub fn take_end(&mut self) -> Option<End> {
        self.end
            .take_if(|_| self.plain.is_empty() && self.bytes.is_empty())
    }

    /// Whether there is plaintext.
    pub fn has_plain(&self) -> bool {
        !self.plain.is_empty()
    }

    /// Forgets what is here, but for its memory. Returns whether that is little enough to be kept.
    pub fn clear(&mut self) -> bool {
        for rest in [&mut self.plain, &mut self.bytes] {
            rest.bytes.clear();
            rest.at = 0;
        }
        self.end = None;
        self.held_bytes() <= KEPT_BYTES_MAX
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.bytes.is_empty() && self.end.is_none()
    }

    /// Bytes that are left.
    #[cfg(feature = "sim")]
    pub fn len(&self) -> usize {
        let left = |rest: &Rest| rest.bytes.len() - rest.at;
        left(&self.plain) + left(&self.bytes)
    }

    /// Bytes of memory that it takes.
    pub fn held_bytes(&self) -> usize {
        self.plain.bytes.capacity() + self.bytes.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_looked_at_in_the_order_in_which_they_came_and_the_end_last() {
        let mut unread = Unread::default();
        unread.push(b"abcdef");
        unread.push_plain(b"12");
        unread.end(End::Stream);
        unread.end(End::TlsClosed);
        let mut plain = unread.take_plain().unwrap();
        assert_eq!(plain.bytes(), b"12");
        unread.put_back_plain(plain, 1);
        assert!(unread.take_end().is_none());
        assert_eq!(unread.take_plain().unwrap().bytes(), b"2");
        let taken = unread.take_bytes().unwrap();
        unread.put_back_bytes(taken, 4);
        unread.push(b"gh");
        assert_eq!(unread.take_bytes().unwrap().bytes(), b"cdefgh");
        assert!(matches!(unread.take_end(), Some(End::Stream)));
        assert!(unread.is_empty());
    }
}
