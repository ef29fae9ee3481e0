//! Loop devices, the files under them, and disks that were there from the start.

use crate::devices::LOOP_MAJOR;
use crate::image::Content;
use crate::state::{Held, Result, State, Storage};
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use thinlayer_dm::{DeviceNumber, SECTOR_BYTES};
use thinlayer_provision::{Allocation, AttachOptions, Ensured};

/// Inodes of device nodes.
const DEVICE_INODES: u64 = 1 << 40;

/// A loop device in use.
#[derive(Clone, Debug)]
pub(crate) struct Loop {
    pub(crate) file: PathBuf,
    pub(crate) inode: u64,
    pub(crate) storage: Storage,
    pub(crate) sectors: u64,
    pub(crate) autoclear: bool,
    pub(crate) read_only: bool,
}

/// A disk with a name.
#[derive(Clone, Debug)]
pub(crate) struct NamedDevice {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) read_only: bool,
}

impl State {
    pub(crate) fn loop_on(&self, inode: u64) -> Option<u32> {
        self.loops.iter().find(|(_, l)| l.inode == inode).map(|(&minor, _)| minor)
    }

    /// What a loop device on a file, or for reading on a block device, would be.
    pub(crate) fn loop_for(&self, path: &Path, options: AttachOptions, autoclear: bool) -> Result<Loop> {
        let AttachOptions { read_only, limit } = options;
        let (inode, storage, sectors) = match path.to_str().and_then(|text| self.block_device(text).ok()) {
            Some(_) if !read_only => return Err(Errno::EINVAL),
            Some(device) => {
                let inode = DEVICE_INODES | u64::from(device.major) << 20 | u64::from(device.minor);
                (inode, self.storage(device).ok_or(Errno::EINVAL)?, self.sectors(device))
            }
            None => {
                let (inode, file) = self.files.backing(path)?.ok_or(Errno::ENOENT)?;
                (inode, Storage::File(inode), file.size / SECTOR_BYTES)
            }
        };
        let sectors = limit.map_or(sectors, |limit| sectors.min(limit.0 / SECTOR_BYTES));
        Ok(Loop { file: path.to_owned(), inode, storage, sectors, autoclear, read_only })
    }

    /// Takes a free number for a loop device.
    pub(crate) fn attach(&mut self, device: Loop) -> Result<u32> {
        let minor = (0..).find(|minor| !self.loops.contains_key(minor)).ok_or(Errno::ENOSPC)?;
        self.loops.insert(minor, device);
        Ok(minor)
    }

    /// Makes or grows a file under a loop device.
    ///
    /// # Errors
    /// ENOSPC, with nothing changed.
    pub(crate) fn ensure_file(
        &mut self,
        path: &Path,
        size: u64,
        allocation: Allocation,
        call: &str,
    ) -> Result<Ensured> {
        let before =
            self.files.backing(path)?.map(|(inode, file)| (inode, file.size, file.allocated(), file.full));
        if let Some((_, old, _, full)) = before {
            let filled = full || allocation == Allocation::Sparse;
            if old >= size && filled {
                return Ok(if old > size {
                    Ensured::Larger { size: thinlayer_dm::Bytes(old) }
                } else {
                    Ensured::AsItWas
                });
            }
        } else if path.parent().is_none_or(|above| !self.files.is_dir(above)) {
            return Err(Errno::ENOENT);
        }
        let size = before.map_or(size, |(_, old, ..)| old.max(size));
        if allocation == Allocation::Full {
            let needed = size - before.map_or(0, |(_, _, allocated, _)| allocated);
            if needed > self.files.free() {
                return Err(Errno::ENOSPC);
            }
        }
        self.effect_or_part(call, |st| {
            if before.is_none() {
                st.files.make_backing(path).unwrap_or_default();
            }
        })?;
        if before.is_none() {
            self.files.make_backing(path)?;
        }
        let inode = self.files.lookup(path)?;
        if let Some(file) = self.files.backing_of(inode) {
            file.size = size;
            if allocation == Allocation::Full {
                file.fill();
            }
        }
        Ok(match before {
            None => Ensured::Created,
            Some((_, from, ..)) if from < size => Ensured::Grown { from: thinlayer_dm::Bytes(from) },
            Some(_) => Ensured::AsItWas,
        })
    }

    pub(crate) fn remove_file(&mut self, path: &Path, call: &str) -> Result<bool> {
        let Some((inode, _)) = self.files.backing(path)? else { return Ok(false) };
        if self.loop_on(inode).is_some() {
            return Err(Errno::EBUSY);
        }
        self.effect(call);
        self.files.remove_backing(path)?;
        self.contents.remove(&Storage::File(inode));
        self.metadata.remove(&Storage::File(inode));
        Ok(true)
    }

    /// Who uses a block device, in words.
    pub(crate) fn users(&self, number: DeviceNumber) -> Vec<String> {
        let mounts = self
            .mounts
            .iter()
            .filter(|m| m.device == number)
            .map(|m| format!("mounted on {}", m.target.display()));
        let tables = self
            .tables_on(number)
            .into_iter()
            .filter_map(|minor| self.devices.get(&minor).map(|d| format!("device-mapper device {}", d.name)));
        let open = self
            .holders
            .values()
            .filter(|held| **held == Held::Node(number))
            .map(|_| "a program that has it open".to_owned());
        mounts.chain(tables).chain(open).collect()
    }

    /// What is on a device, in a word.
    pub(crate) fn signature(&self, number: DeviceNumber) -> Option<String> {
        match self.content(self.place(number)?) {
            Content::Blank | Content::Garbage => None,
            Content::Signature(name) => Some(name),
            Content::Filesystem(image) => Some(image.kind.as_str().into()),
        }
    }

    /// Discards a whole device. `false`: it cannot.
    pub(crate) fn discard(&mut self, number: DeviceNumber, call: &str) -> Result<bool> {
        use crate::devices::Place;
        if !self.writable(number) {
            return Err(Errno::EPERM);
        }
        if self.supers.contains_key(&number) || !self.tables_on(number).is_empty() {
            return Err(Errno::EBUSY);
        }
        self.must_not_be_suspended(number, "a discard")?;
        match self.place(number) {
            None => Ok(false),
            Some(Place::Thin { metadata, id }) => {
                let ignores = self
                    .pool_on(metadata)
                    .and_then(|minor| self.pools.get(&minor))
                    .is_none_or(|pool| pool.features.ignore_discard);
                if ignores {
                    return Ok(false);
                }
                self.effect_or_part(call, |st| {
                    st.discard_thin(metadata, id, false);
                })?;
                Ok(self.discard_thin(metadata, id, true))
            }
            Some(Place::Storage(storage)) => {
                self.effect(call);
                self.contents.remove(&storage);
                self.metadata.remove(&storage);
                if let Storage::File(inode) = storage
                    && let Some(file) = self.files.backing_of(inode)
                {
                    file.full = false;
                    file.blocks = std::sync::Arc::default();
                }
                Ok(true)
            }
        }
    }

    /// Our process closes a loop device.
    pub(crate) fn close(&mut self, holder: u64, process: u64) {
        if self.process == process && !self.is_dead() {
            self.holders.remove(&holder);
            self.settle();
        }
    }
}

pub(crate) fn loop_number(minor: u32) -> DeviceNumber {
    DeviceNumber { major: LOOP_MAJOR, minor }
}

pub(crate) fn loop_node(minor: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{minor}"))
}
