//! TLS between a connection's queue and its socket.
//!
//! Knows: a session, what it wrote and was not sent yet, and how plaintext becomes records that
//! fill the send chunks. Refuses to know: when something is sent, and what it is.

use std::fmt;

use super::Outbox;
#[cfg(feature = "sim")]
use crate::ring::send::Holdings;
use crate::{
    proto::endpoint::Unfinished,
    ring::{SendArena, SendQueue},
    tls::{PLAINTEXT_BYTES_MAX, Session, TlsError},
};

/// Plaintext encrypted for one send at most. What is beyond it stays plaintext until the kernel has
/// taken this: a large payload that many connections share is then not copied whole for each of
/// them, and what a send reads is in cache still.
const SEALED_BYTES_MAX: usize = 17 * PLAINTEXT_BYTES_MAX;

/// The TLS of a connection, and the records that wait for its next send.
pub struct Secure {
    session: Session,
    /// What TLS itself wrote, or what is left of a send. It goes before everything else.
    pending: Option<Box<SendQueue>>,
}

impl Secure {
    /// Around a session that nothing was received for yet.
    pub const fn new(session: Session) -> Self {
        Self {
            session,
            pending: None,
        }
    }

    /// The session.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// As [`Session::unfinished`].
    pub fn unfinished(&mut self) -> Option<Unfinished> {
        self.session.unfinished()
    }

    /// Writes what a client says first.
    ///
    /// # Errors
    ///
    /// As [`Session::start`].
    pub fn start(&mut self, arena: &mut SendArena) -> Result<(), TlsError> {
        let Self { session, pending } = self;
        let queue = pending;
        session.start(&mut Outbox { queue, arena })
    }

    /// Takes received records and appends their plaintext to `plain`.
    ///
    /// # Errors
    ///
    /// As [`Session::receive`].
    pub fn receive(
        &mut self,
        records: &mut [u8],
        plain: &mut Vec<u8>,
        arena: &mut SendArena,
    ) -> Result<(), TlsError> {
        let Self { session, pending } = self;
        let queue = pending;
        session.receive(records, plain, &mut Outbox { queue, arena })
    }

    /// Puts what is left of a send back: what was written meanwhile follows it.
    pub fn put_back(&mut self, mut queue: Box<SendQueue>, arena: &mut SendArena) {
        if let Some(mut later) = self.pending.take() {
            queue.append(&mut later);
            arena.retire(later);
        }
        self.pending = Some(queue);
    }

    /// The records of the next send: what waits, and then plaintext of `outgoing`, as much of it as
    /// one send should have. With `is_last`, nothing will be written after what is in `outgoing`:
    /// behind its end goes a `close_notify`.
    ///
    /// Frames that lie side by side share a record. Pieces that are shorter than one are gathered,
    /// in `gathered`, so that they do too.
    ///
    /// # Errors
    ///
    /// As [`Session::encrypt`].
    pub fn seal(
        &mut self,
        outgoing: &mut Option<Box<SendQueue>>,
        is_last: bool,
        gathered: &mut Vec<u8>,
        arena: &mut SendArena,
    ) -> Result<Option<Box<SendQueue>>, TlsError> {
        let Self { session, pending } = self;
        if let Some(plain) = outgoing
            && session.is_open()
        {
            let mut budget = SEALED_BYTES_MAX;
            while budget > 0 {
                let first = plain.pieces().next().unwrap_or_default();
                let mut len = first.len().min(budget);
                if len < plain.len() {
                    // Whole records, unless it is all there is.
                    len -= len % PLAINTEXT_BYTES_MAX;
                }
                let next = if len > 0 {
                    &first[..len]
                } else if plain.is_empty() {
                    break;
                } else {
                    gathered.clear();
                    for piece in plain.pieces() {
                        let room = PLAINTEXT_BYTES_MAX - gathered.len();
                        gathered.extend_from_slice(&piece[..piece.len().min(room)]);
                        if piece.len() >= room {
                            break;
                        }
                    }
                    &gathered[..]
                };
                let len = next.len();
                let queue = &mut *pending;
                session.encrypt(next, &mut Outbox { queue, arena })?;
                plain.advance(arena, len);
                budget = budget.saturating_sub(len);
            }
        }
        let is_unsendable = is_last && (!session.is_open() || session.is_closed());
        if let Some(plain) = outgoing.take_if(|plain| plain.is_empty() || is_unsendable) {
            arena.retire(plain);
        }
        if is_last && outgoing.is_none() {
            let queue = &mut *pending;
            session.close(&mut Outbox { queue, arena });
        }
        if let Some(empty) = pending.take_if(|queue| queue.is_empty()) {
            arena.retire(empty);
        }
        Ok(pending.take())
    }

    /// Bytes of records that wait for the next send.
    pub fn pending_bytes(&self) -> usize {
        self.pending.as_ref().map_or(0, |queue| queue.len())
    }

    /// Bytes of memory that it takes beside its queue.
    pub fn held_bytes(&self) -> usize {
        self.session.held_bytes()
    }

    /// Adds what waits for the next send to a sum.
    #[cfg(feature = "sim")]
    pub fn add_to(&self, holdings: &mut Holdings) {
        if let Some(queue) = &self.pending {
            queue.add_to(holdings);
        }
    }

    /// Gives back what it holds of the arena's.
    pub fn release(&mut self, arena: &mut SendArena) {
        if let Some(queue) = self.pending.take() {
            arena.retire(queue);
        }
    }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}
