//! Connections that a server of another make has upgraded.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use ringwire::{
    Config, HandshakeError,
    aio::{Context, Upgraded},
    proto::handshake::FieldError,
};

use crate::host::{frame, run};

/// A name and a value.
type Header = (&'static str, &'static [u8]);

/// The headers of the example in RFC 6455, section 1.2.
const HEADERS: [Header; 6] = [
    ("Host", b"server.example.com"),
    ("Upgrade", b"websocket"),
    ("Connection", b"Upgrade"),
    ("Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Protocol", b"chat, superchat"),
    ("Sec-WebSocket-Version", b"13"),
];

fn answering(more: &[Header]) -> Result<Upgraded, HandshakeError> {
    let headers = HEADERS.iter().chain(more).copied();
    Upgraded::answering("GET", "/chat?room=1", headers)
}

#[test]
fn the_answer_is_that_of_the_rfc() {
    let mut upgraded = answering(&[]).unwrap();
    assert_eq!(
        upgraded.subprotocols().collect::<Vec<_>>(),
        ["chat", "superchat"]
    );
    upgraded.choose_subprotocol("chat").unwrap();
    assert_eq!(
        upgraded.choose_subprotocol("Chat"),
        Err(FieldError::SubprotocolNotOffered)
    );
    let headers = upgraded.headers();
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    assert_eq!(
        headers,
        [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("sec-websocket-protocol", "chat"),
        ]
    );
}

#[test]
fn what_is_no_opening_handshake_is_refused_as_ever() {
    use HandshakeError as Error;
    let cases: [(&[Header], Error); 4] = [
        (&[("Host", b"another.example.com")], Error::HostRepeated),
        (&[("Sec-WebSocket-Key", b"x")], Error::KeyRepeated),
        (&[("Content-Length", b"3")], Error::BodyNotAllowed),
        // Of two heads, a proxy would see one.
        (&[("X", b"a\r\nUpgrade: h2c")], Error::ControlCharacter),
    ];
    for (more, expected) in cases {
        assert_eq!(answering(more).unwrap_err(), expected);
    }
    let post = Upgraded::answering("POST", "/", HEADERS).unwrap_err();
    assert_eq!(post, Error::MethodNotAllowed);
    let plain = Upgraded::answering("GET", "/", [("Host", &b"a"[..])]).unwrap_err();
    assert_eq!(plain, Error::UpgradeRequired);
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn it_goes_on_behind_what_was_read_already() {
    let (mut client, stream) = pair();
    let first = frame(0x81, b"read by the other server");
    let second = frame(0x81, b"and this in part");
    let (begun, rest) = second.split_at(7);
    let read = [&first, begun].concat();
    client.write_all(rest).unwrap();
    run(async {
        let mut upgraded = answering(&[]).unwrap();
        upgraded.choose_subprotocol("superchat").unwrap();
        let mut socket = upgraded.open(stream, &read).unwrap();
        assert_eq!(socket.subprotocol(), Some("superchat"));
        for expected in ["read by the other server", "and this in part"] {
            assert_eq!(socket.next().await.unwrap().text(), Some(expected));
        }
        socket.send("hello").await.unwrap();
        client.write_all(&frame(0x88, b"\x03\xe8")).unwrap();
        assert!(socket.next().await.is_none());
        let stats = Context::current().unwrap().stats();
        assert_eq!(
            (stats.counts.handshakes, stats.counts.messages_received),
            (1, 2)
        );
    });
    let mut reply = [0; 7];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"\x81\x05hello");
}

#[test]
fn compression_is_agreed_on_under_the_settings_of_the_context() {
    let offer: &[Header] = &[("Sec-WebSocket-Extensions", b"permessage-deflate")];
    let mut config = Config::default();
    let mut plain = answering(offer).unwrap();
    plain.compress(&config);
    assert!(!config.compress && plain.headers().len() == 3);
    config.compress = true;
    let mut upgraded = answering(offer).unwrap();
    upgraded.compress(&config);
    let (name, value) = upgraded.headers().pop().unwrap();
    assert_eq!(name, "sec-websocket-extensions");
    assert!(value.starts_with("permessage-deflate; "), "{value}");
    let (mut client, stream) = pair();
    // As RFC 7692 has it, section 7.2.3.1.
    let hello = b"\xf2\x48\xcd\xc9\xc9\x07\x00";
    client.write_all(&frame(0xc1, hello)).unwrap();
    run(async {
        let context = Context::new(config).unwrap();
        let mut socket = upgraded.open_in(&context, stream, &[]).unwrap();
        assert_eq!(socket.next().await.unwrap().text(), Some("Hello"));
        assert_eq!(context.stats().counts.inflate_messages, 1);
        assert_eq!(context.stats().counts.compress_connections, 1);
    });
}
