//! An echo through two endpoints in memory: a client sends, a server sends it back, the client
//! receives it.
//!
//! Each way costs one copy, as the kernel would make it. Messages go in runs of 64 KiB, or one at
//! a time when they are longer.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/settings.rs"]
mod settings;
mod side;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use ringwire::{
    Message,
    proto::{Endpoint, MessageKind, Role},
};

use common::{Answers, is_measured};
use random::bytes;
use side::{Replies, Side, reply};

/// Gives `to` everything that `from` has to send.
fn deliver(
    from: &mut Side,
    to: &mut Side,
    mut see: impl FnMut(&mut Endpoint, &mut Replies<'_>, Message<'_>),
) {
    from.flush(0, |piece| {
        for part in piece.chunks(to.buffer.len()) {
            to.buffer[..part.len()].copy_from_slice(part);
            to.received(part.len(), &mut see);
        }
    });
}

/// There and back; the payloads that came back go to `see`.
fn round_trip(
    client: &mut Side,
    server: &mut Side,
    message: Message<'_>,
    count: usize,
    mut see: impl FnMut(&[u8]),
) {
    for _ in 0..count {
        client.send(message);
    }
    deliver(client, server, |endpoint, replies, message| {
        reply(endpoint, replies, message);
    });
    deliver(server, client, |_, _, message| see(message.payload()));
}

fn sizes() -> &'static [usize] {
    if is_measured() {
        &[20, 125, 1 << 10, 16 << 10, 1 << 20]
    } else {
        &[20, 16 << 10]
    }
}

fn messages_of(size: usize) -> usize {
    let in_all = if is_measured() { 64 << 10 } else { 1 << 10 };
    (in_all / size).max(1)
}

fn echo_messages(criterion: &mut Criterion) {
    for (name, kind) in [("binary", MessageKind::Binary), ("text", MessageKind::Text)] {
        let name = format!("proto/endpoint/echo/{name}");
        let mut group = criterion.benchmark_group(&name);
        let mut answers = Answers::default();
        for &size in sizes() {
            let mut payload = bytes(size);
            if kind == MessageKind::Text {
                payload
                    .iter_mut()
                    .for_each(|byte| *byte = b' ' + *byte % 64);
            }
            let message = Message::new(kind, &payload);
            echo_message(&mut group, &mut answers, message);
        }
        group.finish();
        answers.print(&name);
    }
}

fn echo_message(
    group: &mut BenchmarkGroup<'_, WallTime>,
    answers: &mut Answers,
    message: Message<'_>,
) {
    let (mut client, mut server) = (Side::new(Role::Client), Side::new(Role::Server));
    let size = message.payload().len();
    let count = messages_of(size);
    round_trip(&mut client, &mut server, message, count, |payload| {
        answers.add("echo", payload);
    });
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
        bencher.iter(|| {
            let mut back = 0;
            round_trip(&mut client, &mut server, message, count, |_| back += 1);
            assert_eq!(back, count);
        });
    });
}

criterion_group! {
    name = benches;
    config = settings::settings();
    targets = echo_messages
}
criterion_main!(benches);
