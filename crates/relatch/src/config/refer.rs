//! Values that come from elsewhere: `${NAME}` from the environment, `${file:PATH}` from a file; `$${` is a plain `${`.
//!
//! What a value resolves to goes nowhere but into requests: [`Text`] shows itself with the references in place of it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::fault::{Fault, Place};
use crate::nearest::nearest;

/// What a configuration may ask the world for.
pub(crate) trait World {
    /// A variable of the environment.
    fn variable(&self, name: &str) -> Option<String>;
    /// The names of all variables, for suggestions.
    fn variables(&self) -> Vec<String>;
    /// The text of a file and whether others than its owner may read it; or why there is none, for people.
    fn file(&self, path: &Path) -> Result<(String, bool), String>;
}

/// A value with what it may be shown as.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// What it resolves to. Secret.
    pub(crate) value: String,
    /// Its pieces: what stands in the file, and what came from elsewhere.
    pub(crate) pieces: Vec<Piece>,
}

/// A stretch of a value.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    /// As it stands in the file.
    Plain(String),
    /// From elsewhere.
    From {
        /// The reference as it is written, such as `${GMAIL_TOKEN}`.
        written: String,
        /// Where it comes from, for people.
        origin: String,
        /// What it is. Secret.
        value: String,
    },
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.origins()).finish()
    }
}

impl Text {
    /// Where its pieces come from, where they come from elsewhere.
    pub(crate) fn origins(&self) -> Vec<&str> {
        self.pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::From { origin, .. } => Some(origin.as_str()),
                Piece::Plain(_) => None,
            })
            .collect()
    }

    /// Whether anything in it comes from elsewhere.
    pub(crate) fn refers(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::From { .. }))
    }

    /// The value as it may be shown where it is an address: from the path on, references stand for themselves.
    pub(crate) fn shown_address(&self) -> String {
        let path = self.value.find("://").map_or(0, |at| at + 3);
        let path = self.value[path..].find(['/', '?', '#']).map_or(self.value.len(), |at| path + at);
        let (mut shown, mut at) = (String::new(), 0);
        for piece in &self.pieces {
            match piece {
                Piece::Plain(text) => {
                    shown.push_str(text);
                    at += text.len();
                }
                Piece::From { written, value, .. } => {
                    let ends = at + value.len();
                    if at >= path {
                        shown.push_str(written);
                    } else if ends <= path {
                        shown.push_str(value);
                    } else {
                        // The host may be known; what follows it may not.
                        shown.push_str(&value[..path - at]);
                        shown.push('/');
                        shown.push_str(written);
                    }
                    at = ends;
                }
            }
        }
        let Some((head, query)) = shown.split_once('?') else { return shown };
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) if value.contains("${") => {
                    format!("{name}={}", veiled_but_references(value))
                }
                Some((name, _)) => format!("{name}=…"),
                None if pair.contains("${") => veiled_but_references(pair),
                None => "…".to_owned(),
            })
            .collect();
        format!("{head}?{}", pairs.join("&"))
    }

    /// The value as it may be shown where it is a secret: references, and what kind of credential it is.
    pub(crate) fn shown_secret(&self) -> String {
        let shown = self.pieces.iter().map(|piece| match piece {
            Piece::Plain(text) if matches!(text.trim_end(), "Bearer" | "Basic" | "Token" | "token") => {
                text.as_str()
            }
            Piece::Plain(text) if text.is_empty() => "",
            Piece::Plain(_) => "…",
            Piece::From { written, .. } => written.as_str(),
        });
        shown.collect()
    }
}

/// Resolves values of one file.
pub(crate) struct Resolver<'a> {
    pub(crate) world: &'a dyn World,
    /// The folder of the file.
    pub(crate) folder: &'a Path,
    /// Files that others may read, though their content is used as a secret.
    pub(crate) open: Vec<PathBuf>,
}

impl Resolver<'_> {
    /// Resolves `written`, which stands at `span` of `source`. With `look` false, references are read and not followed.
    pub(crate) fn text(
        &mut self,
        source: &str,
        span: &Range<usize>,
        written: &str,
        look: bool,
        faults: &mut Vec<Fault>,
    ) -> Option<Text> {
        let mut pieces = vec![Piece::Plain(String::new())];
        let mut whole = true;
        let mut rest = written;
        while let Some(at) = rest.find('$') {
            plain(&mut pieces, &rest[..at]);
            rest = &rest[at..];
            if rest.starts_with("$${") {
                plain(&mut pieces, "${");
                rest = &rest[3..];
            } else if let Some(inner) = rest.strip_prefix("${") {
                let place = || place_of(source, span, rest);
                let Some(end) = inner.find('}') else {
                    faults.push(Fault {
                        place: Some(place()),
                        what: "A `${` is not closed".to_owned(),
                        hint: Some(
                            "Write `${NAME}` or `${file:PATH}`; a plain `${` is written `$${`".to_owned(),
                        ),
                    });
                    return None;
                };
                let reference = &inner[..end];
                match self.follow(reference, look) {
                    Ok((origin, value)) => {
                        let written = format!("${{{reference}}}");
                        pieces.push(Piece::From { written, origin, value });
                        pieces.push(Piece::Plain(String::new()));
                    }
                    Err((what, hint)) => {
                        faults.push(Fault { place: Some(place()), what, hint: Some(hint) });
                        whole = false;
                    }
                }
                rest = &inner[end + 1..];
            } else {
                plain(&mut pieces, "$");
                rest = &rest[1..];
            }
        }
        plain(&mut pieces, rest);
        pieces.retain(|piece| !matches!(piece, Piece::Plain(text) if text.is_empty()));
        let value = pieces
            .iter()
            .map(|piece| match piece {
                Piece::Plain(text) => text.as_str(),
                Piece::From { value, .. } => value.as_str(),
            })
            .collect();
        whole.then_some(Text { value, pieces })
    }

    /// Where a reference leads, and what is there.
    fn follow(&mut self, reference: &str, look: bool) -> Result<(String, String), (String, String)> {
        if let Some(path) = reference.strip_prefix("file:") {
            if path.is_empty() {
                return Err((
                    "`${file:}` names no file".to_owned(),
                    "Write the path behind the colon, such as `${file:token.txt}`".to_owned(),
                ));
            }
            let full = within(self.folder, path, self.world);
            let origin = format!("file `{}`", full.display());
            if !look {
                return Ok((origin, String::new()));
            }
            let (text, open) = self.world.file(&full).map_err(|cause| {
                (
                    format!("`${{file:{path}}}`: `{}` {cause}", full.display()),
                    "Paths are relative to the configuration file".to_owned(),
                )
            })?;
            if open && !self.open.contains(&full) {
                self.open.push(full.clone());
            }
            let text =
                text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
            if text.is_empty() {
                return Err((
                    format!("`${{file:{path}}}`: `{}` is empty", full.display()),
                    "Write the value into the file".to_owned(),
                ));
            }
            return Ok((origin, text.to_owned()));
        }
        let named = reference.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && reference.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !named {
            return Err((
                "A `${…}` names neither a variable nor a file".to_owned(),
                "Write `${NAME}` or `${file:PATH}`; a plain `${` is written `$${`".to_owned(),
            ));
        }
        let origin = format!("`{reference}` of the environment");
        if !look {
            return Ok((origin, String::new()));
        }
        match self.world.variable(reference) {
            Some(value) if !value.is_empty() => Ok((origin, value)),
            Some(_) => Err((
                format!("The variable `{reference}` is empty"),
                format!("Set `{reference}` where relatch is started, or use `${{file:PATH}}`"),
            )),
            None => {
                let known = self.world.variables();
                let hint = match nearest(reference, known.iter().map(String::as_str)) {
                    Some(near) => format!("Did you mean `${{{near}}}`?"),
                    None => format!("Set `{reference}` where relatch is started, or use `${{file:PATH}}`"),
                };
                Err((format!("There is no variable `{reference}` in the environment"), hint))
            }
        }
    }
}

/// A path of the file: `~/` is the user's home, and a relative one is relative to the folder of the file.
pub(crate) fn within(folder: &Path, path: &str, world: &dyn World) -> PathBuf {
    match (path.strip_prefix("~/"), world.variable("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        (Some(_) | None, Some(_) | None) => folder.join(path),
    }
}

/// A value with `…` for everything between its references.
fn veiled_but_references(value: &str) -> String {
    let mut shown = String::new();
    let mut rest = value;
    while let Some(at) = rest.find("${") {
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end + 1);
        if at > 0 {
            shown.push('…');
        }
        shown.push_str(&rest[at..end]);
        rest = &rest[end..];
    }
    if !rest.is_empty() {
        shown.push('…');
    }
    shown
}

fn plain(pieces: &mut [Piece], text: &str) {
    if let Some(Piece::Plain(last)) = pieces.last_mut() {
        last.push_str(text);
    }
}

/// The place of the reference that `rest` begins with, where it is written as it is read.
fn place_of(source: &str, span: &Range<usize>, rest: &str) -> Place {
    let reference = &rest[..rest.find('}').map_or(2, |end| end + 1)];
    let value = source.get(span.clone()).unwrap_or_default();
    match value.find(reference) {
        Some(at) if !value[..at].contains('\n') => {
            Place::of(source, span.start + at..span.start + at + reference.len())
        }
        Some(at) => Place::anywhere(source, span.start + at..span.start + at + reference.len()),
        None => Place::of(source, span.clone()),
    }
}
