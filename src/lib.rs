//! A WebSocket server for Linux on io_uring.

#![deny(unsafe_code)]

pub mod proto;

#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod ring;
