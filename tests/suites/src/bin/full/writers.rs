//! Programs that write into layers and remember, outside of the pool, what the file system acknowledged.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const PIECE: usize = 1 << 20;

/// What a file of a writer holds.
fn content(writer: usize, file: usize) -> Vec<u8> {
    let mut state = (writer as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (file as u64 + 1);
    let mut bytes = Vec::with_capacity(PIECE);
    while bytes.len() < PIECE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// What a writer came to.
#[derive(Debug)]
pub(crate) struct Written {
    /// Files that were synced, together with their names.
    pub(crate) acknowledged: usize,
    /// Why it ended early.
    pub(crate) error: Option<String>,
    /// The longest that one file took.
    pub(crate) longest: Duration,
}

/// One thread per layer.
pub(crate) struct Writers {
    threads: Vec<JoinHandle<Written>>,
    stop: Arc<AtomicBool>,
}

impl Writers {
    /// Each writes files of 1 MiB, `files` of them, from number `first` on, and syncs each one.
    pub(crate) fn start(trees: &[PathBuf], first: usize, files: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = trees
            .iter()
            .enumerate()
            .map(|(writer, tree)| {
                let (tree, stop) = (tree.clone(), stop.clone());
                std::thread::spawn(move || write_all(writer, &tree, first, files, &stop))
            })
            .collect();
        Self { threads, stop }
    }

    pub(crate) fn are_done(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for all of them; who is stuck in the kernel is named.
    pub(crate) fn join(self, within: Duration) -> Result<Vec<Written>> {
        let end = Instant::now() + within;
        while !self.are_done() {
            if Instant::now() >= end {
                bail!("writers hang after {within:?}; blocked: {:?}", blocked()?);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a writer panicked")))
            .collect()
    }
}

fn write_all(writer: usize, tree: &Path, first: usize, files: usize, stop: &AtomicBool) -> Written {
    let mut written = Written { acknowledged: first, error: None, longest: Duration::ZERO };
    for file in first..first + files {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        let done = write_one(writer, tree, file);
        written.longest = written.longest.max(start.elapsed());
        match done {
            Ok(()) => written.acknowledged = file + 1,
            Err(error) => {
                written.error = Some(error.to_string());
                break;
            }
        }
    }
    written
}

fn write_one(writer: usize, tree: &Path, number: usize) -> std::io::Result<()> {
    let mut file = File::create(tree.join(format!("file-{number}")))?;
    file.write_all(&content(writer, number))?;
    file.sync_all()?;
    File::open(tree)?.sync_all()
}

/// Everything that was acknowledged is there, byte for byte.
pub(crate) fn verify(trees: &[PathBuf], acknowledged: &[usize]) -> Result<()> {
    for (writer, (tree, files)) in trees.iter().zip(acknowledged).enumerate() {
        for file in 0..*files {
            let path = tree.join(format!("file-{file}"));
            let found = fs::read(&path).with_context(|| format!("{} was acknowledged", path.display()))?;
            ensure!(found == content(writer, file), "{} is not what was synced", path.display());
        }
    }
    Ok(())
}

/// Tasks that sleep in the kernel and cannot be ended, with their names.
pub(crate) fn blocked() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let Ok(tasks) = fs::read_dir(entry.path().join("task")) else { continue };
        for task in tasks.flatten() {
            let Ok(stat) = fs::read_to_string(task.path().join("stat")) else { continue };
            // The name may hold anything; the state follows the last parenthesis.
            if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('D')) {
                found.push(stat.split(' ').take(2).collect::<Vec<_>>().join(" "));
            }
        }
    }
    Ok(found)
}

/// No task is stuck: one that is seen sleeping is given a moment.
pub(crate) fn nobody_hangs() -> Result<()> {
    harness::eventually("all tasks to be able to go on", Duration::from_secs(30), || {
        let blocked = blocked()?;
        Ok(if blocked.is_empty() { Ok(()) } else { Err(format!("{blocked:?}")) })
    })
}
