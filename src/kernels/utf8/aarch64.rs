//! Unmasking and proving ASCII with the vector registers of AArch64.

pub(super) use crate::kernels::mask::aarch64::has_neon;

use crate::kernels::mask::MaskingKey;
use crate::kernels::mask::aarch64::Neon;
use crate::kernels::unmask;

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`].
pub(super) unsafe fn neon(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    // SAFETY: the ranges are the caller's promise.
    unsafe { unmask::<Neon>(destination, source, len, key) }
}
