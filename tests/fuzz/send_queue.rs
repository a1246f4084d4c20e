//! A send queue against a vector of bytes: what was written, adopted, lent and appended leaves in
//! that order, however much the kernel takes at once, and what was lent goes back to its owner.
//!
//! The first byte chooses the size of chunks, the second how many of them are kept; then come the
//! steps.

use bytes::Bytes;
use ringwire::{
    kernels::memory::Memory,
    ring::{Lent, RecvLease, SendArena, SendQueue, recv_pool::RecvStack, send::CONTIGUOUS_BYTES},
};

use crate::{
    Tally,
    input::{Input, binary},
};

/// Bytes that an input may have queued in all, so that none of them takes long.
const QUEUED_BYTES_MAX: usize = 1 << 17;

const RECV_BYTES: u32 = 4096;

/// A queue and what is in it.
struct Modelled {
    queue: Box<SendQueue>,
    bytes: Vec<u8>,
    /// Part of a piece of it may have been sent: it cannot follow another queue.
    is_begun: bool,
}

struct Machine {
    arena: SendArena,
    /// The second one is to follow the first.
    queues: [Modelled; 2],
    /// Receive memory, mapped once an input asks for it.
    stack: Option<RecvStack>,
    /// Buffers that were lent and did not come back.
    lent: usize,
    queued_bytes: usize,
    seed: u8,
    tally: Tally,
}

/// Takes the steps.
pub fn run(bytes: &[u8]) -> Tally {
    let mut input = Input::new(bytes);
    let chunk_bytes = input.choose(&[256, 300, 768, 1000, 8192, 20_000, 65_536]);
    let kept = usize::from(input.byte() & 3) * chunk_bytes;
    let mut arena = SendArena::new(chunk_bytes, kept);
    let queues = [0, 1].map(|_| Modelled {
        queue: arena.queue(),
        bytes: Vec::new(),
        is_begun: false,
    });
    let mut machine = Machine {
        arena,
        queues,
        stack: None,
        lent: 0,
        queued_bytes: 0,
        seed: 0,
        tally: Tally::default(),
    };
    while !input.is_empty() && machine.queued_bytes < QUEUED_BYTES_MAX {
        machine.step(&mut input);
        machine.check();
        machine.tally.accepted += 1;
    }
    machine.finish()
}

impl Machine {
    fn step(&mut self, input: &mut Input<'_>) {
        let step = input.byte();
        let at = usize::from(step & 1);
        match step >> 1 & 7 {
            0 => {
                let bytes = self.bytes(input.len());
                self.write(at, &bytes);
            }
            1 => self.write_in_place(at, input),
            2 => {
                let bytes = Bytes::from(self.bytes(input.len()));
                self.adopt(at, bytes);
            }
            3 => self.lend(at, input),
            4 | 5 => {
                let len = self.queues[at].queue.len();
                let count = if step & 16 == 0 { input.len() } else { len };
                self.advance(at, count.min(len));
            }
            6 if at == 0 => self.append(),
            6 => {
                // The queue of a connection that went away, whatever it holds.
                let fresh = self.arena.queue();
                let gone = std::mem::replace(&mut self.queues[at].queue, fresh);
                self.arena.retire(gone);
                self.queues[at].bytes.clear();
                self.queues[at].is_begun = false;
            }
            _ => {
                let Modelled { queue, .. } = &mut self.queues[at];
                queue.own(&mut self.arena);
                assert!(!queue.holds_leases());
            }
        }
        self.take_returned();
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.seed = self.seed.wrapping_add(89);
        self.queued_bytes += len;
        binary(len, self.seed)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let Modelled {
            queue,
            bytes: model,
            ..
        } = &mut self.queues[at];
        queue.write(&mut self.arena, bytes);
        model.extend(bytes);
    }

    /// Room is asked for and used in part.
    fn write_in_place(&mut self, at: usize, input: &mut Input<'_>) {
        let (wanted, used) = (input.len(), input.len());
        let bytes = self.bytes(wanted.min(used));
        let Modelled {
            queue,
            bytes: model,
            ..
        } = &mut self.queues[at];
        let space = queue.space(&mut self.arena, wanted);
        assert!((wanted.min(CONTIGUOUS_BYTES)..=wanted).contains(&space.len()));
        let used = bytes.len().min(space.len());
        space[..used].copy_from_slice(&bytes[..used]);
        queue.commit(used);
        model.extend(&bytes[..used]);
    }

    fn adopt(&mut self, at: usize, bytes: Bytes) {
        let Modelled {
            queue,
            bytes: model,
            ..
        } = &mut self.queues[at];
        model.extend(&bytes);
        queue.adopt(&mut self.arena, bytes);
    }

    /// Places are kept for one buffer or two that are still read, with what is written meanwhile
    /// behind them; then they are lent.
    fn lend(&mut self, at: usize, input: &mut Input<'_>) {
        let how = input.byte();
        let mut promises = Vec::new();
        for index in 0..1 + usize::from(how & 1) {
            let lent = if how & 2 << index == 0 {
                let bytes = self.bytes(1 + input.len());
                let end = bytes.len() - input.len().min(bytes.len() - 1);
                let part = input.len().min(end - 1)..end;
                let bytes = Memory::Heap(bytes);
                Some(Lent::Memory { bytes, part })
            } else {
                let len = 1 + input.len().min(RECV_BYTES as usize - 1);
                self.lease(len).map(Lent::Lease)
            };
            let Some(lent) = lent else { continue };
            let Modelled {
                queue,
                bytes: model,
                ..
            } = &mut self.queues[at];
            let bytes = match &lent {
                Lent::Lease(lease) => &lease[..],
                Lent::Memory { bytes, part } => &bytes[part.clone()],
            };
            model.extend(bytes);
            promises.push((queue.promise(bytes.len()), lent));
            self.lent += 1;
            if how & 8 != 0 {
                let bytes = self.bytes(input.len());
                self.write(at, &bytes);
            }
        }
        if how & 16 != 0 {
            promises.reverse();
        }
        for (promise, lent) in promises {
            self.queues[at].queue.fulfil(promise, lent);
        }
    }

    /// Received bytes, one lease of two on the same buffer; none when all of them are lent.
    fn lease(&mut self, len: usize) -> Option<RecvLease> {
        let bytes = self.bytes(len);
        let map = || RecvStack::new(4, RECV_BYTES, RECV_BYTES).expect("room for a small mapping");
        let stack = self.stack.get_or_insert_with(map);
        let filled = stack.receive(|memory| {
            memory[..len].copy_from_slice(&bytes);
            Ok(len)
        });
        let lease = filled.ok().flatten()?;
        if len < 2 {
            return Some(lease);
        }
        let (read, sent) = stack.split(lease, len / 2);
        stack.recycle(read);
        Some(sent)
    }

    fn advance(&mut self, at: usize, count: usize) {
        let Modelled {
            queue,
            bytes: model,
            is_begun,
        } = &mut self.queues[at];
        queue.advance(&mut self.arena, count);
        model.drain(..count);
        *is_begun = !model.is_empty() && (*is_begun || count > 0);
    }

    fn append(&mut self) {
        let [first, later] = &mut self.queues;
        if later.is_begun {
            return;
        }
        first.queue.append(&mut later.queue);
        first.bytes.append(&mut later.bytes);
        assert!(later.queue.is_empty());
    }

    fn take_returned(&mut self) {
        while let Some(lent) = self.arena.take_returned() {
            self.lent -= 1;
            if let (Lent::Lease(lease), Some(stack)) = (lent, &mut self.stack) {
                stack.recycle(lease);
            }
        }
    }

    /// Both queues hold what their models do.
    fn check(&self) {
        for Modelled { queue, bytes, .. } in &self.queues {
            assert_eq!(
                (queue.len(), queue.is_empty()),
                (bytes.len(), bytes.is_empty())
            );
            let mut rest = &bytes[..];
            for piece in queue.pieces() {
                assert!(!piece.is_empty());
                let found;
                (found, rest) = rest.split_at(piece.len());
                assert_eq!(piece, found);
            }
            assert!(rest.is_empty(), "{} bytes are missing", rest.len());
            if let Some(only) = queue.only_piece() {
                assert_eq!(only, bytes);
            }
        }
    }

    /// Everything goes back.
    fn finish(mut self) -> Tally {
        let fresh = [0, 1].map(|_| Modelled {
            queue: self.arena.queue(),
            bytes: Vec::new(),
            is_begun: false,
        });
        for Modelled { queue, .. } in std::mem::replace(&mut self.queues, fresh) {
            self.arena.retire(queue);
        }
        self.take_returned();
        assert_eq!(self.lent, 0, "something that was lent did not come back");
        assert_eq!(self.stack.as_ref().map_or(0, RecvStack::leases), 0);
        let [one, other] = self.queues;
        self.arena.retire(one.queue);
        self.arena.retire(other.queue);
        assert_eq!((self.arena.queues_out(), self.arena.chunks_out()), (0, 0));
        self.tally
    }
}
