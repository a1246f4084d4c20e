//! One connection: the protocol core joined with a socket's operations.
//!
//! Knows: an endpoint, what is queued and in flight for its peer, and at which stage of its life
//! the connection is. Refuses to know: threads, listeners, and which ring it is.
//!
//! ```text
//!  Connecting --> Opening --> Open --> Closing --> Finishing --> Lingering --> Stopping --> Closed
//!  (client)        |    |      ^  |                   ^   |                        ^
//!      (hixie-76)  |    +------|--+-------------------+   +------------------------+
//!                  +--> Challenged
//! ```
//!
//! | stage | what happens in it | it ends when |
//! |---|---|---|
//! | Connecting | a connect is in flight | it succeeds |
//! | Opening | the head of the opening handshake arrives | it was answered |
//! | Challenged | the eight bytes behind a head of hixie-76 arrive | they were answered |
//! | Open | messages go both ways | a close frame goes either way, or a violation comes |
//! | Closing | our close frame is out | the peer's has come |
//! | Finishing | what is queued is sent | all of it is |
//! | Lingering | our side is shut down, input is thrown away | the peer has shut down its own |
//! | Stopping | both sides are shut down | nothing is in flight any more |
//! | Closed | the close is in flight | it completes; only then the slot is free |
//!
//! Every stage but Open has a deadline of its own, and Open has two, for the peer and for a
//! message: no peer can keep a connection in any stage by stopping here. [`liveness`] judges who
//! gets on.

pub mod backlog;
#[cfg(feature = "sim")]
pub mod check;
pub mod counts;
pub mod date;
pub mod deadline;
pub mod distribution;
pub mod door;
pub mod farewell;
pub mod handle;
pub mod ledger;
pub mod lending;
pub mod listening;
pub mod liveness;
pub mod mistake;
pub mod opening;
pub mod places;
pub mod proxied;
pub mod remote;
pub mod secure;
pub mod slab;
pub mod stages;
pub mod survey;
pub mod tally;
pub mod token;
pub mod turn;
pub mod unread;
pub mod wanted;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use backlog::Backlog;
pub use counts::Counts;
use counts::Stats;
use date::DateText;
use door::{Door, Ticket};
pub use handle::Conn;
use ledger::{Ledger, Pressure, SMALL_BYTES};
use lending::Lending;
use listening::Listening;
use liveness::Watch;
use mistake::Mistake;
pub use opening::{ClientOpening, Opening};
use proxied::Proxies;
pub use remote::Remote;
pub use secure::Secure;
pub use token::{ConnId, Key};
use turn::Asked;
pub use turn::Turn;
use unread::Unread;

use crate::{
    config::Config,
    proto::{
        CloseCode, CloseFrame, Endpoint, Limits, MessagePool, Payload, ProtocolError, Role, Sink,
        deflate::Codec,
        endpoint::{Context, MaskingKeys},
        handshake::{ClientHandshakeError, ClientRequest},
        hixie::Challenge,
    },
    ring::{Arrival, Errno, Lent, Ring, SendArena, SendQueue, Time, Token, Urgency},
    tls::TlsError,
};

/// How long something has been there that began then, in milliseconds of 32 bits: up to 49 days,
/// after which it is young again.
pub const fn age(born_ms: u32, now: Time) -> Duration {
    Duration::from_millis((now.as_ms() as u32).wrapping_sub(born_ms) as u64)
}

/// What a ping carries that asks a silent peer.
const PING_BYTES: usize = 8;

/// A send that took this long had to wait for its peer.
const SEND_WAITED_MS: u32 = 20;

/// Why a connection ended, as its service learns it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseCause {
    /// The application closed it, with this code.
    Application(CloseCode),
    /// The opening handshake that we sent was not answered as it should be.
    HandshakeFailed(ClientHandshakeError),
    /// The peer closed it with a close frame.
    Peer {
        /// The status code, if it gave one.
        code: Option<CloseCode>,
        /// The reason, often empty.
        reason: Box<str>,
    },
    /// The peer broke the protocol or a limit.
    Protocol(ProtocolError),
    /// Memory ran short, and the connection held more of it than others.
    Overloaded,
    /// It read the topics that it subscribes to too slowly
    /// ([`SlowPolicy::Disconnect`](crate::topics::SlowPolicy::Disconnect)).
    TooSlow,
    /// The server is stopping.
    Stopping,
    /// The service panicked on it.
    ServicePanicked,
    /// It took too long.
    Timeout(Timeout),
    /// TLS failed: a certificate was refused, a record was not as it was sent, or the peer broke
    /// the protocol.
    #[cfg_attr(not(feature = "tls"), doc(hidden))]
    Tls(TlsError),
    /// The transport broke.
    Transport(Errno),
    /// The stream ended without a close frame (status 1006 in other APIs, RFC 6455 section 7.1.5).
    Vanished,
}

/// Which of its deadlines a connection missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// `close_timeout_ms`.
    Close,
    /// `handshake_timeout_ms`.
    Handshake,
    /// `idle_timeout_ms`.
    Idle,
    /// `message_timeout_ms`.
    Message,
}

impl std::error::Error for CloseCause {}

impl fmt::Display for CloseCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Application(code) => write!(f, "closed by the application with {code}"),
            Self::HandshakeFailed(error) => write!(f, "the opening handshake failed: {error}"),
            Self::Peer { code: None, .. } => f.write_str("closed by the peer without a status"),
            Self::Peer {
                code: Some(code),
                reason,
            } if reason.is_empty() => {
                write!(f, "closed by the peer with {code}")
            }
            Self::Peer {
                code: Some(code),
                reason,
            } => {
                write!(f, "closed by the peer with {code}: {reason:?}")
            }
            Self::Protocol(error) => {
                write!(f, "failed with {}: {error}", error.close_code().number())
            }
            Self::Overloaded => f.write_str(
                "ended because memory ran short (memory_bytes_max) and it held most of it",
            ),
            Self::TooSlow => {
                f.write_str("failed with 1013: it read the topics that it subscribes to too slowly")
            }
            Self::Stopping => f.write_str("closed because the server is stopping"),
            Self::ServicePanicked => f.write_str("closed because the service panicked on it"),
            Self::Timeout(Timeout::Close) => {
                f.write_str("dropped: the closing handshake took longer than close_timeout_ms")
            }
            Self::Timeout(Timeout::Handshake) => {
                f.write_str("dropped: the opening handshake took longer than handshake_timeout_ms")
            }
            Self::Timeout(Timeout::Idle) => {
                f.write_str("dropped: the peer was silent for longer than idle_timeout_ms")
            }
            Self::Timeout(Timeout::Message) => {
                f.write_str("failed with 1008: a message did not get on within message_timeout_ms")
            }
            Self::Tls(error) => write!(f, "TLS failed: {error}"),
            Self::Transport(errno) => write!(f, "the transport broke: {errno}"),
            Self::Vanished => f.write_str("the peer went away without a close frame"),
        }
    }
}

/// What the connections of one shard share.
#[derive(Debug)]
pub struct Shared {
    /// The limits.
    pub config: Config,
    /// The part of them that the protocol core judges.
    pub limits: Limits,
    /// Chunks and queues for what is sent.
    pub arena: SendArena,
    /// Buffers for messages that span receives.
    pub pool: MessagePool,
    /// Masking keys for the connections whose client we are.
    pub keys: MaskingKeys,
    /// What compresses and inflates, for connections that agreed on it.
    pub codec: Codec,
    /// What of the machine's memory they may hold.
    pub ledger: Ledger,
    /// Bytes that one message to a peer may have, so that all of them stay within that.
    pub send_room: usize,
    /// Counts.
    pub counts: Counts,
    /// What other threads see of them, and what is measured.
    pub stats: Arc<Stats>,
    /// By which pings that ask silent peers are known from those of services.
    ping_mark: [u8; 4],
    /// The time of this turn.
    pub now: Time,
    /// Bytes queued for all peers of the shard.
    pub queued_bytes: usize,
    /// Bytes of memory that connections hold and no pool counts: heads, TLS, what was not looked
    /// at, and what the kernel holds for peers that are behind.
    pub charged_bytes: usize,
    /// Where replies to opening handshakes are put together.
    pub scratch: Vec<u8>,
    /// The time of day that they tell.
    pub date: DateText,
    /// What the service that is called right now may send from where it lies.
    pub lending: Lending,
    /// Whose word is taken for where connections come from.
    pub proxies: Arc<Proxies>,
    /// Who counts where connections come from: for all shards of a server, once they share it.
    pub door: Arc<Door>,
    /// What services have asked for beyond their connections.
    pub asked: Asked,
    /// What is done wrong, for a simulation to find.
    #[cfg(feature = "sim")]
    pub mistake: Option<mistake::Mistake>,
}

impl Shared {
    /// What connections under `config` share.
    pub fn new(config: Config, seed: [u8; 32]) -> Self {
        let ledger = Ledger::new(config.memory_bytes_max);
        let mut keys = MaskingKeys::new(seed);
        Self {
            limits: config.limits(),
            arena: SendArena::new(config.send_chunk_bytes, config.send_kept_bytes_max),
            pool: MessagePool::new(config.message_kept_bytes_max).with_reserve(ledger.reserve()),
            ping_mark: keys.mark(),
            keys,
            codec: Codec::new(config.deflate_terms()),
            ledger,
            send_room: usize::MAX,
            counts: Counts::default(),
            stats: Arc::default(),
            now: Time::default(),
            queued_bytes: 0,
            charged_bytes: 0,
            scratch: Vec::new(),
            date: DateText::default(),
            lending: Lending::default(),
            door: Arc::new(Door::new(&config)),
            proxies: Arc::default(),
            asked: Asked::default(),
            #[cfg(feature = "sim")]
            mistake: None,
            config,
        }
    }

    /// Goes on under other settings, of those that can change: for connections that are there as
    /// well.
    pub fn reconfigure(&mut self, config: &Config) {
        // Whoever asked for it has been told what stays.
        self.config.adopt(config);
        self.limits = self.config.limits();
        self.ledger.set_bytes_max(self.config.memory_bytes_max);
        self.pool.set_reserve(self.ledger.reserve());
    }

    /// Bytes of memory that the connections hold, and what is kept for them.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        if self.errs(Mistake::ForgetsPool) {
            return self.arena.held_bytes() + self.codec.held_bytes() + self.charged_bytes;
        }
        let pools = self.arena.held_bytes() + self.pool.held_bytes();
        pools + self.codec.held_bytes() + self.charged_bytes + self.asked.held_bytes()
    }

    /// Bytes of memory that is kept for later.
    #[inline]
    pub fn kept_bytes(&self) -> usize {
        let arena = self.arena.held_bytes() - self.arena.out_bytes();
        arena + self.pool.held_bytes() - self.pool.out_bytes()
    }

    /// Until this is said again, connections may hold so many bytes more.
    #[inline]
    pub const fn set_room(&mut self, bytes: usize) {
        if self.errs(Mistake::ForgetsRoom) {
            return;
        }
        self.pool.set_room(bytes);
        self.send_room = bytes;
    }

    /// Whether there is no memory for a message of so many bytes, on a connection with so many
    /// queued. Whoever has little is not told so: those who hold much are in the way.
    #[inline]
    pub fn lacks_room(&self, queued: usize, payload_len: usize) -> bool {
        if queued.saturating_add(payload_len) <= SMALL_BYTES {
            return payload_len > self.send_room;
        }
        let reserve = self.ledger.reserve();
        payload_len > self.send_room.saturating_sub(reserve)
            || payload_len > SMALL_BYTES && self.lacks_room_now(payload_len + reserve)
    }

    /// The same as of now, and not of the last turn's end: other messages were queued in this one.
    #[inline(never)]
    fn lacks_room_now(&self, bytes: usize) -> bool {
        bytes > self.ledger.bytes_max().saturating_sub(self.held_bytes())
    }

    /// An opening handshake that a client has sent is answered, on a connection that began then.
    pub fn handshake_done(&self, role: Role, born_ms: u32) {
        if role == Role::Server {
            let took = age(born_ms, self.now);
            self.stats.spread.handshake.add(took.as_nanos() as u64);
        }
    }

    /// What a ping carries that asks a silent peer: by it its pong tells how long both took.
    pub fn ping_payload(&self) -> [u8; PING_BYTES] {
        let mut payload = [0; PING_BYTES];
        payload[..4].copy_from_slice(&self.ping_mark);
        payload[4..].copy_from_slice(&self.now_us().to_be_bytes());
        payload
    }

    /// A pong came. If it answers one of those pings, the way there and back is measured. A peer
    /// may write what it likes there, and deceive nobody but whoever looks at the distribution.
    /// Returns what a service is shown of it: of what is ours, nothing.
    pub fn pong_came<'p>(&self, payload: &'p [u8]) -> &'p [u8] {
        if let Some((mark, sent_us)) = payload.split_first_chunk::<4>()
            && *mark == self.ping_mark
            && let Ok(sent_us) = sent_us.try_into()
        {
            let took_us = self.now_us().wrapping_sub(u32::from_be_bytes(sent_us));
            // A coarse clock may be behind the one that the ping was sent by.
            let took_us = if took_us > u32::MAX / 2 { 0 } else { took_us };
            self.stats.spread.ping.add(u64::from(took_us) * 1000);
            return &[];
        }
        payload
    }

    /// This turn's time, wrapping after 71 minutes.
    const fn now_us(&self) -> u32 {
        (self.now.as_ns() / 1000) as u32
    }

    /// Lets go of all memory that is kept for later.
    pub fn forget_kept(&mut self) {
        self.arena.forget_kept();
        self.pool.forget_kept();
    }

    /// Whether there is no memory for another connection.
    pub fn refuses_connections(&self) -> bool {
        self.ledger.pressure() >= Pressure::Refuse
    }

    /// The end of a turn, for what compresses: its counts, and what it need not keep.
    #[inline]
    pub fn settle_codec(&mut self) {
        if self.codec.is_used() {
            self.count_codec();
        }
    }

    #[inline(never)]
    fn count_codec(&mut self) {
        self.codec.forget_shared();
        let tally = self.codec.tally();
        let counts = &mut self.counts;
        counts.compress_connections = tally.connections;
        counts.compress_windows_refused = tally.windows_refused;
        counts.compress_messages = tally.deflated_messages;
        counts.compress_payload_bytes = tally.deflated_payload_bytes;
        counts.compress_bytes = tally.deflated_bytes;
        counts.inflate_messages = tally.inflated_messages;
        counts.inflate_bytes = tally.inflated_bytes;
        counts.inflate_payload_bytes = tally.inflated_payload_bytes;
        counts.compress_windows_bytes = tally.windows_bytes;
        counts.compress_held_bytes = tally.held_bytes;
    }
}

/// Where a connection is in its life. The table is on the module's page.
#[derive(Debug)]
pub enum Stage {
    /// A connect is in flight.
    Connecting(Box<ClientRequest>),
    /// The head of the opening handshake has not come whole yet.
    Opening(Opening),
    /// The opening handshake of hixie-76 was accepted, and what it wants proven has not come whole.
    Challenged(Box<Challenge>),
    /// Messages go both ways.
    Open,
    /// Our close frame is out and the peer's is not in.
    Closing,
    /// What is queued is being sent; the transport's end follows.
    Finishing(Ending),
    /// Our side is shut down; waiting for the peer's.
    Lingering,
    /// Both sides are shut down; joining what is in flight.
    Stopping,
    /// The close is in flight.
    Closed,
}

impl Stage {
    /// Its name, for a person.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Connecting(_) => "connecting",
            Self::Opening(_) => "opening",
            Self::Challenged(_) => "challenged",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Finishing(_) => "finishing",
            Self::Lingering => "lingering",
            Self::Stopping => "stopping",
            Self::Closed => "closed",
        }
    }
}

/// How to end the transport once everything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Shut down our side and wait for the peer to do the same, so that what we sent last is not
    /// lost to a reset because of input that we no longer read.
    Linger,
    /// Both sides are done: shut down both.
    Stop,
}

/// When what has happened to a connection leads to sends, receives and its next stage. A shard has
/// two lists of those to whom something has happened: for the end of this turn, and for when a turn
/// has time. Nobody is in one of them twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settles {
    /// Nothing has happened.
    Not,
    /// At the end of this turn.
    Now,
    /// When a turn has time for it: a message went to many at once.
    Later,
    /// Nothing is left to be done, and it is still in the second list.
    Listed,
    /// At the end of this turn, and it is in the second list as well.
    NowListed,
}

impl Settles {
    /// It is to be settled at the end of this turn. Returns whether it is new in that list.
    #[inline]
    pub const fn touch(&mut self) -> bool {
        match self {
            Self::Now | Self::NowListed => return false,
            Self::Not => *self = Self::Now,
            Self::Later | Self::Listed => *self = Self::NowListed,
        }
        true
    }

    /// It is to be settled when there is time. Returns whether it is new in that list.
    #[inline]
    pub const fn put_off(&mut self) -> bool {
        match self {
            Self::Not => {
                *self = Self::Later;
                true
            }
            Self::Listed => {
                *self = Self::Later;
                false
            }
            Self::Now | Self::NowListed | Self::Later => false,
        }
    }

    /// It is settled.
    #[inline]
    pub const fn settled(&mut self) {
        *self = match self {
            Self::Not | Self::Now => Self::Not,
            Self::Later | Self::Listed | Self::NowListed => Self::Listed,
        };
    }

    /// It was taken out of the second list. Returns whether it is to be settled for that.
    #[inline]
    pub const fn taken(&mut self) -> bool {
        let is_due = matches!(self, Self::Later);
        *self = match self {
            Self::Now | Self::NowListed => Self::Now,
            Self::Not | Self::Later | Self::Listed => Self::Not,
        };
        is_due
    }

    /// Whether it waits for time.
    pub const fn is_put_off(&self) -> bool {
        matches!(self, Self::Later)
    }
}

/// Everything about a connection but its socket and its service's state.
#[derive(Debug)]
pub struct Link {
    /// The protocol core.
    pub endpoint: Endpoint,
    /// Where it is in its life.
    pub stage: Stage,
    /// What is to be sent next. None while nothing is: an idle connection holds no buffer.
    pub outgoing: Option<Box<SendQueue>>,
    /// What is not there for most of them.
    pub rare: Rare,
    /// Bytes that the ring is sending, unless nobody waits for the end: those are as good as sent.
    pub sending_bytes: usize,
    /// What this connection adds to the shard's count of queued bytes.
    pub counted_bytes: usize,
    /// What it adds to the shard's count of bytes that no pool counts.
    pub charged_bytes: u32,
    /// When something last came from the peer or was taken by it, in milliseconds of the ring's
    /// clock, wrapping after 49 days.
    pub heard_ms: u32,
    /// When it was accepted or dialled, in the same milliseconds.
    pub born_ms: u32,
    /// When the send in flight was submitted, in the same milliseconds.
    pub sent_ms: u32,
    /// Operations in flight, as the ring counts them.
    pub in_flight: u8,
    /// A receive is in flight.
    pub receiving: bool,
    /// Whether it delivers, or announces what is received when the connection's turn has come.
    pub arrival: Arrival,
    /// For so many receives more what comes is announced, and received as a long message: one came
    /// not long ago.
    pub long_for: u8,
    /// For so many receives more what comes is announced, and received when its turn has come: it
    /// has used up its share not long ago.
    pub greedy_for: u8,
    /// It is in the shard's rota of those with something left to look at.
    pub queued: bool,
    /// There is something in its socket, as far as we know, and no receive is in flight.
    pub readable: bool,
    /// The peer reads too slowly: nothing is received from it, and its service is owed `on_drain`.
    pub paused: bool,
    /// Memory runs short and it holds much: nothing is received from it.
    pub choked: bool,
    /// It needs little, and waits because it found no receive memory.
    #[cfg(feature = "sim")]
    pub starved_modest: bool,
    /// How often its turn came while it was not received from: it waits behind others again then.
    #[cfg(feature = "sim")]
    pub passed_over: u8,
    /// The cancellation of a receive is in flight.
    pub cancelling: bool,
    /// The peer will send no more, or the transport is broken.
    pub stream_ended: bool,
    /// A send is in flight.
    pub sending: bool,
    /// Whether its end was waited for when it was submitted.
    pub send_urgency: Urgency,
    /// The peer did not take all of the last send: the next one waits for it.
    pub sent_in_part: bool,
    /// Whether it is in one of the shard's lists of connections to settle.
    pub settles: Settles,
    /// Pings that asked for a sign of life since the last one, as far as they are counted.
    pub pings: u8,
}

/// What a link over plain TCP does without until it ends.
#[derive(Debug, Default)]
pub struct Rare(Option<Box<RareParts>>);

#[derive(Debug, Default)]
struct RareParts {
    tls: Option<Secure>,
    cause: Option<CloseCause>,
    unread: Option<Box<Unread>>,
    /// What the kernel held for the peer when it was last found to be behind.
    kernel_bytes: usize,
    watch: Option<Box<Watch>>,
    /// Limits of its own.
    limits: Option<Box<Limits>>,
    /// Messages of topics that wait for the send in flight.
    backlog: Option<Box<Backlog>>,
    /// What it has asked of its topics.
    listening: Option<Box<Listening>>,
}

impl Rare {
    /// What is outgoing is encrypted there before it is sent.
    pub fn with_tls(tls: Secure) -> Self {
        let parts = RareParts {
            tls: Some(tls),
            ..RareParts::default()
        };
        Self(Some(Box::new(parts)))
    }

    /// Takes TLS out, for those who need it while the link is not borrowed. Until it is
    /// [put back](Self::put_tls) nothing may be sent.
    pub fn take_tls(&mut self) -> Option<Secure> {
        self.0.as_mut()?.tls.take()
    }

    /// Undoes [`take_tls`](Self::take_tls).
    pub fn put_tls(&mut self, tls: Option<Secure>) {
        if tls.is_some() {
            self.0.get_or_insert_default().tls = tls;
        }
    }

    /// TLS, if there is any.
    #[inline]
    pub fn tls(&self) -> Option<&Secure> {
        self.0.as_ref()?.tls.as_ref()
    }

    /// As [`tls`](Self::tls), to be used.
    #[inline]
    pub fn tls_mut(&mut self) -> Option<&mut Secure> {
        self.0.as_mut()?.tls.as_mut()
    }

    /// What was received and not looked at, if there is any.
    #[inline]
    pub fn unread(&mut self) -> Option<&mut Unread> {
        self.0.as_mut()?.unread.as_deref_mut()
    }

    /// Whether something was received and not looked at.
    #[inline]
    pub fn has_unread(&self) -> bool {
        self.0.as_ref().is_some_and(|parts| parts.unread.is_some())
    }

    /// Whether plaintext was not looked at.
    pub fn has_plain(&self) -> bool {
        let unread = self.0.as_ref().and_then(|parts| parts.unread.as_ref());
        unread.is_some_and(|unread| unread.has_plain())
    }

    /// As [`unread`](Self::unread), with a place for it.
    pub fn unread_mut(&mut self) -> &mut Unread {
        self.0
            .get_or_insert_default()
            .unread
            .get_or_insert_default()
    }

    /// As [`unread_mut`](Self::unread_mut), with this memory if there is none yet.
    pub fn unread_in(&mut self, spare: &mut Vec<Box<Unread>>) -> &mut Unread {
        let place = &mut self.0.get_or_insert_default().unread;
        place.get_or_insert_with(|| spare.pop().unwrap_or_default())
    }

    /// Forgets what was not looked at, or that there was something. Returns its memory.
    pub fn take_unread(&mut self) -> Option<Box<Unread>> {
        self.0.as_mut()?.unread.take()
    }

    /// Remembers what the kernel holds for a peer that is behind; 0 for one that is not.
    pub fn set_kernel_bytes(&mut self, bytes: usize) {
        if bytes > 0 {
            self.0.get_or_insert_default().kernel_bytes = bytes;
        } else if let Some(parts) = &mut self.0 {
            parts.kernel_bytes = 0;
            self.forget_if_empty();
        }
    }

    /// What the kernel holds for a peer that is behind.
    #[cfg(feature = "sim")]
    pub fn kernel_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |parts| parts.kernel_bytes)
    }

    fn forget_if_empty(&mut self) {
        self.0.take_if(|parts| {
            let has_words = parts.tls.is_some() || parts.cause.is_some();
            let is_watched = parts.watch.is_some();
            let is_put_off = parts.unread.is_some() || parts.kernel_bytes > 0;
            let is_plain = parts.limits.is_none() && parts.listening.is_none();
            !has_words && !is_watched && !is_put_off && is_plain && parts.backlog.is_none()
        });
    }

    /// Bytes of memory that is not counted elsewhere: what was not looked at, and TLS.
    fn held_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |parts| {
            let unread = parts
                .unread
                .as_ref()
                .map_or(0, |unread| unread.held_bytes());
            let tls = parts.tls.as_ref().map_or(0, Secure::held_bytes);
            let backlog = parts.backlog.as_ref().map_or(0, |it| it.held_bytes());
            let listening = parts.listening.as_ref().map_or(0, |it| it.held_bytes());
            unread + tls + backlog + listening + parts.kernel_bytes
        })
    }

    /// Messages of topics that wait, if any do.
    #[inline]
    pub fn backlog(&self) -> Option<&Backlog> {
        self.0.as_ref()?.backlog.as_deref()
    }

    /// As [`backlog`](Self::backlog), with a place for one.
    pub fn backlog_mut(&mut self) -> &mut Backlog {
        let parts = self.0.get_or_insert_default();
        parts.backlog.get_or_insert_default()
    }

    /// Takes all that wait.
    pub fn take_backlog(&mut self) -> Option<Box<Backlog>> {
        let backlog = self.0.as_mut()?.backlog.take();
        if backlog.is_some() {
            self.forget_if_empty();
        }
        backlog
    }

    /// Nothing of topics is sent any more.
    pub fn forget_topics(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.backlog = None;
            parts.listening = None;
            self.forget_if_empty();
        }
    }

    /// What it has asked of its topics, if anything.
    #[inline]
    pub fn listening(&self) -> Option<&Listening> {
        self.0.as_ref()?.listening.as_deref()
    }

    /// Changes what it asks of its topics.
    pub fn listen<T>(&mut self, change: impl FnOnce(&mut Listening) -> T) -> T {
        let parts = self.0.get_or_insert_default();
        let outcome = change(parts.listening.get_or_insert_default());
        if parts.listening.take_if(|it| it.is_empty()).is_some() {
            self.forget_if_empty();
        }
        outcome
    }

    /// Bytes that wait to be sent: those of topics, and records of TLS.
    #[inline]
    fn waiting_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |parts| {
            let records = parts.tls.as_ref().map_or(0, Secure::pending_bytes);
            records + parts.backlog.as_ref().map_or(0, |it| it.bytes())
        })
    }

    /// From here on these limits are its own.
    pub fn set_limits(&mut self, limits: Limits) {
        let parts = self.0.get_or_insert_default();
        parts.limits = Some(Box::new(limits));
    }

    /// Limits of its own, if it has some.
    #[inline]
    fn limits(&self) -> Option<&Limits> {
        self.0.as_ref()?.limits.as_deref()
    }

    /// Goes on without TLS.
    pub fn drop_tls(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.tls = None;
        }
    }

    /// What a deadline remembers, if anything.
    fn watch(&self) -> Option<&Watch> {
        self.0.as_ref()?.watch.as_deref()
    }

    /// As [`watch`](Self::watch), to be changed.
    fn watch_mut(&mut self) -> &mut Watch {
        let parts = self.0.get_or_insert_default();
        parts.watch.get_or_insert_default()
    }

    /// Nothing is remembered any more.
    fn drop_watch(&mut self) {
        let Some(parts) = &mut self.0 else { return };
        parts.watch = None;
        self.forget_if_empty();
    }

    /// Why it ends, once it does.
    pub fn cause(&self) -> Option<&CloseCause> {
        self.0.as_ref()?.cause.as_ref()
    }

    /// As [`cause`](Self::cause). It is not known any more then.
    pub fn take_cause(&mut self) -> Option<CloseCause> {
        self.0.as_mut()?.cause.take()
    }
}

// An idle connection is little else than this.
#[cfg(not(feature = "sim"))]
const _: () = assert!(size_of::<Link>() <= 128);

impl Link {
    /// A connection at its beginning.
    pub const fn new(role: Role, stage: Stage) -> Self {
        Self {
            endpoint: Endpoint::new(role),
            stage,
            outgoing: None,
            rare: Rare(None),
            sending_bytes: 0,
            counted_bytes: 0,
            charged_bytes: 0,
            heard_ms: 0,
            born_ms: 0,
            sent_ms: 0,
            in_flight: 0,
            receiving: false,
            arrival: Arrival::Delivered,
            long_for: 0,
            greedy_for: 0,
            queued: false,
            readable: false,
            paused: false,
            choked: false,
            #[cfg(feature = "sim")]
            starved_modest: false,
            #[cfg(feature = "sim")]
            passed_over: 0,
            cancelling: false,
            stream_ended: false,
            sending: false,
            send_urgency: Urgency::Awaited,
            sent_in_part: false,
            settles: Settles::Not,
            pings: 0,
        }
    }

    /// Bytes that the peer has not taken yet.
    #[inline]
    pub fn queued_bytes(&self) -> usize {
        let outgoing = self.outgoing.as_ref().map_or(0, |queue| queue.len());
        self.sending_bytes + outgoing + self.rare.waiting_bytes()
    }

    /// Whether messages go both ways.
    pub const fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Bytes of memory that this connection holds, as far as they are its own: what it has in
    /// common with others is counted with each.
    pub fn held_bytes(&self) -> usize {
        let outgoing = self.outgoing.as_ref().map_or(0, |queue| queue.held_bytes());
        let charged = self.charged_bytes as usize;
        let messages = self.endpoint.held_bytes() + self.endpoint.inflater_bytes();
        // Shared with others, who may be behind in other places.
        let backlog = self.rare.backlog().map_or(0, Backlog::bytes);
        messages + outgoing + backlog + self.sending_bytes + charged
    }

    /// Brings the shard's count of bytes that no pool counts up to date.
    #[inline]
    pub fn charge(&mut self, shared: &mut Shared) {
        if shared.errs(Mistake::ForgetsCharge) {
            return;
        }
        let bytes = self.to_charge();
        shared.charged_bytes = shared.charged_bytes - self.charged_bytes as usize + bytes as usize;
        self.charged_bytes = bytes;
    }

    /// Bytes that no pool counts and this connection holds now.
    #[inline]
    fn to_charge(&self) -> u32 {
        let opening = match &self.stage {
            Stage::Opening(opening) => opening.held_bytes(),
            _ => 0,
        };
        let bytes = opening + self.rare.held_bytes();
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    /// A send has ended: messages of topics that have waited for it are next.
    #[inline]
    pub fn load_backlog(&mut self, arena: &mut SendArena) {
        if self.rare.backlog().is_some() {
            self.load_some(arena);
        }
    }

    #[inline(never)]
    fn load_some(&mut self, arena: &mut SendArena) {
        let backlog = self.rare.backlog_mut();
        let queue = self.outgoing.get_or_insert_with(|| arena.queue());
        backlog.load(queue, arena);
        if backlog.is_empty() {
            self.rare.take_backlog();
        }
    }

    /// Puts all messages of topics that wait before what is written next: a close frame.
    pub fn load_whole_backlog(&mut self, arena: &mut SendArena) {
        if let Some(backlog) = self.rare.take_backlog() {
            let queue = self.outgoing.get_or_insert_with(|| arena.queue());
            backlog.load_all(queue);
        }
    }

    /// Gives back what is queued: nothing will be sent any more.
    pub fn release_queues(&mut self, arena: &mut SendArena) {
        self.rare.take_backlog();
        if let Some(queue) = self.outgoing.take() {
            arena.retire(queue);
        }
        if let Some(tls) = self.rare.tls_mut() {
            tls.release(arena);
        }
    }

    /// Whether the transport has to be read, if only to find its end.
    pub const fn wants_receive(&self) -> bool {
        !self.stream_ended
            && matches!(
                self.stage,
                Stage::Opening(_)
                    | Stage::Challenged(_)
                    | Stage::Open
                    | Stage::Closing
                    | Stage::Finishing(_)
                    | Stage::Lingering
            )
    }

    /// Remembers why the connection ends, unless it is known already: the first cause stays.
    pub fn ends(&mut self, cause: CloseCause) {
        let parts = self.rare.0.get_or_insert_default();
        parts.cause.get_or_insert(cause);
    }

    /// The peer's close frame has come: remembers why, and tells how the transport is to end. Both
    /// close frames have been seen then. A server ends the transport, a client waits for it to
    /// (section 7.1.1).
    pub fn peer_closed(&mut self, frame: CloseFrame<'_>, pool: &mut MessagePool) -> Ending {
        let reason = frame.reason().into();
        self.ends(CloseCause::Peer {
            code: frame.code,
            reason,
        });
        pool.reclaim(frame.payload);
        match self.endpoint.role() {
            Role::Server => Ending::Stop,
            Role::Client => Ending::Linger,
        }
    }

    /// Keeps a place in the queue for a frame that lies where it was received or put together, if
    /// it can be sent from there. Returns whether it can.
    pub fn promise(&mut self, frame: &[u8], lending: &mut Lending, arena: &mut SendArena) -> bool {
        let queue = self.outgoing.get_or_insert_with(|| arena.queue());
        // Receive memory that had to wait behind a send in flight would be missing to others.
        lending.promise(frame, queue, !self.sending)
    }

    /// Nobody looks at a payload any more: it goes where it was promised, or back to the pool.
    pub fn give_back(&mut self, payload: Payload<'_>, shared: &mut Shared) {
        let place = shared.lending.take_message();
        match (payload, place, &mut self.outgoing) {
            (Payload::Owned(buffer), Some(place), Some(queue)) => {
                let (bytes, part) = shared.pool.detach(buffer);
                queue.fulfil(place, Lent::Memory { bytes, part });
            }
            (payload, ..) => shared.pool.reclaim(payload),
        }
    }

    /// Whether nothing waits for the end of a send of so many bytes: no bytes behind it, no next
    /// stage, and no service that was told that its peer is behind.
    #[inline]
    fn is_unawaited(&self, bytes: usize, config: &Config) -> bool {
        matches!(self.stage, Stage::Open)
            && !self.paused
            && !self.sent_in_part
            && bytes <= config.queue_high_bytes
            && self.outgoing.is_none()
            && self.rare.backlog().is_none()
    }

    /// Submits a send.
    #[inline]
    pub fn send<R: Ring>(
        &mut self,
        queue: Box<SendQueue>,
        config: &Config,
        now: Time,
        token: Token,
        socket: &R::Socket,
        ring: &mut R,
    ) {
        let bytes = queue.len();
        self.sending = true;
        self.sent_ms = now.as_ms() as u32;
        self.in_flight += 1;
        if self.is_unawaited(bytes, config) {
            self.send_urgency = Urgency::Unawaited;
            ring.submit_send(socket, token, queue, Urgency::Unawaited);
        } else {
            self.send_awaited(queue, token, socket, ring);
        }
    }

    /// Not inlined, so that the code for a reply to a short message is for nothing else.
    #[inline(never)]
    fn send_awaited<R: Ring>(
        &mut self,
        queue: Box<SendQueue>,
        token: Token,
        socket: &R::Socket,
        ring: &mut R,
    ) {
        self.send_urgency = Urgency::Awaited;
        self.sending_bytes = queue.len();
        ring.submit_send(socket, token, queue, Urgency::Awaited);
    }

    /// A send has ended. Returns whether its end says that the peer has read.
    #[inline]
    pub fn send_ends(&mut self, now: Time) -> bool {
        self.in_flight -= 1;
        self.sending = false;
        self.sending_bytes = 0;
        // Its socket buffer was full, so the peer has read. A send that ends at once says only that
        // the kernel had room, even for a peer long gone; of an unawaited one the end is seen late.
        self.send_urgency == Urgency::Awaited
            && (now.as_ms() as u32).wrapping_sub(self.sent_ms) >= SEND_WAITED_MS
    }

    /// What its peer has sent is not gone on with for now: others need not wait for it.
    pub fn hold_up_inflating(&self, shared: &mut Shared) {
        if self.endpoint.is_inflating() {
            self.endpoint.hold_up_inflating(&mut shared.codec);
        }
    }

    /// Puts what is left of a send back: what was written meanwhile follows it.
    pub fn put_back(&mut self, mut queue: Box<SendQueue>, arena: &mut SendArena) {
        if let Some(tls) = self.rare.tls_mut() {
            // Encrypted already.
            return tls.put_back(queue, arena);
        }
        queue.own(arena);
        if let Some(mut later) = self.outgoing.take() {
            queue.append(&mut later);
            arena.retire(later);
        }
        self.outgoing = Some(queue);
    }

    /// The endpoint, and what it needs for a call.
    #[inline]
    pub fn split<'a>(
        &'a mut self,
        shared: &'a mut Shared,
    ) -> (&'a mut Endpoint, Context<'a, Outbox<'a>>) {
        let context = Context {
            limits: self.rare.limits().unwrap_or(&shared.limits),
            pool: &mut shared.pool,
            keys: &mut shared.keys,
            codec: &mut shared.codec,
            sink: Outbox {
                queue: &mut self.outgoing,
                arena: &mut shared.arena,
            },
        };
        (&mut self.endpoint, context)
    }

    /// The endpoint, and the connection's queue as a sink.
    #[inline(always)]
    pub fn endpoint_and_outbox<'a>(
        &'a mut self,
        arena: &'a mut SendArena,
    ) -> (&'a mut Endpoint, Outbox<'a>) {
        (
            &mut self.endpoint,
            Outbox {
                queue: &mut self.outgoing,
                arena,
            },
        )
    }

    /// The connection's queue, as a sink.
    pub fn outbox<'a>(&'a mut self, arena: &'a mut SendArena) -> Outbox<'a> {
        Outbox {
            queue: &mut self.outgoing,
            arena,
        }
    }

    /// Whether what comes is announced, and received when its turn has come: it needs so much that
    /// it is to take none of the receive memory that others are received into.
    #[inline]
    pub const fn needs_much(&self) -> bool {
        self.long_for > 0 || self.greedy_for > 0
    }

    /// Whether something of what was received waits to be gone on with, be there input left or not:
    /// a message that was inflated in part.
    #[inline]
    pub const fn goes_on(&self) -> bool {
        self.endpoint.is_inflating() && matches!(self.stage, Stage::Open | Stage::Closing)
    }

    /// Whether what comes next is what a trusted proxy says.
    #[inline]
    pub fn begins_with_proxy(&self) -> bool {
        matches!(&self.stage, Stage::Opening(opening) if opening.awaits_proxy())
    }

    /// Whether the TLS handshake is still to be finished: nothing can be sent before it is.
    pub fn is_securing(&self) -> bool {
        self.rare.tls().is_some_and(|tls| !tls.session().is_open())
    }

    /// How long ago the peer was last heard of.
    pub fn silence(&self, now_ms: u64) -> Duration {
        Duration::from_millis(u64::from((now_ms as u32).wrapping_sub(self.heard_ms)))
    }
}

/// A connection's send queue, taken from the arena when the first byte is written.
#[derive(Debug)]
pub struct Outbox<'a> {
    queue: &'a mut Option<Box<SendQueue>>,
    arena: &'a mut SendArena,
}

impl Sink for Outbox<'_> {
    #[inline(always)]
    fn space(&mut self, wanted: usize) -> &mut [u8] {
        let Self { queue, arena } = self;
        queue
            .get_or_insert_with(|| arena.queue())
            .space(arena, wanted)
    }

    #[inline(always)]
    fn commit(&mut self, bytes: usize) {
        match self.queue {
            Some(queue) => queue.commit(bytes),
            None => assert_eq!(bytes, 0, "bytes were committed without space for them"),
        }
    }

    fn adopt(&mut self, bytes: Bytes) {
        let Self { queue, arena } = self;
        let queue = queue.get_or_insert_with(|| arena.queue());
        queue.adopt(arena, bytes);
    }

    fn adopt_framed(&mut self, header: &[u8], payload: Bytes) {
        let Self { queue, arena } = self;
        let queue = queue.get_or_insert_with(|| arena.queue());
        queue.adopt_framed(arena, header, payload);
    }
}

/// A connection: its link, its socket, and what its service keeps for it.
#[derive(Debug)]
pub struct Connection<K, T> {
    /// Everything but the socket and the state.
    pub link: Link,
    /// The socket, until it is closed.
    pub socket: Option<K>,
    /// Its entry at the door, if it had to have one.
    pub ticket: Option<Ticket>,
    /// The service's own, once its opening handshake was accepted.
    pub state: Option<T>,
}
