//! Frames (RFC 6455 section 5): every violation ends its own connection with its own status code,
//! and what is just allowed passes.

use ringwire::{CloseCause, ProtocolError, service::Echo};

use crate::{
    common::{BINARY, Frame, Peer, TEXT, masked},
    host::{Engine, Host, Obedient, config, host, on_each_engine},
    peer::{CLOSE, FIN, PING, PONG, close_payload},
};

on_each_engine! {
    a_message_over_the_limit_is_refused_by_its_header
    a_sink_takes_everything_and_counts_it
    bad_text_is_refused_at_its_first_bad_byte
    close_codes_are_judged
    every_broken_frame_is_a_1002
    fragments_and_control_frames_between_them_are_one_message
    lengths_at_their_borders_are_echoed
    messages_of_exactly_the_limit_pass
    pings_are_answered_with_their_payload
    too_many_fragments_are_a_1008
}

/// A frame's header with a mask of zeros: what follows can be read in a test.
fn header(first: u8, length: &[u8]) -> Vec<u8> {
    let mut header = vec![first];
    header.extend_from_slice(length);
    header[1] |= 0x80;
    header.extend_from_slice(&[0; 4]);
    header
}

/// These bytes on a new connection fail it with the status code of `error`. Returns the code.
///
/// The client is rude: it goes on sending before it reads. The close frame and the end of the
/// stream have to reach it all the same.
#[track_caller]
fn fails(host: &Host, bytes: &[u8], error: ProtocolError) {
    let code = error.close_code().number();
    let before = host.counts().protocol_errors;
    for drip in [false, true] {
        let mut peer = host.open();
        if drip {
            peer.drip(bytes);
        } else {
            peer.write(bytes);
        }
        peer.write(&[0x55; 100_000]);
        assert_eq!(peer.expect_close(code), error.reason());
        peer.expect_end();
    }
    host.expect_count(before + 2, |counts| counts.protocol_errors);
}

/// Waits for every end there was, each a violation, and compares the last ones.
#[track_caller]
fn causes(host: &Host, errors: &[ProtocolError]) {
    let causes = host.closes(2 * errors.len());
    let mut expected = Vec::new();
    for &error in errors {
        expected.extend([CloseCause::Protocol(error), CloseCause::Protocol(error)]);
    }
    // Each connection lingers until its client has gone: ends need not come in order.
    for cause in &causes {
        let at = expected.iter().position(|it| it == cause);
        expected.swap_remove(at.unwrap_or_else(|| panic!("{cause:?} was not expected")));
    }
}

fn every_broken_frame_is_a_1002(engine: Engine) {
    use ProtocolError as E;
    host(engine, config(|_| {}), Obedient::default, |host| {
        let hello = masked(TEXT, b"hello");
        let begun = masked(0x01, b"begun");
        let mut cases: Vec<(Vec<u8>, ProtocolError)> = vec![
            (b"\x81\x05hello".to_vec(), E::MaskMissing),
            (b"\x89\x00".to_vec(), E::MaskMissing),
            (b"\x88\x02\x03\xe8".to_vec(), E::MaskMissing),
            (masked(PING & !FIN, b""), E::ControlFragmented),
            (masked(PONG & !FIN, b""), E::ControlFragmented),
            (masked(CLOSE & !FIN, b""), E::ControlFragmented),
            (masked(PING, &[0; 126]), E::ControlTooLong),
            (masked(PONG, &[0; 126]), E::ControlTooLong),
            (
                masked(CLOSE, &close_payload(1000, &[b'x'; 124])),
                E::ControlTooLong,
            ),
            (masked(CLOSE, &[3]), E::CloseBodyTooShort),
            (header(BINARY, &[126, 0, 125]), E::LengthNotMinimal),
            (header(BINARY, &[126, 0, 0]), E::LengthNotMinimal),
            (
                header(BINARY, &[127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
                E::LengthNotMinimal,
            ),
            (
                header(BINARY, &[127, 0, 0, 0, 0, 0, 0, 0, 5]),
                E::LengthNotMinimal,
            ),
            (
                header(BINARY, &[127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
                E::LengthTopBit,
            ),
            (masked(0x80, b"orphan"), E::ContinuationWithoutMessage),
            (masked(0x00, b"orphan"), E::ContinuationWithoutMessage),
            ([&begun[..], &hello].concat(), E::MessageInterleaved),
            ([&begun[..], &begun].concat(), E::MessageInterleaved),
        ];
        for reserved in [0x40, 0x20, 0x10] {
            for first in [TEXT, PING, CLOSE] {
                cases.push((masked(first | reserved, b""), E::ReservedBit));
            }
        }
        for opcode in (0x3..=0x7).chain(0xb..=0xf) {
            cases.push((masked(FIN | opcode, b"?"), E::OpcodeReserved(opcode)));
        }
        // After a whole message there is none in progress.
        let mut peer = host.open();
        peer.send_fragments(1, &[b"be", b"gun"]);
        peer.expect_text("begun");
        peer.write(&masked(FIN, b""));
        peer.expect_close(1002);
        peer.expect_end();
        drop(peer);
        let errors: Vec<_> = cases.iter().map(|&(_, error)| error).collect();
        for (bytes, error) in cases {
            assert_eq!(error.close_code().number(), 1002);
            // With whole messages before it, the last in the same segment, which are answered.
            let mut peer = host.open();
            if matches!(error, E::ReservedBit) {
                peer.write(&[&hello[..], &hello, &bytes].concat());
                peer.expect_text("hello");
                peer.expect_text("hello");
                peer.expect_close(1002);
                peer.expect_end();
            } else {
                peer.close();
            }
            fails(host, &bytes, error);
        }
        let ends = host.closes(3 * errors.len() + 1);
        for error in errors {
            assert!(ends.contains(&CloseCause::Protocol(error)), "{error:?}");
        }
    });
}

fn close_codes_are_judged(engine: Engine) {
    host(engine, config(|_| {}), Obedient::default, |host| {
        let bad = [
            0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535,
        ];
        for code in bad {
            let frame = masked(CLOSE, &close_payload(code, b"why"));
            fails(host, &frame, ProtocolError::CloseCodeNotAllowed(code));
        }
        causes(host, &bad.map(ProtocolError::CloseCodeNotAllowed));
    });
    host(engine, config(|_| {}), Obedient::default, |host| {
        let good = [
            1000, 1001, 1002, 1003, 1007, 1008, 1011, 1014, 3000, 3999, 4000, 4999,
        ];
        for code in good {
            let mut peer = host.open();
            peer.send(CLOSE, &close_payload(code, "grün".as_bytes()));
            assert_eq!(peer.expect_close(code), "");
            peer.expect_end();
        }
        // No code at all is answered with none.
        let mut peer = host.open();
        peer.send(CLOSE, b"");
        let answer = Frame {
            first: CLOSE,
            payload: Vec::new(),
        };
        assert_eq!(peer.read_frame(), answer);
        peer.expect_end();
        // The longest reason there is.
        let mut peer = host.open();
        peer.send(CLOSE, &close_payload(1000, &[b'x'; 123]));
        peer.expect_close(1000);
        peer.expect_end();
        for cause in host.closes(good.len() + 2) {
            let CloseCause::Peer { code, reason } = cause else {
                panic!("{cause:?}");
            };
            match code.map(|code| code.number()) {
                None => assert_eq!(&*reason, ""),
                Some(1000) if reason.starts_with('x') => assert_eq!(reason.len(), 123),
                Some(code) => assert!(
                    good.contains(&code) && &*reason == "grün",
                    "{code} {reason}"
                ),
            }
        }
    });
}

fn bad_text_is_refused_at_its_first_bad_byte(engine: Engine) {
    use ProtocolError as E;
    host(engine, config(|_| {}), Obedient::default, |host| {
        // Announced are 100 bytes, and only those come that show the mistake.
        let announced = |first, payload: &[u8]| {
            let mut bytes = header(first, &[100]);
            bytes.extend_from_slice(payload);
            bytes
        };
        let bad: [&[u8]; 7] = [
            b"ab\x80",
            b"ab\xc0",
            b"ab\xe0\x9f",
            b"ab\xed\xa0",
            b"ab\xf0\x8f",
            b"ab\xf4\x90",
            b"ab\xf5",
        ];
        let mut errors = Vec::new();
        for payload in bad {
            fails(host, &announced(TEXT, payload), E::TextNotUtf8);
            // In a later fragment, and with the character begun in an earlier one.
            let later = [masked(0x01, "ä".as_bytes()), announced(FIN, payload)].concat();
            fails(host, &later, E::TextNotUtf8);
            let (begin, end) = payload.split_at(payload.len() - 1);
            let split = [masked(0x01, begin), announced(0x00, end)].concat();
            fails(host, &split, E::TextNotUtf8);
            errors.extend([E::TextNotUtf8; 3]);
        }
        // Whole messages: short, long, and one that ends inside a character.
        fails(host, &masked(TEXT, b"\xff"), E::TextNotUtf8);
        fails(
            host,
            &masked(TEXT, "ä".repeat(70).as_bytes()[..139].as_ref()),
            E::TextNotUtf8,
        );
        let unfinished = [masked(0x01, b"\xe2\x82"), masked(FIN, b"")].concat();
        fails(host, &unfinished, E::TextNotUtf8);
        let reason = masked(CLOSE, &close_payload(1000, b"\xc3"));
        fails(host, &reason, E::CloseReasonNotUtf8);
        errors.extend([E::TextNotUtf8; 3]);
        errors.push(E::CloseReasonNotUtf8);
        assert!(
            errors
                .iter()
                .all(|error| error.close_code().number() == 1007)
        );
        causes(host, &errors);
        // The same bytes are welcome as binary.
        let mut peer = host.open();
        peer.send(BINARY, b"ab\xc0");
        assert_eq!(peer.read_frame().payload, b"ab\xc0");
        peer.close();
    });
}

fn a_message_over_the_limit_is_refused_by_its_header(engine: Engine) {
    use ProtocolError::MessageTooBig;
    let config = config(|config| config.message_bytes_max = 1000);
    host(engine, config, Obedient::default, |host| {
        let gigabyte = header(BINARY, &[127, 0, 0, 0, 0, 0x40, 0, 0, 0]);
        // Nothing but the header, and nothing after it.
        let mut peer = host.open();
        peer.write(&gigabyte);
        assert_eq!(peer.expect_close(1009), MessageTooBig.reason());
        peer.expect_end();
        drop(peer);
        fails(host, &gigabyte, MessageTooBig);
        fails(host, &header(TEXT, &[126, 0x03, 0xe9]), MessageTooBig);
        fails(host, &masked(BINARY, &[0; 1001]), MessageTooBig);
        // The sum of fragments, known from the header of the last.
        let begun = masked(0x02, &[0; 600]);
        let sum = [&begun[..], &header(FIN, &[126, 0x01, 0x91])].concat();
        fails(host, &sum, MessageTooBig);
        let sum = [&begun[..], &masked(0x00, &[0; 400]), &header(0x00, &[1])].concat();
        fails(host, &sum, MessageTooBig);
        let ends = host.closes(11);
        let protocol = CloseCause::Protocol(MessageTooBig);
        assert!(ends.iter().all(|cause| *cause == protocol), "{ends:?}");
    });
}

fn messages_of_exactly_the_limit_pass(engine: Engine) {
    let config = config(|config| {
        config.message_bytes_max = 1000;
        config.message_fragments_max = 10;
        config.message_empty_fragments_max = 3;
    });
    host(engine, config, Obedient::default, |host| {
        let mut peer = host.open();
        let text = "x".repeat(1000);
        for _ in 0..3 {
            peer.echo(&text);
            peer.send_fragments(1, &[&text.as_bytes()[..600], &text.as_bytes()[600..]]);
            peer.expect_text(&text);
            // Ten fragments, of which three are empty; an empty last one is none of those.
            let x: &[u8] = b"x";
            peer.send_fragments(1, &[x, b"", x, b"", x, b"", x, x, x, b""]);
            peer.expect_text("xxxxxx");
        }
        peer.close();
    });
}

fn too_many_fragments_are_a_1008(engine: Engine) {
    use ProtocolError::{EmptyFragmentFlood, FragmentFlood};
    let config = config(|config| {
        config.message_fragments_max = 10;
        config.message_empty_fragments_max = 3;
    });
    host(engine, config, Obedient::default, |host| {
        let first = masked(0x01, b"a");
        let tiny = [first.clone(), masked(0, b"a").repeat(10)].concat();
        fails(host, &tiny, FragmentFlood);
        let empty = [first, masked(0, b"").repeat(4)].concat();
        fails(host, &empty, EmptyFragmentFlood);
        let all_empty = [masked(0x02, b""), masked(0, b"").repeat(3)].concat();
        fails(host, &all_empty, EmptyFragmentFlood);
        // A million of them, as fast as they go.
        let mut peer = host.open();
        let mut writer = peer.writer();
        let writing = std::thread::spawn(move || {
            writer.write(&masked(0x01, b""));
            writer.write(&masked(0, b"").repeat(1_000_000));
            writer.shutdown_write();
        });
        assert_eq!(peer.expect_close(1008), EmptyFragmentFlood.reason());
        peer.expect_end();
        writing.join().expect("the server read on");
        assert_eq!(EmptyFragmentFlood.close_code().number(), 1008);
        assert_eq!(FragmentFlood.close_code().number(), 1008);
        host.closes(7);
    });
}

fn lengths_at_their_borders_are_echoed(engine: Engine) {
    host(engine, config(|_| {}), Obedient::default, |host| {
        let mut peer = host.open();
        for len in [0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20] {
            let payload: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            peer.send(BINARY, &payload);
            let frame = peer.read_frame();
            assert!(frame.first == BINARY && frame.payload == payload, "{len}");
        }
        // Many in one write, of which some straddle receives.
        let message = masked(TEXT, "x".repeat(999).as_bytes());
        let mut writer = peer.writer();
        let writing = std::thread::spawn(move || writer.write(&message.repeat(1000)));
        for _ in 0..1000 {
            assert_eq!(peer.read_frame().payload.len(), 999);
        }
        writing.join().unwrap();
        peer.close();
    });
}

fn fragments_and_control_frames_between_them_are_one_message(engine: Engine) {
    host(engine, config(|_| {}), Obedient::default, |host| {
        let mut peer = host.open();
        let text = "Käse und Brot: €5";
        // Every cut, also through characters, with a ping in it.
        for cut in 0..=text.len() {
            let (begin, end) = text.as_bytes().split_at(cut);
            peer.write(&masked(0x01, begin));
            peer.write(&masked(PING, &[cut as u8]));
            peer.write(&masked(PONG, b"unasked"));
            peer.write(&masked(FIN, end));
            let pong = peer.read_frame();
            assert_eq!((pong.first, &*pong.payload), (PONG, &[cut as u8][..]));
            peer.expect_text(text);
        }
        // The same in pieces of the transport: a byte at a time.
        let mut bytes = masked(0x01, &text.as_bytes()[..3]);
        bytes.extend(masked(PING, b"in between"));
        bytes.extend(masked(FIN, &text.as_bytes()[3..]));
        peer.drip(&bytes);
        assert_eq!(peer.read_frame().payload, b"in between");
        peer.expect_text(text);
        peer.close();
    });
}

fn pings_are_answered_with_their_payload(engine: Engine) {
    host(engine, config(|_| {}), Obedient::default, |host| {
        let mut peer: Peer = host.open();
        for len in [0, 1, 124, 125] {
            let payload = vec![len; len.into()];
            peer.send(PING, &payload);
            let expected = Frame {
                first: PONG,
                payload,
            };
            assert_eq!(peer.read_frame(), expected);
        }
        peer.close();
    });
}

fn a_sink_takes_everything_and_counts_it(engine: Engine) {
    host(
        engine,
        config(|_| {}),
        || Echo,
        |host| {
            let mut peer = Peer::open(host.address(), "/sink?of=everything");
            for _ in 0..10 {
                peer.send(TEXT, b"stat");
                peer.send(BINARY, b"stats");
            }
            peer.send_fragments(2, &[&[0; 100_000], b"", &[0; 1]]);
            // What is answered comes after all of it.
            peer.send(TEXT, b"stats");
            peer.expect_text(r#"{"messages":21,"payload_bytes":100091}"#);
            peer.close();
        },
    );
}
