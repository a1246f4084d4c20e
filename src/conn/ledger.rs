//! What one shard's connections may hold of the machine's memory, and how near that is.
//!
//! Knows: a limit and its steps. Refuses to know: who holds what, and what is done about it.
//!
//! | held, of the limit | what is done |
//! |---|---|
//! | always | memory that is kept for later is given back first |
//! | 3/4 | what topics keep for who is not here is halved in every turn |
//! | 3/4 | no new connections: their opening handshakes are answered 503 |
//! | 7/8 | nothing is received from those who hold most, until others are done |
//! | 15/16, or 7/8 for a second | the largest holders end with 1013, one after the other |
//! | 15/16 | whoever has much gets no more: a message that needs it ends with 1013 |
//! | all of it | nobody does |
//!
//! So whoever holds little is not touched by those who hold much.

use super::Key;
use crate::ring::Time;

/// Under pressure, connections are looked at this often.
const LOOK_AFTER_MS: u64 = 10;

/// Pressure that pausing does not end within this time is ended by shedding.
const PAUSE_MS: u64 = 1000;

/// The most connections that are paused or ended at once.
const CHOSEN_MAX: usize = 64;

/// Whoever holds less is left alone whatever happens: there is nothing to be gained.
pub const SMALL_BYTES: usize = 16 << 10;

/// Idle memory is given back this often.
const TRIM_AFTER_MS: u64 = 1000;

/// So much idle memory is kept, however long it was not needed: it is soon needed again.
const KEPT_FREELY_BYTES: usize = 1 << 20;

/// Whoever has received fewer bytes than this since idle memory was last looked at is not busy.
pub const CALM_BYTES_MAX: usize = 1 << 20;

/// So much less has to be held for the allocator to be told to give memory back.
const RELEASED_BYTES_MIN: usize = 1 << 20;

/// How near the limit is, in the order in which it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is memory for everybody.
    #[default]
    None,
    /// Nobody new is let in.
    Refuse,
    /// Those who hold most are not received from.
    Pause,
    /// Those who hold most end.
    Shed,
}

/// The limit of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    bytes_max: usize,
    /// How near it was at the end of the last turn.
    pressure: Pressure,
}

impl Ledger {
    /// At most so many bytes; 0 is no limit.
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max: if bytes_max == 0 {
                usize::MAX
            } else {
                bytes_max
            },
            pressure: Pressure::None,
        }
    }

    /// From here on the limit is another one; 0 is none.
    pub const fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = Self::new(bytes_max).bytes_max;
    }

    /// The limit.
    pub const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// How near the limit was when [`held`](Self::held) was called last.
    pub const fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// So many bytes are held now. Returns how many more may be.
    #[inline]
    pub const fn held(&mut self, bytes: usize) -> usize {
        let quarter = self.bytes_max / 4;
        self.pressure = if bytes < 3 * quarter {
            Pressure::None
        } else if bytes < self.above(Pressure::Pause) {
            Pressure::Refuse
        } else if bytes < self.above(Pressure::Shed) {
            Pressure::Pause
        } else {
            Pressure::Shed
        };
        self.bytes_max.saturating_sub(bytes)
    }

    /// What nobody gets who has [much](SMALL_BYTES).
    pub const fn reserve(&self) -> usize {
        self.bytes_max - self.above(Pressure::Shed)
    }

    /// From how many bytes on it is so near.
    pub const fn above(&self, pressure: Pressure) -> usize {
        match pressure {
            Pressure::None => 0,
            Pressure::Refuse => self.bytes_max / 4 * 3,
            Pressure::Pause => self.bytes_max / 8 * 7,
            Pressure::Shed => self.bytes_max / 16 * 15,
        }
    }
}

/// What is to be done, with those who hold most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is memory again: nobody is to be paused.
    Resume,
    /// Nothing yet.
    Wait,
    /// Those are to be paused who hold so many bytes together.
    Pause(usize),
    /// Those are to be ended who hold so many bytes together.
    Shed(usize),
}

/// What was done about pressure, and when something is to be done again.
#[derive(Debug, Default)]
pub struct Relief {
    since: Option<Time>,
    again_at: Time,
}

impl Relief {
    /// The next step, while so many bytes are held.
    pub fn step(&mut self, ledger: &Ledger, held: usize, now: Time) -> Step {
        let pressure = ledger.pressure();
        if pressure < Pressure::Pause {
            self.since = None;
            return Step::Resume;
        }
        let since = *self.since.get_or_insert(now);
        if now < self.again_at {
            return Step::Wait;
        }
        self.again_at = now.plus_ms(LOOK_AFTER_MS);
        if pressure == Pressure::Shed || now >= since.plus_ms(PAUSE_MS) {
            self.since = Some(now);
            return Step::Shed(held.saturating_sub(ledger.above(Pressure::Refuse)));
        }
        Step::Pause(held / 2)
    }

    /// When to look again, while somebody is paused.
    pub const fn again_at(&self) -> Time {
        self.again_at
    }
}

/// When memory that nobody needs any more goes back to the kernel, in two steps: what the pools
/// keep for later, and then what the allocator has of it.
#[derive(Debug, Default)]
pub struct Idle {
    at: Time,
    /// The most that was held since the allocator was last told to give memory back.
    most_held_bytes: usize,
}

impl Idle {
    /// So many bytes are held now.
    #[inline]
    pub fn held(&mut self, bytes: usize) {
        self.most_held_bytes = self.most_held_bytes.max(bytes);
    }

    /// When there is something to give back, if there is, while so many bytes are held and pools
    /// keep so many of them.
    #[inline]
    pub fn due_at(&self, held_bytes: usize, kept_bytes: usize) -> Option<Time> {
        let is_wanted = Self::keeps_much(kept_bytes) || self.is_released(held_bytes);
        is_wanted.then_some(self.at)
    }

    /// Whether it is time to look. It is again after a second.
    #[inline]
    pub fn is_due(&mut self, now: Time) -> bool {
        let is_due = now >= self.at;
        if is_due {
            self.at = now.plus_ms(TRIM_AFTER_MS);
        }
        is_due
    }

    /// Whether pools that keep so many bytes are to give some back.
    pub const fn keeps_much(kept_bytes: usize) -> bool {
        kept_bytes > KEPT_FREELY_BYTES
    }

    /// Whether the allocator is to be told that much of what it gave is free again: that is worth a
    /// walk over its pages.
    pub const fn is_released(&self, held_bytes: usize) -> bool {
        held_bytes + RELEASED_BYTES_MIN <= self.most_held_bytes
    }

    /// The allocator was told.
    pub const fn released(&mut self, held_bytes: usize) {
        self.most_held_bytes = held_bytes;
    }
}

/// Of connections and what they hold, those with most, largest first, until they hold so many bytes
/// together. Of equals the place decides, so that every run of a simulation chooses the same.
pub fn largest(mut holders: Vec<(usize, Key)>, bytes: usize) -> Vec<Key> {
    let order = |&(held, key): &(usize, Key)| std::cmp::Reverse((held, key.slot));
    if holders.len() > CHOSEN_MAX {
        holders.select_nth_unstable_by_key(CHOSEN_MAX, order);
        holders.truncate(CHOSEN_MAX);
    }
    holders.sort_unstable_by_key(order);
    let mut sum = 0;
    let chosen = holders.into_iter().take_while(|&(held, _)| {
        let goes_on = sum < bytes;
        sum += held;
        goes_on
    });
    chosen.map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_grows_in_the_stated_order() {
        let mut ledger = Ledger::new(1600);
        let mut steps = Vec::new();
        for held in (0..=1700).step_by(100) {
            assert_eq!(ledger.held(held), 1600_usize.saturating_sub(held));
            steps.push((held, ledger.pressure()));
        }
        let first = |pressure| steps.iter().find(|step| step.1 == pressure).unwrap().0;
        assert_eq!(first(Pressure::Refuse), 1200);
        assert_eq!(first(Pressure::Pause), 1400);
        assert_eq!(first(Pressure::Shed), 1500);
        assert!(steps.is_sorted_by_key(|step| step.1));
    }

    #[test]
    fn pausing_comes_first_and_shedding_when_it_does_not_help() {
        let mut ledger = Ledger::new(1600);
        let mut relief = Relief::default();
        let at = |ms| Time::default().plus_ms(ms);
        ledger.held(1450);
        assert_eq!(relief.step(&ledger, 1450, at(0)), Step::Pause(725));
        assert_eq!(relief.step(&ledger, 1450, at(5)), Step::Wait);
        assert_eq!(relief.step(&ledger, 1450, at(20)), Step::Pause(725));
        assert_eq!(relief.step(&ledger, 1450, at(1000)), Step::Shed(250));
        assert_eq!(relief.step(&ledger, 1450, at(1010)), Step::Pause(725));
        ledger.held(1550);
        assert_eq!(relief.step(&ledger, 1550, at(1020)), Step::Shed(350));
        ledger.held(1300);
        assert_eq!(relief.step(&ledger, 1300, at(1021)), Step::Resume);
    }

    #[test]
    fn the_largest_are_chosen_until_it_is_enough() {
        let key = |slot| Key {
            slot,
            generation: 0,
        };
        let holders: Vec<_> = (0..200)
            .map(|slot| (slot as usize * 10, key(slot)))
            .collect();
        assert_eq!(largest(holders.clone(), 2000), [key(199), key(198)]);
        assert_eq!(largest(holders.clone(), 0), []);
        assert_eq!(largest(holders, usize::MAX).len(), CHOSEN_MAX);
    }

    #[test]
    fn idle_memory_goes_back_once_it_is_much_and_a_second_later() {
        let mut idle = Idle::default();
        let at = |ms| Time::default().plus_ms(ms);
        assert!(idle.is_due(at(0)) && !idle.is_due(at(999)));
        assert_eq!(idle.due_at(0, KEPT_FREELY_BYTES), None);
        assert_eq!(idle.due_at(0, KEPT_FREELY_BYTES + 1), Some(at(1000)));
        idle.held(5 << 20);
        idle.held(4 << 20);
        assert!(!idle.is_released((4 << 20) + 1) && idle.is_released(4 << 20));
        assert_eq!(idle.due_at(4 << 20, 0), Some(at(1000)));
        assert!(idle.is_due(at(1000)));
        idle.released(4 << 20);
        assert_eq!(idle.due_at(4 << 20, 0), None);
    }

    #[test]
    fn without_a_limit_there_is_no_pressure() {
        let mut ledger = Ledger::new(0);
        ledger.held(1 << 50);
        assert_eq!(ledger.pressure(), Pressure::None);
    }
}
