//! The pool's and the store's common transaction: intent, message, record, `set_transaction_id`, one at a time.
//!
//! Under its lock there is nothing else: no mount, no suspend, no waiting for a device.

use crate::active::{as_thin_id, thin_id};
use crate::driver::Driver;
use crate::error::{Error, Result};
use parking_lot::{Mutex, MutexGuard};
use std::time::Duration;
use thinlayer_store::{DeviceId, LayerId, Operation, Record};
use thinlayer_thin::{Probe, ThinId, TransactionId};

/// What the pool's transaction id is, and whether a failed operation left something to undo.
#[derive(Debug)]
struct State {
    pool_id: TransactionId,
    /// The pool's event number when it was last seen to be well.
    event_nr: u32,
    /// An operation failed and could not be undone. The open intent knows what is left: recover before the next one overwrites it.
    unfinished: bool,
}

/// The lock of the transaction.
#[derive(Debug)]
pub(crate) struct Transactions(Mutex<State>);

impl Transactions {
    pub(crate) fn new(pool_id: TransactionId, event_nr: u32) -> Self {
        Self(Mutex::new(State { pool_id, event_nr, unfinished: false }))
    }
}

/// Where a new thin device's first content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nowhere: it is empty.
    Empty,
    /// A copy of this one.
    SnapshotOf(ThinId),
}

impl Driver {
    /// Takes the transaction lock, and finishes first what a failed operation left.
    fn lock_transaction(&self, wait: Duration) -> Result<MutexGuard<'_, State>> {
        let mut state = self.try_transaction(wait)?;
        if state.unfinished {
            for notice in self.recover()? {
                tracing::warn!("{}", notice.text);
            }
            self.queue.fill(self.store.pending_deletion().into_iter().map(|(id, _)| id));
            // Whether the failed operation had moved it is for the pool to say.
            if let Some(pool_id) = self.store.pool_transaction_id() {
                state.pool_id = TransactionId(pool_id);
            }
            state.unfinished = false;
        }
        Ok(state)
    }

    /// The transaction lock alone.
    fn try_transaction(&self, wait: Duration) -> Result<MutexGuard<'_, State>> {
        self.transactions.0.try_lock_for(wait).ok_or_else(|| Error::Busy {
            what: format!("the transaction of pool {}", self.pool.name()),
            why: format!(
                "another operation has held it for more than {wait:?}; is the pool or the disk of {} stuck?",
                self.machine.root.path.display()
            ),
        })
    }

    /// Finishes what a failed operation left.
    pub(crate) fn settle(&self) -> Result<()> {
        self.lock_transaction(self.deadlines.transaction).map(drop)
    }

    /// Looks at store and pool while no transaction is under way.
    pub(crate) fn between_transactions<T>(&self, look: impl FnOnce() -> Result<T>) -> Result<T> {
        let _state = self.try_transaction(self.deadlines.transaction)?;
        look()
    }

    /// Makes a thin device and its record. `between` runs right after the pool's message, to resume what was suspended for it.
    ///
    /// `device_id` comes from [`Driver::free_device_id`] and is given back if this fails. `wait` is for the transaction's lock.
    ///
    /// Whatever fails, nothing of the new layer is left, or the next transaction removes it.
    pub(crate) fn create_device(
        &self,
        id: &LayerId,
        device_id: DeviceId,
        origin: Origin,
        wait: Duration,
        between: impl FnOnce() -> Result<()>,
        record: impl FnOnce(TransactionId) -> Record,
    ) -> Result<Record> {
        self.ensure_sound().inspect_err(|_| self.store.release(device_id))?;
        let begun = self.lock_transaction(wait).and_then(|state| Ok((next_id(state.pool_id)?, state)));
        let (next, mut state) = begun.inspect_err(|_| self.store.release(device_id))?;
        let thin = as_thin_id(device_id)?;
        let open = match self.store.begin(&[Operation::create(id.clone(), device_id)]) {
            Ok(open) => open,
            // It may be on the disk all the same.
            Err(error) => return Err(Error::from(error).and_undo(self.cancel(&mut state, device_id))),
        };
        let made = match origin {
            Origin::Empty => self.pool.create_thin(thin),
            Origin::SnapshotOf(of) => self.pool.create_snap(thin, of),
        };
        let resumed = between();
        if let Err(error) = made {
            let error = Error::from(error).and_undo(resumed);
            return Err(error.and_undo(self.cancel(&mut state, device_id)));
        }
        let record = record(next);
        let finished = resumed
            .and_then(|()| Ok(self.store.put(id, &record)?))
            .and_then(|()| self.move_on(&mut state, next));
        let Err(error) = finished else {
            self.store.close(open);
            state.pool_id = next;
            return Ok(record);
        };
        // Before the record was written, another one may lie there: that of a removed layer whose new name found no room.
        let ours = self.store.record_even_deleted(id).is_some_and(|record| record.device_id == device_id);
        let removed = if ours { self.store.remove(id).map_err(Error::from) } else { Ok(()) };
        let undone = removed
            .and_then(|()| Ok(self.pool.delete(thin).map(drop)?))
            .and_then(|()| self.cancel(&mut state, device_id));
        state.unfinished = undone.is_err();
        Err(error.and_undo(undone))
    }

    /// Deletes a layer's thin device and its record. The device is not active any more.
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if some table still refers to the device: nothing has changed then.
    pub(crate) fn delete_device(&self, id: &LayerId, record: &Record) -> Result<()> {
        match self.delete_device_once(id, record) {
            Err(error) if error.kind() == crate::Kind::NoSpace && self.relieve_metadata()? => {
                self.delete_device_once(id, record)
            }
            other => other,
        }
    }

    fn delete_device_once(&self, id: &LayerId, record: &Record) -> Result<()> {
        self.ensure_sound()?;
        let mut state = self.lock_transaction(self.deadlines.transaction)?;
        let next = next_id(state.pool_id)?;
        let thin = thin_id(record)?;
        self.store.deletable(id)?;
        let open = match self.store.begin(&[Operation::delete(id.clone(), record.device_id)]) {
            Ok(open) => open,
            // It may be on the disk all the same, and would roll forward at the next start what is answered with an error now.
            Err(error) => {
                let closed = self.close_intent(&state);
                state.unfinished = closed.is_err();
                return Err(Error::from(error).and_undo(closed));
            }
        };
        if let Err(error) = self.pool.delete(thin) {
            // The intent would roll forward at the next start what was answered with an error now.
            let closed = self.close_intent(&state);
            state.unfinished = closed.is_err();
            return Err(Error::from(error).and_undo(closed));
        }
        if let Err(error) = self.store.remove(id) {
            // The device is gone, so there is no way back: recovery unlinks the record.
            state.unfinished = true;
            return Err(error.into());
        }
        match self.move_on(&mut state, next) {
            Ok(()) => {
                self.store.close(open);
                state.pool_id = next;
            }
            // Device and record are gone, durably; only the counter lags, which recovery puts right.
            Err(error) => {
                tracing::warn!(%error, "the transaction id could not be moved after a delete");
                state.unfinished = true;
            }
        }
        Ok(())
    }

    /// A thin id that neither the store nor the pool knows, taken for us until [`Driver::create_device`] or a release.
    pub(crate) fn free_device_id(&self) -> Result<DeviceId> {
        loop {
            let device_id = self.store.propose_device_id()?;
            match self.pool.probe(as_thin_id(device_id)?) {
                Ok(Probe::Free) => return Ok(device_id),
                // Somebody else's, or a leak of Docker's: this store does not propose it again.
                Ok(Probe::Taken) => {
                    self.store.mark_taken(device_id);
                    tracing::warn!(%device_id, "the pool has a thin device that no record names");
                }
                Err(error) => {
                    self.store.release(device_id);
                    return Err(error.into());
                }
            }
        }
    }

    /// Closes the pool's side of a transaction, and sees that it is kept.
    ///
    /// The kernel answers a message whose commit fails as if all were well, turns the pool read-only, and counts an event. So another event
    /// number than before is a reason to look: what is acknowledged is durable.
    fn move_on(&self, state: &mut State, to: TransactionId) -> Result<()> {
        let event_nr = self.pool.set_transaction_id(state.pool_id, to)?;
        if event_nr != state.event_nr {
            self.pool.ensure_writable()?;
            state.event_nr = event_nr;
        }
        Ok(())
    }

    /// Ends an operation that changed nothing.
    fn cancel(&self, state: &mut State, device_id: DeviceId) -> Result<()> {
        let closed = self.close_intent(state);
        match closed {
            Ok(()) => self.store.release(device_id),
            Err(_) => state.unfinished = true,
        }
        closed
    }

    /// Says on disk that no transaction is open.
    fn close_intent(&self, state: &State) -> Result<()> {
        Ok(self.store.finish_recovery(state.pool_id.0)?)
    }
}

fn next_id(id: TransactionId) -> Result<TransactionId> {
    id.next().ok_or_else(|| Error::NeedsCheck { what: "the pool's transaction id is at its end".into() })
}
