//! What `adopt` and `release` would change, as a diff of each entry. Values of headers and addresses with a key in them are
//! not shown.

use super::lines::{self, Line};
use super::{Style, Tint, clean};

/// One client's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileReport {
    title: String,
    file: String,
    /// Why it can't be used.
    pub(crate) fault: Option<String>,
    /// Whether that is for want of permission.
    pub(crate) refused: bool,
    pub(crate) servers: Vec<ServerReport>,
}

/// One server in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerReport {
    pub(crate) name: String,
    pub(crate) project: Option<String>,
    pub(crate) outcome: Outcome,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// relatch comes in front of it.
    Changed {
        before: Vec<String>,
        after: Vec<String>,
        secrets: Vec<String>,
    },
    /// relatch is taken out; from the entry alone, without these options, where nothing was kept.
    Restored {
        before: Vec<String>,
        after: Vec<String>,
        rebuilt: Option<Vec<String>>,
        secrets: Vec<String>,
    },
    /// It was edited since, so it stays.
    Edited {
        original: Vec<String>,
        now: Vec<String>,
        secrets: Vec<String>,
    },
    /// Nothing to do.
    Already,
    Left(String),
    /// It stays as it is, for a reason that can be mended.
    Refused(String),
}

impl FileReport {
    pub(crate) fn of(title: &str, file: String) -> FileReport {
        FileReport { title: title.to_owned(), file, fault: None, refused: false, servers: Vec::new() }
    }

    pub(crate) fn faulty(title: &str, file: String, why: &str, refused: bool) -> FileReport {
        FileReport { fault: Some(why.to_owned()), refused, ..FileReport::of(title, file) }
    }

    /// Whether not everything could be done that should be.
    pub(crate) fn is_faulty(&self) -> bool {
        let refused = |server: &ServerReport| matches!(server.outcome, Outcome::Refused(_));
        self.fault.is_some() || self.servers.iter().any(refused)
    }
}

/// Every file with its servers.
pub(crate) fn plan(reports: &[FileReport], style: Style) -> String {
    let mut text = String::new();
    for report in reports {
        if !text.is_empty() {
            text.push('\n');
        }
        let head = style.tint(Tint::Strong, &format!("{}  {}", clean(&report.title), clean(&report.file)));
        text.push_str(&format!("{head}\n"));
        if let Some(fault) = &report.fault {
            text.push_str(&format!("  {} {}\n", style.tint(Tint::Bad, "✗"), clean(fault)));
        }
        if report.servers.is_empty() && report.fault.is_none() {
            text.push_str("  no servers\n");
        }
        for server in &report.servers {
            text.push_str(&one(server, style));
        }
    }
    text
}

/// Why there is nothing to do.
pub(crate) fn nothing(reports: &[FileReport], verb: &str) -> String {
    let already = reports.iter().any(|r| r.servers.iter().any(|s| s.outcome == Outcome::Already));
    match verb {
        "release" => "Nothing to release\n".to_owned(),
        _ if reports.is_empty() => {
            "None of the clients that relatch knows has a file here\nhint: `relatch adopt --help` names them\n".to_owned()
        }
        _ if already => "Nothing to adopt: relatch is in front of what it can stand in front of\n".to_owned(),
        _ => "Nothing to adopt\n".to_owned(),
    }
}

/// Files that were adopted, and were not looked at now: those of projects, or of folders that have moved.
pub(crate) fn elsewhere(files: &[String]) -> String {
    if files.is_empty() {
        return String::new();
    }
    let mut text = "Adopted, and not looked at now:\n".to_owned();
    for file in files {
        text.push_str(&format!("  {}\n", clean(file)));
    }
    text.push_str(
        "hint: Files of a project are released by `relatch release --scope project` in its folder\n",
    );
    text
}

fn one(server: &ServerReport, style: Style) -> String {
    let name = match &server.project {
        Some(project) => format!("{} in {}", clean(&server.name), clean(project)),
        None => clean(&server.name).into_owned(),
    };
    match &server.outcome {
        Outcome::Already => format!("  {} {name}: relatch is in front of it\n", style.tint(Tint::Good, "✓")),
        Outcome::Left(why) => {
            format!("  {} {name}: left alone, {}\n", style.tint(Tint::Faint, "·"), clean(why))
        }
        Outcome::Refused(why) => {
            format!("  {} {name}: left alone, {}\n", style.tint(Tint::Bad, "✗"), clean(why))
        }
        Outcome::Changed { before, after, secrets } => {
            format!("  {name}\n{}", diff(before, after, secrets, style))
        }
        Outcome::Restored { before, after, rebuilt, secrets } => {
            let how = match rebuilt {
                None => String::new(),
                Some(lost) if lost.is_empty() => {
                    "; nothing was kept, so this is put together from the entry".to_owned()
                }
                Some(lost) => format!(
                    "; nothing was kept, so this is put together from the entry, without {}",
                    clean(&lost.join(", "))
                ),
            };
            format!("  {name}{how}\n{}", diff(before, after, secrets, style))
        }
        Outcome::Edited { original, now, secrets } => format!(
            "  {} {name}: left alone, it was edited since; `--force` puts back what is marked `+`\n{}",
            style.tint(Tint::Busy, "!"),
            diff(now, original, secrets, style)
        ),
    }
}

/// The lines of an entry, before and after.
fn diff(before: &[String], after: &[String], secrets: &[String], style: Style) -> String {
    let veil =
        |text: &str| secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "\"…\""));
    let joined = |regions: &[String]| {
        if regions.is_empty() {
            return String::new();
        }
        let regions: Vec<String> = regions.iter().map(|region| outdented(&veil(region))).collect();
        format!("{}\n", regions.join("\n"))
    };
    let (before, after) = (joined(before), joined(after));
    let mut text = String::new();
    for change in lines::compare(&before, &after) {
        let (sign, tint, line) = match change {
            Line::Gone(line) => ("-", Some(Tint::Bad), line),
            Line::New(line) => ("+", Some(Tint::Good), line),
            Line::Same(line) => (" ", None, line),
        };
        let line = line.trim_end_matches(['\r', '\n']).replace('\t', "  ");
        let line = format!("  {sign} {}", clean(&line));
        text.push_str(&tint.map_or(line.clone(), |tint| style.tint(tint, &line)));
        text.push('\n');
    }
    text
}

/// A stretch of a file without what sets all its lines but the first in.
fn outdented(text: &str) -> String {
    let blanks = |line: &str| line.len() - line.trim_start().len();
    let common = text.lines().skip(1).filter(|line| !line.trim().is_empty()).map(blanks).min().unwrap_or(0);
    let lines: Vec<&str> = text
        .lines()
        .enumerate()
        .map(|(at, line)| if at == 0 { line } else { line.get(common..).unwrap_or_default() })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: Outcome) -> FileReport {
        let server = ServerReport { name: "a\x1b[2J".into(), project: Some("/p".into()), outcome };
        FileReport { servers: vec![server], ..FileReport::of("Cursor", "~/.cursor/mcp.json".into()) }
    }

    #[test]
    fn a_change_is_shown_line_by_line_and_without_its_secret() {
        let text = plan(
            &[report(Outcome::Changed {
                before: vec![
                    "{\r\n\t\t\"url\": \"h\",\r\n\t\t\"headers\": {\"A\": \"s3cret\"}\r\n\t}".into(),
                ],
                after: vec!["{\r\n\t\t\"command\": \"r\",\r\n\t\t\"env\": {\"B\": \"s3cret\"}\r\n\t}".into()],
                secrets: vec!["\"s3cret\"".into()],
            })],
            Style::Plain,
        );
        let expected = [
            "Cursor  ~/.cursor/mcp.json",
            "  a [2J in /p",
            "    {",
            "  -   \"url\": \"h\",",
            "  -   \"headers\": {\"A\": \"…\"}",
            "  +   \"command\": \"r\",",
            "  +   \"env\": {\"B\": \"…\"}",
            "    }",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_was_put_together_or_edited_is_called_so() {
        let (before, after) = (vec!["{}".to_owned()], vec!["{ }".to_owned()]);
        for (outcome, said) in [
            (
                Outcome::Restored {
                    before: before.clone(),
                    after: after.clone(),
                    rebuilt: Some(vec!["--hold".into()]),
                    secrets: Vec::new(),
                },
                "in /p; nothing was kept, so this is put together from the entry, without --hold\n  - {}\n  + { }\n",
            ),
            (
                Outcome::Edited { original: after, now: before, secrets: Vec::new() },
                "in /p: left alone, it was edited since; `--force` puts back what is marked `+`\n  - {}\n  + { }\n",
            ),
        ] {
            let text = plan(&[report(outcome)], Style::Plain);
            assert!(text.ends_with(said), "{text}");
        }
    }
}
