//! `ROOT/thinlayer/pool.json`: what a root's pool was when it was proven last.

use super::{Known, LOOP_WORDS, Wanted, device_of};
use crate::driver::Notice;
use crate::error::{Error, Result};
use crate::machine::{Family, Machine};
use crate::options::Options;
use crate::size::human_size;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thinlayer_dm::{Bytes, DeviceNumber, DeviceRef, DmName};
use thinlayer_provision::loop_pool::Side;
use thinlayer_thin::Pool;

/// The file's folder and the file, below the root.
const FOLDER: &str = "thinlayer";
pub(super) const FILE: &str = "thinlayer/pool.json";
const NEW_FILE: &str = "thinlayer/pool.json.new";

/// The version that this program writes and reads.
const VERSION: u32 = 1;

/// What a pool stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PoolKind {
    /// Files in the root.
    Loop,
    /// `dm.datadev`, `dm.metadatadev`, or one of them and a file.
    Devices,
    /// `dm.thinpooldev`.
    Thinpool,
    /// A volume group that was set up for it (`dm.directlvm_device`).
    DirectLvm,
}

impl PoolKind {
    /// Both are a pool that somebody else activates, found by its name.
    pub(super) fn is_named(self) -> bool {
        matches!(self, Self::Thinpool | Self::DirectLvm)
    }
}

/// One of the pool's two devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SideIdentity {
    /// The file, below the root, or the device's path as it was given.
    pub(super) path: PathBuf,
    /// The file's inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) inode: Option<u64>,
    /// The device's name in device-mapper.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) dm_name: String,
    /// The device's UUID in device-mapper, such as `LVM-...`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) dm_uuid: String,
    /// Bytes.
    pub(super) size: u64,
}

/// A root's pool as it was proven last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(super) version: u32,
    pub(crate) kind: PoolKind,
    /// Whose names the devices have.
    #[serde(default)]
    pub(super) family: Family,
    /// The pool's name in device-mapper, where somebody else activates it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) pool_name: String,
    /// Its UUID there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) pool_uuid: String,
    /// Bytes of a data block.
    pub(super) block_size: u64,
    /// Bytes of data.
    pub(super) data_size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<SideIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<SideIdentity>,
    /// The UUID of the base's file system.
    pub(crate) base_uuid: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |side: &Option<SideIdentity>| {
            side.as_ref().map_or_else(String::new, |side| side.path.display().to_string())
        };
        match self.kind {
            PoolKind::Loop => f.write_str(LOOP_WORDS),
            PoolKind::Devices => {
                write!(f, "the devices {} (data) and {} (metadata)", path(&self.data), path(&self.metadata))
            }
            PoolKind::Thinpool => write!(f, "the pool {} (dm.thinpooldev)", self.pool_name),
            PoolKind::DirectLvm => {
                write!(f, "the pool {} of its own volume group (direct-lvm)", self.pool_name)
            }
        }?;
        write!(f, ", {} of data", human_size(Bytes(self.data_size)))
    }
}

/// Whose names a root's devices have, as the file says.
pub(crate) fn family_on_disk(root: &Path) -> Option<Family> {
    let text = std::fs::read(root.join(FILE)).ok()?;
    serde_json::from_slice::<Identity>(&text).ok().map(|identity| identity.family)
}

/// The file; what cannot be read is told, and the pool has to prove itself.
pub(super) fn read(machine: &Machine, notices: &mut Vec<Notice>) -> Result<Option<Identity>> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let path = || machine.root.path.join(FILE);
    let text = match machine.disk.read(Path::new(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::Root { path: path(), why: format!("it cannot be read: {error}") }),
    };
    if let Ok(Versioned { version }) = serde_json::from_slice(&text)
        && version > VERSION
    {
        return Err(Error::Root {
            path: path(),
            why: format!("a later version of thinlayer wrote it (format {version}); use that version"),
        });
    }
    match serde_json::from_slice(&text) {
        Ok(identity) => Ok(Some(identity)),
        Err(error) => {
            notices.push(Notice::warning(format!(
                "{} cannot be understood ({error}); it is written anew when the pool has proven to be this root's",
                path().display()
            )));
            Ok(None)
        }
    }
}

/// A device's name and UUID in device-mapper; empty for others.
pub(super) fn in_device_mapper(machine: &Machine, number: DeviceNumber) -> Result<(String, String)> {
    let listed = machine.dm.devices()?.into_iter().find(|device| device.number == number);
    let Some(listed) = listed else { return Ok(Default::default()) };
    Ok((listed.name.as_str().to_owned(), uuid_of(machine, &listed.name)?))
}

fn uuid_of(machine: &Machine, name: &DmName) -> Result<String> {
    let info = machine.dm.info(DeviceRef::Name(name))?;
    Ok(info.and_then(|info| info.uuid).map(|uuid| uuid.as_str().to_owned()).unwrap_or_default())
}

/// Writes down which pool the root has, durably, if that is not what the file says. The pool is up and proven.
///
/// A full disk does not keep the root from being used: it is told, and the next start tries again.
pub(crate) fn remember(
    machine: &Machine,
    options: &Options,
    pool: &Pool,
    known: &Known,
    base_uuid: String,
) -> Result<Option<Notice>> {
    let identity = look(machine, options, pool, base_uuid)?;
    if known.remembered.as_ref() == Some(&identity) {
        return Ok(None);
    }
    let mut text = serde_json::to_vec(&identity).unwrap_or_default();
    text.push(b'\n');
    let disk = &machine.disk;
    let (folder, new, file) = (Path::new(FOLDER), Path::new(NEW_FILE), Path::new(FILE));
    if disk.read(file).is_ok_and(|old| old == text) {
        return Ok(None);
    }
    let written = disk
        .make_folder(folder)
        .and_then(|()| disk.write(new, &text))
        .and_then(|()| disk.sync_file(new))
        .and_then(|()| disk.rename(new, file))
        .and_then(|()| disk.sync_folder(folder))
        .and_then(|()| disk.sync_folder(Path::new("")));
    Ok(written.err().map(|error| {
        Notice::warning(format!(
            "which pool the root has cannot be written to {} ({error}); the next start tries again",
            machine.root.path.join(FILE).display()
        ))
    }))
}

fn look(machine: &Machine, options: &Options, pool: &Pool, base_uuid: String) -> Result<Identity> {
    let kind = Wanted::of(machine, options)?.kind;
    let table = pool.table()?;
    let mut identity = Identity {
        version: VERSION,
        kind,
        family: machine.root.family,
        pool_name: String::new(),
        pool_uuid: String::new(),
        block_size: table.block_size.bytes().0,
        data_size: table.len.to_bytes().unwrap_or_default().0,
        data: None,
        metadata: None,
        base_uuid,
    };
    if kind.is_named() {
        pool.name().as_str().clone_into(&mut identity.pool_name);
        identity.pool_uuid = uuid_of(machine, pool.name())?;
    } else {
        identity.data = Some(look_at_side(machine, options, Side::Data)?);
        identity.metadata = Some(look_at_side(machine, options, Side::Metadata)?);
    }
    Ok(identity)
}

fn look_at_side(machine: &Machine, options: &Options, side: Side) -> Result<SideIdentity> {
    if let Some(path) = device_of(options, side) {
        let device = machine.backing.inspect(path)?;
        let (dm_name, dm_uuid) = in_device_mapper(machine, device.number)?;
        return Ok(SideIdentity {
            path: path.to_owned(),
            inode: None,
            dm_name,
            dm_uuid,
            size: device.size.0,
        });
    }
    let path = side.path(&machine.root.path);
    let file = machine.backing.file(&path)?;
    Ok(SideIdentity {
        path: path.strip_prefix(&machine.root.path).unwrap_or(&path).to_owned(),
        inode: file.map(|file| file.inode),
        size: file.map_or(0, |file| file.size.0),
        ..SideIdentity::default()
    })
}
