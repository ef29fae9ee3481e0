//! The metadata of an active pool: a metadata snapshot that is released again, [`HeldMetadata`].

use super::reader::Metadata;
use super::source::{DeviceSource, ReadAt};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::pool::Pool;
use crate::quantity::MetaBlocks;
use std::ops::Deref;
use std::path::Path;
use thinlayer_dm::Flush;

/// The metadata of an active pool at one moment. Dropping it releases the metadata snapshot; [`HeldMetadata::release`] also tells of a failure.
///
/// A pool has room for one metadata snapshot, and does not know who took it. A process that is killed leaves its own behind; who
/// noted [`HeldMetadata::root`] can give that up with [`Pool::release_abandoned`].
#[derive(Debug)]
pub struct HeldMetadata {
    pool: Pool,
    root: MetaBlocks,
    metadata: Option<Metadata>,
    held: bool,
}

/// What [`Pool::release_abandoned`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abandoned {
    /// It was held, and is released.
    Released,
    /// The pool holds no metadata snapshot.
    Absent,
    /// The pool holds another one, which stays: somebody else's.
    Another(MetaBlocks),
}

impl Pool {
    /// Reserves a metadata snapshot and opens it on the pool's metadata device. 2 ioctls, and one to release it.
    ///
    /// # Errors
    /// [`Error::MetadataSnapHeld`]: somebody holds one, and it stays; [`Error::Metadata`]; those of [`Pool::message`]. Nothing is held after an error.
    ///
    /// # Privileges
    /// To read the device besides: in practice root.
    pub fn hold_metadata(&self, device: &Path) -> Result<HeldMetadata> {
        let name = device.display().to_string();
        let source = DeviceSource::open(device)
            .map_err(|source| super::error::Error::Open { device: name.clone(), source })?;
        self.hold_metadata_of(source, &name, |_| Ok(()))
    }

    /// As [`Pool::hold_metadata`], from a source that is open already. It must not come from a cache of the metadata device.
    ///
    /// `reserved` is called with the snapshot's root as soon as it is known, before anything is read: to note it for [`Pool::release_abandoned`].
    ///
    /// # Errors
    /// Those of [`Pool::hold_metadata`] and of `reserved`.
    pub fn hold_metadata_of(
        &self,
        source: impl ReadAt + 'static,
        device: &str,
        reserved: impl FnOnce(MetaBlocks) -> Result<()>,
    ) -> Result<HeldMetadata> {
        self.reserve_metadata_snap()?;
        // From here on dropping it releases the snapshot.
        let mut held = HeldMetadata { pool: self.clone(), root: MetaBlocks(0), metadata: None, held: true };
        let state = self.status(Flush::No)?;
        let root = state.running().and_then(|status| status.held_metadata_root);
        held.root = root.ok_or_else(|| super::error::Error::NoSnapshot { device: device.into() })?;
        reserved(held.root)?;
        held.metadata = Some(Metadata::held_at(source, device, held.root)?);
        Ok(held)
    }

    /// Releases a metadata snapshot that the caller took earlier and could not release, if it is still the one that is held. Up to 2 ioctls.
    ///
    /// # Errors
    /// Those of [`Pool::message`].
    pub fn release_abandoned(&self, root: MetaBlocks) -> Result<Abandoned> {
        let state = self.status(Flush::No)?;
        match state.running().and_then(|status| status.held_metadata_root) {
            None => Ok(Abandoned::Absent),
            Some(held) if held == root => match self.release_metadata_snap() {
                Ok(()) => Ok(Abandoned::Released),
                Err(Error::NoMetadataSnap { .. }) => Ok(Abandoned::Absent),
                Err(error) => Err(error),
            },
            Some(held) => Ok(Abandoned::Another(held)),
        }
    }
}

impl HeldMetadata {
    /// Where the metadata snapshot begins, as the pool's status shows it.
    pub fn root(&self) -> MetaBlocks {
        self.root
    }

    /// Releases the metadata snapshot.
    ///
    /// # Errors
    /// Those of [`Pool::message`]. One that somebody else has released already is no error.
    pub fn release(mut self) -> Result<()> {
        self.give_up()
    }

    fn give_up(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.held) {
            return Ok(());
        }
        match self.pool.message(&Message::ReleaseMetadataSnap) {
            Ok(_) | Err(Error::NoMetadataSnap { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Deref for HeldMetadata {
    type Target = Metadata;

    fn deref(&self) -> &Metadata {
        match &self.metadata {
            Some(metadata) => metadata,
            None => unreachable!("nobody is given a snapshot that was not opened"),
        }
    }
}

impl Drop for HeldMetadata {
    fn drop(&mut self) {
        if let Err(error) = self.give_up() {
            tracing::warn!(pool = %self.pool.name(), %error, "the metadata snapshot is not released");
        }
    }
}
