//! What the kernels and the decoder have to reach, as a table.
//!
//! Contenders take turns, so that whatever else the machine does meets all of them alike, and a
//! ratio is the median of the ratios of the rounds. Under `cargo bench` a goal that is missed is an
//! error; under `cargo test` everything runs once and is judged by nobody.

mod common;
#[path = "proto/peers.rs"]
mod peers;
#[path = "common/random.rs"]
mod random;
#[path = "kernels/run.rs"]
mod run;
#[path = "proto/side.rs"]
mod side;

use std::{hint::black_box, process::ExitCode, time::Instant};

use bytes::Bytes;
use ringwire::{
    kernels::{
        mask::{self, MaskingKey},
        utf8::{self, Validator},
    },
    proto::{MessageKind, Role},
};

use common::{Answers, is_measured};
use peers::{FastWebSockets, Library, Ringwire, TokioWebSockets, Tungstenite, Wire, frames};
use random::bytes;
use run::Run;
use side::Side;

/// Odd, so that one of them is the median.
const ROUNDS: usize = 301;

/// Below 0x80, so that ASCII stays ASCII however often it is masked.
const KEY: MaskingKey = MaskingKey::new([0x37, 0x7a, 0x21, 0x3d]);

/// As many bytes of frames as stay in a second level cache.
const INPUT_BYTES: usize = 256 * 1024;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rounds() -> usize {
    if is_measured() { ROUNDS } else { 1 }
}

/// Nanoseconds that it takes.
fn time(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos() as f64
}

/// Nanoseconds that each contender takes in each round.
fn measure<const N: usize>(mut contenders: [&mut dyn FnMut(); N]) -> [Vec<f64>; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..rounds() {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            times.push(time(contender));
        }
    }
    times
}

/// How many times as fast the second is as the first.
fn ratio(first: &[f64], second: &[f64]) -> f64 {
    let rounds = first.iter().zip(second);
    median(rounds.map(|(first, second)| first / second).collect())
}

/// The table, and whether every goal in it was reached.
#[derive(Default)]
struct Table {
    missed: bool,
}

impl Table {
    fn row(&mut self, what: &str, measured: f64, unit: &str, at_least: Option<f64>) {
        if !is_measured() {
            return;
        }
        // A run repeats two decimals, and not three.
        let measured = (measured * 100.0).round() / 100.0;
        let goal = at_least.map_or_else(String::new, |least| {
            let verdict = if measured < least { "MISSED" } else { "held" };
            format!("at least {least:5.1} {verdict}")
        });
        println!("{what:60} {measured:6.2} {unit:9} {goal}");
        self.missed |= at_least.is_some_and(|least| measured < least);
    }
}

/// How often to go over a run so that a clock reading is nothing in comparison.
fn repeats(run: &Run) -> u64 {
    let bytes = if is_measured() { 200_000 } else { 1 };
    (bytes / run.payload_bytes()).max(1)
}

const SIZES: [usize; 4] = [1 << 10, 4 << 10, 16 << 10, 64 << 10];

fn masking(table: &mut Table) {
    for size in SIZES {
        let source = Run::of(&bytes(size));
        let (mut copied, mut masked) = (source.clone(), source.clone());
        let repeats = repeats(&source);
        let mut memcpy = || {
            for _ in 0..repeats {
                for (to, from) in copied.payloads_mut().zip(source.payloads()) {
                    to.copy_from_slice(from);
                }
            }
        };
        let mut mask = || {
            for _ in 0..repeats {
                for payload in masked.payloads_mut() {
                    mask::apply(payload, black_box(KEY));
                }
            }
        };
        let [memcpy, mask] = measure([&mut memcpy, &mut mask]);
        let what = format!("masking {size} B in place, beside memcpy");
        table.row(&what, ratio(&memcpy, &mask), "x", Some(0.9));
    }
}

fn text(table: &mut Table) {
    for size in SIZES {
        let mut unmasked = Run::of(&vec![b'a'; size]);
        let mut validated = unmasked.clone();
        let repeats = repeats(&unmasked);
        let mut unmask = || {
            for _ in 0..repeats {
                for payload in unmasked.payloads_mut() {
                    mask::apply(payload, black_box(KEY));
                }
            }
        };
        let mut fused = || {
            for _ in 0..repeats {
                for payload in validated.payloads_mut() {
                    let mut text = Validator::new();
                    let valid = utf8::unmask_and_validate(payload, black_box(KEY), &mut text);
                    assert!(valid.is_ok() && text.is_boundary());
                }
            }
        };
        let [unmask, fused] = measure([&mut unmask, &mut fused]);
        let what = format!("unmasking and validating {size} B of ASCII, beside unmasking");
        table.row(&what, ratio(&unmask, &fused), "x", Some(0.8));
    }
}

/// The message that there is the most of.
const SHORT: &[u8; 20] = b"twenty bytes of text";

fn short_frames(kind: MessageKind) -> (Vec<u8>, usize) {
    let count = INPUT_BYTES / (6 + SHORT.len());
    (frames(Role::Client, kind, count, SHORT), count)
}

/// Decodes frames where they lie, in the second level cache.
fn decoding_in_place(table: &mut Table, kind: MessageKind) {
    let (input, count) = short_frames(kind);
    let mut side = Side::new(Role::Server);
    let mut times = Vec::new();
    for _ in 0..rounds() {
        side.buffer.clone_from(&input);
        let mut payload_bytes = 0;
        times.push(time(|| {
            side.received(side.buffer.len(), |_, _, message| {
                payload_bytes += black_box(message.payload()).len();
            });
        }));
        assert_eq!(payload_bytes, count * SHORT.len());
    }
    let what = format!("decoding masked 20 B frames, {kind:?}");
    let millions = count as f64 * 1e3 / median(times);
    table.row(&what, millions, "million/s", Some(100.0));
}

/// Has a library receive what is on its wire.
fn receive<L: Library>(input: &[u8], count: usize, answers: &mut Answers) -> impl FnMut() + use<L> {
    let wire = Wire::new(input.to_vec(), vec![input.len()]);
    let mut library = L::new(wire.clone(), Role::Server);
    library.receive(count, |payload| answers.add(L::NAME, payload));
    move || {
        wire.rewind();
        library.receive(count, |payload| {
            black_box(payload);
        });
    }
}

/// Has a library send as many messages.
fn send<L: Library>(count: usize, answers: &mut Answers) -> impl FnMut() + use<L> {
    let wire = Wire::default();
    let mut library = L::new(wire.clone(), Role::Server);
    let payload = Bytes::from_static(SHORT);
    library.send(count, &payload);
    answers.add(L::NAME, &wire.sent());
    move || {
        wire.rewind();
        library.send(count, &payload);
    }
}

/// The row of ringwire, whose times come first, beside the fastest of its peers.
fn beside_peers(table: &mut Table, what: &str, times: &[Vec<f64>; 4], at_least: Option<f64>) {
    let names = [
        Tungstenite::NAME,
        FastWebSockets::NAME,
        TokioWebSockets::NAME,
    ];
    let [ringwire, peers @ ..] = times;
    let ratios = peers.iter().map(|peer| ratio(peer, ringwire));
    let slowest = ratios.zip(names).min_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((ratio, name)) = slowest {
        table.row(&format!("{what}, beside {name}"), ratio, "x", at_least);
    }
}

fn peers(table: &mut Table) {
    let mut answers = Answers::default();
    for kind in [MessageKind::Binary, MessageKind::Text] {
        let (input, count) = short_frames(kind);
        let times = measure([
            &mut receive::<Ringwire>(&input, count, &mut answers),
            &mut receive::<Tungstenite>(&input, count, &mut answers),
            &mut receive::<FastWebSockets>(&input, count, &mut answers),
            &mut receive::<TokioWebSockets>(&input, count, &mut answers),
        ]);
        let what = format!("decoding masked 20 B frames, {kind:?}");
        beside_peers(table, &what, &times, Some(2.0));
    }
    let count = INPUT_BYTES / (2 + SHORT.len());
    let times = measure([
        &mut send::<Ringwire>(count, &mut answers),
        &mut send::<Tungstenite>(count, &mut answers),
        &mut send::<FastWebSockets>(count, &mut answers),
        &mut send::<TokioWebSockets>(count, &mut answers),
    ]);
    beside_peers(table, "encoding 20 B frames", &times, None);
    answers.print("goals");
}

fn main() -> ExitCode {
    let mut table = Table::default();
    masking(&mut table);
    text(&mut table);
    decoding_in_place(&mut table, MessageKind::Binary);
    decoding_in_place(&mut table, MessageKind::Text);
    peers(&mut table);
    if table.missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
