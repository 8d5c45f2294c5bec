//! A server's entry in a client's file: its keys and values with their places, and changes to it as edits of the text.
//!
//! One shape for JSON and TOML. A change replaces, renames or removes single keys, so comments, order, layout and line
//! breaks of everything else stay as they are. Which changes are made, `plan` and `undo` decide.

use std::ops::Range;

/// One server in a client's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name that its client shows.
    pub(crate) name: String,
    /// The folder that it belongs to, where one file keeps servers of many projects.
    pub(crate) project: Option<String>,
    /// Its keys in their order.
    pub(crate) fields: Vec<Field>,
    /// The text that is its own, without its name: one stretch in JSON, one per table in TOML.
    pub(crate) regions: Vec<Range<usize>>,
    /// How a key is set off from the one before it.
    pub(crate) layout: Layout,
    /// Why it can't be edited safely.
    pub(crate) fault: Option<&'static str>,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) key: String,
    pub(crate) key_at: Range<usize>,
    pub(crate) value: Value,
    pub(crate) value_at: Range<usize>,
    /// What goes when the field is removed, with its comma or line break.
    pub(crate) whole: Range<usize>,
}

/// A value, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Flag(bool),
    List(Vec<Value>),
    Table(Vec<Field>, Layout),
    /// A number, a date, `null`.
    Other,
}

/// How an entry is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) language: Language,
    /// Between one field and the next, such as `,` with a line break and blanks.
    pub(crate) between: String,
    /// Between key and value, such as `: `.
    pub(crate) equals: String,
}

/// The language of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    Json,
    Toml,
}

/// A value that is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum New {
    Text(String),
    /// A value as it stands in the file already.
    Raw(String),
    List(Vec<String>),
    Table(Vec<(String, New)>),
}

/// One change to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The key gets another name.
    Rename(Range<usize>, String),
    /// Other fields stand in its place.
    Replace(Field, Vec<(String, New)>),
    /// The key stays, its value is another.
    Set(Field, New),
    Remove(Field),
    /// A first field in a table that has none.
    Insert(usize, (String, New)),
    /// A stretch goes.
    Cut(Range<usize>),
    /// The same inside a table of the entry.
    Within(Layout, Box<Change>),
}

/// One edit of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) at: Range<usize>,
    pub(crate) text: String,
}

impl Entry {
    pub(crate) fn field(&self, key: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.key == key)
    }

    /// The text of a key, where it is text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.field(key).map(|field| &field.value) {
            Some(Value::Text(text)) => Some(text),
            Some(Value::Flag(_) | Value::List(_) | Value::Table(..) | Value::Other) | None => None,
        }
    }

    /// Name and project, as one key of it among the others of its file.
    pub(crate) fn place(&self) -> (Option<&str>, &str) {
        (self.project.as_deref(), &self.name)
    }

    /// Its own text, stretch by stretch.
    pub(crate) fn written(&self, text: &str) -> Vec<String> {
        self.regions.iter().map(|at| text[at.clone()].to_owned()).collect()
    }

    /// A key that stands twice, in the entry or in a table of it: clients disagree about which one counts.
    pub(crate) fn repeated(&self) -> Option<&str> {
        fn twice(fields: &[Field]) -> Option<&str> {
            fields.iter().enumerate().find_map(|(at, field)| {
                if fields[..at].iter().any(|before| before.key == field.key) {
                    return Some(field.key.as_str());
                }
                match &field.value {
                    Value::Table(inner, _) => twice(inner),
                    Value::Text(_) | Value::Flag(_) | Value::List(_) | Value::Other => None,
                }
            })
        }
        twice(&self.fields)
    }
}

/// The changes to one entry as edits.
pub(crate) fn edits(layout: &Layout, changes: &[Change]) -> Vec<Edit> {
    changes.iter().flat_map(|change| edits_of(layout, change)).collect()
}

fn edits_of(layout: &Layout, change: &Change) -> Vec<Edit> {
    let one = |at: &Range<usize>, text: String| vec![Edit { at: at.clone(), text }];
    match change {
        Change::Rename(at, name) => one(at, key(layout.language, name)),
        Change::Replace(field, new) => {
            let Some(((name, first), rest)) = new.split_first() else { return Vec::new() };
            let mut text = value(layout, first);
            for (name, value) in rest {
                text.push_str(&layout.between);
                text.push_str(&pair(layout, name, value));
            }
            // What stands between key and value, a comment even, stays.
            [one(&field.key_at, key(layout.language, name)), one(&field.value_at, text)].concat()
        }
        Change::Set(field, new) => one(&field.value_at, value(layout, new)),
        Change::Remove(field) => one(&field.whole, String::new()),
        Change::Insert(at, (name, value)) => one(&(*at..*at), pair(layout, name, value)),
        Change::Cut(at) => one(at, String::new()),
        Change::Within(layout, change) => edits_of(layout, change),
    }
}

/// The text with its edits.
pub(crate) fn edited(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| edit.at.start);
    let mut out = String::with_capacity(text.len() + 256);
    let mut from = 0;
    for edit in &edits {
        // Edits that overlap leave a text that does not read as meant; whoever writes it looks first.
        out.push_str(text.get(from..edit.at.start).unwrap_or_default());
        out.push_str(&edit.text);
        from = from.max(edit.at.end);
    }
    out.push_str(&text[from..]);
    out
}

fn pair(layout: &Layout, name: &str, new: &New) -> String {
    format!("{}{}{}", key(layout.language, name), layout.equals, value(layout, new))
}

fn key(language: Language, name: &str) -> String {
    match language {
        Language::Json => string(name),
        Language::Toml => toml_edit::Key::new(name).to_string(),
    }
}

fn value(layout: &Layout, new: &New) -> String {
    let comma = if layout.between.trim_start_matches(',').is_empty() { "," } else { ", " };
    match new {
        New::Text(text) => string(text),
        New::Raw(raw) => raw.clone(),
        New::List(texts) => {
            let texts: Vec<String> = texts.iter().map(|text| string(text)).collect();
            format!("[{}]", texts.join(comma))
        }
        New::Table(pairs) => {
            let flat = Layout { between: comma.to_owned(), ..layout.clone() };
            let pairs: Vec<String> = pairs.iter().map(|(name, value)| pair(&flat, name, value)).collect();
            let blank = if comma == "," { "" } else { " " };
            format!("{{{blank}{}{blank}}}", pairs.join(comma))
        }
    }
}

/// A string of JSON. TOML's basic strings are the same but for the delete character.
fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(between: &str) -> Layout {
        Layout { language: Language::Json, between: between.into(), equals: ": ".into() }
    }

    #[test]
    fn values_are_written_as_tightly_as_the_file_is() {
        let new = New::Table(vec![("a".into(), New::List(vec!["b".into(), "c\"\u{7f}".into()]))]);
        assert_eq!(value(&layout(",\n  "), &new), r#"{ "a": ["b", "c\"\u007f"] }"#);
        let tight = Layout { equals: ":".into(), ..layout(",") };
        assert_eq!(value(&tight, &new), r#"{"a":["b","c\"\u007f"]}"#);
    }

    #[test]
    fn edits_leave_everything_else() {
        let edit = |at, text: &str| Edit { at, text: text.to_owned() };
        assert_eq!(edited("abcdef", vec![edit(4..5, "E"), edit(1..1, "-"), edit(2..3, "")]), "a-bdEf");
    }

    #[test]
    fn a_key_of_toml_is_quoted_where_it_must_be() {
        assert_eq!(key(Language::Toml, "env_vars"), "env_vars");
        assert_eq!(key(Language::Toml, "a b"), "\"a b\"");
        assert_eq!(key(Language::Json, "a b"), "\"a b\"");
    }
}
