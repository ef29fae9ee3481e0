//! Messages to a pool, and who must be asked before one is served.

use super::{Mode, Volume, number, thin_id};
use crate::devices::{Target, dm};
use crate::image::Content;
use crate::state::{Result, State};
use nix::errno::Errno;
use std::sync::Arc;

impl State {
    /// Serves a message to a pool's live target. `call` is what the log says.
    pub(crate) fn pool_message(&mut self, minor: u32, message: &str, call: &str) -> Result<()> {
        let pool = self.pools.get(&minor).ok_or(Errno::EINVAL)?;
        if pool.mode >= Mode::OutOfMetadataSpace {
            return Err(Errno::EOPNOTSUPP);
        }
        let now = pool.now.clone();
        let words: Vec<&str> = message.split_ascii_whitespace().collect();
        let next = match words.as_slice() {
            ["create_thin", id] => {
                let id = thin_id(id)?;
                if now.volumes.contains_key(&id) {
                    return Err(Errno::EEXIST);
                }
                let mut next = now.as_ref().clone();
                let volume = Volume {
                    created: now.transaction_id,
                    blocks: Arc::default(),
                    content: Content::Blank,
                    data: None,
                };
                next.volumes.insert(id, volume);
                next
            }
            ["create_snap", id, origin] => {
                let (id, origin) = (thin_id(id)?, thin_id(origin)?);
                if now.volumes.contains_key(&id) {
                    return Err(Errno::EEXIST);
                }
                let volume = now.volumes.get(&origin).ok_or(Errno::ENODATA)?;
                self.watch_snapshot(minor, origin);
                let mut next = now.as_ref().clone();
                let shares = Arc::make_mut(&mut next.shares);
                for block in volume.blocks.values() {
                    *shares.entry(*block).or_default() += 1;
                }
                next.volumes.insert(id, Volume { created: now.transaction_id, ..volume.clone() });
                next
            }
            ["delete", id] => {
                let id = thin_id(id)?;
                let volume = now.volumes.get(&id).ok_or(Errno::ENODATA)?;
                if self.thin_tables(minor, id).next().is_some() {
                    return Err(Errno::EBUSY);
                }
                let mut next = now.as_ref().clone();
                for block in volume.blocks.values() {
                    next.unshare(*block);
                }
                next.volumes.remove(&id);
                next
            }
            ["set_transaction_id", from, to] => {
                let (from, to) = (number(from)?, number(to)?);
                if from != now.transaction_id {
                    return Err(Errno::EINVAL);
                }
                let mut next = now.as_ref().clone();
                next.transaction_id = to;
                next
            }
            ["reserve_metadata_snap"] => {
                if now.held_root.is_some() {
                    return Err(Errno::EBUSY);
                }
                let mut next = now.as_ref().clone();
                // Any block that nothing else has.
                next.held_root = Some(next.metadata_blocks - 1);
                next
            }
            ["release_metadata_snap"] => {
                if now.held_root.is_none() {
                    return Err(Errno::EINVAL);
                }
                let mut next = now.as_ref().clone();
                next.held_root = None;
                next
            }
            _ => return Err(Errno::EINVAL),
        };
        self.effect(call);
        if let Some(pool) = self.pools.get_mut(&minor) {
            pool.now = Arc::new(next);
            if pool.mode == Mode::OutOfDataSpace && pool.now.free_block().is_some() {
                pool.mode = Mode::Write;
                pool.full_since = None;
            }
        }
        self.commit(minor);
        Ok(())
    }

    /// The devices whose tables, live or not, are this thin device's.
    fn thin_tables(&self, pool: u32, id: u32) -> impl Iterator<Item = (u32, bool)> {
        self.devices.iter().flat_map(move |(&minor, device)| {
            let is_it = move |target: Option<&Target>| {
                matches!(target, Some(Target::Thin { pool: p, id: i }) if p.minor == pool && *i == id)
            };
            let live = device.live.as_ref().is_some_and(|t| is_it(t.only()));
            let inactive = device.inactive.as_ref().is_some_and(|t| is_it(t.only()));
            [live.then_some((minor, true)), inactive.then_some((minor, false))].into_iter().flatten()
        })
    }

    /// A snapshot of something that is being written is none.
    fn watch_snapshot(&mut self, pool: u32, origin: u32) {
        let active: Vec<u32> =
            self.thin_tables(pool, origin).filter(|(_, live)| *live).map(|(minor, _)| minor).collect();
        for minor in active {
            let Some(device) = self.devices.get(&minor) else { continue };
            let dirty = self.supers.get(&dm(minor)).is_some_and(|fs| !fs.is_clean());
            if !device.suspended || dirty {
                let name = device.name.clone();
                self.violation(format!(
                    "snapshot of thin device {origin} while {name} was {}",
                    if device_is_suspended(self, minor) { "dirty" } else { "active and not suspended" }
                ));
            }
        }
    }

    /// Another device is active with the same thin id.
    pub(crate) fn watch_activation(&mut self, minor: u32, pool: u32, id: u32) {
        let other = self.thin_tables(pool, id).find(|&(other, live)| {
            live && other != minor && self.writable(dm(other)) && self.writable(dm(minor))
        });
        if let Some((other, _)) = other {
            self.violation(format!(
                "thin device {id} is active twice with write access: dm-{other} and dm-{minor}"
            ));
        }
    }
}

fn device_is_suspended(state: &State, minor: u32) -> bool {
    state.devices.get(&minor).is_some_and(|device| device.suspended)
}
