//! Who has subscribed to what, on one shard.
//!
//! Knows: connections by their place, patterns, and which of both belong together. Refuses to know:
//! what a connection is, what a message is, and other shards.
//!
//! ```text
//!   pattern --tree--> Set: [ member | member | member ]      by a publication, one after the other
//!                              |  ^
//!                              v  |
//!   place  ---------> Entry -> Entry -> Entry                by a connection that leaves
//! ```
//!
//! A subscription is a member of its set and an entry of its connection, 24 bytes, and each knows
//! where the other one is: to join and to leave cost the same however many others there are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;

use super::{
    name::{Reach, segments},
    tree::Tree,
};

const NONE: u32 = u32::MAX;

/// What a name takes beside its bytes and its members, about: its set, and its entries here and
/// among what other shards see.
const NAME_BYTES: usize = 256;

/// What each segment of a pattern with wildcards may take: a node of the tree with a table of its
/// own, here and there.
const SEGMENT_BYTES: usize = 1280;

/// The subscriptions of one shard.
#[derive(Debug)]
pub struct Table {
    tree: Tree<u32>,
    sets: Vec<Set>,
    free_sets: Vec<u32>,
    entries: Vec<Entry>,
    free_entry: u32,
    /// The first entry of each place.
    firsts: Vec<u32>,
    subscriptions: usize,
    /// Bytes of memory of patterns and members.
    sets_bytes: usize,
    /// For names that match several patterns: the number of the walk that has met a place last.
    met: Vec<u32>,
    walks: u32,
    found: Vec<u32>,
}

#[derive(Debug)]
struct Set {
    pattern: Bytes,
    reach: Reach,
    members: Vec<Member>,
    /// How many they are, for those who look from elsewhere.
    count: Arc<AtomicUsize>,
}

impl Set {
    fn held_bytes(&self) -> usize {
        let segments = match self.reach {
            Reach::One => 0,
            Reach::Several => segments(&self.pattern).count(),
        };
        let pattern = NAME_BYTES + segments * SEGMENT_BYTES + 2 * self.pattern.len();
        pattern + self.members.capacity() * size_of::<Member>()
    }

    fn tell_count(&self) {
        self.count.store(self.members.len(), Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, Debug)]
struct Member {
    place: u32,
    entry: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    set: u32,
    /// Where it is among the members; of a free entry, nothing.
    member: u32,
    /// The next one of the same place, or the next free one.
    next: u32,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            tree: Tree::default(),
            sets: Vec::new(),
            free_sets: Vec::new(),
            entries: Vec::new(),
            free_entry: NONE,
            firsts: Vec::new(),
            subscriptions: 0,
            sets_bytes: 0,
            met: Vec::new(),
            walks: 0,
            found: Vec::new(),
        }
    }
}

/// What came of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It was there already.
    Again,
    /// It is the first one to its pattern.
    First,
    /// Others have subscribed to the same pattern.
    More,
}

/// What came of the end of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// There was none.
    Nothing,
    /// Nobody subscribes to the pattern any more.
    Last,
    /// Others still subscribe to it.
    More,
}

impl Table {
    /// Whether nobody has subscribed to anything.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.subscriptions == 0
    }

    /// Subscriptions there are.
    pub const fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Patterns that somebody subscribes to.
    pub const fn patterns(&self) -> usize {
        self.sets.len() - self.free_sets.len()
    }

    /// Bytes of memory that it takes.
    #[inline]
    pub const fn held_bytes(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        self.entries.capacity() * size_of::<Entry>()
            + (self.firsts.capacity() + self.met.capacity()) * size_of::<u32>()
            + self.sets_bytes
    }

    /// The same, from walking over everything.
    #[cfg(feature = "sim")]
    pub fn sum_bytes(&self) -> usize {
        if self.is_empty() {
            return 0;
        }
        let sets = self.sets.iter().filter(|set| !set.members.is_empty());
        self.held_bytes() - self.sets_bytes + sets.map(Set::held_bytes).sum::<usize>()
    }

    fn first(&self, place: u32) -> u32 {
        self.firsts.get(place as usize).copied().unwrap_or(NONE)
    }

    /// The entries of a place.
    fn entries_of(&self, place: u32) -> impl Iterator<Item = u32> {
        let mut next = self.first(place);
        std::iter::from_fn(move || {
            let entry = next;
            next = self.entries.get(entry as usize)?.next;
            Some(entry)
        })
    }

    /// To how many patterns a place subscribes.
    pub fn subscriptions_of(&self, place: u32) -> usize {
        self.entries_of(place).count()
    }

    /// Whether a place subscribes to a pattern.
    pub fn has(&self, place: u32, pattern: &[u8], reach: Reach) -> bool {
        let set = self.tree.get(pattern, reach);
        let mut entries = self.entries_of(place);
        set.is_some_and(|&set| entries.any(|entry| self.entries[entry as usize].set == set))
    }

    /// Where to look how many subscribe to a pattern that somebody subscribes to.
    pub fn members(&self, pattern: &[u8], reach: Reach) -> Arc<AtomicUsize> {
        let set = self.tree.get(pattern, reach);
        set.map(|&set| self.sets[set as usize].count.clone())
            .unwrap_or_default()
    }

    /// A place subscribes to a pattern, which has been checked.
    pub fn join(&mut self, place: u32, pattern: &[u8], reach: Reach) -> Joined {
        let (set, joined) = match self.tree.get(pattern, reach) {
            Some(_) if self.has(place, pattern, reach) => return Joined::Again,
            Some(&set) => (set, Joined::More),
            None => (self.new_set(pattern, reach), Joined::First),
        };
        if self.firsts.len() <= place as usize {
            self.firsts.resize(place as usize + 1, NONE);
        }
        let first = &mut self.firsts[place as usize];
        let set_of_it = &mut self.sets[set as usize];
        let members = &mut set_of_it.members;
        let new = Entry {
            set,
            member: members.len() as u32,
            next: *first,
        };
        let entry = match self.entries.get_mut(self.free_entry as usize) {
            Some(free) => {
                let entry = std::mem::replace(&mut self.free_entry, free.next);
                *free = new;
                entry
            }
            None => {
                self.entries.push(new);
                self.entries.len() as u32 - 1
            }
        };
        *first = entry;
        let before = members.capacity();
        members.push(Member { place, entry });
        self.sets_bytes += (members.capacity() - before) * size_of::<Member>();
        set_of_it.tell_count();
        self.subscriptions += 1;
        joined
    }

    fn new_set(&mut self, pattern: &[u8], reach: Reach) -> u32 {
        let pattern = Bytes::copy_from_slice(pattern);
        let set = Set {
            pattern: pattern.clone(),
            reach,
            members: Vec::new(),
            count: Arc::default(),
        };
        self.sets_bytes += set.held_bytes();
        let index = match self.free_sets.pop() {
            Some(index) => {
                self.sets[index as usize] = set;
                index
            }
            None => {
                self.sets.push(set);
                self.sets.len() as u32 - 1
            }
        };
        self.tree.insert(pattern, reach, index);
        index
    }

    /// A place does not subscribe to a pattern any more.
    pub fn leave(&mut self, place: u32, pattern: &[u8], reach: Reach) -> Left {
        let Some(&set) = self.tree.get(pattern, reach) else {
            return Left::Nothing;
        };
        let mut before = NONE;
        let mut entry = self.first(place);
        while let Some(&Entry { set: its, next, .. }) = self.entries.get(entry as usize) {
            if its != set {
                (before, entry) = (entry, next);
                continue;
            }
            match self.entries.get_mut(before as usize) {
                Some(before) => before.next = next,
                None => self.firsts[place as usize] = next,
            }
            let left = match self.remove(entry) {
                Some(_) => Left::Last,
                None => Left::More,
            };
            self.forget_if_empty();
            return left;
        }
        Left::Nothing
    }

    /// A place is left by its connection. `gone` is called with each pattern that nobody subscribes
    /// to any more.
    #[inline]
    pub fn leave_all(&mut self, place: u32, gone: impl FnMut(Bytes, Reach)) {
        if self.first(place) != NONE {
            self.leave_each(place, gone);
        }
    }

    fn leave_each(&mut self, place: u32, mut gone: impl FnMut(Bytes, Reach)) {
        let mut next = std::mem::replace(&mut self.firsts[place as usize], NONE);
        while let Some(&Entry { next: after, .. }) = self.entries.get(next as usize) {
            if let Some((pattern, reach)) = self.remove(next) {
                gone(pattern, reach);
            }
            next = after;
        }
        self.forget_if_empty();
    }

    /// After a crowd, nothing of it stays.
    fn forget_if_empty(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Takes an entry out of its set. Returns the pattern, if it was the last one.
    fn remove(&mut self, entry: u32) -> Option<(Bytes, Reach)> {
        let Entry {
            set: index, member, ..
        } = self.entries[entry as usize];
        self.entries[entry as usize].next = std::mem::replace(&mut self.free_entry, entry);
        self.subscriptions -= 1;
        let set = &mut self.sets[index as usize];
        let before = set.held_bytes();
        set.members.swap_remove(member as usize);
        set.tell_count();
        if let Some(moved) = set.members.get(member as usize) {
            self.entries[moved.entry as usize].member = member;
        }
        let (len, room) = (set.members.len(), set.members.capacity());
        if len > 0 {
            if len <= room / 4 {
                set.members.shrink_to(room / 2);
            }
            self.sets_bytes = self.sets_bytes - before + set.held_bytes();
            return None;
        }
        self.sets_bytes -= before;
        set.members = Vec::new();
        let (pattern, reach) = (std::mem::take(&mut set.pattern), set.reach);
        self.tree.remove(&pattern, reach);
        self.free_sets.push(index);
        Some((pattern, reach))
    }

    /// Looks who subscribes to this name, for [`each_found`](Self::each_found). Returns whether
    /// anybody does.
    pub fn find(&mut self, name: &[u8]) -> bool {
        self.found.clear();
        self.tree.matches(name, |&set| self.found.push(set));
        !self.found.is_empty()
    }

    /// Calls `found` with each place that was found, once.
    pub fn each_found(&mut self, mut found: impl FnMut(u32)) {
        if let [set] = self.found[..] {
            for member in &self.sets[set as usize].members {
                found(member.place);
            }
        } else {
            self.each_of_several(found);
        }
    }

    /// The same, of several sets: who is in more than one of them is met once.
    fn each_of_several(&mut self, mut found: impl FnMut(u32)) {
        self.walks = self.walks.wrapping_add(1);
        if self.walks == 0 {
            self.met.fill(0);
            self.walks = 1;
        }
        self.met.resize(self.firsts.len(), 0);
        for &set in &self.found {
            for &Member { place, .. } in &self.sets[set as usize].members {
                let met = &mut self.met[place as usize];
                if std::mem::replace(met, self.walks) != self.walks {
                    found(place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::name::check_pattern, *};

    fn reach(pattern: &str) -> Reach {
        check_pattern(pattern.as_bytes()).unwrap()
    }

    fn join(table: &mut Table, place: u32, pattern: &str) -> Joined {
        table.join(place, pattern.as_bytes(), reach(pattern))
    }

    fn leave(table: &mut Table, place: u32, pattern: &str) -> Left {
        table.leave(place, pattern.as_bytes(), reach(pattern))
    }

    fn of(table: &mut Table, name: &str) -> Vec<u32> {
        let mut places = Vec::new();
        if table.find(name.as_bytes()) {
            table.each_found(|place| places.push(place));
        }
        places.sort_unstable();
        places
    }

    #[test]
    fn everybody_who_subscribes_is_found_once() {
        let mut table = Table::default();
        assert_eq!(join(&mut table, 3, "a.b"), Joined::First);
        assert_eq!(join(&mut table, 3, "a.b"), Joined::Again);
        assert_eq!(join(&mut table, 5, "a.b"), Joined::More);
        assert_eq!(join(&mut table, 3, "a.*"), Joined::First);
        assert_eq!(join(&mut table, 9, ">"), Joined::First);
        assert_eq!(of(&mut table, "a.b"), [3, 5, 9]);
        assert_eq!(of(&mut table, "a.c"), [3, 9]);
        assert_eq!(table.subscriptions_of(3), 2);
        assert_eq!(leave(&mut table, 3, "a.b"), Left::More);
        assert_eq!(leave(&mut table, 3, "a.b"), Left::Nothing);
        assert_eq!(leave(&mut table, 3, "b"), Left::Nothing);
        assert_eq!(of(&mut table, "a.b"), [3, 5, 9]);
        assert_eq!(leave(&mut table, 3, "a.*"), Left::Last);
        assert_eq!(of(&mut table, "a.b"), [5, 9]);
        let mut gone = Vec::new();
        table.leave_all(9, |pattern, reach| gone.push((pattern, reach)));
        table.leave_all(9, |_, _| unreachable!("it has left"));
        table.leave_all(1000, |_, _| unreachable!("it was never here"));
        assert_eq!(gone, [(Bytes::from(">"), Reach::Several)]);
        assert_eq!((table.subscriptions(), table.patterns()), (1, 1));
    }

    #[test]
    fn it_agrees_with_a_set_of_pairs_while_a_crowd_comes_and_goes() {
        let patterns = ["a", "b", "a.b", "a.*", "a.>", "*", "b.c.d", ">"];
        let mut table = Table::default();
        let mut pairs = BTreeSet::new();
        let mut random: u64 = 1;
        for _ in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let place = (random >> 33) as u32 % 40;
            let pattern = patterns[(random >> 40) as usize % patterns.len()];
            let others = |pairs: &BTreeSet<(u32, &str)>| pairs.iter().any(|it| it.1 == pattern);
            match (random >> 50) % 5 {
                0..3 => {
                    let expected = match (pairs.contains(&(place, pattern)), others(&pairs)) {
                        (true, _) => Joined::Again,
                        (false, true) => Joined::More,
                        (false, false) => Joined::First,
                    };
                    pairs.insert((place, pattern));
                    assert_eq!(join(&mut table, place, pattern), expected);
                }
                3 => {
                    let expected = match (pairs.remove(&(place, pattern)), others(&pairs)) {
                        (false, _) => Left::Nothing,
                        (true, true) => Left::More,
                        (true, false) => Left::Last,
                    };
                    assert_eq!(leave(&mut table, place, pattern), expected);
                }
                _ => {
                    pairs.retain(|pair| pair.0 != place);
                    table.leave_all(place, |_, _| {});
                }
            }
            assert_eq!(table.subscriptions(), pairs.len());
            let count = |pattern| pairs.iter().filter(|it| it.1 == pattern).count();
            assert_eq!(of(&mut table, "b.c.d").len(), {
                let wanted = pairs.iter().filter(|it| matches!(it.1, "b.c.d" | ">"));
                wanted.map(|it| it.0).collect::<BTreeSet<_>>().len()
            });
            assert!(of(&mut table, "a.b").len() >= count("a.b"));
            let held = table.sets.iter().filter(|set| !set.members.is_empty());
            assert_eq!(table.sets_bytes, held.map(Set::held_bytes).sum::<usize>());
        }
        for place in 0..40 {
            table.leave_all(place, |_, _| {});
        }
        assert_eq!((table.held_bytes(), table.patterns()), (0, 0));
    }

    #[test]
    fn a_subscription_takes_few_bytes() {
        let mut table = Table::default();
        for place in 0..10_000 {
            join(&mut table, place, "news");
        }
        // With room to grow for all three lists.
        assert!(
            table.held_bytes() < 10_000 * 2 * 28,
            "{}",
            table.held_bytes()
        );
    }
}
