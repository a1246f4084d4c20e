//! What reaches a shard from other threads.
//!
//! Knows: a bounded queue and the waker beside it. Refuses to know: what a connection is made of.

use std::{
    collections::VecDeque,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{self, Poll},
};

use crate::{
    config::Config,
    conn::{Key, farewell::Drain, survey::Survey, turn::Effect},
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
    /// Go on under these settings, of those that can change.
    Reconfigure(Arc<Config>),
    /// Stop: accept no more, close every connection, and end when all are gone or the time is up.
    Stop(Drain),
    /// Look who is there.
    Survey(Box<Survey>),
}

/// What a command takes beside its payload, about.
const COMMAND_BYTES: usize = size_of::<Command>();

impl From<Effect> for Command {
    fn from(effect: Effect) -> Self {
        match effect {
            Effect::Send(id, message) => Self::Send(id.key(), message),
            Effect::Close(id, code, reason) => Self::Close(id.key(), code, reason),
        }
    }
}

impl Command {
    /// Bytes of memory that it holds behind another one. A payload that goes to many connections is
    /// shared by the commands that send it, one behind the other: it counts once.
    fn held_bytes(&self, before: Option<&Self>) -> usize {
        let bytes = match (self, before) {
            (Self::Send(_, message), Some(Self::Send(_, before)))
                if std::ptr::eq(message.payload(), before.payload()) =>
            {
                0
            }
            (Self::Send(_, message), _) => message.payload_len(),
            (Self::Close(_, _, reason), _) => reason.len(),
            // All shards share one.
            (Self::Reconfigure(_) | Self::Stop(_) | Self::Survey(_), _) => 0,
        };
        COMMAND_BYTES + bytes
    }
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
    waiting: Mutex<Waiting>,
    /// What the commands hold, for whoever looks without the lock.
    bytes: AtomicUsize,
    messages_max: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Waiting {
    /// The messages, or none once the shard has stopped.
    commands: Option<VecDeque<Command>>,
    /// Who wants to know when there is room again, each once.
    for_room: Vec<task::Waker>,
}

impl Post {
    /// A panic cannot have left it half changed: nothing is done under the lock that could.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no more may wait. One message of any length may, so that each has its time.
    const fn is_full(&self, messages: usize, bytes: usize) -> bool {
        messages >= self.messages_max || messages > 0 && bytes >= self.bytes_max
    }

    /// Puts other commands in the place of those that wait, which are returned, and tells those who
    /// wait for room.
    fn exchange(&self, commands: Option<VecDeque<Command>>) -> Taken {
        let mut waiting = self.waiting();
        let taken = mem::replace(&mut waiting.commands, commands);
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        let for_room = mem::take(&mut waiting.for_room);
        // Waking runs code that is not ours, and a full queue is long.
        drop(waiting);
        for waker in for_room {
            // A panic there is not to end the shard, which has nothing to do with it.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                // What it says may panic again when it is dropped.
                mem::forget(panic);
                tracing::error!("a waker panicked that waited for room in a mailbox");
            }
        }
        Taken {
            commands: taken.unwrap_or_default(),
            bytes,
        }
    }
}

/// What was taken out of a mailbox.
#[derive(Debug, Default)]
pub struct Taken {
    /// The commands, in the order in which they were posted.
    pub commands: VecDeque<Command>,
    /// Bytes of memory that they hold.
    pub bytes: usize,
}

/// Why a command was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// The mailbox holds as many messages as it may.
    Full,
    /// The shard has stopped.
    Stopped,
}

/// A mailbox for at most `messages_max` messages of `bytes_max` bytes in all, and the way into it.
pub fn mailbox(messages_max: usize, bytes_max: usize, waker: Waker) -> (Postbox, Mailbox) {
    let waiting = Waiting {
        commands: Some(VecDeque::new()),
        for_room: Vec::new(),
    };
    let post = Arc::new(Post {
        waiting: Mutex::new(waiting),
        bytes: AtomicUsize::new(0),
        messages_max,
        bytes_max,
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
    /// Everything that waits.
    pub fn take(&self) -> Taken {
        self.0.exchange(Some(VecDeque::new()))
    }

    /// Bytes that wait in it, added up.
    #[cfg(feature = "sim")]
    pub fn sum_bytes(&self) -> usize {
        let waiting = self.0.waiting();
        let mut before = None;
        let commands = waiting.commands.iter().flatten();
        commands
            .map(|command| command.held_bytes(before.replace(command)))
            .sum()
    }

    /// Bytes that wait in it.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.0.exchange(None);
    }
}

impl Postbox {
    /// Puts a command into the mailbox and wakes the shard.
    ///
    /// # Errors
    ///
    /// When the mailbox is full or the shard has stopped; the command is dropped. Stopping is never
    /// refused for want of room, nor are settings.
    pub fn post(&self, command: Command) -> Result<(), PostError> {
        {
            let mut waiting = self.post.waiting();
            let commands = waiting.commands.as_mut().ok_or(PostError::Stopped)?;
            let bytes = self.post.bytes.load(Ordering::Relaxed);
            let full = self.post.is_full(commands.len(), bytes);
            let is_vital = matches!(command, Command::Reconfigure(_) | Command::Stop { .. });
            if full && !is_vital {
                return Err(PostError::Full);
            }
            // Only under the lock is it changed.
            let bytes = bytes + command.held_bytes(commands.back());
            self.post.bytes.store(bytes, Ordering::Relaxed);
            commands.push_back(command);
        }
        self.waker.wake();
        Ok(())
    }

    /// Wakes the shard for a turn.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Ready when a command would not be refused for want of room: there is some, or the shard has
    /// stopped. Else the task is woken when that may have changed.
    pub fn poll_room(&self, context: &task::Context<'_>) -> Poll<()> {
        let mut waiting = self.post.waiting();
        let bytes = self.post.bytes.load(Ordering::Relaxed);
        let commands = waiting.commands.as_ref();
        if commands.is_none_or(|commands| !self.post.is_full(commands.len(), bytes)) {
            return Poll::Ready(());
        }
        let waker = context.waker();
        if !waiting.for_room.iter().any(|known| known.will_wake(waker)) {
            waiting.for_room.push(waker.clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;

    fn stop() -> Command {
        Command::Stop(Drain::at_once(0))
    }

    #[test]
    fn a_full_mailbox_refuses_messages_but_not_the_end() {
        let (postbox, mailbox) = mailbox(2, 1 << 20, Waker::new(None));
        let key = Key {
            slot: 0,
            generation: 0,
        };
        let message = || Command::Close(key, CloseCode::NORMAL_CLOSURE, "".into());
        assert_eq!(postbox.post(message()), Ok(()));
        assert_eq!(postbox.post(message()), Ok(()));
        assert_eq!(postbox.post(message()), Err(PostError::Full));
        assert_eq!(postbox.post(stop()), Ok(()));
        assert_eq!(mailbox.take().commands.len(), 3);
        assert_eq!(postbox.post(message()), Ok(()));
        drop(mailbox);
        assert_eq!(postbox.post(message()), Err(PostError::Stopped));
    }

    #[test]
    fn a_mailbox_is_full_of_bytes_as_well() {
        let (postbox, mailbox) = mailbox(100, 10_000, Waker::new(None));
        let key = Key {
            slot: 0,
            generation: 0,
        };
        let message = |bytes: usize| Command::Send(key, vec![0; bytes].into());
        assert_eq!(postbox.post(message(20_000)), Ok(()), "one of any length");
        assert!(mailbox.held_bytes() >= 20_000);
        assert_eq!(postbox.post(message(1)), Err(PostError::Full));
        assert_eq!(mailbox.take().commands.len(), 1);
        assert_eq!(mailbox.held_bytes(), 0);
        let mut count = 0;
        while postbox.post(message(1000)) == Ok(()) {
            count += 1;
        }
        assert!((9..=10).contains(&count), "{count} messages of 1000 bytes");
        mailbox.take();
        // A payload of many connections is there once.
        let shared = bytes::Bytes::from(vec![0; 9000]);
        for _ in 0..10 {
            let message = Command::Send(key, shared.clone().into());
            assert_eq!(postbox.post(message), Ok(()));
        }
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn who_waits_for_room_is_woken_once_when_there_is_some_or_will_never_be() {
        let (postbox, mailbox) = mailbox(1, 1 << 20, Waker::new(None));
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        let context = task::Context::from_waker(&waker);
        assert_eq!(postbox.poll_room(&context), Poll::Ready(()));
        for times in 1..=3 {
            assert_eq!(postbox.post(stop()), Ok(()));
            assert_eq!(postbox.poll_room(&context), Poll::Pending);
            assert_eq!(postbox.poll_room(&context), Poll::Pending);
            assert_eq!(woken.0.load(Ordering::Relaxed), times - 1);
            mailbox.take();
            assert_eq!(woken.0.load(Ordering::Relaxed), times);
            assert_eq!(postbox.poll_room(&context), Poll::Ready(()));
        }
        assert_eq!(postbox.post(stop()), Ok(()));
        assert_eq!(postbox.poll_room(&context), Poll::Pending);
        drop(mailbox);
        assert_eq!(woken.0.load(Ordering::Relaxed), 4);
        assert_eq!(postbox.poll_room(&context), Poll::Ready(()));
    }
    struct Panicking;

    impl Wake for Panicking {
        fn wake(self: Arc<Self>) {
            panic!("a waker of somebody else's, on purpose");
        }
    }

    #[test]
    fn a_waker_that_panics_hurts_neither_the_shard_nor_the_next_waker() {
        let (postbox, mailbox) = mailbox(1, 1 << 20, Waker::new(None));
        let woken = Arc::new(Woken::default());
        for times in 1..=2 {
            assert_eq!(postbox.post(stop()), Ok(()));
            for waker in [Arc::new(Panicking).into(), woken.clone().into()] {
                let context = task::Context::from_waker(&waker);
                assert_eq!(postbox.poll_room(&context), Poll::Pending);
            }
            assert_eq!(mailbox.take().commands.len(), 1);
            assert_eq!(woken.0.load(Ordering::Relaxed), times);
        }
    }
}
