//! What a turn may cost, and a connection in it.
//!
//! Knows: costs in nanoseconds, estimated from what was done and measured by the clock, of which
//! the larger counts. Refuses to know: who is next when a share is over.
//!
//! An estimate depends on the input alone, so that a simulation, whose clock stands still within a
//! turn, has the same limits in every run. The clock sees what nobody can estimate: a service that
//! takes its time. It is looked at when enough was estimated, or when as many messages were handed
//! to the service as it is expected to need a share's eighth for. So an echo asks the clock once in
//! 160 messages, and a service of 20 us soon after each one.

use crate::ring::Time;

/// What everybody who is served in passing may cost in a turn together.
const TURN_NS: u64 = 1_000_000;

/// What one connection may cost in a turn before others are looked at.
const SHARE_NS: u64 = 200_000;

/// The clock is looked at when so much was estimated since.
const LOOK_NS: u64 = SHARE_NS / 8;

/// A call of the service that took longer holds up everybody else on the shard, whatever we do.
const SLOW_CALL_NS: u64 = 20_000_000;

/// Messages handed to a service between two looks at the clock, at most.
const MESSAGES_MAX: u32 = 160;

/// What things cost about, measured on the machine of `benches/README.md`.
pub mod cost {
    /// A completion: what is done around it, in the kernel too.
    pub const COMPLETION_NS: u64 = 300;
    /// A system call that receives or sends, where there is one for each.
    pub const TRANSFER_NS: u64 = 1_500;
    /// A call of the service.
    pub const CALL_NS: u64 = 40;
    /// A frame that is looked at: its header, and a pong or a piece of a message.
    pub const FRAME_NS: u64 = 40;
    /// A handshake of TLS, of which the kind of key decides.
    pub const TLS_HANDSHAKE_NS: u64 = 300_000;
    /// A command from another thread.
    pub const COMMAND_NS: u64 = 200;
    /// A piece of a walk over all connections.
    pub const SURVEY_NS: u64 = 20_000;
    /// A message that is queued for one of those who subscribe to its topic.
    pub const DELIVERY_NS: u64 = 50;
    /// A message that is published while more wait than a turn delivers: so many as a turn has
    /// room for are about as many as it delivers to a thousand subscribers.
    pub const PUBLICATION_BEHIND_NS: u64 = 50_000;
    /// A deadline that is due.
    pub const DEADLINE_NS: u64 = 200;

    /// Bytes of TLS that are decrypted, or encrypted.
    pub const fn tls_bytes_ns(bytes: usize) -> u64 {
        bytes as u64
    }

    /// Bytes that are unmasked, checked, copied.
    pub const fn bytes_ns(bytes: usize) -> u64 {
        bytes as u64 / 8
    }
}

/// What was spent of a turn, and of the share of one connection in it.
#[derive(Debug)]
pub struct Budget {
    /// When the clock was looked at last.
    seen_at: Time,
    /// Spent in this turn until then.
    spent_ns: u64,
    /// Estimated since.
    estimated_ns: u64,
    /// What was spent when the share began.
    share_began_ns: u64,
    /// Messages handed to the service since the clock was looked at.
    messages: u32,
    /// With how many the clock is looked at again.
    messages_max: u32,
    /// As many times as much is estimated: a simulation's machine is slow, so that little input is
    /// a flood.
    #[cfg(feature = "sim")]
    slowness: u64,
    /// What the clock shows does not count, by mistake.
    #[cfg(feature = "sim")]
    is_blind: bool,
}

/// What a look at the clock has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// Nothing out of the ordinary.
    Usual,
    /// One call of the service took so many nanoseconds.
    Slow(u64),
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            seen_at: Time::default(),
            spent_ns: 0,
            estimated_ns: 0,
            share_began_ns: 0,
            messages: 0,
            messages_max: MESSAGES_MAX,
            #[cfg(feature = "sim")]
            slowness: 1,
            #[cfg(feature = "sim")]
            is_blind: false,
        }
    }
}

impl Budget {
    /// A turn begins.
    #[inline]
    pub const fn begin_turn(&mut self, now: Time) {
        self.seen_at = now;
        self.spent_ns = 0;
        self.estimated_ns = 0;
        self.share_began_ns = 0;
        self.messages = 0;
    }

    /// The next connection begins its share.
    #[inline]
    pub const fn begin_share(&mut self) {
        self.share_began_ns = self.spent_ns + self.estimated_ns;
    }

    /// From here on, everything costs so many times as much.
    #[cfg(feature = "sim")]
    pub const fn slow_down(&mut self, slowness: u64) {
        self.slowness = slowness;
    }

    /// From here on, what the clock shows does not count.
    #[cfg(feature = "sim")]
    pub const fn go_blind(&mut self) {
        self.is_blind = true;
    }

    /// What was spent in this turn so far.
    #[cfg(feature = "sim")]
    pub const fn spent_ns(&self) -> u64 {
        self.spent_ns + self.estimated_ns
    }

    #[inline(always)]
    const fn slowness(&self) -> u64 {
        #[cfg(feature = "sim")]
        return self.slowness;
        #[cfg(not(feature = "sim"))]
        1
    }

    /// Something was done that costs about so much.
    #[inline(always)]
    pub const fn charge(&mut self, ns: u64) {
        self.estimated_ns += ns * self.slowness();
    }

    /// The service was called so many times.
    #[inline(always)]
    pub const fn charge_calls(&mut self, calls: u32) {
        self.messages += calls;
        self.charge(calls as u64 * cost::CALL_NS);
    }

    /// How many messages may be handed to the service before the clock is looked at.
    #[inline]
    pub const fn messages_left(&self) -> usize {
        let left = self.messages_max.saturating_sub(self.messages);
        if left == 0 { 1 } else { left as usize }
    }

    /// Whether it is time to [`look`](Self::look).
    #[inline(always)]
    pub const fn wants_look(&self) -> bool {
        self.messages >= self.messages_max || self.estimated_ns >= LOOK_NS
    }

    /// Looks at the clock.
    pub fn look(&mut self, now: Time) -> Pace {
        #[cfg(feature = "sim")]
        let now = if self.is_blind { self.seen_at } else { now };
        let measured_ns = now.ns_since(self.seen_at);
        self.spent_ns += measured_ns.max(self.estimated_ns);
        self.seen_at = now;
        self.estimated_ns = 0;
        let messages = std::mem::take(&mut self.messages);
        if messages == 0 {
            return Pace::Usual;
        }
        let each_ns = (measured_ns / u64::from(messages)).max(1);
        let fit = u32::try_from(LOOK_NS / each_ns).unwrap_or(MESSAGES_MAX);
        // Step by step: what took its time may have been something else. And a few that took none
        // say little of as many as there may be.
        let least = self.messages_max / 2;
        let most = match messages >= self.messages_max {
            true => 2 * self.messages_max,
            false => self.messages_max,
        };
        self.messages_max = fit.clamp(least, most).clamp(1, MESSAGES_MAX);
        if each_ns >= SLOW_CALL_NS {
            return Pace::Slow(each_ns);
        }
        Pace::Usual
    }

    /// Whether the connection has had its share.
    #[inline]
    pub const fn is_share_over(&self) -> bool {
        self.spent_ns + self.estimated_ns - self.share_began_ns >= SHARE_NS
    }

    /// Whether the turn has cost what it may, and what began last has had a share at least,
    /// whatever was before it.
    #[inline]
    pub const fn is_time_up(&self) -> bool {
        self.is_turn_over() && self.is_share_over()
    }

    /// Whether the turn has cost what it may.
    #[inline]
    pub const fn is_turn_over(&self) -> bool {
        self.spent_ns + self.estimated_ns >= TURN_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ns(ns: u64) -> Time {
        Time::from_ns(ns)
    }

    #[test]
    fn a_share_is_over_by_what_was_estimated_even_if_the_clock_stands_still() {
        let mut budget = Budget::default();
        budget.begin_turn(at_ns(0));
        budget.charge(TURN_NS / 2);
        budget.begin_share();
        assert!(!budget.is_share_over());
        budget.charge(SHARE_NS - 1);
        assert!(budget.wants_look() && !budget.is_share_over());
        assert_eq!(budget.look(at_ns(0)), Pace::Usual);
        budget.charge(1);
        assert!(budget.is_share_over() && !budget.is_turn_over());
        budget.charge(TURN_NS / 2);
        assert!(budget.is_turn_over());
    }

    #[test]
    fn the_clock_is_looked_at_as_often_as_the_service_is_slow() {
        let mut budget = Budget::default();
        budget.begin_turn(at_ns(0));
        assert_eq!(budget.messages_left(), MESSAGES_MAX as usize);
        let mut now_ns = 0;
        let mut serve = |budget: &mut Budget, each_ns: u64| {
            let left = budget.messages_left() as u32;
            budget.charge_calls(left);
            assert!(budget.wants_look());
            now_ns += u64::from(left) * each_ns;
            assert_eq!(budget.look(at_ns(now_ns)), Pace::Usual);
            budget.messages_left()
        };
        for left in [80, 40, 20, 10, 5, 2, 1, 1] {
            assert_eq!(serve(&mut budget, 20_000), left);
            assert!(budget.is_share_over());
        }
        for left in [2, 4, 8, 16, 32, 64, 128, 160, 160] {
            assert_eq!(serve(&mut budget, 100), left);
        }
    }

    #[test]
    fn a_few_quick_calls_do_not_make_many_slow_ones_quick() {
        let mut budget = Budget::default();
        budget.begin_turn(at_ns(0));
        budget.charge_calls(MESSAGES_MAX);
        let slow_ns = u64::from(MESSAGES_MAX) * 300_000;
        assert_eq!(budget.look(at_ns(slow_ns)), Pace::Usual);
        assert_eq!(budget.messages_left(), MESSAGES_MAX as usize / 2);
        budget.charge_calls(1);
        assert_eq!(budget.look(at_ns(slow_ns)), Pace::Usual);
        assert_eq!(budget.messages_left(), MESSAGES_MAX as usize / 2);
    }

    #[test]
    fn a_call_that_takes_long_by_itself_is_named() {
        let mut budget = Budget::default();
        budget.begin_turn(at_ns(0));
        budget.charge_calls(2);
        assert_eq!(
            budget.look(at_ns(2 * SLOW_CALL_NS)),
            Pace::Slow(SLOW_CALL_NS)
        );
        assert_eq!(budget.look(at_ns(9 * SLOW_CALL_NS)), Pace::Usual);
    }
}
