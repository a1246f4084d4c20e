//! What WebSocket was before RFC 6455: draft-hixie-thewebsocketprotocol-76, which is
//! draft-ietf-hybi-thewebsocketprotocol-00, from the server's side.
//!
//! Knows that draft's opening handshake and its framing. Refuses to know RFC 6455: an endpoint made
//! with [`Endpoint::hixie76`](super::Endpoint::hixie76) asks this module instead, and gives the
//! same events for it.
//!
//! ```text
//!  text     00 <UTF-8> FF
//!  binary   80 <length, 7 bits to the byte, all but the last with the top bit on> <bytes>
//!  close    FF 00
//! ```
//!
//! There are no fragments, no masks, no pings and pongs, and a close has neither code nor reason.
//! The draft's browsers know text only: they never send a binary frame, and throw away those that
//! they receive. Other clients of the time use them, so that they are read here, and sent to
//! peers that have shown that they know them by sending one.

mod challenge;
mod frames;

pub use challenge::{Challenge, check_opening, encode_head, is_opening};
pub(super) use frames::Hixie;
