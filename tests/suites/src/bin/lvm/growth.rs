//! More room, from the volume group.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thinlayer_graphdriver::{Bytes, CreateRequest, LayerId, Unmount};
use thinlayer_provision::ErrorKind;
use thinlayer_provision::lvm::{self, Installed, PoolVolume};

use crate::disk::Disk;
use crate::root::{folder, open, small};

const MIB: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(60);

/// Data and metadata in bytes, as the kernel has them.
fn totals() -> Result<(u64, u64)> {
    let status = harness::run("dmsetup", ["status", "--noflush", "docker-thinpool"])?.stdout_text();
    let total = |word: usize| -> Option<u64> { status.split(' ').nth(word)?.split_once('/')?.1.parse().ok() };
    let (metadata, data) = total(4).zip(total(5)).with_context(|| format!("no totals in {status}"))?;
    Ok((data * 512 * 1024, metadata * 4096))
}

pub(crate) fn grows() -> Result<()> {
    let disk = Disk::new("disk", 900 * MIB)?;
    let root = folder("root")?;
    // LVM is to leave the pool alone: 100 turns its own extension off.
    let options = small(&[
        disk.option(),
        "dm.thinp_percent=10".into(),
        "dm.thinp_metapercent=1".into(),
        "dm.thinp_autoextend_threshold=100".into(),
        "dm.min_free_space=0%".into(),
    ]);
    let open = open(&root, &options)?;
    let (programs, pool) = (Installed::new(), PoolVolume::docker());
    let facts = lvm::look(&programs, &pool, DEADLINE)?.context("LVM does not know the pool")?;
    let kernel = totals()?;
    ensure!((facts.data.0, facts.metadata.0) == kernel, "LVM has {facts:?}, and the kernel {kernel:?}");
    ensure!(facts.chunk == Bytes(512 << 10) && !facts.zero && facts.active, "{facts:?}");

    // With a layer mounted, both sides.
    let id = LayerId::given("layer")?;
    let request = CreateRequest::empty().size(Bytes(400 * MIB));
    open.driver.create(&id, &request)?;
    let tree = open.driver.get(&id, None)?;
    fs::write(tree.join("file"), "before")?;
    let (data, metadata) = (facts.data.0 + 8 * MIB, facts.metadata.0 + 4 * MIB);
    let grown = lvm::grow(&programs, &pool, Some(Bytes(data)), Some(Bytes(metadata)), DEADLINE)?;
    ensure!(grown.changed() && totals()? == (data, metadata), "it has {:?}", totals()?);
    ensure!((grown.now.data.0, grown.now.metadata.0) == (data, metadata), "{grown:?}");
    let again = lvm::grow(&programs, &pool, Some(Bytes(data)), Some(Bytes(MIB)), DEADLINE)?;
    ensure!(!again.changed(), "it grew again: {again:?}");

    // More than there is changes nothing.
    let error = lvm::grow(&programs, &pool, Some(Bytes(1 << 40)), None, DEADLINE).err();
    let error = error.context("a disk of 900 MiB gave 1 TiB")?;
    ensure!(
        error.kind() == ErrorKind::NoSpace && error.to_string().contains("volume group docker"),
        "{error}"
    );
    ensure!(totals()? == (data, metadata), "it has {:?}", totals()?);

    // A writer that the full pool holds up goes on.
    let path = tree.join("large");
    let bytes = data + 40 * MIB;
    let writer = std::thread::spawn(move || -> Result<()> {
        let mut file = fs::File::create(&path)?;
        let block = vec![0x5a_u8; 1 << 20];
        for _ in 0..bytes / MIB {
            file.write_all(&block)?;
        }
        Ok(file.sync_all()?)
    });
    harness::eventually("the pool to be full", Duration::from_secs(60), || {
        let status = harness::run("dmsetup", ["status", "--noflush", "docker-thinpool"])?.stdout_text();
        Ok(if status.contains("out_of_data_space") { Ok(()) } else { Err(status) })
    })?;
    lvm::grow(&programs, &pool, Some(Bytes(data + 100 * MIB)), None, DEADLINE)?;
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    ensure!(fs::read_to_string(tree.join("file"))? == "before", "what was there before is not");
    open.driver.put(&id, Unmount::Now)?;
    open.driver.remove(&id)?;
    open.stop()
}
