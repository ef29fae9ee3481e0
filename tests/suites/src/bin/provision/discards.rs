//! Discarding a device.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{run, sparse_file};
use thinlayer_dm::Bytes;
use thinlayer_provision::{Attachment, Backing, System};

use crate::support::{MIB, Mapped, RW, detach, du, path};

fn filled(bytes: u64) -> Result<(PathBuf, Attachment)> {
    let file = path("data")?;
    sparse_file(&file, bytes)?;
    let attachment = System::new().attach(&file, RW)?;
    let to = format!("of={}", attachment.node.display());
    run("dd", ["if=/dev/urandom", &to, "bs=1M", &format!("count={}", bytes / MIB), "conv=fsync"])?;
    ensure!(du(&file)? >= bytes);
    Ok((file, attachment))
}

pub(crate) fn discard() -> Result<()> {
    let (file, attachment) = filled(32 * MIB)?;
    let told = Mutex::new(Vec::new());
    let discarded = System::new().discard(&attachment.node, None, &|done, all| {
        if let Ok(mut told) = told.lock() {
            told.push((done, all));
        }
    })?;
    ensure!(discarded, "a loop device can discard");
    ensure!(du(&file)? < MIB, "du finds {}", du(&file)?);
    let told = told.into_inner().map_err(|_| anyhow::anyhow!("poisoned"))?;
    ensure!(told == [(Bytes(32 * MIB), Bytes(32 * MIB))], "{told:?}");
    detach(attachment)
}

pub(crate) fn discard_rate() -> Result<()> {
    let (file, attachment) = filled(16 * MIB)?;
    let told = Mutex::new(Vec::new());
    let start = Instant::now();
    // A quarter of a second's worth is 2 MiB: eight pieces, the first at once.
    System::new().discard(&attachment.node, Some(Bytes(8 * MIB)), &|done, _| {
        if let Ok(mut told) = told.lock() {
            told.push((start.elapsed(), done));
        }
    })?;
    let took = start.elapsed();
    ensure!(took >= Duration::from_millis(1700), "16 MiB at 8 MiB a second took {took:?}");
    ensure!(took < Duration::from_secs(30), "16 MiB at 8 MiB a second took {took:?}");
    let told = told.into_inner().map_err(|_| anyhow::anyhow!("poisoned"))?;
    ensure!(told.len() == 8 && told.windows(2).all(|pair| pair[0].1 < pair[1].1), "{told:?}");
    ensure!(told.last().map(|last| last.1) == Some(Bytes(16 * MIB)) && du(&file)? < MIB);
    detach(attachment)
}

pub(crate) fn discard_unsupported() -> Result<()> {
    let (file, attachment) = filled(4 * MIB)?;
    // The limit is set on a device that goes with the test: kernels since 6.9 keep a loop device's for its next file.
    let table = format!("0 {} linear {} 0", 4 * MIB / 512, attachment.number);
    let mapped = Mapped::new("provision-nodiscard", &table)?;
    let node = mapped.node()?;
    let name = node.file_name().context("a name")?;
    fs::write(Path::new("/sys/block").join(name).join("queue/discard_max_bytes"), "0")?;
    let discarded = System::new().discard(&node, None, &|_, _| {})?;
    ensure!(!discarded && du(&file)? >= 4 * MIB, "told {discarded}");
    drop(mapped);
    detach(attachment)
}
