//! TLS where it is not just another way to the same: hostile records, deadlines of its handshake,
//! what a service learns of its peer, the dialling side, certificates that change.
//!
//! That everything else is as on a plain connection is shown by the tests that run on each engine.

use std::{
    io::{Read, Write},
    net::Shutdown,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use ringwire::{
    Address, Answer, CloseCause, Config, Conn, ConnId, HandshakeError, HttpReply, Message, Refusal,
    Remote, Request, Server, Service, Timeout, Turn, Upgrade,
    client::{Client, Dial, Wait},
    service::Echo,
    tls::{ClientAuth, ClientTls, ServerTls, TlsError},
};

use crate::{
    authority::{Authority, Wanted},
    common::{PATIENCE, Peer, TEXT, masked, request},
    guard::guarded,
    host::Hosted,
    peer::until,
    tls_peer::TlsPeer,
};

/// What one connection told its service.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Asked(Option<String>),
    Opened(Option<String>),
    Closed(CloseCause),
}

/// An echo that writes down who asked and why connections ended.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Vec<Told>>>);

impl Noting {
    fn note(&self, told: Told) {
        self.0.lock().unwrap().push(told);
    }

    #[track_caller]
    fn expect(&self, expected: &[Told]) {
        until("the service was told", || {
            self.0.lock().unwrap().len() >= expected.len()
        });
        assert_eq!(*self.0.lock().unwrap(), expected);
    }
}

crate::host::boxed!(Noting);

impl Service for Noting {
    type State = ();

    fn on_handshake(
        &mut self,
        _: &Upgrade<'_>,
        peer: Remote<'_>,
        _: &mut Answer,
    ) -> Result<(), Refusal> {
        assert!(peer.is_secure());
        let tls = peer.tls().expect("TLS");
        assert_eq!(tls.version(), Some("TLSv1.3"));
        self.note(Told::Asked(tls.peer_subject()));
        Ok(())
    }

    fn on_http(&mut self, _: &Request<'_>, peer: Remote<'_>) -> Result<HttpReply, Refusal> {
        let suite = peer.tls().and_then(|tls| tls.cipher_suite());
        let body = suite.unwrap_or("plain").as_bytes().to_vec();
        HttpReply::new(200, "text/plain", body).map_err(|_| HandshakeError::ServicePanicked.into())
    }

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        let subject = conn.tls().and_then(|tls| tls.peer_subject());
        self.note(Told::Opened(subject));
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let _ = conn.send(message);
    }

    fn on_close(&mut self, _: &mut Turn<'_>, _: ConnId, (): (), cause: &CloseCause) {
        self.note(Told::Closed(cause.clone()));
    }
}

/// A server with TLS and a plain port, its authority, and what its service was told.
struct Secured {
    server: Server,
    authority: Authority,
    told: Noting,
}

impl Secured {
    fn start(config: Config, client_auth: impl Fn(&Authority) -> ClientAuth) -> Self {
        let authority = Authority::new();
        let pair = authority.issue(&["localhost", "127.0.0.1"]);
        let tls = ServerTls::builder()
            .certificate(pair.certificate, pair.key)
            .client_auth(client_auth(&authority));
        let told = Noting::default();
        let service = told.clone();
        let server = crate::host::builder()
            .listen("127.0.0.1:0")
            .listen_tls("127.0.0.1:0", &tls.load().unwrap())
            .shards(1)
            .pinned(false)
            .config(config)
            .start(move |_| service.clone().hosted())
            .unwrap();
        Self {
            server,
            authority,
            told,
        }
    }

    fn plain() -> Self {
        Self::start(Config::default(), |_| ClientAuth::Off)
    }

    fn client(&self) -> ClientTls {
        let builder = ClientTls::builder().authorities(&self.authority.file);
        builder.load().unwrap()
    }

    fn address(&self) -> Address {
        self.server.tls_addresses()[0].clone()
    }

    fn connect(&self) -> TlsPeer {
        TlsPeer::connect(&self.address(), &self.client())
    }

    fn counts(&self) -> ringwire::Counts {
        self.server.handle().stats().counts
    }

    fn end(self) {
        self.server.handle().stop();
        self.server.join().unwrap();
    }
}

#[test]
fn a_client_that_sends_byte_by_byte_is_served() {
    guarded(|| {
        let secured = Secured::plain();
        let mut peer = secured.connect();
        peer.open(1);
        peer.write(&masked(TEXT, b"in very small pieces"));
        peer.flush(1);
        peer.read_until(b"in very small pieces");
        drop(peer);
        secured.told.expect(&[
            Told::Asked(None),
            Told::Opened(None),
            Told::Closed(CloseCause::Vanished),
        ]);
        let counts = secured.counts();
        assert_eq!((counts.tls_handshakes, counts.tls_failures), (1, 0));
        secured.end();
    });
}

#[test]
fn records_that_were_tampered_with_end_their_connection_alone() {
    type Tamper = fn(&mut Vec<Vec<u8>>);
    let ways: [(&str, Tamper); 5] = [
        ("replayed", |records| records.insert(1, records[0].clone())),
        ("dropped", |records| drop(records.remove(0))),
        ("moved", |records| records.swap(0, 1)),
        ("corrupted", |records| records[1][20] ^= 1),
        ("made shorter", |records| {
            records[1].truncate(30);
            records[1][3..5].copy_from_slice(&[0, 25]);
        }),
    ];
    guarded(|| {
        let secured = Secured::plain();
        let mut neighbour = secured.connect();
        neighbour.open(usize::MAX);
        let mut told = vec![Told::Asked(None), Told::Opened(None)];
        for (way, tamper) in ways {
            let mut peer = secured.connect();
            peer.open(usize::MAX);
            let mut records = Vec::new();
            for text in ["one", "two", "three"] {
                peer.write(&masked(TEXT, text.as_bytes()));
                records.extend(peer.records());
            }
            assert_eq!(records.len(), 3);
            tamper(&mut records);
            peer.stream.write_all(&records.concat()).unwrap();
            assert_eq!(
                peer.expect_alert(),
                "received fatal alert: BadRecordMac",
                "{way}"
            );
            told.extend([
                Told::Asked(None),
                Told::Opened(None),
                Told::Closed(CloseCause::Tls(TlsError::RecordNotAuthentic)),
            ]);
            secured.told.expect(&told);
            neighbour.write(&masked(TEXT, way.as_bytes()));
            neighbour.flush(usize::MAX);
            neighbour.read_until(way.as_bytes());
        }
        drop(neighbour);
        secured.end();
    });
}

#[test]
fn a_record_that_is_cut_short_is_waited_for_and_its_end_noticed() {
    guarded(|| {
        let secured = Secured::plain();
        let mut peer = secured.connect();
        peer.open(usize::MAX);
        peer.write(&masked(TEXT, &[b'x'; 1000]));
        let record = peer.records().remove(0);
        peer.stream.write_all(&record[..record.len() - 1]).unwrap();
        peer.stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        peer.stream
            .read_to_end(&mut rest)
            .expect("an end and no reset");
        secured.told.expect(&[
            Told::Asked(None),
            Told::Opened(None),
            Told::Closed(CloseCause::Vanished),
        ]);
        secured.end();
    });
}

#[test]
fn plain_and_tls_at_the_wrong_door_are_told_so() {
    guarded(|| {
        let secured = Secured::plain();
        let mut peer = Peer::connect(&secured.address());
        peer.write(request("/").as_bytes());
        let reply = peer.read_reply(false);
        assert_eq!(reply.status, 400);
        assert!(reply.body.contains("this is a TLS port"), "{}", reply.body);

        let plain = &secured.server.addresses()[0];
        let mut tls = TlsPeer::connect(plain, &secured.client());
        for record in tls.records() {
            tls.stream.write_all(&record).unwrap();
        }
        let mut reply = Vec::new();
        tls.stream.read_to_end(&mut reply).unwrap();
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.contains("this is a plain ws:// port"), "{reply}");

        // Noise is answered with an alert.
        let mut peer = Peer::connect(&secured.address());
        peer.write(b"\x00\x01\x02\x03\x04\x05");
        peer.shutdown_write();
        let mut alert = Vec::new();
        peer.stream.read_to_end(&mut alert).unwrap();
        assert_eq!(alert.first(), Some(&21), "{}", alert.escape_ascii());

        // And others are served.
        let mut peer = secured.connect();
        peer.open(usize::MAX);
        let counts = secured.counts();
        assert_eq!((counts.tls_handshakes, counts.tls_failures), (1, 2));
        drop(peer);
        secured.end();
    });
}

#[test]
fn the_handshake_timeout_covers_tls() {
    let timeout_ms = 300;
    let mut config = Config::default();
    config.handshake_timeout_ms = timeout_ms;
    guarded(|| {
        let secured = Secured::start(config, |_| ClientAuth::Off);
        let begun = Instant::now();
        let silent = Peer::connect(&secured.address());
        let mut half = secured.connect();
        let hello = half.records().concat();
        half.stream.write_all(&hello[..hello.len() / 2]).unwrap();
        // One whose TLS is done, and that asks for nothing.
        let mut mute = secured.connect();
        mute.handshake(usize::MAX);
        for mut stream in [silent.stream, half.stream] {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"", "nothing can be said before TLS is there");
        }
        let elapsed = begun.elapsed();
        assert!(elapsed.as_millis() >= timeout_ms.into(), "{elapsed:?}");
        let reply = mute.read_until(b"at once.\n");
        assert!(
            reply.starts_with(b"HTTP/1.1 408 "),
            "{}",
            reply.escape_ascii()
        );
        until("three missed it", || secured.counts().timeouts == 3);
        secured.end();
    });
}

#[test]
fn frames_share_records() {
    guarded(|| {
        let secured = Secured::plain();
        let mut peer = secured.connect();
        peer.open(usize::MAX);
        // The replies to what comes in one record leave in one.
        for index in 0..300u32 {
            peer.write(&masked(TEXT, format!("message {index:05}").as_bytes()));
        }
        let records = peer.records();
        peer.stream.write_all(&records.concat()).unwrap();
        let mut wire = Vec::new();
        while wire.len() < 300 * 15 {
            let mut bytes = [0; 8192];
            let len = peer.stream.read(&mut bytes).unwrap();
            wire.extend_from_slice(&bytes[..len]);
            let mut rest = &bytes[..len];
            while !rest.is_empty() {
                peer.tls.read_tls(&mut rest).unwrap();
                peer.tls.process_new_packets().unwrap();
            }
        }
        peer.read_until(b"message 00299");
        let (mut count, mut rest) = (0, &wire[..]);
        while let [23, _, _, high, low, ..] = rest {
            count += 1;
            rest = &rest[5 + usize::from(u16::from_be_bytes([*high, *low]))..];
        }
        assert!(count < 30, "{count} records for 300 frames");
        drop(peer);
        secured.end();
    });
}

#[test]
fn a_service_sees_who_its_client_is() {
    guarded(|| {
        let secured = Secured::start(Config::default(), |authority| {
            ClientAuth::Optional(authority.file.clone())
        });
        let wanted = Wanted {
            common_name: "alice",
            ..Wanted::default()
        };
        let alice = secured.authority.issue_as(&[], &wanted);
        let as_alice = ClientTls::builder()
            .authorities(&secured.authority.file)
            .identity(alice.certificate, alice.key)
            .load()
            .unwrap();
        for (tls, subject) in [
            (as_alice, Some("CN=alice".to_owned())),
            (secured.client(), None),
        ] {
            let mut peer = TlsPeer::connect(&secured.address(), &tls);
            peer.open(usize::MAX);
            secured
                .told
                .expect(&[Told::Asked(subject.clone()), Told::Opened(subject)]);
            drop(peer);
            until("it is gone", || secured.told.0.lock().unwrap().len() == 3);
            secured.told.0.lock().unwrap().clear();
        }
        // Plain requests know as much.
        let mut peer = secured.connect();
        peer.handshake(usize::MAX);
        peer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        peer.flush(usize::MAX);
        peer.read_until(b"TLS13_AES_256_GCM_SHA384");
        drop(peer);
        secured.end();
    });
}

#[test]
fn a_record_that_stands_still_is_a_message_that_does() {
    guarded(|| {
        let mut config = Config::default();
        config.message_timeout_ms = 300;
        config.idle_timeout_ms = 0;
        let secured = Secured::start(config, |_| ClientAuth::Off);
        // Part of its header, and part of the rest.
        for cut in [3, 25] {
            let mut peer = secured.connect();
            peer.open(usize::MAX);
            peer.write(&masked(TEXT, b"never whole"));
            let record = peer.records().concat();
            let begun = Instant::now();
            peer.stream.write_all(&record[..cut]).unwrap();
            let close = [&[0x88, 25, 0x03, 0xf0][..], b"a message took too long"].concat();
            peer.read_until(&close);
            assert!(begun.elapsed().as_millis() >= 299);
            drop(peer);
            until("it is gone", || secured.told.0.lock().unwrap().len() == 3);
            let closed = Told::Closed(CloseCause::Timeout(Timeout::Message));
            assert_eq!(secured.told.0.lock().unwrap()[2], closed);
            secured.told.0.lock().unwrap().clear();
        }
        // Records of which there is often a part, and never the same one for long.
        let mut peer = secured.connect();
        peer.open(usize::MAX);
        let begun = Instant::now();
        while begun.elapsed().as_millis() < 1200 {
            peer.write(&masked(TEXT, b"in two pieces"));
            let record = peer.records().concat();
            let (start, end) = record.split_at(record.len() / 2);
            peer.stream.write_all(start).unwrap();
            thread::park_timeout(std::time::Duration::from_millis(20));
            peer.stream.write_all(end).unwrap();
            peer.read_until(b"in two pieces");
        }
        drop(peer);
        secured.end();
    });
}

#[test]
fn stopping_says_goodbye_in_frames_and_alerts() {
    guarded(|| {
        let secured = Secured::plain();
        let mut peer = secured.connect();
        peer.open(usize::MAX);
        secured.server.handle().stop();
        peer.read_until(&[0x88, 2, 1001u16.to_be_bytes()[0], 1001u16.to_be_bytes()[1]]);
        peer.write(&masked(0x88, &1001u16.to_be_bytes()));
        peer.flush(usize::MAX);
        while peer.fill() {}
        // Without a close_notify before the end this is an error.
        let ended = peer.tls.reader().read(&mut [0; 1]);
        assert_eq!(ended.unwrap(), 0);
        peer.tls.send_close_notify();
        peer.flush(usize::MAX);
        drop(peer);
        secured.server.join().unwrap();
        secured.told.expect(&[
            Told::Asked(None),
            Told::Opened(None),
            Told::Closed(CloseCause::Stopping),
        ]);
    });
}

/// A dialling service that says one thing and hears it.
#[derive(Default)]
struct Caller {
    heard: Vec<Vec<u8>>,
    ended: Vec<CloseCause>,
    resumed: usize,
    to_send: Vec<u8>,
    opens: usize,
}

crate::host::boxed!(Caller);

impl Service for Caller {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        self.opens += 1;
        self.resumed += usize::from(conn.tls().expect("TLS").is_resumed());
        conn.send(&self.to_send[..]).unwrap();
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        self.heard.push(message.payload().to_vec());
        conn.close(ringwire::CloseCode::NORMAL_CLOSURE, "").unwrap();
    }

    fn on_close(&mut self, _: &mut Turn<'_>, _: ConnId, (): (), cause: &CloseCause) {
        self.ended.push(cause.clone());
    }
}

/// Dials until the connection has ended, and returns why.
fn call(client: &mut Client<Caller>, address: &Address, tls: &ClientTls) -> CloseCause {
    let Address::Inet(inet) = address else {
        panic!("{address} has no port");
    };
    let mut dial = Dial::with_tls(&format!("wss://localhost:{}/", inet.port()), tls).unwrap();
    // Whatever else localhost may be.
    dial.address = address.clone();
    client.dial(dial).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while client.connections() > 0 {
        assert!(Instant::now() < deadline, "the call does not end");
        let until = client.now().plus_ms(50);
        client.turn(Wait::Until(until)).unwrap();
    }
    client.service().ended.pop().expect("an end")
}

#[test]
fn the_client_dials_wss() {
    guarded(|| {
        let secured = Secured::plain();
        let caller = Caller {
            to_send: vec![7; 1_000_000],
            ..Caller::default()
        };
        let mut client = Client::on(crate::host::ring(), Config::default(), caller).unwrap();
        let tls = secured.client();
        for round in 1..=3 {
            let cause = call(&mut client, &secured.address(), &tls);
            assert!(matches!(cause, CloseCause::Application(_)), "{cause}");
            assert_eq!(client.service().heard.pop(), Some(vec![7; 1_000_000]));
            assert_eq!(client.service().resumed, round - 1);
        }
        let counts = secured.counts();
        assert_eq!((counts.tls_handshakes, counts.tls_resumptions), (3, 2));
        secured.end();
    });
}

#[test]
fn a_client_learns_why_it_has_no_tls() {
    guarded(|| {
        let secured = Secured::plain();
        let mut client =
            Client::on(crate::host::ring(), Config::default(), Caller::default()).unwrap();
        let stranger = Authority::named("another");
        let wrong = ClientTls::builder()
            .authorities(&stranger.file)
            .load()
            .unwrap();
        let cause = call(&mut client, &secured.address(), &wrong);
        let CloseCause::Tls(TlsError::CertificateRefused(why)) = &cause else {
            panic!("{cause:?}");
        };
        assert!(why.contains("no authority that is trusted here"), "{why}");
        until("the server knows", || secured.counts().tls_failures == 1);

        let plain = secured.server.addresses()[0].clone();
        let cause = call(&mut client, &plain, &secured.client());
        assert_eq!(cause, CloseCause::Tls(TlsError::PeerIsPlain));
        assert_eq!(client.service().opens, 0);

        // Without TLS a wss:// URL is not dialled in the clear.
        let mut dial = Dial::to("ws://127.0.0.1:9/").unwrap();
        dial.request = ringwire::client::ClientRequest::new("wss://localhost/".parse().unwrap());
        assert!(client.dial(dial).is_err());
        secured.end();
    });
}

#[test]
fn a_dialled_handshake_has_a_deadline_too() {
    guarded(|| {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Inet(listener.local_addr().unwrap());
        let mut config = Config::default();
        config.handshake_timeout_ms = 200;
        let mut client = Client::on(crate::host::ring(), config, Caller::default()).unwrap();
        let tls = ClientTls::builder().insecure().load().unwrap();
        let cause = call(&mut client, &address, &tls);
        assert_eq!(cause, CloseCause::Timeout(Timeout::Handshake));
    });
}

#[test]
fn certificates_are_reloaded_a_hundred_times_under_load() {
    guarded(|| {
        let authority = Authority::new();
        let files = authority.issue(&["localhost"]);
        let pairs: Vec<_> = (0..4).map(|_| authority.issue(&["localhost"])).collect();
        let tls = ServerTls::builder().certificate(&files.certificate, &files.key);
        let tls = tls.load().unwrap();
        let server = crate::host::builder()
            .listen_tls("127.0.0.1:0", &tls)
            .shards(1)
            .pinned(false)
            .start(|_| Echo)
            .unwrap();
        let address = &server.tls_addresses()[0];
        let client = ClientTls::builder()
            .authorities(&authority.file)
            .without_resumption()
            .load()
            .unwrap();
        let (over, calls) = (AtomicBool::new(false), AtomicU64::new(0));
        let mut lasting = TlsPeer::connect(address, &client);
        lasting.open(usize::MAX);
        thread::scope(|scope| {
            scope.spawn(|| {
                let caller = Caller {
                    to_send: b"under way".to_vec(),
                    ..Caller::default()
                };
                let mut dialler =
                    Client::on(crate::host::ring(), Config::default(), caller).unwrap();
                while !over.load(Ordering::Relaxed) {
                    let cause = call(&mut dialler, address, &client);
                    assert!(matches!(cause, CloseCause::Application(_)), "{cause}");
                    calls.fetch_add(1, Ordering::Relaxed);
                }
                assert_eq!(
                    dialler.service().heard.len() as u64,
                    calls.load(Ordering::Relaxed)
                );
            });
            let mut done = 0;
            for round in 0..100 {
                let pair = &pairs[round % pairs.len()];
                std::fs::copy(&pair.certificate, &files.certificate).unwrap();
                std::fs::copy(&pair.key, &files.key).unwrap();
                tls.reload().unwrap();
                let text = format!("round {round}");
                lasting.write(&masked(TEXT, text.as_bytes()));
                lasting.flush(usize::MAX);
                lasting.read_until(text.as_bytes());
                // At least one handshake for each of them.
                until("a call", || calls.load(Ordering::Relaxed) > done);
                done = calls.load(Ordering::Relaxed);
            }
            over.store(true, Ordering::Relaxed);
        });
        let counts = server.handle().stats().counts;
        assert_eq!(counts.tls_failures, 0);
        assert!(counts.tls_handshakes > 100, "{counts:?}");
        drop(lasting);
        server.handle().stop();
        server.join().unwrap();
    });
}
