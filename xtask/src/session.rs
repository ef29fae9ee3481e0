//! A session with VMs: set-up, the lock, and the disk with what was built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::guest::{Configuration, Guest};
use crate::install::{self, Need};
use crate::kernel::{Kernel, Line, path_with_sbin};
use crate::qemu::Accel;
use crate::suites::Built;
use crate::{command, image, kernel, paths, queue};

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

/// What is made once and cached: kernels and root image.
#[derive(Debug)]
struct SetUp {
    kernels: Vec<Kernel>,
    image: PathBuf,
}

/// The right to run VMs, which one process at a time has, and what they share.
#[derive(Debug)]
pub(crate) struct Session {
    set_up: SetUp,
    folder: PathBuf,
    agent: PathBuf,
    /// Keeps the scratch disks.
    pub(crate) keep: bool,
    /// What the person asked for.
    pub(crate) accel: Option<Accel>,
    /// How many VMs run at the same time.
    pub(crate) jobs: usize,
    _lock: queue::Turn,
}

impl Session {
    /// Sets the host up if need be, waits for other sessions, and makes the disks that carry what was built.
    pub(crate) fn open(built: &Built, accel: Option<Accel>, keep: bool, jobs: usize) -> Result<Self> {
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
        let session = Self { set_up, folder, agent: built.agent.clone(), keep, accel, jobs, _lock: lock };
        session.make_payload(built)?;
        Ok(session)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A VM of this configuration, not booted yet.
    pub(crate) fn guest(&self, configuration: Configuration) -> Result<Guest<'_>> {
        Guest::new(self, configuration, self.at(&configuration.name()))
    }

    pub(crate) fn kernel(&self, line: Line) -> Result<&Kernel> {
        self.set_up
            .kernels
            .iter()
            .find(|kernel| kernel.line == line)
            .with_context(|| format!("there is no kernel {}", line.name()))
    }

    /// The root image, never to be written.
    pub(crate) fn image(&self) -> &Path {
        &self.set_up.image
    }

    /// The agent's program.
    pub(crate) fn agent(&self) -> &Path {
        &self.agent
    }

    /// The disk with agent, program and suites.
    pub(crate) fn payload(&self) -> PathBuf {
        self.at("payload.ext4")
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
        let image = self.payload();
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
}

/// Where consoles and JUnit files go.
pub(crate) fn results_folder() -> PathBuf {
    paths::vm().join("results")
}

/// Makes an ext4 file system, quickly.
pub(crate) fn mkfs() -> Command {
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.env("PATH", path_with_sbin());
    mkfs.args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"]);
    mkfs
}
