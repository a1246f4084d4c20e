//! What connections that are dialled share: whom to trust, and what to show.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
};

use super::{MinVersion, Session, TlsConfigError, TlsError, pem, provider, server};

/// The authorities in a file, each of which has to be usable: one that is not would be missed only
/// when it is needed.
pub(super) fn roots(
    path: &Path,
    authorities: &[CertificateDer<'static>],
) -> Result<RootCertStore, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots
            .add(authority.clone())
            .map_err(|error| TlsConfigError::Unusable {
                path: path.into(),
                why: error.to_string(),
            })?;
    }
    Ok(roots)
}

/// Whom a client trusts.
#[derive(Clone, Debug, Default)]
enum Trust {
    /// The machine's own authorities.
    #[default]
    System,
    /// The authorities in these files.
    Files(Vec<PathBuf>),
    /// Everybody.
    Anyone,
}

/// What [`ClientTls`] is made of.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsBuilder {
    trust: Trust,
    identity: Option<(PathBuf, PathBuf)>,
    min_version: MinVersion,
    without_resumption: bool,
}

impl ClientTlsBuilder {
    /// Trusts the authorities in a PEM file, in place of the machine's. Repeat it for several.
    #[must_use]
    pub fn authorities(mut self, path: impl Into<PathBuf>) -> Self {
        match &mut self.trust {
            Trust::Files(paths) => paths.push(path.into()),
            other => *other = Trust::Files(vec![path.into()]),
        }
        self
    }

    /// Trusts every certificate, whoever signed it and whatever name it is for. What is sent can
    /// be read and changed by whoever is in between: this is for tests.
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.trust = Trust::Anyone;
        self
    }

    /// Shows this certificate to servers that ask for one: a chain and its key, two PEM files.
    #[must_use]
    pub fn identity(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((chain.into(), key.into()));
        self
    }

    /// The oldest version that is spoken. 1.2 unless set.
    #[must_use]
    pub fn min_version(mut self, version: MinVersion) -> Self {
        self.min_version = version;
        self
    }

    /// Makes every handshake a full one. Unless set, tickets of earlier connections are used.
    #[must_use]
    pub fn without_resumption(mut self) -> Self {
        self.without_resumption = true;
        self
    }

    /// Reads the files.
    ///
    /// # Errors
    ///
    /// The first file that cannot be read, or is not what it should be; a machine without
    /// authorities.
    pub fn load(self) -> Result<ClientTls, TlsConfigError> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(self.min_version.versions())
            .map_err(|error| TlsConfigError::Refused(error.to_string()))?;
        let builder = match &self.trust {
            Trust::System => builder.with_root_certificates(system_roots()?),
            Trust::Files(paths) => {
                let mut all = RootCertStore::empty();
                for path in paths {
                    all.extend(roots(path, &pem::certificates(path)?)?.roots);
                }
                builder.with_root_certificates(all)
            }
            Trust::Anyone => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider()))),
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = server::certified_key(chain, key)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        if self.without_resumption {
            config.resumption = Resumption::disabled();
        }
        Ok(ClientTls {
            config: Arc::new(config),
        })
    }
}

fn system_roots() -> Result<RootCertStore, TlsConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some that many machines carry are older than what is accepted today.
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map(ToString::to_string);
        let why = why.unwrap_or_else(|| "none was found".into());
        return Err(TlsConfigError::NoSystemRoots { why });
    }
    Ok(roots)
}

/// The TLS of connections that are dialled. Clones share it, and the tickets for resumption.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
}

impl ClientTls {
    /// Made of PEM files.
    pub fn builder() -> ClientTlsBuilder {
        ClientTlsBuilder::default()
    }

    /// With the authorities that this machine trusts. They are read once in a process.
    ///
    /// # Errors
    ///
    /// A machine without authorities.
    pub fn system() -> Result<Self, TlsConfigError> {
        static SYSTEM: OnceLock<ClientTls> = OnceLock::new();
        if let Some(system) = SYSTEM.get() {
            return Ok(system.clone());
        }
        let loaded = Self::builder().load()?;
        Ok(SYSTEM.get_or_init(|| loaded).clone())
    }

    /// A configuration of rustls as it is, for what [`builder`](Self::builder) does not offer. It
    /// should have `http/1.1` as its ALPN protocol. Early data (RFC 8446 section 2.3) is turned
    /// off.
    pub fn from_rustls(mut config: ClientConfig) -> Self {
        config.enable_early_data = false;
        Self {
            config: Arc::new(config),
        }
    }

    /// What connections are dialled with.
    pub fn to_rustls(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// The TLS of one connection to `host`, a name or an IP address without brackets, which the
    /// server's certificate has to be for.
    ///
    /// # Errors
    ///
    /// When no certificate could be for this host.
    pub fn session(&self, host: &str) -> Result<Session, TlsError> {
        let name = ServerName::try_from(host).map_err(|_| {
            TlsError::CertificateRefused(format!("'{host}' is no name for a certificate"))
        })?;
        Session::client(self.config.clone(), name.to_owned())
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// Trusts every certificate. That its owner has the key is verified all the same: it costs what it
/// costs with a certificate that is trusted, and a broken server shows.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
