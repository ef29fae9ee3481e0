//! Which pool belongs to a root: kept in `ROOT/thinlayer/pool.json`, and compared with what the options name before anything is made or written.
//!
//! Without it, an option that was changed or a unit file that was lost would make a new, empty pool beside the old one (I9). The file binds a root from
//! its first finished base on. Where it is missing, as in a root that Docker made, what can be told is told from the root itself.

mod file;

pub(crate) use file::{PoolKind, family_on_disk, remember};

use file::{FILE, Identity, SideIdentity, in_device_mapper, read};

use crate::driver::Notice;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::names::Names;
use crate::options::Options;
use crate::size::human_size;
use std::path::{Path, PathBuf};
use thinlayer_dm::{Bytes, DmName};
use thinlayer_provision::loop_pool::Side;
use thinlayer_provision::superblock::{PoolFacts, Superblock};
use thinlayer_store::{DeviceSet, LayerId};
use thinlayer_thin::{BlockSize, Pool};

/// A pool on files, in words.
pub(crate) const LOOP_WORDS: &str = "the loop files in its devicemapper/ folder";

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
