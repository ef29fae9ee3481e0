//! Makes one file of an entry: first the file, then owner, attributes, mode and times, in the order in which none undoes another. A change of
//! owner clears set-id bits and capabilities.

use crate::apply::Applying;
use crate::entry::{Entry, EntryKind, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::IdMaps;
use crate::parents::{Folder, drop_inherited};
use crate::reader::Reader;
use crate::sys::Node;
use crate::tree::{Metadata, is_kept, metadata, metadata_of};
use crate::{acl, name, remove};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, futimens, makedev, mkdirat, mknodat,
    utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

const ACTION: &str = "apply";

/// Where a file is made.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) folder: &'a Folder,
    pub(crate) name: &'a [u8],
}

fn failed(why: &str, errno: Errno) -> Error {
    Error::system(ACTION, b"", why, errno)
}

fn c_name(name: &[u8]) -> Result<CString> {
    CString::new(name).map_err(|_| Error::new(ErrorKind::Malformed, ACTION, "its name holds a NUL"))
}

/// Both times; the stream has no time of access.
fn times(mtime: Timestamp) -> TimeSpec {
    TimeSpec::new(mtime.seconds, mtime.nanoseconds.into())
}

pub(crate) fn set_directory_time(directory: &OwnedFd, mtime: Timestamp) -> nix::Result<()> {
    futimens(directory, &times(mtime), &times(mtime))
}

impl Applying<'_> {
    /// Makes the entry's file; what has its name is replaced, unless both are directories.
    pub(crate) fn make(&mut self, at: At<'_>, entry: &Entry, stream: &mut Reader<impl Read>) -> Result<()> {
        let owner = self.owner(entry)?;
        match entry.kind {
            EntryKind::Regular => self.regular(at, entry, owner, stream),
            EntryKind::HardLink => self.hard_link(at, entry),
            EntryKind::Directory => self.directory(at, entry, owner),
            EntryKind::Symlink => {
                if entry.link.is_empty() {
                    return Err(Error::new(ErrorKind::Malformed, ACTION, "it is a link to nothing"));
                }
                self.replacing(at, |at| symlinkat(entry.link.as_slice(), at.folder.fd(), at.name))?;
                self.describe(at, entry, owner)
            }
            EntryKind::CharDevice | EntryKind::BlockDevice | EntryKind::Fifo => {
                let kind = match entry.kind {
                    EntryKind::CharDevice => SFlag::S_IFCHR,
                    EntryKind::BlockDevice => SFlag::S_IFBLK,
                    _ => SFlag::S_IFIFO,
                };
                let device = makedev(entry.device.0.into(), entry.device.1.into());
                let mode = Mode::from_bits_truncate(0o600);
                self.replacing(at, |at| mknodat(at.folder.fd(), at.name, kind, mode, device))?;
                self.describe(at, entry, owner)
            }
        }
    }

    fn owner(&self, entry: &Entry) -> Result<(u32, u32)> {
        let no_number = |what, id| {
            let why = format!("its {what} {id} is outside the ranges that are mapped");
            Error::new(ErrorKind::Refused, ACTION, why)
        };
        let ids = &self.options.ids;
        Ok((
            ids.uid_outside(entry.uid).ok_or_else(|| no_number("owner", entry.uid))?,
            ids.gid_outside(entry.gid).ok_or_else(|| no_number("group", entry.gid))?,
        ))
    }

    /// Makes something new, after deleting what has its name.
    fn replacing<T>(&mut self, at: At<'_>, make: impl Fn(At<'_>) -> nix::Result<T>) -> Result<T> {
        match make(at) {
            Err(Errno::EEXIST) => {
                self.remove(at)?;
                make(at)
            }
            answer => answer,
        }
        .map_err(|errno| failed("it cannot be made", errno))
    }

    /// Deletes a name, if it is there, and all that is below it.
    pub(crate) fn remove(&mut self, at: At<'_>) -> Result<()> {
        let name = c_name(at.name)?;
        let folder = at.folder.fd();
        let removed = match metadata(folder, &name) {
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => Err(errno),
            Ok(there) => {
                if matches!(there.kind, SFlag::S_IFDIR | SFlag::S_IFLNK) {
                    self.parents.forget();
                }
                match there.is_directory() {
                    true => remove::remove_directory(folder, &name),
                    false => unlinkat(folder, name.as_c_str(), UnlinkatFlags::NoRemoveDir),
                }
            }
        };
        removed.map_err(|errno| failed("what has its name cannot be deleted", errno))
    }

    fn regular(
        &mut self,
        at: At<'_>,
        entry: &Entry,
        owner: (u32, u32),
        stream: &mut Reader<impl Read>,
    ) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o600);
        let file = File::from(self.replacing(at, |at| openat(at.folder.fd(), at.name, flags, mode))?);
        write_data(&file, entry, stream)?;
        let node = Node::Open(file.as_fd());
        let set = |errno| failed("its metadata cannot be set", errno);
        if at.folder.gives_owner != Some(owner) {
            fchown(&file, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1))).map_err(set)?;
        }
        self.attributes(node, at, entry, true)?;
        fchmod(&file, Mode::from_bits_truncate(entry.mode)).map_err(set)?;
        futimens(&file, &times(entry.mtime), &times(entry.mtime)).map_err(set)
    }

    fn directory(&mut self, at: At<'_>, entry: &Entry, owner: (u32, u32)) -> Result<()> {
        let make = |at: At<'_>| mkdirat(at.folder.fd(), at.name, Mode::from_bits_truncate(0o700));
        let is_new = match make(at) {
            Ok(()) => true,
            Err(Errno::EEXIST) => {
                let there = metadata(at.folder.fd(), &c_name(at.name)?);
                let merges = there.is_ok_and(|there| there.is_directory());
                if !merges {
                    self.remove(at)?;
                    make(at).map_err(|errno| failed("it cannot be made", errno))?;
                }
                !merges
            }
            Err(errno) => return Err(failed("it cannot be made", errno)),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let directory = openat(at.folder.fd(), at.name, flags, Mode::empty())
            .map_err(|errno| failed("it cannot be opened", errno))?;
        self.describe_directory(&directory, at, entry, owner, is_new)
    }

    /// The metadata of a directory that is open; its time is set when nothing is made in it any more.
    pub(crate) fn describe_directory(
        &mut self,
        directory: &OwnedFd,
        at: At<'_>,
        entry: &Entry,
        owner: (u32, u32),
        is_new: bool,
    ) -> Result<()> {
        let set = |errno| failed("its metadata cannot be set", errno);
        fchown(directory, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1))).map_err(set)?;
        self.attributes(Node::Open(directory.as_fd()), at, entry, is_new)?;
        fchmod(directory, Mode::from_bits_truncate(entry.mode)).map_err(set)?;
        let id = metadata_of(directory).map_err(set)?.id;
        self.times_last(entry, id)
    }

    /// The metadata of what is not opened: links, devices, FIFOs.
    fn describe(&mut self, at: At<'_>, entry: &Entry, owner: (u32, u32)) -> Result<()> {
        let set = |errno| failed("its metadata cannot be set", errno);
        let folder = at.folder.fd();
        let (uid, gid) = (Uid::from_raw(owner.0), Gid::from_raw(owner.1));
        fchownat(folder, at.name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(set)?;
        self.attributes(Node::Named(folder, at.name), at, entry, entry.kind != EntryKind::Symlink)?;
        if entry.kind != EntryKind::Symlink {
            let mode = Mode::from_bits_truncate(entry.mode);
            fchmodat(folder, at.name, mode, FchmodatFlags::NoFollowSymlink).map_err(set)?;
        }
        let time = times(entry.mtime);
        utimensat(folder, at.name, &time, &time, UtimensatFlags::NoFollowSymlink).map_err(set)
    }

    fn attributes(&mut self, node: Node<'_>, at: At<'_>, entry: &Entry, is_new: bool) -> Result<()> {
        let fault = |what: &[u8], errno| {
            failed(&format!("its attribute {} cannot be set", crate::error::shown(what)), errno)
        };
        if is_new && at.folder.gives_acl {
            drop_inherited(node).map_err(|errno| fault(acl::ACCESS, errno))?;
        }
        for name in &entry.removed_xattrs {
            match node.remove(&c_name(name)?) {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(fault(name, errno)),
            }
        }
        for name in &entry.acls_by_name {
            if self.options.all_xattrs {
                let why = "its ACL has names of users or groups, and not their numbers";
                return Err(Error::new(ErrorKind::Unsupported, ACTION, why));
            }
            self.skip_xattr(&entry.path, name);
        }
        for xattr in &entry.xattrs {
            let name = c_name(&xattr.name)?;
            let mapped = map_acl(&self.options.ids, &xattr.name, &xattr.value)?;
            let set = match is_kept(&xattr.name) {
                true => node.set(&name, mapped.as_deref().unwrap_or(&xattr.value)),
                false => Err(Errno::EOPNOTSUPP),
            };
            match set {
                Ok(()) => {}
                Err(Errno::EOPNOTSUPP | Errno::EPERM) if !self.options.all_xattrs => {
                    self.skip_xattr(&entry.path, &xattr.name);
                }
                Err(errno) => return Err(fault(&xattr.name, errno)),
            }
        }
        Ok(())
    }

    /// One more name. The file's metadata stays: it is the same file.
    fn hard_link(&mut self, at: At<'_>, entry: &Entry) -> Result<()> {
        let wrong = |why: &str| {
            let why = format!("its other name \"{}\" {why}", crate::error::shown(&entry.link));
            Error::new(ErrorKind::Refused, ACTION, why)
        };
        let other =
            name::clean(&entry.link, self.options.absolute_names).map_err(|error| wrong(&error.why))?;
        if other.is_empty() {
            return Err(wrong("is the tree's root"));
        }
        let other = name::split(&other);
        let folder = self.parents.existing(other.parent).map_err(|error| wrong(&error.why))?;
        let there: Metadata = metadata(folder.fd(), &c_name(other.last)?).map_err(|errno| match errno {
            Errno::ENOENT => wrong("is not there: neither in this layer before it, nor in lower layers"),
            errno => failed("its other name cannot be read", errno),
        })?;
        if there.is_directory() {
            return Err(wrong("is a directory"));
        }
        if folder.id == at.folder.id && other.last == at.name {
            return Err(wrong("is its own name"));
        }
        if metadata(at.folder.fd(), &c_name(at.name)?).is_ok_and(|here| here.id == there.id) {
            return Ok(());
        }
        self.replacing(at, |at| linkat(folder.fd(), other.last, at.folder.fd(), at.name, AtFlags::empty()))
    }
}

/// An ACL with the host's numbers; `None`: the value stays as it is.
fn map_acl(ids: &IdMaps, name: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
    if ids.is_identity() || (name != acl::ACCESS && name != acl::DEFAULT) {
        return Ok(None);
    }
    let mapped = acl::map_ids(value, |uid| ids.uid_outside(uid), |gid| ids.gid_outside(gid));
    match mapped {
        Some(mapped) => Ok(Some(mapped)),
        None => {
            let why = "its ACL is damaged, or names a user or group outside the ranges that are mapped";
            Err(Error::new(ErrorKind::Refused, ACTION, why))
        }
    }
}

fn write_data(file: &File, entry: &Entry, stream: &mut Reader<impl Read>) -> Result<()> {
    let failed = |error| Error::io(ACTION, "its data cannot be written", error);
    let Some(extents) = &entry.sparse else {
        let mut offset = 0;
        loop {
            let data = stream.data()?;
            if data.is_empty() {
                return Ok(());
            }
            file.write_all_at(data, offset).map_err(failed)?;
            let bytes = data.len();
            offset += bytes as u64;
            stream.consume(bytes);
        }
    };
    file.set_len(entry.size).map_err(failed)?;
    for extent in extents {
        let mut done = 0;
        while done < extent.length {
            let data = stream.data()?;
            let most = usize::try_from(extent.length - done).unwrap_or(usize::MAX).min(data.len());
            file.write_all_at(&data[..most], extent.offset + done).map_err(failed)?;
            done += most as u64;
            stream.consume(most);
        }
    }
    Ok(())
}
