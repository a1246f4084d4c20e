//! Which engine serves, and a server on it.
//!
//! Knows: what both engines have in common for a command line. Refuses to know: how they differ.

#[cfg(feature = "aio")]
use ringwire::aio;
use ringwire::{
    Address, Builder, Config, Server, StartError,
    service::{Echo, Gate},
};

/// `--engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// Shards, each on a ring of its own: the fastest.
    #[default]
    Shard,
    /// The async API, on tokio-uring: for comparison, and for kernels from 5.15 on.
    #[cfg(feature = "aio")]
    TokioUring,
}

/// A server that is to be.
pub enum Building {
    Shard(Builder),
    #[cfg(feature = "aio")]
    TokioUring(aio::Builder),
}

/// A running server.
pub enum Serving {
    Shard(Server),
    #[cfg(feature = "aio")]
    TokioUring(aio::Server),
}

/// Does the same with either.
macro_rules! both {
    ($self:ident, $server:ident => $result:expr) => {
        match $self {
            Self::Shard($server) => $result,
            #[cfg(feature = "aio")]
            Self::TokioUring($server) => $result,
        }
    };
}

/// Does the same with either builder.
macro_rules! build {
    ($self:ident, $builder:ident => $result:expr) => {
        match $self {
            Self::Shard($builder) => Self::Shard($result),
            #[cfg(feature = "aio")]
            Self::TokioUring($builder) => Self::TokioUring($result),
        }
    };
}

impl Building {
    /// A server on this engine.
    pub fn new(engine: Engine, config: Config, pinned: bool) -> Self {
        match engine {
            Engine::Shard => Self::Shard(Server::builder().config(config).pinned(pinned)),
            #[cfg(feature = "aio")]
            Engine::TokioUring => {
                Self::TokioUring(aio::Server::builder().config(config).pinned(pinned))
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
            Self::TokioUring(builder) => Self::TokioUring(builder.threads(threads)),
        }
    }

    pub fn start(self, service: Gate<Echo>) -> Result<Serving, StartError> {
        match self {
            Self::Shard(builder) => {
                let server = builder.start(move |_shard| service.clone())?;
                Ok(Serving::Shard(server))
            }
            #[cfg(feature = "aio")]
            Self::TokioUring(builder) => Ok(Serving::TokioUring(builder.start(service)?)),
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

    /// How many threads it has, in words.
    pub fn threads(&self) -> String {
        let (count, what) = match self {
            Self::Shard(server) => (server.handle().shard_stats().len(), "shard"),
            #[cfg(feature = "aio")]
            Self::TokioUring(server) => {
                (server.handle().thread_stats().len(), "tokio-uring runtime")
            }
        };
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {what}{plural}")
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
