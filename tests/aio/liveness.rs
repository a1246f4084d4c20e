//! Deadlines judged by what a peer really did, and connections that were dialled.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use ringwire::{CloseCause, CloseCode, Config, Timeout, aio};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::host::{Host, WAIT, echo, frame, run};

const MIB: usize = 1 << 20;

const LATE: &[u8] = b"\x88\x19\x03\xf0a message took too long";

fn pause(ms: u64) {
    let until = Instant::now() + Duration::from_millis(ms);
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
}

fn message_timeout(timeout_ms: u64) -> Config {
    let mut config = Config::default();
    config.message_timeout_ms = timeout_ms;
    config.idle_timeout_ms = 0;
    config
}

/// Reads so many bytes at a time, with a pause after each, until all have come.
fn read_slowly(stream: &mut TcpStream, total: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(total);
    let mut bytes = vec![0; 32 << 10];
    while all.len() < total {
        let count = stream.read(&mut bytes).expect("the connection is there");
        assert!(count > 0, "ended after {} bytes", all.len());
        all.extend_from_slice(&bytes[..count]);
        pause(25);
    }
    all
}

fn small(host: &Host) -> TcpStream {
    let stream = host.raw();
    set_socket_recv_buffer_size(&stream, 64 << 10).unwrap();
    stream
}

#[test]
fn a_message_that_stands_still_or_drips_ends_with_1008() {
    let host = Host::new(message_timeout(300), echo);
    let begun = frame(0x01, b"begun");
    let long = frame(0x82, &[1; 100_000]);
    let cases = [&long[..1], &long[..14], &long[..50_000], &begun];
    for (index, case) in cases.into_iter().enumerate() {
        let mut stream = host.raw();
        stream.write_all(case).unwrap();
        let mut answer = vec![0; LATE.len()];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, LATE);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        host.wait_for("timeout", |stats| stats.counts.timeouts == index as u64 + 1);
    }
    let mut stream = host.raw();
    stream.write_all(&long[..14]).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let deadline = Instant::now() + WAIT;
    let mut answer = vec![0; LATE.len()];
    while stream.read(&mut answer).is_err() {
        assert!(Instant::now() < deadline, "it is there still");
        stream.write_all(b"x").unwrap();
    }
    assert_eq!(answer, LATE);
}

#[test]
fn messages_that_get_on_pass() {
    let host = Host::new(message_timeout(800), echo);
    let mut stream = host.raw();
    let payload = vec![7; 320_000];
    for piece in frame(0x82, &payload).chunks(16_000) {
        stream.write_all(piece).unwrap();
        pause(100);
    }
    let mut answer = vec![0; 10 + payload.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(answer[10..] == payload);
}

#[test]
fn a_message_in_pieces_has_no_deadline() {
    let host = Host::new(message_timeout(200), async |mut socket: aio::WebSocket| {
        let mut all = Vec::new();
        if let Some(mut pieces) = socket.next_in_pieces().await {
            while let Some(piece) = pieces.next().await {
                all.extend_from_slice(piece);
            }
        }
        socket.send(all).await.unwrap();
    });
    let mut stream = host.raw();
    // A header is no piece of a message.
    let message = frame(0x82, b"slowly");
    let (header, payload) = message.split_at(6);
    stream.write_all(header).unwrap();
    for piece in payload.chunks(1) {
        stream.write_all(piece).unwrap();
        pause(150);
    }
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x82\x06slowly");
}

#[test]
fn a_message_is_not_late_while_its_handler_is_elsewhere() {
    let host = Host::new(message_timeout(200), async |mut socket: aio::WebSocket| {
        let writer = socket.writer();
        {
            // Begins to receive, and goes away in the middle of it.
            let begun = tokio::time::timeout(Duration::from_millis(100), socket.next()).await;
            assert!(begun.is_err());
        }
        tokio::time::sleep(Duration::from_millis(1000)).await;
        let message = socket.next().await.expect("a message");
        writer.send(message).await.unwrap();
    });
    let mut stream = host.raw();
    let message = frame(0x82, b"whole");
    stream.write_all(&message[..8]).unwrap();
    pause(150);
    stream.write_all(&message[8..]).unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x82\x05whole");
}

#[test]
fn a_slow_reader_is_not_idle_and_one_that_takes_nothing_is() {
    let mut config = Config::default();
    config.idle_timeout_ms = 1000;
    let causes: Arc<Mutex<Vec<_>>> = Arc::default();
    let noted = causes.clone();
    let host = Host::new(config, async move |mut socket: aio::WebSocket| {
        socket.send(vec![7; 3 * MIB]).await.unwrap();
        while socket.next().await.is_some() {}
        noted.lock().unwrap().push(socket.cause().unwrap());
    });
    let mut stream = small(&host);
    let all = read_slowly(&mut stream, 3 * MIB + 10);
    assert!(all[10..].iter().take(3 * MIB).all(|&byte| byte == 7));
    // The ping was behind all that.
    stream.write_all(&frame(0x8a, b"")).unwrap();
    stream.write_all(&frame(0x88, &[3, 0xe8])).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    host.wait_for("end", |stats| stats.connections_open == 0);
    assert!(matches!(causes.lock().unwrap()[0], CloseCause::Peer { .. }));
    let begun = Instant::now();
    let stream = small(&host);
    host.wait_for("timeout", |stats| stats.counts.timeouts == 1);
    let elapsed = begun.elapsed();
    assert!(elapsed >= Duration::from_millis(999), "{elapsed:?}");
    assert!(elapsed < Duration::from_millis(2500), "{elapsed:?}");
    drop(stream);
    host.wait_for("end", |stats| stats.connections_open == 0);
    assert_eq!(
        causes.lock().unwrap()[1],
        CloseCause::Timeout(Timeout::Idle)
    );
}

#[test]
fn what_is_read_after_a_close_has_its_time() {
    let mut config = Config::default();
    config.close_timeout_ms = 500;
    let host = Host::new(config, async |mut socket: aio::WebSocket| {
        socket.send(vec![7; 6 * MIB]).await.unwrap();
        socket.close(CloseCode::NORMAL_CLOSURE, "").await.unwrap();
    });
    let mut stream = small(&host);
    let all = read_slowly(&mut stream, 6 * MIB + 14);
    assert_eq!(all[6 * MIB + 10..], [0x88, 2, 3, 0xe8]);
    stream.write_all(&frame(0x88, &[3, 0xe8])).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    host.wait_for("end", |stats| {
        stats.connections_open == 0 && stats.counts.timeouts == 0
    });
}

#[test]
fn a_server_that_was_dialled_is_judged_as_well() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let key = head
            .lines()
            .find_map(|line| line.strip_prefix("Sec-WebSocket-Key: "))
            .expect("a key");
        let accept = ringwire::proto::handshake::accept_key(key.as_bytes());
        let accept = std::str::from_utf8(&accept).unwrap();
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).unwrap();
        // Half a message.
        stream.write_all(b"\x82\x05abc").unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    run(async {
        let context = aio::Context::new(message_timeout(300)).unwrap();
        let dial = ringwire::client::Dial::to(&url).unwrap();
        let mut socket = context.dial(dial).await.unwrap();
        assert!(socket.next().await.is_none());
        let cause = CloseCause::Timeout(Timeout::Message);
        assert_eq!(socket.cause(), Some(cause));
    });
    let sent = server.join().unwrap();
    // Masked, as a client's is.
    assert_eq!(sent[..2], [0x88, 0x80 | 25]);
}
