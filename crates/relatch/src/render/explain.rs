//! The pages of codes, as text of a readable width.

/// Columns of a page's text.
const WIDTH: usize = 90;

/// One page: the code, then what is to be said of it.
pub(crate) fn page(code: &str, text: &str) -> String {
    format!("{code}\n\n  {}\n", wrapped(text, "  "))
}

/// Every code with the first sentence of its page.
pub(crate) fn list(pages: &[(&str, &str)]) -> String {
    let width = pages.iter().map(|(code, _)| code.len()).max().unwrap_or_default();
    let indent = " ".repeat(width + 2);
    let mut text = String::new();
    for (code, page) in pages {
        let first = page.split_inclusive(['.', ':', ';']).next().unwrap_or_default();
        let first = wrapped(first.trim_end_matches(['.', ':', ';']), &indent);
        text.push_str(&format!("{code:width$}  {first}\n"));
    }
    text
}

/// Broken between words; every line but the first begins with `indent`, which stands before the first already.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut column = indent.len();
    for (n, word) in text.split_whitespace().enumerate() {
        let long = word.chars().count();
        if n > 0 && column + 1 + long > WIDTH {
            lines.push('\n');
            lines.push_str(indent);
            column = indent.len();
        } else if n > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += long;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_broken_between_words() {
        let text = page("a-code", &"words and ".repeat(20));
        assert!(text.starts_with("a-code\n\n  words and words"), "{text}");
        assert!(text.lines().all(|line| line.len() <= WIDTH && !line.ends_with(' ')), "{text}");
    }

    #[test]
    fn the_list_has_a_line_for_each_code() {
        assert_eq!(
            list(&[("long-code", "It went. Then more."), ("short", "Gone: why.")]),
            "long-code  It went\nshort      Gone\n"
        );
    }
}
