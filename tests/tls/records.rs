//! What is sent arrives, however it is cut, in both directions and both versions.

use std::sync::Arc;

use ringwire::tls::{
    ClientTls, MinVersion, PLAINTEXT_BYTES_MAX, ServerTls, Session, TlsError,
    rustls::{
        self, ClientConfig, ClientConnection, ServerConfig, ServerConnection, pki_types::ServerName,
    },
};

use crate::{
    authority::Authority,
    pair::{End, HOST, Narrow, Pair, both, bytes},
};

/// The configurations of `both`, for TLS 1.2 alone.
fn both_of_12(authority: &Authority) -> (ClientTls, ServerTls) {
    let (client, server) = both(authority);
    let provider = client.to_rustls().crypto_provider().clone();
    let only_12 = &[&rustls::version::TLS12];
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(only_12)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier::Anyone))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    (ClientTls::from_rustls(config), server)
}

pub mod verifier {
    //! Trusts everybody: what the verifier of rustls does is not what is looked at.

    use ringwire::tls::rustls::{
        self, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub struct Anyone;

    impl ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ECDSA_NISTP256_SHA256]
        }
    }
}

#[test]
fn handshakes_and_messages_pass_in_pieces_of_any_length() {
    let authority = Authority::new();
    for (version, (client, server)) in [
        ("TLSv1.3", both(&authority)),
        ("TLSv1.2", both_of_12(&authority)),
    ] {
        for piece in [1, 2, 4, 5, 6, 7, 100, 1021, 16_384, usize::MAX] {
            let mut pair = Pair::new(&client, &server);
            pair.exchange(piece).unwrap();
            for end in [&pair.client, &pair.server] {
                assert!(end.session.is_open(), "pieces of {piece}");
                assert_eq!(end.session.version(), Some(version));
            }
            let long = bytes(40_000);
            for message in [&b"x"[..], b"hello", &long[..16_384], &long[..16_385], &long] {
                pair.client.send(message);
                pair.server.send(message);
                pair.exchange(piece).unwrap();
                assert!(pair.server.plain == message, "pieces of {piece}");
                assert!(pair.client.plain == message, "pieces of {piece}");
                pair.server.plain.clear();
                pair.client.plain.clear();
            }
            pair.client.session.close(&mut pair.client.out);
            pair.exchange(piece).unwrap();
            assert!(pair.server.session.is_peer_closed());
            // The other direction is open for as long as its owner likes.
            pair.server.send(b"the last word");
            pair.server.session.close(&mut pair.server.out);
            pair.exchange(piece).unwrap();
            assert_eq!(pair.client.plain, b"the last word");
            assert!(pair.client.session.is_peer_closed());
        }
    }
}

#[test]
fn a_sink_with_little_space_together_gets_the_same_bytes() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut client = End::new(client.session(HOST).unwrap());
    let mut server = server.session().unwrap();
    client.session.start(&mut client.out).unwrap();
    let hello = client.take();
    let (mut narrow, mut plain) = (Narrow::default(), Vec::new());
    server
        .receive(&mut hello.clone(), &mut plain, &mut narrow)
        .unwrap();
    client.receive(narrow.written(), 1000).unwrap();
    let finished = client.take();
    let mut narrow = Narrow::default();
    server
        .receive(&mut finished.clone(), &mut plain, &mut narrow)
        .unwrap();
    let message = bytes(50_000);
    server.encrypt(&message, &mut narrow).unwrap();
    server.close(&mut narrow);
    client.receive(narrow.written(), usize::MAX).unwrap();
    assert!(client.plain == message);
    assert!(client.session.is_peer_closed());
}

/// The first byte of every record and the length of what is behind its header.
fn records(mut wire: &[u8]) -> Vec<(u8, usize)> {
    let mut found = Vec::new();
    while let [kind, _, _, high, low, rest @ ..] = wire {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        found.push((*kind, len));
        wire = &rest[len..];
    }
    assert_eq!(wire, b"");
    found
}

#[test]
fn records_are_as_long_as_they_may_be() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut pair = Pair::open(&client, &server);
    pair.server.send(&bytes(2 * PLAINTEXT_BYTES_MAX + 100));
    let lens: Vec<usize> = records(&pair.server.take()).iter().map(|r| r.1).collect();
    assert_eq!(lens, [16_384 + 17, 16_384 + 17, 117]);
}

#[test]
fn idle_sessions_keep_no_buffer_and_partial_records_no_more_than_they_are() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut pair = Pair::open(&client, &server);
    assert_eq!(pair.server.session.buffered_bytes(), 0);
    pair.client.send(&bytes(16_384));
    let record = pair.client.take();
    let mut most = 0;
    for (at, byte) in record.iter().enumerate() {
        let allowed = if at <= 5 { 5 } else { record.len() };
        assert!(pair.server.session.buffered_bytes() <= allowed, "byte {at}");
        pair.server.receive(&[*byte], 1).unwrap();
        most = most.max(pair.server.session.buffered_bytes());
    }
    assert!(most >= 16_000, "{most}");
    assert_eq!(pair.server.plain, bytes(16_384));
    assert_eq!(pair.server.session.buffered_bytes(), 0);
}

/// rustls with buffers of its own, as the peer of a session.
fn pump(buffered: &mut rustls::Connection, end: &mut End, piece: usize) {
    loop {
        let mut wire = Vec::new();
        while buffered.wants_write() {
            buffered.write_tls(&mut wire).unwrap();
        }
        end.receive(&wire, piece).unwrap();
        let back = end.take();
        let mut rest = &back[..];
        while !rest.is_empty() {
            buffered.read_tls(&mut rest).unwrap();
            buffered.process_new_packets().unwrap();
        }
        if wire.is_empty() && back.is_empty() {
            return;
        }
    }
}

fn read(buffered: &mut rustls::Connection, len: usize) -> Vec<u8> {
    use std::io::Read;
    let mut read = vec![0; len];
    buffered.reader().read_exact(&mut read).unwrap();
    read
}

fn write(buffered: &mut rustls::Connection, message: &[u8]) {
    use std::io::Write;
    buffered.writer().write_all(message).unwrap();
}

fn buffered_client(config: Arc<ClientConfig>) -> rustls::Connection {
    let name = ServerName::try_from(HOST).unwrap();
    ClientConnection::new(config, name).unwrap().into()
}

#[test]
fn keys_are_renewed_in_both_directions_when_the_peer_asks() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut end = End::new(server.session().unwrap());
    let mut buffered = buffered_client(client.to_rustls());
    pump(&mut buffered, &mut end, usize::MAX);
    for round in 0..5u8 {
        buffered.refresh_traffic_keys().unwrap();
        write(&mut buffered, &[round; 100]);
        pump(&mut buffered, &mut end, 1);
        assert_eq!(end.plain, [round; 100]);
        end.plain.clear();
        // Our own update goes before what is sent next.
        end.send(&[round; 20_000]);
        let kinds = records(end.out.written());
        assert_eq!(kinds.len(), 3, "an update and two records: {kinds:?}");
        pump(&mut buffered, &mut end, usize::MAX);
        assert_eq!(read(&mut buffered, 20_000), [round; 20_000]);
    }
}

/// A peer may ask for new keys as often as it likes and never read the answers.
#[test]
fn key_updates_without_end_are_refused_and_do_not_pile_up() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut end = End::new(server.session().unwrap());
    let mut buffered = buffered_client(client.to_rustls());
    pump(&mut buffered, &mut end, usize::MAX);
    let mut result = Ok(());
    let mut rounds = 0;
    while result.is_ok() {
        rounds += 1;
        assert!(rounds < 1000, "nobody objects");
        buffered.refresh_traffic_keys().unwrap();
        let mut wire = Vec::new();
        while buffered.wants_write() {
            buffered.write_tls(&mut wire).unwrap();
        }
        result = end.receive(&wire, usize::MAX);
    }
    assert!(matches!(result, Err(TlsError::Violation(_))), "{result:?}");
    let answers = end.take().len();
    assert!(answers < 200, "{answers} bytes wait for {rounds} updates");
}

/// Post-handshake messages cut into many records: what has come of one has to stay while the other
/// direction is written.
#[test]
fn messages_of_the_handshake_protocol_may_span_records() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut config = ServerConfig::clone(&server.to_rustls());
    config.max_fragment_size = Some(32);
    for piece in [1, 32, 33, 100, usize::MAX] {
        let mut end = End::new(client.session(HOST).unwrap());
        end.session.start(&mut end.out).unwrap();
        let mut buffered: rustls::Connection = ServerConnection::new(Arc::new(config.clone()))
            .unwrap()
            .into();
        let mut tickets_left = true;
        while tickets_left || buffered.wants_write() {
            let back = end.take();
            let mut rest = &back[..];
            while !rest.is_empty() {
                buffered.read_tls(&mut rest).unwrap();
                buffered.process_new_packets().unwrap();
            }
            let mut wire = Vec::new();
            while buffered.wants_write() {
                buffered.write_tls(&mut wire).unwrap();
            }
            for wire in wire.chunks(piece) {
                end.receive(wire, usize::MAX).unwrap();
                if end.session.is_open() {
                    tickets_left = false;
                    end.send(b"while a ticket comes");
                }
            }
        }
        let mut count = 0;
        let back = end.take();
        let mut rest = &back[..];
        while !rest.is_empty() {
            buffered.read_tls(&mut rest).unwrap();
            let state = buffered.process_new_packets().unwrap();
            let there = state.plaintext_bytes_to_read();
            count += read(&mut buffered, there).len();
        }
        assert!(count > 0, "pieces of {piece}");
        assert_eq!(end.session.buffered_bytes(), 0);
    }
}

#[test]
fn a_client_hello_in_many_records_is_understood() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut config = ClientConfig::clone(&client.to_rustls());
    config.max_fragment_size = Some(32);
    for piece in [1, 7, 37, 100, usize::MAX] {
        let mut end = End::new(server.session().unwrap());
        let mut buffered = buffered_client(Arc::new(config.clone()));
        pump(&mut buffered, &mut end, piece);
        assert!(!buffered.is_handshaking());
        assert!(end.session.is_open(), "pieces of {piece}");
        write(&mut buffered, &bytes(5000));
        end.send(&bytes(5000));
        pump(&mut buffered, &mut end, piece);
        assert!(end.plain == bytes(5000));
        assert!(read(&mut buffered, 5000) == bytes(5000));
    }
}

#[test]
fn tickets_make_the_next_handshake_short() {
    let authority = Authority::new();
    for (client, server) in [both(&authority), both_of_12(&authority)] {
        for round in 0..4 {
            let pair = Pair::open(&client, &server);
            assert_eq!(pair.server.session.is_resumed(), round > 0, "round {round}");
            assert_eq!(pair.client.session.is_resumed(), round > 0, "round {round}");
        }
    }
    let (_, server) = both(&authority);
    let client = ClientTls::builder().insecure().without_resumption();
    let client = client.load().unwrap();
    for _ in 0..2 {
        assert!(!Pair::open(&client, &server).server.session.is_resumed());
    }
}

#[test]
fn a_version_that_is_too_old_is_refused_by_name() {
    let authority = Authority::new();
    let (client, _) = both_of_12(&authority);
    let files = authority.issue(&[HOST]);
    let server = ServerTls::builder()
        .certificate(files.certificate, files.key)
        .min_version(MinVersion::Tls13);
    let mut pair = Pair::new(&client, &server.load().unwrap());
    let error = pair.exchange(usize::MAX).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("no version of TLS that is allowed"), "{text}");
    let error = pair.exchange(usize::MAX).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the peer ended TLS with the alert protocol_version"
    );
}

#[test]
fn nothing_is_encrypted_after_a_close_notify() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut pair = Pair::open(&client, &server);
    let session: &mut Session = &mut pair.server.session;
    session.close(&mut pair.server.out);
    let alone = records(pair.server.out.written());
    session.close(&mut pair.server.out);
    session.encrypt(b"too late", &mut pair.server.out).unwrap();
    assert_eq!(records(pair.server.out.written()), alone);
    assert_eq!(alone.len(), 1);
}
