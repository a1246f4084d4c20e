//! The simulation: a server shard and a client shard on one simulated kernel, in one thread, with
//! hostile peers and every fault that a seed draws.
//!
//! ```text
//!   seed --> Plan --> server Shard<SimRing, Echo>  --+
//!               |                                    +-- SimKernel: faults, clock, trace
//!               +---> client Shard<SimRing, Client> -+
//!               +---> raw peers ---------------------+
//!
//!   checked all the while: order, bytes, ids, the ring's rules
//!   checked in every turn: the states of each connection, the ledger, for how long anybody waits
//!   checked in the end:    causes, codes, nothing lost, nothing left, counts
//! ```
//!
//! A connection that no fault can have broken has to end exactly as planned, with nothing lost; any
//! other may break, but what it delivers is what was sent. Every check and every fault is counted,
//! and a run in which one never acted fails. The checks of every turn are in
//! `ringwire::shard::check`; `mistakes` shows that each of them can fail, and `situations` has what
//! they have found, small.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RINGWIRE_SIM_SEEDS` | how many seeds; of `topics`, a tenth | 1500 |
//! | `RINGWIRE_SIM_START` | the first of them: a number, or text such as a commit hash | 0 |
//! | `RINGWIRE_SIM_SEED` | one seed alone, with its trace | |
//! | `RINGWIRE_SIM_THREADS` | threads, each with seeds of its own | the number of cores |

mod clock;
mod marks;
mod mistakes;
mod plan;
mod raw;
mod services;
mod situations;
mod topics;
mod world;

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use marks::{Mark, Tally};
use ringwire::ring::sim::{Mark as SimMark, Marks};

const SEEDS: u64 = 1500;

/// With fewer seeds, a mark may be missed by chance.
const SEEDS_WITH_ALL_MARKS: u64 = 1000;

/// One seed in this many is run twice.
const TWICE_ONE_IN: u64 = 500;

/// How many seeds come between two lines that say how far it is.
const PROGRESS_EACH: u64 = 10_000;

/// Seeds after a failure are not worth their time, but a few show whether it is one of many.
const FAILURES_MAX: usize = 3;

#[derive(Default)]
struct Sum {
    sim_marks: Marks,
    tally: Tally,
    turns: u64,
    turns_most: (usize, u64),
    longest: (u64, u64),
    most_above: usize,
    clients: u64,
    complete: u64,
    failures: Vec<String>,
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str) -> Option<u64> {
    let value = variable(name)?;
    let number = value.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} is '{value}', but it has to be a number")))
}

/// A seed from a number, or from any text.
fn start() -> u64 {
    let Some(text) = variable("RINGWIRE_SIM_START") else {
        return 0;
    };
    text.parse().unwrap_or_else(|_| {
        text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    })
}

fn command(seed: u64) -> String {
    format!("RINGWIRE_SIM_SEED={seed} cargo test --features sim --test sim -- --nocapture seeds")
}

fn run_seed(seed: u64, twice: bool, sum: &Mutex<Sum>) {
    let mut outcome = world::run(seed, false);
    if let (Ok(report), true) = (&mut outcome, twice) {
        report.tally.reach(Mark::CheckSameTraceTwice);
        match world::run(seed, false) {
            Ok(again) if (again.hash, again.turns) == (report.hash, report.turns) => {}
            Ok(_) => outcome = Err("run twice, it gave two traces".into()),
            Err(error) => outcome = Err(format!("run twice, it failed once: {error}")),
        }
    }
    let mut sum = sum.lock().unwrap_or_else(|poison| poison.into_inner());
    match outcome {
        Ok(report) => {
            sum.sim_marks.merge(&report.sim_marks);
            sum.tally.merge(&report.tally);
            sum.turns += report.turns as u64;
            sum.turns_most = sum.turns_most.max((report.turns, seed));
            sum.longest = sum.longest.max(report.longest);
            sum.most_above = sum.most_above.max(report.most_above);
            sum.clients += report.clients as u64;
            sum.complete += report.complete as u64;
        }
        Err(error) => sum.failures.push(format!(
            "seed {seed} failed: {error}\nalone, with its trace: {}",
            command(seed)
        )),
    }
}

#[test]
fn seeds_keep_every_promise() {
    if let Some(seed) = number("RINGWIRE_SIM_SEED") {
        if let Err(error) = world::run(seed, true) {
            panic!("seed {seed} failed: {error}");
        }
        return;
    }
    let seeds = number("RINGWIRE_SIM_SEEDS").unwrap_or(SEEDS);
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = number("RINGWIRE_SIM_THREADS").unwrap_or(cores);
    let (start, began) = (start(), Instant::now());
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let offset = next.fetch_add(1, Ordering::Relaxed);
                    let failed = sum
                        .lock()
                        .map_or(true, |sum| sum.failures.len() >= FAILURES_MAX);
                    if offset >= seeds || failed {
                        return;
                    }
                    if offset > 0 && offset % PROGRESS_EACH == 0 {
                        let each_s = offset as f64 / began.elapsed().as_secs_f64();
                        eprintln!("{offset} of {seeds} seeds, {each_s:.0} a second");
                    }
                    let twice = offset % TWICE_ONE_IN == 0;
                    run_seed(start.wrapping_add(offset), twice, &sum);
                }
            });
        }
    });
    let sum = sum
        .into_inner()
        .unwrap_or_else(|poison| poison.into_inner());
    println!("{}{}", sum.sim_marks, sum.tally);
    println!(
        "{seeds} seeds from {start} in {:.1} s: {} turns, most in seed {} with {}; {} of {} \
         clients got all back",
        began.elapsed().as_secs_f64(),
        sum.turns,
        sum.turns_most.1,
        sum.turns_most.0,
        sum.complete,
        sum.clients,
    );
    println!(
        "longest wait for a look: {} turns, of {} that it may have been; most memory above a \
         limit: {} bytes",
        sum.longest.0, sum.longest.1, sum.most_above,
    );
    assert!(sum.failures.is_empty(), "{}", sum.failures.join("\n\n"));
    if seeds >= SEEDS_WITH_ALL_MARKS {
        assert_eq!(
            sum.tally.missing(),
            [""; 0],
            "never reached in {seeds} seeds"
        );
        let missing = sum.sim_marks.missing();
        assert_eq!(
            missing, [""; 0],
            "never reached by the kernel in {seeds} seeds"
        );
        assert!(
            sum.complete * 3 > sum.clients,
            "only {} of {} clients got all back: too little is checked to the end",
            sum.complete,
            sum.clients
        );
    }
}

/// Of a million, those that found something: a message that nobody went on with and others waited
/// for, a line of the rota that got all the memory there was, and a cancellation that is tried
/// again for longer than the end was waited for.
#[test]
fn seeds_that_found_something_pass() {
    for seed in [27_940, 743_179, 38_055, 206_204, 258_161, 578_950, 634_327] {
        if let Err(error) = world::run(seed, false) {
            panic!("seed {seed} failed: {error}");
        }
    }
}

/// The tables above are worth nothing if a mark that was not reached goes unnoticed.
#[test]
fn a_mark_that_was_not_reached_is_named() {
    let mut tally = Tally::default();
    assert!(tally.missing().contains(&"CheckNothingLost"));
    tally.reach(Mark::CheckNothingLost);
    assert!(!tally.missing().contains(&"CheckNothingLost"));
    assert_eq!(tally.count(Mark::CheckNothingLost), 1);
    assert_eq!(Marks::default().count(SimMark::Reset), 0);
}
