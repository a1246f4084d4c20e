//! Mistakes that a simulation has a shard make, to show that its oracles find them.
//!
//! Knows: their names. Refuses to know: how they are found. Outside of a simulation none is ever
//! made, and the compiler knows it.

use super::Shared;

/// Something that a shard must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Completions wait for as long as somebody is in the rota.
    LeavesCompletions,
    /// The mailbox waits for a turn that has time left.
    LeavesMail,
    /// Deadlines wait for a turn that leaves no completion.
    JudgesWhenIdle,
    /// The rota is served when nothing else has come.
    ServesRotaWhenIdle,
    /// Of the rota, whoever came last is served first.
    ServesNewestFirst,
    /// Whoever needs little and found no receive memory waits behind all who need much.
    StarvesModest,
    /// What the clock shows does not count.
    ForgetsTheClock,
    /// A message is inflated in one step, whatever it costs.
    InflatesAtOnce,
    /// A message that was inflated in part waits for more input.
    ForgetsToGoOn,
    /// What a connection holds beside the pools is not charged.
    ForgetsCharge,
    /// Messages in progress are not charged.
    ForgetsPool,
    /// Messages and queues grow beyond the limit.
    ForgetsRoom,
    /// Whoever was not received from for want of memory never is again.
    NeverUnchokes,
    /// Whoever is served by the rota is still said to be in it.
    StaysQueued,
    /// A receive is submitted although one is to happen at once.
    ReceivesWhileReadable,
    /// A peer that does not read is received from.
    NeverPauses,
    /// A receive that was to end stays in flight.
    ForgetsToCancel,
    /// Of what waits for the end of a send the ring is not told.
    ForgetsToHasten,
    /// A closing handshake may take forever.
    ForgetsDeadline,
    /// An operation counts twice.
    CountsTwice,
    /// There is a place for every newcomer.
    LetsEverybodyIn,
    /// Who has left is still counted at the door.
    KeepsTickets,
    /// Who had no place is thought to be there for ever.
    ForgetsWhoLeft,
    /// A subscriber gets a message twice.
    DeliversTwice,
    /// Other shards do not learn what the subscribers of this one want.
    ForgetsInterest,
    /// Of several messages of one topic the last goes first.
    ReversesRuns,
    /// What an inbox has no room for is forgotten.
    LosesFullInboxes,
    /// Of earlier messages that are several, none is handed out.
    ForgetsRecalled,
    /// Whoever waits for earlier messages gets later ones meanwhile.
    DeliversBeforeRecalled,
    /// Who has left is still subscribed.
    KeepsSubscriptions,
}

impl Shared {
    /// Whether this mistake is to be made.
    #[inline(always)]
    pub const fn errs(&self, mistake: Mistake) -> bool {
        #[cfg(feature = "sim")]
        if let Some(made) = self.mistake {
            return made as usize == mistake as usize;
        }
        let _ = mistake;
        false
    }
}
