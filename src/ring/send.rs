//! Bytes on their way out, and the chunks they are written into.
//!
//! Knows: the order of the bytes, who owns them, how many the kernel took. Refuses to know: what
//! they mean and when they should go.
//!
//! ```text
//!   SendQueue   [ chunk ......... ][ shared Bytes ...... ][ chunk ..... | space ]
//!                ^ sent up to here                                      ^ written up to here
//! ```
//!
//! A queue is filled by its owner, moved into the ring for as long as the kernel may read it, and
//! comes back with the count of bytes taken. Because it moves, nothing can change or free its bytes
//! meanwhile. Small payloads are copied into chunks; large or shared ones are adopted as
//! [`Bytes`] and never copied; what goes back as it came is sent from where it was received.
//!
//! While somebody still reads such bytes they cannot move in here yet. A place is kept for them
//! with [`SendQueue::promise`], and [`SendQueue::fulfil`] puts them there before the queue is sent.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque, hash_map::Entry},
    fmt, mem,
    ops::Range,
    rc::Rc,
};

use bytes::Bytes;

use super::RecvLease;
use crate::kernels::memory::Memory;

/// At least this many bytes of [`SendQueue::space`] lie together, so that a frame header and a
/// small payload can be written without looking for a seam.
pub const CONTIGUOUS_BYTES: usize = 256;

/// The kernel takes at most this many pieces in one send (`IOV_MAX` is 1024); a longer queue takes
/// several sends.
pub const PIECES_MAX: usize = 64;

/// Bytes in the order in which they are to be sent.
#[derive(Default)]
pub struct SendQueue {
    /// The chunk that is written to, behind all pieces; without capacity while there is none. It is
    /// kept apart because every frame written meets it, and pieces only when it is full.
    ///
    /// Its length is how much of it was ever initialised, so that memory of a chunk that nobody
    /// writes to is never touched.
    open: Vec<u8>,
    /// Bytes written to the open chunk.
    open_len: usize,
    /// Bytes not sent yet, over all pieces and the open chunk.
    len: usize,
    /// Bytes of the first piece that were sent already.
    sent: usize,
    /// Pieces that are leases on receive memory.
    leases: usize,
    /// Promises not fulfilled yet.
    promises: usize,
    pieces: VecDeque<Piece>,
    /// Where the kernel finds the pieces during a vectored send. They live here so that they stay
    /// put for as long as the boxed queue does, and are not allocated anew each time.
    iovecs: Vec<libc::iovec>,
    header: Option<libc::msghdr>,
}

/// What queues hold, to be compared with what their arena counts.
#[cfg(feature = "sim")]
#[derive(Debug, Default)]
pub struct Holdings {
    queues: usize,
    chunks: usize,
    chunk_bytes: usize,
    shared: std::collections::BTreeSet<(usize, usize)>,
    shared_bytes: usize,
    common: std::collections::BTreeSet<usize>,
    common_bytes: usize,
    /// Bytes of memory that messages were put together in.
    pub lent_bytes: usize,
}

#[cfg(feature = "sim")]
impl Holdings {
    /// Bytes that no other queue has.
    pub const fn own_bytes(&self) -> usize {
        self.chunk_bytes + self.lent_bytes
    }

    /// Adds bytes that many may hold, once.
    pub fn add_common(&mut self, common: &Common) {
        if self.common.insert(common.identity()) {
            self.common_bytes += common.len();
        }
    }
}

enum Piece {
    Chunk {
        bytes: Vec<u8>,
        len: usize,
    },
    /// A few bytes in front of shared ones, which are not worth a chunk.
    Header {
        bytes: [u8; HEADER_BYTES_MAX],
        len: u8,
    },
    Lent(Lent),
    Promised {
        len: usize,
    },
    Common(Common),
    Shared(Bytes),
}

/// Bytes that many queues of one thread hold, each by a reference of 8 bytes. They count as held
/// once, in the arena that [made](SendArena::common) them, until the last reference is gone.
#[derive(Clone, Debug)]
pub struct Common(Rc<CommonBytes>);

#[derive(Debug)]
struct CommonBytes {
    bytes: Bytes,
    held: Rc<Cell<usize>>,
}

impl Common {
    /// What they are.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    /// Which they are, to be told from others.
    #[cfg(feature = "sim")]
    fn identity(&self) -> usize {
        Rc::as_ptr(&self.0).addr()
    }
}

impl Drop for CommonBytes {
    fn drop(&mut self) {
        self.held.set(self.held.get() - self.bytes.len());
    }
}

/// The most bytes that are kept in front of shared ones without a chunk: a frame's header.
pub const HEADER_BYTES_MAX: usize = 14;

impl Piece {
    fn written(&self) -> &[u8] {
        match self {
            Self::Chunk { bytes, len } => &bytes[..*len],
            Self::Header { bytes, len } => &bytes[..usize::from(*len)],
            Self::Lent(Lent::Lease(lease)) => lease,
            Self::Lent(Lent::Memory { bytes, part }) => &bytes[part.clone()],
            Self::Promised { .. } => unreachable!("a queue is read only once promises are kept"),
            Self::Common(common) => common.bytes(),
            Self::Shared(bytes) => bytes,
        }
    }
}

/// Memory that is sent as it is and then goes back to whom it belongs, by way of
/// [`SendArena::take_returned`].
#[derive(Debug)]
pub enum Lent {
    /// Receive memory. It is scarce, so it must not wait for a slow peer: see
    /// [`SendQueue::own`].
    Lease(RecvLease),
    /// Part of a buffer of the caller's.
    Memory {
        /// The buffer.
        bytes: Memory,
        /// What of it is to be sent.
        part: Range<usize>,
    },
}

impl Lent {
    fn len(&self) -> usize {
        match self {
            Self::Lease(lease) => lease.len(),
            Self::Memory { part, .. } => part.len(),
        }
    }
}

impl SendQueue {
    /// Bytes not sent yet.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether everything was sent.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room for the next bytes: at least `min(wanted, CONTIGUOUS_BYTES)` and at most `wanted` bytes
    /// lie together. What was written there counts once [`commit`](Self::commit) says so.
    #[inline(always)]
    pub fn space(&mut self, arena: &mut SendArena, wanted: usize) -> &mut [u8] {
        if self.open.len() - self.open_len < wanted {
            self.make_space(arena, wanted);
        }
        let end = self.open.len().min(self.open_len + wanted);
        &mut self.open[self.open_len..end]
    }

    /// Initialises more of the open chunk, or opens another one.
    #[cold]
    fn make_space(&mut self, arena: &mut SendArena, wanted: usize) {
        if self.open.capacity() - self.open_len < wanted.min(CONTIGUOUS_BYTES) {
            self.open_another(arena, wanted);
        }
        let most = self.open.capacity();
        let needed = (self.open_len + wanted.max(CONTIGUOUS_BYTES)).min(most);
        // A chunk that was used before may have enough of it.
        if self.open.len() < needed {
            let ahead = needed.max(2 * self.open.len()).min(most);
            self.open.resize(ahead, 0);
        }
    }

    /// Opens a chunk for `wanted` bytes more, or as many of them as it has room for.
    fn open_another(&mut self, arena: &mut SendArena, wanted: usize) {
        if self.open.capacity() == 0 && !self.pieces.is_empty() {
            // Between shared bytes there may be little. Who has filled a chunk gets large ones.
            let is_long = matches!(self.pieces.back(), Some(Piece::Chunk { .. }));
            self.open = arena.chunk(if is_long { arena.large.bytes } else { wanted });
            return;
        }
        if !self.pieces.is_empty() || !arena.is_tiny(&self.open) {
            self.seal();
            self.open = arena.chunk(arena.large.bytes);
            return;
        }
        // A queue that starts with little is most often one with a few replies. Where it is not,
        // what it has moves: that costs less than a second piece in the send.
        let mut chunk = arena.chunk(self.open_len + wanted);
        if chunk.len() < self.open_len {
            chunk.resize(self.open_len, 0);
        }
        chunk[..self.open_len].copy_from_slice(&self.open[..self.open_len]);
        let tiny = mem::replace(&mut self.open, chunk);
        if tiny.capacity() > 0 {
            arena.keep(tiny);
        }
    }

    /// Makes the open chunk a piece like the others.
    fn seal(&mut self) {
        if self.open.capacity() > 0 {
            let (bytes, len) = (mem::take(&mut self.open), mem::take(&mut self.open_len));
            self.pieces.push_back(Piece::Chunk { bytes, len });
        }
    }

    /// Counts `bytes` more bytes of the last [`space`](Self::space) as written.
    ///
    /// # Panics
    ///
    /// When the space was smaller.
    #[inline(always)]
    pub fn commit(&mut self, bytes: usize) {
        let committed = self.open_len + bytes;
        assert!(
            committed <= self.open.len(),
            "more bytes were committed than there was space for"
        );
        self.open_len = committed;
        self.len += bytes;
    }

    /// Copies `bytes` to the end.
    pub fn write(&mut self, arena: &mut SendArena, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space(arena, bytes.len());
            let count = space.len();
            let (now, later) = bytes.split_at(count);
            space.copy_from_slice(now);
            self.commit(count);
            bytes = later;
        }
    }

    /// Puts `bytes` at the end without copying them.
    pub fn adopt(&mut self, arena: &mut SendArena, bytes: Bytes) {
        if !bytes.is_empty() {
            self.seal();
            self.len += bytes.len();
            arena.share(&bytes);
            self.pieces.push_back(Piece::Shared(bytes));
        }
    }

    /// Puts bytes at the end that other queues may hold as well.
    #[inline]
    pub fn push_common(&mut self, common: Common) {
        self.seal();
        self.len += common.len();
        self.pieces.push_back(Piece::Common(common));
    }

    /// Pieces that it has room for in what one send takes.
    #[inline]
    pub fn room_for_pieces(&self) -> usize {
        let open = usize::from(self.open_len > 0);
        PIECES_MAX.saturating_sub(self.pieces.len() + open)
    }

    /// Puts a header of at most [`HEADER_BYTES_MAX`] bytes at the end and `payload` behind it,
    /// without copying that. It takes a chunk only where one is open.
    ///
    /// # Panics
    ///
    /// When the header is longer.
    pub fn adopt_framed(&mut self, arena: &mut SendArena, header: &[u8], payload: Bytes) {
        if self.open.len() - self.open_len >= header.len() {
            self.write(arena, header);
        } else {
            self.seal();
            let mut bytes = [0; HEADER_BYTES_MAX];
            bytes[..header.len()].copy_from_slice(header);
            let len = header.len() as u8;
            self.len += header.len();
            self.pieces.push_back(Piece::Header { bytes, len });
        }
        self.adopt(arena, payload);
    }

    /// Bytes of memory that it holds, whatever is in it: shared bytes among them and messages that
    /// were lent, and no receive memory.
    pub fn held_bytes(&self) -> usize {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Chunk { bytes, .. } => bytes.capacity(),
            Piece::Shared(bytes) => bytes.len(),
            Piece::Lent(Lent::Memory { bytes, .. }) => bytes.len(),
            Piece::Lent(Lent::Lease(_)) | Piece::Header { .. } | Piece::Promised { .. } => 0,
            // Nobody gets any of it back before all are done with it.
            Piece::Common(_) => 0,
        });
        self.open.capacity() + pieces.sum::<usize>() + self.pieces.capacity() * size_of::<Piece>()
    }

    /// Adds what it holds to a sum.
    #[cfg(feature = "sim")]
    pub fn add_to(&self, holdings: &mut Holdings) {
        holdings.queues += 1;
        let open = (self.open.capacity() > 0).then_some(&self.open);
        let sealed = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Chunk { bytes, .. } => Some(bytes),
            _ => None,
        });
        for chunk in open.into_iter().chain(sealed) {
            holdings.chunks += 1;
            holdings.chunk_bytes += chunk.capacity();
        }
        for piece in &self.pieces {
            match piece {
                Piece::Shared(bytes) if holdings.shared.insert(identity(bytes)) => {
                    holdings.shared_bytes += bytes.len();
                }
                Piece::Lent(Lent::Memory { bytes, .. }) => holdings.lent_bytes += bytes.len(),
                Piece::Common(common) => holdings.add_common(common),
                _ => {}
            }
        }
    }

    /// Keeps a place for `len` bytes that will be lent. Returns the name of the promise, for
    /// [`fulfil`](Self::fulfil), which has to come before anything else than writing.
    pub fn promise(&mut self, len: usize) -> usize {
        self.seal();
        self.len += len;
        self.promises += 1;
        self.pieces.push_back(Piece::Promised { len });
        self.pieces.len() - 1
    }

    /// Puts what was promised into its place.
    ///
    /// # Panics
    ///
    /// When there is no such promise, or it was for another number of bytes.
    pub fn fulfil(&mut self, promise: usize, lent: Lent) {
        let place = &mut self.pieces[promise];
        assert!(
            matches!(place, Piece::Promised { len } if *len == lent.len()),
            "something else was promised"
        );
        self.promises -= 1;
        self.leases += usize::from(matches!(lent, Lent::Lease(_)));
        *place = Piece::Lent(lent);
    }

    /// Whether part of it lies in receive memory.
    #[inline]
    pub fn holds_leases(&self) -> bool {
        self.leases > 0
    }

    /// Copies what lies in receive memory, so that the leases go back: called when the peer did not
    /// take all of it at once.
    pub fn own(&mut self, arena: &mut SendArena) {
        if self.leases == 0 {
            return;
        }
        self.seal();
        self.len = 0;
        let mut skip = mem::take(&mut self.sent);
        // Each piece moves from the front to the back, copied on the way or not.
        for _ in 0..self.pieces.len() {
            let Some(piece) = self.pieces.pop_front() else {
                break;
            };
            match piece {
                Piece::Lent(Lent::Lease(lease)) => {
                    self.write(arena, &lease[mem::take(&mut skip)..]);
                    arena.returned.push(Lent::Lease(lease));
                }
                piece => {
                    self.seal();
                    self.len += piece.written().len() - skip;
                    // Only the first piece can be sent in part.
                    self.sent += mem::take(&mut skip);
                    self.pieces.push_back(piece);
                }
            }
        }
        self.leases = 0;
    }

    /// Takes `bytes` off the front: the kernel has them. Chunks go back to the arena.
    ///
    /// # Panics
    ///
    /// When the queue holds fewer.
    pub fn advance(&mut self, arena: &mut SendArena, bytes: usize) {
        assert!(
            bytes <= self.len,
            "{bytes} bytes sent of a queue of {}",
            self.len
        );
        self.len -= bytes;
        if self.len == 0 {
            self.clear(arena);
            return;
        }
        self.sent += bytes;
        while let Some(first) = self.pieces.front() {
            let written = first.written().len();
            if self.sent < written {
                break;
            }
            self.sent -= written;
            if let Some(piece) = self.pieces.pop_front() {
                self.leases -= usize::from(matches!(piece, Piece::Lent(Lent::Lease(_))));
                arena.take_back(piece);
            }
        }
    }

    /// Moves everything that `later` holds to the end of this queue.
    ///
    /// # Panics
    ///
    /// When part of `later` was sent already.
    pub fn append(&mut self, later: &mut SendQueue) {
        assert_eq!(
            later.sent, 0,
            "a queue that is partly sent cannot follow another one"
        );
        self.seal();
        assert_eq!(
            later.promises, 0,
            "a queue with promises stays where they were made"
        );
        self.leases += mem::take(&mut later.leases);
        self.pieces.append(&mut later.pieces);
        self.open = mem::take(&mut later.open);
        self.open_len = mem::take(&mut later.open_len);
        self.len += mem::take(&mut later.len);
    }

    /// The bytes not sent yet, piece by piece, none of them empty.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut sent = self.sent;
        let pieces = self.pieces.iter().map(Piece::written);
        pieces
            .chain([&self.open[..self.open_len]])
            .filter_map(move |piece| {
                let bytes = &piece[mem::take(&mut sent)..];
                (!bytes.is_empty()).then_some(bytes)
            })
    }

    /// The bytes not sent yet, when they lie in one piece.
    #[inline]
    pub fn only_piece(&self) -> Option<&[u8]> {
        let whole = match (self.pieces.len(), self.open_len) {
            (0, _) => &self.open[..self.open_len],
            (1, 0) => self.pieces[0].written(),
            _ => return None,
        };
        Some(&whole[self.sent..])
    }

    /// Whether one send can take all of it.
    #[inline]
    pub(super) fn fits_one_send(&self) -> bool {
        self.pieces.len() < PIECES_MAX
    }

    /// A message header over at most `pieces_max` pieces. It and what it points to stay where they
    /// are until the queue changes.
    pub(super) fn vectored(&mut self, pieces_max: usize) -> *const libc::msghdr {
        let mut iovecs = std::mem::take(&mut self.iovecs);
        iovecs.clear();
        iovecs.extend(self.pieces().take(pieces_max).map(|piece| libc::iovec {
            // The kernel only reads from it: a message header has no const form.
            iov_base: piece.as_ptr().cast_mut().cast(),
            iov_len: piece.len(),
        }));
        self.iovecs = iovecs;
        self.header.insert(libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: self.iovecs.as_mut_ptr(),
            msg_iovlen: self.iovecs.len(),
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        })
    }

    /// Drops everything, chunks going back to the arena.
    fn clear(&mut self, arena: &mut SendArena) {
        self.seal();
        // Most often there is one; to drain the row would cost more.
        while let Some(piece) = self.pieces.pop_front() {
            arena.take_back(piece);
        }
        self.sent = 0;
        self.len = 0;
        self.leases = 0;
        self.promises = 0;
    }

    /// Takes out the leases, wherever they are, so that they can be released. What is left is not
    /// to be sent any more.
    pub(super) fn into_leases(self) -> impl Iterator<Item = RecvLease> {
        self.pieces.into_iter().filter_map(|piece| match piece {
            Piece::Lent(Lent::Lease(lease)) => Some(lease),
            _ => None,
        })
    }
}

impl fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendQueue")
            .field("pieces", &self.pieces.len())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Bytes in the first chunk of a queue, unless more are wanted at once. Thousands of connections
/// that are answered in one burst then take pages, and not the large chunks of a busy one.
pub const SMALL_CHUNK_BYTES: usize = 8 * 1024;

/// Bytes in the first chunk of a queue that begins with less, such as the answer to an opening
/// handshake: several of them lie in one page. A queue that gets more moves on.
const TINY_CHUNK_BYTES: usize = 512;

/// Small chunks kept for the next turn: as many as a turn of answers uses at most.
const SMALL_KEPT_MAX: usize = 128;

/// Queues kept, likewise. A message that goes to thousands is sent to as many at a time as a turn
/// has time for, and then to the next.
const QUEUES_KEPT_MAX: usize = 1024;

/// Pieces that a kept queue has room for at most: one that once held a long row keeps no room for
/// it.
const KEPT_PIECES_MAX: usize = PIECES_MAX;

/// Chunks and queues not in use, last used first so that the next writer finds them in cache.
#[derive(Debug)]
pub struct SendArena {
    large: Chunks,
    small: Chunks,
    tiny: Chunks,
    #[expect(
        clippy::vec_box,
        reason = "the queues move in and out of the ring as boxes"
    )]
    queues: Vec<Box<SendQueue>>,
    /// As [`Chunks::idle`].
    queues_idle: usize,
    returned: Vec<Lent>,
    chunks_out: usize,
    chunk_bytes_out: usize,
    queues_out: usize,
    /// Shared bytes that queues hold, by their address and length, and in how many places.
    shared: HashMap<(usize, usize), usize>,
    shared_bytes: usize,
    /// Bytes that are common to several queues.
    common_bytes: Rc<Cell<usize>>,
}

/// Unused chunks of one size.
#[derive(Debug)]
struct Chunks {
    bytes: usize,
    kept_max: usize,
    unused: Vec<Vec<u8>>,
    /// The fewest that were unused since [`SendArena::trim`]: so many were not needed meanwhile.
    idle: usize,
}

impl SendArena {
    /// An arena of chunks of `chunk_bytes` bytes, and of small ones, that keeps at most
    /// `kept_bytes_max` bytes of unused large chunks.
    ///
    /// # Panics
    ///
    /// When a chunk would be smaller than [`CONTIGUOUS_BYTES`].
    pub fn new(chunk_bytes: usize, kept_bytes_max: usize) -> Self {
        assert!(
            chunk_bytes >= CONTIGUOUS_BYTES,
            "a send chunk has at least {CONTIGUOUS_BYTES} bytes"
        );
        // What moves out of a tiny one and what it is moved for fit into any other.
        let has_tiny = chunk_bytes >= TINY_CHUNK_BYTES + CONTIGUOUS_BYTES;
        let tiny_bytes = if has_tiny {
            TINY_CHUNK_BYTES
        } else {
            chunk_bytes
        };
        let chunks = |bytes, kept_max| Chunks {
            bytes,
            kept_max,
            unused: Vec::new(),
            idle: 0,
        };
        Self {
            large: chunks(chunk_bytes, kept_bytes_max / chunk_bytes),
            small: chunks(chunk_bytes.min(SMALL_CHUNK_BYTES), SMALL_KEPT_MAX),
            tiny: chunks(tiny_bytes, SMALL_KEPT_MAX),
            queues: Vec::new(),
            queues_idle: 0,
            returned: Vec::new(),
            chunks_out: 0,
            chunk_bytes_out: 0,
            queues_out: 0,
            shared: HashMap::new(),
            shared_bytes: 0,
            common_bytes: Rc::default(),
        }
    }

    /// Bytes for as many queues as want them.
    pub fn common(&self, bytes: Bytes) -> Common {
        let held = self.common_bytes.clone();
        held.set(held.get() + bytes.len());
        Common(Rc::new(CommonBytes { bytes, held }))
    }

    /// An empty queue.
    #[inline]
    pub fn queue(&mut self) -> Box<SendQueue> {
        self.queues_out += 1;
        match self.queues.pop() {
            Some(queue) => {
                self.queues_idle = self.queues_idle.min(self.queues.len());
                queue
            }
            None => Box::default(),
        }
    }

    /// Takes a queue back, whatever it still holds.
    #[inline]
    pub fn retire(&mut self, mut queue: Box<SendQueue>) {
        queue.clear(self);
        self.queues_out -= 1;
        if self.queues.len() < QUEUES_KEPT_MAX && queue.pieces.capacity() <= KEPT_PIECES_MAX {
            self.queues.push(queue);
        }
    }

    /// Chunks that are part of a queue.
    pub fn chunks_out(&self) -> usize {
        self.chunks_out
    }

    /// Queues that were not retired.
    pub fn queues_out(&self) -> usize {
        self.queues_out
    }

    /// The chunks for so many bytes, or for as many of them as one holds at most.
    #[inline]
    fn class(&mut self, bytes: usize) -> &mut Chunks {
        if bytes <= self.tiny.bytes && self.tiny.bytes < self.large.bytes {
            &mut self.tiny
        } else if bytes <= self.small.bytes && self.small.bytes < self.large.bytes {
            &mut self.small
        } else {
            &mut self.large
        }
    }

    /// Whether a larger chunk than this one can take over what is in it.
    fn is_tiny(&self, chunk: &Vec<u8>) -> bool {
        chunk.capacity() < self.small.bytes
    }

    /// An empty chunk of the class for so many bytes.
    #[inline]
    fn chunk(&mut self, wanted: usize) -> Vec<u8> {
        let chunks = self.class(wanted);
        let chunk = match chunks.unused.pop() {
            Some(chunk) => {
                chunks.idle = chunks.idle.min(chunks.unused.len());
                chunk
            }
            None => Vec::with_capacity(chunks.bytes),
        };
        self.chunks_out += 1;
        self.chunk_bytes_out += chunk.capacity();
        chunk
    }

    fn share(&mut self, bytes: &Bytes) {
        let places = self.shared.entry(identity(bytes)).or_insert(0);
        *places += 1;
        if *places == 1 {
            self.shared_bytes += bytes.len();
        }
    }

    fn unshare(&mut self, bytes: &Bytes) {
        let Entry::Occupied(mut places) = self.shared.entry(identity(bytes)) else {
            return;
        };
        *places.get_mut() -= 1;
        if *places.get() == 0 {
            places.remove();
            self.shared_bytes -= bytes.len();
        }
    }

    /// Bytes of memory that queues hold: chunks, whatever is in them, and shared bytes once,
    /// however many queues they are in. What was lent belongs to others.
    #[inline]
    pub fn out_bytes(&self) -> usize {
        self.chunk_bytes_out + self.shared_bytes + self.common_bytes.get()
    }

    /// Bytes of memory, in queues or kept.
    #[inline]
    pub fn held_bytes(&self) -> usize {
        let kept = |chunks: &Chunks| chunks.unused.len() * chunks.bytes;
        self.out_bytes() + kept(&self.large) + kept(&self.small) + kept(&self.tiny)
    }

    /// Lets go of all chunks that are not in use.
    pub fn forget_kept(&mut self) {
        for chunks in [&mut self.large, &mut self.small, &mut self.tiny] {
            chunks.unused = Vec::new();
            chunks.idle = 0;
        }
        self.queues = Vec::new();
        self.queues_idle = 0;
    }

    /// Lets go of chunks that were not needed since this was called before.
    pub fn trim(&mut self) {
        for chunks in [&mut self.large, &mut self.small, &mut self.tiny] {
            let left = chunks.unused.len() - chunks.idle;
            chunks.unused.truncate(left);
            chunks.idle = left;
        }
        let left = self.queues.len() - self.queues_idle;
        self.queues.truncate(left);
        self.queues_idle = left;
        if self.shared.is_empty() {
            self.shared = HashMap::new();
        }
    }

    /// Compares its sums with those over all queues that there are.
    ///
    /// # Errors
    ///
    /// What is not the same.
    #[cfg(feature = "sim")]
    pub fn check(&self, holdings: &Holdings) -> Result<(), String> {
        if !self.returned.is_empty() {
            return Err(format!("{} loans were not given back", self.returned.len()));
        }
        let sums = [
            ("queues", self.queues_out, holdings.queues),
            ("chunks", self.chunks_out, holdings.chunks),
            (
                "bytes of chunks",
                self.chunk_bytes_out,
                holdings.chunk_bytes,
            ),
            (
                "bytes that are shared",
                self.shared_bytes,
                holdings.shared_bytes,
            ),
            (
                "bytes that are common",
                self.common_bytes.get(),
                holdings.common_bytes,
            ),
        ];
        for (what, counted, found) in sums {
            if counted != found {
                return Err(format!("{counted} {what} count as queued, and {found} are"));
            }
        }
        Ok(())
    }

    /// Something that was lent and is no longer needed, to be given back to its owner.
    #[inline]
    pub fn take_returned(&mut self) -> Option<Lent> {
        self.returned.pop()
    }

    #[inline]
    fn take_back(&mut self, piece: Piece) {
        match piece {
            Piece::Chunk { bytes, .. } => self.keep(bytes),
            Piece::Lent(lent) => self.returned.push(lent),
            Piece::Shared(bytes) => self.unshare(&bytes),
            Piece::Common(_) | Piece::Header { .. } | Piece::Promised { .. } => {}
        }
    }

    #[inline]
    fn keep(&mut self, chunk: Vec<u8>) {
        self.chunks_out -= 1;
        self.chunk_bytes_out -= chunk.capacity();
        let chunks = self.class(chunk.capacity());
        if chunks.unused.len() < chunks.kept_max {
            chunks.unused.push(chunk);
        }
    }
}

/// Which shared bytes these are: nothing else lies there while a queue holds them.
fn identity(bytes: &Bytes) -> (usize, usize) {
    (bytes.as_ptr().addr(), bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(queue: &SendQueue) -> Vec<u8> {
        queue.pieces().flatten().copied().collect()
    }

    #[test]
    fn bytes_leave_in_the_order_in_which_they_came_however_they_are_taken() {
        for step in [1, 2, 3, 255, 256, 257, 1000, 4096] {
            let mut arena = SendArena::new(256, 1 << 20);
            let mut queue = arena.queue();
            let text: Vec<u8> = (0..4000u32).map(|i| (i % 251) as u8).collect();
            queue.write(&mut arena, &text[..700]);
            queue.adopt(&mut arena, Bytes::copy_from_slice(&text[700..2000]));
            queue.adopt(&mut arena, Bytes::new());
            queue.write(&mut arena, &text[2000..2001]);
            let mut later = arena.queue();
            later.write(&mut arena, &text[2001..]);
            queue.append(&mut later);
            arena.retire(later);
            let mut taken = 0;
            while !queue.is_empty() {
                assert_eq!(contents(&queue), text[taken..]);
                let count = step.min(queue.len());
                queue.advance(&mut arena, count);
                taken += count;
            }
            assert_eq!((taken, arena.chunks_out()), (text.len(), 0));
            arena.retire(queue);
            assert_eq!(arena.queues_out(), 0);
        }
    }

    #[test]
    fn small_space_is_never_cut_by_a_seam() {
        let mut arena = SendArena::new(1000, 1 << 20);
        let mut queue = arena.queue();
        for round in 0..500 {
            let wanted = 1 + (round * 7) % CONTIGUOUS_BYTES;
            assert_eq!(queue.space(&mut arena, wanted).len(), wanted);
            queue.commit(wanted);
        }
        let wanted = queue.space(&mut arena, 5000).len();
        assert!((CONTIGUOUS_BYTES..=1000).contains(&wanted));
        arena.retire(queue);
        assert_eq!(arena.chunks_out(), 0);
    }

    #[test]
    fn a_queue_moves_out_of_the_tiny_chunk_that_it_outgrows() {
        let mut arena = SendArena::new(SMALL_CHUNK_BYTES * 4, 1 << 20);
        let text: Vec<u8> = (0..60_000u32).map(|i| (i % 251) as u8).collect();
        let mut queue = arena.queue();
        queue.write(&mut arena, &text[..200]);
        assert_eq!(queue.open.capacity(), TINY_CHUNK_BYTES);
        queue.advance(&mut arena, 150);
        queue.write(&mut arena, &text[200..600]);
        assert_eq!(queue.open.capacity(), SMALL_CHUNK_BYTES);
        assert_eq!(queue.only_piece(), Some(&text[150..600]));
        assert_eq!((arena.tiny.unused.len(), arena.chunks_out()), (1, 1));
        queue.write(&mut arena, &text[600..]);
        assert_eq!(contents(&queue), text[150..]);
        arena.retire(queue);
        assert_eq!((arena.small.unused.len(), arena.chunks_out()), (1, 0));
    }

    #[test]
    fn no_more_chunks_are_kept_than_allowed() {
        let mut arena = SendArena::new(10_000, 40_000);
        let mut queue = arena.queue();
        queue.write(&mut arena, &[1; 100_000]);
        arena.retire(queue);
        assert_eq!((arena.large.unused.len(), arena.chunks_out()), (4, 0));
    }

    #[test]
    fn many_references_to_shared_bytes_hold_them_once_and_no_chunks() {
        let mut arena = SendArena::new(32 << 10, 0);
        let mut queue = arena.queue();
        let payload = Bytes::from(vec![7; 4096]);
        for _ in 0..20_000 {
            queue.adopt_framed(&mut arena, &[0x82, 126, 0x10, 0], payload.clone());
        }
        assert_eq!(queue.len(), 20_000 * 4100);
        assert_eq!((arena.chunks_out(), arena.out_bytes()), (0, 4096));
        queue.write(&mut arena, b"open");
        queue.adopt_framed(&mut arena, &[0x82, 0], Bytes::new());
        assert_eq!(arena.chunks_out(), 1);
        queue.advance(&mut arena, 10_001 * 4100 + 2);
        assert!(contents(&queue).starts_with(&[0x10, 0, 7, 7]));
        assert_eq!(arena.out_bytes() - TINY_CHUNK_BYTES, 4096);
        arena.retire(queue);
        assert_eq!((arena.chunks_out(), arena.out_bytes()), (0, 0));
    }

    #[test]
    fn chunks_that_are_not_needed_are_let_go() {
        let mut arena = SendArena::new(10_000, 1 << 20);
        let mut queue = arena.queue();
        queue.write(&mut arena, &[1; 100_000]);
        arena.retire(queue);
        let most = arena.held_bytes();
        arena.trim();
        assert_eq!(arena.held_bytes(), most, "all of them were in use");
        arena.trim();
        assert_eq!(arena.held_bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "more bytes were committed")]
    fn bytes_that_were_not_written_are_not_committed() {
        let mut arena = SendArena::new(256, 0);
        let mut queue = arena.queue();
        let _ = queue.space(&mut arena, 256);
        queue.commit(257);
    }
}
