//! What reaches a shard from other threads.
//!
//! Knows: a bounded queue and the waker beside it. Refuses to know: what a connection is made of.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

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

/// The shard's end. Dropping it refuses what is posted later.
#[derive(Debug)]
pub struct Mailbox(Arc<Post>);

/// Everybody else's end.
#[derive(Clone, Debug)]
pub struct Postbox {
    post: Arc<Post>,
    waker: Waker,
}

/// A lock and a queue that grows: a channel of fixed size would hold the memory of all the messages
/// that may wait, in every shard, for ever. The lock is held for one push, or one exchange of
/// queues.
#[derive(Debug)]
struct Post {
    waiting: Mutex<Option<VecDeque<Command>>>,
    messages_max: usize,
}

impl Post {
    /// The messages, or none once the shard has stopped. A panic cannot have left them half
    /// changed: nothing is done under the lock that could.
    fn waiting(&self) -> MutexGuard<'_, Option<VecDeque<Command>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    let waiting = Mutex::new(Some(VecDeque::new()));
    let post = Arc::new(Post {
        waiting,
        messages_max,
    });
    (
        Postbox {
            post: post.clone(),
            waker,
        },
        Mailbox(post),
    )
}

impl Mailbox {
    /// Everything that waits, in the order in which it was posted.
    pub fn take(&self) -> VecDeque<Command> {
        self.0
            .waiting()
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        *self.0.waiting() = None;
    }
}

impl Postbox {
    /// Puts a command into the mailbox and wakes the shard.
    ///
    /// # Errors
    ///
    /// When the mailbox is full or the shard has stopped; the command is dropped. Stopping is never
    /// refused for want of room.
    pub fn post(&self, command: Command) -> Result<(), PostError> {
        {
            let mut waiting = self.post.waiting();
            let waiting = waiting.as_mut().ok_or(PostError::Stopped)?;
            let full = waiting.len() >= self.post.messages_max;
            if full && !matches!(command, Command::Stop { .. }) {
                return Err(PostError::Full);
            }
            waiting.push_back(command);
        }
        self.waker.wake();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_refuses_messages_but_not_the_end() {
        let (postbox, mailbox) = mailbox(2, Waker::new(None));
        let key = Key {
            slot: 0,
            generation: 0,
        };
        let message = || Command::Close(key, CloseCode::NORMAL_CLOSURE, "".into());
        assert_eq!(postbox.post(message()), Ok(()));
        assert_eq!(postbox.post(message()), Ok(()));
        assert_eq!(postbox.post(message()), Err(PostError::Full));
        assert_eq!(
            postbox.post(Command::Stop {
                drain_timeout_ms: 0
            }),
            Ok(())
        );
        assert_eq!(mailbox.take().len(), 3);
        assert_eq!(postbox.post(message()), Ok(()));
        drop(mailbox);
        assert_eq!(postbox.post(message()), Err(PostError::Stopped));
    }
}
