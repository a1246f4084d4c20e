//! What the negotiation reads and answers, case by case and mangled.

use bytes::Bytes;

use super::{
    Agreed, ClientWindowBits, Codec, Offer, Session, Terms,
    negotiation::{AnswerError, NAME, agree, check_answer, offers},
};
use crate::proto::{Role, random::Random};

/// Everything is allowed and nothing is limited.
const OPEN: Terms = Terms {
    bytes_min: 126,
    bytes_max: usize::MAX,
    level: 6,
    window_bits: 15,
    context_takeover: true,
    inflate_window_bits: 15,
    inflate_context_takeover: true,
    inflate_ratio_max: 0,
    windows_bytes_max: usize::MAX,
};

/// The defaults of a server.
const CLOSED: Terms = Terms {
    context_takeover: false,
    inflate_context_takeover: false,
    ..OPEN
};

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    encode(&mut out);
    String::from_utf8(out).expect("ASCII")
}

/// The header that answers these lines, if there is one.
fn answer(lines: &[&str], terms: &Terms) -> Option<String> {
    let agreed = agree(lines.iter().map(|line| line.as_bytes()), terms)?;
    Some(encoded(|out| agreed.encode(out)))
}

/// As [`answer`] to one line, without the extension's name.
fn parameters(line: &str, terms: &Terms) -> Option<String> {
    let answer = answer(&[line], terms)?;
    let rest = answer.strip_prefix(NAME).expect("the extension's name");
    Some(rest.trim_start_matches("; ").to_owned())
}

#[test]
fn section_7_1_offers_and_what_they_are_answered() {
    let cases: &[(&str, &str, &str)] = &[
        // (parameters, the answer of an open server, the answer of a closed one)
        (
            "",
            "",
            "server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "; client_max_window_bits",
            "",
            "server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "; server_no_context_takeover",
            "server_no_context_takeover",
            "server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "; client_no_context_takeover",
            "client_no_context_takeover",
            "server_no_context_takeover; client_no_context_takeover",
        ),
        (
            "; server_max_window_bits=10",
            "server_max_window_bits=10",
            "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10",
        ),
        (
            "; server_max_window_bits=15",
            "server_max_window_bits=15",
            "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15",
        ),
        (
            "; server_max_window_bits=8",
            "server_max_window_bits=8",
            "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=8",
        ),
        (
            "; client_max_window_bits=9",
            "client_max_window_bits=9",
            "server_no_context_takeover; client_no_context_takeover; client_max_window_bits=9",
        ),
        (
            ";client_max_window_bits = \"8\" ;\tserver_max_window_bits=\"1\\1\"",
            "server_max_window_bits=11; client_max_window_bits=8",
            "server_no_context_takeover; client_no_context_takeover; server_max_window_bits=11; \
             client_max_window_bits=8",
        ),
    ];
    for (sent, open, closed) in cases {
        let line = format!("{NAME}{sent}");
        assert_eq!(parameters(&line, &OPEN).as_deref(), Some(*open), "{sent}");
        assert_eq!(
            parameters(&line, &CLOSED).as_deref(),
            Some(*closed),
            "{sent}"
        );
    }
}

#[test]
fn section_7_1_every_combination_of_parameters_is_agreed_to() {
    let bits = || [None].into_iter().chain((8..=15).map(Some));
    let mut combinations = 0;
    for server_bits in bits() {
        for client_bits in bits().map(|bits| bits.map(Some)).chain([Some(None)]) {
            for flags in 0..4 {
                let offer = Offer {
                    server_no_context_takeover: flags & 1 != 0,
                    client_no_context_takeover: flags & 2 != 0,
                    server_max_window_bits: server_bits,
                    client_max_window_bits: match client_bits {
                        None => ClientWindowBits::Unlimited,
                        Some(None) => ClientWindowBits::Any,
                        Some(Some(bits)) => ClientWindowBits::AtMost(bits),
                    },
                };
                for terms in [OPEN, CLOSED, limited(12, 9), limited(8, 15)] {
                    combinations += 1;
                    check_both_sides(&offer, &terms);
                }
            }
        }
    }
    assert_eq!(combinations, 9 * 10 * 4 * 4);
}

fn limited(window_bits: u8, inflate_window_bits: u8) -> Terms {
    Terms {
        window_bits,
        inflate_window_bits,
        ..OPEN
    }
}

/// Offers, answers, and checks that both sides mean the same by it.
fn check_both_sides(offer: &Offer, terms: &Terms) {
    let header = encoded(|out| offer.encode(out));
    let read: Vec<Offer> = offers([header.as_bytes()].into_iter()).collect();
    assert_eq!(read, [*offer], "{header}");
    let lines = [header.as_bytes()];
    let server = agree(lines.into_iter(), terms).expect("a valid offer is agreed to");
    let answer = encoded(|out| server.encode(out));
    let client = check_answer([answer.as_bytes()].into_iter(), &[*offer]);
    assert_eq!(client, Ok(Some(server)), "{header} was answered {answer}");
    assert!(server.server_window_bits <= offer.server_max_window_bits.unwrap_or(15));
    assert!(server.server_window_bits <= terms.window_bits);
    if offer.client_max_window_bits != ClientWindowBits::Unlimited {
        assert!(server.client_window_bits <= terms.inflate_window_bits);
    }
    let takeover = terms.context_takeover && !offer.server_no_context_takeover;
    assert_eq!(server.server_context_takeover, takeover);
    let takeover = terms.inflate_context_takeover && !offer.client_no_context_takeover;
    assert_eq!(server.client_context_takeover, takeover);
}

#[test]
fn section_7_1_invalid_offers_are_declined_and_the_next_one_is_looked_at() {
    let declined = [
        "x-webkit-deflate-frame",
        "permessage-bzip2; client_max_window_bits",
        "Permessage-Deflate",
        "permessage-deflate; unknown",
        "permessage-deflate; unknown=1",
        "permessage-deflate;",
        "permessage-deflate; ;client_max_window_bits",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
        "permessage-deflate; client_max_window_bits=9; client_max_window_bits",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover=",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=9.0",
        "permessage-deflate; server_max_window_bits=115",
        "permessage-deflate; server_max_window_bits=\"9",
        "permessage-deflate; server_max_window_bits=9\"",
        "permessage-deflate; server_max_window_bits=\"\"",
        "permessage-deflate; server_max_window_bits=\"1\"1\"",
        "permessage-deflate; server_max_window_bits=\"10\\\"",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=\u{b9}",
        "permessage-deflate, ",
    ];
    for offer in &declined[..declined.len() - 1] {
        assert_eq!(answer(&[offer], &OPEN), None, "{offer}");
        // A quote that is not closed reaches to the end of its line.
        if offer.matches('"').count() % 2 == 0 && !offer.contains('\\') {
            let two = format!("{offer}, {NAME}; server_max_window_bits=10");
            assert_eq!(
                parameters(&two, &OPEN).as_deref(),
                Some("server_max_window_bits=10")
            );
        }
        let lines = [*offer, "a, permessage-deflate"];
        assert_eq!(answer(&lines, &OPEN).as_deref(), Some(NAME), "{offer}");
    }
    assert_eq!(answer(&[], &OPEN), None);
    assert_eq!(answer(&["", " , ,"], &OPEN), None);
    // A separator inside of quotes separates nothing.
    let quoted = "permessage-deflate; unknown=\"a, permessage-deflate; b\"";
    assert_eq!(answer(&[quoted], &OPEN), None);
    // The first valid one counts, whatever a later one would give.
    let two = "permessage-deflate; server_no_context_takeover, permessage-deflate";
    assert_eq!(
        parameters(two, &OPEN).as_deref(),
        Some("server_no_context_takeover")
    );
}

#[test]
fn section_7_1_answers_that_a_client_has_to_fail() {
    use AnswerError::{Malformed, NotOffered};
    let any = Offer::default();
    let strict = Offer {
        server_no_context_takeover: true,
        server_max_window_bits: Some(10),
        client_max_window_bits: ClientWindowBits::AtMost(11),
        ..any
    };
    let unlimited = Offer {
        client_max_window_bits: ClientWindowBits::Unlimited,
        ..any
    };
    let cases: &[(&[Offer], &str, Option<AnswerError>)] = &[
        (&[], "", None),
        (&[], "permessage-deflate", Some(NotOffered)),
        (&[any], "", None),
        (&[any], "permessage-deflate", None),
        (
            &[any],
            "permessage-deflate; client_no_context_takeover",
            None,
        ),
        (
            &[any],
            "permessage-deflate; server_no_context_takeover",
            None,
        ),
        (&[any], "permessage-deflate; server_max_window_bits=8", None),
        (
            &[any],
            "permessage-deflate; client_max_window_bits=\"8\"",
            None,
        ),
        (
            &[any],
            "permessage-deflate; client_max_window_bits",
            Some(NotOffered),
        ),
        (
            &[any],
            "permessage-deflate; server_max_window_bits",
            Some(Malformed),
        ),
        (
            &[any],
            "permessage-deflate; server_max_window_bits=16",
            Some(Malformed),
        ),
        (&[any], "permessage-deflate; unknown", Some(Malformed)),
        (
            &[any],
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            Some(Malformed),
        ),
        (&[any], "permessage-bzip2", Some(NotOffered)),
        (
            &[any],
            "permessage-deflate, permessage-deflate",
            Some(NotOffered),
        ),
        (&[any], "permessage-deflate, other", Some(NotOffered)),
        (
            &[unlimited],
            "permessage-deflate; client_max_window_bits=15",
            Some(NotOffered),
        ),
        (&[unlimited], "permessage-deflate", None),
        (&[strict], "permessage-deflate", Some(NotOffered)),
        (
            &[strict],
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=10",
            None,
        ),
        (
            &[strict],
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=11",
            Some(NotOffered),
        ),
        (
            &[strict],
            "permessage-deflate; server_max_window_bits=10",
            Some(NotOffered),
        ),
        (
            &[strict],
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=9; \
             client_max_window_bits=12",
            Some(NotOffered),
        ),
        // It follows from the second offer.
        (&[strict, unlimited], "permessage-deflate", None),
    ];
    for (offered, answer, expected) in cases {
        let checked = check_answer([answer.as_bytes()].into_iter(), offered);
        assert_eq!(checked.err(), *expected, "{answer} to {offered:?}");
    }
    let hinted = Offer {
        client_no_context_takeover: true,
        client_max_window_bits: ClientWindowBits::AtMost(9),
        ..any
    };
    // What a client said that it will do holds, whatever the server repeats of it.
    let agreed = check_answer([NAME.as_bytes()].into_iter(), &[hinted]);
    let agreed = agreed.unwrap().unwrap();
    assert!(!agreed.client_context_takeover && agreed.server_context_takeover);
    assert_eq!(
        (agreed.client_window_bits, agreed.server_window_bits),
        (9, 15)
    );
}

#[test]
fn mutated_headers_never_panic_and_agree_only_on_what_both_sides_read_alike() {
    const PIECES: [&str; 22] = [
        "permessage-deflate",
        "server_no_context_takeover",
        "client_no_context_takeover",
        "server_max_window_bits",
        "client_max_window_bits",
        ";",
        ";",
        ";",
        "; ",
        ",",
        ", ",
        "=",
        "=",
        "\"",
        "\\",
        " ",
        "8",
        "15",
        "=10",
        "=\"9\"",
        "x",
        "\u{e4}",
    ];
    let mut random = Random(7692);
    let (mut agreed_on, mut declined, mut refused) = (0, 0, 0);
    for _ in 0..60_000 {
        let mut line = String::new();
        if random.below(4) > 0 {
            line.push_str(NAME);
        }
        for _ in 0..random.below(9) {
            line.push_str(PIECES[random.below(PIECES.len())]);
        }
        let mut bytes = line.into_bytes();
        if random.below(3) == 0 && !bytes.is_empty() {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        let shown = bytes.escape_ascii();
        let found: Vec<Offer> = offers([&bytes[..]].into_iter()).collect();
        let agreed = agree([&bytes[..]].into_iter(), &OPEN);
        assert_eq!(agreed.is_some(), !found.is_empty(), "{shown}");
        match agreed {
            None => declined += 1,
            Some(agreed) => {
                agreed_on += 1;
                assert!(found.iter().all(Offer::is_valid), "{shown}");
                let answer = encoded(|out| agreed.encode(out));
                let checked = check_answer([answer.as_bytes()].into_iter(), &found[..1]);
                assert_eq!(checked, Ok(Some(agreed)), "{shown}");
            }
        }
        // The same bytes as an answer.
        match check_answer([&bytes[..]].into_iter(), &[Offer::default()]) {
            Ok(Some(agreed)) => {
                assert!((8..=15).contains(&agreed.server_window_bits), "{shown}");
                assert!((8..=15).contains(&agreed.client_window_bits), "{shown}");
            }
            Ok(None) => assert!(bytes.iter().all(|byte| b" ,\t".contains(byte)), "{shown}"),
            Err(_) => refused += 1,
        }
    }
    assert!(
        agreed_on > 3000 && declined > 10_000 && refused > 10_000,
        "{agreed_on} agreed on, {declined} declined, {refused} refused"
    );
}

#[test]
fn windows_are_agreed_on_while_there_is_memory_for_them() {
    let terms = Terms {
        window_bits: 12,
        inflate_window_bits: 10,
        windows_bytes_max: 2 * ((1 << 12) + (1 << 10)),
        ..OPEN
    };
    let mut codec = Codec::new(terms);
    let open = |codec: &mut Codec, offer: &str| {
        let agreed = codec
            .agree([offer.as_bytes()].into_iter())
            .expect("a valid offer");
        (agreed, codec.join(Role::Server, &agreed))
    };
    const ANY: &str = "permessage-deflate; client_max_window_bits";
    let takes_over = |agreed: &Agreed| {
        assert_eq!(
            agreed.server_context_takeover,
            agreed.client_context_takeover
        );
        agreed.server_context_takeover
    };
    // This one cannot be told, and has 32 KiB on its side: more than there is.
    let (agreed, unlimited) = open(&mut codec, "permessage-deflate");
    assert!(!takes_over(&agreed));
    let (agreed, first) = open(&mut codec, ANY);
    assert!(takes_over(&agreed));
    let (agreed, second) = open(&mut codec, ANY);
    assert!(takes_over(&agreed));
    let (agreed, third) = open(&mut codec, ANY);
    assert!(!takes_over(&agreed));
    let tally = codec.tally();
    assert_eq!((tally.connections, tally.windows_refused), (4, 2));
    assert_eq!(tally.windows_bytes, terms.windows_bytes_max as u64);
    codec.leave(&first);
    let (agreed, fourth) = open(&mut codec, ANY);
    assert!(takes_over(&agreed));
    for session in [unlimited, second, third, fourth] {
        codec.leave(&session);
    }
    assert_eq!(codec.tally().windows_bytes, 0);
}

#[test]
fn what_a_connection_keeps_without_context_is_small() {
    assert_eq!(size_of::<Session>(), 32);
    assert_eq!(size_of::<Option<Box<Session>>>(), 8);
}

#[test]
fn a_payload_for_many_is_compressed_once_for_each_window() {
    let mut codec = Codec::new(CLOSED);
    let mut open = |offer: &str| {
        let agreed = codec
            .agree([offer.as_bytes()].into_iter())
            .expect("a valid offer");
        codec.join(Role::Server, &agreed)
    };
    let wide = [open(NAME), open(NAME)];
    let narrow = open("permessage-deflate; server_max_window_bits=9");
    let payload = Bytes::from("one for all, ".repeat(100));
    let first = codec
        .deflate_shared(&wide[0], &payload)
        .expect("it gets shorter");
    let second = codec
        .deflate_shared(&wide[1], &payload.clone())
        .expect("it gets shorter");
    assert_eq!(first.as_ptr(), second.as_ptr());
    let other = codec
        .deflate_shared(&narrow, &payload)
        .expect("it gets shorter");
    assert_ne!(first.as_ptr(), other.as_ptr());
    let third = codec
        .deflate_shared(&wide[0], &payload)
        .expect("it gets shorter");
    assert_eq!(first.as_ptr(), third.as_ptr());
    // The same bytes elsewhere are another payload, and so are those that come after.
    let copy = Bytes::copy_from_slice(&payload);
    let copied = codec
        .deflate_shared(&wide[0], &copy)
        .expect("it gets shorter");
    assert_ne!(first.as_ptr(), copied.as_ptr());
    assert_eq!(first, copied);
    codec.forget_shared();
    let later = codec
        .deflate_shared(&wide[0], &copy)
        .expect("it gets shorter");
    assert_ne!(copied.as_ptr(), later.as_ptr());
    // What does not get shorter is tried once as well.
    let mut random = Random(1);
    let noise: Vec<u8> = (0..2000).map(|_| random.below(256) as u8).collect();
    let noise = Bytes::from(noise);
    assert_eq!(codec.deflate_shared(&wide[0], &noise), None);
    assert_eq!(codec.deflate_shared(&wide[1], &noise), None);
    assert_eq!(codec.tally().deflated_messages, 6);
}
