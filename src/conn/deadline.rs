//! Deadlines of connections: a wheel of coarse ticks.
//!
//! Knows: which slot is due when, to about 17 ms. Refuses to know: what the deadline is for, and
//! what time it is.
//!
//! Each slot has at most one deadline, in a list that belongs to one tick of the wheel. Setting one
//! costs a few writes and no search. A deadline beyond the horizon waits in the last tick, and
//! again from there, until it is due.

use crate::ring::Time;

/// A tick is 2^24 ns, about 16.8 ms: dividing by it is a shift.
const TICK_SHIFT: u32 = 24;
const BUCKETS: usize = 4096;
const WORDS: usize = BUCKETS / 64;
/// The list of those that are due, behind the lists of the ticks.
const DUE: usize = BUCKETS;
const NONE: u32 = u32::MAX;

/// Nodes lie in pages that never move: a row that doubled would leave its old memory behind, as
/// much as it has now.
const PAGE_NODES: usize = 256;

#[derive(Clone, Copy, Debug)]
struct Node {
    previous: u32,
    next: u32,
    /// The list it is in, `NONE` when it has no deadline.
    bucket: u32,
    /// The low bits of the tick at which it is due, which is later than its list says if that is
    /// beyond the horizon. They tell two years apart.
    tick: u32,
}

const IDLE: Node = Node {
    previous: NONE,
    next: NONE,
    bucket: NONE,
    tick: 0,
};

/// The deadlines of one shard's slots.
#[derive(Debug)]
pub struct Wheel {
    nodes: Vec<Box<[Node; PAGE_NODES]>>,
    heads: Box<[u32; BUCKETS + 1]>,
    /// One bit for each tick whose list is not empty.
    occupied: [u64; WORDS],
    /// One bit for each word of those that is not 0. The first tick is asked for in every turn.
    occupied_words: u64,
    /// Ticks up to this one are due or have been handed out.
    now_tick: u64,
}

impl Wheel {
    /// A wheel that starts at `now`.
    pub fn new(now: Time) -> Self {
        Self {
            nodes: Vec::new(),
            heads: Box::new([NONE; BUCKETS + 1]),
            occupied: [0; WORDS],
            occupied_words: 0,
            now_tick: now.as_ns() >> TICK_SHIFT,
        }
    }

    /// Sets the deadline of `slot`, in place of the one that it may have. It is never handed out
    /// early, and late by less than two ticks.
    pub fn set(&mut self, slot: u32, at: Time) {
        self.clear(slot);
        while self.nodes.len() <= slot as usize / PAGE_NODES {
            self.nodes.push(Box::new([IDLE; PAGE_NODES]));
        }
        // Rounded up: a deadline is not due before its time.
        let tick = (at.as_ns() >> TICK_SHIFT) + 1;
        self.place(slot, tick);
    }

    fn node(&mut self, slot: u32) -> &mut Node {
        let slot = slot as usize;
        &mut self.nodes[slot / PAGE_NODES][slot % PAGE_NODES]
    }

    /// The tick whose low bits these are: the one that is nearest to now.
    fn whole_tick(&self, low: u32) -> u64 {
        let ahead = low.wrapping_sub(self.now_tick as u32).cast_signed();
        self.now_tick.saturating_add_signed(ahead.into())
    }

    fn place(&mut self, slot: u32, tick: u64) {
        let tick = tick.min(self.now_tick + u64::from(u32::MAX / 2));
        let at = tick.clamp(self.now_tick + 1, self.now_tick + BUCKETS as u64 - 1);
        self.link(slot, at as usize % BUCKETS, tick as u32);
    }

    fn link(&mut self, slot: u32, bucket: usize, tick: u32) {
        let head = std::mem::replace(&mut self.heads[bucket], slot);
        *self.node(slot) = Node {
            previous: NONE,
            next: head,
            bucket: bucket as u32,
            tick,
        };
        if head != NONE {
            self.node(head).previous = slot;
        }
        if bucket != DUE {
            self.occupied[bucket / 64] |= 1 << (bucket % 64);
            self.occupied_words |= 1 << (bucket / 64);
        }
    }

    /// Takes the deadline of `slot` away, if it has one.
    pub fn clear(&mut self, slot: u32) {
        if self.nodes.len() <= slot as usize / PAGE_NODES {
            return;
        }
        let node = self.node(slot);
        if node.bucket == NONE {
            return;
        }
        let Node {
            previous,
            next,
            bucket,
            tick: _,
        } = std::mem::replace(node, IDLE);
        let bucket = bucket as usize;
        if next != NONE {
            self.node(next).previous = previous;
        }
        if previous != NONE {
            self.node(previous).next = next;
        } else {
            self.heads[bucket] = next;
            if next == NONE && bucket != DUE {
                let word = &mut self.occupied[bucket / 64];
                *word &= !(1 << (bucket % 64));
                if *word == 0 {
                    self.occupied_words &= !(1 << (bucket / 64));
                }
            }
        }
    }

    /// Whether `slot` has a deadline.
    #[cfg(feature = "sim")]
    pub fn has(&self, slot: u32) -> bool {
        let page = self.nodes.get(slot as usize / PAGE_NODES);
        page.is_some_and(|page| page[slot as usize % PAGE_NODES].bucket != NONE)
    }

    /// A slot that is due at `now`; its deadline is gone with that. Call until `None`.
    pub fn next_due(&mut self, now: Time) -> Option<u32> {
        let target = now.as_ns() >> TICK_SHIFT;
        // All that is due leaves the ticks before the first of it is handed out: what its owner
        // sets meanwhile belongs to a later tick, even after the clock has jumped over the wheel.
        while let Some(tick) = self.first_tick().filter(|&tick| tick <= target) {
            let bucket = tick as usize % BUCKETS;
            while self.heads[bucket] != NONE {
                let slot = self.heads[bucket];
                let tick = self.node(slot).tick;
                self.clear(slot);
                self.link(slot, DUE, tick);
            }
        }
        self.now_tick = self.now_tick.max(target);
        loop {
            let slot = self.heads[DUE];
            if slot == NONE {
                return None;
            }
            let low = self.node(slot).tick;
            let tick = self.whole_tick(low);
            self.clear(slot);
            if tick <= self.now_tick {
                return Some(slot);
            }
            // It was beyond the horizon when it was set, or the wheel had not turned for long.
            self.place(slot, tick);
        }
    }

    /// Whether [`next_due`](Self::next_due) may have something.
    #[inline]
    pub fn is_due(&self, now: Time) -> bool {
        let target = now.as_ns() >> TICK_SHIFT;
        self.heads[DUE] != NONE || self.first_tick().is_some_and(|tick| tick <= target)
    }

    /// When to ask again: the time of the first deadline.
    pub fn first(&self) -> Option<Time> {
        if self.heads[DUE] != NONE {
            return Some(Time::from_ns(self.now_tick << TICK_SHIFT));
        }
        self.first_tick()
            .map(|tick| Time::from_ns(tick << TICK_SHIFT))
    }

    fn first_tick(&self) -> Option<u64> {
        let start = self.now_tick as usize % BUCKETS;
        let mut word = start / 64;
        let mut bits = self.occupied[word] & (u64::MAX << (start % 64));
        if bits == 0 {
            // The words behind this one, once round: its own first ticks are the last of all.
            let behind = self.occupied_words.rotate_right(word as u32 + 1);
            if behind == 0 {
                return None;
            }
            word = (word + 1 + behind.trailing_zeros() as usize) % WORDS;
            bits = self.occupied[word];
        }
        let bucket = word * 64 + bits.trailing_zeros() as usize;
        let ahead = (bucket + BUCKETS - start) % BUCKETS;
        Some(self.now_tick + ahead as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Time {
        Time::default().plus_ms(ms)
    }

    fn due(wheel: &mut Wheel, now: Time) -> Vec<u32> {
        std::iter::from_fn(|| wheel.next_due(now)).collect()
    }

    #[test]
    fn deadlines_come_in_time_and_never_early() {
        let mut wheel = Wheel::new(ms(1_000_000));
        for slot in 0..2000 {
            wheel.set(slot, ms(1_000_000 + u64::from(slot) * 7));
        }
        let mut seen = vec![false; 2000];
        for step in 0..2000 {
            let now = ms(1_000_000 + step * 10);
            for slot in due(&mut wheel, now) {
                let at = ms(1_000_000 + u64::from(slot) * 7);
                assert!(now >= at, "slot {slot} was early");
                assert!(now.ns_since(at) < 50_000_000, "slot {slot} was late");
                assert!(!std::mem::replace(&mut seen[slot as usize], true));
            }
        }
        assert!(seen.iter().all(|&seen| seen));
        assert_eq!(wheel.first(), None);
    }

    #[test]
    fn a_deadline_can_be_moved_and_taken_away() {
        let mut wheel = Wheel::new(ms(0));
        wheel.set(3, ms(100));
        wheel.set(4, ms(100));
        wheel.set(5, ms(100));
        wheel.set(4, ms(300));
        wheel.clear(3);
        wheel.clear(3);
        assert_eq!(due(&mut wheel, ms(200)), [5]);
        assert_eq!(due(&mut wheel, ms(400)), [4]);
        assert_eq!(due(&mut wheel, ms(100_000)), [0; 0]);
    }

    #[test]
    fn a_deadline_beyond_the_horizon_is_handed_out_when_it_is_due() {
        let mut wheel = Wheel::new(ms(0));
        wheel.set(0, ms(3_600_000));
        let first = wheel.first().unwrap();
        assert!(first.as_ms() > 60_000 && first.as_ms() < 70_000);
        for minute in 0..60 {
            assert_eq!(due(&mut wheel, ms(minute * 60_000)), [0; 0]);
        }
        assert_eq!(due(&mut wheel, ms(3_600_040)), [0]);
    }

    #[test]
    fn a_wheel_that_stood_still_for_long_hands_out_nothing_early() {
        let mut wheel = Wheel::new(ms(0));
        wheel.set(0, ms(600_000 + 10_000));
        assert_eq!(due(&mut wheel, ms(600_000)), [0; 0]);
        assert_eq!(due(&mut wheel, ms(610_040)), [0]);
    }

    #[test]
    fn the_first_deadline_is_the_first_wherever_the_wheel_stands() {
        let tick = |tick: u64| Time::from_ns(tick << TICK_SHIFT);
        // Each two ticks of the wheel that are near a word's end, from near each word's end.
        for start in [0, 1, 62, 63, 64, 2047, 2048, 4031, 4032, 4095] {
            for near in [1, 2, 63, 64, 65, 4030, 4031, 4094] {
                for far in [0, 1, 63, 64, 1000] {
                    let mut wheel = Wheel::new(tick(BUCKETS as u64 + start));
                    let ticks = [near + far, near].map(|ahead| BUCKETS as u64 + start + ahead);
                    for (slot, at) in ticks.into_iter().enumerate() {
                        wheel.set(slot as u32, tick(at - 1));
                    }
                    assert_eq!(wheel.first(), Some(tick(ticks[1])), "{start} {near} {far}");
                    wheel.clear(1);
                    let horizon = BUCKETS as u64 + start + BUCKETS as u64 - 1;
                    assert_eq!(wheel.first(), Some(tick(ticks[0].min(horizon))));
                    wheel.clear(0);
                    assert_eq!(wheel.first(), None);
                }
            }
        }
    }

    #[test]
    fn a_clock_that_jumps_far_ahead_hands_out_everything_once() {
        let mut wheel = Wheel::new(ms(0));
        for slot in 0..100 {
            wheel.set(slot, ms(u64::from(slot) * 500));
        }
        let mut all = due(&mut wheel, ms(10_000_000));
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
        wheel.set(7, ms(0));
        assert_eq!(due(&mut wheel, ms(10_000_000)), [0; 0]);
        assert_eq!(due(&mut wheel, ms(10_000_040)), [7]);
    }
}
