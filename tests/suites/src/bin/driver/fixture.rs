//! A root on the scratch disk with a driver on it.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thinlayer_graphdriver::{
    CreateRequest, Deadlines, Driver, Holder, LayerId, Machine, Options, Ownership, Silent, Unmount,
};

/// The file systems that every case runs on.
pub(crate) const FILESYSTEMS: [&str; 2] = ["ext4", "xfs"];

/// Options of the sizes that section 7.1 of the specification names.
pub(crate) fn options(filesystem: &str) -> Vec<String> {
    ["dm.loopdatasize=300M", "dm.loopmetadatasize=200M", "dm.basesize=300M", &format!("dm.fs={filesystem}")]
        .map(str::to_owned)
        .to_vec()
}

/// An open driver on a root, owned by this process.
pub(crate) struct Fixture {
    driver: Option<Driver>,
    ownership: Option<Ownership>,
    pub(crate) root: PathBuf,
    pub(crate) options: Vec<String>,
    /// How long the driver waits, from the next opening on.
    pub(crate) deadlines: Deadlines,
    /// What the start said.
    pub(crate) notices: Vec<String>,
}

impl Fixture {
    /// A fresh root in the test's scratch folder.
    pub(crate) fn new(filesystem: &str) -> Result<Self> {
        Self::with(&format!("root-{filesystem}"), options(filesystem))
    }

    /// A root of this name with these options.
    pub(crate) fn with(name: &str, options: Vec<String>) -> Result<Self> {
        Self::at(&harness::scratch_dir()?.join(name), options)
    }

    pub(crate) fn at(root: &Path, options: Vec<String>) -> Result<Self> {
        let mut fixture = Self {
            driver: None,
            ownership: None,
            root: root.to_owned(),
            options,
            deadlines: Deadlines::default(),
            notices: Vec::new(),
        };
        fixture.open()?;
        Ok(fixture)
    }

    /// Opens the driver again after [`Fixture::close`] or [`Fixture::stop`].
    pub(crate) fn open(&mut self) -> Result<()> {
        ensure!(self.driver.is_none(), "the driver is open");
        let ownership =
            Ownership::acquire(&self.root, &Holder::this_process("test", None), Duration::from_secs(5))?;
        let machine = Machine { deadlines: self.deadlines, ..Machine::system(&self.root)? };
        let (driver, notices) = Driver::open(machine, &Options::parse(&self.options)?, Arc::new(Silent))?;
        self.notices = notices.into_iter().map(|notice| notice.text).collect();
        self.driver = Some(driver);
        self.ownership = Some(ownership);
        Ok(())
    }

    /// Ends the driver as a killed process would: pool, devices and mounts stay.
    pub(crate) fn close(&mut self) {
        self.driver = None;
        self.ownership = None;
    }

    /// Docker's clean-up: everything goes.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let notices = self.driver.as_ref().context("the driver is not open")?.stop()?;
        ensure!(notices.is_empty(), "stop had to say: {notices:?}");
        self.close();
        Ok(())
    }

    /// Works off what is deferred, sees that store, pool and kernel agree, stops, and has `thin_check` look at the pool.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.work_off()?;
        let report = self.check()?;
        ensure!(report.findings.is_empty(), "check found {:#?}", report.findings);
        self.stop()?;
        thin_check(&self.root)
    }

    /// Makes a layer on a parent, or an empty one.
    pub(crate) fn layer(&self, id: &str, parent: Option<&str>) -> Result<LayerId> {
        let id = LayerId::given(id)?;
        let request = match parent {
            Some(parent) => CreateRequest::on(LayerId::found(parent)?),
            None => CreateRequest::empty(),
        };
        self.create(&id, &request)?;
        Ok(id)
    }

    /// Runs something in a layer's tree.
    pub(crate) fn within<T>(&self, id: &LayerId, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let tree = self.get(id, None)?;
        let result = work(&tree);
        self.put(id, Unmount::Now)?;
        result
    }
}

impl Deref for Fixture {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.driver.as_ref().unwrap_or_else(|| panic!("the driver is not open"))
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // After a failure: the agent sweeps what this cannot undo.
        if let Some(driver) = self.driver.take() {
            let _ = driver.stop();
        }
    }
}

/// What `thin_check` says of a stopped root's metadata file.
pub(crate) fn thin_check(root: &Path) -> Result<()> {
    harness::run("thin_check", [root.join("devicemapper/metadata")]).map(drop)
}
