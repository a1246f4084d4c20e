//! What the shards of a server publish to each other's subscribers.
//!
//! Knows: an inbox for each shard, what its subscribers want, and how it is woken. Refuses to know:
//! who the subscribers are, and what is done with what was taken out.
//!
//! A publication is put into the inbox of each shard that wants it, all of a turn under one lock
//! and with one wake-up. An inbox that holds as much as it may takes no more: whoever has something
//! for it keeps that, publishes nothing further, and is woken when there is room. So nothing is
//! lost between two shards, and a shard that stands still holds up those who publish to it.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{
    mailbox::{Command, Postbox},
    parcel::{Carries, Parcel},
};
use crate::{
    config::Config,
    conn::{
        turn::{PublishError, Waiting},
        wanted::Wanted,
    },
    topics::{interest::Interest, name::Reach, rules::Rules},
};

/// All shards of a server, as each of them knows the others.
#[derive(Debug)]
pub struct Exchange {
    members: Vec<Member>,
    rules: Arc<Rules>,
    config: Config,
    /// What the first history of each shard is called.
    epoch: u64,
}

/// What came of handing something over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// Nothing is left.
    All,
    /// There was no room for all.
    Full,
    /// Nobody takes anything there any more.
    Gone,
}

/// What others know of one shard.
#[derive(Debug, Default)]
struct Member {
    interest: Arc<Interest>,
    inbox: Mutex<Inbox>,
    /// Something is in the inbox: for its owner, who looks in every turn.
    has_mail: AtomicBool,
    /// Its owner takes nothing out any more.
    is_gone: AtomicBool,
    /// Bytes that it holds, likewise.
    bytes: AtomicUsize,
    /// To wake it; not there before it has started, when nobody has subscribed on it.
    postbox: OnceLock<Postbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    /// From other shards, for the subscribers of this one.
    arrived: Waiting<Parcel>,
    /// For this shard as the home of topics.
    for_home: Waiting<Wanted>,
    /// From handles, for all subscribers. Apart: it waits for room in the inboxes of others, and
    /// what would make room there must not wait behind it.
    posted: Waiting<Wanted>,
    /// Shards that have something for it and found it full.
    for_room: Vec<u16>,
    /// Its owner takes nothing out any more.
    is_closed: bool,
}

impl Member {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells its owner what is in the inbox, under whose lock this is called.
    fn tell(&self, inbox: &Inbox) {
        let (arrived, for_home) = (&inbox.arrived, &inbox.for_home);
        let is_empty = arrived.is_empty() && for_home.is_empty() && inbox.posted.is_empty();
        let bytes = arrived.bytes() + for_home.bytes() + inbox.posted.bytes();
        self.bytes.store(bytes, Ordering::Relaxed);
        self.has_mail.store(!is_empty, Ordering::Release);
    }

    fn wake(&self) {
        if let Some(postbox) = self.postbox.get() {
            postbox.wake();
        }
    }
}

impl Exchange {
    /// For so many shards. The limits of mailboxes are those of inboxes. The histories of topics
    /// are called by numbers from `epoch` on, which no server before this one has used.
    pub fn new(shards: usize, rules: Rules, config: Config, epoch: u64) -> Self {
        Self {
            epoch,
            members: (0..shards).map(|_| Member::default()).collect(),
            rules: Arc::new(rules),
            config,
        }
    }

    /// How topics are treated.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.clone()
    }

    fn member(&self, shard: u16) -> Option<&Member> {
        self.members.get(usize::from(shard))
    }

    /// What the subscribers of each shard want.
    pub fn all_interests(&self) -> Arc<[Arc<Interest>]> {
        self.members.iter().map(|it| it.interest.clone()).collect()
    }

    /// What the subscribers of a shard want.
    pub fn interest(&self, shard: u16) -> Arc<Interest> {
        let member = self.member(shard);
        member
            .map(|member| member.interest.clone())
            .unwrap_or_default()
    }

    /// A shard has started, and can be woken there.
    pub fn join(&self, shard: u16, postbox: Postbox) {
        if let Some(member) = self.member(shard) {
            // It joins once.
            let _ = member.postbox.set(postbox);
        }
    }

    /// A shard takes nothing out of its inbox any more: nobody is to wait for it.
    pub fn leave(&self, shard: u16) {
        let Some(member) = self.member(shard) else {
            return;
        };
        let mut inbox = member.inbox();
        inbox.is_closed = true;
        member.is_gone.store(true, Ordering::Release);
        inbox.arrived = Waiting::default();
        // Who waits for an answer is told so by its end, which may run code that is not ours.
        let for_home = mem::take(&mut inbox.for_home);
        inbox.posted = Waiting::default();
        member.tell(&inbox);
        let for_room = mem::take(&mut inbox.for_room);
        drop(inbox);
        drop(for_home);
        self.wake_all(for_room);
    }

    fn wake_all(&self, shards: Vec<u16>) {
        for shard in shards {
            if let Some(member) = self.member(shard) {
                member.wake();
            }
        }
    }

    /// Puts a command into a shard's mailbox. Returns whether it has taken it.
    pub fn post(&self, shard: u16, command: Command) -> bool {
        let member = self.member(shard);
        let postbox = member.and_then(|member| member.postbox.get());
        postbox.is_some_and(|postbox| postbox.post(command).is_ok())
    }

    /// Calls `found` with each other shard that wants messages of this topic.
    #[inline]
    pub fn each_that_wants(&self, own: u16, topic: &[u8], mut found: impl FnMut(usize)) {
        for (shard, member) in self.members.iter().enumerate() {
            if shard != usize::from(own) && member.interest.wants(topic) {
                found(shard);
            }
        }
    }

    /// Puts into a shard's inbox what one shard has for its subscribers, as much as there is room
    /// for. If something is left, that shard is woken when there is room.
    pub fn hand_over(&self, from: u16, to: usize, leaving: &mut VecDeque<Parcel>) -> Handed {
        self.hand(from, to, leaving, |inbox| &mut inbox.arrived)
    }

    /// The same with what it has for that shard as the home of topics.
    pub fn hand_home(&self, from: u16, to: usize, leaving: &mut VecDeque<Wanted>) -> Handed {
        self.hand(from, to, leaving, |inbox| &mut inbox.for_home)
    }

    fn hand<T: Carries>(
        &self,
        from: u16,
        to: usize,
        leaving: &mut VecDeque<T>,
        lane: impl Fn(&mut Inbox) -> &mut Waiting<T>,
    ) -> Handed {
        let Some(member) = self.members.get(to) else {
            return Handed::Gone;
        };
        let mut inbox = member.inbox();
        if inbox.is_closed {
            return Handed::Gone;
        }
        let before = leaving.len();
        let lane = lane(&mut inbox);
        while !lane.is_full(&self.config)
            && let Some(parcel) = leaving.pop_front()
        {
            let bytes = parcel.held_bytes();
            lane.push(parcel, bytes);
        }
        if !leaving.is_empty() && !inbox.for_room.contains(&from) {
            inbox.for_room.push(from);
        }
        member.tell(&inbox);
        drop(inbox);
        if leaving.len() < before {
            member.wake();
        }
        match leaving.is_empty() {
            true => Handed::All,
            false => Handed::Full,
        }
    }

    /// The shard that gives messages of a topic their numbers and keeps them, unless it is gone.
    pub fn home(&self, topic: &[u8]) -> Option<u16> {
        let home = self.home_of(topic);
        let is_there = |member: &&Member| !member.is_gone.load(Ordering::Acquire);
        self.members.get(home).filter(is_there).map(|_| home as u16)
    }

    /// What the first history of each shard is called: as none of a server before. A topic is
    /// always kept by the same one.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many connections subscribe to exactly this name or pattern, on all shards.
    pub fn members(&self, pattern: &[u8], reach: Reach) -> usize {
        let interests = self.members.iter().map(|member| &member.interest);
        interests.map(|it| it.members(pattern, reach)).sum()
    }

    /// Asks something of a topic from outside of all shards. All that is asked of one topic goes by
    /// way of one shard, so that it stays in its order.
    ///
    /// # Errors
    ///
    /// [`PublishError::Full`], [`PublishError::Stopped`].
    pub fn ask(&self, wanted: Wanted) -> Result<(), PublishError> {
        let home = self.home_of(wanted.topic());
        let (before, from_home) = self.members.split_at(home.min(self.members.len()));
        // One that has ended has given away all that it had: the next one takes its place.
        for member in from_home.iter().chain(before) {
            let mut inbox = member.inbox();
            if inbox.is_closed {
                continue;
            }
            if inbox.posted.is_full(&self.config) {
                return Err(PublishError::Full);
            }
            let bytes = wanted.held_bytes();
            inbox.posted.push(wanted, bytes);
            member.tell(&inbox);
            drop(inbox);
            member.wake();
            return Ok(());
        }
        Err(PublishError::Stopped)
    }

    /// By FNV-1a: the shard only has to be the same for the same topic.
    fn home_of(&self, topic: &[u8]) -> usize {
        let hash = topic
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        (hash % self.members.len().max(1) as u64) as usize
    }

    /// Whether something is in a shard's inbox.
    #[inline]
    pub fn has_mail(&self, shard: u16) -> bool {
        let member = self.member(shard);
        member.is_some_and(|member| member.has_mail.load(Ordering::Acquire))
    }

    /// Takes what other shards have put into a shard's inbox, and wakes those who wait for room in
    /// it.
    pub fn take_arrived(&self, shard: u16) -> Waiting<Parcel> {
        self.take(shard, |inbox| &mut inbox.arrived)
    }

    /// Takes what is there for the shard as the home of topics, likewise.
    pub fn take_for_home(&self, shard: u16) -> Waiting<Wanted> {
        self.take(shard, |inbox| &mut inbox.for_home)
    }

    fn take<T>(&self, shard: u16, lane: impl Fn(&mut Inbox) -> &mut Waiting<T>) -> Waiting<T> {
        let Some(member) = self.member(shard) else {
            return Waiting::default();
        };
        let mut inbox = member.inbox();
        let taken = mem::take(lane(&mut inbox));
        let for_room = mem::take(&mut inbox.for_room);
        member.tell(&inbox);
        drop(inbox);
        self.wake_all(for_room);
        taken
    }

    /// Takes what handles have put there.
    pub fn take_posted(&self, shard: u16) -> Waiting<Wanted> {
        let Some(member) = self.member(shard) else {
            return Waiting::default();
        };
        let mut inbox = member.inbox();
        let taken = mem::take(&mut inbox.posted);
        member.tell(&inbox);
        taken
    }

    /// Bytes that wait in a shard's inbox.
    #[inline]
    pub fn held_bytes(&self, shard: u16) -> usize {
        let member = self.member(shard);
        member.map_or(0, |member| member.bytes.load(Ordering::Relaxed))
    }

    /// The same, added up.
    #[cfg(feature = "sim")]
    pub fn sum_bytes(&self, shard: u16) -> usize {
        let sum = |member: &Member| {
            let inbox = member.inbox();
            let posted = inbox.posted.sum(Wanted::held_bytes);
            let for_home = inbox.for_home.sum(Wanted::held_bytes);
            inbox.arrived.sum(Parcel::held_bytes) + for_home + posted
        };
        self.member(shard).map_or(0, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::wanted::Publication;

    fn publication(topic: &str, text: &str) -> Wanted {
        Wanted::Publish(message(topic, text))
    }

    fn message(topic: &str, text: &str) -> Publication {
        Publication::new(topic.as_bytes(), &text.into()).unwrap()
    }

    fn texts<T: Carries>(mut waiting: Waiting<T>) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(parcel) = waiting.pop(T::held_bytes) {
            let publication = parcel.into_publication().unwrap();
            texts.push(publication.frame.message().text().unwrap().to_owned());
        }
        texts
    }

    fn small() -> Config {
        Config {
            mailbox_messages_max: 3,
            ..Config::default()
        }
    }

    #[test]
    fn a_full_inbox_takes_no_more_and_nothing_is_lost() {
        let exchange = Exchange::new(2, Rules::default(), small(), 1);
        let mut leaving: VecDeque<_> = ["1", "2", "3", "4", "5"]
            .map(|text| Parcel::Message(message("a", text)))
            .into();
        assert_eq!(exchange.hand_over(0, 1, &mut leaving), Handed::Full);
        assert_eq!(leaving.len(), 2);
        assert!(exchange.has_mail(1) && !exchange.has_mail(0));
        assert_eq!(texts(exchange.take_arrived(1)), ["1", "2", "3"]);
        assert!(!exchange.has_mail(1));
        assert_eq!(exchange.hand_over(0, 1, &mut leaving), Handed::All);
        assert_eq!(texts(exchange.take_arrived(1)), ["4", "5"]);
        exchange.leave(1);
        let mut leaving = VecDeque::from([Parcel::Message(message("a", "6"))]);
        assert_eq!(exchange.hand_over(0, 1, &mut leaving), Handed::Gone);
        assert_eq!(exchange.held_bytes(1), 0);
    }

    #[test]
    fn what_comes_from_outside_has_one_way_for_each_topic() {
        let exchange = Exchange::new(4, Rules::default(), small(), 1);
        for text in ["1", "2", "3"] {
            assert_eq!(exchange.ask(publication("a.b", text)), Ok(()));
        }
        let refused = exchange.ask(publication("a.b", "4"));
        assert_eq!(refused, Err(PublishError::Full));
        let with_mail: Vec<u16> = (0..4).filter(|&shard| exchange.has_mail(shard)).collect();
        assert_eq!(with_mail.len(), 1);
        assert_eq!(texts(exchange.take_posted(with_mail[0])), ["1", "2", "3"]);
        exchange.leave(with_mail[0]);
        assert_eq!(exchange.ask(publication("a.b", "5")), Ok(()));
        let with_mail: Vec<u16> = (0..4).filter(|&shard| exchange.has_mail(shard)).collect();
        assert_eq!(with_mail.len(), 1, "the next one");
        for shard in 0..4 {
            exchange.leave(shard);
        }
        let refused = exchange.ask(publication("a.b", "6"));
        assert_eq!(refused, Err(PublishError::Stopped));
    }

    #[test]
    fn only_those_who_want_a_topic_are_named() {
        let exchange = Exchange::new(3, Rules::default(), small(), 1);
        let reach = crate::topics::name::check_pattern(b"a.*").unwrap();
        for shard in [0, 2] {
            exchange
                .interest(shard)
                .begin(b"a.*", reach, Arc::default());
        }
        let wanting = |own, topic: &[u8]| {
            let mut found = Vec::new();
            exchange.each_that_wants(own, topic, |shard| found.push(shard));
            found
        };
        assert_eq!(wanting(0, b"a.b"), [2]);
        assert_eq!(wanting(1, b"a.b"), [0, 2]);
        assert_eq!(wanting(1, b"b"), [0; 0]);
    }
}
