//! Any bytes as `Sec-WebSocket-Extensions`, from a client and from a server: what is agreed on is
//! what both sides read.

use ringwire::proto::deflate::{
    Agreed, Offer,
    negotiation::{agree, check_answer, offers},
};

use crate::{Tally, side::TERMS};

/// Reads the bytes as offers and as an answer.
pub fn run(bytes: &[u8]) -> Tally {
    let lines = || bytes.split(|&byte| byte == b'\n');
    let found: Vec<Offer> = offers(lines()).collect();
    let agreed = agree(lines(), &TERMS);
    assert_eq!(agreed.is_some(), !found.is_empty());
    let mut tally = Tally::default();
    if let Some(agreed) = agreed {
        assert!((8..=15).contains(&agreed.server_window_bits));
        assert!((8..=15).contains(&agreed.client_window_bits));
        let most = found[0].server_max_window_bits.unwrap_or(15);
        assert!(agreed.server_window_bits <= most);
        // The client that offered this understands the answer as it was meant.
        let answer = answer(&found[0], &agreed);
        let read = check_answer([answer.as_bytes()].into_iter(), &found[..1]);
        assert_eq!(read, Ok(Some(agreed)), "{answer}");
        tally.accepted += 1;
    } else {
        tally.refused += 1;
    }
    match check_answer(lines(), &[Offer::default()]) {
        Ok(Some(agreed)) => {
            assert!((8..=15).contains(&agreed.server_window_bits));
            assert!((8..=15).contains(&agreed.client_window_bits));
            tally.accepted += 1;
        }
        Ok(None) => {}
        Err(_) => tally.refused += 1,
    }
    tally
}

/// What was agreed on, as RFC 7692 section 7.1 writes it.
fn answer(offer: &Offer, agreed: &Agreed) -> String {
    let mut answer = "permessage-deflate".to_owned();
    if !agreed.server_context_takeover {
        answer += "; server_no_context_takeover";
    }
    if !agreed.client_context_takeover {
        answer += "; client_no_context_takeover";
    }
    if offer.server_max_window_bits.is_some() || agreed.server_window_bits < 15 {
        answer += &format!("; server_max_window_bits={}", agreed.server_window_bits);
    }
    if agreed.client_window_bits < 15 {
        answer += &format!("; client_max_window_bits={}", agreed.client_window_bits);
    }
    answer
}
