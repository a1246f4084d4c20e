//! Decoding and encoding frames, beside the same work in three other Rust libraries; `peers` tells
//! what exactly is compared.
//!
//! Frames arrive in one of three ways, about 256 KiB of them in all, so that they come out of the
//! second level cache:
//!
//! | arrival | each receive brings |
//! |---|---|
//! | `run` | as many whole frames as fit into 16 KiB |
//! | `whole` | one frame |
//! | `split` | half of a frame: it is cut in the middle of its payload |

#[path = "../common/mod.rs"]
mod common;
mod peers;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/settings.rs"]
mod settings;
mod side;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use ringwire::proto::{MessageKind, Role};

use common::{Answers, is_measured};
use peers::{FastWebSockets, Library, Ringwire, TokioWebSockets, Tungstenite, Wire, frames};
use random::bytes;

const RUN_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrival {
    Run,
    Whole,
    Split,
}

impl Arrival {
    /// Where each receive ends, for `count` frames of this length.
    fn ends(self, frame_bytes: usize, count: usize) -> Vec<usize> {
        let frame_ends = (1..=count).map(|number| number * frame_bytes);
        match self {
            Self::Whole => frame_ends.collect(),
            Self::Split => frame_ends
                .flat_map(|end| [end - frame_bytes / 2, end])
                .collect(),
            Self::Run => {
                let in_run = (RUN_BYTES / frame_bytes).max(1);
                let last = count * frame_bytes;
                let ends = frame_ends.skip(in_run - 1).step_by(in_run);
                ends.filter(|&end| end < last).chain([last]).collect()
            }
        }
    }
}

fn sizes() -> &'static [usize] {
    if is_measured() {
        &[20, 125, 1 << 10, 16 << 10, 1 << 20]
    } else {
        &[20, 1 << 10]
    }
}

/// How many messages of this size are sent or received at once.
fn messages_of(size: usize) -> usize {
    let in_all = if is_measured() { 256 << 10 } else { 2 << 10 };
    (in_all / size).max(1)
}

struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    answers: Answers,
    role: Role,
    size: usize,
}

impl Bench<'_> {
    fn decode<L: Library>(&mut self, arrival: Arrival) {
        let count = messages_of(self.size);
        let input = frames(
            other(self.role),
            MessageKind::Binary,
            count,
            &bytes(self.size),
        );
        let ends = arrival.ends(input.len() / count, count);
        let wire = Wire::new(input, ends);
        let mut library = L::new(wire.clone(), self.role);
        library.receive(count, |payload| self.answers.add(L::NAME, payload));
        self.group.throughput(Throughput::Elements(count as u64));
        let id = BenchmarkId::new(L::NAME, self.size);
        self.group.bench_function(id, |bencher| {
            bencher.iter(|| {
                wire.rewind();
                library.receive(count, |payload| {
                    black_box(payload);
                });
            });
        });
    }

    fn encode<L: Library>(&mut self) {
        let count = messages_of(self.size);
        let payload = Bytes::from(bytes(self.size));
        let wire = Wire::default();
        let mut library = L::new(wire.clone(), self.role);
        library.send(count, &payload);
        // Keys are random: what is compared is what the other side reads.
        let sent = wire.sent();
        let ends = vec![sent.len()];
        Ringwire::new(Wire::new(sent, ends), other(self.role))
            .receive(count, |payload| self.answers.add(L::NAME, payload));
        self.group.throughput(Throughput::Elements(count as u64));
        let id = BenchmarkId::new(L::NAME, self.size);
        self.group.bench_function(id, |bencher| {
            bencher.iter(|| {
                wire.rewind();
                library.send(count, &payload);
            });
        });
    }
}

fn other(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}

fn bench(criterion: &mut Criterion, name: &str, role: Role, each: impl Fn(&mut Bench<'_>)) {
    let mut bench = Bench {
        group: criterion.benchmark_group(name),
        answers: Answers::default(),
        role,
        size: 0,
    };
    for &size in sizes() {
        bench.size = size;
        each(&mut bench);
    }
    bench.group.finish();
    bench.answers.print(name);
}

fn decode(criterion: &mut Criterion) {
    // A server receives masked frames.
    for (masked, role) in [("masked", Role::Server), ("unmasked", Role::Client)] {
        for arrival in [Arrival::Run, Arrival::Whole, Arrival::Split] {
            let arrives = format!("{arrival:?}").to_lowercase();
            let name = format!("proto/frame/decode/{masked}/{arrives}");
            bench(criterion, &name, role, |bench| {
                // There is no run of frames that are as long as one.
                if arrival == Arrival::Run && bench.size >= RUN_BYTES {
                    return;
                }
                bench.decode::<Ringwire>(arrival);
                bench.decode::<Tungstenite>(arrival);
                bench.decode::<FastWebSockets>(arrival);
                bench.decode::<TokioWebSockets>(arrival);
            });
        }
    }
}

fn encode(criterion: &mut Criterion) {
    // A client masks what it sends.
    for (masked, role) in [("masked", Role::Client), ("unmasked", Role::Server)] {
        let name = format!("proto/frame/encode/{masked}");
        bench(criterion, &name, role, |bench| {
            bench.encode::<Ringwire>();
            bench.encode::<Tungstenite>();
            bench.encode::<FastWebSockets>();
            bench.encode::<TokioWebSockets>();
        });
    }
}

criterion_group! {
    name = benches;
    config = settings::settings();
    targets = decode, encode
}
criterion_main!(benches);
