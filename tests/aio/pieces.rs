//! Messages that are read as they come.

use std::io::Write;

use ringwire::{Config, MessageKind, aio};

use crate::host::{Host, frame, run};

/// Answers each message in pieces with its length and how many pieces it had.
async fn measure(mut socket: aio::WebSocket) {
    let writer = socket.writer();
    while let Some(mut message) = socket.next_in_pieces().await {
        let (mut len, mut pieces) = (0, 0);
        while let Some(piece) = message.next().await {
            assert!(piece.iter().all(|&byte| byte == b'a'));
            len += piece.len();
            pieces += 1;
        }
        let complete = message.is_complete();
        let answer = format!("{:?} {len} {} {complete}", message.kind(), pieces > 1);
        if writer.send(answer).await.is_err() {
            return;
        }
    }
}

#[test]
fn a_message_longer_than_the_limit_is_read_in_pieces() {
    let mut config = Config::default();
    config.message_bytes_max = 1 << 20;
    let host = Host::new(config, measure);
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        for (len, many) in [(0, false), (5, false), (32 << 20, true), (100, false)] {
            socket.send(vec![b'a'; len]).await.unwrap();
            let expected = format!("{:?} {len} {many} true", MessageKind::Binary);
            assert_eq!(socket.next().await.unwrap().text(), Some(&*expected));
        }
        let text = "a".repeat(3 << 20);
        socket.send(text).await.unwrap();
        let expected = format!("{:?} {} true true", MessageKind::Text, 3 << 20);
        assert_eq!(socket.next().await.unwrap().text(), Some(&*expected));
    });
}

#[test]
fn what_is_left_of_a_message_in_pieces_is_thrown_away() {
    let host = Host::new(Config::default(), async |mut socket: aio::WebSocket| {
        let writer = socket.writer();
        loop {
            {
                let Some(mut message) = socket.next_in_pieces().await else {
                    return;
                };
                message.next().await.unwrap();
            }
            let Some(message) = socket.next().await else {
                return;
            };
            writer.send(message).await.unwrap();
        }
    });
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        for number in 0..10_u8 {
            socket.send(vec![0; 2 << 20]).await.unwrap();
            socket.send(vec![number; 10]).await.unwrap();
            assert_eq!(socket.next().await.unwrap().payload(), [number; 10]);
        }
    });
}

#[test]
fn text_in_pieces_is_checked_to_its_end() {
    let host = Host::new(Config::default(), async |mut socket: aio::WebSocket| {
        while let Some(mut message) = socket.next_in_pieces().await {
            while message.next().await.is_some() {}
        }
        assert!(matches!(
            socket.cause(),
            Some(ringwire::CloseCause::Protocol(
                ringwire::ProtocolError::TextNotUtf8
            ))
        ));
    });
    let mut stream = host.raw();
    // A character that is cut in two is none; one that never ends is an error.
    stream.write_all(&frame(0x01, b"a\xc3")).unwrap();
    stream.write_all(&frame(0x80, b"\xa4")).unwrap();
    stream.write_all(&frame(0x01, b"a\xc3")).unwrap();
    stream.write_all(&frame(0x80, b"")).unwrap();
    let answer = crate::host::read_all(&mut stream);
    assert_eq!(&answer[2..4], 1007_u16.to_be_bytes());
}
