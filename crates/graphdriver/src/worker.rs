//! The deletion worker: discards, deletes and unlinks what was removed, in the background.

use crate::active::Device;
use crate::driver::Driver;
use crate::error::{Error, Kind, Result};
use crate::progress::Event;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use thinlayer_dm::{Bytes, Removal};
use thinlayer_store::{LayerId, Record};

/// A layer whose device stays open is looked at again after this, and later after twice that, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Ends [`Driver::run_worker`].
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Ends the worker after the layer that it is at.
    pub fn stop(&self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }

    /// Has it been asked to end?
    pub fn is_stopped(&self) -> bool {
        *self.0.0.lock()
    }
}

/// The removed layers that are still in the pool, by their opaque ids.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    ids: Mutex<VecDeque<LayerId>>,
    filled: Condvar,
    /// One worker at a time, so that a layer is never worked on twice.
    pub(crate) working: Mutex<()>,
}

impl Queue {
    pub(crate) fn push(&self, id: LayerId) {
        self.ids.lock().push_back(id);
        self.filled.notify_all();
    }

    /// Adds those that are not in it.
    pub(crate) fn fill(&self, ids: impl Iterator<Item = LayerId>) {
        let mut queue = self.ids.lock();
        for id in ids.filter(|id| !id.is_base()) {
            if !queue.contains(&id) {
                queue.push_back(id);
            }
        }
        self.filled.notify_all();
    }

    fn pop(&self) -> Option<LayerId> {
        self.ids.lock().pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.lock().len()
    }

    /// Waits for something to do, at most so long.
    fn wait(&self, timeout: Duration) {
        let mut ids = self.ids.lock();
        if ids.is_empty() {
            // Woken or not, the caller looks again.
            let _ = self.filled.wait_for(&mut ids, timeout);
        }
    }
}

impl Driver {
    /// How many removed layers still wait for their blocks to be given back.
    pub fn deferred(&self) -> usize {
        self.queue.len()
    }

    /// Gives back the blocks of all removed layers now, with progress. What is still open elsewhere stays for the next owner.
    ///
    /// # Errors
    /// The first one that is not about an open device; the others are tried all the same.
    pub fn work_off(&self) -> Result<usize> {
        let _working = self.queue.working.lock();
        let mut done = 0;
        let mut first_error = None;
        let mut open = Vec::new();
        while let Some(id) = self.queue.pop() {
            match self.finish_removal(&id, &Stop::default()) {
                Ok(()) => done += 1,
                Err(error) if error.kind() == Kind::Busy => {
                    tracing::info!(layer = %id, %error, "a removed layer's device is still open; it goes later");
                    open.push(id);
                }
                Err(error) => {
                    open.push(id);
                    first_error = first_error.or(Some(error));
                }
            }
        }
        open.into_iter().for_each(|id| self.queue.push(id));
        first_error.map_or(Ok(done), Err)
    }

    /// Works until it is stopped: for a thread of the process that owns the root for long.
    pub fn run_worker(&self, stop: &Stop) {
        let mut pause = FIRST_PAUSE;
        while !stop.is_stopped() {
            let Some(id) = self.queue.pop() else {
                self.queue.wait(FIRST_PAUSE);
                continue;
            };
            let result = {
                let _working = self.queue.working.lock();
                self.finish_removal(&id, stop)
            };
            match result {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    if pause == LONGEST_PAUSE {
                        tracing::debug!(layer = %id, %error, "a removed layer's device is still not gone");
                    } else {
                        tracing::warn!(layer = %id, %error, "a removed layer is not gone yet; it is tried again");
                    }
                    self.queue.push(id);
                    let mut stopped = stop.0.0.lock();
                    if !*stopped {
                        let _ = stop.0.1.wait_for(&mut stopped, pause);
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Discards a retired layer's blocks, deletes its device and unlinks its record.
    fn finish_removal(&self, id: &LayerId, stop: &Stop) -> Result<()> {
        let _reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        let Some(record) = self.store.record_even_deleted(id) else { return Ok(()) };
        if !record.deleted {
            // A new layer took the id over, and the removed one moved on under another.
            self.queue.fill(self.store.pending_deletion().into_iter().map(|(id, _)| id));
            return Ok(());
        }
        if let Some(device) = self.active.get(id) {
            self.wait_until_closed(id, device)?;
        }
        if self.options.discards() && !stop.is_stopped() {
            // Only a courtesy to the host: deleting the device frees the pool's blocks in any case.
            if let Err(error) = self.discard_layer(id, &record) {
                tracing::warn!(layer = %id, %error, "its blocks are not discarded");
            }
        }
        self.deactivate(id, Removal::Now)?;
        self.delete_device(id, &record)
    }

    /// Sees whether a device that goes at its last close has gone; no transaction is spent on asking (C11).
    fn wait_until_closed(&self, id: &LayerId, device: Device) -> Result<()> {
        let name = self.names.device(id)?;
        match self.machine.dm.info((&name).into())? {
            Some(info) if info.open_count > 0 => Err(Error::Busy {
                what: format!("device {name}"),
                why: format!("{} still have it open; it goes at the last close", info.open_count),
            }),
            Some(_) => Ok(()),
            None => {
                self.active.forget(id);
                Ok(self.machine.dm.forget_node(&name, device.thin.number())?)
            }
        }
    }

    fn discard_layer(&self, id: &LayerId, record: &Record) -> Result<()> {
        let device = self.activate(id, record)?;
        let what = format!("discarding removed layer {id}");
        let step = self.step(&what);
        let report = |done: Bytes, total: Bytes| {
            self.progress.event(Event::Amount { what: &what, done: done.0, total: total.0 });
        };
        let done = self.machine.backing.discard(device.node(), None, &report);
        drop(step);
        let closed = self.deactivate(id, Removal::Now).map(drop);
        match done {
            Ok(_) => closed,
            Err(error) => Err(Error::from(error).and_undo(closed)),
        }
    }
}
