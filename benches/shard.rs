//! An echo through a shard on the simulated ring, beside an echo of bytes through that ring alone:
//! the difference is what a shard costs, without the kernel's own work.
//!
//! The simulation keeps books about each operation, so that few messages at a time cost much of
//! its time here, and many at a time mostly the shard's. Rows compare with each other and with
//! themselves in another version, and with nothing else.

mod common;
#[path = "common/random.rs"]
mod random;
#[path = "common/settings.rs"]
mod settings;
#[path = "proto/side.rs"]
mod side;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringwire::{
    Address, Config, Message,
    proto::{MessageKind, Role},
    ring::{
        Arrival, Operation, Outcome, Ring, SendArena, SendQueue, Token, Urgency, Wait,
        sim::{Knob, Knobs, SimKernel, SimOptions, SimPeer, SimRead, SimRing, SimSocket},
    },
    service::Echo,
    shard::Shard,
};

use common::{Answers, is_measured};
use random::bytes;
use side::Side;

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                      Sec-WebSocket-Version: 13\r\n\r\n";

/// A turn that waits for nothing is over at once; this many bring every byte there and back.
const TURNS_MAX: usize = 100;

fn kernel() -> SimKernel {
    // As the kernel fills buffers since Linux 6.12.
    let mut knobs = Knobs::none().with(Knob::IncrementalBuffers, 1000);
    knobs.window_bytes = 1 << 20;
    SimKernel::new(0, knobs)
}

fn options() -> SimOptions {
    let config = Config::default();
    SimOptions {
        recv_buffers: config.recv_buffers,
        recv_buffer_bytes: config.recv_buffer_bytes,
        ..SimOptions::default()
    }
}

/// Something that sends bytes back, and the peer that has it do so.
trait Server {
    fn turn(&mut self);

    fn peer(&mut self) -> &mut SimPeer;

    /// Sends `request`, and returns what comes back once it is `len` bytes.
    fn exchange(&mut self, request: &[u8], len: usize) -> Vec<u8> {
        let written = self.peer().write(request);
        assert_eq!(written, Ok(request.len()), "the window is large enough");
        let mut back = Vec::new();
        for _ in 0..TURNS_MAX {
            self.turn();
            while let SimRead::Bytes(bytes) = self.peer().read(usize::MAX) {
                if back.is_empty() {
                    back = bytes;
                } else {
                    back.extend(bytes);
                }
            }
            if back.len() >= len {
                return back;
            }
        }
        panic!("{} of {len} bytes came back", back.len());
    }
}

struct EchoShard {
    peer: SimPeer,
    shard: Shard<SimRing, Echo>,
}

impl EchoShard {
    fn new() -> Self {
        let kernel = kernel();
        let address: Address = "127.0.0.1:80".parse().expect("an address");
        let ring = kernel.ring(&options()).expect("memory for a ring");
        let mut config = Config::default();
        config.date_header = false;
        let mut shard = Shard::new(0, ring, Echo, config, [0; 32]);
        shard.listen(kernel.listen(&address));
        shard.turn(Wait::Poll).expect("no errors");
        let peer = kernel.connect(&address).expect("somebody listens");
        let mut echo = Self { peer, shard };
        let answer = echo.exchange(HEAD, 1);
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
        echo
    }
}

impl Server for EchoShard {
    fn turn(&mut self) {
        self.shard.turn(Wait::Poll).expect("no errors");
    }

    fn peer(&mut self) -> &mut SimPeer {
        &mut self.peer
    }
}

/// The least that can be done with a ring and one connection: bytes go back as they came. It knows
/// that a request is received whole, in one turn.
struct RingAlone {
    peer: SimPeer,
    // Before the socket, which is in use for as long as the ring is there.
    ring: SimRing,
    socket: SimSocket,
    arena: SendArena,
    queue: Option<Box<SendQueue>>,
}

const RECV: Token = Token::new(Operation::Recv, 1);
const SEND: Token = Token::new(Operation::Send, 1);

impl RingAlone {
    fn new() -> Self {
        let kernel = kernel();
        let mut ring = kernel.ring(&options()).expect("memory for a ring");
        let (socket, peer) = kernel.pair();
        ring.submit_recv(&socket, RECV, Arrival::Delivered);
        let config = Config::default();
        let mut arena = SendArena::new(config.send_chunk_bytes, config.send_kept_bytes_max);
        Self {
            peer,
            ring,
            socket,
            queue: Some(arena.queue()),
            arena,
        }
    }
}

impl Server for RingAlone {
    fn turn(&mut self) {
        self.ring.turn(Wait::Poll).expect("no errors");
        while let Some(completion) = self.ring.next_completion() {
            match completion.outcome {
                Outcome::Received(lease) => {
                    let queue = self.queue.as_mut().expect("no send is in flight");
                    queue.write(&mut self.arena, &lease);
                    self.ring.recycle(lease);
                }
                Outcome::Sent { mut queue, result } => {
                    queue.advance(&mut self.arena, result.expect("no errors"));
                    self.queue = Some(queue);
                }
                other => panic!("{other:?}"),
            }
        }
        if let Some(queue) = self.queue.take_if(|queue| !queue.is_empty()) {
            self.ring
                .submit_send(&self.socket, SEND, queue, Urgency::Awaited);
        }
    }

    fn peer(&mut self) -> &mut SimPeer {
        &mut self.peer
    }
}

/// Messages of how many bytes, how many at a time.
fn loads() -> &'static [(usize, usize)] {
    if is_measured() {
        &[(20, 1), (20, 16), (20, 256), (1 << 10, 16), (16 << 10, 1)]
    } else {
        &[(20, 16), (16 << 10, 1)]
    }
}

fn echo(criterion: &mut Criterion) {
    let name = "shard/echo";
    let mut group = criterion.benchmark_group(name);
    let mut answers = Answers::default();
    for &(size, count) in loads() {
        let payload = bytes(size);
        let mut client = Side::new(Role::Client);
        for _ in 0..count {
            client.send(Message::new(MessageKind::Binary, &payload));
        }
        let mut request = Vec::new();
        client.flush(0, |piece| request.extend_from_slice(piece));
        let load = format!("{count} x {size}");
        group.throughput(Throughput::Elements(count as u64));

        let mut shard = EchoShard::new();
        // The masking key is the only difference between what goes there and back.
        let reply_bytes = request.len() - 4 * count;
        let reply = shard.exchange(&request, reply_bytes);
        for piece in reply.chunks(client.buffer.len()) {
            client.buffer[..piece.len()].copy_from_slice(piece);
            client.received(piece.len(), |_, _, message| {
                answers.add("shard", message.payload());
            });
        }
        group.bench_function(BenchmarkId::new("shard", &load), |bencher| {
            bencher.iter(|| shard.exchange(&request, reply_bytes));
        });

        let mut ring = RingAlone::new();
        assert_eq!(ring.exchange(&request, request.len()), request);
        group.bench_function(BenchmarkId::new("ring alone", &load), |bencher| {
            bencher.iter(|| ring.exchange(&request, request.len()));
        });
    }
    group.finish();
    answers.print(name);
}

criterion_group! {
    name = benches;
    config = settings::settings();
    targets = echo
}
criterion_main!(benches);
