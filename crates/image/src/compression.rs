//! gzip and zstd, recognised by a stream's first bytes, whatever a media type says.
//!
//! # References
//! RFC 1952 (gzip), RFC 8878 (zstd).

use crate::error::{Error, Result};
use std::io::{BufReader, Chain, Cursor, Read, Write};

const BUFFER: usize = 256 << 10;
const FIRST_BYTES: u64 = 6;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, of one or more members.
    Gzip,
    /// zstd, of one or more frames; windows of up to 128 MiB.
    Zstd,
}

impl Compression {
    /// The compression that these first bytes of a stream begin.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for bzip2 and xz, which no tar begins with.
    pub fn detect(first: &[u8]) -> Result<Self> {
        let unsupported = |what: &str| {
            Err(Error::Unsupported {
                what: format!("compression with {what}"),
                remedy: "decompress it, or compress it with gzip or zstd",
            })
        };
        match first {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            // A frame, or a frame to be skipped, as some builders put in front.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => unsupported("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
            _ => Ok(Self::None),
        }
    }

    /// The media type of a layer so compressed (OCI image specification, `layer.md`).
    pub fn layer_media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A stream's own bytes, the first of them put back.
type Whole<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// A stream decompressed. It holds one buffer of 256 KiB and the decompressor's window.
pub struct Decompressed<R: Read>(Decoder<R>);

enum Decoder<R: Read> {
    Plain(Whole<R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Whole<R>>>),
    Zstd(zstd::stream::read::Decoder<'static, Whole<R>>),
}

impl<R: Read> Decompressed<R> {
    /// Reads the stream's first bytes and decides.
    ///
    /// # Errors
    /// [`Error::Unsupported`], and those of the stream.
    pub fn new(mut stream: R) -> Result<Self> {
        let mut first = Vec::new();
        (&mut stream).take(FIRST_BYTES).read_to_end(&mut first).map_err(Error::from_stream)?;
        let compression = Compression::detect(&first)?;
        let whole = BufReader::with_capacity(BUFFER, Cursor::new(first).chain(stream));
        Ok(Self(match compression {
            Compression::None => Decoder::Plain(whole),
            Compression::Gzip => Decoder::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(whole))),
            Compression::Zstd => {
                Decoder::Zstd(zstd::stream::read::Decoder::with_buffer(whole).map_err(Error::from_stream)?)
            }
        }))
    }

    /// What was recognised.
    pub fn compression(&self) -> Compression {
        match self.0 {
            Decoder::Plain(_) => Compression::None,
            Decoder::Gzip(_) => Compression::Gzip,
            Decoder::Zstd(_) => Compression::Zstd,
        }
    }

    /// Reads what the decompressor left of the stream, so that a check at the stream's end takes place.
    fn drain(&mut self) -> std::io::Result<()> {
        let left = match &mut self.0 {
            Decoder::Plain(_) => 0,
            Decoder::Gzip(decoder) => std::io::copy(decoder.get_mut(), &mut std::io::sink())?,
            Decoder::Zstd(decoder) => std::io::copy(decoder.get_mut(), &mut std::io::sink())?,
        };
        if left == 0 {
            Ok(())
        } else {
            Err(Error::damaged("the compressed stream", "something follows its end").into())
        }
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let (read, what) = match &mut self.0 {
            Decoder::Plain(stream) => return stream.read(buffer),
            Decoder::Gzip(decoder) => (decoder.read(buffer), "gzip"),
            Decoder::Zstd(decoder) => (decoder.read(buffer), "zstd"),
        };
        match read {
            Ok(0) => self.drain().map(|()| 0),
            Ok(read) => Ok(read),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(error),
            // An error of this crate came through from below, and says more.
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => Err(error),
            Err(error) if error.raw_os_error().is_some() => Err(error),
            Err(error) => Err(Error::damaged(format!("the {what} stream"), error.to_string()).into()),
        }
    }
}

impl<R: Read> std::fmt::Debug for Decompressed<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Decompressed").field(&self.compression()).finish()
    }
}

/// Compresses what is written; the same bytes give the same stream with the same version of the libraries.
pub(crate) enum Compressor<W: Write> {
    Plain(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> Compressor<W> {
    pub(crate) fn new(compression: Compression, target: W) -> std::io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(target),
            // No name and no time in the header, so that the digest depends on the content alone.
            Compression::Gzip => Self::Gzip(
                flate2::GzBuilder::new().operating_system(255).write(target, flate2::Compression::default()),
            ),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(target, 0)?),
        })
    }

    pub(crate) fn finish(self) -> std::io::Result<W> {
        match self {
            Self::Plain(target) => Ok(target),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(target) => target.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(target) => target.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, VerifyingReader};

    fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut compressor = Compressor::new(compression, Vec::new()).unwrap();
        compressor.write_all(bytes).unwrap();
        compressor.finish().unwrap()
    }

    fn plain(bytes: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let mut all = Vec::new();
        let mut stream = Decompressed::new(bytes).map_err(|error| error.to_string())?;
        stream.read_to_end(&mut all).map_err(|error| Error::from_stream(error).to_string())?;
        Ok(all)
    }

    #[test]
    fn each_compression_is_recognised_and_undone() {
        let bytes = b"layer ".repeat(100_000);
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let packed = compressed(compression, &bytes);
            assert_eq!(Decompressed::new(&packed[..]).unwrap().compression(), compression);
            assert_eq!(plain(&packed).unwrap(), bytes);
            assert_eq!(packed, compressed(compression, &bytes), "it is deterministic");
        }
        assert_eq!(plain(b"").unwrap(), b"");
        assert_eq!(plain(b"ab").unwrap(), b"ab");
    }

    #[test]
    fn members_and_frames_in_a_row_are_one_stream() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let two = [compressed(compression, b"one "), compressed(compression, b"two")].concat();
            assert_eq!(plain(&two).unwrap(), b"one two");
        }
        let skippable =
            [&b"\x50\x2a\x4d\x18\x04\0\0\0skip"[..], &compressed(Compression::Zstd, b"x")].concat();
        assert_eq!(plain(&skippable).unwrap(), b"x");
    }

    #[test]
    fn a_stream_cut_off_anywhere_is_an_error() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let packed = compressed(compression, &b"layer ".repeat(50));
            for length in 6..packed.len() {
                let error = plain(&packed[..length]).unwrap_err();
                assert!(error.contains("is damaged"), "{length}: {error}");
            }
        }
    }

    #[test]
    fn garbage_behind_the_end_and_other_compressions_are_errors() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let error = plain(&[&compressed(compression, b"x")[..], b"garbage!"].concat()).unwrap_err();
            assert!(error.contains("is damaged"), "{error}");
        }
        assert!(plain(b"\xfd7zXZ\0...").unwrap_err().contains("xz"));
        assert!(plain(b"BZh91AY&SY").unwrap_err().contains("bzip2"));
    }

    #[test]
    fn an_error_from_below_comes_through() {
        for compression in [Compression::Gzip, Compression::Zstd] {
            let packed = compressed(compression, b"layer");
            let verifying = VerifyingReader::new(&packed[..], "the blob", Some(Digest::of(b"other")), None);
            let error =
                std::io::copy(&mut Decompressed::new(verifying).unwrap(), &mut std::io::sink()).unwrap_err();
            assert!(matches!(Error::from_stream(error), Error::WrongDigest { .. }));
        }
    }
}
