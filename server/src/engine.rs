//! Which engine serves, and a server on it.
//!
//! Knows: what both engines have in common for a command line. Refuses to know: how they differ.

#[cfg(feature = "aio")]
use ringwire::aio;
use ringwire::{Address, Builder, Config, ConfigError, Proxies, RingKind, Server, StartError};

use crate::{router::Router, settings::Settings};

/// Has a server go on under other settings, as `Handle::reconfigure`.
pub type Reconfigure = dyn Fn(&Config) -> Result<Vec<&'static str>, ConfigError> + Send;

/// A server that is to be.
pub enum Building {
    Shard(Builder),
    #[cfg(feature = "aio")]
    Async(aio::Builder),
}

/// A running server.
pub enum Serving {
    Shard(Server),
    #[cfg(feature = "aio")]
    Async(aio::Server),
}

/// Does the same with either.
macro_rules! both {
    ($self:ident, $server:ident => $result:expr) => {
        match $self {
            Self::Shard($server) => $result,
            #[cfg(feature = "aio")]
            Self::Async($server) => $result,
        }
    };
}

/// Does the same with either builder.
macro_rules! build {
    ($self:expr, $builder:ident => $result:expr) => {
        match $self {
            Self::Shard($builder) => Self::Shard($result),
            #[cfg(feature = "aio")]
            Self::Async($builder) => Self::Async($result),
        }
    };
}

impl Building {
    /// A server as these settings, which were checked, describe it.
    pub fn new(settings: &Settings) -> Self {
        let ring = match settings.ring.as_str() {
            "uring" => RingKind::Uring,
            "epoll" => RingKind::Epoll,
            _ => RingKind::Auto,
        };
        let config = settings.config.clone();
        let building = match settings.engine.as_str() {
            #[cfg(feature = "aio")]
            "async" => {
                let builder = aio::Server::builder().config(config).pinned(settings.pin);
                Self::Async(builder.ring(ring))
            }
            _ => {
                let builder = Server::builder().config(config).pinned(settings.pin);
                Self::Shard(builder.ring(ring))
            }
        };
        let building = match settings.unix_mode() {
            None => building,
            Some(mode) => build!(building, builder => builder.unix_mode(mode)),
        };
        match settings.shards {
            0 => building,
            shards => building.threads(shards as usize),
        }
    }

    pub fn proxies(self, proxies: Proxies) -> Self {
        build!(self, builder => builder.proxies(proxies))
    }

    pub fn listen(self, address: String) -> Self {
        build!(self, builder => builder.listen(address))
    }

    #[cfg(feature = "tls")]
    pub fn listen_tls(self, address: String, tls: &ringwire::tls::ServerTls) -> Self {
        build!(self, builder => builder.listen_tls(address, tls))
    }

    fn threads(self, threads: usize) -> Self {
        match self {
            Self::Shard(builder) => Self::Shard(builder.shards(threads)),
            #[cfg(feature = "aio")]
            Self::Async(builder) => Self::Async(builder.threads(threads)),
        }
    }

    pub fn start(self, service: Router) -> Result<Serving, StartError> {
        match self {
            Self::Shard(builder) => {
                let server = builder.start(move |_shard| service.clone())?;
                Ok(Serving::Shard(server))
            }
            #[cfg(feature = "aio")]
            Self::Async(builder) => Ok(Serving::Async(builder.start(service)?)),
        }
    }
}

impl Serving {
    pub fn addresses(&self) -> &[Address] {
        both!(self, server => server.addresses())
    }

    pub fn tls_addresses(&self) -> &[Address] {
        both!(self, server => server.tls_addresses())
    }

    /// How many threads it has and what they run on, in words.
    pub fn threads(&self) -> String {
        let (count, what, on) = match self {
            Self::Shard(server) => {
                let shards = server.handle().shard_stats().len();
                (shards, "shard", server.ring().name())
            }
            #[cfg(feature = "aio")]
            Self::Async(server) => {
                let runtime = match server.ring() {
                    RingKind::Epoll => "tokio",
                    _ => "tokio-uring",
                };
                (
                    server.handle().thread_stats().len(),
                    "async thread",
                    runtime,
                )
            }
        };
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {what}{plural} on {on}")
    }

    /// Something that has it go on under other settings, and names those that stay.
    pub fn reconfigurer(&self) -> Box<Reconfigure> {
        both!(self, server => {
            let handle = server.handle();
            Box::new(move |config| handle.reconfigure(config))
        })
    }

    /// Something that makes it stop.
    pub fn stopper(&self) -> Box<dyn FnOnce() + Send> {
        both!(self, server => {
            let handle = server.handle();
            Box::new(move || handle.stop())
        })
    }

    pub fn join(self) -> Result<(), StartError> {
        both!(self, server => server.join())
    }
}
