//! The end of a turn: sends, backpressure, stages and deadlines.
//!
//! Knows: when a connection may go on to its next stage. Refuses to know: what brought it here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{DRAINED, Shard, TURN_DEADLINES_MAX, budget::cost, service::Service};
use crate::{
    conn::{
        CloseCause, Connection, Ending, Key, Link, Shared, Stage, Turn,
        liveness::{OnRing, first_look_ms},
        mistake::Mistake,
        stages::{Due, Next},
    },
    proto::handshake::{Content, HandshakeError},
    ring::{Arrival, Operation, Ring, Shutdown, Urgency},
};

impl<R: Ring, S: Service> Shard<R, S> {
    pub(super) fn settle_touched(&mut self) {
        // Settling calls services, which may touch again; those are settled in the same turn.
        while let Some(key) = self.touched.pop() {
            self.settle(key);
        }
    }

    pub(super) fn settle(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        connection.link.settles.settled();
        if connection.link.begins_to_close() {
            self.set_close_deadline(key);
        }
        self.flush(key);
        if self.trace.is_followed {
            self.trace_sent(key);
        }
        self.balance(key);
        self.receive(key);
        self.advance(key);
    }

    /// Sends what is queued, unless a send is in flight.
    #[inline]
    fn flush(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        if link.sending {
            let is_unawaited = link.send_urgency == Urgency::Unawaited;
            if is_unawaited && !self.shared.errs(Mistake::ForgetsToHasten) {
                // What is to follow it must not wait until something else happens.
                self.ring.hasten(key.token(Operation::Send));
            }
            return;
        }
        if link.rare.tls().is_some() {
            self.flush_records(key);
            return;
        }
        let Some(socket) = &connection.socket else {
            return;
        };
        let Some(queue) = link.outgoing.take() else {
            return;
        };
        if queue.is_empty() || matches!(link.stage, Stage::Stopping | Stage::Closed) {
            self.shared.arena.retire(queue);
            return;
        }
        let token = key.token(Operation::Send);
        let config = &self.shared.config;
        link.send(queue, config, self.now, token, socket, &mut self.ring);
    }

    /// Backpressure: stops receiving from a peer that does not read, and starts again when it has.
    #[inline]
    fn balance(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        let queued = link.queued_bytes();
        let shared = &mut self.shared;
        shared.queued_bytes = shared.queued_bytes - link.counted_bytes + queued;
        link.counted_bytes = queued;
        if link.paused
            && let Some(socket) = &connection.socket
        {
            // What the kernel holds for a peer that does not read is memory like our own.
            let held = self.ring.outgoing(socket).held_bytes;
            link.rare.set_kernel_bytes(held as usize);
        }
        link.charge(shared);
        let config = &shared.config;
        let shard_full = shared.queued_bytes > config.shard_queue_high_bytes;
        if !link.paused {
            let behind = queued > config.queue_high_bytes;
            if shared.errs(Mistake::NeverPauses) {
                return;
            }
            if behind || shard_full && queued > config.queue_low_bytes {
                link.paused = true;
                link.hold_up_inflating(shared);
                shared.counts.reads_paused += 1;
                self.cancel_receive(key);
            }
        } else if queued <= config.queue_low_bytes {
            link.paused = false;
            link.rare.set_kernel_bytes(0);
            link.charge(shared);
            link.forgive_message();
            self.with_conn(key, |service, conn| service.on_drain(conn));
        }
    }

    /// Ends the receive in flight early.
    pub(super) fn cancel_receive(&mut self, key: Key) {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        if !link.receiving || link.cancelling || self.shared.errs(Mistake::ForgetsToCancel) {
            return;
        }
        link.cancelling = true;
        link.in_flight += 1;
        let target = key.token(Operation::Recv);
        self.ring
            .submit_cancel(target, key.token(Operation::Cancel));
    }

    /// Receives, if that is wanted and not under way.
    #[inline]
    fn receive(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        if link.receiving && !link.rare.has_unread() {
            return;
        }
        if link.paused || link.choked {
            // What was received before that may have begun a message that others wait for.
            link.hold_up_inflating(&mut self.shared);
            return;
        }
        if !link.wants_receive() {
            return;
        }
        let has_turn = link.readable || link.rare.has_unread();
        if has_turn && !self.shared.errs(Mistake::ReceivesWhileReadable) {
            return self.queue_up(key);
        }
        if link.cancelling {
            // It was for the receive before this one, which nobody could cancel until it ends.
            return;
        }
        let Some(socket) = &connection.socket else {
            return;
        };
        link.receiving = true;
        link.arrival = if link.needs_much() {
            Arrival::Announced
        } else {
            Arrival::Delivered
        };
        link.in_flight += 1 + u8::from(self.shared.errs(Mistake::CountsTwice));
        self.ring
            .submit_recv(socket, key.token(Operation::Recv), link.arrival);
    }

    /// Goes on to the next stage, if this one is over.
    #[inline]
    fn advance(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        match connection.link.next_stage() {
            None => {}
            Some(Next::ShutDown) => {
                if let Some(socket) = &connection.socket {
                    self.ring.shutdown(socket, Shutdown::Write);
                }
                return;
            }
            Some(Next::Stop) => self.stop_connection(key),
        }
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        if matches!(connection.link.stage, Stage::Stopping) && connection.link.in_flight == 0 {
            self.close_connection(key);
        }
    }

    /// Shuts a connection down on both sides, so that what is in flight comes to its end.
    pub(super) fn stop_connection(&mut self, key: Key) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        if matches!(link.stage, Stage::Stopping | Stage::Closed) {
            return;
        }
        let connecting = matches!(link.stage, Stage::Connecting(_));
        link.stage = Stage::Stopping;
        link.rare.forget_topics();
        self.wheel.clear(key.slot);
        if connecting && !link.cancelling {
            link.cancelling = true;
            link.in_flight += 1;
            let target = key.token(Operation::Connect);
            self.ring
                .submit_cancel(target, key.token(Operation::Cancel));
        } else if link.in_flight > 0
            && let Some(socket) = &connection.socket
        {
            self.ring.shutdown(socket, Shutdown::Both);
        }
        self.touch(key);
    }

    /// Nothing is in flight: tells the service and closes the socket.
    fn close_connection(&mut self, key: Key) {
        let id = self.id_of(key);
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        let link = &mut connection.link;
        link.stage = Stage::Closed;
        let cause = link.rare.take_cause();
        let shared = &mut self.shared;
        shared.queued_bytes -= std::mem::take(&mut link.counted_bytes);
        shared.charged_bytes -= std::mem::take(&mut link.charged_bytes) as usize;
        link.rare.take_unread();
        link.endpoint.release(&mut shared.pool, &mut shared.codec);
        link.endpoint.leave(&mut shared.codec);
        link.release_queues(&mut shared.arena);
        if !shared.errs(Mistake::KeepsSubscriptions) {
            shared.asked.leave(key);
        }
        if let Some(socket) = connection.socket.take() {
            link.in_flight += 1;
            self.ring.submit_close(socket, key.token(Operation::Close));
        }
        if let Some(state) = connection.state.take() {
            let cause = cause.unwrap_or(CloseCause::Vanished);
            tracing::debug!(connection = %id, %cause, "connection closed");
            let service = &mut self.service;
            let turn = &mut Turn { shared };
            let called = catch_unwind(AssertUnwindSafe(|| {
                service.on_close(turn, id, state, &cause);
            }));
            if called.is_err() {
                self.shared.counts.service_panics += 1;
                tracing::error!(shard = self.id, connection = %id, "on_close panicked");
            }
        }
    }

    pub(super) fn close_completed(&mut self, key: Key) {
        self.wheel.clear(key.slot);
        if self.trace.is_followed {
            self.trace_taken(key, None);
        }
        let removed = self.slab.remove(key);
        debug_assert!(
            removed.is_some(),
            "a close completed on a connection that is gone"
        );
        if let Some(ticket) = removed.and_then(|it| it.ticket)
            && !self.shared.errs(Mistake::KeepsTickets)
        {
            self.shared.door.leave(ticket);
        }
        if !self.shared.errs(Mistake::ForgetsWhoLeft) && self.places.leaves(key) {
            self.fill_place();
        }
        self.resume_accepting();
    }

    /// Sends what is queued and ends the transport then.
    pub(super) fn finish(&mut self, key: Key, ending: Ending) {
        let Some(connection) = self.slab.get_mut(key) else {
            return;
        };
        if connection.link.finish(ending) {
            self.set_close_deadline(key);
            self.touch(key);
        }
    }

    fn set_close_deadline(&mut self, key: Key) {
        if self.shared.errs(Mistake::ForgetsDeadline) {
            return self.wheel.clear(key.slot);
        }
        self.ask_kernel(key, |link, kernel, _| link.begin_end(kernel));
        self.wheel.set(
            key.slot,
            self.now.plus_ms(self.shared.config.close_timeout_ms),
        );
    }

    /// When to look at an open connection: whether its peer is still there, and its message gets
    /// on.
    pub(super) fn set_idle_deadline(&mut self, key: Key) {
        self.look_again(key, first_look_ms(&self.shared.config));
    }

    fn look_again(&mut self, key: Key, after_ms: Option<u64>) {
        match after_ms {
            Some(ms) => self.wheel.set(key.slot, self.now.plus_ms(ms)),
            None => self.wheel.clear(key.slot),
        }
    }

    /// Asks a connection something that its kernel has a part in, if it has a socket.
    fn ask_kernel<T>(
        &mut self,
        key: Key,
        ask: impl FnOnce(&mut Link, &OnRing<'_, R>, &mut Shared) -> T,
    ) -> Option<T> {
        let Connection { link, socket, .. } = self.slab.get_mut(key)?;
        let socket = socket.as_ref()?;
        let ring = &self.ring;
        Some(ask(link, &OnRing { ring, socket }, &mut self.shared))
    }

    /// Deadlines that are due, as many as a turn has time for. None is judged before everything
    /// that had arrived by then was looked at: after a pause of the whole process, deadlines are
    /// due that nobody has missed.
    pub(super) fn handle_deadlines(&mut self) {
        self.deadlines_left = false;
        if self.wheel.is_due(self.now) && self.is_all_looked_at() {
            for _ in 0..TURN_DEADLINES_MAX {
                let Some(slot) = self.wheel.next_due(self.now) else {
                    break;
                };
                self.budget.charge(cost::DEADLINE_NS);
                if let Some(key) = self.slab.key_at(slot) {
                    self.handle_deadline(key);
                }
            }
            self.deadlines_left = self.wheel.is_due(self.now);
        }
        self.tell_late();
        if self.accept_retry_at.is_some_and(|at| at <= self.now) {
            self.accept_retry_at = None;
            self.resume_accepting();
        }
        if self.farewell.is_some() {
            self.say_goodbye_in_turn();
        }
        if self.drain_until.is_some_and(|until| until <= self.now) {
            // Once: from here on everything is on its way out.
            self.drain_until = Some(DRAINED);
            self.stop_every_connection();
        }
    }

    /// Whether all completions were handed out that were there when the first deadline that is
    /// due was noticed.
    fn is_all_looked_at(&mut self) -> bool {
        let left = self.ring.completions_left() as u64;
        let until = *self.judge_after.get_or_insert(self.completions + left);
        let is_all = if self.shared.errs(Mistake::JudgesWhenIdle) {
            left == 0
        } else {
            self.completions >= until
        };
        if is_all {
            self.judge_after = None;
        }
        is_all
    }

    fn handle_deadline(&mut self, key: Key) {
        let due = self.ask_kernel(key, |link, kernel, shared| link.deadline(kernel, shared));
        match due {
            Some(Due::Again(after_ms)) => {
                self.look_again(key, after_ms);
                // A ping may have been written.
                self.touch(key);
            }
            Some(Due::Refuse) => self.refuse(key, HandshakeError::Timeout.into(), Content::Sent),
            Some(Due::Finish) => self.finish(key, Ending::Linger),
            Some(Due::Drop) => self.stop_connection(key),
            Some(Due::Nothing) | None => {
                debug_assert!(false, "a deadline in a stage without one");
            }
        }
    }
}
