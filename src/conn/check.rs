//! The states of a connection, held against each other at the end of a turn.
//!
//! Knows: which of them exclude each other. Refuses to know: how they came about.

use super::{Backlog, Link, Settles, Shared, Stage, liveness::first_look_ms};
use crate::ring::send::Holdings;

/// What of a connection is in flight, as the ring has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct InFlight {
    /// A receive.
    pub recv: bool,
    /// It may still find something.
    pub is_armed: bool,
    /// A send.
    pub send: bool,
    /// The ring takes its time to tell of its end.
    pub tells_late: bool,
    /// A connect.
    pub connect: bool,
    /// A cancellation of one of them.
    pub cancel: bool,
    /// The close.
    pub close: bool,
}

impl InFlight {
    fn count(self) -> u8 {
        let Self {
            recv,
            is_armed: _,
            send,
            tells_late: _,
            connect,
            cancel,
            close,
        } = self;
        [recv, send, connect, cancel, close]
            .into_iter()
            .map(u8::from)
            .sum()
    }
}

impl Link {
    /// Whether something that arrives is looked at: the peer keeps up and there is memory.
    pub fn is_willing(&self) -> bool {
        self.wants_receive() && !self.paused && !self.choked
    }

    /// Adds what it holds of the shard's queues to a sum.
    pub fn add_to(&self, holdings: &mut Holdings) {
        if let Some(queue) = &self.outgoing {
            queue.add_to(holdings);
        }
        for frame in self.rare.backlog().into_iter().flat_map(Backlog::frames) {
            holdings.add_common(frame);
        }
        if let Some(tls) = self.rare.tls() {
            tls.add_to(holdings);
        }
    }

    /// Bytes that were received and not looked at.
    pub fn unread_bytes(&self) -> usize {
        let parts = self.rare.0.as_ref();
        let unread = parts.and_then(|parts| parts.unread.as_ref());
        unread.map_or(0, |unread| unread.len())
    }

    /// Looks whether its states fit together, and to what the ring has.
    ///
    /// # Errors
    ///
    /// What does not.
    pub fn check(
        &self,
        ring: InFlight,
        has_deadline: bool,
        shared: &Shared,
    ) -> Result<(), &'static str> {
        self.check_flights(ring)?;
        self.check_receiving(ring.is_armed)?;
        // A message that went to many is sent, counted and charged when a turn has time for it.
        let is_settled = !self.settles.is_put_off();
        if is_settled {
            self.check_sending(ring.tells_late, shared)?;
        }
        let config = &shared.config;
        let is_looked_at = first_look_ms(config).is_some();
        let idles = matches!(self.stage, Stage::Open) && !is_looked_at;
        let wants_deadline = match self.stage {
            Stage::Stopping | Stage::Closed => false,
            Stage::Open => !idles,
            _ => true,
        };
        let rules = [
            (
                has_deadline || !wants_deadline,
                "a stage has no deadline, so that its peer can stop there",
            ),
            (
                !has_deadline || wants_deadline,
                "there is a deadline in a stage without one",
            ),
            (
                !matches!(self.settles, Settles::Now | Settles::NowListed),
                "it was touched and not settled",
            ),
            (
                self.rare.backlog().is_none() || self.sending,
                "messages of topics wait for a send that is not there",
            ),
            (
                !is_settled || self.charged_bytes == self.charge_due(),
                "what it holds was not charged",
            ),
        ];
        first_broken(&rules)
    }

    fn charge_due(&self) -> u32 {
        match self.stage {
            Stage::Closed => 0,
            _ => self.to_charge(),
        }
    }

    fn check_flights(&self, ring: InFlight) -> Result<(), &'static str> {
        let is_closed = matches!(self.stage, Stage::Closed);
        let is_ending = matches!(self.stage, Stage::Stopping | Stage::Closed);
        let is_connecting = matches!(self.stage, Stage::Connecting(_));
        first_broken(&[
            (
                self.in_flight == ring.count(),
                "it counts other operations in flight than the ring",
            ),
            (
                self.receiving == ring.recv,
                "whether it receives, the ring says otherwise",
            ),
            (
                self.sending == ring.send,
                "whether it sends, the ring says otherwise",
            ),
            (
                self.cancelling == ring.cancel,
                "whether it cancels, the ring says otherwise",
            ),
            (
                is_connecting == ring.connect || is_ending && ring.connect,
                "it is connecting without a connect in flight, or the other way round",
            ),
            (
                is_closed == ring.close,
                "it is closed without a close in flight, or the other way round",
            ),
            (
                !matches!(self.stage, Stage::Stopping) || self.in_flight > 0,
                "nothing is in flight, and it was not closed",
            ),
        ])
    }

    fn check_receiving(&self, is_armed: bool) -> Result<(), &'static str> {
        let has_unread = self.rare.has_unread();
        let wants = self.wants_receive();
        first_broken(&[
            (
                !(self.readable && self.receiving),
                "it is to receive at once, and a receive is in flight",
            ),
            (
                !has_unread || self.queued || !self.is_willing(),
                "something was put off, and it is not in the rota",
            ),
            (
                !self.goes_on() || self.queued || !self.is_willing(),
                "a message was inflated in part, and it is not in the rota",
            ),
            (
                !self.is_willing() || self.receiving || self.queued || self.cancelling,
                "nothing is received, and it is not in the rota",
            ),
            (
                !wants || self.is_willing() || !is_armed || self.cancelling,
                "nothing is to be received, and a receive stays in flight",
            ),
            (
                !matches!(self.stage, Stage::Closed) || !has_unread,
                "it is closed, and keeps what was put off",
            ),
        ])
    }

    fn check_sending(&self, tells_late: bool, shared: &Shared) -> Result<(), &'static str> {
        let queued = self.queued_bytes();
        let waits = self.outgoing.as_ref().is_some_and(|it| !it.is_empty());
        let is_ending = matches!(self.stage, Stage::Stopping | Stage::Closed);
        let config = &shared.config;
        first_broken(&[
            (
                self.sending || self.sending_bytes == 0,
                "nothing is sent, and bytes count as being sent",
            ),
            (
                !waits || self.sending,
                "something is queued, and nothing is sent",
            ),
            (
                !(waits || is_ending) || !tells_late,
                "the end of a send is waited for, and the ring does not know it",
            ),
            (
                is_ending || self.counted_bytes == queued,
                "what is queued was not counted",
            ),
            (
                is_ending || self.paused || queued <= config.queue_high_bytes,
                "its queue is above the high mark, and it is received from",
            ),
            (
                is_ending || !self.paused || queued > config.queue_low_bytes,
                "its queue is below the low mark, and it is not received from",
            ),
        ])
    }
}

fn first_broken(rules: &[(bool, &'static str)]) -> Result<(), &'static str> {
    match rules.iter().find(|(holds, _)| !holds) {
        Some((_, broken)) => Err(broken),
        None => Ok(()),
    }
}
