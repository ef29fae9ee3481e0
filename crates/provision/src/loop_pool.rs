//! The loop files under a root, and the devices on them.
//!
//! `ROOT/devicemapper/data` is sparse; `ROOT/devicemapper/metadata` has all its blocks before a pool stands on it,
//! so that a full host file system cannot break the pool's trees. Files only ever grow.
//!
//! Beside them lies a reserve, `ROOT/thinlayer/metadata-reserve`: room that the pool gets when its metadata is full
//! and the host file system may be too. Without it not even a removal would work.
//!
//! Everything goes through [`Backing`], and every function may be called again after a crash at any of its steps.

use crate::backing::{Allocation, AttachOptions, Attachment, Backing, Ensured, FileInfo, LoopDevice};
use crate::error::{Error, ErrorKind, Result};
use nix::errno::Errno;
use std::fmt;
use std::path::{Path, PathBuf};
use thinlayer_dm::{Bytes, DeviceNumber};

/// The least a data device may have: a pool's smallest block.
pub const MIN_DATA: Bytes = Bytes(64 << 10);
/// The least a metadata device may have (`Documentation/admin-guide/device-mapper/thin-provisioning.rst`).
pub const MIN_METADATA: Bytes = Bytes(2 << 20);
/// Lengths are rounded up to this, so that no part of a block stays out of the loop device's reach.
const UNIT: u64 = 4096;

/// One of a pool's two devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The data device.
    Data,
    /// The metadata device.
    Metadata,
}

impl Side {
    /// The file below a root.
    pub fn path(self, root: &Path) -> PathBuf {
        root.join("devicemapper").join(match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
        })
    }

    /// How much of the file is really there.
    pub fn allocation(self) -> Allocation {
        match self {
            Self::Data => Allocation::Sparse,
            Self::Metadata => Allocation::Full,
        }
    }

    /// The option that sets the file's size.
    pub fn option(self) -> &'static str {
        match self {
            Self::Data => "dm.loopdatasize",
            Self::Metadata => "dm.loopmetadatasize",
        }
    }

    /// The option that names a device in the file's place.
    pub fn given_option(self) -> &'static str {
        match self {
            Self::Data => "dm.datadev",
            Self::Metadata => "dm.metadatadev",
        }
    }

    fn least(self) -> Bytes {
        match self {
            Self::Data => MIN_DATA,
            Self::Metadata => MIN_METADATA,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
        })
    }
}

/// Where a root's reserve lies.
pub fn reserve_path(root: &Path) -> PathBuf {
    root.join("thinlayer/metadata-reserve")
}

/// The sizes that the files should have at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// `dm.loopdatasize`.
    pub data: Bytes,
    /// `dm.loopmetadatasize`.
    pub metadata: Bytes,
}

/// What was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairState {
    /// Neither file: both were made.
    Created,
    /// A data file without a single block, and no metadata: what a run that was killed while it made the pair
    /// leaves. The pair was completed; it holds nothing.
    Completed,
    /// Both files.
    Found,
}

/// A side on its loop device.
#[derive(Debug)]
pub struct LoopSide {
    /// The file.
    pub path: PathBuf,
    /// What was done to it.
    pub ensured: Ensured,
    /// The loop device, held open until a pool stands on it.
    pub attachment: Attachment,
}

/// Both sides on their loop devices.
#[derive(Debug)]
pub struct LoopPair {
    /// What was there.
    pub state: PairState,
    /// The data side.
    pub data: LoopSide,
    /// The metadata side.
    pub metadata: LoopSide,
}

/// Makes or grows both files and attaches them; on failure, what was attached is free again and files made are gone.
///
/// A file larger than asked for stays so; the [`Ensured`] of its side says it. The folders must be there.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if one file is there and the other is not (nothing is touched), or a size is too
/// small; [`crate::ErrorKind::NoSpace`]; [`crate::ErrorKind::Busy`] if another loop device holds a file.
pub fn ensure_pair(backing: &dyn Backing, root: &Path, sizes: Sizes) -> Result<LoopPair> {
    let data_size = checked_size(root, Side::Data, sizes.data)?;
    let metadata_size = checked_size(root, Side::Metadata, sizes.metadata)?;
    let data_path = Side::Data.path(root);
    let found_data = backing.file(&data_path)?;
    let found_metadata = backing.file(&Side::Metadata.path(root))?;
    let state = match (&found_data, &found_metadata) {
        (None, None) => PairState::Created,
        (Some(_), Some(_)) => PairState::Found,
        // The data file is made first, so this is a run that did not come to the second.
        (Some(data), None) if data.allocated == Bytes(0) => PairState::Completed,
        (Some(_), None) => return Err(partial(root, Side::Metadata, Side::Data)),
        (None, Some(_)) => return Err(partial(root, Side::Data, Side::Metadata)),
    };
    prove_free(backing, &data_path, found_data.as_ref())?;
    prove_free(backing, &Side::Metadata.path(root), found_metadata.as_ref())?;

    let data = ensure(backing, root, Side::Data, data_size)?;
    let both = ensure(backing, root, Side::Metadata, metadata_size);
    let metadata = match both {
        Ok(metadata) => metadata,
        Err(error) => {
            if data == Ensured::Created
                && let Err(second) = backing.remove_file(&data_path)
            {
                tracing::warn!("{second} (it was made in vain, and is empty)");
            }
            return Err(error);
        }
    };
    let data = attach(backing, root, Side::Data, data)?;
    // If this fails, dropping the first frees its device.
    let metadata = attach(backing, root, Side::Metadata, metadata)?;
    Ok(LoopPair { state, data, metadata })
}

/// One side alone, where the other is a given device.
///
/// # Errors
/// As [`ensure_pair`].
pub fn ensure_side(backing: &dyn Backing, root: &Path, side: Side, size: Bytes) -> Result<LoopSide> {
    let size = checked_size(root, side, size)?;
    let path = side.path(root);
    prove_free(backing, &path, backing.file(&path)?.as_ref())?;
    let ensured = ensure(backing, root, side, size)?;
    attach(backing, root, side, ensured)
}

/// Attaches both files as they are, read-only: nothing is made, grown or allocated.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`] if a file is missing; [`crate::ErrorKind::Busy`] if another loop device holds one.
pub fn open_read_only(backing: &dyn Backing, root: &Path) -> Result<LoopPair> {
    let data = open_side_read_only(backing, root, Side::Data, None)?;
    let metadata = open_side_read_only(backing, root, Side::Metadata, None)?;
    Ok(LoopPair { state: PairState::Found, data, metadata })
}

/// As [`open_read_only`], for one side, of which no more than `limit` is shown.
///
/// # Errors
/// As there.
pub fn open_side_read_only(
    backing: &dyn Backing,
    root: &Path,
    side: Side,
    limit: Option<Bytes>,
) -> Result<LoopSide> {
    let path = side.path(root);
    if backing.file(&path)?.is_none() {
        return Err(Error::System {
            action: "find",
            path,
            errno: Errno::ENOENT,
            advice: "this root has no loop-backed pool, or has lost it: put the file back".into(),
        });
    }
    let attachment = backing.attach(&path, AttachOptions { limit, ..AttachOptions::READ_ONLY })?;
    Ok(LoopSide { path, ensured: Ensured::AsItWas, attachment })
}

/// The loop devices of an active pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActivePair {
    /// The data side's.
    pub data: LoopDevice,
    /// The metadata side's.
    pub metadata: LoopDevice,
}

/// Finds the loop devices of a pool that is active already, by the numbers in its table, and proves that they stand
/// on this root's files and nobody else does.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] if the pool stands on something else; [`crate::ErrorKind::NotFound`] if a file is
/// gone; [`crate::ErrorKind::Busy`] if another loop device holds the same file.
pub fn find_active(
    backing: &dyn Backing,
    root: &Path,
    data: DeviceNumber,
    metadata: DeviceNumber,
) -> Result<ActivePair> {
    Ok(ActivePair {
        data: find_active_side(backing, root, Side::Data, data)?,
        metadata: find_active_side(backing, root, Side::Metadata, metadata)?,
    })
}

/// As [`find_active`], for one side.
///
/// # Errors
/// As there.
pub fn find_active_side(
    backing: &dyn Backing,
    root: &Path,
    side: Side,
    number: DeviceNumber,
) -> Result<LoopDevice> {
    let path = side.path(root);
    let Some(file) = backing.file(&path)? else {
        return Err(Error::System {
            action: "find",
            path,
            errno: Errno::ENOENT,
            advice: format!(
                "the active pool's {side} device is {number}; if that still holds the file, copy the device before anything ends"
            ),
        });
    };
    let mut found = None;
    let mut other = None;
    for device in backing.loops()? {
        if device.number == number {
            found = Some(device);
        } else if same(&device, &file) {
            other = Some(device);
        }
    }
    let Some(device) = found else {
        return Err(Error::Unfit {
            path,
            why: format!(
                "the active pool's {side} device is {number}, which is no loop device in use: this is the pool of another root, or of other options ({})",
                side.given_option()
            ),
        });
    };
    if !same(&device, &file) {
        return Err(Error::Unfit {
            path,
            why: format!(
                "the active pool's {side} device is {}, and that holds {}: this is the pool of another root, or the file was replaced under it",
                device.node.display(),
                device.file.display()
            ),
        });
    }
    match other {
        Some(other) => Err(held(&path, &other)),
        None => Ok(device),
    }
}

/// What growing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// What was done to the file.
    pub ensured: Ensured,
    /// The loop device's size now. The pool sees it when it is loaded again.
    pub device: Bytes,
}

/// Grows a file under an active pool, and its loop device.
///
/// # Errors
/// As [`find_active_side`]; [`crate::ErrorKind::NoSpace`], and then everything is as it was.
pub fn grow_side(
    backing: &dyn Backing,
    root: &Path,
    side: Side,
    number: DeviceNumber,
    size: Bytes,
) -> Result<Growth> {
    let size = checked_size(root, side, size)?;
    find_active_side(backing, root, side, number)?;
    let ensured = ensure(backing, root, side, size)?;
    Ok(Growth { ensured, device: backing.refresh_size(number)? })
}

/// Makes the reserve, or grows it. `option` is what sets its size, for the error.
///
/// # Errors
/// [`crate::ErrorKind::NoSpace`].
pub fn ensure_reserve(
    backing: &dyn Backing,
    root: &Path,
    size: Bytes,
    option: &'static str,
) -> Result<Ensured> {
    let size = Bytes(size.0.next_multiple_of(UNIT));
    backing
        .ensure_file(&reserve_path(root), size, Allocation::Full)
        .map_err(|error| with_option(error, option))
}

/// What spending the reserve gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// How much the metadata file grew by: the reserve, less what the host file system needed for itself.
    pub added: Bytes,
    /// The metadata device's size now. The pool sees it when it is loaded again.
    pub device: Bytes,
}

/// Gives the reserve's room to the metadata of an active pool; `None` if there is no reserve.
///
/// The reserve is removed first, since the host file system may have no other room. A crash between the two steps
/// loses it: [`ensure_reserve`] makes it again as soon as there is room.
///
/// # Errors
/// As [`grow_side`]; before the reserve is touched, unless somebody else takes its room in that moment.
pub fn spend_reserve(backing: &dyn Backing, root: &Path, metadata: DeviceNumber) -> Result<Option<Spent>> {
    let reserve_path = reserve_path(root);
    let Some(reserve) = backing.file(&reserve_path)? else { return Ok(None) };
    let path = Side::Metadata.path(root);
    find_active_side(backing, root, Side::Metadata, metadata)?;
    let Some(before) = backing.file(&path)? else { return Err(missing(path)) };
    // Made by a run that was killed: what it has got is what it is worth.
    let worth = reserve.allocated.min(reserve.size);
    let added = Bytes(worth.0 / UNIT * UNIT);
    backing.remove_file(&reserve_path)?;
    if added == Bytes(0) {
        return Ok(None);
    }
    // A host file system may need a few blocks of the room for its own trees.
    let mut refused = None;
    for eighths in [8, 7, 4, 1] {
        let part = Bytes(added.0 / UNIT * eighths / 8 * UNIT);
        let Some(size) = before.size.checked_add(part).filter(|_| part > Bytes(0)) else { continue };
        match ensure(backing, root, Side::Metadata, size) {
            Ok(_) => return Ok(Some(Spent { added: part, device: backing.refresh_size(metadata)? })),
            Err(error) if error.kind() == ErrorKind::NoSpace => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| missing(path)))
}

fn missing(path: PathBuf) -> Error {
    Error::System { action: "find", path, errno: Errno::ENOENT, advice: "put the file back".into() }
}

fn checked_size(root: &Path, side: Side, size: Bytes) -> Result<Bytes> {
    let rounded = size.0.checked_next_multiple_of(UNIT).map(Bytes);
    match rounded {
        Some(rounded) if size >= side.least() && i64::try_from(rounded.0).is_ok() => Ok(rounded),
        _ => Err(Error::Unfit {
            path: side.path(root),
            why: format!(
                "{size} is no size for a pool's {side}: choose at least {} and less than 8 EiB ({})",
                side.least(),
                side.option()
            ),
        }),
    }
}

fn ensure(backing: &dyn Backing, root: &Path, side: Side, size: Bytes) -> Result<Ensured> {
    let path = side.path(root);
    let ensured = backing
        .ensure_file(&path, size, side.allocation())
        .map_err(|error| with_option(error, side.option()))?;
    match ensured {
        Ensured::Larger { size: larger } => tracing::warn!(
            "{} has {larger}, more than {} asks for ({size}): it stays so, as a pool cannot shrink",
            path.display(),
            side.option()
        ),
        Ensured::Grown { from } => tracing::info!("{} grew from {from} to {size}", path.display()),
        Ensured::Created | Ensured::AsItWas => {}
    }
    Ok(ensured)
}

fn attach(backing: &dyn Backing, root: &Path, side: Side, ensured: Ensured) -> Result<LoopSide> {
    let path = side.path(root);
    let attachment = backing.attach(&path, AttachOptions::default())?;
    Ok(LoopSide { path, ensured, attachment })
}

/// Refuses a file that a loop device holds, before it is touched.
fn prove_free(backing: &dyn Backing, path: &Path, file: Option<&FileInfo>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    if backing.loops()?.iter().any(|device| same(device, file)) {
        // A device that is just going away is waited for by attach, which also has the words for one that stays.
        backing.attach(path, AttachOptions::READ_ONLY)?;
    }
    Ok(())
}

fn same(device: &LoopDevice, file: &FileInfo) -> bool {
    device.dev == file.dev && device.inode == file.inode
}

fn held(path: &Path, other: &LoopDevice) -> Error {
    let node = other.node.display();
    Error::InUse {
        path: path.to_owned(),
        user: format!("the active pool, and another loop device holds the same file: {node}"),
        advice: format!(
            "two users of one file destroy it; see who uses it (losetup -l, dmsetup deps) and detach it (losetup -d {node})"
        ),
    }
}

fn partial(root: &Path, gone: Side, there: Side) -> Error {
    let path = gone.path(root);
    let there_path = there.path(root);
    let shown = there_path.display();
    let why = format!(
        "this {gone} file is missing, while {shown} is there; one without the other is no pool, and no new one was made; \
         put the {gone} file back, or move {shown} away to begin with an empty pool"
    );
    Error::Unfit { path, why }
}

/// The option that the operator can change is this layer's knowledge, not that of the file's maker.
fn with_option(error: Error, option: &'static str) -> Error {
    match error {
        Error::NoRoom { path, needed, free, .. } => Error::NoRoom { path, needed, free, option },
        error => error,
    }
}

#[cfg(test)]
mod tests;
