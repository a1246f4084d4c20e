//! Over `wss://`: the same, and what TLS adds to it.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ringwire::tls::ServerTls;
use tempfile::TempDir;

use crate::{
    authority::Authority, run, scenarios::passes_the_check, servers::Running, try_run, words,
};

fn server(authority: &Authority) -> Running {
    let pair = authority.issue(&["127.0.0.1"]);
    let tls = ServerTls::builder().certificate(pair.certificate, pair.key);
    Running::echo_over(&tls.load().unwrap())
}

#[test]
fn an_echo_over_tls_is_compared_byte_by_byte() {
    let authority = Authority::new();
    let server = server(&authority);
    let line = format!("echo {} -d 300ms --warmup 0s -c 4", server.url);
    let words = words(&line);
    let load = ["--in-flight", "3", "--size", "1,1k,40k", "--verify", "all"];
    let ca = ["--ca", authority.file.to_str().unwrap()];
    let run = run(&[&words[..], &load, &ca].concat());
    let messages = run.messages;
    assert!(messages.received > 20, "{messages:?}");
    assert_eq!(messages.received, messages.sent);
    assert_eq!(messages.compared, messages.received);
    assert_eq!((messages.lost, messages.corrupted), (0, 0));
    assert_eq!(server.handle().stats().counts.tls_failures, 0);
}

#[test]
fn handshakes_are_resumed_unless_that_is_not_wanted() {
    let authority = Authority::new();
    let server = server(&authority);
    let line = format!("connect {} -d 300ms --warmup 0s --insecure", server.url);
    let words = words(&line);
    let few = ["--in-flight", "4", "--shards", "1"];
    let resuming = run(&[&words[..], &few].concat()).connections;
    assert!(resuming.opened > 20, "{resuming:?}");
    assert!(resuming.resumed >= resuming.opened - 4, "{resuming:?}");
    let counts = server.handle().stats().counts;
    // One more asked for the server's name.
    assert_eq!(counts.tls_resumptions, resuming.resumed + 1);
    let full = run(&[&words[..], &few, &["--no-resumption"]].concat()).connections;
    assert_eq!((full.resumed, full.failed), (0, 0));
}

#[test]
fn a_server_of_another_authority_is_not_trusted() {
    let server = server(&Authority::new());
    let stranger = Authority::named("another");
    let words = ["echo", &server.url, "--ca", stranger.file.to_str().unwrap()];
    let sentence = try_run(&words).unwrap_err();
    assert!(
        sentence.contains("no authority that is trusted here has signed it"),
        "{sentence}"
    );
}

#[test]
fn our_own_server_passes_the_check_over_tls() {
    let authority = Authority::new();
    let server = server(&authority);
    passes_the_check(&server.url, &["--insecure"]);
}

/// What `openssl req -x509` makes, an authority's certificate unless it is told otherwise, and a
/// server that shows it.
fn self_signed(is_authority: bool) -> (Running, PathBuf, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = match is_authority {
        true => IsCa::Ca(BasicConstraints::Unconstrained),
        false => IsCa::ExplicitNoCa,
    };
    let key = KeyPair::generate().unwrap();
    let (certificate, key_file) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    fs::write(&certificate, params.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    let tls = ServerTls::builder().certificate(&certificate, &key_file);
    let server = Running::echo_over(&tls.load().unwrap());
    (server, certificate, folder)
}

#[test]
fn a_certificate_that_signs_itself_is_told_what_it_lacks() {
    let (server, certificate, _folder) = self_signed(true);
    let words = ["echo", &server.url, "--ca", certificate.to_str().unwrap()];
    let sentence = try_run(&words).unwrap_err();
    assert!(
        sentence.contains("basicConstraints=critical,CA:FALSE"),
        "{sentence}"
    );
    assert!(!sentence.contains("OtherError"), "{sentence}");
    // What it says helps.
    let (server, certificate, _folder) = self_signed(false);
    let ca = ["--ca", certificate.to_str().unwrap()];
    let line = format!("echo {} -c 1 -d 100ms --warmup 0s", server.url);
    let words = crate::words(&line);
    assert!(run(&[&words[..], &ca].concat()).messages.received > 0);
}
