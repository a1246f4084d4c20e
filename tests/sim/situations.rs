//! What seeds have found, each as a small world of its own: a server, and peers that send and do
//! not read, on a kernel with no more faults than it takes.

use ringwire::{
    Address, Config, Conn, Drain, Message, Service,
    client::Wait,
    ring::sim::{Knob, Knobs, SimKernel, SimOptions, SimPeer, SimRead, SimRing},
    shard::{Shard, check::Watch},
};

struct Echo;

impl Service for Echo {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let _ = conn.send(message);
    }
}

struct World {
    kernel: SimKernel,
    shard: Shard<SimRing, Echo>,
    watch: Watch,
    peers: Vec<SimPeer>,
}

const HANDSHAKE: &[u8] = b"GET / HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";

/// A binary message, masked with zeros.
fn message(len: u16) -> Vec<u8> {
    let mut bytes = vec![0x82, 0x80 | 126];
    bytes.extend(len.to_be_bytes());
    bytes.resize(bytes.len() + 4 + usize::from(len), 0);
    bytes
}

impl World {
    fn new(seed: u64, knobs: Knobs, ring: SimOptions, config: Config, peers: usize) -> Self {
        let kernel = SimKernel::new(seed, knobs);
        let ring = kernel.ring(&ring).unwrap();
        let mut shard = Shard::new(0, ring, Echo, config, [1; 32]);
        let address: Address = "127.0.0.1:80".parse().unwrap();
        shard.listen(kernel.listen(&address));
        let peers = (0..peers).map(|_| {
            let mut peer = kernel.connect(&address).unwrap();
            assert_eq!(peer.write(HANDSHAKE), Ok(HANDSHAKE.len()));
            peer
        });
        Self {
            peers: peers.collect(),
            kernel,
            shard,
            watch: Watch::default(),
        }
    }

    /// A turn, after which everything has to be as it should.
    fn turn(&mut self) -> Result<(), String> {
        let until = self.kernel.now().plus_ms(1);
        self.shard.turn(Wait::Until(until)).unwrap();
        self.shard.check_states()?;
        self.shard.check_ledger(&mut self.watch)?;
        self.shard.check_fairness(&mut self.watch)
    }

    fn end(mut self) {
        self.shard.stop(Drain::at_once(0));
        while !self.shard.is_finished() {
            self.shard.turn(Wait::Forever).unwrap();
        }
    }
}

/// Whoever found no receive memory was put behind the one that had it, which then had it again.
#[test]
fn one_large_buffer_goes_round() {
    let ring = SimOptions {
        recv_buffers: 1,
        recv_buffer_bytes: 512,
        large_buffers: 1,
        large_buffer_bytes: 4096,
        ..SimOptions::default()
    };
    let mut config = Config::default();
    config.send_in_place_bytes_min = 0;
    let mut world = World::new(1, Knobs::none(), ring, config, 4);
    let message = message(1_000);
    let mut echoes = [0; 4];
    for turn in 0..400 {
        for (peer, echoes) in world.peers.iter_mut().zip(&mut echoes) {
            let _ = peer.write(&message);
            if let SimRead::Bytes(bytes) = peer.read(usize::MAX) {
                *echoes += bytes.len();
            }
        }
        world
            .turn()
            .unwrap_or_else(|wrong| panic!("turn {turn}, echoes {echoes:?}: {wrong}"));
    }
    let least = echoes.iter().min().unwrap();
    let most = echoes.iter().max().unwrap();
    assert!(most / least < 4, "{echoes:?}");
    world.end();
}

/// A receive that was submitted while the one before it was being cancelled was not cancelled
/// itself, so that a peer that does not read was received from.
#[test]
fn a_receive_is_not_submitted_while_another_is_cancelled() {
    for seed in 0..200 {
        let mut knobs = Knobs::none().with(Knob::CompletionHeld, 500);
        knobs.window_bytes = 300;
        let mut config = Config::default();
        // Each message is more than may be queued, until the kernel has taken it.
        config.queue_high_bytes = 100;
        config.queue_low_bytes = 50;
        let mut world = World::new(seed, knobs, SimOptions::default(), config, 2);
        let message = message(130);
        for turn in 0..200 {
            for peer in &mut world.peers {
                let _ = peer.write(&message);
                peer.read(60);
            }
            world
                .turn()
                .unwrap_or_else(|wrong| panic!("seed {seed}, turn {turn}: {wrong}"));
        }
        world.end();
    }
}

/// Of those that ended for want of memory, what had lain in receive memory stayed there until the
/// next turn.
#[test]
fn whoever_is_shed_gives_everything_back() {
    let mut config = Config::default();
    config.memory_bytes_max = 100_000;
    config.send_in_place_bytes_min = 0;
    config.send_kept_bytes_max = 0;
    config.message_kept_bytes_max = 0;
    let ring = SimOptions {
        recv_buffers: 4,
        recv_buffer_bytes: 1024,
        large_buffer_bytes: 1024,
        ..SimOptions::default()
    };
    let mut world = World::new(1, Knobs::none(), ring, config, 3);
    let message = message(2_000);
    for turn in 0..1_500 {
        for peer in &mut world.peers {
            let _ = peer.write(&message);
        }
        world.kernel.advance(1);
        world
            .turn()
            .unwrap_or_else(|wrong| panic!("turn {turn}: {wrong}"));
    }
    let counts = world.shard.shared().counts;
    assert!(counts.memory_shed > 0, "{counts:?}");
    world.end();
}
