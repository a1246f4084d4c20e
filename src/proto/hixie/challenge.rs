//! The opening handshake of the draft (hybi-00 sections 5.1 and 5.2): two keys in the head, eight
//! bytes behind it, and the MD5 of all three in answer.
//!
//! Knows which requests are of this kind and what they are answered. Refuses to know when the eight
//! bytes come.
//!
//! ```text
//!  Sec-WebSocket-Key1: digits / spaces --> 4 bytes --+
//!  Sec-WebSocket-Key2: digits / spaces --> 4 bytes --+--> MD5 --> 16 bytes behind the 101
//!                           behind the head, 8 bytes -+
//! ```
//!
//! The 101 can be written before the eight bytes have come, and should be: a proxy that takes them
//! for the beginning of the upgraded stream, as HAProxy does, holds them back until it has seen the
//! 101, and a server that waits for them first waits for ever.

use md5::{Digest, Md5};

use super::super::handshake::{
    Answer, HandshakeError, ReplyHeaders, Request, Upgrade, head::Occurrence, request, response,
};

/// Bytes behind the head of the request.
const BODY_BYTES: usize = 8;

const REASON_PHRASE: &str = "WebSocket Protocol Handshake";

/// Whether a request asks for this protocol, well formed or not: it has one of the two keys, and no
/// version, which came later.
pub fn is_opening(request: &Request<'_>) -> bool {
    let has = |name| request.header(name).is_some();
    request.is_upgrade()
        && (has("sec-websocket-key1") || has("sec-websocket-key2"))
        && !has("sec-websocket-version")
}

/// Decides whether a request of this kind is a valid opening handshake, as
/// [`check_upgrade`](super::super::handshake::check_upgrade) does for RFC 6455.
///
/// # Errors
///
/// [`HandshakeError`]: whatever is wrong with it as an upgrade, and
/// [`ChallengeInvalid`](HandshakeError::ChallengeInvalid) unless both keys are there once, each
/// with a number that is a multiple of its count of spaces. Without spaces it would be the symptom
/// of an attack across protocols (section 5.2, step 5).
pub fn check_opening<'a>(request: &'a Request<'a>) -> Result<Upgrade<'a>, HandshakeError> {
    request::check_hop(request)?;
    let number = |name| match request.headers().only(name) {
        Occurrence::Once(key) => key_number(key).ok_or(HandshakeError::ChallengeInvalid),
        Occurrence::Missing | Occurrence::Repeated => Err(HandshakeError::ChallengeInvalid),
    };
    let challenge = Challenge::new(number("sec-websocket-key1")?, number("sec-websocket-key2")?);
    Ok(Upgrade::of_hixie76(request, challenge))
}

/// The digits of a key as a number, divided by the count of its spaces.
fn key_number(key: &[u8]) -> Option<u32> {
    let digits = key.iter().filter(|byte| byte.is_ascii_digit());
    let mut number = None;
    for digit in digits {
        let more = u64::from(digit - b'0');
        number = Some(number.unwrap_or(0u64).checked_mul(10)?.checked_add(more)?);
    }
    let number = number?;
    let spaces = key.iter().filter(|&&byte| byte == b' ').count() as u64;
    if spaces == 0 || !number.is_multiple_of(spaces) {
        return None;
    }
    u32::try_from(number / spaces).ok()
}

/// What a client wants to see proven: that its whole handshake was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The numbers of both keys, then the bytes behind the head.
    block: [u8; 2 * 4 + BODY_BYTES],
    len: u8,
}

impl Challenge {
    fn new(number_1: u32, number_2: u32) -> Self {
        let mut block = [0; 2 * 4 + BODY_BYTES];
        block[..4].copy_from_slice(&number_1.to_be_bytes());
        block[4..8].copy_from_slice(&number_2.to_be_bytes());
        Self { block, len: 8 }
    }

    /// Takes what follows the head of the request. Once all eight bytes have come, returns how many
    /// of *these* bytes belong to them, and the answer: sixteen bytes that follow the head of the
    /// reply. What is behind them is the first frame.
    pub fn push(&mut self, bytes: &[u8]) -> Option<(usize, [u8; 16])> {
        let at = usize::from(self.len);
        let count = bytes.len().min(self.block.len() - at);
        self.block[at..at + count].copy_from_slice(&bytes[..count]);
        self.len += count as u8;
        let complete = usize::from(self.len) == self.block.len();
        complete.then(|| (count, Md5::digest(self.block).into()))
    }
}

/// Appends the head of the 101 that accepts an opening handshake. The answer to its
/// [`Challenge`] is to follow.
///
/// `secure` tells whether the connection is encrypted: the client compares the URL that it dialled
/// with `Sec-WebSocket-Location`. It also counts as encrypted when a proxy says so by
/// `X-Forwarded-Proto`; who lies there keeps only himself out.
pub fn encode_head(
    out: &mut Vec<u8>,
    request: &Request<'_>,
    secure: bool,
    answer: &Answer,
    reply: &ReplyHeaders<'_>,
) {
    out.reserve(320 + answer.fields().len());
    out.extend_from_slice(b"HTTP/1.1 101 ");
    let reason_phrase = answer.reason_phrase().unwrap_or(REASON_PHRASE);
    out.extend_from_slice(reason_phrase.as_bytes());
    // The client compares both values with these, to the letter.
    out.extend_from_slice(b"\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n");
    if let Some(origin) = request.origin() {
        let origin = origin.to_ascii_lowercase();
        response::push_field(out, "Sec-WebSocket-Origin", origin.as_bytes());
    }
    let scheme = if secure || is_forwarded_as_secure(request) {
        "wss"
    } else {
        "ws"
    };
    let host = request.host().unwrap_or_default().to_ascii_lowercase();
    let (path, query) = (request.path(), request.query());
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    let location = format!("{scheme}://{host}{path}{query}");
    response::push_field(out, "Sec-WebSocket-Location", location.as_bytes());
    if let Some(subprotocol) = answer.subprotocol() {
        response::push_field(out, "Sec-WebSocket-Protocol", subprotocol.as_bytes());
    }
    reply.encode(out);
    out.extend_from_slice(answer.fields());
    out.extend_from_slice(b"\r\n");
}

fn is_forwarded_as_secure(request: &Request<'_>) -> bool {
    let forwarded = request.header("x-forwarded-proto").unwrap_or_default();
    let schemes: [&[u8]; 2] = [b"https", b"wss"];
    schemes
        .iter()
        .any(|scheme| forwarded.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use super::super::super::{
        Version,
        handshake::{Proof, check_upgrade},
    };
    use super::*;

    /// The example that opens the draft, section 1.2.
    const SECTION_1_2: &str = "GET /demo HTTP/1.1\r\n\
        Host: example.com\r\n\
        Connection: Upgrade\r\n\
        Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n\
        Sec-WebSocket-Protocol: sample\r\n\
        Upgrade: WebSocket\r\n\
        Sec-WebSocket-Key1: 4 @1  46546xW%0l 1 5\r\n\
        Origin: http://example.com\r\n\r\n";

    fn checked(head: &str) -> Result<Challenge, HandshakeError> {
        let request = Request::parse(head.as_bytes()).expect(head);
        assert!(is_opening(&request), "{head}");
        let upgrade = check_opening(&request)?;
        assert_eq!((upgrade.version(), upgrade.key()), (Version::Hixie76, None));
        match upgrade.proof() {
            Proof::Challenge(challenge) => Ok(challenge),
            Proof::AcceptKey(_) => panic!("an accept key for {head}"),
        }
    }

    fn head_of(head: &str, secure: bool, answer: &Answer) -> String {
        let request = Request::parse(head.as_bytes()).expect(head);
        let mut out = Vec::new();
        let reply = ReplyHeaders::default();
        encode_head(&mut out, &request, secure, answer, &reply);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn section_1_2_example() {
        let mut challenge = checked(SECTION_1_2).unwrap();
        let (used, answer) = challenge.push(b"^n:ds[4U\x00first\xFF").unwrap();
        assert_eq!((used, &answer), (8, b"8jKS'y:G*Co,Wxa-"));
        let request = Request::parse(SECTION_1_2.as_bytes()).unwrap();
        let upgrade = check_opening(&request).unwrap();
        assert!(upgrade.subprotocols().eq(["sample"]));
        let mut answer = Answer::new();
        answer.choose_subprotocol(&upgrade, "sample").unwrap();
        answer.add_header("Set-Cookie", "a=1").unwrap();
        assert_eq!(
            head_of(SECTION_1_2, false, &answer),
            "HTTP/1.1 101 WebSocket Protocol Handshake\r\n\
             Upgrade: WebSocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Origin: http://example.com\r\n\
             Sec-WebSocket-Location: ws://example.com/demo\r\n\
             Sec-WebSocket-Protocol: sample\r\n\
             Set-Cookie: a=1\r\n\r\n"
        );
        // It is nothing to RFC 6455.
        let error = check_upgrade(&request).err();
        assert_eq!(error, Some(HandshakeError::VersionUnsupported));
    }

    #[test]
    fn sections_1_3_and_5_2_examples() {
        let cases = [
            (
                "18x 6]8vM;54 *(5:  {   U1]8  z [  8",
                "1_ tx7X d  <  nw  334J702) 7]o}` 0",
                [155_712_099, 173_347_027],
                b"Tm[K T2u",
                b"fQJ,fN/4F4!~K~MH",
            ),
            (
                "3e6b263  4 17 80",
                "17  9 G`ZD9   2 2b 7X 3 /r90",
                [906_585_445, 179_922_739],
                b"WjN}|M(6",
                b"n`9eBk9z$R8pOtVb",
            ),
        ];
        for (key_1, key_2, numbers, body, answer) in cases {
            let parts = [key_1, key_2].map(|key| key_number(key.as_bytes()));
            assert_eq!(parts, numbers.map(Some));
            let mut challenge = Challenge::new(numbers[0], numbers[1]);
            for (index, byte) in body.iter().enumerate() {
                let answered = challenge.push(&[*byte]);
                let expected = (index == 7).then_some((1, *answer));
                assert_eq!(answered, expected, "{index}");
            }
        }
    }

    #[test]
    fn keys_that_prove_nothing() {
        let with = |key: &str| {
            let head = SECTION_1_2.replace("12998 5 Y3 1  .P00", key);
            checked(&head).err()
        };
        let invalid = Some(HandshakeError::ChallengeInvalid);
        for key in [
            "",
            "no digits",
            "12345",
            "1 2 3",
            "99999999999999999999999 9",
            "4294967296 0 0 0 ",
            "42949672960 a",
        ] {
            assert_eq!(with(key), invalid, "{key:?}");
        }
        assert_eq!(
            with("4294967295 "),
            invalid,
            "a space at the end is trimmed"
        );
        assert_eq!(with("4294967295 a"), None);
        let line = "Sec-WebSocket-Key2: 12998 5 Y3 1  .P00\r\n";
        let missing = SECTION_1_2.replace(line, "");
        assert_eq!(checked(&missing).err(), invalid);
        let twice = SECTION_1_2.replace(line, &line.repeat(2));
        assert_eq!(checked(&twice).err(), invalid);
    }

    #[test]
    fn what_is_wrong_with_any_upgrade_is_wrong_with_this_one() {
        use HandshakeError::*;
        for (from, to, error) in [
            ("GET", "POST", MethodNotAllowed),
            (
                "Upgrade: W",
                "Content-Length: 8\r\nUpgrade: W",
                BodyNotAllowed,
            ),
            ("HTTP/1.1", "HTTP/1.0", UpgradeOverHttp10),
            (
                "Connection: Upgrade",
                "Connection: close",
                ConnectionWithoutUpgrade,
            ),
        ] {
            let head = SECTION_1_2.replacen(from, to, 1);
            assert_eq!(checked(&head).err(), Some(error), "{to}");
        }
    }

    #[test]
    fn requests_of_another_kind() {
        for (from, to) in [
            ("Upgrade: WebSocket", "Upgrade: h2c"),
            ("Origin", "Sec-WebSocket-Version: 13\r\nOrigin"),
            ("Sec-WebSocket-Key", "X-Key"),
        ] {
            let head = SECTION_1_2.replace(from, to);
            let request = Request::parse(head.as_bytes()).unwrap();
            assert!(!is_opening(&request), "{to}");
        }
    }

    #[test]
    fn the_location_is_the_url_that_the_client_dialled() {
        let cases = [
            (
                "GET /demo ",
                "GET /a?b=c&d ",
                false,
                "ws://example.com/a?b=c&d",
            ),
            (
                "GET /demo ",
                "GET ws://example.com?x ",
                false,
                "ws://example.com/?x",
            ),
            (
                "Host: example.com",
                "Host: EXAMPLE.com:81",
                false,
                "ws://example.com:81/demo",
            ),
            ("Host", "Host", true, "wss://example.com/demo"),
            (
                "Host",
                "X-Forwarded-Proto: https\r\nHost",
                false,
                "wss://example.com/demo",
            ),
            (
                "Host",
                "X-Forwarded-Proto: http\r\nHost",
                false,
                "ws://example.com/demo",
            ),
        ];
        for (from, to, secure, location) in cases {
            let head = SECTION_1_2.replacen(from, to, 1);
            let reply = head_of(&head, secure, &Answer::new());
            let line = format!("\r\nSec-WebSocket-Location: {location}\r\n");
            assert!(reply.contains(&line), "{location}\n{reply}");
        }
        let head = SECTION_1_2.replace("Origin: http://example.com\r\n", "");
        let reply = head_of(&head, false, &Answer::new());
        assert!(!reply.contains("Sec-WebSocket-Origin"), "{reply}");
    }
}
