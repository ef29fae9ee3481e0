//! The record, written while the tar streams by.

use super::{CHECKSUM, Checksum, RecordWriter};
use crate::error::{Error, Result};
use crate::tar_header::{self as header, BLOCK, Block, Extended, MOST_EXTENDED, padding};
use flate2::GzBuilder;
use flate2::write::GzEncoder;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher;
use std::io::{self, Read, Write};

/// Names that are remembered, to see which come twice: 64 MiB of memory.
const MOST_ENTRIES: usize = 4 << 20;
/// Names that are told to be embedded.
const MOST_TOLD: usize = 10_000;

/// How a tar is taken apart.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// Files whose content is to be in the record, and folders all of whose files' is, as [`Split::embed`] or [`super::changed_files`] said. Default: none.
    pub embed: BTreeSet<Vec<u8>>,
    /// Bytes that the record may hold, before compression. Default: 4 GiB.
    pub limit: u64,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self { embed: BTreeSet::new(), limit: 4 << 30 }
    }
}

/// What was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Split {
    /// Bytes of the tar.
    pub bytes: u64,
    /// Files whose content is to come from the tree.
    pub files: u64,
    /// Empty nearly always. Otherwise the tar overwrites or removes what it brought before, so that the tree does not hold every content: this record does not serve, and the
    /// tar has to be read once more with these names in [`SplitOptions::embed`].
    pub embed: BTreeSet<Vec<u8>>,
}

/// Passes a tar's bytes through and writes its record, compressed with gzip, into `target`. Whatever the bytes are, they pass; whether there is a record is known
/// at the end.
///
/// It holds 16 bytes for each entry of the tar, and buffers of 1 MiB at most.
#[derive(Debug)]
pub struct Splitter<R, W: Write> {
    stream: R,
    parser: Parser<W>,
    /// Nothing is recorded after an error.
    failed: Option<Error>,
}

impl<R: Read, W: Write> Splitter<R, W> {
    /// A splitter of an uncompressed tar.
    pub fn new(stream: R, target: W, options: SplitOptions) -> Self {
        let target = GzBuilder::new().operating_system(255).write(target, flate2::Compression::default());
        let parser = Parser {
            record: RecordWriter::new(target),
            options,
            state: State::header(),
            extended: Extended::default(),
            seen: HashMap::new(),
            hasher: RandomState::new(),
            recorded: 0,
            split: Split { bytes: 0, files: 0, embed: BTreeSet::new() },
        };
        Self { stream, parser, failed: None }
    }

    /// Reads what is left of the stream and ends the record.
    ///
    /// # Errors
    /// [`Error::DamagedRecord`] if the tar ends within a file, [`Error::TooLarge`], and those of stream and target.
    pub fn finish(mut self) -> Result<(Split, W)> {
        io::copy(&mut self, &mut io::sink()).map_err(Error::from_stream)?;
        match self.failed {
            Some(error) => Err(error),
            None => self.parser.finish(),
        }
    }
}

impl<R: Read, W: Write> Read for Splitter<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        if self.failed.is_none() {
            self.failed = self.parser.feed(&buffer[..read]).err();
        }
        Ok(read)
    }
}

/// Where in the tar the next byte is.
enum State {
    Header {
        block: Block,
        filled: usize,
    },
    /// The payload of a header for the next entry.
    Extended {
        flag: u8,
        payload: Vec<u8>,
        left: u64,
    },
    /// Blocks of an old sparse file's map, before its data.
    SparseMap {
        block: Block,
        filled: usize,
        data: u64,
    },
    /// Content that the tree will have.
    File {
        name: Vec<u8>,
        size: u64,
        left: u64,
        checksum: Checksum,
    },
    /// Content or padding that the record holds.
    Embedded {
        left: u64,
    },
    /// The end of the archive, or something that is no tar.
    Rest,
}

impl State {
    fn header() -> Self {
        Self::Header { block: [0; BLOCK], filled: 0 }
    }
}

struct Parser<W: Write> {
    record: RecordWriter<GzEncoder<W>>,
    options: SplitOptions,
    state: State,
    extended: Extended,
    /// Hashes of the names so far, and whether it was a folder. Two names with one hash only mean that more is embedded.
    seen: HashMap<u64, bool>,
    hasher: RandomState,
    recorded: u64,
    split: Split,
}

impl<W: Write> Parser<W> {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.split.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let taken = self.step(bytes)?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        self.recorded += bytes.len() as u64;
        if self.recorded > self.options.limit {
            return Err(Error::too_large("the record of the layer's tar", self.options.limit));
        }
        self.record.bytes(bytes)
    }

    /// Takes some bytes, at least one; a state with nothing left is left at once, so there is always one to take.
    fn step(&mut self, bytes: &[u8]) -> Result<usize> {
        match std::mem::replace(&mut self.state, State::Rest) {
            State::Header { mut block, filled } => {
                let taken = fill(&mut block, filled, bytes);
                self.keep(&bytes[..taken])?;
                if filled + taken < BLOCK {
                    self.state = State::Header { block, filled: filled + taken };
                } else {
                    self.state = self.entry(&block)?;
                }
                Ok(taken)
            }
            State::SparseMap { mut block, filled, data } => {
                let taken = fill(&mut block, filled, bytes);
                self.keep(&bytes[..taken])?;
                self.state = match filled + taken {
                    BLOCK if header::more_sparse_blocks(&block, false) => {
                        State::SparseMap { block, filled: 0, data }
                    }
                    BLOCK => embedded(data),
                    filled => State::SparseMap { block, filled, data },
                };
                Ok(taken)
            }
            State::Extended { flag, mut payload, left } => {
                let taken = at_most(bytes, left);
                self.keep(&bytes[..taken])?;
                payload.extend_from_slice(&bytes[..taken]);
                self.state = match left - taken as u64 {
                    0 => self.described(flag, &payload),
                    left => State::Extended { flag, payload, left },
                };
                Ok(taken)
            }
            State::File { name, size, left, mut checksum } => {
                let taken = at_most(bytes, left);
                checksum.update(&bytes[..taken]);
                self.state = match left - taken as u64 {
                    0 => {
                        self.split.files += 1;
                        self.record.file(&name, size, checksum.finalize())?;
                        padded(padding(size))
                    }
                    left => State::File { name, size, left, checksum },
                };
                Ok(taken)
            }
            State::Embedded { left } => {
                let taken = at_most(bytes, left);
                self.keep(&bytes[..taken])?;
                self.state = padded(left - taken as u64);
                Ok(taken)
            }
            State::Rest => {
                self.keep(bytes)?;
                Ok(bytes.len())
            }
        }
    }

    /// What follows a header.
    fn entry(&mut self, block: &Block) -> Result<State> {
        if header::is_zero(block) || !header::checksum_fits(block) {
            return Ok(State::Rest);
        }
        let Some(stated) = header::size(block) else { return Ok(State::Rest) };
        let flag = header::flag(block);
        match flag {
            b'x' | b'X' | b'L' | b'K' if stated <= MOST_EXTENDED => {
                return Ok(match stated {
                    0 => State::header(),
                    left => State::Extended { flag, payload: Vec::new(), left },
                });
            }
            b'x' | b'X' | b'L' | b'K' => return Ok(State::Rest),
            b'g' | b'V' => return Ok(embedded(stated)),
            _ => {}
        }
        let extended = std::mem::take(&mut self.extended);
        let size = extended.size.unwrap_or(stated);
        let name = extended.path.unwrap_or_else(|| header::name(block));
        let content = match flag {
            0 if name.ends_with(b"/") => 0,
            0 | b'0' | b'7' | b'S' => size,
            // The size of anything else is no data, as Go and GNU tar read it.
            _ => 0,
        };
        let alone = self.remember(&name, flag == b'5' || (flag == 0 && name.ends_with(b"/")))?;
        if flag == b'S' && header::more_sparse_blocks(block, true) {
            return Ok(State::SparseMap { block: [0; BLOCK], filled: 0, data: content });
        }
        if !alone || flag == b'S' || extended.sparse || (content > 0 && self.is_embedded(&name)) {
            return Ok(embedded(content));
        }
        if content == 0 {
            self.record.file(&name, 0, 0)?;
            return Ok(State::header());
        }
        Ok(State::File { name, size, left: size, checksum: CHECKSUM.digest() })
    }

    /// What follows the payload of a header for the next entry.
    fn described(&mut self, flag: u8, payload: &[u8]) -> State {
        let understood = match flag {
            b'L' => {
                self.extended.path = Some(header::text(payload).to_vec());
                Some(())
            }
            b'K' => Some(()),
            _ => self.extended.records(payload),
        };
        if understood.is_some() { padded(padding(payload.len() as u64)) } else { State::Rest }
    }

    /// Is the name the first of its kind, and one that a tree can have?
    fn remember(&mut self, name: &[u8], folder: bool) -> Result<bool> {
        let Some(clean) = clean(name) else { return Ok(false) };
        if let Some(removed) = whiteout(&clean)
            && self.seen.contains_key(&self.hasher.hash_one(removed.as_slice()))
        {
            self.tell(removed)?;
        }
        // Folders that no entry names are made all the same, and may be removed or replaced like others.
        for (at, _) in clean.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.seen.entry(self.hasher.hash_one(&clean[..at])).or_insert(true);
        }
        let before = self.seen.insert(self.hasher.hash_one(clean.as_slice()), folder);
        if self.seen.len() > MOST_ENTRIES {
            let what = "the number of the tar's entries".to_owned();
            return Err(Error::TooLarge { what, limit: MOST_ENTRIES as u64, unit: "entries" });
        }
        if before.is_some_and(|before| !before || !folder) {
            self.tell(clean)?;
        }
        Ok(before.is_none())
    }

    fn tell(&mut self, name: Vec<u8>) -> Result<()> {
        if !under(&self.options.embed, &name) {
            self.split.embed.insert(name);
        }
        if self.split.embed.len() > MOST_TOLD {
            let what = "the number of names that come twice in the tar".to_owned();
            return Err(Error::TooLarge { what, limit: MOST_TOLD as u64, unit: "names" });
        }
        Ok(())
    }

    /// Whiteouts are taken away when a layer is unpacked, and no tree has a file whose name ends in a slash.
    fn is_embedded(&self, name: &[u8]) -> bool {
        name.ends_with(b"/")
            || clean(name).is_none_or(|clean| {
                clean.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh."))
                    || under(&self.options.embed, &clean)
            })
    }

    fn finish(self) -> Result<(Split, W)> {
        if let State::File { name, left, .. } = &self.state {
            let why = format!("the tar ends {left} bytes before the end of '{}'", name.escape_ascii());
            return Err(Error::DamagedRecord { why });
        }
        let target = self.record.finish()?.finish().map_err(Error::from_stream)?;
        Ok((self.split, target))
    }
}

impl<W: Write> std::fmt::Debug for Parser<W> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Parser").field("split", &self.split).finish_non_exhaustive()
    }
}

fn fill(block: &mut Block, filled: usize, bytes: &[u8]) -> usize {
    let taken = bytes.len().min(BLOCK - filled);
    block[filled..filled + taken].copy_from_slice(&bytes[..taken]);
    taken
}

fn at_most(bytes: &[u8], left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

fn embedded(data: u64) -> State {
    padded(data + padding(data))
}

fn padded(left: u64) -> State {
    if left == 0 { State::header() } else { State::Embedded { left } }
}

/// The parts of a name without `.` and empty ones; `None` if it goes upwards, or is the tree itself.
fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<&[u8]> =
        name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    let fine = !parts.contains(&&b".."[..]) && !name.contains(&0);
    fine.then(|| parts.join(&b'/'))
}

/// What a whiteout removes (OCI image specification, `layer.md`, "Whiteouts").
fn whiteout(clean: &[u8]) -> Option<Vec<u8>> {
    let start = clean.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let removed = clean[start..].strip_prefix(b".wh.")?;
    (!removed.is_empty() && !removed.starts_with(b".wh.")).then(|| [&clean[..start], removed].concat())
}

/// Is the name, or a folder above it, in the set?
fn under(set: &BTreeSet<Vec<u8>>, clean: &[u8]) -> bool {
    !set.is_empty()
        && (set.contains(clean)
            || clean.iter().enumerate().any(|(at, byte)| *byte == b'/' && set.contains(&clean[..at])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        assert_eq!(clean(b"./a//b/").unwrap(), b"a/b");
        assert_eq!(clean(b"/a").unwrap(), b"a");
        assert_eq!(clean(b"./").unwrap(), b"");
        assert_eq!(clean(b"a/../b"), None);
        assert_eq!(whiteout(b"a/.wh.b").unwrap(), b"a/b");
        assert_eq!(whiteout(b".wh.b").unwrap(), b"b");
        assert_eq!((whiteout(b"a/.wh..wh..opq"), whiteout(b"a/b"), whiteout(b".wh.")), (None, None, None));
        let set = BTreeSet::from([b"a/b".to_vec()]);
        assert!(under(&set, b"a/b") && under(&set, b"a/b/c") && !under(&set, b"a/bc") && !under(&set, b"a"));
    }
}
