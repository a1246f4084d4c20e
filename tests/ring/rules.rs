//! The simulated ring notices each way to misuse a ring, and keeps its own promises.

use ringwire::ring::{
    Address, Arrival, Operation, Outcome, Ring, SendArena, Shutdown, Token, Urgency, Wait,
    sim::{Knob, Knobs, Mark, Prng, SimKernel, SimOptions, SimPeer, SimRead, SimRing, SimSocket},
};

fn token(operation: Operation, tag: u64) -> Token {
    Token::new(operation, tag)
}

const RECV: Token = Token::new(Operation::Recv, 0);

fn set_up() -> (SimKernel, SimRing, SimSocket, SimPeer) {
    let kernel = SimKernel::new(0, Knobs::none());
    let ring = kernel.ring(&SimOptions::default()).unwrap();
    let (socket, peer) = kernel.pair();
    (kernel, ring, socket, peer)
}

#[test]
#[should_panic(expected = "Recv:0x0 breaks a rule of the ring at 1000000000 ns: the token is in")]
fn a_token_is_not_used_twice_at_a_time() {
    let (kernel, mut ring, socket, _peer) = set_up();
    let (other, _other_peer) = kernel.pair();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    ring.submit_recv(&other, RECV, Arrival::Delivered);
}

#[test]
#[should_panic(expected = "the token names another operation")]
fn a_token_names_its_operation() {
    let (_kernel, mut ring, socket, _peer) = set_up();
    ring.submit_recv(&socket, token(Operation::Send, 0), Arrival::Delivered);
}

#[test]
#[should_panic(expected = "Recv:0x1 breaks a rule of the ring at 1000000000 ns: a second")]
fn one_receive_at_a_time() {
    let (_kernel, mut ring, socket, _peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    ring.submit_recv(&socket, token(Operation::Recv, 1), Arrival::Delivered);
}

#[test]
#[should_panic(expected = "a second operation of its kind on one socket")]
fn one_send_at_a_time() {
    let (_kernel, mut ring, socket, _peer) = set_up();
    let mut arena = SendArena::new(256, 0);
    for tag in 0..2 {
        let mut queue = arena.queue();
        queue.write(&mut arena, b"once");
        ring.submit_send(
            &socket,
            token(Operation::Send, tag),
            queue,
            Urgency::Awaited,
        );
    }
}

#[test]
#[should_panic(expected = "the queue is empty")]
fn a_send_has_something_to_send() {
    let (_kernel, mut ring, socket, _peer) = set_up();
    let queue = SendArena::new(256, 0).queue();
    ring.submit_send(&socket, token(Operation::Send, 0), queue, Urgency::Awaited);
}

#[test]
#[should_panic(expected = "it cancels a send")]
fn sends_are_not_cancelled() {
    let (_kernel, mut ring, _socket, _peer) = set_up();
    ring.submit_cancel(token(Operation::Send, 0), token(Operation::Cancel, 0));
}

#[test]
#[should_panic(expected = "it hastens what is no send in flight")]
fn only_sends_in_flight_are_hastened() {
    let (_kernel, mut ring, socket, _peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    ring.hasten(token(Operation::Send, 0));
}

#[test]
#[should_panic(expected = "closing a socket with [Recv:0x0] in flight")]
fn closing_waits_for_what_is_in_flight() {
    let (_kernel, mut ring, socket, _peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    ring.submit_close(socket, token(Operation::Close, 0));
}

#[test]
#[should_panic(expected = "it was released with [Recv:0x0] in flight")]
fn releasing_waits_for_what_is_in_flight() {
    let (_kernel, mut ring, socket, _peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    let _ = ring.release(socket);
}

#[test]
#[should_panic(expected = "closing a socket with [Recv:0x0] in flight")]
fn a_completion_that_was_not_looked_at_is_in_flight() {
    let (_kernel, mut ring, socket, mut peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    peer.shutdown_write();
    ring.turn(Wait::Poll).unwrap();
    ring.submit_close(socket, token(Operation::Close, 0));
}

#[test]
#[should_panic(expected = "one is in flight already")]
fn one_tick_at_a_time() {
    let (_kernel, mut ring, _socket, _peer) = set_up();
    let now = ring.now();
    ring.submit_tick(now, token(Operation::Tick, 0));
    ring.submit_tick(now, token(Operation::Tick, 1));
}

#[test]
#[should_panic(expected = "one is in flight already")]
fn one_wake_at_a_time() {
    let (_kernel, mut ring, _socket, _peer) = set_up();
    ring.submit_wake(token(Operation::Wake, 0));
    ring.submit_wake(token(Operation::Wake, 1));
}

#[test]
#[should_panic(expected = "a socket of another kernel")]
fn sockets_stay_in_their_kernel() {
    let (_kernel, mut ring, _socket, _peer) = set_up();
    let (_other_kernel, _other_ring, socket, _other_peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
}

#[test]
#[should_panic(expected = "was dropped after use instead of submitted for closing")]
fn a_used_socket_is_not_dropped() {
    let (_kernel, mut ring, socket, _peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    drop(socket);
}

#[test]
fn an_unused_socket_may_be_dropped() {
    let (kernel, _ring, socket, mut peer) = set_up();
    drop(socket);
    assert_eq!(peer.read(1), SimRead::End);
    kernel.assert_clean();
}

#[test]
#[should_panic(expected = "socket 0 (Stream) is open")]
fn sockets_are_closed_in_the_end() {
    let (kernel, _ring, socket, _peer) = set_up();
    kernel.assert_clean();
    drop(socket);
}

#[test]
#[should_panic(expected = "Recv:0x0 in flight in ring 0")]
fn nothing_is_in_flight_in_the_end() {
    let (kernel, mut ring, socket, _peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    kernel.assert_clean();
}

#[test]
#[should_panic(expected = "1 leases of ring 0")]
fn leases_are_back_in_the_end() {
    let (kernel, mut ring, socket, mut peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    peer.write(b"borrowed").unwrap();
    ring.turn(Wait::Poll).unwrap();
    let _lease = ring.next_completion();
    kernel.assert_clean();
}

#[test]
#[should_panic(expected = "when ring 0 was dropped")]
fn a_ring_is_not_dropped_before_it_is_drained() {
    let (kernel, mut ring, socket, _peer) = set_up();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    drop(ring);
    drop(socket);
    kernel.assert_clean();
}

#[test]
fn a_tick_and_a_wake_may_be_left() {
    let (kernel, mut ring, socket, _peer) = set_up();
    let later = ring.now().plus_ms(1);
    ring.submit_tick(later, token(Operation::Tick, 0));
    ring.submit_wake(token(Operation::Wake, 0));
    drop(socket);
    kernel.assert_clean();
    assert_eq!(kernel.marks().count(Mark::OracleClean), 1);
}

/// The client's side against a peer that a test plays: a listener of its own, a window that fills,
/// a stream that ends.
#[test]
fn a_raw_listener_plays_the_server() {
    let (kernel, mut ring, socket, _peer) = set_up();
    drop(socket);
    let address: Address = "127.0.0.1:80".parse().unwrap();
    let mut listener = kernel.listen_outside(&address);
    assert!(listener.accept().is_none());
    let client = ring.open(&address).unwrap();
    ring.submit_connect(&client, &address, token(Operation::Connect, 0));
    ring.turn(Wait::Forever).unwrap();
    assert!(matches!(
        ring.next_completion().unwrap().outcome,
        Outcome::Done
    ));
    let mut server = listener.accept().unwrap();

    let mut arena = SendArena::new(256, 0);
    let mut queue = arena.queue();
    queue.write(&mut arena, &vec![7; 100_000]);
    let send = token(Operation::Send, 0);
    let mut sent = Vec::new();
    while !queue.is_empty() {
        ring.submit_send(&client, send, queue, Urgency::Awaited);
        ring.turn(Wait::Poll).unwrap();
        let completion = ring.next_completion().or_else(|| {
            // The window is full until somebody reads.
            let SimRead::Bytes(bytes) = server.read(usize::MAX) else {
                panic!("nothing arrived")
            };
            sent.extend(bytes);
            ring.turn(Wait::Poll).unwrap();
            ring.next_completion()
        });
        match completion.unwrap().outcome {
            Outcome::Sent {
                queue: back,
                result,
            } => {
                queue = back;
                queue.advance(&mut arena, result.unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    ring.shutdown(&client, Shutdown::Write);
    while let SimRead::Bytes(bytes) = server.read(1000) {
        sent.extend(bytes);
    }
    assert_eq!(sent, vec![7; 100_000]);
    assert_eq!(server.read(1), SimRead::End);
    assert!(kernel.marks().count(Mark::WindowFull) > 0);
    ring.submit_close(client, token(Operation::Close, 0));
    ring.turn(Wait::Forever).unwrap();
    assert!(matches!(
        ring.next_completion().unwrap().outcome,
        Outcome::Done
    ));
    kernel.assert_clean();
}

#[test]
fn a_ring_that_waits_gives_way_once_and_then_moves_the_clock() {
    let (kernel, mut ring, socket, _peer) = set_up();
    let mut other = kernel.ring(&SimOptions::default()).unwrap();
    let start = kernel.now();
    let later = start.plus_ms(10);
    ring.submit_tick(later, token(Operation::Tick, 0));
    other.submit_wake(token(Operation::Wake, 0));
    other.waker().wake();
    ring.turn(Wait::Forever).unwrap();
    assert!(kernel.now() < later && ring.next_completion().is_none());
    ring.turn(Wait::Forever).unwrap();
    assert!(kernel.now() >= later && ring.next_completion().is_some());
    other.turn(Wait::Forever).unwrap();
    assert!(matches!(
        other.next_completion().unwrap().outcome,
        Outcome::Woken
    ));
    drop(socket);
}

/// A ring that goes by readiness, with another knob that always acts.
fn set_up_readiness(other: Option<Knob>, window_bytes: usize) -> (SimKernel, SimRing) {
    let mut knobs = Knobs::none().with(Knob::Readiness, 1000);
    if let Some(knob) = other {
        knobs = knobs.with(knob, 1000);
    }
    knobs.window_bytes = window_bytes;
    let kernel = SimKernel::new(0, knobs);
    let ring = kernel.ring(&SimOptions::default()).unwrap();
    (kernel, ring)
}

/// What the next completion has received, if there is one.
fn received(ring: &mut SimRing) -> Option<Vec<u8>> {
    match ring.next_completion()?.outcome {
        Outcome::Received(lease) => {
            let bytes = lease.to_vec();
            ring.recycle(lease);
            Some(bytes)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn by_readiness_a_receive_happens_when_it_is_handed_out() {
    let (kernel, mut ring) = set_up_readiness(None, 100);
    let (socket, mut peer) = kernel.pair();
    ring.submit_recv(&socket, RECV, Arrival::Delivered);
    peer.write(b"early ").unwrap();
    ring.turn(Wait::Poll).unwrap();
    peer.write(b"late").unwrap();
    assert_eq!(received(&mut ring).unwrap(), b"early late");
    // Once for each socket and turn.
    peer.write(b"next").unwrap();
    assert_eq!(received(&mut ring), None);
    ring.turn(Wait::Poll).unwrap();
    // What was not tried can be left alone, and is over at once.
    assert_eq!(ring.completions_left(), 1);
    ring.submit_cancel(RECV, token(Operation::Cancel, 0));
    assert_eq!(ring.completions_left(), 2);
    while ring.next_completion().is_some() {}
    assert_eq!((ring.in_flight(), ring.unread_bytes(&socket)), (0, 4));
    assert_eq!(kernel.marks().count(Mark::ReceiveOfMore), 1);
    drop(ring);
}

#[test]
fn by_readiness_what_is_tried_in_vain_stays_in_flight() {
    for knob in [Knob::WokenInVain, Knob::ReadyInVain] {
        let (kernel, mut ring) = set_up_readiness(Some(knob), 100);
        let (socket, mut peer) = kernel.pair();
        ring.submit_recv(&socket, RECV, Arrival::Delivered);
        if knob == Knob::ReadyInVain {
            peer.write(b"there").unwrap();
        }
        for turn in 1..=3 {
            ring.turn(Wait::Forever).unwrap();
            assert_eq!(ring.completions_left(), 1);
            assert_eq!(received(&mut ring), None);
            assert_eq!(ring.in_flight(), 1);
            assert_eq!(kernel.marks().count(Mark::ReceiveInVain), turn);
            if knob == Knob::WokenInVain {
                // Not twice on end.
                ring.turn(Wait::Forever).unwrap();
                assert_eq!(ring.completions_left(), 0);
            }
        }
        if knob == Knob::WokenInVain {
            peer.write(b"there").unwrap();
            ring.turn(Wait::Forever).unwrap();
            assert_eq!(received(&mut ring).unwrap(), b"there");
        }
        drop(ring);
    }
}

#[test]
fn by_readiness_a_turn_accepts_no_more_than_a_batch() {
    let (kernel, mut ring) = set_up_readiness(None, 100);
    let address: Address = "127.0.0.1:80".parse().unwrap();
    let listener = kernel.listen(&address);
    let peers: Vec<_> = (0..3).map(|_| kernel.connect(&address).unwrap()).collect();
    ring.submit_accept(&listener, token(Operation::Accept, 0));
    for batch in [2, 1, 0] {
        ring.turn(Wait::Poll).unwrap();
        let accepted = std::iter::from_fn(|| ring.next_completion());
        assert_eq!(accepted.map(|it| assert!(it.more)).count(), batch);
    }
    assert_eq!(kernel.marks().count(Mark::AcceptsPutOff), 1);
    drop((ring, peers));
}

#[test]
fn by_readiness_a_send_waits_to_be_told_of_room() {
    let (kernel, mut ring) = set_up_readiness(None, 4);
    let (socket, mut peer) = kernel.pair();
    let mut arena = SendArena::new(256, 0);
    let mut queue = arena.queue();
    queue.write(&mut arena, b"in three parts");
    let sent = |ring: &mut SimRing| match ring.next_completion()?.outcome {
        Outcome::Sent { queue, result } => Some((queue, result.unwrap())),
        other => panic!("{other:?}"),
    };
    let send = token(Operation::Send, 0);
    ring.submit_send(&socket, send, queue, Urgency::Awaited);
    // It leaves with the next turn.
    assert_eq!(peer.read(9), SimRead::Nothing);
    ring.turn(Wait::Poll).unwrap();
    let (mut queue, count) = sent(&mut ring).unwrap();
    assert_eq!(count, 4);
    queue.advance(&mut arena, count);
    assert_eq!(peer.read(1), SimRead::Bytes(b"i".to_vec()));
    ring.submit_send(&socket, send, queue, Urgency::Awaited);
    // There is room, and it is told of it before it is tried: then there is more.
    ring.turn(Wait::Poll).unwrap();
    assert_eq!(peer.read(2), SimRead::Bytes(b"n ".to_vec()));
    let (mut queue, count) = sent(&mut ring).unwrap();
    assert_eq!(count, 3);
    queue.advance(&mut arena, count);
    assert_eq!(kernel.marks().count(Mark::SendWaitsForRoom), 1);
    arena.retire(queue);
    drop(ring);
}

/// The receive buffers are what several connections share: whatever is received in whatever order,
/// no two leases overlap, and each keeps its bytes.
#[test]
fn leases_never_overlap() {
    for seed in 0..200 {
        let knobs = Knobs::none()
            .with(Knob::IncrementalBuffers, 500)
            .with(Knob::Readiness, 500)
            .with(Knob::RecvSplit, 500)
            .with(Knob::CompletionsReordered, 500)
            .with(Knob::CompletionDelayed, 200);
        let kernel = SimKernel::new(seed, knobs);
        let options = SimOptions {
            recv_buffers: 4,
            recv_buffer_bytes: 64,
            ..Default::default()
        };
        let mut ring = kernel.ring(&options).unwrap();
        let mut prng = Prng::new(seed, 0);
        let mut connections: Vec<_> = (0..3).map(|_| kernel.pair()).collect();
        let mut armed = [false; 3];
        let mut held = Vec::new();
        for _ in 0..300 {
            let (index, len) = (prng.below(3) as usize, prng.up_to(40) as usize);
            let _ = connections[index].1.write(&vec![index as u8; len]);
            for (tag, (socket, _)) in connections.iter().enumerate() {
                if !armed[tag] && ring.recv_ready(Arrival::Delivered) {
                    ring.submit_recv(
                        socket,
                        token(Operation::Recv, tag as u64),
                        Arrival::Delivered,
                    );
                    armed[tag] = true;
                }
            }
            ring.turn(Wait::Poll).unwrap();
            while let Some(completion) = ring.next_completion() {
                let tag = completion.token.tag();
                armed[tag as usize] = completion.more;
                if let Outcome::Received(mut lease) = completion.outcome {
                    assert!(lease.iter().all(|&byte| u64::from(byte) == tag));
                    let mark = prng.draw() as u8;
                    lease.fill(mark);
                    held.push((mark, lease));
                }
            }
            if !held.is_empty() && (prng.coin() || !ring.recv_ready(Arrival::Delivered)) {
                let (mark, lease) = held.swap_remove(prng.below(held.len() as u64) as usize);
                assert!(lease.iter().all(|&byte| byte == mark), "two leases overlap");
                ring.recycle(lease);
            }
        }
        for (_, lease) in held {
            ring.recycle(lease);
        }
        assert_eq!(ring.leases(), 0);
        // The receives are still in flight: they end with the ring.
        drop(ring);
    }
}
