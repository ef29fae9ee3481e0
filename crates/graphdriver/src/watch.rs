//! The owner's watcher: sees that the pool grows before it is full, and says once what is wrong with it.

use crate::condition::{Condition, Finding};
use crate::driver::Driver;
use crate::error::Result;
use crate::grow::Extended;
use crate::site::Ground;
use crate::worker::Stop;
use std::time::Duration;
use thinlayer_dm::Flush;
use thinlayer_provision::loop_pool::Side;
use thinlayer_thin::{NoSpace, PoolState, PoolStatus, Watcher};

/// How often the pool is looked at, and whether the watcher is to stop. What the kernel tells wakes it earlier: but room that comes or goes on the
/// host file system is nothing that the kernel tells.
const TICK: Duration = Duration::from_secs(1);
/// After a growth that failed, the next try comes so much later, and then after twice that, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a reserve is made that the host had no room for.
const RESERVE_EVERY: Duration = Duration::from_secs(30);
/// The host must have so many times the reserve, so that the reserve does not take the last room.
const ROOM_FOR_RESERVE: u64 = 4;
/// Writers wait again for room once one block in so many is free.
const RECOVERED_PART: u64 = 100;

/// What the watcher knows from one look to the next.
#[derive(Debug)]
struct Watch {
    /// What was last said.
    said: Condition,
    /// No growth is tried before this moment of the driver's clock.
    not_before: Duration,
    pause: Duration,
    reserve_at: Duration,
    /// The text of the last failure, so that it is said once.
    failure: Option<String>,
}

impl Driver {
    /// Watches the pool until it is stopped: for a thread of the process that owns the root for long.
    ///
    /// Pools on files grow at the threshold, while the host has room. If data is full and cannot grow, writers get an error at once in place of
    /// waiting for the kernel's timeout, until there is room again. Each change for the worse, and each for the better, is one line in the log.
    pub fn run_watcher(&self, stop: &Stop) {
        let mut watch = Watch::new();
        let mut watcher = None;
        while !stop.is_stopped() {
            if watcher.is_none() {
                watcher = Watcher::new(&self.pool)
                    .inspect_err(|error| watch.fail(&format!("cannot watch the pool: {error}")))
                    .ok();
            }
            match watcher.as_mut().map(|watcher| watcher.wait(TICK)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    watch.fail(&format!("watching the pool: {error}"));
                    watcher = None;
                    self.machine.clock.sleep(TICK);
                }
                None => self.machine.clock.sleep(TICK),
            }
            if stop.is_stopped() {
                break;
            }
            if let Err(error) = self.attend(&mut watch) {
                watch.fail(&error.to_string());
            }
        }
    }

    /// One look at the pool, and what is to be done about it. For a test of the watcher, and for a driver without a thread for it.
    ///
    /// # Errors
    /// What could not be done.
    pub fn look_after_pool(&self) -> Result<()> {
        let mut watch = Watch::new();
        self.attend(&mut watch)
    }

    fn attend(&self, watch: &mut Watch) -> Result<()> {
        let state = self.pool.status(Flush::No)?;
        let site = self.site();
        let now = self.machine.clock.now();
        if let PoolState::Running(status) = &state
            && !site.judge(&state, None).condition.is_ailing()
        {
            let due = [Side::Metadata, Side::Data].iter().any(|side| site.is_due(*side, status));
            if due && site.extend().is_on() && now >= watch.not_before {
                self.try_extend(watch, now)?;
            } else if !due {
                watch.pause = FIRST_PAUSE;
                watch.not_before = Duration::ZERO;
            }
        }
        let table = self.pool.table()?;
        let state = self.pool.status(Flush::No)?;
        let found = site.judge(&state, Some(&table));
        self.tell(watch, found);
        if let PoolState::Running(status) = &state {
            if self.owns_pool && !watch.said.is_ailing() {
                let errors = table.features.error_if_no_space || status.no_space == Some(NoSpace::Error);
                self.choose_no_space(status, errors)?;
            }
            if now >= watch.reserve_at {
                watch.reserve_at = now + RESERVE_EVERY;
                self.refill_reserve(status);
            }
        }
        watch.failure = None;
        Ok(())
    }

    fn try_extend(&self, watch: &mut Watch, now: Duration) -> Result<()> {
        let done = self.extend(Duration::ZERO);
        // LVM's programs are not run every second.
        let asked_lvm = matches!(self.site().ground(Side::Data), Ground::Volume(_));
        let nowhere = |sides: &Option<Vec<(Side, Extended)>>| {
            sides.iter().flatten().any(|(_, done)| matches!(done, Extended::Not(_)))
        };
        if done.as_ref().map_or(true, |sides| asked_lvm && nowhere(sides)) {
            watch.not_before = now + watch.pause;
            watch.pause = (watch.pause * 2).min(LONGEST_PAUSE);
        }
        done.map(drop)
    }

    /// Says a condition once.
    fn tell(&self, watch: &mut Watch, found: Finding) {
        if found.condition == watch.said {
            return;
        }
        let pool = self.pool.name();
        match found.condition {
            Condition::Good => tracing::warn!(%pool, "it is well again (it was {})", watch.said.as_str()),
            _ => tracing::warn!(%pool, "{}", found.text),
        }
        watch.said = found.condition;
        if found.condition.is_ailing() {
            self.fall_ill(&found);
        }
    }

    /// While data is full and cannot grow, writers are to get errors; with room again they are to wait for more.
    fn choose_no_space(&self, status: &PoolStatus, errors: bool) -> Result<()> {
        let (free, total) = (status.free_data().0, status.total_data.0);
        if !errors && free == 0 && self.site().blocked(Side::Data, status).is_some() {
            self.set_errors_when_full(true)?;
            tracing::warn!(pool = %self.pool.name(), "it is full and cannot grow: writers get errors until there is room");
        } else if errors && free >= (total / RECOVERED_PART).max(1) {
            self.set_errors_when_full(false)?;
            tracing::info!(pool = %self.pool.name(), "there is room again: writers of a full pool wait for it to grow");
        }
        Ok(())
    }

    /// Makes the reserve that was spent or that the host had no room for, once it has plenty.
    fn refill_reserve(&self, status: &PoolStatus) {
        let site = self.site();
        if site.ground(Side::Metadata) != Ground::File || site.is_due(Side::Metadata, status) {
            return;
        }
        let metadata = thinlayer_dm::Bytes(status.total_metadata.0.saturating_mul(site.unit(Side::Metadata)));
        let wanted = crate::growth::reserve_size(metadata).0.saturating_mul(ROOM_FOR_RESERVE);
        if !site.host_free(Side::Metadata).is_ok_and(|free| free.0 >= wanted) {
            return;
        }
        match self.make_reserve() {
            Ok(true) => tracing::info!(pool = %self.pool.name(), "the metadata reserve is there again"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "there is no room for the metadata reserve yet"),
        }
    }
}

impl Watch {
    fn new() -> Self {
        Self {
            said: Condition::Good,
            not_before: Duration::ZERO,
            pause: FIRST_PAUSE,
            reserve_at: Duration::ZERO,
            failure: None,
        }
    }

    /// Says a failure once.
    fn fail(&mut self, text: &str) {
        if self.failure.as_deref() != Some(text) {
            tracing::warn!("{text}");
            self.failure = Some(text.to_owned());
        }
    }
}
