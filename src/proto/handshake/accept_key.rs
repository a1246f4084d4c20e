//! `Sec-WebSocket-Accept`: the proof that the server understood the opening handshake.
//!
//! Knows SHA-1 and base64 as RFC 6455 section 4.2.2 combines them. Refuses to know where a key came
//! from or whether it was well formed.
//!
//! ```text
//!  key (24 bytes of base64) ++ GUID --> SHA-1 (20 bytes) --> base64 (28 bytes)
//! ```

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// The GUID of RFC 6455 section 1.3: a constant that no server answers by accident.
pub const GUID: &[u8; 36] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The length of a `Sec-WebSocket-Accept` value: 20 bytes in base64.
pub const ACCEPT_KEY_LEN: usize = 28;

/// The `Sec-WebSocket-Accept` value for the `Sec-WebSocket-Key` value `key`, exactly as the key was
/// sent: it is hashed as text and never decoded (RFC 6455 section 4.2.2, step 5.4).
pub fn accept_key(key: &[u8]) -> [u8; ACCEPT_KEY_LEN] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut accept = [0; ACCEPT_KEY_LEN];
    let written = STANDARD.encode_slice(digest, &mut accept);
    debug_assert_eq!(written, Ok(ACCEPT_KEY_LEN), "20 bytes are 28 in base64");
    accept
}

#[cfg(test)]
mod tests {
    use super::accept_key;

    #[test]
    fn section_1_3_and_a_recorded_exchange() {
        let cases: [(&str, &str); 2] = [
            ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("uRovscZjNol/umbTt5uKmw==", "rLHCkw/SKsO9GAH/ZSFhBATDKrU="),
        ];
        for (key, accept) in cases {
            assert_eq!(accept_key(key.as_bytes()), accept.as_bytes(), "{key}");
        }
    }
}
