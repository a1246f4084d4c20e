//! The `ringwire` command: arguments in, a server or a report out.

#![forbid(unsafe_code)]

use std::{io, process::ExitCode};

use clap::FromArgMatches as _;

mod access;
mod check;
mod cli;
mod control;
mod doctor;
mod engine;
mod log;
mod recording;
mod reload;
mod router;
mod sandbox;
mod serve;
mod settings;
#[cfg(feature = "tls")]
mod tls;
mod tokens;
#[cfg(feature = "top")]
mod top;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = cli::command().get_matches();
    let mut out = io::stdout().lock();
    match matches.subcommand() {
        Some(("doctor", matches)) => match doctor::Args::from_arg_matches(matches) {
            Ok(args) => doctor::run(&args, &mut out).unwrap_or(ExitCode::FAILURE),
            Err(error) => error.exit(),
        },
        Some(("check", matches)) => check::run(matches, &mut out).unwrap_or(ExitCode::FAILURE),
        Some(("completions", matches)) => {
            if let Some(shell) = matches.get_one("shell").copied() {
                cli::complete(shell, &mut out);
            }
            ExitCode::SUCCESS
        }
        Some(("man", matches)) => {
            let of = matches.get_one::<String>("command").map(String::as_str);
            match cli::man(of, &mut out) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("ringwire: {error}");
                    ExitCode::from(serve::WRONG_USAGE)
                }
            }
        }
        Some(("reload", matches)) => {
            control::ask::reload(matches, &mut out).unwrap_or(ExitCode::FAILURE)
        }
        #[cfg(feature = "top")]
        Some(("top", matches)) => {
            drop(out);
            top::run(matches, &mut io::stderr()).unwrap_or(ExitCode::FAILURE)
        }
        Some(("config", matches)) => check::explain(matches, &mut out).unwrap_or(ExitCode::FAILURE),
        Some((_, matches)) => {
            drop(out);
            serve::run(matches)
        }
        None => {
            drop(out);
            serve::run(&matches)
        }
    }
}
