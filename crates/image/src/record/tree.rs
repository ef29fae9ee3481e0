//! Where the contents of files come from.

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Opens the files of a layer's tree. A closure is one.
pub trait Tree {
    /// A regular file by its name in the tar: bytes, perhaps with `./` or `/` in front.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is none.
    fn open(&mut self, name: &[u8]) -> io::Result<Box<dyn Read + Send>>;
}

impl<F: FnMut(&[u8]) -> io::Result<Box<dyn Read + Send>>> Tree for F {
    fn open(&mut self, name: &[u8]) -> io::Result<Box<dyn Read + Send>> {
        self(name)
    }
}

/// The tree in a folder, as a mounted layer has it. Links are followed as in a chroot: nothing outside is ever read. Needs Linux 5.6.
#[derive(Debug)]
pub struct TreeFolder {
    root: OwnedFd,
}

impl TreeFolder {
    /// Opens the folder.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn open(path: &Path) -> crate::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(root) => Ok(Self { root }),
            Err(errno) => Err(crate::Error::io("open", path, errno.into())),
        }
    }
}

/// A rename anywhere on the machine may make the kernel ask for another try.
const TRIES: usize = 100;

impl Tree for TreeFolder {
    fn open(&mut self, name: &[u8]) -> io::Result<Box<dyn Read + Send>> {
        // A device or a pipe must neither be waited for nor woken up.
        let flags =
            OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let how = OpenHow::new()
            .flags(flags)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut tries = 0;
        let file = loop {
            match openat2(&self.root, name, how) {
                Err(Errno::EAGAIN) if tries < TRIES => tries += 1,
                other => break File::from(other?),
            }
        };
        if !file.metadata()?.is_file() {
            return Err(Errno::ELOOP.into());
        }
        Ok(Box::new(file))
    }
}
