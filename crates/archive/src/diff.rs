//! What changed between two trees, as an OCI layer.

use crate::acl;
use crate::compare::{CompareOptions, Rules, Verdict, by_metadata, fill};
use crate::entry::{Entry, EntryKind, Extent, Timestamp, Xattr};
use crate::error::{Error, ErrorKind, Result, shown};
use crate::holes;
use crate::ids::IdMaps;
use crate::sys::Node;
use crate::tree::{Id, LONGEST_PATH, Metadata, Tree, metadata_of, open_file, target, xattrs};
use crate::walk::{Found, walk};
use crate::writer::Writer;
use nix::errno::Errno;
use nix::sys::stat::SFlag;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;

const ACTION: &str = "archive";
const BUFFER: usize = 256 << 10;
pub(crate) const WHITEOUT: &[u8] = b".wh.";
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// How a layer is made.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions {
    /// How the trees are compared. Under [`Rules::Docker`] the stream is what Docker's own differ writes, too: times in whole seconds,
    /// `security.capability` alone, nothing of the root, holes filled.
    pub compare: CompareOptions,
    /// Numbers of users and groups on disk become those in the layer.
    pub ids: IdMaps,
    /// The time that entries have which say that something was deleted. Docker takes the time of day; 1970, the default, makes equal
    /// streams of equal trees.
    pub whiteout_time: Timestamp,
}

impl DiffOptions {
    /// As Docker's differ; `now` is the time that deletions get.
    pub fn docker(now: Timestamp) -> Self {
        Self { compare: CompareOptions::docker(), whiteout_time: now, ..Self::default() }
    }
}

/// What a diff wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diffed {
    /// Entries, deletions included.
    pub entries: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Sockets, which no layer can hold, and which were left out.
    pub sockets: u64,
}

/// Writes to `target` the layer that makes `new` of `old`; without an old tree, the layer that holds all of `new`. The same trees give the same
/// bytes, if their files' holes are the same.
///
/// # Errors
/// Those of reading the trees and of the target. [`ErrorKind::Refused`]: a name begins with `.wh.`, which in a layer says that
/// something is deleted (Docker's rules let it pass). [`ErrorKind::Changed`]: a file became shorter, or another one, while it was read.
/// After an error the stream has no end-of-archive marker.
///
/// # Privileges
/// As of [`crate::changes`].
///
/// # References
/// OCI image specification, `layer.md`.
pub fn diff(old: Option<&Tree>, new: &Tree, target: impl Write, options: &DiffOptions) -> Result<Diffed> {
    let mut differ = Differ {
        old,
        new,
        options,
        writer: Writer::new(BufWriter::with_capacity(BUFFER, target)),
        first_names: HashMap::new(),
        buffer: vec![0; BUFFER],
        told_root: options.compare.rules == Rules::Docker,
        done: Diffed::default(),
    };
    if old.is_none() || differ.root_differs()? {
        differ.root()?;
    }
    walk(old, new, &options.compare, &mut |found| differ.found(&found))?;
    let (_, bytes) = differ.writer.finish()?;
    Ok(Diffed { bytes, ..differ.done })
}

struct Differ<'a, W: Write> {
    old: Option<&'a Tree>,
    new: &'a Tree,
    options: &'a DiffOptions,
    writer: Writer<BufWriter<W>>,
    /// Of files with more names to come: the first, and how many are left.
    first_names: HashMap<Id, (Vec<u8>, u64)>,
    buffer: Vec<u8>,
    told_root: bool,
    done: Diffed,
}

impl<W: Write> Differ<'_, W> {
    fn is_docker(&self) -> bool {
        self.options.compare.rules == Rules::Docker
    }

    fn root_differs(&self) -> Result<bool> {
        let Some(old) = self.old.filter(|_| !self.is_docker()) else { return Ok(false) };
        let stat =
            |tree: &Tree| metadata_of(tree.root()).map_err(|errno| failed(b".", "it cannot be read", errno));
        let (one, other) = (stat(old)?, stat(self.new)?);
        if one.id == other.id {
            return Ok(false);
        }
        Ok(match by_metadata(&one, &other, Rules::Full) {
            Verdict::Same => false,
            Verdict::Different => true,
            Verdict::Look => {
                let attributes = |tree: &Tree| {
                    xattrs(Node::Open(tree.root())).map_err(|errno| failed(b".", "it cannot be read", errno))
                };
                attributes(old)? != attributes(self.new)?
            }
        })
    }

    /// The root's own entry comes first.
    fn root(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.told_root, true) {
            return Ok(());
        }
        let read = |errno| failed(b"./", "it cannot be read", errno);
        let new = metadata_of(self.new.root()).map_err(read)?;
        let old = self.old.map(|old| xattrs(Node::Open(old.root()))).transpose().map_err(read)?;
        let mut entry = self.entry(EntryKind::Directory, b"./".to_vec(), &new)?;
        let attributes = xattrs(Node::Open(self.new.root())).map_err(read)?;
        entry.removed_xattrs = removed(old.unwrap_or_default(), &attributes);
        entry.xattrs = self.mapped(attributes, b"./")?;
        self.put(&entry)
    }

    fn put(&mut self, entry: &Entry) -> Result<()> {
        self.done.entries += 1;
        self.writer.entry(entry)
    }

    fn found(&mut self, found: &Found<'_>) -> Result<()> {
        self.root()?;
        let is_socket = |file: &Metadata| file.kind == SFlag::S_IFSOCK;
        match (&found.old, &found.new) {
            (_, None) => self.whiteout(found),
            (old, Some(new)) if is_socket(new) => {
                self.done.sockets += 1;
                // What the socket took the place of must not come back.
                if old.as_ref().is_some_and(|old| !is_socket(old)) && !self.is_docker() {
                    self.whiteout(found)?;
                }
                Ok(())
            }
            (_, Some(new)) => self.file(found, new),
        }
    }

    fn whiteout(&mut self, found: &Found<'_>) -> Result<()> {
        let name = found.name.to_bytes();
        let folder = &found.path[..found.path.len() - name.len()];
        let mut entry = Entry::new(EntryKind::Regular, [folder, WHITEOUT, name].concat());
        entry.mtime = self.options.whiteout_time;
        self.put(&entry)
    }

    fn entry(&self, kind: EntryKind, path: Vec<u8>, new: &Metadata) -> Result<Entry> {
        let no_number = |what, id| {
            let why = format!("its {what} {id} is outside the ranges that are mapped");
            Error::new(ErrorKind::Refused, ACTION, why).of(&path)
        };
        let uid = self.options.ids.uid_inside(new.uid).ok_or_else(|| no_number("owner", new.uid))?;
        let gid = self.options.ids.gid_inside(new.gid).ok_or_else(|| no_number("group", new.gid))?;
        let mut entry = Entry::new(kind, path);
        entry.mode = new.mode();
        (entry.uid, entry.gid) = (uid, gid);
        entry.mtime = new.mtime;
        if self.is_docker() {
            entry.mtime.nanoseconds = 0;
        }
        if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            entry.device = new.device;
        }
        Ok(entry)
    }

    fn file(&mut self, found: &Found<'_>, new: &Metadata) -> Result<()> {
        let path = found.path;
        if !self.is_docker() && found.name.to_bytes().starts_with(WHITEOUT) {
            let why = "its name begins with \".wh.\", which in a layer means a deletion; rename it, or no layer can hold it";
            return Err(Error::new(ErrorKind::Refused, ACTION, why).of(path));
        }
        if path.len() > LONGEST_PATH {
            return Err(Error::new(
                ErrorKind::Limit,
                ACTION,
                format!("its path has {} bytes, more than the kernel takes ({LONGEST_PATH})", path.len()),
            )
            .of(path));
        }
        if let Some(first) = self.first_name(path, new) {
            let mut entry = self.entry(EntryKind::HardLink, path.to_vec(), new)?;
            entry.link = first;
            return self.put(&entry);
        }
        let kind = match new.kind {
            SFlag::S_IFREG => return self.regular(found, new),
            SFlag::S_IFDIR => EntryKind::Directory,
            SFlag::S_IFLNK => EntryKind::Symlink,
            SFlag::S_IFCHR => EntryKind::CharDevice,
            SFlag::S_IFBLK => EntryKind::BlockDevice,
            SFlag::S_IFIFO => EntryKind::Fifo,
            _ => return Err(Error::new(ErrorKind::Unsupported, ACTION, "its type is not known").of(path)),
        };
        let read = |errno| failed(path, "it cannot be read", errno);
        let mut name = path.to_vec();
        if kind == EntryKind::Directory {
            name.push(b'/');
        }
        let mut entry = self.entry(kind, name, new)?;
        if kind == EntryKind::Symlink {
            entry.link = target(found.new_folder, found.name).map_err(read)?;
        }
        let attributes =
            self.attributes(Node::Named(found.new_folder, found.name.to_bytes())).map_err(read)?;
        if let (EntryKind::Directory, Some(old), Some(folder), false) =
            (kind, &found.old, found.old_folder, self.is_docker())
            && old.is_directory()
        {
            let old = xattrs(Node::Named(folder, found.name.to_bytes())).map_err(read)?;
            entry.removed_xattrs = removed(old, &attributes);
        }
        entry.xattrs = self.mapped(attributes, path)?;
        self.put(&entry)
    }

    /// The first name of a file that has several, if it was sent.
    fn first_name(&mut self, path: &[u8], new: &Metadata) -> Option<Vec<u8>> {
        if new.links < 2 || new.is_directory() {
            return None;
        }
        let Some((first, left)) = self.first_names.get_mut(&new.id) else {
            self.first_names.insert(new.id, (path.to_vec(), new.links - 1));
            return None;
        };
        *left -= 1;
        if *left == 0 {
            return self.first_names.remove(&new.id).map(|(first, _)| first);
        }
        Some(first.clone())
    }

    fn attributes(&self, node: Node<'_>) -> nix::Result<Vec<Xattr>> {
        if !self.is_docker() {
            return xattrs(node);
        }
        match node.get(c"security.capability") {
            Ok(value) => Ok(vec![Xattr { name: CAPABILITY.to_vec(), value }]),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    /// Numbers in ACLs, and in capabilities of a user namespace, become the layer's.
    fn mapped(&self, mut attributes: Vec<Xattr>, path: &[u8]) -> Result<Vec<Xattr>> {
        let ids = &self.options.ids;
        for Xattr { name, value } in &mut attributes {
            if name == CAPABILITY {
                if let Some(root) = capability_root(value)
                    && (self.is_docker() || (!ids.is_identity() && ids.uid_inside(root) == Some(0)))
                {
                    drop_capability_root(value);
                }
            } else if !ids.is_identity() && (name == acl::ACCESS || name == acl::DEFAULT) {
                *value = acl::map_ids(value, |uid| ids.uid_inside(uid), |gid| ids.gid_inside(gid))
                    .ok_or_else(|| {
                        let why = format!(
                            "its {} names a user or group outside the ranges that are mapped",
                            shown(name)
                        );
                        Error::new(ErrorKind::Refused, ACTION, why).of(path)
                    })?;
            }
        }
        Ok(attributes)
    }

    fn regular(&mut self, found: &Found<'_>, new: &Metadata) -> Result<()> {
        let path = found.path;
        let read = |errno| failed(path, "it cannot be read", errno);
        let file = open_file(found.new_folder, found.name).map_err(read)?;
        let opened = metadata_of(&file).map_err(read)?;
        if opened.id != new.id || opened.kind != new.kind {
            return Err(changed("it became another file while it was read").of(path));
        }
        let mut entry = self.entry(EntryKind::Regular, path.to_vec(), &opened)?;
        let attributes = self.attributes(Node::Open(file.as_fd())).map_err(read)?;
        entry.xattrs = self.mapped(attributes, path)?;
        entry.size = opened.size;
        if !self.is_docker() && opened.allocated < opened.size {
            entry.sparse = holes::runs(file.as_fd(), opened.size).map_err(read)?;
        }
        self.put(&entry)?;
        let whole = [Extent { offset: 0, length: entry.size }];
        let file = File::from(file);
        for extent in entry.sparse.as_deref().unwrap_or(&whole) {
            self.copy(&file, *extent).map_err(|error| error.of(path))?;
        }
        Ok(())
    }

    fn copy(&mut self, file: &File, extent: Extent) -> Result<()> {
        let mut done = 0;
        while done < extent.length {
            let most = usize::try_from(extent.length - done).unwrap_or(usize::MAX).min(BUFFER);
            let read = fill(file, &mut self.buffer[..most], extent.offset + done)
                .map_err(|error| Error::io(ACTION, "it cannot be read", error))?;
            if read == 0 {
                return Err(changed("it became shorter while it was read"));
            }
            self.writer.data(&self.buffer[..read])?;
            done += read as u64;
        }
        Ok(())
    }
}

fn failed(path: &[u8], why: &str, errno: Errno) -> Error {
    Error::system(ACTION, path, why, errno)
}

fn changed(why: &str) -> Error {
    Error::new(ErrorKind::Changed, ACTION, why)
}

/// Names that only the old directory has.
fn removed(old: Vec<Xattr>, new: &[Xattr]) -> Vec<Vec<u8>> {
    let is_gone = |old: &Xattr| new.iter().all(|new| new.name != old.name);
    old.into_iter().filter(is_gone).map(|old| old.name).collect()
}

/// `VFS_CAP_REVISION_3` of `linux/capability.h`: the capabilities hold in the namespace whose root user is this one.
fn capability_root(value: &[u8]) -> Option<u32> {
    match value {
        [_, _, _, 3, .., a, b, c, d] if value.len() == 24 => Some(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}

/// The same in revision 2, which has no root user.
fn drop_capability_root(value: &mut Vec<u8>) {
    value.truncate(20);
    value[3] = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_of_a_namespace_become_plain() {
        let mut value = [&0x0300_0001_u32.to_le_bytes()[..], &[7; 16], &100_000_u32.to_le_bytes()].concat();
        assert_eq!(capability_root(&value), Some(100_000));
        drop_capability_root(&mut value);
        assert_eq!(value, [&0x0200_0001_u32.to_le_bytes()[..], &[7; 16]].concat());
        assert_eq!(capability_root(&value), None);
    }
}
