//! Peers that break the rules.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use ringwire::{
    Config,
    conn::places::{BEYOND_MAX, WAITING_MAX},
};

use crate::host::{Host, REQUEST, echo, frame, read_all};

/// What a server says to these bytes: the code of its close frame.
fn code_for(host: &Host, bytes: &[u8]) -> u16 {
    let mut stream = host.raw();
    stream.write_all(bytes).unwrap();
    let answer = read_all(&mut stream);
    assert_eq!(answer.first(), Some(&0x88), "{answer:?}");
    u16::from_be_bytes([answer[2], answer[3]])
}

#[test]
fn each_violation_has_its_code() {
    let mut config = Config::default();
    config.message_bytes_max = 1 << 20;
    config.message_fragments_max = 10;
    let host = Host::new(config, echo);
    let too_big = &frame(0x82, &vec![0; (1 << 20) + 1])[..14];
    let fragments: Vec<u8> = (0..11)
        .flat_map(|number| frame(if number == 0 { 0x02 } else { 0 }, b"x"))
        .collect();
    let cases: [(&[u8], u16); 10] = [
        (&frame(0x83, b""), 1002),
        (&frame(0xc1, b""), 1002),
        (&frame(0x80, b""), 1002),
        (&frame(0x09, b""), 1002),
        (b"\x81\x01a", 1002),
        (&frame(0x88, b"\x03"), 1002),
        (&frame(0x88, &1005_u16.to_be_bytes()), 1002),
        (&frame(0x81, b"\xff"), 1007),
        (too_big, 1009),
        (&fragments, 1008),
    ];
    for (number, (bytes, expected)) in cases.into_iter().enumerate() {
        assert_eq!(code_for(&host, bytes), expected, "case {number}");
    }
    host.wait_for("protocol errors", |stats| {
        stats.counts.protocol_errors == 10 && stats.connections_open == 0
    });
}

#[test]
fn a_violation_behind_many_messages_comes_after_their_answers() {
    let host = Host::new(Config::default(), echo);
    let mut bytes = Vec::new();
    for _ in 0..500 {
        bytes.extend_from_slice(&frame(0x81, b"fine"));
    }
    bytes.extend_from_slice(&frame(0x81, b"\xff"));
    bytes.extend_from_slice(&frame(0x81, b"not seen"));
    let mut stream = host.raw();
    stream.write_all(&bytes).unwrap();
    let answer = read_all(&mut stream);
    let (echoes, rest) = answer.split_at(500 * 6);
    assert_eq!(echoes, b"\x81\x04fine".repeat(500));
    assert_eq!(rest[2..4], 1007_u16.to_be_bytes());
}

#[test]
fn requests_that_are_none_are_answered_in_http() {
    let host = Host::new(Config::default(), echo);
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "426"),
        ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", "426"),
        ("nonsense\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01", "400"),
    ] {
        let mut stream = std::net::TcpStream::connect(host.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let reply = String::from_utf8(read_all(&mut stream)).unwrap();
        let expected = format!("HTTP/1.1 {status}");
        assert!(reply.starts_with(&expected), "{request:?}: {reply}");
    }
    host.wait_for("end of the connections", |stats| {
        stats.counts.connections == 5 && stats.connections_open == 0
    });
}

#[test]
fn a_plain_request_that_is_refused_is_no_refused_handshake() {
    let host = Host::new(Config::default(), echo);
    for (head, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 426 "),
        ("nonsense\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let mut stream = TcpStream::connect(host.address()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let answer = read_all(&mut stream);
        assert!(answer.starts_with(status.as_bytes()), "{head}");
    }
    host.wait_for("each in its place", |stats| {
        (stats.counts.http_requests, stats.counts.handshakes_refused) == (1, 1)
    });
}

/// A server with two places, in which newcomers wait for so long.
fn with_two_places(wait_ms: u64) -> Host {
    let mut config = Config::default();
    config.shard_connections_max = 2;
    config.handshake_timeout_ms = 20 * wait_ms;
    Host::new(config, echo)
}

/// A newcomer is told that there is no place for it.
fn expect_no_place(host: &Host) {
    let mut stream = TcpStream::connect(host.address()).unwrap();
    stream.write_all(REQUEST).unwrap();
    let answer = read_all(&mut stream);
    assert!(answer.starts_with(b"HTTP/1.1 503 "), "{answer:?}");
}

#[test]
fn newcomers_are_told_when_no_place_gets_free() {
    let host = with_two_places(100);
    let mut inside = vec![host.raw(), host.raw()];
    for round in 1..=3 {
        expect_no_place(&host);
        host.wait_for("refusals", |stats| {
            (stats.counts.places_waited, stats.counts.places_refusals) == (round, round)
        });
    }
    // Those who were told took no place, and left none.
    drop(inside.pop());
    host.wait_for("one is left", |stats| stats.connections_open == 1);
    inside.push(host.raw());
    expect_no_place(&host);
}

#[test]
fn newcomers_that_wait_get_the_places_that_get_free() {
    let host = with_two_places(60_000);
    let mut inside = vec![host.raw(), host.raw()];
    let mut first = TcpStream::connect(host.address()).unwrap();
    host.wait_for("it waits", |stats| stats.counts.places_waited == 1);
    drop(inside.pop());
    host.wait_for("it has a place", |stats| stats.counts.connections == 3);
    // A crowd that says nothing pushes itself out.
    let crowd: Vec<_> = (0..3 * WAITING_MAX)
        .map(|_| TcpStream::connect(host.address()).unwrap())
        .collect();
    host.wait_for("all have waited", |stats| {
        stats.counts.places_waited == 1 + 3 * WAITING_MAX as u64
            && stats.connections_open <= 2 + BEYOND_MAX as u64
    });
    first.write_all(REQUEST).unwrap();
    let mut head = [0; 12];
    first.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    drop((crowd, first));
    host.wait_for("one is left", |stats| stats.connections_open == 1);
    drop(host.raw());
}
