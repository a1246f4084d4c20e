//! Memory for one long run of bytes, which grows where it lies.
//!
//! Knows: the allocator for little, and mappings of its own for much. Refuses to know: what is in
//! it, and how much of it there may be.
//!
//! A mapping grows by `mremap(2)`: its pages move in the kernel's tables, and nothing is copied. It
//! takes memory page by page, as it is written to, and all of it goes back to the kernel with the
//! mapping, whatever the allocator is like.
//!
//! Invariant: all of a [`Memory`] is initialised. A mapping begins with zeros, and so does what it
//! grows by.

use std::{
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use rustix::mm::{MapFlags, MremapFlags, ProtFlags, mmap_anonymous, mremap, munmap};

/// From so many bytes on, memory is a mapping of its own.
pub const MAPPED_BYTES_MIN: usize = 64 << 10;

/// Mappings are multiples of this: a page, or several where pages are smaller.
const GRAIN_BYTES: usize = 4096;

/// Initialised bytes.
#[derive(Debug)]
pub enum Memory {
    /// From the allocator.
    Heap(Vec<u8>),
    /// A mapping.
    Mapped(Mapping),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Heap(Vec::new())
    }
}

impl Memory {
    /// Zeros, `bytes` of them or a few more. From the allocator if the kernel has no room for a
    /// mapping.
    pub fn new(bytes: usize) -> Self {
        if bytes >= MAPPED_BYTES_MIN
            && let Some(mapping) = Mapping::new(bytes)
        {
            return Self::Mapped(mapping);
        }
        Self::Heap(vec![0; bytes])
    }

    /// Grows to `bytes` bytes or a few more, without a copy of what is there. Returns false where
    /// that cannot be done: nothing has changed then.
    pub fn grow(&mut self, bytes: usize) -> bool {
        match self {
            Self::Heap(_) => false,
            Self::Mapped(mapping) => mapping.grow(bytes),
        }
    }

    /// How many bytes [`new`](Self::new) and [`grow`](Self::grow) make of so many.
    pub const fn rounded(bytes: usize) -> usize {
        if bytes < MAPPED_BYTES_MIN {
            bytes
        } else {
            bytes.next_multiple_of(GRAIN_BYTES)
        }
    }
}

impl Deref for Memory {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(mapping) => mapping,
        }
    }
}

impl DerefMut for Memory {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(bytes) => bytes,
            Self::Mapped(mapping) => mapping,
        }
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// A private, anonymous mapping.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is this value's alone, like the memory of a `Vec`.
unsafe impl Send for Mapping {}

// SAFETY: through a shared reference it is only read, like the memory of a `Vec`.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize) -> Option<Self> {
        let len = Memory::rounded(bytes);
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // existing memory.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        let start = NonNull::new(start.ok()?.cast())?;
        Some(Self { start, len })
    }

    fn grow(&mut self, bytes: usize) -> bool {
        let len = Memory::rounded(bytes);
        if len <= self.len {
            return true;
        }
        let old = self.start.as_ptr().cast();
        // SAFETY: the old mapping is ours and this long, nobody has a reference into it, since
        // `self` is borrowed mutably, and its old address is forgotten below.
        let moved = unsafe { mremap(old, self.len, len, MremapFlags::MAYMOVE) };
        match moved.ok().and_then(|start| NonNull::new(start.cast())) {
            Some(start) => {
                self.start = start;
                self.len = len;
                true
            }
            None => false,
        }
    }
}

impl Deref for Mapping {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping is this long, readable, initialised by the kernel, and lives as long
        // as `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Mapping {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; it is writable, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and this long, and nobody refers to it any more.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "unmapping our own mapping cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_zeros_and_keeps_what_is_there_while_it_grows() {
        for first in [1, 4096, MAPPED_BYTES_MIN, 1 << 20] {
            let mut memory = Memory::new(first);
            assert_eq!(memory.len(), Memory::rounded(first));
            assert!(memory.iter().all(|&byte| byte == 0));
            memory.fill(7);
            let before = memory.len();
            let grew = memory.grow(4 * before);
            assert_eq!(grew, first >= MAPPED_BYTES_MIN);
            if grew {
                assert_eq!(memory.len(), Memory::rounded(4 * before));
                assert!(memory[..before].iter().all(|&byte| byte == 7));
                assert!(memory[before..].iter().all(|&byte| byte == 0));
                assert!(memory.grow(1) && memory.len() > before, "it never shrinks");
            }
        }
    }

    #[test]
    fn what_was_not_written_to_takes_no_memory() {
        let mut memory = Memory::new(1 << 40);
        memory[0] = 1;
        *memory.last_mut().unwrap() = 2;
        assert!(memory.grow(1 << 41));
        assert_eq!((memory[0], memory[(1 << 40) - 1]), (1, 2));
    }
}
