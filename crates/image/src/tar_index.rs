//! Where the files of an archive lie, so that they can be read in any order. Nothing is unpacked, so a name is a key and never a path.

use crate::digest::clipped;
use crate::error::{Error, Result};
use crate::slice::Slice;
use crate::tar_header::{self as header, Block, Extended, MOST_EXTENDED, padding};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Entries of an archive at most; an image of 1000 layers in Docker's old form has 4000.
const MOST_ENTRIES: usize = 100_000;
/// Bytes of all names at most.
const MOST_NAMES: usize = 16 << 20;
/// Links from one layer to another that are followed; Docker wrote one.
const MOST_LINKS: usize = 8;

#[derive(Debug)]
enum Member {
    File {
        offset: u64,
        bytes: u64,
    },
    Link(Vec<u8>),
    /// Something that cannot be read, and why.
    Not(&'static str),
}

#[derive(Debug)]
pub(crate) struct TarIndex {
    path: PathBuf,
    file: Arc<File>,
    members: HashMap<Vec<u8>, Member>,
}

/// The parts of a name without `.` and empty ones; `None` if it could lead out of the archive.
fn normal(name: &[u8]) -> Option<Vec<u8>> {
    if name.starts_with(b"/") {
        return None;
    }
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

/// What a symbolic link of that name leads to, by the names alone.
fn target_of(name: &[u8], link: &[u8]) -> Option<Vec<u8>> {
    if link.starts_with(b"/") {
        return None;
    }
    let mut parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    parts.pop();
    for part in link.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

impl TarIndex {
    /// Reads the headers of an uncompressed archive, and skips what lies between.
    pub(crate) fn read(path: &Path, file: File) -> Result<Self> {
        let length = file.metadata().map_err(|error| Error::io("look at", path, error))?.len();
        let mut scan =
            Scan { path, file: &file, length, position: 0, entries: 0, names: 0, members: HashMap::new() };
        scan.all()?;
        let members = scan.members;
        Ok(Self { path: path.to_owned(), file: Arc::new(file), members })
    }

    /// A file by its name; `None` if there is none.
    pub(crate) fn open(&self, name: &str) -> Result<Option<Slice>> {
        let damaged =
            |why: &str| Err(Error::damaged(format!("'{}' in {}", clipped(name), self.path.display()), why));
        let Some(mut key) = normal(name.as_bytes()) else {
            return damaged("the name leads out of the archive");
        };
        for _ in 0..=MOST_LINKS {
            match self.members.get(&key) {
                None => return Ok(None),
                Some(Member::File { offset, bytes }) => {
                    return Ok(Some(Slice::new(&self.path, Arc::clone(&self.file), *offset, *bytes)));
                }
                Some(Member::Not(why)) => return damaged(why),
                Some(Member::Link(target)) => key.clone_from(target),
            }
        }
        damaged("it is a link that leads to itself, or through too many others")
    }
}

struct Scan<'a> {
    path: &'a Path,
    file: &'a File,
    length: u64,
    position: u64,
    entries: usize,
    names: usize,
    members: HashMap<Vec<u8>, Member>,
}

impl Scan<'_> {
    fn damaged(&self, why: &str) -> Error {
        Error::damaged(
            format!("the archive {}", self.path.display()),
            format!("{why}, at byte {}", self.position),
        )
    }

    fn bytes(&self, buffer: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buffer, self.position).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.damaged("it is cut off"),
            _ => Error::io("read", self.path, error),
        })
    }

    fn block(&mut self) -> Result<Block> {
        let mut block = [0; header::BLOCK];
        self.bytes(&mut block)?;
        self.position += header::BLOCK as u64;
        Ok(block)
    }

    /// Goes past data, which must be there.
    fn skip(&mut self, bytes: u64) -> Result<()> {
        let next = self.position + bytes + padding(bytes);
        if next > self.length {
            return Err(self.damaged("it is cut off, or the size of an entry is wrong"));
        }
        self.position = next;
        Ok(())
    }

    fn all(&mut self) -> Result<()> {
        let mut extended = Extended::default();
        loop {
            let block = self.block()?;
            if header::is_zero(&block) {
                return Ok(());
            }
            if !header::checksum_fits(&block) {
                return Err(self.damaged("a header's checksum is wrong"));
            }
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                let what = format!("the archive {}", self.path.display());
                return Err(Error::TooLarge { what, limit: MOST_ENTRIES as u64, unit: "entries" });
            }
            let stated = header::size(&block).ok_or_else(|| self.damaged("an entry's size is no number"))?;
            match header::flag(&block) {
                b'x' => {
                    let payload = self.payload(stated)?;
                    extended.records(&payload).ok_or_else(|| self.damaged("a PAX record is malformed"))?;
                }
                b'L' => extended.path = Some(header::text(&self.payload(stated)?).to_vec()),
                b'K' => extended.link = Some(header::text(&self.payload(stated)?).to_vec()),
                b'g' => self.skip(stated)?,
                flag => self.member(&block, flag, stated, std::mem::take(&mut extended))?,
            }
        }
    }

    fn payload(&mut self, bytes: u64) -> Result<Vec<u8>> {
        if bytes > MOST_EXTENDED {
            return Err(self.damaged("an extended header is too long"));
        }
        let mut payload = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.bytes(&mut payload)?;
        self.skip(bytes)?;
        Ok(payload)
    }

    fn member(&mut self, block: &Block, flag: u8, stated: u64, extended: Extended) -> Result<()> {
        let bytes = extended.size.unwrap_or(stated);
        let name = extended.path.unwrap_or_else(|| header::name(block));
        let link = extended.link.unwrap_or_else(|| header::link(block).to_vec());
        let key = normal(&name);
        let member = match flag {
            0 if name.ends_with(b"/") => return Ok(()),
            0 | b'0' | b'7' | b'S' => {
                if flag == b'S' {
                    let mut more = header::more_sparse_blocks(block, true);
                    while more {
                        more = header::more_sparse_blocks(&self.block()?, false);
                    }
                }
                let offset = self.position;
                self.skip(bytes)?;
                if flag == b'S' || extended.sparse {
                    Member::Not("it is stored as a sparse file")
                } else {
                    Member::File { offset, bytes }
                }
            }
            b'1' => normal(&link).map_or(Member::Not("it links out of the archive"), Member::Link),
            b'2' => key
                .as_deref()
                .and_then(|name| target_of(name, &link))
                .map_or(Member::Not("it links out of the archive"), Member::Link),
            b'5' => return Ok(()),
            _ => Member::Not("it is no file"),
        };
        // A name that leads out of the archive can be asked for by nobody.
        let Some(key) = key else { return Ok(()) };
        self.names += key.len();
        if self.names > MOST_NAMES {
            return Err(Error::too_large(format!("the names in {}", self.path.display()), MOST_NAMES as u64));
        }
        match self.members.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(member);
            }
            // Readers differ in which one they take.
            Entry::Occupied(mut first) => {
                first.insert(Member::Not("the name stands there twice"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normal_or_none() {
        assert_eq!(normal(b"./a//b/./c/").unwrap(), b"a/b/c");
        for bad in [&b"/a"[..], b"../a", b"a/../b", b".."] {
            assert_eq!(normal(bad), None);
        }
        assert_eq!(target_of(b"a/layer.tar", b"../b/layer.tar").unwrap(), b"b/layer.tar");
        assert_eq!(target_of(b"a/layer.tar", b"../../etc/passwd"), None);
        assert_eq!(target_of(b"a/layer.tar", b"/etc/passwd"), None);
    }
}
