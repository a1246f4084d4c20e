//! Topics whose messages are kept: each has one shard for a home, which gives them their numbers.
//!
//! Knows: which way a message and a wish take. Refuses to know: who subscribes, and how messages
//! are kept.
//!
//! ```text
//!   any shard --message--> home: number, keep --> the home's subscribers
//!             --wish----->   |
//!                            '--message, answer--> each other shard's subscribers
//! ```
//!
//! An answer and the messages behind it take the same way in the same order. So whoever waits for
//! an answer is left out until it has come, and misses nothing and gets nothing twice. A long
//! answer comes in pages, each of which is asked for when the one before has come, so that nobody
//! waits for all of them.

use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    Shard,
    budget::cost,
    exchange::Handed,
    parcel::{Answer, Parcel},
    service::Service,
    topics::{RUN_BYTES_MAX, RUN_MESSAGES_MAX, next_run},
};
use crate::{
    conn::{
        Connection, Stage,
        ledger::Pressure,
        listening::Part,
        mistake::Mistake,
        wanted::{Asker, Publication, Request, Wanted},
    },
    ring::Ring,
    topics::{Recalled, SlowPolicy, TopicOptions, history::Page},
};

impl<R: Ring, S: Service> Shard<R, S> {
    /// Brings a message or a wish on its way to the home of its topic.
    pub(super) fn send_home(&mut self, item: Wanted) {
        let distribution = &mut self.distribution;
        let home = match &distribution.exchange {
            Some(exchange) => exchange.home(item.topic()),
            None => Some(self.id),
        };
        match home {
            Some(home) if home == self.id => distribution.push_for_home(item),
            Some(home) => distribution.push_homing(home, item),
            None => self.is_homeless(item),
        }
    }

    /// The home of a topic is gone: the server ends.
    fn is_homeless(&mut self, item: Wanted) {
        match item {
            Wanted::Publish(publication) => self.distribute(&[Publication {
                is_unnumbered: true,
                ..publication
            }]),
            Wanted::Recall(Request { topic, asker, .. }) => {
                if let Asker::Connection(to, ticket) = asker {
                    self.hand_out(Answer {
                        to,
                        ticket,
                        topic,
                        recalled: Recalled::nothing(),
                    });
                }
            }
        }
    }

    /// Gives other shards what is for them as homes.
    pub(super) fn hand_home(&mut self) {
        if self.distribution.homing_bytes == 0 {
            return;
        }
        let Some(exchange) = self.distribution.exchange.clone() else {
            return;
        };
        self.distribution.is_home_held_up = false;
        let mut homing = mem::take(&mut self.distribution.homing);
        let mut homeless = Vec::new();
        for (to, homing) in homing.iter_mut().enumerate() {
            if homing.is_empty() {
                continue;
            }
            match exchange.hand_home(self.id, to, homing) {
                Handed::All => {}
                Handed::Full => self.distribution.is_home_held_up = true,
                Handed::Gone => homeless.extend(homing.drain(..)),
            }
        }
        let left = homing.iter().flatten().map(Wanted::held_bytes);
        self.distribution.homing_bytes = left.sum();
        self.distribution.homing = homing;
        for item in homeless {
            self.is_homeless(item);
        }
    }

    /// Does what this shard is to do as a home, a few messages or one wish. Returns whether there
    /// was something.
    pub(super) fn serve_as_home(&mut self) -> bool {
        if self.distribution.is_held_up {
            return false;
        }
        let run = next_run(&mut self.distribution.for_home);
        if !run.is_empty() {
            let run = self.number(run);
            self.distribute(&run);
            return true;
        }
        match self.distribution.for_home.pop(Wanted::held_bytes) {
            Some(Wanted::Recall(request)) => self.answer(request),
            Some(Wanted::Publish(_)) | None => return false,
        }
        true
    }

    /// Gives messages of one topic their numbers, and keeps them.
    fn number(&mut self, mut run: Vec<Publication>) -> Vec<Publication> {
        let asked = &mut self.shared.asked;
        let Some(first) = run.first() else {
            return run;
        };
        let options = asked.rules.of(&first.topic);
        for publication in &mut run {
            let (topic, frame) = (&publication.topic, publication.frame.clone());
            let position = asked.histories.record(topic, frame, &options, self.now);
            publication.position = Some(position);
        }
        self.shrink_histories();
        run
    }

    /// Keeps no more than may be kept, and ever less while memory runs short.
    pub(super) fn shrink_histories(&mut self) {
        let most = self.shared.config.topic_history_bytes_max;
        let bytes_max = match self.shared.ledger.pressure() > Pressure::None {
            true => most.min(self.shared.asked.histories.held_bytes() / 2),
            false => most,
        };
        let histories = &mut self.shared.asked.histories;
        histories.shrink_to(bytes_max);
        self.shared.counts.topic_history_bytes = histories.held_bytes() as u64;
    }

    /// Answers a wish, behind all messages that have got a number.
    fn answer(&mut self, request: Request) {
        let asked = &mut self.shared.asked;
        let Request {
            topic,
            since,
            asker,
        } = request;
        let options = asked.rules.of(&topic);
        let now = self.now;
        let page = match asker {
            Asker::Connection(..) => self.distribution.page,
            Asker::Outside(_) => Page::WHOLE,
        };
        let asked_for = (since, page);
        let recalled = asked.histories.recall(&topic, asked_for, &options, now);
        self.shrink_histories();
        let told = recalled.messages().count() as u64;
        self.budget.charge(told * cost::DELIVERY_NS);
        match asker {
            Asker::Connection(to, ticket) => {
                let answer = Answer {
                    to,
                    ticket,
                    topic,
                    recalled,
                };
                if to.shard() == self.id {
                    self.hand_out(answer);
                } else {
                    let parcel = Parcel::Recalled(Box::new(answer));
                    self.distribution.push_leaving(to.shard().into(), parcel);
                }
            }
            Asker::Outside(tell) => {
                // It is not our code.
                if catch_unwind(AssertUnwindSafe(|| tell(recalled))).is_err() {
                    tracing::error!(shard = self.id, "who asked for a topic's messages panicked");
                }
            }
        }
    }

    /// Gives a connection the earlier messages for which it waits, or the next page of them.
    pub(super) fn hand_out(&mut self, answer: Answer) {
        let key = answer.to.key();
        let rest = answer.recalled.rest();
        let part = match self.slab.get_mut(key) {
            Some(Connection { link, .. })
                if matches!(link.stage, Stage::Open)
                    && !link.endpoint.is_close_sent()
                    && link.rare.listening().is_some() =>
            {
                let (topic, ticket) = (&answer.topic, answer.ticket);
                let is_last = rest.is_none();
                link.rare.listen(|it| it.take(topic, ticket, is_last))
            }
            _ => Part::Stale,
        };
        let resumed = answer.recalled.resumed();
        let topic = &answer.topic;
        let is_told = match part {
            Part::Stale => return,
            Part::First => true,
            // What it was told is not so any more: some were forgotten meanwhile.
            Part::Next => !resumed.is_whole,
        };
        if is_told {
            let counts = &mut self.shared.counts;
            if resumed.is_whole {
                counts.topic_resumed += 1;
            } else {
                counts.topic_resumed_with_gap += 1;
            }
            // What waits for it already goes out before what its service says of the rest.
            if let Some(Connection { link, .. }) = self.slab.get_mut(key) {
                link.load_whole_backlog(&mut self.shared.arena);
            }
            self.with_conn(key, |service, conn| {
                service.on_subscribed(conn, topic, &resumed);
            });
        }
        if let Some(since) = rest {
            // Behind what others have asked for by now. Until it is here, later messages are not
            // for this connection: they are among those that are still to come.
            let asker = Asker::Connection(answer.to, answer.ticket);
            let topic = topic.clone();
            self.shared.asked.push(Wanted::Recall(Request {
                topic,
                since,
                asker,
            }));
        }
        if self.shared.errs(Mistake::ForgetsRecalled) && resumed.messages > 1 {
            return;
        }
        // They are within what the topic may keep, and no slow reader's backlog.
        let options = TopicOptions {
            slow: SlowPolicy::Disconnect,
            backlog_messages_max: usize::MAX,
            backlog_bytes_max: usize::MAX,
            ..TopicOptions::default()
        };
        let mut run = Vec::new();
        let mut bytes = 0;
        let mut frames = answer.recalled.into_frames().peekable();
        while let Some((position, frame)) = frames.next() {
            bytes += frame.bytes().len();
            run.push(Publication::kept(topic.clone(), frame, position));
            let is_full = run.len() == RUN_MESSAGES_MAX || bytes >= RUN_BYTES_MAX;
            if is_full || frames.peek().is_none() {
                if !self.deliver_kept(key, &run, options) {
                    return;
                }
                run.clear();
                bytes = 0;
            }
        }
    }
}
