//! A walk through nodes that trees share: each is read once, however many refer to it.

use super::block::u64_at;
use super::error::{BlockKind, Error, Result};
use super::node::{Expected, Node, Tree};
use super::reader::Metadata;
use std::collections::HashMap;

/// What is known of the nodes that were read.
#[derive(Debug, Default)]
pub(super) struct Visits {
    /// By block: in which tree the node is, and how many mappings lie below it.
    seen: HashMap<u64, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    tree: &'static str,
    below: Option<u64>,
    shared: bool,
}

/// What a walk meets.
pub(super) trait Visitor {
    /// Something refers to this block, which is not the first time if it is shared.
    fn refer(&mut self, block: u64);

    /// An entry of a leaf that is read for the first time. The leaf's block comes first.
    ///
    /// # Errors
    /// What is wrong with it, which does not end the walk.
    fn entry(&mut self, leaf: u64, key: u64, value: &[u8]) -> Result<()>;

    /// A node cannot be read, or holds something wrong.
    fn damage(&mut self, error: Error);
}

/// A node whose children or entries are being looked at.
struct Frame {
    node: Node,
    expected: Expected,
    index: usize,
    below: u64,
    whole: bool,
}

impl Visits {
    /// Walks a tree from its root. Answers how many entries the tree has; `None` if something in it is damaged.
    pub(super) fn walk(
        &mut self,
        metadata: &Metadata,
        tree: Tree,
        root: u64,
        visitor: &mut dyn Visitor,
    ) -> Option<u64> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut answer =
            self.enter(metadata, root, Expected { tree, depth: 0, low: 0, high: None }, visitor, &mut frames);
        while let Some(frame) = frames.last_mut() {
            if let Some(below) = answer.take() {
                frame.below = frame.below.saturating_add(below.unwrap_or(0));
                frame.whole &= below.is_some();
            }
            if frame.node.is_internal() && frame.index < frame.node.len() {
                let child = frame.node.child(frame.index);
                let expected = frame.node.expected_child(frame.index, frame.expected);
                frame.index += 1;
                answer = self.enter(metadata, child, expected, visitor, &mut frames);
            } else if let Some(done) = frames.pop() {
                let below = done.whole.then_some(done.below);
                if let Some(seen) = self.seen.get_mut(&done.node.number()) {
                    seen.below = below;
                }
                answer = Some(below);
            }
        }
        answer.flatten()
    }

    /// Looks at a node. Answers at once if it need not be read: what lies below it, or `None` for damage.
    fn enter(
        &mut self,
        metadata: &Metadata,
        block: u64,
        expected: Expected,
        visitor: &mut dyn Visitor,
        frames: &mut Vec<Frame>,
    ) -> Option<Option<u64>> {
        visitor.refer(block);
        let tree = expected.tree.name;
        if let Some(seen) = self.seen.get_mut(&block) {
            seen.shared = true;
            if seen.tree != tree {
                let what = format!("it is a node of {} and of {tree}", seen.tree);
                visitor.damage(metadata.damaged(block, BlockKind::Node, what));
                return Some(None);
            }
            // One that is still being read has no answer yet: then the tree runs in a circle.
            if frames.iter().any(|frame| frame.node.number() == block) {
                let what = format!("in {tree}, it lies below itself");
                visitor.damage(metadata.damaged(block, BlockKind::Node, what));
                return Some(None);
            }
            return Some(seen.below);
        }
        let node = match metadata.node(block, expected) {
            Ok(node) => node,
            Err(error) => {
                // Only blocks of the device are remembered, which bounds the memory.
                if block < metadata.blocks().0 {
                    self.seen.insert(block, Seen { tree, below: None, shared: false });
                }
                visitor.damage(error);
                return Some(None);
            }
        };
        self.seen.insert(block, Seen { tree, below: None, shared: false });
        let (mut below, mut whole) = (0, true);
        if !node.is_internal() {
            for index in 0..node.len() {
                below += 1;
                if let Err(error) = visitor.entry(block, node.key(index), node.value(index)) {
                    whole = false;
                    visitor.damage(error);
                }
            }
        }
        frames.push(Frame { node, expected, index: 0, below, whole });
        None
    }

    /// More than one refers to this node.
    pub(super) fn is_shared(&self, block: u64) -> bool {
        self.seen.get(&block).is_some_and(|seen| seen.shared)
    }

    /// The roots of the devices' trees: the entries of the upper mapping tree.
    pub(super) fn root_of(value: &[u8]) -> u64 {
        u64_at(value, 0)
    }
}
