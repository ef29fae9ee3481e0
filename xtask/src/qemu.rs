//! The machine: QEMU's command line, and whether KVM can be trusted.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::kernel::Kernel;
use crate::{command, paths};

/// How guest code is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Accel {
    /// By the processor.
    Kvm,
    /// By QEMU's own translator: slow, and works everywhere.
    Tcg,
}

/// What process 1 of the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(crate) enum Init {
    /// The tests' agent.
    Agent,
    /// systemd, with the agent as a unit.
    Systemd,
}

/// A trial boot takes three seconds where KVM works.
const TRIAL: Duration = Duration::from_secs(20);

/// Everything that QEMU is started with.
#[derive(Debug)]
pub(crate) struct Machine<'a> {
    pub(crate) accel: Accel,
    pub(crate) mebibytes: u64,
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: PathBuf,
    pub(crate) init: Init,
    /// Never written: each boot has a layer of its own over it.
    pub(crate) root: PathBuf,
    pub(crate) payload: PathBuf,
    pub(crate) plan: PathBuf,
    /// Survives power cuts.
    pub(crate) scratch: PathBuf,
    pub(crate) console: Console,
}

/// Where the guest's console goes, and with it the results.
#[derive(Debug)]
pub(crate) enum Console {
    /// Into a file; the results come on QEMU's standard output.
    File(PathBuf),
    /// To the person; the results go into a file.
    Terminal { results: PathBuf },
}

impl Machine<'_> {
    pub(crate) fn start(&self) -> Result<Child> {
        let mut qemu = qemu(self.accel, self.mebibytes);
        let init = match self.init {
            Init::Agent => "agent",
            Init::Systemd => "systemd",
        };
        qemu.arg("-kernel").arg(self.kernel.image()).arg("-initrd").arg(&self.initramfs);
        qemu.args(["-append", &format!("{KERNEL_WORDS} quiet systemd.show_status=0 thinlayer.init={init}")]);
        let cache = cache_mode();
        // The layer over the root image goes when QEMU does, so it need not reach the disk.
        drive(&mut qemu, "root", &self.root, "snapshot=on,cache=unsafe");
        drive(&mut qemu, "payload", &self.payload, "readonly=on");
        drive(&mut qemu, "plan", &self.plan, "readonly=on");
        drive(&mut qemu, "scratch", &self.scratch, &format!("cache={cache},discard=unmap"));
        match &self.console {
            Console::File(console) => {
                qemu.args(["-chardev", &format!("file,id=console,append=on,path={}", comma(console))]);
                qemu.args(["-chardev", "stdio,id=results,signal=off"]);
                qemu.args(["-serial", "chardev:console", "-serial", "chardev:results"]);
                qemu.stdin(Stdio::null()).stdout(Stdio::piped());
            }
            Console::Terminal { results } => {
                qemu.args(["-chardev", &format!("file,id=results,path={}", comma(results))]);
                qemu.args(["-serial", "mon:stdio", "-serial", "chardev:results"]);
            }
        }
        qemu.spawn().with_context(|| format!("cannot start `{}`", command::show(&qemu)))
    }
}

/// `panic=-1` with `-no-reboot` ends QEMU at a panic; a task that blocks for two minutes is one.
const KERNEL_WORDS: &str = "console=ttyS0 panic=-1 oops=panic hung_task_panic=1 softlockup_panic=1";

fn qemu(accel: Accel, mebibytes: u64) -> Command {
    // The kernel ends QEMU if this process dies, however it dies.
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-no-user-config"]);
    qemu.args(["-display", "none", "-no-reboot", "-machine", "pc"]);
    match accel {
        Accel::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        Accel::Tcg => qemu.args(["-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"]),
    };
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get().min(2));
    qemu.args(["-smp", &cpus.to_string(), "-m", &format!("{mebibytes}M")]);
    // The layer over the root image; /tmp may be memory.
    qemu.env("TMPDIR", paths::vm());
    qemu
}

fn drive(qemu: &mut Command, name: &str, file: &Path, options: &str) {
    qemu.args(["-drive", &format!("if=none,id={name},format=raw,file={},{options}", comma(file))]);
    qemu.args(["-device", &format!("virtio-blk-pci,drive={name},serial={name}")]);
}

/// QEMU splits its options at commas; a doubled one is a comma.
fn comma(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// 6 GiB for each of so many VMs, or what a smaller host can spare.
pub(crate) fn memory(vms: usize) -> u64 {
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    match available {
        Some(kibibytes) => (kibibytes / 1024 * 3 / 4 / vms.max(1) as u64).clamp(1024, 6144),
        None => 2048,
    }
}

/// Without the host's cache where the file system allows that.
fn cache_mode() -> &'static str {
    let probe = paths::vm().join("direct");
    let direct = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(nix::fcntl::OFlag::O_DIRECT.bits())
        .open(&probe)
        .is_ok();
    let _gone = fs::remove_file(probe);
    if direct { "none" } else { "writeback" }
}

/// What was asked for, or KVM if a trial boot proves it, else TCG.
pub(crate) fn choose(asked: Option<Accel>, kernel: &Kernel, initramfs: &Path) -> Result<Accel> {
    if let Some(accel) = asked {
        return Ok(accel);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let file = verdict_file();
    let cached = fs::read_to_string(&file).unwrap_or_default();
    let verdict = match cached.split_once(' ') {
        Some((known, verdict)) if known == boot.trim() => verdict.to_owned(),
        _ => {
            let verdict = match trial(kernel, initramfs) {
                Ok(()) => "works".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            eprintln!("xtask: KVM on this machine: {verdict}");
            fs::write(&file, format!("{} {verdict}", boot.trim()))?;
            verdict
        }
    };
    Ok(if verdict == "works" { Accel::Kvm } else { Accel::Tcg })
}

/// Remembers until the host's next boot that KVM, though it passed its trial, does not work.
pub(crate) fn distrust_kvm(reason: &str) -> Result<()> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    fs::write(verdict_file(), format!("{} {reason}", boot.trim()))
        .context("cannot remember that KVM does not work")
}

fn verdict_file() -> PathBuf {
    paths::vm().join("kvm-verdict")
}

/// Boots a kernel that only says that it runs. A KVM device that opens is no proof: there are hosts where the
/// guest hangs or QEMU stays alive after an internal error.
fn trial(kernel: &Kernel, initramfs: &Path) -> Result<()> {
    File::options().read(true).write(true).open("/dev/kvm").context("cannot open /dev/kvm")?;
    eprintln!("xtask: trying KVM (once per boot of this machine, at most {} s)", TRIAL.as_secs());
    let mut qemu = qemu(Accel::Kvm, 512);
    qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs);
    qemu.args(["-append", &format!("{KERNEL_WORDS} quiet thinlayer.trial"), "-serial", "stdio"]);
    let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let stdout = child.stdout.take().context("QEMU has no standard output")?;
    let (sender, seen) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if String::from_utf8_lossy(&line).contains("thinlayer trial boot works") {
                let _nobody_waits = sender.send(());
            }
        }
    });
    let seen = seen.recv_timeout(TRIAL);
    let _dead = child.kill();
    let _reaped = child.wait();
    match seen {
        Ok(()) => Ok(()),
        Err(mpsc::RecvTimeoutError::Timeout) => bail!("a trial boot said nothing for {} s", TRIAL.as_secs()),
        Err(mpsc::RecvTimeoutError::Disconnected) => bail!("a trial boot ended without a word"),
    }
}
