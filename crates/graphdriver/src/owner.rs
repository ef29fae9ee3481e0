//! Who owns a root: one process at a time, by a lock on `ROOT/thinlayer/lock` that says who holds it.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The lock's folder and file, below the root.
const FOLDER: &str = "thinlayer";
const LOCK: &str = "thinlayer/lock";
/// More than any holder's text.
const TEXT: usize = 16 << 10;
/// Whose turn it is to bring the pool up read-only, in the root's run-time folder.
const TURN: &str = "read-only.lock";
/// The lock of containers/storage, beside the driver's folder. Whoever uses the driver there holds it.
pub(crate) const STORAGE_LOCK: &str = "storage.lock";
/// How often a lock that is held is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// Less than this nobody waits.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);

/// Who holds a root, as the lock file tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// What it does, such as `serve` or `create`.
    pub command: String,
    /// The control socket that it answers on, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
}

impl Holder {
    /// This process.
    pub fn this_process(command: impl Into<String>, socket: Option<PathBuf>) -> Self {
        Self { pid: std::process::id(), command: command.into(), socket }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "thinlayer {} (pid {})", self.command, self.pid)
    }
}

/// Ownership of a root, given up when dropped or when the process ends in whatever way.
#[derive(Debug)]
pub struct Ownership {
    _lock: File,
    _docker: Option<File>,
    _storage: Option<File>,
}

impl Ownership {
    /// Takes the lock, waiting at most `wait` for another holder. Makes the root (0700) and its `thinlayer` folder if absent.
    ///
    /// # Errors
    /// [`Error::Busy`] that names the holder; [`Error::Root`] if the root cannot be used (not a folder, read-only, no privilege);
    /// [`Error::Invalid`] for a folder that holds other things.
    pub fn acquire(root: &Path, holder: &Holder, wait: Duration) -> Result<Self> {
        make_folder(root)?;
        // What lies beside the root is looked at below, and beside a link lies something else.
        let root = &root.canonicalize().map_err(|e| root_error(root, &e))?;
        refuse_foreign_folder(root)?;
        make_folder(&root.join(FOLDER))?;
        let path = root.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(&path)
            .map_err(|e| root_error(&path, &e))?;
        let start = Instant::now();
        // Somebody who only asks who the holder is has the lock for a moment.
        let wait = wait.max(SHORTEST_WAIT);
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if start.elapsed() < wait => std::thread::sleep(RETRY),
                Err(TryLockError::WouldBlock) => return Err(held_by(root, wait)),
                Err(TryLockError::Error(e)) => return Err(root_error(&path, &e)),
            }
        }
        let docker = refuse_running_docker(root)?;
        let storage = lock_storage(root, wait.saturating_sub(start.elapsed()))?;
        // A full disk must not keep the root from being opened: who holds it can be found by its socket, too.
        if let Err(error) = say_who(&mut file, holder) {
            tracing::warn!(path = %path.display(), %error, "cannot say in the lock file who holds the root");
        }
        Ok(Self { _lock: file, _docker: docker, _storage: storage })
    }

    /// Who holds a root now, if anybody does and has said so.
    pub fn holder(root: &Path) -> Option<Holder> {
        let mut file = File::open(root.join(LOCK)).ok()?;
        match file.try_lock_shared() {
            // Nobody: what the file says is old.
            Ok(()) => None,
            Err(_) => {
                let mut text = Vec::new();
                Read::by_ref(&mut file).take(TEXT as u64).read_to_end(&mut text).ok()?;
                serde_json::from_slice(&text).ok()
            }
        }
    }
}

/// Writes who holds the lock over what an earlier holder wrote, in place: a file that has its block takes that on a full disk, too.
fn say_who(file: &mut File, holder: &Holder) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(holder).unwrap_or_default();
    let before = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    // One write, so that whoever reads meanwhile gets the one or the other, or at worst nothing that can be read.
    text.resize(text.len().max(before.min(TEXT)).max(512), b' ');
    file.write_all_at(&text, 0)?;
    file.set_len(text.len() as u64)
}

/// The right to bring a root's pool up without writing, for as long as it lives. Nobody owns the root meanwhile.
#[derive(Debug)]
pub struct Sharing {
    _turn: File,
    _lock: Option<File>,
    _docker: Option<File>,
    _storage: Option<File>,
}

impl Ownership {
    /// Keeps others from owning a root, waiting at most `wait` for one who does. Writes nothing in the root: the turn of such commands is a lock in
    /// `runtime`, the root's folder under `/run`.
    ///
    /// # Errors
    /// [`Error::Busy`] that names the holder; [`Error::Root`].
    pub fn share(root: &Path, runtime: &Path, wait: Duration) -> Result<Sharing> {
        let start = Instant::now();
        let wait = wait.max(SHORTEST_WAIT);
        let waited = |result: std::result::Result<(), TryLockError>, path: &Path| match result {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) if start.elapsed() < wait => {
                std::thread::sleep(RETRY);
                Ok(false)
            }
            Err(TryLockError::WouldBlock) => Err(held_by(root, wait)),
            Err(TryLockError::Error(e)) => Err(root_error(path, &e)),
        };
        let path = runtime.join(TURN);
        let turn = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| root_error(&path, &e))?;
        while !waited(turn.try_lock(), &path)? {}
        // Where nobody has ever owned the root there is none; a loop device on its files is seen in any case.
        let path = root.join(LOCK);
        let lock = File::open(&path).ok();
        if let Some(lock) = &lock {
            while !waited(lock.try_lock_shared(), &path)? {}
        }
        let docker = refuse_running_docker(root)?;
        let storage = lock_storage(root, wait.saturating_sub(start.elapsed()))?;
        Ok(Sharing { _turn: turn, _lock: lock, _docker: docker, _storage: storage })
    }
}

/// What would keep this process from owning a root at this moment: all of it. Takes no lock for longer than it looks, and writes nothing.
pub(crate) fn in_the_way(root: &Path) -> Vec<Error> {
    let lock = || match File::open(root.join(LOCK)) {
        Ok(lock) => match lock.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Err(held_by(root, Duration::ZERO)),
            _ => Ok(()),
        },
        Err(_) => Ok(()),
    };
    [refuse_foreign_folder(root), lock(), refuse_running_docker(root).map(drop), refuse_running_podman(root)]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// Asks whether somebody holds the lock of containers/storage.
fn refuse_running_podman(root: &Path) -> Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    let Some(path) = root.parent().map(|parent| parent.join(STORAGE_LOCK)) else { return Ok(()) };
    let Ok(file) = File::open(&path) else { return Ok(()) };
    let mut whole = whole_file();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut whole)).map_err(|errno| root_error(&path, &errno.into()))?;
    if i32::from(whole.l_type) == nix::libc::F_UNLCK { Ok(()) } else { Err(held_by_podman(root, &path)) }
}

fn held_by_podman(root: &Path, lock: &Path) -> Error {
    Error::Busy {
        what: format!("root {}", root.display()),
        why: format!(
            "Podman, Buildah or another user of containers/storage holds {}; wait for it to end, or raise --wait",
            lock.display()
        ),
    }
}

fn held_by(root: &Path, wait: Duration) -> Error {
    let who =
        Ownership::holder(root).map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
    let waited = if wait.is_zero() { String::new() } else { format!(" (waited {wait:?})") };
    Error::Busy {
        what: format!("root {}", root.display()),
        why: format!("{who} owns it{waited}; wait for it to end, and try again"),
    }
}

/// dockerd holds a lock on `volumes/metadata.db` beside its `devicemapper` folder for as long as it runs.
fn refuse_running_docker(root: &Path) -> Result<Option<File>> {
    let Some(database) = root.parent().map(|parent| parent.join("volumes/metadata.db")) else {
        return Ok(None);
    };
    let file = match File::open(&database) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        // Not knowing whether dockerd runs is no reason to go on.
        Err(e) => return Err(root_error(&database, &e)),
    };
    match file.try_lock_shared() {
        // Kept, so that dockerd does not start under us either.
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::Busy {
            what: format!("root {}", root.display()),
            why: format!("a running dockerd holds {}; stop dockerd first", database.display()),
        }),
        Err(TryLockError::Error(e)) => Err(root_error(&database, &e)),
    }
}

/// What a root has in it, ours or Docker's; one of them is enough.
const PARTS: [&str; 4] = ["metadata", FOLDER, "devicemapper", "setup-config.json"];

/// A folder with other things in it is no root: it would get a mode that keeps everybody else out, and folders among what is there.
fn refuse_foreign_folder(root: &Path) -> Result<()> {
    let mut other = None;
    for entry in std::fs::read_dir(root).map_err(|e| root_error(root, &e))? {
        let name = entry.map_err(|e| root_error(root, &e))?.file_name();
        if PARTS.iter().any(|part| name == *part) {
            return Ok(());
        }
        // A file system of its own has that from the start.
        if name != "lost+found" {
            other.get_or_insert(name);
        }
    }
    match other {
        None => Ok(()),
        Some(name) => Err(Error::Invalid {
            what: format!(
                "{} is no root of layers and not empty ({:?} is in it); name a folder that is empty, new, or a root (--root)",
                root.display(),
                name.to_string_lossy()
            ),
        }),
    }
}

/// Podman and Buildah take this lock around everything that they do with the driver, by `fcntl`. Nothing is written to the file.
fn lock_storage(root: &Path, wait: Duration) -> Result<Option<File>> {
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, fcntl};
    let Some(path) = root.parent().map(|parent| parent.join(STORAGE_LOCK)) else { return Ok(None) };
    // A lock for writing needs a file that may be written; on a read-only file system there is nobody to keep out.
    let Ok(file) = File::options().read(true).write(true).open(&path) else { return Ok(None) };
    let whole = whole_file();
    let start = Instant::now();
    loop {
        // Belongs to the open file, not to the process, and is in the way of locks that belong to processes.
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            Ok(_) => return Ok(Some(file)),
            Err(Errno::EAGAIN | Errno::EACCES) if start.elapsed() < wait.max(SHORTEST_WAIT) => {
                std::thread::sleep(RETRY);
            }
            Err(Errno::EAGAIN | Errno::EACCES) => {
                return Err(held_by_podman(root, &path));
            }
            Err(errno) => return Err(root_error(&path, &errno.into())),
        }
    }
}

/// A lock for writing on all of a file.
#[expect(clippy::cast_possible_truncation, reason = "constants far below the type's limit")]
fn whole_file() -> nix::libc::flock {
    use nix::libc;
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| root_error(path, &e))
}

fn root_error(path: &Path, error: &std::io::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::ReadOnlyFilesystem => {
            "; the file system is mounted read-only: remount it, or use --read-only for looking"
        }
        ErrorKind::PermissionDenied => "; run as root",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "; a root must be a folder",
        ErrorKind::StorageFull => "; the file system that holds the root is full: make room there",
        _ => "",
    };
    if error.kind() == ErrorKind::StorageFull {
        return Error::NoSpace { what: format!("{}: {error}{advice}", path.display()) };
    }
    Error::Root { path: path.to_owned(), why: format!("{error}{advice}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn holder(command: &str) -> Holder {
        Holder { pid: 4711, command: command.into(), socket: None }
    }

    #[test]
    fn the_second_owner_is_told_who_the_first_is() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Ownership::holder(root.path()), None);
        let first = Ownership::acquire(root.path(), &holder("serve"), Duration::ZERO).unwrap();
        assert_eq!(Ownership::holder(root.path()), Some(holder("serve")));
        let error =
            Ownership::acquire(root.path(), &holder("create"), Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        assert!(error.to_string().contains("thinlayer serve (pid 4711)"), "{error}");
        drop(first);
        assert_eq!(Ownership::holder(root.path()), None);
        let _third = Ownership::acquire(root.path(), &holder("x"), Duration::ZERO).unwrap();
        assert_eq!(Ownership::holder(root.path()), Some(holder("x")));
    }

    /// The file keeps its blocks, so that the next holder can write on a full disk.
    #[test]
    fn the_holder_is_written_in_place() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LOCK);
        let long = holder(&"x".repeat(5000));
        let its_length = serde_json::to_vec(&long).unwrap().len() as u64;
        for (next, length) in [(holder("rm"), 512), (long.clone(), its_length), (holder("ls"), its_length)] {
            let _owned = Ownership::acquire(root.path(), &next, Duration::ZERO).unwrap();
            assert_eq!(Ownership::holder(root.path()), Some(next));
            assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
        }
        std::fs::write(&path, vec![b'x'; 100 << 10]).unwrap();
        let _owned = Ownership::acquire(root.path(), &long, Duration::ZERO).unwrap();
        assert_eq!(Ownership::holder(root.path()), Some(long));
        assert!(std::fs::metadata(&path).unwrap().len() <= TEXT as u64);
    }

    #[test]
    fn a_waiting_owner_gets_the_root_when_it_is_free() {
        let root = tempfile::tempdir().unwrap();
        let first = Ownership::acquire(root.path(), &holder("a"), Duration::ZERO).unwrap();
        let path = root.path().to_owned();
        let waiting =
            std::thread::spawn(move || Ownership::acquire(&path, &holder("b"), Duration::from_secs(30)));
        std::thread::sleep(Duration::from_millis(50));
        drop(first);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_root_that_dockerd_uses_is_refused() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("volumes")).unwrap();
        let database = File::create(data.path().join("volumes/metadata.db")).unwrap();
        let root = data.path().join("devicemapper");
        database.lock().unwrap();
        let error = Ownership::acquire(&root, &holder("create"), Duration::ZERO).unwrap_err();
        assert!(error.kind() == Kind::Busy && error.to_string().contains("dockerd"), "{error}");
        // Under another name it is the same root.
        let link = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(&root, link.path().join("dm")).unwrap();
        for name in [link.path().join("dm"), data.path().join("volumes/../devicemapper")] {
            let error = Ownership::acquire(&name, &holder("create"), Duration::ZERO).unwrap_err();
            assert!(error.kind() == Kind::Busy && error.to_string().contains("dockerd"), "{error}");
        }
        database.unlock().unwrap();
        Ownership::acquire(&root, &holder("create"), Duration::ZERO).unwrap();
    }

    #[test]
    fn a_folder_with_other_things_in_it_is_no_root() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o1777)).unwrap();
        std::fs::write(root.join("letter"), "dear reader").unwrap();
        let error = Ownership::acquire(root, &holder("create"), Duration::ZERO).unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.to_string().contains("letter"), "{error}");
        assert_eq!(std::fs::read_dir(root).unwrap().count(), 1);
        assert_eq!(std::fs::metadata(root).unwrap().permissions().mode() & 0o7777, 0o1777);
        // A root that somebody put a note into is one.
        std::fs::create_dir(root.join("metadata")).unwrap();
        Ownership::acquire(root, &holder("create"), Duration::ZERO).unwrap();
        let empty = tempfile::tempdir().unwrap();
        std::fs::create_dir(empty.path().join("lost+found")).unwrap();
        Ownership::acquire(empty.path(), &holder("create"), Duration::ZERO).unwrap();
    }

    #[test]
    fn a_root_that_podman_uses_is_refused() {
        use nix::fcntl::{FcntlArg, fcntl};
        let storage = tempfile::tempdir().unwrap();
        let lock = File::create(storage.path().join(STORAGE_LOCK)).unwrap();
        let whole = whole_file();
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
        let root = storage.path().join("devicemapper");
        let error = Ownership::acquire(&root, &holder("create"), Duration::ZERO).unwrap_err();
        assert!(error.kind() == Kind::Busy && error.to_string().contains("Podman"), "{error}");
        drop(lock);
        let held = Ownership::acquire(&root, &holder("create"), Duration::ZERO).unwrap();
        // And Podman waits for us.
        let lock = File::options().write(true).open(storage.path().join(STORAGE_LOCK)).unwrap();
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).unwrap_err();
        drop(held);
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
    }

    #[test]
    fn looking_keeps_owners_out_and_writes_nothing_in_the_root() {
        let (root, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let sharing = Ownership::share(root.path(), runtime.path(), Duration::ZERO).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        assert_eq!(
            Ownership::share(root.path(), runtime.path(), Duration::ZERO).unwrap_err().kind(),
            Kind::Busy
        );
        drop(sharing);
        let owner = Ownership::acquire(root.path(), &holder("create"), Duration::ZERO).unwrap();
        let error = Ownership::share(root.path(), runtime.path(), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("thinlayer create"), "{error}");
        drop(owner);
        let _sharing = Ownership::share(root.path(), runtime.path(), Duration::ZERO).unwrap();
        Ownership::acquire(root.path(), &holder("create"), Duration::ZERO).unwrap_err();
    }

    /// Each of those who may work on a root is seen, and is not disturbed by being looked at.
    #[test]
    fn who_is_in_the_way_is_told() {
        let data = tempfile::tempdir().unwrap();
        let root = data.path().join("devicemapper");
        std::fs::create_dir_all(root.join("metadata")).unwrap();
        std::fs::create_dir(data.path().join("volumes")).unwrap();
        std::fs::write(data.path().join("volumes/metadata.db"), "").unwrap();
        std::fs::write(data.path().join(STORAGE_LOCK), "").unwrap();
        let said = || in_the_way(&root).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(said(), Vec::<String>::new());
        assert!(!root.join(FOLDER).exists(), "looking made something");

        let owner = Ownership::acquire(&root, &holder("serve"), Duration::ZERO).unwrap();
        let held = said();
        assert!(held[0].contains("thinlayer serve (pid 4711) owns it;"), "{held:?}");
        // The owner has Podman's lock, too.
        assert!(held.len() == 2 && held[1].contains(STORAGE_LOCK), "{held:?}");
        drop(owner);
        assert_eq!(said(), Vec::<String>::new());

        let docker =
            File::options().read(true).write(true).open(data.path().join("volumes/metadata.db")).unwrap();
        docker.lock().unwrap();
        let held = said();
        assert!(held.len() == 1 && held[0].contains("a running dockerd holds"), "{held:?}");
        drop(docker);

        let podman = lock_storage(&root, Duration::ZERO).unwrap();
        let held = said();
        assert!(held.len() == 1 && held[0].contains("Podman"), "{held:?}");
        drop(podman);
        assert_eq!(said(), Vec::<String>::new());

        let other = tempfile::tempdir().unwrap();
        std::fs::write(other.path().join("letter"), "").unwrap();
        assert!(in_the_way(other.path())[0].to_string().contains("is no root of layers"));
    }

    #[test]
    fn a_file_is_no_root() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Ownership::acquire(file.path(), &holder("create"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("folder"), "{error}");
    }
}
