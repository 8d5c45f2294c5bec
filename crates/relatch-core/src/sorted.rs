//! Maps and sets in the order of their keys, which hold a handful nearly always and thousands at times.
//!
//! While they are few they stand in one piece, whose room is kept: what comes and goes with every call takes no
//! allocation. Beyond [`FEW`] they are a tree, so that nothing grows with their number.

use std::collections::BTreeMap;

/// So many are moved within one piece in less time than a tree takes for one.
const FEW: usize = 32;

/// A map. One of the two is empty.
#[derive(Clone, Debug)]
pub(crate) struct Map<K, V> {
    few: Vec<(K, V)>,
    many: BTreeMap<K, V>,
}

impl<K: Copy + Ord, V> Map<K, V> {
    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        if !self.many.is_empty() {
            return self.many.get(key);
        }
        let at = self.find(key).ok()?;
        self.few.get(at).map(|(_, value)| value)
    }

    /// Puts it there; gives back what was there.
    #[inline]
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if self.many.is_empty() {
            match self.find(&key) {
                Ok(at) => return Some(std::mem::replace(&mut self.few[at].1, value)),
                Err(at) if self.few.len() < FEW => {
                    self.few.insert(at, (key, value));
                    return None;
                }
                Err(_) => self.many.extend(self.few.drain(..)),
            }
        }
        self.many.insert(key, value)
    }

    #[inline]
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        if !self.many.is_empty() {
            return self.many.remove(key);
        }
        let at = self.find(key).ok()?;
        let last = at + 1 == self.few.len();
        let (_, value) = if last { self.few.pop()? } else { self.few.remove(at) };
        Some(value)
    }

    #[inline]
    pub(crate) fn pop_first(&mut self) -> Option<(K, V)> {
        match self.few.len() {
            0 => self.many.pop_first(),
            1 => self.few.pop(),
            _ => Some(self.few.remove(0)),
        }
    }

    #[inline]
    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        self.few.first().map(|(key, value)| (key, value)).or_else(|| self.many.first_key_value())
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.few.len() + self.many.len()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_empty()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.few.iter().map(|(key, value)| (key, value)).chain(&self.many)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.few.iter_mut().map(|(_, value)| value).chain(self.many.values_mut())
    }

    #[inline]
    fn find(&self, key: &K) -> Result<usize, usize> {
        match self.few.last() {
            None => Err(0),
            // What is new comes last, where keys count up.
            Some((last, _)) if last < key => Err(self.few.len()),
            Some(_) => self.few.binary_search_by(|(other, _)| other.cmp(key)),
        }
    }
}

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        Map { few: Vec::new(), many: BTreeMap::new() }
    }
}

/// A set.
#[derive(Clone, Debug)]
pub(crate) struct Set<T>(Map<T, ()>);

impl<T: Copy + Ord> Set<T> {
    #[inline]
    pub(crate) fn insert(&mut self, member: T) {
        self.0.insert(member, ());
    }

    #[inline]
    pub(crate) fn remove(&mut self, member: &T) {
        self.0.remove(member);
    }

    #[inline]
    pub(crate) fn pop_first(&mut self) -> Option<T> {
        self.0.pop_first().map(|(member, ())| member)
    }

    #[inline]
    pub(crate) fn first(&self) -> Option<&T> {
        self.0.first().map(|(member, ())| member)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.iter().map(|(member, ())| member)
    }

    #[cfg(debug_assertions)]
    pub(crate) fn contains(&self, member: &T) -> bool {
        self.0.get(member).is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Set<T> {
    fn default() -> Self {
        Set(Map::default())
    }
}

impl<T: Copy + Ord> Extend<T> for Set<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, members: I) {
        members.into_iter().for_each(|member| self.insert(member));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u64),
        Remove(u64),
        PopFirst,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // In part of the runs many more come than go, so that they become a tree and are few again.
        let step = |keys: u64, removals: u32| {
            prop_oneof![
                8 => (0..keys).prop_map(Step::Insert),
                removals => (0..keys).prop_map(Step::Remove),
                1 => Just(Step::PopFirst),
            ]
        };
        (1_u64..100, 0_u32..12)
            .prop_flat_map(move |(keys, removals)| prop::collection::vec(step(keys, removals.max(1)), 0..400))
    }

    proptest! {
        #[test]
        fn few_or_many_they_are_in_order_as_in_a_tree(steps in steps(), sought in 0_u64..100) {
            let (mut map, mut tree) = (Map::default(), BTreeMap::new());
            for (value, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(key) => prop_assert_eq!(map.insert(key, value), tree.insert(key, value)),
                    Step::Remove(key) => prop_assert_eq!(map.remove(&key), tree.remove(&key)),
                    Step::PopFirst => prop_assert_eq!(map.pop_first(), tree.pop_first()),
                }
                prop_assert_eq!(map.first(), tree.first_key_value());
                prop_assert_eq!((map.len(), map.is_empty()), (tree.len(), tree.is_empty()));
                prop_assert_eq!(map.get(&sought), tree.get(&sought));
                prop_assert!(map.few.is_empty() || map.many.is_empty());
            }
            prop_assert!(map.iter().eq(tree.iter()) && map.iter().rev().eq(tree.iter().rev()));
            prop_assert!(map.values_mut().eq(tree.values_mut()));
        }
    }
}
