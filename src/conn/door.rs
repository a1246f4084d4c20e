//! How many connections come from where, over all shards of a server.
//!
//! Knows: networks, how many connections each has, and how many it opened lately. Refuses to know:
//! how a connection is accepted, and what is said to one that is turned away.
//!
//! ```text
//!   accepted --> its network has too many, or opens them too fast --> turned away
//!       |
//!       +------> a ticket, for as long as the connection is there
//! ```
//!
//! The invariant: of every network there are as many tickets as are counted for it. Of networks
//! without tickets, 16,384 are remembered at most, for the sake of how fast they opened
//! connections: whoever has 2^64 addresses fills no memory with them.
//!
//! Without limits nobody is looked at, and no ticket is given out.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    num::NonZero,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::opening::Lack;
use crate::{config::Config, ring::Time};

/// Networks without a connection that are remembered, for the sake of how fast they opened some.
const PASSING_MAX: usize = 16 << 10;

/// One connection, in thousandths: so that what a millisecond gives back is a whole number.
const ONE: u64 = 1000;

/// Why a newcomer is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// The server has as many connections as it may.
    ServerFull,
    /// Its network has as many connections as it may.
    TooMany,
    /// Its network opens them too fast.
    TooFast,
}

impl Turned {
    /// What it is that a newcomer lacks.
    pub const fn lack(self) -> Lack {
        match self {
            Self::ServerFull => Lack::Places,
            Self::TooMany | Self::TooFast => Lack::Address,
        }
    }
}

/// Counts connections by the network that they come from.
#[derive(Debug)]
pub struct Door {
    /// Nobody is looked at otherwise.
    is_guarded: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Rules,
    /// All tickets.
    connections: u64,
    numbers: HashMap<Network, NonZero<u32>>,
    /// By their numbers, which count from 1.
    networks: Vec<Counted>,
    /// Numbers that are free.
    free: Vec<NonZero<u32>>,
    /// Networks without a connection.
    passing: usize,
}

/// What is allowed. 0 is any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rules {
    connections_max: u64,
    network_connections_max: u32,
    network_accepts_max: u32,
    ipv4_bits: u8,
    ipv6_bits: u8,
}

impl Rules {
    fn of(config: &Config) -> Self {
        Self {
            connections_max: config.connections_max.into(),
            network_connections_max: config.address_connections_max,
            network_accepts_max: config.address_accepts_max,
            ipv4_bits: config.address_ipv4_bits,
            ipv6_bits: config.address_ipv6_bits,
        }
    }

    const fn are_any(&self) -> bool {
        let of_network = self.network_connections_max > 0 || self.network_accepts_max > 0;
        of_network || self.connections_max > 0
    }

    /// The network of an address: its first bits.
    fn network(&self, address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let kept = u32::MAX.checked_shl(32 - u32::from(self.ipv4_bits.min(32)));
                Network::V4(v4.to_bits() & kept.unwrap_or(0))
            }
            IpAddr::V6(v6) => {
                let kept = u128::MAX.checked_shl(128 - u32::from(self.ipv6_bits.min(128)));
                Network::V6(v6.to_bits() & kept.unwrap_or(0))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(u32),
    V6(u128),
    /// A path of this host, or one that nobody can tell.
    Local,
}

#[derive(Debug)]
struct Counted {
    connections: u32,
    /// What it has opened lately, in thousandths; it gets less with time.
    opened: u64,
    as_of_ms: u64,
}

impl Counted {
    /// Forgets what it has opened long enough ago.
    fn forget(&mut self, accepts_max: u32, now: Time) {
        let passed_ms = now.as_ms().saturating_sub(self.as_of_ms);
        // Another shard's turn may have begun later.
        self.as_of_ms = self.as_of_ms.max(now.as_ms());
        self.opened = self
            .opened
            .saturating_sub(passed_ms.saturating_mul(accepts_max.into()));
    }
}

/// Where a network stands that has this number.
const fn place(number: NonZero<u32>) -> usize {
    number.get() as usize - 1
}

impl Door {
    /// A door with these limits.
    pub fn new(config: &Config) -> Self {
        let rules = Rules::of(config);
        Self {
            is_guarded: AtomicBool::new(rules.are_any()),
            inner: Mutex::new(Inner {
                rules,
                ..Inner::default()
            }),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on these are the limits. Connections that came when there were none are not
    /// counted, and those that came when a network was longer or shorter count for that.
    pub fn set(&self, config: &Config) {
        let rules = Rules::of(config);
        self.inner().rules = rules;
        self.is_guarded.store(rules.are_any(), Ordering::Relaxed);
    }

    /// Whether anybody is looked at.
    #[inline]
    pub fn is_guarded(&self) -> bool {
        self.is_guarded.load(Ordering::Relaxed)
    }

    /// A ticket for a newcomer from this address, or from a path of this host.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn enter(&self, address: Option<IpAddr>, now: Time) -> Result<Ticket, Turned> {
        self.inner().enter(address, now)
    }

    /// The connection that had this ticket is gone.
    pub fn leave(&self, ticket: Ticket) {
        self.inner().leave(ticket.0);
    }

    /// How many tickets there are.
    pub fn connections(&self) -> u64 {
        self.inner().connections
    }
}

impl Inner {
    fn enter(&mut self, address: Option<IpAddr>, now: Time) -> Result<Ticket, Turned> {
        let rules = self.rules;
        if rules.connections_max > 0 && self.connections >= rules.connections_max {
            return Err(Turned::ServerFull);
        }
        let network = address.map_or(Network::Local, |address| rules.network(address));
        let number = self.number_of(network, now);
        let counted = &mut self.networks[place(number)];
        counted.forget(rules.network_accepts_max, now);
        if network != Network::Local {
            let most = rules.network_connections_max;
            if most > 0 && counted.connections >= most {
                return Err(Turned::TooMany);
            }
            let most = u64::from(rules.network_accepts_max) * ONE;
            if most > 0 {
                if counted.opened + ONE > most {
                    return Err(Turned::TooFast);
                }
                counted.opened += ONE;
            }
        }
        if counted.connections == 0 {
            self.passing -= 1;
        }
        counted.connections += 1;
        self.connections += 1;
        Ok(Ticket(number))
    }

    fn leave(&mut self, number: NonZero<u32>) {
        self.connections -= 1;
        let counted = &mut self.networks[place(number)];
        counted.connections -= 1;
        if counted.connections == 0 {
            self.passing += 1;
        }
    }

    /// The number of a network, which has one from here on.
    fn number_of(&mut self, network: Network, now: Time) -> NonZero<u32> {
        if let Some(number) = self.numbers.get(&network) {
            return *number;
        }
        if self.passing >= PASSING_MAX {
            self.forget_passing(now);
        }
        let counted = Counted {
            connections: 0,
            opened: 0,
            as_of_ms: now.as_ms(),
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.networks[place(number)] = counted;
                number
            }
            None => {
                self.networks.push(counted);
                // There are no more than descriptors, and those that pass.
                NonZero::new(self.networks.len() as u32).unwrap_or(NonZero::<u32>::MAX)
            }
        };
        self.numbers.insert(network, number);
        self.passing += 1;
        number
    }

    /// Forgets networks without a connection: those that may do as they like again, or else all.
    fn forget_passing(&mut self, now: Time) {
        let accepts_max = self.rules.network_accepts_max;
        for all in [false, true] {
            self.numbers.retain(|_, number| {
                let counted = &mut self.networks[place(*number)];
                counted.forget(accepts_max, now);
                let goes = counted.connections == 0 && (all || counted.opened == 0);
                if goes {
                    self.free.push(*number);
                    self.passing -= 1;
                }
                !goes
            });
            // So many networks at once are one attacker's. All are forgotten, and each may open a
            // few connections more.
            if self.passing < PASSING_MAX / 2 {
                break;
            }
        }
    }
}

/// The door, for as long as a request is judged: who judges may find out whom a connection is for.
#[derive(Debug)]
pub struct Visit<'a> {
    door: &'a Door,
    now: Time,
    ticket: RefCell<Option<Ticket>>,
}

impl<'a> Visit<'a> {
    /// Nobody has said anything yet.
    pub const fn new(door: &'a Door, now: Time) -> Self {
        Self {
            door,
            now,
            ticket: RefCell::new(None),
        }
    }

    /// Counts the connection for this address, or for none, if anybody is counted.
    ///
    /// # Errors
    ///
    /// Why it is turned away.
    pub fn count_as(&self, address: Option<IpAddr>) -> Result<(), Turned> {
        self.give_back();
        if self.door.is_guarded() {
            let ticket = self.door.enter(address, self.now)?;
            self.ticket.replace(Some(ticket));
        }
        Ok(())
    }

    /// The ticket that the connection has from here on, if it has come in.
    pub fn into_ticket(self, has_come_in: bool) -> Option<Ticket> {
        if !has_come_in {
            self.give_back();
        }
        self.ticket.take()
    }

    fn give_back(&self) {
        if let Some(ticket) = self.ticket.take() {
            self.door.leave(ticket);
        }
    }
}

/// A connection's entry in the counts of a door, to which it is [given back](Door::leave) when the
/// connection is gone.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the network is charged for it until it is given back"]
pub struct Ticket(NonZero<u32>);

#[cfg(test)]
mod tests {
    use super::*;

    fn door(change: impl FnOnce(&mut Config)) -> Door {
        let mut config = Config::default();
        change(&mut config);
        Door::new(&config)
    }

    fn at(ms: u64) -> Time {
        Time::from_ns(ms * 1_000_000)
    }

    fn from(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn without_limits_nobody_is_looked_at() {
        assert!(!door(|_| ()).is_guarded());
        assert!(door(|config| config.connections_max = 1).is_guarded());
        assert!(door(|config| config.address_connections_max = 1).is_guarded());
        assert!(door(|config| config.address_accepts_max = 1).is_guarded());
    }

    #[test]
    fn a_network_has_so_many_connections_and_others_have_theirs() {
        let door = door(|config| config.address_connections_max = 2);
        let first = door.enter(from("192.0.2.1"), at(0)).unwrap();
        let second = door.enter(from("::ffff:192.0.2.1"), at(0)).unwrap();
        let third = door.enter(from("192.0.2.1"), at(0));
        assert_eq!(third, Err(Turned::TooMany));
        let _other = door.enter(from("192.0.2.2"), at(0)).unwrap();
        // Of IPv6, somebody has a /64.
        let _one = door.enter(from("2001:db8::1"), at(0)).unwrap();
        let _two = door.enter(from("2001:db8::ffff:2"), at(0)).unwrap();
        let three = door.enter(from("2001:db8::3"), at(0));
        assert_eq!(three, Err(Turned::TooMany));
        let _neighbour = door.enter(from("2001:db8:0:1::1"), at(0)).unwrap();
        door.leave(first);
        let _third = door.enter(from("192.0.2.1"), at(0)).unwrap();
        door.leave(second);
        assert_eq!(door.connections(), 5);
    }

    #[test]
    fn a_network_opens_so_many_in_a_second() {
        let door = door(|config| config.address_accepts_max = 10);
        let opened = |now_ms: u64| {
            let tries = 0..20;
            let enter = |_: &i32| door.enter(from("192.0.2.1"), at(now_ms)).is_ok();
            tries.filter(enter).count()
        };
        assert_eq!(opened(0), 10, "at once");
        assert_eq!(opened(99), 0);
        assert_eq!(opened(100), 1, "one in a tenth of a second");
        assert_eq!(opened(600), 5);
        assert_eq!(opened(60_000), 10, "no more than at first");
        let fast = door.enter(from("192.0.2.1"), at(60_000));
        assert_eq!(fast, Err(Turned::TooFast));
        let _other = door.enter(from("192.0.2.2"), at(60_000)).unwrap();
    }

    #[test]
    fn a_shard_that_is_behind_gives_nobody_more() {
        let door = door(|config| config.address_accepts_max = 20);
        let mut opened = 0;
        for number in 0..1000 {
            // One shard's turn began 2 ms before the other's.
            let entered = door.enter(from("192.0.2.1"), at(1000 - 2 * (number % 2)));
            opened += usize::from(entered.is_ok());
        }
        assert_eq!(opened, 20);
    }

    #[test]
    fn the_server_has_so_many_whoever_they_are() {
        let door = door(|config| config.connections_max = 2);
        let first = door.enter(None, at(0)).unwrap();
        let _second = door.enter(from("192.0.2.1"), at(0)).unwrap();
        assert_eq!(door.enter(None, at(0)), Err(Turned::ServerFull));
        door.leave(first);
        let _third = door.enter(from("192.0.2.2"), at(0)).unwrap();
    }

    #[test]
    fn paths_of_this_host_are_no_network() {
        let door = door(|config| {
            config.address_connections_max = 1;
            config.address_accepts_max = 1;
        });
        for _ in 0..100 {
            let _ticket = door.enter(None, at(0)).unwrap();
        }
    }

    #[test]
    fn limits_change_while_connections_are_there() {
        let door = door(|config| config.address_connections_max = 1);
        let _first = door.enter(from("192.0.2.1"), at(0)).unwrap();
        let config = Config {
            address_connections_max: 3,
            ..Config::default()
        };
        door.set(&config);
        let _second = door.enter(from("192.0.2.1"), at(0)).unwrap();
        let _third = door.enter(from("192.0.2.1"), at(0)).unwrap();
        let fourth = door.enter(from("192.0.2.1"), at(0));
        assert_eq!(fourth, Err(Turned::TooMany));
        door.set(&Config::default());
        assert!(!door.is_guarded());
    }

    #[test]
    fn who_judges_finds_out_whom_a_connection_is_for() {
        let door = door(|config| config.address_connections_max = 1);
        let address = from("192.0.2.1");
        let visit = Visit::new(&door, at(0));
        assert_eq!(visit.count_as(address), Ok(()));
        assert_eq!(visit.count_as(address), Ok(()), "the same connection");
        assert_eq!(visit.into_ticket(false), None);
        assert_eq!(door.connections(), 0, "it did not come in");
        let visit = Visit::new(&door, at(0));
        assert_eq!(visit.count_as(address), Ok(()));
        let ticket = visit.into_ticket(true).unwrap();
        let visit = Visit::new(&door, at(0));
        assert_eq!(visit.count_as(address), Err(Turned::TooMany));
        assert_eq!(visit.into_ticket(true), None);
        door.leave(ticket);
    }

    #[test]
    fn networks_that_have_gone_are_not_remembered_for_ever() {
        let door = door(|config| config.address_accepts_max = 1);
        let stays = door.enter(from("192.0.2.1"), at(0)).unwrap();
        for number in 0..200_000u32 {
            let address =
                IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(number) << 64).to_be_bytes());
            let ticket = door
                .enter(Some(address), at(u64::from(number) / 100))
                .unwrap();
            door.leave(ticket);
            let inner = door.inner();
            assert!(inner.passing <= PASSING_MAX && inner.networks.len() <= PASSING_MAX + 2);
        }
        assert_eq!(door.connections(), 1);
        assert_eq!(door.inner().numbers[&Network::V4(0xc000_0201)], stays.0);
        door.leave(stays);
    }
}
