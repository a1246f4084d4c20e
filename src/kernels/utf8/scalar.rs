//! Unmasking and proving ASCII eight bytes at a time, for any processor.

use crate::kernels::mask::{MaskingKey, scalar::Word};
use crate::kernels::unmask;

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
    // SAFETY: the ranges are the caller's promise.
    unsafe { unmask::<Word>(destination, source, len, key) }
}
