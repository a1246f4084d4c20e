//! Finds all patterns that a name matches, without looking at the others.
//!
//! Knows: one value for each pattern; names in a table, and patterns with wildcards in a tree with
//! one level for each segment. Refuses to know: what the values are.
//!
//! A name costs one look into the table, and in the tree at most the nodes that have its segments
//! or a `*` in their place: it does not cost more when there are more patterns for other names.

use std::collections::{HashMap, hash_map::Entry};

use bytes::Bytes;

use super::name::{Reach, Segment, segments};

/// A value for each pattern.
#[derive(Clone, Debug)]
pub struct Tree<V> {
    names: HashMap<Bytes, V>,
    root: Node<V>,
    /// Patterns in the tree.
    several: usize,
}

#[derive(Clone, Debug)]
struct Node<V> {
    segments: HashMap<Bytes, Node<V>>,
    any: Option<Box<Node<V>>>,
    /// Of the pattern that ends here.
    here: Option<V>,
    /// Of the pattern that goes on from here with `>`.
    rest: Option<V>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self {
            segments: HashMap::new(),
            any: None,
            here: None,
            rest: None,
        }
    }
}

impl<V> Node<V> {
    fn is_empty(&self) -> bool {
        let has_values = self.here.is_some() || self.rest.is_some();
        !has_values && self.any.is_none() && self.segments.is_empty()
    }

    /// The place of a pattern's value, below here.
    fn place<'a>(&mut self, mut pattern: impl Iterator<Item = &'a [u8]>) -> &mut Option<V> {
        match pattern.next().map(Segment::of_pattern) {
            None => &mut self.here,
            Some(Segment::Rest) => &mut self.rest,
            Some(Segment::Any) => self.any.get_or_insert_default().place(pattern),
            Some(Segment::This(segment)) => {
                let segment = Bytes::copy_from_slice(segment);
                self.segments.entry(segment).or_default().place(pattern)
            }
        }
    }

    fn get<'a>(&self, mut pattern: impl Iterator<Item = &'a [u8]>) -> Option<&V> {
        match pattern.next().map(Segment::of_pattern) {
            None => self.here.as_ref(),
            Some(Segment::Rest) => self.rest.as_ref(),
            Some(Segment::Any) => self.any.as_ref()?.get(pattern),
            Some(Segment::This(segment)) => self.segments.get(segment)?.get(pattern),
        }
    }

    /// Takes a pattern's value, and the nodes that nothing needs any more.
    fn take<'a>(&mut self, mut pattern: impl Iterator<Item = &'a [u8]>) -> Option<V> {
        match pattern.next().map(Segment::of_pattern) {
            None => self.here.take(),
            Some(Segment::Rest) => self.rest.take(),
            Some(Segment::Any) => {
                let taken = self.any.as_mut()?.take(pattern);
                self.any.take_if(|node| node.is_empty());
                taken
            }
            Some(Segment::This(segment)) => {
                let node = self.segments.get_mut(segment)?;
                let taken = node.take(pattern);
                if node.is_empty() {
                    self.segments.remove(segment);
                }
                taken
            }
        }
    }

    /// Calls `found` with each value until it says that it has enough. Returns whether it has.
    fn matches<'a>(
        &self,
        mut name: impl Iterator<Item = &'a [u8]> + Clone,
        found: &mut impl FnMut(&V) -> bool,
    ) -> bool {
        let Some(segment) = name.next() else {
            return self.here.as_ref().is_some_and(found);
        };
        if let Some(value) = &self.rest
            && found(value)
        {
            return true;
        }
        if let Some(node) = self.segments.get(segment)
            && node.matches(name.clone(), found)
        {
            return true;
        }
        self.any
            .as_ref()
            .is_some_and(|node| node.matches(name, found))
    }
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Self {
            names: HashMap::new(),
            root: Node::default(),
            several: 0,
        }
    }
}

impl<V> Tree<V> {
    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.several == 0
    }

    /// The value of a pattern, which has been checked.
    pub fn get(&self, pattern: &[u8], reach: Reach) -> Option<&V> {
        match reach {
            Reach::One => self.names.get(pattern),
            Reach::Several => self.root.get(segments(pattern)),
        }
    }

    /// Gives a pattern a value. Returns the one that it had.
    pub fn insert(&mut self, pattern: Bytes, reach: Reach, value: V) -> Option<V> {
        if reach == Reach::One {
            return match self.names.entry(pattern) {
                Entry::Occupied(mut place) => Some(place.insert(value)),
                Entry::Vacant(place) => {
                    place.insert(value);
                    None
                }
            };
        }
        let before = self.root.place(segments(&pattern)).replace(value);
        self.several += usize::from(before.is_none());
        before
    }

    /// Takes the value of a pattern.
    pub fn remove(&mut self, pattern: &[u8], reach: Reach) -> Option<V> {
        if reach == Reach::One {
            let removed = self.names.remove(pattern);
            if self.names.is_empty() {
                self.names = HashMap::new();
            }
            return removed;
        }
        let removed = self.root.take(segments(pattern));
        self.several -= usize::from(removed.is_some());
        removed
    }

    /// Calls `found` with the value of each pattern that this name matches, in no order.
    #[inline]
    pub fn matches(&self, name: &[u8], mut found: impl FnMut(&V)) {
        if let Some(value) = self.names.get(name) {
            found(value);
        }
        if self.several > 0 {
            self.matches_several(name, &mut |value| {
                found(value);
                false
            });
        }
    }

    /// Patterns with wildcards, none of which begins with one if the name begins with `$`.
    fn matches_several(&self, name: &[u8], found: &mut impl FnMut(&V) -> bool) -> bool {
        let mut segments = segments(name);
        if name.first() != Some(&b'$') {
            return self.root.matches(segments, found);
        }
        let first = segments.next().and_then(|it| self.root.segments.get(it));
        first.is_some_and(|node| node.matches(segments, found))
    }

    /// Whether a name matches any pattern.
    #[inline]
    pub fn has_match(&self, name: &[u8]) -> bool {
        let has_several = || self.matches_several(name, &mut |_| true);
        self.names.contains_key(name) || self.several > 0 && has_several()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::name::check_pattern, *};

    fn tree(patterns: &[&'static str]) -> Tree<&'static str> {
        let mut tree = Tree::default();
        for &pattern in patterns {
            let reach = check_pattern(pattern.as_bytes()).unwrap();
            assert_eq!(tree.insert(pattern.into(), reach, pattern), None);
        }
        tree
    }

    fn matching(tree: &Tree<&'static str>, name: &str) -> Vec<&'static str> {
        let mut found = Vec::new();
        tree.matches(name.as_bytes(), |&pattern| found.push(pattern));
        found.sort_unstable();
        found
    }

    #[test]
    fn a_name_matches_what_nats_says() {
        let tree = tree(&[
            "a", "a.b", "a.b.c", "a.*", "a.*.c", "*.b", "*", "*.*", "a.>", ">", "a.b.>", "b.>",
        ]);
        assert_eq!(matching(&tree, "a"), ["*", ">", "a"]);
        assert_eq!(
            matching(&tree, "a.b"),
            ["*.*", "*.b", ">", "a.*", "a.>", "a.b"]
        );
        assert_eq!(
            matching(&tree, "a.b.c"),
            [">", "a.*.c", "a.>", "a.b.>", "a.b.c"]
        );
        assert_eq!(matching(&tree, "b"), ["*", ">"]);
        assert_eq!(matching(&tree, "b.c"), ["*.*", ">", "b.>"]);
        // A star is a star only for those who subscribe.
        assert_eq!(matching(&tree, "a*"), ["*", ">"]);
    }

    #[test]
    fn what_begins_with_a_dollar_is_not_among_all() {
        let tree = tree(&[">", "*", "*.a", "$x.>", "$x.a", "$x.*", "a.*"]);
        assert_eq!(matching(&tree, "$x.a"), ["$x.*", "$x.>", "$x.a"]);
        assert!(matching(&tree, "$x").is_empty() && !tree.has_match(b"$x"));
        assert_eq!(matching(&tree, "a.$x"), [">", "a.*"]);
    }

    /// What it says in a sentence, without a tree.
    fn does_match(pattern: &str, name: &str) -> bool {
        let (pattern, name): (Vec<_>, Vec<_>) =
            (pattern.split('.').collect(), name.split('.').collect());
        let fits = |(pattern, name): (&&str, &&str)| *pattern == "*" || pattern == name;
        match pattern.strip_suffix(&[">"]) {
            Some(head) => name.len() > head.len() && head.iter().zip(&name).all(fits),
            None => pattern.len() == name.len() && pattern.iter().zip(&name).all(fits),
        }
    }

    #[test]
    fn a_tree_finds_what_a_scan_would_find_while_patterns_come_and_go() {
        let parts = ["a", "b", "*", ">"];
        let mut patterns = Vec::new();
        for first in parts {
            patterns.push(first.to_owned());
            for second in parts {
                patterns.push(format!("{first}.{second}"));
                for third in parts {
                    patterns.push(format!("{first}.{second}.{third}"));
                }
            }
        }
        patterns.retain(|pattern| check_pattern(pattern.as_bytes()).is_ok());
        let names = [
            "a", "b", "a.a", "a.b", "b.b", "a.b.a", "b.a.b", "c.a", "a.a.a.a",
        ];
        let mut tree = Tree::default();
        let mut there: Vec<&String> = Vec::new();
        // Each pattern is put in and taken out several times, in an order that mixes them.
        for step in 0..patterns.len() * 6 {
            let pattern = &patterns[step * 7 % patterns.len()];
            let reach = check_pattern(pattern.as_bytes()).unwrap();
            let bytes = Bytes::copy_from_slice(pattern.as_bytes());
            match there.iter().position(|&it| it == pattern) {
                Some(at) => {
                    there.swap_remove(at);
                    assert_eq!(tree.get(&bytes, reach), Some(&pattern));
                    assert_eq!(tree.remove(&bytes, reach), Some(pattern));
                    assert_eq!(tree.get(&bytes, reach), None);
                }
                None => {
                    there.push(pattern);
                    assert_eq!(tree.insert(bytes, reach, pattern), None);
                }
            }
            for name in names {
                let mut found = Vec::new();
                tree.matches(name.as_bytes(), |&pattern| found.push(pattern));
                let mut wanted = there.clone();
                wanted.retain(|pattern| does_match(pattern, name));
                found.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(found, wanted, "{name}");
            }
            assert_eq!(tree.is_empty(), there.is_empty());
            let has_match = |name: &&str| there.iter().any(|it| does_match(it, name));
            assert!(
                names
                    .iter()
                    .all(|name| tree.has_match(name.as_bytes()) == has_match(name))
            );
        }
    }

    #[test]
    fn what_is_taken_out_leaves_no_nodes() {
        let mut tree = tree(&["a.*.c", "a.*.>", "a.b.*"]);
        for pattern in ["a.*.c", "a.*.>", "a.b.*"] {
            assert!(tree.remove(pattern.as_bytes(), Reach::Several).is_some());
            assert!(tree.remove(pattern.as_bytes(), Reach::Several).is_none());
        }
        assert!(tree.is_empty() && tree.root.is_empty());
    }
}
