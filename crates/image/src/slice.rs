//! A part of a file, read without moving the file's own position: many can be read at once.

use crate::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) struct Slice {
    path: PathBuf,
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Slice {
    pub(crate) fn new(path: &Path, file: Arc<File>, offset: u64, bytes: u64) -> Self {
        Self { path: path.to_owned(), file, position: offset, end: offset.saturating_add(bytes) }
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> u64 {
        self.end - self.position
    }
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left()).unwrap_or(usize::MAX).min(buffer.len());
        match self.file.read_at(&mut buffer[..most], self.position) {
            // A file that became shorter: the check of size or digest tells.
            Ok(read) => {
                self.position += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(Error::io("read", &self.path, error).into()),
        }
    }
}
