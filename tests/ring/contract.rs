//! The clauses of the contract, one function each.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringwire::ring::{
    Address,
    Arrival::{Announced, Delivered},
    Completion, Errno, Expected, Lent, Operation, Outcome, PeerAddress, RecvLease, RecvNow, Ring,
    Shutdown, Token,
    Urgency::{Awaited, Unawaited},
    Wait,
    errno::TransferError,
    sim::{Prng, SimRead},
};

use crate::{
    driver::{DEADLINE, Driver, KIB, Receiver, token},
    env::{Env, Peer, Sizes, open_descriptors},
};

/// Bytes in which no part looks like another.
fn pattern(len: usize) -> Vec<u8> {
    let mut prng = Prng::new(len as u64, 0);
    (0..len).map(|_| prng.draw() as u8).collect()
}

pub fn accepts_until_cancelled<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (listener, address) = driver.env.listen(&mut driver.ring);
    let accept = token(Operation::Accept, 0);
    driver.ring.submit_accept(&listener, accept);
    assert_eq!(driver.ring.in_flight(), 1);
    let mut accepted = Vec::new();
    let mut peers = Vec::new();
    for round in 0..5 {
        for _ in 0..round {
            peers.push(driver.env.connect(&address));
        }
        while accepted.len() < peers.len() {
            let socket = driver.accept(&listener, accept);
            assert!(driver.env.is_plausible(driver.ring.peer_address(&socket)));
            accepted.push(socket);
        }
    }
    // Each is connected to the peer that connected in its place.
    for (index, (socket, peer)) in accepted.iter().zip(&mut peers).enumerate() {
        driver.send_all(socket, &[index as u8; 3]);
        assert_eq!(driver.read_exactly(peer, 3), [index as u8; 3]);
    }
    assert_eq!(driver.ring.in_flight(), 1);
    driver.cancel(accept);
    assert_eq!(driver.ring.in_flight(), 0);
    for socket in accepted {
        driver.close(socket);
    }
    driver.close(listener);
    driver.finish();
}

pub fn announces_bytes_that_are_received_at_once<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let text = pattern(200 * KIB);
    let recv = token(Operation::Recv, 0);
    // Nothing is handed over with the news, which take no memory that others need.
    driver.ring.submit_recv(&socket, recv, Announced);
    let mut written = peer.write(&text[..10]);
    let readable = driver.outcome(recv);
    assert!(matches!(readable, Outcome::Readable), "{readable:?}");
    driver.until(|driver| driver.ring.unread_bytes(&socket) == written as u64);
    assert!(driver.ring.recv_ready(Delivered));
    let mut received = 0;
    let (mut held, mut starved, mut longest) = (Vec::<(usize, RecvLease)>::new(), 0, 0);
    let mut last = None;
    while received < text.len() {
        written += peer.write(&text[written..]);
        driver.ring.submit_recv(&socket, recv, Announced);
        let readable = driver.outcome(recv);
        assert!(matches!(readable, Outcome::Readable), "{readable:?}");
        loop {
            match driver.ring.recv_now(&socket, Expected::LongMessage).outcome {
                Outcome::Received(lease) => {
                    longest = longest.max(lease.len());
                    // Of the buffers that are free, the one that was in use last.
                    assert!(last.take().is_none_or(|last| last == lease.as_ptr()));
                    held.push((received, lease));
                    received += held[held.len() - 1].1.len();
                }
                Outcome::Failed(Errno::NO_BUFFERS) => {
                    assert!(!driver.ring.recv_ready(Announced) && held.len() == 2);
                    starved += 1;
                    for (start, lease) in held.drain(..) {
                        assert_eq!(*lease, text[start..start + lease.len()]);
                        last = Some(lease.as_ptr());
                        driver.ring.recycle(lease);
                    }
                    assert!(driver.ring.recv_ready(Announced));
                }
                Outcome::Failed(errno) => {
                    assert_eq!(errno.of_transfer(), TransferError::Retry);
                    break;
                }
                other => panic!("{received} bytes, then {other:?}"),
            }
        }
    }
    assert!(starved > 2 && longest > 4 * KIB, "{starved} {longest}");
    for (start, lease) in held {
        assert_eq!(*lease, text[start..start + lease.len()]);
        let (front, back) = driver.ring.split(lease, 1);
        driver.ring.recycle(back);
        driver.ring.recycle(front);
    }
    // And as ever again.
    let text = pattern(10 * KIB);
    let mut bytes = Vec::new();
    assert_eq!(peer.write(&text), text.len());
    Receiver::new(0).read_and_stop(&mut driver, &socket, &mut bytes, text.len());
    assert!(bytes == text);
    driver.close(socket);
    driver.finish();
}

pub fn announces_the_end_and_can_be_cancelled<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    for resets in [false, true] {
        let (socket, mut peer) = driver.connection();
        let recv = token(Operation::Recv, 0);
        driver.ring.submit_recv(&socket, recv, Announced);
        driver.turn();
        assert!(driver.take(recv).is_none(), "there is nothing to receive");
        driver.cancel(recv);
        driver.send_all(&socket, b"never read");
        driver.ring.submit_recv(&socket, recv, Announced);
        if resets {
            peer.reset();
        } else {
            peer.shutdown_write();
        }
        let readable = driver.outcome(recv);
        assert!(matches!(readable, Outcome::Readable), "{readable:?}");
        loop {
            match driver.ring.recv_now(&socket, Expected::LongMessage).outcome {
                Outcome::EndOfStream => break assert!(!resets),
                Outcome::Failed(errno) => match errno.of_transfer() {
                    TransferError::Retry => {}
                    error => break assert!(resets && error == TransferError::PeerGone),
                },
                other => panic!("{other:?}"),
            }
        }
        driver.close(socket);
    }
    driver.finish();
}

pub fn bytes_arrive_in_order_and_stay_put_while_they_are_leased<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let text = pattern(300_000);
    let (mut written, mut received) = (0, 0);
    let mut receiver = Receiver::new(0);
    let mut held: Vec<(usize, RecvLease)> = Vec::new();
    let mut releases = 0;
    while received < text.len() {
        let end = text.len().min(written + 7_001);
        written += peer.write(&text[written..end]);
        driver.turn();
        while let Some(outcome) = receiver.next(&mut driver, &socket) {
            match outcome {
                Outcome::Received(lease) => {
                    assert_eq!(*lease, text[received..received + lease.len()]);
                    let start = received;
                    received += lease.len();
                    held.push((start, lease));
                }
                Outcome::Failed(Errno::NO_BUFFERS) => {}
                other => panic!("{received} bytes, then {other:?}"),
            }
        }
        while held.len() > 5 || (!driver.ring.recv_ready(Delivered) && !held.is_empty()) {
            releases += 1;
            let (start, mut lease) = held.swap_remove(releases * 7 % held.len());
            // Nobody wrote here meanwhile; and what its holder writes touches nothing else.
            assert_eq!(*lease, text[start..start + lease.len()]);
            lease.fill(0xaa);
            driver.ring.recycle(lease);
        }
    }
    for (start, lease) in held {
        assert_eq!(*lease, text[start..start + lease.len()]);
        driver.ring.recycle(lease);
    }
    peer.shutdown_write();
    assert!(matches!(
        receiver.end(&mut driver, &socket),
        Outcome::EndOfStream
    ));
    driver.close(socket);
    driver.finish();
}

pub fn cancelling_a_receive_loses_no_bytes<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let recv = token(Operation::Recv, 0);
    let cancel = token(Operation::Cancel, 0);
    let mut sent = 0;
    let mut bytes = Vec::new();
    let text = pattern(60 * 500);
    for part in text.chunks(500) {
        let round = sent / 500;
        driver.ring.submit_recv(&socket, recv, Delivered);
        if round % 2 == 0 {
            driver.turn();
        }
        while sent < (round + 1) * 500 {
            // A peer without room waits until what it wrote was received, which here is not before
            // the next round.
            match peer.write(&part[sent - round * 500..]) {
                0 => break,
                count => sent += count,
            }
        }
        if round % 3 == 0 {
            driver.turn();
        }
        driver.ring.submit_cancel(recv, cancel);
        let found = driver.outcome(cancel);
        assert!(
            matches!(found, Outcome::Done | Outcome::Failed(_)),
            "{found:?}"
        );
        loop {
            let Completion { outcome, more, .. } = driver.wait_for(recv);
            match outcome {
                Outcome::Received(lease) => {
                    bytes.extend_from_slice(&lease);
                    driver.ring.recycle(lease);
                }
                Outcome::Failed(Errno::CANCELLED | Errno::NO_BUFFERS) => assert!(!more),
                other => panic!("{} bytes, then {other:?}", bytes.len()),
            }
            if !more {
                break;
            }
        }
        assert!(
            driver.take(recv).is_none(),
            "a completion after the last one"
        );
        let len = sent;
        Receiver::new(1).read_and_stop(&mut driver, &socket, &mut bytes, len);
        while sent < (round + 1) * 500 {
            sent += peer.write(&part[sent - round * 500..]);
            Receiver::new(1).read_and_stop(&mut driver, &socket, &mut bytes, sent);
        }
    }
    assert_eq!(bytes, text);
    driver.close(socket);
    driver.finish();
}

pub fn cancelling_finds_its_target_or_says_so<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, _peer) = driver.connection();
    let recv = token(Operation::Recv, 0);
    let cancel = token(Operation::Cancel, 0);
    for turns in 0..2 {
        driver.ring.submit_recv(&socket, recv, Delivered);
        for _ in 0..turns {
            driver.turn();
        }
        driver.ring.submit_cancel(recv, cancel);
        driver.wait_done(cancel);
        assert_eq!(driver.wait_failed(recv), Errno::CANCELLED);
        driver.ring.submit_cancel(recv, cancel);
        assert_eq!(driver.wait_failed(cancel).number(), libc::ENOENT);
    }
    let wake = token(Operation::Wake, 0);
    driver.ring.submit_wake(wake);
    driver.cancel(wake);
    driver.close(socket);
    driver.finish();
}

pub fn closing_is_seen_by_the_peer<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    driver.send_all(&socket, b"bye");
    let close = token(Operation::Close, 0);
    driver.ring.submit_close(socket, close);
    assert_eq!(driver.ring.in_flight(), 1);
    driver.wait_done(close);
    assert_eq!(driver.read_exactly(&mut peer, 3), b"bye");
    assert_eq!(driver.read(&mut peer, 1), SimRead::End);
    driver.finish();
}

pub fn connects_or_is_refused<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (listener, address) = driver.env.listen(&mut driver.ring);
    let accept = token(Operation::Accept, 0);
    let connect = token(Operation::Connect, 0);
    driver.ring.submit_accept(&listener, accept);
    let client = driver.ring.open(&address).unwrap();
    driver.ring.submit_connect(&client, &address, connect);
    driver.wait_done(connect);
    let server = driver.accept(&listener, accept);
    match address {
        Address::Inet(inet) => {
            assert_eq!(driver.ring.peer_address(&client), PeerAddress::Inet(inet));
        }
        Address::Unix(_) => assert_eq!(driver.ring.peer_address(&client), PeerAddress::Unix),
    }
    let (mut at_server, mut at_client) = (Receiver::new(1), Receiver::new(2));
    for (from, to, receiver) in [
        (&client, &server, &mut at_server),
        (&server, &client, &mut at_client),
    ] {
        driver.send_all(from, b"hello");
        let mut bytes = Vec::new();
        receiver.read(&mut driver, to, &mut bytes, 5);
        assert_eq!(bytes, b"hello");
    }
    driver.ring.shutdown(&client, Shutdown::Write);
    assert!(matches!(
        at_server.end(&mut driver, &server),
        Outcome::EndOfStream
    ));
    driver.close(server);
    assert!(matches!(
        at_client.end(&mut driver, &client),
        Outcome::EndOfStream
    ));
    driver.close(client);

    let vacant = driver.env.vacant();
    let client = driver.ring.open(&vacant).unwrap();
    driver.ring.submit_connect(&client, &vacant, connect);
    assert_eq!(driver.wait_failed(connect).number(), libc::ECONNREFUSED);
    driver.close(client);

    driver.cancel(accept);
    driver.close(listener);
    driver.finish();
}

pub fn dropping_a_ring_leaves_nothing_behind<E: Env>(env: E) {
    let before = open_descriptors();
    let mut driver = Driver::new(env, Sizes::default());
    let mut connections = driver.connections(2);
    let (stuck, silent_peer) = connections.remove(1);
    let (receiving, mut peer) = connections.remove(0);
    let (listener, address) = driver.env.listen(&mut driver.ring);

    driver
        .ring
        .submit_accept(&listener, token(Operation::Accept, 0));
    driver
        .ring
        .submit_recv(&receiving, token(Operation::Recv, 0), Delivered);
    let mut queue = driver.arena.queue();
    queue.adopt(&mut driver.arena, Bytes::from(vec![1; 8 * KIB * KIB]));
    driver
        .ring
        .submit_send(&stuck, token(Operation::Send, 1), queue, Awaited);
    let much_later = driver.ring.now().plus_ms(3_600_000);
    driver
        .ring
        .submit_tick(much_later, token(Operation::Tick, 0));
    driver.ring.submit_wake(token(Operation::Wake, 0));
    let waker = driver.ring.waker();

    assert_eq!(peer.write(b"kept"), 4);
    let Outcome::Received(lease) = driver.wait_for(token(Operation::Recv, 0)).outcome else {
        panic!("nothing was received");
    };
    let unasked = driver.env.connect(&address);
    peer.write(b"not looked at");
    // These completions, if they are made, stay inside.
    driver.ring.turn(Wait::Poll).unwrap();
    driver
        .ring
        .submit_cancel(token(Operation::Recv, 0), token(Operation::Cancel, 0));

    let Driver {
        ring, seen, env, ..
    } = driver;
    drop(seen);
    let start = Instant::now();
    drop(ring);
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "the ring could not be drained"
    );
    assert!(b"kept".starts_with(&lease), "a lease outlives its ring");
    waker.wake();
    drop((
        waker,
        lease,
        stuck,
        receiving,
        listener,
        peer,
        silent_peer,
        unasked,
        env,
    ));
    assert_eq!(open_descriptors(), before);
}

pub fn ends_a_stream_after_its_last_byte_and_still_sends<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let mut receiver = Receiver::new(0);
    let mut bytes = Vec::new();
    assert_eq!(peer.write(b"last words"), 10);
    peer.shutdown_write();
    receiver.read(&mut driver, &socket, &mut bytes, 10);
    assert_eq!(bytes, b"last words");
    assert!(matches!(
        receiver.end(&mut driver, &socket),
        Outcome::EndOfStream
    ));
    // The end is not forgotten.
    assert!(matches!(
        Receiver::new(0).end(&mut driver, &socket),
        Outcome::EndOfStream
    ));
    driver.send_all(&socket, b"answer");
    driver.ring.shutdown(&socket, Shutdown::Write);
    assert_eq!(driver.read_exactly(&mut peer, 6), b"answer");
    assert_eq!(driver.read(&mut peer, 1), SimRead::End);
    assert_eq!(driver.ring.in_flight(), 0);
    driver.close(socket);
    driver.finish();
}

pub fn hastened_sends_end_a_wait<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let send = token(Operation::Send, 0);
    for (urgency, len) in [(Unawaited, 10), (Unawaited, 12 * KIB), (Awaited, 10)] {
        let text = pattern(len);
        let queue = driver.queue(&text);
        driver.ring.submit_send(&socket, send, queue, urgency);
        // Once is enough, and twice is no more.
        driver.ring.hasten(send);
        driver.ring.hasten(send);
        // Nothing else is in flight that could end these waits before their time.
        let at = driver.ring.now().plus_ms(DEADLINE.as_millis() as u64);
        while driver.seen.is_empty() {
            driver.turn_waiting(Wait::Until(at));
        }
        let is_told = driver.ring.now() < at;
        assert!(is_told, "the end of a hastened send was not told");
        let (queue, result) = driver.sent(send);
        let arrived = driver.arrives(&socket, &mut peer, result.unwrap(), queue);
        assert!(arrived == text);
    }
    // It was for those sends, and not for the next one.
    let tells_late = E::tells_late(&driver.ring);
    let queue = driver.queue(b"at leisure");
    driver.ring.submit_send(&socket, send, queue, Unawaited);
    let at = driver.ring.now().plus_ms(30);
    while driver.seen.is_empty() {
        driver.turn_waiting(Wait::Until(at));
    }
    let told = !tells_late || driver.ring.now() >= at;
    let (queue, result) = driver.sent(send);
    assert!(told || !queue.is_empty(), "an unawaited send was told");
    let arrived = driver.arrives(&socket, &mut peer, result.unwrap(), queue);
    assert_eq!(arrived, b"at leisure");
    driver.close(socket);
    driver.finish();
}

pub fn more_operations_than_entries_fit_in_a_turn<E: Env>(env: E) {
    let sizes = Sizes {
        submission_entries: 4,
        completion_entries: 8,
        ..Sizes::default()
    };
    let mut driver = Driver::new(env, sizes);
    let mut connections = driver.connections(40);
    let tick_at = driver.ring.now().plus_ms(1);
    driver.ring.submit_tick(tick_at, token(Operation::Tick, 0));
    driver.ring.submit_wake(token(Operation::Wake, 0));
    driver.ring.waker().wake();
    for (tag, (socket, peer)) in (0..).zip(&mut connections) {
        assert!(peer.write(&[tag as u8]) == 1);
        driver
            .ring
            .submit_recv(socket, token(Operation::Recv, tag), Delivered);
        let queue = driver.queue(&[tag as u8; 2]);
        let send = token(Operation::Send, tag);
        let urgency = if tag % 3 == 0 { Awaited } else { Unawaited };
        driver.ring.submit_send(socket, send, queue, urgency);
    }
    assert_eq!(driver.ring.in_flight(), 82);
    driver.wait_done(token(Operation::Tick, 0));
    let outcome = driver.outcome(token(Operation::Wake, 0));
    assert!(matches!(outcome, Outcome::Woken));
    for (tag, (socket, peer)) in (0..).zip(&mut connections) {
        let send = token(Operation::Send, tag);
        let (mut queue, mut result) = driver.sent(send);
        while !queue.is_empty() {
            result.unwrap();
            driver.ring.submit_send(socket, send, queue, Awaited);
            (queue, result) = driver.sent(send);
        }
        driver.arena.retire(queue);
        assert_eq!(driver.read_exactly(peer, 2), [tag as u8; 2]);
        let recv = token(Operation::Recv, tag);
        let mut receiver = Receiver {
            token: recv,
            armed: true,
            over: false,
        };
        let mut bytes = Vec::new();
        receiver.read(&mut driver, socket, &mut bytes, 1);
        assert_eq!(bytes, [tag as u8]);
        peer.shutdown_write();
        assert!(matches!(
            receiver.end(&mut driver, socket),
            Outcome::EndOfStream
        ));
    }
    let count = connections.len() as u64;
    let closes = || (0..count).map(|tag| token(Operation::Close, tag));
    for ((socket, _peer), close) in connections.into_iter().zip(closes()) {
        driver.ring.submit_close(socket, close);
    }
    assert_eq!(driver.ring.in_flight(), 40);
    closes().for_each(|close| driver.wait_done(close));
    driver.finish();
}

pub fn releases_a_socket_without_closing_it<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (listener, address) = driver.env.listen(&mut driver.ring);
    let accept = token(Operation::Accept, 0);
    let (recv, connect) = (token(Operation::Recv, 0), token(Operation::Connect, 0));
    // One that was accepted, and one that was connected.
    driver.ring.submit_accept(&listener, accept);
    let mut peer = driver.env.connect(&address);
    let accepted = driver.accept(&listener, accept);
    let connected = driver.ring.open(&address).unwrap();
    driver.ring.submit_connect(&connected, &address, connect);
    driver.wait_done(connect);
    let other_end = driver.accept(&listener, accept);
    // It was used in both directions, and something is left that nobody has looked at.
    driver.send_all(&accepted, b"before");
    assert_eq!(driver.read_exactly(&mut peer, 6), b"before");
    driver.ring.submit_recv(&accepted, recv, Delivered);
    driver.turn();
    driver.cancel(recv);
    assert_eq!(peer.write(b"unread"), 6);
    driver.until(|driver| driver.ring.unread_bytes(&accepted) == 6);
    driver.cancel(accept);
    let in_flight = driver.ring.in_flight();
    let loose = [listener, accepted, connected].map(|socket| driver.ring.release(socket));
    assert_eq!(driver.ring.in_flight(), in_flight);
    // Nobody is told of them any more.
    assert_eq!(peer.write(b" as well"), 8);
    driver.turn();
    driver.turn();

    let mut other = driver.env.ring(Sizes::default());
    let [listener, accepted, connected] = loose.map(|loose| other.adopt(loose));
    std::mem::swap(&mut driver.ring, &mut other);
    assert_eq!(other.in_flight(), 0);
    drop(other);
    let mut bytes = Vec::new();
    Receiver::new(0).read_and_stop(&mut driver, &accepted, &mut bytes, 14);
    assert_eq!(bytes, b"unread as well");
    driver.send_all(&accepted, b"after");
    assert_eq!(driver.read_exactly(&mut peer, 5), b"after");
    // It waits as ever, and so does the listener.
    driver.ring.submit_recv(&connected, recv, Delivered);
    driver.ring.submit_accept(&listener, accept);
    driver.turn();
    assert!(driver.seen.is_empty());
    drop(driver.env.connect(&address));
    let socket = driver.accept(&listener, accept);
    driver.cancel(recv);
    driver.cancel(accept);
    for socket in [accepted, connected, listener, socket] {
        driver.close(socket);
    }
    // The ring that it was accepted on is gone.
    drop(other_end);
    driver.finish();
}

pub fn reset_connections_fail<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    for sends_first in [false, true] {
        let (socket, peer) = driver.connection();
        let mut receiver = Receiver::new(0);
        assert!(receiver.next(&mut driver, &socket).is_none());
        driver.send_all(&socket, b"never read");
        peer.reset();
        let send = token(Operation::Send, 0);
        let is_gone = |errno: Errno| errno.of_transfer() == TransferError::PeerGone;
        let mut ended = false;
        for step in 0..2 {
            if (step == 0) == sends_first {
                // TCP may take the bytes of a first send before the reset has arrived.
                loop {
                    let queue = driver.queue(b"too late");
                    driver.ring.submit_send(&socket, send, queue, Awaited);
                    let (queue, result) = driver.sent(send);
                    driver.arena.retire(queue);
                    match result {
                        Ok(_) => driver.turn(),
                        Err(errno) => {
                            assert!(is_gone(errno), "{errno:?}");
                            break;
                        }
                    }
                }
            } else {
                // Whoever comes first is told of the reset; the other one finds the stream ended.
                match receiver.end(&mut driver, &socket) {
                    Outcome::Failed(errno) => assert!(is_gone(errno), "{errno:?}"),
                    Outcome::EndOfStream => assert!(sends_first, "a reset looked like an end"),
                    other => panic!("{other:?}"),
                }
                ended = true;
            }
        }
        assert!(ended);
        // Nothing to shut any more, which is no error.
        driver.ring.shutdown(&socket, Shutdown::Both);
        driver.close(socket);
    }
    driver.finish();
}

pub fn running_out_of_buffers_loses_no_bytes<E: Env>(env: E) {
    let sizes = Sizes {
        recv_buffers: 4,
        recv_buffer_bytes: 1024,
        ..Sizes::default()
    };
    let mut driver = Driver::new(env, sizes);
    let (socket, mut peer) = driver.connection();
    let text = pattern(64 * KIB);
    let (mut written, mut received) = (0, 0);
    let recv = token(Operation::Recv, 0);
    let mut held: Vec<(usize, RecvLease)> = Vec::new();
    let mut times_out = 0;
    driver.ring.submit_recv(&socket, recv, Delivered);
    while received < text.len() {
        written += peer.write(&text[written..]);
        driver.turn();
        while let Some(Completion { outcome, more, .. }) = driver.take(recv) {
            match outcome {
                Outcome::Received(lease) => {
                    let start = received;
                    received += lease.len();
                    held.push((start, lease));
                }
                Outcome::Failed(Errno::NO_BUFFERS) => {
                    times_out += 1;
                    assert!(!driver.ring.recv_ready(Delivered) && !more);
                    for (start, lease) in held.drain(..).rev() {
                        assert_eq!(*lease, text[start..start + lease.len()]);
                        driver.ring.recycle(lease);
                    }
                    assert!(driver.ring.recv_ready(Delivered));
                }
                other => panic!("{received} bytes, then {other:?}"),
            }
            if !more {
                driver.ring.submit_recv(&socket, recv, Delivered);
            }
        }
    }
    assert!(times_out > 3, "the pool ran out {times_out} times only");
    for (start, lease) in held {
        assert_eq!(*lease, text[start..start + lease.len()]);
        driver.ring.recycle(lease);
    }
    driver.cancel_or_starved(recv);
    driver.close(socket);
    driver.finish();
}

pub fn says_whether_a_receive_at_once_has_drained_the_socket<E: Env>(env: E) {
    let sizes = Sizes::default();
    let buffers_bytes = usize::from(sizes.recv_buffers) * sizes.recv_buffer_bytes as usize;
    let mut driver = Driver::new(env, sizes);
    let (socket, mut peer) = driver.connection();
    // Others need receive memory too.
    let sizes = driver.ring.recv_sizes();
    assert!((1..buffers_bytes).contains(&sizes.lent_bytes_max));
    let share = sizes.long_bytes_min as usize;
    assert!((1..4 * KIB).contains(&share));
    let receive = |driver: &mut Driver<E>, expected| {
        let RecvNow {
            outcome,
            is_drained,
        } = driver.ring.recv_now(&socket, expected);
        (outcome, is_drained)
    };
    let is_retry = |errno: Errno| errno.of_transfer() == TransferError::Retry;
    match receive(&mut driver, Expected::Share) {
        (Outcome::Failed(errno), is_drained) => assert!(is_retry(errno) && is_drained),
        other => panic!("{other:?}"),
    }
    let text = pattern(4 * share + 100);
    let (mut written, mut bytes, mut parts) = (0, Vec::new(), 0);
    while bytes.len() < text.len() {
        written += peer.write(&text[written..]);
        driver.until(|driver| driver.ring.unread_bytes(&socket) == (written - bytes.len()) as u64);
        // Of what is there, a share each time until it says that this was all.
        loop {
            let (outcome, is_drained) = receive(&mut driver, Expected::Share);
            match outcome {
                Outcome::Received(lease) => {
                    assert!(lease.len() <= share && is_drained == (lease.len() < share));
                    bytes.extend_from_slice(&lease);
                    driver.ring.recycle(lease);
                    parts += 1;
                }
                Outcome::Failed(errno) => assert!(is_retry(errno) && is_drained),
                other => panic!("{other:?}"),
            }
            if is_drained {
                break;
            }
        }
        if E::WAITS {
            assert_eq!(driver.ring.unread_bytes(&socket), 0);
        }
    }
    assert!(bytes == text && parts > 4, "{parts}");
    // Where there is no memory, it cannot see what there is.
    let mut held = Vec::new();
    loop {
        peer.write(b"more");
        match receive(&mut driver, Expected::LongMessage) {
            (Outcome::Received(lease), _) => held.push(lease),
            (Outcome::Failed(Errno::NO_BUFFERS), is_drained) => break assert!(!is_drained),
            (Outcome::Failed(errno), is_drained) => assert!(is_retry(errno) && is_drained),
            other => panic!("{other:?}"),
        }
        driver.turn();
    }
    held.into_iter()
        .for_each(|lease| driver.ring.recycle(lease));
    // Behind the end nothing is left.
    peer.shutdown_write();
    let is_drained = loop {
        match receive(&mut driver, Expected::LongMessage) {
            (Outcome::Received(lease), _) => driver.ring.recycle(lease),
            (Outcome::EndOfStream, is_drained) => break is_drained,
            (Outcome::Failed(errno), _) => assert!(is_retry(errno)),
            other => panic!("{other:?}"),
        }
    };
    assert!(is_drained);
    driver.close(socket);
    driver.finish();
}

pub fn sends_many_pieces_in_order<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let text = pattern(20_000);
    let mut queue = driver.arena.queue();
    for (index, part) in text.chunks(67).enumerate() {
        if index % 3 == 0 {
            queue.write(&mut driver.arena, part);
        } else {
            queue.adopt(&mut driver.arena, Bytes::copy_from_slice(part));
        }
    }
    let (bytes, sends) = driver.send_to_reader(&socket, queue, &mut peer, KIB);
    assert!(sends > 1, "more pieces than one send takes");
    assert_eq!(bytes, text);
    driver.close(socket);
    driver.finish();
}

pub fn sends_what_it_received_from_where_it_lies<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let text = pattern(2 * KIB);
    assert_eq!(peer.write(&text), text.len());
    let (mut receiver, mut received) = (Receiver::new(0), 0);
    let mut queue = driver.queue(b"head");
    while received < text.len() {
        let outcome = receiver.next(&mut driver, &socket);
        let Some(Outcome::Received(lease)) = outcome else {
            assert!(matches!(
                outcome,
                None | Some(Outcome::Failed(Errno::NO_BUFFERS))
            ));
            driver.turn();
            continue;
        };
        received += lease.len();
        // The first half of each lease waits for its place, the second follows as a copy.
        let half = lease.len() / 2;
        let (first, second) = driver.ring.split(lease, half);
        let place = queue.promise(half);
        queue.write(&mut driver.arena, &second);
        driver.ring.recycle(second);
        queue.fulfil(place, Lent::Lease(first));
        assert!(queue.holds_leases());
    }
    if receiver.armed {
        driver.cancel(receiver.token);
    }
    let (bytes, _) = driver.send_to_reader(&socket, queue, &mut peer, KIB);
    assert!(
        bytes.starts_with(b"head") && bytes[4..] == text,
        "the bytes differ"
    );
    driver.recycle_returned();
    driver.close(socket);
    driver.finish();
}

pub fn receive_memory_waits_for_no_reader<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    assert_eq!(peer.write(b"lent"), 4);
    let mut bytes = Vec::new();
    let recv = token(Operation::Recv, 0);
    let mut queue = driver.arena.queue();
    while bytes.len() < 4 {
        driver.ring.submit_recv(&socket, recv, Delivered);
        let Completion { outcome, more, .. } = driver.wait_for(recv);
        let Outcome::Received(lease) = outcome else {
            panic!("nothing was received");
        };
        if more {
            driver.cancel_or_starved(recv);
        }
        bytes.extend_from_slice(&lease);
        let place = queue.promise(lease.len());
        queue.fulfil(place, Lent::Lease(lease));
    }
    // More than any socket has room for, and nobody reads.
    queue.adopt(&mut driver.arena, Bytes::from(vec![1; 32 * KIB * KIB]));
    let send = token(Operation::Send, 0);
    let len = queue.len();
    driver.ring.submit_send(&socket, send, queue, Awaited);
    let (mut queue, result) = driver.sent(send);
    let sent = result.unwrap_or_else(|errno| {
        assert_eq!(errno.of_transfer(), TransferError::Retry);
        0
    });
    assert!(sent < len, "nobody reads");
    // Whatever is left of the lease is copied, and the queue is as long as before.
    queue.own(&mut driver.arena);
    assert!(!queue.holds_leases());
    assert_eq!(queue.len(), len - sent);
    driver.arena.retire(queue);
    driver.recycle_returned();
    assert!(driver.ring.recv_ready(Delivered));
    driver.close(socket);
    driver.finish();
}

pub fn sends_much_to_a_slow_reader<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let text = pattern(8 * KIB * KIB);
    let mut queue = driver.queue(b"head");
    queue.adopt(&mut driver.arena, Bytes::from(text.clone()));
    let (bytes, _) = driver.send_to_reader(&socket, queue, &mut peer, 64 * KIB);
    assert!(
        bytes.starts_with(b"head") && bytes[4..] == text,
        "the bytes differ"
    );
    driver.close(socket);
    driver.finish();
}

pub fn shutting_down_ends_what_is_in_flight<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, peer) = driver.connection();
    let recv = token(Operation::Recv, 0);
    let send = token(Operation::Send, 0);
    let mut queue = driver.arena.queue();
    queue.adopt(&mut driver.arena, Bytes::from(vec![1; 32 * KIB * KIB]));
    driver.ring.submit_recv(&socket, recv, Delivered);
    driver.ring.submit_send(&socket, send, queue, Awaited);
    // The peer reads nothing: sooner or later the send waits, or was a short one.
    driver.turn();
    driver.turn();
    driver.ring.shutdown(&socket, Shutdown::Both);
    let (queue, result) = driver.sent(send);
    match result {
        Ok(count) => assert!(count < 32 * KIB * KIB),
        Err(errno) => assert_eq!(errno.of_transfer(), TransferError::PeerGone),
    }
    driver.arena.retire(queue);
    match driver.outcome(recv) {
        Outcome::EndOfStream => {}
        Outcome::Failed(errno) => assert_eq!(errno.of_transfer(), TransferError::PeerGone),
        other => panic!("{other:?}"),
    }
    assert_eq!(driver.ring.in_flight(), 0);
    // What is sent from now on fails.
    let queue = driver.queue(b"no way out");
    driver.ring.submit_send(&socket, send, queue, Awaited);
    let (queue, result) = driver.sent(send);
    assert_eq!(result.unwrap_err().of_transfer(), TransferError::PeerGone);
    driver.arena.retire(queue);
    driver.close(socket);
    drop(peer);
    driver.finish();
}

pub fn tells_what_is_unread_and_what_is_not_taken<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    assert_eq!(driver.ring.unread_bytes(&socket), 0);
    assert_eq!(driver.ring.outgoing(&socket).held_bytes, 0);
    // What came and was not received; what was received is no longer unread.
    assert_eq!(peer.write(b"unread"), 6);
    driver.until(|driver| driver.ring.unread_bytes(&socket) == 6);
    let mut bytes = Vec::new();
    Receiver::new(0).read_and_stop(&mut driver, &socket, &mut bytes, 6);
    assert_eq!(driver.ring.unread_bytes(&socket), 0);
    // More than anybody takes who does not read.
    let text = pattern(8 * KIB * KIB);
    let mut queue = driver.queue(b"");
    queue.adopt(&mut driver.arena, Bytes::from(text.clone()));
    let before = driver.ring.outgoing(&socket);
    let send = token(Operation::Send, 0);
    driver.ring.submit_send(&socket, send, queue, Awaited);
    let (mut full, mut turns_alike) = (0, 0);
    driver.until(|driver| {
        let held = driver.ring.outgoing(&socket).held_bytes;
        turns_alike = if held == full { turns_alike + 1 } else { 0 };
        full = held;
        held > 0 && turns_alike == 3
    });
    // It reads, and that shows.
    let mut arrived = Vec::new();
    let mut is_sent = false;
    while arrived.len() < text.len() || !is_sent {
        if driver
            .seen
            .iter()
            .any(|completion| completion.token == send)
        {
            let (queue, result) = driver.sent(send);
            result.unwrap();
            is_sent = queue.is_empty();
            match is_sent {
                true => driver.arena.retire(queue),
                false => driver.ring.submit_send(&socket, send, queue, Awaited),
            }
        }
        match peer.read(64 * KIB) {
            SimRead::Bytes(more) => {
                arrived.extend(more);
                driver.turn_waiting(Wait::Poll);
            }
            SimRead::Nothing => driver.turn(),
            other => panic!("{} bytes, then {other:?}", arrived.len()),
        }
    }
    assert!(arrived == text);
    driver.until(|driver| driver.ring.outgoing(&socket).held_bytes == 0);
    let after = driver.ring.outgoing(&socket);
    assert_eq!(before.taken.is_some(), after.taken.is_some());
    if let (Some(before), Some(after)) = (before.taken, after.taken) {
        assert_eq!(after.bytes - before.bytes, text.len() as u64);
        assert!(after.ago_ms < 10_000);
    }
    driver.close(socket);
    driver.finish();
}

pub fn ticks_are_never_early<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let tick = token(Operation::Tick, 7);
    for ms in [30, 0, 1, 5] {
        let at = driver.ring.now().plus_ms(ms);
        driver.ring.submit_tick(at, tick);
        driver.wait_done(tick);
        assert!(driver.ring.now() >= at);
    }
    // One that is long past comes at once; one that is far off can be cancelled for a nearer one.
    let now = driver.ring.now();
    driver.ring.submit_tick(now, tick);
    driver.wait_done(tick);
    driver.ring.submit_tick(now.plus_ms(3_600_000), tick);
    driver.turn();
    driver.cancel(tick);
    driver.ring.submit_tick(now.plus_ms(1), tick);
    driver.wait_done(tick);
    driver.finish();
}

pub fn tokens_can_be_used_again_at_once<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let recv = token(Operation::Recv, (1 << Token::TAG_BITS) - 1);
    let tick = token(Operation::Tick, 0);
    for round in 0..100u8 {
        driver.ring.submit_recv(&socket, recv, Delivered);
        driver.cancel(recv);
        let now = driver.ring.now();
        driver.ring.submit_tick(now, tick);
        driver.wait_done(tick);
        driver.send_all(&socket, &[round]);
        assert_eq!(driver.read_exactly(&mut peer, 1), [round]);
    }
    driver.close(socket);
    driver.finish();
}

pub fn unawaited_sends_end_no_wait<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let (socket, mut peer) = driver.connection();
    let tells_late = E::tells_late(&driver.ring);
    let send = token(Operation::Send, 0);
    // In one piece, and in several.
    for text in [pattern(10), pattern(12 * KIB)] {
        let queue = driver.queue(&text);
        driver.ring.submit_send(&socket, send, queue, Unawaited);
        let at = driver.ring.now().plus_ms(30);
        while driver.seen.is_empty() {
            driver.turn_waiting(Wait::Until(at));
        }
        let seen_at = driver.ring.now();
        let (queue, result) = driver.sent(send);
        // There may be room for part of it only, and then that is told.
        let told = !tells_late || !queue.is_empty();
        assert!(
            told || seen_at >= at,
            "the end of an unawaited send was told"
        );
        let arrived = driver.arrives(&socket, &mut peer, result.unwrap(), queue);
        assert!(arrived == text);
    }
    // A turn that waits for nothing hands it out.
    let queue = driver.queue(b"at leisure");
    driver.ring.submit_send(&socket, send, queue, Unawaited);
    driver.turn_waiting(Wait::Poll);
    let (queue, result) = driver.sent(send);
    let arrived = driver.arrives(&socket, &mut peer, result.unwrap(), queue);
    assert_eq!(arrived, b"at leisure");
    driver.close(socket);
    driver.finish();
}

pub fn unawaited_sends_wait_for_no_reader<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    if !E::tells_late(&driver.ring) {
        return;
    }
    let (socket, mut peer) = driver.connection();
    let send = token(Operation::Send, 0);
    let text = pattern(10 * KIB);
    let (mut sent, mut sends) = (0, 0);
    let rest = loop {
        let queue = driver.queue(&text);
        driver.ring.submit_send(&socket, send, queue, Unawaited);
        // Nobody reads, and hardly anything else ends a wait.
        driver.ring.hasten(send);
        let (queue, result) = driver.sent(send);
        sends += 1;
        match result {
            Ok(bytes) => sent += bytes,
            Err(errno) => assert_eq!(errno.of_transfer(), TransferError::Retry),
        }
        if !queue.is_empty() {
            break queue;
        }
        driver.arena.retire(queue);
    };
    // What did not go went nowhere: the next send begins where this one ended.
    let arrived = driver.arrives(&socket, &mut peer, sent, rest);
    assert_eq!(arrived.len(), sends * text.len());
    assert!(arrived.chunks(text.len()).all(|copy| copy == text));
    driver.close(socket);
    driver.finish();
}

pub fn waits_no_longer_than_told<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    // Something is in flight, but has no reason to complete.
    let wake = token(Operation::Wake, 0);
    driver.ring.submit_wake(wake);
    let start = Instant::now();
    driver.ring.turn(Wait::Poll).unwrap();
    assert!(driver.ring.next_completion().is_none());
    for ms in [0, 1, 40] {
        let at = driver.ring.now().plus_ms(ms);
        let mut turns = 0;
        while driver.ring.now() < at {
            driver.ring.turn(Wait::Until(at)).unwrap();
            assert!(driver.ring.next_completion().is_none());
            turns += 1;
        }
        // A turn may be a short one, but not each of them.
        assert!(turns < 20, "{turns} turns to wait {ms} ms");
    }
    let past = driver.ring.now();
    driver.ring.turn(Wait::Until(past)).unwrap();
    assert!(start.elapsed() < DEADLINE);
    // A completion ends a wait before its time.
    let tick = token(Operation::Tick, 0);
    let soon = driver.ring.now().plus_ms(5);
    driver.ring.submit_tick(soon, tick);
    driver
        .ring
        .turn(Wait::Until(soon.plus_ms(DEADLINE.as_millis() as u64)))
        .unwrap();
    assert!(start.elapsed() < DEADLINE);
    driver.wait_done(tick);
    driver.cancel(wake);
    driver.finish();
}

pub fn wakes_from_another_thread<E: Env>(env: E) {
    let mut driver = Driver::new(env, Sizes::default());
    let wake = token(Operation::Wake, 0);
    let waker = driver.ring.waker();
    let deadline = driver.deadline;
    // Nothing else would end a wait for a wake that never comes. A virtual clock comes to it at
    // once, but there nothing waits.
    let too_late = token(Operation::Tick, 0);
    if E::WAITS {
        let at = driver.ring.now().plus_ms(DEADLINE.as_millis() as u64);
        driver.ring.submit_tick(at, too_late);
    }
    for _ in 0..3 {
        driver.ring.submit_wake(wake);
        let waiting = AtomicBool::new(false);
        let thread = rustix::thread::gettid().as_raw_nonzero();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let sleeps = || !E::WAITS || is_asleep(thread.get());
                while !(waiting.load(Ordering::Acquire) && sleeps()) && Instant::now() < deadline {
                    std::thread::yield_now();
                }
                // Using it twice wakes once.
                waker.wake();
                waker.wake();
            });
            let completion = loop {
                waiting.store(true, Ordering::Release);
                driver.ring.turn(Wait::Forever).unwrap();
                if let Some(completion) = driver.ring.next_completion() {
                    break completion;
                }
                assert!(Instant::now() < deadline, "nobody woke the ring");
            };
            assert!(completion.token != too_late, "nobody woke the ring");
            assert!(matches!(completion.outcome, Outcome::Woken));
            assert!(completion.token == wake && !completion.more);
        });
    }
    // What was asked for while nothing listened is not lost, and is told once.
    waker.wake();
    driver.ring.submit_wake(wake);
    assert!(matches!(driver.outcome(wake), Outcome::Woken));
    driver.ring.submit_wake(wake);
    driver.turn();
    driver.cancel(wake);
    if E::WAITS {
        driver.cancel(too_late);
    }
    driver.finish();
}

/// Whether a thread of this process sleeps, as `proc_pid_stat(5)` says.
fn is_asleep(thread: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.starts_with(" S"))
}
