//! A disk for LVM: a loop device on the scratch disk, and what LVM says of it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use harness::{run, scratch_dir, sparse_file, try_run};

/// Large enough for 1 % of it to be an extent, and for xfs.
pub(crate) const SIZE: u64 = 2 << 30;

/// A loop device with a name. Volume groups on it, dmeventd and the device go with this value; the file stays.
pub(crate) struct Disk {
    pub(crate) file: PathBuf,
    pub(crate) node: PathBuf,
}

impl Disk {
    /// A new, empty one.
    pub(crate) fn new(name: &str, size: u64) -> Result<Self> {
        let file = scratch_dir()?.join(name);
        sparse_file(&file, size)?;
        Self::again(&file)
    }

    /// One on a file that is there.
    pub(crate) fn again(file: &Path) -> Result<Self> {
        let shown = run("losetup", [Path::new("--find"), Path::new("--show"), file])?;
        let node = PathBuf::from(shown.stdout_text());
        harness::wait_for_udev()?;
        Ok(Self { file: file.to_owned(), node })
    }

    pub(crate) fn option(&self) -> String {
        format!("dm.directlvm_device={}", self.node.display())
    }

    /// Every byte on it, as it would be after a power cut.
    pub(crate) fn content(&self) -> Result<Vec<u8>> {
        run("sync", [""; 0])?;
        Ok(fs::read(&self.file)?)
    }

    /// Empties it, so that the next set-up finds nothing.
    pub(crate) fn wipe(&self) -> Result<()> {
        deactivate()?;
        if try_run("vgs", ["docker"])?.status.success() {
            run("vgremove", ["--force", "--yes", "docker"])?;
        }
        let _no_volume = try_run("pvremove", [Path::new("--yes"), &self.node])?;
        let size = fs::metadata(&self.file)?.len();
        let file = fs::File::options().write(true).open(&self.file)?;
        // Under the loop device, whose cache must not remember.
        file.set_len(0)?;
        file.set_len(size)?;
        run("blockdev", [Path::new("--flushbufs"), &self.node])?;
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _inactive = deactivate();
        end_dmeventd();
        let _detached = try_run("losetup", [Path::new("--detach"), &self.node]);
    }
}

/// Takes the devices of all volume groups away, as a shutdown does.
pub(crate) fn deactivate() -> Result<()> {
    harness::wait_for_udev()?;
    run("vgchange", ["--activate", "n"]).map(drop)
}

/// The daemon that LVM started to watch its pools.
pub(crate) fn end_dmeventd() {
    for file in ["/run/dmeventd.pid", "/var/run/dmeventd.pid"] {
        if let Ok(text) = fs::read_to_string(file) {
            let _ended = try_run("kill", ["-9", text.trim()]);
            let _stale = fs::remove_file(file);
        }
    }
}

/// What LVM and device-mapper say of the pool, without numbers that a second making may draw anew.
pub(crate) fn portrait() -> Result<String> {
    const VOLUMES: &str = "lv_name,lv_size,lv_attr,segtype,chunk_size,zero,lv_profile,transaction_id,thin_count,discards,seg_monitor";
    let volumes =
        run("lvs", ["--all", "--noheadings", "--units", "b", "--sort", "lv_name", "-o", VOLUMES, "docker"])?;
    let group = run(
        "vgs",
        [
            "--noheadings",
            "--units",
            "b",
            "-o",
            "vg_name,vg_size,vg_free,pv_count,lv_count,vg_extent_size",
            "docker",
        ],
    )?;
    let tables = run("dmsetup", ["table"])?;
    let profile = fs::read_to_string("/etc/lvm/profile/docker-thinpool.profile").context("no profile")?;
    Ok(format!("{}\n{}\n{}\n{profile}", volumes.stdout_text(), group.stdout_text(), tables.stdout_text()))
}

/// An id of LVM's: of a physical volume or of the group. `None`: there is none.
pub(crate) fn uuid(program: &str, field: &str) -> Result<Option<String>> {
    let said = run(program, ["--noheadings", "-o", field])?.stdout_text();
    let text = said.trim().to_owned();
    ensure!(!text.contains('\n'), "{program} has more than one: {text}");
    Ok((!text.is_empty()).then_some(text))
}
