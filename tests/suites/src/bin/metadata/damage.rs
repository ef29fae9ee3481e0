//! Damaged metadata: an error that names the block, where `thin_check` finds an error, too.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{Test, scratch_dir, test};
use thinlayer_thin::MetaBlocks;
use thinlayer_thin::metadata::writer::seal;
use thinlayer_thin::metadata::{BlockKind, Error, Fault, Metadata};

use crate::rig::{Rig, fill};

const BLOCK: u64 = 4096;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("bytes that dd flips anywhere are found, as thin_check finds them", flipped),
        test("counts that are wrong are found, as thin_check finds them", miscounted),
    ]
}

/// A pool's metadata, in a file of the test.
fn image() -> Result<Vec<u8>> {
    let rig = Rig::new()?;
    let pool = rig.create()?;
    fill(&pool)?;
    rig.remove(&pool)?;
    Ok(std::fs::read(rig.metadata.file())?)
}

fn thin_check_passes(path: &Path) -> Result<bool> {
    Ok(harness::try_run("thin_check", [path])?.status.success())
}

fn u64_at(image: &[u8], at: usize) -> Result<u64> {
    Ok(u64::from_le_bytes(image.get(at..at + 8).context("beyond the image")?.try_into()?))
}

fn flipped() -> Result<()> {
    let whole = image()?;
    let path = scratch_dir()?.join("damaged");
    std::fs::write(&path, &whole)?;
    let metadata = Metadata::open(&path)?;
    let map = metadata.metadata_space_map()?;
    let mut used = Vec::new();
    for block in 0..metadata.blocks().0 {
        if map.count(block)?.unwrap_or(0) > 0 {
            used.push(block);
        }
    }
    ensure!(used.len() > 30, "only {} blocks are in use", used.len());
    let text = path.to_str().context("path")?;
    // The superblock, and others of all kinds.
    for (round, block) in used.iter().step_by(used.len() / 16).enumerate() {
        let at = block * BLOCK + [5, 700, 2049, 4095][round % 4];
        let at = if *block == 0 { 300 } else { at };
        let was = whole[usize::try_from(at)?];
        let byte = format!("\\{:03o}", was ^ 0x55);
        let write = |byte: &str| {
            let script =
                format!("printf '{byte}' | dd of={text} bs=1 seek={at} conv=notrunc,fsync status=none");
            harness::run("sh", ["-c", &script])
        };
        write(&byte)?;
        ensure!(!thin_check_passes(&path)?, "thin_check does not mind byte {at}");
        match Metadata::open(&path) {
            Ok(metadata) => {
                let report = metadata.check();
                let found = report.faults.iter().any(|fault| {
                    matches!(fault, Fault::Unreadable(Error::Damaged { block: found, .. }) if found.0 == *block)
                });
                ensure!(found && !report.counts_compared, "byte {at}, block {block}: {report:?}");
                println!("{}", report.faults[0]);
            }
            Err(error) => {
                println!("{error}");
                ensure!(
                    *block == 0 && error.to_string().contains("metadata block 0"),
                    "block {block}: {error}"
                );
            }
        }
        write(&format!("\\{was:03o}"))?;
    }
    ensure!(std::fs::read(&path)? == whole && thin_check_passes(&path)?);
    ensure!(Metadata::open(&path)?.check().is_sound());
    Ok(())
}

fn miscounted() -> Result<()> {
    let whole = image()?;
    let path = scratch_dir()?.join("damaged");
    // The metadata space map's first bitmap, by way of its index.
    let index = usize::try_from(u64_at(&whole, 208)?)?;
    let bitmap = u64_at(&whole, index * 4096 + 16)?;
    for (count, leak) in [(0_u8, false), (2, true)] {
        let mut image = whole.clone();
        let at = usize::try_from(bitmap * BLOCK)? + 16;
        // Blocks 0 to 3 get this count; the higher bit comes first.
        let bits = (count & 1) << 1 | count >> 1;
        image[at] = bits | bits << 2 | bits << 4 | bits << 6;
        seal(&mut image, MetaBlocks(bitmap), BlockKind::Bitmap);
        std::fs::write(&path, &image)?;
        let report = Metadata::open(&path)?.check();
        println!("{report:?}");
        ensure!(report.counts_compared);
        ensure!(report.faults.iter().any(Fault::is_leak) == leak, "{report:?}");
        ensure!(report.faults.iter().any(|fault| matches!(fault, Fault::Undercounted { .. })) != leak);
        ensure!(!thin_check_passes(&path)?, "thin_check does not mind");
    }
    // The mark that the kernel sets when it could not write its metadata.
    let mut image = whole;
    image[4] |= 1;
    seal(&mut image, MetaBlocks(0), BlockKind::Superblock);
    std::fs::write(&path, &image)?;
    let metadata = Metadata::open(&path)?;
    ensure!(metadata.superblock().needs_check && metadata.check().is_sound());
    ensure!(thin_check_passes(&path)?, "the mark alone is no damage");
    harness::run("thin_check", [Path::new("--clear-needs-check-flag"), &path])?;
    ensure!(!Metadata::open(&path)?.superblock().needs_check);
    Ok(())
}
