//! What is done when a thread's memory runs short, in the order that
//! [`ledger`](crate::conn::ledger) states, as a shard does it.
//!
//! Knows: who holds most, and how to have less held. Refuses to know: why they hold it.
//!
//! The keeper does it, who has borrowed nothing.

use std::{mem, rc::Rc};

use super::{
    connection::Connection,
    local::{Local, State},
};
use crate::{
    conn::{
        CloseCause,
        ledger::{CALM_BYTES_MAX, Idle, Pressure, Relief, SMALL_BYTES, Step, largest},
    },
    proto::CloseCode,
    ring::{Time, process::release_memory},
};

/// What was done, and when something is to be done again.
#[derive(Debug, Default)]
pub struct Relieving {
    relief: Relief,
    idle: Idle,
    choked: Vec<Rc<Connection>>,
    /// Since idle memory was last looked at.
    received_bytes: usize,
}

impl State {
    /// Bytes of memory that the thread's connections hold.
    fn held_bytes(&self) -> usize {
        self.shared.held_bytes() + self.buffers.out_bytes()
    }

    /// So many bytes were received.
    #[inline]
    pub fn received(&mut self, bytes: usize) {
        self.relieving.received_bytes += bytes;
    }

    /// Whether something is to be done about little memory now: not with everything that is
    /// received, since all connections are looked at for it.
    #[inline]
    pub fn wants_relief(&self, now: Time) -> bool {
        self.shared.ledger.pressure() >= Pressure::Pause && now >= self.relieving.relief.again_at()
    }

    /// How much is held now, and how much more may be. Returns whether that is little.
    #[inline]
    pub fn settle_ledger(&mut self) -> bool {
        let held = self.held_bytes();
        let limit = self.shared.ledger.bytes_max();
        self.shared.counts.memory_held_bytes = held as u64;
        self.shared.counts.memory_limit_bytes = limit as u64;
        self.relieving.idle.held(held);
        let room = self.shared.ledger.held(held);
        self.shared.set_room(room);
        self.shared.ledger.pressure() > Pressure::None
    }

    /// When the keeper is to see to memory again, if it is.
    pub fn relieve_at(&self) -> Option<Time> {
        let relieving = &self.relieving;
        let again_at = (!relieving.choked.is_empty()).then(|| relieving.relief.again_at());
        let kept_bytes = self.shared.kept_bytes();
        let trim_at = relieving.idle.due_at(self.held_bytes(), kept_bytes);
        [again_at, trim_at].into_iter().flatten().min()
    }

    fn trim(&mut self, now: Time) {
        if !self.relieving.idle.is_due(now) {
            return;
        }
        if Idle::keeps_much(self.shared.kept_bytes()) {
            self.shared.arena.trim();
            self.shared.pool.trim();
        }
        // The allocator keeps it for those who are about to ask for it again.
        let received_bytes = mem::take(&mut self.relieving.received_bytes);
        if self.relieving.idle.is_released(self.held_bytes()) && received_bytes < CALM_BYTES_MAX {
            // A few chunks that are kept would keep the pages around them.
            self.shared.forget_kept();
            self.buffers.forget_kept();
            release_memory();
            self.relieving.idle.released(self.held_bytes());
        }
    }

    /// What is to be done now, with memory that nobody uses given back before.
    fn next_step(&mut self, now: Time) -> Step {
        self.shared.forget_kept();
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
        let link = &mut *self.link.borrow_mut();
        link.hold_up_inflating(&mut self.local.state.borrow_mut().shared);
        !std::mem::replace(&mut link.choked, true)
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
