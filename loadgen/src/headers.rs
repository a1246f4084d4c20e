//! Headers of each connection, from a file: who somebody is, mostly.
//!
//! Knows: how lines become headers. Refuses to know: connections; and no value leaves this module
//! but into a request, since it may be a secret.
//!
//! ```text
//!   Authorization: Bearer aaa        <- a connection
//!   Authorization: Bearer bbb<TAB>Cookie: session=1
//! ```

use std::path::Path;

use ringwire::{client::ClientRequest, proto::handshake::FieldError};

use crate::plan::PlanError;

/// The most lines that are read.
const LINES_MAX: usize = 1_000_000;

/// The headers of one connection.
#[derive(Clone)]
pub struct Line {
    number: usize,
    headers: Vec<(String, String)>,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Line")
            .field("names", &names)
            .finish_non_exhaustive()
    }
}

/// Reads a file: a line for each connection, headers in it apart by tabs. Empty lines and those
/// that begin with `#` are passed over.
///
/// # Errors
///
/// A sentence with the file and the line, without the value.
pub fn read(path: &Path) -> Result<Vec<Line>, PlanError> {
    let file = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| PlanError(format!("--headers-from {file} cannot be read: {error}")))?;
    let lines = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#')
    });
    let mut read = Vec::new();
    for (index, line) in lines {
        let number = index + 1;
        let headers = line.split('\t').filter(|header| !header.trim().is_empty());
        let headers = headers
            .map(|header| {
                let (name, value) = header.split_once(':')?;
                Some((name.trim().to_owned(), value.trim().to_owned()))
            })
            .collect::<Option<Vec<_>>>();
        let headers = headers.ok_or_else(|| {
            PlanError(format!(
                "--headers-from {file}:{number}: a header has no colon; write 'Name: value', and a \
                 tab between several"
            ))
        })?;
        read.push(Line { number, headers });
    }
    match read.len() {
        0 => Err(PlanError(format!("--headers-from {file} holds no header"))),
        count if count > LINES_MAX => Err(PlanError(format!(
            "--headers-from {file} holds {count} lines, and {LINES_MAX} can be read"
        ))),
        _ => Ok(read),
    }
}

impl Line {
    /// Adds the headers to a request.
    ///
    /// # Errors
    ///
    /// A sentence with the file, the line and the header's name.
    pub fn add_to(&self, request: &mut ClientRequest, path: &Path) -> Result<(), PlanError> {
        for (name, value) in &self.headers {
            let added = match name.to_ascii_lowercase().as_str() {
                "host" => request.set_host(value),
                "origin" => request.set_origin(value),
                "sec-websocket-protocol" => value
                    .split(',')
                    .try_for_each(|offered| request.offer_subprotocol(offered.trim())),
                _ => request.add_header(name, value),
            };
            added.map_err(|error| {
                let (file, number) = (path.display(), self.number);
                // What is no name may be a secret in a name's place.
                let is_name = error != FieldError::HeaderNameInvalid;
                let name = if is_name { name.as_str() } else { "a header" };
                PlanError(format!(
                    "--headers-from {file}:{number}: {name} cannot be sent: {error}"
                ))
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Line>, PlanError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, text).unwrap();
        read(file.path())
    }

    #[test]
    fn a_line_is_a_connection() {
        let lines = read_text("# whom\nA: 1\tCookie: a=b; c\n\nB:2\r\n").unwrap();
        let numbers: Vec<(usize, usize)> = lines
            .iter()
            .map(|line| (line.number, line.headers.len()))
            .collect();
        assert_eq!(numbers, [(2, 2), (4, 1)]);
        assert_eq!(lines[1].headers[0], ("B".to_owned(), "2".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        let said = read_text("A: 1\nBearer s3cret\n").unwrap_err().0;
        assert!(said.contains(":2: a header has no colon"), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
        assert!(
            read_text("# nothing\n")
                .unwrap_err()
                .0
                .contains("holds no header")
        );
        let lines = read_text("Upgrade: s3cret\n").unwrap();
        let url = ringwire::client::WsUrl::parse("ws://a/").unwrap();
        let mut request = ClientRequest::new(url);
        let said = lines[0]
            .add_to(&mut request, Path::new("it"))
            .unwrap_err()
            .0;
        assert!(
            said.starts_with("--headers-from it:1: Upgrade cannot be sent"),
            "{said}"
        );
        assert!(!said.contains("s3cret"), "{said}");
        assert!(!format!("{lines:?}").contains("s3cret"));
    }
}
