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

use super::mailbox::{Command, Postbox};
use crate::{
    config::Config,
    conn::turn::{Publication, PublishError, Waiting},
    topics::{interest::Interest, rules::Rules},
};

/// All shards of a server, as each of them knows the others.
#[derive(Debug)]
pub struct Exchange {
    members: Vec<Member>,
    rules: Arc<Rules>,
    config: Config,
}

/// What others know of one shard.
#[derive(Debug, Default)]
struct Member {
    interest: Arc<Interest>,
    inbox: Mutex<Inbox>,
    /// Something is in the inbox: for its owner, who looks in every turn.
    has_mail: AtomicBool,
    /// Bytes that it holds, likewise.
    bytes: AtomicUsize,
    /// To wake it; not there before it has started, when nobody has subscribed on it.
    postbox: OnceLock<Postbox>,
}

#[derive(Debug, Default)]
struct Inbox {
    /// From other shards, for the subscribers of this one.
    arrived: Waiting<Publication>,
    /// From handles, for all subscribers. Apart: it waits for room in the inboxes of others, and
    /// what would make room there must not wait behind it.
    posted: Waiting<Publication>,
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
        let is_empty = inbox.arrived.is_empty() && inbox.posted.is_empty();
        let bytes = inbox.arrived.bytes() + inbox.posted.bytes();
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
    /// For so many shards. The limits of mailboxes are those of inboxes.
    pub fn new(shards: usize, rules: Rules, config: Config) -> Self {
        Self {
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
        inbox.arrived = Waiting::default();
        inbox.posted = Waiting::default();
        member.tell(&inbox);
        let for_room = mem::take(&mut inbox.for_room);
        drop(inbox);
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

    /// Puts into a shard's inbox what one shard has for it, as much as there is room for. Returns
    /// whether nothing is left; otherwise that shard is woken when there is room.
    pub fn hand_over(&self, from: u16, to: usize, leaving: &mut VecDeque<Publication>) -> bool {
        let Some(member) = self.members.get(to) else {
            leaving.clear();
            return true;
        };
        let mut inbox = member.inbox();
        if inbox.is_closed {
            // It has no subscribers any more.
            leaving.clear();
            return true;
        }
        let before = leaving.len();
        while !inbox.arrived.is_full(&self.config)
            && let Some(publication) = leaving.pop_front()
        {
            let bytes = publication.held_bytes();
            inbox.arrived.push(publication, bytes);
        }
        if !leaving.is_empty() && !inbox.for_room.contains(&from) {
            inbox.for_room.push(from);
        }
        member.tell(&inbox);
        drop(inbox);
        if leaving.len() < before {
            member.wake();
        }
        leaving.is_empty()
    }

    /// Publishes from outside of all shards. All that goes to one topic goes by way of one shard,
    /// so that it stays in its order.
    ///
    /// # Errors
    ///
    /// [`PublishError::Full`], [`PublishError::Stopped`].
    pub fn publish(&self, publication: Publication) -> Result<(), PublishError> {
        let home = self.home_of(&publication.topic);
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
            let bytes = publication.held_bytes();
            inbox.posted.push(publication, bytes);
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
    pub fn take_arrived(&self, shard: u16) -> Waiting<Publication> {
        let Some(member) = self.member(shard) else {
            return Waiting::default();
        };
        let mut inbox = member.inbox();
        let taken = mem::take(&mut inbox.arrived);
        let for_room = mem::take(&mut inbox.for_room);
        member.tell(&inbox);
        drop(inbox);
        self.wake_all(for_room);
        taken
    }

    /// Takes what handles have put there.
    pub fn take_posted(&self, shard: u16) -> Waiting<Publication> {
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
            inbox.arrived.sum(Publication::held_bytes) + inbox.posted.sum(Publication::held_bytes)
        };
        self.member(shard).map_or(0, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(topic: &str, text: &str) -> Publication {
        Publication::new(topic.as_bytes(), &text.into()).unwrap()
    }

    fn texts(mut waiting: Waiting<Publication>) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(publication) = waiting.pop(Publication::held_bytes) {
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
        let exchange = Exchange::new(2, Rules::default(), small());
        let mut leaving: VecDeque<_> = ["1", "2", "3", "4", "5"]
            .map(|text| publication("a", text))
            .into();
        assert!(!exchange.hand_over(0, 1, &mut leaving));
        assert_eq!(leaving.len(), 2);
        assert!(exchange.has_mail(1) && !exchange.has_mail(0));
        assert_eq!(texts(exchange.take_arrived(1)), ["1", "2", "3"]);
        assert!(!exchange.has_mail(1));
        assert!(exchange.hand_over(0, 1, &mut leaving));
        assert_eq!(texts(exchange.take_arrived(1)), ["4", "5"]);
        exchange.leave(1);
        let mut leaving = VecDeque::from([publication("a", "6")]);
        assert!(exchange.hand_over(0, 1, &mut leaving) && leaving.is_empty());
        assert_eq!(exchange.held_bytes(1), 0);
    }

    #[test]
    fn what_comes_from_outside_has_one_way_for_each_topic() {
        let exchange = Exchange::new(4, Rules::default(), small());
        for text in ["1", "2", "3"] {
            assert_eq!(exchange.publish(publication("a.b", text)), Ok(()));
        }
        let refused = exchange.publish(publication("a.b", "4"));
        assert_eq!(refused, Err(PublishError::Full));
        let with_mail: Vec<u16> = (0..4).filter(|&shard| exchange.has_mail(shard)).collect();
        assert_eq!(with_mail.len(), 1);
        assert_eq!(texts(exchange.take_posted(with_mail[0])), ["1", "2", "3"]);
        exchange.leave(with_mail[0]);
        assert_eq!(exchange.publish(publication("a.b", "5")), Ok(()));
        let with_mail: Vec<u16> = (0..4).filter(|&shard| exchange.has_mail(shard)).collect();
        assert_eq!(with_mail.len(), 1, "the next one");
        for shard in 0..4 {
            exchange.leave(shard);
        }
        let refused = exchange.publish(publication("a.b", "6"));
        assert_eq!(refused, Err(PublishError::Stopped));
    }

    #[test]
    fn only_those_who_want_a_topic_are_named() {
        let exchange = Exchange::new(3, Rules::default(), small());
        let reach = crate::topics::name::check_pattern(b"a.*").unwrap();
        for shard in [0, 2] {
            exchange.interest(shard).begin(b"a.*", reach);
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
