//! A rehearsal as it is told: the timeline line by line, then the verdict.

use super::table::{Cell, Side, Table};
use super::{Style, Tint, clean};
use crate::drill::story::{Account, Line, Outcome, Told, Who};

/// The first lines.
pub(crate) fn opening(direct: bool, own: bool) -> String {
    let server =
        if own { "Your server is really restarted" } else { "A server is really killed and started again" };
    let way = if direct {
        "The client speaks to it without relatch"
    } else {
        "relatch stands between it and its client"
    };
    format!("{server}. {way}. Does the client notice?\n\n")
}

/// One piece of the story.
pub(crate) fn told(told: &Told<'_>, style: Style) -> String {
    match told {
        Told::Scene { number, title } => {
            format!("\n{}\n", style.tint(Tint::Strong, &format!("{number}  {title}")))
        }
        Told::Line(line) => timeline_line(line, style),
    }
}

fn timeline_line(line: &Line, style: Style) -> String {
    let time = format!("{:>3}.{:03} s", line.ms / 1_000, line.ms % 1_000);
    let who = format!("{:<7}", line.who.as_str());
    let who = match line.who {
        Who::Relatch => style.tint(Tint::Good, &who),
        Who::Server => style.tint(Tint::Busy, &who),
        Who::Client | Who::You => style.tint(Tint::Strong, &who),
    };
    format!("  {}  {who}  {}\n", style.tint(Tint::Faint, &time), clean(&line.text))
}

/// The table and the last word.
pub(crate) fn verdict(account: &Account, style: Style) -> String {
    let mut table = Table::new(&[
        ("", Side::Left),
        ("SCENE", Side::Left),
        ("THE CALL WAS", Side::Left),
        ("RAN", Side::Right),
        ("AFTER", Side::Right),
        ("", Side::Left),
    ]);
    for (n, scene) in account.scenes.iter().enumerate() {
        let (word, tint) = match scene.outcome {
            Outcome::Answered => ("✓ answered", Tint::Good),
            Outcome::ToldTheTruth => ("✓ told the truth", Tint::Good),
            Outcome::Lost => ("✗ LOST", Tint::Bad),
            Outcome::Skipped => ("– skipped", Tint::Faint),
        };
        let ran = scene.executions.map_or("–".to_owned(), |count| match count {
            0 => "never".to_owned(),
            1 => "once".to_owned(),
            more => format!("{more} TIMES"),
        });
        let after = scene.ms.map_or("–".to_owned(), |ms| format!("{ms} ms"));
        let note = match scene.outcome {
            Outcome::Answered => String::new(),
            Outcome::ToldTheTruth | Outcome::Lost | Outcome::Skipped => {
                clean(&scene.note).chars().take(90).collect()
            }
        };
        table.row(
            vec![
                Cell::new((n + 1).to_string()),
                Cell::new(scene.title),
                Cell::tinted(word, tint),
                Cell::new(ran),
                Cell::new(after),
                Cell::tinted(note, Tint::Faint),
            ],
            String::new(),
        );
    }
    format!("\n{}\n{}\n", table.render(style, "  "), last_word(account, style))
}

fn last_word(account: &Account, style: Style) -> String {
    let played = account.scenes.iter().filter(|scene| scene.outcome != Outcome::Skipped).count();
    let counted = account.scenes.iter().any(|scene| scene.executions.is_some());
    if account.ok {
        let twice = if counted { ", nothing ran twice" } else { "" };
        return style
            .tint(Tint::Good, &format!("Nothing was lost{twice}: the client did not have to notice"));
    }
    let mut parts = Vec::new();
    if account.lost > 0 {
        parts.push(format!("{} of {played} calls lost", account.lost));
    }
    if account.ran_twice > 0 {
        parts.push(format!("{} ran twice", account.ran_twice));
    }
    let mut text = style.tint(Tint::Bad, &parts.join(", "));
    if account.mode == "direct" {
        text.push_str("\nThis is what relatch is for: run `relatch drill` to see the same with it");
    }
    text
}
