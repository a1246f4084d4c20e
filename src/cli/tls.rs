//! The options of `ringwire serve` for TLS, and the thread that reads its files again.
//!
//! Knows: which options belong together. Refuses to know: what is in the files.

use std::{
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::mpsc::{SyncSender, TrySendError, sync_channel},
    thread,
};

use ringwire::tls::{ClientAuth, MinVersion, ServerTls};

/// Where TLS listens, and with what.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Listen here for wss://: an address as for --listen. Repeat it for several
    #[arg(long = "tls-listen", value_name = "ADDRESS", requires = "certificates")]
    addresses: Vec<String>,
    /// A certificate and its chain, a PEM file. Repeat it for several: a client gets the one for
    /// the name it asks for, or the first. SIGHUP reads all files again
    #[arg(
        id = "certificates",
        long = "tls-cert",
        value_name = "FILE",
        requires = "addresses"
    )]
    certificates: Vec<PathBuf>,
    /// The key of each --tls-cert, in the same order: a PEM file
    #[arg(long = "tls-key", value_name = "FILE", requires = "addresses")]
    keys: Vec<PathBuf>,
    /// Whether clients have to show a certificate that an authority of --tls-client-ca has signed
    #[arg(
        long = "tls-client-auth",
        value_enum,
        value_name = "WHEN",
        default_value = "off",
        requires_ifs = [("optional", "client_ca"), ("required", "client_ca")]
    )]
    client_auth: ClientAuthArg,
    /// The authorities of client certificates, a PEM file
    #[arg(long = "tls-client-ca", value_name = "FILE", requires = "addresses")]
    client_ca: Option<PathBuf>,
    /// The oldest version of TLS that is spoken
    #[arg(
        long = "tls-min-version",
        value_enum,
        value_name = "VERSION",
        default_value = "1.2"
    )]
    min_version: MinVersionArg,
}

/// `--tls-client-auth`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ClientAuthArg {
    /// They are not asked.
    Off,
    /// They may.
    Optional,
    /// They have to.
    Required,
}

/// `--tls-min-version`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum MinVersionArg {
    /// TLS 1.2.
    #[value(name = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[value(name = "1.3")]
    Tls13,
}

impl TlsArgs {
    pub fn has_addresses(&self) -> bool {
        !self.addresses.is_empty()
    }

    /// The addresses that listen with TLS, and with what.
    ///
    /// # Errors
    ///
    /// A sentence about the files.
    pub fn listeners(&self) -> Result<Option<(&[String], ServerTls)>, String> {
        if self.addresses.is_empty() {
            return Ok(None);
        }
        Ok(Some((&self.addresses, self.load()?)))
    }

    fn load(&self) -> Result<ServerTls, String> {
        let client_ca = || self.client_ca.clone().unwrap_or_default();
        let client_auth = match self.client_auth {
            ClientAuthArg::Off => ClientAuth::Off,
            ClientAuthArg::Optional => ClientAuth::Optional(client_ca()),
            ClientAuthArg::Required => ClientAuth::Required(client_ca()),
        };
        let min_version = match self.min_version {
            MinVersionArg::Tls12 => MinVersion::Tls12,
            MinVersionArg::Tls13 => MinVersion::Tls13,
        };
        let (certificates, keys) = (self.certificates.len(), self.keys.len());
        if certificates != keys {
            return Err(format!(
                "there are {certificates} --tls-cert and {keys} --tls-key; name one key for each \
                 certificate, in the same order"
            ));
        }
        let mut builder = ServerTls::builder()
            .client_auth(client_auth)
            .min_version(min_version);
        for (certificate, key) in self.certificates.iter().zip(&self.keys) {
            builder = builder.certificate(certificate, key);
        }
        builder.load().map_err(|error| error.to_string())
    }
}

/// Reads the files again when it is asked to, on a thread of its own: a disk may be slow.
pub struct Reloader {
    asked: SyncSender<()>,
}

impl Reloader {
    /// Waits to be asked.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had.
    pub fn start(tls: ServerTls) -> io::Result<Self> {
        let (asked, asking) = sync_channel(1);
        let body = move || {
            for () in asking {
                // What is in the files is not ours: the worst of it leaves things as they are.
                match catch_unwind(AssertUnwindSafe(|| tls.reload())) {
                    Ok(Ok(())) => tracing::info!("SIGHUP: the certificates were read again"),
                    Ok(Err(error)) => {
                        tracing::error!("SIGHUP: the certificates stay as they were: {error}");
                    }
                    Err(panic) => {
                        tracing::error!("SIGHUP: the certificates stay as they were");
                        mem::forget(panic);
                    }
                }
            }
        };
        thread::Builder::new()
            .name("reload".to_owned())
            .spawn(body)?;
        Ok(Self { asked })
    }

    /// Asks for it.
    pub fn reload(&self) {
        match self.asked.try_send(()) {
            Ok(()) => {}
            Err(TrySendError::Full(())) => {
                tracing::info!("SIGHUP: the certificates are still to be read for an earlier one");
            }
            Err(TrySendError::Disconnected(())) => {
                tracing::error!("SIGHUP: nobody reads the certificates any more");
            }
        }
    }
}
