//! Builds tar streams byte by byte, without the crate's own writer: also such as no program writes.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "writing to memory does not fail")]

/// A header block that can be made wrong.
#[derive(Clone)]
pub(crate) struct Block(pub(crate) [u8; 512]);

impl Block {
    pub(crate) fn new(kind: u8, name: &[u8]) -> Self {
        let mut block = Self([0; 512]);
        block.0[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        block.0[156] = kind;
        block.set(100, b"0000644\0");
        block.set(108, b"0000000\0");
        block.set(116, b"0000000\0");
        block.set(136, b"00000000000\0");
        block.set(257, b"ustar\x0000");
        block.set(329, b"0000000\0");
        block.set(337, b"0000000\0");
        block.size(0)
    }

    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[must_use]
    pub(crate) fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.set(at, bytes);
        self
    }

    #[must_use]
    pub(crate) fn size(self, size: usize) -> Self {
        self.with(124, format!("{size:011o}\0").as_bytes())
    }

    #[must_use]
    pub(crate) fn link(self, link: &[u8]) -> Self {
        self.with(157, link)
    }

    /// With the checksum, at last.
    pub(crate) fn sealed(mut self) -> Vec<u8> {
        self.set(148, b"        ");
        let sum: u32 = self.0.iter().map(|byte| u32::from(*byte)).sum();
        self.set(148, format!("{sum:06o}\0 ").as_bytes());
        self.0.to_vec()
    }

    pub(crate) fn data(self, data: &[u8]) -> Vec<u8> {
        [self.size(data.len()).sealed(), padded(data)].concat()
    }
}

pub(crate) fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

pub(crate) fn file(name: &str, data: &[u8]) -> Vec<u8> {
    Block::new(b'0', name.as_bytes()).data(data)
}

pub(crate) fn directory(name: &str) -> Vec<u8> {
    Block::new(b'5', name.as_bytes()).with(100, b"0000755\0").sealed()
}

pub(crate) fn symlink(name: &str, target: &str) -> Vec<u8> {
    Block::new(b'2', name.as_bytes()).link(target.as_bytes()).sealed()
}

pub(crate) fn hard_link(name: &str, other: &str) -> Vec<u8> {
    Block::new(b'1', name.as_bytes()).link(other.as_bytes()).sealed()
}

/// One PAX record with its true length.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &rest].concat()
}

/// A PAX header with these bytes for records.
pub(crate) fn pax(records: &[u8]) -> Vec<u8> {
    Block::new(b'x', b"PaxHeaders/x").data(records)
}

pub(crate) fn pax_of(records: &[(&str, &[u8])]) -> Vec<u8> {
    pax(&records.iter().flat_map(|(key, value)| record(key.as_bytes(), value)).collect::<Vec<_>>())
}

/// GNU's long name (`L`) or long link (`K`).
pub(crate) fn long(kind: u8, name: &[u8]) -> Vec<u8> {
    Block::new(kind, b"././@LongLink").data(&[name, b"\0"].concat())
}

/// The entries with the end-of-archive marker behind them.
pub(crate) fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}
