//! What those who run a server ask of a shard: to stop, to go on otherwise, to show who is there.
//!
//! Knows: how each of these is done in pieces, so that nobody waits for it. Refuses to know: who
//! asks.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Shard, TURN_DEADLINES_MAX, budget::cost, service::Service};
use crate::{
    config::Config,
    conn::{
        CloseCause, Key, Stage,
        farewell::{Drain, Farewell},
        survey::{Seen, Survey},
    },
    ring::{PeerAddress, Ring},
};

impl<R: Ring, S: Service> Shard<R, S> {
    /// Goes on under other settings, of those that can change. Deadlines that were set stay as they
    /// are, until they are looked at.
    pub fn reconfigure(&mut self, config: &Config) {
        self.shared.reconfigure(config);
        let config = &self.shared.config;
        self.places
            .set(config.shard_connections_max, config.handshake_timeout_ms);
    }

    /// Stops: no more connections, a close for those that are open, at once or one after the other,
    /// and an end for all of them by the deadline. A shard that is stopping already does so sooner,
    /// if this is sooner.
    pub fn stop(&mut self, drain: Drain) {
        self.look_at_clock();
        let until = drain.until(self.now);
        if let Some(before) = self.drain_until {
            if until < before
                && let Some(farewell) = &self.farewell
            {
                // All that are left have their turn in the shorter time.
                let rest = farewell.rest();
                self.take_leave_of(rest, drain);
                self.settle_touched();
            }
            self.drain_until = Some(before.min(until));
            return;
        }
        self.drain_until = Some(until);
        self.close_acceptors();
        let service = &mut self.service;
        if catch_unwind(AssertUnwindSafe(|| service.on_stop())).is_err() {
            self.shared.counts.service_panics += 1;
            tracing::error!(shard = self.id, "on_stop panicked");
        }
        let slots = 0..self.slab.capacity() as u32;
        let keys = slots.filter_map(|slot| self.slab.key_at(slot)).collect();
        self.take_leave_of(keys, drain);
        self.settle_touched();
    }

    fn take_leave_of(&mut self, keys: Vec<Key>, drain: Drain) {
        if drain.spread_ms == 0 {
            self.say_all_goodbye(&drain);
        } else {
            let random = &mut self.shared.keys;
            self.farewell = Some(Farewell::new(keys, random, self.now, drain));
        }
    }

    /// Takes leave of those whose turn it is. Those who have come since, when all have had theirs.
    pub(super) fn say_goodbye_in_turn(&mut self) {
        for _ in 0..TURN_DEADLINES_MAX {
            let Some(farewell) = &mut self.farewell else {
                return;
            };
            if farewell.is_over() && farewell.due_at() <= self.now {
                let drain = *farewell.drain();
                return self.say_all_goodbye(&drain);
            }
            let drain = *farewell.drain();
            let Some(key) = farewell.next(self.now) else {
                return;
            };
            self.budget.charge(cost::DEADLINE_NS);
            self.say_goodbye(key, &drain);
        }
    }

    fn say_all_goodbye(&mut self, drain: &Drain) {
        self.farewell = None;
        for slot in 0..self.slab.capacity() as u32 {
            if let Some(key) = self.slab.key_at(slot) {
                self.say_goodbye(key, drain);
            }
        }
    }

    fn say_goodbye(&mut self, key: Key, drain: &Drain) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        match connection.link.stage {
            Stage::Open => {
                let arena = &mut self.shared.arena;
                connection.link.load_whole_backlog(arena);
                let (endpoint, mut context) = connection.link.split(&mut self.shared);
                let _ = endpoint.close(drain.code, "", &mut context);
                connection.link.ends(CloseCause::Stopping);
                self.touch(key);
            }
            Stage::Connecting(_) | Stage::Opening(_) | Stage::Challenged(_) => {
                connection.link.ends(CloseCause::Stopping);
                self.stop_connection(key);
            }
            // These are on their way already, each with a deadline of its own.
            Stage::Closing
            | Stage::Finishing(_)
            | Stage::Lingering
            | Stage::Stopping
            | Stage::Closed => {}
        }
    }

    pub(super) fn stop_every_connection(&mut self) {
        for slot in 0..self.slab.capacity() as u32 {
            let Some(key) = self.slab.key_at(slot) else {
                continue;
            };
            if let Some(connection) = self.slab.get_mut(key) {
                connection.link.ends(CloseCause::Stopping);
            }
            self.stop_connection(key);
        }
    }

    /// Goes on with the walk that somebody has asked for first.
    pub(super) fn walk_on(&mut self) {
        let Some(mut survey) = self.surveys.pop_front() else {
            return;
        };
        let places = self.slab.capacity();
        for slot in survey.piece(places) {
            let Some(key) = self.slab.key_at(slot) else {
                continue;
            };
            let id = self.id_of(key);
            if let Some(connection) = self.slab.get_mut(key) {
                survey.see(Seen::new(id, &connection.link, self.now));
            }
        }
        self.budget.charge(cost::SURVEY_NS);
        if survey.is_over(places) {
            self.end_walk(survey);
        } else {
            self.surveys.push_front(survey);
        }
    }

    fn end_walk(&mut self, survey: Survey) {
        let Self { slab, ring, .. } = self;
        survey.end(|id| {
            let connection = slab.get_mut(id.key());
            let socket = connection.and_then(|it| it.socket.as_ref());
            socket.map_or(PeerAddress::Unknown, |socket| ring.peer_address(socket))
        });
    }
}
