//! Peers that do not read, or read slowly, and services that send more than they take.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringwire::{CloseCause, Conn, Message, SendError, SendStatus, Service, Timeout};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::{
    common::{BINARY, PATIENCE, Peer, TEXT, masked},
    host::{Engine, Host, Obedient, config, host, on_each_engine},
    peer::{PING, Prng, until},
};

on_each_engine! {
    a_full_queue_is_said_to_the_service
    a_peer_that_reads_slowly_is_not_an_idle_one
    a_peer_that_stops_reading_is_dropped_after_the_idle_timeout
    a_server_stops_reading_from_a_peer_that_does_not_read
    pings_that_nobody_reads_the_answers_of_are_bounded
}

/// A client whose side of the transport takes little.
fn narrow(host: &Host) -> Peer {
    let peer = host.connect();
    set_socket_recv_buffer_size(&peer.stream, 64 << 10).unwrap();
    let mut peer = peer;
    peer.write(crate::common::request("/").as_bytes());
    assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
    peer
}

/// Waits until `progress` has stood still for a while, and looks at the server meanwhile.
fn until_stalled(progress: &AtomicUsize, mut look: impl FnMut()) -> usize {
    let begun = Instant::now();
    let (mut last, mut since) = (0, begun);
    while since.elapsed() < Duration::from_millis(400) {
        assert!(begun.elapsed() < PATIENCE, "the server reads on and on");
        let now = progress.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        look();
        thread::park_timeout(Duration::from_millis(1));
    }
    last
}

fn a_server_stops_reading_from_a_peer_that_does_not_read(engine: Engine) {
    const MESSAGES: usize = 1024;
    const MESSAGE_BYTES: usize = 64 << 10;
    let config = config(|_| {});
    // What the receive buffers of one turn can add, and as much again while the cancellation of
    // the receive is under way.
    let in_buffers = usize::from(config.recv_buffers) * config.recv_buffer_bytes as usize;
    let most = (config.queue_high_bytes + 2 * in_buffers + MESSAGE_BYTES) as u64;
    host(engine, config, Obedient::default, |host| {
        let mut peer = narrow(host);
        let mut writer = peer.writer();
        let written = Arc::new(AtomicUsize::new(0));
        let counted = written.clone();
        let writing = thread::spawn(move || {
            let mut prng = Prng::new(5);
            for _ in 0..MESSAGES {
                writer.send(BINARY, &prng.bytes(MESSAGE_BYTES));
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut highest = 0;
        let stalled = until_stalled(&written, || {
            highest = highest.max(host.stats().queued_bytes);
        });
        assert!(stalled < MESSAGES, "all of it fitted somewhere");
        assert!(host.counts().reads_paused > 0);
        // The highest of all may have been between two looks.
        assert!(
            highest > 256 << 10 && highest <= most,
            "{highest} of {most}"
        );
        // The kernel's buffers grow, and a bridge reads on for a while: what was behind may have
        // caught up with them, and then fell behind again.
        let (drains, pauses) = (host.drains(), host.counts().reads_paused);
        assert!(pauses > drains as u64, "{pauses} pauses, {drains} drains");
        // The rest is read at last: every byte is there.
        let mut prng = Prng::new(5);
        for index in 0..MESSAGES {
            let frame = peer.read_message();
            let expected = prng.bytes(MESSAGE_BYTES);
            assert!(frame.payload == expected, "message {index} differs");
        }
        writing.join().unwrap();
        assert!(host.drains() > drains);
        assert!(host.stats().queued_bytes <= most);
        peer.echo("in time again");
        peer.close();
    });
}

fn pings_that_nobody_reads_the_answers_of_are_bounded(engine: Engine) {
    let config = config(|_| {});
    let in_buffers = usize::from(config.recv_buffers) * config.recv_buffer_bytes as usize;
    let most = (config.queue_high_bytes + 2 * in_buffers) as u64;
    host(engine, config, Obedient::default, |host| {
        let mut peer = narrow(host);
        let mut writer = peer.writer();
        let written = Arc::new(AtomicUsize::new(0));
        let counted = written.clone();
        let writing = thread::spawn(move || {
            let pings = masked(PING, &[b'p'; 125]).repeat(1000);
            for _ in 0..400 {
                writer.write(&pings);
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut highest = 0;
        let stalled = until_stalled(&written, || {
            highest = highest.max(host.stats().queued_bytes);
        });
        assert!(stalled < 400 && highest <= most, "{stalled} {highest}");
        for _ in 0..400_000 {
            assert_eq!(peer.read_frame().payload.len(), 125);
        }
        writing.join().unwrap();
        peer.close();
    });
}

/// Sends to whoever asks until the queue is full, and adds up what was taken.
#[derive(Clone, Default)]
struct Pusher {
    accepted: Arc<Mutex<Vec<(usize, SendStatus)>>>,
}

crate::host::boxed!(Pusher);

impl Service for Pusher {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        if message.text() != Some("push") {
            conn.send(message).unwrap();
            return;
        }
        let shared = Bytes::from(vec![7; 60_000]);
        let mut accepted = self.accepted.lock().unwrap();
        // More than the queue holds, but not without end should it hold everything.
        for _ in 0..1000 {
            match conn.send(shared.clone()) {
                Ok(status) => accepted.push((conn.queued_bytes(), status)),
                Err(error) => {
                    assert_eq!(error, SendError::QueueFull);
                    break;
                }
            }
        }
        // A small message may still fit; one as long as before does not.
        assert_eq!(conn.send(shared), Err(SendError::QueueFull));
    }
}

fn a_full_queue_is_said_to_the_service(engine: Engine) {
    let pusher = Pusher::default();
    let accepted = pusher.accepted.clone();
    let config = config(|config| {
        config.message_bytes_max = 64 << 10;
        config.queue_high_bytes = 256 << 10;
        config.queue_low_bytes = 64 << 10;
        config.queue_bytes_max = 8 << 20;
    });
    let (high, most) = (config.queue_high_bytes, config.queue_bytes_max);
    host(
        engine,
        config,
        move || pusher.clone(),
        |host| {
            let mut peer = narrow(host);
            peer.send(TEXT, b"push");
            // Read to the end of what was taken.
            until("the service has filled the queue", || {
                accepted.lock().unwrap().len() > 100
            });
            let accepted = accepted.lock().unwrap().clone();
            for &(queued, status) in &accepted {
                assert!(queued <= most + 10, "{queued} bytes in the queue");
                // The header of the message is counted by the queue alone.
                if queued.abs_diff(high) > 100 {
                    assert_eq!(status == SendStatus::Behind, queued > high, "{queued}");
                }
            }
            assert_eq!(accepted.len(), most / 60_004);
            for _ in &accepted {
                assert_eq!(peer.read_message().payload.len(), 60_000);
            }
            until("the service is told", || host.drains() == 1);
            peer.echo("room again");
            peer.close();
        },
    );
}

/// More than the kernel keeps for one connection.
const MUCH: usize = 48 << 20;

fn talkative() -> Obedient {
    Obedient::default().on("much", |conn| {
        conn.send(vec![1; MUCH]).unwrap();
    })
}

fn a_peer_that_stops_reading_is_dropped_after_the_idle_timeout(engine: Engine) {
    let timeout_ms = 800;
    let config = config(|config| config.idle_timeout_ms = timeout_ms);
    host(engine, config, talkative, |host| {
        let mut peer = narrow(host);
        peer.send(TEXT, b"much");
        let begun = Instant::now();
        assert_eq!(host.close_cause(), CloseCause::Timeout(Timeout::Idle));
        assert!(begun.elapsed() >= Duration::from_millis(timeout_ms / 2));
        peer.expect_gone();
    });
}

fn a_peer_that_reads_slowly_is_not_an_idle_one(engine: Engine) {
    let timeout_ms = 800;
    let config = config(|config| config.idle_timeout_ms = timeout_ms);
    host(engine, config, talkative, |host| {
        let mut peer = narrow(host);
        peer.send(TEXT, b"much");
        let begun = Instant::now();
        let mut read = 0;
        // It takes three times the idle timeout, and at every moment it is reading.
        while read < MUCH {
            let due = (begun.elapsed().as_millis() as usize * MUCH) / (3 * timeout_ms as usize);
            if read > due {
                thread::park_timeout(Duration::from_millis(2));
                continue;
            }
            let more = peer.fill();
            assert!(
                matches!(more, Ok(true)),
                "dropped after {read} bytes: {more:?}"
            );
            read += peer.pending.len() - peer.start;
            peer.start = peer.pending.len();
        }
        drop(peer);
        host.close_cause();
    });
}
