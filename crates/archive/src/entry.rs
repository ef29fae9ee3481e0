//! What a tar entry says of a file.

/// Seconds and nanoseconds since 1970-01-01 00:00 UTC. Before it, the seconds are negative and the nanoseconds count upwards from them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// 0 to 999 999 999.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A whole second.
    pub const fn at(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }
}

/// What kind of file an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EntryKind {
    /// A regular file, with data.
    Regular,
    /// One more name of a file that the stream, or a lower layer, holds already.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A FIFO.
    Fifo,
}

/// One extended attribute. Names are of any bytes but NUL, values of any bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Xattr {
    /// With its namespace, such as `security.capability`.
    pub name: Vec<u8>,
    /// As the kernel gives it.
    pub value: Vec<u8>,
}

/// A run of data in a sparse file; what lies between runs is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Bytes from the file's start.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// One entry: the header, with its extended headers worked in. The data follows it in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name as the stream has it: any bytes but NUL, not cleaned.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: EntryKind,
    /// A hard link's other name in the stream, a symbolic link's target; else empty.
    pub link: Vec<u8>,
    /// Permissions, set-id bits and sticky bit: at most 0o7777.
    pub mode: u32,
    /// The owner. Never `u32::MAX`, which the kernel takes for "leave it".
    pub uid: u32,
    /// The group. Never `u32::MAX`.
    pub gid: u32,
    /// Last modification.
    pub mtime: Timestamp,
    /// Bytes of the file, with its holes; 0 unless it is a regular file.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, ACLs included in the kernel's own form.
    pub xattrs: Vec<Xattr>,
    /// Names of extended attributes that a directory of the lower layers has and this one has not (this crate's own record).
    pub removed_xattrs: Vec<Vec<u8>>,
    /// ACLs that the stream gives with names of users or groups and without their numbers, which are not known here: the attributes' names.
    pub acls_by_name: Vec<Vec<u8>>,
    /// Where the data belongs if the file has holes; in order, without overlap, within `size`.
    pub sparse: Option<Vec<Extent>>,
}

impl Entry {
    /// An entry of this kind and name with mode 0, owner 0:0, time 0 and nothing else.
    pub fn new(kind: EntryKind, path: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.into(),
            kind,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            removed_xattrs: Vec::new(),
            acls_by_name: Vec::new(),
            sparse: None,
        }
    }

    /// Bytes of data in the stream: the size without the holes.
    pub fn stored(&self) -> u64 {
        match &self.sparse {
            Some(extents) => extents.iter().map(|extent| extent.length).sum(),
            None => self.size,
        }
    }
}
