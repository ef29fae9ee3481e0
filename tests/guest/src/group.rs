//! Control groups: a test with all it starts, daemons too, can be ended at once.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const TREE: &str = "/sys/fs/cgroup";

/// One test's or command's group.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let folder = Path::new(TREE).join(format!("thinlayer.{name}"));
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the control group {}", folder.display()))?;
        Ok(Self(folder))
    }

    /// The command, wrapped so that it starts inside the group and leads a session.
    pub(crate) fn command(&self, program: impl Into<OsString>) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command.arg("enter").arg(&self.0).arg(program.into());
        command
    }

    /// The processes in it, with what they wait for.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let mut found = Vec::new();
        collect(&self.0, &mut found);
        found
    }

    /// Kills everything in it; what is still there at the deadline is returned.
    pub(crate) fn kill(&self, deadline: Duration) -> Vec<Process> {
        kill_tree(&self.0, deadline)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}

/// Kills and removes the groups that tests' containers left beside ours. Where systemd is process 1 the tree is
/// its own and stays.
pub(crate) fn sweep_foreign() {
    if Path::new("/run/systemd/system").is_dir() {
        return;
    }
    for group in children(Path::new(TREE)) {
        kill_tree(&group, Duration::from_secs(10));
        remove_tree(&group);
    }
}

/// A process that is still there.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
    pub(crate) state: char,
    pub(crate) stack: String,
}

impl Process {
    fn look(pid: u32) -> Option<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let state = stat.rsplit(") ").next()?.chars().next()?;
        let words = fs::read(folder.join("cmdline")).unwrap_or_default();
        let mut command = String::from_utf8_lossy(&words).replace('\0', " ").trim_end().to_owned();
        if command.is_empty() {
            command = fs::read_to_string(folder.join("comm")).unwrap_or_default().trim_end().to_owned();
        }
        let stack = fs::read_to_string(folder.join("stack")).unwrap_or_default();
        Some(Self { pid, command, state, stack })
    }
}

fn collect(group: &Path, found: &mut Vec<Process>) {
    let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    found.extend(
        pids.lines()
            .filter_map(|pid| pid.parse().ok())
            .filter_map(Process::look)
            // A dead process is only waiting to be reaped.
            .filter(|process| !matches!(process.state, 'Z' | 'X')),
    );
    for child in children(group) {
        collect(&child, found);
    }
}

fn kill_tree(group: &Path, deadline: Duration) -> Vec<Process> {
    let start = Instant::now();
    loop {
        let mut left = Vec::new();
        collect(group, &mut left);
        if left.is_empty() || start.elapsed() >= deadline {
            return left;
        }
        let _killed = fs::write(group.join("cgroup.kill"), "1");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn remove_tree(group: &Path) {
    for child in children(group) {
        remove_tree(&child);
    }
    let _removed = fs::remove_dir(group);
}

fn children(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// `agent enter GROUP WORD...`: becomes the command, inside the group.
pub(crate) fn enter(words: &[OsString]) -> Result<Infallible> {
    let [group, program, arguments @ ..] = words else { bail!("enter needs a group and a command") };
    let members = Path::new(group).join("cgroup.procs");
    fs::write(&members, "0").with_context(|| format!("cannot enter {}", members.display()))?;
    nix::unistd::setsid().context("cannot start a session")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
}
