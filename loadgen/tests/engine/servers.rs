//! Servers that do something wrong on purpose, and count how often they did.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ringwire::{
    Address, CloseCause, Config, Conn, ConnId, Handle, Message, MessageKind, Refusal, Remote,
    Server, Service, Turn, Upgrade, proto::handshake::Answer, tls::ServerTls,
};

/// A server on a port of the kernel's choice, until it is dropped.
pub struct Running {
    server: Option<Server>,
    pub url: String,
}

impl Running {
    pub fn start<S: Service>(make: impl Fn(u16) -> S + Send + Sync + 'static) -> Self {
        Self::start_with(Config::default(), make)
    }

    pub fn start_with<S: Service>(
        config: Config,
        make: impl Fn(u16) -> S + Send + Sync + 'static,
    ) -> Self {
        let server = Server::builder()
            .config(config)
            .listen("127.0.0.1:0")
            .shards(1)
            .pinned(false)
            .start(make)
            .unwrap();
        let Address::Inet(inet) = server.addresses()[0] else {
            unreachable!("an IP address was listened on");
        };
        Self {
            server: Some(server),
            url: format!("ws://{inet}/"),
        }
    }

    /// An echo over TLS.
    pub fn echo_over(tls: &ServerTls) -> Self {
        let server = Server::builder()
            .listen_tls("127.0.0.1:0", tls)
            .shards(1)
            .pinned(false)
            .start(|_| ringwire::service::Echo)
            .unwrap();
        let Address::Inet(inet) = server.tls_addresses()[0] else {
            unreachable!("an IP address was listened on");
        };
        Self {
            server: Some(server),
            url: format!("wss://{inet}/"),
        }
    }

    pub fn echo() -> Self {
        Self::start(|_| ringwire::service::Echo)
    }

    pub fn handle(&self) -> Handle {
        self.server.as_ref().unwrap().handle()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.handle().stop_within(0);
            server.join().unwrap();
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The reply is never sent.
    Lose,
    /// The reply is sent twice.
    Duplicate,
    /// The reply is sent after the next one.
    Reorder,
    /// A bit of the stamp is wrong.
    CorruptStamp,
    /// The last bit of the payload is wrong.
    CorruptEnd,
    /// A byte is missing.
    Cut,
    /// Binary comes back as text.
    Kind,
    /// An answer to nothing.
    Invent,
}

/// An echo that does something wrong with every `every`th message of a connection.
pub struct Faulty {
    pub fault: Fault,
    pub every: u64,
    /// How often it did.
    pub done: Arc<AtomicU64>,
    /// Replies that are held back.
    pub held: Arc<AtomicU64>,
}

#[derive(Default)]
pub struct Count {
    messages: u64,
    held: Option<Vec<u8>>,
}

impl Service for Faulty {
    type State = Count;

    fn on_message(&mut self, conn: &mut Conn<'_, Count>, message: Message<'_>) {
        conn.state().messages += 1;
        let is_faulty = conn.state().messages.is_multiple_of(self.every);
        let mut payload = message.payload().to_vec();
        if let Some(held) = conn.state().held.take() {
            conn.send(message).unwrap();
            conn.send(held).unwrap();
            self.done.fetch_add(1, Ordering::SeqCst);
            self.held.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        if !is_faulty {
            conn.send(message).unwrap();
            return;
        }
        if self.fault == Fault::Reorder {
            conn.state().held = Some(payload);
            self.held.fetch_add(1, Ordering::SeqCst);
            return;
        }
        self.done.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::Lose | Fault::Reorder => {}
            Fault::Duplicate => {
                conn.send(message).unwrap();
                conn.send(message).unwrap();
            }
            Fault::CorruptStamp => {
                payload[3] ^= 1;
                conn.send(payload).unwrap();
            }
            Fault::CorruptEnd => {
                *payload.last_mut().unwrap() ^= 1;
                conn.send(payload).unwrap();
            }
            Fault::Cut => {
                payload.pop();
                conn.send(payload).unwrap();
            }
            Fault::Kind => {
                assert_eq!(message.kind(), MessageKind::Binary);
                conn.send("0".repeat(payload.len())).unwrap();
            }
            Fault::Invent => {
                conn.send(message).unwrap();
                conn.send(&b"nobody asked for this one, at least not like that"[..])
                    .unwrap();
            }
        }
    }
}

/// An echo that stands still once.
pub struct Stalling {
    pub at: Instant,
    pub lasts: Duration,
    pub done: bool,
}

impl Service for Stalling {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        if !self.done && Instant::now() >= self.at {
            self.done = true;
            // The point of it: everything behind this message waits as well.
            std::thread::sleep(self.lasts);
        }
        conn.send(message).unwrap();
    }
}

/// An echo that refuses every second handshake.
#[derive(Default)]
pub struct Choosy {
    asked: u64,
}

impl Service for Choosy {
    type State = ();

    fn on_handshake(
        &mut self,
        _: &Upgrade<'_>,
        _: Remote<'_>,
        _: &mut Answer,
    ) -> Result<(), Refusal> {
        self.asked += 1;
        if self.asked.is_multiple_of(2) {
            return Err(Refusal::new(503, "full today\nand tomorrow as well\n").unwrap());
        }
        Ok(())
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message).unwrap();
    }
}

/// Refuses everybody.
pub struct Shut;

impl Service for Shut {
    type State = ();

    fn on_handshake(
        &mut self,
        _: &Upgrade<'_>,
        _: Remote<'_>,
        _: &mut Answer,
    ) -> Result<(), Refusal> {
        Err(Refusal::new(403, "\r\n  members only\r\nask at the door\r\n").unwrap())
    }
}

/// Sends to all clients of a path what one of them sends.
pub struct Repeater {
    pub handle: Arc<OnceLock<Handle>>,
    pub open: Vec<(ConnId, String)>,
    /// Every so many deliveries one is left out; 0: none.
    pub leave_out_every: u64,
    pub deliveries: u64,
    pub left_out: Arc<AtomicU64>,
    /// Whether a client hears itself.
    pub hears_itself: bool,
}

impl Service for Repeater {
    type State = String;

    fn on_handshake(
        &mut self,
        upgrade: &Upgrade<'_>,
        _: Remote<'_>,
        _: &mut Answer,
    ) -> Result<String, Refusal> {
        Ok(upgrade.request().path().to_owned())
    }

    fn on_open(&mut self, conn: &mut Conn<'_, String>) {
        let path = conn.state().clone();
        self.open.push((conn.id(), path));
    }

    fn on_message(&mut self, conn: &mut Conn<'_, String>, message: Message<'_>) {
        let (own, path) = (conn.id(), conn.state().clone());
        let handle = self.handle.wait();
        for (id, topic) in &self.open {
            if *topic != path || (*id == own && !self.hears_itself) {
                continue;
            }
            self.deliveries += 1;
            if self.leave_out_every > 0 && self.deliveries.is_multiple_of(self.leave_out_every) {
                self.left_out.fetch_add(1, Ordering::SeqCst);
                continue;
            }
            handle.send(*id, message).unwrap();
        }
    }

    fn on_close(&mut self, _: &mut Turn<'_>, id: ConnId, _: String, _: &CloseCause) {
        self.open.retain(|(open, _)| *open != id);
    }
}

/// Reads, counts, and says so when asked.
#[derive(Default)]
pub struct Sink;

#[derive(Default)]
pub struct Read {
    messages: u64,
    bytes: u64,
}

impl Service for Sink {
    type State = Read;

    fn on_message(&mut self, conn: &mut Conn<'_, Read>, message: Message<'_>) {
        if message.text() == Some("stats") {
            let Read { messages, bytes } = *conn.state();
            let text = format!("{{\"messages\":{messages},\"payload_bytes\":{bytes}}}");
            conn.send(text).unwrap();
            return;
        }
        conn.state().messages += 1;
        conn.state().bytes += message.payload().len() as u64;
    }
}
