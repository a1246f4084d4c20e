//! A WebSocket, whole or in halves.
//!
//! Knows: what an application may do with an open connection. Refuses to know: how it is done.

use std::{
    fmt,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use super::{
    connection::Connection,
    input::{Found, Input},
    pieces::MessagePieces,
};
use crate::{
    CloseCause, CloseCode, ConnId, Message, MessageKind, PeerAddress, SendError, Tally, Version,
    conn::Stage,
    proto::{
        endpoint::Control,
        message::{Outgoing, OutgoingPayload},
    },
};

/// A message that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedMessage {
    kind: MessageKind,
    payload: Bytes,
}

impl OwnedMessage {
    /// Text or binary.
    pub const fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The application's bytes.
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The application's bytes.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// The text, when it is a text message.
    pub fn text(&self) -> Option<&str> {
        Message::new(self.kind, &self.payload).text()
    }
}

impl From<Message<'_>> for OwnedMessage {
    fn from(message: Message<'_>) -> Self {
        Self {
            kind: message.kind(),
            payload: Bytes::copy_from_slice(message.payload()),
        }
    }
}

impl From<OwnedMessage> for Outgoing<'_> {
    fn from(message: OwnedMessage) -> Self {
        Outgoing {
            kind: message.kind,
            payload: OutgoingPayload::Shared(message.payload),
        }
    }
}

/// An open connection.
///
/// Dropping it closes the connection with 1000, unless it is closing already; what was sent before
/// goes out, and the closing handshake goes on without it.
#[derive(Debug)]
pub struct WebSocket {
    reader: Reader,
    writer: Writer,
}

/// The half of a [`WebSocket`] that receives.
///
/// Pings are answered, and the peer's close frame is, while [`next`](Self::next) is awaited. When
/// the reader is dropped, what still comes is thrown away.
pub struct Reader {
    pub(super) connection: Rc<Connection>,
    pub(super) input: Input,
    /// Messages come in pieces, and part of one may have been handed out.
    pub(super) pieces: Pieces,
}

/// How the next message comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// Whole.
    Off,
    /// In pieces, none of which was handed out.
    Wanted,
    /// In pieces, some of which were.
    Begun,
}

/// The half of a [`WebSocket`] that sends. It can be cloned, for tasks of the same thread.
pub struct Writer {
    pub(super) connection: Rc<Connection>,
}

impl WebSocket {
    pub(super) fn new(connection: Rc<Connection>, input: Input) -> Self {
        connection.halves.set(2);
        Self {
            writer: Writer {
                connection: connection.clone(),
            },
            reader: Reader {
                connection,
                input,
                pieces: Pieces::Off,
            },
        }
    }

    /// The next message, or `None` once there will be none: [`cause`](Self::cause) tells why then.
    ///
    /// It lies where it was received, and can be used until the next call. To answer on the same
    /// connection while it is, send with a [`writer`](Self::writer).
    ///
    /// What was sent before leaves at the latest when this waits.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped, in `select!` for example, has taken nothing: the next call goes on
    /// where it was.
    pub async fn next(&mut self) -> Option<Message<'_>> {
        self.reader.next().await
    }

    /// As [`next`](Self::next), with bytes of its own. A message that was put together out of
    /// several receives is not copied for that.
    ///
    /// # Cancel safety
    ///
    /// As `next`.
    pub async fn next_owned(&mut self) -> Option<OwnedMessage> {
        self.reader.next_owned().await
    }

    /// The next message, piece by piece as it comes: see [`Reader::next_in_pieces`].
    pub async fn next_in_pieces(&mut self) -> Option<MessagePieces<'_>> {
        self.reader.next_in_pieces().await
    }

    /// Sends a message: a `&str` or `String` as text, bytes as binary, a received [`Message`] as
    /// what it was.
    ///
    /// It waits while more than `queue_high_bytes` wait for the peer. It does not wait until the
    /// message is sent: that happens before this thread waits for anything else; await
    /// [`flush`](Self::flush) to know.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped before it is ready has sent nothing.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] once the connection is closing, [`SendError::Unsupported`] for binary
    /// to a [hixie-76](crate::proto::hixie) peer that has not sent any, [`SendError::QueueFull`]
    /// when the message would put more than `queue_bytes_max` bytes in the queue.
    pub async fn send<'m>(&self, message: impl Into<Outgoing<'m>>) -> Result<(), SendError> {
        self.writer.send(message).await
    }

    /// As [`send`](Self::send), but the message may wait for a [`flush`](Self::flush), another
    /// `send`, or until [`next`](Self::next) waits: for several messages in a row.
    ///
    /// # Errors
    ///
    /// As `send`.
    pub async fn feed<'m>(&self, message: impl Into<Outgoing<'m>>) -> Result<(), SendError> {
        self.writer.feed(message).await
    }

    /// Waits until the kernel has taken everything.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] when the connection ended before.
    pub async fn flush(&self) -> Result<(), SendError> {
        self.writer.flush().await
    }

    /// Sends a ping of at most 125 bytes (RFC 6455 section 5.5.2).
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`], [`SendError::Closed`], [`SendError::Unsupported`].
    pub fn ping(&self, payload: &[u8]) -> Result<(), SendError> {
        self.writer.ping(payload)
    }

    /// Closes the connection, with a code and a reason of at most 123 bytes, and waits until the
    /// peer has answered, or `close_timeout_ms` are over. Messages that come meanwhile are thrown
    /// away.
    ///
    /// # Cancel safety
    ///
    /// The closing handshake begins with the first poll; when this is dropped, it goes on.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] for a longer reason, [`SendError::Closed`] when it is closing
    /// already.
    pub async fn close(&mut self, code: CloseCode, reason: &str) -> Result<(), SendError> {
        self.writer.close(code, reason)?;
        while self.next().await.is_some() {}
        Ok(())
    }

    /// Its halves, for two tasks of the same thread. The connection closes with the last of them.
    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// One more sending half, so that messages can be answered while they are borrowed.
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }

    /// Why the connection ended, once it does.
    pub fn cause(&self) -> Option<CloseCause> {
        self.reader.cause()
    }

    /// Who is at the other end. Behind a proxy this is the proxy.
    pub fn peer_address(&self) -> PeerAddress {
        self.writer.peer_address()
    }

    /// Its name, for [`Handle::close`](super::Handle::close) or a log.
    pub fn id(&self) -> ConnId {
        self.reader.connection.id()
    }

    /// Something that knows what passes on the connection from here on, and how it ends, when the
    /// socket is gone.
    pub fn observer(&self) -> Observer {
        // From here on it is counted.
        let _ = self.reader.connection.tally.get_or_init(Box::default);
        Observer {
            connection: self.reader.connection.clone(),
        }
    }

    /// The subprotocol that was agreed on.
    pub fn subprotocol(&self) -> Option<&str> {
        self.reader.connection.subprotocol.get().map(|name| &**name)
    }

    /// Which protocol the peer speaks.
    pub fn version(&self) -> Version {
        self.reader.connection.link.borrow().endpoint.version()
    }

    /// Looks at the TLS of this connection: the peer's certificate, if it has shown one, the
    /// version and the cipher suite. `None` on a plain connection.
    ///
    /// # Panics
    ///
    /// When `look` sends on this connection, receives from it or closes it: it is lent out.
    #[cfg(feature = "tls")]
    pub fn with_tls<T>(&self, look: impl FnOnce(&crate::tls::Session) -> T) -> Option<T> {
        let link = self.reader.connection.link.borrow();
        link.rare.tls().map(|tls| look(tls.session()))
    }

    /// Waits for a message and sends it back. Returns whether there was one.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub(crate) async fn echo_next(&mut self) -> Result<bool, SendError> {
        let Self { reader, writer } = self;
        let Some(found) = poll_fn(|context| reader.poll_whole(context)).await else {
            return Ok(false);
        };
        match found {
            Found::Held(kind) => {
                let connection = &writer.connection;
                poll_fn(|context| connection.poll_room(context)).await?;
                connection.send_held(&mut reader.input, kind)?;
            }
            Found::Received { .. } => writer.send(reader.input.message(&found)).await?,
        }
        Ok(true)
    }

    pub(super) fn reader_mut(&mut self) -> &mut Reader {
        &mut self.reader
    }

    pub(super) fn writer_mut(&mut self) -> &mut Writer {
        &mut self.writer
    }
}

impl Reader {
    /// As [`WebSocket::next`].
    pub async fn next(&mut self) -> Option<Message<'_>> {
        let found = poll_fn(|context| self.poll_whole(context)).await?;
        Some(self.input.message(&found))
    }

    /// The next whole message, after what is left of one in pieces.
    pub(super) fn poll_whole(&mut self, context: &mut Context<'_>) -> Poll<Option<Found>> {
        loop {
            let pieces = self.pieces;
            if pieces == Pieces::Wanted || pieces == Pieces::Begun && !self.is_in_message() {
                self.end_pieces();
            }
            let found = ready!(self.input.poll_event(&self.connection, context));
            if self.pieces == Pieces::Off || found.is_none() {
                return Poll::Ready(found);
            }
        }
    }

    /// The next message, piece by piece as it comes: for messages that are too long to be put
    /// together. `message_bytes_max` does not apply to it. `None` once there will be none.
    ///
    /// When what this returns is dropped before its end, the rest of the message is thrown away. A
    /// compressed message comes in one piece, and has to be within the limits.
    ///
    /// # Cancel safety
    ///
    /// As [`next`](Self::next).
    pub async fn next_in_pieces(&mut self) -> Option<MessagePieces<'_>> {
        MessagePieces::begin(self).await
    }

    pub(super) fn is_in_message(&self) -> bool {
        self.connection.link.borrow().endpoint.is_in_message()
    }

    pub(super) fn end_pieces(&mut self) {
        self.pieces = Pieces::Off;
        let link = &mut *self.connection.link.borrow_mut();
        link.endpoint.hand_out_pieces(false);
    }

    /// As [`WebSocket::next_owned`].
    pub async fn next_owned(&mut self) -> Option<OwnedMessage> {
        let found = poll_fn(|context| self.poll_whole(context)).await?;
        Some(self.owned(&found))
    }

    pub(super) fn owned(&mut self, found: &Found) -> OwnedMessage {
        let Found::Held(kind) = *found else {
            return self.input.message(found).into();
        };
        let mut state = self.connection.local.state.borrow_mut();
        let payload = match self.input.take_held() {
            Some(buffer) => state.shared.pool.give_away(buffer),
            None => Bytes::new(),
        };
        OwnedMessage { kind, payload }
    }

    /// As [`WebSocket::cause`].
    pub fn cause(&self) -> Option<CloseCause> {
        self.connection.cause()
    }
}

impl Writer {
    /// As [`WebSocket::send`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn send<'m>(&self, message: impl Into<Outgoing<'m>>) -> Result<(), SendError> {
        let mut message = Some(message.into());
        poll_fn(|context| self.connection.poll_send(context, &mut message, true)).await
    }

    /// As [`WebSocket::feed`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn feed<'m>(&self, message: impl Into<Outgoing<'m>>) -> Result<(), SendError> {
        let mut message = Some(message.into());
        poll_fn(|context| self.connection.poll_send(context, &mut message, false)).await
    }

    /// As [`WebSocket::flush`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn flush(&self) -> Result<(), SendError> {
        poll_fn(|context| self.connection.poll_flush(context)).await
    }

    /// As [`WebSocket::ping`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn ping(&self, payload: &[u8]) -> Result<(), SendError> {
        self.connection.control(Control::Ping, payload)
    }

    /// Begins to close the connection, with a code and a reason of at most 123 bytes. The reader
    /// hands out no more messages, and comes to its end when the peer has answered, or
    /// `close_timeout_ms` are over.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] for a longer reason, [`SendError::Closed`] when it is closing
    /// already.
    pub fn close(&self, code: CloseCode, reason: &str) -> Result<(), SendError> {
        let cause = CloseCause::Application(code);
        self.connection.close(code, reason, cause)
    }

    /// Whether nothing can be sent any more.
    pub fn is_closing(&self) -> bool {
        !matches!(self.connection.link.borrow().stage, Stage::Open)
    }

    /// Bytes sent that the kernel has not taken yet.
    pub fn queued_bytes(&self) -> usize {
        self.connection.link.borrow().queued_bytes()
    }

    /// As [`WebSocket::peer_address`].
    pub fn peer_address(&self) -> PeerAddress {
        self.connection.socket.peer_address()
    }
}

/// What is known of a connection whose [`WebSocket`] may be gone: for a log. It does not keep the
/// connection open, but its place and its descriptor are free only when this is dropped.
#[derive(Debug)]
pub struct Observer {
    connection: Rc<Connection>,
}

impl Observer {
    /// The connection's name.
    pub fn id(&self) -> ConnId {
        self.connection.id()
    }

    /// What has passed since the first observer was made.
    pub fn tally(&self) -> Tally {
        let tally = self.connection.tally.get();
        tally.map_or_else(Tally::default, |tally| tally.get())
    }

    /// Why it ended, once it does.
    pub fn cause(&self) -> Option<CloseCause> {
        self.connection.cause()
    }
}

impl Clone for Writer {
    fn clone(&self) -> Self {
        let halves = &self.connection.halves;
        halves.set(halves.get() + 1);
        Self {
            connection: self.connection.clone(),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.connection
            .link
            .borrow_mut()
            .endpoint
            .discard_messages();
        // What was received before is not lost to the protocol: a close frame may be in it.
        while self.input.next(&self.connection).is_some() || self.input.has_rest(&self.connection) {
            self.connection.share.renew();
        }
        self.input.give_back(&self.connection);
        if self.connection.is_receiving() {
            self.connection.leave();
        }
        self.connection.drop_half();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.connection.drop_half();
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("queued_bytes", &self.queued_bytes())
            .finish_non_exhaustive()
    }
}
