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
//!      +-------> junit, summary          for CI
//! ```

pub mod hgrm;
pub mod hlog;
pub mod html;
pub mod json;
pub mod junit;
pub mod progress;
pub mod sheet;
pub mod summary;
pub mod svg;
pub mod table;
pub mod units;

use std::{
    error::Error,
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::result::{Run, Scenario};

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
    /// Write the verdict and each --fail-if as test cases in JUnit's XML
    #[arg(long, value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Append what matters as Markdown to the file that GITHUB_STEP_SUMMARY names, as GitHub does
    #[arg(long)]
    pub github_summary: bool,
    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
    /// Show progress as a board with the last half minute, where standard error is a terminal
    #[arg(long, conflicts_with = "quiet")]
    pub live: bool,
}

impl Outputs {
    /// Refuses what could only fail after the run: a folder that is not there, one file for two
    /// formats.
    ///
    /// # Errors
    ///
    /// A sentence for the person who typed it.
    pub fn check(&self) -> Result<(), OutputError> {
        if self.github_summary && summary_path().is_none() {
            return Err(OutputError {
                path: PathBuf::from("the summary of --github-summary"),
                what: format!(
                    "the variable {} names no file; GitHub sets it in each step of a job",
                    summary::VARIABLE
                ),
            });
        }
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
        let mut failures: Vec<OutputError> = self
            .formats()
            .filter_map(|(path, write)| write(run, path).err())
            .collect();
        if self.github_summary {
            failures.extend(append_summary(run).err());
        }
        printed
            .err()
            .into_iter()
            .chain(failures)
            .next()
            .map_or(Ok(()), Err)
    }

    /// Writes that nothing was measured, for those who look into files and not at the exit status.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_error(&self, scenario: Scenario, sentence: &str) -> Result<(), OutputError> {
        let what = sheet::scenario_name(scenario);
        write_error(self.junit.as_deref(), what, sentence)
    }

    fn formats(&self) -> impl Iterator<Item = (&PathBuf, Writer)> {
        let formats: [(&Option<PathBuf>, Writer); 6] = [
            (&self.json, json::write),
            (&self.hgrm, hgrm::write),
            (&self.hlog, hlog::write),
            (&self.html, html::write),
            (&self.svg, svg::write),
            (&self.junit, junit::write),
        ];
        formats
            .into_iter()
            .filter_map(|(path, write)| Some((path.as_ref()?, write)))
    }
}

/// Writes to a file of JUnit's XML, if there is one, that nothing came of something, and why.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_error(junit: Option<&Path>, what: &str, sentence: &str) -> Result<(), OutputError> {
    junit.map_or(Ok(()), |path| {
        write_file(path, junit::render_error(what, sentence).as_bytes())
    })
}

fn summary_path() -> Option<PathBuf> {
    let path = std::env::var_os(summary::VARIABLE)?;
    (!path.is_empty()).then(|| path.into())
}

/// Behind what other steps have written.
fn append_summary(run: &Run) -> Result<(), OutputError> {
    let path = summary_path().unwrap_or_default();
    let mut options = fs::OpenOptions::new();
    let file = options.append(true).create(true).open(&path);
    file.and_then(|mut file| file.write_all(summary::render(run).as_bytes()))
        .map_err(|error| OutputError {
            path,
            what: error.to_string(),
        })
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
