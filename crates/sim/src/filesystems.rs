//! [`Filesystems`] on the world.

use crate::image::{Content, Image, Node};
use crate::mounts::Where;
use crate::state::{Result as Answer, State, View};
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thinlayer_dm::DeviceNumber;
use thinlayer_filesystem::{
    Alive, Detected, Error, Filesystems, Kind, MakeOptions, Mount, MountRequest, Owner, Result, Unmount,
    Unmounted,
};

/// File systems, mounts and folders of the world.
#[derive(Clone, Debug)]
pub(crate) struct SimFilesystems(pub(crate) View);

impl SimFilesystems {
    fn on<T>(
        &self,
        action: &str,
        path: &Path,
        extra: &str,
        run: impl FnOnce(&mut State, &str) -> Answer<T>,
    ) -> Result<T> {
        let call = format!("fs {action} {}{extra}", path.display());
        self.0.call(&call, |state| run(state, &call)).map_err(|errno| Error::new(action, path, errno))
    }
}

/// The tree of a mounted file system, to be changed.
fn tree(state: &mut State, device: DeviceNumber, read_only: bool) -> Answer<&mut Image> {
    let fs = state.supers.get_mut(&device).ok_or(Errno::EIO)?;
    if read_only || fs.read_only {
        return Err(Errno::EROFS);
    }
    if fs.frozen {
        // The writer would wait for the thaw.
        return Err(Errno::EBUSY);
    }
    Ok(&mut fs.now)
}

pub(crate) fn put_file(state: &mut State, path: &Path, contents: &[u8]) -> Answer<()> {
    match state.whereabouts(path) {
        Where::Host => state.files.write(path, contents),
        Where::Mounted { device, read_only, inside } => {
            let image = tree(state, device, read_only)?;
            if !image.is_dir(inside.parent().unwrap_or(Path::new(""))) {
                return Err(Errno::ENOENT);
            }
            let first_block = match image.nodes.get(&inside) {
                Some(Node::File { first_block, .. }) => *first_block,
                Some(Node::Dir { .. }) => return Err(Errno::EISDIR),
                None => None,
            };
            image.nodes.insert(inside, Node::File { content: Arc::new(contents.to_vec()), first_block });
            Ok(())
        }
    }
}

pub(crate) fn get_file(state: &State, path: &Path) -> Answer<Option<Vec<u8>>> {
    match state.whereabouts(path) {
        Where::Host => match state.files.read(path) {
            Ok(content) => Ok(Some(content)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        },
        Where::Mounted { device, inside, .. } => {
            let fs = state.supers.get(&device).ok_or(Errno::EIO)?;
            Ok(match fs.now.nodes.get(&inside) {
                Some(Node::File { content, .. }) => Some(content.as_ref().clone()),
                _ => None,
            })
        }
    }
}

fn make_dirs_inside(image: &mut Image, inside: &Path, mode: u32, owner: Owner) -> Answer<()> {
    let mut above: Vec<&Path> = inside.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    above.reverse();
    for path in above {
        let last = path == inside;
        match image.nodes.get_mut(path) {
            Some(Node::File { .. }) => return Err(Errno::ENOTDIR),
            Some(Node::Dir { mode: m, uid, gid }) if last => (*m, *uid, *gid) = (mode, owner.uid, owner.gid),
            Some(Node::Dir { .. }) => {}
            None => {
                let (mode, uid, gid) = if last { (mode, owner.uid, owner.gid) } else { (0o755, 0, 0) };
                image.nodes.insert(path.to_owned(), Node::Dir { mode, uid, gid });
            }
        }
    }
    Ok(())
}

impl Filesystems for SimFilesystems {
    fn detect(&self, device: &Path) -> Result<Detected> {
        self.on("read", device, "", |st, _| {
            let number = st.block_device(device.to_str().ok_or(Errno::EINVAL)?)?;
            st.must_not_be_suspended(number, "a read")?;
            if st.sectors(number) == 0 {
                return Err(Errno::EIO);
            }
            let Some(place) = st.place(number) else { return Ok(Detected::Nothing) };
            Ok(match st.content(place) {
                Content::Filesystem(image) => Detected::Known { kind: image.kind, uuid: image.uuid.clone() },
                Content::Signature(name) if name == "btrfs" => Detected::Foreign("btrfs"),
                _ => Detected::Nothing,
            })
        })
    }

    fn extent(&self, device: &Path) -> Result<Option<u64>> {
        self.on("read", device, "", |st, _| {
            let number = st.block_device(device.to_str().ok_or(Errno::EINVAL)?)?;
            st.must_not_be_suspended(number, "a read")?;
            let Some(place) = st.place(number) else { return Ok(None) };
            Ok(match st.content(place) {
                Content::Filesystem(image) => Some(image.size),
                _ => None,
            })
        })
    }

    fn usable(&self, kind: Kind) -> Result<()> {
        self.on("use", Path::new(kind.as_str()), "", |_, _| Ok(()))
    }

    fn make(&self, device: &Path, options: &MakeOptions, _alive: Alive<'_>) -> Result<()> {
        let kind = options.kind;
        self.on(&format!("make {kind} on"), device, "", |st, call| st.make_filesystem(device, kind, call))
    }

    fn mount(&self, request: &MountRequest) -> Result<()> {
        let extra = format!(" on {}", request.target.display());
        self.on("mount", &request.device, &extra, |st, call| st.mount(request, call))
    }

    fn unmount(&self, target: &Path, when: Unmount) -> Result<Unmounted> {
        self.on("unmount", target, "", |st, call| st.unmount(target, when, call))
    }

    fn grow(&self, kind: Kind, mount_point: &Path, device: &Path) -> Result<()> {
        self.on("grow", mount_point, "", |st, call| {
            let number = st.block_device(device.to_str().ok_or(Errno::EINVAL)?)?;
            if st.mount_at(mount_point).is_none_or(|m| m.device != number) {
                return Err(Errno::EINVAL);
            }
            st.must_not_be_suspended(number, "growing")?;
            let bytes = st.sectors(number) * thinlayer_dm::SECTOR_BYTES;
            let fs = st.supers.get_mut(&number).ok_or(Errno::EINVAL)?;
            if fs.now.kind != kind {
                return Err(Errno::EINVAL);
            }
            if fs.read_only {
                return Err(Errno::EROFS);
            }
            if bytes > fs.now.size {
                st.effect(call);
                if let Some(fs) = st.supers.get_mut(&number) {
                    fs.now.size = bytes;
                }
                st.sync(number)?;
            }
            Ok(())
        })
    }

    fn freeze(&self, mount_point: &Path) -> Result<()> {
        self.on("freeze", mount_point, "", |st, call| {
            let device = st.mount_at(mount_point).ok_or(Errno::EINVAL)?.device;
            st.must_not_be_suspended(device, "a freeze")?;
            if st.supers.get(&device).is_none_or(|fs| fs.frozen) {
                return Err(Errno::EBUSY);
            }
            st.effect(call);
            st.sync(device)?;
            if let Some(fs) = st.supers.get_mut(&device) {
                fs.frozen = true;
            }
            Ok(())
        })
    }

    fn thaw(&self, mount_point: &Path) -> Result<()> {
        self.on("thaw", mount_point, "", |st, call| {
            let device = st.mount_at(mount_point).ok_or(Errno::EINVAL)?.device;
            if st.supers.get(&device).is_none_or(|fs| !fs.frozen) {
                return Err(Errno::EINVAL);
            }
            st.effect(call);
            if let Some(fs) = st.supers.get_mut(&device) {
                fs.frozen = false;
            }
            Ok(())
        })
    }

    fn set_xfs_retries(&self, device: (u32, u32), retries: u64) -> Result<()> {
        let number = DeviceNumber { major: device.0, minor: device.1 };
        let path = PathBuf::from(format!("/sys/fs/xfs/dm-{}/error/metadata/ENOSPC/max_retries", device.1));
        self.on("write", &path, "", |st, call| {
            match st.supers.get(&number) {
                Some(fs) if fs.now.kind == Kind::Xfs => {}
                _ => return Err(Errno::ENOENT),
            }
            st.effect(call);
            if let Some(fs) = st.supers.get_mut(&number) {
                fs.retries = Some(retries);
            }
            Ok(())
        })
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        self.on("read", Path::new("/proc/self/mountinfo"), "", |st, _| Ok(st.mount_table()))
    }

    fn make_dir(&self, path: &Path, mode: u32, owner: Owner) -> Result<()> {
        self.on("make folder", path, "", |st, call| match st.whereabouts(path) {
            Where::Host => {
                if st.files.is_dir(path) && st.files.mode(path)? == (mode, owner) {
                    return Ok(());
                }
                st.effect(call);
                st.files.make_folder(path, 0o755)?;
                st.files.set_mode(path, mode, owner)
            }
            Where::Mounted { device, read_only, inside } => {
                if inside.as_os_str().is_empty() {
                    return Ok(());
                }
                let there = Node::Dir { mode, uid: owner.uid, gid: owner.gid };
                if st.supers.get(&device).is_some_and(|fs| fs.now.nodes.get(&inside) == Some(&there)) {
                    return Ok(());
                }
                tree(st, device, read_only)?;
                st.effect(call);
                make_dirs_inside(tree(st, device, read_only)?, &inside, mode, owner)
            }
        })
    }

    fn remove_dir(&self, path: &Path) -> Result<bool> {
        self.on("remove folder", path, "", |st, call| {
            if st.mount_at(path).is_some() {
                return Err(Errno::EBUSY);
            }
            match st.whereabouts(path) {
                Where::Host => {
                    match st.files.lookup(path) {
                        Ok(_) => {}
                        Err(Errno::ENOENT) => return Ok(false),
                        Err(errno) => return Err(errno),
                    }
                    if !st.files.list(path)?.is_empty() {
                        return Err(Errno::ENOTEMPTY);
                    }
                    st.effect(call);
                    st.files.remove_folder(path)?;
                    Ok(true)
                }
                Where::Mounted { device, read_only, inside } => {
                    let image = tree(st, device, read_only)?;
                    match image.nodes.get(&inside) {
                        None => return Ok(false),
                        Some(Node::File { .. }) => return Err(Errno::ENOTDIR),
                        Some(Node::Dir { .. }) if !image.list(&inside).is_empty() => {
                            return Err(Errno::ENOTEMPTY);
                        }
                        Some(Node::Dir { .. }) => {}
                    }
                    st.effect(call);
                    tree(st, device, read_only)?.nodes.remove(&inside);
                    Ok(true)
                }
            }
        })
    }

    fn dirs(&self, path: &Path) -> Result<Vec<String>> {
        self.on("list", path, "", |st, _| match st.whereabouts(path) {
            Where::Host => match st.files.list(path) {
                Ok(all) => Ok(all
                    .into_iter()
                    .filter(|(_, is_dir)| *is_dir)
                    .filter_map(|(name, _)| name.into_string().ok())
                    .collect()),
                Err(Errno::ENOENT) => Ok(Vec::new()),
                Err(errno) => Err(errno),
            },
            Where::Mounted { device, inside, .. } => {
                let fs = st.supers.get(&device).ok_or(Errno::EIO)?;
                Ok(fs
                    .now
                    .list(&inside)
                    .into_iter()
                    .filter(|(_, is_dir)| *is_dir)
                    .map(|(name, _)| name)
                    .collect())
            }
        })
    }

    fn write_if_absent(&self, path: &Path, contents: &[u8]) -> Result<bool> {
        self.on("write", path, "", |st, call| {
            if get_file(st, path)?.is_some() {
                return Ok(false);
            }
            match st.whereabouts(path) {
                Where::Host => st.files.may_write(path, contents.len())?,
                Where::Mounted { device, read_only, inside } => {
                    let image = tree(st, device, read_only)?;
                    if !image.is_dir(inside.parent().unwrap_or(Path::new(""))) {
                        return Err(Errno::ENOENT);
                    }
                }
            }
            st.effect(call);
            put_file(st, path, contents)?;
            Ok(true)
        })
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        self.on("look at", path, "", |st, _| match st.whereabouts(path) {
            Where::Host => {
                st.files.lookup(path)?;
                Ok(st.files.free())
            }
            Where::Mounted { device, .. } => {
                let place = st.place(device).ok_or(Errno::EIO)?;
                let block_bytes = st.block_bytes(place);
                let fs = st.supers.get(&device).ok_or(Errno::EIO)?;
                Ok(fs.now.size.saturating_sub(fs.now.next_block * block_bytes))
            }
        })
    }
}
