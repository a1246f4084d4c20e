//! Newcomers of a thread whose places are all taken.
//!
//! Knows: that each of them is a task that waits to be told. Refuses to know: who is told what;
//! [`Places`](crate::conn::places::Places) has that for both engines.
//!
//! A place that got free is *promised* to the newcomer who has waited for the longest until its
//! task has run: until then it counts as taken.

use std::os::fd::OwnedFd;

use tokio::sync::oneshot;

use super::local::{Local, State};
use crate::{
    conn::{
        CloseCause, Key,
        door::{Ticket, Turned},
        opening::Lack,
    },
    ring::{Errno, PeerAddress, Time},
};

/// What a newcomer is told that waits for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// There is one, which is promised to it.
    Promised,
    /// There is none: it is to be answered 503.
    NoPlace,
}

/// How it is told.
pub type Waiting = oneshot::Sender<Told>;

impl State {
    /// Whether nobody else gets in.
    pub fn is_full(&self) -> bool {
        self.places.are_taken(self.slab.len() + self.promised)
    }
}

impl Local {
    /// Whether it matters where newcomers come from.
    pub fn has_door(&self) -> bool {
        let shared = &self.state.borrow().shared;
        shared.door.is_guarded() || !shared.proxies.is_empty()
    }

    /// Whether a newcomer from there is a proxy's, which is to say first whom it speaks for.
    pub fn is_proxied(&self, peer: PeerAddress) -> bool {
        self.state.borrow().shared.proxies.has(peer)
    }

    /// The ticket for a newcomer from there; none if there are no limits, or if a proxy will name
    /// the client later.
    pub fn ticket_from(&self, peer: PeerAddress) -> Result<Option<Ticket>, Turned> {
        let shared = &mut self.state.borrow_mut().shared;
        if !shared.door.is_guarded() || shared.proxies.forwards(peer) {
            return Ok(None);
        }
        let entered = shared.door.enter(peer.ip(), Time::monotonic_coarse());
        shared.counts.door_refusals += u64::from(entered.is_err());
        entered.map(Some)
    }

    /// A newcomer goes without having been a connection.
    pub fn dismiss(&self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.state.borrow().shared.door.leave(ticket);
        }
    }

    /// How an accepted socket that has to wait is told about it. `None`: it has a place.
    pub fn has_to_wait(&self, socket: &OwnedFd) -> Option<oneshot::Receiver<Told>> {
        let mut borrowed = self.state.borrow_mut();
        let state = &mut *borrowed;
        let is_full = state.is_full();
        if !is_full && !self.last_descriptors.have(socket) {
            return None;
        }
        let now = Time::monotonic_coarse();
        state.shared.counts.places_waited += 1;
        let (tell, told) = oneshot::channel();
        if let Some(first) = state.places.wait(tell, now) {
            let _ = first.send(Told::NoPlace);
        }
        let late_at = state.places.late_at();
        let (text, connections) = (state.places.to_be_said(is_full, now), state.slab.len());
        drop(borrowed);
        if let Some(at) = late_at {
            self.wake_by(at);
        }
        self.counted(now);
        if let Some(text) = text {
            tracing::warn!(connections, "{text}");
        }
        Some(told)
    }

    /// Tells those that have waited for as long as they may.
    pub fn tell_late(state: &mut State, now: Time) {
        while let Some(late) = state.places.late(now) {
            let _ = late.send(Told::NoPlace);
        }
    }

    /// A place is free, for the newcomer who has waited for the longest.
    pub fn promise_place(state: &mut State) {
        while !state.is_full()
            && let Some(first) = state.places.first()
        {
            if first.send(Told::Promised).is_ok() {
                state.promised += 1;
                break;
            }
        }
    }

    /// A newcomer takes the place that it was promised, or does without.
    pub fn redeem(&self) {
        self.state.borrow_mut().promised -= 1;
    }

    /// Nobody comes in any more.
    pub fn stops(&self) {
        let state = &mut *self.state.borrow_mut();
        state.is_stopping = true;
        state.places.clear_waiting();
    }

    /// Whether nobody comes in any more.
    pub fn is_stopping(&self) -> bool {
        self.state.borrow().is_stopping
    }

    /// How long an opening handshake may take.
    pub fn handshake_timeout_ms(&self) -> u64 {
        self.state.borrow().shared.config.handshake_timeout_ms
    }

    /// Counts somebody who did not say in time what he had to.
    pub fn count_timeout(&self) {
        self.state.borrow_mut().shared.counts.timeouts += 1;
        self.counted(Time::monotonic_coarse());
    }

    /// Whether the log may say something of strangers again.
    pub fn may_say(&self) -> bool {
        let now = Time::monotonic_coarse();
        self.state.borrow_mut().places.may_say(now)
    }

    /// Counts that accepting pauses. Returns whether the log is to say so.
    pub fn accept_pauses(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.shared.counts.accept_pauses += 1;
        state.places.may_say(Time::monotonic_coarse())
    }

    /// Descriptors ran out: who waits is told now. Returns who is to go for the next.
    pub fn make_room(&self) -> Option<Key> {
        let state = &mut *self.state.borrow_mut();
        let oldest = state.places.make_room();
        if let Some(first) = state.places.first() {
            let _ = first.send(Told::NoPlace);
        }
        oldest
    }

    /// Ends a connection that had no place.
    pub fn let_go(&self, key: Key) {
        let place = {
            let state = &mut *self.state.borrow_mut();
            state.slab.get_mut(key).and_then(|place| place.upgrade())
        };
        if let Some(connection) = place {
            connection.abort(CloseCause::Overloaded);
        }
    }

    /// Puts a connection into the table.
    ///
    /// # Errors
    ///
    /// `EMFILE` when there is no place for it.
    pub fn enter(&self) -> Result<Key, Errno> {
        if self.state.borrow().is_full() {
            return Err(Errno::TOO_MANY_FILES);
        }
        self.enter_table()
    }

    /// The same for a connection that is only to be told that there is no place. Returns who has to
    /// go for it, if anybody.
    ///
    /// # Errors
    ///
    /// `EMFILE` when there are as many as a table can have.
    pub fn enter_beyond(&self, speaks: bool, lack: Lack) -> Result<(Key, Option<Key>), Errno> {
        let key = self.enter_table()?;
        let oldest = self
            .state
            .borrow_mut()
            .places
            .goes_beyond(key, speaks, lack);
        Ok((key, oldest))
    }
}
