//! What a block device holds: nothing, garbage, or a file system with a small tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thinlayer_filesystem::Kind;

/// Something in a file system's tree. Paths in it are relative to its root, which is always there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Dir { mode: u32, uid: u32, gid: u32 },
    File { content: Arc<Vec<u8>>, first_block: Option<u64> },
}

/// A file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) kind: Kind,
    pub(crate) uuid: String,
    /// In bytes.
    pub(crate) size: u64,
    pub(crate) nodes: BTreeMap<PathBuf, Node>,
    /// The pool's blocks that are free on the device, from here on.
    pub(crate) next_block: u64,
}

impl Image {
    /// Is this a folder? The root is one.
    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || matches!(self.nodes.get(path), Some(Node::Dir { .. }))
    }

    /// The names in a folder, with whether each is a folder.
    pub(crate) fn list(&self, path: &Path) -> Vec<(String, bool)> {
        self.nodes
            .iter()
            .filter(|(at, _)| at.parent() == Some(path))
            .filter_map(|(at, node)| {
                Some((at.file_name()?.to_str()?.to_owned(), matches!(node, Node::Dir { .. })))
            })
            .collect()
    }
}

/// What a device holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Content {
    /// Zeroes, or nothing that was ever written.
    #[default]
    Blank,
    /// Bytes that mean nothing, such as a file system that was made only in part.
    Garbage,
    /// A signature of something that is only named.
    Signature(String),
    /// A file system, as it stands on the device: what was not written out is not in it.
    Filesystem(Arc<Image>),
}
