//! Where a thin device's blocks lie: [`Run`].

use super::block::u64_at;
use super::cursor::{Cursor, Item};
use super::error::Result;

/// A mapping is the data block above 24 bits of the pool's clock.
const TIME_BITS: u32 = 24;

/// What an entry of a device's mapping tree says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) data: u64,
    pub(super) time: u32,
}

impl Mapping {
    pub(super) fn parse(value: &[u8]) -> Self {
        let value = u64_at(value, 0);
        Self { data: value >> TIME_BITS, time: (value & ((1 << TIME_BITS) - 1)) as u32 }
    }
}

/// Blocks of a thin device that follow each other, on data blocks that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first block of the thin device.
    pub start: u64,
    /// The data block on which it lies.
    pub data: u64,
    /// How many.
    pub len: u64,
    /// The pool's clock when the blocks were given to the device: one below the device's last snapshot may be shared.
    pub time: u32,
}

/// The mappings of a thin device, by block. After an error the walk goes on behind the damage.
pub struct Runs<'a> {
    cursor: Cursor<'a>,
    /// Begun, and not yet given.
    open: Option<Run>,
}

impl std::fmt::Debug for Runs<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runs").field("open", &self.open).finish_non_exhaustive()
    }
}

impl<'a> Runs<'a> {
    pub(super) fn new(cursor: Cursor<'a>) -> Self {
        Self { cursor, open: None }
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Err(error) = self.cursor.go_to_entry() {
                return Some(Err(error));
            }
            let Some(Item::Entry { key, value }) = self.cursor.peek() else {
                return self.open.take().map(Ok);
            };
            let Mapping { data, time } = Mapping::parse(value);
            self.cursor.skip();
            if let Some(run) = &mut self.open
                && run.start + run.len == key
                && run.data + run.len == data
                && run.time == time
            {
                run.len += 1;
            } else if let Some(done) = self.open.replace(Run { start: key, data, len: 1, time }) {
                return Some(Ok(done));
            }
        }
    }
}
