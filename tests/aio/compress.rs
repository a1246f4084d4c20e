//! Compressed messages, and what their tasks leave to others.

use std::{
    cell::Cell,
    io::{Read, Write},
    rc::Rc,
};

use flate2::{Compress, Compression, FlushCompress};
use ringwire::{Config, aio};

use crate::host::{Host, frame};

/// A message of zeros as a client sends it compressed.
fn zeros(len: usize) -> Vec<u8> {
    let mut compressed = Vec::with_capacity(len / 100 + 1000);
    Compress::new(Compression::default(), false)
        .compress_vec(&vec![0; len], &mut compressed, FlushCompress::Sync)
        .expect("compressing");
    compressed.truncate(compressed.len() - 4);
    frame(0xc2, &compressed)
}

/// Answers the second message with how often another task of the thread was served meanwhile.
async fn count_turns(mut socket: aio::WebSocket) {
    let writer = socket.writer();
    while socket.next().await.is_some() {
        let (turns, over) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(false)));
        let other = {
            let (turns, over) = (turns.clone(), over.clone());
            async move {
                while !over.get() {
                    turns.set(turns.get() + 1);
                    tokio::task::yield_now().await;
                }
            }
        };
        let other = tokio::task::spawn_local(other);
        let Some(long) = socket.next().await else {
            return over.set(true);
        };
        let len = long.payload().len();
        over.set(true);
        other.await.unwrap();
        let answer = format!("{len} {:06}", turns.get());
        writer.send(answer).await.unwrap();
    }
}

#[test]
fn other_tasks_have_their_turns_while_a_long_message_is_inflated() {
    let mut config = Config::default();
    config.compress = true;
    let host = Host::new(config, count_turns);
    let mut peer = host.raw_offering("permessage-deflate");
    // Both come with one receive, so that nobody waits for the second one.
    let len = 4 << 20;
    peer.write_all(&[frame(0x81, b"begin"), zeros(len)].concat())
        .unwrap();
    let mut answer = [0; 16];
    peer.read_exact(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer[2..]);
    let (found, turns) = text.split_once(' ').unwrap();
    assert_eq!(found, len.to_string());
    assert!(turns.parse::<u32>().unwrap() >= 10, "{turns} turns");
}

/// What is left of a message that nobody reads is not inflated, and what comes behind is answered.
#[test]
fn nobody_inflates_what_is_left_when_the_reader_is_gone() {
    let mut config = Config::default();
    config.compress = true;
    let host = Host::new(config, async |socket: aio::WebSocket| {
        let (mut reader, writer) = socket.split();
        reader.next().await.unwrap();
        drop(reader);
        while !writer.is_closing() {
            tokio::task::yield_now().await;
        }
    });
    let mut peer = host.raw_offering("permessage-deflate");
    let sent = [
        frame(0x81, b"begin"),
        zeros(4 << 20),
        frame(0x89, b"ping"),
        frame(0x88, b"\x03\xe8"),
    ];
    peer.write_all(&sent.concat()).unwrap();
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"\x8a\x04ping\x88\x02\x03\xe8");
    host.wait_for("end of the connection", |stats| {
        stats.connections_open == 0 && stats.counts.inflate_messages == 0
    });
}
