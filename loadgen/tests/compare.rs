//! Trials of `compare` on modelled runs: how often it finds a difference that is not there, and how
//! often it finds one that is.

mod report_sample;

use std::{fs, path::PathBuf, process::Command};

use loadgen::{
    compare::{Arguments, Comparison, compare, compare_runs, statistics},
    merge::merge,
    report::json,
    result::{Run, VerdictKind},
};
use report_sample::{Model, echo};

fn arguments() -> Arguments {
    Arguments {
        a: Vec::new(),
        b: Vec::new(),
        tolerance: 0.05,
        metric: Vec::new(),
        seed: 1,
        force: false,
    }
}

fn judged(a: &[Run], b: &[Run]) -> Comparison {
    compare_runs(a, b, &arguments()).expect("the runs have one plan")
}

/// Runs of a side, each with a seed of its own.
fn side(model: Model, trial: u64, runs: u64, which: u64) -> Vec<Run> {
    (0..runs)
        .map(|run| {
            echo(Model {
                seed: 1_000_000 * which + 1_000 * trial + run,
                ..model
            })
        })
        .collect()
}

/// How many of `trials` were found worse, and how many different either way.
fn trials(model: Model, slowness: f64, trials: u64, runs: u64) -> (u64, u64) {
    let (mut worse, mut different) = (0, 0);
    for trial in 0..trials {
        let a = side(model, trial, runs, 1);
        let b = side(Model { slowness, ..model }, trial, runs, 2);
        let comparison = judged(&a, &b);
        worse += u64::from(comparison.is_worse);
        different += u64::from(comparison.is_worse || comparison.is_better);
    }
    (worse, different)
}

#[test]
fn equal_servers_are_not_told_apart() {
    for (memory, disturbance) in [(0.0, 0.0), (0.6, 0.01), (0.9, 0.03)] {
        let model = Model {
            memory,
            disturbance,
            ..Model::default()
        };
        let (_, different) = trials(model, 1.0, 40, 1);
        assert!(
            different <= 2,
            "memory {memory}: {different} of 40 told apart"
        );
    }
}

#[test]
fn a_server_slowed_by_a_tenth_is_found() {
    for (memory, disturbance) in [(0.0, 0.0), (0.6, 0.01)] {
        let model = Model {
            memory,
            disturbance,
            ..Model::default()
        };
        let (worse, _) = trials(model, 1.1, 40, 1);
        assert!(worse >= 38, "memory {memory}: {worse} of 40 found");
    }
}

/// What two machines measured at one time, added.
fn of_two_machines(model: Model, trial: u64, which: u64) -> Run {
    let mut runs = side(model, trial, 2, which);
    for (number, run) in runs.iter_mut().enumerate() {
        run.environment.host = format!("machine-{number}");
        run.times.started_unix_ms += 40 * number as u64;
    }
    let named: Vec<(String, Run)> = runs
        .into_iter()
        .map(|run| (run.environment.host.clone(), run))
        .collect();
    merge(&named).unwrap_or_else(|sentence| panic!("{sentence}"))
}

#[test]
fn merged_runs_are_compared_as_any_other() {
    let model = Model::default();
    let (mut found, mut different) = (0, 0);
    for trial in 0..20 {
        let a = [of_two_machines(model, trial, 1)];
        let equal = judged(&a, &[of_two_machines(model, trial, 2)]);
        different += u64::from(equal.is_worse || equal.is_better);
        let slow = Model {
            slowness: 1.1,
            ..model
        };
        found += u64::from(judged(&a, &[of_two_machines(slow, trial, 3)]).is_worse);
    }
    assert_eq!(different, 0, "of 20 equal ones");
    assert_eq!(found, 20, "of 20 that were a tenth slower");
}

#[test]
fn several_runs_a_side_make_up_for_what_varies_from_run_to_run() {
    let model = Model {
        slices: 30,
        from_run_to_run: 0.03,
        ..Model::default()
    };
    let (_, different) = trials(model, 1.0, 40, 6);
    assert!(different <= 2, "{different} of 40 told apart");
    let (worse, _) = trials(model, 1.15, 40, 6);
    assert!(worse >= 38, "{worse} of 40 found");
}

/// A run that was disturbed from beginning to end must not hide what the other seven show.
#[test]
fn one_disturbed_run_hides_nothing() {
    let model = Model {
        slices: 20,
        from_run_to_run: 0.01,
        ..Model::default()
    };
    let slow = Model {
        slowness: 1.15,
        ..model
    };
    let a = side(model, 1, 8, 1);
    let mut b = side(slow, 1, 8, 2);
    b[3] = echo(Model {
        seed: 9,
        unrest: 1.0,
        memory: 0.3,
        ..slow
    });
    assert!(judged(&a, &b).is_worse, "{}", judged(&a, &b).text);
}

#[test]
fn a_tolerable_change_is_no_failure() {
    let (worse, _) = trials(Model::default(), 1.03, 40, 1);
    assert!(worse <= 2, "{worse} of 40 failed for 3 %");
}

/// Each end has to be on its side of the true change as often as it claims: 19 times of 20 for all
/// metrics together, and so 18 times of 20 for both ends. A model without disturbances has a true
/// change that can be written down.
#[test]
fn the_intervals_hold_what_they_promise() {
    let model = Model {
        memory: 0.5,
        disturbance: 0.0,
        ..Model::default()
    };
    let metrics = [
        statistics::Metric::Latency(0.5),
        statistics::Metric::Latency(0.99),
        statistics::Metric::Rate,
        statistics::Metric::Cpu,
    ];
    let mut held = 0;
    for trial in 0..100 {
        let lay_out = |which, slowness| {
            let runs = side(Model { slowness, ..model }, trial, 1, which);
            let slices: Vec<statistics::Slice> = runs[0]
                .slices
                .iter()
                .filter(|slice| !slice.is_warmup)
                .map(|slice| statistics::Slice {
                    seconds: 0.1,
                    messages: slice.received,
                    server_cpu_seconds: slice.server_cpu_ns.map(|ns| ns as f64 / 1e9),
                    latencies: slice
                        .latency_ns
                        .iter_recorded()
                        .map(|step| {
                            let high = step.value_iterated_to();
                            let low = slice.latency_ns.lowest_equivalent(high);
                            (low, high, step.count_since_last_iteration())
                        })
                        .collect(),
                })
                .collect();
            [statistics::Run::new(&slices)]
        };
        let settings = statistics::Settings {
            false_alarm: 0.05,
            seed: trial,
        };
        let changes = statistics::compare(&lay_out(1, 1.0), &lay_out(2, 1.1), &metrics, settings);
        assert_eq!(changes.len(), metrics.len());
        held += u64::from(changes.iter().all(|change| {
            let truth = match change.metric {
                statistics::Metric::Rate => 1.0 / 1.1 - 1.0,
                _ => 0.1,
            };
            change.low <= truth && truth <= change.high
        }));
    }
    assert!(held >= 84, "held in {held} of 100 trials");
}

#[test]
fn the_same_seed_says_the_same() {
    let a = [echo(Model::default())];
    let b = [echo(Model {
        seed: 2,
        ..Model::default()
    })];
    assert_eq!(judged(&a, &b).text, judged(&a, &b).text);
}

#[test]
fn a_run_is_no_different_from_itself() {
    let a = [echo(Model::default())];
    let comparison = judged(&a, &a);
    assert!(!comparison.is_worse && !comparison.is_better);
    assert!(
        comparison
            .text
            .contains("no difference beyond 5 % is shown"),
        "{}",
        comparison.text
    );
}

#[test]
fn another_plan_is_refused_by_name_unless_forced() {
    let a = [echo(Model::default())];
    let mut other = echo(Model::default());
    other.plan.connections = 65;
    other.plan.in_flight = Some(2);
    let refusal = compare_runs(&a, &[other.clone()], &arguments()).expect_err("another plan");
    assert!(refusal.contains("connections: 64 and 65"), "{refusal}");
    assert!(refusal.contains("in_flight: 1 and 2"), "{refusal}");
    let forced = Arguments {
        force: true,
        ..arguments()
    };
    let comparison = compare_runs(&a, &[other], &forced).expect("forced");
    assert!(
        comparison.text.contains("connections: 64 and 65"),
        "{}",
        comparison.text
    );
}

#[test]
fn a_run_that_shows_the_generator_is_refused() {
    let a = [echo(Model::default())];
    let mut bound = echo(Model::default());
    bound.verdict.kind = VerdictKind::ClientBound;
    let refusal = compare_runs(&a, &[bound], &arguments()).expect_err("client-bound");
    assert!(
        refusal.contains("the generator was the bottleneck"),
        "{refusal}"
    );
}

#[test]
fn losing_messages_is_worse_whatever_the_tolerance() {
    let a = [echo(Model::default())];
    let mut b = echo(Model::default());
    b.messages.lost = 3;
    let comparison = judged(&a, &[b]);
    assert!(comparison.is_worse, "{}", comparison.text);
}

#[test]
fn a_run_too_short_to_vary_is_refused() {
    let short = Model {
        slices: 9,
        ..Model::default()
    };
    let refusal = compare_runs(&[echo(short)], &[echo(short)], &arguments()).expect_err("short");
    assert!(refusal.contains("9 slices"), "{refusal}");
}

/// The exit status is what a CI job looks at.
#[test]
fn the_exit_status_says_what_was_found() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, model: Model| -> PathBuf {
        let path = folder.path().join(name);
        json::write(&echo(model), &path).expect("the file is written");
        path
    };
    let a = file("a.json", Model::default());
    let same = file(
        "same.json",
        Model {
            seed: 2,
            ..Model::default()
        },
    );
    let slow = file(
        "slow.json",
        Model {
            seed: 3,
            slowness: 1.15,
            ..Model::default()
        },
    );
    let broken = folder.path().join("broken.json");
    fs::write(&broken, "{}").expect("the file is written");
    let status = |b: &PathBuf| {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["compare".as_ref(), a.as_os_str(), b.as_os_str()])
            .output()
            .expect("loadgen starts");
        output.status.code()
    };
    assert_eq!(
        [status(&same), status(&slow), status(&broken)],
        [Some(0), Some(1), Some(2)]
    );
    let with_itself = compare(&Arguments {
        a: vec![a.clone()],
        b: vec![a],
        ..arguments()
    });
    assert!(with_itself.is_ok_and(|comparison| !comparison.is_worse));
}

#[test]
fn a_run_whose_replies_came_after_its_slices_is_refused() {
    let a = [echo(Model::default())];
    let mut late = echo(Model::default());
    late.latency
        .corrected_ns
        .saturating_record_n(9_000_000, 50_000);
    let refusal = compare_runs(&a, &[late], &arguments()).expect_err("late");
    assert!(refusal.contains("did not keep up: 50,000 of"), "{refusal}");
}
