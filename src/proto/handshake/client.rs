//! The client's half of the opening handshake: where to connect, what to send, what to accept.
//!
//! Knows WebSocket URLs (RFC 6455 section 3), the request of section 4.1 and every reason of that
//! section to fail the connection. Refuses to know name resolution, sockets, TLS and randomness:
//! the nonce is the caller's, and must be fresh and unpredictable for each connection.
//!
//! ```text
//!  WsUrl --> ClientRequest --encode(nonce)--> request head, and the accept key to expect
//!                  |                                             |
//!  response head --+----- check_response <-----------------------+
//!                              |
//!                   ClientAccepted | ClientHandshakeError
//! ```

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::HandshakeError;
use super::accept_key::{ACCEPT_KEY_LEN, accept_key};
use super::head::{HeadScanner, Headers, Occurrence, is_token};
use super::request::{Authority, KEY_LEN};
use super::response::{FieldError, Fields, push_field};
use crate::proto::deflate::{
    Agreed, Offer,
    negotiation::{AnswerError, check_answer},
};

/// The longest path of a Unix socket: `sun_path` of unix(7) is 108 bytes with its final NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How the connection below a WebSocket is made.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    /// `ws`: TCP.
    Ws,
    /// `ws+unix`: a Unix stream socket, named by its path. Not of RFC 6455; the form is the one
    /// that Node's `ws` package made common.
    WsUnix,
    /// `wss`: TLS over TCP.
    Wss,
}

/// A WebSocket URL (RFC 6455 section 3), checked and taken apart.
///
/// `ws://host[:port][/path][?query]`, `wss://...` likewise, or
/// `ws+unix:/path/to.sock[:/path[?query]]`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct WsUrl {
    scheme: Scheme,
    /// Without brackets; of a Unix socket, its path.
    host: String,
    port: u16,
    resource_name: String,
}

/// Why a text is not a WebSocket URL that can be connected to.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum WsUrlError {
    /// A `#` (RFC 6455 section 3).
    Fragment,
    /// Not a host name, IPv4 address or bracketed IPv6 address.
    HostInvalid,
    /// Nothing between `//` and the path.
    HostMissing,
    /// Not a number of 1 to 65535.
    PortInvalid,
    /// White space, a control character or a character outside ASCII in the path or query.
    ResourceInvalid,
    /// None of `ws`, `wss` and `ws+unix`.
    SchemeInvalid,
    /// The path of the Unix socket is missing, relative or holds a NUL.
    SocketPathInvalid,
    /// The path of the Unix socket is longer than [`SOCKET_PATH_BYTES_MAX`].
    SocketPathTooLong,
    /// `user@` or `user:password@` (RFC 6455 section 3 has no user information).
    UserInformation,
}

impl fmt::Display for WsUrlError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            WsUrlError::Fragment => {
                "a WebSocket URL has no fragment; remove the \"#\" or write it as %23"
            }
            WsUrlError::HostInvalid => {
                "the host is not a name, an IPv4 address or an IPv6 address in brackets; \
                 names outside ASCII must be written in Punycode (xn--)"
            }
            WsUrlError::HostMissing => "the URL names no host; write ws://host/path",
            WsUrlError::PortInvalid => "the port is not a number from 1 to 65535",
            WsUrlError::ResourceInvalid => {
                "the path or query holds a space, a control character or a character outside \
                 ASCII; percent-encode it"
            }
            WsUrlError::SchemeInvalid => "the URL must begin with ws://, wss:// or ws+unix:/",
            WsUrlError::SocketPathInvalid => {
                "the path of the Unix socket must be absolute and without NUL, \
                 as in ws+unix:/run/app.sock:/path"
            }
            WsUrlError::SocketPathTooLong => {
                "the path of the Unix socket is longer than 107 bytes, the kernel's limit"
            }
            WsUrlError::UserInformation => {
                "a WebSocket URL has no user or password; send an Authorization header instead"
            }
        })
    }
}

impl Error for WsUrlError {}

impl WsUrl {
    /// Reads a URL.
    ///
    /// # Errors
    ///
    /// [`WsUrlError`] with the first part that is wrong, from left to right, except that a fragment
    /// is reported before anything but the scheme.
    pub fn parse(text: &str) -> Result<WsUrl, WsUrlError> {
        let (scheme, rest) = text.split_once(':').ok_or(WsUrlError::SchemeInvalid)?;
        let scheme = match scheme {
            _ if scheme.eq_ignore_ascii_case("ws") => Scheme::Ws,
            _ if scheme.eq_ignore_ascii_case("wss") => Scheme::Wss,
            _ if scheme.eq_ignore_ascii_case("ws+unix") => Scheme::WsUnix,
            _ => return Err(WsUrlError::SchemeInvalid),
        };
        if rest.contains('#') {
            return Err(WsUrlError::Fragment);
        }
        if scheme == Scheme::WsUnix {
            return WsUrl::parse_unix(rest);
        }
        let rest = rest.strip_prefix("//").ok_or(WsUrlError::SchemeInvalid)?;
        let (authority, resource) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(WsUrlError::UserInformation);
        }
        let (host, port) = match authority.rsplit_once(':') {
            // The colons inside the brackets of an IPv6 address separate no port.
            Some((host, port)) if !port.contains(']') => (host, port),
            _ => (authority, ""),
        };
        if host.is_empty() {
            return Err(WsUrlError::HostMissing);
        }
        if host.contains('%')
            || Authority::parse(host).is_none_or(|authority| authority.host != host)
        {
            return Err(WsUrlError::HostInvalid);
        }
        let port = match port {
            "" => scheme.default_port(),
            digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
                .parse()
                .ok()
                .filter(|&port| port > 0)
                .ok_or(WsUrlError::PortInvalid)?,
            _ => return Err(WsUrlError::PortInvalid),
        };
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        Ok(WsUrl {
            scheme,
            host,
            port,
            resource_name: resource_name(resource)?,
        })
    }

    fn parse_unix(rest: &str) -> Result<WsUrl, WsUrlError> {
        // An empty authority, as in ws+unix:///run/app.sock, says the same as none.
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (socket_path, resource) = rest.split_once(':').unwrap_or((rest, ""));
        if !socket_path.starts_with('/') || socket_path.contains('\0') {
            return Err(WsUrlError::SocketPathInvalid);
        }
        if socket_path.len() > SOCKET_PATH_BYTES_MAX {
            return Err(WsUrlError::SocketPathTooLong);
        }
        Ok(WsUrl {
            scheme: Scheme::WsUnix,
            host: socket_path.to_owned(),
            port: 0,
            resource_name: resource_name(resource)?,
        })
    }

    /// The scheme.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host to resolve and connect to, and for TLS the name the certificate must have; an IPv6
    /// address without brackets. `None` for a Unix socket.
    pub fn host(&self) -> Option<&str> {
        (self.scheme != Scheme::WsUnix).then_some(&*self.host)
    }

    /// The TCP port, the scheme's default (80, 443) where the URL names none. `None` for a Unix
    /// socket.
    pub fn port(&self) -> Option<u16> {
        (self.scheme != Scheme::WsUnix).then_some(self.port)
    }

    /// The path of the Unix socket, `None` for TCP.
    pub fn socket_path(&self) -> Option<&str> {
        (self.scheme == Scheme::WsUnix).then_some(&*self.host)
    }

    /// The path and query: the "resource name" of RFC 6455 section 3, never empty.
    pub fn resource_name(&self) -> &str {
        &self.resource_name
    }

    /// Appends the value of the `Host` header: the port only where it is not the default (RFC 6455
    /// section 4.1, item 4), `localhost` for a Unix socket.
    fn push_host(&self, out: &mut Vec<u8>) {
        if self.scheme == Scheme::WsUnix {
            out.extend_from_slice(b"localhost");
            return;
        }
        let is_ipv6 = self.host.contains(':');
        if is_ipv6 {
            out.push(b'[');
        }
        out.extend_from_slice(self.host.as_bytes());
        if is_ipv6 {
            out.push(b']');
        }
        if self.port != self.scheme.default_port() {
            out.extend_from_slice(format!(":{}", self.port).as_bytes());
        }
    }
}

impl FromStr for WsUrl {
    type Err = WsUrlError;

    fn from_str(text: &str) -> Result<WsUrl, WsUrlError> {
        WsUrl::parse(text)
    }
}

impl fmt::Display for WsUrl {
    /// The URL in its shortest form: scheme in lower case, no default port.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut host = Vec::new();
        self.push_host(&mut host);
        let host = String::from_utf8_lossy(&host);
        match self.scheme {
            Scheme::Ws => write!(formatter, "ws://{host}{}", self.resource_name),
            Scheme::Wss => write!(formatter, "wss://{host}{}", self.resource_name),
            Scheme::WsUnix => {
                // Two slashes at the front of the path would be read as an empty authority.
                let authority = if self.host.starts_with("//") {
                    "//"
                } else {
                    ""
                };
                let (path, resource_name) = (&self.host, &self.resource_name);
                write!(formatter, "ws+unix:{authority}{path}:{resource_name}")
            }
        }
    }
}

impl Scheme {
    /// The port of a URL that names none (RFC 6455 section 3); 0 for a Unix socket, which has none.
    const fn default_port(self) -> u16 {
        match self {
            Scheme::Ws => 80,
            Scheme::WsUnix => 0,
            Scheme::Wss => 443,
        }
    }
}

fn resource_name(resource: &str) -> Result<String, WsUrlError> {
    if !resource.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(WsUrlError::ResourceInvalid);
    }
    match resource.as_bytes().first() {
        None => Ok("/".to_owned()),
        Some(b'/') => Ok(resource.to_owned()),
        Some(b'?') => Ok(format!("/{resource}")),
        Some(_) => Err(WsUrlError::ResourceInvalid),
    }
}

/// The opening handshake a client sends; one value serves any number of connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientRequest {
    url: WsUrl,
    host: Option<String>,
    origin: Option<String>,
    subprotocols: Vec<String>,
    offers: Vec<Offer>,
    fields: Fields,
}

impl ClientRequest {
    /// A handshake for `url` without origin, subprotocols or further headers.
    pub const fn new(url: WsUrl) -> ClientRequest {
        ClientRequest {
            url,
            host: None,
            origin: None,
            subprotocols: Vec::new(),
            offers: Vec::new(),
            fields: Fields::new(),
        }
    }

    /// The URL.
    pub const fn url(&self) -> &WsUrl {
        &self.url
    }

    /// Sends this `Host` instead of the URL's, for a server that is reached by its address or
    /// through a tunnel. TLS still asks for the URL's host.
    ///
    /// # Errors
    ///
    /// [`FieldError::HeaderValueInvalid`] unless it is a host with or without a port.
    pub fn set_host(&mut self, host: &str) -> Result<(), FieldError> {
        if Authority::parse(host).is_none() {
            return Err(FieldError::HeaderValueInvalid);
        }
        self.host = Some(host.to_owned());
        Ok(())
    }

    /// Sends `Origin`, which a browser must and other clients may (RFC 6455 section 4.1, item 8).
    ///
    /// # Errors
    ///
    /// [`FieldError::HeaderValueInvalid`] unless it is visible ASCII and not empty.
    pub fn set_origin(&mut self, origin: &str) -> Result<(), FieldError> {
        if origin.is_empty() || !origin.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(FieldError::HeaderValueInvalid);
        }
        self.origin = Some(origin.to_owned());
        Ok(())
    }

    /// Offers a subprotocol, less wanted than those offered before (RFC 6455 section 4.1, item 10).
    ///
    /// # Errors
    ///
    /// [`FieldError::SubprotocolInvalid`] unless it is a token,
    /// [`FieldError::SubprotocolRepeated`] if it is offered already.
    pub fn offer_subprotocol(&mut self, name: &str) -> Result<(), FieldError> {
        if !is_token(name.as_bytes()) {
            return Err(FieldError::SubprotocolInvalid);
        }
        if self.subprotocols.iter().any(|offered| offered == name) {
            return Err(FieldError::SubprotocolRepeated);
        }
        self.subprotocols.push(name.to_owned());
        Ok(())
    }

    /// Offers compression (permessage-deflate, RFC 7692), less wanted than what was offered before.
    ///
    /// # Errors
    ///
    /// [`FieldError::WindowBitsOutOfRange`] unless windows have from 8 to 15 bits.
    pub fn offer_compression(&mut self, offer: Offer) -> Result<(), FieldError> {
        if !offer.is_valid() {
            return Err(FieldError::WindowBitsOutOfRange);
        }
        self.offers.push(offer);
        Ok(())
    }

    /// Adds a header, such as `Authorization` or `Cookie`.
    ///
    /// # Errors
    ///
    /// [`FieldError`] if the name is no token, the value could end its line, or the client writes
    /// this header itself: `Connection`, `Content-Length`, `Host`, `Origin`, `Sec-WebSocket-*`,
    /// `Trailer`, `Transfer-Encoding`, `Upgrade`.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), FieldError> {
        self.fields.add(name, value, CLIENT_RESERVED)
    }

    /// Appends the request head for one connection and returns the `Sec-WebSocket-Accept` value to
    /// expect. `nonce` must be drawn at random for each connection (RFC 6455 section 4.1, item 7).
    pub fn encode(&self, nonce: [u8; 16], out: &mut Vec<u8>) -> [u8; ACCEPT_KEY_LEN] {
        let mut key = [0; KEY_LEN];
        let written = STANDARD.encode_slice(nonce, &mut key);
        debug_assert_eq!(written, Ok(KEY_LEN), "16 bytes are 24 in base64");

        out.reserve(256 + self.url.resource_name.len() + self.fields.lines.len());
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.url.resource_name.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        match &self.host {
            Some(host) => out.extend_from_slice(host.as_bytes()),
            None => self.url.push_host(out),
        }
        out.extend_from_slice(
            b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n",
        );
        push_field(out, "Sec-WebSocket-Key", &key);
        if let Some(origin) = &self.origin {
            push_field(out, "Origin", origin.as_bytes());
        }
        if !self.subprotocols.is_empty() {
            push_field(
                out,
                "Sec-WebSocket-Protocol",
                self.subprotocols.join(", ").as_bytes(),
            );
        }
        for (index, offer) in self.offers.iter().enumerate() {
            let before: &[u8] = match index {
                0 => b"Sec-WebSocket-Extensions: ",
                _ => b", ",
            };
            out.extend_from_slice(before);
            offer.encode(out);
        }
        if !self.offers.is_empty() {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&self.fields.lines);
        out.extend_from_slice(b"\r\n");
        accept_key(&key)
    }

    /// Checks the server's reply as RFC 6455 section 4.1 demands, and a little more strictly: a
    /// header of the handshake that is repeated fails it as well. `head` is what a [`HeadScanner`]
    /// found complete; `expected_accept` is what [`encode`](Self::encode) returned.
    ///
    /// # Errors
    ///
    /// The first reason to fail the connection. After [`ClientHandshakeError::Status`] the head is
    /// well formed, so [`Response::parse`] reads it, and what follows it is the server's
    /// explanation.
    pub fn check_response<'a>(
        &self,
        head: &'a [u8],
        expected_accept: &[u8; ACCEPT_KEY_LEN],
    ) -> Result<ClientAccepted<'a>, ClientHandshakeError> {
        let response = Response::parse(head)?;
        if response.status != 101 {
            return Err(ClientHandshakeError::Status(response.status));
        }
        if !response.is_http11 {
            return Err(ClientHandshakeError::HttpVersionUnsupported);
        }
        let headers = &response.headers;
        match headers.only("upgrade") {
            Occurrence::Once(value) if value.eq_ignore_ascii_case(b"websocket") => {}
            _ => return Err(ClientHandshakeError::UpgradeInvalid),
        }
        if !headers.list_contains("connection", "upgrade") {
            return Err(ClientHandshakeError::ConnectionWithoutUpgrade);
        }
        match headers.only("sec-websocket-accept") {
            Occurrence::Once(value) if value == expected_accept => {}
            Occurrence::Missing => return Err(ClientHandshakeError::AcceptMissing),
            _ => return Err(ClientHandshakeError::AcceptMismatch),
        }
        let answer = headers.all("sec-websocket-extensions");
        let deflate = check_answer(answer, &self.offers).map_err(|error| match error {
            AnswerError::Malformed => ClientHandshakeError::ExtensionInvalid,
            AnswerError::NotOffered => ClientHandshakeError::ExtensionNotOffered,
        })?;
        let subprotocol = match headers.only("sec-websocket-protocol") {
            Occurrence::Missing => None,
            Occurrence::Repeated => return Err(ClientHandshakeError::SubprotocolRepeated),
            Occurrence::Once(value) => Some(
                str::from_utf8(value)
                    .ok()
                    .filter(|chosen| self.subprotocols.iter().any(|offered| offered == chosen))
                    .ok_or(ClientHandshakeError::SubprotocolNotOffered)?,
            ),
        };
        Ok(ClientAccepted {
            deflate,
            subprotocol,
            response,
        })
    }
}

/// What [`ClientRequest::add_header`] lists.
const CLIENT_RESERVED: &[&str] = &[
    "Connection",
    "Content-Length",
    "Host",
    "Origin",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

/// A response head that is well formed, borrowed from the bytes it arrived in.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    is_http11: bool,
    status: u16,
    reason_phrase: &'a str,
    headers: Headers<'a>,
}

impl<'a> Response<'a> {
    /// Reads one head; what follows it in `head` is not looked at.
    ///
    /// # Errors
    ///
    /// [`ClientHandshakeError::ServerSpeaksTls`], [`ClientHandshakeError::HeadMalformed`] with the
    /// rule that was broken, or [`ClientHandshakeError::StatusLineInvalid`].
    pub fn parse(head: &'a [u8]) -> Result<Response<'a>, ClientHandshakeError> {
        let head_len = HeadScanner::new()
            .push(head, usize::MAX)?
            .ok_or(HandshakeError::HeadIncomplete)?;
        // The empty line that a server tolerates before a request is an error before a response.
        if head.starts_with(b"\r") {
            return Err(ClientHandshakeError::StatusLineInvalid);
        }
        let mut headers = Headers::new();
        let mut parsed = httparse::Response::new(headers.lines_mut());
        match parsed.parse(&head[..head_len]) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HandshakeError::HeadIncomplete.into()),
            Err(httparse::Error::HeaderName) => {
                return Err(HandshakeError::HeaderNameInvalid.into());
            }
            Err(httparse::Error::HeaderValue) => {
                return Err(HandshakeError::ControlCharacter.into());
            }
            Err(httparse::Error::TooManyHeaders) => {
                return Err(HandshakeError::HeadersTooMany.into());
            }
            Err(_) => return Err(ClientHandshakeError::StatusLineInvalid),
        }
        let (Some(version), Some(status)) = (parsed.version, parsed.code) else {
            return Err(ClientHandshakeError::StatusLineInvalid);
        };
        let reason_phrase = parsed.reason.unwrap_or_default();
        let headers_len = parsed.headers.len();
        headers.keep(headers_len);
        Ok(Response {
            is_http11: version == 1,
            status,
            reason_phrase,
            headers,
        })
    }

    /// The status code, 000 to 999 as sent.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether it is an interim response, which the final one follows (RFC 9110 section 15.2): a
    /// 100 or 103, say. A client has to be able to read one or more of them although it asked for
    /// none. 101 is none here: what follows it is another protocol.
    pub const fn is_interim(&self) -> bool {
        self.status >= 100 && self.status < 200 && self.status != 101
    }

    /// The reason phrase; empty when it is missing or not ASCII.
    pub const fn reason_phrase(&self) -> &'a str {
        self.reason_phrase
    }

    /// All header lines.
    pub const fn headers(&self) -> &Headers<'a> {
        &self.headers
    }
}

/// A response that opens the WebSocket.
#[derive(Clone, Debug)]
pub struct ClientAccepted<'a> {
    deflate: Option<Agreed>,
    subprotocol: Option<&'a str>,
    response: Response<'a>,
}

impl<'a> ClientAccepted<'a> {
    /// The subprotocol the server chose, one of those offered.
    pub const fn subprotocol(&self) -> Option<&'a str> {
        self.subprotocol
    }

    /// What was agreed on about compression, if it is used.
    pub const fn deflate(&self) -> Option<Agreed> {
        self.deflate
    }

    /// The whole response head.
    pub const fn response(&self) -> &Response<'a> {
        &self.response
    }
}

/// Why a client fails the connection during the opening handshake (RFC 6455 section 4.1).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ClientHandshakeError {
    /// `Sec-WebSocket-Accept` is not the one the key asks for, or repeated.
    AcceptMismatch,
    /// `Sec-WebSocket-Accept` is missing.
    AcceptMissing,
    /// `Connection` lacks `Upgrade`.
    ConnectionWithoutUpgrade,
    /// The server's answer about compression is malformed (RFC 7692 section 7.1).
    ExtensionInvalid,
    /// The server uses an extension that was not offered, or not with these parameters.
    ExtensionNotOffered,
    /// The response breaks HTTP's message syntax.
    HeadMalformed(HandshakeError),
    /// The response head is longer than the limit, or has more than 100 headers.
    HeadTooLarge,
    /// A 101 that is not HTTP/1.1.
    HttpVersionUnsupported,
    /// The server answered in TLS.
    ServerSpeaksTls,
    /// The server answered with another status than 101.
    Status(u16),
    /// The first line is not a status line of HTTP/1.0 or HTTP/1.1.
    StatusLineInvalid,
    /// The server chose a subprotocol that was not offered.
    SubprotocolNotOffered,
    /// `Sec-WebSocket-Protocol` is repeated.
    SubprotocolRepeated,
    /// `Upgrade` is missing, repeated or not `websocket`.
    UpgradeInvalid,
}

impl fmt::Display for ClientHandshakeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            ClientHandshakeError::AcceptMismatch => {
                "the server's Sec-WebSocket-Accept does not answer this handshake; \
                 a cache or proxy may have replayed another one"
            }
            ClientHandshakeError::AcceptMissing => {
                "the server's reply has no Sec-WebSocket-Accept; it does not speak WebSocket"
            }
            ClientHandshakeError::ConnectionWithoutUpgrade => {
                "the server's reply lacks Connection: Upgrade; a proxy may have removed it"
            }
            ClientHandshakeError::ExtensionInvalid => {
                "the server's Sec-WebSocket-Extensions header is malformed; it must be corrected"
            }
            ClientHandshakeError::ExtensionNotOffered => {
                "the server uses an extension that was not offered, or not with these parameters; \
                 it must be corrected"
            }
            ClientHandshakeError::HeadMalformed(error) => {
                // The sentence inside speaks to the sender of a request; only its name fits here.
                return write!(
                    formatter,
                    "the server's reply is not a well-formed HTTP head ({})",
                    error.name()
                );
            }
            ClientHandshakeError::HeadTooLarge => {
                "the head of the server's reply is longer than the limit"
            }
            ClientHandshakeError::HttpVersionUnsupported => {
                "the server switched protocols by HTTP/1.0; a WebSocket needs HTTP/1.1"
            }
            ClientHandshakeError::ServerSpeaksTls => {
                "the server speaks TLS on this port; connect with wss:// instead"
            }
            ClientHandshakeError::Status(status) => {
                return write!(
                    formatter,
                    "the server answered with status {status} instead of 101; \
                     its reply says why, or the path is not a WebSocket's"
                );
            }
            ClientHandshakeError::StatusLineInvalid => {
                "the server's reply does not begin with an HTTP/1.1 status line; \
                 check host and port"
            }
            ClientHandshakeError::SubprotocolNotOffered => {
                "the server chose a subprotocol that was not offered; it must be corrected"
            }
            ClientHandshakeError::SubprotocolRepeated => {
                "the server chose more than one subprotocol; it must be corrected"
            }
            ClientHandshakeError::UpgradeInvalid => {
                "the server's reply lacks Upgrade: websocket; it switched to something else"
            }
        };
        formatter.write_str(text)
    }
}

impl Error for ClientHandshakeError {}

impl From<HandshakeError> for ClientHandshakeError {
    /// What an error of [`HeadScanner`] means to the side that reads a response.
    fn from(error: HandshakeError) -> ClientHandshakeError {
        match error {
            HandshakeError::HeadTooLarge
            | HandshakeError::HeadersTooMany
            | HandshakeError::RequestLineTooLong => ClientHandshakeError::HeadTooLarge,
            HandshakeError::StartLineInvalid => ClientHandshakeError::StatusLineInvalid,
            HandshakeError::TlsOnPlainPort => ClientHandshakeError::ServerSpeaksTls,
            error => ClientHandshakeError::HeadMalformed(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{Proof, Request, check_upgrade};
    use super::*;

    const NONCE: [u8; 16] = *b"the sample nonce";
    const SAMPLE_ACCEPT: &[u8; 28] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
        Sec-WebSocket-Protocol: chat\r\n\r\n";

    fn request(url: &str) -> ClientRequest {
        ClientRequest::new(url.parse().unwrap())
    }

    fn encoded(request: &ClientRequest) -> String {
        let mut out = Vec::new();
        request.encode(NONCE, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn section_3_urls() {
        let cases: &[(&str, Scheme, &str, u16, &str, &str)] = &[
            ("ws://a", Scheme::Ws, "a", 80, "/", "ws://a/"),
            ("WSS://a", Scheme::Wss, "a", 443, "/", "wss://a/"),
            ("ws://a:/", Scheme::Ws, "a", 80, "/", "ws://a/"),
            ("ws://a:443/b", Scheme::Ws, "a", 443, "/b", "ws://a:443/b"),
            ("wss://a:443?q", Scheme::Wss, "a", 443, "/?q", "wss://a/?q"),
            (
                "ws://127.0.0.1:9001/x?y=/z?",
                Scheme::Ws,
                "127.0.0.1",
                9001,
                "/x?y=/z?",
                "",
            ),
            ("ws://[::1]/", Scheme::Ws, "::1", 80, "/", "ws://[::1]/"),
            (
                "ws://[2001:db8::1]:81",
                Scheme::Ws,
                "2001:db8::1",
                81,
                "/",
                "",
            ),
            (
                "ws://a_b.example/%20@:",
                Scheme::Ws,
                "a_b.example",
                80,
                "/%20@:",
                "",
            ),
        ];
        for &(text, scheme, host, port, resource_name, shown) in cases {
            let url = WsUrl::parse(text).expect(text);
            assert_eq!(url.scheme(), scheme, "{text}");
            assert_eq!(url.host(), Some(host), "{text}");
            assert_eq!(url.port(), Some(port), "{text}");
            assert_eq!(url.resource_name(), resource_name, "{text}");
            assert_eq!(url.socket_path(), None, "{text}");
            if !shown.is_empty() {
                assert_eq!(url.to_string(), shown);
            }
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn unix_socket_urls() {
        let cases: &[(&str, &str, &str)] = &[
            ("ws+unix:/run/a.sock:/chat?x=1", "/run/a.sock", "/chat?x=1"),
            ("WS+UNIX:/run/a.sock", "/run/a.sock", "/"),
            ("ws+unix:/run/a.sock:", "/run/a.sock", "/"),
            ("ws+unix:///run/a.sock:/b:c", "/run/a.sock", "/b:c"),
            ("ws+unix:/run/\u{e4} b.sock:/", "/run/\u{e4} b.sock", "/"),
            ("ws+unix:////run/a.sock", "//run/a.sock", "/"),
        ];
        for &(text, socket_path, resource_name) in cases {
            let url = WsUrl::parse(text).expect(text);
            assert_eq!(url.scheme(), Scheme::WsUnix);
            assert_eq!(url.socket_path(), Some(socket_path));
            assert_eq!(url.resource_name(), resource_name);
            assert_eq!((url.host(), url.port()), (None, None));
            assert_eq!(url.to_string().parse(), Ok(url.clone()));
            assert!(encoded(&ClientRequest::new(url)).contains("\r\nHost: localhost\r\n"));
        }
        let longest = format!("ws+unix:/{}", "s".repeat(SOCKET_PATH_BYTES_MAX - 1));
        assert!(WsUrl::parse(&longest).is_ok());
        let too_long = WsUrl::parse(&format!("{longest}s"));
        assert_eq!(too_long, Err(WsUrlError::SocketPathTooLong));
    }

    #[test]
    fn section_3_urls_refused() {
        let cases: &[(&str, WsUrlError)] = &[
            ("", WsUrlError::SchemeInvalid),
            ("a", WsUrlError::SchemeInvalid),
            ("localhost:9001", WsUrlError::SchemeInvalid),
            ("http://a/", WsUrlError::SchemeInvalid),
            (" ws://a/", WsUrlError::SchemeInvalid),
            ("ws:a", WsUrlError::SchemeInvalid),
            ("ws:/a", WsUrlError::SchemeInvalid),
            ("ws://", WsUrlError::HostMissing),
            ("ws:///a", WsUrlError::HostMissing),
            ("ws://:80/", WsUrlError::HostMissing),
            ("ws://a b/", WsUrlError::HostInvalid),
            ("ws://a\\b", WsUrlError::HostInvalid),
            ("ws://b\u{fc}cher.example/", WsUrlError::HostInvalid),
            ("ws://a%41/", WsUrlError::HostInvalid),
            ("ws://::1/", WsUrlError::HostInvalid),
            ("ws://a::81/", WsUrlError::HostInvalid),
            ("ws://[::1/", WsUrlError::HostInvalid),
            ("ws://[::1]a/", WsUrlError::HostInvalid),
            ("ws://[[::1]]/", WsUrlError::HostInvalid),
            ("ws://[fe80::1%25eth0]/", WsUrlError::HostInvalid),
            ("ws://a:0/", WsUrlError::PortInvalid),
            ("ws://a:65536/", WsUrlError::PortInvalid),
            ("ws://a:+80/", WsUrlError::PortInvalid),
            ("ws://a:b/", WsUrlError::PortInvalid),
            ("ws://user@a/", WsUrlError::UserInformation),
            ("ws://user:pass@a/", WsUrlError::UserInformation),
            ("ws://a/#b", WsUrlError::Fragment),
            ("ws://a#", WsUrlError::Fragment),
            ("ws://a/b c", WsUrlError::ResourceInvalid),
            ("ws://a/b\r\nHost: c", WsUrlError::ResourceInvalid),
            ("ws://a/\u{e4}", WsUrlError::ResourceInvalid),
            ("ws+unix:", WsUrlError::SocketPathInvalid),
            ("ws+unix:a.sock", WsUrlError::SocketPathInvalid),
            ("ws+unix://a.sock", WsUrlError::SocketPathInvalid),
            ("ws+unix:/a\0.sock", WsUrlError::SocketPathInvalid),
            ("ws+unix:/a.sock:b", WsUrlError::ResourceInvalid),
            ("ws+unix:/a.sock#b", WsUrlError::Fragment),
        ];
        for &(text, error) in cases {
            assert_eq!(WsUrl::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn section_4_1_the_request() {
        let mut request = request("ws://server.example.com:8080/chat?room=1");
        assert_eq!(
            encoded(&request),
            "GET /chat?room=1 HTTP/1.1\r\n\
             Host: server.example.com:8080\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        request.set_origin("http://example.com").unwrap();
        request.offer_subprotocol("chat").unwrap();
        request.offer_subprotocol("superchat").unwrap();
        request.add_header("Authorization", "Bearer t").unwrap();
        assert!(encoded(&request).ends_with(
            "\r\nOrigin: http://example.com\r\n\
             Sec-WebSocket-Protocol: chat, superchat\r\n\
             Authorization: Bearer t\r\n\r\n"
        ));
        assert_eq!(&request.encode(NONCE, &mut Vec::new()), SAMPLE_ACCEPT);
    }

    #[test]
    fn a_host_of_the_caller_s_stands_in_place_of_the_url_s() {
        let mut request = request("ws://127.0.0.1:9001/");
        request.set_host("chat.example.com:81").unwrap();
        let head = encoded(&request);
        assert!(head.contains("\r\nHost: chat.example.com:81\r\n"), "{head}");
        assert_eq!(head.matches("Host:").count(), 1, "{head}");
        request.set_host("chat.example.com").unwrap();
        assert!(encoded(&request).contains("\r\nHost: chat.example.com\r\n"));
    }

    #[test]
    fn section_4_1_what_a_caller_must_not_send() {
        let mut request = request("ws://a/");
        let before = request.clone();
        for host in ["", "a b", "a\r\nb: c", "a:b", "a/b", "user@a"] {
            assert_eq!(
                request.set_host(host),
                Err(FieldError::HeaderValueInvalid),
                "{host}"
            );
        }
        for origin in ["", "http://a b", "http://a\r\n", "http://\u{e4}"] {
            assert_eq!(
                request.set_origin(origin),
                Err(FieldError::HeaderValueInvalid)
            );
        }
        for name in ["", "a b", "a,b", "a\r\n"] {
            assert_eq!(
                request.offer_subprotocol(name),
                Err(FieldError::SubprotocolInvalid)
            );
        }
        for name in [
            "host",
            "Origin",
            "UPGRADE",
            "Sec-WebSocket-Key",
            "sec-websocket-foo",
        ] {
            assert_eq!(
                request.add_header(name, "v"),
                Err(FieldError::HeaderReserved),
                "{name}"
            );
        }
        assert_eq!(
            request.add_header("a", "b\r\nc: d"),
            Err(FieldError::HeaderValueInvalid)
        );
        assert_eq!(request, before);
        request.offer_subprotocol("a").unwrap();
        assert_eq!(
            request.offer_subprotocol("a"),
            Err(FieldError::SubprotocolRepeated)
        );
    }

    #[test]
    fn our_server_accepts_our_client() {
        for url in [
            "ws://a",
            "wss://a:8443/b?c",
            "ws://[::1]:9001/",
            "ws+unix:/run/a.sock:/b",
        ] {
            let mut request = request(url);
            request.offer_subprotocol("v1").unwrap();
            let mut head = Vec::new();
            let expected = request.encode(NONCE, &mut head);
            let parsed = Request::parse(&head).expect(url);
            assert_eq!(parsed.target(), request.url().resource_name());
            let upgrade = check_upgrade(&parsed).expect(url);
            assert_eq!(upgrade.proof(), Proof::AcceptKey(expected));
            assert!(upgrade.subprotocols().eq(["v1"]));
        }
    }

    #[test]
    fn section_4_1_the_response() {
        use ClientHandshakeError::*;
        type Outcome = Result<Option<&'static str>, ClientHandshakeError>;
        let cases: &[(&str, &str, Outcome)] = &[
            ("", "", Ok(Some("chat"))),
            ("Sec-WebSocket-Protocol: chat\r\n", "", Ok(None)),
            (
                "Switching Protocols",
                "Web Socket Protocol Handshake",
                Ok(Some("chat")),
            ),
            ("101 Switching Protocols", "101 ", Ok(Some("chat"))),
            // Item 1: the status.
            ("101 Switching Protocols", "200 OK", Err(Status(200))),
            ("101 Switching Protocols", "302 Found", Err(Status(302))),
            (
                "HTTP/1.1 101 Switching",
                "HTTP/1.0 426 Upgrade",
                Err(Status(426)),
            ),
            ("HTTP/1.1", "HTTP/1.0", Err(HttpVersionUnsupported)),
            ("HTTP/1.1", "HTTP/2.0", Err(StatusLineInvalid)),
            ("HTTP/1.1", "HTTP/1.1 ", Err(StatusLineInvalid)),
            ("HTTP/1.1 101", "HTTP/1.1 1e1", Err(StatusLineInvalid)),
            ("HTTP/1.1", "\r\nHTTP/1.1", Err(StatusLineInvalid)),
            ("HTTP/1.1", "SSH-2.0-x", Err(StatusLineInvalid)),
            // Item 2: Upgrade.
            ("Upgrade: websocket", "upgrade: WebSocket", Ok(Some("chat"))),
            ("Upgrade: websocket\r\n", "", Err(UpgradeInvalid)),
            ("Upgrade: websocket", "Upgrade: h2c", Err(UpgradeInvalid)),
            (
                "Upgrade: websocket",
                "Upgrade: websocket, h2c",
                Err(UpgradeInvalid),
            ),
            (
                "Upgrade: websocket",
                "Upgrade: websocket\r\nUpgrade: h2c",
                Err(UpgradeInvalid),
            ),
            // Item 3: Connection.
            (
                "Connection: Upgrade",
                "Connection: keep-alive, UPGRADE",
                Ok(Some("chat")),
            ),
            ("Connection: Upgrade\r\n", "", Err(ConnectionWithoutUpgrade)),
            (
                "Connection: Upgrade",
                "Connection: close",
                Err(ConnectionWithoutUpgrade),
            ),
            // Item 4: Sec-WebSocket-Accept.
            (
                "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
                "",
                Err(AcceptMissing),
            ),
            ("-Accept: s3p", "-Accept: S3p", Err(AcceptMismatch)),
            (
                "-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "-Accept:",
                Err(AcceptMismatch),
            ),
            (
                "-Accept: s3p",
                "-Accept: x\r\nSec-WebSocket-Accept: s3p",
                Err(AcceptMismatch),
            ),
            // Item 5: extensions.
            (
                "Upgrade: websocket",
                "Upgrade: websocket\r\nSec-WebSocket-Extensions:",
                Ok(Some("chat")),
            ),
            (
                "Connection: Upgrade",
                "Connection: Upgrade\r\nSec-WebSocket-Extensions: permessage-deflate",
                Err(ExtensionNotOffered),
            ),
            // Item 6: the subprotocol.
            (
                "Protocol: chat",
                "Protocol: superchat",
                Ok(Some("superchat")),
            ),
            (
                "Protocol: chat",
                "Protocol: Chat",
                Err(SubprotocolNotOffered),
            ),
            ("Protocol: chat", "Protocol:", Err(SubprotocolNotOffered)),
            (
                "Protocol: chat",
                "Protocol: chat, superchat",
                Err(SubprotocolNotOffered),
            ),
            (
                "Protocol: chat",
                "Protocol: chat\r\nSec-WebSocket-Protocol: chat",
                Err(SubprotocolRepeated),
            ),
            // RFC 9112: the message syntax.
            (
                "Upgrade: websocket\r\n",
                "Upgrade: websocket\n",
                Err(HeadMalformed(HandshakeError::BareLineFeed)),
            ),
            (
                "Upgrade:",
                "Upgrade :",
                Err(HeadMalformed(HandshakeError::HeaderNameInvalid)),
            ),
            (
                "\r\n\r\n",
                "\r\n",
                Err(HeadMalformed(HandshakeError::HeadIncomplete)),
            ),
            ("HTTP/1.1 101", "\x15\x03\x01", Err(ServerSpeaksTls)),
        ];
        let mut request = request("ws://server.example.com/chat");
        request.offer_subprotocol("chat").unwrap();
        request.offer_subprotocol("superchat").unwrap();
        for &(sent, instead, expected) in cases {
            assert!(ACCEPTED.contains(sent));
            let head = ACCEPTED.replacen(sent, instead, 1);
            let result = request.check_response(head.as_bytes(), SAMPLE_ACCEPT);
            let subprotocol = result.map(|accepted| accepted.subprotocol());
            assert_eq!(subprotocol, expected, "{sent:?} -> {instead:?}");
        }
    }

    #[test]
    fn section_15_2_interim_responses() {
        for (status, is_interim) in [
            (100, true),
            (101, false),
            (102, true),
            (103, true),
            (199, true),
            (99, false),
            (200, false),
            (426, false),
        ] {
            let head = format!("HTTP/1.1 {status:03} Whatever\r\nLink: </a.css>\r\n\r\n");
            let response = Response::parse(head.as_bytes()).unwrap();
            assert_eq!(response.is_interim(), is_interim, "{status}");
        }
    }

    #[test]
    fn a_refusal_stays_readable() {
        let head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n";
        let refused = request("ws://a/").check_response(head, SAMPLE_ACCEPT).err();
        assert_eq!(refused, Some(ClientHandshakeError::Status(403)));
        let response = Response::parse(head).unwrap();
        assert_eq!(
            (response.status(), response.reason_phrase()),
            (403, "Forbidden")
        );
        assert_eq!(response.headers().first("content-length"), Some(&b"3"[..]));
    }

    #[test]
    fn scanner_errors_in_the_clients_words() {
        let cases: &[(HandshakeError, ClientHandshakeError)] = &[
            (
                HandshakeError::HeadTooLarge,
                ClientHandshakeError::HeadTooLarge,
            ),
            (
                HandshakeError::RequestLineTooLong,
                ClientHandshakeError::HeadTooLarge,
            ),
            (
                HandshakeError::HeadersTooMany,
                ClientHandshakeError::HeadTooLarge,
            ),
            (
                HandshakeError::StartLineInvalid,
                ClientHandshakeError::StatusLineInvalid,
            ),
            (
                HandshakeError::TlsOnPlainPort,
                ClientHandshakeError::ServerSpeaksTls,
            ),
        ];
        for &(error, expected) in cases {
            assert_eq!(ClientHandshakeError::from(error), expected);
        }
    }
}
