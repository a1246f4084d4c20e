//! A connection's share of its thread's time.
//!
//! Knows: what a connection has cost since its task last gave way, estimated and measured, as a
//! shard's [`budget`](crate::shard::budget) does. Refuses to know: who is next; the runtime serves
//! tasks in the order in which they were woken.
//!
//! A task whose peer sends without pause would have something to do at each of its awaits, for
//! ever. When its share is over it is woken again and waits, so that all others come first, those
//! too whose peers have sent something meanwhile: a task that merely wakes itself is polled dozens
//! of times before the runtime asks the kernel what has come.

use std::{
    cell::Cell,
    future::Future,
    pin::pin,
    task::{Context, Poll},
};

use crate::{ring::Time, shard::budget::cost};

/// What one task may cost before it gives way.
const SHARE_NS: u64 = 100_000;

/// The clock is looked at before each of so many messages.
const LOOK_MESSAGES: u32 = 16;

/// What was spent of a share.
#[derive(Debug, Default)]
pub struct Share {
    /// Estimated.
    spent_ns: Cell<u64>,
    messages: Cell<u32>,
    /// When the clock was first looked at.
    seen_at: Cell<Option<Time>>,
}

impl Share {
    /// Something was done that costs about so much.
    #[inline]
    pub fn charge(&self, ns: u64) {
        self.spent_ns.set(self.spent_ns.get() + ns);
    }

    /// Something was done that costs about so much, and may cost much more: the clock is asked too.
    #[inline]
    pub fn charge_unsure(&self, ns: u64) {
        if ns > 0 {
            self.charge(ns);
            self.look();
        }
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
        if messages.is_multiple_of(LOOK_MESSAGES) {
            self.look();
        }
    }

    #[inline(never)]
    fn look(&self) {
        let now = Time::monotonic();
        match self.seen_at.get() {
            None => self.seen_at.set(Some(now)),
            Some(seen_at) if now.ns_since(seen_at) >= SHARE_NS => self.charge(SHARE_NS),
            Some(_) => {}
        }
    }

    /// Whether the task is to give way.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.spent_ns.get() >= SHARE_NS
    }

    /// The task gives way to all others, and then begins another share.
    pub fn give_way<T>(&self, context: &mut Context<'_>) -> Poll<T> {
        self.renew();
        let others = pin!(tokio::task::yield_now());
        if others.poll(context).is_ready() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// The task waits: others have their turn.
    #[inline]
    pub fn renew(&self) {
        self.spent_ns.set(0);
        self.messages.set(0);
        self.seen_at.set(None);
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
