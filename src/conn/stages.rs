//! From one stage of a connection to the next: once, for shards and for async code.
//!
//! Knows: what a deadline, an end of the stream or an empty queue means at each stage. Refuses to
//! know: who carries it out; whoever drives a connection has its socket, its timer and its service.
//!
//! ```text
//!   Connecting --> Opening --> Challenged --> Open --> Closing --> Finishing --> Lingering
//!                     |                        |          |            |             |
//!                     +--- refused, late ------+----------+------------+             v
//!                                                                      +------> Stopping
//! ```

use super::{
    CloseCause, Ending, Link, Shared, Stage, Timeout,
    liveness::{Kernel, Look, RESPITE_MS},
};
use crate::ring::Errno;

/// What follows from a deadline that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To look again after so many milliseconds, or never.
    Again(Option<u64>),
    /// The opening handshake is late, and gets a 408.
    Refuse,
    /// The peer was told why, and its connection ends behind that.
    Finish,
    /// The peer is not there, or does not get on: the connection ends at once.
    Drop,
    /// It is over already.
    Nothing,
}

/// What follows from having sent everything, or from the end of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// No more is sent, and the peer's end is waited for.
    ShutDown,
    /// The transport ends.
    Stop,
}

impl Link {
    /// Its deadline is due. Nothing is judged that the kernel has and that nobody has looked at.
    pub fn deadline(&mut self, kernel: &impl Kernel, shared: &mut Shared) -> Due {
        // What has come and was not looked at may be what it waits for.
        let waits_for_bytes = matches!(
            self.stage,
            Stage::Opening(_) | Stage::Challenged(_) | Stage::Closing
        );
        if waits_for_bytes && self.is_respited(kernel) {
            return Due::Again(Some(RESPITE_MS));
        }
        match &self.stage {
            Stage::Opening(opening) if opening.client().is_none() && !self.is_securing() => {
                shared.counts.timeouts += 1;
                self.ends(CloseCause::Timeout(Timeout::Handshake));
                Due::Refuse
            }
            // Part of an answer is out already, so that a 408 would be a part of it.
            Stage::Connecting(_) | Stage::Opening(_) | Stage::Challenged(_) => {
                self.late(Timeout::Handshake, shared)
            }
            Stage::Open => match self.look(kernel, shared) {
                Look::Again(after_ms) => Due::Again(after_ms),
                Look::MessageLate => {
                    self.give_up_message(shared);
                    Due::Finish
                }
                Look::Idle => self.late(Timeout::Idle, shared),
            },
            Stage::Closing | Stage::Finishing(_) | Stage::Lingering => {
                match self.look_at_end(kernel, &shared.config) {
                    None => self.late(Timeout::Close, shared),
                    rest_ms => Due::Again(rest_ms),
                }
            }
            Stage::Stopping | Stage::Closed => Due::Nothing,
        }
    }

    fn late(&mut self, timeout: Timeout, shared: &mut Shared) -> Due {
        shared.counts.timeouts += 1;
        self.ends(CloseCause::Timeout(timeout));
        Due::Drop
    }

    /// Nothing more will be queued: what is queued is sent, and the transport ends then. Returns
    /// whether it was not ending already.
    pub fn finish(&mut self, ending: Ending) -> bool {
        if matches!(self.stage, Stage::Stopping | Stage::Closed) {
            return false;
        }
        // Under TLS the peer has its close_notify to send, which a socket that is closed would
        // answer with a reset.
        let lingers = self.rare.tls().is_some() && !self.stream_ended;
        self.rare.forget_topics();
        self.stage = Stage::Finishing(if lingers { Ending::Linger } else { ending });
        true
    }

    /// Our close frame was written: the peer's has to come in time. Returns whether that is new.
    #[inline]
    pub fn begins_to_close(&mut self) -> bool {
        let begins = matches!(self.stage, Stage::Open) && self.endpoint.is_close_sent();
        if begins {
            self.stage = Stage::Closing;
        }
        begins
    }

    /// What comes after what was sent and received so far, at the end of a connection.
    #[inline]
    pub fn next_stage(&mut self) -> Option<Next> {
        if let Stage::Finishing(ending) = self.stage
            && self.queued_bytes() == 0
            && !self.sending
        {
            if ending == Ending::Linger && !self.stream_ended {
                self.stage = Stage::Lingering;
                return Some(Next::ShutDown);
            }
            return Some(Next::Stop);
        }
        (matches!(self.stage, Stage::Lingering) && self.stream_ended).then_some(Next::Stop)
    }

    /// The peer will send no more: its stream or its TLS has ended. Returns how the connection is
    /// to finish, if it was not about to.
    pub fn peer_ended(&mut self) -> Option<Ending> {
        let is_early = matches!(
            self.stage,
            Stage::Open | Stage::Closing | Stage::Opening(_) | Stage::Challenged(_)
        );
        is_early.then(|| {
            self.ends(CloseCause::Vanished);
            // What was sent before may still be wanted: a peer can shut down one side.
            Ending::Stop
        })
    }

    /// The transport is broken: nothing can be sent or received any more.
    pub fn transport_failed(&mut self, errno: Errno) {
        self.stream_ended = true;
        if !self.endpoint.is_input_ended() || !self.endpoint.is_close_sent() {
            self.ends(CloseCause::Transport(errno));
        }
    }
}
