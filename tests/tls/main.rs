//! TLS in memory: sessions of ringwire against each other, and against the buffered connections of
//! rustls, which take a way of their own through it.

#[path = "../common/authority.rs"]
mod authority;

mod files;
mod hostile;
mod pair;
mod records;
