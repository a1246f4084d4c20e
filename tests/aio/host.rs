//! A server and raw peers for the tests.

use std::{
    any::Any,
    future::Future,
    io::{Read, Write},
    net::TcpStream,
    pin::Pin,
    time::{Duration, Instant},
};

use ringwire::{
    Answer, Config, HttpReply, Refusal, Remote, Request, RingKind, Snapshot, Upgrade, aio,
};

pub const WAIT: Duration = Duration::from_secs(10);

/// Names what servers and clients run on: `epoll`, or `uring`, which they do without.
pub const RING: &str = "RINGWIRE_TEST_RING";

/// What is not for another runtime: the tests that run the others again, and those that choose.
pub const AGAIN_WITHOUT: [&str; 2] = ["again::", "runtimes::"];

/// Nothing here counts descriptors.
pub fn guarded<T>(body: impl FnOnce() -> T) -> T {
    body()
}

/// What servers and clients run on.
pub fn ring() -> RingKind {
    match std::env::var(RING).as_deref() {
        Ok("epoll") => RingKind::Epoll,
        Ok("uring") | Err(_) => RingKind::Uring,
        Ok(other) => panic!("{RING} is {other}, which is no ring"),
    }
}

/// An opening handshake.
pub const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
      Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Any handler. All tests have servers of this one type: each type more would have an engine of its
/// own, on both runtimes, and their code takes seconds to build.
struct Erased(Box<dyn Erase + Send + Sync>);

trait Erase {
    fn on_handshake(
        &self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<Box<dyn Any>, Refusal>;

    fn on_http(&self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal>;

    fn serve(
        &self,
        socket: aio::WebSocket,
        state: Box<dyn Any>,
    ) -> Pin<Box<dyn Future<Output = ()> + '_>>;
}

impl<H: aio::Handler<State: 'static>> Erase for H {
    fn on_handshake(
        &self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<Box<dyn Any>, Refusal> {
        Ok(Box::new(aio::Handler::on_handshake(
            self, upgrade, peer, answer,
        )?))
    }

    fn on_http(&self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        aio::Handler::on_http(self, request, peer)
    }

    fn serve(
        &self,
        socket: aio::WebSocket,
        state: Box<dyn Any>,
    ) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        let state = state.downcast().expect("what the handler has found out");
        Box::pin(aio::Handler::serve(self, socket, *state))
    }
}

impl aio::Handler for Erased {
    type State = Option<Box<dyn Any>>;

    fn on_handshake(
        &self,
        upgrade: &Upgrade<'_>,
        peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<Self::State, Refusal> {
        self.0.on_handshake(upgrade, peer, answer).map(Some)
    }

    fn on_http(&self, request: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        self.0.on_http(request, peer)
    }

    async fn serve(&self, socket: aio::WebSocket, state: Self::State) {
        let state = state.expect("it comes from the handshake");
        self.0.serve(socket, state).await;
    }
}

/// A server on one thread, stopped and joined at the end.
pub struct Host {
    server: Option<aio::Server>,
}

impl Host {
    pub fn new<H>(config: Config, handler: H) -> Self
    where
        H: aio::Handler<State: 'static> + Send + Sync,
    {
        let server = aio::Server::builder()
            .listen("127.0.0.1:0")
            .threads(1)
            .pinned(false)
            .ring(ring())
            .config(config)
            .start(Erased(Box::new(handler)))
            .unwrap();
        assert_eq!(server.ring(), ring());
        Self {
            server: Some(server),
        }
    }

    pub fn server(&self) -> &aio::Server {
        self.server.as_ref().unwrap()
    }

    pub fn address(&self) -> String {
        self.server().addresses()[0].to_string()
    }

    pub fn url(&self) -> String {
        format!("ws://{}/", self.address())
    }

    /// Waits until the counts are as they should be.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Snapshot) -> bool) {
        let deadline = Instant::now() + WAIT;
        loop {
            let snapshot = self.server().handle().stats();
            if fits(&snapshot) {
                return;
            }
            assert!(Instant::now() < deadline, "no {what}: {snapshot:?}");
            std::thread::yield_now();
        }
    }

    /// A raw connection whose opening handshake is done.
    pub fn raw(&self) -> TcpStream {
        self.raw_offering("x-nothing")
    }

    /// As [`raw`](Self::raw), with these extensions offered.
    pub fn raw_offering(&self, extensions: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let (request, end) = REQUEST.split_at(REQUEST.len() - 2);
        let offer = format!("Sec-WebSocket-Extensions: {extensions}\r\n");
        let request = [request, offer.as_bytes(), end].concat();
        stream.write_all(&request).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{head:?}");
        stream
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.handle().stop();
            let joined = server.join();
            if !std::thread::panicking() {
                joined.unwrap();
            }
        }
    }
}

/// Runs on a runtime of this thread, and fails instead of hanging.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    let in_time = in_time(future);
    match ring() {
        RingKind::Epoll => current_thread().block_on(aio::local(in_time)),
        _ => tokio_uring::start(in_time),
    }
}

/// Fails instead of hanging.
pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    let in_time = tokio::time::timeout(6 * WAIT, future).await;
    in_time.expect("the test takes too long")
}

/// A runtime as `#[tokio::main(flavor = "current_thread")]` has it.
pub fn current_thread() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// Sends everything back.
pub async fn echo(mut socket: aio::WebSocket) {
    let writer = socket.writer();
    while let Some(message) = socket.next().await {
        if writer.send(message).await.is_err() {
            return;
        }
    }
}

/// A client's frame, masked with zeros.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Reads until the peer ends the stream.
pub fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}
