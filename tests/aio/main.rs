//! The async API, over real sockets.

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
#[cfg(feature = "tls")]
mod tls;
