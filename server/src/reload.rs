//! Settings and certificates are read again, and nobody is dropped for it: at SIGHUP, and when the
//! admin side asks for it.
//!
//! Knows: the order in which things are looked at, so that whatever is wrong leaves everything as
//! it is. Refuses to know: how a change is carried out.
//!
//! ```text
//!   settings, routes --> wrong? all stays --> certificates --> wrong? all stays --> carried out
//! ```

use std::{
    fmt::Display,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use clap::ArgMatches;
#[cfg(feature = "tls")]
use ringwire::tls::ServerTls;

use crate::{
    control::{Operations, SetLevel},
    log,
    router::{Router, Routes},
    sandbox::Sandbox,
    settings::{self, Settings},
    tokens::Tokens,
};

/// Everything that is read again.
pub struct Reloading {
    /// What the command line says, which does not change.
    pub matches: ArgMatches,
    /// The server, with the settings that are in force.
    pub operations: Arc<Operations>,
    /// The server's routes.
    pub router: Router,
    /// The log.
    pub set_level: Arc<SetLevel>,
    /// What can be read.
    pub sandbox: Arc<Sandbox>,
    /// The server's certificates.
    #[cfg(feature = "tls")]
    pub tls: Option<ServerTls>,
}

/// What came of it, in sentences: what changed, or what is wrong.
pub type Outcome = Result<Vec<String>, Vec<String>>;

/// What the kernel says of a file that may not be read, in the words that errors have for it.
const FORBIDDEN: &str = "Permission denied";

/// What is said of it, to the log and to whoever has asked.
struct Report {
    by: &'static str,
    lines: Vec<String>,
    sandbox: Arc<Sandbox>,
}

impl Report {
    fn info(&mut self, line: impl Display) {
        tracing::info!("{}: {line}", self.by);
        self.lines.push(line.to_string());
    }

    fn warn(&mut self, line: impl Display) {
        tracing::warn!("{}: {line}", self.by);
        self.lines.push(line.to_string());
    }

    fn error(&mut self, line: impl Display) {
        tracing::error!("{}: {line}", self.by);
        self.lines.push(line.to_string());
    }

    /// It is wrong, and this is what follows from that.
    fn refused(mut self, line: impl Display) -> Outcome {
        self.error(line);
        let is_forbidden = |line: &String| line.contains(FORBIDDEN);
        if self.lines.iter().any(is_forbidden)
            && let Some(sentence) = self.sandbox.said()
        {
            self.error(sentence);
        }
        Err(self.lines)
    }
}

impl Reloading {
    /// Reads everything again and says what came of it.
    fn reload(&mut self, by: &'static str) -> Outcome {
        let mut report = Report {
            by,
            lines: Vec::new(),
            sandbox: self.sandbox.clone(),
        };
        // Tokens and keys are read again although no setting is another one.
        let loaded = settings::load(&self.matches).and_then(|(settings, warnings)| {
            let routes = Routes::new(&settings)?;
            Ok((settings, warnings, routes))
        });
        let (settings, warnings, routes) = match loaded {
            Ok(loaded) => loaded,
            Err(findings) => {
                for finding in findings {
                    report.error(finding);
                }
                return report.refused("the settings stay as they were");
            }
        };
        let tokens = match admin_tokens(&settings) {
            Ok(tokens) => tokens,
            Err(error) => {
                return report.refused(format!("the settings stay as they were: {error}"));
            }
        };
        if tokens.is_none() && self.operations.is_open() {
            return report.refused(
                "the settings stay as they were: others reach the admin side until a restart, and \
                 without admin_token_file they could stop the server",
            );
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            match tls.reload() {
                Ok(()) => report.info("the certificates were read again"),
                Err(error) => {
                    return report.refused(format!(
                        "the certificates and all settings stay as they were: {error}"
                    ));
                }
            }
        }
        for warning in warnings {
            report.warn(warning);
        }
        // They were checked.
        if let Err(error) = self.operations.operator.reconfigure(&settings.config) {
            return report.refused(format!("the settings stay as they were: {error}"));
        }
        self.router.replace(routes);
        self.router.access().set(settings.access_log);
        self.operations.set_tokens(tokens);
        // The variable, which was right at the start, wins over the settings.
        if let Ok(targets) = log::filter(&settings.log) {
            (self.set_level)(targets);
        }
        let changes = self.operations.adopt(&settings);
        if changes.is_empty() {
            report.info("the settings are what they were");
        }
        for change in changes {
            if change.is_live {
                report.info(format_args!("{} is {} now", change.key, change.value));
            } else {
                report.warn(format_args!(
                    "{} is {}, which it cannot become while the server runs: restart it",
                    settings.name(change.key),
                    change.value
                ));
            }
        }
        Ok(report.lines)
    }

    /// The same, however it ends.
    fn reload_whole(&mut self, by: &'static str) -> Outcome {
        let supervisor = self.operations.supervisor;
        supervisor.reloading();
        // What is in the files is not ours: the worst of it leaves things as they are.
        let done = catch_unwind(AssertUnwindSafe(|| self.reload(by)));
        let outcome = done.unwrap_or_else(|panic| {
            mem::forget(panic);
            let sentence = "reading everything again failed in the middle; ask for it again";
            tracing::error!("{by}: {sentence}");
            Err(vec![sentence.to_owned()])
        });
        self.operations.reloaded(outcome.is_ok());
        supervisor.ready(match &outcome {
            Ok(_) => "serving",
            Err(_) => "serving, with the settings as they were: the new ones are wrong",
        });
        outcome
    }
}

/// The tokens of the admin side, if it has some.
///
/// # Errors
///
/// Why they cannot be had.
pub fn admin_tokens(settings: &Settings) -> Result<Option<Arc<Tokens>>, String> {
    match settings.admin_token_file.as_str() {
        "" => Ok(None),
        path => {
            let named = |why| format!("{}: {why}", settings.name("admin_token_file"));
            let tokens = Tokens::read(Path::new(path)).map_err(named)?;
            Ok(Some(Arc::new(tokens)))
        }
    }
}

/// What is done with an outcome.
type Then = Box<dyn FnOnce(Outcome) + Send>;

/// Reads everything again when it is asked to, on a thread of its own: a disk may be slow.
pub struct Reloader {
    asked: SyncSender<(&'static str, Then)>,
}

impl Reloader {
    /// Waits to be asked.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn start(mut reloading: Reloading) -> io::Result<Self> {
        let (asked, asking) = sync_channel::<(&'static str, Then)>(1);
        let body = move || {
            for (by, then) in asking {
                then(reloading.reload_whole(by));
            }
        };
        thread::Builder::new()
            .name("reload".to_owned())
            .spawn(body)?;
        Ok(Self { asked })
    }

    /// Asks for it, for this reason.
    pub fn reload(&self, by: &'static str, then: Then) {
        let (sentence, then) = match self.asked.try_send((by, then)) {
            Ok(()) => return,
            Err(TrySendError::Full((_, then))) => {
                let sentence = "everything is still to be read for an earlier one";
                tracing::info!("{by}: {sentence}");
                (sentence, then)
            }
            Err(TrySendError::Disconnected((_, then))) => {
                let sentence = "nobody reads anything again any more";
                tracing::error!("{by}: {sentence}");
                (sentence, then)
            }
        };
        then(Err(vec![sentence.to_owned()]));
    }
}
