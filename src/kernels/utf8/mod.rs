//! Proving that text is UTF-8, RFC 6455 section 8.1, alone or while it is unmasked.
//!
//! Text arrives in pieces which end anywhere, also inside a character, so the proof is a state
//! machine: [`Validator`]. It knows bytes and the character they belong to. It does not know
//! messages: whoever feeds it says where a text ends.
//!
//! Most text is ASCII. The fused passes unmask and prove that at the same time, so memory is read
//! once; only a block in which a top bit turned up is looked at again, while it is in the cache:
//!
//! ```text
//!   payload   |  block  |  block  |  block  |   16 KiB each
//!   pass 1    unmask, union of all bytes         every block
//!   pass 2              simdutf8                 only where the union has a top bit, or where
//!                                                the block before ended inside a character
//! ```

use core::{fmt, ops::Range};

use super::mask::{MaskingKey, places_within};
use super::{Choice, SHORT_BYTES_MAX, unmask_short};

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86_64;

/// How many bytes are unmasked before they are looked at again.
///
/// Large enough that starting a pass costs nothing in comparison, small enough that the block and
/// the tables of simdutf8 stay in a first level cache of 32 KiB. A multiple of the key's four
/// bytes, so that every block begins in the same phase.
const BLOCK_BYTES: usize = 16 * 1024;

/// The text is not valid UTF-8.
///
/// An endpoint that finds this in a text message or in a close reason fails the connection with
/// status code 1007, RFC 6455 sections 8.1 and 7.4.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Utf8Error;

impl fmt::Display for Utf8Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(
            "text contains bytes that are not UTF-8; send them in a binary message or encode them",
        )
    }
}

impl std::error::Error for Utf8Error {}

/// Validates one text after another, each in pieces of any length.
///
/// It fails with the piece that contains the first byte which cannot become valid, also when that
/// byte's character is not complete yet: `F4` may begin a character, `F4 90` cannot, whatever
/// follows (Unicode 16.0, table 3-7).
///
/// The state is what the next byte must be, three bytes in all. No byte of the text is kept.
#[derive(Clone, Copy, Default, Debug)]
pub struct Validator {
    /// Continuation bytes which the current character still needs.
    missing: u8,
    /// Inclusive bounds of the next continuation byte. Without meaning when none is missing.
    lowest: u8,
    highest: u8,
}

impl Validator {
    /// At the start of a text.
    const START: Self = Self::expect(0, 0x80, 0xbf);

    /// Waits for a byte that does not exist, so every further push and the finish fail.
    const FAILED: Self = Self::expect(1, 0xff, 0x00);

    const fn expect(missing: u8, lowest: u8, highest: u8) -> Self {
        Self {
            missing,
            lowest,
            highest,
        }
    }

    /// A validator at the start of a text.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self::START
    }

    /// Takes the next bytes of the text.
    ///
    /// # Errors
    ///
    /// When one of the bytes cannot belong to valid UTF-8 after what was pushed before. From then
    /// on every push of at least one byte fails, until [`Validator::finish`] ends the text.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Utf8Error> {
        if self.is_boundary() && is_short_ascii(bytes) {
            return Ok(());
        }
        self.push_any(bytes)
    }

    /// Ends the text and stands at the start of the next one, also after an error.
    ///
    /// # Errors
    ///
    /// When the text ended inside a character, or when a push had failed.
    #[inline]
    pub fn finish(&mut self) -> Result<(), Utf8Error> {
        let complete = self.is_boundary();
        *self = Self::START;
        if complete { Ok(()) } else { Err(Utf8Error) }
    }

    /// Whether the bytes so far are whole characters.
    #[inline]
    #[must_use]
    pub const fn is_boundary(&self) -> bool {
        self.missing == 0
    }

    fn push_any(&mut self, bytes: &[u8]) -> Result<(), Utf8Error> {
        let mut rest = bytes;
        while !self.is_boundary() {
            let Some((&byte, after)) = rest.split_first() else {
                return Ok(());
            };
            self.step(byte)?;
            rest = after;
        }
        let (whole, begun) = rest.split_at(rest.len() - begun_bytes(rest));
        if simdutf8::basic::from_utf8(whole).is_err() {
            *self = Self::FAILED;
            return Err(Utf8Error);
        }
        // These may be wrong as well: `F4 90` is a begun character to `begun_bytes`.
        for &byte in begun {
            self.step(byte)?;
        }
        Ok(())
    }

    /// Takes one byte. The bounds are the rows of table 3-7 in the Unicode standard; those of the
    /// second byte exclude overlong forms, surrogates, and what lies above U+10FFFF.
    #[inline]
    fn step(&mut self, byte: u8) -> Result<(), Utf8Error> {
        *self = if self.is_boundary() {
            match byte {
                0x00..=0x7f => Self::START,
                0xc2..=0xdf => Self::expect(1, 0x80, 0xbf),
                0xe0 => Self::expect(2, 0xa0, 0xbf),
                0xe1..=0xec | 0xee..=0xef => Self::expect(2, 0x80, 0xbf),
                0xed => Self::expect(2, 0x80, 0x9f),
                0xf0 => Self::expect(3, 0x90, 0xbf),
                0xf1..=0xf3 => Self::expect(3, 0x80, 0xbf),
                0xf4 => Self::expect(3, 0x80, 0x8f),
                0x80..=0xc1 | 0xf5..=0xff => Self::FAILED,
            }
        } else if self.lowest <= byte && byte <= self.highest {
            Self::expect(self.missing - 1, 0x80, 0xbf)
        } else {
            Self::FAILED
        };
        if self.lowest <= self.highest {
            Ok(())
        } else {
            Err(Utf8Error)
        }
    }
}

/// How many of the last bytes begin a character that goes on after them: at most three.
#[inline]
fn begun_bytes(bytes: &[u8]) -> usize {
    // Continuation bytes lie below C0. C0 and F5 to FF begin nothing, and counting them as if
    // they did is fine: `step` refuses them.
    match *bytes {
        [.., 0xc0..=0xff] => 1,
        [.., 0xe0..=0xff, _] => 2,
        [.., 0xf0..=0xff, _, _] => 3,
        _ => 0,
    }
}

/// The bytes as text, when all of them are valid UTF-8.
///
/// # Errors
///
/// When they are not, or when the last character is not complete.
#[inline]
pub fn validate(bytes: &[u8]) -> Result<&str, Utf8Error> {
    if is_short_ascii(bytes) {
        // SAFETY: `is_short_ascii` looked at every byte, and ASCII is UTF-8.
        return Ok(unsafe { str::from_utf8_unchecked(bytes) });
    }
    simdutf8::basic::from_utf8(bytes).map_err(|_| Utf8Error)
}

/// Whether the bytes are few and all ASCII. Two arrays cover them from their two ends.
#[inline(always)]
fn is_short_ascii(bytes: &[u8]) -> bool {
    match bytes.len() {
        0 => true,
        1..=3 => bytes[0] | bytes[bytes.len() / 2] | bytes[bytes.len() - 1] < 0x80,
        4..=7 => match (bytes.first_chunk(), bytes.last_chunk()) {
            (Some(&first), Some(&last)) => {
                (u32::from_ne_bytes(first) | u32::from_ne_bytes(last)) & 0x8080_8080 == 0
            }
            _ => false,
        },
        8..=15 => are_ends_ascii::<1>(bytes),
        16..=31 => are_ends_ascii::<2>(bytes),
        32..=63 => are_ends_ascii::<4>(bytes),
        64..=SHORT_BYTES_MAX => are_ends_ascii::<8>(bytes),
        _ => false,
    }
}

/// Whether the first `COUNT` words of eight bytes and the last as many are ASCII.
#[inline(always)]
fn are_ends_ascii<const COUNT: usize>(bytes: &[u8]) -> bool {
    let (first, _) = bytes.as_chunks::<8>();
    let (_, last) = bytes.as_rchunks::<8>();
    let (Some(first), Some(last)) = (first.first_chunk::<COUNT>(), last.last_chunk::<COUNT>())
    else {
        return false;
    };
    let mut seen = 0;
    for (&first, &last) in first.iter().zip(last) {
        seen |= u64::from_ne_bytes(first) | u64::from_ne_bytes(last);
    }
    seen & 0x8080_8080_8080_8080 == 0
}

/// Unmasks `len` bytes from the second pointer to the first, and returns whether all bytes written
/// are ASCII.
///
/// # Safety
///
/// * `len` bytes may be read at the second pointer and written at the first.
/// * The two ranges are the same, or apart, or overlap with the first below the second.
/// * The row's `available` has answered true.
type Pass = unsafe fn(*mut u8, *const u8, usize, MaskingKey) -> bool;

/// One way to unmask and prove ASCII at the same time: a row of [`kernels`].
#[derive(Debug)]
pub struct Kernel {
    /// The instruction set, in lower case.
    pub name: &'static str,
    /// Whether this processor can run the row.
    pub available: fn() -> bool,
    pass: Pass,
}

impl Kernel {
    /// Unmasks the payload where it lies, with this row whatever the length. Returns whether the
    /// unmasked bytes are all ASCII. For tests and benches.
    ///
    /// # Panics
    ///
    /// When the row is not available.
    pub fn apply(&self, payload: &mut [u8], key: MaskingKey) -> bool {
        self.require_available();
        let at = payload.as_mut_ptr();
        // SAFETY: both ranges are the one slice that we hold exclusively; the row is available.
        unsafe { (self.pass)(at, at, payload.len(), key) }
    }

    /// The same from `source` into `destination`.
    ///
    /// # Panics
    ///
    /// When the row is not available, or when the lengths differ.
    pub fn copy(&self, destination: &mut [u8], source: &[u8], key: MaskingKey) -> bool {
        self.require_available();
        require_equal_lengths(destination, source);
        // SAFETY: a shared and an exclusive slice are apart, and both are as long as the source;
        // the row is available.
        unsafe { (self.pass)(destination.as_mut_ptr(), source.as_ptr(), source.len(), key) }
    }

    fn require_available(&self) {
        assert!(
            (self.available)(),
            "this processor cannot run the {} kernel",
            self.name
        );
    }
}

/// Every row compiled for this architecture, best first, scalar last.
#[must_use]
pub fn kernels() -> &'static [Kernel] {
    KERNELS
}

const KERNELS: &[Kernel] = &[
    #[cfg(target_arch = "x86_64")]
    Kernel {
        name: "avx512",
        available: x86_64::has_avx512,
        pass: x86_64::avx512,
    },
    #[cfg(target_arch = "x86_64")]
    Kernel {
        name: "avx2",
        available: x86_64::has_avx2,
        pass: x86_64::avx2,
    },
    #[cfg(target_arch = "x86_64")]
    Kernel {
        name: "sse2",
        available: x86_64::has_sse2,
        pass: x86_64::sse2,
    },
    #[cfg(target_arch = "aarch64")]
    Kernel {
        name: "neon",
        available: aarch64::has_neon,
        pass: aarch64::neon,
    },
    Kernel {
        name: "scalar",
        available: || true,
        pass: scalar::scalar,
    },
];

static CHOICE: Choice<Kernel> = Choice::undecided();

fn decide() -> &'static Kernel {
    let mut rows = kernels().iter();
    rows.find(|row| (row.available)())
        .expect("the scalar row is always available")
}

/// The name of the row that the fused passes use for long payloads.
#[must_use]
pub fn selected() -> &'static str {
    CHOICE.row(decide).name
}

/// Unmasks the payload where it lies, and takes the unmasked bytes as the next bytes of the
/// validator's text. The first byte is combined with the key's first.
///
/// # Errors
///
/// As [`Validator::push`]. How much of the payload was unmasked is then unspecified.
#[inline]
pub fn unmask_and_validate(
    payload: &mut [u8],
    key: MaskingKey,
    validator: &mut Validator,
) -> Result<(), Utf8Error> {
    let len = payload.len();
    if len > BLOCK_BYTES {
        return unmask_and_validate_blocks(payload, key, validator);
    }
    let at = payload.as_mut_ptr();
    // SAFETY: both ranges are the one slice that we hold exclusively.
    let ascii = unsafe { pass(at, at, len, key) };
    if ascii && validator.is_boundary() {
        Ok(())
    } else {
        validator.push_any(payload)
    }
}

/// The same from `source` into `destination`: one read and one write of memory for ASCII.
///
/// # Errors
///
/// As [`Validator::push`]. How much of the destination was written is then unspecified.
///
/// # Panics
///
/// When the lengths differ.
#[inline]
pub fn copy_unmask_and_validate(
    destination: &mut [u8],
    source: &[u8],
    key: MaskingKey,
    validator: &mut Validator,
) -> Result<(), Utf8Error> {
    require_equal_lengths(destination, source);
    let len = source.len();
    if len > BLOCK_BYTES {
        return copy_unmask_and_validate_blocks(destination, source, key, validator);
    }
    // SAFETY: a shared and an exclusive slice are apart, and both are as long as the source.
    let ascii = unsafe { pass(destination.as_mut_ptr(), source.as_ptr(), len, key) };
    if ascii && validator.is_boundary() {
        Ok(())
    } else {
        validator.push_any(destination)
    }
}

/// Unmasks the bytes `source` of the buffer to `destination` in the same buffer, and returns
/// whether they are a whole text there. The two places may overlap.
///
/// For texts of few bytes: longer ones are read twice.
///
/// # Panics
///
/// As [`mask::copy_within`](super::mask::copy_within).
#[inline(always)]
pub fn unmask_text_within(
    buffer: &mut [u8],
    source: Range<usize>,
    destination: usize,
    key: MaskingKey,
) -> bool {
    let (to, from, len) = places_within(buffer, source, destination);
    // SAFETY: `places_within` checked that both ranges lie in the buffer, the destination not
    // above the source.
    let ascii = unsafe { pass(to, from, len, key) };
    ascii || simdutf8::basic::from_utf8(&buffer[destination..destination + len]).is_ok()
}

fn unmask_and_validate_blocks(
    payload: &mut [u8],
    key: MaskingKey,
    validator: &mut Validator,
) -> Result<(), Utf8Error> {
    for block in payload.chunks_mut(BLOCK_BYTES) {
        let at = block.as_mut_ptr();
        // SAFETY: both ranges are the one slice that we hold exclusively.
        let ascii = unsafe { pass(at, at, block.len(), key) };
        if !(ascii && validator.is_boundary()) {
            validator.push_any(block)?;
        }
    }
    Ok(())
}

fn copy_unmask_and_validate_blocks(
    destination: &mut [u8],
    source: &[u8],
    key: MaskingKey,
    validator: &mut Validator,
) -> Result<(), Utf8Error> {
    for (to, from) in destination
        .chunks_mut(BLOCK_BYTES)
        .zip(source.chunks(BLOCK_BYTES))
    {
        // SAFETY: a shared and an exclusive slice are apart, and equally long slices were cut into
        // equally long blocks.
        let ascii = unsafe { pass(to.as_mut_ptr(), from.as_ptr(), from.len(), key) };
        if !(ascii && validator.is_boundary()) {
            validator.push_any(to)?;
        }
    }
    Ok(())
}

/// The short way or the chosen row.
///
/// # Safety
///
/// As for [`Pass`], without the last condition.
#[inline(always)]
unsafe fn pass(destination: *mut u8, source: *const u8, len: usize, key: MaskingKey) -> bool {
    if len <= SHORT_BYTES_MAX {
        // SAFETY: the ranges are the caller's promise, the length was compared.
        unsafe { unmask_short(destination, source, len, key) }
    } else {
        let row = CHOICE.row(decide);
        // SAFETY: the ranges are the caller's promise, and `decide` takes only available rows.
        unsafe { (row.pass)(destination, source, len, key) }
    }
}

#[inline]
fn require_equal_lengths(destination: &[u8], source: &[u8]) {
    assert_eq!(
        destination.len(),
        source.len(),
        "destination and source differ in length"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::mask;

    const LEN_MAX: usize = 600;
    const ALIGNMENT: usize = 64;
    const GUARD: usize = 320;
    const GUARD_BYTE: u8 = 0xa5;
    const KEY: MaskingKey = MaskingKey::new([0x37, 0xfa, 0x21, 0x3d]);
    /// With a non-ASCII byte at each position, every alignment would take a minute in debug mode,
    /// so there each position of each length gets one alignment, and all occur.
    const ALIGNMENTS_PER_POSITION: usize = if cfg!(debug_assertions) { 1 } else { ALIGNMENT };

    /// Valid texts, texts that end early, and texts that are wrong, each at its own byte.
    const SEQUENCES: &[&[u8]] = &[
        b"",
        b"plain",
        "\u{7f}\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10000}\u{10ffff}".as_bytes(),
        "κόσμε".as_bytes(),
        "a\u{e9}\u{20ac}\u{1f600}b".as_bytes(),
        b"\xf4\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf0\x90\x80\x80",
        b"\xed\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xe0\x9f\xbf",
        b"\xe0\xa0\x80",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xc2\x80",
        b"\xc2",
        b"\xe2\x82",
        b"\xf0\x9f\x98",
        b"\xf0\x9f\x98a",
        b"\xe2\x82\xe2\x82\xac",
        b"\xc3\xc3\xa9",
        b"\x80",
        b"ab\xbfcd",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited",
        b"\xfe\xff",
        b"ok\xff",
    ];

    /// Where the first byte stands that cannot become valid: the end of the shortest beginning
    /// which the standard library refuses for another reason than that it is not complete.
    fn first_impossible(bytes: &[u8]) -> Option<usize> {
        let refused = |end: &usize| match str::from_utf8(&bytes[..*end]) {
            Ok(_) => false,
            Err(error) => error.error_len().is_some(),
        };
        (1..=bytes.len()).find(refused).map(|end| end - 1)
    }

    /// Pushes the pieces and panics unless exactly the piece with the impossible byte fails.
    fn check_pieces(pieces: &[&[u8]]) {
        let text = pieces.concat();
        let impossible = first_impossible(&text);
        let mut validator = Validator::new();
        let mut end = 0;
        for piece in pieces {
            end += piece.len();
            let possible = impossible.is_none_or(|at| end <= at);
            assert_eq!(
                validator.push(piece).is_ok(),
                possible,
                "{pieces:x?} up to {end}"
            );
            if !possible {
                break;
            }
            assert_eq!(
                validator.is_boundary(),
                str::from_utf8(&text[..end]).is_ok()
            );
        }
        assert_eq!(
            validator.finish().is_ok(),
            str::from_utf8(&text).is_ok(),
            "{pieces:x?}"
        );
        assert!(validator.is_boundary(), "finish begins the next text");
    }

    #[test]
    fn every_split_into_three_pieces_fails_with_the_same_byte() {
        for text in SEQUENCES {
            for second in 0..=text.len() {
                for first in 0..=second {
                    check_pieces(&[&text[..first], &text[first..second], &text[second..]]);
                }
            }
            check_pieces(&text.chunks(1).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sequences_inside_longer_texts() {
        for text in SEQUENCES {
            for before in 0..=130 {
                for after in [0, 1, 2, 3, 4, 15, 60, 61, 62, 63, 64, 65, 130] {
                    let whole = [&vec![b'a'; before], *text, &vec![b'z'; after]].concat();
                    check_pieces(&[&whole]);
                    assert_eq!(validate(&whole).ok(), str::from_utf8(&whole).ok());
                    let (first, second) = whole.split_at(before + text.len() / 2);
                    check_pieces(&[first, second]);
                }
            }
        }
    }

    /// Extends `prefix`, which could still become valid, by every byte, up to three bytes.
    fn check_extensions(prefix: &mut Vec<u8>, validator: Validator) {
        for byte in 0..=u8::MAX {
            prefix.push(byte);
            let mut after = validator;
            let pushed = after.push(&[byte]);
            match str::from_utf8(prefix) {
                Ok(text) => {
                    assert!(pushed.is_ok() && after.is_boundary(), "{prefix:x?}");
                    assert_eq!(validate(prefix), Ok(text));
                }
                Err(error) => {
                    // A byte that begins nothing is itself the first impossible one; otherwise
                    // it is the byte that follows the part which could have become valid.
                    let begins = matches!(prefix[error.valid_up_to()], 0xc2..=0xf4);
                    let impossible = error
                        .error_len()
                        .map(|len| error.valid_up_to() + if begins { len } else { 0 });
                    assert_eq!(pushed.is_err(), impossible == Some(prefix.len() - 1));
                    assert_eq!(pushed.is_err(), impossible.is_some(), "{prefix:x?}");
                    assert!(!after.is_boundary(), "{prefix:x?}");
                    assert_eq!(validate(prefix), Err(Utf8Error));
                }
            }
            assert_eq!(
                Validator::new().push(prefix),
                pushed,
                "{prefix:x?} in one piece"
            );
            // What follows an impossible byte is never looked at.
            if pushed.is_ok() && prefix.len() < 3 {
                check_extensions(prefix, after);
            }
            prefix.pop();
        }
    }

    #[test]
    fn every_sequence_of_up_to_three_bytes() {
        check_extensions(&mut Vec::new(), Validator::new());
    }

    #[test]
    fn boundaries_of_four_byte_sequences() {
        let edges = [0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xff];
        for first in 0xef..=0xf6 {
            for second in 0..=u8::MAX {
                for third in edges {
                    for fourth in edges {
                        let text = [first, second, third, fourth];
                        let impossible = first_impossible(&text);
                        let mut validator = Validator::new();
                        let failed = text.iter().position(|&b| validator.push(&[b]).is_err());
                        assert_eq!(failed, impossible, "{text:x?}");
                        let whole = Validator::new().push(&text);
                        assert_eq!(whole.is_err(), impossible.is_some(), "{text:x?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_failed_text_stays_failed_until_it_ends() {
        let mut validator = Validator::new();
        assert_eq!(validator.push(b"\xff"), Err(Utf8Error));
        for byte in 0..=u8::MAX {
            assert_eq!(validator.push(&[byte]), Err(Utf8Error));
        }
        assert_eq!(validator.push(&[b'a'; 300]), Err(Utf8Error));
        assert_eq!(
            unmask_and_validate(&mut [0; 9], KEY, &mut validator),
            Err(Utf8Error)
        );
        assert_eq!(validator.finish(), Err(Utf8Error));
        assert_eq!(validator.push(b"next"), Ok(()));
        assert_eq!(validator.finish(), Ok(()));
    }

    #[test]
    fn the_state_fits_in_a_register() {
        assert!(size_of::<Validator>() <= 8);
    }

    /// ASCII of every length and alignment; then one other byte at each position. The phases take
    /// turns: the masking tests have them all.
    fn check_row(row: &'static Kernel) -> usize {
        let clear: Vec<u8> = (0..LEN_MAX).map(|i| b' ' + (i * 7 % 95) as u8).collect();
        let masked = [0, 1, 2, 3].map(|phase| {
            let mut bytes = clear.clone();
            mask::apply(&mut bytes, KEY.rotated(phase));
            bytes
        });
        let mut memory = vec![GUARD_BYTE; 2 * GUARD + LEN_MAX + 2 * ALIGNMENT];
        let aligned = GUARD + memory[GUARD..].as_ptr().align_offset(ALIGNMENT);
        let mut copied = vec![0; LEN_MAX];
        let mut expected = clear.clone();
        let mut cases = 0;
        let mut check = |alignment: usize, phase: usize, len: usize, other: Option<(usize, u8)>| {
            let what = || format!("{} {alignment} {phase} {len} {other:x?}", row.name);
            let start = aligned + alignment;
            let payload = &mut memory[start..start + len];
            payload.copy_from_slice(&masked[phase][..len]);
            if let Some((position, bits)) = other {
                payload[position] ^= bits;
                expected[position] ^= bits;
            }
            let key = KEY.rotated(phase);
            assert_eq!(
                row.copy(&mut copied[..len], payload, key),
                other.is_none(),
                "{}",
                what()
            );
            assert!(copied[..len] == expected[..len], "copied {}", what());
            assert_eq!(row.apply(payload, key), other.is_none(), "{}", what());
            assert!(*payload == expected[..len], "in place {}", what());
            if let Some((position, bits)) = other {
                expected[position] ^= bits;
            }
            let guard = [GUARD_BYTE; GUARD];
            assert!(
                memory[start - GUARD..start] == guard,
                "wrote before {}",
                what()
            );
            assert!(
                memory[start + len..][..GUARD] == guard,
                "wrote after {}",
                what()
            );
            memory[start..start + len].fill(GUARD_BYTE);
            cases += 1;
        };
        for alignment in 0..ALIGNMENT {
            for len in 0..=LEN_MAX {
                check(alignment, (alignment / 4 + len) % 4, len, None);
            }
        }
        for len in 0..=LEN_MAX {
            for position in 0..len {
                for turn in 0..ALIGNMENTS_PER_POSITION {
                    let alignment = (len * 31 + position * 7 + turn) % ALIGNMENT;
                    check(alignment, (len + position) % 4, len, Some((position, 0x80)));
                }
            }
        }
        cases
    }

    #[test]
    fn every_available_row_was_run_and_finds_a_byte_that_is_not_ascii_anywhere() {
        let mut run = Vec::new();
        for row in kernels().iter().filter(|row| (row.available)()) {
            let positions = LEN_MAX * (LEN_MAX + 1) / 2;
            let cases = ALIGNMENT * (LEN_MAX + 1) + positions * ALIGNMENTS_PER_POSITION;
            assert_eq!(check_row(row), cases);
            run.push(row.name);
        }
        let skipped = kernels()
            .iter()
            .map(|row| row.name)
            .filter(|name| !run.contains(name));
        println!(
            "fused rows run: {run:?}, not available: {:?}",
            skipped.collect::<Vec<_>>()
        );
        println!("chosen for long payloads: {}", selected());
        assert_eq!(run[0], selected());
        assert_eq!(run.last(), Some(&"scalar"));
        if cfg!(target_arch = "x86_64") {
            assert!(run.contains(&"sse2"));
        }
        if cfg!(target_arch = "aarch64") {
            assert!(run.contains(&"neon"));
        }
    }

    /// Feeds the masked text in pieces through both fused functions and panics unless they agree
    /// with the standard library and with unmasking alone.
    fn check_fused(text: &[u8], cuts: &[usize]) {
        let mut masked = text.to_vec();
        mask::apply(&mut masked, KEY);
        let impossible = first_impossible_after(text);
        let mut in_place = masked.clone();
        let mut copied = vec![0; text.len()];
        let (mut moving, mut copying) = (Validator::new(), Validator::new());
        let mut start = 0;
        for end in cuts.iter().copied().chain([text.len()]) {
            let key = KEY.rotated(start);
            let possible = impossible.is_none_or(|at| end <= at);
            let result = unmask_and_validate(&mut in_place[start..end], key, &mut moving);
            assert_eq!(result.is_ok(), possible, "in place, {start} to {end}");
            let (to, from) = (&mut copied[start..end], &masked[start..end]);
            let result = copy_unmask_and_validate(to, from, key, &mut copying);
            assert_eq!(result.is_ok(), possible, "copying, {start} to {end}");
            if !possible {
                return;
            }
            assert!(
                in_place[start..end] == text[start..end],
                "in place, {start} to {end}"
            );
            assert!(
                copied[start..end] == text[start..end],
                "copying, {start} to {end}"
            );
            start = end;
        }
        let complete = str::from_utf8(text).is_ok();
        assert_eq!(moving.finish().is_ok(), complete);
        assert_eq!(copying.finish().is_ok(), complete);
    }

    /// [`first_impossible`] for long texts: only the end of the valid part is searched.
    fn first_impossible_after(text: &[u8]) -> Option<usize> {
        let valid = match str::from_utf8(text) {
            Ok(_) => return None,
            Err(error) => error.valid_up_to(),
        };
        let end = text.len().min(valid + 4);
        first_impossible(&text[valid..end]).map(|at| valid + at)
    }

    #[test]
    fn fused_passes_agree_at_every_cut_of_short_texts() {
        for text in SEQUENCES {
            for before in [
                0, 1, 2, 3, 13, 61, 62, 63, 64, 100, 125, 126, 127, 128, 129, 200,
            ] {
                let whole = [&vec![b'a'; before], *text, b"and so on"].concat();
                for cut in 0..=whole.len() {
                    check_fused(&whole, &[cut]);
                }
            }
        }
    }

    #[test]
    fn fused_passes_agree_on_long_texts_in_random_pieces() {
        let mut state = 0x9e37_79b9_u32;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as usize % below
        };
        let characters = ['a', '\u{7f}', '\u{e9}', '\u{20ac}', '\u{ffff}', '\u{1f600}'];
        for round in 0..200 {
            let mut text = String::new();
            let len = 1 + random(3 * BLOCK_BYTES);
            // Runs of one kind, so that whole blocks are ASCII and others are not at all.
            while text.len() < len {
                let character = characters[random(characters.len())];
                text.extend(std::iter::repeat_n(character, random(len)));
            }
            let mut text = text.into_bytes();
            text.truncate(len);
            if round % 2 == 1 {
                text[random(len)] = 0x80 | random(128) as u8;
            }
            let mut cuts: Vec<usize> = (0..random(12)).map(|_| random(len + 1)).collect();
            cuts.sort_unstable();
            check_fused(&text, &cuts);
        }
    }

    #[test]
    fn a_character_may_straddle_two_blocks() {
        for shift in 0..4 {
            let text = [
                &vec![b'a'; BLOCK_BYTES - shift],
                "\u{1f600}".as_bytes(),
                &[b'z'; 99],
            ];
            check_fused(&text.concat(), &[]);
            let mut text = text.concat();
            text[BLOCK_BYTES + 3 - shift] = b'!';
            check_fused(&text, &[]);
        }
    }

    #[test]
    fn texts_are_moved_down_and_judged() {
        let (long, late) = ("x".repeat(130), [b'y', 0x80].repeat(70));
        let texts = ["", "a", "\u{e9}", "\u{20ac} and \u{1f600}", &long].map(str::as_bytes);
        let wrong = [&b"\xff"[..], b"abc\xc3", b"\xed\xa0\x80 a surrogate", &late];
        let texts = texts.map(|text| (text, true));
        for (text, valid) in texts.into_iter().chain(wrong.map(|text| (text, false))) {
            for gap in 0..8 {
                let mut buffer = vec![GUARD_BYTE; 2 + gap];
                buffer.extend_from_slice(text);
                mask::apply(&mut buffer[2 + gap..], KEY);
                buffer.push(GUARD_BYTE);
                let source = 2 + gap..2 + gap + text.len();
                let judged = unmask_text_within(&mut buffer, source, 2, KEY);
                assert_eq!(judged, valid, "{text:?}");
                assert_eq!(&buffer[2..2 + text.len()], text);
                let around = (buffer[1], buffer[buffer.len() - 1]);
                assert_eq!(around, (GUARD_BYTE, GUARD_BYTE));
            }
        }
    }

    #[test]
    fn the_error_says_what_to_do() {
        let error: Box<dyn std::error::Error> = Box::new(Utf8Error);
        assert!(error.to_string().contains("binary message"));
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn copying_between_unequal_lengths_panics() {
        let mut validator = Validator::new();
        let _ = copy_unmask_and_validate(&mut [0; 3], &[0; 4], KEY, &mut validator);
    }
}
