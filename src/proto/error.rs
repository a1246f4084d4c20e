//! What a peer can do wrong once the connection is open, and what an application can.
//!
//! Knows: the wire's status code and a sentence for each violation. Refuses to know: what is done
//! about it; `Endpoint` has one path for that.

use std::fmt;

use super::CloseCode;

/// The peer broke RFC 6455 or one of our limits: the connection fails (section 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A close frame with a payload of one byte (5.5.1).
    CloseBodyTooShort,
    /// A close frame with a status code that may not be sent (7.4).
    CloseCodeNotAllowed(u16),
    /// A reason that is not UTF-8 (5.5.1).
    CloseReasonNotUtf8,
    /// RSV1 on a control frame or a continuation frame (RFC 7692 section 6).
    CompressedBitMisplaced,
    /// A continuation frame where no message is in progress (5.4).
    ContinuationWithoutMessage,
    /// A control frame with FIN off (5.5).
    ControlFragmented,
    /// A control frame of more than 125 bytes (5.5).
    ControlTooLong,
    /// A compressed message that cannot be inflated (RFC 7692 section 7.2.2).
    DeflateInvalid,
    /// More empty fragments in one message than are allowed.
    EmptyFragmentFlood,
    /// More fragments in one message than are allowed.
    FragmentFlood,
    /// A compressed message that becomes longer, for its length, than is allowed.
    InflateRatio,
    /// A length in more bytes than it needs (5.2).
    LengthNotMinimal,
    /// A 64 bit length with the top bit on (5.2).
    LengthTopBit,
    /// A client's frame without mask (5.1).
    MaskMissing,
    /// A server's frame with mask (5.1).
    MaskUnexpected,
    /// A new text or binary frame while a message is in progress (5.4).
    MessageInterleaved,
    /// A message over the limit (7.4.1).
    MessageTooBig,
    /// A message for which there is no memory left, because others have it. The peer may try again.
    NoMemory,
    /// An opcode without meaning (5.2).
    OpcodeReserved(u8),
    /// RSV1, RSV2 or RSV3 on without an extension that gives it meaning (5.2).
    ReservedBit,
    /// Text that is not UTF-8 (8.1).
    TextNotUtf8,
}

impl ProtocolError {
    /// The status code to send (section 7.4.1).
    pub const fn close_code(self) -> CloseCode {
        match self {
            Self::CloseReasonNotUtf8 | Self::DeflateInvalid | Self::TextNotUtf8 => {
                CloseCode::INVALID_PAYLOAD_DATA
            }
            Self::EmptyFragmentFlood | Self::FragmentFlood | Self::InflateRatio => {
                CloseCode::POLICY_VIOLATION
            }
            Self::MessageTooBig => CloseCode::MESSAGE_TOO_BIG,
            Self::NoMemory => CloseCode::TRY_AGAIN_LATER,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// What was wrong, short enough for the reason of a close frame.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::CloseBodyTooShort => "a close frame's payload has no byte or at least two",
            Self::CloseCodeNotAllowed(_) => "this status code must not be sent in a close frame",
            Self::CloseReasonNotUtf8 => "the close reason is not UTF-8",
            Self::CompressedBitMisplaced => "only a message's first frame says it is compressed",
            Self::ContinuationWithoutMessage => "a continuation frame came without a message",
            Self::ControlFragmented => "control frames must not be fragmented",
            Self::ControlTooLong => "a control frame's payload has at most 125 bytes",
            Self::DeflateInvalid => "the message cannot be inflated",
            Self::EmptyFragmentFlood => "too many empty fragments in one message",
            Self::FragmentFlood => "too many fragments in one message",
            Self::InflateRatio => "the message is compressed more than is allowed",
            Self::LengthNotMinimal => "the payload length is not in its shortest form",
            Self::LengthTopBit => "the payload length has its top bit set",
            Self::MaskMissing => "frames from a client must be masked",
            Self::MaskUnexpected => "frames from a server must not be masked",
            Self::MessageInterleaved => "a new message began inside another one",
            Self::MessageTooBig => "the message is too big",
            Self::NoMemory => "the server has no memory for the message now",
            Self::OpcodeReserved(_) => "this opcode is reserved",
            Self::ReservedBit => "a reserved bit is set and no extension was negotiated",
            Self::TextNotUtf8 => "text is not UTF-8",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloseCodeNotAllowed(code) => write!(f, "{}: {code}", self.reason()),
            Self::OpcodeReserved(opcode) => write!(f, "{}: {opcode:#x}", self.reason()),
            _ => f.write_str(self.reason()),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// The application asked for something that cannot be sent. Nothing was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendError {
    /// The connection is closing or closed.
    Closed,
    /// A ping, pong or close reason is over its 125, 125 or 123 bytes.
    ControlTooLong,
    /// The peer reads too slowly: this many bytes would exceed `queue_bytes_max`.
    QueueFull,
    /// The text is not UTF-8.
    TextNotUtf8,
    /// The peer speaks [hixie-76](super::hixie), which has no pings and pongs, and whose browsers
    /// throw binary messages away.
    Unsupported,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection is closing; nothing more can be sent on it",
            Self::ControlTooLong => {
                "a ping or pong has at most 125 bytes of payload, a close reason at most 123"
            }
            Self::QueueFull => {
                "the peer reads too slowly: its queue would exceed queue_bytes_max; wait for \
                 on_drain, or close the connection"
            }
            Self::TextNotUtf8 => "a text message has to be UTF-8; send it as binary",
            Self::Unsupported => {
                "the peer speaks hixie-76, without pings, pongs and binary messages; send it text"
            }
        })
    }
}

impl std::error::Error for SendError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_into_a_close_frame() {
        use ProtocolError::*;
        for error in [
            CloseBodyTooShort,
            CloseCodeNotAllowed(1005),
            CloseReasonNotUtf8,
            CompressedBitMisplaced,
            ContinuationWithoutMessage,
            ControlFragmented,
            ControlTooLong,
            DeflateInvalid,
            EmptyFragmentFlood,
            FragmentFlood,
            InflateRatio,
            LengthNotMinimal,
            LengthTopBit,
            MaskMissing,
            MaskUnexpected,
            MessageInterleaved,
            MessageTooBig,
            OpcodeReserved(3),
            ReservedBit,
            TextNotUtf8,
        ] {
            assert!(error.reason().len() <= 123, "{error}");
            assert!(CloseCode::new(error.close_code().number()).is_some());
        }
    }
}
