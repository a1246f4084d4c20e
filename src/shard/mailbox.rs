//! What reaches a shard from other threads.
//!
//! Knows: a bounded queue and the waker beside it. Refuses to know: what a connection is made of.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::{
    conn::Key,
    proto::{CloseCode, message::Outgoing},
    ring::Waker,
};

/// Something asked of a shard by another thread.
#[derive(Debug)]
pub enum Command {
    /// Send a message on a connection, if it is still there.
    Send(Key, Outgoing<'static>),
    /// Start the closing handshake of a connection, if it is still there.
    Close(Key, CloseCode, Box<str>),
    /// Stop: accept no more, close every connection, and end when all are gone or this many
    /// milliseconds are over.
    Stop {
        /// How long connections may take to close.
        drain_timeout_ms: u64,
    },
}

/// The shard's end.
#[derive(Debug)]
pub struct Mailbox(Receiver<Command>);

/// Everybody else's end.
#[derive(Clone, Debug)]
pub struct Postbox {
    sender: SyncSender<Command>,
    waker: Waker,
}

/// Why a command was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// The mailbox holds as many messages as it may.
    Full,
    /// The shard has stopped.
    Stopped,
}

/// A mailbox for at most `messages_max` messages, and the way into it.
pub fn mailbox(messages_max: usize, waker: Waker) -> (Postbox, Mailbox) {
    let (sender, receiver) = sync_channel(messages_max);
    (Postbox { sender, waker }, Mailbox(receiver))
}

impl Mailbox {
    /// The next message, if there is one.
    pub fn next(&self) -> Option<Command> {
        self.0.try_recv().ok()
    }
}

impl Postbox {
    /// Puts a command into the mailbox and wakes the shard.
    ///
    /// # Errors
    ///
    /// When the mailbox is full or the shard has stopped; the command is dropped.
    pub fn post(&self, command: Command) -> Result<(), PostError> {
        self.sender.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => PostError::Full,
            TrySendError::Disconnected(_) => PostError::Stopped,
        })?;
        self.waker.wake();
        Ok(())
    }

    /// As [`post`](Self::post), but waits for room: stopping must not be lost in a full mailbox.
    ///
    /// # Errors
    ///
    /// [`PostError::Stopped`].
    pub fn post_waiting(&self, command: Command) -> Result<(), PostError> {
        self.waker.wake();
        self.sender.send(command).map_err(|_| PostError::Stopped)?;
        self.waker.wake();
        Ok(())
    }
}
