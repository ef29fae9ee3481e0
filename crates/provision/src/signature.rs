//! What is on a device, told from its first and last blocks. Pure: bytes in, a name out.
//!
//! Names are those of blkid where it knows the format. A signature here means "somebody wants this content", so a
//! magic number alone is enough for most; where two bytes could stand there by chance, more is looked at.
//!
//! # References
//! Kernel headers and on-disk documentation of each format; for thin pools `drivers/md/dm-thin-metadata.c` and
//! `persistent-data/dm-block-manager.c`.

use crate::checksum::{crc32, crc32c};

/// A thin pool's metadata, with a good checksum.
pub const THIN_POOL: &str = "thin-pool metadata";
/// A thin pool's metadata whose superblock fails its checksum: the kernel refuses it.
pub const THIN_POOL_DAMAGED: &str = "damaged thin-pool metadata";
/// The first 4 KiB are not all zero, and nothing that is known by its signature.
pub const UNRECOGNISED: &str = "unrecognised data";

/// How much of a device's beginning [`recognise`] wants to see.
pub const HEAD_BYTES: u64 = 256 << 10;
/// How much of its end.
pub const TAIL_BYTES: u64 = 256 << 10;
/// A block of a thin pool's metadata.
const METADATA_BLOCK: usize = 4096;

/// The two ends of a device.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Its first bytes: [`HEAD_BYTES`], or all there are.
    pub head: &'a [u8],
    /// Its last bytes: [`TAIL_BYTES`], or all there are.
    pub tail: &'a [u8],
    /// Its size in bytes.
    pub size: u64,
}

impl<'a> Ends<'a> {
    fn at(&self, offset: usize, length: usize) -> Option<&'a [u8]> {
        self.head.get(offset..offset.checked_add(length)?)
    }

    /// From a position in the whole device that lies near its end.
    fn near_end(&self, offset: u64, length: usize) -> Option<&'a [u8]> {
        let start = self.size.checked_sub(self.tail.len() as u64)?;
        let from = usize::try_from(offset.checked_sub(start)?).ok()?;
        self.tail.get(from..from.checked_add(length)?)
    }

    fn u16(&self, offset: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.at(offset, 2)?.try_into().ok()?))
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.at(offset, 4)?.try_into().ok()?))
    }
}

/// Magic bytes at fixed places from the beginning.
struct Magic {
    name: &'static str,
    offsets: &'static [usize],
    bytes: &'static [u8],
}

const fn magic(name: &'static str, offsets: &'static [usize], bytes: &'static [u8]) -> Magic {
    Magic { name, offsets, bytes }
}

/// The label of LVM stands in one of the first four sectors.
const LVM_SECTORS: &[usize] = &[0, 512, 1024, 1536];
/// The end of the first page, for the page sizes there are.
const SWAP_PAGES: &[usize] = &[4096 - 10, 8192 - 10, 16384 - 10, 32768 - 10, 65536 - 10];

const MAGICS: &[Magic] = &[
    magic("crypto_LUKS", &[0], b"LUKS\xba\xbe"),
    magic("crypto_LUKS", &[16 << 10], b"SKUL\xba\xbe"),
    magic("BitLocker", &[3], b"-FVE-FS-"),
    magic("stratis", &[512 + 4, 9 * 512 + 4], b"!Stra0tis\x86\xff\x02^\x41rh"),
    magic("vdo", &[0], b"dmvdo001"),
    magic("DM_integrity", &[0], b"integrt\0"),
    magic("DM_verity_hash", &[0], b"verity\0\0"),
    magic("DM_snapshot_cow", &[0], b"SnAp"),
    magic("bcache", &[4096 + 24], b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    magic("bcachefs", &[4096 + 24], b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    magic("xfs", &[0], b"XFSB"),
    magic("btrfs", &[(64 << 10) + 64], b"_BHRfS_M"),
    magic("f2fs", &[1024], b"\x10\x20\xf5\xf2"),
    magic("erofs", &[1024], b"\xe2\xe1\xf5\xe0"),
    magic("squashfs", &[0], b"hsqs"),
    magic("iso9660", &[(32 << 10) + 1], b"CD001"),
    magic("swsuspend", SWAP_PAGES, b"S1SUSPEND"),
    magic("swsuspend", SWAP_PAGES, b"S2SUSPEND"),
    magic("swap", SWAP_PAGES, b"SWAPSPACE2"),
    magic("swap", SWAP_PAGES, b"SWAP-SPACE"),
    magic("ntfs", &[3], b"NTFS    "),
    magic("exfat", &[3], b"EXFAT   "),
    magic("vfat", &[54], b"FAT12   "),
    magic("vfat", &[54], b"FAT16   "),
    magic("vfat", &[82], b"FAT32   "),
];

type Probe = fn(&Ends<'_>) -> Option<&'static str>;

/// In this order: what owns the device as a whole comes before what may stand inside of it, and a partition table last,
/// since boot sectors of file systems end like one.
const BEFORE: &[Probe] = &[thin_pool, mdraid, lvm];
const AFTER: &[Probe] = &[ext, zfs, gpt, mbr];

/// What is on a device; `None` if nothing is known to be there and its first 4 KiB are zero.
///
/// Looks at what it is given, whatever that is: short and garbled content is no error.
pub fn recognise(ends: &Ends<'_>) -> Option<&'static str> {
    let by_magic = || {
        MAGICS.iter().find_map(|magic| {
            let there = magic.offsets.iter().any(|at| ends.at(*at, magic.bytes.len()) == Some(magic.bytes));
            there.then_some(magic.name)
        })
    };
    let probed = |probes: &[Probe]| probes.iter().find_map(|probe| probe(ends));
    probed(BEFORE).or_else(by_magic).or_else(|| probed(AFTER)).or_else(|| {
        let first = ends.head.get(..METADATA_BLOCK).unwrap_or(ends.head);
        first.iter().any(|byte| *byte != 0).then_some(UNRECOGNISED)
    })
}

/// `struct thin_disk_superblock`: checksum (0), block number (8), magic (32), version (40).
fn thin_pool(ends: &Ends<'_>) -> Option<&'static str> {
    const MAGIC: u64 = 27_022_010;
    const SALT: u32 = 160_774;
    let block = ends.at(0, METADATA_BLOCK)?;
    if ends.at(32, 8)? != MAGIC.to_le_bytes() {
        return None;
    }
    // The kernel's CRC starts with all ones and is not inverted at its end.
    let sum = !crc32c(&block[4..]) ^ SALT;
    Some(if ends.u32(0)? == sum { THIN_POOL } else { THIN_POOL_DAMAGED })
}

/// Version 1.1 at the beginning, 1.2 at 4 KiB, 1.0 and 0.90 near the end.
fn mdraid(ends: &Ends<'_>) -> Option<&'static str> {
    const MAGIC: u32 = 0xa92b_4efc;
    const NAME: &str = "linux_raid_member";
    // Magic, then major version 1.
    let one = |bytes: &[u8]| bytes[..4] == MAGIC.to_le_bytes() && bytes[4..8] == 1_u32.to_le_bytes();
    if [0, 4096].iter().any(|at| ends.at(*at, 8).is_some_and(one)) {
        return Some(NAME);
    }
    let sectors = ends.size / 512;
    if let Some(sector) = sectors.checked_sub(16)
        && ends.near_end((sector & !7) * 512, 8).is_some_and(one)
    {
        return Some(NAME);
    }
    // 0.90 is written in the machine's own byte order.
    let zero_ninety = (ends.size & !0xffff).checked_sub(0x1_0000)?;
    let found = ends.near_end(zero_ninety, 8)?;
    let little = found[..4] == MAGIC.to_le_bytes() && found[4..8] == [0; 4];
    let big = found[..4] == MAGIC.to_be_bytes() && found[4..8] == [0; 4];
    (little || big).then_some(NAME)
}

fn lvm(ends: &Ends<'_>) -> Option<&'static str> {
    let label = |at: &usize| {
        ends.at(*at, 8) == Some(b"LABELONE")
            && ends.at(at + 24, 8).is_some_and(|kind| kind.starts_with(b"LVM2"))
    };
    LVM_SECTORS.iter().any(label).then_some("LVM2_member")
}

/// ext2, ext3, ext4 and an external journal, by magic and features.
fn ext(ends: &Ends<'_>) -> Option<&'static str> {
    const SUPERBLOCK: usize = 1024;
    const COMPAT_HAS_JOURNAL: u32 = 0x4;
    const INCOMPAT_JOURNAL_DEV: u32 = 0x8;
    /// filetype, recover, meta_bg
    const INCOMPAT_EXT3: u32 = 0x2 | 0x4 | 0x10;
    /// sparse_super, large_file, btree_dir
    const RO_COMPAT_EXT3: u32 = 0x1 | 0x2 | 0x4;
    if ends.u16(SUPERBLOCK + 0x38)? != 0xef53 {
        return None;
    }
    // Two bytes stand there by chance too often. Blocks of 1 KiB to 64 KiB, and there are inodes and blocks.
    if ends.u32(SUPERBLOCK)? == 0 || ends.u32(SUPERBLOCK + 4)? == 0 || ends.u32(SUPERBLOCK + 0x18)? > 6 {
        return None;
    }
    let compat = ends.u32(SUPERBLOCK + 0x5c)?;
    let incompat = ends.u32(SUPERBLOCK + 0x60)?;
    let ro_compat = ends.u32(SUPERBLOCK + 0x64)?;
    Some(if incompat & INCOMPAT_JOURNAL_DEV != 0 {
        "jbd"
    } else if incompat & !INCOMPAT_EXT3 != 0 || ro_compat & !RO_COMPAT_EXT3 != 0 {
        "ext4"
    } else if compat & COMPAT_HAS_JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    })
}

/// An uberblock of the first label: a ring of them stands at 128 KiB, each on a multiple of 1 KiB.
fn zfs(ends: &Ends<'_>) -> Option<&'static str> {
    const MAGIC: u64 = 0x00ba_b10c;
    let ring = ends.head.get(128 << 10..)?;
    let found = ring.chunks(1024).any(|uberblock| {
        uberblock.get(..8).is_some_and(|magic| magic == MAGIC.to_le_bytes() || magic == MAGIC.to_be_bytes())
    });
    found.then_some("zfs_member")
}

/// The header in the second block, or its copy in the last one.
fn gpt(ends: &Ends<'_>) -> Option<&'static str> {
    for block in [512_u64, 4096] {
        let Some(last) = (ends.size / block).checked_sub(1) else { continue };
        let length = usize::try_from(block).unwrap_or(usize::MAX);
        let primary = ends.at(length, length).is_some_and(|header| gpt_header(header, 1));
        let copy = ends.near_end(last * block, length).is_some_and(|header| gpt_header(header, last));
        if primary || copy {
            return Some("gpt");
        }
    }
    None
}

/// Magic, a size that fits, its own place, and the checksum with its field taken as zero.
fn gpt_header(header: &[u8], place: u64) -> bool {
    let word =
        |at: usize| header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes);
    if !header.starts_with(b"EFI PART") || header.get(24..32) != Some(&place.to_le_bytes()[..]) {
        return false;
    }
    let Some(size) = word(12).and_then(|size| usize::try_from(size).ok()) else { return false };
    let Some(covered) = header.get(..size).filter(|_| size >= 92) else { return false };
    let mut covered = covered.to_vec();
    covered[16..20].fill(0);
    word(16) == Some(crc32(&covered))
}

/// A partition table: its mark, at least one entry, and entries that could be ones.
fn mbr(ends: &Ends<'_>) -> Option<&'static str> {
    if ends.at(510, 2)? != [0x55, 0xaa] {
        return None;
    }
    let entries = ends.at(446, 64)?;
    let mut used = None;
    for entry in entries.chunks_exact(16) {
        if entry[0] & 0x7f != 0 {
            return None;
        }
        let sectors = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
        match entry[4] {
            0 => {}
            _ if sectors == 0 => return None,
            0xee => used = Some("PMBR"),
            _ => used = used.or(Some("dos")),
        }
    }
    used
}

#[cfg(test)]
mod tests;
