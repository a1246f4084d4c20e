//! The generator against real servers on this machine: what they do wrong on purpose has to be
//! counted exactly, and what they do right has to be believed.

#[path = "../../../tests/common/authority.rs"]
mod authority;
mod echo;
mod input;
mod people;
mod replayed;
mod scenarios;
mod servers;
mod talks;
mod tls;
mod twenty;
mod verdicts;

use std::sync::{Arc, atomic::AtomicBool};

use clap::Parser;
use loadgen::{
    plan::{Cli, Command, Plan},
    result::{Progress, Run},
    run::Context,
    scenario,
};

/// Carries out a command line in this process.
fn try_run(words: &[&str]) -> Result<Run, String> {
    watched_run(words, &mut |_| {})
}

/// The same, and shows its progress.
fn watched_run(words: &[&str], progress: &mut dyn FnMut(&Progress)) -> Result<Run, String> {
    let words = std::iter::once("loadgen").chain(words.iter().copied());
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    let mut context = Context {
        stopped: Arc::new(AtomicBool::new(false)),
        progress,
        command: Vec::new(),
        note: None,
    };
    let shared = |plan: Result<Plan, loadgen::plan::PlanError>| {
        plan.map(Plan::shared).map_err(|error| error.to_string())
    };
    match &cli.command {
        Command::Echo(args) => scenario::echo::run(&shared(args.plan())?, &mut context),
        Command::Connect(args) => scenario::connect::run(&shared(args.plan())?, &mut context),
        Command::Idle(args) => scenario::idle::run(&shared(args.plan())?, &mut context),
        Command::Fanout(args) => scenario::fanout::run(&shared(args.plan())?, &mut context),
        Command::Ingest(args) => scenario::ingest::run(&shared(args.plan())?, &mut context),
        Command::Saturate(args) => scenario::saturate::run(args, &mut context),
        Command::Talk(args) => scenario::talk::run(&shared(args.plan())?, &mut context),
        Command::Replay(args) => {
            let (plan, recording) = scenario::replay::plan(args)?;
            scenario::replay::run(&plan.shared(), recording, &mut context)
        }
        _ => Err("not a run".to_owned()),
    }
}

fn run(words: &[&str]) -> Run {
    try_run(words).unwrap_or_else(|sentence| panic!("{words:?}: {sentence}"))
}

/// The same with a line.
fn run_line(line: &str) -> Run {
    run(&words(line))
}

/// The words of a command line, as a shell without quotes has them.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
