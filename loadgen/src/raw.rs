//! A connection without an engine: for a look at what a server says, byte by byte.
//!
//! Knows: one blocking socket, and the head of a reply. Refuses to know: load.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::report::units::milliseconds;
use ringwire::{
    Address,
    client::{ClientHandshakeError, ClientRequest, WsUrl},
    proto::handshake::Response,
    tls::{
        ClientTls, TlsError,
        rustls::{self, ClientConnection, StreamOwned, pki_types::ServerName},
    },
};

/// What [`read_reply`] says of a server that was waited for in vain.
const NOT_IN_TIME: &str = "the server did not answer in time";

/// The longest reply that is looked at: head and body.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Interim replies that are passed over before the final one (RFC 9110 section 15.2).
const INTERIM_MAX: usize = 16;

/// The longest first line of a body that is quoted.
const LINE_CHARS_MAX: usize = 160;

/// A connected stream socket.
#[derive(Debug)]
pub enum Raw {
    /// TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    /// A Unix stream socket.
    Unix(UnixStream),
}

impl Raw {
    /// Connects; every read and write waits for `timeout` at most.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn connect(address: &Address, timeout: Duration) -> io::Result<Self> {
        match address {
            Address::Inet(inet) => {
                let stream = TcpStream::connect_timeout(inet, timeout)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                Ok(Self::Unix(stream))
            }
        }
    }

    /// As [`connect`](Self::connect), with TLS to the host of `url` if there is any. Its handshake
    /// comes with the first bytes.
    ///
    /// # Errors
    ///
    /// The kernel's, and when no certificate could be for the host.
    pub fn connect_to(
        address: &Address,
        url: &WsUrl,
        tls: Option<&ClientTls>,
        timeout: Duration,
    ) -> io::Result<Self> {
        match (Self::connect(address, timeout)?, tls) {
            (Self::Tcp(stream), Some(tls)) => {
                let host = url.host().unwrap_or_default().to_owned();
                let name = ServerName::try_from(host).map_err(io::Error::other)?;
                let connection =
                    ClientConnection::new(tls.to_rustls(), name).map_err(io::Error::other)?;
                Ok(Self::Tls(Box::new(StreamOwned::new(connection, stream))))
            }
            (stream, _) => Ok(stream),
        }
    }

    /// How long a read waits at most from now on.
    pub fn set_patience(&self, patience: Duration) {
        // It fails on a connection that is gone, where a read does not wait.
        let _ = match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(patience)),
            Self::Unix(stream) => stream.set_read_timeout(Some(patience)),
        };
    }

    /// Shuts our side down: the server reads an end of stream.
    pub fn finish(&mut self) {
        // A connection that is gone already is as finished as it can be.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                stream.sock.shutdown(Shutdown::Write)
            }
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Raw {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
            Self::Unix(stream) => stream.flush(),
        }
    }
}

/// How long an address may take to accept a connection before the next one is tried.
const REACH_MAX: Duration = Duration::from_secs(1);

/// The first address that accepts a connection; the first one when none does, so that the reason is
/// found where it is looked for. A name such as `localhost` often has one that nobody listens on.
///
/// # Panics
///
/// When there is no address.
pub fn first_reachable(mut addresses: Vec<Address>) -> Address {
    let is_reachable = |address: &Address| Raw::connect(address, REACH_MAX).is_ok();
    let found = match addresses.len() {
        1 => 0,
        _ => addresses.iter().position(is_reachable).unwrap_or(0),
    };
    addresses.swap_remove(found)
}

/// A server's reply to a request, as far as it came.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason_phrase: String,
    /// The head, its final empty line included.
    pub head: Vec<u8>,
    /// What came after the head.
    pub rest: Vec<u8>,
}

impl Reply {
    /// A header that stands in it once, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        let response = Response::parse(&self.head).ok()?;
        let mut values = response.headers().all(name);
        let value = values.next()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Whether this is the answer to that request.
    ///
    /// # Errors
    ///
    /// The first reason why it is not (RFC 6455 section 4.1).
    pub fn check(
        &self,
        request: &ClientRequest,
        accept_key: &[u8; 28],
    ) -> Result<(), ClientHandshakeError> {
        request.check_response(&self.head, accept_key).map(|_| ())
    }

    /// The first line of the body that says anything, without what a terminal could act on.
    pub fn first_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.rest);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        let printable = line.chars().filter(|letter| !letter.is_control());
        Some(printable.take(LINE_CHARS_MAX).collect())
    }
}

/// Reads a head and, unless it is a 101, the body that follows until the server closes or
/// `until` has come.
///
/// # Errors
///
/// A sentence, when no head came.
pub fn read_reply(stream: &mut Raw, until: Instant) -> Result<Reply, String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let mut reply: Option<(u16, String, usize)> = None;
    let mut interim = 0;
    loop {
        while reply.is_none()
            && let Some(end) = head_end(&bytes)
        {
            let response = Response::parse(&bytes[..end]).map_err(|error| error.to_string())?;
            if response.is_interim() && interim < INTERIM_MAX {
                interim += 1;
                bytes.drain(..end);
                continue;
            }
            reply = Some((response.status(), response.reason_phrase().to_owned(), end));
        }
        if let Some((101, ..)) = reply {
            break;
        }
        if bytes.len() > REPLY_BYTES_MAX || Instant::now() >= until {
            break;
        }
        // With the head, a body that is announced may be complete as well.
        if let Some((_, _, end)) = &reply
            && content_length(&bytes[..*end]).is_some_and(|length| bytes.len() >= end + length)
        {
            break;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => match reply {
                Some(_) => break,
                None if is_timeout(&error) => {
                    return Err(NOT_IN_TIME.to_owned());
                }
                None => return Err(words(&error)),
            },
        }
    }
    match reply {
        Some((status, reason_phrase, end)) => Ok(Reply {
            status,
            reason_phrase,
            rest: bytes.split_off(end),
            head: bytes,
        }),
        None if bytes.is_empty() => {
            Err("the server closed the connection without an answer".to_owned())
        }
        None => Err("the server's answer is not a whole HTTP head".to_owned()),
    }
}

/// Whether a read or write ended because it waited long enough.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Why TLS failed, if that is what an error is about.
fn tls_error(error: &io::Error) -> Option<TlsError> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(TlsError::from(inner.clone()))
}

fn words(error: &io::Error) -> String {
    tls_error(error).map_or_else(|| error.to_string(), |error| error.to_string())
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(at + 4)
}

fn content_length(head: &[u8]) -> Option<usize> {
    let response = Response::parse(head).ok()?;
    let mut values = response.headers().all("content-length");
    str::from_utf8(values.next()?).ok()?.trim().parse().ok()
}

/// Asks for a WebSocket and returns the stream and the reply, whatever it is.
///
/// # Errors
///
/// A sentence: the server cannot be reached, or does not speak HTTP.
pub fn open(
    address: &Address,
    request: &ClientRequest,
    tls: Option<&ClientTls>,
    timeout: Duration,
) -> Result<(Raw, Reply, [u8; 28]), String> {
    let connected = Raw::connect_to(address, request.url(), tls, timeout);
    let mut stream = connected.map_err(|error| {
        if is_timeout(&error) {
            format!(
                "{address} did not accept a connection within {}; check address, route and \
                 firewall",
                milliseconds(timeout.as_millis() as f64)
            )
        } else {
            format!("cannot connect to {address}: {}", words(&error))
        }
    })?;
    let mut head = Vec::new();
    let accept_key = request.encode(fastrand::u128(..).to_ne_bytes(), &mut head);
    stream
        .write_all(&head)
        .map_err(|error| match tls_error(&error) {
            Some(error) => error.to_string(),
            None => format!("cannot send the opening handshake to {address}: {error}"),
        })?;
    let reply = read_reply(&mut stream, Instant::now() + timeout).map_err(|sentence| {
        if sentence == NOT_IN_TIME {
            format!(
                "{address} accepted the connection and did not answer the opening handshake within \
                 {}",
                milliseconds(timeout.as_millis() as f64)
            )
        } else {
            sentence
        }
    })?;
    Ok((stream, reply, accept_key))
}

/// Why a server does not open WebSockets, as one sentence. `None` when it does.
pub fn diagnose(
    address: &Address,
    request: &ClientRequest,
    tls: Option<&ClientTls>,
    timeout: Duration,
) -> Option<String> {
    let (_, reply, accept_key) = match open(address, request, tls, timeout) {
        Ok(opened) => opened,
        Err(sentence) => return Some(sentence),
    };
    if reply.status == 101 {
        let error = reply.check(request, &accept_key).err()?;
        return Some(error.to_string());
    }
    let said = reply
        .first_line()
        .map_or(String::new(), |line| format!(": \"{line}\""));
    Some(format!(
        "the server refused the opening handshake with {} {}{said}",
        reply.status, reply.reason_phrase
    ))
}
