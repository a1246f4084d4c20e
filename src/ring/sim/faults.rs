//! Deciding whether something goes wrong here and now, and writing down what did.
//!
//! Knows: the clock, the knobs and their random numbers, the marks and the trace. Refuses to know:
//! what is done about it.

use super::{
    knobs::{Knob, Knobs, Prng},
    marks::{Mark, Marks, OUTSIDE, Trace},
};
use crate::ring::Token;

/// The clock starts somewhere: a zero that is a time by mistake should look wrong.
const START_NS: u64 = 1_000_000_000;

/// What every part of a simulation asks, and tells.
#[derive(Debug)]
pub(super) struct Faults {
    /// Nanoseconds on the virtual clock.
    pub(super) now: u64,
    pub(super) knobs: Knobs,
    prngs: Vec<Prng>,
    pub(super) marks: Marks,
    pub(super) trace: Trace,
}

impl Faults {
    pub(super) fn new(seed: u64, knobs: Knobs) -> Self {
        Self {
            now: START_NS,
            knobs,
            prngs: Knob::ALL
                .iter()
                .map(|&knob| Prng::new(seed, knob as u64))
                .collect(),
            marks: Marks::default(),
            trace: Trace::default(),
        }
    }

    /// The random numbers of one knob, for its size too.
    pub(super) fn prng(&mut self, knob: Knob) -> &mut Prng {
        &mut self.prngs[knob as usize]
    }

    /// Whether `knob` would act. Whoever asks tells [`acts`](Self::acts) if it does.
    pub(super) fn draws(&mut self, knob: Knob) -> bool {
        let per_mille = u64::from(self.knobs.per_mille(knob));
        per_mille > 0 && self.prng(knob).below(1_000) < per_mille
    }

    pub(super) fn acts(&mut self, knob: Knob) {
        self.marks.reach(knob.into());
        self.trace.event(self.now, OUTSIDE, knob.name(), 0, 0);
    }

    /// Whether `knob` acts here and now. Asked only where it can.
    pub(super) fn roll(&mut self, knob: Knob) -> bool {
        let acts = self.draws(knob);
        if acts {
            self.acts(knob);
        }
        acts
    }

    /// A rule that the code under test keeps.
    #[track_caller]
    pub(super) fn rule(&mut self, mark: Mark, holds: bool, token: Token, rule: &str) {
        self.marks.reach(mark);
        assert!(
            holds,
            "{token:?} breaks a rule of the ring at {} ns: {rule}",
            self.now
        );
    }
}
