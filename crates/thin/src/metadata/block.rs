//! A block of metadata: 4096 bytes, with a checksum and its own number.

use super::error::{BlockKind, Error, Result};
use crate::quantity::MetaBlocks;

/// Bytes in a block.
pub(super) const SIZE: usize = 4096;
/// Where a block's own number lies, whatever its kind.
pub(super) const NUMBER: usize = 8;

/// A block in memory, aligned as direct reads want it.
#[derive(Clone)]
#[repr(align(4096))]
pub(super) struct Block([u8; SIZE]);

impl Block {
    pub(super) fn zeroed() -> Box<Self> {
        Box::new(Self([0; SIZE]))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(super) fn u32(&self, at: usize) -> u32 {
        u32_at(&self.0, at)
    }

    pub(super) fn u64(&self, at: usize) -> u64 {
        u64_at(&self.0, at)
    }

    pub(super) fn is_blank(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// The block is what it says, and lies where it says.
    pub(super) fn verify(&self, number: u64, kind: BlockKind, device: &str) -> Result<()> {
        let damaged =
            |what: String| Error::Damaged { device: device.into(), block: MetaBlocks(number), kind, what };
        let (stored, computed) = (self.u32(0), checksum(&self.0, kind));
        if stored != computed {
            return Err(damaged(format!("its checksum is {computed:#010x} and should be {stored:#010x}")));
        }
        match self.u64(NUMBER) {
            own if own == number => Ok(()),
            own => Err(damaged(format!("it says that it is block {own}"))),
        }
    }
}

/// The checksum of a block's bytes after the first four: CRC-32C without its last inversion, and a number for each kind of block.
pub(super) fn checksum(block: &[u8], kind: BlockKind) -> u32 {
    !crc32c::crc32c(&block[4..]) ^ kind.mark()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[at + byte]))
}
