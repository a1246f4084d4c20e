//! The `loadgen` command: arguments in, a report and an exit status out.

#![forbid(unsafe_code)]

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Parser;
use loadgen::{
    cli, compare, merge,
    plan::{Cli, Command, Plan, PlanError, ReplayArgs, RunArgs},
    report::{self, progress::Live},
    result::{Progress, Run, Scenario},
    run::Context,
    scenario, verdict,
};
use signal_hook::consts::{SIGINT, SIGTERM};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Nothing was measured: the arguments, the host or the server were in the way.
const NOTHING_RAN: u8 = 2;

type Measures<'a> = dyn Fn(&Arc<Plan>, &mut Context<'_>) -> Result<Run, String> + 'a;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let measure = |args: &RunArgs, plan, run: &Measures<'_>| match cli.command.scenario() {
        Some(scenario) => measure(scenario, args, plan, run),
        None => NOTHING_RAN,
    };
    let status = match &cli.command {
        Command::Echo(args) => measure(&args.run, args.plan(), &scenario::echo::run),
        Command::Connect(args) => measure(&args.run, args.plan(), &scenario::connect::run),
        Command::Idle(args) => measure(&args.run, args.plan(), &scenario::idle::run),
        Command::Fanout(args) => measure(&args.run, args.plan(), &scenario::fanout::run),
        Command::Ingest(args) => measure(&args.run, args.plan(), &scenario::ingest::run),
        Command::Saturate(args) => {
            let search =
                |_: &Arc<Plan>, context: &mut Context<'_>| scenario::saturate::run(args, context);
            measure(&args.run, args.plan(), &search)
        }
        Command::Talk(args) => measure(&args.run, args.plan(), &scenario::talk::run),
        Command::Replay(args) => replay(args),
        Command::Check(args) => check(args),
        Command::Compare(args) => compare::run(args),
        Command::Merge(args) => merge::run(args, std::env::args().collect()),
        Command::Completions { shell } => print(|out| {
            cli::complete(*shell, out);
            Ok(())
        }),
        Command::Man { command } => print(|out| cli::man(command.as_deref(), out)),
    };
    ExitCode::from(status)
}

/// A recording is read before there is a plan: it says for how many connections.
fn replay(args: &ReplayArgs) -> u8 {
    let (plan, recording) = match scenario::replay::plan(args) {
        Ok(planned) => planned,
        Err(sentence) => return fail_run(&args.run, Scenario::Replay, &sentence),
    };
    // It is taken once: a run is carried out once.
    let recording = Mutex::new(Some(recording));
    let offer = |plan: &Arc<Plan>, context: &mut Context<'_>| {
        let recording = recording.lock().ok().and_then(|mut it| it.take());
        let recording = recording.ok_or("the recording was offered already")?;
        scenario::replay::run(plan, recording, context)
    };
    measure(Scenario::Replay, &args.run, Ok(plan), &offer)
}

/// Prints what is made in memory, so that a reader who has seen enough is no failure.
fn print(make: impl FnOnce(&mut Vec<u8>) -> Result<(), String>) -> u8 {
    let mut page = Vec::new();
    let made = make(&mut page);
    let printed = made.and_then(|()| report::print(&page).map_err(|error| error.to_string()));
    match printed {
        Ok(()) => 0,
        Err(sentence) => fail(&sentence),
    }
}

fn fail(sentence: &str) -> u8 {
    // Standard error may be closed; the status says it as well.
    let _ = writeln!(io::stderr(), "loadgen: {sentence}");
    NOTHING_RAN
}

/// The same, for those who look into files.
fn fail_run(args: &RunArgs, scenario: Scenario, sentence: &str) -> u8 {
    let status = fail(sentence);
    match args.outputs.write_error(scenario, sentence) {
        Ok(()) => status,
        Err(error) => fail(&error.to_string()),
    }
}

/// Runs, reports, and judges.
fn measure(
    scenario: Scenario,
    args: &RunArgs,
    plan: Result<Plan, PlanError>,
    run: &Measures<'_>,
) -> u8 {
    let plan = match plan {
        Ok(plan) => plan.shared(),
        Err(error) => return fail_run(args, scenario, &error.to_string()),
    };
    if let Err(error) = args.outputs.check() {
        return fail(&error.to_string());
    }
    let mut refusals = args
        .fail_if
        .iter()
        .filter_map(|bound| bound.refuses(scenario, args.pid.is_some()));
    if let Some(sentence) = refusals.next() {
        return fail(&sentence);
    }
    let stopped = match stop_on_signals() {
        Ok(stopped) => stopped,
        Err(error) => return fail(&format!("cannot wait for signals: {error}")),
    };
    let mut live = Live::on_stderr(args.outputs.quiet, args.outputs.live);
    let mut show = |progress: &Progress| live.show(progress);
    let is_stopped = stopped.clone();
    let mut context = Context {
        stopped,
        progress: &mut show,
        command: std::env::args().collect(),
        note: None,
    };
    let result = run(&plan, &mut context);
    live.clear();
    let mut run = match result {
        Ok(run) => run,
        Err(sentence) => {
            let status = fail_run(args, scenario, &sentence);
            return match is_stopped.load(Ordering::Relaxed) {
                true => verdict::INTERRUPTED,
                false => status,
            };
        }
    };
    run.fail_if = args.fail_if.iter().map(|bound| bound.judge(&run)).collect();
    match args.outputs.write(&run) {
        Ok(()) => verdict::exit_status(&run),
        Err(error) => fail(&error.to_string()),
    }
}

/// The first signal ends the run, which is then reported; the second ends the program.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stopped = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let status = i32::from(verdict::INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, status, stopped.clone())?;
        signal_hook::flag::register(signal, stopped.clone())?;
    }
    Ok(stopped)
}

fn check(args: &loadgen::plan::CheckArgs) -> u8 {
    let found = match scenario::check::run(args, std::env::args().collect()) {
        Ok(found) => found,
        Err(sentence) => {
            let status = fail(&sentence);
            return match report::write_error(args.junit.as_deref(), "check", &sentence) {
                Ok(()) => status,
                Err(error) => fail(&error.to_string()),
            };
        }
    };
    let (json, junit) = (args.json.as_deref(), args.junit.as_deref());
    if let Err(error) = scenario::check::write(json, junit, &found) {
        return fail(&error.to_string());
    }
    u8::from(scenario::check::has_failed(&found))
}
