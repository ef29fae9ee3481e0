//! What differs between the mappings of two thin devices: [`Difference`].

use super::cursor::{Cursor, Item};
use super::error::Result;
use super::mapping::Mapping;
use super::node::Tree;
use super::reader::Metadata;
use crate::quantity::ThinId;
use std::cmp::Ordering;

/// Which of two devices has a block there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first alone.
    Left,
    /// The second alone.
    Right,
    /// Both, and not the same one.
    Both,
}

/// Blocks of two thin devices that follow each other, and do not lie on the same data blocks.
///
/// Blocks that do may not differ in content; blocks that do not may still hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The first block of the thin devices.
    pub start: u64,
    /// How many.
    pub len: u64,
    /// Which device has blocks there.
    pub side: Side,
}

/// The differences of two thin devices, by block. Nodes that both share are not read. After an error the walk goes on behind the damage.
pub struct Differences<'a> {
    left: Cursor<'a>,
    right: Cursor<'a>,
    measured: bool,
    open: Option<Difference>,
}

impl std::fmt::Debug for Differences<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Differences").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Metadata {
    /// What differs between the mappings of two thin devices.
    ///
    /// # Errors
    /// [`super::Error::NoSuchId`]; [`super::Error::Damaged`]; [`super::Error::Read`].
    pub fn differences(&self, left: ThinId, right: ThinId) -> Result<Differences<'_>> {
        let cursor = |id| Ok(Cursor::new(self, Tree::MAPPING, self.mapping_root(id)?));
        Ok(Differences { left: cursor(left)?, right: cursor(right)?, measured: false, open: None })
    }
}

/// What to do next, decided from what comes next on both sides.
enum Step {
    End,
    SkipBoth,
    Descend { left: bool, right: bool },
    Give { block: u64, side: Side },
    Equal,
}

impl Differences<'_> {
    fn step(&self) -> Step {
        match (self.left.peek(), self.right.peek()) {
            (None, None) => Step::End,
            (Some(Item::Entry { key, .. }), None) => Step::Give { block: key, side: Side::Left },
            (None, Some(Item::Entry { key, .. })) => Step::Give { block: key, side: Side::Right },
            (Some(Item::Node { .. }), None) => Step::Descend { left: true, right: false },
            (None, Some(Item::Node { .. })) => Step::Descend { left: false, right: true },
            (Some(Item::Node { block: left, .. }), Some(Item::Node { block: right, .. }))
                if left == right =>
            {
                Step::SkipBoth
            }
            // Nodes of the same height are met together, so that shared ones are seen.
            (Some(Item::Node { .. }), Some(Item::Node { .. })) => {
                match self.left.height().cmp(&self.right.height()) {
                    Ordering::Greater => Step::Descend { left: true, right: false },
                    Ordering::Less => Step::Descend { left: false, right: true },
                    Ordering::Equal => self.lower_first(),
                }
            }
            (Some(Item::Node { low, .. }), Some(Item::Entry { key, .. })) if low > key => {
                Step::Give { block: key, side: Side::Right }
            }
            (Some(Item::Node { .. }), Some(Item::Entry { .. })) => Step::Descend { left: true, right: false },
            (Some(Item::Entry { key, .. }), Some(Item::Node { low, .. })) if low > key => {
                Step::Give { block: key, side: Side::Left }
            }
            (Some(Item::Entry { .. }), Some(Item::Node { .. })) => Step::Descend { left: false, right: true },
            (
                Some(Item::Entry { key: left, value: on_left }),
                Some(Item::Entry { key: right, value: on_right }),
            ) => match left.cmp(&right) {
                Ordering::Less => Step::Give { block: left, side: Side::Left },
                Ordering::Greater => Step::Give { block: right, side: Side::Right },
                Ordering::Equal if Mapping::parse(on_left).data == Mapping::parse(on_right).data => {
                    Step::Equal
                }
                Ordering::Equal => Step::Give { block: left, side: Side::Both },
            },
        }
    }

    /// Of two nodes of the same height the one whose keys begin earlier, or both.
    fn lower_first(&self) -> Step {
        let low = |cursor: &Cursor<'_>| match cursor.peek() {
            Some(Item::Node { low, .. }) => low,
            _ => u64::MAX,
        };
        let (left, right) = (low(&self.left), low(&self.right));
        Step::Descend { left: left <= right, right: right <= left }
    }

    /// Adds a block, and answers with the range that ends before it.
    fn add(&mut self, block: u64, side: Side) -> Option<Difference> {
        match &mut self.open {
            Some(open) if open.side == side && open.start + open.len == block => {
                open.len += 1;
                None
            }
            open => open.replace(Difference { start: block, len: 1, side }),
        }
    }
}

impl Iterator for Differences<'_> {
    type Item = Result<Difference>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.measured {
            self.measured = true;
            if let Err(error) = self.left.measure().and_then(|()| self.right.measure()) {
                return Some(Err(error));
            }
        }
        loop {
            let done = match self.step() {
                Step::End => return self.open.take().map(Ok),
                Step::SkipBoth | Step::Equal => {
                    self.left.skip();
                    self.right.skip();
                    continue;
                }
                Step::Descend { left, right } => {
                    let mut read = Ok(());
                    if left {
                        read = self.left.descend();
                    }
                    if right {
                        read = read.and(self.right.descend());
                    }
                    match read {
                        Ok(()) => continue,
                        Err(error) => return Some(Err(error)),
                    }
                }
                Step::Give { block, side } => {
                    if side != Side::Right {
                        self.left.skip();
                    }
                    if side != Side::Left {
                        self.right.skip();
                    }
                    self.add(block, side)
                }
            };
            if let Some(done) = done {
                return Some(Ok(done));
            }
        }
    }
}
