//! The contract of an asynchronous application.
//!
//! Knows: what a handler is asked and given. Refuses to know: any handler.

use crate::{
    Answer, HandshakeError, HttpReply, Refusal, Remote, Request, Upgrade, conn::opening::Judge,
};

use super::WebSocket;

/// An application: what is done with each connection.
///
/// Any `async Fn(WebSocket)` is one that accepts everybody. Whoever looks at requests implements
/// the trait.
///
/// A handler runs on the thread of its connection: its future need not be `Send`, and must not
/// block. When it ends, the connection is closed with 1000 if it is open still. A panic closes that
/// connection with 1011, is logged, and hurts no other connection.
pub trait Handler: 'static {
    /// What is found out of the request and handed on to [`serve`](Self::serve). `()` if nothing.
    type State: Default;

    /// A client asks to open a connection. The answer may choose a subprotocol and add headers.
    ///
    /// # Errors
    ///
    /// A refusal: the client gets its status, headers and body, and no connection.
    fn on_handshake(
        &self,
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
    /// A refusal; without a method of its own, a handler answers 426 to everything.
    fn on_http(&self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        let _ = (request, peer);
        Err(HandshakeError::UpgradeRequired.into())
    }

    /// The connection is open.
    fn serve(&self, socket: WebSocket, state: Self::State) -> impl Future<Output = ()>;
}

impl<F: AsyncFn(WebSocket) + 'static> Handler for F {
    type State = ();

    fn serve(&self, socket: WebSocket, (): ()) -> impl Future<Output = ()> {
        self(socket)
    }
}

/// A handler, asked about requests.
pub struct Asked<'a, H>(pub &'a H);

impl<H: Handler> Judge for Asked<'_, H> {
    type State = H::State;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<H::State, Refusal> {
        self.0.on_handshake(upgrade, peer, answer)
    }

    fn on_http(&mut self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        self.0.on_http(request, peer)
    }
}
