//! A client and a server with two wires between them.

use ringwire::{
    proto::{Sink, VecSink},
    tls::{ClientTls, ServerTls, Session, TlsError},
};

use crate::authority::Authority;

/// The name that all certificates are for.
pub const HOST: &str = "server.example.com";

/// One end: what it wrote and was not taken yet, and what it has read.
pub struct End {
    pub session: Session,
    pub out: VecSink,
    pub plain: Vec<u8>,
}

impl End {
    pub fn new(session: Session) -> Self {
        Self {
            session,
            out: VecSink::default(),
            plain: Vec::new(),
        }
    }

    /// What it wrote since it was asked last.
    pub fn take(&mut self) -> Vec<u8> {
        let taken = self.out.written().to_vec();
        self.out.clear();
        taken
    }

    /// Receives `bytes` in pieces of this length.
    pub fn receive(&mut self, bytes: &[u8], piece: usize) -> Result<(), TlsError> {
        for bytes in bytes.chunks(piece) {
            self.session
                .receive(&mut bytes.to_vec(), &mut self.plain, &mut self.out)?;
        }
        Ok(())
    }

    pub fn send(&mut self, plain: &[u8]) {
        self.session.encrypt(plain, &mut self.out).unwrap();
    }
}

pub struct Pair {
    pub client: End,
    pub server: End,
}

impl Pair {
    pub fn new(client: &ClientTls, server: &ServerTls) -> Self {
        let mut client = End::new(client.session(HOST).unwrap());
        client.session.start(&mut client.out).unwrap();
        Self {
            client,
            server: End::new(server.session().unwrap()),
        }
    }

    /// Carries bytes both ways, in pieces of this length, until there are none.
    pub fn exchange(&mut self, piece: usize) -> Result<(), TlsError> {
        loop {
            let (to_server, to_client) = (self.client.take(), self.server.take());
            if to_server.is_empty() && to_client.is_empty() {
                return Ok(());
            }
            self.server.receive(&to_server, piece)?;
            self.client.receive(&to_client, piece)?;
        }
    }

    /// With the handshake behind it.
    pub fn open(client: &ClientTls, server: &ServerTls) -> Self {
        let mut pair = Self::new(client, server);
        pair.exchange(usize::MAX).unwrap();
        assert!(pair.client.session.is_open() && pair.server.session.is_open());
        pair
    }
}

/// A server with a certificate of this authority, and a client that trusts it.
pub fn both(authority: &Authority) -> (ClientTls, ServerTls) {
    let pair = authority.issue(&[HOST]);
    let server = ServerTls::builder().certificate(&pair.certificate, &pair.key);
    let client = ClientTls::builder().authorities(&authority.file);
    (client.load().unwrap(), server.load().unwrap())
}

/// A sink that gives no more space together than it has to.
#[derive(Default)]
pub struct Narrow(VecSink);

impl Narrow {
    pub fn written(&self) -> &[u8] {
        self.0.written()
    }
}

impl Sink for Narrow {
    fn space(&mut self, wanted: usize) -> &mut [u8] {
        self.0.space(wanted.min(256))
    }

    fn commit(&mut self, bytes: usize) {
        self.0.commit(bytes);
    }
}

/// Bytes that repeat nowhere near.
pub fn bytes(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}
