//! The files whose change starts the server again: which they are, and when they have changed.
//!
//! The system only says that something happened somewhere. What has changed is found by comparing two pictures of the tree,
//! so that editors that write beside a file and move it, folders that come and go, and a changed `.gitignore` are all the
//! same. Decides nothing about what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::mpsc as channel;
use std::time::{Duration, Instant, SystemTime};

use ignore::WalkBuilder;
use ignore::overrides::{Override, OverrideBuilder};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::render::Failure;

/// An editor that saves several files does so within this time of each other.
const QUIET: Duration = Duration::from_millis(100);
/// A tree that is never quiet is looked at this often.
const AT_LAST: Duration = Duration::from_millis(1_000);
/// How often it is looked at where the system does not tell.
const POLL: Duration = Duration::from_millis(1_000);
/// So many files are sources; more are something else.
const MOST: usize = 50_000;

/// Folders that hold what is made of sources.
const MADE: [&str; 5] = ["node_modules", "target", "__pycache__", "venv", "site-packages"];
/// Files that programs write while they run, and editors while they save.
const WRITTEN: [&str; 12] = [
    "*.log",
    "*.pyc",
    "*.pid",
    "*.sock",
    "*.db",
    "*.db-*",
    "*.sqlite*",
    "*.tmp",
    "*.swp",
    "*.swx",
    "*~",
    "4913",
];

/// Which files count.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    roots: Vec<PathBuf>,
    ignored: Override,
}

/// The files at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    files: BTreeMap<PathBuf, Stamp>,
    folders: BTreeSet<PathBuf>,
    /// There are more than are looked at.
    more: bool,
}

/// By what a file is seen to be another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// These files are other ones, new or gone.
    Changed(Vec<PathBuf>),
    /// The system does not tell of every change; why. From now on it is looked at each second.
    Looks(String),
}

impl Rules {
    /// Everything below `watch`, or below the working folder, but for what `ignore` names by globs as `.gitignore` has them.
    pub(crate) fn new(watch: &[PathBuf], ignore: &[String]) -> Result<Rules, Failure> {
        let here = std::env::current_dir()
            .map_err(|cause| Failure::new("The working folder can't be read").cause(cause))?;
        let mut roots = Vec::new();
        for path in watch {
            let place = here.join(path);
            if let Err(cause) = place.symlink_metadata() {
                return Err(Failure::usage(format!("There is no `{}` to watch", path.display()))
                    .cause(cause)
                    .hint("Give `--watch` a file or a folder that is there"));
            }
            // One file may be reached by a link; what changes is where it leads.
            roots.push(place.canonicalize().unwrap_or(place));
        }
        if roots.is_empty() {
            roots.push(here.canonicalize().unwrap_or_else(|_| here.clone()));
        }
        let mut builder = OverrideBuilder::new(here.canonicalize().unwrap_or(here));
        for glob in WRITTEN {
            let _ = builder.add(&format!("!{glob}"));
        }
        let wrong = |glob: &str, cause: ignore::Error| {
            Failure::usage(format!("`--ignore {glob}` is no pattern of files"))
                .cause(cause)
                .hint("Write it as in `.gitignore`, such as `--ignore 'dist/**'`")
        };
        for glob in ignore {
            builder.add(&format!("!{glob}")).map_err(|cause| wrong(glob, cause))?;
        }
        let ignored =
            builder.build().map_err(|cause| wrong(ignore.first().map_or("", String::as_str), cause))?;
        Ok(Rules { roots, ignored })
    }

    /// The paths that are watched.
    pub(crate) fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// Looks at all files now.
    pub(crate) fn picture(&self) -> Picture {
        let mut picture = Picture::default();
        let [first, others @ ..] = &self.roots[..] else { return picture };
        let mut walk = WalkBuilder::new(first);
        for root in others {
            walk.add(root);
        }
        walk.overrides(self.ignored.clone())
            .require_git(false)
            .filter_entry(|entry| entry.depth() == 0 || !is_made(entry.file_name()));
        for entry in walk.build().flatten() {
            let Ok(about) = std::fs::metadata(entry.path()) else { continue };
            if about.is_dir() {
                picture.folders.insert(entry.into_path());
            } else if about.is_file() {
                if entry.depth() == 0
                    && let Some(folder) = entry.path().parent()
                {
                    // Who saves a file may put another one in its place.
                    picture.folders.insert(folder.to_owned());
                }
                let stamp = Stamp { modified: about.modified().ok(), size: about.len() };
                picture.files.insert(entry.into_path(), stamp);
            }
            if picture.files.len() + picture.folders.len() > MOST {
                picture.more = true;
                break;
            }
        }
        picture
    }
}

impl Picture {
    /// That there are too many files to look at, if so.
    pub(crate) fn too_many(&self) -> Option<Failure> {
        self.more.then(|| {
            Failure::usage(format!("There are more than {MOST} files to watch"))
                .hint("Name what the server is made of with `--watch PATH`, or leave folders out with `--ignore GLOB`")
        })
    }

    /// How many files there are.
    pub(crate) fn count(&self) -> usize {
        self.files.len()
    }

    /// The files that are other ones in `later`, new there or gone.
    pub(crate) fn changed(&self, later: &Picture) -> Vec<PathBuf> {
        let gone = self.files.keys().filter(|path| !later.files.contains_key(*path));
        let other = later.files.iter().filter(|(path, stamp)| self.files.get(*path) != Some(stamp));
        let mut changed: Vec<PathBuf> = gone.chain(other.map(|(path, _)| path)).cloned().collect();
        changed.sort();
        changed
    }
}

fn is_made(name: &OsStr) -> bool {
    MADE.iter().any(|made| name == OsStr::new(made))
}

/// Watches from now on, on a thread of its own that ends with who listens.
///
/// # Errors
/// When nothing can be watched.
pub(crate) fn watch(rules: Rules, picture: Picture) -> Result<mpsc::Receiver<Told>, Failure> {
    let (out, told) = mpsc::channel(64);
    let (ring, rung) = channel::channel();
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // To look at a file is no change of it.
        let looks = event.as_ref().is_ok_and(|event| {
            matches!(event.kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
        });
        if !looks {
            let _ = ring.send(());
        }
    });
    let (watcher, why) = match watcher {
        Ok(watcher) => (Some(watcher), None),
        Err(cause) => (None, Some(cause.to_string())),
    };
    let mut looking = Looking { rules, picture, watcher, watched: BTreeSet::new(), polls: false, out };
    std::thread::Builder::new()
        .name("files".to_owned())
        .spawn(move || {
            if let Some(why) = why {
                looking.poll(why);
            }
            looking.follow();
            looking.run(&rung);
        })
        .map_err(|cause| Failure::new("Files can't be watched").cause(cause))?;
    Ok(told)
}

struct Looking {
    rules: Rules,
    picture: Picture,
    watcher: Option<notify::RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    polls: bool,
    out: mpsc::Sender<Told>,
}

impl Looking {
    fn run(&mut self, rung: &channel::Receiver<()>) {
        loop {
            let gone = self.rules.roots().iter().any(|root| !root.exists());
            let woken = if self.polls || gone {
                match rung.recv_timeout(POLL) {
                    Err(channel::RecvTimeoutError::Disconnected) if self.watcher.is_some() => return,
                    Err(channel::RecvTimeoutError::Disconnected) => {
                        std::thread::sleep(POLL);
                        false
                    }
                    Err(channel::RecvTimeoutError::Timeout) => false,
                    Ok(()) => true,
                }
            } else {
                match rung.recv_timeout(10 * POLL) {
                    Err(channel::RecvTimeoutError::Disconnected) => return,
                    Err(channel::RecvTimeoutError::Timeout) if self.out.is_closed() => return,
                    Err(channel::RecvTimeoutError::Timeout) => continue,
                    Ok(()) => true,
                }
            };
            if woken {
                settle(rung);
            }
            if self.out.is_closed() || !self.look() {
                return;
            }
        }
    }

    /// Tells what has changed. `false` when nobody listens any more.
    fn look(&mut self) -> bool {
        let before = self.picture.clone();
        self.picture = self.rules.picture();
        self.follow();
        let changed = before.changed(&self.picture);
        changed.is_empty() || self.out.blocking_send(Told::Changed(changed)).is_ok()
    }

    /// Has the system tell of each folder there is. What came into one before it was watched is seen by looking again.
    fn follow(&mut self) {
        for _ in 0..3 {
            let Some(watcher) = &mut self.watcher else { return };
            let new: Vec<PathBuf> = self.picture.folders.difference(&self.watched).cloned().collect();
            let old: Vec<PathBuf> = self.watched.difference(&self.picture.folders).cloned().collect();
            for folder in old {
                // One that is gone is not watched any more anyway.
                let _ = watcher.unwatch(&folder);
                self.watched.remove(&folder);
            }
            if new.is_empty() {
                return;
            }
            let mut fault = None;
            for folder in new {
                match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        self.watched.insert(folder);
                    }
                    Err(cause) if folder.exists() => fault = Some(cause.to_string()),
                    Err(_) => {}
                }
            }
            if let Some(why) = fault {
                self.poll(why);
                return;
            }
            let again = self.rules.picture();
            if again.folders == self.picture.folders {
                // Files that came meanwhile are told of with the next look, which this brings about.
                if again != self.picture {
                    self.tell_since(again);
                }
                return;
            }
            self.tell_since(again);
        }
    }

    fn tell_since(&mut self, later: Picture) {
        let changed = self.picture.changed(&later);
        self.picture = later;
        if !changed.is_empty() {
            let _ = self.out.blocking_send(Told::Changed(changed));
        }
    }

    fn poll(&mut self, why: String) {
        if !self.polls {
            self.polls = true;
            let _ = self.out.blocking_send(Told::Looks(why));
        }
    }
}

/// Waits until nothing more happens, within a bound.
fn settle(rung: &channel::Receiver<()>) {
    let began = Instant::now();
    while let Some(left) = AT_LAST.checked_sub(began.elapsed()) {
        if rung.recv_timeout(QUIET.min(left)).is_err() {
            return;
        }
    }
}

/// Files as they are said to somebody who works in this folder: the first of them, and how many more.
pub(crate) fn named(paths: &[PathBuf]) -> String {
    let here = std::env::current_dir().and_then(|here| here.canonicalize()).unwrap_or_default();
    let name = |path: &Path| path.strip_prefix(&here).unwrap_or(path).display().to_string();
    match paths {
        [] => "nothing".to_owned(),
        [one] => format!("`{}`", name(one)),
        [one, other] => format!("`{}` and `{}`", name(one), name(other)),
        [one, rest @ ..] => format!("`{}` and {} more", name(one), rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for file in [
            "server.py",
            "lib/tools.py",
            "lib/__pycache__/tools.cpython-313.pyc",
            "node_modules/a/index.js",
            ".git/HEAD",
            ".env",
            "out.log",
            "data.sqlite3",
            "target/debug/x",
            "dist/app.js",
            "docs/a.md",
            "server.py~",
        ] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "1").unwrap();
        }
        fs::write(root.join(".gitignore"), "dist\n").unwrap();
        (dir, root)
    }

    fn names(root: &Path, paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    fn rules(root: &Path, ignore: &[&str]) -> Rules {
        let ignore: Vec<String> = ignore.iter().map(|&glob| glob.to_owned()).collect();
        Rules::new(&[root.to_owned()], &ignore).unwrap()
    }

    #[test]
    fn what_is_made_hidden_or_ignored_does_not_count() {
        let (_dir, root) = tree();
        let files = |ignore: &[&str]| {
            let picture = rules(&root, ignore).picture();
            names(&root, &picture.files.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(files(&[]), ["docs/a.md", "lib/tools.py", "server.py"]);
        assert_eq!(files(&["*.md"]), ["lib/tools.py", "server.py"]);
        let one = Rules::new(&[root.join("server.py")], &[]).unwrap().picture();
        assert_eq!(
            (one.count(), one.folders.len()),
            (1, 1),
            "a file alone, and the folder where it is saved"
        );
    }

    #[test]
    fn a_path_that_is_not_there_and_a_glob_that_is_none_are_named() {
        let missing = Rules::new(&["no/such".into()], &[]).unwrap_err();
        assert_eq!(
            (missing.what.as_str(), missing.exit),
            ("There is no `no/such` to watch", crate::exit::USAGE)
        );
        let wrong = Rules::new(&[], &["[a".to_owned()]).unwrap_err();
        assert_eq!(wrong.what, "`--ignore [a` is no pattern of files");
    }

    #[test]
    fn two_pictures_tell_what_is_other_new_or_gone() {
        let (_dir, root) = tree();
        let rules = rules(&root, &[]);
        let before = rules.picture();
        assert_eq!(before.changed(&before), Vec::<PathBuf>::new());
        fs::write(root.join("server.py"), "other").unwrap();
        fs::write(root.join("lib/new.py"), "").unwrap();
        fs::remove_file(root.join("docs/a.md")).unwrap();
        fs::write(root.join("dist/app.js"), "other").unwrap();
        let changed = before.changed(&rules.picture());
        assert_eq!(names(&root, &changed), ["docs/a.md", "lib/new.py", "server.py"]);
    }

    #[tokio::test]
    async fn a_watch_tells_of_a_save_however_the_editor_makes_it() {
        let (_dir, root) = tree();
        let rules = rules(&root, &[]);
        let picture = rules.picture();
        let mut told = watch(rules, picture).unwrap();
        let mut heard = async |change: &dyn Fn()| {
            change();
            let told = tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap();
            match told.unwrap() {
                Told::Changed(paths) => names(&root, &paths),
                Told::Looks(why) => panic!("the system tells: {why}"),
            }
        };
        let place = root.join("server.py");
        assert_eq!(heard(&|| fs::write(&place, "in place").unwrap()).await, ["server.py"]);
        let moved = || {
            fs::write(root.join("server.py.tmp"), "written beside").unwrap();
            fs::rename(root.join("server.py.tmp"), &place).unwrap();
        };
        assert_eq!(heard(&moved).await, ["server.py"]);
        let folder = || {
            fs::write(root.join("out.log"), "not this").unwrap();
            fs::create_dir_all(root.join("new/deep")).unwrap();
            fs::write(root.join("new/deep/a.py"), "1").unwrap();
        };
        assert_eq!(heard(&folder).await, ["new/deep/a.py"]);
        // The folder that has come is watched, too.
        assert_eq!(heard(&|| fs::write(root.join("new/deep/a.py"), "22").unwrap()).await, ["new/deep/a.py"]);
        // What is not ignored any more has come.
        assert_eq!(heard(&|| fs::write(root.join(".gitignore"), "").unwrap()).await, ["dist/app.js"]);
    }

    #[test]
    fn files_are_said_shortly() {
        let paths: Vec<PathBuf> = ["/a/b.py", "/a/c.py", "/d"].iter().map(PathBuf::from).collect();
        assert_eq!(named(&paths[..1]), "`/a/b.py`");
        assert_eq!(named(&paths[..2]), "`/a/b.py` and `/a/c.py`");
        assert_eq!(named(&paths), "`/a/b.py` and 2 more");
    }
}
