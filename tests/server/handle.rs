//! The server from other threads: messages, ends, counts, and stopping.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringwire::{
    CloseCause, CloseCode, Config, Conn, ConnId, Handle, HandleError, Message, Outgoing, SendError,
    Server, Service,
};

use crate::{
    common::{BINARY, PATIENCE, Peer, TEXT},
    guard::guarded,
    host::{Engine, Host, Hosted, config, host},
    peer::{CLOSE, close_payload, until},
};

/// Says who has come, echoes, and waits at the gate when it is told to.
#[derive(Clone)]
struct Porter {
    opened: mpsc::Sender<ConnId>,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
}

/// The test's side of the porters.
struct Office {
    opened: mpsc::Receiver<ConnId>,
    gate: mpsc::Sender<()>,
}

crate::host::boxed!(Porter);

impl Service for Porter {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        self.opened.send(conn.id()).unwrap();
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        if message.text() == Some("wait") {
            conn.send("waiting is over").unwrap();
            self.gate.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            return;
        }
        conn.send(message).unwrap();
    }
}

fn office() -> (Porter, Office) {
    let (opened, ids) = mpsc::channel();
    let (gate, waiting) = mpsc::channel();
    let gate_of_porters = Arc::new(Mutex::new(waiting));
    let porter = Porter {
        opened,
        gate: gate_of_porters,
    };
    (porter, Office { opened: ids, gate })
}

impl Office {
    fn open(&self, host: &Host) -> (Peer, ConnId) {
        let peer = host.open();
        (peer, self.opened.recv_timeout(PATIENCE).unwrap())
    }
}

fn with_office(engine: Engine, config: Config, body: impl FnOnce(&Host, &Office)) {
    let (porter, office) = office();
    host(
        engine,
        config,
        move || porter.clone(),
        |host| body(host, &office),
    );
}

#[test]
fn messages_come_from_other_threads_in_order() {
    with_office(Engine::Server, config(|_| {}), |host, office| {
        let mut open: Vec<_> = (0..8).map(|_| office.open(host)).collect();
        let ids: Vec<_> = open.iter().map(|&(_, id)| id).collect();
        let threads: Vec<_> = (0..3)
            .map(|sender| {
                let (handle, ids) = (host.handle(), ids.clone());
                thread::spawn(move || {
                    for index in 0..300 {
                        for &id in &ids {
                            handle.send(id, format!("{sender} {index}")).unwrap();
                        }
                    }
                })
            })
            .collect();
        for (peer, _) in &mut open {
            let mut next = [0; 3];
            for _ in 0..900 {
                let frame = peer.read_frame();
                assert_eq!(frame.first, TEXT);
                let text = String::from_utf8(frame.payload).unwrap();
                let (sender, index) = text.split_once(' ').unwrap();
                let sender: usize = sender.parse().unwrap();
                assert_eq!(index, next[sender].to_string(), "of {sender}");
                next[sender] += 1;
            }
        }
        for thread in threads {
            thread.join().unwrap();
        }
        // Bytes go as binary, adopted or copied; shared text stays text.
        let (peer, id) = &mut open[0];
        for len in [0, 10, 100_000] {
            let handle = host.handle();
            handle.send(*id, Bytes::from(vec![b'x'; len])).unwrap();
            let text = Outgoing::text(Bytes::from(vec![b'x'; len])).unwrap();
            handle.send(*id, text).unwrap();
            for first in [BINARY, TEXT] {
                let frame = peer.read_frame();
                assert_eq!((frame.first, frame.payload.len()), (first, len));
            }
        }
        for (peer, _) in open {
            peer.close();
        }
    });
}

#[test]
fn connections_are_closed_from_other_threads() {
    with_office(Engine::Server, config(|_| {}), |host, office| {
        let (mut peer, id) = office.open(host);
        let handle = host.handle();
        let code = CloseCode::new(3333).unwrap();
        let long = "x".repeat(124);
        assert_eq!(
            handle.close(id, code, &long),
            Err(HandleError::ReasonTooLong)
        );
        peer.echo("still open");
        let closing = thread::spawn(move || {
            handle.send(id, "farewell").unwrap();
            handle.close(id, code, &"x".repeat(123)).unwrap();
            // Too late: nobody is told, nothing happens.
            handle.send(id, "too late").unwrap();
            handle.close(id, CloseCode::NORMAL_CLOSURE, "").unwrap();
        });
        peer.expect_text("farewell");
        assert_eq!(peer.expect_close(3333).len(), 123);
        closing.join().unwrap();
        peer.send(CLOSE, &close_payload(3333, b""));
        peer.expect_end();
        assert_eq!(host.close_cause(), CloseCause::Application(code));
    });
}

#[test]
fn a_message_to_a_connection_that_is_gone_reaches_nobody() {
    with_office(Engine::ServerOfOneShard, config(|_| {}), |host, office| {
        let handle = host.handle();
        let (peer, gone) = office.open(host);
        peer.close();
        host.closes(1);
        // The place is free when the neighbour is all that is left.
        until("the place is free", || host.stats().connections_open == 1);
        let (mut peer, id) = office.open(host);
        let slot = |id: ConnId| id.bits() & 0xff_ffff;
        assert_eq!(slot(gone), slot(id), "the place is used again");
        assert_ne!(gone, id);
        handle.send(gone, "not for you").unwrap();
        handle
            .close(gone, CloseCode::NORMAL_CLOSURE, "nor this")
            .unwrap();
        // The mailbox keeps the order: what comes first would have come before.
        handle.send(id, "for you").unwrap();
        peer.expect_text("for you");
        peer.echo("still open");
        peer.close();
    });
}

#[test]
fn a_full_mailbox_is_an_error_and_loses_nothing_that_was_taken() {
    let config = config(|config| config.mailbox_messages_max = 4);
    with_office(Engine::ServerOfOneShard, config, |host, office| {
        let handle = host.handle();
        let (mut peer, id) = office.open(host);
        let (mut other, _) = office.open(host);
        other.send(TEXT, b"wait");
        until("the shard waits", || {
            // Its mailbox is no longer read once it does.
            handle.send(id, "filler") == Err(HandleError::MailboxFull)
        });
        assert_eq!(handle.send(id, "x"), Err(HandleError::MailboxFull));
        let full = handle.close(id, CloseCode::NORMAL_CLOSURE, "");
        assert_eq!(full, Err(HandleError::MailboxFull));
        office.gate.send(()).unwrap();
        other.expect_text("waiting is over");
        // At least those four arrive, and after them there is room.
        let mut fillers = 0;
        until("there is room", || handle.send(id, "the end").is_ok());
        while peer.read_frame().payload == b"filler" {
            fillers += 1;
        }
        assert!(fillers >= 4, "{fillers}");
        peer.close();
        other.close();
    });
}

#[test]
fn a_sender_without_a_pause_starves_nobody() {
    with_office(Engine::ServerOfOneShard, config(|_| {}), |host, office| {
        let (mut peer, id) = office.open(host);
        let handle = host.handle();
        let (stop, stopped) = mpsc::channel::<()>();
        let sending = thread::spawn(move || {
            let shared = Outgoing::text(Bytes::from(vec![b'x'; 4000])).unwrap();
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                match handle.send(id, shared.clone()) {
                    Ok(()) | Err(HandleError::MailboxFull) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let reading = thread::spawn(move || {
            while peer
                .try_read_frame()
                .is_ok_and(|frame| frame.payload.len() == 4000)
            {}
        });
        for _ in 0..20 {
            let begun = Instant::now();
            host.neighbour_echoes(1);
            let elapsed = begun.elapsed();
            assert!(
                elapsed < Duration::from_secs(2),
                "the neighbour waited {elapsed:?}"
            );
        }
        drop(stop);
        sending.join().unwrap();
        until("the mailbox has room again", || {
            let closed = host.handle().close(id, CloseCode::NORMAL_CLOSURE, "");
            closed.is_ok()
        });
        reading.join().unwrap();
    });
}

/// A server whose end is the test's subject, with connections of its own.
fn server(config: Config) -> (Server, Office) {
    let (porter, office) = office();
    let builder = crate::host::builder().listen("127.0.0.1:0").shards(2);
    let server = builder.pinned(false).config(config);
    (
        server.start(move |_| porter.clone().hosted()).unwrap(),
        office,
    )
}

const CONNECTIONS: usize = 200;

#[test]
fn stopping_says_1001_to_everybody_and_ends() {
    guarded(|| {
        let (server, office) = server(config(|_| {}));
        let handle = server.handle();
        let address = server.addresses()[0].clone();
        let peers: Vec<_> = (0..CONNECTIONS)
            .map(|_| Peer::open(&address, "/"))
            .collect();
        // One that has not said anything, and one in the middle of its head.
        let mut silent = Peer::connect(&address);
        let mut begun = Peer::connect(&address);
        begun.write(b"GET / HT");
        until("all are there", || {
            handle.stats().connections_open == CONNECTIONS as u64 + 2
        });
        let stopping = Instant::now();
        handle.stop();
        handle.stop();
        for peer in peers {
            peer.answer_close(1001);
        }
        silent.expect_gone();
        begun.expect_gone();
        server.join().unwrap();
        let elapsed = stopping.elapsed();
        assert!(elapsed < Duration::from_secs(8), "{elapsed:?} of draining");
        let stats = handle.stats();
        assert_eq!((stats.connections_open, stats.queued_bytes), (0, 0));
        assert_eq!((stats.counts.handshakes, stats.counts.timeouts), (200, 0));
        assert_eq!(stats, sum(&handle));
        // Nobody listens any more, and the handle says so.
        let id = office.opened.recv().unwrap();
        assert_eq!(handle.send(id, "hello"), Err(HandleError::Stopped));
        assert_eq!(
            handle.close(id, CloseCode::NORMAL_CLOSURE, ""),
            Err(HandleError::Stopped)
        );
        handle.stop();
    });
}

/// An echo that writes down which messages it was told to have been dropped.
#[derive(Clone)]
struct Complaining {
    opened: mpsc::Sender<ConnId>,
    dropped: mpsc::Sender<(ConnId, SendError)>,
}

crate::host::boxed!(Complaining);

impl Service for Complaining {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        self.opened.send(conn.id()).unwrap();
    }

    fn on_send_failed(&mut self, id: ConnId, error: SendError) {
        self.dropped.send((id, error)).unwrap();
        assert_ne!(error, SendError::Closed, "{}", crate::guard::ON_PURPOSE);
    }
}

#[test]
fn a_service_is_told_of_messages_that_did_not_get_into_their_queue() {
    let (opened, ids) = mpsc::channel();
    let (dropped, complaints) = mpsc::channel();
    let service = Complaining { opened, dropped };
    let config = config(|config| {
        config.message_bytes_max = 1 << 20;
        config.queue_bytes_max = 2 << 20;
    });
    let make = move || service.clone();
    // Of one shard, so that whoever comes later has the same mailbox.
    host(Engine::ServerOfOneShard, config, make, |host| {
        let handle = host.handle();
        let peer = host.open();
        let id = ids.recv_timeout(PATIENCE).unwrap();
        // Nobody reads, so that some of them have no room.
        let payload = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..100 {
            handle.send(id, payload.clone()).unwrap();
        }
        let complaint = complaints.recv_timeout(PATIENCE).unwrap();
        assert_eq!(complaint, (id, SendError::QueueFull));
        // The mailbox is read in the order in which it was written, a share in each turn. Once this
        // one has come, none is left that would find the connection gone.
        let mut witness = host.open();
        let witness_id = ids.recv_timeout(PATIENCE).unwrap();
        handle.send(witness_id, "all are read").unwrap();
        assert_eq!(witness.read_frame().payload, b"all are read");
        peer.reset();
        until("it is gone", || host.stats().connections_open == 2);
        handle.send(id, "to nobody").unwrap();
        let mut told = 1;
        loop {
            let (of, error) = complaints.recv_timeout(PATIENCE).unwrap();
            told += 1;
            assert_eq!(of, id);
            if error == SendError::Closed {
                break;
            }
        }
        // A panic in there is contained, and counted with the others.
        host.expect_count(told, |counts| counts.handle_sends_dropped);
        host.expect_count(1, |counts| counts.service_panics);
    });
}

fn sum(handle: &Handle) -> ringwire::Snapshot {
    let mut sum = ringwire::Snapshot::default();
    for shard in handle.shard_stats() {
        sum += shard;
    }
    sum
}

#[test]
fn stopping_does_not_wait_for_peers_that_do_not_answer() {
    guarded(|| {
        let drain_timeout_ms = 400;
        let (server, _office) = server(config(|config| {
            config.drain_timeout_ms = drain_timeout_ms;
        }));
        let handle = server.handle();
        let address = server.addresses()[0].clone();
        let mut peers: Vec<_> = (0..CONNECTIONS)
            .map(|_| Peer::open(&address, "/"))
            .collect();
        // One does not even read: its queue is full.
        let mut stuck = Peer::open(&address, "/");
        let mut writer = stuck.writer();
        writer.stream.set_nonblocking(true).unwrap();
        let message = crate::common::masked(BINARY, &[0; 60_000]);
        until("reading from it has paused", || {
            let _ = std::io::Write::write_all(&mut writer.stream, &message);
            handle.stats().counts.reads_paused > 0
        });
        let stopping = Instant::now();
        handle.stop();
        server.join().unwrap();
        let elapsed = stopping.elapsed();
        assert!(
            elapsed >= Duration::from_millis(drain_timeout_ms),
            "{elapsed:?}"
        );
        assert!(
            elapsed < Duration::from_millis(drain_timeout_ms + 4000),
            "{elapsed:?}"
        );
        for peer in &mut peers {
            peer.expect_close(1001);
            peer.expect_end();
        }
        stuck.expect_gone();
        assert_eq!(handle.stats().connections_open, 0);
    });
}

#[test]
fn stopping_with_a_drain_timeout_of_nothing_drops_everybody() {
    guarded(|| {
        let (server, _office) = server(config(|config| config.drain_timeout_ms = 0));
        let address = server.addresses()[0].clone();
        let mut peers: Vec<_> = (0..20).map(|_| Peer::open(&address, "/")).collect();
        server.handle().stop();
        server.join().unwrap();
        for peer in &mut peers {
            peer.expect_gone();
        }
    });
}

#[test]
fn settings_change_under_connections_that_are_there() {
    guarded(|| {
        let (server, office) = server(Config::default());
        let handle = server.handle();
        let mut peers: Vec<_> = (0..2)
            .map(|_| {
                let peer = Peer::open(&server.addresses()[0], "/");
                (peer, office.opened.recv_timeout(PATIENCE).unwrap())
            })
            .collect();
        let mut changed = Config::default();
        changed.queue_low_bytes = changed.queue_high_bytes + 1;
        let error = handle.reconfigure(&changed).unwrap_err();
        assert_eq!(error.field(), "queue_low_bytes");
        changed.queue_low_bytes = 0;
        changed.message_bytes_max = 10;
        changed.backlog = 1;
        changed.recv_buffers = 64;
        assert_eq!(
            handle.reconfigure(&changed).unwrap(),
            ["backlog", "recv_buffers"]
        );
        for (peer, id) in &mut peers {
            // What is posted later is heard of later.
            handle.send(*id, "told").unwrap();
            peer.expect_text("told");
            peer.send(TEXT, b"eleven bytes");
            peer.expect_close(1009);
        }
        handle.stop();
        server.join().unwrap();
    });
}
