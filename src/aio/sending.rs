//! Messages on their way out.
//!
//! Knows: when a message may be queued, and when it need not be. Refuses to know: what comes in.

use std::{
    io::IoSlice,
    rc::Rc,
    task::{Context as TaskContext, Poll, ready},
};

use super::{
    connection::Connection,
    input::{Found, Input},
    local::State,
};
use crate::{
    SendError,
    conn::{Link, Stage},
    proto::{
        Role, Sink, Version,
        deflate::Codec,
        endpoint::Control,
        frame::{FrameHeader, HEADER_BYTES_MAX},
        message::{MessageKind, Outgoing, OutgoingPayload},
    },
    ring::Lent,
};

/// A payload of at least this many bytes is offered to the socket where it lies, in a send of its
/// own, and only what does not fit is copied. Below it the copy costs less than the send.
const DIRECT_BYTES_MIN: usize = 4096;

impl Connection {
    /// Queues a message, once there is room for it. It is sent before this thread waits for
    /// anything with `soon`, and at the next occasion without.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`], [`SendError::QueueFull`], [`SendError::Unsupported`].
    pub fn poll_send(
        self: &Rc<Self>,
        context: &TaskContext<'_>,
        message: &mut Option<Outgoing<'_>>,
        soon: bool,
    ) -> Poll<Result<(), SendError>> {
        ready!(self.poll_room(context))?;
        Poll::Ready(self.send_now(message, soon))
    }

    /// As [`poll_send`](Self::poll_send), without waiting for room.
    ///
    /// # Errors
    ///
    /// As there.
    #[inline]
    pub fn send_now(
        self: &Rc<Self>,
        message: &mut Option<Outgoing<'_>>,
        soon: bool,
    ) -> Result<(), SendError> {
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        if !matches!(link.stage, Stage::Open) {
            return Err(SendError::Closed);
        }
        let Some(message) = message.take() else {
            return Ok(());
        };
        let payload_len = message.payload_len();
        let config = &state.shared.config;
        let queued = link.queued_bytes();
        let is_full = queued.saturating_add(payload_len) > config.queue_bytes_max;
        if is_full || state.shared.lacks_room(queued, payload_len) {
            return Err(SendError::QueueFull);
        }
        let full_bytes = config.send_chunk_bytes;
        // An answer to the only message there is sent as it came, once: a second may have company.
        let is_answer = matches!(message.payload, OutgoingPayload::Framed { .. });
        let alone = is_answer && self.alone.take() && link.queued_bytes() == 0;
        let is_direct = alone || payload_len >= DIRECT_BYTES_MIN;
        if is_direct && can_go_directly(link, &message, &state.shared.codec) {
            self.send_directly(link, state, &message);
        } else {
            let (endpoint, mut outbox) = link.endpoint_and_outbox(&mut state.shared.arena);
            if !endpoint.send_short(&message, &mut outbox) {
                let (endpoint, mut context) = link.split(&mut state.shared);
                endpoint.send(message, &mut context)?;
                if state.shared.codec.is_used() {
                    let cost_ns = state.shared.codec.take_cost_ns();
                    self.share.charge_unsure(cost_ns);
                }
            }
        }
        let counts = &mut state.shared.counts;
        counts.messages_sent += 1;
        counts.payload_bytes_sent += payload_len as u64;
        self.count(|tally| tally.send(payload_len as u64));
        if link.queued_bytes() == 0 {
            // It has gone already.
        } else if link.queued_bytes() >= full_bytes {
            self.flush_in(link, state);
        } else if soon {
            self.touch();
        } else {
            self.touch_later();
        }
        Ok(())
    }

    /// Sends the message that was handed out last, and put together out of several receives, back
    /// as it came, with its memory: none of it is copied, however little the socket takes at once.
    ///
    /// # Errors
    ///
    /// As [`poll_send`](Self::poll_send).
    pub fn send_held(
        self: &Rc<Self>,
        input: &mut Input,
        kind: MessageKind,
    ) -> Result<(), SendError> {
        let found = Found::Held(kind);
        let frame_len = self.frame_to_lend(&Outgoing::from(input.message(&found)));
        let held = frame_len.and_then(|_| input.take_held());
        let (Some(frame_len), Some(held)) = (frame_len, held) else {
            return self.send_now(&mut Some(input.message(&found).into()), true);
        };
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        let counts = &mut state.shared.counts;
        counts.messages_sent += 1;
        counts.messages_sent_in_place += 1;
        counts.payload_bytes_sent += held.len() as u64;
        self.count(|tally| tally.send(held.len() as u64));
        let (bytes, part) = state.shared.pool.detach(held);
        let arena = &mut state.shared.arena;
        let queue = link.outgoing.get_or_insert_with(|| arena.queue());
        let place = queue.promise(frame_len);
        queue.fulfil(place, Lent::Memory { bytes, part });
        self.flush_in(link, state);
        Ok(())
    }

    /// The length of this frame, if it can be sent from where it lies, whenever that is.
    fn frame_to_lend(&self, message: &Outgoing<'_>) -> Option<usize> {
        let link = self.link.borrow();
        let state = self.local.state.borrow();
        let OutgoingPayload::Framed { frame, .. } = &message.payload else {
            return None;
        };
        let queued = link.queued_bytes().saturating_add(frame.len());
        let is_lent = matches!(link.stage, Stage::Open)
            && queued <= state.shared.config.queue_bytes_max
            && goes_as_it_is(&link, message, &state.shared.codec);
        is_lent.then_some(frame.len())
    }

    /// Offers a message to the socket where it lies, behind what is queued.
    fn send_directly(self: &Rc<Self>, link: &mut Link, state: &mut State, message: &Outgoing<'_>) {
        if link.queued_bytes() > 0 {
            self.flush_in(link, state);
        }
        let mut start = [0; HEADER_BYTES_MAX];
        let pieces = match &message.payload {
            OutgoingPayload::Framed { frame, .. } => [&[][..], frame],
            _ => {
                let opcode = message.kind.opcode();
                let header = FrameHeader::of_server(opcode, message.payload_len() as u64);
                let len = header.encode(&mut start);
                [&start[..len], message.payload()]
            }
        };
        let mut sent = 0;
        if link.queued_bytes() == 0 && matches!(link.stage, Stage::Open) {
            let offered = match pieces {
                [[], piece] => self.socket.send_piece(piece),
                pieces => self.socket.send_pieces(&pieces.map(IoSlice::new)),
            };
            // Whatever is wrong shows again when the rest is sent.
            sent = offered.unwrap_or(0);
            self.share.charge_transfer(sent);
        }
        if sent == pieces[0].len() + pieces[1].len() {
            state.shared.counts.messages_sent_in_place += 1;
            return;
        }
        let mut outbox = link.outbox(&mut state.shared.arena);
        for piece in pieces {
            let skipped = sent.min(piece.len());
            outbox.write(&piece[skipped..]);
            sent -= skipped;
        }
        self.flush_in(link, state);
    }

    /// Waits until the kernel has everything that was queued.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] when the connection ended before.
    pub fn poll_flush(self: &Rc<Self>, context: &TaskContext<'_>) -> Poll<Result<(), SendError>> {
        self.flush_if_dirty();
        {
            let link = self.link.borrow();
            if link.queued_bytes() == 0 {
                return Poll::Ready(Ok(()));
            }
            if matches!(link.stage, Stage::Stopping | Stage::Closed) {
                return Poll::Ready(Err(SendError::Closed));
            }
        }
        self.wait_for_room(context);
        Poll::Pending
    }

    /// Whether a message may be queued now.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`].
    pub fn poll_room(&self, context: &TaskContext<'_>) -> Poll<Result<(), SendError>> {
        {
            let link = self.link.borrow();
            if !matches!(link.stage, Stage::Open) {
                return Poll::Ready(Err(SendError::Closed));
            }
            if !link.paused {
                return Poll::Ready(Ok(()));
            }
        }
        self.wait_for_room(context);
        Poll::Pending
    }

    /// Writes a ping or pong.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::send_control`](crate::proto::Endpoint::send_control).
    pub fn control(self: &Rc<Self>, control: Control, payload: &[u8]) -> Result<(), SendError> {
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        if !matches!(link.stage, Stage::Open) {
            return Err(SendError::Closed);
        }
        let (endpoint, mut context) = link.split(&mut state.shared);
        endpoint.send_control(control, payload, &mut context)?;
        self.touch();
        Ok(())
    }
}

/// Whether these bytes are sent now, as they lie. What is shared is adopted by the queue without a
/// copy.
fn can_go_directly(link: &Link, message: &Outgoing<'_>, codec: &Codec) -> bool {
    !link.sending && goes_as_it_is(link, message, codec)
}

/// Whether what is sent is the message as it is.
fn goes_as_it_is(link: &Link, message: &Outgoing<'_>, codec: &Codec) -> bool {
    let endpoint = &link.endpoint;
    link.rare.tls().is_none()
        && endpoint.role() == Role::Server
        && endpoint.version() == Version::Rfc6455
        && !endpoint.is_close_sent()
        && !endpoint.may_compress(message, codec)
        && !matches!(message.payload, OutgoingPayload::Shared(_))
}
