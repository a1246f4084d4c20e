//! Counts of what a simulation did, so that one in which something never happened can fail, and
//! the trace by which two runs of a seed are compared.
//!
//! Knows: names and numbers. Refuses to know: what they count.

use std::fmt::{self, Write as _};

use super::knobs::{Knob, named};

named! {
    /// Something that a simulation has to reach to be worth its time: each knob that acted, each
    /// state that only a loaded kernel shows, each rule that was checked.
    Mark {
        /// [`Knob::AcceptFails`] acted.
        AcceptFails,
        /// [`Knob::AcceptEnds`] acted.
        AcceptEnds,
        /// [`Knob::CancelTooLate`] acted.
        CancelTooLate,
        /// [`Knob::ClockJump`] acted.
        ClockJump,
        /// [`Knob::CompletionDelayed`] acted.
        CompletionDelayed,
        /// [`Knob::CompletionHeld`] acted.
        CompletionHeld,
        /// [`Knob::CompletionsReordered`] acted.
        CompletionsReordered,
        /// [`Knob::ConnectHangs`] acted.
        ConnectHangs,
        /// [`Knob::ConnectRefused`] acted.
        ConnectRefused,
        /// [`Knob::EndBeforeData`] acted.
        EndBeforeData,
        /// [`Knob::EndAfterData`] acted.
        EndAfterData,
        /// [`Knob::FewDescriptors`] acted.
        FewDescriptors,
        /// [`Knob::IncrementalBuffers`] acted.
        IncrementalBuffers,
        /// [`Knob::NoBuffers`] acted.
        NoBuffers,
        /// [`Knob::OpenFails`] acted.
        OpenFails,
        /// [`Knob::ReadyInVain`] acted.
        ReadyInVain,
        /// [`Knob::QueueFull`] acted.
        QueueFull,
        /// [`Knob::RecvEnds`] acted.
        RecvEnds,
        /// [`Knob::RecvSplit`] acted.
        RecvSplit,
        /// [`Knob::Reset`] acted.
        Reset,
        /// [`Knob::SendFails`] acted.
        SendFails,
        /// [`Knob::SendWaits`] acted.
        SendWaits,
        /// [`Knob::ShortSend`] acted.
        ShortSend,
        /// [`Knob::SmallWindow`] acted.
        SmallWindow,
        /// [`Knob::Readiness`] acted.
        Readiness,
        /// [`Knob::WokenInVain`] acted.
        WokenInVain,

        /// An accept was tried, and nobody had come.
        AcceptInVain,
        /// A turn accepted as many as it may, and more were there.
        AcceptsPutOff,
        /// A cancel ended its target.
        CancelHit,
        /// A cancel found nothing, without any knob: its target was over or never was.
        CancelNotFound,
        /// A turn with nothing to do moved the clock to the next event.
        ClockAdvanced,
        /// Something was received at once, into a large buffer.
        LargeReceive,
        /// No large buffer was free.
        LargeBuffersExhausted,
        /// A send of receive memory found no room.
        LeaseNotTaken,
        /// Receive memory was sent from where it lies.
        LeaseSent,
        /// A send of receive memory ended before all of it was taken.
        LeaseSentInPart,
        /// An accepted or connected peer was gone when something was sent to it.
        PeerWasGone,
        /// The receive pool really ran empty.
        PoolExhausted,
        /// All of a quiet send was taken.
        QuietSend,
        /// The end of a quiet send was waited for before it was handed out.
        QuietSendHastened,
        /// A quiet send ended before all of it was taken.
        QuietSendInPart,
        /// A quiet send found no room.
        QuietSendNotTaken,
        /// A turn waited on, although a quiet send had come to its end.
        QuietSendWaited,
        /// A receive was tried, and there was nothing.
        ReceiveInVain,
        /// A receive brought what had come after it was found to be ready.
        ReceiveOfMore,
        /// A send that waited for room was tried, and there was none.
        SendInVain,
        /// A send was cut at the most pieces that one send takes.
        SendOfManyPieces,
        /// The submission queue was full without any knob.
        SubmissionQueueFilled,
        /// A send followed a short one, and waited to be told of room.
        SendWaitsForRoom,
        /// A turn with nothing to do gave way to another ring that had something.
        TurnYielded,
        /// A ring uses up a whole receive buffer for each receive.
        WholeBuffers,
        /// A send found no room at all at its peer.
        WindowFull,

        /// Checked: a socket is closed only when nothing is in flight on it.
        RuleCloseJoined,
        /// Checked: what is submitted is submitted on an open socket.
        RuleOpenSocket,
        /// Checked: one accept, connect, receive and send at a time on a socket.
        RuleOneOfAKind,
        /// Checked: one tick and one wake at a time on a ring.
        RuleOneTickAndWake,
        /// Checked: a send has something to send.
        RuleSendNotEmpty,
        /// Checked: what is hastened is a send in flight.
        RuleSendHastened,
        /// Checked: sends are not cancelled.
        RuleSendNotCancelled,
        /// Checked: a socket that was used is closed by an operation, not dropped.
        RuleSocketNotDropped,
        /// Checked: a token says what kind of operation it names.
        RuleTokenKind,
        /// Checked: a token names at most one operation in flight.
        RuleTokenUnique,
        /// Checked at the end: no operation, lease or socket is left.
        OracleClean,
        /// Checked: completions of a token are handed out in order, the last one last.
        OracleOrder,
        /// Checked: nothing is received after the end of a stream.
        OracleEndIsLast,
    }
}

impl From<Knob> for Mark {
    fn from(knob: Knob) -> Self {
        // The first marks are the knobs, in the knobs' order; a test compares the names.
        Self::ALL[knob as usize]
    }
}

/// How often each [`Mark`] was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks([u64; Mark::COUNT]);

impl Default for Marks {
    fn default() -> Self {
        Self([0; Mark::COUNT])
    }
}

impl Marks {
    /// How often `mark` was reached.
    pub fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Adds what another run reached.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    /// The marks that were never reached.
    pub fn missing(&self) -> Vec<&'static str> {
        let never = Mark::ALL.iter().filter(|&&mark| self.count(mark) == 0);
        never.map(|mark| mark.name()).collect()
    }

    pub(super) fn reach(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    pub(super) fn reach_if(&mut self, mark: Mark, reached: bool) {
        self.0[mark as usize] += u64::from(reached);
    }
}

impl fmt::Display for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &mark in Mark::ALL {
            writeln!(f, "{:>10} {}", self.count(mark), mark.name())?;
        }
        Ok(())
    }
}

/// Stands for "no ring" in the trace: the network, or a raw peer.
pub(super) const OUTSIDE: usize = usize::MAX;

/// What happened, as a hash always and as text on demand.
#[derive(Debug, Default)]
pub(super) struct Trace {
    hash: u64,
    text: Option<String>,
}

impl Trace {
    pub(super) fn keep_text(&mut self) {
        self.text.get_or_insert_default();
    }

    pub(super) fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// One event: when, in which ring, what, and two numbers that tell it from its like.
    pub(super) fn event(&mut self, now: u64, ring: usize, what: &'static str, a: u64, b: u64) {
        self.bytes(what.as_bytes());
        for number in [now, ring as u64, a, b] {
            self.fold(number);
        }
        if let Some(text) = &mut self.text {
            let (ms, us) = (now / 1_000_000, now / 1_000 % 1_000);
            let who = if ring == OUTSIDE {
                "outside".into()
            } else {
                format!("ring {ring}")
            };
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{ms:>8}.{us:03} ms  {who:<8} {what:<20} {a:#x} {b:#x}"
            );
        }
    }

    /// Bytes that were moved.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.fold(u64::from_le_bytes(word));
        }
        self.fold(bytes.len() as u64);
    }

    fn fold(&mut self, number: u64) {
        self.hash = (self.hash ^ number)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_knob_has_the_mark_of_its_name() {
        for &knob in Knob::ALL {
            assert_eq!(Mark::from(knob).name(), knob.name());
        }
    }

    #[test]
    fn a_mark_that_no_run_reached_is_missing_from_their_sum() {
        let (mut one, mut two) = (Marks::default(), Marks::default());
        one.reach(Mark::Reset);
        two.reach(Mark::Reset);
        two.reach(Mark::OracleOrder);
        one.merge(&two);
        assert_eq!(
            (one.count(Mark::Reset), one.count(Mark::OracleOrder)),
            (2, 1)
        );
        assert_eq!(one.missing().len(), Mark::COUNT - 2);
    }
}
