//! A header is judged as soon as its bytes prove something, and not before.

use ringwire::{
    ProtocolError::{self, *},
    proto::{Opcode, Role, frame::FrameHeader},
};

use crate::{side::Side, wire::*};

/// The bytes that a server receives, the error, and how many of the bytes prove it.
const VIOLATIONS: [(&[u8], ProtocolError, usize); 15] = [
    (&[0xc1, 0x80], ReservedBit, 1),
    (&[0xa1, 0x80], ReservedBit, 1),
    (&[0x91, 0x80], ReservedBit, 1),
    (&[0xf8, 0x80], ReservedBit, 1),
    (&[0x83, 0x80], OpcodeReserved(3), 1),
    (&[0x07, 0x80], OpcodeReserved(7), 1),
    (&[0x8f, 0x80], OpcodeReserved(15), 1),
    (&[0x09, 0x80], ControlFragmented, 1),
    (&[0x81, 0x00], MaskMissing, 2),
    (&[0x88, 0x7e], MaskMissing, 2),
    (&[0x89, 0xfe, 0, 126], ControlTooLong, 2),
    (&[0x88, 0xff, 0, 0], ControlTooLong, 2),
    (&[0x82, 0xfe, 0, 125, 1, 2, 3, 4], LengthNotMinimal, 4),
    (&[0x82, 0xff, 0x80, 0, 0], LengthTopBit, 3),
    (
        &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 1],
        LengthNotMinimal,
        10,
    ),
];

#[test]
fn a_violation_is_found_at_the_first_byte_that_proves_it() {
    for (bytes, error, proof) in VIOLATIONS {
        for len in 0..proof {
            let found = FrameHeader::decode(&bytes[..len], Role::Server);
            assert_eq!(found, Ok(None), "{bytes:x?}, {len} bytes");
        }
        for len in proof..=bytes.len() {
            let found = FrameHeader::decode(&bytes[..len], Role::Server);
            assert_eq!(found, Err(error), "{bytes:x?}, {len} bytes");
        }
    }
}

#[test]
fn an_endpoint_fails_at_that_byte_too() {
    for (bytes, error, proof) in VIOLATIONS {
        for mut side in Side::both(Role::Server) {
            for (index, byte) in bytes.iter().enumerate() {
                side.feed(&[*byte]);
                let failed = side.seen == [crate::side::Seen::Failed(error)];
                assert_eq!(failed, index + 1 >= proof, "{bytes:x?}, byte {index}");
            }
            let code = error.close_code().number();
            let expected = frame(
                Role::Server,
                FIN | CLOSE,
                &close_payload(code, error.reason()),
            );
            assert_eq!(side.take_output(), expected, "{bytes:x?}");
        }
    }
}

#[test]
fn a_client_is_as_strict_with_a_server() {
    assert_eq!(
        FrameHeader::decode(&[0x81, 0x80], Role::Client),
        Err(MaskUnexpected)
    );
    assert_eq!(FrameHeader::decode(&[0x81], Role::Client), Ok(None));
    let (header, len) = FrameHeader::decode(&[0x89, 3, 1], Role::Client)
        .unwrap()
        .unwrap();
    assert_eq!(
        (header.opcode, header.payload_len, len),
        (Opcode::Ping, 3, 2)
    );
    assert_eq!(header.key, None);
}

#[test]
fn headers_written_here_are_read_by_an_independent_eye() {
    for (len, expected) in [
        (0, vec![0x82, 0]),
        (125, vec![0x82, 125]),
        (126, vec![0x82, 126, 0, 126]),
        (65_535, vec![0x82, 126, 255, 255]),
        (65_536, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        (
            u64::MAX >> 1,
            vec![0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255],
        ),
    ] {
        let header = FrameHeader {
            fin: true,
            opcode: Opcode::Binary,
            payload_len: len,
            key: None,
        };
        let mut space = [0; 14];
        let written = header.encode(&mut space);
        assert_eq!(space[..written], expected);
        assert_eq!(
            super::wire::header(Role::Server, FIN | BINARY, len),
            expected
        );
    }
}
