//! What can be asked of a running server, whoever asks: a signal, the admin side, a supervisor.
//!
//! Knows: how each of these is carried out, and what is remembered of it. Refuses to know: how it
//! was asked for.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ringwire::{Drain, Pulse};
use tracing_subscriber::filter::Targets;

use super::{
    life::{Life, Turn},
    supervisor::Supervisor,
};
use crate::{
    engine::Operator,
    log::{self, Log},
    reload::{Outcome, Reloader},
    settings::{Change, Settings},
    tokens::Tokens,
};

/// Has the log go on with what passes this.
pub type SetLevel = dyn Fn(Targets) + Send + Sync;

/// A running server, for those who run it.
pub struct Operations {
    /// The server itself.
    pub operator: Operator,
    /// What it serves with, by name.
    pub engine: &'static str,
    /// What that runs on, by name.
    pub ring: &'static str,
    /// Whether it is well.
    pub life: Life,
    /// The log.
    pub log: Log,
    /// The settings in force.
    pub settings: Arc<RwLock<Settings>>,
    /// Who is told.
    pub supervisor: Supervisor,
    is_open: bool,
    /// Who may ask, where not everybody may.
    tokens: RwLock<Option<Arc<Tokens>>>,
    reloader: Mutex<Option<Reloader>>,
    set_level: Arc<SetLevel>,
    /// The level that somebody has asked for, until the settings are read again.
    level: Mutex<Option<String>>,
    applied: AtomicU64,
    refused: AtomicU64,
    was_last_refused: AtomicBool,
}

/// How often the settings were read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloads {
    /// What was read is in force.
    pub applied: u64,
    /// Something was wrong with it.
    pub refused: u64,
    /// The last time it was.
    pub was_last_refused: bool,
}

impl Operations {
    /// For a server that has started.
    pub fn new(
        operator: Operator,
        (engine, ring): (&'static str, &'static str),
        settings: Arc<RwLock<Settings>>,
        log: Log,
        set_level: Arc<SetLevel>,
        is_open: bool,
    ) -> Self {
        Self {
            operator,
            engine,
            ring,
            life: Life::default(),
            log,
            settings,
            supervisor: Supervisor,
            is_open,
            tokens: RwLock::default(),
            reloader: Mutex::default(),
            set_level,
            level: Mutex::default(),
            applied: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            was_last_refused: AtomicBool::new(false),
        }
    }

    /// From here on, this is who reads the settings again.
    pub fn reload_by(&self, reloader: Reloader) {
        let mut place = self.reloader.lock().unwrap_or_else(PoisonError::into_inner);
        *place = Some(reloader);
    }

    /// Has the settings read again, for this reason. `then` is told what came of it.
    pub fn reload(&self, by: &'static str, then: impl FnOnce(Outcome) + Send + 'static) {
        let reloader = self.reloader.lock().unwrap_or_else(PoisonError::into_inner);
        match &*reloader {
            Some(reloader) => reloader.reload(by, Box::new(then)),
            None => then(Err(vec![
                "the server is only starting; try again".to_owned(),
            ])),
        }
    }

    /// Whoever shows one of these may ask; or everybody, without any.
    pub fn set_tokens(&self, tokens: Option<Arc<Tokens>>) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// Whether others than this host's users reach the admin side, so that it has to have tokens.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Who may ask, unless everybody may.
    pub fn tokens(&self) -> Option<Arc<Tokens>> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.clone()
    }

    /// These settings are in force from here on, those of them that can change. Returns what is
    /// another one.
    pub fn adopt(&self, settings: &Settings) -> Vec<Change> {
        let mut in_force = self
            .settings
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        in_force.adopt(settings)
    }

    /// The settings were read, and this came of it.
    pub fn reloaded(&self, is_applied: bool) {
        let count = match is_applied {
            true => &self.applied,
            false => &self.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.was_last_refused.store(!is_applied, Ordering::Relaxed);
        if is_applied {
            // Its level counts now.
            *self.level.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// How often the settings were read again.
    pub fn reloads(&self) -> Reloads {
        Reloads {
            applied: self.applied.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            was_last_refused: self.was_last_refused.load(Ordering::Relaxed),
        }
    }

    /// The settings in force, for a look.
    pub fn with_settings<T>(&self, look: impl FnOnce(&Settings) -> T) -> T {
        look(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How it stops, by the settings.
    pub fn drain_of_settings(&self) -> Drain {
        self.with_settings(|settings| settings.config.drain())
    }

    /// Takes leave of everybody: readiness goes down first, then the listeners are closed, then
    /// connections one after the other. Returns whether it had begun already.
    pub fn drain(&self, by: &str, drain: Drain) -> bool {
        let had_begun = self.life.begin_drain();
        if !had_begun {
            self.supervisor.stopping();
        }
        let open = self.operator.connections_open();
        let Drain {
            code, spread_ms, ..
        } = drain;
        match spread_ms {
            0 => tracing::info!(
                "{by}: stopping, closing {open} connections with {}",
                code.number()
            ),
            _ => tracing::info!(
                "{by}: stopping, closing {open} connections with {} over {}",
                code.number(),
                in_seconds(Duration::from_millis(spread_ms))
            ),
        }
        self.operator.drain(drain);
        had_begun
    }

    /// The level of the log now.
    pub fn level(&self) -> String {
        let asked = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        match &*asked {
            Some(level) => level.clone(),
            None => log::variable()
                .unwrap_or_else(|| self.with_settings(|settings| settings.log.clone())),
        }
    }

    /// Has the log go on at this level, until the settings are read again.
    pub fn set_level(&self, level: &str) {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = Some(level.to_owned());
        (self.set_level)(log::of_level(level));
        tracing::info!("the log goes on at the level {level}");
    }

    /// Looks whether every shard is well, says what is new, and tells the supervisor if all are.
    pub fn look(&self, feeds: bool) {
        let pulse = self.operator.pulse();
        if pulse.contains(&Pulse::Stopped) && !self.life.begin_drain() {
            // Nobody has asked for it: a shard has died, and the others stop for it.
            self.supervisor.stopping();
        }
        for turn in self.life.look(&pulse, Instant::now()) {
            match turn {
                Turn::Stalled(shard) => {
                    tracing::error!(
                        "shard {shard} stands still: it has given no sign of life for {} s; \
                         something that it calls does not return (perf or gdb show what), and its \
                         connections wait",
                        super::life::STALL.as_secs()
                    );
                    let status = format!("shard {shard} stands still");
                    self.supervisor.status(&status);
                }
                Turn::Recovered(shard) => {
                    tracing::warn!("shard {shard} goes on");
                    self.supervisor.status("all shards go on");
                }
            }
        }
        if feeds && self.life.is_well() {
            self.supervisor.feed();
        }
    }
}

/// A time for a person.
pub fn in_seconds(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        whole if whole.fract() == 0.0 => format!("{whole} s"),
        _ => format!("{seconds:.1} s"),
    }
}
