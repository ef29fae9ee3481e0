//! Unpacks a layer into a tree.

use crate::decompress::Decompressed;
use crate::entry::{Entry, EntryKind, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::IdMaps;
use crate::name::{Name, Purpose, clean, purpose};
use crate::node::{At, set_directory_time};
use crate::parents::{Folder, Parents};
use crate::reader::{ReadOptions, Reader};
use crate::remove;
use crate::tree::{Id, Tree, metadata_of};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::os::fd::AsFd;

const ACTION: &str = "apply";
/// Attributes left out that are told by name.
const MOST_TOLD: usize = 100;

/// How a layer is unpacked.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// Limits on the stream, and whether its end must be marked.
    pub read: ReadOptions,
    /// Numbers of users and groups in the layer become those on disk.
    pub ids: IdMaps,
    /// Take names that begin with a slash for names below the tree's root, as Docker does. Else they are an error.
    pub absolute_names: bool,
    /// Is an attribute that the file system refuses an error? Else, as with Docker, it is left out and told in [`Applied`].
    pub all_xattrs: bool,
}

/// What an apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries, deletions included.
    pub entries: u64,
    /// The sum of all entries' sizes, holes included, in bytes: what Docker takes for a layer's size.
    pub size: u64,
    /// Extended attributes that were left out.
    pub skipped_xattrs: u64,
    /// The first hundred of them: the entry's name, and the attribute's.
    pub skipped_xattr_names: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Unpacks a layer's stream (tar, or tar in gzip or zstd) over what `tree` holds: the lower layers.
///
/// Nothing outside the tree is made, changed or read, whatever the stream says: names with `..` and absolute names are refused, folders
/// are found as in a chroot (a link to `/etc` leads to the tree's `etc`), no mount is entered, and the last part of a name is never followed.
/// Device nodes and set-id programs are made as the stream says, so mount a tree that nobody should run `nosuid,nodev`.
///
/// | entry | effect |
/// | --- | --- |
/// | directory | made, or its metadata set and its content kept |
/// | any other file | made in place of what has its name |
/// | hard link | one more name of a file of this layer or of a lower one |
/// | `.wh.NAME` | NAME is deleted |
/// | `.wh..wh..opq` | what lower layers have in the folder is deleted; what this layer has, before or after, stays |
/// | other `.wh..wh.` names at the root | ignored: aufs's own |
///
/// Missing folders are made with mode 0755, owned by the layer's root user. Directories get their times last. It does not sync.
///
/// # Errors
/// They name the entry, and the place in the stream. After an error the tree holds a part of the layer: throw it away.
///
/// # Privileges
/// Runs as root, or with `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_MKNOD`, `CAP_SETFCAP`, and `CAP_SYS_ADMIN` for `trusted.`
/// attributes. `/proc` has to be mounted.
///
/// # References
/// OCI image specification, `layer.md`.
pub fn apply(tree: &Tree, stream: impl Read, options: &ApplyOptions) -> Result<Applied> {
    let stream = Decompressed::new(stream).map_err(|error| {
        let mut error = Error::io("read the stream", "its source failed", error);
        if error.source.as_ref().is_some_and(|source| source.kind() == std::io::ErrorKind::Unsupported) {
            error.kind = ErrorKind::Unsupported;
        }
        error
    })?;
    let mut reader = Reader::new(stream, options.read.clone());
    let ids = &options.ids;
    let owner = ids.uid_outside(0).zip(ids.gid_outside(0)).ok_or_else(|| {
        Error::new(ErrorKind::Refused, ACTION, "the ranges that are mapped leave out the layer's root user")
    })?;
    let mut applying = Applying {
        tree,
        options,
        parents: Parents::new(tree, owner),
        unpacked: Unpacked::default(),
        directories: Vec::new(),
        done: Applied::default(),
    };
    while let Some(entry) = reader.next_entry()? {
        let offset = reader.entry_offset();
        applying.entry(&entry, &mut reader).map_err(|error| error.of(&entry.path).at(offset))?;
    }
    applying.finish()
}

pub(crate) struct Applying<'a> {
    tree: &'a Tree,
    pub(crate) options: &'a ApplyOptions,
    pub(crate) parents: Parents<'a>,
    unpacked: Unpacked,
    /// Those whose times are set last.
    directories: Vec<(Box<[u8]>, Id, Timestamp)>,
    done: Applied,
}

/// What this layer has made, by folder and name: an opaque marker spares it. Of each a hash of 128 bits is kept, with a key that no
/// stream knows.
#[derive(Default)]
struct Unpacked {
    keys: (RandomState, RandomState),
    made: HashSet<u128>,
}

impl Unpacked {
    fn hash(&self, folder: Id, name: &[u8]) -> u128 {
        let whole = (folder, name);
        let (high, low) = (self.keys.0.hash_one(whole), self.keys.1.hash_one(whole));
        (u128::from(high) << 64) | u128::from(low)
    }

    fn insert(&mut self, folder: Id, name: &[u8]) {
        let hash = self.hash(folder, name);
        self.made.insert(hash);
    }

    fn contains(&self, folder: Id, name: &CStr) -> bool {
        self.made.contains(&self.hash(folder, name.to_bytes()))
    }
}

impl Applying<'_> {
    fn entry(&mut self, entry: &Entry, stream: &mut Reader<impl Read>) -> Result<()> {
        self.done.entries += 1;
        self.done.size = self.done.size.saturating_add(entry.size);
        let name = clean(&entry.path, self.options.absolute_names)?;
        match purpose(&name)? {
            Purpose::Root => self.root(entry),
            Purpose::Ignored => Ok(()),
            Purpose::File(Name { parent, last }) => {
                let folder = self.folder(parent)?;
                self.make(At { folder: &folder, name: last }, entry, stream)?;
                self.unpacked.insert(folder.id, last);
                Ok(())
            }
            Purpose::Whiteout(Name { parent, last }) => {
                let folder = self.folder(parent)?;
                self.remove(At { folder: &folder, name: last })
            }
            Purpose::Opaque(path) => self.opaque(path),
        }
    }

    fn folder(&mut self, path: &[u8]) -> Result<std::rc::Rc<Folder>> {
        let unpacked = &mut self.unpacked;
        self.parents.make(path, &mut |(folder, name)| unpacked.insert(folder.id, &name))
    }

    fn root(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != EntryKind::Directory {
            return Err(Error::new(ErrorKind::Refused, ACTION, "the tree's root can only be a directory"));
        }
        let owner = self.options.ids.uid_outside(entry.uid).zip(self.options.ids.gid_outside(entry.gid));
        let owner = owner.ok_or_else(|| {
            Error::new(ErrorKind::Refused, ACTION, "its owner or group is outside the ranges that are mapped")
        })?;
        let folder = self.parents.existing(b"")?;
        let root = self.tree.folder(b"")?;
        self.describe_directory(&root, At { folder: &folder, name: b"." }, entry, owner, false)?;
        // A default ACL of the root may be new.
        self.parents.forget();
        Ok(())
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        let folder = self.folder(path)?;
        self.parents.forget();
        let unpacked = &self.unpacked;
        remove::remove_unless(folder.fd(), c".", &|folder, name| unpacked.contains(folder, name), 0).map_err(
            |errno| {
                Error::system(ACTION, b"", "what lower layers have in its folder cannot be deleted", errno)
            },
        )
    }

    pub(crate) fn skip_xattr(&mut self, entry: &[u8], name: &[u8]) {
        self.done.skipped_xattrs += 1;
        if self.done.skipped_xattr_names.len() < MOST_TOLD {
            self.done.skipped_xattr_names.push((entry.to_vec(), name.to_vec()));
        }
    }

    pub(crate) fn times_last(&mut self, entry: &Entry, id: Id) -> Result<()> {
        let name = clean(&entry.path, self.options.absolute_names)?;
        // A default ACL is new, or gone.
        if entry.xattrs.iter().any(|xattr| xattr.name == crate::acl::DEFAULT)
            || !entry.removed_xattrs.is_empty()
        {
            self.parents.forget();
        }
        self.directories.push((name.into(), id, entry.mtime));
        Ok(())
    }

    fn finish(mut self) -> Result<Applied> {
        for (path, id, mtime) in std::mem::take(&mut self.directories) {
            self.directory_time(&path, id, mtime)
                .map_err(|errno| Error::system(ACTION, &path, "its time cannot be set", errno))?;
        }
        Ok(self.done)
    }

    /// A directory that the layer itself has replaced since has no time to get.
    fn directory_time(&self, path: &[u8], id: Id, mtime: Timestamp) -> nix::Result<()> {
        let resolve =
            ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let path = CString::new(if path.is_empty() { b"." } else { path }).map_err(|_| Errno::EINVAL)?;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        let directory = match crate::tree::resolved(self.tree.root(), path.to_bytes(), how) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            answer => answer?,
        };
        if metadata_of(directory.as_fd())?.id == id { set_directory_time(&directory, mtime) } else { Ok(()) }
    }
}
