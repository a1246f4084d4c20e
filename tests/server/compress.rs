//! permessage-deflate over real sockets: what is negotiated, what goes over the wire, and what a
//! bomb costs. The client's side is compressed and inflated by miniz, which shares no code with the
//! server's.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::Instant,
};

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use ringwire::{
    Answer, CloseCause, Config, Conn, ConnId, Message, Outgoing, ProtocolError, Refusal, Remote,
    Service, Upgrade,
};

use crate::{
    common::{BINARY, Frame, Peer, TEXT, masked, request},
    host::{Engine, Host, Obedient, config, host, on_each_engine},
    peer::{FIN, PING, PONG, Prng, until},
};

on_each_engine! {
    a_bomb_costs_bounded_memory_and_time
    a_ratio_limit_ends_the_connection_with_1008
    bad_offers_open_connections_without_compression
    broken_messages_end_only_their_own_connection
    fragments_and_control_frames_between_them_are_one_message
    long_messages_go_back_as_they_are_from_where_they_were_inflated
    memory_for_windows_is_bounded_and_counted
    messages_are_compressed_both_ways
    long_messages_are_inflated_over_many_turns
    nothing_is_agreed_on_unless_it_is_switched_on
    what_goes_back_as_it_came_is_compressed_all_the_same
}

const RSV1: u8 = 0x40;
const MIB: usize = 1 << 20;

fn compressing(change: impl FnOnce(&mut Config)) -> Config {
    config(|config| {
        config.compress = true;
        config.compress_bytes_max = usize::MAX;
        change(config);
    })
}

/// Opens a connection that offers this. Returns the server's answer as well, if there is one.
fn open(host: &Host, offer: &str) -> (Peer, Option<String>) {
    let mut peer = host.connect();
    let header = format!("13\r\nSec-WebSocket-Extensions: {offer}\r\n");
    peer.write(request("/").replace("13\r\n", &header).as_bytes());
    let head = peer.read_head();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut lines = head.lines();
    let answer = lines.find_map(|line| line.strip_prefix("Sec-WebSocket-Extensions: "));
    (peer, answer.map(str::to_owned))
}

/// A client's compressor and inflater, with their contexts.
struct Miniz {
    compress: Compress,
    decompress: Decompress,
}

impl Miniz {
    fn new() -> Self {
        Self {
            compress: Compress::new(Compression::default(), false),
            decompress: Decompress::new(false),
        }
    }

    fn deflate(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(payload.len() + 1000);
        let done = self
            .compress
            .compress_vec(payload, &mut out, FlushCompress::Sync);
        done.expect("compressing");
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]), "the output did not fit");
        out.truncate(out.len() - 4);
        out
    }

    fn inflate(&mut self, compressed: &[u8]) -> Vec<u8> {
        let input = [compressed, &[0, 0, 0xff, 0xff]].concat();
        let mut out = Vec::with_capacity(2 * MIB);
        let done = self
            .decompress
            .decompress_vec(&input, &mut out, FlushDecompress::Sync);
        done.expect("inflating");
        out
    }
}

fn text(prng: &mut Prng, len: usize) -> String {
    let mut text = String::new();
    while text.len() < len {
        text.push_str(&format!(
            "{{\"id\":{},\"name\":\"größe\"}},",
            prng.below(10_000)
        ));
    }
    text
}

/// The server's resident memory: the test's own process.
fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok());
    kib.expect("VmRSS") * 1024
}

/// Counts what comes, and says so.
struct Counting;

crate::host::boxed!(Counting);

impl Service for Counting {
    type State = ();

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let zeros = message.payload().iter().all(|byte| *byte == 0);
        let answer = format!("{} {zeros}", message.payload().len());
        conn.send(answer).unwrap();
    }
}

/// A message that costs many shares takes as many turns, in each of which others are served. What
/// follows it in the same receive is looked at when it was handed out, and not before.
fn long_messages_are_inflated_over_many_turns(engine: Engine) {
    let config = compressing(|config| config.message_bytes_max = 16 * MIB as u64);
    host(
        engine,
        config,
        || Counting,
        |host| {
            let (mut peer, _) = open(host, "permessage-deflate");
            let zeros = Miniz::new().deflate(&vec![0; 16 * MIB]);
            let finals = [b"\x03\x00".repeat(1000), b"\x00".to_vec()].concat();
            for (compressed, answer) in [(zeros, "16777216 true"), (finals, "0 true")] {
                let before = host.counts().turns;
                // One that ends with the receive, and one with something behind it.
                peer.send(BINARY | RSV1, &compressed);
                assert_eq!(peer.read_message().payload, answer.as_bytes());
                let long = masked(BINARY | RSV1, &compressed);
                peer.write(&[long, masked(FIN | PING, b"behind")].concat());
                assert_eq!(peer.read_message().payload, answer.as_bytes());
                let pong = peer.read_frame();
                assert_eq!(
                    (pong.first, &pong.payload[..]),
                    (FIN | PONG, &b"behind"[..])
                );
                // Both of them cost many shares.
                let turns = host.counts().turns - before;
                assert!(turns >= 12, "{turns} turns");
            }
            peer.close();
        },
    );
}

/// Compressing them would hold up all others.
fn long_messages_go_back_as_they_are_from_where_they_were_inflated(engine: Engine) {
    let config = compressing(|config| {
        config.message_bytes_max = 4 * MIB as u64;
        config.compress_bytes_max = 100_000;
    });
    host(engine, config, Obedient::default, |host| {
        let (mut peer, _) = open(host, "permessage-deflate");
        for (len, rounds) in [(100_000, 1), (100_001, 3), (4 * MIB, 3)] {
            for _ in 0..rounds {
                let payload = vec![b'a'; len];
                peer.send(BINARY | RSV1, &Miniz::new().deflate(&payload));
                let echo = peer.read_message();
                if len <= 100_000 {
                    assert_eq!(echo.first, BINARY | RSV1);
                    assert!(Miniz::new().inflate(&echo.payload) == payload);
                } else {
                    assert_eq!(echo.first, BINARY);
                    assert!(echo.payload == payload, "{len} bytes");
                }
            }
        }
        host.expect_count(1, |counts| counts.compress_messages);
        if engine.scheme() == "ws" {
            host.expect_count(6, |counts| counts.messages_sent_in_place);
        }
        peer.close();
    });
}

fn nothing_is_agreed_on_unless_it_is_switched_on(engine: Engine) {
    host(engine, config(|_| {}), Obedient::default, |host| {
        let (mut peer, answer) = open(host, "permessage-deflate; client_max_window_bits");
        assert_eq!(answer, None);
        let long = "long enough, ".repeat(1000);
        peer.echo(&long);
        peer.send(TEXT | RSV1, b"\x00");
        assert_eq!(peer.expect_close(1002), ProtocolError::ReservedBit.reason());
        peer.expect_end();
        host.expect_count(0, |counts| counts.compress_connections);
    });
}

fn messages_are_compressed_both_ways(engine: Engine) {
    let offers = [
        (
            "permessage-deflate",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "permessage-deflate; client_max_window_bits; server_max_window_bits=\"9\"",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             server_max_window_bits=9",
        ),
    ];
    let without = compressing(|_| {});
    let with = compressing(|config| {
        config.compress_context_takeover = true;
        config.inflate_context_takeover = true;
    });
    for (takeover, config) in [(false, without), (true, with)] {
        host(engine, config, Obedient::default, |host| {
            for (offer, expected) in offers {
                let (mut peer, answer) = open(host, offer);
                let answer = answer.expect("an answer");
                if takeover {
                    assert!(!answer.contains("no_context_takeover"), "{answer}");
                } else {
                    assert_eq!(answer, expected);
                }
                let mut miniz = Miniz::new();
                let prng = &mut Prng::new(7);
                for len in [600, 5000, 70_000, 600, 300_000, 600] {
                    if !takeover {
                        miniz = Miniz::new();
                    }
                    let text = text(prng, len);
                    peer.send(TEXT | RSV1, &miniz.deflate(text.as_bytes()));
                    let frame = peer.read_message();
                    assert_eq!(frame.first, TEXT | RSV1);
                    assert!(frame.payload.len() < text.len() / 2);
                    assert!(miniz.inflate(&frame.payload) == text.as_bytes());
                }
                // Short ones, and what does not get shorter, are sent as they are.
                peer.echo("short");
                let noise = prng.bytes(5000);
                peer.send(BINARY, &noise);
                let payload = noise;
                assert_eq!(
                    peer.read_message(),
                    Frame {
                        first: BINARY,
                        payload
                    }
                );
                peer.close();
            }
            host.expect_count(2, |counts| counts.compress_connections);
            host.expect_count(12, |counts| counts.compress_messages);
            host.expect_count(12, |counts| counts.inflate_messages);
            let counts = host.counts();
            assert!(counts.compress_bytes * 2 < counts.compress_payload_bytes);
            assert_eq!(counts.compress_payload_bytes, counts.inflate_payload_bytes);
            let held = counts.compress_held_bytes;
            assert!(
                (200_000..2_000_000).contains(&held),
                "{held} bytes are held"
            );
        });
    }
}

/// A message that can be sent from where it lies has a header there that does not say how it is
/// compressed.
fn what_goes_back_as_it_came_is_compressed_all_the_same(engine: Engine) {
    let config = compressing(|config| config.send_in_place_bytes_min = 0);
    host(engine, config, Obedient::default, |host| {
        let (mut peer, _) = open(host, "permessage-deflate");
        let prng = &mut Prng::new(9);
        // In one receive, and put together from many.
        let lengths = [200, 600, 5000, 300_000];
        for len in lengths {
            let text = text(prng, len);
            let noise = prng.bytes(len);
            for compressed in [false, true] {
                let mut send = |first: u8, payload: &[u8]| match compressed {
                    false => peer.send(first, payload),
                    true => peer.send(first | RSV1, &Miniz::new().deflate(payload)),
                };
                send(TEXT, text.as_bytes());
                send(BINARY, &noise);
                let frame = peer.read_message();
                if len < 512 {
                    assert_eq!((frame.first, &frame.payload[..]), (TEXT, text.as_bytes()));
                } else {
                    assert_eq!(frame.first, TEXT | RSV1);
                    assert!(Miniz::new().inflate(&frame.payload) == text.as_bytes());
                }
                let frame = peer.read_message();
                assert!((frame.first, &frame.payload) == (BINARY, &noise));
            }
        }
        peer.close();
        host.expect_count(6, |counts| counts.compress_messages);
    });
}

fn fragments_and_control_frames_between_them_are_one_message(engine: Engine) {
    host(engine, compressing(|_| {}), Obedient::default, |host| {
        let (mut peer, _) = open(host, "permessage-deflate");
        let text = text(&mut Prng::new(3), 3000);
        let compressed = Miniz::new().deflate(text.as_bytes());
        for pieces in [1, 2, 7, 50] {
            for (index, piece) in compressed.chunks(compressed.len() / pieces).enumerate() {
                peer.send(if index == 0 { 0x01 | RSV1 } else { 0x00 }, piece);
                peer.send(PING, b"between");
                let payload = b"between".to_vec();
                assert_eq!(
                    peer.read_frame(),
                    Frame {
                        first: PONG,
                        payload
                    }
                );
            }
            peer.send(FIN, b"");
            let frame = peer.read_message();
            assert!(Miniz::new().inflate(&frame.payload) == text.as_bytes());
        }
        peer.close();
    });
}

fn bad_offers_open_connections_without_compression(engine: Engine) {
    host(engine, compressing(|_| {}), Obedient::default, |host| {
        for offer in [
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; strange",
            "x-webkit-deflate-frame",
            "=;\",\"",
        ] {
            let (mut peer, answer) = open(host, offer);
            assert_eq!(answer, None, "{offer}");
            peer.echo(&"not compressed".repeat(100));
            peer.close();
        }
    });
}

fn broken_messages_end_only_their_own_connection(engine: Engine) {
    use ProtocolError as E;
    host(engine, compressing(|_| {}), Obedient::default, |host| {
        let (mut other, _) = open(host, "permessage-deflate");
        let cases: [(u8, &[u8], ProtocolError); 5] = [
            (TEXT | RSV1, b"\xff\xff", E::DeflateInvalid),
            (TEXT | RSV1, b"\x00\x01\x00\xfe\xff\xff\x00", E::TextNotUtf8),
            (PING | RSV1, b"", E::CompressedBitMisplaced),
            (FIN | RSV1, b"", E::CompressedBitMisplaced),
            (TEXT | 0x20, b"", E::ReservedBit),
        ];
        for (first, payload, error) in cases {
            let (mut peer, _) = open(host, "permessage-deflate");
            peer.send(first, payload);
            let code = error.close_code().number();
            assert_eq!(peer.expect_close(code), error.reason());
            peer.expect_end();
        }
        let text = text(&mut Prng::new(3), 3000);
        other.send(TEXT | RSV1, &Miniz::new().deflate(text.as_bytes()));
        assert!(Miniz::new().inflate(&other.read_message().payload) == text.as_bytes());
        other.close();
        let causes = host.closes(cases.len() + 1);
        for (_, _, error) in cases {
            assert!(causes.contains(&CloseCause::Protocol(error)), "{error:?}");
        }
    });
}

/// 1 MiB that becomes 1 GiB, on 20 connections at once and then to the end of each.
fn a_bomb_costs_bounded_memory_and_time(engine: Engine) {
    let config = compressing(|_| {});
    let message_bytes_max = config.message_bytes_max as usize;
    // Made before memory is looked at.
    let mut miniz = Miniz::new();
    let zeros = vec![0; MIB];
    let mut bomb = Vec::new();
    for _ in 0..1024 {
        bomb.extend(miniz.deflate(&zeros));
        bomb.extend([0, 0, 0xff, 0xff]);
    }
    assert!(
        (MIB / 2..2 * MIB).contains(&bomb.len()),
        "{} bytes",
        bomb.len()
    );
    host(engine, config, Obedient::default, |host| {
        let (mut warm, _) = open(host, "permessage-deflate");
        let text = text(&mut Prng::new(1), 3000);
        warm.send(TEXT | RSV1, &Miniz::new().deflate(text.as_bytes()));
        warm.read_message();
        let mut peers: Vec<Peer> = (0..20)
            .map(|_| open(host, "permessage-deflate").0)
            .collect();
        let before = resident_bytes();
        let (first, last) = bomb.split_at(bomb.len() - 1);
        for peer in &mut peers {
            peer.send(0x02 | RSV1, first);
        }
        // The neighbour's echoes come after what the shards have received before.
        host.neighbour_echoes(20);
        let waiting = resident_bytes().saturating_sub(before);
        // Each is held as it came, in a buffer that may have grown to twice that, and no bomb has
        // gone off.
        assert!(
            waiting < 20 * 3 * bomb.len(),
            "{waiting} bytes for bombs that wait"
        );
        let mut longest = 0;
        for peer in &mut peers {
            let began = Instant::now();
            peer.send(FIN, last);
            assert_eq!(
                peer.expect_close(1009),
                ProtocolError::MessageTooBig.reason()
            );
            longest = longest.max(began.elapsed().as_millis());
            peer.expect_end();
        }
        let after = resident_bytes().saturating_sub(before);
        println!(
            "{engine:?}: 20 bombs of {} bytes: {waiting} bytes resident while they wait, {after} \
             after them, the longest took {longest} ms",
            bomb.len()
        );
        // One message of the limit on each of at most two shards, and what the pool keeps.
        let most = 20 * 3 * bomb.len() + 2 * 2 * message_bytes_max;
        assert!(after < most, "{after} bytes of at most {most}");
        assert!(longest < 2000, "a bomb took {longest} ms");
        warm.close();
        host.expect_count(20, |counts| counts.protocol_errors);
    });
}

fn a_ratio_limit_ends_the_connection_with_1008(engine: Engine) {
    let config = compressing(|config| config.inflate_ratio_max = 50);
    host(engine, config, Obedient::default, |host| {
        let (mut peer, _) = open(host, "permessage-deflate");
        // Up to 64 KiB any ratio will do.
        peer.send(BINARY | RSV1, &Miniz::new().deflate(&[0; 64 << 10]));
        let echo = peer.read_message();
        assert_eq!(Miniz::new().inflate(&echo.payload).len(), 64 << 10);
        peer.send(BINARY | RSV1, &Miniz::new().deflate(&[0; 200_000]));
        assert_eq!(
            peer.expect_close(1008),
            ProtocolError::InflateRatio.reason()
        );
        peer.expect_end();
        let (mut peer, _) = open(host, "permessage-deflate");
        let text = text(&mut Prng::new(1), 400_000);
        peer.send(TEXT | RSV1, &Miniz::new().deflate(text.as_bytes()));
        assert!(Miniz::new().inflate(&peer.read_message().payload) == text.as_bytes());
        peer.close();
    });
}

fn memory_for_windows_is_bounded_and_counted(engine: Engine) {
    let each = (1 << 12) + (1 << 11);
    let config = compressing(|config| {
        config.compress_context_takeover = true;
        config.compress_window_bits = 12;
        config.inflate_context_takeover = true;
        config.inflate_window_bits = 11;
        config.compress_windows_bytes_max = 3 * each;
    });
    host(engine, config, Obedient::default, |host| {
        let mut peers = Vec::new();
        let mut with = 0;
        // Two shards take them as the kernel likes.
        for _ in 0..20 {
            let (peer, answer) = open(host, "permessage-deflate; client_max_window_bits");
            let answer = answer.expect("an answer");
            let refused = answer.contains("no_context_takeover");
            with += u64::from(!refused);
            peers.push(peer);
        }
        assert!((3..=6).contains(&with), "{with} connections have windows");
        host.expect_count(with * each as u64, |counts| counts.compress_windows_bytes);
        host.expect_count(20 - with, |counts| counts.compress_windows_refused);
        for peer in peers {
            peer.close();
        }
        host.expect_count(0, |counts| counts.compress_windows_bytes);
    });
}

/// Refuses compression where there are secrets.
#[derive(Default)]
struct Careful;

crate::host::boxed!(Careful);

impl Service for Careful {
    type State = ();

    fn on_handshake(
        &mut self,
        _upgrade: &Upgrade<'_>,
        _peer: Remote<'_>,
        answer: &mut Answer,
    ) -> Result<(), Refusal> {
        answer.refuse_compression();
        Ok(())
    }

    fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message).unwrap();
    }
}

#[test]
fn a_service_may_refuse_compression() {
    host(
        Engine::Server,
        compressing(|_| {}),
        Careful::default,
        |host| {
            let (mut peer, answer) = open(host, "permessage-deflate");
            assert_eq!(answer, None);
            peer.echo(&"not compressed".repeat(100));
            peer.close();
        },
    );
}

/// What a handle sends to many is compressed once on each shard, and reaches everybody.
#[test]
fn a_payload_for_many_connections_reaches_all_of_them() {
    let text = "to whom it may concern, ".repeat(100);
    struct Noting(Arc<Mutex<Vec<ConnId>>>);
    crate::host::boxed!(Noting);

    impl Service for Noting {
        type State = ();

        fn on_open(&mut self, conn: &mut Conn<'_, ()>) {
            self.0.lock().unwrap().push(conn.id());
        }

        fn on_message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
            conn.send(message).unwrap();
        }
    }
    let ids = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let ids = ids.clone();
        move || Noting(ids.clone())
    };
    host(Engine::Server, compressing(|_| {}), service, |host| {
        let offers = [
            "permessage-deflate",
            "permessage-deflate; server_max_window_bits=10",
            "x",
        ];
        let mut peers: Vec<Peer> = (0..12).map(|n| open(host, offers[n % 3]).0).collect();
        until("all are open", || ids.lock().unwrap().len() == 12);
        let payload = Bytes::from(text.clone());
        for id in ids.lock().unwrap().iter() {
            let message = Outgoing::text(payload.clone()).unwrap();
            host.handle().send(*id, message).unwrap();
        }
        for (number, peer) in peers.iter_mut().enumerate() {
            let frame = peer.read_message();
            if number % 3 == 2 {
                assert_eq!((frame.first, &frame.payload[..]), (TEXT, text.as_bytes()));
            } else {
                assert_eq!(frame.first, TEXT | RSV1);
                assert!(Miniz::new().inflate(&frame.payload) == text.as_bytes());
            }
        }
        host.expect_count(8, |counts| counts.compress_messages);
        for peer in peers {
            peer.close();
        }
    });
}
