//! Room on the host file system.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::{run, sparse_file};
use thinlayer_dm::Bytes;
use thinlayer_provision::{Allocation, Backing, Ensured, ErrorKind, System};

use crate::support::{MIB, Mounted, RW, detach, du, expect, text, word};

pub(crate) fn no_room() -> Result<()> {
    let system = System::new();
    let ext4 = ["mkfs.ext4", "-q"];
    // No extents, so no fallocate: zeros are written.
    let ext3 = ["mkfs.ext3", "-q"];
    for (name, mkfs) in [("four", ext4), ("three", ext3)] {
        let host = Mounted::new(name, &mkfs, 64 * MIB)?;
        let file = host.folder.join("metadata");
        let before = host.free()?;
        expect(
            system.ensure_file(&file, Bytes(128 * MIB), Allocation::Full).map(drop),
            ErrorKind::NoSpace,
            &["no room for", text(&file)?, "134217728 bytes are needed"],
        )?;
        ensure!(!file.exists() && host.free()? == before, "something was left");

        sparse_file(&file, 128 * MIB)?;
        let before = host.free()?;
        for size in [64 * MIB, 256 * MIB] {
            let grown = system.ensure_file(&file, Bytes(size), Allocation::Full);
            expect(grown.map(drop), ErrorKind::NoSpace, &["no room for"])?;
        }
        ensure!(fs::metadata(&file)?.len() == 128 * MIB && host.free()? == before);
        fs::remove_file(&file)?;

        host.fill()?;
        let result = system.ensure_file(&file, Bytes(4 * MIB), Allocation::Full);
        expect(result.map(drop), ErrorKind::NoSpace, &["no room for"])?;
        ensure!(!file.exists());
        // With room again it works.
        fs::remove_file(host.folder.join("filler"))?;
        ensure!(system.ensure_file(&file, Bytes(4 * MIB), Allocation::Full)? == Ensured::Created);
    }
    Ok(())
}

pub(crate) fn allocated() -> Result<()> {
    let system = System::new();
    let hosts: [(&str, &[&str], u64); 4] = [
        ("ext4", &["mkfs.ext4", "-q"], 64 * MIB),
        ("ext3", &["mkfs.ext3", "-q"], 64 * MIB),
        ("ext2", &["mkfs.ext2", "-q"], 64 * MIB),
        ("xfs", &["mkfs.xfs", "-q"], 300 * MIB),
    ];
    for (name, mkfs, bytes) in hosts {
        let host = Mounted::new(name, mkfs, bytes)?;
        let made = host.folder.join("made");
        ensure!(system.ensure_file(&made, Bytes(8 * MIB), Allocation::Full)? == Ensured::Created);
        let mode = fs::metadata(&made)?.permissions().mode() & 0o7777;
        ensure!(mode == 0o600, "{name}: mode {mode:o}");
        ensure!(du(&made)? >= 8 * MIB, "{name}: du finds {}", du(&made)?);
        no_holes_by_filefrag(&made, 8 * MIB).with_context(|| name.to_owned())?;

        let sparse = host.folder.join("sparse");
        sparse_file(&sparse, 8 * MIB)?;
        for (at, byte) in [(0, b'a'), (3 * MIB + 100, b'b'), (8 * MIB - 50, b'c')] {
            File::options().write(true).open(&sparse)?.write_at(&[byte; 50], at)?;
        }
        let content = fs::read(&sparse)?;
        ensure!(du(&sparse)? < MIB, "{name}: not sparse");
        ensure!(system.ensure_file(&sparse, Bytes(8 * MIB), Allocation::Full)? == Ensured::AsItWas);
        ensure!(du(&sparse)? >= 8 * MIB, "{name}: du finds {} after filling", du(&sparse)?);
        no_holes_by_filefrag(&sparse, 8 * MIB).with_context(|| name.to_owned())?;
        ensure!(fs::read(&sparse)? == content, "{name}: the content changed");
        let grown = system.ensure_file(&sparse, Bytes(12 * MIB), Allocation::Full)?;
        ensure!(grown == Ensured::Grown { from: Bytes(8 * MIB) }, "{grown:?}");
        ensure!(du(&sparse)? >= 12 * MIB && fs::read(&sparse)?[..content.len()] == content[..]);
        let facts = system.file(&sparse)?.context("no facts")?;
        ensure!(facts.size == Bytes(12 * MIB) && facts.allocated == Bytes(du(&sparse)?), "{facts:?}");
    }
    Ok(())
}

/// filefrag lists extents; their lengths in units of 1 KiB make the whole file.
fn no_holes_by_filefrag(file: &Path, size: u64) -> Result<()> {
    let shown = word("filefrag", &["-s", "-v", "-b1024", text(file)?])?;
    let lengths = shown.lines().filter_map(|line| line.split(':').nth(3)?.trim().parse::<u64>().ok());
    let sum: u64 = lengths.sum();
    ensure!(sum >= size / 1024, "filefrag finds {sum} KiB:\n{shown}");
    Ok(())
}

pub(crate) fn full_host() -> Result<()> {
    full("ext4", &["mkfs.ext4", "-q"], 64 * MIB)?;
    full("ext3", &["mkfs.ext3", "-q"], 64 * MIB)?;
    full("xfs", &["mkfs.xfs", "-q"], 300 * MIB)
}

fn full(name: &str, mkfs: &[&str], bytes: u64) -> Result<()> {
    let system = System::new();
    let host = Mounted::new(name, mkfs, bytes)?;
    let file = host.folder.join("metadata");
    system.ensure_file(&file, Bytes(8 * MIB), Allocation::Full)?;
    host.fill()?;
    // The next start asks again, and there is nothing to be had and nothing missing.
    let again =
        system.ensure_file(&file, Bytes(8 * MIB), Allocation::Full).with_context(|| name.to_owned())?;
    ensure!(again == Ensured::AsItWas, "{name}: {again:?}");
    let attachment = system.attach(&file, RW)?;
    let to = format!("of={}", attachment.node.display());
    run("dd", ["if=/dev/urandom", &to, "bs=1M", "count=8", "conv=fsync"]).with_context(|| name.to_owned())?;
    detach(attachment)
}
