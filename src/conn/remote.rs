//! Who is at the other end.
//!
//! Knows: an address, and what TLS says of the peer. Refuses to know: what is made of it.

use std::{fmt, net::IpAddr};

use super::door::Visit;
use crate::{proto::handshake::HandshakeError, ring::PeerAddress, tls::Session};

/// Who asks for a connection or sends a request, as the transport knows it.
#[derive(Clone, Copy, Debug)]
pub struct Remote<'a> {
    address: PeerAddress,
    tls: Option<&'a Session>,
    visit: Option<&'a Visit<'a>>,
}

impl<'a> Remote<'a> {
    #[doc(hidden)]
    pub const fn new(address: PeerAddress, tls: Option<&'a Session>) -> Self {
        Self {
            address,
            tls,
            visit: None,
        }
    }

    /// While an opening handshake is judged.
    pub(crate) const fn at_door(self, visit: &'a Visit<'a>) -> Self {
        Self {
            visit: Some(visit),
            ..self
        }
    }

    /// While something else is judged.
    pub(crate) const fn away_from_door(self) -> Self {
        Self {
            visit: None,
            ..self
        }
    }

    /// Counts the connection as one of `address` in limits by address: of the client, whom a proxy
    /// has named in a header ([`Proxies::client`](crate::Proxies::client)); `None` if it has named
    /// nobody, so that the connection counts in `connections_max` alone. It is for connections that
    /// are not counted yet, those of [`Proxies::forwards`](crate::Proxies::forwards). A later call
    /// counts instead of an earlier one. Elsewhere than in `on_handshake` it does nothing.
    ///
    /// # Errors
    ///
    /// [`HandshakeError::TooManyFromAddress`] when there are too many from there, or they come too
    /// fast, and [`HandshakeError::Overloaded`] when `connections_max` is reached.
    pub fn count_as(&self, address: Option<IpAddr>) -> Result<(), HandshakeError> {
        let Some(visit) = self.visit else {
            return Ok(());
        };
        visit
            .count_as(address)
            .map_err(|turned| turned.lack().error())
    }

    /// Where it is. Behind a proxy this is the proxy, unless that is one of the
    /// [`Proxies`](crate::Proxies) that say with the PROXY protocol whom they speak for.
    pub const fn address(&self) -> PeerAddress {
        self.address
    }

    /// Its IP address, when there is one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.address.ip()
    }

    /// The TLS between it and us: its certificate, if it has shown one, the version and the cipher
    /// suite. `None` on a plain connection.
    #[cfg(feature = "tls")]
    pub const fn tls(&self) -> Option<&'a Session> {
        self.tls
    }

    /// Whether what passes between it and us is encrypted.
    pub const fn is_secure(&self) -> bool {
        self.tls.is_some()
    }
}

impl fmt::Display for Remote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}
