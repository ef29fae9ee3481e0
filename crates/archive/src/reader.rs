//! Reads a tar stream of any form, entry by entry, with bounded memory.

use crate::entry::{Entry, EntryKind, Extent, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::extended::{Extended, check_global, malformed};
use crate::header::{BLOCK, Header, NotANumber};
use crate::sparse::{self, TextMap};
use std::io::{BufRead, BufReader, Read};

/// Bytes that the records or the long name before one entry may take.
const MOST_EXTENDED: u64 = 1 << 20;
const BUFFER: usize = 256 << 10;
const ACTION: &str = "read the stream";

/// How strictly a stream is read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Bytes that the stream may have, unpacked. Without it a small compressed stream may fill a disk. Default: no limit.
    pub limit: Option<u64>,
    /// Must the stream end in two blocks of zeros, as POSIX wants it? Then a stream that was cut off between two entries is an error.
    /// `false` is for streams whose digest is checked by others. Default: true.
    pub end_required: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { limit: None, end_required: true }
    }
}

/// A tar stream: POSIX ustar and PAX, GNU (long names, all sparse forms), star, and the format before them.
///
/// It checks what makes readers disagree, and answers with an error: a checksum that does not fit, two headers for one purpose, a
/// PAX record that lies about its length, names with NULs, numbers out of range, sparse maps that do not fit their data.
/// Names are given as they stand; to judge them is for who makes files of them.
#[derive(Debug)]
pub struct Reader<R> {
    source: BufReader<R>,
    options: ReadOptions,
    /// Bytes taken from the stream.
    position: u64,
    /// Where the current entry's first header begins.
    start: u64,
    /// Bytes of the current entry's data, and of what fills its last block.
    left: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// A reader of an uncompressed stream.
    pub fn new(stream: R, options: ReadOptions) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER, stream),
            options,
            position: 0,
            start: 0,
            left: 0,
            padding: 0,
            ended: false,
        }
    }

    /// The next entry; data of the one before that was not read is passed over. `None` is the end of the archive; what follows it
    /// in the stream is then read, and ignored, so that whoever writes the stream is not cut off.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`], [`ErrorKind::Truncated`], [`ErrorKind::Limit`], [`ErrorKind::Unsupported`], and those of the stream's source.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        let entry = self.skip_data().and_then(|()| {
            self.start = self.position;
            self.entry()
        });
        let start = self.start;
        entry.map_err(|error| {
            self.ended = true;
            error.at(start)
        })
    }

    /// Where the current entry's first header begins, in bytes from the stream's start.
    pub fn entry_offset(&self) -> u64 {
        self.start
    }

    /// More of the current entry's data: without its holes, in order; empty at its end. [`Reader::consume`] goes on.
    ///
    /// # Errors
    /// As of [`Reader::next_entry`].
    pub fn data(&mut self) -> Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let start = self.start;
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let room = self.room(most).map_err(|error| error.at(start))?;
        let data = self
            .source
            .fill_buf()
            .map_err(|error| Error::io(ACTION, "its source failed", error).at(start))?;
        if data.is_empty() {
            return Err(truncated("the stream ends within the entry's data").at(start));
        }
        Ok(&data[..data.len().min(room)])
    }

    /// Takes bytes of what [`Reader::data`] gave.
    pub fn consume(&mut self, bytes: usize) {
        self.source.consume(bytes);
        self.position += bytes as u64;
        self.left -= bytes as u64;
    }

    /// How many of `most` bytes the limit still allows; none left is an error.
    fn room(&self, most: usize) -> Result<usize> {
        let Some(limit) = self.options.limit else { return Ok(most) };
        // One byte more, since only that byte shows that there is more than the limit.
        match limit.saturating_add(1).saturating_sub(self.position) {
            0 => Err(Error::new(
                ErrorKind::Limit,
                ACTION,
                format!(
                    "it has more than the {limit} bytes that are allowed; give it a larger limit if it is to be trusted"
                ),
            )),
            room => Ok(most.min(usize::try_from(room).unwrap_or(usize::MAX))),
        }
    }

    /// Fills the buffer, or as much of it as the stream still has.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let room = self.room(buffer.len() - filled)?;
            let read = self.source.read(&mut buffer[filled..filled + room]);
            match read {
                Ok(0) => break,
                Ok(bytes) => {
                    filled += bytes;
                    self.position += bytes as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io(ACTION, "its source failed", error)),
            }
        }
        Ok(filled)
    }

    fn block(&mut self) -> Result<Header> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            BLOCK => Ok(Header(block)),
            _ => Err(truncated("the stream ends within a header")),
        }
    }

    fn skip_data(&mut self) -> Result<()> {
        while self.left > 0 {
            let bytes = self.data()?.len();
            self.consume(bytes);
        }
        let mut rest = [0; BLOCK];
        let padding = usize::try_from(std::mem::take(&mut self.padding)).unwrap_or(BLOCK);
        if self.fill(&mut rest[..padding])? < padding {
            return Err(truncated("the stream ends within the entry's last block"));
        }
        Ok(())
    }

    fn expect(&mut self, bytes: u64) {
        self.left = bytes;
        self.padding = bytes.wrapping_neg() % BLOCK as u64;
    }

    fn entry(&mut self) -> Result<Option<Entry>> {
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header(&extended)? else { return Ok(None) };
            match header.kind() {
                b'x' | b'X' => extended.records(&self.payload(&header)?)?,
                b'g' => check_global(&self.payload(&header)?)?,
                b'L' => extended.long_path(&self.payload(&header)?)?,
                b'K' => extended.long_link(&self.payload(&header)?)?,
                // A volume's label.
                b'V' if extended.is_empty() => self.expect(field(header.size(), "size")?),
                kind => return self.finish(&header, kind, extended).map(Some),
            }
            self.skip_data()?;
        }
    }

    /// The next header, or none at the archive's end.
    fn header(&mut self, extended: &Extended) -> Result<Option<Header>> {
        let mut block = [0; BLOCK];
        match self.fill(&mut block)? {
            BLOCK => {}
            0 if !self.options.end_required && extended.is_empty() => {
                self.ended = true;
                return Ok(None);
            }
            0 => return Err(truncated("the stream ends without an end-of-archive marker")),
            _ => return Err(truncated("the stream ends within a header")),
        }
        let header = Header(block);
        if !header.is_zero() {
            if !header.checksum_fits() {
                return Err(malformed("a header's checksum is wrong: this is no tar, or it is damaged"));
            }
            return Ok(Some(header));
        }
        if !extended.is_empty() {
            return Err(malformed("the archive ends behind an extended header"));
        }
        match self.fill(&mut block)? {
            0 if !self.options.end_required => {}
            BLOCK if Header(block).is_zero() => {}
            BLOCK => return Err(malformed("a block of zeros lies between entries")),
            _ => return Err(truncated("the stream ends within its end-of-archive marker")),
        }
        self.drain()?;
        Ok(None)
    }

    /// What follows the end: fill-up to a tape's record.
    fn drain(&mut self) -> Result<()> {
        self.ended = true;
        let mut rest = vec![0; 64 << 10];
        while self.fill(&mut rest)? > 0 {}
        Ok(())
    }

    /// The data of an entry that only describes the next.
    fn payload(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = field(header.size(), "size")?;
        if size > MOST_EXTENDED {
            return Err(Error::new(
                ErrorKind::Limit,
                ACTION,
                format!("an extended header has {size} bytes, more than {MOST_EXTENDED}"),
            ));
        }
        self.expect(size);
        let mut payload = vec![0; usize::try_from(size).unwrap_or_default()];
        let filled = self.fill(&mut payload)?;
        self.left = 0;
        if filled < payload.len() {
            return Err(truncated("the stream ends within an extended header"));
        }
        Ok(payload)
    }

    fn finish(&mut self, header: &Header, flag: u8, extended: Extended) -> Result<Entry> {
        let path = extended.path.or(extended.long_path).unwrap_or_else(|| header.name());
        self.describe(header, flag, Extended { path: None, long_path: None, ..extended }, path.clone())
            .map_err(|error| error.of(&path))
    }

    fn describe(&mut self, header: &Header, flag: u8, extended: Extended, path: Vec<u8>) -> Result<Entry> {
        let mut entry = Entry::new(kind_of(flag, &path)?, path);
        entry.link = extended.link.or(extended.long_link).unwrap_or_else(|| header.link().to_vec());
        let mode = field(header.mode(), "mode")?;
        entry.mode = u32::try_from(mode & 0o7777).unwrap_or_default();
        entry.uid = id(extended.uid, header.uid(), "uid")?;
        entry.gid = id(extended.gid, header.gid(), "gid")?;
        entry.mtime = match extended.mtime {
            Some(time) => time,
            None => Timestamp::at(number(header.mtime(), "mtime")?),
        };
        entry.xattrs = extended.xattrs;
        entry.removed_xattrs = extended.removed_xattrs;
        entry.acls_by_name = extended.acls_by_name;
        match entry.kind {
            EntryKind::CharDevice | EntryKind::BlockDevice => entry.device = device(header)?,
            EntryKind::Regular => self.size(header, flag, &mut entry, extended.size, extended.sparse)?,
            // The size of anything else is no data: Go, GNU tar and Python agree at least on links.
            _ => {}
        }
        if entry.kind != EntryKind::Regular && flag == b'S' {
            return Err(malformed("only a regular file can be sparse"));
        }
        if !matches!(entry.kind, EntryKind::HardLink | EntryKind::Symlink) {
            entry.link.clear();
        }
        Ok(entry)
    }

    fn size(
        &mut self,
        header: &Header,
        flag: u8,
        entry: &mut Entry,
        size: Option<u64>,
        records: Option<crate::extended::Sparse>,
    ) -> Result<()> {
        let stored = match size {
            Some(size) => size,
            None => field(header.size(), "size")?,
        };
        if stored > i64::MAX.unsigned_abs() - BLOCK as u64 {
            return Err(malformed("its size is out of range"));
        }
        let map = match (flag, records) {
            (b'S', None) => Some(self.old_map(header, stored)?),
            (b'S', Some(_)) => return Err(malformed("it is sparse in two ways")),
            (_, Some(records)) => {
                let real = records.size.ok_or_else(|| malformed("it is sparse, but its size is not told"))?;
                if records.in_data()? {
                    Some(self.map_in_data(stored, real)?)
                } else {
                    Some((records.extents, real, stored))
                }
            }
            (_, None) => None,
        };
        entry.size = stored;
        let mut data = stored;
        if let Some((extents, real, stored)) = map {
            if real > i64::MAX.unsigned_abs() {
                return Err(malformed("its size is out of range"));
            }
            entry.sparse =
                Some(sparse::checked(extents, real, stored).map_err(|fault| malformed(fault.to_string()))?);
            entry.size = real;
            data = stored;
        }
        self.expect(data);
        Ok(())
    }

    /// The old form's runs go on in blocks that the size does not count.
    fn old_map(&mut self, header: &Header, stored: u64) -> Result<(Vec<Extent>, u64, u64)> {
        const RUNS: usize = 21 * 24;
        let fault = |fault: sparse::Fault| malformed(fault.to_string());
        let (runs, mut more, real) = header.gnu_sparse();
        let mut extents = Vec::new();
        sparse::push_old(&mut extents, runs).map_err(fault)?;
        while more {
            let block = self.block()?;
            let before = extents.len();
            sparse::push_old(&mut extents, &block.0[..RUNS]).map_err(fault)?;
            if extents.len() == before {
                return Err(malformed("a block of its sparse map is empty"));
            }
            more = block.0[RUNS] != 0;
        }
        Ok((extents, field(real, "size")?, stored))
    }

    fn map_in_data(&mut self, stored: u64, real: u64) -> Result<(Vec<Extent>, u64, u64)> {
        let mut map = TextMap::default();
        let mut taken = 0;
        loop {
            if taken + BLOCK as u64 > stored {
                return Err(malformed("its sparse map is longer than its data"));
            }
            let block = self.block()?;
            taken += BLOCK as u64;
            if map.block(&block.0).map_err(|fault| malformed(fault.to_string()))? {
                return Ok((map.extents, real, stored - taken));
            }
        }
    }
}

fn truncated(why: &str) -> Error {
    Error::new(ErrorKind::Truncated, ACTION, why)
}

fn number(value: std::result::Result<i64, NotANumber>, what: &str) -> Result<i64> {
    value.map_err(|fault| match fault {
        NotANumber::Digits => malformed(format!("a header's {what} is no number")),
        NotANumber::TooLarge => malformed(format!("a header's {what} has more than 63 bits")),
    })
}

fn field(value: std::result::Result<i64, NotANumber>, what: &str) -> Result<u64> {
    u64::try_from(number(value, what)?).map_err(|_| malformed(format!("a header's {what} is negative")))
}

/// Neither more than 32 bits nor all ones, by which the kernel's calls mean "no change".
fn id(record: Option<u64>, value: std::result::Result<i64, NotANumber>, what: &str) -> Result<u32> {
    let id = match record {
        Some(id) => id,
        None => field(value, what)?,
    };
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| malformed(format!("its {what} {id} is out of range")))
}

/// Linux has 12 bits of major and 20 of minor number.
fn device(header: &Header) -> Result<(u32, u32)> {
    let (major, minor) = header.device().map_err(|_| malformed("its device number is no number"))?;
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => Ok((major, minor)),
        _ => Err(malformed(format!("its device number {major}:{minor} is out of range"))),
    }
}

fn kind_of(flag: u8, path: &[u8]) -> Result<EntryKind> {
    match flag {
        // Before POSIX a directory was a file whose name ends in a slash.
        0 if path.ends_with(b"/") => Ok(EntryKind::Directory),
        0 | b'0' | b'7' | b'S' => Ok(EntryKind::Regular),
        b'1' => Ok(EntryKind::HardLink),
        b'2' => Ok(EntryKind::Symlink),
        b'3' => Ok(EntryKind::CharDevice),
        b'4' => Ok(EntryKind::BlockDevice),
        b'5' => Ok(EntryKind::Directory),
        b'6' => Ok(EntryKind::Fifo),
        b'M' => {
            Err(Error::new(ErrorKind::Unsupported, ACTION, "it is part of an archive of several volumes"))
        }
        b'D' => {
            Err(Error::new(ErrorKind::Unsupported, ACTION, "it belongs to GNU tar's incremental archives"))
        }
        flag => Err(Error::new(
            ErrorKind::Unsupported,
            ACTION,
            format!("its type is '{}', which no layer has", flag.escape_ascii()),
        )),
    }
}
