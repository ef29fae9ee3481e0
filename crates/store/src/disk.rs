//! What the store asks of a disk: the trait [`Disk`], in steps small enough that a crash can be put between any two of them.

use std::fmt;
use std::io;
use std::path::Path;

/// What kind of entry a folder holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name, as it is on disk.
    pub name: std::ffi::OsString,
    /// It is a folder.
    pub is_dir: bool,
}

/// A folder tree on a disk. All paths are relative to its root; the root itself is the empty path.
///
/// A change is *visible* at once and *durable* only after the sync that the method names; [`crate::Folder`] is the real one.
/// The size of a file is never above a few KiB here, so contents travel whole.
pub trait Disk: fmt::Debug + Send + Sync {
    /// A file's content.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// A folder's entries, in no order.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>>;

    /// Makes a folder (mode 0700) and those above it; one that is there is no error. Durable after [`Disk::sync_folder`] of the one above.
    ///
    /// # Errors
    /// Any of the file system's.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Makes a file (mode 0600) with this content, or replaces its content. Durable after [`Disk::sync_file`] and, if it is new, [`Disk::sync_folder`].
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`] and any other of the file system's; what was written may be there in part.
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Overwrites the first bytes of a file that is at least as long, without changing its length or allocation, and
    /// returns when they are durable (`pwrite`, `fdatasync`). Content of one sector (512 bytes) arrives whole or not at all.
    ///
    /// # Errors
    /// Any of the file system's.
    fn overwrite(&self, path: &Path, content: &[u8]) -> io::Result<()>;

    /// Makes a file's content durable.
    ///
    /// # Errors
    /// Any of the file system's.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// Makes a folder's entries durable: what was made, renamed and removed in it.
    ///
    /// # Errors
    /// Any of the file system's.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Gives a file another name in the same root, replacing what had it, in one step. Durable after [`Disk::sync_folder`] of both folders.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after [`Disk::sync_folder`].
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;
}
