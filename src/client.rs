//! The dialling side: the same shard, driven by its owner.
//!
//! Knows: one shard without listeners, on the thread that made it. Refuses to know: what it is
//! driven for; the load generator is written against this.
//!
//! ```no_run
//! use ringwire::{Conn, Message, Service, client::{Client, Dial, Wait}};
//!
//! #[derive(Default)]
//! struct Greeter { answered: bool }
//!
//! impl Service for Greeter {
//!     type State = ();
//!
//!     fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
//!         let _ = conn.send("hello");
//!     }
//!
//!     fn on_message(&mut self, _conn: &mut Conn<'_, ()>, message: Message<'_>) {
//!         println!("{:?}", message.text());
//!         self.answered = true;
//!     }
//! }
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mut client = Client::new(ringwire::Config::default(), Greeter::default())?;
//!     client.dial(Dial::to("ws://127.0.0.1:9001/")?)?;
//!     while !client.service().answered {
//!         client.turn(Wait::Forever)?;
//!     }
//!     Ok(())
//! }
//! ```

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Once,
};

use crate::{
    Address, Config, Conn, ConnId, Errno, RingKind, Service, StartError,
    conn::{counts::Snapshot, farewell::Drain},
    ring::{AnyRing, Ballot, Epoll, Ring, Uring, Waker, choice},
    server::{no_ring_of, seed},
    shard::Shard,
    tls::ClientTls,
};
pub use crate::{
    proto::deflate::{ClientWindowBits, Offer as CompressionOffer},
    proto::handshake::{ClientHandshakeError, ClientRequest, Scheme, WsUrl, WsUrlError},
    ring::{Time, Wait},
};

/// A connection to open: where to, from where, and what to ask for.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Where to connect.
    pub address: Address,
    /// Which of this machine's addresses to connect from. With more than one, a machine can have
    /// more connections to one server than there are ports.
    pub from: Option<SocketAddr>,
    /// The opening handshake.
    pub request: ClientRequest,
    /// The TLS to dial a `wss://` URL with.
    #[cfg_attr(not(feature = "tls"), doc(hidden))]
    pub tls: Option<ClientTls>,
}

impl Dial {
    /// To this URL, at the first address that its host name has. A `wss://` URL is dialled with the
    /// certificate authorities that this machine trusts.
    ///
    /// # Errors
    ///
    /// When it is not a WebSocket URL, the name has no address, or this machine trusts nobody.
    pub fn to(url: &str) -> Result<Self, DialError> {
        Self::parsed(url, system_tls)
    }

    /// As [`to`](Self::to), with this TLS for a `wss://` URL.
    ///
    /// # Errors
    ///
    /// When it is not a WebSocket URL or the name has no address.
    #[cfg(feature = "tls")]
    pub fn with_tls(url: &str, tls: &ClientTls) -> Result<Self, DialError> {
        Self::parsed(url, || Ok(tls.clone()))
    }

    fn parsed(
        url: &str,
        tls: impl FnOnce() -> Result<ClientTls, DialError>,
    ) -> Result<Self, DialError> {
        let url = WsUrl::parse(url).map_err(DialError::Url)?;
        let address = resolve(&url)?.swap_remove(0);
        let tls = match url.scheme() {
            Scheme::Wss => Some(tls()?),
            Scheme::Ws | Scheme::WsUnix => None,
        };
        Ok(Self {
            address,
            from: None,
            request: ClientRequest::new(url),
            tls,
        })
    }
}

/// The addresses of a URL's host, at least one, in the resolver's order. This may block on the
/// resolver.
///
/// # Errors
///
/// When the name has no address.
pub fn resolve(url: &WsUrl) -> Result<Vec<Address>, DialError> {
    if let Some(path) = url.socket_path() {
        return Ok(vec![Address::Unix(path.into())]);
    }
    let (host, port) = (url.host().unwrap_or(""), url.port().unwrap_or(0));
    let resolved = (host, port).to_socket_addrs();
    let addresses: Vec<Address> = match resolved {
        Ok(found) => found.map(Address::Inet).collect(),
        Err(error) => {
            return Err(DialError::Resolve {
                host: host.to_owned(),
                error,
            });
        }
    };
    if addresses.is_empty() {
        let error = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        return Err(DialError::Resolve {
            host: host.to_owned(),
            error,
        });
    }
    Ok(addresses)
}

#[cfg(feature = "tls")]
fn system_tls() -> Result<ClientTls, DialError> {
    ClientTls::system().map_err(DialError::Tls)
}

#[cfg(not(feature = "tls"))]
fn system_tls() -> Result<ClientTls, DialError> {
    Err(DialError::TlsUnsupported)
}

/// Why a URL cannot be dialled.
#[derive(Debug)]
#[non_exhaustive]
pub enum DialError {
    /// The host's name has no address.
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        error: io::Error,
    },
    /// TLS cannot be set up.
    #[cfg(feature = "tls")]
    Tls(crate::tls::TlsConfigError),
    /// `wss://`, and ringwire was built without its feature `tls`.
    TlsUnsupported,
    /// It is not a WebSocket URL.
    Url(WsUrlError),
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { host, error } => {
                write!(f, "cannot find the address of '{host}': {error}")
            }
            #[cfg(feature = "tls")]
            Self::Tls(error) => error.fmt(f),
            Self::TlsUnsupported => f.write_str(
                "wss:// needs TLS, and this was built without the feature tls; use ws://",
            ),
            Self::Url(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for DialError {}

/// A shard that dials, on the thread that made it. Nothing happens but in [`turn`](Self::turn).
#[derive(Debug)]
pub struct Client<S: Service> {
    shard: AnyShard<S>,
}

/// A shard on the ring that it got.
#[derive(Debug)]
enum AnyShard<S: Service> {
    Epoll(Box<Shard<Epoll, S>>),
    Uring(Box<Shard<Uring, S>>),
}

/// Does the same on either ring.
macro_rules! on_its_ring {
    ($client:ident, $shard:ident => $result:expr) => {
        match &$client.shard {
            AnyShard::Epoll($shard) => $result,
            AnyShard::Uring($shard) => $result,
        }
    };
    (mut $client:ident, $shard:ident => $result:expr) => {
        match &mut $client.shard {
            AnyShard::Epoll($shard) => $result,
            AnyShard::Uring($shard) => $result,
        }
    };
}

impl<S: Service> Client<S> {
    /// A client with no connections, on io_uring, or on epoll where that cannot be used: a warning
    /// says why, once for all clients of a process.
    ///
    /// # Errors
    ///
    /// When a setting is out of bounds or the kernel gives no ring.
    pub fn new(config: Config, service: S) -> Result<Self, StartError> {
        Self::on(RingKind::Auto, config, service)
    }

    /// As [`new`](Self::new), on this ring.
    ///
    /// # Errors
    ///
    /// When a setting is out of bounds or the kernel does not give that ring.
    pub fn on(ring: RingKind, config: Config, service: S) -> Result<Self, StartError> {
        config.validate()?;
        let ballot = Ballot::new(ring, 1);
        let made = ballot.ring(&config.ring());
        let made = made.map_err(|no_ring| no_ring_of(0, no_ring))?;
        let seed = seed().map_err(|errno| StartError::Ring { shard: 0, errno })?;
        if let Some(unavailable) = ballot.refused() {
            static SAID: Once = Once::new();
            SAID.call_once(|| tracing::warn!("{}", choice::fallback(&unavailable)));
        }
        let shard = match made {
            AnyRing::Epoll(ring) => {
                AnyShard::Epoll(Box::new(Shard::new(0, ring, service, config, seed)))
            }
            AnyRing::Uring(ring) => {
                AnyShard::Uring(Box::new(Shard::new(0, ring, service, config, seed)))
            }
        };
        Ok(Self { shard })
    }

    /// What it runs on: not [`RingKind::Auto`], but what came of it.
    pub fn ring(&self) -> RingKind {
        match &self.shard {
            AnyShard::Epoll(_) => RingKind::Epoll,
            AnyShard::Uring(_) => RingKind::Uring,
        }
    }

    /// Starts to open a connection. The service learns of it by `on_open`, or by `on_close` if it
    /// comes to nothing.
    ///
    /// # Errors
    ///
    /// When there is no descriptor for it, or it cannot be bound to the address it is to come from;
    /// the service is told nothing then.
    pub fn dial(&mut self, dial: Dial) -> Result<ConnId, Errno> {
        on_its_ring!(mut self, shard => shard.dial(dial))
    }

    /// One turn: submits what is queued, waits as told, calls the service for everything that
    /// happened, and queues what it sent.
    ///
    /// What is sent in a turn is submitted at the start of the next one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses the ring.
    pub fn turn(&mut self, wait: Wait) -> Result<(), Errno> {
        on_its_ring!(mut self, shard => shard.turn(wait))
    }

    /// Calls the service for an open connection, outside of a turn. Returns whether it is open.
    pub fn with_conn(
        &mut self,
        id: ConnId,
        call: impl FnOnce(&mut S, &mut Conn<'_, S::State>),
    ) -> bool {
        on_its_ring!(mut self, shard => shard.call(id, call))
    }

    /// The time on the ring's clock, now.
    pub fn now(&self) -> Time {
        on_its_ring!(self, shard => shard.ring().now())
    }

    /// The service.
    pub fn service(&mut self) -> &mut S {
        on_its_ring!(mut self, shard => shard.service())
    }

    /// Connections there are, open or not.
    pub fn connections(&self) -> usize {
        on_its_ring!(self, shard => shard.connections())
    }

    /// The counts as of the last turn.
    pub fn stats(&self) -> Snapshot {
        on_its_ring!(self, shard => shard.stats().snapshot())
    }

    /// Something that ends a [`turn`](Self::turn)'s wait from another thread.
    pub fn waker(&self) -> Waker {
        on_its_ring!(self, shard => shard.ring().waker())
    }

    /// Closes every connection with 1001, within this many milliseconds;
    /// [`is_finished`](Self::is_finished) once all are gone.
    pub fn stop(&mut self, drain_timeout_ms: u64) {
        on_its_ring!(mut self, shard => shard.stop(Drain::at_once(drain_timeout_ms)));
    }

    /// Whether it was stopped and no connection is left.
    pub fn is_finished(&self) -> bool {
        on_its_ring!(self, shard => shard.is_finished())
    }
}
