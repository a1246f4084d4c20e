//! What has come while a server was stopped is looked at before anybody is dropped for silence.

use rustix::process::Signal;

use crate::{
    common::{Peer, TEXT, masked, request},
    guard::guarded,
    peer::pause,
    serve::{Ringwire, command},
};

const PEERS: usize = 20;

fn after_a_stop_nobody_is_dropped(engine: &str) {
    guarded(|| {
        let ringwire = Ringwire::start(&mut command(&[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--shards",
            "1",
            "--engine",
            engine,
            "--idle-timeout-ms",
            "4000",
            "--handshake-timeout-ms",
            "3000",
            "--message-timeout-ms",
            "3000",
        ]));
        let address = &ringwire.addresses[0];
        let mut peers: Vec<_> = (0..PEERS).map(|_| Peer::open(address, "/")).collect();
        let mut sending: Vec<_> = (0..5).map(|_| Peer::open(address, "/")).collect();
        for peer in &mut peers {
            peer.echo("here");
        }
        // Some are stopped in the middle of something, and the deadlines of all are in the
        // middle of the stop.
        let message = masked(TEXT, b"in two pieces");
        for peer in &mut sending {
            peer.write(&message[..8]);
        }
        let mut opening: Vec<_> = (0..5).map(|_| Peer::connect(address)).collect();
        let head = request("/");
        for peer in &mut opening {
            peer.write(&head.as_bytes()[..20]);
        }
        pause(100);
        ringwire.signal(Signal::STOP);
        pause(500);
        for peer in &mut peers {
            peer.send(TEXT, b"meanwhile");
        }
        for peer in &mut opening {
            peer.write(&head.as_bytes()[20..]);
        }
        for peer in &mut sending {
            peer.write(&message[8..]);
        }
        pause(4500);
        ringwire.signal(Signal::CONT);
        for peer in &mut peers {
            assert_eq!(peer.read_message().payload, b"meanwhile");
        }
        for peer in &mut opening {
            let head = peer.read_head();
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        }
        for peer in &mut sending {
            assert_eq!(peer.read_message().payload, b"in two pieces");
        }
        for mut peer in peers.into_iter().chain(opening).chain(sending) {
            peer.send(TEXT, b"still here");
            assert_eq!(peer.read_message().payload, b"still here");
            peer.close();
        }
        ringwire.signal(Signal::TERM);
        let (status, log) = ringwire.wait();
        assert!(status.success(), "{log}");
    });
}

#[test]
fn shards() {
    after_a_stop_nobody_is_dropped("shard");
}

#[cfg(feature = "aio")]
#[test]
fn the_async_engine() {
    after_a_stop_nobody_is_dropped("async");
}
