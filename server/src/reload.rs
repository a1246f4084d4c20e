//! SIGHUP: settings and certificates are read again, and nobody is dropped for it.
//!
//! Knows: the order in which things are looked at, so that whatever is wrong leaves everything as
//! it is. Refuses to know: how a change is carried out.
//!
//! ```text
//!   settings, routes --> wrong? all stays --> certificates --> wrong? all stays --> carried out
//! ```

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread,
};

use clap::ArgMatches;
#[cfg(feature = "tls")]
use ringwire::tls::ServerTls;

use crate::{
    engine::Reconfigure,
    router::{Router, Routes},
    settings::{self, Settings},
};

/// Has the log go on at a level of this name.
pub type SetLevel = dyn Fn(&str) + Send;

/// Everything that is read again.
pub struct Reloading {
    /// What the command line says, which does not change.
    pub matches: ArgMatches,
    /// What is in force.
    pub settings: Settings,
    /// The server's routes.
    pub router: Router,
    /// The log.
    pub set_level: Box<SetLevel>,
    /// The server's limits.
    pub reconfigure: Box<Reconfigure>,
    /// The server's certificates.
    #[cfg(feature = "tls")]
    pub tls: Option<ServerTls>,
}

impl Reloading {
    /// Reads everything again and says what came of it.
    fn reload(&mut self) {
        // Tokens and keys are read again although no setting is another one.
        let loaded = settings::load(&self.matches).and_then(|(settings, warnings)| {
            let routes = Routes::new(&settings)?;
            Ok((settings, warnings, routes))
        });
        let (settings, warnings, routes) = match loaded {
            Ok(loaded) => loaded,
            Err(findings) => {
                for finding in findings {
                    tracing::error!("SIGHUP: {finding}");
                }
                return tracing::error!("SIGHUP: the settings stay as they were");
            }
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            match tls.reload() {
                Ok(()) => tracing::info!("SIGHUP: the certificates were read again"),
                Err(error) => {
                    return tracing::error!(
                        "SIGHUP: the certificates and all settings stay as they were: {error}"
                    );
                }
            }
        }
        for warning in warnings {
            tracing::warn!("SIGHUP: {warning}");
        }
        // They were checked.
        if let Err(error) = (self.reconfigure)(&settings.config) {
            return tracing::error!("SIGHUP: the settings stay as they were: {error}");
        }
        self.router.replace(routes);
        (self.set_level)(&settings.log);
        let changes = self.settings.adopt(&settings);
        if changes.is_empty() {
            tracing::info!("SIGHUP: the settings are what they were");
        }
        for change in changes {
            if change.is_live {
                tracing::info!("SIGHUP: {} is {} now", change.key, change.value);
            } else {
                tracing::warn!(
                    "SIGHUP: {} is {}, which it cannot become while the server runs: restart it",
                    settings.name(change.key),
                    change.value
                );
            }
        }
    }
}

/// Reads everything again when it is asked to, on a thread of its own: a disk may be slow.
pub struct Reloader {
    asked: SyncSender<()>,
}

impl Reloader {
    /// Waits to be asked.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn start(mut reloading: Reloading) -> io::Result<Self> {
        let (asked, asking) = sync_channel(1);
        let body = move || {
            for () in asking {
                // What is in the files is not ours: the worst of it leaves things as they are.
                let done = catch_unwind(AssertUnwindSafe(|| reloading.reload()));
                if let Err(panic) = done {
                    tracing::error!(
                        "SIGHUP: reading everything again failed in the middle; send it again"
                    );
                    mem::forget(panic);
                }
            }
        };
        thread::Builder::new()
            .name("reload".to_owned())
            .spawn(body)?;
        Ok(Self { asked })
    }

    /// Asks for it.
    pub fn reload(&self) {
        match self.asked.try_send(()) {
            Ok(()) => {}
            Err(TrySendError::Full(())) => {
                tracing::info!("SIGHUP: everything is still to be read for an earlier one");
            }
            Err(TrySendError::Disconnected(())) => {
                tracing::error!("SIGHUP: nobody reads anything again any more");
            }
        }
    }
}
