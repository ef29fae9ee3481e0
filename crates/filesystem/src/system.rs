//! [`Filesystems`] on this machine.

use crate::error::{Error, ErrorKind, Result};
use crate::filesystems::{
    Alive, Detected, Filesystems, Kind, MakeOptions, Mount, MountRequest, Owner, Unmount, Unmounted,
};
use crate::mount::Interface;
use crate::{detect, folders, live, make, mount, mountinfo, program, sys};
use nix::errno::Errno;
use nix::mount::MsFlags;
use std::ffi::{CString, OsString};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// This machine's file systems, by system calls. Only [`Filesystems::make`] starts a process.
///
/// Cheap to make, and shared by threads.
#[derive(Debug)]
pub struct System {
    search_path: Option<OsString>,
    interface: Interface,
    ext4_program: OnceLock<PathBuf>,
    xfs_program: OnceLock<PathBuf>,
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl System {
    /// Looks for mkfs programs along this process's PATH, then in the usual folders.
    pub fn new() -> Self {
        Self {
            search_path: std::env::var_os("PATH"),
            interface: Interface::Newest,
            ext4_program: OnceLock::new(),
            xfs_program: OnceLock::new(),
        }
    }

    /// Looks for mkfs programs along this path in place of PATH. Parts that are not absolute do not count.
    #[must_use]
    pub fn with_search_path(mut self, search_path: impl Into<OsString>) -> Self {
        self.search_path = Some(search_path.into());
        self
    }

    /// Mounts by mount(2) even where the kernel has `fsopen`: for sandboxes that forbid it. Its errors say less about options.
    #[must_use]
    pub fn with_classic_mount(mut self) -> Self {
        self.interface = Interface::Classic;
        self
    }

    /// The mkfs program of a kind. Its path is remembered, so that all uses are of the same one.
    fn program(&self, kind: Kind) -> Option<&Path> {
        let remembered = match kind {
            Kind::Ext4 => &self.ext4_program,
            Kind::Xfs => &self.xfs_program,
        };
        if remembered.get().is_none()
            && let Some(found) = program::find(make::program_name(kind), self.search_path.as_deref())
        {
            // Where another thread was faster, its answer stands.
            remembered.get_or_init(|| found);
        }
        remembered.get().map(PathBuf::as_path)
    }

    /// The mkfs program of a kind, or the error that says what to install.
    fn needed_program(&self, action: String, path: &Path, kind: Kind) -> Result<&Path> {
        self.program(kind).ok_or_else(|| {
            let name = make::program_name(kind);
            Error::new(action, path, Errno::UnknownErrno)
                .detail(format!("there is no {name} on PATH: install the package {}", make::package(kind)))
                .of_kind(ErrorKind::Unsupported)
        })
    }
}

/// Is the kind in `/proc/filesystems`?
fn is_listed(kind: Kind) -> std::io::Result<bool> {
    let list = std::fs::read_to_string("/proc/filesystems")?;
    Ok(list.lines().any(|line| line.split_whitespace().next_back() == Some(kind.as_str())))
}

/// Makes the kernel load the file system's module, as far as it has one.
fn load(kind: Kind) -> nix::Result<()> {
    let name = CString::new(kind.as_str()).map_err(|_| Errno::EINVAL)?;
    match sys::fsopen(&name) {
        // Before 5.2: a mount whose source is no block device cannot succeed, and looks for the file system first.
        Err(Errno::ENOSYS) => {
            let tried = nix::mount::mount(
                Some("/dev/null"),
                "/",
                Some(kind.as_str()),
                MsFlags::MS_RDONLY | MsFlags::MS_SILENT,
                None::<&str>,
            );
            match tried {
                Err(errno @ (Errno::ENODEV | Errno::EPERM)) => Err(errno),
                _ => Ok(()),
            }
        }
        other => other.map(drop),
    }
}

impl Filesystems for System {
    fn detect(&self, device: &Path) -> Result<Detected> {
        detect::detect(device)
    }

    fn extent(&self, device: &Path) -> Result<Option<u64>> {
        detect::extent(device)
    }

    fn usable(&self, kind: Kind) -> Result<()> {
        let list = Path::new("/proc/filesystems");
        self.needed_program(format!("use {kind} as listed in"), list, kind)?;
        let unsupported = |errno, detail: String| {
            Err(Error::new(format!("find {kind} in"), list, errno)
                .detail(detail)
                .of_kind(ErrorKind::Unsupported))
        };
        match is_listed(kind) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "/proc/filesystems cannot be read"),
        }
        match load(kind) {
            Ok(()) => Ok(()),
            Err(Errno::ENODEV) => {
                unsupported(Errno::ENODEV, format!("this kernel has no {kind}: try `modprobe {kind}`"))
            }
            Err(errno) => unsupported(
                errno,
                format!("the kernel was not allowed to load {kind}: try `modprobe {kind}`"),
            ),
        }
    }

    fn make(&self, device: &Path, options: &MakeOptions, alive: Alive<'_>) -> Result<()> {
        let program = self.needed_program(format!("make {} on", options.kind), device, options.kind)?;
        make::make(program, device, options, alive)
    }

    fn mount(&self, request: &MountRequest) -> Result<()> {
        mount::mount(request, self.interface)
    }

    fn unmount(&self, target: &Path, when: Unmount) -> Result<Unmounted> {
        crate::unmount::unmount(target, when)
    }

    fn grow(&self, kind: Kind, mount_point: &Path, device: &Path) -> Result<()> {
        live::grow(kind, mount_point, device)
    }

    fn freeze(&self, mount_point: &Path) -> Result<()> {
        live::freeze(mount_point)
    }

    fn thaw(&self, mount_point: &Path) -> Result<()> {
        live::thaw(mount_point)
    }

    fn set_xfs_retries(&self, device: (u32, u32), retries: u64) -> Result<()> {
        live::set_xfs_retries(Path::new("/sys"), device, retries)
    }

    fn mounts(&self) -> Result<Vec<Mount>> {
        mountinfo::mounts()
    }

    fn make_dir(&self, path: &Path, mode: u32, owner: Owner) -> Result<()> {
        folders::make_dir(path, mode, owner)
    }

    fn remove_dir(&self, path: &Path) -> Result<bool> {
        folders::remove_dir(path)
    }

    fn dirs(&self, path: &Path) -> Result<Vec<String>> {
        folders::dirs(path)
    }

    fn write_if_absent(&self, path: &Path, contents: &[u8]) -> Result<bool> {
        folders::write_if_absent(path, contents)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64> {
        folders::free_bytes(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_program_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let fake = folder.path().join("mkfs.xfs");
        std::fs::write(&fake, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
        let system = System::new().with_search_path(folder.path());
        assert_eq!(system.program(Kind::Xfs), Some(fake.as_path()));
        std::fs::remove_file(&fake).unwrap();
        assert_eq!(system.program(Kind::Xfs), Some(fake.as_path()));
    }

    #[test]
    fn a_missing_program_says_which_package_has_it() {
        let system = System::new();
        let error = system.needed_program("make xfs on".to_owned(), Path::new("/d"), Kind::Xfs);
        if let Err(error) = error {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains("xfsprogs"), "{error}");
        }
        for kind in [Kind::Ext4, Kind::Xfs] {
            match system.usable(kind) {
                Ok(()) => assert!(system.program(kind).is_some()),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
            }
        }
    }
}
