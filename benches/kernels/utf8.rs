//! Proving UTF-8 beside `std` and simdutf8, and unmasking and proving at once beside unmasking
//! alone and beside one after the other.
//!
//! Text of five scripts: one, two, three and four bytes a character. All of it is in the first
//! level cache.

#[path = "../common/mod.rs"]
mod common;
mod run;
#[path = "../common/settings.rs"]
mod settings;

use std::hint::black_box;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
    measurement::WallTime,
};
use ringwire::kernels::{
    mask::{self, MaskingKey},
    utf8::{self, Validator},
};

use common::{Answers, is_measured};
use run::Run;

const SCRIPTS: [(&str, &str); 5] = [
    ("ascii", "The quick brown fox jumps over the lazy dog. "),
    (
        "latin",
        "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. ",
    ),
    (
        "cyrillic",
        "Съешь же ещё этих мягких французских булок, да выпей чаю. ",
    ),
    (
        "cjk",
        "天地玄黃宇宙洪荒日月盈昃辰宿列張色は匂へど散りぬるを",
    ),
    ("emoji", "😀🚀🌍🎉🦀🎈🐧🍀"),
];

/// Masks text so that it is still text, in place and any number of times: a key of zeroes. No
/// kernel looks whether a key is one.
const NO_KEY: MaskingKey = MaskingKey::new([0; 4]);

const KEY: MaskingKey = MaskingKey::new([0x37, 0xfa, 0x21, 0x3d]);

fn sizes() -> &'static [usize] {
    if is_measured() {
        &[20, 125, 1 << 10, 16 << 10]
    } else {
        &[20, 1 << 10]
    }
}

/// `len` bytes of whole characters, filled up with full stops.
fn text(sample: &str, len: usize) -> String {
    let mut text = String::new();
    for character in sample.chars().cycle() {
        if text.len() + character.len_utf8() > len {
            break;
        }
        text.push(character);
    }
    let missing = len - text.len();
    text + &".".repeat(missing)
}

struct Bench<'a> {
    group: BenchmarkGroup<'a, WallTime>,
    answers: Answers,
    text: String,
}

impl Bench<'_> {
    fn id(&self, name: &str) -> BenchmarkId {
        BenchmarkId::new(name, self.text.len())
    }

    /// Says what is text, and what is no longer after one byte was changed.
    fn validate(&mut self, name: &str, is_text: impl Fn(&[u8]) -> bool) {
        let run = Run::of(self.text.as_bytes());
        let mut broken = self.text.clone().into_bytes();
        broken[self.text.len() / 2] = 0xff;
        let verdicts = [is_text(self.text.as_bytes()), is_text(&broken)];
        assert_eq!(verdicts, [true, false], "{name} on {}", self.text);
        self.answers.add(name, self.text.as_bytes());
        self.group
            .throughput(Throughput::Bytes(run.payload_bytes()));
        self.group.bench_function(self.id(name), |bencher| {
            bencher.iter(|| run.payloads().all(&is_text));
        });
    }

    fn in_place(&mut self, name: &str, unmask: impl Fn(&mut [u8], MaskingKey)) {
        let mut run = Run::of(self.text.as_bytes());
        let mut masked = self.text.clone().into_bytes();
        mask::apply(&mut masked, KEY);
        unmask(&mut masked, KEY);
        self.answers.add(name, &masked);
        self.group
            .throughput(Throughput::Bytes(run.payload_bytes()));
        self.group.bench_function(self.id(name), |bencher| {
            bencher.iter(|| {
                run.payloads_mut()
                    .for_each(|payload| unmask(payload, black_box(NO_KEY)));
            });
        });
    }

    fn copying(&mut self, name: &str, unmask: impl Fn(&mut [u8], &[u8])) {
        let mut masked = self.text.clone().into_bytes();
        mask::apply(&mut masked, KEY);
        let source = Run::of(&masked);
        let mut destination = source.clone();
        let mut unmasked = vec![0; masked.len()];
        unmask(&mut unmasked, &masked);
        self.answers.add(name, &unmasked);
        let throughput = Throughput::Bytes(source.payload_bytes());
        self.group.throughput(throughput);
        self.group.bench_function(self.id(name), |bencher| {
            bencher.iter(|| {
                for (to, from) in destination.payloads_mut().zip(source.payloads()) {
                    unmask(to, from);
                }
            });
        });
    }
}

/// Runs a group for each script and size.
fn bench(criterion: &mut Criterion, name: &str, each: impl Fn(&mut Bench<'_>)) {
    for (script, sample) in SCRIPTS {
        let name = format!("{name}/{script}");
        let mut bench = Bench {
            group: criterion.benchmark_group(&name),
            answers: Answers::default(),
            text: String::new(),
        };
        for &size in sizes() {
            bench.text = text(sample, size);
            each(&mut bench);
        }
        bench.group.finish();
        bench.answers.print(&name);
    }
}

fn validate(criterion: &mut Criterion) {
    bench(criterion, "kernels/utf8/validate", |bench| {
        bench.validate("std", |bytes| str::from_utf8(bytes).is_ok());
        bench.validate("simdutf8", |bytes| {
            simdutf8::basic::from_utf8(bytes).is_ok()
        });
        bench.validate("ringwire", |bytes| utf8::validate(bytes).is_ok());
        bench.validate("ringwire in pieces", |bytes| {
            let mut validator = Validator::new();
            validator.push(bytes).is_ok() && validator.finish().is_ok()
        });
    });
}

fn in_place(criterion: &mut Criterion) {
    bench(criterion, "kernels/utf8/unmask_in_place", |bench| {
        bench.in_place("unmask alone", mask::apply);
        bench.in_place("fused", |payload, key| {
            let mut validator = Validator::new();
            let text = utf8::unmask_and_validate(payload, key, &mut validator);
            assert!(text.is_ok() && validator.is_boundary());
        });
        bench.in_place("unmask, then simdutf8", |payload, key| {
            mask::apply(payload, key);
            assert!(simdutf8::basic::from_utf8(black_box(payload)).is_ok());
        });
    });
}

fn copying(criterion: &mut Criterion) {
    bench(criterion, "kernels/utf8/unmask_copying", |bench| {
        bench.copying("unmask alone", |to, from| {
            mask::copy(to, from, black_box(KEY))
        });
        bench.copying("fused", |to, from| {
            let mut validator = Validator::new();
            let text = utf8::copy_unmask_and_validate(to, from, black_box(KEY), &mut validator);
            assert!(text.is_ok() && validator.is_boundary());
        });
        bench.copying("unmask, then simdutf8", |to, from| {
            mask::copy(to, from, black_box(KEY));
            assert!(simdutf8::basic::from_utf8(black_box(to)).is_ok());
        });
    });
}

criterion_group! {
    name = benches;
    config = settings::settings();
    targets = validate, in_place, copying
}
criterion_main!(benches);
