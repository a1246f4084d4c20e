//! A load generator for WebSocket servers whose numbers can be believed.
//!
//! ```text
//!   arguments --> plan --> scenario --> run (one coordinator) --> driver (a thread per core)
//!                                        |                          |  schedule: when
//!                                        |                          |  verify: what, and what came
//!                                        |                          v
//!                                        +<--- slices, tallies --- histogram
//!                                        v
//!                               verdict --> result --> report, compare
//! ```
//!
//! | module | knows | must not know |
//! |---|---|---|
//! | [`schedule`] | when messages are due | clocks, connections |
//! | [`verify`] | what messages are made of, and what came back | connections, clocks |
//! | [`script`] | what is said and expected, step by step | connections, clocks |
//! | [`recording`] | what a server has recorded | connections, clocks |
//! | [`histogram`] | how precise, how long | what is measured |
//! | [`driver`] | one thread's loop on a [`ringwire::client::Client`] | what a reply means |
//! | [`scenario`] | what is sent, what a reply means | threads |
//! | [`run`] | threads, phases, the sum of all | what is sent |
//! | [`merge`] | which runs are one, and how they add up | how they were made |
//! | [`redact`] | what a report leaves out | reports |
//! | [`verdict`] | when numbers cannot be believed | how they came about |
//! | [`fail_if`] | which bounds a run has to keep | what becomes of who passes one |
//! | [`result`] | names and units | everything else |
//!
//! It is written against the public API of `ringwire` alone.

#![forbid(unsafe_code)]

pub mod cli;
pub mod compare;
pub mod driver;
pub mod environment;
pub mod fail_if;
pub mod headers;
pub mod histogram;
pub mod merge;
pub mod moment;
pub mod plan;
pub mod raw;
pub mod recording;
pub mod redact;
pub mod report;
pub mod result;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod script;
pub mod verdict;
pub mod verify;
