//! Masking eight bytes at a time, for any processor.

use super::MaskingKey;
use crate::kernels::{Vector, unmask};

/// A number used as a vector of eight bytes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Word(u64);

impl Vector for Word {
    const BYTES: usize = 8;

    #[inline(always)]
    unsafe fn repeat(key: MaskingKey) -> Self {
        let half = u64::from(key.to_word());
        Self(half << 32 | half)
    }

    #[inline(always)]
    unsafe fn unmask(self, source: *const u8) -> Self {
        // SAFETY: the caller promises eight readable bytes.
        let bytes = unsafe { source.cast::<u64>().read_unaligned() };
        Self(self.0 ^ bytes)
    }

    #[inline(always)]
    unsafe fn store(self, destination: *mut u8) {
        // SAFETY: the caller promises eight writable bytes.
        unsafe { destination.cast::<u64>().write_unaligned(self.0) };
    }

    #[inline(always)]
    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    fn is_ascii(self) -> bool {
        self.0 & 0x8080_8080_8080_8080 == 0
    }
}

/// A number used as a vector of four bytes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct HalfWord(u32);

impl Vector for HalfWord {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn repeat(key: MaskingKey) -> Self {
        Self(key.to_word())
    }

    #[inline(always)]
    unsafe fn unmask(self, source: *const u8) -> Self {
        // SAFETY: the caller promises four readable bytes.
        let bytes = unsafe { source.cast::<u32>().read_unaligned() };
        Self(self.0 ^ bytes)
    }

    #[inline(always)]
    unsafe fn store(self, destination: *mut u8) {
        // SAFETY: the caller promises four writable bytes.
        unsafe { destination.cast::<u32>().write_unaligned(self.0) };
    }

    #[inline(always)]
    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    fn is_ascii(self) -> bool {
        self.0 & 0x8080_8080 == 0
    }
}

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`].
pub(super) unsafe fn scalar(destination: *mut u8, source: *const u8, len: usize, key: MaskingKey) {
    // SAFETY: the ranges are the caller's promise.
    unsafe { unmask::<Word>(destination, source, len, key) };
}
