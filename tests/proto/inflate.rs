//! RFC 1951 once more, as slowly and plainly as possible, and how far back a stream refers.
//!
//! It shares no code with what the endpoint uses.

/// What a stream becomes.
#[derive(Debug, Default)]
pub struct Inflated {
    /// Behind what was there before.
    pub bytes: Vec<u8>,
    /// The longest way back of any reference.
    pub reach: usize,
    /// Blocks of each type: stored, fixed, dynamic.
    pub blocks: [usize; 3],
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Option<usize> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (self.at % 8) & 1;
        self.at += 1;
        Some(bit.into())
    }

    fn bits(&mut self, count: usize) -> Option<usize> {
        (0..count).try_fold(0, |value, index| Some(value | self.bit()? << index))
    }
}

/// The codes of these lengths, in order: pairs of length and code.
fn codes(lengths: &[usize]) -> Vec<(usize, usize)> {
    let mut code = 0;
    let mut codes = vec![(0, 0); lengths.len()];
    for length in 1..16 {
        for (symbol, _) in lengths.iter().enumerate().filter(|(_, it)| **it == length) {
            codes[symbol] = (length, code);
            code += 1;
        }
        code <<= 1;
    }
    codes
}

fn symbol(bits: &mut Bits<'_>, codes: &[(usize, usize)]) -> Option<usize> {
    let mut code = 0;
    for length in 1..16 {
        code = code << 1 | bits.bit()?;
        if let Some(found) = codes.iter().position(|it| *it == (length, code)) {
            return Some(found);
        }
    }
    None
}

/// The payload of a compressed message (RFC 7692 section 7.2.2), after these earlier bytes.
/// `None` when it is wrong.
pub fn inflate_message(payload: &[u8], before: &[u8]) -> Option<Inflated> {
    let mut stream = payload.to_vec();
    stream.extend([0x00, 0x00, 0xff, 0xff]);
    let mut bits = Bits {
        bytes: &stream,
        at: 0,
    };
    let mut found = Inflated::default();
    let mut all = before.to_vec();
    while bits.at < stream.len() * 8 {
        let last = bits.bit()? == 1;
        match bits.bits(2)? {
            0 => {
                bits.at = bits.at.next_multiple_of(8);
                let (len, complement) = (bits.bits(16)?, bits.bits(16)?);
                if len != complement ^ 0xffff {
                    return None;
                }
                for _ in 0..len {
                    all.push(bits.bits(8)? as u8);
                }
                found.blocks[0] += 1;
            }
            1 => {
                let mut lengths = [8; 288];
                lengths[144..256].fill(9);
                lengths[256..280].fill(7);
                let codes = (codes(&lengths), codes(&[5; 30]));
                block(&mut bits, &codes, &mut all, &mut found.reach)?;
                found.blocks[1] += 1;
            }
            2 => {
                let codes = dynamic(&mut bits)?;
                block(&mut bits, &codes, &mut all, &mut found.reach)?;
                found.blocks[2] += 1;
            }
            _ => return None,
        }
        if last {
            bits.at = bits.at.next_multiple_of(8);
        }
    }
    found.bytes = all.split_off(before.len());
    Some(found)
}

/// As [`inflate_message`] without earlier bytes, where the endpoint understands what is not quite
/// right: a final block with nothing behind it, and a block that is cut short and that what follows
/// the payload ends by chance, without another byte.
pub fn inflate_tolerantly(payload: &[u8]) -> Option<Vec<u8>> {
    let behind: [&[u8]; 3] = [b"", b"\x00", b"\x00\x00\xff\xff\x03\x00\x00"];
    let mut tried = behind.iter().map(|behind| [payload, behind].concat());
    tried.find_map(|stream| Some(inflate_message(&stream, b"")?.bytes))
}

type Codes = (Vec<(usize, usize)>, Vec<(usize, usize)>);

fn dynamic(bits: &mut Bits<'_>) -> Option<Codes> {
    const ORDER: [usize; 19] = [
        16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
    ];
    let (literals, distances) = (bits.bits(5)? + 257, bits.bits(5)? + 1);
    let mut lengths = [0; 19];
    for place in &ORDER[..bits.bits(4)? + 4] {
        lengths[*place] = bits.bits(3)?;
    }
    let code_lengths = codes(&lengths);
    let mut lengths = Vec::new();
    while lengths.len() < literals + distances {
        let (value, count) = match symbol(bits, &code_lengths)? {
            16 => (*lengths.last()?, 3 + bits.bits(2)?),
            17 => (0, 3 + bits.bits(3)?),
            18 => (0, 11 + bits.bits(7)?),
            length => (length, 1),
        };
        lengths.extend(std::iter::repeat_n(value, count));
    }
    let distances = lengths.split_off(literals);
    Some((codes(&lengths), codes(&distances)))
}

fn block(
    bits: &mut Bits<'_>,
    (literals, distances): &Codes,
    all: &mut Vec<u8>,
    reach: &mut usize,
) -> Option<()> {
    loop {
        let value = symbol(bits, literals)?;
        match value {
            0..256 => all.push(value as u8),
            256 => return Some(()),
            _ => {
                let place = value - 257;
                let len = match place {
                    0..8 => place + 3,
                    8..28 => {
                        let extra = place / 4 - 1;
                        ((4 + place % 4) << extra) + 3 + bits.bits(extra)?
                    }
                    28 => 258,
                    _ => return None,
                };
                let place = symbol(bits, distances)?;
                let distance = match place {
                    0..4 => place + 1,
                    4..30 => {
                        let extra = place / 2 - 1;
                        ((2 + place % 2) << extra) + 1 + bits.bits(extra)?
                    }
                    _ => return None,
                };
                *reach = (*reach).max(distance);
                let start = all.len().checked_sub(distance)?;
                for index in 0..len {
                    all.push(all[start + index]);
                }
            }
        }
    }
}
