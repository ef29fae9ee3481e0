//! The real disk under a path: [`Folder`].

use crate::{Disk, Entry};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

/// No file of a store comes near this; what does is not one of its files.
const READ_MAX_BYTES: u64 = 16 << 20;

/// A folder tree of this machine, held by an open file descriptor, so that it stays the same when names above it change.
///
/// The root may be reached through symbolic links; below it none is followed. Files are made with mode 0600, folders with 0700. Only regular files are read.
#[derive(Debug)]
pub struct Folder {
    root: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// The folder at this path.
    ///
    /// # Errors
    /// There is none, or it may not be read.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let root =
            openat(AT_FDCWD, &path, OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { root, path })
    }

    /// Where it was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_below(&self, folder: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut at = self.root.try_clone()?;
        for component in folder.components() {
            at = openat(&at, checked(component)?, flags, Mode::empty())?;
        }
        Ok(at)
    }

    /// The folder that holds the last part of a path, and that part.
    fn place<'a>(&self, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
        let name =
            path.components().next_back().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok((self.open_below(path.parent().unwrap_or(Path::new("")))?, checked(name)?))
    }

    fn open_file(&self, path: &Path, flags: OFlag) -> io::Result<File> {
        let (folder, name) = self.place(path)?;
        // O_NONBLOCK: a FIFO that somebody put there must not stop us.
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = match openat(&folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => File::from(file),
            Err(Errno::ELOOP) => return Err(invalid_data("it is a symbolic link")),
            Err(Errno::ENXIO) => return Err(invalid_data("it is no regular file")),
            Err(errno) => return Err(errno.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(invalid_data("it is no regular file"));
        }
        Ok(file)
    }
}

fn invalid_data(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Only plain names: nothing leads out of the root.
fn checked(component: Component<'_>) -> io::Result<&OsStr> {
    match component {
        Component::Normal(name) => Ok(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a path in a root has plain names only")),
    }
}

impl Disk for Folder {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open_file(path, OFlag::O_RDONLY)?;
        if file.metadata()?.len() > READ_MAX_BYTES {
            return Err(invalid_data("it is too large"));
        }
        let mut content = Vec::new();
        file.take(READ_MAX_BYTES).read_to_end(&mut content)?;
        Ok(content)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let mut dir = Dir::from_fd(self.open_below(folder)?)?;
        let mut found: Vec<(OsString, Option<bool>)> = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                found.push((name.to_owned(), entry.file_type().map(|kind| kind == Type::Directory)));
            }
        }
        let mut entries = Vec::with_capacity(found.len());
        for (name, is_dir) in found {
            // Not every file system tells the type with the name.
            let is_dir = match is_dir {
                Some(is_dir) => is_dir,
                None => match fstatat(&dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(stat) => SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR,
                    Err(Errno::ENOENT) => continue,
                    Err(errno) => return Err(errno.into()),
                },
            };
            entries.push(Entry { name, is_dir });
        }
        Ok(entries)
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut at = self.root.try_clone()?;
        for component in folder.components() {
            let name = checked(component)?;
            match mkdirat(&at, name, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            at = openat(&at, name, flags, Mode::empty())?;
        }
        Ok(())
    }

    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = self.open_file(path, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC)?;
        file.write_all(content)
    }

    fn overwrite(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let file = self.open_file(path, OFlag::O_WRONLY)?;
        if usize::try_from(file.metadata()?.len()).is_ok_and(|length| length < content.len()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the file is shorter than what goes into it",
            ));
        }
        file.write_all_at(content, 0)?;
        file.sync_data()
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.open_file(path, OFlag::O_RDONLY)?.sync_all()
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::from(self.open_below(folder)?).sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (old, old_name) = self.place(from)?;
        let (new, new_name) = self.place(to)?;
        Ok(renameat(&old, old_name, &new, new_name)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (folder, name) = self.place(path)?;
        Ok(unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir)?)
    }
}

#[cfg(test)]
mod tests;
