//! The `ringwire` command: arguments in, a server or a report out.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match cli.command {
        Some(cli::Command::Doctor(args)) => {
            cli::doctor::run(&args, &mut std::io::stdout().lock()).unwrap_or(ExitCode::FAILURE)
        }
        Some(cli::Command::Serve(args)) => cli::serve::run(&args),
        None => cli::serve::run(&cli.serve),
    }
}
