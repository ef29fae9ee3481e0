//! A process that is killed while it sets a pool up: this suite's own program, started with a few words in its environment.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use thinlayer_graphdriver::Machine;
use thinlayer_provision::Result as LvmResult;
use thinlayer_provision::lvm::{Finished, Programs};

use crate::disk::Disk;
use crate::root;

const CHILD: &str = "THINLAYER_LVM_CHILD";

/// LVM's programs that change something, in the order of a set-up.
pub(crate) const CHANGING: [&str; 6] =
    ["pvcreate", "vgcreate", "lvcreate", "lvcreate", "lvconvert", "lvchange"];

/// Where the process ends, by the number of the changing program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// When the program has ended.
    After(usize),
    /// So many milliseconds into it; the program itself goes on.
    Inside(usize, u64),
    /// The program is killed so many milliseconds into it, and the process as well.
    Both(usize, u64),
}

impl Death {
    fn to_text(self) -> String {
        match self {
            Self::After(number) => format!("after {number} 0"),
            Self::Inside(number, delay) => format!("inside {number} {delay}"),
            Self::Both(number, delay) => format!("both {number} {delay}"),
        }
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (kind, number, delay) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(match kind {
            "after" => Self::After(number),
            "inside" => Self::Inside(number, delay),
            "both" => Self::Both(number, delay),
            _ => return None,
        })
    }
}

#[derive(Debug)]
struct Dying {
    inner: Arc<dyn Programs>,
    death: Death,
    seen: AtomicUsize,
}

fn die() -> ! {
    let _killed = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    unreachable!("SIGKILL came back")
}

impl Programs for Dying {
    fn find(&self, program: &str) -> Option<PathBuf> {
        self.inner.find(program)
    }

    fn run(&self, program: &str, arguments: &[&str], deadline: Duration) -> LvmResult<Finished> {
        if !CHANGING.contains(&program) {
            return self.inner.run(program, arguments, deadline);
        }
        let number = self.seen.fetch_add(1, Ordering::SeqCst);
        match self.death {
            Death::Inside(at, delay) if at == number => {
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(delay));
                    die()
                });
            }
            Death::Both(at, delay) if at == number => {
                let mut child = Command::new(program)
                    .args(arguments)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap_or_else(|error| panic!("{program}: {error}"));
                std::thread::sleep(Duration::from_millis(delay));
                let _killed = child.kill();
                let _collected = child.wait();
                die()
            }
            _ => {}
        }
        let ended = self.inner.run(program, arguments, deadline);
        if self.death == Death::After(number) {
            die()
        }
        ended
    }

    fn write_profile(&self, name: &str, content: &str) -> LvmResult<()> {
        self.inner.write_profile(name, content)
    }
}

/// In the process that is to die; `None` in any other.
pub(crate) fn child() -> Option<Result<()>> {
    let told = std::env::var(CHILD).ok()?;
    Some(set_up(&told))
}

fn set_up(told: &str) -> Result<()> {
    let mut lines = told.lines();
    let root = PathBuf::from(lines.next().context("no root")?);
    let death = lines.next().and_then(Death::from_text).context("no death")?;
    let options: Vec<String> = lines.map(str::to_owned).collect();
    root::open_with(&root, &options, |machine| Machine {
        programs: Arc::new(Dying { inner: machine.programs.clone(), death, seen: AtomicUsize::new(0) }),
        ..machine
    })
    .map(drop)
}

/// Begins a set-up that is killed. The changing programs are counted from 0 in each process.
pub(crate) fn killed(root: &Path, disk: &Disk, death: Death) -> Result<()> {
    let status = start(root, disk, death)?;
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(9) => Ok(()),
        _ => bail!("the process with {death:?} was not killed: {status}"),
    }
}

fn start(root: &Path, disk: &Disk, death: Death) -> Result<ExitStatus> {
    let mut told = format!("{}\n{}", root.display(), death.to_text());
    for option in root::small(&[disk.option()]) {
        told.push('\n');
        told.push_str(&option);
    }
    let this = std::env::current_exe()?;
    Command::new(this)
        .env(CHILD, told)
        .stdin(Stdio::null())
        .status()
        .context("cannot start this program again")
}
