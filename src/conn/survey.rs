//! The connections that stand out, for a person who asks.
//!
//! Knows: by what they are ordered, and how many are wanted. Refuses to know: who walks over them.
//!
//! Whoever has a hundred thousand connections walks over them in pieces, so that nobody waits for
//! it; and keeps the few that are wanted, so that it takes no memory to speak of.

use std::{fmt, time::Duration};

use super::{ConnId, Link, age};
use crate::ring::{PeerAddress, Time};

/// Connections that are looked at in one go.
pub const PIECE: u32 = 512;

/// By what connections are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurveyOrder {
    /// The oldest first.
    Age,
    /// Those who hold most memory first.
    Held,
    /// Those with most queued for them first.
    Queued,
}

/// A connection as it was when it was looked at: [`Handle::survey`](crate::Handle::survey).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// Its name.
    pub id: ConnId,
    /// Where the other end is; of a proxy, the proxy.
    pub peer: PeerAddress,
    /// Whether it is encrypted.
    pub is_secure: bool,
    /// At which stage of its life it is: `open` for most.
    pub stage: &'static str,
    /// How long it has been there.
    pub age: Duration,
    /// How long nothing has come from it.
    pub silence: Duration,
    /// Bytes of memory that it holds.
    pub held_bytes: usize,
    /// Those of them that wait for the peer to take them.
    pub queued_bytes: usize,
}

impl Seen {
    /// A connection, as it is now; its peer is not known yet.
    pub fn new(id: ConnId, link: &Link, now: Time) -> Self {
        Self {
            id,
            peer: PeerAddress::Unknown,
            is_secure: link.rare.tls().is_some(),
            stage: link.stage.name(),
            age: age(link.born_ms, now),
            silence: link.silence(now.as_ms()),
            held_bytes: link.held_bytes(),
            queued_bytes: link.queued_bytes(),
        }
    }
}

/// The best of those that were looked at so far.
pub fn keep_best(seen: &mut Vec<Seen>, order: SurveyOrder, most: usize) {
    seen.sort_by_cached_key(|seen| {
        std::cmp::Reverse(match order {
            SurveyOrder::Age => seen.age.as_millis(),
            SurveyOrder::Held => seen.held_bytes as u128,
            SurveyOrder::Queued => seen.queued_bytes as u128,
        })
    });
    seen.truncate(most);
}

/// A walk over the connections of one thread, as far as it has come.
pub struct Survey {
    order: SurveyOrder,
    most: usize,
    next: u32,
    seen: Vec<Seen>,
    tell: Tell,
}

/// What is done with what was seen.
type Tell = Box<dyn FnOnce(Vec<Seen>) + Send>;

impl Survey {
    /// A walk that has not begun. `tell` is called at its end, on the thread that walks: it is to
    /// hand the connections on and no more.
    pub fn new(order: SurveyOrder, most: usize, tell: Tell) -> Self {
        Self {
            order,
            most,
            next: 0,
            seen: Vec::new(),
            tell,
        }
    }

    /// The places that are next, of so many.
    pub fn piece(&mut self, places: usize) -> std::ops::Range<u32> {
        let end = self.next.saturating_add(PIECE).min(places as u32);
        std::mem::replace(&mut self.next, end).min(end)..end
    }

    /// Whether it has come to the end.
    pub const fn is_over(&self, places: usize) -> bool {
        self.next as usize >= places
    }

    /// A connection was looked at.
    pub fn see(&mut self, seen: Seen) {
        self.seen.push(seen);
        if self.seen.len() >= self.most.saturating_add(PIECE as usize) {
            keep_best(&mut self.seen, self.order, self.most);
        }
    }

    /// It is over: `find` tells where the other ends are of those that are wanted.
    pub fn end(mut self, mut find: impl FnMut(ConnId) -> PeerAddress) {
        keep_best(&mut self.seen, self.order, self.most);
        for seen in &mut self.seen {
            seen.peer = find(seen.id);
        }
        (self.tell)(self.seen);
    }
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey")
            .field("order", &self.order)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
