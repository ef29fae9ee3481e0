//! The folders in which entries are made: found as in a chroot, so that a layer's `lib/x` goes where the lower layers' link `lib` points,
//! and never outside the tree.

use crate::acl;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::Node;
use crate::tree::{Id, Tree, metadata_of, resolved};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat, getegid, geteuid};
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

const ACTION: &str = "apply";
/// Folders that stay open.
const OPEN: usize = 32;

/// A folder of the tree.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: OwnedFd,
    pub(crate) id: Id,
    /// New files in it get an ACL that the stream does not tell of.
    pub(crate) gives_acl: bool,
    /// The owner and group of new files in it, where that does not depend on the mount's options.
    pub(crate) gives_owner: Option<(u32, u32)>,
}

impl Folder {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Finds folders by path, and keeps those on the way to the last one.
#[derive(Debug)]
pub(crate) struct Parents<'a> {
    tree: &'a Tree,
    /// The owner of folders that no entry tells of.
    owner: (u32, u32),
    open: Vec<(Vec<u8>, Rc<Folder>)>,
}

/// A folder that an entry lacked, and that was made.
pub(crate) type Made = (Rc<Folder>, Vec<u8>);

impl<'a> Parents<'a> {
    pub(crate) fn new(tree: &'a Tree, owner: (u32, u32)) -> Self {
        Self { tree, owner, open: Vec::new() }
    }

    /// Paths may lead elsewhere now: a folder or a link was deleted.
    pub(crate) fn forget(&mut self) {
        self.open.clear();
    }

    /// The folder of a cleaned path. `Ok(Err(ENOENT))`: it is not there.
    fn look(&mut self, path: &[u8]) -> nix::Result<Rc<Folder>> {
        while let Some((open, folder)) = self.open.last() {
            if open == path {
                return Ok(Rc::clone(folder));
            }
            if open.is_empty()
                || path.strip_prefix(open.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
            {
                break;
            }
            self.open.pop();
        }
        let folder = Rc::new(open(self.tree, path)?);
        if self.open.len() < OPEN {
            self.open.push((path.to_vec(), Rc::clone(&folder)));
        }
        Ok(folder)
    }

    /// The folder of a cleaned path, which has to be there.
    pub(crate) fn existing(&mut self, path: &[u8]) -> Result<Rc<Folder>> {
        self.look(path).map_err(|errno| failed(path, errno))
    }

    /// The folder of a cleaned path. What of it is missing is made, with mode 0755, and told.
    pub(crate) fn make(&mut self, path: &[u8], made: &mut dyn FnMut(Made)) -> Result<Rc<Folder>> {
        match self.look(path) {
            Err(Errno::ENOENT) => {}
            answer => return answer.map_err(|errno| failed(path, errno)),
        }
        let mut folder = self.existing(b"")?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut start = 0;
        for end in ends.chain([path.len()]) {
            let name = &path[start..end];
            start = end + 1;
            folder = match self.look(&path[..end]) {
                Err(Errno::ENOENT) => {
                    self.make_one(&folder, name).map_err(|errno| match errno {
                        Errno::EEXIST => refused(path, "a link on its way leads nowhere"),
                        errno => failed(path, errno),
                    })?;
                    made((folder, name.to_vec()));
                    self.existing(&path[..end])?
                }
                answer => answer.map_err(|errno| failed(path, errno))?,
            };
        }
        Ok(folder)
    }

    fn make_one(&self, folder: &Folder, name: &[u8]) -> nix::Result<()> {
        let fd = folder.fd();
        mkdirat(fd, name, Mode::from_bits_truncate(0o700))?;
        if folder.gives_acl {
            drop_inherited(Node::Named(fd, name))?;
        }
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        fchownat(fd, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        fchmodat(fd, name, Mode::from_bits_truncate(0o755), FchmodatFlags::NoFollowSymlink)
    }
}

fn open(tree: &Tree, path: &[u8]) -> nix::Result<Folder> {
    let resolve =
        ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let path = if path.is_empty() { b"." } else { path };
    let fd = resolved(tree.root(), path, OpenHow::new().flags(flags).resolve(resolve))?;
    let metadata = metadata_of(fd.as_fd())?;
    let gives_acl = match Node::Named(fd.as_fd(), b".").get(c"system.posix_acl_default") {
        Ok(_) => true,
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => false,
        Err(errno) => return Err(errno),
    };
    // A new file's group is the process's or the folder's.
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let gives_owner = (metadata.gid == gid).then_some((uid, gid));
    Ok(Folder { fd, id: metadata.id, gives_acl, gives_owner })
}

/// Takes away what a new file got from its folder's default ACL.
pub(crate) fn drop_inherited(node: Node<'_>) -> nix::Result<()> {
    for name in [acl::ACCESS, acl::DEFAULT] {
        let name = if name == acl::ACCESS { ACCESS_NAME } else { DEFAULT_NAME };
        match node.remove(name) {
            Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
            // Only directories have a default ACL.
            Err(Errno::EACCES | Errno::EPERM | Errno::EINVAL) if name == DEFAULT_NAME => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

const ACCESS_NAME: &CStr = c"system.posix_acl_access";
const DEFAULT_NAME: &CStr = c"system.posix_acl_default";

fn refused(path: &[u8], why: &str) -> Error {
    Error::new(ErrorKind::Refused, ACTION, format!("its folder \"{}\": {why}", crate::error::shown(path)))
}

fn failed(path: &[u8], errno: Errno) -> Error {
    match errno {
        Errno::ENOTDIR => refused(path, "something on its way is no folder"),
        Errno::ELOOP => refused(path, "links on its way lead in a circle, or out of the tree"),
        Errno::EXDEV => refused(path, "another file system is mounted on its way"),
        Errno::ENOENT => refused(path, "it is not there"),
        errno => {
            let why = format!("its folder \"{}\" cannot be opened", crate::error::shown(path));
            Error::system(ACTION, b"", why, errno)
        }
    }
}
