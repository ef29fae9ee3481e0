//! [`Clock`] on the world: time that passes only when somebody waits.

use crate::state::{State, View};
use std::time::{Duration, SystemTime};
use thinlayer_graphdriver::Clock;

/// 2026-01-01, when every world begins.
const BEGINNING: Duration = Duration::from_secs(1_767_225_600);
/// How often the kernel commits what a pool did by itself.
const COMMIT_PERIOD: Duration = Duration::from_secs(1);
/// How often file systems write out what is dirty.
const WRITE_BACK_PERIOD: Duration = Duration::from_secs(30);

impl State {
    /// Lets time pass, and the kernel do what is due.
    pub(crate) fn pass(&mut self, how_long: Duration) {
        let before = self.now;
        self.now += how_long;
        let periods = |period: Duration, at: Duration| at.as_nanos() / period.as_nanos();
        if periods(WRITE_BACK_PERIOD, before) != periods(WRITE_BACK_PERIOD, self.now) {
            let devices: Vec<_> = self.supers.keys().copied().collect();
            for device in devices {
                if !self.is_suspended(device) {
                    // An error stays with the file system until somebody asks for a sync.
                    self.write_back(device).unwrap_or_default();
                }
            }
        }
        if periods(COMMIT_PERIOD, before) != periods(COMMIT_PERIOD, self.now) {
            self.pools_over_time();
        }
    }
}

/// The world's clock.
#[derive(Clone, Debug)]
pub(crate) struct SimClock(pub(crate) View);

impl Clock for SimClock {
    fn now(&self) -> Duration {
        self.0.shared.lock().now
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + BEGINNING + self.0.shared.lock().now
    }

    fn sleep(&self, how_long: Duration) {
        let mut state = self.0.shared.lock();
        if state.process == self.0.process && !state.is_dead() {
            state.pass(how_long);
        } else {
            // A dead process changes nothing, but its loops must come to their deadlines.
            state.now += how_long;
        }
    }

    fn run_within(&self, deadline: Duration, job: Box<dyn FnOnce() + Send>) -> bool {
        {
            let mut state = self.0.shared.lock();
            if state.hang_next > 0 && state.hang_skip > 0 {
                state.hang_skip -= 1;
            } else if state.hang_next > 0 {
                state.hang_next -= 1;
                state.pass(deadline);
                drop(state);
                self.0.shared.hung.lock().push(job);
                return false;
            }
        }
        job();
        true
    }
}
