//! Shows the images of a source, and copies one of them into an archive for `docker load`.
//!
//! ```text
//! cargo run -p thinlayer-image --example images -- SOURCE [NAME ARCHIVE]
//! ```

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use thinlayer_image::{ArchiveWriter, NewImage, ReadOptions, Source};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let source: PathBuf = arguments.next().ok_or("usage: images SOURCE [NAME ARCHIVE]")?.into();
    show(&source, &mut std::io::stdout())?;
    if let (Some(name), Some(archive)) = (arguments.next(), arguments.next()) {
        copy(&source, &name, Path::new(&archive))?;
    }
    Ok(())
}

/// One line for each image and each of its layers, after every byte of it was checked.
pub(crate) fn show(source: &Path, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    for image in Source::open(source, ReadOptions::default())?.images()? {
        writeln!(out, "{} {} {}", image.names.join(" "), image.platform, image.id)?;
        for layer in &image.layers {
            let stream = layer.open_ahead()?;
            let compression = stream.compression();
            stream.finish()?;
            writeln!(out, "  {} {} bytes, {compression:?}", layer.diff_id, layer.stored_bytes)?;
        }
    }
    Ok(())
}

/// The image with its config, its manifest if it has one, and its blobs as they are.
pub(crate) fn copy(source: &Path, name: &str, archive: &Path) -> Result<(), Box<dyn Error>> {
    let image = Source::open(source, ReadOptions::default())?.image(name)?;
    let mut writer = ArchiveWriter::new(
        archive.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")),
    )?;
    let mut layers = Vec::new();
    for layer in &image.layers {
        layers.push(writer.copy(layer)?);
    }
    let names: Vec<_> = image.names.iter().filter_map(|name| name.parse().ok()).collect();
    let manifest = image.manifest.as_ref().map(|manifest| manifest.bytes.as_slice());
    writer.image(&NewImage { names: &names, config: &image.config, layers: &layers, manifest })?;
    writer.finish(BufWriter::new(File::create(archive)?))?;
    Ok(())
}
