//! Sends every message back, at `/`, and shows a page to browsers.

use std::borrow::Cow;

use crate::{
    CloseCode, Conn, Message, PeerAddress, SendError, Service,
    proto::handshake::{Answer, FieldError, HandshakeError, HttpReply, Refusal, Request, Upgrade},
};

/// The page: it connects to the echo and shows what goes over the wire.
const PAGE: &str = include_str!("page.html");

/// Nothing from outside, and nothing but what the page itself holds.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
                           script-src 'unsafe-inline'; connect-src 'self' ws: wss:; \
                           img-src data:; base-uri 'none'; form-action 'none'; \
                           frame-ancestors 'none'";

/// An echo at the path `/`, with any query; a page for a plain `GET /`; 404 elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Service for Echo {
    type State = ();

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _peer: PeerAddress,
        _answer: &mut Answer,
    ) -> Result<(), Refusal> {
        match upgrade.request().path() {
            "/" => Ok(()),
            _ => Err(HandshakeError::NotFound.into()),
        }
    }

    fn on_http(&mut self, request: &Request<'_>, _peer: PeerAddress) -> Result<HttpReply, Refusal> {
        if !matches!(request.method(), "GET" | "HEAD") {
            return Err(HandshakeError::MethodNotAllowed.into());
        }
        if request.path() != "/" {
            return Err(HandshakeError::NotFound.into());
        }
        page().map_err(|_| HandshakeError::ServicePanicked.into())
    }

    #[inline]
    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        // A peer that does not read is not read from, so that its queue cannot fill up; should it
        // all the same, an echo that loses a message silently would be worse than none.
        if conn.send(message) == Err(SendError::QueueFull) {
            let _ = conn.close(CloseCode::TRY_AGAIN_LATER, "the peer reads too slowly");
        }
    }
}

fn page() -> Result<HttpReply, FieldError> {
    let body = Cow::Borrowed(PAGE.as_bytes());
    let mut reply = HttpReply::new(200, "text/html; charset=utf-8", body)?;
    reply.add_header("Content-Security-Policy", PAGE_POLICY)?;
    reply.add_header("Cache-Control", "no-cache")?;
    Ok(reply)
}
