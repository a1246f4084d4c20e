//! What may go wrong in a simulated kernel, how often, and the numbers it is drawn from.
//!
//! Knows: one probability per fault, the sizes that bound them, one stream of random numbers per
//! fault. Refuses to know: what a fault does.

macro_rules! named {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name, as it is written in the source.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }
        }
    };
}
pub(super) use named;

named! {
    /// One fault, or one liberty that the real kernel takes.
    Knob {
        /// An accept fails with EMFILE (the connection waits on) or ECONNABORTED (it is lost).
        AcceptFails,
        /// A multishot accept ends with the connection that it brings.
        AcceptEnds,
        /// A cancel comes too late: its target ends normally, and the cancel finds nothing.
        CancelTooLate,
        /// The clock jumps ahead.
        ClockJump,
        /// A completion arrives some virtual time after the event.
        CompletionDelayed,
        /// A completion arrives some turns after the event.
        CompletionHeld,
        /// Completions of different tokens arrive in another order than their events.
        CompletionsReordered,
        /// A connect goes unanswered until it is cancelled or its socket is shut down.
        ConnectHangs,
        /// A connect is refused.
        ConnectRefused,
        /// The stream ends, and what was still under way is lost.
        EndBeforeData,
        /// The stream ends behind what is under way, though the sender did not end it.
        EndAfterData,
        /// An accepted socket has one of the last descriptors.
        FewDescriptors,
        /// Receive buffers are filled piece by piece. Drawn once for each ring.
        IncrementalBuffers,
        /// A receive finds no buffer although some are free.
        NoBuffers,
        /// No socket can be made: EMFILE.
        OpenFails,
        /// Something is announced, and yet there is nothing to receive; or a receive is tried
        /// because a socket is ready, and there is nothing yet.
        ReadyInVain,
        /// The submission queue is full: what is queued is executed in the middle of a turn.
        QueueFull,
        /// A multishot receive ends with the data that it brings.
        RecvEnds,
        /// A receive brings fewer bytes than are there, down to one.
        RecvSplit,
        /// The network resets a connection.
        Reset,
        /// A send fails with EPIPE or ECONNRESET, and its connection is gone.
        SendFails,
        /// A send for which the peer has no room waits, instead of completing with what was taken.
        SendWaits,
        /// A send takes fewer bytes than the peer has room for.
        ShortSend,
        /// A connection's windows are small. Drawn once for each end of a connection.
        SmallWindow,
        // Behind the others, so that these draw what they drew without them.
        /// A ring is told what can be tried, and tries it when it hands out what comes of that, as
        /// [`Epoll`](crate::ring::Epoll) does. Drawn once for each ring.
        Readiness,
        /// A turn of a ring that goes by readiness ends its wait for nothing, and one operation is
        /// tried in vain. Never twice on end.
        WokenInVain,
    }
}

/// How likely each fault is and how large it gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knobs {
    per_mille: [u16; Knob::COUNT],
    /// The longest that a completion is delayed, in milliseconds of virtual time.
    pub completion_delay_ms_max: u64,
    /// The most turns that a completion is held.
    pub completion_held_turns_max: u64,
    /// The farthest that the clock jumps, in milliseconds.
    pub clock_jump_ms_max: u64,
    /// Bytes that an end of a connection holds for its reader before its sender has to wait.
    pub window_bytes: usize,
    /// The same where [`Knob::SmallWindow`] acts: 1 up to this many bytes.
    pub small_window_bytes_max: usize,
}

impl Knobs {
    /// No fault: a kernel on its best day.
    pub fn none() -> Self {
        Self {
            per_mille: [0; Knob::COUNT],
            completion_delay_ms_max: 20,
            completion_held_turns_max: 4,
            clock_jump_ms_max: 2_000,
            window_bytes: 64 * 1024,
            small_window_bytes_max: 2_048,
        }
    }

    /// What happens on good days too: bytes arrive in other portions, late, and in another order,
    /// but all of them arrive.
    pub fn benign() -> Self {
        let mut knobs = Self::none();
        for &knob in Knob::ALL {
            if harm(knob) == Harm::None {
                knobs.per_mille[knob as usize] = 200;
            }
        }
        knobs
    }

    /// The knobs of a seed: each is off in about half of the seeds, and elsewhere anything from
    /// rare to constant (swarm testing: a fault that always acts hides what happens without it).
    pub fn swarm(seed: u64) -> Self {
        let mut prng = Prng::new(seed, PURPOSE_SWARM);
        let mut knobs = Self::none();
        for &knob in Knob::ALL {
            let on = prng.below(2) == 1;
            // Squaring makes small probabilities as likely to be drawn as large ones.
            let draw = 1 + prng.below(30);
            let per_mille = match harm(knob) {
                Harm::None => draw * draw,
                Harm::OneOperation => draw * draw / 3,
                Harm::Connection => draw,
            };
            knobs.per_mille[knob as usize] = if on { per_mille as u16 } else { 0 };
        }
        knobs.window_bytes = 1 << (10 + prng.below(8));
        knobs.small_window_bytes_max = 1 << prng.below(12);
        knobs
    }

    /// The probability of `knob`, in thousandths.
    pub fn per_mille(&self, knob: Knob) -> u16 {
        self.per_mille[knob as usize]
    }

    /// The same with another probability for `knob`.
    ///
    /// # Panics
    ///
    /// When `per_mille` is more than 1000.
    #[must_use]
    pub fn with(mut self, knob: Knob, per_mille: u16) -> Self {
        assert!(
            per_mille <= 1000,
            "{per_mille} thousandths are more than a certainty"
        );
        self.per_mille[knob as usize] = per_mille;
        self
    }
}

#[derive(PartialEq, Eq)]
enum Harm {
    /// Every byte still arrives.
    None,
    /// One operation fails, and trying again mends it.
    OneOperation,
    /// A connection is lost.
    Connection,
}

fn harm(knob: Knob) -> Harm {
    match knob {
        Knob::AcceptEnds
        | Knob::CompletionDelayed
        | Knob::CompletionHeld
        | Knob::CompletionsReordered
        | Knob::IncrementalBuffers
        | Knob::ReadyInVain
        | Knob::QueueFull
        | Knob::Readiness
        | Knob::RecvSplit
        | Knob::SendWaits
        | Knob::ShortSend
        | Knob::SmallWindow
        | Knob::WokenInVain => Harm::None,
        Knob::AcceptFails
        | Knob::CancelTooLate
        | Knob::ConnectHangs
        | Knob::ConnectRefused
        | Knob::FewDescriptors
        | Knob::NoBuffers
        | Knob::OpenFails
        | Knob::RecvEnds => Harm::OneOperation,
        Knob::ClockJump
        | Knob::EndBeforeData
        | Knob::EndAfterData
        | Knob::Reset
        | Knob::SendFails => Harm::Connection,
    }
}

/// Purposes of random numbers other than one knob's own.
const PURPOSE_SWARM: u64 = 1_000;
pub(super) const PURPOSE_LISTENER: u64 = 1_001;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
///
/// One for each purpose: a knob that is turned does not change what the others draw.
#[derive(Clone, Debug)]
pub struct Prng(u64);

impl Prng {
    /// The stream of `seed` for one purpose.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut apart = Self(purpose);
        Self(seed ^ apart.draw())
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound`. The bias is at most `bound` in 2^64.
    ///
    /// # Panics
    ///
    /// When `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// A number from 1 to `most`, both included.
    ///
    /// # Panics
    ///
    /// When `most` is 0.
    pub fn up_to(&mut self, most: u64) -> u64 {
        1 + self.below(most)
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.draw() & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_knob_is_off_in_some_seeds_and_on_in_others() {
        for &knob in Knob::ALL {
            let on = (0..200)
                .filter(|&seed| Knobs::swarm(seed).per_mille(knob) > 0)
                .count();
            assert!(
                (50..150).contains(&on),
                "{} is on in {on} of 200 seeds",
                knob.name()
            );
        }
        assert_eq!(Knobs::swarm(7), Knobs::swarm(7));
    }

    #[test]
    fn streams_of_two_purposes_differ() {
        assert_ne!(Prng::new(1, 0).draw(), Prng::new(1, 1).draw());
        assert_ne!(Prng::new(1, 0).draw(), Prng::new(2, 0).draw());
    }
}
