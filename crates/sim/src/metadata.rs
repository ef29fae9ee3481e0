//! [`MetadataDevices`] on the world: what a metadata device would hold, written as the kernel writes it.

use crate::pool::PoolMetadata;
use crate::state::{State, Storage, View};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::io;
use std::sync::OnceLock;
use thinlayer_dm::Bytes;
use thinlayer_thin::MetaBlocks;
use thinlayer_thin::metadata::writer::{WrittenDevice, WrittenPool, snapshot_block};
use thinlayer_thin::metadata::{MetadataDevices, Place, ReadAt};

/// Metadata devices of the world.
#[derive(Clone, Debug)]
pub(crate) struct SimMetadata(pub(crate) View);

/// An open metadata device. What it holds is that of the moment when it is first read: a metadata snapshot does not change after that.
#[derive(Debug)]
struct Device {
    view: View,
    storage: Storage,
    image: OnceLock<Option<Image>>,
}

/// A metadata device at some moment.
#[derive(Debug)]
struct Image {
    used: Vec<u8>,
    snapshot: Option<(u64, Vec<u8>)>,
    size: u64,
}

impl MetadataDevices for SimMetadata {
    fn open(&self, place: Place<'_>) -> io::Result<Box<dyn ReadAt>> {
        let opened = self.0.call(&format!("metadata open {place:?}"), |state| {
            Ok(match place {
                Place::Device(number) => state.storage(number).ok_or(Errno::ENXIO)?,
                Place::Path(path) => match state.files.backing(path) {
                    Ok(Some((inode, _))) => Storage::File(inode),
                    _ => {
                        let number = state.block_device(path.to_str().ok_or(Errno::EINVAL)?)?;
                        state.storage(number).ok_or(Errno::ENXIO)?
                    }
                },
            })
        });
        let storage = opened.map_err(io::Error::from)?;
        Ok(Box::new(Device { view: self.0.clone(), storage, image: OnceLock::new() }))
    }
}

impl State {
    /// What a pool that is active has, else what was committed.
    fn metadata_now(&self, storage: Storage) -> Option<std::sync::Arc<PoolMetadata>> {
        let active = self.pools.values().find(|pool| pool.metadata == storage);
        active.map(|pool| pool.now.clone()).or_else(|| self.metadata.get(&storage).cloned())
    }
}

impl Image {
    fn of(pool: &PoolMetadata) -> Option<Self> {
        let devices = pool.volumes.iter().map(|(id, volume)| {
            let mappings = volume.blocks.iter().map(|(block, data)| (*block, (*data, 0))).collect();
            (*id, WrittenDevice { transaction_id: volume.created, mappings, ..WrittenDevice::default() })
        });
        let written = WrittenPool {
            transaction_id: pool.transaction_id,
            block_sectors: u32::try_from(pool.block_sectors).ok()?,
            data_blocks: pool.data_blocks,
            metadata_blocks: pool.metadata_blocks,
            needs_check: pool.needs_check,
            devices: devices.collect::<BTreeMap<_, _>>(),
            ..WrittenPool::default()
        };
        let used = written.used()?;
        let snapshot = pool.held_root.map(|root| (root, snapshot_block(&used, MetaBlocks(root))));
        Some(Self { used, snapshot, size: pool.metadata_blocks * MetaBlocks::BLOCK_BYTES })
    }
}

impl Device {
    fn image(&self) -> io::Result<&Image> {
        let image = self.image.get_or_init(|| {
            let now = self.view.shared.lock().metadata_now(self.storage)?;
            Image::of(&now)
        });
        image.as_ref().ok_or_else(|| io::Error::from(Errno::EIO))
    }
}

impl ReadAt for Device {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let Image { used, snapshot, size } = self.image()?;
        if let Some((root, block)) = snapshot
            && offset == root * MetaBlocks::BLOCK_BYTES
        {
            return block.read_exact_at(buffer, 0);
        }
        if offset >= *size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What no block of the pool lies on.
        used.read_exact_at(buffer, offset).or_else(|_| {
            buffer.fill(0);
            Ok(())
        })
    }

    fn size(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.image()?.size))
    }
}
