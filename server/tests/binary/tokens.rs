//! Who may open a connection at a route that asks for a token, and that no token is in a log.

use std::fs;

use ringwire::Address;

use crate::{
    guard::in_a_folder,
    routes::{Served, asked},
    serve::ENGINES,
};

fn status(address: &Address, target: &str, lines: &[&str]) -> u16 {
    let (head, _) = asked(address, target, lines);
    head[9..12].parse().unwrap()
}

#[test]
fn a_static_token_is_found_where_it_may_be() {
    for engine in ENGINES {
        in_a_folder(|folder| {
            let tokens = folder.join("tokens");
            fs::write(&tokens, "# comment\n  first-token  \n\nsecond-token\n").unwrap();
            let routes = format!(
                "[[route]]\npath = '/'\nauth = 'token'\nauth_tokens_file = '{}'\n\
                 auth_from = ['bearer', 'cookie:session', 'query:token', 'subprotocol:bearer.']\n\
                 [[route]]\npath = '/open'\n",
                tokens.display()
            );
            let served = Served::start(folder, engine, &routes);
            let address = served.address();
            for (expected, target, line) in [
                (101, "/", "Authorization: Bearer first-token"),
                (101, "/", "Authorization: bearer second-token"),
                (401, "/", "Authorization: Basic first-token"),
                (401, "/", "Authorization: Bearer first-toke"),
                (401, "/", "Authorization: Bearer first-tokens"),
                (401, "/", "Authorization: Bearer"),
                (401, "/", "Authorization: Bearer # comment"),
                (101, "/", "Cookie: other=1; session=first-token"),
                (401, "/", "Cookie: session=third-token"),
                (101, "/?token=first-token", "X: y"),
                (401, "/?token=", "X: y"),
                (
                    101,
                    "/",
                    "Sec-WebSocket-Protocol: chat, bearer.second-token",
                ),
                (401, "/", "Sec-WebSocket-Protocol: chat, bearer.third-token"),
                (401, "/", "X: y"),
                (101, "/open", "X: y"),
            ] {
                assert_eq!(
                    status(address, target, &[line]),
                    expected,
                    "{target} {line}"
                );
            }
            // Its token is not what is agreed on.
            let offer = "Sec-WebSocket-Protocol: bearer.first-token, chat";
            let (head, _) = asked(address, "/", &[offer]);
            assert!(head.contains("Sec-WebSocket-Protocol: chat\r\n"), "{head}");
            assert!(!head.contains("first-token"), "{head}");
            // RFC 6750, section 3: the challenge, with a reason for who has shown something.
            let (head, _) = asked(address, "/", &[]);
            assert!(
                head.contains("\r\nWWW-Authenticate: Bearer realm=\"ringwire\"\r\n"),
                "{head}"
            );
            let (head, _) = asked(address, "/", &["Authorization: Bearer no"]);
            assert!(head.contains("error=\"invalid_token\"\r\n"), "{head}");
            // Tokens are read again.
            fs::write(&tokens, "third-token\n").unwrap();
            served.reload(&routes, "the settings are what they were");
            let with =
                |token: &str| status(address, "/", &[&format!("Authorization: Bearer {token}")]);
            assert_eq!((with("first-token"), with("third-token")), (401, 101));
            // What is wrong leaves them as they were.
            fs::write(&tokens, "# none\n").unwrap();
            served.reload(&routes, "the settings stay as they were");
            assert_eq!(with("third-token"), 101);
            let log = served.stop();
            assert!(log.contains("401: it is none of the tokens"), "{log}");
            for secret in ["first-token", "second-token", "third-token", "Bearer"] {
                assert!(!log.contains(secret), "{secret} is in the log: {log}");
            }
        });
    }
}

#[cfg(feature = "jwt")]
pub mod jwt {
    use std::path::Path;

    use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "a-secret-of-thirty-two-bytes-or-more";

    fn signed(algorithm: Algorithm, key: &EncodingKey, kid: Option<&str>, claims: Value) -> String {
        let mut header = Header::new(algorithm);
        header.kid = kid.map(str::to_owned);
        encode(&header, &claims, key).unwrap()
    }

    fn secret() -> EncodingKey {
        EncodingKey::from_secret(SECRET.as_bytes()).unwrap()
    }

    fn claims(more: Value) -> Value {
        let mut claims = json!({"sub": "user-4711", "exp": get_current_timestamp() + 600});
        let more = more.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(more);
        claims
    }

    /// A token for a route whose keys are in this file, with these claims.
    pub fn signed_for(keys: &Path, more: &Value) -> String {
        fs::write(keys, SECRET).unwrap();
        let mut claims = json!({"exp": get_current_timestamp() + 600});
        let more = more.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(more);
        signed(Algorithm::HS256, &secret(), None, claims)
    }

    fn with(address: &Address, token: &str) -> u16 {
        status(address, "/", &[&format!("Authorization: Bearer {token}")])
    }

    fn routes(keys: &Path, more: &str) -> String {
        format!(
            "[[route]]\npath = '/'\nauth = 'jwt'\njwt_keys_file = '{}'\n{more}",
            keys.display()
        )
    }

    #[test]
    fn a_token_has_to_be_in_time_for_us_and_from_whom_it_should_be() {
        for engine in ENGINES {
            in_a_folder(|folder| {
                let keys = folder.join("secret");
                fs::write(&keys, format!("{SECRET}\n")).unwrap();
                let more = "jwt_algorithms = 'HS256'\njwt_audience = ['us', 'them']\n\
                            jwt_issuer = 'here'\njwt_leeway_ms = '5s'\n";
                let served = Served::start(folder, engine, &routes(&keys, more));
                let address = served.address();
                let now = get_current_timestamp();
                let right = json!({"aud": "us", "iss": "here"});
                let token = |more: Value| {
                    let mut all = claims(right.clone());
                    let more = more.as_object().unwrap().clone();
                    all.as_object_mut().unwrap().extend(more);
                    signed(Algorithm::HS256, &secret(), None, all)
                };
                for (expected, more) in [
                    (101, json!({})),
                    (101, json!({"aud": ["others", "them"]})),
                    (101, json!({"nbf": now - 1})),
                    (101, json!({"exp": now - 1})), // within the leeway
                    (401, json!({"exp": now - 60})),
                    (401, json!({"exp": "soon"})),
                    (401, json!({"nbf": now + 60})),
                    (401, json!({"aud": "others"})),
                    (401, json!({"iss": "there"})),
                    (401, json!({"aud": null})),
                ] {
                    assert_eq!(with(address, &token(more.clone())), expected, "{more}");
                }
                let without = |key: &str| {
                    let mut all = claims(right.clone());
                    all.as_object_mut().unwrap().remove(key);
                    with(address, &signed(Algorithm::HS256, &secret(), None, all))
                };
                for key in ["exp", "aud", "iss"] {
                    assert_eq!(without(key), 401, "without {key}");
                }
                // Another key, another algorithm, none at all, and what is no token.
                let other =
                    EncodingKey::from_secret(b"another secret of thirty-two bytes").unwrap();
                let all = claims(right.clone());
                assert_eq!(
                    with(
                        address,
                        &signed(Algorithm::HS256, &other, None, all.clone())
                    ),
                    401
                );
                assert_eq!(
                    with(address, &signed(Algorithm::HS512, &secret(), None, all)),
                    401
                );
                let good = token(json!({}));
                let parts: Vec<_> = good.split('.').collect();
                // {"typ":"JWT","alg":"none"}
                let none = "eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0";
                for forged in [
                    format!("{none}.{}.", parts[1]),
                    format!("{none}.{}.{}", parts[1], parts[2]),
                    format!("{}.{}.", parts[0], parts[1]),
                    format!("{}.{}", parts[0], parts[1]),
                    "..".to_owned(),
                    "x".to_owned(),
                ] {
                    assert_eq!(with(address, &forged), 401, "{forged}");
                }
                let log = served.stop();
                for reason in [
                    "it has expired",
                    "it is not valid yet",
                    "it is for somebody else",
                    "it is from somebody else",
                    "no key here has signed it",
                    "its algorithm is not accepted",
                    "it lacks a claim",
                    "it is no JSON Web Token",
                ] {
                    assert!(log.contains(&format!("401: {reason}")), "{reason}: {log}");
                }
                for secret in parts.iter().chain([&SECRET, &"user-4711"]) {
                    assert!(!log.contains(secret), "{secret} is in the log: {log}");
                }
            });
        }
    }

    #[test]
    fn keys_of_every_kind_are_read_from_pem() {
        in_a_folder(|folder| {
            let (ec, ed, rsa) = (
                KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
                KeyPair::generate_for(&PKCS_ED25519).unwrap(),
                KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(),
            );
            let keys = folder.join("keys.pem");
            let all = [&ec, &ed, &rsa].map(KeyPair::public_key_pem).concat();
            fs::write(&keys, all).unwrap();
            let served = Served::start(folder, "shard", &routes(&keys, ""));
            let address = served.address();
            let [ec, ed, rsa] = [&ec, &ed, &rsa].map(KeyPair::serialize_pem);
            let ec = EncodingKey::from_ec_pem(ec.as_bytes()).unwrap();
            let ed = EncodingKey::from_ed_pem(ed.as_bytes()).unwrap();
            let rsa = EncodingKey::from_rsa_pem(rsa.as_bytes()).unwrap();
            for (algorithm, key) in [
                (Algorithm::ES256, &ec),
                (Algorithm::EdDSA, &ed),
                (Algorithm::RS256, &rsa),
            ] {
                let token = signed(algorithm, key, None, claims(json!({})));
                assert_eq!(with(address, &token), 101, "{algorithm:?}");
            }
            // A public key is known to all: it is no secret that could sign (CVE-2015-9235).
            let public = fs::read(&keys).unwrap();
            let public = EncodingKey::from_secret(&public).unwrap();
            let token = signed(Algorithm::HS256, &public, None, claims(json!({})));
            assert_eq!(with(address, &token), 401);
            served.reload(
                &routes(&keys, "jwt_algorithms = ['ES256']\n"),
                "route is 1 route now",
            );
            let token = signed(Algorithm::RS256, &rsa, None, claims(json!({})));
            assert_eq!(
                with(address, &token),
                401,
                "not one of those that are accepted"
            );
            served.stop();
        });
    }

    #[test]
    fn keys_are_rotated_by_reading_them_again() {
        for engine in ENGINES {
            in_a_folder(|folder| {
                let keys = folder.join("keys.json");
                let pairs = [1, 2].map(|_| KeyPair::generate_for(&PKCS_ED25519).unwrap());
                let set = |names: &[usize]| {
                    let keys = names.iter().map(|&name| {
                        let x = BASE64_URL_SAFE_NO_PAD.encode(pairs[name].public_key_raw());
                        json!({"kty": "OKP", "crv": "Ed25519", "kid": format!("key {name}"),
                            "use": "sig", "x": x})
                    });
                    json!({"keys": keys.collect::<Vec<_>>()}).to_string()
                };
                let token = |name: usize, kid: usize| {
                    let pem = pairs[name].serialize_pem();
                    let key = EncodingKey::from_ed_pem(pem.as_bytes()).unwrap();
                    let kid = format!("key {kid}");
                    signed(Algorithm::EdDSA, &key, Some(&kid), claims(json!({})))
                };
                fs::write(&keys, set(&[0])).unwrap();
                let routes = routes(&keys, "");
                let served = Served::start(folder, engine, &routes);
                let address = served.address();
                let both = || (with(address, &token(0, 0)), with(address, &token(1, 1)));
                assert_eq!(both(), (101, 401));
                // The new one is there before the old one goes.
                fs::write(&keys, set(&[0, 1])).unwrap();
                served.reload(&routes, "the settings are what they were");
                assert_eq!(both(), (101, 101));
                assert_eq!(with(address, &token(0, 1)), 401, "signed by another key");
                fs::write(&keys, set(&[1])).unwrap();
                served.reload(&routes, "the settings are what they were");
                assert_eq!(both(), (401, 101));
                fs::write(&keys, "{\"keys\": [").unwrap();
                served.reload(&routes, "the settings stay as they were");
                assert_eq!(both(), (401, 101));
                served.stop();
            });
        }
    }

    #[test]
    fn a_server_without_its_keys_does_not_start() {
        in_a_folder(|folder| {
            let path = folder.join("it.toml");
            fs::write(&path, routes(&folder.join("nowhere"), "")).unwrap();
            let output = crate::serve::command(&["--config", path.to_str().unwrap()]).output();
            let output = output.unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success());
            assert!(
                stderr.contains("it.toml:4:17: error: cannot read '"),
                "{stderr}"
            );
        });
    }
}
