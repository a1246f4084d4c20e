//! Ways to a [`WebSocket`] for those without a [`Server`](super::Server).
//!
//! Knows: a stream that somebody accepted, or a URL. Refuses to know: how a connection is opened.

use std::os::fd::OwnedFd;

use super::{
    connection::Connection,
    local::Context,
    opening::{self, OpenError, server_link},
    socket::Socket,
    websocket::WebSocket,
};
use crate::{
    Answer, HandshakeError, HttpReply, Refusal, Remote, Request, Upgrade,
    client::{Dial, DialError},
    conn::opening::Judge,
    tls::ServerTls,
};

/// Answers the opening handshake of a client on a stream that was accepted elsewhere, under the
/// limits of [`Context::current`].
///
/// The stream is any that becomes a descriptor: those of `std::net` and `std::os::unix::net`, or
/// tokio's by `into_std`.
///
/// # Errors
///
/// When it comes to nothing; the client was told why, if it could be.
///
/// # Panics
///
/// As [`Context::new`].
pub async fn accept(stream: impl Into<OwnedFd>) -> Result<WebSocket, OpenError> {
    Context::current()?.accept(stream).open().await
}

/// Opens a connection to a URL (`ws://`, `wss://` or `ws+unix:`), under the limits of
/// [`Context::current`]. A name is resolved on another thread, and its first address is used.
///
/// # Errors
///
/// When the URL cannot be dialled, or the opening handshake comes to nothing.
///
/// # Panics
///
/// As [`Context::new`].
pub async fn connect(url: &str) -> Result<WebSocket, OpenError> {
    // Where nothing can be spawned, that is said and no name resolved.
    let context = Context::current()?;
    let url = url.to_owned();
    let resolved = tokio::task::spawn_blocking(move || Dial::to(&url)).await;
    let dialled: Result<Dial, DialError> = match resolved {
        Ok(dialled) => dialled,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    context.dial(dialled.map_err(OpenError::Dial)?).await
}

/// As [`connect`], with everything that a [`Dial`] can say: subprotocols and compression to offer,
/// headers, TLS, and the address to come from.
///
/// # Errors
///
/// As `connect`.
///
/// # Panics
///
/// As `connect`.
pub async fn dial(dial: Dial) -> Result<WebSocket, OpenError> {
    Context::current()?.dial(dial).await
}

/// A stream whose opening handshake is to be answered.
#[derive(Debug)]
pub struct Accept {
    context: Context,
    stream: OwnedFd,
    tls: Option<ServerTls>,
}

impl Context {
    /// A stream that was accepted elsewhere.
    pub fn accept(&self, stream: impl Into<OwnedFd>) -> Accept {
        Accept {
            context: self.clone(),
            stream: stream.into(),
            tls: None,
        }
    }

    /// As [`dial`], under the limits of this context.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn dial(&self, dial: Dial) -> Result<WebSocket, OpenError> {
        let (connection, input) = opening::dial(&self.local, dial).await?;
        Ok(WebSocket::new(connection, input))
    }
}

impl Accept {
    /// The client speaks TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: &ServerTls) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Answers the opening handshake of anybody.
    ///
    /// # Errors
    ///
    /// When it comes to nothing; the client was told why, if it could be.
    pub async fn open(self) -> Result<WebSocket, OpenError> {
        let (socket, ()) = self.judged(|_, _, _| Ok(())).await?;
        Ok(socket)
    }

    /// As [`open`](Self::open), for those whom `judge` lets in: it may choose a subprotocol and add
    /// headers, and what it returns is handed on.
    ///
    /// # Errors
    ///
    /// As `open`; a client that is refused has got the refusal.
    pub async fn judged<T>(
        self,
        judge: impl FnMut(&Upgrade<'_>, Remote<'_>, &mut Answer) -> Result<T, Refusal>,
    ) -> Result<(WebSocket, T), OpenError> {
        let local = &self.context.local;
        let link = server_link(self.tls.as_ref())?;
        let socket = Socket::new(self.stream)?;
        socket.send_at_once();
        let connection = Connection::new(local, socket, link)?;
        let (input, state) = opening::accept(&connection, &mut Judging(judge)).await?;
        Ok((WebSocket::new(connection, input), state))
    }
}

/// A closure that is asked about opening handshakes; plain requests are answered 426.
struct Judging<F>(F);

impl<T, F> Judge for Judging<F>
where
    F: FnMut(&Upgrade<'_>, Remote<'_>, &mut Answer) -> Result<T, Refusal>,
{
    type State = T;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<T, Refusal> {
        (self.0)(upgrade, peer, answer)
    }

    fn on_http(&mut self, _: &Request<'_>, _: Remote<'_>) -> Result<HttpReply, Refusal> {
        Err(HandshakeError::UpgradeRequired.into())
    }
}
