//! The async API, over real sockets.

#[path = "../common/again.rs"]
mod again;
#[cfg(feature = "tls")]
#[path = "../common/authority.rs"]
mod authority;
mod cancel;
mod closing;
mod compress;
mod echo;
mod halves;
mod host;
mod hostile;
mod liveness;
mod pieces;
mod pressure;
mod reentrancy;
mod runtimes;
#[cfg(feature = "tls")]
mod tls;
mod upgraded;
