//! A socket that does not wait, with TLS on it or without.
//!
//! Knows: addresses of this machine, records. Refuses to know: what is sent, and any address that
//! is not of this machine.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use ringwire::tls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
    socket_with, sockopt,
};

use crate::plan::Security;

/// Records that are sealed before they are sent.
const RECORDS_AT_ONCE: usize = 512;

/// Bytes of plaintext that are sealed before they are sent.
const PLAINTEXT_AT_ONCE: usize = 64 << 10;

/// Where to connect. It cannot be made of an address that is not of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target(SocketAddr);

impl Target {
    /// The text of an address with its port.
    ///
    /// # Errors
    ///
    /// When it is none, or not one of this machine.
    pub fn parse(text: &str) -> Result<Self, String> {
        let address: SocketAddr = text
            .parse()
            .map_err(|_| format!("'{text}' is not an address; write 127.0.0.1:PORT"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "'{text}' is not an address of this machine's loopback; this program attacks \
                 nobody else"
            ));
        }
        Ok(Self(address))
    }
}

#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    tls: Option<Box<Tls>>,
}

#[derive(Debug)]
struct Tls {
    session: ClientConnection,
    security: Security,
    records: u64,
    rekeyed: u64,
    /// Bytes of records that the kernel took, and what it had taken when there was a stock.
    taken: u64,
    taken_before: u64,
    /// Bytes of one record of the stock.
    record_bytes: u64,
}

impl Wire {
    /// Begins to connect; it is done when the socket is writable.
    pub fn dial(
        target: Target,
        from: Option<IpAddr>,
        security: Security,
        tls: &Arc<ClientConfig>,
        socket_bytes: Option<usize>,
    ) -> io::Result<Self> {
        let family = if target.0.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        if let Some(bytes) = socket_bytes {
            sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
            sockopt::set_socket_send_buffer_size(&socket, bytes)?;
        }
        if let Some(from) = from {
            bind(&socket, &SocketAddr::new(from, 0))?;
        }
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &target.0) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        let tls = (security != Security::None)
            .then(|| Tls::new(tls, security).map(Box::new))
            .transpose()?;
        Ok(Self { socket, tls })
    }

    /// One that somebody else has opened.
    pub fn accepted(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        Ok(Self { socket, tls: None })
    }

    /// What became of connecting.
    pub fn connected(&self) -> io::Result<()> {
        Ok(sockopt::socket_error(&self.socket)??)
    }

    /// Goes on with TLS's handshake. True once it is over, or when there is none.
    pub fn secure(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            return Ok(true);
        };
        loop {
            let flushed = tls.flush(&self.socket)?;
            if !tls.session.is_handshaking() {
                return Ok(flushed);
            }
            if !flushed || !tls.receive(&self.socket)? {
                return Ok(false);
            }
        }
    }

    /// Whether records wait for the socket to take them.
    pub fn wants_write(&self) -> bool {
        self.tls
            .as_ref()
            .is_some_and(|tls| tls.session.wants_write())
    }

    /// How many of the bytes it took, which may be none.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when it takes none now.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            return Ok(send(&self.socket, bytes, flags)?);
        };
        if !tls.flush(&self.socket)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let sealed = tls.seal(bytes)?;
        tls.flush(&self.socket)?;
        Ok(sealed)
    }

    /// Seals bytes, each in a record of its own, and sends none of them yet: sealing a record costs
    /// what opening it costs, and who has them ready floods with more than that.
    ///
    /// # Errors
    ///
    /// When records wait for the socket already.
    pub fn stock(&mut self, bytes: impl Iterator<Item = u8>) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        if !tls.flush(&self.socket)? {
            return Err(io::Error::other("the socket did not take a request"));
        }
        let before = tls.records;
        for byte in bytes {
            tls.session.writer().write_all(&[byte])?;
            tls.records += 1;
        }
        tls.taken_before = tls.taken;
        // What is around one byte in TLS 1.3: a header, the type of what is in it, a tag.
        tls.record_bytes = if tls.records > before {
            5 + 1 + 1 + 16
        } else {
            0
        };
        Ok(())
    }

    /// Sends of the stock what the socket takes. Returns how many of its records were sent so far.
    pub fn send_stock(&mut self) -> io::Result<u64> {
        let Some(tls) = &mut self.tls else {
            return Ok(0);
        };
        tls.flush(&self.socket)?;
        let sent = (tls.taken - tls.taken_before).checked_div(tls.record_bytes);
        Ok(sent.unwrap_or(0))
    }

    /// Reads; 0 is the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is nothing.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let (count, _) = recv(&self.socket, buffer, RecvFlags::DONTWAIT)?;
            return Ok(count);
        };
        loop {
            match tls.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            if !tls.receive(&self.socket)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // Answers to what was asked on the record layer.
            tls.flush(&self.socket)?;
        }
    }

    /// Reads and throws away, without looking; 0 is the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is nothing.
    pub fn discard(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.tls.is_some() {
            return self.read(buffer);
        }
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let (_, count) = recv(&self.socket, &mut buffer[..], flags)?;
        Ok(count)
    }

    /// Whether the end will be a reset.
    pub fn resets(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(
            &self.socket,
            Some(Duration::ZERO),
        )?)
    }

    /// Records sealed, and how often keys were changed.
    pub fn records(&self) -> (u64, u64) {
        self.tls
            .as_ref()
            .map_or((0, 0), |tls| (tls.records, tls.rekeyed))
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Tls {
    fn new(config: &Arc<ClientConfig>, security: Security) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let mut session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        Ok(Self {
            session,
            security,
            records: 0,
            rekeyed: 0,
            taken: 0,
            taken_before: 0,
            record_bytes: 0,
        })
    }

    /// True when everything is with the kernel.
    fn flush(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Plain(socket)) {
                Ok(count) => self.taken += count as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// False when there is nothing to receive.
    fn receive(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        match self.session.read_tls(&mut Plain(socket)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        self.session
            .process_new_packets()
            .map_err(io::Error::other)?;
        Ok(true)
    }

    fn seal(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.security {
            Security::TlsByByte => {
                let count = bytes.len().min(RECORDS_AT_ONCE);
                for byte in &bytes[..count] {
                    self.session.writer().write_all(&[*byte])?;
                }
                self.records += count as u64;
                Ok(count)
            }
            Security::TlsRekeyed => {
                self.session
                    .refresh_traffic_keys()
                    .map_err(io::Error::other)?;
                self.rekeyed += 1;
                self.records += 2;
                let count = bytes.len().min(16);
                self.session.writer().write_all(&bytes[..count])?;
                Ok(count)
            }
            Security::None | Security::Tls => {
                let count = bytes.len().min(PLAINTEXT_AT_ONCE);
                self.session.writer().write_all(&bytes[..count])?;
                self.records += count.div_ceil(16 << 10) as u64;
                Ok(count)
            }
        }
    }
}

/// The socket as rustls wants it.
struct Plain<'a>(&'a OwnedFd);

impl Read for Plain<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (count, _) = recv(self.0, buffer, RecvFlags::DONTWAIT)?;
        Ok(count)
    }
}

impl Write for Plain<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        Ok(send(self.0, bytes, flags)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// TLS of somebody who trusts everybody: it is the server that is tested.
///
/// # Errors
///
/// When the cryptography cannot be set up.
pub fn trusting() -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    // Each handshake is a whole one.
    config.resumption = ringwire::tls::rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The first message of a TLS handshake.
///
/// # Errors
///
/// When the cryptography cannot be set up.
pub fn client_hello(config: &Arc<ClientConfig>) -> io::Result<Vec<u8>> {
    let mut hello = Vec::new();
    Tls::new(config, Security::Tls)?
        .session
        .write_tls(&mut hello)?;
    Ok(hello)
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn nobody_but_this_machine_is_attacked() {
        assert!(Target::parse("127.0.0.1:9001").is_ok());
        assert!(Target::parse("[::1]:9001").is_ok());
        for elsewhere in [
            "10.0.0.1:80",
            "0.0.0.0:80",
            "[2001:db8::1]:80",
            "example.com:80",
        ] {
            assert!(Target::parse(elsewhere).is_err(), "{elsewhere}");
        }
    }
}
