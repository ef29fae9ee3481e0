//! A walk through a tree in the order of its keys, which may leave out what lies below a node.

use super::error::{BlockKind, Result};
use super::node::{Expected, Node, Tree};
use super::reader::Metadata;
use crate::quantity::ThinId;

/// What comes next.
pub(super) enum Item<'a> {
    /// A node that is not read yet.
    Node {
        /// Its block.
        block: u64,
        /// No key in it is smaller.
        low: u64,
    },
    /// An entry of a leaf.
    Entry { key: u64, value: &'a [u8] },
}

struct Frame {
    node: Node,
    expected: Expected,
    index: usize,
}

/// A place in a tree. Each node of a tree is met at most once, since no two have keys in common.
pub(super) struct Cursor<'a> {
    metadata: &'a Metadata,
    tree: Tree,
    root: Option<u64>,
    frames: Vec<Frame>,
    /// How deep the leaves lie, once one is known.
    leaves: Option<usize>,
}

impl<'a> Cursor<'a> {
    /// Before the root, which is not read yet.
    pub(super) fn new(metadata: &'a Metadata, tree: Tree, root: u64) -> Self {
        Self { metadata, tree, root: Some(root), frames: Vec::new(), leaves: None }
    }

    /// What comes next; `None` at the end.
    pub(super) fn peek(&self) -> Option<Item<'_>> {
        if let Some(block) = self.root {
            return Some(Item::Node { block, low: 0 });
        }
        let frame = self.frames.last()?;
        let key = frame.node.key(frame.index);
        Some(if frame.node.is_internal() {
            Item::Node { block: frame.node.child(frame.index), low: key }
        } else {
            Item::Entry { key, value: frame.node.value(frame.index) }
        })
    }

    /// Goes past what comes next, with all that lies below it.
    pub(super) fn skip(&mut self) {
        if self.root.take().is_some() {
            return;
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.index += 1;
        }
        self.leave();
    }

    /// Reads the node that comes next: then its first child or entry comes next.
    pub(super) fn descend(&mut self) -> Result<()> {
        let (block, expected) = match (self.root, self.frames.last()) {
            (Some(root), _) => (root, Expected { tree: self.tree, depth: 0, low: 0, high: None }),
            (None, Some(frame)) if frame.node.is_internal() => {
                (frame.node.child(frame.index), frame.node.expected_child(frame.index, frame.expected))
            }
            _ => return Ok(()),
        };
        // After an error the walk goes on behind the node.
        self.skip_only();
        let node = match self.metadata.node(block, expected) {
            Ok(node) => node,
            Err(error) => {
                self.leave();
                return Err(error);
            }
        };
        if !node.is_internal() && *self.leaves.get_or_insert(expected.depth) != expected.depth {
            self.leave();
            let what = format!("in {}, its leaves do not all lie as deep", self.tree.name);
            return Err(self.metadata.damaged(block, BlockKind::Node, what));
        }
        self.frames.push(Frame { node, expected, index: 0 });
        self.leave();
        Ok(())
    }

    fn skip_only(&mut self) {
        if self.root.take().is_none()
            && let Some(frame) = self.frames.last_mut()
        {
            frame.index += 1;
        }
    }

    /// Drops nodes that are at their end.
    fn leave(&mut self) {
        while self.frames.last().is_some_and(|frame| frame.index >= frame.node.len()) {
            self.frames.pop();
        }
    }

    /// Reads nodes until an entry comes next, or the end. After an error the walk can go on behind the damage.
    pub(super) fn go_to_entry(&mut self) -> Result<()> {
        while let Some(Item::Node { .. }) = self.peek() {
            self.descend()?;
        }
        Ok(())
    }

    /// Goes to the first entry whose key is not smaller, or to the end.
    pub(super) fn seek(&mut self, key: u64) -> Result<()> {
        loop {
            match self.peek() {
                None => return Ok(()),
                Some(Item::Entry { key: at, .. }) if at >= key => return Ok(()),
                Some(Item::Entry { .. }) => {
                    let Some(frame) = self.frames.last_mut() else { return Ok(()) };
                    frame.index = first_from(&frame.node, key);
                    self.leave();
                }
                Some(Item::Node { .. }) => {
                    // The last child whose first key is not larger.
                    if self.root.is_none()
                        && let Some(frame) = self.frames.last_mut()
                    {
                        let after = first_from(&frame.node, key);
                        let holds = after < frame.node.len() && frame.node.key(after) == key;
                        frame.index = frame.index.max(if holds { after } else { after.saturating_sub(1) });
                    }
                    self.descend()?;
                }
            }
        }
    }

    /// A key as a thin id.
    pub(super) fn thin_id(&self, key: u64) -> Result<ThinId> {
        u32::try_from(key).ok().and_then(ThinId::new).ok_or_else(|| {
            let leaf = self.frames.last().map_or(0, |frame| frame.node.number());
            let what = format!("in {}, its key {key} is no thin id (24 bits)", self.tree.name);
            self.metadata.damaged(leaf, BlockKind::Node, what)
        })
    }

    /// Learns how deep the leaves lie, by reading down to the first.
    pub(super) fn measure(&mut self) -> Result<()> {
        if let Some(root) = self.root {
            let mut scout = Cursor::new(self.metadata, self.tree, root);
            scout.go_to_entry()?;
            self.leaves = scout.leaves;
        }
        Ok(())
    }

    /// How deep the leaves lie below the node or entry that comes next; `None` if no leaf was read yet.
    pub(super) fn height(&self) -> Option<usize> {
        let below = if self.root.is_some() { 0 } else { self.frames.len() };
        self.leaves.map(|leaves| (leaves + 1).saturating_sub(below))
    }
}

/// The first entry of a node whose key is not smaller.
fn first_from(node: &Node, key: u64) -> usize {
    let (mut low, mut high) = (0, node.len());
    while low < high {
        let middle = low.midpoint(high);
        if node.key(middle) < key {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}
