//! Turns a ring until what a clause of the contract awaits has come, within a deadline.

use std::time::{Duration, Instant};

use ringwire::ring::{
    Arrival, Completion, Errno, Lent, Operation, Outcome, Ring, SendArena, SendQueue, Token,
    Urgency, Wait, sim::SimRead,
};

use crate::env::{Env, Peer, Sizes, Socket};

/// Nothing here takes a second; whatever takes this long will never come.
pub const DEADLINE: Duration = Duration::from_secs(10);

pub const KIB: usize = 1024;

pub fn token(operation: Operation, tag: u64) -> Token {
    Token::new(operation, tag)
}

/// Turns a ring until what is awaited has come.
pub struct Driver<E: Env> {
    pub ring: E::Ring,
    pub arena: SendArena,
    pub seen: Vec<Completion<Socket<E>>>,
    pub deadline: Instant,
    pub env: E,
}

impl<E: Env> Driver<E> {
    pub fn new(env: E, sizes: Sizes) -> Self {
        Self {
            ring: env.ring(sizes),
            arena: SendArena::new(4 * KIB, 64 * KIB),
            seen: Vec::new(),
            deadline: Instant::now() + DEADLINE,
            env,
        }
    }

    pub fn turn(&mut self) {
        let soon = self.ring.now().plus_ms(20);
        self.turn_waiting(Wait::Until(soon));
    }

    pub fn turn_waiting(&mut self, wait: Wait) {
        let (in_flight, seen) = (self.ring.in_flight(), &self.seen);
        assert!(
            Instant::now() < self.deadline,
            "{in_flight} in flight, not asked for: {seen:?}"
        );
        self.ring.turn(wait).unwrap();
        while let Some(completion) = self.ring.next_completion() {
            self.seen.push(completion);
        }
    }

    /// The first completion of `token` that came and was not taken.
    pub fn take(&mut self, token: Token) -> Option<Completion<Socket<E>>> {
        let first = self
            .seen
            .iter()
            .position(|completion| completion.token == token)?;
        Some(self.seen.remove(first))
    }

    pub fn wait_for(&mut self, token: Token) -> Completion<Socket<E>> {
        loop {
            if let Some(completion) = self.take(token) {
                return completion;
            }
            self.turn();
        }
    }

    /// Waits for the only completion of `token`.
    pub fn outcome(&mut self, token: Token) -> Outcome<Socket<E>> {
        let completion = self.wait_for(token);
        assert!(!completion.more, "{completion:?} should be the only one");
        completion.outcome
    }

    pub fn wait_done(&mut self, token: Token) {
        let outcome = self.outcome(token);
        assert!(matches!(outcome, Outcome::Done), "{token:?}: {outcome:?}");
    }

    pub fn wait_failed(&mut self, token: Token) -> Errno {
        match self.outcome(token) {
            Outcome::Failed(errno) => errno,
            other => panic!("{token:?} should have failed: {other:?}"),
        }
    }

    /// Turns until `condition` holds.
    pub fn until(&mut self, mut condition: impl FnMut(&mut Self) -> bool) {
        while !condition(self) {
            self.turn();
        }
    }

    pub fn read(&mut self, peer: &mut E::Peer, max: usize) -> SimRead {
        loop {
            match peer.read(max) {
                SimRead::Nothing => self.turn(),
                read => return read,
            }
        }
    }

    pub fn read_exactly(&mut self, peer: &mut E::Peer, len: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < len {
            match self.read(peer, len - all.len()) {
                SimRead::Bytes(bytes) => all.extend(bytes),
                other => panic!("{} of {len} bytes, then {other:?}", all.len()),
            }
        }
        all
    }

    pub fn accept(&mut self, listener: &Socket<E>, accept: Token) -> Socket<E> {
        let completion = self.wait_for(accept);
        if !completion.more {
            self.ring.submit_accept(listener, accept);
        }
        match completion.outcome {
            Outcome::Accepted(socket) => socket,
            other => panic!("{accept:?}: {other:?}"),
        }
    }

    /// Cancels `target`, which has nothing to do, and waits until both are over.
    pub fn cancel(&mut self, target: Token) {
        let cancel = token(
            Operation::Cancel,
            target.bits() >> Token::TAG_BITS << 48 | 0xffff,
        );
        self.ring.submit_cancel(target, cancel);
        self.wait_done(cancel);
        assert_eq!(self.wait_failed(target), Errno::CANCELLED);
    }

    pub fn connections(&mut self, count: usize) -> Vec<(Socket<E>, E::Peer)> {
        let (listener, address) = self.env.listen(&mut self.ring);
        let accept = token(Operation::Accept, 99);
        self.ring.submit_accept(&listener, accept);
        let connections = (0..count).map(|_| {
            let peer = self.env.connect(&address);
            (self.accept(&listener, accept), peer)
        });
        let connections = connections.collect();
        self.cancel(accept);
        self.close(listener);
        connections
    }

    pub fn connection(&mut self) -> (Socket<E>, E::Peer) {
        self.connections(1).remove(0)
    }

    pub fn close(&mut self, socket: Socket<E>) {
        let close = token(Operation::Close, 99);
        self.ring.submit_close(socket, close);
        self.wait_done(close);
    }

    pub fn queue(&mut self, bytes: &[u8]) -> Box<SendQueue> {
        let mut queue = self.arena.queue();
        queue.write(&mut self.arena, bytes);
        queue
    }

    /// Waits for the end of a send, and takes off the queue what was sent.
    pub fn sent(&mut self, send: Token) -> (Box<SendQueue>, Result<usize, Errno>) {
        match self.outcome(send) {
            Outcome::Sent { mut queue, result } => {
                queue.advance(&mut self.arena, result.unwrap_or(0));
                (queue, result)
            }
            other => panic!("{send:?}: {other:?}"),
        }
    }

    pub fn send_all(&mut self, socket: &Socket<E>, bytes: &[u8]) {
        let send = token(Operation::Send, 98);
        let mut queue = self.queue(bytes);
        while !queue.is_empty() {
            self.ring.submit_send(socket, send, queue, Urgency::Awaited);
            let result;
            (queue, result) = self.sent(send);
            result.unwrap();
        }
        self.arena.retire(queue);
    }

    /// Sends a queue to a peer that reads at most `at_once` bytes between two turns. Returns what
    /// arrived, and in how many sends it left.
    pub fn send_to_reader(
        &mut self,
        socket: &Socket<E>,
        mut queue: Box<SendQueue>,
        peer: &mut E::Peer,
        at_once: usize,
    ) -> (Vec<u8>, usize) {
        let (send, total) = (token(Operation::Send, 97), queue.len());
        let mut bytes = Vec::with_capacity(total);
        let mut sends = 0;
        while !queue.is_empty() {
            let len = queue.len();
            self.ring.submit_send(socket, send, queue, Urgency::Awaited);
            while !self.seen.iter().any(|completion| completion.token == send) {
                match peer.read(at_once) {
                    SimRead::Bytes(more) => {
                        bytes.extend(more);
                        self.turn_waiting(Wait::Poll);
                    }
                    SimRead::Nothing => self.turn(),
                    other => panic!("{} of {total} bytes, then {other:?}", bytes.len()),
                }
            }
            let result;
            (queue, result) = self.sent(send);
            assert_eq!(
                queue.len(),
                len - result.unwrap(),
                "the queue came back as it left"
            );
            sends += 1;
        }
        self.arena.retire(queue);
        bytes.extend(self.read_exactly(peer, total - bytes.len()));
        (bytes, sends)
    }

    /// Reads `sent` bytes, and then what is left in `queue`, which is sent.
    pub fn arrives(
        &mut self,
        socket: &Socket<E>,
        peer: &mut E::Peer,
        sent: usize,
        queue: Box<SendQueue>,
    ) -> Vec<u8> {
        let mut arrived = self.read_exactly(peer, sent);
        arrived.extend(self.send_to_reader(socket, queue, peer, 4 * KIB).0);
        arrived
    }

    /// Gives receive memory back that was sent.
    pub fn recycle_returned(&mut self) {
        while let Some(Lent::Lease(lease)) = self.arena.take_returned() {
            self.ring.recycle(lease);
        }
    }

    /// The end of every clause that closed all it opened.
    pub fn finish(self) {
        assert!(self.seen.is_empty(), "nobody asked for {:?}", self.seen);
        assert_eq!(self.ring.in_flight(), 0);
        assert_eq!((self.arena.queues_out(), self.arena.chunks_out()), (0, 0));
        drop(self.ring);
        self.env.finish();
    }
}

/// Receives from one socket, submitting anew whenever it has to.
pub struct Receiver {
    pub token: Token,
    pub armed: bool,
    pub over: bool,
}

impl Receiver {
    pub fn new(tag: u64) -> Self {
        Self {
            token: token(Operation::Recv, tag),
            armed: false,
            over: false,
        }
    }

    pub fn next<E: Env>(
        &mut self,
        driver: &mut Driver<E>,
        socket: &Socket<E>,
    ) -> Option<Outcome<Socket<E>>> {
        if !self.armed && !self.over && driver.ring.recv_ready(Arrival::Delivered) {
            driver
                .ring
                .submit_recv(socket, self.token, Arrival::Delivered);
            self.armed = true;
        }
        let Completion { outcome, more, .. } = driver.take(self.token)?;
        self.armed = more;
        match &outcome {
            Outcome::Received(lease) => assert!(!lease.is_empty()),
            Outcome::Failed(Errno::NO_BUFFERS) => assert!(!more),
            _ => {
                assert!(!more, "{outcome:?} has to be the last");
                self.over = true;
            }
        }
        Some(outcome)
    }

    /// Appends to `bytes` until there are `len`.
    pub fn read<E: Env>(
        &mut self,
        driver: &mut Driver<E>,
        socket: &Socket<E>,
        bytes: &mut Vec<u8>,
        len: usize,
    ) {
        driver.until(|driver| {
            while bytes.len() < len
                && let Some(outcome) = self.next(driver, socket)
            {
                match outcome {
                    Outcome::Received(lease) => {
                        bytes.extend_from_slice(&lease);
                        driver.ring.recycle(lease);
                    }
                    Outcome::Failed(Errno::NO_BUFFERS) => {}
                    other => panic!("{} of {len} bytes, then {other:?}", bytes.len()),
                }
            }
            bytes.len() >= len
        });
    }

    /// What comes when no more bytes do.
    pub fn end<E: Env>(
        &mut self,
        driver: &mut Driver<E>,
        socket: &Socket<E>,
    ) -> Outcome<Socket<E>> {
        loop {
            match self.next(driver, socket) {
                None => driver.turn(),
                Some(Outcome::Failed(Errno::NO_BUFFERS)) => {}
                Some(outcome) => return outcome,
            }
        }
    }
}

impl Receiver {
    /// As `read`, with nothing in flight at the end.
    pub fn read_and_stop<E: Env>(
        mut self,
        driver: &mut Driver<E>,
        socket: &Socket<E>,
        bytes: &mut Vec<u8>,
        len: usize,
    ) {
        if bytes.len() >= len {
            return;
        }
        self.read(driver, socket, bytes, len);
        if self.armed {
            driver.cancel(self.token);
        }
    }
}

impl<E: Env> Driver<E> {
    /// Ends a receive that may just have found no buffer.
    pub fn cancel_or_starved(&mut self, recv: Token) {
        let cancel = token(Operation::Cancel, 1);
        self.ring.submit_cancel(recv, cancel);
        let outcome = self.outcome(cancel);
        assert!(
            matches!(outcome, Outcome::Done | Outcome::Failed(_)),
            "{outcome:?}"
        );
        let errno = self.wait_failed(recv);
        assert!(
            matches!(errno, Errno::CANCELLED | Errno::NO_BUFFERS),
            "{errno:?}"
        );
    }
}
