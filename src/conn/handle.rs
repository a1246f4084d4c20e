//! What a service may do to the connection it is called for.
//!
//! Knows: one connection, for the length of one call. Refuses to know: sockets, rings, other
//! connections.

use std::fmt;

use super::{CloseCause, ConnId, Link, Shared, Stage};
use crate::{
    proto::{CloseCode, SendError, Version, endpoint::Control, message::Outgoing},
    ring::Time,
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
        }
    }

    #[inline(always)]
    pub(crate) fn count_received(&mut self, payload_len: usize) {
        self.shared.counts.messages_received += 1;
        self.shared.counts.payload_bytes_received += payload_len as u64;
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
        let payload_len = message.payload_len();
        let queued = self.link.queued_bytes();
        if queued.saturating_add(payload_len) > self.shared.config.queue_bytes_max {
            return Err(SendError::QueueFull);
        }
        let (endpoint, mut outbox) = self.link.endpoint_and_outbox(&mut self.shared.arena);
        if !endpoint.send_short(&message, &mut outbox) {
            self.send_long(message)?;
        }
        self.shared.counts.messages_sent += 1;
        self.shared.counts.payload_bytes_sent += payload_len as u64;
        Ok(self.status(queued + payload_len))
    }

    #[inline(never)]
    fn send_long(&mut self, message: Outgoing<'_>) -> Result<(), SendError> {
        let Self { link, shared, .. } = self;
        if let Some(frame) = link.endpoint.as_sent(&message)
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
        let queued = self.link.queued_bytes();
        if queued.saturating_add(payload_len) > self.shared.config.queue_bytes_max {
            return Err(SendError::QueueFull);
        }
        let (endpoint, mut context) = self.link.split(self.shared);
        endpoint.send_fragmented(&message, fragment_bytes, &mut context)?;
        self.shared.counts.messages_sent += 1;
        self.shared.counts.payload_bytes_sent += payload_len as u64;
        Ok(self.status(self.link.queued_bytes()))
    }

    /// When this turn of the shard began: the time at which what it received was taken from the
    /// kernel.
    #[inline]
    pub const fn now(&self) -> Time {
        self.shared.now
    }

    /// Bytes sent that the peer has not taken yet, headers included.
    pub fn queued_bytes(&self) -> usize {
        self.link.queued_bytes()
    }

    /// Whether a close frame was sent or received: nothing can be sent any more.
    pub fn is_closing(&self) -> bool {
        self.link.endpoint.is_close_sent() || !matches!(self.link.stage, Stage::Open)
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

impl<T> fmt::Debug for Conn<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn")
            .field("id", &self.id)
            .field("queued_bytes", &self.queued_bytes())
            .finish_non_exhaustive()
    }
}
