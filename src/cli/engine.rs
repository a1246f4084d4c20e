//! Which engine serves, and a server on it.
//!
//! Knows: what both engines have in common for a command line. Refuses to know: how they differ.

#[cfg(feature = "aio")]
use ringwire::aio;
use ringwire::{
    Address, Builder, Config, RingKind, Server, StartError,
    service::{Echo, Gate},
};

/// `--engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Shards, each on a ring of its own: the fastest, and the one that runs everywhere.
    #[default]
    Shard,
    /// The async API, on tokio-uring or, on epoll, tokio: for comparison, and for kernels from 5.15
    /// on.
    #[cfg(feature = "aio")]
    #[value(alias = "tokio-uring")]
    Async,
}

/// `--ring`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ring {
    /// io_uring, or epoll where this host forbids that.
    #[default]
    Auto,
    /// io_uring, and nothing else.
    Uring,
    /// epoll.
    Epoll,
}

impl From<Ring> for RingKind {
    fn from(ring: Ring) -> Self {
        match ring {
            Ring::Auto => Self::Auto,
            Ring::Uring => Self::Uring,
            Ring::Epoll => Self::Epoll,
        }
    }
}

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
    ($self:ident, $builder:ident => $result:expr) => {
        match $self {
            Self::Shard($builder) => Self::Shard($result),
            #[cfg(feature = "aio")]
            Self::Async($builder) => Self::Async($result),
        }
    };
}

impl Building {
    /// A server on this engine and ring.
    pub fn new(engine: Engine, ring: Ring, config: Config, pinned: bool) -> Self {
        match engine {
            Engine::Shard => {
                let builder = Server::builder().config(config).pinned(pinned);
                Self::Shard(builder.ring(ring.into()))
            }
            #[cfg(feature = "aio")]
            Engine::Async => {
                let builder = aio::Server::builder().config(config).pinned(pinned);
                Self::Async(builder.ring(ring.into()))
            }
        }
    }

    pub fn listen(self, address: &str) -> Self {
        build!(self, builder => builder.listen(address))
    }

    #[cfg(feature = "tls")]
    pub fn listen_tls(self, address: &str, tls: &ringwire::tls::ServerTls) -> Self {
        build!(self, builder => builder.listen_tls(address, tls))
    }

    pub fn threads(self, threads: usize) -> Self {
        match self {
            Self::Shard(builder) => Self::Shard(builder.shards(threads)),
            #[cfg(feature = "aio")]
            Self::Async(builder) => Self::Async(builder.threads(threads)),
        }
    }

    pub fn start(self, service: Gate<Echo>) -> Result<Serving, StartError> {
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
