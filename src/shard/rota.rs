//! Those who have something left to be looked at, one after the other.
//!
//! Knows: who is in the rota, and that each of them gets one share of a turn before it is put
//! behind all others. Refuses to know: what the bytes are.
//!
//! ```text
//!   completion --> looked at at once, within a share --> done
//!                        | share over, or not admitted to TLS yet      ^
//!                        v                                             |
//!                  Unread, or left in the socket --> rota --> a share -+
//!                                                     ^                | not done
//!                                                     +----------------+
//! ```
//!
//! Whoever needs little is served in passing, when its completion comes. Whoever needs more waits
//! here: what comes for it is only announced, and received at once when its turn has come, so that
//! it takes none of the receive memory that others are received into.
//!
//! Whoever needs little and found no receive memory, because those who need more have it, waits in
//! a line of its own: two hundred long messages before it would be a twentieth of a second. Each
//! step serves the first of both lines, so that neither waits for the other. In every second turn
//! there is a step at least, and whoever finds no memory then keeps its place: with N in the rota,
//! nobody in it waits for more than 2 N turns. When there is memory for one only, the line that got
//! none has its first served first in the next turn, so that each gets every second one.

use std::collections::VecDeque;

use super::{GREEDY_FOR, MESSAGE_TURN_BYTES_MAX, Shard, return_lent, service::Service};
use crate::{
    conn::{
        Connection, Key, Stage,
        mistake::Mistake,
        unread::{End, Unread},
    },
    ring::{Arrival, Errno, Expected, Outcome, RecvLease, RecvNow, Ring},
};

/// What was put off and looked at, whose memory is kept.
const SPARE_UNREAD_MAX: usize = 4;

/// In which line of the rota a connection waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Of those who need little, and found no receive memory.
    Modest,
    /// Of all others.
    Common,
}

/// Those who wait for their turn, each in one line and once.
#[derive(Debug, Default)]
pub(super) struct Rota {
    modest: VecDeque<Key>,
    common: VecDeque<Key>,
    /// The others went first, and took the memory there was.
    common_goes_first: bool,
}

impl Rota {
    /// Whether nobody waits.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.common.is_empty() && self.modest.is_empty()
    }

    /// Everybody who waits.
    #[cfg(feature = "sim")]
    pub(super) fn keys(&self) -> Vec<Key> {
        self.modest.iter().chain(&self.common).copied().collect()
    }

    /// Who waits behind those who need much.
    #[cfg(feature = "sim")]
    pub(super) const fn common(&self) -> &VecDeque<Key> {
        &self.common
    }

    /// The lines, in the order in which each step serves them.
    const fn order(&self) -> [Line; 2] {
        if self.common_goes_first {
            [Line::Common, Line::Modest]
        } else {
            [Line::Modest, Line::Common]
        }
    }

    const fn line(&mut self, line: Line) -> &mut VecDeque<Key> {
        match line {
            Line::Modest => &mut self.modest,
            Line::Common => &mut self.common,
        }
    }
}

impl<R: Ring, S: Service> Shard<R, S> {
    /// Puts a connection at the end of the rota, unless it is there already.
    #[inline]
    pub(super) fn queue_up(&mut self, key: Key) {
        self.queue_up_in(Line::Common, key);
    }

    /// As [`queue_up`](Self::queue_up), of a connection that found no receive memory.
    pub(super) fn queue_up_starved(&mut self, key: Key) {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        let needs_little = !link.needs_much();
        #[cfg(feature = "sim")]
        {
            link.starved_modest = needs_little;
        }
        let line = if needs_little && !self.shared.errs(Mistake::StarvesModest) {
            Line::Modest
        } else {
            Line::Common
        };
        self.queue_up_in(line, key);
    }

    #[inline]
    fn queue_up_in(&mut self, line: Line, key: Key) {
        if let Some(Connection { link, .. }) = self.slab.get_mut(key)
            && !link.queued
        {
            link.queued = true;
            self.rota.line(line).push_back(key);
        }
    }

    /// Keeps received bytes for the connection's next share.
    pub(super) fn put_off(&mut self, key: Key, bytes: &[u8]) {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        link.rare.unread_in(&mut self.spare_unread).push(bytes);
        self.grow_greedy(key);
        self.queue_up(key);
    }

    /// The connection has used up its share, or more memory than others are left: from now on, and
    /// for a while, it is received for when its turn has come.
    pub(super) fn grow_greedy(&mut self, key: Key) {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        link.greedy_for = GREEDY_FOR;
        if link.receiving && link.arrival == Arrival::Delivered {
            self.cancel_receive(key);
        }
    }

    /// Serves the rota until the turn has cost what it may, and one of each line at least.
    pub(super) fn serve_rota(&mut self) {
        self.rota_blocked = true;
        // Whoever is put back is looked at again in the next turn.
        let order = self.rota.order();
        let mut left = order.map(|line| (line, self.rota.line(line).len()));
        let mut starved = [const { Vec::new() }; 2];
        while left.iter().any(|&(_, waiting)| waiting > 0) {
            for ((line, waiting), starved) in left.iter_mut().zip(&mut starved) {
                if *waiting > 0 {
                    *waiting -= 1;
                    self.serve_first(*line, starved);
                }
            }
            self.look_at_budget();
            if self.budget.is_turn_over() {
                break;
            }
        }
        let has_second_starved = starved.last().is_some_and(|second| !second.is_empty());
        self.rota.common_goes_first = has_second_starved && order[1] == Line::Common;
        // Whoever found no receive memory keeps its place: behind those who have it now, it would
        // find none again.
        for ((line, _), starved) in left.into_iter().zip(starved) {
            for key in starved.into_iter().rev() {
                self.rota.line(line).push_front(key);
            }
        }
        self.rota_blocked &= !self.rota.is_empty();
    }

    /// Serves the first of a line, or adds it to those who found no receive memory.
    fn serve_first(&mut self, line: Line, starved: &mut Vec<Key>) {
        let is_mistaken = self.shared.errs(Mistake::ServesNewestFirst);
        let line = self.rota.line(line);
        let next = if is_mistaken {
            line.pop_back()
        } else {
            line.pop_front()
        };
        if let Some(key) = next
            && self.is_starved(key)
        {
            starved.push(key);
        }
    }

    /// One share of a connection. Returns whether there was no receive memory for it.
    fn is_starved(&mut self, key: Key) -> bool {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return false;
        };
        link.queued = self.shared.errs(Mistake::StaysQueued);
        #[cfg(feature = "sim")]
        {
            link.starved_modest = false;
        }
        if link.paused || link.choked {
            // It is put here again when its peer has read, or when there is memory.
            #[cfg(feature = "sim")]
            {
                link.passed_over = link.passed_over.wrapping_add(1);
            }
            return false;
        }
        self.touch(key);
        self.budget.begin_share();
        self.is_unread_looked_at(key) && self.receive_now(key)
    }

    /// Looks at what was put off. Returns whether nothing of it is left.
    fn is_unread_looked_at(&mut self, key: Key) -> bool {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return true;
        };
        if !link.rare.has_unread() {
            return true;
        }
        self.rota_blocked = false;
        if link.goes_on() {
            self.received_plain(key, &mut []);
        }
        let plain = self
            .slab
            .get_mut(key)
            .and_then(|it| it.link.rare.unread()?.take_plain());
        if let Some(mut plain) = plain {
            let left = self.received_plain(key, plain.bytes());
            if let Some(Connection { link, .. }) = self.slab.get_mut(key) {
                link.rare.unread_mut().put_back_plain(plain, left);
            }
        }
        let is_share_over = self.budget.is_share_over();
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return true;
        };
        if !is_share_over && let Some(mut bytes) = link.rare.unread_mut().take_bytes() {
            let left = self.received_wrapped(key, bytes.bytes());
            if let Some(Connection { link, .. }) = self.slab.get_mut(key) {
                link.rare.unread_mut().put_back_bytes(bytes, left);
            }
        }
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return true;
        };
        if !link.wants_receive() {
            let unread = link.rare.take_unread();
            self.keep_unread(unread);
            return true;
        }
        let goes_on = link.goes_on();
        let unread = link.rare.unread_mut();
        let end = if goes_on { None } else { unread.take_end() };
        let is_empty = unread.is_empty() && !goes_on;
        if is_empty {
            let unread = link.rare.take_unread();
            self.keep_unread(unread);
        } else {
            self.queue_up(key);
        }
        if let Some(end) = end {
            self.input_ended(key, end);
            return false;
        }
        is_empty
    }

    /// Keeps memory for whoever is put off next.
    fn keep_unread(&mut self, unread: Option<Box<Unread>>) {
        if let Some(mut unread) = unread
            && unread.clear()
            && self.spare_unread.len() < SPARE_UNREAD_MAX
        {
            self.spare_unread.push(unread);
        }
    }

    /// There will be no more from this peer.
    pub(super) fn input_ended(&mut self, key: Key, end: End) {
        match end {
            End::Stream => self.stream_ended(key),
            End::Failed(errno) => self.transport_failed(key, errno),
            End::TlsClosed => self.peer_ended(key),
            End::Tls(error) => self.tls_failed(key, error),
        }
    }

    /// Receives until the share is over, what a long message may take at once has come, or nothing
    /// is left in the socket. As long as the same memory is used, it is in the cache. Returns
    /// whether there was no memory at all; it counts as being in the rota then.
    fn receive_now(&mut self, key: Key) -> bool {
        let until = self.turn_bytes + MESSAGE_TURN_BYTES_MAX;
        let mut has_received = false;
        loop {
            let Some(Connection { link, socket, .. }) = self.slab.get_mut(key) else {
                return false;
            };
            let queue_high_bytes = self.shared.config.queue_high_bytes;
            let is_held_up = link.paused || link.choked;
            let (Some(socket), true, false) = (socket, link.readable, is_held_up) else {
                return false;
            };
            if !link.wants_receive() || link.queued_bytes() > queue_high_bytes {
                return false;
            }
            let is_long = link.long_for > 0;
            let expected = if is_long {
                Expected::LongMessage
            } else {
                Expected::Share
            };
            // What was sent is free again.
            return_lent(&mut self.ring, &mut self.shared);
            let RecvNow {
                outcome,
                is_drained,
            } = self.ring.recv_now(socket, expected);
            match outcome {
                Outcome::Received(lease) => {
                    has_received = true;
                    self.rota_blocked = false;
                    self.shared.counts.recv_large += 1;
                    self.bytes_received(key, lease, true);
                    // Of a long message more may have come while it was looked at.
                    if is_drained && !is_long {
                        self.nothing_to_receive(key);
                        return false;
                    }
                }
                Outcome::Failed(Errno::NO_BUFFERS) if has_received => {
                    self.queue_up_starved(key);
                    return false;
                }
                Outcome::Failed(Errno::NO_BUFFERS) => {
                    link.queued = true;
                    return true;
                }
                outcome => {
                    self.rota_blocked = false;
                    self.nothing_to_receive(key);
                    self.recv_ended(key, outcome);
                    return false;
                }
            }
            let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
                return false;
            };
            if link.queued {
                // Its share is over, with bytes left to look at.
                return false;
            }
            let long_bytes_min = self.recv_sizes.long_bytes_min;
            let in_long_message = link.endpoint.announced_bytes() >= long_bytes_min;
            if is_long && !in_long_message {
                // What comes next is most often the next message, which the peer sends when it has
                // our answer.
                self.nothing_to_receive(key);
                return false;
            }
            self.look_at_budget();
            if self.turn_bytes >= until || self.budget.is_share_over() {
                self.queue_up(key);
                return false;
            }
        }
    }

    fn nothing_to_receive(&mut self, key: Key) {
        if let Some(Connection { link, .. }) = self.slab.get_mut(key) {
            link.readable = false;
        }
    }

    /// Looks at the clock, if it is time to, and says once that the service holds everybody up.
    #[inline]
    pub(super) fn look_at_budget(&mut self) {
        if self.budget.wants_look() {
            let pace = self.budget.look(self.ring.now());
            self.keep_pace(pace);
        }
    }

    /// Whether bytes of this connection are kept for its turn at once: others are before it, or it
    /// has not been admitted to TLS yet, which costs more than most turns.
    #[inline]
    pub(super) fn is_put_off(&mut self, key: Key) -> bool {
        self.slab
            .get_mut(key)
            .is_some_and(|Connection { link, .. }| {
                link.rare.has_unread()
                    || matches!(link.stage, Stage::Opening(_)) && link.is_securing()
            })
    }

    /// As [`put_off`](Self::put_off), of a whole lease.
    pub(super) fn put_lease_off(&mut self, key: Key, lease: RecvLease) {
        if let Some(Connection { link, .. }) = self.slab.get_mut(key) {
            link.rare.unread_in(&mut self.spare_unread).push(&lease);
        }
        self.ring.recycle(lease);
        self.queue_up(key);
    }
}
