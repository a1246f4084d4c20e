//! Application code that is called while the library is at work, and uses the library.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use ringwire::{Answer, CloseCode, Config, Refusal, Remote, Upgrade, aio};

use crate::host::{Host, echo, frame, read_all, run};

thread_local! {
    /// What a user has open on this thread.
    static SESSIONS: RefCell<VecDeque<aio::WebSocket>> = const { RefCell::new(VecDeque::new()) };
    static WRITER: RefCell<Option<aio::Writer>> = const { RefCell::new(None) };
}

/// Lets each user have one session: a new one ends the one before it, in one way or another.
struct OneEach;

impl aio::Handler for OneEach {
    type State = ();

    fn on_handshake(
        &self,
        upgrade: &Upgrade<'_>,
        _: Remote<'_>,
        _: &mut Answer,
    ) -> Result<(), Refusal> {
        // Not in the borrow of the list: dropping one runs more code.
        let before = SESSIONS.with_borrow_mut(VecDeque::pop_front);
        if let Some(before) = before
            && upgrade.request().path() == "/close"
        {
            let code = CloseCode::new(4001).unwrap();
            before.writer().close(code, "elsewhere").unwrap();
        }
        assert!(aio::Context::current().unwrap().connections() > 0);
        Ok(())
    }

    async fn serve(&self, socket: aio::WebSocket, (): ()) {
        SESSIONS.with_borrow_mut(|sessions| sessions.push_back(socket));
    }
}

#[test]
fn who_judges_may_close_and_drop_other_connections() {
    let host = Host::new(Config::default(), OneEach);
    let raw = |path: &str| {
        let mut stream = std::net::TcpStream::connect(host.address()).unwrap();
        stream.set_read_timeout(Some(crate::host::WAIT)).unwrap();
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        stream
    };
    let mut first = raw("/");
    host.wait_for("session", |stats| stats.counts.handshakes == 1);
    let mut second = raw("/close");
    let mut closed = [0; 13];
    first.read_exact(&mut closed).unwrap();
    assert_eq!(&closed, b"\x88\x0b\x0f\xa1elsewhere");
    host.wait_for("session", |stats| stats.counts.handshakes == 2);
    let _third = raw("/drop");
    let mut dropped = [0; 4];
    second.read_exact(&mut dropped).unwrap();
    assert_eq!(dropped, [0x88, 2, 3, 0xe8]);
    host.wait_for("no panic", |stats| {
        stats.counts.service_panics == 0 && stats.counts.handshakes == 3
    });
}

#[test]
fn nothing_more_of_a_batch_is_handed_out_after_a_close() {
    let handed_out = Arc::new(AtomicUsize::new(0));
    let count = handed_out.clone();
    let host = Host::new(
        Config::default(),
        async move |mut socket: aio::WebSocket| {
            let writer = socket.writer();
            while let Some(message) = socket.next().await {
                let is_last = message.payload() == b"3";
                count.fetch_add(1, Ordering::Relaxed);
                if is_last {
                    writer.close(CloseCode::GOING_AWAY, "").unwrap();
                }
            }
        },
    );
    let mut stream = host.raw();
    let messages = (0..10).flat_map(|index| frame(0x81, index.to_string().as_bytes()));
    let mut bytes: Vec<u8> = messages.collect();
    // What is behind them is looked at.
    bytes.extend(frame(0x88, &[3, 0xe9]));
    stream.write_all(&bytes).unwrap();
    assert_eq!(read_all(&mut stream), [0x88, 2, 3, 0xe9]);
    host.wait_for("end", |stats| stats.connections_open == 0);
    assert_eq!(handed_out.load(Ordering::Relaxed), 4);
}

/// A waker that uses the connection at once, as an executor within a task may.
struct Busybody(AtomicUsize);

impl Wake for Busybody {
    fn wake(self: Arc<Self>) {
        WRITER.with_borrow(|writer| {
            let writer = writer.as_ref().expect("on this thread");
            let _ = writer.queued_bytes();
            let _ = writer.ping(b"woken");
        });
        self.0.fetch_add(1, Ordering::Relaxed);
        assert_eq!(self.0.load(Ordering::Relaxed), 1, "more than once");
    }
}

#[test]
fn a_waker_may_use_the_connection_that_it_waits_for() {
    let host = Host::new(Config::default(), async |mut socket: aio::WebSocket| {
        tokio::time::sleep(Duration::from_millis(300)).await;
        while socket.next().await.is_some() {}
    });
    run(async {
        let socket = aio::connect(&host.url()).await.unwrap();
        let busybody = Arc::new(Busybody(AtomicUsize::new(0)));
        let waker = Waker::from(busybody.clone());
        let writer = socket.writer();
        WRITER.set(Some(socket.writer()));
        writer.send(vec![0; 12 << 20]).await.unwrap();
        {
            let flushing = std::pin::pin!(writer.flush());
            let polled = flushing.poll(&mut Context::from_waker(&waker));
            assert!(matches!(polled, Poll::Pending), "it does not fit");
        }
        while busybody.0.load(Ordering::Relaxed) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Its panic the second time would have been contained.
        writer.flush().await.unwrap();
        WRITER.set(None);
    });
}

thread_local! {
    /// Times that something was said on this thread, if it listens.
    static SAID: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Asks how things stand whenever something is said. One for the process: of several, tracing asks
/// that of the thread on which a place in the code was reached first.
struct Curious;

impl tracing::Subscriber for Curious {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("ringwire")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        if let Some(said) = SAID.get() {
            let context = aio::Context::current().unwrap();
            let _ = (context.connections(), context.stats());
            SAID.set(Some(said + 1));
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn what_listens_to_the_log_may_use_the_connections() {
    tracing::subscriber::set_global_default(Curious).expect("the only one");
    let host = Host::new(Config::default(), echo);
    SAID.set(Some(0));
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        socket.send("hello").await.unwrap();
        assert_eq!(socket.next().await.unwrap().text(), Some("hello"));
        socket.close(CloseCode::NORMAL_CLOSURE, "").await.unwrap();
        drop(socket);
        while SAID.get() == Some(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}
