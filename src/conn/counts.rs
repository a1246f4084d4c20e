//! What happened on a shard, and what it holds: one table, readable from any thread.
//!
//! Knows: each number's name, meaning and kind. Refuses to know: what makes it change.
//!
//! A number is added in one place, an entry of the table below: the plain field that a shard counts
//! in, the one that other threads read, the sum over shards and what is exposed all come from it.
//! The shard stores its numbers once a turn; nobody else writes, so that a store is all it takes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::distribution::{Distributions, Spread};

/// How a number moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountKind {
    /// It only grows: something that happened so many times, or was so much in all.
    Counter,
    /// It is what there is now.
    Gauge,
}

/// A number of the table, for whoever shows all of them.
///
/// ```
/// let stats = ringwire::Snapshot::default();
/// for count in stats.counts() {
///     println!("{} {}: {}", count.name, count.value, count.help);
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The name of its field, in which the unit is, unless it is a number of something.
    pub name: &'static str,
    /// What it counts: a sentence or two, as they are in the field's documentation.
    pub help: &'static str,
    /// How it moves.
    pub kind: CountKind,
    /// What it is.
    pub value: u64,
}

macro_rules! counts {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ident,)*) => {
        /// What happened on a shard so far, and what it holds now.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[doc = $help])+ pub $field: u64,)*
        }

        impl Counts {
            fn each(&self) -> impl Iterator<Item = Count> + use<> {
                [$(Count {
                    name: stringify!($field),
                    help: concat!($($help),+),
                    kind: CountKind::$kind,
                    value: self.$field,
                },)*].into_iter()
            }
        }

        /// The latest counts of one shard.
        #[derive(Debug, Default)]
        pub struct Stats {
            connections_open: AtomicU64,
            queued_bytes: AtomicU64,
            /// Signs of life: turns raise the second to the first.
            beats_asked: AtomicU64,
            beats: AtomicU64,
            has_ended: AtomicBool,
            /// How it was spread, which whoever sees it writes here.
            pub spread: Distributions,
            $($field: AtomicU64,)*
        }

        impl Stats {
            /// Stores the counts of a turn.
            #[inline]
            pub fn publish(&self, counts: &Counts, connections_open: usize, queued_bytes: usize) {
                self.connections_open.store(connections_open as u64, Ordering::Relaxed);
                self.queued_bytes.store(queued_bytes as u64, Ordering::Relaxed);
                self.beat();
                $(self.$field.store(counts.$field, Ordering::Relaxed);)*
            }

            /// Gives all signs of life that were asked for.
            #[inline]
            pub fn beat(&self) {
                self.beats.store(self.beats_asked.load(Ordering::Relaxed), Ordering::Relaxed);
            }

            /// Asks for one, unless one is owed already. Returns how many were given, and whether
            /// it was asked for.
            pub fn ask_for_beat(&self) -> (u64, bool) {
                let beats = self.beats.load(Ordering::Relaxed);
                // Whoever comes second asks for nothing more.
                let asked = self.beats_asked.compare_exchange(
                    beats,
                    beats + 1,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                );
                (beats, asked.is_ok())
            }

            /// Its thread has come to its end.
            pub fn end(&self) {
                self.has_ended.store(true, Ordering::Relaxed);
            }

            /// Whether it has.
            pub fn has_ended(&self) -> bool {
                self.has_ended.load(Ordering::Relaxed)
            }

            /// How what was measured is spread.
            pub fn spread(&self) -> Vec<Spread> {
                self.spread.read()
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

counts! {
    /// Times that accepting was paused for want of descriptors.
    accept_pauses: Counter,
    /// Newcomers for whom no place was free: `shard_connections_max` was reached, or few
    /// descriptors were left. They waited for one, unread.
    places_waited: Counter,
    /// Opening handshakes that were answered 503 because no place got free in time.
    places_refusals: Counter,
    /// Newcomers that were turned away because of `connections_max`, `address_connections_max` or
    /// `address_accepts_max`: answered 503 or 429, or closed.
    door_refusals: Counter,
    /// Connections accepted or dialled.
    connections: Counter,
    /// Opening handshakes that succeeded.
    handshakes: Counter,
    /// Opening handshakes that were refused or failed, and requests that could not be read or did
    /// not come in time.
    handshakes_refused: Counter,
    /// Messages sent through a handle that did not get into their connection's queue: it was full,
    /// or the connection closing or gone.
    handle_sends_dropped: Counter,
    /// Messages that were published to a topic, on this shard or by a handle.
    topic_publications: Counter,
    /// Messages that were not, because too many waited for their subscribers already.
    topic_publications_refused: Counter,
    /// Messages of topics that were queued for a subscriber, each for each of them.
    topic_deliveries: Counter,
    /// Subscriptions that there are now.
    topic_subscriptions: Gauge,
    /// Messages of topics that took the place of one that still waited for the subscriber.
    topic_conflated: Counter,
    /// Messages of topics that were left out because older ones waited for the subscriber.
    topic_dropped_newest: Counter,
    /// Messages of topics that were left out for newer ones.
    topic_dropped_oldest: Counter,
    /// Messages of topics that a subscriber could not take: hixie-76 has no binary ones.
    topic_dropped_unsupported: Counter,
    /// Subscribers that were closed with 1013 because they read too slowly.
    topic_disconnects: Counter,
    /// Subscribers that asked for earlier messages and got all of them.
    topic_resumed: Counter,
    /// Subscribers that asked for earlier messages, some of which are not kept any more.
    topic_resumed_with_gap: Counter,
    /// Bytes of messages that are kept for who was away.
    topic_history_bytes: Gauge,
    /// Plain HTTP requests that were answered, with whatever status: a 404 is one, and a 426.
    http_requests: Counter,
    /// Messages received.
    messages_received: Counter,
    /// Bytes of payload in them.
    payload_bytes_received: Counter,
    /// Messages sent.
    messages_sent: Counter,
    /// Bytes of payload in them.
    payload_bytes_sent: Counter,
    /// Messages sent from where they were received, without a copy.
    messages_sent_in_place: Counter,
    /// Short messages sent as they were received, several of them in one piece.
    messages_sent_in_runs: Counter,
    /// Bytes of memory that connections hold now, and that is kept for them: messages, queues, what
    /// was received and not looked at, TLS, windows and compressors.
    memory_held_bytes: Gauge,
    /// The most of these that there may be.
    memory_limit_bytes: Gauge,
    /// Opening handshakes that were answered 503 because memory ran short.
    memory_refusals: Counter,
    /// Times that receiving from a peer was paused because memory ran short.
    memory_pauses: Counter,
    /// Connections that were ended because memory ran short and they held most of it.
    memory_shed: Counter,
    /// Connections that failed for a violation.
    protocol_errors: Counter,
    /// Connections that agreed on compression (permessage-deflate).
    compress_connections: Counter,
    /// Connections that were refused context takeover because the memory for it was spent.
    compress_windows_refused: Counter,
    /// Messages sent compressed.
    compress_messages: Counter,
    /// Bytes of payload in them.
    compress_payload_bytes: Counter,
    /// Bytes that they became.
    compress_bytes: Counter,
    /// Compressed messages received.
    inflate_messages: Counter,
    /// Bytes that they came as.
    inflate_bytes: Counter,
    /// Bytes of payload that they became.
    inflate_payload_bytes: Counter,
    /// Bytes that the windows of the connections with context takeover may take now.
    compress_windows_bytes: Gauge,
    /// Bytes that the shard's compressors and inflater take now.
    compress_held_bytes: Gauge,
    /// Receives into large buffers, on connections with long messages.
    recv_large: Counter,
    /// Times that a connection had to wait for receive buffers.
    recv_starved: Counter,
    /// Times that receiving from a peer was paused because it did not read.
    reads_paused: Counter,
    /// Panics of the service that were contained.
    service_panics: Counter,
    /// Calls of the service that took more than 20 ms, in which every connection waited.
    slow_calls: Counter,
    /// Connections dropped at a deadline.
    timeouts: Counter,
    /// Connections whose TLS failed, in the handshake or later.
    tls_failures: Counter,
    /// TLS handshakes that succeeded.
    tls_handshakes: Counter,
    /// Those of them that resumed an earlier connection.
    tls_resumptions: Counter,
    /// Turns of the loop.
    turns: Counter,
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

impl Snapshot {
    /// Every number, with its name and what it means: what is added to the table is here too.
    pub fn counts(&self) -> impl Iterator<Item = Count> + use<> {
        let of_now = |name, help, value| Count {
            name,
            help,
            kind: CountKind::Gauge,
            value,
        };
        let open = of_now(
            "connections_open",
            " Connections there are.",
            self.connections_open,
        );
        let queued = of_now(
            "queued_bytes",
            " Bytes queued for peers.",
            self.queued_bytes,
        );
        [open, queued]
            .into_iter()
            .chain(self.counts.each())
            .map(|count| Count {
                // What the compiler has of a comment begins with the space before it.
                help: count.help.trim_start(),
                ..count
            })
    }
}
