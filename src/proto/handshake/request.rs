//! A request as the server reads it, and whether it is an opening handshake.
//!
//! Knows the request line of RFC 9112 section 3, the headers that decide about an upgrade (RFC 6455
//! section 4.2.1), query strings and cookies. Refuses to know paths that exist, origins that are
//! welcome and what extensions mean. Borrows everything from the head and allocates nothing; only
//! percent-decoding a query that holds escapes makes a new string.
//!
//! ```text
//!  GET ws://echo.example/chat?encoding=text HTTP/1.1
//!      '-------------- target -------------'
//!           authority --- path query
//! ```

use std::borrow::Cow;
use std::net::Ipv6Addr;

use super::super::{Version, hixie::Challenge};
use super::HandshakeError;
use super::accept_key::{ACCEPT_KEY_LEN, accept_key};
use super::head::{HeadScanner, Headers, Occurrence, is_token, list_items};

/// The length of a `Sec-WebSocket-Key` value: 16 bytes in base64.
pub const KEY_LEN: usize = 24;

/// The HTTP versions a request may have; every other is answered with 505.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum HttpVersion {
    /// HTTP/1.0: enough for a page or a health check, never for an upgrade.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// A request whose head is well formed, borrowed from the bytes it arrived in.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    method: &'a str,
    target: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    version: HttpVersion,
    host: Option<&'a str>,
    origin: Option<&'a str>,
    announces_body: bool,
    headers: Headers<'a>,
}

impl<'a> Request<'a> {
    /// Reads one head, from its request line (or the one empty line tolerated before it) to the
    /// empty line that ends it. What follows the head in `head` is not looked at.
    ///
    /// # Errors
    ///
    /// Everything [`HeadScanner`] refuses, so that this function is as strict without it, and
    /// whatever could be read in two ways: a request line, target, `Host`, `Origin`,
    /// `Content-Length` or header name that breaks its grammar, a repeated header of these,
    /// `CONNECT`, and versions other than HTTP/1.0 and HTTP/1.1.
    pub fn parse(head: &'a [u8]) -> Result<Request<'a>, HandshakeError> {
        let head_len = HeadScanner::new()
            .push(head, usize::MAX)?
            .ok_or(HandshakeError::HeadIncomplete)?;
        let head = &head[..head_len];

        let mut headers = Headers::new();
        let mut parsed = httparse::Request::new(headers.lines_mut());
        match parsed.parse(head) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(HandshakeError::HeadIncomplete),
            Err(error) => return Err(parse_error(error, head)),
        }
        let version = match parsed.version {
            Some(0) => HttpVersion::Http10,
            Some(1) => HttpVersion::Http11,
            _ => return Err(HandshakeError::HttpVersionUnsupported),
        };
        let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
            return Err(HandshakeError::RequestLineInvalid);
        };
        let headers_len = parsed.headers.len();
        headers.keep(headers_len);

        let Target {
            authority,
            path,
            query,
        } = Target::parse(method, target)?;
        let named = NamedHeaders::collect(&headers)?;
        if named.host.is_none() && version == HttpVersion::Http11 {
            return Err(HandshakeError::HostMissing);
        }
        // RFC 9112 section 3.2.2: of an absolute target the server ignores Host.
        let host = authority.or(named.host).map(|authority| authority.text);
        Ok(Request {
            method,
            target,
            path,
            query,
            version,
            host,
            origin: named.origin,
            announces_body: named.announces_body,
            headers,
        })
    }

    /// The method, in the case it was sent: methods are case-sensitive (RFC 9110 section 9.1).
    pub const fn method(&self) -> &'a str {
        self.method
    }

    /// The request target as sent.
    pub const fn target(&self) -> &'a str {
        self.target
    }

    /// The path of the target, not percent-decoded. `/` when an absolute target has none, `*` for
    /// `OPTIONS *`.
    pub const fn path(&self) -> &'a str {
        self.path
    }

    /// What follows the first `?` of the target, not decoded. `Some("")` for a lone `?`.
    pub const fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// The query's pairs, decoded the way browsers encode them (the URL Standard's
    /// `application/x-www-form-urlencoded`): `+` is a space, a `%` that begins no escape stands for
    /// itself, and escaped bytes that are not UTF-8 become U+FFFD. A name without `=` has an empty
    /// value.
    pub fn query_pairs(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        self.query
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (form_decode(name), form_decode(value))
            })
    }

    /// The decoded value of the first query pair called `name`, which is compared decoded and with
    /// its case.
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        self.query_pairs()
            .find_map(|(sent, value)| (sent == name).then_some(value))
    }

    /// The HTTP version of the request line.
    pub const fn version(&self) -> HttpVersion {
        self.version
    }

    /// The host and optional port the request is for, as sent. Only an HTTP/1.0 request can lack
    /// it.
    pub const fn host(&self) -> Option<&'a str> {
        self.host
    }

    /// The `Origin` header (RFC 6454): visible ASCII, sent at most once. Browsers always send it
    /// with an opening handshake; other clients need not. `Some("null")` is an opaque origin,
    /// and an empty one, which no browser sends, is no origin of any list.
    pub const fn origin(&self) -> Option<&'a str> {
        self.origin
    }

    /// All header lines.
    pub const fn headers(&self) -> &Headers<'a> {
        &self.headers
    }

    /// The value of the first header called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.first(name)
    }

    /// The values of all headers called `name`, in any case, in order.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.all(name)
    }

    /// The cookies, name and value, in the order they were sent (RFC 6265 section 4.2). Quotes
    /// around a value belong to it. Pairs without a name or without `=`, and pairs that are not
    /// UTF-8, are passed over; [`header_values`](Self::header_values) has them all.
    pub fn cookies(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.headers
            .all("cookie")
            .flat_map(|value| value.split(|&byte| byte == b';'))
            .filter_map(|pair| {
                let (name, value) = str::from_utf8(pair).ok()?.split_once('=')?;
                let (name, value) = (
                    name.trim_matches([' ', '\t']),
                    value.trim_matches([' ', '\t']),
                );
                (!name.is_empty()).then_some((name, value))
            })
    }

    /// The value of the first cookie called `name`, with its case. The browser sends the one with
    /// the longest matching path first (RFC 6265 section 5.4).
    pub fn cookie(&self, name: &str) -> Option<&'a str> {
        self.cookies()
            .find_map(|(sent, value)| (sent == name).then_some(value))
    }

    /// The subprotocols the client offers, most wanted first, over all `Sec-WebSocket-Protocol`
    /// lines (RFC 6455 section 11.3.4). Items that are no token are passed over here;
    /// [`check_upgrade`] refuses them.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        self.headers
            .all("sec-websocket-protocol")
            .flat_map(list_items)
            .filter(|item| is_token(item))
            .filter_map(|item| str::from_utf8(item).ok())
    }

    /// Whether the request asks to become a WebSocket, well formed or not: `Upgrade` holds
    /// `websocket`. A request for which this is false is an ordinary HTTP request.
    pub fn is_upgrade(&self) -> bool {
        self.headers.list_contains("upgrade", "websocket")
    }

    /// Whether it was most likely to become a WebSocket, and has lost `Upgrade` on its way: a proxy
    /// that is not told to passes `Sec-WebSocket-Key` on and `Upgrade` not.
    pub fn has_lost_upgrade(&self) -> bool {
        self.method == "GET"
            && self.header("sec-websocket-key").is_some()
            && self.header("upgrade").is_none()
    }

    /// Whether a body follows the head: `Transfer-Encoding` is present or `Content-Length` is not
    /// zero. [`check_upgrade`] refuses it; a server of pages must either read it or close the
    /// connection after its reply.
    pub const fn announces_body(&self) -> bool {
        self.announces_body
    }
}

/// Decides whether a request that was routed to a WebSocket path is a valid opening handshake of
/// the client (RFC 6455 section 4.2.1).
///
/// The checks run in the order of what a client must repair first: the method, a body, the upgrade
/// itself, the HTTP version, the WebSocket version, the key, the subprotocols.
///
/// HTTP/1.0 is refused with 400 and not with 505, because 505 speaks of the *major* version (RFC
/// 9110 section 15.6.6) and the same client may fetch a page here by HTTP/1.0. A missing
/// `Sec-WebSocket-Version` is answered like a wrong one, so that the client learns the right one.
///
/// # Errors
///
/// [`HandshakeError`], with the status of each in its table.
pub fn check_upgrade<'a>(request: &'a Request<'a>) -> Result<Upgrade<'a>, HandshakeError> {
    check_hop(request)?;
    let headers = &request.headers;
    match headers.only("sec-websocket-version") {
        Occurrence::Once(b"13") => {}
        Occurrence::Once(value) if value.contains(&b',') => {
            return Err(HandshakeError::VersionRepeated);
        }
        Occurrence::Repeated => return Err(HandshakeError::VersionRepeated),
        Occurrence::Once(_) | Occurrence::Missing => {
            return Err(HandshakeError::VersionUnsupported);
        }
    }
    let key = match headers.only("sec-websocket-key") {
        Occurrence::Once(value) => key_of_16_bytes(value).ok_or(HandshakeError::KeyInvalid)?,
        Occurrence::Repeated => return Err(HandshakeError::KeyRepeated),
        Occurrence::Missing => return Err(HandshakeError::KeyMissing),
    };
    if !headers
        .all("sec-websocket-protocol")
        .flat_map(list_items)
        .all(is_token)
    {
        return Err(HandshakeError::SubprotocolInvalid);
    }
    let keys = Keys::Rfc6455(key);
    Ok(Upgrade { request, keys })
}

/// The part of it that is HTTP and the same for every version of WebSocket.
pub(in crate::proto) fn check_hop(request: &Request<'_>) -> Result<(), HandshakeError> {
    if request.method != "GET" {
        return Err(HandshakeError::MethodNotAllowed);
    }
    if request.announces_body {
        return Err(HandshakeError::BodyNotAllowed);
    }
    if !request.is_upgrade() {
        return Err(match request.has_lost_upgrade() {
            true => HandshakeError::UpgradeDropped,
            false => HandshakeError::UpgradeRequired,
        });
    }
    if request.version < HttpVersion::Http11 {
        return Err(HandshakeError::UpgradeOverHttp10);
    }
    if !request.headers.list_contains("connection", "upgrade") {
        return Err(HandshakeError::ConnectionWithoutUpgrade);
    }
    Ok(())
}

/// A valid opening handshake of a client, which a service may accept or refuse.
#[derive(Clone, Copy, Debug)]
pub struct Upgrade<'a> {
    request: &'a Request<'a>,
    keys: Keys<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Keys<'a> {
    Hixie76(Challenge),
    Rfc6455(&'a [u8; KEY_LEN]),
}

/// How a client learns that its opening handshake was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By the value of `Sec-WebSocket-Accept` (RFC 6455 section 4.2.2).
    AcceptKey([u8; ACCEPT_KEY_LEN]),
    /// By what follows the head (hixie-76).
    Challenge(Challenge),
}

impl<'a> Upgrade<'a> {
    /// The request behind it.
    pub const fn request(&self) -> &'a Request<'a> {
        self.request
    }

    /// One of the draft before RFC 6455; [`hixie`](crate::proto::hixie) has checked it.
    pub(in crate::proto) const fn of_hixie76(
        request: &'a Request<'a>,
        challenge: Challenge,
    ) -> Upgrade<'a> {
        let keys = Keys::Hixie76(challenge);
        Upgrade { request, keys }
    }

    /// Which protocol the client asks for.
    pub const fn version(&self) -> Version {
        match self.keys {
            Keys::Hixie76(_) => Version::Hixie76,
            Keys::Rfc6455(_) => Version::Rfc6455,
        }
    }

    /// `Sec-WebSocket-Key` as sent; `None` in hixie-76, which has keys of another kind.
    pub const fn key(&self) -> Option<&'a [u8; KEY_LEN]> {
        match self.keys {
            Keys::Hixie76(_) => None,
            Keys::Rfc6455(key) => Some(key),
        }
    }

    /// What answers the key.
    pub fn proof(&self) -> Proof {
        match self.keys {
            Keys::Hixie76(challenge) => Proof::Challenge(challenge),
            Keys::Rfc6455(key) => Proof::AcceptKey(accept_key(key)),
        }
    }

    /// The subprotocols the client offers, most wanted first; all of them tokens.
    pub fn subprotocols(&self) -> impl Iterator<Item = &'a str> {
        self.request.subprotocols()
    }

    /// The `Sec-WebSocket-Extensions` values as sent, one per header line. Each is a list of its
    /// own, to be read as if the lines were joined by commas (RFC 6455 section 9.1). None in
    /// hixie-76.
    pub fn extensions(&self) -> impl Iterator<Item = &'a [u8]> {
        let has_extensions = self.version() == Version::Rfc6455;
        let values = self.request.headers.all("sec-websocket-extensions");
        values.filter(move |_| has_extensions)
    }
}

/// The key if it has the form of 16 bytes in base64: 22 digits and two paddings. The four bits of
/// the last digit that carry no data may be set, which RFC 4648 section 3.5 leaves to the decoder:
/// the key is hashed as text, so nothing depends on them, and clients exist that draw 22 random
/// digits.
fn key_of_16_bytes(value: &[u8]) -> Option<&[u8; KEY_LEN]> {
    let key: &[u8; KEY_LEN] = value.try_into().ok()?;
    let (digits, padding) = key.split_at(KEY_LEN - 2);
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    (padding == b"==" && digits.iter().all(is_digit)).then_some(key)
}

/// What `httparse` found wrong, in our words.
fn parse_error(error: httparse::Error, head: &[u8]) -> HandshakeError {
    match error {
        httparse::Error::HeaderName => HandshakeError::HeaderNameInvalid,
        httparse::Error::HeaderValue => HandshakeError::ControlCharacter,
        httparse::Error::TooManyHeaders => HandshakeError::HeadersTooMany,
        httparse::Error::Version if names_another_version(head) => {
            HandshakeError::HttpVersionUnsupported
        }
        _ => HandshakeError::RequestLineInvalid,
    }
}

/// Whether the request line has three parts of which the last is a version (RFC 9112 section 2.3).
/// Only then is the version unsupported rather than the line malformed; the preface of HTTP/2,
/// `PRI * HTTP/2.0`, is the case that happens.
fn names_another_version(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|&byte| byte == b' ');
    let (_method, _target, version) = (parts.next(), parts.next(), parts.next());
    parts.next().is_none()
        && matches!(
            version,
            Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
        )
}

/// The headers that a request may hold at most once, gathered in one pass.
struct NamedHeaders<'a> {
    host: Option<Authority<'a>>,
    origin: Option<&'a str>,
    announces_body: bool,
}

impl<'a> NamedHeaders<'a> {
    fn collect(headers: &Headers<'a>) -> Result<NamedHeaders<'a>, HandshakeError> {
        let mut host = None;
        let mut origin = None;
        let mut content_length = None;
        let mut transfer_encoding = false;
        for (name, value) in headers.iter() {
            if name.eq_ignore_ascii_case("host") {
                let text = str::from_utf8(value).map_err(|_| HandshakeError::HostInvalid)?;
                let authority = Authority::parse(text).ok_or(HandshakeError::HostInvalid)?;
                if host.replace(authority).is_some() {
                    return Err(HandshakeError::HostRepeated);
                }
            } else if name.eq_ignore_ascii_case("origin") {
                // An empty one is nobody's origin: no list has it.
                let visible = value.iter().all(u8::is_ascii_graphic);
                let text = str::from_utf8(value).ok().filter(|_| visible);
                if origin
                    .replace(text.ok_or(HandshakeError::OriginInvalid)?)
                    .is_some()
                {
                    return Err(HandshakeError::OriginInvalid);
                }
            } else if name.eq_ignore_ascii_case("content-length") {
                let length = decimal(value).ok_or(HandshakeError::ContentLengthInvalid)?;
                if content_length.replace(length).is_some() {
                    return Err(HandshakeError::ContentLengthInvalid);
                }
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                transfer_encoding = true;
            }
        }
        let announces_body = transfer_encoding || content_length.is_some_and(|length| length > 0);
        Ok(NamedHeaders {
            host,
            origin,
            announces_body,
        })
    }
}

/// Digits only: `str::parse` alone would let a sign through.
fn decimal(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// A request target taken apart (RFC 9112 section 3.2).
struct Target<'a> {
    /// Of an absolute target.
    authority: Option<Authority<'a>>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn parse(method: &str, target: &'a str) -> Result<Target<'a>, HandshakeError> {
        if method == "CONNECT" {
            return Err(HandshakeError::MethodNotAllowed);
        }
        if target.contains('#') {
            return Err(HandshakeError::FragmentInTarget);
        }
        if !target.is_ascii() {
            return Err(HandshakeError::TargetInvalid);
        }
        if target == "*" && method == "OPTIONS" {
            return Ok(Target {
                authority: None,
                path: target,
                query: None,
            });
        }
        let (authority, resource) = if target.starts_with('/') {
            (None, target)
        } else {
            let (authority, resource) =
                split_absolute(target).ok_or(HandshakeError::TargetInvalid)?;
            (Some(authority), resource)
        };
        let (path, query) = match resource.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (resource, None),
        };
        Ok(Target {
            authority,
            path: if path.is_empty() { "/" } else { path },
            query,
        })
    }
}

/// Splits `ws://host:port/path?query` into its authority, and the path and query.
fn split_absolute(target: &str) -> Option<(Authority<'_>, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let known = ["ws", "http", "wss", "https"];
    if !known.iter().any(|it| scheme.eq_ignore_ascii_case(it)) {
        return None;
    }
    let (authority, resource) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    Some((Authority::parse(authority)?, resource))
}

/// A host and optional port, without user information (RFC 3986 section 3.2, RFC 9110 section
/// 4.2.4).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Authority<'a> {
    pub(super) text: &'a str,
    /// The host, an IPv6 address in its brackets.
    pub(super) host: &'a str,
    pub(super) port: Option<u16>,
}

impl<'a> Authority<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Authority<'a>> {
        let host_len = if text.starts_with('[') {
            text.find(']')? + 1
        } else {
            text.find(':').unwrap_or(text.len())
        };
        let (host, rest) = text.split_at(host_len);
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return None,
            // RFC 3986 section 3.2.3: an empty port is the default port.
            Some("") => None,
            Some(digits) => Some(u16::try_from(decimal(digits.as_bytes())?).ok()?),
        };
        is_host(host).then_some(Authority { text, host, port })
    }
}

/// `uri-host` of RFC 3986 section 3.2.2 without zone identifiers and future address kinds, and not
/// empty (RFC 9110 section 4.2.1).
fn is_host(host: &str) -> bool {
    if let Some(address) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let mut bytes = host.bytes();
    while let Some(byte) = bytes.next() {
        let valid = match byte {
            b'%' => [bytes.next(), bytes.next()]
                .iter()
                .all(|digit| digit.is_some_and(|digit| digit.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte),
        };
        if !valid {
            return false;
        }
    }
    !host.is_empty()
}

/// Decodes one name or value of a query string; borrowed when nothing is escaped.
fn form_decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (*first, tail) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    rest = after;
                }
                _ => decoded.push(b'%'),
            },
            (byte, _) => decoded.push(byte),
        }
    }
    Cow::Owned(match String::from_utf8_lossy(&decoded) {
        // Nothing was replaced, so the bytes are UTF-8 already and can be kept.
        Cow::Borrowed(valid) => valid.to_owned(),
        Cow::Owned(replaced) => replaced,
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use HandshakeError::*;

    /// The request of the exchange that RFC 6455 clients of 2012 were demonstrated with.
    const RECORDED: &str = "GET ws://echo.websocket.org/?encoding=text HTTP/1.1\r\n\
        Origin: http://websocket.org\r\n\
        Cookie: __utma=99as\r\n\
        Connection: Upgrade\r\n\
        Host: echo.websocket.org\r\n\
        Sec-WebSocket-Key: uRovscZjNol/umbTt5uKmw==\r\n\
        Upgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";

    /// The example of RFC 6455 section 1.2.
    const SECTION_1_2: &str = "GET /chat HTTP/1.1\r\n\
        Host: server.example.com\r\n\
        Upgrade: websocket\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Origin: http://example.com\r\n\
        Sec-WebSocket-Protocol: chat, superchat\r\n\
        Sec-WebSocket-Version: 13\r\n\r\n";

    fn parse_error_of(head: &str) -> Option<HandshakeError> {
        Request::parse(head.as_bytes()).err()
    }

    fn upgrade_error_of(head: &str) -> Option<HandshakeError> {
        let request = Request::parse(head.as_bytes()).expect(head);
        check_upgrade(&request).err()
    }

    /// `GET / HTTP/1.1` with `lines`, each without its line end.
    fn get(lines: &[&str]) -> String {
        format!("GET / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n"))
    }

    #[test]
    fn reads_the_recorded_request() {
        let request = Request::parse(RECORDED.as_bytes()).unwrap();
        assert_eq!(request.method(), "GET");
        assert_eq!(request.target(), "ws://echo.websocket.org/?encoding=text");
        assert_eq!(request.path(), "/");
        assert_eq!(request.query(), Some("encoding=text"));
        assert_eq!(request.query_value("encoding").as_deref(), Some("text"));
        assert_eq!(request.query_value("Encoding"), None);
        assert_eq!(request.version(), HttpVersion::Http11);
        assert_eq!(request.host(), Some("echo.websocket.org"));
        assert_eq!(request.origin(), Some("http://websocket.org"));
        assert_eq!(request.cookie("__utma"), Some("99as"));
        assert_eq!(request.headers().len(), 7);
        assert_eq!(request.subprotocols().next(), None);
        assert!(request.is_upgrade());
        let upgrade = check_upgrade(&request).unwrap();
        assert_eq!(upgrade.version(), Version::Rfc6455);
        assert_eq!(upgrade.key(), Some(b"uRovscZjNol/umbTt5uKmw=="));
        assert_eq!(
            upgrade.proof(),
            Proof::AcceptKey(*b"rLHCkw/SKsO9GAH/ZSFhBATDKrU=")
        );
        assert_eq!(upgrade.extensions().next(), None);
    }

    #[test]
    fn section_1_2_example() {
        let request = Request::parse(SECTION_1_2.as_bytes()).unwrap();
        let upgrade = check_upgrade(&request).unwrap();
        assert_eq!(upgrade.request().path(), "/chat");
        assert_eq!(
            upgrade.proof(),
            Proof::AcceptKey(*b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert!(upgrade.subprotocols().eq(["chat", "superchat"]));
    }

    #[test]
    fn borrows_from_the_head_and_ignores_what_follows() {
        let bytes = format!("\r\n{SECTION_1_2}\0\0\n");
        let request = Request::parse(bytes.as_bytes()).unwrap();
        let range = bytes.as_bytes().as_ptr_range();
        assert!(range.contains(&request.path().as_ptr()));
        assert!(range.contains(&request.header("host").unwrap().as_ptr()));
    }

    #[test]
    fn rfc_9112_section_3_2_targets() {
        let accepted: &[(&str, &str, &str, Option<&str>)] = &[
            ("GET", "/", "/", None),
            ("GET", "/?", "/", Some("")),
            ("GET", "/a/b?c=d?e", "/a/b", Some("c=d?e")),
            ("GET", "//b/c", "//b/c", None),
            ("GET", "/%20|{}", "/%20|{}", None),
            ("GET", "ws://a", "/", None),
            ("GET", "ws://a?q", "/", Some("q")),
            ("GET", "WS://A:80/x", "/x", None),
            ("GET", "Http://a:/x", "/x", None),
            ("POST", "http://a/x", "/x", None),
            ("OPTIONS", "*", "*", None),
            ("OPTIONS", "/x", "/x", None),
        ];
        for &(method, target, path, query) in accepted {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let request = Request::parse(head.as_bytes()).expect(&head);
            assert_eq!(
                (
                    request.method(),
                    request.target(),
                    request.path(),
                    request.query()
                ),
                (method, target, path, query)
            );
        }
        let refused: &[(&str, &str, HandshakeError)] = &[
            ("GET", "*", TargetInvalid),
            ("GET", "a", TargetInvalid),
            ("GET", "a:80", TargetInvalid),
            ("GET", "?q", TargetInvalid),
            ("GET", "ws:/a", TargetInvalid),
            ("GET", "ws://", TargetInvalid),
            ("GET", "ws:///x", TargetInvalid),
            ("GET", "ftp://a/", TargetInvalid),
            ("GET", "ws://user@a/", TargetInvalid),
            ("GET", "ws://a:65536/", TargetInvalid),
            ("GET", "ws://[::1/", TargetInvalid),
            ("GET", "/\u{e4}", TargetInvalid),
            ("GET", "/#top", FragmentInTarget),
            ("GET", "ws://a/#top", FragmentInTarget),
            ("CONNECT", "a:443", MethodNotAllowed),
        ];
        for &(method, target, error) in refused {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(parse_error_of(&head), Some(error), "{method} {target}");
        }
    }

    #[test]
    fn rfc_9112_section_3_2_2_an_absolute_target_wins() {
        let cases: &[(&str, &str, &str)] = &[
            ("ws://echo.example/", "echo.example", "echo.example"),
            (
                "ws://echo.example:8080/",
                "echo.example",
                "echo.example:8080",
            ),
            ("wss://[::1]:8080/", "echo.example", "[::1]:8080"),
            ("http://echo.example/", "proxy.example:3128", "echo.example"),
            ("/", "echo.example", "echo.example"),
        ];
        for &(target, host, expected) in cases {
            let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let request = Request::parse(head.as_bytes()).unwrap();
            assert_eq!(request.host(), Some(expected), "{target} {host}");
        }
    }

    #[test]
    fn rfc_9110_section_7_8_an_upgrade_that_a_proxy_dropped() {
        // What nginx sends without being told otherwise, and with HTTP/1.1 alone.
        for version in ["1.0", "1.1"] {
            let head = format!(
                "GET / HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            );
            assert_eq!(upgrade_error_of(&head), Some(UpgradeDropped));
        }
    }

    #[test]
    fn rfc_9112_section_3_request_lines() {
        let cases: &[(&str, HandshakeError)] = &[
            ("GET /", RequestLineInvalid),
            ("GET  / HTTP/1.1", RequestLineInvalid),
            ("GET /  HTTP/1.1", RequestLineInvalid),
            ("GET / HTTP/1.1 ", RequestLineInvalid),
            ("GET / b HTTP/1.1", RequestLineInvalid),
            ("GET\t/ HTTP/1.1", RequestLineInvalid),
            ("GET /\t HTTP/1.1", RequestLineInvalid),
            ("G(T / HTTP/1.1", RequestLineInvalid),
            ("GET / http/1.1", RequestLineInvalid),
            ("GET / HTTP/1.12", RequestLineInvalid),
            ("GET / HTTP/11", RequestLineInvalid),
            ("GET / HTTP/2.0 b", RequestLineInvalid),
            ("HTTP/1.1 101 Switching Protocols", RequestLineInvalid),
            ("GET / HTTP/0.9", HttpVersionUnsupported),
            ("GET / HTTP/1.2", HttpVersionUnsupported),
            ("GET / HTTP/2.0", HttpVersionUnsupported),
            ("PRI * HTTP/2.0", HttpVersionUnsupported),
        ];
        for &(line, error) in cases {
            let head = format!("{line}\r\nHost: a\r\n\r\n");
            assert_eq!(parse_error_of(&head), Some(error), "{line}");
            assert_eq!(
                parse_error_of(&format!("\r\n{head}")),
                Some(error),
                "{line}"
            );
        }
        assert_eq!(
            parse_error_of("PRI * HTTP/2.0\r\n\r\n"),
            Some(HttpVersionUnsupported)
        );
    }

    #[test]
    fn rfc_9112_section_3_2_host() {
        let cases: &[(&[&str], Option<HandshakeError>)] = &[
            (&["Host: a"], None),
            (&["hOST:a"], None),
            (&["Host: a:"], None),
            (&["Host: a_b.example:65535"], None),
            (&["Host: 127.0.0.1:9001"], None),
            (&["Host: [2001:db8::1]:9001"], None),
            (&["Host: %41.example"], None),
            (&["Accept: */*"], Some(HostMissing)),
            (&["Host: a", "Host: a"], Some(HostRepeated)),
            (&["Host: a", "HOST: b"], Some(HostRepeated)),
            (&["Host:"], Some(HostInvalid)),
            (&["Host: :80"], Some(HostInvalid)),
            (&["Host: a b"], Some(HostInvalid)),
            (&["Host: a, b"], Some(HostInvalid)),
            (&["Host: a/b"], Some(HostInvalid)),
            (&["Host: user@a"], Some(HostInvalid)),
            (&["Host: http://a"], Some(HostInvalid)),
            (&["Host: a:b"], Some(HostInvalid)),
            (&["Host: a:+80"], Some(HostInvalid)),
            (&["Host: a:65536"], Some(HostInvalid)),
            (&["Host: a:80:80"], Some(HostInvalid)),
            (&["Host: %4"], Some(HostInvalid)),
            (&["Host: %zz"], Some(HostInvalid)),
            (&["Host: [::1"], Some(HostInvalid)),
            (&["Host: [::1]a"], Some(HostInvalid)),
            (&["Host: [1.2.3.4]"], Some(HostInvalid)),
            (&["Host: []"], Some(HostInvalid)),
            (&["Host: ::1"], Some(HostInvalid)),
            (&["Host: \u{e4}.example"], Some(HostInvalid)),
        ];
        for (lines, expected) in cases {
            assert_eq!(parse_error_of(&get(lines)), *expected, "{lines:?}");
        }
        assert_eq!(
            Request::parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().host(),
            None
        );
        let absolute = Request::parse(b"GET http://a:81/ HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!(absolute.host(), Some("a:81"));
    }

    #[test]
    fn rfc_9112_section_5_header_lines() {
        let cases: &[(&[&str], HandshakeError)] = &[
            (&["Host: a", "Accept : b"], HeaderNameInvalid),
            (&["Host: a", "Accept\t: b"], HeaderNameInvalid),
            (&["Host: a", "Accept"], HeaderNameInvalid),
            (&["Host: a", "Acc(ept: b"], HeaderNameInvalid),
            (&["Host: a", "\u{e4}: b"], HeaderNameInvalid),
            (&["Host: a", " folded"], ObsoleteFolding),
            (&["Host: a", "Accept: b\nc: d"], BareLineFeed),
            (&["Host: a", "Accept: b\rc: d"], BareCarriageReturn),
            (&["Host: a", "Accept: \u{1}"], ControlCharacter),
        ];
        for (lines, error) in cases {
            assert_eq!(parse_error_of(&get(lines)), Some(*error), "{lines:?}");
        }
        assert_eq!(
            parse_error_of("GET / HTTP/1.1\r\nHost: a\r\n"),
            Some(HeadIncomplete)
        );
        assert_eq!(parse_error_of(""), Some(HeadIncomplete));
    }

    #[test]
    fn rfc_9110_section_5_4_a_hundred_header_lines() {
        let mut lines = vec!["Host: a"; 1];
        lines.resize(100, "Accept: b");
        assert_eq!(
            Request::parse(get(&lines).as_bytes())
                .unwrap()
                .headers()
                .len(),
            100
        );
        lines.push("Accept: b");
        assert_eq!(parse_error_of(&get(&lines)), Some(HeadersTooMany));
    }

    #[test]
    fn rfc_9110_section_5_5_values() {
        let head =
            b"GET / HTTP/1.1\r\nHost:\t a \t\r\nEmpty:\r\nBlank: \t \r\nA: \xFF\tb\r\na: 2\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!(request.host(), Some("a"));
        assert_eq!(request.header("empty"), Some(&b""[..]));
        assert_eq!(request.header("BLANK"), Some(&b""[..]));
        assert_eq!(request.header("a"), Some(&b"\xFF\tb"[..]));
        assert!(request.header_values("A").eq([&b"\xFF\tb"[..], b"2"]));
        assert_eq!(request.header("missing"), None);
    }

    #[test]
    fn rfc_9112_section_6_3_bodies() {
        let cases: &[(&[&str], Result<bool, HandshakeError>)] = &[
            (&[], Ok(false)),
            (&["Content-Length: 0"], Ok(false)),
            (&["Content-Length: 000"], Ok(false)),
            (&["content-length: 1"], Ok(true)),
            (&["Transfer-Encoding: chunked"], Ok(true)),
            (&["Transfer-Encoding:"], Ok(true)),
            (
                &["Content-Length: 0", "Transfer-Encoding: chunked"],
                Ok(true),
            ),
            (
                &["Content-Length: 0", "Content-Length: 0"],
                Err(ContentLengthInvalid),
            ),
            (&["Content-Length: 0, 0"], Err(ContentLengthInvalid)),
            (&["Content-Length:"], Err(ContentLengthInvalid)),
            (&["Content-Length: +1"], Err(ContentLengthInvalid)),
            (&["Content-Length: -1"], Err(ContentLengthInvalid)),
            (&["Content-Length: 0x0"], Err(ContentLengthInvalid)),
            (
                &["Content-Length: 18446744073709551616"],
                Err(ContentLengthInvalid),
            ),
        ];
        for (lines, expected) in cases {
            let lines: String = lines.iter().map(|line| format!("\r\n{line}")).collect();
            let head = SECTION_1_2.replace("\r\n\r\n", &format!("{lines}\r\n\r\n"));
            let parsed = Request::parse(head.as_bytes());
            assert_eq!(
                parsed.as_ref().map(Request::announces_body).map_err(|e| *e),
                *expected
            );
            if let Ok(request) = parsed {
                let error = request.announces_body().then_some(BodyNotAllowed);
                assert_eq!(check_upgrade(&request).err(), error, "{lines:?}");
            }
        }
    }

    #[test]
    fn rfc_6454_section_7_origin() {
        type Origin = Result<Option<&'static str>, HandshakeError>;
        let cases: &[(&[&str], Origin)] = &[
            (&["Host: a"], Ok(None)),
            (&["Host: a", "Origin: null"], Ok(Some("null"))),
            (
                &["Host: a", "origin: https://a:8443"],
                Ok(Some("https://a:8443")),
            ),
            (&["Host: a", "Origin:"], Ok(Some(""))),
            (
                &["Host: a", "Origin: http://a http://b"],
                Err(OriginInvalid),
            ),
            (&["Host: a", "Origin: http://\u{e4}"], Err(OriginInvalid)),
            (
                &["Host: a", "Origin: http://a", "Origin: http://a"],
                Err(OriginInvalid),
            ),
        ];
        for (lines, expected) in cases {
            let head = get(lines);
            let origin = Request::parse(head.as_bytes()).map(|request| request.origin());
            assert_eq!(origin, *expected, "{lines:?}");
        }
    }

    #[test]
    fn rfc_6265_section_4_2_cookies() {
        type Cookies = &'static [(&'static str, &'static str)];
        let cases: &[(&[&str], Cookies)] = &[
            (&["Cookie: a=1"], &[("a", "1")]),
            (&["Cookie: a=1; b=2"], &[("a", "1"), ("b", "2")]),
            (
                &["Cookie: a=1;b=2 ;\tc=3;"],
                &[("a", "1"), ("b", "2"), ("c", "3")],
            ),
            (&["Cookie: a=1", "cookie: b=2"], &[("a", "1"), ("b", "2")]),
            (
                &["Cookie: a=\"q\"; b=x=y; c="],
                &[("a", "\"q\""), ("b", "x=y"), ("c", "")],
            ),
            (&["Cookie: nameless; =v; ; a=1"], &[("a", "1")]),
            (&["Cookie:"], &[]),
        ];
        for (lines, expected) in cases {
            let head = get(&[&["Host: a"], *lines].concat());
            let request = Request::parse(head.as_bytes()).unwrap();
            assert!(request.cookies().eq(expected.iter().copied()), "{lines:?}");
        }
        let head = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: a=\xFF; b=2; b=3\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!(
            (request.cookie("a"), request.cookie("b")),
            (None, Some("2"))
        );
        assert_eq!(request.cookie("B"), None);
    }

    #[test]
    fn url_standard_query_pairs() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("/", &[]),
            ("/?", &[]),
            ("/?a=b&c", &[("a", "b"), ("c", "")]),
            ("/?&&a=b=c&", &[("a", "b=c")]),
            ("/?a+b=c%20d%2B", &[("a b", "c d+")]),
            ("/?%C3%A4=%c3%a4", &[("\u{e4}", "\u{e4}")]),
            (
                "/?a=%&b=%4&c=%zz&d=%%41",
                &[("a", "%"), ("b", "%4"), ("c", "%zz"), ("d", "%A")],
            ),
            ("/?a=%FF", &[("a", "\u{FFFD}")]),
            ("/?=v", &[("", "v")]),
        ];
        for (target, expected) in cases {
            let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let request = Request::parse(head.as_bytes()).unwrap();
            let pairs: Vec<_> = request.query_pairs().collect();
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect();
            assert_eq!(pairs, *expected, "{target}");
        }
        assert!(matches!(form_decode("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn section_11_3_4_subprotocols() {
        type Offered = Result<&'static [&'static str], HandshakeError>;
        let cases: &[(&[&str], Offered)] = &[
            (&[], Ok(&[])),
            (&["Sec-WebSocket-Protocol:"], Ok(&[])),
            (&["Sec-WebSocket-Protocol: b, a"], Ok(&["b", "a"])),
            (&["Sec-WebSocket-Protocol: b,,a ,"], Ok(&["b", "a"])),
            (
                &["Sec-WebSocket-Protocol: b", "sec-websocket-protocol: a"],
                Ok(&["b", "a"]),
            ),
            (
                &["Sec-WebSocket-Protocol: v1.chat, a b"],
                Err(SubprotocolInvalid),
            ),
            (&["Sec-WebSocket-Protocol: \"a\""], Err(SubprotocolInvalid)),
        ];
        for (lines, expected) in cases {
            let mut all = vec![
                "Host: a",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            ];
            all.extend_from_slice(lines);
            let head = get(&all);
            let request = Request::parse(head.as_bytes()).unwrap();
            let offered =
                check_upgrade(&request).map(|upgrade| upgrade.subprotocols().collect::<Vec<_>>());
            assert_eq!(offered, expected.map(<[&str]>::to_vec), "{lines:?}");
        }
    }

    #[test]
    fn section_4_2_1_the_opening_handshake() {
        let cases: &[(&str, &str, Option<HandshakeError>)] = &[
            ("", "", None),
            // Item 3: Upgrade.
            ("Upgrade: websocket", "uPGRADE: WebSocket", None),
            ("Upgrade: websocket", "Upgrade: h2c, websocket", None),
            (
                "Upgrade: websocket",
                "Upgrade: h2c\r\nUpgrade: websocket",
                None,
            ),
            ("Upgrade: websocket", "Upgrade: h2c", Some(UpgradeRequired)),
            (
                "Upgrade: websocket",
                "Upgrade: websockets",
                Some(UpgradeRequired),
            ),
            ("Upgrade: websocket\r\n", "", Some(UpgradeDropped)),
            // Item 4: Connection.
            (
                "Connection: Upgrade",
                "connection: keep-alive, UPGRADE",
                None,
            ),
            (
                "Connection: Upgrade",
                "Connection: keep-alive\r\nConnection: upgrade",
                None,
            ),
            (
                "Connection: Upgrade",
                "Connection: keep-alive",
                Some(ConnectionWithoutUpgrade),
            ),
            (
                "Connection: Upgrade\r\n",
                "",
                Some(ConnectionWithoutUpgrade),
            ),
            // Item 1: GET and HTTP/1.1.
            ("GET /", "get /", Some(MethodNotAllowed)),
            ("GET /", "HEAD /", Some(MethodNotAllowed)),
            ("GET /", "POST /", Some(MethodNotAllowed)),
            ("HTTP/1.1", "HTTP/1.0", Some(UpgradeOverHttp10)),
            // Item 6 and section 4.4: the version.
            ("-Version: 13", "-Version: 8", Some(VersionUnsupported)),
            ("-Version: 13", "-Version: 013", Some(VersionUnsupported)),
            ("-Version: 13", "-Version:", Some(VersionUnsupported)),
            (
                "Sec-WebSocket-Version: 13\r\n",
                "",
                Some(VersionUnsupported),
            ),
            ("-Version: 13", "-Version: 13, 8", Some(VersionRepeated)),
            (
                "-Version: 13",
                "-Version: 13\r\nSec-WebSocket-Version: 13",
                Some(VersionRepeated),
            ),
            // Item 5: the key.
            (
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
                "",
                Some(KeyMissing),
            ),
            (
                "Connection: Upgrade",
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                Some(KeyRepeated),
            ),
            ("dGhlIHNhbXBsZSBub25jZQ==", "", Some(KeyInvalid)),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25jZQ",
                Some(KeyInvalid),
            ),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25jZ===",
                Some(KeyInvalid),
            ),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25jZQA=",
                Some(KeyInvalid),
            ),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBub25jZQAA",
                Some(KeyInvalid),
            ),
            (
                "dGhlIHNhbXBsZSBub25jZQ==",
                "dGhlIHNhbXBsZSBu-_5jZQ==",
                Some(KeyInvalid),
            ),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR==", None),
        ];
        for &(sent, instead, expected) in cases {
            assert!(SECTION_1_2.contains(sent));
            let head = SECTION_1_2.replacen(sent, instead, 1);
            assert_eq!(upgrade_error_of(&head), expected, "{sent:?} -> {instead:?}");
        }
    }

    #[test]
    fn a_plain_request_for_a_websocket_path() {
        assert_eq!(upgrade_error_of(&get(&["Host: a"])), Some(UpgradeRequired));
        assert_eq!(
            upgrade_error_of("GET / HTTP/1.0\r\n\r\n"),
            Some(UpgradeRequired)
        );
        // The older drafts, which carried two keys and no version.
        let draft_76 = get(&[
            "Host: a",
            "Upgrade: WebSocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Key1: 1",
            "Sec-WebSocket-Key2: 2",
        ]);
        assert_eq!(upgrade_error_of(&draft_76), Some(VersionUnsupported));
    }
}
