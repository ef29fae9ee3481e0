//! Files below a folder, found by names that others wrote: no part of a name may be a symbolic link or lead upwards, and only regular files are read.

use crate::digest::clipped;
use crate::error::{Error, Result};
use crate::slice::Slice;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A pipe or a device that somebody put there must not hold the open up.
const FILE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_CLOEXEC)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_NOCTTY);
const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_DIRECTORY);

#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    root: OwnedFd,
}

impl Folder {
    pub(crate) fn open_root(path: &Path) -> Result<Self> {
        let root =
            open(path, FOLDER, Mode::empty()).map_err(|errno| Error::io("open", path, errno.into()))?;
        Ok(Self { path: path.to_owned(), root })
    }

    /// A regular file by its name; `None` if there is none.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Slice>> {
        let path = self.path.join(name);
        let damaged =
            |why: &str| Error::damaged(format!("'{}' in {}", clipped(name), self.path.display()), why);
        let mut parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if name.starts_with('/') || parts.contains(&"..") {
            return Err(damaged("the name leads out of the folder"));
        }
        let Some(last) = parts.pop() else { return Err(damaged("it is no name")) };
        let mut folder: Option<OwnedFd> = None;
        let at = |folder: &Option<OwnedFd>, part: &str, flags| match folder {
            Some(folder) => openat(folder, part, flags, Mode::empty()),
            None => openat(&self.root, part, flags, Mode::empty()),
        };
        let failed = |errno: Errno| match errno {
            Errno::ENOENT => Ok(None),
            Errno::ELOOP | Errno::ENOTDIR => {
                Err(damaged("a symbolic link or another file stands where a file or folder should be"))
            }
            errno => Err(Error::io("open", &path, errno.into())),
        };
        for part in parts {
            match at(&folder, part, FOLDER | OFlag::O_NOFOLLOW) {
                Ok(next) => folder = Some(next),
                Err(errno) => return failed(errno),
            }
        }
        let file = match at(&folder, last, FILE) {
            Ok(file) => File::from(file),
            Err(errno) => return failed(errno),
        };
        let about = file.metadata().map_err(|error| Error::io("look at", &path, error))?;
        if !about.is_file() {
            return Err(damaged("it is no regular file"));
        }
        Ok(Some(Slice::new(&path, Arc::new(file), 0, about.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_below_the_folder_are_read() {
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), "content").unwrap();
        std::fs::write(outer.path().join("secret"), "secret").unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink("..", root.join("up")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::S_IRWXU).unwrap();
        let folder = Folder::open_root(&root).unwrap();

        let mut text = String::new();
        folder.open("./a//b/file").unwrap().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert!(folder.open("a/none").unwrap().is_none());
        assert!(folder.open("none/file").unwrap().is_none());
        for bad in
            ["../secret", "/etc/passwd", "a/../../secret", "link", "up/secret", "pipe", "a", "", "a/b/file/x"]
        {
            assert!(folder.open(bad).is_err(), "{bad}");
        }
    }
}
