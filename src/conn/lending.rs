//! Messages that go back as they came, sent from where they lie.
//!
//! Knows: which bytes a service is lent during one call, and which of them it sent back. Refuses to
//! know: what a frame is, and when memory goes back to whom it belongs.
//!
//! ```text
//!   lease        |   frame 1   |     frame 2      |  frame 3  |
//!   while the service looks:  promise(frame 2) --> a place in the queue
//!   afterwards   | recycled    |  moves into      | recycled  |
//!                              |  that place      |
//! ```
//!
//! While a service looks at a message, the memory is borrowed and cannot move into a queue. So a
//! place is kept for it there, and the memory follows when nobody looks any more.

use std::ops::Range;

use crate::ring::{Lent, RecvLease, Ring, SendQueue};

/// What is lent to the service of one connection, and what it promised to send of it.
#[derive(Debug, Default)]
pub struct Lending {
    /// Addresses of the received bytes that may still be promised. Empty while nothing may.
    lease: Range<usize>,
    promises: Vec<Promise>,
    /// Addresses of the message that was put together, likewise.
    message: Range<usize>,
    message_promise: Option<usize>,
    /// Bytes of receive memory that may still be promised in this turn.
    turn_bytes: usize,
    /// The lease is of memory that others do not wait for, and may be promised whole.
    unlimited: bool,
}

/// A place in the queue for part of a lease.
#[derive(Debug)]
struct Promise {
    /// Its name in the queue.
    place: usize,
    address: usize,
    len: usize,
}

fn addresses(bytes: &[u8]) -> Range<usize> {
    let start = bytes.as_ptr().addr();
    start..start + bytes.len()
}

fn holds(whole: &Range<usize>, part: &Range<usize>) -> bool {
    whole.start <= part.start && part.end <= whole.end
}

impl Lending {
    /// A turn begins, in which up to `bytes` of receive memory may be promised.
    pub const fn begin_turn(&mut self, bytes: usize) {
        self.turn_bytes = bytes;
    }

    /// Received bytes are lent from here on. `unlimited`: whatever was promised in this turn.
    #[inline]
    pub fn lend(&mut self, lease: &RecvLease, unlimited: bool) {
        self.lease = addresses(lease);
        self.unlimited = unlimited;
    }

    /// A message that was put together is lent, until [`take_message`](Self::take_message).
    pub fn lend_message(&mut self, frame: &[u8]) {
        self.message = addresses(frame);
    }

    /// Keeps a place in `queue` for these bytes, if they are lent and were not promised before.
    /// Returns whether it did. `lease`: whether receive memory may be promised.
    pub fn promise(&mut self, frame: &[u8], queue: &mut SendQueue, lease: bool) -> bool {
        let part = addresses(frame);
        let len = part.len();
        if holds(&self.message, &part) {
            // Once: a second place for the same memory is filled with a copy.
            self.message = 0..0;
            self.message_promise = Some(queue.promise(len));
            return true;
        }
        if !lease || !holds(&self.lease, &part) {
            return false;
        }
        if !self.unlimited {
            if len > self.turn_bytes {
                return false;
            }
            self.turn_bytes -= len;
        }
        // Promises are kept in the order of the bytes, so that what lies before is over.
        self.lease.start = part.end;
        self.promises.push(Promise {
            place: queue.promise(len),
            address: part.start,
            len,
        });
        true
    }

    /// Nobody looks at the message any more. Returns the place that was promised for it.
    pub const fn take_message(&mut self) -> Option<usize> {
        self.message = 0..0;
        self.message_promise.take()
    }

    /// Nobody looks at the lease any more: what was promised of it moves into `queue`, and the rest
    /// is recycled.
    #[inline]
    pub fn settle<R: Ring>(
        &mut self,
        ring: &mut R,
        lease: RecvLease,
        queue: Option<&mut SendQueue>,
    ) {
        self.lease = 0..0;
        match queue {
            Some(queue) if !self.promises.is_empty() => self.keep(ring, lease, queue),
            _ => {
                self.promises.clear();
                ring.recycle(lease);
            }
        }
    }

    fn keep<R: Ring>(&mut self, ring: &mut R, lease: RecvLease, queue: &mut SendQueue) {
        let mut rest = lease;
        for promise in self.promises.drain(..) {
            let before = promise.address - addresses(&rest).start;
            if before > 0 {
                let (passed, later) = ring.split(rest, before);
                ring.recycle(passed);
                rest = later;
            }
            let (kept, later) = ring.split(rest, promise.len);
            queue.fulfil(promise.place, Lent::Lease(kept));
            rest = later;
        }
        ring.recycle(rest);
    }
}
