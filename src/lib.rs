//! A WebSocket server for Linux on io_uring.
//!
//! One thread per core, each with a ring, a listener and connections of its own. Messages are
//! unmasked and validated where they were received, and everything that a connection sends in a
//! turn of its thread leaves in one send.
//!
//! ```text
//!         kernel            |                  one shard = one core = one thread
//!  accept (multishot) ------+--> slab slot, handshake deadline
//!  recv   (multishot) ------+--> lease on a receive buffer --> Endpoint (RFC 6455, no I/O)
//!                           |        |  frames are unmasked where they lie   |
//!                           |        |                                       v
//!                           |        +---- Message<'_>, borrowed ---> Service::on_message
//!                           |                                                |
//!  send   (one in flight) <-+------- queue: chunks, adopted Bytes <----- Conn::send
//!  timeout (one tick) ------+--> deadlines: handshake, idle and ping, close
//!  eventfd -----------------+--> mailbox: Handle, from any thread
//! ```
//!
//! # An echo
//!
//! ```no_run
//! use ringwire::{Conn, Message, Service};
//!
//! struct Echo;
//!
//! impl Service for Echo {
//!     type State = ();
//!
//!     fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
//!         let _ = conn.send(message);
//!     }
//! }
//!
//! fn main() -> Result<(), ringwire::StartError> {
//!     ringwire::serve("127.0.0.1:9001", |_shard| Echo)
//! }
//! ```
//!
//! # In async code
//!
//! A service must not wait. For handlers that have to, [`aio`] has the same protocol core, limits,
//! TLS and counts behind `async fn`, on tokio-uring. It is the feature `aio`, on by default.
//!
//! # Layers
//!
//! | module | may use | must not know |
//! |---|---|---|
//! | `kernels` | `core::arch`, mappings | anything of ours |
//! | [`proto`] | kernels | descriptors, clocks, threads |
//! | [`tls`] | rustls, proto's [`Sink`](proto::Sink) | descriptors, clocks, threads |
//! | `ring` | kernels, io_uring, epoll, libc | frames, connections, services |
//! | [`topics`] | proto, the ring's clock | connections, shards, the wire |
//! | `conn` | proto, tls, topics, the ring's trait | threads, listeners, a concrete ring |
//! | `shard` | conn, tls, topics, the ring's trait | concrete services, the command line |
//! | [`service`] | [`Service`], [`Conn`], [`aio`], proto's vocabulary | ring, tokens, buffers |
//! | [`aio`] | conn, tls, the ring's clock and addresses | concrete services, a concrete ring |
//! | `server`, [`client`] | all | parsing, buffers |
//!
//! `tests/tidy.rs` reads every file and fails where an edge is not in the table.
//!
//! [`proto`] can be used alone, by whoever has bytes of their own: it is RFC 6455 for both roles,
//! without I/O.

#![deny(unsafe_code)]
#![cfg_attr(not(feature = "aio"), allow(rustdoc::broken_intra_doc_links))]

#[cfg(feature = "aio")]
pub mod aio;
pub mod client;
pub mod config;
pub mod proto;
pub mod service;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls/off.rs"]
mod tls;
pub mod topics;

mod server;

// The layers below the public API, for this project's own tests and benches. They may change at any
// time.
#[doc(hidden)]
pub mod conn;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod ring;
#[doc(hidden)]
pub mod shard;

pub use config::{Config, ConfigError};
pub use conn::{
    CloseCause, Conn, ConnId, Counts, Remote, Timeout,
    counts::{Count, CountKind, Snapshot},
    distribution::{Spread, SpreadUnit},
    farewell::Drain,
    handle::SendStatus,
    proxied::{Proxies, ProxyError},
    survey::{Seen, SurveyOrder},
    tally::Tally,
    turn::{PublishError, SubscribeError, Turn},
};
pub use proto::{
    CloseCode, Message, MessageKind, ProtocolError, SendError, Version,
    handshake::{Answer, HandshakeError, HttpReply, Refusal, Request, Upgrade},
    message::Outgoing,
};
pub use ring::{
    Address, Errno, PeerAddress, RingKind,
    probe::{self, Probe, Unavailable},
    process::defer_huge_pages,
    socket::Listener,
};
pub use server::{Builder, Handle, HandleError, Pulse, Server, StartError, serve};
pub use shard::service::Service;
