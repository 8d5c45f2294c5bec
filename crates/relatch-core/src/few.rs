//! Sets of a few things, of which every latch and exchange has some: small while they are empty, and in order.
//!
//! A tree takes a hundred bytes for its first member and keeps them when it is empty again.

use relatch_wire::method::ListKind;

/// A set in the order of its members; meant for few of them, or for such as come in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Few<T> {
    #[default]
    None,
    One(T),
    /// Several, or some left of them.
    Several(Vec<T>),
}

impl<T: Copy + Ord> Few<T> {
    pub(crate) fn insert(&mut self, member: T) {
        match self {
            Few::None => *self = Few::One(member),
            Few::One(one) if *one == member => {}
            Few::One(one) => *self = Few::Several(vec![member.min(*one), member.max(*one)]),
            Few::Several(all) => {
                if let Err(at) = all.binary_search(&member) {
                    all.insert(at, member);
                }
            }
        }
    }

    /// Takes it out; says whether it was there.
    pub(crate) fn remove(&mut self, member: &T) -> bool {
        match self {
            Few::Several(all) => {
                let found = all.binary_search(member);
                if let Ok(at) = found {
                    all.remove(at);
                }
                if all.is_empty() {
                    *self = Few::None;
                }
                found.is_ok()
            }
            Few::One(one) if one == member => {
                *self = Few::None;
                true
            }
            Few::One(_) | Few::None => false,
        }
    }

    pub(crate) fn contains(&self, member: &T) -> bool {
        self.all().binary_search(member).is_ok()
    }
}

impl<T> Few<T> {
    fn all(&self) -> &[T] {
        match self {
            Few::None => &[],
            Few::One(one) => std::slice::from_ref(one),
            Few::Several(all) => all,
        }
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.all().iter()
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.all().first()
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.all().last()
    }

    pub(crate) fn len(&self) -> usize {
        self.all().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
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
        let members = |few: &Few<i32>| few.iter().copied().collect::<Vec<_>>();
        for (member, so_far) in [(3, &[3][..]), (3, &[3]), (1, &[1, 3]), (2, &[1, 2, 3]), (1, &[1, 2, 3])] {
            few.insert(member);
            assert_eq!((members(&few), few.len()), (so_far.to_vec(), so_far.len()));
        }
        let removals = [
            (9, false, &[1, 2, 3][..]),
            (2, true, &[1, 3]),
            (1, true, &[3]),
            (3, true, &[]),
            (3, false, &[]),
        ];
        for (member, was_there, left) in removals {
            assert_eq!(few.remove(&member), was_there);
            assert_eq!(members(&few), left);
            assert_eq!((few.first(), few.last()), (left.first(), left.last()));
        }
        assert_eq!(few, Few::None);
        few.insert(5);
        assert!(!few.remove(&4) && few.contains(&5) && !few.is_empty());
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
