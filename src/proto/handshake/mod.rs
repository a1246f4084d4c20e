//! The opening handshake of RFC 6455 section 4, both roles.
//!
//! Knows HTTP/1.1 message heads as far as a WebSocket server and client need them: finding the end
//! of a head, reading a request, deciding whether it is an opening handshake, writing the reply,
//! and the client's half of the same. Refuses to know sockets, clocks, configuration, services and
//! frames: slices come in, bytes are appended to a `Vec<u8>`, and a date arrives as text.
//!
//! ```text
//!  newly arrived bytes --> HeadScanner --> Request::parse --> check_upgrade --> Upgrade
//!                              |                |                  |              |
//!                              +-- HandshakeError (status, sentence, headers) ---+|
//!                                               |                                 v
//!                                            Refusal                      Answer + accept key
//!                                               |                                 |
//!                                               +---------> Vec<u8> <-------------+
//! ```
//!
//! Everything is strict where two readers of one head could disagree about it (line ends, repeated
//! `Host`, space before a colon, a body on the upgrade), because that is what request smuggling
//! lives on, and tolerant where nothing depends on it.

pub mod accept_key;
pub mod client;
pub mod head;
pub mod origin;
pub mod request;
pub mod response;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt;

pub use accept_key::accept_key;
pub use client::{
    ClientAccepted, ClientHandshakeError, ClientRequest, Response, Scheme, WsUrl, WsUrlError,
};
pub use head::{HeadScanner, Headers};
pub use origin::Origin;
pub use request::{HttpVersion, Proof, Request, Upgrade, check_upgrade};
pub use response::{
    Answer, Content, FieldError, HttpReply, Refusal, ReplyHeaders, encode_http_reply,
    encode_refusal, encode_switching_protocols,
};

/// One row per way an opening handshake can fail, so that a variant, its status and its sentence
/// cannot drift apart.
macro_rules! handshake_errors {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $sentence:literal;)+) => {
        /// Why an opening handshake was not completed, as the server tells its peer.
        ///
        /// `Display` gives one sentence that says what is wrong and what to do; it is also the body
        /// of the reply. [`http_status`](Self::http_status) is the status code of that reply and
        /// [`reply_headers`](Self::reply_headers) what must accompany it.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        pub enum HandshakeError {
            $($(#[$doc])* $name,)+
        }

        impl HandshakeError {
            /// Every error, in alphabetical order, for tables of metrics and for documentation.
            pub const ALL: &'static [HandshakeError] = &[$(HandshakeError::$name,)+];

            /// The HTTP status code of the reply (RFC 9110 section 15).
            pub const fn http_status(self) -> u16 {
                match self {
                    $(HandshakeError::$name => $status,)+
                }
            }

            /// The variant's name, stable enough to be a label of a metric.
            pub const fn name(self) -> &'static str {
                match self {
                    $(HandshakeError::$name => stringify!($name),)+
                }
            }

            /// The sentence followed by a line feed: the body of the reply.
            pub const fn body(self) -> &'static str {
                match self {
                    $(HandshakeError::$name => concat!($sentence, "\n"),)+
                }
            }
        }
    };
}

handshake_errors! {
    /// A carriage return without a line feed after it (RFC 9112 section 2.2).
    BareCarriageReturn = 400,
        "A carriage return stands without a line feed; end every line with CR LF.";
    /// A line feed without a carriage return before it (RFC 9112 section 2.2).
    BareLineFeed = 400,
        "A line ends in a bare line feed; end every line with CR LF.";
    /// The opening handshake announces a body (RFC 6455 section 4.1: it is a GET without one).
    BodyNotAllowed = 400,
        "An opening handshake has no body; leave out Content-Length and Transfer-Encoding.";
    /// `Sec-WebSocket-Key1` or `Sec-WebSocket-Key2` is not as [hixie-76](super::hixie) has it.
    ChallengeInvalid = 400,
        "The Sec-WebSocket-Key1 and Key2 headers are not those of hixie-76; send version 13.";
    /// `Upgrade: websocket` without `Connection: Upgrade` (RFC 6455 section 4.2.1).
    ConnectionWithoutUpgrade = 400,
        "The Connection header lacks \"Upgrade\"; a proxy in between must forward it.";
    /// `Content-Length` is repeated or not a decimal number (RFC 9112 section 6.3).
    ContentLengthInvalid = 400,
        "The Content-Length header is repeated or not a number; send it once, or not at all.";
    /// A request that is not an opening handshake carries a body this server will not read.
    ContentTooLarge = 413,
        "This server reads no request bodies; send the request without one.";
    /// A control character in the head (RFC 9110 section 5.5, RFC 9112 section 3).
    ControlCharacter = 400,
        "The request holds a control character; remove or percent-encode it.";
    /// The service or the `Origin` policy declined (RFC 6455 section 10.2).
    Forbidden = 403,
        "This origin or client may not open a WebSocket here; ask the operator to allow it.";
    /// The target holds `#` (RFC 6455 section 3).
    FragmentInTarget = 400,
        "The request target holds a \"#\"; drop the fragment or percent-encode it as %23.";
    /// The bytes given end before the empty line that ends a head.
    HeadIncomplete = 400,
        "The request ends before the empty line that closes its headers; send all of it.";
    /// The head is longer than the limit (RFC 6585 section 5).
    HeadTooLarge = 431,
        "The request headers are longer than this server's limit; send fewer cookies or headers.";
    /// A header line without a token for a name, or with space before its colon (RFC 9112 section
    /// 5.1).
    HeaderNameInvalid = 400,
        "A header name holds a character that is not allowed, or lacks its colon; correct it.";
    /// More header lines than [`head::HEADERS_MAX`].
    HeadersTooMany = 431,
        "The request has more than 100 headers; send fewer.";
    /// `Host` is not `host` or `host:port` (RFC 9110 section 7.2).
    HostInvalid = 400,
        "The Host header is not a host name or address with an optional port; correct it.";
    /// An HTTP/1.1 request without `Host` (RFC 9112 section 3.2).
    HostMissing = 400,
        "The Host header is missing; HTTP/1.1 requires exactly one.";
    /// More than one `Host` (RFC 9112 section 3.2).
    HostRepeated = 400,
        "The Host header is repeated; HTTP/1.1 requires exactly one.";
    /// Not HTTP/1.0 or HTTP/1.1 (RFC 9110 section 15.6.6).
    HttpVersionUnsupported = 505,
        "This port speaks HTTP/1.1; send the request with that version.";
    /// `Sec-WebSocket-Key` is not the base64 of 16 bytes (RFC 6455 section 4.2.1).
    KeyInvalid = 400,
        "The Sec-WebSocket-Key header is not the base64 of 16 bytes; send a fresh random one.";
    /// `Sec-WebSocket-Key` is missing (RFC 6455 section 4.2.1).
    KeyMissing = 400,
        "The Sec-WebSocket-Key header is missing; send the base64 of 16 random bytes.";
    /// `Sec-WebSocket-Key` is repeated (RFC 6455 section 11.3.1).
    KeyRepeated = 400,
        "The Sec-WebSocket-Key header is repeated; send it once.";
    /// An opening handshake is a GET (RFC 6455 section 4.1).
    MethodNotAllowed = 405,
        "Only GET is served here; open a WebSocket with GET.";
    /// No service at this path.
    NotFound = 404,
        "Nothing is served at this path; check the path of the URL.";
    /// A header line continued on the next line (RFC 9112 section 5.2).
    ObsoleteFolding = 400,
        "A header is continued on a second line; write each header on one line.";
    /// `Origin` is repeated or not visible ASCII (RFC 6454 section 7.1).
    OriginInvalid = 400,
        "The Origin header is repeated or malformed; send one origin, or none.";
    /// A limit on connections or memory is reached.
    Overloaded = 503,
        "The server has no room for another connection; try again later.";
    /// The first bytes are HTTP where a TLS record has to be (RFC 8446 section 5.1).
    PlainOnTlsPort = 400,
        "These bytes are plain HTTP, but this is a TLS port; use wss:// or https://.";
    /// A proxy that is to say whom it speaks for has not.
    ProxyHeaderMissing = 400,
        "From your address, connections begin with a PROXY header; have the proxy send one.";
    /// The request line is not `method SP target SP version` (RFC 9112 section 3).
    RequestLineInvalid = 400,
        "The request line is malformed; send a method, a target and HTTP/1.1, one space apart.";
    /// The request line alone is longer than the limit (RFC 9110 section 15.5.15).
    RequestLineTooLong = 414,
        "The request line is longer than this server's limit; shorten the URL.";
    /// The service's code failed while it decided.
    ServicePanicked = 500,
        "The service behind this path failed; its operator finds the reason in the log.";
    /// The first byte cannot begin a method (RFC 9112 section 3.1).
    StartLineInvalid = 400,
        "This is not HTTP; a WebSocket opens with an HTTP/1.1 GET request.";
    /// `Sec-WebSocket-Protocol` holds something other than tokens (RFC 6455 section 11.3.4).
    SubprotocolInvalid = 400,
        "The Sec-WebSocket-Protocol header is not a comma-separated list of names; correct it.";
    /// The target is none of the forms of RFC 9112 section 3.2 that apply to its method.
    TargetInvalid = 400,
        "The request target is malformed; send a path, or a ws:// or http:// URL, in ASCII.";
    /// The head did not arrive in time (RFC 9110 section 15.5.9).
    Timeout = 408,
        "The request did not arrive in time; send the whole opening handshake at once.";
    /// The first bytes are a TLS record (RFC 8446 section 5.1).
    TlsOnPlainPort = 400,
        "These bytes are TLS, but this is a plain ws:// port; use ws:// or the TLS port.";
    /// The limit on connections from one address is reached (RFC 6585 section 4).
    TooManyFromAddress = 429,
        "There are too many connections from your address, or they come too fast; try again later.";
    /// `Sec-WebSocket-Key` without `Upgrade`, which only the next hop is to see (RFC 9110 section
    /// 7.8): a proxy in between has not passed it on.
    UpgradeDropped = 426,
        "A proxy in between dropped the Upgrade header; nginx needs: proxy_http_version 1.1; \
         proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\".";
    /// An upgrade asked for by HTTP/1.0 (RFC 6455 section 4.1, RFC 9110 section 7.8).
    UpgradeOverHttp10 = 400,
        "A WebSocket needs HTTP/1.1; a proxy in between must be set to use it (nginx: \
         proxy_http_version 1.1).";
    /// A WebSocket path was asked for without an upgrade (RFC 9110 section 15.5.22).
    UpgradeRequired = 426,
        "This path speaks WebSocket; connect with ws:// or wss:// instead.";
    /// `Sec-WebSocket-Version` is repeated or a list (RFC 6455 section 11.3.5).
    VersionRepeated = 400,
        "The Sec-WebSocket-Version header names more than one version; send 13 alone.";
    /// `Sec-WebSocket-Version` is not 13 (RFC 6455 section 4.4).
    VersionUnsupported = 426,
        "This server speaks WebSocket version 13; send Sec-WebSocket-Version: 13.";
}

impl HandshakeError {
    /// The headers that RFC 9110 (sections 15.5.6 and 15.5.22) and RFC 6455 (section 4.4) require
    /// beside the status. `Connection: Upgrade` belongs to the 426 because `Upgrade` is an option
    /// of the hop; the encoder joins it with the `close` it sends anyway.
    pub const fn reply_headers(self) -> &'static [(&'static str, &'static str)] {
        match self.http_status() {
            405 => &[("Allow", "GET, HEAD")],
            426 => &[("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")],
            _ => &[],
        }
    }

    /// The sentence, without the line feed of [`body`](Self::body).
    pub fn sentence(self) -> &'static str {
        self.body().trim_end()
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.sentence())
    }
}

impl Error for HandshakeError {}
