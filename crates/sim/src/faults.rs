//! Calls that fail because a test says so.

use nix::errno::Errno;

/// A failure to come: calls whose description begins with some words are answered with an errno, and change nothing.
///
/// Descriptions are those of [`crate::World::effects`] (`dm remove docker-8:1-2-pool`, `disk write metadata/abc`, `pool message ...`);
/// calls that only look have one too (`dm status NAME`, `fs mounts`).
#[derive(Clone, Debug)]
pub struct Fault {
    call: String,
    skip: u32,
    left: Option<u32>,
    errno: Errno,
}

impl Fault {
    /// The next call whose description begins with `call` fails with `errno`; once.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self { call: call.into(), skip: 0, left: Some(1), errno }
    }

    /// The first `calls` such calls are served as ever.
    #[must_use]
    pub fn skip(mut self, calls: u32) -> Self {
        self.skip = calls;
        self
    }

    /// This many calls fail.
    #[must_use]
    pub fn times(mut self, calls: u32) -> Self {
        self.left = Some(calls);
        self
    }

    /// Every such call fails, until [`crate::World::clear_faults`].
    #[must_use]
    pub fn always(mut self) -> Self {
        self.left = None;
        self
    }

    /// A device is busy for its next `times` removals, as when udev looks at it.
    pub fn busy_removal(name: &str, times: u32) -> Self {
        Self::new(format!("dm remove {name}"), Errno::EBUSY).times(times)
    }
}

/// All failures to come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    all: Vec<Fault>,
    /// How many calls have failed since the last clear.
    pub(crate) struck: u32,
}

impl Faults {
    pub(crate) fn inject(&mut self, fault: Fault) {
        self.all.push(fault);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What this call is answered with, if a fault is meant for it.
    pub(crate) fn strike(&mut self, call: &str) -> Option<Errno> {
        let fault = self.all.iter_mut().find(|f| f.left != Some(0) && call.starts_with(&f.call))?;
        if fault.skip > 0 {
            fault.skip -= 1;
            return None;
        }
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
        self.struck += 1;
        Some(fault.errno)
    }
}
