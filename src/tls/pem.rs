//! Certificates and keys in PEM files (RFC 7468), and what certificates say (RFC 5280).

use std::{fs, path::Path, time::Duration};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::TlsConfigError;

/// Editors of some systems begin a file of text with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What openssl called certificates before RFC 7468 (section 5.1 allows to read it), and what it is
/// called since.
const OLD_LABEL: &str = "X509 CERTIFICATE-----";
const LABEL: &str = "CERTIFICATE-----";

fn read(path: &Path) -> Result<String, TlsConfigError> {
    let bytes = fs::read(path).map_err(|error| TlsConfigError::Unreadable {
        path: path.into(),
        error,
    })?;
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    // What is between sections may be in any encoding.
    Ok(String::from_utf8_lossy(text).replace(OLD_LABEL, LABEL))
}

/// In words of our own: those of the parser quote the line that it does not like, and in the file
/// of a key whose line ends were lost that line is the key.
fn not_pem(path: &Path, wanted: &'static str, error: &pem::Error) -> TlsConfigError {
    let why = match error {
        pem::Error::NoItemsFound => format!("it holds no \"-----BEGIN {}\"", wanted.to_uppercase()),
        pem::Error::MissingSectionEnd { .. } | pem::Error::IllegalSectionStart { .. } => {
            "a section has no line of its own for its begin or its end; was it cut off, or has it \
             lost its line ends?"
                .to_owned()
        }
        pem::Error::Base64Decode(_) => "what is in a section is not base64".to_owned(),
        _ => "it is not PEM (RFC 7468)".to_owned(),
    };
    TlsConfigError::NotPem {
        path: path.into(),
        wanted,
        why,
    }
}

/// The certificates in a file, at least one, in its order.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(not_pem(path, "certificate", &pem::Error::NoItemsFound)),
        Err(error) => Err(not_pem(path, "certificate", &error)),
    }
}

/// The first private key in a file.
pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    let text = read(path)?;
    let found = PrivateKeyDer::from_pem_slice(text.as_bytes());
    found.map_err(|error| {
        // RFC 5958 section 3, and what openssl did before.
        let is_encrypted = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];
        if is_encrypted.iter().any(|mark| text.contains(mark)) {
            return TlsConfigError::NotPem {
                path: path.into(),
                wanted: "private key",
                why: "it is encrypted, and nobody is there to be asked for its password; 'openssl \
                      pkey -in KEY -out PLAIN' decrypts it"
                    .to_owned(),
            };
        }
        not_pem(path, "private key", &error)
    })
}

/// What is of interest in a certificate.
#[derive(Debug)]
pub(super) struct Facts {
    /// The distinguished name of its subject, as RFC 4514 writes it.
    pub(super) subject: String,
    /// The DNS names that it is for, in lower case.
    pub(super) dns_names: Vec<String>,
    /// From when on it is valid, since 1970.
    pub(super) not_before: Duration,
    /// Until when, since 1970.
    pub(super) not_after: Duration,
}

impl Facts {
    /// Of a certificate that can be parsed.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(certificate).ok()?;
        let body = certificate.tbs_certificate();
        let names = body.get_extension::<SubjectAltName>().ok().flatten();
        let names = names.map_or_else(Vec::new, |(_, SubjectAltName(names))| names);
        let dns_names = names.into_iter().filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
            _ => None,
        });
        let validity = body.validity();
        Some(Self {
            subject: body.subject().to_string(),
            dns_names: dns_names.collect(),
            not_before: validity.not_before.to_unix_duration(),
            not_after: validity.not_after.to_unix_duration(),
        })
    }

    /// Whether it is for this name, in lower case: exactly, or by a `*` for the first label
    /// (RFC 6125 section 6.4.3).
    pub(super) fn is_for(&self, host: &str) -> bool {
        let parent = host.split_once('.').map(|(_, parent)| parent);
        self.dns_names.iter().any(|name| {
            name == host
                || name
                    .strip_prefix("*.")
                    .is_some_and(|suffix| parent == Some(suffix))
        })
    }
}
