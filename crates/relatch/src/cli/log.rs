//! `relatch log`: the journals of all keepers as one, in the order of time, whether they run or not.
//!
//! Journals are read from their files. Running keepers are asked only where theirs lie, and for the entries of those
//! that keep them in memory alone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::{Timestamp, Zoned};
use relatch_admin::journal::{folder_in, read};
use relatch_admin::link::{KeeperLink, LogLine, all_keepers, status_of_all};
use relatch_admin::runtime::runtime_dir;
use relatch_admin::{Dated, Status};
use tokio::sync::mpsc;

use super::moment::{End, moment};
use super::{ask, serve};
use crate::exit;
use crate::render::log::Columns;
use crate::render::{self, Failure, Style};

/// Without `--since` the newest so many are shown.
const NEWEST: usize = 1_000;
/// How soon a new entry is seen, and how soon a keeper that has come.
const LOOK: Duration = Duration::from_millis(150);
const LOOKS_FOR_KEEPERS: u32 = 14;

/// What happened to each connection, and when
#[derive(Debug, Args)]
#[command(after_help = "Sessions lost and relatched, calls resent, held and given back. Reads what running \
keepers and keepers that are gone have written; a keeper need not run.

Examples:
  relatch log
  relatch log --since 14:00 --until 14:05    what happened at 14:02?
  relatch log gmail --since 10m
  relatch log --state-dir /srv/relatch       of a keeper that has this folder
  relatch log --follow --json")]
pub(crate) struct Arguments {
    /// Only what happened to this server [default: all]
    name: Option<String>,

    /// Go on with what happens from now on, at keepers that come later, too; ends with Ctrl-C
    #[arg(long, short)]
    follow: bool,

    /// Print a line of JSON for each entry
    #[arg(long)]
    json: bool,

    /// From then on: `10m` ago, `14:02`, `2026-11-25T14:02` or `2026-11-25` [default: the newest 1000]
    #[arg(long, value_name = "TIME", value_parser = from)]
    since: Option<Timestamp>,

    /// Until then, likewise; a day counts to its end
    #[arg(long, value_name = "TIME", value_parser = to, conflicts_with = "follow")]
    until: Option<Timestamp>,

    /// Where a keeper that is gone has kept its journal, if `relatch serve` was given this option
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

fn from(text: &str) -> Result<Timestamp, String> {
    moment(text, End::From, &Zoned::now())
}

fn to(text: &str) -> Result<Timestamp, String> {
    moment(text, End::To, &Zoned::now())
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    if let (Some(since), Some(until)) = (arguments.since, arguments.until)
        && until < since
    {
        return Err(Failure::usage("`--until` is before `--since`"));
    }
    let mut source = Source::new(&arguments);
    let mut past = source.read().await?;
    let status = source.look_for_keepers(&mut past).await?;
    if past.is_empty() && status.keepers.is_empty() && status.unanswered.is_empty() && !arguments.follow {
        return Err(ask::no_keeper());
    }
    known(&arguments, &past, &status)?;
    for keeper in &status.unanswered {
        render::say(&render::log::unanswered(&keeper.cause));
    }
    let oldest = past.iter().map(|entry| entry.at).min();
    past.retain(|entry| arguments.wants(entry));
    read::sort(&mut past);
    let older = if arguments.since.is_none() { past.len().saturating_sub(NEWEST) } else { 0 };
    if older > 0 {
        render::say(&render::log::older(older, NEWEST));
        past.drain(..older);
    }
    let quiet = past.is_empty() && !arguments.follow && !arguments.json;
    if let Some(oldest) = oldest.filter(|_| quiet) {
        render::say(&render::log::quiet(oldest, &Zoned::now()));
    }
    let mut columns = Columns::of(&past, &Zoned::now(), Style::stdout());
    if !arguments.print(&past, &columns) || !arguments.follow {
        return Ok(ExitCode::from(exit::DONE));
    }
    // Ends with Ctrl-C, or when nobody reads any more.
    for look in 1u32.. {
        tokio::time::sleep(LOOK).await;
        let mut new = source.read().await?;
        if look.is_multiple_of(LOOKS_FOR_KEEPERS) {
            source.look_for_keepers(&mut new).await?;
        }
        new.retain(|entry| arguments.wants(entry));
        read::sort(&mut new);
        columns = columns.and(&new, &Zoned::now());
        if !new.is_empty() && !arguments.print(&new, &columns) {
            break;
        }
    }
    Ok(ExitCode::from(exit::DONE))
}

impl Arguments {
    fn wants(&self, entry: &Dated) -> bool {
        self.name.as_ref().is_none_or(|name| *name == entry.upstream)
            && self.since.is_none_or(|since| entry.at >= since)
            && self.until.is_none_or(|until| entry.at < until)
    }

    /// `false` when nobody reads any more.
    fn print(&self, entries: &[Dated], columns: &Columns) -> bool {
        let line = |entry: &Dated| {
            if self.json {
                serde_json::to_string(entry).map(|line| line + "\n").unwrap_or_default()
            } else {
                columns.line(entry)
            }
        };
        render::out(&entries.iter().map(line).collect::<String>())
    }
}

/// A name that neither a keeper nor a journal knows is a mistake.
fn known(arguments: &Arguments, past: &[Dated], status: &Status) -> Result<(), Failure> {
    let Some(name) = &arguments.name else { return Ok(()) };
    let kept = status.keepers.iter().flat_map(|keeper| &keeper.servers).map(|server| server.name.as_str());
    let known: BTreeSet<&str> = kept.chain(past.iter().map(|entry| entry.upstream.as_str())).collect();
    let unsure = !status.unanswered.is_empty() || (known.is_empty() && arguments.follow);
    if unsure || known.contains(name.as_str()) {
        return Ok(());
    }
    Err(ask::unknown_among(name, &known))
}

/// Where entries come from.
struct Source {
    files: read::Reader,
    folders: BTreeSet<PathBuf>,
    /// Keepers that keep entries in memory only.
    followed: BTreeSet<u32>,
    sender: mpsc::Sender<LogLine>,
    coming: mpsc::Receiver<LogLine>,
    /// What came by a socket, since the beginning of it may be in a file.
    seen: BTreeSet<(Timestamp, u32, u64)>,
    follow: bool,
}

impl Source {
    fn new(arguments: &Arguments) -> Source {
        let (sender, coming) = mpsc::channel(256);
        let mut source = Source {
            files: read::Reader::default(),
            folders: BTreeSet::new(),
            followed: BTreeSet::new(),
            sender,
            coming,
            seen: BTreeSet::new(),
            follow: arguments.follow,
        };
        // Without a home there may still be keepers that say where their journals are.
        if let Ok(dir) = serve::state_dir(arguments.state_dir.clone()) {
            source.add(folder_in(&dir));
        }
        source
    }

    fn add(&mut self, folder: PathBuf) {
        if self.folders.insert(folder.clone()) {
            self.files.add(folder);
        }
    }

    /// What is new.
    async fn read(&mut self) -> Result<Vec<Dated>, Failure> {
        let mut entries = self
            .files
            .read()
            .map_err(|cause| Failure::new("A journal can't be read").cause(cause).exit(exit::REFUSED))?;
        while let Ok(line) = self.coming.try_recv() {
            match line {
                LogLine::Entry(entry) => entries.push(entry),
                LogLine::Missed(count) => render::say(&render::log::missed(count)),
            }
        }
        self.once(&mut entries);
        Ok(entries)
    }

    /// Leaves out what came by file and by socket.
    fn once(&mut self, entries: &mut Vec<Dated>) {
        let (followed, seen) = (&self.followed, &mut self.seen);
        entries
            .retain(|entry| !followed.contains(&entry.pid) || seen.insert((entry.at, entry.pid, entry.seq)));
    }

    /// Asks running keepers where their journals are; those without files are asked for the entries themselves.
    async fn look_for_keepers(&mut self, entries: &mut Vec<Dated>) -> Result<Status, Failure> {
        let dir = runtime_dir();
        let status = status_of_all(&dir).await.map_err(|cause| ask::unreadable(&dir, &cause))?;
        let mut in_memory = Vec::new();
        for keeper in &status.keepers {
            match &keeper.journal.dir {
                Some(folder) => self.add(PathBuf::from(folder)),
                None => in_memory.push(keeper.pid),
            }
            if keeper.journal.fault.is_some() {
                in_memory.push(keeper.pid);
            }
        }
        let new: Vec<u32> = in_memory.into_iter().filter(|pid| self.followed.insert(*pid)).collect();
        if !new.is_empty() {
            // From now on their entries are looked at twice.
            self.once(entries);
            let links = all_keepers(&dir).await.map_err(|cause| ask::unreadable(&dir, &cause))?;
            for keeper in links.into_iter().filter(|keeper| new.contains(&keeper.pid)) {
                entries.extend(self.ask(&keeper).await);
            }
        }
        entries.extend(self.read().await?);
        Ok(status)
    }

    /// What a keeper has in memory; what it adds comes by the channel.
    async fn ask(&mut self, keeper: &KeeperLink) -> Vec<Dated> {
        let mut entries = Vec::new();
        if let Ok(mut lines) = keeper.log(None, None, false).await {
            while let Ok(Some(line)) = lines.next().await {
                match line {
                    LogLine::Entry(entry) => entries.push(entry),
                    LogLine::Missed(_) => {}
                }
            }
        }
        self.once(&mut entries);
        if self.follow {
            let (keeper, sender) = (keeper.clone(), self.sender.clone());
            let from = entries.last().map(|entry| entry.at);
            tokio::spawn(async move {
                let Ok(mut lines) = keeper.log(None, from, true).await else { return };
                while let Ok(Some(line)) = lines.next().await {
                    if sender.send(line).await.is_err() {
                        return;
                    }
                }
            });
        }
        entries
    }
}
