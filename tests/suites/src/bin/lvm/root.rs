//! A root on the scratch disk, and a driver on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use thinlayer_graphdriver::{
    CreateRequest, Driver, Holder, LayerId, Machine, Options, Ownership, Silent, Unmount,
};

/// An open root.
pub(crate) struct Open {
    pub(crate) driver: Driver,
    pub(crate) notices: Vec<String>,
    _ownership: Ownership,
}

/// The folder of a root in this test's scratch folder.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    Ok(harness::scratch_dir()?.join(name))
}

/// A small base of ext4, and these options.
pub(crate) fn small(more: &[String]) -> Vec<String> {
    let mut options = vec!["dm.fs=ext4".to_owned(), "dm.basesize=64M".to_owned()];
    options.extend_from_slice(more);
    options
}

pub(crate) fn open(root: &Path, options: &[String]) -> Result<Open> {
    open_with(root, options, |machine| machine)
}

/// On a machine of which something was replaced.
pub(crate) fn open_with(
    root: &Path,
    options: &[String],
    change: impl FnOnce(Machine) -> Machine,
) -> Result<Open> {
    let ownership = Ownership::acquire(root, &Holder::this_process("test", None), Duration::from_secs(5))?;
    let machine = change(Machine::system(root)?);
    let (driver, notices) = Driver::open(machine, &Options::parse(options)?, Arc::new(Silent))?;
    let notices = notices.into_iter().map(|notice| notice.text).collect();
    Ok(Open { driver, notices, _ownership: ownership })
}

impl Open {
    /// Docker's clean-up; the pool, which is LVM's, stays.
    pub(crate) fn stop(self) -> Result<()> {
        self.driver.work_off()?;
        let report = self.driver.check()?;
        ensure!(report.findings.is_empty(), "check found {:#?}", report.findings);
        let notices = self.driver.stop()?;
        ensure!(notices.is_empty(), "stop had to say: {notices:?}");
        let pool = harness::run(
            "dmsetup",
            ["info", "--noheadings", "-c", "-o", "open", &self.driver.status()?.pool_name],
        )?;
        ensure!(pool.stdout_text() == "0", "the pool is still open after stop: {pool:?}");
        Ok(())
    }

    /// A layer with one file in it.
    pub(crate) fn layer(&self, id: &str, content: &str) -> Result<()> {
        let id = LayerId::given(id)?;
        self.driver.create(&id, &CreateRequest::empty())?;
        let tree = self.driver.get(&id, None)?;
        std::fs::write(tree.join("file"), content)?;
        Ok(self.driver.put(&id, Unmount::Now).map(drop)?)
    }

    /// What that file holds.
    pub(crate) fn content(&self, id: &str) -> Result<String> {
        let id = LayerId::found(id)?;
        let tree = self.driver.get(&id, None)?;
        let content = std::fs::read_to_string(tree.join("file")).context("the layer's file is gone");
        self.driver.put(&id, Unmount::Now)?;
        content
    }
}
