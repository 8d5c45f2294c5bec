//! Reads Codex' `config.toml`: every server's entry with the place of its keys and values. Writes nothing.
//!
//! A server is a table of its own, with further tables below it, or an inline table. Dotted keys are recognised and left
//! alone: their parts are spread over lines.

use std::ops::Range;

use toml_edit::{Document, InlineTable, Item, Key, Table, TableLike, Value as Node};

use super::entry::{Entry, Field, Language, Layout, Value};
use super::json::{place, whole};

const DOTTED: &str = "it is written with dotted keys";

/// The servers of a file.
///
/// # Errors
/// Where the text is not TOML, with line and column; or that `mcp_servers` is no table.
pub(crate) fn entries(text: &str) -> Result<Vec<Entry>, String> {
    let document = Document::parse(text).map_err(|fault| {
        let at = fault.span().map_or(0, |span| span.start);
        format!("{}: {}", place(text, at), fault.message().lines().next().unwrap_or_default())
    })?;
    let Some((key, item)) = document.as_table().get_key_value("mcp_servers") else { return Ok(Vec::new()) };
    let Some(servers) = item.as_table_like() else {
        return Err(format!("{}: `mcp_servers` is no table", place(text, span(key.span()).start)));
    };
    Ok(servers.iter().map(|(name, item)| entry(text, name, item)).collect())
}

fn entry(text: &str, name: &str, item: &Item) -> Entry {
    let mut regions = Vec::new();
    let mut fault = None;
    let (fields, layout) = match item {
        Item::Table(table) if !table.is_dotted() => {
            let fields = fields(text, table, &mut regions, &mut fault);
            let layout = layout_of(text, &fields);
            (fields, layout)
        }
        Item::Value(Node::InlineTable(table)) => {
            regions.push(span(table.span()));
            inline(text, table, &mut fault)
        }
        Item::Table(_) => {
            fault = Some(DOTTED);
            (Vec::new(), layout_of(text, &[]))
        }
        Item::None | Item::Value(_) | Item::ArrayOfTables(_) => {
            fault = Some("its entry is no table");
            (Vec::new(), layout_of(text, &[]))
        }
    };
    if regions.iter().any(Range::is_empty) {
        fault = Some("its tables are not where they can be told apart");
    }
    regions.sort_by_key(|at| at.start);
    Entry { name: name.to_owned(), project: None, fields, regions, layout, fault }
}

/// The keys of a table with a header, and of those below it; each is a stretch of the text.
fn fields(
    text: &str,
    table: &Table,
    regions: &mut Vec<Range<usize>>,
    fault: &mut Option<&'static str>,
) -> Vec<Field> {
    let mut fields = Vec::new();
    let header = span(table.span());
    let mut end = line_end(text, header.start);
    for (name, key, item) in keyed(table) {
        let key_at = span(key.span());
        let (value, value_at, whole) = match item {
            Item::Value(node) => {
                let value_at = span(node.span());
                end = end.max(value_at.end);
                (value(text, node, fault), value_at.clone(), line(text, key_at.start..value_at.end))
            }
            Item::Table(inner) if !inner.is_dotted() => {
                let before = regions.len();
                let inner_fields = self::fields(text, inner, regions, fault);
                let at = regions.get(before..).and_then(|own| own.last()).cloned().unwrap_or_default();
                let layout = layout_of(text, &inner_fields);
                (Value::Table(inner_fields, layout), at.clone(), at)
            }
            Item::Table(_) => {
                *fault = Some(DOTTED);
                continue;
            }
            Item::None | Item::ArrayOfTables(_) => {
                *fault = Some("it has an array of tables");
                continue;
            }
        };
        fields.push(Field { key: name.to_owned(), key_at, value, value_at, whole });
    }
    // A table that is only there through those below it has no header of its own.
    if !table.is_implicit() {
        regions.push(header.start..end);
    }
    fields
}

fn inline(text: &str, table: &InlineTable, fault: &mut Option<&'static str>) -> (Vec<Field>, Layout) {
    let spans: Vec<(Range<usize>, Range<usize>)> =
        keyed(table).map(|(_, key, item)| (span(key.span()), span(item.span()))).collect();
    let fields: Vec<Field> = keyed(table)
        .enumerate()
        .filter_map(|(at, (name, _, item))| {
            let Item::Value(node) = item else { return None };
            if matches!(node, Node::InlineTable(inner) if inner.is_dotted()) {
                *fault = Some(DOTTED);
            }
            let (key_at, value_at) = spans[at].clone();
            let before = at.checked_sub(1).map(|before| spans[before].1.end);
            let after = spans.get(at + 1).map(|(key, _)| key.start);
            Some(Field {
                key: name.to_owned(),
                whole: whole(text, before, key_at.start..value_at.end, after),
                value: value(text, node, fault),
                key_at,
                value_at,
            })
        })
        .collect();
    let equals = fields.first().map_or(" = ", |field| between(text, field));
    let layout = Layout { language: Language::Toml, between: ", ".to_owned(), equals: equals.to_owned() };
    (fields, layout)
}

fn value(text: &str, node: &Node, fault: &mut Option<&'static str>) -> Value {
    match node {
        Node::String(string) => Value::Text(string.value().clone()),
        Node::Boolean(flag) => Value::Flag(*flag.value()),
        Node::Array(array) => Value::List(array.iter().map(|node| value(text, node, fault)).collect()),
        Node::InlineTable(table) => {
            let (fields, layout) = inline(text, table, fault);
            Value::Table(fields, layout)
        }
        Node::Integer(_) | Node::Float(_) | Node::Datetime(_) => Value::Other,
    }
}

/// The keys as they are written, with their items.
fn keyed(table: &dyn TableLike) -> impl Iterator<Item = (&str, &Key, &Item)> {
    table.iter().filter_map(|(name, _)| table.get_key_value(name).map(|(key, item)| (name, key, item)))
}

/// Fields of a table stand on lines of their own, set in as the first one is.
fn layout_of(text: &str, fields: &[Field]) -> Layout {
    let first = fields
        .iter()
        .find(|field| !matches!(field.value, Value::Table(..)) || field.key_at.end <= field.value_at.start);
    let indent = first.map_or("", |field| {
        let before = &text[line_start(text, field.key_at.start)..field.key_at.start];
        if before.trim().is_empty() { before } else { "" }
    });
    let end = first.map_or(0, |field| line_end(text, field.value_at.end));
    let newline = if text[end..].starts_with("\r\n") { "\r\n" } else { "\n" };
    let equals = first.map_or(" = ", |field| between(text, field));
    Layout { language: Language::Toml, between: format!("{newline}{indent}"), equals: equals.to_owned() }
}

fn between<'a>(text: &'a str, field: &Field) -> &'a str {
    let gap = text.get(field.key_at.end..field.value_at.start).unwrap_or_default();
    if gap.trim() == "=" { gap } else { " = " }
}

/// The line of a field, where nothing else stands on it.
fn line(text: &str, own: Range<usize>) -> Range<usize> {
    let (start, end) = (line_start(text, own.start), line_end(text, own.end));
    let alone = text[start..own.start].trim().is_empty() && text[own.end..end].trim().is_empty();
    if !alone {
        return own;
    }
    let rest = &text[end..];
    let newline = if rest.starts_with("\r\n") { 2 } else { usize::from(rest.starts_with('\n')) };
    start..end + newline
}

fn line_start(text: &str, at: usize) -> usize {
    text[..at].rfind('\n').map_or(0, |newline| newline + 1)
}

/// Where the line break is, or the text ends.
fn line_end(text: &str, at: usize) -> usize {
    let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
    if text[at..end].ends_with('\r') { end - 1 } else { end }
}

fn span(span: Option<Range<usize>>) -> Range<usize> {
    span.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Entry> {
        entries(text).unwrap()
    }

    fn shown(text: &str, fields: &[Field], depth: usize) -> String {
        let mut out = String::new();
        for field in fields {
            let at = |at: &Range<usize>| text[at.clone()].replace('\n', "⏎");
            out.push_str(&format!("{:depth$}{} = {}\n", "", at(&field.key_at), at(&field.value_at)));
            if let Value::Table(inner, _) = &field.value {
                out.push_str(&shown(text, inner, depth + 2));
            }
        }
        out
    }

    #[test]
    fn every_key_and_value_is_where_it_stands() {
        let text = concat!(
            "model = \"x\" # m\n\n[mcp_servers.a] # c\nurl = \"h\" # u\nhttp_headers = { \"X-A\" = \"1\", B = '2' }\n\n",
            "[mcp_servers.a.tools.t]\napproval_mode = \"auto\"\n\n# next\n[mcp_servers.\"x y\".http_headers]\nK=\"v\"\n",
            "[mcp_servers.\"x y\"]\nurl='u'",
        );
        let found = read(text);
        assert_eq!(
            found[0].written(text),
            [
                "[mcp_servers.a] # c\nurl = \"h\" # u\nhttp_headers = { \"X-A\" = \"1\", B = '2' }",
                "[mcp_servers.a.tools.t]\napproval_mode = \"auto\""
            ]
        );
        assert_eq!(
            found[1].written(text),
            ["[mcp_servers.\"x y\".http_headers]\nK=\"v\"", "[mcp_servers.\"x y\"]\nurl='u'"]
        );
        assert_eq!(
            shown(text, &found[0].fields, 0),
            concat!(
                "url = \"h\"\nhttp_headers = { \"X-A\" = \"1\", B = '2' }\n  \"X-A\" = \"1\"\n  B = '2'\n",
                "tools = [mcp_servers.a.tools.t]⏎approval_mode = \"auto\"\n",
                "  t = [mcp_servers.a.tools.t]⏎approval_mode = \"auto\"\n    approval_mode = \"auto\"\n"
            )
        );
        assert!(found.iter().all(|entry| entry.fault.is_none()));
    }

    #[test]
    fn layout_and_line_breaks_are_those_of_the_table() {
        let text = "[mcp_servers.a]\r\n  url=\"h\"\r\n";
        let layout = read(text)[0].layout.clone();
        assert_eq!((layout.between.as_str(), layout.equals.as_str()), ("\r\n  ", "="));
        let text = "mcp_servers = { a = { url = \"h\", x = 1 } }";
        let entry = read(text).remove(0);
        assert_eq!(entry.written(text), ["{ url = \"h\", x = 1 }"]);
        assert_eq!(&text[entry.field("url").unwrap().whole.clone()], "url = \"h\", ");
    }

    #[test]
    fn what_is_wrong_or_can_not_be_edited_is_said() {
        let wrong = |text: &str| entries(text).unwrap_err();
        assert!(wrong("a = 1\nb = [1,\n").starts_with("line "), "{}", wrong("a = 1\nb = [1,\n"));
        assert!(wrong("a = 1\na = 2\n").starts_with("line 2, column 1: "), "{}", wrong("a = 1\na = 2\n"));
        assert_eq!(wrong("mcp_servers = 1"), "line 1, column 1: `mcp_servers` is no table");
        for (text, fault) in [
            ("[mcp_servers]\na.url = \"h\"\n", DOTTED),
            ("[mcp_servers.a]\nhttp_headers.B = \"h\"\n", DOTTED),
            ("[mcp_servers]\na = 1\n", "its entry is no table"),
            ("[[mcp_servers.a]]\nurl = \"h\"\n", "its entry is no table"),
        ] {
            assert_eq!(read(text)[0].fault, Some(fault), "{text}");
        }
        for empty in ["", "# nothing\n", "[mcp_servers]\n"] {
            assert_eq!(read(empty), []);
        }
    }
}
