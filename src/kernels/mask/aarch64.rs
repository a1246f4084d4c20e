//! Masking with the vector registers of AArch64: 16 bytes at a time.

use core::arch::aarch64::{
    uint8x16_t, vdupq_n_u32, veorq_u8, vld1q_u8, vmaxvq_u8, vorrq_u8, vreinterpretq_u8_u32,
    vst1q_u8,
};

use super::MaskingKey;
use crate::kernels::{Vector, unmask};

/// Whether the processor has NEON, which every AArch64 processor that runs Linux does.
pub(in crate::kernels) fn has_neon() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// Sixteen bytes. Having one proves that the instructions exist, see [`Vector`].
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Neon(uint8x16_t);

impl Vector for Neon {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn repeat(key: MaskingKey) -> Self {
        // SAFETY: the caller promises NEON.
        let words = unsafe { vdupq_n_u32(key.to_word()) };
        // SAFETY: as above.
        Self(unsafe { vreinterpretq_u8_u32(words) })
    }

    #[inline(always)]
    unsafe fn unmask(self, source: *const u8) -> Self {
        // SAFETY: the caller promises 16 readable bytes, `self` proves NEON.
        let bytes = unsafe { vld1q_u8(source) };
        // SAFETY: `self` proves NEON.
        Self(unsafe { veorq_u8(self.0, bytes) })
    }

    #[inline(always)]
    unsafe fn store(self, destination: *mut u8) {
        // SAFETY: the caller promises 16 writable bytes, `self` proves NEON.
        unsafe { vst1q_u8(destination, self.0) };
    }

    #[inline(always)]
    fn union(self, other: Self) -> Self {
        // SAFETY: `self` proves NEON.
        Self(unsafe { vorrq_u8(self.0, other.0) })
    }

    #[inline(always)]
    fn is_ascii(self) -> bool {
        // SAFETY: `self` proves NEON.
        unsafe { vmaxvq_u8(self.0) < 0x80 }
    }
}

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`].
pub(super) unsafe fn neon(destination: *mut u8, source: *const u8, len: usize, key: MaskingKey) {
    // SAFETY: the ranges are the caller's promise.
    unsafe { unmask::<Neon>(destination, source, len, key) };
}
