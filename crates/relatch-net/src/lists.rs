//! Lists as one client last saw them, and the comparison with what the server has now.
//!
//! An item is its key and a digest. When lists are fetched, and what follows from a difference, is decided in the core.

use std::collections::BTreeMap;
use std::sync::Arc;

use relatch_core::input::Listed;
use relatch_core::shared::Shared;
use relatch_wire::lists::Page;
use relatch_wire::method::ListKind;

/// Names given in words for the journal; the rest is counted.
const NAMED: usize = 8;

/// What one client knows of its lists.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// Nothing, before it has asked for any. One for all clients that have seen the same.
    seen: Option<Arc<Listing>>,
    fetching: Option<Box<Fetching>>,
}

/// Pages that relatch has fetched, of lists that are not whole yet.
#[derive(Debug, Default)]
struct Fetching(BTreeMap<ListKind, Items>);

/// By the key of each item, its digest.
type Items = BTreeMap<String, u64>;

/// Lists, as far as somebody has seen them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    seen: BTreeMap<ListKind, Seen>,
    hints: BTreeMap<String, (bool, bool)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    items: Items,
    /// The client has seen the last page.
    whole: bool,
}

impl Lists {
    /// The lists of a record.
    pub(crate) fn restored(
        lists: &BTreeMap<String, BTreeMap<String, u64>>,
        hints: &BTreeMap<String, (bool, bool)>,
    ) -> Lists {
        let seen = lists.iter().filter_map(|(method, items)| {
            Some((ListKind::from_method(method)?, Seen { items: items.clone(), whole: true }))
        });
        let listing = Listing { seen: seen.collect(), hints: hints.clone() };
        let nothing = listing == Listing::default();
        Lists { seen: (!nothing).then(|| Arc::new(listing)), fetching: None }
    }

    /// From now on it is kept as one with those that are the same.
    pub(crate) fn share(&mut self, alike: &mut Shared<Listing>) {
        self.seen = self.seen.take().map(|seen| alike.of(seen));
    }

    /// What a record keeps, by the method that lists it.
    pub(crate) fn to_record(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let seen = self.seen.iter().flat_map(|listing| &listing.seen);
        seen.map(|(kind, seen)| (kind.method().to_owned(), seen.items.clone())).collect()
    }

    /// Tool to (read-only, idempotent).
    pub(crate) fn hints(&self) -> BTreeMap<String, (bool, bool)> {
        self.seen.as_ref().map(|listing| listing.hints.clone()).unwrap_or_default()
    }

    /// Kinds that the client has asked for.
    pub(crate) fn known(&self) -> Vec<ListKind> {
        self.seen.iter().flat_map(|listing| listing.seen.keys()).copied().collect()
    }

    /// Whether the server's list, as far as the client saw it, has an item of this key; `None` when it has not looked.
    pub(crate) fn has(&self, kind: ListKind, key: &str) -> Option<bool> {
        self.of(kind).map(|seen| seen.items.contains_key(key))
    }

    /// A page went to the client; the first one begins the list anew.
    pub(crate) fn passed(&mut self, kind: ListKind, first: bool, page: &Page) {
        let Listing { seen, hints } = Arc::make_mut(self.seen.get_or_insert_default());
        let seen = seen.entry(kind).or_default();
        if first {
            seen.items.clear();
            if kind == ListKind::Tools {
                hints.clear();
            }
        }
        add(&mut seen.items, page);
        seen.whole = page.next_cursor.is_none();
        hints.extend(
            page.hints.iter().map(|(tool, hints)| (tool.clone(), (hints.read_only, hints.idempotent))),
        );
    }

    /// A page has come that relatch itself asked for.
    pub(crate) fn fetched(&mut self, kind: ListKind, first: bool, page: &Page) -> Listed {
        let fetching = self.fetching.get_or_insert_default();
        let items = fetching.0.entry(kind).or_default();
        if first {
            items.clear();
        }
        add(items, page);
        if let Some(cursor) = &page.next_cursor {
            return Listed::More(cursor.clone());
        }
        let now = fetching.0.remove(&kind).unwrap_or_default();
        if fetching.0.is_empty() {
            self.fetching = None;
        }
        match self.of(kind).and_then(|seen| difference(seen, &now)) {
            None => Listed::Same,
            Some(words) => Listed::Differs(words),
        }
    }

    fn of(&self, kind: ListKind) -> Option<&Seen> {
        self.seen.as_ref()?.seen.get(&kind)
    }
}

fn add(items: &mut BTreeMap<String, u64>, page: &Page) {
    for (key, digest) in &page.items {
        // Items of one key count together, so that none of them can change unseen.
        items.entry(key.clone()).and_modify(|sum| *sum = sum.rotate_left(1) ^ digest).or_insert(*digest);
    }
}

/// In words: `+extra -old ~changed`.
fn difference(seen: &Seen, now: &BTreeMap<String, u64>) -> Option<String> {
    let added = now.keys().filter(|key| seen.whole && !seen.items.contains_key(*key)).map(|key| ('+', key));
    let gone = seen.items.keys().filter(|key| !now.contains_key(*key)).map(|key| ('-', key));
    let changed =
        seen.items.iter().filter(|(key, digest)| now.get(*key).is_some_and(|other| other != *digest));
    let all: Vec<_> = added.chain(gone).chain(changed.map(|(key, _)| ('~', key))).collect();
    if all.is_empty() {
        return None;
    }
    let mut words: Vec<String> =
        all.iter().take(NAMED).map(|(sign, key)| format!("{sign}{}", shortened(key))).collect();
    if all.len() > NAMED {
        words.push(format!("and {} more", all.len() - NAMED));
    }
    Some(words.join(" "))
}

fn shortened(key: &str) -> String {
    let mut words: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
    if words.len() < key.len() {
        words.push('…');
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(items: &[(&str, u64)], next: Option<&str>) -> Page {
        Page {
            items: items.iter().map(|(key, digest)| ((*key).to_owned(), *digest)).collect(),
            next_cursor: next.map(str::to_owned),
            hints: Vec::new(),
        }
    }

    #[test]
    fn a_list_is_compared_when_it_is_whole() {
        let mut lists = Lists::default();
        lists.passed(ListKind::Tools, true, &page(&[("a", 1)], Some("2")));
        lists.passed(ListKind::Tools, false, &page(&[("b", 2)], None));
        assert_eq!(
            lists.fetched(ListKind::Tools, true, &page(&[("b", 2)], Some("x"))),
            Listed::More("x".into())
        );
        assert_eq!(lists.fetched(ListKind::Tools, false, &page(&[("a", 1)], None)), Listed::Same);
        assert_eq!(
            lists.fetched(ListKind::Tools, true, &page(&[("b", 3), ("c", 1)], None)),
            Listed::Differs("+c -a ~b".into())
        );
        assert_eq!(lists.fetched(ListKind::Prompts, true, &page(&[("b", 3)], None)), Listed::Same);
    }

    #[test]
    fn of_a_list_half_seen_only_that_half_counts() {
        let mut lists = Lists::default();
        lists.passed(ListKind::Tools, true, &page(&[("a", 1)], Some("2")));
        assert_eq!(lists.fetched(ListKind::Tools, true, &page(&[("a", 1), ("b", 2)], None)), Listed::Same);
        assert_eq!(
            lists.fetched(ListKind::Tools, true, &page(&[("b", 2)], None)),
            Listed::Differs("-a".into())
        );
    }
}
