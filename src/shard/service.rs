//! The contract of an application.
//!
//! Knows: what a service is told, and when. Refuses to know: any service.

use crate::{
    conn::{CloseCause, Conn, ConnId, Remote, Turn, opening::Judge, tally::Tally},
    proto::{
        Message, SendError,
        handshake::{Answer, HandshakeError, HttpReply, Refusal, Request, Upgrade},
        message::Outgoing,
    },
    topics::{Published, Resumed},
};

/// An application: what it does when something happens on one of its connections.
///
/// There is one value for each shard, on the shard's own thread: no locks, no `Send`, no `async`.
/// A call must not block; whoever has to wait for something gives it to another thread and answers
/// through a [`Handle`](crate::Handle).
///
/// A panic in a call closes that connection with 1011, is logged, and hurts no other connection;
/// what the service itself keeps is as the panic left it.
pub trait Service {
    /// What the service keeps for each connection. `()` if nothing.
    type State: Default;

    /// A client asks to open a connection. The answer may choose a subprotocol and add headers.
    ///
    /// # Errors
    ///
    /// A refusal: the client gets its status, headers and body, and no connection. A
    /// [`HandshakeError`] such as `NotFound` or `Forbidden` is turned into one by `?`.
    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<Self::State, Refusal> {
        let _ = (upgrade, peer, answer);
        Ok(Self::State::default())
    }

    /// A plain HTTP request, without an upgrade. The connection is closed after the reply.
    ///
    /// # Errors
    ///
    /// A refusal; without a method of its own, a service answers 426 to everything.
    fn on_http(&mut self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        let _ = (request, peer);
        Err(HandshakeError::UpgradeRequired.into())
    }

    /// The connection is open: the first thing that a service is told of it.
    fn on_open(&mut self, conn: &mut Conn<'_, Self::State>) {
        let _ = conn;
    }

    /// A whole message came.
    fn on_message(&mut self, conn: &mut Conn<'_, Self::State>, message: Message<'_>) {
        let _ = (conn, message);
    }

    /// A ping came, and was answered.
    fn on_ping(&mut self, conn: &mut Conn<'_, Self::State>, payload: &[u8]) {
        let _ = (conn, payload);
    }

    /// A pong came. To a ping that was sent because the peer was silent it is empty.
    fn on_pong(&mut self, conn: &mut Conn<'_, Self::State>, payload: &[u8]) {
        let _ = (conn, payload);
    }

    /// The peer has caught up: its queue was above `queue_high_bytes` and is below
    /// `queue_low_bytes` again.
    fn on_drain(&mut self, conn: &mut Conn<'_, Self::State>) {
        let _ = conn;
    }

    /// A message that was sent through a [`Handle`](crate::Handle) has been dropped on its shard,
    /// and whoever sent it does not know: the connection's queue was full
    /// ([`SendError::QueueFull`]), the connection is closing or gone ([`SendError::Closed`]), or
    /// the peer would not have understood it ([`SendError::Unsupported`]). `id` may be one of which
    /// [`on_close`](Self::on_close) has told.
    fn on_send_failed(&mut self, id: ConnId, error: SendError) {
        let _ = (id, error);
    }

    /// Where the service keeps what passed on a connection, if it does: it is up to date when
    /// [`on_close`](Self::on_close) is called. A service that has none pays nothing for it.
    ///
    /// ```
    /// use ringwire::{CloseCause, Conn, ConnId, Message, Service, Tally, Turn};
    ///
    /// struct Accountant;
    ///
    /// impl Service for Accountant {
    ///     type State = Tally;
    ///
    ///     fn on_message(&mut self, conn: &mut Conn<'_, Tally>, message: Message<'_>) {
    ///         let _ = conn.send(message);
    ///     }
    ///
    ///     fn tally(state: &mut Tally) -> Option<&mut Tally> {
    ///         Some(state)
    ///     }
    ///
    ///     fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, tally: Tally, _: &CloseCause) {
    ///         println!("{id}: {} in, {} out", tally.messages_received, tally.messages_sent);
    ///     }
    /// }
    /// ```
    #[inline]
    fn tally(state: &mut Self::State) -> Option<&mut Tally>
    where
        Self: Sized,
    {
        let _ = state;
        None
    }

    /// A subscription with a wish for earlier messages
    /// ([`subscribe_since`](Conn::subscribe_since)) has begun. They follow, and then those that are
    /// published from now on; what is sent here goes out before them.
    fn on_subscribed(&mut self, conn: &mut Conn<'_, Self::State>, topic: &[u8], resumed: &Resumed) {
        let _ = (conn, topic, resumed);
    }

    /// What a message of a topic looks like to the connections that have asked for it by
    /// [`set_envelopes`](Conn::set_envelopes). Called once on each shard for all of them, and only
    /// where there are some.
    fn envelope<'p>(&mut self, publication: &Published<'p>) -> Outgoing<'p> {
        publication.message.into()
    }

    /// The shard is about to stop: no connection is accepted any more, and those that are open are
    /// closed from now on, at once or one after the other
    /// ([`Drain::spread_ms`](crate::Drain::spread_ms)). What is sent until then still goes out.
    fn on_stop(&mut self) {}

    /// The connection is gone: the last thing that a service is told of it. It is called once for
    /// each connection whose handshake the service accepted, and once for each dialled one; without
    /// an `on_open` before it, when a dialled one came to nothing or a hixie-76 client stopped in
    /// the middle of its handshake. What is to be said to others goes by the turn.
    fn on_close(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnId,
        state: Self::State,
        cause: &CloseCause,
    ) {
        let _ = (turn, id, state, cause);
    }
}

/// A service is asked about requests like anybody else.
impl<S: Service> Judge for S {
    type State = S::State;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<S::State, Refusal> {
        Service::on_handshake(self, upgrade, peer, answer)
    }

    fn on_http(&mut self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        Service::on_http(self, request, peer)
    }
}
