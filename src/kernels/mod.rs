//! The loops over payload bytes: masking, and proving that text is UTF-8; and the memory that long
//! ones lie in.
//!
//! Bytes go in and bytes come out. Nothing here knows a frame, a connection, a socket or a clock,
//! and nothing here allocates but [`memory`].
//!
//! Every loop exists several times, once for each instruction set worth having. The versions are
//! rows of a table, best first and scalar last, and the first row that the processor can run is
//! chosen on the first call and kept:
//!
//! ```text
//!   payload of at most 128 bytes ----> inlined in the caller, no call at all
//!   longer ----> chosen row ----> avx512 | avx2 | sse2 | neon | scalar
//!
//!   one row:     | head |  aligned  |  aligned  |  aligned  | tail |
//!                '- loaded first, stored last --------------'------'
//! ```
//!
//! Head and tail are whole vectors which overlap the aligned middle. Both are loaded before the
//! first store and stored after the last one, so bytes which two vectors share are never masked
//! twice, and no row needs a loop over single bytes.
//!
//! This is one of the two places where `unsafe` is allowed. A row is entered only after its
//! `available` answered true, and every pointer stays within the slice that it was taken from.
#![allow(unsafe_code)]

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use mask::MaskingKey;
use mask::scalar::{HalfWord, Word};

pub mod mask;
pub mod memory;
pub mod utf8;

/// The row of one table that this processor runs, decided on the first call.
struct Choice<Row: 'static>(AtomicPtr<Row>);

impl<Row: 'static> Choice<Row> {
    const fn undecided() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The chosen row; `decide` is asked while there is none.
    ///
    /// Two threads that come first together both decide, and decide the same.
    #[inline]
    fn row(&self, decide: fn() -> &'static Row) -> &'static Row {
        // Relaxed is enough: a row is a constant of the program, it was complete before any
        // thread ran, so nothing has to be published together with the pointer.
        let chosen = self.0.load(Ordering::Relaxed);
        if chosen.is_null() {
            return self.decided(decide);
        }
        // SAFETY: the only store is in `decided`, and it stores a `&'static Row`.
        unsafe { &*chosen }
    }

    #[cold]
    fn decided(&self, decide: fn() -> &'static Row) -> &'static Row {
        let row = decide();
        self.0
            .store(ptr::from_ref(row).cast_mut(), Ordering::Relaxed);
        row
    }
}

/// A vector register that holds payload bytes or the repeated masking key.
///
/// Having a value proves that the processor has the instructions: the only way to the first value
/// is [`Vector::repeat`], whose caller answers for it. That is why the methods on values which
/// touch no memory are safe.
trait Vector: Copy {
    /// How many bytes it holds; a multiple of the masking key's four.
    const BYTES: usize;

    /// The key, repeated until the vector is full.
    ///
    /// # Safety
    ///
    /// The processor has the instruction set which the implementing type is named after.
    unsafe fn repeat(key: MaskingKey) -> Self;

    /// The bytes at `source` combined with this key. `source` needs no alignment.
    ///
    /// # Safety
    ///
    /// `Self::BYTES` bytes may be read at `source`.
    unsafe fn unmask(self, source: *const u8) -> Self;

    /// Writes the vector. `destination` needs no alignment.
    ///
    /// # Safety
    ///
    /// `Self::BYTES` bytes may be written at `destination`.
    unsafe fn store(self, destination: *mut u8);

    /// The bits set in either.
    fn union(self, other: Self) -> Self;

    /// Whether no byte has its top bit set.
    fn is_ascii(self) -> bool;
}

/// The pass that every row is made of: unmasks `len` bytes from `source` to `destination`, and
/// returns whether all bytes written are ASCII. A caller that has no use for the answer does not
/// pay for it: the compiler removes it.
///
/// # Safety
///
/// * `len` bytes may be read at `source` and written at `destination`.
/// * The two ranges are the same, or apart, or overlap with `destination` below `source`.
/// * The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn unmask<V: Vector>(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    if len < V::BYTES {
        // SAFETY: the ranges are the caller's promise, the length was compared.
        return unsafe { unmask_short(destination, source, len, key) };
    }
    let last = len - V::BYTES;
    // Stores which straddle a cache line cost twice, so the middle starts where the destination
    // is aligned. The head covers the bytes in front of it.
    let mut at = V::BYTES - destination.addr() % V::BYTES;

    // SAFETY: the instruction set is the caller's promise.
    let head_key = unsafe { V::repeat(key) };
    // SAFETY: as above.
    let body_key = unsafe { V::repeat(key.rotated(at)) };
    // SAFETY: as above.
    let tail_key = unsafe { V::repeat(key.rotated(last)) };

    // SAFETY: `len >= V::BYTES`, so a whole vector lies at the start of the source.
    let head = unsafe { head_key.unmask(source) };
    // SAFETY: and one ends where the source ends, `last + V::BYTES == len`.
    let tail = unsafe { tail_key.unmask(source.wrapping_add(last)) };
    let mut seen = head.union(tail);

    // When the ranges overlap, a store at `at` reaches no source byte at or above the end of the
    // vectors already loaded, because the destination is not above the source.
    while at + 8 * V::BYTES <= len {
        let (to, from) = (destination.wrapping_add(at), source.wrapping_add(at));
        // SAFETY: eight vectors from `at` end within `len`.
        seen = seen.union(unsafe { unmask_block::<V, 8>(to, from, body_key) });
        at += 8 * V::BYTES;
    }
    if at + 4 * V::BYTES <= len {
        let (to, from) = (destination.wrapping_add(at), source.wrapping_add(at));
        // SAFETY: four vectors from `at` end within `len`.
        seen = seen.union(unsafe { unmask_block::<V, 4>(to, from, body_key) });
        at += 4 * V::BYTES;
    }
    if at + 2 * V::BYTES <= len {
        let (to, from) = (destination.wrapping_add(at), source.wrapping_add(at));
        // SAFETY: two vectors from `at` end within `len`.
        seen = seen.union(unsafe { unmask_block::<V, 2>(to, from, body_key) });
        at += 2 * V::BYTES;
    }
    if at < last {
        let (to, from) = (destination.wrapping_add(at), source.wrapping_add(at));
        // SAFETY: `at + V::BYTES < last + V::BYTES == len`.
        seen = seen.union(unsafe { unmask_block::<V, 1>(to, from, body_key) });
    }

    // SAFETY: `len >= V::BYTES`.
    unsafe { head.store(destination) };
    // SAFETY: `last + V::BYTES == len`.
    unsafe { tail.store(destination.wrapping_add(last)) };
    seen.is_ascii()
}

/// Unmasks `COUNT` vectors, all of them loaded before any is stored, and returns their union.
///
/// The union is made of these alone and added to what was seen before by the caller: that waits
/// for nothing, and AVX-512 takes two of them in one instruction.
///
/// # Safety
///
/// * `COUNT * V::BYTES` bytes may be read at `source` and written at `destination`.
#[inline(always)]
unsafe fn unmask_block<V: Vector, const COUNT: usize>(
    destination: *mut u8,
    source: *const u8,
    key: V,
) -> V {
    let mut block = [key; COUNT];
    for (index, vector) in block.iter_mut().enumerate() {
        // SAFETY: `index < COUNT`.
        *vector = unsafe { key.unmask(source.wrapping_add(index * V::BYTES)) };
    }
    for (index, vector) in block.into_iter().enumerate() {
        // SAFETY: as for the load.
        unsafe { vector.store(destination.wrapping_add(index * V::BYTES)) };
    }
    block.into_iter().skip(1).fold(block[0], V::union)
}

/// The longest payload in bytes for which [`unmask_short`] is the quickest way.
const SHORT_BYTES_MAX: usize = 128;

/// The vector that every processor of the architecture has.
#[cfg(target_arch = "aarch64")]
type Baseline = mask::aarch64::Neon;
#[cfg(target_arch = "x86_64")]
type Baseline = mask::x86_64::Sse2;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
type Baseline = mask::scalar::Word;

/// Unmasks at most [`SHORT_BYTES_MAX`] bytes without a call, a loop or a table, and returns
/// whether all bytes written are ASCII.
///
/// # Safety
///
/// * `len` bytes may be read at `source` and written at `destination`; they may overlap in any way.
/// * `len` is at most [`SHORT_BYTES_MAX`].
#[inline(always)]
unsafe fn unmask_short(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    const UNIT: usize = 16 / Baseline::BYTES;
    debug_assert!(len <= SHORT_BYTES_MAX);
    match len {
        0 => true,
        // SAFETY: the ranges are the caller's promise, here and below; the arm is the length.
        1..=3 => unsafe { unmask_tiny(destination, source, len, key) },
        // SAFETY: in this arm and the next four, `len` lies between the bytes of `COUNT` vectors
        // and twice that. `Baseline` and the scalar vectors run everywhere.
        4..=7 => unsafe { unmask_ends::<HalfWord, 1>(destination, source, len, key) },
        // SAFETY: as above.
        8..=15 => unsafe { unmask_ends::<Word, 1>(destination, source, len, key) },
        // SAFETY: as above.
        16..=32 => unsafe { unmask_ends::<Baseline, UNIT>(destination, source, len, key) },
        // SAFETY: as above.
        33..=64 => unsafe { unmask_ends::<Baseline, { 2 * UNIT }>(destination, source, len, key) },
        // SAFETY: as above.
        _ => unsafe { unmask_ends::<Baseline, { 4 * UNIT }>(destination, source, len, key) },
    }
}

/// Unmasks with `COUNT` vectors from the start and as many up to the end, which overlap in the
/// middle. All are loaded before any is stored.
///
/// # Safety
///
/// * `len` bytes may be read at `source` and written at `destination`; they may overlap in any way.
/// * `len` is at least `COUNT * V::BYTES`, and at most twice that.
/// * The processor has the instruction set of `V`.
#[inline(always)]
unsafe fn unmask_ends<V: Vector, const COUNT: usize>(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    debug_assert!(COUNT * V::BYTES <= len && len <= 2 * COUNT * V::BYTES);
    let last = len - COUNT * V::BYTES;
    // SAFETY: the instruction set is the caller's promise.
    let mut head = [unsafe { V::repeat(key) }; COUNT];
    // SAFETY: as above.
    let mut tail = [unsafe { V::repeat(key.rotated(last)) }; COUNT];
    let mut at = 0;
    let mut seen = None;
    for (head, tail) in head.iter_mut().zip(&mut tail) {
        // SAFETY: `len` is at least `COUNT * V::BYTES`.
        *head = unsafe { head.unmask(source.wrapping_add(at)) };
        // SAFETY: `last + COUNT * V::BYTES == len`.
        *tail = unsafe { tail.unmask(source.wrapping_add(last + at)) };
        let both = head.union(*tail);
        seen = Some(seen.map_or(both, |seen: V| seen.union(both)));
        at += V::BYTES;
    }
    at = 0;
    for (head, tail) in head.into_iter().zip(tail) {
        // SAFETY: as for the load.
        unsafe { head.store(destination.wrapping_add(at)) };
        // SAFETY: as for the load.
        unsafe { tail.store(destination.wrapping_add(last + at)) };
        at += V::BYTES;
    }
    seen.is_none_or(V::is_ascii)
}

/// Unmasks one, two or three bytes: the first, the middle and the last, which may coincide.
///
/// # Safety
///
/// * `len` bytes may be read at `source` and written at `destination`; they may overlap in any way.
/// * `len` is 1, 2 or 3.
#[inline(always)]
unsafe fn unmask_tiny(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    debug_assert!((1..=3).contains(&len));
    let (middle, last) = (len / 2, len - 1);
    let key = key.to_bytes();
    // SAFETY: `len` is at least 1.
    let a = unsafe { source.read() } ^ key[0];
    // SAFETY: `len / 2 < len`.
    let b = unsafe { source.wrapping_add(middle).read() } ^ key[middle % 4];
    // SAFETY: `len - 1 < len`.
    let c = unsafe { source.wrapping_add(last).read() } ^ key[last % 4];
    // SAFETY: as for the loads.
    unsafe { destination.write(a) };
    // SAFETY: as for the loads.
    unsafe { destination.wrapping_add(middle).write(b) };
    // SAFETY: as for the loads.
    unsafe { destination.wrapping_add(last).write(c) };
    a | b | c < 0x80
}
