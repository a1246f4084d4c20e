//! What a connection receives, and the messages in it.
//!
//! Knows: one receive buffer, which part of it was looked at, and where in it a message lies.
//! Refuses to know: who waits for it.
//!
//! ```text
//!   bytes   | looked at | batch of short messages | not looked at | room |
//!                         ^ the next to hand out    ^ at            ^ end
//! ```
//!
//! Everything is here between two calls, and nothing in a future: one that is dropped while it
//! waits has taken nothing.

use std::{
    mem,
    ops::Range,
    rc::Rc,
    task::{Context as TaskContext, Poll, ready},
};

use super::{
    buffers::SMALL_BYTES,
    connection::Connection,
    local::State,
    socket::{Readable, Received},
};
use crate::{
    conn::{CloseCause, Ending, Link, Stage},
    proto::{
        CloseFrame, Event, Message, MessageKind, Payload,
        endpoint::Batch,
        message::{Framed, MessageBuffer},
    },
    ring::{Time, process::message_grew},
    shard::budget::cost,
    tls::TlsError,
};

/// Receives for which a connection that has filled a buffer gets large ones: as many as a few short
/// messages between long ones.
const LARGE_FOR: u8 = 16;

/// Frames that bring no event are looked at in portions of so many, to see whether the share is
/// over.
const FRAMES_AT_ONCE: u32 = 256;

/// Received bytes, and what is lent out of them.
#[derive(Debug, Default)]
pub struct Input {
    /// Without memory while there is nothing to look at.
    bytes: Vec<u8>,
    /// What was not looked at.
    rest: Range<usize>,
    /// Short messages that were, and were not handed out.
    batch: Range<usize>,
    /// Text that is not UTF-8 follows the batch.
    batch_failed: bool,
    /// `bytes` is plaintext of TLS.
    is_plaintext: bool,
    /// For so many receives more a large buffer is taken: one was filled not long ago.
    large_for: u8,
    /// Received, and not charged to the connection's share yet.
    unpaid_bytes: usize,
    /// The message that was handed out last, if it was put together.
    held: Option<Box<MessageBuffer>>,
    /// Bytes of the message that is handed out in pieces, so far.
    message_bytes: u64,
    /// What TLS came to behind these bytes.
    after: Option<Box<Result<(), TlsError>>>,
}

/// Where a message lies.
#[derive(Debug)]
pub enum Found {
    /// In the receive buffer.
    Received {
        /// Text or binary.
        kind: MessageKind,
        /// Bytes of a server's header in front of the payload.
        header_len: u8,
        /// The header and the payload.
        frame: Range<usize>,
    },
    /// In a buffer of its own.
    Held(MessageKind),
}

impl Found {
    /// Bytes of a message that lies in the receive buffer; of one that was put together, its bytes
    /// were paid for as they came.
    fn len(&self) -> usize {
        match self {
            Self::Received { frame, .. } => frame.len(),
            Self::Held(_) => 0,
        }
    }
}

impl Input {
    /// Bytes that somebody else has received.
    pub fn of_read(read: &[u8], state: &mut State) -> Self {
        if read.is_empty() {
            return Self::default();
        }
        let mut bytes = state.buffers.take_plain();
        bytes.extend_from_slice(read);
        Self {
            rest: 0..bytes.len(),
            bytes,
            is_plaintext: true,
            ..Self::default()
        }
    }

    /// The message that was found last.
    #[inline]
    pub fn message(&self, found: &Found) -> Message<'_> {
        match (found, &self.held) {
            (
                Found::Received {
                    kind,
                    header_len,
                    frame,
                },
                _,
            ) => Message::framed(*kind, *header_len, &self.bytes[frame.clone()]),
            (Found::Held(kind), Some(held)) => held.message(*kind),
            (Found::Held(kind), None) => Message::new(*kind, &[]),
        }
    }

    /// Takes the message that was put together, whose memory goes with it.
    pub fn take_held(&mut self) -> Option<Box<MessageBuffer>> {
        self.held.take()
    }

    /// Has messages come in pieces from here on. Returns the first piece, if there is one already.
    pub fn begin_pieces(&mut self, connection: &Connection) -> Option<Found> {
        let link = &mut *connection.link.borrow_mut();
        let (kind, gathered) = link.endpoint.hand_out_pieces(true)?;
        let state = &mut *connection.local.state.borrow_mut();
        if let Some(held) = self.held.replace(gathered) {
            state.shared.pool.give_back(held);
        }
        Some(Found::Held(kind))
    }

    /// The next message; `None` when there will be none.
    pub fn poll_event(
        &mut self,
        connection: &Rc<Connection>,
        context: &mut TaskContext<'_>,
    ) -> Poll<Option<Found>> {
        loop {
            if connection.share.is_over() {
                // Others have their turn before what is left is looked at.
                connection.flush_if_dirty();
                ready!(connection.poll_turn(context));
            }
            let found = self.next(connection);
            if self.unpaid_bytes > 0 {
                // Behind the look: what was not looked at at all would be kept for the next share.
                connection.share.received(mem::take(&mut self.unpaid_bytes));
            }
            if let Some(found) = found {
                connection.share.charge_message(found.len());
                return Poll::Ready(Some(found));
            }
            if self.has_rest(connection) && connection.is_receiving() {
                continue;
            }
            if !connection.is_receiving() {
                self.give_back(connection);
                connection.flush_if_dirty();
                return Poll::Ready(None);
            }
            // The peer waits for our answers before it says more.
            connection.flush_if_dirty();
            match self.poll_fill(connection, context) {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Whether there is something left to look at, for want of time: bytes, or a message that was
    /// inflated in part.
    pub fn has_rest(&self, connection: &Connection) -> bool {
        !self.rest.is_empty() || connection.link.borrow().goes_on()
    }

    /// The next message of what was received.
    #[inline]
    pub fn next(&mut self, connection: &Rc<Connection>) -> Option<Found> {
        if connection.deaf.get() {
            // The endpoint throws away what it has not looked at.
            self.batch = 0..0;
        } else if let Some(found) = self.next_of_batch() {
            return Some(found);
        }
        let is_idle = self.rest.is_empty() && self.held.is_none() && !self.batch_failed;
        if is_idle && !connection.link.borrow().goes_on() {
            return None;
        }
        self.look(connection)
    }

    #[inline]
    fn next_of_batch(&mut self) -> Option<Found> {
        let frames = self.bytes.get(self.batch.clone())?;
        let &[first, len] = frames.first_chunk()?;
        let start = self.batch.start;
        self.batch.start += 2 + usize::from(len);
        Some(Found::Received {
            kind: match first & 0xf {
                1 => MessageKind::Text,
                _ => MessageKind::Binary,
            },
            header_len: 2,
            frame: start..self.batch.start,
        })
    }

    fn look(&mut self, connection: &Rc<Connection>) -> Option<Found> {
        let link = &mut *connection.link.borrow_mut();
        let state = &mut *connection.local.state.borrow_mut();
        if let Some(held) = self.held.take() {
            state.shared.pool.give_back(held);
        }
        let before = link.queued_bytes();
        let found = self.look_in(connection, link, state);
        let is_last = self.rest.is_empty() && self.batch.is_empty();
        connection.alone.set(found.is_some() && is_last);
        let replied = link.queued_bytes().saturating_sub(before);
        if replied > 0 {
            let total = connection.replied_bytes.get() + replied;
            connection.replied_bytes.set(total);
            connection.touch();
        }
        found
    }

    fn look_in(
        &mut self,
        connection: &Rc<Connection>,
        link: &mut Link,
        state: &mut State,
    ) -> Option<Found> {
        let base = self.bytes.as_ptr().addr();
        let place = |part: &[u8]| {
            let start = part.as_ptr().addr() - base;
            start..start + part.len()
        };
        loop {
            if !matches!(link.stage, Stage::Open | Stage::Closing) {
                self.rest = 0..0;
                return None;
            }
            if mem::take(&mut self.batch_failed) {
                let (endpoint, mut context) = link.split(&mut state.shared);
                let error = endpoint.fail_text(&mut context);
                failed(connection, link, state, error);
                return None;
            }
            let mut input = &mut self.bytes[self.rest.clone()];
            let mut batch = Batch::new();
            let (endpoint, mut context) = link.split(&mut state.shared);
            if several_short(input) {
                endpoint.receive_batch(&mut input, &mut batch, &mut context);
                self.batch_failed = batch.is_failed();
                self.rest.start = self.rest.end - input.len();
                if batch.count() > 0 {
                    let frames = batch.frames();
                    self.batch = place(frames);
                    let counts = &mut state.shared.counts;
                    let messages = batch.count() as u64;
                    let payload_bytes = frames.len() as u64 - 2 * messages;
                    counts.messages_received += messages;
                    counts.payload_bytes_received += payload_bytes;
                    let received = &state.shared.stats.spread.message_received;
                    received.add_small(messages, payload_bytes);
                    connection.count(|tally| tally.receive(messages, payload_bytes));
                    return self.next_of_batch();
                }
                if self.batch_failed {
                    continue;
                }
            }
            let mut frames = FRAMES_AT_ONCE;
            let event = endpoint.receive_some(&mut input, &mut frames, &mut context);
            let left = input.len();
            self.rest.start = self.rest.end - left;
            let share = &connection.share;
            share.charge(u64::from(FRAMES_AT_ONCE - frames) * cost::FRAME_NS);
            if state.shared.codec.is_used() {
                share.charge_unsure(state.shared.codec.take_cost_ns());
            }
            let Some(event) = event else {
                let goes_on = left > 0 || link.endpoint.is_inflating();
                if link.endpoint.waits_to_inflate() {
                    share.give_up();
                }
                if goes_on && !share.is_over() {
                    continue;
                }
                return None;
            };
            match event {
                Event::Message { kind, payload } => {
                    self.message_bytes += payload.len() as u64;
                    let shared = &mut state.shared;
                    shared.counts.payload_bytes_received += payload.len() as u64;
                    if !link.endpoint.is_in_message() {
                        let bytes = mem::take(&mut self.message_bytes);
                        shared.counts.messages_received += 1;
                        shared.stats.spread.message_received.add(bytes);
                        connection.count(|tally| tally.receive(1, bytes));
                    }
                    return Some(match payload {
                        Payload::Borrowed(Framed { header_len, frame }) => Found::Received {
                            kind,
                            header_len,
                            frame: place(frame),
                        },
                        Payload::Owned(buffer) => {
                            self.held = Some(buffer);
                            Found::Held(kind)
                        }
                    });
                }
                Event::Ping(payload) => {
                    state.shared.pool.reclaim(payload);
                    share.charge(cost::CALL_NS);
                    if left > 0 && share.is_over() {
                        return None;
                    }
                }
                Event::Pong(payload) => {
                    state.shared.pong_came(&payload);
                    state.shared.pool.reclaim(payload);
                    share.charge(cost::CALL_NS);
                    if left > 0 && share.is_over() {
                        return None;
                    }
                }
                Event::Close(frame) => closed(connection, link, state, frame),
                Event::Failed(error) => failed(connection, link, state, error),
            }
        }
    }

    /// Receives more, once there is something.
    pub fn poll_fill(
        &mut self,
        connection: &Rc<Connection>,
        context: &mut TaskContext<'_>,
    ) -> Poll<()> {
        if let Some(after) = self.after.take() {
            let link = &mut *connection.link.borrow_mut();
            let state = &mut *connection.local.state.borrow_mut();
            match *after {
                Ok(()) => connection.peer_ended(link, state),
                Err(error) => connection.tls_failed(link, state, error),
            }
            return Poll::Ready(());
        }
        loop {
            let behind = {
                let state = connection.local.state.borrow();
                connection.replied_bytes.get() > state.shared.config.queue_high_bytes
            };
            if behind || connection.link.borrow().choked {
                // A peer that pings and does not read, or memory that runs short.
                connection.wait_for_room(context);
                self.give_back(connection);
                return Poll::Pending;
            }
            let Poll::Ready(readable) = connection.socket.poll_readable(context) else {
                connection.share.renew();
                self.give_back(connection);
                return Poll::Pending;
            };
            if !connection.may_receive(self.large_for > 0)
                && connection.poll_turn(context).is_pending()
            {
                self.give_back(connection);
                return Poll::Pending;
            }
            let link = &mut *connection.link.borrow_mut();
            let state = &mut *connection.local.state.borrow_mut();
            let received = match readable {
                Ok(mut readable) => self.receive(connection, link, state, &mut readable),
                Err(error) => Some(Received::Failed(error.into())),
            };
            match received {
                None => continue,
                Some(Received::Bytes(_)) => {}
                Some(Received::EndOfStream) => {
                    link.stream_ended = true;
                    connection.peer_ended(link, state);
                }
                Some(Received::Failed(errno)) => connection.transport_failed(link, state, errno),
            }
            return Poll::Ready(());
        }
    }

    fn receive(
        &mut self,
        connection: &Rc<Connection>,
        link: &mut Link,
        state: &mut State,
        readable: &mut Readable<'_>,
    ) -> Option<Received> {
        let large = self.large_for > 0;
        let is_secure = link.rare.tls().is_some();
        let is_small = self.bytes.len() <= SMALL_BYTES && large;
        if is_secure != self.is_plaintext || is_small {
            self.give_back_to(state);
        }
        self.is_plaintext = is_secure;
        let mut room = match is_secure {
            false if self.bytes.capacity() > 0 => mem::take(&mut self.bytes),
            _ => state.buffers.take(large),
        };
        let received = connection.socket.recv(readable, &mut room);
        if let Some(Received::Bytes(count)) = received {
            self.unpaid_bytes = count;
            state.received(count);
            let now = Time::monotonic_coarse();
            state.shared.now = now;
            link.heard_ms = now.as_ms() as u32;
            link.pings = 0;
            connection.local.counted(now);
            link.charge(&mut state.shared);
            if state.settle_ledger() && state.wants_relief(now) {
                connection.local.wake_keeper();
            }
            self.large_for = match count {
                count if count == room.len() || large && count > SMALL_BYTES / 2 => LARGE_FOR,
                _ => self.large_for.saturating_sub(1),
            };
            self.rest = 0..count;
            if large {
                message_grew(link.endpoint.gathered_bytes());
            }
        }
        if !is_secure {
            self.bytes = room;
            return received;
        }
        if let Some(Received::Bytes(count)) = received {
            self.decrypt(connection, link, state, &mut room[..count]);
        }
        state.buffers.give_back(room);
        received
    }

    fn decrypt(
        &mut self,
        connection: &Rc<Connection>,
        link: &mut Link,
        state: &mut State,
        records: &mut [u8],
    ) {
        if self.bytes.capacity() == 0 {
            self.bytes = state.buffers.take_plain();
        }
        self.bytes.clear();
        self.rest = 0..0;
        let Some(tls) = link.rare.tls_mut() else {
            return;
        };
        let was_open = tls.session().is_open();
        let received = tls.receive(records, &mut self.bytes, &mut state.shared.arena);
        connection
            .share
            .charge_unsure(cost::tls_bytes_ns(records.len()));
        self.rest = 0..self.bytes.len();
        let counts = &mut state.shared.counts;
        if !was_open && tls.session().is_open() {
            counts.tls_handshakes += 1;
            counts.tls_resumptions += u64::from(tls.session().is_resumed());
        }
        let is_peer_closed = tls.session().is_peer_closed();
        if link.queued_bytes() > 0 {
            connection.touch();
        }
        if received.is_err() || is_peer_closed {
            self.after = Some(Box::new(received));
        }
    }

    /// Bytes that were not looked at.
    pub fn rest(&mut self) -> &mut [u8] {
        &mut self.bytes[self.rest.clone()]
    }

    /// Counts bytes as looked at.
    pub fn advance(&mut self, bytes: usize) {
        self.rest.start += bytes;
    }

    /// Gives the memory back, once all of it was looked at.
    pub fn give_back(&mut self, connection: &Connection) {
        if self.bytes.capacity() > 0 || self.held.is_some() {
            self.give_back_to(&mut connection.local.state.borrow_mut());
        }
    }

    fn give_back_to(&mut self, state: &mut State) {
        if let Some(held) = self.held.take() {
            state.shared.pool.give_back(held);
        }
        let bytes = mem::take(&mut self.bytes);
        self.rest = 0..0;
        self.batch = 0..0;
        match self.is_plaintext {
            true => state.buffers.give_back_plain(bytes),
            false => state.buffers.give_back(bytes),
        }
    }
}

/// Whether a short frame comes first, and something behind it.
#[inline]
fn several_short(input: &[u8]) -> bool {
    let Some(&[_, second]) = input.first_chunk() else {
        return false;
    };
    let len = usize::from(second & 0x7f);
    len <= 125 && input.len() > len + 6
}

fn closed(connection: &Rc<Connection>, link: &mut Link, state: &mut State, frame: CloseFrame<'_>) {
    let ending = link.peer_closed(frame, &mut state.shared.pool);
    connection.finish(link, state, ending);
}

fn failed(
    connection: &Rc<Connection>,
    link: &mut Link,
    state: &mut State,
    error: crate::ProtocolError,
) {
    state.shared.counts.protocol_errors += 1;
    link.ends(CloseCause::Protocol(error));
    connection.finish(link, state, Ending::Linger);
}
