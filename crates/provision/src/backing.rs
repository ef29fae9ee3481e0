//! The door of this crate: the trait [`Backing`], which [`crate::System`] implements by system calls, and its values.

use crate::error::Result;
use crate::superblock::Superblock;
use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};
use thinlayer_dm::{Bytes, DeviceNumber};

/// How much of a file's size is really there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Blocks come when they are written (the data file).
    Sparse,
    /// All blocks are allocated before the call returns (the metadata file): a full host file system then cannot break the pool.
    Full,
}

/// What [`Backing::ensure_file`] found or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// The file was made.
    Created,
    /// It was smaller, and grew.
    Grown {
        /// Its size before.
        from: Bytes,
    },
    /// It was there, of this size.
    AsItWas,
    /// It is larger than asked for and stays so: files never shrink.
    Larger {
        /// Its size.
        size: Bytes,
    },
}

/// A backing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its length.
    pub size: Bytes,
    /// What its blocks take on the host.
    pub allocated: Bytes,
    /// `st_dev` of the file system that holds it.
    pub dev: u64,
    /// Its inode there.
    pub inode: u64,
}

/// How a file is attached to a loop device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Refuse writes. Then it may be a block device as well as a file: whoever has the loop device cannot write to what is below.
    pub read_only: bool,
    /// Show no more than so many bytes of it, a whole number of sectors.
    pub limit: Option<Bytes>,
}

impl AttachOptions {
    /// Refuse writes.
    pub const READ_ONLY: Self = Self { read_only: true, limit: None };
}

/// A file attached to a loop device by us.
///
/// The device frees itself (autoclear) when nobody has it open any more; this value keeps it open. Once a table stands on the device, drop it.
pub struct Attachment {
    /// The loop device's node.
    pub node: PathBuf,
    /// Its number.
    pub number: DeviceNumber,
    /// Its size.
    pub size: Bytes,
    /// The page cache is bypassed below it.
    pub direct_io: bool,
    /// Keeps it open.
    pub guard: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("node", &self.node)
            .field("number", &self.number)
            .field("size", &self.size)
            .field("direct_io", &self.direct_io)
            .finish_non_exhaustive()
    }
}

/// A loop device that is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopDevice {
    /// Its number.
    pub number: DeviceNumber,
    /// Its node.
    pub node: PathBuf,
    /// The file's path as the kernel tells it (may end in ` (deleted)`).
    pub file: PathBuf,
    /// `st_dev` of the file system that holds the file.
    pub dev: u64,
    /// The file's inode there.
    pub inode: u64,
    /// It frees itself at the last close.
    pub autoclear: bool,
    /// It bypasses the page cache.
    pub direct_io: bool,
    /// It refuses writes.
    pub read_only: bool,
}

/// A block device that somebody named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Its number.
    pub number: DeviceNumber,
    /// Its size.
    pub size: Bytes,
    /// It refuses writes.
    pub read_only: bool,
    /// What its first and last blocks say is on it, such as `ext4`, `LVM2_member`, `thin-pool metadata`, `gpt`.
    pub signature: Option<String>,
    /// Who uses it, in words: mount points, devices that stand on it, swap, an exclusive opener.
    pub users: Vec<String>,
}

/// Is somebody told how far a long step is? Called with the bytes done and the bytes in all.
pub type Progress<'a> = &'a (dyn Fn(Bytes, Bytes) + Sync);

/// All that the driver asks of backing files, loop devices and block devices, on the real kernel or on a simulated one.
///
/// An implementation may be shared by threads. No method starts a process.
///
/// # Privileges
/// `CAP_SYS_ADMIN`.
pub trait Backing: fmt::Debug + Send + Sync {
    /// A backing file's facts; `None` if there is no file.
    ///
    /// # Errors
    /// If the path is something else than a file, or cannot be looked at.
    fn file(&self, path: &Path) -> Result<Option<FileInfo>>;

    /// Makes a backing file (mode 0600), or grows it; never shrinks it. Durable when it returns.
    ///
    /// With [`Allocation::Full`] a file that is there is filled up too where it has holes; its content stays.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NoSpace`] with the room that is missing; a file that it was making is removed again, one that was there keeps its size.
    fn ensure_file(&self, path: &Path, size: Bytes, allocation: Allocation) -> Result<Ensured>;

    /// Gives back a backing file's room and removes it; durable when it returns. `false` if there is no file.
    ///
    /// The room is free for others when it returns, also where the host file system frees blocks in the background.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Busy`] if a loop device holds the file; otherwise if the path is something else than a file, or cannot be removed.
    fn remove_file(&self, path: &Path) -> Result<bool>;

    /// Attaches a file (with [`AttachOptions::read_only`] also a block device) to a free loop device in one step (`LOOP_CONFIGURE`), with its true name, autoclear, and direct I/O where the file system can.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Busy`] if another loop device holds the same file.
    fn attach(&self, path: &Path, options: AttachOptions) -> Result<Attachment>;

    /// All loop devices in use, as far as it can be told which file they hold: one that cannot be opened here (a container without its node, a device control
    /// group) is known by its file's path, and left out where that leads nowhere. Writes nothing.
    ///
    /// # Errors
    /// If they cannot be listed.
    fn loops(&self) -> Result<Vec<LoopDevice>>;

    /// Takes a file from its loop device (`LOOP_CLR_FD`). Where something still has the device open, it goes at the last close.
    ///
    /// # Errors
    /// If it is no loop device in use.
    fn detach(&self, number: DeviceNumber) -> Result<()>;

    /// Makes a loop device see its file's new size (`LOOP_SET_CAPACITY`); the size that it has now.
    ///
    /// # Errors
    /// If it is no loop device in use.
    fn refresh_size(&self, number: DeviceNumber) -> Result<Bytes>;

    /// A block device's facts, without changing anything.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`], or [`crate::ErrorKind::Invalid`] if it is no block device.
    fn inspect(&self, path: &Path) -> Result<BlockDevice>;

    /// What the first block of a pool's metadata says, in a file or on a device, without changing anything. No file is the same as a blank one.
    ///
    /// # Errors
    /// If it cannot be read.
    fn superblock(&self, path: &Path) -> Result<Superblock>;

    /// Discards a whole device, at most `rate` bytes a second where one is given. A device that cannot discard is no error: `false`.
    ///
    /// # Errors
    /// If it cannot be opened or fails.
    fn discard(&self, device: &Path, rate: Option<Bytes>, progress: Progress<'_>) -> Result<bool>;
}
