//! The options of `ringwire serve` for TLS, and the thread that reads its files again.
//!
//! Knows: which options belong together. Refuses to know: what is in the files.

use std::path::PathBuf;

use ringwire::tls::{ClientAuth, MinVersion, ServerTls};

use crate::settings::{Finding, Settings};

/// Reads the certificates that settings, which were checked, name.
///
/// # Errors
///
/// What is wrong about the files.
pub fn load(all: &Settings) -> Result<ServerTls, Finding> {
    let settings = &all.tls;
    let client_ca = || PathBuf::from(&settings.client_ca);
    let client_auth = match settings.client_auth.as_str() {
        "optional" => ClientAuth::Optional(client_ca()),
        "required" => ClientAuth::Required(client_ca()),
        _ => ClientAuth::Off,
    };
    let min_version = match settings.min_version.as_str() {
        "1.3" => MinVersion::Tls13,
        _ => MinVersion::Tls12,
    };
    let mut builder = ServerTls::builder()
        .client_auth(client_auth)
        .min_version(min_version);
    for (certificate, key) in settings.cert.iter().zip(&settings.key) {
        builder = builder.certificate(certificate, key);
    }
    builder.load().map_err(|error| {
        let cert = all.name("tls_cert");
        let sentence = format!(
            "{cert} and what belongs to it cannot be used: {error}; name other files, or make \
             these readable and right"
        );
        Finding::error(all.place("tls_cert"), sentence)
    })
}
