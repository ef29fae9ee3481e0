//! System calls that nobody can end, with a deadline all the same: they run on a thread, and what they hold goes with them.

use crate::error::{Error, Result};
use crate::machine::Clock;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How long each kind of wait may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For another operation on the same layer.
    pub layer: Duration,
    /// For the store's transaction, which others hold shortly.
    pub transaction: Duration,
    /// For a mount.
    pub mount: Duration,
    /// For an unmount, which writes out what is dirty.
    pub unmount: Duration,
    /// For a suspend.
    pub suspend: Duration,
    /// For a device that something has open to be closed (udev's probes take milliseconds).
    pub removal: Duration,
    /// For making or growing a file system.
    pub filesystem: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            layer: Duration::from_secs(60),
            transaction: Duration::from_secs(60),
            mount: Duration::from_secs(60),
            unmount: Duration::from_secs(120),
            suspend: Duration::from_secs(60),
            removal: Duration::from_secs(20),
            filesystem: Duration::from_secs(1800),
        }
    }
}

/// Runs `job` within `deadline`. `what` names call and device for the error.
///
/// `held` goes to the job's thread and is dropped when the job ends, whether or not anybody still waits: a reservation that lies in it lasts
/// as long as the call. In time, it comes back with the result.
pub(crate) fn within<T, H>(
    clock: &dyn Clock,
    what: impl FnOnce() -> String,
    deadline: Duration,
    held: H,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<(T, H)>
where
    T: Send + 'static,
    H: Send + 'static,
{
    enum Outcome<T, H> {
        Pending,
        Done(Result<T>, H),
        Abandoned,
    }
    let slot = Arc::new(Mutex::new(Outcome::<T, H>::Pending));
    let theirs = slot.clone();
    let finished = clock.run_within(
        deadline,
        Box::new(move || {
            let result = job();
            let mut slot = theirs.lock();
            if let Outcome::Abandoned = *slot {
                if let Err(error) = &result {
                    tracing::warn!(%error, "a call that had passed its deadline ended with an error");
                }
                drop(slot);
                drop(held);
            } else {
                *slot = Outcome::Done(result, held);
            }
        }),
    );
    let mut slot = slot.lock();
    match std::mem::replace(&mut *slot, Outcome::Abandoned) {
        Outcome::Done(Ok(value), held) => Ok((value, held)),
        Outcome::Done(Err(error), _) => Err(error),
        // `finished` without an outcome: the job's thread died in a panic.
        Outcome::Pending | Outcome::Abandoned if finished => {
            Err(Error::Invalid { what: format!("{} ended in a panic; this is a bug", what()) })
        }
        Outcome::Pending | Outcome::Abandoned => Err(Error::Deadline { what: what(), waited: deadline }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::SystemClock;
    use std::sync::mpsc;

    #[test]
    fn what_is_held_comes_back_in_time() {
        let clock = SystemClock::default();
        let (value, held) =
            within(&clock, || "call".into(), Duration::from_secs(30), "held", || Ok(7)).unwrap();
        assert_eq!((value, held), (7, "held"));
    }

    #[test]
    fn what_is_held_stays_with_a_call_that_hangs() {
        struct Tell(mpsc::Sender<()>);
        impl Drop for Tell {
            fn drop(&mut self) {
                self.0.send(()).unwrap();
            }
        }
        let clock = SystemClock::default();
        let (end, ended) = mpsc::channel::<()>();
        let (dropped, was_dropped) = mpsc::channel();
        let error = within(
            &clock,
            || "umount dm-3".into(),
            Duration::from_millis(20),
            Tell(dropped),
            move || {
                ended.recv().unwrap();
                Ok(())
            },
        )
        .map(|_| ())
        .unwrap_err();
        assert!(error.kind() == crate::Kind::Busy && error.to_string().contains("umount dm-3"), "{error}");
        assert!(was_dropped.try_recv().is_err(), "still held while the call hangs");
        end.send(()).unwrap();
        was_dropped.recv_timeout(Duration::from_secs(30)).unwrap();
    }
}
