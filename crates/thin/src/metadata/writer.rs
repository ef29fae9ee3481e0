//! Builds metadata as the kernel would leave it, for tests and simulations; never for a pool that somebody uses.

use super::block::{NUMBER, SIZE, checksum};
use super::error::BlockKind;
use super::node::{HEADER, INTERNAL, LEAF};
use super::space_map::{MANY, PER_BITMAP, Root};
use super::superblock::{MAGIC, at};
use crate::quantity::MetaBlocks;
use std::collections::{BTreeMap, HashMap};

/// A thin device to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenDevice {
    /// The pool's transaction id when it was made.
    pub transaction_id: u64,
    /// The pool's clock when it was made.
    pub created: u32,
    /// The pool's clock when the last snapshot of it was taken.
    pub snapshotted: u32,
    /// Where its blocks lie: data block and clock.
    pub mappings: BTreeMap<u64, (u64, u32)>,
}

/// A pool to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenPool {
    /// The counter of the pool's user.
    pub transaction_id: u64,
    /// The pool's clock.
    pub time: u32,
    /// Sectors in a data block.
    pub block_sectors: u32,
    /// Data blocks.
    pub data_blocks: u64,
    /// Metadata blocks.
    pub metadata_blocks: u64,
    /// The mark that the metadata may be damaged.
    pub needs_check: bool,
    /// With a metadata snapshot of this moment.
    pub held: bool,
    /// At most so many entries in a node, where that many fit: small numbers make deep trees.
    pub fill: usize,
    /// Its devices.
    pub devices: BTreeMap<u32, WrittenDevice>,
}

impl Default for WrittenPool {
    fn default() -> Self {
        Self {
            transaction_id: 0,
            time: 0,
            block_sectors: 128,
            data_blocks: 1024,
            metadata_blocks: 1024,
            needs_check: false,
            held: false,
            fill: usize::MAX,
            devices: BTreeMap::new(),
        }
    }
}

struct Writer {
    bytes: Vec<u8>,
    next: u64,
    limit: u64,
    fill: usize,
    metadata: BTreeMap<u64, u32>,
    data: BTreeMap<u64, u32>,
    /// Equal nodes are written once: snapshots share.
    nodes: HashMap<Vec<u8>, u64>,
}

impl WrittenPool {
    /// The bytes of the metadata device; `None` if it has too few blocks.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let mut bytes = self.used()?;
        bytes.resize(usize::try_from(self.metadata_blocks).ok()?.checked_mul(SIZE)?, 0);
        Some(bytes)
    }

    /// The bytes of the blocks that are in use, which are the first ones; `None` if it has too few blocks.
    pub fn used(&self) -> Option<Vec<u8>> {
        let mut writer = Writer {
            bytes: vec![0; SIZE],
            next: 1,
            limit: self.metadata_blocks,
            fill: self.fill.max(3),
            metadata: BTreeMap::from([(0, 1)]),
            data: BTreeMap::new(),
            nodes: HashMap::new(),
        };
        let mut details = BTreeMap::new();
        let mut roots = BTreeMap::new();
        for (id, device) in &self.devices {
            let mut value = (device.mappings.len() as u64).to_le_bytes().to_vec();
            value.extend(device.transaction_id.to_le_bytes());
            value.extend(device.created.to_le_bytes());
            value.extend(device.snapshotted.to_le_bytes());
            details.insert(u64::from(*id), value);
            let mappings = device
                .mappings
                .iter()
                .map(|(block, (data, time))| (*block, (data << 24 | u64::from(*time)).to_le_bytes().to_vec()))
                .collect();
            let root = writer.tree(&mappings, 8, true)?;
            roots.insert(u64::from(*id), root.to_le_bytes().to_vec());
        }
        let details = writer.tree(&details, 24, false)?;
        let mappings = writer.tree(&roots, 8, false)?;
        let held = if self.held {
            let block = writer.allocate()?;
            writer.refer(block);
            writer.refer(mappings);
            writer.refer(details);
            let superblock = self.superblock(mappings, details, [Root::default(); 2], 0);
            writer.put(block, superblock, BlockKind::Superblock)?;
            block
        } else {
            0
        };
        let data = writer.data_map(self.data_blocks)?;
        let metadata = writer.metadata_map(self.metadata_blocks)?;
        let superblock = self.superblock(mappings, details, [data, metadata], held);
        writer.put(0, superblock, BlockKind::Superblock)?;
        Some(writer.bytes)
    }

    fn superblock(&self, mappings: u64, details: u64, maps: [Root; 2], held: u64) -> Vec<u8> {
        let mut block = vec![0; SIZE];
        set(&mut block, at::FLAGS, &u32::from(self.needs_check).to_le_bytes());
        set(&mut block, at::MAGIC, &MAGIC.to_le_bytes());
        set(&mut block, at::VERSION, &2_u32.to_le_bytes());
        set(&mut block, at::TIME, &self.time.to_le_bytes());
        set(&mut block, at::TRANSACTION, &self.transaction_id.to_le_bytes());
        set(&mut block, at::HELD_ROOT, &held.to_le_bytes());
        for (place, root) in [at::DATA_MAP, at::METADATA_MAP].into_iter().zip(maps) {
            for (field, value) in [root.blocks, root.allocated, root.bitmaps, root.counts].iter().enumerate()
            {
                set(&mut block, place + 8 * field, &value.to_le_bytes());
            }
        }
        set(&mut block, at::MAPPINGS, &mappings.to_le_bytes());
        set(&mut block, at::DETAILS, &details.to_le_bytes());
        set(&mut block, at::DATA_BLOCK, &self.block_sectors.to_le_bytes());
        set(&mut block, at::METADATA_BLOCK, &8_u32.to_le_bytes());
        set(&mut block, at::METADATA_BLOCKS, &self.metadata_blocks.to_le_bytes());
        block
    }
}

/// Gives a block the number of its place and the checksum of its bytes, in an image of a metadata device.
pub fn seal(image: &mut [u8], block: MetaBlocks, kind: BlockKind) {
    let Some(bytes) = usize::try_from(block.0).ok().and_then(|block| image.chunks_exact_mut(SIZE).nth(block))
    else {
        return;
    };
    set(bytes, NUMBER, &block.0.to_le_bytes());
    let sum = checksum(bytes, kind);
    set(bytes, 0, &sum.to_le_bytes());
}

/// What a metadata snapshot at this block begins with, if it is taken of this image now.
pub fn snapshot_block(image: &[u8], block: MetaBlocks) -> Vec<u8> {
    let mut content = image[..SIZE].to_vec();
    content[at::DATA_MAP..at::MAPPINGS].fill(0);
    set(&mut content, at::HELD_ROOT, &[0; 8]);
    set(&mut content, NUMBER, &block.0.to_le_bytes());
    let sum = checksum(&content, BlockKind::Superblock);
    set(&mut content, 0, &sum.to_le_bytes());
    content
}

fn set(block: &mut [u8], place: usize, value: &[u8]) {
    block[place..place + value.len()].copy_from_slice(value);
}

impl Writer {
    fn allocate(&mut self) -> Option<u64> {
        let block = self.next;
        self.next += 1;
        (block < self.limit).then_some(block)
    }

    fn refer(&mut self, block: u64) {
        *self.metadata.entry(block).or_default() += 1;
    }

    fn put(&mut self, block: u64, content: Vec<u8>, kind: BlockKind) -> Option<()> {
        let start = usize::try_from(block).ok()? * SIZE;
        if self.bytes.len() < start + SIZE {
            self.bytes.resize(start + SIZE, 0);
        }
        self.bytes[start..start + SIZE].copy_from_slice(&content);
        seal(&mut self.bytes, MetaBlocks(block), kind);
        Some(())
    }

    /// Writes a tree, and answers with its root, to which one refers then.
    fn tree(&mut self, entries: &BTreeMap<u64, Vec<u8>>, value: usize, of_mappings: bool) -> Option<u64> {
        let mut level: Vec<(u64, Vec<u8>)> =
            entries.iter().map(|(key, value)| (*key, value.clone())).collect();
        let (mut flags, mut value) = (LEAF, value);
        loop {
            let room = (SIZE - HEADER) / (8 + value) / 3 * 3;
            let mut nodes = Vec::new();
            for entries in level.chunks(room.min(self.fill)) {
                nodes.push((entries[0].0, self.node(entries, flags, value, room, of_mappings)?));
            }
            if nodes.is_empty() {
                return self.node(&[], flags, value, room, false);
            }
            if let [(_, root)] = nodes[..] {
                return Some(root);
            }
            level = nodes.into_iter().map(|(key, block)| (key, block.to_le_bytes().to_vec())).collect();
            (flags, value) = (INTERNAL, 8);
        }
    }

    fn node(
        &mut self,
        entries: &[(u64, Vec<u8>)],
        flags: u32,
        value: usize,
        room: usize,
        of_mappings: bool,
    ) -> Option<u64> {
        let mut block = vec![0; SIZE];
        set(&mut block, 4, &flags.to_le_bytes());
        for (place, number) in [(16, entries.len()), (20, room), (24, value)] {
            set(&mut block, place, &u32::try_from(number).ok()?.to_le_bytes());
        }
        for (index, (key, content)) in entries.iter().enumerate() {
            set(&mut block, HEADER + 8 * index, &key.to_le_bytes());
            set(&mut block, HEADER + 8 * room + value * index, content);
        }
        if of_mappings && let Some(shared) = self.nodes.get(&block).copied() {
            self.refer(shared);
            // What the children were given for this node is not needed.
            if flags == INTERNAL {
                for (_, child) in entries {
                    let child = super::block::u64_at(child, 0);
                    *self.metadata.get_mut(&child)? -= 1;
                }
            }
            return Some(shared);
        }
        let number = self.allocate()?;
        self.refer(number);
        if of_mappings {
            self.nodes.insert(block.clone(), number);
            if flags == LEAF {
                for (_, mapping) in entries {
                    *self.data.entry(super::block::u64_at(mapping, 0) >> 24).or_default() += 1;
                }
            }
        }
        self.put(number, block, BlockKind::Node)?;
        Some(number)
    }

    fn large(&mut self, counts: &BTreeMap<u64, u32>) -> Option<u64> {
        let large = counts
            .iter()
            .filter(|(_, count)| **count >= u32::from(MANY))
            .map(|(block, count)| (*block, count.to_le_bytes().to_vec()))
            .collect();
        self.tree(&large, 4, false)
    }

    fn data_map(&mut self, blocks: u64) -> Option<Root> {
        let data = self.data.clone();
        let counts = self.large(&data)?;
        let mut index = BTreeMap::new();
        for bitmap in 0..blocks.div_ceil(PER_BITMAP) {
            let block = self.allocate()?;
            self.refer(block);
            let value = self.bitmap(block, bitmap, blocks, &data)?;
            index.insert(bitmap, value);
        }
        let bitmaps = self.tree(&index, 16, false)?;
        Some(Root { blocks, allocated: data.len() as u64, bitmaps, counts })
    }

    fn metadata_map(&mut self, blocks: u64) -> Option<Root> {
        let index = self.allocate()?;
        self.refer(index);
        let bitmaps: Vec<u64> =
            (0..blocks.div_ceil(PER_BITMAP)).map(|_| self.allocate()).collect::<Option<_>>()?;
        bitmaps.iter().for_each(|block| self.refer(*block));
        let before = self.metadata.clone();
        let counts = self.large(&before)?;
        let metadata = self.metadata.clone();
        let mut content = vec![0; SIZE];
        for (number, block) in bitmaps.iter().enumerate() {
            let value = self.bitmap(*block, number as u64, blocks, &metadata)?;
            set(&mut content, 16 + 16 * number, &value);
        }
        self.put(index, content, BlockKind::Index)?;
        Some(Root { blocks, allocated: metadata.len() as u64, bitmaps: index, counts })
    }

    /// Writes a bitmap, and answers with its entry in the index.
    fn bitmap(
        &mut self,
        block: u64,
        number: u64,
        blocks: u64,
        counts: &BTreeMap<u64, u32>,
    ) -> Option<Vec<u8>> {
        let mut content = vec![0; SIZE];
        let first = number * PER_BITMAP;
        let len = (blocks - first).min(PER_BITMAP);
        let mut free = u32::try_from(len).ok()?;
        for (counted, count) in counts.range(first..first + len) {
            let bits = u8::try_from((*count).min(MANY.into())).ok()?;
            let slot = usize::try_from(counted - first).ok()?;
            content[16 + slot / 4] |= ((bits & 1) << 1 | bits >> 1) << (slot % 4 * 2);
            free -= u32::from(bits > 0);
        }
        self.put(block, content, BlockKind::Bitmap)?;
        let mut value = block.to_le_bytes().to_vec();
        value.extend(free.to_le_bytes());
        value.extend([0; 4]);
        Some(value)
    }
}
