//! What a crash left open is finished or undone, by what store and pool say (section 2.5 of the specification, corrected).

use crate::active::as_thin_id;
use crate::check::{creations, was_made_for};
use crate::driver::{Driver, Notice};
use crate::error::{Error, Result};
use std::time::Duration;
use thinlayer_dm::{Flush, Removal};
use thinlayer_store::{DeviceFacts, LayerId, Pending, Recovery, Step, decide};
use thinlayer_thin::{PoolState, Probe, TransactionId};

/// Recovery: at the start, and again after a failure that could not be undone.
#[derive(Debug)]
pub(crate) struct Recoverer<'a> {
    pub(crate) driver: &'a Driver,
}

impl Recoverer<'_> {
    /// Brings store and pool to the state before or after the transaction that was open. Says what it did.
    ///
    /// # Errors
    /// If the pool is older than the store, or a step fails; the intent stays then, and the next start tries again.
    pub(crate) fn run(&self) -> Result<Vec<Notice>> {
        let driver = self.driver;
        let pool_id = self.pool_id()?;
        let mut notices = Vec::new();
        match driver.store.recovery(pool_id.0) {
            Recovery::Clean => return Ok(notices),
            recovery @ Recovery::PoolAhead { .. } => {
                notices.push(Notice::warning(format!("pool {}: {recovery}", driver.pool.name())));
                self.prove_removals(&mut notices)?;
                return Ok(notices);
            }
            recovery @ Recovery::TooFarAhead { .. } => {
                return Err(Error::NeedsCheck { what: format!("pool {}: {recovery}", driver.pool.name()) });
            }
            Recovery::Open(pending) => {
                // Nothing can be settled without messages. Rare enough to be done under the transaction's lock.
                if let Err(error) = driver.relieve_metadata() {
                    tracing::warn!(%error, "a pool without free metadata got no more of it");
                }
                for pending in pending {
                    notices.push(self.settle(&pending)?);
                }
            }
        }
        driver.store.finish_recovery(pool_id.0)?;
        Ok(notices)
    }

    /// The records may be an old copy. The thin id of a layer that is removed in it may be a later layer's by now: where the pool's metadata does not say that it
    /// is still the removed one's, the record goes to quarantine before its device is deleted.
    fn prove_removals(&self, notices: &mut Vec<Notice>) -> Result<()> {
        let driver = self.driver;
        let removed = driver.store.pending_deletion();
        if removed.is_empty() {
            return Ok(());
        }
        let made = creations(&driver.machine, &driver.pool);
        for (id, record) in removed {
            let why = match &made {
                Ok(made) => match made.get(&record.device_id.get()) {
                    Some(made) if !was_made_for(&record, *made) => {
                        format!(
                            "its thin device {} was made in transaction {made}, for another layer",
                            record.device_id
                        )
                    }
                    _ => continue,
                },
                Err(error) => format!(
                    "whether thin device {} is still its own cannot be told: {error}",
                    record.device_id
                ),
            };
            let path = driver.store.set_aside_without_device(&id)?;
            notices.push(Notice::warning(format!(
                "removed layer {id} is of older records than the pool, and {why}; its record is now {}; `check --repair` makes a layer of a thin device that no record names",
                path.display()
            )));
        }
        Ok(())
    }

    /// The pool's transaction id, from the pool itself.
    fn pool_id(&self) -> Result<TransactionId> {
        match self.driver.pool.status(Flush::No)? {
            PoolState::Running(status) => Ok(status.transaction_id),
            _ => Err(Error::NeedsCheck { what: format!("pool {} has failed", self.driver.pool.name()) }),
        }
    }

    fn settle(&self, pending: &Pending) -> Result<Notice> {
        let driver = self.driver;
        let thin = as_thin_id(pending.device_id)?;
        let mut facts = DeviceFacts {
            present: driver.pool.probe(thin)? == Probe::Taken,
            in_use_by_other_record: driver.store.is_named_by_other(&pending.layer, pending.device_id),
            active: self.is_in_use(&pending.layer)?,
            pool_is_ours: driver.owns_pool || driver.direct_lvm,
        };
        let mut decision = decide(pending, &facts);
        if decision.steps.contains(&Step::DeleteDevice(pending.device_id))
            && let Err(error) = driver.pool.delete(thin)
        {
            if error.kind() != thinlayer_thin::Kind::Busy {
                return Err(error.into());
            }
            // A device under another name stands on it.
            facts.active = true;
            decision = decide(pending, &facts);
        }
        for step in decision.steps {
            match step {
                Step::RemoveRecord(layer) => driver.store.remove(&layer)?,
                Step::MarkDeleted(layer) => {
                    driver.store.retire(&layer)?;
                }
                Step::KeepForDeletion(device_id) => {
                    driver.store.keep_for_deletion(device_id, 0, pending.open_transaction_id)?;
                }
                // Deleted above, or left alone.
                _ => {}
            }
        }
        Ok(Notice::info(decision.sentence))
    }

    /// Is the layer's device in use? One that is active but idle goes: a create that did not finish has it only to grow its file system.
    fn is_in_use(&self, layer: &LayerId) -> Result<bool> {
        let driver = self.driver;
        let Some(device) = driver.active.get(layer) else { return Ok(false) };
        if driver.uses.get(layer) > 0 {
            return Ok(true);
        }
        // Another operation may be at work on it, in a driver that runs.
        let Ok(_reserved) = driver.reservations.reserve(layer, Duration::ZERO) else { return Ok(true) };
        let removed = driver.machine.dm.remove(device.thin.name().into(), Removal::Now);
        match removed {
            Ok(_) => {
                driver.active.forget(layer);
                driver.machine.dm.forget_node(device.thin.name(), device.thin.number())?;
                Ok(false)
            }
            Err(error) if error.kind() == thinlayer_dm::Kind::Busy => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}
