//! The command line: what a person can ask for.
//!
//! Knows: the subcommands, and how shells and the manual have them. Refuses to know: what they do.

use std::io;

use clap::{Arg, Args as _, Command, value_parser};
use clap_complete::Shell;

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
    #[cfg(feature = "top")]
    let top = Command::new("top")
        .about("Show a running server in this terminal: rates, turns, memory, connections")
        .arg(Arg::new("url").value_name("URL").help(
            "Its admin side: http://127.0.0.1:9002, or unix:/run/ringwire/admin.sock; without \
             one, as the settings have it (--config FILE)",
        ))
        .args(settings::arguments());
    let completions = Command::new("completions")
        .about(
            "Print what a shell completes: 'ringwire completions bash > \
                /usr/share/bash-completion/completions/ringwire'",
        )
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .value_parser(value_parser!(Shell))
                .required(true),
        );
    let man = Command::new("man")
        .about("Print a page of the manual: 'ringwire man serve > ringwire-serve.1'")
        .arg(
            Arg::new("command")
                .value_name("COMMAND")
                .help("Of this subcommand; without one, of the command itself"),
        );
    let doctor = doctor::Args::augment_args(
        Command::new("doctor")
            .about("Look at this host: can it run ringwire, and what would make it better"),
    );
    let command = Command::new("ringwire")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "A WebSocket server on io_uring, or on epoll. Without a subcommand it serves with the \
             defaults",
        )
        .args_conflicts_with_subcommands(true)
        .args(settings::arguments())
        .subcommands([serve, check, config, reload, doctor, completions, man]);
    #[cfg(feature = "top")]
    let command = command.subcommand(top);
    command
}

/// Writes what this shell completes.
pub fn complete(shell: Shell, out: &mut impl io::Write) {
    clap_complete::generate(shell, &mut command(), "ringwire", out);
}

/// Writes a page of the manual (`man(1)`): of a subcommand, or of the command itself.
///
/// # Errors
///
/// When there is no such subcommand, or nothing can be written.
pub fn man(of: Option<&str>, out: &mut impl io::Write) -> io::Result<()> {
    let command = command();
    let page = match of {
        None => command,
        Some(name) => {
            let found = command.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("'{name}' is no command of ringwire: 'ringwire --help' has them"),
                )
            })?;
            found.name(format!("ringwire-{name}"))
        }
    };
    clap_mangen::Man::new(page).render(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_sound() {
        super::command().debug_assert();
    }

    #[test]
    fn shells_and_the_manual_have_every_command() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::Zsh] {
            let mut script = Vec::new();
            complete(shell, &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["reload", "admin-listen", "drain-spread-ms"] {
                assert!(script.contains(word), "{shell} has no {word}");
            }
        }
        let mut page = Vec::new();
        man(None, &mut page).unwrap();
        assert!(String::from_utf8(page).unwrap().contains("completions"));
        let mut page = Vec::new();
        man(Some("serve"), &mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        assert!(
            page.contains("ringwire\\-serve") && page.contains("access\\-log"),
            "{page}"
        );
        assert!(man(Some("server"), &mut Vec::new()).is_err());
    }
}
