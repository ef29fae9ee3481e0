//! One layer of an image in a source, and the stream of its tar.

use crate::compression::{Compression, Decompressed};
use crate::digest::{Digest, VerifyingReader};
use crate::error::{Error, Result};
use crate::read_ahead::ReadAhead;
use crate::slice::Slice;
use crate::source::Storage;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A layer that a source holds. Nothing of it is read before it is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Layer {
    /// The digest of its uncompressed tar, as the image's config says.
    pub diff_id: Digest,
    /// The digest of the stack up to this layer.
    pub chain_id: Digest,
    /// The digest of the bytes as they are stored, where the source names one.
    pub blob: Option<Digest>,
    /// The media type, where the source names one. What the bytes are is decided by looking at them.
    pub media_type: Option<String>,
    /// Bytes as they are stored.
    pub stored_bytes: u64,
    pub(crate) storage: Arc<Storage>,
    pub(crate) name: String,
    /// For errors.
    pub(crate) place: String,
    pub(crate) limit: u64,
}

impl Layer {
    /// The stream of its uncompressed tar. Its end comes only if blob digest, size and diff id are all as they should be.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Unsupported`], [`Error::Damaged`], and those of the disk.
    pub fn open(&self) -> Result<LayerStream> {
        self.stream(false)
    }

    /// As [`Layer::open`], with reading, checking and decompressing on up to three threads of their own, which hold at most 5 MiB and end with the stream.
    ///
    /// # Errors
    /// As of [`Layer::open`].
    pub fn open_ahead(&self) -> Result<LayerStream> {
        self.stream(true)
    }

    /// The bytes as they are stored, checked against their digest where one is known, and their size.
    ///
    /// # Errors
    /// As of [`Layer::open`].
    pub fn open_stored(&self) -> Result<LayerStream> {
        let (reader, read) = self.stored()?;
        Ok(LayerStream {
            reader: Box::new(reader),
            read,
            place: self.place.clone(),
            compression: Compression::None,
        })
    }

    fn stored(&self) -> Result<(VerifyingReader<Counted>, Arc<AtomicU64>)> {
        let slice = self.storage.open(&self.name)?.ok_or_else(|| self.missing())?;
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { slice, read: Arc::clone(&read) };
        Ok((VerifyingReader::new(counted, "the blob", self.blob, Some(self.stored_bytes)), read))
    }

    /// The size of the stored bytes, which must be the stated one.
    pub(crate) fn look(&self, stated: Option<u64>) -> Result<u64> {
        let slice = self
            .storage
            .open(&self.name)
            .map_err(|error| self.at_place(error))?
            .ok_or_else(|| self.missing())?;
        match (slice.left(), stated) {
            (found, Some(expected)) if found != expected => {
                let error = Error::WrongSize { what: "the blob", expected, found, digest: self.blob };
                Err(self.at_place(error))
            }
            (found, _) => Ok(found),
        }
    }

    fn missing(&self) -> Error {
        let what = match self.blob {
            Some(digest) => format!("its blob {digest}"),
            None => format!("its file {}", crate::digest::clipped(&self.name)),
        };
        Error::Missing { what }.within(&self.place)
    }

    fn stream(&self, ahead: bool) -> Result<LayerStream> {
        let (stored, read) = self.stored().map_err(|error| self.at_place(error))?;
        let threaded = |stream: Box<dyn Read + Send>| -> Result<Box<dyn Read + Send>> {
            if !ahead {
                return Ok(stream);
            }
            match ReadAhead::new(stream) {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(Error::Stream(error).within(&self.place)),
            }
        };
        let decompressed =
            Decompressed::new(threaded(Box::new(stored))?).map_err(|error| error.within(&self.place))?;
        let compression = decompressed.compression();
        let reader: Box<dyn Read + Send> =
            if compression == Compression::None && self.blob == Some(self.diff_id) {
                // The same digest of the same bytes was taken already.
                let tar = VerifyingReader::unhashed(decompressed, "the layer's tar").limited(self.limit);
                Box::new(tar)
            } else {
                let decompressed: Box<dyn Read + Send> = match compression {
                    Compression::None => Box::new(decompressed),
                    _ => threaded(Box::new(decompressed))?,
                };
                let tar = VerifyingReader::new(decompressed, "the layer's tar", Some(self.diff_id), None)
                    .limited(self.limit);
                threaded(Box::new(tar))?
            };
        Ok(LayerStream { reader, read, place: self.place.clone(), compression })
    }

    fn at_place(&self, error: Error) -> Error {
        match error {
            Error::In { .. } => error,
            error => error.within(&self.place),
        }
    }
}

#[derive(Debug)]
struct Counted {
    slice: Slice,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.slice.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// The stream of a layer. Errors name the image and the layer; [`Error::from_stream`] takes them out of [`io::Error`].
pub struct LayerStream {
    reader: Box<dyn Read + Send>,
    read: Arc<AtomicU64>,
    place: String,
    compression: Compression,
}

impl LayerStream {
    /// How the stored bytes are compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Bytes of [`Layer::stored_bytes`] read so far, for a progress bar on any thread.
    pub fn progress(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }

    /// Reads what is left, so that everything is checked. Whoever read to the end needs it not.
    ///
    /// # Errors
    /// What is wrong with the layer.
    pub fn finish(mut self) -> Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop).map_err(Error::from_stream)
    }
}

impl Read for LayerStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => Error::from_stream(error).within(&self.place).into(),
        })
    }
}

impl std::fmt::Debug for LayerStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LayerStream")
            .field("place", &self.place)
            .field("compression", &self.compression)
            .finish()
    }
}
