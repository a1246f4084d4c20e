//! Services that come with ringwire. Users write the same kind of thing.
//!
//! Knows: the [`Service`](crate::Service) trait and the vocabulary of the protocol. Refuses to
//! know: rings, tokens, buffers.

#[cfg(feature = "aio")]
mod awaiting;
mod echo;
mod gate;
mod origins;

pub use echo::{Echo, EchoState};
pub use gate::Gate;
pub use origins::{OriginError, Origins};
