//! What messages are made of, and whether what came back is what was sent.
//!
//! Knows: stamps, payloads, what is unanswered on one connection. Refuses to know: connections,
//! clocks, histograms.
//!
//! ```text
//!   payload   | sequence   | stream  | check   | filler ...            |
//!   digits    |     7      |    4    |    5    | the same for a size,  |
//!   bits      |    42      |   24    |   30    | four variants in turn |
//! ```
//!
//! A stamp is 16 digits of 6 bits each, the least significant first, from `0` (0x30) to `o` (0x6f):
//! ASCII, so that text and binary messages have the same one. A message that is too short for all
//! of it has as many digits as fit; it is recognised by the place in which it comes back and by
//! those.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ringwire::{Message, MessageKind, Outgoing};

use crate::result::{TextScript, Verify};

/// Bytes of a whole stamp.
pub const STAMP_BYTES: usize = 16;

/// Digits that hold the sequence: a message with as many names itself.
const SEQUENCE_DIGITS: usize = 7;
const SEQUENCE_BITS: u32 = 42;
const STREAM_BITS: u32 = 24;
const CHECK_BITS: u32 = 30;
const DIGITS: u64 = 0x3030_3030_3030_3030;

/// One reply in this many is compared byte by byte when sampling.
const SAMPLE_EVERY: u64 = 64;

/// Fillers take turns, so that the bytes of one message do not pass for those of the next.
const VARIANTS: u64 = 4;

/// A filler longer than this has one variant only, for the memory's sake.
const VARIANTS_BYTES_MAX: usize = 1 << 20;

/// Records of a size, over all their variants.
const RECORDS_BYTES: usize = 4 << 20;

/// How many places ahead a reply that cannot name itself is looked for.
const SEARCH_MAX: usize = 63;

/// A connection that ends cuts short what is younger than this and twice the time of its longest
/// answer, in nanoseconds: nobody can have read and answered it for certain.
const CUT_SHORT_NS: u64 = 10_000_000;

/// Messages in a row that are remembered behind an unanswered one; it is remembered by itself then.
const ROW_MAX: usize = 1 << 12;

/// Digits of the two instants that a timed payload carries behind its stamp.
const INSTANT_DIGITS: usize = 8;

/// Bytes of a payload that says when it was due and when it was sent.
pub const TIMED_BYTES: usize = STAMP_BYTES + 2 * INSTANT_DIGITS;

/// 48 bits as eight digits.
#[inline]
const fn digits(bits: u64) -> [u8; 8] {
    let x = (bits & 0xff_ffff) | ((bits & 0xffff_ff00_0000) << 8);
    let x = (x & 0x0000_0fff_0000_0fff) | ((x & 0x00ff_f000_00ff_f000) << 4);
    let x = (x & 0x003f_003f_003f_003f) | ((x & 0x0fc0_0fc0_0fc0_0fc0) << 2);
    (x + DIGITS).to_le_bytes()
}

/// The reverse. `None` when one of them is no digit.
#[inline]
fn bits(digits_read: [u8; 8]) -> Option<u64> {
    let x = u64::from_le_bytes(digits_read).wrapping_sub(DIGITS) & 0x3f3f_3f3f_3f3f_3f3f;
    let x = (x & 0x003f_003f_003f_003f) | ((x & 0x3f00_3f00_3f00_3f00) >> 2);
    let x = (x & 0x0000_0fff_0000_0fff) | ((x & 0x0fff_0000_0fff_0000) >> 4);
    let x = (x & 0xff_ffff) | ((x & 0x00ff_ffff_0000_0000) >> 8);
    (digits(x) == digits_read).then_some(x)
}

/// Spreads bits, as the finalizer of MurmurHash3 does.
#[inline]
const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Which message of which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The connection's number in the run.
    pub stream: u32,
    /// The message's number on its connection.
    pub sequence: u64,
}

/// A name as one number; two have the same only when both are beyond what a run reaches.
#[inline]
const fn named(name: Name) -> u64 {
    (name.stream as u64).rotate_left(64 - STREAM_BITS) ^ name.sequence
}

/// A size of payloads and its weight among the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SizeWeight {
    /// Bytes of payload.
    pub size_bytes: usize,
    /// From 0 to 1; all of them add up to 1.
    pub weight: f64,
}

/// What payloads are to be.
#[derive(Clone, Debug)]
pub struct PayloadPlan {
    /// Sizes and their weights, at least one.
    pub sizes: Vec<SizeWeight>,
    /// Text or binary.
    pub kind: MessageKind,
    /// What text is made of.
    pub script: TextScript,
    /// Tells the messages of this run from those of any other.
    pub nonce: u64,
    /// Messages to send as they are, in turn, instead of made ones; empty: none. Those of text are
    /// UTF-8.
    pub given: Arc<[Vec<u8>]>,
}

#[derive(Clone, Debug)]
enum Body {
    Text(String),
    Binary(Vec<u8>),
}

impl Body {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

#[derive(Clone, Debug)]
struct Sized {
    len: usize,
    /// Messages below this draw, and not below that of the size before, have this size.
    draw_below: u64,
    variants: Vec<Body>,
}

/// The payloads of one shard, made before the run.
#[derive(Clone, Debug)]
pub struct Payloads {
    sizes: Vec<Sized>,
    /// Without a stamp, as nobody may write into them.
    given: Vec<Body>,
    kind: MessageKind,
    nonce: u64,
}

impl Payloads {
    /// Makes the fillers of every size.
    ///
    /// # Panics
    ///
    /// When there is no size.
    pub fn new(plan: &PayloadPlan) -> Self {
        assert!(!plan.sizes.is_empty(), "the plan has at least one size");
        let mut below = 0.0;
        let mut sizes: Vec<Sized> = plan
            .sizes
            .iter()
            .map(|size| {
                below += size.weight;
                let variants = if size.size_bytes > VARIANTS_BYTES_MAX {
                    1
                } else if plan.script == TextScript::Json {
                    // With context takeover, fillers that come again soon would compress to
                    // nothing.
                    (RECORDS_BYTES / size.size_bytes.max(1)).max(VARIANTS as usize) as u64
                } else {
                    VARIANTS
                };
                Sized {
                    len: size.size_bytes,
                    draw_below: (below * 2_f64.powi(32)) as u64,
                    variants: (0..variants)
                        .map(|variant| body(size.size_bytes, plan.kind, plan.script, variant))
                        .collect(),
                }
            })
            .collect();
        // Whatever rounding took from the sum of the weights.
        if let Some(last) = sizes.last_mut() {
            last.draw_below = u64::MAX;
        }
        let given = plan.given.iter().map(|bytes| match plan.kind {
            MessageKind::Binary => Body::Binary(bytes.clone()),
            // The plan has refused what is no UTF-8.
            MessageKind::Text => Body::Text(String::from_utf8_lossy(bytes).into_owned()),
        });
        Self {
            sizes,
            given: given.collect(),
            kind: plan.kind,
            nonce: plan.nonce,
        }
    }

    /// The message that is sent as it is under this name, if there are such ones. Connections begin
    /// at different ones.
    #[inline]
    fn given(&self, name: Name) -> Option<&Body> {
        if self.given.is_empty() {
            return None;
        }
        let index = (name.sequence + u64::from(name.stream)) % self.given.len() as u64;
        self.given.get(index as usize)
    }

    /// Whether a message of so many bytes says which one it is.
    #[inline]
    fn names_itself(&self, len: usize) -> bool {
        len >= SEQUENCE_DIGITS && self.given.is_empty()
    }

    /// Which size a message has: drawn from its name, so that nobody has to remember it.
    #[inline]
    fn size_index(&self, name: Name) -> usize {
        if self.sizes.len() == 1 {
            return 0;
        }
        let draw = mix(named(name) ^ self.nonce) >> 32;
        self.sizes
            .iter()
            .position(|size| draw < size.draw_below)
            .unwrap_or(0)
    }

    /// Bytes of payload of a message.
    #[inline]
    pub fn len(&self, name: Name) -> usize {
        if let Some(given) = self.given(name) {
            return given.bytes().len();
        }
        self.sizes[self.size_index(name)].len
    }

    /// The longest payload.
    pub fn len_max(&self) -> usize {
        let given = self.given.iter().map(|body| body.bytes().len());
        let made = self.sizes.iter().map(|size| size.len);
        match self.given.is_empty() {
            true => made.max().unwrap_or(0),
            false => given.max().unwrap_or(0),
        }
    }

    #[inline]
    fn stamp(&self, name: Name, len: usize) -> [u8; STAMP_BYTES] {
        let (sequence, stream) = (name.sequence, u64::from(name.stream));
        // An odd factor, so that no two lengths look alike.
        let spread = (len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let check = mix(named(name) ^ self.nonce.rotate_left(17) ^ spread) >> (64 - CHECK_BITS);
        let low = (sequence & ((1 << SEQUENCE_BITS) - 1)) | (stream << SEQUENCE_BITS);
        let high = (stream >> 6) | (check << (STREAM_BITS - 6));
        let mut stamp = [0; STAMP_BYTES];
        stamp[..8].copy_from_slice(&digits(low & ((1 << 48) - 1)));
        stamp[8..].copy_from_slice(&digits(high & ((1 << 48) - 1)));
        stamp
    }

    /// The message of this name, stamped.
    #[inline]
    pub fn outgoing(&mut self, name: Name) -> Outgoing<'_> {
        self.stamped(name, None)
    }

    /// The same with two instants behind the stamp, in nanoseconds of 48 bits each. The payload has
    /// [`TIMED_BYTES`] at least.
    #[inline]
    pub fn outgoing_timed(&mut self, name: Name, due_ns: u64, sent_ns: u64) -> Outgoing<'_> {
        self.stamped(name, Some((due_ns, sent_ns)))
    }

    #[inline]
    fn stamped(&mut self, name: Name, instants: Option<(u64, u64)>) -> Outgoing<'_> {
        if !self.given.is_empty() {
            return match self.given(name) {
                Some(Body::Text(text)) => text.as_str().into(),
                Some(Body::Binary(bytes)) => bytes.as_slice().into(),
                None => (&[][..]).into(),
            };
        }
        let index = self.size_index(name);
        let len = self.sizes[index].len;
        let mut front = [0; TIMED_BYTES];
        front[..STAMP_BYTES].copy_from_slice(&self.stamp(name, len));
        let mut front_len = STAMP_BYTES.min(len);
        if let Some((due_ns, sent_ns)) = instants {
            front[STAMP_BYTES..STAMP_BYTES + INSTANT_DIGITS].copy_from_slice(&digits(due_ns));
            front[STAMP_BYTES + INSTANT_DIGITS..].copy_from_slice(&digits(sent_ns));
            front_len = TIMED_BYTES;
        }
        let front = &front[..front_len];
        let variants = &mut self.sizes[index].variants;
        let variant = name.sequence as usize % variants.len();
        match &mut variants[variant] {
            Body::Text(text) => {
                // In place: as many bytes as there were.
                text.replace_range(..front_len, str::from_utf8(front).unwrap_or_default());
                text.as_str().into()
            }
            Body::Binary(bytes) => {
                bytes[..front_len].copy_from_slice(front);
                bytes.as_slice().into()
            }
        }
    }

    /// Whether this is the message of this name: kind, length and stamp, and if wanted every byte.
    #[inline]
    pub fn matches(&self, message: &Message<'_>, name: Name, compare: bool) -> bool {
        if let Some(given) = self.given(name) {
            // Nothing but all of it tells which one it is.
            return message.kind() == self.kind && message.payload() == given.bytes();
        }
        let size = &self.sizes[self.size_index(name)];
        let payload = message.payload();
        if payload.len() != size.len || message.kind() != self.kind {
            return false;
        }
        let stamp = self.stamp(name, size.len);
        let Some((front, filler)) = payload.split_first_chunk::<STAMP_BYTES>() else {
            return payload == &stamp[..payload.len()];
        };
        *front == stamp
            && (!compare || {
                let variant = name.sequence as usize % size.variants.len();
                filler == &size.variants[variant].bytes()[STAMP_BYTES..]
            })
    }

    /// Whether a timed payload is the one of this name, byte by byte behind its instants.
    pub fn matches_timed(&self, message: &Message<'_>, name: Name) -> bool {
        let size = &self.sizes[self.size_index(name)];
        let variant = name.sequence as usize % size.variants.len();
        message.kind() == self.kind
            && message.payload().len() == size.len
            && message.payload().get(TIMED_BYTES..)
                == size.variants[variant].bytes().get(TIMED_BYTES..)
    }

    /// The name that a payload bears, when it is whole and one of this run's.
    pub fn name_of(&self, payload: &[u8]) -> Option<Name> {
        let front = payload.first_chunk::<STAMP_BYTES>()?;
        let low = bits(front[..8].try_into().ok()?)?;
        let high = bits(front[8..].try_into().ok()?)?;
        let name = Name {
            sequence: low & ((1 << SEQUENCE_BITS) - 1),
            stream: ((low >> SEQUENCE_BITS) | (high << 6)) as u32 & ((1 << STREAM_BITS) - 1),
        };
        (self.stamp(name, payload.len()) == *front).then_some(name)
    }

    /// The sequence that a payload bears whose stamp is cut short or not, judged by what is there.
    fn sequence_of(&self, payload: &[u8], stream: u32) -> Option<u64> {
        if payload.len() >= STAMP_BYTES {
            let name = self.name_of(payload)?;
            return (name.stream == stream).then_some(name.sequence);
        }
        let mut front = [b'0'; 8];
        front[..SEQUENCE_DIGITS].copy_from_slice(payload.get(..SEQUENCE_DIGITS)?);
        let sequence = bits(front)?;
        let stamp = self.stamp(Name { stream, sequence }, payload.len());
        (payload == &stamp[..payload.len()]).then_some(sequence)
    }
}

/// The two instants of a payload that [`Payloads::outgoing_timed`] made: when it was due, and when
/// it was sent.
pub fn instants_of(payload: &[u8]) -> Option<(u64, u64)> {
    let (_, behind) = payload.split_first_chunk::<STAMP_BYTES>()?;
    let (due, behind) = behind.split_first_chunk::<INSTANT_DIGITS>()?;
    let sent = behind.first_chunk::<INSTANT_DIGITS>()?;
    Some((bits(*due)?, bits(*sent)?))
}

/// Records in JSON, as many as fit into `len` bytes, other ones for each variant.
fn push_records(text: &mut String, len: usize, variant: u64) {
    const NAMES: [&str; 8] = [
        "alice", "bob", "carol", "dave", "mallory", "peggy", "trent", "victor",
    ];
    const WORDS: [&str; 12] = [
        "the", "server", "message", "order", "filled", "price", "market", "update", "please",
        "check", "again", "later",
    ];
    let mut state = mix(variant + 1);
    let mut below = |bound: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 33) % bound
    };
    loop {
        let words: Vec<&str> = (0..3 + below(8))
            .map(|_| WORDS[below(12) as usize])
            .collect();
        let record = format!(
            ",{{\"id\":{},\"user\":\"{}\",\"price\":{}.{:02},\"time\":\"2026-{:02}-{:02}T{:02}:\
             {:02}:{:02}.{:03}Z\",\"active\":{},\"text\":\"{}\"}}",
            below(1 << 30),
            NAMES[below(8) as usize],
            below(1000),
            below(100),
            1 + below(12),
            1 + below(28),
            below(24),
            below(60),
            below(60),
            below(1000),
            below(2) == 0,
            words.join(" "),
        );
        if text.len() + record.len() > len {
            return;
        }
        text.push_str(&record);
    }
}

/// A payload of `len` bytes whose first 16 bytes wait for a stamp.
fn body(len: usize, kind: MessageKind, script: TextScript, variant: u64) -> Body {
    let front = STAMP_BYTES.min(len);
    match kind {
        MessageKind::Binary => {
            let mut random = mix(variant + 1);
            let bytes = (0..len)
                .map(|_| {
                    random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    (random >> 56) as u8
                })
                .collect();
            Body::Binary(bytes)
        }
        MessageKind::Text => {
            let mut text = "0".repeat(front);
            // A timed payload writes behind the stamp as well: that far it has to be ASCII.
            while text.len() < len.min(TIMED_BYTES) {
                text.push('-');
            }
            if script == TextScript::Json {
                push_records(&mut text, len, variant);
            }
            let start = variant as u32 * 7;
            for step in 0.. {
                let next = match script {
                    TextScript::Ascii | TextScript::Json => {
                        char::from(b'a' + ((start + step) % 26) as u8)
                    }
                    // The block of CJK unified ideographs begins at U+4E00.
                    TextScript::Cjk => {
                        char::from_u32(0x4e00 + (start + step) % 5000).unwrap_or('\u{4e00}')
                    }
                };
                if text.len() + next.len_utf8() > len {
                    break;
                }
                text.push(next);
            }
            while text.len() < len {
                text.push('.');
            }
            Body::Text(text)
        }
    }
}

/// A message that was sent and may still be answered.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    due_ns: u64,
    sent_ns: u64,
    answered: bool,
}

/// What a reply turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It answers this message for the first time.
    Answers {
        /// When the message was due.
        due_ns: u64,
        /// When it was sent.
        sent_ns: u64,
        /// It came after the reply to a later message.
        reordered: bool,
        /// Length, kind, stamp or content are not what was sent.
        corrupted: bool,
        /// It was compared byte by byte.
        compared: bool,
    },
    /// The message was answered before.
    Duplicate,
    /// It answers nothing that was sent.
    Foreign,
}

/// What became of messages that were never answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unheard {
    /// They should have been: their time was over, or their connection ended long after an answer
    /// was due.
    pub lost: u64,
    /// Nobody can tell: their connection ended, or the run did, while an answer could still come.
    pub cut_off: u64,
}

/// What is unanswered on one connection, in the order in which it was sent.
#[derive(Debug)]
pub struct Ledger {
    stream: u32,
    /// When the connection ended, if it did before the run.
    ended_ns: Option<u64>,
    /// The longest that an answer took.
    longest_ns: u64,
    /// Messages before the first answer that are none of ours, and how many of them came before
    /// anything was sent.
    early: u64,
    early_unasked: u64,
    /// Of earlier connections of its place: all of them, and the most on one.
    early_before: u64,
    early_most: u64,
    /// The sequence of the first message of the connection that its place has now.
    opened_at: u64,
    /// The sequence of the first entry.
    first: u64,
    entries: VecDeque<Unanswered>,
    /// Entries before this sequence do not count as open: later ones were answered, or they were
    /// given up.
    overtaken_to: u64,
    /// Unanswered and neither overtaken nor given up.
    open: usize,
    /// The sequence after the latest that was answered.
    answered_to: u64,
    /// Unanswered messages from before `first`, by their sequence: lost ones, most likely.
    stragglers: BTreeMap<u64, Unanswered>,
}

impl Ledger {
    /// An empty one, for connection `stream` of the run.
    pub fn new(stream: u32) -> Self {
        Self {
            stream,
            ended_ns: None,
            longest_ns: 0,
            early: 0,
            early_unasked: 0,
            early_before: 0,
            early_most: 0,
            opened_at: 0,
            first: 0,
            entries: VecDeque::new(),
            overtaken_to: 0,
            open: 0,
            answered_to: 0,
            stragglers: BTreeMap::new(),
        }
    }

    /// The name of the message to send next.
    #[inline]
    pub fn next_name(&self) -> Name {
        Name {
            stream: self.stream,
            sequence: self.first + self.entries.len() as u64,
        }
    }

    /// That message was sent.
    #[inline]
    pub fn sent(&mut self, due_ns: u64, sent_ns: u64) {
        self.entries.push_back(Unanswered {
            due_ns,
            sent_ns,
            answered: false,
        });
        self.open += 1;
    }

    /// Messages whose reply is waited for: not those that a later reply overtook or that were given
    /// up.
    #[inline]
    pub const fn open(&self) -> usize {
        self.open
    }

    /// What a message that came is.
    #[inline]
    pub fn receive(&mut self, payloads: &Payloads, message: &Message<'_>, verify: Verify) -> Reply {
        let name = Name {
            stream: self.stream,
            sequence: self.first,
        };
        if let Some(&front) = self.entries.front() {
            let compare = compares(verify, name);
            if payloads.matches(message, name, compare) {
                let reordered = name.sequence + 1 < self.answered_to;
                self.answer(0);
                return Reply::Answers {
                    due_ns: front.due_ns,
                    sent_ns: front.sent_ns,
                    reordered,
                    corrupted: false,
                    compared: compare,
                };
            }
        }
        self.search(payloads, message, verify)
    }

    /// Not what was expected next: what is it?
    #[cold]
    fn search(&mut self, payloads: &Payloads, message: &Message<'_>, verify: Verify) -> Reply {
        let payload = message.payload();
        let short = !payloads.names_itself(payload.len());
        let named = match short {
            true => None,
            false => payloads.sequence_of(payload, self.stream),
        };
        let sequence = match named {
            Some(sequence) => sequence,
            None if short && self.repeats_last(payloads, message) => return Reply::Duplicate,
            None => match short.then(|| self.find_short(payloads, message)).flatten() {
                Some(sequence) => sequence,
                // Whatever it was meant to be, it came in the place of the oldest one.
                None => return self.answer_corrupted(),
            },
        };
        let name = Name {
            stream: self.stream,
            sequence,
        };
        let entry = if sequence < self.first {
            let Some(entry) = self.stragglers.remove(&sequence) else {
                return Reply::Duplicate;
            };
            entry
        } else {
            let index = (sequence - self.first) as usize;
            let Some(&entry) = self.entries.get(index) else {
                return Reply::Foreign;
            };
            if entry.answered {
                return Reply::Duplicate;
            }
            entry
        };
        let compare = compares(verify, name);
        let corrupted = !payloads.matches(message, name, compare);
        let reordered = sequence + 1 < self.answered_to;
        if sequence >= self.first {
            self.answer((sequence - self.first) as usize);
        }
        Reply::Answers {
            due_ns: entry.due_ns,
            sent_ns: entry.sent_ns,
            reordered,
            corrupted,
            compared: compare,
        }
    }

    /// Whether a short message is the one that was answered last, once more.
    fn repeats_last(&self, payloads: &Payloads, message: &Message<'_>) -> bool {
        let Some(sequence) = self.answered_to.checked_sub(1) else {
            return false;
        };
        let name = Name {
            stream: self.stream,
            sequence,
        };
        payloads.matches(message, name, false)
    }

    /// The nearest unanswered message that a short one can be the reply to: of those that are
    /// waited for, and then of those that were overtaken, the latest first.
    fn find_short(&self, payloads: &Payloads, message: &Message<'_>) -> Option<u64> {
        let overtaken = (self.overtaken_to - self.first) as usize;
        let ahead = (overtaken..self.entries.len()).take(SEARCH_MAX);
        let behind = (0..overtaken).rev().take(SEARCH_MAX);
        let mut indexes = ahead.chain(behind);
        let index = indexes.find(|&index| {
            let name = Name {
                stream: self.stream,
                sequence: self.first + index as u64,
            };
            !self.entries[index].answered && payloads.matches(message, name, false)
        })?;
        Some(self.first + index as u64)
    }

    fn answer_corrupted(&mut self) -> Reply {
        let oldest = self.entries.iter().position(|entry| !entry.answered);
        let Some(index) = oldest else {
            return Reply::Foreign;
        };
        let entry = self.entries[index];
        self.answer(index);
        Reply::Answers {
            due_ns: entry.due_ns,
            sent_ns: entry.sent_ns,
            reordered: false,
            corrupted: true,
            compared: false,
        }
    }

    /// Marks an unanswered entry, and lets go of those at the front that are answered.
    #[inline]
    fn answer(&mut self, index: usize) {
        let sequence = self.first + index as u64;
        if sequence >= self.overtaken_to {
            self.open -= 1;
        }
        self.answered_to = self.answered_to.max(sequence + 1);
        if index == 0 {
            self.entries.pop_front();
            self.first += 1;
            while self.entries.front().is_some_and(|entry| entry.answered) {
                self.entries.pop_front();
                self.first += 1;
            }
            self.overtaken_to = self.overtaken_to.max(self.first);
            return;
        }
        self.entries[index].answered = true;
        self.overtake_to(sequence);
        while self.entries.len() > ROW_MAX && self.first < self.overtaken_to {
            if let Some(entry) = self.entries.pop_front()
                && !entry.answered
            {
                self.stragglers.insert(self.first, entry);
            }
            self.first += 1;
        }
    }

    /// Entries before `sequence` are no longer waited for.
    fn overtake_to(&mut self, sequence: u64) {
        while self.overtaken_to < sequence {
            let index = (self.overtaken_to - self.first) as usize;
            if !self.entries[index].answered {
                self.open -= 1;
            }
            self.overtaken_to += 1;
        }
    }

    /// Waits no longer for messages that were sent before `before_ns`. A reply that comes all the
    /// same still counts.
    pub fn give_up(&mut self, before_ns: u64) {
        while let Some(entry) = self.entries.get((self.overtaken_to - self.first) as usize)
            && (entry.sent_ns < before_ns || entry.answered)
        {
            self.overtake_to(self.overtaken_to + 1);
        }
    }

    /// An answer took so long.
    #[inline]
    pub fn took(&mut self, ns: u64) {
        self.longest_ns = self.longest_ns.max(ns);
    }

    /// Another connection follows, on which nothing was sent yet.
    pub fn reopened(&mut self) {
        let (early, _) = self.early();
        self.early_before += early;
        self.early_most = self.early_most.max(early);
        (self.early, self.early_unasked) = (0, 0);
        self.ended_ns = None;
        self.opened_at = self.next_name().sequence;
    }

    /// The connection ended before the run did.
    pub fn ended(&mut self, now_ns: u64) {
        self.ended_ns = Some(now_ns);
    }

    /// Whether an answer can still come to a message that was sent at `since_ns` or later.
    pub fn awaits_since(&self, since_ns: u64) -> bool {
        let young = |entry: &&Unanswered| entry.sent_ns >= since_ns;
        let mut entries = self.entries.iter().rev().take_while(young);
        let mut stragglers = self.stragglers.values().rev().take_while(young);
        self.ended_ns.is_none()
            && (entries.any(|entry| !entry.answered) || stragglers.next().is_some())
    }

    /// What became of the messages that were due at `from_ns` or later and that were not answered
    /// at `now_ns`, when each may wait for `timeout_ns`.
    pub fn unheard_since(&self, from_ns: u64, now_ns: u64, timeout_ns: u64) -> Unheard {
        let mut unheard = Unheard::default();
        let patience_ns = match self.ended_ns {
            None => timeout_ns,
            Some(_) => (2 * self.longest_ns + CUT_SHORT_NS).min(timeout_ns),
        };
        let until_ns = self.ended_ns.unwrap_or(now_ns);
        let unanswered = self.entries.iter().chain(self.stragglers.values());
        for entry in unanswered.filter(|entry| !entry.answered && entry.due_ns >= from_ns) {
            if until_ns.saturating_sub(entry.sent_ns) >= patience_ns {
                unheard.lost += 1;
            } else {
                unheard.cut_off += 1;
            }
        }
        unheard
    }

    /// Whether a message can be the answer to one that was sent on this connection.
    pub fn recognises(&self, payloads: &Payloads, message: &Message<'_>) -> bool {
        let payload = message.payload();
        if !payloads.names_itself(payload.len()) {
            return self.find_short(payloads, message).is_some()
                || self.repeats_last(payloads, message);
        }
        let next = self.next_name().sequence;
        let named = payloads.sequence_of(payload, self.stream);
        named.is_some_and(|sequence| sequence < next)
    }

    /// Whether a message is one that a server sends of itself: none of ours, before any answer, and
    /// not what the oldest unanswered one would look like if it was damaged on its way. Counts it.
    pub fn is_early(&mut self, payloads: &Payloads, message: &Message<'_>) -> bool {
        if self.answered_to > self.opened_at || self.recognises(payloads, message) {
            return false;
        }
        let oldest = Name {
            stream: self.stream,
            sequence: self.first.max(self.opened_at),
        };
        let is_unasked = self.next_name().sequence == self.opened_at;
        let looks_alike =
            message.kind() == payloads.kind && message.payload().len() == payloads.len(oldest);
        if !is_unasked && looks_alike {
            return false;
        }
        self.early += 1;
        self.early_unasked += u64::from(is_unasked);
        true
    }

    /// Messages that the server sent of itself before its first answer, and those that were most
    /// likely answers, if none that is one ever came.
    pub fn early(&self) -> (u64, u64) {
        if self.answered_to > self.opened_at {
            return (self.early, 0);
        }
        (self.early_unasked, self.early - self.early_unasked)
    }

    /// Those of earlier connections of its place, and the most of them on one.
    pub const fn early_before(&self) -> (u64, u64) {
        (self.early_before, self.early_most)
    }
}

#[inline]
fn compares(verify: Verify, name: Name) -> bool {
    match verify {
        Verify::All => true,
        Verify::None => false,
        // Another place on each connection, and every variant of the filler in turn.
        Verify::Sampled => name
            .sequence
            .wrapping_add(u64::from(name.stream))
            .wrapping_add(name.sequence / SAMPLE_EVERY)
            .is_multiple_of(SAMPLE_EVERY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads(sizes: &[usize], kind: MessageKind, script: TextScript) -> Payloads {
        Payloads::new(&PayloadPlan {
            sizes: sizes
                .iter()
                .map(|&size_bytes| SizeWeight {
                    size_bytes,
                    weight: 1.0 / sizes.len() as f64,
                })
                .collect(),
            kind,
            script,
            nonce: 0x1234_5678_9abc_def0,
            given: Arc::default(),
        })
    }

    #[test]
    fn digits_are_bits_and_back() {
        let ends = [
            0,
            1,
            0x3f,
            0x40,
            (1 << 42) - 1,
            (1 << 48) - 1,
            0x1234_5678_9abc,
        ];
        for value in ends.into_iter().chain((0..10_000).map(|n| mix(n) >> 16)) {
            let written = digits(value);
            assert!(written.iter().all(|digit| (0x30..0x70).contains(digit)));
            assert_eq!(bits(written), Some(value));
            let by_hand: u64 = (0..8)
                .map(|place| u64::from(written[place] - 0x30) << (6 * place))
                .sum();
            assert_eq!(by_hand, value);
        }
        for place in 0..8 {
            for byte in (0..=0x2f).chain(0x70..=0xff) {
                let mut written = digits(0x0123_4567_89ab);
                written[place] = byte;
                assert_eq!(bits(written), None, "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn every_name_is_read_back_and_no_other_bit_passes() {
        let mut payloads = payloads(&[64], MessageKind::Binary, TextScript::Ascii);
        for stream in [0, 1, 63, 64, 4095, (1 << 24) - 1] {
            for sequence in [0, 1, 63, 64, 1 << 20, (1 << 42) - 1] {
                let name = Name { stream, sequence };
                let payload = payloads.outgoing(name).payload().to_vec();
                assert_eq!(payloads.name_of(&payload), Some(name));
                for bit in 0..STAMP_BYTES * 8 {
                    let mut wrong = payload.clone();
                    wrong[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(payloads.name_of(&wrong), None, "bit {bit}");
                }
                assert_eq!(
                    payloads.name_of(&payload[..63]),
                    None,
                    "one byte is missing"
                );
            }
        }
    }

    #[test]
    fn timed_payloads_say_when() {
        let mut payloads = payloads(&[TIMED_BYTES, 100], MessageKind::Text, TextScript::Cjk);
        for sequence in 0..100 {
            let name = Name {
                stream: 5,
                sequence,
            };
            let (due, sent) = (sequence << 40, (1 << 48) - 1 - sequence);
            let payload = payloads.outgoing_timed(name, due, sent).payload().to_vec();
            assert_eq!(instants_of(&payload), Some((due, sent)));
            assert_eq!(payloads.name_of(&payload), Some(name));
        }
        assert_eq!(instants_of(&[b'0'; TIMED_BYTES - 1]), None);
    }

    #[test]
    fn text_is_utf_8_of_every_length() {
        for script in [TextScript::Ascii, TextScript::Cjk] {
            for len in 0..200 {
                let mut payloads = payloads(&[len], MessageKind::Text, script);
                for sequence in 0..5 {
                    let name = Name {
                        stream: 1,
                        sequence,
                    };
                    let message = payloads.outgoing(name);
                    assert_eq!(message.payload_len(), len);
                    assert!(str::from_utf8(message.payload()).is_ok());
                }
            }
        }
    }

    #[test]
    fn sizes_have_their_shares() {
        let mut plan = PayloadPlan {
            sizes: vec![
                SizeWeight {
                    size_bytes: 20,
                    weight: 0.45,
                },
                SizeWeight {
                    size_bytes: 125,
                    weight: 0.45,
                },
                SizeWeight {
                    size_bytes: 16384,
                    weight: 0.1,
                },
            ],
            kind: MessageKind::Binary,
            script: TextScript::Ascii,
            nonce: 7,
            given: Arc::default(),
        };
        let payloads = Payloads::new(&plan);
        let count = 200_000;
        let mut found = [0; 3];
        for sequence in 0..count {
            let len = payloads.len(Name {
                stream: 3,
                sequence,
            });
            let index = plan.sizes.iter().position(|size| size.size_bytes == len);
            found[index.unwrap()] += 1;
        }
        for (size, found) in plan.sizes.iter().zip(found) {
            let share = f64::from(found) / count as f64;
            assert!((share - size.weight).abs() < 0.005, "{share} of {size:?}");
        }
        plan.sizes.truncate(1);
        assert_eq!(Payloads::new(&plan).len_max(), 20);
    }

    #[test]
    fn given_messages_are_sent_as_they_are_and_known_again() {
        let mut plan = PayloadPlan {
            sizes: vec![SizeWeight {
                size_bytes: 64,
                weight: 1.0,
            }],
            kind: MessageKind::Text,
            script: TextScript::Ascii,
            nonce: 7,
            given: vec![b"{\"op\":\"ping\"}".to_vec(), b"".to_vec(), "ä".into()].into(),
        };
        let mut payloads = Payloads::new(&plan);
        let name = |stream, sequence| Name { stream, sequence };
        for (stream, sequence, given) in [(0, 0, 0), (0, 1, 1), (0, 5, 2), (1, 0, 1), (2, 1, 0)] {
            let name = name(stream, sequence);
            let sent = payloads.outgoing(name).payload().to_vec();
            assert_eq!(sent, plan.given[given], "{name:?}");
            assert_eq!(payloads.len(name), sent.len());
        }
        assert_eq!(payloads.len_max(), 13);
        plan.given = Arc::default();
        assert_eq!(Payloads::new(&plan).len_max(), 64);
    }

    #[test]
    fn sampling_compares_one_in_64_and_every_variant() {
        let mut variants = [0; VARIANTS as usize];
        let count = 64 * 64 * 4;
        for sequence in 0..count {
            let name = Name {
                stream: 9,
                sequence,
            };
            if compares(Verify::Sampled, name) {
                variants[(sequence % VARIANTS) as usize] += 1;
            }
        }
        let compared: u64 = variants.iter().sum();
        assert!(compared.abs_diff(count / SAMPLE_EVERY) <= 4, "{variants:?}");
        assert!(variants.iter().all(|&one| one > 0), "{variants:?}");
    }
}
