//! What one shard's connections may hold of the machine's memory, and how near that is.
//!
//! Knows: a limit and its steps. Refuses to know: who holds what, and what is done about it.
//!
//! | held, of the limit | what is done |
//! |---|---|
//! | always | memory that is kept for later is given back first |
//! | 3/4 | no new connections: their opening handshakes are answered 503 |
//! | 7/8 | nothing is received from those who hold most, until others are done |
//! | 15/16, or 7/8 for a second | the largest holders end with 1013, one after the other |
//! | all of it | a message that needs more ends its connection with 1013 |
//!
//! So whoever holds little is not touched by those who hold much.

/// How near the limit is, in the order in which it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// There is memory for everybody.
    #[default]
    None,
    /// Nobody new is let in.
    Refuse,
    /// Those who hold most are not received from.
    Pause,
    /// Those who hold most end.
    Shed,
}

/// The limit of one shard.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    bytes_max: usize,
    /// How near it was at the end of the last turn.
    pressure: Pressure,
}

impl Ledger {
    /// At most so many bytes; 0 is no limit.
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max: if bytes_max == 0 {
                usize::MAX
            } else {
                bytes_max
            },
            pressure: Pressure::None,
        }
    }

    /// The limit.
    pub const fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// How near the limit was when [`held`](Self::held) was called last.
    pub const fn pressure(&self) -> Pressure {
        self.pressure
    }

    /// So many bytes are held now. Returns how many more may be.
    #[inline]
    pub const fn held(&mut self, bytes: usize) -> usize {
        let quarter = self.bytes_max / 4;
        self.pressure = if bytes < 3 * quarter {
            Pressure::None
        } else if bytes < self.above(Pressure::Pause) {
            Pressure::Refuse
        } else if bytes < self.above(Pressure::Shed) {
            Pressure::Pause
        } else {
            Pressure::Shed
        };
        self.bytes_max.saturating_sub(bytes)
    }

    /// From how many bytes on it is so near.
    pub const fn above(&self, pressure: Pressure) -> usize {
        match pressure {
            Pressure::None => 0,
            Pressure::Refuse => self.bytes_max / 4 * 3,
            Pressure::Pause => self.bytes_max / 8 * 7,
            Pressure::Shed => self.bytes_max / 16 * 15,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_grows_in_the_stated_order() {
        let mut ledger = Ledger::new(1600);
        let mut steps = Vec::new();
        for held in (0..=1700).step_by(100) {
            assert_eq!(ledger.held(held), 1600_usize.saturating_sub(held));
            steps.push((held, ledger.pressure()));
        }
        let first = |pressure| steps.iter().find(|step| step.1 == pressure).unwrap().0;
        assert_eq!(first(Pressure::Refuse), 1200);
        assert_eq!(first(Pressure::Pause), 1400);
        assert_eq!(first(Pressure::Shed), 1500);
        assert!(steps.is_sorted_by_key(|step| step.1));
    }

    #[test]
    fn without_a_limit_there_is_no_pressure() {
        let mut ledger = Ledger::new(0);
        ledger.held(1 << 50);
        assert_eq!(ledger.pressure(), Pressure::None);
    }
}
