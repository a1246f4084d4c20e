//! What a service may do to the connection it is called for.
//!
//! Knows: one connection, for the length of one call. Refuses to know: sockets, rings, other
//! connections.
//!
//! Of many short messages that go back as they came, only the range is noted; it is written as one
//! piece when something else is done, or at the end of the call:
//!
//! ```text
//!   batch     | frame | frame | frame | frame |
//!   sent        yes     yes     no      yes
//!   writes    '------ 1 -----'       '-- 2 --'
//! ```

use std::{fmt, ops::Range};

use bytes::Bytes;

use super::{
    CloseCause, ConnId, Link, Shared, Stage, Turn,
    turn::{PublishError, SubscribeError},
    wanted::Publication,
};
use crate::{
    proto::{
        CloseCode, SendError, Sink, Version,
        endpoint::{Batch, Control},
        message::{Outgoing, OutgoingPayload},
    },
    ring::Time,
    topics::Since,
};

/// One connection, lent to a service for one call.
///
/// What is sent goes out at the end of the turn, together with everything else that was sent on
/// this connection: sending often costs no more than sending once.
pub struct Conn<'a, T> {
    id: ConnId,
    link: &'a mut Link,
    state: &'a mut T,
    shared: &'a mut Shared,
    run: Run<'a>,
}

/// Short messages that go back as they came, and were not written yet.
#[derive(Debug, Default)]
struct Run<'a> {
    /// What the service is shown, each message as it would be sent.
    frames: &'a [u8],
    /// Those that were sent, in `frames`.
    sent: Range<usize>,
    messages: u64,
    /// The address of the message that would go on with the run; none has it when none may.
    next: usize,
    /// Bytes that the run may have at most, so that every send in it has the same answer.
    bytes_max: usize,
}

/// A run is worth its while from this many messages on.
const RUN_MESSAGES_MIN: usize = 4;

impl Run<'_> {
    /// Adds a message, if it goes on with the run.
    #[inline(always)]
    fn takes(&mut self, outgoing: &Outgoing<'_>) -> bool {
        let OutgoingPayload::Framed { frame, .. } = outgoing.payload else {
            return false;
        };
        let end = self.sent.end + frame.len();
        if frame.as_ptr().addr() != self.next || end - self.sent.start > self.bytes_max {
            return false;
        }
        self.sent.end = end;
        self.next += frame.len();
        self.messages += 1;
        true
    }

    /// The place behind a message of the batch.
    #[inline(always)]
    fn place_behind(&self, outgoing: &Outgoing<'_>) -> Option<usize> {
        let OutgoingPayload::Framed { frame, .. } = outgoing.payload else {
            return None;
        };
        let at = frame
            .as_ptr()
            .addr()
            .checked_sub(self.frames.as_ptr().addr())?;
        let end = at + frame.len();
        (end <= self.frames.len()).then_some(end)
    }
}

/// Whether the peer keeps up with what is sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// More is queued than `queue_high_bytes`. It will be sent; [`on_drain`] will say when the
    /// queue is short again. Meanwhile nothing is received from this peer.
    ///
    /// [`on_drain`]: crate::Service::on_drain
    Behind,
    /// The peer keeps up.
    Flowing,
}

impl<'a, T> Conn<'a, T> {
    #[doc(hidden)]
    #[inline]
    pub fn new(id: ConnId, link: &'a mut Link, state: &'a mut T, shared: &'a mut Shared) -> Self {
        Self {
            id,
            link,
            state,
            shared,
            run: Run::default(),
        }
    }

    /// The connection while its service is shown a batch of messages.
    #[inline(always)]
    pub(crate) fn with_batch(
        id: ConnId,
        link: &'a mut Link,
        state: &'a mut T,
        shared: &'a mut Shared,
        batch: &Batch<'a>,
    ) -> Self {
        let mut conn = Self::new(id, link, state, shared);
        if batch.count() >= RUN_MESSAGES_MIN {
            conn.run.frames = batch.frames();
            conn.begin_run(0);
        }
        conn
    }

    /// A run may begin at this place in the batch.
    fn begin_run(&mut self, at: usize) {
        let config = &self.shared.config;
        let bytes_max = config.queue_high_bytes.min(config.queue_bytes_max);
        let run = &mut self.run;
        run.sent = at..at;
        run.bytes_max = bytes_max.saturating_sub(self.link.queued_bytes());
        run.next = if self.link.endpoint.sends_as_received() {
            run.frames.as_ptr().addr() + at
        } else {
            0
        };
    }

    /// Writes the run, so that what is written next comes after it.
    #[inline(always)]
    fn end_run(&mut self) {
        if self.run.messages > 0 {
            self.write_run();
        }
    }

    #[inline(never)]
    fn write_run(&mut self) {
        let sent = self.run.sent.clone();
        let frames = self.run.frames.get(sent.clone()).unwrap_or_default();
        self.link.outbox(&mut self.shared.arena).write(frames);
        let counts = &mut self.shared.counts;
        counts.messages_sent += self.run.messages;
        counts.messages_sent_in_runs += self.run.messages;
        counts.payload_bytes_sent += frames.len() as u64 - 2 * self.run.messages;
        self.run.messages = 0;
        self.run.next = 0;
        self.run.sent = sent.end..sent.end;
    }

    #[inline(always)]
    pub(crate) const fn is_close_sent(&self) -> bool {
        self.link.endpoint.is_close_sent()
    }

    #[inline(always)]
    pub(crate) fn count_received(&mut self, payload_len: usize) {
        self.shared.counts.messages_received += 1;
        self.shared.counts.payload_bytes_received += payload_len as u64;
        self.shared
            .stats
            .spread
            .message_received
            .add(payload_len as u64);
    }

    /// The connection's name, for a [`Handle`](crate::Handle) or a log.
    #[inline]
    pub const fn id(&self) -> ConnId {
        self.id
    }

    /// Which protocol the peer speaks. With [`Version::Hixie76`] there are no pings and pongs, and
    /// binary messages only for a peer that has sent one: see [`hixie`](crate::proto::hixie).
    pub const fn version(&self) -> Version {
        self.link.endpoint.version()
    }

    /// What the service keeps for this connection.
    #[inline]
    pub const fn state(&mut self) -> &mut T {
        self.state
    }

    /// Sends a message: a `&str` or `String` as text, bytes as binary, a received
    /// [`Message`](crate::Message) as what it was.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] once the connection is closing, [`SendError::QueueFull`] when the
    /// message would put more than `queue_bytes_max` bytes in the queue, [`SendError::Unsupported`]
    /// for binary to a [hixie-76](crate::proto::hixie) peer that has not sent any: it may be a
    /// browser, which would throw it away. Nothing was sent then.
    #[inline(always)]
    pub fn send<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Result<SendStatus, SendError> {
        let message = message.into();
        if self.run.takes(&message) {
            return Ok(SendStatus::Flowing);
        }
        self.send_apart(message)
    }

    /// Sends a message that does not go on with a run.
    #[inline(never)]
    fn send_apart(&mut self, message: Outgoing<'_>) -> Result<SendStatus, SendError> {
        let payload_len = message.payload_len();
        let queued = self.begin_send(payload_len)?;
        let behind = self.run.place_behind(&message);
        let mut queued_bytes = queued + payload_len;
        let (endpoint, mut outbox) = self.link.endpoint_and_outbox(&mut self.shared.arena);
        if !endpoint.send_short(&message, &mut outbox) {
            self.send_long(message)?;
            if self.link.endpoint.is_compressing() {
                // `on_drain` is owed for what is queued, and that may be much less.
                queued_bytes = self.link.queued_bytes();
            }
        }
        if let Some(behind) = behind {
            self.begin_run(behind);
        }
        self.count_sent(payload_len);
        Ok(self.status(queued_bytes))
    }

    /// What comes before a message that is no part of a run: whether there is room for it. Returns
    /// what is queued.
    #[inline]
    fn begin_send(&mut self, payload_len: usize) -> Result<usize, SendError> {
        self.end_run();
        let queued = self.link.queued_bytes();
        let is_full = queued.saturating_add(payload_len) > self.shared.config.queue_bytes_max;
        if is_full || self.shared.lacks_room(queued, payload_len) {
            return Err(SendError::QueueFull);
        }
        Ok(queued)
    }

    #[inline]
    const fn count_sent(&mut self, payload_len: usize) {
        self.shared.counts.messages_sent += 1;
        self.shared.counts.payload_bytes_sent += payload_len as u64;
    }

    #[inline(never)]
    fn send_long(&mut self, message: Outgoing<'_>) -> Result<(), SendError> {
        let Self { link, shared, .. } = self;
        if let Some(frame) = link.endpoint.as_sent(&message, &shared.codec)
            && frame.len() >= shared.config.send_in_place_bytes_min
            && link.promise(frame, &mut shared.lending, &mut shared.arena)
        {
            shared.counts.messages_sent_in_place += 1;
            return Ok(());
        }
        let (endpoint, mut context) = link.split(shared);
        endpoint.send(message, &mut context)
    }

    /// Sends a ping of at most 125 bytes (RFC 6455 section 5.5.2). The answer comes to
    /// [`on_pong`](crate::Service::on_pong).
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`], [`SendError::Closed`]; [`SendError::Unsupported`] for a
    /// [hixie-76](crate::proto::hixie) peer, so that nobody waits for its pong.
    pub fn ping(&mut self, payload: &[u8]) -> Result<SendStatus, SendError> {
        self.control(Control::Ping, payload)
    }

    /// Sends a pong that nobody asked for, of at most 125 bytes (section 5.5.3). Pings are answered
    /// without this.
    ///
    /// # Errors
    ///
    /// As [`ping`](Self::ping).
    pub fn pong(&mut self, payload: &[u8]) -> Result<SendStatus, SendError> {
        self.control(Control::Pong, payload)
    }

    fn control(&mut self, control: Control, payload: &[u8]) -> Result<SendStatus, SendError> {
        self.end_run();
        let (endpoint, mut context) = self.link.split(self.shared);
        endpoint.send_control(control, payload, &mut context)?;
        Ok(self.status(self.link.queued_bytes()))
    }

    /// Starts the closing handshake with a code and a reason of at most 123 bytes of UTF-8. What
    /// was sent before goes out first. The connection ends when the peer has answered, or after
    /// `close_timeout_ms`. A [hixie-76](crate::proto::hixie) peer learns neither code nor reason.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] for a longer reason, [`SendError::Closed`] when it is closing
    /// already.
    pub fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.end_run();
        self.link.load_whole_backlog(&mut self.shared.arena);
        let (endpoint, mut context) = self.link.split(self.shared);
        endpoint.close(code, reason, &mut context)?;
        self.link.ends(CloseCause::Application(code));
        Ok(())
    }

    /// Sends a message as several frames with at most `fragment_bytes` bytes of payload each
    /// (RFC 6455 section 5.4). A peer sees the same message; this is for testing what it does with
    /// fragments, and for peers that limit the length of a frame.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    ///
    /// # Panics
    ///
    /// When `fragment_bytes` is 0.
    pub fn send_fragmented<'m>(
        &mut self,
        message: impl Into<Outgoing<'m>>,
        fragment_bytes: usize,
    ) -> Result<SendStatus, SendError> {
        let message = message.into();
        let payload_len = message.payload_len();
        self.begin_send(payload_len)?;
        let (endpoint, mut context) = self.link.split(self.shared);
        endpoint.send_fragmented(&message, fragment_bytes, &mut context)?;
        self.count_sent(payload_len);
        Ok(self.status(self.link.queued_bytes()))
    }

    /// Subscribes this connection to a topic, or to all topics that match a pattern: from now on it
    /// gets what is published there, by whomever. Returns whether it had not subscribed to it
    /// before. How topics are called is told in [`topics`](crate::topics).
    ///
    /// # Errors
    ///
    /// [`SubscribeError::Topic`], [`SubscribeError::TooMany`] beyond `topic_subscriptions_max`,
    /// [`SubscribeError::Closed`] once the connection is closing, [`SubscribeError::NoMemory`].
    pub fn subscribe(&mut self, pattern: impl AsRef<[u8]>) -> Result<bool, SubscribeError> {
        if self.is_closing() {
            return Err(SubscribeError::Closed);
        }
        self.shared.subscribe(self.id.key(), pattern.as_ref())
    }

    /// Subscribes this connection to a topic that keeps messages
    /// ([`history_messages_max`](crate::topics::TopicOptions::history_messages_max)), and has the
    /// kept ones sent first that it does not have yet. What is published from then on follows them
    /// without a gap.
    ///
    /// [`on_subscribed`](crate::Service::on_subscribed) is told before the first of them what
    /// comes, and whether some are missing. Until then nothing of this topic is sent here. Asked
    /// again, only the newest wish is answered.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe), [`SubscribeError::NoHistory`] where nothing is kept, and
    /// [`TopicError::Wildcard`](crate::topics::TopicError) for a pattern: each topic has numbers of
    /// its own.
    ///
    /// ```
    /// use ringwire::{Conn, Message, Service, topics::{Resumed, Since}};
    ///
    /// /// Whoever says `since POSITION` or anything else gets what it has missed, or the last ten.
    /// struct News;
    ///
    /// impl Service for News {
    ///     type State = ();
    ///
    ///     fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
    ///         let text = message.text().unwrap_or_default();
    ///         let position = text.strip_prefix("since ").and_then(|it| it.parse().ok());
    ///         let since = position.map_or(Since::Last(10), Since::After);
    ///         let _ = conn.subscribe_since("news", since);
    ///     }
    ///
    ///     fn on_subscribed(&mut self, conn: &mut Conn<'_, ()>, _: &[u8], resumed: &Resumed) {
    ///         let gap = if resumed.is_whole { "" } else { ", and some were lost" };
    ///         let _ = conn.send(format!("{} old ones follow{gap}", resumed.messages));
    ///     }
    /// }
    /// ```
    pub fn subscribe_since(
        &mut self,
        topic: impl AsRef<[u8]>,
        since: Since,
    ) -> Result<(), SubscribeError> {
        if self.is_closing() {
            return Err(SubscribeError::Closed);
        }
        let topic = topic.as_ref();
        let ticket = self.shared.subscribe_since(self.id, topic, since)?;
        let topic = Bytes::copy_from_slice(topic);
        self.link.rare.listen(|it| it.await_topic(topic, ticket));
        Ok(())
    }

    /// Whether messages of topics come to this connection as
    /// [`Service::envelope`](crate::Service::envelope) puts them, with their position say. Without
    /// it they come as they were published.
    pub fn set_envelopes(&mut self, has_envelopes: bool) {
        self.link.rare.listen(|it| it.has_envelopes = has_envelopes);
    }

    /// Ends a subscription, to exactly this topic or pattern. Returns whether there was one. What
    /// was published before and waits for the peer to read still goes out.
    pub fn unsubscribe(&mut self, pattern: impl AsRef<[u8]>) -> bool {
        if self.link.rare.listening().is_some() {
            self.link.rare.listen(|it| it.forget(pattern.as_ref()));
        }
        self.shared.unsubscribe(self.id.key(), pattern.as_ref())
    }

    /// How many subscriptions this connection has.
    pub fn subscriptions(&self) -> usize {
        self.shared.asked.table.subscriptions_of(self.id.key().slot)
    }

    /// Sends a message to all who subscribe to a topic, on every shard: also to this connection, if
    /// it does. It goes out behind what is sent in this call.
    ///
    /// # Errors
    ///
    /// [`PublishError::Topic`], [`PublishError::Full`]; nobody gets it then.
    pub fn publish<'m>(
        &mut self,
        topic: impl AsRef<[u8]>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), PublishError> {
        self.turn().publish(topic, message)
    }

    /// As [`publish`](Self::publish), but not to this connection.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_to_others<'m>(
        &mut self,
        topic: impl AsRef<[u8]>,
        message: impl Into<Outgoing<'m>>,
    ) -> Result<(), PublishError> {
        let mut publication = Publication::new(topic.as_ref(), &message.into())?;
        publication.except = Some(self.id);
        self.turn().put_publication(publication)
    }

    /// The shard, to do something beyond this connection.
    #[inline]
    pub const fn turn(&mut self) -> Turn<'_> {
        Turn {
            shared: self.shared,
        }
    }

    /// When this turn of the shard began: the time at which what it received was taken from the
    /// kernel.
    #[inline]
    pub const fn now(&self) -> Time {
        self.shared.now
    }

    /// Bytes sent that the peer has not taken yet, headers included.
    pub fn queued_bytes(&self) -> usize {
        self.link.queued_bytes() + self.run.sent.len()
    }

    /// The TLS of this connection: the peer's certificate, if it has shown one, the version and the
    /// cipher suite. `None` on a plain connection.
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&crate::tls::Session> {
        self.link.rare.tls().map(|tls| tls.session())
    }

    /// Whether a close frame was sent or received: nothing can be sent any more.
    pub fn is_closing(&self) -> bool {
        self.is_close_sent() || !matches!(self.link.stage, Stage::Open)
    }

    #[inline]
    fn status(&mut self, queued_bytes: usize) -> SendStatus {
        if queued_bytes > self.shared.config.queue_high_bytes {
            SendStatus::Behind
        } else {
            SendStatus::Flowing
        }
    }
}

/// Also while a service panics: what was sent before is sent.
impl<T> Drop for Conn<'_, T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.end_run();
    }
}

impl<T> fmt::Debug for Conn<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.id)
            .field("queued_bytes", &self.queued_bytes())
            .finish_non_exhaustive()
    }
}
