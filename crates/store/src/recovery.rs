//! What to do about a transaction that was open when power was lost or the process died (specification 2.5, with 8.2 C1, C2, C10 and C24 mended).
//!
//! The store tells what was open ([`Recovery`]), the caller looks at the pool ([`DeviceFacts`]), [`decide`] says what to do. Every step may be repeated,
//! so a crash in the middle of a recovery only means another one.

use crate::transaction::{IntentKind, OperationKind};
use crate::{DeviceId, LayerId, Record};
use std::fmt;

/// What the store's transaction id and the pool's say together.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Recovery {
    /// The last transaction is complete, or there was none.
    Clean,
    /// The pool went on without the store: somebody else uses it, or the store is an old copy. Nothing is to be undone.
    PoolAhead {
        /// What the store has.
        open: u64,
        /// What the pool has.
        pool: u64,
    },
    /// The store is more than one transaction ahead: this pool is older than the store, or another. Nothing may be changed.
    TooFarAhead {
        /// What the store has.
        open: u64,
        /// What the pool has.
        pool: u64,
    },
    /// These operations were under way.
    Open(Vec<Pending>),
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("the last transaction is complete"),
            Self::PoolAhead { open, pool } => write!(
                f,
                "the pool is at transaction {pool}, the store only at {open}: somebody else uses the pool, or the store is an old copy; nothing was changed"
            ),
            Self::TooFarAhead { open, pool } => write!(
                f,
                "the store is at transaction {open}, the pool only at {pool}: this pool is an older copy or not the one of this root; give the right pool, or bring back the copy of the root that belongs to it"
            ),
            Self::Open(pending) => write!(f, "{} operations were interrupted", pending.len()),
        }
    }
}

/// An operation that was under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// What the transaction file says of its kind.
    pub kind: IntentKind,
    /// The layer that it names.
    pub layer: LayerId,
    /// The thin device that it names.
    pub device_id: DeviceId,
    /// The transaction's id: one more than the pool's.
    pub open_transaction_id: u64,
    /// That layer's record, deleted ones included.
    pub record: Option<Record>,
    /// Some record cannot be read, so nobody knows which device it names.
    pub unreadable_records: bool,
}

/// What the pool and the other records say about [`Pending::device_id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The pool has it.
    pub present: bool,
    /// Another layer's record names it ([`crate::Store::is_named_by_other`]).
    pub in_use_by_other_record: bool,
    /// A device-mapper device of it exists, or the pool answered that it is busy.
    pub active: bool,
    /// No one else makes devices in this pool.
    pub pool_is_ours: bool,
}

/// One thing to do. All may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// Send `delete` to the pool; "no data" is success. If it answers busy, decide again with [`DeviceFacts::active`] set.
    DeleteDevice(DeviceId),
    /// [`crate::Store::remove`].
    RemoveRecord(LayerId),
    /// [`crate::Store::retire`]: the device goes later, the record stays until then.
    MarkDeleted(LayerId),
    /// [`crate::Store::keep_for_deletion`]: a record for a device that has none, so that it goes later.
    KeepForDeletion(DeviceId),
    /// Nothing: the device may be somebody else's.
    LeaveDevice(DeviceId, LeaveReason),
}

/// Why a device is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaveReason {
    /// Another layer's record names it.
    NamedByAnotherRecord,
    /// The layer's record names another device, so this one never became its.
    RecordNamesAnotherDevice,
    /// The layer's record was made after the transaction.
    RecordIsNewer,
    /// No record names it and the pool is shared.
    PoolIsShared,
    /// No record names it and somebody uses it.
    InUse,
    /// It may be that of a record that cannot be read.
    RecordsUnreadable,
    /// A later version of thinlayer wrote what was to be done.
    WrittenByLaterVersion,
}

impl fmt::Display for LeaveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NamedByAnotherRecord => "another layer's record names it",
            Self::RecordNamesAnotherDevice => "the layer's record names another device",
            Self::RecordIsNewer => "the layer's record is newer than the transaction",
            Self::PoolIsShared => "no record names it and others use this pool",
            Self::InUse => "no record names it and it is in use",
            Self::RecordsUnreadable => "it may belong to a record that cannot be read",
            Self::WrittenByLaterVersion => {
                "a later version of thinlayer began this; recover with that version"
            }
        })
    }
}

/// What to do about a [`Pending`], and how to tell people.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// What to do, in this order.
    pub steps: Vec<Step>,
    /// What was found and done, in one sentence without a full stop.
    pub sentence: String,
}

/// Decides from facts: a creation that was not closed is undone, a deletion carried on; what may be another's is left; what is in use is deleted later.
pub fn decide(pending: &Pending, facts: &DeviceFacts) -> Decision {
    let Pending { layer, device_id, record, .. } = pending;
    let own = record.as_ref().filter(|record| record.device_id == *device_id);
    let kind = match classify(pending, facts, own) {
        Ok(kind) => kind,
        Err(reason) => return leave(pending, facts, reason),
    };
    if facts.in_use_by_other_record {
        return leave(pending, facts, LeaveReason::NamedByAnotherRecord);
    }
    let (what, done) = match kind {
        OperationKind::Create => ("creation", "undone"),
        OperationKind::Delete => ("deletion", "completed"),
    };
    let told = format!("the {what} of layer {layer} was interrupted and has been {done}");
    let (steps, how) = match (own.is_some(), facts.present, facts.active) {
        (true, false, _) => (vec![Step::RemoveRecord(layer.clone())], "its record was removed".to_owned()),
        (false, false, _) => (vec![], "nothing was left to do".to_owned()),
        (true, true, true) => (
            vec![Step::MarkDeleted(layer.clone())],
            format!("thin device {device_id} is in use and goes later"),
        ),
        (false, true, true) => (
            vec![Step::KeepForDeletion(*device_id)],
            format!("thin device {device_id} is in use and goes later"),
        ),
        (true, true, false) => (
            vec![Step::DeleteDevice(*device_id), Step::RemoveRecord(layer.clone())],
            format!("thin device {device_id} and its record were removed"),
        ),
        (false, true, false) => {
            (vec![Step::DeleteDevice(*device_id)], format!("thin device {device_id} was removed"))
        }
    };
    Decision { steps, sentence: format!("{told}: {how}") }
}

/// What the operation was. For Docker's intents the record tells: it gets the open id when it is made.
fn classify(
    pending: &Pending,
    facts: &DeviceFacts,
    own: Option<&Record>,
) -> Result<OperationKind, LeaveReason> {
    match &pending.kind {
        IntentKind::Known(kind) => return Ok(*kind),
        IntentKind::Newer(_) => return Err(LeaveReason::WrittenByLaterVersion),
        IntentKind::Unknown => {}
    }
    if let Some(record) = own {
        return match record.transaction_id.cmp(&pending.open_transaction_id) {
            std::cmp::Ordering::Equal => Ok(OperationKind::Create),
            std::cmp::Ordering::Less => Ok(OperationKind::Delete),
            std::cmp::Ordering::Greater => Err(LeaveReason::RecordIsNewer),
        };
    }
    if pending.record.is_some() {
        return Err(LeaveReason::RecordNamesAnotherDevice);
    }
    // Docker names an id before the pool has confirmed that it is free (C24), so the device may be anybody's.
    if facts.present && pending.unreadable_records {
        return Err(LeaveReason::RecordsUnreadable);
    }
    if facts.present && !facts.pool_is_ours {
        return Err(LeaveReason::PoolIsShared);
    }
    if facts.present && facts.active {
        return Err(LeaveReason::InUse);
    }
    Ok(OperationKind::Create)
}

fn leave(pending: &Pending, facts: &DeviceFacts, reason: LeaveReason) -> Decision {
    let Pending { layer, device_id, .. } = pending;
    let shown = if facts.present { "was left alone" } else { "is not in the pool and nothing was changed" };
    Decision {
        steps: vec![Step::LeaveDevice(*device_id, reason)],
        sentence: format!(
            "an operation on layer {layer} was interrupted; thin device {device_id} {shown}: {reason}"
        ),
    }
}

#[cfg(test)]
mod tests;
