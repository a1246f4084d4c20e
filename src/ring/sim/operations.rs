//! What each kind of operation does when there is something for it to do.
//!
//! Knows: what the real kernel answers, and where it has a choice. Refuses to know: when an
//! operation is looked at, and when its completions arrive (`kernel`).

use super::{
    kernel::{InFlight, Kernel, Work},
    knobs::Knob,
    marks::Mark,
    network::{Holder, PIPE, REFUSED, Role, SocketId, WayOut},
};
use crate::ring::{
    Address, Arrival, Errno, Expected, Operation, Outcome, RecvLease, RecvNow, SendQueue, Token,
    send::PIECES_MAX,
};

/// What a receive finds.
enum Found {
    Bytes,
    Nothing,
    /// There will be no more: the stream has ended, or it broke.
    Over(Result<(), Errno>),
}

/// Whether a ring that goes by readiness tries this when it hands out what comes of it.
fn is_tried(work: &Work) -> bool {
    match work {
        Work::Accept | Work::Connect { .. } | Work::Recv(_) => true,
        Work::Send { waits, .. } => *waits,
        _ => false,
    }
}

/// Linux lets one multishot receive post this many completions before it looks at others.
const RECVS_IN_A_ROW_MAX: usize = 32;

impl Kernel {
    /// Whether an operation has something to do.
    pub(super) fn can_step(&self, ring: usize, flight: &InFlight) -> bool {
        let socket = flight.socket.map(|id| self.network.socket(id));
        match (&flight.work, socket) {
            _ if flight.queued => false,
            (Work::Accept, Some(socket)) => match &socket.role {
                Role::Listener { backlog, .. } => !backlog.is_empty() || socket.read_shut,
                Role::Fresh | Role::Stream => true,
            },
            (Work::Connect { hangs, .. }, Some(socket)) => !hangs || socket.read_shut,
            (Work::Recv(_), Some(socket)) => socket.has_something_to_receive(),
            (Work::Send { waits, .. }, Some(_)) => {
                let full = |id| matches!(self.network.way_out(id), WayOut::Room(0));
                !(*waits && flight.socket.is_some_and(full))
            }
            (Work::Tick { at }, _) => self.faults.now >= *at,
            (Work::Wake, _) => self.rings[ring].waker.is_signalled(),
            _ => false,
        }
    }

    /// Lets an operation do what it can do now.
    pub(super) fn step(&mut self, ring: usize, token: Token) {
        let flight = self.rings[ring].live.get(&token.bits());
        if !flight.is_some_and(|flight| self.can_step(ring, flight)) {
            return;
        }
        let Some(mut flight) = self.rings[ring].live.remove(&token.bits()) else {
            return;
        };
        let state = &self.rings[ring];
        if state.readiness && !state.attending && is_tried(&flight.work) {
            self.tell(ring, token, &mut flight);
            self.rings[ring].live.insert(token.bits(), flight);
            return;
        }
        match (&mut flight.work, flight.socket) {
            (Work::Accept, Some(id)) => self.step_accept(ring, token, &mut flight, id),
            (Work::Connect { address, .. }, Some(id)) => {
                let address = address.clone();
                let outcome = self.step_connect(id, &address);
                self.complete(ring, token, &mut flight, outcome, false);
            }
            (Work::Recv(Arrival::Announced), Some(_)) => {
                self.complete(ring, token, &mut flight, Outcome::Readable, false);
            }
            (Work::Recv(Arrival::Delivered), Some(id)) => {
                self.step_recv(ring, token, &mut flight, id)
            }
            (Work::Send { .. }, Some(id)) => self.step_send(ring, token, &mut flight, id),
            (Work::Tick { .. }, _) => self.complete(ring, token, &mut flight, Outcome::Done, false),
            (Work::Wake, _) => self.complete(ring, token, &mut flight, Outcome::Woken, false),
            _ => {}
        }
        self.rings[ring].live.insert(token.bits(), flight);
    }

    fn step_accept(&mut self, ring: usize, token: Token, flight: &mut InFlight, id: SocketId) {
        loop {
            let shut = self.network.socket(id).read_shut;
            let waiting = match &mut self.network.socket_mut(id).role {
                Role::Listener { backlog, .. } if !shut => backlog,
                _ => {
                    let outcome = Outcome::Failed(Errno::new(libc::EINVAL));
                    return self.complete(ring, token, flight, outcome, false);
                }
            };
            let Some(&first) = waiting.front() else {
                return;
            };
            if self.faults.roll(Knob::AcceptFails) {
                let mut errno = Errno::TOO_MANY_FILES;
                if self.faults.prng(Knob::AcceptFails).coin() {
                    errno = Errno::new(libc::ECONNABORTED);
                    self.network.leave_backlog(id);
                    self.network.reset(first, true);
                    self.network.close(&mut self.faults, first);
                }
                return self.complete(ring, token, flight, Outcome::Failed(errno), false);
            }
            self.network.leave_backlog(id);
            self.network.socket_mut(first).holder = Holder::Ring;
            let more = !flight.last && !self.faults.roll(Knob::AcceptEnds);
            self.complete(ring, token, flight, Outcome::Accepted(first), more);
            if !more || self.rings[ring].attending {
                return;
            }
        }
    }

    fn step_connect(&mut self, id: SocketId, address: &Address) -> Outcome<SocketId> {
        if self.network.socket(id).read_shut {
            return Outcome::Failed(Errno::new(libc::ECONNABORTED));
        }
        if self.faults.roll(Knob::ConnectRefused) {
            return Outcome::Failed(REFUSED);
        }
        match self.network.connect(&mut self.faults, id, address) {
            Ok(()) => Outcome::Done,
            Err(errno) => Outcome::Failed(errno),
        }
    }

    fn step_recv(&mut self, ring: usize, token: Token, flight: &mut InFlight, id: SocketId) {
        let once = self.rings[ring].attending;
        if once && self.faults.roll(Knob::ReadyInVain) {
            // It was looked at.
            self.network.socket_mut(id).handed_out += 1;
            return;
        }
        for _ in 0..RECVS_IN_A_ROW_MAX {
            match self.look_for_bytes(id) {
                Found::Bytes => {}
                Found::Nothing => return,
                Found::Over(over) => {
                    let outcome = over.map_or_else(Outcome::Failed, |()| Outcome::EndOfStream);
                    return self.complete(ring, token, flight, outcome, false);
                }
            }
            let Some(&buffer) = self.rings[ring].free.front() else {
                self.faults.marks.reach(Mark::PoolExhausted);
                let outcome = Outcome::Failed(Errno::NO_BUFFERS);
                return self.complete(ring, token, flight, outcome, false);
            };
            if self.faults.roll(Knob::NoBuffers) {
                let outcome = Outcome::Failed(Errno::NO_BUFFERS);
                return self.complete(ring, token, flight, outcome, false);
            }
            let lease = self.fill(ring, buffer, id);
            let grew = once && lease.len() > flight.told_bytes;
            self.faults.marks.reach_if(Mark::ReceiveOfMore, grew);
            let more = !flight.last && !self.faults.roll(Knob::RecvEnds);
            self.complete(ring, token, flight, Outcome::Received(lease), more);
            if !more || once {
                return;
            }
        }
    }

    /// What a receive finds, after what may happen to the stream until it looks.
    fn look_for_bytes(&mut self, id: SocketId) -> Found {
        loop {
            let socket = self.network.socket_mut(id);
            if socket.incoming.is_empty() {
                return if !matches!(socket.role, Role::Stream) {
                    Found::Over(Err(Errno::new(libc::ENOTCONN)))
                } else if let Some(error) = socket.error.take() {
                    Found::Over(Err(error))
                } else if socket.ended || socket.read_shut || socket.reset {
                    Found::Over(Ok(()))
                } else {
                    Found::Nothing
                };
            }
            if !self.network.socket(id).reset && self.faults.roll(Knob::Reset) {
                let loses = self.faults.prng(Knob::Reset).coin();
                self.network.reset(id, loses);
                continue;
            }
            if !self.network.socket(id).ended {
                if self.faults.roll(Knob::EndBeforeData) {
                    self.network.socket_mut(id).incoming.clear();
                    self.network.end_stream(id);
                    continue;
                }
                if self.faults.roll(Knob::EndAfterData) {
                    self.network.end_stream(id);
                }
            }
            return Found::Bytes;
        }
    }

    /// Receives at once, into a large buffer.
    pub(super) fn recv_now(
        &mut self,
        ring: usize,
        id: SocketId,
        expected: Expected,
    ) -> RecvNow<SocketId> {
        let bytes_max = self.rings[ring].recv_sizes.bytes_max(expected);
        let room = bytes_max.min(self.rings[ring].large_buffers.buffer_bytes());
        let received = self.try_recv_now(ring, id, room);
        let now = RecvNow::new(received, room);
        self.network.socket_mut(id).hand_out(&now.outcome);
        now
    }

    fn try_recv_now(
        &mut self,
        ring: usize,
        id: SocketId,
        room: usize,
    ) -> Result<Option<RecvLease>, Errno> {
        let in_flight = &self.network.socket(id).in_flight;
        let first = in_flight
            .iter()
            .all(|token| token.operation() != Operation::Recv);
        let what = "it receives at once, and waits to receive already";
        let token = Token::new(Operation::Recv, 0);
        self.faults.rule(Mark::RuleOneOfAKind, first, token, what);
        let nothing = Err(Errno::new(libc::EAGAIN));
        if self.faults.roll(Knob::ReadyInVain) {
            return nothing;
        }
        match self.look_for_bytes(id) {
            Found::Bytes => {}
            Found::Nothing => return nothing,
            Found::Over(over) => return over.map(|()| None),
        }
        if !self.recv_ready(ring, Arrival::Announced) {
            self.faults.marks.reach(Mark::LargeBuffersExhausted);
            return Err(Errno::NO_BUFFERS);
        }
        let incoming = self.network.socket(id).incoming.len();
        let most = self.split_at_random(incoming).min(room);
        let incoming = &mut self.network.socket_mut(id).incoming;
        let received = self.rings[ring].large_buffers.receive(|buffer| {
            let count = most.min(buffer.len());
            for (to, from) in buffer.iter_mut().zip(incoming.drain(..count)) {
                *to = from;
            }
            Ok(count)
        });
        if let Ok(Some(lease)) = &received {
            self.faults.marks.reach(Mark::LargeReceive);
            self.faults.trace.bytes(lease);
        }
        received
    }

    /// As many bytes, or fewer, down to one.
    fn split_at_random(&mut self, count: usize) -> usize {
        if count <= 1 || !self.faults.roll(Knob::RecvSplit) {
            return count;
        }
        let prng = self.faults.prng(Knob::RecvSplit);
        if prng.coin() {
            1
        } else {
            prng.up_to(count as u64 - 1) as usize
        }
    }

    /// Moves bytes that arrived at `id` into the next part of `buffer`.
    fn fill(&mut self, ring: usize, buffer: u16, id: SocketId) -> RecvLease {
        let pool = &self.rings[ring].pool;
        let room = (pool.buffer_bytes() - pool.used(buffer)) as usize;
        let count = room.min(self.network.socket(id).incoming.len());
        let count = self.split_at_random(count);
        let state = &mut self.rings[ring];
        let retire = !state.incremental || count == room;
        if retire {
            state.free.pop_front();
        }
        let mut lease = state.pool.lease(buffer, count as u32, retire);
        for (to, from) in lease
            .iter_mut()
            .zip(self.network.socket_mut(id).incoming.drain(..count))
        {
            *to = from;
        }
        self.faults.trace.bytes(&lease);
        lease
    }

    fn step_send(&mut self, ring: usize, token: Token, flight: &mut InFlight, id: SocketId) {
        let Work::Send {
            queue,
            taken,
            insists,
            waits,
            quiet,
            hastened,
        } = &mut flight.work
        else {
            return;
        };
        let (quiet, hastened) = (*quiet, *hastened);
        // Receive memory waits for nobody.
        let at_once = quiet || queue.holds_leases();
        let readiness = self.rings[ring].readiness;
        if readiness && !at_once && std::mem::take(&mut self.network.socket_mut(id).full) {
            // It is not tried before there is news of room.
            self.faults.marks.reach(Mark::SendWaitsForRoom);
            *waits = true;
            return;
        }
        let most: usize = queue.pieces().take(PIECES_MAX).map(<[u8]>::len).sum();
        let or_taken = |taken: usize, errno| if taken > 0 { Ok(taken) } else { Err(errno) };
        let result = match self.network.way_out(id) {
            WayOut::Broken => match *taken {
                0 => Err(self.network.socket_mut(id).error.take().unwrap_or(PIPE)),
                taken => Ok(taken),
            },
            WayOut::PeerGone => {
                self.faults.marks.reach(Mark::PeerWasGone);
                // A Unix socket says so at once. TCP takes the bytes, and the peer's kernel answers
                // them with a reset.
                if self.faults.prng(Knob::SendFails).coin() {
                    or_taken(*taken, PIPE)
                } else {
                    self.network.reset(id, false);
                    Ok(most)
                }
            }
            WayOut::Room(0) if at_once => {
                let lent = queue.holds_leases();
                self.faults.marks.reach_if(Mark::LeaseNotTaken, lent);
                self.faults.marks.reach_if(Mark::QuietSendNotTaken, quiet);
                Err(Errno::new(libc::EAGAIN))
            }
            WayOut::Room(0) => {
                self.faults.marks.reach(Mark::WindowFull);
                *waits = true;
                return;
            }
            WayOut::Room(_) if self.faults.roll(Knob::SendFails) => {
                let (loses, pipe) = (
                    self.faults.prng(Knob::Reset).coin(),
                    self.faults.prng(Knob::Reset).coin(),
                );
                self.network.reset(id, loses);
                // The error is told once.
                let told = self.network.socket_mut(id).error.take();
                or_taken(*taken, if pipe { PIPE } else { told.unwrap_or(PIPE) })
            }
            WayOut::Room(room) => {
                let mut count = room.min(most - *taken);
                let short = count > 1 && self.faults.roll(Knob::ShortSend);
                if short {
                    count = self.faults.prng(Knob::ShortSend).up_to(count as u64 - 1) as usize;
                }
                self.put_pieces(id, queue, *taken, count);
                *taken += count;
                if at_once {
                    let is_part = *taken < most;
                    if queue.holds_leases() {
                        self.faults.marks.reach(Mark::LeaseSent);
                        self.faults.marks.reach_if(Mark::LeaseSentInPart, is_part);
                    }
                    self.faults
                        .marks
                        .reach_if(Mark::QuietSendInPart, quiet && is_part);
                } else if *taken < most
                    && !short
                    && !readiness
                    && (*insists || self.faults.roll(Knob::SendWaits))
                {
                    (*insists, *waits) = (true, true);
                    return;
                }
                self.network.socket_mut(id).full = *taken < most;
                if most < queue.len() {
                    self.faults.marks.reach(Mark::SendOfManyPieces);
                }
                Ok(*taken)
            }
        };
        if let Work::Send { queue, .. } = std::mem::replace(&mut flight.work, Work::Over) {
            let whole = result == Ok(queue.len());
            let outcome = Outcome::Sent { queue, result };
            if quiet && whole {
                self.complete_quietly(ring, token, flight, outcome, hastened);
            } else {
                self.complete(ring, token, flight, outcome, false);
            }
        }
    }

    /// Moves `count` bytes of `queue` behind its first `taken` to the peer of `id`.
    fn put_pieces(&mut self, id: SocketId, queue: &SendQueue, taken: usize, count: usize) {
        let (mut skip, mut left) = (taken, count);
        for piece in queue.pieces() {
            let from = skip.min(piece.len());
            let now = left.min(piece.len() - from);
            self.network.put(id, &piece[from..from + now]);
            skip -= from;
            left -= now;
        }
    }
}
