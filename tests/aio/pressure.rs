//! Peers that do not read.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ringwire::{Config, aio};

use crate::host::{Host, echo, frame, read_all};

fn small_queues() -> Config {
    let mut config = Config::default();
    config.queue_high_bytes = 100_000;
    config.queue_low_bytes = 50_000;
    config
}

#[test]
fn a_sender_waits_for_a_peer_that_does_not_read_and_goes_on_when_it_does() {
    const MESSAGES: usize = 2000;
    const BYTES: usize = 10_000;
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    let host = Host::new(small_queues(), async move |socket: aio::WebSocket| {
        let (_reader, writer) = socket.split();
        for _ in 0..MESSAGES {
            writer.send(&[7; BYTES][..]).await.unwrap();
            seen.fetch_max(writer.queued_bytes(), Ordering::Relaxed);
        }
    });
    let mut stream = host.raw();
    host.wait_for("pause", |stats| stats.counts.reads_paused > 0);
    let mut answer = vec![0; MESSAGES * (4 + BYTES)];
    stream.read_exact(&mut answer).unwrap();
    stream.write_all(&frame(0x88, &[3, 0xe8])).unwrap();
    assert_eq!(read_all(&mut stream), [0x88, 2, 3, 0xe8]);
    // One message more than the mark, with its header.
    let most = most.load(Ordering::Relaxed);
    assert!(most > 0 && most <= 100_000 + 4 + BYTES, "{most} bytes");
}

#[test]
fn an_echo_does_not_read_from_a_peer_that_does_not_read() {
    let host = Host::new(small_queues(), echo);
    let mut stream = host.raw();
    stream.set_nonblocking(true).unwrap();
    let message = frame(0x82, &[1; 20_000]);
    let (mut written, mut stuck) = (0, 0);
    while stuck < 200 {
        match stream.write(&message[written % message.len()..]) {
            Ok(count) => {
                written += count;
                stuck = 0;
            }
            Err(_) => {
                host.wait_for("bounded queue", |stats| stats.queued_bytes < 150_000);
                stuck += 1;
                std::thread::yield_now();
            }
        }
        assert!(written < 64 << 20, "everything is taken in");
    }
    drop(stream);
    host.wait_for("end", |stats| {
        stats.connections_open == 0 && stats.queued_bytes == 0
    });
}

#[test]
fn a_peer_that_pings_and_does_not_read_is_not_read_from() {
    let config = small_queues();
    // What one receive has brought is answered whatever is queued by then.
    let most = config.queue_high_bytes as u64 + u64::from(config.recv_large_buffer_bytes);
    let host = Host::new(config, echo);
    let mut stream = host.raw();
    stream.set_nonblocking(true).unwrap();
    let pings = frame(0x89, &[1; 125]).repeat(1000);
    let (mut written, mut stuck) = (0, 0);
    while stuck < 200 {
        match stream.write(&pings[written % pings.len()..]) {
            Ok(count) => {
                written += count;
                stuck = 0;
            }
            Err(_) => {
                host.wait_for("bounded queue", |stats| stats.queued_bytes <= most);
                stuck += 1;
                std::thread::yield_now();
            }
        }
        assert!(written < 256 << 20, "everything is taken in");
    }
}
