//! Whether the server is well, and welcomes new connections.
//!
//! Knows: who gives signs of life, and since when somebody does not. Refuses to know: what is made
//! of it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ringwire::Pulse;

/// A shard that gives no sign of life for so long stands still: a turn takes milliseconds.
pub const STALL: Duration = Duration::from_secs(2);

/// One shard.
#[derive(Debug)]
struct Patient {
    beats: u64,
    /// When it last gave one.
    at: Instant,
    is_stalled: bool,
}

/// What became of a shard since it was looked at before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It stands still.
    Stalled(usize),
    /// It goes on.
    Recovered(usize),
}

/// The server's health.
#[derive(Debug, Default)]
pub struct Life {
    is_draining: AtomicBool,
    shards: Mutex<Vec<Patient>>,
}

impl Life {
    fn shards(&self) -> MutexGuard<'_, Vec<Patient>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server takes its leave. Returns whether it did so already.
    pub fn begin_drain(&self) -> bool {
        self.is_draining.swap(true, Ordering::SeqCst)
    }

    /// Whether it takes its leave.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::SeqCst)
    }

    /// Whether new connections are welcome.
    pub fn is_ready(&self) -> bool {
        !self.is_draining()
    }

    /// Which shards stand still, of all.
    pub fn stalled(&self) -> Vec<bool> {
        self.shards().iter().map(|it| it.is_stalled).collect()
    }

    /// Whether nobody does.
    pub fn is_well(&self) -> bool {
        !self.shards().iter().any(|it| it.is_stalled)
    }

    /// Looks at all of them. Returns what is new.
    pub fn look(&self, pulse: &[Pulse], now: Instant) -> Vec<Turn> {
        let mut shards = self.shards();
        shards.resize_with(pulse.len(), || Patient {
            beats: 0,
            at: now,
            is_stalled: false,
        });
        let mut turns = Vec::new();
        for (shard, (patient, pulse)) in shards.iter_mut().zip(pulse).enumerate() {
            let has_beaten = match *pulse {
                // Whoever has come to his end does not stand still.
                Pulse::Stopped => true,
                Pulse::Beats(beats) => std::mem::replace(&mut patient.beats, beats) != beats,
            };
            if has_beaten {
                patient.at = now;
            }
            let is_stalled = now.duration_since(patient.at) >= STALL;
            if std::mem::replace(&mut patient.is_stalled, is_stalled) != is_stalled {
                turns.push(match is_stalled {
                    true => Turn::Stalled(shard),
                    false => Turn::Recovered(shard),
                });
            }
        }
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_gives_no_sign_of_life_stands_still_until_he_does() {
        let life = Life::default();
        let began = Instant::now();
        let after = |ms| began + Duration::from_millis(ms);
        let look = |beats: [u64; 2], ms| {
            let pulse = beats.map(Pulse::Beats);
            life.look(&pulse, after(ms))
        };
        assert_eq!(look([0, 0], 0), []);
        assert_eq!(look([1, 1], 500), []);
        assert_eq!(look([1, 2], 2_400), []);
        assert_eq!(look([1, 3], 2_500), [Turn::Stalled(0)]);
        assert_eq!((life.stalled(), life.is_well()), (vec![true, false], false));
        assert_eq!(look([1, 4], 3_000), []);
        assert_eq!(look([2, 5], 3_500), [Turn::Recovered(0)]);
        assert!(life.is_well());
        // At its end, nobody is expected to.
        let pulse = [Pulse::Stopped, Pulse::Beats(6)];
        assert_eq!(life.look(&pulse, after(9_000)), []);
    }

    #[test]
    fn a_server_that_takes_its_leave_is_not_ready() {
        let life = Life::default();
        assert!(life.is_ready());
        assert!(!life.begin_drain() && life.begin_drain());
        assert!(!life.is_ready() && life.is_well());
    }
}
