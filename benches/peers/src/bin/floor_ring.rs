//! The floor of ringwire's own ring: a raw TCP echo on the same driver, with no protocol in it.
//!
//! Multishot receive into the same pool, what came copied into a send queue or, when it is long,
//! sent from where it lies, one send for each connection at the end of a turn; long messages
//! announced and received at once: what a shard does, and nothing of what it does
//! beside it. Bytes are neither looked at nor limited, so it is for
//! measuring on a machine of one's own and nothing else.

use std::{error::Error, os::fd::OwnedFd};

use bytes::Bytes;
use clap::Parser;
use mimalloc::MiMalloc;
use ringwire::ring::{
    Address, Arrival, Completion, Errno, Expected, Lent, Operation, Outcome, RecvLease, Ring,
    SendArena, SendQueue, Shutdown, Token, Urgency, Uring, UringOptions, Wait,
    errno::TransferError, socket::Listener,
};

/// As in the ringwire binary.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A raw TCP echo on ringwire's ring
#[derive(Parser)]
struct Arguments {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: Address,
    /// Drop what comes instead of returning it
    #[arg(long)]
    sink: bool,
    /// Send what comes to everybody who is connected instead
    #[arg(long)]
    fan: bool,
    /// Receive buffers, a power of two
    #[arg(long, default_value_t = UringOptions::default().recv_buffers)]
    recv_buffers: u16,
    /// Bytes in each receive buffer
    #[arg(long, default_value_t = UringOptions::default().recv_buffer_bytes)]
    recv_buffer_bytes: u32,
    /// Bytes in each chunk that is sent
    #[arg(long, default_value_t = 32 << 10)]
    send_chunk_bytes: usize,
    /// Bytes of unused chunks that are kept
    #[arg(long, default_value_t = 4 << 20)]
    send_kept_bytes_max: usize,
    /// Bytes received at once from which they are sent from where they lie
    #[arg(long, default_value_t = 4096)]
    send_in_place_bytes_min: usize,
    /// Bytes received at once from which on what comes is announced, and received at once then
    #[arg(long, default_value_t = 64 << 10)]
    large_bytes_min: usize,
    /// Completions handled before what they caused is sent
    #[arg(long, default_value_t = 128)]
    turn_completions_max: usize,
    /// Received bytes after which it is sent, likewise
    #[arg(long, default_value_t = 128 << 10)]
    turn_bytes_max: usize,
}

#[derive(Default)]
struct Connection {
    socket: Option<OwnedFd>,
    /// What came while a send was in flight, or since the last one.
    outgoing: Option<Box<SendQueue>>,
    sending: bool,
    /// The peer did not take all of the last send: the next one waits for it.
    sent_in_part: bool,
    receiving: bool,
    /// For so many receives more what comes is announced: much came at once not long ago.
    large_for: u8,
    touched: bool,
    /// Receive buffers ran out; it receives again when enough are back.
    starved: bool,
    /// The peer sends no more, or is gone.
    ended: bool,
}

struct Floor {
    ring: Uring,
    arena: SendArena,
    listener: OwnedFd,
    connections: Vec<Connection>,
    free: Vec<usize>,
    touched: Vec<usize>,
    starved: Vec<usize>,
    sink: bool,
    fan: bool,
    in_place_bytes_min: usize,
    large_bytes_min: usize,
    /// Bytes received in this turn, how many of them wait to be sent from where they lie, and how
    /// many may.
    turn_bytes: usize,
    lent_bytes: usize,
    lent_bytes_max: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut listener = Listener::bind(&arguments.listen, 1, 4096, None)?;
    println!("tcp://{}/", listener.address());
    let options = UringOptions {
        recv_buffers: arguments.recv_buffers,
        recv_buffer_bytes: arguments.recv_buffer_bytes,
        ..UringOptions::default()
    };
    let mut floor = Floor {
        ring: Uring::new(&options)?,
        arena: SendArena::new(arguments.send_chunk_bytes, arguments.send_kept_bytes_max),
        listener: listener.take_socket().ok_or("no listener")?,
        connections: Vec::new(),
        free: Vec::new(),
        touched: Vec::new(),
        starved: Vec::new(),
        sink: arguments.sink,
        fan: arguments.fan,
        in_place_bytes_min: arguments.send_in_place_bytes_min,
        large_bytes_min: arguments.large_bytes_min,
        turn_bytes: 0,
        lent_bytes: 0,
        lent_bytes_max: usize::from(options.recv_buffers) * options.recv_buffer_bytes as usize / 2,
    };
    floor.accept();
    loop {
        floor.ring.turn(Wait::Forever)?;
        (floor.turn_bytes, floor.lent_bytes) = (0, 0);
        for _ in 0..arguments.turn_completions_max {
            if floor.turn_bytes >= arguments.turn_bytes_max {
                break;
            }
            let Some(completion) = floor.ring.next_completion() else {
                break;
            };
            floor.dispatch(completion)?;
        }
        floor.settle();
    }
}

fn token(operation: Operation, slot: usize) -> Token {
    Token::new(operation, slot as u64)
}

fn return_lent(ring: &mut Uring, arena: &mut SendArena) {
    while let Some(lent) = arena.take_returned() {
        if let Lent::Lease(lease) = lent {
            ring.recycle(lease);
        }
    }
}

impl Connection {
    fn receive(&mut self, slot: usize, ring: &mut Uring) {
        let Some(socket) = &self.socket else {
            return;
        };
        self.receiving = true;
        let arrival = if self.large_for > 0 {
            Arrival::Announced
        } else {
            Arrival::Delivered
        };
        ring.submit_recv(socket, token(Operation::Recv, slot), arrival);
    }
}

impl Floor {
    fn accept(&mut self) {
        self.ring
            .submit_accept(&self.listener, token(Operation::Accept, 0));
    }

    #[inline]
    fn dispatch(&mut self, completion: Completion<OwnedFd>) -> Result<(), Box<dyn Error>> {
        let slot = completion.token.tag() as usize;
        match completion.token.operation() {
            Operation::Recv => self.received(slot, completion),
            Operation::Send => {
                if let Outcome::Sent { queue, result } = completion.outcome {
                    self.sent(slot, queue, result);
                }
            }
            Operation::Accept => match completion.outcome {
                Outcome::Accepted(socket) => self.accepted(socket, completion.more),
                other => return Err(format!("accepting ended: {other:?}").into()),
            },
            Operation::Close => {
                self.connections[slot] = Connection::default();
                self.free.push(slot);
            }
            _ => {}
        }
        Ok(())
    }

    fn accepted(&mut self, socket: OwnedFd, more: bool) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(Connection::default());
            self.connections.len() - 1
        });
        self.connections[slot].socket = Some(socket);
        self.touch(slot);
        if !more {
            self.accept();
        }
    }

    #[inline]
    fn received(&mut self, slot: usize, completion: Completion<OwnedFd>) {
        let connection = &mut self.connections[slot];
        connection.receiving &= completion.more;
        let mut outcome = completion.outcome;
        let is_large = matches!(outcome, Outcome::Readable);
        if is_large {
            return_lent(&mut self.ring, &mut self.arena);
            if let Some(socket) = &connection.socket {
                outcome = self.ring.recv_now(socket, Expected::LongMessage).outcome;
            }
        }
        match outcome {
            Outcome::Received(lease) => {
                self.turn_bytes += lease.len();
                self.size_receives(slot, lease.len());
                if self.sink {
                    self.ring.recycle(lease);
                } else if self.fan {
                    self.spread(&lease);
                    self.ring.recycle(lease);
                } else {
                    self.answer(slot, lease, is_large);
                }
            }
            Outcome::Failed(errno) => match errno.of_transfer() {
                TransferError::NoBuffers => {
                    connection.starved = true;
                    self.starved.push(slot);
                }
                TransferError::Retry | TransferError::Cancelled => {}
                _ => self.end(slot),
            },
            _ => connection.ended = true,
        }
        self.touch(slot);
    }

    /// Has much that comes at once received into large buffers, for a while.
    #[inline]
    fn size_receives(&mut self, slot: usize, len: usize) {
        let connection = &mut self.connections[slot];
        if len < self.large_bytes_min {
            connection.large_for = connection.large_for.saturating_sub(1);
            return;
        }
        if connection.large_for == 0 && connection.receiving {
            let receive = token(Operation::Recv, slot);
            self.ring
                .submit_cancel(receive, token(Operation::Cancel, slot));
        }
        connection.large_for = 16;
    }

    /// Queues what came, to be sent when the turn ends.
    #[inline]
    fn answer(&mut self, slot: usize, lease: RecvLease, is_large: bool) {
        let (connection, arena) = (&mut self.connections[slot], &mut self.arena);
        let queue = connection.outgoing.get_or_insert_with(|| arena.queue());
        let len = lease.len();
        // Receive memory that had to wait behind a send in flight would be missing to others.
        if len >= self.in_place_bytes_min
            && !connection.sending
            && (is_large || self.lent_bytes + len <= self.lent_bytes_max)
        {
            if !is_large {
                self.lent_bytes += len;
            }
            let place = queue.promise(len);
            queue.fulfil(place, Lent::Lease(lease));
        } else {
            queue.write(arena, &lease);
            self.ring.recycle(lease);
        }
    }

    /// Queues what came for everybody, to be sent when the turn ends.
    fn spread(&mut self, bytes: &[u8]) {
        let common = self.arena.common(Bytes::copy_from_slice(bytes));
        for slot in 0..self.connections.len() {
            let (connection, arena) = (&mut self.connections[slot], &mut self.arena);
            if connection.socket.is_some() && !connection.ended {
                let queue = connection.outgoing.get_or_insert_with(|| arena.queue());
                queue.push_common(common.clone());
                self.touch(slot);
            }
        }
    }

    #[inline]
    fn sent(&mut self, slot: usize, mut queue: Box<SendQueue>, result: Result<usize, Errno>) {
        let connection = &mut self.connections[slot];
        connection.sending = false;
        match result {
            Ok(bytes) => queue.advance(&mut self.arena, bytes),
            Err(errno) if errno.of_transfer() == TransferError::Retry => {}
            Err(_) => {
                self.arena.retire(queue);
                self.end(slot);
                self.touch(slot);
                return;
            }
        }
        connection.sent_in_part = !queue.is_empty();
        if queue.is_empty() {
            self.arena.retire(queue);
            if connection.outgoing.is_none() && !connection.ended {
                return;
            }
        } else {
            queue.own(&mut self.arena);
            if let Some(mut later) = connection.outgoing.take() {
                queue.append(&mut later);
                self.arena.retire(later);
            }
            connection.outgoing = Some(queue);
        }
        self.touch(slot);
    }

    /// The connection is broken: what is in flight on it comes to its end.
    fn end(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        connection.ended = true;
        if let Some(queue) = connection.outgoing.take() {
            self.arena.retire(queue);
        }
        if let Some(socket) = &connection.socket {
            self.ring.shutdown(socket, Shutdown::Both);
        }
    }

    #[inline]
    fn touch(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.touched {
            connection.touched = true;
            self.touched.push(slot);
        }
    }

    /// The end of a turn: one send for each connection that has something to send.
    #[inline]
    fn settle(&mut self) {
        while let Some(slot) = self.touched.pop() {
            let connection = &mut self.connections[slot];
            connection.touched = false;
            let Some(socket) = &connection.socket else {
                continue;
            };
            if !connection.sending
                && let Some(queue) = connection.outgoing.take()
            {
                connection.sending = true;
                let send = token(Operation::Send, slot);
                let urgency = if connection.sent_in_part {
                    Urgency::Awaited
                } else {
                    Urgency::Unawaited
                };
                self.ring.submit_send(socket, send, queue, urgency);
            }
            if connection.ended {
                if !connection.sending
                    && !connection.receiving
                    && let Some(socket) = connection.socket.take()
                {
                    self.ring
                        .submit_close(socket, token(Operation::Close, slot));
                }
            } else if !connection.receiving && !connection.starved {
                connection.receive(slot, &mut self.ring);
            }
        }
        return_lent(&mut self.ring, &mut self.arena);
        let is_ready = |arrival| self.ring.recv_ready(arrival);
        if !self.starved.is_empty() && is_ready(Arrival::Delivered) && is_ready(Arrival::Announced)
        {
            for slot in std::mem::take(&mut self.starved) {
                let connection = &mut self.connections[slot];
                connection.starved = false;
                if !connection.receiving && !connection.ended {
                    connection.receive(slot, &mut self.ring);
                }
            }
        }
    }
}
