//! What a service manager is told (`sd_notify(3)`), if there is one.
//!
//! Knows: the words of its protocol. Refuses to know: when each is said.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service manager. Without one, nothing happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Supervisor;

impl Supervisor {
    fn tell(self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }

    /// The server serves, or does so again after its settings were read.
    pub fn ready(self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Its settings are being read.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// It takes its leave.
    pub fn stopping(self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// What it does, for a person.
    pub fn status(self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// All is well.
    pub fn feed(self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// How often it wants to hear that, if at all: twice in the time after which it acts.
    pub fn feeding_interval(self) -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|timeout| timeout / 2)
    }
}
