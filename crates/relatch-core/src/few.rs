//! Sets of a few things, of which every latch has some: small while they are empty, and in order.
//!
//! A tree takes a hundred bytes for its first member and keeps them when it is empty again.

use relatch_wire::method::ListKind;

/// A set in the order of its members; meant for few of them, or for such as come in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Few<T>(Vec<T>);

impl<T: Copy + Ord> Few<T> {
    pub(crate) fn insert(&mut self, member: T) {
        if let Err(at) = self.0.binary_search(&member) {
            self.0.insert(at, member);
        }
    }

    pub(crate) fn remove(&mut self, member: &T) {
        if let Ok(at) = self.0.binary_search(member) {
            self.0.remove(at);
        }
    }

    #[cfg(debug_assertions)]
    pub(crate) fn contains(&self, member: &T) -> bool {
        self.0.binary_search(member).is_ok()
    }
}

impl<T> Few<T> {
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.0.iter()
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.0.first()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Few(Vec::new())
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T> IntoIterator for Few<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Kinds of lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kinds(u8);

impl Kinds {
    pub(crate) fn insert(&mut self, kind: ListKind) {
        self.0 |= bit(kind);
    }

    pub(crate) fn remove(&mut self, kind: ListKind) {
        self.0 &= !bit(kind);
    }

    pub(crate) fn contains(self, kind: ListKind) -> bool {
        self.0 & bit(kind) != 0
    }

    /// They, in the order in which they are compared.
    pub(crate) fn iter(self) -> impl Iterator<Item = ListKind> {
        ListKind::ALL.iter().copied().filter(move |kind| self.contains(*kind))
    }

    /// Takes the first out.
    pub(crate) fn pop_first(&mut self) -> Option<ListKind> {
        let first = self.iter().next()?;
        self.remove(first);
        Some(first)
    }
}

impl FromIterator<ListKind> for Kinds {
    fn from_iter<I: IntoIterator<Item = ListKind>>(kinds: I) -> Kinds {
        let mut all = Kinds::default();
        kinds.into_iter().for_each(|kind| all.insert(kind));
        all
    }
}

fn bit(kind: ListKind) -> u8 {
    match kind {
        ListKind::Tools => 1,
        ListKind::Prompts => 2,
        ListKind::Resources => 4,
        ListKind::ResourceTemplates => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_in_order_and_each_is_there_once() {
        let mut few = Few::default();
        for member in [3, 1, 2, 3, 1] {
            few.insert(member);
        }
        assert_eq!((few.iter().copied().collect::<Vec<_>>(), few.first()), (vec![1, 2, 3], Some(&1)));
        few.remove(&2);
        few.remove(&9);
        assert_eq!(few.into_iter().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn every_kind_of_list_is_told_from_the_others() {
        let mut kinds: Kinds = ListKind::ALL.iter().rev().copied().collect();
        assert_eq!(kinds.iter().collect::<Vec<_>>(), ListKind::ALL);
        kinds.remove(ListKind::Prompts);
        assert!(!kinds.contains(ListKind::Prompts));
        let rest = std::iter::from_fn(|| kinds.pop_first()).collect::<Vec<_>>();
        assert_eq!(rest, [ListKind::Tools, ListKind::Resources, ListKind::ResourceTemplates]);
    }
}
