//! Carries out what services have asked for beyond their connections: messages to others, and those
//! of topics to everybody who subscribes.
//!
//! Knows: in which order it is done, and what is done with those who are behind. Refuses to know:
//! who asked, and why.
//!
//! ```text
//!   publish --> queue of the shard --> every subscriber's queue, or its backlog while it sends
//!                     |                             |
//!                     v                             v
//!           inbox of each other shard      settled when a turn has time: one send each,
//!           that has subscribers           with all that came meanwhile
//! ```
//!
//! Where messages of a topic are kept, they go by way of its home (`homes`).
//!
//! Queueing is cheap and sending is not: a message is queued for all of its subscribers at once,
//! and the sends are divided over as many turns as their cost needs, with a turn of everybody
//! else's between them. What comes until then goes out in the same send. So the more is published,
//! the less each message costs.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    Shard,
    budget::cost,
    exchange::{Exchange, Handed},
    parcel::{Carries, Parcel},
    service::Service,
};
use crate::{
    conn::{
        CloseCause, Conn, ConnId, Connection, Key, Stage,
        backlog::Backlog,
        ledger::{Pressure, SMALL_BYTES},
        mistake::Mistake,
        turn::{Effect, Waiting},
        wanted::{Publication, Wanted},
    },
    proto::{
        CloseCode, SendError,
        message::{Frame, Outgoing},
    },
    ring::{Common, Ring},
    topics::{Published, SlowPolicy, TopicOptions, history::Page},
};

/// What a shard has to do with the others.
#[derive(Debug)]
pub(super) struct Distribution {
    pub(super) exchange: Option<Arc<Exchange>>,
    shard: u16,
    /// What other shards have published, for the subscribers of this one.
    arrived: Waiting<Parcel>,
    /// What this shard is to do as the home of topics.
    pub(super) for_home: Waiting<Wanted>,
    /// For each shard what its inbox had no room for, or what it gets at the end of the turn.
    leaving: Vec<VecDeque<Parcel>>,
    /// Bytes of these.
    leaving_bytes: usize,
    /// The same for each shard as the home of topics.
    pub(super) homing: Vec<VecDeque<Wanted>>,
    /// Bytes of these.
    pub(super) homing_bytes: usize,
    /// An inbox was full: nothing goes to the others until there is room in it.
    pub(super) is_held_up: bool,
    /// The inbox of a home was full: nothing is published until there is room in it.
    pub(super) is_home_held_up: bool,
    /// Those whose sends were put off.
    later: VecDeque<Key>,
    #[cfg(feature = "sim")]
    later_done: u64,
    /// What keys of messages are compared by.
    keys: RandomState,
    /// How much of a history one answer has.
    pub(super) page: Page,
}

/// About as long to be handed out as a few messages of other kinds.
const PAGE: Page = Page {
    messages_max: 256,
    bytes_max: 256 << 10,
};

impl Default for Distribution {
    fn default() -> Self {
        Self {
            exchange: None,
            shard: 0,
            arrived: Waiting::default(),
            for_home: Waiting::default(),
            leaving: Vec::new(),
            leaving_bytes: 0,
            homing: Vec::new(),
            homing_bytes: 0,
            is_held_up: false,
            is_home_held_up: false,
            later: VecDeque::new(),
            #[cfg(feature = "sim")]
            later_done: 0,
            keys: RandomState::new(),
            page: PAGE,
        }
    }
}

impl Distribution {
    /// Whether sends were put off.
    #[inline]
    pub(super) fn has_later(&self) -> bool {
        !self.later.is_empty()
    }

    /// How many sends that were put off have been made.
    #[cfg(feature = "sim")]
    pub(super) const fn later_done(&self) -> u64 {
        self.later_done
    }

    /// Bytes of what has arrived or waits in the inbox, and of what waits for room in others.
    #[inline]
    pub(super) fn held_bytes(&self) -> usize {
        let inbox = self.exchange.as_ref().map(|it| it.held_bytes(self.shard));
        let leaving = self.leaving_bytes + self.homing_bytes;
        leaving + self.arrived.bytes() + self.for_home.bytes() + inbox.unwrap_or(0)
    }

    /// The same, added up.
    #[cfg(feature = "sim")]
    pub(super) fn sum_bytes(&self) -> usize {
        let leaving = self.leaving.iter().flatten();
        let leaving: usize = leaving.map(Parcel::held_bytes).sum();
        let homing = self.homing.iter().flatten();
        let homing: usize = homing.map(Wanted::held_bytes).sum();
        let inbox = self.exchange.as_ref().map(|it| it.sum_bytes(self.shard));
        let arrived = self.arrived.sum(Parcel::held_bytes);
        let for_home = self.for_home.sum(Wanted::held_bytes);
        leaving + homing + arrived + for_home + inbox.unwrap_or(0)
    }

    /// Whether something is to be done for others, and can be.
    #[inline]
    fn has_work(&self) -> bool {
        let exchange = self.exchange.as_ref();
        let is_told = !self.arrived.is_empty() || !self.for_home.is_empty();
        is_told || exchange.is_some_and(|it| it.has_mail(self.shard))
    }

    /// Whether an inbox was full for which own messages may be.
    #[inline]
    const fn holds_up_publishers(&self) -> bool {
        self.is_held_up || self.is_home_held_up
    }

    /// Something for the subscribers of another shard.
    pub(super) fn push_leaving(&mut self, shard: usize, parcel: Parcel) {
        if self.leaving.len() <= shard {
            self.leaving.resize_with(shard + 1, VecDeque::new);
        }
        self.leaving_bytes += parcel.held_bytes();
        self.leaving[shard].push_back(parcel);
    }

    /// Something for another shard as the home of a topic.
    pub(super) fn push_homing(&mut self, home: u16, item: Wanted) {
        let home = usize::from(home);
        if self.homing.len() <= home {
            self.homing.resize_with(home + 1, VecDeque::new);
        }
        self.homing_bytes += item.held_bytes();
        self.homing[home].push_back(item);
    }

    /// Something for this shard as the home of a topic.
    pub(super) fn push_for_home(&mut self, item: Wanted) {
        let bytes = item.held_bytes();
        self.for_home.push(item, bytes);
    }
}

/// Nobody waits any more for a shard that is gone.
impl Drop for Distribution {
    fn drop(&mut self) {
        if let Some(exchange) = &self.exchange {
            exchange.leave(self.shard);
        }
    }
}

/// The most messages, and bytes, that are queued as one piece for those who get them at once.
pub(super) const RUN_MESSAGES_MAX: usize = 64;
pub(super) const RUN_BYTES_MAX: usize = 32 << 10;

/// After more sends that were put off than these, the room for them is given back.
const KEPT_MAX: usize = 4096;

/// Messages of one topic on their way to its subscribers of one shard, one behind the other.
struct Delivery {
    messages: Vec<Delivered>,
    /// All of them in one piece.
    whole: Common,
    payload_bytes: usize,
    options: TopicOptions,
    except: Option<Key>,
}

/// The same messages as they are for different subscribers.
struct Forms<'a> {
    run: &'a [Publication],
    /// They were kept, and are for one who waits for them.
    are_kept: bool,
    plain: Delivery,
    /// Made for the first one who wants it.
    enveloped: Option<Delivery>,
}

/// One of these messages.
struct Delivered {
    frame: Common,
    /// For those who need another frame.
    outgoing: Outgoing<'static>,
    key: u64,
    payload_len: usize,
}

/// Of the messages for one subscriber, how many were queued, and bytes of payload in them.
#[derive(Clone, Copy, Default)]
struct Queued {
    messages: u64,
    payload_bytes: u64,
    /// It reads too slowly to keep.
    is_too_slow: bool,
}

impl Queued {
    const fn add(&mut self, message: &Delivered) {
        self.messages += 1;
        self.payload_bytes += message.payload_len as u64;
    }
}

impl<R: Ring, S: Service> Shard<R, S> {
    /// Publishes to the subscribers of other shards as well, and they to those of this one.
    pub fn share_exchange(&mut self, exchange: Arc<Exchange>) {
        exchange.join(self.id, self.postbox());
        let asked = &mut self.shared.asked;
        asked.rules = exchange.rules();
        asked.interest = exchange.interest(self.id);
        asked.all_interests = exchange.all_interests();
        asked.histories.begin_at(exchange.epoch());
        self.distribution.exchange = Some(exchange);
        self.distribution.shard = self.id;
    }

    /// Sets up a simulation: of how many messages an answer to who was away consists.
    #[cfg(feature = "sim")]
    pub const fn answer_by(&mut self, messages_max: usize) {
        self.distribution.page.messages_max = messages_max;
    }

    /// Whether something was asked for, here or by another shard.
    #[inline]
    pub(super) fn is_asked(&self) -> bool {
        let asked = &self.shared.asked;
        !asked.effects.is_empty()
            || !asked.wanted.is_empty()
            || self.distribution.has_work()
            || self.distribution.holds_up_publishers()
    }

    /// Whether the next turn has something to do that was asked for.
    #[inline]
    pub(super) fn has_asked(&self) -> bool {
        let asked = &self.shared.asked;
        let distribution = &self.distribution;
        let is_idle = asked.wanted.is_empty() && distribution.for_home.is_empty();
        let can_go_on = !is_idle && self.can_go_on();
        can_go_on || !asked.effects.is_empty() || !distribution.arrived.is_empty()
    }

    /// Whether what waits can be done, and does not wait for others.
    #[inline(never)]
    fn can_go_on(&self) -> bool {
        let distribution = &self.distribution;
        let can_ask = !self.shared.asked.wanted.is_empty() && !distribution.holds_up_publishers();
        let can_serve = !distribution.for_home.is_empty() && !distribution.is_held_up;
        can_ask || can_serve
    }

    /// Whether something that was published did not reach all yet.
    pub(super) fn owes_topics(&self) -> bool {
        let distribution = &self.distribution;
        let has_left = distribution.leaving_bytes > 0 || distribution.homing_bytes > 0;
        has_left || !self.shared.asked.wanted.is_empty() || distribution.has_work()
    }

    /// Does what was asked for, as much as a turn has time for.
    #[inline(never)]
    pub(super) fn do_what_was_asked(&mut self) {
        self.carry_out_effects();
        self.hand_over();
        self.hand_home();
        self.budget.begin_share();
        // In turns, so that none waits for all of another kind.
        let mut is_over = false;
        while !is_over {
            self.take_inbox();
            let mut has_done = self.take_in();
            has_done |= self.serve_as_home();
            has_done |= self.pass_on();
            is_over = !has_done;
            // Patterns and backlogs cost what nobody can estimate.
            let pace = self.budget.look(self.ring.now());
            self.keep_pace(pace);
            is_over |= self.budget.is_time_up();
        }
        // Of homes that are gone something goes to the others.
        self.hand_home();
        self.hand_over();
        // What has come meanwhile was told of once, and nobody tells again.
        self.take_inbox();
        let distribution = &self.distribution;
        self.hurries |= distribution.has_work() && !distribution.holds_up_publishers();
    }

    /// Passes on some of what was asked of topics here, or by handles. Returns whether there was
    /// something.
    fn pass_on(&mut self) -> bool {
        if self.distribution.holds_up_publishers() {
            return false;
        }
        let wanted = &mut self.shared.asked.wanted;
        let run = next_run(wanted);
        if !run.is_empty() {
            self.publish(run);
            return true;
        }
        let recall = wanted.pop(Wanted::held_bytes);
        let is_there = recall.is_some();
        if let Some(recall) = recall {
            self.budget.charge(cost::COMMAND_NS);
            self.send_home(recall);
        }
        is_there
    }

    /// Hands out some of what has arrived, to those who get it together. Returns whether there was
    /// something.
    fn take_in(&mut self) -> bool {
        let arrived = next_run(&mut self.distribution.arrived);
        if !arrived.is_empty() {
            self.distribute(&arrived);
            return true;
        }
        match self.distribution.arrived.pop(Parcel::held_bytes) {
            Some(Parcel::Recalled(answer)) => self.hand_out(*answer),
            Some(Parcel::Message(_)) | None => return false,
        }
        true
    }

    /// As much as a turn has time for; the next one goes on.
    fn carry_out_effects(&mut self) {
        self.budget.begin_share();
        while !self.budget.is_time_up()
            && let Some(effect) = self.shared.asked.pop_effect()
        {
            self.budget.charge(cost::COMMAND_NS);
            self.look_at_budget();
            let id = effect.connection();
            if id.shard() == self.id {
                self.carry_out(effect.into());
            } else {
                self.post_effect(id, effect);
            }
        }
    }

    /// What is to be done on another shard goes into its mailbox.
    fn post_effect(&mut self, id: ConnId, effect: Effect) {
        let exchange = self.distribution.exchange.as_ref();
        let posted = exchange.is_some_and(|exchange| exchange.post(id.shard(), effect.into()));
        if !posted {
            self.tell_of_dropped(id, SendError::QueueFull);
        }
    }

    /// What other shards and handles have published, as long as there is room for it.
    fn take_inbox(&mut self) {
        let Distribution {
            exchange: Some(exchange),
            arrived,
            for_home,
            is_held_up,
            is_home_held_up,
            ..
        } = &mut self.distribution
        else {
            return;
        };
        if !exchange.has_mail(self.id) {
            return;
        }
        if arrived.is_empty() {
            *arrived = exchange.take_arrived(self.id);
        }
        if for_home.is_empty() && !*is_held_up {
            *for_home = exchange.take_for_home(self.id);
        }
        let wanted = &mut self.shared.asked.wanted;
        if wanted.is_empty() && !*is_held_up && !*is_home_held_up {
            *wanted = exchange.take_posted(self.id);
            let publications = wanted.iter().filter_map(Wanted::publication);
            self.shared.counts.topic_publications += publications.count() as u64;
        }
    }

    /// Brings messages of one topic on their way.
    fn publish(&mut self, run: Vec<Publication>) {
        let rules = &self.shared.asked.rules;
        let goes_home = run
            .first()
            .is_some_and(|first| !first.is_unnumbered && rules.keeps(&first.topic));
        if !goes_home {
            return self.distribute(&run);
        }
        for publication in run {
            self.budget.charge(cost::COMMAND_NS);
            self.send_home(Wanted::Publish(publication));
        }
    }

    /// Queues messages for all who get the first of them.
    pub(super) fn distribute(&mut self, run: &[Publication]) {
        for publication in run {
            self.budget.charge(cost::COMMAND_NS);
            if publication.is_for_all {
                self.publish_to_others(publication);
            }
        }
        if let Some(first) = run.first()
            && !self.shared.asked.table.is_empty()
        {
            self.deliver(first, run);
        }
    }

    fn publish_to_others(&mut self, publication: &Publication) {
        let Some(exchange) = self.distribution.exchange.clone() else {
            return;
        };
        exchange.each_that_wants(self.id, &publication.topic, |shard| {
            let parcel = Parcel::Message(Publication {
                is_for_all: false,
                ..publication.clone()
            });
            self.distribution.push_leaving(shard, parcel);
        });
    }

    /// Gives the others what is for them.
    fn hand_over(&mut self) {
        let Distribution {
            exchange: Some(exchange),
            leaving,
            leaving_bytes,
            is_held_up,
            ..
        } = &mut self.distribution
        else {
            return;
        };
        if *leaving_bytes == 0 {
            return;
        }
        *is_held_up = false;
        *leaving_bytes = 0;
        for (to, leaving) in leaving.iter_mut().enumerate() {
            if leaving.is_empty() {
                continue;
            }
            match exchange.hand_over(self.id, to, leaving) {
                Handed::All => {}
                Handed::Full if self.shared.errs(Mistake::LosesFullInboxes) => leaving.clear(),
                Handed::Full => {
                    *is_held_up = true;
                    *leaving_bytes += leaving.iter().map(Parcel::held_bytes).sum::<usize>();
                }
                // It has no subscribers any more.
                Handed::Gone => leaving.clear(),
            }
        }
    }

    /// Queues messages for every subscriber of this shard.
    fn deliver(&mut self, first: &Publication, run: &[Publication]) {
        let topic = &first.topic;
        // Nobody can subscribe while they are queued: no service is called.
        let mut table = mem::take(&mut self.shared.asked.table);
        if !table.find(topic) {
            self.shared.asked.table = table;
            return;
        }
        let mut forms = Forms {
            plain: self.delivery(first, run, run.iter().map(|it| it.frame.clone())),
            enveloped: None,
            are_kept: false,
            run,
        };
        if self.shared.errs(Mistake::ReversesRuns) {
            let reversed = run.iter().rev();
            forms.plain = self.delivery(first, run, reversed.map(|it| it.frame.clone()));
        }
        let mut too_slow = Vec::new();
        let mut queued = Queued::default();
        let mut subscribers = 0;
        table.each_found(|place| {
            subscribers += 1;
            let Some(key) = self.slab.key_at(place) else {
                return;
            };
            let mut its = self.deliver_to(key, &mut forms);
            if self.shared.errs(Mistake::DeliversTwice) {
                its = self.deliver_to(key, &mut forms);
            }
            queued.messages += its.messages;
            queued.payload_bytes += its.payload_bytes;
            if its.is_too_slow {
                too_slow.push(key);
            }
        });
        self.shared.asked.table = table;
        self.count_delivered(&queued, subscribers);
        for key in too_slow {
            self.end_slow(key);
        }
    }

    fn count_delivered(&mut self, queued: &Queued, subscribers: u64) {
        let counts = &mut self.shared.counts;
        counts.topic_deliveries += queued.messages;
        counts.messages_sent += queued.messages;
        counts.payload_bytes_sent += queued.payload_bytes;
        self.budget
            .charge((subscribers + queued.messages) * cost::DELIVERY_NS);
        if self.shared.codec.is_used() {
            self.budget.charge(self.shared.codec.take_cost_ns());
        }
    }

    /// Queues messages that were kept for one subscriber, whom it is told first. Returns whether it
    /// is still there.
    pub(super) fn deliver_kept(
        &mut self,
        key: Key,
        run: &[Publication],
        options: TopicOptions,
    ) -> bool {
        let Some(first) = run.first() else {
            return true;
        };
        let mut forms = Forms {
            plain: self.delivery(first, run, run.iter().map(|it| it.frame.clone())),
            enveloped: None,
            are_kept: true,
            run,
        };
        forms.plain.options = options;
        let queued = self.deliver_to(key, &mut forms);
        self.count_delivered(&queued, 1);
        if queued.is_too_slow {
            self.end_slow(key);
        }
        let connection = self.slab.get_mut(key);
        connection.is_some_and(|it| matches!(it.link.stage, Stage::Open))
    }

    /// These messages as they are for one kind of subscriber, by which they are frames.
    fn delivery(
        &self,
        first: &Publication,
        run: &[Publication],
        frames: impl Iterator<Item = Frame>,
    ) -> Delivery {
        let arena = &self.shared.arena;
        let options = self.shared.asked.rules.of(&first.topic);
        let keys = &self.distribution.keys;
        let messages = run
            .iter()
            .zip(frames)
            .map(|(publication, frame)| Delivered {
                frame: arena.common(frame.bytes().clone()),
                outgoing: frame.outgoing(),
                key: match options.slow {
                    SlowPolicy::Conflate => keys.hash_one((&publication.topic, &publication.key)),
                    // Nobody asks for it.
                    _ => 0,
                },
                payload_len: frame.payload_len(),
            });
        let messages: Vec<_> = messages.collect();
        let whole = match &messages[..] {
            [message] => message.frame.clone(),
            all => {
                let frames: Vec<_> = all.iter().map(|message| message.frame.bytes()).collect();
                arena.common(frames.concat().into())
            }
        };
        Delivery {
            payload_bytes: messages.iter().map(|message| message.payload_len).sum(),
            whole,
            messages,
            options,
            except: first
                .except
                .filter(|id| id.shard() == self.id)
                .map(ConnId::key),
        }
    }

    /// These messages as the service puts them for those who want that.
    #[inline(never)]
    fn enveloped(&mut self, run: &[Publication], options: TopicOptions) -> Option<Delivery> {
        let first = run.first()?;
        let mut frames = Vec::with_capacity(run.len());
        for publication in run {
            let message = publication.frame.message();
            let published = Published::new(&publication.topic, message, publication.position);
            let service = &mut self.service;
            let put = catch_unwind(AssertUnwindSafe(|| {
                Frame::new(&service.envelope(&published))
            }));
            let frame = put.unwrap_or_else(|_| {
                self.shared.counts.service_panics += 1;
                tracing::error!(shard = self.id, "envelope panicked");
                publication.frame.clone()
            });
            frames.push(frame);
        }
        self.budget.charge_calls(run.len() as u32);
        let mut delivery = self.delivery(first, run, frames.into_iter());
        delivery.options = options;
        Some(delivery)
    }

    /// Queues messages for one subscriber.
    #[inline]
    fn deliver_to(&mut self, key: Key, forms: &mut Forms<'_>) -> Queued {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return Queued::default();
        };
        if !matches!(link.stage, Stage::Open) || forms.plain.except == Some(key) {
            return Queued::default();
        }
        if link.rare.listening().is_some() {
            return self.deliver_to_listener(key, forms);
        }
        self.queue(key, &forms.plain)
    }

    /// The same, for one that wants something of its own.
    #[inline(never)]
    fn deliver_to_listener(&mut self, key: Key, forms: &mut Forms<'_>) -> Queued {
        let connection = self.slab.get_mut(key);
        let listening = connection.and_then(|it| it.link.rare.listening());
        let (Some(first), Some(listening)) = (forms.run.first(), listening) else {
            return Queued::default();
        };
        // They will be among those for which it waits, or behind them.
        let is_early =
            !forms.are_kept && first.position.is_some() && listening.awaits(&first.topic);
        let has_envelopes = listening.has_envelopes;
        if is_early && !self.shared.errs(Mistake::DeliversBeforeRecalled) {
            return Queued::default();
        }
        if has_envelopes && forms.enveloped.is_none() {
            forms.enveloped = self.enveloped(forms.run, forms.plain.options);
        }
        let enveloped = forms.enveloped.as_ref().filter(|_| has_envelopes);
        self.queue(key, enveloped.unwrap_or(&forms.plain))
    }

    /// Queues messages in one form for one subscriber.
    #[inline]
    fn queue(&mut self, key: Key, delivery: &Delivery) -> Queued {
        let mut queued = Queued::default();
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return queued;
        };
        if link.endpoint.is_compressing() || !link.endpoint.sends_as_received() {
            for message in &delivery.messages {
                self.deliver_apart(key, message, &delivery.options, &mut queued);
            }
        } else if link.sending || link.rare.backlog().is_some() {
            for message in &delivery.messages {
                self.deliver_behind(key, message, &delivery.options, &mut queued);
            }
        } else {
            let arena = &mut self.shared.arena;
            let queue = link.outgoing.get_or_insert_with(|| arena.queue());
            queue.push_common(delivery.whole.clone());
            queued.messages = delivery.messages.len() as u64;
            queued.payload_bytes = delivery.payload_bytes as u64;
        }
        let Some(Connection { link, state, .. }) = self.slab.get_mut(key) else {
            return queued;
        };
        if link.settles.put_off() {
            self.distribution.later.push_back(key);
        }
        if let Some(tally) = state.as_mut().and_then(S::tally) {
            tally.messages_sent += queued.messages;
            tally.payload_bytes_sent += queued.payload_bytes;
        }
        queued
    }

    /// To a subscriber to whom something is being sent.
    fn deliver_behind(
        &mut self,
        key: Key,
        message: &Delivered,
        options: &TopicOptions,
        queued: &mut Queued,
    ) {
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        let counts = &mut self.shared.counts;
        let is_short_of_memory = self.shared.ledger.pressure() >= Pressure::Pause;
        // Whoever has little is not in the way.
        let bytes_max = match is_short_of_memory {
            true => options.backlog_bytes_max.min(SMALL_BYTES),
            false => options.backlog_bytes_max,
        };
        let is_full = |backlog: &Backlog, more: usize| {
            !backlog.is_empty()
                && (backlog.len() + usize::from(more > 0) > options.backlog_messages_max
                    || backlog.bytes() + more > bytes_max)
        };
        let len = message.frame.len();
        let backlog = link.rare.backlog_mut();
        let mut frame = message.frame.clone();
        if options.slow == SlowPolicy::Conflate {
            frame = match backlog.replace(frame, message.key) {
                Ok(()) => {
                    counts.topic_conflated += 1;
                    // It may be longer than the one before.
                    while backlog.len() > 1 && is_full(backlog, 0) && backlog.drop_oldest() {
                        counts.topic_dropped_oldest += 1;
                    }
                    return queued.add(message);
                }
                Err(frame) => frame,
            };
        }
        match options.slow {
            SlowPolicy::Conflate | SlowPolicy::DropOldest => {
                while is_full(backlog, len) && backlog.drop_oldest() {
                    counts.topic_dropped_oldest += 1;
                }
            }
            SlowPolicy::Disconnect if is_full(backlog, len) => {
                queued.is_too_slow = true;
                return;
            }
            SlowPolicy::DropNewest if is_full(backlog, len) => {
                counts.topic_dropped_newest += 1;
                return;
            }
            SlowPolicy::Disconnect | SlowPolicy::DropNewest => {}
        }
        backlog.push(frame, message.key);
        queued.add(message);
    }

    /// To a subscriber that takes no server's plain frame: it has agreed on compression, speaks
    /// hixie-76, or is a server that we have dialled.
    #[inline(never)]
    fn deliver_apart(
        &mut self,
        key: Key,
        message: &Delivered,
        options: &TopicOptions,
        queued: &mut Queued,
    ) {
        let id = self.id_of(key);
        let Some(Connection {
            link,
            state: Some(state),
            ..
        }) = self.slab.get_mut(key)
        else {
            return;
        };
        let waiting = link.queued_bytes();
        let is_full = waiting > 0 && waiting + message.payload_len > options.backlog_bytes_max;
        let counts = &self.shared.counts;
        let (messages, bytes) = (counts.messages_sent, counts.payload_bytes_sent);
        let sent = if is_full {
            Err(SendError::QueueFull)
        } else {
            Conn::new(id, link, state, &mut self.shared).send(message.outgoing.clone())
        };
        // They are counted together with all others.
        self.shared.counts.messages_sent = messages;
        self.shared.counts.payload_bytes_sent = bytes;
        match sent {
            Ok(_) => queued.add(message),
            Err(SendError::Closed) => {}
            Err(SendError::QueueFull) if options.slow == SlowPolicy::Disconnect => {
                queued.is_too_slow = true;
            }
            // What is queued for it are no whole messages any more, of which one could be left out.
            Err(SendError::QueueFull) => self.shared.counts.topic_dropped_newest += 1,
            Err(_) => self.shared.counts.topic_dropped_unsupported += 1,
        }
    }

    /// Closes a subscriber that reads too slowly. What waits for it is not sent any more.
    fn end_slow(&mut self, key: Key) {
        let id = self.id_of(key);
        let Some(Connection { link, .. }) = self.slab.get_mut(key) else {
            return;
        };
        link.rare.take_backlog();
        let (endpoint, mut context) = link.split(&mut self.shared);
        if endpoint
            .close(CloseCode::TRY_AGAIN_LATER, TOO_SLOW, &mut context)
            .is_err()
        {
            return;
        }
        link.ends(CloseCause::TooSlow);
        self.shared.counts.topic_disconnects += 1;
        tracing::debug!(connection = %id, "the subscriber reads too slowly and is closed");
        self.touch(key);
    }

    /// Settles those whose sends were put off, as many as a turn has time for.
    #[inline(never)]
    pub(super) fn settle_later(&mut self) {
        self.budget.begin_share();
        while let Some(key) = self.distribution.later.pop_front() {
            #[cfg(feature = "sim")]
            {
                self.distribution.later_done += 1;
            }
            let connection = self.slab.get_mut(key);
            if connection.is_some_and(|it| it.link.settles.taken()) {
                self.budget.charge(cost::TRANSFER_NS);
                self.settle(key);
            }
            self.look_at_budget();
            if self.budget.is_time_up() {
                break;
            }
        }
        if self.distribution.later.is_empty() && self.distribution.later.capacity() > KEPT_MAX {
            self.distribution.later = VecDeque::new();
        }
        // A service may have been called.
        self.settle_touched();
    }
}

/// Why a subscriber that is behind is closed.
const TOO_SLOW: &str = "messages of topics come faster than they are read";

/// The first of these and those behind it that go to the same connections; none, if the first one
/// is no message.
pub(super) fn next_run<T: Carries>(waiting: &mut Waiting<T>) -> Vec<Publication> {
    let mut run: Vec<Publication> = Vec::new();
    let mut bytes = 0;
    while let Some(next) = waiting.first().and_then(T::publication) {
        bytes += next.frame.bytes().len();
        let goes_along = run.first().is_none_or(|first| {
            let fits = run.len() < RUN_MESSAGES_MAX && bytes <= RUN_BYTES_MAX;
            fits && next.is_for_those_of(first)
        });
        if !goes_along {
            break;
        }
        run.extend(waiting.pop(T::held_bytes).and_then(T::into_publication));
    }
    run
}
