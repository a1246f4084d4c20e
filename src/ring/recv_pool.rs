//! The memory that the kernel receives into, and the leases on it.
//!
//! Knows: which bytes of which buffer are leased, and when a buffer may go back to the kernel.
//! Refuses to know: the kernel's control block for it (`uring`), and what the bytes mean.
//!
//! ```text
//!   one buffer    |<- lease ->|<- lease ->|<---- the kernel writes here next ---->|
//!                 0           used        used                        buffer_bytes
//! ```
//!
//! A buffer is consumed whole by one completion, or piece by piece where the kernel can do that
//! (incremental buffers, Linux 6.12). Either way it is *retired* once the kernel has said that it
//! will write no more there, and goes back when it is retired and its last lease has been
//! released. Nobody but the kernel ever writes beyond `used`, and nobody but the lease holder below
//! it: so a lease may hand out `&mut [u8]`.

use std::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::{Errno, Expected};

/// Received bytes, readable and writable in place until they are released.
///
/// A lease that is dropped instead of released costs the pool its buffer for good, and keeps the
/// pool's memory mapped after the pool itself is gone: never unsafe, but a leak that
/// [`RecvPool::leases`] counts.
#[derive(Debug)]
pub struct RecvLease {
    bytes: NonNull<u8>,
    len: u32,
    buffer: u16,
    pool: u16,
}

impl Deref for RecvLease {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: `RecvPool::lease` made `bytes` and `len` a range of mapped memory that no other
        // lease and no kernel write overlaps until this lease is released by value; the pool leaks
        // the mapping rather than unmap it while a lease lives.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for RecvLease {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only reference to the range.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len as usize) }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct BufferState {
    /// Bytes leased since the buffer was last given to the kernel.
    used: u32,
    /// Leases not yet released.
    leases: u32,
    /// The kernel has said that it is done with this buffer.
    retired: bool,
}

/// Buffers of one size, mapped once.
#[derive(Debug)]
pub struct RecvPool {
    memory: NonNull<u8>,
    buffer_bytes: u32,
    states: Vec<BufferState>,
    leases: usize,
    retired: usize,
    id: u16,
}

/// What follows from the sizes of a ring's receive buffers for whoever uses the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvSizes {
    /// Receive memory that one turn may leave in queues, in bytes: what the next one receives needs
    /// some.
    pub lent_bytes_max: usize,
    /// A message of so many bytes is a long one: it would lie in several receive buffers. So much
    /// at once is a [share](Expected::Share), too.
    pub long_bytes_min: u64,
}

impl RecvSizes {
    /// With so many buffers of so many bytes.
    pub(super) const fn new(buffers: u16, buffer_bytes: u32) -> Self {
        Self {
            lent_bytes_max: buffers as usize * buffer_bytes as usize / 2,
            // One at least: to receive none would look like the end of the stream.
            long_bytes_min: (buffer_bytes as u64).div_ceil(2),
        }
    }

    /// The most that a receive at once brings, if its buffer holds as much.
    #[inline]
    pub(super) const fn bytes_max(self, expected: Expected) -> usize {
        match expected {
            Expected::LongMessage => usize::MAX,
            Expected::Share => self.long_bytes_min as usize,
        }
    }
}

/// Tells pools apart, so that a lease cannot be released into another pool.
static NEXT_POOL: AtomicU16 = AtomicU16::new(0);

impl RecvPool {
    /// Maps `buffers` buffers of `buffer_bytes` bytes each. `populated`: the kernel gives them all
    /// of their memory now, and not as they are used.
    ///
    /// # Errors
    ///
    /// When the kernel has no memory for the mapping.
    ///
    /// # Panics
    ///
    /// When either number is 0.
    pub fn new(buffers: u16, buffer_bytes: u32, populated: bool) -> Result<Self, Errno> {
        assert!(
            buffers > 0 && buffer_bytes > 0,
            "a receive pool needs buffers with bytes in them"
        );
        let len = usize::from(buffers) * buffer_bytes as usize;
        let mut flags = MapFlags::PRIVATE;
        flags.set(MapFlags::POPULATE, populated);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // existing memory.
        let memory = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        }?;
        let memory = NonNull::new(memory.cast()).ok_or(Errno::new(libc::ENOMEM))?;
        Ok(Self {
            memory,
            buffer_bytes,
            states: vec![BufferState::default(); usize::from(buffers)],
            leases: 0,
            retired: 0,
            id: NEXT_POOL.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// How many buffers there are.
    pub fn buffers(&self) -> u16 {
        self.states.len() as u16
    }

    /// Bytes in each buffer.
    pub fn buffer_bytes(&self) -> u32 {
        self.buffer_bytes
    }

    /// Leases not yet released.
    pub fn leases(&self) -> usize {
        self.leases
    }

    /// Buffers that the kernel may still fill.
    pub fn free(&self) -> usize {
        self.states.len() - self.retired
    }

    /// Where buffer `buffer` starts.
    ///
    /// # Panics
    ///
    /// When there is no such buffer.
    pub fn address(&self, buffer: u16) -> NonNull<u8> {
        assert!(
            buffer < self.buffers(),
            "no buffer {buffer} in the receive pool"
        );
        let offset = usize::from(buffer) * self.buffer_bytes as usize;
        // SAFETY: the buffer exists (asserted), so the offset lies inside the mapping.
        unsafe { self.memory.add(offset) }
    }

    /// Bytes of `buffer` leased since the kernel last had all of it: where its next bytes lie.
    ///
    /// # Panics
    ///
    /// When there is no such buffer.
    pub fn used(&self, buffer: u16) -> u32 {
        self.states[usize::from(buffer)].used
    }

    /// Leases the next `len` bytes of `buffer`, which the kernel has just filled. `retire` says
    /// that the kernel is done with the buffer.
    ///
    /// # Panics
    ///
    /// When the buffer does not exist, is retired already, or has no `len` bytes left: the kernel
    /// broke its word, and no memory may be handed out on it.
    #[inline]
    pub fn lease(&mut self, buffer: u16, len: u32, retire: bool) -> RecvLease {
        let start = self.address(buffer);
        let state = &mut self.states[usize::from(buffer)];
        let used = state.used;
        assert!(
            !state.retired && len <= self.buffer_bytes - used,
            "the kernel filled {len} bytes of receive buffer {buffer}, of which {used} are in use"
        );
        state.used += len;
        state.leases += 1;
        state.retired = retire;
        self.leases += 1;
        self.retired += usize::from(retire);
        // SAFETY: `used + len` is at most the size of the buffer (asserted), so the address lies
        // inside the mapping.
        let bytes = unsafe { start.add(used as usize) };
        RecvLease {
            bytes,
            len,
            buffer,
            pool: self.id,
        }
    }

    /// Makes two leases of one: on the first `at` bytes, and on the rest.
    ///
    /// # Panics
    ///
    /// When the lease is of another pool, or has fewer bytes.
    pub fn split(&mut self, lease: RecvLease, at: usize) -> (RecvLease, RecvLease) {
        assert_eq!(
            lease.pool, self.id,
            "a lease was split by a pool that it is not from"
        );
        assert!(
            at <= lease.len as usize,
            "a lease on {} bytes cannot be split at {at}",
            lease.len
        );
        self.states[usize::from(lease.buffer)].leases += 1;
        self.leases += 1;
        // SAFETY: `at` is at most the length of the lease (asserted), so that the address lies
        // inside the mapping.
        let rest = unsafe { lease.bytes.add(at) };
        let first = RecvLease {
            len: at as u32,
            ..lease
        };
        let rest = RecvLease {
            bytes: rest,
            len: lease.len - at as u32,
            ..lease
        };
        (first, rest)
    }

    /// Ends a lease. Returns the buffer when it may go back to the kernel, empty.
    ///
    /// # Panics
    ///
    /// When the lease is of another pool.
    #[inline]
    pub fn release(&mut self, lease: RecvLease) -> Option<u16> {
        assert_eq!(
            lease.pool, self.id,
            "a lease was released into a pool that it is not from"
        );
        let state = &mut self.states[usize::from(lease.buffer)];
        state.leases -= 1;
        self.leases -= 1;
        if state.leases > 0 || !state.retired {
            return None;
        }
        *state = BufferState::default();
        self.retired -= 1;
        Some(lease.buffer)
    }

    /// Has a buffer of which no kernel was told be filled from its front again, if no lease is on
    /// it.
    #[inline]
    fn rewind(&mut self, buffer: u16) {
        let state = &mut self.states[usize::from(buffer)];
        if state.leases == 0 {
            state.used = 0;
        }
    }
}

impl Drop for RecvPool {
    fn drop(&mut self) {
        if self.leases > 0 {
            // Somebody may still read through a lease: the mapping stays.
            return;
        }
        let len = self.states.len() * self.buffer_bytes as usize;
        // SAFETY: the mapping is ours and this long, no lease is left, and the owner of the pool
        // drops it only once the kernel no longer knows its buffers.
        let unmapped = unsafe { munmap(self.memory.as_ptr().cast(), len) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping cannot fail");
    }
}

/// Buffers that are filled while somebody waits, the one that was in use last before all others:
/// it is in the cache. One that has room left is filled further, and from its front again once no
/// lease is on it.
#[derive(Debug)]
pub struct RecvStack {
    pool: RecvPool,
    free: Vec<u16>,
    /// A buffer with less room than this is full.
    room_bytes_min: u32,
}

impl RecvStack {
    /// Maps the buffers, as [`RecvPool::new`] does. They take memory as they are used. A buffer
    /// with less room left than `room_bytes_min` is full: with all of its bytes, each is used up by
    /// one lease.
    ///
    /// # Errors
    ///
    /// When the kernel has no room for the mapping.
    ///
    /// # Panics
    ///
    /// When a number of buffers or of their bytes is 0.
    pub fn new(buffers: u16, buffer_bytes: u32, room_bytes_min: u32) -> Result<Self, Errno> {
        Ok(Self {
            pool: RecvPool::new(buffers, buffer_bytes, false)?,
            free: (0..buffers).rev().collect(),
            room_bytes_min: room_bytes_min.clamp(1, buffer_bytes),
        })
    }

    /// Has `fill` fill the room of a buffer from its front, and leases as many bytes as it says it
    /// did. `None` when those were none.
    ///
    /// # Errors
    ///
    /// [`Errno::NO_BUFFERS`] when none is free, and what `fill` returns.
    pub fn receive(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<Option<RecvLease>, Errno> {
        let &buffer = self.free.last().ok_or(Errno::NO_BUFFERS)?;
        let used = self.pool.used(buffer);
        let room = self.pool.buffer_bytes() - used;
        let address = self.pool.address(buffer);
        // SAFETY: `used` is at most the size of the buffer, so that the address lies inside the
        // mapping.
        let start = unsafe { address.add(used as usize) };
        // SAFETY: the buffer lies in the mapping and has this many bytes behind `start`, on which
        // no lease is, and no kernel was told of it. `&mut self` keeps it so while it is filled.
        let memory = unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), room as usize) };
        let filled = fill(memory)?;
        if filled == 0 {
            return Ok(None);
        }
        let is_full = room - (filled as u32).min(room) < self.room_bytes_min;
        if is_full {
            self.free.pop();
        }
        Ok(Some(self.pool.lease(buffer, filled as u32, is_full)))
    }

    /// Buffers that are not full.
    #[inline]
    pub fn free(&self) -> usize {
        self.pool.free()
    }

    /// Bytes in each buffer.
    #[cfg(feature = "sim")]
    pub fn buffer_bytes(&self) -> usize {
        self.pool.buffer_bytes() as usize
    }

    /// Whether a buffer is free.
    #[inline]
    pub const fn is_ready(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether a lease is on one of these buffers.
    #[inline]
    pub fn owns(&self, lease: &RecvLease) -> bool {
        lease.pool == self.pool.id
    }

    /// Leases not yet recycled.
    pub fn leases(&self) -> usize {
        self.pool.leases()
    }

    /// Makes two leases of one, as [`RecvPool::split`] does.
    ///
    /// # Panics
    ///
    /// As that does.
    pub fn split(&mut self, lease: RecvLease, at: usize) -> (RecvLease, RecvLease) {
        self.pool.split(lease, at)
    }

    /// Ends a lease.
    ///
    /// # Panics
    ///
    /// When it is on memory of others.
    #[inline]
    pub fn recycle(&mut self, lease: RecvLease) {
        let buffer = lease.buffer;
        self.free.extend(self.pool.release(lease));
        self.pool.rewind(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_goes_back_when_retired_and_released_in_any_order() {
        let mut pool = RecvPool::new(2, 100, false).unwrap();
        let first = pool.lease(1, 40, false);
        let mut second = pool.lease(1, 60, true);
        second.fill(7);
        assert_eq!((pool.leases(), pool.free()), (2, 1));
        assert!(first.iter().all(|&byte| byte == 0));
        assert_eq!(pool.release(second), None);
        assert_eq!(pool.release(first), Some(1));
        assert_eq!((pool.leases(), pool.free(), pool.used(1)), (0, 2, 0));
    }

    #[test]
    fn a_split_lease_is_two_that_share_nothing() {
        let mut pool = RecvPool::new(1, 100, false).unwrap();
        let mut lease = pool.lease(0, 60, true);
        lease.fill(1);
        let (first, mut rest) = pool.split(lease, 20);
        rest.fill(2);
        let (none, rest) = pool.split(rest, 0);
        assert_eq!((first.len(), none.len(), rest.len()), (20, 0, 40));
        assert_eq!((&first[..], &rest[..]), (&[1; 20][..], &[2; 40][..]));
        assert_eq!((pool.leases(), pool.free()), (3, 0));
        assert_eq!((pool.release(first), pool.release(none)), (None, None));
        assert_eq!(pool.release(rest), Some(0));
    }

    #[test]
    fn a_buffer_that_is_not_retired_stays_with_the_kernel() {
        let mut pool = RecvPool::new(1, 100, false).unwrap();
        let lease = pool.lease(0, 10, false);
        assert_eq!(pool.release(lease), None);
        assert_eq!(pool.used(0), 10);
    }

    #[test]
    fn a_stack_fills_the_buffer_that_was_in_use_last() {
        let mut stack = RecvStack::new(2, 100, 100).unwrap();
        let fill = |count: usize| {
            move |memory: &mut [u8]| {
                memory[..count].fill(count as u8);
                Ok(count)
            }
        };
        let first = stack.receive(fill(40)).unwrap().unwrap();
        let second = stack.receive(fill(100)).unwrap().unwrap();
        assert_eq!((&first[..], &second[..]), (&[40; 40][..], &[100; 100][..]));
        assert!(!stack.is_ready());
        assert_eq!(stack.receive(fill(1)).unwrap_err(), Errno::NO_BUFFERS);
        let place = second.as_ptr();
        let (front, back) = stack.split(second, 30);
        stack.recycle(back);
        assert!(!stack.is_ready());
        stack.recycle(first);
        stack.recycle(front);
        // Neither the end of a stream nor an error takes a buffer.
        assert!(stack.receive(|_| Ok(0)).unwrap().is_none());
        let again = stack.receive(|_| Err(Errno::CANCELLED)).unwrap_err();
        assert_eq!(again, Errno::CANCELLED);
        let last = stack.receive(fill(7)).unwrap().unwrap();
        assert_eq!((last.as_ptr(), last.len(), stack.leases()), (place, 7, 1));
        stack.recycle(last);
        assert_eq!(stack.leases(), 0);
    }

    #[test]
    fn a_stack_fills_the_room_that_is_left_and_then_from_the_front_again() {
        let mut stack = RecvStack::new(2, 100, 25).unwrap();
        let receive = |stack: &mut RecvStack, count: usize| {
            let mut room = 0;
            let lease = stack.receive(|memory| {
                room = memory.len();
                memory[..count].fill(count as u8);
                Ok(count)
            });
            (room, lease.unwrap().unwrap())
        };
        let (room, first) = receive(&mut stack, 40);
        assert_eq!((room, stack.free()), (100, 2));
        let (room, second) = receive(&mut stack, 35);
        assert_eq!((room, stack.free()), (60, 2));
        // What is left is just enough; then it is not.
        let (room, third) = receive(&mut stack, 1);
        assert_eq!((room, stack.free()), (25, 1));
        let (room, fourth) = receive(&mut stack, 10);
        assert_eq!((room, stack.free()), (100, 1));
        assert_eq!((&first[..], &second[..]), (&[40; 40][..], &[35; 35][..]));
        let place = first.as_ptr();
        // One that never was full starts from its front as well.
        let other = fourth.as_ptr();
        stack.recycle(fourth);
        let (room, fourth) = receive(&mut stack, 10);
        assert_eq!((room, fourth.as_ptr()), (100, other));
        for lease in [first, third, second] {
            stack.recycle(lease);
        }
        assert_eq!(stack.free(), 2);
        let (room, last) = receive(&mut stack, 99);
        assert_eq!((room, last.as_ptr()), (100, place));
        stack.recycle(last);
        stack.recycle(fourth);
        assert_eq!((stack.leases(), stack.free()), (0, 2));
    }

    #[test]
    #[should_panic(expected = "of which 60 are in use")]
    fn more_than_a_buffer_holds_is_never_leased() {
        let mut pool = RecvPool::new(1, 100, false).unwrap();
        let lease = pool.lease(0, 60, false);
        pool.release(lease);
        let _ = pool.lease(0, 41, true);
    }

    #[test]
    fn memory_outlives_a_pool_that_has_leases_out() {
        let mut pool = RecvPool::new(1, 4096, false).unwrap();
        let mut lease = pool.lease(0, 4096, true);
        drop(pool);
        lease.fill(1);
        assert_eq!(lease.iter().map(|&byte| u32::from(byte)).sum::<u32>(), 4096);
    }
}
