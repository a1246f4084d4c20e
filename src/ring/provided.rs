//! A group of provided buffers: receive memory, and the ring in which the kernel is told of it.
//!
//! Knows: which buffers the kernel may fill, and that it is told in time. Refuses to know: which
//! operation receives from a group, and for whom.
//!
//! The kernel takes buffers in the order in which they were provided (`io_uring_register(2)`,
//! `IORING_REGISTER_PBUF_RING`).

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, cqueue, types::BufRingEntry};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::{Errno, RecvLease, recv_pool::RecvPool};

const REGISTER_INCREMENTAL: u16 = 2;

/// The buffers of one group. It is to be dropped only once the kernel has forgotten it, or nothing
/// that receives into it is in flight.
#[derive(Debug)]
pub(super) struct BufferGroup {
    ring: BufferRing,
    pool: RecvPool,
    incremental: bool,
}

impl BufferGroup {
    /// The number of a ring's one group.
    pub(super) const ID: u16 = 0;

    /// Provides `buffers` buffers of `bytes` bytes each. `incremental`: they are filled piece by
    /// piece (`IOU_PBUF_RING_INC`, Linux 6.12) instead of one for each receive. `None` from a
    /// kernel that does not know that.
    ///
    /// # Panics
    ///
    /// When the number of buffers is not a power of two, or a size is 0.
    pub(super) fn provide(
        kernel: &IoUring,
        (buffers, bytes): (u16, u32),
        incremental: bool,
    ) -> Result<Option<Self>, Errno> {
        let ring = BufferRing::new(buffers)?;
        let flags = if incremental { REGISTER_INCREMENTAL } else { 0 };
        if !ring.register(kernel, flags)? {
            return Ok(None);
        }
        let mut group = Self {
            ring,
            // All of it is in use within the first few messages, and then for ever.
            pool: RecvPool::new(buffers, bytes, true)?,
            incremental,
        };
        for buffer in 0..buffers {
            group.ring.add(buffer, group.pool.address(buffer), bytes);
        }
        group.ring.commit();
        Ok(Some(group))
    }

    /// Has the kernel forget the group.
    pub(super) fn withdraw(&self, kernel: &IoUring) {
        // It can only fail for a group that it does not know.
        let _ = kernel.submitter().unregister_buf_ring(Self::ID);
    }

    /// The memory.
    #[inline]
    pub(super) const fn pool(&self) -> &RecvPool {
        &self.pool
    }

    /// Makes two leases of one, as [`RecvPool::split`] does.
    pub(super) fn split(&mut self, lease: RecvLease, at: usize) -> (RecvLease, RecvLease) {
        self.pool.split(lease, at)
    }

    /// Whether buffers are filled piece by piece.
    pub(super) const fn is_incremental(&self) -> bool {
        self.incremental
    }

    /// What a completion with this result and these flags has brought. A buffer with nothing in it
    /// goes back at once.
    #[inline]
    pub(super) fn received(&mut self, result: i32, flags: u32) -> Option<RecvLease> {
        let buffer = cqueue::buffer_select(flags)?;
        let retire = !(self.incremental && cqueue::buffer_more(flags));
        let lease = self.pool.lease(buffer, result.max(0) as u32, retire);
        if result > 0 {
            return Some(lease);
        }
        self.recycle(lease);
        None
    }

    /// Ends a lease, and provides its buffer again when it was the last one.
    #[inline]
    pub(super) fn recycle(&mut self, lease: RecvLease) {
        if let Some(buffer) = self.pool.release(lease) {
            let address = self.pool.address(buffer);
            self.ring.add(buffer, address, self.pool.buffer_bytes());
            self.ring.commit();
        }
    }
}

/// The provided-buffer ring: which buffers the kernel may fill, in order.
#[derive(Debug)]
struct BufferRing {
    entries: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
}

impl BufferRing {
    fn new(count: u16) -> Result<Self, Errno> {
        assert!(
            count.is_power_of_two(),
            "the number of receive buffers is a power of two"
        );
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // existing memory. It is aligned to a page, which the kernel asks for.
        let memory = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                Self::bytes(count),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let entries = NonNull::new(memory.cast()).ok_or(Errno::new(libc::ENOMEM))?;
        Ok(Self {
            entries,
            count,
            tail: 0,
        })
    }

    fn bytes(count: u16) -> usize {
        usize::from(count) * size_of::<BufRingEntry>()
    }

    /// Tells the kernel. Returns whether it knows these flags.
    fn register(&self, kernel: &IoUring, flags: u16) -> Result<bool, Errno> {
        let address = self.entries.as_ptr() as u64;
        // SAFETY: the mapping is page aligned, holds `count` entries, and stays until the kernel
        // has forgotten it: `Uring::drop` sees to the order.
        let done = unsafe {
            kernel.submitter().register_buf_ring_with_flags(
                address,
                self.count,
                BufferGroup::ID,
                flags,
            )
        };
        match done {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a buffer at the tail. The kernel sees it after [`commit`](Self::commit).
    fn add(&mut self, buffer: u16, address: NonNull<u8>, len: u32) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` is below `count`, and the mapping holds `count` entries.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: the kernel reads only entries before the published tail, and this one is not: at
        // most `count` buffers exist, and this one is not with the kernel. All bit patterns of an
        // entry are valid. The write leaves out the two bytes in which entry 0 holds the tail.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(len);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn commit(&mut self) {
        // SAFETY: `entries` is the base address of the mapped, zeroed entries.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the kernel reads the tail as an atomic 16 bit number; the address is aligned to
        // two bytes and mapped for as long as `self` lives.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Release: whoever reads the tail sees the entries before it.
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and this long; `Uring` drops it only when the kernel has
        // forgotten it.
        let unmapped = unsafe { munmap(self.entries.as_ptr().cast(), Self::bytes(self.count)) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping cannot fail");
    }
}
