//! Records in a private SQLite file: one row per session, write-ahead log, one keeper at a time.
//!
//! The row's text is the record; the columns beside it exist for searching, and `last_used` for cheap touching.

use std::collections::{BTreeMap, HashSet};
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relatch_core::record::{FORMAT, Record, RecordError};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::{Change, Row, Store, StoreError, ended, shown};

/// The layout of the table; a record has its own format besides.
const LAYOUT: i64 = 1;
/// The file in its folder.
const FILE: &str = "sessions.sqlite";
/// Pages of the file that are kept in memory.
const CACHE_KIB: i64 = 256;
/// Pages of the log from which on they go into the file; SQLite's own number.
const CHECKPOINT: i64 = 1_000;
/// How long a call waits for somebody else's look into the file (a backup, a curious `sqlite3`).
const BUSY: Duration = Duration::from_secs(5);

/// Records in `DIR/sessions.sqlite`.
#[derive(Debug)]
pub struct SqliteStore {
    connection: Mutex<Connection>,
    // Held for as long as the store is open; the system lets go of it even after a crash.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in `dir`, which is made if it is missing, and locks every other keeper out.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another keeper has it open; [`StoreError::Newer`] when a newer version wrote it;
    /// [`StoreError::Place`] when the folder can't be used, or holds other things and is open to others.
    pub fn open(dir: &Path) -> Result<SqliteStore, StoreError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |cause: io::Error| StoreError::Place { path, cause }
        };
        own_folder(dir, FILE).map_err(at(dir))?;
        let lock = lock(dir)?;
        let path = dir.join(FILE);
        // Made here, since SQLite would make it readable for others; its side files take over the mode.
        private(&path).map_err(at(&path))?;

        let connection = begun(&path)?;
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found > LAYOUT {
            return Err(StoreError::Newer { path, found });
        }
        // In KiB, where 2,000 are usual: a session opens a page or two of them, and the system keeps the file anyway.
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS sessions (
                 id TEXT PRIMARY KEY NOT NULL,
                 upstream TEXT NOT NULL,
                 format INTEGER NOT NULL,
                 last_used INTEGER NOT NULL,
                 record TEXT NOT NULL
             ) STRICT;
             CREATE INDEX IF NOT EXISTS sessions_by_use ON sessions (upstream, last_used);",
        )?;
        connection.pragma_update(None, "user_version", LAYOUT)?;
        settled(&connection)?;
        Ok(SqliteStore { connection: Mutex::new(connection), _lock: lock })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them in one transaction: one by one, each is written to the log by itself, and a thousand sessions that are
    /// renewed at once write three thousand.
    fn together(&self, changes: &BTreeMap<String, Change>) -> Result<Vec<StoreError>, StoreError> {
        let mut connection = self.connection();
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut refused = Vec::new();
        for (id, change) in changes {
            let made = match change {
                Change::Put(record) => put(&step, record),
                Change::Touch(at) => touch(&step, id, *at),
                Change::Remove => remove(&step, id),
            };
            match made {
                Err(StoreError::Kept) => refused.push(StoreError::Kept),
                done => done?,
            }
        }
        step.commit()?;
        Ok(refused)
    }
}

fn put(connection: &Connection, record: &Record) -> Result<(), StoreError> {
    let written = connection
        .prepare_cached(
            "INSERT INTO sessions (id, upstream, format, last_used, record) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET upstream = ?2, format = ?3, last_used = ?4, record = ?5
             WHERE format <= ?6",
        )?
        .execute(params![
            record.id,
            record.upstream,
            record.format,
            record.last_used,
            record.write(),
            FORMAT
        ])?;
    if written == 0 { Err(StoreError::Kept) } else { Ok(()) }
}

fn touch(connection: &Connection, id: &str, last_used_ms: i64) -> Result<(), StoreError> {
    connection
        .prepare_cached("UPDATE sessions SET last_used = max(last_used, ?2) WHERE id = ?1")?
        .execute(params![id, last_used_ms])?;
    Ok(())
}

fn remove(connection: &Connection, id: &str) -> Result<(), StoreError> {
    connection.prepare_cached("DELETE FROM sessions WHERE id = ?1")?.execute([id])?;
    Ok(())
}

impl Store for SqliteStore {
    fn put(&self, record: &Record) -> Result<(), StoreError> {
        put(&self.connection(), record)
    }

    fn get(&self, id: &str) -> Result<Option<Record>, StoreError> {
        let connection = self.connection();
        let row = connection
            .prepare_cached("SELECT upstream, last_used, record FROM sessions WHERE id = ?1")?
            .query_row([id], read_row)
            .optional()?;
        Ok(row.map(|row| row.read()).transpose()?)
    }

    fn remove(&self, id: &str) -> Result<(), StoreError> {
        remove(&self.connection(), id)
    }

    fn all(&self, upstream: &str) -> Result<Vec<Record>, StoreError> {
        let connection = self.connection();
        let mut query = connection.prepare_cached(
            "SELECT upstream, last_used, record FROM sessions WHERE upstream = ?1 ORDER BY last_used, id",
        )?;
        let mut records = Vec::new();
        for row in query.query_map([upstream], read_row)? {
            records.extend(row?.read().ok());
        }
        Ok(records)
    }

    fn touch(&self, id: &str, last_used_ms: i64) -> Result<(), StoreError> {
        touch(&self.connection(), id, last_used_ms)
    }

    fn take(&self, changes: &BTreeMap<String, Change>) -> Vec<StoreError> {
        if changes.is_empty() {
            return Vec::new();
        }
        match self.together(changes) {
            Ok(refused) => refused,
            // One that the file does not take is not to take the others with it.
            Err(_) => changes.iter().filter_map(|(id, change)| change.made(self, id).err()).collect(),
        }
    }

    fn expire(
        &self,
        now_ms: i64,
        max_age_ms: i64,
        max_count: usize,
        keep: &HashSet<String>,
    ) -> Result<Vec<String>, StoreError> {
        let mut connection = self.connection();
        let step = connection.transaction()?;
        let ended = {
            let mut query = step.prepare("SELECT last_used, id FROM sessions WHERE format <= ?1")?;
            let candidates = query
                .query_map([FORMAT], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<Vec<_>, _>>()?;
            let ended = ended(candidates, now_ms, max_age_ms, max_count, keep);
            let mut delete = step.prepare("DELETE FROM sessions WHERE id = ?1")?;
            for id in &ended {
                delete.execute([id])?;
            }
            ended
        };
        step.commit()?;
        Ok(ended)
    }

    fn unreadable(&self) -> Result<Vec<(String, RecordError)>, StoreError> {
        let connection = self.connection();
        let mut query =
            connection.prepare("SELECT upstream, last_used, record, id FROM sessions ORDER BY id")?;
        let mut found = Vec::new();
        for row in query.query_map([], |row| Ok((row.get::<_, String>(3)?, read_row(row)?)))? {
            let (id, row) = row?;
            found.extend(row.read().err().map(|cause| (shown(&id), cause)));
        }
        Ok(found)
    }
}

/// Opens a database with a write-ahead log. Until it is [`settled`] nothing waits for the disk, where that can lose nothing:
/// without a log there is nothing in the file that is not on the disk already, and all that is written is the first page
/// of a new file and the beginning of a log. A new file took eight waits, 2 to 35 ms, ahead of the first client.
pub(crate) fn begun(path: &Path) -> rusqlite::Result<Connection> {
    // A power cut at that moment may leave a first page of zeros, which SQLite takes for no database: it is begun anew.
    if is_blank(path).unwrap_or(false) {
        drop(File::options().write(true).open(path).and_then(|file| file.set_len(0)));
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if std::fs::metadata(log).is_err() {
        connection.pragma_update(None, "synchronous", "OFF")?;
        // Nothing goes from the log into the file meanwhile, whoever else writes.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(connection)
}

/// With the write-ahead log a crash of relatch loses nothing; a power cut may lose the last touches.
pub(crate) fn settled(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)
}

/// Whether a file has a beginning that says nothing.
fn is_blank(path: &Path) -> io::Result<bool> {
    let mut header = [0; 100];
    File::open(path)?.read_exact(&mut header)?;
    Ok(header == [0; 100])
}

fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row { upstream: row.get(0)?, last_used: row.get(1)?, text: row.get(2)? })
}

/// Makes the folder private. One that holds other things is left as it is, and used only if it is private already:
/// a home or `/tmp` must not be closed to others by a mistyped option.
pub(crate) fn own_folder(dir: &Path, file: &str) -> io::Result<()> {
    if std::fs::metadata(dir).is_ok_and(|found| !found.is_dir()) {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is a file, and no folder"));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let is_private = || Ok::<_, io::Error>(std::fs::metadata(dir)?.permissions().mode() & 0o077 == 0);
    if is_private()? {
        return Ok(());
    }
    let ours = dir.join(file).exists() || std::fs::read_dir(dir)?.next().is_none();
    // Another keeper that begins at this moment closes it to others ahead of its first file.
    if !ours && !is_private()? {
        let words = "it holds other things and is open to others; relatch needs a folder of its own";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
    }
    std::fs::set_permissions(dir, Permissions::from_mode(0o700))
}

/// A lock that somebody has may be let go in this time: one that ends leaves it for a moment to whatever it was just starting.
const LOCK_WITHIN: Duration = Duration::from_millis(500);

/// Takes the lock of `dir`, leaving this process's id for whoever comes second.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let place = |cause| StoreError::Place { path: path.clone(), cause };
    let mut file = private(&path).map_err(place)?;
    let end = Instant::now() + LOCK_WITHIN;
    let mut taken = file.try_lock();
    while matches!(taken, Err(TryLockError::WouldBlock)) && Instant::now() < end {
        std::thread::sleep(LOCK_WITHIN / 20);
        taken = file.try_lock();
    }
    match taken {
        Ok(()) => {
            file.set_len(0).map_err(place)?;
            file.rewind().map_err(place)?;
            writeln!(file, "{}", std::process::id()).map_err(place)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut left = String::new();
            let _ = file.take(32).read_to_string(&mut left);
            Err(StoreError::Locked { dir: dir.to_owned(), holder: left.trim().parse().ok() })
        }
        Err(TryLockError::Error(cause)) => Err(place(cause)),
    }
}

/// Opens a file that only this user can read, making it if it is missing.
pub(crate) fn private(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of SQLite's four degrees, as it tells them.
    const OFF: i64 = 0;
    const NORMAL: i64 = 1;

    fn waits(connection: &Connection) -> i64 {
        connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_new_file_waits_for_the_disk_only_once_it_has_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.sqlite");
        let connection = begun(&path).unwrap();
        assert_eq!(waits(&connection), OFF);
        settled(&connection).unwrap();
        assert_eq!(waits(&connection), NORMAL);
    }

    #[test]
    fn a_file_with_a_log_waits_from_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.sqlite");
        let first = begun(&path).unwrap();
        first.execute_batch("CREATE TABLE one (id)").unwrap();
        let second = begun(&path).unwrap();
        assert_ne!(waits(&second), OFF, "the log may hold what is nowhere else");
    }

    #[test]
    fn a_file_of_zeros_is_begun_anew_and_any_other_that_is_no_database_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        std::fs::write(&path, [0; 4096]).unwrap();
        drop(SqliteStore::open(folder.path()).unwrap());
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        assert!(SqliteStore::open(folder.path()).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), [b'x'; 4096]);
    }

    #[test]
    fn an_open_store_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path()).unwrap();
        assert_eq!(waits(&store.connection()), NORMAL);
        drop(store);
        let again = SqliteStore::open(folder.path()).unwrap();
        assert_eq!(waits(&again.connection()), NORMAL);
        let checkpoint = |connection: &Connection| -> i64 {
            connection.pragma_query_value(None, "wal_autocheckpoint", |row| row.get(0)).unwrap()
        };
        assert_eq!(checkpoint(&again.connection()), CHECKPOINT);
        let copies = crate::copies::CopyStore::open(folder.path()).unwrap();
        copies.looked_at(|connection| {
            assert_eq!((waits(connection), checkpoint(connection)), (NORMAL, CHECKPOINT));
        });
    }
}
