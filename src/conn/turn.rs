//! What a service asks for beyond the connection that it is called for: put down during the call,
//! and carried out before the turn ends.
//!
//! Knows: what was asked for, in which order, and how much of it there may be. Refuses to know: how
//! it is done, and by which shard.
//!
//! So a call never meets a connection that another call is in the middle of: there is nothing to
//! lock and nothing that is borrowed twice. What comes to nothing is told by
//! [`on_send_failed`](crate::Service::on_send_failed).

use std::{collections::VecDeque, fmt, sync::Arc};

use bytes::Bytes;

use super::{
    ConnId, Key, Shared,
    mistake::Mistake,
    wanted::{Asker, Publication, Request, Wanted},
};
use crate::{
    config::Config,
    proto::{CloseCode, SendError, endpoint::CLOSE_REASON_BYTES_MAX, message::Outgoing},
    ring::Time,
    topics::{
        Since, TopicError,
        history::Histories,
        interest::Interest,
        name::{Reach, check_pattern},
        rules::Rules,
        table::{Joined, Left, Table},
    },
};

/// What is to be done to another connection.
#[derive(Debug)]
pub enum Effect {
    /// Send a message.
    Send(ConnId, Outgoing<'static>),
    /// Start the closing handshake.
    Close(ConnId, CloseCode, Box<str>),
}

impl Effect {
    /// To which connection.
    pub const fn connection(&self) -> ConnId {
        match self {
            Self::Send(id, _) | Self::Close(id, ..) => *id,
        }
    }

    fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Send(_, message) => message.payload_len(),
                Self::Close(_, _, reason) => reason.len(),
            }
    }
}

/// After a crowd, the room for more than these is given back.
const KEPT_MAX: usize = 64;

/// Things that wait, within a limit.
#[derive(Debug)]
pub struct Waiting<T> {
    all: VecDeque<T>,
    bytes: usize,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self {
            all: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<T> Waiting<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Bytes of memory that they hold.
    #[inline]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether no more may wait than do. One of any size may.
    pub fn is_full(&self, config: &Config) -> bool {
        let messages = self.all.len();
        messages >= config.mailbox_messages_max
            || messages > 0 && self.bytes >= config.mailbox_bytes_max
    }

    /// Puts one behind all others, which holds so many bytes.
    pub fn push(&mut self, one: T, bytes: usize) {
        self.bytes += bytes;
        self.all.push_back(one);
    }

    /// Bytes that all of them hold, of which `bytes` tells what one does.
    #[cfg(feature = "sim")]
    pub fn sum(&self, bytes: impl Fn(&T) -> usize) -> usize {
        self.all.iter().map(bytes).sum()
    }

    /// All of them, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.all.iter()
    }

    /// The first one, which stays.
    pub fn first(&self) -> Option<&T> {
        self.all.front()
    }

    /// The first one, of which `bytes` tells what it holds.
    pub fn pop(&mut self, bytes: impl Fn(&T) -> usize) -> Option<T> {
        let first = self.all.pop_front()?;
        self.bytes -= bytes(&first);
        if self.all.is_empty() && self.all.capacity() > KEPT_MAX {
            self.all = VecDeque::new();
        }
        Some(first)
    }
}

/// With more publications waiting, their publishers wait as well.
const PUBLICATIONS_HIGH: usize = 64;

/// What a shard's services have asked for, and its topics.
#[derive(Debug, Default)]
pub struct Asked {
    /// What is to be done to connections.
    pub effects: Waiting<Effect>,
    /// What was published and did not reach all yet, and wishes for earlier messages.
    pub wanted: Waiting<Wanted>,
    /// What is kept of the topics that have this shard for a home.
    pub histories: Histories,
    /// How many wishes there were.
    tickets: u32,
    /// Who has subscribed to what.
    pub table: Table,
    /// What of that others have to know.
    pub interest: Arc<Interest>,
    /// The same of all shards, this one among them.
    pub all_interests: Arc<[Arc<Interest>]>,
    /// How those are treated who read too slowly.
    pub rules: Arc<Rules>,
}

impl Asked {
    /// Whether more was published than a turn delivers.
    #[inline]
    pub fn is_behind(&self) -> bool {
        self.wanted.len() > PUBLICATIONS_HIGH
    }

    /// Bytes of memory that it holds.
    #[inline]
    pub const fn held_bytes(&self) -> usize {
        self.effects.bytes()
            + self.wanted.bytes()
            + self.table.held_bytes()
            + self.histories.held_bytes()
    }

    /// The same, from walking over everything.
    #[cfg(feature = "sim")]
    pub fn sum_bytes(&self) -> usize {
        let waiting = self.effects.sum(Effect::held_bytes);
        let wanted = self.wanted.sum(Wanted::held_bytes);
        let histories = self.histories.sum_bytes();
        waiting + wanted + histories + self.table.sum_bytes()
    }

    /// Something more is asked of topics, of which there is not much.
    pub fn push(&mut self, wanted: Wanted) {
        let bytes = wanted.held_bytes();
        self.wanted.push(wanted, bytes);
    }

    /// The next thing that is to be done to a connection.
    pub fn pop_effect(&mut self) -> Option<Effect> {
        self.effects.pop(Effect::held_bytes)
    }

    /// A connection is gone.
    #[inline]
    pub fn leave(&mut self, key: Key) {
        let interest = &self.interest;
        self.table
            .leave_all(key.slot, |pattern, reach| interest.end(&pattern, reach));
    }
}

/// Why a connection was not subscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The connection is closing.
    Closed,
    /// The topic keeps no messages ([`history_messages_max`]).
    ///
    /// [`history_messages_max`]: crate::topics::TopicOptions::history_messages_max
    NoHistory,
    /// There is no memory for it.
    NoMemory,
    /// It is no topic, and no pattern.
    Topic(TopicError),
    /// The connection has as many subscriptions as it may: `topic_subscriptions_max`.
    TooMany,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the connection is closing"),
            Self::NoHistory => f.write_str("the topic keeps no earlier messages"),
            Self::NoMemory => f.write_str("there is no memory for a subscription"),
            Self::Topic(error) => error.fmt(f),
            Self::TooMany => f.write_str(
                "the connection has as many subscriptions as it may (topic_subscriptions_max)",
            ),
        }
    }
}

impl std::error::Error for SubscribeError {}

impl From<TopicError> for SubscribeError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}

/// Why a message was not published: nobody has got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// As many messages wait to be given to their subscribers as may (`mailbox_messages_max`,
    /// `mailbox_bytes_max`), or there is no memory for one more.
    Full,
    /// The server has stopped.
    Stopped,
    /// It is no topic.
    Topic(TopicError),
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str(
                "as many messages wait for their subscribers as may (mailbox_messages_max, \
                 mailbox_bytes_max)",
            ),
            Self::Stopped => f.write_str("the server has stopped"),
            Self::Topic(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PublishError {}

impl From<TopicError> for PublishError {
    fn from(error: TopicError) -> Self {
        Self::Topic(error)
    }
}

/// The shard that a service runs on, for the length of one call: what it can do beyond the
/// connection that it is called for.
///
/// ```
/// use ringwire::{Conn, ConnId, Message, Service};
///
/// /// Hands what anybody says to the one who came last.
/// #[derive(Default)]
/// struct Relay {
///     last: Option<ConnId>,
/// }
///
/// impl Service for Relay {
///     type State = ();
///
///     fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
///         self.last = Some(conn.id());
///     }
///
///     fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
///         if let Some(last) = self.last {
///             let _ = conn.turn().send(last, message);
///         }
///     }
/// }
/// ```
pub struct Turn<'a> {
    pub(crate) shared: &'a mut Shared,
}

impl Turn<'_> {
    /// When this turn of the shard began.
    #[inline]
    pub const fn now(&self) -> Time {
        self.shared.now
    }

    /// Sends a message on another connection of this server, when the call is over. Whether it is
    /// still there shows only then: a message that comes to nothing is told by
    /// [`on_send_failed`](crate::Service::on_send_failed) to the service of that connection's
    /// shard, or to this one if that shard's mailbox is full.
    ///
    /// # Errors
    ///
    /// [`SendError::QueueFull`] when as much was asked for in this turn as may be
    /// (`mailbox_messages_max`, `mailbox_bytes_max`), or there is no memory.
    pub fn send<'m>(
        &mut self,
        id: ConnId,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), SendError> {
        let message = message.into().into_owned();
        self.put_down(Effect::Send(id, message))
    }

    /// Starts the closing handshake of another connection of this server, when the call is over,
    /// with a reason of at most 123 bytes. One that is gone is left alone.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] for a longer reason, [`SendError::QueueFull`] as
    /// [`send`](Self::send).
    pub fn close(&mut self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), SendError> {
        if reason.len() > CLOSE_REASON_BYTES_MAX {
            return Err(SendError::ControlTooLong);
        }
        self.put_down(Effect::Close(id, code, reason.into()))
    }

    fn put_down(&mut self, effect: Effect) -> Result<(), SendError> {
        let bytes = effect.held_bytes();
        let effects = &self.shared.asked.effects;
        if effects.is_full(&self.shared.config) || self.shared.lacks_room(effects.bytes(), bytes) {
            return Err(SendError::QueueFull);
        }
        self.shared.asked.effects.push(effect, bytes);
        Ok(())
    }

    /// How many connections subscribe to exactly this topic or pattern, on all shards.
    pub fn subscribers(&self, pattern: impl AsRef<[u8]>) -> usize {
        let pattern = pattern.as_ref();
        let interests = &self.shared.asked.all_interests;
        check_pattern(pattern).map_or(0, |reach| {
            interests.iter().map(|it| it.members(pattern, reach)).sum()
        })
    }

    /// Sends a message to all who subscribe to a topic, on every shard.
    ///
    /// # Errors
    ///
    /// [`PublishError::Topic`], [`PublishError::Full`]; nobody gets it then.
    pub fn publish<'m>(
        &mut self,
        topic: impl AsRef<[u8]>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), PublishError> {
        let publication = Publication::new(topic.as_ref(), &message.into())?;
        self.put_publication(publication)
    }

    /// As [`publish`](Self::publish), with a key: where the topic is conflated
    /// ([`SlowPolicy::Conflate`](crate::topics::SlowPolicy::Conflate)) the message takes the place
    /// of one with the same topic and key.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_keyed<'m>(
        &mut self,
        topic: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), PublishError> {
        let mut publication = Publication::new(topic.as_ref(), &message.into())?;
        publication.key = Some(Bytes::copy_from_slice(key.as_ref()));
        self.put_publication(publication)
    }

    pub(super) fn put_publication(&mut self, publication: Publication) -> Result<(), PublishError> {
        let wanted = Wanted::Publish(publication);
        let bytes = wanted.held_bytes();
        let waiting = &self.shared.asked.wanted;
        if waiting.is_full(&self.shared.config) || self.shared.lacks_room(waiting.bytes(), bytes) {
            self.shared.counts.topic_publications_refused += 1;
            return Err(PublishError::Full);
        }
        self.shared.asked.wanted.push(wanted, bytes);
        self.shared.counts.topic_publications += 1;
        Ok(())
    }
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn")
            .field("now", &self.now())
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// A connection subscribes to a topic or a pattern. Returns whether it had not before.
    pub(super) fn subscribe(&mut self, key: Key, pattern: &[u8]) -> Result<bool, SubscribeError> {
        let reach = check_pattern(pattern)?;
        let table = &mut self.asked.table;
        let most = self.config.topic_subscriptions_max as usize;
        if table.subscriptions_of(key.slot) >= most {
            // What it has already, it may ask for again.
            return match table.has(key.slot, pattern, reach) {
                true => Ok(false),
                false => Err(SubscribeError::TooMany),
            };
        }
        if self.send_room < SUBSCRIPTION_BYTES_MAX {
            return Err(SubscribeError::NoMemory);
        }
        let joined = table.join(key.slot, pattern, reach);
        let tells = !self.errs(Mistake::ForgetsInterest);
        if joined == Joined::First && tells {
            let members = self.asked.table.members(pattern, reach);
            self.asked.interest.begin(pattern, reach, members);
        }
        Ok(joined != Joined::Again)
    }

    /// A connection subscribes to a topic whose messages are kept, and wants earlier ones first.
    /// Returns which of its wishes it is.
    pub(super) fn subscribe_since(
        &mut self,
        id: ConnId,
        topic: &[u8],
        since: Since,
    ) -> Result<u32, SubscribeError> {
        if check_pattern(topic)? == Reach::Several {
            return Err(TopicError::Wildcard.into());
        }
        if !self.asked.rules.keeps(topic) {
            return Err(SubscribeError::NoHistory);
        }
        let waiting = &self.asked.wanted;
        if waiting.is_full(&self.config) || self.lacks_room(waiting.bytes(), topic.len()) {
            return Err(SubscribeError::NoMemory);
        }
        self.subscribe(id.key(), topic)?;
        self.asked.tickets = self.asked.tickets.wrapping_add(1);
        let wanted = Wanted::Recall(Request {
            topic: Bytes::copy_from_slice(topic),
            since,
            asker: Asker::Connection(id, self.asked.tickets),
        });
        self.asked.push(wanted);
        Ok(self.asked.tickets)
    }

    /// A connection does not subscribe to it any more. Returns whether it had.
    pub(super) fn unsubscribe(&mut self, key: Key, pattern: &[u8]) -> bool {
        let Ok(reach) = check_pattern(pattern) else {
            return false;
        };
        let left = self.asked.table.leave(key.slot, pattern, reach);
        if left == Left::Last {
            self.asked.interest.end(pattern, reach);
        }
        left != Left::Nothing
    }
}

/// A subscription takes less than this, were it the first to the deepest pattern.
const SUBSCRIPTION_BYTES_MAX: usize = 24 << 10;
