//! Writes a tar stream: POSIX ustar, with a PAX extended header before what does not fit.

use crate::entry::{Entry, EntryKind};
use crate::error::{Error, ErrorKind, Result};
use crate::extended::{REMOVED_XATTR, XATTR};
use crate::header::{BLOCK, Header};
use crate::pax;
use crate::sparse;
use std::io::Write;

const ACTION: &str = "write the stream";

/// A tar stream that is being written. The same entries give the same bytes: nothing of the time, the machine or the user goes in.
///
/// | what | how |
/// | --- | --- |
/// | name or link of more than 100 bytes | split at a slash if that does; else a PAX record, raw and with `hdrcharset=BINARY` if it is no UTF-8 |
/// | owner, group, size, time that the fields do not hold; nanoseconds | PAX records |
/// | extended attributes | PAX `SCHILY.xattr.` records, binary |
/// | holes | GNU's PAX sparse form 1.0 |
#[derive(Debug)]
pub struct Writer<W> {
    target: W,
    /// Bytes of the current entry's data that are still to come, and of what fills its last block.
    left: u64,
    padding: usize,
    position: u64,
}

impl<W: Write> Writer<W> {
    /// A writer of an uncompressed stream. It writes in pieces of 512 bytes and more; give it a target with a buffer.
    pub fn new(target: W) -> Self {
        Self { target, left: 0, padding: 0, position: 0 }
    }

    /// Writes an entry's headers. [`Entry::stored`] bytes of data have to follow.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] if data of the entry before is missing; [`ErrorKind::Limit`] if an extended header would have more than 1 MiB,
    /// which readers refuse; those of the target.
    pub fn entry(&mut self, entry: &Entry) -> Result<()> {
        self.pad().and_then(|()| self.headers(entry)).map_err(|error| error.of(&entry.path))
    }

    /// Writes more of the current entry's data.
    ///
    /// # Errors
    /// [`ErrorKind::Changed`] if it is more than the headers told; those of the target.
    pub fn data(&mut self, data: &[u8]) -> Result<()> {
        let bytes = data.len() as u64;
        if bytes > self.left {
            return Err(Error::new(ErrorKind::Changed, ACTION, "there is more data than its header says"));
        }
        self.left -= bytes;
        self.put(data)
    }

    /// Writes the end-of-archive marker; gives the target back, and how many bytes it got in all.
    ///
    /// # Errors
    /// As of [`Writer::entry`].
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.pad()?;
        self.put(&[0; 2 * BLOCK])?;
        self.target.flush().map_err(|error| Error::io(ACTION, "its target failed", error))?;
        Ok((self.target, self.position))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.target.write_all(bytes).map_err(|error| Error::io(ACTION, "its target failed", error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        if self.left > 0 {
            let missing = self.left;
            let why = format!("{missing} bytes of the data that its header tells are missing");
            return Err(Error::new(ErrorKind::Changed, ACTION, why));
        }
        let padding = std::mem::take(&mut self.padding);
        self.put(&[0; BLOCK][..padding])
    }

    fn headers(&mut self, entry: &Entry) -> Result<()> {
        let mut header = Header::new(flag(entry.kind));
        let mut records = Vec::new();
        let map = entry.sparse.as_ref().map(|extents| sparse::text(extents, entry.size));
        let stored = map.as_ref().map_or(0, |map| map.len() as u64) + entry.stored();

        put_names(&mut header, &mut records, entry);
        header.put_mode(entry.mode);
        let mut record = |fits: bool, key: &[u8], value: String| {
            if !fits {
                pax::put(&mut records, key, value.as_bytes());
            }
        };
        record(header.put_uid(entry.uid), b"uid", entry.uid.to_string());
        record(header.put_gid(entry.gid), b"gid", entry.gid.to_string());
        record(header.put_size(stored), b"size", stored.to_string());
        let whole = header.put_mtime(entry.mtime.seconds) && entry.mtime.nanoseconds == 0;
        record(whole, b"mtime", pax::time_text(entry.mtime));
        if !header.put_device(entry.device) {
            return Err(Error::new(ErrorKind::Limit, ACTION, "its device number does not fit a tar header"));
        }
        for xattr in &entry.xattrs {
            pax::put(&mut records, &[XATTR, &pax::encode_name(&xattr.name)].concat(), &xattr.value);
        }
        for name in &entry.removed_xattrs {
            pax::put(&mut records, &[REMOVED_XATTR, &pax::encode_name(name)].concat(), b"1");
        }
        self.extended(&records, &entry.path)?;
        header.seal();
        self.put(&header.0)?;
        self.left = stored;
        self.padding = padding(stored);
        if let Some(map) = map {
            self.left -= map.len() as u64;
            self.put(&map)?;
        }
        Ok(())
    }

    fn extended(&mut self, records: &[u8], path: &[u8]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        if records.len() > 1 << 20 {
            let why = format!(
                "its extended attributes and names take {} bytes, more than readers accept (1 MiB)",
                records.len()
            );
            return Err(Error::new(ErrorKind::Limit, ACTION, why));
        }
        let mut header = Header::new(b'x');
        // Only programs that do not know PAX see this name.
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        header.put_name(&[b"PaxHeaders/", &last[..last.len().min(80)]].concat());
        header.put_mode(0o644);
        header.put_size(records.len() as u64);
        header.seal();
        self.put(&header.0)?;
        self.put(records)?;
        self.put(&[0; BLOCK][..padding(records.len() as u64)])
    }
}

fn padding(bytes: u64) -> usize {
    usize::try_from(bytes.wrapping_neg() % BLOCK as u64).unwrap_or_default()
}

/// Name and link, in records where the fields are too small.
fn put_names(header: &mut Header, records: &mut Vec<u8>, entry: &Entry) {
    let mut names: Vec<(&[u8], &[u8])> = Vec::new();
    if entry.sparse.is_some() {
        // A program that does not know the form makes a file of this name, with the map in it, and not the real one.
        header.put_name(b"GNUSparseFile.0/sparse");
        names.push((b"GNU.sparse.name", &entry.path));
    } else if !header.put_name(&entry.path) {
        names.push((b"path", &entry.path));
    }
    if !header.put_link(&entry.link) {
        names.push((b"linkpath", &entry.link));
    }
    if names.iter().any(|(_, name)| std::str::from_utf8(name).is_err()) {
        pax::put(records, b"hdrcharset", b"BINARY");
    }
    if entry.sparse.is_some() {
        pax::put(records, b"GNU.sparse.major", b"1");
        pax::put(records, b"GNU.sparse.minor", b"0");
        pax::put(records, b"GNU.sparse.realsize", entry.size.to_string().as_bytes());
    }
    for (key, name) in names {
        pax::put(records, key, name);
    }
}

fn flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Regular => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}
