//! How often each block is referred to: [`SpaceMap`].

use super::block::{Block, u32_at, u64_at};
use super::cursor::{Cursor, Item};
use super::error::{BlockKind, Result};
use super::node::Tree;
use super::reader::Metadata;

/// Bytes before the counts of a bitmap, and before the entries of an index.
pub(super) const HEADER: usize = 16;
/// Counts in a bitmap: two bits each.
pub(super) const PER_BITMAP: u64 = ((super::block::SIZE - HEADER) * 4) as u64;
/// Entries in the metadata space map's index.
pub(super) const PER_INDEX: u64 = 255;
/// The count in a bitmap that says: look into the tree.
pub(super) const MANY: u8 = 3;

/// Where a space map begins, as the superblock says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) blocks: u64,
    pub(super) allocated: u64,
    pub(super) bitmaps: u64,
    pub(super) counts: u64,
}

impl Root {
    pub(super) fn parse(block: &Block, at: usize) -> Self {
        let [blocks, allocated, bitmaps, counts] = [0, 8, 16, 24].map(|field| block.u64(at + field));
        Self { blocks, allocated, bitmaps, counts }
    }
}

/// What an index says of a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) block: u64,
    pub(super) free: u32,
}

impl IndexEntry {
    pub(super) fn parse(value: &[u8]) -> Self {
        Self { block: u64_at(value, 0), free: u32_at(value, 8) }
    }
}

/// A bitmap that was verified.
pub(super) struct Bitmap(Box<Block>);

impl Bitmap {
    pub(super) fn read(metadata: &Metadata, block: u64) -> Result<Self> {
        metadata.block(block, BlockKind::Bitmap).map(Self)
    }

    /// The two bits of a block. The higher one comes first.
    pub(super) fn get(&self, index: usize) -> u8 {
        let bits = self.0.bytes()[HEADER + index / 4] >> (index % 4 * 2);
        (bits & 1) << 1 | bits >> 1 & 1
    }
}

/// The counts of one of the two kinds of blocks.
#[derive(Clone, Copy, Debug)]
pub struct SpaceMap<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) root: Root,
    of_data: bool,
}

impl<'a> SpaceMap<'a> {
    pub(super) fn of_data(metadata: &'a Metadata) -> Self {
        Self { metadata, root: metadata.superblock().data_space_map, of_data: true }
    }

    pub(super) fn of_metadata(metadata: &'a Metadata) -> Self {
        Self { metadata, root: metadata.superblock().metadata_space_map, of_data: false }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> u64 {
        self.root.blocks
    }

    /// How many of them are in use, as the superblock says it.
    pub fn allocated(&self) -> u64 {
        self.root.allocated
    }

    /// How often a block is referred to; 0: it is free. `None` if there is no such block.
    ///
    /// # Errors
    /// [`super::Error::Damaged`]; [`super::Error::Read`].
    pub fn count(&self, block: u64) -> Result<Option<u32>> {
        if block >= self.root.blocks {
            return Ok(None);
        }
        let number = block / PER_BITMAP;
        let entry = if self.of_data {
            self.metadata.find(Tree::INDEX, self.root.bitmaps, number)?.map(|value| IndexEntry::parse(&value))
        } else {
            self.index()?.into_iter().nth(usize::try_from(number).unwrap_or(usize::MAX))
        };
        let Some(entry) = entry else { return Err(self.incomplete(number)) };
        let bits = Bitmap::read(self.metadata, entry.block)?.get((block % PER_BITMAP) as usize);
        if bits < MANY {
            return Ok(Some(bits.into()));
        }
        match self.metadata.find(Tree::COUNTS, self.root.counts, block)? {
            Some(value) => Ok(Some(u32_at(&value, 0))),
            None => Err(self.uncounted(block)),
        }
    }

    /// The index's entries for all bitmaps, in order; of the metadata space map.
    pub(super) fn index(&self) -> Result<Vec<IndexEntry>> {
        let wanted = self.bitmaps();
        if wanted > PER_INDEX {
            let what = format!("it speaks of {} metadata blocks, more than there can be", self.root.blocks);
            return Err(self.metadata.damaged(0, BlockKind::Superblock, what));
        }
        let block = self.metadata.block(self.root.bitmaps, BlockKind::Index)?;
        let entries = block.bytes()[HEADER..].chunks_exact(16).map(IndexEntry::parse);
        Ok(entries.take(usize::try_from(wanted).unwrap_or(0)).collect())
    }

    /// The data space map's index.
    pub(super) fn index_cursor(&self) -> Cursor<'a> {
        Cursor::new(self.metadata, Tree::INDEX, self.root.bitmaps)
    }

    /// The counts above two.
    pub(super) fn large_counts(&self) -> LargeCounts<'a> {
        LargeCounts { cursor: Cursor::new(self.metadata, Tree::COUNTS, self.root.counts) }
    }

    pub(super) fn is_of_data(&self) -> bool {
        self.of_data
    }

    /// How many bitmaps there must be.
    pub(super) fn bitmaps(&self) -> u64 {
        self.root.blocks.div_ceil(PER_BITMAP)
    }

    pub(super) fn incomplete(&self, bitmap: u64) -> super::Error {
        let what =
            format!("the space map's index has no bitmap {bitmap}, and {} blocks need it", self.root.blocks);
        self.metadata.damaged(self.root.bitmaps, BlockKind::Node, what)
    }

    pub(super) fn uncounted(&self, block: u64) -> super::Error {
        let what = format!("block {block} is referred to more than twice, and its count is missing");
        self.metadata.damaged(self.root.counts, BlockKind::Node, what)
    }
}

/// The counts above two, by block.
pub(super) struct LargeCounts<'a> {
    cursor: Cursor<'a>,
}

impl Iterator for LargeCounts<'_> {
    type Item = Result<(u64, u32)>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.cursor.go_to_entry() {
            return Some(Err(error));
        }
        let Some(Item::Entry { key, value }) = self.cursor.peek() else { return None };
        let count = u32_at(value, 0);
        self.cursor.skip();
        Some(Ok((key, count)))
    }
}
