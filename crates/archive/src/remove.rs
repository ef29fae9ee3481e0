//! Deleting below a folder that is open: by names in descriptors, never through a link, however deep.

use crate::name::MOST_PARTS;
use crate::tree::{Id, metadata};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

/// Folders that are open at once on the way down; what lies deeper is moved up first.
const DEEPEST: usize = 64;

fn open(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<Dir> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Dir::from_fd(openat(folder, name, flags, Mode::empty())?)
}

/// A folder's names as they are now.
fn names(folder: &mut Dir) -> nix::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in folder.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Deletes a directory with all that is in it.
pub(crate) fn remove_directory(folder: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    let mut moved = 0;
    loop {
        match unlinkat(folder, name, UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            answer => return answer,
        }
        let mut top = open(folder, name)?;
        empty(&mut top, None, 1, &mut moved)?;
    }
}

/// Empties a folder. `top` is the one to which what lies too deep is moved; without it, the folder itself.
fn empty(folder: &mut Dir, top: Option<BorrowedFd<'_>>, depth: usize, moved: &mut u64) -> nix::Result<()> {
    let list = names(folder)?;
    let here = folder.as_fd();
    for name in list {
        match unlinkat(here, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) => {}
            answer => {
                answer?;
                continue;
            }
        }
        match unlinkat(here, name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
            answer => {
                answer?;
                continue;
            }
        }
        let top = top.unwrap_or(here);
        if depth == DEEPEST {
            move_up(here, &name, top, moved)?;
            continue;
        }
        empty(&mut open(here, &name)?, Some(top), depth + 1, moved)?;
        unlinkat(here, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
    }
    Ok(())
}

/// Moves a folder to the top under a name that nothing there has.
fn move_up(folder: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> nix::Result<()> {
    loop {
        *moved += 1;
        let new = CString::new(format!(".removed-{moved}")).map_err(|_| Errno::EINVAL)?;
        match metadata(top, &new) {
            Err(Errno::ENOENT) => return renameat(folder, name, top, new.as_c_str()),
            Err(errno) => return Err(errno),
            Ok(_) => {}
        }
    }
}

/// Deletes what is in a folder but for those names that `keep` wants kept, at every depth; a folder that holds something kept stays.
pub(crate) fn remove_unless(
    folder: BorrowedFd<'_>,
    name: &CStr,
    keep: &dyn Fn(Id, &CStr) -> bool,
    depth: usize,
) -> nix::Result<()> {
    let mut folder = open(folder, name)?;
    let id = crate::tree::metadata_of(folder.as_fd())?.id;
    let list = names(&mut folder)?;
    let here = folder.as_fd();
    for name in list {
        let kept = keep(id, &name);
        if !metadata(here, &name)?.is_directory() {
            if !kept {
                unlinkat(here, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            }
            continue;
        }
        // Each folder on the way is open. Only links let this layer's own names lie deeper than they are long.
        if depth == MOST_PARTS {
            return Err(Errno::ENAMETOOLONG);
        }
        remove_unless(here, &name, keep, depth + 1)?;
        if !kept {
            match unlinkat(here, name.as_c_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(())
}
