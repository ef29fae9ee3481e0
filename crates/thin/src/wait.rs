//! Waiting between two tries, on a clock that the caller may replace: [`Wait`] and [`Patience`].

use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A clock to wait by. A simulation has its own; everybody else takes [`SystemWait`].
pub trait Wait: fmt::Debug {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;

    /// Waits.
    fn sleep(&self, how_long: Duration);
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemWait;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Wait for SystemWait {
    fn now(&self) -> Duration {
        START.elapsed()
    }

    fn sleep(&self, how_long: Duration) {
        std::thread::sleep(how_long);
    }
}

/// For how long a busy device is tried again.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    limit: Duration,
    clock: &'a dyn Wait,
}

/// The pauses grow from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_millis(200);

impl<'a> Patience<'a> {
    /// Try again for at most `limit`, waiting by `clock`.
    pub fn new(limit: Duration, clock: &'a dyn Wait) -> Self {
        Self { limit, clock }
    }

    /// Try once.
    pub fn none() -> Patience<'static> {
        Patience { limit: Duration::ZERO, clock: &SystemWait }
    }

    /// Tries until the answer is not "busy", or the limit is reached. With the answer comes how long that took.
    pub(crate) fn retry<T>(
        self,
        mut attempt: impl FnMut() -> thinlayer_dm::Result<T>,
    ) -> (thinlayer_dm::Result<T>, Duration) {
        let start = self.clock.now();
        let mut pause = FIRST_PAUSE;
        loop {
            let result = attempt();
            let waited = self.clock.now().saturating_sub(start);
            let busy = result.as_ref().is_err_and(|error| error.kind() == thinlayer_dm::Kind::Busy);
            let left = self.limit.saturating_sub(waited);
            if !busy || left.is_zero() {
                return (result, waited);
            }
            self.clock.sleep(pause.min(left));
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}
