//! Unmasking and proving ASCII with the vector registers of x86-64.

pub(super) use crate::kernels::mask::x86_64::{has_avx2, has_avx512, has_sse2};

use crate::kernels::mask::MaskingKey;
use crate::kernels::mask::x86_64::{Avx2, Avx512, Sse2};
use crate::kernels::unmask;

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`].
pub(super) unsafe fn sse2(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    // SAFETY: the ranges are the caller's promise.
    unsafe { unmask::<Sse2>(destination, source, len, key) }
}

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`]; the processor has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn avx2(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    // SAFETY: the ranges and AVX2 are the caller's promise.
    unsafe { unmask::<Avx2>(destination, source, len, key) }
}

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`]; the processor has AVX-512F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    // SAFETY: the ranges and AVX-512F are the caller's promise.
    unsafe { unmask::<Avx512>(destination, source, len, key) }
}
