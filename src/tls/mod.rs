//! TLS below a connection, without I/O: rustls, and what a server or a client wants of it.
//!
//! Knows: records, certificates and who they name, the PEM files that hold them. Refuses to know:
//! descriptors, threads, and what the plaintext means. The time, for certificates and tickets, is
//! rustls's own business.
//!
//! ```text
//!   received bytes ---> Session ---> plaintext, appended to a buffer of the caller's
//!                         |   ^
//!            records <----+   +----- plaintext
//! ```
//!
//! [`Session`] is one connection. [`ServerTls`] is what all connections to a server share, and can
//! be reloaded; [`ClientTls`] the same for those that are dialled. Whoever needs more than they
//! offer makes a configuration of [`rustls`] and has it wrapped: that crate is re-exported.
//!
//! # The provider
//!
//! The cryptography is aws-lc-rs's. Against the other provider that rustls has, ring 0.17, on an
//! Intel Xeon with AVX-512 (rustls 0.23.46, TLS 1.3, AES-256-GCM), microseconds of the server:
//!
//! | | aws-lc-rs 1.19 | ring 0.17 |
//! |---|---|---|
//! | handshake, P-256 | 72 | 85 |
//! | handshake, RSA 2048 | 323 | 531 |
//! | handshake, resumed | 71 | 79 |
//! | 64 B received and sent | 0.33 | 0.33 |
//! | 1 KiB | 0.51 | 0.53 |
//! | 16 KiB | 3.1 | 4.1 |
//! | 256 KiB | 53 | 67 |
//!
//! It needs a C compiler and no cmake on x86-64 and aarch64, builds in about 25 s on two cores,
//! and has the hybrid key exchange X25519MLKEM768 besides. `scripts/bench-tls.sh` measures both
//! ends whole.
//!
//! # What is kept
//!
//! rustls keeps its own state for each connection: keys of both directions with what AES-GCM
//! derives from them, secrets for later keys and tickets. Nothing of it is a buffer once a
//! connection is idle. `scripts/idle-memory.sh --tls` finds 4.4 KB for an idle connection, where a
//! plain one has 0.3 (TLS 1.3, AES-256-GCM, 8,000 connections).

mod client;
mod error;
mod pem;
mod server;
mod session;

use std::sync::{Arc, OnceLock};

pub use client::{ClientTls, ClientTlsBuilder};
pub use error::{TlsConfigError, TlsError};
pub use rustls;
use rustls::{SupportedProtocolVersion, crypto::CryptoProvider, version};
pub use server::{ClientAuth, ServerTls, ServerTlsBuilder};
pub use session::{PLAINTEXT_BYTES_MAX, Session};

/// The oldest version of TLS that is spoken. Older ones than these are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 (RFC 5246) and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 (RFC 8446) alone.
    Tls13,
}

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static ALL: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match self {
            Self::Tls12 => &ALL,
            Self::Tls13 => &ALL[..1],
        }
    }
}

/// The cryptography. Not the process's default, which is for the application to choose.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .clone()
}
