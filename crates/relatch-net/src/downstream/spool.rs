//! A private place on disk for an answer that is too long to be held and can't be written before it is whole.
//!
//! The file has no name once it is open, so nothing is left behind whatever happens.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::entropy;

/// Bytes that are read back at a time: each is a hop to a thread that may wait for the disk.
const PIECE: usize = 256 * 1024;
/// What one answer may take on disk. A server that never comes to an end does not fill it.
const MOST: u64 = 1024 * 1024 * 1024;

/// An unlinked file of mode 0600.
pub(crate) struct Spool {
    file: File,
    bytes: u64,
    most: u64,
}

/// The same when all has come, read from its beginning.
pub(crate) struct Spooled {
    file: File,
}

impl Spool {
    /// A new one in the system's temporary folder.
    pub(crate) async fn open() -> io::Result<Spool> {
        let path = std::env::temp_dir().join(format!("relatch-{}", entropy::session_id()));
        let mut options = tokio::fs::OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        let file = options.open(&path).await?;
        tokio::fs::remove_file(&path).await?;
        Ok(Spool { file, bytes: 0, most: MOST })
    }

    /// Appends, as far as the bound allows.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > self.most {
            let words = format!("the answer is longer than {} MiB", self.most / (1024 * 1024));
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
        }
        self.file.write_all(bytes).await
    }

    /// All has come.
    pub(crate) async fn whole(mut self) -> io::Result<Spooled> {
        self.file.flush().await?;
        self.file.rewind().await?;
        Ok(Spooled { file: self.file })
    }
}

impl Spooled {
    /// The next piece; none at the end.
    pub(crate) async fn piece(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = BytesMut::with_capacity(PIECE);
        let read = self.file.read_buf(&mut piece).await?;
        Ok((read > 0).then(|| piece.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_without_an_end_is_cut_off_at_the_bound_and_the_bound_is_named() {
        let mut spool = Spool::open().await.unwrap();
        spool.most = 2 * 1024 * 1024;
        let piece = vec![b'x'; 1024 * 1024];
        spool.append(&piece).await.unwrap();
        spool.append(&piece).await.unwrap();
        let fault = spool.append(b"x").await.unwrap_err();
        assert_eq!(fault.to_string(), "the answer is longer than 2 MiB");
    }
}
