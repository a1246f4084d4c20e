//! What a shard does after a long time in which nothing happened. Seeds draw this too, but seldom.

use ringwire::{
    Answer, CloseCause, Config, Conn, ConnId, Drain, Refusal, Remote, Service, Timeout, Turn,
    Upgrade,
    client::{ClientRequest, Dial, Wait, WsUrl},
    ring::{
        Address,
        sim::{Knobs, SimKernel, SimOptions, SimPeer, SimRead, SimRing},
    },
    shard::Shard,
};

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                      Sec-WebSocket-Version: 13\r\n\r\n";

/// Longer than the wheel of deadlines reaches.
const LONG_MS: u64 = 10 * 60 * 1000;

#[derive(Default)]
struct Told {
    opened: usize,
    causes: Vec<CloseCause>,
}

impl Service for Told {
    type State = ();

    fn on_handshake(
        &mut self,
        _upgrade: &Upgrade<'_>,
        _peer: Remote<'_>,
        _answer: &mut Answer,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, ()>) {
        self.opened += 1;
    }

    fn on_close(&mut self, _: &mut Turn<'_>, _id: ConnId, _state: (), cause: &CloseCause) {
        self.causes.push(cause.clone());
    }
}

fn address() -> Address {
    "127.0.0.1:80".parse().expect("an address")
}

fn shard(kernel: &SimKernel, change: impl FnOnce(&mut Config)) -> Shard<SimRing, Told> {
    let ring = kernel
        .ring(&SimOptions::default())
        .expect("memory for a ring");
    let mut config = Config::default();
    config.date_header = false;
    change(&mut config);
    config.validate().expect("settings within their bounds");
    Shard::new(0, ring, Told::default(), config, [0; 32])
}

/// Turns without letting time pass, until nothing happens any more.
fn settle(shard: &mut Shard<SimRing, Told>) {
    for _ in 0..20 {
        shard
            .turn(Wait::Poll)
            .expect("a simulated ring has no errors");
    }
}

fn read_all(peer: &mut SimPeer) -> Vec<u8> {
    let mut all = Vec::new();
    while let SimRead::Bytes(bytes) = peer.read(10_000) {
        all.extend(bytes);
    }
    all
}

fn finish(shard: &mut Shard<SimRing, Told>, kernel: &SimKernel) {
    shard.stop(Drain::at_once(0));
    for _ in 0..100 {
        shard
            .turn(Wait::Forever)
            .expect("a simulated ring has no errors");
    }
    assert!(shard.is_finished());
    kernel.assert_clean();
}

#[test]
fn the_first_connection_after_a_long_silence_has_its_time_for_the_handshake() {
    let kernel = SimKernel::new(0, Knobs::none());
    let mut server = shard(&kernel, |config| config.handshake_timeout_ms = 10_000);
    server.listen(kernel.listen(&address()));
    settle(&mut server);
    kernel.advance(LONG_MS);
    let mut peer = kernel.connect(&address()).expect("somebody listens");
    settle(&mut server);
    assert_eq!(
        read_all(&mut peer),
        b"",
        "it was refused before it said anything"
    );
    peer.write(HEAD).expect("it is open");
    settle(&mut server);
    assert!(read_all(&mut peer).starts_with(b"HTTP/1.1 101 "));
    assert_eq!(server.service().opened, 1);
    drop(peer);
    finish(&mut server, &kernel);
}

#[test]
fn a_handshake_timeout_beyond_the_reach_of_the_wheel_is_not_early_and_not_forgotten() {
    let kernel = SimKernel::new(0, Knobs::none());
    let mut server = shard(&kernel, |config| config.handshake_timeout_ms = LONG_MS);
    server.listen(kernel.listen(&address()));
    settle(&mut server);
    let mut peer = kernel.connect(&address()).expect("somebody listens");
    settle(&mut server);
    for _ in 0..LONG_MS / 10_000 - 1 {
        kernel.advance(10_000);
        settle(&mut server);
        assert_eq!(read_all(&mut peer), b"", "refused at {:?}", kernel.now());
    }
    kernel.advance(10_100);
    settle(&mut server);
    assert!(read_all(&mut peer).starts_with(b"HTTP/1.1 408 "));
    drop(peer);
    finish(&mut server, &kernel);
}

#[test]
fn a_client_that_was_left_alone_dials_with_all_of_its_time() {
    let kernel = SimKernel::new(0, Knobs::none());
    let mut outside = kernel.listen_outside(&address());
    let mut client = shard(&kernel, |config| config.handshake_timeout_ms = 10_000);
    settle(&mut client);
    kernel.advance(LONG_MS);
    let dial = Dial {
        address: address(),
        from: None,
        request: ClientRequest::new(WsUrl::parse("ws://127.0.0.1:80/").expect("a URL")),
        tls: None,
    };
    client.dial(dial).expect("a socket");
    settle(&mut client);
    let peer = outside.accept().expect("it connects");
    settle(&mut client);
    assert_eq!(client.service().causes, [], "given up at once");
    kernel.advance(10_100);
    settle(&mut client);
    assert_eq!(
        client.service().causes,
        [CloseCause::Timeout(Timeout::Handshake)]
    );
    drop(peer);
    finish(&mut client, &kernel);
}

#[test]
fn stopping_says_goodbye_at_once_even_if_nothing_else_happens() {
    let kernel = SimKernel::new(0, Knobs::none());
    let mut server = shard(&kernel, |config| config.handshake_timeout_ms = 10_000);
    server.listen(kernel.listen(&address()));
    settle(&mut server);
    let mut peer = kernel.connect(&address()).expect("somebody listens");
    peer.write(HEAD).expect("it is open");
    settle(&mut server);
    assert!(read_all(&mut peer).starts_with(b"HTTP/1.1 101 "));
    kernel.advance(LONG_MS);
    let before = kernel.now();
    server.stop(Drain::at_once(60_000));
    // One turn, as a server makes: it waits until something completes.
    server
        .turn(Wait::Forever)
        .expect("a simulated ring has no errors");
    assert_eq!(read_all(&mut peer), [0x88, 2, 0x03, 0xe9], "1001");
    assert!(
        kernel.now() < before.plus_ms(1_000),
        "the goodbye waited for a deadline"
    );
    drop(peer);
    finish(&mut server, &kernel);
}

/// Bytes of a client's pong without a payload.
const PONG: &[u8] = &[0x8a, 0x80, 0, 0, 0, 0];

#[test]
fn the_longest_idle_timeout_is_kept_while_the_milliseconds_of_32_bits_begin_again() {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    const IDLE_MS: u64 = 24 * DAY_MS;
    let kernel = SimKernel::new(0, Knobs::none());
    let mut server = shard(&kernel, |config| {
        config.idle_timeout_ms = IDLE_MS;
        config.ping_interval_ms = IDLE_MS;
    });
    server.listen(kernel.listen(&address()));
    settle(&mut server);
    // They begin again between the ping and the end of the first silence.
    kernel.advance((1 << 32) - 18 * DAY_MS - kernel.now().as_ms());
    let mut peer = kernel.connect(&address()).expect("somebody listens");
    peer.write(HEAD).expect("it is open");
    settle(&mut server);
    assert!(read_all(&mut peer).starts_with(b"HTTP/1.1 101 "));
    for round in 0..5 {
        // Looked at every day, as a server is that has others to care for.
        let said: Vec<Vec<u8>> = (0..23)
            .map(|_| {
                kernel.advance(DAY_MS);
                settle(&mut server);
                read_all(&mut peer)
            })
            .collect();
        let ping = said.concat();
        assert!(
            ping.len() == 10 && ping[..2] == [0x89, 8],
            "round {round}: {said:?}"
        );
        assert_eq!(said[..11].concat(), [], "round {round}: {said:?}");
        assert_eq!(server.service().causes, []);
        peer.write(PONG).expect("it is open");
        settle(&mut server);
    }
    // And a peer that says nothing is dropped when its time is up.
    kernel.advance(IDLE_MS / 2 + 1000);
    settle(&mut server);
    assert_eq!(read_all(&mut peer)[..2], [0x89, 8]);
    kernel.advance(IDLE_MS / 2 - 2000);
    settle(&mut server);
    assert_eq!(server.service().causes, [], "too early");
    kernel.advance(2000);
    settle(&mut server);
    assert_eq!(
        server.service().causes,
        [CloseCause::Timeout(Timeout::Idle)]
    );
    drop(peer);
    finish(&mut server, &kernel);
}
