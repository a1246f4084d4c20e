//! The command line: one file for each subcommand.
//!
//! Knows: arguments, and what is printed. Refuses to know: everything that the library does not
//! show to others.

pub mod doctor;
mod engine;
mod log;
pub mod serve;
#[cfg(feature = "tls")]
mod tls;

use clap::{Parser, Subcommand};

/// A WebSocket server on io_uring. Without a subcommand it serves with the defaults.
#[derive(Debug, Parser)]
#[command(name = "ringwire", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: serve::Args,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve an echo at `/`, and a page that talks to it
    Serve(Box<serve::Args>),
    /// Look at this host: can it run ringwire, and what would make it better
    Doctor(doctor::Args),
}
