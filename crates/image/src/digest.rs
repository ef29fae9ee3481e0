//! Digests: sha256 of blobs, configs, manifests and uncompressed layers.
//!
//! # References
//! OCI image specification, `descriptor.md`, "Digests"; `config.md`, "Layer DiffID" and "Layer ChainID".

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::io::Read;
use std::str::FromStr;

const ALGORITHM: &str = "sha256:";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// A sha256 digest, written `sha256:` and 64 small hexadecimal digits. It names a blob, an image (the digest of its config), an uncompressed layer
/// (its diff id) or a stack of layers (their chain id).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 hexadecimal digits without the algorithm, as file names hold them.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// The digest whose digits a file name holds: exactly 64 small hexadecimal ones.
    ///
    /// # Errors
    /// [`Error::InvalidDigest`].
    pub fn from_hex(text: &str) -> Result<Self> {
        let invalid = || Error::InvalidDigest { text: clipped(text) };
        if text.len() != 64 {
            return Err(invalid());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let [high, low] = [pair[0], pair[1]].map(|digit| HEX.iter().position(|known| *known == digit));
            let value = high.zip(low).map(|(high, low)| high << 4 | low).ok_or_else(invalid)?;
            *byte = u8::try_from(value).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }

    /// The chain id of a stack: that of the layers below, and the diff id on top of them.
    pub fn chain(below: Option<&Self>, diff_id: &Self) -> Self {
        match below {
            None => *diff_id,
            Some(below) => Self::of(format!("{below} {diff_id}").as_bytes()),
        }
    }
}

/// The chain ids of a stack of layers, the lowest first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(Digest::chain(chain.last(), diff_id));
    }
    chain
}

/// What an error may quote of a text that others wrote.
pub(crate) fn clipped(text: &str) -> String {
    let mut shown: String = text.chars().take(100).flat_map(char::escape_default).collect();
    if text.chars().nth(100).is_some() {
        shown.push('…');
    }
    shown
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.strip_prefix(ALGORITHM) {
            Some(hex) => Self::from_hex(hex),
            None => Err(Error::InvalidDigest { text: clipped(text) }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{ALGORITHM}{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// Takes a digest of what streams by.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    state: Sha256,
    bytes: u64,
}

impl Hasher {
    /// Of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes there were.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The digest of all of them.
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

/// A stream that is checked while it is read: its end is given only if digest and size are as expected, otherwise an error, which
/// [`Error::from_stream`] gives back. Whoever stops before the end has read unchecked bytes.
#[derive(Debug)]
pub struct VerifyingReader<R> {
    inner: R,
    hasher: Hasher,
    what: &'static str,
    digest: Option<Digest>,
    size: Option<u64>,
    limit: u64,
    hashing: bool,
    ended: bool,
}

impl<R: Read> VerifyingReader<R> {
    /// Checks digest and size in bytes, as far as they are known. `what` says in errors what the stream is, like `the blob`.
    pub fn new(inner: R, what: &'static str, digest: Option<Digest>, size: Option<u64>) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
            what,
            digest,
            size,
            limit: u64::MAX,
            hashing: true,
            ended: false,
        }
    }

    /// Checks nothing but the limit: for bytes whose digest is taken elsewhere.
    pub(crate) fn unhashed(inner: R, what: &'static str) -> Self {
        Self { hashing: false, ..Self::new(inner, what, None, None) }
    }

    /// More than so many bytes are an error.
    #[must_use]
    pub fn limited(mut self, bytes: u64) -> Self {
        self.limit = bytes;
        self
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.hasher.bytes()
    }

    /// The digest of what was read so far.
    pub fn so_far(&self) -> Digest {
        self.hasher.clone().finish()
    }

    fn check(&self) -> Result<()> {
        let bytes = self.hasher.bytes();
        if let Some(size) = self.size.filter(|size| *size != bytes) {
            return Err(Error::WrongSize {
                what: self.what,
                expected: size,
                found: bytes,
                digest: self.digest,
            });
        }
        match (self.digest, self.so_far()) {
            (Some(expected), found) if expected != found => {
                Err(Error::WrongDigest { what: self.what, expected, found })
            }
            _ => Ok(()),
        }
    }
}

impl<R: Read> Read for VerifyingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let read = self.inner.read(buffer)?;
        if self.hashing {
            self.hasher.update(&buffer[..read]);
        } else {
            self.hasher.bytes += read as u64;
        }
        let bytes = self.hasher.bytes();
        if let Some(size) = self.size.filter(|size| bytes > *size) {
            let error =
                Error::WrongSize { what: self.what, expected: size, found: bytes, digest: self.digest };
            return Err(error.into());
        }
        if bytes > self.limit {
            return Err(Error::too_large(self.what, self.limit).into());
        }
        if read == 0 {
            self.check()?;
            self.ended = true;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_is_parsed_and_shown() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(serde_json::to_string(&digest).unwrap(), format!("\"{EMPTY}\""));
        assert_eq!(serde_json::from_str::<Digest>(&format!("\"{EMPTY}\"")).unwrap(), digest);
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let upper = EMPTY.to_uppercase();
        let short = &EMPTY[..70];
        let path = format!("sha256:{}", "../".repeat(21) + "a");
        for bad in
            ["", "sha256:", &upper, short, &path, &EMPTY[7..], "sha512:00", "sha256:é", &format!("{EMPTY}0")]
        {
            let error = bad.parse::<Digest>().unwrap_err().to_string();
            assert!(error.contains("sha256") && !error.contains('\n'), "{bad}: {error}");
        }
    }

    /// The second is what the specification's formula gives, worked out with `sha256sum`.
    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let empty: Digest = EMPTY.parse().unwrap();
        let chain = chain_ids(&[empty, empty]);
        assert_eq!(chain[0], empty);
        assert_eq!(chain[1], Digest::of(format!("{EMPTY} {EMPTY}").as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn a_stream_that_is_as_expected_passes() {
        let mut reader = VerifyingReader::new(&b"abc"[..], "the blob", Some(Digest::of(b"abc")), Some(3));
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc");
        assert_eq!(reader.bytes_read(), 3);
    }

    #[test]
    fn other_bytes_more_of_them_and_fewer_are_errors() {
        let read = |bytes: &'static [u8], digest: Option<Digest>, size| {
            let mut reader = VerifyingReader::new(bytes, "the blob", digest, size).limited(10);
            Error::from_stream(std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err()).to_string()
        };
        let digest = Some(Digest::of(b"abc"));
        assert!(read(b"abd", digest, Some(3)).contains("is damaged"));
        assert!(read(b"ab", digest, Some(3)).contains("2 bytes"));
        assert!(read(b"abcd", digest, Some(3)).contains("3"));
        assert!(read(b"abcdefghijkl", None, None).contains("10 bytes"));
    }
}
