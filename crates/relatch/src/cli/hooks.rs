//! The options that say who is told when health turns: `--on-change` and `--webhook`.

use clap::Args;

use crate::launch::HookSpec;
use crate::render::Failure;

#[derive(Debug, Args)]
#[command(next_help_heading = "Who is told")]
pub(crate) struct Hooks {
    /// Run a program when a server goes down, recovers or flaps, with the event as JSON on its stdin and in
    /// `RELATCH_…` variables; it is run without a shell
    #[arg(long, value_name = "CMD")]
    on_change: Option<String>,

    /// POST the same event as JSON to an address: https, or http on this machine
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
}

impl Hooks {
    pub(crate) fn spec(&self) -> Result<HookSpec, Failure> {
        let command = match &self.on_change {
            Some(text) => Some(words(text)?),
            None => None,
        };
        Ok(HookSpec { command, webhook: self.webhook.clone() })
    }
}

/// A program and its arguments, split at blanks; `'…'`, `"…"` and `\` keep them. Nothing else means anything.
pub(super) fn words(text: &str) -> Result<Vec<String>, Failure> {
    split(text).map_err(|cause| {
        Failure::usage("`--on-change` is no command")
            .cause(cause)
            .hint("Write it as `--on-change 'notify --title \"relatch says\"'`")
    })
}

/// The same; or why it is no command.
pub(crate) fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = letters.next().ok_or("it ends with `\\`")?;
                word.get_or_insert_default().push(next);
            }
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            (None | Some(_), _) => word.get_or_insert_default().push(letter),
        }
    }
    if let Some(open) = quote {
        return Err(format!("a `{open}` is not closed"));
    }
    words.extend(word);
    runnable(&words)?;
    Ok(words)
}

/// Whether a program can be run so; or why not.
pub(crate) fn runnable(words: &[String]) -> Result<(), String> {
    if words.first().is_none_or(String::is_empty) {
        return Err("it names no program".to_owned());
    }
    if words.iter().any(|word| word.contains('\0')) {
        return Err("it has a character that no argument can have".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_split_without_a_shell() {
        for (text, expected) in [
            ("notify", &["notify"][..]),
            ("  notify  -t   x ", &["notify", "-t", "x"]),
            (r#"n 'a b' "c \"d" e\ f '' g'h'i"#, &["n", "a b", "c \"d", "e f", "", "ghi"]),
            ("n $HOME;rm *|x>y", &["n", "$HOME;rm", "*|x>y"]),
            (r"'C:\x'", &[r"C:\x"]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
        for text in ["", "  ", "''", "a 'b", "a \"b", "a\\", "a\0b"] {
            assert_eq!(words(text).unwrap_err().exit, crate::exit::USAGE, "{text}");
        }
    }
}
