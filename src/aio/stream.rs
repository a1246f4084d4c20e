//! The vocabulary of the `futures` crates: a WebSocket is a stream of messages and a sink for them.
//!
//! Knows: `Stream` and `Sink`. Refuses to know: everything else.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_core::Stream;
use futures_sink::Sink;

use super::{OwnedMessage, Reader, WebSocket, Writer};
use crate::{CloseCause, CloseCode, SendError, proto::message::Outgoing};

/// Messages, each with bytes of its own, until the connection ends.
impl Stream for Reader {
    type Item = OwnedMessage;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<OwnedMessage>> {
        let this = self.get_mut();
        let found = ready!(this.poll_whole(context));
        Poll::Ready(found.map(|found| this.owned(&found)))
    }
}

/// Messages, each with bytes of its own, until the connection ends.
impl Stream for WebSocket {
    type Item = OwnedMessage;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<OwnedMessage>> {
        Pin::new(self.get_mut().reader_mut()).poll_next(context)
    }
}

/// Whatever can be sent. Flushing waits until the kernel has all of it; closing begins the closing
/// handshake with 1000, and waits until that was sent.
impl<M: Into<Outgoing<'static>>> Sink<M> for Writer {
    type Error = SendError;

    fn poll_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.connection.poll_room(context)
    }

    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), SendError> {
        self.connection.send_now(&mut Some(message.into()), false)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        self.connection.poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        let code = CloseCode::NORMAL_CLOSURE;
        if !self.is_closing() {
            self.connection
                .close(code, "", CloseCause::Application(code))?;
        }
        // A connection that ended meanwhile is closed.
        self.connection.poll_flush(context).map(|_| Ok(()))
    }
}

/// As for [`Writer`].
impl<M: Into<Outgoing<'static>>> Sink<M> for WebSocket {
    type Error = SendError;

    fn poll_ready(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Sink::<M>::poll_ready(Pin::new(self.get_mut().writer_mut()), context)
    }

    fn start_send(self: Pin<&mut Self>, message: M) -> Result<(), SendError> {
        Pin::new(self.get_mut().writer_mut()).start_send(message)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Sink::<M>::poll_flush(Pin::new(self.get_mut().writer_mut()), context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Sink::<M>::poll_close(Pin::new(self.get_mut().writer_mut()), context)
    }
}
