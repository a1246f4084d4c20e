//! What a run of the simulation reached and what it found wrong.
//!
//! Every check is a mark of its own: one that was never made would pass for the wrong reason, so
//! that a run in which a mark is missing fails and names it.

use std::{cell::RefCell, fmt, rc::Rc};

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Something that a run of many seeds has to reach.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mark {
            $($(#[$doc])* $name,)*
        }

        impl Mark {
            const ALL: &[Self] = &[$(Self::$name,)*];

            const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

marks! {
    // What a seed may draw.
    /// No fault of this seed can cost a connection, and its deadlines are long.
    SeedLossless,
    SeedStopsEarly,
    SeedTinyRecvBuffers,
    SeedTinySendChunks,
    SeedTinyQueue,
    SeedTightQueue,
    SeedShortDeadlines,
    SeedSeveralListeners,
    SeedFewConnections,
    SeedExactLimits,
    SeedManyConnections,
    SeedCompresses,
    SeedFloods,
    SeedSlowMachine,
    SeedSlowService,
    SeedMailFloods,
    SeedCrowds,
    SeedTightMemory,
    SeedPrompt,
    SeedDrips,

    // What a connection may go through.
    DialFailed,
    MessageEmpty,
    MessageText,
    MessageBinary,
    MessageOverSeveralBuffers,
    MessageSentFragmented,
    EchoFragmented,
    EchoShared,
    SeveralInFlight,
    PingSent,
    PingOfTheIdle,
    PongUnasked,
    SendBehind,
    Drained,
    QueueFull,
    SendWhileClosing,
    PushPosted,
    SurveyTold,
    StagesTraced,
    PushToTheGone,
    PushReceived,
    PlaceUsedAgain,
    ReadsPaused,
    AcceptsPaused,
    PlaceWaitedFor,
    PlaceRefused,
    DoorRefused,
    RecvStarved,
    MessageCompressed,
    EchoCompressed,
    WindowsRefused,
    PutOff,
    InflatedInPart,
    WaitedToInflate,
    MemoryRefused,
    MemoryPaused,
    MemoryShed,
    MemoryWithoutRoom,
    CrowdTimedOut,

    // How it may end.
    EndClientCloses,
    EndServerCloses,
    EndBothClose,
    EndTooBig,
    EndServerPanics,
    EndRefused,
    EndMailboxCloses,
    EndStaysOpen,
    CauseApplication,
    CauseHandshakeFailed,
    CausePeer,
    CauseProtocol,
    CauseStopping,
    CauseServicePanicked,
    CloseTimedOut,
    CauseTimeoutHandshake,
    CauseTimeoutIdle,
    CauseTransport,
    CauseVanished,
    CauseOverloaded,

    // What raw peers may do.
    RawGarbage,
    RawMutatedHandshake,
    RawMutatedFrames,
    RawHalfMessage,
    RawViolation,
    RawSlow,
    RawDeaf,
    RawHttp,
    RawLegacy,
    RawLegacySlow,
    RawMutatedLegacy,
    RawFloodPings,
    RawFloodFragments,
    RawFloodEmpty,
    RawFloodShort,
    RawFloodLong,
    RawFloodBombs,
    RawFloodFinalBlocks,
    RawFloodLegacy,
    RawDrips,
    RawHoards,
    RawReset,
    RawEndOfStream,
    RawHostileServer,

    // What is checked of messages.
    CheckOpenIsFirst,
    CheckOpenOnce,
    CheckCloseIsLastAndOnce,
    CheckMessageBelongsToItsConnection,
    CheckServerGotWhatWasSent,
    CheckClientGotWhatItSent,
    CheckPingsInOrder,
    CheckPongsInOrder,
    CheckPushReachedItsAddressee,
    CheckNothingLost,
    CheckPongsComplete,
    CheckNothingAfterClose,
    CheckQueueIsBounded,
    CheckSendRefusedOnlyWhenClosing,

    // What is checked of ends.
    CheckCauseOfClient,
    CheckCauseOfServer,
    CheckCodeWasSent,
    CheckTimeoutNotEarly,
    CheckEveryDialEnded,
    CheckEveryAcceptEnded,
    CheckOverloadIsCounted,
    CheckOverloadIsTold,
    CheckIdsAreNew,

    // What is checked after every turn.
    CheckStates,
    CheckLedger,
    CheckFairness,
    CheckEchoInTurns,

    // What is checked of raw peers.
    CheckServerWritesOnlyFrames,
    CheckViolationIsAnswered,
    CheckViolationIsToldToTheService,
    CheckHttpIsAnswered,
    CheckSlowIsAnswered408,
    CheckLegacyEchoesAll,
    CheckLegacySlowIsDropped,

    // What is checked at the end of a seed.
    CheckExchangeEnds,
    CheckFinishedInTurns,
    CheckFinishedInTime,
    CheckOnlyTickAndWakeInFlight,
    CheckChunksBack,
    CheckQueuesBack,
    CheckMessageBuffersBack,
    CheckLeasesBack,
    CheckWindowsBack,
    CheckCountsConserved,
    CheckSameTraceTwice,
}

/// How often each mark was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally([u64; Mark::ALL.len()]);

impl Default for Tally {
    fn default() -> Self {
        Self([0; Mark::ALL.len()])
    }
}

impl Tally {
    pub fn count(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    pub fn reach(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }

    pub fn missing(&self) -> Vec<&'static str> {
        let never = Mark::ALL.iter().filter(|&&mark| self.count(mark) == 0);
        never.map(|mark| mark.name()).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &mark in Mark::ALL {
            writeln!(f, "{:>10} {}", self.count(mark), mark.name())?;
        }
        Ok(())
    }
}

/// Shared by the services, the raw peers and the driver of one seed.
///
/// A shard contains the panics of its service, so that a check in a service must not panic: what
/// fails is written down, and the driver looks after every turn.
#[derive(Clone, Default)]
pub struct Journal(Rc<RefCell<Entries>>);

#[derive(Default)]
struct Entries {
    tally: Tally,
    failures: Vec<String>,
    turns: u64,
}

impl Journal {
    pub fn reach(&self, mark: Mark) {
        self.0.borrow_mut().tally.reach(mark);
    }

    /// Counts the check, and writes down what is wrong unless it `holds`.
    pub fn check(&self, mark: Mark, holds: bool, wrong: impl FnOnce() -> String) {
        let mut entries = self.0.borrow_mut();
        entries.tally.reach(mark);
        if !holds {
            entries.failures.push(format!("{mark:?}: {}", wrong()));
        }
    }

    /// The server was turned.
    pub fn count_turn(&self) {
        self.0.borrow_mut().turns += 1;
    }

    /// How often the server was turned.
    pub fn turns(&self) -> u64 {
        self.0.borrow().turns
    }

    pub fn failure(&self) -> Option<String> {
        let entries = self.0.borrow();
        (!entries.failures.is_empty()).then(|| entries.failures.join("\n"))
    }

    pub fn tally(&self) -> Tally {
        self.0.borrow().tally.clone()
    }
}
