//! Docker's clean-up at the daemon's end (section 4.7 of the specification).

use crate::driver::{Driver, Notice};
use crate::error::{Error, Result};
use thinlayer_dm::Removal;
use thinlayer_filesystem::Unmount;
use thinlayer_store::LayerId;

impl Driver {
    /// Unmounts all layers, removes their devices, and removes the pool if the driver made it. The loop devices go with it.
    ///
    /// What cannot be undone now is in the notices, and the rest is done all the same. Safe to run twice.
    ///
    /// # Errors
    /// [`crate::Kind::Busy`] if the pool cannot go because something uses a layer.
    pub fn stop(&self) -> Result<Vec<Notice>> {
        let mut notices = Vec::new();
        let mut warn = |text: String| notices.push(Notice::warning(text));
        // The worker has devices of removed layers active.
        let wait = self.deadlines.layer;
        let _working = self.queue.working.try_lock_for(wait).ok_or_else(|| Error::Busy {
            what: format!("pool {}", self.pool.name()),
            why: format!(
                "the blocks of a removed layer are still being given back after {wait:?}; stop again later"
            ),
        })?;
        // First what must be kept even if the process is killed before the end.
        if let Err(error) = self.store.save_device_set(&self.store.device_set()) {
            warn(format!("the last thin id could not be kept, which costs a few probes later: {error}"));
        }
        for id in self.uses.all() {
            // Busy mounts stay: a layer in use is never pulled from under its user.
            if let Err(error) = self.put_all(&id, Unmount::Now) {
                warn(error.to_string());
            }
        }
        for name in self.machine.filesystems.dirs(self.names.mounts())? {
            let Ok(id) = LayerId::found(&name) else { continue };
            if self.uses.get(&id) == 0
                && let Err(error) = self.machine.filesystems.remove_dir(&self.names.mount_point(&id))
            {
                warn(error.to_string());
            }
        }
        for id in self.active.all() {
            if self.uses.get(&id) > 0 {
                continue;
            }
            let reserved = self.reservations.reserve(&id, self.deadlines.layer);
            let gone =
                reserved.and_then(|reserved| self.deactivate(&id, Removal::Now).map(|_| drop(reserved)));
            if let Err(error) = gone {
                warn(error.to_string());
            }
        }
        if self.owns_pool
            && let Err(error) = self.remove_pool()
        {
            // Who is in the way stands in what was said before.
            notices.iter().for_each(|notice| tracing::warn!("{}", notice.text));
            return Err(error);
        }
        Ok(notices)
    }

    fn remove_pool(&self) -> Result<()> {
        let left: Vec<String> = self.active.all().iter().map(ToString::to_string).collect();
        if !left.is_empty() {
            return Err(Error::Busy {
                what: format!("pool {}", self.pool.name()),
                why: format!(
                    "these layers are in use: {}; end what uses them and stop again",
                    left.join(", ")
                ),
            });
        }
        crate::pool::remove(&self.pool, &self.machine, self.deadlines.removal)
    }
}
