//! Does the metadata agree with itself? [`Consistency`].

use super::block::u32_at;
use super::counts::Counts;
use super::cursor::{Cursor, Item};
use super::details::DeviceDetails;
use super::error::{BlockKind, Error, Result};
use super::mapping::Mapping;
use super::node::Tree;
use super::reader::Metadata;
use super::space_map::{Bitmap, IndexEntry, MANY, PER_BITMAP, SpaceMap};
use super::superblock::Superblock;
use super::visits::{Visitor, Visits};
use crate::quantity::{MetaBlocks, ThinId};
use std::collections::BTreeMap;
use std::fmt;

/// So many faults are told; the others are counted.
const TOLD: usize = 100;

/// Whose blocks a space map counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The data device's.
    Data,
    /// The metadata device's.
    Metadata,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
        })
    }
}

/// Something in the metadata that is not as it must be.
#[derive(Debug)]
#[non_exhaustive]
pub enum Fault {
    /// A block is damaged or cannot be read. Counts are not compared then.
    Unreadable(Error),
    /// Blocks are counted more often than they are referred to: they are lost for use, and nothing else is wrong with them.
    Leaked {
        /// Whose.
        space: Space,
        /// The first of them.
        first: u64,
        /// How many.
        blocks: u64,
        /// The count in the space map.
        stored: u32,
        /// How often they are referred to.
        counted: u32,
    },
    /// Blocks are counted less often than they are referred to: the pool may give them away while they are in use.
    Undercounted {
        /// Whose.
        space: Space,
        /// The first of them.
        first: u64,
        /// How many.
        blocks: u64,
        /// The count in the space map.
        stored: u32,
        /// How often they are referred to.
        counted: u32,
    },
    /// The number of used blocks that the superblock tells.
    Allocated {
        /// Whose.
        space: Space,
        /// What it tells.
        stored: u64,
        /// What it is.
        counted: u64,
    },
    /// The number of free blocks that an index tells of one of its bitmaps.
    Free {
        /// Whose.
        space: Space,
        /// The bitmap's place in the index.
        bitmap: u64,
        /// What the index tells.
        stored: u32,
        /// What it is.
        counted: u32,
    },
    /// The number of mappings that a device's details tell.
    Mapped {
        /// Which device.
        id: ThinId,
        /// What they tell.
        stored: u64,
        /// What it is.
        counted: u64,
    },
    /// A device without mappings: not even none.
    NoMappings(ThinId),
    /// Mappings of a device that does not exist.
    NoDevice(ThinId),
}

impl Fault {
    /// It costs space and nothing else.
    pub fn is_leak(&self) -> bool {
        matches!(self, Self::Leaked { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => error.fmt(f),
            Self::Leaked { space, first, blocks, stored, counted }
            | Self::Undercounted { space, first, blocks, stored, counted } => {
                write!(
                    f,
                    "{space} blocks {first} to {} are counted {stored} times, and referred to {counted} times: ",
                    first.saturating_add(*blocks - 1)
                )?;
                f.write_str(if self.is_leak() {
                    "they are lost for use"
                } else {
                    "they may be given away while in use"
                })
            }
            Self::Allocated { space, stored, counted } => {
                write!(f, "the superblock tells of {stored} used {space} blocks, and there are {counted}")
            }
            Self::Free { space, bitmap, stored, counted } => write!(
                f,
                "the index tells of {stored} free blocks in {space} bitmap {bitmap}, and there are {counted}"
            ),
            Self::Mapped { id, stored, counted } => {
                write!(f, "thin id {id} has {counted} mappings, and its details tell of {stored}")
            }
            Self::NoMappings(id) => write!(f, "thin id {id} has no tree of mappings"),
            Self::NoDevice(id) => write!(f, "there are mappings of thin id {id}, which does not exist"),
        }
    }
}

/// What [`Metadata::check`] found.
#[derive(Debug, Default)]
pub struct Consistency {
    /// What is not as it must be: the first hundred.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub more: u64,
    /// Thin devices that were looked at.
    pub devices: u64,
    /// The space maps were compared with what was counted: not so for a metadata snapshot, and not where blocks are damaged.
    pub counts_compared: bool,
}

impl Consistency {
    /// All is as it must be.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < TOLD {
            self.faults.push(fault);
        } else {
            self.more += 1;
        }
    }
}

impl Metadata {
    /// Reads everything that is in use, and compares the references to blocks with the space maps' counts: a small `thin_check`.
    ///
    /// Of a metadata snapshot, which has no space maps, only the trees of devices and mappings are read.
    /// Each block is read at most twice. What is wrong is no error but a fault in the answer.
    pub fn check(&self) -> Consistency {
        let mut checker = Checker { metadata: self, visits: Visits::default(), count: Count::default() };
        checker.trees(self.superblock());
        let mut report = std::mem::take(&mut checker.count.report);
        if self.is_snapshot() {
            return report;
        }
        checker.count.report = report;
        checker.count.metadata.add(0);
        if let Some(root) = self.superblock().held_root {
            checker.count.metadata.add(root.0);
            match self.held_superblock(root) {
                Ok(held) => checker.held_trees(&held),
                Err(error) => checker.count.damage(error),
            }
        }
        checker.space_maps();
        report = std::mem::take(&mut checker.count.report);
        if !checker.count.damaged {
            report.counts_compared = true;
            let (data, metadata) = (SpaceMap::of_data(self), SpaceMap::of_metadata(self));
            for (space, map, counts) in [
                (Space::Data, data, &checker.count.data),
                (Space::Metadata, metadata, &checker.count.metadata),
            ] {
                if let Err(error) = compare(space, &map, counts, &mut report) {
                    report.counts_compared = false;
                    report.fault(Fault::Unreadable(error));
                }
            }
        }
        report
    }

    fn held_superblock(&self, root: MetaBlocks) -> Result<Superblock> {
        let block = self.block(root.0, BlockKind::Superblock)?;
        Superblock::parse(&block, root.0, self.device())
    }
}

/// What was counted, and found wrong on the way.
#[derive(Default)]
struct Count {
    data: Counts,
    metadata: Counts,
    /// Data blocks of the pool; none are known for a metadata snapshot.
    data_blocks: Option<u64>,
    damaged: bool,
    report: Consistency,
}

impl Count {
    fn damage(&mut self, error: Error) {
        self.damaged = true;
        self.report.fault(Fault::Unreadable(error));
    }
}

struct Checker<'a> {
    metadata: &'a Metadata,
    visits: Visits,
    count: Count,
}

/// What to do with a tree's entries.
struct Counting<'a, F> {
    metadata: &'a Metadata,
    count: &'a mut Count,
    entry: F,
}

impl<F: FnMut(&mut Count, u64, &[u8]) -> std::result::Result<(), String>> Visitor for Counting<'_, F> {
    fn refer(&mut self, block: u64) {
        self.count.refer(self.metadata, block);
    }

    fn entry(&mut self, leaf: u64, key: u64, value: &[u8]) -> Result<()> {
        (self.entry)(self.count, key, value)
            .map_err(|what| self.metadata.damaged(leaf, BlockKind::Node, what))
    }

    fn damage(&mut self, error: Error) {
        self.count.damage(error);
    }
}

impl Count {
    /// Blocks beyond the device are told where they are read.
    fn refer(&mut self, metadata: &Metadata, block: u64) {
        if block < metadata.blocks().0 {
            self.metadata.add(block);
        }
    }
}

impl Checker<'_> {
    fn walk(
        &mut self,
        tree: Tree,
        root: u64,
        entry: impl FnMut(&mut Count, u64, &[u8]) -> std::result::Result<(), String>,
    ) -> Option<u64> {
        let mut visitor = Counting { metadata: self.metadata, count: &mut self.count, entry };
        self.visits.walk(self.metadata, tree, root, &mut visitor)
    }

    /// The trees of devices and mappings, compared with each other.
    fn trees(&mut self, superblock: &Superblock) {
        self.count.data_blocks = (!self.metadata.is_snapshot()).then_some(superblock.data_space_map.blocks);
        let mut devices: BTreeMap<ThinId, DeviceDetails> = BTreeMap::new();
        let whole = self.walk(Tree::DETAILS, superblock.details_root, |_, key, value| {
            let id = thin_id(key)?;
            devices.insert(id, DeviceDetails::parse(id, value));
            Ok(())
        });
        self.count.report.devices = devices.len() as u64;
        let roots = self.mappings(superblock);
        for (id, mapped) in &roots {
            match (devices.remove(id), mapped) {
                (Some(details), Some(mapped)) if details.mapped.0 != *mapped => {
                    let fault = Fault::Mapped { id: *id, stored: details.mapped.0, counted: *mapped };
                    self.count.report.fault(fault);
                }
                (None, _) if whole.is_some() => self.count.report.fault(Fault::NoDevice(*id)),
                _ => {}
            }
        }
        // Where the upper tree is damaged, roots are missing for that reason.
        if !self.count.damaged {
            for id in devices.into_keys() {
                self.count.report.fault(Fault::NoMappings(id));
            }
        }
    }

    /// The mapping trees, with the number of mappings of each device; `None` for a damaged one.
    fn mappings(&mut self, superblock: &Superblock) -> BTreeMap<ThinId, Option<u64>> {
        let mut roots: Vec<(ThinId, u64)> = Vec::new();
        self.walk(Tree::TOP, superblock.mapping_root, |_, key, value| {
            roots.push((thin_id(key)?, Visits::root_of(value)));
            Ok(())
        });
        let mut mapped = BTreeMap::new();
        for (id, root) in roots {
            let below = self.walk(Tree::MAPPING, root, |count, key, value| {
                let data = Mapping::parse(value).data;
                if let Some(blocks) = count.data_blocks.filter(|blocks| data >= *blocks) {
                    return Err(format!(
                        "block {key} is mapped to data block {data}, and the pool has {blocks}"
                    ));
                }
                count.data.add(data);
                Ok(())
            });
            mapped.insert(id, below);
        }
        mapped
    }

    /// What a metadata snapshot refers to. Its nodes are mostly those of the pool.
    fn held_trees(&mut self, held: &Superblock) {
        self.walk(Tree::DETAILS, held.details_root, |_, key, _| thin_id(key).map(drop));
        self.mappings(held);
    }

    fn space_maps(&mut self) {
        let (data, metadata) = (SpaceMap::of_data(self.metadata), SpaceMap::of_metadata(self.metadata));
        let reader = self.metadata;
        self.walk(Tree::INDEX, data.root.bitmaps, |count, _, value| {
            count.refer(reader, IndexEntry::parse(value).block);
            Ok(())
        });
        self.count.refer(reader, metadata.root.bitmaps);
        match metadata.index() {
            Ok(entries) => entries.iter().for_each(|entry| self.count.refer(reader, entry.block)),
            Err(error) => self.count.damage(error),
        }
        for map in [data, metadata] {
            let blocks = map.root.blocks;
            self.walk(Tree::COUNTS, map.root.counts, |_, key, value| match u32_at(value, 0) {
                count if key >= blocks => {
                    Err(format!("it counts block {key} {count} times, and there are {blocks}"))
                }
                _ => Ok(()),
            });
        }
    }
}

fn thin_id(key: u64) -> std::result::Result<ThinId, String> {
    u32::try_from(key)
        .ok()
        .and_then(ThinId::new)
        .ok_or_else(|| format!("its key {key} is no thin id (24 bits)"))
}

/// A space map against what was counted.
fn compare(space: Space, map: &SpaceMap<'_>, counted: &Counts, report: &mut Consistency) -> Result<()> {
    let mut large = map.large_counts().peekable();
    let mut index = Index::of(map)?;
    let mut allocated = 0;
    let mut open: Option<Fault> = None;
    for number in 0..map.bitmaps() {
        let entry = index.next(map, number)?;
        let bitmap = Bitmap::read(map.metadata, entry.block)?;
        let first = number * PER_BITMAP;
        let mut free = 0;
        for (slot, block) in (first..map.blocks().min(first + PER_BITMAP)).enumerate() {
            let mut stored = u32::from(bitmap.get(slot));
            while large.peek().is_some_and(|next| next.as_ref().is_ok_and(|(key, _)| *key < block)) {
                large.next();
            }
            if stored == u32::from(MANY) {
                stored = match large.next() {
                    Some(Ok((key, count))) if key == block => count,
                    Some(Err(error)) => return Err(error),
                    _ => return Err(map.uncounted(block)),
                };
            }
            match stored {
                0 => free += 1,
                _ => allocated += 1,
            }
            let counted = counted.get(block);
            if stored != counted {
                differ(space, block, stored, counted, &mut open, report);
            }
        }
        // The last bitmap has more entries than there are blocks: the kernel counts those as free, and the tools do not.
        let beyond = u32::try_from((first + PER_BITMAP).saturating_sub(map.blocks())).unwrap_or(0);
        if free != entry.free && free + beyond != entry.free {
            open.take().into_iter().for_each(|fault| report.fault(fault));
            report.fault(Fault::Free { space, bitmap: number, stored: entry.free, counted: free });
        }
    }
    open.into_iter().for_each(|fault| report.fault(fault));
    if allocated != map.allocated() {
        report.fault(Fault::Allocated { space, stored: map.allocated(), counted: allocated });
    }
    Ok(())
}

/// Puts blocks that follow each other into one fault.
fn differ(
    space: Space,
    block: u64,
    now_stored: u32,
    now_counted: u32,
    open: &mut Option<Fault>,
    report: &mut Consistency,
) {
    if let Some(
        Fault::Leaked { first, blocks, stored, counted, .. }
        | Fault::Undercounted { first, blocks, stored, counted, .. },
    ) = open
        && *first + *blocks == block
        && (*stored, *counted) == (now_stored, now_counted)
    {
        *blocks += 1;
        return;
    }
    let (first, blocks, stored, counted) = (block, 1, now_stored, now_counted);
    let fault = if stored > counted {
        Fault::Leaked { space, first, blocks, stored, counted }
    } else {
        Fault::Undercounted { space, first, blocks, stored, counted }
    };
    if let Some(done) = open.replace(fault) {
        report.fault(done);
    }
}

/// The bitmaps of a space map, in order.
enum Index<'a> {
    Data(Cursor<'a>),
    Metadata(std::vec::IntoIter<IndexEntry>),
}

impl<'a> Index<'a> {
    fn of(map: &SpaceMap<'a>) -> Result<Self> {
        Ok(if map.is_of_data() {
            Self::Data(map.index_cursor())
        } else {
            Self::Metadata(map.index()?.into_iter())
        })
    }

    fn next(&mut self, map: &SpaceMap<'_>, number: u64) -> Result<IndexEntry> {
        let entry = match self {
            Self::Metadata(entries) => entries.next(),
            Self::Data(cursor) => {
                cursor.go_to_entry()?;
                let entry = match cursor.peek() {
                    Some(Item::Entry { key, value }) if key == number => Some(IndexEntry::parse(value)),
                    _ => None,
                };
                cursor.skip();
                entry
            }
        };
        entry.ok_or_else(|| map.incomplete(number))
    }
}
