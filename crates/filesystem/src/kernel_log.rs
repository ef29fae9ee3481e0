//! What the kernel log says about a device from some moment on.
//!
//! ext4 and xfs tell a damaged superblock only there; the mount context has their option errors alone.

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, SFlag, major, minor, stat};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The last so many lines are kept, each cut at this many characters.
const LINES: usize = 8;
const LINE_LENGTH: usize = 300;

/// A place in the kernel log, and the names that one device has there.
#[derive(Debug)]
pub(crate) struct KernelLog {
    records: Option<File>,
    names: Names,
}

/// What a device is called in messages.
#[derive(Debug, Default)]
struct Names {
    /// `dm-3`, `loop0`.
    kernel: Option<String>,
    /// The name that device-mapper gave it.
    mapper: Option<String>,
}

impl KernelLog {
    /// From now on. Where the log may not be read (`dmesg_restrict`), there will be no lines.
    pub(crate) fn from_now(device: &Path) -> Self {
        Self { records: open_at_end(), names: Names::of(device) }
    }

    /// The lines since then that name the device, without waiting for more.
    pub(crate) fn lines(mut self) -> Vec<String> {
        let Some(records) = self.records.as_mut() else { return Vec::new() };
        let mut lines = std::collections::VecDeque::new();
        // One read gives one record; 8 KiB hold the longest.
        let mut buffer = vec![0; 8192];
        // A log that is written faster than it is read must not hold us.
        for _ in 0..10_000 {
            match records.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let Some(message) = message(&buffer[..length]) else { continue };
                    if self.names.are_in(&message) {
                        if lines.len() == LINES {
                            lines.pop_front();
                        }
                        lines.push_back(message.chars().take(LINE_LENGTH).collect());
                    }
                }
                // Overrun: the next read goes on with the oldest record that is left.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        lines.into()
    }
}

fn open_at_end() -> Option<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut file = File::from(open("/dev/kmsg", flags, Mode::empty()).ok()?);
    file.seek(SeekFrom::End(0)).ok()?;
    Some(file)
}

/// The text of a record such as `4,1234,5678,-;EXT4-fs (dm-3): bad geometry\n SUBSYSTEM=block\n`.
fn message(record: &[u8]) -> Option<String> {
    let start = record.iter().position(|byte| *byte == b';')? + 1;
    let text = &record[start..];
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let text = String::from_utf8_lossy(&text[..end]).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

impl Names {
    fn of(device: &Path) -> Self {
        let number = stat(device)
            .ok()
            .filter(|status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFBLK)
            .map(|status| (major(status.st_rdev), minor(status.st_rdev)));
        let Some((major, minor)) = number else { return Self::default() };
        let folder = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
        let kernel = std::fs::read_link(&folder)
            .ok()
            .and_then(|link| Some(link.file_name()?.to_str()?.to_owned()))
            // Without sysfs, the node itself is most often called so.
            .or_else(|| Some(device.file_name()?.to_str()?.to_owned()));
        let mapper =
            std::fs::read_to_string(folder.join("dm/name")).ok().map(|name| name.trim_end().to_owned());
        Self { kernel, mapper }
    }

    fn are_in(&self, message: &str) -> bool {
        // `dm-3-8` is the journal of dm-3, so a hyphen may follow a kernel name; names given by people have hyphens of their own.
        let kernel =
            self.kernel.as_deref().is_some_and(|name| names(message, name, |next| !next.is_alphanumeric()));
        let free = |next: char| !next.is_alphanumeric() && !matches!(next, '-' | '_' | '.' | ':');
        // The colon after a name ends it: `NAME: message`.
        let ends = |next: char| free(next) || next == ':';
        kernel || self.mapper.as_deref().is_some_and(|name| names(message, name, ends))
    }
}

/// Does the message have the name as a word of its own?
fn names(message: &str, name: &str, ends: impl Fn(char) -> bool) -> bool {
    if name.is_empty() {
        return false;
    }
    message.match_indices(name).any(|(at, _)| {
        let before = message[..at].chars().next_back();
        let after = message[at + name.len()..].chars().next();
        before.is_none_or(|last| !last.is_alphanumeric() && !matches!(last, '-' | '_'))
            && after.is_none_or(&ends)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_of_a_record() {
        let record = b"3,812,96011123,-;XFS (dm-3): Invalid superblock magic number\n SUBSYSTEM=block\n DEVICE=b253:3\n";
        assert_eq!(message(record).unwrap(), "XFS (dm-3): Invalid superblock magic number");
        assert_eq!(message(b"6,1,2,-;no end").unwrap(), "no end");
        assert_eq!(message(b"6,1,2,-;\n"), None);
        assert_eq!(message(b"rubbish"), None);
    }

    #[test]
    fn only_lines_that_name_the_device() {
        let names = Names { kernel: Some("dm-1".to_owned()), mapper: Some("docker-8:1-99-base".to_owned()) };
        for line in [
            "EXT4-fs (dm-1): VFS: Can't find ext4 filesystem",
            "Buffer I/O error on dev dm-1, logical block 0",
            "Aborting journal on device dm-1-8.",
            "dm-1: rw=0, sector=8",
            "device-mapper: thin: docker-8:1-99-base: out of space",
        ] {
            assert!(names.are_in(line), "{line}");
        }
        for line in [
            "EXT4-fs (dm-12): mounted filesystem",
            "EXT4-fs (adm-1): mounted filesystem",
            "device-mapper: docker-8:1-99-base-init is busy",
            "systemd[1]: started",
        ] {
            assert!(!names.are_in(line), "{line}");
        }
        assert!(!Names::default().are_in("dm-1"));
    }

    #[test]
    fn a_file_is_no_device_and_has_no_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(KernelLog::from_now(file.path()).lines(), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_record_panics(record in prop::collection::vec(any::<u8>(), 0..80), name in "[a-é0-9-]{0,6}") {
            if let Some(message) = message(&record) {
                let names = Names { kernel: Some(name.clone()), mapper: Some(name) };
                let _named = names.are_in(&message);
            }
        }
    }
}
