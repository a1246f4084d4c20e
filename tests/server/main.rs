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
#[path = "../common/guard.rs"]
mod guard;
mod host;
#[path = "../common/peer.rs"]
mod peer;

#[path = "../common/again.rs"]
mod again;
#[path = "../common/article.rs"]
mod article;
#[cfg(feature = "aio")]
mod async_bridge;
mod backpressure;
mod closing;
mod compress;
mod deadlines;
#[path = "../common/draft.rs"]
mod draft;
mod encoding;
mod frames;
mod handle;
mod history;
mod hixie;
mod listeners;
mod liveness;
mod long_messages;
mod opening;
mod origins;
mod panics;
#[path = "../common/ports.rs"]
mod ports;
mod runs;
mod small_pools;
mod starting;
mod supervision;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
#[path = "../common/tls_peer.rs"]
mod tls_peer;
mod topics;
