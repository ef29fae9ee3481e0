//! SIGINT and SIGTERM.
//!
//! The first one lets the step under way finish, in `serve` what all clients have asked for; a second one ends the process at once, from which the
//! next command recovers.

use crate::failure::FailureKind;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The signals that came so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    any: Arc<AtomicBool>,
    interrupted: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl Signals {
    /// Catches the first one; the second, of whichever kind, has its usual effect.
    pub(crate) fn catch() -> std::io::Result<Self> {
        let signals = Self::default();
        for (signal, flag) in [(SIGINT, &signals.interrupted), (SIGTERM, &signals.terminated)] {
            // In this order: the first signal finds the flag down and puts it up, the second finds it up.
            signal_hook::flag::register_conditional_default(signal, signals.any.clone())?;
            signal_hook::flag::register(signal, flag.clone())?;
            signal_hook::flag::register(signal, signals.any.clone())?;
        }
        Ok(signals)
    }

    /// How the command is to end, if a signal came.
    pub(crate) fn ended(&self) -> Option<FailureKind> {
        if self.terminated.load(Ordering::SeqCst) {
            Some(FailureKind::Terminated)
        } else {
            self.interrupted.load(Ordering::SeqCst).then_some(FailureKind::Interrupted)
        }
    }
}

/// Becomes readable when SIGINT or SIGTERM comes.
pub(crate) fn wake_on_signal() -> std::io::Result<(UnixStream, UnixStream)> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    for signal in [SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
    }
    Ok((read, write))
}
