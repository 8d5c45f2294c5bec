//! A private place on disk for an answer that is too long to be held and can't be written before it is whole.
//!
//! The file has no name once it is open, so nothing is left behind whatever happens.

use std::io;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt};

use crate::entropy;

/// Bytes that are copied at a time.
const COPIED: usize = 64 * 1024;

/// An unlinked file of mode 0600.
pub(crate) struct Spool {
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

    /// Appends; line breaks become spaces, which in JSON stand between tokens only.
    pub(crate) async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            let line: Vec<u8> =
                bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect();
            return self.file.write_all(&line).await;
        }
        self.file.write_all(bytes).await
    }

    /// Copies everything to `out`.
    pub(crate) async fn copy_to(mut self, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        self.file.flush().await?;
        self.file.rewind().await?;
        let mut piece = vec![0; COPIED];
        loop {
            let read = self.file.read(&mut piece).await?;
            match piece.get(..read) {
                Some(bytes) if !bytes.is_empty() => out.write_all(bytes).await?,
                Some(_) | None => return Ok(()),
            }
        }
    }
}
