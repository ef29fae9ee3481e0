//! The kernel's log: what it said during a test, and what its blocked tasks wait for.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result};

/// Reads the log from where it last stopped.
#[derive(Debug)]
pub(crate) struct KernelLog(File);

impl KernelLog {
    /// From now on.
    pub(crate) fn from_here() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
            .open("/dev/kmsg")
            .context("cannot open /dev/kmsg")?;
        file.seek(SeekFrom::End(0)).context("cannot go to the end of /dev/kmsg")?;
        Ok(Self(file))
    }

    /// The lines since the last call, at most `limit` (the newest).
    pub(crate) fn take(&mut self, limit: usize) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    // `priority,sequence,microseconds,flags;text`, then lines with key and value.
                    let text = String::from_utf8_lossy(&record[..length]);
                    if let Some((_, text)) = text.lines().next().unwrap_or_default().split_once(';') {
                        lines.push(text.to_owned());
                    }
                }
                // Records were overwritten before we read them: go on with the oldest there is.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                Err(_) => break,
            }
        }
        lines.split_off(lines.len().saturating_sub(limit))
    }
}

/// Has the kernel write every blocked task's stack into its log and onto the console.
pub(crate) fn dump_blocked_tasks() {
    let _louder = std::fs::write("/proc/sys/kernel/printk", "8");
    if let Err(error) = std::fs::write("/proc/sysrq-trigger", "w") {
        eprintln!("thinlayer agent: cannot dump the blocked tasks: {error}");
    }
    std::thread::sleep(Duration::from_millis(300));
    let _quieter = std::fs::write("/proc/sys/kernel/printk", "4");
}
