//! How a long step shows that it is alive.

use std::time::Duration;

/// What happens in a long step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// It began.
    Started {
        /// What it does, for people: `making ext4 on the base device`.
        what: &'a str,
    },
    /// It goes on; nobody knows how far it is.
    Alive {
        /// What it does.
        what: &'a str,
        /// Time spent so far.
        elapsed: Duration,
    },
    /// It goes on.
    Amount {
        /// What it does.
        what: &'a str,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It ended, well or not.
    Finished {
        /// What it did.
        what: &'a str,
    },
}

/// Who is told about long steps.
pub trait Progress: std::fmt::Debug + Send + Sync {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// A step that has begun, and is reported as finished when this is dropped.
#[derive(Debug)]
pub(crate) struct Step<'a> {
    progress: &'a dyn Progress,
    what: &'a str,
}

impl<'a> Step<'a> {
    pub(crate) fn begin(progress: &'a dyn Progress, what: &'a str) -> Self {
        progress.event(Event::Started { what });
        Self { progress, what }
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.progress.event(Event::Finished { what: self.what });
    }
}
