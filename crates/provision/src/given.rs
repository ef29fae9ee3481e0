//! Devices that an operator names: looked at before anything is touched.
//!
//! `dm.datadev` and `dm.metadatadev` are the two sides of a pool that the driver makes, `dm.thinpooldev` a pool that
//! is there already. Nothing here writes; what is refused is as it was.

use crate::backing::{Backing, BlockDevice};
use crate::error::{Error, Result};
use crate::loop_pool::{MIN_DATA, MIN_METADATA, Side};
use crate::signature::{THIN_POOL, THIN_POOL_DAMAGED, UNRECOGNISED};
use crate::superblock::Superblock;
use nix::errno::Errno;
use std::fmt;
use std::path::Path;
use thinlayer_dm::{Bytes, DeviceNumber, DmName};

/// More metadata than this the kernel does not use (`THIN_METADATA_MAX_SECTORS`).
pub const MAX_METADATA: Bytes = Bytes(255 * (1 << 14) * 8 * 512);

/// What the devices are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A new pool: neither device may hold anything. Metadata of a pool that was made and never used is taken: a first start was cut off.
    New,
    /// The pool that this root has had before. It may not have come to be (a crash): blank devices are taken too.
    Existing,
    /// As [`Purpose::Existing`], and nothing is to be written: devices that refuse writes are taken, blank ones are not.
    ReadOnly,
}

/// Two devices that can serve as a pool's sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// For data.
    pub data: BlockDevice,
    /// For metadata.
    pub metadata: BlockDevice,
    /// The metadata device is zero at its beginning: the kernel will format it. Otherwise it holds a pool.
    ///
    /// A caller that knows of layers refuses to go on with a blank one: their pool is elsewhere.
    pub blank: bool,
}

/// Checks two given devices; `fresh` says that this root never had a pool.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] for a device that is not there, the same one twice, something else than a block device, one
/// that is too small, refuses writes, or holds what somebody may want; [`crate::ErrorKind::Busy`] for one in use.
pub fn validate_pair(backing: &dyn Backing, data: &Path, metadata: &Path, fresh: bool) -> Result<Pair> {
    validate_pair_for(backing, data, metadata, if fresh { Purpose::New } else { Purpose::Existing })
}

/// As [`validate_pair`], for any [`Purpose`].
///
/// # Errors
/// As there.
pub fn validate_pair_for(
    backing: &dyn Backing,
    data: &Path,
    metadata: &Path,
    purpose: Purpose,
) -> Result<Pair> {
    let data_device = look(backing, data, Side::Data)?;
    let metadata_device = look(backing, metadata, Side::Metadata)?;
    if data_device.number == metadata_device.number {
        return Err(unfit(
            data,
            format!(
                "{} and {} name the same device ({}, {}), and a pool needs two: give each its own, such as a logical volume",
                Side::Data.given_option(),
                Side::Metadata.given_option(),
                metadata.display(),
                data_device.number
            ),
        ));
    }
    let blank = check_metadata(backing, metadata, &metadata_device, purpose)?;
    // A pool that is about to be formatted would write over whatever is on the data device.
    check_data(data, &data_device, if blank { Purpose::New } else { purpose })?;
    Ok(Pair { data: data_device, metadata: metadata_device, blank })
}

/// Checks a device for data alone, where metadata is in a loop file.
///
/// # Errors
/// As [`validate_pair`].
pub fn validate_data(backing: &dyn Backing, path: &Path, purpose: Purpose) -> Result<BlockDevice> {
    let device = look(backing, path, Side::Data)?;
    check_data(path, &device, purpose)?;
    Ok(device)
}

/// Checks a device for metadata alone, where data is in a loop file; also says whether it is blank.
///
/// # Errors
/// As [`validate_pair`].
pub fn validate_metadata(
    backing: &dyn Backing,
    path: &Path,
    purpose: Purpose,
) -> Result<(BlockDevice, bool)> {
    let device = look(backing, path, Side::Metadata)?;
    let blank = check_metadata(backing, path, &device, purpose)?;
    Ok((device, blank))
}

/// Checks that an active pool stands on the device that was given for a side.
///
/// # Errors
/// [`crate::ErrorKind::Busy`] if it stands on another one; [`crate::ErrorKind::Invalid`] if the given one is not there;
/// otherwise as [`Backing::inspect`].
pub fn validate_active(
    backing: &dyn Backing,
    path: &Path,
    side: Side,
    number: DeviceNumber,
) -> Result<BlockDevice> {
    let device = look(backing, path, side)?;
    if device.number == number {
        return Ok(device);
    }
    Err(Error::InUse {
        path: path.to_owned(),
        user: format!(
            "nobody of ours ({}, {}): the active pool's {side} device is {number}",
            side.given_option(),
            device.number
        ),
        advice: "name the device that the pool was made with, or end that pool first (thinlayer stop)".into(),
    })
}

/// Looks at a given device. One that is not there is a mistake of the option that names it.
fn look(backing: &dyn Backing, path: &Path, side: Side) -> Result<BlockDevice> {
    backing.inspect(path).map_err(|error| match error {
        Error::System { errno: Errno::ENOENT | Errno::ENXIO | Errno::ENODEV, .. } => unfit(
            path,
            format!(
                "there is no such device; name the pool's {side} device ({}), or make it appear",
                side.given_option()
            ),
        ),
        error => error,
    })
}

fn check_data(path: &Path, device: &BlockDevice, purpose: Purpose) -> Result<()> {
    check_common(path, device, Side::Data, MIN_DATA, purpose)?;
    match device.signature.as_deref() {
        // Behind a pool stands whatever its layers hold, and any of it may look like a signature.
        _ if purpose != Purpose::New => Ok(()),
        None | Some(UNRECOGNISED) => Ok(()),
        Some(found) => Err(unfit(
            path,
            format!(
                "it holds {found}, which a pool would destroy ({}); if nobody needs that any more, remove it: wipefs --all {}",
                Side::Data.given_option(),
                path.display()
            ),
        )),
    }
}

fn check_metadata(
    backing: &dyn Backing,
    path: &Path,
    device: &BlockDevice,
    purpose: Purpose,
) -> Result<bool> {
    check_common(path, device, Side::Metadata, MIN_METADATA, purpose)?;
    if device.size > MAX_METADATA {
        tracing::warn!(
            "{}: of its {} the kernel uses {MAX_METADATA} for metadata",
            path.display(),
            device.size
        );
    }
    let option = Side::Metadata.given_option();
    let shown = path.display();
    let zero = format!("zero its first 4 KiB: dd if=/dev/zero of={shown} bs=4096 count=1 conv=fsync");
    let refused = match device.signature.as_deref() {
        None if purpose == Purpose::ReadOnly => "it holds no pool, so there is nothing to read".to_owned(),
        None => return Ok(true),
        Some(THIN_POOL) if purpose != Purpose::New => return Ok(false),
        Some(THIN_POOL) if matches!(backing.superblock(path)?, Superblock::Pool(facts) if facts.is_empty()) =>
        {
            return Ok(false);
        }
        Some(THIN_POOL) => format!(
            "it holds the metadata of another thin pool, and this root never had one ({option}); if nobody needs that pool any more, {zero}"
        ),
        Some(THIN_POOL_DAMAGED) => format!(
            "it holds {THIN_POOL_DAMAGED}: its superblock fails its checksum ({option}); see what is left with thin_check {shown}, mend it with thin_repair, or to begin anew {zero}"
        ),
        Some(UNRECOGNISED) => format!(
            "it holds neither a pool's metadata nor zeros, so the kernel would refuse it ({option}); if nobody needs what it holds, {zero}"
        ),
        Some(found) => format!(
            "it holds {found}, which a pool would destroy ({option}); if nobody needs that any more, remove it with wipefs --all {shown}, then {zero}"
        ),
    };
    Err(unfit(path, refused))
}

fn check_common(path: &Path, device: &BlockDevice, side: Side, least: Bytes, purpose: Purpose) -> Result<()> {
    let option = side.given_option();
    if !device.users.is_empty() {
        return Err(Error::InUse {
            path: path.to_owned(),
            user: device.users.join(", "),
            advice: format!("free it first, or name another device ({option})"),
        });
    }
    if device.size < least {
        return Err(unfit(
            path,
            format!(
                "it has {}, and a pool's {side} device needs at least {least}; name a larger one ({option})",
                device.size
            ),
        ));
    }
    if device.read_only && purpose != Purpose::ReadOnly {
        return Err(unfit(
            path,
            format!("it refuses writes; allow them (blockdev --setrw), or name another device ({option})"),
        ));
    }
    Ok(())
}

fn unfit(path: &Path, why: String) -> Error {
    Error::Unfit { path: path.to_owned(), why }
}

/// The pool of `dm.thinpooldev`, as a device-mapper name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolName(DmName);

impl PoolName {
    /// From the option's value: a name, or a path in `/dev/mapper`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] if what is left without `/dev/mapper/` is no name of a device.
    pub fn new(value: &str) -> Result<Self> {
        let name = value.strip_prefix("/dev/mapper/").unwrap_or(value);
        DmName::new(name).map(Self).map_err(|error| {
            unfit(
                Path::new(value),
                format!("dm.thinpooldev wants the name of a pool or its path in /dev/mapper, as dmsetup ls shows it: {error}"),
            )
        })
    }

    /// The name.
    pub fn name(&self) -> &DmName {
        &self.0
    }

    /// The name.
    pub fn into_name(self) -> DmName {
        self.0
    }
}

impl fmt::Display for PoolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
