//! Who is measured: the floor, and the driver in two settings, each on a root of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thinlayer_dm::{Bytes, Control, DmName};
use thinlayer_graphdriver::{
    CreateRequest, Driver, Holder, LayerId, Machine, Options, Ownership, Removed, Silent, Unmount,
};
use thinlayer_provision::loop_pool::Sizes;
use thinlayer_thin::Pool;

use crate::cycle::{Contender, Step, Turn};
use crate::floor::{Floor, write};
use crate::say;
use crate::terms::Terms;
use crate::timed::{Log, TimedCall};

const DEVICE: Bytes = Bytes(512 << 20);
const SIZES: Sizes = Sizes { data: Bytes(4 << 30), metadata: Bytes(128 << 20) };
/// The same for the driver.
const OPTIONS: [&str; 4] =
    ["dm.basesize=512M", "dm.loopdatasize=4G", "dm.loopmetadatasize=128M", "dm.fs=ext4"];
const PARENT: &str = "parent";

/// All three.
#[derive(Debug)]
pub(crate) struct Parties {
    pub(crate) floor: Floor,
    /// With `dm.blkdiscard=false`: all is done when `remove` returns, as with the floor.
    pub(crate) plain: Opened,
    /// With `dm.blkdiscard=true`, the default on loop files: `remove` takes a layer out of sight, the worker does the rest.
    pub(crate) discarding: Opened,
}

impl Parties {
    /// Makes all three below a folder.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        say("three pools on loop files, each with its file system and its parent layer");
        let floor = Floor::set_up(&folder.join("floor"), SIZES, DEVICE)?;
        let open = |name: &str, discard: &str| {
            let options: Vec<String> = OPTIONS.iter().chain([&discard]).map(|&o| o.to_owned()).collect();
            let opened = Opened::open(&folder.join(name), &options, Clocks::No)?;
            opened.make_parent()?;
            anyhow::Ok(opened)
        };
        let plain = open("driver", "dm.blkdiscard=false")?;
        let discarding = open("driver-discarding", "dm.blkdiscard=true")?;
        Ok(Self { floor, plain, discarding })
    }

    /// The terms of all three, which must be the same.
    pub(crate) fn compare_terms(&self) -> Result<Terms> {
        let terms = self.floor.terms()?;
        terms.ensure_same(&self.plain.terms()?)?;
        terms.ensure_same(&self.discarding.terms()?)?;
        Ok(terms)
    }

    /// The same once more, with drivers whose calls are timed.
    pub(crate) fn reopen_timed(self) -> Result<Self> {
        Ok(Self {
            floor: self.floor,
            plain: self.plain.reopen_timed()?,
            discarding: self.discarding.reopen_timed()?,
        })
    }

    /// Takes all pools down.
    pub(crate) fn close(self) -> Result<()> {
        self.floor.close()?;
        self.plain.close()?;
        self.discarding.close()
    }
}

/// Are the driver's calls timed?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clocks {
    Yes,
    No,
}

/// A root with an open driver, owned by this process.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) driver: Driver,
    log: Log,
    _ownership: Ownership,
    root: PathBuf,
    options: Vec<String>,
    discards: bool,
}

impl Opened {
    pub(crate) fn open(root: &Path, options: &[String], clocks: Clocks) -> Result<Self> {
        let holder = Holder::this_process("bench", None);
        let ownership = Ownership::acquire(root, &holder, Duration::from_secs(5))?;
        let mut machine = Machine::system(root)?;
        let log = Log::default();
        if clocks == Clocks::Yes {
            machine = log.beside(machine);
        }
        let root = machine.root.path.clone();
        let parsed = Options::parse(options)?;
        let (driver, _notices) = Driver::open(machine, &parsed, Arc::new(Silent))?;
        let options = options.to_vec();
        Ok(Self { driver, log, _ownership: ownership, root, options, discards: parsed.discards() })
    }

    fn reopen_timed(self) -> Result<Self> {
        let (root, options) = (self.root.clone(), self.options.clone());
        drop(self);
        Self::open(&root, &options, Clocks::Yes)
    }

    /// A layer that was mounted once, for others to stand on.
    pub(crate) fn make_parent(&self) -> Result<()> {
        let parent = LayerId::given(PARENT)?;
        self.driver.create(&parent, &CreateRequest::empty())?;
        self.driver.get(&parent, None)?;
        self.driver.put(&parent, Unmount::Now)?;
        Ok(())
    }

    fn terms(&self) -> Result<Terms> {
        let parent = LayerId::found(PARENT)?;
        let tree = self.driver.get(&parent, None)?;
        let terms = self.pool().and_then(|pool| {
            let mount_point = tree.parent().context("a tree without a mount point")?;
            Terms::of(&pool, mount_point)
        });
        self.driver.put(&parent, Unmount::Now)?;
        terms
    }

    /// The driver's pool, found by the device under the parent.
    fn pool(&self) -> Result<Pool> {
        let device = self.driver.metadata(&LayerId::found(PARENT)?)?.device_name;
        let stem = device.strip_suffix(PARENT).context("a device that is not named after its layer")?;
        let name = DmName::new(format!("{stem}pool"))?;
        Pool::open(Arc::new(Control::open()?), &name)?.with_context(|| format!("there is no pool {name}"))
    }

    /// The calls since the last time that somebody asked, if they are timed.
    pub(crate) fn take_calls(&self) -> Vec<TimedCall> {
        self.log.take()
    }

    /// Docker's clean-up.
    pub(crate) fn close(self) -> Result<()> {
        let notices = self.driver.stop()?;
        ensure!(notices.is_empty(), "the driver does not stop without a word: {notices:?}");
        Ok(())
    }
}

impl Contender for Opened {
    fn step(&self, step: Step, turn: Turn) -> Result<()> {
        let id = LayerId::given(&format!("layer-{}-{}", turn.client, turn.number))?;
        match step {
            Step::Create => self.driver.create(&id, &CreateRequest::on(LayerId::found(PARENT)?))?,
            Step::Get => {
                let file = self.driver.get(&id, None)?.join("file");
                self.log.time("open, write, close", || write(&file))?;
            }
            Step::Put => drop(self.driver.put(&id, Unmount::Now)?),
            Step::Remove => {
                let removed = self.driver.remove(&id)?;
                ensure!(removed != Removed::Absent, "the layer was not there");
                ensure!(
                    self.discards || removed == Removed::Gone,
                    "removal was put off, which the comparison does not allow for: {removed:?}"
                );
            }
        }
        Ok(())
    }

    fn work_off(&self) -> Result<bool> {
        Ok(self.discards && self.driver.work_off()? > 0)
    }
}
