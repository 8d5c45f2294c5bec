//! `relatch explain`: the page of an error or condition code.

use std::process::ExitCode;

use clap::Args;
use relatch_admin::explain::pages;

use crate::exit;
use crate::render::{self, Failure};

/// What an error or condition code means, and what can be done
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relatch explain                              every code
  relatch explain delivery-unknown")]
pub(crate) struct Arguments {
    /// The code, as it stands in `data.relatch.code` or in `relatch status`
    code: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let text = match &arguments.code {
        None => render::explain::list(&pages().collect::<Vec<_>>()),
        Some(word) => match pages().find(|(code, _)| code == word) {
            Some((code, page)) => render::explain::page(code, page),
            None => return Err(unknown(word)),
        },
    };
    let _ = render::out(&text);
    Ok(ExitCode::from(exit::DONE))
}

fn unknown(word: &str) -> Failure {
    let failure = Failure::usage(format!("There is no code `{word}`"));
    let near = pages().map(|(code, _)| (distance(word, code), code)).min();
    match near {
        Some((distance, code)) if distance <= code.len() / 3 => {
            failure.hint(format!("The nearest is `{code}`: run `relatch explain {code}`"))
        }
        Some(_) | None => failure.hint("Run `relatch explain` to see every code"),
    }
}

/// How many characters have to be put in, taken out or changed; a foreign word is looked at only so far.
fn distance(word: &str, code: &str) -> usize {
    let word: Vec<char> = word.chars().take(64).flat_map(char::to_lowercase).collect();
    let mut above: Vec<usize> = (0..=word.len()).collect();
    for (row, expected) in code.chars().enumerate() {
        let mut corner = row;
        let mut left = row + 1;
        above[0] = left;
        for (column, found) in word.iter().enumerate() {
            let changed = corner + usize::from(*found != expected);
            corner = above[column + 1];
            left = changed.min(corner + 1).min(left + 1);
            above[column + 1] = left;
        }
    }
    above[word.len()]
}

#[cfg(test)]
mod tests {
    use relatch_wire::failure::Code;

    use super::*;

    #[test]
    fn every_error_has_a_page() {
        for code in Code::ALL {
            assert!(pages().any(|(word, page)| word == code.as_str() && page.ends_with('.')), "{code}");
        }
    }

    #[test]
    fn a_code_has_one_page() {
        let mut words: Vec<&str> = pages().map(|(code, _)| code).collect();
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all);
    }

    #[test]
    fn a_mistyped_code_is_answered_with_the_nearest() {
        for (typed, nearest) in [
            ("delivery-unknwon", "delivery-unknown"),
            ("upstreamdown", "upstream-down"),
            ("Not-MCP", "not-mcp"),
        ] {
            assert!(
                unknown(typed).hint.is_some_and(|hint| hint.contains(&format!("`{nearest}`"))),
                "{typed}"
            );
        }
        for typed in ["florist", "", &"x".repeat(10_000)] {
            assert!(unknown(typed).hint.is_some_and(|hint| hint.contains("every code")), "{typed}");
        }
        assert_eq!((distance("abc", "abc"), distance("", "abc"), distance("axc", "abc")), (0, 3, 1));
    }
}
