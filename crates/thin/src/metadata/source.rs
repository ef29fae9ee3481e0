//! Where metadata is read from: [`ReadAt`], and devices and files as [`DeviceSource`].

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{Bytes, DeviceNumber};

/// Something that can be read at any place: a file, a device, bytes in memory.
pub trait ReadAt: fmt::Debug + Send + Sync {
    /// Fills the buffer from there. Buffers are 4096 bytes, aligned to that, and so is the place.
    ///
    /// # Errors
    /// If the system refuses, or the end comes before the buffer is full.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// How much there is.
    ///
    /// # Errors
    /// If the system refuses.
    fn size(&self) -> io::Result<Bytes>;
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let range =
            usize::try_from(offset).ok().and_then(|start| self.get(start..start.checked_add(buffer.len())?));
        buffer.copy_from_slice(range.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> io::Result<Bytes> {
        Ok(Bytes(self.len() as u64))
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Arc<T> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<Bytes> {
        (**self).size()
    }
}

impl<T: ReadAt + ?Sized> ReadAt for Box<T> {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<Bytes> {
        (**self).size()
    }
}

/// Where metadata lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// On a block device.
    Device(DeviceNumber),
    /// On the block device or in the file of this path.
    Path(&'a Path),
}

/// Opens metadata devices: those of the machine ([`SystemDevices`]) or of a simulation.
pub trait MetadataDevices: fmt::Debug + Send + Sync {
    /// Opens a device or a file for reading alone, past the page cache.
    ///
    /// # Errors
    /// If it is not there, or the system refuses.
    fn open(&self, place: Place<'_>) -> io::Result<Box<dyn ReadAt>>;
}

/// The machine's own devices and files.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDevices;

impl MetadataDevices for SystemDevices {
    fn open(&self, place: Place<'_>) -> io::Result<Box<dyn ReadAt>> {
        let number = match place {
            Place::Path(path) => return Ok(Box::new(DeviceSource::open(path)?)),
            Place::Device(number) => number,
        };
        // The kernel knows the node's name, whether udev runs or not.
        let facts = std::fs::read_to_string(format!("/sys/dev/block/{number}/uevent"))?;
        let name = facts.lines().find_map(|line| line.strip_prefix("DEVNAME="));
        let name = name.ok_or_else(|| io::Error::other(format!("block device {number} has no name")))?;
        let source = DeviceSource::open(&Path::new("/dev").join(name))?;
        let opened = source.0.metadata()?;
        if !opened.file_type().is_block_device() || DeviceNumber::from_stat(opened.rdev()) != number {
            return Err(io::Error::other(format!("/dev/{name} is not block device {number}")));
        }
        Ok(Box::new(source))
    }
}

/// A block device or a file, opened for reading alone.
#[derive(Debug)]
pub struct DeviceSource(File);

impl DeviceSource {
    /// Opens it past the page cache, where it can be read so.
    ///
    /// The kernel's own writes to a metadata device do not go through the page cache of that device, which may hold what was read earlier.
    ///
    /// # Errors
    /// What `open` says.
    ///
    /// # Privileges
    /// To read the device: in practice root.
    pub fn open(path: &Path) -> io::Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(nix::libc::O_DIRECT).open(path);
        match direct {
            // Files on a file system without direct reads have one cache, which is right.
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => File::open(path).map(Self),
            other => other.map(Self),
        }
    }
}

impl ReadAt for DeviceSource {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<Bytes> {
        // Of a block device, the length in its attributes is 0.
        (&self.0).seek(SeekFrom::End(0)).map(Bytes)
    }
}
