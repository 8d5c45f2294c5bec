//! The journal on disk: one pair of files for each keeper that runs, written by one thread.
//!
//! Keepers on stdio come and go by the dozen and have one folder. Each takes the first *slot* that no living keeper
//! has, by a lock that the system drops with the process, however that ends: so no two processes write into one file,
//! nothing has to be agreed on, and the number of files is that of keepers that ever ran at the same time
//! ([`SLOTS`] at most). A slot that is taken over is gone on with; a last line that a crash has cut stays cut.
//!
//! A full disk or a folder that can't be written costs the files and nothing else: one warning, a fault in the status,
//! and another try now and then.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Dated, KEPT, read};
use crate::runtime::private_dir;
use crate::schema::{JournalStatus, KeeperKind};

/// Keepers of one kind that write to one folder at the same time.
pub const SLOTS: usize = 64;
/// Entries on their way to the disk; what comes beyond is missing in the file.
const QUEUE: usize = 4_096;
/// Entries that are written at once.
const BATCH: usize = 256;
/// After a failure the disk is left alone for so long.
const AGAIN: Duration = Duration::from_secs(30);

/// Where a keeper's journal goes on.
#[derive(Clone, Debug)]
pub struct JournalFolder {
    dir: PathBuf,
    kind: KeeperKind,
    limit: u64,
}

impl JournalFolder {
    /// The files of a keeper of this kind in `dir`, which is made where it is missing. Each has two files of at most
    /// 1 MiB (`serve`) or 256 KiB (`stdio`).
    #[must_use]
    pub fn new(dir: PathBuf, kind: KeeperKind) -> JournalFolder {
        let limit = match kind {
            KeeperKind::Serve => 1024 * 1024,
            KeeperKind::Stdio => 256 * 1024,
        };
        JournalFolder { dir, kind, limit }
    }

    /// The same with files of so many bytes.
    #[must_use]
    pub fn limit(self, limit: u64) -> JournalFolder {
        JournalFolder { limit, ..self }
    }
}

/// The thread that writes, and what is known of it.
#[derive(Debug)]
pub(super) struct Writer {
    orders: SyncSender<Order>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    dir: PathBuf,
    fault: Mutex<Option<String>>,
    missing: AtomicU64,
}

enum Order {
    Line(Arc<Dated>),
    Flush(SyncSender<()>),
}

impl Writer {
    /// Starts the thread; `past` gets what this slot's files hold already, where the kind goes on with it.
    pub(super) fn start(folder: JournalFolder, past: impl FnOnce(Vec<Dated>) + Send + 'static) -> Writer {
        let (orders, coming) = sync_channel(QUEUE);
        let state =
            Arc::new(State { dir: folder.dir.clone(), fault: Mutex::new(None), missing: AtomicU64::new(0) });
        let of = Arc::clone(&state);
        let started = std::thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || write_on(&folder, &coming, &of, past));
        if let Err(cause) = started {
            state.fails(&cause);
        }
        Writer { orders, state }
    }

    pub(super) fn write(&self, entry: Arc<Dated>) {
        match self.orders.try_send(Order::Line(entry)) {
            Ok(()) => {}
            // The disk hangs, or the thread could not be started.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.state.missing.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn flush(&self, within: Duration) {
        let (done, written) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            let _ = written.recv_timeout(within);
        }
    }

    pub(super) fn status(&self) -> JournalStatus {
        let fault = self.state.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let missing = self.state.missing.load(Ordering::Relaxed);
        let fault = match (fault, missing) {
            (fault, 0) => fault,
            (Some(fault), missing) => Some(format!("{fault}; {missing} entries are in memory only")),
            (None, missing) => Some(format!("{missing} entries are missing in the file")),
        };
        JournalStatus { dir: Some(self.state.dir.display().to_string()), fault }
    }
}

impl State {
    /// The first of several failures is worth a warning.
    fn fails(&self, cause: &io::Error) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.is_none() {
            tracing::warn!(%cause, dir = %self.dir.display(), "the journal goes on in memory only");
        }
        *fault = Some(cause.to_string());
    }

    fn mended(&self) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.take().is_some() {
            tracing::info!(dir = %self.dir.display(), "the journal is written again");
        }
    }
}

/// The thread: opens a slot, writes what comes until nobody can send any more.
fn write_on(folder: &JournalFolder, coming: &Receiver<Order>, state: &State, past: impl FnOnce(Vec<Dated>)) {
    let mut past = Some(past);
    let mut slot = None;
    let mut again: Option<Instant> = None;
    let mut open = |slot: &mut Option<Slot>, again: &mut Option<Instant>| match Slot::take(folder) {
        Ok(taken) => {
            if let Some(past) = past.take()
                && folder.kind == KeeperKind::Serve
            {
                let mut entries = read::entries_of(&[taken.set_aside(), taken.path.clone()]);
                entries.drain(..entries.len().saturating_sub(KEPT));
                past(entries);
            }
            *slot = Some(taken);
            *again = None;
            state.mended();
        }
        Err(cause) => {
            state.fails(&cause);
            *again = Some(Instant::now() + AGAIN);
        }
    };
    open(&mut slot, &mut again);
    loop {
        let first = match coming.recv_timeout(AGAIN) {
            Ok(order) => Some(order),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut lines = Vec::new();
        let mut flushes = Vec::new();
        for order in first.into_iter().chain(std::iter::from_fn(|| coming.try_recv().ok()).take(BATCH)) {
            match order {
                Order::Line(entry) => lines.push(entry),
                Order::Flush(done) => flushes.push(done),
            }
        }
        if again.is_some_and(|at| at <= Instant::now()) {
            again = None;
            // Whether a slot can be written shows when something is.
            if slot.is_none() {
                open(&mut slot, &mut again);
            }
        }
        match &mut slot {
            Some(slot) if again.is_none() => {
                let mut left = lines.len() as u64;
                let written = lines.iter().try_for_each(|line| {
                    slot.append(line)?;
                    left -= 1;
                    Ok(())
                });
                match written {
                    Ok(()) if !lines.is_empty() => state.mended(),
                    Ok(()) => {}
                    Err(cause) => {
                        state.fails(&cause);
                        state.missing.fetch_add(left, Ordering::Relaxed);
                        again = Some(Instant::now() + AGAIN);
                    }
                }
            }
            Some(_) | None => {
                state.missing.fetch_add(lines.len() as u64, Ordering::Relaxed);
            }
        }
        for done in flushes {
            let _ = done.try_send(());
        }
    }
}

/// A pair of files that nobody else writes while this lives.
#[derive(Debug)]
struct Slot {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
    /// The file does not end with a whole line.
    torn: bool,
    _lock: File,
}

impl Slot {
    /// The first one that is free.
    fn take(folder: &JournalFolder) -> io::Result<Slot> {
        private_dir(&folder.dir)?;
        for number in 0..SLOTS {
            let name = format!("{}-{number}", folder.kind.as_str());
            let lock = private(&folder.dir.join(format!("{name}.lock")), OpenOptions::new().write(true))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(cause)) => return Err(cause),
            }
            let path = folder.dir.join(format!("{name}.jsonl"));
            let (file, bytes, torn) = begin(&path)?;
            return Ok(Slot { path, file, bytes, limit: folder.limit, torn, _lock: lock });
        }
        Err(io::Error::other(format!("{SLOTS} keepers write to `{}` already", folder.dir.display())))
    }

    fn set_aside(&self) -> PathBuf {
        self.path.with_extension("old.jsonl")
    }

    fn append(&mut self, entry: &Dated) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let length = line.len() as u64;
        if self.bytes > 0 && self.bytes + length > self.limit {
            std::fs::rename(&self.path, self.set_aside())?;
            (self.file, self.bytes, self.torn) = begin(&self.path)?;
        }
        if self.torn {
            line.insert(0, b'\n');
        }
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// Opens a file for appending: itself, its length, and whether its last line is cut.
fn begin(path: &Path) -> io::Result<(File, u64, bool)> {
    let mut file = private(path, OpenOptions::new().read(true).append(true))?;
    let bytes = file.metadata()?.len();
    let mut last = [b'\n'];
    if bytes > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    Ok((file, bytes, last != *b"\n"))
}

fn private(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.create(true).mode(0o600).open(path)?;
    let found = file.metadata()?;
    // What a link may lead to elsewhere, a device among it, is not ours to change.
    if found.is_file() && found.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use relatch_core::journal::{Entry, What};

    use super::super::Journal;
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn entry(detail: &str) -> Entry {
        Entry { detail: Some(detail.to_owned()), ..Entry::new(What::Relatched) }
    }

    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn folder(dir: &Path, kind: KeeperKind) -> JournalFolder {
        JournalFolder::new(dir.join("journal"), kind)
    }

    /// What anybody reads from the folder.
    fn found(dir: &Path) -> Vec<String> {
        let mut reader = read::Reader::default();
        reader.add(dir.join("journal"));
        reader.read().unwrap().into_iter().filter_map(|dated| dated.entry.detail).collect()
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_journal_goes_on_after_a_restart_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::in_folder(folder(dir.path(), KeeperKind::Serve));
        journal.record(at(1), "gmail", entry("before"));
        journal.flush(SOON);
        drop(journal);
        let path = dir.path().join("journal/serve-0.jsonl");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        // A line of a newer version, and one that a crash has cut.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(
            b"{\"at\":\"2030-01-01T00:00:00Z\",\"upstream\":\"x\",\"what\":\"later\"}\n{\"at\":\"20",
        )
        .unwrap();
        let journal = taken_over(dir.path());
        journal.record(at(2), "gmail", entry("after"));
        journal.flush(SOON);
        let kept = journal.since(None);
        let kept: Vec<_> = kept.iter().filter_map(|dated| dated.entry.detail.as_deref()).collect();
        assert_eq!(kept, ["before", "after"]);
        assert_eq!(found(dir.path()), ["before", "after"]);
    }

    /// The keeper before gives its lock up when its thread ends, which is soon and not at once.
    fn taken_over(dir: &Path) -> Arc<Journal> {
        let end = Instant::now() + SOON;
        loop {
            let journal = Journal::in_folder(folder(dir, KeeperKind::Serve));
            journal.flush(SOON);
            if !dir.join("journal/serve-1.lock").exists() {
                return journal;
            }
            assert!(Instant::now() < end);
            drop(journal);
            let _ = std::fs::remove_file(dir.join("journal/serve-1.lock"));
        }
    }

    #[test]
    fn keepers_that_run_at_the_same_time_have_files_of_their_own_and_are_read_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let keepers: Vec<_> =
            (0..12).map(|_| Journal::in_folder(folder(dir.path(), KeeperKind::Stdio))).collect();
        for second in 0..20 {
            for (n, keeper) in keepers.iter().enumerate() {
                keeper.record(at(second), "gmail", entry(&format!("{second} of {n}")));
            }
        }
        for keeper in &keepers {
            keeper.flush(SOON);
            assert_eq!(keeper.status().fault, None);
        }
        let read = found(dir.path());
        assert_eq!(read.len(), 240);
        assert!(read[..12].iter().all(|detail| detail.starts_with("0 of ")), "in the order of time");
        let files = std::fs::read_dir(dir.path().join("journal")).unwrap().count();
        assert_eq!(files, 24, "a file and a lock for each");
    }

    #[test]
    fn the_files_stay_bounded_however_much_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::in_folder(folder(dir.path(), KeeperKind::Stdio).limit(20_000));
        for n in 0..2_000 {
            journal.record(at(n), "gmail", entry(&n.to_string()));
            if n % 500 == 0 {
                journal.flush(SOON);
            }
        }
        journal.flush(SOON);
        let sizes: Vec<u64> = std::fs::read_dir(dir.path().join("journal"))
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect();
        assert_eq!(sizes.len(), 3, "two files and a lock");
        assert!(sizes.iter().all(|size| *size <= 20_000), "{sizes:?}");
        assert_eq!(found(dir.path()).last().map(String::as_str), Some("1999"));
    }

    #[test]
    fn a_folder_that_is_none_costs_the_files_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("journal"), "a file").unwrap();
        let journal = Journal::in_folder(folder(dir.path(), KeeperKind::Serve));
        journal.record(at(1), "gmail", entry("kept in memory"));
        journal.flush(SOON);
        assert_eq!(journal.since(None).len(), 1);
        let status = journal.status();
        let fault = status.fault.unwrap();
        assert!(fault.ends_with("; 1 entries are in memory only"), "{fault}");
    }

    #[test]
    fn a_full_disk_costs_the_files_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let device = mode(Path::new("/dev/full"));
        std::fs::create_dir(dir.path().join("journal")).unwrap();
        // Opens like any file, and is full when it is written.
        std::os::unix::fs::symlink("/dev/full", dir.path().join("journal/stdio-0.jsonl")).unwrap();
        let journal = Journal::in_folder(folder(dir.path(), KeeperKind::Stdio));
        for n in 0..100 {
            journal.record(at(n), "gmail", entry("kept in memory"));
        }
        journal.flush(SOON);
        assert_eq!(journal.since(None).len(), 100);
        let fault = journal.status().fault.unwrap();
        assert!(fault.contains("No space left") && fault.contains("100 entries"), "{fault}");
        assert_eq!(mode(Path::new("/dev/full")), device, "a device that a link leads to is left as it is");
    }

    #[test]
    fn more_keepers_than_slots_go_on_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let keepers: Vec<_> =
            (0..=SLOTS).map(|_| Journal::in_folder(folder(dir.path(), KeeperKind::Stdio))).collect();
        for keeper in &keepers {
            keeper.flush(SOON);
        }
        let faults: Vec<_> = keepers.iter().filter_map(|keeper| keeper.status().fault).collect();
        assert_eq!(faults.len(), 1);
        assert!(faults[0].starts_with("64 keepers write to"), "{faults:?}");
    }
}
