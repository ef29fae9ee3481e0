//! Start-up: the pool comes up, what a crash left open is settled, the base is there (section 2 of the specification).

use crate::active::Active;
use crate::base::{Verified, choose_filesystem};
use crate::check::{Held, held, mounted_layers, release, stray_folders};
use crate::driver::{Driver, Notice};
use crate::error::{Error, Result};
use crate::identity::Known;
use crate::machine::Machine;
use crate::names::Names;
use crate::options::Options;
use crate::pool::Started;
use crate::progress::{Progress, Step};
use crate::recover::Recoverer;
use crate::reserve::Reservations;
use crate::site::Site;
use crate::status::Layout;
use crate::transaction::Transactions;
use crate::uses::Uses;
use crate::worker::Queue;
use parking_lot::RwLock;
use std::sync::Arc;
use thinlayer_dm::{Flush, Version};
use thinlayer_filesystem::Unmount;
use thinlayer_store::{ErrorKind, LayerId, Mode, Store};
use thinlayer_thin::PoolState;

/// From this interface on the kernel can remove a device at its last close.
const DEFERRED_REMOVAL: Version = Version(4, 27, 0);
/// Mode of the root and its run-time folder.
const PRIVATE: u32 = 0o700;

impl Driver {
    /// Opens a root that this process owns ([`crate::Ownership`]): makes or takes over the pool, settles what a crash left open,
    /// makes or verifies the base. What happened on the way is in the notices.
    ///
    /// # Errors
    /// One that says which part failed. A pool that this call made is removed again; the backing files stay.
    pub fn open(
        machine: Machine,
        options: &Options,
        progress: Arc<dyn Progress>,
    ) -> Result<(Self, Vec<Notice>)> {
        let mut notices = Vec::new();
        let version = machine.dm.version();
        if options.defers_removal() && version < DEFERRED_REMOVAL {
            return Err(Error::Unsupported {
                what: format!("deferred removal on device-mapper {version}"),
                advice: "set dm.use_deferred_removal=false".into(),
            });
        }
        // Before anything is made or written.
        let known = crate::identity::check(&machine, options, &mut notices)?;
        let names = Names::of(&machine.root);
        machine.filesystems.make_dir(&machine.root.path, PRIVATE, machine.root.owner)?;
        machine.filesystems.make_dir(
            &machine.root.runtime,
            PRIVATE,
            thinlayer_filesystem::Owner::default(),
        )?;
        // Nothing in it is put in order before the pool has proven to be this root's.
        let (store, _) = Store::open(machine.disk.clone(), Mode::ReadOnly)?;
        // A first start that cannot make the base's file system makes nothing at all.
        if store.lookup(&LayerId::base()).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            choose_filesystem(&machine, options, &mut Vec::new())?;
        }
        let started = crate::pool::start(&machine, options, &names, &store, &known, &mut notices)?;
        let pool = started.pool.clone();
        let made = started.made;
        match Self::finish_open(machine.clone(), options, progress, store, started, &known, &mut notices) {
            Ok(driver) => {
                let base_uuid = driver.store.device_set().base_uuid;
                notices.extend(crate::identity::remember(&machine, options, &pool, &known, base_uuid)?);
                Ok((driver, notices))
            }
            Err(error) if made => {
                Err(error.and_undo(crate::pool::remove(&pool, &machine, machine.deadlines.removal)))
            }
            Err(error) => Err(error),
        }
    }

    fn finish_open(
        machine: Machine,
        options: &Options,
        progress: Arc<dyn Progress>,
        store: Store,
        started: Started,
        known: &Known,
        notices: &mut Vec<Notice>,
    ) -> Result<Self> {
        let Started { pool, ours, proven, direct_lvm, larger, .. } = started;
        let names = Names::of(&machine.root);
        let (state, pool_info) = pool.status_and_info(Flush::No)?;
        // One that has failed has no figures; nothing is done with it but taking it down.
        let pool_id =
            state.running().map_or(thinlayer_thin::TransactionId(0), |status| status.transaction_id);
        let layout = Layout::of(&machine, &pool)?;
        let block = layout.table.block_size;
        let ailing = Site { machine: &machine, options, pool: pool.name(), block, volume_blocked: None }
            .judge(&state, Some(&layout.table));
        let ailing = Some(ailing).filter(|found| found.condition.is_ailing());
        let active = Active::find(&pool, &names)?;
        let mounted: Vec<LayerId> = mounted_layers(&machine, &names)?.into_keys().collect();
        let uses = Uses::load(machine.runtime.clone(), &mounted, true);
        sweep_temporary_mounts(&machine)?;
        let mut driver = Self {
            options: options.clone(),
            deadlines: machine.deadlines,
            progress,
            names,
            store,
            pool,
            layout,
            owns_pool: ours,
            direct_lvm,
            block,
            ailing: RwLock::new(ailing),
            growing: Reservations::default(),
            volume_blocked: RwLock::default(),
            reservations: Reservations::default(),
            transactions: Transactions::new(pool_id, pool_info.event_nr),
            active,
            uses,
            queue: Queue::default(),
            checking: parking_lot::Mutex::default(),
            machine,
        };
        if let Err(error) = driver.ensure_sound() {
            driver.store = for_writing(&driver.machine, notices)?;
            // It can be looked at and taken down.
            notices.push(Notice::warning(error.to_string()));
            return Ok(driver);
        }
        let Verified { short, device_set } = driver.verify_base(proven, known, notices)?;
        driver.store = for_writing(&driver.machine, notices)?;
        if let Some(set) = device_set {
            driver.store.save_device_set(&set)?;
        }
        if larger && let Err(error) = driver.take_in_larger_data(notices) {
            notices.push(Notice::warning(format!(
                "the pool could not be grown to the size of what is below its data, the next start tries again: {error}"
            )));
        }
        if let Some(notice) = driver.release_stale_snapshot(&state)? {
            notices.push(notice);
        }
        notices.extend(driver.recover()?);
        driver.tidy_active()?;
        driver.sweep_folders()?;
        driver.queue.fill(driver.store.pending_deletion().into_iter().map(|(id, _)| id));
        driver.ensure_base(short, notices)?;
        driver.finish_growth(notices);
        driver.ensure_metadata_reserve(notices);
        Ok(driver)
    }

    /// Settles what an interrupted transaction left, now or at the start.
    pub(crate) fn recover(&self) -> Result<Vec<Notice>> {
        Recoverer { driver: self }.run()
    }

    /// Releases the metadata snapshot of a check that was killed.
    fn release_stale_snapshot(&self, state: &PoolState) -> Result<Option<Notice>> {
        if state.running().and_then(|status| status.held_metadata_root).is_none() {
            return Ok(None);
        }
        let Held::Ours(root) = held(&*self.machine.disk, &self.pool)? else { return Ok(None) };
        release(&*self.machine.disk, &self.pool, root)?;
        Ok(Some(Notice::info("the metadata snapshot of a check that was killed has been released")))
    }

    /// Mount folders of removed layers, which a power cut brings back. Also of those whose thin device is still to be deleted: when the worker has
    /// unlinked such a record, nothing leads to the folder any more.
    fn sweep_folders(&self) -> Result<()> {
        for id in stray_folders(&self.machine, &self.names, &self.store.layers())? {
            if let Err(error) = self.machine.filesystems.remove_dir(&self.names.mount_point(&id)) {
                tracing::info!(layer = %id, %error, "the mount folder of a layer that does not exist stays");
            }
        }
        Ok(())
    }

    /// Begins a long step that somebody may be told about.
    pub(crate) fn step<'a>(&'a self, what: &'a str) -> Step<'a> {
        Step::begin(&*self.progress, what)
    }
}

/// The store, with all in it put in order that a killed owner or Docker left.
fn for_writing(machine: &Machine, notices: &mut Vec<Notice>) -> Result<Store> {
    let (store, findings) = Store::open(machine.disk.clone(), Mode::ReadWrite)?;
    for finding in findings {
        let notice = if finding.is_problem() { Notice::warning } else { Notice::info };
        notices.push(notice(finding.to_string()));
    }
    Ok(store)
}

/// Temporary mounts of an owner that was killed while it grew a file system.
fn sweep_temporary_mounts(machine: &Machine) -> Result<()> {
    let filesystems = &machine.filesystems;
    for mount in filesystems.mounts()? {
        if mount.target.starts_with(&machine.root.runtime)
            && !crate::read_only::is_ours(machine, &mount.target)
        {
            // One that somebody looks at goes out of sight, and with its last user.
            filesystems.unmount(&mount.target, Unmount::Lazy)?;
            filesystems.remove_dir(&mount.target)?;
        }
    }
    Ok(())
}
