//! What is done when a thread's memory runs short, in the order that
//! [`ledger`](crate::conn::ledger) states, as a shard does it.
//!
//! Knows: who holds most, and how to have less held. Refuses to know: why they hold it.
//!
//! The keeper does it, who has borrowed nothing.

use std::rc::Rc;

use super::{
    connection::Connection,
    local::{Local, State},
};
use crate::{
    conn::{
        CloseCause,
        ledger::{Pressure, SMALL_BYTES, Step, largest},
    },
    proto::CloseCode,
    ring::{Time, process::release_memory},
};

/// Idle memory is given back this often.
const TRIM_AFTER_MS: u64 = 1000;

/// So much idle memory is kept, however long it was not needed: it is soon needed again.
const KEPT_FREELY_BYTES: usize = 1 << 20;

/// So much less has to be held for the allocator to be told to give memory back.
const RELEASED_BYTES_MIN: usize = 1 << 20;

/// What was done, and when something is to be done again.
#[derive(Debug, Default)]
pub struct Relieving {
    relief: crate::conn::ledger::Relief,
    trim_at: Time,
    /// The most that was held since the allocator was last told to give memory back.
    most_held_bytes: usize,
    choked: Vec<Rc<Connection>>,
}

impl State {
    /// Bytes of memory that the thread's connections hold.
    fn held_bytes(&self) -> usize {
        self.shared.held_bytes() + self.buffers.out_bytes()
    }

    /// How much is held now, and how much more may be. Returns whether that is little.
    #[inline]
    pub fn settle_ledger(&mut self) -> bool {
        let held = self.held_bytes();
        self.shared.counts.memory_held_bytes = held as u64;
        let relieving = &mut self.relieving;
        relieving.most_held_bytes = relieving.most_held_bytes.max(held);
        let room = self.shared.ledger.held(held);
        self.shared.set_room(room);
        self.shared.ledger.pressure() > Pressure::None
    }

    fn keeps_memory(&self) -> bool {
        let is_less = self.held_bytes() + RELEASED_BYTES_MIN <= self.relieving.most_held_bytes;
        is_less || self.shared.kept_bytes() > KEPT_FREELY_BYTES
    }

    /// When the keeper is to see to memory again, if it is.
    pub fn relieve_at(&self) -> Option<Time> {
        let relieving = &self.relieving;
        let again_at = (!relieving.choked.is_empty()).then(|| relieving.relief.again_at());
        let trim_at = self.keeps_memory().then_some(relieving.trim_at);
        [again_at, trim_at].into_iter().flatten().min()
    }

    fn trim(&mut self, now: Time) {
        if now < self.relieving.trim_at {
            return;
        }
        self.relieving.trim_at = now.plus_ms(TRIM_AFTER_MS);
        if self.shared.kept_bytes() > KEPT_FREELY_BYTES {
            self.shared.arena.trim();
            self.shared.pool.trim();
        }
        let held = self.held_bytes();
        if held + RELEASED_BYTES_MIN <= self.relieving.most_held_bytes {
            release_memory();
            self.relieving.most_held_bytes = held;
        }
    }

    /// What is to be done now, with memory that nobody uses given back before.
    fn next_step(&mut self, now: Time) -> Step {
        self.shared.arena.forget_kept();
        self.shared.pool.forget_kept();
        self.settle_ledger();
        let held = self.held_bytes();
        self.relieving.relief.step(&self.shared.ledger, held, now)
    }
}

impl Local {
    /// Sees to memory.
    pub fn relieve(&self, now: Time) {
        let step = {
            let state = &mut *self.state.borrow_mut();
            state.trim(now);
            if !state.settle_ledger() && state.relieving.choked.is_empty() {
                return;
            }
            state.next_step(now)
        };
        match step {
            Step::Wait => {}
            Step::Resume => {
                let choked = std::mem::take(&mut self.state.borrow_mut().relieving.choked);
                for connection in choked {
                    connection.unchoke();
                }
            }
            Step::Pause(bytes) => {
                for connection in self.largest(bytes) {
                    if connection.choke() {
                        let state = &mut *self.state.borrow_mut();
                        state.shared.counts.memory_pauses += 1;
                        state.relieving.choked.push(connection);
                    }
                }
            }
            Step::Shed(bytes) => {
                for connection in self.largest(bytes) {
                    self.state.borrow_mut().shared.counts.memory_shed += 1;
                    connection.shed();
                }
            }
        }
    }

    fn largest(&self, bytes: usize) -> Vec<Rc<Connection>> {
        let connections = self.connections();
        let held = connections.iter().filter_map(|connection| {
            let held = connection.link.borrow().held_bytes();
            (held >= SMALL_BYTES).then_some((held, connection.key))
        });
        let chosen = largest(held.collect(), bytes);
        let is_chosen = |connection: &Rc<Connection>| chosen.contains(&connection.key);
        connections.into_iter().filter(is_chosen).collect()
    }
}

impl Connection {
    /// Receives nothing more for now. Returns whether it did until now.
    fn choke(&self) -> bool {
        !std::mem::replace(&mut self.link.borrow_mut().choked, true)
    }

    /// Receives again.
    fn unchoke(self: &Rc<Self>) {
        {
            let link = &mut *self.link.borrow_mut();
            link.choked = false;
            // What was not received meanwhile is not held against its message.
            link.forgive_message();
        }
        self.wake_waiting();
    }

    /// Memory ran short, and this connection held most of it.
    fn shed(self: &Rc<Self>) {
        let is_behind = {
            let link = self.link.borrow();
            link.queued_bytes() > 0 || !link.is_open()
        };
        let cause = CloseCause::Overloaded;
        let reason = "the server has no memory left";
        if is_behind
            || self
                .close(CloseCode::TRY_AGAIN_LATER, reason, cause.clone())
                .is_err()
        {
            // A close frame would wait behind what it holds.
            return self.abort(cause);
        }
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        let shared = &mut state.shared;
        link.endpoint.release(&mut shared.pool, &mut shared.codec);
        link.endpoint.end_input();
        link.choked = false;
    }
}
