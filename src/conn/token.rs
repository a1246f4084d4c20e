//! Which operation of which connection: the caller's 56 bits of a ring's token.
//!
//! ```text
//!   ring::Token   | operation 8 | generation 24 | slot 32 |
//!   ConnId        | shard 16    | generation 24 | slot 24 |
//! ```
//!
//! Knows: the widths. Refuses to know: what a slot holds.

use std::{fmt, str::FromStr};

use crate::ring::{Operation, Token};

const SLOT_BITS: u32 = 32;
const GENERATION_BITS: u32 = 24;
const ID_SLOT_BITS: u32 = 24;

const _: () = assert!(SLOT_BITS + GENERATION_BITS == Token::TAG_BITS);

/// The most connections of one shard.
pub const SLOTS_MAX: u32 = 1 << ID_SLOT_BITS;

/// The last user of a place has this one.
pub const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;

/// A place in a shard's slab, and which of its users in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The place.
    pub slot: u32,
    /// Counts the users of the place, in 24 bits.
    pub generation: u32,
}

impl Key {
    /// The token of this connection's operation.
    #[inline]
    pub const fn token(self, operation: Operation) -> Token {
        Token::new(
            operation,
            ((self.generation as u64) << SLOT_BITS) | self.slot as u64,
        )
    }

    /// The connection whose operation this is.
    #[inline]
    pub const fn of_token(token: Token) -> Self {
        let tag = token.tag();
        Self {
            slot: tag as u32,
            generation: (tag >> SLOT_BITS) as u32,
        }
    }

    /// The generation after this one, unless it is the last: a generation never comes again.
    pub const fn next_generation(self) -> Option<u32> {
        if self.generation < GENERATION_MAX {
            Some(self.generation + 1)
        } else {
            None
        }
    }
}

/// Names one connection of a server, from any thread. After the connection is gone its id names
/// nobody: no later connection of that server gets it again.
///
/// A shard has ids for 2^48 connections, which is 446 years of 20,000 a second; it accepts no more
/// after those.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(u64);

impl ConnId {
    pub const fn new(shard: u16, key: Key) -> Self {
        Self(
            ((shard as u64) << (ID_SLOT_BITS + GENERATION_BITS))
                | ((key.generation as u64) << ID_SLOT_BITS)
                | key.slot as u64,
        )
    }

    /// The shard that the connection lives on.
    pub const fn shard(self) -> u16 {
        (self.0 >> (ID_SLOT_BITS + GENERATION_BITS)) as u16
    }

    pub(crate) const fn key(self) -> Key {
        Key {
            slot: self.0 as u32 & (SLOTS_MAX - 1),
            generation: (self.0 >> ID_SLOT_BITS) as u32 & GENERATION_MAX,
        }
    }

    /// All 64 bits, for logs and tables.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Key { slot, generation } = self.key();
        write!(f, "{}.{slot}.{generation}", self.shard())
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnId({self})")
    }
}

/// What is not the name of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoConnId;

impl fmt::Display for NoConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it has to be three numbers with dots between them, as in 0.17.2")
    }
}

impl std::error::Error for NoConnId {}

/// As it is displayed: the shard, the place, the user of the place.
impl FromStr for ConnId {
    type Err = NoConnId;

    fn from_str(text: &str) -> Result<Self, NoConnId> {
        let mut parts = text.split('.').map(str::parse::<u32>);
        let mut next = |most| {
            let part = parts.next().and_then(Result::ok);
            part.filter(|&number| number <= most).ok_or(NoConnId)
        };
        let shard = next(u16::MAX.into())? as u16;
        let (slot, generation) = (next(SLOTS_MAX - 1)?, next(GENERATION_MAX)?);
        match parts.next() {
            None => Ok(Self::new(shard, Key { slot, generation })),
            Some(_) => Err(NoConnId),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_every_field_come_back_as_they_went_in() {
        let generations = [0, 1, 0x80_0000, 0xff_ffff];
        for generation in generations {
            for slot in [0, 1, 0x8000_0000, u32::MAX] {
                let key = Key { slot, generation };
                for operation in [Operation::Accept, Operation::Recv, Operation::Wake] {
                    let token = key.token(operation);
                    assert_eq!((Key::of_token(token), token.operation()), (key, operation));
                }
            }
            for slot in [0, 1, SLOTS_MAX - 1] {
                for shard in [0, 1, u16::MAX] {
                    let id = ConnId::new(shard, Key { slot, generation });
                    assert_eq!((id.shard(), id.key()), (shard, Key { slot, generation }));
                    assert_eq!(id.to_string().parse(), Ok(id));
                }
            }
        }
        let next = |generation| {
            let key = Key {
                slot: 0,
                generation,
            };
            key.next_generation()
        };
        assert_eq!(next(0xff_fffe), Some(0xff_ffff));
        assert_eq!(next(0xff_ffff), None);
    }

    #[test]
    fn what_is_no_name_is_none() {
        for text in [
            "",
            "1",
            "1.2",
            "1.2.3.4",
            "65536.0.1",
            "0.16777216.1",
            "a.b.c",
            "1.-2.3",
        ] {
            assert_eq!(text.parse::<ConnId>(), Err(NoConnId), "{text}");
        }
    }
}
