//! Services that hand messages to async code: order, limits, panics, ends.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use ringwire::{
    CloseCause, CloseCode, Conn, ConnId, Message, Service,
    aio::bridge::{self, Counts, Limits, Payload, Refused, Request, Running, Sender},
};
use tokio::sync::Semaphore;

use crate::{
    common::{PATIENCE, Peer, TEXT, masked},
    guard::ON_PURPOSE,
    host::{Engine, Host, config, host},
    peer::{CLOSE, close_payload, until},
};

/// Hands every text over, and says what the bridge does not take.
struct Asking {
    sender: Sender<String>,
    opened: mpsc::Sender<ConnId>,
}

crate::host::boxed!(Asking);

impl Service for Asking {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        let _ = self.opened.send(conn.id());
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let body = message.text().expect("a text").to_owned();
        let reply = match self.sender.try_send(conn.id(), body) {
            Ok(()) => return,
            Err(Refused::Full(body)) => format!("full: {body}"),
            Err(Refused::ConnFull(body)) => format!("too many: {body}"),
            Err(Refused::Stopped(body)) => {
                conn.send(format!("stopped: {body}")).unwrap();
                conn.close(CloseCode::TRY_AGAIN_LATER, "later").unwrap();
                return;
            }
        };
        conn.send(reply).unwrap();
    }
}

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// What a test sees of a host with a bridge.
struct Scene<'a> {
    host: &'a Host,
    running: Running<String>,
    opened: mpsc::Receiver<ConnId>,
}

impl Scene<'_> {
    fn open(&self) -> (Peer, ConnId) {
        let peer = self.host.open();
        (peer, self.opened.recv_timeout(PATIENCE).unwrap())
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn(Counts) -> bool) {
        until(what, || condition(self.running.counts()));
    }

    /// Stops the bridge. Everything that was handed over has to have come to some end.
    #[track_caller]
    fn stop(self, drain_timeout_ms: u64) -> Counts {
        let counts = self.running.stop(drain_timeout_ms);
        let ends = counts.finished + counts.panicked + counts.abandoned;
        assert_eq!(counts.handed_over, ends, "{counts:?}");
        assert_eq!((counts.pending, counts.payload_bytes), (0, 0), "{counts:?}");
        counts
    }
}

fn with_bridge<H>(limits: Limits, handler: H, body: impl FnOnce(Scene<'_>))
where
    H: AsyncFn(Request<String>) + Send + 'static,
{
    let (sender, bridge) = bridge::new(limits).unwrap();
    let (opened, ids) = mpsc::channel();
    let config = config(|config| config.mailbox_messages_max = 16);
    let service = {
        let (sender, opened) = (Mutex::new(sender), Mutex::new(opened));
        move || Asking {
            sender: sender.lock().unwrap().clone(),
            opened: opened.lock().unwrap().clone(),
        }
    };
    host(Engine::Server, config, service, |host| {
        let running = bridge.start(host.handle(), handler).unwrap();
        body(Scene {
            host,
            running,
            opened: ids,
        });
    });
}

/// Lets as many handlers pass as the test says.
fn gate() -> (Arc<Semaphore>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    (gate.clone(), gate)
}

async fn pass(gate: &Semaphore) {
    gate.acquire().await.unwrap().forget();
}

#[test]
fn each_connection_is_answered_in_its_order_and_none_waits_for_another() {
    let (gate, of_handler) = gate();
    let most = Arc::new(AtomicUsize::new(0));
    let most_at_work = most.clone();
    let at_work = Cell::new(0);
    let handler = async move |request: Request<String>| {
        at_work.set(at_work.get() + 1);
        most_at_work.fetch_max(at_work.get(), Ordering::Relaxed);
        if request.body == "wait" {
            pass(&of_handler).await;
        }
        // Others overtake here, if they can.
        tokio::task::yield_now().await;
        request.answer(&request.body[..]).await.unwrap();
        at_work.set(at_work.get() - 1);
    };
    let limits = limits(|limits| limits.concurrent_max = 4);
    with_bridge(limits, handler, |scene| {
        let mut peers: Vec<_> = (0..6).map(|_| scene.open().0).collect();
        peers[0].send(TEXT, b"wait");
        for round in 0..60 {
            for peer in &mut peers {
                peer.send(TEXT, round.to_string().as_bytes());
            }
        }
        // The first does not hold the others up.
        for peer in &mut peers[1..] {
            for round in 0..60 {
                peer.expect_text(&round.to_string());
            }
        }
        scene.until("the first waits", |counts| counts.pending == 61);
        gate.add_permits(1);
        peers[0].expect_text("wait");
        for round in 0..60 {
            peers[0].expect_text(&round.to_string());
        }
        let most = most.load(Ordering::Relaxed);
        assert!((2..=4).contains(&most), "{most} at a time");
        for peer in peers {
            peer.close();
        }
        let counts = scene.stop(0);
        assert_eq!((counts.handed_over, counts.answered), (361, 361));
        assert_eq!((counts.finished, counts.refused), (361, 0));
    });
}

#[test]
fn what_is_one_too_many_comes_back_to_the_service() {
    let (gate, of_handler) = gate();
    let handler = async move |request: Request<String>| {
        pass(&of_handler).await;
        request
            .answer(request.body.len().to_string())
            .await
            .unwrap();
    };
    let limits = limits(|limits| {
        limits.requests_max = 4;
        limits.conn_requests_max = 3;
        limits.payload_bytes_max = 1000;
    });
    with_bridge(limits, handler, |scene| {
        let (mut greedy, _) = scene.open();
        let (mut other, _) = scene.open();
        let (mut third, _) = scene.open();
        for _ in 0..3 {
            greedy.send(TEXT, b"x");
        }
        greedy.send(TEXT, b"fourth");
        greedy.expect_text("too many: fourth");
        // There is room for others.
        other.send(TEXT, b"xx");
        scene.until("all wait", |counts| counts.pending == 4);
        third.send(TEXT, b"x");
        third.expect_text("full: x");
        // Room for one more again, but not for that many bytes.
        gate.add_permits(1);
        scene.until("one has gone", |counts| counts.finished == 1);
        let long = "x".repeat(1000);
        third.send(TEXT, long.as_bytes());
        third.expect_text(&format!("full: {long}"));
        gate.add_permits(10);
        for _ in 0..3 {
            greedy.expect_text("1");
        }
        other.expect_text("2");
        scene.until("all have gone", |counts| counts.pending == 0);
        third.send(TEXT, long.as_bytes());
        third.expect_text("1000");
        for peer in [greedy, other, third] {
            peer.close();
        }
        let counts = scene.stop(0);
        assert_eq!((counts.handed_over, counts.refused), (5, 3));
    });
}

#[test]
fn requests_wait_for_the_bridge_to_start_and_are_refused_when_it_will_not() {
    let (sender, bridge) = bridge::new::<String>(Limits::default()).unwrap();
    let first = sender.clone();
    let (opened, _ids) = mpsc::channel();
    let opened = Mutex::new(opened);
    let service = move || Asking {
        sender: first.clone(),
        opened: opened.lock().unwrap().clone(),
    };
    host(Engine::Server, config(|_| {}), service, |host| {
        let mut early = host.open();
        early.send(TEXT, b"early");
        until("it was handed over", || sender.counts().pending == 1);
        let handler = async |request: Request<String>| {
            request.answer(&request.body[..]).await.unwrap();
        };
        let running = bridge.start(host.handle(), handler).unwrap();
        early.expect_text("early");
        assert_eq!(running.stop(1000).finished, 1);
        early.send(TEXT, b"late");
        early.expect_text("stopped: late");
        early.answer_close(1013);
        assert_eq!(
            host.close_cause(),
            CloseCause::Application(CloseCode::TRY_AGAIN_LATER)
        );
        assert_eq!(sender.counts().refused, 1);
    });
    let (sender, bridge) = bridge::new::<String>(Limits::default()).unwrap();
    drop(bridge);
    let id = some_id();
    let body = "nobody".to_owned();
    assert_eq!(
        sender.try_send(id, body.clone()),
        Err(Refused::Stopped(body))
    );
}

/// The name of a connection that is gone, as is its server.
fn some_id() -> ConnId {
    let mut id = None;
    let ignore = async |_request: Request<String>| {};
    with_bridge(Limits::default(), ignore, |scene| {
        let (peer, opened) = scene.open();
        id = Some(opened);
        peer.close();
        scene.stop(0);
    });
    id.unwrap()
}

#[test]
fn an_answer_to_a_connection_that_is_gone_reaches_nobody() {
    let (gate, of_handler) = gate();
    let handler = async move |request: Request<String>| {
        pass(&of_handler).await;
        request.answer("an answer").await.unwrap();
    };
    with_bridge(Limits::default(), handler, |scene| {
        // Of each shard, so that the places are used again.
        let gone: Vec<_> = (0..8).map(|_| scene.open()).collect();
        for (mut peer, _) in gone {
            peer.send(TEXT, b"a question");
            peer.close();
        }
        scene.until("all asked", |counts| counts.pending == 8);
        until("all are gone", || scene.host.stats().connections_open == 1);
        let mut peers: Vec<_> = (0..8).map(|_| scene.open().0).collect();
        gate.add_permits(8);
        scene.until("all are answered", |counts| counts.answered == 8);
        gate.add_permits(8);
        for peer in &mut peers {
            peer.send(TEXT, b"another question");
            peer.expect_text("an answer");
        }
        for peer in peers {
            // Nothing else has come.
            peer.close();
        }
        assert_eq!(scene.stop(0).finished, 16);
    });
}

#[test]
fn a_panic_is_counted_and_ends_its_connection_alone() {
    let handler = async |request: Request<String>| {
        let elsewhere = match &request.body[..] {
            "panic" => panic!("{ON_PURPOSE}, at once"),
            "panic later" => {
                tokio::task::yield_now().await;
                panic!("{ON_PURPOSE}, later")
            }
            "panic in a task" => {
                tokio::task::spawn_local(async { panic!("{ON_PURPOSE}, in a task") }).await
            }
            _ => Ok(()),
        };
        let reply = if elsewhere.is_err() {
            "survived"
        } else {
            "well"
        };
        request.answer(reply).await.unwrap();
    };
    with_bridge(Limits::default(), handler, |scene| {
        let (mut other, _) = scene.open();
        for text in ["panic", "panic later"] {
            let (mut peer, _) = scene.open();
            // What it has asked for besides is worked on all the same.
            peer.write(&[masked(TEXT, text.as_bytes()), masked(TEXT, b"more")].concat());
            peer.expect_close(1011);
            peer.send(CLOSE, &close_payload(1011, b""));
            peer.expect_end();
            other.send(TEXT, b"how are you");
            other.expect_text("well");
        }
        other.send(TEXT, b"panic in a task");
        other.expect_text("survived");
        other.close();
        let counts = scene.stop(1000);
        assert_eq!((counts.panicked, counts.finished), (2, 5));
    });
}

#[test]
fn stopping_finishes_what_it_can_and_abandons_the_rest_at_the_deadline() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let of_handlers = drops.clone();
    let (gate, of_handler) = gate();
    let handler = async move |request: Request<String>| {
        let _dropped = Dropped(of_handlers.clone());
        match &request.body[..] {
            "for ever" => std::future::pending().await,
            _ => pass(&of_handler).await,
        }
        request.answer("done").await.unwrap();
    };
    let limits = limits(|limits| {
        limits.concurrent_max = 2;
        limits.payload_bytes_max = 100;
    });
    with_bridge(limits, handler, |scene| {
        let (mut stuck, _) = scene.open();
        let (mut quick, _) = scene.open();
        for _ in 0..2 {
            stuck.send(TEXT, b"for ever");
            quick.send(TEXT, b"quick");
        }
        scene.until("all were handed over", |counts| counts.pending == 4);
        let (mut late, _) = scene.open();
        let drained = thread::spawn(move || {
            // Those that wait go on only once it has begun to stop.
            until("it stops", || {
                late.send(TEXT, &[b'x'; 101]);
                late.read_frame().payload.starts_with(b"stopped")
            });
            gate.add_permits(2);
            late.answer_close(1013);
        });
        let begun = Instant::now();
        let counts = scene.stop(400);
        let elapsed = begun.elapsed();
        drained.join().unwrap();
        assert!(elapsed >= Duration::from_millis(400), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
        assert_eq!((counts.finished, counts.abandoned), (2, 2), "{counts:?}");
        // One of those was never begun.
        assert_eq!(drops.load(Ordering::Relaxed), 3);
        for _ in 0..2 {
            quick.expect_text("done");
        }
        quick.close();
        // Nothing is left of the bridge that could answer.
        stuck.close();
    });
}

#[test]
fn a_handler_that_blocks_its_thread_does_not_hold_the_stop_up() {
    let (release, released) = mpsc::channel::<()>();
    let handler = async move |_request: Request<String>| {
        let _ = released.recv_timeout(PATIENCE);
    };
    with_bridge(Limits::default(), handler, |scene| {
        let (mut peer, _) = scene.open();
        peer.send(TEXT, b"block");
        scene.until("it was handed over", |counts| counts.pending == 1);
        let begun = Instant::now();
        let counts = scene.running.stop(0);
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        assert_eq!((counts.pending, counts.finished), (1, 0));
        peer.send(TEXT, b"more");
        peer.expect_text("stopped: more");
        peer.answer_close(1013);
        drop(release);
    });
}

#[test]
fn the_bridge_ends_by_itself_when_the_server_has() {
    let (sender, bridge) = bridge::new::<String>(Limits::default()).unwrap();
    let (opened, _ids) = mpsc::channel();
    let (services, opened) = (Mutex::new(Some(sender)), Mutex::new(opened));
    let service = move || Asking {
        sender: services.lock().unwrap().take().expect("one shard"),
        opened: opened.lock().unwrap().clone(),
    };
    let mut running = None;
    host(Engine::ServerOfOneShard, config(|_| {}), service, |host| {
        let handler = async |request: Request<String>| {
            request.answer("in time").await.unwrap();
        };
        let bridge = bridge.start(host.handle(), handler).unwrap();
        let mut peer = host.open();
        peer.send(TEXT, b"x");
        peer.expect_text("in time");
        peer.close();
        host.dismiss_neighbour();
        host.stop();
        running = Some(bridge.join());
    });
    assert_eq!(running.unwrap().answered, 1);
}

#[test]
fn answers_wait_for_room_in_the_mailbox() {
    let handler = async |request: Request<String>| {
        let (handle, id) = (request.handle(), request.id);
        for round in 0..20 {
            let mut sent = 0;
            while handle.send(id, round.to_string()).is_ok() {
                sent += 1;
            }
            let last = format!("{sent} of {round}");
            handle.send_when_room(id, last).await.unwrap();
        }
        request.answer("the end").await.unwrap();
    };
    with_bridge(Limits::default(), handler, |scene| {
        let (mut peer, _) = scene.open();
        peer.send(TEXT, b"many");
        for round in 0..20 {
            let mut received = 0;
            let last = loop {
                let text = String::from_utf8(peer.read_frame().payload).unwrap();
                if text != round.to_string() {
                    break text;
                }
                received += 1;
            };
            assert_eq!(last, format!("{received} of {round}"));
        }
        peer.expect_text("the end");
        peer.close();
        assert_eq!(scene.stop(1000).answered, 1);
    });
}

#[test]
fn limits_of_nothing_are_refused_and_payloads_tell_what_they_hold() {
    type Breakage = fn(&mut Limits);
    let broken: [(Breakage, &str); 4] = [
        (|limits| limits.requests_max = 0, "requests_max is 0"),
        (
            |limits| limits.conn_requests_max = 0,
            "conn_requests_max is 0",
        ),
        (
            |limits| limits.payload_bytes_max = 0,
            "payload_bytes_max is 0",
        ),
        (|limits| limits.concurrent_max = 0, "concurrent_max is 0"),
    ];
    for (breakage, expected) in broken {
        let error = bridge::new::<String>(limits(breakage))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let owned = ringwire::Outgoing::from("four").into_owned();
    assert_eq!(
        (owned.payload_bytes(), vec![1, 2, 3].payload_bytes()),
        (4, 3)
    );
}
