//! The loop files of a root.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use harness::run;
use thinlayer_dm::Bytes;
use thinlayer_provision::loop_pool::{
    self, PairState, Side, Sizes, ensure_pair, find_active, grow_side, spend_reserve,
};
use thinlayer_provision::{Backing, ErrorKind, System};

use crate::support::{
    MIB, Mapped, Mounted, detach, du, expect, gone, is_attached, losetup, path, text, word,
};

const SIZES: Sizes = Sizes { data: Bytes(64 * MIB), metadata: Bytes(4 * MIB) };

fn make_root(root: &Path) -> Result<()> {
    for folder in ["devicemapper", "thinlayer"] {
        fs::create_dir_all(root.join(folder))?;
    }
    Ok(())
}

fn pool_table(metadata: &str, data: &str, sectors: u64) -> String {
    format!("0 {sectors} thin-pool {metadata} {data} 128 0 1 skip_block_zeroing")
}

/// Blocks of metadata in use and in all, by dmsetup.
fn metadata_blocks(pool: &str) -> Result<u64> {
    let status = word("dmsetup", &["status", pool])?;
    let (_, all) =
        status.split_whitespace().nth(4).and_then(|both| both.split_once('/')).context(status.clone())?;
    Ok(all.parse()?)
}

pub(crate) fn loop_pool_life() -> Result<()> {
    life_on("ext4", &["mkfs.ext4", "-q"], 128 * MIB)?;
    life_on("xfs", &["mkfs.xfs", "-q"], 300 * MIB)
}

fn life_on(host: &str, mkfs: &[&str], bytes: u64) -> Result<()> {
    let system = System::new();
    let host = Mounted::new(host, mkfs, bytes)?;
    let root = host.folder.join("root");
    make_root(&root)?;
    let pair = ensure_pair(&system, &root, SIZES)?;
    ensure!(pair.state == PairState::Created);
    ensure!(du(&pair.data.path)? == 0 && du(&pair.metadata.path)? >= 4 * MIB);
    let (data, metadata) = (pair.data.attachment.number, pair.metadata.attachment.number);
    let nodes = [pair.data.attachment.node.clone(), pair.metadata.attachment.node.clone()];
    let table = |sectors| pool_table(&metadata.to_string(), &data.to_string(), sectors);
    let pool = Mapped::new("provision-pool", &table(64 * MIB / 512))?;
    drop(pair);
    harness::wait_for_udev()?;
    ensure!(is_attached(&nodes[0])? && is_attached(&nodes[1])?, "the pool does not hold its loop devices");

    let found = find_active(&system, &root, data, metadata)?;
    ensure!(found.data.node == nodes[0] && found.metadata.node == nodes[1], "{found:?}");
    ensure!(found.data.autoclear && found.metadata.autoclear);
    expect(find_active(&system, &root, metadata, data).map(drop), ErrorKind::Invalid, &["another root"])?;
    expect(ensure_pair(&system, &root, SIZES).map(drop), ErrorKind::Busy, &[text(&nodes[0])?])?;

    let grown = grow_side(&system, &root, Side::Data, data, Bytes(96 * MIB))?;
    ensure!(grown.device == Bytes(96 * MIB), "{grown:?}");
    run("dmsetup", ["reload", "provision-pool", "--table", &table(96 * MIB / 512)])?;
    run("dmsetup", ["resume", "provision-pool"])?;
    let status = word("dmsetup", &["status", "provision-pool"])?;
    ensure!(status.contains("/1536 "), "96 MiB are 1536 blocks of 64 KiB: {status}");

    loop_pool::ensure_reserve(&system, &root, Bytes(4 * MIB), "the reserve's option")?;
    host.fill()?;
    let error = grow_side(&system, &root, Side::Metadata, metadata, Bytes(8 * MIB)).map(drop);
    expect(error, ErrorKind::NoSpace, &["dm.loopmetadatasize"])?;
    ensure!(metadata_blocks("provision-pool")? == 1024);
    let spent = spend_reserve(&system, &root, metadata)?.context("there is a reserve")?;
    // The host may need a little of it for itself.
    ensure!(spent.added.0 >= 3 * MIB && spent.device.0 == 4 * MIB + spent.added.0, "{spent:?}");
    run("dmsetup", ["reload", "provision-pool", "--table", &table(96 * MIB / 512)])?;
    run("dmsetup", ["resume", "provision-pool"])?;
    ensure!(metadata_blocks("provision-pool")? == spent.device.0 / 4096);
    ensure!(spend_reserve(&system, &root, metadata)?.is_none());
    run("dmsetup", ["message", "provision-pool", "0", "create_thin 0"])?;

    drop(pool);
    gone(&nodes[0])?;
    gone(&nodes[1])?;
    let pair = loop_pool::open_read_only(&system, &root)?;
    run("thin_check", [&pair.metadata.attachment.node])?;
    ensure!(losetup(&pair.data.attachment.node, "RO")? == "1");
    detach(pair.data.attachment)?;
    detach(pair.metadata.attachment)
}

pub(crate) fn loop_pool_duplicates() -> Result<()> {
    let system = System::new();
    let root = path("root")?;
    make_root(&root)?;
    let pair = ensure_pair(&system, &root, SIZES)?;
    let (data, metadata) = (pair.data.attachment.number, pair.metadata.attachment.number);
    // losetup refuses nothing here, and the kernel neither.
    let other = word("losetup", &["--find", "--show", text(&pair.metadata.path)?])?;
    let refused = find_active(&system, &root, data, metadata).map(drop);
    let checked = expect(refused, ErrorKind::Busy, &["another loop device holds the same file", &other]);
    detach(pair.data.attachment)?;
    detach(pair.metadata.attachment)?;
    let larger = Sizes { data: Bytes(128 * MIB), metadata: Bytes(8 * MIB) };
    let refused = ensure_pair(&system, &root, larger).map(drop);
    let checked = checked.and_then(|()| expect(refused, ErrorKind::Busy, &[&other]));
    run("losetup", ["--detach", &other])?;
    gone(Path::new(&other))?;
    checked?;
    ensure!(fs::metadata(Side::Data.path(&root))?.len() == 64 * MIB, "a refused pair was grown");
    ensure!(system.loops()?.is_empty(), "{:?}", system.loops()?);
    Ok(())
}

pub(crate) fn loop_pool_partial() -> Result<()> {
    let system = System::new();
    for there in [Side::Data, Side::Metadata] {
        let root = path(&format!("root-{there}"))?;
        make_root(&root)?;
        fs::write(there.path(&root), vec![1; 8192])?;
        expect(
            ensure_pair(&system, &root, SIZES).map(drop),
            ErrorKind::Invalid,
            &["file is missing", "move"],
        )?;
        ensure!(fs::read_dir(root.join("devicemapper"))?.count() == 1);
        ensure!(fs::read(there.path(&root))? == [1; 8192]);
    }
    ensure!(system.loops()?.is_empty());
    Ok(())
}
