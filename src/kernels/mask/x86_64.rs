//! Masking with the vector registers of x86-64: 16, 32 or 64 bytes at a time.
//!
//! The types wrap a register so that having one proves that the instructions exist, see
//! [`Vector`].

use core::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi32,
    _mm_storeu_si128, _mm_xor_si128, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256,
    _mm256_set1_epi32, _mm256_storeu_si256, _mm256_xor_si256, _mm512_loadu_si512, _mm512_or_si512,
    _mm512_set1_epi32, _mm512_storeu_si512, _mm512_test_epi32_mask, _mm512_xor_si512,
};

use super::MaskingKey;
use crate::kernels::{Vector, unmask};

/// Always true: SSE2 is part of x86-64.
pub(in crate::kernels) fn has_sse2() -> bool {
    true
}

/// Whether the processor has AVX2 and the operating system keeps its registers.
pub(in crate::kernels) fn has_avx2() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

/// Whether the processor has AVX-512F and the operating system keeps its registers.
pub(in crate::kernels) fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

/// Sixteen bytes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Sse2(__m128i);

impl Vector for Sse2 {
    const BYTES: usize = 16;

    #[inline(always)]
    unsafe fn repeat(key: MaskingKey) -> Self {
        // SAFETY: SSE2 is part of x86-64.
        Self(unsafe { _mm_set1_epi32(key.to_word().cast_signed()) })
    }

    #[inline(always)]
    unsafe fn unmask(self, source: *const u8) -> Self {
        // SAFETY: the caller promises 16 readable bytes.
        let bytes = unsafe { _mm_loadu_si128(source.cast()) };
        // SAFETY: SSE2 is part of x86-64.
        Self(unsafe { _mm_xor_si128(self.0, bytes) })
    }

    #[inline(always)]
    unsafe fn store(self, destination: *mut u8) {
        // SAFETY: the caller promises 16 writable bytes.
        unsafe { _mm_storeu_si128(destination.cast(), self.0) };
    }

    #[inline(always)]
    fn union(self, other: Self) -> Self {
        // SAFETY: SSE2 is part of x86-64.
        Self(unsafe { _mm_or_si128(self.0, other.0) })
    }

    #[inline(always)]
    fn is_ascii(self) -> bool {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { _mm_movemask_epi8(self.0) == 0 }
    }
}

/// Thirty-two bytes.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx2(__m256i);

impl Vector for Avx2 {
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn repeat(key: MaskingKey) -> Self {
        // SAFETY: the caller promises AVX2.
        Self(unsafe { _mm256_set1_epi32(key.to_word().cast_signed()) })
    }

    #[inline(always)]
    unsafe fn unmask(self, source: *const u8) -> Self {
        // SAFETY: the caller promises 32 readable bytes, `self` proves AVX2.
        let bytes = unsafe { _mm256_loadu_si256(source.cast()) };
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_xor_si256(self.0, bytes) })
    }

    #[inline(always)]
    unsafe fn store(self, destination: *mut u8) {
        // SAFETY: the caller promises 32 writable bytes, `self` proves AVX2.
        unsafe { _mm256_storeu_si256(destination.cast(), self.0) };
    }

    #[inline(always)]
    fn union(self, other: Self) -> Self {
        // SAFETY: `self` proves AVX2.
        Self(unsafe { _mm256_or_si256(self.0, other.0) })
    }

    #[inline(always)]
    fn is_ascii(self) -> bool {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_movemask_epi8(self.0) == 0 }
    }
}

/// Sixty-four bytes, a whole cache line.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Avx512(__m512i);

impl Vector for Avx512 {
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn repeat(key: MaskingKey) -> Self {
        // SAFETY: the caller promises AVX-512F.
        Self(unsafe { _mm512_set1_epi32(key.to_word().cast_signed()) })
    }

    #[inline(always)]
    unsafe fn unmask(self, source: *const u8) -> Self {
        // SAFETY: the caller promises 64 readable bytes, `self` proves AVX-512F.
        let bytes = unsafe { _mm512_loadu_si512(source.cast()) };
        // SAFETY: `self` proves AVX-512F.
        Self(unsafe { _mm512_xor_si512(self.0, bytes) })
    }

    #[inline(always)]
    unsafe fn store(self, destination: *mut u8) {
        // SAFETY: the caller promises 64 writable bytes, `self` proves AVX-512F.
        unsafe { _mm512_storeu_si512(destination.cast(), self.0) };
    }

    #[inline(always)]
    fn union(self, other: Self) -> Self {
        // SAFETY: `self` proves AVX-512F.
        Self(unsafe { _mm512_or_si512(self.0, other.0) })
    }

    #[inline(always)]
    fn is_ascii(self) -> bool {
        // SAFETY: `self` proves AVX-512F.
        let top_bits = unsafe { _mm512_set1_epi32(0x8080_8080_u32.cast_signed()) };
        // SAFETY: `self` proves AVX-512F.
        unsafe { _mm512_test_epi32_mask(self.0, top_bits) == 0 }
    }
}

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`].
pub(super) unsafe fn sse2(destination: *mut u8, source: *const u8, len: usize, key: MaskingKey) {
    // SAFETY: the ranges are the caller's promise.
    unsafe { unmask::<Sse2>(destination, source, len, key) };
}

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`]; the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2(destination: *mut u8, source: *const u8, len: usize, key: MaskingKey) {
    // SAFETY: the ranges and AVX2 are the caller's promise.
    unsafe { unmask::<Avx2>(destination, source, len, key) };
}

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`]; the processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512(destination: *mut u8, source: *const u8, len: usize, key: MaskingKey) {
    // SAFETY: the ranges and AVX-512F are the caller's promise.
    unsafe { unmask::<Avx512>(destination, source, len, key) };
}
