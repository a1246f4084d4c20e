//! Agreeing on permessage-deflate in the opening handshake (RFC 7692 section 7.1), both roles.
//!
//! Knows the `Sec-WebSocket-Extensions` header (RFC 6455 section 9.1) and the four parameters.
//! Refuses to know what compressing costs: what may be agreed to comes as [`Terms`].
//!
//! ```text
//!   client: Offer, most wanted first --> header --> server: the first valid one, with Terms
//!                                                                      |
//!   client: check_answer, strictly   <-- header <-- Agreed <-----------+
//! ```
//!
//! A server declines an offer that is malformed and looks at the next one; it never fails a
//! connection for it. A client fails the connection over an answer that does not follow from what
//! it offered (section 5.1).

use super::Terms;
use crate::proto::handshake::head::trim_white_space;

/// The extension's name (RFC 7692 section 7).
pub const NAME: &str = "permessage-deflate";

/// The smallest LZ77 window that can be agreed on: 2 to the 8 bytes.
pub const WINDOW_BITS_MIN: u8 = 8;

/// The largest: 2 to the 15 bytes. It is what holds when nothing is said.
pub const WINDOW_BITS_MAX: u8 = 15;

/// What a client offers (RFC 7692 section 7.1). The default offers everything and asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Offer {
    /// The server is not to refer to earlier messages (7.1.1.1).
    pub server_no_context_takeover: bool,
    /// The client will not refer to earlier messages, whatever the server says (7.1.1.2).
    pub client_no_context_takeover: bool,
    /// The largest window that the server may use, in bits (7.1.2.1).
    pub server_max_window_bits: Option<u8>,
    /// Lets the server limit the client's window (7.1.2.2).
    pub client_max_window_bits: ClientWindowBits,
}

/// `client_max_window_bits` in an offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientWindowBits {
    /// Without a value: the server may choose any.
    #[default]
    Any,
    /// The client will use at most this many, and the server may choose fewer.
    AtMost(u8),
    /// Not in the offer: the server may not limit the client.
    Unlimited,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Agreed {
    /// The server may refer to earlier messages.
    pub server_context_takeover: bool,
    /// The client may refer to earlier messages.
    pub client_context_takeover: bool,
    /// The server's window in bits, from 8 to 15.
    pub server_window_bits: u8,
    /// The client's window in bits, from 8 to 15.
    pub client_window_bits: u8,
    /// The server names its window: the client asked, or it is smaller than the largest.
    names_server_window: bool,
}

/// Why an answer cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// It is malformed, names an unknown parameter, or one twice, or one with a wrong value.
    Malformed,
    /// It follows from no offer that was made.
    NotOffered,
}

/// The parameters of one element, offer or answer, as they were sent.
#[derive(Default)]
struct Parameters {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    client_max_window_bits: Option<Option<u8>>,
}

impl Parameters {
    /// `None` when they are malformed, unknown, repeated or out of range.
    fn parse(parts: Parts<'_>) -> Option<Self> {
        let mut found = Self::default();
        for part in parts {
            let (name, value) = match part.iter().position(|&byte| byte == b'=') {
                None => (part, None),
                Some(at) => (
                    trim_white_space(&part[..at]),
                    Some(trim_white_space(&part[at + 1..])),
                ),
            };
            let flag = |seen: &mut bool| (value.is_none() && !*seen).then(|| *seen = true);
            match name {
                b"server_no_context_takeover" => flag(&mut found.server_no_context_takeover)?,
                b"client_no_context_takeover" => flag(&mut found.client_no_context_takeover)?,
                b"server_max_window_bits" if found.server_max_window_bits.is_none() => {
                    found.server_max_window_bits = Some(window_bits(value?)?);
                }
                b"client_max_window_bits" if found.client_max_window_bits.is_none() => {
                    let bits = match value {
                        None => None,
                        Some(value) => Some(window_bits(value)?),
                    };
                    found.client_max_window_bits = Some(bits);
                }
                _ => return None,
            }
        }
        Some(found)
    }
}

/// A decimal number from 8 to 15 without leading zeros, as a token or as a quoted string (RFC 7692
/// section 7.1.2, RFC 6455 section 9.1).
fn window_bits(value: &[u8]) -> Option<u8> {
    let mut digits = [0; 2];
    let mut len = 0;
    let mut push = |byte: u8| {
        *digits.get_mut(len)? = byte;
        len += 1;
        Some(())
    };
    match value {
        [b'"', quoted @ .., b'"'] => {
            let mut bytes = quoted.iter();
            while let Some(&byte) = bytes.next() {
                match byte {
                    b'\\' => push(*bytes.next()?)?,
                    b'"' => return None,
                    byte => push(byte)?,
                }
            }
        }
        token => token.iter().try_for_each(|&byte| push(byte))?,
    }
    match &digits[..len] {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

impl Offer {
    /// Whether it can be sent: windows of 8 to 15 bits.
    pub(crate) fn is_valid(&self) -> bool {
        let valid = |bits: u8| (WINDOW_BITS_MIN..=WINDOW_BITS_MAX).contains(&bits);
        let client = match self.client_max_window_bits {
            ClientWindowBits::AtMost(bits) => valid(bits),
            ClientWindowBits::Any | ClientWindowBits::Unlimited => true,
        };
        client && self.server_max_window_bits.is_none_or(valid)
    }

    fn from_parameters(found: &Parameters) -> Self {
        Self {
            server_no_context_takeover: found.server_no_context_takeover,
            client_no_context_takeover: found.client_no_context_takeover,
            server_max_window_bits: found.server_max_window_bits,
            client_max_window_bits: match found.client_max_window_bits {
                None => ClientWindowBits::Unlimited,
                Some(None) => ClientWindowBits::Any,
                Some(Some(bits)) => ClientWindowBits::AtMost(bits),
            },
        }
    }

    /// Appends it as an element of the header.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(NAME.as_bytes());
        if self.server_no_context_takeover {
            out.extend_from_slice(b"; server_no_context_takeover");
        }
        if self.client_no_context_takeover {
            out.extend_from_slice(b"; client_no_context_takeover");
        }
        if let Some(bits) = self.server_max_window_bits {
            push_bits(out, "server_max_window_bits", bits);
        }
        match self.client_max_window_bits {
            ClientWindowBits::Any => out.extend_from_slice(b"; client_max_window_bits"),
            ClientWindowBits::AtMost(bits) => push_bits(out, "client_max_window_bits", bits),
            ClientWindowBits::Unlimited => {}
        }
    }

    /// What a server with these terms agrees to. Every offer that is valid can be agreed to.
    pub(crate) fn agree(&self, terms: &Terms) -> Agreed {
        let asked = self.server_max_window_bits;
        let server_window_bits = terms.window_bits.min(asked.unwrap_or(WINDOW_BITS_MAX));
        let client_window_bits = match self.client_max_window_bits {
            ClientWindowBits::Unlimited => WINDOW_BITS_MAX,
            ClientWindowBits::Any => terms.inflate_window_bits,
            ClientWindowBits::AtMost(bits) => terms.inflate_window_bits.min(bits),
        };
        Agreed {
            server_context_takeover: terms.context_takeover && !self.server_no_context_takeover,
            client_context_takeover: terms.inflate_context_takeover
                && !self.client_no_context_takeover,
            server_window_bits,
            client_window_bits,
            names_server_window: asked.is_some() || server_window_bits < WINDOW_BITS_MAX,
        }
    }

    /// What an answer to this offer means, if it can be one.
    fn answered(&self, answer: &Parameters) -> Option<Agreed> {
        // Sections 7.1.1.1 and 7.1.2.1: agreeing to these two means to repeat them.
        if self.server_no_context_takeover && !answer.server_no_context_takeover {
            return None;
        }
        let server_window_bits = match (self.server_max_window_bits, answer.server_max_window_bits)
        {
            (None, bits) => bits.unwrap_or(WINDOW_BITS_MAX),
            (Some(asked), Some(bits)) if bits <= asked => bits,
            (Some(_), _) => return None,
        };
        // Section 7.1.2.2: only who was invited may limit, and only further, and with a value.
        let client_window_bits = match (self.client_max_window_bits, answer.client_max_window_bits)
        {
            (_, Some(None)) | (ClientWindowBits::Unlimited, Some(_)) => return None,
            (ClientWindowBits::AtMost(most), Some(Some(bits))) if bits > most => return None,
            (_, Some(Some(bits))) => bits,
            (ClientWindowBits::AtMost(most), None) => most,
            (ClientWindowBits::Any | ClientWindowBits::Unlimited, None) => WINDOW_BITS_MAX,
        };
        Some(Agreed {
            server_context_takeover: !answer.server_no_context_takeover,
            client_context_takeover: !answer.client_no_context_takeover
                && !self.client_no_context_takeover,
            server_window_bits,
            client_window_bits,
            names_server_window: answer.server_max_window_bits.is_some(),
        })
    }
}

impl Agreed {
    /// Neither side refers to earlier messages.
    pub(crate) fn without_context_takeover(mut self) -> Self {
        self.server_context_takeover = false;
        self.client_context_takeover = false;
        self
    }

    /// Appends it as the value of the header.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(NAME.as_bytes());
        if !self.server_context_takeover {
            out.extend_from_slice(b"; server_no_context_takeover");
        }
        if !self.client_context_takeover {
            out.extend_from_slice(b"; client_no_context_takeover");
        }
        if self.names_server_window {
            push_bits(out, "server_max_window_bits", self.server_window_bits);
        }
        // A client that does not offer it has the largest window here.
        if self.client_window_bits < WINDOW_BITS_MAX {
            push_bits(out, "client_max_window_bits", self.client_window_bits);
        }
    }
}

fn push_bits(out: &mut Vec<u8>, name: &str, bits: u8) {
    out.extend_from_slice(format!("; {name}={bits}").as_bytes());
}

/// What a server with these terms agrees to, of the offers in these header lines: the first that is
/// valid. `None` if there is none; the connection is then one without the extension.
pub fn agree<'a>(lines: impl Iterator<Item = &'a [u8]>, terms: &Terms) -> Option<Agreed> {
    offers(lines).next().map(|offer| offer.agree(terms))
}

/// The valid offers of permessage-deflate in these header lines, most wanted first.
pub fn offers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = Offer> {
    lines.flat_map(elements).filter_map(|element| {
        let mut parts = Parts::new(element, b';');
        if parts.next() != Some(NAME.as_bytes()) {
            return None;
        }
        let found = Parameters::parse(parts)?;
        Some(Offer::from_parameters(&found))
    })
}

/// What a server's answer in these header lines means to a client that made these offers. `None` if
/// the server uses no extension.
///
/// # Errors
///
/// When the client has to fail the connection (RFC 7692 sections 5.1 and 7.1).
pub fn check_answer<'a>(
    lines: impl Iterator<Item = &'a [u8]>,
    offers: &[Offer],
) -> Result<Option<Agreed>, AnswerError> {
    let mut elements = lines.flat_map(elements);
    let Some(element) = elements.next() else {
        return Ok(None);
    };
    let mut parts = Parts::new(element, b';');
    if parts.next() != Some(NAME.as_bytes()) || offers.is_empty() {
        return Err(AnswerError::NotOffered);
    }
    // A second element is another extension, or this one twice.
    if elements.next().is_some() {
        return Err(AnswerError::NotOffered);
    }
    let answer = Parameters::parse(parts).ok_or(AnswerError::Malformed)?;
    let agreed = offers.iter().find_map(|offer| offer.answered(&answer));
    agreed.map(Some).ok_or(AnswerError::NotOffered)
}

/// The elements of a list, without those that are empty (RFC 9110 section 5.6.1).
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    Parts::new(line, b',').filter(|element| !element.is_empty())
}

/// What lies between separators that are not quoted, without the white space around it.
struct Parts<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Parts<'a> {
    const fn new(text: &'a [u8], separator: u8) -> Self {
        Self {
            rest: Some(text),
            separator,
        }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.iter().position(|&byte| {
            let is_separator = byte == self.separator && !quoted;
            match byte {
                _ if escaped => escaped = false,
                b'"' => quoted = !quoted,
                b'\\' if quoted => escaped = true,
                _ => {}
            }
            is_separator
        });
        self.rest = end.map(|end| &rest[end + 1..]);
        Some(trim_white_space(&rest[..end.unwrap_or(rest.len())]))
    }
}
