//! What was added, modified and deleted between two trees.

use crate::compare::CompareOptions;
use crate::error::Result;
use crate::tree::{Id, Tree};
use crate::walk::{Found, walk};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What happened to a path. The values are Docker's in its plugin protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// In both trees, and different; or a directory that holds a change.
    Modified = 0,
    /// Only in the new tree.
    Added = 1,
    /// Only in the old tree. What was in a deleted directory is not told of.
    Deleted = 2,
}

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Change {
    /// From the tree's root, with a slash before it.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// As `docker diff` prints it: `C /etc`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            ChangeKind::Modified => 'C',
            ChangeKind::Added => 'A',
            ChangeKind::Deleted => 'D',
        };
        write!(f, "{letter} {}", self.path.display())
    }
}

/// Tells `found` of all changes from `old` to `new`; without an old tree everything is added. The order is that of the paths' bytes, a
/// directory before what is in it. The root itself is never told of.
///
/// Under [`crate::Rules::Docker`] these are Docker's own, with one exception: a directory that became a socket or block device is one
/// modification, without a deletion of every name that was in it.
///
/// Memory grows with the largest directory, with the number of directories that hold changes, and under [`crate::Rules::Full`] with the number of files that
/// have several names; not with the trees.
///
/// # Errors
/// Those of reading the trees, and what `found` answers.
///
/// # Privileges
/// To see `trusted.` attributes needs `CAP_SYS_ADMIN`; to read others' files `CAP_DAC_READ_SEARCH`.
pub fn changes(
    old: Option<&Tree>,
    new: &Tree,
    options: &CompareOptions,
    mut found: impl FnMut(Change) -> Result<()>,
) -> Result<()> {
    walk(old, new, options, &mut |name: Found<'_>| {
        let kind = match (&name.old, &name.new) {
            (Some(_), Some(_)) => ChangeKind::Modified,
            (None, _) => ChangeKind::Added,
            (_, None) => ChangeKind::Deleted,
        };
        found(Change { path: Path::new("/").join(OsStr::from_bytes(name.path)), kind })
    })
}

/// The bytes of what was added or modified, without directories; a file with several names counts once. With
/// [`CompareOptions::docker`] it is what Docker's driver answers as a layer's size.
///
/// # Errors
/// As of [`changes`].
pub fn diff_size(old: Option<&Tree>, new: &Tree, options: &CompareOptions) -> Result<u64> {
    let mut bytes = 0;
    let mut counted: HashSet<Id> = HashSet::new();
    walk(old, new, options, &mut |name: Found<'_>| {
        if let Some(new) = name.new.filter(|new| !new.is_directory())
            && (new.links < 2 || counted.insert(new.id))
        {
            bytes += new.size;
        }
        Ok(())
    })?;
    Ok(bytes)
}
