//! Reads clients' JSON files: every server's entry with the place of its keys and values. Writes nothing.

use std::ops::Range;

use jsonc_parser::ast::{Object, ObjectProp, ObjectPropName, Value as Node};
use jsonc_parser::common::Ranged;
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};

use super::entry::{Entry, Field, Language, Layout, Value};

/// What a file may have beyond plain JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Plain,
    /// With comments and trailing commas.
    Comments,
}

/// The servers of a file. `tables` are the paths to the objects that hold them; a `*` stands for any key, which becomes the
/// project of the entries below it.
///
/// # Errors
/// Where the text is not JSON, with line and column; or that what holds the servers is no object or stands twice.
pub(crate) fn entries(text: &str, dialect: Dialect, tables: &[&[&str]]) -> Result<Vec<Entry>, String> {
    let collect = CollectOptions { comments: CommentCollectionStrategy::Off, tokens: false };
    let parsed = parse_to_ast(text, &collect, &options(dialect)).map_err(|fault| {
        format!(
            "line {}, column {}: {}",
            fault.line_display(),
            fault.column_display(),
            lower(&fault.kind().to_string())
        )
    })?;
    let root = match parsed.value {
        Some(Node::Object(root)) => root,
        // An empty file is what some clients start with.
        None => return Ok(Vec::new()),
        Some(_) => return Err("line 1, column 1: it is no JSON object".to_owned()),
    };
    let mut found = Vec::new();
    for path in tables {
        walk(text, &root, path, None, &mut found)?;
    }
    Ok(found)
}

/// The text without blanks and line breaks between its tokens; comments stay. Two of them are equal when a client has only
/// laid an entry out anew.
pub(crate) fn essence(text: &str) -> Option<Vec<String>> {
    let collect = CollectOptions { comments: CommentCollectionStrategy::AsTokens, tokens: true };
    let parsed = parse_to_ast(text, &collect, &options(Dialect::Comments)).ok()?;
    let tokens = parsed.tokens?;
    Some(tokens.iter().map(|token| token.text(text).trim_end().to_owned()).collect())
}

fn options(dialect: Dialect) -> ParseOptions {
    let lenient = dialect == Dialect::Comments;
    ParseOptions {
        allow_comments: lenient,
        allow_trailing_commas: lenient,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    }
}

fn walk(
    text: &str,
    object: &Object<'_>,
    path: &[&str],
    project: Option<&str>,
    found: &mut Vec<Entry>,
) -> Result<(), String> {
    let Some((step, rest)) = path.split_first() else {
        return servers(text, object, project, found);
    };
    if *step == "*" {
        for property in &object.properties {
            if let Node::Object(inner) = &property.value {
                walk(text, inner, rest, Some(name(property)), found)?;
            }
        }
        return Ok(());
    }
    let mut held = object.properties.iter().filter(|property| name(property) == *step);
    let Some(holder) = held.next() else { return Ok(()) };
    if let Some(second) = held.next() {
        return Err(format!("{}: `{step}` stands twice", place(text, second.start())));
    }
    match &holder.value {
        Node::Object(inner) => walk(text, inner, rest, project, found),
        Node::NullKeyword(_) => Ok(()),
        _ => Err(format!("{}: `{step}` is no object", place(text, holder.value.start()))),
    }
}

fn servers(
    text: &str,
    object: &Object<'_>,
    project: Option<&str>,
    found: &mut Vec<Entry>,
) -> Result<(), String> {
    for property in &object.properties {
        let server = name(property);
        let twice = object.properties.iter().filter(|other| name(other) == server).count() > 1;
        let (inner, fault) = match &property.value {
            Node::Object(inner) => (Some(inner), twice.then_some("its name stands twice in the file")),
            _ => (None, Some("its entry is no object")),
        };
        let fields = inner.map(|inner| fields(text, inner)).unwrap_or_default();
        found.push(Entry {
            name: server.to_owned(),
            project: project.map(str::to_owned),
            layout: inner.map_or_else(|| layout_of(text, 0..0, &[]), |i| layout_of(text, span(i), &fields)),
            fields,
            regions: vec![span(&property.value)],
            fault,
        });
    }
    Ok(())
}

fn fields(text: &str, object: &Object<'_>) -> Vec<Field> {
    let spans: Vec<(Range<usize>, Range<usize>)> =
        object.properties.iter().map(|p| (span(&p.name), span(&p.value))).collect();
    object
        .properties
        .iter()
        .enumerate()
        .map(|(at, property)| {
            let (key_at, value_at) = spans[at].clone();
            let before = at.checked_sub(1).map(|before| spans[before].1.end);
            let after = spans.get(at + 1).map(|(key, _)| key.start);
            Field {
                key: name(property).to_owned(),
                whole: whole(text, before, key_at.start..value_at.end, after),
                key_at,
                value: value(text, &property.value),
                value_at,
            }
        })
        .collect()
}

fn value(text: &str, node: &Node<'_>) -> Value {
    match node {
        Node::StringLit(string) => Value::Text(string.value.clone().into_owned()),
        Node::BooleanLit(flag) => Value::Flag(flag.value),
        Node::Object(object) => {
            let fields = fields(text, object);
            let layout = layout_of(text, span(object), &fields);
            Value::Table(fields, layout)
        }
        Node::Array(array) => Value::List(array.elements.iter().map(|node| value(text, node)).collect()),
        Node::NumberLit(_) | Node::NullKeyword(_) => Value::Other,
    }
}

/// A property with the comma that goes with it. A comment beside it stays.
pub(super) fn whole(
    text: &str,
    before: Option<usize>,
    own: Range<usize>,
    after: Option<usize>,
) -> Range<usize> {
    let plain = |gap: &str| gap.chars().all(|c| c.is_ascii_whitespace() || c == ',');
    match (before, after) {
        (_, Some(next)) if plain(&text[own.end..next]) => own.start..next,
        // With a trailing comma: the one before stays as the new trailing one.
        (_, None) if text[own.end..].trim_start().starts_with(',') => {
            own.start..own.end + text[own.end..].find(',').map_or(0, |at| at + 1)
        }
        (Some(last), None) if plain(&text[last..own.start]) => last..own.end,
        (_, Some(next)) => {
            let comma = text[own.end..next].find(',').map_or(own.end, |at| own.end + at + 1);
            // A comma behind a comment can't be taken without it; the parser saw one, so this holds for plain layouts only.
            if text[own.end..comma].contains(['/', '*']) { own } else { own.start..comma }
        }
        (Some(_) | None, None) => own,
    }
}

/// How the fields of an object are set off: as its first two are, or its only one from the brace.
fn layout_of(text: &str, object: Range<usize>, fields: &[Field]) -> Layout {
    let blank = |gap: &str| -> String {
        let start = gap.rfind(|c: char| !c.is_ascii_whitespace()).map_or(0, |at| at + 1);
        let gap = &gap[start..];
        // A comment on the line before ends with the line break that is kept here.
        gap.rfind('\n')
            .map_or(gap, |at| &gap[if gap[..at].ends_with('\r') { at - 1 } else { at }..])
            .to_owned()
    };
    let between = match fields {
        [first, second, ..] => blank(&text[first.value_at.end..second.key_at.start]),
        [only] => blank(&text[object.start + 1..only.key_at.start]),
        [] => String::new(),
    };
    let between = match fields {
        // `{ "a": 1 }` on one line: the blank behind the brace is none between fields.
        [_] if !between.contains('\n') => " ".to_owned(),
        _ => between,
    };
    let equals = fields.first().map_or(": ", |field| &text[field.key_at.end..field.value_at.start]);
    let equals = if equals.trim() == ":" { equals } else { ": " };
    Layout { language: Language::Json, between: format!(",{between}"), equals: equals.to_owned() }
}

fn name<'a>(property: &'a ObjectProp<'_>) -> &'a str {
    match &property.name {
        ObjectPropName::String(name) => &name.value,
        ObjectPropName::Word(name) => name.value,
    }
}

fn span(node: &impl Ranged) -> Range<usize> {
    node.start()..node.end()
}

/// Line and column of a place, from 1 on.
pub(super) fn place(text: &str, at: usize) -> String {
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Change, New, edited, edits};
    use super::*;

    const TABLES: &[&[&str]] = &[&["mcpServers"], &["projects", "*", "mcpServers"]];

    fn read(text: &str) -> Vec<Entry> {
        entries(text, Dialect::Comments, TABLES).unwrap()
    }

    fn fault(text: &str, dialect: Dialect) -> String {
        entries(text, dialect, TABLES).unwrap_err()
    }

    #[test]
    fn servers_are_found_with_the_project_they_belong_to() {
        let found = read(
            r#"{"mcpServers": {"a": {"url": "x"}, "b": 3}, "projects": {"/p": {"mcpServers": {"a": {}}}, "/q": {}}}"#,
        );
        let places: Vec<_> = found.iter().map(|entry| (entry.place(), entry.fault)).collect();
        assert_eq!(
            places,
            [((None, "a"), None), ((None, "b"), Some("its entry is no object")), ((Some("/p"), "a"), None)]
        );
        assert_eq!(found[0].text("url"), Some("x"));
        for empty in ["", "  \n", "{}", r#"{"mcpServers": {}}"#, r#"{"mcpServers": null}"#] {
            assert_eq!(read(empty), []);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        assert_eq!(
            fault("{\n  \"mcpServers\": {\n    \"a\": {,}\n}", Dialect::Plain),
            "line 3, column 11: unexpected token in object"
        );
        assert_eq!(fault("[]", Dialect::Plain), "line 1, column 1: it is no JSON object");
        assert_eq!(
            fault("{\"mcpServers\": 1}", Dialect::Plain),
            "line 1, column 16: `mcpServers` is no object"
        );
        assert_eq!(
            fault("{\"mcpServers\": {},\n \"mcpServers\": {}}", Dialect::Plain),
            "line 2, column 2: `mcpServers` stands twice"
        );
        assert!(fault("{} // x", Dialect::Plain).starts_with("line 1, column 4: comments"));
        assert!(fault("{\"a\": 1,}", Dialect::Plain).contains("trailing"));
        assert!(entries("{\"a\": 1,} // x", Dialect::Comments, TABLES).is_ok());
    }

    #[test]
    fn a_name_that_stands_twice_is_marked() {
        let found = read(r#"{"mcpServers": {"a": {}, "a": {}}}"#);
        assert!(found.iter().all(|entry| entry.fault == Some("its name stands twice in the file")));
    }

    #[test]
    fn fields_keep_the_layout_of_their_file() {
        for (text, between, equals) in [
            ("{\"mcpServers\":{\"a\":{\"x\":1,\"y\":2}}}", ",", ":"),
            ("{\"mcpServers\": {\"a\": { \"x\": 1, \"y\": 2 }}}", ", ", ": "),
            ("{\"mcpServers\": {\"a\": { \"x\": 1 }}}", ", ", ": "),
            ("{\"mcpServers\": {\"a\": {\r\n\t\t\"x\": 1\r\n}}}", ",\r\n\t\t", ": "),
            ("{\"mcpServers\": {\"a\": {\n  // c\n\n  \"x\" : 1, // d\n  \"y\": 2\n}}}", ",\n  ", " : "),
        ] {
            let layout = read(text)[0].layout.clone();
            assert_eq!((layout.between.as_str(), layout.equals.as_str()), (between, equals), "{text}");
        }
    }

    #[test]
    fn a_field_goes_with_its_comma_and_without_its_neighbours_comments() {
        for (entry, key, left) in [
            (r#"{"x": 1, "y": 2}"#, "x", r#"{"y": 2}"#),
            (r#"{"x": 1, "y": 2}"#, "y", r#"{"x": 1}"#),
            (r#"{"x": 1}"#, "x", "{}"),
            ("{\n  \"x\": 1, // c\n  \"y\": 2\n}", "x", "{\n   // c\n  \"y\": 2\n}"),
            ("{\n  \"x\": 1,\n  // c\n  \"y\": 2,\n}", "y", "{\n  \"x\": 1,\n  // c\n  \n}"),
        ] {
            let text = format!("{{\"mcpServers\": {{\"a\": {entry}}}}}");
            let entry = read(&text).remove(0);
            let change = Change::Remove(entry.field(key).unwrap().clone());
            let after = edited(&text, edits(&entry.layout, &[change]));
            let expected = format!("{{\"mcpServers\": {{\"a\": {left}}}}}");
            assert_eq!(after, expected);
            assert!(entries(&after, Dialect::Comments, TABLES).is_ok());
        }
    }

    #[test]
    fn a_change_touches_nothing_else() {
        let text = "{\n\t\"mcpServers\": {\n\t\t\"a\": {\n\t\t\t// why\n\t\t\t\"url\": \"h\", /* x */\n\t\t\t\"headers\": {\"K\": \"v\"},\n\t\t}\n\t}\n}";
        let entry = read(text).remove(0);
        let Value::Table(inner, _) = entry.field("headers").unwrap().value.clone() else { panic!("a table") };
        let changes = [
            Change::Replace(
                entry.field("url").unwrap().clone(),
                vec![
                    ("command".into(), New::Text("r".into())),
                    ("args".into(), New::List(vec!["a".into(), "b".into()])),
                ],
            ),
            Change::Rename(entry.field("headers").unwrap().key_at.clone(), "env".into()),
            Change::Rename(inner[0].key_at.clone(), "E".into()),
        ];
        assert_eq!(
            edited(text, edits(&entry.layout, &changes)),
            "{\n\t\"mcpServers\": {\n\t\t\"a\": {\n\t\t\t// why\n\t\t\t\"command\": \"r\",\n\t\t\t\"args\": [\"a\", \"b\"], /* x */\n\t\t\t\"env\": {\"E\": \"v\"},\n\t\t}\n\t}\n}"
        );
    }

    #[test]
    fn the_essence_of_a_text_is_blind_to_layout_and_sees_comments() {
        assert_eq!(essence("{\"a\":[1,\"b c\"]}"), essence("{\r\n  \"a\": [ 1, \"b c\" ]\n}"));
        assert_ne!(essence("{\"a\":1}"), essence("{\"a\":1 // x\n}"));
        assert_ne!(essence("{\"a\":\"b c\"}"), essence("{\"a\":\"bc\"}"));
        assert_eq!(essence("{"), None);
    }
}
