//! Locks under `target/vm`, handed out in the order in which they were asked for.
//!
//! A process that waits has a ticket: a file named by the time, which it keeps locked, so that tickets of the dead are
//! told from those of the living. Whoever has the oldest living ticket takes the lock next.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};

use crate::paths;

/// The lock, until this goes out of scope or the process ends.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: File,
}

/// Waits for a lock, and says every half minute what it waits for.
pub(crate) fn wait(name: &str) -> Result<Turn> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let own = format!("process {}: cargo xtask {}", std::process::id(), words.join(" "));
    wait_in(&paths::vm(), name, &own, |ahead, holder, seconds| {
        eprintln!("xtask: waiting for {holder} and {ahead} more, {seconds} s so far");
    })
}

fn wait_in(folder: &Path, name: &str, own: &str, mut tell: impl FnMut(usize, &str, u64)) -> Result<Turn> {
    let path = folder.join(name);
    let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
    let ticket = Ticket::draw(&folder.join(format!("{name}.queue")))?;
    let start = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        let ahead = ticket.ahead()?;
        if ahead == 0 && try_lock(&lock, &path)? {
            lock.set_len(0)?;
            writeln!(lock, "{own}")?;
            return Ok(Turn { _lock: lock });
        }
        if told.is_none_or(|told| told.elapsed() > Duration::from_secs(30)) {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = if holder.trim().is_empty() { "another run" } else { holder.trim() };
            tell(ahead, holder, start.elapsed().as_secs());
            told = Some(Instant::now());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

#[derive(Debug)]
struct Ticket {
    path: PathBuf,
    _locked: File,
}

impl Ticket {
    fn draw(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let path = folder.join(format!("{:020}-{}", now.as_nanos(), std::process::id()));
        // Locked before it has its name, so that nobody takes it for one of the dead.
        let hidden = path.with_extension("new");
        let locked = File::create(&hidden).with_context(|| format!("cannot make {}", hidden.display()))?;
        locked.lock()?;
        fs::rename(&hidden, &path)?;
        Ok(Self { path, _locked: locked })
    }

    /// How many of the living were here before.
    fn ahead(&self) -> Result<usize> {
        let mut ahead = 0;
        for entry in fs::read_dir(self.path.parent().unwrap_or(&self.path))? {
            let path = entry?.path();
            if path >= self.path || path.extension().is_some() {
                continue;
            }
            // Gone between the listing and here is gone.
            let Ok(file) = File::open(&path) else { continue };
            if try_lock(&file, &path)? {
                let _dead = fs::remove_file(&path);
            } else {
                ahead += 1;
            }
        }
        Ok(ahead)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn turns_come_in_order() {
        let folder = Folder::new("order");
        let first = wait_in(&folder.0, "lock", "first", |_, _, _| {}).unwrap();
        let (sender, order) = mpsc::channel();
        let mut waiters = Vec::new();
        for number in 0..4 {
            let (path, sender) = (folder.0.clone(), sender.clone());
            let (waits, waiting) = mpsc::channel();
            waiters.push(std::thread::spawn(move || {
                let turn = wait_in(&path, "lock", "other", |ahead, holder, _| {
                    let _told = waits.send((ahead, holder.to_owned()));
                });
                sender.send(number).unwrap();
                drop(turn);
            }));
            let (ahead, holder) = waiting.recv_timeout(Duration::from_secs(10)).unwrap();
            assert_eq!((ahead, holder.as_str()), (number, "first"));
        }
        drop(first);
        for waiter in waiters {
            waiter.join().unwrap();
        }
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn a_ticket_of_the_dead_holds_nobody_up() {
        let folder = Folder::new("dead");
        let queue = folder.0.join("lock.queue");
        fs::create_dir_all(&queue).unwrap();
        fs::write(queue.join("00000000000000000001-1"), "").unwrap();
        wait_in(&folder.0, "lock", "own", |_, _, _| panic!("it waits")).unwrap();
        assert_eq!(fs::read_dir(&queue).unwrap().count(), 0);
    }
}
