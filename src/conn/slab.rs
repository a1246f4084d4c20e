//! Places for connections.
//!
//! Knows: which places are taken, and by which user in turn. Refuses to know: what a connection is.
//!
//! Places come in pages that never move, so that growing copies nothing and a reference count of
//! memory per connection is easy: one place each, plus less than a page.
//!
//! A key is never given out twice: a place whose generations are used up is never taken again, and
//! a page that has only such places gives its memory back. So it is no matter that the place that
//! was freed last, which is in the cache, is the next one to be taken.

use super::token::{Key, SLOTS_MAX};

const PAGE_SLOTS: usize = 64;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Free {
        next: u32,
    },
    Taken(T),
    /// Its last user is gone.
    UsedUp,
}

/// Values in places, each found by its [`Key`].
#[derive(Debug)]
pub struct Slab<T> {
    /// Those of places that are used up are empty.
    pages: Vec<Vec<Slot<T>>>,
    /// Places that were made so far.
    made: usize,
    free: u32,
    len: usize,
}

const NONE: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
            made: 0,
            free: NONE,
            len: 0,
        }
    }
}

impl<T> Slab<T> {
    /// Values held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Places there are: taken, free or used up.
    pub fn capacity(&self) -> usize {
        self.made
    }

    /// Puts a value into the place that was freed last, or a new one.
    ///
    /// # Errors
    ///
    /// The value, when all [`SLOTS_MAX`] places are taken or used up.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        if self.free != NONE {
            let slot = self.free;
            let (page, index) = place(slot);
            let found = &mut self.pages[page][index];
            if let Content::Free { next } = found.content {
                self.free = next;
            }
            found.content = Content::Taken(value);
            self.len += 1;
            return Ok(Key {
                slot,
                generation: found.generation,
            });
        }
        let slot = self.capacity();
        if slot >= SLOTS_MAX as usize {
            return Err(value);
        }
        if slot.is_multiple_of(PAGE_SLOTS) {
            self.pages.push(Vec::with_capacity(PAGE_SLOTS));
        }
        let page = &mut self.pages[slot / PAGE_SLOTS];
        page.push(Slot {
            generation: 0,
            content: Content::Taken(value),
        });
        self.made += 1;
        self.len += 1;
        Ok(Key {
            slot: slot as u32,
            generation: 0,
        })
    }

    /// The value of `key`, unless it is gone.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (page, index) = place(key.slot);
        let slot = self.pages.get_mut(page)?.get_mut(index)?;
        match &mut slot.content {
            Content::Taken(value) if slot.generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Takes the value of `key` out and frees its place for the next generation, if there is one.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let (page, index) = place(key.slot);
        let slot = &mut self.pages[page][index];
        let next = key.next_generation();
        let left = match next {
            Some(_) => Content::Free { next: self.free },
            None => Content::UsedUp,
        };
        let Content::Taken(value) = std::mem::replace(&mut slot.content, left) else {
            return None;
        };
        self.len -= 1;
        match next {
            Some(generation) => {
                slot.generation = generation;
                self.free = key.slot;
            }
            None => self.give_back(page),
        }
        Some(value)
    }

    /// Gives the memory of a page back if all of its places are used up.
    #[cold]
    fn give_back(&mut self, page: usize) {
        let slots = &mut self.pages[page];
        let used_up = |slot: &Slot<T>| matches!(slot.content, Content::UsedUp);
        if slots.len() == PAGE_SLOTS && slots.iter().all(used_up) {
            *slots = Vec::new();
        }
    }

    /// The key of the place `slot`, if it is taken. For walking over all of them by number, while
    /// each one may be removed.
    pub fn key_at(&self, slot: u32) -> Option<Key> {
        let (page, index) = place(slot);
        let found = self.pages.get(page)?.get(index)?;
        match found.content {
            Content::Taken(_) => Some(Key {
                slot,
                generation: found.generation,
            }),
            Content::Free { .. } | Content::UsedUp => None,
        }
    }
}

const fn place(slot: u32) -> (usize, usize) {
    (slot as usize / PAGE_SLOTS, slot as usize % PAGE_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conn::token::GENERATION_MAX;

    #[test]
    fn a_key_finds_its_value_and_no_later_one() {
        let mut slab = Slab::default();
        let first = slab.insert("first").unwrap();
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second").unwrap();
        assert_eq!(second.slot, first.slot);
        assert_ne!(second.generation, first.generation);
        assert_eq!(slab.get_mut(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get_mut(second), Some(&mut "second"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn places_are_used_again_before_new_ones_are_made() {
        let mut slab = Slab::default();
        let keys: Vec<Key> = (0..300).map(|value| slab.insert(value).unwrap()).collect();
        assert_eq!((slab.len(), slab.capacity()), (300, 300));
        for &key in keys.iter().step_by(3) {
            slab.remove(key);
        }
        for value in 0..100 {
            slab.insert(1000 + value).unwrap();
        }
        assert_eq!((slab.len(), slab.capacity()), (300, 300));
        let mut seen = 0;
        for slot in 0..slab.capacity() as u32 {
            seen += usize::from(slab.key_at(slot).is_some());
        }
        assert_eq!(seen, 300);
    }
    /// Lets the place of a free or taken slot have this generation next, as if it had been used so
    /// often.
    fn age<T>(slab: &mut Slab<T>, slot: u32, generation: u32) {
        let (page, index) = place(slot);
        slab.pages[page][index].generation = generation;
    }

    #[test]
    fn a_key_never_comes_again() {
        let mut slab = Slab::default();
        let early = slab.insert(0).unwrap();
        slab.remove(early);
        age(&mut slab, early.slot, GENERATION_MAX - 2);
        let mut seen = vec![early];
        for value in 1..=10 {
            let key = slab.insert(value).unwrap();
            assert!(!seen.contains(&key), "{key:?} came again");
            seen.push(key);
            for &stale in &seen[..seen.len() - 1] {
                assert_eq!(slab.get_mut(stale), None, "{stale:?} reaches a stranger");
                assert_eq!(slab.remove(stale), None);
            }
            assert_eq!(slab.remove(key), Some(value));
        }
        // Three generations were left of the first place; the others had the second.
        assert_eq!((slab.len(), slab.capacity()), (0, 2));
        assert_eq!(slab.key_at(early.slot), None);
    }

    #[test]
    fn a_page_whose_places_are_used_up_takes_no_memory() {
        let mut slab = Slab::default();
        let count = 2 * PAGE_SLOTS;
        for value in 0..count {
            let key = slab.insert(value).unwrap();
            age(&mut slab, key.slot, GENERATION_MAX);
        }
        for slot in 0..count as u32 {
            let key = slab.key_at(slot).unwrap();
            assert_eq!(slab.remove(key), Some(slot as usize));
            let is_whole = (slot as usize + 1).is_multiple_of(PAGE_SLOTS);
            let page = &slab.pages[slot as usize / PAGE_SLOTS];
            assert_eq!(page.capacity() == 0, is_whole);
            assert_eq!(slab.get_mut(key), None);
            assert_eq!(slab.key_at(slot), None);
        }
        assert_eq!((slab.len(), slab.capacity()), (0, count));
        // It goes on behind them.
        let key = slab.insert(7).unwrap();
        assert_eq!((key.slot as usize, key.generation), (count, 0));
        assert_eq!(slab.remove(key), Some(7));
        assert_eq!(slab.insert(8).unwrap().slot, key.slot);
    }
}
