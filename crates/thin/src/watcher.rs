//! What happens to a pool: [`Watcher`].

use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::quantity::{DataBlocks, MetaBlocks};
use crate::status::{Health, PoolState, PoolStatus};
use std::time::Duration;
use thinlayer_dm::{Events, Flush};

/// A change that a [`Watcher`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolChange {
    /// No more data blocks are free than the table's low-water mark says.
    DataLow {
        /// What is free.
        free: DataBlocks,
        /// The mark.
        low_water: DataBlocks,
    },
    /// No more metadata blocks are free than the kernel's own mark says.
    MetadataLow {
        /// What is free.
        free: MetaBlocks,
        /// The mark.
        low_water: MetaBlocks,
    },
    /// The pool's health is another.
    Health {
        /// What it was.
        from: Health,
        /// What it is.
        to: Health,
    },
    /// The data device's size is another.
    DataSize {
        /// What it was.
        from: DataBlocks,
        /// What it is.
        to: DataBlocks,
    },
    /// The metadata device's size is another.
    MetadataSize {
        /// What it was.
        from: MetaBlocks,
        /// What it is.
        to: MetaBlocks,
    },
}

/// Watches one pool.
#[derive(Debug)]
pub struct Watcher {
    pool: Pool,
    events: Box<dyn Events>,
    event_nr: u32,
    low_water: DataBlocks,
    last: PoolState,
    /// Nothing has been compared yet: a mark that is passed already is news too.
    fresh: bool,
}

impl Watcher {
    /// Starts to watch. 3 ioctls.
    ///
    /// # Errors
    /// [`Error::DeviceMapper`] where the kernel is too old for event waits; those of [`Pool::table`] and [`Pool::status`].
    pub fn new(pool: &Pool) -> Result<Self> {
        let events =
            pool.device_mapper().events().map_err(|source| Error::call("watch pool", pool.name(), source))?;
        let low_water = pool.table()?.low_water;
        let (last, info) = pool.status_and_info(Flush::No)?;
        Ok(Self { pool: pool.clone(), events, event_nr: info.event_nr, low_water, last, fresh: true })
    }

    /// What is known of the pool since the last wait.
    pub fn state(&self) -> &PoolState {
        &self.last
    }

    /// Waits for a change, at most `timeout`. May come back early with nothing, when other devices had events.
    ///
    /// The first call reports at once what is already low. Nothing that happens between two calls is lost.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] when the pool is gone; those of [`Pool::status`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Vec<PoolChange>> {
        let changes = self.look()?;
        if !changes.is_empty() {
            return Ok(changes);
        }
        let woken = self
            .events
            .wait(timeout)
            .map_err(|source| Error::call("watch pool", self.pool.name(), source))?;
        if woken { self.look() } else { Ok(Vec::new()) }
    }

    fn look(&mut self) -> Result<Vec<PoolChange>> {
        let (state, info) = self.pool.status_and_info(Flush::No)?;
        if info.event_nr != self.event_nr {
            // A reload is an event, and may have moved the mark.
            self.low_water = self.pool.table()?.low_water;
            self.event_nr = info.event_nr;
        }
        let before = if std::mem::take(&mut self.fresh) { None } else { Some(&self.last) };
        let changes = changes(before, &state, self.low_water);
        self.last = state;
        Ok(changes)
    }
}

/// What is new in `now`; without a `before`, what a newcomer should know.
fn changes(before: Option<&PoolState>, now: &PoolState, low_water: DataBlocks) -> Vec<PoolChange> {
    let mut found = Vec::new();
    let from = before.map_or(Health::Good, PoolState::health);
    let to = now.health();
    if from != to {
        found.push(PoolChange::Health { from, to });
    }
    let Some(now) = now.running() else { return found };
    let before = before.and_then(PoolState::running);
    if let Some(before) = before {
        let (from, to) = (before.total_data, now.total_data);
        if from != to {
            found.push(PoolChange::DataSize { from, to });
        }
        let (from, to) = (before.total_metadata, now.total_metadata);
        if from != to {
            found.push(PoolChange::MetadataSize { from, to });
        }
    }
    let data_low = |status: &PoolStatus| status.free_data() <= low_water;
    if data_low(now) && !before.is_some_and(data_low) {
        found.push(PoolChange::DataLow { free: now.free_data(), low_water });
    }
    if let Some(low_water) = now.metadata_low_water {
        let metadata_low = |status: &PoolStatus| status.free_metadata() <= low_water;
        if metadata_low(now) && !before.is_some_and(metadata_low) {
            found.push(PoolChange::MetadataLow { free: now.free_metadata(), low_water });
        }
    }
    found
}

#[cfg(test)]
mod tests;
