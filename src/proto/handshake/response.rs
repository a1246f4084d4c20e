//! What the server writes back: the 101 that opens a WebSocket, a refusal, or an ordinary page.
//!
//! Knows the syntax of a response head (RFC 9112 section 4) and which headers the server alone may
//! write. Refuses to know what time it is (the date arrives as text), what was asked, and how the
//! bytes leave. Writing appends to the caller's buffer and allocates nothing of its own; an
//! [`Answer`] that changes nothing and a [`Refusal`] made from an error hold no heap memory.
//!
//! ```text
//!  Answer  + accept key --> HTTP/1.1 101, Upgrade, Connection, Sec-WebSocket-Accept, ...
//!  Refusal              --> HTTP/1.1 4xx, Connection: close, Content-Length, sentence
//!  HttpReply            --> HTTP/1.1 200, Connection: close, Content-Length, page
//! ```
//!
//! Every reply but the 101 ends the connection: a server of WebSockets gains nothing from keeping
//! an HTTP connection, and a closed one has no second request to smuggle.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use super::HandshakeError;
use super::accept_key::ACCEPT_KEY_LEN;
use super::head::{is_field_value, is_token};
use super::request::{Request, Upgrade};
use crate::proto::deflate::Agreed;

/// The reason phrase of RFC 6455 section 1.3.
const SWITCHING_PROTOCOLS: &str = "Switching Protocols";
/// That of the gateway which [`Answer::imitate_kaazing`] imitates.
const KAAZING_PHRASE: &str = "WebSocket Protocol Handshake";
const TEXT: &str = "text/plain; charset=utf-8";

/// Why something a service or a client's caller wants to put into a head cannot stand there. The
/// caller's mistake, never the peer's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum FieldError {
    /// A header name that is not a token (RFC 9110 section 5.1).
    HeaderNameInvalid,
    /// A header that this library writes itself.
    HeaderReserved,
    /// A header value with a control character (RFC 9110 section 5.5).
    HeaderValueInvalid,
    /// A reason phrase with a control character (RFC 9112 section 4).
    ReasonPhraseInvalid,
    /// A status outside 200 to 599, or below 300 for a refusal.
    StatusOutOfRange,
    /// A subprotocol that is not a token (RFC 6455 section 4.1).
    SubprotocolInvalid,
    /// A subprotocol that the client did not offer (RFC 6455 section 4.2.2).
    SubprotocolNotOffered,
    /// A subprotocol offered twice (RFC 6455 section 4.1).
    SubprotocolRepeated,
    /// A compression window of fewer than 8 or more than 15 bits (RFC 7692 section 7.1.2).
    WindowBitsOutOfRange,
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            FieldError::HeaderNameInvalid => {
                "the header name is not a token; use letters, digits and hyphens"
            }
            FieldError::HeaderReserved => {
                "this header is written by ringwire itself; leave it out or use its own setting"
            }
            FieldError::HeaderValueInvalid => {
                "the header value holds a control character such as CR, LF or NUL; remove it"
            }
            FieldError::ReasonPhraseInvalid => {
                "the reason phrase holds a control character such as CR, LF or NUL; remove it"
            }
            FieldError::StatusOutOfRange => {
                "the status must be 200 to 599 for a page and 300 to 599 for a refusal"
            }
            FieldError::SubprotocolInvalid => {
                "the subprotocol is not a token; use letters, digits, dots and hyphens"
            }
            FieldError::SubprotocolNotOffered => {
                "the client did not offer this subprotocol; choose one of those it offered"
            }
            FieldError::SubprotocolRepeated => {
                "this subprotocol is already offered; offer each one once"
            }
            FieldError::WindowBitsOutOfRange => {
                "a compression window has from 8 to 15 bits; choose one of those"
            }
        })
    }
}

impl Error for FieldError {}

/// The two headers that depend on the moment and on the operator. Both are left out when `None`.
///
/// The caller vouches for the texts: [`is_field_value`] tells whether a configured one may be used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReplyHeaders<'a> {
    /// The time of the reply in the form of RFC 9110 section 5.6.7, such as
    /// `Sun, 06 Nov 1994 08:49:37 GMT`.
    pub date: Option<&'a str>,
    /// The name of the server (RFC 9110 section 10.2.4).
    pub server: Option<&'a str>,
}

impl ReplyHeaders<'_> {
    pub(in crate::proto) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(date) = self.date {
            push_field(out, "Date", date.as_bytes());
        }
        if let Some(server) = self.server {
            push_field(out, "Server", server.as_bytes());
        }
    }
}

/// Whether the body of a reply is written. The head is the same either way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// Head and body.
    Sent,
    /// The head alone, with the length the body would have: the reply to `HEAD` (RFC 9110 section
    /// 9.3.2).
    Withheld,
}

impl Content {
    /// What `method` asks for.
    pub fn for_method(method: &str) -> Content {
        if method == "HEAD" {
            Content::Withheld
        } else {
            Content::Sent
        }
    }
}

/// What a service may change about the 101 that accepts an opening handshake. The default changes
/// nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    subprotocol: Option<Box<str>>,
    deflate: Option<Agreed>,
    refuses_compression: bool,
    message_bytes_max: Option<u64>,
    reason_phrase: Option<Cow<'static, str>>,
    fields: Fields,
    layout: Layout,
}

/// The form of the 101.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
enum Layout {
    #[default]
    Plain,
    /// As [`Answer::imitate_kaazing`] says, with the origin that is echoed.
    Kaazing(Option<Box<str>>),
}

impl Answer {
    /// An answer that accepts and adds nothing.
    pub const fn new() -> Answer {
        Answer {
            subprotocol: None,
            deflate: None,
            refuses_compression: false,
            message_bytes_max: None,
            reason_phrase: None,
            fields: Fields::new(),
            layout: Layout::Plain,
        }
    }

    /// Agrees to no compression on this connection, whatever the client offers and the server
    /// could. For messages that hold secrets beside what somebody else chose: their length tells
    /// whether the two are alike (RFC 7692 section 8).
    pub fn refuse_compression(&mut self) {
        self.refuses_compression = true;
    }

    /// Whether [`refuse_compression`](Self::refuse_compression) was called.
    pub const fn refuses_compression(&self) -> bool {
        self.refuses_compression
    }

    /// Accepts messages of at most so many bytes on this connection, if that is less than the
    /// server's `message_bytes_max`. A longer one ends it with 1009. What the server's limit is set
    /// to later does not change it.
    pub const fn limit_message_bytes(&mut self, message_bytes_max: u64) {
        self.message_bytes_max = Some(message_bytes_max);
    }

    /// The limit of this connection alone, if it has one.
    pub(crate) const fn message_bytes_max(&self) -> Option<u64> {
        self.message_bytes_max
    }

    /// Names what was agreed on about compression (RFC 7692 section 7.1).
    pub(crate) fn agree_on(&mut self, deflate: Agreed) {
        self.deflate = Some(deflate);
    }

    /// Writes the 101 as the Kaazing gateway behind `echo.websocket.org` did in 2012, for clients
    /// that compare it with a recording: its reason phrase, its order of headers, `WebSocket` as
    /// the value of `Upgrade`, and the origin of the request echoed in `Access-Control` headers.
    /// Headers that are added come last, behind what is agreed on about compression, of which that
    /// gateway knew nothing. Hixie-76 has a form of its own, which stays.
    ///
    /// It decides nothing: a browser pays no heed to those headers of a 101. Which origins are
    /// welcome is another question.
    pub fn imitate_kaazing(&mut self, request: &Request<'_>) {
        self.layout = Layout::Kaazing(request.origin().map(Box::from));
    }

    /// Speaks the subprotocol `name` on this connection; a later choice replaces an earlier one.
    ///
    /// # Errors
    ///
    /// [`FieldError::SubprotocolNotOffered`] if the client did not offer it in exactly this
    /// spelling (RFC 6455 section 4.2.2).
    pub fn choose_subprotocol(
        &mut self,
        upgrade: &Upgrade<'_>,
        name: &str,
    ) -> Result<(), FieldError> {
        if !upgrade.subprotocols().any(|offered| offered == name) {
            return Err(FieldError::SubprotocolNotOffered);
        }
        self.subprotocol = Some(name.into());
        Ok(())
    }

    /// The subprotocol chosen so far.
    pub fn subprotocol(&self) -> Option<&str> {
        self.subprotocol.as_deref()
    }

    /// The reason phrase, if it was replaced.
    pub(in crate::proto) fn reason_phrase(&self) -> Option<&str> {
        self.reason_phrase.as_deref()
    }

    /// The lines of the headers that were added.
    pub(in crate::proto) fn fields(&self) -> &[u8] {
        &self.fields.lines
    }

    /// Adds a header. Headers of one name may be added more than once, such as `Set-Cookie`.
    ///
    /// # Errors
    ///
    /// [`FieldError`] if the name is no token, the value could end its line, or the server writes
    /// this header itself: `Connection`, `Content-Length`, `Content-Type`, `Date`,
    /// `Sec-WebSocket-*`, `Server`, `Trailer`, `Transfer-Encoding`, `Upgrade`,
    /// `X-Content-Type-Options`.
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), FieldError> {
        self.fields.add(name, value, REPLY_RESERVED)
    }

    /// Replaces the reason phrase `Switching Protocols`, which no client may interpret (RFC 9112
    /// section 4).
    ///
    /// # Errors
    ///
    /// [`FieldError::ReasonPhraseInvalid`] if it holds a control character.
    pub fn set_reason_phrase(
        &mut self,
        reason_phrase: impl Into<Cow<'static, str>>,
    ) -> Result<(), FieldError> {
        let reason_phrase = reason_phrase.into();
        if !is_field_value(reason_phrase.as_bytes()) {
            return Err(FieldError::ReasonPhraseInvalid);
        }
        self.reason_phrase = Some(reason_phrase);
        Ok(())
    }
}

/// A reply that declines the opening handshake and ends the connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    reply: HttpReply,
}

impl Refusal {
    /// A refusal with a body of plain text.
    ///
    /// # Errors
    ///
    /// [`FieldError::StatusOutOfRange`] unless `status` is 300 to 599: a 2xx would tell a client
    /// that something succeeded (RFC 6455 section 4.2.2).
    pub fn new(status: u16, body: impl Into<Cow<'static, str>>) -> Result<Refusal, FieldError> {
        if status < 300 {
            return Err(FieldError::StatusOutOfRange);
        }
        let body = match body.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Ok(Refusal {
            reply: HttpReply::new(status, TEXT, body)?,
        })
    }

    /// Why, in words: the first line of its body, if that is text.
    pub fn reason(&self) -> &str {
        let body = str::from_utf8(&self.reply.body).unwrap_or_default();
        body.lines().next().unwrap_or_default()
    }

    /// The status code.
    pub const fn status(&self) -> u16 {
        self.reply.status
    }

    /// Adds a header, such as `WWW-Authenticate` to a 401 or `Location` to a 302.
    ///
    /// # Errors
    ///
    /// As [`Answer::add_header`].
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), FieldError> {
        self.reply.add_header(name, value)
    }

    /// Replaces the content type and the body, for a refusal that is a page or a document.
    ///
    /// # Errors
    ///
    /// [`FieldError::HeaderValueInvalid`] if the content type holds a control character.
    pub fn set_content(
        &mut self,
        content_type: impl Into<Cow<'static, str>>,
        body: impl Into<Cow<'static, [u8]>>,
    ) -> Result<(), FieldError> {
        let content_type = content_type.into();
        if !is_field_value(content_type.as_bytes()) {
            return Err(FieldError::HeaderValueInvalid);
        }
        self.reply.content_type = content_type;
        self.reply.body = body.into();
        Ok(())
    }
}

impl From<HandshakeError> for Refusal {
    /// The status of the error, the headers that must accompany it, and its sentence as the body.
    fn from(error: HandshakeError) -> Refusal {
        Refusal {
            reply: HttpReply {
                status: error.http_status(),
                required_headers: error.reply_headers(),
                content_type: Cow::Borrowed(TEXT),
                body: Cow::Borrowed(error.body().as_bytes()),
                fields: Fields::new(),
            },
        }
    }
}

/// An ordinary HTTP reply: a page, a health check, metrics.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HttpReply {
    status: u16,
    required_headers: &'static [(&'static str, &'static str)],
    content_type: Cow<'static, str>,
    body: Cow<'static, [u8]>,
    fields: Fields,
}

impl HttpReply {
    /// A reply with a body of the given type. A 204 or 304 is written without its body (RFC 9112
    /// section 6.3).
    ///
    /// # Errors
    ///
    /// [`FieldError::StatusOutOfRange`] unless `status` is 200 to 599;
    /// [`FieldError::HeaderValueInvalid`] if the content type holds a control character.
    pub fn new(
        status: u16,
        content_type: impl Into<Cow<'static, str>>,
        body: impl Into<Cow<'static, [u8]>>,
    ) -> Result<HttpReply, FieldError> {
        if !(200..600).contains(&status) {
            return Err(FieldError::StatusOutOfRange);
        }
        let content_type = content_type.into();
        if !is_field_value(content_type.as_bytes()) {
            return Err(FieldError::HeaderValueInvalid);
        }
        let required_headers = match status {
            426 => HandshakeError::UpgradeRequired.reply_headers(),
            _ => &[],
        };
        let fields = Fields::new();
        Ok(HttpReply {
            status,
            required_headers,
            content_type,
            body: body.into(),
            fields,
        })
    }

    /// The status code.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Adds a header.
    ///
    /// # Errors
    ///
    /// As [`Answer::add_header`].
    pub fn add_header(&mut self, name: &str, value: &str) -> Result<(), FieldError> {
        self.fields.add(name, value, REPLY_RESERVED)
    }
}

/// Appends the 101 that accepts an opening handshake (RFC 6455 section 4.2.2). `accept_key` is what
/// [`Upgrade::proof`] gave.
pub fn encode_switching_protocols(
    out: &mut Vec<u8>,
    accept_key: &[u8; ACCEPT_KEY_LEN],
    answer: &Answer,
    reply: &ReplyHeaders<'_>,
) {
    // The usual reply is 129 bytes and a date; one reservation keeps a fresh buffer from growing
    // four times.
    out.reserve(256 + answer.fields.lines.len());
    if let Layout::Kaazing(origin) = &answer.layout {
        return encode_like_kaazing(out, accept_key, answer, origin.as_deref(), reply);
    }
    out.extend_from_slice(b"HTTP/1.1 101 ");
    let reason_phrase = answer
        .reason_phrase
        .as_deref()
        .unwrap_or(SWITCHING_PROTOCOLS);
    out.extend_from_slice(reason_phrase.as_bytes());
    out.extend_from_slice(
        b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(accept_key);
    out.extend_from_slice(b"\r\n");
    if let Some(subprotocol) = answer.subprotocol() {
        push_field(out, "Sec-WebSocket-Protocol", subprotocol.as_bytes());
    }
    push_extensions(out, answer);
    reply.encode(out);
    out.extend_from_slice(&answer.fields.lines);
    out.extend_from_slice(b"\r\n");
}

/// As the recording has it, header for header.
fn encode_like_kaazing(
    out: &mut Vec<u8>,
    accept_key: &[u8; ACCEPT_KEY_LEN],
    answer: &Answer,
    origin: Option<&str>,
    reply: &ReplyHeaders<'_>,
) {
    out.extend_from_slice(b"HTTP/1.1 101 ");
    let reason_phrase = answer.reason_phrase();
    out.extend_from_slice(reason_phrase.unwrap_or(KAAZING_PHRASE).as_bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(date) = reply.date {
        push_field(out, "Date", date.as_bytes());
    }
    push_field(out, "Connection", b"Upgrade");
    if let Some(server) = reply.server {
        push_field(out, "Server", server.as_bytes());
    }
    push_field(out, "Upgrade", b"WebSocket");
    if let Some(origin) = origin {
        push_field(out, "Access-Control-Allow-Origin", origin.as_bytes());
        push_field(out, "Access-Control-Allow-Credentials", b"true");
    }
    push_field(out, "Sec-WebSocket-Accept", accept_key);
    if let Some(subprotocol) = answer.subprotocol() {
        push_field(out, "Sec-WebSocket-Protocol", subprotocol.as_bytes());
    }
    if origin.is_some() {
        push_field(out, "Access-Control-Allow-Headers", b"content-type");
    }
    push_extensions(out, answer);
    out.extend_from_slice(&answer.fields.lines);
    out.extend_from_slice(b"\r\n");
}

fn push_extensions(out: &mut Vec<u8>, answer: &Answer) {
    if let Some(deflate) = &answer.deflate {
        out.extend_from_slice(b"Sec-WebSocket-Extensions: ");
        deflate.encode(out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a refusal; the connection is to be closed after it.
pub fn encode_refusal(
    out: &mut Vec<u8>,
    refusal: &Refusal,
    reply: &ReplyHeaders<'_>,
    content: Content,
) {
    encode_http_reply(out, &refusal.reply, reply, content);
}

/// Appends an ordinary reply; the connection is to be closed after it.
pub fn encode_http_reply(
    out: &mut Vec<u8>,
    http_reply: &HttpReply,
    reply: &ReplyHeaders<'_>,
    content: Content,
) {
    let HttpReply {
        status,
        required_headers,
        content_type,
        body,
        fields,
    } = http_reply;
    out.reserve(320 + fields.lines.len() + body.len());
    out.extend_from_slice(b"HTTP/1.1 ");
    push_decimal(out, usize::from(*status));
    out.push(b' ');
    out.extend_from_slice(reason_phrase(*status).as_bytes());
    out.extend_from_slice(b"\r\n");
    reply.encode(out);
    for (name, value) in *required_headers {
        push_field(out, name, value.as_bytes());
    }
    // RFC 9110 section 7.8: who sends Upgrade names it in Connection, so that no proxy forwards it.
    let connection: &[u8] = if *status == 426 {
        b"Upgrade, close"
    } else {
        b"close"
    };
    push_field(out, "Connection", connection);
    let has_content = !matches!(status, 204 | 304);
    if has_content {
        push_field(out, "Content-Type", content_type.as_bytes());
        // A body that quotes the request must not be taken for a page by a guessing browser.
        push_field(out, "X-Content-Type-Options", b"nosniff");
        out.extend_from_slice(b"Content-Length: ");
        push_decimal(out, body.len());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(&fields.lines);
    out.extend_from_slice(b"\r\n");
    if has_content && content == Content::Sent {
        out.extend_from_slice(body);
    }
}

/// Header lines in their wire form, checked when they were added.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Fields {
    pub(super) lines: Vec<u8>,
}

impl Fields {
    pub(super) const fn new() -> Fields {
        Fields { lines: Vec::new() }
    }

    /// Adds a line unless it breaks the head or its name is one of `reserved` or `Sec-WebSocket-*`.
    pub(super) fn add(
        &mut self,
        name: &str,
        value: &str,
        reserved: &[&str],
    ) -> Result<(), FieldError> {
        const PREFIX: &[u8] = b"sec-websocket-";
        if !is_token(name.as_bytes()) {
            return Err(FieldError::HeaderNameInvalid);
        }
        let begins_reserved = name
            .as_bytes()
            .get(..PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
        if begins_reserved
            || reserved
                .iter()
                .any(|taken| taken.eq_ignore_ascii_case(name))
        {
            return Err(FieldError::HeaderReserved);
        }
        if !is_field_value(value.as_bytes()) {
            return Err(FieldError::HeaderValueInvalid);
        }
        push_field(&mut self.lines, name, value.as_bytes());
        Ok(())
    }
}

/// What [`Answer::add_header`] lists.
const REPLY_RESERVED: &[&str] = &[
    "Connection",
    "Content-Length",
    "Content-Type",
    "Date",
    "Server",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "X-Content-Type-Options",
];

pub(in crate::proto) fn push_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn push_decimal(out: &mut Vec<u8>, mut number: usize) {
    let first = out.len();
    loop {
        out.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out[first..].reverse();
}

/// The reason phrase that RFC 9110 section 15 and RFC 6585 give a status; empty for one without.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{Request, check_upgrade};
    use super::*;
    use crate::proto::deflate::{
        Offer,
        negotiation::{NAME, check_answer},
    };

    const ACCEPT: &[u8; ACCEPT_KEY_LEN] = b"rLHCkw/SKsO9GAH/ZSFhBATDKrU=";
    const BARE: ReplyHeaders<'_> = ReplyHeaders {
        date: None,
        server: None,
    };
    const DATED: ReplyHeaders<'_> = ReplyHeaders {
        date: Some("Sun, 06 Nov 1994 08:49:37 GMT"),
        server: Some("ringwire"),
    };

    fn accepted(answer: &Answer, reply: &ReplyHeaders<'_>) -> String {
        let mut out = Vec::new();
        encode_switching_protocols(&mut out, ACCEPT, answer, reply);
        String::from_utf8(out).unwrap()
    }

    fn refused(refusal: &Refusal, reply: &ReplyHeaders<'_>, content: Content) -> String {
        let mut out = Vec::new();
        encode_refusal(&mut out, refusal, reply, content);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn section_4_2_2_the_shortest_acceptance() {
        assert_eq!(
            accepted(&Answer::new(), &BARE),
            "HTTP/1.1 101 Switching Protocols\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: rLHCkw/SKsO9GAH/ZSFhBATDKrU=\r\n\r\n"
        );
    }

    #[test]
    fn section_4_2_2_everything_a_service_may_change() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: uRovscZjNol/umbTt5uKmw==\r\n\
            Sec-WebSocket-Protocol: v2.chat, v1.chat\r\n\r\n";
        let request = Request::parse(head).unwrap();
        let upgrade = check_upgrade(&request).unwrap();
        let mut answer = Answer::new();
        for name in ["", "v1", "V1.chat", "v3.chat", "v2.chat, v1.chat"] {
            let chosen = answer.choose_subprotocol(&upgrade, name);
            assert_eq!(chosen, Err(FieldError::SubprotocolNotOffered), "{name}");
        }
        assert_eq!(answer, Answer::default());
        answer.choose_subprotocol(&upgrade, "v2.chat").unwrap();
        answer.choose_subprotocol(&upgrade, "v1.chat").unwrap();
        answer
            .set_reason_phrase("Web Socket Protocol Handshake")
            .unwrap();
        answer
            .add_header("Access-Control-Allow-Origin", "http://websocket.org")
            .unwrap();
        answer.add_header("Set-Cookie", "a=1").unwrap();
        answer.add_header("Set-Cookie", "b=2").unwrap();
        assert_eq!(
            accepted(&answer, &DATED),
            "HTTP/1.1 101 Web Socket Protocol Handshake\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: rLHCkw/SKsO9GAH/ZSFhBATDKrU=\r\n\
             Sec-WebSocket-Protocol: v1.chat\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Server: ringwire\r\n\
             Access-Control-Allow-Origin: http://websocket.org\r\n\
             Set-Cookie: a=1\r\n\
             Set-Cookie: b=2\r\n\r\n"
        );
    }

    #[test]
    fn the_recorded_acceptance_of_2012() {
        let head = b"GET ws://echo.websocket.org/?encoding=text HTTP/1.1\r\n\
            Origin: http://websocket.org\r\nCookie: __utma=99as\r\nConnection: Upgrade\r\n\
            Host: echo.websocket.org\r\nSec-WebSocket-Key: uRovscZjNol/umbTt5uKmw==\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n";
        let request = Request::parse(head).unwrap();
        let mut answer = Answer::new();
        answer.imitate_kaazing(&request);
        let recorded = ReplyHeaders {
            date: Some("Fri, 10 Feb 2012 17:38:18 GMT"),
            server: Some("Kaazing Gateway"),
        };
        assert_eq!(
            accepted(&answer, &recorded),
            "HTTP/1.1 101 WebSocket Protocol Handshake\r\n\
             Date: Fri, 10 Feb 2012 17:38:18 GMT\r\n\
             Connection: Upgrade\r\n\
             Server: Kaazing Gateway\r\n\
             Upgrade: WebSocket\r\n\
             Access-Control-Allow-Origin: http://websocket.org\r\n\
             Access-Control-Allow-Credentials: true\r\n\
             Sec-WebSocket-Accept: rLHCkw/SKsO9GAH/ZSFhBATDKrU=\r\n\
             Access-Control-Allow-Headers: content-type\r\n\r\n"
        );
        // What a service adds is still there, and what was not sent is not echoed.
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        answer.imitate_kaazing(&Request::parse(head).unwrap());
        answer.set_reason_phrase("Fine").unwrap();
        answer.add_header("Set-Cookie", "a=1").unwrap();
        answer.subprotocol = Some("chat".into());
        let agreed = check_answer([NAME.as_bytes()].into_iter(), &[Offer::default()]);
        answer.agree_on(agreed.unwrap().unwrap());
        assert_eq!(
            accepted(&answer, &BARE),
            "HTTP/1.1 101 Fine\r\n\
             Connection: Upgrade\r\n\
             Upgrade: WebSocket\r\n\
             Sec-WebSocket-Accept: rLHCkw/SKsO9GAH/ZSFhBATDKrU=\r\n\
             Sec-WebSocket-Protocol: chat\r\n\
             Sec-WebSocket-Extensions: permessage-deflate\r\n\
             Set-Cookie: a=1\r\n\r\n"
        );
    }

    #[test]
    fn what_a_service_must_not_add() {
        let cases: &[(&str, &str, FieldError)] = &[
            ("", "v", FieldError::HeaderNameInvalid),
            ("a b", "v", FieldError::HeaderNameInvalid),
            ("a:", "v", FieldError::HeaderNameInvalid),
            ("a\r\nb", "v", FieldError::HeaderNameInvalid),
            ("\u{e4}", "v", FieldError::HeaderNameInvalid),
            ("a", "v\r\nb: c", FieldError::HeaderValueInvalid),
            ("a", "v\r", FieldError::HeaderValueInvalid),
            ("a", "\nv", FieldError::HeaderValueInvalid),
            ("a", "v\0", FieldError::HeaderValueInvalid),
            ("a", "v\u{7f}", FieldError::HeaderValueInvalid),
            ("upgrade", "h2c", FieldError::HeaderReserved),
            ("CONNECTION", "close", FieldError::HeaderReserved),
            ("Content-Length", "0", FieldError::HeaderReserved),
            ("Transfer-Encoding", "chunked", FieldError::HeaderReserved),
            ("Date", "now", FieldError::HeaderReserved),
            ("Sec-WebSocket-Accept", "v", FieldError::HeaderReserved),
            ("sec-websocket-protocol", "v", FieldError::HeaderReserved),
            ("Sec-WebSocket-Extensions", "v", FieldError::HeaderReserved),
        ];
        for &(name, value, error) in cases {
            let mut answer = Answer::new();
            assert_eq!(
                answer.add_header(name, value),
                Err(error),
                "{name:?} {value:?}"
            );
            assert_eq!(answer, Answer::new());
            let mut refusal = Refusal::from(HandshakeError::Forbidden);
            assert_eq!(
                refusal.add_header(name, value),
                Err(error),
                "{name:?} {value:?}"
            );
        }
        let mut answer = Answer::new();
        let injected = answer.set_reason_phrase("OK\r\nSet-Cookie: a=1");
        assert_eq!(injected, Err(FieldError::ReasonPhraseInvalid));
        answer.add_header("Sec-WebSocke", "\u{e4}\tb").unwrap();
    }

    #[test]
    fn a_refusal_is_a_whole_reply() {
        let refusal = Refusal::from(HandshakeError::NotFound);
        let head = "HTTP/1.1 404 Not Found\r\n\
            Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
            Server: ringwire\r\n\
            Connection: close\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            X-Content-Type-Options: nosniff\r\n\
            Content-Length: 59\r\n\r\n";
        let body = "Nothing is served at this path; check the path of the URL.\n";
        assert_eq!(
            refused(&refusal, &DATED, Content::Sent),
            format!("{head}{body}")
        );
        assert_eq!(refused(&refusal, &DATED, Content::for_method("HEAD")), head);
    }

    #[test]
    fn section_4_4_and_rfc_9110_section_15_5_required_headers() {
        for &error in HandshakeError::ALL {
            let text = refused(&Refusal::from(error), &BARE, Content::Sent);
            let has = |line: &str| text.contains(&format!("\r\n{line}\r\n"));
            let needs_upgrade = error.http_status() == 426;
            assert_eq!(has("Upgrade: websocket"), needs_upgrade, "{error:?}");
            assert_eq!(has("Sec-WebSocket-Version: 13"), needs_upgrade, "{error:?}");
            assert_eq!(
                has("Connection: Upgrade, close"),
                needs_upgrade,
                "{error:?}"
            );
            assert_eq!(has("Connection: close"), !needs_upgrade, "{error:?}");
            assert_eq!(
                has("Allow: GET, HEAD"),
                error.http_status() == 405,
                "{error:?}"
            );
            assert!(!text.contains("Date:") && !text.contains("Server:"));
            assert!(!reason_phrase(error.http_status()).is_empty(), "{error:?}");
        }
        let own = Refusal::new(426, "Use ws://.\n").unwrap();
        assert!(refused(&own, &BARE, Content::Sent).contains("\r\nUpgrade: websocket\r\n"));
    }

    #[test]
    fn a_refusal_of_a_services_own() {
        for status in [0, 101, 200, 299, 600] {
            assert_eq!(
                Refusal::new(status, ""),
                Err(FieldError::StatusOutOfRange),
                "{status}"
            );
        }
        let mut refusal = Refusal::new(401, String::from("Log in first.\n")).unwrap();
        refusal.add_header("WWW-Authenticate", "Bearer").unwrap();
        let text = refused(&refusal, &BARE, Content::Sent);
        assert!(text.starts_with("HTTP/1.1 401 Unauthorized\r\n"));
        assert!(text.ends_with(
            "\r\nContent-Length: 14\r\nWWW-Authenticate: Bearer\r\n\r\nLog in first.\n"
        ));
        refusal.set_content("application/json", &b"{}"[..]).unwrap();
        let text = refused(&refusal, &BARE, Content::Sent);
        assert!(text.contains("\r\nContent-Type: application/json\r\n"));
        assert!(text.ends_with("\r\n\r\n{}"));
        let injected = refusal.set_content("a\r\nb: c", &b""[..]);
        assert_eq!(injected, Err(FieldError::HeaderValueInvalid));
        let nameless = Refusal::new(499, "").unwrap();
        assert!(refused(&nameless, &BARE, Content::Sent).starts_with("HTTP/1.1 499 \r\n"));
    }

    #[test]
    fn pages() {
        let mut page = HttpReply::new(200, "text/html; charset=utf-8", &b"<p>"[..]).unwrap();
        page.add_header("Cache-Control", "no-store").unwrap();
        let mut out = b"before".to_vec();
        encode_http_reply(&mut out, &page, &BARE, Content::Sent);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "beforeHTTP/1.1 200 OK\r\n\
             Connection: close\r\n\
             Content-Type: text/html; charset=utf-8\r\n\
             X-Content-Type-Options: nosniff\r\n\
             Content-Length: 3\r\n\
             Cache-Control: no-store\r\n\r\n<p>"
        );
        for status in [204, 304] {
            let mut out = Vec::new();
            let reply = HttpReply::new(status, "text/plain", &b"unseen"[..]).unwrap();
            encode_http_reply(&mut out, &reply, &BARE, Content::Sent);
            let text = String::from_utf8(out).unwrap();
            assert!(text.ends_with("\r\nConnection: close\r\n\r\n"), "{text}");
        }
        assert_eq!(
            HttpReply::new(101, "", &b""[..]),
            Err(FieldError::StatusOutOfRange)
        );
        assert_eq!(
            HttpReply::new(200, "a\n", &b""[..]),
            Err(FieldError::HeaderValueInvalid)
        );
    }

    #[test]
    fn decimals() {
        for number in [0, 9, 10, 99, 100, 12_345, usize::MAX] {
            let mut out = b"7".to_vec();
            push_decimal(&mut out, number);
            assert_eq!(out, format!("7{number}").as_bytes());
        }
    }
}
