//! The first block of a pool's metadata: what the pool says of itself before anything stands on it.
//!
//! # References
//! `struct thin_disk_superblock` in the kernel's `drivers/md/dm-thin-metadata.c`, `struct disk_sm_root` in
//! `persistent-data/dm-space-map-common.h`.

use crate::error::Result;
use crate::file::{errno, failed};
use crate::signature::{self, Ends};
use std::io::Read;
use std::path::Path;
use thinlayer_dm::{Bytes, Sectors};

/// A block of a thin pool's metadata.
pub const BLOCK_BYTES: usize = 4096;
/// `THIN_METADATA_NEEDS_CHECK_FLAG`.
const NEEDS_CHECK: u32 = 1;

/// What the first block of a metadata file or device says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Superblock {
    /// It is all zero, or not there: the kernel would make a new pool on it.
    Blank,
    /// A pool's, with a good checksum.
    Pool(PoolFacts),
    /// A pool's, with a bad checksum: the kernel refuses it.
    Damaged,
    /// Something else, by its signature.
    Other(&'static str),
}

/// What a pool's superblock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    /// The pool's transaction id.
    pub transaction_id: u64,
    /// The size of a data block. It is fixed when the pool is made.
    pub data_block: Bytes,
    /// How many data blocks the pool has had at its last commit. Its data device may not have less.
    pub data_blocks: u64,
    /// How many of them were in use at its last commit.
    pub used_blocks: u64,
    /// How many metadata blocks ([`BLOCK_BYTES`] each) the pool has had at its last commit.
    pub metadata_blocks: u64,
    /// The kernel marked the metadata as possibly damaged, and changes nothing in it until that is mended.
    pub needs_check: bool,
}

impl PoolFacts {
    /// Nothing was ever written through this pool, and no transaction was completed: nobody loses anything with it. A first start that was cut off
    /// leaves one like that.
    pub fn is_empty(&self) -> bool {
        self.transaction_id == 0 && self.used_blocks == 0
    }

    /// The least that the data device has to have.
    pub fn data_size(&self) -> Bytes {
        Bytes(self.data_block.0.saturating_mul(self.data_blocks))
    }

    /// What the pool uses of its metadata device.
    pub fn metadata_size(&self) -> Bytes {
        Bytes(self.metadata_blocks.saturating_mul(BLOCK_BYTES as u64))
    }
}

/// Reads a superblock from its bytes, which may be fewer than [`BLOCK_BYTES`].
pub fn parse(block: &[u8]) -> Superblock {
    let ends = Ends { head: block, tail: block, size: block.len() as u64 };
    match signature::recognise(&ends) {
        None => return Superblock::Blank,
        Some(signature::THIN_POOL) => {}
        Some(signature::THIN_POOL_DAMAGED) => return Superblock::Damaged,
        Some(other) => return Superblock::Other(other),
    }
    let word =
        |at: usize| block.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    let half =
        |at: usize| block.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    let facts = || {
        Some(PoolFacts {
            transaction_id: word(48)?,
            // data_block_size, in sectors
            data_block: Sectors(half(336)?.into()).to_bytes()?,
            // data_space_map_root.nr_blocks
            data_blocks: word(64)?,
            // data_space_map_root.nr_allocated
            used_blocks: word(72)?,
            // metadata_space_map_root.nr_blocks
            metadata_blocks: word(192)?,
            // flags
            needs_check: half(4)? & NEEDS_CHECK != 0,
        })
    };
    facts().map_or(Superblock::Damaged, Superblock::Pool)
}

/// Reads a file's or device's first block.
pub(crate) fn read(path: &Path) -> Result<Superblock> {
    let open = || -> std::io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        std::fs::File::open(path)?.take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        Ok(block)
    };
    match open() {
        Ok(block) => Ok(parse(&block)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Superblock::Blank),
        Err(error) => Err(failed("read the first block of", path, errno(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc32c;

    fn block(fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        block[32..40].copy_from_slice(&27_022_010_u64.to_le_bytes());
        fill(&mut block);
        let sum = !crc32c(&block[4..]) ^ 160_774;
        block[..4].copy_from_slice(&sum.to_le_bytes());
        block
    }

    #[test]
    fn a_pool_tells_its_block_and_its_size() {
        let fill = |block: &mut [u8]| {
            block[48..56].copy_from_slice(&23_u64.to_le_bytes());
            block[64..72].copy_from_slice(&4800_u64.to_le_bytes());
            block[72..80].copy_from_slice(&12_u64.to_le_bytes());
            block[192..200].copy_from_slice(&512_u64.to_le_bytes());
            block[336..340].copy_from_slice(&1024_u32.to_le_bytes());
        };
        let marked = block(|block| {
            fill(block);
            block[4] = 1;
        });
        assert!(matches!(parse(&marked), Superblock::Pool(PoolFacts { needs_check: true, .. })));
        let block = block(fill);
        let Superblock::Pool(facts) = parse(&block) else { panic!("no pool: {:?}", parse(&block)) };
        assert_eq!((facts.transaction_id, facts.data_block, facts.data_blocks), (23, Bytes(512 << 10), 4800));
        assert_eq!(facts.data_size(), Bytes(4800 * (512 << 10)));
        assert_eq!(facts.used_blocks, 12);
        for (transaction_id, used_blocks, is_empty) in [(0, 0, true), (1, 0, false), (0, 1, false)] {
            assert_eq!(PoolFacts { transaction_id, used_blocks, ..facts }.is_empty(), is_empty);
        }
        assert_eq!((facts.metadata_size(), facts.needs_check), (Bytes(2 << 20), false));
        let mut damaged = block;
        damaged[50] ^= 1;
        assert_eq!(parse(&damaged), Superblock::Damaged);
    }

    #[test]
    fn what_is_no_pool_is_told() {
        assert_eq!(parse(&[]), Superblock::Blank);
        assert_eq!(parse(&[0; BLOCK_BYTES]), Superblock::Blank);
        assert_eq!(parse(b"XFSB"), Superblock::Other("xfs"));
        assert_eq!(parse(b"hello"), Superblock::Other(signature::UNRECOGNISED));
        assert_eq!(read(Path::new("/nonexistent/metadata")).unwrap(), Superblock::Blank);
    }
}
