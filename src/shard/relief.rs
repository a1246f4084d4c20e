//! What is done when memory runs short, in the order that [`ledger`](crate::conn::ledger) states.
//!
//! Knows: who holds most, and how to have less held. Refuses to know: why they hold it.
//!
//! The sum is at hand in every turn, from the pools that all memory comes from. Who holds what is
//! asked only under pressure, and then not more often than every few milliseconds.

use super::{Shard, service::Service};
use crate::{
    conn::{CloseCause, Connection, Ending, Key, ledger::Pressure},
    proto::CloseCode,
    ring::Ring,
};

/// Under pressure, connections are looked at this often.
const LOOK_AFTER_MS: u64 = 10;

/// Pressure that pausing does not end within this time is ended by shedding.
const PAUSE_MS: u64 = 1000;

/// The most connections that are paused or ended at once.
const CHOSEN_MAX: usize = 64;

/// Whoever holds less is left alone whatever happens: there is nothing to be gained.
const SMALL_BYTES: usize = 16 << 10;

impl<R: Ring, S: Service> Shard<R, S> {
    /// The end of a turn, for the ledger: how much is held, and what follows from that.
    #[inline]
    pub(super) fn settle_ledger(&mut self) {
        let held = self.shared.held_bytes() + self.mail_bytes();
        self.shared.counts.memory_held_bytes = held as u64;
        self.most_held_bytes = self.most_held_bytes.max(held);
        let room = self.shared.ledger.held(held);
        self.shared.set_room(room);
        if self.shared.ledger.pressure() > Pressure::None || !self.choked.is_empty() {
            self.relieve();
        }
    }

    #[cold]
    fn relieve(&mut self) {
        // What nobody needs right now goes first.
        self.shared.arena.forget_kept();
        self.shared.pool.forget_kept();
        let held = self.shared.held_bytes() + self.mail_bytes();
        self.shared.ledger.held(held);
        let pressure = self.shared.ledger.pressure();
        if pressure < Pressure::Pause {
            self.pressed_since = None;
            return self.unchoke();
        }
        let since = *self.pressed_since.get_or_insert(self.now);
        if self.now < self.relieve_at {
            return;
        }
        self.relieve_at = self.now.plus_ms(LOOK_AFTER_MS);
        let lasts = self.now >= since.plus_ms(PAUSE_MS);
        let holders = self.largest_holders();
        if pressure == Pressure::Shed || lasts {
            let wanted = held.saturating_sub(self.shared.ledger.above(Pressure::Refuse));
            self.shed(&holders, wanted);
            self.pressed_since = Some(self.now);
        } else {
            let half = held / 2;
            self.choke(&holders, half);
        }
    }

    /// Those who hold most, largest first.
    fn largest_holders(&mut self) -> Vec<(usize, Key)> {
        let mut holders = Vec::new();
        for slot in 0..self.slab.capacity() as u32 {
            let Some(key) = self.slab.key_at(slot) else {
                continue;
            };
            let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
                continue;
            };
            let bytes = link.held_bytes();
            if bytes >= SMALL_BYTES {
                holders.push((bytes, key));
            }
        }
        if holders.len() > CHOSEN_MAX {
            holders.select_nth_unstable_by(CHOSEN_MAX, |one, other| other.cmp_bytes(one));
            holders.truncate(CHOSEN_MAX);
        }
        holders.sort_unstable_by(|one, other| other.cmp_bytes(one));
        holders
    }

    /// Receives nothing more from these, until so many bytes are with those who are paused.
    fn choke(&mut self, holders: &[(usize, Key)], bytes: usize) {
        let mut sum = 0;
        for &(held, key) in holders {
            if sum >= bytes {
                break;
            }
            sum += held;
            let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
                continue;
            };
            if link.choked {
                continue;
            }
            link.choked = true;
            self.choked.push(key);
            self.shared.counts.memory_pauses += 1;
            self.cancel_receive(key);
        }
    }

    /// There is memory again: receives from everybody.
    fn unchoke(&mut self) {
        for key in std::mem::take(&mut self.choked) {
            if let Some(Connection { link, .. }) = self.slab.get_mut(key) {
                link.choked = false;
                self.touch(key);
            }
        }
        self.settle_touched();
    }

    /// Ends connections until so many bytes are free.
    fn shed(&mut self, holders: &[(usize, Key)], bytes: usize) {
        let mut sum = 0;
        for &(held, key) in holders {
            if sum >= bytes {
                break;
            }
            sum += held;
            self.shed_one(key);
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
        link.endpoint.release(&mut self.shared.pool);
        link.rare.drop_unread();
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

/// By what is held, and else by the place, so that every run of a simulation chooses the same.
trait CmpBytes {
    fn cmp_bytes(&self, other: &Self) -> std::cmp::Ordering;
}

impl CmpBytes for (usize, Key) {
    fn cmp_bytes(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1.slot).cmp(&(other.0, other.1.slot))
    }
}
