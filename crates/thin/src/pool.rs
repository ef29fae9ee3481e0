//! A pool that is active: [`Pool`].

use crate::compatibility::{Difference, compare};
use crate::device::remove;
use crate::error::{Error, Result, Trouble};
use crate::message::Message;
use crate::quantity::{DataBlocks, MetaBlocks, ThinId, TransactionId};
use crate::status::{Health, PoolState, PoolStatus};
use crate::swap::{build, only_target, swap};
use crate::table::{POOL_TARGET, PoolTable};
use crate::wait::Patience;
use nix::errno::Errno;
use std::sync::Arc;
use thinlayer_dm::{
    Access, DeviceMapper, DeviceNumber, DmName, Flush, Info, Kind, Removal, Removed, Sectors, Slot, Suspend,
};

/// How a device is suspended while it gets a longer table: what is under way is held back, not waited for.
///
/// Waiting would never end on a pool that is out of space.
pub const GROWING: Suspend = Suspend { freeze: false, flush: false };

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deleted {
    /// The thin id is gone.
    Deleted,
    /// There was none.
    WasAbsent,
}

/// Is a thin id in use?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// The pool has no such id.
    Free,
    /// The pool has it.
    Taken,
}

/// A size before and after growing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grown<T> {
    /// Before.
    pub from: T,
    /// After.
    pub to: T,
}

impl<T: PartialEq> Grown<T> {
    /// Did it change?
    pub fn changed(&self) -> bool {
        self.from != self.to
    }
}

/// An active pool.
///
/// A handle: clones mean the same pool, and dropping them leaves it as it is.
#[derive(Clone, Debug)]
pub struct Pool {
    dm: Arc<dyn DeviceMapper>,
    name: DmName,
    number: DeviceNumber,
}

impl Pool {
    /// Makes a pool: create, load, resume (3 ioctls). What was made is removed again if a step fails; the first error is kept.
    ///
    /// The kernel formats a metadata device whose first 4096 bytes are zero, and else takes what is there. Metadata that needs a
    /// check is no error here: the pool is then read-only, see [`Pool::ensure_writable`].
    ///
    /// # Errors
    /// [`Error::NameTaken`]; [`Error::TableRefused`]; [`Error::NotUndone`] if a device is left behind.
    pub fn create(
        dm: Arc<dyn DeviceMapper>,
        name: &DmName,
        table: &PoolTable,
        access: Access,
    ) -> Result<Self> {
        let info = build(&*dm, "create pool", name, &table.target(), access)?;
        Ok(Self { dm, name: name.clone(), number: info.number })
    }

    /// Finds an active pool by name; `None` if there is no device of that name. One ioctl.
    ///
    /// # Errors
    /// [`Error::WrongTarget`] if the device is no pool; [`Error::Unfinished`] if it has no table ([`Pool::remove_unfinished`]).
    pub fn open(dm: Arc<dyn DeviceMapper>, name: &DmName) -> Result<Option<Self>> {
        match dm.table(name.into(), Slot::Live) {
            Ok((info, targets)) => {
                only_target(name, POOL_TARGET, &targets)?;
                Ok(Some(Self { dm, name: name.clone(), number: info.number }))
            }
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            Err(source) => Err(Error::call("open pool", name, source)),
        }
    }

    /// Removes a device that has no table in use, as an interrupted making leaves it. `false`: there is no device of that name.
    ///
    /// # Errors
    /// [`Error::WrongTarget`] if it has a table: then it is somebody's.
    pub fn remove_unfinished(dm: &dyn DeviceMapper, name: &DmName) -> Result<bool> {
        const OP: &str = "remove the unfinished device";
        match dm.info(name.into()).map_err(|source| Error::call(OP, name, source))? {
            None => Ok(false),
            Some(info) if info.live_table => Err(Error::WrongTarget {
                device: name.clone(),
                wanted: "unfinished",
                found: "one with a table".into(),
            }),
            Some(info) => {
                let removed = remove(dm, OP, name, info.number, Removal::Now, Patience::none())?;
                Ok(removed != Removed::Absent)
            }
        }
    }

    /// The pool's name.
    pub fn name(&self) -> &DmName {
        &self.name
    }

    /// The pool's device number.
    pub fn number(&self) -> DeviceNumber {
        self.number
    }

    /// What all calls go through.
    pub fn device_mapper(&self) -> &dyn DeviceMapper {
        &*self.dm
    }

    /// The table in use. One ioctl.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::WrongTarget`]; [`Error::Malformed`].
    pub fn table(&self) -> Result<PoolTable> {
        self.table_and_info().map(|(table, _)| table)
    }

    fn table_and_info(&self) -> Result<(PoolTable, Info)> {
        let (info, targets) = self
            .dm
            .table((&self.name).into(), Slot::Live)
            .map_err(|source| Error::call("read the table of pool", &self.name, source))?;
        let target = only_target(&self.name, POOL_TARGET, &targets)?;
        let table = PoolTable::from_target(target).map_err(|source| Error::malformed(&self.name, source))?;
        Ok((table, info))
    }

    /// What the pool says of itself. One ioctl. With [`Flush::Yes`] the kernel commits the pool's metadata first.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::WrongTarget`]; [`Error::Malformed`].
    pub fn status(&self, flush: Flush) -> Result<PoolState> {
        self.status_and_info(flush).map(|(state, _)| state)
    }

    /// As [`Pool::status`], with the pool device's own facts; its event number is the one that answers to messages are compared with.
    ///
    /// # Errors
    /// Those of [`Pool::status`].
    pub fn status_and_info(&self, flush: Flush) -> Result<(PoolState, Info)> {
        let (info, targets) = self
            .dm
            .status((&self.name).into(), flush)
            .map_err(|source| Error::call("read the status of pool", &self.name, source))?;
        let target = only_target(&self.name, POOL_TARGET, &targets)?;
        let state = PoolState::from_target(target).map_err(|source| Error::malformed(&self.name, source))?;
        Ok((state, info))
    }

    /// The pool's figures, if it takes messages: it is not read-only, failed, out of metadata or in need of a check.
    /// One ioctl, without a flush.
    ///
    /// A pool that is out of data space takes messages. Also answers whether the commit of the last message succeeded, which
    /// the message itself does not say.
    ///
    /// # Errors
    /// [`Error::PoolTrouble`], and those of [`Pool::status`].
    pub fn ensure_writable(&self) -> Result<PoolStatus> {
        let state = self.status(Flush::No)?;
        match (state.health(), state) {
            (Health::Good | Health::Trouble(Trouble::OutOfData), PoolState::Running(status)) => Ok(status),
            (Health::Trouble(trouble), _) => Err(self.refuses("write to", trouble)),
            (Health::Good, _) => Err(self.refuses("write to", Trouble::Failed)),
        }
    }

    fn refuses(&self, op: &str, trouble: Trouble) -> Error {
        Error::PoolTrouble { op: op.into(), pool: self.name.clone(), trouble, source: None }
    }

    /// What a reload with `wanted` would change; nothing if the pool is as wanted. One ioctl.
    ///
    /// Devices are compared where both tables give them by number. That a device under the pool became larger is not in the table:
    /// [`Pool::grow_data`] and [`Pool::grow_metadata`] take that in.
    ///
    /// # Errors
    /// [`Error::BlockSizeMismatch`] and [`Error::OtherDevice`], which no reload can change.
    pub fn check_compatible(&self, wanted: &PoolTable) -> Result<Vec<Difference>> {
        compare(&self.name, &self.table()?, wanted)
    }

    /// Gives the pool another table: table, load, resume (3 ioctls). `how` is how it is suspended for the swap: [`GROWING`]
    /// does not wait for I/O, which may never end on a full pool.
    ///
    /// A pool that is suspended is resumed by this. The old table is put back if the kernel refuses the new one.
    ///
    /// # Errors
    /// As [`Pool::check_compatible`]; [`Error::Shrink`]; [`Error::TableRefused`]; [`Error::LeftSuspended`].
    pub fn reload(&self, table: &PoolTable, how: Suspend) -> Result<()> {
        let (old, info) = self.table_and_info()?;
        self.reload_from(&old, &info, table, how)
    }

    fn reload_from(&self, old: &PoolTable, info: &Info, new: &PoolTable, how: Suspend) -> Result<()> {
        compare(&self.name, old, new)?;
        if new.len < old.len {
            return Err(Error::Shrink { device: self.name.clone(), active: old.len, wanted: new.len });
        }
        let access = if info.read_only { Access::ReadOnly } else { Access::ReadWrite };
        swap(&*self.dm, "reload pool", &self.name, &old.target(), &new.target(), access, how)
    }

    /// Makes the pool as long as its data device has become. Two status looks besides the reload.
    ///
    /// # Errors
    /// [`Error::Shrink`]; [`Error::PoolTrouble`] if the kernel took the table but did not grow, as it does where the metadata needs a
    /// check; those of [`Pool::reload`].
    pub fn grow_data(&self, len: Sectors) -> Result<Grown<DataBlocks>> {
        self.grow_data_with(len, |_| {})
    }

    /// As [`Pool::grow_data`], and the same reload takes what else `adjust` changes in the table: the low-water mark, the features.
    ///
    /// # Errors
    /// As [`Pool::grow_data`].
    pub fn grow_data_with(
        &self,
        len: Sectors,
        adjust: impl FnOnce(&mut PoolTable),
    ) -> Result<Grown<DataBlocks>> {
        let (old, info) = self.table_and_info()?;
        let from = self.figures("grow the data of")?.total_data;
        let expected = old.block_size.blocks_in(len);
        let mut new = PoolTable { len, ..old.clone() };
        adjust(&mut new);
        if new == old && from >= expected {
            return Ok(Grown { from, to: from });
        }
        self.reload_from(&old, &info, &new, GROWING)?;
        let after = self.figures("grow the data of")?;
        if after.total_data < expected {
            return Err(self.did_not_grow("grow the data of", &after));
        }
        Ok(Grown { from, to: after.total_data })
    }

    /// Takes in that the metadata device has become larger: a reload of the same table, and two status looks.
    ///
    /// # Errors
    /// [`Error::PoolTrouble`] if the metadata needs a check, as the kernel does not grow it then; those of [`Pool::reload`].
    pub fn grow_metadata(&self) -> Result<Grown<MetaBlocks>> {
        let (old, info) = self.table_and_info()?;
        let from = self.figures("grow the metadata of")?.total_metadata;
        self.reload_from(&old, &info, &old, GROWING)?;
        let after = self.figures("grow the metadata of")?;
        if after.total_metadata == from && after.needs_check == Some(true) {
            return Err(self.did_not_grow("grow the metadata of", &after));
        }
        Ok(Grown { from, to: after.total_metadata })
    }

    fn figures(&self, op: &str) -> Result<PoolStatus> {
        match self.status(Flush::No)? {
            PoolState::Running(status) => Ok(status),
            PoolState::Fail | PoolState::Error => Err(self.refuses(op, Trouble::Failed)),
        }
    }

    fn did_not_grow(&self, op: &str, status: &PoolStatus) -> Error {
        match status.health() {
            Health::Trouble(trouble) => self.refuses(op, trouble),
            Health::Good => self.refuses(op, Trouble::Unknown),
        }
    }

    /// Holds back the pool's I/O. One ioctl. The kernel holds back all its thin devices with it.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::DeviceMapper`].
    pub fn suspend(&self, how: Suspend) -> Result<()> {
        match self.dm.suspend((&self.name).into(), how) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::call("suspend pool", &self.name, source)),
        }
    }

    /// Lets the pool's I/O pass again. One ioctl.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::DeviceMapper`].
    pub fn resume(&self) -> Result<()> {
        match self.dm.resume((&self.name).into(), Suspend::default()) {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::call("resume pool", &self.name, source)),
        }
    }

    /// Takes the pool down: what is in it stays on its devices. One ioctl per try.
    ///
    /// # Errors
    /// [`Error::Busy`], with the thin devices that are active.
    pub fn remove(&self, patience: Patience<'_>) -> Result<Removed> {
        remove(&*self.dm, "remove pool", &self.name, self.number, Removal::Now, patience)
    }

    /// Sends a message. One ioctl; after a refusal up to a few more, to say why.
    ///
    /// A message that succeeds was applied; whether its commit reached the disk is in the pool's status only
    /// ([`Pool::ensure_writable`]), and in the answer to the next message. A commit that fails is an event of the pool: the answer is the
    /// pool's event number, and as long as that is the one seen before, everything was committed.
    ///
    /// # Errors
    /// [`Error::IdTaken`], [`Error::NoSuchId`], [`Error::Busy`], [`Error::TransactionIdMismatch`], [`Error::MetadataSnapHeld`],
    /// [`Error::NoMetadataSnap`], and [`Error::PoolTrouble`] where the pool takes no messages at all.
    pub fn message(&self, message: &Message) -> Result<u32> {
        self.send(message).map_err(|source| self.explain(message, source))
    }

    /// Sends a message without looking for the reason of a refusal.
    pub(crate) fn send(&self, message: &Message) -> thinlayer_dm::Result<u32> {
        let (info, _) = self.dm.message((&self.name).into(), Sectors(0), &message.to_string())?;
        Ok(info.event_nr)
    }

    /// Makes a new empty thin device in the pool.
    ///
    /// # Errors
    /// [`Error::IdTaken`]; those of [`Pool::message`].
    pub fn create_thin(&self, id: ThinId) -> Result<()> {
        self.message(&Message::CreateThin(id)).map(drop)
    }

    /// Makes a snapshot of a thin device that is not active. Of an active one: [`Pool::snapshot_of_active`].
    ///
    /// # Errors
    /// [`Error::IdTaken`]; [`Error::NoSuchId`] for the origin; those of [`Pool::message`].
    pub fn create_snap(&self, new: ThinId, origin: ThinId) -> Result<()> {
        self.message(&Message::CreateSnap { new, origin }).map(drop)
    }

    /// Drops a thin device and its hold on its blocks. One that is not there is no error: the answer says so.
    ///
    /// # Errors
    /// [`Error::Busy`] while any device has a table for it, opened or not; those of [`Pool::message`].
    pub fn delete(&self, id: ThinId) -> Result<Deleted> {
        match self.message(&Message::Delete(id)) {
            Ok(_) => Ok(Deleted::Deleted),
            Err(Error::NoSuchId { .. }) => Ok(Deleted::WasAbsent),
            Err(error) => Err(error),
        }
    }

    /// Moves the pool's counter from one value to another. Answers with the pool's event number, see [`Pool::message`].
    ///
    /// # Errors
    /// [`Error::TransactionIdMismatch`] if it is not `current`; those of [`Pool::message`].
    pub fn set_transaction_id(&self, current: TransactionId, new: TransactionId) -> Result<u32> {
        self.message(&Message::SetTransactionId { current, new })
    }

    /// Keeps the metadata of this moment readable for programs. Its root is in the status.
    ///
    /// # Errors
    /// [`Error::MetadataSnapHeld`]; those of [`Pool::message`].
    pub fn reserve_metadata_snap(&self) -> Result<()> {
        self.message(&Message::ReserveMetadataSnap).map(drop)
    }

    /// Gives that up.
    ///
    /// # Errors
    /// [`Error::NoMetadataSnap`]; those of [`Pool::message`].
    pub fn release_metadata_snap(&self) -> Result<()> {
        self.message(&Message::ReleaseMetadataSnap).map(drop)
    }

    /// Asks whether a thin id is in use, and changes nothing: sends `create_snap N N`, which cannot succeed. One ioctl.
    ///
    /// # Errors
    /// [`Error::PoolTrouble`] where the pool takes no messages; those of [`Pool::message`].
    pub fn probe(&self, id: ThinId) -> Result<Probe> {
        let message = Message::CreateSnap { new: id, origin: id };
        match self.send(&message) {
            Err(source) if source.errno() == Some(Errno::ENODATA) => Ok(Probe::Free),
            Err(source) if source.errno() == Some(Errno::EEXIST) => Ok(Probe::Taken),
            Err(source) => Err(self.explain(&message, source)),
            // It exists at least now.
            Ok(_) => Ok(Probe::Taken),
        }
    }
}

#[cfg(test)]
mod tests;
