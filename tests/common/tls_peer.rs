//! A TLS client of the tests' own, on top of rustls.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
};

use ringwire::{
    Address,
    tls::{
        ClientTls,
        rustls::{ClientConnection, pki_types::ServerName},
    },
};

use crate::common::{Peer, request};

/// A client whose records can be looked at before they are sent.
pub struct TlsPeer {
    pub stream: TcpStream,
    pub tls: ClientConnection,
}

impl TlsPeer {
    pub fn connect(address: &Address, tls: &ClientTls) -> Self {
        let name = ServerName::try_from("localhost").unwrap();
        Self {
            stream: Peer::connect(address).stream,
            tls: ClientConnection::new(tls.to_rustls(), name).unwrap(),
        }
    }

    /// The records that are to be sent, each whole.
    pub fn records(&mut self) -> Vec<Vec<u8>> {
        let mut wire = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut wire).unwrap();
        }
        let (mut records, mut rest) = (Vec::new(), &wire[..]);
        while let [_, _, _, high, low, ..] = rest {
            let len = 5 + usize::from(u16::from_be_bytes([*high, *low]));
            records.push(rest[..len].to_vec());
            rest = &rest[len..];
        }
        records
    }

    pub fn flush(&mut self, piece: usize) {
        for record in self.records() {
            for bytes in record.chunks(piece) {
                self.stream.write_all(bytes).unwrap();
            }
        }
    }

    /// Receives once. Returns whether there was anything before the end.
    pub fn fill(&mut self) -> bool {
        let read = self.tls.read_tls(&mut self.stream).expect("reading");
        if let Err(error) = self.tls.process_new_packets() {
            panic!("the server's TLS: {error}");
        }
        read > 0
    }

    pub fn handshake(&mut self, piece: usize) {
        self.flush(piece);
        while self.tls.is_handshaking() {
            assert!(self.fill(), "the server ended the handshake");
            self.flush(piece);
        }
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).unwrap();
    }

    /// What there is up to `end` in it.
    pub fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut read = Vec::new();
        loop {
            let mut bytes = [0; 4096];
            match self.tls.reader().read(&mut bytes) {
                Ok(len) if len > 0 => read.extend_from_slice(&bytes[..len]),
                _ => assert!(
                    self.fill(),
                    "the stream ended after {}",
                    read.escape_ascii()
                ),
            }
            if read.ends_with(end) {
                return read;
            }
        }
    }

    pub fn open(&mut self, piece: usize) {
        self.handshake(piece);
        self.write(request("/").as_bytes());
        self.flush(piece);
        let head = self.read_until(b"\r\n\r\n");
        assert!(
            head.starts_with(b"HTTP/1.1 101 "),
            "{}",
            head.escape_ascii()
        );
    }

    /// The alert that the server ends with, as rustls has it.
    pub fn expect_alert(mut self) -> String {
        loop {
            let read = self.tls.read_tls(&mut self.stream).expect("reading");
            match self.tls.process_new_packets() {
                Ok(_) => assert!(read > 0, "the stream ended without an alert"),
                Err(error) => {
                    // And then the end, once the client has had its say.
                    self.stream.shutdown(Shutdown::Write).unwrap();
                    let mut rest = Vec::new();
                    self.stream
                        .read_to_end(&mut rest)
                        .expect("an end and no reset");
                    return error.to_string();
                }
            }
        }
    }
}
