//! Every limit, with its default and what it must agree with.
//!
//! Knows: numbers and their bounds. Refuses to know: where they come from and who obeys them.

use std::fmt;

use crate::{
    proto::{
        Limits,
        deflate::{
            Terms,
            negotiation::{WINDOW_BITS_MAX, WINDOW_BITS_MIN},
        },
    },
    ring::RingOptions,
};

/// A limit on memory that follows from the machine is at least this much.
const MEMORY_BYTES_LEAST: usize = 16 << 20;
const DAY_MS: u64 = 24 * 3600 * 1000;

/// The longest timeout. A connection remembers in 32 bits of milliseconds, which come again after
/// 49.7 days, when its peer was heard last: half of that is for the timeout, and half for a
/// deadline that is looked at late.
const TIMEOUT_MS_MAX: u64 = 24 * DAY_MS;

const _: () = assert!(TIMEOUT_MS_MAX < 1 << 31);

/// Messages that fit into the shortest frame are never compressed.
const DEFLATE_BYTES_MIN: usize = 126;

/// What a server, or the dialling side, may use. Units are in the names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The longest message accepted. A longer one ends the connection with 1009, judged from its
    /// frame header. 16 MiB.
    pub message_bytes_max: u64,
    /// The most fragments in one message; more end the connection with 1008. 131,072: twice what a
    /// 4 MiB message in fragments of 64 bytes needs.
    pub message_fragments_max: u32,
    /// The most empty fragments in one message; more end the connection with 1008. 1,024.
    pub message_empty_fragments_max: u32,
    /// The longest head of an HTTP request; a longer one is answered 431. 8 KiB.
    pub head_bytes_max: usize,
    /// How long the opening handshake may take; a slower one is answered 408. 10 s.
    pub handshake_timeout_ms: u64,
    /// A connection that has been silent for this long is closed; after half of it a ping asks for
    /// a sign of life. A peer that is behind with reading and takes 16 KiB in this time is not
    /// silent. 0 turns both off. At most 24 days.
    /// 120 s.
    pub idle_timeout_ms: u64,
    /// How long a message may take that does not get on; the connection ends with 1008. It gets on
    /// when it becomes whole in this time, or by 16 KiB of payload; it is looked at when the time
    /// is over, so that one that stands still may have twice as much. What this side does not
    /// receive, because the peer does not read or a handler does other things, is not held against
    /// it, and a message that the async API hands out in pieces has no deadline. 0: any time. 30 s.
    pub message_timeout_ms: u64,
    /// How long the closing handshake may take before the connection is dropped. A peer for which
    /// there is still something to read has as much time again whenever it has taken all of that,
    /// or 16 KiB. 5 s.
    pub close_timeout_ms: u64,
    /// How long a stopping server waits for its connections to close. 10 s.
    pub drain_timeout_ms: u64,
    /// Bytes queued for one peer from which on nothing more is received from it. 1 MiB.
    pub queue_high_bytes: usize,
    /// Bytes queued for one peer from which on it is received from again, and `on_drain` is called.
    /// 256 KiB.
    pub queue_low_bytes: usize,
    /// Bytes queued for one peer beyond which sending to it is refused. 64 MiB.
    pub queue_bytes_max: usize,
    /// Bytes queued on one shard from which on nothing is received from peers that have some of
    /// them. 512 MiB.
    pub shard_queue_high_bytes: usize,
    /// Bytes of memory that the connections of one shard may hold: messages that have not come
    /// whole, queues, what was received and not looked at, TLS, compression. From three quarters of
    /// it on, opening handshakes are answered 503; from seven eighths on, nothing is received from
    /// those who hold most; at last the largest holders are closed with 1013. 0: half of what the
    /// process may have, the machine's or its control group's memory or its address space, in equal
    /// parts for each shard. 0.
    pub memory_bytes_max: usize,
    /// Bytes of messages from other threads that may wait for one shard. 64 MiB.
    pub mailbox_bytes_max: usize,
    /// The most connections of one shard. More wait for a place for a twentieth of
    /// `handshake_timeout_ms`, 64 of them at most; then their opening handshakes are answered 503.
    /// The same happens to newcomers that get one of the last descriptors of the process: an eighth
    /// of them, 1,024 at most. 16,777,216, which is also the most it can be.
    pub shard_connections_max: u32,
    /// Connections that may wait to be accepted (`listen(2)`; the kernel's `net.core.somaxconn`
    /// caps it). 4,096.
    pub backlog: u32,
    /// Messages from other threads that may wait for one shard. 65,536.
    pub mailbox_messages_max: usize,
    /// Receive buffers of one shard, a power of two. 4.
    pub recv_buffers: u16,
    /// Bytes in each receive buffer. 128 KiB.
    pub recv_buffer_bytes: u32,
    /// Bytes in each of the four large receive buffers of one shard, which take no memory before
    /// they are used: connections on which messages of more than half of a receive buffer come are
    /// received from into these. With the async API, the most that one receive takes. 512 KiB.
    pub recv_large_buffer_bytes: u32,
    /// Fill receive buffers piece by piece where the kernel can (Linux 6.12); where it cannot, the
    /// same memory is divided into buffers of at most 16 KiB. Off, each receive uses up a whole
    /// buffer of the size given. On.
    pub recv_incremental: bool,
    /// For how long a shard looks for something to do before it sleeps, in microseconds: what comes
    /// meanwhile is answered without waking it, and its processor is busy instead of idle. At most
    /// 1,000,000. 0.
    pub busy_poll_us: u32,
    /// Bytes in each chunk that outgoing frames are written into. 32 KiB.
    pub send_chunk_bytes: usize,
    /// Unused send chunks that one shard keeps, in bytes. 4 MiB.
    pub send_kept_bytes_max: usize,
    /// A message of at least this many bytes that a service sends back as it came leaves from where
    /// it was received; a shorter one is copied, which costs less than another piece in the send.
    /// 4 KiB.
    pub send_in_place_bytes_min: usize,
    /// Unused message buffers that one shard keeps, in bytes. 64 MiB.
    pub message_kept_bytes_max: usize,
    /// Whether clients of hixie-76, the protocol before RFC 6455, may connect as well; they are
    /// answered 426 otherwise. They cannot be pinged: one that only listens is closed after
    /// `idle_timeout_ms`. Off.
    pub legacy_hixie76: bool,
    /// Whether clients that offer compression (permessage-deflate, RFC 7692) get it. Off. What a
    /// dialled connection offers is its request's; the settings below are for both.
    pub compress: bool,
    /// How hard to compress, from 1 (fast) to 9 (small). 6.
    pub compress_level: u8,
    /// Messages of fewer bytes are sent as they are, at least 126. 512.
    pub compress_bytes_min: usize,
    /// Messages of more bytes are sent as they are too, at least `compress_bytes_min`. One is
    /// compressed in one go, in which nobody else on the shard is served: this many take about
    /// 3 ms, and 6 ms of what can hardly be compressed. 256 KiB.
    pub compress_bytes_max: usize,
    /// The window that is compressed with, in bits from 8 to 15, if the client does not ask for a
    /// smaller one. 15.
    pub compress_window_bits: u8,
    /// Whether a message that is sent may refer to earlier ones, where the client lets it. It costs
    /// 2 to the `compress_window_bits` bytes for each connection, and with more than 12 bits more
    /// than twice the time. Off.
    pub compress_context_takeover: bool,
    /// The window that clients are told to use, if they can be told, in bits from 8 to 15. 15.
    pub inflate_window_bits: u8,
    /// Whether clients may refer to earlier messages of theirs. It costs 2 to the
    /// `inflate_window_bits` bytes for each connection, 32 KiB for clients that cannot be told.
    /// Off.
    pub inflate_context_takeover: bool,
    /// The most bytes that a compressed byte may become, on the average of a message of more than
    /// 64 KiB; more end the connection with 1008. The format's own limit is 1,032. 0: any number.
    /// 0.
    pub inflate_ratio_max: u32,
    /// Bytes that the windows of one shard's connections may take. When they are spent, connections
    /// are opened without context takeover. 64 MiB.
    pub compress_windows_bytes_max: usize,
    /// The `Server` header of replies; `None` sends none. `ringwire`.
    pub server_header: Option<String>,
    /// Whether replies carry `Date`. On.
    pub date_header: bool,
}

impl Default for Config {
    fn default() -> Self {
        let ring = RingOptions::default();
        Self {
            message_bytes_max: 16 << 20,
            message_fragments_max: 131_072,
            message_empty_fragments_max: 1024,
            head_bytes_max: 8 << 10,
            handshake_timeout_ms: 10_000,
            idle_timeout_ms: 120_000,
            message_timeout_ms: 30_000,
            close_timeout_ms: 5_000,
            drain_timeout_ms: 10_000,
            queue_high_bytes: 1 << 20,
            queue_low_bytes: 256 << 10,
            queue_bytes_max: 64 << 20,
            shard_queue_high_bytes: 512 << 20,
            memory_bytes_max: 0,
            mailbox_bytes_max: 64 << 20,
            shard_connections_max: crate::conn::token::SLOTS_MAX,
            backlog: 4096,
            mailbox_messages_max: 65_536,
            recv_buffers: ring.recv_buffers,
            recv_buffer_bytes: ring.recv_buffer_bytes,
            recv_large_buffer_bytes: ring.large_buffer_bytes,
            recv_incremental: ring.recv_incremental,
            busy_poll_us: ring.busy_poll_us,
            send_chunk_bytes: 32 << 10,
            send_kept_bytes_max: 4 << 20,
            send_in_place_bytes_min: 4 << 10,
            message_kept_bytes_max: 64 << 20,
            legacy_hixie76: false,
            compress: false,
            compress_level: 6,
            compress_bytes_min: 512,
            compress_bytes_max: 256 << 10,
            compress_window_bits: WINDOW_BITS_MAX,
            compress_context_takeover: false,
            inflate_window_bits: WINDOW_BITS_MAX,
            inflate_context_takeover: false,
            inflate_ratio_max: 0,
            compress_windows_bytes_max: 64 << 20,
            server_header: Some("ringwire".to_owned()),
            date_header: true,
        }
    }
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    value: String,
    bound: String,
}

impl ConfigError {
    pub(crate) fn new(
        field: &'static str,
        value: impl fmt::Display,
        bound: impl Into<String>,
    ) -> Self {
        Self {
            field,
            value: value.to_string(),
            bound: bound.into(),
        }
    }

    /// The name of the setting.
    pub const fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {}, but it has to be {}",
            self.field, self.value, self.bound
        )
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Checks every setting and what it must agree with.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |field, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::new(
                field,
                value,
                format!("from {least} to {most}"),
            ))
        };
        within("message_bytes_max", self.message_bytes_max, 1, 1 << 40)?;
        within(
            "message_fragments_max",
            self.message_fragments_max.into(),
            1,
            u32::MAX.into(),
        )?;
        within("head_bytes_max", self.head_bytes_max as u64, 256, 1 << 20)?;
        within("handshake_timeout_ms", self.handshake_timeout_ms, 1, DAY_MS)?;
        within("idle_timeout_ms", self.idle_timeout_ms, 0, TIMEOUT_MS_MAX)?;
        within("message_timeout_ms", self.message_timeout_ms, 0, DAY_MS)?;
        within("close_timeout_ms", self.close_timeout_ms, 1, DAY_MS)?;
        within("drain_timeout_ms", self.drain_timeout_ms, 0, DAY_MS)?;
        within("queue_high_bytes", self.queue_high_bytes as u64, 1, 1 << 40)?;
        within(
            "queue_low_bytes",
            self.queue_low_bytes as u64,
            0,
            self.queue_high_bytes as u64,
        )?;
        // What is queued when reading stops, one message more, and what the buffers still hold.
        let least = self.message_bytes_max + self.queue_high_bytes as u64;
        within(
            "queue_bytes_max",
            self.queue_bytes_max as u64,
            least,
            1 << 50,
        )?;
        within(
            "shard_queue_high_bytes",
            self.shard_queue_high_bytes as u64,
            1,
            1 << 50,
        )?;
        if self.memory_bytes_max > 0 {
            within(
                "memory_bytes_max",
                self.memory_bytes_max as u64,
                1 << 20,
                1 << 50,
            )?;
        }
        within(
            "mailbox_bytes_max",
            self.mailbox_bytes_max as u64,
            1,
            1 << 50,
        )?;
        let slots = crate::conn::token::SLOTS_MAX;
        within(
            "shard_connections_max",
            self.shard_connections_max.into(),
            1,
            slots.into(),
        )?;
        within("backlog", self.backlog.into(), 1, i32::MAX as u64)?;
        within(
            "mailbox_messages_max",
            self.mailbox_messages_max as u64,
            1,
            1 << 24,
        )?;
        within("recv_buffers", self.recv_buffers.into(), 1, 1 << 15)?;
        if !self.recv_buffers.is_power_of_two() {
            return Err(ConfigError::new(
                "recv_buffers",
                self.recv_buffers,
                "a power of two",
            ));
        }
        for (field, bytes) in [
            ("recv_buffer_bytes", self.recv_buffer_bytes),
            ("recv_large_buffer_bytes", self.recv_large_buffer_bytes),
        ] {
            within(field, bytes.into(), 256, 1 << 30)?;
        }
        within("busy_poll_us", self.busy_poll_us.into(), 0, 1_000_000)?;
        within(
            "send_chunk_bytes",
            self.send_chunk_bytes as u64,
            1024,
            1 << 30,
        )?;
        within("compress_level", self.compress_level.into(), 1, 9)?;
        within(
            "compress_bytes_min",
            self.compress_bytes_min as u64,
            DEFLATE_BYTES_MIN as u64,
            u64::MAX,
        )?;
        within(
            "compress_bytes_max",
            self.compress_bytes_max as u64,
            self.compress_bytes_min as u64,
            u64::MAX,
        )?;
        for (field, bits) in [
            ("compress_window_bits", self.compress_window_bits),
            ("inflate_window_bits", self.inflate_window_bits),
        ] {
            let (least, most) = (WINDOW_BITS_MIN.into(), WINDOW_BITS_MAX.into());
            within(field, bits.into(), least, most)?;
        }
        within(
            "compress_windows_bytes_max",
            self.compress_windows_bytes_max as u64,
            0,
            1 << 50,
        )?;
        if let Some(server) = &self.server_header
            && !server.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        {
            let bound = "printable ASCII, as a header's value";
            return Err(ConfigError::new(
                "server_header",
                format!("{server:?}"),
                bound,
            ));
        }
        Ok(())
    }

    /// The same with a limit on memory for each of so many shards, where none was set.
    pub(crate) fn with_memory_for(&self, shards: usize) -> Self {
        let mut config = self.clone();
        if config.memory_bytes_max == 0 {
            let bytes = crate::ring::process::memory_bytes().unwrap_or(0) / 2;
            let share = usize::try_from(bytes / shards.max(1) as u64).unwrap_or(usize::MAX);
            config.memory_bytes_max = share.max(MEMORY_BYTES_LEAST);
        }
        config
    }

    /// The part that the protocol core judges, for whoever drives an
    /// [`Endpoint`](crate::proto::Endpoint).
    pub const fn limits(&self) -> Limits {
        Limits {
            message_bytes_max: self.message_bytes_max,
            message_fragments_max: self.message_fragments_max,
            message_empty_fragments_max: self.message_empty_fragments_max,
        }
    }

    /// The part that compressing obeys, for a [`Codec`](crate::proto::deflate::Codec) of one's own.
    pub const fn deflate_terms(&self) -> Terms {
        Terms {
            bytes_min: self.compress_bytes_min,
            bytes_max: self.compress_bytes_max,
            level: self.compress_level,
            window_bits: self.compress_window_bits,
            context_takeover: self.compress_context_takeover,
            inflate_window_bits: self.inflate_window_bits,
            inflate_context_takeover: self.inflate_context_takeover,
            inflate_ratio_max: self.inflate_ratio_max,
            windows_bytes_max: self.compress_windows_bytes_max,
        }
    }

    /// The part that the ring obeys.
    pub(crate) fn ring(&self) -> RingOptions {
        RingOptions {
            recv_buffers: self.recv_buffers,
            recv_buffer_bytes: self.recv_buffer_bytes,
            recv_incremental: self.recv_incremental,
            large_buffer_bytes: self.recv_large_buffer_bytes,
            busy_poll_us: self.busy_poll_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn an_error_names_the_field_and_the_bound() {
        type Breakage = fn(&mut Config);
        let broken: [(Breakage, &str); 13] = [
            (
                |config| config.message_bytes_max = 0,
                "message_bytes_max is 0",
            ),
            (
                |config| config.queue_low_bytes = 2 << 20,
                "from 0 to 1048576",
            ),
            (
                |config| config.queue_bytes_max = 1 << 20,
                "from 17825792 to",
            ),
            (|config| config.recv_buffers = 17, "a power of two"),
            (
                |config| config.recv_large_buffer_bytes = 255,
                "recv_large_buffer_bytes is 255, but it has to be from 256 to",
            ),
            (|config| config.compress_bytes_min = 125, "from 126 to"),
            (
                |config| config.compress_bytes_max = 511,
                "compress_bytes_max is 511, but it has to be from 512 to",
            ),
            (|config| config.compress_level = 10, "from 1 to 9"),
            (
                |config| config.inflate_window_bits = 7,
                "inflate_window_bits is 7, but it has to be from 8 to 15",
            ),
            (
                |config| config.message_timeout_ms = 24 * 3600 * 1000 + 1,
                "message_timeout_ms is 86400001, but it has to be from 0 to 86400000",
            ),
            (
                |config| config.handshake_timeout_ms = 0,
                "handshake_timeout_ms is 0",
            ),
            (
                |config| config.idle_timeout_ms = 24 * 86_400_000 + 1,
                "idle_timeout_ms is 2073600001, but it has to be from 0 to 2073600000",
            ),
            (
                |config| config.server_header = Some("a\r\nb".into()),
                "printable ASCII",
            ),
        ];
        for (breakage, expected) in broken {
            let mut config = Config::default();
            breakage(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
