//! What the pool knows of a thin device: [`DeviceDetails`].

use super::block::{u32_at, u64_at};
use super::cursor::{Cursor, Item};
use super::error::Result;
use crate::quantity::{DataBlocks, ThinId, TransactionId};

/// What the pool knows of a thin device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceDetails {
    /// Its number.
    pub id: ThinId,
    /// Data blocks that it has, its own and shared ones.
    pub mapped: DataBlocks,
    /// The pool's transaction id when it was made.
    pub transaction_id: TransactionId,
    /// The pool's clock when it was made: not a time of day, see [`super::Superblock::time`].
    pub created: u32,
    /// The pool's clock when the last snapshot of it was taken, or it was made as one.
    pub snapshotted: u32,
}

impl DeviceDetails {
    pub(super) fn parse(id: ThinId, value: &[u8]) -> Self {
        Self {
            id,
            mapped: DataBlocks(u64_at(value, 0)),
            transaction_id: TransactionId(u64_at(value, 8)),
            created: u32_at(value, 16),
            snapshotted: u32_at(value, 20),
        }
    }
}

/// All thin devices, by id. After an error the walk goes on behind the damage.
pub struct Devices<'a>(Cursor<'a>);

impl std::fmt::Debug for Devices<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

impl<'a> Devices<'a> {
    pub(super) fn new(cursor: Cursor<'a>) -> Self {
        Self(cursor)
    }
}

impl Iterator for Devices<'_> {
    type Item = Result<DeviceDetails>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.0.go_to_entry() {
            return Some(Err(error));
        }
        let Some(Item::Entry { key, value }) = self.0.peek() else { return None };
        let details = self.0.thin_id(key).map(|id| DeviceDetails::parse(id, value));
        self.0.skip();
        Some(details)
    }
}
