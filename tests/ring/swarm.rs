//! The simulated ring under a program that does everything a shard does with a ring: an echo
//! server and its clients, each on a ring of its own, and a rude peer, by seed.
//!
//! It shows three things. Every fault and every check acts somewhere in the seeds. A seed that is
//! run twice gives the same trace. And the mistakes that such programs are prone to are noticed:
//! each is made on purpose, and some seed has to catch it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bytes::Bytes;
use ringwire::ring::{
    Address, Arrival, Completion, Expected, Lent, Operation, Outcome, RecvLease, Ring, SendArena,
    SendQueue, Shutdown, Time, Token, Urgency, Wait,
    errno::{AcceptError, TransferError},
    sim::{Knob, Knobs, Marks, Prng, SimKernel, SimOptions, SimPeer, SimRing, SimSocket},
};

const SEEDS: u64 = 600;
const CLIENTS: u64 = 5;

/// No seed needs more; one that does is stuck.
const TURNS_MAX: usize = 200_000;

const CONNECT_TIMEOUT_MS: u64 = 500;

/// What a careless program does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    /// Closes without waiting for what is in flight.
    ClosesWithoutJoin,
    /// Takes every completion for the last one.
    CountsEveryCompletion,
    /// Drops a lease instead of recycling it.
    ForgetsALease,
    /// Takes a short send for a whole one.
    IgnoresShortSends,
    /// Does not receive again after a multishot receive ended with data.
    ReceivesOnce,
    /// Does not accept again after a multishot accept ended.
    AcceptsOnce,
    /// Gives up on a receive that found no buffers.
    StarvesForever,
    /// Submits a second send while one is in flight.
    SendsTwice,
    /// Believes that a cancelled operation is over once the cancel is.
    TrustsTheCancel,
}

const MISTAKES: [Mistake; 9] = [
    Mistake::ClosesWithoutJoin,
    Mistake::CountsEveryCompletion,
    Mistake::ForgetsALease,
    Mistake::IgnoresShortSends,
    Mistake::ReceivesOnce,
    Mistake::AcceptsOnce,
    Mistake::StarvesForever,
    Mistake::SendsTwice,
    Mistake::TrustsTheCancel,
];

struct Connection {
    tag: u64,
    socket: Option<SimSocket>,
    in_flight: usize,
    connecting: bool,
    connect_by: Time,
    receiving: bool,
    starved: bool,
    cancelling: bool,
    sending: bool,
    send_urgency: Urgency,
    refused: bool,
    outbox: Box<SendQueue>,
    /// What a client sends and awaits back; nothing for a server.
    plan: Vec<u8>,
    received: usize,
    /// The peer ended its stream.
    ended: bool,
    /// Something failed: what was exchanged need not be all.
    failed: bool,
    closing: bool,
    closed: bool,
}

/// One side: a ring and its connections.
struct Side {
    ring: SimRing,
    arena: SendArena,
    prng: Prng,
    mistake: Mistake,
    connections: Vec<Connection>,
    listener: Option<SimSocket>,
    accepting: bool,
    stopping: bool,
    ticking: bool,
    is_server: bool,
    turned_away: u64,
}

const ACCEPT: Token = Token::new(Operation::Accept, 0);
const STOP: Token = Token::new(Operation::Cancel, 1 << 40);
const CLOSE_LISTENER: Token = Token::new(Operation::Close, 1 << 40);
const TICK: Token = Token::new(Operation::Tick, 0);
const WAKE: Token = Token::new(Operation::Wake, 0);

impl Side {
    fn new(ring: SimRing, seed: u64, mistake: Mistake, listener: Option<SimSocket>) -> Self {
        let is_server = listener.is_some();
        Self {
            ring,
            arena: SendArena::new(256, 4096),
            prng: Prng::new(seed, 7 + u64::from(is_server)),
            mistake,
            connections: Vec::new(),
            listener,
            accepting: false,
            stopping: false,
            ticking: false,
            is_server,
            turned_away: 0,
        }
    }

    fn add(&mut self, socket: SimSocket, plan: Vec<u8>) -> usize {
        let outbox = self.arena.queue();
        self.connections.push(Connection {
            tag: self.connections.len() as u64,
            socket: Some(socket),
            in_flight: 0,
            connecting: false,
            connect_by: Time::default(),
            receiving: false,
            starved: false,
            cancelling: false,
            sending: false,
            send_urgency: Urgency::Awaited,
            refused: false,
            outbox,
            plan,
            received: 0,
            ended: false,
            failed: false,
            closing: false,
            closed: false,
        });
        self.connections.len() - 1
    }

    /// A client that connects, if there is a descriptor for it.
    fn dial(&mut self, address: &Address) -> bool {
        let Ok(socket) = self.ring.open(address) else {
            return false;
        };
        let len = 1 + self.prng.below(3_000) as usize;
        let plan: Vec<u8> = (0..len).map(|_| self.prng.draw() as u8).collect();
        let index = self.add(socket, plan);
        let connection = &mut self.connections[index];
        // Some write in one go, some in many small pieces.
        let pieces = if self.prng.coin() { 1 } else { 100 };
        for part in connection.plan.chunks(len.div_ceil(pieces)) {
            if self.prng.coin() {
                connection.outbox.write(&mut self.arena, part);
            } else {
                let part = Bytes::copy_from_slice(part);
                connection.outbox.adopt(&mut self.arena, part);
            }
        }
        connection.connecting = true;
        connection.in_flight += 1;
        connection.connect_by = self.ring.now().plus_ms(CONNECT_TIMEOUT_MS);
        if let Some(socket) = &connection.socket {
            self.ring.submit_connect(
                socket,
                address,
                Token::new(Operation::Connect, connection.tag),
            );
        }
        true
    }

    /// Submits whatever is missing: one of everything at a time.
    fn flush(&mut self) {
        if !self.ticking {
            self.ticking = true;
            self.ring.submit_tick(self.ring.now().plus_ms(50), TICK);
        }
        if let Some(listener) = &self.listener
            && !self.accepting
            && !self.stopping
        {
            self.accepting = true;
            self.ring.submit_accept(listener, ACCEPT);
        }
        for index in 0..self.connections.len() {
            self.flush_one(index);
        }
        let idle = self.connections.iter().all(|connection| connection.closed);
        if self.stopping
            && idle
            && !self.accepting
            && let Some(listener) = self.listener.take()
        {
            self.ring.submit_close(listener, CLOSE_LISTENER);
        }
    }

    fn flush_one(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(socket) = &connection.socket else {
            return;
        };
        let token = |operation| Token::new(operation, connection.tag);
        if connection.closing {
            let joined = connection.in_flight == 0;
            if joined || self.mistake == Mistake::ClosesWithoutJoin {
                let close = token(Operation::Close);
                connection.in_flight += 1;
                if let Some(socket) = connection.socket.take() {
                    self.ring.submit_close(socket, close);
                }
            } else if !connection.cancelling && (connection.receiving || connection.connecting) {
                connection.cancelling = true;
                connection.in_flight += 1;
                let target = if connection.connecting {
                    token(Operation::Connect)
                } else {
                    token(Operation::Recv)
                };
                self.ring.submit_cancel(target, token(Operation::Cancel));
            }
            return;
        }
        if connection.connecting {
            return;
        }
        let wants = !connection.receiving && !connection.ended && !connection.failed;
        let arrivals = [Arrival::Delivered, Arrival::Announced];
        let ready = arrivals
            .iter()
            .all(|&arrival| self.ring.recv_ready(arrival));
        if wants && (!connection.starved || ready) {
            (connection.receiving, connection.starved) = (true, false);
            connection.in_flight += 1;
            let arrival = arrivals[usize::from(self.prng.below(3) == 0)];
            self.ring
                .submit_recv(socket, token(Operation::Recv), arrival);
        }
        let may_send = !connection.sending || self.mistake == Mistake::SendsTwice;
        if may_send && !connection.outbox.is_empty() {
            connection.sending = true;
            connection.in_flight += 1;
            let queue = std::mem::replace(&mut connection.outbox, self.arena.queue());
            let send = token(Operation::Send);
            // What a peer had no room for is not tried again without waiting for it.
            let refused = std::mem::take(&mut connection.refused);
            connection.send_urgency = if !refused && self.prng.coin() {
                Urgency::Unawaited
            } else {
                Urgency::Awaited
            };
            let urgency = connection.send_urgency;
            self.ring.submit_send(socket, send, queue, urgency);
        }
        if connection.sending && self.prng.below(4) == 0 {
            self.ring.hasten(token(Operation::Send));
        }
        let answered = connection.ended && !connection.sending && connection.outbox.is_empty();
        if answered || connection.failed {
            self.close(index);
        }
    }

    fn close(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if std::mem::replace(&mut connection.closing, true) {
            return;
        }
        // Stop: in half of the cases what is in flight is cancelled only, in the others the socket
        // is shut too. A send can only be ended that way.
        if let Some(socket) = &connection.socket
            && (connection.sending || self.prng.coin())
        {
            self.ring.shutdown(socket, Shutdown::Both);
        }
    }

    fn turn(&mut self, wait: Wait) -> usize {
        self.flush();
        self.ring.turn(wait).unwrap();
        let mut completions = 0;
        while let Some(completion) = self.ring.next_completion() {
            completions += 1;
            self.dispatch(completion);
        }
        completions
    }

    fn dispatch(
        &mut self,
        Completion {
            token,
            outcome,
            more,
        }: Completion<SimSocket>,
    ) {
        match (token, outcome) {
            (TICK, _) => {
                self.ticking = false;
                let now = self.ring.now();
                for index in 0..self.connections.len() {
                    let connection = &self.connections[index];
                    if connection.connecting && connection.connect_by <= now {
                        self.close(index);
                    }
                }
            }
            (WAKE, outcome) => {
                assert!(matches!(outcome, Outcome::Woken));
                self.ring.submit_wake(WAKE);
            }
            (STOP | CLOSE_LISTENER, _) => {}
            (ACCEPT, outcome) => self.accepted(outcome, more),
            (_, outcome) => self.transferred(token, outcome, more),
        }
    }

    fn accepted(&mut self, outcome: Outcome<SimSocket>, more: bool) {
        self.accepting = more || self.mistake == Mistake::AcceptsOnce;
        match outcome {
            // One in ten is turned away: nothing was submitted on it, so that it may be dropped.
            Outcome::Accepted(socket)
                if self.ring.is_among_last(&socket) || self.prng.below(10) == 0 =>
            {
                self.turned_away += 1;
                drop(socket);
            }
            Outcome::Accepted(socket) => {
                self.add(socket, Vec::new());
            }
            Outcome::Failed(errno) => {
                assert!(
                    !more && errno.of_accept() != AcceptError::Unexpected,
                    "{errno:?}"
                );
            }
            other => panic!("an accept brought {other:?}"),
        }
    }

    fn transferred(&mut self, token: Token, outcome: Outcome<SimSocket>, more: bool) {
        let (index, operation) = (token.tag() as usize, token.operation());
        let connection = &mut self.connections[index];
        assert!(
            !connection.closed,
            "{token:?} of a connection that is closed"
        );
        if !more || self.mistake == Mistake::CountsEveryCompletion {
            connection.in_flight -= 1;
            match operation {
                Operation::Recv => {
                    connection.receiving = self.mistake == Mistake::ReceivesOnce;
                }
                Operation::Send => connection.sending = false,
                Operation::Connect => connection.connecting = false,
                Operation::Cancel if self.mistake == Mistake::TrustsTheCancel => {
                    connection.in_flight = 0;
                }
                _ => {}
            }
        }
        let outcome = match (outcome, &connection.socket) {
            (Outcome::Readable, Some(socket)) => {
                let expected = [Expected::LongMessage, Expected::Share];
                let expected = expected[usize::from(self.prng.coin())];
                self.ring.recv_now(socket, expected).outcome
            }
            (outcome, _) => outcome,
        };
        match (operation, outcome) {
            (Operation::Recv, Outcome::Received(lease)) => {
                if self.is_server && !connection.sending && self.prng.coin() {
                    self.send_lease(index, lease);
                    return;
                }
                self.received(index, &lease);
                if self.mistake == Mistake::ForgetsALease && self.prng.below(20) == 0 {
                    return;
                }
                self.ring.recycle(lease);
            }
            (Operation::Recv, Outcome::EndOfStream) => connection.ended = true,
            (Operation::Recv, Outcome::Failed(errno)) => match errno.of_transfer() {
                TransferError::NoBuffers => {
                    connection.starved = true;
                    connection.receiving = self.mistake == Mistake::StarvesForever;
                }
                TransferError::Cancelled => assert!(connection.closing),
                TransferError::PeerGone => connection.failed = true,
                TransferError::Retry => {}
                other => panic!("a receive failed with {errno:?}, {other:?}"),
            },
            (Operation::Send, Outcome::Sent { mut queue, result }) => {
                match result {
                    Ok(_) if self.mistake == Mistake::IgnoresShortSends => {
                        queue.advance(&mut self.arena, queue.len());
                    }
                    Ok(bytes) => queue.advance(&mut self.arena, bytes),
                    Err(errno) => match errno.of_transfer() {
                        TransferError::Retry => {
                            let is_unawaited = connection.send_urgency == Urgency::Unawaited;
                            assert!(queue.holds_leases() || is_unawaited);
                            connection.refused = true;
                        }
                        other => {
                            assert_eq!(other, TransferError::PeerGone);
                            connection.failed = true;
                        }
                    },
                }
                queue.own(&mut self.arena);
                // What was written meanwhile follows what is left.
                queue.append(&mut connection.outbox);
                let empty = std::mem::replace(&mut connection.outbox, queue);
                self.arena.retire(empty);
            }
            (Operation::Connect, Outcome::Done) => {}
            (Operation::Connect, Outcome::Failed(_)) => connection.failed = true,
            (Operation::Cancel, Outcome::Done | Outcome::Failed(_)) => {}
            (Operation::Close, Outcome::Done) => {
                connection.closed = true;
                let outbox = std::mem::take(&mut connection.outbox);
                self.arena.retire(outbox);
            }
            (operation, outcome) => panic!("{operation:?} brought {outcome:?}"),
        }
        while let Some(lent) = self.arena.take_returned() {
            match lent {
                Lent::Lease(lease) => self.ring.recycle(lease),
                Lent::Memory { .. } => panic!("nobody lent memory"),
            }
        }
    }

    /// Sends back part of what was received from where it lies, and the rest as a copy.
    fn send_lease(&mut self, index: usize, lease: RecvLease) {
        let outbox = &mut self.connections[index].outbox;
        let at = self.prng.up_to(lease.len() as u64) as usize;
        let (first, rest) = self.ring.split(lease, at);
        let place = outbox.promise(first.len());
        outbox.write(&mut self.arena, &rest);
        outbox.fulfil(place, Lent::Lease(first));
        self.ring.recycle(rest);
    }

    fn received(&mut self, index: usize, bytes: &[u8]) {
        let connection = &mut self.connections[index];
        if self.is_server {
            connection.outbox.write(&mut self.arena, bytes);
            return;
        }
        let start = connection.received;
        connection.received += bytes.len();
        let expected = connection.plan.get(start..connection.received);
        assert_eq!(
            expected,
            Some(bytes),
            "client {index}: the echo differs from byte {start} on"
        );
        if connection.received < connection.plan.len() {
            return;
        }
        // All is back. Some say goodbye first, some just go.
        match &connection.socket {
            Some(socket) if self.prng.coin() => self.ring.shutdown(socket, Shutdown::Write),
            _ => self.close(index),
        }
    }

    fn is_idle(&self) -> bool {
        self.connections.iter().all(|connection| connection.closed)
    }
}

/// A peer that keeps to no rule.
struct RudePeer {
    peer: Option<SimPeer>,
    prng: Prng,
}

impl RudePeer {
    fn act(&mut self) {
        let Some(peer) = &mut self.peer else { return };
        match self.prng.below(40) {
            0 => self.peer = None,
            1 => {
                if let Some(peer) = self.peer.take() {
                    peer.reset();
                }
            }
            2 => peer.shutdown_write(),
            3..10 => {
                let len = self.prng.below(500) as usize;
                // It writes whether anybody listens or not.
                let _ = peer.write(&vec![1; len]);
            }
            10..14 => {
                peer.read(100);
            }
            _ => {}
        }
    }
}

struct Report {
    marks: Marks,
    hash: u64,
    /// Clients that got everything back.
    complete: u64,
    clients: u64,
    /// Connections that the server refused to serve, the rude peer's perhaps among them.
    turned_away: u64,
}

/// Where the seeds begin: `RINGWIRE_SEED` varies them, as a number or as any text (a commit hash).
fn seeds(count: u64) -> std::ops::Range<u64> {
    let text = std::env::var("RINGWIRE_SEED").unwrap_or_default();
    let folded = || {
        text.bytes()
            .fold(0, |sum: u64, byte| (sum << 5) ^ sum ^ u64::from(byte))
    };
    let first = text.parse().unwrap_or_else(|_| folded() >> 1);
    first..first + count
}

fn run(seed: u64, knobs: Knobs, mistake: Mistake) -> Report {
    let kernel = SimKernel::new(seed, knobs);
    simulate(&kernel, seed, mistake)
}

/// As `run` without a mistake; a run that fails is repeated for its trace.
fn run_or_trace(seed: u64, knobs: Knobs) -> Report {
    let quiet = knobs.clone();
    let failed = match catch_unwind(AssertUnwindSafe(|| run(seed, quiet, Mistake::None))) {
        Ok(report) => return report,
        Err(failed) => failed,
    };
    let kernel = SimKernel::new(seed, knobs);
    kernel.keep_trace();
    let _ = catch_unwind(AssertUnwindSafe(|| simulate(&kernel, seed, Mistake::None)));
    let trace = kernel.trace();
    let lines: Vec<&str> = trace.lines().collect();
    let end = &lines[lines.len().saturating_sub(60)..];
    println!(
        "seed {seed} fails; the end of its trace:\n{}",
        end.join("\n")
    );
    resume_unwind(failed)
}

fn simulate(kernel: &SimKernel, seed: u64, mistake: Mistake) -> Report {
    let mut prng = Prng::new(seed, 99);
    let address: Address = "127.0.0.1:80".parse().unwrap();
    let listener = kernel.listen(&address);
    let mut options = || SimOptions {
        submission_entries: 1 + prng.below(16) as usize,
        recv_buffers: 1 + prng.below(8) as u16,
        recv_buffer_bytes: 1 << (4 + prng.below(7)),
        large_buffers: 1 + prng.below(3) as u16,
        large_buffer_bytes: 1 << (4 + prng.below(9)),
    };
    let server_ring = kernel.ring(&options()).unwrap();
    let client_ring = kernel.ring(&options()).unwrap();
    let mut server = Side::new(server_ring, seed, mistake, Some(listener));
    let mut client = Side::new(client_ring, seed, mistake, None);
    let mut rude = RudePeer {
        peer: kernel.connect(&address).ok(),
        prng: Prng::new(seed, 98),
    };
    for side in [&mut server, &mut client] {
        side.ring.submit_wake(WAKE);
    }
    let mut dialled = 0;
    for turn in 0.. {
        if turn >= TURNS_MAX {
            // An ordinary panic: a mistake that hangs is caught here.
            panic!("seed {seed} is stuck");
        }
        if prng.below(20) == 0 {
            // Several at once, so that some of them wait in the backlog.
            for _ in 0..prng.up_to(3) {
                dialled += u64::from(dialled < CLIENTS && client.dial(&address));
            }
        }
        rude.act();
        if prng.below(50) == 0 {
            client.ring.waker().wake();
        }
        let stopping = server.stopping;
        let (first, second) = if prng.coin() {
            (&mut server, &mut client)
        } else {
            (&mut client, &mut server)
        };
        let wait = match prng.below(3) {
            0 => Wait::Poll,
            1 => Wait::Forever,
            _ => Wait::Until(first.ring.now().plus_ms(20)),
        };
        first.turn(wait);
        second.turn(Wait::Forever);
        let clients_done = dialled == CLIENTS && client.is_idle() && rude.peer.is_none();
        if clients_done && !stopping {
            server.stopping = true;
            server.ring.submit_cancel(ACCEPT, STOP);
        }
        if stopping && server.is_idle() && server.listener.is_none() && is_drained(&server) {
            break;
        }
    }
    while !is_drained(&client) {
        client.turn(Wait::Forever);
    }
    let complete = client
        .connections
        .iter()
        .filter(|one| one.received == one.plan.len());
    let complete = complete.count() as u64;
    for side in [&server, &client] {
        assert_eq!((side.arena.queues_out(), side.arena.chunks_out()), (0, 0));
        assert_eq!(side.ring.leases(), 0);
    }
    kernel.assert_clean();
    Report {
        marks: kernel.marks(),
        hash: kernel.trace_hash(),
        complete,
        clients: dialled,
        turned_away: server.turned_away,
    }
}

/// Whether nothing but the tick and the wake is in flight.
fn is_drained(side: &Side) -> bool {
    side.ring.in_flight() == 1 + usize::from(side.ticking)
}

#[test]
fn every_fault_and_every_check_acts() {
    let mut marks = Marks::default();
    let (mut complete, mut clients) = (0, 0);
    for seed in seeds(SEEDS) {
        let report = run_or_trace(seed, Knobs::swarm(seed));
        marks.merge(&report.marks);
        complete += report.complete;
        clients += report.clients;
    }
    println!("{marks}{complete} of {clients} clients got all back");
    assert_eq!(
        marks.missing(),
        [""; 0],
        "never reached in {SEEDS} seeds:\n{marks}"
    );
    assert!(
        complete * 4 > clients,
        "only {complete} of {clients} clients got all back"
    );
}

#[test]
fn harmless_faults_lose_nothing() {
    for seed in seeds(100) {
        let mut knobs = Knobs::benign();
        for &knob in &[Knob::RecvEnds, Knob::NoBuffers, Knob::CancelTooLate] {
            knobs = knobs.with(knob, 100);
        }
        let report = run_or_trace(seed, knobs);
        let served = report.clients - report.turned_away.min(report.clients);
        assert!(
            report.complete >= served,
            "seed {seed}: {} of {served}",
            report.complete
        );
    }
}

#[test]
fn a_seed_gives_the_same_run_twice() {
    let mut hashes = Vec::new();
    for seed in seeds(50) {
        let once = run(seed, Knobs::swarm(seed), Mistake::None);
        let twice = run(seed, Knobs::swarm(seed), Mistake::None);
        assert_eq!(
            (once.hash, &once.marks),
            (twice.hash, &twice.marks),
            "seed {seed}"
        );
        hashes.push(once.hash);
    }
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 50, "two seeds gave one run");
}

#[test]
fn a_trace_is_written_on_demand_and_changes_nothing() {
    let quiet = run(3, Knobs::swarm(3), Mistake::None);
    let kernel = SimKernel::new(3, Knobs::swarm(3));
    kernel.keep_trace();
    let report = simulate(&kernel, 3, Mistake::None);
    assert_eq!(report.hash, quiet.hash);
    let trace = kernel.trace();
    for word in ["submit", "accepted", "received", "sent", "turn", "closed"] {
        assert!(
            trace.lines().any(|line| line.contains(word)),
            "no '{word}' in the trace"
        );
    }
}

#[test]
fn mistakes_are_caught() {
    for mistake in MISTAKES {
        let caught = (0..SEEDS).any(|seed| {
            let knobs = Knobs::swarm(seed);
            catch_unwind(AssertUnwindSafe(|| run(seed, knobs, mistake))).is_err()
        });
        assert!(caught, "{mistake:?} went unnoticed in {SEEDS} seeds");
    }
}
