//! What many have alike is kept once.
//!
//! A thousand sessions of one client with one server say the same of themselves. Decides only what is kept alike: the
//! values that were seen last and that somebody still holds.

use std::borrow::Borrow;
use std::sync::Arc;

/// So many different values are known; of more, some are kept several times.
const KNOWN: usize = 16;

/// The values of one kind that are in use.
#[derive(Debug)]
pub struct Shared<T: ?Sized>(Vec<Arc<T>>);

impl<T: ?Sized + PartialEq> Shared<T> {
    /// The value that is equal to this one and in use already, or else this one.
    pub fn of<V: Borrow<T> + Into<Arc<T>>>(&mut self, value: V) -> Arc<T> {
        if let Some(at) = self.0.iter().position(|known| **known == *value.borrow()) {
            // To the end: what goes first is what was not seen for longest.
            let known = self.0.remove(at);
            self.0.push(Arc::clone(&known));
            self.0.retain(|other| Arc::strong_count(other) > 1);
            return known;
        }
        // What nobody holds any more is let go with the next that comes.
        self.0.retain(|known| Arc::strong_count(known) > 1);
        if self.0.len() >= KNOWN {
            self.0.remove(0);
        }
        let value = value.into();
        self.0.push(Arc::clone(&value));
        value
    }
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Shared(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_others_are_not() {
        let mut shared = Shared::<str>::default();
        let (first, again, other) = (shared.of("a"), shared.of(String::from("a")), shared.of("b"));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!((&*other, Arc::strong_count(&first)), ("b", 3));
    }

    #[test]
    fn what_nobody_holds_is_let_go_and_what_is_known_is_bounded() {
        let mut shared = Shared::<str>::default();
        drop(shared.of("gone"));
        let held: Vec<_> = (0..3 * KNOWN).map(|n| shared.of(n.to_string())).collect();
        assert_eq!(shared.0.len(), KNOWN);
        assert!(shared.0.iter().all(|known| **known != *"gone"));
        assert!(held.iter().enumerate().all(|(n, value)| **value == *n.to_string()));
    }
}
