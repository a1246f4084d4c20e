//! One connection: a link, as a shard has it, and its socket.
//!
//! Knows: what is sent when, at which stage the connection is, and who waits for what. Refuses to
//! know: where received bytes lie, and what the handler wants.
//!
//! Sending never waits: what the socket does not take at once stays in the queue, and a task of its
//! own sends it as the peer reads. Whoever would make the queue longer than `queue_high_bytes`
//! waits until it is short again.

use std::{
    cell::{Cell, OnceCell, RefCell},
    rc::Rc,
    task::{Context as TaskContext, Waker},
};

use rustix::{io::Errno as Sys, net::Shutdown};

use super::{
    farewell::see_off,
    local::{Later, Local, State},
    share::Share,
    socket::Socket,
};
use crate::{
    conn::{
        CloseCause, ConnId, Ending, Key, Link, Stage,
        door::Ticket,
        liveness::{Kernel, first_look_ms},
        opening::Lack,
        stages::{Due, Next},
        tally::Tally,
    },
    proto::{
        CloseCode, Role, SendError,
        handshake::{Content, HandshakeError, Refusal},
    },
    ring::{Errno, Lent, Time, errno::TransferError},
    tls::TlsError,
};

/// How much of a queue was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    All,
    /// The socket is full.
    AllThereIsRoomFor,
    /// As much as a share is for.
    Share,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    pub local: Rc<Local>,
    pub key: Key,
    pub link: RefCell<Link>,
    /// Who waits until the queue is short.
    waiting: RefCell<Vec<Waker>>,
    /// Something was queued, and it is not being sent.
    dirty: Cell<bool>,
    /// The message that was handed out last was the last one there: an answer to it would have
    /// nothing to be sent together with.
    pub alone: Cell<bool>,
    /// It is in the thread's list of connections with something to send.
    pub listed: Cell<bool>,
    /// This side has closed: nothing more is handed out, not even what has come before.
    pub deaf: Cell<bool>,
    /// Nobody but the farewell reads any more.
    pub leaving: Cell<bool>,
    /// Bytes that the endpoint itself wrote (pongs) since the queue was last empty.
    pub replied_bytes: Cell<usize>,
    /// The subprotocol that was agreed on.
    pub subprotocol: OnceCell<Box<str>>,
    /// Halves that the application has.
    pub halves: Cell<u32>,
    /// What its task has cost since it last gave way.
    pub share: Share,
    /// What passed on it, from when somebody wants to know.
    pub tally: OnceCell<Box<Cell<Tally>>>,
    /// Its entry at the door, if it had to have one.
    pub ticket: RefCell<Option<Ticket>>,
}

impl Connection {
    /// A connection at its beginning.
    ///
    /// # Errors
    ///
    /// `EMFILE` when there is no place for it.
    pub fn new(local: &Rc<Local>, socket: Socket, link: Link) -> Result<Rc<Self>, Errno> {
        Ok(Self::with_key(local, local.enter()?, socket, link))
    }

    /// The same, of one that is only to be told that there is no place for it. Whoever has to go
    /// for it is ended.
    ///
    /// # Errors
    ///
    /// `EMFILE` when there are as many as a table can have.
    pub fn beyond(
        local: &Rc<Local>,
        socket: Socket,
        link: Link,
        speaks: bool,
        lack: Lack,
    ) -> Result<Rc<Self>, Errno> {
        let (key, oldest) = local.enter_beyond(speaks, lack)?;
        let connection = Self::with_key(local, key, socket, link);
        if let Some(oldest) = oldest {
            local.let_go(oldest);
        }
        Ok(connection)
    }

    fn with_key(local: &Rc<Local>, key: Key, socket: Socket, mut link: Link) -> Rc<Self> {
        let now = Time::monotonic_coarse();
        link.born_ms = now.as_ms() as u32;
        link.heard_ms = link.born_ms;
        let connection = Rc::new(Self {
            socket,
            local: local.clone(),
            key,
            link: RefCell::new(link),
            waiting: RefCell::default(),
            dirty: Cell::new(false),
            listed: Cell::new(false),
            alone: Cell::new(false),
            deaf: Cell::new(false),
            leaving: Cell::new(false),
            replied_bytes: Cell::new(0),
            subprotocol: OnceCell::new(),
            halves: Cell::new(0),
            share: Share::default(),
            tally: OnceCell::new(),
            ticket: RefCell::default(),
        });
        let state = &mut *local.state.borrow_mut();
        if let Some(place) = state.slab.get_mut(key) {
            *place = Rc::downgrade(&connection);
        }
        state.shared.now = now;
        state.shared.counts.connections += 1;
        let timeout_ms = state.shared.config.handshake_timeout_ms;
        local.set_deadline(state, key, timeout_ms);
        local.counted(now);
        connection
    }

    /// Adds something to what passed on it, if somebody wants to know.
    #[inline]
    pub fn count(&self, add: impl FnOnce(&mut Tally)) {
        if let Some(place) = self.tally.get() {
            let mut tally = place.get();
            add(&mut tally);
            place.set(tally);
        }
    }

    /// Its name.
    pub fn id(&self) -> ConnId {
        ConnId::new(self.local.number.get(), self.key)
    }

    /// Whether messages may still come.
    pub fn is_receiving(&self) -> bool {
        let stage = &self.link.borrow().stage;
        matches!(
            stage,
            Stage::Opening(_) | Stage::Challenged(_) | Stage::Open | Stage::Closing
        )
    }

    /// Why it ended, once it does.
    pub fn cause(&self) -> Option<CloseCause> {
        self.link.borrow().rare.cause().cloned()
    }

    /// Marks that something was queued: it is sent before this thread waits.
    #[inline]
    pub fn touch(self: &Rc<Self>) {
        self.dirty.set(true);
        self.local.touch(self);
    }

    /// Marks that something was queued, for whoever flushes next.
    #[inline]
    pub fn touch_later(&self) {
        self.dirty.set(true);
    }

    /// Sends what was queued since the last time.
    #[inline]
    pub fn flush_if_dirty(self: &Rc<Self>) {
        if self.dirty.get() {
            self.flush();
        }
    }

    /// Sends what is queued, as much as the socket takes.
    pub fn flush(self: &Rc<Self>) {
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        self.flush_in(link, state);
    }

    /// As [`flush`](Self::flush), for those who have borrowed both.
    pub fn flush_in(self: &Rc<Self>, link: &mut Link, state: &mut State) {
        self.dirty.set(false);
        if link.sending {
            return self.account(link, state);
        }
        if self.send_queued(link, state) != Sent::All {
            link.sending = true;
            link.sent_ms = Time::monotonic_coarse().as_ms() as u32;
            self.local.spawn(drain(self.clone()));
        }
        self.settle(link, state);
    }

    /// Sends until the queue is empty, the socket full or the share over.
    fn send_queued(self: &Rc<Self>, link: &mut Link, state: &mut State) -> Sent {
        loop {
            let arena = &mut state.shared.arena;
            if matches!(link.stage, Stage::Stopping | Stage::Closed) {
                link.release_queues(arena);
                return Sent::All;
            }
            let next = match link.rare.tls_mut() {
                None => link.outgoing.take(),
                Some(tls) => {
                    let is_last = matches!(link.stage, Stage::Finishing(_));
                    let scratch = &mut state.shared.scratch;
                    match tls.seal(&mut link.outgoing, is_last, scratch, arena) {
                        Ok(next) => next,
                        Err(error) => {
                            link.ends(CloseCause::Tls(error));
                            self.stop(link, state);
                            return Sent::All;
                        }
                    }
                }
            };
            let Some(mut queue) = next else {
                return Sent::All;
            };
            if queue.is_empty() {
                arena.retire(queue);
                return Sent::All;
            }
            match self.socket.send(&queue) {
                Ok(count) => {
                    self.share.charge_transfer(count);
                    queue.advance(arena, count);
                    if queue.is_empty() {
                        arena.retire(queue);
                    } else {
                        link.put_back(queue, arena);
                        if self.share.is_over() {
                            return Sent::Share;
                        }
                    }
                }
                Err(Sys::AGAIN) => {
                    link.put_back(queue, arena);
                    return Sent::AllThereIsRoomFor;
                }
                Err(errno) => {
                    arena.retire(queue);
                    self.transport_failed(link, state, errno.into());
                }
            }
        }
    }

    /// Goes on sending, now that the socket may have room.
    fn resume(self: &Rc<Self>) -> Sent {
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        let sent = self.send_queued(link, state);
        if sent == Sent::All {
            link.sending = false;
        }
        // The peer has read, or the socket would have no room: a sign of life.
        link.heard_ms = Time::monotonic_coarse().as_ms() as u32;
        self.settle(link, state);
        sent
    }

    /// What follows from what was sent: backpressure, and the next stage.
    fn settle(self: &Rc<Self>, link: &mut Link, state: &mut State) {
        self.account(link, state);
        if link.paused && link.queued_bytes() <= state.shared.config.queue_low_bytes {
            link.paused = false;
            link.forgive_message();
        }
        let queued = link.queued_bytes();
        if queued == 0 {
            self.replied_bytes.set(0);
        }
        if !link.paused {
            self.wake_waiting();
        }
        match link.next_stage() {
            None => {}
            Some(Next::ShutDown) => {
                self.socket.shutdown(Shutdown::Write);
                self.leave();
            }
            Some(Next::Stop) => self.stop(link, state),
        }
    }

    /// The thread's count of queued bytes, and whether this peer is behind.
    fn account(&self, link: &mut Link, state: &mut State) {
        let queued = link.queued_bytes();
        let shared = &mut state.shared;
        while let Some(lent) = shared.arena.take_returned() {
            // No leases are sent here.
            if let Lent::Memory { bytes, .. } = lent {
                shared.pool.take_back(bytes);
            }
        }
        shared.queued_bytes = shared.queued_bytes - link.counted_bytes + queued;
        link.counted_bytes = queued;
        let held = match link.paused {
            // What the kernel holds for a peer that does not read is memory like our own.
            true => self.socket.outgoing().held_bytes as usize,
            false => 0,
        };
        link.rare.set_kernel_bytes(held);
        link.charge(shared);
        let config = &shared.config;
        let full = shared.queued_bytes > config.shard_queue_high_bytes;
        let behind = queued > config.queue_high_bytes || full && queued > config.queue_low_bytes;
        if behind && link.sending && !link.paused {
            link.paused = true;
            link.hold_up_inflating(shared);
            shared.counts.reads_paused += 1;
        }
    }

    /// Remembers who waits until the queue is short, or the connection over.
    pub fn wait_for_room(&self, context: &TaskContext<'_>) {
        let known = |waker: &Waker| waker.will_wake(context.waker());
        if self.waiting.borrow().iter().any(known) {
            return;
        }
        // Cloning is the application's code, like waking.
        let waker = context.waker().clone();
        self.waiting.borrow_mut().push(waker);
    }

    pub fn wake_waiting(&self) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        for waker in self.waiting.take() {
            self.local.later(Later::Wake(waker));
        }
    }

    /// Begins the closing handshake.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::close`](crate::proto::Endpoint::close).
    pub fn close(
        self: &Rc<Self>,
        code: CloseCode,
        reason: &str,
        cause: CloseCause,
    ) -> Result<(), SendError> {
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        if !matches!(link.stage, Stage::Open | Stage::Closing) {
            return Err(SendError::Closed);
        }
        let (endpoint, mut context) = link.split(&mut state.shared);
        endpoint.close(code, reason, &mut context)?;
        self.deaf.set(true);
        link.ends(cause);
        self.closing(link, state);
        self.flush_in(link, state);
        Ok(())
    }

    /// Our close frame was written: the peer's has to come in time.
    pub fn closing(&self, link: &mut Link, state: &mut State) {
        if link.begins_to_close() {
            self.set_close_deadline(link, state);
        }
    }

    /// Sends what is queued and ends the transport then.
    pub fn finish(self: &Rc<Self>, link: &mut Link, state: &mut State, ending: Ending) {
        if link.finish(ending) {
            self.set_close_deadline(link, state);
            self.flush_in(link, state);
        }
    }

    /// Ends the transport now.
    pub fn stop(&self, link: &mut Link, state: &mut State) {
        if matches!(link.stage, Stage::Closed) {
            return;
        }
        link.stage = Stage::Closed;
        link.stream_ended = true;
        state.wheel.clear(self.key.slot);
        link.release_queues(&mut state.shared.arena);
        self.account(link, state);
        // Whoever waits for readiness is told so by the kernel.
        self.socket.shutdown(Shutdown::Both);
        self.wake_waiting();
        let cause = link.rare.cause();
        let cause = cause.unwrap_or(&CloseCause::Vanished).clone();
        let slot = self.key.slot;
        self.local.later(Later::SayClosed { slot, cause });
    }

    /// As [`stop`](Self::stop), for this reason.
    pub fn abort(&self, cause: CloseCause) {
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        link.ends(cause);
        self.stop(link, state);
    }

    /// The peer will send no more: its stream or its TLS has ended.
    pub fn peer_ended(self: &Rc<Self>, link: &mut Link, state: &mut State) {
        match link.peer_ended() {
            Some(ending) => self.finish(link, state, ending),
            None => self.settle(link, state),
        }
    }

    /// The transport is broken: nothing can be sent or received any more.
    pub fn transport_failed(&self, link: &mut Link, state: &mut State, errno: Errno) {
        if errno.of_transfer() == TransferError::Unexpected {
            self.local.later(Later::SayFailed(errno));
        }
        link.transport_failed(errno);
        self.stop(link, state);
    }

    /// TLS failed: the peer gets the alert that was written, and an end.
    pub fn tls_failed(self: &Rc<Self>, link: &mut Link, state: &mut State, error: TlsError) {
        state.shared.counts.tls_failures += 1;
        if link.endpoint.role() == Role::Server && error.is_plain_http() {
            // In words that it understands.
            link.rare.drop_tls();
            self.refuse(link, state, HandshakeError::PlainOnTlsPort.into());
            return;
        }
        link.ends(CloseCause::Tls(error));
        self.finish(link, state, Ending::Linger);
    }

    /// Refuses an opening handshake; the connection ends after the reply.
    pub fn refuse(self: &Rc<Self>, link: &mut Link, state: &mut State, refusal: Refusal) {
        link.refuse(&refusal, Content::Sent, &mut state.shared);
        self.finish(link, state, Ending::Linger);
    }

    /// Its deadline is due.
    pub fn deadline(self: &Rc<Self>) {
        let link = &mut *self.link.borrow_mut();
        let state = &mut *self.local.state.borrow_mut();
        match link.deadline(&self.socket, &mut state.shared) {
            Due::Again(after_ms) => {
                self.look_again(state, after_ms);
                // A ping may have been written.
                self.flush_in(link, state);
            }
            Due::Refuse => self.refuse(link, state, HandshakeError::Timeout.into()),
            Due::Finish => self.finish(link, state, Ending::Linger),
            Due::Drop => self.stop(link, state),
            Due::Nothing => {}
        }
        self.local.counted(Time::monotonic_coarse());
    }

    /// The end begins: the peer has what is left for it to take, and to say goodbye in time.
    fn set_close_deadline(&self, link: &mut Link, state: &mut State) {
        link.begin_end(&self.socket);
        let timeout_ms = state.shared.config.close_timeout_ms;
        self.local.set_deadline(state, self.key, timeout_ms);
    }

    /// When to look at an open connection: whether its peer is still there, and its message gets
    /// on.
    pub fn set_idle_deadline(&self, state: &mut State) {
        self.look_again(state, first_look_ms(&state.shared.config));
    }

    fn look_again(&self, state: &mut State, after_ms: Option<u64>) {
        match after_ms {
            Some(ms) => self.local.set_deadline(state, self.key, ms),
            None => state.wheel.clear(self.key.slot),
        }
    }

    /// From here on nobody of the application's reads: what is left of the connection is seen off.
    pub fn leave(self: &Rc<Self>) {
        if !self.leaving.replace(true) {
            self.local.spawn(see_off(self.clone()));
        }
    }

    /// A half is gone. With the last one the connection closes, if it has not.
    pub fn drop_half(self: &Rc<Self>) {
        self.halves.set(self.halves.get() - 1);
        if self.halves.get() == 0 {
            let (code, cause) = if std::thread::panicking() {
                let code = CloseCode::INTERNAL_ERROR;
                (code, CloseCause::ServicePanicked)
            } else {
                let code = CloseCode::NORMAL_CLOSURE;
                (code, CloseCause::Application(code))
            };
            // It is closing already, as most often.
            let _ = self.close(code, "", cause);
        }
    }
}

/// Sends what did not fit into the socket.
async fn drain(connection: Rc<Connection>) {
    loop {
        let Ok(mut guard) = connection.socket.writable().await else {
            return;
        };
        match connection.resume() {
            Sent::All => return,
            Sent::AllThereIsRoomFor => guard.clear_ready(),
            // A peer that reads as fast as we send has room for more each time.
            Sent::Share => connection.take_turns().await,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let link = self.link.get_mut();
        let state = &mut *self.local.state.borrow_mut();
        let shared = &mut state.shared;
        shared.queued_bytes -= std::mem::take(&mut link.counted_bytes);
        shared.charged_bytes -= std::mem::take(&mut link.charged_bytes) as usize;
        link.endpoint.release(&mut shared.pool, &mut shared.codec);
        link.endpoint.leave(&mut shared.codec);
        link.release_queues(&mut shared.arena);
        if let Some(ticket) = self.ticket.take() {
            state.shared.door.leave(ticket);
        }
        self.local.leave(state, self.key);
        self.local.counted(Time::monotonic_coarse());
    }
}
