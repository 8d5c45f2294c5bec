//! A private place on disk for an answer that is too long to be held and can't be written before it is whole.
//!
//! The file has no name once it is open, so nothing is left behind whatever happens.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::entropy;

/// Bytes that are read back at a time.
const PIECE: usize = 64 * 1024;

/// An unlinked file of mode 0600.
pub(crate) struct Spool {
    file: File,
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
        Ok(Spool { file })
    }

    /// Appends.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
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
