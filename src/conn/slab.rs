//! Places for connections.
//!
//! Knows: which places are taken, and by which user in turn. Refuses to know: what a connection is.
//!
//! Places come in pages that never move, so that growing copies nothing and a reference count of
//! memory per connection is easy: one place each, plus less than a page.

use super::token::{Key, SLOTS_MAX};

const PAGE_SLOTS: usize = 64;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
enum Content<T> {
    Free { next: u32 },
    Taken(T),
}

/// Values in places, each found by its [`Key`].
#[derive(Debug)]
pub struct Slab<T> {
    pages: Vec<Vec<Slot<T>>>,
    free: u32,
    len: usize,
}

const NONE: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            pages: Vec::new(),
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

    /// Places there are, taken or free.
    pub fn capacity(&self) -> usize {
        match self.pages.last() {
            Some(last) => (self.pages.len() - 1) * PAGE_SLOTS + last.len(),
            None => 0,
        }
    }

    /// Puts a value into the place that was freed last, or a new one. Gives it back when all
    /// places are taken.
    ///
    /// # Errors
    ///
    /// The value, when all [`SLOTS_MAX`] places are taken.
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

    /// Takes the value of `key` out and frees its place for the next generation.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get_mut(key)?;
        let (page, index) = place(key.slot);
        let slot = &mut self.pages[page][index];
        let freed = Content::Free { next: self.free };
        match std::mem::replace(&mut slot.content, freed) {
            Content::Taken(value) => {
                slot.generation = key.next_generation();
                self.free = key.slot;
                self.len -= 1;
                Some(value)
            }
            Content::Free { .. } => None,
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
            Content::Free { .. } => None,
        }
    }
}

const fn place(slot: u32) -> (usize, usize) {
    (slot as usize / PAGE_SLOTS, slot as usize % PAGE_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
