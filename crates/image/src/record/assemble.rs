//! A layer's tar, given back.

use super::{CHECKSUM, Checksum, Entry, RecordReader, Tree};
use crate::compression::Decompressed;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::io::{self, BufReader, Read};

const BUFFER: usize = 256 << 10;

type Record<R> = RecordReader<BufReader<Decompressed<R>>>;

fn record<R: Read>(source: R) -> Result<Record<R>> {
    Ok(RecordReader::new(BufReader::with_capacity(BUFFER, Decompressed::new(source)?)))
}

/// The tar as it was, as a stream: from a record, Docker's or this crate's, compressed or not, and the layer's tree. Each file is checked when its last byte is read; the
/// end comes only if the whole has the expected diff id. [`Error::from_stream`] takes errors out of [`io::Error`].
///
/// It holds one line of the record at a time: 64 KiB of tar in this crate's records, and never more than a line of 64 MiB.
pub struct Assembler<R: Read, T> {
    record: Record<R>,
    tree: T,
    expected: Option<Digest>,
    hasher: Hasher,
    state: State,
}

enum State {
    Next,
    Bytes { bytes: Vec<u8>, position: usize },
    File(Content),
    Ended,
}

impl<R: Read, T: Tree> Assembler<R, T> {
    /// Reads the record's first bytes. `expected` is the layer's diff id; without it the files' checksums are all that is checked.
    ///
    /// # Errors
    /// Those of the record's stream.
    pub fn new(source: R, tree: T, expected: Option<Digest>) -> Result<Self> {
        Ok(Self { record: record(source)?, tree, expected, hasher: Hasher::new(), state: State::Next })
    }

    fn next(&mut self) -> Result<State> {
        match self.record.next()? {
            Some(Entry::Bytes(bytes)) => Ok(State::Bytes { bytes, position: 0 }),
            Some(Entry::File { size: 0, .. }) => Ok(State::Next),
            Some(Entry::File { name, size, checksum }) => {
                Content::open(&mut self.tree, name, size, checksum).map(State::File)
            }
            None => match (self.expected, self.hasher.clone().finish()) {
                (Some(expected), found) if expected != found => Err(Error::DamagedRecord {
                    why: format!("it gives a tar with the diff id {found}, not {expected}"),
                }),
                _ => Ok(State::Ended),
            },
        }
    }
}

impl<R: Read, T: Tree> Read for Assembler<R, T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let read = match &mut self.state {
                State::Next => {
                    self.state = self.next()?;
                    continue;
                }
                State::Bytes { bytes, position } => {
                    let read = buffer.len().min(bytes.len() - *position);
                    buffer[..read].copy_from_slice(&bytes[*position..*position + read]);
                    *position += read;
                    read
                }
                State::File(content) => content.read(buffer)?,
                State::Ended => return Ok(0),
            };
            if read > 0 {
                self.hasher.update(&buffer[..read]);
                return Ok(read);
            }
            self.state = State::Next;
        }
    }
}

impl<R: Read, T> std::fmt::Debug for Assembler<R, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Assembler").field("expected", &self.expected).finish_non_exhaustive()
    }
}

/// A file's content, which must be as it was.
struct Content {
    name: Vec<u8>,
    file: Box<dyn Read + Send>,
    left: u64,
    checksum: Checksum,
    expected: u64,
    ended: bool,
}

impl Content {
    fn open(tree: &mut impl Tree, name: Vec<u8>, size: u64, expected: u64) -> Result<Self> {
        const ELOOP: i32 = nix::errno::Errno::ELOOP as i32;
        match tree.open(&name) {
            Ok(file) => {
                Ok(Self { name, file, left: size, checksum: CHECKSUM.digest(), expected, ended: false })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(changed(&name, "it is not there")),
            Err(error) if error.raw_os_error() == Some(ELOOP) => Err(changed(&name, "it is no regular file")),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(changed(&name, "its folder is none"))
            }
            Err(error) => Err(Error::io("open", std::path::Path::new(&shown(&name)), error)),
        }
    }

    /// No bytes are the end, and everything was right.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.ended {
            return Ok(0);
        }
        if self.left == 0 {
            // A file that grew is not what it was, although its first bytes are.
            return match self.take(&mut [0])? {
                0 => self.check(),
                _ => Err(changed(&self.name, "it has become longer")),
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.take(&mut buffer[..most])?;
        if read == 0 {
            return Err(changed(&self.name, "it has become shorter"));
        }
        self.checksum.update(&buffer[..read]);
        self.left -= read as u64;
        Ok(read)
    }

    fn check(&mut self) -> Result<usize> {
        self.ended = true;
        match std::mem::replace(&mut self.checksum, CHECKSUM.digest()).finalize() {
            sum if sum == self.expected => Ok(0),
            _ => Err(changed(&self.name, "its content is another")),
        }
    }

    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => {
                    return other
                        .map_err(|error| Error::io("read", std::path::Path::new(&shown(&self.name)), error));
                }
            }
        }
    }
}

fn shown(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}

fn changed(name: &[u8], why: &str) -> Error {
    Error::Changed { path: shown(name), why: why.to_owned() }
}

/// The files of a record that the tree does not hold as they were: names for [`super::SplitOptions::embed`], to be used with the tar itself while it is still at hand. It reads the
/// content of every file.
///
/// # Errors
/// Those of the record and the disk.
pub fn changed_files(source: impl Read, mut tree: impl Tree) -> Result<BTreeSet<Vec<u8>>> {
    let mut record = record(source)?;
    let mut changed = BTreeSet::new();
    let mut buffer = vec![0; BUFFER];
    while let Some(entry) = record.next()? {
        let Entry::File { name, size: size @ 1.., checksum } = entry else { continue };
        let whole = Content::open(&mut tree, name.clone(), size, checksum).and_then(|mut content| {
            while content.read(&mut buffer)? > 0 {}
            Ok(())
        });
        match whole {
            Ok(()) => {}
            Err(Error::Changed { .. }) => {
                let parts: Vec<&[u8]> =
                    name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
                changed.insert(parts.join(&b'/'));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}
