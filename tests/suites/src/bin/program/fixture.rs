//! A root on the scratch disk, and the program on it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{Read, Seek};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use harness::{Output, eventually, scratch_dir};
use serde_json::Value;

/// How long one step of the program may take in a slow VM.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Small sizes; an xfs has to have 300 MiB.
pub(crate) fn options(filesystem: &str) -> Vec<String> {
    ["dm.loopdatasize=2G", "dm.loopmetadatasize=32M", "dm.basesize=320M", &format!("dm.fs={filesystem}")]
        .map(str::to_owned)
        .to_vec()
}

/// A root. When it is dropped, what is mounted is given back and the pool is stopped.
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) options: Vec<String>,
    /// A file with the options.
    config: PathBuf,
}

impl Root {
    /// A root of this name in the test's scratch folder, with a file of options.
    pub(crate) fn new(name: &str, filesystem: &str) -> Result<Self> {
        Self::at(&scratch_dir()?.join(name), filesystem)
    }

    /// A root at this place.
    pub(crate) fn at(path: &Path, filesystem: &str) -> Result<Self> {
        Self::with(path, options(filesystem))
    }

    /// A root with these options. They are in the configuration file, so that a command line has only what a test gives.
    pub(crate) fn with(path: &Path, options: Vec<String>) -> Result<Self> {
        // One each, since a test may look at a root with other options, too.
        static MADE: AtomicU32 = AtomicU32::new(0);
        let config = scratch_dir()?.join(format!("{}.toml", MADE.fetch_add(1, Ordering::Relaxed)));
        let items: Vec<String> = options.iter().map(|item| format!("{item:?}")).collect();
        std::fs::write(&config, format!("storage-opts = [{}]\n", items.join(", ")))?;
        Ok(Self { path: path.to_owned(), options, config })
    }

    /// The program with the root's global options before the words.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Command> {
        let mut command = Command::new("thinlayer");
        command.env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command.arg("--root").arg(&self.path).arg("--config").arg(&self.config).args(words);
        Ok(command)
    }

    /// Runs it to its end, whatever that is.
    pub(crate) fn try_run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Output> {
        let output = self.command(words)?.output().context("cannot start thinlayer")?;
        let (status, stdout, stderr) = (output.status, output.stdout, output.stderr);
        ensure!(
            status.code() != Some(101) && status.signal().is_none(),
            "thinlayer crashed: {}",
            String::from_utf8_lossy(&stderr)
        );
        Ok(Output { status, stdout, stderr })
    }

    /// Runs it; it has to succeed. Its standard output.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<String> {
        let output = self.try_run(words)?;
        if !output.status.success() {
            let words: Vec<_> =
                words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
            bail!("thinlayer {} failed: {output:?}", words.join(" "));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs it; it has to succeed and to say nothing.
    pub(crate) fn quiet<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<()> {
        let said = self.run(words)?;
        ensure!(said.is_empty(), "it says {said:?}");
        Ok(())
    }

    /// Runs it with `--json`; it has to succeed.
    pub(crate) fn json<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Value> {
        let words: Vec<&OsStr> =
            [OsStr::new("--json")].into_iter().chain(words.iter().map(AsRef::as_ref)).collect();
        let said = self.run(&words)?;
        serde_json::from_str(&said).with_context(|| format!("no JSON: {said}"))
    }

    /// Runs it; it has to fail with this code, one line, and nothing on standard output. The line.
    pub(crate) fn refused<S: AsRef<OsStr>>(&self, words: &[S], code: i32) -> Result<String> {
        let output = self.try_run(words)?;
        ensure!(output.status.code() == Some(code), "not {code}: {output:?}");
        ensure!(output.stdout.is_empty(), "something is on standard output: {output:?}");
        let said = output.stderr_text();
        let errors: Vec<&str> =
            said.lines().filter(|line| !line.starts_with("thinlayer: warning: ")).collect();
        ensure!(errors.len() == 1 && errors[0].starts_with("thinlayer: "), "not one line: {said}");
        Ok(errors[0].to_owned())
    }

    /// Starts it, with its output in files.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Running> {
        Running::start(self.command(words)?)
    }

    /// The ids that `ls` shows.
    pub(crate) fn ids(&self) -> Result<BTreeSet<String>> {
        let layers = self.json(&["ls"])?;
        let layers = layers.as_array().context("ls shows no array")?;
        layers
            .iter()
            .map(|layer| Ok(layer["id"].as_str().context("a layer without id")?.to_owned()))
            .collect()
    }

    /// Store, pool and kernel agree.
    pub(crate) fn check(&self) -> Result<()> {
        let output = self.try_run(&["check"])?;
        ensure!(output.status.success(), "check: {output:?}");
        ensure!(output.stdout_text().ends_with(": all agree"), "check: {output:?}");
        Ok(())
    }

    /// Puts the root to rest: nothing of it is in the kernel, and the pool's metadata is whole.
    pub(crate) fn stop_and_check(&self) -> Result<()> {
        self.quiet(&["stop"])?;
        self.at_rest()
    }

    /// Nothing of the root is in the kernel, and the pool's metadata is whole.
    pub(crate) fn at_rest(&self) -> Result<()> {
        let devices = harness::run("dmsetup", ["ls"])?.stdout_text();
        ensure!(devices == "No devices found", "dmsetup ls: {devices}");
        eventually("the loop devices to go", PATIENCE, || {
            let loops = harness::run("losetup", ["--list", "--noheadings", "--output", "NAME,BACK-FILE"])?
                .stdout_text();
            let ours = loops.contains(&*self.path.to_string_lossy());
            Ok(if ours { Err(loops) } else { Ok(()) })
        })?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        ensure!(
            !mounts.contains(&format!("{}/mnt/", self.path.display())),
            "something is mounted:\n{mounts}"
        );
        self.thin_check()
    }

    /// The pool's metadata is whole. The pool has to be inactive.
    pub(crate) fn thin_check(&self) -> Result<()> {
        harness::run("thin_check", [self.metadata_file()]).map(drop)
    }

    fn metadata_file(&self) -> PathBuf {
        self.path.join("devicemapper/metadata")
    }

    /// How many devices are in the pool, by the pool's own metadata. The pool has to be inactive.
    pub(crate) fn devices_in_pool(&self) -> Result<usize> {
        let list = harness::run("thin_ls", [OsStr::new("--no-headers"), self.metadata_file().as_os_str()])?;
        Ok(list.stdout_text().lines().count())
    }

    /// Starts `serve` and waits until it is ready.
    pub(crate) fn serve(&self) -> Result<Serve> {
        self.serve_with::<&str>(&[])
    }

    /// The same with further words on its command line.
    pub(crate) fn serve_with<S: AsRef<OsStr>>(&self, words: &[S]) -> Result<Serve> {
        let notify = Notify::new()?;
        let words: Vec<&OsStr> =
            [OsStr::new("serve")].into_iter().chain(words.iter().map(AsRef::as_ref)).collect();
        let mut command = self.command(&words)?;
        command.env("NOTIFY_SOCKET", &notify.path);
        let mut serve = Serve { running: Running::start(command)?, notify };
        if let Err(error) = serve.notify.wait_for("READY=1") {
            bail!("serve is not ready: {error:#}: {:?}", serve.running.end_with("KILL")?);
        }
        Ok(serve)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.path.exists() {
            return;
        }
        for id in self.ids().unwrap_or_default() {
            let _given_back = self.try_run(&["umount", "--all", id.as_str()]);
        }
        let _stopped = self.try_run(&["stop"]);
    }
}

/// A program that runs, killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: std::fs::File,
    stderr: std::fs::File,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        let file = || -> Result<std::fs::File> {
            let path = scratch_dir()?.join("output");
            let file =
                std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        };
        let (stdout, stderr) = (file()?, file()?);
        command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
        Ok(Self { child: command.spawn().context("cannot start thinlayer")?, stdout, stderr })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, at once: a shell would take as long as what the signal is to interrupt.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        let signal: nix::sys::signal::Signal = format!("SIG{signal}").parse()?;
        Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// Has it ended?
    pub(crate) fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Does one of its threads wait for a disk (state D)? `Err`: the states of its threads.
    pub(crate) fn waits_for_a_disk(&self) -> Result<Result<(), String>> {
        let mut states = String::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // A thread may end meanwhile.
            let Ok(stat) = std::fs::read_to_string(task?.path().join("stat")) else { continue };
            // The name before the state may have spaces and brackets in it.
            states.extend(stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()));
        }
        Ok(if states.contains('D') { Ok(()) } else { Err(format!("its threads are in {states}")) })
    }

    /// Waits for its end.
    pub(crate) fn output(&mut self) -> Result<Output> {
        let what = format!("process {} to end", self.pid());
        let status =
            eventually(&what, PATIENCE, || Ok(self.child.try_wait()?.ok_or_else(|| "it runs".to_owned())))?;
        let text = |file: &mut std::fs::File| -> Result<Vec<u8>> {
            let mut text = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut text)?;
            Ok(text)
        };
        Ok(Output { status, stdout: text(&mut self.stdout)?, stderr: text(&mut self.stderr)? })
    }

    /// Sends a signal, unless it has ended already, and waits for its end.
    pub(crate) fn end_with(&mut self, signal: &str) -> Result<Output> {
        if !self.ended()? {
            self.signal(signal)?;
        }
        self.output()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A `serve` that is ready.
pub(crate) struct Serve {
    pub(crate) running: Running,
    pub(crate) notify: Notify,
}

impl Serve {
    /// SIGTERM; it has to end with code 0.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        let output = self.running.end_with("TERM")?;
        ensure!(output.status.code() == Some(0), "serve ended badly: {output:?}");
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.running.end_with("KILL").map(drop)
    }
}

/// What systemd would hear.
pub(crate) struct Notify {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Vec<String>,
}

impl Notify {
    fn new() -> Result<Self> {
        let path = scratch_dir()?.join("notify");
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        let socket = UnixDatagram::bind(&path)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, path, heard: Vec::new() })
    }

    /// Waits for a message.
    pub(crate) fn wait_for(&mut self, message: &str) -> Result<()> {
        eventually(message, PATIENCE, || {
            let mut text = [0; 256];
            while let Ok(length) = self.socket.recv(&mut text) {
                self.heard.push(String::from_utf8_lossy(&text[..length]).into_owned());
            }
            Ok(if self.heard.iter().any(|heard| heard == message) {
                Ok(())
            } else {
                Err(format!("heard {:?}", self.heard))
            })
        })
    }
}
