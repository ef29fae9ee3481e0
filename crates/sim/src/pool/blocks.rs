//! What thin devices hold: their content, and the data blocks that it takes.

use super::Mode;
use crate::devices::Place;
use crate::image::Content;
use crate::state::{Result, State, Storage};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::sync::Arc;

impl State {
    /// The pool device whose metadata is on this storage.
    pub(crate) fn pool_on(&self, metadata: Storage) -> Option<u32> {
        self.pools.iter().find(|(_, pool)| pool.metadata == metadata).map(|(&minor, _)| minor)
    }

    pub(crate) fn thin_content(&self, metadata: Storage, id: u32) -> Content {
        let Some(pool) = self.pool_on(metadata).and_then(|minor| self.pools.get(&minor)) else {
            return Content::Garbage;
        };
        let Some(volume) = pool.now.volumes.get(&id) else { return Content::Garbage };
        // Mappings of another data device lead to whatever is there.
        if volume.data.is_some() && volume.data != self.storage(pool.data_device) {
            return Content::Garbage;
        }
        volume.content.clone()
    }

    /// Gives blocks of a thin device room of their own, and then a new content. Not committed.
    ///
    /// # Errors
    /// ENOSPC if the pool is full, EIO if it cannot be written or the host has no room for a block.
    pub(crate) fn write_thin(
        &mut self,
        metadata: Storage,
        id: u32,
        blocks: &[u64],
        content: Content,
    ) -> Result<()> {
        let minor = self.pool_on(metadata).ok_or(Errno::EIO)?;
        let Some(pool) = self.pools.get(&minor) else { return Err(Errno::EIO) };
        if pool.mode > Mode::OutOfDataSpace {
            return Err(Errno::EIO);
        }
        let data = self.storage(pool.data_device);
        let file = match data {
            Some(Storage::File(inode)) => Some(inode),
            _ => None,
        };
        let block_bytes = pool.now.block_sectors * thinlayer_dm::SECTOR_BYTES;
        for &at in blocks {
            let Some(pool) = self.pools.get_mut(&minor) else { return Err(Errno::EIO) };
            let old = pool.now.volumes.get(&id).ok_or(Errno::EIO)?.blocks.get(&at).copied();
            if old.is_some_and(|b| pool.now.shares.get(&b) == Some(&1)) {
                continue;
            }
            let Some(new) = pool.now.free_block() else {
                let since = self.now;
                if pool.mode == Mode::Write {
                    pool.mode = Mode::OutOfDataSpace;
                    pool.full_since = (!pool.features.error_if_no_space).then_some(since);
                    self.table_event(minor);
                }
                return Err(Errno::ENOSPC);
            };
            if let Some(inode) = file
                && !self.files.allocate_block(inode, new, block_bytes)
            {
                return Err(Errno::EIO);
            }
            let Some(pool) = self.pools.get_mut(&minor) else { return Err(Errno::EIO) };
            let now = Arc::make_mut(&mut pool.now);
            if let Some(old) = old {
                now.unshare(old);
            }
            Arc::make_mut(&mut now.shares).insert(new, 1);
            if let Some(volume) = now.volumes.get_mut(&id) {
                Arc::make_mut(&mut volume.blocks).insert(at, new);
            }
            if now.data_blocks - now.data_used() <= pool.low_water && !pool.low_water_told {
                pool.low_water_told = true;
                self.table_event(minor);
            }
        }
        if let Some(pool) = self.pools.get_mut(&minor)
            && let Some(volume) = Arc::make_mut(&mut pool.now).volumes.get_mut(&id)
        {
            volume.content = content;
            volume.data = data;
        }
        self.watch_metadata(minor);
        Ok(())
    }

    /// Unmaps a thin device's blocks: all of them, or the lower half. Not committed. `false`: the pool does not do that.
    pub(crate) fn discard_thin(&mut self, metadata: Storage, id: u32, all: bool) -> bool {
        let Some(minor) = self.pool_on(metadata) else { return false };
        let Some(pool) = self.pools.get_mut(&minor) else { return false };
        if pool.features.ignore_discard || pool.mode > Mode::OutOfDataSpace {
            return false;
        }
        let passdown = !pool.features.no_discard_passdown;
        let now = Arc::make_mut(&mut pool.now);
        let Some(volume) = now.volumes.get_mut(&id) else { return false };
        let count = if all { volume.blocks.len() } else { volume.blocks.len() / 2 };
        let gone: Vec<(u64, u64)> =
            volume.blocks.iter().take(count).map(|(&at, &block)| (at, block)).collect();
        let blocks = Arc::make_mut(&mut volume.blocks);
        for (at, _) in &gone {
            blocks.remove(at);
        }
        volume.content = if all { Content::Blank } else { Content::Garbage };
        let freed: BTreeSet<u64> =
            gone.iter().filter(|(_, block)| now.unshare(*block)).map(|(_, b)| *b).collect();
        let data_device = pool.data_device;
        if passdown && let Some(Storage::File(inode)) = self.storage(data_device) {
            self.files.punch(inode, &freed.into_iter().collect::<Vec<_>>());
        }
        true
    }

    /// The bytes that a place has been given on the device: block numbers in the pool's unit.
    pub(crate) fn block_bytes(&self, place: Place) -> u64 {
        match place {
            Place::Thin { metadata, .. } => self
                .pool_on(metadata)
                .and_then(|minor| self.pools.get(&minor))
                .map_or(1 << 16, |pool| pool.now.block_sectors * thinlayer_dm::SECTOR_BYTES),
            Place::Storage(_) => 1 << 16,
        }
    }
}
