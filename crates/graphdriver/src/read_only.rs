//! A root that is only looked at although its pool is not up: read-only loop devices, a pool that never writes its metadata, read-only thin devices, mounts
//! that replay no journal. Works on damaged and on full roots and on read-only file systems; no file of the root changes.
//!
//! The pool has the name that it always has, so that nobody makes a second one on the same files. Mounts lie below `/run/thinlayer`.

use crate::active::{Waiting, thin_id};
use crate::check::{CheckReport, Depth, active};
use crate::deadline::{Deadlines, within};
use crate::driver::Notice;
use crate::error::{Error, Result};
use crate::identity::Known;
use crate::layer::PutBack;
use crate::machine::Machine;
use crate::mounts::detect_filesystem;
use crate::names::{Names, TREE};
use crate::options::Options;
use crate::reserve::{Reservation, Reservations};
use crate::status::{Layout, Status, status};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thinlayer_dm::{Access, Bytes, DeviceNumber, DmName, Removal, Sectors};
use thinlayer_filesystem::{Filesystems, MountRequest, Mounted, Owner, Unmount, Unmounted};
use thinlayer_provision::loop_pool::Side;
use thinlayer_provision::superblock::Superblock;
use thinlayer_provision::{AttachOptions, Attachment, given, loop_pool};
use thinlayer_store::{LayerId, Mode, Record, Store};
use thinlayer_thin::{BlockSize, Features, Patience, Pool, PoolTable, ThinDevice};

/// Below a root's run-time folder.
const FOLDER: &str = "read-only";
/// Where the tree of a layer is that nobody has ever mounted.
const EMPTY: &str = "read-only-empty";
/// Mode of mount points, which nobody but root may pass.
const FOLDER_MODE: u32 = 0o700;

/// A root whose pool is up and not writable, or is up anyway and not written to.
///
/// Only for one process at a time ([`crate::Ownership::share`]). [`ReadOnly::close`] takes down what is not in use; without it everything stays.
#[derive(Debug)]
pub struct ReadOnly {
    machine: Machine,
    options: Options,
    names: Names,
    store: Store,
    pool: Pool,
    /// The pool refuses writes, so nobody else works with it.
    ours: bool,
    reservations: Reservations,
    deadlines: Deadlines,
}

impl ReadOnly {
    /// Brings a root's pool up without writing to anything in the root. Where the pool is active, it is used as it is.
    ///
    /// # Errors
    /// As [`crate::Driver::open`] for a root whose pool cannot be found; [`crate::Kind::NeedsCheck`] if the kernel cannot read the pool's metadata.
    pub fn open(machine: Machine, options: &Options) -> Result<(Self, Vec<Notice>)> {
        let mut notices = Vec::new();
        let known = crate::identity::check(&machine, options, &mut notices)?;
        let names = Names::of(&machine.root);
        let (store, findings) = Store::open(machine.disk.clone(), Mode::ReadOnly)?;
        notices.extend(
            findings
                .iter()
                .filter(|finding| finding.is_problem())
                .map(|finding| Notice::warning(finding.to_string())),
        );
        let name = crate::identity::pool_name(&machine, options, &names)?;
        let given = options.thin_pool.is_some() || name != names.pool()?;
        let pool = match Pool::open(machine.dm.clone(), &name) {
            Ok(Some(pool)) => pool,
            Ok(None) if given => {
                return Err(Error::Invalid {
                    what: format!(
                        "there is no thin pool {name}; {}",
                        crate::direct_lvm::how_to_activate(&machine, &name)
                            .unwrap_or_else(|| "activate it first".into())
                    ),
                });
            }
            Ok(None) => make(&machine, options, &name, &known)?,
            Err(error) if error.kind() == thinlayer_thin::Kind::Unfinished => {
                Pool::remove_unfinished(&*machine.dm, &name)?;
                make(&machine, options, &name, &known)?
            }
            Err(error) => return Err(error.into()),
        };
        let ours = !given && is_read_only(&pool)?;
        let deadlines = machine.deadlines;
        let opened = Self {
            machine,
            options: options.clone(),
            names,
            store,
            pool,
            ours,
            reservations: Reservations::default(),
            deadlines,
        };
        Ok((opened, notices))
    }

    /// The status.
    ///
    /// # Errors
    /// If the pool cannot be asked.
    pub fn status(&self) -> Result<Status> {
        let layout = Layout::of(&self.machine, &self.pool)?;
        status(&self.machine, &self.store, &self.pool, &layout, &self.options, None)
    }

    /// Compares store, pool, devices and mounts.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn check(&self) -> Result<CheckReport> {
        active(&self.machine, &self.store, &self.pool, &self.options, Depth::Look)
    }

    /// Mounts a layer read-only, without replaying its journal, and gives the path of its tree. One that is mounted so already is not counted again.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`]; [`crate::Kind::Busy`] if the layer is mounted for writing; the kernel's words about a mount that fails.
    pub fn mount(&self, id: &LayerId) -> Result<PathBuf> {
        self.mount_layer(id).map_err(|error| error.on(id))
    }

    fn mount_layer(&self, id: &LayerId) -> Result<PathBuf> {
        let record = self.store.lookup(id)?;
        if id.is_base() || record.is_hidden() {
            return Err(Error::NotFound { id: id.clone() });
        }
        let reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        let mount_point = self.mount_point(id);
        if self.mounted()?.contains(id) {
            return self.tree(&mount_point);
        }
        let device = self.activate(id, &record)?;
        let mounted = self.mount_device(&record, &device, &mount_point, &reserved);
        match mounted {
            Ok(()) => self.tree(&mount_point),
            Err(error @ Error::Deadline { .. }) => Err(error),
            Err(error) => {
                let removed =
                    self.machine.filesystems.remove_dir(&mount_point).map(drop).map_err(Error::from);
                Err(error.and_undo(removed).and_undo(self.deactivate(device.name())))
            }
        }
    }

    fn mount_device(
        &self,
        record: &Record,
        device: &ThinDevice,
        mount_point: &Path,
        reserved: &Reservation,
    ) -> Result<()> {
        let filesystems: Arc<dyn Filesystems> = self.machine.filesystems.clone();
        filesystems.make_dir(mount_point, FOLDER_MODE, Owner::default())?;
        let (node, target, record) = (device.node().to_owned(), mount_point.to_owned(), record.clone());
        let options = self.options.mount_options.clone();
        let what = || format!("mount of device {}", device.name());
        let mounted = within(&*self.machine.clock, what, self.deadlines.mount, reserved, move || {
            let kind = detect_filesystem(&*filesystems, &record, &node)?;
            let request = MountRequest {
                device: node,
                target,
                kind,
                read_only: true,
                no_recovery: true,
                options,
                label: None,
            };
            Ok(Mounted::mount(filesystems, &request)?)
        })?;
        mounted.keep();
        Ok(())
    }

    /// Unmounts a layer and removes its device.
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if it is in use.
    pub fn unmount(&self, id: &LayerId) -> Result<PutBack> {
        self.unmount_layer(id).map_err(|error| error.on(id))
    }

    fn unmount_layer(&self, id: &LayerId) -> Result<PutBack> {
        let reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        let target = self.mount_point(id);
        let filesystems = self.machine.filesystems.clone();
        let what = || format!("umount of {}", target.display());
        let job = {
            let target = target.clone();
            move || Ok(filesystems.unmount(&target, Unmount::Now)?)
        };
        let unmounted = within(&*self.machine.clock, what, self.deadlines.unmount, &reserved, job)?;
        self.machine.filesystems.remove_dir(&target)?;
        let name = self.names.device(id)?;
        if self.is_idle_reader(&name)? {
            self.deactivate(&name)?;
        }
        Ok(match unmounted {
            Unmounted::Done => PutBack::Unmounted,
            Unmounted::NotMounted => PutBack::NotMounted,
        })
    }

    /// Unmounts all layers.
    ///
    /// # Errors
    /// The first one; the others are unmounted all the same.
    pub fn unmount_all(&self) -> Result<()> {
        let results: Vec<_> = self.mounted()?.iter().map(|id| self.unmount(id)).collect();
        results.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// Takes down what is not in use: idle devices, and the pool if it is read-only and nothing is mounted.
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if something else uses the pool.
    pub fn close(self) -> Result<()> {
        if !self.mounted()?.is_empty() {
            return Ok(());
        }
        for listed in self.machine.dm.devices()? {
            if self.names.layer_of(listed.name.as_str()).is_some() && self.is_idle_reader(&listed.name)? {
                self.deactivate(&listed.name)?;
            }
        }
        if self.ours {
            crate::pool::remove(&self.pool, &self.machine, self.deadlines.removal)?;
        }
        Ok(())
    }

    fn mount_point(&self, id: &LayerId) -> PathBuf {
        self.machine.root.runtime.join(FOLDER).join(id.file_name())
    }

    /// The layers that are mounted read-only.
    fn mounted(&self) -> Result<Vec<LayerId>> {
        mounted(&self.machine)
    }

    /// The tree of a mounted layer. One that was never mounted before has none, and none can be made.
    fn tree(&self, mount_point: &Path) -> Result<PathBuf> {
        let filesystems = &self.machine.filesystems;
        if filesystems.dirs(mount_point)?.iter().any(|name| name == TREE) {
            return Ok(mount_point.join(TREE));
        }
        let empty = self.machine.root.runtime.join(EMPTY);
        filesystems.make_dir(&empty, FOLDER_MODE, Owner::default())?;
        Ok(empty)
    }

    fn activate(&self, id: &LayerId, record: &Record) -> Result<ThinDevice> {
        let name = self.names.device(id)?;
        if self.is_idle_reader(&name)? {
            self.deactivate(&name)?;
        }
        let size = Bytes(record.size_bytes).to_sectors();
        self.pool.activate(&name, thin_id(record)?, size, Access::ReadOnly).map_err(|error| {
            if error.kind() != thinlayer_thin::Kind::Exists {
                return error.into();
            }
            Error::Busy {
                what: format!("device {name}"),
                why: "it is active for writing; use it where it is mounted, or unmount it first".into(),
            }
        })
    }

    /// Is there such a device, read-only and open by nobody?
    fn is_idle_reader(&self, name: &DmName) -> Result<bool> {
        let info = self.machine.dm.info(name.into())?;
        Ok(info.is_some_and(|info| info.read_only && info.open_count == 0))
    }

    fn deactivate(&self, name: &DmName) -> Result<()> {
        let clock = Waiting(&*self.machine.clock);
        let patience = Patience::new(self.deadlines.removal, &clock);
        Ok(self.pool.deactivate_by_name(name, Removal::Now, patience).map(drop)?)
    }
}

/// The layers of a root that are mounted read-only.
pub(crate) fn mounted(machine: &Machine) -> Result<Vec<LayerId>> {
    let folder = machine.root.runtime.join(FOLDER);
    let mounts = machine.filesystems.mounts()?;
    let id = |target: &Path| LayerId::found(target.file_name()?.to_str()?).ok();
    Ok(mounts
        .iter()
        .filter(|mount| mount.target.parent() == Some(&folder))
        .filter_map(|mount| id(&mount.target))
        .collect())
}

/// Is this a mount of [`ReadOnly::mount`]?
pub(crate) fn is_ours(machine: &Machine, target: &Path) -> bool {
    target.starts_with(machine.root.runtime.join(FOLDER))
}

/// The pool's table forbids writes of metadata, as only [`ReadOnly`] makes it.
pub(crate) fn is_read_only(pool: &Pool) -> Result<bool> {
    Ok(pool.table()?.features.read_only)
}

/// A read-only pool in the way of somebody who wants to write: it goes if nothing is mounted.
///
/// # Errors
/// [`crate::Kind::Busy`] with what is mounted.
pub(crate) fn give_way(machine: &Machine, names: &Names, pool: &Pool) -> Result<()> {
    let mounted: Vec<String> = mounted(machine)?.iter().map(ToString::to_string).collect();
    if !mounted.is_empty() {
        return Err(Error::Busy {
            what: format!("root {}", machine.root.path.display()),
            why: format!(
                "these layers are mounted with --read-only: {}; unmount them first (thinlayer --read-only stop)",
                mounted.join(", ")
            ),
        });
    }
    let clock = Waiting(&*machine.clock);
    for listed in machine.dm.devices()? {
        if names.layer_of(listed.name.as_str()).is_some() {
            let patience = Patience::new(machine.deadlines.removal, &clock);
            pool.deactivate_by_name(&listed.name, Removal::Now, patience)?;
        }
    }
    crate::pool::remove(pool, machine, machine.deadlines.removal)
}

/// The pool's two devices, held until it stands on them.
struct Sides {
    data: DeviceNumber,
    /// As much of it as the pool has.
    len: Sectors,
    metadata: DeviceNumber,
    block_size: Option<BlockSize>,
    _held: Vec<Attachment>,
}

fn make(machine: &Machine, options: &Options, name: &DmName, known: &Known) -> Result<Pool> {
    let sides = sides(machine, options)?;
    let block_size = options.block_size.or(known.block_size()).or(sides.block_size).unwrap_or(BlockSize::MIN);
    let mut table = PoolTable::new(sides.metadata, sides.data, sides.len);
    table.block_size = block_size;
    // The kernel takes no read-only table for a pool; this word keeps it from writing.
    table.features = Features { read_only: true, ..table.features };
    Pool::create(machine.dm.clone(), name, &table, Access::ReadWrite).map_err(|error| match error.kind() {
        thinlayer_thin::Kind::Busy => error.into(),
        _ => Error::NeedsCheck {
            what: format!("the pool cannot be read: {error}; look at its metadata with thin_check, and mend a copy with thin_repair"),
        },
    })
}

/// What is longer than the pool is shown as long as the pool is: to take the rest in, the kernel would have to write, and if it cannot it gives up.
///
/// Metadata is always below a loop device that refuses writes: when the kernel gives up on a pool, it marks the superblock, whatever the table says, and only
/// a loop device keeps it from that. Data is not written to by a pool that changes no mapping, and the pool keeps others away from a given device.
fn sides(machine: &Machine, options: &Options) -> Result<Sides> {
    let backing = &*machine.backing;
    let root = &machine.root.path;
    let purpose = given::Purpose::ReadOnly;
    let mut held = Vec::new();
    let checked = match (&options.data_device, &options.metadata_device) {
        (Some(data), Some(metadata)) => {
            Some(given::validate_pair_for(backing, data, metadata, purpose)?.data)
        }
        (Some(data), None) => Some(given::validate_data(backing, data, purpose)?),
        (None, Some(metadata)) => given::validate_metadata(backing, metadata, purpose).map(|_| None)?,
        (None, None) => None,
    };
    let (data, size) = match checked {
        Some(device) => (device.number, device.size),
        None => {
            let side = loop_pool::open_side_read_only(backing, root, Side::Data, None)?.attachment;
            let found = (side.number, side.size);
            held.push(side);
            found
        }
    };
    let file = Side::Metadata.path(root);
    let facts = match backing.superblock(options.metadata_device.as_deref().unwrap_or(&file))? {
        Superblock::Pool(facts) => Some(facts),
        // The kernel says what is wrong with it.
        _ => None,
    };
    let limit = facts.map(|facts| facts.metadata_size());
    let metadata = match &options.metadata_device {
        Some(device) => backing.attach(device, AttachOptions { limit, ..AttachOptions::READ_ONLY })?,
        None => loop_pool::open_side_read_only(backing, root, Side::Metadata, limit)?.attachment,
    };
    let number = metadata.number;
    held.push(metadata);
    Ok(Sides {
        data,
        len: facts.map_or(size, |facts| size.min(facts.data_size())).to_sectors(),
        metadata: number,
        block_size: facts.and_then(|facts| BlockSize::from_bytes(facts.data_block).ok()),
        _held: held,
    })
}
