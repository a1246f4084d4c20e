//! How connections end, from either side.

use std::{
    io::{Read, Write},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ringwire::{CloseCause, CloseCode, Config, SendError, Timeout, aio};

use crate::host::{Host, echo, frame, read_all, run};

type Causes = Arc<Mutex<Vec<Option<CloseCause>>>>;

/// Receives until the end, and notes why it came.
fn noting(causes: &Causes) -> impl aio::Handler + Send + Sync + use<> {
    let causes = causes.clone();
    async move |mut socket: aio::WebSocket| {
        while socket.next().await.is_some() {}
        causes.lock().unwrap().push(socket.cause());
    }
}

fn the_cause(host: &Host, causes: &Causes) -> CloseCause {
    host.wait_for("end of the connection", |stats| {
        stats.counts.connections == 1 && stats.connections_open == 0
    });
    let causes = causes.lock().unwrap();
    assert_eq!(causes.len(), 1);
    causes[0].clone().unwrap()
}

#[test]
fn a_peer_closes() {
    let causes = Causes::default();
    let host = Host::new(Config::default(), noting(&causes));
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        let closed = socket.close(CloseCode::GOING_AWAY, "bye").await;
        assert_eq!(closed, Ok(()));
        assert_eq!(
            socket.close(CloseCode::GOING_AWAY, "").await,
            Err(SendError::Closed)
        );
        assert_eq!(socket.send("late").await, Err(SendError::Closed));
    });
    let cause = the_cause(&host, &causes);
    let expected = CloseCause::Peer {
        code: Some(CloseCode::GOING_AWAY),
        reason: "bye".into(),
    };
    assert_eq!(cause, expected);
}

#[test]
fn a_handler_closes_and_what_it_sent_before_arrives() {
    let host = Host::new(Config::default(), async |mut socket: aio::WebSocket| {
        socket.send("first").await.unwrap();
        let closed = socket.close(CloseCode::POLICY_VIOLATION, "enough").await;
        assert_eq!(closed, Ok(()));
    });
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().text(), Some("first"));
        assert!(socket.next().await.is_none());
        let expected = CloseCause::Peer {
            code: Some(CloseCode::POLICY_VIOLATION),
            reason: "enough".into(),
        };
        assert_eq!(socket.cause(), Some(expected));
    });
}

#[test]
fn a_handler_that_ends_closes_with_1000_after_what_it_sent() {
    let host = Host::new(Config::default(), async |socket: aio::WebSocket| {
        socket.send(vec![1; 3 << 20]).await.unwrap();
    });
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().payload().len(), 3 << 20);
        assert!(socket.next().await.is_none());
        let code = Some(CloseCode::NORMAL_CLOSURE);
        let reason = "".into();
        assert_eq!(socket.cause(), Some(CloseCause::Peer { code, reason }));
    });
    host.wait_for("end of the connection", |stats| stats.connections_open == 0);
}

#[test]
fn a_handler_that_panics_closes_its_own_connection_with_1011() {
    let host = Host::new(Config::default(), async |mut socket: aio::WebSocket| {
        let writer = socket.writer();
        while let Some(message) = socket.next().await {
            assert_ne!(message.text(), Some("panic"), "as it was told");
            writer.send(message).await.unwrap();
        }
    });
    run(async {
        let mut other = aio::connect(&host.url()).await.unwrap();
        let mut socket = aio::connect(&host.url()).await.unwrap();
        socket.send("panic").await.unwrap();
        assert!(socket.next().await.is_none());
        let code = Some(CloseCode::INTERNAL_ERROR);
        let reason = "".into();
        assert_eq!(socket.cause(), Some(CloseCause::Peer { code, reason }));
        other.send("still here").await.unwrap();
        assert_eq!(other.next().await.unwrap().text(), Some("still here"));
    });
    host.wait_for("panic", |stats| stats.counts.service_panics == 1);
}

#[test]
fn a_peer_vanishes_or_resets() {
    let causes = Causes::default();
    let host = Host::new(Config::default(), noting(&causes));
    drop(host.raw());
    assert_eq!(the_cause(&host, &causes), CloseCause::Vanished);
    let causes = Causes::default();
    let host = Host::new(Config::default(), noting(&causes));
    let stream = host.raw();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    let cause = the_cause(&host, &causes);
    assert!(matches!(cause, CloseCause::Transport(_)), "{cause}");
}

#[test]
fn a_silent_peer_is_pinged_and_then_dropped() {
    let mut config = Config::default();
    config.idle_timeout_ms = 300;
    let causes = Causes::default();
    let host = Host::new(config, noting(&causes));
    let mut stream = host.raw();
    let begun = Instant::now();
    let mut ping = [0; 10];
    stream.read_exact(&mut ping).unwrap();
    assert_eq!(ping[..2], [0x89, 8]);
    assert!(begun.elapsed() >= Duration::from_millis(140));
    assert_eq!(read_all(&mut stream), []);
    assert!(begun.elapsed() >= Duration::from_millis(290));
    let cause = the_cause(&host, &causes);
    assert_eq!(cause, CloseCause::Timeout(Timeout::Idle));
}

#[test]
fn a_peer_that_answers_pings_is_kept() {
    let mut config = Config::default();
    config.idle_timeout_ms = 200;
    let host = Host::new(config, echo);
    let mut stream = host.raw();
    for _ in 0..5 {
        let mut ping = [0; 10];
        stream.read_exact(&mut ping).unwrap();
        assert_eq!(ping[..2], [0x89, 8]);
        stream.write_all(&frame(0x8a, &ping[2..])).unwrap();
    }
    let handle = host.server().handle();
    assert_eq!(handle.stats().counts.timeouts, 0);
    // By what they carry, the way there and back is measured.
    let spreads = handle.thread_spreads().concat();
    let pings = spreads.iter().filter(|it| it.name == "ping");
    let (count, sum_ns) = pings.fold((0, 0), |(count, sum), it| {
        (count + it.count(), sum + it.sum)
    });
    assert!(
        count >= 4 && sum_ns < 10_000_000_000,
        "{count} in {sum_ns} ns"
    );
}

#[test]
fn a_peer_whose_messages_a_busy_handler_leaves_unread_is_kept() {
    let mut config = Config::default();
    config.idle_timeout_ms = 100;
    let host = Host::new(config, async |mut socket: aio::WebSocket| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let message = socket.next_owned().await.expect("a peer that is there");
        socket.send(message).await.unwrap();
        socket.flush().await.unwrap();
    });
    let mut stream = host.raw();
    stream.write_all(&frame(0x81, b"here")).unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x81\x04here");
}

#[test]
fn a_peer_that_does_not_answer_the_close_frame_is_dropped() {
    let mut config = Config::default();
    config.close_timeout_ms = 100;
    let causes = Causes::default();
    let noted = causes.clone();
    let host = Host::new(config, async move |mut socket: aio::WebSocket| {
        let code = CloseCode::NORMAL_CLOSURE;
        assert_eq!(socket.close(code, "").await, Ok(()));
        noted.lock().unwrap().push(socket.cause());
    });
    let mut stream = host.raw();
    assert_eq!(read_all(&mut stream), [0x88, 2, 3, 0xe8]);
    let cause = the_cause(&host, &causes);
    assert_eq!(cause, CloseCause::Application(CloseCode::NORMAL_CLOSURE));
    assert_eq!(host.server().handle().stats().counts.timeouts, 1);
}

#[test]
fn a_slow_opening_handshake_is_answered_408() {
    let mut config = Config::default();
    config.handshake_timeout_ms = 100;
    config.close_timeout_ms = 100;
    let host = Host::new(config, echo);
    let mut stream = std::net::TcpStream::connect(host.address()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let reply = String::from_utf8(read_all(&mut stream)).unwrap();
    assert!(reply.starts_with("HTTP/1.1 408"), "{reply}");
    drop(stream);
    host.wait_for("end of the connection", |stats| stats.connections_open == 0);
}

#[test]
fn a_server_that_stops_says_so_to_everybody_and_waits_for_them() {
    let causes = Causes::default();
    let host = Host::new(Config::default(), noting(&causes));
    let mut stream = host.raw();
    host.server().handle().stop();
    let mut goodbye = [0; 4];
    stream.read_exact(&mut goodbye).unwrap();
    assert_eq!(goodbye, [0x88, 2, 3, 0xe9]);
    assert!(causes.lock().unwrap().is_empty(), "it did not wait");
    stream.write_all(&frame(0x88, &[3, 0xe9])).unwrap();
    assert_eq!(read_all(&mut stream), []);
    drop(host);
    assert_eq!(*causes.lock().unwrap(), [Some(CloseCause::Stopping)]);
}

#[test]
fn a_server_that_stops_does_not_wait_for_ever() {
    let dropped = Arc::new(());
    let held = dropped.clone();
    let host = Host::new(Config::default(), async move |socket: aio::WebSocket| {
        let _held = held.clone();
        std::future::pending::<()>().await;
        drop(socket);
    });
    let mut stream = host.raw();
    host.wait_for("connection", |stats| stats.connections_open == 1);
    host.server().handle().stop_within(50);
    let rest = read_all(&mut stream);
    assert_eq!(rest, [0x88, 2, 3, 0xe9]);
    drop(host);
    assert_eq!(Arc::strong_count(&dropped), 1);
}

#[test]
fn a_server_that_nobody_listens_to_is_told_why() {
    let error = aio::Server::builder().start(echo).unwrap_err();
    assert!(matches!(error, ringwire::StartError::NoAddress));
    let builder = aio::Server::builder().listen("127.0.0.1:0").threads(0);
    let error = builder.start(echo).unwrap_err().to_string();
    assert!(error.contains("threads is 0"), "{error}");
}
