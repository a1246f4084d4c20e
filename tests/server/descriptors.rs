//! A server without descriptors left: those who are there stay, the others wait.

use std::{process::Command, time::Duration};

use rustix::process::Signal;

use crate::{
    binary::Ringwire,
    common::{PATIENCE, Peer, request},
    host::guarded,
    peer::until,
};

/// Hard, so that ringwire cannot raise it.
const DESCRIPTORS_MAX: usize = 64;

const WARNING: &str = "accepting pauses";

#[test]
fn running_out_of_descriptors_pauses_accepting() {
    guarded(|| {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(format!("ulimit -n {DESCRIPTORS_MAX}; exec \"$0\" \"$@\""))
            .arg(env!("CARGO_BIN_EXE_ringwire"))
            .args(["--listen", "127.0.0.1:0", "--shards", "1", "--no-pin"]);
        let ringwire = Ringwire::start(&mut shell);
        let address = &ringwire.addresses[0];
        let mut peers: Vec<_> = (0..DESCRIPTORS_MAX + 30)
            .map(|_| Peer::connect(address))
            .collect();
        for peer in &mut peers {
            peer.write(request("/").as_bytes());
        }
        until("it is said", || ringwire.log().contains(WARNING));
        // The process itself needs some: these many have been served for certain.
        let (early, late) = peers.split_at_mut(30);
        for peer in early.iter_mut() {
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            peer.echo("early");
        }
        // The last ones wait, for longer than it takes to try again a few times.
        let last = late.last_mut().unwrap();
        last.stream
            .set_read_timeout(Some(Duration::from_millis(800)))
            .unwrap();
        assert!(
            last.try_read_frame().is_err(),
            "more connections than descriptors"
        );
        last.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for peer in early.iter_mut() {
            peer.echo("still here");
        }
        assert_eq!(
            ringwire.log().matches(WARNING).count(),
            1,
            "{}",
            ringwire.log()
        );
        // For each that goes another one comes, to the last.
        let mut open = peers.into_iter();
        for peer in open.by_ref().take(30) {
            peer.close();
        }
        for mut peer in open {
            assert!(peer.read_head().starts_with("HTTP/1.1 101 "));
            peer.echo("late");
            peer.close();
        }
        ringwire.signal(Signal::TERM);
        let (status, log) = ringwire.wait();
        assert_eq!(status.code(), Some(0), "{log}");
    });
}
