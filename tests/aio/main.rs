//! The async API, over real sockets.

mod echo;
