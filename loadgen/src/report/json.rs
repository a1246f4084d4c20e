//! Runs as JSON, to a file and back. `schema.json` beside the sources describes it field by field.
//!
//! Knows: files and the schema's version. Refuses to know: what the fields mean.

use std::{fs, path::Path};

use serde::Serialize;

use super::OutputError;
use crate::result::{Run, SCHEMA, SCHEMA_BEFORE};

/// Writes a run.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(run: &Run, path: &Path) -> Result<(), OutputError> {
    write_any(run, path)
}

/// Writes anything that the schema describes.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_any(value: &impl Serialize, path: &Path) -> Result<(), OutputError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| OutputError {
        path: path.to_owned(),
        what: format!("it cannot be put into JSON: {error}"),
    })?;
    text.push('\n');
    super::write_file(path, text.as_bytes())
}

/// Reads a run back.
///
/// # Errors
///
/// A sentence that names the file, when it cannot be read, is no run, or is of another version.
pub fn read(path: &Path) -> Result<Run, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    // The version first: a file of another one has other fields, and the words of the parser about
    // them would hide that.
    let whole: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("{shown} is not JSON: {error}"))?;
    match whole.get("schema").and_then(serde_json::Value::as_str) {
        Some(SCHEMA | SCHEMA_BEFORE) => {}
        Some(other) => {
            return Err(format!(
                "{shown} has the schema '{other}', and this loadgen reads '{SCHEMA}'"
            ));
        }
        None => return Err(format!("{shown} was not written by loadgen --json")),
    }
    serde_json::from_str(&text).map_err(|error| format!("{shown} is not a whole run: {error}"))
}
