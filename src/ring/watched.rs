//! What a ring shows to those who check its shard.
//!
//! Knows: what is in flight, and what lies ready to be looked at. Refuses to know: whether that is
//! as it should be.

use super::{Ring, SendQueue, Token};

/// What there is for one socket, and how far it was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// A receive would find something.
    pub is_in_socket: bool,
    /// What it brought lies ready to be handed out.
    pub is_ready: bool,
    /// What came was handed out so often, in bytes and in other outcomes.
    pub handed_out: u64,
}

/// A completion that was not handed out in its time.
#[derive(Clone, Copy, Debug)]
pub struct Overdue {
    /// Whose it is.
    pub token: Token,
    /// Turns for which it has waited.
    pub turns: u64,
    /// Completions that were there before it.
    pub ahead: usize,
}

/// A ring that can be looked into.
pub trait Watched: Ring {
    /// Whether this operation is in flight.
    fn has(&self, token: Token) -> bool;

    /// Whether this operation is in flight and may still find something: its last completion is
    /// not on its way.
    fn is_armed(&self, token: Token) -> bool;

    /// Whether the end of this send is told late, because nobody is said to wait for it.
    fn tells_late(&self, send: Token) -> bool;

    /// Looks at every queue that is being sent.
    fn each_queue(&self, look: &mut dyn FnMut(&SendQueue));

    /// What there is for this socket.
    fn arrived(&self, socket: &Self::Socket) -> Arrived;

    /// Completions that are late because the kernel is, not because nobody has looked at them.
    fn is_late(&self) -> bool;

    /// A completion that has waited for more turns than there were completions before it.
    fn overdue(&self) -> Option<Overdue>;
}
