//! One message to many: who has subscribed to what, and how those are treated who read too slowly.
//!
//! Knows: names, patterns, places of connections, and what is kept for those who were away. Refuses
//! to know: connections, shards and the wire.
//!
//! A service subscribes a connection with [`Conn::subscribe`](crate::Conn::subscribe), and whoever
//! has something to say publishes it: with [`Conn::publish`](crate::Conn::publish) or
//! [`Turn::publish`](crate::Turn::publish) from a service, with
//! [`Handle::publish`](crate::Handle::publish) from any thread. A publication is made into one
//! frame for all; it crosses to another shard once, however many subscribe there, and takes 16
//! bytes in the backlog of each subscriber that is behind.
//!
//! What is promised:
//!
//! - Whoever has subscribed gets every message that is published after the call has returned, on
//!   whichever shard, once, even if several of its patterns match.
//! - Messages of one publisher on one topic arrive in the order in which they were published. The
//!   publisher is a connection, a shard's service, or a thread with a handle.
//! - Nothing is left out but by the [`SlowPolicy`] of the topic, which is counted, or because a
//!   connection ends.
//! - Where a topic keeps messages ([`TopicOptions::history_messages_max`]), each has a number, and
//!   everybody gets them in the order of the numbers. A client that knows the [`Position`] of the
//!   last one that it has got goes on behind it, on whichever shard, with
//!   [`Conn::subscribe_since`](crate::Conn::subscribe_since): it misses nothing and gets nothing
//!   twice, or is told that there is a gap. All messages of such a topic go by way of one shard,
//!   its home, which costs those of other shards a wake-up.
//!
//! To tell its clients the positions, a service has them sent in envelopes
//! ([`Service::envelope`](crate::Service::envelope)), made once for all of a shard.
//!
//! A chat:
//!
//! ```
//! use ringwire::{CloseCause, Conn, ConnId, Message, Service, Turn};
//!
//! struct Chat;
//!
//! impl Service for Chat {
//!     type State = ();
//!
//!     fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
//!         let _ = conn.subscribe("room");
//!         let _ = conn.publish("room", format!("{} is here", conn.id()));
//!     }
//!
//!     fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
//!         let _ = conn.publish("room", message);
//!     }
//!
//!     fn on_close(&mut self, turn: &mut Turn<'_>, id: ConnId, (): (), _: &CloseCause) {
//!         let _ = turn.publish("room", format!("{id} has left"));
//!     }
//! }
//! ```

pub mod history;
pub mod interest;
pub mod name;
pub mod published;
pub mod rules;
pub mod table;
pub mod tree;

pub use history::{Position, PositionError, Recalled, Resumed, Since};
pub use name::TopicError;
pub use published::Published;
pub use rules::{SlowPolicy, TopicOptions};
