//! Peers and wires that do not play by the rules: each fails one connection, with the alert that
//! says why, and with what had come before delivered.

use ringwire::tls::TlsError;

use crate::{
    authority::Authority,
    pair::{Pair, both, bytes},
};

/// The records of `wire`, each whole.
fn split(mut wire: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while wire.len() >= 5 {
        let len = 5 + usize::from(u16::from_be_bytes([wire[3], wire[4]]));
        let (record, rest) = wire.split_at(len);
        found.push(record.to_vec());
        wire = rest;
    }
    assert_eq!(wire, b"");
    found
}

/// Three records of a client, and the pair they belong to.
fn three_records() -> (Pair, Vec<Vec<u8>>) {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    let mut pair = Pair::open(&client, &server);
    for message in ["first", "second", "third"] {
        pair.client.send(message.as_bytes());
    }
    let records = split(&pair.client.take());
    assert_eq!(records.len(), 3);
    (pair, records)
}

/// The server fails on `wire` as on something that was tampered with, having read `before`, and its
/// client learns it from an alert.
#[track_caller]
fn expect_refused(mut pair: Pair, wire: &[u8], before: &str, piece: usize) {
    let error = pair.server.receive(wire, piece).unwrap_err();
    assert_eq!(error, TlsError::RecordNotAuthentic);
    assert_eq!(String::from_utf8_lossy(&pair.server.plain), before);
    assert!(pair.server.session.is_closed());
    let error = pair.exchange(usize::MAX).unwrap_err();
    assert_eq!(error, TlsError::AlertReceived("bad_record_mac".into()));
}

#[test]
fn a_record_that_is_replayed_dropped_or_moved_is_refused() {
    for piece in [1, 30, usize::MAX] {
        let (pair, records) = three_records();
        let replayed = [&records[0][..], &records[0], &records[1]].concat();
        expect_refused(pair, &replayed, "first", piece);

        let (pair, records) = three_records();
        let dropped = [&records[0][..], &records[2]].concat();
        expect_refused(pair, &dropped, "first", piece);

        let (pair, records) = three_records();
        let moved = [&records[1][..], &records[0], &records[2]].concat();
        expect_refused(pair, &moved, "", piece);
    }
}

#[test]
fn every_changed_byte_is_found() {
    let (pair, records) = three_records();
    let len = records[1].len();
    drop(pair);
    for at in 0..len {
        let (mut pair, mut records) = three_records();
        records[1][at] ^= 0x40;
        let wire = records.concat();
        let error = pair.server.receive(&wire, usize::MAX);
        match at {
            // The minor version is to be ignored (RFC 8446 section 5.1).
            2 => {
                assert_eq!(error, Ok(()));
                assert_eq!(pair.server.plain, b"firstsecondthird");
            }
            // The kind or the major version.
            0 | 1 => {
                assert!(matches!(error, Err(TlsError::Violation(_))), "{error:?}");
                assert_eq!(pair.server.plain, b"first");
            }
            // A longer record, which has not come whole.
            3 | 4 => {
                assert_eq!(error, Ok(()));
                assert_eq!(pair.server.plain, b"first");
            }
            _ => {
                assert_eq!(error, Err(TlsError::RecordNotAuthentic), "byte {at}");
                assert_eq!(pair.server.plain, b"first");
            }
        }
    }
}

#[test]
fn plain_http_is_recognised_from_its_first_byte() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    for piece in [1, usize::MAX] {
        let mut pair = Pair::new(&client, &server);
        let request = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
        let error = pair.server.receive(request, piece).unwrap_err();
        assert_eq!(error, TlsError::PeerIsPlain);
        assert_eq!(pair.server.take(), b"");
        let error = pair
            .client
            .receive(b"HTTP/1.1 400 Bad Request\r\n\r\n", piece);
        assert_eq!(error, Err(TlsError::PeerIsPlain));
    }
}

#[test]
fn noise_is_refused_without_waiting_for_more_of_it() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    for noise in [
        &b"\x00\x00\x00\x00\x00"[..],
        b"\x16\x03\x01\xff\xff",
        b"\x16\x09\x01\x00\x10",
        b"\x80\x2e\x01\x03\x01",
        b"ssh-2.0-x\r\n",
        b"\x16\x03\x01\x00\x00",
    ] {
        for piece in [1, usize::MAX] {
            let mut pair = Pair::new(&client, &server);
            let error = pair.server.receive(noise, piece).unwrap_err();
            assert!(
                matches!(error, TlsError::Violation(_)),
                "{error} for {noise:?}"
            );
            assert_eq!(split(&pair.server.take())[0][0], 21, "an alert");
        }
    }
}

/// A handshake message of 64 KiB in records of one byte: the records are much more than it.
#[test]
fn a_handshake_in_tiny_records_is_held_only_up_to_the_limit() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    for piece in [1, 6, 6000] {
        let mut pair = Pair::new(&client, &server);
        let mut wire = Vec::new();
        // A client hello of 65,535 bytes.
        for byte in [1, 0, 0xff, 0xff].into_iter().chain(bytes(0xffff)) {
            wire.extend_from_slice(&[22, 3, 1, 0, 1, byte]);
        }
        let mut result = Ok(());
        for part in wire.chunks(60_000) {
            result = pair.server.receive(part, piece);
            assert!(pair.server.session.buffered_bytes() <= 0x1_0000);
            if result.is_err() {
                break;
            }
        }
        assert_eq!(result, Err(TlsError::HandshakeTooLong));
    }
}

#[test]
fn whatever_comes_as_noise_ends_in_an_error_and_never_in_a_panic() {
    let authority = Authority::new();
    let (client, server) = both(&authority);
    for seed in 0..300 {
        let mut pair = Pair::new(&client, &server);
        let mut hello = pair.client.take();
        let noise = bytes(4000 + seed);
        // Part of a hello, and then something else; or a hello with something else in it.
        if seed % 2 == 0 {
            hello.truncate(seed * hello.len() / 300);
            hello.extend_from_slice(&noise);
        } else {
            let at = seed * (hello.len() - 8) / 300;
            hello[at..at + 8].copy_from_slice(&noise[noise.len() - 8..]);
        }
        let _ = pair.server.receive(&hello, 1 + seed);
        let _ = pair.client.receive(&pair.server.take(), 1 + seed);
    }
}
