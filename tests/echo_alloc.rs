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

use common::{BINARY, Peer, TEXT, masked};
use ringwire::{Config, Conn, Message, Server, Service, service::Echo};

struct Counting;

thread_local! {
    /// Without a destructor and const, so that counting allocates nothing itself.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
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
    const MESSAGES: usize = 100_000;
    let mut config = Config::default();
    config.date_header = false;
    let builder = Server::builder().listen("127.0.0.1:0").shards(1);
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
            // Whatever peaks now and then has peaked.
            exchange(&mut peer, &frame, MESSAGES / 10, in_flight);
            let before = allocations(&mut peer);
            exchange(&mut peer, &frame, MESSAGES, in_flight);
            let count = allocations(&mut peer) - before;
            assert_eq!(count, 0, "allocations for {what}, {in_flight} in flight");
        }
    }
    drop(peer);
    server.handle().stop();
    server.join().unwrap();
}
