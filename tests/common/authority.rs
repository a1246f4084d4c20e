//! A certificate authority of the tests' own, and the PEM files that it makes.
//!
//! Knows: rcgen, and a folder that goes away with it. Refuses to know: any code of ringwire.

use std::{fs, path::PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SignatureAlgorithm, date_time_ymd,
};
use tempfile::TempDir;

/// Files of one certificate.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Signs certificates, for as long as it lives.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub file: PathBuf,
}

/// What is said of a certificate besides its names.
pub struct Wanted {
    pub common_name: &'static str,
    pub algorithm: &'static SignatureAlgorithm,
    /// The years of its validity.
    pub years: (i32, i32),
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            common_name: "a leaf of the tests",
            algorithm: &PKCS_ECDSA_P256_SHA256,
            years: (2020, 2120),
        }
    }
}

impl Authority {
    pub fn new() -> Self {
        Self::named("the authority of the tests")
    }

    pub fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let file = folder.path().join("authority.pem");
        fs::write(&file, params.self_signed(&key).unwrap().pem()).unwrap();
        Self {
            folder,
            issuer: Issuer::new(params, key),
            file,
        }
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_as(names, &Wanted::default())
    }

    pub fn issue_as(&self, names: &[&str], wanted: &Wanted) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, wanted.common_name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = date_time_ymd(wanted.years.0, 1, 1);
        params.not_after = date_time_ymd(wanted.years.1, 1, 1);
        let key = KeyPair::generate_for(wanted.algorithm).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let number = fs::read_dir(self.folder.path()).unwrap().count();
        let path = |kind| self.folder.path().join(format!("{number}.{kind}.pem"));
        let pair = Pair {
            certificate: path("certificate"),
            key: path("key"),
        };
        fs::write(&pair.certificate, certificate.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}
