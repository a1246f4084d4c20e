//! What is done when memory runs short, in the order that [`ledger`](crate::conn::ledger) states.
//!
//! Knows: who holds most, and how to have less held. Refuses to know: why they hold it.
//!
//! The sum is at hand in every turn, from the pools that all memory comes from. Who holds what is
//! asked only under pressure, and then not more often than every few milliseconds.

use super::{Shard, return_lent, service::Service};
use crate::{
    conn::{
        CloseCause, Connection, Ending, Key,
        ledger::{Pressure, SMALL_BYTES, Step, largest},
        mistake::Mistake,
    },
    proto::CloseCode,
    ring::Ring,
};

impl<R: Ring, S: Service> Shard<R, S> {
    /// The end of a turn, for the ledger: how much is held, and what follows from that.
    #[inline]
    pub(super) fn settle_ledger(&mut self) {
        let held = self.held_bytes();
        let limit = self.shared.ledger.bytes_max();
        self.shared.counts.memory_held_bytes = held as u64;
        self.shared.counts.memory_limit_bytes = limit as u64;
        self.idle.held(held);
        let room = self.shared.ledger.held(held);
        self.shared.set_room(room);
        if self.shared.ledger.pressure() > Pressure::None || !self.choked.is_empty() {
            self.relieve();
            // What was queued for those who ended may have lain in receive memory.
            return_lent(&mut self.ring, &mut self.shared);
        }
    }

    #[cold]
    fn relieve(&mut self) {
        // What nobody needs right now goes first, and then what is kept for who is not here.
        self.shared.forget_kept();
        self.shrink_histories();
        let held = self.held_bytes();
        let room = self.shared.ledger.held(held);
        self.shared.set_room(room);
        match self.relief.step(&self.shared.ledger, held, self.now) {
            Step::Resume => self.unchoke(),
            Step::Wait => {}
            Step::Pause(bytes) => self.choke(bytes),
            Step::Shed(bytes) => {
                for key in largest(self.holders(), bytes) {
                    self.shed_one(key);
                }
                self.settle_touched();
            }
        }
    }

    /// Those who hold enough to matter.
    fn holders(&mut self) -> Vec<(usize, Key)> {
        let slab = &mut self.slab;
        let keys = (0..slab.capacity() as u32).filter_map(|slot| slab.key_at(slot));
        let keys: Vec<_> = keys.collect();
        let held = keys.into_iter().filter_map(|key| {
            let held = slab.get_mut(key)?.link.held_bytes();
            (held >= SMALL_BYTES).then_some((held, key))
        });
        held.collect()
    }

    /// Receives nothing more from those who hold so many bytes together.
    fn choke(&mut self, bytes: usize) {
        for key in largest(self.holders(), bytes) {
            let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
                continue;
            };
            if link.choked {
                continue;
            }
            link.choked = true;
            link.hold_up_inflating(&mut self.shared);
            self.choked.push(key);
            self.shared.counts.memory_pauses += 1;
            self.cancel_receive(key);
        }
    }

    /// There is memory again: receives from everybody.
    fn unchoke(&mut self) {
        if self.shared.errs(Mistake::NeverUnchokes) {
            return;
        }
        for key in std::mem::take(&mut self.choked) {
            if let Some(Connection { link, .. }) = self.slab.get_mut(key) {
                link.choked = false;
                // What was not received meanwhile is not held against its message.
                link.forgive_message();
                self.touch(key);
            }
        }
        self.settle_touched();
    }

    fn shed_one(&mut self, key: Key) {
        let id = self.id_of(key);
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        self.shared.counts.memory_shed += 1;
        tracing::debug!(connection = %id, "memory ran short, and this connection held most of it");
        let is_behind = link.queued_bytes() > 0;
        link.ends(CloseCause::Overloaded);
        let shared = &mut self.shared;
        link.endpoint.release(&mut shared.pool, &mut shared.codec);
        link.rare.take_unread();
        if is_behind || !link.is_open() {
            // What is queued is what it holds, and a close frame would wait behind it.
            link.release_queues(&mut self.shared.arena);
            return self.stop_connection(key);
        }
        let (endpoint, mut context) = link.split(&mut self.shared);
        let reason = "the server has no memory left";
        let _ = endpoint.close(CloseCode::TRY_AGAIN_LATER, reason, &mut context);
        endpoint.end_input();
        self.finish(key, Ending::Linger);
    }
}
