//! An ext4 whose device fails for a while keeps what was synced, in its journal.

use crate::bench::{Bench, has};
use anyhow::{Context, Result, ensure};
use harness::{run, try_run};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use thinlayer_filesystem::{Filesystems, Kind, MountRequest, Unmount, Unmounted};

const NAME: &str = "tlt-breaks";

/// A device on the bench's, which can fail and be well again.
struct Breakable<'a> {
    bench: &'a Bench,
    sectors: String,
}

impl<'a> Breakable<'a> {
    fn new(bench: &'a Bench) -> Result<Self> {
        let sectors = run("blockdev", [Path::new("--getsz"), bench.device()])?.stdout_text();
        let device = Self { bench, sectors };
        run("dmsetup", ["create", NAME, "--table", &device.well()])?;
        // Without udev the device has no node.
        run("dmsetup", ["mknodes", NAME])?;
        Ok(device)
    }

    fn well(&self) -> String {
        format!("0 {} linear {} 0", self.sectors, self.bench.device().display())
    }

    fn table(&self, table: &str) -> Result<()> {
        run("dmsetup", ["suspend", "--noflush", "--nolockfs", NAME])?;
        run("dmsetup", ["load", NAME, "--table", table])?;
        run("dmsetup", ["resume", NAME]).map(drop)
    }

    fn fail(&self) -> Result<()> {
        self.table(&format!("0 {} error", self.sectors))
    }

    fn mend(&self) -> Result<()> {
        self.table(&self.well())
    }

    fn node(&self) -> PathBuf {
        Path::new("/dev/mapper").join(NAME)
    }

    fn mount(&self) -> Result<()> {
        let request = MountRequest { device: self.node(), ..self.bench.request(&[]) };
        Ok(self.bench.system.mount(&request)?)
    }

    /// The file system's own structures go to their places, if they can.
    fn write_back(&self) -> Result<bool> {
        Ok(try_run("sync", [self.node()])?.status.success())
    }
}

impl Drop for Breakable<'_> {
    fn drop(&mut self) {
        let _well = self.mend();
        let _unmounted = try_run("umount", [&self.bench.target]);
        let _removed = try_run("dmsetup", ["remove", "--retry", NAME]);
    }
}

fn synced(path: &Path, content: &str) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    Ok(File::open(path.parent().context("no parent")?)?.sync_all()?)
}

pub(crate) fn outlives_an_unmount() -> Result<()> {
    // The failure is over at the unmount, or not.
    for (name, in_time) in [("mended-before", true), ("mended-after", false)] {
        let bench = Bench::made(Kind::Ext4, &[])?;
        let device = Breakable::new(&bench)?;
        device.mount()?;
        let folder = bench.target.join("folder");
        fs::create_dir(&folder)?;
        synced(&folder.join("file"), name)?;
        device.fail()?;
        ensure!(!device.write_back()?, "a device that fails takes writes");
        if in_time {
            device.mend()?;
        }
        ensure!(bench.system.unmount(&bench.target, Unmount::Now)? == Unmounted::Done, "not unmounted");
        ensure!(!bench.is_mounted()?, "it is still mounted");
        device.mend()?;
        device.mount()?;
        let found = fs::read_to_string(folder.join("file")).context("what was synced is gone")?;
        ensure!(found == name, "{found:?}");
        // And it takes writes again.
        synced(&folder.join("more"), "more")?;
        bench.system.unmount(&bench.target, Unmount::Now)?;
        let checked = run("e2fsck", [Path::new("-f"), Path::new("-n"), &device.node()])?;
        has(checked.stdout_text().lines().last().context("e2fsck says nothing")?, &["files"])?;
    }
    Ok(())
}

pub(crate) fn no_more_writes() -> Result<()> {
    let bench = Bench::made(Kind::Ext4, &[])?;
    let device = Breakable::new(&bench)?;
    device.mount()?;
    synced(&bench.target.join("file"), "kept")?;
    device.fail()?;
    ensure!(!device.write_back()?, "a device that fails takes writes");
    device.mend()?;
    // It might read the old content of what it could not write, and journal that.
    let more = synced(&bench.target.join("more"), "more");
    ensure!(more.is_err(), "it takes writes");
    // Reading goes on, or (Linux 6.12) ends as well.
    match fs::read_to_string(bench.target.join("file")) {
        Ok(text) => ensure!(text == "kept", "the file holds {text:?}"),
        Err(error) => ensure!(error.raw_os_error() == Some(nix::libc::EIO), "{error}"),
    }
    bench.system.unmount(&bench.target, Unmount::Now)?;
    device.mount()?;
    ensure!(fs::read_to_string(bench.target.join("file"))? == "kept", "what was synced is gone");
    Ok(bench.system.unmount(&bench.target, Unmount::Now).map(drop)?)
}
