//! A place for an answer that is too long to be read in one piece and can't be passed on before it is whole: memory as far
//! as there is room, and behind that a private file on disk.
//!
//! The file has no name once it is open, so nothing is left behind whatever happens. It is written and read in large
//! pieces, since each is a hop to a thread that may wait for the disk, and while one is under way the answer comes and
//! goes on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Read as _, Seek as _, Write as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use crate::entropy;

/// What one answer holds in memory at most, in bytes.
const HELD: usize = 4 * 1024 * 1024;
/// And all of them together.
const ALL_HELD: usize = 32 * 1024 * 1024;
/// Bytes that are written to disk at a time.
const WRITTEN: usize = 1024 * 1024;
/// Bytes that are read back at a time.
const READ: usize = 512 * 1024;
/// Pieces below this size are copied together: each holds on to more than it is.
const SMALL: usize = 16 * 1024;
/// What one answer may take, in bytes. A server that never comes to an end does not fill the disk.
const MOST: u64 = 1024 * 1024 * 1024;

/// Why an answer can't be kept.
#[derive(Debug)]
pub(crate) enum Fault {
    /// There is no file to be had. All that came is still there: [`Spool::taken_back`].
    NoFile(io::Error),
    /// What came is lost.
    Lost(io::Error),
}

impl Fault {
    /// What stands against it.
    pub(crate) fn cause(&self) -> &io::Error {
        match self {
            Fault::NoFile(fault) | Fault::Lost(fault) => fault,
        }
    }
}

/// An answer that is coming.
pub(crate) struct Spool {
    held: Held,
    disk: Disk,
    /// Due to be written.
    due: Vec<Bytes>,
    due_bytes: usize,
    /// Small pieces that came last.
    small: BytesMut,
    bytes: u64,
    most: u64,
    folder: PathBuf,
}

/// The same when all has come, read from its beginning.
#[derive(Debug)]
pub(crate) struct Spooled {
    held: Held,
    file: Option<Reading>,
    rest: std::vec::IntoIter<Bytes>,
}

/// The part that is in memory.
#[derive(Debug, Default)]
struct Held {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

/// What all answers hold in memory now.
static ALL: AtomicUsize = AtomicUsize::new(0);

impl Held {
    /// Takes a piece in if there is room for it.
    fn takes(&mut self, piece: &Bytes) -> bool {
        let size = piece.len();
        let fits = |held: usize| held.checked_add(size).filter(|sum| *sum <= ALL_HELD);
        if self.bytes + size > HELD || ALL.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        self.bytes += size;
        self.pieces.push_back(piece.clone());
        true
    }

    fn next(&mut self) -> Option<Bytes> {
        let piece = self.pieces.pop_front()?;
        self.bytes -= piece.len();
        ALL.fetch_sub(piece.len(), Ordering::Relaxed);
        Some(piece)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        ALL.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

enum Disk {
    /// Nothing had to be written yet.
    Unused,
    /// A write is under way, or was.
    Busy(JoinHandle<io::Result<File>>),
    /// It failed, and said so.
    Lost,
}

/// A file that is read back, one piece ahead of what is asked for.
#[derive(Debug)]
struct Reading {
    next: JoinHandle<io::Result<(File, Bytes)>>,
}

impl Spool {
    /// A new one, whose file would be in the system's temporary folder.
    pub(crate) fn new() -> Spool {
        Spool {
            held: Held::default(),
            disk: Disk::Unused,
            due: Vec::new(),
            due_bytes: 0,
            small: BytesMut::new(),
            bytes: 0,
            most: MOST,
            folder: std::env::temp_dir(),
        }
    }

    /// Appends, as far as the bound allows.
    pub(crate) async fn append(&mut self, bytes: Bytes) -> Result<(), Fault> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.most {
            let words = format!("the answer is longer than {} MiB", self.most / (1024 * 1024));
            return Err(Fault::Lost(io::Error::new(io::ErrorKind::FileTooLarge, words)));
        }
        let piece = if self.small.is_empty() && bytes.len() >= SMALL {
            bytes
        } else {
            self.small.extend_from_slice(&bytes);
            if self.small.len() < SMALL {
                return Ok(());
            }
            self.small.split().freeze()
        };
        if matches!(self.disk, Disk::Unused) && self.due.is_empty() && self.held.takes(&piece) {
            return Ok(());
        }
        self.due_bytes += piece.len();
        self.due.push(piece);
        if self.due_bytes < WRITTEN {
            return Ok(());
        }
        let mut file = match std::mem::replace(&mut self.disk, Disk::Lost) {
            Disk::Unused => match opened(self.folder.clone()).await {
                Ok(file) => file,
                Err(fault) => {
                    self.disk = Disk::Unused;
                    return Err(Fault::NoFile(fault));
                }
            },
            disk => disk.file().await.map_err(Fault::Lost)?,
        };
        self.due_bytes = 0;
        let due = std::mem::take(&mut self.due);
        self.disk = Disk::Busy(spawn_blocking(move || {
            write(&mut file, &due)?;
            Ok(file)
        }));
        Ok(())
    }

    /// All that came, where none of it had to be written.
    pub(crate) fn taken_back(mut self) -> impl Iterator<Item = Bytes> + Send {
        let (due, small) = (std::mem::take(&mut self.due), self.small.split().freeze());
        let mut held = std::mem::take(&mut self.held);
        std::iter::from_fn(move || held.next()).chain(due).chain((!small.is_empty()).then_some(small))
    }

    /// All has come.
    pub(crate) async fn whole(mut self) -> io::Result<Spooled> {
        if !self.small.is_empty() {
            self.due.push(self.small.split().freeze());
        }
        let file = match self.disk {
            Disk::Unused => None,
            disk => {
                let mut file = disk.file().await?;
                Some(Reading::begin(move || {
                    file.rewind()?;
                    Ok(file)
                }))
            }
        };
        Ok(Spooled { held: self.held, file, rest: self.due.into_iter() })
    }
}

impl Disk {
    /// The file, when nothing is under way with it any more.
    async fn file(self) -> io::Result<File> {
        match self {
            Disk::Busy(write) => done(write).await,
            Disk::Unused | Disk::Lost => Err(io::Error::other("its file is gone")),
        }
    }
}

impl Spooled {
    /// The next piece; none at the end.
    pub(crate) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if let Some(piece) = self.held.next() {
            return Poll::Ready(Ok(Some(piece)));
        }
        if let Some(reading) = &mut self.file {
            let read = ready!(Pin::new(&mut reading.next).poll(cx));
            self.file = None;
            let (file, piece) = of_join(read)?;
            if !piece.is_empty() {
                self.file = Some(Reading::begin(move || Ok(file)));
                return Poll::Ready(Ok(Some(piece)));
            }
        }
        Poll::Ready(Ok(self.rest.next()))
    }

    /// The same, waited for.
    pub(crate) async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        std::future::poll_fn(|cx| self.poll_piece(cx)).await
    }
}

impl Reading {
    fn begin(file: impl FnOnce() -> io::Result<File> + Send + 'static) -> Reading {
        let next = spawn_blocking(move || {
            let mut file = file()?;
            let mut piece = vec![0; READ];
            let read = loop {
                match file.read(&mut piece) {
                    Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                    read => break read?,
                }
            };
            piece.truncate(read);
            Ok((file, piece.into()))
        });
        Reading { next }
    }
}

fn write(file: &mut File, pieces: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut due = slices.as_mut_slice();
    while !due.is_empty() {
        match file.write_vectored(due) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut due, written),
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Opens an unlinked file of mode 0600.
async fn opened(folder: PathBuf) -> io::Result<File> {
    let open = spawn_blocking(move || {
        let path = folder.join(format!("relatch-{}", entropy::session_id()));
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    });
    done(open).await
}

async fn done<T>(work: JoinHandle<io::Result<T>>) -> io::Result<T> {
    of_join(work.await)
}

fn of_join<T>(outcome: Result<io::Result<T>, JoinError>) -> io::Result<T> {
    outcome.unwrap_or_else(|fault| Err(io::Error::other(fault)))
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Mutex, MutexGuard};

    use super::*;

    /// One at a time: what is held is counted for the whole process.
    async fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::const_new(());
        ALONE.lock().await
    }

    /// Bytes that are not the same anywhere near.
    fn text(size: usize) -> Bytes {
        (0..size).map(|at| u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap_or_default()).collect()
    }

    async fn filled(text: &Bytes, pieces: usize) -> Spool {
        let mut spool = Spool::new();
        let mut rest = text.clone();
        while !rest.is_empty() {
            spool.append(rest.split_to(pieces.min(rest.len()))).await.unwrap();
        }
        spool
    }

    async fn read(spool: Spool) -> Vec<u8> {
        let mut spooled = spool.whole().await.unwrap();
        let mut all = Vec::new();
        while let Some(piece) = spooled.piece().await.unwrap() {
            all.extend_from_slice(&piece);
        }
        all
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_cut_off_at_the_bound_and_the_bound_is_named() {
        let mut spool = Spool::new();
        spool.most = 2 * 1024 * 1024;
        let piece = Bytes::from(vec![b'x'; 1024 * 1024]);
        spool.append(piece.clone()).await.unwrap();
        spool.append(piece).await.unwrap();
        let fault = spool.append(Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!(fault.cause().to_string(), "the answer is longer than 2 MiB");
    }

    #[tokio::test]
    async fn what_comes_in_pieces_of_any_size_comes_back_in_its_order() {
        let _alone = alone().await;
        for (size, pieces) in [
            (0, 1),
            (100, 1),
            (3 * SMALL + 5, SMALL - 1),
            (HELD, 100_000),
            (HELD + 1, 100_000),
            (HELD + WRITTEN + 77, 1_000),
            (HELD + 5 * WRITTEN + 3, 250_001),
            (2 * HELD, 2 * HELD),
        ] {
            let text = text(size);
            let back = read(filled(&text, pieces).await).await;
            assert!(back == text, "{size} bytes by {pieces} came back as {} bytes", back.len());
        }
        assert_eq!(ALL.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_short_one_touches_no_disk_and_beyond_the_room_of_all_every_other_does() {
        let _alone = alone().await;
        let text = text(HELD);
        let mut spools = Vec::new();
        for _ in 0..ALL_HELD / HELD {
            let spool = filled(&text, 64 * 1024).await;
            assert!(matches!(spool.disk, Disk::Unused), "{} bytes", text.len());
            spools.push(spool);
        }
        let beyond = filled(&text, 64 * 1024).await;
        assert!(!matches!(beyond.disk, Disk::Unused));
        drop(spools);
        let again = filled(&text, 64 * 1024).await;
        assert!(matches!(again.disk, Disk::Unused));
        assert!(read(beyond).await == text && read(again).await == text);
        assert_eq!(ALL.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn without_a_file_all_that_came_is_still_there() {
        let _alone = alone().await;
        let mut spool = Spool::new();
        spool.folder = spool.folder.join("there/is/no/such/folder");
        let (text, mut at) = (text(HELD + WRITTEN + SMALL), 0);
        let fault = loop {
            let next = at + 50_000;
            let fault = spool.append(text.slice(at..next)).await;
            at = next;
            if let Err(fault) = fault {
                break fault;
            }
        };
        assert!(
            matches!(&fault, Fault::NoFile(fault) if fault.kind() == io::ErrorKind::NotFound),
            "{fault:?}"
        );
        let back: Vec<u8> = spool.taken_back().flatten().collect();
        assert!(back == text.slice(..at), "{at} bytes came back as {}", back.len());
    }
}
