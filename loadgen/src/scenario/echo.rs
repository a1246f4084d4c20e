//! Messages that come back.
//!
//! Knows: how many unanswered messages a connection may have, how long it thinks before the next
//! one, and when that goes. Refuses
//! to know: what is in a message, which is `verify`'s, and when it is due, which is `schedule`'s.

use std::sync::Arc;

use ringwire::{Conn, Message};

use crate::{
    driver::{self, Due, Hub, Index, Start, Workload},
    plan::{Plan, Traffic},
    result::{Run, Scenario},
    run::{self, Context},
    schedule::{Schedule, Share},
    verify::{Ledger, Payloads, Reply},
};

/// Bytes that wait on a connection beyond which nothing is put behind them: what is in the queue
/// would be sent late without being counted as waiting.
const QUEUE_MAX_BYTES: usize = 256 << 10;

/// One thread's echo.
#[derive(Debug)]
pub struct Echo {
    traffic: Traffic,
    payloads: Payloads,
    ledgers: Vec<Ledger>,
    /// Greetings that each connection has had, those of its place's earlier connections apart.
    greeted: Vec<u64>,
    /// Greetings of connections that were followed by others.
    greeted_before: u64,
    /// Messages that each connection will send when it has thought.
    thinking: Vec<usize>,
    timeout_ns: u64,
    seed: u64,
}

impl Echo {
    /// One thread's part of the plan, which has traffic.
    fn new(plan: &Plan, traffic: &Traffic, shard: usize) -> Self {
        Self {
            payloads: Payloads::new(&traffic.payload),
            traffic: traffic.clone(),
            ledgers: Vec::new(),
            greeted: Vec::new(),
            greeted_before: 0,
            thinking: Vec::new(),
            timeout_ns: plan.reply_timeout_ms.max(1) * 1_000_000,
            seed: traffic.payload.nonce ^ shard as u64,
        }
    }

    /// Has a ledger for each of the first `count` places.
    #[inline]
    fn keep_ledgers(&mut self, hub: &Hub, count: usize) {
        while let Some(place) = hub.places[..count].get(self.ledgers.len()) {
            self.ledgers.push(Ledger::new(place.stream));
            self.greeted.push(0);
            self.thinking.push(0);
        }
    }

    #[inline]
    fn send(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        due_ns: u64,
        now_ns: u64,
    ) -> Due {
        let ledger = &mut self.ledgers[index];
        if ledger.open() >= self.traffic.in_flight {
            return Due::WaitsForReply;
        }
        if conn.queued_bytes() > QUEUE_MAX_BYTES {
            return Due::WaitsForRoom;
        }
        let name = ledger.next_name();
        let message = self.payloads.outgoing(name);
        let len = message.payload_len();
        let sent = match self.traffic.fragment_bytes {
            None => conn.send(message),
            Some(bytes) => conn.send_fragmented(message, bytes),
        };
        // Refused only on a connection that is closing: whatever waits for it is counted when it
        // has closed.
        if sent.is_err() {
            return Due::WaitsForReply;
        }
        ledger.sent(due_ns, now_ns);
        hub.tally.sent(due_ns, now_ns, len);
        Due::Sent
    }

    /// Sends whatever may go: in a closed loop as much as is allowed, in an open one what waits.
    #[inline]
    fn refill(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, now_ns: u64) {
        if self.traffic.rate_per_s.is_some() {
            while let Some(&due_ns) = hub.places[index].backlog.front() {
                if self.send(hub, conn, index, due_ns, now_ns) != Due::Sent {
                    return;
                }
                hub.next_waiting(index);
            }
            return;
        }
        if !hub.is_open(index) {
            return;
        }
        if let Some(think) = &self.traffic.think {
            return self.think(hub, index, now_ns, think.clone());
        }
        while now_ns < hub.end_ns && self.send(hub, conn, index, now_ns, now_ns) == Due::Sent {}
    }

    /// Sends as many as are allowed after a time in this range each.
    fn think(
        &mut self,
        hub: &mut Hub,
        index: usize,
        now_ns: u64,
        range_ns: std::ops::RangeInclusive<u64>,
    ) {
        while self.ledgers[index].open() + self.thinking[index] < self.traffic.in_flight {
            self.thinking[index] += 1;
            hub.wake_at(index, now_ns + fastrand::u64(range_ns.clone()));
        }
    }
}

/// How long a message that thinking is over for waits for room in a queue, in nanoseconds.
const ROOM_NS: u64 = 1_000_000;

impl Workload for Echo {
    type Output = ();

    fn start(&mut self, hub: &mut Hub, start: &Start, share: Option<Share>) -> Option<Schedule> {
        self.keep_ledgers(hub, hub.places.len());
        let rate_per_s = self.traffic.rate_per_s?;
        let arrivals = self.traffic.arrivals;
        if !self.traffic.stages.is_empty() {
            let stages = &self.traffic.stages;
            return share
                .map(|share| Schedule::staged(arrivals, stages, share, start.start_ns, self.seed));
        }
        share.map(|share| Schedule::new(arrivals, rate_per_s, share, start.start_ns, self.seed))
    }

    fn begin(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, now_ns: u64) {
        self.keep_ledgers(hub, index + 1);
        if let Some(think) = &self.traffic.think {
            // Those who begin together do not all say something together.
            return self.think(hub, index, now_ns, 0..=*think.end());
        }
        self.refill(hub, conn, index, now_ns);
    }

    fn alarm(&mut self, hub: &mut Hub, conn: &mut Conn<'_, Index>, index: usize, now_ns: u64) {
        // A connection that is to end begins nothing.
        if hub.is_open(index) && self.send(hub, conn, index, now_ns, now_ns) == Due::WaitsForRoom {
            return hub.wake_at(index, now_ns + ROOM_NS);
        }
        self.thinking[index] = self.thinking[index].saturating_sub(1);
    }

    fn is_answered(&self, index: usize, now_ns: u64) -> bool {
        // A reply that a later one has overtaken may come until its own time is over.
        let since_ns = (now_ns + 1).saturating_sub(self.timeout_ns);
        let ledger = self.ledgers.get(index);
        ledger.is_none_or(|ledger| !ledger.awaits_since(since_ns))
    }

    fn reopened(&mut self, index: usize) {
        if let Some(ledger) = self.ledgers.get_mut(index) {
            ledger.reopened();
            self.thinking[index] = 0;
            self.greeted_before += std::mem::take(&mut self.greeted[index]);
        }
    }

    #[inline]
    fn due(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        due_ns: u64,
        now_ns: u64,
    ) -> Due {
        self.send(hub, conn, index, due_ns, now_ns)
    }

    #[inline]
    fn message(
        &mut self,
        hub: &mut Hub,
        conn: &mut Conn<'_, Index>,
        index: usize,
        message: Message<'_>,
    ) {
        let now_ns = conn.now().as_ns();
        // A server may speak before the run starts.
        self.keep_ledgers(hub, index + 1);
        let ledger = &mut self.ledgers[index];
        if self.greeted[index] < self.traffic.greeting
            && !ledger.recognises(&self.payloads, &message)
        {
            self.greeted[index] += 1;
            return;
        }
        if ledger.is_early(&self.payloads, &message) {
            return;
        }
        match ledger.receive(&self.payloads, &message, self.traffic.verify) {
            Reply::Answers {
                due_ns,
                sent_ns,
                reordered,
                corrupted,
                compared,
            } => {
                ledger.took(now_ns.saturating_sub(sent_ns));
                hub.tally
                    .received(due_ns, sent_ns, now_ns, message.payload().len());
                if hub.tally.is_measured(due_ns) {
                    let messages = &mut hub.tally.messages;
                    messages.reordered += u64::from(reordered);
                    messages.corrupted += u64::from(corrupted);
                    messages.compared += u64::from(compared);
                }
                if reordered || corrupted {
                    hub.error();
                }
            }
            Reply::Duplicate => {
                hub.tally.messages.duplicated += u64::from(hub.tally.is_measured(now_ns));
                hub.error();
            }
            Reply::Foreign => {
                hub.tally.messages.corrupted += u64::from(hub.tally.is_measured(now_ns));
                hub.error();
            }
        }
        self.refill(hub, conn, index, now_ns);
    }

    fn tick(&mut self, hub: &mut Hub, now_ns: u64) -> bool {
        let before_ns = now_ns.saturating_sub(self.timeout_ns);
        let mut given_up = false;
        for index in hub.live() {
            let ledger = &mut self.ledgers[index as usize];
            let open = ledger.open();
            if open > 0 {
                ledger.give_up(before_ns);
                given_up |= ledger.open() < open;
            }
        }
        given_up
    }

    fn lost(&mut self, hub: &mut Hub, index: usize, now_ns: u64) {
        self.keep_ledgers(hub, index + 1);
        self.ledgers[index].ended(now_ns);
    }

    fn is_quiet(&self, hub: &Hub, now_ns: u64) -> bool {
        // A reply that a later one has overtaken may come until its own time is over.
        let since_ns = (now_ns + 1).saturating_sub(self.timeout_ns);
        let mut live = hub.live();
        live.all(|index| !self.ledgers[index as usize].awaits_since(since_ns))
    }

    fn finish(&mut self, hub: &mut Hub, drained_ns: u64) {
        let from_ns = hub.tally.measure_from_ns;
        let messages = &mut hub.tally.messages;
        for ledger in &self.ledgers {
            let mut unheard = ledger.unheard_since(from_ns, drained_ns, self.timeout_ns);
            // Where no answer came that is one, what came in its place was meant to be it.
            let (unasked, damaged) = ledger.early();
            let mut damaged = damaged.min(unheard.lost + unheard.cut_off);
            let (before, most_before) = ledger.early_before();
            messages.unasked += unasked + before;
            messages.unasked_most = messages.unasked_most.max(unasked).max(most_before);
            messages.corrupted += damaged;
            messages.received += damaged;
            for count in [&mut unheard.lost, &mut unheard.cut_off] {
                let taken = damaged.min(*count);
                (*count, damaged) = (*count - taken, damaged - taken);
            }
            messages.lost += unheard.lost;
            messages.cut_off += unheard.cut_off;
        }
        messages.greetings = self.greeted_before + self.greeted.iter().sum::<u64>();
        if self.traffic.rate_per_s.is_none() {
            hub.tally.messages.scheduled = hub.tally.messages.sent;
        }
    }
}

/// Carries the plan out.
///
/// # Errors
///
/// A sentence, when nothing could be measured.
pub fn run(plan: &Arc<Plan>, context: &mut Context<'_>) -> Result<Run, String> {
    let Some(traffic) = plan.traffic.clone() else {
        return Err("an echo needs messages".to_owned());
    };
    let make = |shard| Echo::new(plan, &traffic, shard);
    let config = driver::config(plan);
    let executed = run::execute(plan, Scenario::Echo, &config, make, context)?;
    Ok(executed.run)
}
