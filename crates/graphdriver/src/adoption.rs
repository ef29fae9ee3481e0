//! What an existing graph directory holds, and what opening it would change: read, and nothing else.

use crate::error::Result;
use crate::growth::reserve_size;
use crate::machine::{Family, Machine};
use crate::names::Names;
use crate::options::Options;
use crate::site::Site;
use crate::size::human_size;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use thinlayer_dm::Bytes;
use thinlayer_provision::given;
use thinlayer_provision::loop_pool::{self, Side};
use thinlayer_provision::superblock::{BLOCK_BYTES, PoolFacts, Superblock};
use thinlayer_store::{Finding, LayerId, Mode, Recovery, Store};
use thinlayer_thin::Pool;

/// Mode of a root.
const PRIVATE: u32 = 0o700;

/// A graph directory as it is, before this program has changed anything in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adoption {
    /// Whose it is.
    pub family: Family,
    /// This program has had it open before.
    pub known: bool,
    /// Where its pool is, in words.
    pub pool: String,
    /// The pool is up.
    pub active: bool,
    /// The pool's transaction id, if it can be read.
    pub transaction_id: Option<u64>,
    /// Layers that can be used.
    pub layers: usize,
    /// Removed layers whose blocks are still in the pool.
    pub deferred: usize,
    /// Layers whose record cannot be read.
    pub damaged: usize,
    /// The base's file system; empty if nobody wrote it down.
    pub filesystem: String,
    /// The base's UUID; empty if nobody wrote it down.
    pub base_uuid: String,
    /// The base's size.
    pub base_size: Bytes,
    /// What opening it would change, one line each.
    pub changes: Vec<String>,
    /// What keeps it from being opened, one line each.
    pub obstacles: Vec<String>,
}

impl Adoption {
    /// Looks at a root of this machine, and at who else works on it. Changes nothing.
    ///
    /// # Errors
    /// If the root cannot be read.
    pub fn of(root: &Path, options: &Options) -> Result<Self> {
        let machine = Machine::looking(root)?;
        let mut found = Self::look(&machine, options)?;
        let others = crate::owner::in_the_way(&machine.root.path);
        found.obstacles.splice(0..0, others.iter().map(ToString::to_string));
        let mode = std::fs::metadata(&machine.root.path).map_or(PRIVATE, |facts| facts.mode() & 0o7777);
        if mode != PRIVATE {
            found.changes.push(format!("the root's folder gets mode 0700; it has {mode:04o}"));
        }
        Ok(found)
    }

    /// Looks at a root, wherever it lies, without asking who owns it. Changes nothing in it; asks the kernel only whether its pool is up and how it is, and
    /// LVM about a pool of its own.
    ///
    /// # Errors
    /// If the root cannot be read.
    pub fn look(machine: &Machine, options: &Options) -> Result<Self> {
        let mut notices = Vec::new();
        let (store, findings) = Store::open(machine.disk.clone(), Mode::ReadOnly)?;
        let (mut changes, mut obstacles) = (Vec::new(), Vec::new());
        let known = match crate::identity::check(machine, options, &mut notices) {
            Ok(known) => Some(known),
            Err(error) => {
                obstacles.push(error.to_string());
                None
            }
        };
        changes.extend(notices.into_iter().map(|notice| notice.text));
        changes.extend(findings.iter().map(planned));
        let mut plan = Plan { machine, options, store: &store, changes, obstacles };
        let pool = plan.pool(known.is_some())?;
        let facts = plan.facts(pool.is_some())?;
        let transaction_id = match &pool {
            Some(pool) => {
                let state = pool.status(thinlayer_dm::Flush::No)?;
                state.running().map(|status| status.transaction_id.0)
            }
            None => facts.map(|facts| facts.transaction_id),
        };
        if let Some(id) = transaction_id {
            plan.compare(id);
        }
        plan.records();
        let remembered = plan.own_files();
        if pool.is_none() && known.is_some() {
            plan.sides(facts)?;
        }
        plan.metadata_room(pool.is_none())?;

        let words = crate::identity::in_words(machine, options)?;
        let described = known.and_then(|known| known.remembered).map(|identity| identity.to_string());
        let counts = store.counts();
        let set = store.device_set();
        let base = store.record_even_deleted(&LayerId::base());
        Ok(Self {
            family: machine.root.family,
            known: remembered,
            pool: described.unwrap_or(words),
            active: pool.is_some(),
            transaction_id,
            layers: counts.layers,
            deferred: counts.deleted,
            damaged: counts.damaged,
            filesystem: set.base_filesystem,
            base_uuid: set.base_uuid,
            base_size: base.map_or(Bytes(0), |record| Bytes(record.size_bytes)),
            changes: plan.changes,
            obstacles: plan.obstacles,
        })
    }
}

/// What a start would do, as it is found out.
struct Plan<'a> {
    machine: &'a Machine,
    options: &'a Options,
    store: &'a Store,
    changes: Vec<String>,
    obstacles: Vec<String>,
}

impl Plan<'_> {
    fn change(&mut self, text: impl Into<String>) {
        self.changes.push(text.into());
    }

    fn obstacle(&mut self, why: impl ToString) {
        self.obstacles.push(why.to_string());
    }

    /// Somebody else makes the pool, and the driver finds it by its name.
    fn is_named(&self) -> Result<bool> {
        let Self { machine, options, .. } = self;
        Ok(options.thin_pool.is_some() || crate::direct_lvm::pool_name(machine, options)?.is_some())
    }

    /// The pool that is up, and what of its state keeps it from being used. `identified`: what the options name is what the root has had.
    fn pool(&mut self, identified: bool) -> Result<Option<Pool>> {
        let Self { machine, options, .. } = *self;
        let name = crate::identity::pool_name(machine, options, &Names::of(&machine.root))?;
        let found = Pool::open(machine.dm.clone(), &name);
        let there = !matches!(&found, Err(error) if error.kind() == thinlayer_thin::Kind::Absent);
        if there && self.is_named()? {
            // First, since LVM puts another device in front of a pool that it uses itself.
            if let Err(error) = crate::direct_lvm::check_lvm(machine, &name, &mut Vec::new()) {
                self.obstacle(error);
                return Ok(found.ok().flatten());
            }
        }
        let pool = match found {
            Ok(Some(pool)) => pool,
            Ok(None) if options.thin_pool.is_some() && identified => {
                self.obstacle(format!(
                    "there is no thin pool {name} (dm.thinpooldev); {}",
                    crate::direct_lvm::how_to_activate(machine, &name)
                        .unwrap_or_else(|| "make it first".into())
                ));
                return Ok(None);
            }
            Ok(None) => {
                if options.thin_pool.is_none() && self.is_named()? {
                    self.change(format!("LVM's pool {name} is activated"));
                }
                return Ok(None);
            }
            Err(error) if error.kind() == thinlayer_thin::Kind::Unfinished => {
                self.change(format!(
                    "the device {name}, which an interrupted start left without a table, is removed"
                ));
                return Ok(None);
            }
            Err(error) => {
                self.obstacle(error);
                return Ok(None);
            }
        };
        let (state, table) = (pool.status(thinlayer_dm::Flush::No)?, pool.table()?);
        let site = Site { machine, options, pool: &name, block: table.block_size, volume_blocked: None };
        let finding = site.judge(&state, Some(&table));
        if finding.condition.is_ailing() {
            self.obstacle(format!("pool {name}: {}", finding.text));
        }
        let mounted = crate::read_only::mounted(machine)?;
        if table.features.read_only && !mounted.is_empty() {
            let mounted: Vec<String> = mounted.iter().map(ToString::to_string).collect();
            self.obstacle(format!(
                "these layers are mounted with --read-only: {}; unmount them first (thinlayer --read-only stop)",
                mounted.join(", ")
            ));
        }
        Ok(Some(pool))
    }

    fn metadata_place(&self) -> PathBuf {
        let Self { machine, options, .. } = self;
        options.metadata_device.clone().unwrap_or_else(|| Side::Metadata.path(&machine.root.path))
    }

    /// What a pool that is not up says of itself.
    fn facts(&mut self, active: bool) -> Result<Option<PoolFacts>> {
        if active || self.is_named()? {
            return Ok(None);
        }
        let place = self.metadata_place();
        // What is no pool the identity has told.
        let Ok(Superblock::Pool(facts)) = self.machine.backing.superblock(&place) else { return Ok(None) };
        if facts.needs_check {
            self.obstacle(format!(
                "the kernel has marked the pool's metadata in {0} as possibly damaged, and changes nothing in it; look at it with thin_check {0}, and \
                 mend a copy with thin_repair; --read-only shows what is there",
                place.display()
            ));
        }
        Ok(Some(facts))
    }

    /// Transactions of the store and of the pool.
    fn compare(&mut self, pool: u64) {
        match self.store.compare(pool) {
            Recovery::Clean => {}
            Recovery::Open(pending) => self.changes.extend(pending.iter().map(|pending| {
                format!(
                    "an operation on layer {} was interrupted (thin device {}): it is undone or completed",
                    pending.layer, pending.device_id
                )
            })),
            ahead @ Recovery::PoolAhead { .. } => self.change(ahead.to_string()),
            older @ Recovery::TooFarAhead { .. } => self.obstacle(older),
        }
    }

    /// What happens to layers.
    fn records(&mut self) {
        let counts = self.store.counts();
        if counts.deleted > 0 {
            self.change(format!(
                "{} removed layers are still in the pool: their blocks are given back",
                counts.deleted
            ));
        }
        for (id, record) in self.store.layers() {
            if record.extra.as_ref().is_some_and(|extra| extra.grow_pending) {
                self.change(format!("the growth of layer {id} was interrupted: it is completed"));
            }
        }
        let Some(base) = self.store.record_even_deleted(&LayerId::base()) else { return };
        let set = self.store.device_set();
        if set.base_uuid.is_empty() || set.base_filesystem.is_empty() {
            self.change("the base's UUID and file system are looked up and written down");
        }
        let has = Bytes(base.size_bytes);
        match self.options.base_size {
            Some(wanted) if wanted > has => self.change(format!(
                "the base grows from {} to {} (dm.basesize), which cannot be undone",
                human_size(has),
                human_size(wanted)
            )),
            Some(wanted) if wanted < has => self.obstacle(format!(
                "dm.basesize={}: the base has {} already and cannot shrink; drop the option or give a larger size",
                wanted.0,
                human_size(has)
            )),
            _ => {}
        }
    }

    /// The files of ours below the root. Has this program had it open before?
    fn own_files(&mut self) -> bool {
        let disk = &self.machine.disk;
        let remembered = disk.read(Path::new("thinlayer/pool.json")).is_ok();
        let locked = disk.read(Path::new("thinlayer/lock")).is_ok();
        let transaction = disk.read(Path::new("metadata/transaction-metadata")).map_or(0, |text| text.len());
        if !remembered {
            self.change("which pool belongs to the root is written down (thinlayer/pool.json)");
        }
        if !locked {
            self.change("the folder thinlayer/ is made, with the lock; Docker and Podman ignore it");
        }
        if transaction < thinlayer_store::TRANSACTION_FILE_BYTES {
            self.change("the transaction file gets its room, so that removing works on a full disk");
        }
        remembered
    }

    /// Files and devices of a pool that the driver would bring up: they are free, and the pool becomes as large as they are.
    fn sides(&mut self, facts: Option<PoolFacts>) -> Result<()> {
        if self.is_named()? {
            return Ok(());
        }
        let Self { machine, options, store, .. } = *self;
        let backing = &*machine.backing;
        let purpose = match store.record_even_deleted(&LayerId::base()) {
            Some(_) => given::Purpose::Existing,
            None => given::Purpose::New,
        };
        let checked = match (&options.data_device, &options.metadata_device) {
            (Some(data), Some(metadata)) => {
                given::validate_pair_for(backing, data, metadata, purpose).map(drop)
            }
            (Some(data), None) => given::validate_data(backing, data, purpose).map(drop),
            (None, Some(metadata)) => given::validate_metadata(backing, metadata, purpose).map(drop),
            (None, None) => Ok(()),
        };
        if let Err(error) = checked {
            self.obstacle(error);
        }
        let loops = backing.loops()?;
        for (side, device, asked, has) in [
            (Side::Data, &options.data_device, options.loop_data_size, facts.map(|facts| facts.data_size())),
            (
                Side::Metadata,
                &options.metadata_device,
                options.loop_metadata_size,
                facts.map(|facts| facts.metadata_size()),
            ),
        ] {
            let size = match device {
                Some(device) => backing.inspect(device).map_or(Bytes(0), |found| found.size),
                None => {
                    let path = side.path(&machine.root.path);
                    let Some(file) = backing.file(&path)? else { continue };
                    if let Some(held) =
                        loops.iter().find(|held| (held.dev, held.inode) == (file.dev, file.inode))
                    {
                        self.obstacle(format!(
                            "{} holds {}, which two users would destroy; see who uses it (losetup -l, dmsetup deps), and detach it (losetup -d {0})",
                            held.node.display(),
                            path.display()
                        ));
                    }
                    if let Some(asked) = asked.filter(|asked| *asked > file.size) {
                        self.change(format!(
                            "the {side} file grows from {} to {} ({}), which cannot be undone",
                            human_size(file.size),
                            human_size(asked),
                            side.option()
                        ));
                        continue;
                    }
                    file.size
                }
            };
            let unit = facts.map_or(Bytes(1), |facts| match side {
                Side::Data => facts.data_block,
                Side::Metadata => Bytes(BLOCK_BYTES as u64),
            });
            let most = if side == Side::Metadata { given::MAX_METADATA } else { size };
            if let Some(has) = has.filter(|has| has.0 > 0 && size.min(most).0 / unit.0 > has.0 / unit.0) {
                self.change(format!(
                    "the pool's {side} grows from {} to {}, as what is below it has",
                    human_size(has),
                    human_size(size.min(most))
                ));
            }
        }
        Ok(())
    }

    /// What is written so that a full disk cannot break the pool. Both take room at once.
    fn metadata_room(&mut self, at_rest: bool) -> Result<()> {
        let Self { machine, options, .. } = *self;
        if options.metadata_device.is_some() || self.is_named()? {
            return Ok(());
        }
        let root = &machine.root.path;
        let Some(file) = machine.backing.file(&Side::Metadata.path(root))? else { return Ok(()) };
        let size = options.loop_metadata_size.unwrap_or(file.size).max(file.size);
        let missing = size.checked_sub(file.allocated).unwrap_or_default();
        if at_rest && missing > Bytes(0) {
            self.change(format!(
                "the metadata file gets all of its blocks ({missing} more), so that a full disk cannot break the pool"
            ));
        }
        let wanted = reserve_size(size);
        let path = loop_pool::reserve_path(root);
        let there = machine.backing.file(&path)?.map_or(Bytes(0), |file| file.allocated.min(file.size));
        if let Some(more) = wanted.checked_sub(there).filter(|more| *more > Bytes(0)) {
            self.change(format!(
                "{} gets {more}: a reserve, so that layers can be removed when metadata is full",
                path.strip_prefix(root).unwrap_or(&path).display()
            ));
        }
        Ok(())
    }
}

/// A finding of a store that may not write, as what one that may would do.
fn planned(finding: &Finding) -> String {
    match finding {
        Finding::Migrated { records } => {
            format!(
                "{records} records of Docker's oldest format (devicemapper/json) become files of their own"
            )
        }
        Finding::DamagedRecord { layer, why, .. } => {
            format!(
                "the record of layer {layer} is damaged ({why}): it is moved to thinlayer/quarantine/, and the others go on"
            )
        }
        other => other.to_string(),
    }
}
