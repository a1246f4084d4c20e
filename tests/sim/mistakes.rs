//! An oracle that finds nothing could be one that looks at nothing: each has to find the mistakes
//! that are for it.

use ringwire::conn::mistake::Mistake;

use crate::{marks::Mark, world};

/// A mistake that no seed of so many shows is not found.
const SEEDS_MAX: u64 = 1_000;

/// Each mistake, and the oracle that has to find it.
const MISTAKES: [(Mistake, Mark); 23] = [
    (Mistake::LeavesCompletions, Mark::CheckFairness),
    (Mistake::LeavesMail, Mark::CheckFairness),
    (Mistake::JudgesWhenIdle, Mark::CheckFairness),
    (Mistake::ServesRotaWhenIdle, Mark::CheckFairness),
    (Mistake::ServesNewestFirst, Mark::CheckFairness),
    (Mistake::ForgetsTheClock, Mark::CheckFairness),
    (Mistake::InflatesAtOnce, Mark::CheckFairness),
    (Mistake::ForgetsToGoOn, Mark::CheckStates),
    (Mistake::ForgetsCharge, Mark::CheckStates),
    (Mistake::ForgetsPool, Mark::CheckLedger),
    (Mistake::ForgetsRoom, Mark::CheckLedger),
    (Mistake::NeverUnchokes, Mark::CheckStates),
    (Mistake::StarvesModest, Mark::CheckStates),
    (Mistake::StaysQueued, Mark::CheckStates),
    (Mistake::ReceivesWhileReadable, Mark::CheckStates),
    (Mistake::NeverPauses, Mark::CheckStates),
    (Mistake::ForgetsToCancel, Mark::CheckStates),
    (Mistake::ForgetsToHasten, Mark::CheckStates),
    (Mistake::ForgetsDeadline, Mark::CheckStates),
    (Mistake::CountsTwice, Mark::CheckStates),
    (Mistake::LetsEverybodyIn, Mark::CheckStates),
    (Mistake::ForgetsWhoLeft, Mark::CheckStates),
    (Mistake::KeepsTickets, Mark::CheckStates),
];

/// The first seed in which the oracle finds it, or what other checks have found instead.
fn search(mistake: Mistake, oracle: Mark) -> Result<(u64, String), Vec<String>> {
    let name = format!("{oracle:?}: ");
    let mut others = Vec::new();
    for seed in 0..SEEDS_MAX {
        match world::run_with(seed, false, Some(mistake)) {
            Err(found) if found.starts_with(&name) => return Ok((seed, found)),
            Err(found) => others.push(format!("seed {seed}: {found}")),
            Ok(_) => {}
        }
    }
    Err(others)
}

#[test]
fn each_oracle_finds_the_mistakes_that_are_for_it() {
    for (mistake, oracle) in MISTAKES {
        match search(mistake, oracle) {
            Ok((seed, found)) => {
                let found: String = found.chars().take(150).collect();
                println!("{mistake:?}, seed {seed}: {found}");
            }
            Err(others) => panic!(
                "{oracle:?} does not find {mistake:?} in {SEEDS_MAX} seeds; other checks found \
                 {others:#?}"
            ),
        }
    }
}
