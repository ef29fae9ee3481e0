//! Mounted file systems: what is in memory, what was written out, who is in them.

use crate::devices::{DM_MAJOR, Place};
use crate::image::{Content, Image, Node};
use crate::random::Random;
use crate::state::{Held, Result, State};
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thinlayer_dm::DeviceNumber;
use thinlayer_filesystem::{Kind, Mount, MountRequest, Unmount, Unmounted};

/// A line of the mount table, or a mount that was taken out of sight.
#[derive(Clone, Debug)]
pub(crate) struct MountEntry {
    pub(crate) id: u64,
    pub(crate) target: PathBuf,
    pub(crate) source: String,
    pub(crate) device: DeviceNumber,
    pub(crate) read_only: bool,
    pub(crate) detached: bool,
}

/// A file system in use, mounted once or more often.
#[derive(Clone, Debug)]
pub(crate) struct Super {
    /// As its users see it.
    pub(crate) now: Image,
    /// As it stands on the device.
    pub(crate) written: Arc<Image>,
    pub(crate) read_only: bool,
    pub(crate) frozen: bool,
    /// xfs: how often a write is tried again on a full device.
    pub(crate) retries: Option<u64>,
}

impl Super {
    pub(crate) fn is_clean(&self) -> bool {
        self.now == *self.written
    }
}

/// Where a path leads.
pub(crate) enum Where {
    /// To the host's tree.
    Host,
    /// Into a mounted file system: its device, and the path in it.
    Mounted { device: DeviceNumber, read_only: bool, inside: PathBuf },
}

impl State {
    /// Where a path leads, through the last mount above it.
    pub(crate) fn whereabouts(&self, path: &Path) -> Where {
        let above = self
            .mounts
            .iter()
            .filter(|m| !m.detached && path.starts_with(&m.target))
            .max_by_key(|m| m.target.as_os_str().len());
        match above {
            None => Where::Host,
            Some(m) => Where::Mounted {
                device: m.device,
                read_only: m.read_only,
                inside: path.strip_prefix(&m.target).unwrap_or(Path::new("")).to_owned(),
            },
        }
    }

    /// The mount whose root a path is.
    pub(crate) fn mount_at(&self, path: &Path) -> Option<&MountEntry> {
        self.mounts.iter().rev().find(|m| !m.detached && m.target == path)
    }

    pub(crate) fn is_suspended(&self, device: DeviceNumber) -> bool {
        device.major == DM_MAJOR && self.devices.get(&device.minor).is_some_and(|d| d.suspended)
    }

    /// I/O to a suspended device waits until it is resumed; a driver that does it waits for itself.
    pub(crate) fn must_not_be_suspended(&mut self, device: DeviceNumber, what: &str) -> Result<()> {
        if self.is_suspended(device) {
            self.violation(format!("{what} on the suspended device {device} would wait for ever"));
            return Err(Errno::EIO);
        }
        Ok(())
    }

    pub(crate) fn mount(&mut self, request: &MountRequest, call: &str) -> Result<()> {
        let read_only = request.read_only || request.no_recovery;
        let there = match self.whereabouts(&request.target) {
            Where::Host => self.files.is_dir(&request.target),
            Where::Mounted { device, inside, .. } => {
                self.supers.get(&device).is_some_and(|fs| fs.now.is_dir(&inside))
            }
        };
        if !there {
            return Err(Errno::ENOENT);
        }
        let source = request.device.to_str().ok_or(Errno::EINVAL)?;
        let device = self.block_device(source)?;
        self.must_not_be_suspended(device, "a mount")?;
        if self.sectors(device) == 0 {
            return Err(Errno::EINVAL);
        }
        if !self.tables_on(device).is_empty() {
            return Err(Errno::EBUSY);
        }
        if !read_only && !self.writable(device) {
            return Err(Errno::EACCES);
        }
        let place = self.place(device).ok_or(Errno::EINVAL)?;
        let Content::Filesystem(image) = self.content(place) else { return Err(Errno::EINVAL) };
        if image.kind != request.kind || image.size > self.sectors(device) * thinlayer_dm::SECTOR_BYTES {
            return Err(Errno::EINVAL);
        }
        if let Some(fs) = self.supers.get(&device)
            && fs.read_only != read_only
        {
            return Err(Errno::EBUSY);
        }
        self.effect(call);
        if !self.supers.contains_key(&device) {
            if !read_only && self.write_place(place, &[0], Content::Filesystem(image.clone())).is_err() {
                return Err(Errno::EIO);
            }
            let fs = Super {
                now: image.as_ref().clone(),
                written: image,
                read_only,
                frozen: false,
                retries: None,
            };
            self.supers.insert(device, fs);
        }
        let id = self.id();
        self.mounts.push(MountEntry {
            id,
            target: request.target.clone(),
            source: source.to_owned(),
            device,
            read_only,
            detached: false,
        });
        Ok(())
    }

    pub(crate) fn unmount(&mut self, target: &Path, when: Unmount, call: &str) -> Result<Unmounted> {
        let Some(mount) = self.mount_at(target).cloned() else { return Ok(Unmounted::NotMounted) };
        let in_use = self.holders.values().any(|held| *held == Held::Mount(mount.id));
        let below = |m: &MountEntry| {
            !m.detached && m.id != mount.id && m.target != mount.target && m.target.starts_with(&mount.target)
        };
        if when == Unmount::Now && (in_use || self.mounts.iter().any(below)) {
            return Err(Errno::EBUSY);
        }
        if !in_use {
            self.must_not_be_suspended(mount.device, "an unmount")?;
        }
        self.effect(call);
        for entry in &mut self.mounts {
            if entry.id == mount.id || below(entry) {
                entry.detached = true;
            }
        }
        self.settle_mounts();
        Ok(Unmounted::Done)
    }

    /// Mounts that nobody sees and nobody is in go, and file systems that are mounted nowhere, and what waited for them.
    pub(crate) fn settle_mounts(&mut self) {
        let holders = &self.holders;
        self.mounts.retain(|m| !m.detached || holders.values().any(|held| *held == Held::Mount(m.id)));
        let unused: Vec<DeviceNumber> = self
            .supers
            .keys()
            .copied()
            .filter(|device| !self.mounts.iter().any(|m| m.device == *device))
            .collect();
        for device in unused {
            // What cannot be written out is lost, and only the kernel's log says so.
            let lost = self.sync(device).is_err();
            self.supers.remove(&device);
            if lost {
                self.random.next();
            }
        }
        self.settle();
    }

    pub(crate) fn write_place(&mut self, place: Place, blocks: &[u64], content: Content) -> Result<()> {
        match place {
            Place::Thin { metadata, id } => self.write_thin(metadata, id, blocks, content),
            Place::Storage(storage) => {
                self.contents.insert(storage, content);
                Ok(())
            }
        }
    }

    /// Writes out what users of a file system changed. Not yet durable on a thin device.
    pub(crate) fn write_back(&mut self, device: DeviceNumber) -> Result<()> {
        let Some(fs) = self.supers.get(&device) else { return Ok(()) };
        if fs.read_only || fs.is_clean() {
            return Ok(());
        }
        let place = self.place(device).ok_or(Errno::EIO)?;
        let block_bytes = self.block_bytes(place);
        let mut image = fs.now.clone();
        let last = image.size / block_bytes;
        // The superblock and the journal.
        let mut blocks = vec![0];
        let mut next = image.next_block;
        for (path, node) in &mut image.nodes {
            let Node::File { content, first_block } = node else { continue };
            let before = fs.written.nodes.get(path);
            if let Some(Node::File { content: old, first_block: Some(_) }) = before
                && old == content
            {
                continue;
            }
            let count = u64::try_from(content.len()).unwrap_or(u64::MAX).div_ceil(block_bytes).max(1);
            let old_count = match before {
                Some(Node::File { content, .. }) => {
                    u64::try_from(content.len()).unwrap_or(u64::MAX).div_ceil(block_bytes).max(1)
                }
                _ => 0,
            };
            let at = match first_block {
                Some(at) if count <= old_count => *at,
                _ => {
                    let at = next;
                    next += count;
                    at
                }
            };
            if at + count > last {
                return Err(Errno::ENOSPC);
            }
            *first_block = Some(at);
            blocks.extend(at..at + count);
        }
        image.next_block = next;
        let image = Arc::new(image);
        self.write_place(place, &blocks, Content::Filesystem(image.clone()))?;
        if let Some(fs) = self.supers.get_mut(&device) {
            fs.now = image.as_ref().clone();
            fs.written = image;
        }
        Ok(())
    }

    /// Writes out and makes durable, as fsync, syncfs, freezing and unmounting do.
    pub(crate) fn sync(&mut self, device: DeviceNumber) -> Result<()> {
        self.write_back(device)?;
        if let Some(Place::Thin { metadata, .. }) = self.place(device)
            && let Some(pool) = self.pool_on(metadata)
        {
            self.commit(pool);
        }
        Ok(())
    }

    /// The power fails under a mounted file system: of what was not written out, each thing is there or not. Its journal keeps it whole.
    pub(crate) fn lose_some(&mut self, place: Place, fs: &Super, random: &mut Random) {
        let stable = match place {
            Place::Thin { metadata, id } => {
                self.metadata.get(&metadata).and_then(|m| m.volumes.get(&id)).map(|v| v.content.clone())
            }
            Place::Storage(storage) => self.contents.get(&storage).cloned(),
        };
        let Some(Content::Filesystem(stable)) = stable else { return };
        if fs.read_only || fs.now == *stable {
            return;
        }
        let mut image = stable.as_ref().clone();
        image.next_block = image.next_block.max(fs.now.next_block);
        for (path, node) in &fs.now.nodes {
            let parent = path.parent().unwrap_or(Path::new(""));
            if stable.nodes.get(path) != Some(node) && random.coin() && image.is_dir(parent) {
                image.nodes.insert(path.clone(), node.clone());
            }
        }
        for path in stable.nodes.keys().rev() {
            if !fs.now.nodes.contains_key(path) && random.coin() && image.list(path).is_empty() {
                image.nodes.remove(path);
            }
        }
        let content = Content::Filesystem(Arc::new(image));
        match place {
            Place::Thin { metadata, id } => {
                if let Some(stored) = self.metadata.get_mut(&metadata)
                    && let Some(volume) = Arc::make_mut(stored).volumes.get_mut(&id)
                {
                    volume.content = content;
                }
            }
            Place::Storage(storage) => {
                self.contents.insert(storage, content);
            }
        }
    }

    pub(crate) fn mount_table(&self) -> Vec<Mount> {
        let fixed = |target: &str, device, source: &str, kind: &str| Mount {
            target: target.into(),
            device,
            source: source.into(),
            kind: kind.into(),
            read_only: false,
        };
        let mut all = vec![fixed("/", (8, 1), "/dev/sda1", "ext4"), fixed("/run", (0, 25), "tmpfs", "tmpfs")];
        all.extend(self.mounts.iter().filter(|m| !m.detached).map(|m| Mount {
            target: m.target.clone(),
            device: (m.device.major, m.device.minor),
            source: m.source.clone(),
            kind: self.supers.get(&m.device).map_or("", |fs| fs.now.kind.as_str()).into(),
            read_only: m.read_only,
        }));
        all
    }

    /// Makes a file system on a device.
    pub(crate) fn make_filesystem(&mut self, device: &Path, kind: Kind, call: &str) -> Result<()> {
        let number = self.block_device(device.to_str().ok_or(Errno::EINVAL)?)?;
        if self.supers.contains_key(&number) || !self.tables_on(number).is_empty() {
            return Err(Errno::EBUSY);
        }
        if !self.writable(number) {
            return Err(Errno::EROFS);
        }
        self.must_not_be_suspended(number, "mkfs")?;
        let size = self.sectors(number) * thinlayer_dm::SECTOR_BYTES;
        let least = match kind {
            Kind::Ext4 => 1 << 20,
            Kind::Xfs => 300 << 20,
        };
        let place = self.place(number).ok_or(Errno::EINVAL)?;
        if size < least {
            return Err(Errno::EINVAL);
        }
        let last = size / self.block_bytes(place) - 1;
        self.effect_or_part(call, |st| {
            // A device that is full in the middle of it is garbage too.
            if st.write_place(place, &[0, 1], Content::Garbage).is_err() {
                st.random.next();
            }
        })?;
        let (a, b) = (self.random.next(), self.random.next());
        let uuid = format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            b >> 52,
            b & 0xffff_ffff_ffff
        );
        let image = Image { kind, uuid, size, nodes: std::collections::BTreeMap::new(), next_block: 3 };
        self.write_place(place, &[0, 1, 2, last], Content::Filesystem(Arc::new(image)))
            .map_err(|_| Errno::EIO)?;
        if let Place::Thin { metadata, .. } = place
            && let Some(pool) = self.pool_on(metadata)
        {
            self.commit(pool);
        }
        Ok(())
    }
}
