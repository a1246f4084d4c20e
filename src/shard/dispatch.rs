//! What each completion means.
//!
//! Knows: one match on the kind of operation; errors by table. Refuses to know: what is sent in
//! answer; services and the protocol core write that.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    LARGE_FOR, MESSAGE_TURN_BYTES_MAX, Shard, TICK, acceptor_index, return_lent, service::Service,
};
use crate::{
    conn::{CloseCause, Conn, ConnId, Connection, Ending, Key, Stage, token::SLOTS_MAX},
    proto::{CloseCode, Event, Message, Payload, endpoint::Batch},
    ring::{
        Completion, Errno, Operation, Outcome, RecvLease, Ring, SendQueue, errno::TransferError,
        process::message_announced,
    },
};

impl<R: Ring, S: Service> Shard<R, S> {
    pub(super) fn dispatch(&mut self, completion: Completion<R::Socket>) {
        let token = completion.token;
        let key = Key::of_token(token);
        match token.operation() {
            Operation::Recv => self.recv_completed(key, completion),
            Operation::Poll => self.poll_completed(key, completion.outcome),
            Operation::Send => {
                if let Outcome::Sent { queue, result } = completion.outcome {
                    self.send_completed(key, queue, result);
                }
            }
            Operation::Accept => self.accept_completed(completion),
            Operation::Connect => self.connect_completed(key, completion),
            Operation::Cancel if key == TICK => self.tick_cancelling = false,
            Operation::Cancel if key.slot >= SLOTS_MAX => {
                self.accept_cancelled(acceptor_index(token));
            }
            Operation::Cancel => {
                if let Some(connection) = self.slab.get_mut(key) {
                    connection.link.in_flight -= 1;
                    connection.link.cancelling = false;
                    self.touch(key);
                }
            }
            Operation::Close if key.slot >= SLOTS_MAX => {
                self.acceptor_closed(acceptor_index(token));
            }
            Operation::Close => self.close_completed(key),
            Operation::Tick => self.tick_at = None,
            Operation::Wake => {
                self.ring.submit_wake(token);
                self.read_mailbox();
            }
        }
    }

    fn recv_completed(&mut self, key: Key, completion: Completion<R::Socket>) {
        let Some(connection) = self.slab.get_mut(key) else {
            // A slot is freed only when nothing is in flight, so this cannot happen; were it to,
            // the buffer must still go back.
            debug_assert!(false, "a receive completed on a connection that is gone");
            if let Outcome::Received(lease) = completion.outcome {
                self.ring.recycle(lease);
            }
            return;
        };
        let link = &mut connection.link;
        if !completion.more {
            link.receiving = false;
            link.in_flight -= 1;
        }
        match completion.outcome {
            Outcome::Received(lease) => self.bytes_received(key, lease, false),
            outcome => self.recv_ended(key, &outcome),
        }
        self.touch(key);
    }

    /// There is something to receive from a connection on which long messages come.
    fn poll_completed(&mut self, key: Key, outcome: Outcome<R::Socket>) {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            debug_assert!(false, "a poll completed on a connection that is gone");
            return;
        };
        link.receiving = false;
        link.in_flight -= 1;
        match outcome {
            Outcome::Readable => self.receive_now(key),
            outcome => self.recv_ended(key, &outcome),
        }
        self.touch(key);
    }

    /// Receives until a long message is whole, within limits: as long as the same memory is used,
    /// it is in the cache.
    fn receive_now(&mut self, key: Key) {
        let until = self.turn_bytes + MESSAGE_TURN_BYTES_MAX;
        let mut goes_on = true;
        while goes_on && self.turn_bytes < until {
            let Some(Connection { link, socket, .. }) = self.slab.get_mut(key) else {
                return;
            };
            let queue_high_bytes = self.shared.config.queue_high_bytes;
            let (Some(socket), false) = (socket, link.paused) else {
                return;
            };
            if !link.wants_receive() || link.queued_bytes() > queue_high_bytes {
                return;
            }
            // What was sent is free again.
            return_lent(&mut self.ring, &mut self.shared);
            match self.ring.recv_now(socket) {
                Outcome::Received(lease) => {
                    self.shared.counts.recv_large += 1;
                    self.bytes_received(key, lease, true);
                }
                outcome => return self.recv_ended(key, &outcome),
            }
            goes_on = self.slab.get_mut(key).is_some_and(|connection| {
                connection.link.endpoint.announced_bytes() >= self.long_bytes_min
            });
        }
    }

    #[inline]
    fn bytes_received(&mut self, key: Key, mut lease: RecvLease, is_large: bool) {
        let len = lease.len();
        self.turn_bytes += len;
        self.received(key, &mut lease, is_large);
        let connection = self.slab.get_mut(key);
        let queue = connection.and_then(|connection| connection.link.outgoing.as_deref_mut());
        self.shared.lending.settle(&mut self.ring, lease, queue);
        self.size_receives(key, len);
    }

    /// A receive has brought no bytes.
    fn recv_ended(&mut self, key: Key, outcome: &Outcome<R::Socket>) {
        match outcome {
            Outcome::EndOfStream => self.stream_ended(key),
            Outcome::Failed(errno) => match errno.of_transfer() {
                TransferError::NoBuffers => {
                    if let Some(connection) = self.slab.get_mut(key) {
                        connection.link.starved = true;
                        self.shared.counts.recv_starved += 1;
                        self.starved.push(key);
                    }
                }
                // Settling submits it again, if it is still wanted.
                TransferError::Cancelled | TransferError::Retry => {}
                TransferError::PeerGone => self.transport_failed(key, *errno),
                TransferError::Unexpected => {
                    tracing::error!(shard = self.id, %errno, "a receive failed in a new way");
                    self.transport_failed(key, *errno);
                }
            },
            _ => {}
        }
    }

    /// Has receives be large ones while long messages come, and for a while after.
    #[inline]
    fn size_receives(&mut self, key: Key, len: usize) {
        let long_bytes_min = self.long_bytes_min;
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        let announced = link.endpoint.announced_bytes();
        if announced >= long_bytes_min || link.large_for > 0 && len as u64 >= long_bytes_min {
            link.large_for = LARGE_FOR;
            message_announced(announced);
            if link.receiving && !link.polling {
                self.cancel_receive(key);
            }
        } else if link.large_for > 0 {
            link.large_for -= 1;
        }
    }

    #[inline]
    fn received(&mut self, key: Key, lease: &mut RecvLease, is_large: bool) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        connection.link.heard_ms = self.now.as_ms() as u32;
        connection.link.pinged = false;
        if connection.link.rare.tls().is_some() {
            // Plaintext is not lent: it goes out encrypted, from a chunk.
            self.received_records(key, lease);
        } else {
            self.shared.lending.lend(lease, is_large);
            self.received_plain(key, lease);
        }
    }

    /// Bytes of a head, and of frames.
    #[inline]
    pub(super) fn received_plain(&mut self, key: Key, mut input: &mut [u8]) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        match connection.link.stage {
            Stage::Open | Stage::Closing => {}
            Stage::Opening(_) => match self.receive_head(key, input) {
                Some(head) => input = &mut input[head..],
                None => return,
            },
            Stage::Challenged(_) => match self.receive_challenge(key, input) {
                Some(proof) => input = &mut input[proof..],
                None => return,
            },
            // It is over for the peer: only the end of the stream is waited for.
            _ => return,
        }
        // A panic in `on_open`, or a service that closed there, has ended it already.
        let open = |connection: &mut Connection<_, _>| {
            matches!(connection.link.stage, Stage::Open | Stage::Closing)
        };
        if self.slab.get_mut(key).is_some_and(open) {
            self.receive_frames(key, input);
        }
    }

    /// Hands a service everything that happens in these bytes.
    ///
    /// One `catch_unwind` for all of them: a panic costs the rest of the bytes, but then it costs
    /// the connection.
    #[inline]
    fn receive_frames(&mut self, key: Key, mut input: &mut [u8]) {
        let id = self.id_of(key);
        let Some(Connection {
            link,
            state: Some(state),
            ..
        }) = self.slab.get_mut(key)
        else {
            return;
        };
        let Self {
            service, shared, ..
        } = self;
        let mut ended = None;
        let mut failed = None;
        let mut batch = Batch::new();
        let (mut messages, mut payload_bytes) = (0, 0);
        let mut held = None;
        let called = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let (endpoint, mut context) = link.split(shared);
                let full = endpoint.receive_batch(&mut input, &mut batch, &mut context);
                let mut conn = Conn::with_batch(id, link, state, shared, &batch);
                for message in batch.messages() {
                    // The service may have closed the connection with an earlier one.
                    if conn.is_close_sent() {
                        break;
                    }
                    messages += 1;
                    payload_bytes += message.payload().len() as u64;
                    service.on_message(&mut conn, message);
                }
                drop(conn);
                if full {
                    continue;
                }
                let (endpoint, mut context) = link.split(shared);
                if batch.is_failed() {
                    failed = Some(endpoint.fail_text(&mut context));
                    break;
                }
                match endpoint.receive(&mut input, &mut context) {
                    None => break,
                    Some(Event::Message { kind, payload }) => {
                        let payload = &*held.insert(payload);
                        let message = payload.message(kind);
                        if let Payload::Owned(_) = payload {
                            shared.lending.lend_message(message.frame());
                        }
                        deliver(service, &mut Conn::new(id, link, state, shared), message);
                    }
                    Some(Event::Ping(payload)) => {
                        let payload = held.insert(payload);
                        service.on_ping(&mut Conn::new(id, link, state, shared), payload);
                    }
                    Some(Event::Pong(payload)) => {
                        let payload = held.insert(payload);
                        service.on_pong(&mut Conn::new(id, link, state, shared), payload);
                    }
                    Some(Event::Close(frame)) => {
                        ended = Some(link.peer_closed(frame, &mut shared.pool));
                    }
                    Some(Event::Failed(error)) => failed = Some(error),
                }
                if let Some(payload) = held.take() {
                    link.give_back(payload, shared);
                }
            }
        }));
        shared.counts.messages_received += messages;
        shared.counts.payload_bytes_received += payload_bytes;
        if let Some(payload) = held {
            // The service panicked over it.
            link.give_back(payload, shared);
        }
        if let Some(error) = failed {
            shared.counts.protocol_errors += 1;
            link.ends(CloseCause::Protocol(error));
            ended = Some(Ending::Linger);
        }
        if called.is_err() {
            self.service_panicked(key);
        } else if let Some(ending) = ended {
            self.finish(key, ending);
        }
    }

    fn send_completed(
        &mut self,
        key: Key,
        mut queue: Box<SendQueue>,
        result: Result<usize, Errno>,
    ) {
        let Some(connection) = self.slab.get_mut(key) else {
            debug_assert!(false, "a send completed on a connection that is gone");
            self.shared.arena.retire(queue);
            return;
        };
        let link = &mut connection.link;
        let peer_has_read = link.send_ends(self.now);
        let arena = &mut self.shared.arena;
        let failed = match result {
            Ok(bytes) => {
                if peer_has_read {
                    link.heard_ms = self.now.as_ms() as u32;
                }
                queue.advance(arena, bytes);
                link.sent_in_part = !queue.is_empty();
                if queue.is_empty() {
                    arena.retire(queue);
                } else {
                    link.put_back(queue, arena);
                }
                None
            }
            Err(errno) => match errno.of_transfer() {
                TransferError::Retry | TransferError::NoBuffers => {
                    link.sent_in_part = true;
                    link.put_back(queue, arena);
                    None
                }
                kind => {
                    arena.retire(queue);
                    if kind == TransferError::Unexpected {
                        tracing::error!(shard = self.id, %errno, "a send failed in a new way");
                    }
                    Some(errno)
                }
            },
        };
        if let Some(errno) = failed {
            self.transport_failed(key, errno);
        }
        self.touch(key);
    }

    fn stream_ended(&mut self, key: Key) {
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.stream_ended = true;
        }
        self.peer_ended(key);
    }

    /// The peer will send no more: its stream or its TLS has ended.
    pub(super) fn peer_ended(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        match link.stage {
            Stage::Open | Stage::Closing | Stage::Opening(_) | Stage::Challenged(_) => {
                if !matches!(link.stage, Stage::Opening(_)) || connection.state.is_some() {
                    link.ends(CloseCause::Vanished);
                }
                // What was sent before may still be wanted: a peer can shut down one side.
                self.finish(key, Ending::Stop);
            }
            _ => {}
        }
    }

    /// The transport is broken: nothing can be sent or received any more.
    pub(super) fn transport_failed(&mut self, key: Key, errno: Errno) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        link.stream_ended = true;
        if !link.endpoint.is_input_ended() || !link.endpoint.is_close_sent() {
            link.ends(CloseCause::Transport(errno));
        }
        self.stop_connection(key);
    }

    /// A service panicked on this connection: it gets 1011, and the others nothing.
    fn service_panicked(&mut self, key: Key) {
        self.shared.counts.service_panics += 1;
        tracing::error!(
            shard = self.id,
            connection = %self.id_of(key),
            "the service panicked on a connection; it is closed with 1011"
        );
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let (endpoint, mut context) = connection.link.split(&mut self.shared);
        let _ = endpoint.close(CloseCode::INTERNAL_ERROR, "", &mut context);
        connection.link.ends(CloseCause::ServicePanicked);
        self.finish(key, Ending::Linger);
    }

    /// Calls a service for one connection, if it is open. Returns whether it is.
    pub(super) fn with_conn(
        &mut self,
        key: Key,
        call: impl FnOnce(&mut S, &mut Conn<'_, S::State>),
    ) -> bool {
        let id: ConnId = self.id_of(key);
        let Some(Connection {
            link,
            state: Some(state),
            ..
        }) = self.slab.get_mut(key)
        else {
            return false;
        };
        if !matches!(link.stage, Stage::Open | Stage::Closing) {
            return false;
        }
        let Self {
            service, shared, ..
        } = self;
        let called = catch_unwind(AssertUnwindSafe(|| {
            call(service, &mut Conn::new(id, link, state, shared));
        }));
        if called.is_err() {
            self.service_panicked(key);
        }
        self.touch(key);
        true
    }
}

/// Hands out a message that did not come in a batch. Not inlined, so that the batch's call of the
/// service is the only one in its loop.
#[inline(never)]
fn deliver<S: Service>(service: &mut S, conn: &mut Conn<'_, S::State>, message: Message<'_>) {
    conn.count_received(message.payload().len());
    service.on_message(conn, message);
}
