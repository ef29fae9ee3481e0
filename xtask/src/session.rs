//! A session with the VM: set-up, the lock, the disks of a run, boots until the work is done.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::protocol::{Plan, VERSION, Work};

use crate::boot::{self, Console, End};
use crate::install::{self, Need};
use crate::kernel::{Kernel, Line, path_with_sbin};
use crate::qemu::{self, Accel, Init, Machine};
use crate::results::{Ledger, Next, Step};
use crate::suites::Built;
use crate::{command, image, initramfs, kernel, paths, queue};

/// What the host needs for the VM, besides Rust.
const NEEDS: &[Need] = &[
    Need { present: || install::program("qemu-system-x86_64"), package: "qemu-system-x86" },
    Need { present: || install::program("mmdebstrap"), package: "mmdebstrap" },
    Need { present: || install::program("mkfs.ext4"), package: "e2fsprogs" },
    Need { present: || install::program("depmod"), package: "kmod" },
    Need { present: || install::program("xz"), package: "xz-utils" },
    Need { present: || install::program("setpriv"), package: "util-linux" },
    Need {
        present: || Path::new("/usr/share/keyrings/debian-archive-keyring.gpg").is_file(),
        package: "debian-archive-keyring",
    },
    Need {
        present: || nix::unistd::geteuid().is_root() || install::program("fakeroot"),
        package: "fakeroot",
    },
    Need { present: || nix::unistd::geteuid().is_root() || install::program("newuidmap"), package: "uidmap" },
];

/// Sparse, so that only what tests write takes room.
const SCRATCH_BYTES: u64 = 24 << 30;

/// How the guest is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Configuration {
    pub(crate) kernel: Line,
    pub(crate) udev: bool,
    pub(crate) init: Init,
}

impl Configuration {
    /// A short name, for files and people.
    pub(crate) fn name(&self) -> String {
        let rest = match (self.init, self.udev) {
            (Init::Systemd, _) => "systemd",
            (Init::Agent, true) => "udev",
            (Init::Agent, false) => "no-udev",
        };
        format!("{}-{rest}", self.kernel.name())
    }
}

/// What is made once and cached: kernels and root image.
#[derive(Debug)]
struct SetUp {
    kernels: Vec<Kernel>,
    image: PathBuf,
}

/// The right to run VMs, one at a time on this machine, and the disks of one run.
#[derive(Debug)]
pub(crate) struct Session {
    set_up: SetUp,
    folder: PathBuf,
    keep: bool,
    accel: Option<Accel>,
    agent: PathBuf,
    _lock: queue::Turn,
}

impl Session {
    /// Sets the host up if need be, waits for other sessions, and makes the disks that carry what was built.
    pub(crate) fn open(built: &Built, accel: Option<Accel>, keep: bool) -> Result<Self> {
        fs::create_dir_all(paths::vm())?;
        let set_up = {
            let _lock = queue::wait("set-up.lock")?;
            install::ensure(NEEDS)?;
            let kernels = kernel::all()?;
            let image = image::ensure(&kernels)?;
            SetUp { kernels, image }
        };
        let lock = queue::wait("lock")?;
        let folder = paths::vm().join("run");
        fs::create_dir_all(folder.join("payload"))?;
        let session = Self { set_up, folder, keep, accel, agent: built.agent.clone(), _lock: lock };
        session.make_payload(built)?;
        session.make_scratch()?;
        Ok(session)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn make_payload(&self, built: &Built) -> Result<()> {
        let stage = self.at("payload");
        fs::remove_dir_all(&stage)?;
        let mut bytes = 0;
        let agent = [("agent".to_owned(), built.agent.clone())];
        for (below, files) in [("", &agent[..]), ("bin", &built.programs), ("suites", &built.suites)] {
            fs::create_dir_all(stage.join(below))?;
            for (name, file) in files {
                bytes += fs::copy(file, stage.join(below).join(name))
                    .with_context(|| format!("cannot copy {}", file.display()))?;
            }
        }
        let image = self.at("payload.ext4");
        let _old = fs::remove_file(&image);
        let mebibytes = bytes / (1 << 20) * 11 / 10 + 16;
        command::output(
            mkfs()
                .args(["-O", "^has_journal", "-m", "0", "-d"])
                .arg(&stage)
                .arg(&image)
                .arg(format!("{mebibytes}M")),
        )?;
        Ok(())
    }

    /// A new scratch disk, unless the last run's was kept and is to be kept.
    fn make_scratch(&self) -> Result<()> {
        let file = self.at("scratch.raw");
        if self.keep && file.is_file() {
            eprintln!("xtask: going on with the scratch disk that was kept, {}", file.display());
            return Ok(());
        }
        let _old = fs::remove_file(&file);
        File::create(&file)?.set_len(SCRATCH_BYTES)?;
        command::output(mkfs().args(["-L", "scratch", "-m", "0"]).arg(&file))?;
        Ok(())
    }

    fn kernel(&self, line: Line) -> Result<&Kernel> {
        self.set_up
            .kernels
            .iter()
            .find(|kernel| kernel.line == line)
            .with_context(|| format!("there is no kernel {}", line.name()))
    }

    fn initramfs(&self, kernel: &Kernel) -> Result<PathBuf> {
        let file = self.at(&format!("initramfs-{}", kernel.line.name()));
        initramfs::write(kernel, &self.agent, &file)?;
        Ok(file)
    }

    /// Where the console of this configuration's last run is kept.
    pub(crate) fn console_file(configuration: &Configuration) -> PathBuf {
        results_folder().join(format!("console-{}.log", configuration.name()))
    }

    /// Boots until all of the ledger's tests have a result, or the command has ended; returns its exit code.
    pub(crate) fn run(
        &self,
        configuration: &Configuration,
        work: &dyn Fn(&Ledger) -> Work,
        environment: &[(String, String)],
        ledger: &mut Ledger,
        deadline: Duration,
    ) -> Result<u8> {
        let kernel = self.kernel(configuration.kernel)?;
        let initramfs = self.initramfs(kernel)?;
        let mut accel = qemu::choose(self.accel, kernel, &initramfs)?;
        fs::create_dir_all(results_folder())?;
        let console = Self::console_file(configuration);
        let _old = fs::remove_file(&console);
        let plan_file = self.at("plan");
        loop {
            let plan = Plan {
                version: VERSION,
                kernel: configuration.kernel.name().to_owned(),
                udev: configuration.udev,
                environment: environment.to_vec(),
                work: work(ledger),
                deadline: deadline.saturating_sub(boot::LAST_WORDS).as_secs(),
            };
            boot::write_plan(&plan, &plan_file)?;
            let machine = Machine {
                accel,
                kernel,
                initramfs: &initramfs,
                init: configuration.init,
                root: &self.set_up.image,
                payload: &self.at("payload.ext4"),
                plan: &plan_file,
                scratch: &self.at("scratch.raw"),
                console: qemu::Console::File(&console),
            };
            let from = fs::metadata(&console).map_or(0, |data| data.len());
            let end = boot::boot(&machine, ledger, deadline)?;
            if accel == Accel::Kvm
                && self.accel.is_none()
                && !ledger.was_ready()
                && !matches!(end, End::Step(_))
            {
                eprintln!("xtask: the VM did not come up under KVM; going on without it");
                qemu::distrust_kvm("passed its trial and then failed a real boot")?;
                accel = Accel::Tcg;
                continue;
            }
            let code = match end {
                End::Step(Step::Exit(code)) => code,
                _ => 0,
            };
            match ledger.conclude(end, &Console::read(&console, from)) {
                Next::Finished => return Ok(code),
                Next::BootAgain => {}
                Next::Broken(reason) => bail!("{reason}\n(the whole console is in {})", console.display()),
            }
        }
    }

    /// An interactive shell on this process's terminal.
    pub(crate) fn shell(&self, configuration: &Configuration) -> Result<u8> {
        let kernel = self.kernel(configuration.kernel)?;
        let initramfs = self.initramfs(kernel)?;
        let accel = qemu::choose(self.accel, kernel, &initramfs)?;
        let (rows, columns) = terminal_size();
        let term = std::env::var("TERM").unwrap_or_else(|_| "vt100".to_owned());
        let plan = Plan {
            version: VERSION,
            kernel: configuration.kernel.name().to_owned(),
            udev: configuration.udev,
            environment: crate::vm::environment(),
            work: Work::Shell { rows, columns, term },
            deadline: u64::from(u32::MAX),
        };
        let plan_file = self.at("plan");
        boot::write_plan(&plan, &plan_file)?;
        let results = self.at("results");
        let machine = Machine {
            accel,
            kernel,
            initramfs: &initramfs,
            init: configuration.init,
            root: &self.set_up.image,
            payload: &self.at("payload.ext4"),
            plan: &plan_file,
            scratch: &self.at("scratch.raw"),
            console: qemu::Console::Terminal { results: &results },
        };
        eprintln!("xtask: booting; `exit` turns the VM off, Ctrl-A X kills it");
        let status = machine.start()?.wait()?;
        if !status.success() {
            bail!("QEMU ended with {status}");
        }
        let text = fs::read_to_string(&results).unwrap_or_default();
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str::<harness::protocol::Line>(line).ok())
            .find_map(|line| match line.event {
                harness::protocol::Event::Exit { code } => Some(code),
                _ => None,
            })
            .unwrap_or(crate::BROKEN))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("xtask: the scratch disk is kept, {}", self.at("scratch.raw").display());
        } else {
            let _gone = fs::remove_file(self.at("scratch.raw"));
        }
    }
}

/// Where consoles and JUnit files go.
pub(crate) fn results_folder() -> PathBuf {
    paths::vm().join("results")
}

fn mkfs() -> Command {
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.env("PATH", path_with_sbin());
    mkfs.args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"]);
    mkfs
}

fn terminal_size() -> (u16, u16) {
    let text = Command::new("stty").arg("size").output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    (numbers.next().unwrap_or(24), numbers.next().unwrap_or(80))
}
