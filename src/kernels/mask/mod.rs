//! Masking of payload data, RFC 6455 section 5.3.
//!
//! Masking and unmasking are the same: byte `i` of the payload is combined by exclusive or with
//! byte `i % 4` of the masking key. This module knows keys and bytes. It does not know where a
//! payload begins: whoever unmasks a payload in pieces turns the key with [`MaskingKey::rotated`].
//!
//! ```text
//!   payload   p0 p1 p2 p3 p4 p5 p6 p7 p8
//!   key       k0 k1 k2 k3 k0 k1 k2 k3 k0
//!                               '--------- rotated(6) is k2 k3 k0 k1
//! ```

use core::ops::Range;

use super::{Choice, SHORT_BYTES_MAX, unmask_short};

#[cfg(target_arch = "aarch64")]
pub(super) mod aarch64;
pub(super) mod scalar;
#[cfg(target_arch = "x86_64")]
pub(super) mod x86_64;

/// The four bytes which a client chose to mask one frame's payload, RFC 6455 section 5.3, in the
/// order in which they stand in the frame header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MaskingKey([u8; 4]);

impl MaskingKey {
    /// The key whose first byte on the wire is `bytes[0]`.
    #[inline]
    #[must_use]
    pub const fn new(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }

    /// The four bytes in wire order.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    /// The key as the payload byte `bytes` further on sees it: its first byte masks that byte.
    #[inline]
    #[must_use]
    pub const fn rotated(self, bytes: usize) -> Self {
        // Read as little endian on every machine, the byte that comes first is the lowest.
        let bits = (bytes % 4) as u32 * 8;
        Self(u32::from_le_bytes(self.0).rotate_right(bits).to_le_bytes())
    }

    /// Whether masking with this key changes nothing.
    #[inline]
    #[must_use]
    pub const fn is_zero(self) -> bool {
        u32::from_ne_bytes(self.0) == 0
    }

    /// The key as a number whose bytes lie in memory in wire order.
    #[inline]
    pub(super) const fn to_word(self) -> u32 {
        u32::from_ne_bytes(self.0)
    }
}

/// Masks or unmasks `len` bytes from the second pointer to the first.
///
/// # Safety
///
/// * `len` bytes may be read at the second pointer and written at the first.
/// * The two ranges are the same, or apart, or overlap with the first below the second.
/// * The row's `available` has answered true.
type Pass = unsafe fn(*mut u8, *const u8, usize, MaskingKey);

/// One way to mask: a row of [`kernels`].
#[derive(Debug)]
pub struct Kernel {
    /// The instruction set, in lower case.
    pub name: &'static str,
    /// Whether this processor can run the row.
    pub available: fn() -> bool,
    pass: Pass,
}

impl Kernel {
    /// [`apply`] with this row whatever the length. For tests and benches.
    ///
    /// # Panics
    ///
    /// When the row is not available.
    pub fn apply(&self, payload: &mut [u8], key: MaskingKey) {
        self.require_available();
        let at = payload.as_mut_ptr();
        // SAFETY: both ranges are the one slice that we hold exclusively; the row is available.
        unsafe { (self.pass)(at, at, payload.len(), key) };
    }

    /// [`copy`] with this row whatever the length. For tests and benches.
    ///
    /// # Panics
    ///
    /// When the row is not available, or when the lengths differ.
    pub fn copy(&self, destination: &mut [u8], source: &[u8], key: MaskingKey) {
        self.require_available();
        require_equal_lengths(destination, source);
        // SAFETY: a shared and an exclusive slice are apart, and both are as long as the source;
        // the row is available.
        unsafe { (self.pass)(destination.as_mut_ptr(), source.as_ptr(), source.len(), key) };
    }

    /// [`copy_within`] with this row whatever the length. For tests and benches.
    ///
    /// # Panics
    ///
    /// When the row is not available, and as [`copy_within`] does.
    pub fn copy_within(
        &self,
        buffer: &mut [u8],
        source: Range<usize>,
        destination: usize,
        key: MaskingKey,
    ) {
        self.require_available();
        let (to, from, len) = places_within(buffer, source, destination);
        // SAFETY: `places_within` checked that both ranges lie in the buffer, the destination not
        // above the source; the row is available.
        unsafe { (self.pass)(to, from, len, key) };
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

/// The name of the row that [`apply`], [`copy`] and [`copy_within`] use for long payloads.
#[must_use]
pub fn selected() -> &'static str {
    CHOICE.row(decide).name
}

/// Masks or unmasks the payload where it lies. The first byte is combined with the key's first.
#[inline(always)]
pub fn apply(payload: &mut [u8], key: MaskingKey) {
    let at = payload.as_mut_ptr();
    // SAFETY: both ranges are the one slice that we hold exclusively.
    unsafe { pass(at, at, payload.len(), key) };
}

/// Masks or unmasks `source` into `destination`: one read and one write of memory, where a copy
/// followed by [`apply`] makes two of each.
///
/// # Panics
///
/// When the lengths differ.
#[inline(always)]
pub fn copy(destination: &mut [u8], source: &[u8], key: MaskingKey) {
    require_equal_lengths(destination, source);
    // SAFETY: a shared and an exclusive slice are apart, and both are as long as the source.
    unsafe { pass(destination.as_mut_ptr(), source.as_ptr(), source.len(), key) };
}

/// Masks or unmasks the bytes `source` of the buffer to `destination` in the same buffer. The two
/// places may overlap; bytes of the source which the destination does not cover keep their value.
///
/// # Panics
///
/// When `source` is not a range of the buffer, or when `destination` lies above its start.
#[inline(always)]
pub fn copy_within(buffer: &mut [u8], source: Range<usize>, destination: usize, key: MaskingKey) {
    let (to, from, len) = places_within(buffer, source, destination);
    // SAFETY: `places_within` checked that both ranges lie in the buffer, the destination not
    // above the source.
    unsafe { pass(to, from, len, key) };
}

/// The short way or the chosen row.
///
/// # Safety
///
/// As for [`Pass`], without the last condition.
#[inline(always)]
unsafe fn pass(destination: *mut u8, source: *const u8, len: usize, key: MaskingKey) {
    if len <= SHORT_BYTES_MAX {
        // SAFETY: the ranges are the caller's promise, the length was compared.
        unsafe { unmask_short(destination, source, len, key) };
    } else {
        let row = CHOICE.row(decide);
        // SAFETY: the ranges are the caller's promise, and `decide` takes only available rows.
        unsafe { (row.pass)(destination, source, len, key) };
    }
}

#[inline(always)]
fn require_equal_lengths(destination: &[u8], source: &[u8]) {
    assert_eq!(
        destination.len(),
        source.len(),
        "destination and source differ in length"
    );
}

/// Where the two places of [`copy_within`] lie, and how long they are.
#[inline(always)]
pub(super) fn places_within(
    buffer: &mut [u8],
    source: Range<usize>,
    destination: usize,
) -> (*mut u8, *const u8, usize) {
    assert!(
        destination <= source.start,
        "the destination lies above the start of the source"
    );
    assert!(
        source.start <= source.end,
        "the source ends before it starts"
    );
    assert!(
        source.end <= buffer.len(),
        "the source ends outside the buffer"
    );
    let base = buffer.as_mut_ptr();
    (
        base.wrapping_add(destination),
        base.wrapping_add(source.start),
        source.end - source.start,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN_MAX: usize = 600;
    const ALIGNMENT: usize = 64;
    /// More than any row touches at once, so that a stray write lands where we look.
    const GUARD: usize = 320;
    const GUARD_BYTE: u8 = 0xa5;
    const KEY: MaskingKey = MaskingKey::new([0x37, 0xfa, 0x21, 0x3d]);

    fn source() -> Vec<u8> {
        let mut state = 0x2545_f491_u32;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[1]
        };
        (0..LEN_MAX).map(next).collect()
    }

    /// The formula of section 5.3, on the whole source, for a payload that begins `phase` bytes
    /// into the key.
    fn formula(phase: usize) -> Vec<u8> {
        let key = KEY.to_bytes();
        source()
            .iter()
            .enumerate()
            .map(|(i, byte)| byte ^ key[(i + phase) % 4])
            .collect()
    }

    /// What is tested: one row for every length, or the public functions, which choose.
    #[derive(Clone, Copy)]
    enum Subject {
        Row(&'static Kernel),
        Public,
    }

    impl Subject {
        fn available() -> Vec<Self> {
            let rows = kernels().iter().filter(|row| (row.available)());
            rows.map(Self::Row).chain([Self::Public]).collect()
        }

        fn name(self) -> &'static str {
            match self {
                Self::Row(row) => row.name,
                Self::Public => "public",
            }
        }

        fn apply(self, payload: &mut [u8], key: MaskingKey) {
            match self {
                Self::Row(row) => row.apply(payload, key),
                Self::Public => apply(payload, key),
            }
        }

        fn copy(self, destination: &mut [u8], source: &[u8], key: MaskingKey) {
            match self {
                Self::Row(row) => row.copy(destination, source, key),
                Self::Public => copy(destination, source, key),
            }
        }

        fn copy_within(self, buffer: &mut [u8], from: Range<usize>, to: usize, key: MaskingKey) {
            match self {
                Self::Row(row) => row.copy_within(buffer, from, to, key),
                Self::Public => copy_within(buffer, from, to, key),
            }
        }
    }

    /// Memory in which a payload can be put at every alignment, with guard bytes around it.
    struct Memory {
        bytes: Vec<u8>,
        aligned: usize,
    }

    impl Memory {
        fn new() -> Self {
            let bytes = vec![GUARD_BYTE; 2 * (GUARD + LEN_MAX + ALIGNMENT)];
            let aligned = GUARD + bytes[GUARD..].as_ptr().align_offset(ALIGNMENT);
            Self { bytes, aligned }
        }

        /// The payload of `len` bytes at the alignment.
        fn payload(&mut self, alignment: usize, len: usize) -> &mut [u8] {
            &mut self.bytes[self.aligned + alignment..][..len]
        }

        /// Panics unless the payload is `expected` and its surroundings are as they were; then
        /// makes the payload part of the surroundings again.
        fn check(&mut self, alignment: usize, expected: &[u8], what: impl Fn() -> String) {
            let start = self.aligned + alignment;
            let end = start + expected.len();
            assert!(
                self.bytes[start..end] == *expected,
                "wrong bytes: {}",
                what()
            );
            let guard = [GUARD_BYTE; GUARD];
            assert!(
                self.bytes[start - GUARD..start] == guard,
                "wrote before: {}",
                what()
            );
            assert!(
                self.bytes[end..end + GUARD] == guard,
                "wrote after: {}",
                what()
            );
            self.bytes[start..end].fill(GUARD_BYTE);
        }
    }

    /// Runs every length, alignment and phase in place, and returns how many cases that were.
    fn check_in_place(subject: Subject, expected: &[Vec<u8>; 4]) -> usize {
        let source = source();
        let mut memory = Memory::new();
        let mut cases = 0;
        for alignment in 0..ALIGNMENT {
            for (phase, expected) in expected.iter().enumerate() {
                for len in 0..=LEN_MAX {
                    let payload = memory.payload(alignment, len);
                    payload.copy_from_slice(&source[..len]);
                    subject.apply(payload, KEY.rotated(phase));
                    memory.check(alignment, &expected[..len], || {
                        format!(
                            "{} alignment {alignment} phase {phase} len {len}",
                            subject.name()
                        )
                    });
                    cases += 1;
                }
            }
        }
        cases
    }

    /// What the scalar row makes of the source in the four phases.
    fn scalar_results() -> [Vec<u8>; 4] {
        let scalar = kernels().last().expect("the table is not empty");
        assert_eq!(scalar.name, "scalar");
        [0, 1, 2, 3].map(|phase| {
            let mut bytes = source();
            scalar.apply(&mut bytes, KEY.rotated(phase));
            bytes
        })
    }

    #[test]
    fn scalar_row_is_the_formula_of_section_5_3() {
        let scalar = kernels().last().expect("the table is not empty");
        check_in_place(Subject::Row(scalar), &[0, 1, 2, 3].map(formula));
    }

    #[test]
    fn every_available_row_was_run_and_agrees_with_the_scalar_row() {
        let expected = scalar_results();
        let mut run = Vec::new();
        for subject in Subject::available() {
            let cases = check_in_place(subject, &expected);
            assert_eq!(cases, ALIGNMENT * 4 * (LEN_MAX + 1));
            run.push(subject.name());
        }
        let skipped = kernels()
            .iter()
            .map(|row| row.name)
            .filter(|name| !run.contains(name));
        println!(
            "masking rows run: {run:?}, not available: {:?}",
            skipped.collect::<Vec<_>>()
        );
        println!("chosen for long payloads: {}", selected());
        assert_eq!(run[0], selected());
        assert!(run.ends_with(&["scalar", "public"]));
        if cfg!(target_arch = "x86_64") {
            assert!(run.contains(&"sse2"));
        }
        if cfg!(target_arch = "aarch64") {
            assert!(run.contains(&"neon"));
        }
    }

    #[test]
    fn copying_agrees_at_every_length_alignment_and_phase() {
        let expected = scalar_results();
        let bytes = source();
        let mut from = Memory::new();
        let mut to = Memory::new();
        for subject in Subject::available() {
            for alignment in 0..ALIGNMENT {
                for (phase, expected) in expected.iter().enumerate() {
                    for len in 0..=LEN_MAX {
                        // Every pair of alignments occurs with some length.
                        let place = (alignment * 7 + len) % ALIGNMENT;
                        let source = from.payload(place, len);
                        source.copy_from_slice(&bytes[..len]);
                        let destination = to.payload(alignment, len);
                        subject.copy(destination, source, KEY.rotated(phase));
                        let what = || {
                            let name = subject.name();
                            format!("{name} from {place} to {alignment} phase {phase} len {len}")
                        };
                        to.check(alignment, &expected[..len], what);
                        from.check(place, &bytes[..len], what);
                    }
                }
            }
        }
    }

    /// Moves the payload down by `distance` bytes, and compares all of the memory.
    fn check_within(
        subject: Subject,
        memory: &mut Memory,
        expected: &[u8],
        (alignment, phase, distance): (usize, usize, usize),
    ) {
        let len = expected.len();
        let start = memory.aligned + alignment;
        let from = start + distance..start + distance + len;
        memory.bytes[from.clone()].copy_from_slice(source_of(len));
        let mut after = memory.bytes.clone();
        after[start..start + len].copy_from_slice(expected);
        subject.copy_within(&mut memory.bytes, from.clone(), start, KEY.rotated(phase));
        assert!(
            memory.bytes == after,
            "{} alignment {alignment} phase {phase} distance {distance} len {len}",
            subject.name()
        );
        memory.bytes[start..from.end].fill(GUARD_BYTE);
    }

    fn source_of(len: usize) -> &'static [u8] {
        static SOURCE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(source);
        &SOURCE[..len]
    }

    #[test]
    fn moving_down_agrees_at_every_length_alignment_and_phase() {
        const DISTANCES: [usize; 13] = [0, 1, 3, 4, 7, 16, 31, 33, 63, 64, 65, 200, 600];
        let expected = scalar_results();
        let mut memory = Memory::new();
        for subject in Subject::available() {
            let mut case = 0;
            for alignment in 0..ALIGNMENT {
                for (phase, expected) in expected.iter().enumerate() {
                    for len in 0..=LEN_MAX {
                        let distance = DISTANCES[case % DISTANCES.len()];
                        let how = (alignment, phase, distance);
                        check_within(subject, &mut memory, &expected[..len], how);
                        case += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn moving_down_agrees_at_every_length_and_distance() {
        let expected = scalar_results();
        let mut memory = Memory::new();
        for subject in Subject::available() {
            for distance in 0..=130 {
                for len in 0..=LEN_MAX {
                    let how = ((distance * 5 + len) % ALIGNMENT, len % 4, distance);
                    check_within(subject, &mut memory, &expected[len % 4][..len], how);
                }
            }
        }
    }

    #[test]
    fn a_rotated_key_continues_the_payload() {
        assert_eq!(
            MaskingKey::new([1, 2, 3, 4]).rotated(0).to_bytes(),
            [1, 2, 3, 4]
        );
        assert_eq!(
            MaskingKey::new([1, 2, 3, 4]).rotated(1).to_bytes(),
            [2, 3, 4, 1]
        );
        assert_eq!(
            MaskingKey::new([1, 2, 3, 4]).rotated(6).to_bytes(),
            [3, 4, 1, 2]
        );
        assert_eq!(
            MaskingKey::new([1, 2, 3, 4]).rotated(usize::MAX).to_bytes(),
            [4, 1, 2, 3]
        );
        let whole = formula(0);
        for split in 0..=LEN_MAX {
            let mut bytes = source();
            let (first, second) = bytes.split_at_mut(split);
            apply(first, KEY);
            apply(second, KEY.rotated(split));
            assert!(bytes == whole, "split at {split}");
        }
    }

    #[test]
    fn masking_twice_changes_nothing_and_a_zero_key_never_does() {
        assert!(MaskingKey::default().is_zero());
        assert!(!MaskingKey::new([0, 0, 0, 1]).is_zero());
        let mut bytes = source();
        apply(&mut bytes, MaskingKey::default());
        assert_eq!(bytes, source());
        apply(&mut bytes, KEY);
        assert_ne!(bytes, source());
        apply(&mut bytes, KEY);
        assert_eq!(bytes, source());
    }

    #[test]
    fn example_of_section_5_7() {
        let mut payload = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply(&mut payload, KEY);
        assert_eq!(&payload, b"Hello");
    }

    #[test]
    #[should_panic(expected = "differ in length")]
    fn copying_between_unequal_lengths_panics() {
        copy(&mut [0; 3], &[0; 4], KEY);
    }

    #[test]
    #[should_panic(expected = "above the start of the source")]
    fn moving_up_panics() {
        copy_within(&mut [0; 8], 2..4, 3, KEY);
    }

    #[test]
    #[should_panic(expected = "outside the buffer")]
    fn moving_from_outside_panics() {
        copy_within(&mut [0; 8], 2..9, 0, KEY);
    }
}
