//! Makes unreadable what may be secret in a line of the file that is shown with a fault.
//!
//! Hides by rule and not by guess: the value of every key that is not known to be harmless, letter by letter, so that
//! columns stay. `${…}` stays: where a secret comes from is none.

use super::keys::KEYS;

/// Keys whose values may be shown as they are.
const PLAIN: [&str; 13] = [
    "tell",
    "copies",
    "listen",
    "state_dir",
    "no_token",
    "allow_host",
    "hold",
    "stateful",
    "gateway_errors",
    "transport",
    "cwd",
    "inherit_env",
    "shared",
];

/// What stands for a hidden letter.
const VEIL: char = '•';

/// What is known of the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// What stands before a `=` is a key.
    Entry,
    /// It may be the rest of a value that began above.
    Perhaps,
}

/// The line, as long as it was.
pub(crate) fn veiled(line: &str, sort: Sort) -> String {
    let trimmed = line.trim();
    if trimmed.starts_with('[') && trimmed.ends_with(']') && !trimmed.contains(['=', ',']) {
        return line.to_owned();
    }
    let Some((left, right)) = line.split_once('=') else {
        // The rest of something that began above.
        return hidden(line);
    };
    let key = left.trim().trim_matches(['"', '\'']);
    let last = key.rsplit('.').next().unwrap_or(key).trim();
    let known = || KEYS.iter().any(|known| known.name == last);
    if key.contains([':', ' ']) || (sort == Sort::Perhaps && !known()) {
        return format!("{}={}", hidden(left), hidden(right));
    }
    // Where a line break is missing, something else may follow.
    if PLAIN.contains(&key) && !right.contains('=') {
        return line.to_owned();
    }
    // In an inline table, more may follow.
    if sort == Sort::Entry && last == "url" && !right.contains(',') {
        return format!("{left}={}", address(right));
    }
    format!("{left}={}", hidden(right))
}

/// An address without user, password and the values of its query.
fn address(text: &str) -> String {
    let (head, query) = text.split_at(text.find(['?', '#', '=']).unwrap_or(text.len()));
    let head = match (head.find("//"), head.rfind('@')) {
        (Some(slashes), Some(at)) if slashes + 2 <= at => {
            format!("{}{}{}", &head[..slashes + 2], hidden(&head[slashes + 2..at]), &head[at..])
        }
        (None, Some(at)) => format!("{}{}", hidden(&head[..at]), &head[at..]),
        // What is no port may be a password that has lost its `@`.
        (Some(slashes), None) => {
            let begins = slashes + 2;
            let ends = head[begins..].find(['/', '"', '\'']).map_or(head.len(), |at| begins + at);
            match head[begins..ends].rfind(':') {
                Some(at) if !head[begins + at + 1..ends].bytes().all(|c| c.is_ascii_digit()) => {
                    let at = begins + at + 1;
                    format!("{}{}{}", &head[..at], hidden(&head[at..ends]), &head[ends..])
                }
                Some(_) | None => head.to_owned(),
            }
        }
        (Some(_) | None, Some(_) | None) => head.to_owned(),
    };
    let mut shown = head;
    let mut value = false;
    for (inside, piece) in pieces(query) {
        if inside {
            shown.push_str(piece);
            continue;
        }
        for letter in piece.chars() {
            match letter {
                '=' | '#' => value = true,
                '?' | '&' => value = false,
                _ => {}
            }
            let plain = !value || matches!(letter, '=' | '#' | '&' | '"' | '\'');
            shown.push(if plain { letter } else { VEIL });
        }
    }
    shown
}

/// Every letter and digit hidden, but `${…}` and names before a `=`.
fn hidden(text: &str) -> String {
    let mut shown = String::new();
    let mut quote: Option<char> = None;
    for (inside, piece) in pieces(text) {
        if inside {
            shown.push_str(piece);
            continue;
        }
        let mut letters = piece.char_indices();
        while let Some((at, letter)) = letters.next() {
            match (quote, letter) {
                (Some(open), _) if open == letter => {
                    quote = None;
                    shown.push(letter);
                }
                (Some(_), _) => shown.push(VEIL),
                (None, '"' | '\'') => {
                    quote = Some(letter);
                    shown.push(letter);
                }
                (None, _) if letter.is_alphanumeric() => {
                    let word: usize = piece[at..]
                        .chars()
                        .take_while(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
                        .map(char::len_utf8)
                        .sum();
                    let name = piece[at + word..].trim_start().starts_with('=');
                    let word = &piece[at..at + word];
                    shown.extend(word.chars().map(|c| if name { c } else { VEIL }));
                    for _ in word.chars().skip(1) {
                        letters.next();
                    }
                }
                (None, ' ' | '\t' | '{' | '}' | '[' | ']' | ',' | '=') => shown.push(letter),
                (None, _) => shown.push(VEIL),
            }
        }
    }
    shown
}

/// The text cut into references (`${…}`) and what is between them.
fn pieces(text: &str) -> Vec<(bool, &str)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let end = rest[at..].find('}').map_or(rest.len(), |end| at + end + 1);
        // Without its end, or with a quote in it, it is something else that is broken.
        let inner = rest[at + 2..end].strip_suffix('}').filter(|inner| !inner.contains(['"', '\'']));
        let named = inner.is_some_and(|inner| {
            inner.starts_with("file:") || inner.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        found.push((false, &rest[..at]));
        found.push((named, &rest[at..end]));
        rest = &rest[end..];
    }
    found.push((false, rest));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_hidden_and_columns_stay() {
        for (line, shown) in [
            ("hold = \"45\"", "hold = \"45\""),
            ("[server.gmail]", "[server.gmail]"),
            ("Authorization = \"Bearer x\"", "Authorization = \"••••••••\""),
            (
                "headers = { A = \"Bearer ${T}\", \"B\" = 12 }",
                "headers = { A = \"•••••••${T}\", \"•\" = •• }",
            ),
            ("Authorization = Bearer abc", "Authorization = •••••• •••"),
            ("Authorization = \"Bearer abc", "Authorization = \"••••••••••"),
            ("url = \"http://me:pw@h/mcp?key=abc&v\"", "url = \"http://•••••@h/mcp?key=•••&v\""),
            ("url = \"http://h/${KEY}?a=${B}c\"", "url = \"http://h/${KEY}?a=${B}•\""),
            ("urll = \"http://h/\"", "urll = \"•••••••••\""),
            ("  s3cret\"\"\"", "  ••••••\"\"\""),
        ] {
            assert_eq!(veiled(line, Sort::Entry), shown);
            assert_eq!(veiled(line, Sort::Perhaps).chars().count(), line.chars().count());
        }
        assert_eq!(veiled("s3cret = x", Sort::Perhaps), "•••••• = •");
        assert_eq!(veiled("hold = 45", Sort::Perhaps), "hold = 45");
    }
}
