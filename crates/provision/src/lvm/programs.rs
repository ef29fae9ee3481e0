//! The door to LVM: the trait [`Programs`], which [`Installed`] implements with the programs of this machine.

use crate::error::{Error, Result};
use crate::file::{errno, failed};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Where the programs are, for a process whose PATH lacks them; also the PATH that they get.
const FOLDERS: &str = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin";
/// Who prints more than this is ended; a report of LVM's is a few KiB.
const KEPT: u64 = 16 << 20;
/// How long a program may take to go after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How a program's run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// It said that all went well.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// What it said, in one line: complaints, or if there are none its output.
    pub fn said(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        match (lines.is_empty(), self.code) {
            (false, _) => lines.join("; "),
            (true, Some(code)) => format!("it said nothing and ended with {code}"),
            (true, None) => "it was killed".to_owned(),
        }
    }
}

/// Programs of other packages (lvm2, thin-provisioning-tools, util-linux), and LVM's folder of profiles.
///
/// An implementation may be shared by threads.
pub trait Programs: fmt::Debug + Send + Sync {
    /// Where a program is; `None` if it is not installed.
    fn find(&self, program: &str) -> Option<PathBuf>;

    /// Runs a program to its end, without input and without the caller's environment. Any exit code is no error here.
    ///
    /// # Errors
    /// [`Error::MissingTools`]; [`Error::Late`] at the deadline, when the program was told to end; [`Error::System`] if it cannot be started.
    fn run(&self, program: &str, arguments: &[&str], deadline: Duration) -> Result<Finished>;

    /// Writes a metadata profile, `NAME.profile`, where LVM looks for it (mode 0600); durable when it returns.
    ///
    /// # Errors
    /// [`Error::System`].
    fn write_profile(&self, name: &str, content: &str) -> Result<()>;
}

/// The programs that are installed on this machine.
///
/// Programs get a plain environment: a PATH, `LC_ALL=C`, `LVM_SUPPRESS_FD_WARNINGS`, and `LVM_SYSTEM_DIR` if the caller has it. One
/// that passes its deadline gets SIGTERM, which LVM heeds between two changes of its metadata, and seconds later SIGKILL. If the *caller*
/// is killed its program goes on to its end: half a command is worse than a whole one.
///
/// # Privileges
/// `CAP_SYS_ADMIN`, for the programs.
#[derive(Clone, Debug)]
pub struct Installed {
    search: OsString,
    system: PathBuf,
}

impl Installed {
    /// Programs on PATH, then in the usual folders; LVM's configuration from `LVM_SYSTEM_DIR`, else `/etc/lvm`.
    pub fn new() -> Self {
        let mut search = std::env::var_os("PATH").unwrap_or_default();
        if !search.is_empty() {
            search.push(":");
        }
        search.push(FOLDERS);
        let system = std::env::var_os("LVM_SYSTEM_DIR").filter(|folder| !folder.is_empty());
        Self { search, system: system.map_or_else(|| "/etc/lvm".into(), PathBuf::from) }
    }

    #[cfg(test)]
    fn with(search: impl Into<OsString>, system: impl Into<PathBuf>) -> Self {
        Self { search: search.into(), system: system.into() }
    }
}

impl Default for Installed {
    fn default() -> Self {
        Self::new()
    }
}

impl Programs for Installed {
    fn find(&self, program: &str) -> Option<PathBuf> {
        std::env::split_paths(&self.search)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(program))
            .find(|path| is_program(path))
    }

    fn run(&self, program: &str, arguments: &[&str], deadline: Duration) -> Result<Finished> {
        let path = self.find(program).ok_or_else(|| super::missing(&[program]))?;
        let line = || [&[program], arguments].concat().join(" ");
        tracing::debug!("{}", line());
        let start = Instant::now();
        match run(&path, arguments, &self.system, deadline) {
            Ok(Ended::Exited(status, stdout, stderr)) => Ok(Finished { code: status.code(), stdout, stderr }),
            Ok(Ended::Late { gone }) => Err(Error::Late { command: line(), waited: start.elapsed(), gone }),
            Err(error) => Err(failed("run", &path, errno(&error))),
        }
    }

    fn write_profile(&self, name: &str, content: &str) -> Result<()> {
        let folder = self.system.join("profile");
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&folder);
        made.map_err(|error| failed("make", &folder, errno(&error)))?;
        let path = folder.join(format!("{name}.profile"));
        replace(&folder, &path, content.as_bytes()).map_err(|error| failed("write", &path, errno(&error)))
    }
}

/// A machine without any of the programs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NotInstalled;

impl Programs for NotInstalled {
    fn find(&self, _: &str) -> Option<PathBuf> {
        None
    }

    fn run(&self, program: &str, _: &[&str], _: Duration) -> Result<Finished> {
        Err(super::missing(&[program]))
    }

    fn write_profile(&self, name: &str, _: &str) -> Result<()> {
        Err(failed("write", Path::new(name), Errno::EROFS))
    }
}

/// Gives a file new content in one step, durably.
fn replace(folder: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("profile.tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|status| status.is_file() && status.permissions().mode() & 0o111 != 0)
}

enum Ended {
    Exited(ExitStatus, String, String),
    /// It passed its deadline, or printed without end; `gone`: and has ended since.
    Late {
        gone: bool,
    },
}

fn run(program: &Path, arguments: &[&str], system: &Path, deadline: Duration) -> std::io::Result<Ended> {
    let start = Instant::now();
    // In memory, and no pipe: if this process is killed, the program's next line must not be its last (SIGPIPE).
    let (out, err) = (output()?, output()?);
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", OsStr::new(FOLDERS))
        .env("LC_ALL", "C")
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .env("LVM_SYSTEM_DIR", system)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .process_group(0)
        .spawn()?;
    let mut child = Running(Some(child));
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::Exited(status, text(&out)?, text(&err)?));
        }
        let spent = start.elapsed();
        if spent >= deadline || out.metadata()?.len() + err.metadata()?.len() > KEPT {
            return Ok(Ended::Late { gone: child.end() });
        }
        std::thread::sleep(pause.min(deadline - spent));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn output() -> std::io::Result<File> {
    Ok(memfd_create("thinlayer-lvm", MFdFlags::MFD_CLOEXEC)?.into())
}

/// All that was printed; the file's position belongs to who prints.
fn text(output: &File) -> std::io::Result<String> {
    let length = usize::try_from(output.metadata()?.len()).unwrap_or(0);
    let mut bytes = vec![0; length];
    output.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A started program. Dropped early, it goes on, and somebody collects it.
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

    /// Asks its group to end, then ends it; `false`: it is still there, in a system call that does not return.
    fn end(&mut self) -> bool {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let Some(child) = &self.0 else { return true };
            if let Ok(group) = i32::try_from(child.id())
                && let Err(errno) = killpg(Pid::from_raw(group), signal)
                && errno != Errno::ESRCH
            {
                tracing::warn!(pid = child.id(), %errno, "a program could not be ended");
            }
            let asked = Instant::now();
            while asked.elapsed() < GRACE {
                if !matches!(self.try_wait(), Ok(None)) {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        false
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            std::thread::spawn(move || child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const LONG: Duration = Duration::from_secs(20);

    fn sh(script: &str, deadline: Duration) -> Result<Finished> {
        Installed::with("/bin", "/nowhere/lvm").run("sh", &["-c", script], deadline)
    }

    #[test]
    fn both_outputs_and_the_code_come_back_apart() {
        let ended = sh("cat; echo one; echo two >&2; exit 5", LONG).unwrap();
        assert_eq!(ended, Finished { code: Some(5), stdout: "one\n".into(), stderr: "two\n".into() });
        assert_eq!(ended.said(), "two");
    }

    #[test]
    fn the_environment_is_its_own() {
        let ended =
            sh("echo $LC_ALL $LVM_SUPPRESS_FD_WARNINGS $LVM_SYSTEM_DIR $HOME $CARGO; pwd", LONG).unwrap();
        assert_eq!(ended.stdout, "C 1 /nowhere/lvm\n/\n");
    }

    #[test]
    fn at_the_deadline_it_is_asked_to_end() {
        let start = Instant::now();
        let error =
            sh("trap 'exit 0' TERM; while :; do sleep 0.05; done", Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, Error::Late { gone: true, .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(start.elapsed() < GRACE, "{:?}", start.elapsed());
    }

    #[test]
    fn one_that_does_not_listen_is_killed() {
        let error = sh("trap '' TERM; while :; do sleep 0.05; done", Duration::from_millis(200)).unwrap_err();
        assert!(matches!(error, Error::Late { gone: true, .. }), "{error}");
    }

    #[test]
    fn a_daemon_that_keeps_the_output_open_is_not_waited_for() {
        let start = Instant::now();
        let ended = sh("sleep 5 & echo started", LONG).unwrap();
        assert!(ended.success() && ended.stdout == "started\n", "{ended:?}");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }

    #[test]
    fn endless_output_is_ended() {
        let error = sh("exec yes", LONG).unwrap_err();
        assert!(matches!(error, Error::Late { gone: true, .. }), "{error}");
    }

    /// What a killed caller leaves goes on, and its next line is not its last.
    #[test]
    fn nobody_listens_and_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let done = folder.path().join("done");
        let script = format!("sleep 0.3; echo one; echo two >&2; echo three; touch {}", done.display());
        let out = output().unwrap();
        let child = Command::new("/bin/sh").args(["-c", &script]).stdout(out).spawn().unwrap();
        drop(Running(Some(child)));
        let deadline = Instant::now() + LONG;
        while !done.exists() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_its_package() {
        let nothing = tempfile::tempdir().unwrap();
        let programs = Installed::with(nothing.path(), "/etc/lvm");
        let error = programs.run("pvcreate", &[], LONG).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("pvcreate") && error.to_string().contains("lvm2"), "{error}");
    }

    #[test]
    fn a_profile_is_replaced_in_one_step_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Installed::with("/bin", folder.path().join("lvm"));
        for content in ["activation{\n}", "other"] {
            programs.write_profile("docker-thinpool", content).unwrap();
            let path = folder.path().join("lvm/profile/docker-thinpool.profile");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(folder.path().join("lvm/profile")).unwrap().count(), 1);
    }
}
