//! One message to many: who has subscribed to what, and how those are treated who read too slowly.
//!
//! Knows: names, patterns, and places of connections. Refuses to know: connections, shards and the
//! wire.
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

pub mod interest;
pub mod name;
pub mod rules;
pub mod table;
pub mod tree;

pub use name::TopicError;
pub use rules::{SlowPolicy, TopicOptions};
