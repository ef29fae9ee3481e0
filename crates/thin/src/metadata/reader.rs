//! A pool's metadata, open for reading: [`Metadata`].

use super::block::Block;
use super::cursor::{Cursor, Item};
use super::details::{DeviceDetails, Devices};
use super::error::{BlockKind, Error, Result};
use super::mapping::Runs;
use super::node::{Expected, Node, Tree};
use super::source::{DeviceSource, ReadAt};
use super::space_map::SpaceMap;
use super::superblock::Superblock;
use crate::quantity::{MetaBlocks, ThinId};
use std::path::Path;

/// A pool's metadata, open for reading.
///
/// Each call reads what it needs; nothing is cached.
#[derive(Debug)]
pub struct Metadata {
    source: Box<dyn ReadAt>,
    device: String,
    blocks: u64,
    superblock: Superblock,
    held: bool,
}

impl Metadata {
    /// Opens the metadata of a pool that is not active, on a device or in a file.
    ///
    /// # Errors
    /// [`Error::Open`]; [`Error::NoPool`]; [`Error::Unknown`]; [`Error::Damaged`] for the superblock.
    ///
    /// # Privileges
    /// To read the device: in practice root.
    pub fn open(path: &Path) -> Result<Self> {
        let device = path.display().to_string();
        match DeviceSource::open(path) {
            Ok(source) => Self::of(source, device),
            Err(source) => Err(Error::Open { device, source }),
        }
    }

    /// Opens the metadata snapshot of a pool that may be active, on its metadata device. [`crate::metadata::HeldMetadata`] reserves and releases one.
    ///
    /// # Errors
    /// [`Error::NoSnapshot`]; those of [`Metadata::open`].
    ///
    /// # Privileges
    /// To read the device: in practice root.
    pub fn open_held(path: &Path) -> Result<Self> {
        let device = path.display().to_string();
        match DeviceSource::open(path) {
            Ok(source) => Self::held_of(source, device),
            Err(source) => Err(Error::Open { device, source }),
        }
    }

    /// As [`Metadata::open`], from anything that can be read. `device` stands in errors.
    ///
    /// # Errors
    /// As [`Metadata::open`].
    pub fn of(source: impl ReadAt + 'static, device: impl Into<String>) -> Result<Self> {
        Self::at(Box::new(source), device.into(), 0, false)
    }

    /// As [`Metadata::open_held`], from anything that can be read. `device` stands in errors.
    ///
    /// # Errors
    /// As [`Metadata::open_held`].
    pub fn held_of(source: impl ReadAt + 'static, device: impl Into<String>) -> Result<Self> {
        let live = Self::of(source, device)?;
        match live.superblock.held_root {
            None => Err(Error::NoSnapshot { device: live.device }),
            Some(root) => Self::at(live.source, live.device, root.0, true),
        }
    }

    /// As [`Metadata::held_of`], at a root that the pool's status told.
    ///
    /// # Errors
    /// As [`Metadata::open`].
    pub fn held_at(
        source: impl ReadAt + 'static,
        device: impl Into<String>,
        root: MetaBlocks,
    ) -> Result<Self> {
        Self::at(Box::new(source), device.into(), root.0, true)
    }

    fn at(source: Box<dyn ReadAt>, device: String, root: u64, held: bool) -> Result<Self> {
        let size = match source.size() {
            Ok(size) => size.0,
            Err(source) => return Err(Error::Open { device, source }),
        };
        // The kernel leaves unused what is beyond.
        let blocks = (size / MetaBlocks::BLOCK_BYTES).min(MetaBlocks::MAX.0);
        if blocks == 0 {
            return Err(Error::NoPool { device, why: format!("it is {size} bytes long") });
        }
        let block = read(&*source, &device, blocks, root, BlockKind::Superblock)?;
        let superblock = Superblock::parse(&block, root, &device)?;
        Ok(Self { source, device, blocks, superblock, held })
    }

    /// What the superblock says: for a metadata snapshot, of the moment when it was taken.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The device's name, as it stands in errors.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// This is a metadata snapshot: it has no space maps.
    pub fn is_snapshot(&self) -> bool {
        self.held
    }

    /// Blocks of the device, as far as the kernel uses it.
    pub fn blocks(&self) -> MetaBlocks {
        MetaBlocks(self.blocks)
    }

    /// All thin devices, by id.
    pub fn devices(&self) -> Devices<'_> {
        Devices::new(Cursor::new(self, Tree::DETAILS, self.superblock.details_root))
    }

    /// One thin device.
    ///
    /// # Errors
    /// [`Error::NoSuchId`]; [`Error::Damaged`]; [`Error::Read`].
    pub fn details(&self, id: ThinId) -> Result<DeviceDetails> {
        match self.find(Tree::DETAILS, self.superblock.details_root, id.get().into())? {
            Some(value) => Ok(DeviceDetails::parse(id, &value)),
            None => Err(Error::NoSuchId { device: self.device.clone(), id }),
        }
    }

    /// The mappings of a thin device, as runs of blocks that follow each other on both sides.
    ///
    /// # Errors
    /// [`Error::NoSuchId`]; [`Error::Damaged`]; [`Error::Read`].
    pub fn runs(&self, id: ThinId) -> Result<Runs<'_>> {
        Ok(Runs::new(Cursor::new(self, Tree::MAPPING, self.mapping_root(id)?)))
    }

    /// The counts of the data blocks' references.
    ///
    /// # Errors
    /// [`Error::NoSpaceMaps`] for a metadata snapshot.
    pub fn data_space_map(&self) -> Result<SpaceMap<'_>> {
        self.ensure_space_maps()?;
        Ok(SpaceMap::of_data(self))
    }

    /// The counts of the metadata blocks' references.
    ///
    /// # Errors
    /// [`Error::NoSpaceMaps`] for a metadata snapshot.
    pub fn metadata_space_map(&self) -> Result<SpaceMap<'_>> {
        self.ensure_space_maps()?;
        Ok(SpaceMap::of_metadata(self))
    }

    fn ensure_space_maps(&self) -> Result<()> {
        if self.held { Err(Error::NoSpaceMaps { device: self.device.clone() }) } else { Ok(()) }
    }

    /// The root of a device's mapping tree.
    pub(super) fn mapping_root(&self, id: ThinId) -> Result<u64> {
        match self.find(Tree::TOP, self.superblock.mapping_root, id.get().into())? {
            Some(value) => Ok(super::block::u64_at(&value, 0)),
            None => Err(Error::NoSuchId { device: self.device.clone(), id }),
        }
    }

    /// The value of a key: one node of each level is read.
    pub(super) fn find(&self, tree: Tree, root: u64, key: u64) -> Result<Option<Vec<u8>>> {
        let mut cursor = Cursor::new(self, tree, root);
        cursor.seek(key)?;
        match cursor.peek() {
            Some(Item::Entry { key: found, value }) if found == key => Ok(Some(value.to_vec())),
            _ => Ok(None),
        }
    }

    /// Reads a block and verifies that it is what it should be.
    pub(super) fn block(&self, number: u64, kind: BlockKind) -> Result<Box<Block>> {
        let block = read(&*self.source, &self.device, self.blocks, number, kind)?;
        block.verify(number, kind, &self.device)?;
        Ok(block)
    }

    pub(super) fn node(&self, number: u64, expected: Expected) -> Result<Node> {
        let block = read(&*self.source, &self.device, self.blocks, number, BlockKind::Node)?;
        Node::parse(block, number, expected, &self.device)
    }

    pub(super) fn damaged(&self, block: u64, kind: BlockKind, what: String) -> Error {
        Error::Damaged { device: self.device.clone(), block: MetaBlocks(block), kind, what }
    }
}

fn read(source: &dyn ReadAt, device: &str, blocks: u64, number: u64, kind: BlockKind) -> Result<Box<Block>> {
    if number >= blocks || (number == 0 && kind != BlockKind::Superblock) {
        let what = format!("something refers to it, and the device has the blocks 1 to {}", blocks - 1);
        return Err(Error::Damaged { device: device.into(), block: MetaBlocks(number), kind, what });
    }
    let mut block = Block::zeroed();
    match source.read_exact_at(block.bytes_mut(), number * MetaBlocks::BLOCK_BYTES) {
        Ok(()) => Ok(block),
        Err(source) => Err(Error::Read { device: device.into(), block: MetaBlocks(number), source }),
    }
}
