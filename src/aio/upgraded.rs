//! Connections whose opening handshake a server of another make has read and answered.
//!
//! Knows: what an answer has to say, and that frames follow it. Refuses to know: whose server it
//! is, and how it hands its stream over.

use std::os::fd::OwnedFd;

use super::{
    connection::Connection, local::Context, opening::OpenError, opening::take_over, socket::Socket,
    websocket::WebSocket,
};
use crate::{
    Config, HandshakeError,
    conn::{Link, Opening, Stage},
    proto::{
        Role,
        deflate::{Agreed, Offer, negotiation::offers},
        handshake::{FieldError, Proof, Request, check_upgrade},
    },
};

/// An opening handshake that a server of another make has read, such as hyper or axum, with what to
/// answer to it. Once that was sent, it becomes a [`WebSocket`], out of the stream that the server
/// lets go of.
///
/// It may move between threads: requests are answered on any thread of a web server, and
/// connections live on the one that [`open`](Self::open)s them.
///
/// ```
/// use ringwire::aio::Upgraded;
///
/// // Of an http::Request:
/// // request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
/// let headers = [
///     ("host", &b"example.org"[..]),
///     ("connection", b"Upgrade"),
///     ("upgrade", b"websocket"),
///     ("sec-websocket-version", b"13"),
///     ("sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
/// ];
/// let upgraded = Upgraded::answering("GET", "/chat", headers)?;
/// // What goes into the response, whose status is 101.
/// let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned());
/// assert!(upgraded.headers().contains(&accept));
/// # Ok::<(), ringwire::HandshakeError>(())
/// ```
///
/// `examples/upgraded_axum.rs` and `examples/upgraded_hyper.rs` are whole servers.
#[derive(Clone, Debug)]
pub struct Upgraded {
    accept_key: [u8; 28],
    offered: Vec<Box<str>>,
    subprotocol: Option<Box<str>>,
    offer: Option<Offer>,
    agreed: Option<Agreed>,
}

impl Upgraded {
    /// What to answer to a request of HTTP/1.1 with this method, target and headers, in the order
    /// in which they came. It is checked as any that this library reads by itself (RFC 6455 section
    /// 4.2.1).
    ///
    /// # Errors
    ///
    /// Why it is no opening handshake. The error has the status, headers and body of the reply.
    pub fn answering<'h>(
        method: &str,
        target: &str,
        headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    ) -> Result<Self, HandshakeError> {
        let mut head = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
        for (name, value) in headers {
            if name.contains(['\r', '\n']) || value.iter().any(|byte| b"\r\n".contains(byte)) {
                // It would be another header here than there.
                return Err(HandshakeError::ControlCharacter);
            }
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        let request = Request::parse(&head)?;
        // Which also says of a request without Upgrade what it lacks.
        let upgrade = check_upgrade(&request)?;
        let Proof::AcceptKey(accept_key) = upgrade.proof() else {
            return Err(HandshakeError::VersionUnsupported);
        };
        Ok(Self {
            accept_key,
            offered: upgrade.subprotocols().map(Box::from).collect(),
            subprotocol: None,
            offer: offers(upgrade.extensions()).next(),
            agreed: None,
        })
    }

    /// The subprotocols that the client offers, most wanted first.
    pub fn subprotocols(&self) -> impl Iterator<Item = &str> {
        self.offered.iter().map(|name| &**name)
    }

    /// Speaks the subprotocol `name` on this connection; a later choice replaces an earlier one.
    ///
    /// # Errors
    ///
    /// [`FieldError::SubprotocolNotOffered`] if the client did not offer it in exactly this
    /// spelling (RFC 6455 section 4.2.2).
    pub fn choose_subprotocol(&mut self, name: &str) -> Result<(), FieldError> {
        if !self.offered.iter().any(|offered| **offered == *name) {
            return Err(FieldError::SubprotocolNotOffered);
        }
        self.subprotocol = Some(name.into());
        Ok(())
    }

    /// Agrees to compression (RFC 7692) if the client offers it and these settings want it. They
    /// are those of the context that the connection is opened in.
    pub fn compress(&mut self, config: &Config) {
        let offer = self.offer.filter(|_| config.compress);
        self.agreed = offer.map(|offer| offer.agree(&config.deflate_terms()));
    }

    /// The headers of the response, whose status is 101 (Switching Protocols).
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut headers = vec![
            ("connection", "Upgrade".to_owned()),
            ("upgrade", "websocket".to_owned()),
            ("sec-websocket-accept", text(&self.accept_key)),
        ];
        if let Some(name) = &self.subprotocol {
            headers.push(("sec-websocket-protocol", name.to_string()));
        }
        if let Some(agreed) = &self.agreed {
            let mut value = Vec::new();
            agreed.encode(&mut value);
            headers.push(("sec-websocket-extensions", text(&value)));
        }
        headers
    }

    /// The connection, in [`Context::current`]. `stream` is a socket that becomes a descriptor:
    /// tokio's by `into_std`. `read` is what the other server has read of it behind the request.
    ///
    /// The response has to be on its way: what is sent here follows it.
    ///
    /// # Errors
    ///
    /// When nothing on this thread could run the connection's tasks, there is no place for it, or
    /// the stream cannot be waited for.
    ///
    /// # Panics
    ///
    /// As [`Context::new`].
    pub fn open(self, stream: impl Into<OwnedFd>, read: &[u8]) -> Result<WebSocket, OpenError> {
        self.open_in(&Context::current()?, stream, read)
    }

    /// As [`open`](Self::open), under the limits of this context.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # Panics
    ///
    /// As there.
    pub fn open_in(
        self,
        context: &Context,
        stream: impl Into<OwnedFd>,
        read: &[u8],
    ) -> Result<WebSocket, OpenError> {
        let link = Link::new(Role::Server, Stage::Opening(Opening::of_server()));
        let socket = Socket::new(stream.into())?;
        socket.send_at_once();
        let connection = Connection::new(&context.local, socket, link)?;
        let input = take_over(&connection, self.subprotocol.as_deref(), self.agreed, read);
        Ok(WebSocket::new(connection, input))
    }
}
