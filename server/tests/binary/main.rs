//! The binary as a person runs it: what it serves, what it says, and how it ends.

#[path = "../../../tests/common/article.rs"]
mod article;
#[cfg(feature = "tls")]
#[path = "../../../tests/common/authority.rs"]
mod authority;
#[path = "../../../tests/common/mod.rs"]
mod common;
#[path = "../../../tests/common/draft.rs"]
mod draft;
#[path = "../../../tests/common/guard.rs"]
mod guard;
#[expect(dead_code, reason = "the tests of the library look closer")]
#[path = "../../../tests/common/peer.rs"]
mod peer;
#[path = "../../../tests/common/ports.rs"]
mod ports;
#[cfg(feature = "tls")]
#[expect(dead_code, reason = "the tests of the library look closer")]
#[path = "../../../tests/common/tls_peer.rs"]
mod tls_peer;

mod access;
mod admin;
mod descriptors;
#[cfg(feature = "aio")]
mod examples;
mod limits;
mod logging;
mod proxied;
mod recorded;
mod routes;
mod sandbox;
mod serve;
mod sessions;
mod settings;
mod stopped;
#[cfg(feature = "tls")]
mod tls;
mod tokens;
#[cfg(feature = "top")]
mod top;
mod topics;
#[cfg(all(feature = "jwt", feature = "tls"))]
mod wrong;
