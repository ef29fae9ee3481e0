//! Which pool belongs to a root: kept in `ROOT/thinlayer/pool.json`, and compared with what the options name before anything is made or written.
//!
//! Without it, an option that was changed or a unit file that was lost would make a new, empty pool beside the old one (I9). The file binds a root from
//! its first finished base on. Where it is missing, as in a root that Docker made, what can be told is told from the root itself.

use crate::driver::Notice;
use crate::error::{Error, Result};
use crate::machine::{Family, Machine};
use crate::names::Names;
use crate::options::Options;
use crate::size::human_size;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thinlayer_dm::{Bytes, DeviceNumber, DeviceRef, DmName};
use thinlayer_provision::loop_pool::Side;
use thinlayer_provision::superblock::{PoolFacts, Superblock};
use thinlayer_store::{DeviceSet, LayerId};
use thinlayer_thin::{BlockSize, Pool};

/// The file's folder and the file, below the root.
const FOLDER: &str = "thinlayer";
const FILE: &str = "thinlayer/pool.json";
const NEW_FILE: &str = "thinlayer/pool.json.new";
/// A pool on files, in words.
pub(crate) const LOOP_WORDS: &str = "the loop files in its devicemapper/ folder";
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
    fn is_named(self) -> bool {
        matches!(self, Self::Thinpool | Self::DirectLvm)
    }
}

/// One of the pool's two devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SideIdentity {
    /// The file, below the root, or the device's path as it was given.
    path: PathBuf,
    /// The file's inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inode: Option<u64>,
    /// The device's name in device-mapper.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    dm_name: String,
    /// The device's UUID in device-mapper, such as `LVM-...`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    dm_uuid: String,
    /// Bytes.
    size: u64,
}

/// A root's pool as it was proven last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    version: u32,
    pub(crate) kind: PoolKind,
    /// Whose names the devices have.
    #[serde(default)]
    family: Family,
    /// The pool's name in device-mapper, where somebody else activates it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pool_name: String,
    /// Its UUID there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pool_uuid: String,
    /// Bytes of a data block.
    block_size: u64,
    /// Bytes of data.
    data_size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<SideIdentity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metadata: Option<SideIdentity>,
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

/// What the options name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    kind: PoolKind,
    /// In words, with the options.
    words: String,
}

impl Wanted {
    fn of(machine: &Machine, options: &Options) -> Result<Self> {
        let given = |option: &str, path: &Option<PathBuf>| {
            path.as_ref().map(|path| format!("{option}={}", path.display()))
        };
        let devices: Vec<String> =
            [given("dm.datadev", &options.data_device), given("dm.metadatadev", &options.metadata_device)]
                .into_iter()
                .flatten()
                .collect();
        let wanted = if let Some(name) = &options.thin_pool {
            Self { kind: PoolKind::Thinpool, words: format!("dm.thinpooldev={name}") }
        } else if crate::direct_lvm::pool_name(machine, options)?.is_some() {
            let device = &options.direct_lvm.device;
            Self { kind: PoolKind::DirectLvm, words: format!("dm.directlvm_device={device}") }
        } else if devices.is_empty() {
            Self { kind: PoolKind::Loop, words: "no pool option, so loop files".into() }
        } else {
            Self { kind: PoolKind::Devices, words: devices.join(" ") }
        };
        Ok(wanted)
    }
}

/// The pool that the options name.
pub(crate) fn in_words(machine: &Machine, options: &Options) -> Result<String> {
    let wanted = Wanted::of(machine, options)?;
    Ok(match wanted.kind {
        PoolKind::Loop => LOOP_WORDS.into(),
        PoolKind::DirectLvm => "docker-thinpool, in a volume group of its own (direct-lvm)".into(),
        PoolKind::Devices | PoolKind::Thinpool => wanted.words,
    })
}

/// The pool's name with these options: given, that of direct-lvm, or the one that the driver makes.
pub(crate) fn pool_name(machine: &Machine, options: &Options, names: &Names) -> Result<DmName> {
    if let Some(name) = &options.thin_pool {
        return Ok(name.clone());
    }
    crate::direct_lvm::pool_name(machine, options)?.map_or_else(|| names.pool(), Ok)
}

/// What was seen before anything is made.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The pool that the root has had.
    pub(crate) remembered: Option<Identity>,
    /// What the metadata says, where it is in a file or on a device that was given.
    facts: Option<PoolFacts>,
}

impl Known {
    /// The data that the pool had at its last commit, where its metadata could be read.
    pub(crate) fn data_size(&self) -> Option<Bytes> {
        self.facts.map(|facts| facts.data_size())
    }

    /// The block size that the pool has, if anybody knows.
    pub(crate) fn block_size(&self) -> Option<BlockSize> {
        let facts = self.facts.map(|facts| facts.data_block);
        let size = facts.or(self.remembered.as_ref().map(|identity| Bytes(identity.block_size)))?;
        BlockSize::from_bytes(size).ok()
    }
}

/// Compares what the options name with the pool that the root has had. Reads only.
///
/// # Errors
/// [`crate::Kind::Invalid`] with old and new and what to do; [`crate::Kind::NeedsCheck`] for damaged metadata.
pub(crate) fn check(machine: &Machine, options: &Options, notices: &mut Vec<Notice>) -> Result<Known> {
    let remembered = read(machine, notices)?;
    let bound = has_layers(machine);
    let wanted = Wanted::of(machine, options)?;
    if !bound {
        if let Some(identity) = &remembered {
            refuse_lost_records(machine, identity)?;
        }
        return Ok(Known::default());
    }
    let mut known = Known { remembered, facts: None };
    match &known.remembered {
        Some(identity) => refuse_other_kind(machine, identity, &wanted)?,
        None => refuse_by_traces(machine, options, &wanted)?,
    }
    if wanted.kind.is_named() {
        check_named(machine, options, known.remembered.as_ref())?;
    } else {
        known.facts = check_sides(machine, options, known.remembered.as_ref(), notices)?;
    }
    Ok(known)
}

/// Whose names a root's devices have, as the file says.
pub(crate) fn family_on_disk(root: &Path) -> Option<Family> {
    let text = std::fs::read(root.join(FILE)).ok()?;
    serde_json::from_slice::<Identity>(&text).ok().map(|identity| identity.family)
}

/// The file; what cannot be read is told, and the pool has to prove itself.
fn read(machine: &Machine, notices: &mut Vec<Notice>) -> Result<Option<Identity>> {
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

/// Are there layers, or at least a finished base, that a wrong pool would cost?
fn has_layers(machine: &Machine) -> bool {
    let is_layer = |name: &str| {
        name != LayerId::base().file_name()
            && !name.starts_with('.')
            && !matches!(name, "deviceset-metadata" | "transaction-metadata")
    };
    let records = machine.disk.list(Path::new("metadata")).unwrap_or_default();
    records.iter().any(|entry| !entry.is_dir && entry.name.to_str().is_some_and(is_layer))
        || !base_uuid(machine).is_empty()
        || machine.disk.read(Path::new("devicemapper/json")).is_ok()
}

/// A root that has had a finished base, and has no records any more. A new base in its pool would be the end of what is left of its layers.
fn refuse_lost_records(machine: &Machine, identity: &Identity) -> Result<()> {
    let root = &machine.root.path;
    let file = |side: Side| machine.backing.file(&side.path(root)).map(|file| file.is_some());
    // Its files are gone, too: somebody begins anew.
    if identity.kind == PoolKind::Loop && !file(Side::Data)? && !file(Side::Metadata)? {
        return Ok(());
    }
    Err(Error::Root {
        path: root.join("metadata"),
        why: format!(
            "the records of this root's layers are gone, and its pool is there ({identity}); nothing was changed; put metadata/ back from a copy, \
             or, to begin anew without what the pool holds, remove {}{}",
            root.join(FILE).display(),
            if identity.kind == PoolKind::Loop { " and devicemapper/" } else { " and empty the pool" }
        ),
    })
}

fn base_uuid(machine: &Machine) -> String {
    let text = machine.disk.read(Path::new("metadata/deviceset-metadata")).unwrap_or_default();
    DeviceSet::read(&text).map(|set| set.base_uuid).unwrap_or_default()
}

fn refuse_other_kind(machine: &Machine, identity: &Identity, wanted: &Wanted) -> Result<()> {
    if identity.kind == wanted.kind || (identity.kind.is_named() && wanted.kind.is_named()) {
        return Ok(());
    }
    Err(other_pool(machine, &identity.to_string(), &wanted.words))
}

/// The pool that the options name is not the one that the root has had.
fn other_pool(machine: &Machine, old: &str, new: &str) -> Error {
    Error::Invalid {
        what: format!(
            "the layers of root {} are in {old}, and the options name another pool ({new}); nothing was changed; give the options that the root was \
             made with (was a unit file or configuration lost?), or, if its pool was moved on purpose, remove {} first",
            machine.root.path.display(),
            machine.root.path.join(FILE).display()
        ),
    }
}

/// A root that this program has not had open before: what its folders say.
fn refuse_by_traces(machine: &Machine, options: &Options, wanted: &Wanted) -> Result<()> {
    let root = &machine.root.path;
    for side in [Side::Data, Side::Metadata] {
        let path = side.path(root);
        let file = machine.backing.file(&path)?;
        let given = wanted.kind.is_named() || device_of(options, side).is_some();
        match file {
            // Docker makes the files only for the pool that stands on them.
            Some(file) if given && file.allocated > Bytes(0) => {
                return Err(Error::Invalid {
                    what: format!(
                        "root {} has layers and a {side} file for them ({}), and the options name another pool ({}); nothing was changed; leave the options \
                         out, or, if its pool was moved on purpose, move that file away",
                        root.display(),
                        path.display(),
                        wanted.words
                    ),
                });
            }
            None if !given => return Err(lost_file(machine, side)),
            _ => {}
        }
    }
    Ok(())
}

/// A root with layers whose file is gone: a new pool would be taken for the old one.
pub(crate) fn lost_file(machine: &Machine, side: Side) -> Error {
    Error::Root {
        path: side.path(&machine.root.path),
        why: format!(
            "this {side} file is missing, and the root has layers in it; no new one was made; put the file back, name the devices of the pool \
             (dm.thinpooldev, or dm.datadev and dm.metadatadev), or move {} away to begin anew",
            machine.root.path.join("metadata").display()
        ),
    }
}

fn device_of(options: &Options, side: Side) -> Option<&Path> {
    match side {
        Side::Data => options.data_device.as_deref(),
        Side::Metadata => options.metadata_device.as_deref(),
    }
}

/// A pool that somebody else activates. Whether its content is this root's is for the base to say.
fn check_named(machine: &Machine, options: &Options, remembered: Option<&Identity>) -> Result<()> {
    let Some(identity) = remembered else { return Ok(()) };
    let name = pool_name(machine, options, &Names::of(&machine.root))?;
    let Some(pool) = Pool::open(machine.dm.clone(), &name)? else {
        // That of direct-lvm is brought up by the start.
        let Some(name) = &options.thin_pool else { return Ok(()) };
        let how = crate::direct_lvm::how_to_activate(machine, name);
        return Err(Error::Invalid {
            what: format!(
                "there is no thin pool {name} (dm.thinpooldev); the layers of root {} are in {identity}; nothing was changed; {}",
                machine.root.path.display(),
                how.unwrap_or_else(|| "activate it, or give that name".into())
            ),
        });
    };
    let size = pool.table()?.len.to_bytes().unwrap_or_default();
    if size < Bytes(identity.data_size) {
        return Err(Error::Invalid {
            what: format!(
                "pool {name} has {} of data, and the pool of root {} had {}: this is another pool, or it was made anew; nothing was changed; restore the \
                 old one, or name it with dm.thinpooldev (it was {})",
                human_size(size),
                machine.root.path.display(),
                human_size(Bytes(identity.data_size)),
                identity.pool_name
            ),
        });
    }
    Ok(())
}

/// Files and devices of a pool that the driver makes: each is there and large enough, and the metadata holds a pool.
fn check_sides(
    machine: &Machine,
    options: &Options,
    remembered: Option<&Identity>,
    notices: &mut Vec<Notice>,
) -> Result<Option<PoolFacts>> {
    let root = &machine.root.path;
    for side in [Side::Data, Side::Metadata] {
        if let Some(path) = device_of(options, side) {
            let old = remembered.and_then(|identity| side_of(identity, side));
            check_device(machine, path, side, old, notices)?;
        } else if machine.backing.file(&side.path(root))?.is_none() {
            return Err(lost_file(machine, side));
        }
    }
    let place = |side: Side| device_of(options, side).map_or_else(|| side.path(root), Path::to_owned);
    let metadata = place(Side::Metadata);
    let facts = match machine.backing.superblock(&metadata)? {
        Superblock::Pool(facts) => facts,
        Superblock::Blank => {
            return Err(Error::Invalid {
                what: format!(
                    "{} holds no pool (its first block is blank), and root {} has layers in one; nothing was changed; put the right file or device back \
                     ({})",
                    metadata.display(),
                    root.display(),
                    Side::Metadata.given_option()
                ),
            });
        }
        Superblock::Damaged => {
            return Err(Error::NeedsCheck {
                what: format!(
                    "the pool's metadata in {} is damaged (its superblock fails its checksum); nothing was changed; look at it with thin_check, copy it, \
                     and mend the copy with thin_repair",
                    metadata.display()
                ),
            });
        }
        Superblock::Other(found) => {
            return Err(Error::Invalid {
                what: format!(
                    "{} holds {found} where root {} had the metadata of its pool; nothing was changed; put the right file or device back ({})",
                    metadata.display(),
                    root.display(),
                    Side::Metadata.given_option()
                ),
            });
        }
    };
    if let Some(asked) = options.block_size.filter(|asked| asked.bytes() != facts.data_block) {
        return Err(Error::option(
            &format!("dm.blocksize={}", asked.bytes().0),
            &format!(
                "the pool has blocks of {} bytes, which cannot change; drop the option",
                facts.data_block.0
            ),
        ));
    }
    let data = place(Side::Data);
    let size = match device_of(options, Side::Data) {
        Some(path) => machine.backing.inspect(path)?.size,
        None => machine.backing.file(&data)?.map_or(Bytes(0), |file| file.size),
    };
    if size < facts.data_size() {
        return Err(Error::Invalid {
            what: format!(
                "{} has {} ({size}), and the pool in {} had {} ({}): it was cut short or replaced; nothing was changed; put back what it was, or make it \
                 as large again",
                data.display(),
                human_size(size),
                metadata.display(),
                human_size(facts.data_size()),
                facts.data_size()
            ),
        });
    }
    Ok(Some(facts))
}

fn side_of(identity: &Identity, side: Side) -> Option<&SideIdentity> {
    match side {
        Side::Data => identity.data.as_ref(),
        Side::Metadata => identity.metadata.as_ref(),
    }
}

/// A device that was given: the same as before, or one whose content can prove it.
fn check_device(
    machine: &Machine,
    path: &Path,
    side: Side,
    old: Option<&SideIdentity>,
    notices: &mut Vec<Notice>,
) -> Result<()> {
    let Some(old) = old else { return Ok(()) };
    let device = machine.backing.inspect(path)?;
    let (name, uuid) = in_device_mapper(machine, device.number)?;
    let shown = path.display();
    if device.size < Bytes(old.size) {
        return Err(Error::Invalid {
            what: format!(
                "{shown} has {} ({}), and the {side} device of root {} had {} ({}): it was shrunk, or is another device; nothing was changed; name the \
                 right one ({}; it was {})",
                human_size(device.size),
                device.size,
                machine.root.path.display(),
                human_size(Bytes(old.size)),
                Bytes(old.size),
                side.given_option(),
                old.path.display()
            ),
        });
    }
    if device.size > Bytes(old.size) {
        notices.push(Notice::info(format!(
            "the {side} device {shown} has grown from {} to {}",
            human_size(Bytes(old.size)),
            human_size(device.size)
        )));
    }
    if (!old.dm_uuid.is_empty() && old.dm_uuid != uuid) || (uuid.is_empty() && old.dm_name != name) {
        notices.push(Notice::warning(format!(
            "the {side} device {shown} is not the one of last time ({}); it is taken if its content is this root's",
            old.path.display()
        )));
    }
    Ok(())
}

/// A device's name and UUID in device-mapper; empty for others.
fn in_device_mapper(machine: &Machine, number: DeviceNumber) -> Result<(String, String)> {
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
