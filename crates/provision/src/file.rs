//! Backing files: facts, making, growing, allocating, removing.

use crate::backing::{Allocation, Ensured, FileInfo};
use crate::error::{Error, Result};
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::statfs::fstatfs;
use nix::unistd::{Whence, lseek};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use thinlayer_dm::Bytes;

/// What `st_blocks` counts in.
const STAT_BLOCK: u64 = 512;
/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

pub(crate) fn failed(action: &'static str, path: &Path, errno: Errno) -> Error {
    let advice = match errno {
        Errno::EACCES | Errno::EPERM => "this needs root",
        Errno::EROFS => "its file system is mounted read-only",
        Errno::EFBIG => "its file system holds no file of this size; choose a smaller one",
        _ => "",
    };
    Error::System { action, path: path.to_owned(), errno, advice: advice.to_owned() }
}

fn info(metadata: &Metadata) -> FileInfo {
    FileInfo {
        size: Bytes(metadata.len()),
        allocated: Bytes(metadata.blocks().saturating_mul(STAT_BLOCK)),
        dev: metadata.dev(),
        inode: metadata.ino(),
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    let what = if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else {
        "not a regular file"
    };
    Err(Error::Unfit {
        path: path.to_owned(),
        why: format!("this is {what}, and a backing file must be a regular file; move it away"),
    })
}

/// [`crate::Backing::file`].
pub(crate) fn look(path: &Path) -> Result<Option<FileInfo>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => {
            check_kind(path, &metadata)?;
            Ok(Some(info(&metadata)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("look at", path, errno(&error))),
    }
}

/// Opens a file that is there, never through a link and never anything but a file.
pub(crate) fn open(path: &Path, write: bool) -> Result<File> {
    // Without O_NONBLOCK, a FIFO of this name would make the call wait for its other end.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = OpenOptions::new().read(true).write(write).custom_flags(flags.bits()).open(path);
    let file = opened.map_err(|error| match errno(&error) {
        // A link or a directory says so itself.
        Errno::ELOOP | Errno::EISDIR | Errno::ENXIO => match look(path) {
            Err(told) => told,
            Ok(_) => failed("open", path, errno(&error)),
        },
        errno => failed("open", path, errno),
    })?;
    let metadata = file.metadata().map_err(|error| failed("look at", path, errno(&error)))?;
    check_kind(path, &metadata)?;
    Ok(file)
}

/// Opens a block device for reading alone. Its path may be a link, as those in `/dev/mapper` are.
pub(crate) fn open_device(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    opened.map_err(|error| failed("open", path, errno(&error)))
}

/// [`crate::Backing::ensure_file`]. `attached` says whether a loop device holds the file; it is asked only before holes are written to.
pub(crate) fn ensure(
    path: &Path,
    size: Bytes,
    allocation: Allocation,
    attached: &dyn Fn(&FileInfo) -> Result<Option<String>>,
) -> Result<Ensured> {
    if look(path)?.is_some() {
        return ensure_existing(path, size, allocation, attached);
    }
    let made = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path);
    let file = match made {
        Ok(file) => file,
        // Somebody was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return ensure_existing(path, size, allocation, attached);
        }
        Err(error) => return Err(failed("make", path, errno(&error))),
    };
    let filled = fill_new(&file, path, size, allocation);
    if filled.is_err()
        && let Err(error) = std::fs::remove_file(path)
    {
        tracing::warn!("{} was made in vain and cannot be removed: {error}", path.display());
    }
    filled.map(|()| Ensured::Created)
}

fn fill_new(file: &File, path: &Path, size: Bytes, allocation: Allocation) -> Result<()> {
    // The umask may have taken away more than it should.
    file.set_permissions(Permissions::from_mode(0o600))
        .map_err(|error| failed("set the mode of", path, errno(&error)))?;
    match allocation {
        Allocation::Sparse => set_length(file, path, size.0)?,
        Allocation::Full => allocate(file, path, size.0, &|_| Ok(None))?,
    }
    sync(file, path)?;
    sync_folder(path)
}

fn ensure_existing(
    path: &Path,
    size: Bytes,
    allocation: Allocation,
    attached: &dyn Fn(&FileInfo) -> Result<Option<String>>,
) -> Result<Ensured> {
    let file = open(path, true)?;
    let before = facts(&file, path)?.size;
    let wanted = size.0.max(before.0);
    let done = match allocation {
        Allocation::Sparse if wanted > before.0 => set_length(&file, path, wanted),
        Allocation::Sparse => Ok(()),
        Allocation::Full => allocate(&file, path, wanted, attached),
    };
    if let Err(error) = done {
        // What was allocated beyond the old end is given back with it.
        if wanted > before.0
            && let Err(second) = file.set_len(before.0)
        {
            tracing::warn!("{} cannot get back its length of {before}: {second}", path.display());
        }
        return Err(error);
    }
    sync(&file, path)?;
    Ok(if size > before {
        Ensured::Grown { from: before }
    } else if size < before {
        Ensured::Larger { size: before }
    } else {
        Ensured::AsItWas
    })
}

fn facts(file: &File, path: &Path) -> Result<FileInfo> {
    file.metadata().map(|metadata| info(&metadata)).map_err(|error| failed("look at", path, errno(&error)))
}

fn set_length(file: &File, path: &Path, length: u64) -> Result<()> {
    file.set_len(length).map_err(|error| failed("set the length of", path, errno(&error)))
}

fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(|error| failed("sync", path, errno(&error)))
}

fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| failed("sync the folder", folder, errno(&error)))
}

/// Bytes that the host file system can still give, root's share included.
fn room(file: &File, path: &Path) -> Result<u64> {
    let host = fstatfs(file).map_err(|errno| failed("measure the room for", path, errno))?;
    let block = u64::try_from(host.block_size()).unwrap_or(0);
    Ok(host.blocks_free().saturating_mul(block))
}

/// The error for a file that needs `needed` more bytes.
fn no_room(file: &File, path: &Path, needed: u64) -> Error {
    match room(file, path) {
        Ok(free) => Error::NoRoom {
            path: path.to_owned(),
            needed,
            free,
            option: crate::loop_pool::Side::Metadata.option(),
        },
        Err(error) => error,
    }
}

/// Gives a file all blocks up to `size`, and this length; its content stays.
fn allocate(
    file: &File,
    path: &Path,
    size: u64,
    attached: &dyn Fn(&FileInfo) -> Result<Option<String>>,
) -> Result<()> {
    let before = facts(file, path)?.size.0;
    // Only where blocks are missing: xfs sets room aside for the whole range of a call, so that on a full host it would
    // refuse a range that has everything already.
    let mut gaps = gaps(file, path, before.min(size))?;
    if size > before {
        gaps.push((before, size));
    }
    let needed = gaps.iter().map(|(from, to)| to - from).sum();
    // Asked first, since a failed attempt would leave the host file system full to the brim.
    if needed > room(file, path)? {
        return Err(no_room(file, path, needed));
    }
    for (from, to) in gaps {
        match fallocate_range(file, from, to) {
            Ok(()) => {}
            Err(Errno::ENOSPC | Errno::EDQUOT) => return Err(no_room(file, path, needed)),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => return fill_holes(file, path, size, attached),
            Err(errno) => return Err(failed("allocate", path, errno)),
        }
    }
    Ok(())
}

fn fallocate_range(file: &File, from: u64, to: u64) -> std::result::Result<(), Errno> {
    let from = i64::try_from(from).map_err(|_| Errno::EFBIG)?;
    let to = i64::try_from(to).map_err(|_| Errno::EFBIG)?;
    loop {
        match fallocate(file, FallocateFlags::empty(), from, to - from) {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
    }
}

/// The ranges below `end` without blocks. Unlike a hole, a range that was allocated and never written to is none.
fn gaps(file: &File, path: &Path, end: u64) -> Result<Vec<(u64, u64)>> {
    let mut gaps = Vec::new();
    let mut at = 0;
    while at < end {
        let (extents, last) = match sys::extents(file, at) {
            Ok(found) => found,
            // tmpfs and others cannot tell.
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS | Errno::EINVAL) => {
                return holes(file, path, end);
            }
            Err(errno) => return Err(failed("look for gaps in", path, errno)),
        };
        let before = at;
        for (from, to) in extents {
            if from > at && at < end {
                gaps.push((at, from.min(end)));
            }
            at = at.max(to);
        }
        if last || at == before {
            break;
        }
    }
    if at < end {
        gaps.push((at, end));
    }
    Ok(gaps)
}

/// Where [`allocate`] finds no fallocate: writes zeros into holes and beyond the end, and nowhere else.
fn fill_holes(
    file: &File,
    path: &Path,
    size: u64,
    attached: &dyn Fn(&FileInfo) -> Result<Option<String>>,
) -> Result<()> {
    let before = facts(file, path)?;
    let mut holes = holes(file, path, before.size.0)?;
    if !holes.is_empty()
        && let Some(user) = attached(&before)?
    {
        // Between the look and the write, the user could fill the hole.
        return Err(Error::InUse {
            path: path.to_owned(),
            user,
            advice: "its holes cannot be filled meanwhile on this host file system; detach it first".into(),
        });
    }
    if size > before.size.0 {
        holes.push((before.size.0, size));
    }
    let zeros = vec![0; ZEROS];
    for (from, to) in holes {
        let mut at = from;
        while at < to {
            let piece = usize::try_from(to - at).unwrap_or(ZEROS).min(ZEROS);
            match file.write_at(&zeros[..piece], at) {
                Ok(0) => return Err(failed("write zeros to", path, Errno::EIO)),
                Ok(written) => at += written as u64,
                Err(error) => match errno(&error) {
                    Errno::EINTR => {}
                    Errno::ENOSPC | Errno::EDQUOT => return Err(no_room(file, path, to - at)),
                    errno => return Err(failed("write zeros to", path, errno)),
                },
            }
        }
    }
    // Delayed allocation finds out here that there is no room.
    file.sync_all().map_err(|error| match errno(&error) {
        Errno::ENOSPC | Errno::EDQUOT => no_room(file, path, size.saturating_sub(before.allocated.0)),
        errno => failed("sync", path, errno),
    })?;
    let after = facts(file, path)?;
    if after.allocated.0 < size {
        tracing::warn!(
            "{} has {} of its {size} bytes: its file system keeps no room for zeros, so it may run out later",
            path.display(),
            after.allocated
        );
    }
    Ok(())
}

/// The holes below `end`, as ranges. A file system that cannot tell has none.
pub(crate) fn holes(file: &File, path: &Path, end: u64) -> Result<Vec<(u64, u64)>> {
    let seek = |at: u64, whence| {
        let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
        lseek(file, at, whence).and_then(|found| u64::try_from(found).map_err(|_| Errno::EOVERFLOW))
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < end {
        let hole = match seek(at, Whence::SeekHole) {
            Ok(hole) if hole < end => hole,
            // Beyond the end there is always one.
            Ok(_) | Err(Errno::ENXIO | Errno::EINVAL) => break,
            Err(errno) => return Err(failed("look for holes in", path, errno)),
        };
        at = match seek(hole, Whence::SeekData) {
            Ok(data) => data.min(end),
            Err(Errno::ENXIO) => end,
            Err(errno) => return Err(failed("look for holes in", path, errno)),
        };
        if at <= hole {
            // Changed under our eyes: only a growing position ends the loop.
            at = hole + 1;
            continue;
        }
        found.push((hole, at));
    }
    Ok(found)
}

/// [`crate::Backing::remove_file`], for a file that nobody holds.
pub(crate) fn remove(path: &Path) -> Result<bool> {
    if look(path)?.is_none() {
        return Ok(false);
    }
    // Some file systems free an unlinked file's blocks in the background, a shortened one's at once.
    let file = open(path, true)?;
    set_length(&file, path, 0)?;
    sync(&file, path)?;
    drop(file);
    std::fs::remove_file(path).map_err(|error| failed("remove", path, errno(&error)))?;
    sync_folder(path)?;
    Ok(true)
}

#[cfg(test)]
mod tests;
