//! The pages of `tools/list` and its like, reduced to what a comparison needs.
//!
//! Each item becomes its key and a digest; the hints of tools are kept, because the retry class depends on them. When
//! lists are fetched and compared is decided elsewhere.

use crate::digest::digest_json;
use crate::json::{self, Elements};
use crate::method::ListKind;

/// The most items of one page that are read.
pub const MAX_ITEMS: usize = 100_000;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Each item's key (name, uri or uri template; empty if it has none) and digest, in the server's order.
    pub items: Vec<(String, u64)>,
    /// Where the next page begins, if there is one (server/utilities/pagination).
    pub next_cursor: Option<String>,
    /// The hints of each tool; empty for other lists.
    pub hints: Vec<(String, Hints)>,
}

/// What a tool says of itself (`ToolAnnotations` in the schema); both are false unless said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// `readOnlyHint`: it changes nothing.
    pub read_only: bool,
    /// `idempotentHint`: running it again with the same arguments changes nothing more.
    pub idempotent: bool,
}

/// Reads the raw `result` of a list request; `None` if it is no such page or has more than [`MAX_ITEMS`].
///
/// The digest of an item is over its canonical JSON, so the order of its members does not count.
pub fn items(result: &[u8], kind: ListKind) -> Option<Page> {
    let list = json::find(result, &[kind.items_member()])?;
    let mut elements = Elements::open(result, list.start, 0).ok()?;
    let mut page = Page { items: Vec::new(), next_cursor: None, hints: Vec::new() };
    while let Some(span) = elements.next().ok()? {
        if page.items.len() == MAX_ITEMS {
            return None;
        }
        let item = result.get(span)?;
        let key = json::find_text(item, &[kind.key_member()]).unwrap_or_default();
        if kind == ListKind::Tools {
            page.hints.push((key.clone(), hints(item)));
        }
        page.items.push((key, digest_json(item)?));
    }
    page.next_cursor = json::find_text(result, &["nextCursor"]);
    Some(page)
}

fn hints(tool: &[u8]) -> Hints {
    let hint =
        |name| json::find(tool, &["annotations", name]).and_then(|span| tool.get(span)) == Some(b"true");
    Hints { read_only: hint("readOnlyHint"), idempotent: hint("idempotentHint") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_tools_has_keys_digests_and_hints() {
        let page = items(
            br#"{"tools":[{"name":"a","annotations":{"readOnlyHint":true}},{"annotations":{"idempotentHint":true,"readOnlyHint":"true"},"name":"b"},{"name":"c"}],"nextCursor":"n"}"#,
            ListKind::Tools,
        )
        .unwrap();
        let keys: Vec<_> = page.items.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "b", "c"]);
        assert_eq!(page.next_cursor.as_deref(), Some("n"));
        assert_eq!(page.hints[0].1, Hints { read_only: true, idempotent: false });
        assert_eq!(page.hints[1].1, Hints { read_only: false, idempotent: true });
        assert_eq!(page.hints[2].1, Hints::default());
    }

    #[test]
    fn the_order_of_members_is_no_difference_but_a_value_is() {
        let one = items(br#"{"resources":[{"uri":"u","name":"n"}]}"#, ListKind::Resources).unwrap();
        let two = items(br#"{"resources":[ {"name":"n", "uri":"u"} ]}"#, ListKind::Resources).unwrap();
        let three = items(br#"{"resources":[{"uri":"u","name":"m"}]}"#, ListKind::Resources).unwrap();
        assert_eq!(one, two);
        assert_ne!(one, three);
        assert_eq!(one.items[0].0, "u");
        assert!(one.hints.is_empty());
    }

    #[test]
    fn what_is_no_page_is_none() {
        for text in ["", "{}", r#"{"tools":{}}"#, r#"{"tools":[}"#, r#"{"prompts":[]}"#] {
            assert_eq!(items(text.as_bytes(), ListKind::Tools), None, "{text}");
        }
    }
}
