//! Why a pool refused: looks that are taken on error paths only.

use crate::error::{Error, Holders, Trouble};
use crate::message::Message;
use crate::pool::Pool;
use crate::quantity::ThinId;
use crate::status::Health;
use crate::table::{BackingDevice, ThinTable};
use nix::errno::Errno;
use std::time::Duration;
use thinlayer_dm::{DeviceMapper, DeviceNumber, DmName, Flush, Slot};

/// As many holders are named.
const NAMED: usize = 5;
/// As many devices are looked at to find them: one ioctl each.
const LOOKED_AT: usize = 1024;

impl Pool {
    /// The reason why a message was refused, in words.
    pub(crate) fn explain(&self, message: &Message, source: thinlayer_dm::Error) -> Error {
        let pool = self.name().clone();
        let source = Box::new(source);
        match (source.errno(), message) {
            (Some(Errno::EEXIST), &Message::CreateThin(id) | &Message::CreateSnap { new: id, .. }) => {
                Error::IdTaken { pool, id, source }
            }
            (Some(Errno::ENODATA), &Message::Delete(id) | &Message::CreateSnap { origin: id, .. }) => {
                Error::NoSuchId { pool, id, source }
            }
            (Some(Errno::EBUSY), &Message::Delete(id)) => Error::Busy {
                op: doing(message),
                device: pool,
                waited: Duration::ZERO,
                holders: self.holders_of_id(id),
                source,
            },
            (Some(Errno::EBUSY), Message::ReserveMetadataSnap) => Error::MetadataSnapHeld { pool, source },
            (Some(Errno::EINVAL), Message::ReleaseMetadataSnap) => Error::NoMetadataSnap { pool, source },
            (Some(Errno::EINVAL), &Message::SetTransactionId { current, .. }) => {
                let state = self.status(Flush::No).ok();
                let actual = state.and_then(|state| state.running().map(|status| status.transaction_id));
                Error::TransactionIdMismatch { pool, expected: current, actual, source }
            }
            (Some(Errno::EOPNOTSUPP | Errno::ENOSPC | Errno::EIO | Errno::EILSEQ), _) => {
                let op = doing(message);
                Error::PoolTrouble { op, pool, trouble: self.trouble(&source), source: Some(source) }
            }
            _ => Error::call("send a message to pool", self.name(), *source),
        }
    }

    /// The state that explains a refusal.
    pub(crate) fn trouble(&self, refusal: &thinlayer_dm::Error) -> Trouble {
        match self.status(Flush::No).map(|state| state.health()) {
            Ok(Health::Trouble(trouble)) => trouble,
            // What is needed for a message is metadata.
            _ if refusal.errno() == Some(Errno::ENOSPC) => Trouble::OutOfMetadata,
            _ => Trouble::Unknown,
        }
    }

    /// The devices whose tables are for this thin id.
    fn holders_of_id(&self, id: ThinId) -> Holders {
        let pool = BackingDevice::Number(self.number());
        let devices = devices_where(self.device_mapper(), |name| {
            let Ok((_, targets)) = self.device_mapper().table(name.into(), Slot::Live) else { return false };
            targets.iter().any(|target| {
                ThinTable::from_target(target).is_ok_and(|table| table.id == id && table.pool == pool)
            })
        });
        Holders { open_count: None, devices }
    }
}

/// Who has a device open.
pub(crate) fn holders_of(dm: &dyn DeviceMapper, name: &DmName, number: DeviceNumber) -> Holders {
    let open_count = dm.info(name.into()).ok().flatten().map(|info| info.open_count);
    if open_count == Some(0) {
        return Holders { open_count, devices: Vec::new() };
    }
    let devices = devices_where(dm, |holder| dm.deps(holder.into()).is_ok_and(|deps| deps.contains(&number)));
    Holders { open_count, devices }
}

/// A few devices of which this is true. What cannot be looked at is passed over: this only adds to an error's text.
fn devices_where(dm: &dyn DeviceMapper, is: impl Fn(&DmName) -> bool) -> Vec<DmName> {
    let listed = dm.devices().unwrap_or_default();
    listed.into_iter().take(LOOKED_AT).map(|device| device.name).filter(|name| is(name)).take(NAMED).collect()
}

/// What a message does, to be followed by the pool's name.
fn doing(message: &Message) -> String {
    match message {
        Message::CreateThin(id) => format!("create thin id {id} in"),
        Message::CreateSnap { new, origin } => {
            format!("create thin id {new} as a snapshot of {origin} in")
        }
        Message::Delete(id) => format!("delete thin id {id} of"),
        Message::SetTransactionId { .. } => "set the transaction id of".into(),
        Message::ReserveMetadataSnap => "reserve a metadata snapshot of".into(),
        Message::ReleaseMetadataSnap => "release the metadata snapshot of".into(),
    }
}
