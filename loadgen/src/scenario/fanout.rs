//! Some connections publish, the others hear it.
//!
//! Knows: who should hear what, and what was heard. Refuses to know: how the server spreads it: any
//! server fits that sends to all clients of a URL what one of them sends.
//!
//! ```text
//!   publisher 0 --+--> server --+--> subscriber 2     the payload says when it was due and
//!   publisher 1 --+             +--> subscriber 3     when it was sent, so that any thread of
//!                               +--> subscriber 4     this process can tell how long it took
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use ringwire::{Conn, Message};

use crate::{
    driver::{self, Due, Hub, Index, Start, Workload},
    plan::{Plan, Traffic},
    report::units::plural,
    result::{FanoutFigures, Run, Scenario, Verify},
    run::{self, Context},
    schedule::{Schedule, Share},
    verify::{Name, Payloads, instants_of},
};

/// Bytes that wait on a publisher's connection beyond which nothing is put behind them.
const QUEUE_MAX_BYTES: usize = 256 << 10;

/// Deliveries before the next expected one that are told apart from repeated ones.
const SEEN_BITS: u64 = 64;

/// What the threads tell each other at the end: how much there is to be heard.
#[derive(Debug)]
struct Published {
    /// Messages of the measured part, by topic.
    by_topic: Vec<AtomicU64>,
    /// Threads that will publish no more.
    done: AtomicUsize,
}

/// How far a subscriber has heard one publisher.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// The sequence expected next.
    next: u64,
    /// Which of those before it have come, the latest in the lowest bit.
    seen: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hears {
    /// The first time.
    New,
    /// The first time, after a later one.
    Late,
    /// The first time, and at least one before it is missing so far.
    Jump,
    /// Once more.
    Again,
}

impl Heard {
    fn hear(&mut self, sequence: u64) -> Hears {
        if sequence >= self.next {
            let ahead = sequence - self.next;
            self.seen = match ahead + 1 {
                shift @ 0..SEEN_BITS => (self.seen << shift) | 1,
                _ => 1,
            };
            self.next = sequence + 1;
            return if ahead == 0 { Hears::New } else { Hears::Jump };
        }
        let behind = self.next - 1 - sequence;
        // What came so long ago is not known any more: the likelier of the two is assumed.
        if behind >= SEEN_BITS || self.seen & (1 << behind) != 0 {
            return Hears::Again;
        }
        self.seen |= 1 << behind;
        Hears::Late
    }
}

/// What a connection is.
#[derive(Debug)]
enum Part {
    Publisher {
        sequence: u64,
        /// Messages of the measured part.
        published: u64,
        heard_own: bool,
    },
    Subscriber {
        /// Each publisher of its topic.
        heard: Vec<Heard>,
        /// Deliveries of the measured part.
        delivered: u64,
    },
}

/// What a thread knows at the end.
#[derive(Debug, Default)]
struct Counts {
    /// Subscribers that stayed open, by topic.
    subscribers: Vec<u64>,
    delivered: u64,
    gaps: u64,
    duplicates: u64,
    publishers_hear_themselves: bool,
    foreign: u64,
}

#[derive(Debug)]
struct Fanout {
    traffic: Traffic,
    payloads: Payloads,
    parts: Vec<Part>,
    /// Places of open publishers.
    publishers: Vec<u32>,
    publisher_count: usize,
    topics: usize,
    published: Arc<Published>,
    shards: usize,
    start_ns: u64,
    seed: u64,
    gaps: u64,
    duplicates: u64,
    /// Messages on each connection that nobody published: greetings that were announced, and others
    /// before the first delivery.
    unpublished: Vec<Unpublished>,
    /// All of those others, before and after.
    foreign: u64,
}

/// What a server said of itself on one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Unpublished {
    greetings: u64,
    early: u64,
}

impl Fanout {
    /// The connections are publishers, then subscribers, and take topics in turn.
    fn topic(&self, stream: u32) -> usize {
        stream as usize % self.topics
    }

    fn is_publisher(&self, stream: u32) -> bool {
        (stream as usize) < self.publisher_count
    }

    /// A message that nobody published: a greeting, or one that the server sends of itself.
    fn unpublished(&mut self, index: usize) {
        if self.unpublished.len() <= index {
            self.unpublished.resize(index + 1, Unpublished::default());
        }
        let has_heard = match self.parts.get(index) {
            Some(Part::Subscriber { heard, .. }) => heard.iter().any(|heard| heard.next > 0),
            _ => false,
        };
        let unpublished = &mut self.unpublished[index];
        if unpublished.greetings < self.traffic.greeting {
            unpublished.greetings += 1;
            return;
        }
        self.foreign += 1;
        unpublished.early += u64::from(!has_heard);
    }

    fn deliver(&mut self, hub: &mut Hub, index: usize, message: &Message<'_>, now_ns: u64) {
        let payload = message.payload();
        let topic = self.topic(hub.places[index].stream);
        let name = self.payloads.name_of(payload);
        let (Some(name), Some((due, sent))) = (name, instants_of(payload)) else {
            return self.unpublished(index);
        };
        if !self.is_publisher(name.stream) || self.topic(name.stream) != topic {
            return corrupted(hub, now_ns);
        }
        let Part::Subscriber { heard, delivered } = &mut self.parts[index] else {
            return;
        };
        let (due_ns, sent_ns) = (self.start_ns + due, self.start_ns + sent);
        let measured = hub.tally.is_measured(due_ns);
        match heard[name.stream as usize / self.topics].hear(name.sequence) {
            Hears::Again => {
                self.duplicates += u64::from(measured);
                hub.tally.messages.duplicated += u64::from(measured);
                return hub.error();
            }
            Hears::Late => {
                hub.tally.messages.reordered += u64::from(measured);
                hub.error();
            }
            Hears::Jump => {
                self.gaps += u64::from(measured);
                hub.error();
            }
            Hears::New => {}
        }
        *delivered += u64::from(measured);
        hub.tally.received(due_ns, sent_ns, now_ns, payload.len());
        if compares(self.traffic.verify, name) {
            hub.tally.messages.compared += u64::from(measured);
            if !self.payloads.matches_timed(message, name) {
                corrupted(hub, due_ns);
            }
        }
    }
}

fn corrupted(hub: &mut Hub, due_ns: u64) {
    hub.tally.messages.corrupted += u64::from(hub.tally.is_measured(due_ns));
    hub.error();
}

fn compares(verify: Verify, name: Name) -> bool {
    match verify {
        Verify::All => true,
        Verify::None => false,
        Verify::Sampled => name.sequence.is_multiple_of(64),
    }
}

impl Workload for Fanout {
    type Output = Counts;

    fn senders(&self, hub: &Hub) -> u64 {
        let open = hub.open.iter();
        open.filter(|&&index| self.is_publisher(hub.places[index as usize].stream))
            .count() as u64
    }

    fn start(&mut self, hub: &mut Hub, start: &Start, share: Option<Share>) -> Option<Schedule> {
        self.start_ns = start.start_ns;
        let per_topic = self.publisher_count.div_ceil(self.topics);
        for place in &hub.places {
            self.parts.push(if self.is_publisher(place.stream) {
                Part::Publisher {
                    sequence: 0,
                    published: 0,
                    heard_own: false,
                }
            } else {
                Part::Subscriber {
                    heard: vec![Heard::default(); per_topic],
                    delivered: 0,
                }
            });
        }
        let publishers = hub.open.iter().copied();
        self.publishers = publishers
            .filter(|&index| self.is_publisher(hub.places[index as usize].stream))
            .collect();
        let rate_per_s = self.traffic.rate_per_s?;
        let arrivals = self.traffic.arrivals;
        share.map(|share| Schedule::new(arrivals, rate_per_s, share, start.start_ns, self.seed))
    }

    fn choose(&self, hub: &Hub, turn: usize) -> Option<usize> {
        let count = self.publishers.len();
        (0..count)
            .map(|step| self.publishers[(turn + step) % count] as usize)
            .find(|&index| hub.is_open(index))
    }

    fn due(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        due_ns: u64,
        now_ns: u64,
    ) -> Due {
        let Part::Publisher {
            sequence,
            published,
            ..
        } = &mut self.parts[index]
        else {
            return Due::WaitsForReply;
        };
        if conn.queued_bytes() > QUEUE_MAX_BYTES {
            return Due::WaitsForRoom;
        }
        let name = Name {
            stream: hub.places[index].stream,
            sequence: *sequence,
        };
        let (due, now) = (due_ns - self.start_ns, now_ns - self.start_ns);
        let message = self.payloads.outgoing_timed(name, due, now);
        let len = message.payload_len();
        let sent = match self.traffic.fragment_bytes {
            None => conn.send(message),
            Some(bytes) => conn.send_fragmented(message, bytes),
        };
        if sent.is_err() {
            return Due::WaitsForReply;
        }
        *sequence += 1;
        *published += u64::from(hub.tally.is_measured(due_ns));
        hub.tally.sent(due_ns, now_ns, len);
        Due::Sent
    }

    fn message(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        message: Message<'_>,
    ) {
        match self.parts.get_mut(index) {
            Some(Part::Publisher { heard_own, .. }) => {
                let stream = hub.places[index].stream;
                match self.payloads.name_of(message.payload()) {
                    Some(name) => *heard_own |= name.stream == stream,
                    None => self.unpublished(index),
                }
            }
            Some(Part::Subscriber { .. }) => {
                self.deliver(hub, index, &message, conn.now().as_ns());
            }
            // The run has not started.
            None => self.unpublished(index),
        }
    }

    fn ended(&mut self, hub: &mut Hub) {
        for (place, part) in hub.places.iter().zip(&self.parts) {
            if let Part::Publisher { published, .. } = part {
                let topic = place.stream as usize % self.topics;
                self.published.by_topic[topic].fetch_add(*published, Ordering::Relaxed);
            }
        }
        // Release: whoever sees all threads done sees what they added.
        self.published.done.fetch_add(1, Ordering::Release);
    }

    fn is_quiet(&self, hub: &Hub, _: u64) -> bool {
        if self.published.done.load(Ordering::Acquire) < self.shards {
            return false;
        }
        hub.open.iter().all(|&index| {
            let topic = self.topic(hub.places[index as usize].stream);
            let expected = self.published.by_topic[topic].load(Ordering::Relaxed);
            match &self.parts[index as usize] {
                Part::Publisher { .. } => true,
                Part::Subscriber { delivered, .. } => *delivered >= expected,
            }
        })
    }

    fn finish(&mut self, hub: &mut Hub, _: u64) -> Counts {
        let mut counts = Counts {
            subscribers: vec![0; self.topics],
            gaps: self.gaps,
            duplicates: self.duplicates,
            foreign: self.foreign,
            ..Counts::default()
        };
        let messages = &mut hub.tally.messages;
        for Unpublished { greetings, early } in &self.unpublished {
            messages.greetings += greetings;
            messages.unasked_most = messages.unasked_most.max(*early);
        }
        for (place, part) in hub.places.iter().zip(&self.parts) {
            match part {
                Part::Publisher { heard_own, .. } => {
                    counts.publishers_hear_themselves |= heard_own;
                }
                Part::Subscriber { delivered, .. } if place.stayed_open() => {
                    counts.subscribers[self.topic(place.stream)] += 1;
                    counts.delivered += delivered;
                }
                Part::Subscriber { .. } => {}
            }
        }
        counts
    }
}

/// Carries the plan out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(plan: &Arc<Plan>, context: &mut Context<'_>) -> Result<Run, String> {
    let (Some(traffic), Some(publishers)) = (plan.traffic.clone(), plan.figures.publishers) else {
        return Err("a fan-out needs messages and publishers".to_owned());
    };
    let topics = plan.place.topics;
    let published = Arc::new(Published {
        by_topic: (0..topics).map(|_| AtomicU64::new(0)).collect(),
        done: AtomicUsize::new(0),
    });
    let make = |shard: usize| Fanout {
        payloads: Payloads::new(&traffic.payload),
        traffic: traffic.clone(),
        parts: Vec::new(),
        publishers: Vec::new(),
        publisher_count: publishers,
        topics,
        published: published.clone(),
        shards: plan.shards,
        start_ns: 0,
        seed: traffic.payload.nonce ^ shard as u64,
        gaps: 0,
        duplicates: 0,
        unpublished: Vec::new(),
        foreign: 0,
    };
    let config = driver::config(plan);
    let executed = run::execute(plan, Scenario::Fanout, &config, make, context)?;
    let mut run = executed.run;
    let counts = executed.outputs;
    let sum = |count: fn(&Counts) -> u64| counts.iter().map(count).sum::<u64>();
    let by_topic = published.by_topic.iter().enumerate();
    let expected = by_topic
        .map(|(topic, published)| {
            let subscribers: u64 = counts.iter().map(|count| count.subscribers[topic]).sum();
            published.load(Ordering::Relaxed) * subscribers
        })
        .sum();
    let delivered = sum(|count| count.delivered);
    let figures = FanoutFigures {
        publishers: publishers as u64,
        subscribers: sum(|count| count.subscribers.iter().sum()),
        published: run.messages.sent,
        expected,
        delivered,
        missing: u64::saturating_sub(expected, delivered),
        gaps: sum(|count| count.gaps),
        duplicates: sum(|count| count.duplicates),
        publishers_hear_themselves: counts.iter().any(|count| count.publishers_hear_themselves),
    };
    // What nobody published may be a delivery that was damaged, but only where one is missing.
    let foreign = sum(|count| count.foreign);
    let damaged = foreign.min(figures.missing);
    run.messages.corrupted += damaged;
    run.messages.unasked = foreign - damaged;
    run.messages.lost = figures.missing - damaged;
    if run.messages.unasked > 0 && run.messages.unasked_most == 0 {
        run.notes.push(format!(
            "{} came that nobody had published: the server sends of itself",
            plural(run.messages.unasked, "message")
        ));
    }
    run.fanout = Some(figures);
    run::judge(&mut run, plan);
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_is_told_apart() {
        let mut heard = Heard::default();
        let script = [
            (0, Hears::New),
            (1, Hears::New),
            (1, Hears::Again),
            (4, Hears::Jump),
            (2, Hears::Late),
            (2, Hears::Again),
            (0, Hears::Again),
            (5, Hears::New),
            (3, Hears::Late),
            (200, Hears::Jump),
            (5, Hears::Again),
            (140, Hears::Late),
            (140, Hears::Again),
        ];
        for (sequence, expected) in script {
            assert_eq!(heard.hear(sequence), expected, "{sequence}");
        }
    }
}
