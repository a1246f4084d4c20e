//! What shells complete, and the pages of the manual.
//!
//! Knows: how a command line becomes either. Refuses to know: what the commands do.

use std::io;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::plan::Cli;

/// Writes what this shell completes.
pub fn complete(shell: Shell, out: &mut impl io::Write) {
    clap_complete::generate(shell, &mut Cli::command(), "loadgen", out);
}

/// Writes a page of the manual (`man(1)`): of a command, or of loadgen itself.
///
/// # Errors
///
/// A sentence, when there is no such command or nothing can be written.
pub fn man(of: Option<&str>, out: &mut impl io::Write) -> Result<(), String> {
    let whole = Cli::command();
    let page = match of {
        None => whole,
        Some(name) => {
            let found = whole.find_subcommand(name).cloned();
            let found = found.ok_or_else(|| {
                format!("'{name}' is no command of loadgen: 'loadgen --help' has them")
            })?;
            found
                .name(format!("loadgen-{name}"))
                .version(env!("CARGO_PKG_VERSION"))
        }
    };
    clap_mangen::Man::new(page)
        .render(out)
        .map_err(|error| format!("cannot write the page: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shells_and_the_manual_have_every_command() {
        let names: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect();
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::Zsh] {
            let mut script = Vec::new();
            complete(shell, &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in names
                .iter()
                .map(String::as_str)
                .chain(["start-at", "headers-from"])
            {
                assert!(script.contains(word), "{shell} has no {word}");
            }
        }
        for name in names {
            let mut page = Vec::new();
            man(Some(&name), &mut page).unwrap();
            let page = String::from_utf8(page).unwrap();
            assert!(page.contains(&format!("loadgen\\-{name}")), "{page}");
        }
        let mut page = Vec::new();
        man(None, &mut page).unwrap();
        assert!(String::from_utf8(page).unwrap().contains("saturate"));
        let said = man(Some("eecho"), &mut Vec::new()).unwrap_err();
        assert!(said.contains("'eecho' is no command"), "{said}");
    }
}
