//! Frames as bytes, written without the code under test.

use ringwire::proto::Role;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

pub const FIN: u8 = 0x80;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame's header, masked if a client sends it, with the shortest length.
pub fn header(sender: Role, first: u8, len: u64) -> Vec<u8> {
    let mask = if sender == Role::Client { 0x80 } else { 0 };
    let mut bytes = vec![first];
    if len < 126 {
        bytes.push(mask | len as u8);
    } else if len < 65_536 {
        bytes.push(mask | 126);
        bytes.extend((len as u16).to_be_bytes());
    } else {
        bytes.push(mask | 127);
        bytes.extend(len.to_be_bytes());
    }
    if sender == Role::Client {
        bytes.extend(KEY);
    }
    bytes
}

/// A whole frame.
pub fn frame(sender: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(sender, first, payload.len() as u64);
    let masked = payload.iter().zip(KEY.iter().cycle());
    match sender {
        Role::Client => bytes.extend(masked.map(|(byte, key)| byte ^ key)),
        Role::Server => bytes.extend(payload),
    }
    bytes
}

/// The payload of a close frame.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(reason.as_bytes());
    payload
}

pub fn other(role: Role) -> Role {
    match role {
        Role::Client => Role::Server,
        Role::Server => Role::Client,
    }
}
