//! What is needed, besides a layer's tree, to give its tar back byte for byte.
//!
//! A tar is files' contents and what stands between them: headers, padding, the end. [`Splitter`] writes the latter down while the tar streams by; [`Assembler`]
//! joins it with the contents, read again from the tree. The record has the form of Docker's `tar-split.json.gz`, so that either reads the other's.
//!
//! What a tree cannot give back is in the record itself: contents of files whose name comes twice, of sparse files, of whiteouts, and all
//! from the point on where the stream is no tar. Docker's writer refuses such layers or cannot give them back; its reader takes these records.
//!
//! # References
//! github.com/vbatts/tar-split, `tar/storage`: one JSON object in a line; type 2 has bytes, type 1 the name, size and CRC-64 (ISO 3309) of a file.

mod assemble;
mod split;
mod tree;

pub use assemble::{Assembler, changed_files};
pub use split::{Split, SplitOptions, Splitter};
pub use tree::{Tree, TreeFolder};

use crate::error::{Error, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use crc::{CRC_64_GO_ISO, Crc, Table};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read, Write};

/// Bytes of one line at most. Docker writes what follows a tar's end in one piece.
const MOST_LINE: u64 = 64 << 20;
/// Bytes that are collected for one line.
const SEGMENT: usize = 64 << 10;
const FILE: u8 = 1;
const BYTES: u8 = 2;

/// The checksum of a file's content.
static CHECKSUM: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);
type Checksum = crc::Digest<'static, u64, Table<16>>;

/// One line, in the order of Go's fields.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    /// A name that is not UTF-8, in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name_raw: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
    #[serde(default)]
    position: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a line says.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Bytes(Vec<u8>),
    File { name: Vec<u8>, size: u64, checksum: u64 },
}

struct RecordWriter<W> {
    target: W,
    position: u64,
    /// Bytes that wait for a line.
    waiting: Vec<u8>,
}

impl<W: Write> RecordWriter<W> {
    fn new(target: W) -> Self {
        Self { target, position: 0, waiting: Vec::with_capacity(SEGMENT) }
    }

    fn line(&mut self, mut line: Line) -> Result<()> {
        line.position = self.position;
        self.position += 1;
        let mut text = serde_json::to_vec(&line).map_err(|error| Error::Stream(error.into()))?;
        text.push(b'\n');
        self.target.write_all(&text).map_err(Error::from_stream)
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(SEGMENT - self.waiting.len()));
            self.waiting.extend_from_slice(now);
            bytes = later;
            if self.waiting.len() == SEGMENT {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let payload = Some(BASE64_STANDARD.encode(&self.waiting));
        self.waiting.clear();
        self.line(Line { kind: BYTES, payload, ..Line::default() })
    }

    /// An empty file has no checksum.
    fn file(&mut self, name: &[u8], size: u64, checksum: u64) -> Result<()> {
        self.flush()?;
        let (name, name_raw) = match std::str::from_utf8(name) {
            Ok(name) => (name.to_owned(), String::new()),
            Err(_) => (String::new(), BASE64_STANDARD.encode(name)),
        };
        let payload = (size > 0).then(|| BASE64_STANDARD.encode(checksum.to_be_bytes()));
        self.line(Line { kind: FILE, name, name_raw, size, payload, position: 0 })
    }

    fn finish(mut self) -> Result<W> {
        self.flush()?;
        Ok(self.target)
    }
}

struct RecordReader<R> {
    source: R,
    line: Vec<u8>,
}

impl<R: BufRead> RecordReader<R> {
    fn new(source: R) -> Self {
        Self { source, line: Vec::new() }
    }

    fn next(&mut self) -> Result<Option<Entry>> {
        self.line.clear();
        (&mut self.source).take(MOST_LINE).read_until(b'\n', &mut self.line).map_err(|error| {
            match Error::from_stream(error) {
                Error::Damaged { what, why } => damaged(format!("{what}: {why}")),
                error => error,
            }
        })?;
        if self.line.is_empty() {
            return Ok(None);
        }
        if self.line.len() as u64 == MOST_LINE {
            return Err(damaged(format!("a line has more than {MOST_LINE} bytes")));
        }
        let line: Line = serde_json::from_slice(&self.line).map_err(|error| damaged(error.to_string()))?;
        let payload = decoded(line.payload.as_deref().unwrap_or_default())?;
        match line.kind {
            BYTES => Ok(Some(Entry::Bytes(payload))),
            FILE => {
                let raw = decoded(&line.name_raw)?;
                let name = if raw.is_empty() { line.name.into_bytes() } else { raw };
                let checksum = match (line.size, <[u8; 8]>::try_from(payload)) {
                    (0, _) => 0,
                    (_, Ok(sum)) => u64::from_be_bytes(sum),
                    _ => return Err(damaged("a file's checksum is not of 8 bytes".into())),
                };
                if name.contains(&0) {
                    return Err(damaged("a file's name has a NUL".into()));
                }
                Ok(Some(Entry::File { name, size: line.size, checksum }))
            }
            other => Err(damaged(format!("an entry has the type {other}"))),
        }
    }
}

fn decoded(text: &str) -> Result<Vec<u8>> {
    BASE64_STANDARD.decode(text).map_err(|error| damaged(error.to_string()))
}

fn damaged(why: String) -> Error {
    Error::DamagedRecord { why: why.chars().take(200).flat_map(char::escape_default).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The catalogue's check value of CRC-64/GO-ISO.
    #[test]
    fn the_checksum_is_gos() {
        assert_eq!(CHECKSUM.checksum(b"123456789"), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn lines_are_as_docker_writes_them() {
        let mut writer = RecordWriter::new(Vec::new());
        writer.bytes(b"head").unwrap();
        writer.file(b"etc/", 0, 0).unwrap();
        writer.bytes(b"er").unwrap();
        writer.file(b"etc/a", 9, CHECKSUM.checksum(b"123456789")).unwrap();
        writer.file(b"\xff", 0, 0).unwrap();
        let text = writer.finish().unwrap();
        let expected = concat!(
            r#"{"type":2,"payload":"aGVhZA==","position":0}"#,
            "\n",
            r#"{"type":1,"name":"etc/","payload":null,"position":1}"#,
            "\n",
            r#"{"type":2,"payload":"ZXI=","position":2}"#,
            "\n",
            r#"{"type":1,"name":"etc/a","size":9,"payload":"uQlWx3WkEAE=","position":3}"#,
            "\n",
            r#"{"type":1,"name_raw":"/w==","payload":null,"position":4}"#,
            "\n",
        );
        assert_eq!(String::from_utf8(text.clone()).unwrap(), expected);
        let mut reader = RecordReader::new(&text[..]);
        assert_eq!(reader.next().unwrap(), Some(Entry::Bytes(b"head".to_vec())));
        assert_eq!(
            reader.next().unwrap(),
            Some(Entry::File { name: b"etc/".to_vec(), size: 0, checksum: 0 })
        );
        reader.next().unwrap();
        let sum = CHECKSUM.checksum(b"123456789");
        assert_eq!(
            reader.next().unwrap(),
            Some(Entry::File { name: b"etc/a".to_vec(), size: 9, checksum: sum })
        );
        assert_eq!(
            reader.next().unwrap(),
            Some(Entry::File { name: b"\xff".to_vec(), size: 0, checksum: 0 })
        );
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn damaged_lines_are_told() {
        for bad in [
            "{",
            "[]",
            r#"{"type":3}"#,
            r#"{"type":2,"payload":"!"}"#,
            r#"{"type":1,"name":"a","size":1,"payload":"AAAA"}"#,
            r#"{"type":1,"name":"a","size":-1}"#,
            r#"{"type":1,"name":"a\u0000"}"#,
        ] {
            let error = RecordReader::new(bad.as_bytes()).next().unwrap_err();
            assert!(matches!(error, Error::DamagedRecord { .. }), "{bad}: {error}");
        }
    }
}
