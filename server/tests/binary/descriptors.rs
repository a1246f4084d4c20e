//! A server that has few descriptors left, or none: those who are there stay, the others are told.

use std::process::Command;

use rustix::process::Signal;

use crate::{
    common::{Peer, request},
    guard::guarded,
    peer::until,
    serve::Ringwire,
};

/// Hard, so that ringwire cannot raise it.
const DESCRIPTORS_MAX: usize = 64;

/// The process itself needs some: these many are served for certain.
const EARLY: usize = 30;

const WARNING: &str = "few descriptors are left";

fn asks(peer: &mut Peer) -> String {
    let head = peer.read_head();
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn newcomers_are_told_that_no_descriptor_is_left(engine: &str) {
    guarded(|| {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("ulimit -n {DESCRIPTORS_MAX}; exec \"$0\" \"$@\""))
            .arg(env!("CARGO_BIN_EXE_ringwire"))
            .args(["--listen", "127.0.0.1:0", "--shards", "1", "--no-pin"])
            .args(["--engine", engine]);
        let ringwire = Ringwire::start(&mut shell);
        let address = &ringwire.addresses[0];
        let mut peers: Vec<_> = (0..DESCRIPTORS_MAX + 30)
            .map(|_| Peer::connect(address))
            .collect();
        for peer in &mut peers {
            peer.write(request("/").as_bytes());
        }
        until("it is said", || ringwire.log().contains(WARNING));
        let mut late = peers.split_off(EARLY);
        for peer in &mut peers {
            assert_eq!(asks(peer), "101");
            peer.echo("early");
        }
        // The others are told, or were among the first; nobody waits without an answer.
        let (mut inside, mut told) = (Vec::new(), 0);
        for mut peer in late.drain(..) {
            match asks(&mut peer).as_str() {
                "101" => inside.push(peer),
                "503" => told += 1,
                status => panic!("answered '{status}'"),
            }
        }
        assert!(told >= 30, "{told} were told");
        for peer in peers.iter_mut().chain(&mut inside) {
            peer.echo("still here");
        }
        let log = ringwire.log();
        assert_eq!(log.matches(WARNING).count(), 1, "{log}");
        // For each that goes another one comes.
        for peer in peers {
            peer.close();
        }
        for _ in 0..EARLY - 10 {
            let mut peer = Peer::open(address, "/");
            peer.echo("late");
            inside.push(peer);
        }
        for peer in inside {
            peer.close();
        }
        ringwire.signal(Signal::TERM);
        let (status, log) = ringwire.wait();
        assert_eq!(status.code(), Some(0), "{log}");
    });
}

#[test]
fn newcomers_are_told_that_no_descriptor_is_left_on_a_shard() {
    newcomers_are_told_that_no_descriptor_is_left("shard");
}

#[cfg(feature = "aio")]
#[test]
fn newcomers_are_told_that_no_descriptor_is_left_on_tokio_uring() {
    newcomers_are_told_that_no_descriptor_is_left("async");
}
