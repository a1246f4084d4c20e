//! The TLS of one connection: received bytes in, plaintext out, records for what is sent.
//!
//! Knows: rustls, which does everything that is TLS. Refuses to know: where bytes come from and
//! where they go.
//!
//! It consumes everything that it is given. Records are decrypted where they were received; rustls
//! 0.23 then hands out a copy of each record's plaintext, which is put behind that of the one
//! before it, so that a message that spans records lies in one piece. What is kept between two
//! calls is the start of a record whose end has not come yet, and during the handshake at most one
//! handshake message.

use std::{fmt, mem, sync::Arc};

use rustls::{
    ClientConfig, CommonState, HandshakeKind, ProtocolVersion, ServerConfig,
    client::UnbufferedClientConnection,
    pki_types::{CertificateDer, ServerName},
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use super::{TlsError, pem::Facts};
use crate::proto::{Sink, endpoint::Unfinished};

/// The longest plaintext of a record (RFC 8446 section 5.1).
pub const PLAINTEXT_BYTES_MAX: usize = 1 << 14;

/// A record's header (RFC 8446 section 5.1).
const HEADER_BYTES: usize = 5;

/// What a record adds to its plaintext at most: header, explicit nonce (RFC 5288 section 3) and tag
/// in TLS 1.2; in 1.3 it is 22.
const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES + 8 + 16;

/// The longest record: rustls takes none with more than 2,048 bytes beyond the plaintext.
const RECORD_BYTES_MAX: usize = HEADER_BYTES + PLAINTEXT_BYTES_MAX + 2048;

/// Bytes kept of a handshake message that has not come whole: as many as rustls allows one to have.
const HANDSHAKE_BYTES_MAX: usize = 0xffff;

/// Bytes kept once the handshake is over: a record, and a message of the handshake protocol (a
/// ticket, a key update) that began in the record before it.
const PARTIAL_BYTES_MAX: usize = 2 * RECORD_BYTES_MAX;

/// What an idle session takes of rustls's.
const SESSION_BYTES: usize = 4400;

/// The TLS of one connection, either role.
pub struct Session {
    side: Side,
    /// Received and not consumed yet. Without memory while there is nothing.
    partial: Vec<u8>,
    /// Bytes at the start of `partial` that are records of a handshake message that spans them.
    /// rustls has looked at them and moves about in them; what follows is one record.
    spanned: usize,
    /// What is in `partial` was there when somebody looked.
    is_known: bool,
    /// What is sent can be encrypted.
    is_open: bool,
    /// The peer's `close_notify` has come.
    is_peer_closed: bool,
    /// Our `close_notify` was written, or TLS has failed: nothing more is written.
    is_closed: bool,
    /// Nothing was received yet.
    is_fresh: bool,
}

enum Side {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Both of rustls's unbuffered connections.
trait Records {
    type Data;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &CommonState;
}

impl Records for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

impl Records for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }

    fn common(&self) -> &CommonState {
        self
    }
}

/// What processing came to.
#[derive(Default)]
struct Progress {
    /// Bytes of the input that are used up.
    consumed: usize,
    /// What is sent can be encrypted.
    is_open: bool,
    is_peer_closed: bool,
}

/// Processes whole records at the start of `input`, until what is left needs more bytes.
///
/// After an error `consumed` says nothing, and the alert for it was written.
fn process<R: Records, S: Sink>(
    records: &mut R,
    input: &mut [u8],
    plain: &mut Vec<u8>,
    sink: &mut S,
) -> (Progress, Result<(), rustls::Error>) {
    let mut progress = Progress::default();
    loop {
        let UnbufferedStatus { mut discard, state } =
            records.process(&mut input[progress.consumed..]);
        let mut is_done = false;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            plain.extend_from_slice(record.payload);
                            discard += record.discard;
                        }
                        Err(error) => return (progress, Err(error)),
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut encode)) => {
                write_whole(sink, |space| encode.encode(space).into());
            }
            Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
            Ok(ConnectionState::PeerClosed) => progress.is_peer_closed = true,
            Ok(ConnectionState::WriteTraffic(_)) => {
                progress.is_open = true;
                is_done = true;
            }
            // Early data is turned off, and of states that rustls may add none was asked for.
            Ok(_) => is_done = true,
            Err(error) => {
                // Without looking at the input again, which rustls has judged.
                while records.common().wants_write() {
                    let state = records.process(&mut input[progress.consumed..]).state;
                    let Ok(ConnectionState::EncodeTlsData(mut encode)) = state else {
                        break;
                    };
                    write_whole(sink, |space| encode.encode(space).into());
                }
                return (progress, Err(error));
            }
        }
        progress.consumed += discard;
        if is_done {
            return (progress, Ok(()));
        }
    }
}

/// What a writer made of the space it was given.
enum Written {
    Bytes(usize),
    /// Nothing: it needs this much.
    Needs(usize),
}

impl From<Result<usize, EncodeError>> for Written {
    fn from(result: Result<usize, EncodeError>) -> Self {
        match result {
            Ok(written) => Self::Bytes(written),
            Err(EncodeError::InsufficientSize(needed)) => Self::Needs(needed.required_size),
            Err(EncodeError::AlreadyEncoded) => Self::Bytes(0),
        }
    }
}

impl From<Result<usize, EncryptError>> for Written {
    fn from(result: Result<usize, EncryptError>) -> Self {
        match result {
            Ok(written) => Self::Bytes(written),
            Err(EncryptError::InsufficientSize(needed)) => Self::Needs(needed.required_size),
            Err(EncryptError::EncryptExhausted) => Self::Bytes(0),
        }
    }
}

/// Has `write` write into the sink, or into memory of its own where the sink has not enough
/// together.
fn write_whole<S: Sink>(sink: &mut S, mut write: impl FnMut(&mut [u8]) -> Written) {
    let needed = match write(&mut []) {
        Written::Bytes(_) => return,
        Written::Needs(needed) => needed,
    };
    if let Written::Bytes(written) = write(sink.space(needed)) {
        sink.commit(written);
        return;
    }
    let mut whole = vec![0; needed];
    if let Written::Bytes(written) = write(&mut whole) {
        sink.write(&whole[..written]);
    }
}

/// The length of the record that begins here, or of its header while that is not whole.
fn record_len(bytes: &[u8]) -> usize {
    match bytes {
        [_, _, _, high, low, ..] => HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low])),
        _ => HEADER_BYTES,
    }
}

/// The length of all whole records at the start of `bytes`.
fn whole_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    while bytes.len() - len >= HEADER_BYTES {
        let next = len + record_len(&bytes[len..]);
        if next > bytes.len() {
            break;
        }
        len = next;
    }
    len
}

impl Session {
    /// Of a connection that was accepted.
    ///
    /// # Errors
    ///
    /// What rustls does not accept of the configuration.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self::new(Side::Server(UnbufferedServerConnection::new(
            config,
        )?)))
    }

    /// Of a connection that was dialled. [`start`](Self::start) is to be called first.
    ///
    /// # Errors
    ///
    /// What rustls does not accept of the configuration.
    pub fn client(
        config: Arc<ClientConfig>,
        server_name: ServerName<'static>,
    ) -> Result<Self, TlsError> {
        let connection = UnbufferedClientConnection::new(config, server_name)?;
        Ok(Self::new(Side::Client(connection)))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            partial: Vec::new(),
            spanned: 0,
            is_known: false,
            is_open: false,
            is_peer_closed: false,
            is_closed: false,
            is_fresh: true,
        }
    }

    /// Bytes of memory that it takes: of rustls's own about as many as it was measured with
    /// (`scripts/idle-memory.sh --tls`), and what was received of records that are not whole.
    pub fn held_bytes(&self) -> usize {
        SESSION_BYTES + self.partial.capacity()
    }

    /// Writes what a client says first.
    ///
    /// # Errors
    ///
    /// When rustls cannot: for want of randomness.
    pub fn start(&mut self, sink: &mut impl Sink) -> Result<(), TlsError> {
        self.process(&mut [], &mut Vec::new(), sink).map(|_| ())
    }

    /// Takes what was received: appends the plaintext of every whole record to `plain`, which then
    /// holds at most as many bytes more as there were bytes received, and writes to `sink` what TLS
    /// itself has to answer.
    ///
    /// # Errors
    ///
    /// What the peer did wrong. The alert that tells it so was written to `sink`; what had come
    /// before is in `plain` all the same. Nothing is taken after that.
    pub fn receive(
        &mut self,
        mut input: &mut [u8],
        plain: &mut Vec<u8>,
        sink: &mut impl Sink,
    ) -> Result<(), TlsError> {
        if mem::take(&mut self.is_fresh) {
            // A method, or the version of a status line, where a record begins with 22.
            if input.first().is_some_and(u8::is_ascii_uppercase) {
                self.is_closed = true;
                return Err(TlsError::PeerIsPlain);
            }
        }
        while !self.partial.is_empty() && !input.is_empty() && !self.is_peer_closed {
            let begun = &self.partial[self.spanned..];
            let missing = record_len(begun) - begun.len();
            let here = missing.min(input.len());
            let (now, later) = input.split_at_mut(here);
            self.keep(now)?;
            input = later;
            if here < missing {
                return Ok(());
            }
            // Either the record is whole now or its header is, which is enough to refuse it.
            let spanned = self.spanned + whole_len(&self.partial[self.spanned..]);
            let mut partial = mem::take(&mut self.partial);
            let consumed = self.process(&mut partial, plain, sink)?;
            // A message that spans records is known by its first one.
            self.is_known &= consumed == 0;
            self.spanned = spanned.saturating_sub(consumed);
            if consumed < partial.len() {
                partial.drain(..consumed);
                self.partial = partial;
            }
        }
        if input.is_empty() || self.is_peer_closed {
            // RFC 8446 section 6.1: what follows a close_notify is not looked at.
            return Ok(());
        }
        let whole = whole_len(input);
        let consumed = self.process(input, plain, sink)?;
        self.keep(&input[consumed..])?;
        self.spanned = whole.saturating_sub(consumed);
        Ok(())
    }

    /// Keeps bytes until what they belong to is whole: in memory for one record, if it is one.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        let most = if self.is_open {
            PARTIAL_BYTES_MAX
        } else {
            HANDSHAKE_BYTES_MAX
        };
        let partial = &mut self.partial;
        let len = partial.len() + bytes.len();
        self.is_known &= !partial.is_empty();
        if len > most {
            self.is_closed = true;
            return Err(TlsError::HandshakeTooLong);
        }
        if partial.capacity() < len {
            let begun = if partial.is_empty() {
                bytes
            } else {
                &partial[self.spanned..]
            };
            let record_end = self.spanned + record_len(begun);
            let wanted = if self.spanned == 0 && len <= record_end {
                record_end
            } else {
                // Records of a message that spans them: there may be many.
                len.max(2 * partial.len()).min(most)
            };
            partial.reserve_exact(wanted - partial.len());
        }
        partial.extend_from_slice(bytes);
        Ok(())
    }

    fn process(
        &mut self,
        input: &mut [u8],
        plain: &mut Vec<u8>,
        sink: &mut impl Sink,
    ) -> Result<usize, TlsError> {
        let (progress, result) = match &mut self.side {
            Side::Client(records) => process(records, input, plain, sink),
            Side::Server(records) => process(records, input, plain, sink),
        };
        self.is_open |= progress.is_open;
        if progress.is_peer_closed {
            self.is_peer_closed = true;
            self.partial = Vec::new();
        }
        match result {
            Ok(()) if self.is_peer_closed => Ok(input.len()),
            Ok(()) => Ok(progress.consumed),
            Err(error) => {
                self.is_closed = true;
                Err(error.into())
            }
        }
    }

    /// Writes `plain` to `sink`, in records as long as there is space together in the sink.
    ///
    /// # Errors
    ///
    /// When the keys are used up (in TLS 1.2; 1.3 renews them).
    ///
    /// # Panics
    ///
    /// Before [`is_open`](Self::is_open).
    pub fn encrypt(&mut self, plain: &[u8], sink: &mut impl Sink) -> Result<(), TlsError> {
        assert!(self.is_open, "plaintext before the TLS handshake is over");
        if self.is_closed {
            return Ok(());
        }
        // What there is of a message that has not come whole is part of rustls's state.
        let partial = &mut self.partial;
        let encrypted = match &mut self.side {
            Side::Client(records) => encrypt(records, partial, plain, sink),
            Side::Server(records) => encrypt(records, partial, plain, sink),
        };
        self.is_closed |= !encrypted;
        if encrypted {
            Ok(())
        } else {
            Err(TlsError::KeysExhausted)
        }
    }

    /// Writes a `close_notify` (RFC 8446 section 6.1), once, if the handshake is over: nothing can
    /// be encrypted after it.
    pub fn close(&mut self, sink: &mut impl Sink) {
        if !self.is_open || mem::replace(&mut self.is_closed, true) {
            return;
        }
        let partial = &mut self.partial;
        match &mut self.side {
            Side::Client(records) => close_notify(records, partial, sink),
            Side::Server(records) => close_notify(records, partial, sink),
        }
    }

    /// Whether the handshake is over, so that [`encrypt`](Self::encrypt) may be called.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the peer's `close_notify` has come: nothing more is received.
    pub const fn is_peer_closed(&self) -> bool {
        self.is_peer_closed
    }

    /// Whether nothing can be written any more: our `close_notify` was, or TLS has failed.
    pub const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Bytes of memory that it holds for what came and is not whole yet. What rustls keeps is not
    /// in it.
    pub fn buffered_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// What there is of a record, or of a handshake message that spans several, as
    /// [`Endpoint::unfinished`](crate::proto::Endpoint::unfinished) has it of messages.
    pub fn unfinished(&mut self) -> Option<Unfinished> {
        let begun = !self.partial.is_empty();
        begun.then(|| Unfinished {
            payload_bytes: self.partial.len() as u64,
            is_new: !mem::replace(&mut self.is_known, true),
        })
    }

    fn common(&self) -> &CommonState {
        match &self.side {
            Side::Client(records) => records,
            Side::Server(records) => records,
        }
    }

    /// The version: `TLSv1.2` or `TLSv1.3`, once it is agreed.
    pub fn version(&self) -> Option<&'static str> {
        match self.common().protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// The cipher suite, by the name that IANA has for it, once it is agreed.
    pub fn cipher_suite(&self) -> Option<&'static str> {
        self.common().negotiated_cipher_suite()?.suite().as_str()
    }

    /// Whether the handshake was short, by a ticket of an earlier connection.
    pub fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The certificates that the peer has shown and that were verified, in DER, its own first.
    /// Resumed connections have those of the connection that they resume.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.common().peer_certificates().unwrap_or_default()
    }

    /// The subject of the peer's certificate, as RFC 4514 writes it: `CN=alice,O=Example`. It is
    /// parsed anew each time.
    pub fn peer_subject(&self) -> Option<String> {
        let certificate = self.peer_certificates().first()?;
        Facts::of(certificate).map(|facts| facts.subject)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("version", &self.version())
            .field("cipher_suite", &self.cipher_suite())
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}

/// Returns whether all of it was encrypted.
fn encrypt<R: Records, S: Sink>(
    records: &mut R,
    partial: &mut [u8],
    mut plain: &[u8],
    sink: &mut S,
) -> bool {
    // Nothing else is left to do when `process` has ended.
    let Ok(ConnectionState::WriteTraffic(mut traffic)) = records.process(partial).state else {
        return false;
    };
    while !plain.is_empty() {
        let space = sink.space(plain.len().min(PLAINTEXT_BYTES_MAX) + OVERHEAD_BYTES_MAX);
        let len = space.len().saturating_sub(OVERHEAD_BYTES_MAX);
        let (now, later) = plain.split_at(len.min(plain.len()));
        match traffic.encrypt(now, space) {
            Ok(written) => sink.commit(written),
            // A key update goes first (RFC 8446 section 4.6.3).
            Err(EncryptError::InsufficientSize(needed)) => {
                let mut whole = vec![0; needed.required_size];
                match traffic.encrypt(now, &mut whole) {
                    Ok(written) => sink.write(&whole[..written]),
                    Err(_) => return false,
                }
            }
            Err(EncryptError::EncryptExhausted) => return false,
        }
        plain = later;
    }
    true
}

fn close_notify<R: Records, S: Sink>(records: &mut R, partial: &mut [u8], sink: &mut S) {
    if let Ok(ConnectionState::WriteTraffic(mut traffic)) = records.process(partial).state {
        write_whole(sink, |space| traffic.queue_close_notify(space).into());
    }
}
