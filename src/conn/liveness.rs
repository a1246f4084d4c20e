//! Whether a connection gets on: what a deadline asks before it drops anybody.
//!
//! Knows: what a peer has really done: what it sent, what its kernel has taken, how much more there
//! is of a message. Refuses to know: when it is asked, and what is done with those who do nothing.
//!
//! A connection has one deadline. When it is due in [`Stage::Open`](super::Stage::Open) this looks
//! at both of what may be late, and says when to look again; in the stages of its end, at the
//! third:
//!
//! | what | is alive while | limit |
//! |---|---|---|
//! | the peer | something comes from it, or it takes what it was behind with | `idle_timeout_ms` |
//! | a message | it grows | `message_timeout_ms` |
//! | the end | the peer takes what is left for it | `close_timeout_ms` |
//!
//! Whoever gets on does so by [`LEAST_BYTES`] in that time, or by all that there is: slow and
//! steady passes, and a byte a second does not stay for ever. Nobody is held responsible for what
//! lies here and was not looked at. An idle connection remembers nothing for all this, and between
//! two deadlines it costs nothing.

use super::{CloseCause, Link, Shared, Timeout};
use crate::{
    config::Config,
    proto::endpoint::{Control, Unfinished},
    ring::{Outgoing, Ring},
};

/// What a peer has to bring of a message in `message_timeout_ms`, and to take of what it is behind
/// with in `idle_timeout_ms` or `close_timeout_ms`, unless there is less. With the defaults that is
/// 546 bytes a second, 136, or 3,277.
pub const LEAST_BYTES: u64 = 16 << 10;

/// How long a connection lives beyond its deadline, once, for the sake of what has come and was not
/// looked at: this side was busy, or stopped.
pub const RESPITE_MS: u64 = 500;

/// Where nobody tells what was taken (a Unix socket), a peer that takes much may by chance be found
/// with as much before it as the last time, and its send, of up to a mebibyte, under way still. It
/// is looked at so many times in its timeout: what it takes shows in one of them.
const GUESSES: u64 = 16;

/// A connection's socket, as far as it is asked here.
pub trait Kernel {
    /// As [`Ring::unread_bytes`].
    fn unread_bytes(&self) -> u64;

    /// As [`Ring::outgoing`].
    fn outgoing(&self) -> Outgoing;
}

/// A socket of a ring.
#[derive(Debug)]
pub struct OnRing<'a, R: Ring> {
    /// The ring.
    pub ring: &'a R,
    /// The socket.
    pub socket: &'a R::Socket,
}

impl<R: Ring> Kernel for OnRing<'_, R> {
    fn unread_bytes(&self) -> u64 {
        self.ring.unread_bytes(self.socket)
    }

    fn outgoing(&self) -> Outgoing {
        self.ring.outgoing(self.socket)
    }
}

/// What a look at an open connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// All is well. After so many milliseconds it is to be looked at again, if at all.
    Again(Option<u64>),
    /// The peer has been silent for all of `idle_timeout_ms`.
    Idle,
    /// A message does not get on.
    MessageLate,
}

/// What is remembered from one look to the next. There is one while there is something to remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Of a peer that was behind.
    behind: Option<Behind>,
    /// Of a message that had begun.
    message: Option<Begun>,
    /// It lives beyond its deadline.
    is_respited: bool,
}

/// What a peer had to take, when it was last seen to take something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Behind {
    queued_bytes: u64,
    outgoing: Outgoing,
    /// A send was in flight: the kernel was full.
    is_sending: bool,
    /// How often it was looked at again at the end because nobody tells what was taken.
    guesses: u8,
}

impl Behind {
    const fn bytes(&self) -> u64 {
        self.queued_bytes + self.outgoing.held_bytes
    }

    /// Bytes that the peer has taken from then to `now`, as far as can be told.
    fn taken_until(&self, now: &Self) -> u64 {
        if let (Some(then), Some(now)) = (self.outgoing.taken, now.outgoing.taken) {
            return now.bytes.saturating_sub(then.bytes);
        }
        let fewer = self.bytes().saturating_sub(now.bytes());
        // A kernel that was full and is, and holds another amount, was emptied in between.
        let is_full = self.is_sending && now.is_sending;
        let (held, held_now) = (self.outgoing.held_bytes, now.outgoing.held_bytes);
        let moved = if is_full { held.abs_diff(held_now) } else { 0 };
        fewer.max(moved)
    }

    /// From how many bytes on it matters at the end whether they are taken. Where nobody tells when
    /// the last of them were, a few have been taken long ago.
    const fn least_at_end(&self) -> u64 {
        match self.outgoing.taken {
            Some(_) => 1,
            None => LEAST_BYTES,
        }
    }

    /// Whether that is enough.
    fn has_moved_on(&self, now: &Self) -> bool {
        self.taken_until(now) >= LEAST_BYTES.min(self.bytes())
    }
}

/// How much there was of a message, and when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Begun {
    bytes: u64,
    at_ms: u32,
}

/// After how many milliseconds a connection that was opened just now is looked at.
pub fn first_look_ms(config: &Config) -> Option<u64> {
    nearer(silent_ms(config), message_ms(config))
}

/// How long a peer may be silent before it is asked, or dropped where nobody asks.
fn silent_ms(config: &Config) -> Option<u64> {
    ping_ms(config).or_else(|| idle_ms(config))
}

/// How long a peer may be silent before it is pinged: half of the time that it may be silent at
/// most, so that it has as much time again for an answer.
fn ping_ms(config: &Config) -> Option<u64> {
    let interval_ms = some_time(config.ping_interval_ms)?;
    let half_ms = idle_ms(config).map(|ms| ms.div_ceil(2));
    nearer(Some(interval_ms), half_ms)
}

fn idle_ms(config: &Config) -> Option<u64> {
    some_time(config.idle_timeout_ms)
}

fn message_ms(config: &Config) -> Option<u64> {
    some_time(config.message_timeout_ms)
}

/// 0 is any time.
fn some_time(ms: u64) -> Option<u64> {
    Some(ms).filter(|&ms| ms > 0)
}

fn nearer(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    [one, other].into_iter().flatten().min()
}

impl Link {
    /// The deadline of an open connection is due: pings a silent peer, and tells whether it is gone
    /// or what it sends does not get on.
    pub fn look(&mut self, kernel: &impl Kernel, shared: &mut Shared) -> Look {
        let Some(message_ms) = self.look_at_message(kernel, shared) else {
            return Look::MessageLate;
        };
        let Some(idle_ms) = self.look_at_peer(kernel, shared) else {
            return Look::Idle;
        };
        self.forget_empty_watch();
        Look::Again(nearer(message_ms, idle_ms))
    }

    /// Whether the peer is there. Returns after how many milliseconds to look again, if at all, or
    /// nothing when it is not.
    fn look_at_peer(&mut self, kernel: &impl Kernel, shared: &mut Shared) -> Option<Option<u64>> {
        let Some(silent_ms) = silent_ms(&shared.config) else {
            return Some(None);
        };
        let (ping_ms, idle_ms) = (ping_ms(&shared.config), idle_ms(&shared.config));
        let now_ms = shared.now.as_ms();
        let mut silence_ms = self.silence(now_ms).as_millis() as u64;
        if silence_ms >= silent_ms
            && let Some(sign_ms) = self.sign_of_life(kernel)
        {
            silence_ms = silence_ms.min(sign_ms);
            self.heard_ms = (now_ms as u32).wrapping_sub(silence_ms as u32);
        }
        if silence_ms < silent_ms {
            return Some(Some(silent_ms - silence_ms));
        }
        let rest_ms = idle_ms.and_then(|ms| ms.checked_sub(silence_ms).filter(|&rest| rest > 0));
        // Who was not asked has time to answer, even if nobody has looked in time.
        let was_asked = self.pings > 0 || ping_ms.is_none();
        if was_asked && idle_ms.is_some() && rest_ms.is_none() {
            return None;
        }
        let next_ms = ping_ms.map(|ping_ms| {
            // Of so many that they begin again, one is left out.
            let due = (silence_ms / ping_ms) as u8;
            // Pings do not pile up before somebody who does not read.
            if self.pings == 0 || due != self.pings && self.queued_bytes() == 0 {
                let payload = shared.ping_payload();
                let (endpoint, mut context) = self.split(shared);
                let _ = endpoint.send_control(Control::Ping, &payload, &mut context);
            }
            self.pings = due.max(1);
            match was_asked {
                true => ping_ms - silence_ms % ping_ms,
                false => ping_ms,
            }
        });
        let again_ms = nearer(next_ms, rest_ms);
        Some(again_ms.map(|after_ms| match idle_ms {
            Some(idle_ms) => self.guess_sooner(after_ms, idle_ms),
            None => after_ms,
        }))
    }

    /// Whether nobody tells what the peer takes of what it is behind with.
    fn is_guessed(&self) -> bool {
        let behind = self.rare.watch().and_then(|watch| watch.behind);
        behind.is_some_and(|behind| behind.is_sending && behind.outgoing.taken.is_none())
    }

    /// After how much of `after_ms` to look at a peer that has `timeout_ms`.
    fn guess_sooner(&self, after_ms: u64, timeout_ms: u64) -> u64 {
        if self.is_guessed() {
            after_ms.min(timeout_ms.div_ceil(GUESSES))
        } else {
            after_ms
        }
    }

    /// What a silent peer has done all the same. Returns how long ago in milliseconds, if anything.
    fn sign_of_life(&mut self, kernel: &impl Kernel) -> Option<u64> {
        // Less is no reason for a ping to be late.
        let taken_ms = self.taken_ago(kernel, LEAST_BYTES);
        // What lies unread says that the peer is there: it is this side that is elsewhere. But a
        // peer that does not read is not there for us, whatever it has sent.
        let is_read_from = self.queued_bytes() == 0 || self.receiving;
        if is_read_from && kernel.unread_bytes() > 0 {
            return Some(0);
        }
        taken_ms
    }

    /// Whether the peer has taken some of what it was behind with when it was looked at before; it
    /// is with at least `behind_bytes_min`. Returns how long ago in milliseconds.
    fn taken_ago(&mut self, kernel: &impl Kernel, behind_bytes_min: u64) -> Option<u64> {
        let now = self.behind(kernel);
        let before = self.rare.watch().and_then(|watch| watch.behind);
        let moved_on = before.is_some_and(|before| before.has_moved_on(&now));
        if before.is_none() || moved_on {
            self.remember_behind(now, behind_bytes_min);
        }
        moved_on.then(|| now.outgoing.taken.map_or(0, |taken| taken.ago_ms))
    }

    fn behind(&self, kernel: &impl Kernel) -> Behind {
        Behind {
            queued_bytes: self.queued_bytes() as u64,
            outgoing: kernel.outgoing(),
            is_sending: self.sending,
            guesses: 0,
        }
    }

    fn remember_behind(&mut self, behind: Behind, bytes_min: u64) {
        if behind.bytes() >= bytes_min {
            self.rare.watch_mut().behind = Some(behind);
        } else if self.rare.watch().is_some() {
            self.rare.watch_mut().behind = None;
        }
    }

    /// Whether the message in progress gets on, if there is one. Returns after how many
    /// milliseconds to look again, if at all, or nothing when it does not.
    fn look_at_message(&mut self, kernel: &impl Kernel, shared: &Shared) -> Option<Option<u64>> {
        let Some(timeout_ms) = message_ms(&shared.config) else {
            return Some(None);
        };
        let Some(unfinished) = self.unfinished() else {
            self.forgive_message();
            return Some(Some(timeout_ms));
        };
        let begun = Begun {
            bytes: unfinished.payload_bytes,
            at_ms: shared.now.as_ms() as u32,
        };
        let before = self.rare.watch().and_then(|watch| watch.message);
        if let Some(before) = before.filter(|_| !unfinished.is_new && !self.paused) {
            let elapsed_ms = u64::from(begun.at_ms.wrapping_sub(before.at_ms));
            if elapsed_ms < timeout_ms {
                return Some(Some(timeout_ms - elapsed_ms));
            }
            let grown = begun.bytes.saturating_sub(before.bytes);
            if grown < LEAST_BYTES && kernel.unread_bytes() == 0 {
                return None;
            }
        }
        self.rare.watch_mut().message = Some(begun);
        Some(Some(timeout_ms))
    }

    /// What has begun and is not whole: a message, or the record around it.
    fn unfinished(&mut self) -> Option<Unfinished> {
        let message = self.endpoint.unfinished();
        let record = self.rare.tls_mut().and_then(|tls| tls.unfinished());
        match (message, record) {
            (Some(message), Some(record)) => Some(Unfinished {
                payload_bytes: message.payload_bytes + record.payload_bytes,
                is_new: message.is_new,
            }),
            (one, other) => one.or(other),
        }
    }

    /// Ends what does not get on: tells the peer, and remembers why.
    pub fn give_up_message(&mut self, shared: &mut Shared) {
        shared.counts.timeouts += 1;
        self.ends(CloseCause::Timeout(Timeout::Message));
        let (endpoint, mut context) = self.split(shared);
        endpoint.give_up(&mut context);
    }

    /// What is in progress has all of its time again: it was this side that did not read.
    #[inline]
    pub fn forgive_message(&mut self) {
        if self.rare.watch().is_some() {
            self.rare.watch_mut().message = None;
        }
    }

    /// Whether what is unread gives the connection [`RESPITE_MS`] beyond its deadline. It does so
    /// once: whoever floods does not live for ever.
    pub fn is_respited(&mut self, kernel: &impl Kernel) -> bool {
        let had = self.rare.watch().is_some_and(|watch| watch.is_respited);
        if had || self.paused || kernel.unread_bytes() == 0 {
            return false;
        }
        self.rare.watch_mut().is_respited = true;
        true
    }

    /// Nothing more is queued from here on: remembers what the peer has to take.
    pub fn begin_end(&mut self, kernel: &impl Kernel) {
        let behind = self.behind(kernel);
        self.remember_behind(behind, behind.least_at_end());
        // The respite of the opening handshake is not the one of the closing handshake.
        if self.rare.watch().is_some() {
            self.rare.watch_mut().is_respited = false;
        }
    }

    /// The deadline of a connection at its end is due. Returns for how many milliseconds it goes
    /// on, if at all: until all of the time is over since the peer has last taken some of what was
    /// left for it.
    pub fn look_at_end(&mut self, kernel: &impl Kernel, config: &Config) -> Option<u64> {
        let least = self.behind(kernel).least_at_end();
        let Some(ago_ms) = self.taken_ago(kernel, least) else {
            return self.guess_again(config.close_timeout_ms);
        };
        let rest_ms = config.close_timeout_ms.saturating_sub(ago_ms);
        (rest_ms > 0).then_some(rest_ms)
    }

    /// It was seen to take nothing. After how many milliseconds to look again all the same, if at
    /// all: for half of its time at most.
    fn guess_again(&mut self, timeout_ms: u64) -> Option<u64> {
        if !self.is_guessed() {
            return None;
        }
        let behind = self.rare.watch_mut().behind.as_mut()?;
        behind.guesses += 1;
        (u64::from(behind.guesses) <= GUESSES / 2).then(|| timeout_ms.div_ceil(GUESSES))
    }

    /// An idle connection holds no memory for this.
    fn forget_empty_watch(&mut self) {
        if self.rare.watch() == Some(&Watch::default()) {
            self.rare.drop_watch();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conn::Stage,
        proto::Role,
        ring::{Taken, Time},
    };

    /// A Unix socket whose peer empties its kernel four times in a second, so that it is found
    /// alike twice in each; or not at all.
    struct Emptied {
        now_ms: u64,
        is_read: bool,
    }

    impl Kernel for Emptied {
        fn unread_bytes(&self) -> u64 {
            0
        }

        fn outgoing(&self) -> Outgoing {
            let emptied = if self.is_read { self.now_ms % 250 } else { 0 };
            Outgoing {
                held_bytes: 212_000 - 640 * emptied,
                taken: None,
            }
        }
    }

    fn link() -> Link {
        let mut link = Link::new(Role::Server, Stage::Open);
        // A long send is under way.
        link.sending = true;
        link
    }

    fn shared(now_ms: u64) -> Shared {
        let config = Config {
            idle_timeout_ms: 1000,
            close_timeout_ms: 1000,
            ..Config::default()
        };
        let mut shared = Shared::new(config, [0; 32]);
        shared.now = Time::from_ns(now_ms * 1_000_000);
        shared
    }

    /// For how many milliseconds the peer is thought to be there, up to ten seconds.
    fn lives_ms(is_read: bool, mut look: impl FnMut(&Emptied, u64) -> Option<u64>) -> u64 {
        let mut now_ms = 0;
        while now_ms < 10_000 {
            match look(&Emptied { now_ms, is_read }, now_ms) {
                Some(after_ms) => now_ms += after_ms,
                None => break,
            }
        }
        now_ms
    }

    /// A peer that takes everything at once and says nothing.
    struct Silent;

    impl Kernel for Silent {
        fn unread_bytes(&self) -> u64 {
            0
        }

        fn outgoing(&self) -> Outgoing {
            Outgoing {
                held_bytes: 0,
                taken: Some(Taken {
                    bytes: 0,
                    ago_ms: 1 << 20,
                }),
            }
        }
    }

    /// When a silent peer is pinged, in the first ten seconds, and when it is dropped.
    fn silence(
        idle_timeout_ms: u64,
        ping_interval_ms: u64,
        reads: bool,
    ) -> (Vec<u64>, Option<u64>) {
        let (mut link, mut shared) = (Link::new(Role::Server, Stage::Open), shared(0));
        shared.config.idle_timeout_ms = idle_timeout_ms;
        shared.config.ping_interval_ms = ping_interval_ms;
        shared.config.message_timeout_ms = 0;
        let (mut pinged, mut at) = (Vec::new(), first_look_ms(&shared.config));
        while let Some(now_ms) = at.filter(|&ms| ms <= 10_000) {
            shared.now = Time::from_ns(now_ms * 1_000_000);
            let before = link.queued_bytes();
            let look = link.look(&Silent, &mut shared);
            if link.queued_bytes() > before {
                pinged.push(now_ms);
            }
            if reads {
                link.release_queues(&mut shared.arena);
            }
            match look {
                Look::Again(after_ms) => at = after_ms.map(|ms| now_ms + ms),
                _ => return (pinged, Some(now_ms)),
            }
        }
        (pinged, None)
    }

    #[test]
    fn a_silent_peer_is_pinged_in_intervals_and_dropped_in_time() {
        for (idle_ms, ping_ms, pinged, dropped) in [
            (5_000, 1_500, &[1_500, 3_000, 4_500][..], Some(5_000)),
            (5_000, 25_000, &[2_500], Some(5_000)),
            (5_000, 0, &[], Some(5_000)),
            (0, 4_000, &[4_000, 8_000], None),
            (0, 0, &[], None),
        ] {
            let silence = silence(idle_ms, ping_ms, true);
            assert_eq!(silence, (pinged.to_vec(), dropped), "{idle_ms} {ping_ms}");
        }
    }

    #[test]
    fn pings_do_not_pile_up_before_who_does_not_read() {
        assert_eq!(silence(0, 1_000, false), (vec![1_000], None));
        assert_eq!(silence(5_000, 1_000, false), (vec![1_000], Some(5_000)));
    }

    #[test]
    fn who_was_not_looked_at_in_time_is_asked_first() {
        let (mut link, mut shared) = (Link::new(Role::Server, Stage::Open), shared(0));
        shared.config.message_timeout_ms = 0;
        // This side was stopped for a minute.
        shared.now = Time::from_ns(60_000 * 1_000_000);
        assert_eq!(link.look(&Silent, &mut shared), Look::Again(Some(500)));
        shared.now = shared.now.plus_ms(500);
        assert_eq!(link.look(&Silent, &mut shared), Look::Idle);
    }

    #[test]
    fn who_takes_much_of_a_unix_socket_is_not_idle() {
        for (is_read, least_ms, most_ms) in [(true, 10_000, u64::MAX), (false, 1_000, 1_100)] {
            let (mut link, mut shared) = (link(), shared(0));
            let lives = lives_ms(is_read, |kernel, now_ms| {
                shared.now = Time::from_ns(now_ms * 1_000_000);
                match link.look(kernel, &mut shared) {
                    Look::Again(after_ms) => after_ms,
                    Look::Idle | Look::MessageLate => None,
                }
            });
            assert!(
                lives >= least_ms && lives <= most_ms,
                "{is_read}: {lives} ms"
            );
        }
    }

    #[test]
    fn who_takes_much_of_a_unix_socket_has_time_at_the_end() {
        for (is_read, least_ms, most_ms) in [(true, 10_000, u64::MAX), (false, 1_000, 1_600)] {
            let (mut link, shared) = (link(), shared(0));
            link.begin_end(&Emptied { now_ms: 0, is_read });
            let lives = lives_ms(is_read, |kernel, now_ms| match now_ms {
                0 => Some(1000),
                _ => link.look_at_end(kernel, &shared.config),
            });
            assert!(
                lives >= least_ms && lives <= most_ms,
                "{is_read}: {lives} ms"
            );
        }
    }
}
