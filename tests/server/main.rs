//! The server with real sockets: what a client sees, what a service is told, and that nothing is
//! left behind. `host` has the checks that end every test, `common` a client that shares no code
//! with the server.

#[cfg(feature = "tls")]
#[path = "../common/authority.rs"]
mod authority;
#[cfg(feature = "tls")]
mod bridge;
#[path = "../common/mod.rs"]
mod common;
mod host;
mod peer;

#[path = "../common/again.rs"]
mod again;
#[cfg(feature = "aio")]
mod async_bridge;
mod backpressure;
mod binary;
mod closing;
mod compress;
mod deadlines;
mod descriptors;
mod encoding;
#[cfg(feature = "aio")]
mod examples;
mod frames;
mod handle;
mod hixie;
mod listeners;
mod liveness;
mod logging;
mod long_messages;
mod opening;
mod origins;
mod panics;
mod runs;
mod small_pools;
mod starting;
mod supervision;
#[cfg(feature = "tls")]
mod tls;
