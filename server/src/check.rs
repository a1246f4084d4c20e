//! `ringwire check` and `ringwire config`: settings are looked at, and nothing is served.
//!
//! Knows: what is printed, and the status of the end. Refuses to know: what makes a setting right.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    process::ExitCode,
};

use clap::ArgMatches;

use crate::{
    router::Routes,
    sandbox::Identity,
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
    add(&mut findings, &settings, settings::check(&settings));
    let of_files = of_certificates(&settings)
        .into_iter()
        .chain(of_user(&settings));
    add(&mut findings, &settings, of_files);
    let of_routes = Routes::new(&settings).err().unwrap_or_default();
    add(&mut findings, &settings, of_routes);
    add(&mut findings, &settings, of_secrets(&settings));
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

/// Adds what was found later, but for what only follows from what is wrong already.
fn add(findings: &mut Vec<Finding>, settings: &Settings, later: impl IntoIterator<Item = Finding>) {
    let errors: Vec<_> = findings
        .iter()
        .filter(|it| it.is_error())
        .cloned()
        .collect();
    let is_new = |it: &Finding| !errors.iter().any(|error| follows(settings, error, it));
    findings.extend(later.into_iter().filter(is_new));
}

/// Whether one finding may be there for another one alone: it is of the same place or route, or
/// speaks of the same setting.
fn follows(settings: &Settings, error: &Finding, later: &Finding) -> bool {
    let route_of = |finding: &Finding| {
        let line = finding.place.line();
        settings.routes.iter().rposition(|it| it.line() <= line)
    };
    let route = route_of(later);
    error.place == later.place
        || route.is_some() && route == route_of(error)
        || settings::named_in(&error.sentence)
            .iter()
            .any(|key| settings::named_in(&later.sentence).contains(key))
}

/// What is wrong about certificates and their keys.
#[cfg(feature = "tls")]
fn of_certificates(settings: &Settings) -> Option<Finding> {
    let tls = &settings.tls;
    // What is missing was said.
    let is_whole = !tls.cert.is_empty() && tls.cert.len() == tls.key.len();
    if tls.listen.is_empty() || !is_whole || tls.client_auth != "off" && tls.client_ca.is_empty() {
        return None;
    }
    crate::tls::load(settings).err()
}

/// Without TLS there are none.
#[cfg(not(feature = "tls"))]
fn of_certificates(_: &Settings) -> Option<Finding> {
    None
}

/// A user that this host does not have.
fn of_user(settings: &Settings) -> Option<Finding> {
    let user = Some(&settings.user).filter(|user| !user.is_empty())?;
    let why = Identity::find(user).err()?;
    let sentence = format!("{} is '{user}', but {why}", settings.name("user"));
    Some(Finding::error(settings.place("user"), sentence))
}

/// Files of secrets that are not kept as such.
fn of_secrets(settings: &Settings) -> Vec<Finding> {
    let mut files = Vec::new();
    #[cfg(feature = "tls")]
    if !settings.tls.listen.is_empty() {
        let (name, place) = (settings.name("tls_key"), settings.place("tls_key"));
        let keys = settings.tls.key.iter();
        files.extend(keys.map(|path| (name.clone(), path, place.clone())));
    }
    for route in &settings.routes {
        let has_secret = route.jwt_algorithms.iter().any(|name| name == "HS256");
        for (key, path, is_secret) in [
            ("auth_tokens_file", &route.auth_tokens_file, true),
            ("jwt_keys_file", &route.jwt_keys_file, has_secret),
        ] {
            if is_secret && !path.is_empty() {
                files.push((key.to_owned(), path, route.place(key)));
            }
        }
    }
    let open = files.into_iter().filter_map(|(name, path, place)| {
        let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then(|| {
            let sentence = format!(
                "{name} is '{path}', which others than its owner can reach (mode {mode:o}): chmod \
                 600 keeps it secret"
            );
            Finding::warning(place, sentence)
        })
    });
    open.collect()
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
