//! [`World`]: the machine that tests build, break and look into.

use crate::backing::SimBacking;
use crate::clock::SimClock;
use crate::disk::SimDisk;
use crate::dm::SimDm;
use crate::faults::Fault;
use crate::filesystems::{SimFilesystems, get_file, put_file};
use crate::image::Content;
use crate::loops::NamedDevice;
use crate::metadata::SimMetadata;
use crate::mounts::Where;
use crate::pool::Mode;
use crate::state::{Held, Shared, State, Storage, View};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thinlayer_dm::{Bytes, DeviceNumber, DmName};
use thinlayer_graphdriver::{Deadlines, Family, Machine, Root};
use thinlayer_provision::AttachOptions;

/// `st_dev` of the host's file system: 8:1.
pub(crate) const HOST_DEV: u64 = 0x801;

/// A hook's answer: what went wrong, as the kernel would say it.
pub type Result<T> = std::result::Result<T, Errno>;

/// Somebody who has a mount or a device open, until [`World::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder(u64);

/// A thin device as the pool's committed metadata has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinFacts {
    /// The pool's transaction id when it was made.
    pub created: u64,
    /// Data blocks that it maps.
    pub mapped_blocks: u64,
}

/// The world right after an effect, with the acting process dead: [`World::kill`] or [`World::power_cut`] it, then start again.
#[derive(Debug)]
pub struct Capture {
    /// How many effects had happened, the last of them included.
    pub effects: u64,
    /// The last effect happened only in part.
    pub part: bool,
    /// The world.
    pub world: World,
}

/// A simulated machine: device-mapper, mounts, loop devices, a disk, a clock. Cloning shares it; [`World::fork`] copies it.
#[derive(Clone, Debug)]
pub struct World {
    shared: Arc<Shared>,
}

impl World {
    /// A machine with an empty host file system of 1 TiB. The same seed makes the same choices wherever the world has any.
    pub fn new(seed: u64) -> Self {
        Self { shared: Shared::new(State::new(seed)) }
    }

    /// A copy that goes its own way from here. The acting process lives on in it, for new views.
    pub fn fork(&self) -> Self {
        let state = self.shared.lock().clone();
        let fork = Shared::new(state);
        fork.continue_log(&self.shared);
        Self { shared: fork }
    }

    /// The machine as the living process sees it, with `root` (absolute) as the graph folder. Makes the folder if it is not there.
    ///
    /// After [`World::kill`] or [`World::power_cut`], machines from before answer every call with EIO.
    pub fn machine(&self, root: impl AsRef<Path>) -> Machine {
        let root = root.as_ref();
        let mut state = self.shared.lock();
        let runtime = PathBuf::from("/run/thinlayer").join(root.strip_prefix("/").unwrap_or(root));
        for folder in [root, runtime.as_path()] {
            // The host's file system is never full enough for this to fail in a test that means to go on.
            state.files.make_folder(folder, 0o755).unwrap_or_default();
            for above in folder.ancestors() {
                state.files.sync_folder(above).unwrap_or_default();
            }
        }
        let inode = state.files.lookup(root).unwrap_or_default();
        let view = View { shared: self.shared.clone(), process: state.process };
        drop(state);
        let disk = |name, base: &Path| Arc::new(SimDisk { view: view.clone(), name, base: base.to_owned() });
        Machine {
            dm: Arc::new(SimDm(view.clone())),
            filesystems: Arc::new(SimFilesystems(view.clone())),
            backing: Arc::new(SimBacking(view.clone())),
            // The simulated machine has no LVM.
            programs: Arc::new(thinlayer_provision::lvm::NotInstalled),
            metadata: Arc::new(SimMetadata(view.clone())),
            disk: disk("disk", root),
            runtime: disk("runtime", &runtime),
            clock: Arc::new(SimClock(view.clone())),
            deadlines: Deadlines::default(),
            root: Root {
                path: root.to_owned(),
                dev: HOST_DEV,
                inode,
                owner: Default::default(),
                family: Family::Docker,
                runtime,
            },
        }
    }

    // ---- effects and crashes ----

    /// All effects so far, described. The first is number 1.
    pub fn effects(&self) -> Vec<String> {
        self.shared.log()
    }

    /// How many effects there were.
    pub fn effect_count(&self) -> u64 {
        self.shared.lock().effects()
    }

    /// The process dies with its `effects`-th effect from now on: that one happens (by chance only in part, where it has parts), and every
    /// call after it is answered with EIO and changes nothing. With 0 it is dead at once.
    pub fn crash_after(&self, effects: u64) {
        self.shared.lock().set_crash(effects);
    }

    /// Has the process died?
    pub fn is_dead(&self) -> bool {
        self.shared.lock().is_dead()
    }

    /// From now on, the world is copied after every effect, and once more with the effect done in part where it has parts.
    ///
    /// Each copy is what a crash at that point leaves, so one run of a history gives all its crash points.
    pub fn capture(&self, on: bool) {
        self.shared.lock().set_capturing(on);
    }

    /// The copies made since the last call.
    pub fn take_captures(&self) -> Vec<Capture> {
        self.shared
            .take_captures()
            .into_iter()
            .map(|c| Capture {
                effects: c.effects,
                part: c.part,
                world: World { shared: Shared::new(c.state) },
            })
            .collect()
    }

    /// The process is gone. Devices, mounts and the page cache stay; what it had open is closed. The next machine is another process.
    pub fn kill(&self) {
        self.shared.lock().end_process();
        // The threads of calls that did not come back are gone with it.
        self.shared.hung.lock().clear();
    }

    /// The power fails and comes back. Kernel state is gone, each change that was not synced is kept or lost by the seed, in the order in
    /// which changes of one file or name came; pools are as they were last committed; run-time folders are empty.
    pub fn power_cut(&self, seed: u64) {
        self.shared.lock().power_cut(seed);
        self.shared.hung.lock().clear();
    }

    // ---- faults ----

    /// Makes calls fail that are yet to come.
    pub fn inject(&self, fault: Fault) {
        self.shared.lock().inject(fault);
    }

    /// Forgets all faults.
    pub fn clear_faults(&self) {
        self.shared.lock().clear_faults();
    }

    /// How many calls have failed by faults since they were last cleared.
    pub fn faults_struck(&self) -> u32 {
        self.shared.lock().faults_struck()
    }

    /// The next `calls` calls of `run_within` do not come back before their deadline.
    pub fn hang_next(&self, calls: u32) {
        self.hang_after(0, calls);
    }

    /// The same for `calls` calls behind the next `skip`.
    pub fn hang_after(&self, skip: u32, calls: u32) {
        let mut state = self.shared.lock();
        (state.hang_skip, state.hang_next) = (skip, calls);
    }

    /// The calls that did not come back do so now. How many there were.
    pub fn finish_hung(&self) -> usize {
        let jobs = std::mem::take(&mut *self.shared.hung.lock());
        let count = jobs.len();
        for job in jobs {
            job();
        }
        count
    }

    /// What happened that a correct driver never lets happen, in words.
    pub fn violations(&self) -> Vec<String> {
        self.shared.lock().violations().to_vec()
    }

    /// Lets simulated time pass.
    pub fn pass(&self, how_long: Duration) {
        self.shared.lock().pass(how_long);
    }

    // ---- the host ----

    /// From now on this much room is left on the host's file system.
    pub fn set_host_free(&self, free: Bytes) {
        let mut state = self.shared.lock();
        state.files.capacity = state.files.used().saturating_add(free.0);
    }

    /// A disk that somebody may name. `signature` is what is on it, such as `ext4` or `LVM2_member`.
    pub fn add_block_device(
        &self,
        path: impl Into<PathBuf>,
        size: Bytes,
        signature: Option<&str>,
    ) -> DeviceNumber {
        let mut state = self.shared.lock();
        let minor = u32::try_from(state.disks.len()).unwrap_or(u32::MAX).saturating_add(1) * 16;
        let number = DeviceNumber { major: 8, minor };
        state.disks.insert(number, NamedDevice { path: path.into(), bytes: size.0, read_only: false });
        if let Some(signature) = signature {
            state.contents.insert(Storage::Disk(number), Content::Signature(signature.to_owned()));
        }
        number
    }

    /// Makes the kernel tell other paths of the files below loop devices: those inside of a mount that is gone, whose root was `top`.
    pub fn hide_loop_paths(&self, top: impl AsRef<Path>) {
        let mut state = self.shared.lock();
        for device in state.loops.values_mut() {
            if let Ok(inside) = device.file.strip_prefix(top.as_ref()) {
                device.file = Path::new("/").join(inside);
            }
        }
    }

    /// Attaches a file to a loop device that does not clear itself, as another program would; the file is made if needed.
    ///
    /// # Errors
    /// If there is something else of that name.
    pub fn attach_foreign_loop(&self, file: impl AsRef<Path>, size: Bytes) -> Result<DeviceNumber> {
        let file = file.as_ref();
        let mut state = self.shared.lock();
        state.files.make_folder(file.parent().ok_or(Errno::EINVAL)?, 0o755)?;
        if state.files.backing(file)?.is_none() {
            state.files.make_backing(file)?;
            let inode = state.files.lookup(file)?;
            if let Some(backing) = state.files.backing_of(inode) {
                backing.size = size.0;
            }
        }
        let device = state.loop_for(file, AttachOptions::default(), false)?;
        let minor = state.attach(device)?;
        Ok(crate::loops::loop_number(minor))
    }

    // ---- who has what open ----

    /// A program works in what is mounted at this path, as a container does. An effect of its own, as its end is.
    ///
    /// # Errors
    /// EINVAL if nothing is mounted there.
    pub fn hold(&self, mount_point: impl AsRef<Path>) -> Result<Holder> {
        let mut state = self.shared.lock();
        let mount = state.mount_at(mount_point.as_ref()).ok_or(Errno::EINVAL)?.id;
        state.effect(&format!("container enters {}", mount_point.as_ref().display()));
        let id = state.id();
        state.holders.insert(id, Held::Mount(mount));
        Ok(Holder(id))
    }

    /// A program opens a block device and keeps it open.
    ///
    /// # Errors
    /// ENOENT if there is none.
    pub fn open_node(&self, node: impl AsRef<Path>) -> Result<Holder> {
        let mut state = self.shared.lock();
        let number = state.block_device(node.as_ref().to_str().ok_or(Errno::EINVAL)?)?;
        state.effect(&format!("program opens {}", node.as_ref().display()));
        let id = state.id();
        state.holders.insert(id, Held::Node(number));
        Ok(Holder(id))
    }

    /// It is done.
    pub fn release(&self, holder: Holder) {
        let mut state = self.shared.lock();
        if state.holders.remove(&holder.0).is_some() {
            state.effect("container or program leaves");
            state.settle_mounts();
        }
    }

    // ---- files, as a container would use them ----

    /// Writes a file, on the host or in whatever is mounted above the path. Dirty until somebody syncs. An effect of its own.
    ///
    /// # Errors
    /// The kernel's; EBUSY if the file system is frozen, where a real writer would wait.
    pub fn write_file(&self, path: impl AsRef<Path>, contents: &[u8]) -> Result<()> {
        let path = path.as_ref();
        let mut state = self.shared.lock();
        put_file(&mut state, path, contents)?;
        state.effect(&format!("container write {}", path.display()));
        Ok(())
    }

    /// Removes a file in a mounted file system.
    ///
    /// # Errors
    /// ENOENT if there is none.
    pub fn delete_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut state = self.shared.lock();
        match state.whereabouts(path) {
            Where::Host => state.files.remove(path),
            Where::Mounted { device, inside, .. } => {
                let fs = state.supers.get_mut(&device).ok_or(Errno::EIO)?;
                fs.now.nodes.remove(&inside).map(|_| ()).ok_or(Errno::ENOENT)
            }
        }
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>> {
        get_file(&self.shared.lock(), path.as_ref())
    }

    /// Makes what was changed in the file system that is mounted above the path durable. An effect of its own.
    ///
    /// # Errors
    /// ENOSPC, EIO: what could not be written out stays dirty.
    pub fn sync_fs(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut state = self.shared.lock();
        match state.whereabouts(path.as_ref()) {
            Where::Host => Ok(()),
            Where::Mounted { device, .. } => {
                state.must_not_be_suspended(device, "a sync")?;
                state.sync(device)?;
                state.effect(&format!("container sync {}", path.as_ref().display()));
                Ok(())
            }
        }
    }

    // ---- pools, as tests look at and break them ----

    fn pool(state: &State, name: &DmName) -> Result<u32> {
        let minor = state.devices.iter().find(|(_, d)| d.name == *name).map(|(&minor, _)| minor);
        minor.filter(|minor| state.pools.contains_key(minor)).ok_or(Errno::ENXIO)
    }

    /// The thin devices in a pool, as it is now.
    ///
    /// # Errors
    /// ENXIO if there is no such pool.
    pub fn thin_devices(&self, pool: &DmName) -> Result<Vec<(u32, ThinFacts)>> {
        let state = self.shared.lock();
        let minor = Self::pool(&state, pool)?;
        let pool = state.pools.get(&minor).ok_or(Errno::ENXIO)?;
        Ok(pool
            .now
            .volumes
            .iter()
            .map(|(&id, volume)| {
                let mapped_blocks = u64::try_from(volume.blocks.len()).unwrap_or(u64::MAX);
                (id, ThinFacts { created: volume.created, mapped_blocks })
            })
            .collect())
    }

    /// A pool's own transaction id.
    ///
    /// # Errors
    /// ENXIO if there is no such pool.
    pub fn transaction_id(&self, pool: &DmName) -> Result<u64> {
        let state = self.shared.lock();
        let minor = Self::pool(&state, pool)?;
        Ok(state.pools.get(&minor).ok_or(Errno::ENXIO)?.now.transaction_id)
    }

    /// Somebody else's thin device in a pool.
    ///
    /// # Errors
    /// As the pool answers.
    pub fn plant_thin(&self, pool: &DmName, id: u32) -> Result<()> {
        let mut state = self.shared.lock();
        let minor = Self::pool(&state, pool)?;
        let call = format!("foreign create_thin {id}");
        state.pool_message(minor, &format!("create_thin {id}"), &call)
    }

    /// Marks a pool as one that must be checked, as the kernel does after an I/O error in its metadata. It is read-only from then on.
    ///
    /// # Errors
    /// ENXIO if there is no such pool.
    pub fn set_needs_check(&self, pool: &DmName) -> Result<()> {
        let mut state = self.shared.lock();
        let minor = Self::pool(&state, pool)?;
        if let Some(pool) = state.pools.get_mut(&minor) {
            Arc::make_mut(&mut pool.now).needs_check = true;
            let (storage, now) = (pool.metadata, pool.now.clone());
            pool.mode = pool.mode.max(Mode::ReadOnly);
            state.metadata.insert(storage, now);
        }
        state.table_event(minor);
        Ok(())
    }

    /// After so many that succeed a commit of the pool fails: what it did since the last one is undone, and it takes no more messages.
    /// Whoever asked is not told.
    ///
    /// # Errors
    /// ENXIO if there is no such pool.
    pub fn fail_commit(&self, pool: &DmName, skip: u32) -> Result<()> {
        let mut state = self.shared.lock();
        let minor = Self::pool(&state, pool)?;
        state.commits_fail.insert(minor, skip);
        Ok(())
    }

    /// A pool that lost its metadata device: nothing works on it any more.
    ///
    /// # Errors
    /// ENXIO if there is no such pool.
    pub fn fail_pool(&self, pool: &DmName) -> Result<()> {
        let mut state = self.shared.lock();
        let minor = Self::pool(&state, pool)?;
        if let Some(pool) = state.pools.get_mut(&minor) {
            pool.mode = Mode::Fail;
        }
        state.table_event(minor);
        Ok(())
    }

    /// Leaves only this many metadata blocks free (0: the pool is out of metadata space and read-only).
    ///
    /// # Errors
    /// ENXIO if there is no such pool.
    pub fn set_free_metadata(&self, pool: &DmName, blocks: u64) -> Result<()> {
        let mut state = self.shared.lock();
        let minor = Self::pool(&state, pool)?;
        if let Some(pool) = state.pools.get_mut(&minor) {
            let now = Arc::make_mut(&mut pool.now);
            now.ballast = 0;
            now.ballast = (now.metadata_blocks - now.metadata_used()).saturating_sub(blocks);
        }
        state.commit(minor);
        Ok(())
    }

    // ---- what is there ----

    /// The names of all device-mapper devices.
    pub fn dm_names(&self) -> BTreeSet<String> {
        self.shared.lock().devices.values().map(|d| d.name.as_str().to_owned()).collect()
    }

    /// The names of those that are suspended.
    pub fn suspended(&self) -> BTreeSet<String> {
        let state = self.shared.lock();
        state.devices.values().filter(|d| d.suspended).map(|d| d.name.as_str().to_owned()).collect()
    }

    /// The files under loop devices in use, by number.
    pub fn loop_files(&self) -> Vec<(DeviceNumber, PathBuf)> {
        let state = self.shared.lock();
        state.loops.iter().map(|(&minor, l)| (crate::loops::loop_number(minor), l.file.clone())).collect()
    }

    /// Where something is mounted, besides `/` and `/run`; and file systems that nobody sees but somebody is in, as an empty path.
    pub fn mount_points(&self) -> Vec<PathBuf> {
        let state = self.shared.lock();
        state.mounts.iter().map(|m| if m.detached { PathBuf::new() } else { m.target.clone() }).collect()
    }

    /// The names in `/dev/mapper`.
    pub fn node_names(&self) -> BTreeSet<String> {
        self.shared.lock().nodes.keys().map(|name| name.as_str().to_owned()).collect()
    }

    /// A host folder's entries, sorted; none if it is not there.
    pub fn host_entries(&self, folder: impl AsRef<Path>) -> Vec<String> {
        let state = self.shared.lock();
        let all = state.files.list(folder.as_ref()).unwrap_or_default();
        all.into_iter().map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }

    /// A block device's size.
    ///
    /// # Errors
    /// ENOENT if there is none.
    pub fn device_size(&self, node: impl AsRef<Path>) -> Result<Bytes> {
        let state = self.shared.lock();
        let number = state.block_device(node.as_ref().to_str().ok_or(Errno::EINVAL)?)?;
        Ok(Bytes(crate::dm::bytes(state.sectors(number))))
    }
}
