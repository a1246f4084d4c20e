//! Any bytes as `Sec-WebSocket-Extensions`, from a client and from a server: what is agreed on is
//! what both sides read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ringwire::proto::deflate::{
    Offer, Terms,
    negotiation::{agree, check_answer, offers},
};

const TERMS: Terms = Terms {
    bytes_min: 126,
    level: 6,
    window_bits: 15,
    context_takeover: true,
    inflate_window_bits: 15,
    inflate_context_takeover: true,
    inflate_ratio_max: 0,
    windows_bytes_max: usize::MAX,
};

fuzz_target!(|bytes: &[u8]| {
    let found: Vec<Offer> = offers(bytes.split(|&byte| byte == b'\n')).collect();
    let agreed = agree(bytes.split(|&byte| byte == b'\n'), &TERMS);
    assert_eq!(agreed.is_some(), !found.is_empty());
    if let Some(agreed) = agreed {
        assert!((8..=15).contains(&agreed.server_window_bits));
        assert!((8..=15).contains(&agreed.client_window_bits));
        let most = found[0].server_max_window_bits.unwrap_or(15);
        assert!(agreed.server_window_bits <= most);
    }
    let answered = check_answer(bytes.split(|&byte| byte == b'\n'), &[Offer::default()]);
    if let Ok(Some(agreed)) = answered {
        assert!((8..=15).contains(&agreed.server_window_bits));
        assert!((8..=15).contains(&agreed.client_window_bits));
    }
});
