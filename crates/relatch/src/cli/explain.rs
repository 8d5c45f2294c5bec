//! `relatch explain`: the page of an error or condition code.

use std::process::ExitCode;

use clap::Args;
use relatch_admin::explain::pages;

use crate::exit;
use crate::nearest::nearest;
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
    match nearest(word, pages().map(|(code, _)| code)) {
        Some(code) => failure.hint(format!("The nearest is `{code}`: run `relatch explain {code}`")),
        None => failure.hint("Run `relatch explain` to see every code"),
    }
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
    }
}
