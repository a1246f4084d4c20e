//! A thread of a server that dies takes the server with it, and says why.

use std::{
    io::Write,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringwire::{
    Config, Conn, ConnId, Message, Outgoing, Server, Service, StartError, conn::Key, service::Echo,
};

use crate::{
    common::{PATIENCE, Peer, TEXT, masked},
    guard::{ON_PURPOSE, guarded, server_threads},
    host::{Hosted, config},
    peer::{CLOSE, close_payload, until},
};

/// Bytes whose end is a panic: an application's mistake that no connection is the reason for.
struct Bomb;

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        // Few enough to wait for company, and too many to be copied.
        &[b'.'; 20_000]
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("{ON_PURPOSE}: the end of some bytes");
    }
}

/// Lets this shard drop a bomb.
fn kill(server: &Server, shard: u16) {
    let nobody = Key {
        slot: 4321,
        generation: 0,
    };
    let bomb = Outgoing::from(Bytes::from_owner(Bomb));
    let handle = server.handle();
    handle.send(ConnId::new(shard, nobody), bomb).unwrap();
}

fn start<S: Hosted>(
    config: Config,
    service: impl Fn(u16) -> S + Send + Sync + 'static,
) -> Result<Server, StartError> {
    let builder = crate::host::builder().listen("127.0.0.1:0").shards(3);
    builder
        .pinned(false)
        .config(config)
        .start(move |shard| service(shard).hosted())
}

/// Sees a connection off whose shard has died, or whose server stops.
fn see_off(mut peer: Peer) -> bool {
    let said_goodbye = match peer.try_read_frame() {
        Ok(frame) => frame.payload == close_payload(1001, b""),
        Err(_) => return false,
    };
    // One of the thread that dies may have a goodbye too, and no time to wait for the answer.
    let answer = masked(CLOSE, &close_payload(1001, b""));
    let _ = peer.stream.write_all(&answer);
    while peer.fill().is_ok_and(|more| more) {}
    said_goodbye
}

/// Sees all of them off at once. Returns how many were told goodbye.
fn see_all_off(peers: Vec<Peer>) -> usize {
    thread::scope(|scope| {
        let leaving: Vec<_> = peers
            .into_iter()
            .map(|it| scope.spawn(|| see_off(it)))
            .collect();
        let left = leaving.into_iter().map(|it| it.join().unwrap());
        left.filter(|&said_goodbye| said_goodbye).count()
    })
}

#[test]
fn any_shard_that_dies_ends_the_server_and_join_says_which_and_why() {
    guarded(|| {
        for shard in 0..3 {
            let server = start(config(|_| {}), |_| Echo).unwrap();
            // The kernel spreads them.
            let address = server.addresses()[0].clone();
            let peers: Vec<_> = (0..12).map(|_| Peer::open(&address, "/")).collect();
            kill(&server, shard);
            let farewells = see_all_off(peers);
            assert!(farewells > 0, "the others close their connections");
            let error = server.join().unwrap_err();
            let StartError::ShardPanicked {
                shard: which,
                message,
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!(*which, shard);
            assert_eq!(*message, format!("{ON_PURPOSE}: the end of some bytes"));
            let expected = format!("shard {shard} panicked: {message}");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    });
}

#[test]
fn a_server_that_nobody_joins_ends_as_well() {
    guarded(|| {
        let server = start(config(|_| {}), |_| Echo).unwrap();
        kill(&server, 2);
        let deadline = Instant::now() + PATIENCE;
        while server_threads() > 0 {
            assert!(Instant::now() < deadline, "the others go on");
            thread::yield_now();
        }
        assert!(matches!(
            server.join(),
            Err(StartError::ShardPanicked { shard: 2, .. })
        ));
    });
}

/// Says which shard it is, and waits in a message until the test lets it go on.
struct Stuck {
    shard: u16,
    held: Arc<Mutex<mpsc::Receiver<()>>>,
}

crate::host::boxed!(Stuck);

impl Service for Stuck {
    type State = ();

    fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.send(self.shard.to_string()).unwrap();
    }

    fn on_message(&mut self, _: &mut Conn<'_, ()>, _: Message<'_>) {
        let _ = self.held.lock().unwrap().recv();
    }
}

#[test]
fn a_shard_that_is_stuck_does_not_hide_the_death_of_another() {
    guarded(|| {
        let (go_on, held) = mpsc::channel();
        let held = Arc::new(Mutex::new(held));
        let config = config(|config| config.drain_timeout_ms = 100);
        let server = start(config, move |shard| Stuck {
            shard,
            held: held.clone(),
        });
        let server = server.unwrap();
        let mut peer = Peer::open(&server.addresses()[0], "/");
        let stuck: u16 = {
            let told = peer.read_frame().payload;
            std::str::from_utf8(&told).unwrap().parse().unwrap()
        };
        peer.send(TEXT, b"wait");
        let dies = (stuck + 1) % 3;
        kill(&server, dies);
        let begun = Instant::now();
        let error = server.join().unwrap_err();
        assert!(matches!(error, StartError::ShardPanicked { shard, .. } if shard == dies));
        let waited = begun.elapsed();
        let bounds = Duration::from_millis(1000)..Duration::from_secs(8);
        assert!(bounds.contains(&waited), "{waited:?}");
        drop(go_on);
    });
}

#[test]
fn a_service_that_cannot_be_made_is_an_error_and_leaves_nothing() {
    guarded(|| {
        for bad in 0..3 {
            let made = start(config(|_| {}), move |shard| {
                assert!(shard != bad, "{ON_PURPOSE}: no service");
                Echo
            });
            let error = made.unwrap_err();
            let expected = format!("shard {bad} panicked: {ON_PURPOSE}: no service");
            assert!(error.to_string().starts_with(&expected), "{error}");
            // A thread that was joined is listed for a moment more.
            until("its threads are gone", || server_threads() == 0);
        }
    });
}

#[cfg(feature = "aio")]
mod in_async_code {
    use super::*;
    use ringwire::aio;

    fn start<H: aio::Handler>(
        handler: impl Fn(u16) -> H + Send + Sync + 'static,
    ) -> Result<aio::Server, StartError> {
        let builder = aio::Server::builder().listen("127.0.0.1:0").threads(3);
        builder.pinned(false).start_each(handler)
    }

    async fn explode_or_echo(mut socket: aio::WebSocket) {
        let writer = socket.writer();
        while let Some(message) = socket.next().await {
            if message.text() != Some("explode") {
                let _ = writer.send(message).await;
                continue;
            }
            let writer = writer.clone();
            // Nobody is about to send for it but the task that all connections share.
            tokio::task::spawn_local(async move {
                let _ = writer.send(Bytes::from_owner(Bomb)).await;
            });
        }
    }

    #[test]
    fn a_thread_whose_keeper_dies_ends_the_server() {
        guarded(|| {
            let server = start(|_| explode_or_echo).unwrap();
            let address = server.addresses()[0].clone();
            let mut peers: Vec<_> = (0..12).map(|_| Peer::open(&address, "/")).collect();
            let mut victim = peers.pop().unwrap();
            victim.echo("hello");
            victim.send(TEXT, b"explode");
            let farewells = see_all_off(peers);
            assert!(farewells > 0, "the others close their connections");
            let error = server.join().unwrap_err();
            let StartError::ShardPanicked { message, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(*message, format!("{ON_PURPOSE}: the end of some bytes"));
        });
    }

    #[test]
    fn a_handler_that_cannot_be_made_is_an_error_and_leaves_nothing() {
        guarded(|| {
            for bad in 0..3 {
                let made = start(move |thread| {
                    assert!(thread != bad, "{ON_PURPOSE}: no handler");
                    explode_or_echo
                });
                let error = made.unwrap_err();
                let expected = format!("shard {bad} panicked: {ON_PURPOSE}: no handler");
                assert!(error.to_string().starts_with(&expected), "{error}");
                until("its threads are gone", || server_threads() == 0);
            }
        });
    }
}
