//! What a run looks like, to people and to programs.
//!
//! Knows: a finished [`Run`] and the snapshots of one that runs. Refuses to know: how a run is
//! made.
//!
//! ```text
//!   Progress --> progress::Live          one line on standard error
//!   Run -------> sheet::Sheet --> table  standard output
//!      |                     \--> html   a page, with the charts of svg
//!      +-------> json, hgrm, hlog        for programs
//! ```

pub mod hgrm;
pub mod hlog;
pub mod html;
pub mod json;
pub mod progress;
pub mod sheet;
pub mod svg;
pub mod table;
pub mod units;

use std::{
    error::Error,
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::result::Run;

/// The options that say where a run's report goes.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Report")]
pub struct Outputs {
    /// Write everything that was measured as JSON, for `compare` and for programs; - is standard
    /// output, here and below, and the table goes to standard error then
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the percentile distribution in HdrHistogram's text format
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<PathBuf>,
    /// Write an HdrHistogram interval log, one histogram a slice
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Write one self-contained page with charts
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the chart of latency by percentile alone
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}

impl Outputs {
    /// Refuses what could only fail after the run: a folder that is not there, one file for two
    /// formats.
    ///
    /// # Errors
    ///
    /// A sentence for the person who typed it.
    pub fn check(&self) -> Result<(), OutputError> {
        let named: Vec<&PathBuf> = self.formats().map(|(path, _)| path).collect();
        for (index, path) in named.iter().enumerate() {
            let refuse = |what: &str| OutputError {
                path: (*path).clone(),
                what: what.to_owned(),
            };
            if path.is_dir() {
                return Err(refuse("it is a folder, and a file is needed"));
            }
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            if folder.is_some_and(|folder| !folder.is_dir()) {
                return Err(refuse("its folder does not exist"));
            }
            if named[..index].contains(path) {
                return Err(refuse("it is named for two formats"));
            }
        }
        Ok(())
    }

    /// Prints the table on standard output and writes the files that were asked for. Where one of
    /// them is standard output, the table goes to standard error.
    ///
    /// # Errors
    ///
    /// The first that cannot be written; the others are written all the same.
    pub fn write(&self, run: &Run) -> Result<(), OutputError> {
        let table = table::render(run);
        let is_taken = self.formats().any(|(path, _)| is_standard_output(path));
        let printed = print_beside(is_taken, table.as_bytes());
        let failures: Vec<OutputError> = self
            .formats()
            .filter_map(|(path, write)| write(run, path).err())
            .collect();
        printed
            .err()
            .into_iter()
            .chain(failures)
            .next()
            .map_or(Ok(()), Err)
    }

    fn formats(&self) -> impl Iterator<Item = (&PathBuf, Writer)> {
        let formats: [(&Option<PathBuf>, Writer); 5] = [
            (&self.json, json::write),
            (&self.hgrm, hgrm::write),
            (&self.hlog, hlog::write),
            (&self.html, html::write),
            (&self.svg, svg::write),
        ];
        formats
            .into_iter()
            .filter_map(|(path, write)| Some((path.as_ref()?, write)))
    }
}

type Writer = fn(&Run, &Path) -> Result<(), OutputError>;

/// A file that could not be written.
#[derive(Clone, Debug)]
pub struct OutputError {
    /// Which.
    pub path: PathBuf,
    /// Why.
    pub what: String,
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_standard_output(&self.path) {
            return write!(f, "cannot write to standard output: {}", self.what);
        }
        write!(f, "cannot write {}: {}", self.path.display(), self.what)
    }
}

impl Error for OutputError {}

/// Whether a file's name stands for standard output.
#[must_use]
pub fn is_standard_output(path: &Path) -> bool {
    path == Path::new("-")
}

/// Writes to standard output. A reader that has seen enough (`| head`) is no failure.
///
/// # Errors
///
/// When what was written did not get there: a full disk, say.
pub fn print(content: &[u8]) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    match out.write_all(content).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(OutputError {
            path: PathBuf::from("-"),
            what: error.to_string(),
        }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes for people: to standard output, or to standard error where that is taken by a file.
///
/// # Errors
///
/// As [`print()`].
pub fn print_beside(is_taken: bool, content: &[u8]) -> Result<(), OutputError> {
    if !is_taken {
        return print(content);
    }
    // Whoever closed it does not want to read it.
    let _ = io::stderr().write_all(content);
    Ok(())
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), OutputError> {
    if is_standard_output(path) {
        return print(content);
    }
    fs::write(path, content).map_err(|error| OutputError {
        path: path.to_owned(),
        what: error.to_string(),
    })
}
