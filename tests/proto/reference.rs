//! RFC 6455 section 5 once more, as slowly and plainly as possible: the whole stream at once, one
//! vector of bytes per message, text checked by the standard library.

use ringwire::{
    ProtocolError::{self, *},
    proto::{Limits, Role},
};

use crate::side::Seen;

/// What an endpoint of `role` reports about `stream`, up to a close frame or a failure.
pub fn decode(role: Role, limits: &Limits, stream: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    if let Err(error) = decode_into(role, limits, stream, &mut seen) {
        seen.push(Seen::Failed(error));
    }
    seen
}

struct Message {
    is_text: bool,
    bytes: Vec<u8>,
    fragments: u32,
    empty_fragments: u32,
}

fn decode_into(
    role: Role,
    limits: &Limits,
    stream: &[u8],
    seen: &mut Vec<Seen>,
) -> Result<(), ProtocolError> {
    let mut at = 0;
    let mut message: Option<Message> = None;
    while let Some(&first) = stream.get(at) {
        if first & 0b0111_0000 != 0 {
            return Err(ReservedBit);
        }
        let (fin, opcode) = (first & 0b1000_0000 != 0, first & 0b1111);
        if matches!(opcode, 3..=7 | 11..=15) {
            return Err(OpcodeReserved(opcode));
        }
        let control = opcode >= 8;
        if control && !fin {
            return Err(ControlFragmented);
        }
        let Some(&second) = stream.get(at + 1) else {
            return Ok(());
        };
        let masked = second & 0b1000_0000 != 0;
        if role == Role::Server && !masked {
            return Err(MaskMissing);
        }
        if role == Role::Client && masked {
            return Err(MaskUnexpected);
        }
        let short = second & 0b0111_1111;
        if control && short > 125 {
            return Err(ControlTooLong);
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if short == 127 && stream.get(at + 2).is_some_and(|&top| top >= 128) {
            return Err(LengthTopBit);
        }
        let Some(length_bytes) = stream.get(at + 2..at + 2 + extended) else {
            return Ok(());
        };
        let mut len = u64::from(short);
        if extended > 0 {
            len = length_bytes
                .iter()
                .fold(0, |len, &byte| len << 8 | u64::from(byte));
            let least = if extended == 2 { 126 } else { 65_536 };
            if len < least {
                return Err(LengthNotMinimal);
            }
        }
        at += 2 + extended;
        let mut key = [0; 4];
        if masked {
            let Some(bytes) = stream.get(at..at + 4) else {
                return Ok(());
            };
            key.copy_from_slice(bytes);
            at += 4;
        }
        match (opcode, &mut message) {
            (0, None) => return Err(ContinuationWithoutMessage),
            (1 | 2, Some(_)) => return Err(MessageInterleaved),
            (1 | 2, none) => {
                *none = Some(Message {
                    is_text: opcode == 1,
                    bytes: Vec::new(),
                    fragments: 0,
                    empty_fragments: 0,
                });
            }
            _ => {}
        }
        if let (false, Some(message)) = (control, &mut message) {
            if message.bytes.len() as u64 + len > limits.message_bytes_max {
                return Err(MessageTooBig);
            }
            message.fragments += 1;
            if message.fragments > limits.message_fragments_max {
                return Err(FragmentFlood);
            }
            if len == 0 && !fin {
                message.empty_fragments += 1;
                if message.empty_fragments > limits.message_empty_fragments_max {
                    return Err(EmptyFragmentFlood);
                }
            }
        }
        let here = (stream.len() - at).min(len as usize);
        let payload: Vec<u8> = stream[at..at + here]
            .iter()
            .enumerate()
            .map(|(index, byte)| byte ^ key[index % 4])
            .collect();
        at += here;
        let whole = here as u64 == len;
        if control {
            if !whole {
                return Ok(());
            }
            match opcode {
                9 => seen.push(Seen::Ping(payload)),
                10 => seen.push(Seen::Pong(payload)),
                _ => {
                    seen.push(close(&payload)?);
                    return Ok(());
                }
            }
            continue;
        }
        let Some(open) = &mut message else { continue };
        open.bytes.extend(payload);
        let last = whole && fin;
        if open.is_text
            && let Err(error) = std::str::from_utf8(&open.bytes)
            && (last || error.error_len().is_some())
        {
            return Err(TextNotUtf8);
        }
        if !whole {
            return Ok(());
        }
        if let (true, Some(done)) = (last, message.take_if(|_| last)) {
            seen.push(if done.is_text {
                Seen::Text(String::from_utf8(done.bytes).expect("it was checked"))
            } else {
                Seen::Binary(done.bytes)
            });
        }
    }
    Ok(())
}

fn close(payload: &[u8]) -> Result<Seen, ProtocolError> {
    if payload.is_empty() {
        return Ok(Seen::Close(None, String::new()));
    }
    if payload.len() == 1 {
        return Err(CloseBodyTooShort);
    }
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    // Section 7.4 and the registry it started, number by number.
    let allowed = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014,
    ];
    if !allowed.contains(&code) && !(3000..5000).contains(&code) {
        return Err(CloseCodeNotAllowed(code));
    }
    match String::from_utf8(payload[2..].to_vec()) {
        Ok(reason) => Ok(Seen::Close(Some(code), reason)),
        Err(_) => Err(CloseReasonNotUtf8),
    }
}
