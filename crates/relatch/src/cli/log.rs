//! `relatch log`: the journals of all keepers as one, in the order of their dates.

use std::process::ExitCode;

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use relatch_admin::Dated;
use relatch_admin::link::{KeeperLink, LinkError, LogLine};
use tokio::sync::mpsc;

use super::{ask, parse};
use crate::exit;
use crate::render::{self, Failure, Style};

/// What happened to each connection: lost, relatched, resent, held, given back
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relatch log
  relatch log gmail --since 10m
  relatch log --follow --json")]
pub(crate) struct Arguments {
    /// One server
    name: Option<String>,

    /// Go on with what happens from now on; ends with Ctrl-C
    #[arg(long, short)]
    follow: bool,

    /// Print a line of JSON for each entry
    #[arg(long)]
    json: bool,

    /// From then on: a span of time before now, such as `10m`, or a date, such as `2026-11-23T10:00:00Z`
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(date) = text.parse() {
        return Ok(date);
    }
    let ms = parse::duration(text)
        .map_err(|_| "expected a span such as `10m`, or a date such as `2026-11-23T10:00:00Z`".to_owned())?;
    let then = Timestamp::now().as_millisecond().saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX));
    Timestamp::from_millisecond(then).map_err(|cause| cause.to_string())
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    if let Some(name) = &arguments.name {
        let status = ask::status().await?;
        let known =
            status.keepers.iter().flat_map(|keeper| &keeper.servers).any(|server| server.name == *name);
        if !known && status.unanswered.is_empty() {
            return Err(ask::unknown_name(name, &status));
        }
    }
    let keepers = ask::keepers().await?;
    let writer = Writer { json: arguments.json, style: Style::stdout(), zone: TimeZone::system() };
    let mut past = Vec::new();
    let mut troubles = Vec::new();
    let began = Timestamp::now();
    for keeper in &keepers {
        match read_past(keeper, &arguments).await {
            Ok(entries) => past.extend(entries),
            Err(trouble) => troubles.push(trouble.to_string()),
        }
    }
    past.sort_by_key(|entry| entry.at);
    let text: String = past.iter().map(|entry| writer.entry(entry)).collect();
    if !render::out(&text) {
        return Ok(ExitCode::from(exit::DONE));
    }
    if !troubles.is_empty() {
        let mut failure = Failure::new("Not every keeper could be asked").exit(exit::NO);
        failure.causes = troubles;
        return Err(failure);
    }
    if arguments.follow {
        follow(keepers, &arguments, &past, began, &writer).await;
    }
    Ok(ExitCode::from(exit::DONE))
}

async fn read_past(keeper: &KeeperLink, arguments: &Arguments) -> Result<Vec<Dated>, LinkError> {
    let mut lines = keeper.log(arguments.name.as_deref(), arguments.since, false).await?;
    let mut entries = Vec::new();
    while let Some(line) = lines.next().await? {
        match line {
            LogLine::Entry(entry) => entries.push(entry),
            LogLine::Missed(_) => {}
        }
    }
    Ok(entries)
}

/// Prints what comes, until every keeper has ended or the reader is gone. It begins a little before `began`, so that
/// nothing falls between; what was printed already is left out.
async fn follow(
    keepers: Vec<KeeperLink>,
    arguments: &Arguments,
    printed: &[Dated],
    began: Timestamp,
    writer: &Writer,
) {
    let (sender, mut coming) = mpsc::channel(64);
    let from = printed.last().map_or(began, |entry| entry.at.max(arguments.since.unwrap_or(entry.at)));
    for keeper in keepers {
        let (sender, name) = (sender.clone(), arguments.name.clone());
        tokio::spawn(async move {
            let Ok(mut lines) = keeper.log(name.as_deref(), Some(from), true).await else { return };
            while let Ok(Some(line)) = lines.next().await {
                if sender.send(line).await.is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    while let Some(line) = coming.recv().await {
        let text = match line {
            LogLine::Entry(entry) if printed.contains(&entry) => continue,
            LogLine::Entry(entry) => writer.entry(&entry),
            LogLine::Missed(count) => {
                render::say(&render::log::missed(count));
                continue;
            }
        };
        if !render::out(&text) {
            return;
        }
    }
    render::say("Every keeper that was followed has ended\n");
}

struct Writer {
    json: bool,
    style: Style,
    zone: TimeZone,
}

impl Writer {
    fn entry(&self, entry: &Dated) -> String {
        if self.json {
            return serde_json::to_string(entry).map(|line| line + "\n").unwrap_or_default();
        }
        let today: Zoned = Timestamp::now().to_zoned(self.zone.clone());
        render::log::line(entry, &today, &self.zone, self.style)
    }
}
