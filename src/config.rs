//! Every limit, with its meaning, its default, its bounds and what it must agree with.
//!
//! Knows: numbers and their bounds, each setting in one entry of one table. Refuses to know: where
//! they come from and who obeys them.

use std::fmt;

use crate::{
    conn::{farewell::Drain, token::SLOTS_MAX},
    proto::{
        CloseCode, Limits,
        deflate::{
            Terms,
            negotiation::{WINDOW_BITS_MAX, WINDOW_BITS_MIN},
        },
    },
    ring::RingOptions,
};

/// A limit on memory that follows from the machine is at least this much.
const MEMORY_BYTES_LEAST: usize = 16 << 20;

/// A limit on memory that was set is at least this much.
const MEMORY_BYTES_MIN: usize = 1 << 20;

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The longest timeout. A connection remembers in 32 bits of milliseconds, which come again after
/// 49.7 days, when its peer was heard last: half of that is for the timeout, and half for a
/// deadline that is looked at late.
const TIMEOUT_MS_MAX: u64 = 24 * DAY_MS;

const _: () = assert!(TIMEOUT_MS_MAX < 1 << 31);

/// Messages that fit into the shortest frame are never compressed.
const DEFLATE_BYTES_MIN: u64 = 126;

const BITS_MIN: u64 = WINDOW_BITS_MIN as u64;
const BITS_MAX: u64 = WINDOW_BITS_MAX as u64;

/// What the values of a setting are, numbers with the least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A number of something.
    Count(u64, u64),
    /// A number of bytes.
    Bytes(u64, u64),
    /// A time in milliseconds.
    Milliseconds(u64, u64),
    /// A time in microseconds.
    Microseconds(u64, u64),
    /// On or off.
    Switch,
    /// Text, or nothing.
    Text,
}

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// Of every kind that counts.
    Number(u64),
    /// Of a switch.
    Switch(bool),
    /// Of a text.
    Text(Option<String>),
}

/// One setting of a [`Config`]: for those who let people set it, in a file or on a command line.
///
/// ```
/// use ringwire::{Config, config::{Kind, Value}};
///
/// let field = Config::fields().iter().find(|field| field.name == "idle_timeout_ms").unwrap();
/// assert!(matches!(field.kind, Kind::Milliseconds(..)));
/// let mut config = Config::default();
/// assert!(field.put(&mut config, Value::Number(30_000)));
/// assert_eq!(config.idle_timeout_ms, 30_000);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Field {
    /// Its name, which ends with its unit.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Whether it can change while a server runs:
    /// [`Handle::reconfigure`](crate::Handle::reconfigure).
    pub is_live: bool,
    /// What it means: lines of text.
    pub meaning: &'static str,
    get: fn(&Config) -> Value,
    put: fn(&mut Config, Value) -> bool,
}

impl Field {
    /// Its value.
    pub fn get(&self, config: &Config) -> Value {
        (self.get)(config)
    }

    /// Sets it, whether it is within its bounds or not. Returns whether the value is of its kind,
    /// and of a size that it can have.
    #[must_use]
    pub fn put(&self, config: &mut Config, value: Value) -> bool {
        (self.put)(config, value)
    }
}

/// What a setting is kept as.
trait Item: Sized {
    fn value(&self) -> Value;
    fn of(value: Value) -> Option<Self>;
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(impl Item for $type {
            fn value(&self) -> Value {
                Value::Number(*self as u64)
            }

            fn of(value: Value) -> Option<Self> {
                match value {
                    Value::Number(number) => number.try_into().ok(),
                    _ => None,
                }
            }
        })*
    };
}

numbers! { u8 u16 u32 u64 usize }

impl Item for bool {
    fn value(&self) -> Value {
        Value::Switch(*self)
    }

    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Switch(on) => Some(on),
            _ => None,
        }
    }
}

impl Item for Option<String> {
    fn value(&self) -> Value {
        Value::Text(self.clone())
    }

    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

macro_rules! is_live {
    (live) => {
        true
    };
    (fixed) => {
        false
    };
}

/// Makes the settings: a field of [`Config`], its default and an entry of the table from each.
macro_rules! settings {
    ($(
        $(#[doc = $meaning:literal])*
        $name:ident: $type:ty = $default:expr, $kind:expr, $when:ident;
    )*) => {
        /// What a server, or the dialling side, may use. Units are in the names.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Config {
            $(
                $(#[doc = $meaning])*
                #[doc = concat!("\n\nThe default is `", stringify!($default), "`.")]
                pub $name: $type,
            )*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        const FIELDS: &[Field] = &[$(Field {
            name: stringify!($name),
            kind: $kind,
            is_live: is_live!($when),
            meaning: concat!($($meaning, "\n"),*),
            get: |config| Item::value(&config.$name),
            put: |config, value| Item::of(value).map(|value| config.$name = value).is_some(),
        },)*];
    };
}

use Kind::{Bytes, Count, Microseconds, Milliseconds, Switch, Text};

fn ring() -> RingOptions {
    RingOptions::default()
}

settings! {
    /// The longest message accepted. A longer one ends the connection with 1009, judged from
    /// its frame header.
    message_bytes_max: u64 = 16 << 20, Bytes(1, 1 << 40), live;
    /// The most fragments in one message; more end the connection with 1008. The default is
    /// twice what a 4 MiB message in fragments of 64 bytes needs.
    message_fragments_max: u32 = 131_072, Count(1, u32::MAX as u64), live;
    /// The most empty fragments in one message; more end the connection with 1008.
    message_empty_fragments_max: u32 = 1024, Count(0, u32::MAX as u64), live;
    /// The longest head of an HTTP request; a longer one is answered 431.
    head_bytes_max: usize = 8 << 10, Bytes(256, 1 << 20), live;
    /// How long the opening handshake may take; a slower one is answered 408.
    handshake_timeout_ms: u64 = 10_000, Milliseconds(1, DAY_MS), live;
    /// A connection that has been silent for this long is closed. A peer that is behind with
    /// reading and takes 16 KiB in this time is not silent. 0: any time. At most 24 days.
    idle_timeout_ms: u64 = 120_000, Milliseconds(0, TIMEOUT_MS_MAX), live;
    /// A peer that has sent nothing for this long gets a ping, and another one after each such
    /// time. The pong shows that it is there; and proxies, many of which drop a connection that is
    /// silent for 60 seconds, keep it. If half of `idle_timeout_ms` is shorter, that is used. 0: no
    /// pings. At most 24 days.
    ping_interval_ms: u64 = 25_000, Milliseconds(0, TIMEOUT_MS_MAX), live;
    /// How long a message may take that does not get on; the connection ends with 1008. It gets
    /// on when it becomes whole in this time, or by 16 KiB of payload; it is looked at when the
    /// time is over, so that one that stands still may have twice as much. What this side does
    /// not receive, because the peer does not read or a handler does other things, is not held
    /// against it, and a message that the async API hands out in pieces has no deadline. 0: any
    /// time.
    message_timeout_ms: u64 = 30_000, Milliseconds(0, DAY_MS), live;
    /// How long the closing handshake may take before the connection is dropped. A peer for
    /// which there is still something to read has as much time again whenever it has taken all
    /// of that, or 16 KiB.
    close_timeout_ms: u64 = 5_000, Milliseconds(1, DAY_MS), live;
    /// How long a stopping server waits for the last of its connections to close.
    drain_timeout_ms: u64 = 10_000, Milliseconds(0, DAY_MS), live;
    /// Over how long a stopping server spreads the closes of its connections, so that the clients
    /// do not all come again in the same moment; `drain_timeout_ms` begins when that is over. 0:
    /// all at once.
    drain_spread_ms: u64 = 0, Milliseconds(0, DAY_MS), live;
    /// With which status a stopping server closes its connections: 1001 (it goes away) or 1012 (it
    /// starts again). Clients may tell them apart.
    drain_code: u16 = 1001, Count(1001, 4999), live;
    /// Bytes queued for one peer from which on nothing more is received from it.
    queue_high_bytes: usize = 1 << 20, Bytes(1, 1 << 40), live;
    /// Bytes queued for one peer from which on it is received from again, and `on_drain` is
    /// called.
    queue_low_bytes: usize = 256 << 10, Bytes(0, 1 << 40), live;
    /// Bytes queued for one peer beyond which sending to it is refused.
    queue_bytes_max: usize = 64 << 20, Bytes(1, 1 << 50), live;
    /// Bytes queued on one shard from which on nothing is received from peers that have some of
    /// them.
    shard_queue_high_bytes: usize = 512 << 20, Bytes(1, 1 << 50), live;
    /// Bytes of memory that the connections of one shard may hold: messages that have not come
    /// whole, queues, what was received and not looked at, TLS, compression. From three
    /// quarters of it on, opening handshakes are answered 503; from seven eighths on, nothing
    /// is received from those who hold most; at last the largest holders are closed with 1013.
    /// 0: half of what the process may have, the machine's or its control group's memory or its
    /// address space, in equal parts for each shard.
    memory_bytes_max: usize = 0, Bytes(0, 1 << 50), live;
    /// Bytes of messages from other threads that may wait for one shard.
    mailbox_bytes_max: usize = 64 << 20, Bytes(1, 1 << 50), fixed;
    /// The most connections of one shard. More wait for a place for a twentieth of
    /// `handshake_timeout_ms`, 64 of them at most; then their opening handshakes are answered
    /// 503. The same happens to newcomers that get one of the last descriptors of the process:
    /// an eighth of them, 1,024 at most.
    shard_connections_max: u32 = SLOTS_MAX, Count(1, SLOTS_MAX as u64), live;
    /// The most connections over all shards; the opening handshakes of more are answered 503. 0:
    /// as many as the shards have places for.
    connections_max: u32 = 0, Count(0, u32::MAX as u64), live;
    /// The most connections from one address; the opening handshakes of more are answered 429.
    /// What an address is, is said by `address_ipv4_bits` and `address_ipv6_bits`. Unix sockets
    /// have none. 0: any number.
    address_connections_max: u32 = 0, Count(0, u32::MAX as u64), live;
    /// Connections that one address may open in a second on average, and after a quiet second so
    /// many at once; more are answered 429. 0: any number.
    address_accepts_max: u32 = 0, Count(0, 1_000_000), live;
    /// IPv4 addresses that agree in so many first bits count as one: with 24, 256 of them do.
    address_ipv4_bits: u8 = 32, Count(1, 32), live;
    /// The same of IPv6: a single customer usually has 64.
    address_ipv6_bits: u8 = 64, Count(1, 128), live;
    /// Connections that may wait to be accepted (`listen(2)`; the kernel's `net.core.somaxconn`
    /// caps it).
    backlog: u32 = 4096, Count(1, i32::MAX as u64), fixed;
    /// Messages from other threads that may wait for one shard.
    mailbox_messages_max: usize = 65_536, Count(1, 1 << 24), fixed;
    /// The most subscriptions to topics that one connection may have.
    topic_subscriptions_max: u32 = 1024, Count(0, u32::MAX as u64), live;
    /// Bytes of messages that one shard keeps for who was away, of all topics that have it for a
    /// home. With more, or when memory runs short, the topics that were not used for longest forget
    /// theirs.
    topic_history_bytes_max: usize = 64 << 20, Bytes(0, 1 << 40), live;
    /// Receive buffers of one shard, a power of two.
    recv_buffers: u16 = ring().recv_buffers, Count(1, 1 << 15), fixed;
    /// Bytes in each receive buffer.
    recv_buffer_bytes: u32 = ring().recv_buffer_bytes, Bytes(256, 1 << 30), fixed;
    /// Bytes in each of the four large receive buffers of one shard, which take no memory
    /// before they are used: connections on which messages of more than half of a receive
    /// buffer come are received from into these. With the async API, the most that one receive
    /// takes.
    recv_large_buffer_bytes: u32 = ring().large_buffer_bytes, Bytes(256, 1 << 30), fixed;
    /// Fill receive buffers piece by piece where the kernel can (Linux 6.12); where it cannot,
    /// the same memory is divided into buffers of at most 16 KiB. Off, each receive uses up a
    /// whole buffer of the size given.
    recv_incremental: bool = ring().recv_incremental, Switch, fixed;
    /// For how long a shard looks for something to do before it sleeps, in microseconds: what
    /// comes meanwhile is answered without waking it, and its processor is busy instead of
    /// idle. At most 1,000,000.
    busy_poll_us: u32 = ring().busy_poll_us, Microseconds(0, 1_000_000), fixed;
    /// Bytes in each chunk that outgoing frames are written into.
    send_chunk_bytes: usize = 32 << 10, Bytes(1024, 1 << 30), fixed;
    /// Unused send chunks that one shard keeps, in bytes.
    send_kept_bytes_max: usize = 4 << 20, Bytes(0, 1 << 50), fixed;
    /// A message of at least this many bytes that a service sends back as it came leaves from
    /// where it was received; a shorter one is copied, which costs less than another piece in
    /// the send.
    send_in_place_bytes_min: usize = 4 << 10, Bytes(0, 1 << 50), fixed;
    /// Measure where the time goes in a shard: one message at a time is followed, from its receive
    /// to when the service has it, to when the answer is queued, to when the kernel has taken all
    /// of that. The async API does not.
    trace_stages: bool = false, Switch, live;
    /// Unused message buffers that one shard keeps, in bytes.
    message_kept_bytes_max: usize = 64 << 20, Bytes(0, 1 << 50), fixed;
    /// Whether clients of hixie-76, the protocol before RFC 6455, may connect as well; they are
    /// answered 426 otherwise. They cannot be pinged: one that only listens is closed after
    /// `idle_timeout_ms`.
    legacy_hixie76: bool = false, Switch, live;
    /// Whether clients that offer compression (permessage-deflate, RFC 7692) get it. What a
    /// dialled connection offers is its request's; the settings below are for both.
    compress: bool = false, Switch, fixed;
    /// How hard to compress, from 1 (fast) to 9 (small).
    compress_level: u8 = 6, Count(1, 9), fixed;
    /// Messages of fewer bytes are sent as they are, at least 126.
    compress_bytes_min: usize = 512, Bytes(DEFLATE_BYTES_MIN, u64::MAX), fixed;
    /// Messages of more bytes are sent as they are too, at least `compress_bytes_min`. One is
    /// compressed in one go, in which nobody else on the shard is served: this many take about
    /// 3 ms, and 6 ms of what can hardly be compressed.
    compress_bytes_max: usize = 256 << 10, Bytes(DEFLATE_BYTES_MIN, u64::MAX), fixed;
    /// The window that is compressed with, in bits from 8 to 15, if the client does not ask for
    /// a smaller one.
    compress_window_bits: u8 = WINDOW_BITS_MAX, Count(BITS_MIN, BITS_MAX), fixed;
    /// Whether a message that is sent may refer to earlier ones, where the client lets it. It
    /// costs 2 to the `compress_window_bits` bytes for each connection, and with more than 12
    /// bits more than twice the time.
    compress_context_takeover: bool = false, Switch, fixed;
    /// The window that clients are told to use, if they can be told, in bits from 8 to 15.
    inflate_window_bits: u8 = WINDOW_BITS_MAX, Count(BITS_MIN, BITS_MAX), fixed;
    /// Whether clients may refer to earlier messages of theirs. It costs 2 to the
    /// `inflate_window_bits` bytes for each connection, 32 KiB for clients that cannot be told.
    inflate_context_takeover: bool = false, Switch, fixed;
    /// The most bytes that a compressed byte may become, on the average of a message of more
    /// than 64 KiB; more end the connection with 1008. The format's own limit is 1,032. 0: any
    /// number.
    inflate_ratio_max: u32 = 0, Count(0, u32::MAX as u64), fixed;
    /// Bytes that the windows of one shard's connections may take. When they are spent,
    /// connections are opened without context takeover.
    compress_windows_bytes_max: usize = 64 << 20, Bytes(0, 1 << 50), fixed;
    /// The `Server` header of replies; `None` sends none.
    server_header: Option<String> = Some("ringwire".to_owned()), Text, live;
    /// Whether replies carry `Date`.
    date_header: bool = true, Switch, live;
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

    /// Its value, in words.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What it has to be.
    pub fn bound(&self) -> &str {
        &self.bound
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
    /// All settings, in the order of their declaration.
    pub const fn fields() -> &'static [Field] {
        FIELDS
    }

    /// Checks every setting and what it must agree with.
    ///
    /// # Errors
    ///
    /// The first setting that is out of its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.faults().into_iter().next().map_or(Ok(()), Err)
    }

    /// Every setting that is out of its bounds, or does not agree with others.
    pub fn faults(&self) -> Vec<ConfigError> {
        let within = FIELDS.iter().filter_map(|field| {
            let (Count(least, most)
            | Bytes(least, most)
            | Milliseconds(least, most)
            | Microseconds(least, most)) = field.kind
            else {
                return None;
            };
            let Value::Number(value) = field.get(self) else {
                return None;
            };
            let bound = || format!("from {least} to {most}");
            let is_within = (least..=most).contains(&value);
            (!is_within).then(|| ConfigError::new(field.name, value, bound()))
        });
        let mut faults: Vec<_> = within.collect();
        for disagreement in self.disagreements().into_iter().flatten() {
            // One word about each.
            if faults.iter().all(|it| it.field != disagreement.field) {
                faults.push(disagreement);
            }
        }
        faults
    }

    /// Takes over what can change while a server runs. Returns the names of the other settings that
    /// are not the same.
    pub(crate) fn adopt(&mut self, other: &Self) -> Vec<&'static str> {
        let changed = FIELDS
            .iter()
            .filter(|field| field.get(self) != field.get(other));
        let changed: Vec<_> = changed.collect();
        let (live, fixed): (Vec<&Field>, Vec<&Field>) =
            changed.into_iter().partition(|field| field.is_live);
        for field in live {
            // It is of its own kind.
            let _ = field.put(self, field.get(other));
        }
        fixed.into_iter().map(|field| field.name).collect()
    }

    /// What follows from several settings, or from more than bounds.
    fn disagreements(&self) -> [Option<ConfigError>; 7] {
        let not = |is_right: bool, fault: &dyn Fn() -> ConfigError| (!is_right).then(fault);
        // What is queued when reading stops, one message more, and what the buffers still hold.
        let least = self
            .message_bytes_max
            .saturating_add(self.queue_high_bytes as u64);
        [
            not(self.queue_low_bytes <= self.queue_high_bytes, &|| {
                let most = self.queue_high_bytes;
                let bound = format!("from 0 to {most}, which is queue_high_bytes");
                ConfigError::new("queue_low_bytes", self.queue_low_bytes, bound)
            }),
            not(self.queue_bytes_max as u64 >= least, &|| {
                let bound = format!(
                    "from {least}, which is message_bytes_max and queue_high_bytes together, to {}",
                    1_u64 << 50
                );
                ConfigError::new("queue_bytes_max", self.queue_bytes_max, bound)
            }),
            not(
                self.memory_bytes_max == 0 || self.memory_bytes_max >= MEMORY_BYTES_MIN,
                &|| {
                    let bound = format!("0, or at least {MEMORY_BYTES_MIN}");
                    ConfigError::new("memory_bytes_max", self.memory_bytes_max, bound)
                },
            ),
            not(CloseCode::new(self.drain_code).is_some(), &|| {
                let bound = "a status that can be sent: 1001, 1012, or from 3000 to 4999";
                ConfigError::new("drain_code", self.drain_code, bound)
            }),
            not(self.recv_buffers.is_power_of_two(), &|| {
                ConfigError::new("recv_buffers", self.recv_buffers, "a power of two")
            }),
            not(self.compress_bytes_max >= self.compress_bytes_min, &|| {
                let least = self.compress_bytes_min;
                let bound = format!("at least {least}, which is compress_bytes_min");
                ConfigError::new("compress_bytes_max", self.compress_bytes_max, bound)
            }),
            self.server_header.as_ref().and_then(|server| {
                let is_value = server.bytes().all(|byte| (0x20..0x7f).contains(&byte));
                not(is_value, &|| {
                    let bound = "printable ASCII, as a header's value";
                    ConfigError::new("server_header", format!("{server:?}"), bound)
                })
            }),
        ]
    }

    /// How a server under it stops.
    pub fn drain(&self) -> Drain {
        Drain {
            // Another one cannot be sent: it was not checked.
            code: CloseCode::new(self.drain_code).unwrap_or(CloseCode::GOING_AWAY),
            spread_ms: self.drain_spread_ms,
            timeout_ms: self.drain_timeout_ms,
        }
    }

    /// How long it takes at most until a server that stops has no connections.
    pub(crate) const fn drain_ms(&self) -> u64 {
        self.drain_spread_ms + self.drain_timeout_ms
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
                "from 0 to 1048576, which is queue_high_bytes",
            ),
            (
                |config| config.queue_bytes_max = 1 << 20,
                "from 17825792, which is message_bytes_max and queue_high_bytes together, to",
            ),
            (|config| config.recv_buffers = 17, "a power of two"),
            (
                |config| config.recv_large_buffer_bytes = 255,
                "recv_large_buffer_bytes is 255, but it has to be from 256 to",
            ),
            (|config| config.compress_bytes_min = 125, "from 126 to"),
            (
                |config| config.compress_bytes_max = 511,
                "is 511, but it has to be at least 512, which is compress_bytes_min",
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

    #[test]
    fn every_fault_is_named_once() {
        let mut config = Config::default();
        config.recv_buffers = 0;
        config.head_bytes_max = 1;
        config.queue_low_bytes = config.queue_high_bytes + 1;
        let faults = config.faults();
        let names: Vec<_> = faults.iter().map(ConfigError::field).collect();
        assert_eq!(names, ["head_bytes_max", "recv_buffers", "queue_low_bytes"]);
    }

    #[test]
    fn what_can_change_is_taken_over() {
        let mut config = Config::default();
        let other = Config {
            idle_timeout_ms: 1,
            backlog: 2,
            ..Config::default()
        };
        assert_eq!(config.adopt(&other), ["backlog"]);
        assert_eq!(config.idle_timeout_ms, 1);
        assert_eq!(config.backlog, Config::default().backlog);
    }

    #[test]
    fn the_table_reads_and_writes_every_setting() {
        let defaults = Config::default();
        for field in Config::fields() {
            let mut config = defaults.clone();
            let value = match field.get(&config) {
                Value::Number(number) => Value::Number(number + 1),
                Value::Switch(on) => Value::Switch(!on),
                Value::Text(_) => Value::Text(None),
            };
            assert!(field.put(&mut config, value.clone()), "{}", field.name);
            assert_eq!(field.get(&config), value);
            assert_ne!(config, defaults, "{}", field.name);
            assert!(!field.meaning.trim().is_empty(), "{}", field.name);
            let other = match value {
                Value::Switch(_) => Value::Number(1),
                _ => Value::Switch(true),
            };
            assert!(!field.put(&mut config, other), "{}", field.name);
        }
    }
}
