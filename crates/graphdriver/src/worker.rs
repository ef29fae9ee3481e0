//! The deletion worker: discards, deletes and unlinks what was removed, in the background.

use crate::active::Device;
use crate::deadline::within;
use crate::driver::Driver;
use crate::error::{Error, Kind, Result};
use crate::progress::Event;
use crate::reserve::Reservation;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thinlayer_dm::{Bytes, Removal};
use thinlayer_store::{LayerId, Record};

/// A layer whose device stays open is looked at again after this, and later after twice that, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often the worker looks whether it is to stop, and whether something is due.
const TICK: Duration = Duration::from_millis(250);

/// Ends [`Driver::run_worker`].
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends the worker after the layer that it is at.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Has it been asked to end?
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A removed layer that is still in the pool.
#[derive(Debug)]
struct Entry {
    id: LayerId,
    /// It is not looked at before this moment of the driver's clock.
    not_before: Duration,
    /// How long it waits after the next failure.
    pause: Duration,
}

/// The removed layers that are still in the pool, by their opaque ids.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: Mutex<VecDeque<Entry>>,
    filled: Condvar,
    /// One worker at a time, so that a layer is never worked on twice.
    pub(crate) working: Mutex<()>,
}

impl Queue {
    pub(crate) fn push(&self, id: LayerId) {
        self.fill(std::iter::once(id));
    }

    /// Adds those that are not in it.
    pub(crate) fn fill(&self, ids: impl Iterator<Item = LayerId>) {
        let mut entries = self.entries.lock();
        for id in ids.filter(|id| !id.is_base()) {
            if !entries.iter().any(|entry| entry.id == id) {
                entries.push_back(Entry { id, not_before: Duration::ZERO, pause: FIRST_PAUSE });
            }
        }
        self.filled.notify_all();
    }

    fn is_due(&self, now: Duration) -> bool {
        self.entries.lock().iter().any(|entry| entry.not_before <= now)
    }

    /// One that is due.
    fn pop(&self, now: Duration) -> Option<Entry> {
        let mut entries = self.entries.lock();
        let due = entries.iter().position(|entry| entry.not_before <= now)?;
        entries.remove(due)
    }

    /// Puts one back that could not be finished.
    fn put_back(&self, entry: Entry, now: Duration) {
        let pause = entry.pause;
        let later = Entry { not_before: now + pause, pause: (pause * 2).min(LONGEST_PAUSE), ..entry };
        self.entries.lock().push_back(later);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Waits for something new, at most so long.
    fn wait(&self, timeout: Duration) {
        let mut entries = self.entries.lock();
        // Woken or not, the caller looks again.
        let _ = self.filled.wait_for(&mut entries, timeout);
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
        let wait = self.deadlines.discard;
        let _working = self.queue.working.try_lock_for(wait).ok_or_else(|| Error::Busy {
            what: format!("the worker of pool {}", self.pool.name()),
            why: format!("it has been at one removed layer for more than {wait:?}; is the pool stuck?"),
        })?;
        let mut done = 0;
        let mut first_error = None;
        let mut left = Vec::new();
        // All of them, also those that wait for another try.
        while let Some(entry) = self.queue.pop(Duration::MAX) {
            match self.finish_removal(&entry.id, &Stop::default()) {
                Ok(()) => done += 1,
                Err(error) => {
                    tracing::info!(layer = %entry.id, %error, "a removed layer is not gone yet; it goes later");
                    if error.kind() != Kind::Busy {
                        first_error = first_error.or(Some(error));
                    }
                    left.push(entry);
                }
            }
        }
        left.into_iter().for_each(|entry| self.queue.put_back(entry, self.machine.clock.now()));
        first_error.map_or(Ok(done), Err)
    }

    /// Works until it is stopped: for a thread of the process that owns the root for long.
    pub fn run_worker(&self, stop: &Stop) {
        while !stop.is_stopped() {
            if !self.queue.is_due(self.machine.clock.now()) {
                self.queue.wait(TICK);
                continue;
            }
            // Before it is taken off the queue: who has this lock knows that nothing is under way that the queue does not show.
            let _working = self.queue.working.lock();
            let Some(entry) = self.queue.pop(self.machine.clock.now()) else { continue };
            if let Err(error) = self.finish_removal(&entry.id, stop) {
                // Said once aloud; a device may stay open for days.
                if entry.pause == FIRST_PAUSE {
                    tracing::warn!(layer = %entry.id, %error, "a removed layer is not gone yet; it is tried again");
                } else {
                    tracing::debug!(layer = %entry.id, %error, "a removed layer is still not gone");
                }
                self.queue.put_back(entry, self.machine.clock.now());
            }
        }
    }

    /// Discards a retired layer's blocks, deletes its device and unlinks its record.
    fn finish_removal(&self, id: &LayerId, stop: &Stop) -> Result<()> {
        let reserved = self.reservations.reserve(id, self.deadlines.layer)?;
        let Some(record) = self.store.record_even_deleted(id) else { return Ok(()) };
        if !record.deleted {
            // A new layer took the id over, and the removed one moved on under another.
            self.queue.fill(self.store.pending_deletion().into_iter().map(|(id, _)| id));
            return Ok(());
        }
        self.store.deletable(id)?;
        if let Some(device) = self.active.get(id) {
            self.see_whether_closed(id, device)?;
        }
        if let Some(holder) = self.held_elsewhere(&record)? {
            return Err(Error::Busy {
                what: format!("thin device {}", record.device_id),
                why: format!(
                    "{holder}, which is not this root's, stands on it, so its blocks are kept; `dmsetup remove {holder}` ends that"
                ),
            });
        }
        if self.options.discards() && !stop.is_stopped() {
            // Only a courtesy to the host: deleting the device frees the pool's blocks in any case.
            match self.discard_layer(id, &record, &reserved) {
                Ok(()) => {}
                // It has the device: there is nothing to delete yet.
                Err(error @ Error::Deadline { .. }) => return Err(error),
                Err(error) => tracing::warn!(layer = %id, %error, "its blocks are not discarded"),
            }
        }
        self.deactivate(id, Removal::Now)?;
        self.delete_device(id, &record)
    }

    /// Sees whether a device that goes at its last close has gone; no transaction is spent on asking (C11).
    fn see_whether_closed(&self, id: &LayerId, device: Device) -> Result<()> {
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

    fn discard_layer(&self, id: &LayerId, record: &Record, reserved: &Reservation) -> Result<()> {
        let device = self.activate(id, record, reserved)?;
        let what = format!("discarding removed layer {id}");
        let step = self.step(&what);
        let job = {
            let (backing, progress) = (self.machine.backing.clone(), self.progress.clone());
            let (node, what) = (device.node().to_owned(), what.clone());
            move || {
                let report = |done: Bytes, total: Bytes| {
                    progress.event(Event::Amount { what: &what, done: done.0, total: total.0 });
                };
                Ok(backing.discard(&node, None, &report)?)
            }
        };
        let call = || format!("discard of device {}", device.name());
        let done = within(&*self.machine.clock, call, self.deadlines.discard, reserved, job);
        drop(step);
        // The call goes on and keeps the device.
        if let Err(error @ Error::Deadline { .. }) = done {
            return Err(error);
        }
        let closed = self.deactivate(id, Removal::Now).map(drop);
        match done {
            Ok(_) => closed,
            Err(error) => Err(error.and_undo(closed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// I17: Docker's worker warns every 30 seconds, for as long as the device is open.
    #[test]
    fn a_device_that_stays_open_is_looked_at_less_often_each_time() {
        let queue = Queue::default();
        let id = LayerId::given("a").unwrap();
        queue.push(id.clone());
        queue.push(id);
        assert_eq!(queue.len(), 1);
        let (mut now, mut pauses) = (Duration::from_secs(7), Vec::new());
        for _ in 0..9 {
            let entry = queue.pop(now).unwrap();
            let pause = entry.pause;
            queue.put_back(entry, now);
            now += pause;
            assert!(queue.pop(now - Duration::from_millis(1)).is_none(), "it was looked at too early");
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    }
}
