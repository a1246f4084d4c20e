//! Servers that do something wrong on purpose, and count how often they did.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::channel,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ringwire::{
    Address, CloseCause, Config, Conn, ConnId, Handle, Message, MessageKind, Refusal, Remote,
    Server, Service, Turn, Upgrade,
    proto::handshake::{Answer, Request, accept_key},
    tls::ServerTls,
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

    /// An echo on a Unix path.
    pub fn echo_at(path: &std::path::Path) -> Self {
        let server = Server::builder()
            .listen(format!("unix:{}", path.display()))
            .shards(1)
            .pinned(false)
            .start(|_| ringwire::service::Echo)
            .unwrap();
        Self {
            server: Some(server),
            url: format!("ws+unix:{}:/", path.display()),
        }
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
    /// Whether it says something of its own to whoever opens a connection, and to everybody else.
    pub announces: bool,
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
        if self.announces {
            conn.send("welcome to this topic").unwrap();
            for (id, _) in &self.open {
                self.handle.wait().send(*id, "somebody came").unwrap();
            }
        }
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
pub struct Sink {
    /// It does not count every so many; 0: all.
    pub forgets_every: u64,
}

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
            let forgotten = messages.checked_div(self.forgets_every).unwrap_or(0);
            let messages = messages - forgotten;
            let text = format!("{{\"messages\":{messages},\"payload_bytes\":{bytes}}}");
            conn.send(text).unwrap();
            return;
        }
        conn.state().messages += 1;
        conn.state().bytes += message.payload().len() as u64;
    }
}

/// A server that is written down frame by frame, on a thread for each connection, until it is
/// dropped.
pub struct Scripted {
    pub url: String,
    listener: Option<JoinHandle<()>>,
    shared: Arc<ScriptedShared>,
    address: std::net::SocketAddr,
}

#[derive(Default)]
struct ScriptedShared {
    stops: AtomicBool,
    is_closed: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Scripted {
    /// Plays the script for each connection; it is told how many came before.
    pub fn start(script: impl Fn(Asked, usize) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(ScriptedShared::default());
        let (its_shared, script) = (shared.clone(), Arc::new(script));
        let listening = std::thread::spawn(move || {
            let mut threads = Vec::new();
            for (number, stream) in listener.incoming().enumerate() {
                if its_shared.stops.load(Ordering::SeqCst) {
                    break;
                }
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                let kept = stream.try_clone().unwrap();
                its_shared.streams.lock().unwrap().push(kept);
                let (script, shared) = (script.clone(), its_shared.clone());
                let listens = Listens { shared, address };
                threads.push(std::thread::spawn(move || {
                    script(Asked { stream, listens }, number);
                }));
            }
            drop(listener);
            its_shared.is_closed.store(true, Ordering::SeqCst);
            for thread in threads {
                thread.join().unwrap();
            }
        });
        Self {
            url: format!("ws://{address}/"),
            listener: Some(listening),
            shared,
            address,
        }
    }

    /// An echo that answers each message after a delay, however many wait.
    pub fn slow_echo(delay: Duration) -> Self {
        Self::start(move |asked, _| asked.open().echo_after(delay, u64::MAX))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap().iter() {
            // One that has ended already is as it should be.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes whoever waits for the next connection.
        let _ = TcpStream::connect(self.address);
        let listening = self.listener.take().unwrap().join();
        assert!(listening.is_ok(), "a script panicked");
    }
}

/// The port of a scripted server.
#[derive(Clone)]
pub struct Listens {
    shared: Arc<ScriptedShared>,
    address: std::net::SocketAddr,
}

impl Listens {
    /// Nobody listens from here on, as if the server had died.
    pub fn end(&self) {
        self.shared.stops.store(true, Ordering::SeqCst);
        // Wakes whoever waits for the next connection.
        drop(TcpStream::connect(self.address));
        while !self.shared.is_closed.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        for stream in self.shared.streams.lock().unwrap().iter() {
            // One that has ended already is as it should be.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// A connection that asks for something.
pub struct Asked {
    stream: TcpStream,
    listens: Listens,
}

impl Asked {
    /// The port that it came to.
    pub fn listens(&self) -> Listens {
        self.listens.clone()
    }

    /// Reads whatever comes and says nothing.
    pub fn listen(mut self) {
        let mut bytes = [0; 4096];
        while self.stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
    }

    /// Reads the request's head. `None` when there was none.
    fn head(&mut self) -> Option<Vec<u8>> {
        let (mut head, mut byte) = (Vec::new(), [0; 1]);
        while !head.ends_with(b"\r\n\r\n") {
            match self.stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return None,
            }
        }
        Some(head)
    }

    /// Writes this as the answer to the request, whatever it was.
    pub fn answer_with(mut self, answer: &[u8]) {
        if self.head().is_some() {
            // A client that is gone does not read it.
            let _ = self.stream.write_all(answer);
        }
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Opens the WebSocket after some time.
    pub fn open_later(self, delay: Duration) -> Socket {
        // The point of it: the handshake takes so long.
        std::thread::sleep(delay);
        self.open()
    }

    /// Opens the WebSocket.
    pub fn open(self) -> Socket {
        self.open_after(b"")
    }

    /// An echo for those whose request has this in it; nobody else is answered.
    pub fn open_if(mut self, wanted: &str) {
        let Some(head) = self.head() else { return };
        if String::from_utf8_lossy(&head).contains(wanted) {
            let socket = self.answer(Some(head), b"");
            socket.echo_after(Duration::ZERO, u64::MAX);
        }
    }

    /// Writes something before the answer that opens the WebSocket.
    pub fn open_after(mut self, before: &[u8]) -> Socket {
        let head = self.head();
        self.answer(head, before)
    }

    fn answer(mut self, head: Option<Vec<u8>>, before: &[u8]) -> Socket {
        if let Some(head) = head {
            let request = Request::parse(&head).ok();
            let key = request
                .as_ref()
                .and_then(|request| request.headers().first("sec-websocket-key"));
            let Some(key) = key.and_then(|key| key.first_chunk::<24>()) else {
                let _ = self
                    .stream
                    .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
                let _ = self.stream.shutdown(Shutdown::Both);
                return Socket {
                    stream: self.stream,
                };
            };
            let accept = accept_key(key);
            let mut reply = before.to_vec();
            reply.extend_from_slice(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSec-WebSocket-Accept: ",
            );
            reply.extend_from_slice(&accept);
            reply.extend_from_slice(b"\r\n\r\n");
            // A client that is gone does not read it.
            let _ = self.stream.write_all(&reply);
        }
        Socket {
            stream: self.stream,
        }
    }
}

/// An open WebSocket, frame by frame.
pub struct Socket {
    stream: TcpStream,
}

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
pub const FIN: u8 = 0x80;

/// A frame without a mask.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(len as u8),
        len => {
            frame.push(126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

impl Socket {
    /// The next message or close frame, with its opcode. `None` at the end of the connection.
    pub fn receive(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).ok()?;
        let len = match head[1] & 0x7f {
            126 => {
                let mut len = [0; 2];
                self.stream.read_exact(&mut len).ok()?;
                u64::from(u16::from_be_bytes(len))
            }
            127 => {
                let mut len = [0; 8];
                self.stream.read_exact(&mut len).ok()?;
                u64::from_be_bytes(len)
            }
            len => u64::from(len),
        };
        let mut mask = [0; 4];
        if head[1] & 0x80 != 0 {
            self.stream.read_exact(&mut mask).ok()?;
        }
        let mut payload = vec![0; len as usize];
        self.stream.read_exact(&mut payload).ok()?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        Some((head[0] & 0xf, payload))
    }

    /// Bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) {
        // A client that is gone does not read it.
        let _ = self.stream.write_all(bytes);
    }

    /// A frame as it is, without a mask.
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        let frame = frame(first, payload);
        self.write(&frame);
    }

    pub fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.send_frame(FIN | opcode, payload);
    }

    /// In frames of so many bytes.
    pub fn send_fragmented(&mut self, opcode: u8, payload: &[u8], bytes: usize) {
        let count = payload.len().div_ceil(bytes).max(1);
        for (index, part) in payload.chunks(bytes).enumerate() {
            let first = if index == 0 { opcode } else { 0 };
            let fin = if index + 1 == count { FIN } else { 0 };
            self.send_frame(fin | first, part);
        }
    }

    pub fn close(&mut self, code: u16) {
        self.send(CLOSE, &code.to_be_bytes());
        while self.receive().is_some_and(|(opcode, _)| opcode != CLOSE) {}
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Keeps still, reading, and closes then.
    pub fn close_after(mut self, delay: Duration, code: u16) {
        // The point of it: what was sent has waited for so long.
        std::thread::sleep(delay);
        self.close(code);
    }

    /// Sends replies that were held back, and goes on as an echo.
    pub fn echo_later(mut self, delay: Duration, held: Vec<(u8, Vec<u8>)>) {
        // The point of it: they come so much later.
        std::thread::sleep(delay);
        for (opcode, payload) in held {
            self.send(opcode, &payload);
        }
        self.echo_after(Duration::ZERO, u64::MAX);
    }

    /// Reads nothing for so long, and everything then.
    pub fn read_after(mut self, delay: Duration) {
        // The point of it: what is sent fills the queues on its way.
        std::thread::sleep(delay);
        while self.receive().is_some() {}
    }

    /// Ends the connection without a word.
    pub fn drop_it(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Answers each of the first messages after a delay, then closes.
    pub fn echo_after(mut self, delay: Duration, count: u64) {
        let mut writing = Socket {
            stream: self.stream.try_clone().unwrap(),
        };
        let (replies, waiting) = channel::<(Instant, u8, Vec<u8>)>();
        let writer = std::thread::spawn(move || {
            let mut answered = 0;
            for (due, opcode, payload) in waiting {
                // The point of it: each reply comes so much later.
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                writing.send(opcode, &payload);
                answered += u64::from(opcode != CLOSE);
                if answered == count || opcode == CLOSE {
                    break;
                }
            }
            if answered == count {
                writing.send(CLOSE, &1001_u16.to_be_bytes());
            }
        });
        while let Some((opcode, payload)) = self.receive() {
            let due = match opcode {
                CLOSE => Instant::now(),
                _ => Instant::now() + delay,
            };
            // Whoever has answered enough does not take any more.
            let taken = replies.send((due, opcode, payload));
            if opcode == CLOSE || taken.is_err() {
                break;
            }
        }
        drop(replies);
        writer.join().unwrap();
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
