//! Quantities of a thin pool with their unit in the type, and the numbers that name things in it.

use crate::error::ParseError;
use std::fmt;
use std::str::FromStr;
use thinlayer_dm::{Bytes, Sectors};

/// The number of a thin device in its pool: 24 bits.
///
/// # References
/// The kernel's `thin-provisioning.rst`, "Thin devices"; specification section 1.12.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThinId(u32);

impl ThinId {
    /// The largest id, 0xffffff.
    pub const MAX: Self = Self(0x00ff_ffff);
    /// The smallest id.
    pub const ZERO: Self = Self(0);

    /// Checks the number and takes it; `None` above [`ThinId::MAX`].
    pub const fn new(number: u32) -> Option<Self> {
        if number <= Self::MAX.0 { Some(Self(number)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The id after this one; after the largest comes 0.
    #[must_use]
    pub const fn next(self) -> Self {
        Self((self.0 + 1) & Self::MAX.0)
    }
}

impl fmt::Display for ThinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ThinId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let number: u32 = number("thin id", text)?;
        Self::new(number).ok_or_else(|| ParseError::new("thin id", text, "it is above 16777215 (24 bits)"))
    }
}

impl TryFrom<u32> for ThinId {
    type Error = ParseError;

    fn try_from(number: u32) -> Result<Self, ParseError> {
        Self::new(number)
            .ok_or_else(|| ParseError::new("thin id", number.to_string(), "it is above 16777215 (24 bits)"))
    }
}

/// The pool's 64-bit counter that its user moves on with each of their transactions. The kernel only compares it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u64);

impl TransactionId {
    /// The one after; `None` after the last.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TransactionId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        number("transaction id", text).map(Self)
    }
}

/// A count of blocks of a pool's data device, whose size is the pool's [`BlockSize`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DataBlocks(pub u64);

impl DataBlocks {
    /// The same quantity in sectors; `None` if it does not fit 64 bits.
    pub fn to_sectors(self, block_size: BlockSize) -> Option<Sectors> {
        self.0.checked_mul(block_size.sectors().0).map(Sectors)
    }

    /// The same quantity in bytes; `None` if it does not fit 64 bits.
    pub fn to_bytes(self, block_size: BlockSize) -> Option<Bytes> {
        self.to_sectors(block_size).and_then(Sectors::to_bytes)
    }
}

impl fmt::Display for DataBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} data blocks", self.0)
    }
}

/// A count, or the address, of blocks of a pool's metadata device: 4096 bytes each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MetaBlocks(pub u64);

impl MetaBlocks {
    /// Bytes in a metadata block.
    pub const BLOCK_BYTES: u64 = 4096;
    /// As much metadata as the kernel uses: 255 bitmaps of 16,384 blocks less their headers, just under 16 GiB.
    ///
    /// A larger device works, its rest stays unused (the kernel warns).
    pub const MAX: Self = Self(255 * ((1 << 14) - 64));

    /// The same quantity in bytes; `None` if it does not fit 64 bits.
    pub fn to_bytes(self) -> Option<Bytes> {
        self.0.checked_mul(Self::BLOCK_BYTES).map(Bytes)
    }
}

impl fmt::Display for MetaBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metadata blocks", self.0)
    }
}

/// The size of a pool's data blocks: 64 KiB to 1 GiB, a multiple of 64 KiB. It is fixed when the pool is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize(u64);

impl BlockSize {
    /// 64 KiB: the smallest, and Docker's default.
    pub const MIN: Self = Self(128);
    /// 1 GiB.
    pub const MAX: Self = Self(1 << 21);

    /// From a number of sectors.
    ///
    /// # Errors
    /// [`BlockSizeError`] if it is no size that the kernel takes.
    pub fn new(size: Sectors) -> Result<Self, BlockSizeError> {
        let fits = (Self::MIN.0..=Self::MAX.0).contains(&size.0) && size.0.is_multiple_of(Self::MIN.0);
        if fits { Ok(Self(size.0)) } else { Err(BlockSizeError { given: size.0, unit: "sectors" }) }
    }

    /// From a number of bytes.
    ///
    /// # Errors
    /// [`BlockSizeError`] if it is no size that the kernel takes.
    pub fn from_bytes(size: Bytes) -> Result<Self, BlockSizeError> {
        let error = BlockSizeError { given: size.0, unit: "bytes" };
        if size.to_sectors().to_bytes() != Some(size) {
            return Err(error);
        }
        Self::new(size.to_sectors()).map_err(|_| error)
    }

    /// In sectors.
    pub const fn sectors(self) -> Sectors {
        Sectors(self.0)
    }

    /// In bytes.
    pub const fn bytes(self) -> Bytes {
        Bytes(self.0 * thinlayer_dm::SECTOR_BYTES)
    }

    /// How many whole blocks fit into a length.
    pub const fn blocks_in(self, len: Sectors) -> DataBlocks {
        DataBlocks(len.0 / self.0)
    }
}

impl Default for BlockSize {
    /// 64 KiB.
    fn default() -> Self {
        Self::MIN
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB", self.0 / 2)
    }
}

/// A size that no pool's data blocks can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a block size of {given} {unit} is not possible; give a multiple of 64 KiB between 64 KiB and 1 GiB")]
pub struct BlockSizeError {
    given: u64,
    unit: &'static str,
}

/// A decimal number without sign.
pub(crate) fn number<T: FromStr>(what: &'static str, text: &str) -> Result<T, ParseError> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(ParseError::new(what, text, "it is not a decimal number"));
    }
    text.parse().map_err(|_| ParseError::new(what, text, "it is empty or too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thin_ids_have_24_bits() {
        assert_eq!(ThinId::new(0), Some(ThinId::ZERO));
        assert_eq!(ThinId::new(0x00ff_ffff), Some(ThinId::MAX));
        assert_eq!(ThinId::new(0x0100_0000), None);
        assert!(ThinId::try_from(0x0100_0000).is_err());
        assert_eq!(ThinId::MAX.next(), ThinId::ZERO);
        assert_eq!(ThinId::ZERO.next().get(), 1);
        assert_eq!("16777215".parse::<ThinId>().unwrap(), ThinId::MAX);
        for bad in ["16777216", "", "-1", "+1", "1 ", "0x1", "99999999999999999999"] {
            assert!(bad.parse::<ThinId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn block_sizes_are_what_the_kernel_takes() {
        assert_eq!(BlockSize::new(Sectors(128)).unwrap(), BlockSize::default());
        assert_eq!(BlockSize::from_bytes(Bytes(1 << 30)).unwrap(), BlockSize::MAX);
        for bad in [0, 1, 127, 129, 192, (1 << 21) + 128, u64::MAX] {
            let error = BlockSize::new(Sectors(bad)).unwrap_err().to_string();
            assert!(error.contains(&bad.to_string()) && error.contains("multiple of 64 KiB"), "{error}");
        }
        for bad in [0, 65_535, 65_537, 65_536 + 512, u64::MAX] {
            let error = BlockSize::from_bytes(Bytes(bad)).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad} bytes")), "{error}");
        }
        assert_eq!(BlockSize::MIN.to_string(), "64 KiB");
        assert_eq!(BlockSize::MIN.bytes(), Bytes(65_536));
        assert_eq!(BlockSize::MIN.blocks_in(Sectors(1_000)), DataBlocks(7));
    }

    #[test]
    fn conversions_do_not_wrap() {
        assert_eq!(DataBlocks(3).to_bytes(BlockSize::MIN), Some(Bytes(196_608)));
        assert_eq!(DataBlocks(u64::MAX).to_sectors(BlockSize::MIN), None);
        assert_eq!(MetaBlocks(2).to_bytes(), Some(Bytes(8192)));
        assert_eq!(MetaBlocks(u64::MAX).to_bytes(), None);
        assert_eq!(TransactionId(u64::MAX).next(), None);
        assert_eq!(TransactionId(1).next(), Some(TransactionId(2)));
        // The kernel's THIN_METADATA_MAX_SECTORS.
        assert_eq!(MetaBlocks::MAX.0 * 8, 33_292_800);
    }
}
