//! Certificates from files: which one a client gets, who may connect, and what is wrong with them.

use std::{fs, path::PathBuf};

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use ringwire::tls::{ClientAuth, ClientTls, ServerTls, ServerTlsBuilder, TlsError};

use crate::{
    authority::{Authority, Wanted},
    pair::{End, HOST, Pair, both},
};

/// A file of this content, beside those of the authority.
fn write(authority: &Authority, name: &str, content: &str) -> PathBuf {
    let path = authority.file.with_file_name(name);
    fs::write(&path, content).unwrap();
    path
}

/// What a client of `host` and the server come to.
fn meet(client: &ClientTls, server: &ServerTls, host: &str) -> Result<(End, End), TlsError> {
    let mut pair = Pair {
        client: End::new(client.session(host)?),
        server: End::new(server.session()?),
    };
    pair.client.session.start(&mut pair.client.out)?;
    pair.exchange(usize::MAX)?;
    Ok((pair.client, pair.server))
}

fn subject_for(client: &ClientTls, server: &ServerTls, host: &str) -> String {
    let (client, _) = meet(client, server, host).unwrap();
    client.session.peer_subject().unwrap()
}

#[test]
fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let authority = Authority::new();
    let mut server = ServerTls::builder();
    for (names, common_name) in [
        (&["a.example.com", "10.0.0.1"][..], "first"),
        (&["b.example.com", "B2.example.com"], "second"),
        (&["*.wild.example.com"], "wild"),
        (
            &["only.wild.example.com"],
            "never, as one before it is for this name too",
        ),
    ] {
        let wanted = Wanted {
            common_name,
            ..Wanted::default()
        };
        let files = authority.issue_as(names, &wanted);
        server = server.certificate(files.certificate, files.key);
    }
    let server = server.load().unwrap();
    let client = ClientTls::builder().insecure().load().unwrap();
    for (host, common_name) in [
        ("a.example.com", "first"),
        ("b.example.com", "second"),
        ("b2.EXAMPLE.com", "second"),
        ("x.wild.example.com", "wild"),
        ("only.wild.example.com", "wild"),
        ("y.x.wild.example.com", "first"),
        ("wild.example.com", "first"),
        ("unknown.example.com", "first"),
        // Addresses are not asked for by name.
        ("10.0.0.1", "first"),
        ("::1", "first"),
    ] {
        let subject = subject_for(&client, &server, host);
        assert_eq!(subject, format!("CN={common_name}"), "{host}");
    }
    let strict = ClientTls::builder().authorities(&authority.file);
    let strict = strict.load().unwrap();
    assert!(meet(&strict, &server, "10.0.0.1").is_ok());
    let error = meet(&strict, &server, "unknown.example.com").err().unwrap();
    let text = error.to_string();
    assert!(text.contains("it is for another name"), "{text}");
}

#[test]
fn keys_of_several_kinds_serve_who_can_verify_them() {
    let authority = Authority::new();
    let mut server = ServerTls::builder();
    for (algorithm, common_name) in [
        (&PKCS_ED25519, "ed25519"),
        (&PKCS_ECDSA_P256_SHA256, "p256"),
    ] {
        let wanted = Wanted {
            common_name,
            algorithm,
            ..Wanted::default()
        };
        let files = authority.issue_as(&[HOST], &wanted);
        server = server.certificate(files.certificate, files.key);
    }
    let server = server.load().unwrap();
    let client = ClientTls::builder().authorities(&authority.file);
    let client = client.load().unwrap();
    assert_eq!(subject_for(&client, &server, HOST), "CN=ed25519");
    // A client that does not know Ed25519, like most browsers.
    let mut config = (*client.to_rustls()).clone();
    config
        .dangerous()
        .set_certificate_verifier(std::sync::Arc::new(crate::records::verifier::Anyone));
    let without = ClientTls::from_rustls(config);
    assert_eq!(subject_for(&without, &server, HOST), "CN=p256");
}

fn with_auth(authority: &Authority, auth: ClientAuth) -> ServerTls {
    let files = authority.issue(&[HOST]);
    ServerTls::builder()
        .certificate(files.certificate, files.key)
        .client_auth(auth)
        .load()
        .unwrap()
}

#[test]
fn clients_show_their_certificate_as_the_server_wants_it() {
    let authority = Authority::new();
    let stranger = Authority::named("another authority");
    let nobody = ClientTls::builder().authorities(&authority.file);
    let identity = |authority: &Authority, common_name, years| {
        let wanted = Wanted {
            common_name,
            years,
            ..Wanted::default()
        };
        authority.issue_as(&[], &wanted)
    };
    let alice = identity(&authority, "alice", (2020, 2120));
    let mallory = identity(&stranger, "mallory", (2020, 2120));
    let late = identity(&authority, "late", (2010, 2011));
    let as_client = |files: &crate::authority::Pair| {
        let builder = nobody.clone();
        builder
            .identity(&files.certificate, &files.key)
            .load()
            .unwrap()
    };
    let (alice, mallory, late) = (as_client(&alice), as_client(&mallory), as_client(&late));
    let nobody = nobody.clone().load().unwrap();

    let off = with_auth(&authority, ClientAuth::Off);
    let optional = with_auth(&authority, ClientAuth::Optional(authority.file.clone()));
    let required = with_auth(&authority, ClientAuth::Required(authority.file.clone()));
    let subject = |client, server| {
        let (_, server) = meet(client, server, HOST)?;
        Ok::<_, TlsError>(server.session.peer_subject())
    };
    assert_eq!(subject(&alice, &off).unwrap(), None);
    assert_eq!(subject(&nobody, &optional).unwrap(), None);
    for server in [&optional, &required] {
        // The second one is resumed.
        for _ in 0..2 {
            let (_, server) = meet(&alice, server, HOST).unwrap();
            assert_eq!(server.session.peer_subject().unwrap(), "CN=alice");
            assert_eq!(server.session.peer_certificates().len(), 1);
        }
        let error = subject(&mallory, server).unwrap_err().to_string();
        assert!(
            error.contains("no authority that is trusted here"),
            "{error}"
        );
        let error = subject(&late, server).unwrap_err().to_string();
        assert!(error.contains("it has expired"), "{error}");
    }
    assert_eq!(subject(&nobody, &required), Err(TlsError::NoCertificate));
}

#[test]
fn a_client_says_why_it_refuses_a_server() {
    let authority = Authority::new();
    let stranger = Authority::named("another authority");
    let (client, server) = both(&authority);
    assert!(meet(&client, &server, HOST).is_ok());
    let (_, unknown) = both(&stranger);
    let error = meet(&client, &unknown, HOST).err().unwrap().to_string();
    assert!(
        error.contains("no authority that is trusted here"),
        "{error}"
    );
    for (years, expected) in [
        ((2010, 2011), "it has expired"),
        ((2110, 2120), "not valid yet"),
    ] {
        let wanted = Wanted {
            years,
            ..Wanted::default()
        };
        let files = authority.issue_as(&[HOST], &wanted);
        // It loads: who refuses it is the client.
        let server = ServerTls::builder().certificate(files.certificate, files.key);
        let error = meet(&client, &server.load().unwrap(), HOST).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_in_one_sentence() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&[HOST]), authority.issue(&[HOST]));
    let text = write(&authority, "text.pem", "this is no PEM\n");
    let cut = fs::read_to_string(&one.certificate).unwrap();
    let cut = write(&authority, "cut.pem", &cut[..cut.len() / 2]);
    let junk = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let junk = write(&authority, "junk.pem", junk);
    let junk_key = "-----BEGIN PRIVATE KEY-----\naGVsbG8=\n-----END PRIVATE KEY-----\n";
    let junk_key = write(&authority, "junk.key.pem", junk_key);
    // What a key looks like once it went through a variable of a shell.
    let secret = fs::read_to_string(&one.key).unwrap();
    let one_line = write(&authority, "line.key.pem", &secret.replace('\n', ""));
    let spaces = write(&authority, "spaces.key.pem", &secret.replace('\n', " "));
    let half = write(&authority, "half.key.pem", &secret[..secret.len() / 2]);
    let odd = secret.replacen("\nM", "\n!M", 1);
    let odd = write(&authority, "odd.key.pem", &odd);
    let locked =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = write(&authority, "locked.key.pem", locked);
    let old_lock = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
                    DEK-Info: AES-128-CBC,00\n\naGVsbG8=\n-----END EC PRIVATE KEY-----\n";
    let old_lock = write(&authority, "locked.old.pem", old_lock);
    let missing = authority.file.with_file_name("missing.pem");
    let pair = |certificate, key| ServerTls::builder().certificate(certificate, key);
    let (certificate, key) = (one.certificate.clone(), one.key.clone());
    let good = || pair(&certificate, &key);
    let cases: [(ServerTlsBuilder, &str); 17] = [
        (ServerTls::builder(), "TLS needs a certificate and its key"),
        (pair(&certificate, &other.key), "is not for the key in"),
        (pair(&missing, &key), "No such file or directory"),
        (pair(&certificate, &missing), "No such file or directory"),
        (pair(&text, &key), "there is no certificate in"),
        (pair(&certificate, &text), "there is no private key in"),
        (
            pair(&certificate, &certificate),
            "there is no private key in",
        ),
        (
            pair(&cut, &key),
            "was it cut off, or has it lost its line ends?",
        ),
        (pair(&certificate, &one_line), "lost its line ends?"),
        (pair(&certificate, &spaces), "lost its line ends?"),
        (pair(&certificate, &half), "lost its line ends?"),
        (pair(&certificate, &odd), "is not base64"),
        (pair(&certificate, &locked), "it is encrypted, and nobody"),
        (pair(&certificate, &old_lock), "it is encrypted, and nobody"),
        (pair(&junk, &key), "its first certificate"),
        (pair(&certificate, &junk_key), "cannot be used for TLS"),
        (
            good().client_auth(ClientAuth::Required(junk.clone())),
            "cannot be used for TLS",
        ),
    ];
    for (builder, expected) in cases {
        let sentence = builder.load().unwrap_err().to_string();
        assert!(sentence.contains(expected), "{sentence}");
        assert_eq!(sentence.lines().count(), 1, "{sentence}");
        let mut parts = secret.lines().filter(|line| !line.starts_with('-'));
        let told = parts.any(|part| sentence.contains(&part[..8]));
        assert!(!told, "a key is shown: {sentence}");
    }
    assert!(good().load().is_ok());
}

#[test]
fn files_with_a_byte_order_mark_and_certificates_of_an_old_label_are_read() {
    let authority = Authority::new();
    let one = authority.issue(&[HOST]);
    let read = |path| fs::read_to_string(path).unwrap();
    let old = read(&one.certificate).replace(" CERTIFICATE-", " X509 CERTIFICATE-");
    let certificate = write(&authority, "old.pem", &format!("\u{feff}{old}"));
    let key = write(
        &authority,
        "mark.key.pem",
        &format!("\u{feff}{}", read(&one.key)),
    );
    assert!(
        ServerTls::builder()
            .certificate(certificate, key)
            .load()
            .is_ok()
    );
}

#[test]
fn reloading_takes_new_files_or_leaves_everything_as_it_was() {
    let authority = Authority::new();
    let named = |common_name| {
        let wanted = Wanted {
            common_name,
            ..Wanted::default()
        };
        authority.issue_as(&[HOST], &wanted)
    };
    let (files, new) = (named("old"), named("new"));
    let server = ServerTls::builder()
        .certificate(&files.certificate, &files.key)
        .load()
        .unwrap();
    let client = ClientTls::builder().authorities(&authority.file);
    let full = client.clone().without_resumption().load().unwrap();
    let client = client.load().unwrap();
    assert_eq!(subject_for(&full, &server, HOST), "CN=old");
    let mut existing = Pair::open(&client, &server);

    // Half of a new pair: nothing changes, for a reason.
    fs::copy(&new.certificate, &files.certificate).unwrap();
    let error = server.reload().unwrap_err().to_string();
    assert!(error.contains("is not for the key in"), "{error}");
    assert_eq!(subject_for(&full, &server, HOST), "CN=old");

    fs::copy(&new.key, &files.key).unwrap();
    server.reload().unwrap();
    assert_eq!(subject_for(&full, &server, HOST), "CN=new");
    // Tickets stay good, and so does what exists.
    assert!(Pair::open(&client, &server).server.session.is_resumed());
    existing.client.send(b"still here");
    existing.exchange(usize::MAX).unwrap();
    assert_eq!(existing.server.plain, b"still here");
}

#[test]
fn other_authorities_for_clients_end_the_tickets_of_the_old_ones() {
    let (authority, other) = (Authority::new(), Authority::named("another"));
    let trusted = write(
        &authority,
        "trusted.pem",
        &fs::read_to_string(&authority.file).unwrap(),
    );
    let server = with_auth(&authority, ClientAuth::Required(trusted.clone()));
    let alice = authority.issue(&[]);
    let client = ClientTls::builder()
        .authorities(&authority.file)
        .identity(alice.certificate, alice.key)
        .load()
        .unwrap();
    assert!(meet(&client, &server, HOST).is_ok());
    server.reload().unwrap();
    let (_, resumed) = meet(&client, &server, HOST).unwrap();
    assert!(resumed.session.is_resumed());
    fs::copy(&other.file, &trusted).unwrap();
    server.reload().unwrap();
    let error = meet(&client, &server, HOST).err().unwrap().to_string();
    assert!(
        error.contains("no authority that is trusted here"),
        "{error}"
    );
}
