//! The pool becomes larger: by itself where it is due, by hand, and out of the reserve where nothing else helps.

use crate::condition::Finding;
use crate::deadline::within;
use crate::driver::{Driver, Notice};
use crate::error::{Error, Result};
use crate::growth::{held_by_host, reserve_size};
use crate::reserve::Reservation;
use crate::site::{Blocked, Ground, Plan, Site};
use crate::size::human_size;
use std::time::Duration;
use thinlayer_dm::{Bytes, Flush};
use thinlayer_provision::given::MAX_METADATA;
use thinlayer_provision::loop_pool::{self, Side};
use thinlayer_provision::lvm::{self, PoolVolume};
use thinlayer_store::LayerId;
use thinlayer_thin::{DataBlocks, Health, MetaBlocks, Pool, PoolState, PoolTable, Trouble};

/// A size of the pool that somebody asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolSize {
    /// So large in all.
    To(Bytes),
    /// So much more.
    By(Bytes),
}

/// What [`Driver::grow_pool`] is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GrowRequest {
    /// The data's size.
    pub data: Option<PoolSize>,
    /// The metadata's size.
    pub metadata: Option<PoolSize>,
}

impl GrowRequest {
    /// With these sizes. With neither, the pool takes in what its devices have become.
    pub fn new(data: Option<PoolSize>, metadata: Option<PoolSize>) -> Self {
        Self { data, metadata }
    }
}

/// A size before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeChange {
    /// Before.
    pub from: Bytes,
    /// After.
    pub to: Bytes,
}

/// What [`Driver::grow_pool`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolGrown {
    /// The pool's data.
    pub data: SizeChange,
    /// The pool's metadata.
    pub metadata: SizeChange,
    /// What should be known about it.
    pub notices: Vec<Notice>,
}

/// What came of growing a side by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Extended {
    /// It is larger.
    Grown(SizeChange),
    /// It cannot be.
    Not(Blocked),
}

/// How often a suspended pool is resumed, and the pause between.
const RESUMES: u32 = 20;
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// The key under which the pool itself is reserved while it changes its size.
fn whole() -> LayerId {
    LayerId::base()
}

impl Driver {
    pub(crate) fn site(&self) -> Site<'_> {
        Site {
            machine: &self.machine,
            options: &self.options,
            pool: self.pool.name(),
            block: self.block,
            volume_blocked: self.volume_blocked.read().clone(),
        }
    }

    /// Refuses what would change a pool that is read-only, failed or in need of a check.
    pub(crate) fn ensure_sound(&self) -> Result<()> {
        match &*self.ailing.read() {
            None => Ok(()),
            Some(finding) => Err(finding.clone().into_error(self.pool.name())),
        }
    }

    /// From now on nothing is changed, until somebody has mended the pool and opened the root again.
    pub(crate) fn fall_ill(&self, finding: &Finding) {
        *self.ailing.write() = Some(finding.clone());
    }

    /// One change of the pool's size at a time.
    fn reserve_pool(&self, wait: Duration) -> Result<Reservation> {
        self.growing.reserve(&whole(), wait).map_err(|_| Error::Busy {
            what: format!("pool {}", self.pool.name()),
            why: "it is growing this moment; try again later".into(),
        })
    }

    /// Grows what has reached its threshold, as far as it can. `None`: somebody else is at it.
    pub(crate) fn extend(&self, wait: Duration) -> Result<Option<Vec<(Side, Extended)>>> {
        let Ok(reserved) = self.reserve_pool(wait) else { return Ok(None) };
        // LVM is asked anew.
        let site = Site { volume_blocked: None, ..self.site() };
        let mut done = Vec::new();
        // Metadata first: without it nothing else can be done.
        for side in [Side::Metadata, Side::Data] {
            let PoolState::Running(status) = self.pool.status(Flush::No)? else { break };
            if !site.is_due(side, &status) {
                continue;
            }
            done.push((
                side,
                match site.plan(side, &status)? {
                    Plan::Not(why) => Extended::Not(why),
                    Plan::To(size) => {
                        let change = match site.ground(side) {
                            Ground::Volume(volume) => {
                                let extended = self.extend_volume(&volume, side, size, &reserved);
                                *self.volume_blocked.write() = extended.as_ref().err().cloned();
                                match extended {
                                    Ok(change) => change,
                                    Err(why) => {
                                        done.push((side, Extended::Not(why)));
                                        continue;
                                    }
                                }
                            }
                            _ => self.resize_side(side, size, &reserved)?,
                        };
                        tracing::info!(pool = %self.pool.name(), from = %human_size(change.from), to = %human_size(change.to), "its {side} has grown");
                        Extended::Grown(change)
                    }
                },
            ));
        }
        Ok(Some(done))
    }

    /// Makes one side on a file so large. Its reload also sets the low-water mark, and lets writers wait again when the pool is full.
    fn resize_side(&self, side: Side, size: Bytes, reserved: &Reservation) -> Result<SizeChange> {
        let (backing, root, pool) =
            (self.machine.backing.clone(), self.machine.root.path.clone(), self.pool.clone());
        let watched = self.site().watched();
        let what = || format!("growing the {side} of pool {}", self.pool.name());
        let grown = within(&*self.machine.clock, what, self.deadlines.growth, reserved, move || {
            let table = pool.table()?;
            let device = match side {
                Side::Data => &table.data,
                Side::Metadata => &table.metadata,
            };
            let grown = loop_pool::grow_side(&*backing, &root, side, crate::pool::number(device)?, size)?;
            take_in(&pool, side, &table, grown.device, |total| DataBlocks(watched.mark(total)))
        });
        self.not_suspended(grown)
    }

    /// Lets LVM extend the pool by itself, unless dmeventd does.
    fn extend_volume(
        &self,
        volume: &PoolVolume,
        side: Side,
        size: Bytes,
        reserved: &Reservation,
    ) -> std::result::Result<SizeChange, Blocked> {
        match lvm::look(&*self.machine.programs, volume, self.deadlines.lvm) {
            Ok(Some(facts)) if facts.monitored => Err(Blocked::Monitored),
            Ok(_) => self
                .resize_volume(volume, side, size, reserved)
                .map_err(|error| Blocked::Volume(error.to_string())),
            Err(error) => Err(Blocked::Volume(error.to_string())),
        }
    }

    fn resize_volume(
        &self,
        volume: &PoolVolume,
        side: Side,
        size: Bytes,
        reserved: &Reservation,
    ) -> Result<SizeChange> {
        let (programs, pool, deadline) = (self.machine.programs.clone(), volume.clone(), self.deadlines.lvm);
        let (data, metadata) = match side {
            Side::Data => (Some(size), None),
            Side::Metadata => (None, Some(size)),
        };
        let from = self.side_size(side)?;
        let what = || format!("growing the {side} of pool {}", self.pool.name());
        // Four programs at most, each with a deadline of its own.
        within(&*self.machine.clock, what, deadline * 5, reserved, move || {
            Ok(lvm::grow(&*programs, &pool, data, metadata, deadline)?)
        })?;
        Ok(SizeChange { from, to: self.side_size(side)? })
    }

    /// A pool that a failed reload left suspended hangs all who use it: resuming it is tried again.
    fn not_suspended<T>(&self, done: Result<T>) -> Result<T> {
        let suspended = |error: &Error| matches!(error, Error::Thin(thin) if thin.kind() == thinlayer_thin::Kind::Suspended);
        if done.as_ref().is_err_and(suspended) {
            for _ in 0..RESUMES {
                match self.pool.resume() {
                    Ok(()) => break,
                    Err(error) => tracing::warn!(%error, "the pool is suspended; resuming it is tried again"),
                }
                self.machine.clock.sleep(RESUME_PAUSE);
            }
        }
        done
    }

    /// Grows the pool by hand, or takes in what the devices below it have become.
    ///
    /// # Errors
    /// [`crate::Kind::Invalid`] for a size below what is there, or for a side that stands on a device of the operator's;
    /// [`crate::Kind::NoSpace`] if the host has no room; [`crate::Kind::Unsupported`] for a pool that somebody else made.
    pub fn grow_pool(&self, request: &GrowRequest) -> Result<PoolGrown> {
        self.ensure_sound()?;
        let reserved = self.reserve_pool(self.deadlines.layer)?;
        let mut notices = Vec::new();
        let mut changes = Vec::new();
        for side in [Side::Metadata, Side::Data] {
            let asked = match side {
                Side::Data => request.data,
                Side::Metadata => request.metadata,
            };
            let alone = request.data.is_none() && request.metadata.is_none();
            changes.push(self.grow_one(side, asked, alone, &reserved, &mut notices)?);
        }
        self.ensure_metadata_reserve(&mut notices);
        Ok(PoolGrown { metadata: changes[0], data: changes[1], notices })
    }

    /// Makes the pool as large as what is below its data has become: at a start, when it is known to be the right device.
    pub(crate) fn take_in_larger_data(&self, notices: &mut Vec<Notice>) -> Result<()> {
        let reserved = self.reserve_pool(self.deadlines.layer)?;
        self.grow_one(Side::Data, None, true, &reserved, notices).map(drop)
    }

    fn grow_one(
        &self,
        side: Side,
        asked: Option<PoolSize>,
        take_all_in: bool,
        reserved: &Reservation,
        notices: &mut Vec<Notice>,
    ) -> Result<SizeChange> {
        let site = self.site();
        let has = self.side_size(side)?;
        let same = SizeChange { from: has, to: has };
        let wanted = match asked {
            None => None,
            Some(PoolSize::To(size)) => Some(size),
            Some(PoolSize::By(more)) => Some(
                has.checked_add(more)
                    .ok_or_else(|| Error::Invalid { what: format!("{more} more {side} are too many") })?,
            ),
        };
        if let Some(wanted) = wanted.filter(|wanted| wanted.0 < has.0) {
            return Err(Error::Invalid {
                what: format!(
                    "pool {} has {} of {side} and cannot shrink to {}; write +SIZE for so much more",
                    self.pool.name(),
                    human_size(has),
                    human_size(wanted)
                ),
            });
        }
        match (site.ground(side), wanted) {
            (Ground::Volume(volume), Some(wanted)) => self.resize_volume(&volume, side, wanted, reserved),
            (Ground::Volume(_), None) => Ok(same),
            (Ground::Others, _) => Err(Error::Unsupported {
                what: format!(
                    "growing pool {}, which thinlayer did not make (dm.thinpooldev),",
                    self.pool.name()
                ),
                advice: site.more(side, Some(Blocked::Others)),
            }),
            (Ground::Given(path), Some(_)) => Err(Error::Invalid {
                what: format!(
                    "the {side} of pool {} is the device {} ({}), whose size is its own: enlarge it, and then run `{}`",
                    self.pool.name(),
                    path.display(),
                    side.given_option(),
                    site.command("pool grow")
                ),
            }),
            (Ground::File, None) if !take_all_in => Ok(same),
            (Ground::Given(_), None) if !take_all_in => Ok(same),
            (Ground::File, None) => {
                let file = self.machine.backing.file(&side.path(site.root()))?;
                let size = file.map_or(has, |file| file.size);
                self.resize_side(side, size.max(has), reserved)
            }
            (Ground::File, Some(wanted)) => {
                let free = site.host_free(side)?;
                let file = self.machine.backing.file(&side.path(site.root()))?;
                let held = held_by_host(file.map_or(Bytes(0), |file| file.allocated), free.0);
                if side == Side::Data && wanted > held {
                    notices.push(Notice::warning(format!(
                        "the data file may become {}, and its host file system can hold {}: writers get errors when that is full",
                        human_size(wanted),
                        human_size(held)
                    )));
                }
                self.resize_side(side, wanted, reserved)
            }
            (Ground::Given(path), None) => {
                let size = self.machine.backing.inspect(&path)?.size;
                let pool = self.pool.clone();
                let watched = site.watched();
                let what = || format!("growing the {side} of pool {}", self.pool.name());
                let grown = within(&*self.machine.clock, what, self.deadlines.growth, reserved, move || {
                    let table = pool.table()?;
                    take_in(&pool, side, &table, size, |total| DataBlocks(watched.mark(total)))
                });
                self.not_suspended(grown)
            }
        }
    }

    /// The size of a side as the pool has it.
    fn side_size(&self, side: Side) -> Result<Bytes> {
        let state = self.pool.status(Flush::No)?;
        let Some(status) = state.running() else {
            return Err(self.site().judge(&state, None).into_error(self.pool.name()));
        };
        let (_, total) = crate::site::figures(side, status);
        Ok(Bytes(total.saturating_mul(self.site().unit(side))))
    }

    /// Gives a pool that is out of metadata more of it, so that a removal can go on: what the host has, else the reserve. `false`: it is not
    /// out of metadata, or there is nothing to give.
    ///
    /// The reserve is for removals alone. If writers got it, they would use it up, and nothing would be left to remove them with.
    pub(crate) fn relieve_metadata(&self) -> Result<bool> {
        if self.pool.status(Flush::No)?.health() != Health::Trouble(Trouble::OutOfMetadata) {
            return Ok(false);
        }
        if let Ground::Volume(volume) = self.site().ground(Side::Metadata) {
            return self.relieve_volume(&volume);
        }
        let grown = self.extend(self.deadlines.layer).unwrap_or_else(|error| {
            tracing::warn!(%error, "the pool is out of metadata and cannot grow; its reserve is taken");
            None
        });
        let grown = grown.unwrap_or_default();
        if grown.iter().any(|(side, done)| *side == Side::Metadata && matches!(done, Extended::Grown(_))) {
            return Ok(true);
        }
        if self.site().ground(Side::Metadata) != Ground::File {
            return Ok(false);
        }
        let reserved = self.reserve_pool(self.deadlines.layer)?;
        let (backing, root, pool) =
            (self.machine.backing.clone(), self.machine.root.path.clone(), self.pool.clone());
        let what = || format!("giving the reserve to pool {}", self.pool.name());
        let spent = self.not_suspended(within(
            &*self.machine.clock,
            what,
            self.deadlines.growth,
            &reserved,
            move || {
                let number = crate::pool::number(&pool.table()?.metadata)?;
                let spent = loop_pool::spend_reserve(&*backing, &root, number)?;
                // A file that an interrupted growth left larger helps as well.
                let grown = pool.grow_metadata()?;
                Ok(spent.is_some() || grown.changed())
            },
        ))?;
        if spent {
            tracing::warn!(pool = %self.pool.name(), "it was out of metadata space and got the reserve, so that layers can be removed; make room on the host file system");
        }
        Ok(spent)
    }

    /// LVM is asked also where dmeventd watches the pool, or where nothing is to grow by itself: that has not been enough.
    fn relieve_volume(&self, volume: &PoolVolume) -> Result<bool> {
        let reserved = self.reserve_pool(self.deadlines.layer)?;
        let (programs, pool, deadline) = (self.machine.programs.clone(), volume.clone(), self.deadlines.lvm);
        let what = || format!("giving more metadata to pool {}", self.pool.name());
        let grown = within(&*self.machine.clock, what, deadline * 7, &reserved, move || {
            Ok(lvm::relieve(&*programs, &pool, deadline)?)
        });
        match grown {
            Ok(grown) => {
                tracing::warn!(pool = %self.pool.name(), metadata = %human_size(grown.now.metadata), "it was out of metadata space and LVM gave it more, so that layers can be removed; give its volume group more room");
                Ok(grown.changed())
            }
            Err(error) => {
                let why = Blocked::Volume(error.to_string());
                // Said once: the removal is tried again and again.
                if self.volume_blocked.write().replace(why.clone()) != Some(why) {
                    tracing::warn!(%error, "the pool is out of metadata space, and LVM has no more for it");
                }
                Ok(false)
            }
        }
    }

    /// Makes the reserve where the metadata is a file. A host without room is no failure: what is there now works without it.
    pub(crate) fn ensure_metadata_reserve(&self, notices: &mut Vec<Notice>) {
        if let Err(error) = self.make_reserve() {
            notices.push(Notice::warning(format!(
                "there is no room for the metadata reserve, without which layers cannot be removed when metadata is full: {error}"
            )));
        }
    }

    /// `false`: it was there, or this pool has none.
    pub(crate) fn make_reserve(&self) -> Result<bool> {
        if self.site().ground(Side::Metadata) != Ground::File {
            return Ok(false);
        }
        let root = &self.machine.root.path;
        let backing = &*self.machine.backing;
        let Some(metadata) = backing.file(&Side::Metadata.path(root))? else { return Ok(false) };
        let wanted = reserve_size(metadata.size);
        let path = loop_pool::reserve_path(root);
        if backing.file(&path)?.is_some_and(|file| file.size >= wanted && file.allocated >= wanted) {
            return Ok(false);
        }
        if let Some(folder) = path.parent() {
            self.machine.filesystems.make_dir(folder, 0o700, self.machine.root.owner)?;
        }
        loop_pool::ensure_reserve(backing, root, wanted, "its size follows dm.loopmetadatasize")?;
        Ok(true)
    }

    /// Gives the pool its table with or without "error if no space".
    pub(crate) fn set_errors_when_full(&self, errors: bool) -> Result<()> {
        let reserved = self.reserve_pool(self.deadlines.layer)?;
        let pool = self.pool.clone();
        let what = || format!("reload of pool {}", self.pool.name());
        let done = within(&*self.machine.clock, what, self.deadlines.growth, &reserved, move || {
            let mut table = pool.table()?;
            table.features.error_if_no_space = errors;
            // Also where the table says so already: after its timeout the kernel answers with errors by itself, until the next reload.
            Ok(pool.reload(&table, thinlayer_thin::GROWING)?)
        });
        self.not_suspended(done)
    }
}

/// Makes a pool as large as a side of it has become.
pub(crate) fn take_in(
    pool: &Pool,
    side: Side,
    old: &PoolTable,
    size: Bytes,
    mark: impl FnOnce(u64) -> DataBlocks,
) -> Result<SizeChange> {
    let block = old.block_size;
    Ok(match side {
        Side::Data => {
            let len = size.to_sectors();
            let low_water = mark(block.blocks_in(len).0);
            let before = old.len;
            let grown = pool.grow_data_with(len, |table| {
                table.low_water = low_water;
                // With room again writers may wait for more.
                table.features.error_if_no_space &= table.len <= before;
            })?;
            let bytes = |blocks: DataBlocks| Bytes(blocks.0.saturating_mul(block.bytes().0));
            SizeChange { from: bytes(grown.from), to: bytes(grown.to) }
        }
        Side::Metadata => {
            let bytes = |blocks: MetaBlocks| Bytes(blocks.0.saturating_mul(MetaBlocks::BLOCK_BYTES));
            if let PoolState::Running(status) = pool.status(Flush::No)? {
                let has = bytes(status.total_metadata);
                if has.0 >= size.0.min(MAX_METADATA.0) / MetaBlocks::BLOCK_BYTES * MetaBlocks::BLOCK_BYTES {
                    return Ok(SizeChange { from: has, to: has });
                }
            }
            let grown = pool.grow_metadata()?;
            SizeChange { from: bytes(grown.from), to: bytes(grown.to) }
        }
    })
}
