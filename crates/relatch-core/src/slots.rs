//! A map in the order of its keys, whose members keep their place while others come and go.
//!
//! What happens to one member is a turn of many looks at it: the one that was looked at last is found without a
//! search. A place is taken again by whatever comes next, so that coming and going takes no allocation.

use crate::sorted::Map;

/// Places are let go where less than a quarter of more than so many is taken.
const ROOM: usize = 64;

#[derive(Debug)]
pub(crate) struct Slots<K, V> {
    /// Which has which place.
    index: Map<K, usize>,
    places: Vec<Option<V>>,
    free: Vec<usize>,
    /// The one that was changed last, while it is there.
    last: Option<(K, usize)>,
}

impl<K: Copy + Ord, V> Slots<K, V> {
    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.places.get(self.place(key)?)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.place(key)?;
        self.last = Some((*key, at));
        self.places.get_mut(at)?.as_mut()
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_some()
    }

    #[inline]
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let at = match self.place(&key).or_else(|| self.free.pop()) {
            Some(at) => {
                self.places[at] = Some(value);
                at
            }
            None => {
                self.places.push(Some(value));
                self.places.len() - 1
            }
        };
        self.index.insert(key, at);
        self.last = Some((key, at));
    }

    /// Lets it go where it stands.
    #[inline]
    pub(crate) fn remove(&mut self, key: &K) {
        let Some(at) = self.index.remove(key) else { return };
        if self.last.is_some_and(|(last, _)| last == *key) {
            self.last = None;
        }
        self.places[at] = None;
        self.free.push(at);
        if self.places.len() > ROOM && self.index.len() < self.places.len() / 4 {
            self.close_up();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    pub(crate) fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.index.iter().map(|(key, _)| key)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.index.iter().filter_map(|(key, at)| Some((key, self.places.get(*at)?.as_ref()?)))
    }

    pub(crate) fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        let mut places: Vec<Option<&mut V>> = self.places.iter_mut().map(Option::as_mut).collect();
        self.index.iter().filter_map(move |(key, at)| Some((key, places.get_mut(*at)?.take()?)))
    }

    /// They, in no order.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.places.iter_mut().flatten()
    }

    #[inline]
    fn place(&self, key: &K) -> Option<usize> {
        match self.last {
            Some((last, at)) if last == *key => Some(at),
            Some(_) | None => self.index.get(key).copied(),
        }
    }

    /// Lets the room go that a crowd has left.
    #[cold]
    fn close_up(&mut self) {
        let mut crowded = std::mem::take(&mut self.places);
        for at in self.index.values_mut() {
            let member = crowded.get_mut(*at).and_then(Option::take);
            *at = self.places.len();
            self.places.push(member);
        }
        self.free = Vec::new();
        self.last = None;
    }
}

impl<K, V> Default for Slots<K, V> {
    fn default() -> Self {
        Slots { index: Map::default(), places: Vec::new(), free: Vec::new(), last: None }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u64),
        Remove(u64),
        Change(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0_u64..300).prop_map(Step::Insert),
            (0_u64..300).prop_map(Step::Remove),
            (0_u64..300).prop_map(Step::Change),
        ]
    }

    proptest! {
        #[test]
        fn whoever_comes_and_goes_each_is_found_and_they_are_in_order(
            crowd in 0_u64..300,
            steps in prop::collection::vec(step(), 0..300),
        ) {
            let (mut slots, mut tree) = (Slots::default(), BTreeMap::new());
            let come = (0..crowd).map(Step::Insert);
            let go = (0..crowd).filter(|n| n % 7 != 0).map(Step::Remove);
            for (value, step) in come.chain(go).chain(steps).enumerate() {
                match step {
                    Step::Insert(key) => {
                        slots.insert(key, value);
                        tree.insert(key, value);
                    }
                    Step::Remove(key) => {
                        slots.remove(&key);
                        tree.remove(&key);
                    }
                    Step::Change(key) => {
                        let (one, other) = (slots.get_mut(&key), tree.get_mut(&key));
                        prop_assert_eq!(&one, &other);
                        one.into_iter().chain(other).for_each(|member| *member += 1);
                        prop_assert_eq!(slots.get(&key), tree.get(&key));
                    }
                }
                prop_assert_eq!(slots.len(), tree.len());
            }
            for key in 0..300 {
                prop_assert_eq!((slots.get(&key), slots.contains_key(&key)), (tree.get(&key), tree.contains_key(&key)));
            }
            prop_assert!(slots.iter().eq(&tree) && slots.iter().rev().eq(tree.iter().rev()));
            prop_assert!(slots.keys().eq(tree.keys()) && slots.values().eq(tree.values()));
            prop_assert!(slots.iter_mut().eq(tree.iter_mut()));
            prop_assert_eq!(slots.values_mut().map(|value| *value).sum::<usize>(), tree.values().sum::<usize>());
        }
    }

    #[test]
    fn what_a_crowd_took_is_let_go_with_it() {
        let mut slots = Slots::default();
        (0..10_000_u64).for_each(|key| slots.insert(key, key));
        (0..9_990).for_each(|key| slots.remove(&key));
        assert!(
            slots.places.len() <= 4 * ROOM && slots.places.capacity() <= 8 * ROOM,
            "{}",
            slots.places.len()
        );
        assert!(slots.values().copied().eq(9_990..10_000));
    }
}
