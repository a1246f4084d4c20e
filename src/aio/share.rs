//! A connection's share of its thread's time.
//!
//! Knows: what a connection has cost in the share that it is in, estimated and measured, as a
//! shard's [`budget`](crate::shard::budget) does. Refuses to know: who is next when it is over; the
//! [rota](super::rota) does.

use std::{
    cell::{Cell, RefCell},
    task::Waker,
};

use super::local::wake;
use crate::{ring::Time, shard::budget::cost};

/// What one task may cost before it gives way.
pub const SHARE_NS: u64 = 100_000;

/// The clock is looked at when so much was estimated since.
const LOOK_NS: u64 = SHARE_NS / 8;

/// Messages between two looks at the clock, at most: what their handler does is not estimated.
const LOOK_MESSAGES_MAX: u32 = 64;

/// Receives for which a connection waits for its turn after it has used up a share.
const GREEDY_FOR: u8 = 16;

/// Whether a connection is to wait for its turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// It needs little, or has nothing to do.
    #[default]
    None,
    /// It is in the rota.
    Waits,
    /// The share that it is in was given to it by the rota.
    Has,
}

/// What was spent of a share.
#[derive(Debug, Default)]
pub struct Share {
    /// Estimated, or measured if that was more.
    spent_ns: Cell<u64>,
    /// Estimated since the clock was looked at.
    unseen_ns: Cell<u64>,
    /// Handed out since the clock was looked at.
    messages: Cell<u32>,
    /// With how many it is looked at again, at the latest.
    messages_max: Cell<u32>,
    /// What the clock has shown when it was looked at last.
    seen_ns: Cell<u64>,
    /// When the clock was first looked at.
    seen_at: Cell<Option<Time>>,
    turn: Cell<Turn>,
    /// Who waits for it: its reader, and whoever sends what its socket had no room for.
    wakers: RefCell<Vec<Waker>>,
    /// For so many receives more it waits for its turn before it receives.
    greedy_for: Cell<u8>,
}

impl Share {
    /// Something was done that costs about so much.
    #[inline]
    pub fn charge(&self, ns: u64) {
        self.spent_ns.set(self.spent_ns.get() + ns);
        let unseen_ns = self.unseen_ns.get() + ns;
        self.unseen_ns.set(unseen_ns);
        if unseen_ns >= LOOK_NS {
            self.look();
        }
    }

    /// Something was done that costs about so much, and may cost much more: the clock is asked too.
    #[inline]
    pub fn charge_unsure(&self, ns: u64) {
        if ns > 0 {
            self.spent_ns.set(self.spent_ns.get() + ns);
            self.look();
        }
    }

    /// So many bytes were received or sent by a system call.
    #[inline]
    pub fn charge_transfer(&self, bytes: usize) {
        self.charge(cost::TRANSFER_NS + cost::bytes_ns(bytes));
    }

    /// There is nothing to do but to wait for others.
    pub fn give_up(&self) {
        self.charge(SHARE_NS);
    }

    /// A message of so many bytes is handed out.
    #[inline]
    pub fn charge_message(&self, bytes: usize) {
        self.charge(cost::CALL_NS + cost::bytes_ns(bytes));
        let messages = self.messages.get() + 1;
        self.messages.set(messages);
        if messages > self.messages_max.get() {
            self.look();
        }
    }

    #[inline(never)]
    fn look(&self) {
        self.unseen_ns.set(0);
        let now = Time::monotonic();
        let messages = self.messages.replace(0);
        let Some(seen_at) = self.seen_at.get() else {
            return self.seen_at.set(Some(now));
        };
        let seen_ns = now.ns_since(seen_at);
        let before_ns = self.seen_ns.replace(seen_ns);
        self.spent_ns.set(self.spent_ns.get().max(seen_ns));
        if let Some(each_ns) = (seen_ns - before_ns).checked_div(u64::from(messages)) {
            let soon = LOOK_NS / each_ns.max(1);
            let soon = soon.min(u64::from(LOOK_MESSAGES_MAX)) as u32;
            self.messages_max.set(soon);
        }
    }

    /// Something was received. Whoever needs little again need not wait any more.
    #[inline]
    pub fn received(&self, bytes: usize) {
        self.greedy_for.set(self.greedy_for.get().saturating_sub(1));
        self.charge_transfer(bytes);
    }

    /// Whether it has to wait for its turn before it receives.
    #[inline]
    pub const fn is_greedy(&self) -> bool {
        self.greedy_for.get() > 0
    }

    /// Whether it is its turn, or is to be.
    pub const fn turn(&self) -> Turn {
        self.turn.get()
    }

    /// It waits for its turn.
    pub fn wait(&self, waker: &Waker) {
        if self.is_over() {
            self.greedy_for.set(GREEDY_FOR);
        }
        self.turn.set(Turn::Waits);
        let is_known = |known: &Waker| known.will_wake(waker);
        if self.wakers.borrow().iter().any(is_known) {
            return;
        }
        // Cloning is the application's code, like waking.
        let waker = waker.clone();
        self.wakers.borrow_mut().push(waker);
    }

    /// Its turn has come.
    pub fn begin(&self) {
        self.renew();
        self.turn.set(Turn::Has);
        for waker in self.wakers.take() {
            wake(waker);
        }
    }

    /// Whether the task is to give way.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.spent_ns.get() >= SHARE_NS
    }

    /// The task waits: others have their turn.
    #[inline]
    pub fn renew(&self) {
        self.spent_ns.set(0);
        self.unseen_ns.set(0);
        self.seen_ns.set(0);
        self.messages.set(0);
        self.seen_at.set(None);
        self.turn.set(Turn::None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_over_by_what_was_done() {
        let share = Share::default();
        share.charge_message(8 * SHARE_NS as usize / 2);
        assert!(!share.is_over());
        share.charge(SHARE_NS / 2);
        assert!(share.is_over());
        share.renew();
        assert!(!share.is_over());
    }

    #[test]
    fn a_share_is_over_by_the_clock_too() {
        let share = Share::default();
        let began = Time::monotonic();
        while !share.is_over() {
            share.charge_message(0);
            let spent_ns = Time::monotonic().ns_since(began);
            assert!(spent_ns < 1_000_000_000, "a second, and it is not over");
        }
    }
}
