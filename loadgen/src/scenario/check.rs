//! A quick look at whether a server keeps to RFC 6455, and what its limits are.
//!
//! Knows: what a client may send, what it may not, and what a server has to make of it. Refuses to
//! know: load. Every probe has a connection of its own, from the standard library: an engine that
//! is right itself could not send what is wrong.

use std::{
    io::{self, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use ringwire::client::ClientRequest;

use crate::{
    environment::environment,
    plan::{CheckArgs, Place},
    raw::{Raw, Reply, is_timeout, read_reply},
    report::{self, OutputError},
    result::{Check, CheckOutcome, CheckProbe, SCHEMA, Target},
};

/// The mask of every frame. It is not random, because nothing here crosses a proxy unseen.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;

/// The longest frame that is read from a server.
const FRAME_BYTES_MAX: u64 = 1 << 20;

/// What ended a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// A close frame with this code; `None` without one.
    Closed(Option<u16>),
    /// The end of the stream or a reset, without a close frame.
    Dropped,
    /// Nothing: the server went on.
    Open,
}

impl End {
    fn describe(&self) -> String {
        match self {
            Self::Closed(Some(code)) => format!("closed with {code}"),
            Self::Closed(None) => "closed without a status code".to_owned(),
            Self::Dropped => "dropped without a close frame".to_owned(),
            Self::Open => "the connection stays open".to_owned(),
        }
    }
}

/// A frame from a server.
#[derive(Clone, Debug)]
struct Frame {
    first: u8,
    is_masked: bool,
    payload: Vec<u8>,
}

/// Bytes of a frame as a client sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&MASK);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// The header of a binary frame that announces more than will follow.
fn announcement(payload_len: u64) -> Vec<u8> {
    let mut bytes = vec![FIN | BINARY, 0x80 | 127];
    bytes.extend_from_slice(&payload_len.to_be_bytes());
    bytes.extend_from_slice(&MASK);
    bytes
}

/// An open WebSocket.
struct Socket {
    stream: Raw,
    /// What came behind what was looked at.
    buffer: Vec<u8>,
}

impl Socket {
    fn send(&mut self, bytes: &[u8]) {
        // A server that has ended the connection already shows it when it is read.
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame until a moment. `None` at the end of the stream; a timeout is an error.
    fn receive(&mut self, until: Instant) -> io::Result<Option<Frame>> {
        loop {
            if let Some((frame, len)) = parse(&self.buffer)? {
                self.buffer.drain(..len);
                return Ok(Some(frame));
            }
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How the connection ends.
    fn end(&mut self, timeout: Duration) -> End {
        let until = Instant::now() + timeout;
        loop {
            match self.receive(until) {
                Ok(Some(frame)) if frame.first & 0xf == CLOSE => {
                    let code = frame.payload.first_chunk::<2>();
                    return End::Closed(code.map(|code| u16::from_be_bytes(*code)));
                }
                Ok(Some(_)) => {}
                Ok(None) => return End::Dropped,
                Err(error) if is_timeout(&error) => return End::Open,
                Err(_) => return End::Dropped,
            }
        }
    }
}

/// One frame at the beginning of these bytes, and its length.
fn parse(bytes: &[u8]) -> io::Result<Option<(Frame, usize)>> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    let (len, extended) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(len) => (u64::from(u16::from_be_bytes(*len)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(len) => (u64::from_be_bytes(*len), 8),
            None => return Ok(None),
        },
        len => (u64::from(len), 0),
    };
    if len > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let is_masked = second & 0x80 != 0;
    let start = 2 + extended + if is_masked { 4 } else { 0 };
    let end = start + len as usize;
    let Some(payload) = bytes.get(start..end) else {
        return Ok(None);
    };
    let frame = Frame {
        first: *first,
        is_masked,
        payload: payload.to_vec(),
    };
    Ok(Some((frame, end)))
}

/// What is probed, and what was found so far.
struct Prober {
    place: Place,
    timeout: Duration,
    probes: Vec<CheckProbe>,
    server_header: Option<String>,
}

type Seen = (CheckOutcome, String);

/// The server accepts no connection any more: nothing is left to be probed. The expectation of the
/// probe since which it is so.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gone(String);

impl Prober {
    /// Writes down what a probe has seen.
    ///
    /// # Errors
    ///
    /// When the server is gone since.
    fn note(
        &mut self,
        group: &str,
        expectation: &str,
        source: &str,
        (outcome, seen): Seen,
    ) -> Result<(), Gone> {
        let gone = match outcome {
            CheckOutcome::Pass => None,
            CheckOutcome::Fail | CheckOutcome::Info => self.gone(),
        };
        let (outcome, seen) = match &gone {
            Some(why) => (CheckOutcome::Fail, format!("the server is gone: {why}")),
            None => (outcome, seen),
        };
        self.probes.push(CheckProbe {
            group: group.to_owned(),
            expectation: expectation.to_owned(),
            source: source.to_owned(),
            outcome,
            seen,
        });
        match gone {
            Some(_) => Err(Gone(expectation.to_owned())),
            None => Ok(()),
        }
    }

    /// Why no connection is accepted, if none is. One that takes its time is there.
    fn gone(&self) -> Option<String> {
        match Raw::connect(&self.place.address, self.timeout) {
            Err(error) if !is_timeout(&error) => Some(error.to_string()),
            Ok(_) | Err(_) => None,
        }
    }

    fn probe(&mut self) -> Result<(), Gone> {
        self.handshakes()?;
        self.frames()?;
        self.closes()?;
        self.limits()
    }

    fn request(&self) -> &ClientRequest {
        &self.place.requests[0]
    }

    fn open(&self) -> Result<Socket, String> {
        let (stream, reply, accept_key) = self.place.open(self.timeout)?;
        reply
            .check(self.request(), &accept_key)
            .map_err(|error| error.to_string())?;
        Ok(Socket {
            stream,
            buffer: reply.rest,
        })
    }

    /// A valid head, changed by a hand that knows its lines.
    fn head(&self, change: impl Fn(&str) -> Option<String>) -> Vec<u8> {
        let mut head = Vec::new();
        self.request()
            .encode(fastrand::u128(..).to_ne_bytes(), &mut head);
        let text = String::from_utf8_lossy(&head);
        let lines = text.trim_end().split("\r\n");
        let mut changed: Vec<String> = lines.filter_map(change).collect();
        changed.push(String::from("\r\n"));
        changed.join("\r\n").into_bytes()
    }

    /// The reply to a head, sent whole.
    fn ask(&self, head: &[u8]) -> Result<Reply, String> {
        let mut stream = (self.place.connect(self.timeout))
            .map_err(|error| format!("cannot connect: {error}"))?;
        // A server may refuse before it has read everything.
        let _ = stream.write_all(head);
        read_reply(&mut stream, Instant::now() + self.timeout)
    }

    /// A head that has to be refused.
    fn refused(
        &mut self,
        expectation: &str,
        source: &str,
        expected: &[u16],
        change: impl Fn(&str) -> Option<String>,
    ) -> Result<(), Gone> {
        let head = self.head(change);
        let seen = match self.ask(&head) {
            Ok(reply) if reply.status == 101 => (CheckOutcome::Fail, "it was accepted".to_owned()),
            Ok(reply) if expected.contains(&reply.status) => (
                CheckOutcome::Pass,
                format!("{} {}", reply.status, reply.reason_phrase),
            ),
            Ok(reply) => (
                CheckOutcome::Info,
                format!("refused, with {} {}", reply.status, reply.reason_phrase),
            ),
            Err(sentence) => (CheckOutcome::Info, format!("refused: {sentence}")),
        };
        self.note("handshake", expectation, source, seen)
    }

    /// A head that has to be accepted.
    fn accepted(
        &mut self,
        expectation: &str,
        source: &str,
        change: impl Fn(&str) -> Option<String>,
    ) -> Result<(), Gone> {
        let head = self.head(change);
        let seen = match self.ask(&head) {
            Ok(reply) if reply.status == 101 => (CheckOutcome::Pass, "101".to_owned()),
            Ok(reply) => (
                CheckOutcome::Fail,
                format!("{} {}", reply.status, reply.reason_phrase),
            ),
            Err(sentence) => (CheckOutcome::Fail, sentence),
        };
        self.note("handshake", expectation, source, seen)
    }

    fn handshakes(&mut self) -> Result<(), Gone> {
        let same = |line: &str| Some(line.to_owned());
        self.accepted("accepts an opening handshake", "RFC 6455 4.2.2", same)?;
        self.accepted(
            "does not care about the case of header names",
            "RFC 9110 5.1",
            |line| {
                Some(match line.split_once(':') {
                    Some((name, value)) => format!("{}:{value}", name.to_ascii_uppercase()),
                    None => line.to_owned(),
                })
            },
        )?;
        self.accepted(
            "finds 'Upgrade' in a list in Connection",
            "RFC 6455 4.2.1",
            |line| Some(line.replace("Connection: Upgrade", "Connection: keep-alive, Upgrade")),
        )?;
        let seen = self.in_pieces();
        self.note(
            "handshake",
            "accepts a head that comes a byte at a time",
            "RFC 9112 2.2",
            seen,
        )?;
        let without = |name: &'static str| {
            move |line: &str| (!line.starts_with(name)).then(|| line.to_owned())
        };
        self.refused(
            "refuses a handshake without Sec-WebSocket-Key",
            "RFC 6455 4.2.1",
            &[400],
            without("Sec-WebSocket-Key"),
        )?;
        self.refused(
            "refuses a key that is not 16 bytes in base64",
            "RFC 6455 4.2.1",
            &[400],
            |line| {
                let is_key = line.starts_with("Sec-WebSocket-Key");
                Some(
                    if is_key {
                        "Sec-WebSocket-Key: c2hvcnQ="
                    } else {
                        line
                    }
                    .to_owned(),
                )
            },
        )?;
        self.refused(
            "refuses a version that it does not speak, with 426",
            "RFC 6455 4.2.2",
            &[426],
            |line| Some(line.replace("Version: 13", "Version: 12")),
        )?;
        self.refused(
            "refuses a handshake without Upgrade",
            "RFC 6455 4.2.1",
            &[200, 400, 404, 426],
            without("Upgrade"),
        )?;
        self.refused(
            "refuses a handshake that is not a GET",
            "RFC 6455 4.2.1",
            &[400, 404, 405, 426, 501],
            |line| Some(line.replacen("GET ", "POST ", 1)),
        )?;
        self.refused(
            "refuses HTTP/1.0",
            "RFC 6455 4.2.1",
            &[400, 426, 505],
            |line| Some(line.replace(" HTTP/1.1", " HTTP/1.0")),
        )?;
        self.refused(
            "refuses a request without Host",
            "RFC 9112 3.2",
            &[400],
            without("Host"),
        )
    }

    fn in_pieces(&self) -> Seen {
        let head = self.head(|line| Some(line.to_owned()));
        let stream = self.place.connect(self.timeout);
        let mut stream = match stream {
            Ok(stream) => stream,
            Err(error) => return (CheckOutcome::Fail, error.to_string()),
        };
        for byte in head.chunks(1) {
            if let Err(error) = stream.write_all(byte) {
                return (CheckOutcome::Fail, error.to_string());
            }
        }
        match read_reply(&mut stream, Instant::now() + self.timeout) {
            Ok(reply) if reply.status == 101 => (CheckOutcome::Pass, "101".to_owned()),
            Ok(reply) => (
                CheckOutcome::Fail,
                format!("{} {}", reply.status, reply.reason_phrase),
            ),
            Err(sentence) => (CheckOutcome::Fail, sentence),
        }
    }

    /// Something that breaks the protocol: the connection has to fail, best with this code.
    fn violation(
        &mut self,
        group: &str,
        expectation: &str,
        source: &str,
        code: u16,
        bytes: &[u8],
    ) -> Result<(), Gone> {
        let seen = match self.open() {
            Err(sentence) => (CheckOutcome::Fail, sentence),
            Ok(mut socket) => {
                socket.send(bytes);
                let end = socket.end(self.timeout);
                let outcome = match &end {
                    End::Closed(Some(seen)) if *seen == code => CheckOutcome::Pass,
                    End::Closed(_) | End::Dropped => CheckOutcome::Info,
                    End::Open => CheckOutcome::Fail,
                };
                (outcome, end.describe())
            }
        };
        self.note(group, expectation, source, seen)
    }

    fn frames(&mut self) -> Result<(), Gone> {
        let seen = self.ping();
        self.note(
            "frames",
            "answers a ping with its payload, and does not mask",
            "RFC 6455 5.5.3",
            seen,
        )?;
        let mut interleaved = frame(TEXT, b"a");
        interleaved.extend(frame(FIN | TEXT, b"b"));
        let mut fragmented = frame(TEXT, b"a");
        fragmented.extend(frame(FIN | PING, b"in between"));
        fragmented.extend(frame(FIN, b"b"));
        let seen = self.ping_inside(&fragmented);
        self.note(
            "frames",
            "answers a ping between the fragments of a message",
            "RFC 6455 5.4",
            seen,
        )?;
        let unmasked = [FIN | TEXT, 2, b'h', b'i'];
        let not_minimal = [FIN | TEXT, 0x80 | 126, 0, 1, 0, 0, 0, 0, b'a'];
        let violations: [(&str, &str, &str, u16, Vec<u8>); 11] = [
            (
                "frames",
                "fails on a frame without mask",
                "RFC 6455 5.1",
                1002,
                unmasked.into(),
            ),
            (
                "frames",
                "fails on a reserved bit",
                "RFC 6455 5.2",
                1002,
                frame(FIN | 0x20 | TEXT, b"a"),
            ),
            (
                "frames",
                "fails on a reserved opcode",
                "RFC 6455 5.2",
                1002,
                frame(FIN | 0x3, b"a"),
            ),
            (
                "frames",
                "fails on a reserved control opcode",
                "RFC 6455 5.2",
                1002,
                frame(FIN | 0xb, b""),
            ),
            (
                "frames",
                "fails on a fragmented ping",
                "RFC 6455 5.5",
                1002,
                frame(PING, b"a"),
            ),
            (
                "frames",
                "fails on a ping of 126 bytes",
                "RFC 6455 5.5",
                1002,
                frame(FIN | PING, &[0; 126]),
            ),
            (
                "frames",
                "fails on a continuation of nothing",
                "RFC 6455 5.4",
                1002,
                frame(FIN, b"a"),
            ),
            (
                "frames",
                "fails on a message inside another",
                "RFC 6455 5.4",
                1002,
                interleaved,
            ),
            (
                "frames",
                "fails on a length with its top bit set",
                "RFC 6455 5.2",
                1002,
                announcement(1 << 63),
            ),
            (
                "frames",
                "fails on a length in more bytes than it needs",
                "RFC 6455 5.2",
                1002,
                not_minimal.into(),
            ),
            (
                "frames",
                "fails on text that is not UTF-8",
                "RFC 6455 8.1",
                1007,
                frame(FIN | TEXT, b"\xed\xa0\x80"),
            ),
        ];
        for (group, expectation, source, code, bytes) in violations {
            self.violation(group, expectation, source, code, &bytes)?;
        }
        Ok(())
    }

    fn ping(&self) -> Seen {
        self.ping_inside(&frame(FIN | PING, b"in between"))
    }

    fn ping_inside(&self, bytes: &[u8]) -> Seen {
        let mut socket = match self.open() {
            Ok(socket) => socket,
            Err(sentence) => return (CheckOutcome::Fail, sentence),
        };
        socket.send(bytes);
        let until = Instant::now() + self.timeout;
        loop {
            match socket.receive(until) {
                Ok(Some(frame)) if frame.is_masked => {
                    return (CheckOutcome::Fail, "it masks its frames".to_owned());
                }
                Ok(Some(frame)) if frame.first == FIN | PONG => {
                    return if frame.payload == b"in between" {
                        (
                            CheckOutcome::Pass,
                            "a pong with the same payload".to_owned(),
                        )
                    } else {
                        (CheckOutcome::Fail, "a pong with another payload".to_owned())
                    };
                }
                Ok(Some(frame)) if frame.first & 0xf == CLOSE => {
                    return (CheckOutcome::Fail, "a close frame".to_owned());
                }
                // A server may say something of its own.
                Ok(Some(_)) => {}
                Ok(None) => return (CheckOutcome::Fail, End::Dropped.describe()),
                Err(error) => return (CheckOutcome::Fail, format!("no pong: {error}")),
            }
        }
    }

    fn closes(&mut self) -> Result<(), Gone> {
        let seen = self.closing(&frame(FIN | CLOSE, &1000_u16.to_be_bytes()), Some(1000));
        self.note(
            "close",
            "answers a close with its status code",
            "RFC 6455 5.5.1",
            seen,
        )?;
        let seen = self.closing(&frame(FIN | CLOSE, &4321_u16.to_be_bytes()), Some(4321));
        self.note(
            "close",
            "answers a code of an application's own",
            "RFC 6455 7.4.2",
            seen,
        )?;
        let seen = self.closing(&frame(FIN | CLOSE, b""), None);
        self.note(
            "close",
            "answers a close without a status code",
            "RFC 6455 5.5.1",
            seen,
        )?;
        let seen = self.ends_first();
        self.note(
            "close",
            "ends the connection after the closing handshake",
            "RFC 6455 7.1.1",
            seen,
        )?;
        let code = |code: u16| frame(FIN | CLOSE, &code.to_be_bytes());
        let mut reason = 1000_u16.to_be_bytes().to_vec();
        reason.extend_from_slice(b"\xc3\x28");
        let violations: [(&str, &str, u16, Vec<u8>); 5] = [
            (
                "fails on a close of one byte",
                "RFC 6455 5.5.1",
                1002,
                frame(FIN | CLOSE, &[3]),
            ),
            (
                "fails on the status code 1005, which is never sent",
                "RFC 6455 7.4.1",
                1002,
                code(1005),
            ),
            (
                "fails on the status code 999",
                "RFC 6455 7.4.2",
                1002,
                code(999),
            ),
            (
                "fails on the status code 1016, which means nothing",
                "RFC 6455 7.4.2",
                1002,
                code(1016),
            ),
            (
                "fails on a close reason that is not UTF-8",
                "RFC 6455 5.5.1",
                1007,
                frame(FIN | CLOSE, &reason),
            ),
        ];
        for (expectation, source, code, bytes) in violations {
            self.bad_close(expectation, source, code, &bytes)?;
        }
        Ok(())
    }

    /// A close frame that is wrong. The connection ends in any case: it matters what is said.
    fn bad_close(
        &mut self,
        expectation: &str,
        source: &str,
        code: u16,
        bytes: &[u8],
    ) -> Result<(), Gone> {
        let seen = match self.open() {
            Err(sentence) => (CheckOutcome::Fail, sentence),
            Ok(mut socket) => {
                socket.send(bytes);
                let end = socket.end(self.timeout);
                let sent = bytes
                    .get(6..8)
                    .map(|masked| u16::from_be_bytes([masked[0] ^ MASK[0], masked[1] ^ MASK[1]]));
                let outcome = match &end {
                    End::Closed(Some(seen)) if *seen == code => CheckOutcome::Pass,
                    // It was taken for a good one.
                    End::Closed(seen) if seen.is_some() && *seen == sent => CheckOutcome::Fail,
                    End::Open => CheckOutcome::Fail,
                    End::Closed(_) | End::Dropped => CheckOutcome::Info,
                };
                (outcome, end.describe())
            }
        };
        self.note("close", expectation, source, seen)
    }

    fn closing(&self, bytes: &[u8], code: Option<u16>) -> Seen {
        let mut socket = match self.open() {
            Ok(socket) => socket,
            Err(sentence) => return (CheckOutcome::Fail, sentence),
        };
        socket.send(bytes);
        let end = socket.end(self.timeout);
        let outcome = match &end {
            End::Closed(seen) if *seen == code => CheckOutcome::Pass,
            // Any code answers; the RFC says "typically" the same one.
            End::Closed(_) => CheckOutcome::Info,
            End::Dropped | End::Open => CheckOutcome::Fail,
        };
        (outcome, end.describe())
    }

    fn ends_first(&self) -> Seen {
        let mut socket = match self.open() {
            Ok(socket) => socket,
            Err(sentence) => return (CheckOutcome::Fail, sentence),
        };
        socket.send(&frame(FIN | CLOSE, &1000_u16.to_be_bytes()));
        let until = Instant::now() + self.timeout;
        loop {
            match socket.receive(until) {
                Ok(Some(_)) => {}
                Ok(None) => return (CheckOutcome::Pass, "the server ended it first".to_owned()),
                Err(error) if is_timeout(&error) => {
                    return (
                        CheckOutcome::Fail,
                        "it waits for the client to end it".to_owned(),
                    );
                }
                Err(error) => return (CheckOutcome::Info, format!("it reset it: {error}")),
            }
        }
    }

    fn limits(&mut self) -> Result<(), Gone> {
        let seen = self.message_limit();
        self.note(
            "limits",
            "the longest message, by what its header announces",
            "",
            seen,
        )?;
        let seen = self.head_limit();
        self.note("limits", "the longest head of a request", "", seen)?;
        let seen = self.silence();
        self.note("limits", "how long a handshake may be silent", "", seen)?;
        let seen = self.plain_get();
        self.note("limits", "a plain GET at this path", "", seen)
    }

    /// Announces ever longer messages and sees which are refused at once.
    fn message_limit(&self) -> Seen {
        let mut allowed = 0_u64;
        // What is refused is refused at once; silence means that the rest is waited for.
        let patience = self.timeout.min(Duration::from_millis(200));
        for bits in 16..=40 {
            let announced = (1 << bits) + 1;
            let mut socket = match self.open() {
                Ok(socket) => socket,
                Err(sentence) => return (CheckOutcome::Info, sentence),
            };
            // Only how long to wait for a refusal; the connection is not used for anything else.
            socket.stream.set_patience(patience);
            socket.send(&announcement(announced));
            match socket.end(patience) {
                End::Open => allowed = announced,
                end => {
                    let seen = format!(
                        "{} bytes are waited for; at {announced}, it {}",
                        allowed,
                        end.describe()
                            .replace("closed", "closes")
                            .replace("dropped", "drops")
                    );
                    return (CheckOutcome::Info, seen);
                }
            }
        }
        let seen = "1 TiB is waited for: nothing is refused by its header";
        (CheckOutcome::Info, seen.to_owned())
    }

    fn head_limit(&self) -> Seen {
        let mut accepted = 0;
        for kilobytes in [4, 8, 16, 32, 64, 128, 256] {
            let padding = format!("X-Padding: {}", "a".repeat(kilobytes * 1024));
            let head = self.head(|line| {
                let is_host = line.starts_with("Host:");
                Some(if is_host {
                    format!("{line}\r\n{padding}")
                } else {
                    line.to_owned()
                })
            });
            match self.ask(&head) {
                Ok(reply) if reply.status == 101 => accepted = kilobytes,
                Ok(reply) => {
                    let seen = format!(
                        "{accepted} KiB are accepted; {kilobytes} KiB get {} {}",
                        reply.status, reply.reason_phrase
                    );
                    return (CheckOutcome::Info, seen);
                }
                Err(sentence) => {
                    let seen =
                        format!("{accepted} KiB are accepted; with {kilobytes} KiB, {sentence}");
                    return (CheckOutcome::Info, seen);
                }
            }
        }
        (CheckOutcome::Info, "256 KiB are accepted".to_owned())
    }

    fn silence(&self) -> Seen {
        let mut stream = match self.place.connect(self.timeout) {
            Ok(stream) => stream,
            Err(error) => return (CheckOutcome::Info, error.to_string()),
        };
        let from = Instant::now();
        let mut byte = [0; 1];
        let seen = match stream.read(&mut byte) {
            Err(error) if is_timeout(&error) => {
                format!(
                    "longer than the {} ms that were waited",
                    self.timeout.as_millis()
                )
            }
            _ => format!("{} ms", from.elapsed().as_millis()),
        };
        (CheckOutcome::Info, seen)
    }

    fn plain_get(&self) -> Seen {
        let head = self.head(|line| {
            let is_asked_for = ["Upgrade", "Connection", "Sec-WebSocket"];
            let leave_out = is_asked_for.iter().any(|name| line.starts_with(name));
            (!leave_out).then(|| line.to_owned())
        });
        let seen = match self.ask(&head) {
            Ok(reply) => format!("{} {}", reply.status, reply.reason_phrase),
            Err(sentence) => sentence,
        };
        (CheckOutcome::Info, seen)
    }
}

/// Probes a server.
///
/// # Errors
///
/// A sentence, when it cannot be reached or opens no WebSocket.
pub fn run(args: &CheckArgs, command: Vec<String>) -> Result<Check, String> {
    let place = args.target.place(1).map_err(|error| error.to_string())?;
    let timeout = Duration::from_millis(args.timeout.max(1));
    let (_, reply, accept_key) = place
        .open(timeout)
        .map_err(|sentence| format!("{} cannot be checked: {sentence}", place.url))?;
    if let Err(error) = reply.check(&place.requests[0], &accept_key) {
        let diagnosis = place.diagnose(timeout);
        return Err(diagnosis.unwrap_or_else(|| error.to_string()));
    }
    let mut prober = Prober {
        server_header: reply.header("server"),
        place,
        timeout,
        probes: Vec::new(),
    };
    let gone = prober.probe().err();
    Ok(Check {
        schema: SCHEMA.to_owned(),
        target: Target {
            url: prober.place.url,
            address: prober.place.address.to_string(),
            server_header: prober.server_header,
        },
        environment: environment(command),
        probes: prober.probes,
        gone_since: gone.map(|Gone(expectation)| expectation),
    })
}

/// Whether a probe failed.
pub fn has_failed(check: &Check) -> bool {
    let mut probes = check.probes.iter();
    probes.any(|probe| probe.outcome == CheckOutcome::Fail)
}

/// Writes what was found as a table.
///
/// # Errors
///
/// The writer's.
pub fn write_table(out: &mut dyn Write, check: &Check) -> io::Result<()> {
    let server = check
        .target
        .server_header
        .as_deref()
        .unwrap_or("a server without a name");
    writeln!(
        out,
        "{} ({}): {server}",
        check.target.url, check.target.address
    )?;
    let width = check
        .probes
        .iter()
        .map(|probe| probe.expectation.chars().count())
        .max();
    let width = width.unwrap_or(0);
    let mut group = "";
    for probe in &check.probes {
        if probe.group != group {
            group = &probe.group;
            writeln!(out, "\n{group}")?;
        }
        let outcome = match probe.outcome {
            CheckOutcome::Pass => "PASS",
            CheckOutcome::Fail => "FAIL",
            CheckOutcome::Info => "INFO",
        };
        write!(
            out,
            "  {outcome}  {:<width$}  {}",
            probe.expectation, probe.seen
        )?;
        // Where it stands is of use when something is not as it should be.
        if probe.outcome == CheckOutcome::Pass || probe.source.is_empty() {
            writeln!(out)?;
        } else {
            writeln!(out, "  [{}]", probe.source)?;
        }
    }
    if let Some(expectation) = &check.gone_since {
        writeln!(
            out,
            "\nThe server is gone since the probe '{expectation}': {} accepts no connection any \
             more. What is after it was not probed.",
            check.target.address
        )?;
    }
    let count = |outcome| {
        let probes = check.probes.iter();
        probes.filter(|probe| probe.outcome == outcome).count()
    };
    writeln!(
        out,
        "\n{} passed, {} failed, {} to know",
        count(CheckOutcome::Pass),
        count(CheckOutcome::Fail),
        count(CheckOutcome::Info)
    )
}

/// Writes what was found: the table for people, JSON and JUnit's XML where they are wanted; `-` is
/// standard output.
///
/// # Errors
///
/// The first that cannot be written.
pub fn write(json: Option<&Path>, junit: Option<&Path>, check: &Check) -> Result<(), OutputError> {
    let mut table = Vec::new();
    // Memory takes whatever is written.
    let _ = write_table(&mut table, check);
    let is_taken = json
        .into_iter()
        .chain(junit)
        .any(report::is_standard_output);
    let printed = report::print_beside(is_taken, &table);
    let written = json.map_or(Ok(()), |path| report::json::write_any(check, path));
    let cases = junit.map_or(Ok(()), |path| report::junit::write_check(check, path));
    printed.and(written).and(cases)
}
