//! The host's folder tree: what is visible, and what would be there after a power cut.
//!
//! A file's content is durable after its own sync; a name after the sync of the folder that holds it.

use crate::random::Random;
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};
use std::sync::Arc;
use thinlayer_filesystem::Owner;

type Result<T> = std::result::Result<T, Errno>;

/// What a block of the host's file system takes.
const HOST_BLOCK: u64 = 4096;
const ROOT_INODE: u64 = 2;

/// A file under a loop device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackingFile {
    pub(crate) size: u64,
    /// Everything is allocated.
    pub(crate) full: bool,
    /// Bytes in each of `blocks`.
    pub(crate) block_bytes: u64,
    /// The blocks that are allocated.
    pub(crate) blocks: Arc<BTreeSet<u64>>,
}

impl BackingFile {
    pub(crate) fn allocated(&self) -> u64 {
        if self.full {
            self.size
        } else {
            u64::try_from(self.blocks.len())
                .unwrap_or(u64::MAX)
                .saturating_mul(self.block_bytes)
                .min(self.size)
        }
    }
}

#[derive(Clone, Debug)]
enum Body {
    Dir {
        entries: BTreeMap<OsString, u64>,
        durable: BTreeMap<OsString, u64>,
    },
    File {
        content: Arc<Vec<u8>>,
        durable: Arc<Vec<u8>>,
        /// What else a power cut may leave, in the order in which it came; the last is the visible content.
        unsynced: Vec<Arc<Vec<u8>>>,
    },
    Backing(BackingFile),
}

#[derive(Clone, Debug)]
struct Inode {
    mode: u32,
    owner: (u32, u32),
    body: Body,
}

/// A change of a name that is not durable yet.
#[derive(Clone, Debug)]
struct NameChange {
    folder: u64,
    name: OsString,
    /// What the name stands for from now on.
    to: Option<u64>,
    /// The inode that the change is about.
    inode: u64,
    /// Changes of one rename share it: all of them or none.
    group: u64,
}

/// The tree.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    inodes: BTreeMap<u64, Inode>,
    pending: Vec<NameChange>,
    next_inode: u64,
    next_group: u64,
    /// Bytes on the host's file system.
    pub(crate) capacity: u64,
}

impl Files {
    pub(crate) fn new(capacity: u64) -> Self {
        let root = Inode {
            mode: 0o755,
            owner: (0, 0),
            body: Body::Dir { entries: BTreeMap::new(), durable: BTreeMap::new() },
        };
        Self {
            inodes: BTreeMap::from([(ROOT_INODE, root)]),
            pending: Vec::new(),
            next_inode: 1000,
            next_group: 0,
            capacity,
        }
    }

    fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
        path.components().filter_map(|c| match c {
            Component::Normal(name) => Some(name),
            _ => None,
        })
    }

    fn entries(&self, inode: u64) -> Result<&BTreeMap<OsString, u64>> {
        match self.inodes.get(&inode).map(|i| &i.body) {
            Some(Body::Dir { entries, .. }) => Ok(entries),
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    /// The inode of an absolute path.
    pub(crate) fn lookup(&self, path: &Path) -> Result<u64> {
        Self::names(path)
            .try_fold(ROOT_INODE, |at, name| self.entries(at)?.get(name).copied().ok_or(Errno::ENOENT))
    }

    /// Folder and name of a path, whether or not the name is there.
    fn parent<'a>(&self, path: &'a Path) -> Result<(u64, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::EINVAL)?;
        let folder = self.lookup(path.parent().ok_or(Errno::EINVAL)?)?;
        self.entries(folder)?;
        Ok((folder, name))
    }

    fn change(&mut self, changes: &[(u64, &OsStr, Option<u64>, u64)]) {
        self.next_group += 1;
        let group = self.next_group;
        for &(folder, name, to, inode) in changes {
            if let Some(Inode { body: Body::Dir { entries, .. }, .. }) = self.inodes.get_mut(&folder) {
                match to {
                    Some(to) => entries.insert(name.to_owned(), to),
                    None => entries.remove(name),
                };
                self.pending.push(NameChange { folder, name: name.to_owned(), to, inode, group });
            }
        }
    }

    fn add(&mut self, mode: u32, owner: (u32, u32), body: Body) -> u64 {
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, Inode { mode, owner, body });
        self.next_inode
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> u64 {
        let mut reachable = BTreeSet::new();
        self.walk(ROOT_INODE, &mut reachable);
        reachable
            .iter()
            .filter_map(|i| self.inodes.get(i))
            .map(|inode| match &inode.body {
                Body::Dir { .. } => HOST_BLOCK,
                Body::File { content, .. } => {
                    u64::try_from(content.len()).unwrap_or(u64::MAX).div_ceil(HOST_BLOCK) * HOST_BLOCK
                }
                Body::Backing(file) => file.allocated(),
            })
            .sum()
    }

    fn walk(&self, inode: u64, seen: &mut BTreeSet<u64>) {
        if seen.insert(inode)
            && let Ok(entries) = self.entries(inode)
        {
            for &entry in entries.values() {
                self.walk(entry, seen);
            }
        }
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    fn room(&self, bytes: u64) -> Result<()> {
        if bytes > self.free() { Err(Errno::ENOSPC) } else { Ok(()) }
    }

    /// Makes what is missing of a folder's path; `true` if anything was.
    pub(crate) fn make_folder(&mut self, path: &Path, mode: u32) -> Result<bool> {
        let mut at = ROOT_INODE;
        let mut made = false;
        for name in Self::names(path) {
            at = match self.entries(at)?.get(name) {
                Some(&next) => {
                    self.entries(next)?;
                    next
                }
                None => {
                    self.room(HOST_BLOCK)?;
                    let body = Body::Dir { entries: BTreeMap::new(), durable: BTreeMap::new() };
                    let next = self.add(mode, (0, 0), body);
                    self.change(&[(at, name, Some(next), next)]);
                    made = true;
                    next
                }
            };
        }
        Ok(made)
    }

    /// Mode and owner of a path.
    pub(crate) fn mode(&self, path: &Path) -> Result<(u32, Owner)> {
        let inode = self.lookup(path)?;
        let inode = self.inodes.get(&inode).ok_or(Errno::ENOENT)?;
        Ok((inode.mode, Owner { uid: inode.owner.0, gid: inode.owner.1 }))
    }

    pub(crate) fn set_mode(&mut self, path: &Path, mode: u32, owner: Owner) -> Result<()> {
        let inode = self.lookup(path)?;
        let inode = self.inodes.get_mut(&inode).ok_or(Errno::ENOENT)?;
        inode.mode = mode;
        inode.owner = (owner.uid, owner.gid);
        Ok(())
    }

    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        self.lookup(path).is_ok_and(|i| self.entries(i).is_ok())
    }

    /// A folder's names, with whether each is a folder.
    pub(crate) fn list(&self, path: &Path) -> Result<Vec<(OsString, bool)>> {
        let entries = self.entries(self.lookup(path)?)?;
        Ok(entries.iter().map(|(name, &inode)| (name.clone(), self.entries(inode).is_ok())).collect())
    }

    pub(crate) fn remove_folder(&mut self, path: &Path) -> Result<()> {
        let (folder, name) = self.parent(path)?;
        let inode = self.lookup(path)?;
        if !self.entries(inode)?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.change(&[(folder, name, None, inode)]);
        Ok(())
    }

    pub(crate) fn read(&self, path: &Path) -> Result<Vec<u8>> {
        match self.inodes.get(&self.lookup(path)?).map(|i| &i.body) {
            Some(Body::File { content, .. }) => Ok(content.as_ref().clone()),
            Some(Body::Dir { .. }) => Err(Errno::EISDIR),
            // Nobody reads a file under a loop device whole.
            Some(Body::Backing(_)) => Err(Errno::EFBIG),
            None => Err(Errno::ENOENT),
        }
    }

    /// Would [`Self::write`] be let through?
    pub(crate) fn may_write(&self, path: &Path, bytes: usize) -> Result<()> {
        let before = match self.lookup(path).map(|i| self.inodes.get(&i).map(|i| &i.body)) {
            Ok(Some(Body::File { content, .. })) => content.len(),
            Ok(Some(Body::Dir { .. })) => return Err(Errno::EISDIR),
            Ok(_) => return Err(Errno::EFBIG),
            Err(_) => {
                self.parent(path)?;
                0
            }
        };
        let blocks = |n: usize| u64::try_from(n).unwrap_or(u64::MAX).div_ceil(HOST_BLOCK);
        self.room(blocks(bytes).saturating_sub(blocks(before)) * HOST_BLOCK)
    }

    /// Makes a file or replaces its content: truncated first, then written.
    pub(crate) fn write(&mut self, path: &Path, bytes: &[u8]) -> Result<()> {
        let inode = match self.lookup(path) {
            Ok(inode) => inode,
            Err(_) => {
                let (folder, name) = self.parent(path)?;
                let empty = Arc::new(Vec::new());
                let body = Body::File { content: empty.clone(), durable: empty, unsynced: Vec::new() };
                let inode = self.add(0o600, (0, 0), body);
                self.change(&[(folder, name, Some(inode), inode)]);
                inode
            }
        };
        match self.inodes.get_mut(&inode).map(|i| &mut i.body) {
            Some(Body::File { content, unsynced, .. }) => {
                let new = Arc::new(bytes.to_vec());
                unsynced.push(Arc::new(Vec::new()));
                unsynced.push(Arc::new(bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec()));
                unsynced.push(new.clone());
                *content = new;
                Ok(())
            }
            _ => Err(Errno::EISDIR),
        }
    }

    /// Overwrites a file's first bytes. If `synced`, durable at once, with what was unsynced.
    pub(crate) fn overwrite(&mut self, path: &Path, bytes: &[u8], synced: bool) -> Result<()> {
        let inode = self.lookup(path)?;
        match self.inodes.get_mut(&inode).map(|i| &mut i.body) {
            Some(Body::File { content, durable, unsynced }) => {
                let mut new = content.as_ref().clone();
                let Some(start) = new.get_mut(..bytes.len()) else { return Err(Errno::EINVAL) };
                start.copy_from_slice(bytes);
                *content = Arc::new(new);
                if synced {
                    *durable = content.clone();
                    unsynced.clear();
                } else {
                    unsynced.push(content.clone());
                }
                Ok(())
            }
            _ => Err(Errno::EISDIR),
        }
    }

    pub(crate) fn sync_file(&mut self, path: &Path) -> Result<()> {
        let inode = self.lookup(path)?;
        match self.inodes.get_mut(&inode).map(|i| &mut i.body) {
            Some(Body::File { content, durable, unsynced }) => {
                *durable = content.clone();
                unsynced.clear();
                Ok(())
            }
            Some(Body::Backing(_)) => Ok(()),
            Some(Body::Dir { .. }) => Err(Errno::EISDIR),
            None => Err(Errno::ENOENT),
        }
    }

    pub(crate) fn sync_folder(&mut self, path: &Path) -> Result<()> {
        let folder = self.lookup(path)?;
        match self.inodes.get_mut(&folder).map(|i| &mut i.body) {
            Some(Body::Dir { entries, durable }) => *durable = entries.clone(),
            _ => return Err(Errno::ENOTDIR),
        }
        self.pending.retain(|change| change.folder != folder);
        Ok(())
    }

    /// Is there anything that a sync of this folder would make durable?
    #[cfg(test)]
    pub(crate) fn is_synced(&self, path: &Path) -> bool {
        self.lookup(path).is_ok_and(|folder| self.pending.iter().all(|change| change.folder != folder))
    }

    /// Would [`Self::rename`] be let through? The file's inode, and whether there is anything to do.
    pub(crate) fn may_rename(&self, from: &Path, to: &Path) -> Result<(u64, bool)> {
        let inode = self.lookup(from)?;
        if self.entries(inode).is_ok() {
            return Err(Errno::EISDIR);
        }
        self.parent(to)?;
        match self.lookup(to) {
            Ok(there) if there == inode => Ok((inode, false)),
            Ok(there) if self.entries(there).is_ok() => Err(Errno::EISDIR),
            _ => Ok((inode, true)),
        }
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let (inode, needed) = self.may_rename(from, to)?;
        if needed {
            let (from_folder, from_name) = self.parent(from)?;
            let (to_folder, to_name) = self.parent(to)?;
            self.change(&[(to_folder, to_name, Some(inode), inode), (from_folder, from_name, None, inode)]);
        }
        Ok(())
    }

    /// Would [`Self::remove`] be let through?
    pub(crate) fn may_remove(&self, path: &Path) -> Result<u64> {
        let inode = self.lookup(path)?;
        if self.entries(inode).is_ok() { Err(Errno::EISDIR) } else { Ok(inode) }
    }

    pub(crate) fn remove(&mut self, path: &Path) -> Result<()> {
        let inode = self.may_remove(path)?;
        let (folder, name) = self.parent(path)?;
        self.change(&[(folder, name, None, inode)]);
        Ok(())
    }

    /// A file under a loop device.
    pub(crate) fn backing(&self, path: &Path) -> Result<Option<(u64, &BackingFile)>> {
        let inode = match self.lookup(path) {
            Ok(inode) => inode,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        match self.inodes.get(&inode).map(|i| &i.body) {
            Some(Body::Backing(file)) => Ok(Some((inode, file))),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(crate) fn backing_of(&mut self, inode: u64) -> Option<&mut BackingFile> {
        match self.inodes.get_mut(&inode).map(|i| &mut i.body) {
            Some(Body::Backing(file)) => Some(file),
            _ => None,
        }
    }

    /// Makes a file under a loop device, empty and durable.
    pub(crate) fn make_backing(&mut self, path: &Path) -> Result<()> {
        let (folder, name) = self.parent(path)?;
        let file = BackingFile { size: 0, full: false, block_bytes: HOST_BLOCK, blocks: Arc::default() };
        let inode = self.add(0o600, (0, 0), Body::Backing(file));
        if let Some(Inode { body: Body::Dir { entries, durable }, .. }) = self.inodes.get_mut(&folder) {
            entries.insert(name.to_owned(), inode);
            durable.insert(name.to_owned(), inode);
        }
        // A name is durable only with the folders above it.
        self.settle_folders(path);
        Ok(())
    }

    /// Removes a file under a loop device, durably.
    pub(crate) fn remove_backing(&mut self, path: &Path) -> Result<()> {
        let (folder, name) = self.parent(path)?;
        if let Some(Inode { body: Body::Dir { entries, durable }, .. }) = self.inodes.get_mut(&folder) {
            entries.remove(name);
            durable.remove(name);
        }
        Ok(())
    }

    /// Takes or gives back one block of a sparse file. `false`: the host has no room.
    pub(crate) fn allocate_block(&mut self, inode: u64, block: u64, block_bytes: u64) -> bool {
        let free = self.free();
        let Some(file) = self.backing_of(inode) else { return true };
        if file.full || file.blocks.contains(&block) {
            return true;
        }
        if block_bytes > free {
            return false;
        }
        file.block_bytes = block_bytes;
        Arc::make_mut(&mut file.blocks).insert(block);
        true
    }

    pub(crate) fn punch(&mut self, inode: u64, blocks: &[u64]) {
        if let Some(file) = self.backing_of(inode)
            && blocks.iter().any(|block| file.blocks.contains(block))
        {
            let held = Arc::make_mut(&mut file.blocks);
            for block in blocks {
                held.remove(block);
            }
        }
    }

    /// The folders above a path are made durable, as the sync of a new file does on journalling file systems.
    fn settle_folders(&mut self, path: &Path) {
        for above in path.ancestors().skip(1) {
            let Ok(inode) = self.lookup(above) else { continue };
            let Ok((folder, name)) = self.parent(above) else { continue };
            self.pending.retain(|change| change.inode != inode);
            if let Some(Inode { body: Body::Dir { durable, .. }, .. }) = self.inodes.get_mut(&folder) {
                durable.insert(name.to_owned(), inode);
            }
        }
    }

    /// The power fails: of what was not synced, each thing is kept or lost, but nothing before something that it stands on.
    pub(crate) fn power_cut(&mut self, random: &mut Random) {
        let pending = std::mem::take(&mut self.pending);
        let mut groups: BTreeMap<u64, Vec<NameChange>> = BTreeMap::new();
        for change in pending {
            groups.entry(change.group).or_default().push(change);
        }
        let mut lost_names = BTreeSet::new();
        let mut lost_inodes = BTreeSet::new();
        for changes in groups.into_values() {
            let stands = changes.iter().all(|c| {
                !lost_inodes.contains(&c.inode) && !lost_names.contains(&(c.folder, c.name.clone()))
            });
            if stands && random.coin() {
                for change in changes {
                    if let Some(Inode { body: Body::Dir { durable, .. }, .. }) =
                        self.inodes.get_mut(&change.folder)
                    {
                        match change.to {
                            Some(to) => durable.insert(change.name, to),
                            None => durable.remove(&change.name),
                        };
                    }
                }
            } else {
                for change in changes {
                    lost_inodes.insert(change.inode);
                    lost_names.insert((change.folder, change.name));
                }
            }
        }
        for inode in self.inodes.values_mut() {
            match &mut inode.body {
                Body::Dir { entries, durable } => *entries = durable.clone(),
                Body::File { content, durable, unsynced } => {
                    let chosen = random.below(unsynced.len() + 1);
                    if let Some(kept) = chosen.checked_sub(1).and_then(|n| unsynced.get(n)) {
                        *durable = kept.clone();
                    }
                    *content = durable.clone();
                    unsynced.clear();
                }
                Body::Backing(_) => {}
            }
        }
        self.forget_unreachable();
    }

    /// Empties a folder, as a reboot does with one on tmpfs.
    pub(crate) fn wipe(&mut self, path: &Path) {
        if let Ok(inode) = self.lookup(path)
            && let Some(Inode { body: Body::Dir { entries, durable }, .. }) = self.inodes.get_mut(&inode)
        {
            entries.clear();
            durable.clear();
            self.forget_unreachable();
        }
    }

    fn forget_unreachable(&mut self) {
        let mut reachable = BTreeSet::new();
        self.walk(ROOT_INODE, &mut reachable);
        self.inodes.retain(|inode, _| reachable.contains(inode));
    }
}

#[cfg(test)]
mod tests;
