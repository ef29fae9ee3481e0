//! A small [`Backing`] in memory for this crate's own tests, whose every effect can be made to fail.

use crate::backing::{
    Allocation, AttachOptions, Attachment, Backing, BlockDevice, Ensured, FileInfo, LoopDevice, Progress,
};
use crate::error::{Error, Result};
use crate::superblock::Superblock;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use thinlayer_dm::{Bytes, DeviceNumber};

#[derive(Debug, Default)]
struct World {
    files: BTreeMap<PathBuf, FileInfo>,
    loops: BTreeMap<u32, LoopDevice>,
    sizes: BTreeMap<u32, Bytes>,
    devices: BTreeMap<PathBuf, BlockDevice>,
    superblocks: BTreeMap<PathBuf, Superblock>,
    free: u64,
    kept_back: u64,
    next_inode: u64,
    effects: Vec<String>,
    fail_at: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) struct Fake(Arc<Mutex<World>>);

/// Frees the loop device when it goes.
struct Guard(Fake, u32);

impl Drop for Guard {
    fn drop(&mut self) {
        let mut world = self.0.0.lock().unwrap();
        world.loops.remove(&self.1);
    }
}

impl World {
    fn effect(&mut self, what: String) -> Result<()> {
        let fails = self.fail_at == Some(self.effects.len());
        self.effects.push(what);
        if fails {
            return Err(Error::System {
                action: "go on with",
                path: "/crash".into(),
                errno: Errno::EIO,
                advice: String::new(),
            });
        }
        Ok(())
    }

    fn held(&self, path: &Path) -> Result<()> {
        let file = self.files.get(path);
        match self.loops.values().find(|held| file.is_some_and(|file| file.inode == held.inode)) {
            Some(held) => Err(Error::InUse {
                path: path.to_owned(),
                user: held.node.display().to_string(),
                advice: "detach it".into(),
            }),
            None => Ok(()),
        }
    }
}

pub(crate) fn loop_number(index: u32) -> DeviceNumber {
    DeviceNumber { major: 7, minor: index }
}

impl Fake {
    pub(crate) fn new(free: u64) -> Self {
        Self(Arc::new(Mutex::new(World { free, next_inode: 10, ..World::default() })))
    }

    pub(crate) fn add_file(&self, path: PathBuf, size: u64, allocated: u64) {
        let mut world = self.0.lock().unwrap();
        world.next_inode += 1;
        let info =
            FileInfo { size: Bytes(size), allocated: Bytes(allocated), dev: 1, inode: world.next_inode };
        world.files.insert(path, info);
    }

    pub(crate) fn add_superblock(&self, path: &str, superblock: Superblock) {
        self.0.lock().unwrap().superblocks.insert(path.into(), superblock);
    }

    pub(crate) fn add_device(&self, path: &str, device: BlockDevice) {
        self.0.lock().unwrap().devices.insert(path.into(), device);
    }

    /// Attaches as a foreign program would, without asking.
    pub(crate) fn add_loop(&self, index: u32, path: &Path) {
        let mut world = self.0.lock().unwrap();
        let file = world.files[path];
        world.sizes.insert(index, file.size);
        world.loops.insert(
            index,
            LoopDevice {
                number: loop_number(index),
                node: format!("/dev/loop{index}").into(),
                file: path.to_owned(),
                dev: file.dev,
                inode: file.inode,
                autoclear: true,
                direct_io: true,
                read_only: false,
            },
        );
    }

    pub(crate) fn files(&self) -> BTreeMap<PathBuf, FileInfo> {
        self.0.lock().unwrap().files.clone()
    }

    pub(crate) fn loop_count(&self) -> usize {
        self.0.lock().unwrap().loops.len()
    }

    /// The effects so far; they are forgotten.
    pub(crate) fn take_effects(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().effects)
    }

    pub(crate) fn fail_at(&self, effect: Option<usize>) {
        self.0.lock().unwrap().fail_at = effect;
    }

    /// Room that the host file system does not give to files.
    pub(crate) fn keep_back(&self, bytes: u64) {
        self.0.lock().unwrap().kept_back = bytes;
    }

    pub(crate) fn set_free(&self, free: u64) {
        self.0.lock().unwrap().free = free;
    }
}

impl Backing for Fake {
    fn file(&self, path: &Path) -> Result<Option<FileInfo>> {
        Ok(self.0.lock().unwrap().files.get(path).copied())
    }

    fn ensure_file(&self, path: &Path, size: Bytes, allocation: Allocation) -> Result<Ensured> {
        let mut world = self.0.lock().unwrap();
        world.effect(format!("ensure {} {}", path.display(), size.0))?;
        let before = world.files.get(path).copied();
        let mut info = before.unwrap_or_else(|| {
            world.next_inode += 1;
            FileInfo { size: Bytes(0), allocated: Bytes(0), dev: 1, inode: world.next_inode }
        });
        let wanted = size.max(info.size);
        if allocation == Allocation::Full {
            let needed = wanted.0.saturating_sub(info.allocated.0);
            if needed > world.free.saturating_sub(world.kept_back) {
                return Err(Error::NoRoom {
                    path: path.to_owned(),
                    needed,
                    free: world.free,
                    option: "the fake's own",
                });
            }
            world.free -= needed;
            info.allocated = Bytes(info.allocated.0 + needed);
        }
        info.size = wanted;
        world.files.insert(path.to_owned(), info);
        Ok(match before {
            None => Ensured::Created,
            Some(before) if before.size < size => Ensured::Grown { from: before.size },
            Some(before) if before.size > size => Ensured::Larger { size: before.size },
            Some(_) => Ensured::AsItWas,
        })
    }

    fn remove_file(&self, path: &Path) -> Result<bool> {
        let mut world = self.0.lock().unwrap();
        world.held(path)?;
        world.effect(format!("remove {}", path.display()))?;
        let removed = world.files.remove(path);
        world.free += removed.map_or(0, |info| info.allocated.0);
        Ok(removed.is_some())
    }

    fn attach(&self, path: &Path, _options: AttachOptions) -> Result<Attachment> {
        let index = {
            let mut world = self.0.lock().unwrap();
            world.held(path)?;
            world.effect(format!("attach {}", path.display()))?;
            (0..).find(|index| !world.loops.contains_key(index)).unwrap()
        };
        self.add_loop(index, path);
        Ok(Attachment {
            node: format!("/dev/loop{index}").into(),
            number: loop_number(index),
            size: self.files()[path].size,
            direct_io: true,
            guard: Box::new(Guard(self.clone(), index)),
        })
    }

    fn loops(&self) -> Result<Vec<LoopDevice>> {
        Ok(self.0.lock().unwrap().loops.values().cloned().collect())
    }

    fn detach(&self, number: DeviceNumber) -> Result<()> {
        let mut world = self.0.lock().unwrap();
        world.effect(format!("detach {number}"))?;
        world.loops.remove(&number.minor);
        Ok(())
    }

    fn refresh_size(&self, number: DeviceNumber) -> Result<Bytes> {
        let mut world = self.0.lock().unwrap();
        world.effect(format!("refresh {number}"))?;
        let inode = world.loops[&number.minor].inode;
        let size = world.files.values().find(|file| file.inode == inode).unwrap().size;
        world.sizes.insert(number.minor, size);
        Ok(size)
    }

    fn inspect(&self, path: &Path) -> Result<BlockDevice> {
        self.0.lock().unwrap().devices.get(path).cloned().ok_or_else(|| Error::System {
            action: "look at",
            path: path.to_owned(),
            errno: Errno::ENOENT,
            advice: String::new(),
        })
    }

    fn superblock(&self, path: &Path) -> Result<Superblock> {
        Ok(self.0.lock().unwrap().superblocks.get(path).cloned().unwrap_or(Superblock::Blank))
    }

    fn discard(&self, device: &Path, _rate: Option<Bytes>, progress: Progress<'_>) -> Result<bool> {
        let size = self.inspect(device)?.size;
        progress(size, size);
        Ok(true)
    }
}
