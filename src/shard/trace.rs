//! Where the time goes between a receive and a send, of one message at a time.
//!
//! Knows: at which stage the message is that is followed. Refuses to know: all others.
//!
//! ```text
//!   turn begins ----> service is called ----> it has returned ----> the kernel has taken it
//!            handed over            queued                    taken
//! ```
//!
//! To look at the clock for each message would cost more than some messages do. One connection's
//! share is followed, and the next one when that has come to its end, in one turn of sixteen at
//! most: a sample that says the same.

use super::{Shard, service::Service};
use crate::{
    conn::Key,
    ring::{Operation, Ring, Time, Urgency},
};

/// Of so many turns, one has a message that is followed.
const TURNS: u64 = 16;

/// An answer that the kernel has not taken by then is given up: its peer does not read, and there
/// are others to be followed.
const PATIENCE_NS: u64 = 1_000_000_000;

/// What is followed. Whether there is anything is asked for each message, and nothing else.
#[derive(Debug, Default)]
pub struct Trace {
    /// The next message of this turn is.
    pub is_due: bool,
    /// One was handed over, and the service has not returned.
    pub is_handed_over: bool,
    /// There is an answer that was not taken yet.
    pub is_followed: bool,
    handed_over: Time,
    /// Whose answer it is, and when it was queued.
    answer: Option<(Key, Time)>,
}

impl<R: Ring, S: Service> Shard<R, S> {
    /// A turn begins, of a shard that is to follow messages.
    #[cold]
    pub(super) fn begin_trace(&mut self) {
        let is_late = |(_, since): (Key, Time)| self.now.ns_since(since) > PATIENCE_NS;
        if self.trace.answer.is_some_and(is_late) {
            self.trace_ends();
        }
        let turns = self.shared.counts.turns;
        self.trace.is_due = turns.is_multiple_of(TURNS) && !self.trace.is_followed;
    }

    fn trace_ends(&mut self) {
        self.trace.is_followed = false;
        self.trace.answer = None;
    }

    /// Messages are about to be handed over.
    #[cold]
    pub(super) fn trace_handed_over(&mut self) {
        self.trace.is_due = false;
        self.trace.is_handed_over = true;
        self.trace.handed_over = self.ring.now();
    }

    /// They were, and the service has returned.
    #[cold]
    pub(super) fn trace_queued(&mut self, key: Key) {
        self.trace.is_handed_over = false;
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        if connection.link.sending || connection.link.queued_bytes() == 0 {
            // There is no answer, or it waits for another one.
            return;
        }
        let now = self.ring.now();
        let handed_over = self.trace.handed_over;
        let spread = &self.shared.stats.spread;
        spread.stage_handed_over.add(handed_over.ns_since(self.now));
        spread.stage_queued.add(now.ns_since(handed_over));
        self.trace.answer = Some((key, now));
        self.trace.is_followed = true;
    }

    /// What a connection had queued is on its way to the kernel.
    #[cold]
    pub(super) fn trace_sent(&mut self, key: Key) {
        if self.trace.answer.is_some_and(|(whose, _)| whose == key)
            && let Some(connection) = self.slab.get_mut(key)
            && connection.link.sending
            && connection.link.send_urgency == Urgency::Unawaited
        {
            // Its end is told late otherwise.
            self.ring.hasten(key.token(Operation::Send));
        }
    }

    /// A send has ended, after which so much is left of what the connection had queued; or in an
    /// error, after which nothing is known.
    #[cold]
    pub(super) fn trace_taken(&mut self, key: Key, left: Option<usize>) {
        let Some((whose, queued_at)) = self.trace.answer else {
            return;
        };
        if whose != key || left.is_some_and(|bytes| bytes > 0) {
            return;
        }
        self.trace_ends();
        if left.is_some() {
            let took_ns = self.now.ns_since(queued_at);
            self.shared.stats.spread.stage_taken.add(took_ns);
        }
    }
}
