//! What happens to newcomers when all places are taken.
//!
//! Knows: how many connections there may be, who waits for a place, and who is only to be told that
//! there is none. Refuses to know: how a connection is accepted or answered.
//!
//! ```text
//!   accepted --- a place is free ------------------------------> inside
//!       |
//!       +-- none is --> waits, unread --- one gets free -------> inside
//!                          |
//!                          +-- not in time, or too many wait --> beyond: its opening handshake
//!                                                                is answered 503; or it is
//!                                                                closed, if it is one of too many
//!                                                                that say nothing
//! ```
//!
//! The invariant: however many come, at most [`WAITING_MAX`] wait and at most [`BEYOND_MAX`] are
//! beyond, and nobody waits for longer than a twentieth of the time for a handshake. Who says
//! something makes those go that say nothing, or else the one who is beyond for the longest: a
//! crowd keeps nobody from his 503.

use std::collections::VecDeque;

use super::{Key, opening::Lack};
use crate::ring::Time;

/// Accepted connections that wait for a place, unread: a crowd of so many may come at once where
/// places get free soon.
pub const WAITING_MAX: usize = 64;

/// Connections beyond the places, of which each is answered 503. A handshake on a fast network
/// takes a millisecond, and a flood brings 20 connections in it.
pub const BEYOND_MAX: usize = 64;

/// Nobody waits for more than this part of the time for a handshake: who hears 503 soon can go
/// elsewhere, and has not given up yet.
const WAIT_SHARE: u64 = 20;

/// A log line says at most this often that there are no places.
const SAID_AFTER_MS: u64 = 60_000;

/// What the log says when an accept fails for want of descriptors.
pub const DESCRIPTORS_RAN_OUT: &str = "accepting pauses until connections close; raise the limit \
     on open files (ulimit -n, LimitNOFILE=) if this happens often";

/// Who is beyond the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beyond {
    /// It had said nothing when it was made a connection.
    Silent,
    /// It had, and is about to be answered.
    Speaks,
    /// It has made room for others, and is on its way out.
    Leaving,
}

/// The places of a shard or a thread, for newcomers that are `W` until they are connections.
#[derive(Debug)]
pub struct Places<W> {
    places: usize,
    wait_ms: u64,
    waiting: VecDeque<(W, Time)>,
    /// In the order in which they came.
    beyond: VecDeque<(Key, Beyond, Lack)>,
    say_again_at: Time,
}

impl<W> Places<W> {
    /// So many places, for connections whose handshakes may take so long.
    pub fn new(places: u32, handshake_timeout_ms: u64) -> Self {
        Self {
            places: places as usize,
            wait_ms: handshake_timeout_ms / WAIT_SHARE,
            waiting: VecDeque::new(),
            beyond: VecDeque::new(),
            say_again_at: Time::default(),
        }
    }

    /// From here on there are so many, for such handshakes. Nobody goes for it who is there.
    pub fn set(&mut self, places: u32, handshake_timeout_ms: u64) {
        self.places = places as usize;
        self.wait_ms = handshake_timeout_ms / WAIT_SHARE;
    }

    /// Whether all places are taken, of so many connections.
    #[inline]
    pub fn are_taken(&self, connections: usize) -> bool {
        connections - self.beyond.len() >= self.places
    }

    /// Lets a newcomer wait. Returns who has to be told that there is no place, if too many wait.
    pub fn wait(&mut self, newcomer: W, now: Time) -> Option<W> {
        self.waiting
            .push_back((newcomer, now.plus_ms(self.wait_ms)));
        (self.waiting.len() > WAITING_MAX).then(|| self.first())?
    }

    /// The one who has waited for the longest, for a place that has got free.
    pub fn first(&mut self) -> Option<W> {
        self.waiting.pop_front().map(|(newcomer, _)| newcomer)
    }

    /// One who has waited for as long as anybody may.
    pub fn late(&mut self, now: Time) -> Option<W> {
        self.late_at().filter(|&at| at <= now)?;
        self.first()
    }

    /// When the next one has waited for so long.
    #[inline]
    pub fn late_at(&self) -> Option<Time> {
        self.waiting.front().map(|&(_, until)| until)
    }

    /// Those who wait.
    #[cfg(feature = "sim")]
    pub fn all_waiting(&self) -> impl Iterator<Item = &W> {
        self.waiting.iter().map(|(newcomer, _)| newcomer)
    }

    /// Nobody is to wait any more.
    pub fn clear_waiting(&mut self) {
        self.waiting.clear();
    }

    /// A connection is there only to be told what it lacks; it has said something already, or not.
    /// Returns who has to go for it, if too many are.
    pub fn goes_beyond(&mut self, key: Key, speaks: bool, lack: Lack) -> Option<Key> {
        let how = if speaks {
            Beyond::Speaks
        } else {
            Beyond::Silent
        };
        self.beyond.push_back((key, how, lack));
        (self.staying() > BEYOND_MAX).then(|| self.make_room())?
    }

    /// Whether somebody who was pushed out can be told: one who has said nothing makes nobody else
    /// go, and is not to become a connection if he had to.
    pub fn can_be_told(&self, speaks: bool) -> bool {
        speaks || self.staying() < BEYOND_MAX
    }

    fn staying(&self) -> usize {
        let all = self.beyond.iter();
        all.filter(|(_, how, _)| *how != Beyond::Leaving).count()
    }

    /// Who has to go so that others can be told: of those who said nothing, or else of all, the one
    /// who is beyond for the longest.
    pub fn make_room(&mut self) -> Option<Key> {
        let first = |wanted| self.beyond.iter().position(|&(_, how, _)| how == wanted);
        let at = first(Beyond::Silent).or_else(|| first(Beyond::Speaks))?;
        let (key, how, _) = self.beyond.get_mut(at)?;
        *how = Beyond::Leaving;
        Some(*key)
    }

    /// What a connection is to be told that it lacks, if it is there only for that.
    #[inline]
    pub fn lack_of(&self, key: Key) -> Option<Lack> {
        let mut beyond = self.beyond.iter();
        beyond.find_map(|&(beyond, _, lack)| (beyond == key).then_some(lack))
    }

    /// Those beyond, in the order in which they came.
    #[cfg(feature = "sim")]
    pub fn all_beyond(&self) -> impl Iterator<Item = Key> + Clone {
        self.beyond.iter().map(|&(key, ..)| key)
    }

    /// A connection is gone. Returns whether its place is free now: those beyond had none.
    #[inline]
    pub fn leaves(&mut self, key: Key) -> bool {
        let at = self.beyond.iter().position(|&(beyond, ..)| beyond == key);
        let had_none = at.and_then(|at| self.beyond.remove(at));
        had_none.is_none()
    }

    /// What the log is to say of a newcomer without a place, if it is to say anything.
    pub fn to_be_said(&mut self, is_full: bool, now: Time) -> Option<&'static str> {
        let text = if is_full {
            "shard_connections_max is reached: newcomers wait, and are answered 503 after a while"
        } else {
            "few descriptors are left (ulimit -n, LimitNOFILE=): newcomers wait, and are answered \
             503 after a while"
        };
        self.may_say(now).then_some(text)
    }

    /// Whether the log may say something again: a stranger decides how often that is.
    pub fn may_say(&mut self, now: Time) -> bool {
        let is = now >= self.say_again_at;
        if is {
            self.say_again_at = now.plus_ms(SAID_AFTER_MS);
        }
        is
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_ns(0);

    fn is_quiet<W>(places: &Places<W>) -> bool {
        places.waiting.is_empty() && places.beyond.is_empty()
    }

    fn key(slot: usize) -> Key {
        Key {
            slot: slot as u32,
            generation: 1,
        }
    }

    #[test]
    fn those_who_wait_are_taken_in_the_order_in_which_they_came() {
        let mut places = Places::new(2, 10_000);
        assert!(!places.are_taken(1) && places.are_taken(2));
        assert!(is_quiet(&places));
        assert_eq!(places.wait("first", NOW), None);
        assert_eq!(places.wait("second", NOW), None);
        assert!(!is_quiet(&places));
        assert!(places.leaves(key(7)));
        assert_eq!(places.first(), Some("first"));
        assert_eq!(places.first(), Some("second"));
        assert_eq!(places.first(), None);
    }

    #[test]
    fn nobody_waits_for_longer_than_a_twentieth_of_the_time_for_a_handshake() {
        let mut places = Places::new(0, 10_000);
        places.wait("first", NOW);
        places.wait("second", NOW.plus_ms(1));
        assert_eq!(places.late_at(), Some(NOW.plus_ms(500)));
        assert_eq!(places.late(NOW.plus_ms(499)), None);
        assert_eq!(places.late(NOW.plus_ms(500)), Some("first"));
        assert_eq!(places.late(NOW.plus_ms(500)), None);
        assert_eq!(places.late(NOW.plus_ms(501)), Some("second"));
        assert_eq!(places.late_at(), None);
    }

    #[test]
    fn a_crowd_pushes_out_who_has_waited_for_the_longest() {
        let mut places = Places::new(0, 10_000);
        for number in 0..WAITING_MAX {
            assert_eq!(places.wait(number, NOW), None);
        }
        assert_eq!(places.wait(WAITING_MAX, NOW), Some(0));
        assert_eq!(places.wait(WAITING_MAX + 1, NOW), Some(1));
    }

    #[test]
    fn who_is_beyond_makes_room_and_the_silent_first() {
        let mut places = Places::<()>::new(0, 10_000);
        for slot in 0..BEYOND_MAX {
            assert!(places.can_be_told(false));
            assert_eq!(
                places.goes_beyond(key(slot), slot != 2 && slot != 3, Lack::Places),
                None
            );
        }
        assert!(places.can_be_told(true) && !places.can_be_told(false));
        for (slot, leaves) in [(70, 2), (71, 3), (72, 0), (73, 1), (74, 4)] {
            assert_eq!(
                places.goes_beyond(key(slot), true, Lack::Address),
                Some(key(leaves))
            );
        }
        assert_eq!(places.make_room(), Some(key(5)));
        // Until they are gone, they take no place, and leave none.
        assert_eq!(places.lack_of(key(0)), Some(Lack::Places));
        assert_eq!(places.lack_of(key(70)), Some(Lack::Address));
        assert!(!places.leaves(key(0)) && !places.leaves(key(5)));
        assert_eq!(places.make_room(), Some(key(6)));
    }

    #[test]
    fn who_is_beyond_takes_no_place_and_leaves_none() {
        let mut places = Places::<()>::new(2, 10_000);
        places.goes_beyond(key(2), false, Lack::Places);
        assert_eq!(places.lack_of(key(2)), Some(Lack::Places));
        assert_eq!(places.lack_of(key(1)), None);
        assert!(places.are_taken(3) && !places.are_taken(2));
        assert!(!places.leaves(key(2)), "it had no place");
        assert!(places.leaves(key(1)));
        assert!(is_quiet(&places));
    }

    #[test]
    fn the_log_is_not_in_the_hands_of_strangers() {
        let mut places = Places::<()>::new(0, 10_000);
        assert!(places.to_be_said(true, NOW.plus_ms(5)).is_some());
        assert!(!places.may_say(NOW.plus_ms(60_004)));
        assert!(places.to_be_said(false, NOW.plus_ms(60_005)).is_some());
    }
}
