//! Which engine serves, and a server on it.
//!
//! Knows: what both engines have in common for a command line. Refuses to know: how they differ.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

#[cfg(feature = "aio")]
use ringwire::aio;
use ringwire::{
    Address, Builder, CloseCode, Config, ConfigError, ConnId, Drain, Handle, HandleError, Outgoing,
    Proxies, PublishError, Pulse, RingKind, Seen, Server, Snapshot, Spread, StartError,
    SurveyOrder,
    topics::{Recalled, Since, TopicError, TopicOptions},
};

use crate::{router::Router, sandbox::Sandbox, settings::Settings};

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

    /// Listens on a socket that somebody else has opened.
    pub fn listen_on(self, socket: OwnedFd) -> Self {
        build!(self, builder => builder.listen_on(socket))
    }

    pub fn listen(self, address: String) -> Self {
        build!(self, builder => builder.listen(address))
    }

    #[cfg(feature = "tls")]
    pub fn listen_tls(self, address: String, tls: &ringwire::tls::ServerTls) -> Self {
        build!(self, builder => builder.listen_tls(address, tls))
    }

    /// How topics are treated, which only shards have.
    ///
    /// # Errors
    ///
    /// A pattern that is none.
    pub fn topics(mut self, topics: Vec<(String, TopicOptions)>) -> Result<Self, TopicError> {
        for (pattern, options) in topics {
            self = match self {
                Self::Shard(builder) => Self::Shard(builder.topic(pattern, options)?),
                #[cfg(feature = "aio")]
                building @ Self::Async(_) => building,
            };
        }
        Ok(self)
    }

    fn threads(self, threads: usize) -> Self {
        match self {
            Self::Shard(builder) => Self::Shard(builder.shards(threads)),
            #[cfg(feature = "aio")]
            Self::Async(builder) => Self::Async(builder.threads(threads)),
        }
    }

    /// Starts it. Each of its threads is confined when it has its ring, and before it serves.
    pub fn start(self, service: Router, sandbox: Arc<Sandbox>) -> Result<Serving, StartError> {
        let confined = move |_thread| {
            if let Err(sentence) = sandbox.confine_this_thread() {
                // Where it starts, nobody is there yet whom it could serve.
                panic!("{sentence}");
            }
            service.clone()
        };
        match self {
            Self::Shard(builder) => Ok(Serving::Shard(builder.start(confined)?)),
            #[cfg(feature = "aio")]
            Self::Async(builder) => Ok(Serving::Async(builder.start_each(confined)?)),
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

    /// The way to it for those who run it.
    pub fn operator(&self) -> Operator {
        match self {
            Self::Shard(server) => Operator::Shard(server.handle()),
            #[cfg(feature = "aio")]
            Self::Async(server) => Operator::Async(server.handle()),
        }
    }

    /// What serves and what it runs on, by the names that settings have for them.
    pub fn names(&self) -> (&'static str, &'static str) {
        let engine = match self {
            Self::Shard(_) => "shard",
            #[cfg(feature = "aio")]
            Self::Async(_) => "async",
        };
        let ring = match both!(self, server => server.ring()) {
            RingKind::Epoll => "epoll",
            _ => "uring",
        };
        (engine, ring)
    }

    pub fn join(self) -> Result<(), StartError> {
        both!(self, server => server.join())
    }
}

/// Reaches a running server, on whatever engine.
#[derive(Clone)]
pub enum Operator {
    Shard(Handle),
    #[cfg(feature = "aio")]
    Async(aio::Handle),
}

impl Operator {
    /// Goes on under other settings, as `Handle::reconfigure`.
    pub fn reconfigure(&self, config: &Config) -> Result<Vec<&'static str>, ConfigError> {
        both!(self, handle => handle.reconfigure(config))
    }

    /// Stops, in this way.
    pub fn drain(&self, drain: Drain) {
        both!(self, handle => handle.drain(drain));
    }

    /// Closes a connection, if it is there.
    pub fn close(&self, id: ConnId, code: CloseCode, reason: &str) -> Result<(), HandleError> {
        both!(self, handle => handle.close(id, code, reason))
    }

    /// Sends a message to all who subscribe to a topic. Nobody does on async threads.
    pub fn publish(&self, topic: &[u8], message: Outgoing<'_>) -> Result<(), PublishError> {
        match self {
            Self::Shard(handle) => handle.publish(topic, message),
            #[cfg(feature = "aio")]
            Self::Async(_) => Ok(()),
        }
    }

    /// How many subscribe to exactly this topic or pattern.
    pub fn subscribers(&self, pattern: &[u8]) -> usize {
        match self {
            Self::Shard(handle) => handle.subscribers(pattern),
            #[cfg(feature = "aio")]
            Self::Async(_) => 0,
        }
    }

    /// Asks for what is kept of a topic. `tell` is called with it on a shard's thread. Nothing is
    /// kept on async threads.
    pub fn recall(
        &self,
        topic: &[u8],
        since: Since,
        tell: impl FnOnce(Recalled) + Send + 'static,
    ) -> Result<(), PublishError> {
        match self {
            Self::Shard(handle) => handle.recall(topic, since, tell),
            #[cfg(feature = "aio")]
            Self::Async(_) => Err(PublishError::Stopped),
        }
    }

    /// The connections that stand out. Waits for all shards, for so long at most.
    pub fn survey(&self, order: SurveyOrder, most: usize, patience: Duration) -> Vec<Seen> {
        both!(self, handle => handle.survey(order, most, patience))
    }

    /// Asks everybody for a sign of life, and tells what came of it before.
    pub fn pulse(&self) -> Vec<Pulse> {
        both!(self, handle => handle.pulse())
    }

    /// Connections there are.
    pub fn connections_open(&self) -> u64 {
        both!(self, handle => handle.stats().connections_open)
    }

    /// The counts of each shard.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        match self {
            Self::Shard(handle) => handle.shard_stats(),
            #[cfg(feature = "aio")]
            Self::Async(handle) => handle.thread_stats(),
        }
    }

    /// What each shard has measured.
    pub fn spreads(&self) -> Vec<Vec<Spread>> {
        match self {
            Self::Shard(handle) => handle.shard_spreads(),
            #[cfg(feature = "aio")]
            Self::Async(handle) => handle.thread_spreads(),
        }
    }
}
