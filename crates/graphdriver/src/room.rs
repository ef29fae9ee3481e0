//! Is there room for a new layer? Asked before it is made, so that the layers that are there do not run out of it.

use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::grow::Extended;
use crate::growth::part;
use crate::site::figures;
use std::time::Duration;
use thinlayer_dm::Flush;
use thinlayer_provision::loop_pool::Side;
use thinlayer_thin::{PoolState, PoolStatus};

impl Driver {
    /// Refuses a new layer while the pool is not well, or it or the host below it has less free than `dm.min_free_space` (section 4.1 of the
    /// specification). A pool that is due to grow is grown first. One status; more only where the pool is due.
    pub(crate) fn check_room(&self) -> Result<PoolStatus> {
        let mut state = self.pool.status(Flush::No)?;
        if self.is_due(&state) && self.extend_for_create() {
            state = self.pool.status(Flush::No)?;
        }
        let site = self.site();
        let status = match state {
            PoolState::Running(status) if status.health() == thinlayer_thin::Health::Good => status,
            state => {
                return Err(site.judge(&state, self.pool.table().ok().as_ref()).into_error(self.pool.name()));
            }
        };
        let percent = self.options.min_free_percent;
        if percent > 0 {
            for side in [Side::Data, Side::Metadata] {
                let (used, total) = figures(side, &status);
                let free = total.saturating_sub(used);
                let needed = part(total, percent).max(1);
                if free < needed {
                    return Err(Error::NoSpace {
                        what: format!(
                            "pool {} has {free} free {side} blocks, and {needed} are kept free ({percent}% by dm.min_free_space); {}; or lower dm.min_free_space",
                            self.pool.name(),
                            site.more(side, site.blocked(side, &status))
                        ),
                    });
                }
            }
            if let Some(shortage) = site.host_shortage(&status) {
                return Err(Error::NoSpace { what: format!("pool {}: {shortage}", self.pool.name()) });
            }
        }
        Ok(status)
    }

    fn is_due(&self, state: &PoolState) -> bool {
        let site = self.site();
        let Some(status) = state.running() else { return false };
        site.extend().is_on() && [Side::Metadata, Side::Data].iter().any(|side| site.is_due(*side, status))
    }

    /// `true`: it has grown. That it could not is told by what is then missing.
    fn extend_for_create(&self) -> bool {
        // Where somebody else is at it, this one does not wait.
        match self.extend(Duration::ZERO) {
            Ok(sides) => sides.unwrap_or_default().iter().any(|(_, done)| matches!(done, Extended::Grown(_))),
            Err(error) => {
                tracing::warn!(%error, "the pool could not be grown");
                false
            }
        }
    }
}
