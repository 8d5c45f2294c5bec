//! `relatch release`: takes relatch out of clients' configuration files again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::adopt::{Sheet, Which, agreed, code, now, places, secrets, store_failure, told};
use super::edit::tell_keepers;
use super::serve::state_dir;
use super::served::{leaving, leaving_reports, take_out};
use crate::adopt::clients::{Client, Places};
use crate::adopt::entry::{Change, Entry};
use crate::adopt::files::{self, FileFault, Loaded};
use crate::adopt::plan;
use crate::adopt::serve::Served;
use crate::adopt::store::{Record, Store, StoreFault};
use crate::adopt::undo::{self, Kept, Undoing};
use crate::exit;
use crate::render::adopt::{FileReport, Outcome, ServerReport};
use crate::render::{self, Failure, Style};

/// Take relatch out of your clients' configuration again
#[derive(Debug, Args)]
#[command(
    after_help = "Puts back what `relatch adopt` found, into the place of the entry only: whatever else was edited since \
stays. An entry that was itself edited since is shown and left alone, unless `--force` is given. Servers that only \
`adopt --via serve` has put into `relatch.toml` go out of it.

Exits with 1 when nothing was changed for want of a yes, or something could not be put back.

Examples:
  relatch release --dry-run
  relatch release --client cursor --server gmail
  relatch release --yes"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    which: Which,

    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(long)]
    yes: bool,

    /// Put back even what was edited since
    #[arg(long)]
    force: bool,

    /// Leave the servers in `relatch.toml` that `adopt --via serve` has put there
    #[arg(long)]
    keep_config: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    let places = places()?;
    let state = state_dir(None)?;
    let held = if arguments.dry_run { None } else { Some(Store::hold(&state).map_err(store_failure)?) };
    let mut store = match Store::look(&state) {
        Ok(store) => store,
        Err(fault) => {
            render::failure(
                &Failure::new("What was adopted is not known any more")
                    .cause(fault.to_string())
                    .hint("What follows is put together from the entries themselves; look at it closely"),
            );
            Store::lost(&state)
        }
    };
    let (sheets, mut reports) = arguments.which.sheets(&places, |_, _, _| ());
    arguments.which.all_found(&sheets, &reports)?;
    let mut work = Vec::new();
    for sheet in &sheets {
        let (report, changed) = prepared(sheet, &store, &places, arguments.force);
        if !report.servers.is_empty() || report.fault.is_some() {
            reports.push(report);
        }
        work.extend(changed.map(|changed| (sheet, changed)));
    }
    let going = |done: &[&Record]| if arguments.keep_config { Vec::new() } else { leaving(&store, done) };
    let meant = going(&work.iter().flat_map(|(_, changed)| &changed.done).collect::<Vec<_>>());
    reports.extend(leaving_reports(&meant, &places));
    let _ = render::out(&render::adopt::plan(&reports, Style::stdout()));
    if arguments.which.is_everything() {
        let looked: Vec<&Path> = sheets.iter().map(|sheet| sheet.loaded.target.as_path()).collect();
        let elsewhere: Vec<String> = store.files_but(&looked).iter().map(|file| places.shown(file)).collect();
        render::say(&render::adopt::elsewhere(&elsewhere));
    }
    let left = reports.iter().any(|report| {
        report.fault.is_some()
            || report
                .servers
                .iter()
                .any(|server| matches!(server.outcome, Outcome::Left(_) | Outcome::Edited { .. }))
    });
    let nothing_leaves = meant.iter().all(|one| one.stays.is_some());
    if work.iter().all(|(_, changed)| changed.text.is_none()) && nothing_leaves {
        if !arguments.dry_run {
            for (_, changed) in &work {
                store.change(Vec::new(), &changed.done).map_err(store_failure)?;
            }
        }
        render::say(&render::adopt::nothing(&reports, "release"));
        return Ok(code(&reports, left));
    }
    if arguments.dry_run {
        render::say("Nothing was changed: this was a rehearsal\n");
        return Ok(code(&reports, left));
    }
    if !agreed(arguments.yes, "release")? {
        return Ok(ExitCode::from(exit::NO));
    }
    let (mut done, mut released) = (Vec::new(), Vec::new());
    // What a file that fails goes on using stays where it is.
    let before = Store::look(&state).unwrap_or_else(|_| Store::lost(&state));
    for (sheet, changed) in work {
        let Some(text) = &changed.text else {
            store.change(Vec::new(), &changed.done).map_err(store_failure)?;
            released.extend(changed.done);
            continue;
        };
        let outcome = apply(sheet.client, &sheet.loaded, text, &state, &changed.done, &mut store);
        if outcome.is_ok() {
            released.extend(changed.done);
        }
        done.push((sheet.client, sheet.loaded.path.clone(), outcome));
    }
    let going = match arguments.keep_config {
        true => Vec::new(),
        false => leaving(&before, &released.iter().collect::<Vec<_>>()),
    };
    let (files, well) = take_out(&going);
    drop(held);
    let mut code = told(&done, &places, "released", left || !well);
    for file in files {
        code = code.max(tell_keepers(&file, "").await);
    }
    Ok(ExitCode::from(code))
}

/// The new text of a file, if it is another, and the records that are of no more use.
struct Changed {
    text: Option<String>,
    done: Vec<Record>,
}

fn apply(
    client: &Client,
    loaded: &Loaded,
    text: &str,
    state: &Path,
    done: &[Record],
    store: &mut Store,
) -> Result<PathBuf, FileFault> {
    let copy = files::back_up(&state.join("backups"), client.id, loaded, &now())?;
    files::write(loaded, text)?;
    let unkept = |fault: StoreFault| FileFault::Unusable(format!("it is released, but {fault}"));
    store.change(Vec::new(), done).map_err(unkept)?;
    Ok(copy)
}

/// What a file would become, and the report of it. Servers that relatch has nothing to do with are not in it.
fn prepared(sheet: &Sheet<()>, store: &Store, places: &Places, force: bool) -> (FileReport, Option<Changed>) {
    let text = &sheet.loaded.text;
    let mut report = FileReport::of(sheet.client.title, places.shown(&sheet.loaded.path));
    let mut done: Vec<Record> = Vec::new();
    let mut chosen: Vec<(&Entry, Vec<Change>)> = Vec::new();
    for (entry, ()) in &sheet.servers {
        let record = record_of(store, sheet, entry);
        let kept = record.map(|record| Kept {
            original: &record.original,
            written: &record.written,
            address: record.served.as_ref().map(Served::address),
        });
        let outcome = match undo::judge(sheet.client, text, entry, kept, force) {
            Undoing::NotAdopted => {
                // Put back by hand, or by another run.
                done.extend(record.cloned());
                continue;
            }
            Undoing::Restore(changes) => {
                done.extend(record.cloned());
                chosen.push((entry, changes));
                None
            }
            Undoing::Rebuild(changes, lost) => {
                chosen.push((entry, changes));
                Some(lost)
            }
            Undoing::Changed(original) => {
                let now = entry.written(text);
                let secrets = secrets(sheet.client, &[&now, &original]);
                let outcome = Outcome::Edited { original, now, secrets };
                report.servers.push(ServerReport {
                    name: entry.name.clone(),
                    project: entry.project.clone(),
                    outcome,
                });
                continue;
            }
            Undoing::Left(why) => {
                let outcome = Outcome::Left(why);
                report.servers.push(ServerReport {
                    name: entry.name.clone(),
                    project: entry.project.clone(),
                    outcome,
                });
                continue;
            }
        };
        report.servers.push(ServerReport {
            name: entry.name.clone(),
            project: entry.project.clone(),
            outcome: Outcome::Restored {
                before: entry.written(text),
                after: Vec::new(),
                rebuilt: outcome,
                secrets: Vec::new(),
            },
        });
    }
    if chosen.is_empty() {
        return (report, (!done.is_empty()).then_some(Changed { text: None, done }));
    }
    let changes: Vec<(&Entry, &[Change])> =
        chosen.iter().map(|(entry, changes)| (*entry, &changes[..])).collect();
    let carried = files::writable(&sheet.loaded).and_then(|()| {
        plan::carried_out(sheet.client, text, &changes, |entry| {
            // What was kept is trusted as it is; what was put together has to read as a server.
            chosen_kept(&chosen, store, sheet, entry) || undo::is_released(sheet.client, entry)
        })
        .map_err(FileFault::Unusable)
    });
    match carried {
        Ok((after, written)) => {
            let mut written = written.into_iter();
            for server in &mut report.servers {
                if let Outcome::Restored { before, after, secrets: hidden, .. } = &mut server.outcome {
                    *after = written.next().unwrap_or_default();
                    *hidden = secrets(sheet.client, &[before, after]);
                }
            }
            (report, Some(Changed { text: Some(after), done }))
        }
        Err(fault) => {
            report.fault = Some(fault.why().to_owned());
            report.refused = matches!(fault, FileFault::Refused(_));
            report.servers.clear();
            (report, None)
        }
    }
}

fn chosen_kept(chosen: &[(&Entry, Vec<Change>)], store: &Store, sheet: &Sheet<()>, entry: &Entry) -> bool {
    !plan::is_adopted(entry)
        && chosen
            .iter()
            .any(|(old, _)| old.place() == entry.place() && record_of(store, sheet, old).is_some())
}

/// What is kept of an entry: under its name, or as it was written under another, when it was renamed.
fn record_of<'a>(store: &'a Store, sheet: &Sheet<()>, entry: &Entry) -> Option<&'a Record> {
    let file = &sheet.loaded.target;
    store.of(file, entry).or_else(|| {
        let there = |record: &Record| {
            sheet.servers.iter().any(|(e, ())| e.name == record.server && e.project == record.project)
        };
        store
            .in_file(file)
            .find(|record| !there(record) && undo::is_as_written(entry, &sheet.loaded.text, &record.written))
    })
}
