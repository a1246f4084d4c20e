//! Oracles: what has to hold at the end of every turn of a shard, on a ring that can be looked
//! into.
//!
//! Knows: all of a shard. Refuses to know: what was asked of it.
//!
//! - **States**: those of each connection fit together, and to what the ring has of it. Whoever
//!   wants to receive is received for or is in the rota, exactly once. No more are inside than
//!   there are places.
//! - **Ledger**: the sum of what is held is what walking over everything finds, and it is above
//!   the limit by no more than one turn may add.
//! - **Fairness**: nobody with something to say waits for more than a bounded number of turns.

use std::collections::BTreeMap;

use super::{Shard, service::Service};
use crate::{
    conn::{Connection, Key, Link, check::InFlight, ledger::Pressure, mistake::Mistake},
    ring::{Arrival, Operation, send::Holdings, watched::Watched},
};

/// What an oracle has to remember from turn to turn.
#[derive(Debug, Default)]
pub struct Watch {
    waits: BTreeMap<u32, Wait>,
    /// Turns for which deadlines are due that were not judged, and for how many they may be.
    due: Option<(u64, u64)>,
    /// Commands that were left by the turn before, and those carried out by then.
    commands: (usize, u64),
    /// Whether sends were put off after the turn before, and how many had been made by then.
    later: (bool, u64),
    /// Of the counts after the turn before.
    before: Totals,
    /// How long a turn may take, in nanoseconds.
    pub turn_ns_max: u64,
    /// How long one has taken.
    pub turn_ns: u64,
    /// What one step of inflating may cost, in nanoseconds of our machine; 0: anything.
    pub step_ns_max: u64,
    /// Who has waited for longest, as turns and as many as that may be.
    pub longest: (u64, u64),
    /// The most that was held above the limit.
    pub most_above: usize,
}

/// What one connection waits for.
#[derive(Debug)]
struct Wait {
    generation: u32,
    /// How much of what came was looked at.
    looked_at: u64,
    /// Turns at whose end there was something to look at.
    turns: u64,
    /// For how many it may have to wait.
    turns_max: u64,
}

/// Sums that grow.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    held: usize,
    received: u64,
    sent: u64,
    messages: u64,
    codec: usize,
    messages_held: usize,
}

/// Turns that nobody has to count: the one in which something comes, the one in which it is looked
/// at, and one between two stages of the way each.
const SLACK_TURNS: u64 = 6;

impl<R: Watched, S: Service> Shard<R, S> {
    /// Sets up a simulation: how many times slower than ours its machine is.
    pub const fn slow_down(&mut self, slowness: u64) {
        self.budget.slow_down(slowness);
    }

    /// Sets up a simulation: what a step of inflating costs, and from which length on messages wait
    /// for each other.
    pub const fn inflate_in_steps(&mut self, step_ns: u64, freely_bytes: usize) {
        self.shared.codec.set_inflate_step_ns(step_ns);
        self.shared.codec.set_inflate_freely_bytes(freely_bytes);
    }

    fn waits_for_another(&mut self, key: Key) -> bool {
        let connection = self.slab.get_mut(key);
        connection.is_some_and(|it| it.link.endpoint.waits_to_inflate())
    }

    /// Whether a message waits until another one was inflated.
    pub fn waits_to_inflate(&mut self) -> bool {
        self.any(|link| link.endpoint.waits_to_inflate())
    }

    /// Whether a message is being inflated that needs more than one step.
    pub fn is_inflating(&mut self) -> bool {
        self.any(Link::goes_on)
    }

    /// Whether this is so of any connection.
    fn any(&mut self, is_so: impl Fn(&Link) -> bool) -> bool {
        let slab = &mut self.slab;
        (0..slab.capacity() as u32).any(|slot| {
            let key = slab.key_at(slot);
            key.is_some_and(|key| slab.get_mut(key).is_some_and(|it| is_so(&it.link)))
        })
    }

    /// Makes a mistake from here on.
    pub fn make(&mut self, mistake: Mistake) {
        self.shared.mistake = Some(mistake);
        if mistake == Mistake::InflatesAtOnce {
            self.shared.codec.set_inflate_step_ns(u64::MAX);
        }
        if mistake == Mistake::ForgetsTheClock {
            self.budget.go_blind();
        }
    }

    /// What the turn has cost, in nanoseconds of its machine.
    pub const fn spent_ns(&self) -> u64 {
        self.budget.spent_ns()
    }

    /// Whether a turn has left something that it had no time for.
    pub fn is_behind(&self) -> bool {
        !self.rota.is_empty() || !self.commands.is_empty() || self.ring.completions_left() > 0
    }

    /// Its number.
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// Completions handed out so far.
    pub const fn completions(&self) -> u64 {
        self.completions
    }

    /// Looks whether all states fit together.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn check_states(&mut self) -> Result<(), String> {
        let mut queued = 0;
        let mut choked = 0;
        let mut with_tickets = 0;
        for slot in 0..self.slab.capacity() as u32 {
            let Some(key) = self.slab.key_at(slot) else {
                continue;
            };
            let has = |operation| self.ring.has(key.token(operation));
            let in_flight = InFlight {
                recv: has(Operation::Recv),
                is_armed: self.ring.is_armed(key.token(Operation::Recv)),
                send: has(Operation::Send),
                tells_late: self.ring.tells_late(key.token(Operation::Send)),
                connect: has(Operation::Connect),
                cancel: has(Operation::Cancel),
                close: has(Operation::Close),
            };
            let has_deadline = self.wheel.has(slot);
            let Some(Connection {
                link,
                socket,
                ticket,
                ..
            }) = self.slab.get_mut(key)
            else {
                continue;
            };
            queued += usize::from(link.queued);
            choked += usize::from(link.choked);
            with_tickets += usize::from(ticket.is_some());
            let checked = link.check(in_flight, has_deadline, &self.shared);
            let checked = checked.and_then(|()| match in_flight.close == socket.is_none() {
                true => Ok(()),
                false => Err("its socket is not where its close says"),
            });
            if let Err(broken) = checked {
                let id = self.id_of(key);
                let link = self.slab.get_mut(key).map(|it| &it.link);
                return Err(format!("{id}: {broken}: {in_flight:?} {link:?}"));
            }
        }
        for &key in self.rota.common() {
            if self
                .slab
                .get_mut(key)
                .is_some_and(|it| it.link.starved_modest)
            {
                let id = self.id_of(key);
                return Err(format!(
                    "{id} needs little and found no memory, and waits behind those who need much"
                ));
            }
        }
        let (rota, starved) = (self.rota.keys(), self.choked.clone());
        for (list, flagged, what) in [(rota, queued, "in the rota"), (starved, choked, "choked")] {
            let is_there = |&&key: &&Key| self.slab.get_mut(key).is_some();
            let listed = list.iter().filter(is_there).count();
            if listed != flagged {
                return Err(format!("{listed} are {what}, and {flagged} say so"));
            }
        }
        let beyond = self.places.all_beyond();
        let there = beyond.clone();
        let there = there.filter(|&key| self.slab.get_mut(key).is_some());
        let (there, beyond) = (there.count(), beyond.count());
        let inside = self.slab.len() - there;
        let places = self.shared.config.shard_connections_max as usize;
        if there != beyond || inside > places {
            return Err(format!(
                "{inside} are inside, of {places}, and of {beyond} beyond {there} are there"
            ));
        }
        let tickets = with_tickets
            + self
                .places
                .all_waiting()
                .filter(|it| it.has_ticket())
                .count();
        let counted = self.shared.door.connections();
        if counted != tickets as u64 {
            return Err(format!(
                "{counted} are counted at the door, and {tickets} have come in"
            ));
        }
        if !self.touched.is_empty() {
            return Err("somebody was touched and not settled".into());
        }
        let pressure = self.shared.ledger.pressure();
        if pressure < Pressure::Pause && !self.choked.is_empty() {
            return Err("there is memory, and somebody is not received from for want of it".into());
        }
        Ok(())
    }

    /// Adds up what is held, and compares it with what is counted and what may be.
    ///
    /// # Errors
    ///
    /// What is not the same, or too much.
    pub fn check_ledger(&mut self, watch: &mut Watch) -> Result<(), String> {
        let mut holdings = Holdings::default();
        self.ring
            .each_queue(&mut |queue| queue.add_to(&mut holdings));
        let (mut messages, mut windows, mut charged, mut queued) = (0, 0, 0, 0);
        let mut kernel = 0;
        for slot in 0..self.slab.capacity() as u32 {
            if let Some(key) = self.slab.key_at(slot)
                && let Some(Connection { link, .. }) = self.slab.get_mut(key)
            {
                let before = holdings.own_bytes();
                link.add_to(&mut holdings);
                let own = holdings.own_bytes() - before + link.endpoint.held_bytes();
                let told = link.held_bytes();
                if told < own {
                    let id = self.id_of(key);
                    return Err(format!("{id} holds {own} bytes and is known for {told}"));
                }
                messages += link.endpoint.held_bytes();
                windows += link.endpoint.windows_bytes();
                charged += link.charged_bytes as usize;
                kernel += link.rare.kernel_bytes();
                queued += link.counted_bytes;
            }
        }
        let shared = &self.shared;
        shared.arena.check(&holdings)?;
        let tally = shared.codec.tally();
        let codec = tally.held_bytes as usize + windows;
        let kept = shared.pool.held_bytes() - shared.pool.out_bytes();
        let pool = messages + holdings.lent_bytes + kept;
        // They count until the last of them is carried out.
        let commands = match self.commands.is_empty() {
            true => 0,
            false => self.commands_bytes,
        };
        let asked = shared.asked.sum_bytes();
        let found = shared.arena.held_bytes() + pool + codec + charged + asked;
        let topics = self.distribution.sum_bytes();
        let mail = commands + self.mailbox.sum_bytes();
        for (what, counted, found) in [
            ("of messages", shared.pool.held_bytes(), pool),
            ("of windows", tally.windows_bytes as usize, windows),
            ("that no pool counts", shared.charged_bytes, charged),
            ("that are queued", shared.queued_bytes, queued),
            ("of what was asked for", shared.asked.held_bytes(), asked),
            ("that go to others", self.distribution.held_bytes(), topics),
            ("in all", shared.held_bytes(), found),
            ("of mail", self.mail_bytes(), mail),
        ] {
            if counted != found {
                return Err(format!(
                    "{counted} bytes {what} count, and {found} are held"
                ));
            }
        }
        // What the kernel holds for those who are behind was queued here before, and is found out
        // when they are.
        self.check_limit(found + mail + topics - kernel, codec, watch)
    }

    /// A turn that began below the limit may end above it by what it has added: as much as was
    /// received, as much as was sent, a chunk for each connection that was answered, and what the
    /// first compressed message takes. Messages that are put together stay within it in any case,
    /// and a turn that began above it adds none.
    fn check_limit(&mut self, held: usize, codec: usize, watch: &mut Watch) -> Result<(), String> {
        let shared = &self.shared;
        let (counts, config) = (&shared.counts, &shared.config);
        let now = Totals {
            held,
            received: self.turn_bytes as u64,
            sent: counts.payload_bytes_sent,
            messages: counts.messages_sent,
            codec,
            messages_held: shared.pool.held_bytes(),
        };
        let before = std::mem::replace(&mut watch.before, now);
        let limit = shared.ledger.bytes_max();
        let room = limit.saturating_sub(before.held);
        let grown = now.messages_held.saturating_sub(before.messages_held);
        if grown > room {
            return Err(format!("messages grew by {grown} bytes into {room}"));
        }
        if held <= limit {
            return Ok(());
        }
        watch.most_above = watch.most_above.max(held - limit);
        let chunks = 2 * (self.slab.len() + 1) * config.send_chunk_bytes;
        let sent = (now.sent - before.sent) + 14 * (now.messages - before.messages);
        let grown = codec.saturating_sub(before.codec);
        let added = 2 * now.received as usize + 2 * sent as usize + chunks + grown;
        let most = limit.max(before.held) + added;
        if held > most {
            return Err(format!(
                "{held} bytes are held of at most {limit}, and the turn may have added {added} to \
                 {}",
                before.held
            ));
        }
        Ok(())
    }

    /// Counts for how many turns everybody has waited.
    ///
    /// # Errors
    ///
    /// Who has for too many.
    pub fn check_fairness(&mut self, watch: &mut Watch) -> Result<(), String> {
        if let Some(overdue) = self.ring.overdue() {
            return Err(format!("a completion was not looked at: {overdue:?}"));
        }
        let turn_ns = self.ring.now().ns_since(self.now);
        watch.turn_ns = watch.turn_ns.max(turn_ns);
        if watch.turn_ns_max > 0 && turn_ns > watch.turn_ns_max {
            let most = watch.turn_ns_max;
            return Err(format!("a turn took {turn_ns} ns of at most {most}"));
        }
        let step_ns = self.shared.codec.longest_inflate_step_ns();
        if watch.step_ns_max > 0 && step_ns > watch.step_ns_max {
            let most = watch.step_ns_max;
            return Err(format!(
                "a step of inflating has cost {step_ns} ns of at most {most}"
            ));
        }
        self.check_mail(watch)?;
        let later = (
            self.distribution.has_later(),
            self.distribution.later_done(),
        );
        if watch.later.0 && later.1 == watch.later.1 {
            return Err("sends were put off, and a turn has made none of them".into());
        }
        watch.later = later;
        self.check_deadlines(watch)?;
        let ready = self.ring.completions_left() as u64;
        let others = self.slab.len() as u64;
        for slot in 0..self.slab.capacity() as u32 {
            let Some(key) = self.slab.key_at(slot) else {
                watch.waits.remove(&slot);
                continue;
            };
            let (waits, looked_at) = self.what_waits(key);
            // The rota is served in every second turn at least.
            let round = 2 * (others + 1);
            // Whoever is told to wait for another one gets on in the round after that one is done.
            // And of receive memory for one only, each line of the rota gets half.
            let is_scarce = !self.ring.recv_ready(Arrival::Announced);
            let rounds = if is_scarce || self.waits_for_another(key) {
                2
            } else {
                1
            };
            let turns_max = ready + rounds * round + SLACK_TURNS;
            let wait = watch.waits.entry(slot).or_insert(Wait {
                generation: key.generation,
                looked_at,
                turns: 0,
                turns_max,
            });
            let is_new = wait.generation != key.generation;
            let begins = is_new || wait.looked_at != looked_at || waits == Waits::Unwilling;
            if begins {
                *wait = Wait {
                    generation: key.generation,
                    looked_at,
                    turns: 0,
                    turns_max,
                };
            }
            wait.turns += u64::from(waits == Waits::For);
            // Whoever has come since may be before it once.
            wait.turns_max = wait.turns_max.max(turns_max);
            if wait.turns > watch.longest.0 {
                watch.longest = (wait.turns, wait.turns_max);
            }
            if wait.turns > wait.turns_max {
                let (turns, turns_max) = (wait.turns, wait.turns_max);
                let id = self.id_of(key);
                return Err(format!(
                    "{id} has waited for {turns} turns of at most {turns_max}"
                ));
            }
        }
        Ok(())
    }

    /// Whether something of this connection waits to be looked at, and how much was so far.
    fn what_waits(&mut self, key: Key) -> (Waits, u64) {
        let Some(Connection { link, socket, .. }) = self.slab.get_mut(key) else {
            return (Waits::Unwilling, 0);
        };
        let Some(socket) = socket else {
            return (Waits::Unwilling, 0);
        };
        let arrived = self.ring.arrived(socket);
        let looked_at = arrived
            .handed_out
            .saturating_sub(link.unread_bytes() as u64)
            .wrapping_add(link.endpoint.inflated_so_far())
            .wrapping_add(u64::from(link.passed_over));
        let looked_at = match link.endpoint.waits_to_inflate() {
            // It gets on when whoever it waits for does.
            true => looked_at.wrapping_add(self.shared.codec.inflated_alone()),
            false => looked_at,
        };
        if !link.is_willing() {
            return (Waits::Unwilling, looked_at);
        }
        let has_unread = link.rare.has_unread();
        // Without receive memory it waits for the kernel, if that is late with giving it back.
        let for_kernel = !self.ring.recv_ready(Arrival::Announced) && self.ring.is_late();
        // Nor is anything received while the kernel is late with a cancellation.
        let for_kernel = for_kernel || link.cancelling;
        let in_socket = arrived.is_in_socket && !link.receiving && !for_kernel;
        let waits = if has_unread || arrived.is_ready || in_socket {
            Waits::For
        } else {
            Waits::ForNothing
        };
        (waits, looked_at)
    }

    /// In every turn that finds some, commands are carried out.
    fn check_mail(&mut self, watch: &mut Watch) -> Result<(), String> {
        let left = self.commands.len();
        let now = (left, self.commands_done);
        let (before, done) = std::mem::replace(&mut watch.commands, now);
        if before > 0 && done == self.commands_done {
            return Err(format!(
                "{left} commands of the mailbox wait, and none was looked at"
            ));
        }
        Ok(())
    }

    /// Deadlines are judged when that is looked at which came before the first of them.
    fn check_deadlines(&mut self, watch: &mut Watch) -> Result<(), String> {
        let judged = self.judge_after.is_none();
        if !self.wheel.is_due(self.now) || judged {
            // Others may be due by the time that these were judged.
            watch.due = None;
            return Ok(());
        }
        let turns_max = self.ring.completions_left() as u64 + SLACK_TURNS;
        let (turns, turns_max) = watch.due.get_or_insert((0, turns_max));
        *turns += 1;
        if turns > turns_max {
            return Err(format!(
                "deadlines are due, and were not judged in {turns} turns"
            ));
        }
        Ok(())
    }
}

/// Whether a connection waits for its turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    For,
    ForNothing,
    /// It is not received from on purpose, or it is over.
    Unwilling,
}
