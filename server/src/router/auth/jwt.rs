//! JSON Web Tokens (RFC 7519), and the keys that they are signed with.
//!
//! Knows: files of keys, and what a token has to say. Refuses to know: where a client has its
//! token.

use std::{fs, path::Path, str};

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, Validation, decode, decode_header,
    errors::{Error, ErrorKind},
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use serde::Deserialize;

use super::{Denied, Identity};

/// A shorter secret can be guessed (RFC 7518 section 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// What a JSON Web Token has to be.
pub struct Jwts {
    keys: Vec<SigningKey>,
}

struct SigningKey {
    /// Its name, by which tokens choose it.
    id: Option<String>,
    key: DecodingKey,
    validation: Validation,
}

/// What tokens have to say.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Algorithms that are accepted; empty: those of the keys.
    pub algorithms: Vec<Algorithm>,
    /// Whom they are for.
    pub audience: Vec<String>,
    /// From whom they are.
    pub issuer: Vec<String>,
    /// How far clocks may be apart.
    pub leeway_s: u64,
}

/// The algorithm of this name, of those that are known here.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "HS256" => Algorithm::HS256,
        "RS256" => Algorithm::RS256,
        "ES256" => Algorithm::ES256,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

const fn of_family(family: AlgorithmFamily) -> Algorithm {
    match family {
        AlgorithmFamily::Hmac => Algorithm::HS256,
        AlgorithmFamily::Rsa => Algorithm::RS256,
        AlgorithmFamily::Ec => Algorithm::ES256,
        AlgorithmFamily::Ed => Algorithm::EdDSA,
    }
}

/// What is read of a token beside the claims that are checked.
#[derive(Deserialize)]
struct Subject {
    /// Of any kind: a token is not to be refused for a claim that nobody asked for.
    #[serde(default)]
    sub: serde_json::Value,
    /// Patterns of topics.
    #[serde(default)]
    publish: serde_json::Value,
    /// Likewise.
    #[serde(default)]
    subscribe: serde_json::Value,
}

impl Subject {
    fn identity(self) -> Identity {
        Identity {
            user: self.sub.as_str().map(str::to_owned),
            publish: patterns(self.publish),
            subscribe: patterns(self.subscribe),
        }
    }
}

/// The texts of a list, or the only one.
fn patterns(value: serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::String(text) => vec![text],
        serde_json::Value::Array(all) => {
            let texts = all.iter().filter_map(serde_json::Value::as_str);
            texts.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

impl Jwts {
    /// Reads the keys of a file.
    ///
    /// # Errors
    ///
    /// What is wrong with it, as a sentence.
    pub fn read(path: &Path, claims: &Claims) -> Result<Self, String> {
        let said = path.display();
        let bytes = fs::read(path).map_err(|error| format!("cannot read '{said}': {error}"))?;
        let found = keys_of(&bytes, claims).map_err(|what| format!("'{said}' {what}"))?;
        let mut keys = Vec::new();
        for (id, key) in found {
            let secret_bytes = match key.family() {
                AlgorithmFamily::Hmac => key.try_get_as_bytes().map_or(0, <[u8]>::len),
                _ => SECRET_BYTES_MIN,
            };
            if secret_bytes < SECRET_BYTES_MIN {
                return Err(format!(
                    "'{said}' has a secret of {secret_bytes} bytes, but one for HS256 has to have \
                     {SECRET_BYTES_MIN} at least (RFC 7518 section 3.2)"
                ));
            }
            let algorithm = of_family(key.family());
            let is_wanted = claims.algorithms.is_empty() || claims.algorithms.contains(&algorithm);
            if is_wanted {
                let validation = validation(algorithm, claims);
                keys.push(SigningKey {
                    id,
                    key,
                    validation,
                });
            }
        }
        match keys.is_empty() {
            true => Err(format!(
                "'{said}' has no key for an algorithm of jwt_algorithms"
            )),
            false => Ok(Self { keys }),
        }
    }

    /// Whether this token is one that is accepted.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check(&self, token: &str) -> Result<Identity, Denied> {
        let header = decode_header(token).map_err(|error| wrong(&error))?;
        // A token that names its key is for that one; one key needs no name.
        let named = |key: &&SigningKey| match (&key.id, &header.kid) {
            (Some(id), Some(kid)) => id == kid,
            _ => true,
        };
        let mut denied = Denied::Wrong("there is no key of the name that it has");
        for key in self.keys.iter().filter(named) {
            match decode::<Subject>(token, &key.key, &key.validation) {
                Ok(token) => return Ok(token.claims.identity()),
                Err(error) => denied = wrong(&error),
            }
        }
        Err(denied)
    }
}

fn validation(algorithm: Algorithm, claims: &Claims) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = claims.leeway_s;
    validation.validate_nbf = true;
    let mut required = vec!["exp"];
    if !claims.audience.is_empty() {
        validation.set_audience(&claims.audience);
        required.push("aud");
    }
    if !claims.issuer.is_empty() {
        validation.set_issuer(&claims.issuer);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    validation
}

/// Why a token is not accepted, without anything that is in it.
fn wrong(error: &Error) -> Denied {
    Denied::Wrong(match error.kind() {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidAudience => "it is for somebody else",
        ErrorKind::InvalidIssuer => "it is from somebody else",
        ErrorKind::InvalidSignature => "no key here has signed it",
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => {
            "its algorithm is not accepted"
        }
        ErrorKind::MissingRequiredClaim(_) => "it lacks a claim: exp, or aud or iss if asked for",
        _ => "it is no JSON Web Token",
    })
}

type NamedKey = (Option<String>, DecodingKey);

/// The keys of a file, in whatever form they are.
fn keys_of(bytes: &[u8], claims: &Claims) -> Result<Vec<NamedKey>, String> {
    let text = str::from_utf8(bytes).map_or("", |text| text.trim_start_matches('\u{feff}').trim());
    if text.starts_with('{') {
        return of_jwk_set(text);
    }
    if text.contains("-----BEGIN") {
        return of_pem(text);
    }
    // Anything could be one: a page of errors in place of a JWK set, a public key in DER.
    if !claims.algorithms.contains(&Algorithm::HS256) {
        return Err(
            "is neither a JWK set nor PEM; if it is a secret, say jwt_algorithms = 'HS256'"
                .to_owned(),
        );
    }
    let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    let key = DecodingKey::from_secret(secret).map_err(|_| "is empty".to_owned())?;
    Ok(vec![(None, key)])
}

fn of_jwk_set(text: &str) -> Result<Vec<NamedKey>, String> {
    let no_set = |error: serde_json::Error| {
        format!(
            "is no JWK set: line {}, column {}",
            error.line(),
            error.column()
        )
    };
    let set: JwkSet = serde_json::from_str(text).map_err(no_set)?;
    let signs = |jwk: &&Jwk| jwk.common.public_key_use != Some(PublicKeyUse::Encryption);
    let keys = set.keys.iter().filter(signs).filter_map(|jwk| {
        let key = DecodingKey::from_jwk(jwk).ok()?;
        is_usable(&key).then(|| (jwk.common.key_id.clone(), key))
    });
    match keys.collect::<Vec<_>>() {
        keys if keys.is_empty() => Err("has no key that tokens could be signed with".to_owned()),
        keys => Ok(keys),
    }
}

/// Of elliptic curves, only P-256 is for ES256 (RFC 7518 section 3.4): an uncompressed point of it
/// has 65 bytes.
fn is_usable(key: &DecodingKey) -> bool {
    let is_p256 = || key.try_get_as_bytes().is_ok_and(|point| point.len() == 65);
    key.family() != AlgorithmFamily::Ec || is_p256()
}

fn of_pem(text: &str) -> Result<Vec<NamedKey>, String> {
    if text.contains("PRIVATE KEY-----") {
        return Err(
            "has a private key, which is for whoever signs; name the public one".to_owned(),
        );
    }
    let mut keys = Vec::new();
    for block in text
        .split_inclusive("-----END")
        .filter(|it| it.contains("-----BEGIN"))
    {
        let start = block.find("-----BEGIN").unwrap_or(0);
        let label = block[start..].split("-----").nth(1).unwrap_or_default();
        let label = label.trim_start_matches("BEGIN ");
        let pem = format!("{} {label}-----\n", &block[start..]);
        let key = DecodingKey::from_rsa_pem(pem.as_bytes())
            .or_else(|_| DecodingKey::from_ec_pem(pem.as_bytes()))
            .or_else(|_| DecodingKey::from_ed_pem(pem.as_bytes()));
        match key {
            Ok(key) if is_usable(&key) => keys.push((None, key)),
            _ => {
                return Err(format!(
                    "has a {label} that is no public key of RSA, P-256 or Ed25519"
                ));
            }
        }
    }
    Ok(keys)
}
