//! What is safe is mended: no layer's data is ever deleted, and nothing is done on a pool that may be damaged.

use crate::active::as_thin_id;
use crate::check::{CheckReport, Mend, Outcome, Repair, release};
use crate::driver::{Driver, Notice, Severity};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::options::Options;
use crate::progress::Progress;
use crate::view::View;
use std::path::Path;
use std::sync::Arc;
use thinlayer_dm::{Bytes, DeviceNumber, DmName, Removal};
use thinlayer_store::{DeviceId, LayerId, Record};
use thinlayer_thin::Probe;
use thinlayer_thin::metadata::Abandoned;

/// What is mended may show something else: looked so often.
const ROUNDS: usize = 3;

/// Checks a root that this process owns ([`crate::Ownership`]) and is not open, mends what is safe, and checks again. What was done is in the report.
///
/// Opens the root for that, unless the pool is damaged: then nothing is done on it, and the findings name the tools. The driver is given back.
///
/// # Errors
/// If the kernel cannot be asked, or the root cannot be opened.
pub fn repair(
    machine: Machine,
    options: &Options,
    progress: Arc<dyn Progress>,
) -> Result<(CheckReport, Option<Driver>)> {
    let look = || View::open(&machine)?.0.check_owned(options);
    let mut report = look()?;
    let mut repairs = Vec::new();
    // Loop devices of other hands keep the root from being opened.
    for finding in &report.findings {
        if let Some(mend @ Mend::Detach(number, node)) = &finding.mend {
            repairs.push(outcome(&finding.subject, mend, detach(&machine, *number, node)));
        }
    }
    if !repairs.is_empty() {
        report = look()?;
    }
    if report.hopeless {
        return Ok((CheckReport { repairs, ..report }, None));
    }
    let (driver, notices) = Driver::open(machine, options, progress)?;
    // What the start of each command puts in order.
    repairs.extend(notices.into_iter().filter(said).map(|notice| Repair {
        subject: "start".into(),
        text: notice.text,
        outcome: if notice.severity == Severity::Warning { Outcome::Failed } else { Outcome::Done },
    }));
    let now = driver.check()?;
    for finding in &report.findings {
        let gone =
            !now.findings.iter().any(|left| (left.kind, &left.subject) == (finding.kind, &finding.subject));
        if let Some(mend) = finding.mend.as_ref().filter(|_| gone) {
            repairs.push(outcome(&finding.subject, mend, Ok(())));
        }
    }
    let mut after = driver.repair_from(now)?;
    repairs.append(&mut after.repairs);
    Ok((CheckReport { repairs, ..after }, Some(driver)))
}

/// What each start says is no repair.
fn said(notice: &Notice) -> bool {
    !notice.text.contains("loop-backed") && !notice.text.contains("is not used:")
}

fn outcome(subject: &str, mend: &Mend, result: Result<()>) -> Repair {
    match result {
        Ok(()) => Repair { subject: subject.to_owned(), text: mend.to_string(), outcome: Outcome::Done },
        Err(error) => {
            Repair { subject: subject.to_owned(), text: format!("{mend}: {error}"), outcome: Outcome::Failed }
        }
    }
}

/// Looks again at the last moment: who uses it now keeps it.
fn detach(machine: &Machine, number: DeviceNumber, node: &Path) -> Result<()> {
    let users = machine.backing.inspect(node)?.users;
    if !users.is_empty() {
        return Err(Error::Busy { what: node.display().to_string(), why: users.join(", ") });
    }
    Ok(machine.backing.detach(number)?)
}

impl Driver {
    /// Checks, mends what is safe, and checks again. What was done is in the report.
    ///
    /// # Errors
    /// If the kernel cannot be asked. What could not be mended is no error, and stays a finding.
    pub fn repair(&self) -> Result<CheckReport> {
        self.repair_from(self.check()?)
    }

    fn repair_from(&self, mut report: CheckReport) -> Result<CheckReport> {
        let mut repairs: Vec<Repair> = Vec::new();
        let mut tried: Vec<Mend> = Vec::new();
        for _ in 0..ROUNDS {
            // Nothing is done on a pool that may be damaged.
            if report.hopeless {
                break;
            }
            let before = tried.len();
            // A layer that nobody uses after all may have an idle device.
            report.findings.sort_by_key(|finding| !matches!(finding.mend, Some(Mend::ForgetUses(_))));
            for finding in &report.findings {
                let Some(mend) = finding.mend.as_ref().filter(|mend| !tried.contains(mend)) else { continue };
                repairs.push(outcome(&finding.subject, mend, self.mend(mend)));
                tried.push(mend.clone());
            }
            // Not the queue's length: the worker of a `serve` may be at one.
            let waiting = self.store.pending_deletion().len();
            if waiting > 0 {
                repairs.push(self.give_back(waiting));
            }
            if tried.len() == before && waiting == 0 {
                break;
            }
            report = self.check()?;
        }
        Ok(CheckReport { repairs, ..report })
    }

    fn give_back(&self, waiting: usize) -> Repair {
        let subject = "removed layers".to_owned();
        match self.work_off().map(|_| self.store.pending_deletion().len()) {
            Ok(0) => {
                Repair { subject, text: format!("give back the blocks of {waiting}"), outcome: Outcome::Done }
            }
            Ok(left) => Repair {
                subject,
                text: format!("give back the blocks of {waiting}: {left} of them are still open somewhere"),
                outcome: Outcome::Failed,
            },
            Err(error) => Repair {
                subject,
                text: format!("give back the blocks of {waiting}: {error}"),
                outcome: Outcome::Failed,
            },
        }
    }

    fn mend(&self, mend: &Mend) -> Result<()> {
        match mend {
            Mend::Settle => self.settle(),
            Mend::Grow(id) => {
                let reserved = self.reservations.reserve(id, self.deadlines.layer)?;
                self.grow_filesystem(id, &*self.record(id)?, &reserved)
            }
            Mend::Detach(number, node) => detach(&self.machine, *number, node),
            Mend::Deactivate(name) => self.deactivate_idle(name),
            Mend::RemoveFolder(id) => {
                let _reserved = self.reservations.reserve(id, self.deadlines.layer)?;
                if self.uses.get(id) > 0 {
                    return Err(in_use(id));
                }
                Ok(self.machine.filesystems.remove_dir(&self.names.mount_point(id)).map(drop)?)
            }
            Mend::ForgetUses(id) => {
                let _reserved = self.reservations.reserve(id, self.deadlines.layer)?;
                if crate::check::mounted_layers(&self.machine, &self.names)?.contains_key(id) {
                    return Err(in_use(id));
                }
                self.uses.set(id, 0)
            }
            Mend::SetAside(id, device_id) => self.set_aside(id, *device_id),
            Mend::Recover { device_id, size, transaction_id } => {
                self.recover_orphan(*device_id, Bytes(*size), *transaction_id)
            }
            Mend::Release(root) => {
                let _one = self.checking.lock();
                match release(&*self.machine.disk, &self.pool, *root)? {
                    Abandoned::Released | Abandoned::Absent => Ok(()),
                    Abandoned::Another(other) => Err(Error::Busy {
                        what: format!("pool {}", self.pool.name()),
                        why: format!("its metadata snapshot is another one by now, at block {}", other.0),
                    }),
                }
            }
        }
    }

    /// Removes a device of this root that nobody uses. What it stands for stays in the pool.
    fn deactivate_idle(&self, name: &DmName) -> Result<()> {
        let Some(id) = self.names.layer_of(name.as_str()) else { return Ok(()) };
        let _reserved = self.reservations.reserve(&id, self.deadlines.layer)?;
        if self.uses.get(&id) > 0 {
            return Err(in_use(&id));
        }
        if self.active.get(&id).is_some() {
            return self.deactivate(&id, Removal::Now).map(drop);
        }
        let Some(info) = self.machine.dm.info(name.into())? else { return Ok(()) };
        self.machine.dm.remove(name.into(), Removal::Now)?;
        Ok(self.machine.dm.forget_node(name, info.number)?)
    }

    /// Moves a record away whose device is gone: the pool itself must say so once more.
    fn set_aside(&self, id: &LayerId, device_id: DeviceId) -> Result<()> {
        let _reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        self.between_transactions(|| {
            let same = self.store.record_even_deleted(id).is_some_and(|record| record.device_id == device_id);
            if !same || self.pool.probe(as_thin_id(device_id)?)? == Probe::Taken {
                return Err(changed());
            }
            let path = self.store.set_aside_without_device(id)?;
            tracing::warn!(layer = %id, %device_id, path = %path.display(), "its thin device is gone, and its record was set aside");
            Ok(())
        })
    }

    /// Gives a thin device that no record names a record of its own. Nothing is deleted: whether somebody needs it is not for a program to say.
    fn recover_orphan(&self, device_id: DeviceId, size: Bytes, transaction_id: u64) -> Result<()> {
        let id = self.recovered_id(device_id)?;
        let _reserved = self.reservations.reserve(&id, self.deadlines.layer)?;
        self.between_transactions(|| {
            let store = &self.store;
            let named =
                store.records().iter().any(|(other, record)| record.device_id == device_id || *other == id)
                    || store.nameless().contains(&device_id);
            if named || !store.damaged().is_empty() || self.pool.probe(as_thin_id(device_id)?)? == Probe::Free
            {
                return Err(changed());
            }
            store.put(&id, &Record::new(device_id, size.0, transaction_id))?;
            tracing::warn!(layer = %id, %device_id, "a thin device that no record named is a layer now");
            Ok(())
        })
    }

    /// `recovered-7`, or with another number behind it if there is such a layer.
    fn recovered_id(&self, device_id: DeviceId) -> Result<LayerId> {
        let name = format!("recovered-{device_id}");
        let mut id = LayerId::given(&name)?;
        let mut more = 2;
        while self.store.record_even_deleted(&id).is_some() {
            id = LayerId::given(&format!("{name}-{more}"))?;
            more += 1;
        }
        Ok(id)
    }
}

fn in_use(id: &LayerId) -> Error {
    Error::Busy { what: format!("layer {id}"), why: "somebody uses it by now".into() }
}

fn changed() -> Error {
    Error::Busy { what: "it".into(), why: "it is not any more as it was found; check again".into() }
}
