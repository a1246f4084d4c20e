//! What each completion means.
//!
//! Knows: one match on the kind of operation; errors by table. Refuses to know: what is sent in
//! answer; services and the protocol core write that.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{
    LONG_FOR, Shard, TICK, acceptor_index,
    budget::{Pace, cost},
    service::Service,
};
use crate::{
    conn::{
        CloseCause, Conn, ConnId, Connection, Ending, Key, Stage, mistake::Mistake, tally::Tally,
        token::SLOTS_MAX, unread::End,
    },
    proto::{CloseCode, Event, Message, Payload, endpoint::Batch},
    ring::{
        Arrival, Completion, Errno, Operation, Outcome, RecvLease, Ring, SendQueue,
        errno::TransferError, process::message_grew,
    },
};

/// Frames that bring no event are looked at in portions of so many, to see whether the share is
/// over.
const FRAMES_AT_ONCE: u32 = 256;

impl<R: Ring, S: Service> Shard<R, S> {
    pub(super) fn dispatch(&mut self, completion: Completion<R::Socket>) {
        let token = completion.token;
        let key = Key::of_token(token);
        match token.operation() {
            Operation::Recv => self.recv_completed(key, completion),
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
                self.has_mail = true;
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
            Outcome::Received(lease) if self.is_put_off(key) => self.put_lease_off(key, lease),
            Outcome::Received(lease) => {
                self.answered_some = true;
                self.budget.begin_share();
                self.bytes_received(key, lease, false);
            }
            outcome => self.recv_ended(key, outcome),
        }
        self.touch(key);
    }

    /// Looks at received bytes within the share that has begun, and puts off what is left of them.
    #[inline]
    pub(super) fn bytes_received(&mut self, key: Key, mut lease: RecvLease, is_large: bool) {
        let len = lease.len();
        self.turn_bytes += len;
        let left = self.received(key, &mut lease, is_large);
        // Behind the look: on a slow machine receiving alone may cost a share.
        self.budget.charge(cost::bytes_ns(len));
        if left > 0 || self.goes_on(key) {
            self.put_off(key, &lease[len - left..]);
        }
        let connection = self.slab.get_mut(key);
        let queue = connection.and_then(|connection| connection.link.outgoing.as_deref_mut());
        self.shared.lending.settle(&mut self.ring, lease, queue);
        self.size_receives(key, len);
    }

    /// Whether there is something to go on with, whatever was left of the bytes.
    #[inline]
    pub(super) fn goes_on(&mut self, key: Key) -> bool {
        if self.shared.errs(Mistake::ForgetsToGoOn) {
            return false;
        }
        let connection = self.slab.get_mut(key);
        connection.is_some_and(|connection| connection.link.goes_on())
    }

    /// A receive has brought no bytes.
    pub(super) fn recv_ended(&mut self, key: Key, outcome: Outcome<R::Socket>) {
        match outcome {
            Outcome::Readable => {
                self.has_come(key);
                self.queue_up(key);
            }
            Outcome::EndOfStream => self.end_behind_unread(key, End::Stream),
            Outcome::Failed(errno) => match errno.of_transfer() {
                TransferError::NoBuffers => {
                    self.shared.counts.recv_starved += 1;
                    // It is served without the memory that others have drained.
                    self.has_come(key);
                    self.queue_up_starved(key);
                }
                // Settling submits it again, if it is still wanted.
                TransferError::Cancelled | TransferError::Retry => {}
                TransferError::PeerGone => self.end_behind_unread(key, End::Failed(errno)),
                TransferError::Unexpected => {
                    tracing::error!(shard = self.id, %errno, "a receive failed in a new way");
                    self.end_behind_unread(key, End::Failed(errno));
                }
            },
            _ => {}
        }
    }

    /// There is something to receive from a connection, which is done when its turn has come.
    fn has_come(&mut self, key: Key) {
        if let Some(Connection { link, .. }) = self.slab.get_mut(key) {
            link.readable = true;
        }
    }

    /// There will be no more from this peer than what was put off.
    fn end_behind_unread(&mut self, key: Key, end: End) {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        match link.rare.unread() {
            Some(unread) => unread.end(end),
            None => self.input_ended(key, end),
        }
    }

    /// Has receives be large ones while long messages come, and for a while after.
    #[inline]
    fn size_receives(&mut self, key: Key, len: usize) {
        let long_bytes_min = self.recv_sizes.long_bytes_min;
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        let announced = link.endpoint.announced_bytes();
        let is_much = len as u64 >= long_bytes_min;
        if announced >= long_bytes_min || link.long_for > 0 && is_much {
            link.long_for = LONG_FOR;
            message_grew(link.endpoint.gathered_bytes());
            if link.receiving && link.arrival == Arrival::Delivered {
                self.cancel_receive(key);
            }
        } else if is_much {
            // Many short messages: so much of the receive memory is not for one.
            self.grow_greedy(key);
        } else {
            link.long_for = link.long_for.saturating_sub(1);
            link.greedy_for = link.greedy_for.saturating_sub(1);
        }
    }

    /// Returns how many bytes at the end of the lease were not looked at, for want of time.
    #[inline]
    fn received(&mut self, key: Key, lease: &mut RecvLease, is_large: bool) -> usize {
        let Some(connection) = self.slab.get_mut(key) else {
            return 0;
        };
        connection.link.heard_ms = self.now.as_ms() as u32;
        connection.link.pings = 0;
        if !connection.link.begins_with_proxy() && connection.link.rare.tls().is_none() {
            // Plaintext of TLS is not lent: it goes out encrypted, from a chunk.
            self.shared.lending.lend(lease, is_large);
            return self.received_plain(key, lease);
        }
        self.received_wrapped(key, lease)
    }

    /// Bytes of a proxy's header, of records, or of whatever comes behind that. Returns how many of
    /// the last ones were not looked at.
    pub(super) fn received_wrapped(&mut self, key: Key, bytes: &mut [u8]) -> usize {
        let Some(connection) = self.slab.get_mut(key) else {
            return 0;
        };
        if connection.link.begins_with_proxy() {
            self.received_proxied(key, bytes)
        } else if connection.link.rare.tls().is_some() {
            self.received_records(key, bytes)
        } else {
            self.received_plain(key, bytes)
        }
    }

    /// Bytes of a head, and of frames. Returns how many of the last ones were not looked at.
    #[inline]
    pub(super) fn received_plain(&mut self, key: Key, mut input: &mut [u8]) -> usize {
        let Some(connection) = self.slab.get_mut(key) else {
            return 0;
        };
        match connection.link.stage {
            Stage::Open | Stage::Closing => {}
            Stage::Opening(_) => match self.receive_head(key, input) {
                Some(head) => input = &mut input[head..],
                None => return 0,
            },
            Stage::Challenged(_) => match self.receive_challenge(key, input) {
                Some(proof) => input = &mut input[proof..],
                None => return 0,
            },
            _ => {
                self.received_in_vain(key);
                return 0;
            }
        }
        // A panic in `on_open`, or a service that closed there, has ended it already.
        let open = |connection: &mut Connection<_, _>| {
            matches!(connection.link.stage, Stage::Open | Stage::Closing)
        };
        if self.slab.get_mut(key).is_some_and(open) {
            return self.receive_frames(key, input);
        }
        0
    }

    /// It is over for the peer: only the end of the stream is waited for. When both sides are shut
    /// down nobody waits for that either, and what lies unread need not be received: it may be
    /// much.
    #[cold]
    pub(super) fn received_in_vain(&mut self, key: Key) {
        let connection = self.slab.get_mut(key);
        if connection.is_some_and(|it| matches!(it.link.stage, Stage::Stopping)) {
            self.cancel_receive(key);
        }
    }

    /// Hands a service everything that happens in these bytes, or as much as fits into the share.
    /// Returns how many bytes at the end were not looked at.
    ///
    /// One `catch_unwind` for all of them: a panic costs the rest of the bytes, but then it costs
    /// the connection.
    #[inline]
    fn receive_frames(&mut self, key: Key, mut input: &mut [u8]) -> usize {
        if self.trace.is_due {
            self.trace_handed_over();
        }
        let id = self.id_of(key);
        let Some(Connection {
            link,
            state: Some(state),
            ..
        }) = self.slab.get_mut(key)
        else {
            return 0;
        };
        let Self {
            ring,
            service,
            shared,
            budget,
            ..
        } = self;
        let mut ended = None;
        let mut failed = None;
        let mut pace = Pace::Usual;
        let (mut messages, mut payload_bytes) = (0, 0);
        let mut held = None;
        // What is compressed may become a thousand times as much: it waits for the peer to read,
        // and not for the end of the turn.
        let may_swell = shared.codec.is_used();
        let counted = S::tally(state).map(|_| Tally::of(&shared.counts));
        let queued_max = shared.config.queue_high_bytes;
        let published = shared.counts.topic_publications;
        let called = catch_unwind(AssertUnwindSafe(|| {
            loop {
                if budget.wants_look() {
                    pace = budget.look(ring.now()).max(pace);
                }
                if budget.is_share_over() || may_swell && link.queued_bytes() > queued_max {
                    break;
                }
                let mut messages_max = budget.messages_left();
                if shared.asked.is_behind() {
                    // Who publishes faster than that can be delivered waits, as who needs much.
                    let more = shared.counts.topic_publications - published;
                    if more > 0 {
                        budget.charge(more * cost::PUBLICATION_BEHIND_NS);
                        break;
                    }
                    messages_max = 1;
                }
                let mut batch = Batch::of_at_most(messages_max);
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
                budget.charge_calls(batch.count() as u32);
                if full {
                    continue;
                }
                let (endpoint, mut context) = link.split(shared);
                if batch.is_failed() {
                    failed = Some(endpoint.fail_text(&mut context));
                    input = &mut [];
                    break;
                }
                let mut frames = FRAMES_AT_ONCE;
                let event = endpoint.receive_some(&mut input, &mut frames, &mut context);
                budget.charge(u64::from(FRAMES_AT_ONCE - frames) * cost::FRAME_NS);
                if event.is_some() {
                    budget.charge_calls(1);
                }
                match event {
                    None if input.is_empty() && !link.endpoint.is_inflating() => break,
                    None if link.endpoint.waits_to_inflate() => {
                        // There is nothing to do for it but for the cost of having looked.
                        budget.charge(shared.codec.take_cost_ns());
                        break;
                    }
                    None => {}
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
                        let payload = shared.pong_came(payload);
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
                if shared.codec.is_used() {
                    budget.charge(shared.codec.take_cost_ns());
                }
            }
        }));
        let mut left = input.len();
        shared.counts.messages_received += messages;
        shared.counts.payload_bytes_received += payload_bytes;
        if messages > 0 {
            // Behind headers of two bytes: all of them are short.
            let received = &shared.stats.spread.message_received;
            received.add_small(messages, payload_bytes);
        }
        if let (Some(then), Some(tally)) = (counted, S::tally(state)) {
            tally.add(&then, &Tally::of(&shared.counts));
        }
        if let Some(payload) = held {
            // The service panicked over it.
            link.give_back(payload, shared);
        }
        if let Some(error) = failed {
            shared.counts.protocol_errors += 1;
            link.ends(CloseCause::Protocol(error));
            ended = Some(Ending::Linger);
        }
        self.keep_pace(pace);
        if self.trace.is_handed_over {
            self.trace_queued(key);
        }
        if called.is_err() {
            self.service_panicked(key);
            left = 0;
        } else if let Some(ending) = ended {
            self.finish(key, ending);
        }
        left
    }

    /// Counts a call of the service that held up everybody else, and says so once.
    #[inline]
    pub(super) fn keep_pace(&mut self, pace: Pace) {
        if let Pace::Slow(ns) = pace {
            self.was_slow(ns);
        }
    }

    #[cold]
    fn was_slow(&mut self, ns: u64) {
        if self.shared.counts.slow_calls == 0 {
            tracing::warn!(
                shard = self.id,
                took_ms = ns / 1_000_000,
                "a call of the service took long, and every connection of the shard waited; hand \
                 what takes time to another thread (said once; slow_calls counts them)"
            );
        }
        self.shared.counts.slow_calls += 1;
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
                    link.load_backlog(arena);
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
        if self.trace.is_followed {
            let connection = self.slab.get_mut(key);
            let left = connection.map_or(0, |it| it.link.queued_bytes());
            self.trace_taken(key, failed.is_none().then_some(left));
        }
        if let Some(errno) = failed {
            self.transport_failed(key, errno);
        }
        self.touch(key);
    }

    pub(super) fn stream_ended(&mut self, key: Key) {
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.stream_ended = true;
        }
        self.peer_ended(key);
    }

    /// The peer will send no more: its stream or its TLS has ended.
    pub(super) fn peer_ended(&mut self, key: Key) {
        let connection = self.slab.get_mut(key);
        if let Some(ending) = connection.and_then(|it| it.link.peer_ended()) {
            self.finish(key, ending);
        }
    }

    /// The transport is broken: nothing can be sent or received any more.
    pub(super) fn transport_failed(&mut self, key: Key, errno: Errno) {
        if let Some(connection) = self.slab.get_mut(key) {
            connection.link.transport_failed(errno);
            self.stop_connection(key);
        }
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
        self.budget.charge_calls(1);
        let counted = S::tally(state).map(|_| Tally::of(&shared.counts));
        let called = catch_unwind(AssertUnwindSafe(|| {
            call(service, &mut Conn::new(id, link, state, shared));
        }));
        if let (Some(then), Some(tally)) = (counted, S::tally(state)) {
            tally.add(&then, &Tally::of(&shared.counts));
        }
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
