//! `ringwire check` and `ringwire config`: settings are looked at, and nothing is served.
//!
//! Knows: what is printed, and the status of the end. Refuses to know: what makes a setting right.

#[cfg(feature = "tls")]
use std::{fs, os::unix::fs::PermissionsExt};
use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::ArgMatches;

use crate::{
    serve::WRONG_USAGE,
    settings::{self, Finding, Settings},
};

/// Looks at a file, and at the files that it names.
///
/// # Errors
///
/// When nothing can be printed.
pub fn run(matches: &ArgMatches, out: &mut impl Write) -> io::Result<ExitCode> {
    let path: &String = matches.get_one("file").ok_or(io::ErrorKind::InvalidInput)?;
    let (mut settings, mut findings) = (Settings::default(), Vec::new());
    settings::load_file(path, &mut settings, &mut findings);
    if findings.is_empty() {
        findings.extend(settings::check(&settings));
    }
    if !findings.iter().any(Finding::is_error) {
        findings.extend(of_files(&settings));
    }
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    let warnings = findings.len() - errors;
    let plural = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    match (errors, warnings) {
        (0, 0) => writeln!(out, "{path} is right")?,
        (0, _) => writeln!(out, "{path} can be served: {}", plural(warnings, "warning"))?,
        _ => {
            let (errors, warnings) = (plural(errors, "error"), plural(warnings, "warning"));
            writeln!(out, "{path} cannot be served: {errors}, {warnings}")?;
        }
    }
    Ok(match errors {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(WRONG_USAGE),
    })
}

/// What is wrong or unwise about the files that settings name.
#[cfg(feature = "tls")]
fn of_files(settings: &Settings) -> Vec<Finding> {
    if settings.tls.listen.is_empty() {
        return Vec::new();
    }
    let (name, place) = (settings.name("tls_key"), settings.place("tls_key"));
    let failed = crate::tls::load(&settings.tls).err();
    let failed = failed.map(|error| Finding::error(settings.place("tls_cert"), error));
    let open = settings.tls.key.iter().filter_map(|path| {
        let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then(|| {
            let sentence = format!(
                "{name} is '{path}', which others than its owner can reach (mode {mode:o}): chmod \
                 600 keeps a key secret"
            );
            Finding::warning(place.clone(), sentence)
        })
    });
    failed.into_iter().chain(open).collect()
}

/// Without TLS they name none.
#[cfg(not(feature = "tls"))]
fn of_files(_: &Settings) -> Vec<Finding> {
    Vec::new()
}

/// Prints what can be set.
///
/// # Errors
///
/// When nothing can be printed.
pub fn explain(matches: &ArgMatches, out: &mut impl Write) -> io::Result<ExitCode> {
    match matches.subcommand_name() {
        Some("schema") => writeln!(out, "{:#}", settings::schema())?,
        _ => write!(out, "{}", settings::reference())?,
    }
    Ok(ExitCode::SUCCESS)
}
