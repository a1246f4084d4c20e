//! The command line: what a person can ask for.
//!
//! Knows: the subcommands. Refuses to know: what they do.

use clap::{Arg, Args as _, Command};

use crate::{doctor, settings};

/// The command, with everything that it understands.
pub fn command() -> Command {
    let serve = Command::new("serve")
        .about("Serve an echo at `/`, and a page that talks to it")
        .args(settings::arguments());
    let check = Command::new("check")
        .about("Look at a file of settings, and at the files that it names: all that is wrong")
        .arg(Arg::new("file").value_name("FILE").required(true));
    let config = Command::new("config")
        .about("Say what can be set")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("reference").about("Every setting, as a page in Markdown"))
        .subcommand(Command::new("schema").about("The same for editors, as a JSON Schema"));
    let reload = Command::new("reload")
        .about("Ask a running server, at its admin side, to read its settings again")
        .after_help(
            "Name the settings that the server was started with, or its admin side: --config FILE \
             or --admin-listen ADDRESS. Ends with 0 when they are in force, with 1 when something \
             is wrong with them and all stays as it was, with 2 when nobody could be asked",
        )
        .args(settings::arguments());
    let doctor = doctor::Args::augment_args(
        Command::new("doctor")
            .about("Look at this host: can it run ringwire, and what would make it better"),
    );
    Command::new("ringwire")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "A WebSocket server on io_uring, or on epoll. Without a subcommand it serves with the \
             defaults",
        )
        .args_conflicts_with_subcommands(true)
        .args(settings::arguments())
        .subcommands([serve, check, config, reload, doctor])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_is_sound() {
        super::command().debug_assert();
    }
}
