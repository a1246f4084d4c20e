//! What happens on single connections by the clock: instants that a workload asks for, and
//! connections that are closed in good order and opened anew.
//!
//! Knows: when, and what became of a place's connection. Refuses to know: what is sent.
//!
//! ```text
//!   dialled --> open --> retiring --> closing --> (a pause) --> dialled --> ...
//!                 |         |            |
//!                 |         |            +- the server answers our close frame
//!                 |         +- nothing new is sent; closed when all is answered
//!                 +--> gone: it ended before it was asked to, and is not opened again
//! ```
//!
//! The invariant: a place has at most one connection, and an alarm rings for the connection that it
//! was set for or not at all.

use std::{cmp::Reverse, collections::BinaryHeap};

use ringwire::{CloseCause, CloseCode};

use super::{CLOSE_MAX_MS, DUE_MAX, Hub, Index, Thread, Workload, sentence};

/// How long a place whose connection did not open, or whose conversation broke off, waits for the
/// next one, in nanoseconds.
const PAUSE_NS: u64 = 250_000_000;

/// How often connections that are to be closed are looked at, in nanoseconds.
const RETIRING_NS: u64 = 1_000_000;

/// What became of a place's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It is being opened, or is to be.
    Dialled,
    /// It is open.
    Open,
    /// It is open, and closed as soon as all is answered.
    Retiring,
    /// Our close frame is on its way.
    Closing,
    /// It has ended before its time, or has never opened.
    Gone,
}

/// What is to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The workload asked for it.
    Work,
    /// The connection has lived long enough.
    Retire,
    /// The conversation on it broke off.
    BreakOff,
    /// The next connection is opened.
    Dial,
}

/// Instants in order, each with the place, the epoch of its connection, and what is to happen.
#[derive(Debug, Default)]
pub struct Alarms(BinaryHeap<Reverse<(u64, u32, u32, What)>>);

impl Hub {
    /// Has the workload called for a place's connection at an instant of the run, unless the
    /// connection has ended by then. After the end of the run nobody is called.
    pub fn wake_at(&mut self, index: usize, at_ns: u64) {
        self.set(at_ns, index as u32, What::Work);
    }

    /// Closes a place's connection, on which nothing can go on, and opens another.
    pub fn break_off(&mut self, index: usize, now_ns: u64) {
        self.set(now_ns, index as u32, What::BreakOff);
    }

    fn set(&mut self, at_ns: u64, index: u32, what: What) {
        let epoch = self.places[index as usize].epoch;
        self.alarms.0.push(Reverse((at_ns, index, epoch, what)));
    }

    /// When the thread has to look again.
    pub(super) fn next_alarm_ns(&self, now_ns: u64) -> u64 {
        let first = self.alarms.0.peek().map(|Reverse((at_ns, ..))| *at_ns);
        let first = first.unwrap_or(u64::MAX);
        match self.retiring.is_empty() {
            true => first,
            false => first.min(now_ns + RETIRING_NS),
        }
    }

    /// Whether the run has begun: connections that open now are not its first ones.
    pub(super) const fn has_begun(&self) -> bool {
        self.end_ns < u64::MAX
    }

    /// Decides how long a connection lives. The first of a place have any part of a life before
    /// them, as if they had been there for long; the others about a whole one.
    fn live_until(&mut self, index: u32, from_ns: u64, shares: (f64, f64)) {
        if let Some(churn_ms) = self.plan.churn_ms {
            let share = shares.0 + fastrand::f64() * (shares.1 - shares.0);
            let at_ns = from_ns + (churn_ms as f64 * 1e6 * share) as u64;
            self.set(at_ns, index, What::Retire);
        }
    }

    pub(super) fn begin_life(&mut self, index: u32, now_ns: u64) {
        self.live_until(index, now_ns, (0.5, 1.5));
    }

    /// A connection did not open. In a run that goes on another one is tried.
    pub(super) fn not_opened(&mut self, index: u32, reason: String, now_ns: u64) {
        self.places[index as usize].life = Life::Gone;
        self.failed(reason);
        if self.has_begun() {
            self.tally.slice.errors += 1;
            self.set(now_ns + PAUSE_NS, index, What::Dial);
        }
    }

    /// Whether a connection ended because this side has closed it, and the other has answered that
    /// in time.
    pub(super) fn is_closed(&self, state: Index, now_ns: u64) -> bool {
        let place = self.places.get(state.place());
        place.is_some_and(|place| {
            let waited_ns = now_ns.saturating_sub(place.closed_ns);
            place.life == Life::Closing && waited_ns < CLOSE_MAX_MS * 1_000_000
        })
    }

    /// A connection has ended as it was to: the next one follows.
    pub(super) fn renew(&mut self, index: u32, now_ns: u64) {
        self.tally.renewed += 1;
        let place = &mut self.places[index as usize];
        place.life = Life::Dialled;
        let pause_ns = std::mem::take(&mut place.pause_ns);
        self.set(now_ns + pause_ns, index, What::Dial);
    }

    /// Instants are not for this connection any more. The last one takes its turn: thousands that
    /// end at once are not to be walked over each.
    pub(super) fn leave_open(&mut self, index: u32) {
        let at = self.places[index as usize].open_at as usize;
        self.open.swap_remove(at);
        if let Some(&moved) = self.open.get(at) {
            self.places[moved as usize].open_at = at as u32;
        }
    }
}

impl<W: Workload> Thread<W> {
    /// The run has begun: connections that are to be opened anew have a time to live.
    pub(super) fn begin_lives(&mut self, start_ns: u64) {
        let hub = self.hub();
        for index in hub.open.clone() {
            hub.live_until(index, start_ns, (0.0, 1.0));
        }
    }

    /// Does what is due on single connections. Returns whether there is more.
    pub(super) fn ring_alarms(&mut self) -> bool {
        if !self.hub().retiring.is_empty() {
            self.close_answered();
        }
        // Most runs have none, and the clock is not asked for nothing.
        if self.hub().alarms.0.is_empty() {
            return false;
        }
        for _ in 0..DUE_MAX {
            let now_ns = self.now_ns();
            let alarms = &mut self.hub().alarms.0;
            match alarms.peek() {
                Some(Reverse((at_ns, ..))) if *at_ns <= now_ns => {}
                _ => return false,
            }
            let Some(Reverse((_, index, epoch, what))) = alarms.pop() else {
                return false;
            };
            if self.hub().places[index as usize].epoch == epoch {
                self.ring(index, what, now_ns);
            }
        }
        true
    }

    fn ring(&mut self, index: u32, what: What, now_ns: u64) {
        let hub = self.hub();
        let place = &mut hub.places[index as usize];
        match (what, place.life) {
            (What::Work, Life::Open | Life::Retiring) => {
                let Some(id) = place.id else { return };
                self.client.with_conn(id, |driver, conn| {
                    let at = index as usize;
                    driver.work.alarm(&mut driver.hub, conn, at, now_ns);
                });
            }
            (What::Retire, Life::Open) => {
                place.life = Life::Retiring;
                hub.leave_open(index);
                hub.retiring.push(index);
            }
            (What::BreakOff, Life::Open) => {
                place.pause_ns = PAUSE_NS;
                hub.leave_open(index);
                self.close_one(index);
            }
            (What::BreakOff, Life::Retiring) => {
                hub.retiring.retain(|&other| other != index);
                self.close_one(index);
            }
            (What::Dial, Life::Dialled | Life::Gone) => {
                let plan = hub.plan.clone();
                self.dial_for(&plan, index);
            }
            _ => {}
        }
    }

    /// Closes those that are to end and have all their answers.
    fn close_answered(&mut self) {
        let now_ns = self.now_ns();
        let driver = self.client.service();
        let (hub, work) = (&mut driver.hub, &driver.work);
        let places = &hub.places;
        let done = |&mut index: &mut u32| {
            let at = index as usize;
            places[at].backlog.is_empty() && work.is_answered(at, now_ns)
        };
        let answered: Vec<u32> = hub.retiring.extract_if(.., done).collect();
        for index in answered {
            self.close_one(index);
        }
    }

    fn close_one(&mut self, index: u32) {
        let now_ns = self.now_ns();
        let place = &mut self.hub().places[index as usize];
        (place.life, place.closed_ns) = (Life::Closing, now_ns);
        if let Some(id) = place.id {
            self.client.with_conn(id, |_, conn| {
                // It is open, so that nothing stands against it.
                let _ = conn.close(CloseCode::NORMAL_CLOSURE, "");
            });
        }
    }
}

/// Why a connection ended that was not to end.
pub(super) fn ended(life: Life, cause: &CloseCause) -> String {
    match life {
        Life::Closing => "the server did not answer a close frame within a second".to_owned(),
        _ => sentence(cause),
    }
}
