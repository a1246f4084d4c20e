//! A shard's counts, readable from any thread.
//!
//! Knows: numbers. The shard counts in plain fields and stores them here once a turn: nobody else
//! writes, so that a store is all it takes.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::conn::Counts;

macro_rules! stats {
    ($($field:ident)*) => {
        /// The latest counts of one shard.
        #[derive(Debug, Default)]
        pub struct Stats {
            connections_open: AtomicU64,
            queued_bytes: AtomicU64,
            $($field: AtomicU64,)*
        }

        impl Stats {
            /// Stores the counts of a turn.
            #[inline]
            pub fn publish(&self, counts: &Counts, connections_open: usize, queued_bytes: usize) {
                self.connections_open.store(connections_open as u64, Ordering::Relaxed);
                self.queued_bytes.store(queued_bytes as u64, Ordering::Relaxed);
                $(self.$field.store(counts.$field, Ordering::Relaxed);)*
            }

            /// The counts as of the last turn.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot {
                    connections_open: self.connections_open.load(Ordering::Relaxed),
                    queued_bytes: self.queued_bytes.load(Ordering::Relaxed),
                    counts: Counts { $($field: self.$field.load(Ordering::Relaxed),)* },
                }
            }
        }

        impl std::ops::AddAssign for Snapshot {
            fn add_assign(&mut self, other: Self) {
                self.connections_open += other.connections_open;
                self.queued_bytes += other.queued_bytes;
                $(self.counts.$field += other.counts.$field;)*
            }
        }
    };
}

stats! {
    accept_pauses
    places_waited
    places_refusals
    door_refusals
    connections
    handshakes
    handshakes_refused
    handle_sends_dropped
    http_requests
    messages_received
    payload_bytes_received
    messages_sent
    messages_sent_in_place
    messages_sent_in_runs
    payload_bytes_sent
    memory_held_bytes
    memory_refusals
    memory_pauses
    memory_shed
    protocol_errors
    compress_connections
    compress_windows_refused
    compress_messages
    compress_payload_bytes
    compress_bytes
    inflate_messages
    inflate_bytes
    inflate_payload_bytes
    compress_windows_bytes
    compress_held_bytes
    recv_large
    recv_starved
    reads_paused
    service_panics
    slow_calls
    timeouts
    tls_failures
    tls_handshakes
    tls_resumptions
    turns
}

/// Counts at one moment, of one shard or of several added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Connections there are.
    pub connections_open: u64,
    /// Bytes queued for peers.
    pub queued_bytes: u64,
    /// What happened so far.
    pub counts: Counts,
}
