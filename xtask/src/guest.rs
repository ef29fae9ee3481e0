//! One VM: its own disks, and boots until its work is done.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use harness::protocol::{Event, Line as ResultLine, Plan, VERSION, Work};

use crate::boot::{self, Console, End};
use crate::kernel::{Kernel, Line};
use crate::qemu::{self, Accel, Init, Machine};
use crate::results::{Ledger, Next, Step};
use crate::session::{Session, mkfs, results_folder};
use crate::vm::environment;
use crate::{command, initramfs};

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

/// A VM of a session.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    session: &'a Session,
    configuration: Configuration,
    folder: PathBuf,
    kernel: &'a Kernel,
    accel: Accel,
}

impl<'a> Guest<'a> {
    pub(crate) fn new(session: &'a Session, configuration: Configuration, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::create_dir_all(results_folder())?;
        let kernel = session.kernel(configuration.kernel)?;
        let initramfs = folder.join("initramfs");
        initramfs::write(kernel, session.agent(), &initramfs)?;
        let accel = qemu::choose(session.accel, kernel, &initramfs)?;
        let guest = Self { session, configuration, folder, kernel, accel };
        guest.make_scratch()?;
        Ok(guest)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn plan(&self, work: Work, more: &[(String, String)], deadline: Duration) -> Result<()> {
        let mut environment = environment();
        environment.extend_from_slice(more);
        let plan = Plan {
            version: VERSION,
            kernel: self.configuration.kernel.name().to_owned(),
            udev: self.configuration.udev,
            environment,
            work,
            deadline: deadline.saturating_sub(boot::LAST_WORDS).as_secs(),
        };
        boot::write_plan(&plan, &self.at("plan"))
    }

    fn machine(&self, console: qemu::Console) -> Machine<'_> {
        Machine {
            accel: self.accel,
            mebibytes: qemu::memory(self.session.jobs),
            kernel: self.kernel,
            initramfs: self.at("initramfs"),
            init: self.configuration.init,
            root: self.session.image().to_path_buf(),
            payload: self.session.payload(),
            plan: self.at("plan"),
            scratch: self.at("scratch.raw"),
            console,
        }
    }

    /// A new scratch disk, unless the last run's was kept and is to be kept.
    fn make_scratch(&self) -> Result<()> {
        let file = self.at("scratch.raw");
        if self.session.keep && file.is_file() {
            eprintln!("xtask: going on with the scratch disk that was kept, {}", file.display());
            return Ok(());
        }
        let _old = fs::remove_file(&file);
        File::create(&file)?.set_len(SCRATCH_BYTES)?;
        command::output(mkfs().args(["-L", "scratch", "-m", "0"]).arg(&file))?;
        Ok(())
    }

    /// Boots until all of the ledger's tests have a result, or the command has ended; returns its exit code.
    pub(crate) fn run(
        &mut self,
        work: &dyn Fn(&Ledger) -> Work,
        environment: &[(String, String)],
        ledger: &mut Ledger,
        deadline: Duration,
    ) -> Result<u8> {
        let console = results_folder().join(format!("console-{}.log", self.configuration.name()));
        let _old = fs::remove_file(&console);
        loop {
            self.plan(work(ledger), environment, deadline)?;
            let from = fs::metadata(&console).map_or(0, |data| data.len());
            let machine = self.machine(qemu::Console::File(console.clone()));
            let end = boot::boot(&machine, ledger, deadline)?;
            let came_up = ledger.was_ready() || matches!(end, End::Step(_));
            if self.accel == Accel::Kvm && self.session.accel.is_none() && !came_up {
                eprintln!("xtask: the VM did not come up under KVM; going on without it");
                qemu::distrust_kvm("passed its trial and then failed a real boot")?;
                self.accel = Accel::Tcg;
                continue;
            }
            let code = match end {
                End::Step(Step::Exit(code)) => code,
                _ => 0,
            };
            let mut said = Console::read(&console, from);
            said.stray_breakpoint &= self.accel == Accel::Tcg;
            match ledger.conclude(end, &said) {
                Next::Finished => return Ok(code),
                Next::BootAgain => {}
                Next::Broken(reason) => bail!("{reason}\n(the whole console is in {})", console.display()),
            }
        }
    }

    /// An interactive shell on this process's terminal.
    pub(crate) fn shell(&self) -> Result<u8> {
        let (rows, columns) = terminal_size();
        let term = std::env::var("TERM").unwrap_or_else(|_| "vt100".to_owned());
        self.plan(Work::Shell { rows, columns, term }, &[], Duration::from_secs(u64::from(u32::MAX)))?;
        let results = self.at("results");
        let machine = self.machine(qemu::Console::Terminal { results: results.clone() });
        eprintln!("xtask: booting; `exit` turns the VM off, Ctrl-A X kills it");
        let status = machine.start()?.wait()?;
        if !status.success() {
            bail!("QEMU ended with {status}");
        }
        let text = fs::read_to_string(&results).unwrap_or_default();
        let code =
            text.lines().filter_map(|line| serde_json::from_str::<ResultLine>(line).ok()).find_map(|line| {
                match line.event {
                    Event::Exit { code } => Some(code),
                    _ => None,
                }
            });
        Ok(code.unwrap_or(crate::BROKEN))
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        if self.session.keep {
            eprintln!("xtask: the scratch disk is kept, {}", self.at("scratch.raw").display());
        } else {
            let _gone = fs::remove_file(self.at("scratch.raw"));
        }
    }
}

fn terminal_size() -> (u16, u16) {
    let text = Command::new("stty").arg("size").output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    (numbers.next().unwrap_or(24), numbers.next().unwrap_or(80))
}
