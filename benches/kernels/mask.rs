//! Masking beside `memcpy`, for each row of the table that this processor can run.
//!
//! `chosen` is the public function: short payloads inlined, long ones by the best row. In place, it
//! reads and writes the same bytes, where `memcpy` reads as many and writes as many others;
//! copying, both touch the same. All of it is in the first level cache up to 16 KiB.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/random.rs"]
mod random;
mod run;
#[path = "../common/settings.rs"]
mod settings;

use std::hint::black_box;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use ringwire::kernels::mask::{self, Kernel, MaskingKey};

use common::{Answers, is_measured};
use random::bytes;
use run::Run;

const KEY: MaskingKey = MaskingKey::new([0x37, 0xfa, 0x21, 0x3d]);

fn sizes() -> &'static [usize] {
    if is_measured() {
        &[20, 125, 256, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20]
    } else {
        &[20, 1 << 10]
    }
}

fn rows() -> impl Iterator<Item = &'static Kernel> {
    mask::kernels().iter().filter(|row| (row.available)())
}

struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    answers: Answers,
    size: usize,
}

impl Bench<'_> {
    fn in_place(&mut self, name: &str, pass: impl Fn(&mut [u8])) {
        let mut payload = bytes(self.size);
        let mut run = Run::of(&payload);
        pass(&mut payload);
        self.answers.add(name, &payload);
        self.group
            .throughput(Throughput::Bytes(run.payload_bytes()));
        self.group
            .bench_function(BenchmarkId::new(name, self.size), |bencher| {
                bencher.iter(|| run.payloads_mut().for_each(&pass));
            });
    }

    fn copying(&mut self, name: &str, pass: impl Fn(&mut [u8], &[u8])) {
        let source = Run::of(&bytes(self.size));
        let mut destination = source.clone();
        if name != MEMCPY {
            let payload = bytes(self.size);
            let mut masked = vec![0; self.size];
            pass(&mut masked, &payload);
            self.answers.add(name, &masked);
        }
        let throughput = Throughput::Bytes(source.payload_bytes());
        self.group.throughput(throughput);
        self.group
            .bench_function(BenchmarkId::new(name, self.size), |bencher| {
                bencher.iter(|| {
                    for (to, from) in destination.payloads_mut().zip(source.payloads()) {
                        pass(to, from);
                    }
                });
            });
    }

    fn memcpy(&mut self) {
        self.copying(MEMCPY, |to, from| to.copy_from_slice(from));
    }
}

const MEMCPY: &str = "memcpy";

fn bench(criterion: &mut Criterion, name: &str, each: impl Fn(&mut Bench<'_>)) {
    let mut bench = Bench {
        group: criterion.benchmark_group(name),
        answers: Answers::default(),
        size: 0,
    };
    for &size in sizes() {
        bench.size = size;
        each(&mut bench);
    }
    bench.group.finish();
    bench.answers.print(name);
}

fn in_place(criterion: &mut Criterion) {
    bench(criterion, "kernels/mask/in_place", |bench| {
        bench.memcpy();
        bench.in_place("chosen", |payload| mask::apply(payload, black_box(KEY)));
        for row in rows() {
            bench.in_place(row.name, |payload| row.apply(payload, black_box(KEY)));
        }
    });
}

fn copying(criterion: &mut Criterion) {
    bench(criterion, "kernels/mask/copying", |bench| {
        bench.memcpy();
        bench.copying("chosen", |to, from| mask::copy(to, from, black_box(KEY)));
        for row in rows() {
            bench.copying(row.name, |to, from| row.copy(to, from, black_box(KEY)));
        }
    });
}

criterion_group! {
    name = benches;
    config = settings::settings();
    targets = in_place, copying
}
criterion_main!(benches);
