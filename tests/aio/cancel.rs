//! Dropping a future that waits for a message.

use std::{
    io::{Read, Write},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use ringwire::{Config, aio};

use crate::host::{Host, WAIT, frame, run};

const MESSAGES: u32 = 100_000;

/// A small generator: the same segments in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// What the receiver has come to, for the sender to wait for.
#[derive(Default)]
struct Progress {
    received: AtomicU32,
    cancelled: AtomicU32,
}

impl Progress {
    fn wait_for(counter: &AtomicU32, least: u32) {
        let deadline = Instant::now() + WAIT;
        while counter.load(Ordering::Relaxed) < least {
            assert!(Instant::now() < deadline, "{least} was not reached");
            std::thread::yield_now();
        }
    }
}

fn payload(number: u32) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(4 + number as usize * 7 % 300, b'x');
    payload
}

/// Receives with a timer that keeps interrupting.
async fn interrupted(mut socket: aio::WebSocket, progress: &Progress) {
    let mut received = 0;
    while received < MESSAGES {
        // Alternately a timer that fires at once and one that fires soon.
        let patience = Duration::from_micros(u64::from(received % 3) * 100);
        tokio::select! {
            biased;
            message = socket.next() => {
                let message = message.expect("the connection ended early");
                assert_eq!(message.payload(), payload(received), "message {received}");
                received += 1;
                progress.received.store(received, Ordering::Relaxed);
            }
            () = tokio::time::sleep(patience) => {
                progress.cancelled.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    while socket.next().await.is_some() {}
}

#[test]
fn a_next_that_is_dropped_has_taken_nothing() {
    let progress = Arc::new(Progress::default());
    let seen = progress.clone();
    let host = Host::new(Config::default(), async move |socket: aio::WebSocket| {
        interrupted(socket, &seen).await;
    });
    let mut stream = host.raw();
    stream.set_nodelay(true).unwrap();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut waiting = Vec::new();
    for number in 0..MESSAGES {
        let payload = payload(number);
        if number % 5 == 0 {
            // Two fragments, with a ping between them.
            let (first, last) = payload.split_at(payload.len() / 2);
            waiting.extend_from_slice(&frame(0x02, first));
            waiting.extend_from_slice(&frame(0x89, b"ping"));
            waiting.extend_from_slice(&frame(0x80, last));
        } else {
            waiting.extend_from_slice(&frame(0x82, &payload));
        }
        while waiting.len() > 2000 {
            let segment: Vec<u8> = waiting.drain(..1 + random.below(2000)).collect();
            stream.write_all(&segment).unwrap();
        }
        if number % 50 == 49 {
            // All but the end of this message is there, and then nothing for a while.
            let held = 1 + random.below(3);
            let segment: Vec<u8> = waiting.drain(..waiting.len() - held).collect();
            stream.write_all(&segment).unwrap();
            Progress::wait_for(&progress.received, number);
            let cancelled = progress.cancelled.load(Ordering::Relaxed);
            Progress::wait_for(&progress.cancelled, cancelled + 1);
        }
    }
    stream.write_all(&waiting).unwrap();
    Progress::wait_for(&progress.received, MESSAGES);
    let cancelled = progress.cancelled.load(Ordering::Relaxed);
    assert!(cancelled >= MESSAGES / 50, "{cancelled} cancellations");
    stream.write_all(&frame(0x88, &[3, 0xe8])).unwrap();
    let mut pongs = Vec::new();
    stream.read_to_end(&mut pongs).unwrap();
    let expected = b"\x8a\x04ping".repeat(MESSAGES as usize / 5);
    assert_eq!(pongs[..expected.len()], expected);
    assert_eq!(pongs[expected.len()..], [0x88, 2, 3, 0xe8]);
}

#[test]
fn a_send_that_is_dropped_while_it_waits_has_sent_nothing() {
    let mut config = Config::default();
    config.queue_high_bytes = 64 << 10;
    config.queue_low_bytes = 32 << 10;
    let host = Host::new(config, async |mut socket: aio::WebSocket| {
        let payload = vec![b'x'; 100_000];
        let mut sent = 0_u32;
        loop {
            let patience = Duration::from_millis(20);
            match tokio::time::timeout(patience, socket.send(&payload[..])).await {
                Ok(result) => result.unwrap(),
                Err(_) => break,
            }
            sent += 1;
        }
        socket.next().await.unwrap();
        socket.send(sent.to_string()).await.unwrap();
        while socket.next().await.is_some() {}
    });
    run(async {
        let mut socket = aio::connect(&host.url()).await.unwrap();
        // Until the server has given up, nothing is read here.
        tokio::time::sleep(Duration::from_millis(500)).await;
        socket.send("go on").await.unwrap();
        let mut received = 0_u32;
        loop {
            let message = socket.next().await.unwrap();
            if let Some(text) = message.text() {
                assert_eq!(text.parse(), Ok(received));
                break;
            }
            received += 1;
        }
        assert!(received > 0);
    });
}
