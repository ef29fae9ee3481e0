//! Snapshots of origins that are not active, and of ones that are written meanwhile.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Test, test};
use thinlayer_dm::{Access, DeviceMapper, Sectors};
use thinlayer_thin::{Kind, ThinStatus};

use crate::rig::{Rig, activate, deactivate, figures, fill, id, name, peek, refused, sectors, thin};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test("a snapshot shares blocks and goes its own way", inactive),
        test("a snapshot of a file system under way mounts clean, and writers go on", active)
            .deadline(Duration::from_secs(240)),
        test("an origin is resumed when the snapshot is refused", resumed),
    ]
}

fn inactive() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let origin = thin(&pool, 1, sectors(8))?;
    fill(origin.node(), 0, 10, b'a')?;
    deactivate(&pool, &origin)?;
    let used = figures(&pool)?.used_data;
    pool.create_snap(id(2)?, id(1)?)?;
    ensure!(figures(&pool)?.used_data == used, "a snapshot took data blocks");

    let origin = activate(&pool, 1, sectors(8))?;
    let snapshot = activate(&pool, 2, sectors(8))?;
    ensure!(peek(snapshot.node(), 9)? == b'a');
    fill(origin.node(), 9, 1, b'b')?;
    fill(snapshot.node(), 0, 1, b'c')?;
    ensure!(figures(&pool)?.used_data.0 == used.0 + 2, "two blocks were written, {}", figures(&pool)?);
    deactivate(&pool, &origin)?;
    deactivate(&pool, &snapshot)?;
    let origin = activate(&pool, 1, sectors(8))?;
    let snapshot = activate(&pool, 2, sectors(8))?;
    let seen = [(origin.node(), 0), (origin.node(), 9), (snapshot.node(), 0), (snapshot.node(), 9)];
    let seen = seen.map(|(node, block)| peek(node, block).map(char::from).ok());
    ensure!(seen == [Some('a'), Some('b'), Some('c'), Some('a')], "{seen:?}");
    let expected = ThinStatus::Mapped { mapped: Sectors(1280), highest: Some(Sectors(1279)) };
    ensure!(pool.thin_status(&snapshot)? == expected);
    deactivate(&pool, &origin)?;
    deactivate(&pool, &snapshot)?;
    rig.close(&pool)
}

/// Writes files without end; each is on disk before the next.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<std::io::Result<()>>,
}

impl Writer {
    fn start(folder: &Path) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
        let folder = folder.to_owned();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                let number = count.load(Ordering::SeqCst);
                let file = folder.join(format!("{}", number % 200));
                std::fs::write(&file, format!("{number:010}").repeat(2000))?;
                std::fs::File::open(&file)?.sync_all()?;
                count.store(number + 1, Ordering::SeqCst);
            }
            Ok(())
        });
        Self { stop, written, thread }
    }

    fn count(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Waits until so many more files are on disk.
    fn progress(&self, more: u64) -> Result<u64> {
        let goal = self.count() + more;
        harness::eventually("the writer", Duration::from_secs(60), || {
            let now = self.count();
            Ok(if now >= goal { Ok(now) } else { Err(format!("{now} of {goal} files")) })
        })
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?.context("the writer")
    }
}

fn active() -> Result<()> {
    let rig = Rig::new(8 << 20, 256 << 20)?;
    let pool = rig.create()?;
    let origin = thin(&pool, 1, sectors(64))?;
    let node = origin.node().to_string_lossy().into_owned();
    harness::run("mkfs.ext4", ["-q", "-F", &node])?;
    let mount = harness::scratch_dir()?.join("origin");
    let view = harness::scratch_dir()?.join("view");
    std::fs::create_dir(&mount)?;
    std::fs::create_dir(&view)?;
    let (mount_text, view_text) = (mount.to_string_lossy().into_owned(), view.to_string_lossy().into_owned());
    harness::run("mount", [&node, &mount_text])?;

    let writer = Writer::start(&mount);
    for round in 2..6 {
        let before = writer.progress(5)?;
        pool.snapshot_of_active(&origin, id(round)?)?;
        ensure!(!rig.dm.info(origin.name().into())?.context("gone")?.suspended);
        writer.progress(2)?;

        let snapshot =
            pool.activate(&name(&format!("thin-{round}"))?, id(round)?, sectors(64), Access::ReadOnly)?;
        harness::wait_for_udev()?;
        let snapshot_node = snapshot.node().to_string_lossy().into_owned();
        // Frozen, the file system was complete: there is nothing to recover, so it mounts from a device that cannot be written.
        harness::run("e2fsck", ["-fn", &snapshot_node])?;
        harness::run("mount", ["-o", "ro", &snapshot_node, &view_text])?;
        // What was on disk before the snapshot is in it, whole.
        let last = before - 1;
        let content = std::fs::read_to_string(view.join(format!("{}", last % 200)))?;
        let number: u64 = content.get(..10).context("an empty file")?.parse()?;
        ensure!(
            content.len() == 20_000 && number >= last,
            "round {round}: {} bytes of {number}",
            content.len()
        );
        harness::run("umount", [&view_text])?;
        deactivate(&pool, &snapshot)?;
    }
    writer.end()?;
    harness::run("umount", [&mount_text])?;
    harness::run("e2fsck", ["-fn", &node])?;
    deactivate(&pool, &origin)?;
    rig.close(&pool)
}

fn resumed() -> Result<()> {
    let rig = Rig::usual()?;
    let pool = rig.create()?;
    let origin = thin(&pool, 1, sectors(8))?;
    pool.create_thin(id(2)?)?;
    refused("a taken id", pool.snapshot_of_active(&origin, id(2)?), Kind::Exists, &["thin id 2"])?;
    ensure!(!rig.dm.info(origin.name().into())?.context("gone")?.suspended, "it is left suspended");
    fill(origin.node(), 0, 4, 1)?;
    deactivate(&pool, &origin)?;
    refused(
        "a device that is gone",
        pool.snapshot_of_active(&origin, id(3)?),
        Kind::NotFound,
        &["tlt-thin-1"],
    )?;
    rig.close(&pool)
}
