//! Sends every message back, at `/`; only counts them, at `/sink`; and shows a page to browsers.
//!
//! Knows: two paths and a page. Refuses to know: frames, buffers, other connections.

use std::borrow::Cow;

use crate::{
    Answer, CloseCode, Conn, HandshakeError, HttpReply, Message, PeerAddress, Refusal, Request,
    SendError, Service, Upgrade, proto::handshake::FieldError,
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
/// The sink reads and counts. To the text `stats` it answers with what it counted on this
/// connection before, as JSON: `{"messages":2,"payload_bytes":40}`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Route {
    /// Messages come back.
    #[default]
    Echo,
    /// Messages are counted.
    Sink {
        /// Messages so far.
        messages: u64,
        /// Bytes of payload in them.
        payload_bytes: u64,
    },
}

impl Service for Echo {
    type State = Route;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _peer: PeerAddress,
        _answer: &mut Answer,
    ) -> Result<Route, Refusal> {
        match upgrade.request().path() {
            "/" => Ok(Route::Echo),
            "/sink" => Ok(Route::Sink {
                messages: 0,
                payload_bytes: 0,
            }),
            _ => Err(HandshakeError::NotFound.into()),
        }
    }

    fn on_http(&mut self, request: &Request<'_>, _peer: PeerAddress) -> Result<HttpReply, Refusal> {
        if !matches!(request.method(), "GET" | "HEAD") {
            return Err(HandshakeError::MethodNotAllowed.into());
        }
        match request.path() {
            _ if request.announces_body() => Err(HandshakeError::ContentTooLarge.into()),
            "/" => page().map_err(|_| HandshakeError::ServicePanicked.into()),
            "/sink" => Err(HandshakeError::UpgradeRequired.into()),
            _ => Err(HandshakeError::NotFound.into()),
        }
    }

    #[inline]
    fn on_message(&mut self, conn: &mut Conn<'_, Route>, message: Message<'_>) {
        if let Route::Sink {
            messages,
            payload_bytes,
        } = conn.state()
        {
            let stats = format_stats(message, messages, payload_bytes);
            if let Some(stats) = stats {
                let _ = conn.send(stats);
            }
            return;
        }
        // A peer that does not read is not read from, so that its queue cannot fill up; should it
        // all the same, an echo that loses a message silently would be worse than none.
        if conn.send(message) == Err(SendError::QueueFull) {
            let _ = conn.close(CloseCode::TRY_AGAIN_LATER, "the peer reads too slowly");
        }
    }
}

/// Counts a message of the sink, or answers it.
#[inline]
fn format_stats(
    message: Message<'_>,
    messages: &mut u64,
    payload_bytes: &mut u64,
) -> Option<String> {
    if message.payload() == b"stats" && message.text().is_some() {
        return Some(format!(
            "{{\"messages\":{messages},\"payload_bytes\":{payload_bytes}}}"
        ));
    }
    *messages += 1;
    *payload_bytes += message.payload().len() as u64;
    None
}

fn page() -> Result<HttpReply, FieldError> {
    let body = Cow::Borrowed(PAGE.as_bytes());
    let mut reply = HttpReply::new(200, "text/html; charset=utf-8", body)?;
    reply.add_header("Content-Security-Policy", PAGE_POLICY)?;
    reply.add_header("Cache-Control", "no-cache")?;
    Ok(reply)
}
