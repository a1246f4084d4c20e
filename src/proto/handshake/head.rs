//! Where an HTTP/1.1 head ends, and what its header lines say.
//!
//! Knows the message syntax of RFC 9112 that requests and responses share. Refuses to know what any
//! header means, and keeps none of the bytes: the scanner is eight bytes of state, so a head that
//! arrives a byte at a time costs one look at each byte and no buffer of the scanner's own.
//!
//! ```text
//!  GET /chat HTTP/1.1\r\n Host: a\r\n \r\n first frame ...
//!  '--- start line ----'  '- line -'  '--'
//!  '------- the head, Some(length) -------'
//! ```

use super::HandshakeError;

/// The most header lines a head may have. A browser sends about 15; proxies add a few.
pub const HEADERS_MAX: usize = 100;

/// Finds the end of a head in bytes that arrive in pieces, and refuses what can never become one.
///
/// The first violation wins and does not depend on how the bytes were cut into pieces. After an
/// error every further call returns the same error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HeadScanner {
    seen_bytes: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Start,
    /// The CR of an empty line before the start line.
    EmptyLine,
    AfterEmptyLine,
    /// The content type of a TLS record; the next byte decides.
    TlsRecord,
    StartLine,
    StartLineEnd,
    LineStart,
    Line,
    LineEnd,
    /// The CR of the empty line that ends the head.
    HeadEnd,
    Done,
    Failed(HandshakeError),
}

impl HeadScanner {
    /// A scanner that has seen nothing.
    pub const fn new() -> HeadScanner {
        HeadScanner {
            seen_bytes: 0,
            state: State::Start,
        }
    }

    /// How many bytes of the head were seen so far: all of it once [`push`](Self::push) returned
    /// `Some`.
    pub const fn seen_bytes(&self) -> usize {
        self.seen_bytes as usize
    }

    /// Looks at newly arrived bytes, each of which must be given exactly once.
    ///
    /// `Some(n)` says that the head is complete and that the first `n` of *these* bytes belong to
    /// it; the rest is what follows the head. `None` asks for more.
    ///
    /// # Errors
    ///
    /// At the earliest byte that shows it: a line end other than CR LF, a control character, a
    /// first byte that cannot begin a start line (with a sentence of its own for TLS), a folded or
    /// nameless header line, more than one empty line before the start line (RFC 9112 section 2.2
    /// asks servers to ignore at least one), or `head_bytes_max` bytes that do not end in an empty
    /// line.
    pub fn push(
        &mut self,
        bytes: &[u8],
        head_bytes_max: usize,
    ) -> Result<Option<usize>, HandshakeError> {
        match self.state {
            State::Done => return Ok(Some(0)),
            State::Failed(error) => return Err(error),
            _ => {}
        }
        // A head is counted in 32 bits: a limit above 4 GiB is no limit anyone means.
        let head_bytes_max = u32::try_from(head_bytes_max).unwrap_or(u32::MAX);
        let room = head_bytes_max.saturating_sub(self.seen_bytes) as usize;
        let within = &bytes[..bytes.len().min(room)];
        let mut at = 0;
        while at < within.len() {
            if matches!(self.state, State::StartLine | State::Line) {
                at += text_len(&within[at..]);
                if at == within.len() {
                    break;
                }
                // A line that ends where another begins, without three visits to the table.
                if let [b'\r', b'\n', byte, ..] = within[at..]
                    && is_token_byte(byte)
                {
                    self.state = State::Line;
                    at += 3;
                    continue;
                }
            }
            match self.state.after(within[at]) {
                Ok(state) => self.state = state,
                Err(error) => return self.fail(error),
            }
            at += 1;
            if self.state == State::Done {
                self.seen_bytes += at as u32;
                return Ok(Some(at));
            }
        }
        self.seen_bytes += at as u32;
        if self.seen_bytes >= head_bytes_max {
            return self.fail(match self.state {
                State::LineStart | State::Line | State::LineEnd | State::HeadEnd => {
                    HandshakeError::HeadTooLarge
                }
                _ => HandshakeError::RequestLineTooLong,
            });
        }
        Ok(None)
    }

    fn fail(&mut self, error: HandshakeError) -> Result<Option<usize>, HandshakeError> {
        self.state = State::Failed(error);
        Err(error)
    }
}

impl Default for HeadScanner {
    fn default() -> HeadScanner {
        HeadScanner::new()
    }
}

impl State {
    fn after(self, byte: u8) -> Result<State, HandshakeError> {
        match (self, byte) {
            (State::Start, b'\r') => Ok(State::EmptyLine),
            (State::EmptyLine, b'\n') => Ok(State::AfterEmptyLine),
            // RFC 8446 section 5.1: a record is a content type (20 to 23) and a version, 3.x. A
            // ClientHello begins 0x16 0x03; a TLS server answers plain HTTP with 0x15 0x03.
            (State::Start, 0x14..=0x17) => Ok(State::TlsRecord),
            (State::TlsRecord, 0x03) => Err(HandshakeError::TlsOnPlainPort),
            (State::Start | State::AfterEmptyLine, byte) if is_token_byte(byte) => {
                Ok(State::StartLine)
            }
            (State::Start, b'\n') => Err(HandshakeError::BareLineFeed),
            (State::Start | State::AfterEmptyLine | State::TlsRecord, _) => {
                Err(HandshakeError::StartLineInvalid)
            }

            (State::StartLine, b'\r') => Ok(State::StartLineEnd),
            (State::Line, b'\r') => Ok(State::LineEnd),
            (State::StartLine | State::Line | State::LineStart, b'\n') => {
                Err(HandshakeError::BareLineFeed)
            }
            (State::StartLine | State::Line, byte) if is_control(byte) => {
                Err(HandshakeError::ControlCharacter)
            }
            (State::StartLine | State::Line, _) => Ok(self),

            (State::StartLineEnd | State::LineEnd, b'\n') => Ok(State::LineStart),
            (State::HeadEnd, b'\n') => Ok(State::Done),
            (State::EmptyLine | State::StartLineEnd | State::LineEnd | State::HeadEnd, _) => {
                Err(HandshakeError::BareCarriageReturn)
            }

            (State::LineStart, b'\r') => Ok(State::HeadEnd),
            (State::LineStart, b' ' | b'\t') => Err(HandshakeError::ObsoleteFolding),
            (State::LineStart, byte) if is_token_byte(byte) => Ok(State::Line),
            (State::LineStart, byte) if is_control(byte) => Err(HandshakeError::ControlCharacter),
            (State::LineStart, _) => Err(HandshakeError::HeaderNameInvalid),

            (State::Done, _) => Ok(State::Done),
            (State::Failed(error), _) => Err(error),
        }
    }
}

/// The header lines of one head, in the order they were sent, borrowed from it.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    lines: [httparse::Header<'a>; HEADERS_MAX],
    len: usize,
}

impl<'a> Headers<'a> {
    pub(super) const fn new() -> Headers<'a> {
        Headers {
            lines: [httparse::EMPTY_HEADER; HEADERS_MAX],
            len: 0,
        }
    }

    pub(super) fn lines_mut(&mut self) -> &mut [httparse::Header<'a>] {
        &mut self.lines
    }

    /// Keeps the first `len` lines: those that the parser wrote.
    pub(super) fn keep(&mut self, len: usize) {
        self.len = len;
    }

    /// Every header: its name as sent, and its value without the white space around it. A value is
    /// bytes, because RFC 9110 section 5.5 lets it hold any byte from 0x80 up.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.lines[..self.len]
            .iter()
            .map(|line| (line.name, line.value))
    }

    /// The value of the first header called `name`, in any case.
    pub fn first(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// The values of all headers called `name`, in any case, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter_map(move |(sent, value)| sent.eq_ignore_ascii_case(name).then_some(value))
    }

    /// The value of the header called `name` if it was sent exactly once.
    pub(in crate::proto) fn only(&self, name: &str) -> Occurrence<'a> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (None, _) => Occurrence::Missing,
            (Some(value), None) => Occurrence::Once(value),
            (Some(_), Some(_)) => Occurrence::Repeated,
        }
    }

    /// Whether a header called `name`, read as one comma-separated list over all its lines, holds
    /// `item` in any case.
    pub(super) fn list_contains(&self, name: &str, item: &str) -> bool {
        self.all(name)
            .flat_map(list_items)
            .any(|sent| sent.eq_ignore_ascii_case(item.as_bytes()))
    }

    /// Whether there is no header at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many header lines there are.
    pub const fn len(&self) -> usize {
        self.len
    }
}

/// How often a header that must not be repeated was sent.
pub(in crate::proto) enum Occurrence<'a> {
    Missing,
    Once(&'a [u8]),
    Repeated,
}

/// The items of a comma-separated list (RFC 9110 section 5.6.1) whose items hold no quoted commas.
/// Empty items are passed over, as recipients must.
pub(super) fn list_items(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(trim_white_space)
        .filter(|item| !item.is_empty())
}

/// Removes the optional white space of RFC 9110 section 5.6.3, space and tab, from both ends.
pub(in crate::proto) fn trim_white_space(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Whether `value` is a token (RFC 9110 section 5.6.2): a method, a header name, a subprotocol.
pub fn is_token(value: &[u8]) -> bool {
    !value.is_empty() && value.iter().all(|&byte| is_token_byte(byte))
}

/// Whether `value` may stand as the value of a header, or as a reason phrase: no control character
/// but the tab (RFC 9110 section 5.5). What passes cannot end a line, so a value from a
/// configuration or a service cannot add headers of its own.
pub fn is_field_value(value: &[u8]) -> bool {
    text_len(value) == value.len()
}

fn is_token_byte(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let marks = b"!#$%&'*+-.^_`|~";
        let mut at = 0;
        while at < marks.len() {
            table[marks[at] as usize] = true;
            at += 1;
        }
        table
    };
    TOKEN[usize::from(byte)]
}

fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7F
}

/// How many bytes come before the first control character. Sixteen at a time without a branch
/// inside, which the compiler turns into vector instructions.
fn text_len(bytes: &[u8]) -> usize {
    let has_control = |chunk: &[u8; 16]| chunk.iter().fold(false, |any, &b| any | is_control(b));
    let (chunks, _) = bytes.as_chunks::<16>();
    let at = 16
        * chunks
            .iter()
            .take_while(|chunk| !has_control(chunk))
            .count();
    let rest = &bytes[at..];
    at + rest
        .iter()
        .position(|&byte| is_control(byte))
        .unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8192;

    type Scanned = Result<Option<usize>, HandshakeError>;

    /// What a scanner says about all of `head` in pieces of `piece_len`, counted from the start.
    fn scan(head: &[u8], piece_len: usize, max: usize) -> Scanned {
        let mut scanner = HeadScanner::new();
        let mut given = 0;
        for piece in head.chunks(piece_len) {
            if let Some(n) = scanner.push(piece, max)? {
                assert_eq!(scanner.seen_bytes(), given + n);
                return Ok(Some(given + n));
            }
            given += piece.len();
        }
        Ok(None)
    }

    #[test]
    fn is_small() {
        assert_eq!(size_of::<HeadScanner>(), 8);
    }

    #[test]
    fn finds_the_end_or_the_first_violation_for_every_split() {
        use HandshakeError::*;
        let long_value = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\nrest", "c".repeat(700));
        let cases: &[(&[u8], Scanned)] = &[
            (b"GET / HTTP/1.1\r\n\r\n", Ok(Some(18))),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\x81\x80", Ok(Some(27))),
            (
                b"GET / HTTP/1.1\r\nA:\tb\tc\r\nB:\xC3\xA4\r\n\r\n",
                Ok(Some(32)),
            ),
            (long_value.as_bytes(), Ok(Some(long_value.len() - 4))),
            (
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
                Ok(Some(56)),
            ),
            // RFC 9112 section 2.2: one empty line before the request line.
            (b"\r\nGET / HTTP/1.1\r\n\r\n", Ok(Some(20))),
            (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Err(StartLineInvalid)),
            (b"\rGET", Err(BareCarriageReturn)),
            (b"\nGET", Err(BareLineFeed)),
            // RFC 9112 section 2.2: line ends.
            (b"GET / HTTP/1.1\nHost: a\r\n\r\n", Err(BareLineFeed)),
            (b"GET / HTTP/1.1\r\nHost: a\n\r\n", Err(BareLineFeed)),
            (b"GET / HTTP/1.1\r\n\n", Err(BareLineFeed)),
            (b"GET / HTTP/1.1\rHost", Err(BareCarriageReturn)),
            (
                b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
                Err(BareCarriageReturn),
            ),
            (b"GET / HTTP/1.1\r\n\rX", Err(BareCarriageReturn)),
            // RFC 9110 section 5.5: control characters.
            (b"GET /\0 HTTP/1.1\r\n\r\n", Err(ControlCharacter)),
            (
                b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
                Err(ControlCharacter),
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\x7F\r\n\r\n",
                Err(ControlCharacter),
            ),
            (b"GET / HTTP/1.1\r\n\x01: a\r\n\r\n", Err(ControlCharacter)),
            // RFC 9112 section 3: the first byte.
            (b"\0\0\0\0", Err(StartLineInvalid)),
            (b" GET / HTTP/1.1\r\n\r\n", Err(StartLineInvalid)),
            (b"\x81\x85mask", Err(StartLineInvalid)),
            (b"{\"json\":1}", Err(StartLineInvalid)),
            // RFC 8446 section 5.1: TLS records.
            (b"\x16\x03\x01\x02\x00\x01\x00", Err(TlsOnPlainPort)),
            (b"\x15\x03\x03\x00\x02", Err(TlsOnPlainPort)),
            (b"\x16\x04\x01", Err(StartLineInvalid)),
            (b"\x16", Ok(None)),
            // RFC 9112 section 5: header lines.
            (b"GET / HTTP/1.1\r\n folded\r\n\r\n", Err(ObsoleteFolding)),
            (
                b"GET / HTTP/1.1\r\nA: b\r\n\tfolded\r\n\r\n",
                Err(ObsoleteFolding),
            ),
            (b"GET / HTTP/1.1\r\n: b\r\n\r\n", Err(HeaderNameInvalid)),
            (b"GET / HTTP/1.1\r\n(a): b\r\n\r\n", Err(HeaderNameInvalid)),
            (b"GET / HTTP/1.1\r\nHost: a\r\n", Ok(None)),
            (b"", Ok(None)),
        ];
        for (head, expected) in cases {
            let shown = head.escape_ascii();
            for first_len in 0..=head.len() {
                let (first, second) = head.split_at(first_len);
                let mut scanner = HeadScanner::new();
                let result = match scanner.push(first, MAX) {
                    Ok(None) => scanner
                        .push(second, MAX)
                        .map(|end| end.map(|end| first.len() + end)),
                    decided => decided,
                };
                assert_eq!(result, *expected, "{shown} split at {first_len}");
            }
            for piece_len in 1..=40 {
                assert_eq!(
                    scan(head, piece_len, MAX),
                    *expected,
                    "{shown} by {piece_len}"
                );
            }
        }
    }

    #[test]
    fn a_violation_is_reported_at_its_own_byte_and_stays() {
        let head = b"GET / HTTP/1.1\r\nHost: a\n";
        let mut scanner = HeadScanner::new();
        for byte in &head[..head.len() - 1] {
            assert_eq!(scanner.push(&[*byte], MAX), Ok(None));
        }
        assert_eq!(scanner.push(b"\n", MAX), Err(HandshakeError::BareLineFeed));
        assert_eq!(
            scanner.push(b"\r\n\r\n", MAX),
            Err(HandshakeError::BareLineFeed)
        );
    }

    #[test]
    fn a_finished_head_takes_nothing_more() {
        let mut scanner = HeadScanner::new();
        assert_eq!(scanner.push(b"GET / HTTP/1.1\r\n\r\n", MAX), Ok(Some(18)));
        assert_eq!(scanner.push(b"\0", MAX), Ok(Some(0)));
        assert_eq!(scanner.seen_bytes(), 18);
    }

    #[test]
    fn rfc_6585_section_5_the_limit_for_every_length_and_split() {
        let head = b"GET /chat HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n";
        let request_line_len = 20;
        for max in 0..head.len() + 3 {
            let expected = if max >= head.len() {
                Ok(Some(head.len()))
            } else if max >= request_line_len {
                Err(HandshakeError::HeadTooLarge)
            } else {
                Err(HandshakeError::RequestLineTooLong)
            };
            for piece_len in 1..=head.len() {
                assert_eq!(
                    scan(head, piece_len, max),
                    expected,
                    "limit {max} by {piece_len}"
                );
            }
        }
    }

    #[test]
    fn the_limit_is_reported_without_waiting_for_one_more_byte() {
        let mut scanner = HeadScanner::new();
        assert_eq!(
            scanner.push(b"GET / HT", 8),
            Err(HandshakeError::RequestLineTooLong)
        );
    }

    #[test]
    fn text_len_agrees_with_looking_at_each_byte() {
        for len in 0..40 {
            for at in 0..len {
                for byte in 0..=255 {
                    for fill in [b'a', b'\t', b' ', 0x80, 0xFF] {
                        let mut bytes = vec![fill; len];
                        bytes[at] = byte;
                        bytes[len - 1] = if at + 1 < len { b'\r' } else { byte };
                        let first = bytes.iter().position(|&byte| is_control(byte));
                        assert_eq!(text_len(&bytes), first.unwrap_or(len), "{bytes:x?}");
                    }
                }
            }
        }
        assert_eq!(text_len(b""), 0);
    }

    #[test]
    fn rfc_9110_section_5_6_1_lists() {
        let cases: &[(&str, &[&str])] = &[
            ("", &[]),
            (" , ,\t", &[]),
            ("a", &["a"]),
            (" a ,\tb,,c\t", &["a", "b", "c"]),
            ("keep-alive, Upgrade", &["keep-alive", "Upgrade"]),
        ];
        for (value, expected) in cases {
            let items: Vec<&[u8]> = list_items(value.as_bytes()).collect();
            let expected: Vec<&[u8]> = expected.iter().map(|item| item.as_bytes()).collect();
            assert_eq!(items, expected, "{value:?}");
        }
    }

    #[test]
    fn rfc_9110_section_5_6_2_tokens() {
        for byte in 0..=255 {
            let expected = matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z')
                || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(&[byte]), expected, "{byte:#x}");
        }
        assert!(!is_token(b""));
    }
}
