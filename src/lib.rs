//! A WebSocket server for Linux on io_uring.

#![deny(unsafe_code)]

#[doc(hidden)]
pub mod kernels;
