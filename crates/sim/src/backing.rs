//! [`Backing`] on the world.

use crate::image::Content;
use crate::loops::{loop_node, loop_number};
use crate::state::{Held, Result as Answer, Shared, State, Storage, View};
use crate::world::HOST_DEV;
use nix::errno::Errno;
use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{Bytes, DeviceNumber, SECTOR_BYTES};
use thinlayer_provision::signature;
use thinlayer_provision::superblock::{PoolFacts, Superblock};
use thinlayer_provision::{
    Allocation, AttachOptions, Attachment, Backing, BlockDevice, Ensured, Error, FileInfo, LoopDevice,
    Progress, Result,
};

/// Backing files, loop devices and disks of the world.
#[derive(Clone, Debug)]
pub(crate) struct SimBacking(pub(crate) View);

impl SimBacking {
    fn on<T>(
        &self,
        action: &'static str,
        path: &Path,
        run: impl FnOnce(&mut State, &str) -> Answer<T>,
    ) -> Result<T> {
        let call = format!("backing {action} {}", path.display());
        self.0.call(&call, |state| run(state, &call)).map_err(|errno| match errno {
            Errno::EINVAL => {
                Error::Unfit { path: path.to_owned(), why: "it is not what it should be".into() }
            }
            errno => Error::System { action, path: path.to_owned(), errno, advice: String::new() },
        })
    }
}

/// An open loop device.
struct Fd {
    shared: Arc<Shared>,
    process: u64,
    holder: u64,
}

impl Drop for Fd {
    fn drop(&mut self) {
        self.shared.lock().close(self.holder, self.process);
    }
}

impl Backing for SimBacking {
    fn file(&self, path: &Path) -> Result<Option<FileInfo>> {
        self.on("look at", path, |st, _| {
            Ok(st.files.backing(path)?.map(|(inode, file)| FileInfo {
                size: Bytes(file.size),
                allocated: Bytes(file.allocated()),
                dev: HOST_DEV,
                inode,
            }))
        })
    }

    fn ensure_file(&self, path: &Path, size: Bytes, allocation: Allocation) -> Result<Ensured> {
        let made = self.on("allocate", path, |st, call| st.ensure_file(path, size.0, allocation, call));
        match made {
            Err(Error::System { errno: Errno::ENOSPC, .. }) => {
                let state = self.0.shared.lock();
                let there = state.files.backing(path).ok().flatten().map_or(0, |(_, file)| file.allocated());
                Err(Error::NoRoom {
                    path: path.to_owned(),
                    needed: size.0.saturating_sub(there),
                    free: state.files.free(),
                    option: match allocation {
                        Allocation::Sparse => "dm.loopdatasize",
                        Allocation::Full => "dm.loopmetadatasize",
                    },
                })
            }
            other => other,
        }
    }

    fn remove_file(&self, path: &Path) -> Result<bool> {
        self.on("remove", path, |st, call| st.remove_file(path, call))
    }

    fn attach(&self, path: &Path, options: AttachOptions) -> Result<Attachment> {
        let process = self.0.process;
        let (minor, sectors, holder) = self
            .on("attach", path, |st, call| {
                let device = st.loop_for(path, options, true)?;
                if st.loop_on(device.inode).is_some() {
                    return Err(Errno::EBUSY);
                }
                st.effect(call);
                let minor = st.attach(device)?;
                let holder = st.id();
                st.holders.insert(holder, Held::Loop { minor, process });
                Ok((minor, st.sectors(loop_number(minor)), holder))
            })
            .map_err(|error| match error {
                Error::System { errno: Errno::EBUSY, path, .. } => Error::InUse {
                    path,
                    user: "another loop device".into(),
                    advice: "detach it first".into(),
                },
                other => other,
            })?;
        Ok(Attachment {
            node: loop_node(minor),
            number: loop_number(minor),
            size: Bytes(sectors * SECTOR_BYTES),
            direct_io: true,
            guard: Box::new(Fd { shared: self.0.shared.clone(), process, holder }),
        })
    }

    fn loops(&self) -> Result<Vec<LoopDevice>> {
        self.on("list", Path::new("/sys/block"), |st, _| {
            Ok(st
                .loops
                .iter()
                .map(|(&minor, l)| LoopDevice {
                    number: loop_number(minor),
                    node: loop_node(minor),
                    file: l.file.clone(),
                    dev: HOST_DEV,
                    inode: l.inode,
                    autoclear: l.autoclear,
                    direct_io: true,
                    read_only: l.read_only,
                })
                .collect())
        })
    }

    fn detach(&self, number: DeviceNumber) -> Result<()> {
        let node = loop_node(number.minor);
        self.on("detach", &node, |st, call| {
            if number.major != crate::devices::LOOP_MAJOR || !st.loops.contains_key(&number.minor) {
                return Err(Errno::ENXIO);
            }
            st.effect(call);
            if let Some(l) = st.loops.get_mut(&number.minor) {
                l.autoclear = true;
            }
            st.settle();
            Ok(())
        })
    }

    fn refresh_size(&self, number: DeviceNumber) -> Result<Bytes> {
        let node = loop_node(number.minor);
        self.on("refresh the size of", &node, |st, call| {
            let found = st.loops.get(&number.minor).filter(|_| number.major == crate::devices::LOOP_MAJOR);
            let (inode, old) = found.map(|l| (l.inode, l.sectors)).ok_or(Errno::ENXIO)?;
            let sectors = st.files.backing_of(inode).map_or(0, |file| file.size / SECTOR_BYTES);
            if sectors != old {
                st.effect(call);
                if let Some(l) = st.loops.get_mut(&number.minor) {
                    l.sectors = sectors;
                }
            }
            Ok(Bytes(sectors * SECTOR_BYTES))
        })
    }

    fn inspect(&self, path: &Path) -> Result<BlockDevice> {
        self.on("inspect", path, |st, _| {
            let number = match st.block_device(path.to_str().ok_or(Errno::EINVAL)?) {
                Err(Errno::ENOTBLK) => return Err(Errno::EINVAL),
                other => other?,
            };
            Ok(BlockDevice {
                number,
                size: Bytes(st.sectors(number) * SECTOR_BYTES),
                read_only: !st.writable(number),
                signature: st.signature(number),
                users: st.users(number),
            })
        })
    }

    fn superblock(&self, path: &Path) -> Result<Superblock> {
        self.on("read the first block of", path, |st, _| {
            let storage = match path.to_str().and_then(|text| st.block_device(text).ok()) {
                Some(number) => st.storage(number),
                None => st.files.backing(path)?.map(|(inode, _)| Storage::File(inode)),
            };
            let Some(storage) = storage else { return Ok(Superblock::Blank) };
            if let Some(pool) = st.metadata.get(&storage) {
                return Ok(Superblock::Pool(PoolFacts {
                    transaction_id: pool.transaction_id,
                    data_block: Bytes(pool.block_sectors * SECTOR_BYTES),
                    data_blocks: pool.data_blocks,
                    used_blocks: pool.data_used(),
                    metadata_blocks: pool.metadata_blocks,
                    needs_check: pool.needs_check,
                }));
            }
            Ok(match st.contents.get(&storage) {
                None | Some(Content::Blank) => Superblock::Blank,
                Some(Content::Garbage) => Superblock::Other(signature::UNRECOGNISED),
                Some(Content::Signature(_)) => Superblock::Damaged,
                Some(Content::Filesystem(image)) => Superblock::Other(image.kind.as_str()),
            })
        })
    }

    fn discard(&self, device: &Path, rate: Option<Bytes>, progress: Progress<'_>) -> Result<bool> {
        let size = self.on("open", device, |st, _| {
            let number = st.block_device(device.to_str().ok_or(Errno::EINVAL)?)?;
            Ok(st.sectors(number) * SECTOR_BYTES)
        })?;
        let done = self.on("discard", device, |st, call| {
            let number = st.block_device(device.to_str().ok_or(Errno::EINVAL)?)?;
            let done = st.discard(number, call)?;
            if done && let Some(Bytes(rate)) = rate.filter(|rate| rate.0 > 0) {
                st.pass(std::time::Duration::from_millis(size.saturating_mul(1000) / rate));
            }
            Ok(done)
        })?;
        if done {
            progress(Bytes(size), Bytes(size));
        }
        Ok(done)
    }
}
