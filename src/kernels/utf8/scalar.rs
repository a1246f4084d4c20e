//! Unmasking and proving ASCII eight bytes at a time, for any processor.

use crate::kernels::mask::{MaskingKey, scalar::Word};
use crate::kernels::{Vector, unmask, unmask_short};

/// A row of [`super::kernels`].
///
/// # Safety
///
/// As for [`super::Pass`].
pub(super) unsafe fn scalar(
    destination: *mut u8,
    source: *const u8,
    len: usize,
    key: MaskingKey,
) -> bool {
    if len < Word::BYTES {
        // SAFETY: the ranges are the caller's promise, the length was compared.
        unsafe { unmask_short(destination, source, len, key) }
    } else {
        // SAFETY: the ranges are the caller's promise, the length was compared.
        let seen = unsafe { unmask::<Word, 4>(destination, source, len, key) };
        seen.is_ascii()
    }
}
