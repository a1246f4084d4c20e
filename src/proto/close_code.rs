//! Status codes of the closing handshake.
//!
//! Knows: the ranges of RFC 6455 section 7.4 and the registry it started. Refuses to know: when to
//! use which.

use std::fmt;

/// A status code that may stand in a close frame (RFC 6455 section 7.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

macro_rules! close_codes {
    ($($name:ident = $number:literal, $meaning:literal;)*) => {
        impl CloseCode {
            $(#[doc = concat!($meaning, ".")] pub const $name: Self = Self($number);)*

            /// What the code means, when it is a registered one.
            pub const fn meaning(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($meaning),)*
                    _ => None,
                }
            }
        }
    };
}

close_codes! {
    NORMAL_CLOSURE = 1000, "the purpose of the connection was fulfilled";
    GOING_AWAY = 1001, "the endpoint is going away";
    PROTOCOL_ERROR = 1002, "the peer broke the protocol";
    UNSUPPORTED_DATA = 1003, "the peer sent a kind of data that is not accepted here";
    INVALID_PAYLOAD_DATA = 1007, "the peer sent text that is not UTF-8";
    POLICY_VIOLATION = 1008, "the peer's message violates a policy";
    MESSAGE_TOO_BIG = 1009, "the peer's message is too big";
    MANDATORY_EXTENSION = 1010, "the server did not negotiate an extension that the client needs";
    INTERNAL_ERROR = 1011, "the server met an unexpected condition";
    SERVICE_RESTART = 1012, "the service is restarting";
    TRY_AGAIN_LATER = 1013, "the server is overloaded";
    BAD_GATEWAY = 1014, "the server got an invalid answer from upstream";
}

impl CloseCode {
    /// The code of this number, when it may stand in a close frame: 1000 to 1003 and 1007 to 1014
    /// (registered), 3000 to 4999 (libraries, frameworks and private use). 1004, 1005, 1006 and
    /// 1015 are reserved and never on the wire; everything else is undefined.
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Some(Self(number)),
            _ => None,
        }
    }

    /// The number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning() {
            Some(meaning) => write!(f, "{} ({meaning})", self.0),
            None => self.0.fmt(f),
        }
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_16_bits_is_judged_as_the_rfc_says() {
        for number in 0..=u16::MAX {
            let allowed = (1000..=1003).contains(&number)
                || (1007..=1014).contains(&number)
                || (3000..=4999).contains(&number);
            assert_eq!(
                CloseCode::new(number).map(CloseCode::number),
                allowed.then_some(number)
            );
        }
    }
}
