//! What the attack says it did, beside what a server says that came.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use ringwire::{
    Address, CloseCode, Config, Conn, Counts, Message, Server, Service,
    tls::{ServerTls, rustls::ClientConfig},
};

use crate::{
    crowd::{Crowd, Front, News, Tally},
    frames::Side,
    kinds::{self, Makings},
    neighbour::{self, MEASURING, Manners, OVER, WARMING},
    plan::{Plan, Security, Then},
    wire::{Target, trusting},
};

const PATIENCE: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 3;

/// Reads everything, and says goodbye to those who ask for it.
#[derive(Clone, Default)]
struct Counting {
    pings: Arc<AtomicU64>,
    pongs: Arc<AtomicU64>,
}

impl Service for Counting {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        if message.text() == Some("bye") {
            let _ = conn.close(CloseCode::GOING_AWAY, "");
        } else if message.payload().len() < 128 {
            let _ = conn.send(message);
        }
    }

    fn on_ping(&mut self, _conn: &mut Conn<'_, ()>, _payload: &[u8]) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    fn on_pong(&mut self, _conn: &mut Conn<'_, ()>, _payload: &[u8]) {
        self.pongs.fetch_add(1, Ordering::Relaxed);
    }
}

struct Counted {
    server: Option<Server>,
    plain: Target,
    secure: Target,
    counting: Counting,
}

impl Counted {
    fn start() -> Self {
        let names = vec!["localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        let (pem, key) = (folder.path().join("pem"), folder.path().join("key"));
        fs::write(&pem, made.cert.pem()).expect("it is written");
        fs::write(&key, made.signing_key.serialize_pem()).expect("it is written");
        let tls = ServerTls::builder().certificate(&pem, &key).load();
        let tls = tls.expect("TLS");
        let mut config = Config::default();
        config.compress = true;
        config.legacy_hixie76 = true;
        let counting = Counting::default();
        let service = counting.clone();
        let server = Server::builder()
            .config(config)
            .listen("127.0.0.1:0")
            .listen_tls("127.0.0.1:0", &tls)
            .shards(1)
            .pinned(false)
            .start(move |_| service.clone())
            .expect("a server");
        let target = |address: &Address| Target::parse(&address.to_string()).expect("loopback");
        Self {
            plain: target(&server.addresses()[0]),
            secure: target(&server.tls_addresses()[0]),
            server: Some(server),
            counting,
        }
    }

    fn counts(&self) -> Counts {
        self.server
            .as_ref()
            .expect("it runs")
            .handle()
            .stats()
            .counts
    }

    /// Pings, pongs, messages and their bytes.
    fn came(&self) -> (u64, u64, u64, u64) {
        let counts = self.counts();
        (
            self.counting.pings.load(Ordering::Relaxed),
            self.counting.pongs.load(Ordering::Relaxed),
            counts.messages_received,
            counts.payload_bytes_received,
        )
    }

    fn front(&self, plan: &Plan, tls: &Arc<ClientConfig>) -> Front {
        Front {
            target: match plan.security {
                Security::None => self.plain,
                _ => self.secure,
            },
            from: None,
            tls: tls.clone(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.handle().stop_within(0);
            let _ = server.join();
        }
    }
}

fn plan_of(name: &str, tls: &Arc<ClientConfig>) -> Plan {
    let makings = Makings {
        side: Side::Client,
        secured: false,
        tls: tls.clone(),
    };
    let kind = kinds::find(name).expect("it is in the table");
    kind.plan(&makings).expect("it can be made")
}

fn wait_until(mut met: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while !met() {
        if Instant::now() > deadline {
            return false;
        }
        thread::yield_now();
    }
    true
}

/// Stops a crowd, also when a test fails.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Lets a plan begin, and stops it when `enough` says so.
fn attack(plan: &Plan, front: Front, enough: impl FnOnce(&mpsc::Receiver<News>)) -> Tally {
    let stop = AtomicBool::new(false);
    let (news, heard) = mpsc::channel();
    thread::scope(|scope| {
        let stopped = Stopped(&stop);
        let crowd = scope.spawn(|| {
            let news = news;
            let crowd = Crowd::dialling(plan, CONNECTIONS, front).expect("an epoll");
            crowd.run(&stop, &news).expect("it goes on")
        });
        enough(&heard);
        drop(stopped);
        crowd.join().expect("no panic")
    })
}

#[test]
fn frames_that_were_sent_have_come() {
    let tls = trusting().expect("TLS");
    // Of each frame, so many are a ping, a pong, a message; and so many bytes are in a message.
    let kinds: &[(&str, u64, u64, u64, u64)] = &[
        ("ping", 1, 0, 0, 0),
        ("ping-125", 1, 0, 0, 0),
        ("pong", 0, 1, 0, 0),
        ("empty", 0, 0, 1, 0),
        ("fragment-1", 0, 0, 100_000, 100_000),
        ("fragment-0", 0, 0, 1_000, 0),
        ("fragmented", 0, 0, 64, 64),
        ("text-64", 0, 0, 1, 64),
        ("binary-64", 0, 0, 1, 64),
        ("sink-1m", 0, 0, 1, 1 << 20),
        ("deflate-zeros", 0, 0, 1, 16 << 20),
        ("deflate-final-blocks", 0, 0, 1, 0),
        ("deflate-noise", 0, 0, 1, 64 << 10),
        ("tls-records", 1, 0, 0, 0),
        ("tls-ping", 1, 0, 0, 0),
        ("tls-keys", 1, 0, 0, 0),
        ("hixie76-64", 0, 0, 1, 64),
        ("hixie76-empty", 0, 0, 1, 0),
    ];
    for &(name, ping, pong, frames_per_message, message_bytes) in kinds {
        let server = Counted::start();
        let mut plan = plan_of(name, &tls);
        // The same, with an end: then all of it comes.
        for segment in &mut plan.segments {
            segment.times = 1;
        }
        if matches!(plan.security, Security::TlsByByte | Security::TlsRekeyed) {
            let segment = &mut plan.segments[0];
            let frame_bytes = segment.bytes.len() / segment.frames as usize;
            segment.bytes = segment.bytes[..100 * frame_bytes].into();
            segment.frames = 100;
        }
        let frames: u64 = plan.segments.iter().map(|segment| segment.frames).sum();
        let all = frames * CONNECTIONS as u64;
        let messages = all.checked_div(frames_per_message).unwrap_or(0);
        let expected = (all * ping, all * pong, messages, messages * message_bytes);
        let tally = attack(&plan, server.front(&plan, &tls), |heard| {
            assert_eq!(heard.recv_timeout(PATIENCE), Ok(News::Begun), "{name}");
            assert_eq!(heard.recv_timeout(PATIENCE), Ok(News::AllSent), "{name}");
            wait_until(|| server.came() == expected);
        });
        assert_eq!(server.came(), expected, "{name}: {tally:?}");
        assert_eq!(tally.frames, all, "{name}");
        assert_eq!(tally.opened, CONNECTIONS as u64, "{name}");
        assert_eq!(tally.holding, CONNECTIONS as u64, "{name}");
        assert_eq!(
            (tally.ended, tally.errors.len()),
            (0, 0),
            "{name}: {tally:?}"
        );
        let bytes = plan.request.len() + plan.segments[0].bytes.len();
        assert_eq!(tally.sent_bytes, (bytes * CONNECTIONS) as u64, "{name}");
        match plan.security {
            Security::TlsByByte => assert_eq!(tally.records, tally.sent_bytes, "{name}"),
            Security::TlsRekeyed => assert!(tally.rekeyed >= all / 2, "{name}: {tally:?}"),
            Security::None => assert_eq!(tally.records, 0, "{name}"),
            Security::Tls => assert!(tally.records > 0, "{name}"),
        }
    }
}

#[test]
fn records_that_were_ready_count_when_they_are_sent() {
    let tls = trusting().expect("TLS");
    let server = Counted::start();
    let plan = plan_of("tls-records", &tls);
    assert_eq!(plan.segments[0].times, u64::MAX, "it has no end");
    let tally = attack(&plan, server.front(&plan, &tls), |heard| {
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(News::Begun));
        assert!(wait_until(|| server.came().0 > 1000));
    });
    // What was on its way is lost with the connection, and no more comes than was sent.
    let pings = server.came().0;
    assert!(
        tally.frames >= pings && pings > 1000,
        "{pings} came of {tally:?}"
    );
    assert!(tally.records >= tally.sent_bytes, "{tally:?}");
    assert_eq!(tally.errors.len(), 0, "{tally:?}");
}

/// What a server has counted of a storm.
type Stormed = fn(&Counts) -> u64;

#[test]
fn times_round_that_were_counted_have_come() {
    let tls = trusting().expect("TLS");
    let kinds: &[(&str, Stormed)] = &[
        ("connect", |counts| counts.connections),
        // Its service has no page, and refuses.
        ("http-404", |counts| {
            counts.http_requests + counts.handshakes_refused
        }),
        ("upgrade", |counts| counts.handshakes),
        ("tls-handshakes", |counts| counts.tls_handshakes),
    ];
    for &(name, stormed) in kinds {
        let server = Counted::start();
        let plan = plan_of(name, &tls);
        assert_ne!(plan.then, Then::Hold, "{name}");
        let tally = attack(&plan, server.front(&plan, &tls), |_| {
            assert!(wait_until(|| stormed(&server.counts()) >= 50), "{name}");
        });
        // Those on their way at the end are in one of the two counts, and a client's handshake of
        // TLS is over before the server's.
        let near = |count: u64| count.abs_diff(tally.cycles) <= 2 * CONNECTIONS as u64;
        assert!(
            wait_until(|| near(stormed(&server.counts()))),
            "{name}: {tally:?}, {:?}",
            server.counts()
        );
        assert_eq!(tally.opened.abs_diff(tally.cycles), 0, "{name}: {tally:?}");
    }
}

#[test]
fn an_attack_that_is_refused_does_not_count_as_one() {
    let tls = trusting().expect("TLS");
    let server = Counted::start();
    let mut plan = plan_of("ping", &tls);
    // No key: 400.
    plan.request = b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\n\r\n"[..].into();
    plan.reopens = false;
    let tally = attack(&plan, server.front(&plan, &tls), |heard| {
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(News::Begun));
    });
    assert_eq!(
        (tally.opened, tally.frames, tally.ended),
        (0, 0, 3),
        "{tally:?}"
    );
}

fn manners(target: Target, tls: &Arc<ClientConfig>, security: Security) -> Manners {
    Manners {
        target: Some(target),
        from: None,
        tls: tls.clone(),
        security,
        every: Duration::from_millis(2),
        newcomer_every: Duration::from_millis(5),
        message_bytes: 32,
    }
}

#[test]
fn a_neighbour_has_its_echoes_and_newcomers_get_in() {
    let tls = trusting().expect("TLS");
    let server = Counted::start();
    for (target, security) in [
        (server.plain, Security::None),
        (server.secure, Security::Tls),
    ] {
        let phase = AtomicU8::new(WARMING);
        let (ready, readied) = mpsc::channel();
        let manners = manners(target, &tls, security);
        let before = server.counts();
        let report = thread::scope(|scope| {
            let neighbour = scope.spawn(|| {
                let ready = ready;
                neighbour::run(&manners, None, &phase, &ready)
            });
            assert_eq!(readied.recv_timeout(PATIENCE), Ok(true));
            phase.store(MEASURING, Ordering::Release);
            let come = |counts: Counts| counts.handshakes - before.handshakes > 5;
            assert!(wait_until(|| come(server.counts())));
            phase.store(OVER, Ordering::Release);
            neighbour.join().expect("no panic").expect("it began")
        });
        assert_eq!(report.cut_off, None);
        assert_eq!(report.newcomer_errors, [""; 0]);
        assert!(report.recovered);
        assert!(report.echo.count >= 10, "{report:?}");
        assert!(report.newcomers.count >= 4, "{report:?}");
        assert!(report.echo.p50 <= report.echo.p99 && report.echo.p99 <= report.echo.worst);
    }
}

#[test]
fn a_neighbour_tells_that_it_was_cut_off() {
    let tls = trusting().expect("TLS");
    let server = Counted::start();
    let phase = AtomicU8::new(MEASURING);
    let (ready, readied) = mpsc::channel();
    let manners = manners(server.plain, &tls, Security::None);
    let report = thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let ready = ready;
            neighbour::run(&manners, None, &phase, &ready)
        });
        assert_eq!(readied.recv_timeout(PATIENCE), Ok(true));
        server
            .server
            .as_ref()
            .expect("it runs")
            .handle()
            .stop_within(0);
        let open = || server.server.as_ref().map(|server| server.handle().stats());
        wait_until(|| open().is_some_and(|stats| stats.connections_open == 0));
        // What it has not heard yet it hears when it looks for what is missing.
        phase.store(OVER, Ordering::Release);
        neighbour.join().expect("no panic").expect("it began")
    });
    assert!(report.cut_off.is_some(), "{report:?}");
}
