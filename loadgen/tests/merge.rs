//! Modelled runs of several machines, added: exactly, and only when they belong together.

mod report_sample;

use std::{fs, path::Path, process::Command};

use loadgen::{
    merge::merge,
    report::{html, json, table},
    result::{Run, Scenario, VerdictKind},
};
use report_sample::{Model, echo};

/// A run of one of several machines, that started so many milliseconds after the first.
fn of_machine(number: u64, after_ms: u64) -> (String, Run) {
    let mut run = echo(Model {
        seed: number,
        slices: 40,
        warmup_slices: 5,
        rate_per_s: Some(10_000.0),
        ..Model::default()
    });
    run.environment.host = format!("machine-{number}");
    run.times.started_unix_ms += after_ms;
    run.compression = None;
    if number > 1 {
        run.server = None;
        run.slices
            .iter_mut()
            .for_each(|slice| slice.server_cpu_ns = None);
    }
    (format!("{number}.json"), run)
}

fn merged(runs: &[(String, Run)]) -> Run {
    merge(runs).unwrap_or_else(|sentence| panic!("{sentence}"))
}

fn refused(runs: &[(String, Run)]) -> String {
    merge(runs).expect_err("they do not belong together")
}

#[test]
fn how_late_machines_were_that_were_to_begin_together_is_told() {
    let mut runs = [of_machine(1, 0), of_machine(2, 30)];
    for ((_, run), late_ms) in runs.iter_mut().zip([0, 30]) {
        run.times.start_at_unix_ms = Some(1_798_761_600_000);
        run.times.start_late_ms = Some(late_ms);
    }
    let sum = merged(&runs);
    assert_eq!(sum.times.start_late_ms, Some(30));
    let late: Vec<Option<u64>> = sum.parts.iter().map(|part| part.start_late_ms).collect();
    assert_eq!(late, [Some(0), Some(30)]);
    let table = table::render(&sum);
    assert!(table.contains("(30 ms late)"), "{table}");
    let note = "the latest was 30 ms late";
    assert!(
        sum.notes.iter().any(|it| it.contains(note)),
        "{:?}",
        sum.notes
    );
}

#[test]
fn histograms_and_counts_add_up_exactly() {
    let runs = [of_machine(1, 0), of_machine(2, 0), of_machine(3, 0)];
    let sum = merged(&runs);
    let each = || runs.iter().map(|(_, run)| run);
    let histogram = &sum.latency.corrected_ns;
    let len: u64 = each().map(|run| run.latency.corrected_ns.len()).sum();
    assert_eq!(histogram.len(), len);
    for step in histogram.iter_recorded() {
        let value = step.value_iterated_to();
        let count: u64 = each()
            .map(|run| run.latency.corrected_ns.count_at(value))
            .sum();
        assert_eq!(histogram.count_at(value), count, "{value}");
    }
    let received: u64 = each().map(|run| run.messages.received).sum();
    assert_eq!(sum.messages.received, received);
    assert_eq!(sum.plan.rate_per_s, Some(30_000.0));
    assert_eq!((sum.plan.connections, sum.plan.shards), (192, 3));
    assert_eq!(sum.connections.opened, 192);
    let cpu_ns: u64 = each().map(|run| run.client.cpu_ns).sum();
    assert_eq!(sum.client.cpu_ns, cpu_ns);
    let in_slices: u64 = sum.slices.iter().map(|slice| slice.received).sum();
    let of_each: u64 = each()
        .flat_map(|run| &run.slices)
        .map(|slice| slice.received)
        .sum();
    assert_eq!(in_slices, of_each);
    assert_eq!(sum.verdict.kind, VerdictKind::Sound, "{:?}", sum.verdict);
}

#[test]
fn the_server_s_cpu_is_for_the_messages_of_all() {
    let runs = [of_machine(1, 0), of_machine(2, 0)];
    let alone = runs[0]
        .1
        .server
        .expect("--pid was given")
        .cpu_ns_per_message;
    let sum = merged(&runs);
    let server = sum.server.expect("one of them looked at it");
    assert!(
        (server.cpu_ns_per_message / alone - 0.5).abs() < 1e-9,
        "{server:?}"
    );
    // The generators stand side by side, each with its own.
    let table = table::render(&sum);
    for part in ["generator", "machine-1 ", "machine-2 ", "+0 ms"] {
        assert!(table.contains(part), "{part} in {table}");
    }
}

#[test]
fn slices_are_laid_by_the_clock_and_the_skew_is_stated() {
    let runs = [of_machine(1, 340), of_machine(2, 0)];
    let sum = merged(&runs);
    let (early, late) = (&runs[1].1.slices, &runs[0].1.slices);
    assert_eq!(sum.slices.len(), 45);
    assert_eq!(sum.slices[0].received, early[0].received);
    assert_eq!(
        sum.slices[10].received,
        early[10].received + late[7].received
    );
    // What only one of them measured is no measured slice of both.
    let warmup = sum.slices.iter().filter(|slice| slice.is_warmup).count();
    assert_eq!((warmup, sum.times.warmup_ms), (8, 800));
    let said = table::render(&sum);
    let words: Vec<&str> = said.split_whitespace().collect();
    let said = words.join(" ");
    assert!(said.contains("within 340 ms of each other"), "{said}");
    assert!(said.contains("+340 ms"), "{said}");
    assert!(!said.contains("Answered after"), "{said}");
    assert!(html::render(&sum).contains(">Rate over time<"));
}

#[test]
fn what_does_not_belong_together_is_refused_by_its_name() {
    let one = || of_machine(1, 0);
    let with = |change: fn(&mut Run)| {
        let mut other = of_machine(2, 0);
        change(&mut other.1);
        refused(&[one(), other])
    };
    for (sentence, part) in [
        (
            with(|run| run.scenario = Scenario::Connect),
            "runs of echo and connect",
        ),
        (
            with(|run| run.target.url = "ws://other/".to_owned()),
            "ws://other/",
        ),
        (with(|run| run.plan.rate_per_s = Some(9.0)), "rate_per_s"),
        (with(|run| run.plan.sizes[0].size_bytes = 65), "sizes"),
        (
            with(|run| run.plan.reply_timeout_ms = Some(1)),
            "reply_timeout_ms",
        ),
        (with(|run| run.times.slice_ms = 200), "slices"),
        (with(|run| run.times.started_unix_ms += 401), "401 ms apart"),
        (
            refused(&[one(), of_machine(2, 0), one()]),
            "are the same run",
        ),
    ] {
        assert!(sentence.contains(part), "'{part}' in {sentence}");
    }
    let fanout = || {
        let mut run = one();
        run.1.scenario = Scenario::Fanout;
        run
    };
    assert!(refused(&[fanout(), fanout()]).contains("publishers"));
}

#[test]
fn one_generator_at_its_end_is_enough_to_doubt_the_sum() {
    let mut slow = of_machine(2, 0);
    slow.1.verdict.kind = VerdictKind::ClientBound;
    slow.1.verdict.reasons = vec!["a thread was busy".to_owned()];
    let sum = merged(&[of_machine(1, 0), slow]);
    assert_eq!(sum.verdict.kind, VerdictKind::ClientBound);
    assert_eq!(sum.verdict.reasons[0], "machine-2: a thread was busy");
    let mut faulty = of_machine(2, 0);
    faulty.1.messages.lost = 2;
    let sum = merged(&[of_machine(1, 0), faulty]);
    assert_eq!(sum.verdict.kind, VerdictKind::Faulty);
}

#[test]
fn the_command_merges_files_and_keeps_bounds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files: Vec<String> = [of_machine(1, 0), of_machine(2, 120)]
        .into_iter()
        .map(|(name, run)| {
            let path = folder.path().join(name);
            json::write(&run, &path).expect("the run is written");
            path.display().to_string()
        })
        .collect();
    let merge = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .arg("merge")
            .args(&files)
            .args(more)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), table + &said)
    };
    let file = folder.path().join("sum.json");
    let (status, said) = merge(&["--json", file.to_str().expect("a name")]);
    assert_eq!(status, Some(0), "{said}");
    let sum = json::read(Path::new(&file)).expect("a run");
    assert_eq!(sum.parts.len(), 2);
    assert_eq!(sum.parts[1].started_after_ms, 120);
    let (status, said) = merge(&["--fail-if", "p50>1us"]);
    assert_eq!(status, Some(5), "{said}");
    fs::write(&files[1], "{}").expect("the file is written");
    let (status, said) = merge(&[]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("2.json"), "{said}");
}
