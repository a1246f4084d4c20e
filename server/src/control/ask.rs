//! `ringwire reload`: asks a running server to read its settings again.
//!
//! Knows: what the admin side's answer means for the status of the end. Refuses to know: what a
//! reload does, and how somebody is asked.

use std::{io, process::ExitCode, time::Duration};

use clap::ArgMatches;
use hyper::{Method, StatusCode};

use super::client::Client;
use crate::{
    serve::WRONG_USAGE,
    settings::{self, Settings},
};

/// How long a server has to answer: it reads files.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks, prints what came of it, and says so in its status: 0 for what was applied, 1 for what was
/// not, 2 when there is nobody to ask.
///
/// # Errors
///
/// When nothing can be printed.
pub fn reload(matches: &ArgMatches, out: &mut impl io::Write) -> io::Result<ExitCode> {
    let settings = match settings::load_unchecked(matches) {
        Ok(settings) => settings,
        Err(findings) => {
            for finding in findings {
                writeln!(out, "ringwire: {finding}")?;
            }
            // The server would say the same of them.
            return Ok(ExitCode::FAILURE);
        }
    };
    match ask(&settings) {
        Ok((status, words)) => {
            write!(out, "{words}")?;
            Ok(match status {
                StatusCode::OK => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            })
        }
        Err(sentence) => {
            writeln!(out, "ringwire: {sentence}")?;
            Ok(ExitCode::from(WRONG_USAGE))
        }
    }
}

/// # Errors
///
/// A sentence about why nobody has answered.
fn ask(settings: &Settings) -> Result<(StatusCode, String), String> {
    let mut client = Client::new(settings)?;
    let asked = client.ask(&Method::POST, "/reload", PATIENCE);
    let (status, words) = asked.map_err(|error| {
        let address = client.address();
        format!("the admin side at {address} cannot be asked: {error}; does the server run?")
    })?;
    match status {
        StatusCode::UNAUTHORIZED => Err(format!(
            "the server knows none of these tokens any more: send it SIGHUP; it says: {words}"
        )),
        _ => Ok((status, words)),
    }
}
