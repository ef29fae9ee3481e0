//! Quantities with their unit in the type: [`Sectors`] and [`Bytes`].

use std::fmt;

/// Bytes in a device-mapper sector, whatever the device's own block size.
pub const SECTOR_BYTES: u64 = 512;

/// A length or an offset in sectors of 512 bytes, the unit of every device-mapper table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sectors(pub u64);

/// A length or an offset in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Sectors {
    /// The same quantity in bytes; `None` if it does not fit 64 bits.
    pub fn to_bytes(self) -> Option<Bytes> {
        self.0.checked_mul(SECTOR_BYTES).map(Bytes)
    }

    /// The sum; `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference; `None` if `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

impl Bytes {
    /// The whole sectors in this many bytes (a part of a sector is dropped).
    pub fn to_sectors(self) -> Sectors {
        Sectors(self.0 / SECTOR_BYTES)
    }

    /// The sum; `None` on overflow.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The difference; `None` if `other` is larger.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sectors", self.0)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}
