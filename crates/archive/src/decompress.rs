//! gzip and zstd, recognised by their first bytes.

use flate2::read::MultiGzDecoder;
use std::fmt;
use std::io::{self, BufReader, Cursor, Read};

const BUFFER: usize = 128 << 10;
/// The logarithm of the largest window that a zstd stream may ask for: 128 MiB, which `zstd --long` and level 22 need. Usual levels ask for 8 MiB.
const LARGEST_WINDOW: u32 = 27;

/// How a stream is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952; one member or several.
    Gzip,
    /// RFC 8878; one frame or several, and frames that are to be skipped.
    Zstd,
}

impl Compression {
    /// What a stream's first bytes say; six are enough. What is neither gzip nor zstd counts as not compressed.
    pub fn of(first: &[u8]) -> Self {
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A frame to be skipped may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

type Whole<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// A stream without its compression, whatever that is.
pub struct Decompressed<R: Read> {
    form: Form<R>,
}

enum Form<R: Read> {
    Plain(Whole<R>),
    Gzip(Box<MultiGzDecoder<BufReader<Whole<R>>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Whole<R>>>),
}

impl<R: Read> Decompressed<R> {
    /// Reads the stream's first bytes and chooses.
    ///
    /// # Errors
    /// Those of the stream; `Unsupported` if it is compressed with bzip2, xz or lz4.
    pub fn new(mut stream: R) -> io::Result<Self> {
        let mut first = Vec::with_capacity(6);
        stream.by_ref().take(6).read_to_end(&mut first)?;
        if let Some(name) = other_compression(&first) {
            let why = format!("the stream is compressed with {name}; unpack it, or use gzip or zstd");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        let compression = Compression::of(&first);
        let whole = Cursor::new(first).chain(stream);
        let buffered = |whole| BufReader::with_capacity(BUFFER, whole);
        let form = match compression {
            Compression::None => Form::Plain(whole),
            Compression::Gzip => Form::Gzip(Box::new(MultiGzDecoder::new(buffered(whole)))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(whole))?;
                decoder.window_log_max(LARGEST_WINDOW)?;
                Form::Zstd(decoder)
            }
        };
        Ok(Self { form })
    }

    /// How the stream is compressed.
    pub fn compression(&self) -> Compression {
        match self.form {
            Form::Plain(_) => Compression::None,
            Form::Gzip(_) => Compression::Gzip,
            Form::Zstd(_) => Compression::Zstd,
        }
    }
}

fn other_compression(first: &[u8]) -> Option<&'static str> {
    match first {
        [b'B', b'Z', b'h', ..] => Some("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("xz"),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some("lz4"),
        _ => None,
    }
}

impl<R: Read> Read for Decompressed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.form {
            Form::Plain(stream) => stream.read(buffer),
            Form::Gzip(stream) => stream.read(buffer).map_err(|error| damaged("gzip", error)),
            Form::Zstd(stream) => stream.read(buffer).map_err(|error| damaged("zstd", error)),
        }
    }
}

/// An error of the compression, told apart from one of what is below it.
fn damaged(form: &str, error: io::Error) -> io::Error {
    match error.kind() {
        _ if error.raw_os_error().is_some() => error,
        io::ErrorKind::Other | io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            io::Error::new(io::ErrorKind::InvalidData, format!("damaged {form} data ({error})"))
        }
        _ => error,
    }
}

impl<R: Read> fmt::Debug for Decompressed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Decompressed").field(&self.compression()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(stream: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut stream = Decompressed::new(stream)?;
        let mut data = Vec::new();
        stream.read_to_end(&mut data)?;
        Ok((stream.compression(), data))
    }

    #[test]
    fn each_form_is_recognised() {
        let data = vec![7; 100_000];
        assert_eq!(read(&data).unwrap(), (Compression::None, data.clone()));
        assert_eq!(read(&gzip(&data)).unwrap(), (Compression::Gzip, data.clone()));
        let zstd = zstd::encode_all(&data[..], 1).unwrap();
        assert_eq!(read(&zstd).unwrap(), (Compression::Zstd, data));
        assert_eq!(read(b"").unwrap(), (Compression::None, vec![]));
    }

    #[test]
    fn several_members_and_frames_are_one_stream() {
        assert_eq!(read(&[gzip(b"ab"), gzip(b"cd")].concat()).unwrap().1, b"abcd");
        let frame = |data: &[u8]| zstd::encode_all(data, 1).unwrap();
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        let stream = [skipped.clone(), frame(b"ab"), skipped, frame(b"cd")].concat();
        assert_eq!(read(&stream).unwrap(), (Compression::Zstd, b"abcd".to_vec()));
    }

    #[test]
    fn damage_is_told_as_damage() {
        let data: Vec<u8> =
            (0..50_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for whole in [gzip(&data), zstd::encode_all(&data[..], 1).unwrap()] {
            let cut = read(&whole[..whole.len() / 2]).unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
            let mut flipped = whole.clone();
            let middle = flipped.len() / 2;
            for byte in &mut flipped[middle..middle + 40] {
                *byte ^= 0x55;
            }
            let error = read(&flipped).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }

    #[test]
    fn other_compressions_are_named() {
        for (first, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0", "xz")] {
            let error = read(first).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
