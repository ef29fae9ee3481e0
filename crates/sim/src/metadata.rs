//! [`MetadataDevices`] on the world: what a metadata device would hold, written as the kernel writes it.

use crate::pool::PoolMetadata;
use crate::state::{State, Storage, View};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::io;
use thinlayer_dm::Bytes;
use thinlayer_thin::MetaBlocks;
use thinlayer_thin::metadata::writer::{WrittenDevice, WrittenPool, snapshot_block};
use thinlayer_thin::metadata::{MetadataDevices, Place, ReadAt};

/// Metadata devices of the world.
#[derive(Clone, Debug)]
pub(crate) struct SimMetadata(pub(crate) View);

/// A metadata device at the moment when it was opened.
#[derive(Debug)]
struct Image {
    used: Vec<u8>,
    snapshot: Option<(u64, Vec<u8>)>,
    size: u64,
}

impl MetadataDevices for SimMetadata {
    fn open(&self, place: Place<'_>) -> io::Result<Box<dyn ReadAt>> {
        let opened = self.0.call(&format!("metadata open {place:?}"), |state| {
            let storage = match place {
                Place::Device(number) => state.storage(number).ok_or(Errno::ENXIO)?,
                Place::Path(path) => match state.files.backing(path) {
                    Ok(Some((inode, _))) => Storage::File(inode),
                    _ => {
                        let number = state.block_device(path.to_str().ok_or(Errno::EINVAL)?)?;
                        state.storage(number).ok_or(Errno::ENXIO)?
                    }
                },
            };
            let now = state.metadata_now(storage).ok_or(Errno::EILSEQ)?;
            Image::of(&now).ok_or(Errno::ENOSPC)
        });
        Ok(Box::new(opened.map_err(io::Error::from)?))
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

impl ReadAt for Image {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some((root, block)) = &self.snapshot
            && offset == root * MetaBlocks::BLOCK_BYTES
        {
            return block.read_exact_at(buffer, 0);
        }
        if offset >= self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What no block of the pool lies on.
        self.used.read_exact_at(buffer, offset).or_else(|_| {
            buffer.fill(0);
            Ok(())
        })
    }

    fn size(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.size))
    }
}
