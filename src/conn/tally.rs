//! What passed on one connection, for a service that wants to tell at its end.
//!
//! Knows: numbers. Refuses to know: who keeps them, and where.
//!
//! Nobody pays for it who does not keep one: a shard compares its own counts before and after it
//! has called the service for a connection, and only where the service has a place for the
//! difference.

use super::Counts;

/// Messages and bytes of one connection, both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages received.
    pub messages_received: u64,
    /// Bytes of payload in them.
    pub payload_bytes_received: u64,
    /// Messages sent.
    pub messages_sent: u64,
    /// Bytes of payload in them.
    pub payload_bytes_sent: u64,
}

impl Tally {
    /// What a shard has counted so far.
    #[inline]
    pub const fn of(counts: &Counts) -> Self {
        Self {
            messages_received: counts.messages_received,
            payload_bytes_received: counts.payload_bytes_received,
            messages_sent: counts.messages_sent,
            payload_bytes_sent: counts.payload_bytes_sent,
        }
    }

    /// Adds what was counted from then to now.
    #[inline]
    pub const fn add(&mut self, then: &Self, now: &Self) {
        self.messages_received += now.messages_received - then.messages_received;
        self.payload_bytes_received += now.payload_bytes_received - then.payload_bytes_received;
        self.messages_sent += now.messages_sent - then.messages_sent;
        self.payload_bytes_sent += now.payload_bytes_sent - then.payload_bytes_sent;
    }

    /// Adds a message, or several, that were received.
    #[inline]
    pub const fn receive(&mut self, messages: u64, payload_bytes: u64) {
        self.messages_received += messages;
        self.payload_bytes_received += payload_bytes;
    }

    /// Adds a message that was sent.
    #[inline]
    pub const fn send(&mut self, payload_bytes: u64) {
        self.messages_sent += 1;
        self.payload_bytes_sent += payload_bytes;
    }
}
