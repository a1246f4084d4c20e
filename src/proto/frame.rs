//! Frame headers, in and out.
//!
//! Knows: RFC 6455 section 5.2, bit by bit. Refuses to know: which frame may follow which.
//!
//! ```text
//!   byte 0            byte 1            then
//!   |F|R|R|R| opcode  |M|  length 7     [length 16 or 64][masking key 32][payload]
//! ```

use super::{ProtocolError, Role};
use crate::kernels::mask::MaskingKey;

/// The longest header: two bytes, a 64 bit length and a masking key.
pub const HEADER_BYTES_MAX: usize = 14;

/// The longest payload of a control frame (section 5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// What a frame is (section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// More of the message in progress.
    Continuation = 0x0,
    /// Text, or the first fragment of it.
    Text = 0x1,
    /// Binary, or the first fragment of it.
    Binary = 0x2,
    /// The closing handshake.
    Close = 0x8,
    /// Asks for a pong.
    Ping = 0x9,
    /// Answers a ping, or says that one is alive.
    Pong = 0xa,
}

impl Opcode {
    /// The opcode of these four bits, unless they are reserved.
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    /// Whether it may stand between the fragments of a message (section 5.5).
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// One frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether this is the last fragment of its message.
    pub fin: bool,
    /// What the frame is.
    pub opcode: Opcode,
    /// Bytes of payload.
    pub payload_len: u64,
    /// The masking key, when the payload is masked.
    pub key: Option<MaskingKey>,
}

impl FrameHeader {
    /// The header of a whole message in one frame, as a server sends it.
    #[inline]
    pub const fn of_server(opcode: Opcode, payload_len: u64) -> Self {
        Self {
            fin: true,
            opcode,
            payload_len,
            key: None,
        }
    }

    /// Reads the header at the start of `bytes`, sent by the peer of an endpoint of `role`.
    /// `Ok(None)` while it is incomplete and nothing is wrong yet. Returns it with its length in
    /// bytes.
    ///
    /// # Errors
    ///
    /// The first violation that the bytes so far prove: a reserved bit or opcode, a fragmented or
    /// long control frame, a mask that the role of the sender forbids or demands, a length that is
    /// not minimal or has the top bit on.
    pub fn decode(bytes: &[u8], role: Role) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(ProtocolError::ReservedBit);
        }
        let fin = first & 0x80 != 0;
        let opcode =
            Opcode::from_bits(first & 0xf).ok_or(ProtocolError::OpcodeReserved(first & 0xf))?;
        if opcode.is_control() && !fin {
            return Err(ProtocolError::ControlFragmented);
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        let masked = second & 0x80 != 0;
        match (role, masked) {
            (Role::Server, false) => return Err(ProtocolError::MaskMissing),
            (Role::Client, true) => return Err(ProtocolError::MaskUnexpected),
            _ => {}
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(ProtocolError::ControlTooLong);
        }
        let (payload_len, at) = match short {
            126 => {
                let Some(len) = bytes.get(2..4) else {
                    return Ok(None);
                };
                let len = u16::from_be_bytes([len[0], len[1]]);
                if len < 126 {
                    return Err(ProtocolError::LengthNotMinimal);
                }
                (u64::from(len), 4)
            }
            127 => {
                // The top bit is in the first of the eight bytes: no need to wait for the rest.
                if bytes.get(2).is_some_and(|&top| top & 0x80 != 0) {
                    return Err(ProtocolError::LengthTopBit);
                }
                let Some(len) = bytes.get(2..10) else {
                    return Ok(None);
                };
                let mut eight = [0; 8];
                eight.copy_from_slice(len);
                let len = u64::from_be_bytes(eight);
                if len <= u64::from(u16::MAX) {
                    return Err(ProtocolError::LengthNotMinimal);
                }
                (len, 10)
            }
            short => (u64::from(short), 2),
        };
        if !masked {
            return Ok(Some((
                Self {
                    fin,
                    opcode,
                    payload_len,
                    key: None,
                },
                at,
            )));
        }
        let Some(key) = bytes.get(at..at + 4) else {
            return Ok(None);
        };
        let key = MaskingKey::new([key[0], key[1], key[2], key[3]]);
        Ok(Some((
            Self {
                fin,
                opcode,
                payload_len,
                key: Some(key),
            },
            at + 4,
        )))
    }

    /// Bytes that the header takes.
    #[inline]
    pub const fn encoded_len(&self) -> usize {
        let length = match self.payload_len {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        };
        length + if self.key.is_some() { 4 } else { 0 }
    }

    /// Writes the header to the start of `space` and returns its length in bytes.
    ///
    /// # Panics
    ///
    /// When `space` is shorter than [`encoded_len`](Self::encoded_len).
    #[inline]
    pub fn encode(&self, space: &mut [u8]) -> usize {
        let mask_bit = if self.key.is_some() { 0x80 } else { 0 };
        space[0] = (if self.fin { 0x80 } else { 0 }) | self.opcode as u8;
        let mut at = match self.payload_len {
            len @ 0..=125 => {
                space[1] = mask_bit | len as u8;
                2
            }
            len @ 126..=0xffff => {
                space[1] = mask_bit | 126;
                space[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            len => {
                space[1] = mask_bit | 127;
                space[2..10].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        if let Some(key) = self.key {
            space[at..at + 4].copy_from_slice(&key.to_bytes());
            at += 4;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPCODES: [Opcode; 6] = [
        Opcode::Continuation,
        Opcode::Text,
        Opcode::Binary,
        Opcode::Close,
        Opcode::Ping,
        Opcode::Pong,
    ];

    #[test]
    fn section_5_2_every_header_reads_as_it_was_written_and_not_before_its_last_byte() {
        let lengths = [
            0,
            1,
            125,
            126,
            127,
            255,
            256,
            65_535,
            65_536,
            1 << 32,
            (1 << 63) - 1,
        ];
        for opcode in OPCODES {
            for payload_len in lengths {
                for fin in [false, true] {
                    for role in [Role::Client, Role::Server] {
                        if opcode.is_control() && (!fin || payload_len > 125) {
                            continue;
                        }
                        let key =
                            (role == Role::Server).then(|| MaskingKey::new([1, 0x82, 0, 0xff]));
                        let header = FrameHeader {
                            fin,
                            opcode,
                            payload_len,
                            key,
                        };
                        let mut space = [0xee; HEADER_BYTES_MAX];
                        let len = header.encode(&mut space);
                        assert_eq!(len, header.encoded_len());
                        for cut in 0..len {
                            assert_eq!(FrameHeader::decode(&space[..cut], role), Ok(None));
                        }
                        assert_eq!(FrameHeader::decode(&space, role), Ok(Some((header, len))));
                    }
                }
            }
        }
    }

    #[test]
    fn section_5_2_all_pairs_of_first_bytes_are_judged() {
        let mut accepted = 0;
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let mut bytes = [0x7f; HEADER_BYTES_MAX];
                bytes[0] = first;
                bytes[1] = second;
                let expected = if first & 0x70 != 0 {
                    Err(ProtocolError::ReservedBit)
                } else if matches!(first & 0xf, 3..=7 | 11..=15) {
                    Err(ProtocolError::OpcodeReserved(first & 0xf))
                } else if first & 0x88 == 0x08 {
                    Err(ProtocolError::ControlFragmented)
                } else if second & 0x80 == 0 {
                    Err(ProtocolError::MaskMissing)
                } else if first & 0x08 != 0 && second & 0x7f > 125 {
                    Err(ProtocolError::ControlTooLong)
                } else {
                    accepted += 1;
                    Ok(())
                };
                let decoded = FrameHeader::decode(&bytes, Role::Server);
                assert_eq!(decoded.map(|header| assert!(header.is_some())), expected);
            }
        }
        assert_eq!(accepted, 6 * 128 + 3 * 126);
    }

    #[test]
    fn section_5_2_lengths_are_minimal_and_below_2_to_the_63() {
        let decode = |bytes: &[u8]| FrameHeader::decode(bytes, Role::Client).unwrap_err();
        assert_eq!(
            decode(&[0x82, 126, 0, 125]),
            ProtocolError::LengthNotMinimal
        );
        let short = [0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        assert_eq!(decode(&short), ProtocolError::LengthNotMinimal);
        assert_eq!(decode(&[0x82, 127, 0x80]), ProtocolError::LengthTopBit);
        assert_eq!(decode(&[0x82, 0x80]), ProtocolError::MaskUnexpected);
    }
}
