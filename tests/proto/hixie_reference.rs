//! The framing of hixie-76 once more, without the code under test.

use ringwire::{
    ProtocolError::{self, *},
    proto::Limits,
};

use crate::side::Seen;

/// The draft once more, as plainly as possible: the whole stream at once, text checked by the
/// standard library.
pub fn decode(limits: &Limits, stream: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    if let Err(error) = decode_into(limits, stream, &mut seen) {
        seen.push(Seen::Failed(error));
    }
    seen
}

fn decode_into(limits: &Limits, stream: &[u8], seen: &mut Vec<Seen>) -> Result<(), ProtocolError> {
    let most = limits.message_bytes_max as usize;
    let mut at = 0;
    while let Some(&frame_type) = stream.get(at) {
        at += 1;
        match frame_type {
            0x00 => {
                let rest = &stream[at..];
                let end = rest.iter().position(|&byte| byte == 0xFF);
                let bytes = &rest[..end.unwrap_or(rest.len())];
                let within = &bytes[..bytes.len().min(most)];
                let broken = |error: std::str::Utf8Error| error.error_len().is_some();
                if std::str::from_utf8(within).is_err_and(broken) {
                    return Err(TextNotUtf8);
                }
                if bytes.len() > most {
                    return Err(MessageTooBig);
                }
                let Some(end) = end else { return Ok(()) };
                let text = String::from_utf8(bytes.to_vec()).map_err(|_| TextNotUtf8)?;
                seen.push(Seen::Text(text));
                at += end + 1;
            }
            0x80 => {
                let mut len = 0usize;
                let mut first = true;
                loop {
                    let Some(&byte) = stream.get(at) else {
                        return Ok(());
                    };
                    at += 1;
                    if first && byte == 0x80 {
                        return Err(LengthNotMinimal);
                    }
                    first = false;
                    len = len * 128 + usize::from(byte % 128);
                    if len > most {
                        return Err(MessageTooBig);
                    }
                    if byte < 128 {
                        break;
                    }
                }
                let Some(payload) = stream.get(at..at + len) else {
                    return Ok(());
                };
                seen.push(Seen::Binary(payload.to_vec()));
                at += len;
            }
            0xFF => match stream.get(at) {
                None => return Ok(()),
                Some(0) => {
                    seen.push(Seen::Close(None, String::new()));
                    return Ok(());
                }
                Some(_) => return Err(OpcodeReserved(0xFF)),
            },
            other => return Err(OpcodeReserved(other)),
        }
    }
    Ok(())
}
