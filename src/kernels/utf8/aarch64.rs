//! Unmasking and proving ASCII with the vector registers of AArch64.

pub(super) use crate::kernels::mask::aarch64::has_neon;

use crate::kernels::mask::MaskingKey;
use crate::kernels::mask::aarch64::Neon;
use crate::kernels::{Vector, unmask, unmask_short};

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
    if len < Neon::BYTES {
        // SAFETY: the ranges are the caller's promise, the length was compared.
        unsafe { unmask_short(destination, source, len, key) }
    } else {
        // SAFETY: the ranges are the caller's promise, the length was compared.
        let seen = unsafe { unmask::<Neon, 4>(destination, source, len, key) };
        seen.is_ascii()
    }
}
