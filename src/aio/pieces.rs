//! A message that is read as it comes.
//!
//! Knows: one message in progress. Refuses to know: where its pieces end on the wire.

use std::future::poll_fn;

use super::{Reader, input::Found, websocket::Pieces};
use crate::MessageKind;

/// A message that comes piece by piece.
///
/// Text is checked to be UTF-8 as it comes; a piece may end in the middle of a character.
#[derive(Debug)]
pub struct MessagePieces<'a> {
    reader: &'a mut Reader,
    kind: MessageKind,
    /// A piece that was found and not handed out.
    found: Option<Found>,
}

impl<'a> MessagePieces<'a> {
    pub(super) async fn begin(reader: &'a mut Reader) -> Option<Self> {
        if reader.pieces == Pieces::Begun {
            // What is left of an earlier one.
            while reader.is_in_message() {
                poll_fn(|context| reader.input.poll_event(&reader.connection, context)).await?;
            }
        }
        reader.pieces = Pieces::Wanted;
        let found = match reader.input.begin_pieces(&reader.connection) {
            Some(found) => found,
            None => poll_fn(|context| reader.input.poll_event(&reader.connection, context)).await?,
        };
        reader.pieces = Pieces::Begun;
        let kind = reader.input.message(&found).kind();
        Some(Self {
            reader,
            kind,
            found: Some(found),
        })
    }

    /// Text or binary.
    pub const fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The next bytes of the message. `None` when it is over, or the connection is, or was closed
    /// from this side: [`is_complete`](Self::is_complete) tells.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped has taken nothing.
    pub async fn next(&mut self) -> Option<&[u8]> {
        if self.reader.connection.deaf.get() {
            return None;
        }
        let found = match self.found.take() {
            Some(found) => found,
            None if !self.reader.is_in_message() => return None,
            None => {
                let Reader {
                    input, connection, ..
                } = &mut *self.reader;
                poll_fn(|context| input.poll_event(connection, context)).await?
            }
        };
        Some(self.reader.input.message(&found).payload())
    }

    /// Whether the message has come whole.
    pub fn is_complete(&self) -> bool {
        self.found.is_none() && !self.reader.is_in_message()
    }
}
