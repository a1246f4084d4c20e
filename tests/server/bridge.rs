//! TLS for clients that have none: what a plain client says here reaches the server encrypted.
//!
//! Knows: sockets, and the buffered connections of rustls, which the server's own way through it
//! does not use. Refuses to know: WebSocket. An end of one side becomes the like of the other: a
//! shutdown a `close_notify`, a reset a reset.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ringwire::{
    Address,
    tls::{
        ClientTls,
        rustls::{ClientConnection, pki_types::ServerName},
    },
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::set_socket_linger,
};

/// Plaintext that waits for a client at most: the server is to feel that it does not read.
const WAITING_BYTES_MAX: usize = 16 << 10;

/// A bridge to one address, for as long as it lives.
pub struct Bridge {
    pub address: Address,
    /// Streams that the server ended without a `close_notify`.
    pub truncated: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Bridge {
    pub fn start(server: &Address, tls: ClientTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = Address::Inet(listener.local_addr().unwrap());
        let (stop, truncated) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let (server, stopped, counted) = (server.clone(), stop.clone(), truncated.clone());
        let body = move || {
            let mut lines = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                wait(&listener, &lines);
                if let Ok((client, _)) = listener.accept() {
                    lines.push(Line::new(client, &server, &tls));
                }
                lines.retain_mut(|line: &mut Line| line.work(&counted));
            }
        };
        let thread = thread::Builder::new().name("bridge".to_owned());
        Self {
            address,
            truncated,
            stop,
            thread: Some(thread.spawn(body).unwrap()),
        }
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the bridge panicked");
        }
    }
}

fn wait(listener: &TcpListener, lines: &[Line]) {
    let mut all = vec![PollFd::new(listener, PollFlags::IN)];
    for line in lines {
        let (client, server) = line.wants();
        all.push(PollFd::new(&line.client, client));
        all.push(PollFd::new(&line.server, server));
    }
    let timeout = Timespec::try_from(Duration::from_millis(20)).unwrap();
    let _ = poll(&mut all, Some(&timeout));
}

/// One client's way to the server.
struct Line {
    client: TcpStream,
    server: TcpStream,
    tls: ClientConnection,
    /// Plaintext for the client.
    waiting: Vec<u8>,
    client_ended: bool,
    /// The server's `close_notify` came.
    peer_closed: bool,
    /// Either that or the end of the stream.
    server_ended: bool,
    stream_ended: bool,
}

enum Step {
    Did,
    Blocked,
    Ended,
    Broken,
}

fn step(result: io::Result<usize>) -> Step {
    match result {
        Ok(0) => Step::Ended,
        Ok(_) => Step::Did,
        Err(error) if error.kind() == ErrorKind::WouldBlock => Step::Blocked,
        Err(_) => Step::Broken,
    }
}

impl Line {
    fn new(client: TcpStream, server: &Address, tls: &ClientTls) -> Self {
        let server = match server {
            Address::Inet(inet) => TcpStream::connect(inet).expect("connecting"),
            Address::Unix(path) => {
                OwnedFd::from(UnixStream::connect(path).expect("connecting")).into()
            }
        };
        for stream in [&client, &server] {
            stream.set_nonblocking(true).unwrap();
            let _ = stream.set_nodelay(true);
        }
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(tls.to_rustls(), name).unwrap();
        tls.set_buffer_limit(Some(WAITING_BYTES_MAX));
        Self {
            client,
            server,
            tls,
            waiting: Vec::new(),
            client_ended: false,
            peer_closed: false,
            server_ended: false,
            stream_ended: false,
        }
    }

    fn may_read_client(&self) -> bool {
        !self.client_ended && !self.tls.is_handshaking() && !self.tls.wants_write()
    }

    fn may_read_server(&self) -> bool {
        !self.stream_ended && self.waiting.len() < WAITING_BYTES_MAX
    }

    fn wants(&self) -> (PollFlags, PollFlags) {
        let flags = |read, write| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, read);
            flags.set(PollFlags::OUT, write);
            flags
        };
        (
            flags(self.may_read_client(), !self.waiting.is_empty()),
            flags(self.may_read_server(), self.tls.wants_write()),
        )
    }

    /// Carries what there is. Returns whether there may be more.
    fn work(&mut self, truncated: &AtomicUsize) -> bool {
        loop {
            match self.carry(truncated) {
                Step::Did => {}
                Step::Blocked => return true,
                Step::Ended => return false,
                Step::Broken => {
                    // The other side sees what this one has seen.
                    for stream in [&self.client, &self.server] {
                        let _ = set_socket_linger(stream, Some(Duration::ZERO));
                    }
                    return false;
                }
            }
        }
    }

    fn carry(&mut self, truncated: &AtomicUsize) -> Step {
        let mut did = false;
        if self.tls.wants_write() {
            match step(self.tls.write_tls(&mut self.server)) {
                Step::Did => did = true,
                Step::Blocked => {}
                other => return other,
            }
        }
        if self.may_read_client() {
            let mut bytes = [0; 8192];
            let read = self.client.read(&mut bytes);
            let len = read.as_ref().map_or(0, |&len| len);
            match step(read) {
                Step::Did => {
                    self.tls.writer().write_all(&bytes[..len]).expect("room");
                    did = true;
                }
                Step::Blocked => {}
                Step::Ended => {
                    self.client_ended = true;
                    self.tls.send_close_notify();
                    did = true;
                }
                Step::Broken => return Step::Broken,
            }
        }
        if self.may_read_server() {
            match step(self.tls.read_tls(&mut self.server)) {
                Step::Did => did = true,
                Step::Blocked => {}
                Step::Ended => {
                    self.stream_ended = true;
                    did = true;
                }
                Step::Broken => return Step::Broken,
            }
            match self.tls.process_new_packets() {
                Ok(state) => {
                    let len = state.plaintext_bytes_to_read();
                    let at = self.waiting.len();
                    self.waiting.resize(at + len, 0);
                    let read = self.tls.reader().read_exact(&mut self.waiting[at..]);
                    read.expect("the plaintext that there is");
                    self.peer_closed = state.peer_has_closed();
                    self.server_ended |= self.peer_closed;
                }
                Err(_) => return Step::Broken,
            }
            if self.stream_ended && !self.server_ended {
                truncated.fetch_add(1, Ordering::Relaxed);
                self.server_ended = true;
            }
        }
        if !self.waiting.is_empty() {
            let written = self.client.write(&self.waiting);
            let len = written.as_ref().map_or(0, |&len| len);
            match step(written) {
                Step::Did => {
                    self.waiting.drain(..len);
                    did = true;
                }
                Step::Blocked => {}
                _ => return Step::Broken,
            }
        }
        if self.waiting.is_empty() && self.server_ended {
            let _ = self.client.shutdown(Shutdown::Write);
            let is_truncated = self.stream_ended && !self.peer_closed;
            if !self.tls.wants_write() && (self.client_ended || is_truncated) {
                return Step::Ended;
            }
        }
        if did { Step::Did } else { Step::Blocked }
    }
}
