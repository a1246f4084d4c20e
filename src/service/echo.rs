//! Sends every message back, at `/`; only counts them, at `/sink`; and shows a page to browsers.
//!
//! Knows: two paths and a page. Refuses to know: frames, buffers, other connections.

use std::borrow::Cow;

use crate::{
    Answer, CloseCode, Conn, HandshakeError, HttpReply, Message, MessageKind, Outgoing, Refusal,
    Remote, Request, SendError, Service, Upgrade, proto::handshake::FieldError,
};

/// The page: it connects to the echo and shows what goes over the wire.
const PAGE: &str = include_str!("page.html");

/// Nothing from outside, and nothing but what the page itself holds.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
                           script-src 'unsafe-inline'; connect-src 'self' ws: wss:; \
                           img-src data:; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

/// An echo at the path `/`, with any query; a sink at `/sink`; a page for a plain `GET /`; 404
/// elsewhere.
///
/// With `?encoding=text` the echo answers every message as text, and closes with 1007 if it is not
/// UTF-8; with `?encoding=binary` as binary; without, each as what it was.
///
/// The sink reads and counts. To the text `stats` it answers with what it counted on this
/// connection before, as JSON: `{"messages":2,"payload_bytes":40}`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

/// What an [`Echo`] does with the messages of one connection.
///
/// A service with paths of its own, or with more to keep for a connection, has one in its state and
/// hands messages on:
///
/// ```
/// use ringwire::{Answer, Conn, Message, Refusal, Remote, Service, Upgrade, service::EchoState};
///
/// struct Named;
///
/// #[derive(Default)]
/// struct Client {
///     messages: u64,
///     echo: EchoState,
/// }
///
/// impl Service for Named {
///     type State = Client;
///
///     fn on_handshake(
///         &mut self,
///         upgrade: &Upgrade<'_>,
///         _peer: Remote<'_>,
///         _answer: &mut Answer,
///     ) -> Result<Client, Refusal> {
///         let echo = EchoState::echo(upgrade.request())?;
///         Ok(Client { messages: 0, echo })
///     }
///
///     fn on_message(&mut self, conn: &mut Conn<'_, Client>, message: Message<'_>) {
///         conn.state().messages += 1;
///         EchoState::answer(conn, |client| &mut client.echo, message);
///     }
/// }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EchoState(pub(super) Answering);

/// How messages are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Answering {
    /// They come back.
    #[default]
    Echo,
    /// They come back as this, whatever they were.
    EchoAs(MessageKind),
    /// They are counted. Boxed, so that what echoes does not pay for it while it is idle.
    Sink(Box<Counted>),
}

/// What a sink has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    messages: u64,
    payload_bytes: u64,
}

impl Echo {
    /// The page that connects to the echo at its own path and shows what goes over the wire, for a
    /// plain `GET`.
    ///
    /// # Errors
    ///
    /// A refusal, should it not be possible to write the page.
    pub fn page() -> Result<HttpReply, Refusal> {
        page().map_err(|_| HandshakeError::ServicePanicked.into())
    }
}

impl EchoState {
    /// Messages come back: as what they were, or as `encoding` in the query of the request says.
    ///
    /// # Errors
    ///
    /// A refusal with 400 if that is neither `text` nor `binary`.
    pub fn echo(request: &Request<'_>) -> Result<Self, Refusal> {
        let answering = match request.query_value("encoding").as_deref() {
            None => Answering::Echo,
            Some("binary") => Answering::EchoAs(MessageKind::Binary),
            Some("text") => Answering::EchoAs(MessageKind::Text),
            Some(_) => {
                let sentence = "The encoding in the query is neither text nor binary; send one of \
                                these, or none.\n";
                let refusal = Refusal::new(400, sentence);
                return Err(refusal.unwrap_or_else(|_| HandshakeError::TargetInvalid.into()));
            }
        };
        Ok(Self(answering))
    }

    /// Messages are counted.
    pub fn sink() -> Self {
        Self(Answering::Sink(Box::default()))
    }

    /// Does what is to be done with a message of a connection in whose state `of` finds this.
    #[inline]
    pub fn answer<T>(
        conn: &mut Conn<'_, T>,
        of: impl Fn(&mut T) -> &mut Self,
        message: Message<'_>,
    ) {
        let sent = match &of(conn.state()).0 {
            Answering::Echo => conn.send(message),
            Answering::EchoAs(kind) => {
                let kind = *kind;
                return echo_as(conn, message, kind);
            }
            Answering::Sink(_) => return count(conn, of, message),
        };
        if let Err(error) = sent {
            not_echoed(conn, error);
        }
    }
}

impl Service for Echo {
    type State = EchoState;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _peer: Remote<'_>,
        _answer: &mut Answer,
    ) -> Result<EchoState, Refusal> {
        match upgrade.request().path() {
            "/" => EchoState::echo(upgrade.request()),
            "/sink" => Ok(EchoState::sink()),
            _ => Err(HandshakeError::NotFound.into()),
        }
    }

    fn on_http(&mut self, request: &Request<'_>, _peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        if !matches!(request.method(), "GET" | "HEAD") {
            return Err(HandshakeError::MethodNotAllowed.into());
        }
        match request.path() {
            _ if request.announces_body() => Err(HandshakeError::ContentTooLarge.into()),
            "/" => Self::page(),
            "/sink" => Err(HandshakeError::UpgradeRequired.into()),
            _ => Err(HandshakeError::NotFound.into()),
        }
    }

    #[inline]
    fn on_message(&mut self, conn: &mut Conn<'_, EchoState>, message: Message<'_>) {
        EchoState::answer(conn, |state| state, message);
    }
}

#[inline(never)]
fn echo_as<T>(conn: &mut Conn<'_, T>, message: Message<'_>, kind: MessageKind) {
    let Some(outgoing) = converted(message, kind) else {
        let _ = conn.close(CloseCode::INVALID_PAYLOAD_DATA, NOT_TEXT);
        return;
    };
    if let Err(error) = conn.send(outgoing) {
        not_echoed(conn, error);
    }
}

/// Why a binary message is not answered as text.
pub(super) const NOT_TEXT: &str = "not UTF-8, so that it cannot be answered as text";

/// A message as this kind, if it can be.
pub(super) fn converted(message: Message<'_>, kind: MessageKind) -> Option<Outgoing<'_>> {
    Some(match (kind, message.kind()) {
        (MessageKind::Binary, _) => message.payload().into(),
        (MessageKind::Text, MessageKind::Text) => message.into(),
        (MessageKind::Text, MessageKind::Binary) => {
            simdutf8::basic::from_utf8(message.payload()).ok()?.into()
        }
    })
}

/// An echo that loses a message silently would be worse than none.
#[cold]
fn not_echoed<T>(conn: &mut Conn<'_, T>, error: SendError) {
    if let Some((code, reason)) = why_not(error) {
        let _ = conn.close(code, reason);
    }
}

/// How a connection is closed whose message could not be sent back.
pub(super) fn why_not(error: SendError) -> Option<(CloseCode, &'static str)> {
    Some(match error {
        SendError::Closed => return None,
        // A peer that does not read is not read from, so that its queue hardly ever fills up.
        SendError::QueueFull => (CloseCode::TRY_AGAIN_LATER, "the peer reads too slowly"),
        _ => (
            CloseCode::UNSUPPORTED_DATA,
            "the peer cannot take this kind of message",
        ),
    })
}

/// Counts a message of the sink, or answers it. Apart, so that the echo is short.
#[inline(never)]
fn count<T>(conn: &mut Conn<'_, T>, of: impl Fn(&mut T) -> &mut EchoState, message: Message<'_>) {
    if let Some(stats) = of(conn.state()).count(message) {
        let _ = conn.send(stats);
    }
}

impl EchoState {
    /// Counts a message of the sink. Returns the answer to one that asks.
    pub(super) fn count(&mut self, message: Message<'_>) -> Option<String> {
        let Answering::Sink(counted) = &mut self.0 else {
            return None;
        };
        let Counted {
            messages,
            payload_bytes,
        } = &mut **counted;
        if message.payload() == b"stats" && message.text().is_some() {
            return Some(format!(
                "{{\"messages\":{messages},\"payload_bytes\":{payload_bytes}}}"
            ));
        }
        *messages += 1;
        *payload_bytes += message.payload().len() as u64;
        None
    }
}

fn page() -> Result<HttpReply, FieldError> {
    let body = Cow::Borrowed(PAGE.as_bytes());
    let mut reply = HttpReply::new(200, "text/html; charset=utf-8", body)?;
    reply.add_header("Content-Security-Policy", PAGE_POLICY)?;
    reply.add_header("Cache-Control", "no-cache")?;
    Ok(reply)
}
