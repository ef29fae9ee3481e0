//! An archive that cannot be read where it lies, put into a file without a name.

use super::ReadOptions;
use crate::compression::Decompressed;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

const BUFFER: usize = 256 << 10;

pub(crate) fn spool(stream: impl Read, name: &Path, options: &ReadOptions) -> Result<File> {
    let place = |error: Error| error.within(name.display().to_string());
    let folder = &options.spool_folder;
    let mut file = tempfile::tempfile_in(folder)
        .map_err(|error| Error::io("make a temporary file in", folder, error))?;
    let mut stream = Decompressed::new(stream).map_err(place)?;
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(place(Error::from_stream(error))),
        };
        bytes += read as u64;
        if bytes > options.spool_limit {
            return Err(place(Error::too_large(
                "the archive, which has to be spooled,",
                options.spool_limit,
            )));
        }
        file.write_all(&buffer[..read])
            .map_err(|error| Error::io("write a temporary file in", folder, error))?;
    }
}
