//! Finding mkfs and running it: no shell, no input, bounded output, a deadline.

use crate::filesystems::Alive;
use crate::sys;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where mkfs programs are, for a process whose PATH lacks them.
const FOLDERS: &[&str] = &["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// How much of the end of a program's output is kept.
const KEPT: usize = 4096;
/// How much of its beginning: where a bad option is, before a page of usage.
const KEPT_FIRST: usize = 512;
/// How many of its last lines an error carries, besides the first one.
const LINES: usize = 5;
/// How often a caller is told that the program is alive.
const BEAT: Duration = Duration::from_secs(1);
/// How long a killed program may take to go. One that hangs in the kernel does not go at all.
const AFTERLIFE: Duration = Duration::from_secs(5);

/// The absolute path of a program: from a search path like PATH's (whose relative parts do not count), else from [`FOLDERS`].
pub(crate) fn find(name: &str, search_path: Option<&OsStr>) -> Option<PathBuf> {
    let searched = search_path.map(std::env::split_paths).into_iter().flatten();
    searched
        .chain(FOLDERS.iter().map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
}

/// How a program's run ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// By itself, with the last lines of what it printed.
    Exited(ExitStatus, String),
    /// Killed at the deadline, with the same.
    Killed(String),
    /// Killed at the deadline, and still there: it hangs in a system call. Its process id.
    Hanging(u32),
}

/// Runs a program to its end, and kills it with all its children at the deadline. `alive` hears from it about once a second.
pub(crate) fn run(
    program: &Path,
    arguments: &[OsString],
    deadline: Duration,
    alive: Alive<'_>,
) -> std::io::Result<Ended> {
    let start = Instant::now();
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    sys::die_with_parent(&mut command);
    let child = command.spawn()?;
    // It holds the write ends of the pipe, which would keep the pipe from its end.
    drop(command);
    let mut child = Running(Some(child));
    set_nonblocking(&reader)?;

    let mut tail = Tail::default();
    let mut next_beat = BEAT;
    let mut open = true;
    loop {
        if let Some(status) = child.try_wait()? {
            // What is still in the pipe. A child of its own may hold the pipe open: no waiting for that.
            tail.drain(&mut reader)?;
            return Ok(Ended::Exited(status, tail.text()));
        }
        let spent = start.elapsed();
        if spent >= deadline {
            let gone = child.kill();
            tail.drain(&mut reader)?;
            return Ok(match gone {
                Ok(()) => Ended::Killed(tail.text()),
                Err(id) => Ended::Hanging(id),
            });
        }
        if spent >= next_beat {
            alive(spent);
            next_beat = spent + BEAT;
        }
        let pause = (deadline - spent).min(next_beat.saturating_sub(spent)).min(Duration::from_millis(100));
        if open {
            wait_for_output(&reader, pause)?;
            open = tail.drain(&mut reader)?;
        } else {
            // It has closed its output, so it is about to end; there is nothing to wait on.
            std::thread::sleep(pause.min(Duration::from_millis(2)));
        }
    }
}

/// A started program, which goes when this goes.
struct Running(Option<Child>);

impl Running {
    fn try_wait(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let Some(child) = self.0.as_mut() else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.0 = None;
        }
        Ok(status)
    }

    /// Kills its process group and waits a moment for its end; the error is the process id of one that does not go.
    fn kill(&mut self) -> Result<(), u32> {
        let Some(mut child) = self.0.take() else { return Ok(()) };
        let id = child.id();
        if let Ok(group) = i32::try_from(id)
            && let Err(errno) = killpg(Pid::from_raw(group), Signal::SIGKILL)
            && errno != Errno::ESRCH
        {
            tracing::warn!(pid = id, %errno, "a program could not be killed");
        }
        let killed = Instant::now();
        while killed.elapsed() < AFTERLIFE {
            if !matches!(child.try_wait(), Ok(None)) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Somebody must collect it when the kernel lets it go.
        std::thread::spawn(move || child.wait());
        Err(id)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(id) = self.kill() {
            tracing::warn!(pid = id, "a killed program does not end");
        }
    }
}

fn set_nonblocking(reader: &PipeReader) -> std::io::Result<()> {
    fcntl(reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

fn wait_for_output(reader: &PipeReader, pause: Duration) -> std::io::Result<()> {
    let milliseconds = u16::try_from(pause.as_millis()).unwrap_or(100).max(1);
    let mut wanted = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
    match poll(&mut wanted, PollTimeout::from(milliseconds)) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The beginning and the end of a program's output.
#[derive(Debug, Default)]
struct Tail {
    first: Vec<u8>,
    last: VecDeque<u8>,
}

impl Tail {
    /// Takes what there is; `false` at the end of the output.
    fn drain(&mut self, reader: &mut PipeReader) -> std::io::Result<bool> {
        let mut buffer = [0; 4096];
        // A program that never stops printing must not hold us past the deadline.
        for _ in 0..64 {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => self.push(&buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn push(&mut self, bytes: &[u8]) {
        let (first, rest) = bytes.split_at(bytes.len().min(KEPT_FIRST - self.first.len()));
        self.first.extend_from_slice(first);
        self.last.extend(rest);
        let surplus = self.last.len().saturating_sub(KEPT);
        self.last.drain(..surplus);
    }

    fn text(&self) -> String {
        let (one, two) = self.last.as_slices();
        in_one_line(&[&self.first, one, two].concat())
    }
}

/// The first line and the last ones, joined to one, without what moves a terminal's cursor.
fn in_one_line(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<String> = text
        .split(['\n', '\r'])
        .map(|line| {
            let mut shown = String::with_capacity(line.len());
            for character in line.chars() {
                match character {
                    // Progress such as `1/8^H^H^H2/8`.
                    '\u{8}' => drop(shown.pop()),
                    '\t' => shown.push(' '),
                    control if control.is_control() => {}
                    other => shown.push(other),
                }
            }
            shown.trim().to_owned()
        })
        .filter(|line| !line.is_empty())
        .collect();
    match lines.as_slice() {
        [first, rest @ ..] if rest.len() > LINES => {
            format!("{first}; [...]; {}", rest[rest.len() - LINES..].join("; "))
        }
        lines => lines.join("; "),
    }
}

#[cfg(test)]
mod tests;
