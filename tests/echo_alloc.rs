//! The shard's thread does not go to the allocator for messages, once it is warm.
//!
//! A counting allocator stands in for the whole test program. It counts for each thread, and the
//! service tells the count of its own.

#![allow(unsafe_code)]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    hint::black_box,
    io::Write,
    thread,
};

use common::{BINARY, Peer, TEXT, masked, request};
use ringwire::{
    Config, Conn, Message, RingKind, Server, Service,
    proto::{
        Endpoint, Limits, MessagePool, Role, Sink, VecSink,
        deflate::{Codec, Terms, negotiation::agree},
        endpoint::{Context, MaskingKeys},
    },
    service::Echo,
};

struct Counting;

thread_local! {
    /// Without a destructor and const, so that counting allocates nothing itself.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    LIVE_BYTES.set(LIVE_BYTES.get() + bytes as i64);
}

fn uncount(bytes: usize) {
    LIVE_BYTES.set(LIVE_BYTES.get() - bytes as i64);
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        uncount(layout.size());
        count(new_size);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        uncount(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The echo, but for two texts.
struct Telling(Echo);

impl Service for Telling {
    type State = <Echo as Service>::State;

    fn on_message(&mut self, conn: &mut Conn<'_, Self::State>, message: Message<'_>) {
        match message.payload() {
            b"count" => {
                let count = ALLOCATIONS.get().to_be_bytes();
                conn.send(&count[..]).unwrap();
            }
            b"allocate" => {
                black_box(Box::new(black_box(1)));
                conn.send(message).unwrap();
            }
            _ => self.0.on_message(conn, message),
        }
    }
}

/// What the shard's thread has allocated so far, times.
fn allocations(peer: &mut Peer) -> u64 {
    peer.send(TEXT, b"count");
    let payload = peer.read_frame().payload;
    u64::from_be_bytes(payload.try_into().unwrap())
}

/// Sends `frame` `count` times, `in_flight` at a time, and reads as many messages back.
fn exchange(peer: &mut Peer, frame: &[u8], count: usize, in_flight: usize) {
    let batch = frame.repeat(in_flight);
    for _ in 0..count / in_flight {
        peer.write(&batch);
        for _ in 0..in_flight {
            peer.read_frame();
        }
    }
}

/// As the echo; but whoever says `join` subscribes, and what begins with `*` goes to all who do.
struct Spreading(Telling);

impl Service for Spreading {
    type State = <Echo as Service>::State;

    fn on_message(&mut self, conn: &mut Conn<'_, Self::State>, message: Message<'_>) {
        match message.payload() {
            b"join" => {
                conn.subscribe("all").unwrap();
                conn.send(message).unwrap();
            }
            [b'*', ..] => conn.publish("all", message).unwrap(),
            _ => self.0.on_message(conn, message),
        }
    }
}

#[test]
fn a_message_to_many_costs_no_allocation_for_each() {
    const SUBSCRIBERS: usize = 300;
    const MESSAGES: u64 = 200;
    let mut config = Config::default();
    config.date_header = false;
    let builder = Server::builder().listen("127.0.0.1:0").shards(1);
    let server = builder.pinned(false).config(config);
    let server = server.start(|_| Spreading(Telling(Echo))).unwrap();
    let mut all: Vec<_> = (0..SUBSCRIBERS)
        .map(|_| {
            let mut peer = Peer::open(&server.addresses()[0], "/");
            peer.send(TEXT, b"join");
            assert_eq!(peer.read_frame().payload, b"join");
            peer
        })
        .collect();
    let mut publisher = Peer::open(&server.addresses()[0], "/");
    let frame = masked(TEXT, &[b'*'; 125]);
    let mut spread = |count: u64| {
        for _ in 0..count {
            publisher.write(&frame);
            for peer in &mut all {
                assert_eq!(peer.read_frame().payload.len(), 125);
            }
        }
        allocations(&mut publisher)
    };
    let warm = spread(20);
    let made = spread(MESSAGES) - warm;
    // Some for a message, however many get it.
    let each = made as f64 / MESSAGES as f64;
    assert!(
        each < 30.0,
        "{each} allocations for a message to {SUBSCRIBERS}"
    );
    drop((publisher, all));
    server.handle().stop();
    server.join().unwrap();
}

/// Sends without waiting for what comes back, so that everything that can pile up does.
fn pile_up(peer: &mut Peer, frame: &[u8], count: usize) {
    let mut writer = peer.stream.try_clone().unwrap();
    let batch = frame.repeat(100);
    let writing = thread::spawn(move || {
        for _ in 0..count / 100 {
            writer.write_all(&batch).unwrap();
        }
    });
    for _ in 0..count {
        peer.read_frame();
    }
    writing.join().unwrap();
}

#[test]
fn a_warm_shard_echoes_without_allocating() {
    echoes_without_allocating(RingKind::Uring);
}

#[test]
fn a_warm_shard_on_epoll_echoes_without_allocating() {
    echoes_without_allocating(RingKind::Epoll);
}

fn echoes_without_allocating(ring: RingKind) {
    const MESSAGES: usize = 100_000;
    let mut config = Config::default();
    config.date_header = false;
    let builder = Server::builder().ring(ring).listen("127.0.0.1:0").shards(1);
    let server = builder.pinned(false).config(config);
    let server = server.start(|_| Telling(Echo)).unwrap();
    let mut peer = Peer::open(&server.addresses()[0], "/");

    let before = allocations(&mut peer);
    peer.send(TEXT, b"allocate");
    assert_eq!(peer.read_frame().payload, b"allocate");
    let after = allocations(&mut peer);
    assert!(before > 0 && after > before, "the allocator does not count");

    for (what, frame, pipelined) in [
        ("20 B text", masked(TEXT, b"twenty bytes of text"), 100),
        ("1 KiB binary", masked(BINARY, &[7; 1 << 10]), 100),
        ("16 KiB binary", masked(BINARY, &[7; 16 << 10]), 10),
    ] {
        pile_up(&mut peer, &frame, MESSAGES / 10);
        for in_flight in [1, pipelined] {
            exchange(&mut peer, &frame, MESSAGES / 10, in_flight);
            // What peaks now and then, as the number of messages that lie in pieces at once, may
            // do so in one of these for the last time.
            let mut counts = Vec::new();
            while counts.last() != Some(&0) && counts.len() < 4 {
                let before = allocations(&mut peer);
                exchange(&mut peer, &frame, MESSAGES, in_flight);
                counts.push(allocations(&mut peer) - before);
            }
            let what = format!("allocations for {what}, {in_flight} in flight");
            assert_eq!(counts.last(), Some(&0), "{what}: {counts:?}");
        }
    }
    drop(peer);
    server.handle().stop();
    server.join().unwrap();
}

/// As above, compressed: with context and without.
#[test]
fn a_warm_shard_echoes_compressed_messages_without_allocating() {
    const MESSAGES: usize = 5000;
    for takeover in [false, true] {
        let mut config = Config::default();
        config.date_header = false;
        config.compress = true;
        config.compress_context_takeover = takeover;
        let builder = Server::builder().listen("127.0.0.1:0").shards(1);
        let server = builder.pinned(false).config(config);
        let server = server.start(|_| Telling(Echo)).unwrap();
        let mut peer = Peer::connect(&server.addresses()[0]);
        let offer = "13\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
        peer.write(request("/").replace("13\r\n", offer).as_bytes());
        assert!(peer.read_head().contains("permessage-deflate"));
        // 5 bytes of a stored block, and the one that ends a message.
        let text = "{\"compresses\": true}, ".repeat(50);
        let len = text.len() as u16;
        let stored = [
            &[0][..],
            &len.to_le_bytes(),
            &(!len).to_le_bytes(),
            text.as_bytes(),
            &[0],
        ];
        let frame = masked(TEXT | 0x40, &stored.concat());
        exchange(&mut peer, &frame, MESSAGES, 100);
        exchange(&mut peer, &frame, MESSAGES, 1);
        // As above: how much is put off to a later turn may peak late.
        let mut counts = Vec::new();
        while counts.last() != Some(&0) && counts.len() < 4 {
            let before = allocations(&mut peer);
            exchange(&mut peer, &frame, MESSAGES, 100);
            exchange(&mut peer, &frame, MESSAGES, 1);
            counts.push(allocations(&mut peer) - before);
        }
        assert_eq!(counts.last(), Some(&0), "takeover {takeover}: {counts:?}");
        let counts = server.handle().stats().counts;
        assert!(counts.compress_messages >= 4 * MESSAGES as u64);
        drop(peer);
        server.handle().stop();
        server.join().unwrap();
    }
}

/// The bytes that compressing says it holds are those that it took from the allocator.
#[test]
fn what_compressing_holds_is_told() {
    let limits = Limits {
        message_bytes_max: 1 << 20,
        message_fragments_max: 1,
        message_empty_fragments_max: 0,
    };
    for bits in 9..=15 {
        let terms = Terms {
            bytes_min: 126,
            bytes_max: usize::MAX,
            level: 6,
            window_bits: bits,
            context_takeover: false,
            inflate_window_bits: 15,
            inflate_context_takeover: false,
            inflate_ratio_max: 0,
            windows_bytes_max: 0,
        };
        let (mut codec, mut pool) = (Codec::new(terms), MessagePool::new(0));
        let mut keys = MaskingKeys::new([0; 32]);
        let agreed = agree([&b"permessage-deflate"[..]].into_iter(), &terms).unwrap();
        let mut sink = VecSink::default();
        sink.space(10_000);
        let mut server = Endpoint::new(Role::Server);
        server.compress(&mut codec, &agreed);
        let mut client = Endpoint::new(Role::Client);
        client.compress(&mut codec, &agreed);
        let text = "compresses, ".repeat(1000);
        let before = LIVE_BYTES.get();
        let mut context = Context {
            limits: &limits,
            pool: &mut pool,
            keys: &mut keys,
            codec: &mut codec,
            sink,
        };
        server.send((&*text).into(), &mut context).unwrap();
        let sent = context.sink.written().to_vec();
        let sent_bytes = sent.capacity();
        let mut bytes = sent;
        let mut input = &mut bytes[..];
        let event = client.receive(&mut input, &mut context);
        assert!(event.is_some_and(|event| {
            let ringwire::proto::Event::Message { payload, .. } = event else {
                return false;
            };
            let same = *payload == *text.as_bytes();
            context.pool.reclaim(payload);
            same
        }));
        let took = LIVE_BYTES.get() - before - sent_bytes as i64;
        let told = codec.tally().held_bytes as i64;
        let difference = (took - told).abs();
        assert!(
            difference * 20 < took,
            "{bits} bits: {took} bytes taken, {told} told"
        );
    }
}
