//! The VM's disks, found by the serial that the host gave each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The node of the disk with this serial, once the kernel has found it.
pub(crate) fn find(serial: &str) -> Result<PathBuf> {
    let start = Instant::now();
    loop {
        if let Some(disk) = look(serial) {
            return Ok(disk);
        }
        if start.elapsed() > Duration::from_secs(60) {
            bail!("no disk with serial {serial} appeared within 60 s");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn look(serial: &str) -> Option<PathBuf> {
    fs::read_dir("/sys/block").ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("serial")).ok()?;
        let node = Path::new("/dev").join(entry.file_name());
        (found.trim_end() == serial && node.exists()).then_some(node)
    })
}
