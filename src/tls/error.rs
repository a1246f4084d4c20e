//! What can be wrong with a peer, and what with the files of an operator, in sentences.

use std::{fmt, io, path::PathBuf};

use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

/// Why the TLS of one connection failed. It hurts no other one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer sent this alert (RFC 8446 section 6), most often because it does not trust our
    /// certificate.
    AlertReceived(String),
    /// The peer's certificate was not accepted; the text says why.
    CertificateRefused(String),
    /// More handshake bytes came than a connection may hold.
    HandshakeTooLong,
    /// As many records were sent as the keys are good for (RFC 8446 section 5.5). Only TLS 1.2,
    /// which cannot renew them, comes to this: after 2^24 records and more.
    KeysExhausted,
    /// The peer sent no certificate although this side requires one.
    NoCertificate,
    /// A record that does not decrypt: corrupted, repeated or cut out on its way, or written with
    /// other keys (`bad_record_mac`).
    RecordNotAuthentic,
    /// The peer spoke plain HTTP.
    PeerIsPlain,
    /// There is no version of TLS, or no cipher suite, that both sides have.
    PeerTooOld(String),
    /// Anything else that the peer did and RFC 8446 or RFC 5246 does not allow; the text says what.
    Violation(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlertReceived(alert) => write!(f, "the peer ended TLS with the alert {alert}"),
            Self::CertificateRefused(why) => write!(f, "the peer's certificate is refused: {why}"),
            Self::HandshakeTooLong => f.write_str(
                "the peer's TLS handshake is longer than 64 KiB; check the length of its \
                 certificate chain",
            ),
            Self::KeysExhausted => f.write_str(
                "the connection's keys are used up, and TLS 1.2 cannot renew them; connect again",
            ),
            Self::NoCertificate => {
                f.write_str("the peer sent no certificate, and this side requires one")
            }
            Self::RecordNotAuthentic => {
                f.write_str("a TLS record was corrupted, repeated or lost on its way")
            }
            Self::PeerIsPlain => f.write_str(
                "the peer speaks plain HTTP on a connection for TLS; use wss:// with a TLS port \
                 and ws:// with a plain one",
            ),
            Self::PeerTooOld(what) => write!(f, "the peer and this side share no TLS: {what}"),
            Self::Violation(what) => write!(f, "the peer broke the TLS protocol: {what}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl TlsError {
    pub(crate) fn is_plain_http(&self) -> bool {
        matches!(self, Self::PeerIsPlain)
    }
}

/// An alert as RFC 8446 section 6 writes it.
fn alert_name(alert: AlertDescription) -> String {
    let mut name = String::new();
    for letter in format!("{alert:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_lowercase());
    }
    // The one abbreviation among them that is written in capitals.
    name.replace("unknown_c_a", "unknown_ca")
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::AlertReceived(alert) => Self::AlertReceived(alert_name(alert)),
            E::InvalidCertificate(error) => Self::CertificateRefused(certificate_words(&error)),
            E::NoCertificatesPresented => Self::NoCertificate,
            E::DecryptError => Self::RecordNotAuthentic,
            E::PeerIncompatible(what) => Self::PeerTooOld(incompatible_words(&what)),
            E::NoApplicationProtocol => {
                Self::PeerTooOld("the peer offers other protocols than http/1.1 by ALPN".into())
            }
            E::InvalidMessage(InvalidMessage::InvalidContentType) => {
                Self::Violation("its bytes are no TLS record; is this port for TLS?".into())
            }
            other => Self::Violation(other.to_string()),
        }
    }
}

fn certificate_words(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired; have it renewed".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet; check the clocks of both sides".into()
        }
        CertificateError::UnknownIssuer => {
            "no authority that is trusted here has signed it; name its authority, or have its \
             chain sent whole"
                .into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is for another name ({error})")
        }
        // What `openssl req -x509` makes unless it is told otherwise. The verifier's own error has
        // no type here.
        CertificateError::Other(error) if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            "it is an authority's own (CA:TRUE), which no server may show for itself; make another \
             with CA:FALSE (openssl req -x509 -addext basicConstraints=critical,CA:FALSE), or have \
             the authority sign one for the server"
                .into()
        }
        other => other.to_string(),
    }
}

fn incompatible_words(what: &PeerIncompatible) -> String {
    match what {
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::Tls13RequiredForQuic
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            format!("the peer offers no version of TLS that is allowed here ({what:?})")
        }
        other => format!("{other:?}"),
    }
}

/// Files or settings that no TLS can be made of.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// No certificate was named.
    NoCertificate,
    /// A file that cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// A file that is not what it should be.
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for in it.
        wanted: &'static str,
        /// Why it was not found.
        why: String,
    },
    /// A certificate that is not for its key.
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate or key that cannot be used.
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The machine has no trusted authorities.
    NoSystemRoots {
        /// What was tried.
        why: String,
    },
    /// What rustls does not accept of the settings.
    Refused(String),
}

impl fmt::Display for TlsConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => {
                f.write_str("TLS needs a certificate and its key; name at least one pair")
            }
            Self::Unreadable { path, error } => {
                write!(f, "cannot read '{}': {error}", path.display())
            }
            Self::NotPem { path, wanted, why } => {
                write!(f, "there is no {wanted} in '{}': {why}", path.display())
            }
            Self::KeyMismatch { certificate, key } => write!(
                f,
                "the certificate in '{}' is not for the key in '{}'",
                certificate.display(),
                key.display()
            ),
            Self::Unusable { path, why } => {
                write!(f, "'{}' cannot be used for TLS: {why}", path.display())
            }
            Self::NoSystemRoots { why } => write!(
                f,
                "this machine has no trusted certificate authorities ({why}); install \
                 ca-certificates or name a file of authorities"
            ),
            Self::Refused(why) => write!(f, "TLS cannot be set up like this: {why}"),
        }
    }
}

impl std::error::Error for TlsConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_the_names_of_the_rfc() {
        for (alert, name) in [
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::BadRecordMac, "bad_record_mac"),
            (AlertDescription::CertificateExpired, "certificate_expired"),
            (AlertDescription::CloseNotify, "close_notify"),
        ] {
            let error = TlsError::from(rustls::Error::AlertReceived(alert));
            assert_eq!(error, TlsError::AlertReceived(name.into()));
        }
    }
}
