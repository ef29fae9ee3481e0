//! Folders and small files around mount points.

use crate::error::{Error, ErrorKind, Result};
use crate::filesystems::Owner;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fchmod, fstat};
use nix::sys::statfs::statfs;
use nix::unistd::{Gid, Uid, fchown};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub(crate) fn make_dir(path: &Path, mode: u32, owner: Owner) -> Result<()> {
    let action = "make the folder";
    // Without slashes at the end, behind which a link would be followed.
    let path: PathBuf = path.components().collect();
    let failed = |errno| Error::new(action, &path, errno);
    if path.file_name().is_none() {
        return Err(failed(Errno::EINVAL).detail("its last part is no name").of_kind(ErrorKind::Other));
    }
    let make =
        |recursive, path: &Path| std::fs::DirBuilder::new().recursive(recursive).mode(mode).create(path);
    let mut made = make(false, &path);
    if let (Err(error), Some(parent)) = (&made, path.parent())
        && error.kind() == std::io::ErrorKind::NotFound
    {
        make(true, parent).map_err(|error| Error::io(action, &path, &error))?;
        made = make(false, &path);
    }
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::io(action, &path, &error));
        }
        _ => {}
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let folder = open(&path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ENOTDIR | Errno::ELOOP => failed(errno).detail("a file or a link of this name is there"),
        _ => failed(errno),
    })?;
    // Only what differs: a change of what is right already would be written to the disk too.
    let is = fstat(&folder).map_err(failed)?;
    if (is.st_uid, is.st_gid) != (owner.uid, owner.gid) {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fchown(&folder, Some(uid), Some(gid))
            .map_err(|errno| failed(errno).detail("its owner cannot be set"))?;
    }
    if fstat(&folder).map_err(failed)?.st_mode & 0o7777 != mode & 0o7777 {
        fchmod(&folder, Mode::from_bits_truncate(mode & 0o7777))
            .map_err(|errno| failed(errno).detail("its mode cannot be set"))?;
    }
    Ok(())
}

pub(crate) fn remove_dir(path: &Path) -> Result<bool> {
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let failed = Error::io("remove the folder", path, &error);
            Err(match failed.errno {
                Errno::EBUSY => failed.detail("something is mounted there"),
                _ => failed,
            })
        }
    }
}

pub(crate) fn dirs(path: &Path) -> Result<Vec<String>> {
    let failed = |error: std::io::Error| Error::io("list the folders in", path, &error);
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => match entry.file_name().into_string() {
                Ok(name) => names.push(name),
                // Never one of ours, and it could not be given back as it is.
                Err(name) => tracing::debug!(?name, "a folder whose name is not UTF-8 is passed over"),
            },
            Ok(_) => {}
            // Gone since.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    names.sort();
    Ok(names)
}

pub(crate) fn write_if_absent(path: &Path, contents: &[u8]) -> Result<bool> {
    let failed = |error: &std::io::Error| Error::io("write", path, error);
    let opened =
        OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed(&error)),
    };
    if let Err(error) = file.write_all(contents) {
        // Half a file would be taken for a whole one the next time.
        if let Err(left) = std::fs::remove_file(path) {
            return Err(
                failed(&error).detail(format!("and what was written of it cannot be removed: {left}"))
            );
        }
        return Err(failed(&error));
    }
    Ok(true)
}

pub(crate) fn free_bytes(path: &Path) -> Result<u64> {
    let failed = |errno| Error::new("read the free space of the file system at", path, errno);
    let status = statfs(path).map_err(failed)?;
    let block = u64::try_from(status.block_size()).map_err(|_| failed(Errno::EOVERFLOW))?;
    Ok(status.blocks_free().saturating_mul(block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// What a test may give its folders: itself.
    fn me() -> Owner {
        Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_folder_and_those_above_it_with_the_exact_mode() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/b/c");
        // More than any umask leaves.
        make_dir(&path, 0o1777, me()).unwrap();
        assert_eq!(mode(&path), 0o1777);
        make_dir(&path, 0o700, me()).unwrap();
        assert_eq!(mode(&path), 0o700);
        make_dir(&home.path().join("d//"), 0o755, me()).unwrap();
        assert!(home.path().join("d").is_dir());
    }

    #[test]
    fn what_is_right_already_is_not_touched() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        make_dir(&path, 0o750, me()).unwrap();
        let before = std::fs::metadata(&path).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        make_dir(&path, 0o750, me()).unwrap();
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
    }

    #[test]
    fn a_link_or_a_file_in_the_last_place_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let other = home.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
        symlink(&other, home.path().join("link")).unwrap();
        symlink(home.path().join("absent"), home.path().join("dangling")).unwrap();
        std::fs::write(home.path().join("file"), "").unwrap();
        for name in ["link", "link/", "dangling", "file"] {
            let error = make_dir(&home.path().join(name), 0o700, me()).unwrap_err();
            assert!(error.to_string().contains("a file or a link of this name"), "{name}: {error}");
        }
        assert_eq!(mode(&other), 0o755);
        assert!(make_dir(Path::new("/"), 0o700, me()).is_err());
        assert!(make_dir(&home.path().join(".."), 0o700, me()).is_err());
    }

    #[test]
    fn only_empty_folders_are_removed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        assert!(!remove_dir(&path).unwrap());
        std::fs::create_dir_all(path.join("b")).unwrap();
        let error = remove_dir(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(remove_dir(&path.join("b")).unwrap());
        assert!(remove_dir(&path).unwrap());
        symlink(home.path(), &path).unwrap();
        assert!(remove_dir(&path).is_err());
    }

    #[test]
    fn folders_are_listed_in_order_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        for name in ["b", "a", "c"] {
            std::fs::create_dir(home.path().join(name)).unwrap();
        }
        std::fs::write(home.path().join("file"), "").unwrap();
        symlink(home.path().join("a"), home.path().join("link")).unwrap();
        assert_eq!(dirs(home.path()).unwrap(), ["a", "b", "c"]);
        assert_eq!(dirs(&home.path().join("absent")).unwrap(), Vec::<String>::new());
        assert!(dirs(&home.path().join("file")).is_err());
    }

    #[test]
    fn a_file_is_written_once() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("id");
        assert!(write_if_absent(&path, b"one").unwrap());
        assert_eq!(mode(&path), 0o600);
        assert!(!write_if_absent(&path, b"two").unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        // A link counts as there, wherever it leads.
        let link = home.path().join("link");
        symlink(home.path().join("absent"), &link).unwrap();
        assert!(!write_if_absent(&link, b"x").unwrap());
        assert!(!home.path().join("absent").exists());
        assert!(write_if_absent(&home.path().join("no/folder"), b"x").is_err());
    }

    #[test]
    fn free_space_is_what_statvfs_says() {
        let home = tempfile::tempdir().unwrap();
        let free = free_bytes(home.path()).unwrap();
        let other = nix::sys::statvfs::statvfs(home.path()).unwrap();
        let expected = other.blocks_free() * other.fragment_size();
        // Others may write meanwhile.
        assert!(free.abs_diff(expected) < 1 << 30, "{free} and {expected}");
        assert!(free_bytes(&home.path().join("absent")).is_err());
    }
}
