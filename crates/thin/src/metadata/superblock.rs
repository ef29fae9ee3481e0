//! Block 0, and the copy of it that a metadata snapshot begins with: [`Superblock`].

use super::block::Block;
use super::error::{BlockKind, Error, Result};
use super::space_map::Root;
use crate::quantity::{BlockSize, MetaBlocks, TransactionId};
use thinlayer_dm::Sectors;

pub(super) const MAGIC: u64 = 27_022_010;
/// Sectors in a metadata block.
const METADATA_BLOCK_SECTORS: u32 = 8;
const NEEDS_CHECK: u32 = 1;
/// Version 2 only says that all lower fields are in use.
const VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The format's version: 1 or 2.
    pub version: u32,
    /// The kernel marked the metadata as possibly damaged; `thin_check` or `thin_repair` clear the mark.
    pub needs_check: bool,
    /// 16 bytes that nothing uses.
    pub uuid: [u8; 16],
    /// The pool's clock: it goes on by one with each snapshot.
    pub time: u32,
    /// The counter of the pool's user.
    pub transaction_id: TransactionId,
    /// Where the metadata snapshot begins, if one is held.
    pub held_root: Option<MetaBlocks>,
    /// The size of a data block.
    pub block_size: BlockSize,
    /// Metadata blocks when the pool was made; growing does not change it.
    pub first_metadata_blocks: MetaBlocks,
    pub(super) data_space_map: Root,
    pub(super) metadata_space_map: Root,
    pub(super) mapping_root: u64,
    pub(super) details_root: u64,
}

/// Where the fields lie.
pub(super) mod at {
    pub(crate) const FLAGS: usize = 4;
    pub(crate) const UUID: usize = 16;
    pub(crate) const MAGIC: usize = 32;
    pub(crate) const VERSION: usize = 40;
    pub(crate) const TIME: usize = 44;
    pub(crate) const TRANSACTION: usize = 48;
    pub(crate) const HELD_ROOT: usize = 56;
    pub(crate) const DATA_MAP: usize = 64;
    pub(crate) const METADATA_MAP: usize = 192;
    pub(crate) const MAPPINGS: usize = 320;
    pub(crate) const DETAILS: usize = 328;
    pub(crate) const DATA_BLOCK: usize = 336;
    pub(crate) const METADATA_BLOCK: usize = 340;
    pub(crate) const METADATA_BLOCKS: usize = 344;
    pub(crate) const INCOMPATIBLE: usize = 360;
}

impl Superblock {
    /// From a block that was read from there.
    pub(super) fn parse(block: &Block, number: u64, device: &str) -> Result<Self> {
        let no_pool = |why: String| Err(Error::NoPool { device: device.into(), why });
        let magic = block.u64(at::MAGIC);
        if number == 0 && magic != MAGIC {
            return no_pool(if block.is_blank() {
                "its first block is empty".into()
            } else {
                format!("its first block has the magic number {magic} in place of {MAGIC}")
            });
        }
        block.verify(number, BlockKind::Superblock, device)?;
        let damaged = |what: String| Error::Damaged {
            device: device.into(),
            block: MetaBlocks(number),
            kind: BlockKind::Superblock,
            what,
        };
        if magic != MAGIC {
            return Err(damaged(format!("its magic number is {magic} in place of {MAGIC}")));
        }
        let unknown = |why: String| Err(Error::Unknown { device: device.into(), why });
        let version = block.u32(at::VERSION);
        if !VERSIONS.contains(&version) {
            return unknown(format!("its version is {version}, and 1 and 2 are known"));
        }
        match block.u32(at::INCOMPATIBLE) {
            0 => {}
            flags => return unknown(format!("it has incompatible features ({flags:#x})")),
        }
        match block.u32(at::METADATA_BLOCK) {
            METADATA_BLOCK_SECTORS => {}
            other => return unknown(format!("its metadata blocks are {other} sectors long in place of 8")),
        }
        let block_size = BlockSize::new(Sectors(block.u32(at::DATA_BLOCK).into()))
            .map_err(|error| damaged(error.to_string()))?;
        let held_root = Some(MetaBlocks(block.u64(at::HELD_ROOT))).filter(|root| root.0 != 0);
        Ok(Self {
            version,
            needs_check: block.u32(at::FLAGS) & NEEDS_CHECK != 0,
            uuid: std::array::from_fn(|byte| block.bytes()[at::UUID + byte]),
            time: block.u32(at::TIME),
            transaction_id: TransactionId(block.u64(at::TRANSACTION)),
            held_root,
            block_size,
            first_metadata_blocks: MetaBlocks(block.u64(at::METADATA_BLOCKS)),
            data_space_map: Root::parse(block, at::DATA_MAP),
            metadata_space_map: Root::parse(block, at::METADATA_MAP),
            mapping_root: block.u64(at::MAPPINGS),
            details_root: block.u64(at::DETAILS),
        })
    }
}
