//! What a shard does, for callgrind to count: `scripts/instructions.sh`.
//!
//! Knows: a shard on the simulated ring, what is asked of it, and which of its turns count. Refuses
//! to know: how many instructions they took, and how many they may take.
//!
//! Two kinds of function have names that callgrind can be told, and are never put into others:
//! [`counted_turn`], below which everything counts, and the methods of [`Outside`], below which
//! nothing does: there is the simulated kernel, which keeps books that a real one does not.
//!
//! Everything here is the same each time: no clock is asked, and no number is drawn.

use std::{env, process::ExitCode};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use ringwire::{
    Address, Config,
    ring::{
        Arrival, Completion, Errno, Expected, Outgoing, PeerAddress, RecvLease, RecvNow, RecvSizes,
        Ring, SendQueue, Shutdown, Time, Token, Urgency, Wait, Waker,
        sim::{Knob, Knobs, SimKernel, SimOptions, SimPeer, SimRead, SimRing, SimSocket},
    },
    service::Echo,
    shard::Shard,
};

/// The server's own: what a shard takes from it and gives back is counted.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a browser sends. Compression is offered, and taken where the configuration has it.
const HEAD: &[u8] = b"GET / HTTP/1.1\r\n\
    Host: chat.example.com\r\n\
    Connection: Upgrade\r\n\
    Pragma: no-cache\r\n\
    Cache-Control: no-cache\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/138.0.0.0 Safari/537.36\r\n\
    Upgrade: websocket\r\n\
    Origin: https://chat.example.com\r\n\
    Sec-WebSocket-Version: 13\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=d41d8cd98f00b204e9800998ecf8427e; theme=dark; consent=1\r\n\
    Sec-WebSocket-Key: uRovscZjNol/umbTt5uKmw==\r\n\
    Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";

/// A turn that waits for nothing is over at once; this many bring every byte there and back.
const TURNS_MAX: usize = 100;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const FIN: u8 = 0x80;
/// The bit that says that a message is compressed.
const RSV1: u8 = 0x40;

/// A ring that callgrind can tell from the shard. What the trait does by itself is not among its
/// methods, as long as the simulated ring has nothing else to say to that.
struct Outside(SimRing);

macro_rules! outside {
    ($(fn $name:ident($me:ident: $receiver:ty $(, $argument:ident: $type:ty)*)
       $(-> $result:ty)?;)*) => {
        $(
            #[inline(never)]
            fn $name($me: $receiver $(, $argument: $type)*) $(-> $result)? {
                $me.0.$name($($argument),*)
            }
        )*
    };
}

impl Ring for Outside {
    type Socket = SimSocket;
    type Detached = SimSocket;

    outside! {
        fn now(self: &Self) -> Time;
        fn open(self: &mut Self, address: &Address) -> Result<SimSocket, Errno>;
        fn adopt(self: &mut Self, socket: SimSocket) -> SimSocket;
        fn release(self: &mut Self, socket: SimSocket) -> SimSocket;
        fn submit_accept(self: &mut Self, listener: &SimSocket, token: Token);
        fn submit_connect(self: &mut Self, socket: &SimSocket, address: &Address, token: Token);
        fn submit_recv(self: &mut Self, socket: &SimSocket, token: Token, arrival: Arrival);
        fn recv_now(self: &mut Self, socket: &SimSocket, expected: Expected) -> RecvNow<SimSocket>;
        fn recv_sizes(self: &Self) -> RecvSizes;
        fn submit_send(
            self: &mut Self,
            socket: &SimSocket,
            token: Token,
            queue: Box<SendQueue>,
            urgency: Urgency
        );
        fn hasten(self: &mut Self, token: Token);
        fn submit_cancel(self: &mut Self, target: Token, token: Token);
        fn submit_close(self: &mut Self, socket: SimSocket, token: Token);
        fn submit_tick(self: &mut Self, at: Time, token: Token);
        fn submit_wake(self: &mut Self, token: Token);
        fn waker(self: &Self) -> Waker;
        fn shutdown(self: &mut Self, socket: &SimSocket, how: Shutdown);
        fn is_among_last(self: &Self, socket: &SimSocket) -> bool;
        fn peer_address(self: &Self, socket: &SimSocket) -> PeerAddress;
        fn unread_bytes(self: &Self, socket: &SimSocket) -> u64;
        fn outgoing(self: &Self, socket: &SimSocket) -> Outgoing;
        fn turn(self: &mut Self, wait: Wait) -> Result<(), Errno>;
        fn next_completion(self: &mut Self) -> Option<Completion<SimSocket>>;
        fn completions_left(self: &Self) -> usize;
        fn split(self: &mut Self, lease: RecvLease, at: usize) -> (RecvLease, RecvLease);
        fn recycle(self: &mut Self, lease: RecvLease);
        fn recv_ready(self: &Self, arrival: Arrival) -> bool;
        fn in_flight(self: &Self) -> usize;
    }
}

type EchoShard = Shard<Outside, Echo>;

/// A turn that callgrind counts.
#[inline(never)]
fn counted_turn(shard: &mut EchoShard) {
    shard.turn(Wait::Poll).expect("no errors");
}

/// A shard, its peers, and whether what it does now is counted.
struct World {
    // Before the shard, whose sockets are in use for as long as its ring is there.
    peers: Vec<SimPeer>,
    shard: EchoShard,
    kernel: SimKernel,
    address: Address,
    counts: bool,
}

impl World {
    fn new(configure: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        // It tells the time of day, which is another one each time.
        config.date_header = false;
        configure(&mut config);
        // As the kernel fills buffers since Linux 6.12.
        let mut knobs = Knobs::none().with(Knob::IncrementalBuffers, 1000);
        knobs.window_bytes = 1 << 20;
        let kernel = SimKernel::new(0, knobs);
        let options = SimOptions {
            recv_buffers: config.recv_buffers,
            recv_buffer_bytes: config.recv_buffer_bytes,
            ..SimOptions::default()
        };
        let ring = Outside(kernel.ring(&options).expect("memory for a ring"));
        let address: Address = "127.0.0.1:80".parse().expect("an address");
        let mut shard = Shard::new(0, ring, Echo, config, [0; 32]);
        shard.listen(kernel.listen(&address));
        let mut world = Self {
            peers: Vec::new(),
            shard,
            kernel,
            address,
            counts: false,
        };
        world.turn();
        world
    }

    fn turn(&mut self) {
        if self.counts {
            counted_turn(&mut self.shard);
        } else {
            self.shard.turn(Wait::Poll).expect("no errors");
        }
    }

    /// Turns until `is_over`, and the shard would wait.
    fn turn_until(&mut self, mut is_over: impl FnMut(&mut Self) -> bool) {
        for _ in 0..TURNS_MAX {
            self.turn();
            if is_over(self) && !self.shard.hurries() {
                return;
            }
        }
        panic!("{TURNS_MAX} turns are not enough");
    }

    /// Opens a connection, and returns the answer to its request.
    fn open(&mut self) -> Vec<u8> {
        let mut peer = self.kernel.connect(&self.address).expect("a listener");
        assert_eq!(peer.write(HEAD), Ok(HEAD.len()));
        self.peers.push(peer);
        let mut answer = Vec::new();
        self.turn_until(|world| {
            let peer = world.peers.last_mut().expect("it was opened");
            read(peer, &mut answer);
            answer.ends_with(b"\r\n\r\n")
        });
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        answer
    }

    /// Has every peer vanish, and the shard notice.
    fn drop_peers(&mut self) {
        self.peers.clear();
        self.turn_until(|world| world.shard.connections() == 0);
    }

    /// Every peer sends `request`, and reads its reply of `len` bytes. Returns the first.
    fn exchange(&mut self, request: &[u8], len: usize) -> Vec<u8> {
        for peer in &mut self.peers {
            assert_eq!(peer.write(request), Ok(request.len()), "there is room");
        }
        let mut replies = vec![Vec::new(); self.peers.len()];
        self.turn_until(|world| {
            let peers = world.peers.iter_mut().zip(&mut replies);
            peers.for_each(|(peer, reply)| read(peer, reply));
            replies.iter().all(|reply| reply.len() >= len)
        });
        let first = replies.swap_remove(0);
        assert!(replies.iter().all(|reply| *reply == first));
        first
    }
}

fn read(peer: &mut SimPeer, into: &mut Vec<u8>) {
    while let SimRead::Bytes(bytes) = peer.read(usize::MAX) {
        into.extend(bytes);
    }
}

/// The header of a frame of a client or of a server, without a masking key.
fn header(first: u8, len: usize, mask: u8) -> Vec<u8> {
    match len {
        0..126 => vec![first, mask | len as u8],
        126..=0xffff => [&[first, mask | 126][..], &(len as u16).to_be_bytes()].concat(),
        _ => [&[first, mask | 127][..], &(len as u64).to_be_bytes()].concat(),
    }
}

/// What a client sends.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = header(first, payload.len(), 0x80);
    frame.extend(KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

/// What a server sends.
fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), 0);
    frame.extend(payload);
    frame
}

/// Bytes without a pattern that anybody looks for.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * at / 7) as u8).collect()
}

/// Records as services send them, cut off at `len` bytes.
fn json(len: usize) -> Vec<u8> {
    let mut text = String::new();
    for id in 0..len as u64 {
        let drawn = (id + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let side = if drawn.is_multiple_of(2) {
            "buy"
        } else {
            "sell"
        };
        let (whole, part, amount) = (drawn % 1000, drawn % 97, drawn % 7001);
        text += &format!(
            "{{\"id\":{id},\"side\":\"{side}\",\"price\":{whole}.{part:02},\"amount\":{amount}}},"
        );
        if text.len() >= len {
            break;
        }
    }
    text.truncate(len);
    text.into_bytes()
}

/// Compressed as RFC 7692 has it, by a library that is not the server's.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * payload.len() + 64);
    Compress::new(Compression::default(), false)
        .compress_vec(payload, &mut bytes, FlushCompress::Sync)
        .expect("it compresses");
    assert!(bytes.ends_with(&[0, 0, 0xff, 0xff]));
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// The other way round.
fn inflated(payload: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 64);
    Decompress::new(false)
        .decompress_vec(payload, &mut bytes, FlushDecompress::Sync)
        .expect("it was compressed");
    bytes
}

/// Something that a shard does again and again.
struct Scenario {
    name: &'static str,
    /// What there is one of each time, or `each` of.
    per: &'static str,
    each: usize,
    what: &'static str,
    /// How often before it counts, and how often it counts. By then the shard is warm: queues and
    /// pools have the size that they keep.
    warm_up: usize,
    times: usize,
    run: fn(&Scenario, &Times),
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "echo-64",
        per: "message",
        each: 1,
        what: "64 B in binary, 1 connection, 1 in flight",
        warm_up: 300,
        times: 1000,
        run: |scenario, times| echoes(scenario, times, 1, 64),
    },
    Scenario {
        name: "echo-64-of-64",
        per: "message",
        each: 64,
        what: "64 B in binary, 64 connections, 1 in flight on each: 64 come in one turn",
        warm_up: 10,
        times: 50,
        run: |scenario, times| echoes(scenario, times, 64, 64),
    },
    Scenario {
        name: "echo-20-of-256",
        per: "message",
        each: 256,
        what: "20 B in binary, 1 connection, 256 in flight: all come in one receive",
        warm_up: 50,
        times: 100,
        run: |scenario, times| echoes(scenario, times, 1, 20),
    },
    Scenario {
        name: "echo-16k",
        per: "message",
        each: 1,
        what: "16 KiB in binary, 1 connection, 1 in flight",
        warm_up: 100,
        times: 300,
        run: |scenario, times| echoes(scenario, times, 1, 16 << 10),
    },
    Scenario {
        name: "echo-1k-compressed",
        per: "message",
        each: 1,
        what: "1 KiB of JSON as text, compressed both ways, each message for itself",
        warm_up: 50,
        times: 100,
        run: compressed_echoes,
    },
    Scenario {
        name: "handshake",
        per: "connection",
        each: 1,
        what: "accepting, a browser's request, the answer; not the end of the connection",
        warm_up: 100,
        times: 300,
        run: handshakes,
    },
    Scenario {
        name: "idle-turn",
        per: "turn",
        each: 1,
        what: "a turn that finds nothing, with 1 connection open",
        warm_up: 100,
        times: 1000,
        run: idle_turns,
    },
];

/// How often it is done, before it counts and then.
struct Times {
    warm_up: usize,
    counted: usize,
}

impl Times {
    fn run(&self, world: &mut World, mut act: impl FnMut(&mut World, bool)) {
        for _ in 0..self.warm_up {
            act(world, false);
        }
        for _ in 0..self.counted {
            act(world, true);
        }
    }
}

fn echoes(scenario: &Scenario, times: &Times, connections: usize, size: usize) {
    let mut world = World::new(|_| ());
    for _ in 0..connections {
        world.open();
    }
    let in_flight = scenario.each / connections;
    let request = masked(FIN | BINARY, &bytes(size)).repeat(in_flight);
    let reply = unmasked(FIN | BINARY, &bytes(size)).repeat(in_flight);
    times.run(&mut world, |world, counts| {
        world.counts = counts;
        let back = world.exchange(&request, reply.len());
        assert!(back == reply, "what was sent comes back");
    });
}

fn compressed_echoes(_: &Scenario, times: &Times) {
    let mut world = World::new(|config| config.compress = true);
    let answer = world.open();
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.contains("permessage-deflate"), "{answer}");
    let text = json(1 << 10);
    let request = masked(FIN | RSV1 | TEXT, &deflated(&text));
    times.run(&mut world, |world, counts| {
        world.counts = counts;
        // How long a reply is depends on how well the server compresses: until it rests, all of
        // it has come.
        let back = world.exchange(&request, 1);
        let mut payload = back[4..].to_vec();
        assert_eq!(back, unmasked(FIN | RSV1 | TEXT, &payload));
        payload.extend([0, 0, 0xff, 0xff]);
        assert!(
            inflated(&payload, text.len()) == text,
            "what was sent comes back"
        );
    });
}

fn handshakes(_: &Scenario, times: &Times) {
    let mut world = World::new(|_| ());
    times.run(&mut world, |world, counts| {
        world.counts = counts;
        world.open();
        world.counts = false;
        world.drop_peers();
    });
}

fn idle_turns(_: &Scenario, times: &Times) {
    let mut world = World::new(|_| ());
    world.open();
    times.run(&mut world, |world, counts| {
        world.counts = counts;
        world.turn();
        assert!(!world.shard.hurries(), "it has nothing to do");
    });
}

/// Without arguments of its own it does everything once, to see that it still works.
///
/// `--list` names the scenarios: a line each of a name, how many are counted, what each of them is,
/// and what is done. `--run NAME` does one of them, as often as that says.
fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let mut arguments = arguments.iter().map(String::as_str);
    match (arguments.next(), arguments.next()) {
        (Some("--list"), None) => {
            for scenario in SCENARIOS {
                let Scenario {
                    name, per, what, ..
                } = scenario;
                println!("{name}\t{}\t{per}\t{what}", scenario.times * scenario.each);
            }
        }
        (Some("--run"), Some(name)) => {
            let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == name) else {
                eprintln!("there is no scenario {name}; --list names them");
                return ExitCode::FAILURE;
            };
            let times = Times {
                warm_up: scenario.warm_up,
                counted: scenario.times,
            };
            (scenario.run)(scenario, &times);
        }
        _ => {
            for scenario in SCENARIOS {
                let once = Times {
                    warm_up: 0,
                    counted: 1,
                };
                (scenario.run)(scenario, &once);
            }
        }
    }
    ExitCode::SUCCESS
}
