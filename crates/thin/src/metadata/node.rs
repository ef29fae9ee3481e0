//! A node of a B-tree: header, keys, values.

use super::block::{Block, SIZE, u64_at};
use super::error::{BlockKind, Error, Result};
use crate::quantity::MetaBlocks;

pub(super) const HEADER: usize = 32;
pub(super) const INTERNAL: u32 = 1;
pub(super) const LEAF: u32 = 2;
/// No tree that the kernel makes is so deep: a node that is neither root nor leaf has at least 84 children.
pub(super) const DEEPEST: usize = 16;

/// One of the trees: what it is for, and how long its values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) name: &'static str,
    pub(super) value: usize,
}

impl Tree {
    pub(super) const DETAILS: Self = Self { name: "the tree of device details", value: 24 };
    pub(super) const TOP: Self = Self { name: "the upper mapping tree", value: 8 };
    pub(super) const MAPPING: Self = Self { name: "a device's mapping tree", value: 8 };
    pub(super) const INDEX: Self = Self { name: "the data space map's index", value: 16 };
    pub(super) const COUNTS: Self = Self { name: "a space map's tree of counts", value: 4 };
}

/// What a node must be, given how it was reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub(super) tree: Tree,
    /// Nodes above it.
    pub(super) depth: usize,
    /// The smallest key that it may have.
    pub(super) low: u64,
    /// All its keys are below this.
    pub(super) high: Option<u64>,
}

/// A node that was verified.
pub(super) struct Node {
    block: Box<Block>,
    number: u64,
    internal: bool,
    entries: usize,
    room: usize,
    value: usize,
}

impl Node {
    /// Verifies a block as a node that was reached so.
    pub(super) fn parse(block: Box<Block>, number: u64, expected: Expected, device: &str) -> Result<Self> {
        block.verify(number, BlockKind::Node, device)?;
        let Expected { tree, depth, low, high } = expected;
        let damaged = |what: String| {
            Err(Error::Damaged {
                device: device.into(),
                block: MetaBlocks(number),
                kind: BlockKind::Node,
                what: format!("in {}, {what}", tree.name),
            })
        };
        let (flags, entries, room, value) = (block.u32(4), block.u32(16), block.u32(20), block.u32(24));
        let internal = match flags {
            INTERNAL => true,
            LEAF => false,
            other => return damaged(format!("its flags are {other:#x}, neither inner node nor leaf")),
        };
        let wanted = if internal { 8 } else { tree.value };
        if value as usize != wanted {
            return damaged(format!("its values are {value} bytes long in place of {wanted}"));
        }
        if entries > room || room as usize > (SIZE - HEADER) / (8 + wanted) {
            return damaged(format!("it has {entries} entries in room for {room}"));
        }
        if entries == 0 && (depth > 0 || internal) {
            return damaged("it is empty".into());
        }
        if depth >= DEEPEST {
            return damaged(format!("it lies below {depth} others; no tree is so deep"));
        }
        let node =
            Self { block, number, internal, entries: entries as usize, room: room as usize, value: wanted };
        let mut last = None;
        for index in 0..node.entries {
            let key = node.key(index);
            if last.is_some_and(|last| last >= key) {
                return damaged(format!("its keys are out of order at entry {index}"));
            }
            last = Some(key);
        }
        if node.entries > 0 && node.key(0) < low {
            return damaged(format!(
                "its first key is {}, and the node above says at least {low}",
                node.key(0)
            ));
        }
        if let (Some(last), Some(high)) = (last, high)
            && last >= high
        {
            return damaged(format!("its last key is {last}, and the node above says below {high}"));
        }
        Ok(node)
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_internal(&self) -> bool {
        self.internal
    }

    pub(super) fn len(&self) -> usize {
        self.entries
    }

    pub(super) fn key(&self, index: usize) -> u64 {
        self.block.u64(HEADER + 8 * index)
    }

    pub(super) fn value(&self, index: usize) -> &[u8] {
        let start = HEADER + 8 * self.room + self.value * index;
        &self.block.bytes()[start..start + self.value]
    }

    /// Of an inner node, the child's block.
    pub(super) fn child(&self, index: usize) -> u64 {
        u64_at(self.value(index), 0)
    }

    /// What the child must be.
    pub(super) fn expected_child(&self, index: usize, own: Expected) -> Expected {
        Expected {
            tree: own.tree,
            depth: own.depth + 1,
            low: self.key(index),
            high: if index + 1 < self.entries { Some(self.key(index + 1)) } else { own.high },
        }
    }
}
