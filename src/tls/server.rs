//! What the TLS listeners of a server share: certificates by name, who may connect, tickets.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::aws_lc_rs::Ticketer,
    pki_types::CertificateDer,
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
        WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};

use super::{MinVersion, Session, TlsConfigError, TlsError, client, pem, pem::Facts, provider};

/// Whether clients show a certificate (RFC 8446 section 4.4.2), and which authorities sign them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// None is asked for.
    #[default]
    Off,
    /// It is asked for, and a client without one may connect all the same. One that is sent has to
    /// be valid.
    Optional(PathBuf),
    /// A client without a valid one is refused.
    Required(PathBuf),
}

/// What [`ServerTls`] is made of: PEM files, which are read again by [`ServerTls::reload`].
#[derive(Clone, Debug, Default)]
pub struct ServerTlsBuilder {
    pairs: Vec<(PathBuf, PathBuf)>,
    client_auth: ClientAuth,
    min_version: MinVersion,
}

impl ServerTlsBuilder {
    /// A certificate with its chain, and its key: two PEM files. Repeat it for several
    /// certificates: a client gets the first that is for the name it asked for (SNI, RFC 6066
    /// section 3) and that it can verify, and the first of all when none is for that name.
    #[must_use]
    pub fn certificate(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.pairs.push((chain.into(), key.into()));
        self
    }

    /// Whether clients show a certificate. They do not, unless set.
    #[must_use]
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }

    /// The oldest version that is spoken. 1.2 unless set.
    #[must_use]
    pub fn min_version(mut self, version: MinVersion) -> Self {
        self.min_version = version;
        self
    }

    /// Reads the files.
    ///
    /// A certificate that has expired, or is not valid yet, is a warning in the log and no error:
    /// what it costs is for its clients to decide.
    ///
    /// # Errors
    ///
    /// The first file that cannot be read, or is not what it should be.
    pub fn load(self) -> Result<ServerTls, TlsConfigError> {
        let authorities = self.authorities()?;
        let tickets = ticketer()?;
        let config = self.config(&authorities, tickets.clone())?;
        Ok(ServerTls {
            shared: Arc::new(Shared {
                current: RwLock::new(Arc::new(config)),
                source: Some(Source {
                    files: self,
                    loaded: Mutex::new(Loaded {
                        authorities,
                        tickets,
                    }),
                }),
            }),
        })
    }

    fn authorities(&self) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
        match &self.client_auth {
            ClientAuth::Off => Ok(Vec::new()),
            ClientAuth::Optional(path) | ClientAuth::Required(path) => pem::certificates(path),
        }
    }

    fn config(
        &self,
        authorities: &[CertificateDer<'static>],
        tickets: Arc<dyn ProducesTickets>,
    ) -> Result<ServerConfig, TlsConfigError> {
        let refused = |error: rustls::Error| TlsConfigError::Refused(error.to_string());
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(self.min_version.versions())
            .map_err(refused)?;
        let builder = match self.verifier(authorities)? {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Certificates::default()));
        config.cert_resolver = Arc::new(Certificates::load(&self.pairs, &config)?);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Tickets hold the session at the client (RFC 5077, RFC 8446 section 4.6.1): nothing is
        // kept here for connections that are gone, and the shards share no lock.
        config.ticketer = tickets;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    fn verifier(
        &self,
        authorities: &[CertificateDer<'static>],
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsConfigError> {
        let (path, optional) = match &self.client_auth {
            ClientAuth::Off => return Ok(None),
            ClientAuth::Optional(path) => (path, true),
            ClientAuth::Required(path) => (path, false),
        };
        let unusable = |why: String| TlsConfigError::Unusable {
            path: path.clone(),
            why,
        };
        let roots = client::roots(path, authorities)?;
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        let builder = if optional {
            builder.allow_unauthenticated()
        } else {
            builder
        };
        let verifier = builder
            .build()
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Some(verifier))
    }
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, TlsConfigError> {
    Ticketer::new().map_err(|error| TlsConfigError::Refused(error.to_string()))
}

/// The TLS of a server's listeners. Clones share it: what [`reload`](Self::reload) brings is used
/// by every listener, for connections that are accepted from then on.
#[derive(Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

struct Shared {
    /// Read once for each connection, which costs a thousandth of its handshake.
    current: RwLock<Arc<ServerConfig>>,
    source: Option<Source>,
}

struct Source {
    files: ServerTlsBuilder,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    authorities: Vec<CertificateDer<'static>>,
    tickets: Arc<dyn ProducesTickets>,
}

impl ServerTls {
    /// Made of PEM files.
    pub fn builder() -> ServerTlsBuilder {
        ServerTlsBuilder::default()
    }

    /// A configuration of rustls as it is, for what [`builder`](Self::builder) does not offer. It
    /// should have `http/1.1` as its ALPN protocol. Early data (RFC 8446 section 2.3) is turned
    /// off: a WebSocket's opening handshake may not be replayed.
    pub fn from_rustls(mut config: ServerConfig) -> Self {
        config.max_early_data_size = 0;
        Self {
            shared: Arc::new(Shared {
                current: RwLock::new(Arc::new(config)),
                source: None,
            }),
        }
    }

    /// Reads the files again. Connections that exist keep what they were accepted with. Tickets
    /// stay good, unless the authorities for client certificates have changed. Without files there
    /// is nothing to read, and nothing happens.
    ///
    /// # Errors
    ///
    /// As [`ServerTlsBuilder::load`]; everything stays as it was then.
    pub fn reload(&self) -> Result<(), TlsConfigError> {
        let Some(source) = &self.shared.source else {
            return Ok(());
        };
        let authorities = source.files.authorities()?;
        // Held to the end, so that of two reloads the one that read later is the one that stays.
        let mut loaded = source.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let tickets = if authorities == loaded.authorities {
            loaded.tickets.clone()
        } else {
            // A resumed session is not verified again.
            ticketer()?
        };
        let config = Arc::new(source.files.config(&authorities, tickets.clone())?);
        *loaded = Loaded {
            authorities,
            tickets,
        };
        let mut current = self
            .shared
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = config;
        Ok(())
    }

    /// What connections are accepted with now.
    pub fn to_rustls(&self) -> Arc<ServerConfig> {
        self.shared
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The TLS of one connection that was accepted.
    ///
    /// # Errors
    ///
    /// When the configuration came from rustls and cannot be used for TLS over a stream.
    pub fn session(&self) -> Result<Session, TlsError> {
        Session::server(self.to_rustls())
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// Certificates with their keys and the names that they are for, in the order given.
#[derive(Debug, Default)]
struct Certificates(Vec<(Option<Facts>, Arc<CertifiedKey>)>);

impl Certificates {
    fn load(pairs: &[(PathBuf, PathBuf)], config: &ServerConfig) -> Result<Self, TlsConfigError> {
        if pairs.is_empty() {
            return Err(TlsConfigError::NoCertificate);
        }
        let now = config.time_provider.current_time();
        let now = now.map(|now| Duration::from_secs(now.as_secs()));
        let mut all = Vec::new();
        for (chain_path, key_path) in pairs {
            let key = certified_key(chain_path, key_path)?;
            let facts = Facts::of(&key.cert[0]);
            if let (Some(facts), Some(now)) = (&facts, now) {
                warn_of_validity(chain_path, facts, now);
            }
            all.push((facts, Arc::new(key)));
        }
        Ok(Self(all))
    }
}

/// A certificate with its key, which have to belong together.
pub(super) fn certified_key(
    chain_path: &Path,
    key_path: &Path,
) -> Result<CertifiedKey, TlsConfigError> {
    let chain = pem::certificates(chain_path)?;
    let key = pem::private_key(key_path)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsConfigError::KeyMismatch {
                certificate: chain_path.into(),
                key: key_path.into(),
            }
        }
        rustls::Error::InvalidCertificate(error) => TlsConfigError::Unusable {
            path: chain_path.into(),
            why: format!("its first certificate: {error}"),
        },
        other => TlsConfigError::Unusable {
            path: key_path.into(),
            why: other.to_string(),
        },
    })
}

fn warn_of_validity(path: &Path, facts: &Facts, now: Duration) {
    let path = path.display();
    if now > facts.not_after {
        let days = (now - facts.not_after).as_secs() / 86_400;
        tracing::warn!(
            subject = facts.subject,
            "the certificate in '{path}' expired {days} days ago: clients will refuse it; renew it \
             and send SIGHUP"
        );
    } else if now < facts.not_before {
        tracing::warn!(
            subject = facts.subject,
            "the certificate in '{path}' is not valid yet: clients will refuse it; check this \
             machine's clock"
        );
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let host = hello.server_name().map(str::to_ascii_lowercase);
        let is_for_host = |facts: &Option<Facts>| {
            facts
                .as_ref()
                .zip(host.as_deref())
                .is_some_and(|(facts, host)| facts.is_for(host))
        };
        let can = |key: &CertifiedKey| key.key.choose_scheme(schemes).is_some();
        let all = || self.0.iter().filter(|(_, key)| can(key));
        all()
            .find(|(facts, _)| is_for_host(facts))
            .or_else(|| all().next())
            // Where none will do, rustls finds better words for it than that there was none.
            .or_else(|| self.0.first())
            .map(|(_, key)| key.clone())
    }
}
