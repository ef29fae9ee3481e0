//! Removing what a test left: mounts, device-mapper devices, loop devices.
//!
//! Reads `/proc` and `/sys` and starts a program only where there is something to remove.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Mount points, in the order they were mounted.
    pub mounts: Vec<PathBuf>,
    /// Names of device-mapper devices.
    pub devices: Vec<String>,
    /// Loop devices with a file, by node.
    pub loops: Vec<PathBuf>,
}

impl Inventory {
    /// What is there now.
    pub fn take() -> Result<Self> {
        Ok(Self { mounts: mounts()?, devices: devices()?, loops: loops()? })
    }

    /// What is here and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        fn rest<T: Clone + PartialEq>(ours: &[T], theirs: &[T]) -> Vec<T> {
            let mut theirs = theirs.to_vec();
            ours.iter()
                .filter(|item| match theirs.iter().position(|their| their == *item) {
                    Some(index) => {
                        theirs.swap_remove(index);
                        false
                    }
                    None => true,
                })
                .cloned()
                .collect()
        }
        Self {
            mounts: rest(&self.mounts, &other.mounts),
            devices: rest(&self.devices, &other.devices),
            loops: rest(&self.loops, &other.loops),
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty() && self.devices.is_empty() && self.loops.is_empty()
    }

    /// One line for a person.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.mounts.iter().map(|mount| format!("mount {}", mount.display())));
        parts.extend(self.devices.iter().map(|device| format!("device {device}")));
        parts.extend(self.loops.iter().map(|device| format!("loop {}", device.display())));
        parts.join(", ")
    }
}

/// Removes everything that is not in `before`; what is still there at the deadline is the error.
pub fn back_to(before: &Inventory, deadline: Duration) -> Result<()> {
    remove(deadline, || Ok(Inventory::take()?.without(before)))
}

/// Removes device-mapper devices whose names start with `prefix`, mounts below `folder`, and loop devices whose
/// files are below `folder`.
pub fn sweep(prefix: &str, folder: &Path, deadline: Duration) -> Result<()> {
    remove(deadline, || {
        let mut found = Inventory::take()?;
        found.mounts.retain(|mount| mount.starts_with(folder) && mount != folder);
        found.devices.retain(|device| device.starts_with(prefix));
        found.loops.retain(|device| backing_file(device).is_some_and(|file| file.starts_with(folder)));
        Ok(found)
    })
}

fn remove(deadline: Duration, find: impl Fn() -> Result<Inventory>) -> Result<()> {
    let start = Instant::now();
    loop {
        let left = find()?;
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() >= deadline {
            bail!("after {:.0} s there is still: {}", start.elapsed().as_secs_f64(), left.describe());
        }
        // Everything stacks on what was there before it, so the newest goes first; what is still busy goes in
        // the next round.
        for mount in left.mounts.iter().rev() {
            if umount2(mount, MntFlags::UMOUNT_NOFOLLOW).is_err() {
                let _lazily = umount2(mount, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
            }
        }
        // A suspended device would block its own removal: `--force` gives it an error table and resumes it.
        for device in left.devices.iter().rev() {
            let _tried = crate::try_run("dmsetup", ["remove", "--force", "--noudevsync", device.as_str()]);
        }
        for device in &left.loops {
            let _tried = crate::try_run("losetup", [Path::new("--detach"), device.as_path()]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn mounts() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect())
}

/// The kernel writes blanks and backslashes in paths as octal.
fn unescape(path: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn devices() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (node, folder) in block_devices("dm-")? {
        // Gone between the listing and this read is gone.
        if let Ok(name) = fs::read_to_string(folder.join("dm/name")) {
            found.push((node, name.trim_end_matches('\n').to_owned()));
        }
    }
    // Minor numbers follow the order of creation, more or less; the rounds of `remove` do the rest.
    found.sort_by_key(|(node, _)| node.trim_start_matches("dm-").parse::<u32>().unwrap_or(u32::MAX));
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

fn loops() -> Result<Vec<PathBuf>> {
    Ok(block_devices("loop")?
        .into_iter()
        .filter(|(_, folder)| folder.join("loop/backing_file").exists())
        .map(|(node, _)| Path::new("/dev").join(node))
        .collect())
}

fn backing_file(device: &Path) -> Option<PathBuf> {
    let node = device.file_name()?;
    let text = fs::read_to_string(Path::new("/sys/block").join(node).join("loop/backing_file")).ok()?;
    Some(PathBuf::from(text.trim_end_matches('\n')))
}

fn block_devices(prefix: &str) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir("/sys/block") {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("cannot list /sys/block"),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.context("cannot list /sys/block")?;
        if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(prefix)) {
            found.push((name.to_owned(), entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_escapes_of_the_mount_table() {
        assert_eq!(unescape(r"/scratch/a\040b\134c"), Path::new(r"/scratch/a b\c"));
        assert_eq!(unescape(r"/end\04"), Path::new(r"/end\04"));
    }

    #[test]
    fn what_was_there_before_stays() {
        let mount = |path: &str| PathBuf::from(path);
        let before = Inventory { mounts: vec![mount("/"), mount("/a")], ..Inventory::default() };
        let now = Inventory {
            mounts: vec![mount("/"), mount("/a"), mount("/a"), mount("/b")],
            devices: vec!["x".to_owned()],
            loops: Vec::new(),
        };
        let left = now.without(&before);
        assert_eq!(left.mounts, [mount("/a"), mount("/b")]);
        assert_eq!(left.describe(), "mount /a, mount /b, device x");
    }
}
