//! A run as JUnit's XML, which nearly every CI shows beside the results of tests.
//!
//! Knows: suites, cases, failures, errors. Refuses to know: what a figure means.
//!
//! The verdict is a case, and so is each bound of `--fail-if`. What was not measured at all is an
//! error and no failure, as it says nothing about the server.

use std::path::Path;

use super::{
    OutputError,
    sheet::{Sheet, scenario_name, utc},
    svg::escape,
};
use crate::result::{Check, CheckOutcome, Run, VerdictKind};

/// One case: its name, and why it did not pass.
struct Case {
    name: String,
    failure: Option<String>,
}

/// Writes a run.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(run: &Run, path: &Path) -> Result<(), OutputError> {
    super::write_file(path, render(run).as_bytes())
}

/// A run.
#[must_use]
pub fn render(run: &Run) -> String {
    let (word, reasons) = Sheet::new(run).verdict;
    let passed = run.verdict.kind == VerdictKind::Sound
        || (run.verdict.kind == VerdictKind::ClientBound && run.verdict.client_bound_allowed);
    let verdict = Case {
        name: "verdict".to_owned(),
        failure: (!passed).then(|| format!("{word}: {}", reasons.join("\n"))),
    };
    let bounds = run.fail_if.iter().map(|bound| Case {
        name: format!("fail-if {}", bound.bound),
        failure: bound.failed.then(|| bound.sentence.clone()),
    });
    let cases: Vec<Case> = std::iter::once(verdict).chain(bounds).collect();
    let moment = utc(run.times.started_unix_ms);
    suite(
        &format!("loadgen.{}", scenario_name(run.scenario)),
        &run.target.url,
        &cases,
        run.times.measured_ms / 1e3,
        // As ISO 8601 has it.
        Some(&moment.replace(" UTC", "Z").replacen(' ', "T", 1)),
    )
}

/// Writes what `check` found.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_check(check: &Check, path: &Path) -> Result<(), OutputError> {
    super::write_file(path, render_check(check).as_bytes())
}

/// What `check` found: a case for each probe.
#[must_use]
pub fn render_check(check: &Check) -> String {
    let probes = check.probes.iter().map(|probe| Case {
        name: format!("{}: {}", probe.group, probe.expectation),
        failure: (probe.outcome == CheckOutcome::Fail)
            .then(|| format!("{} [{}]", probe.seen, probe.source)),
    });
    let cases: Vec<Case> = probes.collect();
    suite("loadgen.check", &check.target.url, &cases, 0.0, None)
}

/// A run or a check that did not take place, and why.
#[must_use]
pub fn render_error(what: &str, sentence: &str) -> String {
    let name = format!("loadgen.{what}");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites>\n<testsuite name=\"{name}\" tests=\"1\" failures=\"0\" errors=\"1\" \
         time=\"0.000\">\n<testcase classname=\"{name}\" name=\"verdict\">\n\
         <error message=\"{}\"/>\n</testcase>\n</testsuite>\n</testsuites>\n",
        escape(sentence)
    )
}

fn suite(name: &str, url: &str, cases: &[Case], seconds: f64, moment: Option<&str>) -> String {
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let timestamp = moment.map_or_else(String::new, |moment| format!(" timestamp=\"{moment}\""));
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites>\n<testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" \
         errors=\"0\" time=\"{seconds:.3}\"{timestamp}>\n\
         <properties>\n<property name=\"url\" value=\"{}\"/>\n</properties>\n",
        cases.len(),
        escape(url),
    );
    for case in cases {
        let open = format!(
            "<testcase classname=\"{name}\" name=\"{}\"",
            escape(&case.name)
        );
        xml.push_str(&match &case.failure {
            None => format!("{open}/>\n"),
            Some(why) => {
                let first = why.lines().next().unwrap_or_default();
                format!(
                    "{open}>\n<failure message=\"{}\">{}</failure>\n</testcase>\n",
                    escape(first),
                    escape(why)
                )
            }
        });
    }
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}
