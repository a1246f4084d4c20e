//! One core's loop.
//!
//! Knows: connections, deadlines, a mailbox and a service, and in which order things happen.
//! Refuses to know: which ring it runs on, which service it runs, and the other shards.
//!
//! A turn:
//!
//! ```text
//!   1  submit what is queued, wait         one io_uring_enter(2)
//!   2  dispatch completions                services are called; they write into queues
//!   3  serve the rota                      those who had more than their share to be looked at
//!   4  read the mailbox, if it rang
//!   5  deadlines that are due
//!   6  what services asked for             messages to others, and those of topics
//!   7  settle every connection touched     one send each; backpressure; the next stage
//! ```
//!
//! Each of these is bounded, in number and in cost ([`budget`]), and what is left is gone on with
//! in the next turn, which does not wait then. So nobody with something to say waits for more turns
//! than there are others who were there before.
//!
//! A connection is touched by whatever happens to it and settled once, at the end of the turn:
//! that is where all its replies become one send, and where its stage moves on. Nothing is looked
//! at that was not touched.

mod accept;
pub mod budget;
#[cfg(feature = "sim")]
pub mod check;
mod dial;
mod dispatch;
pub mod exchange;
mod homes;
pub mod mailbox;
mod opening;
mod operations;
pub mod parcel;
mod posted;
mod relief;
mod rota;
pub mod service;
mod settle;
mod tls;
mod topics;
mod trace;

use std::{collections::VecDeque, mem, sync::Arc};

use accept::{Acceptor, Newcomer};
use budget::{Budget, cost};
use mailbox::{Command, Mailbox, Postbox, mailbox};
use rota::Rota;
use service::Service;
use topics::Distribution;
use trace::Trace;

use crate::{
    config::Config,
    conn::{
        Conn, ConnId, Connection, Key, Shared,
        counts::Stats,
        deadline::Wheel,
        door::Door,
        farewell::Farewell,
        ledger::{CALM_BYTES_MAX, Idle, Relief},
        mistake::Mistake,
        places::Places,
        proxied::Proxies,
        slab::Slab,
        survey::Survey,
        unread::Unread,
    },
    ring::{Errno, Lent, Operation, RecvSizes, Ring, Time, Token, Wait, process::release_memory},
};

/// Keys of operations that are the shard's own have slots that no connection can have.
const TICK: Key = Key {
    slot: u32::MAX,
    generation: 0,
};
const WAKE: Key = Key {
    slot: u32::MAX - 1,
    generation: 0,
};

/// When a shard stops whose time to drain is over.
const DRAINED: Time = Time::from_ns(u64::MAX);

/// Completions dispatched before what they caused is sent; the others wait for the next turn, which
/// does not wait for more. Each may hold a send chunk until then: thousands of them would spread
/// over memory that is never needed again, and out of the cache.
const TURN_COMPLETIONS_MAX: usize = 128;

/// Received bytes after which a turn looks at no more completions, likewise. What goes back as it
/// came is sent while it is in the cache, and its receive memory is free again before the next
/// connections need some: 4 % of the CPU of an echo of 16 KiB with 64 connections.
const TURN_BYTES_MAX: usize = 128 * 1024;

/// Received bytes after which a turn goes on to others although a long message is not whole yet:
/// a third of a millisecond.
const MESSAGE_TURN_BYTES_MAX: usize = 1024 * 1024;

/// Commands of the mailbox that one turn carries out.
const TURN_COMMANDS_MAX: usize = 256;

/// Deadlines that one turn looks at.
const TURN_DEADLINES_MAX: usize = 128;

/// Receives for which a connection has them large after a long message: as many as a few short
/// messages between long ones.
const LONG_FOR: u8 = 16;

/// Receives for which a connection is served by the rota after it has used up its share.
const GREEDY_FOR: u8 = 16;

/// One core's loop: a ring, a service, and the connections between them.
pub struct Shard<R: Ring, S: Service> {
    ring: R,
    service: S,
    shared: Shared,
    slab: Slab<Connection<R::Socket, S::State>>,
    wheel: Wheel,
    acceptors: Vec<Acceptor<R::Socket>>,
    accept_retry_at: Option<Time>,
    accept_paused: bool,
    /// Descriptors ran out, and none was accepted since.
    accept_exhausted: bool,
    places: Places<Newcomer<R::Socket>>,
    touched: Vec<Key>,
    /// Those with something left to be looked at, in the order in which they are.
    rota: Rota,
    /// Memory for those who are put off.
    #[expect(
        clippy::vec_box,
        reason = "what was put off moves in and out of connections as a box"
    )]
    spare_unread: Vec<Box<Unread>>,
    /// Nobody in the rota could be served, for want of receive memory.
    rota_blocked: bool,
    /// It was not served in the last turn, so that others were answered sooner.
    rota_waits: bool,
    /// In this turn, bytes were looked at in passing.
    answered_some: bool,
    budget: Budget,
    mailbox: Mailbox,
    /// What was taken out of the mailbox and not carried out yet.
    commands: VecDeque<Command>,
    /// Bytes that they held when they were taken out: until all are carried out, none are free.
    commands_bytes: usize,
    /// How many were carried out.
    #[cfg(feature = "sim")]
    commands_done: u64,
    /// There may be something in the mailbox, or in `commands`.
    has_mail: bool,
    /// Deadlines are due that no turn had time for.
    deadlines_left: bool,
    /// Completions handed out so far.
    completions: u64,
    /// Those of this turn.
    turn_completions: u64,
    /// With so many of them, deadlines that are due may be judged.
    judge_after: Option<u64>,
    postbox: Postbox,
    /// Plaintext of the records that are being looked at, for all TLS connections.
    plain: Vec<u8>,
    /// Until then nothing is said of peers that do not get as far as a service.
    silent_until: Time,
    now: Time,
    tick_at: Option<Time>,
    tick_cancelling: bool,
    recv_sizes: RecvSizes,
    /// Bytes received in this turn so far.
    turn_bytes: usize,
    /// The next turn waits for nothing: there is something left to do.
    hurries: bool,
    idle: Idle,
    /// Bytes received since idle memory was given back.
    received_bytes: usize,
    /// Those who hold so much memory that nothing is received from them now.
    choked: Vec<Key>,
    relief: Relief,
    /// When a stopping shard drops what is left.
    drain_until: Option<Time>,
    /// Of whom it is still to take its leave, one after the other.
    farewell: Option<Farewell>,
    trace: Trace,
    distribution: Distribution,
    /// Walks over its connections that somebody waits for.
    surveys: VecDeque<Survey>,
    id: u16,
}

impl<R: Ring, S: Service> std::fmt::Debug for Shard<R, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shard")
            .field("id", &self.id)
            .field("connections", &self.slab.len())
            .finish_non_exhaustive()
    }
}

impl<R: Ring, S: Service> Shard<R, S> {
    /// A shard with this number, on this ring. `seed` is entropy for masking keys; a server does
    /// not use any.
    pub fn new(id: u16, mut ring: R, service: S, config: Config, seed: [u8; 32]) -> Self {
        let now = ring.now();
        let (postbox, mailbox) = mailbox(
            config.mailbox_messages_max,
            config.mailbox_bytes_max,
            ring.waker(),
        );
        ring.submit_wake(WAKE.token(Operation::Wake));
        let places = Places::new(config.shard_connections_max, config.handshake_timeout_ms);
        Self {
            recv_sizes: ring.recv_sizes(),
            ring,
            service,
            shared: Shared::new(config, seed),
            slab: Slab::default(),
            wheel: Wheel::new(now),
            acceptors: Vec::new(),
            accept_retry_at: None,
            accept_paused: false,
            accept_exhausted: false,
            places,
            touched: Vec::new(),
            rota: Rota::default(),
            spare_unread: Vec::new(),
            rota_blocked: false,
            rota_waits: false,
            answered_some: false,
            budget: Budget::default(),
            commands: VecDeque::new(),
            commands_bytes: 0,
            #[cfg(feature = "sim")]
            commands_done: 0,
            has_mail: false,
            deadlines_left: false,
            completions: 0,
            turn_completions: 0,
            judge_after: None,
            idle: Idle::default(),
            received_bytes: 0,
            choked: Vec::new(),
            relief: Relief::default(),
            mailbox,
            postbox,
            plain: Vec::new(),
            silent_until: now,
            now,
            tick_at: None,
            tick_cancelling: false,
            turn_bytes: 0,
            hurries: false,
            drain_until: None,
            farewell: None,
            trace: Trace::default(),
            distribution: Distribution::default(),
            surveys: VecDeque::new(),
            id,
        }
    }

    /// Counts where its connections come from at this door, which other shards have as well.
    pub fn share_door(&mut self, door: Arc<Door>) {
        self.shared.door = door;
    }

    /// Takes the word of these proxies for where connections come from.
    pub fn trust(&mut self, proxies: Arc<Proxies>) {
        self.shared.proxies = proxies;
    }

    /// The way into its mailbox.
    pub fn postbox(&self) -> Postbox {
        self.postbox.clone()
    }

    /// Its counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// The service.
    pub fn service(&mut self) -> &mut S {
        &mut self.service
    }

    /// The ring.
    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// What its connections share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Connections there are.
    pub fn connections(&self) -> usize {
        self.slab.len()
    }

    /// Whether its next turn will wait for nothing, whatever it is told: it has something left to
    /// do.
    pub const fn hurries(&self) -> bool {
        self.hurries
    }

    /// Whether it was stopped and nothing is left of it.
    pub fn is_finished(&self) -> bool {
        let Some(until) = self.drain_until else {
            return false;
        };
        // What was published is given to the other shards, who may have subscribers, while there is
        // time.
        let is_told = !self.owes_topics() || until == DRAINED;
        is_told && self.slab.is_empty() && self.acceptors.iter().all(Acceptor::is_idle)
    }

    /// Turns until it is stopped and finished.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the ring itself.
    pub fn run(&mut self) -> Result<(), Errno> {
        while !self.is_finished() {
            self.turn(Wait::Forever)?;
        }
        Ok(())
    }

    /// One turn, as the module's page tells.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the ring itself.
    pub fn turn(&mut self, wait: Wait) -> Result<(), Errno> {
        self.arm_tick();
        let hurries = std::mem::take(&mut self.hurries) || self.has_asked();
        self.ring.turn(if hurries { Wait::Poll } else { wait })?;
        self.now = self.ring.now();
        self.shared.now = self.now;
        self.shared.counts.turns += 1;
        self.shared
            .lending
            .begin_turn(self.recv_sizes.lent_bytes_max);
        self.turn_bytes = 0;
        self.budget.begin_turn(self.now);
        if self.shared.config.trace_stages {
            self.begin_trace();
        }
        self.answered_some = false;
        self.dispatch_completions();
        if !self.rota.is_empty() {
            // What was just answered goes out first: in every other turn at least, a share is
            // served.
            let waited = self.rota_waits && !self.shared.errs(Mistake::ServesRotaWhenIdle);
            self.rota_waits = self.answered_some && !waited;
            if !self.rota_waits {
                self.serve_rota();
            }
        }
        if self.has_mail {
            self.read_mailbox();
        }
        if !self.surveys.is_empty() {
            self.walk_on();
        }
        self.handle_deadlines();
        if self.is_asked() {
            self.do_what_was_asked();
        }
        self.settle_touched();
        if self.distribution.has_later() {
            self.settle_later();
        }
        return_lent(&mut self.ring, &mut self.shared);
        self.shared.settle_codec();
        let is_rota_left = !self.rota.is_empty() && (self.rota_waits || !self.rota_blocked);
        let is_walking = !self.surveys.is_empty();
        self.hurries |= is_rota_left || self.has_mail || self.deadlines_left || is_walking;
        self.hurries |= self.distribution.has_later();
        if self.idle.is_due(self.now) {
            self.trim();
        }
        self.received_bytes += self.turn_bytes;
        self.settle_ledger();
        self.measure_turn();
        let subscriptions = self.shared.asked.table.subscriptions();
        self.shared.counts.topic_subscriptions = subscriptions as u64;
        self.shared.stats.publish(
            &self.shared.counts,
            self.slab.len(),
            self.shared.queued_bytes,
        );
        Ok(())
    }

    /// What a turn looks at once it is over.
    #[inline]
    fn measure_turn(&mut self) {
        let spread = &self.shared.stats.spread;
        spread.turn.add(self.ring.now().ns_since(self.now));
        spread.turn_completions.add_number(self.turn_completions);
    }

    /// Serves those who need little in passing, in the order in which they came.
    #[inline]
    fn dispatch_completions(&mut self) {
        let before = self.completions;
        for _ in 0..TURN_COMPLETIONS_MAX {
            if self.turn_bytes >= TURN_BYTES_MAX || self.budget.is_turn_over() {
                break;
            }
            if self.shared.errs(Mistake::LeavesCompletions) && !self.rota.is_empty() {
                break;
            }
            let Some(completion) = self.ring.next_completion() else {
                break;
            };
            self.completions += 1;
            self.budget.charge(cost::COMPLETION_NS);
            self.dispatch(completion);
            self.look_at_budget();
        }
        self.turn_completions = self.completions - before;
    }

    /// Gives memory back that was not needed for a while.
    fn trim(&mut self) {
        if Idle::keeps_much(self.shared.kept_bytes()) {
            self.shared.arena.trim();
            self.shared.pool.trim();
        }
        // The allocator keeps it for those who are about to ask for it again.
        let received_bytes = mem::replace(&mut self.received_bytes, 0);
        if received_bytes < CALM_BYTES_MAX {
            self.plain = Vec::new();
            self.spare_unread = Vec::new();
        }
        let held_bytes = self.held_bytes();
        if self.idle.is_released(held_bytes) && received_bytes < CALM_BYTES_MAX {
            // A few chunks that are kept would keep the pages around them: they lie where they were
            // needed, between others.
            self.shared.forget_kept();
            let held_bytes = self.held_bytes();
            release_memory();
            self.idle.released(held_bytes);
        }
    }

    /// Sees to it that the ring wakes up for the first deadline.
    fn arm_tick(&mut self) {
        let kept_bytes = self.shared.kept_bytes();
        // As of the end of the last turn.
        let held_bytes = self.shared.counts.memory_held_bytes as usize;
        let first = [
            self.wheel.first(),
            self.accept_retry_at,
            self.drain_until,
            // Of nobody there is no leave to take.
            (!self.slab.is_empty())
                .then(|| self.farewell.as_ref().map(Farewell::due_at))
                .flatten(),
            self.idle.due_at(held_bytes, kept_bytes),
            (!self.choked.is_empty()).then_some(self.relief.again_at()),
            self.places.late_at(),
        ];
        let Some(first) = first.into_iter().flatten().min() else {
            return;
        };
        match self.tick_at {
            None => {
                self.tick_at = Some(first);
                self.ring.submit_tick(first, TICK.token(Operation::Tick));
            }
            Some(at) if first < at && !self.tick_cancelling => {
                self.tick_cancelling = true;
                let target = TICK.token(Operation::Tick);
                self.ring
                    .submit_cancel(target, TICK.token(Operation::Cancel));
            }
            Some(_) => {}
        }
    }

    /// Calls the service for an open connection of this shard, outside of a turn. Returns whether
    /// it is open.
    pub fn call(&mut self, id: ConnId, call: impl FnOnce(&mut S, &mut Conn<'_, S::State>)) -> bool {
        self.look_at_clock();
        let called = id.shard() == self.id && self.with_conn(id.key(), call);
        self.settle_touched();
        called
    }

    /// What the owner asks for outside of a turn happens now, and not when the last turn began.
    fn look_at_clock(&mut self) {
        self.now = self.ring.now();
        self.shared.now = self.now;
    }

    fn id_of(&self, key: Key) -> ConnId {
        ConnId::new(self.id, key)
    }

    /// Marks a connection to be settled at the end of the turn.
    #[inline]
    fn touch(&mut self, key: Key) {
        if let Some(connection) = self.slab.get_mut(key)
            && connection.link.settles.touch()
        {
            self.touched.push(key);
        }
    }

    /// Carries out what other threads have asked for, as much as a turn has time for.
    fn read_mailbox(&mut self) {
        if self.shared.errs(Mistake::LeavesMail) && self.budget.is_turn_over() {
            return;
        }
        for _ in 0..TURN_COMMANDS_MAX {
            if self.commands.is_empty() {
                let taken = self.mailbox.take();
                (self.commands, self.commands_bytes) = (taken.commands, taken.bytes);
            }
            let Some(command) = self.commands.pop_front() else {
                self.has_mail = false;
                return;
            };
            if self.commands.is_empty() {
                self.commands_bytes = 0;
            }
            self.budget.charge(cost::COMMAND_NS);
            self.carry_out(command);
            #[cfg(feature = "sim")]
            {
                self.commands_done += 1;
            }
            self.look_at_budget();
            if self.budget.is_turn_over() {
                return;
            }
        }
    }

    /// Bytes of memory that its connections and its mailbox hold.
    fn held_bytes(&self) -> usize {
        self.shared.held_bytes() + self.mail_bytes() + self.distribution.held_bytes()
    }

    /// Bytes that wait in the mailbox or were taken out of it.
    fn mail_bytes(&self) -> usize {
        self.commands_bytes + self.mailbox.held_bytes()
    }

    /// Does what was asked for.
    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Send(key, message) => {
                self.budget.charge(cost::bytes_ns(message.payload_len()));
                self.send_posted(key, message);
                if self.shared.codec.is_used() {
                    self.budget.charge(self.shared.codec.take_cost_ns());
                }
            }
            Command::Close(key, code, reason) => {
                self.with_conn(key, |_, conn| {
                    let _ = conn.close(code, &reason);
                });
            }
            Command::Reconfigure(config) => self.reconfigure(&config),
            Command::Stop(drain) => self.stop(drain),
            Command::Survey(survey) => self.surveys.push_back(*survey),
        }
    }
}

/// Gives memory back that was sent as it lay.
#[inline]
fn return_lent<R: Ring>(ring: &mut R, shared: &mut Shared) {
    while let Some(lent) = shared.arena.take_returned() {
        match lent {
            Lent::Lease(lease) => ring.recycle(lease),
            Lent::Memory { bytes, .. } => shared.pool.take_back(bytes),
        }
    }
}

/// The listener with this number, as a key.
const fn acceptor_key(index: usize) -> Key {
    Key {
        slot: crate::conn::token::SLOTS_MAX + index as u32,
        generation: 0,
    }
}

/// The listener that an operation of the shard's own is for.
fn acceptor_index(token: Token) -> usize {
    (Key::of_token(token).slot - crate::conn::token::SLOTS_MAX) as usize
}
