//! The scenarios: what is done with connections, and what is asked of a server.

pub mod check;
pub mod connect;
pub mod echo;
pub mod fanout;
pub mod idle;
pub mod ingest;
pub mod replay;
pub mod saturate;
pub mod talk;
