//! `--tls-listen` and its companions, and what a person is told about certificates.

use std::io::Read;

use ringwire::tls::ClientTls;
use rustix::process::Signal;

use crate::{
    authority::{Authority, Pair, Wanted},
    common::{Peer, TEXT, masked, request},
    guard::guarded,
    peer::until,
    serve::{Ringwire, command, output},
    tls_peer::TlsPeer,
};

/// The options of `ringwire serve` for a certificate.
fn options<'a>(pair: &'a Pair, more: &[&'a str]) -> Vec<&'a str> {
    let mut options = vec!["--tls-listen", "127.0.0.1:0"];
    options.extend(["--tls-cert", pair.certificate.to_str().unwrap()]);
    options.extend(["--tls-key", pair.key.to_str().unwrap()]);
    options.extend(more);
    options
}

#[test]
fn the_command_serves_tls_beside_plain_or_alone() {
    guarded(|| {
        let authority = Authority::new();
        let pair = authority.issue(&["localhost"]);
        let client = ClientTls::builder().authorities(&authority.file);
        let client = client.load().unwrap();
        for (more, plain) in [(&[][..], 0), (&["--listen", "127.0.0.1:0"], 1)] {
            let ringwire = Ringwire::start(&mut command(&options(&pair, more)));
            assert_eq!(ringwire.addresses.len(), plain);
            assert_eq!(ringwire.tls_addresses.len(), 1);
            let mut peer = TlsPeer::connect(&ringwire.tls_addresses[0], &client);
            peer.open(usize::MAX);
            drop(peer);
            for address in &ringwire.addresses {
                Peer::open(address, "/").close();
            }
            ringwire.signal(Signal::TERM);
            let (status, log) = ringwire.wait();
            assert!(status.success(), "{log}");
        }
    });
}

#[test]
fn the_command_reloads_on_sighup_and_keeps_what_it_has_when_that_fails() {
    guarded(|| {
        let authority = Authority::new();
        let (pair, new) = (
            authority.issue(&["localhost"]),
            authority.issue(&["localhost"]),
        );
        let client = ClientTls::builder().authorities(&authority.file);
        let client = client.without_resumption().load().unwrap();
        let ringwire = Ringwire::start(&mut command(&options(&pair, &[])));
        let certificate = || {
            let mut peer = TlsPeer::connect(&ringwire.tls_addresses[0], &client);
            peer.open(usize::MAX);
            peer.tls.peer_certificates().unwrap()[0].to_vec()
        };
        let mut lasting = TlsPeer::connect(&ringwire.tls_addresses[0], &client);
        lasting.open(usize::MAX);
        let old = certificate();
        std::fs::copy(&new.certificate, &pair.certificate).unwrap();
        ringwire.signal(Signal::HUP);
        until("it refuses", || {
            ringwire.log().contains("stay as they were")
        });
        let log = ringwire.log();
        assert!(log.contains("is not for the key in"), "{log}");
        assert_eq!(certificate(), old);
        std::fs::copy(&new.key, &pair.key).unwrap();
        ringwire.signal(Signal::HUP);
        until("it reloads", || ringwire.log().contains("were read again"));
        assert_ne!(certificate(), old);
        lasting.write(&masked(TEXT, b"still here"));
        lasting.flush(usize::MAX);
        lasting.read_until(b"still here");
        drop(lasting);
        ringwire.signal(Signal::TERM);
        assert!(ringwire.wait().0.success());
    });
}

#[test]
fn the_command_says_in_its_log_who_came_to_the_wrong_door_and_what_has_expired() {
    guarded(|| {
        let authority = Authority::new();
        let wanted = Wanted {
            years: (2010, 2011),
            ..Wanted::default()
        };
        let pair = authority.issue_as(&["localhost"], &wanted);
        let client = ClientTls::builder().insecure().load().unwrap();
        let ringwire = Ringwire::start(&mut command(&options(&pair, &["--listen", "127.0.0.1:0"])));
        until("it warns", || ringwire.log().contains("expired"));
        let mut peer = Peer::connect(&ringwire.tls_addresses[0]);
        peer.write(request("/").as_bytes());
        peer.read_reply(false);
        until("it says so", || {
            ringwire
                .log()
                .contains("These bytes are plain HTTP, but this is a TLS port")
        });
        // One sentence a second is enough.
        until("it would speak again", || {
            let mut tls = TlsPeer::connect(&ringwire.addresses[0], &client);
            tls.flush(usize::MAX);
            let _ = tls.stream.read_to_end(&mut Vec::new());
            ringwire
                .log()
                .contains("These bytes are TLS, but this is a plain ws:// port")
        });
        let mut peer = TlsPeer::connect(&ringwire.tls_addresses[0], &client);
        peer.open(usize::MAX);
        drop(peer);
        ringwire.signal(Signal::TERM);
        assert!(ringwire.wait().0.success());
    });
}

#[test]
fn what_the_command_cannot_do_with_certificates_it_says_in_one_sentence() {
    guarded(|| {
        let authority = Authority::new();
        let (one, other) = (
            authority.issue(&["localhost"]),
            authority.issue(&["localhost"]),
        );
        let mixed = Pair {
            certificate: one.certificate.clone(),
            key: other.key.clone(),
        };
        let missing = Pair {
            certificate: "/nowhere/at/all.pem".into(),
            key: one.key.clone(),
        };
        let other_certificate = other.certificate.to_str().unwrap();
        for (pair, more, code, expected) in [
            (&mixed, &[][..], 2, "is not for the key in"),
            (
                &missing,
                &[],
                2,
                "cannot read '/nowhere/at/all.pem': No such file",
            ),
            (
                &one,
                &["--tls-cert", other_certificate],
                2,
                "there are 2 --tls-cert and 1 --tls-key",
            ),
            (
                &one,
                &["--tls-client-auth", "required"],
                2,
                "--tls-client-auth is required, so --tls-client-ca has to name",
            ),
        ] {
            let (output, stdout, stderr) = output(&options(pair, more));
            assert_eq!(output.status.code(), Some(code), "{stderr}");
            assert_eq!(stdout, "");
            assert!(stderr.contains(expected), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
        let (output, _, stderr) = output(&["--tls-listen", "127.0.0.1:0"]);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
    });
}
